//! How completions wake a sleeping core: one eventfd, written only while the core says it sleeps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst, fence};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// Added to the counter, eight bytes of the machine's order: any number but zero and all ones does.
const SIGNAL: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 0];

#[derive(Debug)]
pub(crate) struct Wake {
    fd: OwnedFd,
    armed: AtomicBool,
}

impl Wake {
    /// Armed, so that a core which never says when it sleeps is woken all the same.
    pub(crate) fn new() -> Result<Self, Errno> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            fd,
            armed: AtomicBool::new(true),
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The core is about to sleep. It looks at its queues once more after this: either it sees a
    /// completion there, or the producer sees the flag.
    pub(crate) fn arm(&self) {
        self.armed.store(true, SeqCst);
        fence(SeqCst);
    }

    /// The core is awake and needs no signal.
    pub(crate) fn disarm(&self) {
        self.armed.store(false, SeqCst);
    }

    /// Takes back the signals that were given.
    pub(crate) fn drain(&self) {
        let mut count = [0; 8];
        // EAGAIN: nobody signalled.
        let _ = rustix::io::read(&self.fd, &mut count);
    }

    /// For producers, after their completion is in its queue.
    pub(crate) fn signal(&self) {
        fence(SeqCst);
        if self.armed.load(SeqCst) {
            // EAGAIN: the counter is at its top, so the descriptor is readable already.
            let _ = rustix::io::write(&self.fd, &SIGNAL);
        }
    }
}
