//! ARP, neighbour discovery, echo, and who has which address.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;

use super::super::model::Neighbour;
use super::super::{AddressNews, AddressState, Dropped, Event, Stack};
use super::tape::{OURS, THEIRS, Tape, arp, ethernet, icmpv4, icmpv6, ipv4, ipv6, tcp};
use super::{MS, answers, events, ready, settings};
use crate::port::remote::Requests;
use crate::port::{Frame, Port};

const ALL: [u8; 6] = [0xFF; 6];
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86DD;
const OUR_IP: [u8; 4] = [10, 0, 0, 1];
const THEIR_IP: [u8; 4] = [10, 0, 0, 2];

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn question(vlan: Option<u16>, ip: [u8; 4]) -> Vec<u8> {
    let [a, b, c, _] = ip;
    let packet = arp(1, (THEIRS, [a, b, c, 2]), ([0; 6], ip));
    ethernet(ALL, THEIRS, vlan, ARP, &packet)
}

#[test]
fn arp_is_answered_in_the_vlan_of_the_address_only() {
    let (mut stack, now) = ready(settings());
    let answer = answers(&mut stack, now, &[question(None, OUR_IP)]);
    let expected = arp(2, (OURS, OUR_IP), (THEIRS, THEIR_IP));
    assert_eq!(answer, [ethernet(THEIRS, OURS, None, ARP, &expected)]);
    let answer = answers(&mut stack, now, &[question(Some(7), [10, 0, 7, 1])]);
    let expected = arp(2, (OURS, [10, 0, 7, 1]), (THEIRS, [10, 0, 7, 2]));
    // With the priority of its network.
    let mut frame = ethernet(THEIRS, OURS, Some(7), ARP, &expected);
    frame[14] |= 3 << 5;
    assert_eq!(answer, [frame]);
    for (vlan, ip) in [
        (Some(7), OUR_IP),
        (None, [10, 0, 7, 1]),
        (Some(8), OUR_IP),
        (None, [10, 0, 0, 9]),
    ] {
        assert!(answers(&mut stack, now, &[question(vlan, ip)]).is_empty());
    }
    assert_eq!(stack.counters().dropped(Dropped::OtherVlan), 1);
    let learned = events(&mut stack)
        .into_iter()
        .filter_map(|event| match event {
            Event::Learned(neighbour) => Some(neighbour),
            _ => None,
        })
        .collect::<Vec<_>>();
    let expected = [(None, THEIR_IP), (Some(7), [10, 0, 7, 2])].map(|(vlan, ip)| Neighbour {
        vlan,
        ip: IpAddr::from(ip),
        mac: THEIRS,
    });
    assert_eq!(learned, expected, "each once, for the other cores");
}

#[test]
fn neighbour_solicitations_are_answered() {
    let (mut stack, now) = ready(settings());
    let (ours, theirs) = (v6("fd00::1"), v6("fd00::2"));
    let group = v6("ff02::1:ff00:1");
    let mut rest = vec![0; 4];
    rest.extend(ours.octets());
    rest.extend([1, 1]);
    rest.extend(THEIRS);
    let message = icmpv6(theirs, group, 135, 0, &rest);
    let group_mac = [0x33, 0x33, 0xFF, 0, 0, 1];
    let ask = |hops| {
        let packet = ipv6(theirs, group, 58, hops, &message);
        ethernet(group_mac, THEIRS, None, IPV6, &packet)
    };
    let answer = answers(&mut stack, now, &[ask(255)]);
    let mut rest = vec![0x60, 0, 0, 0];
    rest.extend(ours.octets());
    rest.extend([2, 1]);
    rest.extend(OURS);
    let message = icmpv6(ours, theirs, 136, 0, &rest);
    let packet = ipv6(ours, theirs, 58, 255, &message);
    assert_eq!(answer, [ethernet(THEIRS, OURS, None, IPV6, &packet)]);
    assert!(
        answers(&mut stack, now, &[ask(254)]).is_empty(),
        "from afar"
    );
}

