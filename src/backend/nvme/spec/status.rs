//! How a command ended: the status field of a completion (NVM Express Base Specification 2.0
//! §3.3.3.2.1, NVM Command Set Specification 1.0 §3.1).
//!
//! Values are those of the wire; what they mean to an initiator is the device's own table.

use std::fmt;

/// Status code types (SCT).
pub(crate) mod kind {
    pub(crate) const GENERIC: u8 = 0;
    pub(crate) const COMMAND: u8 = 1;
    pub(crate) const MEDIA: u8 = 2;
    pub(crate) const PATH: u8 = 3;
    #[cfg(test)]
    pub(crate) const VENDOR: u8 = 7;
}

/// Bit of the status field where SCT begins.
const KIND_SHIFT: u16 = 8;
/// CRD: which of the controller's retry delays applies.
const RETRY_DELAY_SHIFT: u16 = 11;
const MORE: u16 = 1 << 13;
const DO_NOT_RETRY: u16 = 1 << 14;
const FIELD: u16 = 0x7fff;

/// The 15 bits above the phase tag.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Status(u16);

/// Gives each known status a constant and its name (the standard's words).
macro_rules! statuses {
    ($($constant:ident = $kind:path, $code:literal, $name:literal;)*) => {
        impl Status {
            $(pub(crate) const $constant: Self = Self::new($kind, $code);)*
        }

        /// All that are known here, with their names.
        const KNOWN: &[(Status, &str)] = &[$((Status::$constant, $name)),*];
    };
}

