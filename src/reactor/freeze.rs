//! Range freeze: while a task reads, compares and writes blocks, nobody else changes them.
//!
//! ```text
//! task ─► home: one freeze of a range at a time ─► every core: holds what would change it, waits
//!         for what is at a device already ─► home ─► task … task ends ─► home ─► every core
//! ```
//!
//! What is held is held at submission: it has its data and its buffers, and no freeze, so it never
//! keeps another task from finishing. No task holds one freeze while it asks for another.

use std::collections::VecDeque;

use super::Reactor;
use super::message::{Freeze, Owner, ToCore};
use crate::backend::{Completion, IoError, Operation, Request, UnitIndex};
use crate::iscsi::session::{self, Guard, SessionIndex, TaskId};

/// The freezes of a unit, kept by its home. One for each task at most, which bounds both lists.
#[derive(Debug, Default)]
pub(super) struct Freezes {
    /// No two overlap.
    active: Vec<Active>,
    /// Oldest first.
    waiting: VecDeque<Freeze>,
}

#[derive(Debug)]
struct Active {
    freeze: Freeze,
    /// Cores that have not acknowledged.
    missing: usize,
}

/// A freeze as each core knows it.
#[derive(Debug)]
pub(super) struct Held {
    freeze: Freeze,
    /// What must leave the device before this core acknowledges.
    waits_for: Vec<(SessionIndex, TaskId)>,
    acknowledged: bool,
}

impl Reactor {
    /// A session asks for a freeze.
    pub(super) fn ask_to_freeze(&mut self, freeze: Freeze) {
        self.send_to(self.home_of(freeze.unit), ToCore::FreezeAsked { freeze });
    }

    /// A session has finished with it.
    pub(super) fn ask_to_thaw(&mut self, unit: UnitIndex, owner: Owner) {
        self.send_to(self.home_of(unit), ToCore::ThawAsked { unit, owner });
    }

    /// This core is the unit's home.
    pub(super) fn freeze_asked(&mut self, freeze: Freeze) {
        let home = &mut self.homes[usize::from(freeze.unit.0)].freezes;
        home.waiting.push_back(freeze);
        self.grant_freezes(freeze.unit);
    }

    /// Begins every freeze that overlaps none that is active nor an older one that waits.
    fn grant_freezes(&mut self, unit: UnitIndex) {
        let home = &mut self.homes[usize::from(unit.0)].freezes;
        let mut begun = Vec::new();
        let mut at = 0;
        while at < home.waiting.len() {
            let freeze = home.waiting[at];
            let (lba, blocks) = (freeze.lba, freeze.blocks);
            let mut before = home.active.iter().map(|active| &active.freeze);
            let waits = before.any(|active| active.overlaps(unit, lba, blocks))
                || home
                    .waiting
                    .range(..at)
                    .any(|older| older.overlaps(unit, lba, blocks));
            if waits {
                at += 1;
                continue;
            }
            home.waiting.remove(at);
            home.active.push(Active {
                freeze,
                missing: self.cores.len(),
            });
            begun.push(freeze);
        }
        for freeze in begun {
            for core in 0..self.cores.len() {
                self.send_to(core, ToCore::Freeze { freeze });
            }
        }
    }

    /// Holds what would change these blocks from now on.
    pub(super) fn freeze(&mut self, freeze: Freeze) {
        let Freeze {
            unit,
            lba,
            blocks,
            reads,
            ..
        } = freeze;
        let mut waits_for = Vec::new();
        for (at, entry) in self.sessions.iter().enumerate() {
            let index = SessionIndex(u16::try_from(at).expect("a table of u16"));
            if let Some(entry) = entry {
                let tasks = entry.session.in_the_way(unit, lba, blocks, reads);
                waits_for.extend(tasks.map(|task| (index, task)));
            }
        }
        self.frozen.push(Held {
            freeze,
            waits_for,
            acknowledged: false,
        });
    }

    /// Acknowledges freezes whose blocks nothing at a device changes any more.
    pub(super) fn settle_freezes(&mut self) {
        if self.frozen.is_empty() {
            return;
        }
        self.drop_aborted_held();
        for at in 0..self.frozen.len() {
            if self.frozen[at].acknowledged {
                continue;
            }
            let mut waits_for = std::mem::take(&mut self.frozen[at].waits_for);
            let freeze = self.frozen[at].freeze;
            waits_for.retain(|(index, task)| self.is_in_the_way(&freeze, *index, *task));
            if waits_for.is_empty() || !self.lent.guards.hold(Guard::FreezeWaitsForDevice) {
                self.frozen[at].acknowledged = true;
                let home = self.home_of(freeze.unit);
                self.send_to(home, ToCore::FreezeAcknowledged { freeze });
            } else {
                self.frozen[at].waits_for = waits_for;
            }
        }
    }

