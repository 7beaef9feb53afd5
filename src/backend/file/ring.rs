//! One core's io_uring, for all its files: made on the thread that uses it.
//!
//! Flags are those that measured best, with fallbacks for older kernels: completions are run only
//! when this thread asks (DEFER_TASKRUN), and a flag in shared memory says when there is something
//! to ask for, so that an idle poll is two loads and no system call. Invariants: each slot has at
//! most one entry under way, so the submission queue (at least as long as there are slots) always
//! has room and the completion queue (twice that) never overflows; the overflow flag is obeyed
//! nevertheless. The ring is never dropped with work under way: see `Files`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{Ordering::SeqCst, fence};

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode};
use rustix::io::Errno;

use super::job::Call;

/// Kernel worker threads for calls that would block, for files and for everything else.
const KERNEL_WORKERS_MAX: u32 = 16;

/// How the ring names a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RingFile {
    /// By its place in the registered table.
    Fixed(u32),
    Plain(RawFd),
}

pub(super) struct Ring {
    ring: IoUring,
    /// Places in the registered table, when there is one.
    files: u32,
    /// Places that were given up while entries that may name them were still queued here.
    stale: Vec<u32>,
    unsubmitted: usize,
    in_flight: usize,
}

impl Ring {
    /// A ring for `slots` calls under way and a table of `files` files, which signals `wake`.
    pub(super) fn new(slots: u32, files: u32, wake: BorrowedFd<'_>) -> io::Result<Self> {
        let entries = slots.next_power_of_two();
        let ring = build(entries)?;
        ring.submitter().register_eventfd(wake.as_raw_fd())?;
        // Older kernels lack these two; the ring works without them.
        let files = ring
            .submitter()
            .register_files_sparse(files)
            .map_or(0, |()| files);
        let _ = ring
            .submitter()
            .register_iowq_max_workers(&mut [KERNEL_WORKERS_MAX; 2]);
        Ok(Self {
            ring,
            files,
            stale: Vec::new(),
            unsubmitted: 0,
            in_flight: 0,
        })
    }

    /// Makes a file known under `index`. The caller keeps it open until nothing is under way on it.
    pub(super) fn add_file(&mut self, index: u32, fd: BorrowedFd<'_>) -> RingFile {
        let fd = fd.as_raw_fd();
        self.submit();
        let free = index < self.files && !self.stale.contains(&index);
        if free
            && self
                .ring
                .submitter()
                .register_files_update(index, &[fd])
                .is_ok()
        {
            RingFile::Fixed(index)
        } else {
            RingFile::Plain(fd)
        }
    }

    /// Forgets a file. Calls that the kernel has taken end by themselves: it holds the file for
    /// them. Those still queued here are given to it first, or they would find an empty place, or
    /// worse the next file there.
    pub(super) fn remove_file(&mut self, file: RingFile) {
        if let RingFile::Fixed(index) = file {
            self.stale.push(index);
            self.submit();
            self.clear_stale();
        }
    }

    fn clear_stale(&mut self) {
        if self.unsubmitted == 0 {
            for index in self.stale.drain(..) {
                // It can only fail for an index outside the table.
                let _ = self.ring.submitter().register_files_update(index, &[-1]);
            }
        }
    }

    /// Queues a call for the next [`Ring::submit`].
    ///
    /// # Safety
    /// 1. `iovecs[..count]` and the memory that they describe stay valid and untouched (unwritten,
    ///    for writes) until `slot` has been reaped.
    /// 2. A [`RingFile::Plain`] stays open until then.
    /// 3. `slot` has no call under way.
    pub(super) unsafe fn push(
        &mut self,
        slot: u32,
        file: RingFile,
        call: Call,
        iovecs: &[libc::iovec],
    ) -> Result<(), Errno> {
        // A fixed file is named by its index in the descriptor's place, and a flag.
        let (fd, flags) = match file {
            RingFile::Fixed(index) => (index.cast_signed(), Flags::FIXED_FILE),
            RingFile::Plain(fd) => (fd, Flags::empty()),
        };
        let entry = entry(call, Fd(fd), iovecs).ok_or(Errno::OPNOTSUPP)?;
        let entry = entry.flags(flags).user_data(u64::from(slot));
        // SAFETY: the caller's 1 and 2: what the entry points to lives until it is reaped.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // Full is impossible by the caller's 3; an error completes the request instead of losing
        // it.
        pushed.map_err(|_| Errno::NOBUFS)?;
        self.unsubmitted += 1;
        self.in_flight += 1;
        Ok(())
    }

    /// Gives the kernel what was queued. What it does not take now stays queued for the next turn.
    pub(super) fn submit(&mut self) {
        if self.unsubmitted > 0 {
            self.enter();
        }
    }

