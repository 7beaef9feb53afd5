//! Who an I_T nexus is (SAM-5, I_T nexus; RFC 7143 §4.4.3), and the LUNs that it sees.
//!
//! One [`Nexus`] belongs to each session and is shared by [`Arc`]: what a unit remembers of a
//! nexus outlives the session. Two nexuses are the same when both their ports are.

use std::sync::Arc;

use arrayvec::ArrayString;

use super::reservations::Registrant;
use super::unit::{LogicalUnit, PortIdentity};
use super::unit_attention::{NexusUnit, UnitAttention};
use crate::backend::UnitIndex;

/// Longest iSCSI name in bytes (RFC 7143 §4.2.7.1).
pub const INITIATOR_NAME_BYTES_MAX: usize = 223;

/// A SCSI initiator port: the initiator's name and the ISID of its session (RFC 7143 §4.4.1).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct InitiatorPort {
    name: ArrayString<INITIATOR_NAME_BYTES_MAX>,
    isid: [u8; 6],
}

impl InitiatorPort {
    /// `isid` in the order of the wire. `None` when the name is longer than RFC 7143 allows.
    pub fn new(name: &str, isid: [u8; 6]) -> Option<Self> {
        let name = ArrayString::from(name).ok()?;
        Some(Self { name, isid })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn isid(&self) -> [u8; 6] {
        self.isid
    }
}

/// An initiator port and the target port that it came in by.
#[derive(Clone, Debug)]
pub struct Nexus {
    initiator: InitiatorPort,
    port: PortIdentity,
    /// All ports of the target, by RELATIVE TARGET PORT IDENTIFIER, `port` among them.
    ports: Box<[PortIdentity]>,
    /// The task management functions of RFC 7144 are there.
    rfc_7144: bool,
}

impl Nexus {
    pub fn new(initiator: InitiatorPort, port: PortIdentity, ports: Vec<PortIdentity>) -> Self {
        Self {
            initiator,
            port,
            ports: ports.into_boxed_slice(),
            rfc_7144: false,
        }
    }

    /// The same, where the login agreed on iSCSIProtocolLevel 2.
    pub fn with_rfc_7144(self, rfc_7144: bool) -> Self {
        Self { rfc_7144, ..self }
    }

    /// Whether the task management functions of RFC 7144 are there.
    pub fn rfc_7144(&self) -> bool {
        self.rfc_7144
    }

    pub fn initiator(&self) -> &InitiatorPort {
        &self.initiator
    }

    pub fn port(&self) -> &PortIdentity {
        &self.port
    }

    /// Every port of the target, ascending by RELATIVE TARGET PORT IDENTIFIER.
    pub fn ports(&self) -> &[PortIdentity] {
        &self.ports
    }
}

impl PartialEq for Nexus {
    fn eq(&self, other: &Self) -> bool {
        self.initiator == other.initiator && self.port == other.port
    }
}

impl Eq for Nexus {}

/// A LUN as one session sees it.
#[derive(Clone, Debug)]
pub struct MappedLun {
    /// 0 to 16383.
    pub lun: u16,
    pub unit: UnitIndex,
    pub nexus: NexusUnit,
}

/// Which nexuses of a logical unit something concerns.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Whom {
    #[default]
    Nobody,
    Everyone,
    EveryoneBut(Arc<Nexus>),
    /// Registered nexuses, whether they are logged in or not.
    Registrants {
        who: Arc<[Registrant]>,
        but: Option<Arc<Nexus>>,
    },
}

impl Whom {
    pub fn includes(&self, nexus: &Nexus) -> bool {
        match self {
            Self::Nobody => false,
            Self::Everyone => true,
            Self::EveryoneBut(one) => **one != *nexus,
            Self::Registrants { who, but } => {
                but.as_ref().is_none_or(|one| **one != *nexus)
                    && who.iter().any(|registrant| registrant.is(nexus))
            }
        }
    }
}

/// Tells a session's LUNs what a change of `unit` means for them: the conditions that concern
/// this nexus are raised.
pub fn tell(
    map: &mut [MappedLun],
    i_t: &Nexus,
    unit: UnitIndex,
    attentions: &[(Whom, UnitAttention)],
) {
    for mapped in map.iter_mut().filter(|mapped| mapped.unit == unit) {
        for (whom, condition) in attentions {
            if whom.includes(i_t) {
                mapped.nexus.raise(*condition);
            }
        }
    }
}

/// Recomputes what this nexus may do at its LUNs of `index`, after `unit` has changed or the
/// session has opened.
pub fn refresh(map: &mut [MappedLun], i_t: &Nexus, index: UnitIndex, unit: &LogicalUnit) {
    for mapped in map.iter_mut().filter(|mapped| mapped.unit == index) {
        mapped.nexus.refresh(unit, i_t);
    }
}
