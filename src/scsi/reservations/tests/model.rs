//! What reservations are, written for reading and not for running: a map of keys, one holder, and
//! the tables of SPC-4 §5.9 one `if` at a time. Shares no code with what it judges.

use std::collections::{BTreeMap, BTreeSet};

use crate::scsi::unit_attention::UnitAttention;

/// Initiator, ISID, target port: small numbers, all from one on.
pub(super) type Nexus = (u8, u8, u16);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Good,
    Conflict,
    Check,
}
use Verdict::{Check, Conflict, Good};

/// One command or event.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Out {
        action: u8,
        kind: u8,
        key: u64,
        new_key: u64,
        aptpl: bool,
        all_ports: bool,
        others: Option<Vec<(u8, u8)>>,
        to: Nexus,
        unregister: bool,
    },
    Reserve,
    Release,
    LogInAgain,
    Reset,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) by_name: bool,
    pub(super) keys: BTreeMap<Nexus, u64>,
    /// Type and holder; the holder means nothing for types 7 and 8.
    pub(super) held: Option<(u8, Nexus)>,
    pub(super) reserved: Option<Nexus>,
    pub(super) generation: u32,
    pub(super) aptpl: bool,
    /// What each registrant was told by the last act.
    pub(super) told: BTreeSet<(Nexus, u8)>,
    /// Whose commands the last act aborted.
    pub(super) aborted: BTreeSet<Nexus>,
}

/// Target ports of the one target.
const PORTS: [u16; 2] = [1, 2];

fn valid(kind: u8) -> bool {
    [1, 3, 5, 6, 7, 8].contains(&kind)
}

fn shared(kind: u8) -> bool {
    kind >= 5
}

impl Model {
    /// Under which name a nexus is registered.
    pub(super) fn id(&self, nexus: Nexus) -> Nexus {
        let (name, isid, port) = nexus;
        (name, if self.by_name { 0 } else { isid }, port)
    }

    pub(super) fn holds(&self, nexus: Nexus) -> bool {
        match self.held {
            None => false,
            Some((7 | 8, _)) => self.keys.contains_key(&self.id(nexus)),
            Some((_, holder)) => holder == self.id(nexus),
        }
    }

    /// Whether the reservation, if there is one, gives this nexus access.
    pub(super) fn has_access(&self, nexus: Nexus) -> bool {
        match self.held {
            None => true,
            Some((kind, _)) if shared(kind) => self.keys.contains_key(&self.id(nexus)),
            Some(_) => self.holds(nexus),
        }
    }

    fn tell_all(&mut self, condition: UnitAttention) {
        for id in self.keys.keys() {
            self.told.insert((*id, condition as u8));
        }
    }

    pub(super) fn act(&mut self, by: Nexus, act: &Act) -> Verdict {
        self.told.clear();
        self.aborted.clear();
        match act {
            Act::LogInAgain => {
                if self.reserved == Some(by) {
                    self.reserved = None;
                }
                Good
            }
            Act::Reset => {
                self.reserved = None;
                Good
            }
            Act::Reserve if self.keys.is_empty() => {
                if self.reserved.is_some_and(|holder| holder != by) {
                    return Conflict;
                }
                self.reserved = Some(by);
                Good
            }
            Act::Release if self.keys.is_empty() => {
                if self.reserved == Some(by) {
                    self.reserved = None;
                }
                Good
            }
            Act::Reserve | Act::Release => {
                if self.held.is_some() && self.has_access(by) {
                    Good
                } else {
                    Conflict
                }
            }
            Act::Out { .. } => {
                let before = self.clone();
                let verdict = self.out(by, act);
                if verdict != Good {
                    *self = before;
                }
                verdict
            }
        }
    }

