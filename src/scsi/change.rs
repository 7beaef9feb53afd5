//! Changes of a logical unit that every core must know before their command is answered.
//!
//! ```text
//! a command ── Step::Change(Change) ──► the unit's home core, one change at a time:
//!     LogicalUnit::decide ─► Decision ─► saved, if it must survive ─► every core:
//!         LogicalUnit::apply, unit attentions, tasks aborted ─► Event::Changed(Ok)
//! ```
//!
//! `decide` sees the state that all earlier changes have left, on one core, so that of two
//! commands that contend the second is refused. `apply` cannot fail, and all replicas that have
//! applied the same updates are equal.

use std::sync::Arc;

use super::asymmetric_access::{AccessState, Altered, PortGroups};
use super::copy::token::{TokenChange, TokenUpdate};
use super::job::Sanitize;
use super::nexus::{Nexus, Whom};
use super::provisioning::Level;
use super::reservations::{Persistent, Request, Reservations};
use super::sense::Sense;
use super::spc::echo_buffer::Echo;
use super::spc::mode_pages::ModeParameters;
use super::spc::mode_select::ModeSelection;
use super::task::{Outcome, Status};
use super::unit::{LogicalUnit, ReadyState};
use super::unit_attention::UnitAttention;
use crate::backend::{DeviceInfo, Usage};

/// What is asked of a logical unit's home core.
#[derive(Debug)]
pub enum Change {
    /// Nothing: answered when all earlier changes are known everywhere.
    Fence,
    /// Nothing, but every core is asked: answered when each has ended the sessions whose connection
    /// was gone before, so that what a lost nexus held is let go.
    Settle,
    /// START STOP UNIT: medium access is allowed (`true`) or answered NOT READY (`false`).
    Started(bool),
    /// The unit keeps a ROD token or lets go of it.
    Token(TokenChange),
    /// PREVENT ALLOW MEDIUM REMOVAL.
    Prevent(bool),
    /// START STOP UNIT with LOEJ: the medium is put in (`true`) or taken out.
    Load(bool),
    /// MODE SELECT.
    ModeSelect(Box<ModeSelection>),
    /// SET TIMESTAMP: the unit's timestamp is so much ahead of the host's clock, modulo 2^48.
    Timestamp { ahead_ms: u64 },
    /// SET IDENTIFYING INFORMATION: at most [`IDENTIFYING_BYTES_MAX`] bytes.
    Identifying(Box<[u8]>),
    /// WRITE BUFFER: the echo buffer.
    Echo(Box<[u8]>),
    /// SET TARGET PORT GROUPS: portal groups of the target, by tag, and their new states.
    AccessStates(Vec<(u16, AccessState)>),
    /// The unit was reset: what does not survive that is undone (SAM-5 §6.3.2).
    Reset,
    /// PERSISTENT RESERVE OUT, RESERVE or RELEASE.
    Reservation(Box<Request>),
    /// SANITIZE: begin this operation.
    Sanitize(Sanitize),
    /// So much of the sanitize operation is done, in 65536ths.
    SanitizeProgress(u16),
    /// The sanitize operation is over: `true` when it succeeded.
    Sanitized(bool),
    /// SANITIZE, EXIT FAILURE MODE.
    ExitSanitizeFailure,
    /// The asking nexus is gone: what belonged to it alone is undone (SAM-5 §6.3.4).
    NexusLost,
}

/// What the home core has decided.
#[derive(Debug, Default)]
pub struct Decision {
    /// What every replica applies.
    pub update: Option<Update>,
    /// Conditions that are raised, each for whom it concerns, after the update is applied.
    pub attentions: Vec<(Whom, UnitAttention)>,
    /// Whose tasks are aborted (PREEMPT AND ABORT); the asking task itself never is.
    pub abort: Whom,
    /// The home core does this once the update is everywhere.
    pub job: Option<Sanitize>,
    /// [`LogicalUnit::non_volatile`] has changed: it is on disk before anyone is told.
    pub save: bool,
}

