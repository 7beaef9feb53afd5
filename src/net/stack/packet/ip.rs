//! The headers of IPv4 (RFC 791) and IPv6 (RFC 8200).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Sum;
use super::{Malformed, array_at, is_unverified, protocol, u16_at};
use crate::port::Frame;

/// Bytes of an IPv4 header without options.
pub(super) const IPV4_BYTES: usize = 20;
/// Bytes of an IPv6 header without extensions.
pub(super) const IPV6_BYTES: usize = 40;
/// Extension headers that are skipped in one packet, at most.
const EXTENSIONS_MAX: usize = 4;
/// Bytes of all of them, at most.
const EXTENSION_BYTES_MAX: usize = 512;

/// The header of a received IP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ip {
    pub source: IpAddr,
    pub dest: IpAddr,
    /// What is in it, extension headers skipped.
    pub protocol: u8,
    /// Hops that were left (TTL, hop limit).
    pub hops: u8,
    /// Explicit congestion notification, 0 to 3 (RFC 3168).
    pub ecn: u8,
    /// Where the header begins in the frame, in bytes.
    pub at: usize,
    /// Where what is in it begins.
    pub payload_at: usize,
    /// Where the packet ends: what follows in the frame is padding.
    pub end: usize,
}

impl Ip {
    pub const fn is_v6(&self) -> bool {
        self.dest.is_ipv6()
    }

    /// Bytes behind the header.
    pub const fn payload_len(&self) -> usize {
        self.end - self.payload_at
    }
}

pub(super) fn parse_v4(frame: &Frame, at: usize) -> Result<Ip, Malformed> {
    let header = frame.head().get(at..).ok_or(Malformed::IpHeader)?;
    let fixed: [u8; IPV4_BYTES] = array_at(header, 0).ok_or(Malformed::IpHeader)?;
    let header_bytes = usize::from(fixed[0] & 0x0F) * 4;
    if fixed[0] >> 4 != 4 || header_bytes < IPV4_BYTES || header.len() < header_bytes {
        return Err(Malformed::IpHeader);
    }
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let end = at + total;
    if total < header_bytes || end > frame.len() {
        return Err(Malformed::IpLength);
    }
    if is_unverified(frame) {
        let mut sum = Sum::new();
        sum.add(&header[..header_bytes]);
        if !sum.is_valid() {
            return Err(Malformed::IpChecksum);
        }
    }
    // More fragments, or an offset.
    if u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3FFF != 0 {
        return Err(Malformed::Fragment);
    }
    let source = Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]);
    // RFC 1122 §3.2.1.3: none of these is the address of one station on a network.
    if source.is_multicast()
        || source.is_broadcast()
        || source.is_loopback()
        || source.is_unspecified()
    {
        return Err(Malformed::IpSource);
    }
    Ok(Ip {
        source: IpAddr::V4(source),
        dest: IpAddr::V4(Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19])),
        protocol: fixed[9],
        hops: fixed[8],
        ecn: fixed[1] & 3,
        at,
        payload_at: at + header_bytes,
        end,
    })
}

pub(super) fn parse_v6(frame: &Frame, at: usize) -> Result<Ip, Malformed> {
    let header = frame.head().get(at..).ok_or(Malformed::IpHeader)?;
    let fixed: [u8; IPV6_BYTES] = array_at(header, 0).ok_or(Malformed::IpHeader)?;
    if fixed[0] >> 4 != 6 {
        return Err(Malformed::IpHeader);
    }
    let length = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let end = at + IPV6_BYTES + length;
    if end > frame.len() {
        return Err(Malformed::IpLength);
    }
    let source = Ipv6Addr::from(array_at::<16>(&fixed, 8).expect("the header has 40 bytes"));
    if source.is_multicast() || source.is_loopback() {
        return Err(Malformed::IpSource);
    }
    let (protocol, payload_at) = skip_extensions(frame, fixed[6], at + IPV6_BYTES, end)?;
    // Only a station that asks whether its address is free has none (RFC 4862 §5.4).
    if source.is_unspecified() && protocol != protocol::ICMPV6 {
        return Err(Malformed::IpSource);
    }
    let dest = Ipv6Addr::from(array_at::<16>(&fixed, 24).expect("the header has 40 bytes"));
    Ok(Ip {
        source: IpAddr::V6(source),
        dest: IpAddr::V6(dest),
        protocol,
        hops: fixed[7],
        ecn: (fixed[1] >> 4) & 3,
        at,
        payload_at,
        end,
    })
}

/// What the packet carries, and where that begins.
fn skip_extensions(
    frame: &Frame,
    first: u8,
    at: usize,
    end: usize,
) -> Result<(u8, usize), Malformed> {
    let head = frame.head();
    let head = &head[..head.len().min(end)];
    let (mut next, mut next_at) = (first, at);
    for place in 0..=EXTENSIONS_MAX {
        match next {
            // Only the first may be hop-by-hop (RFC 8200 §4.1).
            protocol::HOP_BY_HOP if place == 0 => {}
            protocol::DESTINATION => {}
            protocol::FRAGMENT => return Err(Malformed::Fragment),
            protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::ENCRYPTED
            | protocol::AUTHENTICATED => return Err(Malformed::Extensions),
            other => return Ok((other, next_at)),
        }
        let [following, units] = u16_at(head, next_at)
            .map_or(Err(Malformed::Extensions), |pair| Ok(pair.to_be_bytes()))?;
        let len = (usize::from(units) + 1) * 8;
        let options = head
            .get(next_at + 2..next_at + len)
            .ok_or(Malformed::Extensions)?;
        if !may_skip(options) {
            return Err(Malformed::Extensions);
        }
        (next, next_at) = (following, next_at + len);
        if next_at - at > EXTENSION_BYTES_MAX {
            break;
        }
    }
    Err(Malformed::Extensions)
}

/// Each option is whole, and of a type that may be skipped unknown (RFC 8200 §4.2).
fn may_skip(options: &[u8]) -> bool {
    const PAD_1: u8 = 0;
    let mut rest = options;
    while let [kind, behind @ ..] = rest {
        if *kind == PAD_1 {
            rest = behind;
            continue;
        }
        let [len, body @ ..] = behind else {
            return false;
        };
        if kind >> 6 != 0 {
            return false;
        }
        let Some(behind) = body.get(usize::from(*len)..) else {
            return false;
        };
        rest = behind;
    }
    true
}
