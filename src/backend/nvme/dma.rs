//! Memory that the controller reads and writes by itself: [`DmaSpace`], [`Mapping`], [`DmaPages`].
//!
//! A [`Mapping`] makes memory reachable and keeps it in place: it owns a handle of the memory, and
//! gives it up only when the device cannot reach it any more. So a device can never write to memory
//! that is somebody else's by then. What it can do is write to memory of ours when it should not:
//!
//! - Rings and lists ([`DmaPages`]) are never seen through a reference, only by volatile reads and
//!   writes of values any bit pattern of which is one; what is read is checked before it is used.
//! - Buffers of requests (`mem::DmaBuf`) belong to their command from submission to completion;
//!   meanwhile nobody holds a slice of them, because the command's slot owns the buffer. A buffer
//!   whose command will never complete is free again only when one of [`Quiet`]'s proofs is there;
//!   until then it is in quarantine, and counted.
//!
//! A device that writes where nobody told it to can still spoil what is mapped for it, and nothing
//! else: behind an IOMMU that is a core's pool and the rings. Without one it is the machine.
//!
//! Every raw access of the driver to memory that a device shares is in this file.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::spec::entry::{COMPLETION_BYTES, CompletionEntry, SUBMISSION_BYTES, SubmissionEntry};
use crate::mem::{InPlace, Pages, Region, RegionError};

/// Bytes of a memory page of the controller: CC.MPS = 0, which is what PRP entries count in.
pub(crate) const PAGE_BYTES: usize = 4096;
/// Runs that one mapping may consist of: a region of 64 GiB in pages of 2 MiB. Behind an IOMMU
/// there is one.
pub(crate) const RUNS_MAX: usize = 32 * 1024;

/// An address as the device sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Iova(pub(crate) u64);

impl fmt::Debug for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Iova({:#x})", self.0)
    }
}

/// Part of a mapping that lies in one piece for the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    /// Where in the mapping, in bytes.
    pub(crate) offset: usize,
    pub(crate) len: usize,
    pub(crate) iova: Iova,
}

/// Why memory cannot be made reachable. The text names the remedy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum MapError {
    #[error("no addresses are left for {0} bytes within what the IOMMU translates")]
    NoAddress(usize),
    #[error(
        "{bytes} bytes cannot be mapped for the device: {errno}; where that is out of memory, \
         raise the limit of locked memory (LimitMEMLOCK=infinity, ulimit -l)"
    )]
    Map {
        bytes: usize,
        errno: rustix::io::Errno,
    },
    #[error("mapping cannot be undone: {0}")]
    Unmap(rustix::io::Errno),
    #[error("without an IOMMU memory has to lie in huge pages (set memory.pages = \"huge\"): {0}")]
    Scattered(String),
    #[error(transparent)]
    Region(#[from] RegionError),
}

/// The device's address space.
pub(crate) trait DmaSpace: fmt::Debug + Send + Sync + 'static {
    /// Makes `len` bytes from `base` on (whole pages) reachable, for reads and writes, and fills
    /// `runs` (empty when called, at most [`RUNS_MAX`] of them) with where they are: in the order
    /// of their offsets, without gaps, each beginning at a page. A system call or several.
    ///
    /// # Safety
    /// 1. The bytes are mapped, readable and writable, and stay so until [`unmap`](Self::unmap) of
    ///    the same runs has returned `Ok`, or for ever.
    /// 2. Nobody makes a reference to bytes of them that the device may be writing to.
    unsafe fn map(
        &self,
        base: NonNull<u8>,
        len: usize,
        runs: &mut Vec<Run>,
    ) -> Result<(), MapError>;

    /// Takes back what `map` gave for all of `runs`. `Ok`: the device cannot reach it any more.
    fn unmap(&self, runs: &[Run]) -> Result<(), MapError>;
}

/// Memory that a device reaches, kept in place as long as it does.
pub(crate) struct Mapping<D: DmaSpace, M: InPlace> {
    space: Arc<D>,
    runs: Vec<Run>,
    /// Dropped only behind the unmapping.
    memory: ManuallyDrop<M>,
}