impl Decision {
    /// Whether nothing at all is to be done.
    pub fn is_nothing(&self) -> bool {
        self.update.is_none()
            && self.attentions.is_empty()
            && self.abort == Whom::Nobody
            && self.job.is_none()
            && !self.save
    }

    /// Every replica applies `update`, and that is all.
    pub fn update(update: Update) -> Self {
        Self {
            update: Some(update),
            ..Self::default()
        }
    }

    /// The same, and every nexus but `by` is told of it.
    pub fn telling(mut self, by: &Arc<Nexus>, condition: UnitAttention) -> Self {
        let others = Whom::EveryoneBut(Arc::clone(by));
        self.attentions.push((others, condition));
        self
    }

    /// The same, and the unit's state that survives a restart has changed with it.
    fn kept(update: Update) -> Self {
        Self {
            save: true,
            ..Self::update(update)
        }
    }
}

/// What every replica of a unit applies.
#[derive(Clone, Debug)]
pub enum Update {
    Nothing,
    Started(bool),
    Reservations(Arc<Reservations>),
    Token(TokenUpdate),
    Prevent {
        by: Arc<Nexus>,
        prevent: bool,
    },
    Load(bool),
    Timestamp {
        ahead_ms: u64,
    },
    Identifying(Box<[u8]>),
    Echo(Arc<Echo>),
    NexusLost(Arc<Nexus>),
    Mode {
        current: ModeParameters,
        /// They are the saved values too.
        saved: bool,
    },
    PortGroups(PortGroups),
    /// The unit has so many logical blocks.
    Capacity(u64),
    /// A unit that began without a device has one.
    Device(DeviceInfo),
    /// The device came, went or recovered.
    Ready(ReadyState),
    Usage(Usage, Level),
    Reset,
    Sanitizing(Sanitize),
    SanitizeProgress(u16),
    Sanitized(bool),
    ExitSanitizeFailure,
}

impl LogicalUnit {
    /// Decides about a change that `by` asks for. Runs on the home core, when every replica has
    /// applied what was decided before.
    ///
    /// # Errors
    /// How the command that asks ends; nothing has changed then.
    pub fn decide(&self, change: &Change, by: &Arc<Nexus>) -> Result<Decision, Outcome> {
        Ok(match change {
            Change::Fence => Decision::default(),
            Change::Settle => Decision::update(Update::Nothing),
            Change::Reservation(request) => self.reservations().decide(request, by)?,
            Change::NexusLost if !self.holds_for(by) => Decision::default(),
            Change::NexusLost => Decision::update(Update::NexusLost(Arc::clone(by))),
            Change::Prevent(prevent) => Decision::update(Update::Prevent {
                by: Arc::clone(by),
                prevent: *prevent,
            }),
            Change::Load(load) => self.decide_load(*load, by)?,
            Change::Started(started) => Decision::update(Update::Started(*started)),
            Change::Token(change) => {
                let uuid = self.identity().uuid();
                let update = self.tokens.decide(change, uuid, by);
                Decision::update(Update::Token(update.map_err(Outcome::check_condition)?))
            }
            Change::ModeSelect(selection) => self.decide_mode(selection, by)?,
            Change::Timestamp { ahead_ms } => {
                let ahead_ms = *ahead_ms;
                Decision::update(Update::Timestamp { ahead_ms })
                    .telling(by, UnitAttention::TimestampChanged)
            }
            Change::Identifying(bytes) => Decision {
                save: true,
                ..Decision::update(Update::Identifying(bytes.clone()))
                    .telling(by, UnitAttention::DeviceIdentifierChanged)
            },
            Change::Echo(bytes) => Decision::update(Update::Echo(Arc::new(Echo {
                by: Arc::clone(by),
                bytes: bytes.clone(),
            }))),
            Change::AccessStates(states) => {
                let whom = Whom::EveryoneBut(Arc::clone(by));
                self.port_states(states, Altered::Explicitly, whom)
            }
            Change::Reset => Decision::update(Update::Reset),
            Change::Sanitize(what) => self.begin_sanitize(what)?,
            Change::SanitizeProgress(progress) => {
                Decision::update(Update::SanitizeProgress(*progress))
            }
            Change::Sanitized(well) => Decision::kept(Update::Sanitized(*well)),
            Change::ExitSanitizeFailure => match &self.kept.sanitize {
                None => Decision::default(),
                Some(kept) if kept.failed && kept.what.unrestricted_exit => {
                    Decision::kept(Update::ExitSanitizeFailure)
                }
                // SBC-3 §4.11: only another SANITIZE ends the restricted completion mode.
                Some(_) => return Err(check_condition(Sense::invalid_field_in_cdb(1, Some(4)))),
            },
        })
    }

