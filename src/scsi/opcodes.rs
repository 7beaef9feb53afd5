//! THE table: one row for each command, sorted by operation code and service action.
//!
//! Dispatch, the check of reserved bits, the gates (who may run when something is in the way) and
//! REPORT SUPPORTED OPERATION CODES all come from the row, so that they cannot disagree. `usage` is
//! the CDB usage data of SPC-4: byte 0 is the operation code, a service action stands in its
//! field, and every other bit is one if we evaluate it or ignore it on purpose, zero if it must be
//! zero. Its length is the length of the CDB.
//!
//! Deliberate leniencies, each a bit that is set in a usage mask and then ignored: FUA_NV (SBC-2,
//! made obsolete, still sent), SYNC_NV (the same), and the LBA and PMI of READ CAPACITY. Bits 7–5
//! of byte 1 are tolerated in 6-byte CDBs, where SCSI-2 had the LUN.

use bitflags::bitflags;

use super::cdb::{CDB_BYTES_BASIC, Cdb};
use super::task::{Begin, Command, Context, UnitCall};
use super::unit::LogicalUnit;
use super::{sbc, spc};

bitflags! {
    /// What a command is allowed to pass by, and what it needs.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Gates: u8 {
        /// Runs, and reports no unit attention, while one is pending (SAM-5).
        const PASSES_UNIT_ATTENTION = 1 << 0;
        /// Runs while the unit is not ready or stopped.
        const PASSES_NOT_READY = 1 << 1;
        /// Changes blocks: refused where the unit or its mapping is read-only.
        const WRITES = 1 << 2;
        /// Exists only where the device can unmap (LBPU, VPD B2h).
        const NEEDS_UNMAP = 1 << 3;
        /// Changes how the unit behaves for everybody: refused where the mapping is read-only.
        const CHANGES = 1 << 4;
    }
}

/// Which way a command's data go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    None,
    In,
    Out,
}

/// COMMAND TIMEOUTS DESCRIPTOR values (SPC-4), in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// Time that the command usually takes.
    pub nominal_s: u32,
    /// Time after which an initiator should ask what is wrong.
    pub recommended_s: u32,
}

/// Answered from memory.
const QUICK: Timeouts = Timeouts {
    nominal_s: 1,
    recommended_s: 30,
};
/// Moves at most [`MAX_TRANSFER_BYTES`](super::task::MAX_TRANSFER_BYTES) to or from the device.
const MEDIUM: Timeouts = Timeouts {
    nominal_s: 1,
    recommended_s: 60,
};
/// May have a whole cache to write or many blocks to change.
const LONG: Timeouts = Timeouts {
    nominal_s: 10,
    recommended_s: 180,
};