impl<D: DmaSpace, M: InPlace> Mapping<D, M> {
    pub(crate) fn new(space: &Arc<D>, memory: M) -> Result<Self, MapError> {
        let (base, len) = memory.memory();
        let mut runs = Vec::new();
        // SAFETY: 1. `memory` keeps the bytes in place (`InPlace`), and is dropped only behind an
        // `unmap` that succeeded. 2. Bytes of pools are seen through their buffers' owners alone,
        // and commands own the buffers that they name; bytes of regions only by this module's
        // volatile accesses.
        unsafe { space.map(base, len, &mut runs) }?;
        let mapping = Self {
            space: Arc::clone(space),
            runs,
            memory: ManuallyDrop::new(memory),
        };
        assert!(mapping.is_whole(), "runs cover the memory in order");
        Ok(mapping)
    }

    fn is_whole(&self) -> bool {
        let aligned = |run: &Run| {
            run.len > 0
                && run.offset.is_multiple_of(PAGE_BYTES)
                && run.iova.0.is_multiple_of(PAGE_BYTES as u64)
        };
        let mut end = 0;
        for run in &self.runs {
            if run.offset != end || !aligned(run) {
                return false;
            }
            end += run.len;
        }
        end == self.memory.memory().1 && self.runs.len() <= RUNS_MAX
    }

    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// Where the device sees the byte at `address`, and how many bytes from there on lie in one
    /// piece, `len` at most. `None`: it is not of this memory, or not all of the `len` bytes are.
    pub(crate) fn locate(&self, address: NonNull<u8>, len: usize) -> Option<(Iova, usize)> {
        let (base, bytes) = self.memory.memory();
        let offset = address.addr().get().checked_sub(base.addr().get())?;
        offset.checked_add(len).filter(|&end| end <= bytes)?;
        self.locate_offset(offset, len)
    }

    /// As [`locate`](Self::locate), by offset from the start of the memory.
    pub(crate) fn locate_offset(&self, offset: usize, len: usize) -> Option<(Iova, usize)> {
        let run = match self.runs.as_slice() {
            [one] => one,
            many => {
                let behind = many.partition_point(|run| run.offset <= offset);
                &many[behind.checked_sub(1)?]
            }
        };
        let inside = offset.checked_sub(run.offset)?;
        let left = run.len.checked_sub(inside)?;
        let iova = run.iova.0.checked_add(inside as u64)?;
        Some((Iova(iova), len.min(left)))
    }

    /// Unmaps before the drop does, to learn whether it went well. `Err`: the device may still
    /// reach the memory, which therefore stays (leaked), with its buffers' quarantine.
    pub(crate) fn revoke(self) -> Result<(), MapError> {
        let mut mapping = ManuallyDrop::new(self);
        let unmapped = mapping.space.unmap(&mapping.runs);
        if unmapped.is_ok() {
            // SAFETY: dropped once: `mapping` itself never is.
            unsafe { ManuallyDrop::drop(&mut mapping.memory) };
        }
        // What is left of the mapping owns nothing of the device's.
        mapping.runs = Vec::new();
        unmapped
    }
}

impl<D: DmaSpace, M: InPlace> Drop for Mapping<D, M> {
    fn drop(&mut self) {
        match self.space.unmap(&self.runs) {
            // SAFETY: dropped here and nowhere else, and not touched again.
            Ok(()) => unsafe { ManuallyDrop::drop(&mut self.memory) },
            Err(error) => {
                let (_, bytes) = self.memory.memory();
                tracing::error!(bytes, "memory is left to the device: {error}");
            }
        }
    }
}

impl<D: DmaSpace, M: InPlace> fmt::Debug for Mapping<D, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("bytes", &self.memory.memory().1)
            .field("runs", &self.runs.len())
            .finish_non_exhaustive()
    }
}

/// Pages for queues, lists and what Identify returns. All accesses are volatile, by value and
/// inside the pages: an offset beyond them, or one that is not aligned to its value, is a
/// programmer error and panics. Zeroed when new. May be given to another thread; one at a time
/// uses it, which `&mut self` on writes says and readers of a ring keep to.
#[derive(Debug)]
pub(crate) struct DmaPages<D: DmaSpace> {
    mapping: Mapping<D, Region>,
}

