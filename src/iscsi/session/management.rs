//! Task management and aborted tasks (RFC 7143 §4.2.3.3, §11.5, §11.6).
//!
//! A request is answered when everything that it reaches is gone: what is not at a device is
//! dropped at once, what is there is waited for, on every core. Its response therefore says that
//! nothing of an aborted task reaches the medium any more.
//!
//! With several connections a function that reaches several tasks also waits for the commands that
//! were sent before it and are still on their way on another connection, and until the initiator
//! has acknowledged the statuses that other connections carry (RFC 7143 §4.2.3.3; TaskReporting is
//! RFC3720): what it is told to be done can then be followed by no answer to an older command.

use std::sync::Arc;

use crate::backend::UnitIndex;
use crate::pdu::{
    Bhs, CmdSn, Itt, TaskManagementFunction, TaskManagementRequest, TaskManagementResponse,
    TaskManagementResponseCode as Code,
};
use crate::scsi::{Outcome, Status, UnitAttention};

use super::connection::ConnectionIndex;
use super::task::{State, Task};
use super::window::Place;
use super::{
    ABORT_DRAIN, Answer, CONNECTIONS_MAX, Early, Effect, Env, Fault, Guard, HeldCommand,
    MANAGEMENT_MAX, Management, QUEUE_DEPTH_MAX, ResetScope, Scope, Session,
};

impl Session {
    /// A Task Management Function Request is whole.
    pub(super) fn task_management(&mut self, env: &mut Env<'_>, on: ConnectionIndex, bhs: &Bhs) {
        let request = TaskManagementRequest::parse(bhs);
        if !self.in_window(request.immediate, request.cmd_sn) {
            self.counters.ignored_pdus += 1;
            return;
        }
        // RFC 7143 §7.3: the CmdSN of what is rejected does not count as received.
        if self.management.len() + self.early.len() >= MANAGEMENT_MAX {
            self.reject(on, bhs, crate::pdu::RejectReason::TooManyImmediateCommands);
            return;
        }
        self.take_cmd_sn(env, request.immediate, request.cmd_sn);
        if self.is_early(env, &request) {
            self.early.push(Early {
                connection: on,
                request,
            });
        } else {
            self.manage(env, on, &request);
        }
    }

    fn manage(&mut self, env: &mut Env<'_>, on: ConnectionIndex, request: &TaskManagementRequest) {
        match request.function {
            TaskManagementFunction::AbortTask => self.abort_task(env, on, request),
            TaskManagementFunction::AbortTaskSet => self.abort_task_set(env, on, request),
            // One task set for each I_T nexus (TST = 001b): clearing it is aborting one's own
            // tasks.
            TaskManagementFunction::ClearTaskSet => self.abort_task_set(env, on, request),
            TaskManagementFunction::LogicalUnitReset => match self.unit_for(request) {
                Some(unit) => {
                    let condition = UnitAttention::LogicalUnitReset;
                    self.reset(env, on, request, vec![unit], condition, None);
                }
                None => self.respond_management(on, request.itt, Code::LunDoesNotExist),
            },
            TaskManagementFunction::TargetWarmReset | TaskManagementFunction::TargetColdReset => {
                let cold = request.function == TaskManagementFunction::TargetColdReset;
                let target = self
                    .negotiated
                    .target
                    .as_ref()
                    .map(|node| node.name.as_str().to_owned());
                let units = self.target_units();
                let condition = if cold {
                    UnitAttention::PowerOn
                } else {
                    UnitAttention::TargetReset
                };
                self.reset(env, on, request, units, condition, target.filter(|_| cold));
            }
            TaskManagementFunction::QueryTask if self.has_rfc_7144() => {
                self.query_task(on, request);
            }
            TaskManagementFunction::QueryTaskSet if self.has_rfc_7144() => {
                self.query_task_set(on, request);
            }
            TaskManagementFunction::ITNexusReset if self.has_rfc_7144() => {
                self.reset_nexus(env, on, request);
            }
            TaskManagementFunction::QueryAsynchronousEvent if self.has_rfc_7144() => {
                self.query_asynchronous_event(on, request);
            }
            // NORMACA = 0: there is no ACA to clear. ErrorRecoveryLevel 0: nothing to reassign.
            TaskManagementFunction::ClearAca => {
                self.respond_management(on, request.itt, Code::FunctionNotSupported);
            }
            TaskManagementFunction::TaskReassign => {
                self.respond_management(on, request.itt, Code::ReassignmentNotSupported);
            }
            // RFC 7144 §3: what iSCSIProtocolLevel 1 does not know.
            TaskManagementFunction::QueryTask
            | TaskManagementFunction::QueryTaskSet
            | TaskManagementFunction::ITNexusReset
            | TaskManagementFunction::QueryAsynchronousEvent
            | TaskManagementFunction::Other(_) => {
                self.respond_management(on, request.itt, Code::FunctionNotSupported);
            }
        }
    }

