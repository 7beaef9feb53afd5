//! SCSI commands: arrival, delivery in CmdSN order, the steps of their tasks, and their answers
//! (RFC 7143 §4.2.2, §11.3, §11.4).

use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::backend::{Operation, UnitIndex};
use crate::pdu::{
    Ahs, Header, Opcode, RejectReason, Residual, ScsiCommand, ScsiResponse, ScsiResponseCode,
};
use crate::scsi::sense::{SENSE_BYTES_MAX, SenseFormat};
use crate::scsi::{
    self, AdditionalSense, Cdb, Change, Context, Event, LunAddress, Outcome, Sense, SenseKey,
    Status, Step, Transfer,
};

use super::connection::{Arriving, ConnectionIndex, Kind, Sink};
use super::data_in::residual;
use super::table::TaskId;
use super::task::{Arrived, Ended, State, Task};
use super::window::Place;
use super::{Effect, Env, Guard, HeldCommand, IMMEDIATE_MAX, QUEUE_DEPTH_MAX, Session};

/// RFC 7143 §11.4.7.2: the sense data for what is wrong with a task's data.
pub(super) const UNEXPECTED_UNSOLICITED_DATA: AdditionalSense = AdditionalSense::new(0x0c, 0x0c);
pub(super) const INCORRECT_AMOUNT_OF_DATA: AdditionalSense = AdditionalSense::new(0x0c, 0x0d);
pub(super) const PROTOCOL_SERVICE_CRC_ERROR: AdditionalSense = AdditionalSense::new(0x47, 0x05);
/// SAM-5 §5.11: a tag that is in use came again.
const OVERLAPPED_COMMANDS_ATTEMPTED: AdditionalSense = AdditionalSense::new(0x4e, 0x00);

/// Sense data with their length before them.
type SenseData = ArrayVec<u8, { 2 + SENSE_BYTES_MAX }>;

/// CHECK CONDITION, ABORTED COMMAND with this code.
pub(super) fn aborted_command(additional: AdditionalSense) -> Outcome {
    Outcome {
        status: Status::CheckCondition,
        sense: Some(Sense::new(SenseKey::AbortedCommand, additional)),
    }
}

impl Session {
    /// A header has come: decides what the PDU is and where its data segment goes.
    pub(super) fn begin(&mut self, env: &mut Env<'_>, on: ConnectionIndex) {
        let connection = &mut self.connections[on];
        let (first, acknowledged) = {
            let bhs = connection.bhs();
            (bhs.bytes()[0], bhs.exp_stat_sn())
        };
        let opcode = connection.bhs().opcode();
        connection.last_opcodes.push(first & 0x3f);
        connection.acknowledged = acknowledged;
        let (kind, sink) = match opcode {
            Ok(Opcode::ScsiCommand) if !self.is_discovery() => self.begin_command(env, on),
            Ok(Opcode::ScsiDataOut) if !self.is_discovery() => self.begin_data_out(env, on),
            Ok(Opcode::NopOut) => self.begin_nop_out(env, on),
            Ok(Opcode::TextRequest) => self.begin_text(on),
            Ok(Opcode::TaskManagementRequest) if !self.is_discovery() => {
                (Kind::Header, Sink::Discard)
            }
            Ok(Opcode::LogoutRequest) => (Kind::Header, Sink::Discard),
            // RFC 7143 §11.16: nothing to resend at ErrorRecoveryLevel 0.
            Ok(Opcode::Snack) => reject(RejectReason::SnackReject),
            // RFC 7143 §4.2.8: login is over, and a discovery session serves no SCSI.
            Ok(
                Opcode::LoginRequest
                | Opcode::ScsiCommand
                | Opcode::ScsiDataOut
                | Opcode::TaskManagementRequest,
            ) => reject(RejectReason::ProtocolError),
            Ok(_) | Err(_) => reject(RejectReason::CommandNotSupported),
        };
        self.connections[on].arriving = Some(Arriving { kind, sink });
    }

