//! Numbers that look random and are the same for the same seed.

/// SplitMix64: enough to choose what happens next.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// One of `0..bound`; 0 where there is none.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let bound = (bound as u64).max(1);
        usize::try_from(self.next() % bound).expect("below an index")
    }

    /// With a chance of one half.
    pub(super) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_row_of_numbers() {
        let row = |seed| {
            let mut random = Random::new(seed);
            [0; 64].map(|_| random.below(10))
        };
        assert_eq!(row(1), row(1));
        assert_ne!(row(1), row(2));
        assert!((0..10).all(|number| row(3).contains(&number)));
        let mut random = Random::new(4);
        assert_eq!(random.below(0), 0);
        let heads = (0..1000).filter(|_| random.coin()).count();
        assert!((400..600).contains(&heads), "{heads} of 1000");
    }
}
