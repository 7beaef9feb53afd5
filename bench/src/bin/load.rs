//! Puts load on an iSCSI target and prints one line of JSON with what it took.

use bench::clock::Clock;
use bench::device::{Link, Local, Opened};
use bench::measure::{Figures, Plan, measure};
use bench::processor::{proportional_kib, resident_kib};
use bench::session::{self, DEPTH_MAX, LOGIN_TIMEOUT, Session, Trouble, Work};
use bench::verify::{Model, Verified};
use clap::builder::RangedI64ValueParser;
use clap::{Parser, ValueEnum, value_parser};
use iiblockdaemon::testing::tcp::{self, TcpInitiator};
use serde::Serialize;
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;

/// Sessions of one run: each has an ISID of its own.
const SESSIONS_MAX: u16 = 4096;

/// Load for iSCSI targets: one thread, many sessions, a batch of PDUs per system call.
#[derive(Clone, Debug, Parser)]
struct Options {
    /// Address and port of the portal.
    #[arg(long, default_value = "127.0.0.1:3260")]
    portal: SocketAddr,
    /// Name of the target.
    #[arg(long)]
    target: String,
    /// Name of this initiator.
    #[arg(long, default_value = "iqn.2026-11.io.iiblockdaemon:load")]
    initiator: String,
    #[arg(long, default_value_t = 0)]
    lun: u8,
    #[arg(long, default_value_t = 1, value_parser = count())]
    sessions: u16,
    /// Commands outstanding in each session.
    #[arg(long, default_value_t = 32, value_parser = depth)]
    depth: usize,
    /// Bytes of one command.
    #[arg(long, default_value_t = 4096, value_parser = size())]
    bytes: u32,
    /// Share of reads; the rest are writes.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u8).range(0..=100))]
    reads: u8,
    /// One block after the other instead of random ones.
    #[arg(long)]
    sequential: bool,
    /// The part of the unit to use, in MiB.
    #[arg(long, default_value_t = 256)]
    span_mib: u32,
    #[arg(long)]
    header_digest: bool,
    #[arg(long)]
    data_digest: bool,
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    #[arg(long, default_value_t = 0.3)]
    warm_up: f64,
    /// Never sleep: lower latency, and a core gone.
    #[arg(long)]
    spin: bool,
    /// The CPU for this program.
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// The CPU that the target is pinned to, whose stolen time counts.
    #[arg(long, default_value_t = 1)]
    target_cpu: usize,
    /// The target's process, to see what CPU time it takes.
    #[arg(long)]
    target_pid: Option<u32>,
    /// Go over a device of DPDK's and TCP of our own instead of sockets: its name, with arguments.
    #[arg(long, requires = "local")]
    vdev: Option<String>,
    /// Our address on that device, and its network: 10.9.0.2/24.
    #[arg(long)]
    local: Option<Local>,
    /// Bytes of the longest IP packet there.
    #[arg(long, default_value_t = 1500)]
    mtu: u16,
    /// Frames in huge pages.
    #[arg(long)]
    huge: bool,
    /// Memory for frames.
    #[arg(long, default_value_t = 256)]
    dpdk_mib: u32,
    /// Tells DPDK's processes apart.
    #[arg(long, default_value = "load")]
    file_prefix: String,
    /// Instead of load: write and read in all sizes, and compare every block that comes back.
    #[arg(long, conflicts_with = "idle")]
    verify: bool,
    /// Instead of load: open so many connections and tell how the target's memory grows.
    #[arg(long, requires = "target_pid")]
    idle: Option<Idle>,
    /// A name for the result.
    #[arg(long, default_value = "")]
    label: String,
}

/// Connections that do nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Idle {
    /// Established and no more: not one byte is sent.
    Connections,
    /// Logged in.
    Sessions,
}

/// What `--idle` prints.
#[derive(Debug, Serialize)]
struct Growth<'a> {
    label: &'a str,
    connections: u16,
    /// See [`proportional_kib`].
    kib_before: u64,
    kib_after: u64,
    /// What the kernel calls resident; rings count as often as they are mapped.
    resident_kib_before: u64,
    resident_kib_after: u64,
}

