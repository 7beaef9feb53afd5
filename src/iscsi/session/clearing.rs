//! Tasks that are aborted by something else than a task management request of this session:
//! overlapped commands, QERR, and what other nexuses do (SAM-5 §5.11, SPC-4 Control mode page).
//!
//! A command whose CHECK CONDITION aborts others is answered when all that was aborted has left
//! the devices, so that nothing of it reaches the medium after the answer.

use crate::backend::UnitIndex;
use crate::scsi::{Qerr, UnitAttention};

use super::table::TaskId;
use super::task::{State, Task};
use super::{Env, Session};

impl Session {
    /// The command `id` came with a tag that is in use: everything in the task sets that the two
    /// belong to is aborted (SAM-5 §5.11). Commands that wait for a lower CmdSN are in no task set
    /// yet.
    pub(super) fn abort_overlapped(&mut self, env: &mut Env<'_>, id: TaskId) {
        let Some(task) = self.tasks.find(id) else {
            return;
        };
        let (itt, set) = (task.itt, task.mapped);
        let is_older = |task: &Task| task.itt == itt && task.id != id;
        let older = self.tasks.iter().find(|task| is_older(task));
        let sets = [set, older.and_then(|task| task.mapped)];
        let suspended = self.ordering.suspend();
        for slot in 0..self.tasks.capacity() {
            let Some(task) = self.tasks.slot(slot).filter(|task| task.id != id) else {
                continue;
            };
            let is_older = is_older(task);
            let of_set = task.mapped.is_some() && sets.contains(&task.mapped);
            let waits = matches!(task.state, State::Arriving | State::Held);
            if is_older || (of_set && !waits) {
                self.abort_silently(env, slot);
            }
            if is_older && self.tasks.slot(slot).is_some() {
                self.tasks.forget_tag(slot);
            }
        }
        self.resume_ordering(env, suspended);
    }

    /// Ends a task without an answer and without data that its peer may still send.
    fn abort_silently(&mut self, env: &mut Env<'_>, slot: u16) {
        if let Some(task) = self.tasks.slot(slot) {
            if task.state == State::Arriving {
                // It is being received on another connection.
                self.abort_undelivered(env, slot);
                return;
            }
            task.tells_aborted = false;
            self.abort(env, slot, None);
            self.let_go_of_peer(env, slot);
        }
    }

    /// A command ends with CHECK CONDITION: aborts what that aborts, and says whether the answer
    /// has to wait for it. One that waits for the end of its data comes here again then.
    #[cold]
    pub(super) fn clears_first(&mut self, env: &mut Env<'_>, slot: u16) -> bool {
        let task = self.tasks.slot(slot).expect("callers have found it");
        if task.data_out.open() {
            return false;
        }
        let (id, set) = (task.id, task.mapped);
        if !task.clears && self.qerr(env, set) != Qerr::Continue {
            let task = self.tasks.slot(slot).expect("still there");
            task.clears = true;
            let suspended = self.ordering.suspend();
            for slot in 0..self.tasks.capacity() {
                let other = self.tasks.slot(slot).filter(|task| {
                    let spared =
                        matches!(task.state, State::Arriving | State::Held | State::Clearing);
                    task.id != id && task.mapped == set && !spared
                });
                if other.is_some() {
                    self.abort_silently(env, slot);
                }
            }
            self.resume_ordering(env, suspended);
        }
        let clears = self.tasks.find(id).is_some_and(|task| task.clears);
        clears && self.is_clearing()
    }

    fn qerr(&self, env: &Env<'_>, set: Option<u16>) -> Qerr {
        let unit = set.and_then(|set| self.luns.get(usize::from(set)));
        let unit = unit.and_then(|lun| env.units.get(usize::from(lun.unit.0)));
        unit.map_or(Qerr::Continue, crate::scsi::LogicalUnit::qerr)
    }

