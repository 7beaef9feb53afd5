//! Below TCP: damaged frames of each layer, options, fragments, tags, and messages about paths.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use iiblockdaemon::net::stack::Dropped;
use iiblockdaemon::net::stack::packet::Malformed;

use super::peer::{Offer, Peer};
use super::wire::{self, ACK, FIN, LINK, OUR_MAC, PEER_MAC, PSH, RST, SYN, Segment};
use super::world::{Limits, OURS, OURS6, PCP, PEER, PEER6, VLAN, World};

/// A segment of a standing connection, ready to be spoiled.
fn good(peer: &Peer, world: &World) -> Segment {
    let mut segment = peer.segment(world, ACK | PSH);
    segment.payload = b"spoiled".to_vec();
    segment
}

/// A good segment's frame, changed.
fn with(peer: &Peer, world: &World, spoil: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = good(peer, world).frame();
    spoil(&mut frame);
    frame
}

/// A good segment, changed before its checksums are made.
fn segment_with(peer: &Peer, world: &World, spoil: impl Fn(&mut Segment)) -> Vec<u8> {
    let mut segment = good(peer, world);
    spoil(&mut segment);
    segment.frame()
}

/// Every way to be malformed has its frame here: (what is wrong, the frame).
fn spoiled(peer: &Peer, world: &World) -> Vec<(Malformed, Vec<u8>)> {
    let mut all = spoiled_packets(peer, world);
    all.extend(spoiled_segments(peer, world));
    all
}

/// What is wrong below TCP, or beside it.
fn spoiled_packets(peer: &Peer, world: &World) -> Vec<(Malformed, Vec<u8>)> {
    let frame = good(peer, world).frame();
    let with = |spoil: &dyn Fn(&mut Vec<u8>)| with(peer, world, spoil);
    let from = |ip: Ipv4Addr| {
        segment_with(peer, world, |segment| {
            segment.from = SocketAddr::new(ip.into(), segment.from.port());
        })
    };
    // Changes the IPv4 header and makes its checksum right again.
    let header = |spoil: &dyn Fn(&mut [u8])| {
        with(&|frame| {
            spoil(&mut frame[LINK..LINK + 20]);
            frame[LINK + 10..LINK + 12].fill(0);
            let sum = !wire::sum(&frame[LINK..LINK + 20]);
            frame[LINK + 10..LINK + 12].copy_from_slice(&sum.to_be_bytes());
        })
    };
    let ping = wire::icmp(PEER.into(), OURS.into(), 8, 0, &[0, 1, 0, 1, 9, 9]);
    let mut arp = wire::arp(1, (PEER_MAC, PEER), ([0; 6], OURS));
    arp[4] = 8;
    // A solicitation that a router has passed on.
    let mut far = [vec![0; 4], OURS6.octets().to_vec()].concat();
    far.extend([1, 1, 2, 0, 0, 0, 0, 2]);
    let far = wire::icmp(PEER6.into(), OURS6.into(), 135, 0, &far);
    let routing = wire::ipv6(PEER6, OURS6, 43, &[6, 0, 0, 1, 0, 0, 0, 0]);
    vec![
        (Malformed::Ethernet, frame[..13].to_vec()),
        (Malformed::EthernetSource, with(&|frame| frame[6] |= 1)),
        (
            Malformed::Tags,
            with(&|frame| drop(frame.splice(12..12, [0x81, 0, 0, 7, 0x81, 0, 0, 8]))),
        ),
        (
            Malformed::Arp,
            wire::link(PEER_MAC, OUR_MAC, None, 0x0806, &arp),
        ),
        (Malformed::IpHeader, header(&|ip| ip[0] = 0x44)),
        (Malformed::IpHeader, frame[..LINK + 19].to_vec()),
        (Malformed::IpLength, header(&|ip| ip[2] = 0x40)),
        (Malformed::IpChecksum, with(&|frame| frame[LINK + 8] ^= 1)),
        (Malformed::Fragment, header(&|ip| ip[6] = 0x20)),
        (Malformed::Fragment, header(&|ip| ip[7] = 1)),
        (Malformed::IpSource, from(Ipv4Addr::BROADCAST)),
        (Malformed::IpSource, from(Ipv4Addr::LOCALHOST)),
        (Malformed::IpSource, from(Ipv4Addr::new(224, 0, 0, 1))),
        (Malformed::IpSource, from(Ipv4Addr::UNSPECIFIED)),
        (
            Malformed::Extensions,
            wire::link(PEER_MAC, OUR_MAC, None, 0x86DD, &routing),
        ),
        (Malformed::Icmp, header_only(&ping, 4)),
        (Malformed::IcmpChecksum, {
            let mut ping = ping.clone();
            *ping.last_mut().unwrap() ^= 1;
            ping
        }),
        (Malformed::Neighbour, far),
    ]
}

