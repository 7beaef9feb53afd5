//! Start and stop order of the daemon, and its control thread.
//!
//! ```text
//! start:  digests tested ─► identities ─► backing objects ─► ports opened ─► portals bound
//!         ─► cores ─► ready
//! stop:   portals closed ─► initiators asked to log out ─► (bound) ─► connections closed,
//!         devices finished and flushed, flows at their end ─► cores ended ─► ports closed ─► exit
//! ```
//!
//! The control thread accepts connections and gives each to a core, keeps the session directory,
//! puts what cores tell into words, says when a core stands still, and feeds systemd's watchdog
//! while none does. It never waits for a core.

mod board;
mod build;
mod cores;
mod finder;
mod hooks;
mod measures;
mod narrator;
mod portals;
mod ports;
mod signals;
mod stopper;
mod surveyor;
#[cfg(test)]
mod tests;
mod watchdog;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{error, info, warn};

use crate::api::Api;
use crate::backend::{Backing, UnitIndex};
use crate::config::{Config, Placement};
use crate::control::directory::Directory;
use crate::control::ring::{Inbox, Sender, inbox};
use crate::net::{Listener, Poller, Ready, host};
use crate::reactor::clock;
use crate::reactor::message::{ToControl, ToCore};
use crate::scsi::NonVolatile;
use crate::state::StateDir;
use board::Board;
use cores::CoreHandle;
pub use hooks::Hooks;
#[cfg(any(test, feature = "testing"))]
pub use hooks::Wrap;
use measures::Measures;
use narrator::Narrator;
use ports::Devices;
pub use signals::Signals;
pub use stopper::Stopper;
use surveyor::Surveyor;
use watchdog::Watchdog;

/// Connections accepted from one portal in one turn.
const ACCEPT_BURST: usize = 64;
/// Messages that the control thread handles in one turn.
const INBOX_BURST: usize = 256;
/// How long no connection is accepted after accepting has failed.
const DEAF: Duration = Duration::from_millis(100);
/// How long the control thread sleeps at most.
const TURN_MAX: Duration = Duration::from_millis(500);
/// What cores may take at least to finish at their devices when everything is closed, however short
/// the configured bound is.
const FINISH_MIN: Duration = Duration::from_secs(2);

/// Why the daemon could not start or had to give up.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    message: String,
}

impl StartError {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }
}

/// Serves `config` until a signal ends it; SIGHUP has it read `file` again. Calls `on_ready` once,
/// with the addresses that it listens on, when logins are taken.
///
/// # Errors
/// What could not be started, with the remedy.
pub fn run(
    config: &Config,
    state: StateDir,
    file: Option<&Path>,
    on_ready: impl FnOnce(&Config, &[SocketAddr]),
) -> Result<(), StartError> {
    // Signals first: one that comes during the start ends the daemon in order too.
    let signals = Signals::catch()?;
    raise_descriptor_limit();
    // A file size limit makes writes fail with EFBIG, and its signal would end the process first.
    signal_hook::flag::register(libc::SIGXFSZ, Arc::default())
        .map_err(|error| StartError::new(format!("signals cannot be caught: {error}")))?;
    let daemon = Daemon::start(config, state, &Hooks::from_environment())?;
    if let Some(file) = file {
        daemon.follow(file.to_owned());
    }
    on_ready(config, &daemon.addresses());
    info!("ready for logins");
    notify(&[sd_notify::NotifyState::Ready]);
    daemon.serve(Some(&signals))
}

/// Each session needs a descriptor, and the usual soft limit of 1024 is meant for programs that
/// `select`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "the limit of open files stays as it is");
    }
}

/// A daemon whose cores run and whose portals listen.
#[derive(Debug)]
pub struct Daemon {
    listeners: Vec<(Listener, u16)>,
    /// All portals, those of ports too.
    addresses: Vec<(SocketAddr, u16)>,
    poller: Poller,
    inbox: Inbox<ToControl>,
    own: Sender<ToControl>,
    cores: Vec<CoreHandle>,
    placement: Placement,
    /// Set by tests alone.
    place: Option<Arc<AtomicUsize>>,
    directory: Directory,
    /// Logins that the directory has decided about.
    admissions: u64,
    narrator: Narrator,
    shutdown_timeout: Duration,
    deadline: Option<Instant>,
    phase: Phase,
    /// Accepting has failed: portals are not watched until then.
    deaf_until: Option<Instant>,
    watchdog: Watchdog,
    /// When the cores were started.
    began: Instant,
    /// By unit: under which name its state is kept.
    unit_uuids: Vec<[u8; 16]>,
    state: StateDir,
    surveyor: Surveyor,
    /// For those who watch.
    board: Arc<Board>,
    /// Where they ask.
    api: Option<Api>,
    /// What ports need as long as any core has one.
    devices: Devices,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Serving,
    /// Initiators were asked to log out.
    Quiescing {
        until: Instant,
    },
    /// Connections are closed; devices finish.
    Finishing {
        until: Instant,
    },
    /// A second signal: nothing is waited for.
    AtOnce,
}

