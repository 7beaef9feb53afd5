//! Faults on purpose, around any device: the switches with which tests see their guards fail.
//!
//! Atomics only, so that a test can turn them while a core runs. A [`Set`](super::Set) asks here
//! before it starts a request on a unit that was opened with faults; production units have none.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use super::request::{IoError, Operation, Usage};

/// Switches and counters of one unit under test.
#[derive(Debug, Default)]
pub struct Faults {
    hold_writes: AtomicBool,
    fail_at: AtomicU64,
    fail_with: AtomicU32,
    delay_polls: AtomicU32,
    drop_durability: AtomicBool,
    panic_next: AtomicBool,
    seen: AtomicU64,
    held: AtomicU64,
    flushes: AtomicU64,
    /// One more than the bytes in use that the device is to claim; 0 where it tells the truth.
    used: AtomicU64,
    available: AtomicU64,
}

/// What to do with a request now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Run,
    /// Ask again when the write may go.
    Hold,
    /// Start it after this many polls, at least one.
    Delay(u32),
    Fail(IoError),
}

impl Faults {
    /// Writes (and unmaps) that are submitted from now on are held until this is turned off.
    pub fn hold_writes(&self, hold: bool) {
        self.hold_writes.store(hold, SeqCst);
    }

    /// The `n`-th operation from now on (1 = the next) fails with `error`, once; 0 disarms.
    pub fn fail_nth(&self, n: u64, error: IoError) {
        self.fail_with.store(code(error), SeqCst);
        self.fail_at.store(n, SeqCst);
    }

    /// Operations start after 0 to `polls` polls, varying, so that they complete out of order.
    pub fn delay_polls(&self, polls: u32) {
        self.delay_polls.store(polls, SeqCst);
    }

    /// Flushes complete without flushing and FUA is ignored: the lie that a durability test must
    /// find out.
    pub fn drop_durability(&self, drop: bool) {
        self.drop_durability.store(drop, SeqCst);
    }

    /// The next operation makes its core panic.
    pub fn panic_next(&self) {
        self.panic_next.store(true, SeqCst);
    }

    /// The space that the device says it uses and could use, whatever is true.
    pub fn claim_usage(&self, usage: Usage) {
        self.available.store(usage.available, SeqCst);
        self.used.store(usage.used.saturating_add(1), SeqCst);
    }

    pub(super) fn usage(&self) -> Option<Usage> {
        let used = self.used.load(SeqCst).checked_sub(1)?;
        let available = self.available.load(SeqCst);
        Some(Usage { used, available })
    }

    /// Operations that were submitted so far.
    pub fn seen(&self) -> u64 {
        self.seen.load(SeqCst)
    }

    /// Writes that are held now.
    pub fn held(&self) -> u64 {
        self.held.load(SeqCst)
    }

    /// Flushes that were submitted so far.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(SeqCst)
    }

    /// Judges a request that was just submitted, and counts it.
    pub(super) fn on_submit(&self, operation: &Operation) -> Verdict {
        assert!(!self.panic_next.load(SeqCst), "a test asked for this panic");
        let nth = self.seen.fetch_add(1, SeqCst);
        if matches!(operation, Operation::Flush) {
            self.flushes.fetch_add(1, SeqCst);
        }
        let counted = self
            .fail_at
            .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        if counted == Ok(1) {
            return Verdict::Fail(error(self.fail_with.load(SeqCst)));
        }
        if operation.changes_blocks() && self.hold_writes.load(SeqCst) {
            self.held.fetch_add(1, SeqCst);
            return Verdict::Hold;
        }
        let polls = u64::from(self.delay_polls.load(SeqCst));
        // 7 shares no factor with most small bounds, so neighbours get different delays.
        match nth.wrapping_mul(7).wrapping_add(3) % (polls + 1) {
            0 => Verdict::Run,
            delay => Verdict::Delay(u32::try_from(delay).unwrap_or(u32::MAX)),
        }
    }

    /// Whether a held write may go now; counts it out if so.
    pub(super) fn release(&self) -> bool {
        let free = !self.hold_writes.load(SeqCst);
        if free {
            self.held.fetch_sub(1, SeqCst);
        }
        free
    }

    pub(super) fn durability_dropped(&self) -> bool {
        self.drop_durability.load(SeqCst)
    }
}

const ERRORS: [IoError; 8] = [
    IoError::Medium,
    IoError::NoSpace,
    IoError::WriteProtected,
    IoError::NotReady,
    IoError::OutOfRange,
    IoError::Unsupported,
    IoError::Resource,
    IoError::WriteCacheLost,
];

fn code(error: IoError) -> u32 {
    let at = ERRORS
        .iter()
        .position(|&known| known == error)
        .expect("every error is listed");
    u32::try_from(at).expect("a short list")
}

fn error(code: u32) -> IoError {
    ERRORS
        .get(code as usize)
        .copied()
        .unwrap_or(IoError::Medium)
}
