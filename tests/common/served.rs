//! A daemon in this process, for tests that talk to it over TCP.
//!
//! Ports are the kernel's choice, no core is pinned, every daemon has a folder of its own. Two ways
//! to start one: [`Served::start`] from a [`Config`], where every disk has switchable faults and
//! the test says which core a connection goes to; [`Served::from_toml`] from a configuration file,
//! where nothing is in the way but what the test's hooks put there. When a [`Served`] goes, the
//! daemon is stopped in order and must end well: a core asserts then that every buffer has come
//! back to its pool, so each test that uses this checks that as well.

#![allow(dead_code, reason = "each test file uses its own part of this")]

#[path = "relay.rs"]
pub(crate) mod relay;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use iiblockdaemon::backend::{Backing, Faults};
use iiblockdaemon::config::{
    Access, Auth, Backend, Config, CoreList, Cores, Device, DigestPolicy, Limits, LogicalUnit,
    LunMap, Memory, Pages, Placement, Poll, Port, Portal, PortalGroup, ReservationMatching, Target,
    TargetState, Thin,
};
use iiblockdaemon::daemon::{Daemon, Hooks, StartError, Stopper};
use iiblockdaemon::iscsi::names::IscsiName;
use iiblockdaemon::iscsi::session::{Guard, Guards};
use iiblockdaemon::port::{IdlePort, memory};
use iiblockdaemon::state::StateDir;
use iiblockdaemon::testing::tcp::{Failure, TcpInitiator};
use iiblockdaemon::testing::{self, Chap, ChapEncoding, ChapFault, Command, Nop};
use relay::Relay;
use tempfile::TempDir;

pub(crate) const TARGET: &str = "iqn.2026-11.io.iiblockdaemon:disk0";
pub(crate) const INITIATOR: &str = "iqn.2026-11.io.iiblockdaemon.test:a";
/// The longest wait for anything.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const BLOCK: u32 = 512;
pub(crate) const DISK_BYTES: u64 = 16 << 20;
/// Turns of [`until`] before it gives up; each is a round trip.
const ROUND_TRIPS_MAX: usize = 100_000;

/// A daemon that serves. What a test switches (`faults`, `guards`, the next core) is in the way of
/// one that was started from a [`Config`].
pub(crate) struct Served {
    pub(crate) addresses: Vec<SocketAddr>,
    /// Where its metrics are, if they are anywhere.
    pub(crate) metrics: Option<SocketAddr>,
    /// Of each unit, in the order of the configuration.
    pub(crate) faults: Vec<Arc<Faults>>,
    pub(crate) guards: Arc<Guards>,
    place: Option<Arc<AtomicUsize>>,
    /// The way to a daemon that is at the other end of a port.
    pub(crate) relay: Option<Relay>,
    stopper: Stopper,
    thread: Option<JoinHandle<Result<(), StartError>>>,
    dir: TempDir,
}

/// Part of the names of test programs whose daemons are reached by frames: there,
/// [`Served::start`] puts the portal on a port in memory with a queue for each core.
const OVER_FRAMES: &str = "over_frames";
/// The name of that port.
pub(crate) const MEMORY_PORT: &str = "memory";

/// A cable in memory between a device of the daemon's and one of the initiators'.
pub(crate) fn cable() -> memory::Config {
    memory::Config {
        mtu: 9000,
        ring: 512,
        buffers: 1024,
        overflow: memory::Overflow::Miss,
        wakes: true,
        ..memory::Config::default()
    }
}

/// Puts the portal of `config` on a port whose queues are polled by `cores`.
pub(crate) fn put_on_port(config: &mut Config, cores: Vec<usize>) {
    config.ports = vec![Port {
        name: MEMORY_PORT.into(),
        // Never opened: the test has queues in its place.
        device: Device::Tap(MEMORY_PORT.into()),
        cores,
        mtu: cable().mtu,
        promiscuous: false,
        networks: vec![relay::network(relay::SERVER)],
        keepalive: Duration::from_secs(30),
        user_timeout: Duration::from_secs(60),
    }];
    config.portal_groups[0].portals = vec![Portal {
        address: (relay::SERVER, relay::PORT).into(),
        port: Some(0),
        optional: false,
    }];
}

/// What a test can switch while a daemon serves.
#[derive(Default)]
struct Switches {
    faults: Vec<Arc<Faults>>,
    guards: Arc<Guards>,
    place: Option<Arc<AtomicUsize>>,
}