    /// The PDU is whole and its data digest known.
    pub(super) fn end(&mut self, env: &mut Env<'_>, on: ConnectionIndex, digest_ok: bool) {
        let Some(Arriving { kind, sink }) = self.connections[on].arriving.take() else {
            return;
        };
        if !digest_ok && env.guards.hold(Guard::DataDigest) {
            self.data_digest_error(env, on, &kind);
            return;
        }
        match kind {
            Kind::Ignore => self.counters.ignored_pdus += 1,
            Kind::Reject(reason) => {
                let bhs = *self.connections[on].bhs();
                self.reject(on, &bhs, reason);
            }
            Kind::Command { id } => self.end_command(env, id),
            Kind::DataOut {
                id,
                ttt,
                length,
                last,
            } => self.end_data_out(env, id, ttt, length, last),
            kind @ (Kind::Nop(_) | Kind::Text(_) | Kind::Header) => {
                let bhs = *self.connections[on].bhs();
                self.take_turn(env, on, bhs, kind, sink);
            }
        }
        // What waited for this one's CmdSN comes after it.
        self.deliver_held(env);
        self.manage_early(env);
        if !self.management.is_empty() {
            // It may have acknowledged what one of them waits for.
            self.finish_management(env);
        }
    }

    /// Deals with a request whose turn it is.
    pub(super) fn serve(
        &mut self,
        env: &mut Env<'_>,
        on: ConnectionIndex,
        bhs: &crate::pdu::Bhs,
        kind: &Kind,
        sink: Sink,
    ) {
        match kind {
            Kind::Nop(nop) => self.end_nop_out(env, on, nop, sink),
            Kind::Text(text) => self.end_text(env, on, bhs, text),
            Kind::Header => match bhs.opcode() {
                Ok(Opcode::TaskManagementRequest) => self.task_management(env, on, bhs),
                Ok(Opcode::LogoutRequest) => self.logout_request(env, on, bhs),
                _ => unreachable!("begin() makes no other header-only PDU"),
            },
            Kind::Ignore | Kind::Reject(_) | Kind::Command { .. } | Kind::DataOut { .. } => {
                unreachable!("end() deals with these itself")
            }
        }
    }

    /// RFC 7143 §7.8: the PDU is discarded and rejected. A command may come again with its CmdSN; a
    /// task whose Data-Out was hurt ends with an error, since ErrorRecoveryLevel 0 asks for nothing
    /// again.
    #[cold]
    fn data_digest_error(&mut self, env: &mut Env<'_>, on: ConnectionIndex, kind: &Kind) {
        self.counters.data_digest_errors += 1;
        let bhs = *self.connections[on].bhs();
        self.reject(on, &bhs, RejectReason::DataDigestError);
        match *kind {
            Kind::Command { id } => {
                if self.tasks.find(id).is_some() {
                    self.discard(env, id.slot);
                }
            }
            Kind::DataOut {
                id,
                ttt,
                length,
                last,
            } => {
                if let Some(task) = self.tasks.find(id) {
                    let verdict = aborted_command(PROTOCOL_SERVICE_CRC_ERROR);
                    task.verdict.get_or_insert(verdict);
                    self.end_data_out(env, id, ttt, length, last);
                }
            }
            Kind::Text(_) => self.connections[on].text.request.clear(),
            Kind::Ignore | Kind::Reject(_) | Kind::Nop(_) | Kind::Header => {}
        }
    }

    fn begin_command(&mut self, env: &mut Env<'_>, on: ConnectionIndex) -> (Kind, Sink) {
        let Ok(command) = ScsiCommand::parse(self.connections[on].bhs()) else {
            return reject(RejectReason::InvalidPduField);
        };
        // RFC 7143 §4.2.2.1: what is outside the window is dropped without a word; a duplicate too.
        if !command.immediate {
            match self.window.place(command.cmd_sn) {
                _ if self.connections.is_arriving(command.cmd_sn) => {
                    return (Kind::Ignore, Sink::Discard);
                }
                Place::Next => {}
                Place::Ahead(_) if *self.held_at(command.cmd_sn) == HeldCommand::Missing => {}
                Place::Ahead(_) | Place::Outside => return (Kind::Ignore, Sink::Discard),
            }
        } else if self.tasks.iter().filter(|task| task.immediate).count() >= IMMEDIATE_MAX.into() {
            return reject(RejectReason::TooManyImmediateCommands);
        }
        if command.itt.is_reserved() {
            return reject(RejectReason::InvalidPduField);
        }
        let overlaps = self.tasks.by_itt(command.itt).is_some();
        let header = self.connections[on].framer.header();
        let immediate = header.bhs.data_segment_length();
        let Some(cdb) = full_cdb(&command, header) else {
            return reject(RejectReason::InvalidPduField);
        };
        let mapped = self.mapped(command.lun);
        let priority = if self.has_rfc_7144() {
            command.priority
        } else {
            0
        };
        let task = self.tasks.insert(&Arrived {
            connection: on,
            command: &command,
            cdb,
            mapped,
            priority,
            now: env.now,
        });
        let id = task.id;
        if command.read && command.write {
            // No command that we know moves data both ways.
            task.verdict = Some(Outcome {
                status: Status::CheckCondition,
                sense: Some(Sense::illegal_request(
                    AdditionalSense::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT,
                )),
            });
        }
        if overlaps {
            // RFC 7143 §11.2.1.8: a tag names one task at a time. A command that is only sent again
            // has its old CmdSN and was dropped above.
            task.clears = true;
            task.verdict = Some(aborted_command(OVERLAPPED_COMMANDS_ATTEMPTED));
        }
        let sink = self.begin_immediate_data(env, id, &command, immediate);
        (Kind::Command { id }, sink)
    }

