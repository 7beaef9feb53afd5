//! Cutting a request into commands: how many blocks the next one takes.
//!
//! Hard limits are the longest transfer (MDTS and ours) and the 16 bits of a count of blocks.
//! NOIOB is a hint of speed, so that it never cuts a write that was promised to be atomic; a
//! promise is made only for what one command can carry ([`Geometry::atomic_write_blocks`]).

use super::facts::{DeallocateLimits, Geometry, Limits};
use super::spec::command::{BLOCKS_MAX, RANGES_MAX};

/// Part of a request: what one command does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cut {
    pub(crate) lba: u64,
    pub(crate) blocks: u32,
    /// Where its data begin in the request's buffer, in bytes.
    pub(crate) offset: usize,
}

/// What bounds the commands of one kind for one namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rules {
    /// Blocks of one command, at least 1; where it counts them itself at most [`BLOCKS_MAX`].
    pub(crate) most: u32,
    /// Commands cross no multiple of so many blocks; 0 any.
    pub(crate) boundary: u32,
    /// A request of no more blocks than this is not cut; at most `most`.
    pub(crate) whole: u32,
}

fn transfer_blocks(geometry: &Geometry, limits: &Limits) -> u32 {
    (limits.transfer_bytes >> geometry.block_shift).clamp(1, BLOCKS_MAX)
}

/// Of reads and writes.
pub(crate) fn of_transfers(geometry: &Geometry, limits: &Limits) -> Rules {
    Rules {
        most: transfer_blocks(geometry, limits),
        boundary: geometry.boundary_blocks,
        whole: geometry.atomic_write_blocks(limits, 0),
    }
}

/// Of Write Zeroes, which moves no data. `bytes` is the controller's limit.
pub(crate) fn of_zeroes(geometry: &Geometry, bytes: u64) -> Rules {
    let blocks = bytes >> geometry.block_shift;
    Rules {
        most: u32::try_from(blocks).map_or(BLOCKS_MAX, |blocks| blocks.clamp(1, BLOCKS_MAX)),
        boundary: 0,
        whole: 0,
    }
}

/// Of deallocations.
pub(crate) fn of_deallocations(limits: &DeallocateLimits) -> Rules {
    let ranges = usize::from(limits.ranges).clamp(1, RANGES_MAX) as u64;
    let ranged = ranges.saturating_mul(limits.range_blocks.max(1).into());
    let blocks = ranged.min(limits.blocks.max(1));
    Rules {
        most: u32::try_from(blocks).unwrap_or(u32::MAX),
        boundary: 0,
        whole: 0,
    }
}

/// How many blocks the next command takes, at least one, where a request of `total` blocks goes on
/// at `lba` with `left` blocks, at least one.
pub(crate) fn first_cut(rules: Rules, total: u64, lba: u64, left: u64) -> u32 {
    debug_assert!(left > 0, "a cut has blocks");
    let most = u64::from(rules.most);
    let mut blocks = left.min(most);
    if rules.boundary > 0 && total > u64::from(rules.whole) {
        let boundary = u64::from(rules.boundary);
        blocks = blocks.min(boundary - lba % boundary);
    }
    u32::try_from(blocks).expect("at most what one command takes")
}

#[cfg(test)]
mod tests {
    use super::super::spec::entry::NamespaceId;
    use super::super::spec::identify::Identifiers;
    use super::*;
    use proptest::prelude::*;

    fn geometry(block_shift: u8, boundary_blocks: u32, atomic_blocks: u32) -> Geometry {
        Geometry {
            namespace: NamespaceId(1),
            block_shift,
            boundary_blocks,
            atomic_blocks,
            atomic_boundary: None,
            unmapped_reads_zeroes: false,
            write_zeroes_deallocates: false,
            deallocate_granularity: 1,
            thin: false,
            identifiers: Identifiers::default(),
        }
    }

    fn limits(transfer_bytes: u32) -> Limits {
        Limits {
            queue_entries: 2,
            queue_pairs: 1,
            transfer_bytes,
            write_zeroes_bytes: None,
            deallocate: None,
            write_cache: false,
        }
    }

