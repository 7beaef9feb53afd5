//! RECEIVE COPY RESULTS and RECEIVE ROD TOKEN INFORMATION (SPC-4 §6.23 to §6.27): what became of a
//! copy, and what copies may be like.
//!
//! They answer while the copy that they ask about is under way. A list identifier that is not known
//! here, at this unit and for this nexus, is an invalid field of the CDB. No copy of ours holds
//! data, so RECEIVE DATA has none to give.

use super::operations::{ListId, Operation, State};
use super::token::TOKEN_BYTES;
use super::{
    BLOCK_TO_BLOCK, CONCURRENT_COPIES_MAX, CSCD_DESCRIPTORS_MAX, DESCRIPTOR_LIST_BYTES_MAX,
    IDENTIFICATION, SEGMENT_BYTES_MAX, SEGMENT_DESCRIPTORS_MAX,
};
use crate::scsi::parameter::ParameterData;
use crate::scsi::sense::{SENSE_BYTES_MAX, Sense};
use crate::scsi::task::{Begin, Status, Task, UnitCall};

/// Where LIST IDENTIFIER stands in the CDB.
const LIST_ID_AT: u16 = 2;

/// SPC-4, TRANSFER COUNT UNITS: bytes; each further one is 1024 times as much.
const UNITS_BYTES: u8 = 0x00;
/// Logical blocks of the unit.
const UNITS_BLOCKS: u8 = 0xf1;

/// ESTIMATED STATUS UPDATE DELAY: no estimate.
const NO_ESTIMATE: u32 = u32::MAX - 1;

/// RECEIVE COPY STATUS (LID1) (SPC-4 §6.24).
pub(in crate::scsi) fn copy_status(call: &mut UnitCall<'_>) -> Begin {
    let operation = short(call)?;
    let status = match operation.state {
        State::Running => 0x00,
        State::Ended(outcome) if outcome.status == Status::Good => 0x01,
        State::Ended(_) | State::Terminated => 0x02,
    };
    let (segments, bytes) = (operation.segments, operation.bytes);
    let mut units = UNITS_BYTES;
    let mut count = bytes;
    while count > u64::from(u32::MAX) {
        count /= 1024;
        units += 1;
    }
    let data = &mut *call.data_in;
    data.put_be32(0);
    data.put_u8(status); // HDD: nothing was held
    data.put_be16(segments);
    data.put_u8(units);
    data.put_be32(u32::try_from(count).unwrap_or(u32::MAX));
    finish(call)
}

/// RECEIVE COPY DATA (LID1) (SPC-4 §6.22).
pub(in crate::scsi) fn copy_data(call: &mut UnitCall<'_>) -> Begin {
    if short(call)?.state == State::Running {
        return Err(Sense::invalid_field_in_cdb(LIST_ID_AT, None));
    }
    call.data_in.put_be32(0);
    finish(call)
}

/// RECEIVE COPY OPERATING PARAMETERS (SPC-4 §6.23). All lengths in bytes.
pub(in crate::scsi) fn operating_parameters(call: &mut UnitCall<'_>) -> Begin {
    let granularity = call.unit.block_size().trailing_zeros();
    let data = &mut *call.data_in;
    data.put_be32(0);
    data.put_u8(1); // SNLID: LIST ID USAGE 11b
    data.put_zeroes(3);
    data.put_be16(CSCD_DESCRIPTORS_MAX);
    data.put_be16(SEGMENT_DESCRIPTORS_MAX);
    data.put_be32(DESCRIPTOR_LIST_BYTES_MAX);
    data.put_be32(SEGMENT_BYTES_MAX);
    data.put_be32(0); // MAXIMUM INLINE DATA LENGTH
    data.put_be32(0); // HELD DATA LIMIT
    data.put_be32(0); // MAXIMUM STREAM DEVICE TRANSFER SIZE
    data.put_zeroes(2);
    data.put_be16(u16::from(CONCURRENT_COPIES_MAX)); // TOTAL CONCURRENT COPIES
    data.put_u8(CONCURRENT_COPIES_MAX);
    data.put_u8(u8::try_from(granularity).unwrap_or(0)); // DATA SEGMENT GRANULARITY, log 2
    data.put_zeroes(2); // INLINE and HELD DATA GRANULARITY
    data.put_zeroes(3);
    data.put(&[2, BLOCK_TO_BLOCK, IDENTIFICATION]);
    finish(call)
}

