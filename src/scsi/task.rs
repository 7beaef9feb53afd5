//! The seam between `iscsi` (transport) and the commands: a task is told what happened and says
//! what it needs next.
//!
//! ```text
//! Task::start ─► Step ─► (transport does it) ─► Event ─► Task::resume ─► Step ─► … ─► Step::Finish
//! ```
//!
//! `start` makes the checks that are the same for all commands, in SAM-5's order, and then runs the
//! handler of the command's row in [`opcodes`]. READ is [`Step::Stream`] and the
//! end; WRITE is [`Step::Collect`], [`Step::Submit`] and the end. A task holds no memory but the
//! `DmaBuf`s that it was given, and asks for all that it will ever need in one `Collect`, before it
//! has any, so that tasks do not wait for each other in a circle.

use std::sync::Arc;

use super::cdb::Cdb;
use super::change::Change;
use super::copy::operations::{OperationKey, Operations};
use super::copy::{
    copying::Copying, extended_copy::ExtendedCopy, populate_token::PopulateToken,
    write_using_token::WriteUsingToken,
};
use super::nexus::{MappedLun, Nexus};
use super::opcodes::{self, Gates, Handler, Lookup, Opcode};
use super::parameter::ParameterData;
use super::provisioning::OutOfSpace;
use super::reservations::access::{self, Access};
use super::sbc::{
    compare_and_write::CompareAndWrite, get_lba_status::GetLbaStatus, or_write::OrWrite,
    prevent_allow_medium_removal::PreventAllow, sanitize::Sanitize, start_stop_unit::StartStopUnit,
    synchronize_cache::SynchronizeCache, unmap::Unmap, verify::Verify,
    write_and_verify::WriteAndVerify, write_atomic::WriteAtomic, write_same::WriteSame,
};
use super::sbc::{read::Read, write::Write};
use super::sense::{AdditionalSense, Sense, SenseKey};
use super::spc::{
    diagnostic::SelfTest, mode_select::ModeSelect, persistent_reserve_in::PersistentReserveIn,
    persistent_reserve_out::PersistentReserveOut, reserve,
    set_target_port_groups::SetTargetPortGroups, setting::Setting,
};
use super::unit::{LogicalUnit, ReadyState};
use super::unit_attention::NexusUnit;
use crate::backend::{IoError, Operation, UnitIndex};
use crate::mem::DmaBuf;

/// Most bytes that one READ, WRITE or VERIFY may move; the Block Limits page reports it, and a
/// longer one gets INVALID FIELD IN CDB.
pub const MAX_TRANSFER_BYTES: u32 = 4 * 1024 * 1024;

/// What a task needs next. Exactly one event answers each step but `Finish`.
#[derive(Debug)]
pub enum Step {
    /// Collect `data_out_bytes` of the initiator's data and take `scratch_bytes` of further buffer,
    /// both in one piece so that tasks never wait for each other in a circle. Either may be zero,
    /// not both. `data_out_bytes` never exceeds what the command's CDB says nor what the initiator
    /// said it would send; what it sends beyond is thrown away. Answer: [`Event::Collected`].
    Collect {
        data_out_bytes: u32,
        scratch_bytes: u32,
    },
    /// Give this to the unit's device. Answer: [`Event::Completed`].
    Submit(Operation),
    /// Give this to the device of another unit of the session's map. Answer:
    /// [`Event::Completed`].
    SubmitTo {
        unit: UnitIndex,
        operation: Operation,
    },
    /// From the answer to the end of the task nobody else changes these blocks of the unit, on any
    /// core, and with `reads` nobody else reads them. A task does this once, with all its buffers
    /// in hand. Answer: [`Event::Frozen`].
    Freeze { lba: u64, blocks: u64, reads: bool },
    /// Read these blocks and send them as Data-In, in pieces as room allows, and no more bytes than
    /// the initiator takes: the last block may have to be cut. Answer: [`Event::Streamed`].
    Stream { lba: u64, blocks: u32 },
    /// Ask the unit's home core for this. Answer: [`Event::Changed`], when it was refused or every
    /// core has applied it.
    Change(Change),
    /// Ask the home core of another unit. Answer: [`Event::Changed`].
    ChangeOf { unit: UnitIndex, change: Change },
    /// Wait for the end of the job that this task's change has begun. It lets go of the task at any
    /// time: nothing of a reset or of the session's end waits for it. Answer: [`Event::Changed`].
    AwaitJob,
    /// The task is over. Parameter data, if any, stand in the context's `data_in`.
    Finish(Outcome),
}

