//! Block device range descriptors (SBC-4 §5.18.2): what POPULATE TOKEN reads and WRITE USING TOKEN
//! writes.
//!
//! ```text
//! 0..8 LOGICAL BLOCK ADDRESS   8..12 NUMBER OF LOGICAL BLOCKS   12..16 reserved
//! ```

use super::{
    RANGE_DESCRIPTORS_MAX, TOKEN_BYTES_MAX, TOO_MANY_SEGMENT_DESCRIPTORS, be16, be32, be64, field,
    illegal_at,
};
use crate::scsi::sense::{AdditionalSense, Sense};
use crate::scsi::unit::LogicalUnit;

const DESCRIPTOR_BYTES: usize = 16;

/// Neighbouring blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    pub lba: u64,
    pub blocks: u32,
}

impl Range {
    /// The range is known to lie inside a unit.
    fn overlaps(&self, other: &Self) -> bool {
        self.lba < other.lba + u64::from(other.blocks)
            && other.lba < self.lba + u64::from(self.blocks)
    }
}

/// Reads the descriptors of `list`, whose length field stands at `length_at` with the descriptors
/// behind it, and checks them all against the unit. `data_length` is the list's own statement of
/// its length, without its two bytes.
///
/// # Errors
/// INVALID FIELD IN PARAMETER LIST where lengths contradict each other, where a block is named
/// twice, or where there are more blocks than MAXIMUM TOKEN TRANSFER SIZE; TOO MANY SEGMENT
/// DESCRIPTORS; LOGICAL BLOCK ADDRESS OUT OF RANGE.
pub(super) fn parse(
    list: &[u8],
    length_at: usize,
    unit: &LogicalUnit,
) -> Result<Vec<Range>, Sense> {
    let invalid = |at: usize| Sense::invalid_field_in_parameter_list(field(at), None);
    let data_bytes = usize::from(be16(list, 0)) + 2;
    let descriptors_at = length_at + 2;
    let descriptor_bytes = usize::from(be16(list, length_at));
    if data_bytes < descriptors_at + DESCRIPTOR_BYTES {
        return Err(invalid(0));
    }
    if descriptor_bytes < DESCRIPTOR_BYTES || descriptors_at + descriptor_bytes > data_bytes {
        return Err(invalid(length_at));
    }
    // SBC-4: a last descriptor that is not whole is ignored.
    let count = descriptor_bytes / DESCRIPTOR_BYTES;
    if count > usize::from(RANGE_DESCRIPTORS_MAX) {
        return Err(illegal_at(length_at, TOO_MANY_SEGMENT_DESCRIPTORS));
    }
    let Some(descriptors) = list.get(descriptors_at..descriptors_at + count * DESCRIPTOR_BYTES)
    else {
        return Err(Sense::parameter_list_length_error(
            super::parse::LIST_LENGTH_AT,
        ));
    };
    let mut ranges: Vec<Range> = Vec::with_capacity(count);
    let mut total = 0_u64;
    for (nth, bytes) in descriptors.chunks_exact(DESCRIPTOR_BYTES).enumerate() {
        let range = Range {
            lba: be64(bytes, 0),
            blocks: be32(bytes, 8),
        };
        let end = range.lba.checked_add(u64::from(range.blocks));
        if end.is_none_or(|end| end > unit.info().blocks) {
            return Err(Sense::illegal_request(AdditionalSense::LBA_OUT_OF_RANGE));
        }
        let at = descriptors_at + nth * DESCRIPTOR_BYTES;
        if ranges.iter().any(|earlier| earlier.overlaps(&range)) {
            return Err(invalid(at));
        }
        total += u64::from(range.blocks);
        if total > TOKEN_BYTES_MAX / u64::from(unit.block_size()) {
            return Err(invalid(at + 8));
        }
        ranges.push(range);
    }
    Ok(ranges)
}

/// Blocks of all ranges.
pub(super) fn blocks(ranges: &[Range]) -> u64 {
    ranges.iter().map(|range| u64::from(range.blocks)).sum()
}
