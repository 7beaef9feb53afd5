//! Third-party copy (SPC-4 §5.17, SBC-4 §4.28): the target moves blocks itself.
//!
//! ```text
//! extended_copy ─► parse ─► plan ─┐                        ┌─► operations ─► receive
//! write_using_token ─► token ─────┴─► copying: read, write ┘   (what became of it)
//! ```
//!
//! Two families share one machine. EXTENDED COPY with list identifiers of one byte (LID1) names
//! source and destination by designators, as VMware's VAAI and sg_xcopy do; POPULATE TOKEN and
//! WRITE USING TOKEN (Windows ODX, `ddpt`) hand a token from one unit to another.
//!
//! Units are reached in this daemon only, and by EXTENDED COPY only those that the session itself
//! sees. All of a parameter list is checked, with the state and the capacity of every unit, before
//! the first block moves. Blocks move in pieces of one buffer ([`PIECE_BYTES`]), one step each, so
//! that an abort stops the copy at the next piece and the session is served meanwhile.

pub mod copying;
pub mod extended_copy;
pub mod operations;
pub mod parse;
pub mod populate_token;
pub mod ranges;
pub mod receive;
pub mod token;
pub mod vpd;
pub mod write_using_token;

#[cfg(test)]
mod tests;

use super::nexus::{MappedLun, Nexus};
use super::reservations::access::Access;
use super::sense::{AdditionalSense, Sense, SenseKey, SenseSpecific};
use super::task::{may_read, may_write};
use super::unit::LogicalUnit;
use crate::backend::UnitIndex;

/// MAXIMUM CSCD DESCRIPTOR COUNT.
pub const CSCD_DESCRIPTORS_MAX: u16 = 16;

/// MAXIMUM SEGMENT DESCRIPTOR COUNT.
pub const SEGMENT_DESCRIPTORS_MAX: u16 = 256;

/// MAXIMUM DESCRIPTOR LIST LENGTH, in bytes: more than the counts above need, so that one too many
/// is told from a list that is too long.
pub const DESCRIPTOR_LIST_BYTES_MAX: u32 = 8192;

/// MAXIMUM SEGMENT LENGTH, in bytes: what the two bytes of BLOCK DEVICE NUMBER OF BLOCKS can say
/// in the largest blocks that there are.
pub const SEGMENT_BYTES_MAX: u32 = 65_535 * 4096;

/// Copies of one session that may be under way with a list identifier.
pub const CONCURRENT_COPIES_MAX: u8 = 128;

/// MAXIMUM RANGE DESCRIPTORS of POPULATE TOKEN and WRITE USING TOKEN.
pub const RANGE_DESCRIPTORS_MAX: u16 = 64;

/// MAXIMUM TOKEN TRANSFER SIZE, in bytes.
pub const TOKEN_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// OPTIMAL TRANSFER COUNT of a token, in bytes.
pub const TOKEN_BYTES_OPTIMAL: u64 = 64 * 1024 * 1024;

/// MAXIMUM INACTIVITY TIMEOUT of a token, in seconds.
pub const TOKEN_TIMEOUT_MAX_S: u32 = 600;

/// DEFAULT INACTIVITY TIMEOUT of a token, in seconds.
pub const TOKEN_TIMEOUT_DEFAULT_S: u32 = 60;

/// Bytes that are read and then written at a time; a whole number of blocks of every size.
pub const PIECE_BYTES: u32 = 512 * 1024;

/// Bytes that one operation of the device fills with zeroes.
const ZEROES_BYTES: u32 = 16 * 1024 * 1024;

/// SPC-4, CSCD descriptor type codes: identification descriptor.
const IDENTIFICATION: u8 = 0xe4;

/// SPC-4, segment descriptor type codes: from block device to block device.
const BLOCK_TO_BLOCK: u8 = 0x02;

/// SPC-4, CSCD descriptor IDs: the logical unit that the command addresses.
const THIS_UNIT: u16 = 0xffff;

