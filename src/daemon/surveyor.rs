//! The surveyor: a thread that looks at backing objects while they are served, because a look at a
//! file system may wait for as long as that likes.
//!
//! About once a second it looks at the space behind each unit, and, when it is told to, at the size
//! of each object. Devices that change by themselves are looked at each second as well: their size,
//! and whether they are ready. What it finds goes to the unit's home core as [`News`], and into the
//! log where an operator has to know. A unit near its capacity is looked at more often, and one
//! that is slow to tell less often.
//!
//! What was missing at the start is looked for by the [`Finder`]: when it has come, every core
//! attaches it, and behind that initiators are told.
//!
//! When it is told to look at sizes it also reads the configuration file again, for the access
//! states of portal groups: those that the operator has changed there are implicit transitions
//! (SPC-4 §5.15.2) of every unit. States that initiators have set stay where the file says nothing
//! new.
//!
//! It holds objects only while it looks at them, so that it keeps none from being closed. It is one
//! thread: an object that hangs holds up the looks at the others too, and nothing else. Opening
//! what was missing holds up none.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tracing::{error, info, warn};

use super::StartError;
use super::board::Board;
use super::build::{self, Units};
use super::finder::{Finder, Found};
use crate::backend::{Backing, DeviceInfo, Readiness, Size, UnitIndex, Usage};
use crate::config::Config;
use crate::control::ring::{Outbox, Sender};
use crate::reactor::clock;
use crate::reactor::message::{Ask, Asker, ToCore, Wish, home};
use crate::scsi::asymmetric_access::AccessState;
use crate::scsi::provisioning::{Level, Policy};
use crate::scsi::{News, NotReadyReason, ReadyState};

/// How often the space behind a unit is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often at most, where it is nearly spent.
const INTERVAL_MIN: Duration = Duration::from_millis(20);
/// How fast space is taken at most, in bytes a second: what is left bounds the time to the next
/// look.
const FILL_RATE: u64 = 4 << 30;
/// Looks take at most one part in so many of the surveyor's time.
const DUTY: u32 = 20;
/// Differences of usage that are worth a message, in bytes: a threshold set's.
const GRAIN_BYTES: u64 = 1 << 20;
/// How soon it tries again to tell a core whose inbox was full.
const RETRY: Duration = Duration::from_millis(10);
/// How long the end waits for a look that is under way.
const END_MAX: Duration = Duration::from_secs(1);
/// Orders that may wait; one more asks for what is going to happen anyway.
const ORDERS_MAX: usize = 2;

/// The control thread's end.
#[derive(Debug)]
pub(super) struct Surveyor {
    orders: Option<SyncSender<Order>>,
    ended: Receiver<()>,
}

#[derive(Debug)]
enum Order {
    /// Look at everything now, sizes and the configuration file too.
    LookAgain,
    /// This is the configuration file.
    Follow(PathBuf),
}

impl Surveyor {
    /// Starts the thread.
    ///
    /// # Errors
    /// That there is no thread to be had.
    pub(super) fn start(
        config: &Config,
        units: &Units,
        cores: Vec<Sender<ToCore>>,
        board: &Arc<Board>,
    ) -> Result<Self, StartError> {
        let (orders, to_do) = sync_channel(ORDERS_MAX);
        let (end, ended) = sync_channel(1);
        let now = clock::now();
        let names = config.logical_units.iter().map(|unit| &unit.name);
        let objects = units.backings.iter().zip(&units.replicas).zip(names);
        let watched = objects
            .enumerate()
            .filter_map(|(at, ((backing, replica), name))| {
                let unit = UnitIndex(u16::try_from(at).ok()?);
                let policy = replica.provisioning().policy;
                let backing = backing.as_ref()?;
                Some(Watched::new((unit, name), policy, backing, (now, board)))
            });
        let mut rounds = Rounds {
            watched: watched.collect(),
            finder: Finder::new(units.missing.clone(), now),
            came: Vec::new(),
            cores: cores.into_iter().map(Outbox::new).collect(),
            board: Arc::clone(board),
            units: units.replicas.len(),
            file: None,
            access: build::access_states(config),
        };
        std::thread::Builder::new()
            .name("surveyor".into())
            .spawn(move || {
                rounds.run(&to_do);
                let _ = end.send(());
            })
            .map_err(|error| StartError::new(format!("no thread for the surveyor: {error}")))?;
        Ok(Self {
            orders: Some(orders),
            ended,
        })
    }

