//! Connections in TIME-WAIT: what is answered for them, for how long, and how many there are.

use std::time::{Duration, Instant};

use super::super::model::{FlowId, FlowKey, Settings};
use super::super::waits::{Heard, TIME_WAIT, TIME_WAITS_MAX, TimeWait, Waits};
use super::super::{Dropped, Event, Stack};
use super::tape::{OURS, THEIRS, Tape, ethernet, tcp};
use super::{MS, answers, events, ready, settings};
use crate::net::stack::guard::{Guard, Rules};
use crate::net::stack::packet::{self, Parsed, Segment, Seq};
use crate::port::Frame;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const SECOND: Duration = Duration::from_secs(1);

/// A peer at 10.0.0.2 without timestamps, whose first number is 1000.
struct Peer {
    port: u16,
    /// What comes next of ours.
    ack: u32,
}

impl Peer {
    fn says(&self, seq: u32, flags: u8) -> Vec<u8> {
        let (from, to) = ([10, 0, 0, 2].into(), [10, 0, 0, 1].into());
        let packet = tcp((from, self.port), (to, 3260), seq, self.ack, flags, b"");
        ethernet(OURS, THEIRS, None, 0x800, &packet)
    }
}

fn segment(frame: &[u8]) -> Segment {
    let Ok(Parsed::Tcp(segment)) = packet::parse(&Frame::copied(frame)) else {
        panic!("only TCP is sent");
    };
    segment
}

fn opened(stack: &mut Stack<Tape>) -> FlowId {
    let opened = events(stack).into_iter().find_map(|event| match event {
        Event::Opened { flow, .. } => Some(flow),
        _ => None,
    });
    opened.expect("the handshake is over")
}

/// A connection that we have ended first, and the peer then.
fn ended(stack: &mut Stack<Tape>, now: Instant, port: u16) -> Peer {
    let mut peer = Peer { port, ack: 0 };
    let syn = peer.says(1000, SYN);
    let sent = answers(stack, now, &[syn]);
    peer.ack = segment(&sent[0]).seq.0.wrapping_add(1);
    let ack = peer.says(1001, ACK);
    assert!(answers(stack, now, &[ack]).is_empty());
    let flow = opened(stack);
    stack.finish(flow);
    let sent = answers(stack, now, &[]);
    assert!(segment(&sent[0]).is_fin());
    peer.ack = peer.ack.wrapping_add(1);
    let fin = peer.says(1001, FIN | ACK);
    let sent = answers(stack, now, &[fin]);
    assert_eq!(sent.len(), 1);
    expect_last_ack(&peer, &sent[0]);
    assert!(stack.has_delivered(flow) && stack.ends(flow).is_none());
    peer
}

fn expect_last_ack(peer: &Peer, frame: &[u8]) {
    let answer = segment(frame);
    assert!(answer.is_ack() && !answer.is_rst() && answer.is_empty());
    assert_eq!((answer.seq, answer.ack), (Seq(peer.ack), Seq(1002)));
}

#[test]
fn a_fin_that_comes_again_is_answered_for_a_minute_after_the_last() {
    let (mut stack, mut now) = ready(settings());
    let peer = ended(&mut stack, now, 4000);
    assert_eq!((stack.flows(), stack.waits.len()), (0, 1));
    let fin = peer.says(1001, FIN | ACK);
    for _ in 0..4 {
        now += TIME_WAIT - SECOND;
        stack.tick(now);
        let sent = answers(&mut stack, now, std::slice::from_ref(&fin));
        assert_eq!(sent.len(), 1);
        expect_last_ack(&peer, &sent[0]);
    }
    assert_eq!(stack.counters().resets_sent, 0);
    // Then it is forgotten, by itself.
    let end = now + TIME_WAIT;
    while let Some(at) = stack.deadline() {
        assert!(at <= end);
        now = now.max(at);
        stack.tick(now);
    }
    assert_eq!((now, stack.waits.len()), (end, 0));
    let sent = answers(&mut stack, now, &[fin]);
    assert!(segment(&sent[0]).is_rst());
}

#[test]
fn resets_end_no_wait_and_nothing_is_said_to_what_says_nothing() {
    let (mut stack, now) = ready(settings());
    let peer = ended(&mut stack, now, 4000);
    // RFC 1337: the very number, and others.
    let quiet = [
        peer.says(1002, RST),
        peer.says(1002, RST | ACK),
        peer.says(1001, RST),
        peer.says(1002, ACK),
    ];
    assert!(answers(&mut stack, now, &quiet).is_empty());
    assert_eq!(stack.waits.len(), 1);
    // What is out of place is answered a few times.
    let old: Vec<_> = (0..1000).map(|_| peer.says(900, ACK)).collect();
    let sent = answers(&mut stack, now, &old);
    assert!((1..=10).contains(&sent.len()), "{} answers", sent.len());
    for answer in sent {
        expect_last_ack(&peer, &answer);
    }
    // And that does not stop an answer to the peer's end.
    let fin = peer.says(1001, FIN | ACK);
    let sent = answers(&mut stack, now, &[fin]);
    expect_last_ack(&peer, &sent[0]);
}

