//! The numbers against smoltcp's generator, and cookies against forgery and age.

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, Loopback, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::*;
use crate::net::stack::packet::emit::{Bare, LinkHeader};
use crate::net::stack::packet::{Parsed, Timestamps, parse};
use crate::port::Frame;

const LINK: LinkHeader = LinkHeader {
    dest: [2, 0, 0, 0, 0, 1],
    source: [2, 0, 0, 0, 0, 2],
    tag: None,
};

fn key(peer: &str) -> FlowKey {
    let local = if peer.starts_with('[') {
        "[fd00::1]:3260"
    } else {
        "10.0.0.1:3260"
    };
    FlowKey {
        vlan: None,
        local: local.parse().unwrap(),
        peer: peer.parse().unwrap(),
    }
}

/// As it comes from the peer of `key`.
fn segment(key: FlowKey, set: impl FnOnce(&mut Bare)) -> Segment {
    let theirs = FlowKey {
        vlan: key.vlan,
        local: key.peer,
        peer: key.local,
    };
    let mut bare = Bare::new(theirs, Seq(4_294_967_000), Seq(0), Flags::SYN);
    set(&mut bare);
    match parse(&Frame::copied(&bare.to_frame(&LINK, &[]))) {
        Ok(Parsed::Tcp(segment)) => segment,
        other => panic!("not TCP: {other:?}"),
    }
}

fn numbers() -> (Numbers, Instant) {
    let epoch = crate::net::some_instant();
    let secret = std::array::from_fn(|index| u8::try_from(index * 7).unwrap());
    (Numbers::new(&secret, epoch), epoch)
}

/// A number that looks like any other.
fn mix(index: u32) -> u32 {
    let mixed = index.wrapping_add(1).wrapping_mul(0x9E37_79B1);
    (mixed ^ mixed >> 15).wrapping_mul(0x85EB_CA6B)
}

