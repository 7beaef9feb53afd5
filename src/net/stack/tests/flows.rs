//! Connections from their first segment to their last.

use std::time::Duration;

use super::super::model::{Address, Route};
use super::super::{Dropped, Event, Lost, Received, Stack};
use super::pair::{Pair, Side, pattern, take_all};
use super::tape::{OURS, THEIRS, Tape, arp, ethernet, icmpv4, ipv4, tcp};
use super::{MS, answers, events, ready, settings};
use crate::mem::Piece;
use crate::net::Moved;
use crate::port::memory::Config;
use crate::port::{Burst, Frame, Offload, Outgoing, Port};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const IPV4: u16 = 0x0800;
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn bytes_go_both_ways_and_both_ends_end() {
    for (local, peer, vlan) in [
        ("10.0.0.2:0", "10.0.0.1:3260", None),
        ("[fd00::2]:0", "[fd00::1]:3260", None),
        ("10.0.7.2:0", "10.0.7.1:3260", Some(7)),
        ("[fd00:7::2]:0", "[fd00:7::1]:3260", Some(7)),
    ] {
        for mtu in [1500, 9000] {
            let config = Config {
                mtu,
                ..Config::default()
            };
            let mut pair = Pair::over(settings(), &config);
            let (client, server, key) = pair.connect(local, peer, vlan);
            assert_eq!(pair.server.ends(server), Some(key));
            let bytes = pattern(3_000_000);
            pair.carry((Side::Client, client), (Side::Server, server), &bytes);
            pair.carry((Side::Server, server), (Side::Client, client), &bytes);
            pair.client.finish(client);
            pair.run(10 * MS);
            let taken = pair.server.take(server);
            assert!(matches!(taken, Ok(Received::Closed)), "{taken:?} {pair:#?}");
            pair.server.finish(server);
            pair.run(30 * SECOND);
            assert_eq!((pair.server.flows(), pair.client.flows()), (0, 0));
            assert_eq!(pair.server.take(server).unwrap_err(), Lost::Unknown);
            let counters = [pair.server.counters(), pair.client.counters()];
            assert!(counters.iter().all(|counted| counted.retransmits == 0));
        }
    }
}

#[test]
fn a_flow_of_one_vlan_is_none_of_another() {
    let (mut stack, now) = ready(settings());
    let from = ([10, 0, 7, 2].into(), 40000);
    let to = ([10, 0, 7, 1].into(), 3260);
    let packet = tcp(from, to, 1, 0, SYN, b"");
    let other = ethernet(OURS, THEIRS, None, IPV4, &packet);
    assert!(answers(&mut stack, now, &[other]).is_empty());
    assert_eq!(stack.counters().dropped(Dropped::OtherAddress), 1);
    let right = ethernet(OURS, THEIRS, Some(7), IPV4, &packet);
    let [answer] = &answers(&mut stack, now, &[right])[..] else {
        panic!("a SYN is answered");
    };
    assert_eq!(
        answer[12..16],
        [0x81, 0, 3 << 5, 7],
        "its VLAN and priority"
    );
    assert_eq!(answer[18 + 1], 10 << 2, "its DSCP");
    // An acknowledgement in the wrong VLAN does not open it.
    let seq = u32::from_be_bytes(*answer[18 + 20 + 4..].first_chunk().unwrap());
    let packet = tcp(from, to, 2, seq.wrapping_add(1), ACK, b"");
    let other = ethernet(OURS, THEIRS, None, IPV4, &packet);
    assert!(answers(&mut stack, now, &[other]).is_empty());
    assert!(events(&mut stack).is_empty());
    let right = ethernet(OURS, THEIRS, Some(7), IPV4, &packet);
    answers(&mut stack, now, &[right]);
    let told = events(&mut stack);
    assert!(
        matches!(told[..], [Event::Opened { key, .. }] if key.vlan == Some(7)),
        "{told:?}"
    );
}

