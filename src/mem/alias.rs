//! [`Alias`]: memory whose contents nobody reads, for rings that only count.
//!
//! A TCP implementation that copies payload through rings can be kept to its headers and its
//! arithmetic by rings that all are the same physical memory: the payload goes another way. Every
//! connection gets addresses of its own, so that no two have one in common, and gives them back
//! when it ends; they are kept for the next connection, so that accepting one costs no system call
//! once warm.
//!
//! What the kernel has behind these addresses:
//!
//! - Transmit rings are only ever read: private memory that nobody writes is the kernel's one page
//!   of zeroes, over and over. It is not counted as resident, and stays in the nearest cache.
//! - Receive rings are written, so they are one memory file. The kernel counts its pages once for
//!   each connection that has touched them, as if they were many. So pages are entered by steps of
//!   [`STEP_BYTES`], with one call for each, as a ring is walked for the first time; and when there
//!   are more than [`STEPS_MAX`] of them one is taken out again, whosever it is. Its bytes stay as
//!   they are, and it is entered again when it is needed. So a connection that moves nothing has a
//!   page or two, busy ones have what they walk, and all of one `Alias` never more than `STEPS_MAX`
//!   × `STEP_BYTES` = 64 MiB. Beyond 64 connections that walk their rings at once a part of their
//!   steps costs two calls of the kernel each: about 3 % of them with 65 connections, 37 % with 80,
//!   80 % with 128. Which one goes is as good as random: if it were the oldest, rings that are
//!   walked round and round would find each step just gone, from the 65th connection on.
//! - Where there is a huge page, it is all receive rings, without any of this: the kernel neither
//!   counts it as resident nor needs page tables for it. (Not the transmit rings, too: a read of
//!   8,960 bytes takes 56 ns from the page of zeroes and 158 ns from a megabyte.)
//!
//! What is built on the rings stays with them in a [`Lent`]: it is reached only inside a closure,
//! and is gone before its mapping is anybody else's.

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crossbeam::queue::ArrayQueue;
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use super::Pages;

/// Bytes of one ring: one less than a power of two. The window of a TCP connection with a ring of
/// exactly 2^k bytes is not expressible with its scale factor, and smoltcp 0.14 gets that wrong.
pub const RING_BYTES: usize = RING_STRIDE - 1;
/// Pairs of rings of all `Alias`es of the process at a time. The kernel's own limit for a process
/// is 65,530 mappings of all kinds (vm.max_map_count); a pair is two of them.
pub const MAPPINGS_MAX: usize = 30_000;
/// Steps of receive rings whose pages are entered, of one `Alias`.
pub const STEPS_MAX: usize = 1024;
/// Bytes of a ring whose pages are entered together.
pub const STEP_BYTES: usize = 1 << 16;

const STEPS: usize = RING_STRIDE / STEP_BYTES;
const RING_STRIDE: usize = 1 << 20;
const HUGE_BYTES: usize = 2 << 20;
/// Steps that are spared, at most, before one is taken out. A step that was just entered is not
/// reached while its ring enters all its others.
const SPARED_MAX: u32 = 63;
/// Mappings kept for the next connections; what comes back beyond them is unmapped.
const FREE_MAX: usize = 8192;

/// Mappings of the process.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// Why there is no mapping. The text names the remedy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AliasError {
    #[error("cannot make a memory file for the rings of connections: {0}")]
    File(Errno),
    #[error("{MAPPINGS_MAX} connections of this process have rings already")]
    TooMany,
    #[error(
        "cannot map the rings of a connection beside {mapped} others: {errno}; where that is out \
         of memory, the process may have as many mappings as it may: raise vm.max_map_count \
         (sysctl -w vm.max_map_count=262144, kept in /etc/sysctl.d)"
    )]
    Map { mapped: usize, errno: Errno },
}

/// Rings for the connections of one port of a core. Clones name the same memory.
#[derive(Clone, Debug)]
pub struct Alias {
    home: Arc<Home>,
}