/// The code of a command.
#[derive(Clone, Copy, Debug)]
pub(super) enum Handler {
    /// Needs a logical unit; without one LOGICAL UNIT NOT SUPPORTED is answered before it is
    /// called.
    Unit(fn(&mut UnitCall<'_>) -> Begin),
    /// Answered also where no unit is mapped (SPC-4: INQUIRY, REPORT LUNS, REQUEST SENSE).
    Target(fn(&mut Context<'_>, &Command) -> Begin),
}

/// One row.
#[derive(Debug)]
pub struct Opcode {
    pub name: &'static str,
    pub opcode: u8,
    /// `None` for an operation code that has no service actions.
    pub service_action: Option<u8>,
    pub usage: &'static [u8],
    pub direction: Direction,
    pub gates: Gates,
    pub timeouts: Timeouts,
    allowed: u128,
    pub(super) handler: Handler,
}

impl Opcode {
    const fn new(
        name: &'static str,
        usage: &'static [u8],
        direction: Direction,
        timeouts: Timeouts,
        handler: Handler,
    ) -> Self {
        Self {
            name,
            opcode: usage[0],
            service_action: None,
            usage,
            direction,
            gates: Gates::empty(),
            timeouts,
            allowed: allowed_bits(usage, 0),
            handler,
        }
    }

    /// The row is for the service action that stands in its usage data.
    const fn with_service_action(self) -> Self {
        let allowed = allowed_bits(self.usage, 0x1f);
        Self {
            service_action: Some(self.usage[1] & 0x1f),
            allowed,
            ..self
        }
    }

    const fn with_gates(self, gates: Gates) -> Self {
        Self { gates, ..self }
    }

    /// Bits of the first 16 bytes of the CDB that may be set, byte 0 most significant.
    pub(super) fn allowed_bits(&self) -> u128 {
        self.allowed
    }

    /// Whether this unit has the command at all.
    pub fn available(&self, unit: &LogicalUnit) -> bool {
        !self.gates.contains(Gates::NEEDS_UNMAP) || unit.info().unmap
    }
}

/// Bits that may be set in a CDB: those of `usage`, all of byte 0, the bits of byte 1 that hold the
/// service action or SCSI-2's LUN, and all that lies behind the CDB's end.
const fn allowed_bits(usage: &[u8], service_action: u8) -> u128 {
    let mut bytes = [0xff; CDB_BYTES_BASIC];
    let mut at = 1;
    while at < usage.len() && at < CDB_BYTES_BASIC {
        bytes[at] = usage[at];
        at += 1;
    }
    bytes[1] |= service_action;
    if usage.len() == 6 {
        bytes[1] |= 0xe0;
    }
    u128::from_be_bytes(bytes)
}

/// What the table knows of a CDB.
#[derive(Clone, Copy, Debug)]
pub enum Lookup {
    Row(&'static Opcode),
    /// The operation code is ours, the service action is not.
    UnknownServiceAction,
    UnknownOpcode,
}

/// Finds the row of a CDB.
pub fn lookup(cdb: &Cdb) -> Lookup {
    find(cdb.opcode(), cdb.service_action())
}

/// Finds the row of an operation code and, where it has them, a service action.
pub fn find(opcode: u8, service_action: u8) -> Lookup {
    let rows = rows_of(opcode);
    match rows {
        [] => Lookup::UnknownOpcode,
        [row] if row.service_action.is_none() => Lookup::Row(row),
        _ => rows
            .iter()
            .find(|row| row.service_action == Some(service_action))
            .map_or(Lookup::UnknownServiceAction, Lookup::Row),
    }
}

/// All rows of one operation code: none, one without service action, or one for each.
pub fn rows_of(opcode: u8) -> &'static [Opcode] {
    let (first, count) = INDEX[usize::from(opcode)];
    &TABLE[usize::from(first)..usize::from(first) + usize::from(count)]
}

/// All rows, in ascending order.
pub fn rows() -> &'static [Opcode] {
    &TABLE
}

use Direction::{In, None as NoData, Out};
use Handler::{Target, Unit};

const ANYTIME: Gates = Gates::PASSES_UNIT_ATTENTION.union(Gates::PASSES_NOT_READY);
const SETTINGS: Gates = Gates::PASSES_NOT_READY.union(Gates::CHANGES);

#[rustfmt::skip]
static TABLE: [Opcode; 28] = [
    Opcode::new("TEST UNIT READY", &[0x00, 0, 0, 0, 0, 0],
        NoData, QUICK, Unit(spc::test_unit_ready::start)),
    Opcode::new("REQUEST SENSE", &[0x03, 0x01, 0, 0, 0xff, 0],
        In, QUICK, Target(spc::request_sense::start)).with_gates(ANYTIME),
    Opcode::new("READ (6)", &[0x08, 0x1f, 0xff, 0xff, 0xff, 0],
        In, MEDIUM, Unit(sbc::read::start)),
    Opcode::new("WRITE (6)", &[0x0a, 0x1f, 0xff, 0xff, 0xff, 0],
        Out, MEDIUM, Unit(sbc::write::start)).with_gates(Gates::WRITES),
    Opcode::new("INQUIRY", &[0x12, 0x01, 0xff, 0xff, 0xff, 0],
        In, QUICK, Target(spc::inquiry::start)).with_gates(ANYTIME),
    Opcode::new("MODE SELECT (6)", &[0x15, 0x11, 0, 0, 0xff, 0],
        Out, LONG, Unit(spc::mode_select::start_6)).with_gates(SETTINGS),
    Opcode::new("MODE SENSE (6)", &[0x1a, 0x08, 0xff, 0xff, 0xff, 0],
        In, QUICK, Unit(spc::mode_sense::start_6)).with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("START STOP UNIT", &[0x1b, 0x01, 0, 0x0f, 0xf7, 0],
        NoData, LONG, Unit(sbc::start_stop_unit::start))
        .with_gates(SETTINGS),
    Opcode::new("READ CAPACITY (10)", &[0x25, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x01, 0],
        In, QUICK, Unit(sbc::read_capacity::start_10)),
    Opcode::new("READ (10)", &[0x28, 0x1a, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        In, MEDIUM, Unit(sbc::read::start)),
    Opcode::new("WRITE (10)", &[0x2a, 0x1a, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        Out, MEDIUM, Unit(sbc::write::start)).with_gates(Gates::WRITES),
    Opcode::new("VERIFY (10)", &[0x2f, 0x16, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        Out, MEDIUM, Unit(sbc::verify::start)),
    Opcode::new("SYNCHRONIZE CACHE (10)", &[0x35, 0x06, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        NoData, LONG, Unit(sbc::synchronize_cache::start)),
    Opcode::new("WRITE SAME (10)", &[0x41, 0x08, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        Out, LONG, Unit(sbc::write_same::start)).with_gates(Gates::WRITES),
    Opcode::new("UNMAP", &[0x42, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        Out, LONG, Unit(sbc::unmap::start)).with_gates(Gates::WRITES.union(Gates::NEEDS_UNMAP)),
    Opcode::new("MODE SELECT (10)", &[0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        Out, LONG, Unit(spc::mode_select::start_10)).with_gates(SETTINGS),
    Opcode::new("MODE SENSE (10)", &[0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0],
        In, QUICK, Unit(spc::mode_sense::start_10)).with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("READ (16)",
        &[0x88, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        In, MEDIUM, Unit(sbc::read::start)),
    Opcode::new("WRITE (16)",
        &[0x8a, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Out, MEDIUM, Unit(sbc::write::start)).with_gates(Gates::WRITES),
    Opcode::new("VERIFY (16)",
        &[0x8f, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Out, MEDIUM, Unit(sbc::verify::start)),
    Opcode::new("SYNCHRONIZE CACHE (16)",
        &[0x91, 0x06, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        NoData, LONG, Unit(sbc::synchronize_cache::start)),
    Opcode::new("WRITE SAME (16)",
        &[0x93, 0x09, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Out, LONG, Unit(sbc::write_same::start)).with_gates(Gates::WRITES),
    Opcode::new("READ CAPACITY (16)",
        &[0x9e, 0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            0xff, 0xff, 0xff, 0xff, 0x01, 0],
        In, QUICK, Unit(sbc::read_capacity::start_16)).with_service_action(),
    Opcode::new("REPORT LUNS", &[0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        In, QUICK, Target(spc::report_luns::start)).with_gates(ANYTIME),
    Opcode::new("REPORT SUPPORTED OPERATION CODES",
        &[0xa3, 0x0c, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        In, QUICK, Unit(spc::report_supported_operation_codes::start))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("READ (12)", &[0xa8, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        In, MEDIUM, Unit(sbc::read::start)),
    Opcode::new("WRITE (12)", &[0xaa, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Out, MEDIUM, Unit(sbc::write::start)).with_gates(Gates::WRITES),
    Opcode::new("VERIFY (12)", &[0xaf, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Out, MEDIUM, Unit(sbc::verify::start)),
];

/// For each operation code the number of its first row and of its rows.
static INDEX: [(u8, u8); 256] = index();

const fn index() -> [(u8, u8); 256] {
    let mut index = [(0, 0); 256];
    let mut row = 0_u8;
    while (row as usize) < TABLE.len() {
        let opcode = TABLE[row as usize].opcode as usize;
        if index[opcode].1 == 0 {
            index[opcode].0 = row;
        }
        index[opcode].1 += 1;
        row += 1;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::sense::{Sense, SenseKey, SenseSpecific};
    use crate::scsi::task::Transfer;
    use crate::scsi::testbed::{Bench, Done};
    use proptest::prelude::*;

    const BLOCKS: u64 = 3000;

    /// Patterns of bits that come near the ends of fields.
    fn byte() -> impl Strategy<Value = u8> {
        prop_oneof![
            4 => Just(0),
            2 => Just(0xff),
            1 => Just(0x80),
            1 => Just(1),
            2 => any::<u8>(),
        ]
    }

    /// A CDB of some row: arbitrary bits, of which those that must be zero mostly are.
    fn cdb() -> impl Strategy<Value = [u8; 16]> {
        let row = 0..rows().len();
        (
            row,
            prop::array::uniform16(byte()),
            prop::bool::weighted(0.9),
        )
            .prop_map(|(row, mut cdb, well_formed)| {
                let row = &rows()[row];
                if well_formed {
                    let allowed = row.allowed_bits().to_be_bytes();
                    for (at, byte) in cdb.iter_mut().enumerate() {
                        *byte &= if at < row.usage.len() {
                            allowed[at]
                        } else {
                            0xff
                        };
                    }
                }
                cdb[0] = row.opcode;
                if let Some(service_action) = row.service_action {
                    cdb[1] = cdb[1] & 0xe0 | service_action;
                }
                cdb
            })
    }

    #[test]
    fn rows_ascend_and_are_found_by_their_own_codes() {
        let order: Vec<_> = rows()
            .iter()
            .map(|row| (row.opcode, row.service_action))
            .collect();
        assert!(order.is_sorted_by(|one, next| one < next));
        for row in rows() {
            let Lookup::Row(found) = find(row.opcode, row.service_action.unwrap_or(0)) else {
                panic!("{} is not found", row.name);
            };
            assert_eq!(found.name, row.name);
        }
    }

    #[test]
    fn cdb_length_follows_from_the_group_code() {
        for row in rows() {
            let expected = match row.opcode >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                5 => 12,
                group => panic!("{} has group {group}", row.name),
            };
            assert_eq!(row.usage.len(), expected, "{}", row.name);
        }
    }

    #[test]
    fn operation_codes_outside_the_table_are_unknown() {
        let known: Vec<_> = rows().iter().map(|row| row.opcode).collect();
        for opcode in (0..=255).filter(|opcode| !known.contains(opcode)) {
            assert!(
                matches!(find(opcode, 0), Lookup::UnknownOpcode),
                "{opcode:02x}"
            );
        }
    }

    #[test]
    fn every_bit_outside_the_usage_data_is_an_invalid_field() {
        for row in rows() {
            for at in 1..row.usage.len() {
                for bit in 0..8 {
                    let tolerated = at == 1
                        && (row.usage.len() == 6 && bit >= 5
                            || row.service_action.is_some() && bit < 5);
                    if row.usage[at] & 1 << bit != 0 || tolerated {
                        continue;
                    }
                    let mut cdb = [0; 16];
                    cdb[0] = row.opcode;
                    cdb[1] = row.service_action.unwrap_or(0);
                    cdb[at] |= 1 << bit;
                    let answer = Bench::new(8).run(&cdb, &[], 512);
                    answer.invalid_field(u16::try_from(at).unwrap(), Some(bit));
                }
            }
        }
    }

    #[test]
    fn commands_that_write_are_refused_on_a_read_only_mapping_and_others_are_not() {
        for row in rows() {
            let mut bench = Bench::new(8);
            bench.nexus = crate::scsi::unit_attention::NexusUnit::new(true);
            let mut cdb = [0; 16];
            cdb[0] = row.opcode;
            cdb[1] = row.service_action.unwrap_or(0);
            let answer = bench.run(&cdb, &[], 0);
            let protected = answer
                .outcome
                .sense
                .is_some_and(|s| s.key == SenseKey::DataProtect);
            let gated = row.gates.intersects(Gates::WRITES | Gates::CHANGES);
            assert_eq!(protected, gated, "{}", row.name);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// Whatever the CDB, the parameter list and the expected lengths are: the command ends, the
        /// device is asked only for what it has, data are no longer than said, and a command that
        /// is refused for its CDB has touched nothing.
        #[test]
        fn any_command_with_any_data_ends_within_its_bounds(
            cdb in cdb(),
            data_out in prop_oneof![
                prop::collection::vec(byte(), 0..64),
                Just(vec![0; 512]),
                Just(vec![3; 2048]),
            ],
            data_in_bytes in prop_oneof![Just(0), Just(1), Just(512), Just(u32::MAX), any::<u32>()],
        ) {
            let mut bench = Bench::new(BLOCKS);
            let before = bench.disk.clone();
            let answer = bench.run(&cdb, &data_out, data_in_bytes);
            for done in &answer.done {
                let (lba, blocks) = match *done {
                    Done::Read { lba, blocks } | Done::Write { lba, blocks, .. } => {
                        (lba, u64::from(blocks))
                    }
                    Done::Unmap { lba, blocks } | Done::WriteZeroes { lba, blocks, .. } => {
                        (lba, blocks)
                    }
                    Done::Flush => (0, 0),
                };
                prop_assert!(lba.checked_add(blocks).is_some_and(|end| end <= BLOCKS));
            }
            match answer.transfer {
                Transfer::None => prop_assert_eq!(answer.data.len(), 0),
                Transfer::In(bytes) => {
                    let expected = bytes.min(u64::from(data_in_bytes));
                    prop_assert_eq!(u64::try_from(answer.data.len()).unwrap(), expected);
                }
                Transfer::Out(_) => prop_assert_eq!(answer.data.len(), 0),
            }
            if let Some(Sense { specific: SenseSpecific::Field { in_cdb: true, byte, .. }, .. }) =
                answer.outcome.sense
            {
                prop_assert!(byte < 16);
                prop_assert_eq!(&answer.done[..], &[][..]);
                prop_assert!(bench.disk == before);
            }
        }

        #[test]
        fn arbitrary_bytes_are_never_more_than_a_refusal(
            cdb in prop::array::uniform16(any::<u8>()),
            data_out in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let answer = Bench::new(8).run(&cdb, &data_out, 0);
            prop_assert!(answer.outcome.sense.is_none_or(|sense| sense.key != SenseKey::NoSense));
        }
    }
}
