//! Residual counts (RFC 7143 §11.4.5): by how much the data of a command missed what the initiator
//! expected to transfer.

use super::FormatError;

/// The difference between the expected and the actual transfer, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Residual {
    #[default]
    None,
    /// So many bytes were not transferred because the initiator expected too few.
    Overflow(u32),
    /// So many bytes were expected but not transferred.
    Underflow(u32),
}

impl Residual {
    /// From the two flag bits and the count. Without a flag the count is reserved (RFC 7143
    /// §11.4.5).
    pub(super) fn parse(overflow: bool, underflow: bool, count: u32) -> Result<Self, FormatError> {
        match (overflow, underflow) {
            (false, false) => Ok(Self::None),
            (true, false) => Ok(Self::Overflow(count)),
            (false, true) => Ok(Self::Underflow(count)),
            (true, true) => Err(FormatError::ContradictoryResidual),
        }
    }

    /// The flags (`overflow` or `underflow` of the caller's byte, or zero) and the count.
    pub(super) fn emit(self, overflow: u8, underflow: u8) -> (u8, u32) {
        match self {
            Self::None => (0, 0),
            Self::Overflow(count) => (overflow, count),
            Self::Underflow(count) => (underflow, count),
        }
    }
}