#[test]
fn echoes_come_back_up_to_the_mtu() {
    let (mut stack, now) = ready(settings());
    for len in [0, 1, 56, 9000 - 28] {
        let body: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let rest = [&[1, 2, 3, 4][..], &body].concat();
        let packet = ipv4(THEIR_IP, OUR_IP, 1, &icmpv4(8, 0, &rest));
        let frame = ethernet(OURS, THEIRS, None, IPV4, &packet);
        let expected = ipv4(OUR_IP, THEIR_IP, 1, &icmpv4(0, 0, &rest));
        let answer = answers(&mut stack, now, &[frame]);
        assert_eq!(answer, [ethernet(THEIRS, OURS, None, IPV4, &expected)]);
    }
    let (ours, theirs) = (v6("fd00:7::1"), v6("fd00:7::9"));
    let rest = [7; 8000];
    let message = icmpv6(theirs, ours, 128, 0, &rest);
    let packet = ipv6(theirs, ours, 58, 64, &message);
    let frame = ethernet(OURS, THEIRS, Some(7), IPV6, &packet);
    let message = icmpv6(ours, theirs, 129, 0, &rest);
    let packet = ipv6(ours, theirs, 58, 64, &message);
    let mut expected = ethernet(THEIRS, OURS, Some(7), IPV6, &packet);
    expected[14] |= 3 << 5;
    assert_eq!(answers(&mut stack, now, &[frame]), [expected]);
    assert_eq!(stack.counters().echoes, 5);
}

#[test]
fn echoes_to_others_to_groups_and_too_many_are_not_answered() {
    let (mut stack, now) = ready(settings());
    let ping = |dest_mac, dest| {
        let packet = ipv4(THEIR_IP, dest, 1, &icmpv4(8, 0, &[0; 60]));
        ethernet(dest_mac, THEIRS, None, IPV4, &packet)
    };
    for (mac, ip) in [
        (OURS, [10, 0, 0, 9]),
        (ALL, [10, 0, 0, 255]),
        (ALL, OUR_IP),
        (OURS, [10, 0, 7, 1]),
        ([2, 9, 9, 9, 9, 9], OUR_IP),
    ] {
        assert!(answers(&mut stack, now, &[ping(mac, ip)]).is_empty());
    }
    let flood = vec![ping(OURS, OUR_IP); 5000];
    let some = answers(&mut stack, now, &flood).len();
    assert!((1..=1000).contains(&some), "{some}");
    let dropped = stack.counters().dropped(Dropped::Limited);
    assert_eq!(dropped, u64::try_from(5000 - some).unwrap());
}

#[test]
fn addresses_are_probed_then_announced_and_not_served_before() {
    let start = crate::net::some_instant();
    let mut stack = Stack::new(Tape::new(0), &Arc::new(settings()), start).unwrap();
    stack.port_mut().is_up = false;
    stack.tick(start);
    assert!(stack.port().sent.is_empty(), "there is no link");
    stack.port_mut().is_up = true;
    let (mut probes, mut announcements) = (vec![], vec![]);
    while let Some(now) = stack.deadline() {
        stack.tick(now);
        let told = events(&mut stack).len();
        for frame in std::mem::take(&mut stack.port_mut().sent) {
            if frame.len() == 42 && frame[28..32] == [0; 4] {
                probes.push(now - start);
            } else if frame.len() == 42 {
                announcements.push(now - start);
                assert_eq!(frame[28..32], OUR_IP, "of itself");
                assert_eq!(frame[38..42], OUR_IP);
            }
        }
        if announcements.is_empty() && told == 0 {
            let question = question(None, OUR_IP);
            assert!(answers(&mut stack, now, &[question]).is_empty());
        }
    }
    let times = |ms: &[u32]| ms.iter().map(|&ms| MS * ms).collect::<Vec<_>>();
    assert_eq!(probes, times(&[500, 1000, 1500]));
    assert_eq!(announcements, times(&[2000, 4000]));
}

#[test]
fn an_address_that_another_station_has_is_not_used() {
    for probe in [false, true] {
        let now = crate::net::some_instant();
        let mut stack = Stack::new(Tape::new(0), &Arc::new(settings()), now).unwrap();
        stack.tick(now);
        let sender = if probe { [0; 4] } else { OUR_IP };
        let packet = arp(1, (THEIRS, sender), ([0; 6], OUR_IP));
        let claim = ethernet(ALL, THEIRS, None, ARP, &packet);
        answers(&mut stack, now, &[claim]);
        let news = AddressNews {
            vlan: None,
            ip: IpAddr::from(OUR_IP),
            state: AddressState::Duplicate { mac: THEIRS },
            is_decided: true,
        };
        let told = events(&mut stack);
        assert!(
            matches!(told[..], [Event::Address(it)] if it == news),
            "{told:?}"
        );
        let start = now;
        let soon = |at: &Instant| *at < start + MS * 59_000;
        let mut now = now;
        while let Some(at) = stack.deadline().filter(soon) {
            now = at;
            stack.tick(now);
        }
        stack.port_mut().sent.clear();
        let questions = [question(None, OUR_IP), question(Some(7), [10, 0, 7, 1])];
        assert_eq!(
            answers(&mut stack, now, &questions).len(),
            1,
            "the other one"
        );
    }
}

