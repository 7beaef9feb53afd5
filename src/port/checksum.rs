//! The layout of a frame's headers as far as a device looks at them: where IP and TCP begin,
//! whether their checksums are right, which flow it is.

use super::sum::Sum;
use super::{Checksum, ETHERNET_BYTES, VLAN_BYTES};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Tags of a customer's VLAN and of a provider's (IEEE 802.1Q): both as long.
const ETHERTYPE_VLANS: [u16; 2] = [0x8100, 0x88a8];
const PROTOCOL_TCP: u8 = 6;
const IPV6_HEADER_BYTES: usize = 40;
/// Where the checksum is in an IPv4 header.
pub const IPV4_CHECKSUM_AT: usize = 10;
/// Where the checksum is in a TCP header.
pub const TCP_CHECKSUM_AT: usize = 16;
/// A TCP header without options.
const TCP_HEADER_BYTES: usize = 20;

/// Where the headers of an IP packet are in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Bytes before the IP header.
    pub l2_len: usize,
    /// Bytes of the IP header.
    pub l3_len: usize,
    pub ipv6: bool,
    /// A whole TCP segment lies behind the IP header: no fragment, no other protocol, no extension
    /// header in between.
    pub tcp: bool,
    /// What the IP header says about the bytes of the packet.
    pub packet_len: usize,
}

impl Layout {
    /// Looks at the first bytes of a frame, untagged or with one VLAN tag. `None`: not IP, or the
    /// IP header is not all there.
    pub fn of(head: &[u8]) -> Option<Self> {
        let l2_len = l2_len(head);
        let ethertype = u16::from_be_bytes(*head.get(..l2_len)?.last_chunk()?);
        let ip = head.get(l2_len..)?;
        match ethertype {
            ETHERTYPE_IPV4 => {
                let l3_len = usize::from(ip.first()? & 0x0f) * 4;
                if ip[0] >> 4 != 4 || l3_len < 20 || ip.len() < l3_len {
                    return None;
                }
                let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff;
                Some(Self {
                    l2_len,
                    l3_len,
                    ipv6: false,
                    tcp: ip[9] == PROTOCOL_TCP && fragment == 0,
                    packet_len: usize::from(u16::from_be_bytes([ip[2], ip[3]])),
                })
            }
            ETHERTYPE_IPV6 => {
                if ip.len() < IPV6_HEADER_BYTES || ip[0] >> 4 != 6 {
                    return None;
                }
                let payload = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
                Some(Self {
                    l2_len,
                    l3_len: IPV6_HEADER_BYTES,
                    ipv6: true,
                    tcp: ip[6] == PROTOCOL_TCP,
                    packet_len: IPV6_HEADER_BYTES + payload,
                })
            }
            _ => None,
        }
    }

    /// Bytes before the TCP header.
    pub fn l4_at(&self) -> usize {
        self.l2_len + self.l3_len
    }

    /// The IPv4 header, out of the bytes it was made from, is as it was sent (RFC 791 section 3.1).
    /// IPv6 has no sum of its own.
    pub fn is_header_valid(&self, head: &[u8]) -> bool {
        let mut sum = Sum::new();
        sum.add(&head[self.l2_len..self.l4_at()]);
        self.ipv6 || sum.is_valid()
    }

    /// Source and destination address, behind each other, out of the bytes it was made from.
    fn addresses<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        let ip = &head[self.l2_len..];
        if self.ipv6 { &ip[8..40] } else { &ip[12..20] }
    }

    /// The sum of TCP's pseudo-header for `l4_len` bytes of header and payload.
    pub fn pseudo_header(&self, head: &[u8], l4_len: usize) -> Sum {
        let mut sum = Sum::new();
        sum.add(self.addresses(head));
        sum.add(&[0, PROTOCOL_TCP]);
        let len = u32::try_from(l4_len).unwrap_or(u32::MAX);
        sum.add(&len.to_be_bytes());
        sum
    }

    /// The bytes of the frame behind which there is only padding; `None`: the frame is too short
    /// for what its IP header says.
    fn end(&self, frame: &[u8]) -> Option<usize> {
        let end = self.l2_len + self.packet_len;
        (end <= frame.len() && self.packet_len >= self.l3_len).then_some(end)
    }
}

