//! Frames of every kind, whole, cut and hostile.

use std::net::IpAddr;

use proptest::prelude::*;

use super::emit::{Adjusted, Bare, LinkHeader, PACKET_HEAD_BYTES_MAX, Tag};
use super::*;
use crate::net::stack::model::FlowKey;
use crate::port::HEAD_BYTES_MAX;

const LINK: LinkHeader = LinkHeader {
    dest: [2, 0, 0, 0, 0, 1],
    source: [2, 0, 0, 0, 0, 2],
    tag: None,
};
const TAGGED: LinkHeader = LinkHeader {
    tag: Some(Tag { vlan: 77, pcp: 5 }),
    ..LINK
};

/// From the peer's side.
fn key(is_v6: bool) -> FlowKey {
    let (local, peer) = if is_v6 {
        ("[fd00::2]:40000", "[fd00::1]:3260")
    } else {
        ("10.0.0.2:40000", "10.0.0.1:3260")
    };
    FlowKey {
        vlan: None,
        local: local.parse().unwrap(),
        peer: peer.parse().unwrap(),
    }
}

fn bare(is_v6: bool) -> Bare {
    let mut bare = Bare::new(key(is_v6), Seq(0x1122_3344), Seq(0x5566_7788), Flags::ACK);
    bare.window = 4321;
    bare.timestamps = Some(Timestamps { value: 7, echo: 8 });
    bare
}

fn parsed(bytes: &[u8]) -> Result<Parsed, Malformed> {
    parse(&Frame::copied(bytes))
}

fn segment(bytes: &[u8]) -> Segment {
    match parsed(bytes) {
        Ok(Parsed::Tcp(segment)) => segment,
        other => panic!("not TCP: {other:?}"),
    }
}

