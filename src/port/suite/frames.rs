//! The frames of the suite: TCP segments with right checksums, with a number and a pattern.

use std::num::NonZeroU16;

use super::super::checksum::{IPV4_CHECKSUM_AT, Layout, TCP_CHECKSUM_AT};
use super::super::sum::Sum;
use super::super::{Frame, Offload, Outgoing, Piece, Port};

/// Ports that nobody else uses here.
const PORTS: [u16; 2] = [49_321, 49_322];
const SEQUENCE_AT: usize = 4;
const FLAGS_AT: usize = 13;
const PSH: u8 = 8;
const PSH_ACK: u8 = 0x18;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ip {
    V4,
    V6,
    /// IPv4 behind a VLAN tag.
    Tagged,
}

impl Ip {
    /// IP and TCP.
    pub(super) fn header_bytes(self) -> usize {
        if self == Self::V6 { 60 } else { 40 }
    }
}

/// A frame to be sent.
pub(super) struct Made {
    bytes: Vec<u8>,
    head_len: usize,
    offload: Offload,
    /// The payload, as something to point at.
    layout: Layout,
    piece: Vec<u8>,
}

impl Made {
    /// A frame between two ports with so many bytes of payload.
    pub(super) fn new(ip: Ip, nth: u32, len: usize, from: &impl Port, to: &impl Port) -> Self {
        let mut bytes = to.capabilities().mac.to_vec();
        bytes.extend(from.capabilities().mac);
        if ip == Ip::Tagged {
            bytes.extend([0x81, 0, 0, 5]);
        }
        let l3_at = bytes.len() + 2;
        let whole = u16::try_from(len + 40).expect("a frame's payload");
        if ip == Ip::V6 {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend((whole - 20).to_be_bytes());
            bytes.extend([6, 64]);
            bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        } else {
            bytes.extend([8, 0, 0x45, 0]);
            bytes.extend(whole.to_be_bytes());
            bytes.extend([0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 9, 8, 1, 10, 9, 8, 2]);
            let mut sum = Sum::new();
            sum.add(&bytes[l3_at..]);
            put(&mut bytes, l3_at + IPV4_CHECKSUM_AT, sum.checksum());
        }
        bytes.extend(PORTS.iter().flat_map(|port| port.to_be_bytes()));
        bytes.extend(nth.to_be_bytes());
        bytes.extend([0, 0, 0, 1, 0x50, PSH_ACK, 0x20, 0, 0, 0, 0, 0]);
        let head_len = bytes.len();
        let [.., low] = nth.to_be_bytes();
        let piece: Vec<u8> = (0..=250).cycle().take(len).map(|byte| byte ^ low).collect();
        bytes.extend(&piece);
        let layout = Layout::of(&bytes).expect("IP");
        let mut made = Self {
            bytes,
            head_len,
            offload: Offload::default(),
            layout,
            piece,
        };
        let mut sum = made.pseudo();
        sum.add(&made.bytes[layout.l4_at()..]);
        put(
            &mut made.bytes,
            layout.l4_at() + TCP_CHECKSUM_AT,
            sum.checksum(),
        );
        made
    }

    fn pseudo(&self) -> Sum {
        let l4_len = self.bytes.len() - self.layout.l4_at();
        self.layout.pseudo_header(&self.bytes, l4_len)
    }

    /// As it is to arrive, where nothing is left to the device.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn payload(&self) -> &[u8] {
        &self.piece
    }

    pub(super) fn sequence(&self) -> u32 {
        sequence(&self.bytes)
    }

    /// Leaves checksums to the device.
    pub(super) fn leave_checksums(&mut self, ipv4: bool, tcp: bool) {
        let layout = self.layout;
        self.offload = Offload {
            l2_len: u8::try_from(layout.l2_len).expect("short"),
            l3_len: u8::try_from(layout.l3_len).expect("short"),
            l4_len: 20,
            ipv6: layout.ipv6,
            ipv4_checksum: ipv4 && !layout.ipv6,
            tcp_checksum: tcp,
            segment_bytes: None,
        };
        if self.offload.ipv4_checksum {
            put(&mut self.bytes, layout.l2_len + IPV4_CHECKSUM_AT, 0);
        }
        if tcp {
            let pseudo = self.pseudo().folded();
            put(&mut self.bytes, layout.l4_at() + TCP_CHECKSUM_AT, pseudo);
        }
    }

    /// Has the device cut it.
    pub(super) fn cut_into(&mut self, step: usize) {
        self.leave_checksums(true, true);
        self.offload.segment_bytes = u16::try_from(step).ok().and_then(NonZeroU16::new);
    }

    pub(super) fn damage_tcp_checksum(&mut self) {
        let at = self.layout.l4_at() + TCP_CHECKSUM_AT;
        self.bytes[at] ^= 0x40;
    }

    pub(super) fn outgoing<'a>(&'a self, payload: &'a [Piece<'a>]) -> Outgoing<'a> {
        Outgoing {
            head: &self.bytes[..self.head_len],
            payload,
            offload: self.offload,
        }
    }

    pub(super) fn pieces(&self) -> [Piece<'_>; 1] {
        [Piece::Bytes(&self.piece)]
    }
}

/// One of the suite's, not of a host in between.
pub(super) fn is_ours(frame: &Frame) -> bool {
    let bytes: Vec<u8> = frame.slices().flatten().copied().collect();
    let ports = PORTS.map(u16::to_be_bytes).concat();
    Layout::of(&bytes)
        .is_some_and(|layout| layout.tcp && bytes[layout.l4_at()..].starts_with(&ports))
}

/// The number it was made with.
pub(super) fn number(frame: &Frame) -> u32 {
    let bytes: Vec<u8> = frame.slices().flatten().copied().collect();
    sequence(&bytes)
}

fn l4_at(bytes: &[u8]) -> usize {
    Layout::of(bytes).expect("one of ours").l4_at()
}

pub(super) fn sequence(bytes: &[u8]) -> u32 {
    let at = l4_at(bytes) + SEQUENCE_AT;
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four"))
}

pub(super) fn is_pushed(bytes: &[u8]) -> bool {
    bytes[l4_at(bytes) + FLAGS_AT] & PSH != 0
}

/// What is behind the headers, without padding.
pub(super) fn payload(bytes: &[u8]) -> &[u8] {
    let layout = Layout::of(bytes).expect("one of ours");
    &bytes[layout.l4_at() + 20..layout.l2_len + layout.packet_len]
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
