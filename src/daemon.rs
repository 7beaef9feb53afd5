//! Start and stop order of the daemon, and its control thread.
//!
//! ```text
//! start:  digests tested ─► identities ─► backing objects ─► portals bound ─► cores ─► ready
//! stop:   portals closed ─► initiators asked to log out ─► (bound) ─► connections closed,
//!         devices finished and flushed ─► cores ended ─► exit
//! ```
//!
//! The control thread accepts connections and gives each to a core, keeps the session directory,
//! puts what cores tell into words, and feeds systemd's watchdog while every core moves. It never
//! waits for a core.

mod build;
mod narrator;
mod signals;
mod stopper;
mod surveyor;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{error, info, warn};

use crate::backend::{self, Backing, UnitIndex};
use crate::config::{Config, CoreList, Placement, Poll};
use crate::control::directory::Directory;
use crate::control::ring::{Inbox, Outbox, Sender, inbox};
use crate::iscsi::login;
use crate::iscsi::session::{CONNECTIONS_MAX, Guards, Timeouts};
use crate::net::{Listener, Poller, Ready, Stream};
use crate::reactor::message::{ToControl, ToCore};
use crate::reactor::{Heartbeat, Plan, Polling, Reactor, affinity, clock, fill_random};
use crate::scsi::NonVolatile;
use crate::state::StateDir;
use narrator::Narrator;
pub use signals::Signals;
pub use stopper::Stopper;
use surveyor::Surveyor;

/// Connections accepted from one portal in one turn.
const ACCEPT_BURST: usize = 64;
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

/// Given a unit's name and its backing object: what is served in its place.
#[cfg(any(test, feature = "testing"))]
pub type Wrap = Box<dyn Fn(&str, Arc<Backing>) -> Arc<Backing>>;

/// What tests change about a daemon. The default changes nothing.
#[derive(Default)]
pub struct Hooks {
    /// Replaces the backing object of a unit, by its name, with what is served in its place.
    #[cfg(any(test, feature = "testing"))]
    pub wrap: Option<Wrap>,
    /// Takes the place of the kernel's random source in logins.
    #[cfg(any(test, feature = "testing"))]
    pub random: Option<fn(&mut [u8])>,
    /// The core that the next connections are given to, whatever the configuration says.
    #[cfg(any(test, feature = "testing"))]
    pub place: Option<Arc<AtomicUsize>>,
    /// Guards that a test can take away.
    pub guards: Arc<Guards>,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooks")
    }
}

impl Hooks {
    /// Hooks by environment, for tests that run the binary: `IIBD_TEST_NO_FLUSH=1` switches flushes
    /// and FUA off, so that a test of durability is seen to fail. No other build looks at it.
    #[cfg(any(test, feature = "testing"))]
    fn from_environment() -> Self {
        if std::env::var_os("IIBD_TEST_NO_FLUSH").is_none_or(|value| value != "1") {
            return Self::default();
        }
        warn!("IIBD_TEST_NO_FLUSH: acknowledged writes are NOT durable");
        let faults = Arc::new(backend::Faults::default());
        faults.drop_durability(true);
        let wrap = move |_: &str, backing| Backing::with_faults(&backing, Arc::clone(&faults));
        Self {
            wrap: Some(Box::new(wrap)),
            ..Self::default()
        }
    }

    #[cfg(not(any(test, feature = "testing")))]
    fn from_environment() -> Self {
        Self::default()
    }

    #[cfg(any(test, feature = "testing"))]
    fn wrap(&self, name: &str, backing: Arc<Backing>) -> Arc<Backing> {
        match &self.wrap {
            Some(wrap) => wrap(name, backing),
            None => backing,
        }
    }

    #[cfg(any(test, feature = "testing"))]
    fn place(&self) -> Option<Arc<AtomicUsize>> {
        self.place.clone()
    }

    #[cfg(not(any(test, feature = "testing")))]
    #[expect(clippy::unused_self, reason = "only tests change anything")]
    fn place(&self) -> Option<Arc<AtomicUsize>> {
        None
    }

    #[cfg(any(test, feature = "testing"))]
    fn random(&self) -> fn(&mut [u8]) {
        self.random.unwrap_or(fill_random)
    }

    #[cfg(not(any(test, feature = "testing")))]
    #[expect(clippy::unused_self, reason = "only tests change anything")]
    fn random(&self) -> fn(&mut [u8]) {
        fill_random
    }

