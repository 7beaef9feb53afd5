//! The TCP header (RFC 9293 §3.1) and the options that matter to us.

use std::net::SocketAddr;

use arrayvec::ArrayVec;
use bitflags::bitflags;

use super::Sum;
use super::ip::Ip;
use super::seq::Seq;
use super::{Link, Malformed, array_at, is_unverified, protocol, u16_at, u32_at};
use crate::net::stack::model::FlowKey;
use crate::port::Frame;

/// Bytes of a TCP header without options.
pub const TCP_BYTES: usize = 20;
/// Blocks of one SACK option, at most (RFC 2018 §3).
pub const SACK_BLOCKS_MAX: usize = 4;
/// The largest shift of a window (RFC 7323 §2.3).
pub const WINDOW_SHIFT_MAX: u8 = 14;

bitflags! {
    /// The control bits.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Flags: u8 {
        const FIN = 0x01;
        const SYN = 0x02;
        const RST = 0x04;
        const PSH = 0x08;
        const ACK = 0x10;
        const URG = 0x20;
        const ECE = 0x40;
        const CWR = 0x80;
    }
}

/// Kinds of options (IANA).
pub(super) mod option {
    pub(in super::super) const END: u8 = 0;
    pub(in super::super) const NOTHING: u8 = 1;
    pub(in super::super) const MSS: u8 = 2;
    pub(in super::super) const WINDOW_SCALE: u8 = 3;
    pub(in super::super) const SACK_PERMITTED: u8 = 4;
    pub(in super::super) const SACK: u8 = 5;
    pub(in super::super) const TIMESTAMPS: u8 = 8;
}

/// What is before the two values in the options of nearly every segment, laid out as RFC 7323
/// appendix A has it.
const TIMESTAMPS_ALONE: [u8; 4] = [option::NOTHING, option::NOTHING, option::TIMESTAMPS, 10];

/// Options of a segment. Those that only a SYN may have are left out of others.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Options {
    /// Bytes of the largest segment that the peer takes, without headers.
    pub mss: Option<u16>,
    /// 0 to [`WINDOW_SHIFT_MAX`]; larger ones count as that (RFC 7323 §2.3).
    pub window_scale: Option<u8>,
    pub sack_permitted: bool,
    pub timestamps: Option<Timestamps>,
    /// What the peer has beyond its acknowledgment number, each from the first number to behind the
    /// last.
    pub sack: ArrayVec<(Seq, Seq), SACK_BLOCKS_MAX>,
}

/// The timestamps option (RFC 7323 §3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timestamps {
    /// TSval.
    pub value: u32,
    /// TSecr.
    pub echo: u32,
}

/// A received TCP segment. It says where things are in its frame, and does not hold it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    pub link: Link,
    /// `local` is where it went to.
    pub key: FlowKey,
    pub seq: Seq,
    /// Not to be looked at without [`Flags::ACK`].
    pub ack: Seq,
    pub flags: Flags,
    /// As in the header, not scaled.
    pub window: u16,
    pub options: Options,
    /// Explicit congestion notification of its packet, 0 to 3.
    pub ecn: u8,
    /// Hops that its packet had left.
    pub hops: u8,
    /// Where the IP header begins in the frame, in bytes.
    pub l3_at: usize,
    /// Where the TCP header begins.
    pub l4_at: usize,
    /// Where the payload begins.
    pub payload_at: usize,
    /// Bytes of payload.
    pub payload_len: usize,
}

impl Segment {
    /// Sequence numbers that the segment takes: its bytes, and one each for SYN and FIN.
    pub fn len(&self) -> u32 {
        let bytes = u32::try_from(self.payload_len).expect("a packet is shorter than 64 KiB");
        bytes
            + u32::from(self.flags.contains(Flags::SYN))
            + u32::from(self.flags.contains(Flags::FIN))
    }

    /// It takes no sequence number.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number behind its last.
    pub fn end(&self) -> Seq {
        self.seq.plus(self.len())
    }

    /// The number of its first byte: that of a SYN comes before.
    pub fn data_seq(&self) -> Seq {
        self.seq.plus(u32::from(self.flags.contains(Flags::SYN)))
    }

    pub fn is_syn(&self) -> bool {
        self.flags.contains(Flags::SYN)
    }

    pub fn is_ack(&self) -> bool {
        self.flags.contains(Flags::ACK)
    }

    pub fn is_fin(&self) -> bool {
        self.flags.contains(Flags::FIN)
    }

    pub fn is_rst(&self) -> bool {
        self.flags.contains(Flags::RST)
    }

    /// Asks for a connection.
    pub fn is_opening(&self) -> bool {
        let told = self.flags & (Flags::SYN | Flags::ACK | Flags::RST | Flags::FIN);
        told == Flags::SYN
    }

    /// The TCP header with its options, as received.
    pub fn tcp_header<'a>(&self, frame: &'a Frame) -> &'a [u8] {
        &frame.head()[self.l4_at..self.payload_at]
    }
}