impl<D: DmaSpace> DmaPages<D> {
    /// So many bytes, in whole pages.
    pub(crate) fn new(space: &Arc<D>, bytes: usize, pages: Pages) -> Result<Self, MapError> {
        let mapping = Mapping::new(space, Region::new(bytes, pages)?)?;
        Ok(Self { mapping })
    }

    /// In bytes.
    pub(crate) fn len(&self) -> usize {
        self.mapping.memory().len()
    }

    /// Where the device sees `range`, which must lie in one piece for it.
    pub(crate) fn iova(&self, range: Range<usize>) -> Result<Iova, MapError> {
        assert!(
            range.start < range.end && range.end <= self.len(),
            "bytes {range:?} are inside {} bytes",
            self.len()
        );
        let len = range.len();
        let found = self.mapping.locate_offset(range.start, len);
        let (iova, whole) = found.expect("inside the pages");
        if whole < len {
            let why = format!("{len} bytes of a queue are in several pieces");
            return Err(MapError::Scattered(why));
        }
        Ok(iova)
    }

    /// The address of a `T` at `offset`, having checked that it is there and aligned.
    fn at<T: Plain>(&self, offset: usize) -> NonNull<T> {
        let end = offset.checked_add(size_of::<T>());
        assert!(
            end.is_some_and(|end| end <= self.len()) && offset.is_multiple_of(align_of::<T>()),
            "a value of {} bytes at {offset} is inside {} bytes, and aligned",
            size_of::<T>(),
            self.len()
        );
        // SAFETY: the offset is inside the region's mapping.
        let byte = unsafe { self.mapping.memory().base().add(offset) };
        byte.cast()
    }

    fn load<T: Plain>(&self, offset: usize) -> T {
        let place = self.at::<T>(offset);
        // SAFETY: inside the mapping and aligned (`at`); any bytes are a `T` (`Plain`); the device
        // may write meanwhile, which a volatile read takes as it comes.
        unsafe { place.read_volatile() }
    }

    fn store<T: Plain>(&mut self, offset: usize, value: T) {
        let place = self.at::<T>(offset);
        // SAFETY: as in `load`; nobody has a reference to these bytes.
        unsafe { place.write_volatile(value) };
    }

    pub(crate) fn read_u32(&self, offset: usize) -> u32 {
        u32::from_le(self.load(offset))
    }

    #[cfg(test)]
    pub(crate) fn write_u32(&mut self, offset: usize, value: u32) {
        self.store(offset, value.to_le());
    }

    pub(crate) fn write_u64(&mut self, offset: usize, value: u64) {
        self.store(offset, value.to_le());
    }

    /// Copies out `dst.len()` bytes from `offset` on, a multiple of 4 both.
    pub(crate) fn copy_out(&self, offset: usize, dst: &mut [u8]) {
        let (dwords, rest) = dst.as_chunks_mut::<4>();
        assert!(rest.is_empty(), "data of controllers is in dwords");
        for (nth, dword) in dwords.iter_mut().enumerate() {
            *dword = self.load(offset + 4 * nth);
        }
    }

    /// Writes `bytes` at `offset`, a multiple of 4 both.
    pub(crate) fn copy_in(&mut self, offset: usize, bytes: &[u8]) {
        let (dwords, rest) = bytes.as_chunks::<4>();
        assert!(rest.is_empty(), "data for controllers is in dwords");
        for (nth, dword) in dwords.iter().enumerate() {
            self.store(offset + 4 * nth, *dword);
        }
    }

    /// Zeroes `range`, multiples of 4.
    pub(crate) fn zero(&mut self, range: Range<usize>) {
        for offset in range.step_by(4) {
            self.store(offset, 0_u32);
        }
    }

    /// Puts a command at `offset`. The device is told by a doorbell, behind its fence.
    pub(crate) fn put_command(&mut self, offset: usize, entry: &SubmissionEntry) {
        const _: () = assert!(SUBMISSION_BYTES == size_of::<[u32; 16]>());
        self.store(offset, entry.to_le_dwords());
    }