    /// The place in the session's map of what the LUN field addresses.
    pub(super) fn mapped(&self, field: crate::pdu::LunField) -> Option<u16> {
        let LunAddress::Lun(lun) = LunAddress::decode(field.0) else {
            return None;
        };
        let at = self.lun_numbers.binary_search(&lun).ok()?;
        u16::try_from(at).ok()
    }

    pub(super) fn held_at(&mut self, cmd_sn: crate::pdu::CmdSn) -> &mut HeldCommand {
        // As a constant: the length of `held`, by which the CPU need not divide.
        let at = cmd_sn.0 as usize % usize::from(QUEUE_DEPTH_MAX);
        &mut self.held[at]
    }

    /// A command is whole: now it counts.
    fn end_command(&mut self, env: &mut Env<'_>, id: TaskId) {
        let Some(task) = self.tasks.find(id) else {
            return;
        };
        self.counters.commands += 1;
        if task.clears {
            self.abort_overlapped(env, id);
        }
        let task = self.tasks.find(id).expect("it aborts others only");
        if task.immediate {
            self.deliver(env, id);
            return;
        }
        let cmd_sn = task.cmd_sn;
        match self.window.place(cmd_sn) {
            Place::Next => {
                self.window.accept();
                self.deliver(env, id);
            }
            Place::Ahead(_) => {
                task.state = State::Held;
                *self.held_at(cmd_sn) = HeldCommand::Task(id);
                if !env.guards.hold(Guard::CmdSnOrder) {
                    // Its place gives a reservation back later, and it has one of its own.
                    let doubled = env.pool.reserve(self.window.chunks_per_command());
                    assert!(doubled, "a test leaves room");
                    *self.held_at(cmd_sn) = HeldCommand::Skip;
                    self.deliver(env, id);
                }
            }
            Place::Outside => {
                unreachable!("nobody takes the place of a command that is being received")
            }
        }
    }

    /// Delivers what waited for the commands that have now come (RFC 7143 §4.2.2.1).
    pub(super) fn deliver_held(&mut self, env: &mut Env<'_>) {
        loop {
            let next = self.window.exp_cmd_sn();
            match std::mem::take(self.held_at(next)) {
                HeldCommand::Missing => return,
                HeldCommand::Request => {
                    self.request_due(env, next);
                    if self.window.exp_cmd_sn() == next {
                        // It was rejected: its CmdSN is still to come (RFC 7143 §7.3).
                        return;
                    }
                }
                HeldCommand::Skip => {
                    self.window.accept();
                    env.pool.unreserve(self.window.chunks_per_command());
                    self.grant(env);
                }
                HeldCommand::Task(id) => {
                    self.window.accept();
                    self.deliver(env, id);
                }
            }
        }
    }

    /// Hands a command to its logical unit.
    fn deliver(&mut self, env: &mut Env<'_>, id: TaskId) {
        let Some(task) = self.tasks.find(id) else {
            return;
        };
        if let Some(verdict) = task.verdict.take() {
            env.data_in.clear();
            self.finish(env, id.slot, verdict);
            return;
        }
        let simple = task.command.attribute == scsi::TaskAttribute::Simple;
        if (simple && self.ordering.is_idle()) || self.enter_task_set(env, id) {
            self.start(env, id);
        }
    }

    /// Begins a command whose turn it is.
    pub(super) fn start(&mut self, env: &mut Env<'_>, id: TaskId) {
        let Some(task) = self.tasks.find(id) else {
            return;
        };
        env.data_in.clear();
        let mut context = Context {
            units: env.units,
            map: &mut self.luns,
            at: task.mapped,
            i_t: &self.i_t,
            data_in: env.data_in,
            copies: &mut self.copies,
            unix_ms: env.unix_ms,
        };
        let (scsi, step) = scsi::Task::start(&mut context, &task.command);
        task.scsi = Some(scsi);
        self.step(env, id.slot, step);
    }