    /// RFC 7143 §4.2.3.3: a function that reaches several tasks waits for all commands that were
    /// sent before it. On its own connection they have come; on others they may be on their way.
    fn is_early(&self, env: &Env<'_>, request: &TaskManagementRequest) -> bool {
        let first_missing = self.window.exp_cmd_sn();
        self.reaches_several(request.function)
            && self.connections.are_several()
            && env.guards.hold(Guard::TaskSetWaitsForCommands)
            && first_missing.is_before(request.cmd_sn)
            // What no honest initiator can have counted to is not waited for.
            && request.cmd_sn.distance_from(first_missing) <= u32::from(QUEUE_DEPTH_MAX)
    }

    /// Goes on with the requests that no command is missing for any more.
    pub(super) fn manage_early(&mut self, env: &mut Env<'_>) {
        while let Some(at) = self
            .early
            .iter()
            .position(|early| !self.is_early(env, &early.request))
        {
            let Early {
                connection,
                request,
            } = self.early.remove(at);
            self.manage(env, connection, &request);
        }
    }

    /// Counts a request that is not a SCSI command in the command window. `false`: it is outside
    /// and dropped (RFC 7143 §4.2.2.1). Commands that waited for it are delivered when it has been
    /// dealt with.
    pub(super) fn take_cmd_sn(
        &mut self,
        env: &mut Env<'_>,
        immediate: bool,
        cmd_sn: CmdSn,
    ) -> bool {
        if immediate {
            return true;
        }
        if self.connections.is_arriving(cmd_sn) {
            return false;
        }
        match self.window.place(cmd_sn) {
            Place::Next => {
                self.window.accept();
                env.pool.unreserve(self.window.chunks_per_command());
                self.grant(env);
                true
            }
            Place::Ahead(_) | Place::Outside => false,
        }
    }

    /// Whether it is the turn of a request that is not a SCSI command. Looks only.
    pub(super) fn in_window(&self, immediate: bool, cmd_sn: CmdSn) -> bool {
        let next = self.window.place(cmd_sn) == Place::Next;
        immediate || (next && !self.connections.is_arriving(cmd_sn))
    }

    /// Every unit that the target has, seen by this initiator or not.
    fn target_units(&self) -> Vec<UnitIndex> {
        let Some(target) = &self.negotiated.target else {
            return Vec::new();
        };
        let mut units: Vec<_> = target
            .luns
            .iter()
            .map(|mapping| UnitIndex(mapping.unit))
            .collect();
        units.sort_unstable();
        units.dedup();
        units
    }

    pub(super) fn unit_for(&self, request: &TaskManagementRequest) -> Option<UnitIndex> {
        let at = self.mapped(request.lun)?;
        Some(self.luns[usize::from(at)].unit)
    }

    /// RFC 7143 §11.5.1: the task goes, or, if it has not come yet but its CmdSN is in the window,
    /// its place is taken so that it never will.
    fn abort_task(
        &mut self,
        env: &mut Env<'_>,
        on: ConnectionIndex,
        request: &TaskManagementRequest,
    ) {
        let found = self.tasks.by_itt(request.referenced_itt);
        if let Some(slot) = found {
            let id = self.begin_management(on, request.itt, false, Answer::Function);
            self.abort(env, slot, Some(id));
            // RFC 7143 §4.2.3.3 asks only the functions that reach several tasks to wait for data
            // that were asked for; late Data-Out of this one finds no task.
            self.let_go_of_peer(env, slot);
            self.gathered(env, id);
            return;
        }
        // RFC 7143 §11.6.1: a command that is still on its way counts as received and aborted, if
        // it was sent before this request. Without that condition the next command would be lost.
        let sent_before = request.ref_cmd_sn.is_before(request.cmd_sn)
            && !self.connections.is_arriving(request.ref_cmd_sn);
        let code = match self.window.place(request.ref_cmd_sn) {
            Place::Next | Place::Ahead(_)
                if sent_before && *self.held_at(request.ref_cmd_sn) == HeldCommand::Missing =>
            {
                *self.held_at(request.ref_cmd_sn) = HeldCommand::Skip;
                Code::FunctionComplete
            }
            _ => Code::TaskDoesNotExist,
        };
        self.respond_management(on, request.itt, code);
    }

