//! What a device does to a frame on its way to the wire, done in software: TCP segmentation and
//! checksums.
//!
//! Done as a device does it: a checksum is the complement of the sum over the bytes *as they are*,
//! what the field holds among them, so that a caller who leaves something else there is found out.

use super::checksum::{IPV4_CHECKSUM_AT, Layout, TCP_CHECKSUM_AT};
use super::sum::Sum;
use super::{HEAD_BYTES_MAX, Outgoing};

/// Segments that one packet is cut into, at most; see [`super::Capabilities::can_send`].
pub const SEGMENTS_MAX: usize = 128;

const IPV4_LENGTH_AT: usize = 2;
const IPV4_IDENTIFICATION_AT: usize = 4;
const TCP_SEQUENCE_AT: usize = 4;
const TCP_FLAGS_AT: usize = 13;
const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// The frames on the wire that come of one [`Outgoing`].
#[derive(Clone, Copy, Debug)]
pub struct Wire<'a> {
    frame: &'a Outgoing<'a>,
    payload: usize,
    /// Bytes of payload in each frame but the last.
    step: usize,
}

impl<'a> Wire<'a> {
    /// Of a frame that [`super::Capabilities::can_send`] has let through.
    pub fn of(frame: &'a Outgoing<'a>) -> Self {
        let payload = frame.len() - frame.head.len();
        let step = match frame.offload.segment_bytes {
            Some(bytes) => usize::from(bytes.get()),
            None => payload,
        };
        Self {
            frame,
            payload,
            step,
        }
    }

    /// How many there are.
    pub fn frames(&self) -> usize {
        self.payload.div_ceil(self.step.max(1)).max(1)
    }

    /// Bytes of the frame `index`.
    pub fn len(&self, index: usize) -> usize {
        let before = index * self.step;
        self.frame.head.len() + self.step.min(self.payload - before)
    }

    /// Writes the frame `index` into `to`, which must be [`Wire::len`] bytes long.
    pub fn write(&self, index: usize, to: &mut [u8]) {
        let head = self.frame.head;
        let (to_head, to_payload) = to.split_at_mut(head.len());
        to_head.copy_from_slice(head);
        self.copy_payload(index * self.step, to_payload);
        if self.frame.offload.segment_bytes.is_some() {
            self.write_segment_head(index, to);
        }
        self.write_checksums(to);
    }

    /// Fills `to` with the payload from `from` on.
    fn copy_payload(&self, from: usize, to: &mut [u8]) {
        let (mut skip, mut done) = (from, 0);
        for piece in self.frame.payload {
            let bytes = piece.bytes();
            let bytes = &bytes[skip.min(bytes.len())..];
            skip = skip.saturating_sub(piece.bytes().len());
            let take = bytes.len().min(to.len() - done);
            to[done..done + take].copy_from_slice(&bytes[..take]);
            done += take;
        }
    }

    /// Lengths, identification, sequence number and flags of one segment of several.
    fn write_segment_head(&self, index: usize, to: &mut [u8]) {
        let offload = &self.frame.offload;
        let (l2, l4) = (
            usize::from(offload.l2_len),
            usize::from(offload.l2_len) + usize::from(offload.l3_len),
        );
        let length = u16::try_from(to.len() - l2).unwrap_or(u16::MAX);
        put_u16(to, l2 + IPV4_LENGTH_AT, length);
        let nth = u16::try_from(index).unwrap_or(u16::MAX);
        let identification = u16_at(to, l2 + IPV4_IDENTIFICATION_AT).wrapping_add(nth);
        put_u16(to, l2 + IPV4_IDENTIFICATION_AT, identification);

        let before = u32::try_from(index * self.step).unwrap_or(u32::MAX);
        let sequence = &mut to[l4 + TCP_SEQUENCE_AT..][..4];
        let first = u32::from_be_bytes([sequence[0], sequence[1], sequence[2], sequence[3]]);
        sequence.copy_from_slice(&first.wrapping_add(before).to_be_bytes());
        if index > 0 {
            to[l4 + TCP_FLAGS_AT] &= !TCP_CWR;
        }
        if index + 1 < self.frames() {
            to[l4 + TCP_FLAGS_AT] &= !(TCP_FIN | TCP_PSH);
        }
        put_u16(to, l2 + IPV4_CHECKSUM_AT, 0);
        let len = to.len() - l4;
        let pseudo = Layout::of(to).map(|layout| layout.pseudo_header(to, len).folded());
        put_u16(to, l4 + TCP_CHECKSUM_AT, pseudo.unwrap_or(0));
    }

    fn write_checksums(&self, to: &mut [u8]) {
        let offload = &self.frame.offload;
        let l2 = usize::from(offload.l2_len);
        let l4 = l2 + usize::from(offload.l3_len);
        if offload.ipv4_checksum {
            let mut sum = Sum::new();
            sum.add(&to[l2..l4]);
            put_u16(to, l2 + IPV4_CHECKSUM_AT, sum.checksum());
        }
        if offload.tcp_checksum {
            let mut sum = Sum::new();
            sum.add(&to[l4..]);
            put_u16(to, l4 + TCP_CHECKSUM_AT, sum.checksum());
        }
    }
}

/// The headers of a packet that is to be cut, with what a device wants that takes the sum of the
/// pseudo-header for the whole packet. `None`: not the headers of TCP over IPv4.
pub fn head_to_cut(frame: &Outgoing<'_>) -> Option<[u8; HEAD_BYTES_MAX]> {
    let mut head = [0; HEAD_BYTES_MAX];
    head.get_mut(..frame.head.len())?
        .copy_from_slice(frame.head);
    let layout = Layout::of(frame.head).filter(|layout| layout.tcp && !layout.ipv6)?;
    let pseudo = layout.pseudo_header(frame.head, frame.len() - layout.l4_at());
    put_u16(&mut head, layout.l4_at() + TCP_CHECKSUM_AT, pseudo.folded());
    Some(head)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
