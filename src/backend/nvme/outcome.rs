//! What a status means to whoever asked: the one table from [`Status`] to [`IoError`].
//!
//! `scsi::sense` has the other half, from errors to sense data. Together they are what NVMe's words
//! become on the other side; a status that is not known here is judged by its type. What may be
//! sent again without harm is said here too, and never with DNR set.

use super::super::request::IoError;
use super::spec::status::{Status, kind};

/// How often a command is sent again that its controller was not ready for.
pub(crate) const RETRIES_MAX: u8 = 3;

/// What the command did to the medium.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
}

/// What becomes of the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Good,
    Fail(IoError),
    /// It can be sent again, at most [`RETRIES_MAX`] times, behind the delay that `delay` (CRD)
    /// names; then it is `otherwise`.
    Retry {
        delay: u8,
        otherwise: IoError,
    },
}

/// Who may try again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Again {
    Here,
    No,
}

/// What `status` means.
pub(crate) fn of(status: Status, access: Access) -> Outcome {
    if status.is_success() {
        return Outcome::Good;
    }
    let known = TABLE.iter().find(|(row, _, _)| status.is(*row));
    let (error, again) = known.map_or_else(
        || (unknown(status, access), Again::No),
        |&(_, error, again)| (error, again),
    );
    if again == Again::Here && !status.do_not_retry() {
        return Outcome::Retry {
            delay: status.retry_delay(),
            otherwise: error,
        };
    }
    Outcome::Fail(error)
}

/// A status that is not in the table.
fn unknown(status: Status, access: Access) -> IoError {
    match (status.kind(), access) {
        (kind::MEDIA, Access::Read) => IoError::Medium,
        (kind::MEDIA, Access::Write) => IoError::WriteFault,
        (kind::PATH, _) => IoError::NotReady,
        _ => IoError::Hardware,
    }
}

type Row = (Status, IoError, Again);

