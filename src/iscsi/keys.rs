//! THE table of text keys: one row per key of RFC 7143 §12 and §13 (and RFC 4850).
//!
//! A row says who may send a key, when, of which kind it is, its range and its default. How a kind
//! is negotiated stands in `login::negotiation`; nothing else in the engine knows a key by its
//! name. A key without a row is answered NotUnderstood (§6.2), private extensions (`X-`) among
//! them.
//!
//! Values are kept as `u32`: a number as itself, a boolean as 0 or 1, a list as the index of the
//! chosen option.

use std::fmt;

/// Every key that we know.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Key {
    AuthMethod,
    ChapA,
    ChapI,
    ChapC,
    ChapN,
    ChapR,
    HeaderDigest,
    DataDigest,
    MaxConnections,
    SendTargets,
    TargetName,
    InitiatorName,
    TargetAlias,
    InitiatorAlias,
    TargetAddress,
    TargetPortalGroupTag,
    InitialR2T,
    ImmediateData,
    MaxRecvDataSegmentLength,
    MaxBurstLength,
    FirstBurstLength,
    DefaultTime2Wait,
    DefaultTime2Retain,
    MaxOutstandingR2T,
    DataPduInOrder,
    DataSequenceInOrder,
    ErrorRecoveryLevel,
    SessionType,
    TaskReporting,
    IscsiProtocolLevel,
    OfMarker,
    IfMarker,
    OfMarkInt,
    IfMarkInt,
    NodeArchitecture,
}

/// What a value is and how two of them become one (RFC 7143 §6.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The responder takes the first option of the offered list that it allows (§6.2.1).
    List(&'static [&'static str]),
    /// Yes only if both say Yes (§6.2.2).
    And,
    /// Yes if either says Yes (§6.2.2).
    Or,
    /// The smaller of both numbers (§6.2.2); both from `low` to `high`.
    Min { low: u32, high: u32 },
    /// The larger of both numbers; both from `low` to `high`.
    Max { low: u32, high: u32 },
    /// A number that its sender states for itself; no answer.
    Declared { low: u32, high: u32 },
    /// A text that its sender states for itself; no answer.
    DeclaredText,
    /// A step of an authentication method, not a negotiation.
    Security,
    /// A request that is answered with other keys (SendTargets).
    Request,
    /// Obsolete: this constant answers it, whatever was offered (§13.25).
    Obsolete(&'static str),
}

/// When a key may be sent (the "Use" of RFC 7143 §13).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// In the first sequence of a login, in whichever stage it begins.
    First,
    /// In the security negotiation stage.
    SecurityStage,
    /// In the operational stage (IO).
    Operational,
    /// In the operational stage of the leading connection (LO).
    Leading,
    /// At any time (ALL).
    Any,
    /// In full feature phase (FFPO).
    FullFeature,
}

/// One row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    pub key: Key,
    pub name: &'static str,
    pub kind: Kind,
    pub use_: Use,
    /// Whether an initiator may send it by itself.
    pub initiator_sends: bool,
    /// What holds while nobody has spoken of it.
    pub default: u32,
    /// It means nothing in a discovery session and is answered Irrelevant there.
    pub irrelevant_in_discovery: bool,
}

/// Default of MaxRecvDataSegmentLength.
pub const MAX_RECV_DATA_SEGMENT_LENGTH_DEFAULT: u32 = 8192;
/// Shortest data segment or burst that may be agreed on (RFC 7143 §13.12 to .14).
pub const LENGTH_MIN: u32 = 512;
/// Longest data segment or burst: 2^24 − 1.
pub const LENGTH_MAX: u32 = 0x00ff_ffff;

const DIGESTS: &[&str] = &["None", "CRC32C"];
const TASK_REPORTING: &[&str] = &["RFC3720", "ResponseFence", "FastAbort"];
const LENGTH: Kind = Kind::Min {
    low: LENGTH_MIN,
    high: LENGTH_MAX,
};

