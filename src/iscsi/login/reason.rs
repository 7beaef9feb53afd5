//! Why a login is refused: one variant per rule that an initiator can break and per decision of
//! ours, mapped in one function to the status on the wire (RFC 7143 §11.13.5).

use std::net::SocketAddr;

use thiserror::Error;

use crate::iscsi::binary::BinaryError;
use crate::iscsi::keys::Key;
use crate::iscsi::names::NameError;
use crate::iscsi::text::{LOGIN_DATA_SEGMENT_MAX_BYTES, TextError, TextWriter};
use crate::pdu::{FormatError, LoginStatus, Stage};

/// The rule or the decision. No variant holds anything secret or anything that a peer wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Reason {
    // What the PDUs are like.
    /// RFC 7143 §11.12: the header holds a reserved value.
    #[error("the Login Request's header is malformed: {0}")]
    Header(FormatError),
    /// RFC 7143 §13.12: 8192 bytes hold during login.
    #[error("a Login Request has more than {LOGIN_DATA_SEGMENT_MAX_BYTES} bytes of text")]
    SegmentTooLong,
    /// RFC 7143 §6.1, §6.2.
    #[error("the text cannot be read: {0}")]
    Text(TextError),
    /// RFC 7143 §11.12.4.
    #[error("the initiator speaks no version of iSCSI that we do")]
    UnsupportedVersion,
    /// RFC 7143 §11.12.8.
    #[error("the Initiator Task Tag changed during login")]
    IttChanged,
    /// RFC 7143 §11.12.5.
    #[error("the ISID changed during login")]
    IsidChanged,
    /// RFC 7143 §11.12.6.
    #[error("the TSIH changed during login")]
    TsihChanged,
    /// RFC 7143 §11.12.7.
    #[error("the CID changed during login")]
    CidChanged,
    /// RFC 7143 §11.12.9: Login Requests are immediate and do not advance CmdSN.
    #[error("CmdSN changed during login")]
    CmdSnChanged,
    /// RFC 7143 §11.12.3: the current stage is the one that both sides are in.
    #[error("the Login Request is of stage {got:?}, but the login is in stage {expected:?}")]
    StageMismatch { expected: Stage, got: Stage },
    /// RFC 7143 §11.12.3: a login begins in one of the two negotiation stages.
    #[error("a login cannot begin in full feature phase")]
    BeginsInFullFeaturePhase,
    /// RFC 7143 §6.3: stages are left forwards only.
    #[error("there is no transition from stage {from:?} to {to:?}")]
    BadTransition { from: Stage, to: Stage },
    /// RFC 7143 §6.2: while our text goes on (C bit), the initiator sends nothing of its own.
    #[error("the initiator sent text before it had taken all of ours")]
    TextBeforeEndOfOurs,
    /// Our own bound.
    #[error("the login takes too many requests")]
    TooManyRequests,

    // What the keys say.
    /// RFC 7143 §6.2: once in a login.
    #[error("{0} was sent twice")]
    DuplicateKey(Key),
    /// RFC 7143 §13: each key has its stage.
    #[error("{0} does not belong into this stage of a login")]
    WrongStage(Key),
    /// RFC 7143 §13: a key of the leading connection only.
    #[error("{0} belongs to the leading login of a session only")]
    NotLeading(Key),
    /// RFC 7143 §13: a key that only targets send.
    #[error("{0} is not for initiators to send")]
    TargetsKey(Key),
    /// RFC 7143 §13: a declared value out of its range or format.
    #[error("the value of {0} is not one that it may have")]
    BadValue(Key),
    /// RFC 7143 §4.2.7.
    #[error("{0} {1}")]
    BadName(Key, NameError),
    /// RFC 7143 §13.5.
    #[error("the login has no InitiatorName")]
    NoInitiatorName,
    /// RFC 7143 §13.4: a normal session needs a target.
    #[error("the login of a normal session has no TargetName")]
    NoTargetName,
    /// RFC 7143 §13.21.
    #[error("SessionType is neither Normal nor Discovery")]
    UnknownSessionType,
    /// RFC 7143 §6.2: what we offer must be answered.
    #[error("the initiator did not answer our offer of {0}")]
    OfferIgnored(Key),
    /// RFC 7143 §6.2: an answer stays within the offer.
    #[error("the initiator's answer to our offer of {0} is not within it")]
    BadAnswer(Key),
    /// Our policy.
    #[error("the target requires {0}=CRC32C and the initiator does not agree to it")]
    DigestRequired(Key),

    // Who it is.
    /// RFC 7143 §6.3.2: security negotiation was left out.
    #[error("the initiator did not authenticate itself, but CHAP is required")]
    AuthenticationRequired,
    /// RFC 7143 §12: no method of the offered list will do.
    #[error("the initiator does not offer AuthMethod=CHAP, which is required")]
    ChapNotOffered,
    /// RFC 7143 §12.
    #[error("the initiator insists on authentication, but none is configured here")]
    NoneNotOffered,
    /// RFC 7143 §12.1.3.
    #[error("the initiator offers no CHAP algorithm that is allowed here")]
    NoChapAlgorithm,
    /// RFC 7143 §12.1.3: the steps of CHAP have an order.
    #[error("{0} is missing or out of order in the CHAP exchange")]
    ChapOrder(Key),
    #[error("{0} is not a number or out of its range")]
    ChapNumber(Key),
    #[error("{0}: {1}")]
    ChapBinary(Key, BinaryError),
    /// RFC 7143 §12.1.3: a challenge that comes back is an attempt to have us answer ourselves.
    #[error("the initiator sent our own CHAP challenge back")]
    ChapReflected,
    /// Name and secret are not told apart on purpose.
    #[error("the CHAP user name or secret is wrong")]
    ChapFailed,
    #[error("the initiator asks for mutual CHAP, but no mutual secret is configured here")]
    NoMutualSecret,

    // What it may have.
    #[error("no such target is configured")]
    TargetNotFound,
    #[error("the target is not served through this portal group")]
    TargetNotOnPortal,
    /// RFC 7143 §11.13.5: not an error, but this login ends.
    #[error("the target is at {to} now")]
    TargetMoved { to: SocketAddr, permanent: bool },
    #[error("the target has been removed")]
    TargetRemoved,
    #[error("the target's list of initiators does not contain this one")]
    InitiatorDenied,
    #[error("the target's list of addresses does not contain this one")]
    AddressDenied,
    #[error("the target serves nobody at the moment")]
    TargetUnavailable,

    // What the daemon decides.
    /// RFC 7143 §11.12.6: a TSIH that names no session of this initiator.
    #[error("there is no session of this TSIH")]
    NoSuchSession,
    /// MaxConnections is 1.
    #[error("the session has all the connections that it may have")]
    TooManyConnections,
    #[error("the daemon is about to stop")]
    ShuttingDown,
    #[error("the daemon has no room for another session")]
    OutOfResources,
}

