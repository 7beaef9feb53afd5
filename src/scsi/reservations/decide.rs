//! What a request does to the reservations of a unit (SPC-4 §5.9.7 to §5.9.11, §6.16; SPC-2 for
//! RESERVE and RELEASE).
//!
//! The order of the checks: SPC-2's reservation; is the nexus registered and the key its own
//! (RESERVATION CONFLICT); then what the parameters ask for. A request that is refused changes
//! nothing, PRGENERATION included.
//!
//! Registrations for all target ports, or for further initiator ports, are made as if each had come
//! in by itself, and all of them or none.

use std::sync::Arc;

use super::request::{Action, Preempt, Register, RegisterAndMove, Request};
use super::{
    Kind, LU_SCOPE, Matching, REGISTRATIONS_MAX, Registrant, Registration, Reservation,
    Reservations, TransportId,
};
use crate::scsi::change::{Decision, Update};
use crate::scsi::nexus::{Nexus, Whom};
use crate::scsi::sense::{AdditionalSense, Sense};
use crate::scsi::task::Outcome;
use crate::scsi::unit::PortIdentity;
use crate::scsi::unit_attention::UnitAttention;

/// Fields of the parameter lists that sense data point at (SPC-4 §6.16.3, §6.16.4).
mod field {
    pub(super) const SERVICE_ACTION_KEY: u16 = 8;
    pub(super) const RELATIVE_TARGET_PORT: u16 = 18;
    pub(super) const FLAGS: u16 = 20;
    pub(super) const SPEC_I_PT: u8 = 3;
    pub(super) const MOVE_TRANSPORT_ID: u16 = 24;
    pub(super) const TRANSPORT_IDS: u16 = 28;
}

/// Byte of the CDB with SCOPE and TYPE, and the highest bit of each.
const SCOPE_AND_TYPE: u16 = 2;
const SCOPE_BIT: u8 = 7;
const TYPE_BIT: u8 = 3;

/// What a request that is granted comes to, besides the next state.
#[derive(Default)]
struct Effects {
    attentions: Vec<(Whom, UnitAttention)>,
    abort: Whom,
}

impl Reservations {
    /// Decides about a request of `by`.
    ///
    /// # Errors
    /// How the command ends; nothing has changed then.
    pub fn decide(&self, request: &Request, by: &Arc<Nexus>) -> Result<Decision, Outcome> {
        let mut next = self.clone();
        let effects = match request {
            Request::Persistent { key, action } => next.persistent_out(*key, action, by)?,
            Request::Reserve => {
                next.reserve(by)?;
                Effects::default()
            }
            Request::Release => {
                next.release(by)?;
                Effects::default()
            }
        };
        let save = next.persistent() != self.persistent();
        let update = (next != *self).then(|| Update::Reservations(Arc::new(next)));
        Ok(Decision {
            update,
            attentions: effects.attentions,
            abort: effects.abort,
            save,
            ..Decision::default()
        })
    }

    /// SPC-2 RESERVE, with the exceptions of SPC-4 §5.9.3 (CRH): while there are registrations the
    /// command conflicts, but for who has access by a persistent reservation; for them it is good
    /// and does nothing.
    fn reserve(&mut self, by: &Arc<Nexus>) -> Result<(), Outcome> {
        if !self.registrations.is_empty() {
            return self.compatible(by);
        }
        match &self.reserved_by {
            Some(holder) if **holder != **by => Err(Outcome::reservation_conflict()),
            _ => {
                self.reserved_by = Some(by.clone());
                Ok(())
            }
        }
    }

    /// SPC-2 RELEASE: to release what one does not hold is no error.
    fn release(&mut self, by: &Arc<Nexus>) -> Result<(), Outcome> {
        if !self.registrations.is_empty() {
            return self.compatible(by);
        }
        self.reserved_by.take_if(|holder| **holder == **by);
        Ok(())
    }

    fn compatible(&self, by: &Nexus) -> Result<(), Outcome> {
        let has_access = self.reservation.as_ref().is_some_and(|held| {
            self.is_holder(by)
                || held.kind.admits_registrants() && self.registration_of(by).is_some()
        });
        if has_access {
            Ok(())
        } else {
            Err(Outcome::reservation_conflict())
        }
    }

