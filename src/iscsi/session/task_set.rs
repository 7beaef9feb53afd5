//! The order of the tasks of one task set (SAM-5 §8).
//!
//! The Control mode page says TST = 001b: each I_T nexus has a task set of its own at each logical
//! unit, so that one session decides alone. A task set is those tasks of one LUN of the session
//! that were delivered and have not ended. SIMPLE tasks run together; an ORDERED one waits for all
//! that came before it, and what comes after it waits for it; a HEAD OF QUEUE one starts at once,
//! and what has not started waits for it (SAM-5 §8.7).
//!
//! Tasks that wait stand in `blocked` in the order of their delivery, each in
//! [`State::Blocked`]. `about` counts them and those that others may have to wait for: while it is
//! zero, which is nearly always, a command is delivered and ends without another look.
//!
//! Invariants: `about` is the length of `blocked`, the number of tasks with `in_order`, and one
//! more if any set is limited; what stands in `blocked` and is not in [`State::Blocked`] any more
//! is passed over and forgotten.

use std::collections::VecDeque;

use crate::scsi::{AdditionalSense, Outcome, Sense, SenseKey, Status, TaskAttribute};

use super::table::{TaskId, TaskTable};
use super::task::{Ended, State, Task};
use super::{Env, Guard, IMMEDIATE_MAX, QUEUE_DEPTH_MAX, Session};

/// SAM-5 §8.7: an ACA task where there is no auto contingent allegiance.
const INVALID_MESSAGE_ERROR: AdditionalSense = AdditionalSense::new(0x49, 0x00);

/// See the module.
#[derive(Debug)]
pub(super) struct Ordering {
    about: u32,
    /// Oldest first.
    blocked: VecDeque<TaskId>,
    /// How many tasks each set may have, by LUN of the session's map; empty where none is limited.
    /// Otherwise this counts as one in `about`.
    limits: Box<[Option<u16>]>,
    /// Somebody further up starts what may start, or aborts several tasks and looks afterwards.
    busy: bool,
}

/// What is in a task set, or in a part of it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Members {
    any: bool,
    ordered: bool,
    head_of_queue: bool,
}

impl Members {
    fn add(&mut self, task: &Task) {
        self.any = true;
        self.ordered |= task.command.attribute == TaskAttribute::Ordered;
        self.head_of_queue |= task.command.attribute == TaskAttribute::HeadOfQueue;
    }

    /// Those of a set that have started and have not ended.
    fn started(tasks: &TaskTable, set: u16) -> Self {
        let mut members = Self::default();
        tasks
            .iter()
            .filter(|task| task.mapped == Some(set) && task.has_started())
            .for_each(|task| members.add(task));
        members
    }

    /// SAM-5 §8.7: whether a task may start beside these, with `before` it in the queue.
    fn admit(self, attribute: TaskAttribute, before: Self) -> bool {
        match attribute {
            TaskAttribute::HeadOfQueue => true,
            TaskAttribute::Ordered => !self.any && !before.any,
            TaskAttribute::Simple | TaskAttribute::Aca => {
                !self.ordered && !self.head_of_queue && !before.ordered
            }
        }
    }
}

impl Ordering {
    /// `limits`: how many tasks may be in each set, by LUN of the session's map.
    pub(super) fn new(limits: Box<[Option<u16>]>) -> Self {
        let limited = limits.iter().any(Option::is_some);
        Self {
            about: u32::from(limited),
            limits: if limited { limits } else { Box::default() },
            blocked: VecDeque::with_capacity(usize::from(QUEUE_DEPTH_MAX + IMMEDIATE_MAX)),
            busy: false,
        }
    }

    /// Nobody waits, and nobody has to be waited for.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.about == 0
    }

    /// From here to [`Session::resume_ordering`] with what this returns, no task is started.
    pub(super) fn suspend(&mut self) -> bool {
        std::mem::replace(&mut self.busy, true)
    }
}

impl Task {
    /// It was handed to its logical unit and has something there still.
    fn has_started(&self) -> bool {
        let delivered = !matches!(self.state, State::Arriving | State::Held | State::Blocked);
        delivered && !(self.aborted && self.is_free())
    }
}

