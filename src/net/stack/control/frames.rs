//! What the control interface sends: ARP, neighbour discovery and echo replies, header by header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use super::super::counters::Dropped;
use super::super::packet::emit::{HOPS, IpHead, LinkHeader};
use super::super::packet::icmp::kind;
use super::super::packet::{Icmp, IcmpMessage, Sum, ethertype, protocol};
use super::{Around, Control};
use crate::port::{Frame, HEAD_BYTES_MAX, Piece, Port};

/// All nodes of a link (RFC 4291 §2.7.1), and where frames to it go (RFC 2464 §7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 1);
pub(super) const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// Hop limit of neighbour discovery: what a router has touched has less (RFC 4861 §7.1).
const HOPS_UNTOUCHED: u8 = 255;
/// Pieces of a received frame that are sent back, at most.
const ECHO_PIECES_MAX: usize = 16;
/// Type, code and checksum: what an echo reply does not share with its request.
const ICMP_START_BYTES: usize = 4;

const ARP_BYTES: usize = 28;
const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;

/// An ARP packet for Ethernet and IPv4 (RFC 826).
pub(super) struct ArpPacket {
    /// 1: request, 2: reply.
    pub(super) operation: u16,
    pub(super) sender_mac: [u8; 6],
    pub(super) sender: Ipv4Addr,
    pub(super) target_mac: [u8; 6],
    pub(super) target: Ipv4Addr,
}

impl ArpPacket {
    pub(super) fn send<P: Port>(&self, link: &LinkHeader, around: &mut Around<'_, P>) {
        let mut head = [0; HEAD_BYTES_MAX];
        let at = link.emit(ethertype::ARP, &mut head);
        let packet = &mut head[at..at + ARP_BYTES];
        packet[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
        packet[6..8].copy_from_slice(&self.operation.to_be_bytes());
        packet[8..14].copy_from_slice(&self.sender_mac);
        packet[14..18].copy_from_slice(&self.sender.octets());
        packet[18..24].copy_from_slice(&self.target_mac);
        packet[24..28].copy_from_slice(&self.target.octets());
        around.send(&head[..at + ARP_BYTES], &[]);
    }
}

/// A neighbour advertisement (RFC 4861 §4.4).
pub(super) struct Advertisement {
    /// The address of ours that it is about.
    pub(super) target: IpAddr,
    /// Who has asked; `None`: it goes to everybody.
    pub(super) to: Option<IpAddr>,
    pub(super) mac: [u8; 6],
}

impl Advertisement {
    pub(super) fn send<P: Port>(&self, link: &LinkHeader, around: &mut Around<'_, P>) {
        let IpAddr::V6(target) = self.target else {
            return;
        };
        let dest = match self.to {
            Some(IpAddr::V6(dest)) => dest,
            Some(IpAddr::V4(_)) | None => ALL_NODES,
        };
        const SOLICITED: u8 = 0x40;
        const OVERRIDE: u8 = 0x20;
        let flags = OVERRIDE | if self.to.is_some() { SOLICITED } else { 0 };
        let mut message = [0; 32];
        message[0] = kind::V6_NEIGHBOUR_ADVERTISEMENT;
        message[4] = flags;
        message[8..24].copy_from_slice(&target.octets());
        message[24..26].copy_from_slice(&[TARGET_MAC, 1]);
        message[26..32].copy_from_slice(&self.mac);
        send_discovery(target, dest, &mut message, link, around);
    }
}

/// A neighbour solicitation (RFC 4861 §4.3). Without a source it is a probe of duplicate address
/// detection. `mac`: only that station is asked.
pub(super) fn send_solicitation<P: Port>(
    control: &Control,
    source: Option<IpAddr>,
    target: Ipv6Addr,
    mac: Option<[u8; 6]>,
    around: &mut Around<'_, P>,
) {
    let source = match source {
        Some(IpAddr::V6(source)) => source,
        Some(IpAddr::V4(_)) | None => Ipv6Addr::UNSPECIFIED,
    };
    let (dest, dest_mac) = match mac {
        Some(mac) => (target, mac),
        None => solicited_node(target),
    };
    let mut message = [0; 32];
    message[0] = kind::V6_NEIGHBOUR_SOLICITATION;
    message[8..24].copy_from_slice(&target.octets());
    message[24..26].copy_from_slice(&[SOURCE_MAC, 1]);
    message[26..32].copy_from_slice(&control.mac);
    // A station without an address has none to be answered at (RFC 4861 §4.3).
    let len = if source.is_unspecified() { 24 } else { 32 };
    let link = control.link_to(around.network, dest_mac);
    send_discovery(source, dest, &mut message[..len], &link, around);
}

/// The group that hears solicitations for an address (RFC 4291 §2.7.1), and where frames to it go.
fn solicited_node(target: Ipv6Addr) -> (Ipv6Addr, [u8; 6]) {
    let [.., a, b, c] = target.octets();
    let low = u16::from_be_bytes([b, c]);
    let group = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 1, 0xFF00 | u16::from(a), low);
    (group, [0x33, 0x33, 0xFF, a, b, c])
}