#[test]
fn the_other_version_s_duplicates_are_found_too_and_told_to_other_queues() {
    let now = crate::net::some_instant();
    let mut first = Stack::new(Tape::new(0), &Arc::new(settings()), now).unwrap();
    let mut second = Stack::new(Tape::new(1), &Arc::new(settings()), now).unwrap();
    first.tick(now);
    second.tick(now);
    assert_eq!(first.port().sent.len(), 4);
    assert!(second.port().sent.is_empty(), "one queue probes");
    let ours = v6("fd00::1");
    let mut rest = vec![0x20, 0, 0, 0];
    rest.extend(ours.octets());
    rest.extend([2, 1]);
    rest.extend(THEIRS);
    let all = v6("ff02::1");
    let packet = ipv6(ours, all, 58, 255, &icmpv6(ours, all, 136, 0, &rest));
    let claim = ethernet([0x33, 0x33, 0, 0, 0, 1], THEIRS, None, IPV6, &packet);
    answers(&mut second, now, &[claim]);
    let told = events(&mut second);
    let [Event::Address(news)] = told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(news.state, AddressState::Duplicate { mac: THEIRS });
    assert!(!news.is_decided, "the first queue decides");
    first.learn_address(news, now);
    let decided: Vec<_> = address_news(&mut first);
    let expected = AddressNews {
        is_decided: true,
        ..news
    };
    assert_eq!(decided, [expected]);
    let mut ours_now = vec![];
    while let Some(at) = first.deadline().filter(|&at| at < now + MS * 59_000) {
        first.tick(at);
        ours_now.extend(events(&mut first));
    }
    assert_eq!(ours_now.len(), 3, "{ours_now:?}");
}

/// It cannot know whether anybody objects.
#[test]
fn a_core_without_a_queue_decides_about_no_address() {
    let mut now = crate::net::some_instant();
    let requests = Requests::new(Tape::new(0).capabilities(), 64).unwrap();
    let mut stack = Stack::new(requests.remote(), &Arc::new(settings()), now).unwrap();
    for _ in 0..100 {
        stack.tick(now);
        assert!(stack.next_event().is_none());
        now += MS * 100;
    }
    let news = AddressNews {
        vlan: None,
        ip: IpAddr::from(OUR_IP),
        state: AddressState::Ours,
        is_decided: true,
    };
    stack.learn_address(news, now);
    let (ours, theirs) = ((OUR_IP, 50_000).into(), (THEIR_IP, 3260).into());
    assert!(stack.connect(ours, theirs, None, now).is_some());
}

fn address_news(stack: &mut Stack<Tape>) -> Vec<AddressNews> {
    let news = events(stack).into_iter().filter_map(|event| match event {
        Event::Address(news) => Some(news),
        _ => None,
    });
    news.collect()
}

#[test]
fn queues_agree_whoever_hears_of_another_station_and_when() {
    // The other queue hears of it before it knows what the first one has decided, and after.
    for late in [false, true] {
        let mut now = crate::net::some_instant();
        let settings = Arc::new(settings());
        let mut first = Stack::new(Tape::new(0), &settings, now).unwrap();
        let mut second = Stack::new(Tape::new(1), &settings, now).unwrap();
        let packet = arp(2, (THEIRS, OUR_IP), (OURS, OUR_IP));
        let claim = ethernet(ALL, THEIRS, None, ARP, &packet);
        let mut said = vec![];
        for _ in 0..20 {
            first.tick(now);
            said.extend(address_news(&mut first));
            now += MS * 100;
        }
        first.port_mut().sent.clear();
        assert_eq!(said.len(), 4);
        second.tick(now);
        assert!(events(&mut second).is_empty(), "it decides nothing");
        let ask = [question(None, OUR_IP)];
        assert!(answers(&mut second, now, &ask).is_empty());
        if late {
            for news in said.drain(..) {
                second.learn_address(news, now);
            }
            assert_eq!(answers(&mut second, now, &ask).len(), 1);
        }
        answers(&mut second, now, &[claim]);
        let heard = address_news(&mut second);
        let [news] = heard[..] else {
            panic!("{heard:?}");
        };
        first.learn_address(news, now);
        said.extend(address_news(&mut first));
        for news in said {
            second.learn_address(news, now);
        }
        let served = [&mut first, &mut second].map(|stack| answers(stack, now, &ask).len());
        assert_eq!(served, if late { [1, 1] } else { [0, 0] });
    }
}

