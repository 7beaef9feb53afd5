//! [`PageMap`]: which pages of a memory disk have been written and not been given back.
//!
//! One bit for each page, in 64-bit words that all cores share, and the number of bits set. What
//! the kernel says of a mapping is no substitute: a page that was only read is resident too (it is
//! the kernel's page of zeroes).
//!
//! An ordinary rewrite pays one relaxed load for each word; only a bit that changes costs a
//! read-modify-write. The bits order no other memory: who writes marks behind its copy and who
//! gives pages back clears before, so that of two commands that race on the same blocks the
//! outcome is a page too many that counts as written, never a written page that does not.

use std::ops::Range;
use std::slice;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use crate::mem::{Region, RegionError};

const WORD_BITS: u64 = 64;
const WORD_BYTES: u64 = 8;

#[derive(Debug)]
pub(super) struct PageMap {
    /// The words, which take memory where bits were set in them.
    region: Region,
    words: usize,
    /// Bits set. Below zero for a moment when a bit is cleared before who set it has counted it.
    set: AtomicI64,
}

impl PageMap {
    /// All of `pages` unset.
    pub(super) fn new(pages: u64) -> Result<Self, RegionError> {
        let too_many = |_| RegionError::Size(usize::MAX);
        let words = usize::try_from(pages.div_ceil(WORD_BITS).max(1)).map_err(too_many)?;
        let bytes = usize::try_from(words as u64 * WORD_BYTES).map_err(too_many)?;
        Ok(Self {
            region: Region::sparse(bytes)?,
            words,
            set: AtomicI64::new(0),
        })
    }

    /// These pages were written.
    pub(super) fn set(&self, pages: Range<u64>) {
        for (word, mask) in self.masks(pages) {
            if word.load(Relaxed) & mask != mask {
                let before = word.fetch_or(mask, Relaxed);
                self.set.fetch_add(bits(mask & !before), Relaxed);
            }
        }
    }

    /// These pages are given back.
    pub(super) fn clear(&self, pages: Range<u64>) {
        for (word, mask) in self.masks(pages) {
            if word.load(Relaxed) & mask != 0 {
                let before = word.fetch_and(!mask, Relaxed);
                self.set.fetch_sub(bits(mask & before), Relaxed);
            }
        }
    }

    /// Whether all of these pages are set.
    pub(super) fn all_set(&self, pages: Range<u64>) -> bool {
        self.masks(pages)
            .all(|(word, mask)| word.load(Relaxed) & mask == mask)
    }

    /// How many pages are set.
    pub(super) fn count(&self) -> u64 {
        u64::try_from(self.set.load(Relaxed)).unwrap_or(0)
    }

    /// Whether the first of `pages` is set, and where in them that ends. `pages` has one at least.
    pub(super) fn run(&self, pages: Range<u64>) -> (bool, u64) {
        let is_set = self.all_set(pages.start..pages.start + 1);
        let mut at = pages.start;
        for (word, mask) in self.masks(pages.clone()) {
            let word = word.load(Relaxed);
            let others = mask & if is_set { !word } else { word };
            if others != 0 {
                let first = at / WORD_BITS * WORD_BITS + u64::from(others.trailing_zeros());
                return (is_set, first);
            }
            at = (at / WORD_BITS + 1) * WORD_BITS;
        }
        (is_set, pages.end)
    }

    /// The words that hold `pages`, each with the bits of it that do.
    fn masks(&self, pages: Range<u64>) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let index = |word: u64| usize::try_from(word).expect("inside a mapping");
        let (first, end) = (pages.start / WORD_BITS, pages.end.div_ceil(WORD_BITS));
        let words = &self.words()[index(first.min(end))..index(end)];
        words.iter().zip(first..end).map(move |(word, nth)| {
            let from = pages.start.saturating_sub(nth * WORD_BITS);
            let to = (pages.end - nth * WORD_BITS).min(WORD_BITS);
            let mask = (u64::MAX << from) & (u64::MAX >> (WORD_BITS - to));
            (word, mask)
        })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the region holds so many words, is aligned to its pages, reads as zeroes until
        // written, lives as long as `self`, and is reached through these atomics only.
        unsafe { slice::from_raw_parts(self.region.base().cast().as_ptr(), self.words) }
    }
}

fn bits(mask: u64) -> i64 {
    i64::from(mask.count_ones())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_counted_once_however_often_they_are_set_or_cleared() {
        let map = PageMap::new(200).unwrap();
        map.set(3..3);
        assert_eq!(map.count(), 0);
        for _ in 0..2 {
            map.set(60..130);
            assert_eq!(map.count(), 70);
        }
        map.set(0..200);
        assert_eq!(map.count(), 200);
        assert!(map.all_set(0..200));
        for _ in 0..2 {
            map.clear(63..65);
            assert_eq!(map.count(), 198);
        }
        assert!(!map.all_set(0..64) && map.all_set(0..63) && map.all_set(65..200));
        assert!(!map.all_set(64..200));
        map.clear(0..200);
        assert_eq!(map.count(), 0);
    }

    #[test]
    fn runs_end_where_another_state_begins_or_the_range_does() {
        let map = PageMap::new(1000).unwrap();
        map.set(70..71);
        map.set(128..300);
        assert_eq!(map.run(0..1000), (false, 70));
        assert_eq!(map.run(5..60), (false, 60));
        assert_eq!(map.run(70..1000), (true, 71));
        assert_eq!(map.run(71..1000), (false, 128));
        assert_eq!(map.run(130..1000), (true, 300));
        assert_eq!(map.run(130..256), (true, 256));
        assert_eq!(map.run(300..1000), (false, 1000));
        assert_eq!(map.run(999..1000), (false, 1000));
    }

    #[test]
    fn cores_that_change_the_same_words_lose_no_bit() {
        let map = PageMap::new(64 * 64).unwrap();
        std::thread::scope(|scope| {
            for core in 0..4 {
                let map = &map;
                scope.spawn(move || {
                    for page in (core..64 * 64).step_by(4) {
                        map.set(page..page + 1);
                        if core % 2 == 1 {
                            map.clear(page..page + 1);
                        }
                    }
                });
            }
        });
        assert_eq!(map.count(), 64 * 32);
        assert_eq!(map.run(0..64 * 64), (true, 1));
    }
}
