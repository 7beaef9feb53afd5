//! Segments of somebody who knows the ends of a connection and guesses at its numbers.

use iiblockdaemon::net::stack::{Dropped, Event, Lost};

use super::peer::Peer;
use super::wire::{ACK, FIN, PSH, RST, SYN};
use super::world::{Limits, World};

/// Room that a flow says it has, at most: no window goes beyond.
const ROOM: u32 = 1 << 20;

/// RFC 5961 §3.2, first rule: a reset outside of the window does nothing.
#[test]
fn a_reset_outside_the_window_is_dropped() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    for distance in [ROOM + 1, 0x4000_0000, 0x8000_0000, 0xC000_0000, u32::MAX] {
        let mut forged = peer.segment(&world, RST);
        forged.seq = peer.seq.wrapping_add(distance);
        world.inject(&forged.frame());
        assert!(peer.look(&mut world).is_empty(), "nothing is said to it");
    }
    assert_eq!(world.dropped(Dropped::Guarded), 5);
    peer.lives(&mut world);
}

/// RFC 5961 §3.2, third rule: a reset in the window with another number than the next is answered
/// with a challenge, and not believed; RFC 9293 §3.10.7.4 has the same.
#[test]
fn a_reset_that_guesses_the_window_is_challenged() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    for distance in [1, 2, 1000, 60_000] {
        let mut forged = peer.segment(&world, RST);
        forged.seq = peer.seq.wrapping_add(distance);
        world.inject(&forged.frame());
        let answers = peer.look(&mut world);
        assert_eq!(peer.challenges(&answers), 1, "{answers:?}");
        assert_eq!(answers.len(), 1);
    }
    peer.lives(&mut world);
}

/// RFC 5961 §3.2, second rule: a reset with the very number that is next is believed.
#[test]
fn a_reset_with_the_next_number_ends_the_connection() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let reset = peer.segment(&world, RST);
    world.inject(&reset.frame());
    let flow = peer.flow();
    assert!(
        world
            .events
            .iter()
            .any(|event| matches!(event, Event::Lost(lost) if *lost == flow)),
        "{:?}",
        world.events
    );
    assert_eq!(world.read(flow), (Vec::new(), Err(Lost::Reset)));
    assert!(peer.look(&mut world).is_empty(), "a reset is not answered");
}

/// RFC 5961 §5.3 and §7: challenges have a bound, or they would be a weapon, and tell of others.
#[test]
fn challenges_are_bounded() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let mut challenges = 0;
    for _ in 0..1000 {
        let mut forged = peer.segment(&world, RST);
        forged.seq = peer.seq.wrapping_add(77);
        world.inject(&forged.frame());
        let answers = peer.look(&mut world);
        challenges += peer.challenges(&answers);
    }
    assert!(
        (1..=100).contains(&challenges),
        "{challenges} answers to 1000 resets in no time"
    );
    peer.lives(&mut world);
}

/// RFC 5961 §4.2: a SYN on a standing connection, whatever its number, is challenged.
#[test]
fn a_syn_on_a_standing_connection_is_challenged() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    for distance in [0, 1, 500, u32::MAX, 0x8000_0000] {
        let mut forged = peer.segment(&world, SYN);
        forged.seq = peer.seq.wrapping_add(distance);
        world.inject(&forged.frame());
        let answers = peer.look(&mut world);
        assert_eq!(peer.challenges(&answers), 1, "at {distance}: {answers:?}");
    }
    assert!(world.opened().is_none());
    peer.lives(&mut world);
}

/// RFC 9293 §3.5.1: a peer that has crashed and connects again is challenged, resets what it does
/// not know, and can then connect.
#[test]
fn a_peer_that_has_crashed_connects_again() {
    let mut world = World::new(&Limits::default());
    let mut crashed = Peer::connected(&mut world, 1000);
    crashed.lives(&mut world);
    let mut peer = Peer::new(1000);
    peer.seq = crashed.seq.wrapping_add(0x1000_0000);
    peer.clock = crashed.clock;
    let syn = peer.syn(&world);
    peer.seq = syn.end();
    world.inject(&syn.frame());
    let answers = crashed.look(&mut world);
    assert_eq!(crashed.challenges(&answers), 1, "{answers:?}");
    // "I know nothing of that": the number is what the acknowledgment said.
    let mut reset = crashed.segment(&world, RST);
    reset.seq = answers[0].ack;
    reset.options.clear();
    world.inject(&reset.frame());
    assert_eq!(world.read(crashed.flow()).1, Err(Lost::Reset));
    world.stack.abort(crashed.flow());
    peer.seq = peer.seq.wrapping_sub(1); // the same SYN again, as its timer has it
    peer.connect(&mut world);
    peer.lives(&mut world);
}

