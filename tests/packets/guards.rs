//! Each rule of the guard is worth having: without it, the same script does the harm that the rule
//! is there to prevent. With all of them, it does not.

use std::time::Duration;

use iiblockdaemon::net::stack::guard::{Rule, Rules};

use super::peer::{Peer, SEGMENT, timestamps_option};
use super::wire::{ACK, FIN, PSH, RST, SYN};
use super::world::{Limits, World};

/// Runs a script, which says whether harm was done, with the rule and without it.
fn is_needed(rule: Rule, script: fn(&mut World) -> bool) {
    for (rules, harm) in [
        (Rules::default(), false),
        (Rules::default().without(rule), true),
    ] {
        let mut world = World::new(&Limits::default());
        world.stack.set_rules(rules);
        assert_eq!(script(&mut world), harm, "{rule:?}, with {rules:?}");
        assert_eq!(world.stack.counters().panics, 0);
    }
}

/// RFC 5961 §3.2: a reset anywhere in the window ends the connection.
#[test]
fn without_the_exact_number_anyone_resets() {
    is_needed(Rule::ExactReset, |world| {
        let peer = Peer::connected(world, 1000);
        let mut forged = peer.segment(world, RST);
        forged.seq = peer.seq.wrapping_add(1000);
        world.inject(&forged.frame());
        world.read(peer.flow()).1.is_err()
    });
}

/// RFC 5961 §4.2: a peer that has crashed gets no answer to its SYN, and never gets in.
#[test]
fn without_a_challenge_a_crashed_peer_stays_out() {
    is_needed(Rule::NoSecondSyn, |world| {
        let mut peer = Peer::connected(world, 1000);
        let mut again = peer.segment(world, SYN);
        again.seq = peer.seq.wrapping_add(500);
        world.inject(&again.frame());
        let answers = peer.look(world);
        peer.challenges(&answers) == 0
    });
}

/// RFC 9293 §3.10.7.4: data whose acknowledgment was overtaken are lost, and have to come again.
#[test]
fn without_the_latest_acknowledgment_reordering_is_loss() {
    is_needed(Rule::OvertakenAck, |world| {
        let mut peer = Peer::connected(world, 1000);
        let flow = peer.flow();
        world.write(flow, b"something to acknowledge");
        let early = peer.data(world, b"sent first, ", SEGMENT);
        peer.look(world);
        let late = peer.data(world, b"but comes second", SEGMENT);
        world.inject(&late[0].frame());
        world.inject(&early[0].frame());
        world.bytes(flow) != b"sent first, but comes second"
    });
}

/// RFC 9293 §3.10.7.4: bytes that were never sent count as delivered, and never come.
#[test]
fn without_a_look_at_what_was_sent_bytes_are_forgotten() {
    is_needed(Rule::AckOfSent, |world| {
        let mut peer = Peer::new(1000);
        peer.window = 2000 >> 7;
        peer.connect(world);
        let bytes: Vec<u8> = (0..10_000_u32).flat_map(u32::to_be_bytes).collect();
        assert_eq!(world.write(peer.flow(), &bytes), bytes.len());
        peer.look(world);
        let mut forged = peer.segment(world, ACK);
        forged.ack = peer.ack.wrapping_add(10_000);
        world.inject(&forged.frame());
        peer.window = 0xFFFF;
        for _ in 0..20 {
            peer.acknowledge(world);
            peer.follow(world);
            world.wait(Duration::from_secs(1));
        }
        peer.received != bytes
    });
}

/// RFC 9293 §3.10.7.4, SND.WL1 and SND.WL2: a segment of the past opens a window that is not there.
#[test]
fn without_the_newest_window_an_old_one_comes_back() {
    is_needed(Rule::NewestWindow, |world| {
        let mut peer = Peer::connected(world, 1000);
        let early = peer.data(world, b"sent while there was room, ", SEGMENT);
        peer.window = 0;
        let late = peer.data(world, b"and this when there was none", SEGMENT);
        world.inject(&late[0].frame());
        world.inject(&early[0].frame());
        peer.look(world);
        assert_eq!(world.write(peer.flow(), &[7; 5000]), 5000);
        // (A probe of the window has a byte.)
        peer.look(world)
            .iter()
            .any(|segment| segment.payload.len() > 1)
    });
}

/// RFC 7323 §5.3: a segment from before the numbers wrapped is data of the present.
#[test]
fn without_timestamps_the_past_comes_back() {
    is_needed(Rule::NotWrapped, |world| {
        let mut peer = Peer::connected(world, 1000);
        world.wait(Duration::from_secs(5));
        peer.lives(world);
        let mut old = peer.segment(world, ACK | PSH);
        old.options = timestamps_option(peer.time(world).wrapping_sub(3000), peer.echo);
        old.payload = b"of long ago".to_vec();
        world.inject(&old.frame());
        world.bytes(peer.flow()) == b"of long ago"
    });
}

/// RFC 9293 §3.10.7.4: the stream ends short of bytes that did not fit.
#[test]
fn without_its_place_a_fin_cuts_the_stream_short() {
    is_needed(Rule::FinBehindItsData, |world| {
        let mut peer = Peer::connected(world, 1000);
        // The last segment lies across the end of the window.
        let bytes = vec![1; ((1 << 20) / SEGMENT + 1) * SEGMENT];
        let mut segments = peer.data(world, &bytes, SEGMENT);
        segments.last_mut().unwrap().flags |= FIN;
        for segment in segments {
            world.put(&segment.frame());
            if world.stack.port().incoming.len() == 32 {
                world.turn();
            }
        }
        world.turn();
        let (got, end) = world.read(peer.flow());
        got.len() < bytes.len() && end == Ok(true)
    });
}
