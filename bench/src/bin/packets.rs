//! What a packet costs the core that serves it: nanoseconds on receive and on transmit, with 1 to
//! 4,000 established connections.
//!
//! Both ends run in this thread; only the calls of the target's side are timed, a burst at a time
//! (see `bench::dma` for what the device costs there: nothing but descriptors). Time as the stacks
//! know it is virtual.
//!
//! With `--peer` our stack and plain smoltcp with real rings (`bench::rings`) take turns, each row
//! in a process of its own, so that none has the memory of another to begin with.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench::clock::Clock;
use bench::dma::{self, Far, Near};
use bench::ends::{End, Ours, Writes};
use bench::processor::{proportional_kib, resident_kib};
use bench::rings::{RING_BYTES, Rings};
use clap::{Parser, ValueEnum};
use iiblockdaemon::mem::{DmaBuf, Pages, Pool};
use iiblockdaemon::net::stack::model::{Address, FlowId, Network, Portal, Settings};
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
/// Connections with real rings, at most: each has 2 MiB of them.
const RINGS_MAX: usize = 1000;
/// Frames after which the device has used each of its buffers.
const BUFFERS: u64 = 10_000;
const SERVER: IpAddr = IpAddr::V4(SERVER_IPV4);
const SERVER_IPV4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const PORTAL: u16 = 3260;
/// Bytes that the target sends on one connection at a time.
const SEND_BYTES: usize = 60 * 1024;

/// Nanoseconds per packet of the TCP over frames.
#[derive(Clone, Debug, Parser)]
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
    /// Beside each row one of plain smoltcp with real rings.
    #[arg(long)]
    peer: bool,
    /// Rows of each kind, with --peer.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// One row of --peer and nothing else.
    #[arg(long, hide = true)]
    row: Option<Kind>,
}

/// What serves the connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Kind {
    Ours,
    Rings,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match work(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("packets: {why}");
            ExitCode::FAILURE
        }
    }
}