#[derive(Debug)]
struct Home {
    file: RingFile,
    /// Steps of receive rings that are entered: each has its bit in its mapping, and is here once.
    /// Touched when a ring comes to a new step, not once it is warm.
    entered: ArrayQueue<Entered>,
    /// How many were entered so far.
    entries: AtomicU64,
    /// Of a xorshift generator: how many are spared next. Never 0.
    random: AtomicU32,
    /// Touched when a connection begins or ends, never for its data.
    free: ArrayQueue<Arc<Mapping>>,
    /// All there are, free ones too.
    count: AtomicUsize,
}

impl Alias {
    /// One memory file. With [`Pages::Huge`] it is one huge page of 2 MiB where the system has one
    /// to spare; ordinary pages do the same, with more address translation.
    ///
    /// # Errors
    /// [`AliasError::File`].
    pub fn new(pages: Pages) -> Result<Self, AliasError> {
        let file = match pages {
            Pages::Huge => RingFile::huge().or_else(|_| RingFile::normal()),
            Pages::Normal => RingFile::normal(),
        };
        Ok(Self {
            home: Arc::new(Home {
                file: file.map_err(AliasError::File)?,
                entered: ArrayQueue::new(STEPS_MAX),
                entries: AtomicU64::new(0),
                random: AtomicU32::new(0x9E37_79B9),
                free: ArrayQueue::new(FREE_MAX),
                count: AtomicUsize::new(0),
            }),
        })
    }

    /// Lends a receive and a transmit ring, [`RING_BYTES`] each, to what `make` builds on them.
    /// Their contents are arbitrary at all times: a byte that was written may read as any other.
    ///
    /// # Errors
    /// [`AliasError::TooMany`] and [`AliasError::Map`].
    pub fn lend<O: Over>(
        &self,
        make: impl for<'a> FnOnce(&'a mut [u8], &'a mut [u8]) -> O::Of<'a>,
    ) -> Result<Lent<O>, AliasError> {
        // Given back by its drop, also where `make` panics.
        let borrowed = Borrowed {
            mapping: Some(self.home.take()?),
            home: Arc::clone(&self.home),
            received: 0,
            sent: 0,
        };
        let mapping = borrowed.mapping();
        let receive = mapping.receive.base.as_ptr();
        let transmit = mapping.transmit.base.as_ptr();
        // SAFETY: the first RING_BYTES bytes of an area of at least that many, readable and
        // writable and initialised (a file of zeroes, or fresh memory), which is this `Lent`'s
        // alone until it drops what was made of it; `make` cannot keep the slice elsewhere, as it
        // must work for any lifetime. Other mappings, at other addresses, show the same memory: as
        // far as this program can tell its bytes change by themselves. Nothing is concluded from
        // them. They are plain bytes, each value of which is valid; the one user (smoltcp's rings)
        // copies them in and out and never looks at them, and what it copies out is replaced before
        // it is sent.
        let receive = unsafe { slice::from_raw_parts_mut(receive, RING_BYTES) };
        // SAFETY: as above; the two areas have no byte in common.
        let transmit = unsafe { slice::from_raw_parts_mut(transmit, RING_BYTES) };
        Ok(Lent {
            value: ManuallyDrop::new(make(receive, transmit)),
            borrowed,
            over: PhantomData,
        })
    }

    /// Mappings there are: those that are lent, and those kept for the next.
    pub fn mappings(&self) -> usize {
        self.home.count.load(Ordering::Relaxed)
    }

    /// Steps of receive rings that were entered so far, again or for the first time. It stands
    /// still while those of all busy connections fit into [`STEPS_MAX`].
    pub fn entries(&self) -> u64 {
        self.home.entries.load(Ordering::Relaxed)
    }
}

/// What receive rings are mapped from.
#[derive(Debug)]
struct RingFile {
    fd: OwnedFd,
    /// Of one huge page.
    is_huge: bool,
}

impl RingFile {
    fn huge() -> Result<Self, Errno> {
        let huge = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        Ok(Self {
            fd: file(huge, HUGE_BYTES)?,
            is_huge: true,
        })
    }

    fn normal() -> Result<Self, Errno> {
        Ok(Self {
            fd: file(MemfdFlags::empty(), RING_STRIDE)?,
            is_huge: false,
        })
    }
}