#[test]
fn an_address_that_became_free_is_served() {
    let mut now = crate::net::some_instant();
    let mut stack = Stack::new(Tape::new(0), &Arc::new(settings()), now).unwrap();
    let packet = arp(2, (THEIRS, OUR_IP), (OURS, OUR_IP));
    let claim = ethernet(ALL, THEIRS, None, ARP, &packet);
    let start = now;
    // The station is there for two more rounds of probing.
    let mut told = vec![];
    while let Some(at) = stack.deadline().filter(|&at| at < start + MS * 300_000) {
        now = at;
        stack.tick(now);
        if now < start + MS * 125_000 {
            answers(&mut stack, now, std::slice::from_ref(&claim));
        }
        let of_it = |news: &AddressNews| news.ip == IpAddr::from(OUR_IP);
        told.extend(address_news(&mut stack).into_iter().filter(of_it));
    }
    let told: Vec<_> = told.into_iter().map(|news| news.state).collect();
    let (other, none) = (
        AddressState::Duplicate { mac: THEIRS },
        AddressState::Tentative,
    );
    assert_eq!(
        told,
        [other, none, other, none, other, none, AddressState::Ours]
    );
    stack.port_mut().sent.clear();
    assert_eq!(answers(&mut stack, now, &[question(None, OUR_IP)]).len(), 1);
}

#[test]
fn an_address_in_use_is_defended_now_and_then() {
    let (mut stack, now) = ready(settings());
    let packet = arp(1, (THEIRS, OUR_IP), ([0; 6], OUR_IP));
    let claim = ethernet(ALL, THEIRS, None, ARP, &packet);
    let announcement = arp(1, (OURS, OUR_IP), ([0; 6], OUR_IP));
    let defence = ethernet(ALL, OURS, None, ARP, &announcement);
    let claims = [claim.clone(), claim.clone()];
    assert_eq!(
        answers(&mut stack, now, &claims),
        std::slice::from_ref(&defence)
    );
    let told = events(&mut stack);
    assert!(
        matches!(told[..], [Event::Address(news)]
            if news.state == AddressState::Contested { mac: THEIRS }),
        "{told:?}"
    );
    let later = now + MS * 10_000;
    assert_eq!(answers(&mut stack, later, &[claim]), [defence]);
    assert_eq!(
        answers(&mut stack, later, &[question(None, OUR_IP)]).len(),
        1
    );
}

#[test]
fn strangers_are_reset_but_resets_never_answered() {
    let (mut stack, now) = ready(settings());
    let (from, to) = ((THEIR_IP.into(), 40000), (OUR_IP.into(), 99));
    let send = |flags, ack| {
        let packet = tcp(from, to, 1000, ack, flags, b"abc");
        ethernet(OURS, THEIRS, None, IPV4, &packet)
    };
    let reset = |seq, ack, flags: u8| {
        let mut packet = tcp(to, from, seq, ack, flags, b"");
        // No window.
        packet[34..36].copy_from_slice(&[0, 0]);
        let sum = u16::from_be_bytes([packet[36], packet[37]]);
        (ethernet(THEIRS, OURS, None, IPV4, &packet), sum)
    };
    let same = |answer: &[Vec<u8>], (expected, _): (Vec<u8>, u16)| {
        assert_eq!(answer.len(), 1);
        assert_eq!(answer[0][..50], expected[..50]);
    };
    // An acknowledgment is taken up, or else the segment acknowledged (RFC 9293 §3.10.7.1).
    same(
        &answers(&mut stack, now, &[send(0x10, 77)]),
        reset(77, 0, 0x04),
    );
    same(
        &answers(&mut stack, now, &[send(0x02, 0)]),
        reset(0, 1004, 0x14),
    );
    assert!(answers(&mut stack, now, &[send(0x04, 0)]).is_empty());
    assert!(answers(&mut stack, now, &[send(0x14, 5)]).is_empty());
    let scan = (1..5000_u16).map(|port| {
        let packet = tcp(from, (OUR_IP.into(), port), 1, 0, 0x02, b"");
        ethernet(OURS, THEIRS, None, IPV4, &packet)
    });
    let scan: Vec<_> = scan
        .filter(|frame| frame[36..38] != 3260_u16.to_be_bytes())
        .collect();
    let some = answers(&mut stack, now, &scan).len();
    assert!((1..=1000).contains(&some), "{some}");
    assert_eq!(
        stack.counters().resets_sent,
        u64::try_from(some + 2).unwrap()
    );
}