statuses! {
    SUCCESS = kind::GENERIC, 0x00, "Successful Completion";
    INVALID_OPCODE = kind::GENERIC, 0x01, "Invalid Command Opcode";
    INVALID_FIELD = kind::GENERIC, 0x02, "Invalid Field in Command";
    ID_CONFLICT = kind::GENERIC, 0x03, "Command ID Conflict";
    DATA_TRANSFER = kind::GENERIC, 0x04, "Data Transfer Error";
    POWER_LOSS = kind::GENERIC, 0x05, "Commands Aborted due to Power Loss Notification";
    INTERNAL = kind::GENERIC, 0x06, "Internal Error";
    ABORTED = kind::GENERIC, 0x07, "Command Abort Requested";
    ABORTED_QUEUE_DELETED = kind::GENERIC, 0x08, "Command Aborted due to SQ Deletion";
    ABORTED_FUSED_FAILED = kind::GENERIC, 0x09, "Command Aborted due to Failed Fused Command";
    ABORTED_FUSED_MISSING = kind::GENERIC, 0x0a, "Command Aborted due to Missing Fused Command";
    INVALID_NAMESPACE = kind::GENERIC, 0x0b, "Invalid Namespace or Format";
    SEQUENCE = kind::GENERIC, 0x0c, "Command Sequence Error";
    INVALID_SGL_SEGMENT = kind::GENERIC, 0x0d, "Invalid SGL Segment Descriptor";
    INVALID_PRP_OFFSET = kind::GENERIC, 0x13, "PRP Offset Invalid";
    ATOMIC_WRITE_UNIT = kind::GENERIC, 0x14, "Atomic Write Unit Exceeded";
    OPERATION_DENIED = kind::GENERIC, 0x15, "Operation Denied";
    ABORTED_PREEMPT = kind::GENERIC, 0x1b, "Command Aborted due to Preempt and Abort";
    SANITIZE_FAILED = kind::GENERIC, 0x1c, "Sanitize Failed";
    SANITIZE_IN_PROGRESS = kind::GENERIC, 0x1d, "Sanitize In Progress";
    NAMESPACE_WRITE_PROTECTED = kind::GENERIC, 0x20, "Namespace is Write Protected";
    INTERRUPTED = kind::GENERIC, 0x21, "Command Interrupted";
    TRANSIENT_TRANSPORT = kind::GENERIC, 0x22, "Transient Transport Error";
    PROHIBITED = kind::GENERIC, 0x23, "Command Prohibited by Command and Feature Lockdown";
    MEDIA_NOT_READY = kind::GENERIC, 0x24, "Admin Command Media Not Ready";
    LBA_OUT_OF_RANGE = kind::GENERIC, 0x80, "LBA Out of Range";
    CAPACITY_EXCEEDED = kind::GENERIC, 0x81, "Capacity Exceeded";
    NAMESPACE_NOT_READY = kind::GENERIC, 0x82, "Namespace Not Ready";
    RESERVATION_CONFLICT = kind::GENERIC, 0x83, "Reservation Conflict";
    FORMAT_IN_PROGRESS = kind::GENERIC, 0x84, "Format In Progress";
    INVALID_COMPLETION_QUEUE = kind::COMMAND, 0x00, "Completion Queue Invalid";
    INVALID_QUEUE_ID = kind::COMMAND, 0x01, "Invalid Queue Identifier";
    INVALID_QUEUE_SIZE = kind::COMMAND, 0x02, "Invalid Queue Size";
    ABORT_LIMIT = kind::COMMAND, 0x03, "Abort Command Limit Exceeded";
    EVENT_LIMIT = kind::COMMAND, 0x05, "Asynchronous Event Request Limit Exceeded";
    INVALID_LOG_PAGE = kind::COMMAND, 0x09, "Invalid Log Page";
    INVALID_QUEUE_DELETION = kind::COMMAND, 0x0c, "Invalid Queue Deletion";
    FEATURE_NOT_SAVEABLE = kind::COMMAND, 0x0d, "Feature Identifier Not Saveable";
    FEATURE_NOT_CHANGEABLE = kind::COMMAND, 0x0e, "Feature Not Changeable";
    FEATURE_NOT_PER_NAMESPACE = kind::COMMAND, 0x0f, "Feature Not Namespace Specific";
    CONFLICTING_ATTRIBUTES = kind::COMMAND, 0x80, "Conflicting Attributes";
    INVALID_PROTECTION = kind::COMMAND, 0x81, "Invalid Protection Information";
    READ_ONLY_RANGE = kind::COMMAND, 0x82, "Attempted Write to Read Only Range";
    COMMAND_SIZE_LIMIT = kind::COMMAND, 0x83, "Command Size Limit Exceeded";
    WRITE_FAULT = kind::MEDIA, 0x80, "Write Fault";
    UNRECOVERED_READ = kind::MEDIA, 0x81, "Unrecovered Read Error";
    GUARD_CHECK = kind::MEDIA, 0x82, "End-to-end Guard Check Error";
    APPLICATION_TAG_CHECK = kind::MEDIA, 0x83, "End-to-end Application Tag Check Error";
    REFERENCE_TAG_CHECK = kind::MEDIA, 0x84, "End-to-end Reference Tag Check Error";
    COMPARE_FAILURE = kind::MEDIA, 0x85, "Compare Failure";
    ACCESS_DENIED = kind::MEDIA, 0x86, "Access Denied";
    UNWRITTEN_BLOCK = kind::MEDIA, 0x87, "Deallocated or Unwritten Logical Block";
    STORAGE_TAG_CHECK = kind::MEDIA, 0x88, "End-to-end Storage Tag Check Error";
    PATH_INTERNAL = kind::PATH, 0x00, "Internal Path Error";
    PATH_PERSISTENT_LOSS = kind::PATH, 0x01, "Asymmetric Access Persistent Loss";
    PATH_INACCESSIBLE = kind::PATH, 0x02, "Asymmetric Access Inaccessible";
    PATH_TRANSITION = kind::PATH, 0x03, "Asymmetric Access Transition";
    PATH_CONTROLLER = kind::PATH, 0x60, "Controller Pathing Error";
    PATH_HOST = kind::PATH, 0x70, "Host Pathing Error";
    PATH_ABORTED = kind::PATH, 0x71, "Command Aborted By Host";
}