/// Two memory disks at LUN 0 and 1 of one target, one core, one portal.
pub(crate) fn config() -> Config {
    let loopback = Portal {
        address: "127.0.0.1:0".parse().unwrap(),
        port: None,
        optional: false,
    };
    Config {
        daemon: iiblockdaemon::config::Daemon {
            state_dir: PathBuf::new(),
            shutdown_timeout: Duration::ZERO,
            management_url: None,
        },
        cores: Cores {
            list: CoreList::Count(1),
            pin: false,
            poll: Poll::Adaptive,
            placement: Placement::Least,
        },
        memory: Memory {
            pool_bytes_per_core: 32 << 20,
            pages: Pages::Normal,
        },
        limits: Limits {
            unauthenticated_connections: 16,
            login_timeout: TIMEOUT,
            sessions: 64,
            nop_interval: None,
            nop_timeout: TIMEOUT,
            no_progress_timeout: Duration::from_secs(60),
        },
        dpdk: None,
        nvme: iiblockdaemon::config::Nvme::default(),
        metrics: None,
        ports: Vec::new(),
        discovery_auth: Auth::None,
        portal_groups: vec![PortalGroup {
            tag: 1,
            portals: vec![loopback],
            access: Access::Optimized,
            preferred: false,
        }],
        logical_units: vec![unit("disk0"), unit("disk1")],
        targets: vec![target(TARGET, &[(0, 0), (1, 1)])],
    }
}

/// The same on two cores.
pub(crate) fn two_cores() -> Config {
    let mut config = config();
    config.cores.list = CoreList::Count(2);
    config
}

pub(crate) fn unit(name: &str) -> LogicalUnit {
    LogicalUnit {
        name: name.into(),
        block_size: BLOCK,
        physical_block_size: 4096,
        read_only: false,
        write_cache: true,
        removable: false,
        long_cdbs: false,
        serial: None,
        reservations: ReservationMatching::Port,
        explicit_alua: false,
        thin: Thin::default(),
        backend: Backend::Memory { size: DISK_BYTES },
    }
}

/// A target with (LUN, index of a unit) pairs.
pub(crate) fn target(name: &str, luns: &[(u16, usize)]) -> Target {
    let luns = luns.iter().map(|(lun, unit)| LunMap {
        lun: *lun,
        unit: *unit,
        read_only: false,
        initiators: Vec::new(),
        queue_depth: None,
    });
    Target {
        name: IscsiName::parse(name).unwrap(),
        alias: None,
        portal_groups: vec![1],
        initiators: Vec::new(),
        addresses: Vec::new(),
        header_digest: DigestPolicy::Optional,
        data_digest: DigestPolicy::Optional,
        max_connections: 4,
        auth: Auth::None,
        luns: luns.collect(),
        state: TargetState::Serving,
        redirect: None,
    }
}

/// A login as [`INITIATOR`] to [`TARGET`].
pub(crate) fn login() -> testing::Config {
    testing::Config::new(INITIATOR, TARGET)
}

/// How a configuration file begins here: state in the daemon's folder, cores that are not pinned,
/// one portal. `DIR` stands for the folder.
pub(crate) fn toml_head(cores: usize, pool_mib_per_core: usize) -> String {
    format!(
        r#"
[daemon]
state_dir = "DIR/state"
shutdown_timeout_s = 1
[cores]
count = {cores}
pin = false
[memory]
pool_mib_per_core = {pool_mib_per_core}
[[portal_group]]
tag = 1
portals = ["127.0.0.1:0"]
"#
    )
}

/// A logical unit with 512-byte blocks and this backend.
pub(crate) fn toml_unit(name: &str, backend: &str) -> String {
    format!("[[logical_unit]]\nname = \"{name}\"\nbackend = {backend}\n")
}

/// A target with these units at LUN 0, 1 and so on; `auth` is nothing or [`TOML_CHAP`].
pub(crate) fn toml_target(name: &str, auth: &str, units: &[&str]) -> String {
    let mut toml = format!("[[target]]\nname = \"{name}\"\nportal_groups = [1]\n{auth}");
    for (lun, unit) in units.iter().enumerate() {
        toml += &format!("[[target.lun]]\nlun = {lun}\nunit = \"{unit}\"\n");
    }
    toml
}

pub(crate) const TOML_MEMORY: &str = r#"{ type = "memory", size = "16MiB" }"#;