    #[cfg(not(any(test, feature = "testing")))]
    #[expect(clippy::unused_self, reason = "only tests change anything")]
    fn wrap(&self, _name: &str, backing: Arc<Backing>) -> Arc<Backing> {
        backing
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
    watchdog: Option<Duration>,
    next_watchdog: Instant,
    last_turns: Vec<u64>,
    /// By unit: under which name its state is kept.
    unit_uuids: Vec<[u8; 16]>,
    state: StateDir,
    surveyor: Surveyor,
}

#[derive(Debug)]
struct CoreHandle {
    outbox: Outbox<ToCore>,
    thread: Option<std::thread::JoinHandle<()>>,
    heartbeat: Arc<Heartbeat>,
    connections: usize,
    stopped: bool,
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
        crate::pdu::self_test().map_err(StartError::new)?;
        let units = build::units(config, &state, hooks)?;
        let listeners = bind(config)?;
        let nodes = build::nodes(config, &listeners)?;
        let (inbox, own) = inbox().map_err(|error| StartError::new(error.to_string()))?;
        let cpus = cpus(config)?;
        let uuid = |unit: &crate::scsi::LogicalUnit| *unit.identity().uuid();
        let unit_uuids = units.replicas.iter().map(uuid).collect();
        let cores = Self::start_cores(config, &cpus, &units, &nodes, &own, hooks)?;
        let names = config.logical_units.iter().map(|unit| unit.name.clone());
        let senders = cores.iter().map(|core| core.outbox.sender()).collect();
        let surveyor = Surveyor::start(config, &units, senders)?;
        let mut poller = Poller::new().map_err(|error| StartError::new(error.to_string()))?;
        watch(&mut poller, &listeners, &inbox)?;
        let watchdog = sd_notify::watchdog_enabled().map(|interval| interval / 2);
        Ok(Self {
            listeners,
            poller,
            inbox,
            own,
            placement: config.cores.placement,
            place: hooks.place(),
            directory: Directory::new(cores.len(), config.limits.sessions),
            admissions: 0,
            narrator: Narrator::new(names.collect(), clock::now()),
            surveyor,
            shutdown_timeout: config.daemon.shutdown_timeout,
            deadline: None,
            phase: Phase::Serving,
            deaf_until: None,
            watchdog,
            next_watchdog: clock::now(),
            last_turns: vec![0; cores.len()],
            cores,
            unit_uuids,
            state,
        })
    }