/// What is wrong in TCP.
fn spoiled_segments(peer: &Peer, world: &World) -> Vec<(Malformed, Vec<u8>)> {
    let with = |spoil: &dyn Fn(&mut Vec<u8>)| with(peer, world, spoil);
    let segment = |spoil: &dyn Fn(&mut Segment)| segment_with(peer, world, spoil);
    vec![
        (Malformed::TcpHeader, tcp_with(peer, world, 12, 0x40)),
        (Malformed::TcpHeader, tcp_with(peer, world, 12, 0xF0)),
        (
            Malformed::TcpOptions,
            segment(&|segment| segment.options = vec![8, 0, 1, 1]),
        ),
        (
            Malformed::TcpOptions,
            segment(&|segment| segment.options = vec![1, 1, 1, 8]),
        ),
        (
            Malformed::TcpFlags,
            segment(&|segment| segment.flags = SYN | FIN),
        ),
        (
            Malformed::TcpFlags,
            segment(&|segment| segment.flags = SYN | RST),
        ),
        (
            Malformed::TcpPort,
            segment(&|segment| segment.from.set_port(0)),
        ),
        (
            Malformed::TcpPort,
            segment(&|segment| segment.to.set_port(0)),
        ),
        (
            Malformed::TcpChecksum,
            with(&|frame| *frame.last_mut().unwrap() ^= 0x10),
        ),
        (Malformed::TcpGroup, with(&|frame| frame[..6].fill(0xFF))),
        (
            Malformed::TcpLand,
            segment(&|segment| segment.from = segment.to),
        ),
    ]
}

/// A good segment with one byte of its TCP header changed and the checksum right again.
fn tcp_with(peer: &Peer, world: &World, at: usize, byte: u8) -> Vec<u8> {
    let segment = good(peer, world);
    let mut frame = segment.frame();
    let tcp = LINK + 20;
    let old = u32::from(u16::from_be_bytes([frame[tcp + at], frame[tcp + at + 1]]));
    frame[tcp + at] = byte;
    let new = u32::from(u16::from_be_bytes([frame[tcp + at], frame[tcp + at + 1]]));
    // RFC 1624 §3: the new sum from the old one.
    let sum = u32::from(!u16::from_be_bytes([frame[tcp + 16], frame[tcp + 17]]));
    let mut changed = sum + (0xFFFF - old) + new;
    while changed > 0xFFFF {
        changed = (changed & 0xFFFF) + (changed >> 16);
    }
    let sum = !u16::try_from(changed).unwrap();
    frame[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A packet of IPv4 with no more than `len` bytes behind its header.
fn header_only(frame: &[u8], len: usize) -> Vec<u8> {
    let packet = wire::ipv4(PEER, OURS, 1, &[], &frame[LINK + 20..LINK + 20 + len]);
    wire::link(PEER_MAC, OUR_MAC, None, 0x0800, &packet)
}

/// RFC 1122 §3.2.1, §4.2.2.7, RFC 9293 §3.1, RFC 8200 §4: what is damaged is dropped, counted by
/// what is wrong with it, and answered by nothing.
#[test]
fn what_is_damaged_is_counted_by_its_reason() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let frames = spoiled(&peer, &world);
    for (reason, frame) in &frames {
        let before = world.stack.counters().malformed(*reason);
        world.sent.clear();
        world.others.clear();
        world.inject(frame);
        let counters = world.stack.counters();
        assert_eq!(
            counters.malformed(*reason),
            before + 1,
            "{reason:?}: {frame:02X?}"
        );
        assert!(
            world.sent.is_empty() && world.others.is_empty(),
            "{reason:?} is not answered"
        );
        assert_eq!(world.bytes(peer.flow()), b"", "{reason:?}");
    }
    assert_eq!(
        world.dropped(Dropped::Malformed),
        u64::try_from(frames.len()).unwrap()
    );
    let mut reasons: Vec<u8> = frames.iter().map(|(reason, _)| *reason as u8).collect();
    reasons.dedup();
    assert_eq!(reasons.len(), Malformed::COUNT, "each reason has its frame");
    peer.lives(&mut world);
    assert_eq!(world.held(), 0, "every buffer came back");
}

/// Frames cut short anywhere, and with any one bit turned: nothing panics, nothing false enters the
/// stream, and the connection goes on.
#[test]
fn damage_anywhere_harms_nothing() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let frames = [
        good(&peer, &world).frame(),
        peer.syn(&world).frame(),
        wire::icmp(PEER.into(), OURS.into(), 8, 0, &[0, 1, 0, 1, 9, 9]),
        wire::icmp(PEER6.into(), OURS6.into(), 128, 0, &[0, 1, 0, 1, 9, 9]),
    ];
    for frame in &frames {
        for len in 0..frame.len() {
            world.inject(&frame[..len]);
        }
        for bit in 0..frame.len() * 8 {
            // (The bit that changes nothing that is checked: our own MAC as somebody else's.)
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            world.inject(&damaged);
        }
        world.now += Duration::from_secs(10);
        assert_eq!(world.bytes(peer.flow()), damaged_payload(frame, &frames[0]));
        world.sent.clear();
        world.events.clear();
    }
    assert_eq!(world.stack.counters().panics, 0);
    peer.seq = peer.seq.wrapping_add(7);
    peer.lives(&mut world);
}

