//! A logical unit's home core: it decides about every change of the unit, one at a time.
//!
//! ```text
//! task ─► Ask ─► home: decide ─► (control thread: write to disk) ─► barrier over all cores ─► task
//! ```
//!
//! The home of a unit follows from its index. A change begins when the one before it is known on
//! every core, so `decide` sees all of them, and a change that was answered is obeyed everywhere.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Reactor;
use super::freeze::Freezes;
use super::job::Running;
use super::message::{self, Ask, Asker, Owner, ToControl, ToCore, Wish, Work};
use crate::backend::UnitIndex;
use crate::control::directory::Core;
use crate::iscsi::session::{Guard, SessionIndex, TaskId};
use crate::scsi::sense::{AdditionalSense, Sense, SenseKey};
use crate::scsi::{Change, Decision, Nexus, Outcome, Status, Whom};

/// What a home knows of one of its units. Each task and each reset asks once at a time. Of news
/// the latest of each kind stands in the queue, but for what becomes of a device: each of those
/// does, and one comes in a second at most.
#[derive(Debug, Default)]
pub(super) struct Home {
    queue: VecDeque<Ask>,
    deciding: Option<Deciding>,
    pub(super) freezes: Freezes,
    /// What it does on its own.
    pub(super) job: Option<Running>,
    /// How its last job ended.
    pub(super) last_job: Option<Result<(), Outcome>>,
}

/// A decision on its way to all cores.
#[derive(Debug)]
struct Deciding {
    asker: Asker,
    decision: Arc<Decision>,
}

/// A reset that waits until the homes of its units have undone what does not survive it.
#[derive(Debug)]
pub(super) struct PendingReset {
    id: u64,
    missing: usize,
    session: SessionIndex,
    tsih: u16,
    management: u32,
}

impl Reactor {
    /// The core that decides about a unit.
    pub(super) fn home_of(&self, unit: UnitIndex) -> Core {
        message::home(unit, self.cores.len())
    }

    /// Sends a message to a unit's home, which may be this core.
    pub(super) fn send_to(&mut self, core: Core, message: ToCore) {
        if core == self.core {
            self.local.push_back(message);
        } else {
            self.cores[core].send(message);
        }
    }

    /// Asks a unit's home for a change.
    pub(super) fn ask(&mut self, unit: UnitIndex, asker: Asker, change: Change, by: Arc<Nexus>) {
        let wish = Wish::Change { change, by };
        let ask = Box::new(Ask { asker, wish });
        self.send_to(self.home_of(unit), ToCore::Asked { unit, ask });
    }

    /// A task of a session here asks.
    pub(super) fn ask_for_task(
        &mut self,
        (session, task): (SessionIndex, TaskId),
        unit: UnitIndex,
        change: Change,
        by: Arc<Nexus>,
    ) {
        let core = self.core;
        let owner = Owner {
            core,
            session,
            task,
        };
        self.ask(unit, Asker::Task(owner), change, by);
    }

    /// This core is the unit's home, and somebody asks.
    pub(super) fn asked(&mut self, unit: UnitIndex, ask: Ask) {
        let home = &mut self.homes[usize::from(unit.0)];
        if home.deciding.is_none() {
            // Nothing waits then.
            return self.decide(unit, ask);
        }
        if let Wish::News(news) = &ask.wish {
            // Later news of a kind are all that counts.
            let is_older =
                |other: &Ask| matches!(&other.wish, Wish::News(old) if old.replaced_by(news));
            home.queue.retain(|other| !is_older(other));
        }
        home.queue.push_back(ask);
    }

    /// Begins the next change of a unit, unless one is under way.
    fn decide_next(&mut self, unit: UnitIndex) {
        let at = usize::from(unit.0);
        while self.homes[at].deciding.is_none()
            && let Some(ask) = self.homes[at].queue.pop_front()
        {
            self.decide(unit, ask);
        }
    }