/// Statuses of I/O commands, in the standard's order. What says that our command was malformed is
/// [`IoError::Hardware`]: an initiator cannot have caused it.
const TABLE: [Row; 44] = [
    (Status::INVALID_OPCODE, IoError::Unsupported, Again::No),
    (Status::INVALID_FIELD, IoError::Hardware, Again::No),
    (Status::ID_CONFLICT, IoError::Hardware, Again::No),
    (Status::DATA_TRANSFER, IoError::Aborted, Again::No),
    (Status::POWER_LOSS, IoError::Aborted, Again::No),
    (Status::INTERNAL, IoError::Hardware, Again::No),
    (Status::ABORTED, IoError::Aborted, Again::No),
    (Status::ABORTED_QUEUE_DELETED, IoError::Aborted, Again::No),
    (Status::ABORTED_FUSED_FAILED, IoError::Aborted, Again::No),
    (Status::ABORTED_FUSED_MISSING, IoError::Aborted, Again::No),
    (Status::INVALID_NAMESPACE, IoError::Absent, Again::No),
    (Status::SEQUENCE, IoError::Hardware, Again::No),
    (Status::INVALID_SGL_SEGMENT, IoError::Hardware, Again::No),
    (Status::INVALID_PRP_OFFSET, IoError::Hardware, Again::No),
    (Status::ATOMIC_WRITE_UNIT, IoError::Hardware, Again::No),
    (Status::OPERATION_DENIED, IoError::Denied, Again::No),
    (Status::ABORTED_PREEMPT, IoError::Aborted, Again::No),
    (Status::SANITIZE_FAILED, IoError::Hardware, Again::No),
    (Status::SANITIZE_IN_PROGRESS, IoError::Sanitizing, Again::No),
    (
        Status::NAMESPACE_WRITE_PROTECTED,
        IoError::WriteProtected,
        Again::No,
    ),
    (Status::INTERRUPTED, IoError::Aborted, Again::Here),
    (Status::TRANSIENT_TRANSPORT, IoError::Aborted, Again::Here),
    (Status::PROHIBITED, IoError::Denied, Again::No),
    (Status::MEDIA_NOT_READY, IoError::Recovering, Again::Here),
    (Status::LBA_OUT_OF_RANGE, IoError::OutOfRange, Again::No),
    (Status::CAPACITY_EXCEEDED, IoError::NoSpace, Again::No),
    (
        Status::NAMESPACE_NOT_READY,
        IoError::Recovering,
        Again::Here,
    ),
    // Another host's: persistent reservations of initiators are kept by the target itself.
    (Status::RESERVATION_CONFLICT, IoError::NotReady, Again::No),
    (Status::FORMAT_IN_PROGRESS, IoError::Formatting, Again::No),
    (Status::CONFLICTING_ATTRIBUTES, IoError::Hardware, Again::No),
    (Status::INVALID_PROTECTION, IoError::Hardware, Again::No),
    (Status::READ_ONLY_RANGE, IoError::WriteProtected, Again::No),
    (Status::COMMAND_SIZE_LIMIT, IoError::Hardware, Again::No),
    (Status::WRITE_FAULT, IoError::WriteFault, Again::No),
    (Status::UNRECOVERED_READ, IoError::Medium, Again::No),
    // There is no protection information in the formats that are served.
    (Status::GUARD_CHECK, IoError::Medium, Again::No),
    (Status::ACCESS_DENIED, IoError::Denied, Again::No),
    (Status::UNWRITTEN_BLOCK, IoError::Medium, Again::No),
    (Status::PATH_INTERNAL, IoError::Aborted, Again::Here),
    (Status::PATH_PERSISTENT_LOSS, IoError::NotReady, Again::No),
    (Status::PATH_INACCESSIBLE, IoError::NotReady, Again::No),
    (Status::PATH_TRANSITION, IoError::Recovering, Again::Here),
    // The kernel's, of a controller that it is resetting.
    (Status::PATH_HOST, IoError::Recovering, Again::Here),
    (Status::PATH_ABORTED, IoError::Aborted, Again::No),
];

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Access; 2] = [Access::Read, Access::Write];

    #[test]
    fn every_field_has_one_meaning_and_only_success_is_good() {
        for field in 0..1 << 15 {
            let status = Status::from_field(field);
            for access in BOTH {
                let outcome = of(status, access);
                assert_eq!(outcome == Outcome::Good, status.is_success(), "{status}");
                if let Outcome::Retry { delay, otherwise } = outcome {
                    assert!(!status.do_not_retry(), "{status}");
                    assert_eq!(delay, status.retry_delay());
                    let last = of(status.with_do_not_retry(), access);
                    assert_eq!(last, Outcome::Fail(otherwise), "{status}");
                }
            }
        }
    }

    #[test]
    fn a_row_stands_once() {
        for (at, (row, _, _)) in TABLE.iter().enumerate() {
            let again = TABLE[at + 1..].iter().find(|(other, _, _)| row.is(*other));
            assert_eq!(again, None);
            assert!(row.name().is_some() && !row.is_success());
        }
    }

    #[test]
    fn errors_of_the_medium_are_told_apart() {
        let fail = |status, access| match of(status, access) {
            Outcome::Fail(error) => error,
            other => panic!("{status} is {other:?}"),
        };
        for (status, read, write) in [
            (Status::UNRECOVERED_READ, IoError::Medium, IoError::Medium),
            (
                Status::WRITE_FAULT,
                IoError::WriteFault,
                IoError::WriteFault,
            ),
            (
                Status::new(kind::MEDIA, 0xff),
                IoError::Medium,
                IoError::WriteFault,
            ),
            (
                Status::new(kind::VENDOR, 1),
                IoError::Hardware,
                IoError::Hardware,
            ),
            (
                Status::new(kind::PATH, 0xff),
                IoError::NotReady,
                IoError::NotReady,
            ),
            (
                Status::CAPACITY_EXCEEDED,
                IoError::NoSpace,
                IoError::NoSpace,
            ),
        ] {
            assert_eq!(fail(status, Access::Read), read, "{status}");
            assert_eq!(fail(status, Access::Write), write, "{status}");
        }
    }

    #[test]
    fn only_what_is_not_ready_is_sent_again() {
        let retried = |field: &u16| {
            let outcome = of(Status::from_field(*field), Access::Write);
            matches!(outcome, Outcome::Retry { .. })
        };
        // Without the flags.
        let rows: Vec<u16> = (0..1 << 11).filter(retried).collect();
        let wanted = [
            Status::INTERRUPTED,
            Status::TRANSIENT_TRANSPORT,
            Status::MEDIA_NOT_READY,
            Status::NAMESPACE_NOT_READY,
            Status::PATH_INTERNAL,
            Status::PATH_TRANSITION,
            Status::PATH_HOST,
        ];
        assert_eq!(rows, wanted.map(Status::field));
    }
}