    fn abort_task_set(
        &mut self,
        env: &mut Env<'_>,
        on: ConnectionIndex,
        request: &TaskManagementRequest,
    ) {
        let Some(unit) = self.unit_for(request) else {
            self.respond_management(on, request.itt, Code::LunDoesNotExist);
            return;
        };
        let id = self.begin_management(on, request.itt, false, Answer::Function);
        self.abort_unit(env, unit, Some(id), Some(request.cmd_sn));
        self.await_acknowledgements(env, on, id);
        self.gathered(env, id);
    }

    fn reset(
        &mut self,
        env: &mut Env<'_>,
        on: ConnectionIndex,
        request: &TaskManagementRequest,
        units: Vec<UnitIndex>,
        condition: UnitAttention,
        close_sessions_of: Option<String>,
    ) {
        let answer = match close_sessions_of {
            Some(_) => Answer::ColdReset,
            None => Answer::Function,
        };
        let management = self.begin_management(on, request.itt, true, answer);
        for unit in &units {
            self.abort_unit(env, *unit, Some(management), Some(request.cmd_sn));
            self.abort_copies_at(env, *unit, Some(management), Some(request.cmd_sn));
            self.copies.forget(*unit);
        }
        self.await_acknowledgements(env, on, management);
        self.gathered(env, management);
        let scope = ResetScope {
            units,
            condition,
            close_sessions_of,
        };
        env.effects.push(Effect::Reset {
            session: self.index,
            management,
            scope,
            by: Arc::clone(&self.i_t),
        });
    }

    pub(super) fn begin_management(
        &mut self,
        connection: ConnectionIndex,
        itt: Itt,
        remote: bool,
        answer: Answer,
    ) -> u32 {
        self.management_id = self.management_id.wrapping_add(1);
        self.management.push(Management {
            id: self.management_id,
            connection,
            itt,
            remote,
            gathering: true,
            acknowledgements: [None; CONNECTIONS_MAX as usize],
            answer,
        });
        self.management_id
    }

    /// All tasks that the request `id` waits for are marked: it may be answered from here on.
    pub(super) fn gathered(&mut self, env: &mut Env<'_>, id: u32) {
        let found = self.management.iter_mut().find(|pending| pending.id == id);
        if let Some(pending) = found {
            pending.gathering = false;
        }
        self.finish_management(env);
    }

    /// RFC 7143 §4.2.3.3: before the response to `id` goes out on `on`, the initiator has to
    /// acknowledge the last status that each other connection carries; asked with a ping, it does
    /// so at once.
    pub(super) fn await_acknowledgements(&mut self, env: &Env<'_>, on: ConnectionIndex, id: u32) {
        if !self.connections.are_several() || !env.guards.hold(Guard::TaskSetWaitsForStatuses) {
            return;
        }
        for other in self.connections.indices() {
            let connection = &self.connections[other];
            let owes = connection.acknowledged.is_before(connection.stat_sn);
            if other == on || !connection.serves() || !owes {
                continue;
            }
            let stat_sn = connection.stat_sn;
            let pending = self.management.iter_mut().find(|pending| pending.id == id);
            let pending = pending.expect("callers have begun it");
            pending.acknowledgements[other.at()] = Some(stat_sn);
            self.ping(other, env.now);
        }
    }

    /// A request waits for the initiator to acknowledge what was sent on this connection.
    pub(super) fn awaits_acknowledgement(&self, on: ConnectionIndex) -> bool {
        let mut pending = self.management.iter();
        pending.any(|pending| self.owes_acknowledgement(pending, on))
    }

    fn owes_acknowledgement(&self, pending: &Management, on: ConnectionIndex) -> bool {
        let connection = &self.connections[on];
        connection.serves()
            && pending.acknowledgements[on.at()]
                .is_some_and(|stat_sn| connection.acknowledged.is_before(stat_sn))
    }

    /// All other sessions and cores have acknowledged the reset.
    pub fn reset_done(&mut self, env: &mut Env<'_>, management: u32) {
        let found = self
            .management
            .iter_mut()
            .find(|pending| pending.id == management);
        if let Some(pending) = found {
            pending.remote = false;
        }
        self.finish_management(env);
    }

    /// A reset that another session asked for reaches these units.
    pub fn reset_by_other(&mut self, env: &mut Env<'_>, scope: &ResetScope) {
        for unit in &scope.units {
            self.abort_by_other(env, *unit);
            self.copies.forget(*unit);
            self.raise(*unit, scope.condition);
        }
    }

