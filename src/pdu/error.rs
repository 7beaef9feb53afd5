//! What can be wrong inside a header whose opcode is known: one variant per rule.

use thiserror::Error;

/// A field that holds a value which RFC 7143 reserves, or two fields that contradict each other.
/// The engine maps it to a Reject (invalid PDU field) or a Login status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FormatError {
    /// RFC 7143 §11.3.1.2: ATTR is 5, 6 or 7.
    #[error("task attribute {0} is reserved")]
    ReservedTaskAttribute(u8),
    /// RFC 7143 §11.12.3: CSG or NSG is 2.
    #[error("login stage {0} is reserved")]
    ReservedStage(u8),
    /// RFC 7143 §11.12.2: a PDU whose text goes on in the next one cannot ask for a transition.
    #[error("the C bit and the T bit are both set")]
    ContinueWithTransit,
    /// RFC 7143 §11.10.2: a PDU whose text goes on in the next one cannot be the final one.
    #[error("the C bit and the F bit are both set")]
    ContinueWithFinal,
    /// RFC 7143 §11.14.1: a reason code above 2.
    #[error("logout reason {0} is reserved")]
    ReservedLogoutReason(u8),
    /// RFC 7143 §11.16.1: a type above 3.
    #[error("SNACK type {0} is reserved")]
    ReservedSnackType(u8),
    /// RFC 7143 §11.4.1: overflow and underflow exclude each other.
    #[error("residual overflow and underflow are both set")]
    ContradictoryResidual,
}
