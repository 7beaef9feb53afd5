//! Connections in TIME-WAIT: what is answered for them, for how long, and how many there are.

use std::time::{Duration, Instant};

use super::super::model::{FlowId, FlowKey};
use super::super::waits::{TIME_WAIT, TIME_WAITS_MAX, TimeWait, Waits};
use super::super::{Event, Stack};
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
        let over = waits.insert(wait(number, now), number % 2 == 1, now);
        let expected = number.checked_sub(4);
        assert_eq!(
            over.map(|over| (over.key, over.attached)),
            expected.map(|old| (wait(old, now).key, old % 2 == 1))
        );
        assert_eq!(waits.len(), usize::from(number + 1).min(4));
        // Ends that come again and again leave nothing behind.
        if number % 3 == 0 {
            waits.remove(&wait(number, now).key).unwrap();
            assert!(
                waits
                    .insert(wait(number, now), number % 2 == 1, now)
                    .is_none()
            );
        }
    }
    let end = now + TIME_WAIT;
    assert!(waits.pop(end - 4 * MS).is_none());
    let left = std::iter::from_fn(|| waits.pop(end)).count();
    assert_eq!((left, waits.len(), waits.deadline()), (4, 0, None));
}

#[test]
fn all_of_them_are_small() {
    let bytes = Waits::bytes_each();
    eprintln!("{bytes} bytes each, {} in all", bytes * TIME_WAITS_MAX);
    assert!(bytes <= 384, "{bytes} bytes each");
}