    /// Aborts third-party copies that read or write a unit and address another: after a reset or a
    /// PREEMPT AND ABORT nothing that came before it may reach the unit.
    pub(super) fn abort_copies_at(
        &mut self,
        env: &mut Env<'_>,
        unit: UnitIndex,
        by: Option<u32>,
        before: Option<CmdSn>,
    ) {
        for slot in 0..self.tasks.capacity() {
            let Some(task) = self.tasks.slot(slot) else {
                continue;
            };
            let copies = task.scsi.as_ref().is_some_and(|scsi| scsi.copies_at(unit));
            let later =
                before.is_some_and(|before| !task.immediate && !task.cmd_sn.is_before(before));
            if copies && !later && self.unit_of(slot) != Some(unit) {
                self.abort(env, slot, by);
            }
        }
    }

    /// Something of an aborted task for one of these units is still at a device; with `asked`, or
    /// waits for an answer of other cores.
    pub fn is_aborting(&self, units: &[UnitIndex], asked: bool) -> bool {
        self.tasks.iter().any(|task| {
            let unit = task.mapped.and_then(|at| self.luns.get(usize::from(at)));
            let out = task.at_device() || asked && task.state == State::Changing;
            let scsi = task.scsi.as_ref();
            let copies = |unit: &UnitIndex| scsi.is_some_and(|scsi| scsi.copies_at(*unit));
            let here = unit.is_some_and(|lun| units.contains(&lun.unit));
            task.aborted && out && (here || units.iter().any(copies))
        })
    }

    /// Aborts what the session has at a unit; with `before`, only commands of a lower CmdSN
    /// (RFC 7143 §4.2.3.3: those that were sent before the request).
    fn abort_unit(
        &mut self,
        env: &mut Env<'_>,
        unit: UnitIndex,
        by: Option<u32>,
        before: Option<CmdSn>,
    ) {
        let suspended = self.ordering.suspend();
        for slot in 0..self.tasks.capacity() {
            let Some(task) = self.tasks.slot(slot) else {
                continue;
            };
            let later =
                before.is_some_and(|before| !task.immediate && !task.cmd_sn.is_before(before));
            if !later && self.unit_of(slot) == Some(unit) {
                self.abort(env, slot, by);
            }
        }
        self.resume_ordering(env, suspended);
    }

    /// Ends a task without an answer: now, or when its device and its peer have let go of it.
    pub(super) fn abort(&mut self, env: &mut Env<'_>, slot: u16, by: Option<u32>) {
        let task = self.tasks.slot(slot).expect("callers have looked");
        let attached = self.connections[task.connection].attached;
        if task.state == State::Arriving && attached && by.is_none() {
            // Its own PDU is not whole: it has not counted yet and comes after what another session
            // has asked for.
            return;
        }
        if let Some(by) = by {
            if !env.guards.hold(Guard::AbortKeepsEarlierWaiter) {
                task.aborted_by.clear();
            }
            // A reset of several units reaches a copy once for each that it touches.
            if !task.aborted_by.contains(&by) {
                task.aborted_by.push(by);
            }
            task.tells_aborted = false;
        }
        task.aborted = true;
        task.last_progress = env.now;
        if matches!(task.state, State::Arriving | State::Held) {
            self.abort_undelivered(env, slot);
            return;
        }
        if !task.is_free() {
            return;
        }
        if task.state == State::Blocked {
            // It has left the queue of its task set.
            task.state = State::Draining;
        }
        task.data_out.buf = None;
        if !task.data_out.open() || !attached {
            self.finish_aborted(env, slot);
        }
    }

    /// Aborts a command that was not handed to its logical unit yet. Its CmdSN counts as received;
    /// but what a connection has taken with it may come again on another one.
    pub(super) fn abort_undelivered(&mut self, env: &mut Env<'_>, slot: u16) {
        let task = self.tasks.slot(slot).expect("callers have looked");
        let (cmd_sn, counts) = (task.cmd_sn, !task.immediate);
        let serves = self.connections[task.connection].serves();
        self.discard(env, slot);
        if counts {
            *self.held_at(cmd_sn) = if serves {
                HeldCommand::Skip
            } else {
                HeldCommand::Missing
            };
        }
    }

