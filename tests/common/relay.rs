//! The way of host sockets to a daemon that is at the other end of a port: a thread with a stack of
//! its own that takes connections on 127.0.0.1 and opens a flow for each, so that every test that
//! talks to a socket can be run over frames.
//!
//! Nothing is kept back on either side: what comes goes on as it fits, an end becomes an end and a
//! reset a reset.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use iiblockdaemon::mem::{Pages, Pool};
use iiblockdaemon::net::stack::model::{Address, FlowId, Network, Settings};
use iiblockdaemon::port::checksum::symmetric_hash;
use iiblockdaemon::port::{AnyPort, IdlePort, Port};
use iiblockdaemon::reactor::clock;
use iiblockdaemon::testing::flows::{Client, State};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Where the daemon is.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// Where the initiators are.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
pub(crate) const PORT: u16 = 3260;
/// The client's ports, one after the other.
const PORTS: RangeInclusive<u16> = 20_000..=60_000;
/// Bytes that wait on the way to a socket.
const WAITING_MAX: usize = 256 * 1024;
/// The longest sleep.
const NAP: Duration = Duration::from_millis(20);
/// Pieces taken from a flow in one go.
const CHUNKS_MAX: usize = 64;

/// A network in which `own` is the only address of ours.
pub(crate) fn network(own: Ipv4Addr) -> Network {
    Network {
        vlan: None,
        pcp: 0,
        dscp: 0,
        addresses: vec![Address {
            ip: IpAddr::V4(own),
            prefix: 24,
        }],
        routes: Vec::new(),
    }
}

/// What a stack of initiators is told.
pub(crate) fn client_settings() -> Arc<Settings> {
    Arc::new(Settings {
        networks: vec![network(CLIENT)],
        portals: Vec::new(),
        secret: [7; 32],
        flows_max: 4096,
        half_open_max: 64,
        keepalive: Duration::from_secs(30),
        user_timeout: Duration::from_secs(60),
        probe_interval: Duration::ZERO,
    })
}

/// The queue, of `queues`, at which frames between the client's `port` and the daemon come in.
pub(crate) fn queue_of(port: u16, queues: usize) -> usize {
    let mut head = vec![0; 54];
    head[0] = 2;
    head[12] = 8;
    head[14] = 0x45;
    head[16..18].copy_from_slice(&40_u16.to_be_bytes());
    head[23] = 6;
    head[26..30].copy_from_slice(&CLIENT.octets());
    head[30..34].copy_from_slice(&SERVER.octets());
    head[34..36].copy_from_slice(&port.to_be_bytes());
    head[36..38].copy_from_slice(&PORT.to_be_bytes());
    head[46] = 0x50;
    usize::try_from(symmetric_hash(&head)).unwrap() % queues
}

/// See the module. It listens once for each queue of the daemon's port.
pub(crate) struct Relay {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    bell: OwnedFd,
}

impl Relay {
    /// Takes connections and passes them on by `end` to the daemon, whose port has so many queues.
    pub(crate) fn start(end: IdlePort, queues: usize) -> Self {
        let listen = |_| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        };
        let listeners: Vec<_> = (0..queues).map(listen).collect();
        let addresses = listeners.iter().map(|it| it.local_addr().unwrap());
        let addresses = addresses.collect();
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            bell: eventfd(0, EventfdFlags::NONBLOCK).unwrap(),
        });
        let given = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let pool = Pool::new(1 << 16, Pages::Normal).unwrap();
            let port = end.adopt(&pool).unwrap();
            let client = Client::new(port, &client_settings(), clock::now()).unwrap();
            let mut run = Run {
                client,
                listeners,
                shared: given,
                next_port: *PORTS.start(),
                arrived: Vec::new(),
                pairs: Vec::new(),
                scratch: vec![0; 64 * 1024],
            };
            run.run();
        });
        Self {
            addresses,
            shared,
            thread: Some(thread),
        }
    }

    /// What is connected to this reaches the daemon at that queue.
    pub(crate) fn address(&self, queue: usize) -> SocketAddr {
        self.addresses[queue % self.addresses.len()]
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        rustix::io::write(&self.shared.bell, &1_u64.to_le_bytes()).unwrap();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().expect("the relay ends in order");
        }
    }
}

/// A connection and the queue that it is to reach.
type Arrived = (TcpStream, usize);

struct Pair {
    socket: TcpStream,
    flow: FlowId,
    to_flow: Vec<u8>,
    to_socket: Vec<u8>,
    /// The socket's peer has said all.
    ended: bool,
}

/// What became of a pair in a turn.
enum Fate {
    Idle,
    Worked,
    Over,
}

struct Run {
    client: Client<AnyPort>,
    /// By the queue that is reached.
    listeners: Vec<TcpListener>,
    shared: Arc<Shared>,
    next_port: u16,
    arrived: Vec<Arrived>,
    pairs: Vec<Pair>,
    scratch: Vec<u8>,
}