    /// Tells the task what happened and goes on with what it says.
    pub(super) fn resume(&mut self, env: &mut Env<'_>, slot: u16, event: Event) {
        let task = self.tasks.slot(slot).expect("callers have found it");
        env.data_in.clear();
        let mut context = Context {
            units: env.units,
            map: &mut self.luns,
            at: task.mapped,
            i_t: &self.i_t,
            data_in: env.data_in,
            copies: &mut self.copies,
            unix_ms: env.unix_ms,
        };
        let scsi = task.scsi.as_mut();
        let scsi = scsi.expect("a task that waits has been started");
        let step = scsi.resume(&mut context, event);
        self.step(env, slot, step);
    }

    fn step(&mut self, env: &mut Env<'_>, slot: u16, step: Step) {
        let task = self.tasks.slot(slot).expect("callers have found it");
        let id = task.id;
        match step {
            Step::Collect {
                data_out_bytes,
                scratch_bytes,
            } => {
                task.state = State::Collecting;
                task.data_out.wanted = data_out_bytes;
                task.data_out.scratch = scratch_bytes;
                task.data_out.next_offset = task.data_out.unsolicited;
                self.collect(env, slot);
            }
            Step::Submit(operation) => {
                let unit = self.unit_of(slot).expect("only a mapped unit submits");
                self.submit(env, slot, unit, operation);
            }
            Step::SubmitTo { unit, operation } => self.submit(env, slot, unit, operation),
            Step::Freeze { lba, blocks, reads } => {
                task.state = State::Changing;
                let unit = self.unit_of(slot).expect("only a mapped unit is frozen");
                let task = self.tasks.slot(slot).expect("still there");
                task.freeze = Some(unit);
                env.effects.push(Effect::Freeze {
                    session: self.index,
                    task: id,
                    unit,
                    lba,
                    blocks,
                    reads,
                });
            }
            Step::Stream { lba, blocks } => self.begin_stream(env, slot, lba, blocks),
            Step::Change(change) => {
                let unit = self.unit_of(slot).expect("only a mapped unit changes");
                self.ask(env, slot, unit, change);
            }
            Step::ChangeOf { unit, change } => self.ask(env, slot, unit, change),
            Step::AwaitJob => {
                task.state = State::Awaiting;
                let unit = self.unit_of(slot).expect("only a mapped unit has a job");
                env.effects.push(Effect::AwaitJob {
                    session: self.index,
                    task: id,
                    unit,
                });
            }
            Step::Finish(outcome) => self.finish(env, slot, outcome),
        }
    }

    /// Asks a unit's home core.
    fn ask(&mut self, env: &mut Env<'_>, slot: u16, unit: UnitIndex, change: Change) {
        let task = self.tasks.slot(slot).expect("callers have found it");
        task.state = State::Changing;
        env.effects.push(Effect::Change {
            session: self.index,
            task: task.id,
            unit,
            change,
            by: Arc::clone(&self.i_t),
        });
    }

    fn submit(&mut self, env: &mut Env<'_>, slot: u16, unit: UnitIndex, operation: Operation) {
        let task = self.tasks.slot(slot).expect("callers have found it");
        task.state = State::Device;
        let operation = env.units[usize::from(unit.0)].durable(operation);
        let (lba, blocks) = operation.range();
        let blocks = if operation.changes_blocks() {
            blocks
        } else {
            0
        };
        task.changing = (unit, lba, blocks);
        let id = task.id;
        let request = self.request(unit, id, operation);
        env.requests.push(request);
    }

    /// The unit whose device a task has asked, else the one that it addresses, as long as the task
    /// is there.
    pub fn unit_of_task(&mut self, task: TaskId) -> Option<UnitIndex> {
        let found = self.tasks.find(task)?;
        if found.state == State::Device {
            return Some(found.changing.0);
        }
        self.unit_of(task.slot)
    }

    pub(super) fn unit_of(&mut self, slot: u16) -> Option<UnitIndex> {
        let mapped = self.tasks.slot(slot)?.mapped?;
        Some(self.luns.get(usize::from(mapped))?.unit)
    }

