//! The kernel's interface to VFIO and to iommufd (linux/vfio.h, linux/iommufd.h): operations,
//! and the structures that they exchange.
//!
//! Structures whose length varies are read as words, by [`Answer`].

use super::iova::Range;
use super::sys::{Exchange, Lend};

/// Where PCI functions have their regions and interrupts (vfio.h).
pub(super) const REGION_BAR0: u32 = 0;
pub(super) const REGION_CONFIG: u32 = 7;
pub(super) const INTERRUPT_ERROR: u32 = 3;
pub(super) const INTERRUPT_REQUEST: u32 = 4;

pub(super) const API_VERSION: i32 = 0;
pub(super) const TYPE1V2_IOMMU: u8 = 3;
pub(super) const NO_IOMMU: u8 = 8;

pub(super) const GROUP_VIABLE: u32 = 1;
pub(super) const GROUP_CONTAINER_SET: u32 = 2;
pub(super) const DEVICE_RESETS: u32 = 1;
pub(super) const REGION_MMAP: u32 = 4;
pub(super) const IRQ_SET_EVENTFD: u32 = 1 << 2;
pub(super) const IRQ_SET_TRIGGER: u32 = 1 << 5;
pub(super) const MAP_READ_WRITE: u32 = 1 | 2;
/// FIXED_IOVA, WRITEABLE, READABLE.
pub(super) const IOAS_MAP_FLAGS: u32 = 1 | 2 | 4;

/// An operation without a type of argument, as `_IO(';', number)` writes it.
pub(super) const fn operation(number: u8) -> u64 {
    (b';' as u64) << 8 | number as u64
}

pub(super) const GET_API_VERSION: u64 = operation(100);
pub(super) const CHECK_EXTENSION: u64 = operation(101);
pub(super) const SET_IOMMU: u64 = operation(102);
pub(super) const GROUP_SET_CONTAINER: u64 = operation(104);
pub(super) const GROUP_DEVICE_FD: u64 = operation(106);
pub(super) const DEVICE_REGION_INFO: u64 = operation(108);
pub(super) const DEVICE_RESET: u64 = operation(111);
pub(super) const IOMMU_INFO: u64 = operation(112);
pub(super) const IOAS_IOVA_RANGES: u64 = operation(0x84);

/// Declares a structure of the kernel's of so many bytes, and what it is exchanged by.
macro_rules! structure {
    (
        $(#[$doc:meta])* $name:ident: $way:ident, $bytes:literal, $number:literal,
        $($field:ident: $kind:ty),+
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default)]
        #[repr(C)]
        pub(super) struct $name {
            $(pub(super) $field: $kind),+
        }

        const _: () = assert!(size_of::<$name>() == $bytes, "the kernel's layout");

        impl $name {
            /// With its length where the kernel looks for it.
            pub(super) fn sized() -> Self {
                Self { size: $bytes, ..Self::default() }
            }
        }

        // SAFETY: the operation reads and writes a structure of this layout, which holds numbers,
        // and none of them is an address that the kernel writes to before it returns.
        unsafe impl $way for $name {
            const OPERATION: u64 = operation($number);
        }
    };
}

structure!(GroupStatus: Exchange, 8, 103, size: u32, flags: u32);
structure!(
    DeviceInfo: Exchange, 24, 107,
    size: u32, flags: u32, regions: u32, irqs: u32, caps: u32, pad: u32
);
structure!(IrqInfo: Exchange, 16, 109, size: u32, flags: u32, index: u32, count: u32);
structure!(
    /// With one event descriptor.
    IrqSet: Exchange, 24, 110,
    size: u32, flags: u32, index: u32, start: u32, count: u32, descriptor: i32
);
structure!(
    /// The mapping outlives the call: see [`DmaSpace::map`](super::super::dma::DmaSpace::map).
    DmaMap: Lend, 32, 113, size: u32, flags: u32, address: u64, iova: u64, bytes: u64
);
structure!(DmaUnmap: Exchange, 24, 114, size: u32, flags: u32, iova: u64, bytes: u64);
structure!(BindIommufd: Exchange, 16, 118, size: u32, flags: u32, iommufd: i32, device: u32);
structure!(AttachIoas: Exchange, 12, 119, size: u32, flags: u32, ioas: u32);
structure!(IoasAlloc: Exchange, 12, 0x81, size: u32, flags: u32, ioas: u32);
structure!(
    /// As [`DmaMap`].
    IoasMap: Lend, 40, 0x85,
    size: u32, flags: u32, ioas: u32, reserved: u32, address: u64, bytes: u64, iova: u64
);
structure!(IoasUnmap: Exchange, 24, 0x86, size: u32, ioas: u32, iova: u64, bytes: u64);

