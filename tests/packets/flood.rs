//! Very many frames of very many strangers, beside a connection that has to go on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use iiblockdaemon::net::stack::Dropped;

use super::heap;
use super::peer::Peer;
use super::wire::{ACK, FIN, PSH, RST, SYN, Segment, URG};
use super::world::{Limits, OURS, PORTAL, World};

const FLOOD: u32 = 100_000;
/// Frames of a flood that are worked on in one go.
const BATCH: u32 = 500;

/// Address `number` of those that flood.
fn stranger(number: u32) -> SocketAddr {
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + number);
    SocketAddr::new(IpAddr::V4(ip), 4000)
}

fn syn_of(number: u32) -> Segment {
    let mut syn = Segment::new(stranger(number), SocketAddr::new(OURS.into(), PORTAL));
    syn.flags = SYN;
    syn.seq = number.wrapping_mul(2_654_435_761);
    syn.options = vec![2, 4, 5, 180];
    syn
}

/// RFC 4987: SYNs of 100,000 addresses, none of which goes on. A standing connection carries data
/// all the while, memory stays where it was, and a peer that means it still gets in.
#[test]
fn a_flood_of_syns_stops_nobody() {
    let limits = Limits {
        flows_max: 64,
        half_open_max: 16,
        ..Limits::default()
    };
    let mut world = World::new(&limits);
    let mut standing = Peer::connected(&mut world, 1000);
    standing.lives(&mut world);
    let mut held = 0;
    let mut answers = 0;
    for batch in 0..FLOOD / BATCH {
        for number in batch * BATCH..(batch + 1) * BATCH {
            world.put(&syn_of(number).frame());
        }
        world.turn();
        answers += world
            .sent
            .iter()
            .filter(|(_, segment)| segment.has(SYN | ACK))
            .count();
        world.sent.retain(|(_, segment)| segment.to == standing.own);
        world.others.clear();
        world.events.clear();
        world.now += Duration::from_millis(10);
        if batch % 10 == 0 {
            standing.lives(&mut world);
            standing.received.clear();
        }
        // (What the test itself has kept is none of the stack's.)
        world.sent.shrink_to_fit();
        world.events.shrink_to_fit();
        // The first batches may fill what is bounded.
        match batch {
            0..20 => held = heap::held(),
            _ => assert!(
                heap::held() < held + (16 << 10),
                "memory grew by {} bytes after {batch} batches",
                heap::held() - held
            ),
        }
    }
    let counters = *world.stack.counters();
    assert_eq!(counters.syns, u64::from(FLOOD) + 1);
    assert!(
        counters.cookies_sent >= u64::from(FLOOD) - 2000,
        "{counters:?}"
    );
    assert!(answers >= 90_000, "{answers} SYNs were answered");
    assert_eq!(counters.opened, 1);
    // One that means it, in the middle of it all.
    let mut honest = Peer::new(2000);
    honest.connect(&mut world);
    honest.lives(&mut world);
    assert_eq!(world.stack.counters().cookies_accepted, 1);
    standing.lives(&mut world);
    // And all is forgotten in the end.
    world.wait(Duration::from_secs(300));
    assert!(heap::held() < held + (16 << 10));
}

/// RFC 4987 §3.6: an acknowledgment whose cookie was not given out opens nothing, and is answered
/// as a stranger's (RFC 9293 §3.10.7.1).
#[test]
fn made_up_cookies_open_nothing() {
    let limits = Limits {
        half_open_max: 4,
        ..Limits::default()
    };
    let mut world = World::new(&limits);
    for number in 0..100 {
        world.inject(&syn_of(number).frame());
    }
    world.sent.clear();
    for number in 0..2000_u32 {
        let mut ack = syn_of(number);
        ack.flags = ACK;
        ack.seq = ack.seq.wrapping_add(1);
        ack.ack = number.wrapping_mul(40_503).wrapping_add(12_345);
        ack.options.clear();
        world.inject(&ack.frame());
        world.now += Duration::from_millis(2);
    }
    assert!(world.opened().is_none());
    assert_eq!(world.stack.counters().cookies_accepted, 0);
    assert!(
        world
            .sent
            .iter()
            .all(|(_, segment)| segment.has(RST) || segment.has(SYN | ACK))
    );
}