    fn out(&mut self, by: Nexus, act: &Act) -> Verdict {
        let Act::Out {
            action,
            kind,
            key,
            new_key,
            aptpl,
            others,
            to,
            unregister,
            ..
        } = act
        else {
            return Good;
        };
        let me = self.id(by);
        let mine = self.keys.get(&me).copied();
        if others.is_some() && ![0, 7].contains(action) {
            return Check;
        }
        if self.reserved.is_some() {
            return Conflict;
        }
        if [0, 6].contains(action) {
            return self.register(by, act);
        }
        if mine != Some(*key) {
            return Conflict;
        }
        match action {
            1 => match self.held {
                None if valid(*kind) => self.held = Some((*kind, me)),
                None => return Check,
                Some((held, _)) if held == *kind && self.holds(by) => {}
                Some(_) => return Conflict,
            },
            2 => {
                if let Some((held, _)) = self.held
                    && self.holds(by)
                {
                    if held != *kind {
                        return Check;
                    }
                    self.held = None;
                    if shared(held) {
                        self.tell_all(UnitAttention::ReservationsReleased);
                    }
                }
            }
            3 => {
                self.tell_all(UnitAttention::ReservationsPreempted);
                self.keys.clear();
                self.held = None;
                self.generation += 1;
            }
            4 | 5 => return self.preempt(by, *action == 5, *kind, *new_key),
            _ => {
                let Some((held, _)) = self.held else {
                    return Check;
                };
                if held >= 7 || !self.holds(by) {
                    return Conflict;
                }
                let to = self.id(*to);
                if *new_key == 0 || to == me {
                    return Check;
                }
                self.keys.insert(to, *new_key);
                self.held = Some((held, to));
                if *unregister {
                    self.keys.remove(&me);
                }
                self.aptpl = *aptpl;
                self.generation += 1;
            }
        }
        Good
    }

    fn register(&mut self, by: Nexus, act: &Act) -> Verdict {
        let Act::Out {
            action,
            key,
            new_key,
            aptpl,
            all_ports,
            others,
            ..
        } = act
        else {
            return Good;
        };
        let ports = if *all_ports { &PORTS[..] } else { &[by.2] };
        let mine: Vec<Nexus> = ports.iter().map(|at| self.id((by.0, by.1, *at))).collect();
        let me = self.id(by);
        let key_of = |keys: &BTreeMap<Nexus, u64>, id| keys.get(&id).copied().unwrap_or(0);
        if *action == 0 && key_of(&self.keys, me) != *key {
            return Conflict;
        }
        if others.is_some() && self.keys.contains_key(&me) {
            return Check;
        }
        if !self.keys.contains_key(&me) && *new_key == 0 && !all_ports {
            return Good;
        }
        for id in &mine {
            if *action == 0 && key_of(&self.keys, *id) != *key {
                return Conflict;
            }
        }
        let before = self.keys.clone();
        for id in &mine {
            self.keys.remove(id);
            if *new_key != 0 {
                self.keys.insert(*id, *new_key);
            }
        }
        if *new_key != 0 {
            for (name, isid) in others.iter().flatten() {
                for at in ports {
                    let id = self.id((*name, *isid, *at));
                    if before.contains_key(&id) {
                        return Check;
                    }
                    self.keys.insert(id, *new_key);
                }
            }
        }
        self.aptpl = *aptpl;
        self.generation += 1;
        if let Some((kind, holder)) = self.held {
            if kind >= 7 && self.keys.is_empty() {
                self.held = None;
            }
            if kind < 7 && !self.keys.contains_key(&holder) {
                self.held = None;
                if shared(kind) {
                    self.tell_all(UnitAttention::ReservationsReleased);
                }
            }
        }
        Good
    }

    fn preempt(&mut self, by: Nexus, abort: bool, kind: u8, victim: u64) -> Verdict {
        let me = self.id(by);
        let takes_over = match self.held {
            None => false,
            Some((7 | 8, _)) => victim == 0,
            Some((_, holder)) => self.keys[&holder] == victim,
        };
        let hit = |key: &u64| victim == 0 || *key == victim;
        // Who takes over stays registered and is no victim.
        let victims: BTreeSet<Nexus> = self
            .keys
            .iter()
            .filter(|(id, key)| hit(key) && !(takes_over && **id == me))
            .map(|(id, _)| *id)
            .collect();
        if takes_over {
            if !valid(kind) {
                return Check;
            }
            let changed = self.held.is_some_and(|(held, _)| held != kind);
            self.keys.retain(|id, key| *id == me || !hit(key));
            self.held = Some((kind, me));
            if changed {
                self.tell_all(UnitAttention::ReservationsReleased);
            }
        } else {
            if victim == 0 {
                return Check;
            }
            if victims.is_empty() {
                return Conflict;
            }
            self.keys.retain(|_, key| !hit(key));
            if self.keys.is_empty() {
                self.held = None;
            }
        }
        for id in &victims {
            self.told
                .insert((*id, UnitAttention::RegistrationsPreempted as u8));
        }
        if abort {
            self.aborted = victims;
        }
        self.generation += 1;
        Good
    }
}