    fn persistent_out(
        &mut self,
        key: u64,
        action: &Action,
        by: &Arc<Nexus>,
    ) -> Result<Effects, Outcome> {
        // SPC-2 §5.5.1: a unit that is reserved by RESERVE has no persistent reservations, not even
        // for the one that reserved it.
        if self.reserved_by.is_some() {
            return Err(Outcome::reservation_conflict());
        }
        if let Action::Register(register) = action {
            return self.register(key, register, by);
        }
        // SPC-4 §5.9.7 and the table of service actions: all others are for registrants, who know
        // their own key.
        let own = self
            .registration_of(by)
            .filter(|own| own.key == key)
            .map(|own| own.registrant.clone())
            .ok_or_else(Outcome::reservation_conflict)?;
        match action {
            Action::Register(_) => unreachable!("it has returned above"),
            Action::Reserve { scope_type } => self.make(own, *scope_type),
            Action::Release { scope_type } => self.give_up(&own, *scope_type, by),
            Action::Clear => Ok(self.clear(by)),
            Action::Preempt(preempt) => self.preempt(&own, *preempt, by),
            Action::RegisterAndMove(to) => self.register_and_move(&own, to, by),
        }
    }

    /// SPC-4 §5.9.7, the tables of REGISTER and of REGISTER AND IGNORE EXISTING KEY.
    fn register(
        &mut self,
        key: u64,
        register: &Register,
        by: &Arc<Nexus>,
    ) -> Result<Effects, Outcome> {
        let own = self.registration_of(by);
        if !register.ignore_existing && own.map_or(0, |own| own.key) != key {
            return Err(Outcome::reservation_conflict());
        }
        if register.others.is_some() && own.is_some() {
            return Err(in_list(field::FLAGS, Some(field::SPEC_I_PT)));
        }
        if own.is_none() && register.new_key == 0 && !register.all_ports {
            return Ok(Effects::default());
        }
        let own_port = std::slice::from_ref(by.port());
        let ports = if register.all_ports {
            by.ports()
        } else {
            own_port
        };
        let mut removed = Vec::new();
        for port in ports {
            let registrant = Registrant::of(by.initiator(), self.matching, port);
            let known = self.overlapping(&registrant);
            let known_key = known.map_or(0, |at| self.registrations[at].key);
            if !register.ignore_existing && known_key != key {
                return Err(Outcome::reservation_conflict());
            }
            match (known, register.new_key) {
                (None, 0) => {}
                (Some(at), 0) => removed.push(self.registrations[at].registrant.clone()),
                (Some(at), new_key) => self.registrations[at].key = new_key,
                (None, new_key) => self.add(registrant, new_key)?,
            }
        }
        if register.new_key != 0 {
            self.register_others(register, ports, by)?;
        }
        self.remove(|registration| removed.contains(&registration.registrant));
        self.aptpl = register.aptpl;
        self.count();
        Ok(self.released_by_removal(by))
    }

    /// SPEC_I_PT: initiator ports that are not registered yet, at the same target ports. To name
    /// one twice, or the asking one, is no error.
    fn register_others(
        &mut self,
        register: &Register,
        ports: &[PortIdentity],
        by: &Nexus,
    ) -> Result<(), Outcome> {
        let first_new = self.registrations.len();
        for id in register.others.iter().flatten() {
            for port in ports {
                let registrant = self.registrant(id, port);
                match self.overlapping(&registrant) {
                    None => self.add(registrant, register.new_key)?,
                    Some(at) if at >= first_new || self.registrations[at].registrant.is(by) => {}
                    Some(at) if self.was_made_by(at, by, ports) => {}
                    Some(_) => return Err(in_list(field::TRANSPORT_IDS, None)),
                }
            }
        }
        Ok(())
    }

    /// Whether the registration is one that this very command has made for `by`.
    fn was_made_by(&self, at: usize, by: &Nexus, ports: &[PortIdentity]) -> bool {
        let registrant = &self.registrations[at].registrant;
        ports
            .iter()
            .any(|port| Registrant::of(by.initiator(), self.matching, port) == *registrant)
    }

