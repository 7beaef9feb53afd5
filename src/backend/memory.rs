//! The memory disk: one sparse mapping, shared by all cores as a device would be.
//!
//! Cores copy in and out of it without locks, so two of them may race on a block as initiators may
//! race on any disk. Rust has no safe (or even defined) racing copy through references or raw
//! pointers, so the copies are inline assembly (`rep movsb`) or, elsewhere, relaxed atomic words:
//! no reference to the disk's memory is ever made. Bounds are checked here, in bytes, against the
//! mapping; a block may be torn between racing writers, as on a disk that guarantees no atomicity.
//!
//! Huge pages are asked for: a disk in full use has far fewer TLB misses with them. The price is
//! that the first write to 2 MiB may take all of them, and that an unmap inside gives memory back
//! only once the kernel has split them. Where memory is what counts, the administrator turns them
//! off (`/sys/kernel/mm/transparent_hugepage/enabled`).
//!
//! Unmapped pages go back to the kernel; what is unmapped reads as zeroes. Long zeroings are cut
//! into steps by the caller ([`ZERO_STEP_BYTES`]) so that no turn of a core takes long.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::io::Errno;
use rustix::mm::{Advice, madvise};

use super::request::Usage;
use super::spec::OpenError;
use crate::mem::{DmaBuf, Region};

/// The most bytes that one call of [`MemoryDisk::zero`] should be given by a data core.
pub(super) const ZERO_STEP_BYTES: u64 = 32 << 20;

/// Bytes that one call of [`MemoryDisk::scan`] may look at: well below a millisecond.
pub(super) const SCAN_STEP_BYTES: u64 = 1 << 20;

/// Bytes from the start of a request that are prefetched.
const PREFETCH_BYTES: u64 = 4096;
const CACHE_LINE_BYTES: usize = 64;
const PAGE_BYTES: u64 = 4096;
/// Pages whose residency is asked for in one call.
const RESIDENCY_PAGES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct MemoryDisk {
    region: Region,
    bytes: u64,
    /// What would take more memory is refused.
    limit_reached: AtomicBool,
}

impl MemoryDisk {
    pub(super) fn new(bytes: u64) -> Result<Self, OpenError> {
        let len = usize::try_from(bytes).map_err(|_| crate::mem::RegionError::Size(usize::MAX))?;
        Ok(Self {
            region: Region::sparse(len)?,
            bytes,
            limit_reached: AtomicBool::new(false),
        })
    }

    /// Copies the disk's bytes from `offset` on into `buf`: this disk's own I/O.
    pub(super) fn read(&self, offset: u64, buf: &mut DmaBuf) {
        let mut at = self.at(offset, buf.len());
        for slice in buf.slices_mut() {
            // SAFETY: `at` has room for the whole buffer (checked by `self.at`), of which this
            // slice is the next piece; the slice is exclusively ours.
            unsafe { racy::copy_out(at, slice) };
            // SAFETY: stays inside the range that `self.at` checked, or one past its end.
            at = unsafe { at.add(slice.len()) };
        }
    }

    /// Copies `buf` over the disk's bytes from `offset` on: this disk's own I/O.
    pub(super) fn write(&self, offset: u64, buf: &DmaBuf) {
        let mut at = self.at(offset, buf.len());
        for slice in buf.slices() {
            // SAFETY: `at` has room for the whole buffer (checked by `self.at`), of which this
            // slice is the next piece.
            unsafe { racy::copy_in(at, slice) };
            // SAFETY: stays inside the range that `self.at` checked, or one past its end.
            at = unsafe { at.add(slice.len()) };
        }
    }

    /// Makes `range` read as zeroes and gives whole pages of it back to the kernel.
    pub(super) fn zero(&self, range: Range<u64>) {
        let pages = range.start.next_multiple_of(PAGE_BYTES)..range.end / PAGE_BYTES * PAGE_BYTES;
        if pages.start >= pages.end {
            self.zero_bytes(range.start, range.end);
            return;
        }
        self.zero_bytes(range.start, pages.start);
        self.zero_bytes(pages.end, range.end);
        let len = usize::try_from(pages.end - pages.start).expect("inside a mapping");
        let at = self.at(pages.start, len);
        // SAFETY: whole pages inside our own anonymous mapping; racing copies of other cores see
        // their old contents or zeroes, and never through references.
        let given_back = unsafe { madvise(at.as_ptr().cast(), len, Advice::LinuxDontNeed) };
        if given_back.is_err() {
            // Locked pages (mlockall) cannot be given back; they are zeroed where they are.
            self.zero_bytes(pages.start, pages.end);
        }
    }

