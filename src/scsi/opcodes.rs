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

use super::asymmetric_access::Reach;
use super::cdb::{CDB_BYTES_BASIC, CDB_BYTES_MAX, Cdb};
use super::reservations::access::{self, Access};
use super::sense::Sense;
use super::task::{Begin, Command, Context, UnitCall};
use super::unit::LogicalUnit;
use super::{copy, sbc, spc};

bitflags! {
    /// What a command is allowed to pass by, and what it needs.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Gates: u16 {
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
        /// Exists only where the device guarantees atomic writes (VPD B0h).
        const NEEDS_ATOMIC_WRITES = 1 << 5;
        /// Runs after a sanitize operation has failed (SBC-3 §4.11).
        const PASSES_FAILED_SANITIZE = 1 << 6;
        /// Exists only where erased blocks can be recovered by nobody.
        const NEEDS_CRYPTOGRAPHIC_ERASE = 1 << 7;
        /// Exists only where initiators may change asymmetric access states.
        const NEEDS_EXPLICIT_ACCESS = 1 << 8;
        /// Exists only where the 32-byte forms are served.
        const NEEDS_LONG_CDBS = 1 << 9;
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

/// Moves up to a segment list of whole segments inside the target.
const COPY: Timeouts = Timeouts {
    nominal_s: 30,
    recommended_s: 600,
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
    pub service_action: Option<u16>,
    pub usage: &'static [u8],
    pub direction: Direction,
    pub gates: Gates,
    pub timeouts: Timeouts,
    /// What reservations may deny to other nexuses.
    pub access: Access,
    /// How far through hindered ports the command is answered.
    pub(super) reach: Reach,
    allowed: u128,
    /// Bits of the bytes from the 17th on that may be set.
    allowed_extended: u128,
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
            access: access::needed(usage[0], 0),
            reach: Reach::of(usage[0], 0),
            allowed: allowed_bits(usage, 0, 0),
            allowed_extended: 0,
            handler,
        }
    }

    /// The row is for the service action that stands in its usage data.
    const fn with_service_action(self) -> Self {
        let allowed = allowed_bits(self.usage, 0, 0x1f);
        Self {
            service_action: Some((self.usage[1] & 0x1f) as u16),
            access: access::needed(self.opcode, (self.usage[1] & 0x1f) as u16),
            reach: Reach::of(self.opcode, (self.usage[1] & 0x1f) as u16),
            allowed,
            ..self
        }
    }

    /// The row is for a command of the variable-length form with 32 bytes (SPC-4, variable type
    /// CDB formats), whose service action stands in bytes 8 and 9 of its usage data.
    const fn long(self) -> Self {
        assert!(self.opcode == VARIABLE_LENGTH && self.usage.len() == CDB_BYTES_MAX);
        Self {
            service_action: Some(u16::from_be_bytes([self.usage[8], self.usage[9]])),
            access: access::needed(
                self.opcode,
                u16::from_be_bytes([self.usage[8], self.usage[9]]),
            ),
            allowed_extended: allowed_bits(self.usage, CDB_BYTES_BASIC, 0),
            gates: Gates::NEEDS_LONG_CDBS,
            ..self
        }
    }

    const fn with_gates(self, gates: Gates) -> Self {
        let gates = self.gates.union(gates);
        Self { gates, ..self }
    }

    /// Bits of the first 16 bytes of the CDB that may be set, byte 0 most significant.
    pub(super) fn allowed_bits(&self) -> u128 {
        self.allowed
    }

    /// What the check of the first 16 bytes leaves of a 32-byte CDB: ADDITIONAL CDB LENGTH must say
    /// that it is one, and no reserved bit of the rest may be set.
    pub(super) fn check_long(&self, cdb: &Cdb) -> Result<(), Sense> {
        cdb.check_reserved(self.allowed)?;
        if cdb.u8(usize::from(ADDITIONAL_LENGTH_AT)) != ADDITIONAL_LENGTH {
            return Err(Sense::invalid_field_in_cdb(ADDITIONAL_LENGTH_AT, None));
        }
        cdb.check_reserved_extended(self.allowed_extended)
    }

    /// Whether this unit has the command at all.
    pub fn available(&self, unit: &LogicalUnit) -> bool {
        const NEEDS: Gates = Gates::NEEDS_UNMAP
            .union(Gates::NEEDS_ATOMIC_WRITES)
            .union(Gates::NEEDS_CRYPTOGRAPHIC_ERASE)
            .union(Gates::NEEDS_EXPLICIT_ACCESS)
            .union(Gates::NEEDS_LONG_CDBS);
        if !self.gates.intersects(NEEDS) {
            return true;
        }
        let info = unit.info();
        (!self.gates.contains(Gates::NEEDS_UNMAP) || info.unmap)
            && (!self.gates.contains(Gates::NEEDS_ATOMIC_WRITES) || info.atomic_write_blocks > 0)
            && (!self.gates.contains(Gates::NEEDS_CRYPTOGRAPHIC_ERASE) || info.cryptographic_erase)
            && (!self.gates.contains(Gates::NEEDS_EXPLICIT_ACCESS) || unit.port_groups().explicit())
            && (!self.gates.contains(Gates::NEEDS_LONG_CDBS) || unit.long_cdbs())
    }
}

