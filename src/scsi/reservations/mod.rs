//! Reservations of a logical unit (SPC-4 §5.9; SPC-2 for RESERVE and RELEASE): who is registered,
//! who holds what, and what others may therefore not do.
//!
//! ```text
//! PERSISTENT RESERVE OUT ─► parameter_list ─► Request ─► decide (home core) ─► Arc<Reservations>
//! RESERVE, RELEASE ──────────────────────────►                                    │ every core
//! PERSISTENT RESERVE IN ◄── report ◄──────────────────────────────────────────────┤
//! every other command  ◄── NexusUnit's one byte ◄── denied_to ◄───────────────────┘
//! ```
//!
//! A [`Reservations`] is never changed in place: [`Reservations::decide`] makes the next one, and
//! each replica of the unit puts it in the place of the old one. It does not know which nexuses are
//! logged in, and forgets none of them when it goes, with the one exception of SPC-2's holder.
//!
//! Invariants: at most [`REGISTRATIONS_MAX`] registrations; no key is zero; no nexus matches two of
//! them; the one holder of a reservation is registered; where all registrants hold it, there is at
//! least one; SPC-2's reservation and registrations exclude each other.

use std::sync::Arc;

use arrayvec::ArrayString;

use super::nexus::{INITIATOR_NAME_BYTES_MAX, InitiatorPort, Nexus};
use super::unit::PortIdentity;

pub mod access;
mod decide;
pub mod parameter_list;
pub mod report;
mod request;
pub mod transport_id;

pub use access::Access;
pub use request::{Action, Preempt, Register, RegisterAndMove, Request};
pub use transport_id::TransportId;

#[cfg(test)]
mod tests;

/// Most registrations of one logical unit; one more gets INSUFFICIENT REGISTRATION RESOURCES.
pub const REGISTRATIONS_MAX: usize = 256;

/// LU_SCOPE, the one scope that SPC-4 has left (§6.15.3.3).
const LU_SCOPE: u8 = 0;

/// Whether the ISID is a part of who a registrant is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Matching {
    /// The initiator port, name and ISID, as RFC 7143 §4.4.3.2 has it.
    #[default]
    Port,
    /// The initiator's name alone: for initiators that come back with another ISID. Two sessions of
    /// one initiator at one target port are then one registrant.
    Name,
}

/// The types of persistent reservations (SPC-4 §6.15.3.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteExclusiveRegistrantsOnly = 5,
    ExclusiveAccessRegistrantsOnly = 6,
    WriteExclusiveAllRegistrants = 7,
    ExclusiveAccessAllRegistrants = 8,
}

impl Kind {
    pub const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrantsOnly,
        Self::ExclusiveAccessRegistrantsOnly,
        Self::WriteExclusiveAllRegistrants,
        Self::ExclusiveAccessAllRegistrants,
    ];

    /// The type with this code of the TYPE field; `None` for the obsolete and reserved codes.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code)
    }

    /// Every registrant is a holder.
    pub fn is_all_registrants(self) -> bool {
        matches!(
            self,
            Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants
        )
    }

    /// Every registrant has access, whether one or all of them are holders.
    pub fn admits_registrants(self) -> bool {
        self.is_all_registrants()
            || matches!(
                self,
                Self::WriteExclusiveRegistrantsOnly | Self::ExclusiveAccessRegistrantsOnly
            )
    }

    /// What the reservation keeps from those that have no access by it.
    fn denies(self) -> Access {
        match self {
            Self::WriteExclusive
            | Self::WriteExclusiveRegistrantsOnly
            | Self::WriteExclusiveAllRegistrants => Access::WRITE,
            Self::ExclusiveAccess
            | Self::ExclusiveAccessRegistrantsOnly
            | Self::ExclusiveAccessAllRegistrants => Access::WRITE.union(Access::READ),
        }
    }
}

/// The two ends of a registered I_T nexus.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registrant {
    name: ArrayString<INITIATOR_NAME_BYTES_MAX>,
    /// `None`: every initiator port of this name.
    isid: Option<[u8; 6]>,
    port: PortIdentity,
}

