//! The header in front of each frame of a TAP device: `struct virtio_net_hdr` (Virtual I/O Device
//! 1.2, section 5.1.6), 10 bytes, little-endian.

use std::num::NonZeroU16;

use super::super::checksum::{Layout, TCP_CHECKSUM_AT};
use super::super::{Checksum, Frame, Offload};

pub(super) const HEADER_BYTES: usize = 10;

mod field {
    pub(super) const FLAGS: usize = 0;
    pub(super) const SEGMENTATION: usize = 1;
    pub(super) const HEADERS_LEN: usize = 2;
    pub(super) const SEGMENT_BYTES: usize = 4;
    pub(super) const CHECKSUM_START: usize = 6;
    pub(super) const CHECKSUM_OFFSET: usize = 8;
}

/// The checksum is to be written; the field holds the pseudo-header's sum.
const NEEDS_CHECKSUM: u8 = 1;
/// The checksum has been verified.
const DATA_VALID: u8 = 2;
const TCP_IPV4: u8 = 1;
/// Or-ed to the kind of segmentation.
const ECN: u8 = 0x80;

pub(super) type Header = [u8; HEADER_BYTES];

/// What the host is to do to a frame.
pub(super) fn emit(offload: &Offload) -> Header {
    let mut header = [0; HEADER_BYTES];
    let l4_at = u16::from(offload.l2_len) + u16::from(offload.l3_len);
    if offload.tcp_checksum {
        header[field::FLAGS] = NEEDS_CHECKSUM;
        put(&mut header, field::CHECKSUM_START, l4_at);
        let at = u16::try_from(TCP_CHECKSUM_AT).expect("inside a TCP header");
        put(&mut header, field::CHECKSUM_OFFSET, at);
    }
    if let Some(bytes) = offload.segment_bytes {
        header[field::SEGMENTATION] = TCP_IPV4;
        put(&mut header, field::SEGMENT_BYTES, bytes.get());
        let headers = l4_at + u16::from(offload.l4_len);
        put(&mut header, field::HEADERS_LEN, headers);
    }
    header
}

/// Notes on a received frame what the host says about it.
pub(super) fn note(header: &Header, frame: &mut Frame) {
    if header[field::SEGMENTATION] & !ECN == TCP_IPV4 {
        let at = field::SEGMENT_BYTES;
        frame.segment_bytes = NonZeroU16::new(u16::from_le_bytes([header[at], header[at + 1]]));
    }
    // The host says nothing about the header of IPv4, and need not have looked at it.
    let says_good = header[field::FLAGS] & (NEEDS_CHECKSUM | DATA_VALID) != 0;
    if says_good && let Some(layout) = Layout::of(frame.head()) {
        frame.checksum = if layout.is_header_valid(frame.head()) {
            Checksum::Good
        } else {
            Checksum::Bad
        };
    }
}

fn put(header: &mut Header, at: usize, value: u16) {
    header[at..at + 2].copy_from_slice(&value.to_le_bytes());
}