impl Session {
    /// Whether a delivered command may start now. If not, it waits or was answered. A SIMPLE one
    /// need not ask while [`Ordering::is_idle`].
    #[cold]
    pub(super) fn enter_task_set(&mut self, env: &mut Env<'_>, id: TaskId) -> bool {
        let Some(task) = self.tasks.find(id) else {
            return false;
        };
        let attribute = task.command.attribute;
        if attribute == TaskAttribute::Aca {
            // SAM-5 §8.7: with NORMACA = 0 there never is a condition that it belongs to.
            env.data_in.clear();
            let outcome = Outcome {
                status: Status::CheckCondition,
                sense: Some(Sense::new(SenseKey::IllegalRequest, INVALID_MESSAGE_ERROR)),
            };
            self.finish(env, id.slot, outcome);
            return false;
        }
        // Where nothing is mapped there is no task set.
        let Some(set) = task.mapped else {
            return true;
        };
        if self.is_full(set) {
            // SAM-5 §5.3.1: it may be sent again.
            env.data_in.clear();
            let outcome = Outcome {
                status: Status::TaskSetFull,
                sense: None,
            };
            self.finish(env, id.slot, outcome);
            return false;
        }
        let task = self.tasks.slot(id.slot).expect("it was found");
        if attribute != TaskAttribute::Simple {
            task.in_order = true;
            self.ordering.about += 1;
        }
        let before = self.waiting_members(set);
        let may_start = Members::started(&self.tasks, set).admit(attribute, before);
        if may_start || !env.guards.hold(Guard::TaskSetOrder) {
            return true;
        }
        self.tasks.slot(id.slot).expect("it was found").state = State::Blocked;
        self.ordering.about += 1;
        self.ordering.blocked.push_back(id);
        false
    }

    /// As many commands as a task set may have are in it.
    fn is_full(&self, set: u16) -> bool {
        let Some(limit) = self
            .ordering
            .limits
            .get(usize::from(set))
            .copied()
            .flatten()
        else {
            return false;
        };
        let members = self.tasks.iter().filter(|task| {
            let in_set = task.has_started() || task.state == State::Blocked;
            in_set && task.mapped == Some(set)
        });
        members.count() >= usize::from(limit)
    }

    fn waiting_members(&mut self, set: u16) -> Members {
        let mut members = Members::default();
        for id in &self.ordering.blocked {
            let task = self.tasks.find(*id).filter(|task| waits_in(task, set));
            if let Some(task) = task {
                members.add(task);
            }
        }
        members
    }

    /// A delivered task is gone and its answer, if it gets one, is queued.
    #[inline]
    pub(super) fn leave_task_set(&mut self, env: &mut Env<'_>, task: &Ended) {
        if !self.ordering.is_idle() {
            self.left(env, task);
        }
    }

    #[cold]
    fn left(&mut self, env: &mut Env<'_>, task: &Ended) {
        if task.in_order {
            self.ordering.about -= 1;
        }
        if !self.ordering.busy && !self.ordering.blocked.is_empty() {
            self.ordering.busy = true;
            if let Some(set) = task.mapped {
                while self.start_next(env, set) {}
            }
            self.ordering.busy = false;
        }
    }

    /// The counterpart of [`Ordering::suspend`]: starts what may start now.
    pub(super) fn resume_ordering(&mut self, env: &mut Env<'_>, was_busy: bool) {
        if was_busy || self.ordering.blocked.is_empty() {
            self.ordering.busy = was_busy;
            return;
        }
        let mut sets: Vec<_> = self.tasks.iter().filter_map(|task| task.mapped).collect();
        sets.sort_unstable();
        sets.dedup();
        for set in sets {
            while self.start_next(env, set) {}
        }
        self.forget_gone();
        self.ordering.busy = false;
    }

    /// Starts the first task of a set that waits and need not any more, by priority and then by age
    /// (SAM-5 §8.3). `false`: there is none.
    fn start_next(&mut self, env: &mut Env<'_>, set: u16) -> bool {
        self.forget_gone();
        let started = Members::started(&self.tasks, set);
        let mut before = Members::default();
        let mut next: Option<(u8, usize, TaskId)> = None;
        for at in 0..self.ordering.blocked.len() {
            let id = self.ordering.blocked[at];
            let Some(task) = self.tasks.find(id).filter(|task| waits_in(task, set)) else {
                continue;
            };
            if started.admit(task.command.attribute, before) {
                // Zero is no priority: wrapped, it is behind all others.
                let rank = task.priority.wrapping_sub(1);
                if next.is_none_or(|(best, ..)| rank < best) {
                    next = Some((rank, at, id));
                }
            }
            before.add(task);
        }
        let Some((_, at, id)) = next else {
            return false;
        };
        self.ordering.blocked.remove(at);
        self.ordering.about -= 1;
        self.start(env, id);
        true
    }

    /// Strikes those that were aborted while they waited.
    fn forget_gone(&mut self) {
        let before = self.ordering.blocked.len();
        let tasks = &mut self.tasks;
        self.ordering.blocked.retain(|id| {
            tasks
                .find(*id)
                .is_some_and(|task| task.state == State::Blocked)
        });
        let gone = before - self.ordering.blocked.len();
        self.ordering.about -= u32::try_from(gone).expect("bounded by the task table");
    }
}