/// The operation code of the variable-length form (SPC-4), where its service action stands, and
/// what ADDITIONAL CDB LENGTH says in 32 bytes.
const VARIABLE_LENGTH: u8 = 0x7f;
const LONG_SERVICE_ACTION_AT: u16 = 8;
const ADDITIONAL_LENGTH_AT: u16 = 7;
const ADDITIONAL_LENGTH: u8 = 0x18;

/// The operation code is ours and the service action is not: an invalid field (SPC-4).
pub(super) fn unknown_service_action(cdb: &Cdb) -> Sense {
    if cdb.opcode() == VARIABLE_LENGTH {
        Sense::invalid_field_in_cdb(LONG_SERVICE_ACTION_AT, None)
    } else {
        Sense::invalid_field_in_cdb(1, Some(4))
    }
}

/// Bits that may be set in the 16 bytes of a CDB from byte `from` on: those of `usage`, all of byte
/// 0, the bits of byte 1 that hold the service action or SCSI-2's LUN, and all that lies behind the
/// CDB's end.
const fn allowed_bits(usage: &[u8], from: usize, service_action: u8) -> u128 {
    let mut bytes = [0xff; CDB_BYTES_BASIC];
    let mut at = if from == 0 { 1 } else { 0 };
    while from + at < usage.len() && at < CDB_BYTES_BASIC {
        bytes[at] = usage[from + at];
        at += 1;
    }
    if from > 0 {
        return u128::from_be_bytes(bytes);
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
    /// A command of the 32-byte form, whose CDB needs [`Opcode::check_long`] too.
    LongRow(&'static Opcode),
    /// The operation code is ours, the service action is not.
    UnknownServiceAction,
    UnknownOpcode,
}

/// Finds the row of a CDB.
pub fn lookup(cdb: &Cdb) -> Lookup {
    let rows = rows_of(cdb.opcode());
    match rows {
        [] => Lookup::UnknownOpcode,
        [row] if row.service_action.is_none() => Lookup::Row(row),
        _ if cdb.opcode() == VARIABLE_LENGTH => {
            let service_action = cdb.be16(usize::from(LONG_SERVICE_ACTION_AT));
            with_service_action(rows, service_action)
                .map_or(Lookup::UnknownServiceAction, Lookup::LongRow)
        }
        _ => with_service_action(rows, cdb.service_action().into())
            .map_or(Lookup::UnknownServiceAction, Lookup::Row),
    }
}

fn with_service_action(rows: &'static [Opcode], service_action: u16) -> Option<&'static Opcode> {
    rows.iter()
        .find(|row| row.service_action == Some(service_action))
}

/// All rows of one operation code: none, one without service action, or one for each.
pub fn rows_of(opcode: u8) -> &'static [Opcode] {
    let (first, count) = INDEX[usize::from(opcode)];
    &TABLE[usize::from(first)..usize::from(first) + usize::from(count)]
}

/// All rows, in ascending order.
pub fn rows() -> &'static [Opcode] {
    TABLE
}

use Direction::{In, None as NoData, Out};
use Handler::{Target, Unit};

/// Erases the whole unit, however long that takes: what the timeouts tell is the time to begin.
const SANITIZES: Gates = Gates::WRITES.union(Gates::PASSES_FAILED_SANITIZE);
const ANYTIME: Gates = Gates::PASSES_UNIT_ATTENTION.union(Gates::PASSES_NOT_READY);
const SETTINGS: Gates = Gates::PASSES_NOT_READY.union(Gates::CHANGES);

#[rustfmt::skip]
static TABLE: &[Opcode] = &[
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
    Opcode::new("RESERVE (6)", &[0x16, 0, 0, 0, 0, 0],
        NoData, QUICK, Unit(spc::reserve::start_reserve)).with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("RELEASE (6)", &[0x17, 0, 0, 0, 0, 0],
        NoData, QUICK, Unit(spc::reserve::start_release)).with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("MODE SENSE (6)", &[0x1a, 0x08, 0xff, 0xff, 0xff, 0],
        In, QUICK, Unit(spc::mode_sense::start_6)).with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("START STOP UNIT", &[0x1b, 0x01, 0, 0x0f, 0xf7, 0],
        NoData, LONG, Unit(sbc::start_stop_unit::start))
        .with_gates(SETTINGS),
    Opcode::new("RECEIVE DIAGNOSTIC RESULTS", &[0x1c, 0x01, 0xff, 0xff, 0xff, 0],
        In, QUICK, Unit(spc::diagnostic::receive)).with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("SEND DIAGNOSTIC", &[0x1d, 0xf7, 0, 0xff, 0xff, 0],
        NoData, MEDIUM, Unit(spc::diagnostic::send)),
    Opcode::new("PREVENT ALLOW MEDIUM REMOVAL", &[0x1e, 0, 0, 0, 0x01, 0],
        NoData, QUICK, Unit(sbc::prevent_allow_medium_removal::start))
        .with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("READ CAPACITY (10)", &[0x25, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x01, 0],
        In, QUICK, Unit(sbc::read_capacity::start_10)),
    Opcode::new("READ (10)", &[0x28, 0x1a, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        In, MEDIUM, Unit(sbc::read::start)),
    Opcode::new("WRITE (10)", &[0x2a, 0x1a, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        Out, MEDIUM, Unit(sbc::write::start)).with_gates(Gates::WRITES),
    Opcode::new("WRITE AND VERIFY (10)", &[0x2e, 0x12, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        Out, MEDIUM, Unit(sbc::write_and_verify::start)).with_gates(Gates::WRITES),
    Opcode::new("VERIFY (10)", &[0x2f, 0x16, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        Out, MEDIUM, Unit(sbc::verify::start)),
    Opcode::new("PRE-FETCH (10)", &[0x34, 0x02, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0],
        NoData, QUICK, Unit(sbc::pre_fetch::start)),
    Opcode::new("SYNCHRONIZE CACHE (10)", &[0x35, 0x06, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        NoData, LONG, Unit(sbc::synchronize_cache::start)),
    Opcode::new("READ DEFECT DATA (10)", &[0x37, 0, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0],
        In, QUICK, Unit(sbc::read_defect_data::start_10)),
    Opcode::new("WRITE BUFFER", &[0x3b, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0],
        Out, QUICK, Unit(spc::echo_buffer::write)).with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("READ BUFFER", &[0x3c, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0],
        In, QUICK, Unit(spc::echo_buffer::read)).with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("WRITE SAME (10)", &[0x41, 0x08, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        Out, LONG, Unit(sbc::write_same::start)).with_gates(Gates::WRITES),
    Opcode::new("UNMAP", &[0x42, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        Out, LONG, Unit(sbc::unmap::start)).with_gates(Gates::WRITES.union(Gates::NEEDS_UNMAP)),
    Opcode::new("SANITIZE: OVERWRITE", &[0x48, 0xa1, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        Out, LONG, Unit(sbc::sanitize::overwrite)).with_service_action().with_gates(SANITIZES),
    Opcode::new("SANITIZE: BLOCK ERASE", &[0x48, 0xa2, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        NoData, LONG, Unit(sbc::sanitize::block_erase)).with_service_action().with_gates(SANITIZES),
    Opcode::new("SANITIZE: CRYPTOGRAPHIC ERASE", &[0x48, 0xa3, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        NoData, LONG, Unit(sbc::sanitize::cryptographic_erase)).with_service_action()
        .with_gates(SANITIZES.union(Gates::NEEDS_CRYPTOGRAPHIC_ERASE)),
    Opcode::new("SANITIZE: EXIT FAILURE MODE", &[0x48, 0xbf, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        NoData, LONG, Unit(sbc::sanitize::exit_failure_mode)).with_service_action()
        .with_gates(SANITIZES),
    Opcode::new("LOG SENSE", &[0x4d, 0, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0],
        In, QUICK, Unit(spc::log_sense::start)).with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("MODE SELECT (10)", &[0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        Out, LONG, Unit(spc::mode_select::start_10)).with_gates(SETTINGS),
    Opcode::new("RESERVE (10)", &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        NoData, QUICK, Unit(spc::reserve::start_reserve)).with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("RELEASE (10)", &[0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        NoData, QUICK, Unit(spc::reserve::start_release)).with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("MODE SENSE (10)", &[0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0],
        In, QUICK, Unit(spc::mode_sense::start_10)).with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("PERSISTENT RESERVE IN, READ KEYS",
        &[0x5e, 0x00, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        In, QUICK, Unit(spc::persistent_reserve_in::start))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("PERSISTENT RESERVE IN, READ RESERVATION",
        &[0x5e, 0x01, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        In, QUICK, Unit(spc::persistent_reserve_in::start))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("PERSISTENT RESERVE IN, REPORT CAPABILITIES",
        &[0x5e, 0x02, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        In, QUICK, Unit(spc::persistent_reserve_in::start))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("PERSISTENT RESERVE IN, READ FULL STATUS",
        &[0x5e, 0x03, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        In, QUICK, Unit(spc::persistent_reserve_in::start))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("PERSISTENT RESERVE OUT, REGISTER",
        &[0x5f, 0x00, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0],
        Out, QUICK, Unit(spc::persistent_reserve_out::start))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("PERSISTENT RESERVE OUT, RESERVE",
        &[0x5f, 0x01, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0],
        Out, QUICK, Unit(spc::persistent_reserve_out::start))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("PERSISTENT RESERVE OUT, RELEASE",
        &[0x5f, 0x02, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0],
        Out, QUICK, Unit(spc::persistent_reserve_out::start))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("PERSISTENT RESERVE OUT, CLEAR",
        &[0x5f, 0x03, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0],
        Out, QUICK, Unit(spc::persistent_reserve_out::start))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("PERSISTENT RESERVE OUT, PREEMPT",
        &[0x5f, 0x04, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0],
        Out, QUICK, Unit(spc::persistent_reserve_out::start))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("PERSISTENT RESERVE OUT, PREEMPT AND ABORT",
        &[0x5f, 0x05, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0],
        Out, QUICK, Unit(spc::persistent_reserve_out::start))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY",
        &[0x5f, 0x06, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0],
        Out, QUICK, Unit(spc::persistent_reserve_out::start))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("PERSISTENT RESERVE OUT, REGISTER AND MOVE",
        &[0x5f, 0x07, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0],
        Out, QUICK, Unit(spc::persistent_reserve_out::start))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("READ (32)", &[0x7f, 0, 0, 0, 0, 0, 0, 0xff, 0x00, 0x09, 0x18, 0,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        In, MEDIUM, Unit(sbc::read::start_32)).long(),
    Opcode::new("VERIFY (32)", &[0x7f, 0, 0, 0, 0, 0, 0, 0xff, 0x00, 0x0a, 0x16, 0,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        Out, MEDIUM, Unit(sbc::verify::start_32)).long(),
    Opcode::new("WRITE (32)", &[0x7f, 0, 0, 0, 0, 0, 0, 0xff, 0x00, 0x0b, 0x18, 0,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        Out, MEDIUM, Unit(sbc::write::start_32)).long().with_gates(Gates::WRITES),
    Opcode::new("WRITE AND VERIFY (32)", &[0x7f, 0, 0, 0, 0, 0, 0, 0xff, 0x00, 0x0c, 0x12, 0,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        Out, MEDIUM, Unit(sbc::write_and_verify::start_32)).long().with_gates(Gates::WRITES),
    Opcode::new("WRITE SAME (32)", &[0x7f, 0, 0, 0, 0, 0, 0, 0xff, 0x00, 0x0d, 0x09, 0,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        Out, LONG, Unit(sbc::write_same::start_32)).long().with_gates(Gates::WRITES),
    Opcode::new("EXTENDED COPY (LID1)",
        &[0x83, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Out, COPY, Unit(copy::extended_copy::start)).with_service_action(),
    Opcode::new("POPULATE TOKEN",
        &[0x83, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Out, QUICK, Unit(copy::populate_token::start)).with_service_action(),
    Opcode::new("WRITE USING TOKEN",
        &[0x83, 0x11, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Out, COPY, Unit(copy::write_using_token::start))
        .with_service_action().with_gates(Gates::WRITES),
    Opcode::new("RECEIVE COPY STATUS (LID1)",
        &[0x84, 0x00, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        In, QUICK, Unit(copy::receive::copy_status))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("RECEIVE COPY DATA (LID1)",
        &[0x84, 0x01, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        In, QUICK, Unit(copy::receive::copy_data))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("RECEIVE COPY OPERATING PARAMETERS",
        &[0x84, 0x03, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        In, QUICK, Unit(copy::receive::operating_parameters))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("RECEIVE COPY FAILURE DETAILS (LID1)",
        &[0x84, 0x04, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        In, QUICK, Unit(copy::receive::failed_segment_details))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("RECEIVE ROD TOKEN INFORMATION",
        &[0x84, 0x07, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        In, QUICK, Unit(copy::receive::rod_token_information))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("READ (16)",
        &[0x88, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        In, MEDIUM, Unit(sbc::read::start)),
    Opcode::new("COMPARE AND WRITE",
        &[0x89, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0, 0],
        Out, MEDIUM, Unit(sbc::compare_and_write::start)).with_gates(Gates::WRITES),
    Opcode::new("WRITE (16)",
        &[0x8a, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Out, MEDIUM, Unit(sbc::write::start)).with_gates(Gates::WRITES),
    Opcode::new("ORWRITE (16)",
        &[0x8b, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Out, MEDIUM, Unit(sbc::or_write::start)).with_gates(Gates::WRITES),
    Opcode::new("WRITE AND VERIFY (16)",
        &[0x8e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Out, MEDIUM, Unit(sbc::write_and_verify::start)).with_gates(Gates::WRITES),
    Opcode::new("VERIFY (16)",
        &[0x8f, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Out, MEDIUM, Unit(sbc::verify::start)),
    Opcode::new("PRE-FETCH (16)",
        &[0x90, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            0xff, 0xff, 0xff, 0xff, 0x1f, 0],
        NoData, QUICK, Unit(sbc::pre_fetch::start)),
    Opcode::new("SYNCHRONIZE CACHE (16)",
        &[0x91, 0x06, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        NoData, LONG, Unit(sbc::synchronize_cache::start)),
    Opcode::new("WRITE SAME (16)",
        &[0x93, 0x09, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Out, LONG, Unit(sbc::write_same::start)).with_gates(Gates::WRITES),
    Opcode::new("WRITE ATOMIC (16)",
        &[0x9c, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Out, MEDIUM, Unit(sbc::write_atomic::start))
        .with_gates(Gates::WRITES.union(Gates::NEEDS_ATOMIC_WRITES)),
    Opcode::new("READ CAPACITY (16)",
        &[0x9e, 0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            0xff, 0xff, 0xff, 0xff, 0x01, 0],
        In, QUICK, Unit(sbc::read_capacity::start_16)).with_service_action(),
    Opcode::new("GET LBA STATUS",
        &[0x9e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        In, LONG, Unit(sbc::get_lba_status::start)).with_service_action(),
    Opcode::new("REPORT LUNS", &[0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        In, QUICK, Target(spc::report_luns::start)).with_gates(ANYTIME),
    Opcode::new("REPORT IDENTIFYING INFORMATION",
        &[0xa3, 0x05, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xfe, 0],
        In, QUICK, Unit(spc::identifying_information::report))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("REPORT TARGET PORT GROUPS",
        &[0xa3, 0xea, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        In, QUICK, Unit(spc::report_target_port_groups::start))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("REPORT SUPPORTED OPERATION CODES",
        &[0xa3, 0x0c, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        In, QUICK, Unit(spc::report_supported_operation_codes::start))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
        &[0xa3, 0x0d, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        In, QUICK, Unit(spc::report_supported_task_management_functions::start))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("REPORT TIMESTAMP",
        &[0xa3, 0x0f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        In, QUICK, Unit(spc::timestamp::report))
        .with_service_action().with_gates(Gates::PASSES_NOT_READY),
    Opcode::new("SET IDENTIFYING INFORMATION",
        &[0xa4, 0x06, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xfe, 0],
        Out, QUICK, Unit(spc::identifying_information::set))
        .with_service_action().with_gates(SETTINGS),
    Opcode::new("SET TARGET PORT GROUPS",
        &[0xa4, 0x0a, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Out, QUICK, Unit(spc::set_target_port_groups::start))
        .with_service_action()
        .with_gates(SETTINGS.union(Gates::NEEDS_EXPLICIT_ACCESS)),
    Opcode::new("SET TIMESTAMP",
        &[0xa4, 0x0f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Out, QUICK, Unit(spc::timestamp::set))
        .with_service_action().with_gates(SETTINGS),
    Opcode::new("READ (12)", &[0xa8, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        In, MEDIUM, Unit(sbc::read::start)),
    Opcode::new("WRITE (12)", &[0xaa, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Out, MEDIUM, Unit(sbc::write::start)).with_gates(Gates::WRITES),
    Opcode::new("WRITE AND VERIFY (12)",
        &[0xae, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Out, MEDIUM, Unit(sbc::write_and_verify::start)).with_gates(Gates::WRITES),
    Opcode::new("VERIFY (12)", &[0xaf, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Out, MEDIUM, Unit(sbc::verify::start)),
    Opcode::new("READ DEFECT DATA (12)",
        &[0xb7, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        In, QUICK, Unit(sbc::read_defect_data::start_12)),
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
mod tests;
