//! [`Alias`]: memory whose contents nobody reads, for rings that only count.
//!
//! A TCP implementation that copies payload through rings can be kept to its headers and its
//! arithmetic by rings that all are the same physical memory: the payload goes another way. One
//! `Alias` is one memory file of [`ALIAS_BYTES`]; every connection gets a mapping of its own of it,
//! so that no two have an address in common, and gives it back when it ends. Mappings are kept for
//! the next connection, so that accepting one costs no system call once warm.
//!
//! What is built on the rings stays with them in a [`Lent`]: it is reached only inside a closure,
//! and is gone before its mapping is anybody else's.

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::queue::ArrayQueue;
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use super::Pages;

/// Bytes of one ring: one less than a power of two. The window of a TCP connection with a ring of
/// exactly 2^k bytes is not expressible with its scale factor, and smoltcp 0.14 gets that wrong.
pub const RING_BYTES: usize = RING_STRIDE - 1;
/// Bytes of a mapping: a receive ring and a transmit ring.
pub const ALIAS_BYTES: usize = 2 * RING_STRIDE;
/// Mappings of all `Alias`es of the process at a time. The kernel's own limit for a process is
/// 65,530 of all kinds (vm.max_map_count); a mapping here is one of them.
pub const MAPPINGS_MAX: usize = 60_000;

const RING_STRIDE: usize = 1 << 20;
/// Mappings kept for the next connections; what comes back beyond them is unmapped.
const FREE_MAX: usize = 8192;

/// Mappings of the process.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// Why there is no mapping. The text names the remedy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AliasError {
    #[error("cannot make a memory file of {ALIAS_BYTES} bytes: {0}")]
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

/// Rings for the connections of one core. Clones name the same memory.
#[derive(Clone, Debug)]
pub struct Alias {
    home: Arc<Home>,
}

#[derive(Debug)]
struct Home {
    file: OwnedFd,
    /// Touched when a connection begins or ends, never for its data.
    free: ArrayQueue<Mapping>,
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
        let huge = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        let file = match pages {
            Pages::Huge => file(huge).or_else(|_| file(MemfdFlags::empty())),
            Pages::Normal => file(MemfdFlags::empty()),
        };
        Ok(Self {
            home: Arc::new(Home {
                file: file.map_err(AliasError::File)?,
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
        };
        let receive = borrowed.base().as_ptr();
        // SAFETY: the second half of the mapping begins RING_STRIDE bytes from its start.
        let transmit = unsafe { receive.add(RING_STRIDE) };
        // SAFETY: the first RING_BYTES bytes of a mapping of ALIAS_BYTES, readable and writable and
        // initialised (a file of zeroes), which is this `Lent`'s alone until it drops what was made
        // of it; `make` cannot keep the slice elsewhere, as it must work for any lifetime. Other
        // mappings, at other addresses, show the same memory: as far as this program can tell its
        // bytes change by themselves. Nothing is concluded from them. They are plain bytes, each
        // value of which is valid; the one user (smoltcp's rings) copies them in and out and never
        // looks at them, and what it copies out is replaced before it is sent.
        let receive = unsafe { slice::from_raw_parts_mut(receive, RING_BYTES) };
        // SAFETY: as above, for the second half, which has no byte in common with the first.
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
}

/// A file of [`ALIAS_BYTES`] whose memory is there, so that no later touch can fail.
fn file(flags: MemfdFlags) -> Result<OwnedFd, Errno> {
    let file = memfd_create("rings", flags | MemfdFlags::CLOEXEC)?;
    fallocate(&file, FallocateFlags::empty(), 0, ALIAS_BYTES as u64)?;
    Ok(file)
}

impl Home {
    fn take(&self) -> Result<Mapping, AliasError> {
        if let Some(mapping) = self.free.pop() {
            return Ok(mapping);
        }
        let more = |mapped| (mapped < MAPPINGS_MAX).then_some(mapped + 1);
        let mapped = MAPPED
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map_err(|_| AliasError::TooMany)?;
        let mapping = Mapping::new(&self.file).map_err(|errno| {
            MAPPED.fetch_sub(1, Ordering::Relaxed);
            AliasError::Map { mapped, errno }
        })?;
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(mapping)
    }

    fn give(&self, mapping: Mapping) {
        if self.free.push(mapping).is_err() {
            // What it did not take is unmapped.
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A mapping that goes back to where it is from.
#[derive(Debug)]
struct Borrowed {
    /// Present until the drop.
    mapping: Option<Mapping>,
    home: Arc<Home>,
}

impl Borrowed {
    fn base(&self) -> NonNull<u8> {
        let mapping = self.mapping.as_ref();
        mapping.expect("it is there until the drop").base
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(mapping) = self.mapping.take() {
            self.home.give(mapping);
        }
    }
}

/// A view of the whole file at an address of its own.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
}

// SAFETY: a mapping is an address range of the process, tied to no thread; this type reads and
// writes nothing through it.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(file: &OwnedFd) -> Result<Self, Errno> {
        // SAFETY: a fresh mapping at an address of the kernel's choice replaces nothing; the file
        // is as long as the mapping and is never shortened, since nobody else has it. Its pages are
        // entered as they are walked: entered at once, each connection of a stranger would look
        // like 2 MiB of resident memory.
        let mapped = unsafe {
            mmap(
                ptr::null_mut(),
                ALIAS_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                file,
                0,
            )
        }?;
        let base = NonNull::new(mapped.cast::<u8>())
            .expect("mmap without MAP_FIXED never returns address 0");
        // SAFETY: exactly the mapping just made; the advice does not change what it contains. It
        // is a hint: a kernel without it loses nothing.
        let _ = unsafe { madvise(mapped, ALIAS_BYTES, Advice::LinuxDontDump) };
        Ok(Self { base })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; whatever borrowed it is gone (see `Lent`).
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), ALIAS_BYTES) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
        MAPPED.fetch_sub(1, Ordering::Relaxed);
    }
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

    #[test]
    fn four_thousand_connections_cost_address_space_and_no_memory() {
        const CONNECTIONS: usize = 4000;
        let alias = Alias::new(Pages::Normal).unwrap();
        // (What else grows meanwhile is of other tests.)
        let before = status("VmPTE:");
        let mut all: Vec<_> = (0..CONNECTIONS).map(|_| lend(&alias)).collect();
        for lent in &mut all {
            // As far as an idle connection has come: a few bytes at the start of each.
            lent.with(|slices| (slices.0[0], slices.1[0]) = (1, 1));
        }
        let grown = status("VmPTE:").saturating_sub(before);
        eprintln!("{} bytes for each of {CONNECTIONS}", grown / CONNECTIONS);
        assert_eq!(alias.mappings(), CONNECTIONS);
        // A page table of 4 KiB maps 2 MiB: one or two of them each, as they come to lie.
        assert!(grown / CONNECTIONS <= 9 * 1024, "{grown} bytes");
        drop(all);
        assert_eq!(alias.home.free.len(), CONNECTIONS);
    }

    #[test]
    fn what_is_built_goes_to_another_thread() {
        let alias = Alias::new(Pages::Normal).unwrap();
        let lent = lend(&alias);
        std::thread::spawn(move || drop(lent)).join().unwrap();
        assert_eq!(alias.home.free.len(), 1);
    }
}