/// A connection that came by a cookie has what the SYN asked for, as far as a cookie can keep it
/// (RFC 4987 §3.6, RFC 7323), and carries data both ways.
#[test]
fn a_connection_by_cookie_carries_a_stream() {
    let limits = Limits {
        half_open_max: 2,
        ..Limits::default()
    };
    let mut world = World::new(&limits);
    for number in 0..50 {
        world.inject(&syn_of(number).frame());
    }
    world.sent.clear();
    let mut peer = Peer::connected(&mut world, 3000);
    assert_eq!(world.stack.counters().cookies_accepted, 1);
    let flow = peer.flow();
    let bytes: Vec<u8> = (0..50_000_u32).flat_map(u32::to_be_bytes).collect();
    for piece in bytes.chunks(20_000) {
        peer.send(&mut world, piece);
        assert_eq!(world.bytes(flow), piece);
    }
    peer.look(&mut world);
    let mut written = 0;
    while written < bytes.len() {
        written += world.write(flow, &bytes[written..]);
        peer.follow(&mut world);
    }
    assert!(peer.received == bytes, "{} bytes came", peer.received.len());
}

/// RFC 9293 §3.10.7.1: who asks at any other port is told so, as often as the bound allows; scans
/// with strange flags learn nothing more and open nothing.
#[test]
fn a_scan_of_all_ports_opens_nothing() {
    let mut world = World::new(&Limits::default());
    let mut standing = Peer::connected(&mut world, 1000);
    let before = heap::held();
    let mut resets = 0;
    for flags in [SYN, ACK, FIN, FIN | PSH | URG, SYN | ACK] {
        for port in 1..=u16::MAX {
            let to = SocketAddr::new(OURS.into(), port);
            if port == PORTAL && flags == SYN {
                continue;
            }
            let mut probe = Segment::new(stranger(u32::from(port)), to);
            probe.flags = flags;
            probe.seq = 1;
            probe.ack = 77;
            world.put(&probe.frame());
            if port % 1000 == 0 {
                world.turn();
                world.now += Duration::from_millis(5);
                resets += world
                    .sent
                    .iter()
                    .filter(|(_, segment)| segment.has(RST))
                    .count();
                let odd = world
                    .sent
                    .iter()
                    .find(|(_, segment)| segment.to != standing.own && !segment.has(RST));
                assert!(odd.is_none(), "{odd:?}");
                world.sent.clear();
                world.others.clear();
            }
        }
        world.turn();
        world.sent.clear();
        world.events.clear();
        standing.lives(&mut world);
    }
    assert!(
        (1000..20_000).contains(&resets),
        "{resets} resets in 1.6 s: they have a bound"
    );
    assert!(
        world.dropped(Dropped::NoFlow) > 5 * 65_000,
        "{:?}",
        world.stack.counters()
    );
    assert!(
        heap::held() - before < 1 << 20,
        "{} bytes",
        heap::held() - before
    );
    assert_eq!(world.stack.counters().opened, 1);
}

/// RFC 9293 §3.10.7.1: the number of a reset is one that the stranger can believe.
#[test]
fn a_stranger_is_reset_with_a_number_it_believes() {
    let mut world = World::new(&Limits::default());
    let to = SocketAddr::new(OURS.into(), 80);
    let mut syn = Segment::new(stranger(1), to);
    (syn.flags, syn.seq, syn.payload) = (SYN, 5000, b"data".to_vec());
    world.inject(&syn.frame());
    let (_, reset) = world.sent.pop_back().expect("it is answered");
    assert!(
        reset.has(RST | ACK) && (reset.seq, reset.ack) == (0, 5005),
        "{reset:?}"
    );
    let mut ack = Segment::new(stranger(1), to);
    (ack.flags, ack.seq, ack.ack) = (ACK, 5000, 9999);
    world.inject(&ack.frame());
    let (_, reset) = world.sent.pop_back().expect("it is answered");
    assert!(reset.flags == RST && reset.seq == 9999, "{reset:?}");
    let mut rst = Segment::new(stranger(1), to);
    (rst.flags, rst.seq) = (RST, 5000);
    world.inject(&rst.frame());
    assert!(world.sent.is_empty(), "a reset is never answered");
}

/// As many connections as there is room for; the next is turned away, and has room when one goes.
#[test]
fn more_connections_than_there_is_room_for() {
    let limits = Limits {
        flows_max: 8,
        half_open_max: 8,
        ..Limits::default()
    };
    let mut world = World::new(&limits);
    let mut peers: Vec<Peer> = (0..8)
        .map(|number| Peer::connected(&mut world, 1000 + number))
        .collect();
    let mut late = Peer::new(2000);
    let first = late.seq;
    late.ask(&mut world);
    late.acknowledge(&mut world);
    assert!(world.opened().is_none(), "there is no room");
    for peer in &mut peers {
        peer.lives(&mut world);
    }
    world.stack.abort(peers[0].flow());
    world.turn();
    let said = world.sent_to(peers[0].own);
    assert!(said.iter().any(|segment| segment.has(RST)), "{said:?}");
    late.seq = first.wrapping_add(1_000_000);
    world.wait(Duration::from_secs(1));
    world.sent.clear();
    late.connect(&mut world);
    late.lives(&mut world);
}
