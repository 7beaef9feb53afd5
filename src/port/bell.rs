//! What a polling core sleeps on while somebody else's thread puts things in a ring for it: an
//! eventfd that is readable from the first ring of the bell until the ring was found empty.
//!
//! The system is called once per change between empty and not, not once per thing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{self, Errno};

/// Shared by those who put something in and the one who takes it out.
#[derive(Debug)]
pub(super) struct Bell {
    event: OwnedFd,
    /// The eventfd is readable, or is just being written.
    rung: AtomicBool,
}

impl Bell {
    /// # Errors
    /// When the process may open no more files.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            rung: AtomicBool::new(false),
        })
    }

    /// After something was put in.
    pub(super) fn ring(&self) {
        if self.rung.swap(true, Ordering::SeqCst) {
            return;
        }
        // The counter is far from full: each write is read before the next.
        let _ = io::write(&self.event, &1u64.to_be_bytes());
    }

    /// After nothing was found. Look once more afterwards, and ring if there is something: what was
    /// put in before this call has perhaps rung for nothing.
    pub(super) fn silence(&self) {
        if !self.rung.load(Ordering::SeqCst) {
            return;
        }
        let mut count = [0; 8];
        // Who rings may not have come to its write yet: then the bell stays as it is.
        if io::read(&self.event, &mut count) != Err(Errno::AGAIN) {
            self.rung.store(false, Ordering::SeqCst);
        }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
