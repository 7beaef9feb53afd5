//! The system calls of the file devices that `rustix` lacks: one thin safe or unsafe function each.
//!
//! Everything here may block; data cores call it only where the object is on tmpfs.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::job::{Call, IOVECS_MAX};

/// Iovecs of one call. The memory behind them is lent to whoever makes the call.
pub(super) type Iovecs = [libc::iovec; IOVECS_MAX];

/// Length of [`ZEROES`], in bytes.
pub(super) const ZEROES_BYTES: usize = 64 << 10;

#[repr(align(4096))]
pub(super) struct Zeroes([u8; ZEROES_BYTES]);

/// Zeroes to write from, aligned for direct transfers. Never written.
pub(super) static ZEROES: Zeroes = Zeroes([0; ZEROES_BYTES]);

impl Zeroes {
    pub(super) fn iovec(&'static self, len: usize) -> libc::iovec {
        assert!(
            len <= ZEROES_BYTES,
            "one iovec covers the zeroes at most once"
        );
        libc::iovec {
            iov_base: self.0.as_ptr().cast_mut().cast(),
            iov_len: len,
        }
    }
}

/// Makes `call` and returns the bytes transferred (0 for calls that transfer none).
///
/// # Safety
/// 1. For transfers, the first `count` iovecs describe memory that stays valid for the call, that
///    nobody else touches meanwhile if the call reads, and that nobody writes if it writes.
pub(super) unsafe fn make(
    fd: BorrowedFd<'_>,
    call: Call,
    iovecs: *const libc::iovec,
    count: usize,
) -> Result<usize, Errno> {
    let count = libc::c_int::try_from(count.min(IOVECS_MAX)).expect("a small constant");
    let keep = FallocateFlags::KEEP_SIZE;
    match call {
        Call::Read { offset, .. } => {
            let offset = off(offset)?;
            // SAFETY: the caller's 1.
            transferred(unsafe { libc::preadv2(fd.as_raw_fd(), iovecs, count, offset, 0) })
        }
        Call::Write { offset, dsync, .. } => {
            let (offset, flags) = (off(offset)?, if dsync { libc::RWF_DSYNC } else { 0 });
            // SAFETY: the caller's 1.
            transferred(unsafe { libc::pwritev2(fd.as_raw_fd(), iovecs, count, offset, flags) })
        }
        Call::WriteZeroes { offset, .. } => {
            let offset = off(offset)?;
            // SAFETY: the caller's 1.
            transferred(unsafe { libc::pwritev2(fd.as_raw_fd(), iovecs, count, offset, 0) })
        }
        Call::Sync => rustix::fs::fdatasync(fd).map(|()| 0),
        Call::PunchHole { offset, len } => {
            rustix::fs::fallocate(fd, FallocateFlags::PUNCH_HOLE | keep, offset, len).map(|()| 0)
        }
        Call::ZeroRange { offset, len } => {
            rustix::fs::fallocate(fd, FallocateFlags::ZERO_RANGE | keep, offset, len).map(|()| 0)
        }
        Call::IsBacked { offset, len } => is_backed(fd, offset, len).map(usize::from),
        Call::Discard { offset, len } => discard(fd, offset, len),
        // Everybody reads and writes at offsets of their own: the one that this moves is nobody's.
        Call::SeekData { offset } => found(rustix::fs::seek(fd, SeekFrom::Data(offset))),
        Call::SeekHole { offset } => found(rustix::fs::seek(fd, SeekFrom::Hole(offset))),
    }
}

/// Whether space backs all of these bytes of a file. What a file system has set aside but never
/// written counts as not backed.
fn is_backed(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<bool, Errno> {
    let hole = match rustix::fs::seek(fd, SeekFrom::Hole(offset)) {
        Ok(hole) => hole,
        // The file ends before.
        Err(Errno::NXIO) => return Ok(false),
        Err(errno) => return Err(errno),
    };
    Ok(hole >= offset.saturating_add(len))
}

/// Takes the object for this open file description alone (shared among read-only ones of other
/// processes), without waiting. The lock goes with the last descriptor.
pub(super) fn lock(fd: BorrowedFd<'_>, read_only: bool) -> Result<(), Errno> {
    let kind = if read_only {
        libc::F_RDLCK
    } else {
        libc::F_WRLCK
    };
    // SAFETY: plain integers, for which all zeroes is a value; the kernel wants `l_pid` zero.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::c_short::try_from(kind).expect("a small constant");
    lock.l_whence = libc::c_short::try_from(libc::SEEK_SET).expect("a small constant");
    // SAFETY: F_OFD_SETLK reads one `flock`, which lives on this stack.
    let answer = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if answer == -1 {
        Err(last_errno())
    } else {
        Ok(())
    }
}

/// `_IO(0x12, 119)`: discard the bytes of a (start, length) pair.
const BLKDISCARD: libc::Ioctl = 0x1277;

fn discard(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<usize, Errno> {
    let range = [offset, len];
    // SAFETY: BLKDISCARD reads two 64-bit words, which live on this stack.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), BLKDISCARD, range.as_ptr()) };
    if answer == -1 {
        Err(last_errno())
    } else {
        Ok(0)
    }
}

fn found(offset: Result<u64, Errno>) -> Result<usize, Errno> {
    usize::try_from(offset?).map_err(|_| Errno::OVERFLOW)
}

fn off(offset: u64) -> Result<libc::off_t, Errno> {
    libc::off_t::try_from(offset).map_err(|_| Errno::INVAL)
}

fn transferred(answer: isize) -> Result<usize, Errno> {
    usize::try_from(answer).map_err(|_| last_errno())
}

fn last_errno() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
