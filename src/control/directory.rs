//! The session directory: which sessions there are and which core has them (RFC 7143 §4.4.3,
//! §6.3.1, §6.3.5).
//!
//! Kept by the control thread alone. A session is named by InitiatorName, ISID and portal group of
//! a target; a TSIH is given to each and names its core. Data cores ask before the final Login
//! Response and tell when a session is gone.
//!
//! Invariants: no two entries of one name; no two entries of one TSIH; TSIH 0 is never given.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Discovery sessions at a time. They need no secret unless the configuration asks for one, so they
/// have places of their own and take none from sessions.
pub const DISCOVERY_SESSIONS_MAX: usize = 64;

/// Which core, by position in the daemon's list of cores.
pub type Core = usize;

/// What makes a session the same one to its initiator (RFC 7143 §4.4.3: the I_T nexus).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SessionName {
    pub initiator: String,
    pub isid: [u8; 6],
    pub target: String,
    pub portal_group_tag: u16,
}

/// What a login asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admission {
    /// Absent for a discovery session, which nobody reinstates.
    pub name: Option<SessionName>,
    /// Zero for a new session.
    pub tsih: u16,
    /// Where the connection is.
    pub core: Core,
}

/// Where the connection goes and what it does there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// A new session on the core where the connection is.
    New { tsih: u16 },
    /// A new session in place of `old` on `core`, which ends first (RFC 7143 §6.3.5).
    Reinstate { core: Core, tsih: u16, old: u16 },
    /// A connection for the session of that TSIH on `core`.
    Join { core: Core, tsih: u16 },
    /// TSIH names no session of this initiator, ISID and target.
    NoSuchSession,
    /// As many sessions as are allowed.
    Full,
}

#[derive(Debug)]
struct Session {
    tsih: u16,
    core: Core,
}

/// See the module.
#[derive(Debug)]
pub struct Directory {
    by_name: HashMap<SessionName, Session>,
    by_tsih: HashMap<u16, Option<SessionName>>,
    last_tsih: u16,
    sessions_max: usize,
    /// Discovery sessions that there are.
    discovering: usize,
    per_core: Vec<usize>,
}

impl Directory {
    /// A directory for `cores` cores and at most `sessions_max` sessions (at most 60 000, so that a
    /// free TSIH is always near).
    pub fn new(cores: usize, sessions_max: usize) -> Self {
        Self {
            by_name: HashMap::new(),
            by_tsih: HashMap::new(),
            last_tsih: 0,
            sessions_max: sessions_max.min(60_000),
            discovering: 0,
            per_core: vec![0; cores],
        }
    }

    /// Sessions that there are.
    pub fn len(&self) -> usize {
        self.by_tsih.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_tsih.is_empty()
    }

    /// Whether a session has this TSIH.
    pub fn knows(&self, tsih: u16) -> bool {
        self.by_tsih.contains_key(&tsih)
    }

    /// Sessions on each core.
    pub fn per_core(&self) -> &[usize] {
        &self.per_core
    }

    /// Decides about a login that is otherwise complete.
    pub fn admit(&mut self, admission: Admission) -> Verdict {
        let Admission { name, tsih, core } = admission;
        if tsih != 0 {
            let session = name.as_ref().and_then(|name| self.by_name.get(name));
            return match session.filter(|session| session.tsih == tsih) {
                Some(session) => Verdict::Join {
                    core: session.core,
                    tsih,
                },
                None => Verdict::NoSuchSession,
            };
        }
        let reinstates = name
            .as_ref()
            .is_some_and(|name| self.by_name.contains_key(name));
        let full = if name.is_none() {
            self.discovering >= DISCOVERY_SESSIONS_MAX
        } else {
            !reinstates && self.by_tsih.len() - self.discovering >= self.sessions_max
        };
        if full {
            return Verdict::Full;
        }
        let tsih = self.free_tsih();
        self.by_tsih.insert(tsih, name.clone());
        let Some(name) = name else {
            self.discovering += 1;
            self.per_core[core] += 1;
            return Verdict::New { tsih };
        };
        match self.by_name.entry(name) {
            Entry::Occupied(mut entry) => {
                let session = entry.get_mut();
                let old = std::mem::replace(&mut session.tsih, tsih);
                let core = session.core;
                self.by_tsih.remove(&old);
                Verdict::Reinstate { core, tsih, old }
            }
            Entry::Vacant(entry) => {
                entry.insert(Session { tsih, core });
                self.per_core[core] += 1;
                Verdict::New { tsih }
            }
        }
    }

