//! Starts a target and says how long until it accepts a login, and what memory it holds with idle
//! sessions.

use bench::clock::Clock;
use bench::processor::{CpuTime, resident_kib};
use clap::Parser;
use iiblockdaemon::testing::Config;
use iiblockdaemon::testing::tcp::{Failure, TcpInitiator};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use std::error::Error;
use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

/// A target that accepts no login for so long has failed.
const READY_NS_MAX: u64 = 30_000_000_000;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Start-up time and memory of a target.
#[derive(Debug, Parser)]
struct Options {
    #[arg(long)]
    portal: SocketAddr,
    #[arg(long)]
    target: String,
    #[arg(long, default_value_t = 0)]
    lun: u8,
    /// Sessions to log in and leave idle.
    #[arg(long, default_value_t = 64)]
    sessions: u16,
    /// For how long CPU time is counted while all are idle.
    #[arg(long, default_value_t = 2.0)]
    idle_seconds: f64,
    /// The target and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Line {
    /// From the start of the process to the end of the first login.
    ready_ms: f64,
    resident_kib_at_start: u64,
    sessions: u16,
    resident_kib_with_sessions: u64,
    idle_cpu_percent: f64,
    /// From SIGTERM to the end of the process, with all sessions logged in.
    stop_ms: f64,
    exit_code: Option<i32>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let started = Command::new(&options.command[0])
        .args(&options.command[1..])
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            eprintln!("footprint: {}: {error}", options.command[0]);
            return ExitCode::FAILURE;
        }
    };
    let result = run(&options, &mut child);
    // Already gone when all went well.
    let _ = child.kill();
    let _ = child.wait();
    match result.and_then(|line| Ok(serde_json::to_string(&line)?)) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("footprint: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, child: &mut Child) -> Result<Line, Box<dyn Error>> {
    let clock = Clock::start();
    let connect = |index: u16| {
        let config = Config::new("iqn.2026-11.io.iiblockdaemon:footprint", &options.target);
        let config = Config {
            strict_fields: false,
            ..config
        }
        .with_isid_qualifier(index);
        TcpInitiator::connect(options.portal, config, TIMEOUT)
    };
    let first = loop {
        match connect(0) {
            Ok(session) => break session,
            Err(Failure::Violation(violation)) => return Err(violation.into()),
            Err(failure) if clock.now_ns() > READY_NS_MAX => return Err(failure.into()),
            // Not listening yet, or its targets are not there yet.
            Err(_) => {}
        }
        if let Some(status) = child.try_wait()? {
            return Err(format!("the target ended: {status}").into());
        }
    };
    let ready_ms = milliseconds(clock.now_ns());
    let resident_kib_at_start = resident_kib(child.id())?;
    let mut sessions = vec![first];
    for index in 1..options.sessions {
        sessions.push(connect(index)?);
    }
    for session in &mut sessions {
        session.clear_unit_attentions(options.lun)?;
        session.read_capacity(options.lun)?;
    }
    let idle_cpu_percent = idle_cpu_percent(options, clock, child.id(), &mut sessions)?;
    let resident_kib_with_sessions = resident_kib(child.id())?;
    let stop = clock.now_ns();
    let pid = Pid::from_child(child);
    kill_process(pid, Signal::TERM)?;
    // Sessions that are asked to log out do so, as an initiator would.
    for session in &mut sessions {
        match session.wait_closed() {
            Ok(()) | Err(Failure::Closed | Failure::TimedOut) => {}
            Err(failure) => return Err(failure.into()),
        }
    }
    let status = child.wait()?;
    Ok(Line {
        ready_ms,
        resident_kib_at_start,
        sessions: options.sessions,
        resident_kib_with_sessions,
        idle_cpu_percent,
        stop_ms: milliseconds(clock.now_ns() - stop),
        exit_code: status.code(),
    })
}

/// CPU time of the target while it has nothing to do, in percent of one CPU.
fn idle_cpu_percent(
    options: &Options,
    clock: Clock,
    pid: u32,
    sessions: &mut [TcpInitiator],
) -> Result<f64, Box<dyn Error>> {
    let Ok(idle) = Duration::try_from_secs_f64(options.idle_seconds) else {
        return Ok(0.0);
    };
    let (before, from) = (CpuTime::read(pid)?.run_ns, clock.now_ns());
    // Nothing is expected on this socket: waiting for it is a timer.
    let stream = sessions[0].stream();
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(idle))?;
    let _ = stream.peek(&mut [0]);
    stream.set_nonblocking(true)?;
    let used = CpuTime::read(pid)?.run_ns - before;
    Ok(milliseconds(used) / milliseconds(clock.now_ns() - from).max(1.0) * 100.0)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "figures for people: 53 bits are enough"
)]
fn milliseconds(ns: u64) -> f64 {
    ns as f64 / 1e6
}
