//! [`Hosted`]: a guest at its host, the core whose queue pair it uses.
//!
//! The guest's commands come complete but for their CIDs. The host puts them in beside its own,
//! watches their deadlines, and gives their completions back. Their memory is the guest's business.

use std::sync::Arc;

use super::link::{Lane, Returned};
use super::spec::entry::CompletionEntry;

/// See the module.
#[derive(Debug)]
pub(crate) struct Hosted {
    pub(crate) lane: Arc<Lane>,
    /// Commands of the guest's in this pair's queue.
    pub(crate) outstanding: u16,
    /// Something was given back that the guest was not woken for.
    sleeps: bool,
}

impl Hosted {
    pub(crate) fn new(lane: Arc<Lane>) -> Self {
        Self {
            lane,
            outstanding: 0,
            sleeps: false,
        }
    }

    /// A command of the guest's has ended.
    pub(crate) fn give_back(&mut self, tag: u16, completion: CompletionEntry) {
        self.outstanding = self.outstanding.saturating_sub(1);
        let lost = self.lane.returns.push(Returned { tag, completion });
        debug_assert!(
            lost.is_ok(),
            "a guest has no more commands than the lane has places"
        );
        self.sleeps = true;
    }

    /// Wakes the guest if something was given back.
    pub(crate) fn wake(&mut self) {
        if std::mem::take(&mut self.sleeps) {
            self.lane.wake_guest();
        }
    }

    /// The guest has gone, and nothing of it is outstanding.
    pub(crate) fn is_over(&self) -> bool {
        self.outstanding == 0 && self.lane.has_ended()
    }
}