    /// SBC-3 START STOP UNIT: a medium is not moved against anybody's will, and who uses the unit
    /// is told of one that was put in. Where it is already nothing is to be done.
    fn decide_load(&self, load: bool, by: &Arc<Nexus>) -> Result<Decision, Outcome> {
        if load != self.medium.ejected {
            return Ok(Decision::default());
        }
        self.medium
            .check_allowed()
            .map_err(Outcome::check_condition)?;
        let decision = Decision::update(Update::Load(load));
        Ok(if load {
            decision.telling(by, UnitAttention::MediumMayHaveChanged)
        } else {
            decision
        })
    }

    /// SPC-4 MODE SELECT: the other nexuses are told when something has changed.
    fn decide_mode(&self, asked: &ModeSelection, by: &Arc<Nexus>) -> Result<Decision, Outcome> {
        let current = asked.parameters(self).map_err(Outcome::check_condition)?;
        let changed = current != self.mode();
        if !changed && !asked.save {
            return Ok(Decision::default());
        }
        let decision = Decision {
            save: asked.save,
            ..Decision::update(Update::Mode {
                current,
                saved: asked.save,
            })
        };
        Ok(if changed {
            decision.telling(by, UnitAttention::ModeParametersChanged)
        } else {
            decision
        })
    }

    /// SPC-4 §5.15.2.10: after a change of states the other nexuses are told, whatever their port.
    pub(super) fn port_states(
        &self,
        states: &[(u16, AccessState)],
        altered: Altered,
        whom: Whom,
    ) -> Decision {
        let next = self.port_groups().with(states, altered);
        next.map_or_else(Decision::default, |next| Decision {
            attentions: vec![(whom, UnitAttention::AccessStateChanged)],
            ..Decision::update(Update::PortGroups(next))
        })
    }

    /// SANITIZE begins, unless it may not.
    fn begin_sanitize(&self, what: &Sanitize) -> Result<Decision, Outcome> {
        // Another one has begun since the command was let in.
        if let Some(sense) = self.sanitize_in_progress() {
            return Err(check_condition(sense));
        }
        // SBC-4 §4.11.1: what failed in the restricted mode is not left by another
        // operation that could be left without success.
        let restricted = |kept: &KeptSanitize| kept.failed && !kept.what.unrestricted_exit;
        if what.unrestricted_exit && self.kept.sanitize.as_ref().is_some_and(restricted) {
            return Err(check_condition(Sense::invalid_field_in_cdb(1, Some(5))));
        }
        Ok(Decision {
            job: Some(what.clone()),
            // SBC-3 §4.11: nothing that was let in before has a place behind it; what a
            // copy has read would come back.
            abort: Whom::Everyone,
            ..Decision::kept(Update::Sanitizing(what.clone()))
        })
    }

    /// Whether there is anything that a [`Change::NexusLost`] of this nexus would undo.
    pub fn holds_for(&self, i_t: &Nexus) -> bool {
        let reserved_by = self.reservations().reserved_by();
        let echo = self.echo.as_ref();
        reserved_by.is_some_and(|holder| **holder == *i_t)
            || self.medium.is_prevented_by(i_t)
            || echo.is_some_and(|echo| *echo.by == *i_t)
    }

