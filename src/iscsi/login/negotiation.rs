//! Operational parameters: what is settled, what we answer, what we offer ourselves
//! (RFC 7143 §6.2, §13).
//!
//! The initiator offers, we answer at once. When it is done (T bit) and a default that it left
//! alone is not one that we can live with (a digest that the target requires, bursts longer than
//! ours), we offer that key ourselves, once, and wait for the answer.

use super::Limits;
use super::reason::Reason;
use crate::iscsi::keys::{
    Key, KeySet, Kind, MAX_RECV_DATA_SEGMENT_LENGTH_DEFAULT, Row, TABLE, Use,
};
use crate::iscsi::negotiated::{Parameters, SessionType};
use crate::iscsi::node::{DigestPolicy, TargetNode};
use crate::iscsi::text::{TextWriter, list, parse_number};

/// iSCSIProtocolLevel of RFC 7144, which takes that of RFC 7143 in.
const PROTOCOL_LEVEL: u32 = 2;

/// What this side wants, of which [`Ours::of`] gives one key's share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ours<'a> {
    pub(super) limits: &'a Limits,
    pub(super) target: Option<&'a TargetNode>,
    pub(super) session_type: SessionType,
}

impl Ours<'_> {
    /// A number for numbers, 0 or 1 for booleans, the set of allowed options for lists.
    fn of(self, key: Key) -> u32 {
        let limits = self.limits;
        let digest = |policy: fn(&TargetNode) -> DigestPolicy| {
            digest_options(self.target.map_or(DigestPolicy::Optional, policy))
        };
        match key {
            Key::HeaderDigest => digest(|target| target.header_digest),
            Key::DataDigest => digest(|target| target.data_digest),
            Key::InitialR2T => u32::from(limits.initial_r2t),
            Key::ImmediateData => u32::from(limits.immediate_data),
            Key::MaxBurstLength => limits.max_burst_length,
            Key::FirstBurstLength => limits.first_burst_length.min(limits.max_burst_length),
            Key::DefaultTime2Wait => u32::from(limits.default_time2wait_s),
            Key::DefaultTime2Retain => u32::from(limits.default_time2retain_s),
            Key::MaxOutstandingR2T => u32::from(limits.max_outstanding_r2t),
            Key::MaxConnections => self
                .target
                .map_or(1, |target| u32::from(target.max_connections)),
            // What this engine is made for: all in order, no recovery within a session, the task
            // reporting of RFC 3720.
            Key::DataPduInOrder | Key::DataSequenceInOrder | Key::TaskReporting => 1,
            Key::IscsiProtocolLevel => PROTOCOL_LEVEL,
            _ => 0,
        }
    }

    fn is_irrelevant(self, row: &Row) -> bool {
        self.session_type == SessionType::Discovery && row.irrelevant_in_discovery
    }
}

/// Bit 0: None. Bit 1: CRC32C.
fn digest_options(policy: DigestPolicy) -> u32 {
    match policy {
        DigestPolicy::Off => 0b01,
        DigestPolicy::Optional => 0b11,
        DigestPolicy::Required => 0b10,
    }
}

/// What has been agreed on so far.
#[derive(Debug)]
pub(super) struct Negotiation {
    values: [u32; Key::COUNT],
    settled: KeySet,
    /// Offered by us and not answered yet.
    offered: KeySet,
    /// Our own MaxRecvDataSegmentLength, as far as the initiator knows.
    declared: u32,
    /// The connection joins a session, which has agreed on its keys already.
    joins: bool,
}

impl Negotiation {
    pub(super) fn new() -> Self {
        Self {
            values: TABLE.map(|row| row.default),
            settled: KeySet::default(),
            offered: KeySet::default(),
            declared: MAX_RECV_DATA_SEGMENT_LENGTH_DEFAULT,
            joins: false,
        }
    }

    /// That of a connection that joins a session, or not.
    pub(super) fn with_joins(self, joins: bool) -> Self {
        Self { joins, ..self }
    }

    /// States our MaxRecvDataSegmentLength.
    pub(super) fn declare(&mut self, limits: &Limits, out: &mut TextWriter) {
        self.declared = limits.max_recv_data_segment_length;
        out.push(Key::MaxRecvDataSegmentLength.name(), self.declared);
    }

