//! One-byte codes of the wire: an enum of the values that the standard names, and `Other` for the
//! rest.
//!
//! A code that we do not know is a value, not a failure: the engine decides what it answers.

/// Declares such an enum with `parse` (total) and `emit` (its inverse).
macro_rules! wire_code {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $value:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
            /// A value that has no name above, as it stood on the wire.
            Other(u8),
        }

        impl $name {
            /// The meaning of the byte on the wire.
            #[inline]
            pub const fn parse(wire: u8) -> Self {
                match wire {
                    $($value => Self::$variant,)+
                    other => Self::Other(other),
                }
            }

            /// The byte for the wire.
            #[inline]
            pub const fn emit(self) -> u8 {
                match self {
                    $(Self::$variant => $value,)+
                    Self::Other(wire) => wire,
                }
            }
        }
    };
}

pub(super) use wire_code;
