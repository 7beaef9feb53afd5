//! What a peer may do to the stream itself: overlaps, disorder, crumbs, windows of no bytes.

use std::time::Duration;

use iiblockdaemon::mem::Piece;
use iiblockdaemon::net::Moved;
use iiblockdaemon::net::stack::Event;

use super::heap;
use super::peer::{Offer, Peer, SEGMENT};
use super::wire::{ACK, PSH, Segment, URG};
use super::world::{BUFFER_BYTES, Limits, World};

/// Bytes that a flow takes before its owner has taken any.
const ROOM: usize = (1 << 20) - 1;

/// Numbers without a pattern, the same each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }
}

/// Bytes that say where they are.
fn pattern(len: usize) -> Vec<u8> {
    (0_u32..).flat_map(u32::to_be_bytes).take(len).collect()
}

fn shuffle(segments: &mut [Segment], numbers: &mut Numbers, reach: usize) {
    for at in 1..segments.len() {
        let back = numbers.below(reach.min(at) + 1);
        segments.swap(at, at - back);
    }
}

/// RFC 9293 §3.10.7.4 lets a receiver choose which copy of a byte it keeps. The first is kept: who
/// comes later can change nothing that was received.
#[test]
fn of_overlapping_segments_the_first_copy_counts() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let base = peer.seq;
    let at = |world: &mut World, peer: &Peer, offset: u32, byte: u8, len: usize| {
        let mut segment = peer.segment(world, ACK | PSH);
        segment.seq = base.wrapping_add(offset);
        segment.payload = vec![byte; len];
        world.inject(&segment.frame());
    };
    at(&mut world, &peer, 100, b'A', 100);
    at(&mut world, &peer, 150, b'B', 100);
    at(&mut world, &peer, 50, b'C', 300);
    at(&mut world, &peer, 120, b'D', 10);
    at(&mut world, &peer, 0, b'E', 120);
    peer.seq = base.wrapping_add(350);
    let expected = [
        vec![b'E'; 50],
        vec![b'C'; 50],
        vec![b'A'; 100],
        vec![b'B'; 50],
        vec![b'C'; 100],
    ];
    assert_eq!(world.bytes(peer.flow()), expected.concat());
    // And again what was taken already.
    at(&mut world, &peer, 0, b'F', 350);
    assert_eq!(world.bytes(peer.flow()), b"");
    peer.lives(&mut world);
}

/// RFC 9293 §3.10.7.4: segments are taken in whatever order they come.
#[test]
fn a_stream_in_disorder_comes_out_in_order() {
    for (seed, reach) in [(1, 2), (2, 5), (3, 10), (4, 30)] {
        let mut world = World::new(&Limits::default());
        let mut peer = Peer::connected(&mut world, 1000);
        let (flow, mut numbers) = (peer.flow(), Numbers(seed));
        let bytes = pattern(400_000);
        let first = peer.seq;
        let mut segments = peer.data(&world, &bytes, SEGMENT);
        let again = segments.clone();
        shuffle(&mut segments, &mut numbers, reach);
        let mut got = Vec::new();
        for burst in segments.chunks(20) {
            for segment in burst {
                world.put(&segment.frame());
            }
            world.turn();
            got.extend(world.bytes(flow));
        }
        // What had no place among the gaps (there are 32) is sent once more, in order.
        for segment in again {
            let sent = usize::try_from(segment.end().wrapping_sub(first)).unwrap();
            if sent > got.len() {
                world.inject(&segment.frame());
                got.extend(world.bytes(flow));
            }
        }
        assert!(
            got == bytes,
            "seed {seed}, reach {reach}: {} bytes",
            got.len()
        );
        peer.look(&mut world);
        peer.lives(&mut world);
    }
}

/// RFC 9293 §3.10.7.4 with data both ways: an acknowledgment that another has overtaken does not
/// cost the data that it comes with.
#[test]
fn disorder_in_both_directions_loses_nothing() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let flow = peer.flow();
    let (there, back) = (pattern(40_000), pattern(300_000));
    let mut written = 0;
    let mut got = Vec::new();
    for piece in there.chunks(1000) {
        written += world.write(flow, &back[written..back.len().min(written + 7500)]);
        let mut early = peer.data(&world, &piece[..500], SEGMENT);
        peer.look(&mut world);
        let late = peer.data(&world, &piece[500..], SEGMENT);
        // The second half, which acknowledges more, overtakes the first.
        world.inject(&late[0].frame());
        world.inject(&early.pop().unwrap().frame());
        got.extend(world.bytes(flow));
    }
    assert_eq!(got, there, "every byte was taken at its first coming");
    while written < back.len() {
        written += world.write(flow, &back[written..]);
        peer.follow(&mut world);
    }
    peer.follow(&mut world);
    assert!(peer.received == back);
}