    /// Takes what the initiator says of `key`, which it has not said before, and writes our answer.
    pub(super) fn receive(
        &mut self,
        key: Key,
        value: &str,
        ours: Ours<'_>,
        out: &mut TextWriter,
    ) -> Result<(), Reason> {
        if self.offered.contains(key) {
            return self.accept_answer(key, value, ours);
        }
        let row = key.row();
        self.settled.insert(key);
        if ours.is_irrelevant(row) {
            out.push(row.name, "Irrelevant");
            return Ok(());
        }
        match row.kind {
            Kind::Declared { low, high } => {
                let declared = parse_in(value, low, high).ok_or(Reason::BadValue(key))?;
                self.set(key, declared);
                return Ok(());
            }
            Kind::Obsolete(answer) => {
                out.push(row.name, answer);
                return Ok(());
            }
            Kind::DeclaredText | Kind::Security | Kind::Request => return Ok(()),
            Kind::List(_) | Kind::And | Kind::Or | Kind::Min { .. } | Kind::Max { .. } => {}
        }
        let limit = if key == Key::FirstBurstLength {
            // RFC 7143 §13.14: never above MaxBurstLength.
            ours.of(key).min(self.value(Key::MaxBurstLength))
        } else {
            ours.of(key)
        };
        match agree(row.kind, value, limit) {
            Some(agreed) => {
                self.set(key, agreed);
                push_value(row, agreed, out);
            }
            None if is_required_digest(key, ours) => return Err(Reason::DigestRequired(key)),
            // RFC 7143 §6.2: an offer that cannot be accepted is answered Reject, and what held
            // before holds on.
            None => out.push(row.name, "Reject"),
        }
        Ok(())
    }

    /// Offers each key whose default we cannot live with and that nobody has spoken of.
    pub(super) fn offer(&mut self, ours: Ours<'_>, out: &mut TextWriter) {
        for row in &TABLE {
            if self.needs_offer(row, ours) && !self.offered.contains(row.key) {
                self.offered.insert(row.key);
                push_value(row, offered_value(row, ours), out);
            }
        }
    }

    /// The first of our offers that was not answered yet.
    pub(super) fn unanswered(&self) -> Option<Key> {
        self.offered.first()
    }

    /// Whether nothing is left to be said from our side.
    pub(super) fn is_complete(&self, ours: Ours<'_>) -> bool {
        self.unanswered().is_none() && !TABLE.iter().any(|row| self.needs_offer(row, ours))
    }

    /// A digest that the target requires and that is not agreed on.
    pub(super) fn missing_digest(&self, ours: Ours<'_>) -> Option<Key> {
        [Key::HeaderDigest, Key::DataDigest]
            .into_iter()
            .find(|key| is_required_digest(*key, ours) && self.value(*key) == 0)
    }

    /// The outcome. A FirstBurstLength that was left at a default above MaxBurstLength counts as
    /// that.
    pub(super) fn parameters(&self) -> Parameters {
        let flag = |key| self.value(key) != 0;
        let short = |key| u16::try_from(self.value(key)).unwrap_or(u16::MAX);
        let byte = |key| u8::try_from(self.value(key)).unwrap_or(u8::MAX);
        let max_burst_length = self.value(Key::MaxBurstLength);
        Parameters {
            header_digest: flag(Key::HeaderDigest),
            data_digest: flag(Key::DataDigest),
            initiator_max_recv_data_segment_length: self.value(Key::MaxRecvDataSegmentLength),
            target_max_recv_data_segment_length: self.declared,
            max_connections: short(Key::MaxConnections),
            initial_r2t: flag(Key::InitialR2T),
            immediate_data: flag(Key::ImmediateData),
            max_burst_length,
            first_burst_length: self.value(Key::FirstBurstLength).min(max_burst_length),
            default_time2wait_s: short(Key::DefaultTime2Wait),
            default_time2retain_s: short(Key::DefaultTime2Retain),
            max_outstanding_r2t: short(Key::MaxOutstandingR2T),
            data_pdu_in_order: flag(Key::DataPduInOrder),
            data_sequence_in_order: flag(Key::DataSequenceInOrder),
            error_recovery_level: byte(Key::ErrorRecoveryLevel),
            iscsi_protocol_level: byte(Key::IscsiProtocolLevel),
        }
    }

    fn value(&self, key: Key) -> u32 {
        self.values[key as usize]
    }

    fn set(&mut self, key: Key, value: u32) {
        self.values[key as usize] = value;
    }

    /// RFC 7143 §13.14: without immediate and without unsolicited data there is no first burst. We
    /// offer none then, but answer an offer with a number all the same: Irrelevant would be
    /// allowed, and some initiators read it as zero.
    fn has_unsolicited_data(&self) -> bool {
        self.value(Key::InitialR2T) == 0 || self.value(Key::ImmediateData) == 1
    }