impl Reason {
    /// The status that the initiator is told (RFC 7143 §11.13.5).
    pub fn status(self) -> LoginStatus {
        match self {
            Self::Header(_)
            | Self::SegmentTooLong
            | Self::Text(_)
            | Self::IttChanged
            | Self::IsidChanged
            | Self::TsihChanged
            | Self::CidChanged
            | Self::CmdSnChanged
            | Self::StageMismatch { .. }
            | Self::BeginsInFullFeaturePhase
            | Self::BadTransition { .. }
            | Self::TextBeforeEndOfOurs
            | Self::TooManyRequests
            | Self::DuplicateKey(_)
            | Self::WrongStage(_)
            | Self::NotLeading(_)
            | Self::TargetsKey(_)
            | Self::BadValue(_)
            | Self::BadName(..)
            | Self::OfferIgnored(_)
            | Self::BadAnswer(_)
            | Self::DigestRequired(_) => LoginStatus::INITIATOR_ERROR,
            Self::AuthenticationRequired
            | Self::ChapNotOffered
            | Self::NoneNotOffered
            | Self::NoChapAlgorithm
            | Self::ChapOrder(_)
            | Self::ChapNumber(_)
            | Self::ChapBinary(..)
            | Self::ChapReflected
            | Self::ChapFailed
            | Self::NoMutualSecret => LoginStatus::AUTHENTICATION_FAILURE,
            Self::TargetMoved {
                permanent: false, ..
            } => LoginStatus::TARGET_MOVED_TEMPORARILY,
            Self::TargetMoved {
                permanent: true, ..
            } => LoginStatus::TARGET_MOVED_PERMANENTLY,
            Self::InitiatorDenied | Self::AddressDenied => LoginStatus::AUTHORIZATION_FAILURE,
            Self::TargetNotFound | Self::TargetNotOnPortal => LoginStatus::NOT_FOUND,
            Self::TargetRemoved => LoginStatus::TARGET_REMOVED,
            Self::UnsupportedVersion => LoginStatus::UNSUPPORTED_VERSION,
            Self::TooManyConnections => LoginStatus::TOO_MANY_CONNECTIONS,
            Self::NoInitiatorName | Self::NoTargetName => LoginStatus::MISSING_PARAMETER,
            Self::UnknownSessionType => LoginStatus::SESSION_TYPE_NOT_SUPPORTED,
            Self::NoSuchSession => LoginStatus::SESSION_DOES_NOT_EXIST,
            Self::TargetUnavailable | Self::ShuttingDown => LoginStatus::SERVICE_UNAVAILABLE,
            Self::OutOfResources => LoginStatus::OUT_OF_RESOURCES,
        }
    }
}

impl Reason {
    /// The text of the Login Response that ends the login: where the target is, if it moved
    /// (RFC 7143 §13.8: without a portal group tag), else nothing.
    pub fn text(self) -> Vec<u8> {
        let mut out = TextWriter::default();
        if let Self::TargetMoved { to, .. } = self {
            out.push(Key::TargetAddress.name(), to);
        }
        out.finish()
    }
}

impl From<TextError> for Reason {
    fn from(error: TextError) -> Self {
        Self::Text(error)
    }
}
