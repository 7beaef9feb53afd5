//! Identifiers of the wire as types. None of them is interpreted here.

use std::fmt;

/// Initiator Task Tag (RFC 7143 §11.2.1.8): names a task within a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Itt(pub u32);

/// Target Transfer Tag (RFC 7143 §11.7.4): the target's own handle, echoed by the initiator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttt(pub u32);

/// The eight bytes of a LUN field (RFC 7143 §11.2.1.7) as they stand on the wire; `scsi` gives them
/// meaning (SAM-5 §4.7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LunField(pub [u8; 8]);

/// Initiator session identifier (RFC 7143 §11.12.5), six bytes with inner structure that a target
/// need not read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Isid(pub [u8; 6]);

/// Target session identifying handle (RFC 7143 §11.12.6); zero asks for a new session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Tsih(pub u16);

/// Connection identifier within a session (RFC 7143 §11.12.7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Cid(pub u16);

impl Itt {
    /// No task: of a NOP-Out that wants no answer, a NOP-In, Reject or Asynchronous Message.
    pub const RESERVED: Self = Self(0xffff_ffff);

    pub const fn is_reserved(self) -> bool {
        self.0 == Self::RESERVED.0
    }
}

impl Ttt {
    /// No tag: unsolicited data, or nothing to be echoed.
    pub const RESERVED: Self = Self(0xffff_ffff);

    pub const fn is_reserved(self) -> bool {
        self.0 == Self::RESERVED.0
    }
}

impl Tsih {
    /// The leading Login Request of a new session carries this (RFC 7143 §6.3.1).
    pub const NEW_SESSION: Self = Self(0);
}

impl fmt::Debug for Itt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Itt({:#010x})", self.0)
    }
}

impl fmt::Debug for Ttt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ttt({:#010x})", self.0)
    }
}

impl fmt::Debug for LunField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LunField({:#018x})", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Isid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Isid(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_all_ones_is_reserved() {
        assert!(Itt(0xffff_ffff).is_reserved() && Ttt(0xffff_ffff).is_reserved());
        assert!(!Itt(0xffff_fffe).is_reserved() && !Ttt(0).is_reserved());
    }

    #[test]
    fn debug_shows_the_bytes_in_wire_order() {
        assert_eq!(
            format!("{:?}", LunField([0, 1, 0, 0, 0, 0, 0, 2])),
            "LunField(0x0001000000000002)"
        );
        assert_eq!(
            format!("{:?}", Isid([0x80, 1, 2, 3, 4, 5])),
            "Isid(800102030405)"
        );
    }
}
