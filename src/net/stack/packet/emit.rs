//! Headers of our own: link headers, whole segments without payload, and a received segment's
//! headers as its flow is to see them.

use std::net::IpAddr;

use super::Sum;
use super::ip::{IPV4_BYTES, IPV6_BYTES};
use super::seq::Seq;
use super::tcp::{Flags, Segment, TCP_BYTES, Timestamps, option};
use super::{ethertype, protocol};
use crate::net::stack::model::FlowKey;
use crate::port::{ETHERNET_BYTES, Frame, HEAD_BYTES_MAX, VLAN_BYTES};

/// Hops that our packets may take.
pub const HOPS: u8 = 64;
/// Headers of IP and TCP with all options, at most.
pub const PACKET_HEAD_BYTES_MAX: usize = IPV6_BYTES + 60;
/// Bytes of all options of a segment, at most.
const OPTION_BYTES_MAX: usize = 40;

/// The link header of frames to one station in one network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkHeader {
    pub dest: [u8; 6],
    pub source: [u8; 6],
    pub tag: Option<Tag>,
}

/// A tag of IEEE 802.1Q.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    /// VLAN ID, 1 to 4094.
    pub vlan: u16,
    /// Priority code point, 0 to 7.
    pub pcp: u8,
}

impl LinkHeader {
    /// Bytes of the header.
    #[expect(clippy::len_without_is_empty, reason = "a link header is never empty")]
    pub const fn len(&self) -> usize {
        match self.tag {
            Some(_) => ETHERNET_BYTES + VLAN_BYTES,
            None => ETHERNET_BYTES,
        }
    }

    /// Writes it to the start of `out`, which has room for it, and returns its bytes. `ethertype`:
    /// of what follows.
    pub fn emit(&self, ethertype: u16, out: &mut [u8]) -> usize {
        out[..6].copy_from_slice(&self.dest);
        out[6..12].copy_from_slice(&self.source);
        let mut at = 12;
        if let Some(tag) = self.tag {
            let control = u16::from(tag.pcp & 7) << 13 | tag.vlan & 0x0FFF;
            out[12..14].copy_from_slice(&ethertype::VLAN.to_be_bytes());
            out[14..16].copy_from_slice(&control.to_be_bytes());
            at = 16;
        }
        out[at..at + 2].copy_from_slice(&ethertype.to_be_bytes());
        at + 2
    }
}

/// A segment without payload, written whole with its checksums: challenges, resets, cookies.
#[derive(Clone, Debug)]
pub struct Bare {
    pub key: FlowKey,
    pub seq: Seq,
    /// Sent with [`Flags::ACK`].
    pub ack: Seq,
    pub flags: Flags,
    /// As in the header, not scaled.
    pub window: u16,
    /// Differentiated services code point, 0 to 63.
    pub dscp: u8,
    pub mss: Option<u16>,
    pub window_scale: Option<u8>,
    pub sack_permitted: bool,
    pub timestamps: Option<Timestamps>,
}

impl Bare {
    /// One without options.
    pub const fn new(key: FlowKey, seq: Seq, ack: Seq, flags: Flags) -> Self {
        Self {
            key,
            seq,
            ack,
            flags,
            window: 0,
            dscp: 0,
            mss: None,
            window_scale: None,
            sack_permitted: false,
            timestamps: None,
        }
    }

    /// The reset that answers a segment for which there is no flow (RFC 9293 §3.10.7.1). Never
    /// answer a reset with it.
    pub fn reset_for(segment: &Segment) -> Self {
        if segment.is_ack() {
            Self::new(segment.key, segment.ack, Seq(0), Flags::RST)
        } else {
            let flags = Flags::RST | Flags::ACK;
            Self::new(segment.key, Seq(0), segment.end(), flags)
        }
    }

    /// Writes the frame: link, IP and TCP headers. Returns its bytes.
    pub fn emit(&self, link: &LinkHeader, out: &mut [u8; HEAD_BYTES_MAX]) -> usize {
        self.emit_before(&[], link, out)
    }

    /// The same with a payload behind it.
    #[cfg(any(test, feature = "testing"))]
    pub fn to_frame(&self, link: &LinkHeader, payload: &[u8]) -> Vec<u8> {
        let mut head = [0; HEAD_BYTES_MAX];
        let len = self.emit_before(payload, link, &mut head);
        [&head[..len], payload].concat()
    }

    fn emit_before(
        &self,
        payload: &[u8],
        link: &LinkHeader,
        out: &mut [u8; HEAD_BYTES_MAX],
    ) -> usize {
        let mut options = [option::NOTHING; OPTION_BYTES_MAX];
        let option_bytes = self.emit_options(&mut options);
        let tcp_bytes = TCP_BYTES + option_bytes;
        let head = IpHead {
            source: self.key.local.ip(),
            dest: self.key.peer.ip(),
            protocol: protocol::TCP,
            payload_len: tcp_bytes + payload.len(),
            traffic_class: (self.dscp & 0x3F) << 2,
            hops: HOPS,
        };
        let l4_at = head.emit_behind(link, out);
        let tcp = &mut out[l4_at..][..tcp_bytes];
        tcp[..2].copy_from_slice(&self.key.local.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&self.key.peer.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        let ack = if self.flags.contains(Flags::ACK) {
            self.ack.0
        } else {
            0
        };
        tcp[8..12].copy_from_slice(&ack.to_be_bytes());
        tcp[12] = header_words(tcp_bytes) << 4;
        tcp[13] = self.flags.bits();
        tcp[14..16].copy_from_slice(&self.window.to_be_bytes());
        tcp[16..TCP_BYTES].fill(0);
        tcp[TCP_BYTES..].copy_from_slice(&options[..option_bytes]);
        let len = u32::try_from(head.payload_len).expect("a packet is shorter than 64 KiB");
        let mut sum = Sum::pseudo_header(head.source, head.dest, protocol::TCP, len);
        sum.add(tcp);
        sum.add(payload);
        tcp[16..18].copy_from_slice(&sum.checksum().to_be_bytes());
        l4_at + tcp_bytes
    }

    /// Their bytes, a multiple of 4.
    fn emit_options(&self, out: &mut [u8; OPTION_BYTES_MAX]) -> usize {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            put(&[option::MSS, 4, high, low]);
        }
        if self.sack_permitted {
            put(&[option::NOTHING, option::NOTHING, option::SACK_PERMITTED, 2]);
        }
        if let Some(times) = self.timestamps {
            put(&[option::NOTHING, option::NOTHING, option::TIMESTAMPS, 10]);
            put(&times.value.to_be_bytes());
            put(&times.echo.to_be_bytes());
        }
        if let Some(shift) = self.window_scale {
            put(&[option::NOTHING, option::WINDOW_SCALE, 3, shift]);
        }
        at
    }
}