const DOORBELL: u64 = u64::MAX;
const SIGNALS: u64 = u64::MAX - 1;
const HANG_UP: u64 = u64::MAX - 2;

impl Daemon {
    /// Starts cores and portals.
    ///
    /// # Errors
    /// What could not be started, with the key, the value and the remedy.
    pub fn start(config: &Config, state: StateDir, hooks: &Hooks) -> Result<Self, StartError> {
        // What was opened is closed again in order.
        Self::begin(config, state, hooks).inspect_err(|_| Backing::finish_all())
    }

    fn begin(config: &Config, state: StateDir, hooks: &Hooks) -> Result<Self, StartError> {
        crate::pdu::self_test().map_err(StartError::new)?;
        let units = build::units(config, &state, hooks)?;
        let (ports, devices) = ports::open(config, hooks)?;
        let portals = portals::bind(config)?;
        let endpoint = measures::listen(config)?;
        let nodes = build::nodes(config, &portals.addresses)?;
        let (inbox, own) = inbox().map_err(|error| StartError::new(error.to_string()))?;
        let uuid = |unit: &crate::scsi::LogicalUnit| *unit.identity().uuid();
        let unit_uuids = units.replicas.iter().map(uuid).collect();
        let served = cores::Served {
            units: &units,
            nodes: &nodes,
            ports,
        };
        let mut poller = Poller::new().map_err(|error| StartError::new(error.to_string()))?;
        portals::watch(&mut poller, &portals.listeners, &inbox)?;
        let mut cores = cores::start(config, served, &own, hooks)?;
        let names = config.logical_units.iter().map(|unit| unit.name.clone());
        let senders = cores.iter().map(|core| core.outbox.sender()).collect();
        let board = Board::new(cores.len(), units.replicas.len(), clock::now());
        let board = Arc::new(board);
        let surveyor = Surveyor::start(config, &units, senders, &board);
        let surveyor = surveyor.inspect_err(|_| cores::end(&mut cores))?;
        let hearts = cores.iter().map(|core| Arc::clone(&core.heartbeat));
        let measures = Measures::new(config, &board, hearts.collect());
        let api = endpoint.map(|at| measures::start(at, measures, cores::data_cpus(config)));
        let api = api.transpose().inspect_err(|_| cores::end(&mut cores))?;
        let interval = sd_notify::watchdog_enabled().map(|interval| interval / 2);
        Ok(Self {
            listeners: portals.listeners,
            addresses: portals.addresses,
            poller,
            inbox,
            own,
            placement: config.cores.placement,
            place: hooks.place(),
            directory: Directory::new(cores.len(), config.limits.sessions),
            admissions: 0,
            narrator: Narrator::new(names.collect(), clock::now()),
            surveyor,
            board,
            api,
            shutdown_timeout: config.daemon.shutdown_timeout,
            deadline: None,
            phase: Phase::Serving,
            deaf_until: None,
            watchdog: Watchdog::new(cores.len(), interval, clock::now()),
            began: clock::now(),
            cores,
            unit_uuids,
            state,
            devices,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.iter().map(|(address, _)| *address).collect()
    }

    /// Where its metrics are, if they are anywhere.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.api.as_ref().map(Api::address)
    }

    /// Where its configuration comes from: read again when it is told to look again.
    pub fn follow(&self, file: PathBuf) {
        self.surveyor.follow(file);
    }

    /// A way to end it from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.own.clone())
    }