fn work(options: &Options) -> Result<(), String> {
    if let Some(cpu) = options.cpu
        && !core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
    {
        return Err(format!("cannot be pinned to CPU {cpu}"));
    }
    let right = |flows: &usize| (1..=FLOWS_MAX).contains(flows);
    if !options.flows.iter().all(right) || options.spread == 0 {
        return Err(format!(
            "1 to {FLOWS_MAX} connections, 1 packet or more in a row"
        ));
    }
    if let Some(kind) = options.row {
        return compared(options, kind, options.flows[0]);
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
    if options.peer {
        return compare(options);
    }
    println!("| connections | receive ns | acknowledge ns/burst | transmit ns | their ACK ns |");
    println!("|---|---|---|---|---|");
    for &flows in &options.flows {
        let mut run = Run::new(options, flows, ours)?;
        run.connect(flows)?;
        let (receive, acknowledge) = run.receive(options, false);
        let (transmit, acknowledged) = run.transmit(options);
        run.check()?;
        println!(
            "| {flows} | {receive:.0} | {acknowledge:.0} | {transmit:.0} | {acknowledged:.0} |"
        );
    }
    Ok(())
}

/// Rows of both kinds in turns.
fn compare(options: &Options) -> Result<(), String> {
    println!(
        "| connections | payload lies in | receive ns | into buffers ns | acknowledge ns/burst \
         | transmit ns | their ACK ns | VmRSS KiB each | Pss KiB each |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    for &flows in &options.flows {
        for _ in 0..options.rounds {
            for (kind, name) in [(Kind::Ours, "ours"), (Kind::Rings, "rings")] {
                if kind == Kind::Rings && flows > RINGS_MAX {
                    let mib = flows * 2;
                    println!(
                        "| {flows} | rings (plain smoltcp) | not run: {mib} MiB of rings | | | | | | |"
                    );
                    continue;
                }
                let mut row = Command::new(&program);
                row.args(["--row", name, "--flows", &flows.to_string()])
                    .args(["--mtu", &options.mtu.to_string()])
                    .args(["--spread", &options.spread.to_string()])
                    .args(["--packets", &options.packets.to_string()])
                    .args(options.no_offloads.then_some("--no-offloads"));
                let status = row.status().map_err(|error| error.to_string())?;
                if !status.success() {
                    return Err(format!("the row of {flows}, {name}: {status}"));
                }
            }
        }
    }
    Ok(())
}

fn compared(options: &Options, kind: Kind, flows: usize) -> Result<(), String> {
    let row = match kind {
        Kind::Ours => Run::new(options, flows, ours)?.row(options, flows)?,
        Kind::Rings => {
            let rings =
                |port, _: &Arc<Settings>, now| Ok(Rings::new(port, (SERVER_IPV4, PORTAL), now));
            Run::new(options, flows, rings)?.row(options, flows)?
        }
    };
    let lies = match kind {
        Kind::Ours => "frames, buffers (ours)",
        Kind::Rings => "rings (plain smoltcp)",
    };
    println!("| {flows} | {lies} | {row} |");
    Ok(())
}

fn ours(port: Near, settings: &Arc<Settings>, now: Instant) -> Result<Ours, String> {
    Ours::new(port, settings, now).map_err(|error| error.to_string())
}

/// Both ends of a device, and their connections.
struct Run<E> {
    clock: Clock,
    now: Instant,
    pool: Pool,
    client: Client<Far>,
    server: E,
    /// The client's names of connections, by number.
    flows: Vec<FlowId>,
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

impl<E: End> Run<E> {
    fn new(
        options: &Options,
        flows: usize,
        server: impl FnOnce(Near, &Arc<Settings>, Instant) -> Result<E, String>,
    ) -> Result<Self, String> {
        let (near, far) = dma::pair(options.mtu, !options.no_offloads);
        let clock = Clock::start();
        let now = clock.began();
        let server = server(near, &settings(SERVER, flows, true), now)?;
        let client = Client::new(far, &settings(CLIENT, flows, false), now);
        let pool = Pool::new(16 << 20, Pages::Normal).map_err(|error| error.to_string())?;
        let mut run = Self {
            clock,
            now,
            pool,
            client: client.map_err(|error| error.to_string())?,
            server,
            flows: Vec::with_capacity(flows),
            next: 0,
        };
        let settled = run.now + SETTLE;
        while run.now < settled {
            run.now += Duration::from_millis(10);
            run.turn();
        }
        Ok(run)
    }

    /// Connects until there are so many.
    fn connect(&mut self, flows: usize) -> Result<(), String> {
        for at in self.flows.len()..flows {
            let local = SocketAddr::new(CLIENT, 1024 + u16::try_from(at).expect("bounded"));
            let peer = SocketAddr::new(SERVER, PORTAL);
            let ours = self.client.connect(local, peer, None, self.now);
            let ours = ours.ok_or("the client has no room for a connection")?;
            let is_open =
                |run: &Self| run.server.opened() > at && run.client.state(ours) == State::Open;
            for _ in 0..TURNS_MAX {
                if is_open(self) {
                    break;
                }
                self.turn();
            }
            if !is_open(self) {
                return Err("a connection was not established".into());
            }
            self.flows.push(ours);
        }
        Ok(())
    }

    /// One turn of both ends, not timed.
    fn turn(&mut self) {
        self.now += TURN;
        self.client.turn(self.now);
        self.server.acknowledged(self.now);
        self.server.settle(self.now);
        self.client.turn(self.now);
    }

    /// What is the same in every run holds in this one.
    fn check(&self) -> Result<(), String> {
        if self.server.port().copied() > 0 {
            return Err("payload was copied that lies in a buffer of the pool".into());
        }
        Ok(())
    }

    /// All figures of `flows` connections; memory is that of all but the first.
    fn row(mut self, options: &Options, flows: usize) -> Result<String, String> {
        let own = std::process::id();
        let memory = || -> std::io::Result<_> { Ok((resident_kib(own)?, proportional_kib(own)?)) };
        self.connect(1)?;
        let first = Options {
            packets: BUFFERS,
            ..options.clone()
        };
        self.receive(&first, true);
        self.transmit(&first);
        let before = memory().map_err(|error| error.to_string())?;
        self.connect(flows)?;
        let (receive, acknowledge) = self.receive(options, false);
        let (into, _) = self.receive(options, true);
        let (transmit, acknowledged) = self.transmit(options);
        self.check()?;
        let after = memory().map_err(|error| error.to_string())?;
        let more = u64::try_from(flows - 1).expect("bounded");
        let each = |before: u64, after: u64| match after.saturating_sub(before).checked_div(more) {
            None => "-".to_owned(),
            Some(each) => each.to_string(),
        };
        Ok(format!(
            "{receive:.0} | {into:.0} | {acknowledge:.0} | {transmit:.0} | {acknowledged:.0} | {} | {}",
            each(before.0, after.0),
            each(before.1, after.1)
        ))
    }

    /// Nanoseconds per received packet, `deposited` in buffers of writes or not looked at; and per
    /// burst for what answers them.
    fn receive(&mut self, options: &Options, deposited: bool) -> (f64, f64) {
        let bytes = vec![0x5a; options.spread * usize::from(options.mtu - 40 - 12)];
        let (mut receive, mut acknowledge) = (Cost::default(), Cost::default());
        let mut writes = deposited.then(|| Writes::new(&self.pool).expect("the pool is larger"));
        let mut warm_up = self.flows.len() * options.spread * 2;
        if options.row.is_some() {
            // Every page of every ring was used once.
            warm_up += self.flows.len() * RING_BYTES.div_ceil(usize::from(options.mtu - 40 - 12));
        }
        let mut seen = 0;
        while receive.count < options.packets {
            for _ in 0..(BURST / options.spread).max(1) {
                let ours = self.flows[self.next];
                self.next = (self.next + 1) % self.flows.len();
                self.client.send(ours, &bytes);
            }
            self.now += TURN;
            self.client.turn(self.now);
            self.receive_timed(writes.as_mut(), &mut receive, &mut acknowledge);
            self.client.turn(self.now);
            if seen < warm_up {
                seen += usize::try_from(receive.count).unwrap_or(usize::MAX);
                (receive, acknowledge) = (Cost::default(), Cost::default());
            }
        }
        (receive.each(), acknowledge.each())
    }

    fn receive_timed(
        &mut self,
        into: Option<&mut Writes>,
        receive: &mut Cost,
        acknowledge: &mut Cost,
    ) {
        let before = self.server.port().counters().received;
        let begin = self.clock.now_ns();
        self.server.receive(self.now, into);
        let received = self.clock.now_ns();
        receive.add(
            received - begin,
            self.server.port().counters().received - before,
        );
        self.server.answer(self.now);
        acknowledge.add(self.clock.now_ns() - received, 1);
        self.server.settle(self.now);
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
            let connection = self.next;
            self.next = (self.next + 1) % self.flows.len();
            if self.server.unacknowledged(connection) > 0 {
                continue;
            }
            sent.push(self.flows[connection]);
            let begin = self.clock.now_ns();
            let taken = self.server.send(connection, buf);
            cost.add(self.clock.now_ns() - begin, if taken { each } else { 0 });
        }
        let begin = self.clock.now_ns();
        self.server.transmit(self.now);
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
        self.server.acknowledged(self.now);
        let count = self.server.port().counters().received - before;
        if count > 0 {
            cost.add(self.clock.now_ns() - begin, count);
        }
        self.server.settle(self.now);
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

    fn options() -> Options {
        Options {
            flows: vec![3],
            mtu: 9000,
            spread: 2,
            packets: 500,
            no_offloads: false,
            cpu: None,
            peer: false,
            rounds: 1,
            row: None,
        }
    }

    /// What the rows of real rings are of: each byte is copied twice each way, and all arrive.
    #[test]
    fn payload_goes_through_real_rings_whole() {
        for no_offloads in [false, true] {
            let options = Options {
                no_offloads,
                ..options()
            };
            let rings =
                |port, _: &Arc<Settings>, now| Ok(Rings::new(port, (SERVER_IPV4, PORTAL), now));
            let mut run = Run::new(&options, 3, rings).unwrap();
            run.connect(3).unwrap();
            assert_eq!(run.server.opened(), 3);
            let before = (copied::bytes(), run.server.port().counters().received);
            run.receive(&options, true);
            let frames = run.server.port().counters().received - before.1;
            assert!(frames >= 500, "{frames} frames");
            // Into the buffers; the copy into the ring is smoltcp's own.
            let into = copied::bytes() - before.0;
            assert!(into >= 500 * 8000, "{into} bytes");
            let mut sent: Vec<u8> = Vec::new();
            let mut buf = run.pool.alloc(SEND_BYTES).unwrap();
            for (at, slice) in buf.slices_mut().enumerate() {
                slice.fill(u8::try_from(at).unwrap() + 1);
            }
            let expected = buf.to_vec();
            for _ in 0..4 {
                assert!(run.server.send(1, &buf));
                for _ in 0..8 {
                    run.turn();
                    while run.client.receive(run.flows[1], |bytes| sent.extend(bytes)) > 0 {}
                }
            }
            assert!(sent.chunks(SEND_BYTES).all(|chunk| chunk == expected));
            assert_eq!(sent.len(), 4 * SEND_BYTES);
            assert_eq!(run.server.unacknowledged(1), 0);
        }
    }

    /// The copy budget of docs/ARCHITECTURE.md: what a READ sends leaves from where it lies, with
    /// and without offloads, and what a WRITE received is not copied on its way up.
    #[test]
    fn payload_is_not_copied_between_buffers_and_device() {
        for no_offloads in [false, true] {
            let options = Options {
                no_offloads,
                ..options()
            };
            let mut run = Run::new(&options, 3, ours).unwrap();
            run.connect(3).unwrap();
            let before = copied::bytes();
            let received = run.server.port().counters().received;
            run.receive(&options, false);
            assert!(run.server.port().counters().received - received >= 500);
            run.transmit(&options);
            let port = run.server.port();
            assert!(port.lent() >= 500 * 8000, "{} bytes", port.lent());
            assert_eq!((port.copied(), copied::bytes() - before), (0, 0));
        }
    }
}