impl Status {
    /// The standard's name, where it is known here.
    pub(crate) fn name(self) -> Option<&'static str> {
        let known = KNOWN.iter().find(|(status, _)| self.is(*status));
        known.map(|(_, name)| *name)
    }

    pub(crate) const fn new(kind: u8, code: u8) -> Self {
        Self((kind as u16 & 7) << KIND_SHIFT | code as u16)
    }

    /// From the bits 31:17 of a completion's dword 3; the phase tag is left out.
    pub(crate) const fn from_field(field: u16) -> Self {
        Self(field & FIELD)
    }

    /// The 15 bits, for [`from_field`](Self::from_field).
    pub(crate) const fn field(self) -> u16 {
        self.0
    }

    /// DNR set: the same command would fail again.
    #[cfg(test)]
    pub(crate) const fn with_do_not_retry(self) -> Self {
        Self(self.0 | DO_NOT_RETRY)
    }

    /// SCT.
    pub(crate) const fn kind(self) -> u8 {
        self.0.to_le_bytes()[1] & 7
    }

    /// SC.
    pub(crate) const fn code(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// CRD: 0, or which of CRDT1 to CRDT3 is to pass before the command is sent again.
    pub(crate) const fn retry_delay(self) -> u8 {
        (self.0 >> RETRY_DELAY_SHIFT).to_le_bytes()[0] & 3
    }

    /// M: the error log says more.
    pub(crate) const fn more(self) -> bool {
        self.0 & MORE != 0
    }

    /// DNR.
    pub(crate) const fn do_not_retry(self) -> bool {
        self.0 & DO_NOT_RETRY != 0
    }

    pub(crate) const fn is_success(self) -> bool {
        self.kind() == kind::GENERIC && self.code() == 0
    }

    /// Whether type and code are those of `other`, whatever the flags.
    pub(crate) const fn is(self, other: Self) -> bool {
        self.kind() == other.kind() && self.code() == other.code()
    }
}

impl fmt::Display for Status {
    /// As in "Unrecovered Read Error (SCT 2, SC 81h, do not retry)".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name().unwrap_or("unknown status");
        write!(f, "{name} (SCT {}, SC {:02x}h", self.kind(), self.code())?;
        if self.do_not_retry() {
            f.write_str(", do not retry")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_cut_where_the_standard_cuts_it() {
        // DNR, M, CRD 2, SCT 5, SC A7h.
        let status = Status::from_field(0b111_0101_1010_0111);
        assert_eq!((status.kind(), status.code()), (5, 0xa7));
        assert_eq!(status.retry_delay(), 2);
        assert!(status.do_not_retry() && status.more() && !status.is_success());
        assert_eq!(status.name(), None);
        assert_eq!(
            status.to_string(),
            "unknown status (SCT 5, SC a7h, do not retry)"
        );
        assert_eq!(Status::from_field(u16::MAX).field(), 0x7fff);
    }

    #[test]
    fn success_is_success_whatever_the_flags() {
        assert!(Status::SUCCESS.is_success());
        assert!(Status::from_field(MORE).is_success());
        assert!(
            !Status::INVALID_COMPLETION_QUEUE.is_success(),
            "SC 0 of SCT 1"
        );
        assert!(!Status::PATH_INTERNAL.is_success());
    }

    #[test]
    fn flags_do_not_change_which_status_it_is() {
        let status = Status::UNRECOVERED_READ.with_do_not_retry();
        assert!(status.is(Status::UNRECOVERED_READ) && status != Status::UNRECOVERED_READ);
        assert_eq!(status.name(), Some("Unrecovered Read Error"));
        assert_eq!(status.field(), 0x4281);
    }

    #[test]
    fn every_status_has_one_name() {
        for (at, (status, name)) in KNOWN.iter().enumerate() {
            assert_eq!(status.name(), Some(*name));
            let others = KNOWN[at + 1..].iter();
            for (other, other_name) in others {
                assert_ne!(status.field(), other.field());
                assert_ne!(name, other_name);
            }
        }
    }
}