    /// Who a TransportID names at a port, as this unit matches.
    fn registrant(&self, id: &TransportId, port: &PortIdentity) -> Registrant {
        Registrant {
            name: id.name,
            isid: id.isid.filter(|_| self.matching == Matching::Port),
            port: port.clone(),
        }
    }

    /// RESERVE (SPC-4 §5.9.9).
    fn make(&mut self, own: Registrant, scope_type: u8) -> Result<Effects, Outcome> {
        if self.reservation.is_some() {
            // The same once more is good, by any holder; everything else conflicts.
            let is_same = self.holds(&own) && self.scope_type() == Some(scope_type);
            return if is_same {
                Ok(Effects::default())
            } else {
                Err(Outcome::reservation_conflict())
            };
        }
        let kind = kind_of(scope_type)?;
        self.set_reservation(own, kind);
        Ok(Effects::default())
    }

    /// RELEASE (SPC-4 §5.9.11.2): who holds nothing releases nothing, and that is good.
    fn give_up(
        &mut self,
        own: &Registrant,
        scope_type: u8,
        by: &Arc<Nexus>,
    ) -> Result<Effects, Outcome> {
        if !self.holds(own) {
            return Ok(Effects::default());
        }
        if self.scope_type() != Some(scope_type) {
            return Err(Outcome::check_condition(Sense::illegal_request(
                AdditionalSense::INVALID_RELEASE_OF_PERSISTENT_RESERVATION,
            )));
        }
        let released = self.reservation.take();
        let shared = released.is_some_and(|held| held.kind.admits_registrants());
        Ok(self.tell_if(shared, UnitAttention::ReservationsReleased, by))
    }

    /// CLEAR (SPC-4 §5.9.11.6).
    fn clear(&mut self, by: &Arc<Nexus>) -> Effects {
        let effects = self.tell_if(true, UnitAttention::ReservationsPreempted, by);
        self.registrations.clear();
        self.reservation = None;
        self.count();
        effects
    }

    /// PREEMPT and PREEMPT AND ABORT (SPC-4 §5.9.11.4, §5.9.11.5).
    fn preempt(
        &mut self,
        own: &Registrant,
        preempt: Preempt,
        by: &Arc<Nexus>,
    ) -> Result<Effects, Outcome> {
        let victim = preempt.victim;
        let takes_over = match &self.reservation {
            // All registrants' reservation has no key but zero.
            Some(Reservation { holder: None, .. }) => victim == 0,
            Some(Reservation {
                holder: Some(holder),
                ..
            }) => self
                .registrations
                .iter()
                .any(|one| one.registrant == *holder && one.key == victim),
            None => false,
        };
        if victim == 0 && !takes_over {
            return Err(in_list(field::SERVICE_ACTION_KEY, None));
        }
        let is_victim = |one: &Registration| victim == 0 || one.key == victim;
        let victims: Arc<[Registrant]> = self
            .registrations
            .iter()
            .filter(|one| is_victim(one) && !(takes_over && one.registrant == *own))
            .map(|one| one.registrant.clone())
            .collect();
        let mut effects = Effects::default();
        if takes_over {
            let kind = kind_of(preempt.scope_type)?;
            let changes_type = self.scope_type() != Some(preempt.scope_type);
            // Who preempts itself stays registered (§5.9.11.4.3).
            self.remove(|one| is_victim(one) && one.registrant != *own);
            self.set_reservation(own.clone(), kind);
            effects = self.tell_if(changes_type, UnitAttention::ReservationsReleased, by);
        } else if victims.is_empty() {
            return Err(Outcome::reservation_conflict());
        } else {
            self.remove(is_victim);
            self.drop_unheld();
        }
        effects.attentions.push((
            Whom::Registrants {
                who: victims.clone(),
                but: Some(by.clone()),
            },
            UnitAttention::RegistrationsPreempted,
        ));
        if preempt.abort {
            effects.abort = Whom::Registrants {
                who: victims,
                but: None,
            };
        }
        self.count();
        Ok(effects)
    }

