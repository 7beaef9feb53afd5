//! A region: anonymous memory, mapped once and unmapped on drop.
//!
//! Three kinds: ordinary pages (taken by the kernel as they are first touched, huge where it can),
//! explicit huge pages (through `hugepage-rs`, all of them present before `new` returns, so that no
//! later touch can fail), and a sparse reservation for the memory disk. A region hands out raw
//! pointers only; what may be done with them is its owner's contract, which is why it may be sent
//! to and shared with other threads.

use std::alloc::Layout;
use std::fmt;
use std::fs;
use std::path::Path;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Size of an ordinary page; also the alignment that every region has at least.
const PAGE_BYTES: usize = 4096;

/// Which pages a region is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pages {
    /// Ordinary pages, untouched until used; transparent huge pages are asked for.
    Normal,
    /// Explicit huge pages of the system's default size; they must have been reserved.
    Huge,
}

/// Why a region could not be had. The text names the remedy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RegionError {
    #[error("a memory region of {0} bytes is impossible: sizes run from 1 byte to {max} bytes", max = isize::MAX)]
    Size(usize),
    #[error(
        "cannot map {bytes} bytes: {errno}; make the pool smaller or raise the memory limit of the process"
    )]
    Map {
        bytes: usize,
        errno: rustix::io::Errno,
    },
    #[error(
        "this kernel offers no huge pages (no Hugepagesize in /proc/meminfo); set pages = \"normal\""
    )]
    NoHugePages,
    #[error(
        "{needed} huge pages of {page_kib} KiB are needed, {available} are free and unreserved{nodes}: {missing} are missing; \
         reserve them with `sysctl -w vm.nr_hugepages={nr_hugepages}` (or more, kept in /etc/sysctl.d), or set pages = \"normal\"",
        missing = needed.saturating_sub(*available)
    )]
    HugeShort {
        needed: usize,
        available: usize,
        page_kib: usize,
        nr_hugepages: usize,
        /// How many each NUMA node has free, where there are several.
        nodes: String,
    },
    #[error(
        "{needed} huge pages were mapped but could not be filled: {errno}; \
         a cgroup limit (hugetlb.*.max) or a memory policy may forbid them"
    )]
    HugePopulate {
        needed: usize,
        errno: rustix::io::Errno,
    },
}

/// Anonymous memory that reads as zeroes until written.
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Mapped,
    /// From `hugepage-rs`, with this layout.
    Huge(Layout),
}

/// Memory that does not move as long as its handle lives, so that a device may be told where it is.
///
/// # Safety
/// 1. `memory` names the same bytes each time: whole pages of anonymous memory, readable and
///    writable, that stay mapped until this value and all its clones are gone.
/// 2. Moving the value does not move the memory, and dropping it changes none of its bytes.
pub unsafe trait InPlace {
    /// The first byte, aligned to 4096 or better, and the length in bytes.
    fn memory(&self) -> (NonNull<u8>, usize);
}

// SAFETY: a region is one mapping of whole pages at a constant address, unmapped on drop.
unsafe impl InPlace for Region {
    fn memory(&self) -> (NonNull<u8>, usize) {
        (self.base, self.len)
    }
}

// SAFETY: a region owns its mapping, which is not tied to the thread that made it; the type itself
// gives out raw pointers and never reads or writes through them after `new`.
unsafe impl Send for Region {}
// SAFETY: as above; every method takes `&self` and reads only the constant address and length.
unsafe impl Sync for Region {}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("len", &self.len)
            .field("kind", &self.kind)
            .finish()
    }
}

impl Region {
    /// At least `bytes` bytes of memory made of `pages`, rounded up to whole pages.
    pub fn new(bytes: usize, pages: Pages) -> Result<Self, RegionError> {
        match pages {
            Pages::Normal => Self::map(bytes, MapFlags::PRIVATE),
            Pages::Huge => Self::huge(bytes),
        }
    }

    /// Address space for `bytes` bytes whose pages are taken only when they are written and are not
    /// counted against the overcommit limit: the memory disk's own.
    pub fn sparse(bytes: usize) -> Result<Self, RegionError> {
        Self::map(bytes, MapFlags::PRIVATE | MapFlags::NORESERVE)
    }

