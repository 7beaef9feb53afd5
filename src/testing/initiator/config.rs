//! How an initiator logs in: everything is the test's choice.

use std::sync::Arc;

use super::chap::Chap;
use super::negotiation::Negotiated;
use super::serials::SharedCmdSn;
use crate::pdu::{Cid, CmdSn, Isid, Tsih};

/// What the session is for (RFC 7143 §13.21).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionType {
    Normal,
    Discovery,
}

/// How the security stage goes.
#[derive(Clone, Debug)]
pub enum Auth {
    /// No security stage: the first request is in the operational stage.
    Skip,
    /// A security stage that offers `AuthMethod=None`.
    None,
    /// A security stage that offers `AuthMethod=CHAP`, or `CHAP,None`.
    Chap { chap: Chap, or_none: bool },
}

/// Who runs the login phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Login {
    /// The initiator itself, as [`Config`] says.
    Automatic,
    /// The test, with PDUs of its own; every answer comes as [`Event::Raw`](super::Event::Raw)
    /// until [`Initiator::enter_full_feature`](super::Initiator::enter_full_feature).
    Manual,
}

/// What a further connection has to know of its session.
#[derive(Clone, Debug)]
pub struct Joins {
    pub(super) cmd_sn: Arc<SharedCmdSn>,
    pub(super) negotiated: Negotiated,
}

/// The plan of one connection.
#[derive(Clone, Debug)]
pub struct Config {
    pub login: Login,
    pub session_type: SessionType,
    pub initiator_name: String,
    /// Needed in normal sessions.
    pub target_name: Option<String>,
    pub isid: Isid,
    /// Not zero: join or reinstate this session.
    pub tsih: Tsih,
    /// The session of `tsih` as its other connections know it; see
    /// [`Initiator::further`](super::Initiator::further).
    pub joins: Option<Joins>,
    pub cid: Cid,
    pub cmd_sn: CmdSn,
    pub auth: Auth,
    /// With `Auth::None` and `Auth::Chap`: go from the security stage straight to full feature
    /// phase without an operational stage. `keys` are then not sent.
    pub skip_operational: bool,
    /// Further keys of the first request, sent as they stand.
    pub first_keys: Vec<(String, String)>,
    /// The operational keys, sent as they stand in the operational stage.
    pub keys: Vec<(String, String)>,
    /// Send login text in pieces of this many bytes, with the C bit on all but the last.
    pub text_piece_bytes: usize,
    /// Answer NOP-In requests by itself. Without it they are only reported.
    pub answer_nop_in: bool,
    /// Complain also about what deployed targets get wrong without harm: bytes that the standard
    /// calls reserved and that are not zero, and a refusal of login that does not echo the ISID.
    pub strict_fields: bool,
}

/// Login text of one PDU is at most this long: the default MaxRecvDataSegmentLength holds until the
/// connection is in full feature phase (RFC 7143 §13.12).
pub(super) const LOGIN_TEXT_MAX: usize = 8192;

impl Config {
    /// A normal session with usual keys and no authentication.
    pub fn new(initiator_name: &str, target_name: &str) -> Self {
        Self {
            login: Login::Automatic,
            session_type: SessionType::Normal,
            initiator_name: initiator_name.into(),
            target_name: Some(target_name.into()),
            isid: Isid([0x80, 0, 0, 0, 0, 1]),
            tsih: Tsih::NEW_SESSION,
            joins: None,
            cid: Cid(0),
            cmd_sn: CmdSn(1),
            auth: Auth::None,
            skip_operational: false,
            first_keys: Vec::new(),
            keys: Self::usual_keys(),
            text_piece_bytes: LOGIN_TEXT_MAX,
            answer_nop_in: true,
            strict_fields: true,
        }
    }

    /// A discovery session.
    pub fn discovery(initiator_name: &str) -> Self {
        let keys = [("HeaderDigest", "None"), ("DataDigest", "None")];
        Self {
            session_type: SessionType::Discovery,
            target_name: None,
            keys: pairs(&keys),
            ..Self::new(initiator_name, "")
        }
    }

    fn usual_keys() -> Vec<(String, String)> {
        pairs(&[
            ("HeaderDigest", "None"),
            ("DataDigest", "None"),
            ("MaxRecvDataSegmentLength", "262144"),
            ("MaxBurstLength", "262144"),
            ("FirstBurstLength", "65536"),
            ("InitialR2T", "No"),
            ("ImmediateData", "Yes"),
            ("MaxOutstandingR2T", "4"),
            ("MaxConnections", "1"),
            ("ErrorRecoveryLevel", "0"),
            ("DefaultTime2Wait", "2"),
            ("DefaultTime2Retain", "0"),
            ("DataPDUInOrder", "Yes"),
            ("DataSequenceInOrder", "Yes"),
        ])
    }

    /// The same with the operational key `key` at `value`, replaced or added.
    #[must_use]
    pub fn with_key(mut self, key: &str, value: &str) -> Self {
        self.keys.retain(|(name, _)| name != key);
        self.keys.push((key.into(), value.into()));
        self
    }

    /// The same with header and data digests offered as only choice, or not at all.
    #[must_use]
    pub fn with_digests(self, header: bool, data: bool) -> Self {
        let value = |on| if on { "CRC32C" } else { "None" };
        self.with_key("HeaderDigest", value(header))
            .with_key("DataDigest", value(data))
    }

    /// The same with another qualifier in the ISID, for a further session of this initiator.
    #[must_use]
    pub fn with_isid_qualifier(mut self, qualifier: u16) -> Self {
        let [high, low] = qualifier.to_be_bytes();
        self.isid.0[4] = high;
        self.isid.0[5] = low;
        self
    }
}

pub(super) fn pairs(keys: &[(&str, &str)]) -> Vec<(String, String)> {
    keys.iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect()
}