    fn cuts(rules: Rules, lba: u64, total: u64) -> Vec<(u64, u32)> {
        let (mut at, mut left) = (lba, total);
        let mut cuts = Vec::new();
        while left > 0 {
            let blocks = first_cut(rules, total, at, left);
            cuts.push((at, blocks));
            at += u64::from(blocks);
            left -= u64::from(blocks);
        }
        cuts
    }

    fn check(rules: Rules, lba: u64, total: u64) {
        let cuts = cuts(rules, lba, total);
        let mut at = lba;
        for &(from, blocks) in &cuts {
            assert_eq!(from, at, "no gap and no overlap");
            assert!((1..=rules.most).contains(&blocks));
            at += u64::from(blocks);
            let last = (at - 1).checked_div(rules.boundary.into());
            let first = from.checked_div(rules.boundary.into());
            assert!(
                total <= u64::from(rules.whole) || first == last,
                "{rules:?}"
            );
        }
        assert_eq!(at, lba + total);
        if total <= u64::from(rules.whole) {
            assert_eq!(cuts.len(), 1, "atomic");
        }
        // Greedy: a command ends only at a boundary, full, or at the end.
        for &(from, blocks) in &cuts {
            let end = from + u64::from(blocks);
            let at_boundary = rules.boundary > 0 && end.is_multiple_of(rules.boundary.into());
            assert!(blocks == rules.most || at_boundary || end == lba + total);
        }
    }

    #[test]
    fn cuts_cover_a_request_exactly_and_keep_every_rule() {
        for most in 1..=5 {
            for boundary in 0..=6 {
                for whole in 0..=most {
                    let rules = Rules {
                        most,
                        boundary,
                        whole,
                    };
                    for lba in 0..13 {
                        for total in 1..=13 {
                            check(rules, lba, total);
                        }
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn cuts_of_real_sizes_keep_every_rule(
            (lba, total) in (0..u64::MAX >> 1, 1_u64..20_000),
            (shift, bytes) in (prop_oneof![Just(9_u8), Just(12)], 1_u32..=256),
            (boundary, atomic) in (prop_oneof![Just(0_u32), 8_u32..4096], 1_u32..5000),
        ) {
            let (geometry, limits) = (geometry(shift, boundary, atomic), limits(bytes * 4096));
            let rules = of_transfers(&geometry, &limits);
            prop_assert!(rules.whole >= 1 && rules.whole <= rules.most);
            prop_assert!(u64::from(rules.most) << shift <= u64::from(limits.transfer_bytes));
            check(rules, lba, total);
        }
    }

    #[test]
    fn a_promise_of_atomicity_is_kept_or_not_made() {
        let most = limits(1 << 20);
        // The hint does not cut what is promised, and does cut the next longer.
        let rules = of_transfers(&geometry(9, 8, 16), &most);
        assert_eq!(cuts(rules, 4, 16), [(4, 16)]);
        assert_eq!(cuts(rules, 4, 17), [(4, 4), (8, 8), (16, 5)]);
    }

    #[test]
    fn deallocations_are_bounded_by_ranges_and_blocks() {
        let most = |ranges, range_blocks, blocks| {
            let limits = DeallocateLimits {
                ranges,
                range_blocks,
                blocks,
            };
            of_deallocations(&limits).most
        };
        assert_eq!(most(256, 1 << 16, u64::MAX), 1 << 24);
        assert_eq!(most(256, 1 << 16, 1000), 1000);
        assert_eq!(most(256, u32::MAX, u64::MAX), u32::MAX);
        assert_eq!(most(u16::MAX, 1, u64::MAX), 256);
        assert_eq!(most(0, 0, 0), 1, "nonsense is no endless loop");
    }

    #[test]
    fn zeroes_are_bounded_by_their_count_and_the_controller() {
        let geometry = geometry(9, 8, 1);
        assert_eq!(of_zeroes(&geometry, u64::MAX).most, BLOCKS_MAX);
        assert_eq!(of_zeroes(&geometry, 1 << 20).most, 2048);
        assert_eq!(of_zeroes(&geometry, 0).most, 1);
        let rules = of_zeroes(&geometry, 1 << 40);
        assert_eq!(cuts(rules, 3, 65_537), [(3, 65_536), (65_539, 1)]);
        let last = cuts(rules, u64::MAX - 2, 2);
        assert_eq!(last, [(u64::MAX - 2, 2)], "at the end of all numbers");
    }
}
