//! The rules of RFC 7143 that the initiator holds the target to, one variant each.
//!
//! A [`Violation`] is final: the stream behind it cannot be trusted, so the initiator takes no more
//! bytes.

use std::fmt;

macro_rules! rules {
    ($($(#[$meta:meta])* $name:ident = $section:literal,)+) => {
        /// A rule that a target can break.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Rule {
            $($(#[$meta])* $name,)+
        }

        impl Rule {
            /// The section of RFC 7143 that states the rule.
            pub const fn section(self) -> &'static str {
                match self {
                    $(Self::$name => $section,)+
                }
            }

            /// All rules, for tests that want to see each of them break.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];
        }
    };
}

rules! {
    // Framing.
    /// An opcode that targets do not send.
    Opcode = "§11.2.1.2",
    /// A field that the standard calls reserved is not zero.
    Reserved = "§11.1",
    /// A field has a value that the standard does not allow.
    FieldValue = "§11.2",
    /// Bytes of padding are not zero.
    Padding = "§11.1",
    HeaderDigest = "§13.1",
    DataDigest = "§13.1",
    /// A data segment longer than the MaxRecvDataSegmentLength that the initiator declared.
    DataSegmentTooLong = "§13.12",
    /// An additional header segment in a PDU that has none.
    Ahs = "§11.2.2",
    /// A PDU that may not be sent in this phase of the connection.
    Phase = "§6.3",

    // Numbering.
    StatSn = "§4.2.2.2",
    ExpCmdSn = "§4.2.2.1",
    MaxCmdSn = "§4.2.2.1",

    // Tasks.
    /// An answer for a task that is unknown, already answered, or was reported as aborted.
    UnknownTask = "§11.2.1.8",
    /// The answer is of another kind than the request.
    AnswerKind = "§11.2.1.8",

    // Data-In.
    DataInWithoutRead = "§11.7",
    DataSn = "§11.7.5",
    DataInOffset = "§11.7.6",
    DataInBeyondExpected = "§11.7.6",
    DataInBurst = "§11.7.1",
    /// S without F, or a status in Data-In that needs sense data.
    DataInStatus = "§11.7.3",
    /// An A bit at error recovery level 0.
    DataInAcknowledge = "§11.7.2",
    DataInTag = "§11.7.4",

    // R2T.
    R2tWithoutWrite = "§11.8",
    R2tSn = "§11.8.1",
    R2tRange = "§11.8.3",
    R2tTag = "§11.8.4",
    MaxOutstandingR2t = "§13.17",

    // SCSI Response.
    Residual = "§11.4.5",
    ExpDataSn = "§11.4.8",
    Sense = "§11.4.7",
    /// A response while the initiator still owes data of a solicited or unsolicited sequence.
    ResponseBeforeData = "§11.4.2",
    /// GOOD although the target neither took nor counted all of the data.
    MissingData = "§11.4.5.1",

    // The rest of full feature phase.
    NopInEcho = "§11.19",
    NopInTags = "§11.19.2",
    TextTags = "§11.11.4",
    TextFlags = "§11.11.1",
    RejectHeader = "§11.17",
    TextFormat = "§6.1",

    // Login.
    LoginVersion = "§11.13.2",
    LoginStage = "§11.13.6",
    LoginIdentity = "§11.13",
    LoginTsih = "§11.13.3",
    LoginContinue = "§11.13.7",
    LoginRounds = "§6.3",
    /// The answer to an offered key is not one that the offer allows.
    KeyAnswer = "§6.2",
    /// Login ended and an offered key was never answered.
    KeyUnanswered = "§6.2",
    /// A key was answered or declared twice.
    KeyTwice = "§6.2",
    FirstBurstLength = "§13.14",
    AuthMethod = "§12.1",
    ChapMessage = "§12.1.3",
    ChapAlgorithm = "§12.1.3",
    /// The target's own proof of the mutual secret is wrong.
    ChapMutualResponse = "§12.1.3",
}

/// What the target did wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub rule: Rule,
    /// What was expected and what came.
    pub detail: String,
}

impl Violation {
    pub(super) fn new(rule: Rule, detail: impl Into<String>) -> Self {
        Self {
            rule,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RFC 7143 {} ({:?}): {}",
            self.rule.section(),
            self.rule,
            self.detail
        )
    }
}

impl std::error::Error for Violation {}

/// Returns a [`Violation`] of `$rule` unless `$holds`.
macro_rules! ensure {
    ($holds:expr, $rule:ident, $($detail:tt)+) => {
        if !$holds {
            return Err($crate::testing::Violation::new(
                $crate::testing::Rule::$rule,
                format!($($detail)+),
            ));
        }
    };
}

pub(super) use ensure;
