//! How long things last: half-open connections, silent peers, what was sent and not acknowledged,
//! the end of a connection.

use std::time::Duration;

use iiblockdaemon::net::stack::{Event, Lost};

use super::peer::Peer;
use super::wire::{ACK, RST, SYN};
use super::world::{Limits, World};

/// RFC 9293 §3.8.3 and RFC 4987 §3.2: a handshake that is not completed ends by itself; its SYN-ACK
/// is sent again a bounded number of times before.
#[test]
fn a_handshake_that_nobody_completes_expires() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::new(1000);
    peer.ask(&mut world).expect("a SYN-ACK");
    world.wait(Duration::from_secs(300));
    let again = world.sent_to(peer.own);
    assert!(
        (1..=10).contains(&again.len()),
        "sent again {} times",
        again.len()
    );
    assert!(
        again
            .iter()
            .all(|segment| segment.has(SYN | ACK) || segment.has(RST)),
        "{again:?}"
    );
    assert_eq!(world.stack.counters().half_open_expired, 1);
    assert!(world.opened().is_none());
    // Too late now: there is no such connection (§3.10.7.1).
    peer.acknowledge(&mut world);
    let answers = world.sent_to(peer.own);
    assert!(
        answers.iter().all(|segment| segment.has(RST)),
        "{answers:?}"
    );
    assert!(world.opened().is_none());
}

/// RFC 9293 §3.8.4: a connection that is silent is asked; a peer that answers keeps it, however
/// long.
#[test]
fn a_silent_peer_that_answers_is_kept() {
    let limits = Limits {
        keepalive: Duration::from_secs(10),
        user_timeout: Duration::from_secs(30),
        ..Limits::default()
    };
    let mut world = World::new(&limits);
    let mut peer = Peer::connected(&mut world, 1000);
    let mut asked = 0;
    for _ in 0..300 {
        world.wait(Duration::from_secs(1));
        let probes = peer.look(&mut world);
        asked += probes.len();
        for probe in &probes {
            assert!(probe.has(ACK) && probe.payload.len() <= 1, "{probe:?}");
            let before = probe.seq.wrapping_sub(peer.ack);
            assert_eq!(before, u32::MAX, "a probe has the number before the next");
            peer.acknowledge(&mut world);
        }
    }
    assert!((20..=60).contains(&asked), "asked {asked} times in 300 s");
    peer.lives(&mut world);
}

/// RFC 9293 §3.8.3 and §3.8.4: one that does not answer is given up in time.
#[test]
fn a_silent_peer_that_does_not_answer_is_given_up() {
    let limits = Limits {
        keepalive: Duration::from_secs(10),
        user_timeout: Duration::from_secs(30),
        ..Limits::default()
    };
    let mut world = World::new(&limits);
    let peer = Peer::connected(&mut world, 1000);
    let flow = peer.flow();
    let lost = |world: &World| {
        let is_lost = |event: &Event| matches!(event, Event::Lost(lost) if *lost == flow);
        world.events.iter().any(is_lost)
    };
    world.wait(Duration::from_secs(9));
    assert!(!lost(&world), "it may be silent for so long");
    world.wait(Duration::from_secs(120));
    assert!(lost(&world), "{:?}", world.events);
    assert_eq!(world.read(flow).1, Err(Lost::TimedOut));
    assert_eq!(world.stack.counters().timed_out, 1);
    world.stack.abort(flow);
    world.turn();
    assert!(world.stack.ends(flow).is_none());
}

/// RFC 9293 §3.8.3: what was sent and stays unacknowledged ends the connection after the user
/// timeout, with bounded repetitions before.
#[test]
fn data_that_nobody_acknowledges_end_the_connection() {
    let limits = Limits {
        user_timeout: Duration::from_secs(20),
        keepalive: Duration::from_secs(10),
        ..Limits::default()
    };
    let mut world = World::new(&limits);
    let peer = Peer::connected(&mut world, 1000);
    let flow = peer.flow();
    assert_eq!(world.write(flow, b"is anyone there?"), 16);
    world.wait(Duration::from_secs(12));
    assert_eq!(world.read(flow).1, Ok(false), "there is time yet");
    world.wait(Duration::from_secs(30));
    assert_eq!(world.read(flow).1, Err(Lost::TimedOut));
    let sent = world.sent_to(peer.own);
    let times = sent
        .iter()
        .filter(|segment| !segment.payload.is_empty())
        .count();
    assert!((3..40).contains(&times), "sent {times} times");
}

/// RFC 9293 §3.6.1 and RFC 6191: a new connection of the same ends may begin while the old one is
/// in TIME-WAIT, if its number or timestamp is above.
#[test]
fn a_new_connection_takes_over_from_one_in_time_wait() {
    let mut world = World::new(&Limits::default());
    let mut old = Peer::connected(&mut world, 1000);
    // We close first, so TIME-WAIT is ours.
    world.stack.finish(old.flow());
    world.turn();
    old.follow(&mut world);
    old.finish(&mut world);
    old.follow(&mut world);
    assert!(old.finished);
    world.wait(Duration::from_millis(50));
    let mut new = Peer::new(1000);
    new.seq = old.seq.wrapping_add(100_000);
    new.clock = old.clock;
    new.connect(&mut world);
    new.lives(&mut world);
}

/// A peer that acknowledges our end and never sends its own is forgotten in bounded time.
#[test]
fn a_peer_that_never_closes_is_forgotten() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let flow = peer.flow();
    world.stack.finish(flow);
    world.turn();
    peer.follow(&mut world);
    assert!(peer.finished);
    for _ in 0..60 {
        world.wait(Duration::from_secs(10));
        peer.look(&mut world);
        peer.acknowledge(&mut world);
    }
    assert!(world.stack.ends(flow).is_none(), "nothing is left of it");
}

/// A listener that has stopped takes nobody in; who is there stays.
#[test]
fn a_stack_that_stopped_listening_keeps_its_connections() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    world.stack.stop_listening();
    let mut late = Peer::new(1001);
    let answer = late.ask(&mut world);
    assert!(answer.is_none(), "{answer:?}");
    assert!(world.opened().is_none());
    peer.lives(&mut world);
}
