//! What RFC 7144 adds at iSCSIProtocolLevel 2: three questions, I_T NEXUS RESET, and the status
//! qualifier.
//!
//! A session that agreed on level 1 has none of it: the functions are not supported there, and the
//! fields are reserved.

use crate::pdu::{TaskManagementRequest, TaskManagementResponseCode as Code};
use crate::scsi::{Status, UnitAttention};

use super::connection::ConnectionIndex;
use super::task::State;
use super::{Answer, Env, Session};

/// The level of RFC 7144 (its §3).
pub(super) const RFC_7144: u8 = 2;
/// SAM-5 §5.3.2: what a status qualifier counts in is 100 ms; scope 00b, this logical unit.
const TRY_AGAIN_IN_100_MS: u16 = 0x0001;

impl Session {
    pub(super) fn has_rfc_7144(&self) -> bool {
        self.negotiated.parameters.iscsi_protocol_level >= RFC_7144
    }

    /// SAM-5 §5.3.2: how long to wait before a command that was not taken is sent again.
    pub(super) fn status_qualifier(&self, status: Status) -> u16 {
        match status {
            Status::Busy | Status::TaskSetFull if self.has_rfc_7144() => TRY_AGAIN_IN_100_MS,
            _ => 0,
        }
    }

    /// SAM-5 §7.8: FUNCTION SUCCEEDED if the command is in the task set, FUNCTION COMPLETE if not.
    /// One that came whole and waits for a lower CmdSN counts: it is not lost.
    pub(super) fn query_task(&mut self, on: ConnectionIndex, request: &TaskManagementRequest) {
        let Some(set) = self.mapped(request.lun) else {
            self.respond_management(on, request.itt, Code::LunDoesNotExist);
            return;
        };
        let slot = self.tasks.by_itt(request.referenced_itt);
        let task = slot.and_then(|slot| self.tasks.slot(slot));
        let there = task.is_some_and(|task| {
            task.mapped == Some(set) && task.state != State::Arriving && !task.aborted
        });
        self.answer_query(on, request, there);
    }

    /// SAM-5 §7.9: whether there is any command in the task set.
    pub(super) fn query_task_set(&mut self, on: ConnectionIndex, request: &TaskManagementRequest) {
        let Some(set) = self.mapped(request.lun) else {
            self.respond_management(on, request.itt, Code::LunDoesNotExist);
            return;
        };
        let there = self.tasks.iter().any(|task| {
            let delivered = !matches!(task.state, State::Arriving | State::Held);
            task.mapped == Some(set) && delivered && !task.aborted
        });
        self.answer_query(on, request, there);
    }

    fn answer_query(&mut self, on: ConnectionIndex, request: &TaskManagementRequest, there: bool) {
        let code = if there {
            Code::FunctionSucceeded
        } else {
            Code::FunctionComplete
        };
        self.respond_management(on, request.itt, code);
    }

    /// SAM-5 §7.10: the unit attention that would be reported next, which is not cleared by this,
    /// and whether there are more.
    pub(super) fn query_asynchronous_event(
        &mut self,
        on: ConnectionIndex,
        request: &TaskManagementRequest,
    ) {
        let Some(mapped) = self.mapped(request.lun) else {
            self.respond_management(on, request.itt, Code::LunDoesNotExist);
            return;
        };
        let nexus = &self.luns[usize::from(mapped)].nexus;
        let Some(next) = nexus.pending() else {
            self.respond_management(on, request.itt, Code::FunctionComplete);
            return;
        };
        // UADE DEPTH: 01b one, 10b more than one.
        let depth = if nexus.pending_count() == 1 {
            0b01
        } else {
            0b10
        };
        let sense = next.sense();
        let additional = sense.additional;
        let information = [
            depth << 4 | sense.key as u8,
            additional.code,
            additional.qualifier,
        ];
        self.respond_with_information(on, request.itt, Code::FunctionSucceeded, information);
    }