/// Writes the checksums that the bytes of an untagged IPv4 or IPv6 packet need.
fn repair(frame: &mut [u8]) {
    let is_v6 = frame[14] >> 4 == 6;
    let head = if is_v6 {
        40
    } else {
        usize::from(frame[14] & 15) * 4
    };
    let (protocol, check_at) = if is_v6 {
        (frame[20], 0)
    } else {
        (frame[23], 24)
    };
    if !is_v6 {
        frame[check_at..check_at + 2].fill(0);
        let mut sum = Sum::new();
        sum.add(&frame[14..14 + head]);
        let sum = sum.checksum();
        frame[check_at..check_at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    let at = 14 + head;
    let len = frame.len() - at;
    let ends = |offset: usize, len: usize| -> IpAddr {
        let bytes = &frame[14 + offset..14 + offset + len];
        match <[u8; 4]>::try_from(bytes) {
            Ok(v4) => IpAddr::from(v4),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()),
        }
    };
    let (source, dest) = if is_v6 {
        (ends(8, 16), ends(24, 16))
    } else {
        (ends(12, 4), ends(16, 4))
    };
    let field = match protocol {
        protocol::TCP => at + 16,
        _ => at + 2,
    };
    frame[field..field + 2].fill(0);
    let mut sum = match protocol {
        protocol::ICMPV4 => Sum::new(),
        _ => Sum::pseudo_header(source, dest, protocol, u32::try_from(len).unwrap()),
    };
    sum.add(&frame[at..]);
    let sum = sum.checksum();
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

/// An untagged packet of that protocol, with right lengths and checksums.
fn packet(source: &str, dest: &str, protocol: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let (source, dest): (IpAddr, IpAddr) = (source.parse().unwrap(), dest.parse().unwrap());
    let mut frame = [LINK.dest, LINK.source].concat();
    let len = u16::try_from(payload.len()).unwrap();
    match (source, dest) {
        (IpAddr::V4(source), IpAddr::V4(dest)) => {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((len + 20).to_be_bytes());
            frame.extend([0, 0, 0, 0, hops, protocol, 0, 0]);
            frame.extend([source.octets(), dest.octets()].concat());
        }
        (IpAddr::V6(source), IpAddr::V6(dest)) => {
            frame.extend([0x86, 0xDD, 0x60, 0, 0, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([protocol, hops]);
            frame.extend([source.octets(), dest.octets()].concat());
        }
        _ => panic!("of two families"),
    }
    frame.extend(payload);
    repair(&mut frame);
    frame
}

#[test]
fn a_segment_says_what_was_sent() {
    for (is_v6, link) in [(false, LINK), (true, LINK), (false, TAGGED), (true, TAGGED)] {
        let mut bare = bare(is_v6);
        bare.flags |= Flags::PSH;
        let bytes = bare.to_frame(&link, b"payload");
        let segment = segment(&bytes);
        assert_eq!(segment.key.vlan, link.tag.map(|tag| tag.vlan));
        assert_eq!(
            (segment.key.local, segment.key.peer),
            (bare.key.peer, bare.key.local)
        );
        assert_eq!((segment.seq, segment.ack), (bare.seq, bare.ack));
        assert_eq!((segment.flags, segment.window), (bare.flags, 4321));
        assert_eq!(segment.options.timestamps, bare.timestamps);
        assert_eq!((segment.hops, segment.ecn), (64, 0));
        assert_eq!((segment.len(), segment.payload_len), (7, 7));
        assert_eq!(&bytes[segment.payload_at..], b"payload");
        assert_eq!(segment.l3_at, link.len());
        assert_eq!(segment.link.source, LINK.source);
    }
}

#[test]
fn a_tag_carries_network_and_priority() {
    let bytes = bare(false).to_frame(&TAGGED, &[]);
    assert_eq!(bytes[12..18], [0x81, 0, 0xA0, 77, 8, 0]);
    let with_id = |id: u16| {
        let mut bytes = bytes.clone();
        bytes[14..16].copy_from_slice(&(0xE000 | id).to_be_bytes());
        parsed(&bytes)
    };
    let Ok(Parsed::Tcp(segment)) = with_id(0) else {
        panic!("a priority tag is refused");
    };
    assert_eq!(segment.key.vlan, None);
    assert_eq!(with_id(4095).unwrap_err(), Malformed::Tags);
    for second in [[0x81, 0], [0x88, 0xA8]] {
        let mut bytes = bytes.clone();
        bytes[16..18].copy_from_slice(&second);
        assert_eq!(parsed(&bytes).unwrap_err(), Malformed::Tags);
        bytes[12..14].copy_from_slice(&[0x88, 0xA8]);
        assert_eq!(parsed(&bytes).unwrap_err(), Malformed::Tags);
    }
}

#[test]
fn all_options_of_a_syn_are_read_and_padding_is_cut() {
    let mut syn = bare(true);
    syn.flags = Flags::SYN;
    syn.mss = Some(8940);
    syn.window_scale = Some(15);
    syn.sack_permitted = true;
    let mut bytes = syn.to_frame(&LINK, &[]);
    bytes.extend([0xAA; 9]);
    let first = segment(&bytes);
    let expected = Options {
        mss: Some(8940),
        window_scale: Some(14),
        sack_permitted: true,
        timestamps: syn.timestamps,
        sack: arrayvec::ArrayVec::new(),
    };
    assert_eq!(first.options, expected);
    assert_eq!((first.payload_len, first.len()), (0, 1));
    assert!(first.is_opening());
    // Only a SYN may say them.
    syn.flags = Flags::ACK;
    let options = segment(&syn.to_frame(&LINK, &[])).options;
    assert_eq!(
        (options.mss, options.window_scale, options.sack_permitted),
        (None, None, false)
    );
}

/// A segment with these bytes as its options.
fn with_options(options: &[u8]) -> Result<Parsed, Malformed> {
    let mut plain = bare(false);
    plain.timestamps = None;
    let mut bytes = plain.to_frame(&LINK, options);
    bytes[46] = u8::try_from(5 + options.len() / 4).unwrap() << 4;
    repair(&mut bytes);
    parsed(&bytes)
}

#[test]
fn options_that_do_not_add_up_are_malformed() {
    let wrong: [&[u8]; 9] = [
        &[2, 0, 0, 0],
        &[2, 1, 0, 0],
        &[1, 1, 1, 2],
        &[2, 5, 0, 0],
        &[3, 4, 1, 1],
        &[4, 3, 0, 0],
        &[8, 4, 0, 0],
        &[5, 2, 0, 0],
        &[254, 5, 0, 0],
    ];
    for options in wrong {
        let result = with_options(options);
        assert_eq!(result.unwrap_err(), Malformed::TcpOptions, "{options:?}");
    }
    for right in [&[0, 2, 0, 0], &[254, 4, 0, 0], &[1, 1, 254, 2]] {
        with_options(right).unwrap();
    }
}

#[test]
fn what_lies_beyond_a_hole_is_told() {
    let Ok(Parsed::Tcp(segment)) = with_options(&[
        1, 1, 5, 18, 0, 0, 0, 1, 0, 0, 0, 9, 255, 255, 255, 255, 0, 0, 0, 0,
    ]) else {
        panic!("refused");
    };
    let blocks = [(Seq(1), Seq(9)), (Seq(u32::MAX), Seq(0))];
    assert_eq!(segment.options.sack[..], blocks);
}

#[test]
fn headers_that_are_cut_or_lie_about_lengths_are_malformed() {
    for is_v6 in [false, true] {
        let bytes = bare(is_v6).to_frame(&LINK, b"payload");
        for len in 0..bytes.len() {
            let error = parsed(&bytes[..len]).unwrap_err();
            let expected: &[_] = match len {
                0..14 => &[Malformed::Ethernet],
                _ => &[Malformed::IpHeader, Malformed::IpLength],
            };
            assert!(expected.contains(&error), "{len}: {error:?}");
        }
    }
    let change = |change: fn(&mut Vec<u8>)| {
        let mut bytes = bare(false).to_frame(&LINK, b"payload");
        change(&mut bytes);
        parsed(&bytes).unwrap_err()
    };
    assert_eq!(change(|bytes| bytes[14] = 0x44), Malformed::IpHeader);
    assert_eq!(change(|bytes| bytes[14] = 0x65), Malformed::IpHeader);
    assert_eq!(change(|bytes| bytes[17] = 19), Malformed::IpLength);
    assert_eq!(change(|bytes| bytes[17] += 1), Malformed::IpLength);
    assert_eq!(change(|bytes| bytes[46] = 0x40), Malformed::TcpHeader);
    assert_eq!(change(|bytes| bytes[46] = 0xF0), Malformed::TcpHeader);
    assert_eq!(change(|bytes| bytes[6] = 1), Malformed::EthernetSource);
}

#[test]
fn each_wrong_bit_is_found_by_a_checksum_unless_the_device_vouches() {
    for is_v6 in [false, true] {
        let good = bare(is_v6).to_frame(&LINK, b"payload!");
        let checked = if is_v6 { 14 + 8 } else { 14 };
        for bit in checked * 8..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(parsed(&bytes).is_err(), "bit {bit}");
        }
        let mut bytes = good.clone();
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(parsed(&bytes).unwrap_err(), Malformed::TcpChecksum);
        let mut frame = Frame::copied(&bytes);
        frame.checksum = Checksum::Good;
        parse(&frame).unwrap();
        // The device's doubts are looked into.
        let mut frame = Frame::copied(&good);
        frame.checksum = Checksum::Bad;
        parse(&frame).unwrap();
    }
}

#[test]
fn fragments_are_refused_and_ipv4_options_skipped() {
    for flags in [0x20, 0x1F] {
        let mut bytes = bare(false).to_frame(&LINK, b"payload");
        bytes[20] = flags;
        repair(&mut bytes);
        assert_eq!(parsed(&bytes).unwrap_err(), Malformed::Fragment);
    }
    let mut bytes = bare(false).to_frame(&LINK, b"payload");
    bytes.splice(34..34, [1, 1, 1, 1]);
    bytes[14] = 0x46;
    bytes[17] += 4;
    repair(&mut bytes);
    let segment = segment(&bytes);
    assert_eq!((segment.l4_at, segment.payload_len), (38, 7));
}

/// An IPv6 segment behind these extension headers; each ends with the one that follows.
fn extended(first: u8, extensions: &[u8]) -> Result<Parsed, Malformed> {
    let mut bytes = bare(true).to_frame(&LINK, b"payload");
    bytes[20] = first;
    let len = u16::from_be_bytes([bytes[18], bytes[19]]) + u16::try_from(extensions.len()).unwrap();
    bytes[18..20].copy_from_slice(&len.to_be_bytes());
    bytes.splice(54..54, extensions.iter().copied());
    parsed(&bytes)
}

#[test]
fn extension_headers_are_skipped_within_a_bound() {
    const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];
    let chain = |kinds: &[u8]| {
        let next = kinds[1..].iter().chain([&protocol::TCP]);
        let headers: Vec<u8> = next
            .flat_map(|&next| [&[next, 0], &PADDING[..]].concat())
            .collect();
        extended(kinds[0], &headers)
    };
    let Ok(Parsed::Tcp(segment)) = chain(&[0, 60, 60]) else {
        panic!("refused");
    };
    assert_eq!((segment.l4_at, segment.payload_len), (14 + 40 + 24, 7));
    chain(&[60, 60, 60, 60]).unwrap();
    let extensions = Malformed::Extensions;
    assert_eq!(chain(&[60; 5]).unwrap_err(), extensions);
    for refused in [43, 50, 51] {
        assert_eq!(chain(&[refused]).unwrap_err(), extensions);
    }
    assert_eq!(chain(&[60, 0]).unwrap_err(), extensions);
    assert_eq!(chain(&[44]).unwrap_err(), Malformed::Fragment);
    // Longer than the packet; an option that must not be skipped; one that is cut.
    assert_eq!(
        extended(60, &[6, 99, 1, 4, 0, 0, 0, 0]).unwrap_err(),
        extensions
    );
    assert_eq!(
        extended(60, &[6, 0, 0xC2, 4, 0, 0, 0, 0]).unwrap_err(),
        extensions
    );
    assert_eq!(
        extended(60, &[6, 0, 5, 5, 0, 0, 0, 0]).unwrap_err(),
        extensions
    );
}

#[test]
fn contradicting_flags_and_impossible_ends_are_malformed() {
    let with = |change: fn(&mut Bare)| {
        let mut bare = bare(false);
        change(&mut bare);
        parsed(&bare.to_frame(&LINK, &[])).unwrap_err()
    };
    let flags = Malformed::TcpFlags;
    assert_eq!(with(|bare| bare.flags = Flags::SYN | Flags::FIN), flags);
    assert_eq!(with(|bare| bare.flags = Flags::SYN | Flags::RST), flags);
    assert_eq!(with(|bare| bare.flags = Flags::FIN | Flags::RST), flags);
    assert_eq!(with(|bare| bare.flags = Flags::empty()), flags);
    assert_eq!(with(|bare| bare.flags = Flags::PSH | Flags::URG), flags);
    assert_eq!(with(|bare| bare.key.local.set_port(0)), Malformed::TcpPort);
    assert_eq!(with(|bare| bare.key.peer.set_port(0)), Malformed::TcpPort);
    assert_eq!(
        with(|bare| bare.key.local = bare.key.peer),
        Malformed::TcpLand
    );
    for source in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"] {
        let mut bare = bare(false);
        bare.key.local.set_ip(source.parse().unwrap());
        let error = parsed(&bare.to_frame(&LINK, &[])).unwrap_err();
        assert_eq!(error, Malformed::IpSource, "{source}");
    }
    for source in ["::1", "::", "ff02::1"] {
        let mut bare = bare(true);
        bare.key.local.set_ip(source.parse().unwrap());
        let error = parsed(&bare.to_frame(&LINK, &[])).unwrap_err();
        assert_eq!(error, Malformed::IpSource, "{source}");
    }
    for dest in ["224.0.0.1", "255.255.255.255", "0.0.0.0"] {
        let mut bare = bare(false);
        bare.key.peer.set_ip(dest.parse().unwrap());
        let error = parsed(&bare.to_frame(&LINK, &[])).unwrap_err();
        assert_eq!(error, Malformed::TcpGroup, "{dest}");
    }
    let everyone = LinkHeader {
        dest: [0xFF; 6],
        ..LINK
    };
    let error = parsed(&bare(true).to_frame(&everyone, &[])).unwrap_err();
    assert_eq!(error, Malformed::TcpGroup);
}

#[test]
fn an_arp_packet_is_taken_apart() {
    let mut bytes = [[0xFF; 6], LINK.source].concat();
    bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.extend([2, 0, 0, 0, 0, 2, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    bytes.resize(60, 0);
    let Ok(Parsed::Arp(arp)) = parsed(&bytes) else {
        panic!("refused");
    };
    assert_eq!((arp.operation, arp.sender_mac), (1, LINK.source));
    assert_eq!(
        (arp.sender, arp.target),
        ([10, 0, 0, 2].into(), [10, 0, 0, 1].into())
    );
    for len in 14..42 {
        assert_eq!(parsed(&bytes[..len]).unwrap_err(), Malformed::Arp);
    }
    for (at, wrong) in [(15, 6), (18, 8), (19, 16), (21, 3), (22, 3), (28, 224)] {
        let mut bytes = bytes.clone();
        bytes[at] = wrong;
        assert_eq!(parsed(&bytes).unwrap_err(), Malformed::Arp, "at {at}");
    }
}

#[test]
fn an_echo_request_says_where_its_body_is() {
    let v4 = [8, 0, 0, 0, 1, 2, 3, 4, 5];
    let v6 = [128, 0, 0, 0, 1, 2, 3, 4, 5];
    let v4 = packet("10.0.0.2", "10.0.0.1", protocol::ICMPV4, 64, &v4);
    let v6 = packet("fd00::2", "fd00::1", protocol::ICMPV6, 64, &v6);
    for bytes in [v4, v6] {
        let (Parsed::Icmpv4(icmp) | Parsed::Icmpv6(icmp)) = parsed(&bytes).unwrap() else {
            panic!("not ICMP");
        };
        let IcmpMessage::EchoRequest { body } = icmp.message else {
            panic!("no echo request");
        };
        let mut copy = vec![];
        copy_range(&Frame::copied(&bytes), body, &mut copy);
        assert_eq!(copy, [1, 2, 3, 4, 5]);
        let mut wrong = bytes.clone();
        *wrong.last_mut().unwrap() += 1;
        assert_eq!(parsed(&wrong).unwrap_err(), Malformed::IcmpChecksum);
    }
    let cut = packet(
        "10.0.0.2",
        "10.0.0.1",
        protocol::ICMPV4,
        64,
        &[8, 0, 0, 0, 1, 2, 3],
    );
    assert_eq!(parsed(&cut).unwrap_err(), Malformed::Icmp);
}

#[test]
fn a_packet_too_big_quotes_the_segment_that_was() {
    for is_v6 in [false, true] {
        let mut ours = bare(is_v6);
        std::mem::swap(&mut ours.key.local, &mut ours.key.peer);
        let quote = &ours.to_frame(&LINK, &[0; 100])[14..][..if is_v6 { 48 } else { 28 }];
        let (source, dest) = if is_v6 {
            ("fd00::9", "fd00::1")
        } else {
            ("10.0.0.9", "10.0.0.1")
        };
        let (protocol, head): (_, &[u8]) = if is_v6 {
            (protocol::ICMPV6, &[2, 0, 0, 0, 0, 0, 5, 0])
        } else {
            (protocol::ICMPV4, &[3, 4, 0, 0, 0, 0, 5, 0])
        };
        let bytes = packet(source, dest, protocol, 64, &[head, quote].concat());
        let (Ok(Parsed::Icmpv4(icmp)) | Ok(Parsed::Icmpv6(icmp))) = parsed(&bytes) else {
            panic!("refused");
        };
        let quoted = Quoted {
            key: ours.key,
            seq: ours.seq,
            packet_len: if is_v6 { 40 + 32 + 100 } else { 20 + 32 + 100 },
        };
        let expected = IcmpMessage::TooBig {
            mtu: 0x500,
            quoted: Some(quoted),
        };
        assert_eq!(icmp.message, expected);
        // A quote that is cut names no flow.
        let short = packet(
            source,
            dest,
            protocol,
            64,
            &[head, &quote[..quote.len() - 1]].concat(),
        );
        let (Ok(Parsed::Icmpv4(icmp)) | Ok(Parsed::Icmpv6(icmp))) = parsed(&short) else {
            panic!("refused");
        };
        assert!(matches!(
            icmp.message,
            IcmpMessage::TooBig { quoted: None, .. }
        ));
    }
}

/// A neighbour solicitation or advertisement for fd00::1, with these options.
fn neighbour(
    source: &str,
    dest: &str,
    hops: u8,
    kind: u8,
    options: &[u8],
) -> Result<Parsed, Malformed> {
    let mut message = vec![kind, 0, 0, 0, 0x60, 0, 0, 0, 0xFD];
    message.extend([0; 14]);
    message.push(1);
    message.extend(options);
    parsed(&packet(source, dest, protocol::ICMPV6, hops, &message))
}

#[test]
fn neighbours_ask_and_answer() {
    let target = "fd00::1".parse().unwrap();
    let group = "ff02::1:ff00:1";
    let asked = neighbour("fd00::2", group, 255, 135, &[1, 1, 2, 0, 0, 0, 0, 2]);
    let Ok(Parsed::Icmpv6(icmp)) = asked else {
        panic!("refused");
    };
    let expected = IcmpMessage::NeighbourSolicitation {
        target,
        source_mac: Some(LINK.source),
    };
    assert_eq!(icmp.message, expected);
    let told = neighbour("fd00::2", "fd00::1", 255, 136, &[2, 1, 2, 0, 0, 0, 0, 2]);
    let Ok(Parsed::Icmpv6(icmp)) = told else {
        panic!("refused");
    };
    let expected = IcmpMessage::NeighbourAdvertisement {
        target,
        solicited: true,
        overrides: true,
        target_mac: Some(LINK.source),
    };
    assert_eq!(icmp.message, expected);
    // Who asks for its own address has none yet, and may not say where it is.
    neighbour("::", group, 255, 135, &[]).unwrap();
    let refused = [
        neighbour("::", group, 255, 135, &[1, 1, 2, 0, 0, 0, 0, 2]),
        neighbour("::", "fd00::1", 255, 135, &[]),
        neighbour("fd00::2", group, 254, 135, &[]),
        neighbour("fd00::2", group, 255, 135, &[1, 0, 2, 0, 0, 0, 0, 2]),
        neighbour("fd00::2", group, 255, 135, &[1, 2, 2, 0, 0, 0, 0, 2]),
        neighbour("fd00::2", group, 255, 135, &[1]),
        neighbour("fd00::2", "ff02::1", 255, 136, &[]),
    ];
    for refused in refused {
        assert_eq!(refused.unwrap_err(), Malformed::Neighbour);
    }
    let nowhere = neighbour("::", group, 255, 136, &[]);
    nowhere.unwrap_err();
}

#[test]
fn other_traffic_is_left_alone() {
    let udp = packet("10.0.0.2", "10.0.0.1", 17, 64, &[0; 8]);
    assert!(matches!(
        parsed(&udp),
        Ok(Parsed::Other(_, Other::Protocol(17)))
    ));
    let mut spanning_tree = [[1, 0x80, 0xC2, 0, 0, 0], LINK.source].concat();
    spanning_tree.extend([0, 38, 0x42]);
    let other = parsed(&spanning_tree);
    assert!(matches!(other, Ok(Parsed::Other(_, Other::EtherType(38)))));
}

#[test]
fn a_reset_answers_as_the_standard_says() {
    let mut stranger = bare(false);
    let answer = Bare::reset_for(&segment(&stranger.to_frame(&LINK, b"12")));
    assert_eq!((answer.seq, answer.flags), (stranger.ack, Flags::RST));
    stranger.flags = Flags::SYN;
    let answer = Bare::reset_for(&segment(&stranger.to_frame(&LINK, &[])));
    assert_eq!((answer.seq, answer.ack), (Seq(0), stranger.seq.plus(1)));
    assert_eq!(answer.flags, Flags::RST | Flags::ACK);
    // It goes back where the segment came from.
    let mut head = [0; HEAD_BYTES_MAX];
    let len = answer.emit(&TAGGED, &mut head);
    let back = segment(&head[..len]);
    assert_eq!(
        (back.key.local, back.key.peer),
        (stranger.key.local, stranger.key.peer)
    );
}

#[test]
fn timestamps_are_found_wherever_they_are() {
    let mut plain = bare(false);
    (plain.mss, plain.window_scale, plain.sack_permitted) = (None, None, false);
    plain.timestamps = Some(Timestamps { value: 7, echo: 8 });
    let mut bytes = plain.to_frame(&LINK, b"payload");
    let options = 54..66;
    assert_eq!(bytes[options.clone()][..4], [1, 1, 8, 10]);
    assert_eq!(segment(&bytes).options.timestamps, plain.timestamps);
    bytes[options].rotate_left(2);
    repair(&mut bytes);
    assert_eq!(segment(&bytes).options.timestamps, plain.timestamps);
}

#[test]
fn a_flow_sees_plain_headers_with_what_was_adjusted() {
    for link in [LINK, TAGGED] {
        let mut bytes = bare(false).to_frame(&link, b"payload");
        // Congestion was experienced on the way.
        bytes[link.len() + 1] |= 3;
        let mut frame = Frame::copied(&bytes);
        frame.checksum = Checksum::Good;
        let Ok(Parsed::Tcp(segment)) = parse(&frame) else {
            panic!("refused");
        };
        let adjusted = Adjusted {
            seq: segment.seq,
            len: 3,
            ack: Seq(5),
            window: 6,
            flags: Flags::ACK | Flags::FIN,
        };
        let mut head = [0; PACKET_HEAD_BYTES_MAX];
        let len = adjusted.emit(&segment, &frame, &mut head);
        assert_eq!(len, 20 + 32);
        assert_eq!(&bytes[adjusted.payload(&segment)], b"pay");
        let mut seen = LINK.dest.to_vec();
        seen.extend([LINK.source.as_slice(), &[8, 0], &head[..len], b"pay"].concat());
        repair(&mut seen);
        let again = self::segment(&seen);
        assert_eq!(
            (again.seq, again.ack, again.window),
            (segment.seq, Seq(5), 6)
        );
        assert_eq!(
            (again.flags, again.payload_len, again.ecn),
            (adjusted.flags, 3, 3)
        );
        assert_eq!(again.options, segment.options);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_frame_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parsed(&bytes);
    }

    /// Bytes of a good frame changed, and vouched for, so that everything behind is reached.
    #[test]
    fn no_changed_frame_panics_or_says_more_than_it_has(
        is_v6 in any::<bool>(),
        is_tagged in any::<bool>(),
        is_icmp in any::<bool>(),
        changes in proptest::collection::vec((12_usize..120, any::<u8>()), 0..6),
        len in 14_usize..150,
    ) {
        let link = if is_tagged { TAGGED } else { LINK };
        let mut bytes = bare(is_v6).to_frame(&link, &[7; 60]);
        if is_icmp {
            bytes[link.len() + if is_v6 { 6 } else { 9 }] = if is_v6 { 58 } else { 1 };
        }
        bytes.truncate(len);
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let mut frame = Frame::copied(&bytes);
        frame.checksum = Checksum::Good;
        if let Ok(Parsed::Tcp(segment)) = parse(&frame) {
            prop_assert!(segment.payload_at + segment.payload_len <= bytes.len());
            let mut head = [0; PACKET_HEAD_BYTES_MAX];
            let adjusted = Adjusted::whole(&segment);
            let len = adjusted.emit(&segment, &frame, &mut head);
            prop_assert!(len <= PACKET_HEAD_BYTES_MAX);
        }
    }

    #[test]
    fn what_is_emitted_is_parsed(
        is_v6 in any::<bool>(),
        seq in any::<u32>(),
        ack in any::<u32>(),
        window in any::<u16>(),
        payload in proptest::collection::vec(any::<u8>(), 0..100),
        mss in proptest::option::of(any::<u16>()),
        scale in proptest::option::of(0_u8..15),
    ) {
        let mut bare = bare(is_v6);
        bare.flags = Flags::SYN | Flags::ACK;
        (bare.seq, bare.ack, bare.window) = (Seq(seq), Seq(ack), window);
        (bare.mss, bare.window_scale) = (mss, scale);
        let bytes = bare.to_frame(&TAGGED, &payload);
        let segment = segment(&bytes);
        prop_assert_eq!((segment.seq, segment.ack), (bare.seq, bare.ack));
        prop_assert_eq!((segment.options.mss, segment.options.window_scale), (mss, scale));
        prop_assert_eq!(&bytes[segment.payload_at..], &payload[..]);
    }
}
