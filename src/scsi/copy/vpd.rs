//! Third-party Copy VPD page, 8Fh (SPC-4 §7.8.17): what copies this unit takes part in.
//!
//! Every number is the one that is enforced; the commands come from the opcode table.

use super::token::{ACCESS_UPON_REFERENCE, BLOCK_ZERO};
use super::{
    BLOCK_TO_BLOCK, CONCURRENT_COPIES_MAX, CSCD_DESCRIPTORS_MAX, DESCRIPTOR_LIST_BYTES_MAX,
    IDENTIFICATION, RANGE_DESCRIPTORS_MAX, SEGMENT_BYTES_MAX, SEGMENT_DESCRIPTORS_MAX, THIS_UNIT,
    TOKEN_BYTES_MAX, TOKEN_BYTES_OPTIMAL, TOKEN_TIMEOUT_DEFAULT_S, TOKEN_TIMEOUT_MAX_S,
};
use crate::scsi::nexus::Nexus;
use crate::scsi::opcodes;
use crate::scsi::parameter::ParameterData;
use crate::scsi::unit::LogicalUnit;

/// Operation codes of the commands of this module.
const THIRD_PARTY_COPY_OUT: u8 = 0x83;
const THIRD_PARTY_COPY_IN: u8 = 0x84;

/// What follows the page header.
pub(in crate::scsi) fn third_party_copy(
    data: &mut ParameterData,
    unit: &LogicalUnit,
    _i_t: &Nexus,
) {
    let block_size = u64::from(unit.block_size());
    // SBC-4: block device ROD token limits.
    descriptor(data, 0x0000, |data| {
        data.put_zeroes(6);
        data.put_be16(RANGE_DESCRIPTORS_MAX);
        data.put_be32(TOKEN_TIMEOUT_MAX_S);
        data.put_be32(TOKEN_TIMEOUT_DEFAULT_S);
        data.put_be64(TOKEN_BYTES_MAX / block_size);
        data.put_be64(TOKEN_BYTES_OPTIMAL / block_size);
    });
    descriptor(data, 0x0001, supported_commands);
    // Parameter data.
    descriptor(data, 0x0004, |data| {
        data.put_zeroes(4);
        data.put_be16(CSCD_DESCRIPTORS_MAX);
        data.put_be16(SEGMENT_DESCRIPTORS_MAX);
        data.put_be32(DESCRIPTOR_LIST_BYTES_MAX);
        data.put_zeroes(16); // no inline data
    });
    // Supported descriptors.
    descriptor(data, 0x0008, |data| {
        data.put(&[2, BLOCK_TO_BLOCK, IDENTIFICATION]);
    });
    // Supported CSCD descriptor IDs.
    descriptor(data, 0x000c, |data| {
        data.put_be16(2);
        data.put_be16(THIS_UNIT);
    });
    descriptor(data, 0x0106, rod_token_features);
    descriptor(data, 0x0108, supported_rods);
    // General copy operations.
    descriptor(data, 0x8001, |data| {
        data.put_be32(u32::from(CONCURRENT_COPIES_MAX));
        data.put_be32(u32::from(CONCURRENT_COPIES_MAX));
        data.put_be32(SEGMENT_BYTES_MAX);
        // DATA SEGMENT GRANULARITY, log 2: one logical block.
        let granularity = unit.block_size().trailing_zeros();
        data.put_u8(u8::try_from(granularity).unwrap_or(0));
        data.put_zeroes(19); // no inline data
    });
}

fn supported_commands(data: &mut ParameterData) {
    data.put_u8(0);
    let list_at = data.len() - 1;
    for opcode in [THIRD_PARTY_COPY_OUT, THIRD_PARTY_COPY_IN] {
        data.put(&[opcode, 0]);
        let actions_at = data.len() - 1;
        let rows = opcodes::rows_of(opcode).iter();
        for action in rows.filter_map(|row| row.service_action) {
            data.put_u8(u8::try_from(action).expect("five bits of the CDB"));
        }
        data.patch_length_u8(actions_at);
    }
    data.patch_length_u8(list_at);
}

/// SPC-4: ROD token features, with the block device's own.
fn rod_token_features(data: &mut ParameterData) {
    data.put_zeroes(12); // REMOTE TOKENS: none
    data.put_be32(0); // MINIMUM TOKEN LIFETIME: many others may crowd a token out
    data.put_be32(u32::MAX); // MAXIMUM TOKEN LIFETIME: as long as it is used
    data.put_be32(TOKEN_TIMEOUT_MAX_S);
    data.put_zeroes(18);
    data.put_be16(48);
    data.put(&[0, 0, 0, 0x2c]);
    data.put_zeroes(4); // OPTIMAL BLOCK ROD LENGTH GRANULARITY: none
    data.put_be64(TOKEN_BYTES_MAX);
    data.put_be64(TOKEN_BYTES_OPTIMAL);
    data.put_zeroes(24);
}

/// SPC-4: supported ROD types, each with TOKEN_IN and TOKEN_OUT.
fn supported_rods(data: &mut ParameterData) {
    const TOKEN_IN: u8 = 0b10;
    const TOKEN_OUT: u8 = 0b01;
    let rods = [
        (ACCESS_UPON_REFERENCE, TOKEN_IN | TOKEN_OUT),
        (BLOCK_ZERO, TOKEN_IN),
    ];
    data.put_zeroes(2);
    data.put_be16(128);
    for (kind, flags) in rods {
        data.put_be32(kind);
        data.put_u8(flags);
        data.put_zeroes(59);
    }
}

/// Writes one third-party copy descriptor, whose length is a multiple of four.
fn descriptor(data: &mut ParameterData, kind: u16, write: impl FnOnce(&mut ParameterData)) {
    data.put_be16(kind);
    data.put_be16(0);
    let length_at = data.len() - 2;
    write(data);
    let bytes = data.len() - length_at - 2;
    data.put_zeroes(bytes.next_multiple_of(4) - bytes);
    data.patch_length_be16(length_at);
}
