//! One core of the target with its control side and an initiator, all in this thread, over frames
//! in memory: what a core does for a command can then be counted as instructions of one function,
//! [`targets_turn`].
//!
//! The reactor is the daemon's own, and so are its TCP, engine and null device; nothing else stands
//! in its place but the control thread, of which only the directory is there. The port is the one
//! in memory (`port::memory`): what it does to frames in the place of a card, copies and checksums,
//! are calls of its own that can be told from the rest.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use iiblockdaemon::backend::{self, Backing, Kind, Spec};
use iiblockdaemon::control::directory::Directory;
use iiblockdaemon::control::ring::{self, Inbox, Outbox};
use iiblockdaemon::iscsi::login;
use iiblockdaemon::iscsi::node::Nodes;
use iiblockdaemon::iscsi::session::{Guards, Timeouts};
use iiblockdaemon::mem::Pages;
use iiblockdaemon::net::stack::model::{Address, FlowId, Network, Portal, Settings};
use iiblockdaemon::port::memory::{self, End};
use iiblockdaemon::port::{Counters, IdlePort, Port};
use iiblockdaemon::reactor::flows::{Attachment, FrameRings};
use iiblockdaemon::reactor::message::{ToControl, ToCore};
use iiblockdaemon::reactor::{Heartbeat, Plan, Polling, Reactor, clock, fill_random};
use iiblockdaemon::scsi::{Identity, LogicalUnit};
use iiblockdaemon::testing::flows::{Client, State};
use iiblockdaemon::testing::tcp;

/// Where the target is to be found.
pub const PORTAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 3260);
const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 1024);
/// The tag of its portal group.
pub const PORTAL_GROUP: u16 = 1;
const DEVICE_BYTES: u64 = 512 << 20;
/// Enough for a window of 64 commands.
const POOL_BYTES: usize = 64 << 20;
const FLOWS_MAX: usize = 16;
const SESSIONS_MAX: usize = 16;
/// Bytes of the longest IP packet.
const MTU: u16 = 9000;
/// What a connection may take to stand.
const PATIENCE: Duration = Duration::from_secs(60);

/// One turn of the core: all that the target does. Never inlined, so that its instructions, with
/// those of what it calls, can be counted.
#[inline(never)]
pub fn targets_turn(reactor: &mut Reactor) -> bool {
    reactor.poll_once(None)
}

/// A connection to the core, from the initiator's side.
pub struct Wire {
    // Before the port that its flow goes over.
    client: Client<End>,
    flow: Option<FlowId>,
    /// Received, not read yet.
    unread: Vec<u8>,
    reactor: Reactor,
    control: Inbox<ToControl>,
    core: Outbox<ToCore>,
    directory: Directory,
    admissions: u64,
    turns: u64,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("turns", &self.turns)
            .finish_non_exhaustive()
    }
}