    /// Begins a change of a unit, of which none is under way. What changes nothing costs nothing.
    fn decide(&mut self, unit: UnitIndex, Ask { asker, wish }: Ask) {
        let at = usize::from(unit.0);
        let replica = &self.lent.units[at];
        let decided = match &wish {
            Wish::Change { change, by } => replica.decide(change, by),
            Wish::News(news) => Ok(replica.decide_news(news)),
        };
        let decision = match decided {
            Ok(decision) if decision.is_nothing() => return self.answer(asker, Ok(())),
            Ok(decision) => decision,
            Err(outcome) => return self.answer(asker, Err(outcome)),
        };
        let save = decision.save;
        let decision = Arc::new(decision);
        self.homes[at].deciding = Some(Deciding {
            asker,
            decision: Arc::clone(&decision),
        });
        if save {
            let mut after = self.lent.units[at].clone();
            if let Some(update) = &decision.update {
                after.apply(update);
            }
            self.control.send(ToControl::Save {
                unit,
                core: self.core,
                state: Box::new(after.non_volatile().clone()),
            });
        } else {
            self.replicate(unit, asker, decision);
        }
    }

    /// What the change that is being decided leaves is on disk, or cannot be.
    pub(super) fn saved(&mut self, unit: UnitIndex, saved: bool) {
        let home = &mut self.homes[usize::from(unit.0)];
        let Some(Deciding { asker, decision }) = home.deciding.take() else {
            unreachable!("only what is being decided is saved");
        };
        if saved {
            home.deciding = Some(Deciding {
                asker,
                decision: Arc::clone(&decision),
            });
            self.replicate(unit, asker, decision);
        } else {
            self.answer(asker, Err(NOT_SAVED));
            self.decide_next(unit);
        }
    }

    fn replicate(&mut self, unit: UnitIndex, asker: Asker, decision: Arc<Decision>) {
        self.drop_aborted_asks(unit, asker, &decision);
        let work = Work::Decided {
            unit,
            decision,
            asker,
        };
        self.begin_decided(unit, work);
    }

    /// Tasks that a decision aborts may stand in the queue behind it: they must not take effect
    /// after it.
    fn drop_aborted_asks(&mut self, unit: UnitIndex, asker: Asker, decision: &Decision) {
        let queue = &mut self.homes[usize::from(unit.0)].queue;
        if queue.is_empty() || matches!(decision.abort, Whom::Nobody) {
            return;
        }
        let (dropped, kept): (Vec<_>, _) = std::mem::take(queue).into_iter().partition(|ask| {
            let by = match (&ask.asker, &ask.wish) {
                (Asker::Task(_), Wish::Change { by, .. }) if ask.asker != asker => by,
                _ => return false,
            };
            decision.abort.includes(by)
        });
        *queue = kept.into();
        for ask in dropped {
            self.answer(ask.asker, Err(Outcome::busy()));
        }
    }

    /// Every core has applied what was decided.
    pub(super) fn decided(&mut self, unit: UnitIndex) {
        let home = &mut self.homes[usize::from(unit.0)];
        let Some(Deciding { asker, decision }) = home.deciding.take() else {
            unreachable!("one change of a unit is decided at a time");
        };
        // Those that were on their way when their tasks were aborted: each core's come before its
        // acknowledgement.
        self.drop_aborted_asks(unit, asker, &decision);
        if let Some(what) = &decision.job {
            self.begin_job(unit, what);
        }
        self.answer(asker, Ok(()));
        self.decide_next(unit);
    }

    /// Applies a decision here: this core's replica, then its sessions.
    pub(super) fn apply_decision(&mut self, unit: UnitIndex, decision: &Decision, asker: Asker) {
        let home = self.home_of(unit) == self.core;
        if !home && !self.lent.guards.hold(Guard::EveryReplicaApplies) {
            return;
        }
        if let Some(update) = &decision.update {
            self.lent.units[usize::from(unit.0)].apply(update);
        }
        for at in 0..self.sessions.len() {
            let index = SessionIndex(u16::try_from(at).expect("a table of u16"));
            let Some(entry) = self.sessions[at].as_mut() else {
                continue;
            };
            let asking = match asker {
                Asker::Task(owner) if owner.core == self.core && owner.session == index => {
                    Some(owner.task)
                }
                _ => None,
            };
            entry
                .session
                .decided(&mut self.lent.env(), unit, decision, asking);
            self.after_session(index);
        }
    }