/// What `--verify` prints.
#[derive(Debug, Serialize)]
struct Compared<'a> {
    label: &'a str,
    sessions: u16,
    #[serde(flatten)]
    verified: Verified,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Line<'a> {
    label: &'a str,
    sessions: u16,
    depth: usize,
    bytes: u32,
    reads: u8,
    sequential: bool,
    header_digest: bool,
    data_digest: bool,
    #[serde(flatten)]
    figures: Figures,
}

fn count() -> RangedI64ValueParser<u16> {
    value_parser!(u16).range(1..=i64::from(SESSIONS_MAX))
}

fn size() -> RangedI64ValueParser<u32> {
    value_parser!(u32).range(512..=1_048_576)
}

fn depth(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(depth @ 1..=DEPTH_MAX) => Ok(depth),
        _ => Err(format!("a number from 1 to {DEPTH_MAX}")),
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if !core_affinity::set_for_current(core_affinity::CoreId { id: options.cpu }) {
        eprintln!("load: cannot be pinned to CPU {}", options.cpu);
        return ExitCode::FAILURE;
    }
    match run(&options) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(trouble) => {
            eprintln!("load: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn work(options: &Options) -> Work {
    Work {
        lun: options.lun,
        io_bytes: options.bytes,
        depth: options.depth,
        reads_percent: options.reads,
        sequential: options.sequential,
        span_bytes: u64::from(options.span_mib) << 20,
        header_digest: options.header_digest,
        data_digest: options.data_digest,
    }
}

/// The device that is asked for, with its stack.
fn open(options: &Options) -> Result<Option<Opened>, Trouble> {
    let (Some(vdev), Some(local)) = (&options.vdev, options.local) else {
        return Ok(None);
    };
    let link = Link {
        vdev: vdev.clone(),
        local,
        mtu: options.mtu,
        huge: options.huge,
        memory_mib: options.dpdk_mib,
        file_prefix: options.file_prefix.clone(),
        flows: usize::from(options.sessions),
    };
    let opened = Opened::open(&link, Clock::start()).map_err(Trouble::Protocol)?;
    Ok(Some(opened))
}

fn run(options: &Options) -> Result<String, Trouble> {
    let device = open(options)?;
    let printed = if options.verify {
        serde_json::to_string(&verify(options, device.as_ref())?)
    } else if let Some(idle) = options.idle {
        serde_json::to_string(&grow(options, device.as_ref(), idle)?)
    } else {
        serde_json::to_string(&load(options, device.as_ref())?)
    };
    printed.map_err(|error| Trouble::Protocol(error.to_string()))
}

fn connect(options: &Options, device: Option<&Opened>) -> Result<Vec<Session>, Trouble> {
    let Options {
        portal,
        initiator,
        target,
        ..
    } = options;
    (0..options.sessions)
        .map(|index| match device {
            None => Session::connect(*portal, initiator, target, index, work(options)),
            Some(device) => {
                let flow = device.connect(*portal).map_err(Trouble::Protocol)?;
                Session::over(flow, initiator, target, index, work(options))
            }
        })
        .collect()
}

fn load<'a>(options: &'a Options, device: Option<&Opened>) -> Result<Line<'a>, Trouble> {
    let mut sessions = connect(options, device)?;
    let work = work(options);
    let keys = sessions.iter().map(Session::negotiated);
    for keys in keys {
        if (keys.header_digest, keys.data_digest) != (work.header_digest, work.data_digest) {
            return Err(Trouble::Protocol(
                "an answer that refuses the digests of this run".into(),
            ));
        }
    }
    let plan = Plan {
        warm_up_ns: nanoseconds(options.warm_up),
        duration_ns: nanoseconds(options.seconds),
        spin: options.spin,
        client_cpu: options.cpu,
        target_cpu: options.target_cpu,
        target_pid: options.target_pid,
    };
    let wire = device.map(|device| device.wire().clone());
    let figures = measure(plan, &mut sessions, wire, options.bytes)?;
    Ok(Line {
        label: &options.label,
        sessions: options.sessions,
        depth: options.depth,
        bytes: options.bytes,
        reads: options.reads,
        sequential: options.sequential,
        header_digest: options.header_digest,
        data_digest: options.data_digest,
        figures,
    })
}