#[test]
fn handshakes_that_nobody_completes_are_given_up() {
    let (mut stack, mut now) = ready(settings());
    let half_open_max = stack.settings().half_open_max;
    let syns: Vec<_> = (0..half_open_max)
        .map(|number| {
            let port = 40000 + u16::try_from(number).unwrap();
            let from = ([10, 0, 0, 2].into(), port);
            let packet = tcp(from, ([10, 0, 0, 1].into(), 3260), 1, 0, SYN, b"");
            ethernet(OURS, THEIRS, None, IPV4, &packet)
        })
        .collect();
    assert_eq!(answers(&mut stack, now, &syns).len(), half_open_max);
    assert_eq!(stack.flows(), half_open_max);
    let end = now + 11 * SECOND;
    while let Some(at) = stack.deadline().filter(|&at| at <= end) {
        now = now.max(at);
        stack.tick(now);
        stack.transmit(now);
    }
    assert_eq!(stack.flows(), 0);
    let expired = u64::try_from(half_open_max).unwrap();
    assert_eq!(stack.counters().half_open_expired, expired);
    assert!(
        events(&mut stack).is_empty(),
        "the reactor never heard of them"
    );
}

#[test]
fn a_flood_of_syns_neither_stops_a_session_nor_takes_memory() {
    const ADDRESSES: u32 = 100_000;
    let mut pair = Pair::new(settings());
    let (client, server, _) = pair.connect("10.0.0.2:0", "10.0.0.1:3260", None);
    let settings = settings();
    let mut frames_out = 0;
    for number in 0..ADDRESSES {
        let source = (0x0B00_0000 | number).to_be_bytes();
        let port = 1024 + u16::try_from(number % 60_000).unwrap();
        let packet = tcp(
            (source.into(), port),
            ([10, 0, 0, 1].into(), 3260),
            number,
            0,
            SYN,
            b"",
        );
        let frame = ethernet([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], None, IPV4, &packet);
        let frame = Outgoing {
            head: &frame,
            payload: &[],
            offload: Offload::default(),
        };
        pair.client.port_mut().transmit(&frame).unwrap();
        frames_out += 1;
        if frames_out % 25 == 0 {
            pair.settle();
        }
        if number % 10_000 == 0 {
            let bytes = pattern(50_000);
            pair.carry((Side::Client, client), (Side::Server, server), &bytes);
            pair.carry((Side::Server, server), (Side::Client, client), &bytes);
        }
        assert!(pair.server.flows() <= settings.half_open_max + 1);
    }
    let counters = pair.server.counters();
    assert_eq!(counters.syns, u64::from(ADDRESSES) + 1);
    let answered = u64::try_from(settings.half_open_max).unwrap();
    assert!(counters.cookies_sent >= u64::from(ADDRESSES) - answered * 2);
    // And an honest newcomer still gets in, by a cookie.
    let (second, its_server, _) = pair.connect("10.0.0.2:0", "10.0.0.1:3260", None);
    assert_eq!(pair.server.counters().cookies_accepted, 1);
    let bytes = pattern(200_000);
    pair.carry((Side::Client, second), (Side::Server, its_server), &bytes);
    pair.carry((Side::Server, its_server), (Side::Client, second), &bytes);
}

#[test]
fn readable_is_told_once_until_a_take_comes_up_empty() {
    let mut pair = Pair::new(settings());
    let (client, server, _) = pair.connect("10.0.0.2:0", "10.0.0.1:3260", None);
    let send = |pair: &mut Pair, bytes: &[u8]| {
        let moved = pair.client.send(client, &[Piece::Bytes(bytes)]).unwrap();
        assert_eq!(moved, Moved::Bytes(bytes.len()));
        pair.settle();
        pair.told[0].drain(..).collect::<Vec<_>>()
    };
    let is_readable = |told: &[Event]| matches!(told, [Event::Readable(flow)] if *flow == server);
    let told = send(&mut pair, b"one");
    assert!(is_readable(&told), "{told:?}");
    assert!(send(&mut pair, b"two").is_empty(), "told already");
    assert_eq!(take_all(&mut pair.server, server).unwrap(), b"onetwo");
    assert!(is_readable(&send(&mut pair, b"three")));
    // One chunk is taken, but not all: nothing is told again.
    assert!(matches!(pair.server.take(server), Ok(Received::Data(_))));
    assert!(send(&mut pair, b"four").is_empty());
    assert_eq!(take_all(&mut pair.server, server).unwrap(), b"four");
    pair.client.finish(client);
    pair.settle();
    let told: Vec<_> = pair.told[0].drain(..).collect();
    assert!(is_readable(&told), "the end is told too: {told:?}");
    assert!(matches!(pair.server.take(server), Ok(Received::Closed)));
}

