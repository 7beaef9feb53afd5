//! What a received frame is: its headers checked and taken apart, each malformation named.
//!
//! ```text
//! Ethernet [802.1Q] ─┬─ ARP
//!                    ├─ IPv4 [options] ────┬─ TCP [options] ── payload: stays in the frame
//!                    └─ IPv6 [extensions] ─┴─ ICMP ── echo, neighbours, packet too big
//! ```
//!
//! Nothing here keeps a part of the frame: results are plain numbers and places in it, so the frame
//! can be moved. Headers have to lie in the frame's first piece ([`Frame::head`]); checksums are
//! taken over all pieces, where the device has not done that. What is sent of our own is in `emit`.
//!
//! Not accepted, because no initiator sends it and each is a way to be fooled: fragments, routing
//! headers, several tags, TCP to anything but a unicast address (RFC 1122 §4.2.3.10).

pub mod emit;
pub mod icmp;
pub mod seq;
pub mod tcp;

mod ip;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::ops::Range;

use crate::port::{Checksum, ETHERNET_BYTES, Frame, VLAN_BYTES};

pub use crate::port::sum::Sum;
pub use icmp::{Icmp, IcmpMessage, Quoted};
pub use ip::Ip;
pub use seq::Seq;
pub use tcp::{Flags, Options, Segment, Timestamps};

/// EtherTypes (IEEE 802).
pub mod ethertype {
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const VLAN: u16 = 0x8100;
    pub const IPV6: u16 = 0x86DD;
    /// Outer tags of IEEE 802.1ad.
    pub const SERVICE_VLAN: u16 = 0x88A8;
}

/// IP protocol numbers, also next headers of IPv6.
pub mod protocol {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMPV4: u8 = 1;
    pub const TCP: u8 = 6;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const ENCRYPTED: u8 = 50;
    pub const AUTHENTICATED: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const DESTINATION: u8 = 60;
}

/// The link header of a received frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    pub dest: [u8; 6],
    pub source: [u8; 6],
    /// VLAN ID; `None` without a tag, and with one that carries only a priority (ID 0).
    pub vlan: Option<u16>,
}

impl Link {
    /// The frame was sent to more stations than one.
    pub const fn is_group(&self) -> bool {
        self.dest[0] & 1 != 0
    }
}

/// What a frame is.
#[derive(Clone, Debug)]
pub enum Parsed {
    Tcp(Segment),
    Arp(Arp),
    Icmpv4(Icmp),
    Icmpv6(Icmp),
    /// Well formed, as far as it was looked at, and nothing for us.
    Other(Link, Other),
}

/// What else there is on a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Other {
    /// An EtherType, or the length of an IEEE 802.3 frame.
    EtherType(u16),
    /// A protocol over IP.
    Protocol(u8),
}

/// An ARP packet for Ethernet and IPv4 (RFC 826).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    pub link: Link,
    /// 1: request, 2: reply.
    pub operation: u16,
    pub sender_mac: [u8; 6],
    pub sender: Ipv4Addr,
    pub target_mac: [u8; 6],
    pub target: Ipv4Addr,
}

/// Why a frame was dropped before anything believed it. Each is counted by itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[repr(u8)]
pub enum Malformed {
    #[error("the frame is shorter than its Ethernet header")]
    Ethernet,
    #[error("the frame's source address is that of a group")]
    EthernetSource,
    #[error("the frame has more than one tag, or VLAN 4095")]
    Tags,
    #[error("the ARP packet is not one for Ethernet and IPv4")]
    Arp,
    #[error("the IP header is not whole, or of another version")]
    IpHeader,
    #[error("the IP packet is longer than its frame, or shorter than its header")]
    IpLength,
    #[error("the checksum of the IPv4 header is wrong")]
    IpChecksum,
    #[error("the IP packet is a fragment")]
    Fragment,
    #[error("the IP source address is none that a station can have")]
    IpSource,
    #[error("the IPv6 extension headers are too many, not whole, or not accepted")]
    Extensions,
    #[error("the TCP header is not whole")]
    TcpHeader,
    #[error("the TCP options do not add up")]
    TcpOptions,
    #[error("the TCP flags contradict each other")]
    TcpFlags,
    #[error("the TCP port is 0")]
    TcpPort,
    #[error("the TCP checksum is wrong")]
    TcpChecksum,
    #[error("the TCP segment was sent to a group")]
    TcpGroup,
    #[error("the TCP segment comes from where it goes to")]
    TcpLand,
    #[error("the ICMP message is not whole")]
    Icmp,
    #[error("the ICMP checksum is wrong")]
    IcmpChecksum,
    #[error("the neighbour discovery message breaks a rule of RFC 4861 §7.1")]
    Neighbour,
}

