//! Helper threads of one core: they make the calls that may block.
//!
//! Spawned on demand, at most [`HELPERS_PER_UNIT_MAX`] for each unit and [`HELPERS_MAX`] in all, on
//! the CPUs that the process's main thread may use (a data core's own pinning is not inherited).
//! Both queues are bounded by the number of slots, of which each has at most one call under way, so
//! neither is ever full.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use crossbeam::channel::{Receiver, Sender, bounded};
use crossbeam::queue::ArrayQueue;
use rustix::io::Errno;

use super::gate::Pass;
use super::job::Call;
use super::sys;
use crate::backend::wake::Wake;

/// Most helper threads of one core. Those of hung units are lost to the others.
pub(super) const HELPERS_MAX: usize = 16;
/// Most helper threads that one unit is worth; where there are several units, also the most calls
/// of one unit that `Files` hands over at a time.
pub(super) const HELPERS_PER_UNIT_MAX: usize = 4;

/// A call to make. The slot that it belongs to keeps iovecs and buffer in place until it is done.
pub(super) struct Work {
    pub(super) slot: u32,
    /// Its unit keeps it open until the work is answered.
    pub(super) fd: RawFd,
    pub(super) call: Call,
    pub(super) iovecs: *const libc::iovec,
    pub(super) count: usize,
    pub(super) pass: Pass,
}

// SAFETY: the iovecs and what they describe belong to a slot that its core leaves alone until the
// answer to this very work has come back (`Files`), so the helper has them to itself.
unsafe impl Send for Work {}

type Answer = (u32, Result<usize, Errno>);

#[derive(Debug)]
pub(super) struct Helpers {
    /// Absent once the helpers were told to end.
    work: Option<Sender<Work>>,
    queue: Receiver<Work>,
    answers: Arc<ArrayQueue<Answer>>,
    threads: Vec<JoinHandle<()>>,
    wake: Arc<Wake>,
    in_flight: usize,
}

impl Helpers {
    pub(super) fn new(depth: usize, wake: Arc<Wake>) -> Self {
        let (work, queue) = bounded(depth);
        Self {
            work: Some(work),
            queue,
            answers: Arc::new(ArrayQueue::new(depth)),
            threads: Vec::with_capacity(HELPERS_MAX),
            wake,
            in_flight: 0,
        }
    }

    /// Hands a call over, one of a core with `units` units. An error comes back at once when there
    /// is no thread to make it.
    pub(super) fn send(&mut self, work: Work, units: usize) -> Result<(), Errno> {
        let threads_max = HELPERS_PER_UNIT_MAX.saturating_mul(units).min(HELPERS_MAX);
        if self.in_flight >= self.threads.len() && self.threads.len() < threads_max {
            match self.spawn() {
                Ok(thread) => self.threads.push(thread),
                Err(_) if self.threads.is_empty() => return Err(Errno::NOMEM),
                // The threads that are there take it in their turn.
                Err(_) => {}
            }
        }
        let work = self.work.as_ref().map(|queue| queue.try_send(work));
        if !matches!(work, Some(Ok(()))) {
            return Err(Errno::NOBUFS);
        }
        self.in_flight += 1;
        Ok(())
    }

    /// The next answer.
    pub(super) fn reap(&mut self) -> Option<Answer> {
        if self.in_flight == 0 {
            return None;
        }
        let answer = self.answers.pop()?;
        self.in_flight -= 1;
        Some(answer)
    }

    pub(super) fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    fn spawn(&self) -> std::io::Result<JoinHandle<()>> {
        let (queue, answers, wake) = (
            self.queue.clone(),
            Arc::clone(&self.answers),
            Arc::clone(&self.wake),
        );
        let name = format!("iibd-io-{}", self.threads.len());
        Builder::new()
            .name(name)
            .spawn(move || help(&queue, &answers, &wake))
    }
}

impl Drop for Helpers {
    /// Idle helpers end and are joined; ones with a call under way are left to it, since that may
    /// take as long as a dead disk likes.
    fn drop(&mut self) {
        self.work = None;
        if self.in_flight == 0 {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

fn help(queue: &Receiver<Work>, answers: &ArrayQueue<Answer>, wake: &Wake) {
    unpin();
    while let Ok(work) = queue.recv() {
        let refused = work.pass.wait();
        // SAFETY: the slot's unit keeps the object open until this work is answered.
        let fd = unsafe { BorrowedFd::borrow_raw(work.fd) };
        let result = refused.map_or_else(
            // SAFETY: the slot lends its iovecs and their memory to this work until it is answered.
            || unsafe { sys::make(fd, work.call, work.iovecs, work.count) },
            Err,
        );
        let answered = answers.push((work.slot, result));
        debug_assert!(answered.is_ok(), "one place for each slot");
        wake.signal();
    }
}

/// Leaves the data core that spawned this thread: takes the main thread's CPUs. Where that is not
/// allowed the thread stays where it is, which costs speed and nothing else.
fn unpin() {
    let main = rustix::process::getpid();
    if let Ok(cpus) = rustix::thread::sched_getaffinity(Some(main)) {
        let _ = rustix::thread::sched_setaffinity(None, &cpus);
    }
}
