//! [`Addresses`]: which addresses of a device's are free.
//!
//! Our own, and not the process's: an IOMMU may translate fewer bits (39 are common) than the
//! process's addresses have, and leaves holes where interrupts are signalled.
//!
//! What was given back is given out again as late as possible: a device that still has the address
//! of memory that was taken from it meets nothing there, and not what came to lie there.

/// Addresses below this are never given out: a device that follows a pointer of zero, or of a
/// few bytes more, finds nothing there.
const LOWEST: u64 = 1 << 20;
/// Mappings of at least this length begin at a multiple of it, as huge pages do, so that the IOMMU
/// translates them by as few entries.
const HUGE_BYTES: u64 = 2 << 20;

/// Addresses from `start` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) last: u64,
}

impl Range {
    fn covers(&self, other: &Self) -> bool {
        self.start <= other.start && other.last <= self.last
    }

    fn meets(&self, other: &Self) -> bool {
        self.start <= other.last && other.start <= self.last
    }
}

/// Next fit within ranges.
#[derive(Debug)]
pub(super) struct Addresses {
    /// What the IOMMU translates.
    ranges: Vec<Range>,
    /// Bytes that addresses and lengths are multiples of: a power of two.
    granule: u64,
    /// In no order: there are as many as mappings, a few for each core.
    taken: Vec<Range>,
    /// Behind what was given out last.
    next: u64,
}

impl Addresses {
    pub(super) fn new(ranges: Vec<Range>, granule: u64) -> Self {
        assert!(
            granule.is_power_of_two(),
            "an IOMMU's pages are powers of two"
        );
        Self {
            ranges,
            granule,
            taken: Vec::new(),
            next: LOWEST,
        }
    }

    /// A free address of `len` bytes: the next one, or the lowest. `None`: there is none, or `len`
    /// is 0 or not of whole pages of the IOMMU's.
    pub(super) fn take(&mut self, len: u64) -> Option<u64> {
        let span = len.checked_sub(1)?;
        if !len.is_multiple_of(self.granule) {
            return None;
        }
        let align = if len >= HUGE_BYTES {
            HUGE_BYTES.max(self.granule)
        } else {
            self.granule
        };
        let found = self.find(self.next, span, align);
        let found = found.or_else(|| self.find(LOWEST, span, align))?;
        self.next = found.last.saturating_add(1);
        self.taken.push(found);
        Some(found.start)
    }

    /// The first free addresses from `from` on, in the order of the ranges: `span` and one more.
    fn find(&self, from: u64, span: u64, align: u64) -> Option<Range> {
        self.ranges.iter().find_map(|range| {
            let mut at = range.start.max(from).checked_next_multiple_of(align)?;
            loop {
                let last = at.checked_add(span).filter(|&last| last <= range.last)?;
                let wanted = Range { start: at, last };
                let Some(in_the_way) = self.taken.iter().find(|taken| taken.meets(&wanted)) else {
                    return Some(wanted);
                };
                let behind = in_the_way.last.checked_add(1)?;
                at = behind.checked_next_multiple_of(align)?;
            }
        })
    }

    /// Gives back what began at `start`.
    pub(super) fn give_back(&mut self, start: u64) {
        self.taken.retain(|taken| taken.start != start);
    }