/// A file of so many bytes whose memory is there, so that no later touch can fail.
fn file(flags: MemfdFlags, bytes: usize) -> Result<OwnedFd, Errno> {
    let file = memfd_create("rings", flags | MemfdFlags::CLOEXEC)?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes as u64)?;
    Ok(file)
}

impl Home {
    fn take(&self) -> Result<Arc<Mapping>, AliasError> {
        if let Some(mapping) = self.free.pop() {
            return Ok(mapping);
        }
        let more = |mapped| (mapped < MAPPINGS_MAX).then_some(mapped + 1);
        let mapped = MAPPED
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map_err(|_| AliasError::TooMany)?;
        let mapping =
            Mapping::new(&self.file, Counted).map_err(|errno| AliasError::Map { mapped, errno })?;
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(mapping))
    }

    fn give(&self, mapping: Arc<Mapping>) {
        if self.free.push(mapping).is_err() {
            // What it did not take is unmapped, when its last step is out.
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Enters a step of a receive ring, and takes another out if there are too many.
    #[cold]
    fn enter(&self, mapping: &Arc<Mapping>, step: usize) {
        mapping.received.fetch_or(1 << step, Ordering::Relaxed);
        self.entries.fetch_add(1, Ordering::Relaxed);
        if self.entered.is_full() {
            for _ in 0..self.spared() {
                let Some(spared) = self.entered.pop() else {
                    break;
                };
                self.put(spared);
            }
        }
        self.put(Entered {
            mapping: Arc::clone(mapping),
            step,
        });
    }

    /// Puts a step behind all others; the one in front goes if there is no room.
    fn put(&self, entered: Entered) {
        let Some(Entered { mapping, step }) = self.entered.force_push(entered) else {
            return;
        };
        mapping.received.fetch_and(!(1 << step), Ordering::Relaxed);
        let at = step * STEP_BYTES;
        mapping
            .receive
            .advise(at, STEP_BYTES, Advice::LinuxDontNeed);
    }

    /// From 0 to [`SPARED_MAX`]. Two threads at once may get the same, which harms nothing.
    fn spared(&self) -> u32 {
        let mut state = self.random.load(Ordering::Relaxed);
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        self.random.store(state, Ordering::Relaxed);
        (state >> 16) % (SPARED_MAX + 1)
    }
}

/// A mapping that goes back to where it is from.
#[derive(Debug)]
struct Borrowed {
    /// Present until the drop.
    mapping: Option<Arc<Mapping>>,
    home: Arc<Home>,
    /// Where in the receive ring the next byte goes that comes in order.
    received: usize,
    /// Bytes sent so far, up to a ring of them.
    sent: usize,
}

/// See [`Home::entered`].
#[derive(Debug)]
struct Entered {
    mapping: Arc<Mapping>,
    step: usize,
}

impl Borrowed {
    fn mapping(&self) -> &Arc<Mapping> {
        let mapping = self.mapping.as_ref();
        mapping.expect("it is there until the drop")
    }

    /// See [`Lent::receives`].
    fn receives(&mut self, ahead: usize, bytes: usize) {
        if bytes == 0 || self.mapping().is_huge {
            return;
        }
        let first = (self.received + ahead.min(RING_BYTES)) % RING_BYTES;
        let end = first + bytes.min(RING_BYTES);
        self.writes(first..end.min(RING_BYTES));
        self.writes(0..end.saturating_sub(RING_BYTES));
    }

    /// Bytes at these places of the receive ring are about to be written.
    fn writes(&self, range: Range<usize>) {
        let mapping = self.mapping();
        for step in range.start / STEP_BYTES..range.end.div_ceil(STEP_BYTES) {
            if mapping.received.load(Ordering::Relaxed) & (1 << step) == 0 {
                self.home.enter(mapping, step);
                if step != 0 {
                    // One that has come no further than the first may stay there.
                    let at = step * STEP_BYTES;
                    mapping
                        .receive
                        .advise(at, STEP_BYTES, Advice::LinuxPopulateWrite);
                }
            }
        }
    }

    /// See [`Lent::sends`].
    fn sends(&mut self, bytes: usize) {
        if self.sent == RING_BYTES {
            return;
        }
        let before = self.sent;
        self.sent = (before + bytes.min(RING_BYTES)).min(RING_BYTES);
        let mapping = self.mapping();
        for step in before / STEP_BYTES + 1..=(self.sent / STEP_BYTES).min(STEPS - 1) {
            let bit = 1 << step;
            if mapping.sent.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
                let at = step * STEP_BYTES;
                mapping
                    .transmit
                    .advise(at, STEP_BYTES, Advice::LinuxPopulateRead);
            }
        }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(mapping) = self.mapping.take() {
            self.home.give(mapping);
        }
    }
}

