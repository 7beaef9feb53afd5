//! What went wrong on the cores and is to be known: commands that failed, flushes among them,
//! buffers that are kept.
//!
//! Cores only count; they do not wait for a log. The keeper looks at the counters in each turn.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::Life;
use crate::backend::nvme::bar::Bar;
use crate::backend::nvme::dma::DmaSpace;
use crate::backend::nvme::facts::Facts;
use crate::backend::nvme::spec::status::Status;

/// Failures of commands are logged no more often than this.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What was logged.
#[derive(Debug, Default)]
pub(super) struct Failures {
    told: u64,
    told_at: Option<Instant>,
    quarantined_bytes: u64,
}

/// Commands that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Failed {
    commands: u64,
    last: (Status, u64),
}

impl Failures {
    /// What is to be logged of commands.
    fn commands(&mut self, facts: &Facts, now: Instant) -> Option<Failed> {
        let errors = facts.counters.errors.load(Relaxed);
        let soon = |told: Instant| now < told + TELL_EVERY;
        if errors == self.told || self.told_at.is_some_and(soon) {
            return None;
        }
        self.told_at = Some(now);
        Some(Failed {
            commands: errors - std::mem::replace(&mut self.told, errors),
            last: facts.last_failure(),
        })
    }

    /// How many bytes are kept now, where that has changed.
    fn quarantine(&mut self, facts: &Facts) -> Option<u64> {
        let bytes = facts.counters.quarantined_bytes.load(Relaxed);
        let before = std::mem::replace(&mut self.quarantined_bytes, bytes);
        (bytes != before).then_some(bytes)
    }
}

impl<B: Bar, D: DmaSpace> Life<B, D> {
    /// At the end, behind which there is no later.
    pub(super) fn tell_last_failures(&mut self) {
        self.failures.told_at = None;
        self.tell_failures();
    }

    /// Logs what the cores have counted.
    pub(super) fn tell_failures(&mut self) {
        let (controller, now) = (self.name.as_str(), self.outside.now.get());
        let failed = now.and_then(|now| self.failures.commands(&self.facts, now));
        if let Some(Failed { commands, last }) = failed {
            let (status, lba) = last;
            tracing::warn!(
                controller,
                commands,
                lba,
                "NVMe commands have failed, the last one with: {status}"
            );
        }
        self.namespaces.tell_failed_flushes(controller);
        if self.facts.has_more() {
            self.events.want_error_log();
        }
        match self.failures.quarantine(&self.facts) {
            None => {}
            Some(0) => tracing::info!(controller, "buffers are used again: nothing touches them"),
            Some(bytes) => tracing::error!(
                controller,
                bytes,
                "buffers are kept from use, as the controller may still write to them"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::suite;

    #[test]
    fn failures_are_told_once_a_second_and_none_is_left_out() {
        let (facts, start) = (Facts::default(), suite::now());
        let mut failures = Failures::default();
        assert_eq!(failures.commands(&facts, start), None);
        facts.add_failure(Status::INTERNAL, 7);
        let last = (Status::INTERNAL, 7);
        let failed = |commands, last| Some(Failed { commands, last });
        assert_eq!(failures.commands(&facts, start), failed(1, last));
        let last = (Status::UNRECOVERED_READ, (1 << 48) - 1);
        for _ in 0..3 {
            facts.add_failure(Status::UNRECOVERED_READ, u64::MAX);
            assert_eq!(failures.commands(&facts, start), None, "just now");
        }
        let later = start + TELL_EVERY;
        assert_eq!(failures.commands(&facts, later), failed(3, last));
        assert_eq!(failures.commands(&facts, later + TELL_EVERY), None);
    }

    #[test]
    fn a_quarantine_is_told_when_it_changes() {
        let (facts, mut failures) = (Facts::default(), Failures::default());
        assert_eq!(failures.quarantine(&facts), None);
        for bytes in [4096, 8192, 0] {
            facts.counters.quarantined_bytes.store(bytes, Relaxed);
            assert_eq!(failures.quarantine(&facts), Some(bytes));
            assert_eq!(failures.quarantine(&facts), None);
        }
    }
}