/// Names a place of `IOAS_IOVA_RANGES`' answer: not exchanged by itself.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct IoasRanges {
    pub(super) size: u32,
    pub(super) ioas: u32,
    /// In: room; out: how many there are.
    pub(super) count: u32,
    pub(super) reserved: u32,
    pub(super) ranges: u64,
    pub(super) alignment: u64,
}

const _: () = assert!(size_of::<IoasRanges>() == 32, "the kernel's layout");
/// `struct iommu_iova_range`: first and last address.
pub(super) type IovaRange = [u64; 2];

/// Capabilities in an answer.
const SPARSE_MMAP: u32 = 1;
const IOVA_RANGES: u32 = 1;
/// Capabilities of an answer that are looked at, so that a circle of them ends.
const CAPABILITIES_MAX: usize = 64;
/// Bit of the flags that says that there are capabilities, of a region and of an IOMMU.
const REGION_CAPABILITIES: u32 = 8;
const IOMMU_CAPABILITIES: u32 = 2;

/// What the kernel says in a structure that capabilities may follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer(pub(super) Vec<u32>);

impl Answer {
    fn word(&self, at: usize) -> u32 {
        self.0.get(at).copied().unwrap_or_default()
    }

    /// Little-endian machines only, which [`open`](super::open) sees to.
    fn double(&self, at: usize) -> u64 {
        u64::from(self.word(at)) | u64::from(self.word(at + 1)) << 32
    }

    /// Pairs of numbers that the capability `id` lists; the first one stands at the byte `chain`.
    fn pairs(&self, id: u32, chain: u32) -> Option<Vec<(u64, u64)>> {
        let mut next = chain;
        for _ in 0..CAPABILITIES_MAX {
            let at = usize::try_from(next / 4).ok()?;
            if next == 0 || !next.is_multiple_of(4) || at + 4 > self.0.len() {
                return None;
            }
            if self.word(at) & 0xffff == id {
                let count = usize::try_from(self.word(at + 2)).ok()?;
                let room = (self.0.len() - at - 4) / 4;
                let pair = |n| (self.double(at + 4 + 4 * n), self.double(at + 6 + 4 * n));
                return Some((0..count.min(room)).map(pair).collect());
            }
            next = self.word(at + 1);
        }
        None
    }
}

/// `struct vfio_region_info`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Region {
    pub(super) len: u64,
    /// Where the region begins in the device's file.
    pub(super) offset: u64,
    /// Bytes from its start on that can be mapped.
    pub(super) mappable: u64,
}

impl Region {
    pub(super) const WORDS: usize = 8;

    pub(super) fn read(answer: &Answer) -> Self {
        let flags = answer.word(1);
        let len = answer.double(4);
        let areas = match flags & REGION_CAPABILITIES {
            0 => None,
            _ => answer.pairs(SPARSE_MMAP, answer.word(3)),
        };
        let mappable = match areas {
            _ if flags & REGION_MMAP == 0 => 0,
            None => len,
            Some(areas) => from_the_start(areas).min(len),
        };
        Self {
            len,
            offset: answer.double(6),
            mappable,
        }
    }
}

/// Bytes from 0 on that areas (offset, length) cover without a gap.
fn from_the_start(mut areas: Vec<(u64, u64)>) -> u64 {
    areas.sort_unstable();
    areas.iter().fold(0, |end, &(offset, len)| {
        let reaches = offset.saturating_add(len);
        if offset <= end { end.max(reaches) } else { end }
    })
}

/// `struct vfio_iommu_type1_info`
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct IommuInfo {
    pub(super) ranges: Vec<Range>,
    /// Bytes of the smallest page.
    pub(super) granule: u64,
}

impl IommuInfo {
    pub(super) const WORDS: usize = 6;

    pub(super) fn read(answer: &Answer) -> Self {
        let flags = answer.word(1);
        let ranges = match flags & IOMMU_CAPABILITIES {
            0 => None,
            _ => answer.pairs(IOVA_RANGES, answer.word(4)),
        };
        let ranges = match ranges {
            Some(ranges) => ranges,
            // A kernel before 5.4 does not say: what any IOMMU of these machines has, without the
            // addresses of message interrupts.
            None => vec![(0, 0xfedf_ffff), (0xfef0_0000, (1 << 39) - 1)],
        };
        let range = |&(start, last): &(u64, u64)| Range { start, last };
        Self {
            ranges: ranges.iter().map(range).collect(),
            granule: smallest_page(answer.double(2)),
        }
    }
}