/// RFC 9293 §3.4: sequence numbers wrap.
#[test]
fn numbers_wrap_in_both_directions() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::new(1000);
    peer.seq = u32::MAX - 5000;
    peer.connect(&mut world);
    let flow = peer.flow();
    let bytes = pattern(100_000);
    peer.send(&mut world, &bytes);
    assert!(world.bytes(flow) == bytes);
    peer.lives(&mut world);
}

/// Segments of one byte each, nobody reading: what a flow holds of the port's memory is bounded,
/// and every byte comes.
#[test]
fn crumbs_hold_no_more_memory_than_their_bytes_are_worth() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let flow = peer.flow();
    let bytes = pattern(60_000);
    let before = heap::held();
    let mut held = 0;
    for piece in bytes.chunks(500) {
        for segment in peer.data(&world, piece, 1) {
            world.put(&segment.frame());
        }
        world.turn();
        peer.look(&mut world);
        held = held.max(world.held());
    }
    assert!(
        held * BUFFER_BYTES <= 4 << 20,
        "{held} buffers of {BUFFER_BYTES} bytes are held for 60,000 bytes"
    );
    let grown = heap::held() - before;
    assert!(
        grown < 4 << 20,
        "{grown} bytes of the heap for 60,000 bytes"
    );
    let mut got = world.bytes(flow);
    // What was refused comes again, as a peer would send it.
    let missing = bytes.len() - got.len();
    peer.seq = peer.seq.wrapping_sub(u32::try_from(missing).unwrap());
    for piece in bytes[got.len()..].to_vec().chunks(200) {
        peer.send(&mut world, piece);
        got.extend(world.bytes(flow));
    }
    assert!(got == bytes, "{missing} bytes had been refused");
    peer.look(&mut world);
    assert_eq!(world.held(), 0, "every buffer came back");
    peer.lives(&mut world);
}

/// The same behind a gap that is never filled: one byte in every second place.
#[test]
fn crumbs_behind_a_gap_hold_a_bounded_amount() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let base = peer.seq;
    for number in 0..20_000_u32 {
        let mut segment = peer.segment(&world, ACK | PSH);
        segment.seq = base.wrapping_add(10 + number * 2);
        segment.payload = vec![1];
        world.inject(&segment.frame());
        world.sent.clear();
    }
    assert!(
        world.held() * BUFFER_BYTES <= 4 << 20,
        "{} buffers are held",
        world.held()
    );
    assert_eq!(world.bytes(peer.flow()), b"");
    peer.lives(&mut world);
}

/// RFC 9293 §3.8.6: nobody reads, and the window closes; no byte beyond it is taken, and it opens
/// when there is room again (§3.8.6.2.2).
#[test]
fn a_flow_that_nobody_reads_closes_its_window() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let flow = peer.flow();
    let bytes = pattern(3 * ROOM);
    for segment in peer.data(&world, &bytes, SEGMENT) {
        world.put(&segment.frame());
        if world.stack.port().incoming.len() == 64 {
            world.turn();
        }
    }
    world.turn();
    let last = peer.look(&mut world).pop().expect("it acknowledges");
    let taken = usize::try_from(last.ack.wrapping_sub(peer.seq)).unwrap_or(0);
    assert!(
        world.held() * BUFFER_BYTES <= 16 << 20,
        "{} buffers are held",
        world.held()
    );
    // A probe (§3.8.6.1) is answered with the window as it is.
    let mut probe = peer.segment(&world, ACK);
    probe.seq = last.ack.wrapping_sub(1);
    probe.payload = vec![0];
    world.inject(&probe.frame());
    let answer = peer.look(&mut world).pop().expect("a probe is answered");
    assert_eq!(
        (answer.ack, answer.window),
        (last.ack, last.window),
        "{taken}"
    );
    let (got, end) = world.read(flow);
    assert!(
        end.is_ok() && got.len() <= ROOM && bytes.starts_with(&got),
        "{}",
        got.len()
    );
    world.turn();
    let update = peer
        .look(&mut world)
        .pop()
        .expect("there is room, and the peer is told");
    assert!(
        u32::from(update.window) << peer.their_shift > 500_000,
        "{update:?}"
    );
    peer.seq = update.ack;
    peer.lives(&mut world);
}