impl Wire {
    /// A core that serves `nodes`, whose one unit is a null device, and a connection to it.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub fn connect(nodes: &Arc<Nodes>, identity: Identity) -> Result<Self, String> {
        let config = memory::Config {
            mtu: MTU,
            verifies_checksums: true,
            fills_ipv4_checksum: true,
            fills_tcp_checksum: true,
            segments_ipv4: Some(u16::MAX),
            ..memory::Config::default()
        };
        let (near, far) = memory::pair(&config).map_err(text)?;
        let (control, to_control) = ring::inbox().map_err(text)?;
        let (inbox, to_core) = ring::inbox().map_err(text)?;
        let backing = Backing::open(&Spec::new(Kind::Null {
            bytes: DEVICE_BYTES,
        }));
        let backing = backing.map_err(text)?;
        let unit = LogicalUnit::new(identity, backing.info().clone(), false);
        let queue = Attachment {
            port: 0,
            queue: IdlePort::Memory(near),
            requests: None,
            settings: settings(PORTAL, true),
        };
        let reactor = Reactor::new(Plan {
            core: 0,
            cpu: None,
            polling: Polling::Busy,
            pool_bytes: POOL_BYTES,
            pages: Pages::Normal,
            nodes: Arc::clone(nodes),
            units: vec![unit],
            backings: vec![Some(backing)],
            backend: backend::Options {
                units: 1,
                ..backend::Options::default()
            },
            timeouts: timeouts(),
            login_timeout: PATIENCE,
            login_limits: login::Limits {
                default_time2retain_s: 0,
                command_window: 1,
                ..login::Limits::default()
            },
            random: fill_random,
            greetings_max: FLOWS_MAX,
            joined_max: FLOWS_MAX,
            inbox,
            cores: vec![to_core.clone()],
            control: to_control,
            heartbeat: Arc::new(Heartbeat::default()),
            guards: Arc::new(Guards::default()),
            ports: vec![queue],
            frames: FrameRings::new(1),
        })?;
        let mut wire = Self {
            client: Client::new(far, &settings(CLIENT, false), clock::now()).map_err(text)?,
            flow: None,
            unread: Vec::new(),
            reactor,
            control,
            core: Outbox::new(to_core),
            directory: Directory::new(1, SESSIONS_MAX),
            admissions: 0,
            turns: 0,
        };
        wire.open()?;
        Ok(wire)
    }

    fn open(&mut self) -> Result<(), String> {
        let until = clock::now() + PATIENCE;
        while clock::now() < until {
            self.turn();
            match self.flow.map(|flow| self.client.state(flow)) {
                None => self.flow = self.client.connect(CLIENT, PORTAL, None, clock::now()),
                Some(State::Connecting) => {}
                Some(State::Open) => return Ok(()),
                Some(state) => return Err(format!("the connection is {state:?}")),
            }
        }
        Err("the target does not answer".into())
    }

    /// A turn of the initiator's side, one of the target's, and one of the initiator's.
    pub fn turn(&mut self) {
        self.client.turn(clock::now());
        targets_turn(&mut self.reactor);
        self.turns += 1;
        self.hear();
        self.client.turn(clock::now());
    }

    /// What the control thread does for the core.
    fn hear(&mut self) {
        while let Some(message) = self.control.pop() {
            match message {
                ToControl::Admit { key, admission, .. } => {
                    let name = admission.name.clone();
                    let verdict = self.directory.admit(admission);
                    self.admissions += 1;
                    self.core.send(ToCore::Placed {
                        key,
                        verdict,
                        order: self.admissions,
                        name,
                    });
                }
                ToControl::Ended { tsih, core } => self.directory.ended(tsih, core),
                // Accounts, and words for the operator.
                _ => {}
            }
        }
        self.core.retry();
    }

    /// Turns of the target so far.
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// Frames that the initiator's side has had and sent so far.
    pub fn frames(&self) -> Counters {
        self.client.stack().port().counters()
    }

    /// Sends what there is room for.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        self.flow.map_or(0, |flow| self.client.send(flow, bytes))
    }

    /// What has come, behind what is there.
    pub fn receive(&mut self, to: &mut Vec<u8>) {
        to.append(&mut self.unread);
        if let Some(flow) = self.flow {
            let client = &mut self.client;
            while client.receive(flow, |bytes| to.extend_from_slice(bytes)) > 0 {}
        }
    }

    fn state(&self) -> State {
        let unknown = State::Lost(iiblockdaemon::net::stack::Lost::Unknown);
        self.flow.map_or(unknown, |flow| self.client.state(flow))
    }

    fn trouble(&self) -> io::Error {
        io::Error::new(
            io::ErrorKind::ConnectionReset,
            format!("{:?}", self.state()),
        )
    }
}

impl tcp::Line for Wire {
    fn wait(&mut self, to_send: bool, timeout: Duration) -> io::Result<Option<tcp::Ready>> {
        let until = clock::now() + timeout;
        while clock::now() < until {
            self.turn();
            let Some(flow) = self.flow else {
                return Err(self.trouble());
            };
            let ready = tcp::Ready {
                to_read: self.client.is_readable(flow) || !self.unread.is_empty(),
                to_write: to_send && self.client.is_writable(flow),
            };
            if ready.to_read || ready.to_write {
                return Ok(Some(ready));
            }
            if self.state() != State::Open {
                return Err(self.trouble());
            }
        }
        Ok(None)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.send(bytes))
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut unread = Vec::new();
        self.receive(&mut unread);
        self.unread = unread;
        if self.unread.is_empty() {
            return match self.state() {
                State::Closed => Ok(0),
                State::Lost(_) => Err(self.trouble()),
                State::Connecting | State::Open => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        let len = bytes.len().min(self.unread.len());
        bytes[..len].copy_from_slice(&self.unread[..len]);
        self.unread.drain(..len);
        Ok(len)
    }

    fn close(&mut self) -> io::Result<()> {
        if let Some(flow) = self.flow.take() {
            self.client.finish(flow);
        }
        Ok(())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn settings(address: SocketAddr, serves: bool) -> Arc<Settings> {
    let portal = Portal {
        address,
        tag: PORTAL_GROUP,
    };
    let network = Network {
        vlan: None,
        pcp: 0,
        dscp: 0,
        addresses: vec![Address {
            ip: address.ip(),
            prefix: 24,
        }],
        routes: Vec::new(),
    };
    Arc::new(Settings {
        networks: vec![network],
        portals: if serves { vec![portal] } else { Vec::new() },
        // Of a bench nobody guesses sequence numbers.
        secret: [5; 32],
        flows_max: FLOWS_MAX,
        half_open_max: FLOWS_MAX,
        keepalive: Duration::from_secs(3600),
        user_timeout: Duration::from_secs(7200),
        probe_interval: Duration::ZERO,
    })
}

/// Nothing is asked of an idle connection.
fn timeouts() -> Timeouts {
    Timeouts {
        ping_interval: None,
        ping_timeout: Duration::from_secs(30),
        no_progress: Duration::from_secs(3600),
    }
}