    fn needs_offer(&self, row: &Row, ours: Ours<'_>) -> bool {
        if self.settled.contains(row.key)
            || ours.is_irrelevant(row)
            // RFC 7143 §13, use LO: only the leading login may speak of these.
            || (self.joins && row.use_ == Use::Leading)
            || (row.key == Key::FirstBurstLength && !self.has_unsolicited_data())
        {
            return false;
        }
        let limit = ours.of(row.key);
        match row.kind {
            Kind::List(_) => limit & 1 << row.default == 0,
            Kind::And => limit < row.default,
            Kind::Or | Kind::Max { .. } => limit > row.default,
            Kind::Min { .. } => limit < row.default,
            Kind::Declared { .. }
            | Kind::DeclaredText
            | Kind::Security
            | Kind::Request
            | Kind::Obsolete(_) => false,
        }
    }

    /// RFC 7143 §6.2: what comes back for a key that we offered is an answer, and must be within
    /// what we offered.
    fn accept_answer(&mut self, key: Key, value: &str, ours: Ours<'_>) -> Result<(), Reason> {
        self.offered.remove(key);
        self.settled.insert(key);
        let limit = ours.of(key);
        let row = key.row();
        // An answer that agreeing once more does not change was within the offer.
        let agreed = agree(row.kind, value, limit).filter(|agreed| match row.kind {
            Kind::And | Kind::Or => value == boolean(*agreed),
            Kind::Min { .. } | Kind::Max { .. } => parse_number(value) == Some((*agreed).into()),
            _ => true,
        });
        match agreed {
            Some(agreed) => {
                self.set(key, agreed);
                Ok(())
            }
            None if is_required_digest(key, ours) => Err(Reason::DigestRequired(key)),
            None => Err(Reason::BadAnswer(key)),
        }
    }
}

/// What an offered value and our own share make together; None when the offer is not one that the
/// key may have, or has nothing that we allow.
fn agree(kind: Kind, offered: &str, ours: u32) -> Option<u32> {
    match kind {
        // RFC 7143 §6.2.1: the first option of the offer that we allow.
        Kind::List(options) => list(offered).find_map(|offer| {
            let index = options.iter().position(|option| *option == offer)?;
            u32::try_from(index)
                .ok()
                .filter(|index| ours & 1 << index != 0)
        }),
        Kind::And => Some(parse_boolean(offered)? & ours),
        Kind::Or => Some(parse_boolean(offered)? | ours),
        Kind::Min { low, high } => Some(parse_in(offered, low, high)?.min(ours)),
        Kind::Max { low, high } => Some(parse_in(offered, low, high)?.max(ours)),
        Kind::Declared { .. }
        | Kind::DeclaredText
        | Kind::Security
        | Kind::Request
        | Kind::Obsolete(_) => None,
    }
}

fn is_required_digest(key: Key, ours: Ours<'_>) -> bool {
    matches!(key, Key::HeaderDigest | Key::DataDigest)
        && ours.of(key) == digest_options(DigestPolicy::Required)
}

/// A number of the range; both of RFC 7143 §6.1's notations.
pub(super) fn parse_in(value: &str, low: u32, high: u32) -> Option<u32> {
    let number = u32::try_from(parse_number(value)?).ok()?;
    (low..=high).contains(&number).then_some(number)
}

fn parse_boolean(value: &str) -> Option<u32> {
    match value {
        "Yes" => Some(1),
        "No" => Some(0),
        _ => None,
    }
}

fn boolean(value: u32) -> &'static str {
    if value == 0 { "No" } else { "Yes" }
}

/// Our share as a value to be offered; of a list, its first allowed option.
fn offered_value(row: &Row, ours: Ours<'_>) -> u32 {
    let share = ours.of(row.key);
    if matches!(row.kind, Kind::List(_)) {
        share.trailing_zeros()
    } else {
        share
    }
}

fn push_value(row: &Row, value: u32, out: &mut TextWriter) {
    match row.kind {
        Kind::List(options) => {
            let option = options
                .get(value as usize)
                .expect("only indices of options are agreed on");
            out.push(row.name, option);
        }
        Kind::And | Kind::Or => out.push(row.name, boolean(value)),
        Kind::Min { .. } | Kind::Max { .. } | Kind::Declared { .. } => out.push(row.name, value),
        Kind::DeclaredText | Kind::Security | Kind::Request | Kind::Obsolete(_) => {}
    }
}