#[test]
fn writable_is_told_after_a_send_that_took_less() {
    let mut pair = Pair::new(settings());
    let (client, server, _) = pair.connect("10.0.0.2:0", "10.0.0.1:3260", None);
    let bytes = pattern(4_000_000);
    let mut sent = 0;
    // Until both rings are full: nobody takes anything.
    loop {
        let rest = [Piece::Bytes(&bytes[sent..])];
        match pair.client.send(client, &rest).unwrap() {
            Moved::Bytes(count) => sent += count,
            Moved::WouldBlock => break,
            Moved::Closed => panic!("nobody closed"),
        }
        pair.settle();
    }
    pair.told[1].clear();
    assert!((1_250_000..bytes.len()).contains(&sent), "{sent}");
    pair.run(SECOND);
    assert!(
        pair.told[1].is_empty(),
        "no room, no news: {:?}",
        pair.told[1]
    );
    let taken = take_all(&mut pair.server, server).unwrap();
    assert_eq!(taken, bytes[..taken.len()]);
    pair.run(10 * MS);
    let told: Vec<_> = pair.told[1].drain(..).collect();
    assert!(
        matches!(told[..], [Event::Writable(flow)] if flow == client),
        "{told:?}"
    );
    assert!(matches!(
        pair.client.send(client, &[Piece::Bytes(&bytes[sent..])]),
        Ok(Moved::Bytes(_))
    ));
}

#[test]
fn an_aborted_flow_is_reset_at_the_other_end() {
    let mut pair = Pair::new(settings());
    let (client, server, _) = pair.connect("10.0.0.2:0", "10.0.0.1:3260", None);
    pair.client
        .send(client, &[Piece::Bytes(b"last words")])
        .unwrap();
    pair.settle();
    pair.client.abort(client);
    assert_eq!(pair.client.flows(), 0);
    pair.settle();
    let lost = pair.told[0]
        .iter()
        .filter(|event| matches!(event, Event::Lost(flow) if *flow == server));
    assert_eq!(lost.count(), 1);
    assert_eq!(
        pair.server.send(server, &[Piece::Bytes(b"x")]).unwrap_err(),
        Lost::Reset
    );
    assert_eq!(pair.server.flows(), 1, "until the reactor is done with it");
    pair.server.finish(server);
    assert_eq!(pair.server.flows(), 0);
    assert_eq!(pair.server.counters().resets_received, 1);
}

#[test]
fn a_finished_flow_has_delivered_when_its_end_is_acknowledged() {
    let mut pair = Pair::new(settings());
    let (client, server, _) = pair.connect("10.0.0.2:0", "10.0.0.1:3260", None);
    assert!(!pair.server.has_delivered(server), "it goes on");
    let words = [Piece::Bytes(b"last words")];
    pair.server.send(server, &words).unwrap();
    pair.server.finish(server);
    pair.server.finish(server);
    let now = pair.now;
    pair.server.transmit(now);
    assert!(!pair.server.has_delivered(server), "nobody has heard them");
    pair.settle();
    assert!(pair.server.has_delivered(server));
    assert_eq!(pair.server.flows(), 1, "the peer has not ended it yet");
    let heard = take_all(&mut pair.client, client);
    assert_eq!(heard.unwrap(), b"last words");
    pair.server.abort(server);
    assert!(pair.server.has_delivered(server), "it is gone");
}

#[test]
fn the_end_of_a_stack_is_told_to_every_peer() {
    let mut pair = Pair::new(settings());
    let (first, ..) = pair.connect("10.0.0.2:0", "10.0.0.1:3260", None);
    let (second, server, _) = pair.connect("10.0.0.2:0", "10.0.0.1:3260", None);
    pair.server.send(server, &[Piece::Bytes(b"last")]).unwrap();
    pair.server.finish(server);
    let now = pair.now;
    pair.server.abort_all(now);
    assert_eq!(pair.server.flows(), 0);
    pair.settle();
    for flow in [first, second] {
        let words = [Piece::Bytes(b"x")];
        assert_eq!(pair.client.send(flow, &words).unwrap_err(), Lost::Reset);
    }
}

