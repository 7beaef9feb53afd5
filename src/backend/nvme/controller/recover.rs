//! What is done about a controller that has failed or was taken away.
//!
//! ```text
//!   Halt to all cores, and ≤ 5 s for their answers
//!   failed:  disable ─► function reset ─► subsystem reset     the first proof of quiet is told,
//!               │            │                  │             and each rung ends with an init
//!               └── init ok: serve again        └─ none: Fail, and the ladder again in 30 s
//!   gone:    let go of the function, Quiet, Fail; each second look for one in its place
//! ```
//!
//! Cores are told `Quiet` only behind a register that was read, a reset that was done or a function
//! that was let go. Where none of them can be had they are told `Lost`, and `Quiet` when a later
//! ladder has it.

use std::time::Duration;

use super::{ControllerError, LOOK, Life, REGISTER_LOOK, Trouble};
use crate::backend::nvme::bar::{Bar, status};
use crate::backend::nvme::dma::{DmaSpace, Quiet};
use crate::backend::nvme::facts::{Counters, State};
use crate::backend::nvme::spec::registers::{Configuration, NSSR_KEY, ShutdownStatus, offset};

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
    SubsystemReset,
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
            Ok(_) | Err(Trouble::Fault(_)) => self.pause_failed().await,
            Err(trouble) => Err(trouble),
        }
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
        let mut bus = error == ControllerError::Bus;
        let mut last = error;
        for rung in [Rung::Disable, Rung::FunctionReset, Rung::SubsystemReset] {
            let climbed = self.climb(rung).await;
            bus &= rung == Rung::Disable || climbed != Ok(true);
            let ended = match climbed {
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
        if bus {
            return Err(Trouble::Gone);
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
        self.pairs.lost();
        self.pairs.fail();
        self.refuse_questions("the controller has failed; see this log for its error");
        self.pause(self.now() + AGAIN).await
    }

    /// Brings the controller to a state in which it is quiet. `false`: this way is not open.
    async fn climb(&mut self, rung: Rung) -> Result<bool, Trouble> {
        let counters = std::sync::Arc::clone(&self.facts);
        let counters = &counters.counters;
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
            Rung::SubsystemReset => {
                let caps = self.identity.as_ref().map(|identity| identity.caps);
                let Some(caps) = caps.filter(|caps| caps.subsystem_reset()) else {
                    return Ok(false);
                };
                self.bar.w32(offset::NSSR, NSSR_KEY);
                self.await_reset(caps.ready_timeout()).await?;
                self.lose_cache("its subsystem was reset");
                Counters::add(&counters.controller_resets, 1);
                self.pairs.quiet(Quiet::Disabled);
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
            self.namespaces.lose_cache(&self.name, what);
        }
    }

    /// Behind a reset of the subsystem, during which registers may read as all ones.
    async fn await_reset(&mut self, timeout: Duration) -> Result<(), Trouble> {
        let until = self.now() + timeout;
        loop {
            let csts = status(&*self.bar);
            let configuration = self.bar.r32(offset::CC);
            let there = !csts.is_gone() && configuration != u32::MAX;
            if there && !csts.is_ready() && !Configuration::is_enabled(configuration) {
                return Ok(());
            }
            if self.now() >= until {
                return Err(ControllerError::StaysReady(timeout).into());
            }
            self.turn(REGISTER_LOOK).await?;
        }
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
        self.enabled = false;
        self.attached = false;
        (self.gone, self.wanted) = (false, false);
        self.bar.release();
        if !in_order {
            self.lose_cache("the controller was taken away");
        }
        self.pairs.quiet(Quiet::Unreachable);
        if self.facts.state() != State::Gone {
            self.facts.set_state(State::Gone);
            tracing::error!(
                controller = self.name,
                "the controller was taken away; its units have no medium until it is back"
            );
        }
        // Behind the state: a core says why its requests fail.
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
        self.attached = true;
        self.look_at = Some(self.now() + LOOK);
        let back = self.init().await;
        self.enabled &= back.is_ok();
        back
    }
}