pub(super) fn parse(frame: &Frame, link: Link, ip: &Ip) -> Result<Segment, Malformed> {
    let head = frame.head();
    let head = &head[..head.len().min(ip.end)];
    let fixed: [u8; TCP_BYTES] = array_at(head, ip.payload_at).ok_or(Malformed::TcpHeader)?;
    let payload_at = ip.payload_at + usize::from(fixed[12] >> 4) * 4;
    let options = head
        .get(ip.payload_at + TCP_BYTES..payload_at)
        .ok_or(Malformed::TcpHeader)?;
    if link.is_group() || ip.dest.is_multicast() || is_broadcast(ip) {
        return Err(Malformed::TcpGroup);
    }
    if is_unverified(frame) {
        verify(frame, ip)?;
    }
    let key = FlowKey {
        vlan: link.vlan,
        local: SocketAddr::new(ip.dest, u16::from_be_bytes([fixed[2], fixed[3]])),
        peer: SocketAddr::new(ip.source, u16::from_be_bytes([fixed[0], fixed[1]])),
    };
    if key.local.port() == 0 || key.peer.port() == 0 {
        return Err(Malformed::TcpPort);
    }
    if key.local == key.peer {
        return Err(Malformed::TcpLand);
    }
    let flags = Flags::from_bits_truncate(fixed[13]);
    let kind = flags & (Flags::SYN | Flags::FIN | Flags::RST);
    let is_idle = kind.is_empty() && !flags.contains(Flags::ACK);
    if kind.bits().count_ones() > 1 || is_idle {
        return Err(Malformed::TcpFlags);
    }
    Ok(Segment {
        link,
        key,
        seq: Seq(u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]])),
        ack: Seq(u32::from_be_bytes([
            fixed[8], fixed[9], fixed[10], fixed[11],
        ])),
        flags,
        window: u16::from_be_bytes([fixed[14], fixed[15]]),
        options: parse_options(options, flags.contains(Flags::SYN))?,
        ecn: ip.ecn,
        hops: ip.hops,
        l3_at: ip.at,
        l4_at: ip.payload_at,
        payload_at,
        payload_len: ip.end - payload_at,
    })
}

fn is_broadcast(ip: &Ip) -> bool {
    matches!(ip.dest, std::net::IpAddr::V4(dest) if dest.is_broadcast() || dest.is_unspecified())
}

fn verify(frame: &Frame, ip: &Ip) -> Result<(), Malformed> {
    let len = u32::try_from(ip.payload_len()).expect("a packet is shorter than 64 KiB");
    let mut sum = Sum::pseudo_header(ip.source, ip.dest, protocol::TCP, len);
    sum.add_frame(frame, ip.payload_at, ip.end);
    if sum.is_valid() {
        Ok(())
    } else {
        Err(Malformed::TcpChecksum)
    }
}

/// Unknown options are skipped; one that is not whole makes the segment malformed.
fn parse_options(bytes: &[u8], is_syn: bool) -> Result<Options, Malformed> {
    let mut options = Options::default();
    if bytes.len() == TIMESTAMPS_ALONE.len() + 8 && bytes.starts_with(&TIMESTAMPS_ALONE) {
        let [value, echo] = [4, 8].map(|at| u32_at(bytes, at));
        options.timestamps = value
            .zip(echo)
            .map(|(value, echo)| Timestamps { value, echo });
        return Ok(options);
    }
    let mut rest = bytes;
    while let [kind, behind @ ..] = rest {
        match *kind {
            option::END => break,
            option::NOTHING => {
                rest = behind;
                continue;
            }
            _ => {}
        }
        let &[len, ..] = behind else {
            return Err(Malformed::TcpOptions);
        };
        let body = rest.get(2..usize::from(len)).ok_or(Malformed::TcpOptions)?;
        rest = &rest[usize::from(len)..];
        take_option(&mut options, *kind, body, is_syn).ok_or(Malformed::TcpOptions)?;
    }
    Ok(options)
}

/// `None`: the option's length is not that of its kind.
fn take_option(options: &mut Options, kind: u8, body: &[u8], is_syn: bool) -> Option<()> {
    match kind {
        option::MSS => {
            let mss = u16_at(body, 0).filter(|_| body.len() == 2)?;
            options.mss = is_syn.then_some(mss);
        }
        option::WINDOW_SCALE => {
            let &[shift] = body else {
                return None;
            };
            options.window_scale = is_syn.then_some(shift.min(WINDOW_SHIFT_MAX));
        }
        option::SACK_PERMITTED => {
            if !body.is_empty() {
                return None;
            }
            options.sack_permitted = is_syn;
        }
        option::TIMESTAMPS => {
            options.timestamps = Some(Timestamps {
                value: u32_at(body, 0)?,
                echo: u32_at(body, 4).filter(|_| body.len() == 8)?,
            });
        }
        option::SACK => {
            let (blocks, partial) = body.as_chunks::<8>();
            if !partial.is_empty() || blocks.is_empty() || blocks.len() > SACK_BLOCKS_MAX {
                return None;
            }
            options.sack.clear();
            for block in blocks {
                options
                    .sack
                    .push((Seq(u32_at(block, 0)?), Seq(u32_at(block, 4)?)));
            }
        }
        _ => {}
    }
    Some(())
}