    /// A session is gone, or never came to be. One that was superseded is known no more.
    pub fn ended(&mut self, tsih: u16, core: Core) {
        let Some(name) = self.by_tsih.remove(&tsih) else {
            return;
        };
        match name {
            Some(name) => {
                self.by_name.remove(&name);
            }
            None => self.discovering -= 1,
        }
        self.per_core[core] -= 1;
    }

    fn free_tsih(&mut self) -> u16 {
        loop {
            self.last_tsih = self.last_tsih.checked_add(1).unwrap_or(1);
            if !self.by_tsih.contains_key(&self.last_tsih) {
                return self.last_tsih;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(isid: u8) -> Option<SessionName> {
        Some(SessionName {
            initiator: "iqn.2000-01.x:a".into(),
            isid: [isid; 6],
            target: "iqn.2000-01.x:t".into(),
            portal_group_tag: 1,
        })
    }

    fn ask(isid: u8, tsih: u16, core: Core) -> Admission {
        Admission {
            name: name(isid),
            tsih,
            core,
        }
    }

    #[test]
    fn the_same_isid_reinstates_on_the_core_of_the_old_session() {
        let mut directory = Directory::new(2, 10);
        assert_eq!(directory.admit(ask(1, 0, 0)), Verdict::New { tsih: 1 });
        assert_eq!(directory.admit(ask(2, 0, 1)), Verdict::New { tsih: 2 });
        let reinstated = Verdict::Reinstate {
            core: 0,
            tsih: 3,
            old: 1,
        };
        assert_eq!(directory.admit(ask(1, 0, 1)), reinstated);
        assert_eq!(directory.per_core(), [1, 1]);
        // The end of the superseded session is not that of its successor.
        directory.ended(1, 0);
        assert_eq!(directory.len(), 2);
        assert_eq!(
            directory.admit(ask(1, 3, 1)),
            Verdict::Join { core: 0, tsih: 3 }
        );
        directory.ended(3, 0);
        assert_eq!(directory.admit(ask(1, 3, 1)), Verdict::NoSuchSession);
        assert_eq!(directory.per_core(), [0, 1]);
    }

    #[test]
    fn a_tsih_of_another_initiator_is_no_session_of_ours() {
        let mut directory = Directory::new(1, 10);
        directory.admit(ask(1, 0, 0));
        assert_eq!(directory.admit(ask(2, 1, 0)), Verdict::NoSuchSession);
        let discovery = Admission {
            name: None,
            tsih: 1,
            core: 0,
        };
        assert_eq!(directory.admit(discovery), Verdict::NoSuchSession);
    }

    #[test]
    fn sessions_are_bounded_and_discovery_has_places_of_its_own() {
        let mut directory = Directory::new(1, 2);
        let discovery = Admission {
            name: None,
            tsih: 0,
            core: 0,
        };
        for tsih in 1..=64 {
            assert_eq!(directory.admit(discovery.clone()), Verdict::New { tsih });
        }
        assert_eq!(directory.admit(discovery.clone()), Verdict::Full);
        assert_eq!(directory.admit(ask(1, 0, 0)), Verdict::New { tsih: 65 });
        assert_eq!(directory.admit(ask(2, 0, 0)), Verdict::New { tsih: 66 });
        assert_eq!(directory.admit(ask(3, 0, 0)), Verdict::Full);
        // Reinstatement needs no further place.
        let reinstated = Verdict::Reinstate {
            core: 0,
            tsih: 67,
            old: 65,
        };
        assert_eq!(directory.admit(ask(1, 0, 0)), reinstated);
        directory.ended(66, 0);
        assert_eq!(directory.admit(ask(3, 0, 0)), Verdict::New { tsih: 68 });
        directory.ended(1, 0);
        assert_eq!(directory.admit(discovery), Verdict::New { tsih: 69 });
        assert_eq!(directory.per_core(), [66]);
    }
}