    fn answer(&mut self, asker: Asker, result: Result<(), Outcome>) {
        let core = match asker {
            Asker::Task(owner) => owner.core,
            Asker::Reset { core, .. } => core,
            Asker::Job(_) => self.core,
            Asker::None => return,
        };
        self.send_to(core, ToCore::Answered { asker, result });
    }

    /// A home has answered something of this core.
    pub(super) fn answered(&mut self, asker: Asker, result: Result<(), Outcome>) {
        match asker {
            Asker::Task(Owner { session, task, .. }) => {
                if let Some(entry) = self.sessions[usize::from(session.0)].as_mut() {
                    entry.session.changed(&mut self.lent.env(), task, result);
                    self.after_session(session);
                }
            }
            Asker::Reset { id, .. } => self.unit_was_reset(id),
            Asker::Job(unit) => self.job_end_decided(unit, result),
            Asker::None => {}
        }
    }

    /// Every core has aborted what a reset aborts: now the units forget what does not survive it.
    pub(super) fn reset_units(
        &mut self,
        units: &[UnitIndex],
        by: &Arc<Nexus>,
        key: (SessionIndex, u16, u32),
    ) {
        self.undo(units, by, || Change::Reset, key);
    }

    /// A session has aborted all that it had: now the units forget what belongs to its nexus, as if
    /// that were lost (SAM-5 §6.3.4).
    pub(super) fn reset_nexus(
        &mut self,
        (session, by): (SessionIndex, Arc<Nexus>),
        management: u32,
    ) {
        let Some(tsih) = self.tsih_of(session, &by) else {
            return;
        };
        let entry = self.entry(session).expect("it has just been found");
        let mut units: Vec<_> = entry.session.units().collect();
        units.sort_unstable();
        units.dedup();
        units.retain(|unit| {
            let replica = self.lent.units.get(usize::from(unit.0));
            replica.is_some_and(|replica| replica.holds_for(&by))
        });
        self.undo(
            &units,
            &by,
            || Change::NexusLost,
            (session, tsih, management),
        );
    }

    fn undo(
        &mut self,
        units: &[UnitIndex],
        by: &Arc<Nexus>,
        change: fn() -> Change,
        (session, tsih, management): (SessionIndex, u16, u32),
    ) {
        self.next_barrier += 1;
        let id = self.next_barrier;
        self.resets.push(PendingReset {
            id,
            missing: units.len() + 1,
            session,
            tsih,
            management,
        });
        let core = self.core;
        for unit in units {
            self.ask(*unit, Asker::Reset { core, id }, change(), Arc::clone(by));
        }
        // The one that was counted for none at all.
        self.unit_was_reset(id);
    }

    fn unit_was_reset(&mut self, id: u64) {
        let Some(at) = self.resets.iter().position(|reset| reset.id == id) else {
            return;
        };
        self.resets[at].missing -= 1;
        if self.resets[at].missing > 0 {
            return;
        }
        let reset = self.resets.remove(at);
        let index = usize::from(reset.session.0);
        if let Some(entry) = self.sessions[index].as_mut()
            && entry.tsih == reset.tsih
        {
            entry
                .session
                .reset_done(&mut self.lent.env(), reset.management);
            self.after_session(reset.session);
        }
    }

    /// A session is gone: units that hold something for its nexus let go of it.
    pub(super) fn nexus_lost(&mut self, units: &[UnitIndex], i_t: &Arc<Nexus>) {
        for unit in units {
            let replica = self.lent.units.get(usize::from(unit.0));
            if replica.is_some_and(|replica| replica.holds_for(i_t)) {
                self.ask(*unit, Asker::None, Change::NexusLost, Arc::clone(i_t));
            }
        }
    }
}

/// What must survive a restart could not be written.
const NOT_SAVED: Outcome = Outcome {
    status: Status::CheckCondition,
    sense: Some(Sense::new(
        SenseKey::HardwareError,
        AdditionalSense::INTERNAL_TARGET_FAILURE,
    )),
};