impl Run {
    fn run(&mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            if !self.turn() {
                self.sleep();
            }
        }
    }

    fn turn(&mut self) -> bool {
        let mut worked = self.accept();
        worked |= self.client.turn(clock::now());
        let mut at = 0;
        while at < self.pairs.len() {
            match self.move_bytes(at) {
                Fate::Idle => at += 1,
                Fate::Worked => {
                    worked = true;
                    at += 1;
                }
                Fate::Over => {
                    worked = true;
                    self.pairs.swap_remove(at);
                }
            }
        }
        worked
    }

    fn accept(&mut self) -> bool {
        let mut worked = false;
        for (queue, listener) in self.listeners.iter().enumerate() {
            while let Ok((socket, _)) = listener.accept() {
                socket.set_nonblocking(true).unwrap();
                socket.set_nodelay(true).unwrap();
                self.arrived.push((socket, queue));
            }
        }
        for (socket, queue) in std::mem::take(&mut self.arrived) {
            while queue_of(self.next_port, self.listeners.len()) != queue {
                self.next_port = following(self.next_port);
            }
            let local = SocketAddr::from((CLIENT, self.next_port));
            let peer = SocketAddr::from((SERVER, PORT));
            match self.client.connect(local, peer, None, clock::now()) {
                Some(flow) => {
                    self.next_port = following(self.next_port);
                    self.pairs.push(Pair {
                        socket,
                        flow,
                        to_flow: Vec::new(),
                        to_socket: Vec::new(),
                        ended: false,
                    });
                    worked = true;
                }
                // Our address is not ours yet.
                None => self.arrived.push((socket, queue)),
            }
        }
        worked
    }

    fn move_bytes(&mut self, at: usize) -> Fate {
        let Self {
            client,
            pairs,
            scratch,
            ..
        } = self;
        let pair = &mut pairs[at];
        let state = client.state(pair.flow);
        if state == State::Connecting {
            return Fate::Idle;
        }
        let mut worked = false;
        for _ in 0..CHUNKS_MAX {
            if pair.to_socket.len() >= WAITING_MAX {
                break;
            }
            let to = &mut pair.to_socket;
            if client.receive(pair.flow, |bytes| to.extend_from_slice(bytes)) == 0 {
                break;
            }
            worked = true;
        }
        match pair.pass_to_socket() {
            Ok(moved) => worked |= moved,
            Err(()) => {
                client.abort(pair.flow);
                return Fate::Over;
            }
        }
        match client.state(pair.flow) {
            State::Lost(_) => {
                client.abort(pair.flow);
                reset(&pair.socket);
                return Fate::Over;
            }
            State::Closed if pair.to_socket.is_empty() => {
                client.finish(pair.flow);
                return Fate::Over;
            }
            State::Connecting | State::Open | State::Closed => {}
        }
        match pair.take_from_socket(scratch) {
            Ok(moved) => worked |= moved,
            Err(()) => {
                client.abort(pair.flow);
                return Fate::Over;
            }
        }
        if !pair.to_flow.is_empty() && client.is_writable(pair.flow) {
            let sent = client.send(pair.flow, &pair.to_flow);
            pair.to_flow.drain(..sent);
            worked |= sent > 0;
        }
        if pair.ended && pair.to_flow.is_empty() {
            client.finish(pair.flow);
            return Fate::Over;
        }
        if worked { Fate::Worked } else { Fate::Idle }
    }

    fn sleep(&mut self) {
        let now = clock::now();
        let deadline = self.client.stack().deadline();
        let nap = deadline.map_or(NAP, |at| at.saturating_duration_since(now).min(NAP));
        let mut fds = vec![PollFd::new(&self.shared.bell, PollFlags::IN)];
        let listeners = self.listeners.iter();
        fds.extend(listeners.map(|it| PollFd::new(it, PollFlags::IN)));
        let wakes: Option<BorrowedFd<'_>> = self.client.stack().port().wakes();
        fds.extend(wakes.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        for pair in &self.pairs {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, pair.to_flow.is_empty() && !pair.ended);
            flags.set(PollFlags::OUT, !pair.to_socket.is_empty());
            if !flags.is_empty() {
                fds.push(PollFd::from_borrowed_fd(pair.socket.as_fd(), flags));
            }
        }
        poll(&mut fds, Some(&Timespec::try_from(nap).unwrap())).unwrap();
    }
}

impl Pair {
    fn pass_to_socket(&mut self) -> Result<bool, ()> {
        if self.to_socket.is_empty() {
            return Ok(false);
        }
        match self.socket.write(&self.to_socket) {
            Ok(written) => {
                self.to_socket.drain(..written);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(_) => Err(()),
        }
    }

    fn take_from_socket(&mut self, scratch: &mut [u8]) -> Result<bool, ()> {
        if !self.to_flow.is_empty() || self.ended {
            return Ok(false);
        }
        match self.socket.read(scratch) {
            Ok(0) => {
                self.ended = true;
                Ok(true)
            }
            Ok(read) => {
                self.to_flow.extend_from_slice(&scratch[..read]);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(_) => Err(()),
        }
    }
}

fn following(port: u16) -> u16 {
    if port < *PORTS.end() {
        port + 1
    } else {
        *PORTS.start()
    }
}

/// The next close of this socket is a reset.
fn reset(socket: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO)).unwrap();
}