impl Registrant {
    /// `None` when the name is longer than RFC 7143 allows.
    pub fn new(name: &str, isid: Option<[u8; 6]>, port: PortIdentity) -> Option<Self> {
        let name = ArrayString::from(name).ok()?;
        Some(Self { name, isid, port })
    }

    fn of(initiator: &InitiatorPort, matching: Matching, port: &PortIdentity) -> Self {
        let name = ArrayString::from(initiator.name()).expect("both have the same bound");
        Self {
            name,
            isid: (matching == Matching::Port).then_some(initiator.isid()),
            port: port.clone(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The ISID in the order of the wire; `None` when every ISID is meant.
    pub fn isid(&self) -> Option<[u8; 6]> {
        self.isid
    }

    pub fn port(&self) -> &PortIdentity {
        &self.port
    }

    /// Whether this names the nexus.
    pub fn is(&self, nexus: &Nexus) -> bool {
        self.isid
            .is_none_or(|isid| isid == nexus.initiator().isid())
            && self.name == *nexus.initiator().name()
            && self.is_at(nexus.port())
    }

    /// Whether some nexus is named by both.
    fn overlaps(&self, other: &Self) -> bool {
        let isids_meet = match (self.isid, other.isid) {
            (Some(one), Some(two)) => one == two,
            _ => true,
        };
        isids_meet && self.name == other.name && self.is_at(&other.port)
    }

    /// A target port is known by its target's name and its portal group tag (RFC 7143 §4.4.3.3);
    /// the relative port identifier is what this run of the daemon calls it.
    fn is_at(&self, port: &PortIdentity) -> bool {
        self.port.portal_group_tag() == port.portal_group_tag()
            && self.port.target_name() == port.target_name()
    }
}

/// A registrant and its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registration {
    pub registrant: Registrant,
    /// Never zero.
    pub key: u64,
}

/// A persistent reservation of the whole logical unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reservation {
    pub kind: Kind,
    /// The one that holds it; `None` exactly when all registrants do.
    pub holder: Option<Registrant>,
}

/// What of the reservations survives the end of the daemon: nothing, unless APTPL was one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Persistent {
    /// The APTPL that governs the unit.
    pub aptpl: bool,
    pub registrations: Vec<Registration>,
    pub reservation: Option<Reservation>,
}

/// All reservations of one logical unit, of both kinds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reservations {
    matching: Matching,
    /// PRGENERATION: zero at power on, whatever APTPL says (SPC-4 §6.15.2).
    generation: u32,
    aptpl: bool,
    /// In the order in which they were made.
    registrations: Vec<Registration>,
    reservation: Option<Reservation>,
    /// Who has reserved the unit by SPC-2's RESERVE.
    reserved_by: Option<Arc<Nexus>>,
}

impl Reservations {
    /// What a unit begins with after a start of the daemon. `saved` may come from a run with the
    /// other way of matching.
    pub fn restored(matching: Matching, saved: &Persistent) -> Self {
        let mut restored = Self {
            matching,
            aptpl: saved.aptpl,
            ..Self::default()
        };
        let adapted = |registrant: &Registrant| Registrant {
            isid: registrant.isid.filter(|_| matching == Matching::Port),
            ..registrant.clone()
        };
        let holder = saved
            .reservation
            .as_ref()
            .and_then(|held| held.holder.as_ref());
        // Of several that have become one the holder stays.
        let (first, rest): (Vec<_>, Vec<_>) = saved
            .registrations
            .iter()
            .partition(|registration| Some(&registration.registrant) == holder);
        let mut kept = Vec::new();
        for registration in first.into_iter().chain(rest) {
            let registrant = adapted(&registration.registrant);
            let is_known = kept.iter().any(|(known, _)| registrant.overlaps(known));
            if registration.key != 0 && !is_known && kept.len() < REGISTRATIONS_MAX {
                kept.push((registrant, registration));
            }
        }
        for registration in &saved.registrations {
            if let Some((registrant, _)) = kept.iter().find(|(_, from)| *from == registration) {
                restored.registrations.push(Registration {
                    registrant: registrant.clone(),
                    key: registration.key,
                });
            }
        }
        restored.reservation = saved.reservation.as_ref().map(|held| Reservation {
            kind: held.kind,
            holder: held.holder.as_ref().map(adapted),
        });
        restored.drop_unheld();
        restored
    }