/// Addresses for a receive ring and a transmit ring.
#[derive(Debug)]
struct Mapping {
    receive: Area,
    transmit: Area,
    /// The receive ring is a huge page.
    is_huge: bool,
    /// Steps of the receive ring that are entered: a bit for each.
    received: AtomicU32,
    /// Steps of the transmit ring that are.
    sent: AtomicU32,
    _counted: Counted,
}

/// One of [`MAPPED`].
#[derive(Debug)]
struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        MAPPED.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Mapping {
    fn new(file: &RingFile, counted: Counted) -> Result<Self, Errno> {
        let mapping = Self {
            receive: Area::of_file(file)?,
            transmit: Area::of_zeroes()?,
            is_huge: file.is_huge,
            received: AtomicU32::new(0),
            sent: AtomicU32::new(0),
            _counted: counted,
        };
        for area in [&mapping.receive, &mapping.transmit] {
            area.advise(0, area.bytes, Advice::LinuxDontDump);
        }
        Ok(mapping)
    }
}

/// A mapping of the kernel's.
#[derive(Debug)]
struct Area {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping is an address range of the process, tied to no thread; this type reads and
// writes nothing through it.
unsafe impl Send for Area {}
// SAFETY: as above; its fields never change.
unsafe impl Sync for Area {}

impl Area {
    fn of_file(file: &RingFile) -> Result<Self, Errno> {
        let bytes = if file.is_huge {
            HUGE_BYTES
        } else {
            RING_STRIDE
        };
        let kind = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice replaces nothing; the file
        // is as long as the mapping and is never shortened, since nobody else has it.
        let mapped = unsafe { mmap(ptr::null_mut(), bytes, access(), kind, &file.fd, 0) }?;
        Ok(Self::new(mapped, bytes))
    }

    fn of_zeroes() -> Result<Self, Errno> {
        let kind = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice replaces nothing.
        let mapped = unsafe { mmap_anonymous(ptr::null_mut(), RING_STRIDE, access(), kind) }?;
        let area = Self::new(mapped, RING_STRIDE);
        // A huge page of zeroes would not stay in the nearest cache.
        area.advise(0, area.bytes, Advice::LinuxNoHugepage);
        Ok(area)
    }

    /// Owns a mapping just made.
    fn new(mapped: *mut c_void, bytes: usize) -> Self {
        let base = NonNull::new(mapped.cast::<u8>());
        Self {
            base: base.expect("mmap without MAP_FIXED never returns address 0"),
            bytes,
        }
    }

