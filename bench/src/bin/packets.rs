//! What a packet costs the core that serves it: nanoseconds on receive and on transmit, with 1 to
//! 4,000 established connections.
//!
//! Both ends run in this thread; only the calls of the target's side are timed, a burst at a time
//! (see `bench::dma` for what the device costs there: nothing but descriptors). Time as the stacks
//! know it is virtual.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench::clock::Clock;
use bench::dma::{self, Far, Near};
use clap::Parser;
use iiblockdaemon::mem::{DmaBuf, Pages, Piece, Pool};
use iiblockdaemon::net::stack::model::{Address, FlowId, Network, Portal, Settings};
use iiblockdaemon::net::stack::{Event, Received, Stack};
use iiblockdaemon::port::{BURST, Port};
use iiblockdaemon::testing::flows::{Client, State};

/// Connections that can be asked for.
const FLOWS_MAX: usize = 16_384;
/// Virtual time of one turn.
const TURN: Duration = Duration::from_micros(20);
/// Turns until everything that was begun has to be over.
const TURNS_MAX: usize = 2_000_000;
/// Virtual time in which both ends make sure of their addresses.
const SETTLE: Duration = Duration::from_secs(10);
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const PORTAL: u16 = 3260;
/// Bytes that the target sends on one connection at a time.
const SEND_BYTES: usize = 60 * 1024;

/// Nanoseconds per packet of the TCP over frames.
#[derive(Debug, Parser)]
struct Options {
    /// Numbers of connections, one row each.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000,4000")]
    flows: Vec<usize>,
    /// Bytes of the longest IP packet.
    #[arg(long, default_value_t = 9000)]
    mtu: u16,
    /// Packets that follow each other on one connection.
    #[arg(long, default_value_t = 8)]
    spread: usize,
    /// Packets that are measured in each row.
    #[arg(long, default_value_t = 200_000)]
    packets: u64,
    /// The device computes no checksums and cuts nothing.
    #[arg(long)]
    no_offloads: bool,
    /// The CPU for this program.
    #[arg(long)]
    cpu: Option<usize>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(cpu) = options.cpu
        && !core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
    {
        eprintln!("packets: cannot be pinned to CPU {cpu}");
        return ExitCode::FAILURE;
    }
    println!(
        "MTU {}, {} packets in a row on one connection, checksums by {}",
        options.mtu,
        options.spread,
        if options.no_offloads {
            "us"
        } else {
            "the device"
        }
    );
    println!("| connections | receive ns | acknowledge ns/burst | transmit ns | their ACK ns |");
    println!("|---|---|---|---|---|");
    for &flows in &options.flows {
        if !(1..=FLOWS_MAX).contains(&flows) || options.spread == 0 {
            eprintln!("packets: 1 to {FLOWS_MAX} connections, 1 packet or more in a row");
            return ExitCode::FAILURE;
        }
        let mut run = match Run::new(&options, flows) {
            Ok(run) => run,
            Err(why) => {
                eprintln!("packets: {why}");
                return ExitCode::FAILURE;
            }
        };
        let (receive, acknowledge) = run.receive(&options);
        let (transmit, acknowledged) = run.transmit(&options);
        if run.server.port().copied() > 0 {
            eprintln!("packets: payload was copied that lies in a buffer of the pool");
            return ExitCode::FAILURE;
        }
        println!(
            "| {flows} | {receive:.0} | {acknowledge:.0} | {transmit:.0} | {acknowledged:.0} |"
        );
    }
    ExitCode::SUCCESS
}

/// Both ends with all connections established.
struct Run {
    clock: Clock,
    now: Instant,
    pool: Pool,
    client: Client<Far>,
    server: Stack<Near>,
    /// Client's and server's name of each connection.
    flows: Vec<(FlowId, FlowId)>,
    by_server: HashMap<FlowId, usize>,
    /// Next connection to send on.
    next: usize,
}

/// Time and packets of one kind of work.
#[derive(Clone, Copy, Default)]
struct Cost {
    ns: u64,
    count: u64,
}

impl Cost {
    fn add(&mut self, ns: u64, count: u64) {
        self.ns += ns;
        self.count += count;
    }

    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    fn each(self) -> f64 {
        self.ns as f64 / self.count.max(1) as f64
    }
}

