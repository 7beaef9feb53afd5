//! Persistent reservations in a unit's file (SPC-4 §5.9.5, APTPL).

use serde::{Deserialize, Serialize};

use crate::scsi::PortIdentity;
use crate::scsi::reservations::{
    Kind, Persistent, REGISTRATIONS_MAX, Registrant, Registration, Reservation,
};

/// Keys and ISIDs are hexadecimal: JSON's own numbers are not exact beyond 2^53.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stored {
    registrations: Vec<StoredRegistration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reservation: Option<StoredReservation>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRegistration {
    initiator: String,
    /// Twelve digits; absent where every ISID is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    isid: Option<String>,
    target: String,
    portal_group: u16,
    relative_port: u16,
    key: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredReservation {
    #[serde(rename = "type")]
    kind: u8,
    /// Which registration holds it; absent where all do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holder: Option<usize>,
}

impl Stored {
    /// `None` where nothing is to be kept.
    pub(super) fn of(kept: &Persistent) -> Option<Self> {
        let registrations = kept.registrations.iter().map(|one| StoredRegistration {
            initiator: one.registrant.name().to_owned(),
            isid: one.registrant.isid().map(emit_isid),
            target: one.registrant.port().target_name().to_owned(),
            portal_group: one.registrant.port().portal_group_tag(),
            relative_port: one.registrant.port().relative_port(),
            key: format!("{:016x}", one.key),
        });
        let reservation = kept.reservation.as_ref().map(|held| StoredReservation {
            kind: held.kind as u8,
            holder: held.holder.as_ref().map(|holder| {
                let mut registrants = kept.registrations.iter().map(|one| &one.registrant);
                registrants
                    .position(|one| one == holder)
                    .expect("a holder is registered")
            }),
        });
        kept.aptpl.then(|| Self {
            registrations: registrations.collect(),
            reservation,
        })
    }

    /// `None` when it contradicts itself.
    pub(super) fn restored(self) -> Option<Persistent> {
        if self.registrations.len() > REGISTRATIONS_MAX {
            return None;
        }
        let registrations: Vec<_> = self
            .registrations
            .iter()
            .map(StoredRegistration::restored)
            .collect::<Option<_>>()?;
        let reservation = match self.reservation {
            None => None,
            Some(StoredReservation { kind, holder }) => {
                let kind = Kind::from_code(kind)?;
                let holder = match holder {
                    Some(at) => Some(registrations.get(at)?.registrant.clone()),
                    None => None,
                };
                if kind.is_all_registrants() != holder.is_none() {
                    return None;
                }
                Some(Reservation { kind, holder })
            }
        };
        Some(Persistent {
            aptpl: true,
            registrations,
            reservation,
        })
    }
}

impl StoredRegistration {
    fn restored(&self) -> Option<Registration> {
        let isid = match &self.isid {
            None => None,
            Some(digits) => Some(parse_isid(digits)?),
        };
        let port = PortIdentity::new(&self.target, self.portal_group, self.relative_port)?;
        let key = u64::from_str_radix(&self.key, 16).ok()?;
        (key != 0).then_some(Registration {
            registrant: Registrant::new(&self.initiator, isid, port)?,
            key,
        })
    }
}

fn emit_isid(isid: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = isid;
    format!("{:012x}", u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
}

fn parse_isid(digits: &str) -> Option<[u8; 6]> {
    let value = (digits.len() == 12).then(|| u64::from_str_radix(digits, 16).ok())??;
    let [_, _, isid @ ..] = value.to_be_bytes();
    Some(isid)
}