impl Step {
    pub(super) const GOOD: Self = Self::Finish(Outcome {
        status: Status::Good,
        sense: None,
    });

    pub(super) fn check_condition(sense: Sense) -> Self {
        Self::Finish(Outcome::check_condition(sense))
    }
}

/// What the transport or the device did.
#[derive(Debug)]
pub enum Event {
    /// Each buffer is exactly as long as was asked for, `None` where that was zero.
    Collected {
        data_out: Option<DmaBuf>,
        scratch: Option<DmaBuf>,
    },
    Completed {
        result: Result<(), IoError>,
        buf: Option<DmaBuf>,
    },
    Streamed(Result<(), IoError>),
    Frozen,
    /// `Err`: the home core has refused, and the task ends like this.
    Changed(Result<(), Outcome>),
}

impl Event {
    /// The device has failed, or the home core has refused.
    fn is_failure(&self) -> bool {
        match self {
            Self::Completed { result, .. } | Self::Streamed(result) => result.is_err(),
            Self::Changed(result) => result.is_err(),
            Self::Collected { .. } | Self::Frozen => false,
        }
    }

    /// This process, not the medium, could not do it now: BUSY has the initiator wait and try again
    /// (SAM-5 §5.3.1), where an aborted command would be repeated at once.
    fn is_short_of_resources(&self) -> bool {
        matches!(
            self,
            Self::Completed {
                result: Err(IoError::Resource),
                ..
            } | Self::Streamed(Err(IoError::Resource))
        )
    }
}

/// SAM-5 status codes that we use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Status {
    Good = 0x00,
    CheckCondition = 0x02,
    ConditionMet = 0x04,
    Busy = 0x08,
    ReservationConflict = 0x18,
    TaskSetFull = 0x28,
    AcaActive = 0x30,
    TaskAborted = 0x40,
}

/// How a task ended. Sense data are encoded in the format (fixed or descriptor) of the unit's
/// D_SENSE bit ([`LogicalUnit::sense_format`]), fixed where there is no unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub status: Status,
    /// Present exactly when `status` is CHECK CONDITION.
    pub sense: Option<Sense>,
}

impl Outcome {
    /// CHECK CONDITION with these sense data.
    pub const fn check_condition(sense: Sense) -> Self {
        Self {
            status: Status::CheckCondition,
            sense: Some(sense),
        }
    }

    /// The command cannot be taken now and may be sent again (SAM-5 §5.3.1).
    pub const fn busy() -> Self {
        Self {
            status: Status::Busy,
            sense: None,
        }
    }

    /// Another nexus's reservation forbids it (SAM-5 §5.3.1).
    pub const fn reservation_conflict() -> Self {
        Self {
            status: Status::ReservationConflict,
            sense: None,
        }
    }
}

/// SAM-5 task attributes. Ordering is the transport's and the task set's affair; no command
/// behaves differently for its attribute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskAttribute {
    Simple,
    Ordered,
    HeadOfQueue,
    Aca,
}

/// A command as it came from the initiator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command {
    pub cdb: Cdb,
    pub attribute: TaskAttribute,
    /// Bytes that the initiator will send at most: ExpectedDataTransferLength of a write, else
    /// zero.
    pub data_out_bytes: u32,
    /// Bytes that the initiator will take at most: ExpectedDataTransferLength of a read, else zero.
    pub data_in_bytes: u32,
}

/// The world that a task runs in, lent for one call.
#[derive(Debug)]
pub struct Context<'a> {
    /// This core's replicas of all units, by [`UnitIndex`].
    pub units: &'a [LogicalUnit],
    /// The LUNs that this initiator sees, ascending.
    pub map: &'a mut [MappedLun],
    /// The place in `map` of the LUN that is addressed; `None` when nothing is mapped there.
    pub at: Option<u16>,
    pub i_t: &'a Arc<Nexus>,
    /// Where parameter data go; cleared by the caller before `start`.
    pub data_in: &'a mut ParameterData,
    /// The third-party copies of the session.
    pub copies: &'a mut Operations,
    /// Milliseconds since 1970-01-01 00:00 UTC, without leap seconds.
    pub unix_ms: u64,
}