#[test]
fn a_newer_syn_takes_the_place_of_a_flow_in_time_wait() {
    let mut pair = Pair::new(settings());
    let (client, server, _) = pair.connect("10.0.0.2:50000", "10.0.0.1:3260", None);
    pair.server.finish(server);
    pair.run(5 * MS);
    assert!(matches!(pair.client.take(client), Ok(Received::Closed)));
    pair.client.finish(client);
    pair.run(50 * MS);
    assert_eq!((pair.server.flows(), pair.client.flows()), (0, 0));
    assert_eq!((pair.server.waits.len(), pair.client.waits.len()), (1, 0));
    pair.told[0].clear();
    pair.told[1].clear();
    let (client, server, _) = pair.connect("10.0.0.2:50000", "10.0.0.1:3260", None);
    assert_eq!(pair.server.counters().time_wait_reused, 1);
    let bytes = pattern(100_000);
    pair.carry((Side::Client, client), (Side::Server, server), &bytes);
    assert_eq!((pair.server.flows(), pair.server.waits.len()), (1, 0));
}

#[test]
fn what_the_reactor_is_done_with_ends_in_bounded_time() {
    let mut pair = Pair::new(settings());
    let (client, server, _) = pair.connect("10.0.0.2:0", "10.0.0.1:3260", None);
    // The client never closes its side, and goes on sending.
    pair.server.finish(server);
    for _ in 0..30 {
        let _ = pair.client.send(client, &[Piece::Bytes(&[7; 10_000])]);
        pair.run(SECOND);
    }
    assert_eq!(pair.server.flows(), 0);
}

#[test]
fn nobody_answers_a_call() {
    let mut pair = Pair::new(settings());
    let local = "10.0.0.2:0".parse().unwrap();
    let peer = "10.0.0.99:3260".parse().unwrap();
    let call = pair.client.connect(local, peer, None, pair.now).unwrap();
    pair.run(30 * SECOND);
    assert!(
        matches!(pair.told[1][..], [Event::Lost(flow)] if flow == call),
        "{:?}",
        pair.told[1]
    );
    assert_eq!(pair.client.take(call).unwrap_err(), Lost::TimedOut);
    let asked = pair.client.counters().neighbours_asked;
    assert!((3..=12).contains(&asked), "{asked}");
    pair.client.abort(call);
    assert_eq!(pair.client.flows(), 0);
    // A port where nobody listens.
    let peer = "10.0.0.1:99".parse().unwrap();
    let call = pair.client.connect(local, peer, None, pair.now).unwrap();
    pair.run(SECOND);
    assert_eq!(pair.client.take(call).unwrap_err(), Lost::Reset);
}

#[test]
fn nothing_new_is_taken_after_the_listening_has_stopped() {
    let mut pair = Pair::new(settings());
    let (client, server, _) = pair.connect("10.0.0.2:0", "10.0.0.1:3260", None);
    pair.server.stop_listening();
    let local = "10.0.0.2:0".parse().unwrap();
    let peer = "10.0.0.1:3260".parse().unwrap();
    let call = pair.client.connect(local, peer, None, pair.now).unwrap();
    pair.run(SECOND);
    assert_eq!(pair.client.take(call).unwrap_err(), Lost::Reset);
    let bytes = pattern(100_000);
    pair.carry((Side::Client, client), (Side::Server, server), &bytes);
}

#[test]
fn four_thousand_flows_live_side_by_side() {
    const FLOWS: usize = 4000;
    let config = Config {
        mtu: 9000,
        ..Config::default()
    };
    let many = super::Settings {
        flows_max: FLOWS,
        half_open_max: 64,
        ..settings()
    };
    let mut pair = Pair::over(many, &config);
    let mut flows = vec![];
    for _ in 0..FLOWS {
        let (client, server, _) = pair.connect("10.0.0.2:0", "10.0.0.1:3260", None);
        flows.push((client, server));
    }
    assert_eq!((pair.server.flows(), pair.client.flows()), (FLOWS, FLOWS));
    let (local, peer) = ("10.0.0.2:0", "10.0.0.1:3260");
    let (local, peer) = (local.parse().unwrap(), peer.parse().unwrap());
    assert!(
        pair.client.connect(local, peer, None, pair.now).is_none(),
        "full"
    );
    let name = |number: usize| u64::try_from(number).unwrap().to_be_bytes();
    for (number, (client, _)) in flows.iter().enumerate() {
        pair.client
            .send(*client, &[Piece::Bytes(&name(number))])
            .unwrap();
    }
    pair.settle();
    for (number, (_, server)) in flows.iter().enumerate() {
        assert_eq!(take_all(&mut pair.server, *server).unwrap(), name(number));
    }
    // Long enough for each to be asked whether it is still there.
    pair.run(100 * SECOND);
    assert_eq!((pair.server.flows(), pair.client.flows()), (FLOWS, FLOWS));
    for (client, server) in flows {
        pair.client.finish(client);
        pair.server.finish(server);
    }
    pair.run(30 * SECOND);
    assert_eq!((pair.server.flows(), pair.client.flows()), (0, 0));
}

