//! Whose turn it is to make a synchronous call on an object, among all cores.
//!
//! The kernel tells a lost write to one synchronous call only, so the next must not be made before
//! the answer of the last was seen and noted. A core that waits sleeps: it leaves a [`Waiter`] here
//! and the end of the turn signals it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst, fence};

use crossbeam::queue::SegQueue;

use crate::backend::wake::Wake;

#[derive(Debug)]
pub(super) struct Turn {
    taken: AtomicBool,
    /// At most one entry for each core.
    waiters: SegQueue<Arc<Waiter>>,
}

/// A core's place in the queue of one object.
#[derive(Debug)]
pub(super) struct Waiter {
    wake: Arc<Wake>,
    queued: AtomicBool,
}

impl Waiter {
    pub(super) fn new(wake: &Arc<Wake>) -> Arc<Self> {
        Arc::new(Self {
            wake: Arc::clone(wake),
            queued: AtomicBool::new(false),
        })
    }
}

impl Turn {
    pub(super) fn new() -> Self {
        Self {
            taken: AtomicBool::new(false),
            waiters: SegQueue::new(),
        }
    }

    pub(super) fn is_free(&self) -> bool {
        !self.taken.load(SeqCst)
    }

    /// Takes the turn if nobody has it.
    pub(super) fn take(&self) -> bool {
        self.is_free() && !self.taken.swap(true, SeqCst)
    }

    /// Gives the turn back and signals everybody who waits for it.
    pub(super) fn end(&self) {
        self.taken.store(false, SeqCst);
        fence(SeqCst);
        while let Some(waiter) = self.waiters.pop() {
            waiter.queued.store(false, SeqCst);
            waiter.wake.signal();
        }
    }

    /// Asks for a signal at the end of the turn, with the wake armed. `true`: it is free already.
    pub(super) fn signal_end(&self, waiter: &Arc<Waiter>) -> bool {
        if !waiter.queued.swap(true, SeqCst) {
            self.waiters.push(Arc::clone(waiter));
        }
        fence(SeqCst);
        self.is_free()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_turn_signals_each_waiter_once() {
        let (turn, wake) = (Turn::new(), Arc::new(Wake::new().unwrap()));
        let waiter = Waiter::new(&wake);
        assert!(turn.take());
        assert!(!turn.take());
        for _ in 0..3 {
            assert!(!turn.signal_end(&waiter));
        }
        assert_eq!(turn.waiters.len(), 1);
        turn.end();
        assert!(turn.waiters.is_empty());
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(wake.fd(), &mut count), Ok(8));
        assert!(turn.signal_end(&waiter), "free before it could sleep");
        assert!(turn.take());
    }
}