/// A bit of the link header or of a field that no checksum covers leaves a segment whole: the first
/// frame's payload comes, once.
fn damaged_payload(frame: &[u8], data: &[u8]) -> Vec<u8> {
    if frame == data {
        b"spoiled".to_vec()
    } else {
        Vec::new()
    }
}

/// RFC 1122 §3.2.1.8: options of IPv4 are accepted, whatever they are, and not obeyed.
#[test]
fn options_of_ipv4_do_not_matter() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    let timestamp = [68, 8, 5, 0, 0, 0, 0, 0];
    let record_route = [7, 7, 4, 0, 0, 0, 0, 0];
    for options in [&[1, 1, 1, 1][..], &timestamp, &record_route, &[1; 40]] {
        let mut segment = peer.segment(&world, ACK | PSH);
        segment.ip_options = options.to_vec();
        segment.payload = b"optional".to_vec();
        peer.seq = segment.end();
        world.inject(&segment.frame());
        assert_eq!(world.bytes(peer.flow()), b"optional", "{options:?}");
    }
    peer.look(&mut world);
    peer.lives(&mut world);
}

/// RFC 791 §3.2: no initiator fragments TCP (RFC 9293 §3.7.2): fragments are counted and dropped,
/// whatever they pretend to be, in IPv6 too (RFC 8200 §4.5).
#[test]
fn fragments_are_dropped() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::connected(&mut world, 1000);
    for offset in [0x2000_u16, 1, 0x2001, 0x1FFF, 0x3FFF] {
        let mut frame = good(&peer, &world).frame();
        frame[LINK + 6..LINK + 8].copy_from_slice(&offset.to_be_bytes());
        frame[LINK + 10..LINK + 12].fill(0);
        let sum = !wire::sum(&frame[LINK..LINK + 20]);
        frame[LINK + 10..LINK + 12].copy_from_slice(&sum.to_be_bytes());
        world.inject(&frame);
    }
    let fragment = wire::ipv6(PEER6, OURS6, 44, &[6, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4]);
    world.inject(&wire::link(PEER_MAC, OUR_MAC, None, 0x86DD, &fragment));
    assert_eq!(world.stack.counters().malformed(Malformed::Fragment), 6);
    assert_eq!(world.bytes(peer.flow()), b"");
    peer.lives(&mut world);
}

/// IEEE 802.1Q: a tag is part of what tells connections apart; what is sent has it, with the
/// priority; other VLANs do not exist.
#[test]
fn a_tag_keeps_networks_apart() {
    let mut world = World::new(&Limits::default());
    let mut tagged = Peer::tagged(1000);
    tagged.connect(&mut world);
    tagged.lives(&mut world);
    assert!(world.write(tagged.flow(), b"tagged") > 0);
    for segment in tagged.look(&mut world) {
        assert_eq!((segment.vlan, segment.pcp), (Some(VLAN), PCP));
    }
    for vlan in [None, Some(8), Some(4094)] {
        let mut forged = tagged.segment(&world, ACK | PSH);
        forged.vlan = vlan;
        forged.payload = b"forged".to_vec();
        world.inject(&forged.frame());
        assert_eq!(world.bytes(tagged.flow()), b"", "{vlan:?}");
    }
    assert_eq!(world.dropped(Dropped::OtherVlan), 2);
    tagged.lives(&mut world);
}

