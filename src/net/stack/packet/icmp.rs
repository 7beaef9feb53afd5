//! Messages of ICMP for IPv4 (RFC 792) and IPv6 (RFC 4443), and of neighbour discovery (RFC 4861).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use super::Sum;
use super::ip::{IPV4_BYTES, IPV6_BYTES, Ip};
use super::seq::Seq;
use super::{Link, Malformed, array_at, is_unverified, protocol, u16_at, u32_at};
use crate::net::stack::model::FlowKey;
use crate::port::Frame;

/// Types of messages.
pub mod kind {
    pub const V4_ECHO_REPLY: u8 = 0;
    pub const V4_UNREACHABLE: u8 = 3;
    pub const V4_ECHO_REQUEST: u8 = 8;
    pub const V6_TOO_BIG: u8 = 2;
    pub const V6_ECHO_REQUEST: u8 = 128;
    pub const V6_ECHO_REPLY: u8 = 129;
    pub const V6_ROUTER_SOLICITATION: u8 = 133;
    pub const V6_REDIRECT: u8 = 137;
    pub const V6_NEIGHBOUR_SOLICITATION: u8 = 135;
    pub const V6_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
}

/// Fragmentation needed, but don't-fragment set (RFC 792).
const V4_CODE_TOO_BIG: u8 = 4;
/// Hops of a packet that no router has touched.
const HOPS_UNTOUCHED: u8 = 255;
/// Options of one neighbour discovery message that are looked at, at most.
const OPTIONS_MAX: usize = 16;

/// A received message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Icmp {
    pub link: Link,
    pub ip: Ip,
    pub message: IcmpMessage,
}

/// What it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IcmpMessage {
    /// `body`: where identifier, sequence number and data are in the frame; the reply has the same.
    EchoRequest { body: Range<usize> },
    /// A packet of ours did not fit on its way. IPv4 routers from before RFC 1191 say 0.
    TooBig { mtu: u32, quoted: Option<Quoted> },
    NeighbourSolicitation {
        target: Ipv6Addr,
        /// Source link-layer address.
        source_mac: Option<[u8; 6]>,
    },
    NeighbourAdvertisement {
        target: Ipv6Addr,
        solicited: bool,
        overrides: bool,
        /// Target link-layer address.
        target_mac: Option<[u8; 6]>,
    },
    /// Nothing that we act on.
    Other { kind: u8, code: u8 },
}

/// The TCP segment of ours that an error quotes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quoted {
    /// The flow, as we see it.
    pub key: FlowKey,
    /// Of the segment's first byte.
    pub seq: Seq,
    /// Length of the packet in bytes, by its own header.
    pub packet_len: u32,
}

pub(super) fn parse_v4(frame: &Frame, link: Link, ip: Ip) -> Result<Icmp, Malformed> {
    let message = message(frame, &ip)?;
    if is_unverified(frame) {
        let mut sum = Sum::new();
        sum.add_frame(frame, ip.payload_at, ip.end);
        if !sum.is_valid() {
            return Err(Malformed::IcmpChecksum);
        }
    }
    let (kind, code) = (message[0], message[1]);
    let message = match (kind, code) {
        (kind::V4_ECHO_REQUEST, 0) => IcmpMessage::EchoRequest {
            body: ip.payload_at + 4..ip.end,
        },
        (kind::V4_UNREACHABLE, V4_CODE_TOO_BIG) => IcmpMessage::TooBig {
            mtu: u32::from(u16_at(message, 6).ok_or(Malformed::Icmp)?),
            quoted: quoted_v4(&message[8..], link.vlan),
        },
        _ => IcmpMessage::Other { kind, code },
    };
    Ok(Icmp { link, ip, message })
}

pub(super) fn parse_v6(frame: &Frame, link: Link, ip: Ip) -> Result<Icmp, Malformed> {
    let bytes = message(frame, &ip)?;
    if is_unverified(frame) {
        let len = u32::try_from(ip.payload_len()).expect("a packet is shorter than 64 KiB");
        let mut sum = Sum::pseudo_header(ip.source, ip.dest, protocol::ICMPV6, len);
        sum.add_frame(frame, ip.payload_at, ip.end);
        if !sum.is_valid() {
            return Err(Malformed::IcmpChecksum);
        }
    }
    let (kind, code) = (bytes[0], bytes[1]);
    if (kind::V6_ROUTER_SOLICITATION..=kind::V6_REDIRECT).contains(&kind)
        && (ip.hops != HOPS_UNTOUCHED || code != 0)
    {
        return Err(Malformed::Neighbour);
    }
    let message = match kind {
        kind::V6_ECHO_REQUEST if code == 0 => IcmpMessage::EchoRequest {
            body: ip.payload_at + 4..ip.end,
        },
        kind::V6_TOO_BIG => IcmpMessage::TooBig {
            mtu: u32_at(bytes, 4).ok_or(Malformed::Icmp)?,
            quoted: quoted_v6(&bytes[8..], link.vlan),
        },
        kind::V6_NEIGHBOUR_SOLICITATION => solicitation(&ip, bytes)?,
        kind::V6_NEIGHBOUR_ADVERTISEMENT => advertisement(&ip, bytes)?,
        _ => IcmpMessage::Other { kind, code },
    };
    // Only a solicitation may come from a station without an address.
    if is_unspecified(ip.source) && kind != kind::V6_NEIGHBOUR_SOLICITATION {
        return Err(Malformed::IpSource);
    }
    Ok(Icmp { link, ip, message })
}

