//! The parameter list of EXTENDED COPY (LID1) (SPC-4 §6.4.3): from bytes to descriptors.
//!
//! ```text
//! 0 LIST IDENTIFIER   1 STR, LIST ID USAGE, PRIORITY   2..4 CSCD DESCRIPTOR LIST LENGTH
//! 8..12 SEGMENT DESCRIPTOR LIST LENGTH   12..16 INLINE DATA LENGTH   16.. descriptors, inline data
//! ```
//!
//! What is wrong here is ILLEGAL REQUEST: nothing is known of any unit yet. STR means nothing for
//! block devices, and PRIORITY is a hint.

use super::{
    BLOCK_TO_BLOCK, CSCD_DESCRIPTORS_MAX, DESCRIPTOR_LIST_BYTES_MAX, IDENTIFICATION,
    INLINE_DATA_LENGTH_EXCEEDED, SEGMENT_DESCRIPTORS_MAX, TOO_MANY_SEGMENT_DESCRIPTORS,
    TOO_MANY_TARGET_DESCRIPTORS, UNSUPPORTED_SEGMENT_DESCRIPTOR, UNSUPPORTED_TARGET_DESCRIPTOR,
    array, be16, be32, be64, illegal_at,
};
use crate::scsi::sense::Sense;

pub(super) const HEADER_BYTES: usize = 16;
pub(super) const CSCD_BYTES: usize = 32;
const SEGMENT_HEADER_BYTES: usize = 4;
const BLOCK_TO_BLOCK_BYTES: usize = 28;

/// Where PARAMETER LIST LENGTH stands in the CDB.
pub(super) const LIST_LENGTH_AT: u16 = 10;

/// Longest designator of an identification descriptor, in bytes.
const DESIGNATOR_BYTES_MAX: u8 = 20;

/// What becomes of the list identifier (LIST ID USAGE).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ListIdUsage {
    /// 00b: what the copy leaves is kept.
    Keep,
    /// 10b: it is forgotten when the copy ends.
    Discard,
    /// 11b: there is no identifier.
    None,
}

/// An identification descriptor CSCD descriptor (SPC-4 §6.4.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cscd {
    /// Where it stands in the list.
    pub(super) at: usize,
    pub(super) peripheral_device_type: u8,
    pub(super) code_set: u8,
    /// ASSOCIATION and DESIGNATOR TYPE, as in VPD page 83h.
    pub(super) kind: u8,
    designator: [u8; DESIGNATOR_BYTES_MAX as usize],
    designator_bytes: u8,
    pub(super) block_bytes: u32,
}

impl Cscd {
    pub(super) fn designator(&self) -> &[u8] {
        self.designator
            .get(..usize::from(self.designator_bytes))
            .unwrap_or_default()
    }
}

/// A block device to block device segment descriptor (SPC-4 §6.4.6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Segment {
    /// The length counts blocks of the destination, not of the source.
    pub(super) destination_count: bool,
    pub(super) source: u16,
    pub(super) destination: u16,
    pub(super) blocks: u16,
    pub(super) source_lba: u64,
    pub(super) destination_lba: u64,
}