    /// The task still has an operation at a device that the freeze has to wait for, and not one
    /// that is held here.
    fn is_in_the_way(&mut self, freeze: &Freeze, index: SessionIndex, task: TaskId) -> bool {
        let tag = session::pack(index, task);
        let held = self.held.iter().any(|request| request.token.tag() == tag);
        let unsent = self.lent.requests.iter();
        let unsent = unsent.map(|request| request.token.tag()).any(|t| t == tag);
        !held
            && !unsent
            && self.entry(index).is_some_and(|entry| {
                let (unit, lba, blocks) = (freeze.unit, freeze.lba, freeze.blocks);
                let mut tasks = entry.session.in_the_way(unit, lba, blocks, freeze.reads);
                tasks.any(|one| one == task)
            })
    }

    /// A core holds the blocks.
    pub(super) fn freeze_acknowledged(&mut self, freeze: Freeze) {
        let home = &mut self.homes[usize::from(freeze.unit.0)].freezes;
        let active = home
            .active
            .iter_mut()
            .find(|active| active.freeze == freeze);
        let Some(active) = active.filter(|active| active.missing > 0) else {
            return;
        };
        active.missing -= 1;
        if !self.lent.guards.hold(Guard::FreezeWaitsForAllCores) {
            active.missing = 0;
        }
        if active.missing == 0 {
            let owner = freeze.owner;
            self.send_to(owner.core, ToCore::Frozen { owner });
        }
    }

    /// All cores hold what a task here asked for.
    pub(super) fn frozen(&mut self, owner: Owner) {
        if let Some(entry) = self.sessions[usize::from(owner.session.0)].as_mut() {
            entry.session.frozen(&mut self.lent.env(), owner.task);
            self.after_session(owner.session);
        }
    }

    /// The owner has finished: everybody lets go, and the next may begin.
    pub(super) fn thaw_asked(&mut self, unit: UnitIndex, owner: Owner) {
        let home = &mut self.homes[usize::from(unit.0)].freezes;
        home.active.retain(|active| active.freeze.owner != owner);
        for core in 0..self.cores.len() {
            self.send_to(core, ToCore::Thaw { unit, owner });
        }
        self.grant_freezes(unit);
    }

    /// Submits what was held for this freeze alone.
    pub(super) fn thaw(&mut self, unit: UnitIndex, owner: Owner) {
        self.frozen
            .retain(|held| held.freeze.owner != owner || held.freeze.unit != unit);
        self.drop_aborted_held();
        let mut at = 0;
        while at < self.held.len() {
            if is_held(&self.frozen, self.core, &self.held[at]) {
                at += 1;
            } else {
                let request = self.held.remove(at);
                self.lent.requests.push(request);
            }
        }
    }

    /// Nothing of an aborted task goes to the device: its request ends here.
    fn drop_aborted_held(&mut self) {
        let mut at = 0;
        while at < self.held.len() {
            let (index, task) = session::unpack(self.held[at].token.tag());
            let aborted = self
                .entry(index)
                .is_some_and(|entry| entry.session.is_aborted(task));
            if !aborted {
                at += 1;
                continue;
            }
            let Request {
                token, operation, ..
            } = self.held.remove(at);
            let completion = Completion {
                token,
                result: Err(IoError::Resource),
                buf: operation.into_buf(),
            };
            self.completed_of(index, std::iter::once(completion));
            self.after_session(index);
        }
    }
}

/// Whether a request must wait for somebody else's freeze.
pub(super) fn is_held(frozen: &[Held], core: usize, request: &Request) -> bool {
    let changes = request.operation.changes_blocks();
    let reads = matches!(request.operation, Operation::Read { .. });
    let (lba, blocks) = Operation::range(&request.operation);
    frozen.iter().any(|Held { freeze, .. }| {
        let concerned = changes || reads && freeze.reads;
        if !concerned {
            return false;
        }
        let Owner {
            core: owner,
            session,
            task,
        } = freeze.owner;
        let own = owner == core && session::pack(session, task) == request.token.tag();
        !own && freeze.overlaps(request.unit, lba, blocks)
    })
}
