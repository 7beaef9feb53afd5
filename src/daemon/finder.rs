//! The finder: looks for devices that were missing, or refused, when the daemon started.
//!
//! Every few seconds it opens each of them as the start does, with all that is checked and locked
//! then; but no file is created, as the file system that it belongs on may not be mounted yet. Why
//! that fails is logged when it is another reason than the last time; where it is the same one, and
//! the look was more than a glance, the next one comes later and later.
//!
//! Each look has a thread of its own, which ends with it: opening may wait for as long as a disk or
//! a file system likes, and holds up no other. One that takes long is made less often.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use tracing::error;

use super::build::Missing;
use crate::backend::{Backing, Kind, Spec, UnitIndex};
use crate::scsi::provisioning::Policy;

/// How often a device is looked for.
const INTERVAL: Duration = Duration::from_secs(5);
/// The same at least, however long a look takes.
const INTERVAL_MAX: Duration = Duration::from_secs(300);
/// A look that takes longer does something to the device, such as resetting it: one that finds what
/// the last one did is followed by twice the pause.
const BRIEF: Duration = Duration::from_millis(50);
/// A look takes at most one part in so many of the time.
const DUTY: u32 = 20;
/// Looks under way at a time.
const LOOKS_MAX: usize = 16;
/// How soon it is seen that a look has ended; later for one that takes longer than a second.
const SOON: Duration = Duration::from_millis(20);
const LATER: Duration = Duration::from_secs(1);

/// What a look has found: nothing where there still is none, or why it cannot be had.
type Looked = Option<Result<Arc<Backing>, String>>;

/// How a device is looked for; tests have other ways.
type Look = Arc<dyn Fn(&Spec) -> Looked + Send + Sync>;

/// A device that has come.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) unit: UnitIndex,
    pub(super) name: String,
    pub(super) policy: Policy,
    pub(super) backing: Arc<Backing>,
}

#[derive(Debug)]
enum State {
    /// Until then.
    Waiting(Instant),
    Looking {
        since: Instant,
        found: Receiver<Looked>,
    },
}

/// See the module.
pub(super) struct Finder {
    sought: Vec<Sought>,
    look: Look,
}

#[derive(Debug)]
struct Sought {
    missing: Missing,
    state: State,
    /// Between the last look and the next.
    pause: Duration,
}

impl std::fmt::Debug for Finder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Finder")
            .field("sought", &self.sought)
            .finish_non_exhaustive()
    }
}

impl Finder {
    pub(super) fn new(missing: Vec<Missing>, now: Instant) -> Self {
        Self::with(missing, now, Arc::new(look))
    }

    fn with(missing: Vec<Missing>, now: Instant, look: Look) -> Self {
        let wait = |missing| Sought {
            missing,
            state: State::Waiting(now + INTERVAL),
            pause: INTERVAL,
        };
        Self {
            sought: missing.into_iter().map(wait).collect(),
            look,
        }
    }

    /// Takes what looks have found and begins those that are due; `all`: however long ago the last
    /// ones were.
    pub(super) fn turn(&mut self, now: Instant, all: bool) -> Vec<Found> {
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(sought) = self.sought.get_mut(at) {
            match sought.seen(now) {
                None => at += 1,
                Some(backing) => {
                    let Sought { missing, .. } = self.sought.remove(at);
                    found.push(Found {
                        unit: missing.unit,
                        name: missing.name,
                        policy: missing.policy,
                        backing,
                    });
                }
            }
        }
        let looking = |sought: &&Sought| matches!(sought.state, State::Looking { .. });
        let mut free = LOOKS_MAX.saturating_sub(self.sought.iter().filter(looking).count());
        for Sought { missing, state, .. } in &mut self.sought {
            let due = matches!(state, State::Waiting(until) if all || now >= *until);
            if due && free > 0 {
                free -= 1;
                *state = begin(&missing.spec, &self.look, now);
            }
        }
        found
    }

    /// How long there is nothing to do; for ever where nothing is missing.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        let pause = self.sought.iter().map(|sought| match &sought.state {
            // One that is due waits for the end of others, seen soon enough.
            State::Waiting(until) => until.saturating_duration_since(now).max(SOON),
            State::Looking { since, .. } if now.saturating_duration_since(*since) < LATER => SOON,
            State::Looking { .. } => LATER,
        });
        pause.min().unwrap_or(Duration::MAX)
    }
}

