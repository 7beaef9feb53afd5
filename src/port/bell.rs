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
        let _ = io::write(&self.event, &one());
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

/// One, as an eventfd counts.
#[expect(
    clippy::host_endian_bytes,
    reason = "eventfd(2) counts in host byte order"
)]
const fn one() -> [u8; 8] {
    1_u64.to_ne_bytes()
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_rings_adds_one_and_only_the_first_of_several_rings() {
        let bell = Bell::new().unwrap();
        for _ in 0..3 {
            bell.ring();
        }
        let mut count = [0; 8];
        assert_eq!(io::read(&bell.event, &mut count), Ok(8));
        assert_eq!(count, one(), "in the order in which the kernel counts");
        // It was taken behind the bell's back: the bell stays as it is, and others rely on it.
        bell.silence();
        bell.ring();
        assert_eq!(io::read(&bell.event, &mut count), Err(Errno::AGAIN));
    }

    #[test]
    fn a_silenced_bell_rings_again() {
        let bell = Bell::new().unwrap();
        for _ in 0..2 {
            bell.ring();
            bell.silence();
            let mut count = [0; 8];
            assert_eq!(io::read(&bell.event, &mut count), Err(Errno::AGAIN));
        }
    }
}
