//! What came out of login: one row per key of RFC 7143 §13, checked from the offering side (§6.2).

use super::config::{Config, SessionType};
use crate::pdu::Tsih;
use crate::testing::Violation;
use crate::testing::violation::ensure;

/// The parameters of a connection in full feature phase. Lengths in bytes, times in seconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Negotiated {
    pub tsih: Tsih,
    pub target_portal_group_tag: Option<u16>,
    pub header_digest: bool,
    pub data_digest: bool,
    pub initial_r2t: bool,
    pub immediate_data: bool,
    /// What the initiator declared: bounds the target's data segments.
    pub max_recv_data_segment_length: u32,
    /// What the target declared: bounds ours.
    pub target_max_recv_data_segment_length: u32,
    pub max_burst_length: u32,
    pub first_burst_length: u32,
    pub default_time2wait_s: u32,
    pub default_time2retain_s: u32,
    pub max_outstanding_r2t: u32,
    pub max_connections: u32,
    pub error_recovery_level: u32,
    pub data_pdu_in_order: bool,
    pub data_sequence_in_order: bool,
    /// Every key and value that the target sent, in order, CHAP's included.
    pub received: Vec<(String, String)>,
}

impl Default for Negotiated {
    /// What holds for keys that nobody mentions (the defaults of RFC 7143 §13).
    fn default() -> Self {
        Self {
            tsih: Tsih::NEW_SESSION,
            target_portal_group_tag: None,
            header_digest: false,
            data_digest: false,
            initial_r2t: true,
            immediate_data: true,
            max_recv_data_segment_length: 8192,
            target_max_recv_data_segment_length: 8192,
            max_burst_length: 262_144,
            first_burst_length: 65_536,
            default_time2wait_s: 2,
            default_time2retain_s: 20,
            max_outstanding_r2t: 1,
            max_connections: 1,
            error_recovery_level: 0,
            data_pdu_in_order: true,
            data_sequence_in_order: true,
            received: Vec::new(),
        }
    }
}

impl Negotiated {
    /// That of a further connection: what is the session's was agreed on by its leading login.
    pub(super) fn in_session(self, leading: &Self) -> Self {
        Self {
            tsih: self.tsih,
            header_digest: self.header_digest,
            data_digest: self.data_digest,
            max_recv_data_segment_length: self.max_recv_data_segment_length,
            target_max_recv_data_segment_length: self.target_max_recv_data_segment_length,
            received: self.received,
            ..leading.clone()
        }
    }

    /// The first value that the target sent for `key`.
    pub fn received(&self, key: &str) -> Option<&str> {
        self.received
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    fn set(&mut self, key: &str, value: &str) {
        let number = number(value);
        let yes = value == "Yes";
        let target = match key {
            "HeaderDigest" => return self.header_digest = value == "CRC32C",
            "DataDigest" => return self.data_digest = value == "CRC32C",
            "InitialR2T" => return self.initial_r2t = yes,
            "ImmediateData" => return self.immediate_data = yes,
            "DataPDUInOrder" => return self.data_pdu_in_order = yes,
            "DataSequenceInOrder" => return self.data_sequence_in_order = yes,
            "TargetPortalGroupTag" => {
                self.target_portal_group_tag = value.parse().ok();
                return;
            }
            "MaxRecvDataSegmentLength" => &mut self.target_max_recv_data_segment_length,
            "MaxBurstLength" => &mut self.max_burst_length,
            "FirstBurstLength" => &mut self.first_burst_length,
            "DefaultTime2Wait" => &mut self.default_time2wait_s,
            "DefaultTime2Retain" => &mut self.default_time2retain_s,
            "MaxOutstandingR2T" => &mut self.max_outstanding_r2t,
            "MaxConnections" => &mut self.max_connections,
            "ErrorRecoveryLevel" => &mut self.error_recovery_level,
            _ => return,
        };
        if let Some(number) = number {
            *target = number;
        }
    }
}

/// How offer and answer make the result (RFC 7143 §6.2 and the row of each key in §13).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// The answer is one of the offered values.
    List,
    Minimum,
    Maximum,
    And,
    Or,
    /// Stated by one side, never answered.
    Declaration,
}

