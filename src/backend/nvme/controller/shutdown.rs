//! The end: queues deleted, the controller told, disabled, let go (Base Specification 2.0 §3.6).
//!
//! Everything here is bounded, and whatever the controller does at its end the function is let go,
//! after which it reaches no memory.

use std::time::Duration;

use super::init::quirks;
use super::{Life, REGISTER_LOOK, Trouble};
use crate::backend::nvme::bar::Bar;
use crate::backend::nvme::dma::{DmaSpace, Quiet};
use crate::backend::nvme::facts::State;
use crate::backend::nvme::spec::registers::{Configuration, ShutdownStatus, offset};

/// How long cores may take to leave.
const LEAVE_MAX: Duration = Duration::from_secs(2);
/// How long deleting all queues may take: what is in the write cache is of more weight.
const DELETE_MAX: Duration = Duration::from_secs(30);
/// How long a controller may take that does not say how long it takes (RTD3E).
const SHUTDOWN: Duration = Duration::from_secs(10);
/// The same for one that never says that it is complete.
const SHUTDOWN_STUCK: Duration = Duration::from_secs(1);
/// How long it may take at most, whatever it says.
const SHUTDOWN_MAX: Duration = Duration::from_secs(60);

impl<B: Bar, D: DmaSpace> Life<B, D> {
    pub(super) async fn shut_down(&mut self) {
        self.leaving = true;
        self.serving = false;
        self.refuse_questions("the controller is closed");
        let until = self.now() + LEAVE_MAX;
        while self.pairs.are_in_use() && self.now() < until {
            if self.turn(REGISTER_LOOK).await.is_err() {
                break;
            }
        }
        let told = if self.enabled {
            self.say_goodbye(DELETE_MAX).await
        } else {
            Ok(())
        };
        if let Err(Trouble::Fault(error)) = told {
            let controller = &self.name;
            tracing::warn!(
                controller,
                "the controller was not shut down in order: {error}"
            );
        }
        self.abandon().await;
        self.facts.set_state(State::Closed);
        tracing::info!(controller = self.name, "the controller is closed");
    }

    /// What an orderly end begins with: no queues, and nothing in the write cache. One that keeps a
    /// queue, or takes longer than `delete_max` for all, is told all the same.
    pub(super) async fn say_goodbye(&mut self, delete_max: Duration) -> Result<(), Trouble> {
        let before = self.deadline;
        self.allow(delete_max);
        let deleted = self.delete_all().await;
        self.deadline = before;
        if deleted == Err(Trouble::Gone) {
            return deleted;
        }
        self.notify().await.and(deleted)
    }

    /// The shutdown notification (§3.6.1), so that the write cache is on the medium and the next
    /// start is a clean one. Waits until the controller has done it, as long as it says at most.
    pub(super) async fn notify(&mut self) -> Result<(), Trouble> {
        // Asynchronous events end with the controller.
        self.enabled = false;
        let configuration = self.bar.r32(offset::CC);
        if configuration == u32::MAX {
            return Err(Trouble::Gone);
        }
        if !Configuration::is_enabled(configuration) {
            return Ok(());
        }
        let said = self.identity.as_ref().map_or(0, |it| it.data.shutdown_us);
        let said = Duration::from_micros(said.into());
        let is_stuck = quirks(self.bar.function()).shutdown_is_stuck;
        let patience = match said {
            _ if is_stuck => SHUTDOWN_STUCK,
            Duration::ZERO => SHUTDOWN,
            said => said,
        };
        // All else stays as it is while the controller is enabled.
        let leaving = Configuration::shut_down(configuration);
        self.bar.w32(offset::CC, leaving);
        let until = self.now() + patience.min(SHUTDOWN_MAX);
        loop {
            if self.csts()?.shutdown() == ShutdownStatus::Complete {
                return Ok(());
            }
            if self.now() >= until {
                break;
            }
            self.turn(REGISTER_LOOK).await?;
        }
        if !is_stuck {
            tracing::warn!(
                controller = self.name,
                "the shutdown is not complete within {} ms (CSTS.SHST)",
                patience.as_millis()
            );
        }
        Ok(())
    }

    /// Lets a controller go that never became ready.
    pub(super) async fn give_up(&mut self) {
        self.leaving = true;
        if self.enabled && !self.gone {
            // What was wrong is known; that the end is not in order either says nothing more.
            let _ = self.notify().await;
        }
        self.abandon().await;
    }

    /// Disables the controller as far as that is possible, and lets it go.
    pub(super) async fn abandon(&mut self) {
        self.leaving = true;
        self.facts.make_void(self.generation);
        self.pairs.halt();
        let disabled = self.attached && !self.gone && self.disable().await.is_ok();
        if self.attached && !self.gone && !disabled {
            // Letting go does it as well; this is for the device's own sake.
            if let Err(error) = self.bar.reset() {
                tracing::warn!(controller = self.name, "{error}");
            }
        }
        self.enabled = false;
        self.bar.release();
        self.attached = false;
        self.pairs.quiet(if disabled {
            Quiet::Disabled
        } else {
            Quiet::Unreachable
        });
        self.pairs.fail();
        self.pairs.deliver();
        self.tell_last_failures();
    }
}