impl<'a> Context<'a> {
    /// The addressed unit.
    pub fn unit(&self) -> Option<&'a LogicalUnit> {
        let mapped = self.map.get(usize::from(self.at?))?;
        self.units.get(usize::from(mapped.unit.0))
    }

    /// What the session knows of the addressed unit.
    pub fn nexus(&mut self) -> Option<&mut NexusUnit> {
        let mapped = self.map.get_mut(usize::from(self.at?))?;
        Some(&mut mapped.nexus)
    }
}

/// What the CDB says will move, in bytes, whatever the initiator expects; the transport computes
/// the residual from both (RFC 7143 §11.4.5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transfer {
    None,
    In(u64),
    Out(u64),
}

/// What a handler of a logical unit's command is given. The checks of the row are already made.
#[derive(Debug)]
pub(super) struct UnitCall<'a> {
    pub(super) unit: &'a LogicalUnit,
    pub(super) index: UnitIndex,
    pub(super) command: &'a Command,
    pub(super) i_t: &'a Arc<Nexus>,
    pub(super) unix_ms: u64,
    /// The unit or its mapping forbids writes.
    pub(super) read_only: bool,
    pub(super) data_in: &'a mut ParameterData,
    pub(super) copies: &'a mut Operations,
}

/// A task that has begun and its first step, or the sense data of a CHECK CONDITION that ends it
/// before anything moved.
pub(super) type Begin = Result<(Task, Step), Sense>;

/// One command in execution.
#[derive(Debug)]
pub struct Task {
    machine: Machine,
    transfer: Transfer,
}

/// The commands that take more than one step, each with what it must remember.
#[derive(Debug)]
pub(super) enum Machine {
    /// The last step was [`Step::Finish`].
    Over,
    Read(Read),
    Write(Write),
    SynchronizeCache(SynchronizeCache),
    Verify(Box<Verify>),
    Unmap(Unmap),
    WriteSame(WriteSame),
    StartStopUnit(StartStopUnit),
    ExtendedCopy(Box<ExtendedCopy>),
    PopulateToken(Box<PopulateToken>),
    WriteUsingToken(Box<WriteUsingToken>),
    PreventAllow(PreventAllow),
    ModeSelect(ModeSelect),
    CompareAndWrite(Box<CompareAndWrite>),
    OrWrite(Box<OrWrite>),
    WriteAndVerify(Box<WriteAndVerify>),
    GetLbaStatus(Box<GetLbaStatus>),
    WriteAtomic(Box<WriteAtomic>),
    Setting(Setting),
    SelfTest(SelfTest),
    PersistentReserveIn(PersistentReserveIn),
    PersistentReserveOut(PersistentReserveOut),
    Reserve,
    Sanitize(Sanitize),
    SetTargetPortGroups(SetTargetPortGroups),
}

impl Task {
    /// Begins a command.
    pub fn start(cx: &mut Context<'_>, command: &Command) -> (Self, Step) {
        match admit(cx, command) {
            Ok(begun) => begun,
            Err(sense) => {
                cx.data_in.clear();
                (Self::over(Transfer::None), Step::check_condition(sense))
            }
        }
    }

    /// Takes the answer to the last step and says what is next.
    ///
    /// # Panics
    /// When the event is not the one that answers the last step.
    pub fn resume(&mut self, cx: &mut Context<'_>, event: Event) -> Step {
        // READ and WRITE that go well: no copy to account for, no sense data to look at.
        let step = match &mut self.machine {
            Machine::Read(_) if matches!(event, Event::Streamed(Ok(()))) => Step::GOOD,
            Machine::Write(write) if !event.is_failure() => match write.resume(event) {
                Ok(step) => step,
                Err(sense) => Step::check_condition(at_this_unit(sense, cx)),
            },
            _ => return self.resume_any(cx, event),
        };
        if matches!(step, Step::Finish(_)) {
            self.machine = Machine::Over;
        }
        step
    }

