//! What a driver did against the rules, as the model has seen it.

use std::fmt;

/// Which rule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Rule {
    /// A command names memory that is not mapped for the controller.
    Unmapped,
    /// A command's data is memory that nobody has given to a command.
    NotOwned,
    /// A register that cannot be written, or reserved bits of one.
    Register,
    /// A register, or a field of CC, that may change only while the controller is disabled.
    Enabled,
    /// CC.EN was changed while CSTS.RDY had not followed its last change.
    NotSettled,
    /// It was enabled with what it does not support, or without admin queues.
    Configuration,
    /// A doorbell was rung while there are no queues (disabled, or shut down).
    DoorbellDisabled,
    /// The doorbell of no queue.
    DoorbellUnknown,
    /// A value that is not below the queue's entries.
    DoorbellValue,
    /// A doorbell was rung with the value that it has.
    DoorbellSame,
    /// The tail was moved over commands that the controller has not been seen to read.
    SubmissionOverrun,
    /// The head was moved over completions that are not there.
    CompletionOverrun,
    /// Reserved bits or fields of a command are set.
    Reserved,
    /// An opcode, feature, log page or option that the controller does not have.
    Unsupported,
    /// PRP entries break a rule.
    Prp,
    /// A CID is used again while its command is outstanding.
    CommandId,
    /// More than one of the limits that the controller has told.
    Limit,
    /// Queues are created, deleted or numbered against the rules.
    Queue,
    /// A thread of a data core has read a register, or written one that is no doorbell.
    CoreAccess,
    /// A normal shutdown was announced while there were I/O queues.
    Shutdown,
    /// Memory was unmapped that was not mapped.
    Unmap,
}

/// One broken rule, and what it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    pub(crate) detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.detail)
    }
}

/// Violations that are kept; a driver that is so wrong need not be told all of it.
const KEPT_MAX: usize = 1000;

/// All that was seen and not yet asked for.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    kept: Vec<Violation>,
}

impl Verdict {
    pub(super) fn add(&mut self, rule: Rule, detail: String) {
        if self.kept.len() < KEPT_MAX {
            self.kept.push(Violation { rule, detail });
        }
    }

    pub(super) fn take(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.kept)
    }
}
