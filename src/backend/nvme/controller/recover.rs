//! What is done about a controller that has failed or was taken away.
//!
//! ```text
//!   Halt to all cores, and ≤ 5 s for their answers
//!   failed:  disable ─► function reset ─► let go, reopen     the first proof of quiet is told, and
//!               │            │                  │            each rung ends with an init
//!               └── init ok: serve again        └─ none helps: Fail, and again in 30 s
//!   gone:    let go of the function, Quiet, Fail; each second look for one in its place
//! ```
//!
//! Cores are told `Quiet` only behind a register that was read, a reset that was done or a function
//! that was let go. The last can always be had: the kernel takes the memory away from the function,
//! and resets it as best it can. So a ladder never ends without a proof. A reset of the whole
//! subsystem (NSSR) is no rung: it takes the controllers of other hosts down too, and the link,
//! behind the kernel's back.

use std::time::Duration;

use super::{ControllerError, LOOK, Life, REGISTER_LOOK, Trouble};
use crate::backend::nvme::bar::Bar;
use crate::backend::nvme::dma::{DmaSpace, Quiet};
use crate::backend::nvme::facts::{Counters, State};
use crate::backend::nvme::spec::registers::ShutdownStatus;

/// How long cores may take to answer `Halt`.
pub(super) const HALT_MAX: Duration = Duration::from_secs(5);
/// How long a controller that could not be recovered is left alone.
const AGAIN: Duration = Duration::from_secs(30);
/// Recoveries in a row without a pause, where each is followed by little service.
const REPEATS_MAX: u32 = 3;
/// Service is more than a little from so many times the commands' timeout on.
const LITTLE: u32 = 8;
/// How long the goodbye to a function may take that the kernel waits for.
const PART_MAX: Duration = Duration::from_secs(5);
/// How often a function is looked for in the place of one that is gone.
const RETURN_LOOK: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rung {
    Disable,
    FunctionReset,
    /// The function is let go, which the kernel resets then, and opened again.
    LetGo,
}

impl<B: Bar, D: DmaSpace> Life<B, D> {
    /// Until the controller is initialised again, however long that takes. `Err`: nobody wants it
    /// any more.
    pub(super) async fn recover(&mut self, trouble: Trouble) -> Result<(), Trouble> {
        self.serving = false;
        let enabled = std::mem::take(&mut self.enabled);
        self.facts.set_state(State::Recovering);
        self.halt_cores().await;
        let parts = enabled && trouble == Trouble::Gone && self.wanted;
        let mut in_order = parts && self.part().await;
        self.count();
        let mut cause = trouble;
        let mut told = None;
        if self.repeats >= REPEATS_MAX
            && let Trouble::Fault(error) = &cause
        {
            let controller = &self.name;
            tracing::error!(controller, "resets help for moments only: {error}");
            if let Err(trouble) = self.calm_down().await {
                cause = trouble;
            }
        }
        loop {
            let ended = match cause {
                Trouble::Closing => return Err(Trouble::Closing),
                Trouble::Gone => {
                    told = None;
                    let in_order = std::mem::take(&mut in_order);
                    self.away(in_order).await
                }
                Trouble::Fault(error) => {
                    if error == ControllerError::Disabled {
                        self.lose_cache("the controller was reset by something else");
                    }
                    if told.as_ref() != Some(&error) {
                        let controller = &self.name;
                        tracing::error!(controller, "the controller is reset: {error}");
                        told = Some(error.clone());
                    }
                    self.ladder(error).await
                }
            };
            match ended {
                Ok(()) => break,
                Err(trouble) => cause = trouble,
            }
        }
        let controller = &self.name;
        let generation = self.generation.0;
        tracing::info!(controller, generation, "the controller works again");
        Ok(())
    }

    /// Keeps count of what repeats itself.
    fn count(&mut self) {
        let little = self.settings.io_timeout * LITTLE;
        let served = self.ready_at.map(|at| self.now() - at);
        let repeats = served.is_some_and(|served| served < little);
        self.repeats = if repeats { self.repeats + 1 } else { 0 };
    }

    /// For one that fails again and again as soon as it is used: it is stopped, nobody waits for
    /// it, and the ladder begins behind a pause.
    async fn calm_down(&mut self) -> Result<(), Trouble> {
        match self.climb(Rung::Disable).await {
            Ok(_) => {}
            Err(Trouble::Fault(_)) => self.let_go(Some("its function was let go")),
            Err(trouble) => return Err(trouble),
        }
        self.pause_failed().await
    }

    /// Has all cores leave the controller alone, as far as they answer in time. Those that do not
    /// keep their queues from everybody until they do.
    async fn halt_cores(&mut self) {
        self.facts.make_void(self.generation);
        self.pairs.halt();
        let until = self.now() + HALT_MAX;
        while self.pairs.owe() && self.now() < until {
            // What else is wrong is seen again.
            let _ = self.turn(REGISTER_LOOK).await;
        }
        if self.pairs.owe() {
            let controller = &self.name;
            tracing::error!(controller, "a core has not answered within 5 s");
        }
    }

