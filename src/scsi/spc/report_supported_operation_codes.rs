//! REPORT SUPPORTED OPERATION CODES (SPC-4): the opcode table, as initiators see it.
//!
//! | REPORTING OPTIONS | what                                                     |
//! |-------------------|----------------------------------------------------------|
//! | 0                 | all commands                                             |
//! | 1                 | one operation code that has no service actions           |
//! | 2                 | one operation code with one service action               |
//! | 3                 | either (SPC-4's later form; never an error)              |
//!
//! RCTD adds a command timeouts descriptor to each command. Commands that this unit does not have
//! are left out, and reported as not supported when asked for.

use crate::scsi::opcodes::{self, Opcode};
use crate::scsi::parameter::ParameterData;
use crate::scsi::sense::Sense;
use crate::scsi::task::{Begin, Task, UnitCall};

const ALL: u8 = 0;
const ONE_WITHOUT_SERVICE_ACTION: u8 = 1;
const ONE_WITH_SERVICE_ACTION: u8 = 2;
const ONE_OF_EITHER: u8 = 3;

/// SUPPORT field: not supported.
const NOT_SUPPORTED: u8 = 0b001;
/// SUPPORT field: supported as the standard says.
const SUPPORTED: u8 = 0b011;

/// Where REPORTING OPTIONS and the requested codes stand in the CDB.
const OPTIONS_AT: u16 = 2;
const OPCODE_AT: u16 = 3;

/// What the command timeouts descriptor's length field says.
const TIMEOUTS_LENGTH: u16 = 10;

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let with_timeouts = cdb.bit(2, 7);
    let (opcode, service_action) = (cdb.u8(3), cdb.be16(4));
    let rows = opcodes::rows_of(opcode);
    let has_service_actions = rows.iter().any(|row| row.service_action.is_some());
    match cdb.u8(2) & 0b111 {
        ALL => all(call, with_timeouts),
        ONE_WITHOUT_SERVICE_ACTION if has_service_actions => {
            return Err(Sense::invalid_field_in_cdb(OPCODE_AT, None));
        }
        ONE_WITHOUT_SERVICE_ACTION => one(call, rows.first(), with_timeouts),
        ONE_WITH_SERVICE_ACTION if !rows.is_empty() && !has_service_actions => {
            return Err(Sense::invalid_field_in_cdb(OPCODE_AT, None));
        }
        ONE_WITH_SERVICE_ACTION | ONE_OF_EITHER => {
            let wanted = rows
                .iter()
                .find(|row| row.service_action.unwrap_or(0) == service_action);
            one(call, wanted, with_timeouts);
        }
        _ => return Err(Sense::invalid_field_in_cdb(OPTIONS_AT, Some(2))),
    }
    Task::parameter_data(call.data_in, cdb.be32(6))
}

/// SPC-4, all_commands parameter data: a list of command descriptors.
fn all(call: &mut UnitCall<'_>, with_timeouts: bool) {
    const SERVACTV: u8 = 1 << 0;
    const CTDP: u8 = 1 << 1;
    let data = &mut *call.data_in;
    data.put_be32(0);
    for row in opcodes::rows()
        .iter()
        .filter(|row| row.available(call.unit))
    {
        let service_action_valid = if row.service_action.is_some() {
            SERVACTV
        } else {
            0
        };
        let timeouts_present = if with_timeouts { CTDP } else { 0 };
        data.put(&[row.opcode, 0]);
        data.put_be16(row.service_action.unwrap_or(0));
        data.put(&[0, service_action_valid | timeouts_present]);
        data.put_be16(cdb_bytes(row));
        if with_timeouts {
            timeouts(data, row);
        }
    }
    data.patch_length_be32(0);
}

/// SPC-4, one_command parameter data: support, CDB length and usage data of one command.
fn one(call: &mut UnitCall<'_>, row: Option<&Opcode>, with_timeouts: bool) {
    const CTDP: u8 = 1 << 7;
    let data = &mut *call.data_in;
    let Some(row) = row.filter(|row| row.available(call.unit)) else {
        data.put(&[0, NOT_SUPPORTED, 0, 0]);
        return;
    };
    data.put(&[
        0,
        if with_timeouts {
            CTDP | SUPPORTED
        } else {
            SUPPORTED
        },
    ]);
    data.put_be16(cdb_bytes(row));
    data.put(row.usage);
    if with_timeouts {
        timeouts(data, row);
    }
}

/// SPC-4, command timeouts descriptor.
fn timeouts(data: &mut ParameterData, row: &Opcode) {
    data.put_be16(TIMEOUTS_LENGTH);
    data.put(&[0, 0]);
    data.put_be32(row.timeouts.nominal_s);
    data.put_be32(row.timeouts.recommended_s);
}