#[test]
fn a_connection_over_ipv6_carries_data() {
    let mut world = World::new(&Limits::default());
    let mut peer = Peer::v6(1000);
    peer.connect(&mut world);
    peer.lives(&mut world);
    peer.finish(&mut world);
    assert_eq!(world.read(peer.flow()).1, Ok(true));
}

/// RFC 792, RFC 4443 §4.2: an echo request is answered with what it brought.
#[test]
fn echo_requests_are_answered() {
    let mut world = World::new(&Limits::default());
    for len in [0, 1, 56, 8972] {
        let data: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let body = [vec![0, 7, 0, 9], data].concat();
        for (from, to, kind, reply) in [
            (IpAddr::from(PEER), IpAddr::from(OURS), 8, 0),
            (PEER6.into(), OURS6.into(), 128, 129),
        ] {
            world.others.clear();
            if from.is_ipv6() && len == 8972 {
                continue;
            }
            world.inject(&wire::icmp(from, to, kind, 0, &body));
            let answer = world.others.pop().expect("an echo request is answered");
            assert_eq!((answer.from, answer.to), (Some(to), Some(from)));
            assert_eq!((answer.payload[0], answer.dest), (reply, PEER_MAC));
            assert_eq!(answer.payload[4..], body);
        }
    }
}

/// "Fragmentation needed" about a packet of the stack's: its start is quoted.
fn too_big(peer: &Peer, quoted: &Segment, mtu: u16) -> Vec<u8> {
    let ports = [
        quoted.from.port().to_be_bytes(),
        quoted.to.port().to_be_bytes(),
    ]
    .concat();
    let start = [ports, quoted.seq.to_be_bytes().to_vec()].concat();
    let rest = match (peer.target.ip(), peer.own.ip()) {
        (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
            let mut packet = wire::ipv4(ours, theirs, 6, &[], &start);
            packet[2..4].copy_from_slice(&packet_len(quoted, 40).to_be_bytes());
            let mtu = u32::from(mtu).to_be_bytes();
            return wire::icmp(
                Ipv4Addr::new(10, 0, 0, 254).into(),
                peer.target.ip(),
                3,
                4,
                &[&mtu[..], &packet].concat(),
            );
        }
        (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
            let mut packet = wire::ipv6(ours, theirs, 6, &start);
            packet[4..6].copy_from_slice(&packet_len(quoted, 20).to_be_bytes());
            [&u32::from(mtu).to_be_bytes()[..], &packet].concat()
        }
        _ => panic!("both ends are of one IP version"),
    };
    let router = Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0, 0xFE);
    wire::icmp(router.into(), peer.target.ip(), 2, 0, &rest)
}

fn packet_len(segment: &Segment, headers: usize) -> u16 {
    u16::try_from(segment.payload.len() + segment.options.len() + headers).unwrap()
}

fn longest(segments: &[Segment], headers: usize) -> usize {
    let lens = segments
        .iter()
        .map(|segment| usize::from(packet_len(segment, headers)));
    lens.max().unwrap_or(0)
}

/// Opens the congestion window (RFC 5681 §3.1) so far that whole jumbo frames are sent.
fn begun(peer: &mut Peer, world: &mut World) {
    for _ in 0..8 {
        assert_eq!(world.write(peer.flow(), &vec![0; 30_000]), 30_000);
        peer.follow(world);
    }
    peer.received.clear();
}