    /// The task is decided. Parameter data stand in `env.data_in`.
    pub(super) fn finish(&mut self, env: &mut Env<'_>, slot: u16, outcome: Outcome) {
        if outcome.status == Status::CheckCondition && self.clears_first(env, slot) {
            let task = self.tasks.slot(slot).expect("it aborts others only");
            task.state = State::Clearing;
            task.verdict = Some(outcome);
            // What it has aborted may wait for the blocks that it keeps from others.
            let (id, freeze) = (task.id, task.freeze.take());
            self.thaw(env, id, freeze);
            return;
        }
        let task = self.tasks.slot(slot).expect("callers have found it");
        if task.data_out.open() {
            // RFC 7143 §11.4: the status follows the data that the initiator still sends; nobody
            // needs that data any more.
            task.state = State::Draining;
            task.data_out.buf = None;
            task.verdict = Some(outcome);
            return;
        }
        if task.state == State::Streaming
            && outcome.status == Status::Good
            && task.data_in.piece.is_some()
        {
            // All was read: the piece in hand is the last and carries the status.
            task.data_in.outcome = Some(outcome);
            self.stream(env, slot);
            return;
        }
        let has_data = outcome.status == Status::Good && !env.data_in.is_empty();
        if has_data && task.read {
            self.send_parameter_data(env, slot, outcome);
        } else {
            let presented = if has_data {
                env.data_in.len() as u64
            } else {
                0
            };
            self.respond(env, slot, outcome, presented);
        }
    }

    /// Sends a SCSI Response and ends the task. `presented` is how many bytes of Data-In the
    /// command had to give.
    pub(super) fn respond(
        &mut self,
        env: &mut Env<'_>,
        slot: u16,
        outcome: Outcome,
        presented: u64,
    ) {
        let task = self.tasks.slot(slot).expect("callers have found it");
        let residual = task.residual(outcome, presented);
        let exp_data_sn = task.data_in.data_sn.wrapping_add(task.data_out.r2t_sn);
        let mut data = SenseData::new();
        if let Some(sense) = outcome.sense {
            data = self.sense_data(env, slot, sense);
        }
        let task = self.retire(env, slot);
        let response = ScsiResponse {
            response: ScsiResponseCode::CompletedAtTarget,
            status: outcome.status as u8,
            status_qualifier: self.status_qualifier(outcome.status),
            residual,
            bidi_residual: Residual::None,
            itt: task.itt,
            snack_tag: 0,
            stat_sn: self.next_stat_sn(task.connection),
            exp_cmd_sn: self.window.exp_cmd_sn(),
            max_cmd_sn: self.window.max_cmd_sn(),
            exp_data_sn,
        };
        self.send(task.connection, response.emit(), &data);
        self.leave_task_set(env, &task);
    }

    /// The data segment of a response with sense data, which stand behind their length (RFC 7143
    /// §11.4.7), in the format of the unit that the task addresses.
    #[cold]
    fn sense_data(&mut self, env: &Env<'_>, slot: u16, sense: Sense) -> SenseData {
        let unit = self.unit_of(slot);
        let unit = unit.and_then(|unit| env.units.get(usize::from(unit.0)));
        let format = unit.map_or(SenseFormat::Fixed, scsi::LogicalUnit::sense_format);
        let mut bytes = [0; SENSE_BYTES_MAX];
        let encoded = sense.encode(format, &mut bytes);
        let length = u16::try_from(encoded).expect("bounded by SENSE_BYTES_MAX");
        let mut data = SenseData::new();
        data.extend(length.to_be_bytes());
        data.extend(bytes[..encoded].iter().copied());
        data
    }

    /// Ends a task: gives back what it has, and lets the window rise. Callers end with
    /// [`Self::leave_task_set`].
    pub(super) fn retire(&mut self, env: &mut Env<'_>, slot: u16) -> Ended {
        let task = self.tasks.slot(slot).expect("callers have found it");
        if let Some(piece) = task.data_in.piece.take() {
            self.connections[task.connection]
                .transmit
                .release(piece.held);
        }
        env.pool.unreserve(std::mem::take(&mut task.reserved));
        // All buffers go back before the window is looked at.
        task.data_out.buf = None;
        task.data_out.scratch_buf = None;
        if let Some(scsi) = &task.scsi {
            scsi.abandon(&mut self.copies);
        }
        task.scsi = None;
        let (id, freeze) = (task.id, task.freeze.take());
        let ended = task.ended();
        self.tasks.remove(slot);
        self.thaw(env, id, freeze);
        self.grant(env);
        ended
    }

