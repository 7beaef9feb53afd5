//! The calls to the system that VFIO needs: `ioctl` in its few shapes, each made safe to call.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::iova::Range;
use super::uapi::{
    Answer, CHECK_EXTENSION, DEVICE_RESET, GET_API_VERSION, GROUP_DEVICE_FD, GROUP_SET_CONTAINER,
    IOAS_IOVA_RANGES, IoasRanges, IovaRange, SET_IOMMU,
};

/// Words of an answer at first, and at most.
const ANSWER_WORDS: usize = 256;
const ANSWER_WORDS_MAX: usize = 16 * 1024;
/// Ranges of addresses that are looked at.
const RANGES_MAX: usize = 128;

/// A structure that an operation reads and writes.
///
/// # Safety
/// 1. `OPERATION` accesses as many bytes as the structure has, which is of the kernel's layout; any
///    bytes are a good value of it.
/// 2. It writes to no other memory of the process before it returns.
pub(super) unsafe trait Exchange {
    const OPERATION: u64;
}

/// A structure that names memory, which the device reaches from then on.
///
/// # Safety
/// As [`Exchange`]; the operation itself writes to no memory but the structure.
pub(super) unsafe trait Lend {
    const OPERATION: u64;
}

fn checked(result: libc::c_int) -> Result<libc::c_int, Errno> {
    if result >= 0 {
        return Ok(result);
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Has the kernel do what `value` says, and write its answer there.
pub(super) fn exchange<T: Exchange>(fd: &OwnedFd, value: &mut T) -> Result<(), Errno> {
    // SAFETY: the operation accesses `value` alone (`Exchange`).
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), T::OPERATION, &raw mut *value) })?;
    Ok(())
}

/// Has the kernel let the device reach what `value` names.
///
/// # Safety
/// What [`DmaSpace::map`](super::super::dma::DmaSpace::map) asks for, of the memory that `value`
/// names.
pub(super) unsafe fn lend<T: Lend>(fd: &OwnedFd, value: &mut T) -> Result<(), Errno> {
    // SAFETY: the operation itself accesses `value` alone (`Lend`); what the device may do to the
    // memory from then on is in order (the caller).
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), T::OPERATION, &raw mut *value) })?;
    Ok(())
}

/// Operations that take a number, or nothing, and touch no memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {
    ApiVersion,
    /// Whether a kind of IOMMU is there: 0 or 1.
    CheckExtension(u8),
    SetIommu(u8),
    Reset,
}

pub(super) fn call(fd: &OwnedFd, call: Call) -> Result<i32, Errno> {
    let (operation, number) = match call {
        Call::ApiVersion => (GET_API_VERSION, 0),
        Call::CheckExtension(kind) => (CHECK_EXTENSION, kind),
        Call::SetIommu(kind) => (SET_IOMMU, kind),
        Call::Reset => (DEVICE_RESET, 0),
    };
    // SAFETY: these operations take numbers and touch no memory of ours.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), operation, libc::c_ulong::from(number)) })
}

/// Puts a group into a container.
pub(super) fn set_container(group: &OwnedFd, container: &OwnedFd) -> Result<(), Errno> {
    let container = container.as_raw_fd();
    // SAFETY: this operation reads one int.
    checked(unsafe { libc::ioctl(group.as_raw_fd(), GROUP_SET_CONTAINER, &raw const container) })?;
    Ok(())
}

/// Opens the function `name` of a group.
pub(super) fn device_of_group(group: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    // SAFETY: this operation reads a text that ends with a zero.
    let fd = checked(unsafe { libc::ioctl(group.as_raw_fd(), GROUP_DEVICE_FD, name.as_ptr()) })?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // The kernel makes it close-on-exec only since 6.0 or so.
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Asks for a structure that capabilities may follow: `head` is what is asked, whose first word is
/// for the length.
pub(super) fn ask<const N: usize>(
    fd: BorrowedFd<'_>,
    operation: u64,
    head: [u32; N],
) -> Result<Answer, Errno> {
    let mut words = vec![0; ANSWER_WORDS.max(N)];
    loop {
        let bytes = u32::try_from(size_of_val(words.as_slice())).map_err(|_| Errno::NOMEM)?;
        words[..N].copy_from_slice(&head);
        words[0] = bytes;
        // SAFETY: the two operations that this is for (of a region, of an IOMMU) write as many
        // bytes as the first word says at most, which is what there is.
        checked(unsafe { libc::ioctl(fd.as_raw_fd(), operation, words.as_mut_ptr()) })?;
        let needed = usize::try_from(words[0])
            .map_err(|_| Errno::NOMEM)?
            .div_ceil(4);
        if needed <= words.len() {
            return Ok(Answer(words));
        }
        if needed > ANSWER_WORDS_MAX {
            return Err(Errno::NOMEM);
        }
        words = vec![0; needed];
    }
}

/// The addresses that an IOAS translates, and what they are multiples of.
pub(super) fn ioas_ranges(iommufd: &OwnedFd, ioas: u32) -> Result<(Vec<Range>, u64), Errno> {
    let mut found: Vec<IovaRange> = vec![[0; 2]; RANGES_MAX];
    let mut question = IoasRanges {
        size: 32,
        ioas,
        count: u32::try_from(RANGES_MAX).map_err(|_| Errno::NOMEM)?,
        reserved: 0,
        ranges: found.as_mut_ptr().expose_provenance() as u64,
        alignment: 0,
    };
    let fd = iommufd.as_fd();
    // SAFETY: this operation reads and writes one `struct iommu_ioas_iova_ranges`, and writes at
    // most `count` ranges to where `ranges` leads, which is room for as many, held here.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), IOAS_IOVA_RANGES, &raw mut question) };
    match checked(result) {
        // More than there is room for: the first ones will do.
        Ok(_) | Err(Errno::MSGSIZE) => {}
        Err(errno) => return Err(errno),
    }
    let count = usize::try_from(question.count)
        .unwrap_or(RANGES_MAX)
        .min(RANGES_MAX);
    let range = |&[start, last]: &IovaRange| Range { start, last };
    let ranges = found[..count].iter().map(range).collect();
    Ok((ranges, question.alignment.max(4096)))
}