    /// Something that was aborted is at a device, or at another core.
    fn is_clearing(&self) -> bool {
        let mut tasks = self.tasks.iter();
        tasks.any(|task| task.aborted && !task.is_free())
    }

    /// Answers those that waited for what they have aborted.
    pub(super) fn answer_cleared(&mut self, env: &mut Env<'_>) {
        if self.is_clearing() {
            return;
        }
        for slot in 0..self.tasks.capacity() {
            let Some(task) = self.tasks.slot(slot) else {
                continue;
            };
            if task.state == State::Clearing
                && !task.aborted
                && let Some(verdict) = task.verdict.take()
            {
                env.data_in.clear();
                self.finish(env, slot, verdict);
            }
        }
    }

    /// Another nexus has aborted what this one has at a unit. Only what was delivered is reached
    /// (RFC 7143 §4.2.3.3: on a third party's session, the tasks that there are). `true`: there was
    /// something, and it is not answered (TAS = 0). The task `except` is spared.
    fn abort_by_other_silently(
        &mut self,
        env: &mut Env<'_>,
        unit: UnitIndex,
        except: Option<TaskId>,
    ) -> bool {
        let replica = env.units.get(usize::from(unit.0));
        let tells = replica.is_some_and(crate::scsi::LogicalUnit::tas);
        let mut silent = false;
        let suspended = self.ordering.suspend();
        for slot in 0..self.tasks.capacity() {
            if self.unit_of(slot) != Some(unit) {
                continue;
            }
            let Some(task) = self.tasks.slot(slot) else {
                continue;
            };
            if Some(task.id) == except || matches!(task.state, State::Arriving | State::Held) {
                continue;
            }
            if tells && !task.aborted {
                task.tells_aborted = true;
            }
            silent |= !tells && !task.aborted;
            self.abort(env, slot, None);
        }
        self.abort_copies_at(env, unit, None, None);
        self.resume_ordering(env, suspended);
        silent
    }

    /// A reset that another nexus asked for: its own unit attention tells this one.
    pub(super) fn abort_by_other(&mut self, env: &mut Env<'_>, unit: UnitIndex) {
        self.abort_by_other_silently(env, unit, None);
    }