#[test]
fn a_full_port_costs_an_answer_and_nothing_else() {
    let (mut stack, now) = ready(settings());
    stack.port_mut().room = 1;
    let questions = [question(None, OUR_IP), question(None, OUR_IP)];
    assert_eq!(answers(&mut stack, now, &questions).len(), 1);
    assert_eq!(stack.counters().dropped(Dropped::PortFull), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_are_too_hostile(
        frames in proptest::collection::vec(
            (
                proptest::collection::vec(any::<u8>(), 0..200),
                any::<prop::sample::Index>(),
                any::<prop::sample::Index>(),
                any::<bool>(),
            ),
            1..60,
        ),
    ) {
        let (mut stack, now) = ready(settings());
        let (from, to) = ((THEIR_IP.into(), 40000), (OUR_IP.into(), 3260));
        let ours = v6("fd00::1");
        let theirs = v6("fd00::2");
        let mut rest = vec![0; 4];
        rest.extend(ours.octets());
        rest.extend([1, 1, 2, 0, 0, 0, 0, 9]);
        let good = [
            question(None, OUR_IP),
            ethernet(OURS, THEIRS, None, IPV4, &tcp(from, to, 1, 0, 2, b"")),
            ethernet(OURS, THEIRS, None, IPV4, &tcp(from, to, 2, 9, 0x10, b"xyz")),
            ethernet(OURS, THEIRS, None, IPV4, &ipv4(THEIR_IP, OUR_IP, 1, &icmpv4(8, 0, b"12345"))),
            ethernet(
                OURS, THEIRS, None, IPV6,
                &ipv6(theirs, ours, 58, 255, &icmpv6(theirs, ours, 135, 0, &rest)),
            ),
        ];
        let count = u64::try_from(frames.len()).unwrap();
        for (noise, pick, place, verified) in frames {
            let mut frame = good[pick.index(good.len())].clone();
            let at = place.index(frame.len());
            for (byte, noise) in frame[at..].iter_mut().zip(&noise) {
                *byte ^= noise;
            }
            let mut frame = Frame::copied(&frame);
            // Or nothing would come past the checksums.
            if verified {
                frame.checksum = crate::port::Checksum::Good;
            }
            let before = stack.counters().frames;
            stack.receive_frame(now, frame);
            stack.receive_frame(now, Frame::copied(&noise));
            prop_assert_eq!(stack.counters().frames, before + 2);
            stack.transmit(now);
        }
        prop_assert_eq!(stack.counters().frames, count * 2);
    }
}

#[test]
fn an_advertisement_that_overrides_nothing_moves_nobody() {
    let (mut stack, now) = ready(settings());
    let (ours, theirs) = (v6("fd00::1"), v6("fd00::2"));
    stack.neighbours.look_up(None, theirs.into(), now);
    let mut say = |mac: [u8; 6], flags: u8| {
        let mut rest = vec![flags, 0, 0, 0];
        rest.extend(theirs.octets());
        rest.extend([2, 1]);
        rest.extend(mac);
        let message = icmpv6(theirs, ours, 136, 0, &rest);
        let packet = ipv6(theirs, ours, 58, 255, &message);
        answers(&mut stack, now, &[ethernet(OURS, mac, None, IPV6, &packet)]);
        stack.neighbours.look_up(None, theirs.into(), now)
    };
    let other = [2, 0, 0, 0, 0, 77];
    // Solicited, without and with Override (RFC 4861 §7.2.5).
    assert_eq!(say(THEIRS, 0x40), Some(THEIRS), "the first that is known");
    assert_eq!(say(other, 0x40), Some(THEIRS));
    assert_eq!(say(other, 0x60), Some(other));
}

#[test]
fn a_flood_of_new_stations_is_remembered_as_far_as_it_is_answered() {
    let (mut stack, now) = ready(settings());
    let before = stack.neighbours.changes();
    let mut told = 0;
    for number in 0..20_000_u16 {
        let [high, low] = number.to_be_bytes();
        let mac = [2, 1, 1, 1, high, low];
        let operation = 1 + number % 2;
        let sender = [10, 0, 0, low.max(2)];
        let packet = arp(operation, (mac, sender), (OURS, OUR_IP));
        answers(&mut stack, now, &[ethernet(OURS, mac, None, ARP, &packet)]);
        told += events(&mut stack).len();
    }
    assert!(told <= 2000, "{told}");
    assert_eq!(stack.neighbours.changes(), before, "nobody looked them up");
}