/// Key, kind, and the range of numbers (inclusive; empty for others).
const KEYS: &[(&str, Kind, u32, u32)] = &[
    ("AuthMethod", Kind::List, 0, 0),
    ("HeaderDigest", Kind::List, 0, 0),
    ("DataDigest", Kind::List, 0, 0),
    ("TaskReporting", Kind::List, 0, 0),
    ("MaxConnections", Kind::Minimum, 1, 65_535),
    ("InitialR2T", Kind::Or, 0, 0),
    ("ImmediateData", Kind::And, 0, 0),
    ("MaxBurstLength", Kind::Minimum, 512, 0x00ff_ffff),
    ("FirstBurstLength", Kind::Minimum, 512, 0x00ff_ffff),
    ("DefaultTime2Wait", Kind::Maximum, 0, 3600),
    ("DefaultTime2Retain", Kind::Minimum, 0, 3600),
    ("MaxOutstandingR2T", Kind::Minimum, 1, 65_535),
    ("DataPDUInOrder", Kind::Or, 0, 0),
    ("DataSequenceInOrder", Kind::Or, 0, 0),
    ("ErrorRecoveryLevel", Kind::Minimum, 0, 2),
    ("iSCSIProtocolLevel", Kind::Minimum, 0, 31),
    (
        "MaxRecvDataSegmentLength",
        Kind::Declaration,
        512,
        0x00ff_ffff,
    ),
    ("InitiatorName", Kind::Declaration, 0, 0),
    ("InitiatorAlias", Kind::Declaration, 0, 0),
    ("TargetName", Kind::Declaration, 0, 0),
    ("TargetAlias", Kind::Declaration, 0, 0),
    ("TargetAddress", Kind::Declaration, 0, 0),
    ("TargetPortalGroupTag", Kind::Declaration, 0, 65_535),
    ("SessionType", Kind::Declaration, 0, 0),
];

/// Keys of RFC 7143 that a target may refuse to understand without breaking a rule.
const OPTIONAL_KEYS: &[&str] = &["TaskReporting", "iSCSIProtocolLevel"];

/// A key may be at most this long (RFC 7143 §6.1).
const KEY_BYTES_MAX: usize = 63;

/// Numbers may be decimal or hexadecimal (RFC 7143 §6.1).
pub(super) fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Cuts a whole text into its keys and values (RFC 7143 §6.1): `key=value` followed by one NUL
/// each.
pub(super) fn parse_text(text: &[u8]) -> Result<Vec<(String, String)>, Violation> {
    let Some(body) = text.strip_suffix(b"\0") else {
        ensure!(text.is_empty(), TextFormat, "the text does not end in NUL");
        return Ok(Vec::new());
    };
    let mut keys = Vec::new();
    for pair in body.split(|byte| *byte == 0) {
        let pair = str::from_utf8(pair)
            .ok()
            .and_then(|pair| pair.split_once('='));
        let Some((key, value)) = pair else {
            let detail = format!("{:?} is not key=value", String::from_utf8_lossy(body));
            return Err(Violation::new(crate::testing::Rule::TextFormat, detail));
        };
        ensure!(
            (1..=KEY_BYTES_MAX).contains(&key.len()),
            TextFormat,
            "the key {key:?} has a length outside 1 to {KEY_BYTES_MAX}"
        );
        keys.push((key.to_owned(), value.to_owned()));
    }
    Ok(keys)
}

/// Writes keys and values as text.
pub(super) fn emit_text(keys: &[(String, String)]) -> Vec<u8> {
    keys.iter()
        .flat_map(|(key, value)| format!("{key}={value}\0").into_bytes())
        .collect()
}

/// Offers and answers of one login.
#[derive(Debug)]
pub(super) struct Negotiation {
    session_type: SessionType,
    offered: Vec<(String, String)>,
    answered: Vec<String>,
    result: Negotiated,
}

