//! Whether every data core turns: says when one stands still, and when it turns again.
//!
//! A core that sleeps is woken by what it is sent, and turns by itself once in
//! [`SLEEP_MAX`](crate::reactor::SLEEP_MAX); one that does not is as dead as one that never
//! slept. systemd, where it watches, hears of this process only while all of them turn.

use std::time::{Duration, Instant};

use tracing::{error, info};

use crate::reactor::SLEEP_MAX;

/// How long a core may take for one turn.
const STILL_MAX: Duration = Duration::from_secs(1);
/// Looks that must have shown the same: this thread may itself have stood still between two.
const LOOKS_MIN: u32 = 2;

/// See the module.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// How often systemd wants to hear of us.
    interval: Option<Duration>,
    next_feed: Instant,
    cores: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    turns: u64,
    since: Instant,
    /// Looks since then.
    looks: u32,
    stands: bool,
}

/// News of a core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Word {
    Stands { core: usize, since: Duration },
    TurnsAgain { core: usize, stood: Duration },
}

impl Word {
    pub(super) fn log(self) {
        match self {
            Self::Stands { core, since } => error!(
                core,
                "core {core} has not turned for {} ms: its sessions are not served",
                since.as_millis()
            ),
            Self::TurnsAgain { core, stood } => info!(
                core,
                "core {core} turns again; it stood still for {} ms",
                stood.as_millis()
            ),
        }
    }
}

impl Watchdog {
    /// `interval` is what systemd asks for, if it does.
    pub(super) fn new(cores: usize, interval: Option<Duration>, now: Instant) -> Self {
        let watched = |_| Watched {
            turns: 0,
            since: now,
            looks: 0,
            stands: false,
        };
        Self {
            interval,
            next_feed: now,
            cores: (0..cores).map(watched).collect(),
        }
    }

    /// A look at a core: how often it has turned, and whether it sleeps.
    pub(super) fn look(
        &mut self,
        core: usize,
        turns: u64,
        asleep: bool,
        now: Instant,
    ) -> Option<Word> {
        let watched = &mut self.cores[core];
        let still = now.saturating_duration_since(watched.since);
        if turns != watched.turns {
            let stood = std::mem::take(&mut watched.stands);
            watched.turns = turns;
            watched.since = now;
            watched.looks = 0;
            return stood.then_some(Word::TurnsAgain { core, stood: still });
        }
        watched.looks = watched.looks.saturating_add(1);
        let allowed = if asleep {
            STILL_MAX + SLEEP_MAX
        } else {
            STILL_MAX
        };
        if watched.stands || still <= allowed || watched.looks < LOOKS_MIN {
            return None;
        }
        watched.stands = true;
        Some(Word::Stands { core, since: still })
    }

    /// Whether a core stood still when it was looked at.
    pub(super) fn stands(&self, core: usize) -> bool {
        self.cores[core].stands
    }

    /// systemd is to be told that all is well.
    pub(super) fn feeds(&mut self, now: Instant) -> bool {
        let Some(interval) = self.interval else {
            return false;
        };
        if now < self.next_feed || self.cores.iter().any(|watched| watched.stands) {
            return false;
        }
        self.next_feed = now + interval;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(400);

    fn start() -> Instant {
        crate::reactor::clock::now()
    }

    #[test]
    fn a_core_that_stands_still_is_named_once_and_once_more_when_it_turns() {
        let mut now = start();
        let mut dog = Watchdog::new(2, Some(STEP), now);
        let mut words = Vec::new();
        for step in 1..=12_u64 {
            now += STEP;
            // Core 0 always turns; core 1 does not between the second and the ninth look.
            let second = if (2..9).contains(&step) { 2 } else { step };
            words.extend(dog.look(0, step, false, now));
            words.extend(dog.look(1, second, false, now));
            let stands = (5..9).contains(&step);
            assert_eq!(dog.feeds(now), !stands, "step {step}");
        }
        let told = [
            Word::Stands {
                core: 1,
                since: STEP * 3,
            },
            Word::TurnsAgain {
                core: 1,
                stood: STEP * 7,
            },
        ];
        assert_eq!(words, told);
    }

    #[test]
    fn a_sleeper_may_sleep_but_not_for_ever() {
        let mut now = start();
        let mut dog = Watchdog::new(1, None, now);
        assert_eq!(dog.look(0, 7, true, now), None);
        let begun = now;
        let word = loop {
            now += STEP;
            if let Some(word) = dog.look(0, 7, true, now) {
                break word;
            }
        };
        let Word::Stands { core: 0, since } = word else {
            panic!("{word:?}")
        };
        assert_eq!(since, now - begun);
        assert!(since > STILL_MAX + SLEEP_MAX && since <= STILL_MAX + SLEEP_MAX + STEP);
        assert!(!dog.feeds(now), "nobody has asked");
    }

    #[test]
    fn a_pause_of_the_whole_process_is_nobodys_fault() {
        let now = start();
        let mut dog = Watchdog::new(1, None, now);
        dog.look(0, 1, false, now);
        // The cores have not had their first turn since.
        assert_eq!(dog.look(0, 1, false, now + STILL_MAX * 60), None);
        assert_eq!(dog.look(0, 2, false, now + STILL_MAX * 60 + STEP), None);
    }
}