/// RFC 9293 §3.8.6.1 and RFC 1122 §4.2.2.17: a window of no bytes is probed, ever less often, as
/// long as the peer answers; then the data go on.
#[test]
fn a_window_of_no_bytes_for_minutes_is_probed_and_survived() {
    let limits = Limits {
        user_timeout: Duration::from_secs(60),
        keepalive: Duration::from_secs(30),
        ..Limits::default()
    };
    let mut world = World::new(&limits);
    let mut peer = Peer::connected(&mut world, 1000);
    let flow = peer.flow();
    let bytes = pattern(20_000);
    peer.window = 0;
    peer.acknowledge(&mut world);
    assert_eq!(world.write(flow, &bytes), bytes.len());
    let mut probes = 0;
    for _ in 0..600 {
        world.wait(Duration::from_millis(500));
        let seen = world.sent_to(peer.own);
        probes += seen.len();
        let beyond = seen
            .iter()
            .map(|segment| segment.payload.len())
            .max()
            .unwrap_or(0);
        assert!(beyond <= 1, "a probe has a byte at most: {beyond}");
        if let Some((value, _)) = seen.last().and_then(Segment::timestamps) {
            peer.echo = value;
            peer.acknowledge(&mut world);
        }
    }
    assert!(
        (5..600).contains(&probes),
        "{probes} probes in five minutes"
    );
    peer.window = 0xFFFF;
    peer.acknowledge(&mut world);
    peer.follow(&mut world);
    world.wait(Duration::from_secs(2));
    peer.follow(&mut world);
    assert!(peer.received == bytes, "{} bytes came", peer.received.len());
    peer.lives(&mut world);
}

/// RFC 9293 §3.8.6 (SHLD-14 to 16): a window may shrink; what was sent before is sent again, and
/// nothing beyond.
#[test]
fn a_window_that_shrinks_is_survived() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let flow = peer.flow();
    let bytes = pattern(60_000);
    assert_eq!(world.write(flow, &bytes), bytes.len());
    world.sent.clear(); // all of it is lost, and the window is gone
    peer.window = 1;
    let mut smaller = peer.segment(&world, ACK);
    smaller.window = 1;
    world.inject(&smaller.frame());
    let (base, mut furthest) = (peer.ack, 0);
    for _ in 0..20 {
        world.wait(Duration::from_millis(500));
        for segment in peer.look(&mut world) {
            let bytes = u32::try_from(segment.payload.len()).unwrap();
            furthest = furthest.max(segment.seq.wrapping_add(bytes).wrapping_sub(base));
        }
        peer.acknowledge(&mut world);
    }
    assert!(furthest <= 60_000);
    peer.window = 0xFFFF;
    for _ in 0..60 {
        peer.acknowledge(&mut world);
        world.wait(Duration::from_secs(1));
        peer.follow(&mut world);
    }
    assert!(peer.received == bytes, "{} bytes came", peer.received.len());
    peer.lives(&mut world);
}

/// RFC 6093 §6: urgent data are data like others.
#[test]
fn urgent_data_stay_in_the_stream() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    for urgent in [1, 3, 6, 0xFFFF] {
        let mut segment = peer.segment(&world, ACK | PSH | URG);
        segment.urgent = urgent;
        segment.payload = b"urgent".to_vec();
        peer.seq = segment.end();
        world.inject(&segment.frame());
        assert_eq!(world.bytes(peer.flow()), b"urgent", "pointer {urgent}");
    }
    peer.look(&mut world);
    peer.lives(&mut world);
}

/// More than the window in one burst, before the stack has said anything but its SYN-ACK: its
/// window was not scaled then (RFC 7323 §2.2). Nothing panics and no byte is made up.
#[test]
fn a_burst_beyond_the_first_window_is_cut() {
    for skip in [0, 1] {
        let mut world = World::new(&Limits::default());
        let mut peer = Peer::new(1000);
        peer.ask(&mut world).expect("a SYN-ACK");
        let bytes = pattern(1_200_000);
        let mut segments = peer.data(&world, &bytes, 8900);
        segments.drain(..skip);
        for segment in &segments {
            world.put(&segment.frame());
        }
        // All of it before the stack may say anything.
        while world.stack.receive(world.now) {}
        world.turn();
        let flow = world
            .opened()
            .expect("the connection is opened by its data");
        let (got, end) = world.read(flow);
        assert_eq!(end, Ok(false));
        if skip == 0 {
            assert!(
                got.len() > 50_000 && bytes.starts_with(&got),
                "{} bytes",
                got.len()
            );
        } else {
            assert!(got.is_empty(), "the first segment is missing");
            let base = peer.seq.wrapping_sub(1_200_000);
            peer.seq = base;
            let first = peer.data(&world, &bytes[..8900], 8900);
            world.inject(&first[0].frame());
            let (got, _) = world.read(flow);
            assert!(
                bytes.starts_with(&got) && got.len() >= 8900,
                "{} bytes",
                got.len()
            );
        }
        assert_eq!(world.stack.counters().panics, 0);
    }
}