    /// One rung after the other. `Err(Fault)`: none has helped, and it is time for the next try.
    /// Errors of the bus are over only when the function was reset, or let go of, which has the
    /// kernel do what it can.
    async fn ladder(&mut self, error: ControllerError) -> Result<(), Trouble> {
        let bus = error == ControllerError::Bus;
        let mut last = error;
        for rung in [Rung::Disable, Rung::FunctionReset, Rung::LetGo] {
            if !self.attached && rung != Rung::LetGo {
                continue;
            }
            let ended = match self.climb(rung).await {
                Ok(true) if bus && rung == Rung::Disable => continue,
                Ok(true) => self.init().await,
                Ok(false) => continue,
                Err(trouble) => Err(trouble),
            };
            self.enabled &= ended.is_ok();
            match ended {
                Err(Trouble::Fault(error)) => {
                    tracing::warn!(controller = self.name, "{rung:?} has not helped: {error}");
                    last = error;
                }
                done => return done,
            }
        }
        self.pause_failed().await?;
        Err(Trouble::Fault(last))
    }

    /// The controller is left alone for a while, and nobody waits for it.
    async fn pause_failed(&mut self) -> Result<(), Trouble> {
        if self.facts.state() != State::Failed {
            self.facts.set_state(State::Failed);
            tracing::error!(
                controller = self.name,
                "the controller has failed, its units are not ready; it is tried again every 30 s"
            );
        }
        // Behind the state: a core says why its requests fail.
        self.pairs.fail();
        self.refuse_questions("the controller has failed; see this log for its error");
        self.pause(self.now() + AGAIN).await
    }

    /// Brings the controller to a state in which it is quiet. `false`: this way is not open.
    async fn climb(&mut self, rung: Rung) -> Result<bool, Trouble> {
        let facts = std::sync::Arc::clone(&self.facts);
        let counters = &facts.counters;
        match rung {
            Rung::Disable => {
                self.disable().await?;
                Counters::add(&counters.controller_resets, 1);
                self.pairs.quiet(Quiet::Disabled);
            }
            Rung::FunctionReset => {
                if let Err(error) = self.bar.reset() {
                    tracing::warn!(controller = self.name, "{error}");
                    return Ok(false);
                }
                Counters::add(&counters.function_resets, 1);
                self.lose_cache("its function was reset");
                self.pairs.quiet(Quiet::FunctionReset);
            }
            Rung::LetGo => {
                self.let_go(Some("its function was let go"));
                if let Err(error) = self.bar.reopen() {
                    // What comes in its place may have been away.
                    self.facts.add_absence();
                    let controller = &self.name;
                    tracing::warn!(controller, "the function cannot be had again: {error}");
                    return Ok(false);
                }
                Counters::add(&counters.function_resets, 1);
                self.take_back();
            }
        }
        Ok(true)
    }

    /// Before any core sends a flush again: what was in the write cache is not on the medium. A
    /// reset by CC.EN alone leaves the cache as it is (Base Specification 2.0 §3.7.2), unless the
    /// controller had failed.
    pub(super) fn lose_cache(&self, what: &str) {
        let identity = self.identity.as_ref();
        if identity.is_some_and(|identity| identity.limits.write_cache) {
            let unsure = self.pairs.owe();
            self.namespaces.lose_cache(&self.name, what, unsure);
        }
    }

    /// Lets go of the function: it reaches no memory any more. `lost`: what is in its write cache
    /// is, by that.
    fn let_go(&mut self, lost: Option<&str>) {
        (self.enabled, self.attached) = (false, false);
        (self.gone, self.wanted) = (false, false);
        self.bar.release();
        if let Some(how) = lost {
            self.lose_cache(how);
        }
        self.pairs.quiet(Quiet::Unreachable);
    }

    /// The function is ours again.
    fn take_back(&mut self) {
        self.attached = true;
        self.look_at = Some(self.now() + LOOK);
    }

    /// Says goodbye to a function that the kernel waits for and that still answers, so that its
    /// write cache is on the medium: the power of its slot goes next. Whether it was.
    async fn part(&mut self) -> bool {
        (self.gone, self.enabled, self.parting) = (false, true, true);
        self.allow(PART_MAX);
        // SHST alone says that the cache was written, whatever became of the queues.
        let _ = if self.unanswered {
            self.notify().await
        } else {
            self.say_goodbye(PART_MAX / 2).await
        };
        (self.enabled, self.parting, self.deadline) = (false, false, None);
        let csts = self.csts_even_fatal();
        csts.is_ok_and(|csts| csts.shutdown() == ShutdownStatus::Complete)
    }

    /// Lets go of a function that is gone, or wanted by the kernel, and waits for one to come.
    /// `in_order`: nothing is in its write cache.
    async fn away(&mut self, in_order: bool) -> Result<(), Trouble> {
        if self.facts.state() != State::Gone {
            self.facts.set_state(State::Gone);
            tracing::error!(
                controller = self.name,
                "the controller was taken away; its units have no medium until it is back"
            );
        }
        // Behind the state: a core says why its requests fail, and whoever sees that it was away
        // sees nothing of before.
        self.facts.add_absence();
        if in_order {
            self.namespaces.keep_cache();
        }
        self.let_go((!in_order).then_some("the controller was taken away"));
        self.pairs.fail();
        self.refuse_questions("the controller was taken away");
        let mut told = None;
        loop {
            self.pause(self.now() + RETURN_LOOK).await?;
            let Err(error) = self.bar.reopen() else {
                break;
            };
            if told.as_ref() != Some(&error) {
                let controller = &self.name;
                tracing::warn!(controller, "the controller is not back: {error}");
                told = Some(error);
            }
        }
        self.take_back();
        let back = self.init().await;
        self.enabled &= back.is_ok();
        back
    }
}