/// What an IP header of ours says.
#[derive(Clone, Copy, Debug)]
pub struct IpHead {
    pub source: IpAddr,
    /// Of the family of `source`.
    pub dest: IpAddr,
    pub protocol: u8,
    /// Bytes behind the header.
    pub payload_len: usize,
    /// Type of service and traffic class, as in the header.
    pub traffic_class: u8,
    pub hops: u8,
}

impl IpHead {
    /// Writes a link header and the IP header to the start of `out`, and returns their bytes.
    pub fn emit_behind(&self, link: &LinkHeader, out: &mut [u8; HEAD_BYTES_MAX]) -> usize {
        let ethertype = match self.dest {
            IpAddr::V4(_) => ethertype::IPV4,
            IpAddr::V6(_) => ethertype::IPV6,
        };
        let at = link.emit(ethertype, out);
        at + self.emit(&mut out[at..])
    }

    /// A plain header, with don't-fragment and its checksum where it is IPv4. Returns its bytes.
    fn emit(&self, out: &mut [u8]) -> usize {
        let bytes = self.emit_unsummed(out);
        if bytes == IPV4_BYTES {
            let mut sum = Sum::new();
            sum.add(&out[..bytes]);
            out[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
        }
        bytes
    }

    /// The same with a checksum of 0.
    fn emit_unsummed(&self, out: &mut [u8]) -> usize {
        match (self.source, self.dest) {
            (IpAddr::V4(source), IpAddr::V4(dest)) => {
                let total = u16::try_from(self.payload_len + IPV4_BYTES).unwrap_or(u16::MAX);
                let header = &mut out[..IPV4_BYTES];
                header.fill(0);
                header[0] = 0x45;
                header[1] = self.traffic_class;
                header[2..4].copy_from_slice(&total.to_be_bytes());
                header[6] = 0x40;
                header[8] = self.hops;
                header[9] = self.protocol;
                header[12..16].copy_from_slice(&source.octets());
                header[16..20].copy_from_slice(&dest.octets());
                IPV4_BYTES
            }
            (source, dest) => {
                let len = u16::try_from(self.payload_len).unwrap_or(u16::MAX);
                let header = &mut out[..IPV6_BYTES];
                header.fill(0);
                header[0] = 0x60 | self.traffic_class >> 4;
                header[1] = self.traffic_class << 4;
                header[4..6].copy_from_slice(&len.to_be_bytes());
                header[6] = self.protocol;
                header[7] = self.hops;
                header[8..24].copy_from_slice(&octets_v6(source));
                header[24..40].copy_from_slice(&octets_v6(dest));
                IPV6_BYTES
            }
        }
    }
}

fn octets_v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn header_words(tcp_bytes: usize) -> u8 {
    u8::try_from(tcp_bytes / 4).expect("a header has at most 60 bytes")
}

/// What a flow is to see of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adjusted {
    /// Bytes of payload that are left: its end may be cut off.
    pub len: usize,
    pub seq: Seq,
    pub ack: Seq,
    pub window: u16,
    /// Without FIN where the end was cut off.
    pub flags: Flags,
}

impl Adjusted {
    /// The segment as it is.
    pub const fn whole(segment: &Segment) -> Self {
        Self {
            len: segment.payload_len,
            seq: segment.seq,
            ack: segment.ack,
            window: segment.window,
            flags: segment.flags,
        }
    }

    /// Where in the frame the payload is that is left.
    pub const fn payload(&self, segment: &Segment) -> std::ops::Range<usize> {
        segment.payload_at..segment.payload_at + self.len
    }

    /// Writes a plain IP header and the TCP header with its options, adjusted, to the start of
    /// `out`, and returns their bytes. The checksum fields are of no use: they were verified
    /// before.
    pub fn emit(
        &self,
        segment: &Segment,
        frame: &Frame,
        out: &mut [u8; PACKET_HEAD_BYTES_MAX],
    ) -> usize {
        let tcp = segment.tcp_header(frame);
        let head = IpHead {
            source: segment.key.peer.ip(),
            dest: segment.key.local.ip(),
            protocol: protocol::TCP,
            payload_len: tcp.len() + self.len,
            traffic_class: segment.ecn,
            hops: segment.hops.max(1),
        };
        let ip_bytes = head.emit_unsummed(out);
        let out = &mut out[ip_bytes..][..tcp.len()];
        out.copy_from_slice(tcp);
        out[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        out[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        out[13] = self.flags.bits();
        out[14..16].copy_from_slice(&self.window.to_be_bytes());
        ip_bytes + tcp.len()
    }
}