    /// The same for every command and whatever has happened.
    fn resume_any(&mut self, cx: &mut Context<'_>, event: Event) -> Step {
        let operation = self.operation();
        let step = if event.is_short_of_resources() && !self.machine.has_copied() {
            Step::Finish(Outcome::busy())
        } else if let Event::Changed(Err(outcome)) = event {
            Step::Finish(outcome)
        } else {
            self.go_on(cx, event)
        };
        if let Step::Finish(outcome) = step {
            if let Some(key) = operation.or_else(|| self.operation()) {
                cx.copies.finish(key, outcome);
            }
            self.machine = Machine::Over;
        }
        step
    }

    fn go_on(&mut self, cx: &mut Context<'_>, event: Event) -> Step {
        match &mut self.machine {
            Machine::Over => panic!("a finished task was resumed with {event:?}"),
            Machine::Read(read) => read.resume(&event),
            Machine::Write(write) => write.resume(event),
            Machine::SynchronizeCache(flush) => flush.resume(&event),
            Machine::Verify(verify) => verify.resume(event),
            Machine::Unmap(unmap) => unmap.resume(event),
            Machine::WriteSame(write_same) => write_same.resume(event),
            Machine::StartStopUnit(start_stop) => start_stop.resume(&event),
            Machine::ExtendedCopy(copy) => copy.resume(cx, event),
            Machine::PopulateToken(token) => token.resume(cx, &event),
            Machine::WriteUsingToken(write) => write.resume(cx, event),
            Machine::PreventAllow(prevent) => prevent.resume(&event),
            Machine::ModeSelect(select) => select.resume(cx, &event),
            Machine::CompareAndWrite(compare) => compare.resume(event),
            Machine::OrWrite(or_write) => or_write.resume(event),
            Machine::WriteAndVerify(write) => write.resume(event),
            Machine::GetLbaStatus(status) => {
                status.resume(cx.data_in, event).map(|(step, transfer)| {
                    self.transfer = transfer;
                    step
                })
            }
            Machine::WriteAtomic(write) => write.resume(event),
            Machine::Setting(setting) => setting.resume(cx, &event),
            Machine::SelfTest(test) => test.resume(event),
            Machine::PersistentReserveIn(read) => {
                let step = read.resume(cx, &event);
                self.transfer = Transfer::In(cx.data_in.len() as u64);
                step
            }
            Machine::PersistentReserveOut(out) => out.resume(&event),
            Machine::Reserve => reserve::resume(&event),
            Machine::Sanitize(sanitize) => sanitize.resume(&event),
            Machine::SetTargetPortGroups(set) => set.resume(&event),
        }
        .unwrap_or_else(|sense| Step::check_condition(at_this_unit(sense, cx)))
    }

    /// The task goes without an answer: what is known of its copy says so.
    pub fn abandon(&self, copies: &mut Operations) {
        if let Some(key) = self.operation() {
            copies.terminate(key);
        }
    }

    /// Whether what is left of a third-party copy reads or writes the unit, whichever unit the
    /// command addresses.
    pub fn copies_at(&self, unit: UnitIndex) -> bool {
        let copying = self.machine.copying();
        copying.is_some_and(|copying| copying.touches(unit))
    }

    /// The third-party copy that the task makes.
    fn operation(&self) -> Option<OperationKey> {
        if let Machine::ExtendedCopy(copy) = &self.machine {
            copy.operation()
        } else if let Machine::PopulateToken(token) = &self.machine {
            token.operation()
        } else if let Machine::WriteUsingToken(write) = &self.machine {
            write.operation()
        } else {
            None
        }
    }

    /// How much the CDB says will move; `None` also when the command failed before any of it.
    pub fn transfer(&self) -> Transfer {
        self.transfer
    }

    pub(super) fn new(machine: Machine, transfer: Transfer) -> Self {
        Self { machine, transfer }
    }

    fn over(transfer: Transfer) -> Self {
        Self::new(Machine::Over, transfer)
    }

    /// A command that is over at once, with GOOD status.
    pub(super) fn good(transfer: Transfer) -> Begin {
        Ok((Self::over(transfer), Step::GOOD))
    }

    /// A command that is over at once with CHECK CONDITION, and whose residual nevertheless counts
    /// against what its CDB asked for.
    pub(super) fn refused(transfer: Transfer, sense: Sense) -> Begin {
        Ok((Self::over(transfer), Step::check_condition(sense)))
    }