/// Of a set of sizes, one bit each; no smaller than what memory is made of.
fn smallest_page(sizes: u64) -> u64 {
    let smallest = sizes & sizes.wrapping_neg();
    smallest.max(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_have_the_kernels_numbers() {
        // _IO(';', 100 + n) and _IO(';', 0x80 + n).
        assert_eq!(GET_API_VERSION, 0x3b64);
        assert_eq!(DeviceInfo::OPERATION, 0x3b6b);
        assert_eq!(IrqSet::OPERATION, 0x3b6e);
        assert_eq!(DmaMap::OPERATION, 0x3b71);
        assert_eq!(DmaUnmap::OPERATION, 0x3b72);
        assert_eq!(BindIommufd::OPERATION, 0x3b76);
        assert_eq!(AttachIoas::OPERATION, 0x3b77);
        assert_eq!(IoasAlloc::OPERATION, 0x3b81);
        assert_eq!(IOAS_IOVA_RANGES, 0x3b84);
        assert_eq!(IoasUnmap::OPERATION, 0x3b86);
    }

    /// A region of 16 KiB at an offset of 1 TiB, whose sparse areas are these.
    fn region(flags: u32, areas: &[[u32; 4]]) -> Region {
        let mut words = vec![0, flags, 0, 48, 0x4000, 0, 0, 0x100];
        // A capability of another kind in front.
        words.extend([0xdead, 0, 0, 0]);
        words.extend([1 << 16 | 3, 64, 0, 0]);
        words.extend([
            1 << 16 | SPARSE_MMAP,
            0,
            u32::try_from(areas.len()).unwrap(),
            0,
        ]);
        words.extend(areas.iter().flatten());
        Region::read(&Answer(words))
    }

    #[test]
    fn a_region_is_mapped_up_to_the_first_hole() {
        let mapped = |flags, areas: &[[u32; 4]]| region(flags, areas).mappable;
        assert_eq!(region(7, &[]).len, 0x4000);
        assert_eq!(region(7, &[]).offset, 1 << 40);
        assert_eq!(mapped(7, &[]), 0x4000, "without capabilities all of it");
        assert_eq!(mapped(3, &[]), 0, "or none");
        assert_eq!(mapped(15, &[]), 0, "nothing can be mapped");
        assert_eq!(
            mapped(15, &[[0, 0, 0x2000, 0], [0x3000, 0, 0x1000, 0]]),
            0x2000
        );
        assert_eq!(
            mapped(15, &[[0x2000, 0, 0x2000, 0], [0, 0, 0x2000, 0]]),
            0x4000
        );
        assert_eq!(mapped(15, &[[0x1000, 0, 0x1000, 0]]), 0);
        assert_eq!(mapped(15, &[[0, 0, u32::MAX, u32::MAX]]), 0x4000);
    }

    #[test]
    fn capabilities_that_make_no_sense_are_none() {
        for chain in [0, 2, 4, 8, 12, 13, 28, 1000, u32::MAX] {
            // Every word leads to itself or out of the answer.
            let words = vec![0, 15, 0, chain, 0x4000, 8, chain, chain];
            let read = Region::read(&Answer(words));
            assert!(read.mappable <= read.len);
        }
        let circle = Answer(vec![0, 15, 0, 32, 0x4000, 0, 0, 0, 7, 32, 0, 0]);
        assert_eq!(circle.pairs(SPARSE_MMAP, 32), None);
        // It says that there are more areas than it has room for.
        let short = Answer(vec![0, 15, 0, 32, 9, 0, 0, 0, 1, 0, 9999, 0, 0, 0, 5, 0]);
        assert_eq!(short.pairs(SPARSE_MMAP, 32), Some(vec![(0, 5)]));
        assert_eq!(Region::read(&Answer(Vec::new())).mappable, 0);
    }

    #[test]
    fn an_iommu_says_what_it_translates() {
        let words = vec![0, 3, 0x4020_1000, 0, 24, 0, 1 << 16 | 1, 0, 2, 0];
        let mut with_ranges = words.clone();
        with_ranges.extend([0, 0, 0xfedf_ffff, 0, 0xfef0_0000, 0, u32::MAX, 0x7f]);
        let info = IommuInfo::read(&Answer(with_ranges));
        assert_eq!(info.granule, 4096);
        let last = info
            .ranges
            .iter()
            .map(|range| range.last)
            .collect::<Vec<_>>();
        assert_eq!(last, [0xfedf_ffff, (1 << 39) - 1]);
        let old = IommuInfo::read(&Answer(vec![0, 1, 0xf000, 0, 0, 0]));
        assert_eq!((old.ranges, old.granule), (info.ranges, 4096));
        assert_eq!(smallest_page(0x1_0000), 65_536);
        assert_eq!(smallest_page(1), 4096);
        assert_eq!(smallest_page(0), 4096);
    }
}
