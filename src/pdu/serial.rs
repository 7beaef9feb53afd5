//! Serial numbers (RFC 7143 §4.2.2 and RFC 1982 with SERIAL_BITS = 32).
//!
//! They wrap, so `<` on the plain numbers is wrong: compare only by the methods here. Two numbers
//! that are exactly 2^31 apart have no order in RFC 1982; here neither is before the other. DataSN
//! and R2TSN start at zero in each task and are plain `u32`.

macro_rules! serial_number {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
        pub struct $name(pub u32);

        impl $name {
            /// The number after this one.
            #[inline]
            #[must_use]
            pub const fn next(self) -> Self {
                self.plus(1)
            }

            /// The number `n` steps later. RFC 1982 defines it for `n` < 2^31.
            #[inline]
            #[must_use]
            pub const fn plus(self, n: u32) -> Self {
                Self(self.0.wrapping_add(n))
            }

            /// The number `n` steps earlier.
            #[inline]
            #[must_use]
            pub const fn minus(self, n: u32) -> Self {
                Self(self.0.wrapping_sub(n))
            }

            /// Whether this number comes strictly before `other` (RFC 1982 §3.2).
            #[inline]
            #[must_use]
            pub const fn is_before(self, other: Self) -> bool {
                let ahead = other.0.wrapping_sub(self.0);
                ahead != 0 && ahead < 1 << 31
            }

            /// Whether this number comes strictly after `other`.
            #[inline]
            #[must_use]
            pub const fn is_after(self, other: Self) -> bool {
                other.is_before(self)
            }

            /// How many steps lead from `earlier` to this number; above 2^31 when `earlier` is in
            /// truth the later one.
            #[inline]
            #[must_use]
            pub const fn distance_from(self, earlier: Self) -> u32 {
                self.0.wrapping_sub(earlier.0)
            }
        }
    };
}

serial_number! {
    /// Command sequence number of a session (RFC 7143 §4.2.2.1).
    CmdSn
}

serial_number! {
    /// Status sequence number of a connection (RFC 7143 §4.2.2.2).
    StatSn
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn order_survives_the_wrap() {
        assert!(CmdSn(0xffff_ffff).is_before(CmdSn(0)));
        assert!(CmdSn(0).is_after(CmdSn(0xffff_ffff)));
        assert_eq!(CmdSn(0xffff_ffff).next(), CmdSn(0));
        assert_eq!(CmdSn(0).minus(1), CmdSn(0xffff_ffff));
        assert_eq!(CmdSn(2).distance_from(CmdSn(0xffff_fffe)), 4);
    }

    #[test]
    fn numbers_half_the_circle_apart_have_no_order() {
        assert!(!StatSn(0).is_before(StatSn(1 << 31)));
        assert!(!StatSn(1 << 31).is_before(StatSn(0)));
    }

    proptest! {
        #[test]
        fn a_later_number_is_after_and_its_distance_is_what_was_added(
            start: u32,
            steps in 1u32..1 << 31,
        ) {
            let (first, second) = (CmdSn(start), CmdSn(start).plus(steps));
            prop_assert!(first.is_before(second));
            prop_assert!(second.is_after(first));
            prop_assert!(!second.is_before(first));
            prop_assert_eq!(second.distance_from(first), steps);
            prop_assert_eq!(second.minus(steps), first);
        }

        #[test]
        fn no_number_is_before_itself(n: u32) {
            prop_assert!(!StatSn(n).is_before(StatSn(n)));
        }
    }
}