    /// Lets others change the blocks again that a task has kept from them.
    fn thaw(&self, env: &mut Env<'_>, task: TaskId, freeze: Option<UnitIndex>) {
        if let Some(unit) = freeze {
            env.effects.push(Effect::Thaw {
                session: self.index,
                task,
                unit,
            });
        }
    }

    /// Forgets a command that never counted.
    pub(super) fn discard(&mut self, env: &mut Env<'_>, slot: u16) {
        if let Some(task) = self.tasks.slot(slot) {
            let own = !task.immediate;
            task.data_out.buf = None;
            let reserved = std::mem::take(&mut task.reserved);
            self.tasks.remove(slot);
            if own {
                // The credit of its CmdSN still stands, with what the command had taken of it.
                let back = self.window.chunks_per_command() - reserved;
                assert!(env.pool.reserve(back), "its own buffer was just freed");
            } else {
                env.pool.unreserve(reserved);
            }
        }
    }
}

impl Task {
    /// RFC 7143 §11.4.5: what the initiator expected against what the command had to move.
    fn residual(&self, outcome: Outcome, presented: u64) -> Residual {
        let good = outcome.status == Status::Good || outcome.status == Status::ConditionMet;
        let moved = match self
            .scsi
            .as_ref()
            .map_or(Transfer::None, scsi::Task::transfer)
        {
            // Also when it failed because the initiator expected less than the command says.
            Transfer::Out(bytes) if good || bytes > u64::from(self.expected) => bytes,
            // What came was taken, whatever became of it.
            Transfer::Out(_) => {
                u64::from(self.data_out.unsolicited) + u64::from(self.data_out.solicited)
            }
            Transfer::In(bytes) if good => presented.max(bytes),
            Transfer::In(_) => u64::from(self.data_in.sent),
            Transfer::None => presented,
        };
        let expected = if self.read || self.write {
            self.expected
        } else {
            0
        };
        residual(expected, moved)
    }

    /// The peer owes data, or room for data.
    pub(super) fn waits_for_peer(&self) -> bool {
        match self.state {
            State::Arriving | State::Held | State::Draining => true,
            State::Blocked | State::Collecting => self.data_out.open(),
            // What waits for room to be sent is judged by what is being sent.
            State::Streaming
            | State::Device
            | State::Changing
            | State::Awaiting
            | State::Clearing => false,
        }
    }
}

fn reject(reason: RejectReason) -> (Kind, Sink) {
    (Kind::Reject(reason), Sink::Discard)
}

/// The CDB with its extension, if the command carries one (RFC 7143 §11.2.2.3). `None`: longer than
/// any command that we know, malformed, or cut short: what did not come must not pass for zeroes.
#[inline]
fn full_cdb(command: &ScsiCommand, header: &Header) -> Option<Cdb> {
    if header.ahs.is_empty() && command.cdb[0] != VARIABLE_LENGTH {
        return Some(Cdb::new(&command.cdb));
    }
    extended_cdb(command, header)
}

#[cold]
fn extended_cdb(command: &ScsiCommand, header: &Header) -> Option<Cdb> {
    let mut extension: &[u8] = &[];
    for ahs in header.ahs.iter() {
        if let Ahs::ExtendedCdb(bytes) = ahs.ok()? {
            extension = bytes;
            break;
        }
    }
    if command.cdb[0] == VARIABLE_LENGTH {
        // SPC-4, variable length CDB: ADDITIONAL CDB LENGTH counts what is behind it.
        let announced = VARIABLE_LENGTH_HEADER + usize::from(command.cdb[7]);
        if command.cdb.len() + extension.len() < announced {
            return None;
        }
    }
    Cdb::with_extended(&command.cdb, extension)
}

/// The operation code of CDBs that say how long they are, and the bytes up to where they say it.
const VARIABLE_LENGTH: u8 = 0x7f;
const VARIABLE_LENGTH_HEADER: usize = 8;

#[cfg(test)]
mod tests {
    use super::super::bench::{Answer, Bench};
    use crate::pdu::Opcode;

    #[test]
    fn a_long_cdb_that_is_cut_short_is_rejected() {
        let mut bench = Bench::new();
        let mut cdb = [0; 16];
        (cdb[0], cdb[7], cdb[9]) = (0x7f, 0x18, 0x0d);
        bench.send(&Bench::command(1, 0, cdb, 512), &[0; 512]);
        assert_eq!(bench.answers(), [Answer::Other(Opcode::Reject)]);
        assert!(bench.requests.is_empty() && bench.session.is_drained());
    }
}