    /// Other ranges and pages, which another IOMMU has. `false`: something that is taken is not of
    /// them, and nothing has changed.
    pub(super) fn move_to(&mut self, ranges: &[Range], granule: u64) -> bool {
        let held = |taken: &Range| {
            let length = taken.last - taken.start + 1;
            taken.start.is_multiple_of(granule)
                && length.is_multiple_of(granule)
                && ranges.iter().any(|range| range.covers(taken))
        };
        let all = granule.is_power_of_two() && self.taken.iter().all(held);
        if all {
            self.ranges = ranges.to_vec();
            self.granule = granule;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What intel-iommu of 39 bits reports.
    fn of_39_bits() -> Vec<Range> {
        let below = Range {
            start: 0,
            last: 0xfedf_ffff,
        };
        let above = Range {
            start: 0xfef0_0000,
            last: (1 << 39) - 1,
        };
        vec![below, above]
    }

    #[test]
    fn addresses_lie_where_the_iommu_translates_them() {
        let mut addresses = Addresses::new(of_39_bits(), 4096);
        assert_eq!(addresses.take(4096), Some(LOWEST));
        assert_eq!(addresses.take(8192), Some(LOWEST + 4096));
        assert_eq!(addresses.take(4 << 20), Some(2 << 20), "as huge pages lie");
        // Too long for what is below the hole.
        assert_eq!(addresses.take(4 << 30), Some(0xff00_0000));
        assert_eq!(addresses.take(1 << 39), None);
    }

    #[test]
    fn what_was_given_back_is_not_anothers_soon() {
        let range = Range {
            start: 0,
            last: LOWEST + 0xffff,
        };
        let mut addresses = Addresses::new(vec![range], 4096);
        let given: Vec<u64> = (0..16)
            .map(|_| {
                let at = addresses.take(4096).unwrap();
                addresses.give_back(at);
                at
            })
            .collect();
        let in_order = (0..16).map(|nth| LOWEST + 4096 * nth);
        assert!(given.into_iter().eq(in_order));
        assert_eq!(addresses.take(4096), Some(LOWEST), "all were somebody's");
    }

    #[test]
    fn what_cannot_be_mapped_gets_no_address() {
        let mut addresses = Addresses::new(of_39_bits(), 4096);
        for len in [0, 1, 4095, 4097, u64::MAX, u64::MAX - 4095] {
            assert_eq!(addresses.take(len), None, "{len}");
        }
        let everything = Range {
            start: 0,
            last: u64::MAX,
        };
        let mut addresses = Addresses::new(vec![everything], 4096);
        assert_eq!(
            addresses.take(u64::MAX - 4095),
            None,
            "nothing wraps around"
        );
        assert_eq!(addresses.take(1 << 63), Some(2 << 20));
        assert_eq!(addresses.take(1 << 63), None);
        assert_eq!(Addresses::new(Vec::new(), 4096).take(4096), None);
    }

    #[test]
    fn another_iommu_has_to_translate_what_is_mapped() {
        let mut addresses = Addresses::new(of_39_bits(), 4096);
        let start = addresses.take(4 << 30).unwrap();
        let narrow = [of_39_bits()[0]];
        assert!(!addresses.move_to(&narrow, 4096));
        assert!(!addresses.move_to(&of_39_bits(), 1 << 30), "coarser pages");
        assert!(addresses.move_to(&of_39_bits(), 65_536));
        assert_eq!(addresses.take(4096), None);
        addresses.give_back(start);
        assert!(addresses.move_to(&narrow, 4096));
    }

    /// Up to four ranges that do not meet, of any size.
    fn some_ranges() -> impl Strategy<Value = Vec<Range>> {
        proptest::collection::vec((0..1_u64 << 40, 1..1_u64 << 36), 1..5).prop_map(|parts| {
            let mut start = 0_u64;
            let mut ranges = Vec::new();
            for (gap, len) in parts {
                start += gap;
                let last = start + len;
                ranges.push(Range { start, last });
                start = last + 2;
            }
            ranges
        })
    }

    proptest! {
        #[test]
        fn nothing_is_given_out_twice_nor_outside(
            ranges in some_ranges(),
            steps in proptest::collection::vec(
                (any::<bool>(), 1_u64..4096, any::<usize>()),
                1..200,
            ),
        ) {
            let mut addresses = Addresses::new(ranges.clone(), 4096);
            let mut held: Vec<Range> = Vec::new();
            for (give_back, pages, which) in steps {
                if give_back && !held.is_empty() {
                    let gone = held.swap_remove(which % held.len());
                    addresses.give_back(gone.start);
                    continue;
                }
                let len = pages * 4096;
                let Some(start) = addresses.take(len) else { continue };
                let got = Range { start, last: start + len - 1 };
                prop_assert!(start.is_multiple_of(4096) && start >= LOWEST);
                prop_assert!(len < HUGE_BYTES || start.is_multiple_of(HUGE_BYTES));
                prop_assert!(ranges.iter().any(|range| range.covers(&got)));
                prop_assert!(!held.iter().any(|other| other.meets(&got)));
                held.push(got);
            }
        }

        #[test]
        fn what_was_free_once_is_found_again(ranges in some_ranges(), pages in 1_u64..100_000) {
            let mut addresses = Addresses::new(ranges, 4096);
            let mut all = Vec::new();
            while let Some(start) = addresses.take(pages * 4096) {
                all.push(start);
                if all.len() == 50 {
                    break;
                }
            }
            if let Some(&some) = all.get(all.len() / 2) {
                addresses.give_back(some);
                let found = addresses.take(pages * 4096);
                prop_assert!(found.is_some());
                prop_assert!(all.len() == 50 || found == Some(some));
            }
        }
    }
}