    /// PREEMPT AND ABORT of another nexus: what this one has at the unit is aborted, and it is told
    /// by TASK ABORTED for each command (TAS = 1) or by a unit attention (SAM-5 §5.6).
    pub(super) fn clear_by_other(
        &mut self,
        env: &mut Env<'_>,
        unit: UnitIndex,
        except: Option<TaskId>,
    ) {
        if self.abort_by_other_silently(env, unit, except) {
            self.raise(unit, UnitAttention::CommandsCleared);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::{Answer, Bench};
    use super::*;
    use crate::pdu::{TaskAttribute, TaskManagementFunction, TaskManagementResponseCode};

    const OVERLAPPED: Option<(u8, u8, u8)> = Some((0x0b, 0x4e, 0x00));
    const COMPLETE: TaskManagementResponseCode = TaskManagementResponseCode::FunctionComplete;
    const TEST_UNIT_READY: [u8; 16] = [0; 16];

    fn unknown_command(itt: u32) -> crate::pdu::ScsiCommand {
        let mut cdb = [0; 16];
        cdb[0] = 0xee;
        Bench::command(itt, 0, cdb, 0)
    }

    #[test]
    fn a_tag_that_comes_again_aborts_the_task_set_and_is_answered_behind_it() {
        let mut bench = Bench::new();
        bench.send_write(1, 0);
        bench.send_write(2, 0);
        bench.send_write(3, 1);
        let ordered = crate::pdu::ScsiCommand {
            attribute: TaskAttribute::Ordered,
            ..Bench::write(4, 0)
        };
        bench.send(&ordered, &[7; 512]);
        assert_eq!(bench.requests.len(), 3);
        bench.send_write(2, 0);
        assert_eq!(
            bench.answers(),
            [],
            "two of the aborted ones are at the device"
        );
        bench.complete();
        assert_eq!(bench.answers(), []);
        bench.complete();
        assert_eq!(bench.answers(), [Answer::Status(2, 2, OVERLAPPED)]);
        // Another LUN's task set is not touched, and the tag is free again.
        bench.complete();
        assert_eq!(bench.answers(), [Answer::Status(3, 0, None)]);
        bench.send_write(2, 0);
        bench.complete();
        assert_eq!(bench.answers(), [Answer::Status(2, 0, None)]);
        assert!(bench.session.is_drained());
    }

    #[test]
    fn a_tag_that_comes_again_at_another_lun_aborts_both_task_sets() {
        let mut bench = Bench::new();
        bench.send_write(1, 0);
        bench.send_write(2, 1);
        bench.send_write(1, 1);
        bench.complete();
        bench.complete();
        assert_eq!(bench.answers(), [Answer::Status(1, 2, OVERLAPPED)]);
    }

    #[test]
    fn a_tag_that_comes_a_third_time_aborts_the_second() {
        let mut bench = Bench::new();
        bench.send_write(1, 0);
        bench.send_write(1, 0);
        bench.send_write(1, 0);
        bench.complete();
        assert_eq!(bench.answers(), [Answer::Status(1, 2, OVERLAPPED)]);
        assert!(bench.session.is_drained());
    }

    /// What the older one was asked for goes nowhere, and the younger one is not kept waiting.
    #[test]
    fn an_overlapped_write_that_owed_data_is_let_go() {
        let mut bench = Bench::new();
        let owes = Bench::write(1, 0);
        bench.send(&owes, &[]);
        assert_eq!(bench.pdus().len(), 1, "an R2T");
        bench.send_write(1, 0);
        assert_eq!(bench.answers(), [Answer::Status(1, 2, OVERLAPPED)]);
        assert!(bench.session.is_drained() && bench.requests.is_empty());
    }

    #[test]
    fn an_immediate_command_overlaps_too() {
        let mut bench = Bench::new();
        bench.send_write(1, 0);
        let again = crate::pdu::ScsiCommand {
            immediate: true,
            ..Bench::command(1, 0, TEST_UNIT_READY, 0)
        };
        bench.send(&again, &[]);
        assert_eq!(bench.answers(), []);
        bench.complete();
        assert_eq!(bench.answers(), [Answer::Status(1, 2, OVERLAPPED)]);
    }

    /// SPC-4, QERR = 01b and 11b.
    #[test]
    fn qerr_aborts_the_task_set_on_check_condition() {
        for qerr in [Qerr::AbortTaskSet, Qerr::AbortNexus] {
            let mut bench = Bench::new();
            bench.units[0].set_task_control(false, qerr);
            bench.send_write(1, 0);
            bench.send_write(2, 1);
            bench.send(&unknown_command(3), &[]);
            assert_eq!(bench.answers(), [], "{qerr:?}: the first is at the device");
            bench.complete();
            let told = Some((0x05, 0x20, 0x00));
            assert_eq!(bench.answers(), [Answer::Status(3, 2, told)]);
            bench.complete();
            assert_eq!(bench.answers(), [Answer::Status(2, 0, None)]);
            assert!(bench.session.is_drained());
        }
    }

    #[test]
    fn without_qerr_the_others_go_on() {
        let mut bench = Bench::new();
        bench.send_write(1, 0);
        bench.send(&unknown_command(2), &[]);
        let told = Some((0x05, 0x20, 0x00));
        assert_eq!(bench.answers(), [Answer::Status(2, 2, told)]);
        bench.complete();
        assert_eq!(bench.answers(), [Answer::Status(1, 0, None)]);
    }

    /// Two that fail while a third is at the device: both are answered.
    #[test]
    fn commands_that_fail_together_under_qerr_are_all_answered() {
        let mut bench = Bench::new();
        bench.units[0].set_task_control(false, Qerr::AbortTaskSet);
        bench.send_write(1, 0);
        bench.send(&unknown_command(2), &[]);
        bench.send(&unknown_command(3), &[]);
        bench.complete();
        let told = Some((0x05, 0x20, 0x00));
        let wanted = [Answer::Status(2, 2, told), Answer::Status(3, 2, told)];
        assert_eq!(bench.answers(), wanted);
        assert!(bench.session.is_drained());
    }

    fn reset_by_other(bench: &mut Bench) {
        let scope = super::super::ResetScope {
            units: vec![UnitIndex(0)],
            condition: UnitAttention::LogicalUnitReset,
            close_sessions_of: None,
        };
        bench.call(|session, env| session.reset_by_other(env, &scope));
    }

    /// SPC-4, TAS: what another nexus aborts ends with TASK ABORTED, or without a word.
    #[test]
    fn tas_tells_of_tasks_that_another_nexus_aborts() {
        for tas in [true, false] {
            let mut bench = Bench::new();
            bench.units[0].set_task_control(tas, Qerr::Continue);
            bench.send_write(1, 0);
            let ordered = crate::pdu::ScsiCommand {
                attribute: TaskAttribute::Ordered,
                ..Bench::write(2, 0)
            };
            bench.send(&ordered, &[7; 512]);
            bench.send_write(3, 1);
            reset_by_other(&mut bench);
            let at_once = bench.answers();
            bench.complete();
            let then = bench.answers();
            if tas {
                assert_eq!(at_once, [Answer::Status(2, 0x40, None)]);
                assert_eq!(
                    then,
                    [Answer::Status(1, 0x40, None)],
                    "it has left the device"
                );
            } else {
                assert_eq!((at_once, then), (vec![], vec![]));
            }
            bench.complete();
            assert_eq!(bench.answers(), [Answer::Status(3, 0, None)]);
            bench.send(&Bench::command(4, 0, TEST_UNIT_READY, 0), &[]);
            let reset = Some((0x06, 0x29, 0x03));
            assert_eq!(bench.answers(), [Answer::Status(4, 2, reset)]);
        }
    }

    /// One's own ABORT TASK is the last word on a task, whatever another nexus did to it before.
    #[test]
    fn a_task_that_its_own_nexus_aborts_is_not_told_of() {
        let mut bench = Bench::new();
        bench.units[0].set_task_control(true, Qerr::Continue);
        bench.send_write(1, 0);
        reset_by_other(&mut bench);
        bench.manage(9, TaskManagementFunction::AbortTask, 0, 1);
        bench.complete();
        assert_eq!(bench.answers(), [Answer::Management(9, COMPLETE)]);
    }

    /// SAM-5 §5.6: commands that another nexus cleared without a reset.
    #[test]
    fn cleared_commands_are_told_by_status_or_by_unit_attention() {
        let cleared = Some((0x06, 0x2f, 0x00));
        for tas in [true, false] {
            let mut bench = Bench::new();
            bench.units[0].set_task_control(tas, Qerr::Continue);
            bench.send_write(1, 0);
            bench.call(|session, env| session.clear_by_other(env, UnitIndex(0), None));
            bench.complete();
            bench.send(&Bench::command(4, 0, TEST_UNIT_READY, 0), &[]);
            let wanted = if tas {
                vec![Answer::Status(1, 0x40, None), Answer::Status(4, 0, None)]
            } else {
                vec![Answer::Status(4, 2, cleared)]
            };
            assert_eq!(bench.answers(), wanted);
            // Where there was nothing to clear there is nothing to tell.
            bench.call(|session, env| session.clear_by_other(env, UnitIndex(0), None));
            bench.send(&Bench::command(5, 0, TEST_UNIT_READY, 0), &[]);
            assert_eq!(bench.answers(), [Answer::Status(5, 0, None)]);
        }
    }
}