/// RFC 1191 §3 and RFC 8201 §4: a message about a packet that is really under way makes those of
/// this path shorter, what was lost is sent again, and new connections begin with it.
#[test]
fn a_path_s_mtu_is_learned_from_whom_it_concerns() {
    for (mut peer, headers, mtu) in [(Peer::new(1000), 40, 1400), (Peer::v6(1000), 60, 1380)] {
        let mut world = World::new(&Limits::default());
        peer.offer.mss = 8900;
        peer.connect(&mut world);
        let flow = peer.flow();
        begun(&mut peer, &mut world);
        let bytes: Vec<u8> = (0..20_000_u32).flat_map(u32::to_be_bytes).collect();
        let mut written = world.write(flow, &bytes);
        let lost = world.sent_to(peer.own);
        assert!(
            longest(&lost, headers) > 8000,
            "jumbo frames are used: {}",
            longest(&lost, headers)
        );
        world.inject(&too_big(&peer, &lost[0], mtu));
        for _ in 0..400 {
            world.wait(Duration::from_millis(50));
            let seen = world.sent_to(peer.own);
            assert!(
                longest(&seen, headers) <= usize::from(mtu),
                "{}",
                longest(&seen, headers)
            );
            world
                .sent
                .extend(seen.into_iter().map(|segment| (Duration::ZERO, segment)));
            peer.look(&mut world);
            peer.acknowledge(&mut world);
            if written < bytes.len() {
                written += world.write(flow, &bytes[written..]);
            }
            if peer.received.len() == bytes.len() {
                break;
            }
        }
        assert!(peer.received == bytes, "{} bytes came", peer.received.len());
        assert!(world.stack.counters().path_mtus > 0);
    }
}

/// RFC 5927 §7: a message about a packet that is not under way, or of no connection, is forged; one
/// that asks for absurdly little (RFC 1191 §3: 68 at least; RFC 8200 §5: 1280) is not obeyed.
#[test]
fn forged_messages_about_a_path_change_nothing() {
    for (mut peer, headers) in [(Peer::new(1000), 40), (Peer::v6(1000), 60)] {
        let mut world = World::new(&Limits::default());
        peer.offer = Offer {
            mss: 8900,
            ..Offer::default()
        };
        peer.connect(&mut world);
        let flow = peer.flow();
        begun(&mut peer, &mut world);
        let bytes = vec![1; 60_000];
        let mut forged = Segment::new(peer.target, peer.own);
        forged.payload = vec![0; 8000];
        for distance in [1_u32 << 21, 0x4000_0000, 0x8000_0000, 0xC000_0000] {
            forged.seq = peer.ack.wrapping_add(distance);
            world.inject(&too_big(&peer, &forged, 1300));
        }
        forged.seq = peer.ack;
        forged.to.set_port(9);
        world.inject(&too_big(&peer, &forged, 1300));
        let mut written = world.write(flow, &bytes);
        let sent = world.sent_to(peer.own);
        assert!(
            longest(&sent, headers) > 8000,
            "{}",
            longest(&sent, headers)
        );
        assert!(
            world.dropped(Dropped::BadPathMessage) >= 4,
            "{:?}",
            world.stack.counters()
        );
        // Of a packet that is under way, but less than any path has.
        world.inject(&too_big(&peer, &sent[0], 40));
        for segment in sent {
            world.sent.push_back((Duration::ZERO, segment));
        }
        peer.follow(&mut world);
        while written < bytes.len() {
            written += world.write(flow, &bytes[written..]);
            peer.follow(&mut world);
        }
        world.wait(Duration::from_secs(1));
        world.write(flow, &bytes);
        let later = world.sent_to(peer.own);
        let least = if headers == 40 { 500 } else { 1200 };
        assert!(
            longest(&later, headers) >= least,
            "{}",
            longest(&later, headers)
        );
    }
}

/// Segments to an address that is not ours are not ours to answer.
#[test]
fn frames_for_others_are_left_alone() {
    let mut world = World::new(&Limits::default());
    let peer = Peer::connected(&mut world, 1000);
    let mut frame = good(&peer, &world).frame();
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    world.inject(&frame);
    assert_eq!(world.dropped(Dropped::OtherStation), 1);
    let mut segment = good(&peer, &world);
    segment.to.set_ip(Ipv4Addr::new(10, 0, 0, 77).into());
    world.inject(&segment.frame());
    assert_eq!(world.dropped(Dropped::OtherAddress), 1);
    assert!(world.sent.is_empty());
    let packet = wire::ipv4(PEER, OURS, 17, &[], &[0; 8]);
    world.inject(&wire::link(PEER_MAC, OUR_MAC, None, 0x0800, &packet));
    world.inject(&wire::link(PEER_MAC, OUR_MAC, None, 0x88CC, &[0; 50]));
    assert_eq!(world.dropped(Dropped::OtherProtocol), 2);
    assert_eq!(world.bytes(peer.flow()), b"");
}