    /// The completion at `offset`, if its phase tag is `phase`: the dword with the tag is read
    /// first, and what lies before it only after an Acquire fence.
    pub(crate) fn completion(&self, offset: usize, phase: bool) -> Option<CompletionEntry> {
        const _: () = assert!(COMPLETION_BYTES == size_of::<[u32; 4]>());
        let at = |nth: usize| offset + 4 * nth;
        let last = self.read_u32(at(CompletionEntry::PHASE_DWORD));
        if CompletionEntry::phase_of(last) != phase {
            return None;
        }
        fence(Ordering::Acquire);
        let [first, second, third] = [0, 1, 2].map(|nth| self.read_u32(at(nth)));
        Some(CompletionEntry::from_dwords([first, second, third, last]))
    }

    /// See [`Mapping::revoke`].
    #[cfg(test)]
    pub(crate) fn revoke(self) -> Result<(), MapError> {
        self.mapping.revoke()
    }
}

/// Shadow doorbells and their event indices (Base Specification 2.0 §5.8, Annex B.5): a page of
/// each, shared by all queues of a controller, each word with one writer. They spare most writes to
/// registers where each of those is an exit of a virtual machine.
#[derive(Debug)]
pub(crate) struct Shadow<D: DmaSpace> {
    /// The doorbells, then the event indices.
    pages: DmaPages<D>,
}

impl<D: DmaSpace> Shadow<D> {
    pub(crate) fn new(space: &Arc<D>, pages: Pages) -> Result<Self, MapError> {
        let pages = DmaPages::new(space, 2 * PAGE_BYTES, pages)?;
        Ok(Self { pages })
    }

    /// Where the device sees the doorbells, and the event indices.
    pub(crate) fn iovas(&self) -> Result<(Iova, Iova), MapError> {
        let doorbells = self.pages.iova(0..PAGE_BYTES)?;
        let events = self.pages.iova(PAGE_BYTES..2 * PAGE_BYTES)?;
        Ok((doorbells, events))
    }

    /// Whether the pages have the doorbell that lies `place` bytes behind the first one.
    pub(crate) fn covers(place: usize) -> bool {
        place < PAGE_BYTES
    }

    /// Moves a doorbell from `old` to `new`. `true`: the controller wants the register written too.
    #[must_use]
    pub(crate) fn ring(&self, place: usize, old: u16, new: u16) -> bool {
        assert!(Self::covers(place), "the doorbell is in the page");
        // Release: behind the entries that it tells of.
        let doorbell = self.word(place);
        doorbell.store(u32::from(new).to_le(), Ordering::Release);
        // The controller stores its event index and then looks at the doorbell: one of us sees the
        // other.
        fence(Ordering::SeqCst);
        let event = u32::from_le(self.word(PAGE_BYTES + place).load(Ordering::Relaxed));
        let [low, high, _, _] = event.to_le_bytes();
        let event = u16::from_le_bytes([low, high]);
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        let word = self.pages.at::<u32>(offset);
        // SAFETY: inside the mapping and aligned (`at`), for as long as `self`; these pages are
        // accessed by atomic operations alone, here and by the device.
        unsafe { AtomicU32::from_ptr(word.as_ptr()) }
    }
}

/// Values any bytes of which are one, without padding.
///
/// # Safety
/// 1. Every bit pattern of its size is a valid value. 2. It has no padding.
unsafe trait Plain: Copy {}
// SAFETY: an integer is all of its bits.
unsafe impl Plain for u32 {}
// SAFETY: an integer is all of its bits.
unsafe impl Plain for u64 {}
// SAFETY: bytes.
unsafe impl Plain for [u8; 4] {}
// SAFETY: an array of integers has no gaps.
unsafe impl Plain for [u32; 16] {}