    /// A command that is over at once and returns what stands in `data_in`, cut to its ALLOCATION
    /// LENGTH (SPC-4).
    pub(super) fn parameter_data(data_in: &mut ParameterData, allocation_length: u32) -> Begin {
        data_in.truncate(usize::try_from(allocation_length).unwrap_or(usize::MAX));
        let bytes = u64::try_from(data_in.len()).expect("the buffer has a fixed small size");
        Self::good(Transfer::In(bytes))
    }
}

impl Machine {
    /// A copy has changed blocks: to begin it anew would not do the same.
    fn has_copied(&self) -> bool {
        self.copying().is_some_and(Copying::has_written)
    }

    fn copying(&self) -> Option<&Copying> {
        if let Self::ExtendedCopy(copy) = self {
            copy.copying()
        } else if let Self::WriteUsingToken(write) = self {
            write.copying()
        } else {
            None
        }
    }
}

/// Whether this nexus may read the unit's blocks on behalf of a command for another unit.
pub(super) fn may_read(nexus: &NexusUnit) -> bool {
    !nexus.denied().intersects(Access::READ)
}

/// Whether this nexus may write the unit's blocks on behalf of a command for another unit.
pub(super) fn may_write(nexus: &NexusUnit) -> bool {
    !nexus.denied().intersects(Access::WRITE)
}

/// The checks that all commands share, in the order of their precedence (SAM-5
/// and SPC-4): is there a unit, has it something to say first, do we know the command, is the
/// CDB well formed, is the unit ready, may this nexus write.
fn admit(cx: &mut Context<'_>, command: &Command) -> Begin {
    let cdb = &command.cdb;
    let lookup = opcodes::lookup(cdb);
    let (gates, target_wide) = match lookup {
        Lookup::Row(row) | Lookup::LongRow(row) => {
            (row.gates, matches!(row.handler, Handler::Target(_)))
        }
        Lookup::UnknownServiceAction | Lookup::UnknownOpcode => (Gates::empty(), false),
    };
    let mapped = cx.at.and_then(|at| cx.map.get_mut(usize::from(at)));
    if mapped.is_none() && !target_wide {
        return Err(NO_UNIT);
    }
    let denied = mapped
        .as_ref()
        .map_or(Access::empty(), |mapped| mapped.nexus.denied());
    if !gates.contains(Gates::PASSES_UNIT_ATTENTION)
        && let Some(condition) = mapped.and_then(|mapped| mapped.nexus.take())
    {
        return Err(condition.sense());
    }
    let row = known(lookup, cdb)?;
    // SAM-5 §5.3.3: a conflict comes before all that is wrong with the command itself.
    if denied.intersects(row.access) && !access::is_excused(cdb) {
        let conflict = Step::Finish(Outcome::reservation_conflict());
        return Ok((Task::over(Transfer::None), conflict));
    }
    cdb.check_reserved(row.allowed_bits())?;
    let run = match row.handler {
        Handler::Target(run) => return run(cx, command),
        Handler::Unit(run) => run,
    };
    let mapped = cx.at.and_then(|at| cx.map.get(usize::from(at)));
    let Some((mapped, unit)) =
        mapped.and_then(|mapped| Some((mapped, cx.units.get(usize::from(mapped.unit.0))?)))
    else {
        return Err(NO_UNIT);
    };
    // SPC-4 §5.15.2: what the port is for comes before what the unit is ready for.
    mapped.nexus.check_reach(row.reach)?;
    // Before what the device can do: without a device nothing is known of that.
    if !unit.is_usable()
        && let Some(sense) = obstacle(unit, gates)
    {
        return Err(sense);
    }
    if !row.available(unit) {
        return Err(unavailable(row, cdb));
    }
    let read_only = unit.write_protected() || mapped.nexus.read_only();
    if read_only && gates.intersects(Gates::WRITES | Gates::CHANGES) {
        check_protection(unit, mapped.nexus.read_only(), gates)?;
    }
    run(&mut UnitCall {
        unit,
        index: mapped.unit,
        command,
        i_t: cx.i_t,
        unix_ms: cx.unix_ms,
        read_only,
        data_in: cx.data_in,
        copies: cx.copies,
    })
}