/// Opens the device, without making one.
fn look(spec: &Spec) -> Looked {
    if let Kind::File { path, .. } = &spec.kind
        && !path.exists()
    {
        return None;
    }
    Some(Backing::open(spec).map_err(|error| error.to_string()))
}

/// Begins a look in a thread of its own.
fn begin(spec: &Spec, look: &Look, now: Instant) -> State {
    let (tell, found) = sync_channel(1);
    let (look, spec) = (Arc::clone(look), spec.clone());
    // Where nobody waits any more, what was found is closed again.
    let begun = std::thread::Builder::new()
        .name("finder".into())
        .spawn(move || drop(tell.send(look(&spec))));
    match begun {
        Ok(_) => State::Looking { since: now, found },
        Err(_) => State::Waiting(now + INTERVAL),
    }
}

impl Sought {
    /// Takes what a look has found, if it has ended.
    fn seen(&mut self, now: Instant) -> Option<Arc<Backing>> {
        let State::Looking { since, found } = &self.state else {
            return None;
        };
        let looked = match found.try_recv() {
            Ok(looked) => looked,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                Some(Err("the look for it has ended badly".to_owned()))
            }
        };
        let took = now.saturating_duration_since(*since);
        let why = match looked {
            Some(Ok(backing)) => return Some(backing),
            Some(Err(why)) => Some(why),
            None => None,
        };
        let is_news = why.as_ref().is_some_and(|why| *why != self.missing.why);
        self.pause = if took > BRIEF && !is_news {
            self.pause * 2
        } else {
            INTERVAL
        };
        self.pause = self.pause.max(took * DUTY).min(INTERVAL_MAX);
        self.state = State::Waiting(now + self.pause);
        if let Some(why) = why.filter(|_| is_news) {
            let name = &self.missing.name;
            error!("NOT READY: logical_unit \"{name}\": backend: {why}");
            self.missing.why = why;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #[expect(clippy::disallowed_types, reason = "looks of tests are threads")]
    use std::sync::Mutex;
    use std::sync::mpsc::Sender;
    use std::sync::{PoisonError, mpsc};

    use super::*;
    use crate::reactor::clock;

    /// Turns until something is seen; looks are threads, and nothing is waited for without bound.
    const TURNS_MAX: usize = 10_000_000;

    fn missing(unit: u16, kind: Kind) -> Missing {
        Missing {
            unit: UnitIndex(unit),
            name: format!("unit {unit}"),
            spec: Spec::new(kind),
            policy: Policy::default(),
            why: String::new(),
        }
    }

    fn turn_until(finder: &mut Finder, now: Instant, seen: impl Fn(&Finder) -> bool) -> Vec<Found> {
        let mut found = Vec::new();
        for _ in 0..TURNS_MAX {
            found.extend(finder.turn(now, false));
            if seen(finder) {
                return found;
            }
            std::thread::yield_now();
        }
        panic!("it did not come to pass: {finder:?}");
    }

    fn waits(finder: &Finder) -> bool {
        let waits = |sought: &Sought| matches!(sought.state, State::Waiting(_));
        finder.sought.iter().all(waits)
    }

    #[test]
    fn a_file_is_found_when_it_is_good_and_never_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later").join("disk");
        let kind = Kind::File {
            path: path.clone(),
            bytes: Some(1 << 20),
            engine: crate::backend::Engine::Sync,
            direct: None,
        };
        let mut now = clock::now();
        let mut finder = Finder::new(vec![missing(3, kind)], now);
        assert_eq!(finder.pause(now), INTERVAL);
        assert!(finder.turn(now, false).is_empty() && waits(&finder), "soon");
        // Its folder comes: nothing is made in there.
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let mut look = |finder: &mut Finder| {
            now += INTERVAL_MAX;
            let mut found = finder.turn(now, false);
            found.extend(turn_until(finder, now, waits));
            found
        };
        assert!(look(&mut finder).is_empty() && !path.exists());
        assert_eq!(finder.sought[0].missing.why, "");
        // A folder in its place is refused.
        std::fs::create_dir(&path).unwrap();
        assert!(look(&mut finder).is_empty());
        let why = finder.sought[0].missing.why.clone();
        assert!(why.contains("name a file"), "{why}");
        assert!(look(&mut finder).is_empty());
        assert_eq!(finder.sought[0].missing.why, why);
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, [7; 4096]).unwrap();
        let found = look(&mut finder);
        assert_eq!((found.len(), found[0].unit), (1, UnitIndex(3)));
        assert_eq!(found[0].backing.info().blocks, 2048, "it has its size");
        assert!(finder.sought.is_empty());
        assert_eq!(finder.pause(now), Duration::MAX);
    }

    /// A way to look for null devices of `1 << unit` MiB, of which the first never ends by itself.
    fn hanging() -> (Look, Sender<()>) {
        let (go, wait) = mpsc::channel::<()>();
        #[expect(clippy::disallowed_types, reason = "a test's threads")]
        let wait = Mutex::new(wait);
        let look = move |spec: &Spec| {
            if spec.kind == (Kind::Null { bytes: 1 << 20 }) {
                let wait = wait.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = wait.recv();
            }
            look(spec)
        };
        (Arc::new(look), go)
    }

    #[test]
    fn a_look_that_hangs_holds_up_no_other_and_is_made_less_often() {
        let (look, go) = hanging();
        let null = |unit: u16| {
            missing(
                unit,
                Kind::Null {
                    bytes: 1 << (20 + unit),
                },
            )
        };
        let now = clock::now();
        let mut finder = Finder::with(vec![null(0), null(1), null(2)], now, look);
        let found = turn_until(&mut finder, now + INTERVAL, |finder| {
            finder.sought.len() == 1
        });
        let mut units: Vec<_> = found.iter().map(|found| found.unit.0).collect();
        units.sort_unstable();
        assert_eq!(units, [1, 2]);
        assert_eq!(finder.pause(now + INTERVAL), SOON);
        let later = now + INTERVAL + LATER;
        assert_eq!(finder.pause(later), LATER);
        assert!(finder.turn(later, true).is_empty() && !waits(&finder));
        go.send(()).unwrap();
        let found = turn_until(&mut finder, later, |finder| finder.sought.is_empty());
        assert_eq!(found[0].unit, UnitIndex(0));
    }

    #[test]
    fn looks_under_way_are_bounded_and_a_long_one_is_not_soon_made_again() {
        let (go, wait) = mpsc::channel::<()>();
        #[expect(clippy::disallowed_types, reason = "a test's threads")]
        let wait = Mutex::new(wait);
        let look: Look = Arc::new(move |_: &Spec| {
            let wait = wait.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = wait.recv();
            Some(Err("it is sick".to_owned()))
        });
        let count = LOOKS_MAX + 1;
        let all = (0..count).map(|unit| missing(unit.try_into().unwrap(), Kind::Null { bytes: 0 }));
        let now = clock::now();
        let mut finder = Finder::with(all.collect(), now, look);
        finder.turn(now, true);
        finder.turn(now, true);
        let is_looking = |sought: &&Sought| matches!(sought.state, State::Looking { .. });
        let looking = |finder: &Finder| finder.sought.iter().filter(is_looking).count();
        assert_eq!(looking(&finder), LOOKS_MAX);
        drop(go);
        let took = Duration::from_secs(10);
        turn_until(&mut finder, now + took, |finder| {
            let sick = |sought: &Sought| sought.missing.why == "it is sick";
            finder.sought.iter().all(sick) && waits(finder)
        });
        let next = |sought: &Sought| match &sought.state {
            State::Waiting(until) => *until - now - took,
            State::Looking { .. } => Duration::ZERO,
        };
        let mut next: Vec<_> = finder.sought.iter().map(next).collect();
        next.sort_unstable();
        assert_eq!(next[0], INTERVAL, "the one that began last took no time");
        assert_eq!(next[1..], [took * DUTY; LOOKS_MAX]);
    }
    #[test]
    fn what_is_found_again_is_looked_for_less_often_unless_it_is_asked_for() {
        let look: Look = Arc::new(|_: &Spec| Some(Err("it has other blocks".to_owned())));
        let mut now = clock::now();
        let mut finder = Finder::with(vec![missing(0, Kind::Null { bytes: 0 })], now, look);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            finder.turn(now, true);
            // It takes as long as a reset does.
            now += BRIEF * 2;
            turn_until(&mut finder, now, waits);
            pauses.push(finder.pause(now).as_secs());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160]);
        for _ in 0..2 {
            finder.turn(now, true);
            now += BRIEF * 2;
            turn_until(&mut finder, now, waits);
        }
        assert_eq!(finder.pause(now), INTERVAL_MAX);
    }
}