impl Negotiation {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            session_type: config.session_type,
            offered: Vec::new(),
            answered: Vec::new(),
            result: Negotiated::default(),
        }
    }

    /// Notes keys that the initiator sends now.
    pub(super) fn offer(&mut self, keys: &[(String, String)]) {
        for (key, value) in keys {
            if key == "MaxRecvDataSegmentLength" {
                if let Some(number) = number(value) {
                    self.result.max_recv_data_segment_length = number;
                }
            } else if kind(key) != Some(Kind::Declaration) {
                self.offered.push((key.clone(), value.clone()));
            }
        }
    }

    /// Notes a key that the target sent; the result is the answer that it needs, if any.
    pub(super) fn take(&mut self, key: &str, value: &str) -> Result<Option<String>, Violation> {
        self.result
            .received
            .push((key.to_owned(), value.to_owned()));
        ensure!(
            !self.answered.iter().any(|known| known == key),
            KeyTwice,
            "{key}={value}"
        );
        self.answered.push(key.to_owned());
        let offer = self
            .offered
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value);
        match (kind(key), offer) {
            (Some(Kind::Declaration), _) => {
                check_range(key, value)?;
                self.result.set(key, value);
                Ok(None)
            }
            (kind, Some(offer)) => {
                if !matches!(value, "Irrelevant" | "NotUnderstood" | "Reject") {
                    if let Some(kind) = kind {
                        check_answer(key, kind, offer, value)?;
                    }
                    self.result.set(key, value);
                }
                let must_be_known = kind.is_some() && !OPTIONAL_KEYS.contains(&key);
                ensure!(
                    value != "NotUnderstood" || !must_be_known,
                    KeyAnswer,
                    "{key}={value}, but every target must understand it"
                );
                Ok(None)
            }
            // The target's own offer: accept it, except for a digest that nobody asked for.
            (Some(Kind::List), None) => {
                let accepts_none = value.split(',').any(|choice| choice == "None");
                Ok(Some(if accepts_none { "None" } else { "Reject" }.into()))
            }
            (Some(_), None) => {
                check_range(key, value)?;
                self.result.set(key, value);
                Ok(Some(value.to_owned()))
            }
            (None, None) => Ok(Some("NotUnderstood".into())),
        }
    }

    /// The outcome, when the target moves on to full feature phase.
    pub(super) fn finish(mut self, tsih: Tsih) -> Result<Negotiated, Violation> {
        let unanswered = self
            .offered
            .iter()
            .find(|(key, _)| !self.answered.contains(key));
        if let Some((key, value)) = unanswered {
            let detail = format!("{key}={value}");
            return Err(Violation::new(crate::testing::Rule::KeyUnanswered, detail));
        }
        let result = &self.result;
        ensure!(
            self.session_type == SessionType::Discovery
                || result.first_burst_length <= result.max_burst_length
                || !self.answered.iter().any(|key| key == "FirstBurstLength"),
            FirstBurstLength,
            "FirstBurstLength={} is above MaxBurstLength={}",
            result.first_burst_length,
            result.max_burst_length
        );
        self.result.tsih = tsih;
        Ok(self.result)
    }
}

fn kind(key: &str) -> Option<Kind> {
    KEYS.iter()
        .find(|(name, ..)| *name == key)
        .map(|(_, kind, ..)| *kind)
}

/// A number of a numeric key must lie in the key's range.
fn check_range(key: &str, value: &str) -> Result<(), Violation> {
    let row = KEYS
        .iter()
        .find(|(name, _, _, last)| *name == key && *last != 0);
    if let Some((_, _, first, last)) = row {
        ensure!(
            number(value).is_some_and(|number| (*first..=*last).contains(&number)),
            KeyAnswer,
            "{key}={value} is outside {first} to {last}"
        );
    }
    Ok(())
}