    /// REGISTER AND MOVE (SPC-4 §5.9.8).
    fn register_and_move(
        &mut self,
        own: &Registrant,
        to: &RegisterAndMove,
        by: &Arc<Nexus>,
    ) -> Result<Effects, Outcome> {
        let Some(held) = &self.reservation else {
            return Err(Outcome::check_condition(Sense::invalid_field_in_cdb(
                1,
                Some(4),
            )));
        };
        if held.holder.as_ref() != Some(own) {
            return Err(Outcome::reservation_conflict());
        }
        let kind = held.kind;
        if to.new_key == 0 {
            return Err(in_list(field::SERVICE_ACTION_KEY, None));
        }
        let port = by
            .ports()
            .iter()
            .find(|port| port.relative_port() == to.relative_port)
            .ok_or_else(|| in_list(field::RELATIVE_TARGET_PORT, None))?;
        let receiver = self.registrant(&to.to, port);
        // One nexus receives it, which a TransportID without an ISID does not name.
        let is_one = self.matching == Matching::Name || receiver.isid.is_some();
        if !is_one || receiver.overlaps(own) {
            return Err(in_list(field::MOVE_TRANSPORT_ID, None));
        }
        let receiver = match self.overlapping(&receiver) {
            Some(at) => {
                self.registrations[at].key = to.new_key;
                self.registrations[at].registrant.clone()
            }
            None => {
                self.add(receiver.clone(), to.new_key)?;
                receiver
            }
        };
        self.set_reservation(receiver, kind);
        if to.unregister {
            self.remove(|one| one.registrant == *own);
        }
        self.aptpl = to.aptpl;
        self.count();
        Ok(Effects::default())
    }

    fn set_reservation(&mut self, holder: Registrant, kind: Kind) {
        let holder = (!kind.is_all_registrants()).then_some(holder);
        self.reservation = Some(Reservation { kind, holder });
    }

    /// SCOPE and TYPE of the reservation, as byte 2 of a CDB has them.
    fn scope_type(&self) -> Option<u8> {
        Some(LU_SCOPE << 4 | self.reservation.as_ref()?.kind as u8)
    }

    fn overlapping(&self, registrant: &Registrant) -> Option<usize> {
        self.registrations
            .iter()
            .position(|one| one.registrant.overlaps(registrant))
    }

    fn add(&mut self, registrant: Registrant, key: u64) -> Result<(), Outcome> {
        if self.registrations.len() >= REGISTRATIONS_MAX {
            return Err(Outcome::check_condition(Sense::illegal_request(
                AdditionalSense::INSUFFICIENT_REGISTRATION_RESOURCES,
            )));
        }
        self.registrations.push(Registration { registrant, key });
        Ok(())
    }

    fn remove(&mut self, is_gone: impl Fn(&Registration) -> bool) {
        self.registrations.retain(|one| !is_gone(one));
    }

    /// SPC-4 §5.9.11.3: when the last holder unregisters, the reservation is released, and the
    /// registrants that shared it are told.
    fn released_by_removal(&mut self, by: &Arc<Nexus>) -> Effects {
        let shared = self.drop_unheld().is_some_and(Kind::admits_registrants);
        self.tell_if(shared, UnitAttention::ReservationsReleased, by)
    }

    /// A condition for every nexus that is registered now, but `by`.
    fn tell_if(&self, tells: bool, condition: UnitAttention, by: &Arc<Nexus>) -> Effects {
        let mut effects = Effects::default();
        if tells {
            let registrants = self.registrations.iter().map(|one| one.registrant.clone());
            let whom = Whom::Registrants {
                who: registrants.collect(),
                but: Some(by.clone()),
            };
            effects.attentions.push((whom, condition));
        }
        effects
    }

    /// SPC-4 §6.15.2: PRGENERATION counts what changed registrations, and wraps.
    fn count(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }
}

/// The type of a reservation that is to be made; its scope must be the logical unit.
fn kind_of(scope_type: u8) -> Result<Kind, Outcome> {
    let bit = if scope_type >> 4 != LU_SCOPE {
        SCOPE_BIT
    } else if let Some(kind) = Kind::from_code(scope_type & 0x0f) {
        return Ok(kind);
    } else {
        TYPE_BIT
    };
    let sense = Sense::invalid_field_in_cdb(SCOPE_AND_TYPE, Some(bit));
    Err(Outcome::check_condition(sense))
}

fn in_list(byte: u16, bit: Option<u8>) -> Outcome {
    Outcome::check_condition(Sense::invalid_field_in_parameter_list(byte, bit))
}