    /// Has it look at every unit now, at its size too.
    pub(super) fn look_again(&self) {
        if let Some(orders) = &self.orders {
            // A full queue: it is going to look.
            let _ = orders.try_send(Order::LookAgain);
        }
    }

    /// Where the configuration can be read again.
    pub(super) fn follow(&self, file: PathBuf) {
        if let Some(orders) = &self.orders {
            // It goes only if the thread is gone.
            let _ = orders.send(Order::Follow(file));
        }
    }

    /// Ends the thread, unless it is held up by an object.
    pub(super) fn end(&mut self) {
        if self.orders.take().is_some() {
            let _ = self.ended.recv_timeout(END_MAX);
        }
    }
}

/// A unit that is looked at.
#[derive(Debug)]
struct Watched {
    unit: UnitIndex,
    name: String,
    backing: Weak<Backing>,
    policy: Policy,
    /// Bytes in a logical block.
    block_size: u64,
    level: Level,
    /// What its home core knows.
    told: Option<Usage>,
    next: Instant,
    /// The last look failed, which was logged.
    failed: bool,
    /// Why the last look did not find the size, which was logged.
    size_error: Option<Errno>,
    /// The last look found fewer blocks than the unit has, which was logged.
    shrunk: Option<u64>,
    /// Whether the device can be used, as the home core knows it.
    ready: ReadyState,
    /// For those who watch.
    board: Arc<Board>,
    /// How often it was away, and whether that has not been told yet.
    absences: u32,
    was_away: bool,
}

/// The thread's own.
#[derive(Debug)]
struct Rounds {
    watched: Vec<Watched>,
    finder: Finder,
    /// Units whose devices have come, which is to be told once all cores have them.
    came: Vec<(UnitIndex, DeviceInfo)>,
    cores: Vec<Outbox<ToCore>>,
    board: Arc<Board>,
    /// All units, also those without an object.
    units: usize,
    file: Option<PathBuf>,
    /// What the file said last, by tag.
    access: Vec<(u16, AccessState)>,
}