    /// Looks from `at` (and at the whole page that it is in) to `end` for the first page whose
    /// answer to "is there anything but zeroes?" is not `mapped`. Returns where that is, or `end`,
    /// and the answer that holds up to there; with `mapped` absent the first page gives it.
    ///
    /// What was written is not kept track of, which would cost each write: a page of zeroes counts
    /// as unmapped, since SBC-3 lets a device unmap such blocks by itself at any time where
    /// unmapped blocks read as zeroes (autonomous LBA transitions).
    pub(super) fn scan(&self, range: Range<u64>, mapped: Option<bool>) -> (u64, bool) {
        let (mut at, mut known) = (range.start, mapped);
        while at < range.end {
            let page = at / PAGE_BYTES * PAGE_BYTES;
            let end = (page + PAGE_BYTES).min(self.bytes);
            let here = !self.is_zero(page, end);
            if *known.get_or_insert(here) != here {
                break;
            }
            at = end;
        }
        (at.min(range.end), known.unwrap_or(true))
    }

    /// Whether a page, or the part of one that ends the disk, is all zeroes.
    fn is_zero(&self, start: u64, end: u64) -> bool {
        let mut page = [0; 4096];
        let page = &mut page[..usize::try_from(end - start).expect("at most a page")];
        let at = self.at(start, page.len());
        // SAFETY: `self.at` checked that so many bytes from `at` on are the disk's.
        unsafe { racy::copy_out(at, page) };
        page.iter().all(|byte| *byte == 0)
    }

    pub(super) fn set_limit_reached(&self, reached: bool) {
        self.limit_reached.store(reached, Relaxed);
    }

    /// Whether these bytes may be written: always, until the limit is reached; then where there is
    /// memory behind all of them. (A page that was swapped out counts as having none.)
    pub(super) fn may_write(&self, range: Range<u64>) -> bool {
        if !self.limit_reached.load(Relaxed) {
            return true;
        }
        let from = range.start / PAGE_BYTES * PAGE_BYTES;
        let to = range.end.next_multiple_of(PAGE_BYTES);
        self.resident(range) == Ok(to - from)
    }

    /// The memory that the disk takes, and what its size still allows. A walk over the whole
    /// mapping: not for a data core.
    pub(super) fn usage(&self) -> Result<Usage, Errno> {
        let used = self.resident(0..self.bytes)?;
        Ok(Usage {
            used,
            available: self.bytes.saturating_sub(used),
        })
    }

    /// Bytes of memory behind the pages that `range` touches.
    fn resident(&self, range: Range<u64>) -> Result<u64, Errno> {
        let mut at = range.start / PAGE_BYTES * PAGE_BYTES;
        let end = range.end.next_multiple_of(PAGE_BYTES);
        let mut backed = 0;
        let pages = usize::try_from((end - at) / PAGE_BYTES).expect("inside a mapping");
        let mut residency = vec![0_u8; pages.min(RESIDENCY_PAGES)];
        while at < end {
            let pages = usize::try_from((end - at) / PAGE_BYTES).expect("inside a mapping");
            let residency = &mut residency[..pages.min(RESIDENCY_PAGES)];
            let len = residency.len() as u64 * PAGE_BYTES;
            let offset = usize::try_from(at).expect("inside a mapping");
            // SAFETY: `at` is below the disk's size, which the region holds.
            let address = unsafe { self.region.base().add(offset) };
            let len_bytes = usize::try_from(len).expect("inside a mapping");
            // SAFETY: mincore reads no memory of ours and writes one byte for each page of a range
            // that lies in our mapping, which is whole pages long.
            let answer = unsafe {
                libc::mincore(
                    address.as_ptr().cast(),
                    len_bytes,
                    residency.as_mut_ptr().cast(),
                )
            };
            if answer != 0 {
                let error = std::io::Error::last_os_error();
                return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
            }
            backed += residency.iter().filter(|page| **page & 1 != 0).count() as u64 * PAGE_BYTES;
            at += len;
        }
        Ok(backed)
    }

    /// Asks the cache for the first bytes from `offset` on; a hint without effect on contents.
    pub(super) fn prefetch(&self, offset: u64, bytes: u64) {
        let Some(left) = self.bytes.checked_sub(offset) else {
            return;
        };
        let len = usize::try_from(bytes.min(left).min(PREFETCH_BYTES)).expect("at most 4096");
        if len == 0 {
            return;
        }
        let at = self.at(offset, len);
        for line in (0..len).step_by(CACHE_LINE_BYTES) {
            // SAFETY: `line` is below the length that `self.at` checked.
            racy::prefetch(unsafe { at.add(line) });
        }
    }

    fn zero_bytes(&self, start: u64, end: u64) {
        let len = usize::try_from(end.saturating_sub(start)).expect("inside a mapping");
        if len > 0 {
            let at = self.at(start, len);
            // SAFETY: `self.at` checked that `len` bytes from `at` on are the disk's.
            unsafe { racy::zero(at, len) };
        }
    }