/// What forbids a command to write, or to change how the unit behaves for others.
#[cold]
fn check_protection(unit: &LogicalUnit, mapping: bool, gates: Gates) -> Result<(), Sense> {
    let hard = mapping || unit.read_only() && gates.contains(Gates::WRITES);
    let additional = if hard {
        AdditionalSense::WRITE_PROTECTED
    } else if gates.contains(Gates::WRITES) {
        AdditionalSense::SOFTWARE_WRITE_PROTECTED
    } else {
        return Ok(());
    };
    Err(Sense::new(SenseKey::DataProtect, additional))
}

/// The row of a command that we have.
fn known(lookup: Lookup, cdb: &Cdb) -> Result<&'static Opcode, Sense> {
    match lookup {
        Lookup::Row(row) => Ok(row),
        Lookup::LongRow(row) => {
            row.check_long(cdb)?;
            Ok(row)
        }
        // SPC-4: a service action that is not supported is an invalid field.
        Lookup::UnknownServiceAction => Err(opcodes::unknown_service_action(cdb)),
        Lookup::UnknownOpcode => Err(unknown_opcode()),
    }
}

/// Nothing is mapped at the LUN.
const NO_UNIT: Sense = Sense::illegal_request(AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED);

/// What keeps a command with these gates from a unit that is not ready or being sanitized.
#[cold]
fn obstacle(unit: &LogicalUnit, gates: Gates) -> Option<Sense> {
    // SBC-3 §4.11: also what could do without the medium waits for the end of a sanitize
    // operation, and for the way out after one that failed.
    let sanitize = unit.sanitize_in_progress().or_else(|| {
        let failed = unit.sanitize_failed();
        failed.filter(|_| !gates.contains(Gates::PASSES_FAILED_SANITIZE))
    });
    match unit.ready() {
        ReadyState::Ready if unit.non_volatile().sanitize.is_some() => sanitize,
        _ if gates.contains(Gates::PASSES_NOT_READY) => sanitize,
        _ => unit.not_ready(),
    }
}

/// The unit lacks a command that others have.
#[cold]
fn unavailable(row: &Opcode, cdb: &Cdb) -> Sense {
    match row.service_action {
        None => unknown_opcode(),
        // Without one of its rows the unit has none of them.
        Some(_) if row.gates.contains(Gates::NEEDS_LONG_CDBS) => unknown_opcode(),
        Some(_) => opcodes::unknown_service_action(cdb),
    }
}

/// SBC-3 §4.7.3.6: where the operator sees to it that space comes back, a lack of it is temporary.
fn at_this_unit(sense: Sense, cx: &Context<'_>) -> Sense {
    let no_space = AdditionalSense::SPACE_ALLOCATION_FAILED_WRITE_PROTECT;
    let retry = |unit: &LogicalUnit| unit.provisioning().policy.out_of_space == OutOfSpace::Retry;
    if sense.additional == no_space && cx.unit().is_some_and(retry) {
        return Sense::new(
            SenseKey::NotReady,
            AdditionalSense::SPACE_ALLOCATION_IN_PROGRESS,
        );
    }
    sense
}

fn unknown_opcode() -> Sense {
    Sense::illegal_request(AdditionalSense::INVALID_COMMAND_OPERATION_CODE)
}