    /// The first byte; aligned to 4096 or better.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a region has at least one page.
    pub fn is_empty(&self) -> bool {
        false
    }

    fn map(bytes: usize, flags: MapFlags) -> Result<Self, RegionError> {
        let len = round_up(bytes, PAGE_BYTES)?;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice replaces nothing.
        let mapped = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )
        }
        .map_err(|errno| RegionError::Map { bytes: len, errno })?;
        let base = NonNull::new(mapped.cast::<u8>())
            .expect("mmap without MAP_FIXED never returns address 0");
        let region = Self {
            base,
            len,
            kind: Kind::Mapped,
        };
        // All are hints: a kernel without transparent huge pages or core-dump marks loses nothing.
        let _ = region.advise(Advice::LinuxHugepage);
        let _ = region.advise(Advice::LinuxDontDump);
        // Pages shared with a child would be copied when we write, and a device that was told their
        // address would go on with the old ones.
        let _ = region.advise(Advice::LinuxDontFork);
        Ok(region)
    }

    fn huge(bytes: usize) -> Result<Self, RegionError> {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        // `hugepage-rs` panics where this line is missing, so look first.
        let page_kib = meminfo_value(&meminfo, "Hugepagesize:").ok_or(RegionError::NoHugePages)?;
        let page = page_kib.checked_mul(1024).ok_or(RegionError::NoHugePages)?;
        if !page.is_power_of_two() {
            return Err(RegionError::NoHugePages);
        }
        let len = round_up(bytes, page)?;
        let layout = Layout::from_size_align(len, page).map_err(|_| RegionError::Size(bytes))?;
        // SAFETY: the layout's size is not zero (`round_up` refuses it).
        let allocated = unsafe { hugepage_rs::alloc(layout) };
        let needed = len / page;
        let Some(base) = NonNull::new(allocated) else {
            let nodes = free_by_node(Path::new("/sys/devices/system/node"), page_kib);
            return Err(huge_short(&meminfo, needed, page_kib, &nodes));
        };
        let region = Self {
            base,
            len,
            kind: Kind::Huge(layout),
        };
        let _ = region.advise(Advice::LinuxDontDump);
        // As for ordinary pages.
        let _ = region.advise(Advice::LinuxDontFork);
        // Fill every page now and learn of a failure as an error: a touch would be a SIGBUS.
        match region.advise(Advice::LinuxPopulateWrite) {
            // Kernels before 5.14 do not know the request; the reservation made by mmap holds.
            Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(region),
            Err(errno) => Err(RegionError::HugePopulate { needed, errno }),
        }
    }

    fn advise(&self, advice: Advice) -> Result<(), rustix::io::Errno> {
        // SAFETY: the range is exactly this region's own mapping, and none of the advices used here
        // changes what it contains.
        unsafe { madvise(self.base.as_ptr().cast(), self.len, advice) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        match self.kind {
            Kind::Mapped => {
                // SAFETY: `base` and `len` are what mmap gave; the owner of the region, being
                // dropped with it, keeps no pointer into it.
                let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
                debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
            }
            Kind::Huge(layout) => {
                // SAFETY: allocated by `hugepage_rs::alloc` with this very layout, freed once.
                unsafe { hugepage_rs::dealloc(self.base.as_ptr(), layout) }
            }
        }
    }
}

fn round_up(bytes: usize, page: usize) -> Result<usize, RegionError> {
    bytes
        .checked_next_multiple_of(page)
        .filter(|&len| len != 0 && isize::try_from(len).is_ok())
        .ok_or(RegionError::Size(bytes))
}

/// The number that follows `key` in the text of /proc/meminfo.
fn meminfo_value(meminfo: &str, key: &str) -> Option<usize> {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix(key))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Free huge pages of each NUMA node, in the order of the nodes, as the kernel's folder of nodes
/// has them.
fn free_by_node(nodes: &Path, page_kib: usize) -> Vec<(usize, usize)> {
    let entries = fs::read_dir(nodes).into_iter().flatten().flatten();
    let mut free: Vec<_> = entries
        .filter_map(|entry| {
            let node = entry
                .file_name()
                .to_str()?
                .strip_prefix("node")?
                .parse()
                .ok()?;
            let pages = format!("hugepages/hugepages-{page_kib}kB/free_hugepages");
            let pages = fs::read_to_string(entry.path().join(pages)).ok()?;
            Some((node, pages.trim().parse().ok()?))
        })
        .collect();
    free.sort_unstable();
    free
}