/// Proof that a controller makes no further access to memory for commands that were outstanding:
/// their buffers are free again. There is no other way to one but these, each observed, not
/// assumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Quiet {
    /// CSTS.RDY was read as 0 behind CC.EN = 0.
    Disabled,
    /// The function was reset.
    FunctionReset,
    /// The submission queue that they were in was deleted, or they were in none.
    QueueDeleted,
    /// The memory is not reachable any more: bus mastering is off for good, or all is unmapped.
    Unreachable,
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::atomic::AtomicUsize;

    use super::super::spec::entry::{CommandId, NamespaceId, QueueId};
    use super::super::spec::status::Status;
    use super::*;
    use crate::mem::{CHUNK_BYTES, Pool};

    /// Maps at 1 TiB in pieces of `piece` bytes, each a piece away from the next.
    #[derive(Debug)]
    struct Pieces {
        piece: usize,
        mapped: AtomicUsize,
        refuses: bool,
    }

    fn pieces(piece: usize, refuses: bool) -> Arc<Pieces> {
        let mapped = AtomicUsize::new(0);
        Arc::new(Pieces {
            piece,
            mapped,
            refuses,
        })
    }

    impl DmaSpace for Pieces {
        unsafe fn map(
            &self,
            _base: NonNull<u8>,
            len: usize,
            runs: &mut Vec<Run>,
        ) -> Result<(), MapError> {
            for offset in (0..len).step_by(self.piece) {
                runs.push(Run {
                    offset,
                    len: self.piece.min(len - offset),
                    iova: Iova((1 << 40) + 2 * offset as u64),
                });
            }
            self.mapped.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }

        fn unmap(&self, _runs: &[Run]) -> Result<(), MapError> {
            if self.refuses {
                return Err(MapError::Unmap(rustix::io::Errno::IO));
            }
            self.mapped.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        }
    }

    #[test]
    fn a_buffers_bytes_are_found_where_the_device_sees_them() {
        let space = pieces(usize::MAX, false);
        let pool = Pool::new(8 * CHUNK_BYTES, Pages::Normal).unwrap();
        let mapping = Mapping::new(&space, pool.clone()).unwrap();
        let buf = pool.alloc(3 * CHUNK_BYTES).unwrap();
        let (first, len) = buf.segments(100..3 * CHUNK_BYTES).next().unwrap();
        let offset = first.addr().get() - pool.memory().0.addr().get();
        let found = mapping.locate(first, len);
        assert_eq!(found, Some((Iova((1 << 40) + offset as u64), len)));
        // Another pool's bytes, and bytes beyond the end.
        let other = Pool::new(CHUNK_BYTES, Pages::Normal).unwrap();
        assert_eq!(mapping.locate(other.memory().0, 1), None);
        assert_eq!(mapping.locate(first, 9 * CHUNK_BYTES), None);
    }

    #[test]
    fn a_scattered_mapping_is_found_piece_by_piece() {
        let space = pieces(8192, false);
        let region = Region::new(20_480, Pages::Normal).unwrap();
        let mapping = Mapping::new(&space, region).unwrap();
        let at = |offset, len| mapping.locate_offset(offset, len).unwrap();
        assert_eq!(at(0, 4096), (Iova(1 << 40), 4096));
        assert_eq!(at(4096, 8192), (Iova((1 << 40) + 4096), 4096));
        assert_eq!(at(8192, 100), (Iova((1 << 40) + 16_384), 100));
        assert_eq!(at(16_385, 9000), (Iova((1 << 40) + 32_769), 4095));
        let pages = DmaPages::new(&space, 16_384, Pages::Normal).unwrap();
        assert_eq!(pages.iova(8192..16_384), Ok(Iova((1 << 40) + 16_384)));
        assert!(matches!(
            pages.iova(4096..12_288),
            Err(MapError::Scattered(_))
        ));
    }

    /// Counts handles of memory that is never looked at.
    struct Watched(Region, #[expect(dead_code, reason = "counted")] Rc<()>);

    // SAFETY: the region's, which it owns.
    unsafe impl InPlace for Watched {
        fn memory(&self) -> (NonNull<u8>, usize) {
            self.0.memory()
        }
    }

    #[test]
    fn memory_is_let_go_only_when_the_device_cannot_reach_it() {
        let handle = Rc::new(());
        let watched = || Watched(Region::new(1, Pages::Normal).unwrap(), Rc::clone(&handle));
        let good = pieces(4096, false);
        drop(Mapping::new(&good, watched()).unwrap());
        Mapping::new(&good, watched()).unwrap().revoke().unwrap();
        assert_eq!(good.mapped.load(Ordering::Relaxed), 0);
        assert_eq!(Rc::strong_count(&handle), 1);
        let bad = pieces(4096, true);
        drop(Mapping::new(&bad, watched()).unwrap());
        let revoked = Mapping::new(&bad, watched()).unwrap().revoke();
        assert!(revoked.is_err());
        assert_eq!(Rc::strong_count(&handle), 3, "both stay for ever");
    }

    #[test]
    fn a_completion_is_seen_with_its_phase_and_only_then() {
        let space = pieces(usize::MAX, false);
        let mut pages = DmaPages::new(&space, 4096, Pages::Normal).unwrap();
        assert_eq!(pages.completion(16, true), None);
        let queue = (QueueId(1), 5);
        let entry = CompletionEntry::new(7, queue, CommandId(3), Status::WRITE_FAULT, true);
        pages.copy_in(16, &entry.to_bytes());
        assert_eq!(pages.completion(16, true), Some(entry));
        assert_eq!(pages.completion(16, false), None);
        assert_eq!(pages.completion(4080, false).unwrap().id(), CommandId(0));
    }

    #[test]
    fn commands_and_values_lie_in_the_devices_byte_order() {
        let space = pieces(usize::MAX, false);
        let mut pages = DmaPages::new(&space, 4096, Pages::Normal).unwrap();
        let mut command = SubmissionEntry::new(2, NamespaceId(1)).with_lba(0x0102_0304_0506_0708);
        command.set_id(CommandId(0x0a0b));
        pages.put_command(64, &command);
        let mut bytes = [0; SUBMISSION_BYTES];
        pages.copy_out(64, &mut bytes);
        assert_eq!(bytes, command.to_bytes());
        pages.write_u64(256, 0x1122_3344_5566_7788);
        assert_eq!(pages.read_u32(256), 0x5566_7788);
        assert_eq!(pages.read_u32(260), 0x1122_3344);
        pages.zero(256..264);
        assert_eq!(pages.read_u32(256), 0);
        pages.write_u32(4092, 9);
        assert_eq!(pages.read_u32(4092), 9);
    }

    #[test]
    fn a_shadow_doorbell_asks_for_the_register_when_its_event_is_passed() {
        let space = pieces(usize::MAX, false);
        let shadow = Shadow::new(&space, Pages::Normal).unwrap();
        let event = |at: u16| {
            shadow
                .word(PAGE_BYTES + 8)
                .store(u32::from(at).to_le(), Ordering::Relaxed);
        };
        // (event index, old, new, whether new has passed it since old)
        for (at, old, new, wanted) in [
            (0, 0, 1, true),
            (1, 0, 1, false),
            (5, 1, 4, false),
            (5, 4, 6, true),
            (0xffff, 0xfffe, 2, true),
            (3, 0xfffe, 2, false),
            (7, 9, 9, false),
        ] {
            event(at);
            assert_eq!(shadow.ring(8, old, new), wanted, "{at} {old} {new}");
            assert_eq!(shadow.pages.read_u32(8), u32::from(new));
        }
        assert!(Shadow::<Pieces>::covers(4092) && !Shadow::<Pieces>::covers(4096));
    }

    #[test]
    #[should_panic(expected = "is inside 4096 bytes, and aligned")]
    fn nothing_is_read_beyond_the_pages() {
        let pages = DmaPages::new(&pieces(4096, false), 4096, Pages::Normal).unwrap();
        pages.read_u32(4096);
    }

    #[test]
    #[should_panic(expected = "runs cover the memory in order")]
    fn a_space_that_maps_less_than_it_says_is_refused() {
        #[derive(Debug)]
        struct Short;
        impl DmaSpace for Short {
            unsafe fn map(
                &self,
                _base: NonNull<u8>,
                len: usize,
                runs: &mut Vec<Run>,
            ) -> Result<(), MapError> {
                runs.push(Run {
                    offset: 0,
                    len: len - PAGE_BYTES,
                    iova: Iova(0),
                });
                Ok(())
            }

            fn unmap(&self, _runs: &[Run]) -> Result<(), MapError> {
                Ok(())
            }
        }
        let _ = DmaPages::new(&Arc::new(Short), 2 * PAGE_BYTES, Pages::Normal);
    }
}