/// The transport broke the seam's rule that one event of a kind answers each step.
#[cold]
pub(super) fn wrong_event(command: &str, event: &Event) -> ! {
    panic!("{command} was resumed with {event:?}, which does not answer its last step")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::change::Update;
    use crate::scsi::testbed::{self, Bench};
    use crate::scsi::unit::NotReadyReason;
    use crate::scsi::unit_attention::UnitAttention;

    const TEST_UNIT_READY: [u8; 6] = [0; 6];
    const REQUEST_SENSE: [u8; 6] = [0x03, 0, 0, 0, 252, 0];
    const INQUIRY: [u8; 6] = [0x12, 0, 0, 0, 255, 0];
    const REPORT_LUNS: [u8; 12] = [0xa0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0];
    const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    const WRITE: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    const UNKNOWN: [u8; 6] = [0xee, 0, 0, 0, 0, 0];

    #[test]
    fn ready_unit_passes_test_unit_ready() {
        let answer = Bench::new(8).plain(&TEST_UNIT_READY);
        assert_eq!(answer.transfer, Transfer::None);
        answer.good();
    }

    #[test]
    fn unmapped_lun_answers_three_commands_and_refuses_the_others() {
        let mut bench = Bench::new(8);
        bench.unit = None;
        for cdb in [&REQUEST_SENSE[..], &INQUIRY, &REPORT_LUNS] {
            bench.read(cdb, 512).good();
        }
        for cdb in [&TEST_UNIT_READY[..], &READ, &WRITE, &UNKNOWN] {
            bench
                .plain(cdb)
                .illegal(AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED);
        }
    }

    #[test]
    fn unit_attention_is_reported_once_and_not_to_the_commands_that_pass_it() {
        let mut bench = Bench::new(8);
        bench.nexus.raise(UnitAttention::PowerOn);
        bench.nexus.raise(UnitAttention::CapacityChanged);
        bench.read(&INQUIRY, 255).good();
        bench.read(&REPORT_LUNS, 512).good();
        let power_on = UnitAttention::PowerOn.additional_sense();
        bench
            .read(&READ, 512)
            .refused_with(SenseKey::UnitAttention, power_on);
        let capacity = UnitAttention::CapacityChanged.additional_sense();
        bench
            .plain(&TEST_UNIT_READY)
            .refused_with(SenseKey::UnitAttention, capacity);
        bench.plain(&TEST_UNIT_READY).good();
    }

    #[test]
    fn unit_attention_comes_before_not_ready_and_before_an_unknown_command() {
        let mut bench = Bench::new(8);
        bench.unit.as_mut().unwrap().apply(&Update::Started(false));
        for cdb in [&TEST_UNIT_READY[..], &UNKNOWN] {
            bench.nexus.raise(UnitAttention::LogicalUnitReset);
            assert_eq!(bench.plain(cdb).sense().key, SenseKey::UnitAttention);
        }
    }

    #[test]
    fn unknown_operation_code_and_unknown_service_action_differ() {
        let mut bench = Bench::new(8);
        bench
            .plain(&UNKNOWN)
            .illegal(AdditionalSense::INVALID_COMMAND_OPERATION_CODE);
        bench.plain(&[0x9e, 0x1f, 0]).invalid_field(1, Some(4));
    }

    #[test]
    fn naca_is_an_invalid_field_of_every_form() {
        let mut bench = Bench::new(8);
        for (cdb, control) in [(&TEST_UNIT_READY[..], 5), (&READ, 9), (&REPORT_LUNS, 11)] {
            let mut cdb = cdb.to_vec();
            cdb[control] = 0x04;
            bench
                .read(&cdb, 512)
                .invalid_field(u16::try_from(control).unwrap(), Some(2));
        }
        let mut cdb = [0; 16];
        cdb[0] = 0x88;
        cdb[15] = 0x04;
        bench.read(&cdb, 512).invalid_field(15, Some(2));
    }

    #[test]
    fn scsi_2_lun_is_tolerated_in_6_byte_cdbs() {
        Bench::new(8).plain(&[0, 0xe0, 0, 0, 0, 0]).good();
        Bench::new(8)
            .plain(&[0, 0x01, 0, 0, 0, 0])
            .invalid_field(1, Some(0));
    }

    #[test]
    fn unit_without_its_device_says_who_it_is_and_that_it_is_not_ready() {
        let unit = LogicalUnit::without_device(testbed::identity(), false, NotReadyReason::Missing);
        let mut bench = Bench::with_unit(unit);
        assert_eq!(bench.read(&INQUIRY, 255).good()[0], 0);
        for cdb in [&TEST_UNIT_READY[..], &READ, &WRITE] {
            bench.plain(cdb).refused_with(
                SenseKey::NotReady,
                AdditionalSense::MANUAL_INTERVENTION_REQUIRED,
            );
        }
    }

    #[test]
    fn device_that_comes_back_makes_the_unit_ready() {
        let mut bench = Bench::new(8);
        let recovering = ReadyState::NotReady(NotReadyReason::BecomingReady);
        bench.unit.as_mut().unwrap().set_ready(recovering);
        bench
            .plain(&TEST_UNIT_READY)
            .refused_with(SenseKey::NotReady, AdditionalSense::BECOMING_READY);
        bench.unit.as_mut().unwrap().set_ready(ReadyState::Ready);
        bench.plain(&TEST_UNIT_READY).good();
    }

    #[test]
    fn task_is_a_few_words() {
        assert!(size_of::<Task>() <= 80, "{}", size_of::<Task>());
    }
}