fn cdb_bytes(row: &Opcode) -> u16 {
    u16::try_from(row.usage.len()).expect("a CDB is at most 260 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::asymmetric_access::PortGroups;
    use crate::scsi::testbed::{self, Bench};

    fn report(options: u8, opcode: u8, service_action: u16) -> [u8; 12] {
        let [a, b] = service_action.to_be_bytes();
        [0xa3, 0x0c, options, opcode, a, b, 0, 0, 0xff, 0xff, 0, 0]
    }

    /// A unit that has every command.
    fn full() -> Bench {
        let mut info = testbed::info(512, 8);
        info.atomic_write_blocks = 8;
        info.cryptographic_erase = true;
        let mut bench = Bench::with_info(info);
        bench.set_port_groups(PortGroups::new(Vec::new(), true));
        assert_eq!(available(&bench).len(), opcodes::rows().len());
        bench
    }

    /// The rows that the bench's unit has.
    fn available(bench: &Bench) -> Vec<&'static Opcode> {
        let rows = opcodes::rows().iter();
        rows.filter(|row| row.available(bench.unit())).collect()
    }

    #[test]
    fn all_commands_are_listed_in_order_with_their_lengths() {
        let data = full().read(&report(0, 0, 0), 65_535).good();
        let bytes = u32::from_be_bytes(*data.first_chunk().unwrap());
        assert_eq!(usize::try_from(bytes).unwrap() + 4, data.len());
        let rows: Vec<_> = data[4..].chunks(8).collect();
        assert_eq!(rows.len(), opcodes::rows().len());
        for (listed, row) in rows.into_iter().zip(opcodes::rows()) {
            let [opcode, 0, a, b, 0, flags, c, d] = *listed else {
                panic!("{listed:02x?}")
            };
            assert_eq!(opcode, row.opcode);
            assert_eq!(u16::from_be_bytes([a, b]), row.service_action.unwrap_or(0));
            assert_eq!(flags, u8::from(row.service_action.is_some()));
            assert_eq!(usize::from(u16::from_be_bytes([c, d])), row.usage.len());
        }
    }

    #[test]
    fn rctd_adds_a_timeouts_descriptor_to_each_command() {
        let data = full().read(&report(0x80, 0, 0), 65_535).good();
        assert_eq!((data.len() - 4) / 20, opcodes::rows().len());
        for listed in data[4..].chunks(20) {
            assert_eq!(listed[5] & 2, 2);
            assert_eq!(listed[8..10], [0, 10]);
        }
    }

    #[test]
    fn one_command_is_reported_with_its_usage_data() {
        let mut bench = Bench::new(8);
        let data = bench.read(&report(1, 0x28, 0), 65_535).good();
        let usage = [0x28, 0x1a, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0];
        assert_eq!(data[..4], [0, 3, 0, 10]);
        assert_eq!(data[4..], usage);
        let data = bench.read(&report(0x81, 0x28, 0), 65_535).good();
        assert_eq!(data[1], 0x83);
        assert_eq!(data[14..], [0, 10, 0, 0, 0, 0, 0, 1, 0, 0, 0, 60]);
    }

    #[test]
    fn options_1_and_2_want_the_right_kind_of_operation_code() {
        let mut bench = Bench::new(8);
        bench
            .read(&report(1, 0x9e, 0x10), 65_535)
            .invalid_field(3, None);
        bench
            .read(&report(2, 0x28, 0), 65_535)
            .invalid_field(3, None);
        let data = bench.read(&report(2, 0x9e, 0x10), 65_535).good();
        assert_eq!(data[..6], [0, 3, 0, 16, 0x9e, 0x10]);
    }

    #[test]
    fn service_actions_of_the_long_form_have_16_bits() {
        let mut bench = Bench::new(8);
        let data = bench.read(&report(2, 0x7f, 0x0009), 65_535).good();
        assert_eq!(data[..4], [0, 3, 0, 32]);
        assert_eq!(data[4..14], [0x7f, 0, 0, 0, 0, 0, 0, 0xff, 0, 9]);
        assert_eq!(data.len(), 4 + 32);
        bench
            .read(&report(1, 0x7f, 0x0009), 65_535)
            .invalid_field(3, None);
        let data = bench.read(&report(2, 0x7f, 0x0109), 65_535).good();
        assert_eq!(data, [0, 1, 0, 0]);
    }

    #[test]
    fn option_3_takes_either_kind_and_never_fails() {
        let mut bench = Bench::new(8);
        for (opcode, service_action, support) in [
            (0x28, 0, 3),
            (0x28, 1, 1),
            (0x9e, 0x10, 3),
            (0x9e, 0x11, 1),
            (0xee, 0, 1),
        ] {
            let data = bench
                .read(&report(3, opcode, service_action), 65_535)
                .good();
            assert_eq!(data[1], support, "{opcode:02x}/{service_action:x}");
        }
    }

    #[test]
    fn unknown_command_is_reported_as_not_supported() {
        let mut bench = Bench::new(8);
        for options in [1, 2, 3, 0x83] {
            assert_eq!(
                bench.read(&report(options, 0xee, 0), 65_535).good(),
                [0, 1, 0, 0]
            );
        }
        assert_eq!(
            bench.read(&report(2, 0x9e, 0x0110), 65_535).good(),
            [0, 1, 0, 0]
        );
    }

    #[test]
    fn command_that_this_unit_lacks_is_not_reported() {
        let mut info = testbed::info(512, 8);
        info.unmap = false;
        info.atomic_write_blocks = 8;
        info.cryptographic_erase = true;
        let mut bench = Bench::with_info(info);
        assert_eq!(bench.read(&report(1, 0x42, 0), 65_535).good(), [0, 1, 0, 0]);
        let data = bench.read(&report(0, 0, 0), 65_535).good();
        assert_eq!((data.len() - 4) / 8, available(&bench).len());
        assert_eq!(
            bench.read(&report(2, 0xa4, 0x0a), 65_535).good(),
            [0, 1, 0, 0]
        );
    }

    #[test]
    fn reserved_reporting_options_are_an_invalid_field() {
        let mut bench = Bench::new(8);
        for options in 4..8 {
            bench
                .read(&report(options, 0, 0), 65_535)
                .invalid_field(2, Some(2));
        }
    }
}