fn huge_short(
    meminfo: &str,
    needed: usize,
    page_kib: usize,
    nodes: &[(usize, usize)],
) -> RegionError {
    let value = |key| meminfo_value(meminfo, key).unwrap_or(0);
    let available = value("HugePages_Free:").saturating_sub(value("HugePages_Rsvd:"));
    let missing = needed.saturating_sub(available);
    let nr_hugepages = value("HugePages_Total:").saturating_add(missing);
    let nodes = match nodes {
        [] | [_] => String::new(),
        nodes => {
            let nodes = nodes
                .iter()
                .map(|(node, free)| format!("{free} on NUMA node {node}"));
            format!(" ({})", nodes.collect::<Vec<_>>().join(", "))
        }
    };
    RegionError::HugeShort {
        needed,
        available,
        page_kib,
        nr_hugepages,
        nodes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal: 1 kB\nHugePages_Total:      10\nHugePages_Free:        6\n\
                           HugePages_Rsvd:        2\nHugepagesize:       2048 kB\n";

    #[test]
    fn shortage_names_the_missing_pages_and_the_sysctl() {
        let error = huge_short(MEMINFO, 32, 2048, &[(0, 4)]);
        assert_eq!(
            error,
            RegionError::HugeShort {
                needed: 32,
                available: 4,
                page_kib: 2048,
                nr_hugepages: 38,
                nodes: String::new()
            }
        );
        let text = error.to_string();
        assert!(text.contains("28 are missing"), "{text}");
        assert!(text.contains("sysctl -w vm.nr_hugepages=38"), "{text}");
    }

    #[test]
    fn shortage_says_which_numa_node_has_how_many() {
        let folder = tempfile::tempdir().unwrap();
        for (node, free) in [("node1", "0\n"), ("node0", "6\n"), ("power", "9\n")] {
            let pages = folder.path().join(node).join("hugepages/hugepages-2048kB");
            fs::create_dir_all(&pages).unwrap();
            fs::write(pages.join("free_hugepages"), free).unwrap();
        }
        let nodes = free_by_node(folder.path(), 2048);
        assert_eq!(nodes, [(0, 6), (1, 0)]);
        let text = huge_short(MEMINFO, 32, 2048, &nodes).to_string();
        assert!(
            text.contains("unreserved (6 on NUMA node 0, 0 on NUMA node 1): 28 are missing"),
            "{text}"
        );
        assert_eq!(free_by_node(folder.path(), 1_048_576), []);
    }

    #[test]
    fn meminfo_without_huge_pages_is_recognised() {
        assert_eq!(meminfo_value("MemTotal: 1 kB\n", "Hugepagesize:"), None);
        assert_eq!(meminfo_value(MEMINFO, "Hugepagesize:"), Some(2048));
    }

    #[test]
    fn sizes_zero_and_beyond_the_address_space_are_refused() {
        assert_eq!(
            Region::new(0, Pages::Normal).unwrap_err(),
            RegionError::Size(0)
        );
        assert_eq!(
            Region::sparse(usize::MAX).unwrap_err(),
            RegionError::Size(usize::MAX)
        );
    }

    #[test]
    fn normal_region_is_aligned_rounded_and_zero() {
        let region = Region::new(5000, Pages::Normal).unwrap();
        assert_eq!(region.len(), 8192);
        assert_eq!(region.base().as_ptr().align_offset(PAGE_BYTES), 0);
        // SAFETY: the last byte of the region, which nobody else uses.
        let last = unsafe { region.base().add(region.len() - 1) };
        // SAFETY: as above; anonymous memory is initialised to zero.
        assert_eq!(unsafe { last.read() }, 0);
    }

    /// Whatever this machine has reserved, the answer is a region or an explanation.
    #[test]
    fn huge_region_is_had_or_explained() {
        match Region::new(1 << 20, Pages::Huge) {
            Ok(region) => assert_eq!(region.len() % (1 << 20), 0),
            Err(error) => assert!(error.to_string().contains("pages = \"normal\""), "{error}"),
        }
    }
}