    /// Advises of `bytes` bytes from `offset` on, whole pages.
    fn advise(&self, offset: usize, bytes: usize, advice: Advice) {
        debug_assert!(offset + bytes <= self.bytes, "within the mapping");
        // SAFETY: the offset is within the mapping.
        let at = unsafe { self.base.as_ptr().add(offset) };
        // SAFETY: a part of the mapping, which is there as long as `self`. What is entered or taken
        // out keeps its bytes: a step is taken out of receive rings only, which are a file's. It is
        // a hint: where the kernel does not follow it, pages are entered as they are touched, and
        // stay.
        let _ = unsafe { madvise(at.cast(), bytes, advice) };
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: a mapping made by this type; whatever borrowed it is gone (see `Lent`).
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
    }
}

fn access() -> ProtFlags {
    ProtFlags::READ | ProtFlags::WRITE
}

/// Names a type that borrows rings, whatever the lifetime.
pub trait Over {
    type Of<'a>;
}

/// Something built on rings, together with them.
pub struct Lent<O: Over> {
    /// Dropped before the mapping is given back. The lifetime is a stand-in: nobody sees the value
    /// but through [`Lent::with`], with a lifetime that is as good as any.
    value: ManuallyDrop<O::Of<'static>>,
    /// Goes back behind it.
    borrowed: Borrowed,
    over: PhantomData<O>,
}

impl<O: Over> Lent<O> {
    /// Works on what was built.
    pub fn with<R>(&mut self, work: impl for<'a> FnOnce(&mut O::Of<'a>) -> R) -> R {
        work(&mut self.value)
    }

    /// Bytes are about to be written into the receive ring, `ahead` of the first that is missing
    /// there.
    pub fn receives(&mut self, ahead: usize, bytes: usize) {
        self.borrowed.receives(ahead, bytes);
    }

    /// So many more have come in order. More than a ring of them counts as a ring.
    pub fn received(&mut self, bytes: usize) {
        let at = &mut self.borrowed.received;
        *at = (*at + bytes.min(RING_BYTES)) % RING_BYTES;
    }

    /// So many more are to be read from the transmit ring.
    pub fn sends(&mut self, bytes: usize) {
        self.borrowed.sends(bytes);
    }
}

impl<O: Over> Drop for Lent<O> {
    fn drop(&mut self) {
        // SAFETY: dropped here and nowhere else, and not touched again.
        unsafe { ManuallyDrop::drop(&mut self.value) };
    }
}