/// The answer must be one that the offer allows (RFC 7143 §6.2.1, §6.2.2).
fn check_answer(key: &str, kind: Kind, offer: &str, answer: &str) -> Result<(), Violation> {
    check_range(key, answer)?;
    let allowed = match kind {
        Kind::List => offer.split(',').any(|choice| choice == answer),
        Kind::Minimum | Kind::Maximum => match (number(offer), number(answer)) {
            (Some(offer), Some(answer)) if kind == Kind::Minimum => answer <= offer,
            (Some(offer), Some(answer)) => answer >= offer,
            // The test offered nonsense: there is no rule for the answer.
            (None, _) => true,
            (Some(_), None) => false,
        },
        Kind::And => answer == "No" || (answer == "Yes" && offer != "No"),
        Kind::Or => answer == "Yes" || (answer == "No" && offer != "Yes"),
        Kind::Declaration => true,
    };
    ensure!(
        allowed,
        KeyAnswer,
        "{key}={answer} is no answer to {key}={offer}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::config::pairs;
    use super::*;
    use crate::testing::Rule;

    fn negotiation(offers: &[(&str, &str)]) -> Negotiation {
        let mut it = Negotiation::new(&Config::new("i", "t"));
        it.offer(&pairs(offers));
        it
    }

    #[test]
    fn answers_outside_the_offer_are_violations() {
        let cases = [
            ("MaxBurstLength", "4096", "8192"),
            ("MaxBurstLength", "4096", "511"),
            ("DefaultTime2Wait", "2", "1"),
            ("ImmediateData", "No", "Yes"),
            ("InitialR2T", "Yes", "No"),
            ("HeaderDigest", "CRC32C", "None"),
            ("ErrorRecoveryLevel", "0", "1"),
            ("DataPDUInOrder", "Yes", "yes"),
            ("MaxConnections", "1", "NotUnderstood"),
        ];
        for (key, offer, answer) in cases {
            let violation = negotiation(&[(key, offer)]).take(key, answer).unwrap_err();
            assert_eq!(violation.rule, Rule::KeyAnswer, "{key}: {offer} → {answer}");
        }
    }

    #[test]
    fn answers_inside_the_offer_are_taken() {
        let mut it = negotiation(&[
            ("MaxBurstLength", "0x2000"),
            ("FirstBurstLength", "8192"),
            ("InitialR2T", "No"),
            ("X-nobody", "1"),
            ("MaxRecvDataSegmentLength", "4096"),
        ]);
        for (key, value) in [
            ("MaxBurstLength", "4096"),
            ("FirstBurstLength", "0x1000"),
            ("InitialR2T", "No"),
            ("X-nobody", "NotUnderstood"),
            ("MaxRecvDataSegmentLength", "65536"),
            ("TargetPortalGroupTag", "7"),
        ] {
            assert_eq!(it.take(key, value), Ok(None), "{key}");
        }
        assert_eq!(it.take("X-other", "1"), Ok(Some("NotUnderstood".into())));
        assert_eq!(
            it.take("InitialR2T", "Yes").unwrap_err().rule,
            Rule::KeyTwice
        );
        let result = it.finish(Tsih(9)).unwrap();
        assert_eq!(
            (result.max_burst_length, result.first_burst_length),
            (4096, 4096)
        );
        assert_eq!(result.max_recv_data_segment_length, 4096);
        assert_eq!(result.target_max_recv_data_segment_length, 65_536);
        assert_eq!(
            (result.target_portal_group_tag, result.tsih),
            (Some(7), Tsih(9))
        );
        assert!(!result.initial_r2t && result.immediate_data);
    }

    #[test]
    fn login_cannot_end_with_open_offers_or_a_first_burst_above_the_burst() {
        let open = negotiation(&[("MaxBurstLength", "4096")]);
        assert_eq!(open.finish(Tsih(1)).unwrap_err().rule, Rule::KeyUnanswered);
        let mut it = negotiation(&[("MaxBurstLength", "4096"), ("FirstBurstLength", "8192")]);
        it.take("MaxBurstLength", "4096").unwrap();
        it.take("FirstBurstLength", "8192").unwrap();
        assert_eq!(it.finish(Tsih(1)).unwrap_err().rule, Rule::FirstBurstLength);
    }

    #[test]
    fn text_is_cut_at_nul_and_nothing_else_is_text() {
        assert_eq!(
            parse_text(b"a=b=c\0d=\0").unwrap(),
            pairs(&[("a", "b=c"), ("d", "")])
        );
        assert_eq!(parse_text(b"").unwrap(), []);
        for wrong in [&b"a=b"[..], b"a\0", b"=b\0", b"a=b\0\0", b"\xff=1\0"] {
            assert_eq!(
                parse_text(wrong).unwrap_err().rule,
                Rule::TextFormat,
                "{wrong:?}"
            );
        }
        assert_eq!(emit_text(&pairs(&[("a", "b"), ("c", "d")])), b"a=b\0c=d\0");
    }
}