    /// The address of `offset`, having checked that `len` bytes from there on are the disk's.
    fn at(&self, offset: u64, len: usize) -> NonNull<u8> {
        let end = offset
            .checked_add(len as u64)
            .filter(|&end| end <= self.bytes);
        assert!(
            end.is_some(),
            "{len} bytes at {offset} are inside a disk of {} bytes",
            self.bytes
        );
        let offset = usize::try_from(offset).expect("inside a mapping");
        // SAFETY: the offset is at most the disk's size, which the region holds.
        unsafe { self.region.base().add(offset) }
    }
}

/// Copies that may race with other cores.
#[cfg(target_arch = "x86_64")]
mod racy {
    use std::arch::asm;
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    use std::ptr::NonNull;

    /// # Safety
    /// 1. `dst.len()` bytes from `disk` on are mapped for as long as the call lasts.
    /// 2. All access to them, here and elsewhere, is by functions of this module or the kernel.
    pub(super) unsafe fn copy_out(disk: NonNull<u8>, dst: &mut [u8]) {
        // SAFETY: the caller's 1; `dst` is exclusively ours; the direction flag is clear by the
        // ABI.
        unsafe {
            asm!("rep movsb", inout("rcx") dst.len() => _, inout("rdi") dst.as_mut_ptr() => _,
                inout("rsi") disk.as_ptr() => _, options(nostack, preserves_flags));
        }
    }

    /// # Safety
    /// As [`copy_out`], for `src.len()` bytes.
    pub(super) unsafe fn copy_in(disk: NonNull<u8>, src: &[u8]) {
        // SAFETY: the caller's 1; `src` is borrowed; the direction flag is clear by the ABI.
        unsafe {
            asm!("rep movsb", inout("rcx") src.len() => _, inout("rdi") disk.as_ptr() => _,
                inout("rsi") src.as_ptr() => _, options(nostack, preserves_flags));
        }
    }

    /// # Safety
    /// As [`copy_out`], for `len` bytes.
    pub(super) unsafe fn zero(disk: NonNull<u8>, len: usize) {
        // SAFETY: the caller's 1; the direction flag is clear by the ABI.
        unsafe {
            asm!("rep stosb", inout("rcx") len => _, inout("rdi") disk.as_ptr() => _,
                in("al") 0_u8, options(nostack, preserves_flags));
        }
    }

    pub(super) fn prefetch(disk: NonNull<u8>) {
        // SAFETY: a prefetch never faults and changes no memory, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(disk.as_ptr().cast()) }
    }
}

#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable;
#[cfg(not(target_arch = "x86_64"))]
use portable as racy;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Pages, Pool};

    #[test]
    fn zeroing_keeps_the_neighbours_of_its_edges() {
        let disk = MemoryDisk::new(64 << 10).unwrap();
        let pool = Pool::new(64 << 10, Pages::Normal).unwrap();
        let mut buf = pool.alloc(64 << 10).unwrap();
        for (start, end) in [
            (512, 1024),
            (512, 8192),
            (4096, 12288),
            (3584, 16896),
            (0, 65536),
        ] {
            buf.fill(0, 65536, 0xa5);
            disk.write(0, &buf);
            disk.zero(start as u64..end as u64);
            disk.read(0, &mut buf);
            let mut bytes = vec![1; 65536];
            buf.copy_to(0, &mut bytes);
            let zeroed = |at: usize| (start..end).contains(&at);
            assert!(
                bytes
                    .iter()
                    .enumerate()
                    .all(|(at, &b)| b == if zeroed(at) { 0 } else { 0xa5 })
            );
        }
    }

    #[test]
    #[should_panic(expected = "are inside a disk")]
    fn beyond_the_mapping_panics_rather_than_writes() {
        let disk = MemoryDisk::new(4096).unwrap();
        let pool = Pool::new(1 << 14, Pages::Normal).unwrap();
        disk.write(4096 - 512, &pool.alloc(1024).unwrap());
    }

    #[test]
    fn portable_copies_do_what_the_assembly_does() {
        let region = Region::sparse(4096).unwrap();
        let src: Vec<u8> = (0..1024_u16).map(|n| n.to_le_bytes()[0]).collect();
        let mut dst = vec![0; 1024];
        // SAFETY: inside the region.
        let at = unsafe { region.base().add(512) };
        // SAFETY: 1024 bytes from 512 on are inside the region of 4096, which only this test uses.
        unsafe { portable::copy_in(at, &src) };
        // SAFETY: as above.
        unsafe { portable::copy_out(at, &mut dst) };
        assert_eq!(dst, src);
        // SAFETY: as above.
        unsafe { portable::zero(at, 512) };
        // SAFETY: as above.
        unsafe { portable::copy_out(at, &mut dst) };
        assert!(dst[..512].iter().all(|&byte| byte == 0));
        assert_eq!(dst[512..], src[512..]);
        portable::prefetch(at);
    }
}