#[test]
fn only_a_newer_syn_begins_a_new_connection_and_its_numbers_are_above() {
    let (mut stack, now) = ready(settings());
    let mut peer = ended(&mut stack, now, 4000);
    let last = Seq(peer.ack);
    for old in [900, 1000, 1001, 1002] {
        let syn = peer.says(old, SYN);
        let sent = answers(&mut stack, now, &[syn]);
        expect_last_ack(&peer, &sent[0]);
    }
    assert_eq!((stack.flows(), stack.waits.len()), (0, 1));
    let syn = peer.says(1003, SYN);
    let sent = answers(&mut stack, now, &[syn]);
    let answer = segment(&sent[0]);
    assert!(answer.is_syn() && answer.is_ack());
    assert_eq!(answer.ack, Seq(1004));
    // Without that the clock of RFC 6528 would not have gone on since.
    assert!(answer.seq.is_after(last.plus(100_000)), "{answer:?}");
    assert_eq!((stack.flows(), stack.waits.len()), (1, 0));
    assert_eq!(stack.counters().time_wait_reused, 1);
    peer.ack = answer.seq.0.wrapping_add(1);
    let ack = peer.says(1004, ACK);
    assert!(answers(&mut stack, now, &[ack]).is_empty());
    opened(&mut stack);
}

/// The peer closes its side late, or never: what it has is not taken from it by a reset.
#[test]
fn a_peer_that_has_everything_and_stays_is_left_in_silence() {
    let (mut stack, mut now) = ready(settings());
    let mut peer = Peer { port: 4000, ack: 0 };
    let syn = peer.says(1000, SYN);
    let sent = answers(&mut stack, now, &[syn]);
    peer.ack = segment(&sent[0]).seq.0.wrapping_add(1);
    let ack = peer.says(1001, ACK);
    answers(&mut stack, now, &[ack]);
    let flow = opened(&mut stack);
    stack.finish(flow);
    assert!(segment(&answers(&mut stack, now, &[])[0]).is_fin());
    peer.ack = peer.ack.wrapping_add(1);
    let ack = peer.says(1001, ACK);
    assert!(answers(&mut stack, now, &[ack]).is_empty());
    for _ in 0..60 {
        now += SECOND;
        stack.tick(now);
        assert!(answers(&mut stack, now, &[]).is_empty());
    }
    assert_eq!(stack.flows(), 0);
    assert_eq!(stack.counters().resets_sent, 0);
}

#[test]
fn calls_of_our_own_do_not_take_ends_that_are_waited_for() {
    let (mut stack, now) = ready(settings());
    ended(&mut stack, now, 4000);
    let (local, peer) = ("10.0.0.1:3260", "10.0.0.2:4000");
    let (local, peer) = (local.parse().unwrap(), peer.parse().unwrap());
    assert!(stack.connect(local, peer, None, now).is_none());
    let after = now + TIME_WAIT;
    stack.tick(after);
    assert!(stack.connect(local, peer, None, after).is_some());
}

fn wait(number: u16, now: Instant) -> TimeWait {
    let high = u8::try_from(number >> 8).unwrap();
    let low = u8::try_from(number & 255).unwrap();
    TimeWait {
        key: FlowKey {
            vlan: None,
            local: "10.0.0.1:3260".parse().unwrap(),
            peer: ([10, 1, high, low], 5000).into(),
        },
        guard: Guard::new(Rules::default()),
        rcv_nxt: Seq(number.into()),
        snd_nxt: Seq(1),
        window: 0,
        dscp: 0,
        epoch: now,
        ticks: 0,
    }
}

#[test]
fn there_are_no_more_than_there_may_be_and_the_oldest_go_first() {
    let mut now = crate::net::some_instant();
    let mut waits = Waits::new(4);
    for number in 0..1000 {
        now += MS;
        // Ends that come again and again leave nothing behind.
        let times = if number % 3 == 0 { 3 } else { 1 };
        for _ in 0..times {
            waits.insert(wait(number, now), now);
        }
        for old in 0..=number {
            let is_there = waits.has(&wait(old, now).key);
            assert_eq!(is_there, old + 4 > number, "{old} of {number}");
        }
        assert_eq!(waits.len(), usize::from(number + 1).min(4));
    }
    let end = now + TIME_WAIT;
    assert!(waits.pop(end - 4 * MS).is_none());
    let left = std::iter::from_fn(|| waits.pop(end)).count();
    assert_eq!((left, waits.len(), waits.deadline()), (4, 0, None));
}