/// The initial sequence number of the first connection of an interface with that seed.
fn first_isn(seed: u64) -> u32 {
    let mut device = Loopback::new(Medium::Ip);
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let zero = smoltcp::time::Instant::ZERO;
    let mut iface = Interface::new(config, &mut device, zero);
    let key = key("10.0.0.2:40000");
    iface.update_ip_addrs(|addresses| {
        addresses
            .push(IpCidr::new(key.local.ip().into(), 32))
            .unwrap();
    });
    let buffer = || tcp::SocketBuffer::new(vec![0; 64]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.listen(key.local.port()).unwrap();
    let mut sockets = SocketSet::new(vec![]);
    sockets.add(socket);
    let theirs = FlowKey {
        vlan: None,
        local: key.peer,
        peer: key.local,
    };
    let frame = Bare::new(theirs, Seq(1), Seq(0), Flags::SYN).to_frame(&LINK, &[]);
    let packet = &frame[14..];
    let token = device.transmit(zero).unwrap();
    token.consume(packet.len(), |buffer| buffer.copy_from_slice(packet));
    iface.poll_ingress_single(zero, &mut device, &mut sockets);
    iface.poll_egress(zero, &mut device, &mut sockets);
    let (answer, _) = device.receive(zero).unwrap();
    answer.consume(|packet| u32::from_be_bytes(packet[24..28].try_into().unwrap()))
}

#[test]
fn a_flow_draws_the_number_that_was_chosen() {
    for index in 0..10_000 {
        let isn = mix(index);
        assert_eq!(first_isn(seed_for(Seq(isn))), isn, "of index {index}");
    }
    for isn in [0, 1, u32::MAX, 0x8000_0000] {
        assert_eq!(first_isn(seed_for(Seq(isn))), isn);
    }
}

#[test]
fn a_draw_that_smoltcp_would_repeat_is_avoided() {
    // One of so many has an identification of 0 with the first low bits: it needs the next ones.
    let avoided = (0..1 << 20)
        .map(mix)
        .filter(|&isn| draws_16_bits(step_back(u64::from(isn) << 29)) == 0)
        .inspect(|&isn| assert_eq!(first_isn(seed_for(Seq(isn))), isn))
        .count();
    assert!(avoided > 0);
}

#[test]
fn the_hash_is_siphash_2_4() {
    // The vector of its authors: key 00 to 0F, message 00 to 0E.
    let words = [0x0706_0504_0302_0100, 0x0F0E_0D0C_0B0A_0908];
    #[expect(deprecated, reason = "as in Secret::hash")]
    let mut hasher = std::hash::SipHasher::new_with_keys(words[0], words[1]);
    hasher.write(&std::array::from_fn::<u8, 15, _>(|index| {
        u8::try_from(index).unwrap()
    }));
    assert_eq!(hasher.finish(), 0xA129_CA61_49BE_45E5);
}

#[test]
fn numbers_of_one_connection_follow_the_clock_and_differ_between_connections() {
    let (numbers, epoch) = numbers();
    let (one, other) = (key("10.0.0.2:40000"), key("10.0.0.2:40001"));
    let first = numbers.isn(&one, epoch);
    let later = numbers.isn(&one, epoch + Duration::from_millis(1));
    assert_eq!(later.since(first), 250);
    let tagged = FlowKey {
        vlan: Some(7),
        ..one
    };
    let ten_hours = epoch + Duration::from_hours(10);
    assert_eq!(numbers.isn(&one, ten_hours), first.plus(410_065_408));
    assert_ne!(numbers.isn(&other, epoch), first);
    assert_ne!(numbers.isn(&tagged, epoch), first);
    let stranger = Numbers::new(&[9; 32], epoch);
    assert_ne!(stranger.isn(&one, epoch), first);
}

/// The SYN that is answered with a cookie, and the acknowledgment that brings it back.
fn handshake(
    numbers: &Numbers,
    key: FlowKey,
    now: Instant,
    set: impl FnOnce(&mut Bare),
) -> (Cookie, Segment) {
    let syn = segment(key, set);
    let cookie = numbers.cookie(&syn, 0x1234_5678, now).unwrap();
    let ack = segment(key, |bare| {
        bare.flags = Flags::ACK;
        bare.seq = syn.seq.plus(1);
        bare.ack = cookie.isn.plus(1);
        bare.timestamps = cookie.timestamp.map(|echo| Timestamps { value: 78, echo });
    });
    (cookie, ack)
}

#[test]
fn a_cookie_brings_back_what_the_syn_said() {
    let (numbers, epoch) = numbers();
    let now = epoch + Duration::from_secs(1000);
    for peer in ["10.0.0.2:40000", "[fd00::2]:40000"] {
        let (cookie, ack) = handshake(&numbers, key(peer), now, |syn| {
            syn.mss = Some(8960);
            syn.window_scale = Some(14);
            syn.sack_permitted = true;
            syn.timestamps = Some(Timestamps { value: 77, echo: 0 });
        });
        let back = numbers.open(&ack, now).unwrap();
        let expected = CookieContents {
            isn: cookie.isn,
            irs: Seq(4_294_967_000),
            mss: 8960,
            window_scale: Some(14),
            sack_permitted: true,
            timestamp: Some(78),
        };
        assert_eq!(back, expected);
        assert!(cookie.timestamp.is_some_and(|told| told <= 0x1234_5678));
    }
}

#[test]
fn a_peer_without_timestamps_gets_neither_scale_nor_sack() {
    let (numbers, epoch) = numbers();
    let peer = key("10.0.0.2:40000");
    let (cookie, ack) = handshake(&numbers, peer, epoch, |syn| {
        syn.mss = Some(1459);
        syn.window_scale = Some(7);
        syn.sack_permitted = true;
    });
    assert_eq!((cookie.window_scale, cookie.sack_permitted), (None, false));
    let back = numbers.open(&ack, epoch).unwrap();
    assert_eq!((back.window_scale, back.sack_permitted), (None, false));
    assert_eq!((back.mss, back.timestamp), (1440, None));
}

#[test]
fn a_segment_size_is_never_more_than_the_peer_takes() {
    let (numbers, epoch) = numbers();
    for peer in ["10.0.0.2:40000", "[fd00::2]:40000"] {
        for mss in [None, Some(216), Some(535), Some(9000), Some(u16::MAX)] {
            let (_, ack) = handshake(&numbers, key(peer), epoch, |syn| syn.mss = mss);
            let back = numbers.open(&ack, epoch).unwrap().mss;
            let default = if peer.starts_with('[') { 1220 } else { 536 };
            let most = mss.unwrap_or(default);
            assert!(back <= most && back >= 216);
        }
    }
    for mss in [0, 215] {
        let small = segment(key("10.0.0.2:40000"), |syn| syn.mss = Some(mss));
        assert_eq!(numbers.cookie(&small, 0, epoch), None);
    }
}

#[test]
fn cookies_end_with_the_period_after_theirs() {
    let (numbers, epoch) = numbers();
    for start in [0, 31, 1023, 32 * 31, 32 * 1000 + 5] {
        let made = epoch + Duration::from_secs(start);
        let (_, ack) = handshake(&numbers, key("10.0.0.2:40000"), made, |_| {});
        let is_good = |age: u64| {
            numbers
                .open(&ack, made + Duration::from_secs(age))
                .is_some()
        };
        let left = 64 - start % 32;
        assert!(is_good(0) && is_good(1) && is_good(32) && is_good(left - 1));
        for late in [
            left,
            left + 1,
            left + 32,
            32 * 31,
            32 * 32,
            32 * 32 + 1,
            100_000,
        ] {
            assert!(!is_good(late), "{late} s after {start} s");
        }
    }
}

#[test]
fn a_cookie_is_good_for_its_connection_only() {
    let (numbers, epoch) = numbers();
    let timed = |syn: &mut Bare| {
        syn.timestamps = Some(Timestamps { value: 7, echo: 0 });
        syn.window_scale = Some(7);
    };
    let (_, ack) = handshake(&numbers, key("10.0.0.2:40000"), epoch, timed);
    assert!(numbers.open(&ack, epoch).is_some());
    let changed = |change: fn(&mut Segment)| {
        let mut changed = ack.clone();
        change(&mut changed);
        numbers.open(&changed, epoch)
    };
    assert_eq!(changed(|ack| ack.key.peer.set_port(40001)), None);
    assert_eq!(changed(|ack| ack.key.local.set_port(3261)), None);
    assert_eq!(changed(|ack| ack.key.vlan = Some(5)), None);
    assert_eq!(changed(|ack| ack.seq = ack.seq.plus(1)), None);
    assert_eq!(changed(|ack| ack.ack = ack.ack.plus(1)), None);
    assert_eq!(changed(|ack| ack.flags = Flags::RST | Flags::ACK), None);
    // Options that were not granted.
    assert_eq!(changed(|ack| ack.options.timestamps = None), None);
    for bit in 0..OPTION_BITS {
        let mut forged = ack.clone();
        let times = forged.options.timestamps.as_mut().unwrap();
        times.echo ^= 1 << bit;
        assert_eq!(numbers.open(&forged, epoch), None);
    }
}

#[test]
fn a_million_guesses_find_no_cookie() {
    let (numbers, epoch) = numbers();
    let now = epoch + Duration::from_secs(77);
    let mut ack = segment(key("10.0.0.2:40000"), |bare| bare.flags = Flags::ACK);
    for guess in 0..1 << 20 {
        ack.ack = Seq(mix(guess));
        assert_eq!(numbers.open(&ack, now), None, "guess {guess}");
    }
}

#[test]
fn a_timestamp_with_options_is_not_ahead_of_the_clock() {
    for clock in [100, 4096, 4097, 4127, u32::MAX] {
        for told in 0..1 << OPTION_BITS {
            let timestamp = timestamp_saying(told, clock);
            assert_eq!(timestamp & OPTION_MASK, told);
            assert!(clock - timestamp < 1 << OPTION_BITS);
        }
    }
}