    /// Applies what was decided.
    pub fn apply(&mut self, update: &Update) {
        match update {
            Update::Nothing => {}
            Update::Started(started) => self.set_started(*started),
            Update::Reservations(next) => self.set_reservations(Arc::clone(next)),
            Update::Token(update) => self.tokens.apply(update),
            Update::Prevent { by, prevent } => self.medium.set_prevented(by, *prevent),
            Update::Load(load) => {
                self.medium.ejected = !load;
                // A medium that is put in runs.
                self.set_started(true);
            }
            Update::Timestamp { ahead_ms } => self.timestamp_ahead_ms = Some(*ahead_ms),
            Update::Identifying(bytes) => self.kept.identifying_information = bytes.to_vec(),
            Update::Echo(echo) => self.echo = Some(Arc::clone(echo)),
            Update::NexusLost(gone) => {
                self.medium.set_prevented(gone, false);
                self.echo.take_if(|echo| echo.by == *gone);
                // SPC-2 §5.5.1: a nexus takes what it has reserved by RESERVE with it.
                if let Some(next) = self.reservations().without_reserve_of(gone) {
                    self.set_reservations(Arc::new(next));
                }
            }
            Update::Mode { current, saved } => {
                if *saved {
                    self.kept.mode = Some(self.mode_to_keep(*current));
                }
                self.set_mode(*current);
            }
            // SBC-3 §4.20: a reset brings a stopped unit back. SPC-4, mode parameters: and the
            // saved values. It does not end a sanitize operation (SBC-3 §4.11).
            Update::Reset => {
                self.set_started(true);
                self.medium.allow_all();
                self.echo = None;
                self.set_mode(self.mode_saved());
                // SPC-2 §5.5.1: RESERVE ends too; persistent reservations stay.
                if let Some(next) = self.reservations().without_reserve() {
                    self.set_reservations(Arc::new(next));
                }
            }
            Update::Sanitizing(what) => self.set_sanitize(Some(KeptSanitize {
                what: what.clone(),
                failed: false,
            })),
            Update::SanitizeProgress(progress) => self.set_sanitize_progress(*progress),
            Update::Sanitized(false) => {
                let failed = self.kept.sanitize.take();
                self.set_sanitize(failed.map(|kept| KeptSanitize {
                    failed: true,
                    ..kept
                }));
            }
            Update::Sanitized(true) | Update::ExitSanitizeFailure => self.set_sanitize(None),
            Update::Capacity(blocks) => self.set_capacity(*blocks),
            Update::Device(info) => self.set_device(info),
            Update::Ready(ready) => self.set_ready(*ready),
            Update::Usage(usage, level) => self.set_usage(*usage, *level),
            Update::PortGroups(groups) => self.set_port_groups(groups.clone()),
        }
    }
}

fn check_condition(sense: Sense) -> Outcome {
    Outcome {
        status: Status::CheckCondition,
        sense: Some(sense),
    }
}

/// Most bytes of PERIPHERAL DEVICE TEXT or identifier that SET IDENTIFYING INFORMATION may keep
/// (SPC-4, INFORMATION TYPE 000 0000b).
pub const IDENTIFYING_BYTES_MAX: usize = 64;

/// What of a logical unit survives the end of the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NonVolatile {
    /// The saved values of the mode pages; `None` as long as no MODE SELECT has saved any.
    pub mode: Option<ModeParameters>,
    /// What SET IDENTIFYING INFORMATION has left, at most [`IDENTIFYING_BYTES_MAX`] bytes.
    pub identifying_information: Vec<u8>,
    /// Persistent reservations, where APTPL has them persist.
    pub reservations: Persistent,
    /// A sanitize operation that has begun and not succeeded.
    pub sanitize: Option<KeptSanitize>,
}

/// What is kept of a sanitize operation: it goes on after a restart, or has failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptSanitize {
    pub what: Sanitize,
    pub failed: bool,
}