fn waits_in(task: &Task, set: u16) -> bool {
    task.state == State::Blocked && task.mapped == Some(set)
}

#[cfg(test)]
mod tests {
    use super::super::bench::{Answer, Bench};
    use super::*;
    use crate::pdu::ScsiCommand;
    use TaskAttribute::{HeadOfQueue, Ordered, Simple};

    const NOBODY: Members = Members {
        any: false,
        ordered: false,
        head_of_queue: false,
    };

    fn members(attributes: &[TaskAttribute]) -> Members {
        Members {
            any: !attributes.is_empty(),
            ordered: attributes.contains(&Ordered),
            head_of_queue: attributes.contains(&HeadOfQueue),
        }
    }

    // SAM-5 §8.7: every pair of who runs and who comes.
    #[test]
    fn who_may_start_beside_whom() {
        for (started, attribute, may) in [
            (&[][..], Simple, true),
            (&[], Ordered, true),
            (&[], HeadOfQueue, true),
            (&[Simple], Simple, true),
            (&[Simple], Ordered, false),
            (&[Simple], HeadOfQueue, true),
            (&[Ordered], Simple, false),
            (&[Ordered], Ordered, false),
            (&[Ordered], HeadOfQueue, true),
            (&[HeadOfQueue], Simple, false),
            (&[HeadOfQueue], Ordered, false),
            (&[HeadOfQueue], HeadOfQueue, true),
        ] {
            let may_start = members(started).admit(attribute, NOBODY);
            assert_eq!(may_start, may, "{attribute:?} beside {started:?}");
        }
    }

    #[test]
    fn who_may_start_past_whom() {
        for (before, attribute, may) in [
            (&[Simple][..], Simple, true),
            (&[Simple], Ordered, false),
            (&[Ordered], Simple, false),
            (&[Simple, Ordered], Simple, false),
            (&[Ordered], HeadOfQueue, true),
        ] {
            let may_start = NOBODY.admit(attribute, members(before));
            assert_eq!(may_start, may, "{attribute:?} past {before:?}");
        }
    }

    /// SAM-5 §5.3.1: a task set that is full takes no more, whatever the attribute, and other task
    /// sets do.
    #[test]
    fn one_command_more_than_the_queue_depth_gets_task_set_full() {
        let mut bench = Bench::with("", |mapping| {
            mapping.queue_depth = (mapping.lun == 0).then_some(3);
        });
        bench.send_write(1, 0);
        let waits = ScsiCommand {
            attribute: crate::pdu::TaskAttribute::Ordered,
            ..Bench::write(2, 0)
        };
        bench.send(&waits, &[7; 512]);
        bench.send_write(3, 0);
        assert_eq!(bench.answers(), []);
        let first = ScsiCommand {
            attribute: crate::pdu::TaskAttribute::HeadOfQueue,
            ..Bench::write(4, 0)
        };
        for (command, tag) in [(first, 4), (Bench::write(5, 0), 5)] {
            bench.send(&command, &[7; 512]);
            assert_eq!(bench.answers(), [Answer::Status(tag, 0x28, None)]);
        }
        for tag in 10..40 {
            bench.send_write(tag, 1);
        }
        bench.complete();
        assert_eq!(bench.answers(), [Answer::Status(1, 0, None)]);
        bench.send_write(6, 0);
        assert_eq!(bench.answers(), [], "there is room for one");
        bench.send_write(7, 0);
        assert_eq!(bench.answers(), [Answer::Status(7, 0x28, None)]);
        while !bench.requests.is_empty() {
            bench.complete();
        }
        assert_eq!(bench.answers().len(), 30 + 3);
        assert!(bench.session.is_drained() && !bench.session.ordering.is_idle());
    }

    #[test]
    fn nothing_is_looked_up_for_simple_commands_without_limits() {
        let mut bench = Bench::new();
        bench.send_write(1, 0);
        bench.send_write(2, 0);
        assert!(bench.session.ordering.is_idle());
        let ordered = ScsiCommand {
            attribute: crate::pdu::TaskAttribute::Ordered,
            ..Bench::write(3, 0)
        };
        bench.send(&ordered, &[7; 512]);
        bench.send_write(4, 0);
        assert!(!bench.session.ordering.is_idle());
        while !bench.requests.is_empty() {
            bench.complete();
        }
        let tags = [1, 2, 3, 4].map(|tag| Answer::Status(tag, 0, None));
        assert_eq!(bench.answers(), tags);
        assert!(bench.session.ordering.is_idle());
    }
}