    /// An aborted task has let go of one thing: if it was the last, it is gone.
    pub(super) fn finish_aborted(&mut self, env: &mut Env<'_>, slot: u16) {
        let task = self.tasks.slot(slot).expect("callers have found it");
        // What was reported as done is no longer at the device.
        if task.state == State::Device || task.state == State::Changing {
            task.state = State::Draining;
        }
        task.data_out.r2ts.clear();
        task.data_out.unsolicited_open = false;
        if task.tells_aborted && self.connections[task.connection].attached {
            // SAM-5 §5.3.1: what another nexus aborted ends with a status, if TAS says so.
            let outcome = Outcome {
                status: Status::TaskAborted,
                sense: None,
            };
            self.respond(env, slot, outcome, 0);
            self.finish_management(env);
        } else {
            let task = self.retire(env, slot);
            self.finish_management(env);
            self.leave_task_set(env, &task);
        }
        self.answer_cleared(env);
    }

    /// Lets go of aborted tasks whose peer does not send what it was asked for.
    pub(super) fn expire_aborted(&mut self, env: &mut Env<'_>) {
        for slot in 0..self.tasks.capacity() {
            let Some(task) = self.tasks.slot(slot) else {
                continue;
            };
            let attached = self.connections[task.connection].attached;
            let waited = env.now.saturating_duration_since(task.last_progress);
            let late = !attached || waited > ABORT_DRAIN;
            if task.aborted && late && task.is_free() {
                self.finish_aborted(env, slot);
            }
        }
    }

    /// Answers the requests that have nothing left to wait for, oldest first.
    pub(super) fn finish_management(&mut self, env: &mut Env<'_>) {
        let mut at = 0;
        while at < self.management.len() {
            let pending = self.management[at];
            let is_its = |task: &Task| task.aborted_by.contains(&pending.id);
            let tasks = self.tasks.iter().any(is_its);
            let mut others = self.connections.indices();
            let owed = others.any(|other| self.owes_acknowledgement(&pending, other));
            let guard = match pending.answer {
                Answer::Logout(_) => Guard::LogoutWaits,
                Answer::Function | Answer::ColdReset | Answer::NexusReset => {
                    Guard::AbortWaitsForDevice
                }
            };
            let waits =
                pending.remote || pending.gathering || owed || (tasks && env.guards.hold(guard));
            if waits {
                at += 1;
            } else if pending.answer == Answer::NexusReset {
                self.management[at].answer = Answer::Function;
                self.management[at].remote = true;
                env.effects.push(Effect::NexusReset {
                    session: self.index,
                    management: pending.id,
                    by: Arc::clone(&self.i_t),
                });
            } else {
                self.management.remove(at);
                self.finish_request(pending);
            }
        }
    }

    fn finish_request(&mut self, request: Management) {
        let on = request.connection;
        match request.answer {
            Answer::Function | Answer::NexusReset => {
                self.respond_management(on, request.itt, Code::FunctionComplete);
            }
            Answer::ColdReset => {
                self.respond_management(on, request.itt, Code::FunctionComplete);
                // RFC 7143 §11.5.1: all connections of the target end, that of the asker too.
                self.end_after(on, Fault::ColdReset, Scope::Session);
            }
            Answer::Logout(closes) => self.logged_out(on, request.itt, closes),
        }
    }

    /// Ends an aborted task that waits for nothing but its peer.
    pub(super) fn let_go_of_peer(&mut self, env: &mut Env<'_>, slot: u16) {
        if let Some(task) = self.tasks.slot(slot).filter(|task| task.aborted)
            && task.is_free()
        {
            self.finish_aborted(env, slot);
        }
    }

    pub(super) fn respond_management(&mut self, on: ConnectionIndex, itt: Itt, response: Code) {
        self.respond_with_information(on, itt, response, [0; 3]);
    }

    /// A response with Additional Response Information (RFC 7144 §4.4).
    pub(super) fn respond_with_information(
        &mut self,
        on: ConnectionIndex,
        itt: Itt,
        response: Code,
        additional_information: [u8; 3],
    ) {
        let response = TaskManagementResponse {
            response,
            additional_information,
            itt,
            stat_sn: self.next_stat_sn(on),
            exp_cmd_sn: self.window.exp_cmd_sn(),
            max_cmd_sn: self.window.max_cmd_sn(),
        };
        self.send(on, response.emit(), &[]);
    }

    /// Whether a function reaches more than the one task that it names. One that is not supported
    /// reaches nothing.
    fn reaches_several(&self, function: TaskManagementFunction) -> bool {
        match function {
            TaskManagementFunction::AbortTaskSet
            | TaskManagementFunction::ClearTaskSet
            | TaskManagementFunction::LogicalUnitReset
            | TaskManagementFunction::TargetWarmReset
            | TaskManagementFunction::TargetColdReset => true,
            TaskManagementFunction::ITNexusReset => self.has_rfc_7144(),
            _ => false,
        }
    }
}