    fn enter(&mut self) {
        // After an error entries may have been taken: what counts is what the queue still holds.
        let _ = self.ring.submitter().submit();
        self.unsubmitted = self.ring.submission().len();
        if !self.stale.is_empty() {
            self.clear_stale();
        }
    }

    /// Moves answers into `out` until it has no more room.
    pub(super) fn reap(&mut self, out: &mut Vec<(u32, Result<usize, Errno>)>) {
        if self.in_flight == 0 {
            return;
        }
        if self.kernel_has_work() {
            self.enter();
        }
        for answer in self
            .ring
            .completion()
            .by_ref()
            .take(out.capacity() - out.len())
        {
            let slot = u32::try_from(answer.user_data()).expect("only slot numbers are submitted");
            out.push((slot, result(answer.result())));
            self.in_flight -= 1;
        }
    }

    /// Whether a poll would find something, or something waits to be submitted.
    pub(super) fn has_work(&mut self) -> bool {
        self.unsubmitted > 0
            || (self.in_flight > 0
                && (self.kernel_has_work() || !self.ring.completion().is_empty()))
    }

    /// Whether completions signal the eventfd.
    pub(super) fn signal(&mut self, on: bool) {
        let queue = self.ring.completion();
        if on {
            queue.enable_eventfd();
            fence(SeqCst);
        } else {
            queue.disable_eventfd();
        }
    }

    /// Completions that the kernel holds back until this thread enters it.
    fn kernel_has_work(&mut self) -> bool {
        let queue = self.ring.submission();
        queue.taskrun() || queue.cq_overflow()
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("files", &self.files)
            .field("unsubmitted", &self.unsubmitted)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

/// The best ring that this kernel grants: 6.1 and later, 5.19 and later, any.
fn build(entries: u32) -> io::Result<IoUring> {
    let completions = entries.saturating_mul(2);
    let deferred = IoUring::builder()
        .setup_cqsize(completions)
        .setup_submit_all()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(entries);
    if is_refused(&deferred) {
        return deferred;
    }
    deferred
        .or_else(|_| {
            IoUring::builder()
                .setup_cqsize(completions)
                .setup_submit_all()
                .setup_coop_taskrun()
                .setup_taskrun_flag()
                .build(entries)
        })
        .or_else(|_| IoUring::builder().setup_cqsize(completions).build(entries))
}

/// Io_uring itself is forbidden or absent: other flags do not help.
fn is_refused(ring: &io::Result<IoUring>) -> bool {
    ring.as_ref().is_err_and(|error| {
        matches!(
            Errno::from_io_error(error),
            Some(Errno::PERM | Errno::NOSYS | Errno::ACCESS)
        )
    })
}

/// The entry of a call; `None` for calls that io_uring cannot make.
fn entry(call: Call, file: Fd, iovecs: &[libc::iovec]) -> Option<Entry> {
    let count = u32::try_from(iovecs.len()).ok()?;
    let fallocate = |offset, len, mode| {
        let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
        opcode::Fallocate::new(file, len)
            .offset(offset)
            .mode(mode)
            .build()
    };
    Some(match call {
        Call::Read { offset, .. } => match iovecs {
            [one] => {
                let len = u32::try_from(one.iov_len).ok()?;
                opcode::Read::new(file, one.iov_base.cast(), len)
                    .offset(offset)
                    .build()
            }
            many => opcode::Readv::new(file, many.as_ptr(), count)
                .offset(offset)
                .build(),
        },
        Call::Write { offset, dsync, .. } => write(
            file,
            offset,
            if dsync { libc::RWF_DSYNC } else { 0 },
            iovecs,
        )?,
        Call::WriteZeroes { offset, .. } => write(file, offset, 0, iovecs)?,
        Call::Sync => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        Call::PunchHole { offset, len } => fallocate(offset, len, libc::FALLOC_FL_PUNCH_HOLE),
        Call::ZeroRange { offset, len } => fallocate(offset, len, libc::FALLOC_FL_ZERO_RANGE),
        Call::Discard { .. }
        | Call::IsBacked { .. }
        | Call::SeekData { .. }
        | Call::SeekHole { .. } => return None,
    })
}

fn write(file: Fd, offset: u64, flags: i32, iovecs: &[libc::iovec]) -> Option<Entry> {
    Some(match iovecs {
        [one] => {
            let len = u32::try_from(one.iov_len).ok()?;
            opcode::Write::new(file, one.iov_base.cast(), len)
                .offset(offset)
                .rw_flags(flags)
                .build()
        }
        many => {
            let count = u32::try_from(many.len()).ok()?;
            opcode::Writev::new(file, many.as_ptr(), count)
                .offset(offset)
                .rw_flags(flags)
                .build()
        }
    })
}

fn result(answer: i32) -> Result<usize, Errno> {
    usize::try_from(answer).map_err(|_| Errno::from_raw_os_error(answer.wrapping_neg()))
}
