//! The board: what the control thread and the surveyor write down for those who watch, so that
//! nobody has to ask them.
//!
//! Each value has one writer and is good by itself: none of them guards memory. The bound of the
//! tables is what the configuration has of cores and units, and the statuses of RFC 7143 §11.13.5.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use crate::backend::{Backing, UnitIndex, Usage};
use crate::control::event::Event;
use crate::pdu::LoginStatus;

/// How long the control thread may take for a turn, in which it may have to write to a disk.
const TURN_MAX: Duration = Duration::from_secs(10);

/// Statuses that a login is refused with, as a label has them.
const STATUSES: [(LoginStatus, &str); 16] = [
    (
        LoginStatus::TARGET_MOVED_TEMPORARILY,
        "target_moved_temporarily",
    ),
    (
        LoginStatus::TARGET_MOVED_PERMANENTLY,
        "target_moved_permanently",
    ),
    (LoginStatus::INITIATOR_ERROR, "initiator_error"),
    (
        LoginStatus::AUTHENTICATION_FAILURE,
        "authentication_failure",
    ),
    (LoginStatus::AUTHORIZATION_FAILURE, "authorization_failure"),
    (LoginStatus::NOT_FOUND, "not_found"),
    (LoginStatus::TARGET_REMOVED, "target_removed"),
    (LoginStatus::UNSUPPORTED_VERSION, "unsupported_version"),
    (LoginStatus::TOO_MANY_CONNECTIONS, "too_many_connections"),
    (LoginStatus::MISSING_PARAMETER, "missing_parameter"),
    (
        LoginStatus::CANNOT_INCLUDE_IN_SESSION,
        "cannot_include_in_session",
    ),
    (
        LoginStatus::SESSION_TYPE_NOT_SUPPORTED,
        "session_type_not_supported",
    ),
    (
        LoginStatus::SESSION_DOES_NOT_EXIST,
        "session_does_not_exist",
    ),
    (LoginStatus::TARGET_ERROR, "target_error"),
    (LoginStatus::SERVICE_UNAVAILABLE, "service_unavailable"),
    (LoginStatus::OUT_OF_RESOURCES, "out_of_resources"),
];

/// See the module.
#[derive(Debug)]
pub(super) struct Board {
    began: Instant,
    /// Milliseconds from then to the control thread's last turn.
    turned_ms: AtomicU64,
    serving: AtomicBool,
    cores: Vec<CoreNotes>,
    units: Vec<UnitNotes>,
    logins: AtomicU64,
    refused: [AtomicU64; STATUSES.len()],
    broken: AtomicU64,
    logged_out: AtomicU64,
    lost: AtomicU64,
}

/// What is known of a core.
#[derive(Debug, Default)]
pub(super) struct CoreNotes {
    connections: AtomicU64,
    sessions: AtomicU64,
    stands: AtomicBool,
}

/// What is known of a logical unit.
#[derive(Debug, Default)]
pub(super) struct UnitNotes {
    /// What is behind it, once that was there.
    backing: OnceLock<Weak<Backing>>,
    /// The others were found.
    measured: AtomicBool,
    used: AtomicU64,
    available: AtomicU64,
}