/// RFC 9293 §3.6: either side closes on its own; what was sent before its FIN comes.
#[test]
fn each_side_of_a_connection_closes_on_its_own() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let flow = peer.flow();
    peer.send(&mut world, b"the last words");
    peer.finish(&mut world);
    assert_eq!(world.read(flow), (b"the last words".to_vec(), Ok(true)));
    // The other direction is still open.
    let bytes = pattern(50_000);
    assert_eq!(world.write(flow, &bytes), bytes.len());
    peer.follow(&mut world);
    assert!(peer.received == bytes && !peer.finished);
    world.stack.finish(flow);
    world.turn();
    peer.follow(&mut world);
    assert!(peer.finished, "its FIN comes");
    world.wait(Duration::from_secs(200));
    assert!(world.stack.ends(flow).is_none(), "nothing is left of it");
    assert_eq!(world.held(), 0);
}

/// RFC 9293 §3.8.1 and RFC 6298: what is lost is sent again, both a piece in the middle and the
/// last one; what was acknowledged is not.
#[test]
fn what_is_lost_is_sent_again() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let flow = peer.flow();
    let bytes = pattern(200_000);
    let mut numbers = Numbers(9);
    let mut written = 0;
    for _ in 0..5000 {
        if written < bytes.len() {
            written += world.write(flow, &bytes[written..]);
        }
        // One segment of twenty does not reach the peer.
        world.sent.retain(|_| numbers.below(20) != 0);
        if peer.look(&mut world).is_empty() {
            world.wait(Duration::from_millis(100));
        } else {
            peer.acknowledge(&mut world);
        }
        if peer.received.len() == bytes.len() {
            break;
        }
    }
    assert!(
        peer.received == bytes,
        "{} of {} bytes",
        peer.received.len(),
        bytes.len()
    );
    assert!(world.stack.counters().retransmits > 0);
}

/// RFC 9293 §3.7.1: segments keep to the MSS that the peer has said, and to 536 bytes if it has
/// said none; with none at all of the options of RFC 7323 and RFC 2018 the connection stands too.
#[test]
fn a_peer_without_options_is_served() {
    let mut world = World::new(&Limits::default());
    for (mss, window_shift) in [(1460, None), (216, Some(0)), (8960, Some(14))] {
        let mut peer = Peer::new(1000 + mss);
        peer.offer = Offer {
            mss,
            window_shift,
            timestamps: false,
            sack: false,
        };
        peer.connect(&mut world);
        let flow = peer.flow();
        let bytes = pattern(30_000);
        assert_eq!(world.write(flow, &bytes), bytes.len());
        for _ in 0..1000 {
            let seen = peer.look(&mut world);
            let longest = seen.iter().map(|segment| segment.payload.len()).max();
            let Some(longest) = longest else { break };
            assert!(longest <= usize::from(mss), "{longest} bytes, MSS {mss}");
            assert!(
                seen.iter().all(|segment| segment.options.is_empty()),
                "{seen:?}"
            );
            peer.acknowledge(&mut world);
        }
        assert!(
            peer.received == bytes,
            "{} bytes with MSS {mss}",
            peer.received.len()
        );
        peer.lives(&mut world);
    }
}

/// A peer that never takes what is sent to it holds no more than its ring: a sender is told to
/// wait, and told when it may go on.
#[test]
fn a_peer_that_acknowledges_nothing_holds_a_bounded_amount() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let flow = peer.flow();
    let before = heap::held();
    let piece = pattern(65_536);
    let mut taken = 0;
    for _ in 0..100 {
        match world.stack.send(flow, &[Piece::Bytes(&piece)]) {
            Ok(Moved::Bytes(bytes)) => taken += bytes,
            Ok(Moved::WouldBlock | Moved::Closed) => break,
            Err(lost) => panic!("{lost}"),
        }
        world.turn();
        world.sent.clear();
    }
    assert!(
        (100_000..=ROOM).contains(&taken),
        "{taken} bytes were taken"
    );
    assert!(heap::held() - before < 4 << 20);
    world.events.clear();
    for _ in 0..1000 {
        peer.acknowledge(&mut world);
        if peer.look(&mut world).is_empty() {
            world.wait(Duration::from_millis(300));
        }
        let told = |event: &Event| matches!(event, Event::Writable(told) if *told == flow);
        if world.events.iter().any(told) {
            assert!(
                peer.received.len() < taken,
                "it was told before all had gone"
            );
            return;
        }
    }
    panic!("there is room again, and nobody is told");
}
