//! Which station an address is at (RFC 826, RFC 4861 §7): learned, asked for, and asked again when
//! what is known is old.
//!
//! Replies go where their question came from, so only routers and the peers of connections that
//! are opened from here are looked up. Hence the table is small; a flood of stations that nobody
//! looks up pushes out only each other. Nothing is sent from here: [`Neighbours::question`] says
//! what is to be asked.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::model::Neighbour;

/// Stations that are known at a time, in all networks.
const STATIONS_MAX: usize = 1024;
/// What was confirmed so long ago is asked about again when it is used.
const FRESH: Duration = Duration::from_secs(30);
/// From one question to the next about one address (RFC 4861 §10: RetransTimer).
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Questions about one address before it counts as silent (RFC 4861 §10: MAX_MULTICAST_SOLICIT).
const ASKS_MAX: u32 = 3;
/// Stations looked up so lately are not pushed out.
const IN_USE: Duration = Duration::from_secs(300);

/// See the module.
#[derive(Debug)]
pub(super) struct Neighbours {
    stations: HashMap<(Option<u16>, IpAddr), Station>,
    /// How often an address has come to another station.
    changes: u64,
    /// No question is due before.
    next_question: Option<Instant>,
    /// Questions that are due.
    due: VecDeque<Question>,
    /// Somebody was looked up for whom there was no room.
    refused: bool,
}

#[derive(Debug)]
struct Station {
    /// `None`: not known yet.
    mac: Option<[u8; 6]>,
    confirmed: Instant,
    looked_up: Option<Instant>,
    asking: Option<Asking>,
}

#[derive(Clone, Copy, Debug)]
struct Asking {
    asked: u32,
    next: Instant,
}

/// What is to be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Question {
    pub(super) vlan: Option<u16>,
    pub(super) ip: IpAddr,
    /// Where it was last; everybody is asked when that is not known, or does not answer.
    pub(super) mac: Option<[u8; 6]>,
}

impl Neighbours {
    pub(super) fn new() -> Self {
        Self {
            stations: HashMap::with_capacity(STATIONS_MAX),
            changes: 0,
            next_question: None,
            due: VecDeque::new(),
            refused: false,
        }
    }

    /// Grows when an address has come to another station: who keeps one looks it up again.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Where an address is. `None`: not known, and being asked for from now on.
    pub(super) fn look_up(
        &mut self,
        vlan: Option<u16>,
        ip: IpAddr,
        now: Instant,
    ) -> Option<[u8; 6]> {
        if !self.stations.contains_key(&(vlan, ip)) && !self.make_room(now) {
            self.refused = true;
            return None;
        }
        let station = self.stations.entry((vlan, ip)).or_insert(Station {
            mac: None,
            confirmed: now,
            looked_up: None,
            asking: None,
        });
        station.looked_up = Some(now);
        let old = now.saturating_duration_since(station.confirmed) >= FRESH;
        if (station.mac.is_none() || old) && station.asking.is_none() {
            station.asking = Some(Asking {
                asked: 0,
                next: now,
            });
            self.next_question = Some(now);
        }
        station.mac
    }

    /// What a station has said about itself. `true`: that is news. A station that nobody has
    /// looked up is kept as far as there is room.
    pub(super) fn learn(&mut self, neighbour: Neighbour, now: Instant) -> bool {
        let key = (neighbour.vlan, neighbour.ip);
        if !self.stations.contains_key(&key) && !self.make_room(now) {
            return false;
        }
        let station = self.stations.entry(key).or_insert(Station {
            mac: None,
            confirmed: now,
            looked_up: None,
            asking: None,
        });
        station.confirmed = now;
        station.asking = None;
        let is_news = station.mac != Some(neighbour.mac);
        station.mac = Some(neighbour.mac);
        // Nobody keeps a station that nobody has looked up.
        if is_news && (station.looked_up.is_some() || self.refused) {
            self.refused = false;
            self.changes += 1;
        }
        is_news
    }

    /// As [`Neighbours::learn`], of an address that somebody has looked up before; others are not
    /// kept.
    pub(super) fn update(&mut self, neighbour: Neighbour, now: Instant) -> bool {
        self.stations.contains_key(&(neighbour.vlan, neighbour.ip)) && self.learn(neighbour, now)
    }

    /// Another station is known to have the address of that neighbour.
    pub(super) fn is_elsewhere(&self, neighbour: Neighbour) -> bool {
        let known = self.stations.get(&(neighbour.vlan, neighbour.ip));
        let mac = known.and_then(|station| station.mac);
        mac.is_some_and(|mac| mac != neighbour.mac)
    }

    /// The next question that is due. To be called until there is none.
    pub(super) fn question(&mut self, now: Instant) -> Option<Question> {
        if self.due.is_empty() && self.next_question.is_some_and(|next| next <= now) {
            self.ask(now);
        }
        self.due.pop_front()
    }