const OPERATION_IN_PROGRESS: AdditionalSense = AdditionalSense::new(0x00, 0x16);
const UNREACHABLE_COPY_TARGET: AdditionalSense = AdditionalSense::new(0x08, 0x04);
const THIRD_PARTY_DEVICE_FAILURE: AdditionalSense = AdditionalSense::new(0x0d, 0x01);
const COPY_TARGET_NOT_REACHABLE: AdditionalSense = AdditionalSense::new(0x0d, 0x02);
const INCORRECT_COPY_TARGET_TYPE: AdditionalSense = AdditionalSense::new(0x0d, 0x03);
const TOO_MANY_TARGET_DESCRIPTORS: AdditionalSense = AdditionalSense::new(0x26, 0x06);
const UNSUPPORTED_TARGET_DESCRIPTOR: AdditionalSense = AdditionalSense::new(0x26, 0x07);
const TOO_MANY_SEGMENT_DESCRIPTORS: AdditionalSense = AdditionalSense::new(0x26, 0x08);
const UNSUPPORTED_SEGMENT_DESCRIPTOR: AdditionalSense = AdditionalSense::new(0x26, 0x09);
const UNEXPECTED_INEXACT_SEGMENT: AdditionalSense = AdditionalSense::new(0x26, 0x0a);
const INLINE_DATA_LENGTH_EXCEEDED: AdditionalSense = AdditionalSense::new(0x26, 0x0b);

/// ILLEGAL REQUEST about the byte `at` of the parameter list.
fn illegal_at(at: usize, additional: AdditionalSense) -> Sense {
    Sense {
        additional,
        ..Sense::invalid_field_in_parameter_list(field(at), None)
    }
}

/// SPC-4 §6.4.2: COPY ABORTED; the command-specific information names the segment, the segment
/// pointer a byte of its descriptor.
fn copy_aborted(segment: usize, at: Option<u16>, additional: AdditionalSense) -> Sense {
    let mut sense = Sense::new(SenseKey::CopyAborted, additional)
        .with_command_specific(u32::from(field(segment)));
    if let Some(byte) = at {
        sense.specific = SenseSpecific::Segment { byte };
    }
    sense
}

/// A place in a parameter list, which is shorter than 64 KiB.
fn field(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}

/// Why a session cannot read or write a unit now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Denied {
    NotReady(Sense),
    /// WRITE PROTECTED or SOFTWARE WRITE PROTECTED.
    WriteProtected(AdditionalSense),
    Reserved,
}

/// Whether the session may read the unit. What the session does not see, it reads by the right of
/// a token, which does not pass by reservations: there it is a nexus that has not registered.
fn check_read(
    unit: &LogicalUnit,
    index: UnitIndex,
    map: &[MappedLun],
    i_t: &Nexus,
) -> Result<(), Denied> {
    if let Some(sense) = unit.not_ready() {
        return Err(Denied::NotReady(sense));
    }
    let mut luns = map.iter().filter(|mapped| mapped.unit == index).peekable();
    let may = if luns.peek().is_some() {
        luns.any(|mapped| may_read(&mapped.nexus))
    } else {
        let denied = unit.reservations().denied_to(i_t);
        !denied.intersects(Access::READ)
    };
    if may { Ok(()) } else { Err(Denied::Reserved) }
}

/// Whether the session may write the unit, by some LUN of its own.
fn check_write(unit: &LogicalUnit, index: UnitIndex, map: &[MappedLun]) -> Result<(), Denied> {
    if let Some(sense) = unit.not_ready() {
        return Err(Denied::NotReady(sense));
    }
    let luns = map.iter().filter(|mapped| mapped.unit == index);
    let mut writable = luns
        .filter(|mapped| !unit.read_only() && !mapped.nexus.read_only())
        .peekable();
    if writable.peek().is_none() {
        return Err(Denied::WriteProtected(AdditionalSense::WRITE_PROTECTED));
    }
    // What nobody may ever write is named before what SWP forbids for now.
    if unit.write_protected() {
        let additional = AdditionalSense::SOFTWARE_WRITE_PROTECTED;
        return Err(Denied::WriteProtected(additional));
    }
    if !writable.any(|mapped| may_write(&mapped.nexus)) {
        return Err(Denied::Reserved);
    }
    Ok(())
}

/// `N` bytes of a list from `at` on, where callers have checked that it is that long.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    if let Some(found) = bytes.get(at..at.saturating_add(N)) {
        array.copy_from_slice(found);
    }
    array
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}
