//! [`Budget`]: how many frames of their port the flows of one core keep together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Memory of copies that all flows of a core have together before they take only what is next.
pub(super) const COPIES_BYTES_MAX: usize = 64 << 20;

/// What the flows of one core keep together. Clones name the same.
#[derive(Clone, Debug)]
pub(in crate::net::stack) struct Budget {
    frames_max: usize,
    kept: Arc<Kept>,
}

/// Changed by the flows' own core only, which needs no atomic addition for that.
#[derive(Debug, Default)]
struct Kept {
    frames: AtomicUsize,
    copies: AtomicUsize,
}

impl Budget {
    pub(in crate::net::stack) fn new(frames_max: usize) -> Self {
        Self {
            frames_max,
            kept: Arc::default(),
        }
    }

    /// Frames that are kept now.
    #[cfg(test)]
    pub(in crate::net::stack) fn frames(&self) -> usize {
        self.kept.frames.load(Ordering::Relaxed)
    }

    /// Memory of copies now.
    #[cfg(test)]
    pub(super) fn copies(&self) -> usize {
        self.kept.copies.load(Ordering::Relaxed)
    }
}

/// The part of one flow in what is kept; none once it is dropped.
#[derive(Debug, Default)]
pub(super) struct Share {
    of: Option<Budget>,
    pub(super) frames: usize,
    /// Bytes of copies.
    pub(super) copies: usize,
}

impl Share {
    /// Nothing, so far.
    pub(super) fn of(budget: Option<Budget>) -> Self {
        Self {
            of: budget,
            frames: 0,
            copies: 0,
        }
    }

    pub(super) fn budget(&self) -> Option<Budget> {
        self.of.clone()
    }

    pub(super) fn set(&mut self, frames: usize, copies: usize) {
        if let Some(budget) = &self.of {
            let change = |count: &AtomicUsize, from: usize, to: usize| {
                let all = count.load(Ordering::Relaxed).saturating_sub(from);
                count.store(all.saturating_add(to), Ordering::Relaxed);
            };
            change(&budget.kept.frames, self.frames, frames);
            change(&budget.kept.copies, self.copies, copies);
        }
        (self.frames, self.copies) = (frames, copies);
    }

    pub(super) fn allows_frame(&self) -> bool {
        let allows = |all: &Budget| all.kept.frames.load(Ordering::Relaxed) < all.frames_max;
        self.of.as_ref().is_none_or(allows)
    }

    pub(super) fn allows_copy(&self) -> bool {
        let allows = |all: &Budget| all.kept.copies.load(Ordering::Relaxed) < COPIES_BYTES_MAX;
        self.of.as_ref().is_none_or(allows)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0, 0);
    }
}