impl Run {
    fn new(options: &Options, flows: usize) -> Result<Self, String> {
        let (near, far) = dma::pair(options.mtu, !options.no_offloads);
        let clock = Clock::start();
        let now = clock.began();
        let server = Stack::new(near, &settings(SERVER, flows, true), now);
        let client = Client::new(far, &settings(CLIENT, flows, false), now);
        let pool = Pool::new(16 << 20, Pages::Normal).map_err(|error| error.to_string())?;
        let mut run = Self {
            clock,
            now,
            pool,
            client: client.map_err(|error| error.to_string())?,
            server: server.map_err(|error| error.to_string())?,
            flows: Vec::with_capacity(flows),
            by_server: HashMap::new(),
            next: 0,
        };
        run.connect(flows)?;
        Ok(run)
    }

    fn connect(&mut self, flows: usize) -> Result<(), String> {
        let settled = self.now + SETTLE;
        while self.now < settled {
            self.now += Duration::from_millis(10);
            self.turn(&mut |_| {});
        }
        for at in 0..flows {
            let local = SocketAddr::new(CLIENT, 1024 + u16::try_from(at).expect("bounded"));
            let peer = SocketAddr::new(SERVER, PORTAL);
            let ours = self.client.connect(local, peer, None, self.now);
            let ours = ours.ok_or("the client has no room for a connection")?;
            let mut opened = None;
            for _ in 0..TURNS_MAX {
                self.turn(&mut |event| {
                    if let Event::Opened { flow, .. } = event {
                        opened = Some(*flow);
                    }
                });
                if opened.is_some() && self.client.state(ours) == State::Open {
                    break;
                }
            }
            let theirs = opened.ok_or("a connection was not established")?;
            self.by_server.insert(theirs, self.flows.len());
            self.flows.push((ours, theirs));
        }
        Ok(())
    }

    /// One turn of both ends, not timed.
    fn turn(&mut self, on_event: &mut dyn FnMut(&Event)) {
        self.now += TURN;
        self.client.turn(self.now);
        while self.server.receive(self.now) {}
        self.server.tick(self.now);
        while self.server.transmit(self.now) {}
        while let Some(event) = self.server.next_event() {
            on_event(&event);
        }
        self.client.turn(self.now);
    }

    /// Nanoseconds per received packet, and per burst for what answers them.
    fn receive(&mut self, options: &Options) -> (f64, f64) {
        let bytes = vec![0x5a; options.spread * usize::from(options.mtu - 40 - 12)];
        let (mut receive, mut acknowledge) = (Cost::default(), Cost::default());
        let warm_up = self.flows.len() * options.spread * 2;
        let mut seen = 0;
        while receive.count < options.packets {
            for _ in 0..(BURST / options.spread).max(1) {
                let (ours, _) = self.flows[self.next];
                self.next = (self.next + 1) % self.flows.len();
                self.client.send(ours, &bytes);
            }
            self.now += TURN;
            self.client.turn(self.now);
            self.receive_timed(&mut receive, &mut acknowledge);
            self.client.turn(self.now);
            if seen < warm_up {
                seen += usize::try_from(receive.count).unwrap_or(usize::MAX);
                (receive, acknowledge) = (Cost::default(), Cost::default());
            }
        }
        (receive.each(), acknowledge.each())
    }

    fn receive_timed(&mut self, receive: &mut Cost, acknowledge: &mut Cost) {
        let before = self.server.port().counters().received;
        let begin = self.clock.now_ns();
        while self.server.receive(self.now) {
            while let Some(event) = self.server.next_event() {
                if let Event::Readable(flow) = event {
                    while let Ok(Received::Data(chunk)) = self.server.take(flow) {
                        drop(chunk);
                    }
                }
            }
        }
        let received = self.clock.now_ns();
        receive.add(
            received - begin,
            self.server.port().counters().received - before,
        );
        self.server.tick(self.now);
        while self.server.transmit(self.now) {}
        acknowledge.add(self.clock.now_ns() - received, 1);
        while self.server.next_event().is_some() {}
    }

