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
//!
//! A page is the disk's own from the first write to it until it is unmapped or zeroed whole
//! ([`PageMap`]): that is what usage counts, what may be written at the limit, and what GET LBA
//! STATUS reports as mapped. Reading takes nothing.

mod pages;

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::mm::{Advice, madvise};

use self::pages::PageMap;
use super::request::Usage;
use super::spec::OpenError;
use crate::mem::{DmaBuf, Region};

/// The most bytes that one call of [`MemoryDisk::zero`] should be given by a data core.
pub(super) const ZERO_STEP_BYTES: u64 = 32 << 20;

/// Bytes of the disk that one call of [`MemoryDisk::run`] looks at: 128 KiB of bits, some 10 µs.
const RUN_BYTES_MAX: u64 = 4 << 30;

/// Bytes from the start of a request that are prefetched.
const PREFETCH_BYTES: u64 = 4096;
const CACHE_LINE_BYTES: usize = 64;
const PAGE_BYTES: u64 = 4096;

#[derive(Debug)]
pub(super) struct MemoryDisk {
    region: Region,
    bytes: u64,
    written: PageMap,
    /// What would take more memory is refused.
    limit_reached: AtomicBool,
}

impl MemoryDisk {
    pub(super) fn new(bytes: u64) -> Result<Self, OpenError> {
        let len = usize::try_from(bytes).map_err(|_| crate::mem::RegionError::Size(usize::MAX))?;
        Ok(Self {
            region: Region::sparse(len)?,
            bytes,
            written: PageMap::new(bytes.div_ceil(PAGE_BYTES))?,
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
        // Behind the copy: what is given back at the same time must not be left unmarked.
        self.written
            .set(pages_of(offset..offset + buf.len() as u64));
    }

    /// Makes `range` read as zeroes and gives whole pages of it back to the kernel.
    pub(super) fn zero(&self, range: Range<u64>) {
        // The page that the disk ends in is whole as far as the disk goes.
        let last = if range.end == self.bytes {
            range.end.next_multiple_of(PAGE_BYTES)
        } else {
            range.end / PAGE_BYTES * PAGE_BYTES
        };
        let pages = range.start.next_multiple_of(PAGE_BYTES)..last;
        if pages.start >= pages.end {
            self.zero_bytes(range.start, range.end);
            return;
        }
        self.zero_bytes(range.start, pages.start);
        self.zero_bytes(pages.end, range.end);
        let bytes = |end: u64| usize::try_from(end - pages.start).expect("inside a mapping");
        let at = self.at(pages.start, bytes(pages.end.min(self.bytes)));
        self.written.clear(pages_of(pages.clone()));
        // SAFETY: whole pages inside our own anonymous mapping, which is whole pages long; racing
        // copies of other cores see their old contents or zeroes, and never through references.
        let given_back =
            unsafe { madvise(at.as_ptr().cast(), bytes(pages.end), Advice::LinuxDontNeed) };
        if given_back.is_err() {
            // Locked pages (mlockall) cannot be given back; they are zeroed where they are.
            self.overwrite_with_zeroes(pages.start, pages.end.min(self.bytes));
        }
    }

    /// Whether the page that byte `at` of the disk is in was written, and the byte, `at` + 4 GiB or
    /// so at most, up to which the same holds of the pages behind it.
    pub(super) fn run(&self, at: u64) -> (bool, u64) {
        let end = self.bytes.min(at.saturating_add(RUN_BYTES_MAX));
        let (mapped, page) = self.written.run(pages_of(at..end));
        (mapped, (page * PAGE_BYTES).min(self.bytes))
    }

    pub(super) fn set_limit_reached(&self, reached: bool) {
        self.limit_reached.store(reached, Relaxed);
    }

    /// Whether these bytes may be written: always, until the limit is reached; then where all their
    /// pages were written before.
    pub(super) fn may_write(&self, range: Range<u64>) -> bool {
        !self.limit_reached.load(Relaxed) || self.written.all_set(pages_of(range))
    }

    /// What the pages that were written take, and what the disk's size still allows. Where the
    /// kernel backs them with huge pages the process may hold more.
    pub(super) fn usage(&self) -> Usage {
        let used = (self.written.count() * PAGE_BYTES).min(self.bytes);
        Usage {
            used,
            available: self.bytes - used,
        }
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

    /// Zeroes part of a page or of two; where nothing was written there are zeroes already, and
    /// writing them would take memory.
    fn zero_bytes(&self, start: u64, end: u64) {
        let mut at = start;
        while at < end {
            let next = end.min((at / PAGE_BYTES + 1) * PAGE_BYTES);
            if self.written.all_set(pages_of(at..next)) {
                self.overwrite_with_zeroes(at, next);
            }
            at = next;
        }
    }

    fn overwrite_with_zeroes(&self, start: u64, end: u64) {
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

/// The pages that a range of bytes touches.
fn pages_of(bytes: Range<u64>) -> Range<u64> {
    bytes.start / PAGE_BYTES..bytes.end.div_ceil(PAGE_BYTES)
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
    fn only_what_is_written_takes_memory_and_zeroing_gives_it_back() {
        // 100 pages and a block.
        let bytes = 100 * 4096 + 512;
        let disk = MemoryDisk::new(bytes).unwrap();
        let pool = Pool::new(1 << 20, Pages::Normal).unwrap();
        let whole = pool.alloc(100 * 4096 + 512);
        disk.read(0, &mut whole.unwrap());
        assert_eq!(disk.usage().used, 0, "reading takes nothing");
        let mut buf = pool.alloc(8192).unwrap();
        buf.fill(0, 8192, 0);
        for _ in 0..2 {
            disk.write(4096 + 512, &buf);
            assert_eq!(disk.usage().used, 3 * 4096);
        }
        assert_eq!(disk.run(0), (false, 4096));
        assert_eq!(disk.run(512), (false, 4096));
        assert_eq!(disk.run(4096), (true, 4 * 4096), "zeroes that were written");
        assert_eq!(disk.run(4 * 4096), (false, bytes));
        disk.zero(8 * 4096 + 512..9 * 4096 - 512);
        assert_eq!(disk.usage().used, 3 * 4096, "there were zeroes already");
        disk.zero(4096 + 512..3 * 4096);
        assert_eq!(disk.run(4096), (true, 8192), "its first block is kept");
        assert_eq!(disk.usage().used, 2 * 4096);
        disk.write(bytes - 8192, &buf);
        assert_eq!(disk.usage().used, 5 * 4096);
        disk.zero(0..bytes);
        assert_eq!(disk.run(0), (false, bytes));
        assert_eq!((disk.usage().used, disk.usage().available), (0, bytes));
    }

    #[test]
    fn one_look_at_a_large_disk_ends_after_a_bound_and_goes_on_there() {
        let bytes = 3 * RUN_BYTES_MAX / 2;
        let disk = MemoryDisk::new(bytes).unwrap();
        assert_eq!(disk.run(0), (false, RUN_BYTES_MAX));
        assert_eq!(disk.run(RUN_BYTES_MAX), (false, bytes));
        assert_eq!(disk.run(8192), (false, RUN_BYTES_MAX + 8192));
    }

    #[test]
    fn at_the_limit_a_page_that_was_only_read_is_no_page_of_ours() {
        let disk = MemoryDisk::new(64 << 10).unwrap();
        let pool = Pool::new(64 << 10, Pages::Normal).unwrap();
        let mut buf = pool.alloc(4096).unwrap();
        disk.read(0, &mut buf);
        disk.write(8192, &buf);
        disk.set_limit_reached(true);
        assert!(!disk.may_write(0..4096), "it was only read");
        assert!(disk.may_write(8192..12288));
        assert!(!disk.may_write(8192 + 512..12288 + 512));
        disk.set_limit_reached(false);
        assert!(disk.may_write(0..4096));
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