/// RECEIVE COPY FAILURE DETAILS (LID1) (SPC-4 §6.25).
pub(in crate::scsi) fn failed_segment_details(call: &mut UnitCall<'_>) -> Begin {
    let state = short(call)?.state;
    call.data_in.put_be32(0);
    if let State::Ended(outcome) = state
        && let Some(sense) = outcome.sense
    {
        let mut bytes = [0; SENSE_BYTES_MAX];
        let encoded = sense.encode(call.unit.sense_format(), &mut bytes);
        call.data_in.put_zeroes(52);
        call.data_in.put_u8(outcome.status as u8);
        call.data_in.put_u8(0);
        let length_at = call.data_in.len();
        call.data_in.put_be16(0);
        call.data_in.put(bytes.get(..encoded).unwrap_or_default());
        call.data_in.patch_length_be16(length_at);
    }
    finish(call)
}

/// RECEIVE ROD TOKEN INFORMATION (SPC-4 §6.27, SBC-4 §5.26).
pub(in crate::scsi) fn rod_token_information(call: &mut UnitCall<'_>) -> Begin {
    let id = ListId::Long(call.command.cdb.be32(2));
    let operation = find(call, id)?.clone();
    let format = call.unit.sense_format();
    let (mut status, mut sense) = (0, None);
    let code = match operation.state {
        State::Running => 0x10,
        State::Ended(outcome) => {
            status = outcome.status as u8;
            sense = outcome.sense;
            if outcome.status == Status::Good {
                0x01
            } else {
                0x02
            }
        }
        State::Terminated => 0x60,
    };
    let mut bytes = [0; SENSE_BYTES_MAX];
    let encoded = sense.map_or(0, |sense| sense.encode(format, &mut bytes));
    let sense_bytes = u8::try_from(encoded).expect("SENSE_BYTES_MAX");
    let data = &mut *call.data_in;
    data.put_be32(0);
    data.put_u8(operation.service_action);
    data.put_u8(code);
    data.put_be16(0); // OPERATION COUNTER
    data.put_be32(NO_ESTIMATE);
    data.put_u8(status);
    data.put(&[sense_bytes, sense_bytes]);
    data.put_u8(UNITS_BLOCKS);
    data.put_be64(operation.bytes / u64::from(call.unit.block_size()));
    data.put_be16(operation.segments);
    data.put_zeroes(6);
    data.put(bytes.get(..encoded).unwrap_or_default());
    let descriptors_at = data.len();
    data.put_be32(0);
    if let Some(token) = &operation.token {
        let token: [u8; TOKEN_BYTES] = token.encode(call.unit);
        data.put_be16(0);
        data.put(&token);
        data.patch_length_be32(descriptors_at);
    }
    finish(call)
}

/// The copy with the one-byte LIST IDENTIFIER of the CDB.
fn short<'a>(call: &'a UnitCall<'_>) -> Result<&'a Operation, Sense> {
    find(call, ListId::Short(call.command.cdb.u8(2)))
}

fn find<'a>(call: &'a UnitCall<'_>, id: ListId) -> Result<&'a Operation, Sense> {
    let unknown = Sense::invalid_field_in_cdb(LIST_ID_AT, None);
    call.copies.find(call.index, id).ok_or(unknown)
}

/// AVAILABLE DATA counts what follows it, whatever the ALLOCATION LENGTH.
fn finish(call: &mut UnitCall<'_>) -> Begin {
    let allocation_length = call.command.cdb.be32(10);
    let data: &mut ParameterData = call.data_in;
    data.patch_length_be32(0);
    Task::parameter_data(data, allocation_length)
}