/// Fields of a segment descriptor, for the segment pointer.
pub(super) mod field {
    pub(in super::super) const SOURCE: u16 = 4;
    pub(in super::super) const DESTINATION: u16 = 6;
    pub(in super::super) const SOURCE_LBA: u16 = 12;
    pub(in super::super) const DESTINATION_LBA: u16 = 20;
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ParameterList {
    pub(super) list_id: u8,
    pub(super) usage: ListIdUsage,
    pub(super) cscds: Vec<Cscd>,
    pub(super) segments: Vec<Segment>,
}

const TRUNCATED: Sense = Sense::parameter_list_length_error(LIST_LENGTH_AT);

/// Reads a whole list of at least [`HEADER_BYTES`] bytes.
pub(super) fn parse(list: &[u8]) -> Result<ParameterList, Sense> {
    let list_id = list.first().copied().unwrap_or(0);
    let usage = match list.get(1).copied().unwrap_or(0) >> 3 & 0b11 {
        0b00 => ListIdUsage::Keep,
        0b10 => ListIdUsage::Discard,
        // SPC-4 §6.4.3.2: without an identifier its field is zero.
        0b11 if list_id == 0 => ListIdUsage::None,
        0b11 => return Err(Sense::invalid_field_in_parameter_list(0, None)),
        _ => return Err(Sense::invalid_field_in_parameter_list(1, Some(4))),
    };
    let cscd_bytes = u32::from(be16(list, 2));
    let segment_bytes = be32(list, 8);
    let inline_bytes = be32(list, 12);
    let descriptor_bytes = cscd_bytes.saturating_add(segment_bytes);
    // SPC-4 §6.4.3.1: the length of the list as a whole comes before what is in it.
    if descriptor_bytes > DESCRIPTOR_LIST_BYTES_MAX {
        return Err(TRUNCATED);
    }
    if inline_bytes > 0 {
        return Err(illegal_at(12, INLINE_DATA_LENGTH_EXCEEDED));
    }
    let (cscd_bytes, descriptor_bytes) = (length(cscd_bytes), length(descriptor_bytes));
    let segments_at = HEADER_BYTES + cscd_bytes;
    let end = HEADER_BYTES + descriptor_bytes;
    let (Some(cscds), Some(segments)) = (
        list.get(HEADER_BYTES..segments_at),
        list.get(segments_at..end),
    ) else {
        return Err(TRUNCATED);
    };
    Ok(ParameterList {
        list_id,
        usage,
        cscds: parse_cscds(cscds)?,
        segments: parse_segments(segments, segments_at)?,
    })
}

/// Not more than [`DESCRIPTOR_LIST_BYTES_MAX`].
fn length(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn parse_cscds(list: &[u8]) -> Result<Vec<Cscd>, Sense> {
    if !list.len().is_multiple_of(CSCD_BYTES) {
        return Err(TRUNCATED);
    }
    if list.len() / CSCD_BYTES > usize::from(CSCD_DESCRIPTORS_MAX) {
        return Err(illegal_at(2, TOO_MANY_TARGET_DESCRIPTORS));
    }
    let descriptors = list.chunks_exact(CSCD_BYTES).enumerate();
    descriptors
        .map(|(nth, bytes)| parse_cscd(bytes, HEADER_BYTES + nth * CSCD_BYTES))
        .collect()
}

fn parse_cscd(bytes: &[u8], at: usize) -> Result<Cscd, Sense> {
    let byte = |offset: usize| bytes.get(offset).copied().unwrap_or(0);
    if byte(0) != IDENTIFICATION {
        return Err(illegal_at(at, UNSUPPORTED_TARGET_DESCRIPTOR));
    }
    // LU ID TYPE says nothing in an identification descriptor (SPC-4 §6.4.5.1). NUL would have
    // the copy touch nothing: we do not offer that.
    if byte(1) & 0x20 != 0 {
        let at = super::field(at + 1);
        return Err(Sense::invalid_field_in_parameter_list(at, Some(5)));
    }
    let designator_bytes = byte(7);
    if designator_bytes > DESIGNATOR_BYTES_MAX {
        let at = super::field(at + 7);
        return Err(Sense::invalid_field_in_parameter_list(at, None));
    }
    Ok(Cscd {
        at,
        peripheral_device_type: byte(1) & 0x1f,
        code_set: byte(4) & 0x0f,
        kind: byte(5) & 0x3f,
        designator: array(bytes, 8),
        designator_bytes,
        block_bytes: be32(bytes, 28) & 0x00ff_ffff,
    })
}

fn parse_segments(mut list: &[u8], mut at: usize) -> Result<Vec<Segment>, Sense> {
    let mut segments = Vec::new();
    while !list.is_empty() {
        if segments.len() == usize::from(SEGMENT_DESCRIPTORS_MAX) {
            return Err(illegal_at(8, TOO_MANY_SEGMENT_DESCRIPTORS));
        }
        let kind = list.first().copied().unwrap_or(0);
        if kind != BLOCK_TO_BLOCK {
            return Err(illegal_at(at, UNSUPPORTED_SEGMENT_DESCRIPTOR));
        }
        if list.len() < SEGMENT_HEADER_BYTES {
            return Err(TRUNCATED);
        }
        if usize::from(be16(list, 2)) != BLOCK_TO_BLOCK_BYTES - SEGMENT_HEADER_BYTES {
            let at = super::field(at + 2);
            return Err(Sense::invalid_field_in_parameter_list(at, None));
        }
        let Some((bytes, rest)) = list.split_at_checked(BLOCK_TO_BLOCK_BYTES) else {
            return Err(TRUNCATED);
        };
        let flags = bytes.get(1).copied().unwrap_or(0);
        // CAT carries what does not fill a block into the next segment: there is never any, since
        // such segments are refused. FCO (SPC-5) would forbid us to copy by reading and writing.
        if flags & !0b11 != 0 {
            let at = super::field(at + 1);
            return Err(Sense::invalid_field_in_parameter_list(at, Some(2)));
        }
        segments.push(Segment {
            destination_count: flags & 0b10 != 0,
            source: be16(bytes, 4),
            destination: be16(bytes, 6),
            blocks: be16(bytes, 10),
            source_lba: be64(bytes, 12),
            destination_lba: be64(bytes, 20),
        });
        list = rest;
        at += BLOCK_TO_BLOCK_BYTES;
    }
    Ok(segments)
}
