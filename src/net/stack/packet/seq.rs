//! [`Seq`]: TCP sequence numbers, which wrap (RFC 9293 §3.4).

/// A sequence number. Two of them compare by the shorter way round, so numbers more than 2³¹ apart
/// must not meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Seq(pub u32);

impl Seq {
    /// The number `count` further on; whole rounds do not show.
    #[must_use]
    pub const fn plus(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// The number `count` before.
    #[must_use]
    pub const fn minus(self, count: u32) -> Self {
        Self(self.0.wrapping_sub(count))
    }

    /// How far on from `earlier`; negative when before it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i32 {
        self.0.wrapping_sub(earlier.0).cast_signed()
    }

    /// How far on from `earlier`; 0 when before it.
    #[must_use]
    pub fn count_since(self, earlier: Self) -> u32 {
        u32::try_from(self.since(earlier)).unwrap_or(0)
    }

    #[must_use]
    pub const fn is_before(self, other: Self) -> bool {
        self.since(other) < 0
    }

    #[must_use]
    pub const fn is_after(self, other: Self) -> bool {
        self.since(other) > 0
    }

    /// The later of the two.
    #[must_use]
    pub const fn max(self, other: Self) -> Self {
        if self.is_before(other) { other } else { self }
    }

    /// The earlier of the two.
    #[must_use]
    pub const fn min(self, other: Self) -> Self {
        if other.is_before(self) { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_across_the_wrap() {
        let last = Seq(u32::MAX);
        assert_eq!(last.plus(1), Seq(0));
        assert!(last.is_before(Seq(5)));
        assert!(Seq(5).is_after(last));
        assert_eq!(Seq(5).since(last), 6);
        assert_eq!(last.since(Seq(5)), -6);
        assert_eq!(last.count_since(Seq(5)), 0);
        assert_eq!(Seq(5).count_since(last), 6);
        assert_eq!(Seq(5).minus(6), last);
        assert_eq!(last.max(Seq(5)), Seq(5));
        assert_eq!(last.min(Seq(5)), last);
    }
}