/// How the target's memory grows with connections that do nothing.
fn grow<'a>(
    options: &'a Options,
    device: Option<&Opened>,
    idle: Idle,
) -> Result<Growth<'a>, Trouble> {
    let pid = options.target_pid.unwrap_or_default();
    // What only the first one needs is there already.
    let first = Options {
        sessions: 1,
        ..options.clone()
    };
    drop(connect(&first, device)?);
    let before = (proportional_kib(pid)?, resident_kib(pid)?);
    let (mut sessions, mut flows, mut sockets) = (Vec::new(), Vec::new(), Vec::new());
    match (idle, device) {
        (Idle::Sessions, _) => sessions = connect(options, device)?,
        (Idle::Connections, None) => {
            for _ in 0..options.sessions {
                sockets.push(TcpStream::connect(options.portal)?);
            }
        }
        (Idle::Connections, Some(device)) => {
            for _ in 0..options.sessions {
                flows.push(device.connect(options.portal).map_err(Trouble::Protocol)?);
            }
        }
    }
    let after = (proportional_kib(pid)?, resident_kib(pid)?);
    let opened = sessions.len() + flows.len() + sockets.len();
    assert_eq!(opened, usize::from(options.sessions), "all stand");
    Ok(Growth {
        label: &options.label,
        connections: options.sessions,
        kib_before: before.0,
        kib_after: after.0,
        resident_kib_before: before.1,
        resident_kib_after: after.1,
    })
}

fn verify<'a>(options: &'a Options, device: Option<&Opened>) -> Result<Compared<'a>, Trouble> {
    let config =
        |index| session::config(&options.initiator, &options.target, index, &work(options));
    let verified = match device {
        None => {
            let open = |index| {
                TcpInitiator::open(options.portal, config(index), LOGIN_TIMEOUT)
                    .map_err(Trouble::Setup)
            };
            compare(options, open)?
        }
        Some(device) => {
            let open = |index| {
                let flow = device.connect(options.portal).map_err(Trouble::Protocol)?;
                Ok(TcpInitiator::over(flow, config(index), LOGIN_TIMEOUT))
            };
            compare(options, open)?
        }
    };
    Ok(Compared {
        label: &options.label,
        sessions: options.sessions,
        verified,
    })
}

fn compare<L: tcp::Line>(
    options: &Options,
    open: impl Fn(u16) -> Result<TcpInitiator<L>, Trouble>,
) -> Result<Verified, Trouble> {
    let mut sessions = (0..options.sessions)
        .map(|index| {
            let mut session = open(index)?;
            session.login()?;
            session.clear_unit_attentions(options.lun)?;
            Ok(session)
        })
        .collect::<Result<Vec<_>, Trouble>>()?;
    let (blocks, block_bytes) = sessions[0].read_capacity(options.lun)?;
    let span = (u64::from(options.span_mib) << 20) / u64::from(block_bytes.max(1));
    let used = usize::try_from(blocks.min(span)).unwrap_or(usize::MAX);
    let mut model = Model::new(options.lun, used, block_bytes);
    let (clock, end) = (Clock::start(), nanoseconds(options.seconds));
    while clock.now_ns() < end {
        for session in &mut sessions {
            let stepped = model.step(session);
            stepped.map_err(|wrong| Trouble::Protocol(wrong.to_string()))?;
        }
    }
    for mut session in sessions {
        session.logout()?;
    }
    let verified = model.verified();
    if verified.reads == 0 || verified.writes == 0 {
        return Err(Trouble::Protocol("too little to compare anything".into()));
    }
    Ok(verified)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float to integer cast saturates, and negative durations mean none"
)]
fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}