/// Wants the login that [`chap`] makes.
pub(crate) const TOML_CHAP: &str = r#"
[target.auth]
method = "chap"
user = "someone"
secret = "sixteen-byte-key"
"#;

/// What [`TOML_CHAP`] asks for, with SHA-256.
pub(crate) fn chap() -> testing::Auth {
    let chap = Chap {
        user: "someone".into(),
        secret: b"sixteen-byte-key".to_vec(),
        algorithms: vec![7],
        encoding: ChapEncoding::Hex,
        mutual: None,
        fault: ChapFault::None,
    };
    testing::Auth::Chap {
        chap,
        or_none: false,
    }
}

/// Hooks that put `faults` around the units that are `chosen` by name, all together.
pub(crate) fn faulty(
    faults: &Arc<Faults>,
    chosen: fn(&str) -> bool,
) -> impl FnOnce() -> Hooks + Send + 'static {
    let faults = Arc::clone(faults);
    move || Hooks {
        wrap: Some(Box::new(move |name, backing| {
            if chosen(name) {
                Backing::with_faults(&backing, Arc::clone(&faults))
            } else {
                backing
            }
        })),
        ..Hooks::default()
    }
}

/// A folder that goes with its owner, on the disk where everything is built.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A configuration file in `dir` with `toml`, in which DIR stands for that folder.
pub(crate) fn configuration_file(dir: &Path, toml: &str) -> PathBuf {
    let file = dir.join("config.toml");
    let text = dir.to_str().expect("temporary paths are UTF-8");
    std::fs::write(&file, toml.replace("DIR", text)).unwrap();
    file
}

impl Served {
    /// Every unit has faults of its own; connections go to the first core until
    /// [`next_core`](Self::next_core) says otherwise.
    pub(crate) fn start(mut config: Config) -> Self {
        if !env!("CARGO_CRATE_NAME").contains(OVER_FRAMES) {
            return Self::start_with(config, Vec::new(), None);
        }
        // What we have ended takes a place among the flows until the peer has, too.
        config.limits.sessions += 1024;
        let cores = config.cores.list.count();
        put_on_port(&mut config, (0..cores).collect());
        let queues = u16::try_from(cores).unwrap();
        let (queues, far) = memory::mesh(&cable(), queues, 1).unwrap();
        let queues = queues.into_iter().map(IdlePort::Memory).collect();
        let far = far.into_iter().next().map(IdlePort::Memory);
        Self::start_with(config, queues, far)
    }

    /// The same with these queues of the port, and the other end of their cable.
    pub(crate) fn start_with(
        mut config: Config,
        queues: Vec<IdlePort>,
        far: Option<IdlePort>,
    ) -> Self {
        let dir = folder();
        config.daemon.state_dir = dir.path().join("state");
        let names: Vec<String> = config
            .logical_units
            .iter()
            .map(|u| u.name.clone())
            .collect();
        let (place, guards): (Arc<AtomicUsize>, Arc<Guards>) = Default::default();
        let switches = Switches {
            faults: names.iter().map(|_| Arc::default()).collect(),
            guards: Arc::clone(&guards),
            place: Some(Arc::clone(&place)),
        };
        let with_faults = {
            let faults = switches.faults.clone();
            move |name: &str, backing: Arc<Backing>| {
                let at = names.iter().position(|known| known == name).unwrap();
                Backing::with_faults(&backing, Arc::clone(&faults[at]))
            }
        };
        let hooks = move || Hooks {
            wrap: Some(Box::new(with_faults)),
            place: Some(place),
            guards,
            ports: vec![(MEMORY_PORT.to_owned(), queues)].into(),
            ..Hooks::default()
        };
        let queues = config.ports.first().map_or(1, |port| port.cores.len());
        let mut served = Self::launch(dir, config, None, hooks, switches);
        if let Some(far) = far {
            served.relay = Some(Relay::start(far, queues));
        }
        served
    }

    /// Serves a configuration file with `toml`, in which DIR stands for the daemon's folder.
    pub(crate) fn from_toml(toml: &str, hooks: impl FnOnce() -> Hooks + Send + 'static) -> Self {
        let dir = folder();
        let file = configuration_file(dir.path(), toml);
        let config = Config::load(&file)
            .expect("the configuration is good")
            .config;
        Self::launch(dir, config, Some(file), hooks, Switches::default())
    }