impl<O: Over> fmt::Debug for Lent<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lent")
            .field("borrowed", &self.borrowed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Two;

    struct Slices<'a>(&'a mut [u8], &'a mut [u8]);

    impl Over for Two {
        type Of<'a> = Slices<'a>;
    }

    fn lend(alias: &Alias) -> Lent<Two> {
        alias.lend::<Two>(|one, two| Slices(one, two)).unwrap()
    }

    /// A line of /proc/self/status, in bytes.
    fn status(key: &str) -> usize {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    #[test]
    fn rings_have_addresses_of_their_own_and_memory_in_common() {
        let alias = Alias::new(Pages::Normal).unwrap();
        let (mut one, mut two) = (lend(&alias), lend(&alias));
        let range = |lent: &mut Lent<Two>| {
            lent.with(|slices| {
                assert_eq!((slices.0.len(), slices.1.len()), (RING_BYTES, RING_BYTES));
                slices.0.fill(1);
                slices.1.fill(2);
                [slices.0.as_ptr_range(), slices.1.as_ptr_range()]
            })
        };
        let all = [range(&mut one), range(&mut two)].concat();
        for (at, first) in all.iter().enumerate() {
            for second in &all[at + 1..] {
                assert!(first.end <= second.start || second.end <= first.start);
            }
        }
    }

    #[test]
    fn a_mapping_that_comes_back_is_the_next_connections() {
        let alias = Alias::new(Pages::Huge).unwrap();
        let mut first = lend(&alias);
        let address = first.with(|slices| slices.0.as_ptr() as usize);
        drop(first);
        for _ in 0..1000 {
            let mut next = lend(&alias);
            assert_eq!(next.with(|slices| slices.0.as_ptr() as usize), address);
        }
        assert_eq!(alias.mappings(), 1);
    }

    #[test]
    fn what_was_built_goes_before_its_rings() {
        struct Watched<'a>(&'a mut [u8], Alias);
        struct Over1;
        impl Over for Over1 {
            type Of<'a> = Watched<'a>;
        }
        impl Drop for Watched<'_> {
            fn drop(&mut self) {
                self.0[RING_BYTES - 1] = 9;
                assert_eq!(self.1.home.free.len(), 0);
            }
        }
        let alias = Alias::new(Pages::Normal).unwrap();
        let watching = alias.clone();
        drop(
            alias
                .lend::<Over1>(move |one, _| Watched(one, watching))
                .unwrap(),
        );
        assert_eq!(alias.home.free.len(), 1);
    }

    #[test]
    fn a_panic_over_new_rings_loses_none() {
        let alias = Alias::new(Pages::Normal).unwrap();
        let panics = || {
            let _ = alias.lend::<Two>(|_, _| panic!("as it was told"));
        };
        for _ in 0..3 {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics));
            assert!(result.is_err());
            assert_eq!((alias.mappings(), alias.home.free.len()), (1, 1));
        }
        drop(lend(&alias));
        assert_eq!(alias.mappings(), 1);
    }

    /// Bytes that the kernel counts as resident at these addresses.
    fn resident(rings: &[Range<usize>]) -> usize {
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut ours, mut sum) = (false, 0);
        for line in text.lines() {
            if let Some((range, _)) = line.split_once(' ')
                && let Some((start, _)) = range.split_once('-')
                && let Ok(start) = usize::from_str_radix(start, 16)
            {
                ours = rings.iter().any(|ring| ring.contains(&start));
            } else if let Some(rest) = line.strip_prefix("Rss:").filter(|_| ours) {
                let kib: usize = rest.trim().trim_end_matches(" kB").parse().unwrap();
                sum += kib * 1024;
            }
        }
        sum
    }

    fn addresses(lent: &mut Lent<Two>) -> [Range<usize>; 2] {
        lent.with(|slices| {
            [slices.0.as_ptr(), slices.1.as_ptr()].map(|base| {
                let base = base as usize;
                base..base + RING_STRIDE
            })
        })
    }

    /// Moves so many bytes both ways, in frames of 8960, as smoltcp does.
    fn moves(lent: &mut Lent<Two>, bytes: usize) {
        let mut done = 0;
        while done < bytes {
            let len = 8960.min(bytes - done);
            lent.receives(0, len);
            lent.sends(len);
            let at = lent.borrowed.received;
            lent.with(|slices| {
                for offset in 0..len {
                    let at = (at + offset) % RING_BYTES;
                    slices.0[at] = 1;
                    assert_eq!(slices.1[at], 0);
                }
            });
            lent.received(len);
            done += len;
        }
    }

    #[test]
    fn four_thousand_connections_cost_address_space_and_no_memory() {
        const CONNECTIONS: usize = 4000;
        let alias = Alias::new(Pages::Normal).unwrap();
        // (What else grows meanwhile is of other tests.)
        let before = status("VmPTE:");
        let mut all: Vec<_> = (0..CONNECTIONS).map(|_| lend(&alias)).collect();
        let rings: Vec<_> = all.iter_mut().flat_map(addresses).collect();
        // As far as an idle connection has come.
        all.iter_mut().for_each(|lent| moves(lent, 500));
        let grown = status("VmPTE:").saturating_sub(before);
        eprintln!("{} bytes for each of {CONNECTIONS}", grown / CONNECTIONS);
        assert_eq!(alias.mappings(), CONNECTIONS);
        // A page table of 4 KiB maps 2 MiB: one or two of them each, as they come to lie.
        assert!(grown / CONNECTIONS <= 9 * 1024, "{grown} bytes");
        // The pages of the last ones are entered.
        assert!(resident(&rings) <= STEPS_MAX * 4096);
        drop(all);
        assert_eq!(alias.home.free.len(), CONNECTIONS);
    }

    #[test]
    fn what_busy_connections_have_in_memory_is_bounded_and_kept_while_it_fits() {
        let alias = Alias::new(Pages::Normal).unwrap();
        let mut few: Vec<_> = (0..4).map(|_| lend(&alias)).collect();
        let rings: Vec<_> = few.iter_mut().flat_map(addresses).collect();
        for lent in &mut few {
            moves(lent, 500_000);
            moves(lent, 3 * RING_BYTES);
        }
        assert_eq!(alias.home.entered.len(), 4 * STEPS);
        assert_eq!(resident(&rings), 4 * RING_STRIDE);
        // Nothing is entered again.
        few.iter_mut().for_each(|lent| moves(lent, RING_BYTES));
        assert_eq!(alias.home.entered.len(), 4 * STEPS);
        let mut many: Vec<_> = (0..100).map(|_| lend(&alias)).collect();
        let rings: Vec<_> = many
            .iter_mut()
            .chain(&mut few)
            .flat_map(addresses)
            .collect();
        for turn in 0..3 {
            for lent in many.iter_mut().chain(&mut few) {
                moves(lent, 700_000);
            }
            let bytes = resident(&rings);
            eprintln!("{} KiB of 104 connections in turn {turn}", bytes / 1024);
            assert!(bytes <= STEPS_MAX * STEP_BYTES, "{bytes} bytes");
            assert_eq!(alias.home.entered.len(), STEPS_MAX);
        }
        // Given back, they count on.
        drop((few, many));
        assert!(resident(&rings) <= STEPS_MAX * STEP_BYTES);
        assert_eq!(alias.home.free.len(), 104);
    }

    /// How many of 1,000 steps are entered that as many connections come to as they fill their
    /// rings in turn, so many times.
    fn entered_of_1000(connections: u64, laps: u64) -> u64 {
        let alias = Alias::new(Pages::Normal).unwrap();
        let mut all: Vec<_> = (0..connections).map(|_| lend(&alias)).collect();
        let mut walk = || {
            for step in 0..STEPS {
                // The last one is a byte shorter.
                let bytes = STEP_BYTES - usize::from(step == STEPS - 1);
                for lent in &mut all {
                    lent.receives(0, bytes);
                    let at = lent.borrowed.received;
                    lent.with(|slices| {
                        let pages = (at..at + bytes).step_by(4096);
                        pages.for_each(|page| slices.0[page] = 1);
                    });
                    lent.received(bytes);
                }
            }
        };
        walk();
        walk();
        let before = alias.entries();
        (0..laps).for_each(|_| walk());
        assert!(alias.home.entered.len() <= STEPS_MAX);
        let rings: Vec<_> = all.iter_mut().flat_map(addresses).collect();
        let bytes = resident(&rings);
        assert!(bytes <= STEPS_MAX * STEP_BYTES, "{bytes} bytes");
        let steps = laps * connections * STEPS as u64;
        (alias.entries() - before) * 1000 / steps
    }

    #[test]
    fn a_connection_too_many_does_not_cost_all_others_their_steps() {
        assert_eq!(entered_of_1000(64, 4), 0);
        let most = |connections, most| {
            let of_1000 = entered_of_1000(connections, 8);
            assert!((1..=most).contains(&of_1000), "{connections}: {of_1000}");
        };
        most(65, 80);
        most(80, 450);
        most(128, 850);
    }

    #[test]
    fn each_step_that_is_touched_is_entered_once() {
        let alias = Alias::new(Pages::Normal).unwrap();
        let mut lent = lend(&alias);
        let entered = |lent: &Lent<Two>| lent.borrowed.mapping().received.load(Ordering::Relaxed);
        lent.receives(0, 1);
        assert_eq!(entered(&lent), 1);
        lent.receives(STEP_BYTES - 1, 2);
        assert_eq!(entered(&lent), 0b11);
        lent.received(RING_BYTES - 10);
        // Over the end, which is a byte before the last step's.
        lent.receives(0, 20);
        assert_eq!(entered(&lent), 1 << 15 | 0b11);
        lent.receives(10 + 2 * STEP_BYTES, 1);
        assert_eq!(entered(&lent), 1 << 15 | 0b111);
        lent.receives(0, usize::MAX);
        assert_eq!(entered(&lent), 0xFFFF);
        lent.receives(usize::MAX, 5);
        lent.received(usize::MAX);
        assert_eq!(alias.home.entered.len(), STEPS);
        assert_eq!(lent.borrowed.received, RING_BYTES - 10);
    }

    #[test]
    fn what_is_built_goes_to_another_thread() {
        let alias = Alias::new(Pages::Normal).unwrap();
        let lent = lend(&alias);
        std::thread::spawn(move || drop(lent)).join().unwrap();
        assert_eq!(alias.home.free.len(), 1);
    }
}