impl Malformed {
    /// How many there are: their numbers are below.
    pub const COUNT: usize = 20;
}

/// Parses a frame.
///
/// # Errors
/// What is wrong with it, first things first.
pub fn parse(frame: &Frame) -> Result<Parsed, Malformed> {
    let head = frame.head();
    let (link, ethertype, l3_at) = parse_link(head)?;
    match ethertype {
        ethertype::ARP => parse_arp(link, &head[l3_at..]).map(Parsed::Arp),
        ethertype::IPV4 => parse_packet(frame, link, ip::parse_v4(frame, l3_at)?),
        ethertype::IPV6 => parse_packet(frame, link, ip::parse_v6(frame, l3_at)?),
        other => Ok(Parsed::Other(link, Other::EtherType(other))),
    }
}

fn parse_packet(frame: &Frame, link: Link, ip: Ip) -> Result<Parsed, Malformed> {
    match ip.protocol {
        protocol::TCP => tcp::parse(frame, link, &ip).map(Parsed::Tcp),
        protocol::ICMPV4 if !ip.is_v6() => icmp::parse_v4(frame, link, ip).map(Parsed::Icmpv4),
        protocol::ICMPV6 if ip.is_v6() => icmp::parse_v6(frame, link, ip).map(Parsed::Icmpv6),
        other => Ok(Parsed::Other(link, Other::Protocol(other))),
    }
}

/// The link header, the EtherType, and where what it names begins.
fn parse_link(head: &[u8]) -> Result<(Link, u16, usize), Malformed> {
    let dest = array_at(head, 0).ok_or(Malformed::Ethernet)?;
    let source: [u8; 6] = array_at(head, 6).ok_or(Malformed::Ethernet)?;
    let outer = u16_at(head, 12).ok_or(Malformed::Ethernet)?;
    if source[0] & 1 != 0 {
        return Err(Malformed::EthernetSource);
    }
    let mut link = Link {
        dest,
        source,
        vlan: None,
    };
    match outer {
        ethertype::VLAN => {}
        ethertype::SERVICE_VLAN => return Err(Malformed::Tags),
        _ => return Ok((link, outer, ETHERNET_BYTES)),
    }
    let tag = u16_at(head, 14).ok_or(Malformed::Ethernet)?;
    let inner = u16_at(head, 16).ok_or(Malformed::Ethernet)?;
    if matches!(inner, ethertype::VLAN | ethertype::SERVICE_VLAN) {
        return Err(Malformed::Tags);
    }
    // ID 0 is the untagged network with a priority, 4095 is reserved (IEEE 802.1Q §9.6).
    link.vlan = match tag & 0x0FFF {
        0 => None,
        0x0FFF => return Err(Malformed::Tags),
        id => Some(id),
    };
    Ok((link, inner, ETHERNET_BYTES + VLAN_BYTES))
}

fn parse_arp(link: Link, packet: &[u8]) -> Result<Arp, Malformed> {
    const ETHERNET_AND_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    if array_at(packet, 0) != Some(ETHERNET_AND_IPV4) {
        return Err(Malformed::Arp);
    }
    let arp = Arp {
        link,
        operation: u16_at(packet, 6).ok_or(Malformed::Arp)?,
        sender_mac: array_at(packet, 8).ok_or(Malformed::Arp)?,
        sender: Ipv4Addr::from(array_at::<4>(packet, 14).ok_or(Malformed::Arp)?),
        target_mac: array_at(packet, 18).ok_or(Malformed::Arp)?,
        target: Ipv4Addr::from(array_at::<4>(packet, 24).ok_or(Malformed::Arp)?),
    };
    // A group cannot answer for itself: learning such an address would send unicast to everyone.
    if !matches!(arp.operation, 1 | 2) || arp.sender_mac[0] & 1 != 0 || arp.sender.is_multicast() {
        return Err(Malformed::Arp);
    }
    Ok(arp)
}

/// Copies bytes of a frame, out of however many pieces, behind what `out` has. Copies no more than
/// the frame has.
pub fn copy_range(frame: &Frame, range: Range<usize>, out: &mut Vec<u8>) {
    let mut at = 0_usize;
    for slice in frame.slices() {
        let from = range.start.saturating_sub(at).min(slice.len());
        let to = range.end.saturating_sub(at).min(slice.len());
        if from < to {
            out.extend_from_slice(&slice[from..to]);
        }
        at = at.saturating_add(slice.len());
    }
}

/// The checksums of a frame have to be verified. A device that says they are wrong may just not
/// know the kind of packet, so its word is not taken for that.
fn is_unverified(frame: &Frame) -> bool {
    frame.checksum != Checksum::Good
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_be_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_be_bytes)
}