    /// Looks through all stations for what is to be asked, and forgets those that stay silent.
    fn ask(&mut self, now: Instant) {
        let before = self.stations.len();
        self.next_question = None;
        self.stations.retain(|&(vlan, ip), station| {
            let Some(asking) = &mut station.asking else {
                return true;
            };
            if asking.next <= now {
                if asking.asked == ASKS_MAX {
                    return false;
                }
                asking.asked += 1;
                asking.next = now + ASK_INTERVAL;
                // The last question goes to everybody: the address may have moved.
                let mac = station.mac.filter(|_| asking.asked < ASKS_MAX);
                self.due.push_back(Question { vlan, ip, mac });
            }
            let next = self
                .next_question
                .map_or(asking.next, |at| at.min(asking.next));
            self.next_question = Some(next);
            true
        });
        self.changes += u64::from(self.stations.len() < before);
    }

    /// When a question may be due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next_question
    }

    /// Room for one more station: the one that was confirmed longest ago goes, among those that
    /// nobody has looked up lately. `false`: all are in use.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.stations.len() < STATIONS_MAX {
            return true;
        }
        let unused = self.stations.iter().filter(|(_, station)| {
            let since = station
                .looked_up
                .map(|at| now.saturating_duration_since(at));
            since.is_none_or(|since| since >= IN_USE)
        });
        let oldest = unused.min_by_key(|(_, station)| station.confirmed);
        let Some(key) = oldest.map(|(&key, _)| key) else {
            return false;
        };
        self.stations.remove(&key);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
    const SECOND: Duration = Duration::from_secs(1);

    fn ip(number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        IpAddr::from([10, 0, high, low])
    }

    fn at(number: u16, mac: [u8; 6]) -> Neighbour {
        Neighbour {
            vlan: Some(5),
            ip: ip(number),
            mac,
        }
    }

    fn question(number: u16, mac: Option<[u8; 6]>) -> Option<Question> {
        Some(Question {
            vlan: Some(5),
            ip: ip(number),
            mac,
        })
    }

    #[test]
    fn an_unknown_address_is_asked_for_a_few_times() {
        let mut known = Neighbours::new();
        let start = crate::net::some_instant();
        assert_eq!(known.look_up(Some(5), ip(1), start), None);
        for round in 0..ASKS_MAX {
            let now = start + SECOND * round;
            assert_eq!(known.question(now), question(1, None));
            assert_eq!(known.question(now), None);
            assert_eq!(known.deadline(), Some(now + ASK_INTERVAL));
            assert_eq!(known.look_up(Some(5), ip(1), now), None);
        }
        let before = known.changes();
        assert_eq!(known.question(start + SECOND * ASKS_MAX), None);
        assert_eq!(known.deadline(), None, "nobody answers");
        assert!(known.changes() > before);
    }

    #[test]
    fn an_answer_ends_the_asking_and_another_vlan_is_another_network() {
        let mut known = Neighbours::new();
        let now = crate::net::some_instant();
        known.look_up(Some(5), ip(1), now);
        assert!(known.learn(at(1, MAC), now));
        assert!(!known.learn(at(1, MAC), now), "no news");
        assert_eq!(known.question(now), None);
        assert_eq!(known.look_up(Some(5), ip(1), now), Some(MAC));
        assert_eq!(known.look_up(Some(6), ip(1), now), None);
        assert_eq!(known.look_up(None, ip(1), now), None);
        assert!(!known.update(at(2, MAC), now), "nobody has asked for it");
        assert_eq!(known.look_up(Some(5), ip(2), now), None);
    }

    #[test]
    fn what_is_old_is_used_while_it_is_asked_about_and_then_given_up() {
        let mut known = Neighbours::new();
        let start = crate::net::some_instant();
        known.learn(at(1, MAC), start);
        let later = start + FRESH;
        assert_eq!(known.look_up(Some(5), ip(1), later), Some(MAC));
        assert_eq!(known.question(later), question(1, Some(MAC)));
        assert_eq!(known.question(later + SECOND), question(1, Some(MAC)));
        assert_eq!(known.question(later + SECOND * 2), question(1, None));
        assert_eq!(known.look_up(Some(5), ip(1), later), Some(MAC));
        assert_eq!(known.question(later + SECOND * 3), None);
        assert_eq!(known.look_up(Some(5), ip(1), later + SECOND * 3), None);
    }

    #[test]
    fn a_flood_of_stations_pushes_out_only_what_nobody_uses() {
        let mut known = Neighbours::new();
        let start = crate::net::some_instant();
        known.learn(at(0, MAC), start);
        known.look_up(Some(5), ip(0), start);
        for number in 1..5000 {
            known.learn(at(number, MAC), start + SECOND);
        }
        assert_eq!(known.stations.len(), STATIONS_MAX);
        assert_eq!(known.look_up(Some(5), ip(0), start + SECOND), Some(MAC));
    }

    #[test]
    fn when_all_are_in_use_a_further_one_is_not_looked_up() {
        let mut known = Neighbours::new();
        let now = crate::net::some_instant();
        for number in 0..=1024 {
            known.look_up(None, ip(number), now);
        }
        assert_eq!(known.stations.len(), STATIONS_MAX);
        assert!(!known.learn(at(2000, MAC), now));
    }
}