const fn row(key: Key, name: &'static str, use_: Use, kind: Kind, default: u32) -> Row {
    Row {
        key,
        name,
        kind,
        use_,
        initiator_sends: true,
        default,
        irrelevant_in_discovery: false,
    }
}

impl Row {
    const fn irrelevant_in_discovery(mut self) -> Self {
        self.irrelevant_in_discovery = true;
        self
    }

    const fn target_only(mut self) -> Self {
        self.initiator_sends = false;
        self
    }
}

/// The table, in the order of [`Key`].
#[rustfmt::skip]
pub const TABLE: [Row; Key::COUNT] = {
    use Kind::{And, Declared, DeclaredText, List, Max, Min, Obsolete, Or, Request, Security};
    use Use::{Any, First, FullFeature, Leading, Operational, SecurityStage};
    [
        // RFC 7143 §12 and §12.1.3.
        row(Key::AuthMethod, "AuthMethod", SecurityStage, Security, 0),
        row(Key::ChapA, "CHAP_A", SecurityStage, Security, 0),
        row(Key::ChapI, "CHAP_I", SecurityStage, Security, 0),
        row(Key::ChapC, "CHAP_C", SecurityStage, Security, 0),
        row(Key::ChapN, "CHAP_N", SecurityStage, Security, 0),
        row(Key::ChapR, "CHAP_R", SecurityStage, Security, 0),
        // §13.1: both digests, for the connection.
        row(Key::HeaderDigest, "HeaderDigest", Operational, List(DIGESTS), 0),
        row(Key::DataDigest, "DataDigest", Operational, List(DIGESTS), 0),
        // §13.2
        row(Key::MaxConnections, "MaxConnections", Leading, Min { low: 1, high: 65535 }, 1).irrelevant_in_discovery(),
        // §13.3
        row(Key::SendTargets, "SendTargets", FullFeature, Request, 0),
        // §13.4 to §13.9
        row(Key::TargetName, "TargetName", First, DeclaredText, 0),
        row(Key::InitiatorName, "InitiatorName", First, DeclaredText, 0),
        row(Key::TargetAlias, "TargetAlias", Any, DeclaredText, 0).target_only(),
        row(Key::InitiatorAlias, "InitiatorAlias", Any, DeclaredText, 0),
        row(Key::TargetAddress, "TargetAddress", Any, DeclaredText, 0).target_only(),
        row(Key::TargetPortalGroupTag, "TargetPortalGroupTag", Any, DeclaredText, 0).target_only(),
        // §13.10, §13.11
        row(Key::InitialR2T, "InitialR2T", Leading, Or, 1).irrelevant_in_discovery(),
        row(Key::ImmediateData, "ImmediateData", Leading, And, 1).irrelevant_in_discovery(),
        // §13.12: the only key that may be stated again at any time.
        row(Key::MaxRecvDataSegmentLength, "MaxRecvDataSegmentLength", Any, Declared { low: LENGTH_MIN, high: LENGTH_MAX }, MAX_RECV_DATA_SEGMENT_LENGTH_DEFAULT),
        // §13.13, §13.14
        row(Key::MaxBurstLength, "MaxBurstLength", Leading, LENGTH, 262_144).irrelevant_in_discovery(),
        row(Key::FirstBurstLength, "FirstBurstLength", Leading, LENGTH, 65_536).irrelevant_in_discovery(),
        // §13.15, §13.16
        row(Key::DefaultTime2Wait, "DefaultTime2Wait", Leading, Max { low: 0, high: 3600 }, 2),
        row(Key::DefaultTime2Retain, "DefaultTime2Retain", Leading, Min { low: 0, high: 3600 }, 20),
        // §13.17 to §13.20
        row(Key::MaxOutstandingR2T, "MaxOutstandingR2T", Leading, Min { low: 1, high: 65535 }, 1).irrelevant_in_discovery(),
        row(Key::DataPduInOrder, "DataPDUInOrder", Leading, Or, 1).irrelevant_in_discovery(),
        row(Key::DataSequenceInOrder, "DataSequenceInOrder", Leading, Or, 1).irrelevant_in_discovery(),
        row(Key::ErrorRecoveryLevel, "ErrorRecoveryLevel", Leading, Min { low: 0, high: 2 }, 0),
        // §13.21
        row(Key::SessionType, "SessionType", First, DeclaredText, 0),
        // §13.23, §13.24
        row(Key::TaskReporting, "TaskReporting", Leading, List(TASK_REPORTING), 0).irrelevant_in_discovery(),
        row(Key::IscsiProtocolLevel, "iSCSIProtocolLevel", Leading, Min { low: 0, high: 31 }, 1).irrelevant_in_discovery(),
        // §13.25: markers may be answered No or Reject, their intervals only Reject. Initiators of
        // RFC 3720 take No for what it was there, and some give up on Reject.
        row(Key::OfMarker, "OFMarker", Leading, Obsolete("No"), 0),
        row(Key::IfMarker, "IFMarker", Leading, Obsolete("No"), 0),
        row(Key::OfMarkInt, "OFMarkInt", Leading, Obsolete("Reject"), 0),
        row(Key::IfMarkInt, "IFMarkInt", Leading, Obsolete("Reject"), 0),
        // RFC 4850 §2: we note that it was said, and say nothing of ourselves.
        row(Key::NodeArchitecture, "X#NodeArchitecture", Leading, DeclaredText, 0),
    ]
};

