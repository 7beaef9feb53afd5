//! Puts load on an iSCSI target and prints one line of JSON with what it took.

use bench::measure::{Figures, Plan, measure};
use bench::session::{DEPTH_MAX, Session, Trouble, Work};
use clap::builder::RangedI64ValueParser;
use clap::{Parser, value_parser};
use serde::Serialize;
use std::net::SocketAddr;
use std::process::ExitCode;

/// Sessions of one run: each has an ISID of its own.
const SESSIONS_MAX: u16 = 1024;

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
    /// A name for the result.
    #[arg(long, default_value = "")]
    label: String,
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

fn run(options: &Options) -> Result<String, Trouble> {
    let work = Work {
        lun: options.lun,
        io_bytes: options.bytes,
        depth: options.depth,
        reads_percent: options.reads,
        sequential: options.sequential,
        span_bytes: u64::from(options.span_mib) << 20,
        header_digest: options.header_digest,
        data_digest: options.data_digest,
    };
    let mut sessions = (0..options.sessions)
        .map(|index| {
            let Options {
                portal,
                initiator,
                target,
                ..
            } = options;
            Session::connect(*portal, initiator, target, index, work.clone())
        })
        .collect::<Result<Vec<_>, _>>()?;
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
    let figures = measure(plan, &mut sessions, options.bytes)?;
    let line = Line {
        label: &options.label,
        sessions: options.sessions,
        depth: options.depth,
        bytes: options.bytes,
        reads: options.reads,
        sequential: options.sequential,
        header_digest: options.header_digest,
        data_digest: options.data_digest,
        figures,
    };
    serde_json::to_string(&line).map_err(|error| Trouble::Protocol(error.to_string()))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float to integer cast saturates, and negative durations mean none"
)]
fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}