/// RFC 9293 §3.10.7.4: data outside of the window do not enter the stream, and are answered with
/// where it stands.
#[test]
fn data_outside_the_window_do_not_enter_the_stream() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let flow = peer.flow();
    for distance in [
        ROOM + 1,
        0x4000_0000,
        0x8000_0000,
        0xC000_0000,
        u32::MAX - 1000,
    ] {
        let mut forged = peer.segment(&world, ACK | PSH);
        forged.seq = peer.seq.wrapping_add(distance);
        forged.payload = b"forged".repeat(10);
        world.inject(&forged.frame());
        let answers = peer.look(&mut world);
        assert!(peer.challenges(&answers) <= 1, "{answers:?}");
        assert_eq!(world.bytes(flow), b"", "nothing of it is given out");
    }
    peer.lives(&mut world);
}

/// RFC 5961 §5.2: data in the window whose acknowledgment is not believable are not taken.
#[test]
fn data_with_an_unbelievable_acknowledgment_do_not_enter_the_stream() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let flow = peer.flow();
    for distance in [1, 1000, 0x7FFF_FFFF, 0x8000_0001, 0xF000_0000] {
        let mut forged = peer.segment(&world, ACK | PSH);
        forged.ack = peer.ack.wrapping_add(distance);
        forged.payload = b"forged".to_vec();
        world.inject(&forged.frame());
        let answers = peer.look(&mut world);
        assert!(peer.challenges(&answers) <= 1, "{answers:?}");
        assert_eq!(world.bytes(flow), b"", "at {distance}");
    }
    peer.lives(&mut world);
}

/// RFC 9293 §3.10.7.4: an acknowledgment of what was not sent yet is answered and dropped; it frees
/// nothing that is still to be sent.
#[test]
fn an_acknowledgment_of_unsent_data_frees_nothing() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::new(1000);
    // A window of 2,000 bytes: the rest of what is written waits.
    peer.window = 2000 >> 7;
    peer.connect(&mut world);
    let flow = peer.flow();
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
    let written = world.write(flow, &bytes[..50_000]);
    assert_eq!(written, 50_000);
    peer.look(&mut world);
    let seen = peer.received.len();
    assert!(
        (1..=2000).contains(&seen),
        "{seen} bytes in a window of 2000"
    );
    let mut forged = peer.segment(&world, ACK);
    forged.ack = peer.ack.wrapping_add(20_000);
    world.inject(&forged.frame());
    let answers = world.sent_to(peer.own);
    assert!(
        answers.iter().all(|segment| segment.payload.is_empty()),
        "it opens no window: {answers:?}"
    );
    peer.window = 0xFFFF;
    peer.acknowledge(&mut world);
    peer.follow(&mut world);
    assert_eq!(peer.received, bytes[..50_000], "every byte comes, in order");
}

/// RFC 7323 §5.3: a segment whose timestamp is older than the last in order is of a time before the
/// numbers wrapped.
#[test]
fn a_segment_of_before_the_numbers_wrapped_is_dropped() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    peer.lives(&mut world);
    world.wait(std::time::Duration::from_secs(5));
    peer.lives(&mut world);
    let mut old = peer.segment(&world, ACK | PSH);
    old.options = super::peer::timestamps_option(peer.time(&world).wrapping_sub(3000), peer.echo);
    old.payload = b"of long ago".to_vec();
    world.inject(&old.frame());
    assert_eq!(world.bytes(peer.flow()), b"", "it is not in this stream");
    let answers = peer.look(&mut world);
    assert_eq!(
        peer.challenges(&answers),
        1,
        "R1: an acknowledgment is sent: {answers:?}"
    );
    peer.lives(&mut world);
}

/// RFC 7323 §3.2: once timestamps were agreed on, a segment without is dropped.
#[test]
fn a_segment_without_the_timestamps_that_were_agreed_on_is_dropped() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let mut forged = peer.segment(&world, ACK | PSH);
    forged.options.clear();
    forged.payload = b"forged".to_vec();
    world.inject(&forged.frame());
    assert_eq!(world.bytes(peer.flow()), b"");
    peer.lives(&mut world);
}