fn send_discovery<P: Port>(
    source: Ipv6Addr,
    dest: Ipv6Addr,
    message: &mut [u8],
    link: &LinkHeader,
    around: &mut Around<'_, P>,
) {
    let len = u32::try_from(message.len()).expect("a message has 32 bytes at most");
    let mut sum = Sum::pseudo_header(source.into(), dest.into(), protocol::ICMPV6, len);
    sum.add(message);
    message[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
    let mut head = [0; HEAD_BYTES_MAX];
    let ip = IpHead {
        source: source.into(),
        dest: dest.into(),
        protocol: protocol::ICMPV6,
        payload_len: message.len(),
        traffic_class: 0,
        hops: HOPS_UNTOUCHED,
    };
    let at = ip.emit_behind(link, &mut head);
    head[at..at + message.len()].copy_from_slice(message);
    around.send(&head[..at + message.len()], &[]);
}

/// Sends an echo request back with its own bytes (RFC 792, RFC 4443 §4.2).
pub(super) fn send_echo_reply<P: Port>(
    icmp: &Icmp,
    frame: &Frame,
    link: &LinkHeader,
    around: &mut Around<'_, P>,
) {
    let IcmpMessage::EchoRequest { body } = &icmp.message else {
        return;
    };
    let mut pieces = ArrayVec::<Piece<'_>, ECHO_PIECES_MAX>::new();
    let (mut skip, mut left) = (body.start, body.len());
    for slice in frame.slices() {
        let from = skip.min(slice.len());
        skip -= from;
        let piece = &slice[from..];
        let piece = &piece[..left.min(piece.len())];
        left -= piece.len();
        if !piece.is_empty() && pieces.try_push(Piece::Bytes(piece)).is_err() {
            around.counters.drop(Dropped::Limited);
            return;
        }
    }
    let len = ICMP_START_BYTES + body.len();
    let (kind, protocol, mut sum) = if icmp.ip.is_v6() {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let sum = Sum::pseudo_header(icmp.ip.dest, icmp.ip.source, protocol::ICMPV6, len);
        (kind::V6_ECHO_REPLY, protocol::ICMPV6, sum)
    } else {
        (kind::V4_ECHO_REPLY, protocol::ICMPV4, Sum::new())
    };
    sum.add(&[kind, 0, 0, 0]);
    sum.add_frame(frame, body.start, body.end);
    let mut head = [0; HEAD_BYTES_MAX];
    let ip = IpHead {
        source: icmp.ip.dest,
        dest: icmp.ip.source,
        protocol,
        payload_len: len,
        traffic_class: 0,
        hops: HOPS,
    };
    let at = ip.emit_behind(link, &mut head);
    let [high, low] = sum.checksum().to_be_bytes();
    head[at..at + ICMP_START_BYTES].copy_from_slice(&[kind, 0, high, low]);
    around.send(&head[..at + ICMP_START_BYTES], &pieces);
}