    /// Nanoseconds per transmitted packet (of the device: one that it cuts counts as its segments),
    /// and per received acknowledgement.
    fn transmit(&mut self, options: &Options) -> (f64, f64) {
        let buf = self.pool.alloc(SEND_BYTES).expect("the pool is larger");
        let (mut transmit, mut acknowledged) = (Cost::default(), Cost::default());
        let mss = u64::from(options.mtu - 40);
        let each = u64::try_from(SEND_BYTES).expect("small").div_ceil(mss);
        // The congestion window opens by what is acknowledged.
        let warm_up = 40 * u64::try_from(self.flows.len()).expect("bounded") * each;
        let mut seen = 0;
        while transmit.count < options.packets {
            let sent = self.transmit_timed(&buf, each, &mut transmit);
            for _ in 0..4 {
                self.drain_client(&sent);
                self.acknowledged_timed(&mut acknowledged);
            }
            if seen < warm_up {
                seen += transmit.count;
                (transmit, acknowledged) = (Cost::default(), Cost::default());
            }
        }
        (transmit.each(), acknowledged.each())
    }

    /// Sends on as many connections as make a burst or more. Returns the client's names of them.
    fn transmit_timed(&mut self, buf: &DmaBuf, each: u64, cost: &mut Cost) -> Vec<FlowId> {
        let mut sent = Vec::new();
        self.now += TURN;
        for _ in 0..BURST.div_ceil(usize::try_from(each).expect("small")) {
            let (ours, theirs) = self.flows[self.next];
            self.next = (self.next + 1) % self.flows.len();
            if self.server.unacknowledged(theirs) > 0 {
                continue;
            }
            sent.push(ours);
            let begin = self.clock.now_ns();
            let taken = self
                .server
                .send(theirs, &[Piece::Buffer(buf, 0..SEND_BYTES)]);
            cost.add(
                self.clock.now_ns() - begin,
                if taken.is_ok() { each } else { 0 },
            );
        }
        let begin = self.clock.now_ns();
        while self.server.transmit(self.now) {}
        cost.add(self.clock.now_ns() - begin, 0);
        sent
    }

    fn drain_client(&mut self, flows: &[FlowId]) {
        self.now += TURN;
        self.client.turn(self.now);
        for flow in flows {
            while self.client.receive(*flow, |_| {}) > 0 {}
        }
        self.client.turn(self.now);
    }

    fn acknowledged_timed(&mut self, cost: &mut Cost) {
        let before = self.server.port().counters().received;
        let begin = self.clock.now_ns();
        while self.server.receive(self.now) {}
        let count = self.server.port().counters().received - before;
        if count > 0 {
            cost.add(self.clock.now_ns() - begin, count);
        }
        self.server.tick(self.now);
        while self.server.transmit(self.now) {}
        while self.server.next_event().is_some() {}
    }
}

fn settings(ip: IpAddr, flows: usize, serves: bool) -> Arc<Settings> {
    let portal = Portal {
        address: SocketAddr::new(ip, PORTAL),
        tag: 1,
    };
    let network = Network {
        vlan: None,
        pcp: 0,
        dscp: 0,
        addresses: vec![Address { ip, prefix: 24 }],
        routes: Vec::new(),
    };
    Arc::new(Settings {
        networks: vec![network],
        portals: if serves { vec![portal] } else { Vec::new() },
        secret: [7; 32],
        flows_max: flows + 16,
        half_open_max: 64,
        keepalive: Duration::from_secs(3600),
        user_timeout: Duration::from_secs(7200),
        probe_interval: Duration::ZERO,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use iiblockdaemon::mem::copied;

    /// The copy budget of docs/ARCHITECTURE.md: what a READ sends leaves from where it lies, with
    /// and without offloads, and what a WRITE received is not copied on its way up.
    #[test]
    fn payload_is_not_copied_between_buffers_and_device() {
        for no_offloads in [false, true] {
            let options = Options {
                flows: vec![3],
                mtu: 9000,
                spread: 2,
                packets: 500,
                no_offloads,
                cpu: None,
            };
            let mut run = Run::new(&options, 3).unwrap();
            let before = copied::bytes();
            let received = run.server.port().counters().received;
            run.receive(&options);
            assert!(run.server.port().counters().received - received >= 500);
            run.transmit(&options);
            let port = run.server.port();
            assert!(port.lent() >= 500 * 8000, "{} bytes", port.lent());
            assert_eq!((port.copied(), copied::bytes() - before), (0, 0));
        }
    }
}