impl Rounds {
    fn run(&mut self, to_do: &Receiver<Order>) {
        loop {
            let sizes_too = match to_do.recv_timeout(self.pause()) {
                Ok(Order::LookAgain) => true,
                Ok(Order::Follow(file)) => {
                    self.file = Some(file);
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for core in &mut self.cores {
                core.retry();
            }
            if sizes_too {
                self.reread();
            }
            for found in self.finder.turn(clock::now(), sizes_too) {
                self.take_in(found);
            }
            self.tell_what_came();
            for watched in &mut self.watched {
                if self.came.iter().any(|(unit, _)| *unit == watched.unit) {
                    // Its home has not heard yet that it has come.
                    continue;
                }
                let now = clock::now();
                let Some(backing) = watched.backing.upgrade() else {
                    // The daemon ends.
                    watched.next = now + INTERVAL;
                    continue;
                };
                let changes = backing.changes_by_itself() && now >= watched.next;
                if changes {
                    watched.look_whether_ready(&backing, &mut self.cores);
                }
                if sizes_too || changes {
                    watched.look_at_size(&backing, sizes_too, &mut self.cores);
                }
                if sizes_too || now >= watched.next {
                    watched.look_at_space(&backing, now, &mut self.cores);
                }
            }
        }
    }

    /// A device has come: every core attaches it.
    fn take_in(&mut self, found: Found) {
        let Found {
            unit,
            name,
            policy,
            backing,
        } = found;
        build::announce(&name, &backing);
        info!(
            unit = name,
            "the unit has its device now, and initiators are told"
        );
        self.came.push((unit, backing.info().clone()));
        let at = (clock::now(), &self.board);
        let watched = Watched::new((unit, &name), policy, &backing, at);
        self.watched.push(watched);
        for core in &mut self.cores {
            let backing = Arc::clone(&backing);
            core.send(ToCore::Attach { unit, backing });
        }
    }

    /// No core hears that a unit is ready before it is told of the device.
    fn tell_what_came(&mut self) {
        if !self.cores.iter().any(Outbox::is_waiting) {
            for (unit, info) in std::mem::take(&mut self.came) {
                tell(unit, News::Device(info), &mut self.cores);
            }
        }
    }

    /// Takes up what the operator has changed in the configuration file.
    fn reread(&mut self) {
        let Some(file) = &self.file else {
            return;
        };
        let access = match Config::load(file) {
            Ok(loaded) => build::access_states(&loaded.config),
            Err(error) => {
                let file = file.display();
                warn!("{file} is not taken up again, it has mistakes (see `check`): {error}");
                return;
            }
        };
        let known = |tag: u16| self.access.iter().find(|(other, _)| *other == tag);
        let changed = access
            .iter()
            .filter(|(tag, state)| known(*tag).is_some_and(|(_, old)| old != state));
        let changed: Vec<_> = changed.copied().collect();
        if changed.is_empty() {
            return;
        }
        for (tag, state) in &changed {
            info!(
                portal_group = tag,
                "the access state is {state:?} now, and initiators are told"
            );
        }
        self.access = access;
        for unit in 0..self.units {
            if let Ok(unit) = u16::try_from(unit) {
                let news = News::AccessStates(changed.clone());
                tell(UnitIndex(unit), news, &mut self.cores);
            }
        }
    }

    /// How long nothing is to be done.
    fn pause(&self) -> Duration {
        if self.cores.iter().any(Outbox::is_waiting) {
            return RETRY;
        }
        let now = clock::now();
        let next = self.watched.iter().map(|watched| watched.next).min();
        let pause = next.map_or(INTERVAL, |next| next.saturating_duration_since(now));
        pause.min(self.finder.pause(now))
    }
}

impl Watched {
    fn new(
        (unit, name): (UnitIndex, &str),
        policy: Policy,
        backing: &Arc<Backing>,
        (now, board): (Instant, &Arc<Board>),
    ) -> Self {
        board.found(unit, backing);
        Self {
            unit,
            name: name.to_owned(),
            backing: Arc::downgrade(backing),
            policy,
            block_size: backing.info().block_size.into(),
            level: Level::default(),
            told: None,
            next: now,
            failed: false,
            size_error: None,
            shrunk: None,
            ready: ReadyState::Ready,
            board: Arc::clone(board),
            absences: backing.absences(),
            was_away: false,
        }
    }

    fn look_whether_ready(&mut self, backing: &Backing, cores: &mut [Outbox<ToCore>]) {
        // In this order: what was away and is ready is back.
        let absences = backing.absences();
        if let Some(news) = self.heard(absences, backing.readiness()) {
            tell(self.unit, news, cores);
        }
    }

    /// What is to be told of a device that was so often away. One that recovers holds what it is
    /// asked, and fails by itself what it cannot hold.
    fn heard(&mut self, absences: u32, readiness: Readiness) -> Option<News> {
        self.was_away |= std::mem::replace(&mut self.absences, absences) != absences;
        let ready = match readiness {
            Readiness::Recovering => return None,
            Readiness::Ready => ReadyState::Ready,
            Readiness::Failed => ReadyState::NotReady(NotReadyReason::Failed),
            Readiness::Absent => ReadyState::NotReady(NotReadyReason::Absent),
        };
        let is_back = ready == ReadyState::Ready && std::mem::take(&mut self.was_away);
        if std::mem::replace(&mut self.ready, ready) == ready && !is_back {
            return None;
        }
        let unit = &self.name;
        match ready {
            ReadyState::Ready if is_back => {
                info!(unit, "the unit is back, and initiators are told");
            }
            ReadyState::Ready => info!(unit, "the unit is ready again"),
            ReadyState::NotReady(reason) => error!(unit, "the unit is not ready: {reason:?}"),
        }
        Some(if is_back {
            News::Returned
        } else {
            News::Ready(ready)
        })
    }

    /// `ordered`: someone wants to read again what was read before.
    fn look_at_size(&mut self, backing: &Backing, ordered: bool, cores: &mut [Outbox<ToCore>]) {
        let (unit, block_size) = (&self.name, self.block_size);
        let bytes = |blocks: u64| blocks.saturating_mul(block_size);
        let looked = backing.look_again();
        let error = looked.as_ref().err().copied();
        let logged = std::mem::replace(&mut self.size_error, error) == error && !ordered;
        match looked {
            Ok(Size::Same) => self.shrunk = None,
            Ok(Size::Grown { from, to }) => {
                self.shrunk = None;
                info!(
                    unit,
                    from_bytes = bytes(from),
                    bytes = bytes(to),
                    "the unit has grown, and initiators are told"
                );
                tell(self.unit, News::Capacity(to), cores);
            }
            Ok(Size::Shrunk { to, .. }) if self.shrunk == Some(to) && !ordered => {}
            Ok(Size::Shrunk { from, to }) => {
                self.shrunk = Some(to);
                warn!(
                    unit,
                    bytes = bytes(from),
                    found_bytes = bytes(to),
                    "the backing object is smaller than the unit, which never shrinks: access to \
                     what is missing fails. Make the object as large as it was"
                );
            }
            Err(_) if logged => {}
            Err(errno) => error!(unit, "the size of the backing object is not known: {errno}"),
        }
    }

    fn look_at_space(&mut self, backing: &Backing, began: Instant, cores: &mut [Outbox<ToCore>]) {
        let usage = match backing.usage() {
            Ok(Some(usage)) => usage,
            Ok(None) => {
                // Asked again only with the sizes, or with what changes by itself.
                self.next = if backing.changes_by_itself() {
                    began + INTERVAL
                } else {
                    began + Duration::from_secs(3600)
                };
                return;
            }
            Err(errno) => {
                if !std::mem::replace(&mut self.failed, true) {
                    let unit = &self.name;
                    error!(unit, "the space behind the unit is not known: {errno}");
                }
                self.next = began + INTERVAL;
                return;
            }
        };
        self.failed = false;
        let available = self.policy.available(usage);
        self.board.measured(self.unit, Usage { available, ..usage });
        let level = self.policy.level(self.level, usage);
        if level.hard != self.level.hard {
            // Before anyone is told: what is refused late has taken space.
            backing.set_limit_reached(level.hard);
        }
        self.log(level, usage);
        let sets = |usage: Usage| (usage.used / GRAIN_BYTES, usage.available / GRAIN_BYTES);
        let worth_it = self.told.map(sets) != Some(sets(usage));
        if worth_it || level != self.level {
            self.told = Some(usage);
            tell(self.unit, News::Usage(usage), cores);
        }
        self.level = level;
        let took = clock::now().saturating_duration_since(began);
        self.next = began + pause(&self.policy, usage, took);
    }

    fn log(&self, level: Level, usage: Usage) {
        let unit = &self.name;
        let (used_bytes, available_bytes) = (usage.used, self.policy.available(usage));
        match (self.level.soft, level.soft) {
            (false, true) => warn!(
                unit,
                used_bytes,
                available_bytes,
                "thin provisioning: the soft threshold is reached, and initiators are told"
            ),
            (true, false) => info!(
                unit,
                used_bytes, available_bytes, "thin provisioning: below the soft threshold again"
            ),
            _ => {}
        }
        match (self.level.hard, level.hard) {
            (false, true) => error!(
                unit,
                used_bytes,
                "thin provisioning: the capacity is used up, and writes that need space fail"
            ),
            (true, false) => info!(
                unit,
                used_bytes, available_bytes, "thin provisioning: there is space for writes again"
            ),
            _ => {}
        }
    }
}

fn tell(unit: UnitIndex, news: News, cores: &mut [Outbox<ToCore>]) {
    let ask = Box::new(Ask {
        asker: Asker::None,
        wish: Wish::News(news),
    });
    cores[home(unit, cores.len())].send(ToCore::Asked { unit, ask });
}

/// How long until the next look, after one that took so long.
fn pause(policy: &Policy, usage: Usage, took: Duration) -> Duration {
    let mut pause = INTERVAL;
    if policy.capacity.is_some() {
        let left_ms = policy.available(usage).saturating_mul(1000) / FILL_RATE;
        pause = pause.min(Duration::from_millis(left_ms)).max(INTERVAL_MIN);
    }
    pause.max(took.saturating_mul(DUTY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Kind, Spec};

    const GIB: u64 = 1 << 30;

    fn usage(used: u64, available: u64) -> Usage {
        Usage { used, available }
    }

    #[test]
    fn a_unit_near_its_capacity_is_looked_at_more_often() {
        let limited = Policy {
            capacity: Some(8 * GIB),
            ..Policy::default()
        };
        let quick = Duration::from_millis(1);
        for (used, ms) in [(0, 1000), (6 * GIB, 500), (8 * GIB - 1, 20), (9 * GIB, 20)] {
            let next = pause(&limited, usage(used, 100 * GIB), quick);
            assert_eq!(next, Duration::from_millis(ms), "{used}");
        }
        let free = Policy::default();
        assert_eq!(pause(&free, usage(9 * GIB, 0), quick), INTERVAL);
    }

    #[test]
    fn a_device_that_comes_late_is_attached_by_all_before_its_home_is_told() {
        let (mut inboxes, mut cores) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (inbox, sender) = crate::control::ring::inbox::<ToCore>().unwrap();
            inboxes.push(inbox);
            cores.push(Outbox::new(sender));
        }
        // The inbox of the first core is full.
        for _ in 0..crate::control::ring::INBOX_CAPACITY {
            cores[0].send(ToCore::End);
        }
        let now = clock::now();
        let mut rounds = Rounds {
            watched: Vec::new(),
            finder: Finder::new(Vec::new(), now),
            came: Vec::new(),
            cores,
            board: Arc::new(Board::new(2, 2, now)),
            units: 2,
            file: None,
            access: Vec::new(),
        };
        let spec = Spec {
            block_size: 4096,
            ..Spec::new(Kind::Null { bytes: 1 << 20 })
        };
        rounds.take_in(Found {
            unit: UnitIndex(1),
            name: "one".into(),
            policy: Policy::default(),
            backing: Backing::open(&spec).unwrap(),
        });
        assert_eq!((rounds.watched.len(), &*rounds.watched[0].name), (1, "one"));
        let is_attached = |inbox: &crate::control::ring::Inbox<ToCore>| {
            let Some(ToCore::Attach { unit, backing }) = inbox.pop() else {
                return false;
            };
            assert_eq!((unit, backing.info().blocks), (UnitIndex(1), 256));
            true
        };
        rounds.tell_what_came();
        assert!(is_attached(&inboxes[1]));
        assert!(inboxes[1].is_empty(), "another core has not heard of it");
        assert_eq!(rounds.pause(), RETRY);
        while let Some(ToCore::End) = inboxes[0].pop() {}
        rounds.cores[0].retry();
        assert!(is_attached(&inboxes[0]));
        rounds.tell_what_came();
        rounds.tell_what_came();
        let Some(ToCore::Asked { unit, ask }) = inboxes[1].pop() else {
            panic!("the home decides");
        };
        assert_eq!(unit, UnitIndex(1));
        let Wish::News(News::Device(info)) = ask.wish else {
            panic!("what it is told is the device");
        };
        assert_eq!((info.block_size, info.blocks), (4096, 256));
        assert!(inboxes.iter_mut().all(|inbox| inbox.is_empty()), "once");
    }

    #[test]
    fn a_return_is_told_whatever_was_seen_of_the_absence() {
        let spec = Spec::new(Kind::Null { bytes: 1 << 20 });
        let backing = Backing::open(&spec).unwrap();
        let policy = Policy::default();
        let now = clock::now();
        let at = (now, &Arc::new(Board::new(1, 1, now)));
        let mut unit = Watched::new((UnitIndex(0), "one"), policy, &backing, at);
        let failed = News::Ready(ReadyState::NotReady(NotReadyReason::Failed));
        let absent = News::Ready(ReadyState::NotReady(NotReadyReason::Absent));
        for (absences, readiness, news) in [
            (0, Readiness::Ready, None),
            (0, Readiness::Recovering, None),
            (0, Readiness::Failed, Some(failed.clone())),
            (0, Readiness::Ready, Some(News::Ready(ReadyState::Ready))),
            // It was gone and came back between two looks.
            (1, Readiness::Ready, Some(News::Returned)),
            (1, Readiness::Ready, None),
            // It was gone, and failed at first when it was back.
            (2, Readiness::Absent, Some(absent)),
            (2, Readiness::Failed, Some(failed)),
            (2, Readiness::Recovering, None),
            (2, Readiness::Ready, Some(News::Returned)),
            (2, Readiness::Ready, None),
            // Gone and back and gone again, and seen while it was back.
            (4, Readiness::Recovering, None),
            (4, Readiness::Recovering, None),
            (4, Readiness::Ready, Some(News::Returned)),
        ] {
            assert_eq!(unit.heard(absences, readiness), news, "{absences}");
        }
    }

    #[test]
    fn a_unit_that_is_slow_to_tell_is_looked_at_less_often() {
        let slow = Duration::from_secs(3);
        let next = pause(&Policy::default(), usage(0, GIB), slow);
        assert_eq!(next, Duration::from_secs(60));
    }
}