    /// Serves until told to stop, by `signals` or by a [`Stopper`].
    ///
    /// # Errors
    /// That it was ended before it had finished.
    pub fn serve(mut self, signals: Option<&Signals>) -> Result<(), StartError> {
        if let Some(signals) = signals {
            signals
                .watch(&mut self.poller, SIGNALS, HANG_UP)
                .map_err(|error| StartError::new(error.to_string()))?;
        }
        let mut ready: Vec<Ready> = Vec::new();
        loop {
            let timeout = match (self.inbox.prepare_sleep(), self.deaf_until) {
                (false, _) => Duration::ZERO,
                (true, None) => TURN_MAX,
                (true, Some(_)) => DEAF,
            };
            self.poller
                .poll(Some(timeout), &mut ready)
                .map_err(|error| StartError::new(format!("epoll: {error}")))?;
            self.inbox.awake();
            let now = clock::now();
            for event in &ready {
                match event.key {
                    DOORBELL => {}
                    SIGNALS => self.signalled(signals, now),
                    HANG_UP => self.hung_up(signals),
                    at => self.accept(usize::try_from(at).expect("an index of ours"), now),
                }
            }
            self.drain_inbox(now);
            if self.deaf_until.is_some_and(|until| now >= until) {
                self.deaf_until = None;
                self.listen(true);
            }
            for core in &mut self.cores {
                core.outbox.retry();
            }
            self.narrator.turn(now);
            self.watch_cores(now);
            if let Some(end) = self.proceed(now) {
                return end;
            }
        }
    }

    fn signalled(&mut self, signals: Option<&Signals>, now: Instant) {
        for _ in 0..signals.map_or(0, Signals::ends) {
            self.shut_down(now);
        }
    }

    fn hung_up(&mut self, signals: Option<&Signals>) {
        if signals.is_some_and(Signals::hung_up) {
            info!("SIGHUP: the backing objects are looked at again");
            self.surveyor.look_again();
        }
    }

    /// Watches the portals, or leaves who comes to the kernel's queue.
    fn listen(&mut self, on: bool) {
        for (at, (listener, _)) in self.listeners.iter().enumerate() {
            if let Err(error) = self.poller.watch(&listener.as_fd(), at as u64, on, false) {
                self.narrator
                    .trouble(&format!("a portal cannot be watched: {error}"));
            }
        }
    }

    fn accept(&mut self, at: usize, now: Instant) {
        // A core that does not keep up gets no more: what it has to see before them is bounded
        // then.
        if self.cores.iter().any(|core| core.outbox.is_waiting()) {
            return;
        }
        for _ in 0..ACCEPT_BURST {
            let Some((listener, tag)) = self.listeners.get(at) else {
                return;
            };
            let tag = *tag;
            match listener.accept() {
                Ok(Some(stream)) => self.place(stream, tag),
                Ok(None) => return,
                Err(error) => {
                    let address = listener.address();
                    self.narrator.trouble(&format!(
                        "{address}: a connection was not accepted: {error}"
                    ));
                    // No descriptor is free, say: it would fail again at once.
                    self.deaf_until = Some(now + DEAF);
                    self.listen(false);
                    return;
                }
            }
        }
    }

    fn place(&mut self, stream: host::Stream, portal_group_tag: u16) {
        let chosen = self.place.as_ref();
        let chosen = chosen.map(|core| core.load(Ordering::Acquire) % self.cores.len());
        let core = chosen.unwrap_or_else(|| self.core_for(&stream));
        let core = &mut self.cores[core];
        core.connections += 1;
        core.outbox.send(ToCore::Accepted {
            stream,
            portal_group_tag,
        });
    }

    fn core_for(&self, stream: &host::Stream) -> usize {
        match self.placement {
            Placement::Least => {
                let loads = self.cores.iter().map(|core| core.connections).enumerate();
                loads
                    .min_by_key(|(_, load)| *load)
                    .map_or(0, |(core, _)| core)
            }
            Placement::Hash => {
                let mut hasher = DefaultHasher::new();
                stream.peer().hash(&mut hasher);
                usize::try_from(hasher.finish() % self.cores.len() as u64).unwrap_or(0)
            }
        }
    }

    /// What is left is for the next turn, which does not wait then.
    fn drain_inbox(&mut self, now: Instant) {
        for _ in 0..INBOX_BURST {
            let Some(message) = self.inbox.pop() else {
                return;
            };
            match message {
                ToControl::Admit {
                    core,
                    key,
                    admission,
                } => {
                    let name = admission.name.clone();
                    let verdict = self.directory.admit(admission);
                    self.admissions += 1;
                    self.cores[core].outbox.send(ToCore::Placed {
                        key,
                        verdict,
                        order: self.admissions,
                        name,
                    });
                }
                ToControl::Opened { tsih, core } => {
                    if !self.directory.knows(tsih) {
                        self.cores[core].outbox.send(ToCore::Forgotten { tsih });
                    }
                }
                ToControl::Ended { tsih, core } => self.directory.ended(tsih, core),
                ToControl::Arrived { core } => self.cores[core].connections += 1,
                ToControl::Gone { core } => {
                    let connections = &mut self.cores[core].connections;
                    *connections = connections.saturating_sub(1);
                }
                ToControl::Moved { from, to } => {
                    let connections = &mut self.cores[from].connections;
                    *connections = connections.saturating_sub(1);
                    self.cores[to].connections += 1;
                }
                ToControl::Tell(event) => {
                    self.board.tell(&event);
                    self.narrator.tell(*event, now);
                }
                ToControl::Save { unit, core, state } => self.save(unit, core, &state),
                ToControl::Stopped { core } => self.cores[core].stopped = true,
                ToControl::LookAgain => self.surveyor.look_again(),
                ToControl::Shutdown => self.shut_down(now),
            }
        }
    }