    fn start_cores(
        config: &Config,
        cpus: &[Option<usize>],
        units: &build::Units,
        nodes: &Arc<crate::iscsi::node::Nodes>,
        control: &Sender<ToControl>,
        hooks: &Hooks,
    ) -> Result<Vec<CoreHandle>, StartError> {
        let count = cpus.len();
        let (mut inboxes, mut senders) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for _ in 0..count {
            let (inbox, sender) = inbox().map_err(|error| StartError::new(error.to_string()))?;
            inboxes.push(inbox);
            senders.push(sender);
        }
        let mut handles = Vec::with_capacity(count);
        for (core, inbox) in inboxes.into_iter().enumerate() {
            let heartbeat = Arc::new(Heartbeat::default());
            let plan = Plan {
                core,
                cpu: cpus[core],
                polling: polling(config),
                pool_bytes: config.memory.pool_bytes_per_core,
                pages: build::pages(config.memory.pages),
                nodes: Arc::clone(nodes),
                units: units
                    .replicas
                    .iter()
                    .map(|unit| unit.replica(core))
                    .collect(),
                backings: units.backings.clone(),
                backend: backend::Options {
                    units: u16::try_from(units.replicas.len())
                        .unwrap_or(u16::MAX)
                        .max(1),
                    ..backend::Options::default()
                },
                timeouts: timeouts(config),
                login_timeout: config.limits.login_timeout,
                random: hooks.random(),
                login_limits: login::Limits {
                    // No task outlives its connection at ErrorRecoveryLevel 0.
                    default_time2retain_s: 0,
                    // What every session opens with, however short memory is: MaxCmdSN may not go
                    // back in the final response.
                    command_window: 1,
                    ..login::Limits::default()
                },
                greetings_max: (config.limits.unauthenticated_connections / count).max(1),
                joined_max: (config.limits.sessions / count).max(CONNECTIONS_MAX.into()),
                inbox,
                cores: senders.clone(),
                control: control.clone(),
                heartbeat: Arc::clone(&heartbeat),
                guards: Arc::clone(&hooks.guards),
            };
            let thread = start_core(plan)?;
            handles.push(CoreHandle {
                outbox: Outbox::new(senders[core].clone()),
                thread: Some(thread),
                heartbeat,
                connections: 0,
                stopped: false,
            });
        }
        Ok(handles)
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .map(|(listener, _)| listener.address())
            .collect()
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
            self.feed_watchdog(now);
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

    fn place(&mut self, stream: Stream, portal_group_tag: u16) {
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

    fn core_for(&self, stream: &Stream) -> usize {
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

    fn drain_inbox(&mut self, now: Instant) {
        while let Some(message) = self.inbox.pop() {
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
                ToControl::Gone { core } => {
                    let connections = &mut self.cores[core].connections;
                    *connections = connections.saturating_sub(1);
                }
                ToControl::Moved { from, to } => {
                    let connections = &mut self.cores[from].connections;
                    *connections = connections.saturating_sub(1);
                    self.cores[to].connections += 1;
                }
                ToControl::Tell(event) => self.narrator.tell(*event, now),
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
                    for core in &mut self.cores {
                        core.outbox.send(ToCore::End);
                    }
                    for core in &mut self.cores {
                        while core.outbox.is_waiting() {
                            core.outbox.retry();
                            std::thread::yield_now();
                        }
                        if let Some(thread) = core.thread.take() {
                            let _ = thread.join();
                        }
                    }
                    self.surveyor.end();
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

    fn feed_watchdog(&mut self, now: Instant) {
        let Some(interval) = self.watchdog else {
            return;
        };
        if now < self.next_watchdog {
            return;
        }
        self.next_watchdog = now + interval;
        let turns: Vec<_> = self
            .cores
            .iter()
            .map(|core| core.heartbeat.turns())
            .collect();
        let moves = turns
            .iter()
            .zip(&self.last_turns)
            .all(|(now, last)| now != last);
        if moves {
            notify(&[sd_notify::NotifyState::Watchdog]);
        } else {
            warn!("a data core does not turn: the watchdog is not fed");
        }
        self.last_turns = turns;
    }
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    // Without systemd there is nobody to tell.
    if let Err(error) = sd_notify::notify(states) {
        error!(%error, "systemd could not be notified");
    }
}

fn polling(config: &Config) -> Polling {
    match config.cores.poll {
        Poll::Adaptive => Polling::Adaptive,
        Poll::Busy => Polling::Busy,
    }
}

fn timeouts(config: &Config) -> Timeouts {
    Timeouts {
        ping_interval: config.limits.nop_interval,
        ping_timeout: config.limits.nop_timeout,
        no_progress: config.limits.no_progress_timeout,
    }
}

/// A core that panics has state that nobody can trust, and other cores wait for it: the process
/// ends, and whoever supervises it starts it again. (Logins of strangers are guarded one by one,
/// inside.)
fn run_or_abort(core: usize, reactor: Reactor) {
    if std::panic::catch_unwind(AssertUnwindSafe(|| reactor.run())).is_err() {
        error!(core, "a data core panicked: the process ends");
        std::process::abort();
    }
}

fn start_core(plan: Plan) -> Result<std::thread::JoinHandle<()>, StartError> {
    let core = plan.core;
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(format!("core-{core}"))
        .spawn(move || match Reactor::new(plan) {
            Ok(reactor) => {
                let _ = tell.send(Ok(()));
                run_or_abort(core, reactor);
            }
            Err(message) => {
                let _ = tell.send(Err(message));
            }
        })
        .map_err(|error| StartError::new(format!("core {core}: {error}")))?;
    match told.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(message)) => Err(StartError::new(format!("core {core}: {message}"))),
        Err(_) => Err(StartError::new(format!(
            "core {core} ended while it started"
        ))),
    }
}

/// Which CPU each core is pinned to, if any.
fn cpus(config: &Config) -> Result<Vec<Option<usize>>, StartError> {
    let available = affinity::available();
    let wanted = match &config.cores.list {
        CoreList::List(list) => list.clone(),
        CoreList::Count(count) => {
            // The first CPUs are left to the kernel, the control thread and everybody else.
            let skip = available.len().saturating_sub(*count);
            available
                .iter()
                .copied()
                .skip(skip)
                .chain(available.iter().copied().cycle())
                .take(*count)
                .collect()
        }
    };
    if !config.cores.pin {
        return Ok(vec![None; wanted.len()]);
    }
    if let Some(cpu) = wanted.iter().find(|cpu| !available.contains(cpu)) {
        return Err(StartError::new(format!(
            "cores.list: CPU {cpu} is not one of those that this process may use ({available:?})\n  help: \
             choose from these, or set pin = false"
        )));
    }
    Ok(wanted.into_iter().map(Some).collect())
}

fn bind(config: &Config) -> Result<Vec<(Listener, u16)>, StartError> {
    let mut listeners = Vec::new();
    for group in &config.portal_groups {
        for portal in &group.portals {
            match Listener::bind(portal.address) {
                Ok(listener) => listeners.push((listener, group.tag)),
                Err(error) if portal.optional => {
                    info!(address = %portal.address, %error, "this portal is left out");
                }
                Err(error) => {
                    return Err(StartError::new(format!(
                        "portal_group {}: portals: cannot listen on {}: {error}\n  help: {}",
                        group.tag,
                        portal.address,
                        bind_remedy(&error, portal.address),
                    )));
                }
            }
        }
    }
    Ok(listeners)
}

fn bind_remedy(error: &std::io::Error, address: SocketAddr) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!(
                "another program listens there (`ss -ltnp sport = :{}` names it)",
                address.port()
            )
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has that address".to_owned()
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => "choose another address".to_owned(),
    }
}

fn watch(
    poller: &mut Poller,
    listeners: &[(Listener, u16)],
    inbox: &Inbox<ToControl>,
) -> Result<(), StartError> {
    for (at, (listener, _)) in listeners.iter().enumerate() {
        poller
            .add(&listener.as_fd(), at as u64)
            .map_err(|error| StartError::new(format!("epoll: {error}")))?;
    }
    poller
        .add(&inbox.doorbell(), DOORBELL)
        .map_err(|error| StartError::new(format!("epoll: {error}")))
}