impl Board {
    pub(super) fn new(cores: usize, units: usize, now: Instant) -> Self {
        Self {
            began: now,
            turned_ms: AtomicU64::new(0),
            serving: AtomicBool::new(true),
            cores: (0..cores).map(|_| CoreNotes::default()).collect(),
            units: (0..units).map(|_| UnitNotes::default()).collect(),
            logins: AtomicU64::new(0),
            refused: [const { AtomicU64::new(0) }; STATUSES.len()],
            broken: AtomicU64::new(0),
            logged_out: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    /// The control thread's: it turns, and takes logins or does not.
    pub(super) fn turn(&self, now: Instant, serving: bool) {
        self.turned_ms.store(self.ms(now), Relaxed);
        self.serving.store(serving, Relaxed);
    }

    /// The control thread's: what a core has.
    pub(super) fn core(&self, core: usize, connections: usize, sessions: usize, stands: bool) {
        let notes = &self.cores[core];
        notes.connections.store(connections as u64, Relaxed);
        notes.sessions.store(sessions as u64, Relaxed);
        notes.stands.store(stands, Relaxed);
    }

    /// The control thread's: something was told.
    pub(super) fn tell(&self, event: &Event) {
        let counter = match event {
            Event::LoggedIn(_) => &self.logins,
            Event::LoginBroken { .. } => &self.broken,
            Event::LoginRefused(refusal) => {
                let status = refusal.reason.status();
                let at = STATUSES.iter().position(|(known, _)| *known == status);
                &self.refused[at.expect("the table has all statuses of `Reason`")]
            }
            Event::Ended(obituary) if obituary.in_order => &self.logged_out,
            Event::Ended(_) => &self.lost,
            Event::DeviceError { .. } | Event::Trouble(_) | Event::Account(_) => return,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// The surveyor's: what is behind a unit.
    pub(super) fn found(&self, unit: UnitIndex, backing: &Arc<Backing>) {
        let known = &self.units[usize::from(unit.0)].backing;
        known.get_or_init(|| Arc::downgrade(backing));
    }

    /// The surveyor's: the space behind a unit.
    pub(super) fn measured(&self, unit: UnitIndex, usage: Usage) {
        let notes = &self.units[usize::from(unit.0)];
        notes.used.store(usage.used, Relaxed);
        notes.available.store(usage.available, Relaxed);
        notes.measured.store(true, Relaxed);
    }

    /// Whether the daemon works.
    ///
    /// # Errors
    /// Who stands still.
    pub(super) fn health(&self, now: Instant) -> Result<(), String> {
        let turned = Duration::from_millis(self.turned_ms.load(Relaxed));
        let still = now
            .saturating_duration_since(self.began)
            .saturating_sub(turned);
        if still > TURN_MAX {
            let seconds = still.as_secs();
            return Err(format!("the control thread has not turned for {seconds} s"));
        }
        match self.cores.iter().position(CoreNotes::stands) {
            Some(core) => Err(format!("core {core} stands still")),
            None => Ok(()),
        }
    }

    pub(super) fn serves(&self) -> bool {
        self.serving.load(Relaxed)
    }

    pub(super) fn cores(&self) -> &[CoreNotes] {
        &self.cores
    }

    /// By index.
    pub(super) fn units(&self) -> &[UnitNotes] {
        &self.units
    }

    pub(super) fn logins(&self) -> u64 {
        self.logins.load(Relaxed)
    }

    /// By status.
    pub(super) fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.refused.iter().map(|count| count.load(Relaxed));
        STATUSES.iter().map(|(_, name)| *name).zip(counts)
    }

    pub(super) fn broken(&self) -> u64 {
        self.broken.load(Relaxed)
    }

    /// Connections that ended by a logout, and those that did not.
    pub(super) fn ended(&self) -> [(&'static str, u64); 2] {
        [
            ("logout", self.logged_out.load(Relaxed)),
            ("lost", self.lost.load(Relaxed)),
        ]
    }

    fn ms(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.began);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

impl CoreNotes {
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    pub(super) fn sessions(&self) -> u64 {
        self.sessions.load(Relaxed)
    }

    pub(super) fn stands(&self) -> bool {
        self.stands.load(Relaxed)
    }
}

impl UnitNotes {
    /// What is behind it, as long as anybody has it open.
    pub(super) fn backing(&self) -> Option<Arc<Backing>> {
        self.backing.get()?.upgrade()
    }

    /// Where there is something to say of it.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.measured.load(Relaxed).then(|| Usage {
            used: self.used.load(Relaxed),
            available: self.available.load(Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::reactor::clock;

    #[test]
    fn every_status_of_a_refusal_has_its_row() {
        let mut known: Vec<_> = STATUSES.iter().map(|(status, _)| *status).collect();
        for class in 1..=3 {
            for detail in 0..=0x0b {
                let status = LoginStatus::new(class, detail);
                // Those that a login in order may not meet.
                let ours = match (class, detail) {
                    (1, 1..=2) | (2, 0..=0x0a) | (3, 0..=2) => true,
                    (_, _) => false,
                };
                assert_eq!(known.contains(&status), ours, "{status:?}");
            }
        }
        known.dedup();
        assert_eq!(known.len(), STATUSES.len());
    }

    #[test]
    fn who_stands_still_is_named() {
        let now = clock::now();
        let board = Board::new(2, 0, now);
        assert_eq!(board.health(now + TURN_MAX), Ok(()));
        let late = now + TURN_MAX + Duration::from_secs(1);
        let why = "the control thread has not turned for 11 s".to_owned();
        assert_eq!(board.health(late), Err(why));
        board.turn(late, true);
        board.core(1, 3, 2, true);
        assert_eq!(board.health(late), Err("core 1 stands still".to_owned()));
        board.core(1, 3, 2, false);
        assert_eq!(board.health(late), Ok(()));
        let notes = &board.cores()[1];
        assert_eq!((notes.connections(), notes.sessions()), (3, 2));
        board.turn(late, false);
        assert!(!board.serves());
    }

    #[test]
    fn what_is_told_is_counted() {
        let board = Board::new(1, 2, clock::now());
        let peer: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let broken = Event::LoginBroken {
            peer,
            local: peer,
            why: String::new(),
        };
        board.tell(&broken);
        board.tell(&Event::Trouble(String::new()));
        assert_eq!((board.broken(), board.logins()), (1, 0));
        assert_eq!(board.ended(), [("logout", 0), ("lost", 0)]);
        assert!(board.refused().all(|(_, count)| count == 0));
        let [first, _] = board.units() else {
            panic!("two units");
        };
        assert_eq!(first.usage(), None);
        let usage = Usage {
            used: 1,
            available: u64::MAX,
        };
        board.measured(UnitIndex(0), usage);
        assert_eq!(first.usage(), Some(usage));
    }
}