/// Bytes before the IP header.
pub fn l2_len(head: &[u8]) -> usize {
    let ethertype = head.get(12..14);
    let tagged = ETHERTYPE_VLANS
        .iter()
        .any(|vlan| ethertype == Some(&vlan.to_be_bytes()));
    ETHERNET_BYTES + if tagged { VLAN_BYTES } else { 0 }
}

/// What a device that verifies checksums says about a frame that lies in one piece.
pub fn verify(frame: &[u8]) -> Checksum {
    let Some(layout) = Layout::of(frame) else {
        return Checksum::Unknown;
    };
    if !layout.is_header_valid(frame) {
        return Checksum::Bad;
    }
    let Some(end) = layout.end(frame) else {
        return Checksum::Unknown;
    };
    let segment = &frame[layout.l4_at()..end];
    if !layout.tcp || segment.len() < TCP_HEADER_BYTES {
        return Checksum::Unknown;
    }
    let mut sum = layout.pseudo_header(frame, segment.len());
    sum.add(segment);
    if sum.is_valid() {
        Checksum::Good
    } else {
        Checksum::Bad
    }
}

/// A number that is the same for both directions of a flow and spreads flows evenly; 0 for frames
/// that belong to no flow of two hosts.
pub fn symmetric_hash(head: &[u8]) -> u32 {
    const GROUP: u8 = 1;
    let Some(layout) = Layout::of(head).filter(|_| head[0] & GROUP == 0) else {
        return 0;
    };
    let addresses = layout.addresses(head);
    let (from, to) = addresses.split_at(addresses.len() / 2);
    let mut mixed = 0u32;
    for (a, b) in from.as_chunks::<4>().0.iter().zip(to.as_chunks::<4>().0) {
        mixed = stirred(mixed ^ u32::from_be_bytes(*a) ^ u32::from_be_bytes(*b));
    }
    if let Some(&[a, b, c, d]) = head.get(layout.l4_at()..layout.l4_at() + 4)
        && layout.tcp
    {
        let (from, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        // Neither the sum nor the difference of the bits depends on the direction.
        let ports = u32::from(from ^ to) << 16 | u32::from(from.wrapping_add(to));
        mixed = stirred(mixed ^ ports);
    }
    mixed
}

/// Every bit of the result depends on every bit of `word`.
fn stirred(word: u32) -> u32 {
    let mut word = word.wrapping_add(0x9e37_79b9);
    word = (word ^ (word >> 16)).wrapping_mul(0x85eb_ca6b);
    word = (word ^ (word >> 13)).wrapping_mul(0xc2b2_ae35);
    word ^ (word >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_strange_frames_are_no_ip() {
        let mut frame = vec![0u8; 14 + 4 + 20 + 20];
        assert_eq!(Layout::of(&frame), None);
        frame[12..14].copy_from_slice(&[8, 0]);
        assert_eq!(Layout::of(&frame), None, "version 0");
        frame[14] = 0x4f;
        assert_eq!(Layout::of(&frame), None, "a header of 60 bytes");
        frame[14] = 0x44;
        assert_eq!(Layout::of(&frame), None, "a header of 16 bytes");
        frame[12..14].copy_from_slice(&[0x81, 0]);
        assert_eq!(Layout::of(&frame), None);
        for len in 0..frame.len() {
            assert_eq!(verify(&frame[..len]), Checksum::Unknown);
            assert_eq!(symmetric_hash(&frame[..len]), 0);
        }
    }

    /// The example header of RFC 1071's later explanations: its sum is b861.
    #[test]
    fn an_ipv4_header_is_found_behind_either_tag_and_its_sum_is_looked_at() {
        let header = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8,
            0, 0xc7,
        ];
        for tag in [&[][..], &[0x81, 0, 0, 5], &[0x88, 0xa8, 0, 5]] {
            let mut frame = [&[0; 12][..], tag, &[8, 0], &header].concat();
            let layout = Layout::of(&frame).unwrap();
            assert_eq!(layout.l2_len, 14 + tag.len());
            assert_eq!((layout.l4_at(), layout.tcp), (frame.len(), false));
            assert!(layout.is_header_valid(&frame));
            *frame.last_mut().unwrap() ^= 1;
            assert!(!layout.is_header_valid(&frame));
            assert_eq!(verify(&frame), Checksum::Bad);
        }
    }
}