    fn launch(
        dir: TempDir,
        config: Config,
        file: Option<PathBuf>,
        hooks: impl FnOnce() -> Hooks + Send + 'static,
        switches: Switches,
    ) -> Self {
        let state = StateDir::open(&config.daemon.state_dir).expect("the folder is free");
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        // A daemon stays on the thread that started it.
        let thread = std::thread::spawn(move || {
            let daemon = Daemon::start(&config, state, &hooks())?;
            if let Some(file) = file {
                daemon.follow(file);
            }
            let addresses = (daemon.addresses(), daemon.metrics_address());
            tell.send((addresses, daemon.stopper())).unwrap();
            daemon.serve(None)
        });
        let Ok(((addresses, metrics), stopper)) = told.recv() else {
            panic!("{}", thread.join().unwrap().unwrap_err());
        };
        Self {
            addresses,
            metrics,
            faults: switches.faults,
            guards: switches.guards,
            place: switches.place,
            relay: None,
            stopper,
            thread: Some(thread),
            dir,
        }
    }

    /// Where to connect to: what reaches the next core, where there is a port between.
    pub(crate) fn address(&self) -> SocketAddr {
        let Some(relay) = &self.relay else {
            return self.addresses[0];
        };
        let next = self.place.as_ref();
        relay.address(next.map_or(0, |core| core.load(Ordering::Acquire)))
    }

    /// The folder that stands for DIR.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Connections that are accepted from now on go to this core.
    pub(crate) fn next_core(&self, core: usize) {
        let place = self.place.as_ref();
        place
            .expect("a daemon that was started from a `Config`")
            .store(core, Ordering::Release);
    }

    pub(crate) fn without(self, guard: Guard) -> Self {
        self.guards.take_down(guard);
        self
    }

    /// A session on `core` with no unit attention left at these LUNs.
    pub(crate) fn session_on(
        &self,
        core: usize,
        login: testing::Config,
        luns: &[u8],
    ) -> TcpInitiator {
        self.next_core(core);
        let mut it = TcpInitiator::connect(self.address(), login, TIMEOUT).unwrap();
        for lun in luns {
            it.clear_unit_attentions(*lun).unwrap();
        }
        it
    }

    /// A session on the first core with no unit attention left at LUN 0 and 1.
    pub(crate) fn session(&self, login: testing::Config) -> TcpInitiator {
        self.session_on(0, login, &[0, 1])
    }

    pub(crate) fn open(&self, core: usize, login: testing::Config) -> TcpInitiator {
        self.next_core(core);
        TcpInitiator::open(self.address(), login, TIMEOUT).unwrap()
    }

    pub(crate) fn stopper(&self) -> &Stopper {
        &self.stopper
    }

    /// Waits until the daemon has ended by itself.
    pub(crate) fn ended(mut self) -> Result<(), StartError> {
        self.thread.take().unwrap().join().unwrap()
    }

    /// Stops in order and says how it ended.
    pub(crate) fn stop(self) -> Result<(), StartError> {
        self.stopper.stop();
        self.ended()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        for faults in &self.faults {
            faults.hold_writes(false);
        }
        if let Some(thread) = self.thread.take() {
            self.stopper.stop();
            if !std::thread::panicking() {
                thread.join().unwrap().expect("the daemon ends in order");
            }
        }
    }
}

/// Waits until `done` by pinging over `it`: no sleep, and bounded.
pub(crate) fn until(it: &mut TcpInitiator, mut done: impl FnMut() -> bool) {
    for _ in 0..ROUND_TRIPS_MAX {
        if done() {
            return;
        }
        ping(it).unwrap();
    }
    panic!("it did not come to pass within {ROUND_TRIPS_MAX} round trips");
}

/// One round trip to the session's engine.
pub(crate) fn ping(it: &mut TcpInitiator) -> Result<(), Failure> {
    let nop = Nop {
        immediate: true,
        data: Vec::new(),
    };
    let task = it.submit(Command::Nop(nop))?;
    it.wait(task).map(drop)
}

/// Bytes of which no two blocks are alike.
pub(crate) fn pattern(bytes: usize, seed: u32) -> Vec<u8> {
    let words = (0..bytes.div_ceil(4)).map(|at| {
        let at = u32::try_from(at).unwrap();
        (at ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b)
    });
    let mut out: Vec<u8> = words.flat_map(u32::to_be_bytes).collect();
    out.truncate(bytes);
    out
}