/// The message as far as it lies in the first piece of the frame: at least its eight bytes of
/// header.
fn message<'a>(frame: &'a Frame, ip: &Ip) -> Result<&'a [u8], Malformed> {
    let head = frame.head();
    let head = &head[..head.len().min(ip.end)];
    head.get(ip.payload_at..)
        .filter(|message| message.len() >= 8)
        .ok_or(Malformed::Icmp)
}

fn is_unspecified(address: IpAddr) -> bool {
    address.is_unspecified()
}

/// RFC 4861 §7.1.1.
fn solicitation(ip: &Ip, bytes: &[u8]) -> Result<IcmpMessage, Malformed> {
    const SOURCE_MAC: u8 = 1;
    let target = target(bytes)?;
    let source_mac = option_mac(&bytes[24..], SOURCE_MAC)?;
    if is_unspecified(ip.source) {
        let is_solicited_node = matches!(ip.dest, IpAddr::V6(dest)
            if dest.octets().starts_with(&[0xFF, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xFF]));
        if source_mac.is_some() || !is_solicited_node {
            return Err(Malformed::Neighbour);
        }
    }
    Ok(IcmpMessage::NeighbourSolicitation { target, source_mac })
}

/// RFC 4861 §7.1.2.
fn advertisement(ip: &Ip, bytes: &[u8]) -> Result<IcmpMessage, Malformed> {
    const TARGET_MAC: u8 = 2;
    let target = target(bytes)?;
    let solicited = bytes[4] & 0x40 != 0;
    if solicited && ip.dest.is_multicast() {
        return Err(Malformed::Neighbour);
    }
    Ok(IcmpMessage::NeighbourAdvertisement {
        target,
        solicited,
        overrides: bytes[4] & 0x20 != 0,
        target_mac: option_mac(&bytes[24..], TARGET_MAC)?,
    })
}

/// The message has at least 24 bytes.
fn target(bytes: &[u8]) -> Result<Ipv6Addr, Malformed> {
    let target = array_at::<16>(bytes, 8).map(Ipv6Addr::from);
    target
        .filter(|target| !target.is_multicast())
        .ok_or(Malformed::Neighbour)
}

/// The link-layer address in an option of that kind. All options have to be whole.
fn option_mac(options: &[u8], wanted: u8) -> Result<Option<[u8; 6]>, Malformed> {
    let mut rest = options;
    let mut found = None;
    for _ in 0..OPTIONS_MAX {
        let [kind, units, ..] = *rest else {
            break;
        };
        let len = usize::from(units) * 8;
        if len == 0 || len > rest.len() {
            return Err(Malformed::Neighbour);
        }
        if kind == wanted {
            let mac: [u8; 6] = array_at(rest, 2).ok_or(Malformed::Neighbour)?;
            // The address of a group is that of no neighbour.
            found = Some(mac).filter(|mac| mac[0] & 1 == 0);
        }
        rest = &rest[len..];
    }
    if rest.is_empty() {
        Ok(found)
    } else {
        Err(Malformed::Neighbour)
    }
}

/// The quoted packet is one that we sent, so its source is our end. At least eight bytes of what it
/// carried are quoted (RFC 792): ports and sequence number.
fn quoted_v4(packet: &[u8], vlan: Option<u16>) -> Option<Quoted> {
    let fixed: [u8; IPV4_BYTES] = array_at(packet, 0)?;
    let header_bytes = usize::from(fixed[0] & 0x0F) * 4;
    if fixed[0] >> 4 != 4 || header_bytes < IPV4_BYTES || fixed[9] != protocol::TCP {
        return None;
    }
    // A later fragment has no ports.
    if u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1FFF != 0 {
        return None;
    }
    let local = Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]);
    let peer = Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]);
    let packet_len = u32::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let tcp = packet.get(header_bytes..)?;
    quoted_tcp(tcp, vlan, local.into(), peer.into(), packet_len)
}

fn quoted_v6(packet: &[u8], vlan: Option<u16>) -> Option<Quoted> {
    let fixed: [u8; IPV6_BYTES] = array_at(packet, 0)?;
    // Ours have no extension headers.
    if fixed[0] >> 4 != 6 || fixed[6] != protocol::TCP {
        return None;
    }
    let local = Ipv6Addr::from(array_at::<16>(&fixed, 8)?);
    let peer = Ipv6Addr::from(array_at::<16>(&fixed, 24)?);
    let packet_len = u32::from(u16::from_be_bytes([fixed[4], fixed[5]])) + 40;
    quoted_tcp(
        &packet[IPV6_BYTES..],
        vlan,
        local.into(),
        peer.into(),
        packet_len,
    )
}

fn quoted_tcp(
    tcp: &[u8],
    vlan: Option<u16>,
    local: IpAddr,
    peer: IpAddr,
    packet_len: u32,
) -> Option<Quoted> {
    Some(Quoted {
        key: FlowKey {
            vlan,
            local: SocketAddr::new(local, u16_at(tcp, 0)?),
            peer: SocketAddr::new(peer, u16_at(tcp, 2)?),
        },
        seq: Seq(u32_at(tcp, 4)?),
        packet_len,
    })
}