/// RFC 7323 §5.5: a timestamp that is weeks old shuts nobody out. (Its peer was silent so long.)
#[test]
fn a_timestamp_of_long_ago_says_nothing() {
    let limits = Limits {
        user_timeout: std::time::Duration::from_secs(100 * 86_400),
        keepalive: std::time::Duration::from_secs(90 * 86_400),
        ..Limits::default()
    };
    let mut world = World::new(&limits);
    let mut peer = Peer::connected(&mut world, 1000);
    peer.lives(&mut world);
    world.now += std::time::Duration::from_secs(25 * 86_400);
    // Its clock has turned by more than half, so it looks old.
    peer.clock = peer.clock.wrapping_sub(0x8000_0000);
    peer.send(&mut world, b"again");
    assert_eq!(world.bytes(peer.flow()), b"again");
}

/// RFC 9293 §3.10.7.4: the stream ends where the FIN says, not short of it: one that comes with
/// data beyond the window is taken when all before it was.
#[test]
fn a_fin_behind_what_does_not_fit_ends_nothing() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let flow = peer.flow();
    let room = usize::try_from(ROOM).unwrap() - 1;
    let bytes = vec![0x5A; room + 700];
    let mut segments = peer.data(&world, &bytes, super::peer::SEGMENT);
    let last = segments.last_mut().unwrap();
    last.flags |= FIN;
    for segment in &segments {
        world.put(&segment.frame());
        if world.stack.port().incoming.len() == 64 {
            world.turn();
        }
    }
    world.turn();
    let (got, end) = world.read(flow);
    assert!(
        got.len() <= room,
        "no more than there is room for: {}",
        got.len()
    );
    assert_eq!(end, Ok(false), "the FIN was behind bytes that did not fit");
    // The rest again, now that there is room.
    world.turn();
    let missing = bytes.len() - got.len();
    let at = peer.seq.wrapping_sub(u32::try_from(missing).unwrap());
    let mut rest = peer.segment(&world, ACK | PSH | FIN);
    let mut left = &bytes[got.len()..];
    rest.seq = at;
    while !left.is_empty() {
        let (piece, behind) = left.split_at(left.len().min(super::peer::SEGMENT));
        rest.payload = piece.to_vec();
        rest.flags = if behind.is_empty() { ACK | FIN } else { ACK };
        world.inject(&rest.frame());
        rest.seq = rest.end();
        left = behind;
    }
    let (more, end) = world.read(flow);
    assert_eq!(
        (more.len(), end),
        (missing, Ok(true)),
        "all of it, then the end"
    );
}

/// RFC 6528 §3: the first number of a connection tells nothing about that of another, and for the
/// same ends it goes up with time (RFC 9293 §3.4.1), so that an old segment fits none that is new.
#[test]
fn first_numbers_tell_nothing_of_each_other() {
    let limits = Limits {
        half_open_max: 300,
        flows_max: 300,
        ..Limits::default()
    };
    let mut world = World::new(&limits);
    let mut numbers = Vec::new();
    for port in 1000..1200 {
        let answer = Peer::new(port).ask(&mut world).expect("a SYN-ACK");
        numbers.push(answer.seq);
    }
    let steps: Vec<u32> = numbers
        .windows(2)
        .map(|pair| pair[1].wrapping_sub(pair[0]))
        .collect();
    let near = steps
        .iter()
        .filter(|step| !(1 << 20..=u32::MAX - (1 << 20)).contains(*step));
    assert!(
        near.count() <= 3,
        "neighbours are no nearer than chance has it: {steps:?}"
    );
    let high: std::collections::HashSet<u32> = numbers.iter().map(|number| number >> 20).collect();
    assert!(high.len() > 150, "{} of 200 are far apart", high.len());
    // The same ends again, a second later.
    let first = numbers[0];
    let mut again = Peer::new(1000);
    let mut reset = again.segment(&world, RST);
    reset.seq = again.seq.wrapping_add(1);
    world.inject(&reset.frame());
    world.wait(std::time::Duration::from_secs(1));
    world.sent.clear();
    let answer = again.ask(&mut world).expect("a SYN-ACK");
    let up = answer.seq.wrapping_sub(first);
    assert!(
        (200_000..600_000).contains(&up),
        "{up} in a second and a bit: 4 us each"
    );
}