#[test]
fn one_whose_time_began_anew_goes_when_that_is_over_and_not_before_others() {
    let mut now = crate::net::some_instant();
    let start = now;
    let mut waits = Waits::new(4);
    for number in 1..=4 {
        waits.insert(wait(number, now), now);
    }
    let from = ([10, 1, 0, 1].into(), 5000);
    let fin = tcp(from, ([10, 0, 0, 1].into(), 3260), 0, 1, FIN | ACK, b"");
    let fin = segment(&ethernet(OURS, THEIRS, None, 0x800, &fin));
    // Often enough that old places in the order have to go.
    for _ in 0..1000 {
        now += MS;
        let heard = waits.hear(now, &fin);
        assert!(matches!(heard, Some(Heard::Answer { again: true, .. })));
    }
    assert!(waits.order_len() <= 8);
    let renewed = now;
    now += MS;
    waits.insert(wait(5, now), now);
    assert!(waits.has(&fin.key), "others have been there for longer");
    assert!(!waits.has(&wait(2, now).key));
    let due: Vec<_> = std::iter::from_fn(|| waits.pop(start + TIME_WAIT)).collect();
    assert_eq!(due, [wait(3, now).key, wait(4, now).key]);
    assert_eq!(waits.pop(renewed + TIME_WAIT), Some(fin.key));
    assert_eq!(waits.pop(renewed + TIME_WAIT), None);
    assert_eq!(waits.pop(now + TIME_WAIT), Some(wait(5, now).key));
}

/// One for which there is no room, and one that would get a cookie.
#[test]
fn a_syn_that_is_not_taken_ends_no_wait() {
    for (flows_max, half_open_max) in [(1, 8), (64, 1)] {
        let (mut stack, now) = ready(Settings {
            flows_max,
            half_open_max,
            ..settings()
        });
        let peer = ended(&mut stack, now, 4000);
        let last = Seq(peer.ack);
        // One that never goes on.
        let other = Peer { port: 5000, ack: 0 };
        assert_eq!(answers(&mut stack, now, &[other.says(1, SYN)]).len(), 1);
        let syn = peer.says(1003, SYN);
        let sent = answers(&mut stack, now, std::slice::from_ref(&syn));
        assert!(sent.is_empty());
        assert_eq!(stack.counters().dropped(Dropped::NoRoom), 1);
        assert_eq!(stack.counters().time_wait_reused, 0);
        let fin = peer.says(1001, FIN | ACK);
        let sent = answers(&mut stack, now, &[fin]);
        expect_last_ack(&peer, &sent[0]);
        // When there is room the least number is still known.
        let reset = Peer { port: 5000, ack: 0 }.says(2, RST);
        assert!(answers(&mut stack, now, &[reset]).is_empty());
        assert_eq!(stack.flows(), 0);
        let sent = answers(&mut stack, now, &[syn]);
        let answer = segment(&sent[0]);
        assert!(answer.is_syn() && answer.seq.is_after(last.plus(100_000)));
        assert_eq!((stack.flows(), stack.waits.len()), (1, 0));
    }
}

/// A flow came from another core, where its frames come to, and has gone back there.
#[test]
fn a_frame_that_came_by_another_core_and_has_no_flow_is_not_answered() {
    let (mut stack, now) = ready(settings());
    let peer = Peer { port: 4000, ack: 1 };
    for flags in [SYN, FIN | ACK, ACK] {
        stack.receive_frame(now, Frame::copied(&peer.says(1, flags)));
    }
    assert!(answers(&mut stack, now, &[]).is_empty());
    assert_eq!(stack.counters().dropped(Dropped::NoFlow), 3);
    assert_eq!(stack.flows(), 0);
}

#[test]
fn a_stop_resets_no_flow_whose_peer_has_everything() {
    let (mut stack, now) = ready(settings());
    for port in [4000, 4001] {
        let mut peer = Peer { port, ack: 0 };
        let sent = answers(&mut stack, now, &[peer.says(1000, SYN)]);
        peer.ack = segment(&sent[0]).seq.0.wrapping_add(1);
        answers(&mut stack, now, &[peer.says(1001, ACK)]);
        let flow = opened(&mut stack);
        stack.finish(flow);
        assert!(segment(&answers(&mut stack, now, &[])[0]).is_fin());
        if port == 4000 {
            peer.ack = peer.ack.wrapping_add(1);
            answers(&mut stack, now, &[peer.says(1001, ACK)]);
        }
    }
    assert_eq!(stack.flows(), 2);
    stack.abort_all(now);
    let sent = std::mem::take(&mut stack.port_mut().sent);
    let resets: Vec<_> = sent.iter().map(|frame| segment(frame)).collect();
    assert_eq!((resets.len(), stack.flows()), (1, 0));
    assert!(resets[0].is_rst() && resets[0].key.local.port() == 4001);
}

#[test]
fn all_of_them_are_small() {
    let bytes = Waits::bytes_each();
    eprintln!("{bytes} bytes each, {} in all", bytes * TIME_WAITS_MAX);
    assert!(bytes <= 384, "{bytes} bytes each");
}