#[test]
fn a_router_that_says_too_big_is_believed_when_it_quotes_what_was_sent() {
    let mut pair = Pair::over(
        settings(),
        &Config {
            mtu: 9000,
            ..Config::default()
        },
    );
    let (client, server, key) = pair.connect("10.0.0.2:0", "10.0.0.1:3260", None);
    let too_big = |seq: u32, len: usize| {
        let mut quoted = tcp(
            ([10, 0, 0, 1].into(), 3260),
            ([10, 0, 0, 2].into(), key.peer.port()),
            seq,
            0,
            ACK,
            b"",
        );
        quoted[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        let mut rest = vec![0, 0, 5, 0];
        rest.extend(&quoted[..28]);
        let packet = ipv4([10, 0, 0, 254], [10, 0, 0, 1], 1, &icmpv4(3, 4, &rest));
        ethernet([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9], None, IPV4, &packet)
    };
    let inject = |pair: &mut Pair, frame: Vec<u8>| {
        let frame = Outgoing {
            head: &frame,
            payload: &[],
            offload: Offload::default(),
        };
        pair.client.port_mut().transmit(&frame).unwrap();
        pair.settle();
    };
    // Nothing was ever sent there.
    inject(&mut pair, too_big(12345, 9000));
    assert_eq!(pair.server.counters().path_mtus, 0);
    assert_eq!(pair.server.counters().dropped(Dropped::BadPathMessage), 1);
    // A segment gets lost on the way, and a router says why.
    let bytes = pattern(300_000);
    let (rest, mut sent) = (&bytes[..], 0);
    if let Moved::Bytes(count) = pair.server.send(server, &[Piece::Bytes(rest)]).unwrap() {
        sent += count;
    }
    pair.server.transmit(pair.now);
    let mut lost = Burst::new();
    pair.client.port_mut().receive(&mut lost);
    let longest = lost.iter().max_by_key(|frame| frame.len()).unwrap();
    assert!(longest.len() > 1500);
    let seq = u32::from_be_bytes(*longest.head()[14 + 20 + 4..].first_chunk().unwrap());
    let len = longest.len() - 14;
    drop(lost);
    inject(&mut pair, too_big(seq, len));
    assert_eq!(pair.server.counters().path_mtus, 1);
    let mut taken = vec![];
    let mut longest = 0;
    for _ in 0..20_000 {
        if taken.len() == bytes.len() {
            break;
        }
        // The client's frames, looked at on their way.
        pair.server.transmit(pair.now);
        loop {
            let mut burst = Burst::new();
            pair.client.port_mut().receive(&mut burst);
            if burst.is_empty() {
                break;
            }
            for frame in burst {
                longest = longest.max(frame.len());
                pair.client.receive_frame(pair.now, frame);
            }
        }
        pair.client.transmit(pair.now);
        while pair.server.receive(pair.now) {}
        taken.extend(take_all(&mut pair.client, client).unwrap());
        let rest = [Piece::Bytes(&bytes[sent..])];
        if sent < bytes.len()
            && let Moved::Bytes(count) = pair.server.send(server, &rest).unwrap()
        {
            sent += count;
        }
        let next = [pair.server.deadline(), pair.client.deadline()];
        pair.now = next.into_iter().flatten().min().unwrap().max(pair.now);
        pair.server.tick(pair.now);
        pair.client.tick(pair.now);
    }
    assert_eq!((taken.len(), sent), (bytes.len(), bytes.len()), "{pair:?}");
    assert!(taken == bytes);
    assert_eq!(longest, 14 + 1280, "what the router said");
    // New connections to there begin with what is known.
    let (_, server, _) = pair.connect("10.0.0.2:0", "10.0.0.1:3260", None);
    pair.server
        .send(server, &[Piece::Bytes(&[1; 9000])])
        .unwrap();
    pair.server.transmit(pair.now);
    let mut burst = Burst::new();
    pair.client.port_mut().receive(&mut burst);
    assert!(burst.iter().all(|frame| frame.len() <= 14 + 1280));
    assert!(burst.len() > 1);
}

#[test]
fn an_idle_flow_seldom_wakes_its_core() {
    let mut pair = Pair::new(settings());
    let (client, server, _) = pair.connect("10.0.0.2:0", "10.0.0.1:3260", None);
    let bytes = pattern(100_000);
    pair.carry((Side::Client, client), (Side::Server, server), &bytes);
    pair.run(SECOND);
    let end = pair.now + 300 * SECOND;
    let mut wakes = 0;
    while let Some(at) = pair.server.deadline().min(pair.client.deadline())
        && at < end
    {
        wakes += 1;
        pair.now = pair.now.max(at);
        pair.settle();
    }
    // Keepalives of both sides, after 30 seconds each, and their wheels.
    assert!((4..400).contains(&wakes), "{wakes} times");
    pair.carry((Side::Server, server), (Side::Client, client), &bytes);
}

#[test]
fn replies_go_to_where_the_stream_goes_on() {
    let (mut stack, now) = ready(settings());
    let (from, to) = (([10, 0, 0, 2].into(), 40000), ([10, 0, 0, 1].into(), 3260));
    let from_mac = |mac, seq, ack, flags, bytes: &[u8]| {
        ethernet(
            OURS,
            mac,
            None,
            IPV4,
            &tcp(from, to, seq, ack, flags, bytes),
        )
    };
    let answer = answers(&mut stack, now, &[from_mac(THEIRS, 1, 0, SYN, b"")]);
    let isn = u32::from_be_bytes(*answer[0][38..].first_chunk().unwrap());
    let next = isn.wrapping_add(1);
    answers(&mut stack, now, &[from_mac(THEIRS, 2, next, ACK, b"")]);
    let answer = answers(&mut stack, now, &[from_mac(THEIRS, 2, next, ACK, b"abc")]);
    assert_eq!(answer.last().unwrap()[..6], THEIRS);
    let moved = [2, 0, 0, 0, 0, 77];
    // Somebody who does not know the numbers moves nothing.
    let forged = from_mac(moved, 0x7000_0000, next, ACK, b"abc");
    let answer = answers(&mut stack, now, &[forged]);
    assert!(
        answer.iter().all(|frame| frame[..6] == THEIRS),
        "{answer:?}"
    );
    // Nor what is inside of the window, and brings nothing.
    for (seq, bytes) in [(5, &b""[..]), (1000, b""), (2, b"abc"), (1000, b"xyz")] {
        answers(&mut stack, now, &[from_mac(moved, seq, next, ACK, bytes)]);
        let answer = answers(&mut stack, now, &[from_mac(THEIRS, 2, next, ACK, b"abc")]);
        assert_eq!(answer.last().unwrap()[..6], THEIRS, "{seq}");
    }
    answers(&mut stack, now, &[from_mac(moved, 5, next, ACK, b"def")]);
    let answer = answers(&mut stack, now, &[from_mac(moved, 8, next, ACK, b"ghi")]);
    assert_eq!(answer.last().unwrap()[..6], moved);
}

#[test]
fn peers_behind_a_router_are_answered_through_it() {
    let mut routed = settings();
    routed.networks[0].routes.push(Route {
        to: Address {
            ip: [0, 0, 0, 0].into(),
            prefix: 0,
        },
        via: [10, 0, 0, 254].into(),
    });
    let (mut stack, now) = ready(routed);
    let from_mac = [2, 0, 0, 0, 0, 99];
    let router = [2, 0, 0, 0, 0, 254];
    let packet = tcp(
        ([192, 0, 2, 9].into(), 40000),
        ([10, 0, 0, 1].into(), 3260),
        1,
        0,
        SYN,
        b"",
    );
    let syn = ethernet(OURS, from_mac, None, IPV4, &packet);
    let answer = answers(&mut stack, now, &[syn]);
    assert_eq!(answer[0][..6], from_mac, "nothing better is known yet");
    stack.tick(now);
    let asked = std::mem::take(&mut stack.port_mut().sent);
    let question = arp(1, (OURS, [10, 0, 0, 1]), ([0; 6], [10, 0, 0, 254]));
    assert_eq!(asked, [ethernet([0xFF; 6], OURS, None, 0x0806, &question)]);
    let reply = arp(2, (router, [10, 0, 0, 254]), (OURS, [10, 0, 0, 1]));
    answers(
        &mut stack,
        now,
        &[ethernet(OURS, router, None, 0x0806, &reply)],
    );
    // The SYN-ACK is sent again, to the router now.
    let mut again = vec![];
    let mut now = now;
    while again.is_empty() {
        now = stack.deadline().unwrap().max(now);
        stack.tick(now);
        stack.transmit(now);
        again = std::mem::take(&mut stack.port_mut().sent);
    }
    assert_eq!(again[0][..6], router);
}

#[test]
fn a_peer_that_has_moved_and_does_not_hear_us_is_asked_for() {
    let (mut stack, mut now) = ready(settings());
    let (from, to) = (([10, 0, 0, 2].into(), 40000), ([10, 0, 0, 1].into(), 3260));
    let moved = [2, 0, 0, 0, 0, 77];
    let from_mac = |mac, seq, ack, flags, bytes: &[u8]| {
        let packet = tcp(from, to, seq, ack, flags, bytes);
        ethernet(OURS, mac, None, IPV4, &packet)
    };
    let answer = answers(&mut stack, now, &[from_mac(THEIRS, 1, 0, SYN, b"")]);
    let isn = u32::from_be_bytes(*answer[0][38..].first_chunk().unwrap());
    let next = isn.wrapping_add(1);
    answers(&mut stack, now, &[from_mac(THEIRS, 2, next, ACK, b"abc")]);
    // Our acknowledgment was lost with the old station, so the same comes again.
    let again = from_mac(moved, 2, next, ACK, b"abc");
    for _ in 0..4 {
        now += SECOND;
        answers(&mut stack, now, std::slice::from_ref(&again));
    }
    stack.tick(now);
    let asked = std::mem::take(&mut stack.port_mut().sent);
    let question = arp(1, (OURS, [10, 0, 0, 1]), ([0; 6], [10, 0, 0, 2]));
    assert_eq!(asked, [ethernet([0xFF; 6], OURS, None, 0x0806, &question)]);
    let reply = arp(2, (moved, [10, 0, 0, 2]), (OURS, [10, 0, 0, 1]));
    answers(
        &mut stack,
        now,
        &[ethernet(OURS, moved, None, 0x0806, &reply)],
    );
    let answer = answers(&mut stack, now, &[again]);
    assert_eq!(answer.last().unwrap()[..6], moved);
}

#[test]
fn a_slot_that_is_freed_again_and_again_waits_once() {
    let (mut stack, now) = ready(settings());
    let (from, to) = (([10, 0, 0, 2].into(), 40000), ([10, 0, 0, 1].into(), 3260));
    let send = |stack: &mut Stack<Tape>, seq, ack, flags| {
        let packet = tcp(from, to, seq, ack, flags, b"");
        let frame = ethernet(OURS, THEIRS, None, IPV4, &packet);
        stack.receive_frame(now, Frame::copied(&frame));
    };
    for round in 0..1000_u32 {
        send(&mut stack, round * 10, 0, SYN);
        // It is reset before it was its turn.
        send(&mut stack, round * 10 + 1, 0, 0x04);
        assert!(stack.dirty.len() <= 1 && stack.flows() <= 1, "{stack:?}");
    }
}

#[test]
fn a_reset_that_found_the_port_full_goes_out_later() {
    let (mut stack, now) = ready(settings());
    let (from, to) = (([10, 0, 0, 2].into(), 40000), ([10, 0, 0, 1].into(), 3260));
    let frame = |seq, ack, flags| {
        let packet = tcp(from, to, seq, ack, flags, b"");
        ethernet(OURS, THEIRS, None, IPV4, &packet)
    };
    let answer = answers(&mut stack, now, &[frame(1, 0, SYN)]);
    let isn = u32::from_be_bytes(*answer[0][38..].first_chunk().unwrap());
    answers(&mut stack, now, &[frame(2, isn.wrapping_add(1), ACK)]);
    let told = events(&mut stack);
    let [Event::Opened { flow, .. }] = told[..] else {
        panic!("{told:?}");
    };
    stack.port_mut().room = 0;
    stack.abort(flow);
    assert!(!stack.transmit(now), "the port is full");
    stack.port_mut().room = usize::MAX;
    let now = stack.deadline().unwrap();
    stack.transmit(now);
    let sent = std::mem::take(&mut stack.port_mut().sent);
    assert_eq!(sent.len(), 1);
    assert_ne!(sent[0][47] & 0x04, 0, "a reset");
    assert_eq!(stack.deadline(), None);
}

#[test]
fn a_portal_is_in_one_network_only() {
    let mut twice = settings();
    twice.networks[1].addresses[0].ip = [10, 0, 0, 1].into();
    let (mut stack, now) = ready(twice);
    let packet = tcp(
        ([10, 0, 0, 2].into(), 40000),
        ([10, 0, 0, 1].into(), 3260),
        1,
        0,
        SYN,
        b"",
    );
    for (vlan, taken) in [(Some(7), 0), (None, 1)] {
        let syn = ethernet(OURS, THEIRS, vlan, IPV4, &packet);
        answers(&mut stack, now, &[syn]);
        assert_eq!(stack.flows(), taken);
    }
}

#[test]
fn flows_that_are_over_make_room_the_oldest_first() {
    let few = super::Settings {
        flows_max: 4,
        ..settings()
    };
    let mut pair = Pair::new(few);
    let mut firsts = vec![];
    for round in 0..40 {
        // The server ends, and the client does not: FIN-WAIT-2.
        let (client, server, key) = pair.connect("10.0.0.2:0", "10.0.0.1:3260", None);
        pair.server.finish(server);
        pair.run(20 * MS);
        pair.client.abort(client);
        pair.client.port_mut().flush();
        let mut lost = Burst::new();
        pair.server.port_mut().receive(&mut lost);
        assert_eq!(lost.len(), 1, "the reset");
        firsts.push(key);
        let expected = (round + 1).min(4);
        assert_eq!(pair.server.flows(), expected, "in round {round}");
        let known = firsts.iter().rev().take(expected);
        assert!(
            known
                .clone()
                .all(|key| pair.server.table.find(key).is_some())
        );
        assert!(pair.server.over.len() <= 8);
    }
}

#[test]
fn messages_about_no_flow_do_not_stop_those_about_one() {
    let mut pair = Pair::new(settings());
    let (_, server, key) = pair.connect("10.0.0.2:0", "10.0.0.1:3260", None);
    let too_big = |seq: u32, port: u16| {
        let (from, to) = (([10, 0, 0, 1].into(), 3260), ([10, 0, 0, 2].into(), port));
        let mut quoted = tcp(from, to, seq, 0, ACK, b"");
        quoted[2..4].copy_from_slice(&1500_u16.to_be_bytes());
        let mut rest = vec![0, 0, 4, 0];
        rest.extend(&quoted[..28]);
        let packet = ipv4([10, 0, 0, 254], [10, 0, 0, 1], 1, &icmpv4(3, 4, &rest));
        let frame = ethernet([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9], None, IPV4, &packet);
        Frame::copied(&frame)
    };
    let bytes = pattern(5000);
    pair.server.send(server, &[Piece::Bytes(&bytes)]).unwrap();
    pair.server.transmit(pair.now);
    let mut burst = Burst::new();
    pair.client.port_mut().receive(&mut burst);
    let seq = u32::from_be_bytes(*burst[0].head()[14 + 20 + 4..].first_chunk().unwrap());
    for number in 0..5000 {
        let (seq, port) = if number % 2 == 0 {
            (seq, 1)
        } else {
            (seq.wrapping_sub(1000), key.peer.port())
        };
        pair.server.receive_frame(pair.now, too_big(seq, port));
    }
    assert_eq!(pair.server.counters().path_mtus, 0);
    pair.server
        .receive_frame(pair.now, too_big(seq, key.peer.port()));
    assert_eq!(pair.server.counters().path_mtus, 1);
}
