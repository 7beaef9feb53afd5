//! What every core must have done before an initiator is answered: resets and changes of logical
//! units.
//!
//! The core that starts a barrier does the work itself, asks all others, and answers its initiator
//! when each has acknowledged. A core acknowledges a reset when nothing that was aborted by it is
//! at a device any more.

use std::sync::Arc;

use super::Reactor;
use super::message::{ToCore, Work};
use crate::backend::UnitIndex;
use crate::control::directory::Core;
use crate::iscsi::session::{Guard, ResetScope, SessionIndex};
use crate::scsi::{Nexus, Whom};

/// A barrier that this core started.
#[derive(Debug)]
pub(super) struct Barrier {
    id: u64,
    /// Acknowledgements that are missing, this core's own included.
    missing: usize,
    then: Then,
}

/// What to do when a barrier is down.
#[derive(Debug)]
enum Then {
    Reset {
        session: SessionIndex,
        /// The session may be gone by then, and its place another's.
        tsih: u16,
        management: u32,
        units: Vec<UnitIndex>,
        by: Arc<Nexus>,
    },
    Decided(UnitIndex),
}

/// An acknowledgement that this core owes, when nothing that was aborted at these units is at a
/// device.
#[derive(Debug)]
pub(super) struct Debt {
    to: Core,
    id: u64,
    units: Vec<UnitIndex>,
    /// Aborted tasks that wait for an answer of their unit's home count too.
    asked: bool,
}

impl Reactor {
    /// A session asks for a reset.
    pub(super) fn begin_reset(
        &mut self,
        (session, by): (SessionIndex, Arc<Nexus>),
        management: u32,
        scope: ResetScope,
    ) {
        let Some(tsih) = self.tsih_of(session, &by) else {
            return;
        };
        let then = Then::Reset {
            session,
            tsih,
            management,
            units: scope.units.clone(),
            by,
        };
        self.begin_barrier(then, Work::Reset(Arc::new(scope)), Some(session));
    }

    /// This core, a unit's home, has decided something.
    pub(super) fn begin_decided(&mut self, unit: UnitIndex, work: Work) {
        self.begin_barrier(Then::Decided(unit), work, None);
    }

    fn begin_barrier(&mut self, then: Then, work: Work, by: Option<SessionIndex>) {
        self.next_barrier += 1;
        let id = self.next_barrier;
        self.barriers.push(Barrier {
            id,
            missing: self.cores.len(),
            then,
        });
        for core in 0..self.cores.len() {
            if core != self.core {
                let work = work.clone();
                self.cores[core].send(ToCore::Barrier {
                    from: self.core,
                    id,
                    work,
                });
            }
        }
        self.work(self.core, id, work, by);
    }

    /// Another core asks.
    pub(super) fn barrier_asked(&mut self, from: Core, id: u64, work: Work) {
        self.work(from, id, work, None);
    }

    /// Does the work; the acknowledgement follows at once or when devices have let go.
    fn work(&mut self, from: Core, id: u64, work: Work, by: Option<SessionIndex>) {
        match work {
            Work::Decided {
                unit,
                decision,
                asker,
            } => {
                self.apply_decision(unit, &decision, asker);
                self.acknowledgements.push(Debt {
                    to: from,
                    id,
                    units: match decision.abort {
                        Whom::Nobody => Vec::new(),
                        _ => vec![unit],
                    },
                    asked: false,
                });
            }
            Work::Reset(scope) => {
                self.reset_sessions(&scope, by);
                self.acknowledgements.push(Debt {
                    to: from,
                    id,
                    units: scope.units.clone(),
                    asked: true,
                });
            }
        }
    }

    fn reset_sessions(&mut self, scope: &ResetScope, by: Option<SessionIndex>) {
        for at in 0..self.sessions.len() {
            let index = SessionIndex(u16::try_from(at).expect("a table of u16"));
            let Some(entry) = self.sessions[at].as_mut() else {
                continue;
            };
            if by == Some(index) {
                // Its own tasks it has aborted itself; the condition is for it too (SAM-5 §5.14).
                for unit in &scope.units {
                    entry.session.raise(*unit, scope.condition);
                }
                continue;
            }
            entry.session.reset_by_other(&mut self.lent.env(), scope);
            let target = entry.session.negotiated().target.as_ref();
            let closes = scope
                .close_sessions_of
                .as_deref()
                .is_some_and(|name| target.is_some_and(|target| target.name.as_str() == name));
            if closes {
                self.end_session_because(
                    index,
                    "another initiator asked for a TARGET COLD RESET",
                    false,
                );
            } else {
                self.after_session(index);
            }
        }
    }

    /// Acknowledges the resets whose aborted tasks are gone.
    pub(super) fn settle_barriers(&mut self) {
        let mut at = 0;
        while at < self.acknowledgements.len() {
            let Debt { units, asked, .. } = &self.acknowledgements[at];
            let waits = self.lent.guards.hold(Guard::CoreWaitsForDevice)
                && self
                    .sessions
                    .iter()
                    .flatten()
                    .any(|entry| entry.session.is_aborting(units, *asked));
            if waits {
                at += 1;
            } else {
                let Debt { to, id, .. } = self.acknowledgements.remove(at);
                self.acknowledge(to, id);
            }
        }
    }

    fn acknowledge(&mut self, to: Core, id: u64) {
        self.send_to(to, ToCore::Acknowledged { id });
    }

    /// A core has done the work of a barrier of ours.
    pub(super) fn barrier_acknowledged(&mut self, id: u64) {
        let Some(at) = self.barriers.iter().position(|barrier| barrier.id == id) else {
            return;
        };
        self.barriers[at].missing -= 1;
        if self.barriers[at].missing > 0 && self.lent.guards.hold(Guard::ResetWaitsForAllCores) {
            return;
        }
        let Barrier { then, .. } = self.barriers.remove(at);
        match then {
            Then::Reset {
                session,
                tsih,
                management,
                units,
                by,
            } => self.reset_units(&units, &by, (session, tsih, management)),
            Then::Decided(unit) => self.decided(unit),
        }
    }
}