    /// Writes what a unit's home has decided, and tells it.
    fn save(&mut self, unit: UnitIndex, core: usize, state: &NonVolatile) {
        let uuid = &self.unit_uuids[usize::from(unit.0)];
        let kept = self.state.keep_unit(uuid, state);
        if let Err(error) = &kept {
            error!("a change of a logical unit is refused, it cannot be kept: {error}");
        }
        let saved = kept.is_ok();
        self.cores[core].outbox.send(ToCore::Saved { unit, saved });
    }

    /// The first call ends the daemon in order, the second at once.
    fn shut_down(&mut self, now: Instant) {
        if self.phase != Phase::Serving {
            self.phase = Phase::AtOnce;
            return;
        }
        let seconds = u16::try_from(self.shutdown_timeout.as_secs()).unwrap_or(u16::MAX);
        info!(
            sessions = self.directory.len(),
            "stopping: initiators are asked to log out"
        );
        notify(&[sd_notify::NotifyState::Stopping]);
        for (listener, _) in self.listeners.drain(..) {
            // Closing the socket takes it out of the poller too.
            drop(listener);
        }
        for core in &mut self.cores {
            core.outbox.send(ToCore::Quiesce { seconds });
        }
        // A quarter of the bound is left for what is at the devices, and for the last flush.
        self.deadline = Some(now + self.shutdown_timeout);
        self.phase = Phase::Quiescing {
            until: now + self.shutdown_timeout * 3 / 4,
        };
    }

    /// Goes from one phase of the end to the next. `Some`: it is over.
    fn proceed(&mut self, now: Instant) -> Option<Result<(), StartError>> {
        match self.phase {
            Phase::Serving => None,
            Phase::Quiescing { until } => {
                if self.directory.is_empty() || now >= until {
                    for core in &mut self.cores {
                        core.outbox.send(ToCore::Stop);
                    }
                    let until = self.deadline.unwrap_or(now).max(now + FINISH_MIN);
                    self.phase = Phase::Finishing { until };
                }
                None
            }
            Phase::Finishing { until } => {
                if self.cores.iter().all(|core| core.stopped) {
                    // First: a device that it has found late is with a core, or with nobody.
                    self.surveyor.end();
                    cores::end(&mut self.cores);
                    self.tell_use(now);
                    self.devices.close();
                    self.api = None;
                    Backing::finish_all();
                    self.narrator.finish();
                    info!("stopped");
                    return Some(Ok(()));
                }
                (now >= until).then(|| {
                    Err(StartError::new(
                        "a device did not finish its work; the daemon ends without it",
                    ))
                })
            }
            Phase::AtOnce => Some(Err(StartError::new("ended at once by a second signal"))),
        }
    }

    /// What cores had to do: one that polls takes its CPU whole.
    fn tell_use(&self, now: Instant) {
        let whole = now.saturating_duration_since(self.began);
        for (core, handle) in self.cores.iter().enumerate() {
            let busy = handle.heartbeat.busy();
            info!(
                core,
                turns = handle.heartbeat.turns(),
                "core {core} was at work for {:.3} s of {:.3}",
                busy.as_secs_f64(),
                whole.as_secs_f64()
            );
        }
    }

    fn watch_cores(&mut self, now: Instant) {
        for (at, core) in self.cores.iter().enumerate() {
            let (turns, asleep) = (core.heartbeat.turns(), core.outbox.receiver_sleeps());
            if let Some(word) = self.watchdog.look(at, turns, asleep, now) {
                word.log();
            }
            let sessions = self.directory.per_core()[at];
            let stands = self.watchdog.stands(at);
            self.board.core(at, core.connections, sessions, stands);
        }
        self.board.turn(now, self.phase == Phase::Serving);
        if self.watchdog.feeds(now) {
            notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    // Without systemd there is nobody to tell.
    if let Err(error) = sd_notify::notify(states) {
        error!(%error, "systemd could not be notified");
    }
}