    /// SAM-5 §7.7: every task of the nexus is aborted at every LUN, its units forget what belongs
    /// to it alone, and it is told of a nexus loss at each of them. Only what was sent before
    /// counts (RFC 7143 §4.2.3.3).
    pub(super) fn reset_nexus(
        &mut self,
        env: &mut Env<'_>,
        on: ConnectionIndex,
        request: &TaskManagementRequest,
    ) {
        let id = self.begin_management(on, request.itt, false, Answer::NexusReset);
        let suspended = self.ordering.suspend();
        for slot in 0..self.tasks.capacity() {
            let Some(task) = self.tasks.slot(slot) else {
                continue;
            };
            if task.immediate || task.cmd_sn.is_before(request.cmd_sn) {
                self.abort(env, slot, Some(id));
            }
        }
        self.resume_ordering(env, suspended);
        for mapped in &mut self.luns {
            mapped.nexus.raise(UnitAttention::NexusLoss);
        }
        self.await_acknowledgements(env, on, id);
        self.gathered(env, id);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Effect;
    use super::super::bench::{Answer, Bench};
    use super::*;
    use crate::pdu::{
        Itt, LunField, NopIn, NopOut, ScsiCommand, ScsiResponse, TaskAttribute,
        TaskManagementFunction as Function, TaskManagementResponse,
    };

    const TEST_UNIT_READY: [u8; 16] = [0; 16];

    fn level_2() -> Bench {
        Bench::with("|iSCSIProtocolLevel=2", |_| {})
    }

    fn ask(bench: &mut Bench, function: Function, lun: u8, of: u32) -> Code {
        bench.manage(77, function, lun, of);
        match bench.answers()[..] {
            [Answer::Management(77, code)] => code,
            ref other => panic!("{other:?}"),
        }
    }

    #[test]
    fn level_1_has_none_of_it() {
        let mut bench = Bench::with("|iSCSIProtocolLevel=1", |mapping| {
            mapping.queue_depth = Some(1);
        });
        bench.send_write(1, 0);
        for function in [
            Function::QueryTask,
            Function::QueryTaskSet,
            Function::ITNexusReset,
            Function::QueryAsynchronousEvent,
        ] {
            assert_eq!(ask(&mut bench, function, 0, 1), Code::FunctionNotSupported);
        }
        bench.send_write(2, 0);
        let (bhs, _) = bench.pdus().remove(0);
        let response = ScsiResponse::parse(&bhs).unwrap();
        assert_eq!((response.status, response.status_qualifier), (0x28, 0));
        bench.complete();
    }

    #[test]
    fn task_set_full_and_busy_say_when_to_come_again() {
        let mut bench = Bench::with("|iSCSIProtocolLevel=2", |mapping| {
            mapping.queue_depth = Some(1);
        });
        bench.send_write(1, 0);
        bench.send_write(2, 0);
        let (bhs, _) = bench.pdus().remove(0);
        let response = ScsiResponse::parse(&bhs).unwrap();
        assert_eq!((response.status, response.status_qualifier), (0x28, 1));
        bench.complete();
        let (bhs, _) = bench.pdus().remove(0);
        let response = ScsiResponse::parse(&bhs).unwrap();
        assert_eq!((response.status, response.status_qualifier), (0, 0));
    }

    // SAM-5 §7.8, §7.9.
    #[test]
    fn queries_tell_whether_a_command_is_in_the_task_set() {
        let mut bench = level_2();
        let (there, gone) = (Code::FunctionSucceeded, Code::FunctionComplete);
        assert_eq!(ask(&mut bench, Function::QueryTask, 0, 1), gone);
        assert_eq!(ask(&mut bench, Function::QueryTaskSet, 0, 0), gone);
        bench.send_write(1, 0);
        let blocked = ScsiCommand {
            attribute: TaskAttribute::Ordered,
            ..Bench::write(2, 0)
        };
        bench.send(&blocked, &[7; 512]);
        assert_eq!(ask(&mut bench, Function::QueryTask, 0, 1), there);
        assert_eq!(ask(&mut bench, Function::QueryTask, 0, 2), there);
        assert_eq!(ask(&mut bench, Function::QueryTask, 0, 3), gone);
        assert_eq!(
            ask(&mut bench, Function::QueryTask, 1, 1),
            gone,
            "of another LUN"
        );
        assert_eq!(ask(&mut bench, Function::QueryTaskSet, 0, 0), there);
        assert_eq!(ask(&mut bench, Function::QueryTaskSet, 1, 0), gone);
        for function in [
            Function::QueryTask,
            Function::QueryTaskSet,
            Function::QueryAsynchronousEvent,
        ] {
            assert_eq!(ask(&mut bench, function, 9, 1), Code::LunDoesNotExist);
        }
        bench.complete();
        bench.complete();
        assert_eq!(bench.answers().len(), 2);
        assert_eq!(ask(&mut bench, Function::QueryTask, 0, 1), gone);
    }

    /// Additional Response Information: UADE DEPTH and sense key, ASC, ASCQ.
    #[test]
    fn pending_unit_attentions_are_told_and_kept() {
        let mut bench = level_2();
        let query = |bench: &mut Bench| {
            bench.manage(77, Function::QueryAsynchronousEvent, 0, 0);
            let response = TaskManagementResponse::parse(&bench.pdus()[0].0);
            (response.response, response.additional_information)
        };
        assert_eq!(query(&mut bench), (Code::FunctionComplete, [0; 3]));
        let unit = crate::backend::UnitIndex(0);
        bench.session.raise(unit, UnitAttention::CapacityChanged);
        let one = (Code::FunctionSucceeded, [0x16, 0x2a, 0x09]);
        assert_eq!(query(&mut bench), one);
        bench.session.raise(unit, UnitAttention::LogicalUnitReset);
        assert_eq!(
            query(&mut bench),
            (Code::FunctionSucceeded, [0x26, 0x29, 0x03])
        );
        for told in [(0x06, 0x29, 0x03), (0x06, 0x2a, 0x09)] {
            bench.send(&Bench::command(5, 0, TEST_UNIT_READY, 0), &[]);
            assert_eq!(bench.answers(), [Answer::Status(5, 2, Some(told))]);
        }
        assert_eq!(query(&mut bench), (Code::FunctionComplete, [0; 3]));
    }

    /// SAM-5 §7.7: all LUNs; devices first, then what the units keep, then the answer.
    #[test]
    fn nexus_reset_ends_all_tasks_and_is_told_at_every_lun() {
        let mut bench = level_2();
        bench.send_write(1, 0);
        bench.send_write(2, 1);
        let blocked = ScsiCommand {
            attribute: TaskAttribute::Ordered,
            ..Bench::write(3, 0)
        };
        bench.send(&blocked, &[7; 512]);
        bench.manage(77, Function::ITNexusReset, 0, 0);
        bench.complete();
        assert!(bench.effects.is_empty() && bench.answers().is_empty());
        bench.complete();
        assert!(
            bench.answers().is_empty(),
            "the units have not forgotten it"
        );
        let Some(Effect::NexusReset { management, .. }) = bench.effects.pop() else {
            panic!("nobody was asked");
        };
        bench.call(|session, env| session.reset_done(env, management));
        let complete = Code::FunctionComplete;
        assert_eq!(bench.answers(), [Answer::Management(77, complete)]);
        assert!(bench.session.is_drained() && bench.requests.is_empty());
        for lun in [0, 1] {
            for told in [Some((0x06, 0x29, 0x07)), None] {
                bench.send(&Bench::command(5, lun, TEST_UNIT_READY, 0), &[]);
                let status = if told.is_some() { 2 } else { 0 };
                assert_eq!(bench.answers(), [Answer::Status(5, status, told)]);
            }
        }
    }

    /// RFC 7143 §4.2.3.3: what was sent before it on another connection comes first, and what was
    /// answered there is acknowledged.
    #[test]
    fn nexus_reset_waits_for_commands_and_statuses_of_other_connections() {
        let mut bench = level_2();
        let other = bench.attach(1);
        let ready = ScsiCommand {
            cmd_sn: bench.cmd_sn,
            ..Bench::command(1, 0, TEST_UNIT_READY, 0)
        };
        bench.send_pdu_on(other, ready.emit(), &[]);
        let (bhs, _) = bench.pdus_on(other).remove(0);
        let response = ScsiResponse::parse(&bhs).unwrap();
        assert_eq!((response.itt, response.status), (Itt(1), 0));
        let write = ScsiCommand {
            cmd_sn: ready.cmd_sn.next(),
            exp_stat_sn: response.stat_sn,
            ..Bench::write(2, 0)
        };
        bench.cmd_sn = write.cmd_sn.next();
        bench.manage(77, Function::ITNexusReset, 0, 0);
        assert!(bench.effects.is_empty() && bench.answers().is_empty());
        bench.send_pdu_on(other, write.emit(), &[7; 512]);
        assert_eq!(bench.requests.len(), 1, "it comes before the reset");
        assert!(bench.effects.is_empty(), "it is at the device");
        bench.complete();
        assert!(bench.effects.is_empty(), "a status is not acknowledged");
        let sent = bench.pdus_on(other);
        let [(ping, _)] = &sent[..] else {
            panic!("aborted commands are not answered: {sent:?}");
        };
        let ping = NopIn::parse(ping);
        let pong = NopOut {
            immediate: true,
            lun: LunField([0; 8]),
            itt: Itt::RESERVED,
            ttt: ping.ttt,
            cmd_sn: bench.cmd_sn,
            exp_stat_sn: ping.stat_sn,
        };
        bench.send_pdu_on(other, pong.emit(), &[]);
        let Some(Effect::NexusReset { management, .. }) = bench.effects.pop() else {
            panic!("nobody was asked");
        };
        assert!(bench.answers().is_empty());
        bench.call(|session, env| session.reset_done(env, management));
        let complete = Code::FunctionComplete;
        assert_eq!(bench.answers(), [Answer::Management(77, complete)]);
        assert!(bench.session.is_drained() && bench.requests.is_empty());
        assert!(bench.pdus_on(other).is_empty());
    }

    /// Where the function is unknown nothing is waited for.
    #[test]
    fn a_nexus_reset_of_level_1_is_refused_at_once() {
        let mut bench = Bench::new();
        bench.attach(1);
        bench.cmd_sn = bench.cmd_sn.next();
        let refused = Code::FunctionNotSupported;
        assert_eq!(ask(&mut bench, Function::ITNexusReset, 0, 0), refused);
    }

    /// SAM-5 §8.3: of those that may start together, the one of the highest priority is first.
    #[test]
    fn what_has_waited_starts_by_priority() {
        for (keys, order) in [
            ("|iSCSIProtocolLevel=2", [3, 5, 4, 2]),
            ("|iSCSIProtocolLevel=1", [2, 3, 4, 5]),
        ] {
            let mut bench = Bench::with(keys, |_| {});
            let ordered = ScsiCommand {
                attribute: TaskAttribute::Ordered,
                ..Bench::write(1, 0)
            };
            bench.send(&ordered, &[7; 512]);
            for (tag, priority) in [(2, 0), (3, 1), (4, 15), (5, 7)] {
                let command = ScsiCommand {
                    priority,
                    ..Bench::write(tag, 0)
                };
                bench.send(&command, &[7; 512]);
            }
            assert_eq!(bench.requests.len(), 1);
            while !bench.requests.is_empty() {
                bench.complete();
            }
            let ended: Vec<_> = [1].into_iter().chain(order).collect();
            let wanted: Vec<_> = ended
                .iter()
                .map(|tag| Answer::Status(*tag, 0, None))
                .collect();
            assert_eq!(bench.answers(), wanted, "{keys}");
        }
    }
}