impl Key {
    /// How many keys there are.
    pub const COUNT: usize = Self::NodeArchitecture as usize + 1;

    /// The key of this name. Names are case sensitive (RFC 7143 §6.1).
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.name == name).map(|row| row.key)
    }

    /// Its row of the table.
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        self.row().name
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of keys.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct KeySet(u64);

const _: () = assert!(Key::COUNT <= 64, "a KeySet has 64 bits");

impl KeySet {
    /// Adds `key`; false if it was in already.
    pub fn insert(&mut self, key: Key) -> bool {
        let new = !self.contains(key);
        self.0 |= Self::bit(key);
        new
    }

    /// Takes `key` out.
    pub fn remove(&mut self, key: Key) {
        self.0 &= !Self::bit(key);
    }

    /// Whether `key` is in.
    pub fn contains(self, key: Key) -> bool {
        self.0 & Self::bit(key) != 0
    }

    /// Its first member in the order of [`Key`].
    pub fn first(self) -> Option<Key> {
        TABLE
            .iter()
            .map(|row| row.key)
            .find(|key| self.contains(*key))
    }

    fn bit(key: Key) -> u64 {
        1 << key as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_row_at_its_own_place() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.key as usize, at, "{}", row.name);
            assert_eq!(Key::from_name(row.name), Some(row.key));
            assert_eq!(row.key.to_string(), row.name);
        }
        assert_eq!(Key::from_name("X-com.example.foo"), None);
        assert_eq!(Key::from_name("headerdigest"), None);
    }

    // RFC 7143 §13: defaults lie in their own ranges.
    #[test]
    fn defaults_are_values_that_could_be_agreed_on() {
        for row in TABLE {
            match row.kind {
                Kind::Min { low, high }
                | Kind::Max { low, high }
                | Kind::Declared { low, high } => {
                    assert!((low..=high).contains(&row.default), "{}", row.name);
                }
                Kind::List(options) => assert!((row.default as usize) < options.len()),
                _ => assert!(row.default <= 1),
            }
        }
    }

    #[test]
    fn a_set_of_keys_says_what_is_new() {
        let mut set = KeySet::default();
        assert_eq!(set.first(), None);
        assert!(set.insert(Key::NodeArchitecture) && set.insert(Key::ChapA));
        assert!(!set.insert(Key::ChapA));
        assert_eq!(set.first(), Some(Key::ChapA));
        set.remove(Key::ChapA);
        assert_eq!(set.first(), Some(Key::NodeArchitecture));
    }
}