    /// What must be on disk for [`Self::restored`].
    pub fn persistent(&self) -> Persistent {
        if !self.aptpl {
            return Persistent::default();
        }
        Persistent {
            aptpl: true,
            registrations: self.registrations.clone(),
            reservation: self.reservation.clone(),
        }
    }

    pub fn matching(&self) -> Matching {
        self.matching
    }

    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Persist Through Power Loss is active (PTPL_A).
    pub fn aptpl(&self) -> bool {
        self.aptpl
    }

    /// In the order in which they were made.
    pub fn registrations(&self) -> &[Registration] {
        &self.registrations
    }

    pub fn reservation(&self) -> Option<&Reservation> {
        self.reservation.as_ref()
    }

    /// Who has reserved the unit by SPC-2's RESERVE.
    pub fn reserved_by(&self) -> Option<&Arc<Nexus>> {
        self.reserved_by.as_ref()
    }

    /// The same without RESERVE's reservation; `None` where there is none.
    pub fn without_reserve(&self) -> Option<Self> {
        self.reserved_by.as_ref()?;
        Some(Self {
            reserved_by: None,
            ..self.clone()
        })
    }

    /// The same without what this nexus has reserved by RESERVE; `None` where it has not.
    pub fn without_reserve_of(&self, nexus: &Nexus) -> Option<Self> {
        let holder = self.reserved_by.as_ref()?;
        (**holder == *nexus).then(|| self.without_reserve())?
    }

    /// The registration of a nexus.
    pub fn registration_of(&self, nexus: &Nexus) -> Option<&Registration> {
        self.registrations
            .iter()
            .find(|registration| registration.registrant.is(nexus))
    }

    /// What commands of this nexus may not do now.
    pub fn denied_to(&self, nexus: &Nexus) -> Access {
        if let Some(holder) = &self.reserved_by {
            // SPC-2 §5.5.1: while the unit is reserved, persistent reservations are nobody's.
            return if **holder == *nexus {
                Access::PERSISTENT_RESERVE_IN
            } else {
                Access::all()
            };
        }
        let Some(reservation) = &self.reservation else {
            return Access::empty();
        };
        let admitted = if reservation.kind.admits_registrants() {
            self.registration_of(nexus).is_some()
        } else {
            self.is_holder(nexus)
        };
        if admitted {
            Access::empty()
        } else {
            reservation.kind.denies()
        }
    }

    /// Whether a nexus holds the persistent reservation (SPC-4 §5.9.10).
    pub fn is_holder(&self, nexus: &Nexus) -> bool {
        match &self.reservation {
            None => false,
            Some(Reservation {
                holder: Some(holder),
                ..
            }) => holder.is(nexus),
            Some(Reservation { holder: None, .. }) => self.registration_of(nexus).is_some(),
        }
    }

    /// Whether this registrant holds the persistent reservation.
    fn holds(&self, registrant: &Registrant) -> bool {
        self.reservation
            .as_ref()
            .is_some_and(|held| held.holder.as_ref().is_none_or(|one| one == registrant))
    }

    /// Drops a reservation whose last holder is no longer registered. Its type, if it was dropped.
    fn drop_unheld(&mut self) -> Option<Kind> {
        let reservation = self.reservation.as_ref()?;
        let held = self
            .registrations
            .iter()
            .any(|registration| self.holds(&registration.registrant));
        let kind = reservation.kind;
        if held {
            return None;
        }
        self.reservation = None;
        Some(kind)
    }
}
