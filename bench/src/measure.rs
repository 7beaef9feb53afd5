//! One run: sessions in one thread, warm-up, then slices of time with what the target's CPU did in
//! each.
//!
//! Virtual machines lose CPU to their neighbours in bursts, and to other processes inside. A slice
//! in which the hypervisor took time from either CPU, or client or target waited for a CPU that
//! somebody else had, is left out of the figures called clean, latencies included. When no slice is
//! clean the figures are of all slices and say so.

use crate::clock::Clock;
use crate::line::Wire;
use crate::processor::{CpuTime, Steal};
use crate::session::{Session, Tally, Trouble};
use hdrhistogram::Histogram;
use iiblockdaemon::net::stack::model::FlowId;
use iiblockdaemon::testing::flows::Client;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use std::io;
use std::os::fd::OwnedFd;

/// One receive takes at most this much; it stays in the second-level cache.
const SCRATCH_BYTES: usize = 256 * 1024;
const SLICE_NS: u64 = 20_000_000;
/// Fewer clean slices than this are an accident, not a sample.
const CLEAN_SLICES_MIN: usize = 5;
/// In a clean slice client and target wait for their CPUs at most this long, each: 2.5 %.
const WAIT_NS_MAX: u64 = SLICE_NS / 40;
/// Sessions that one wait can report.
const READY_MAX: usize = 256;
/// A target that answers nothing for so long has failed.
const STALL_NS: u64 = 20_000_000_000;
/// How long one wait sleeps before it looks at the time again, in milliseconds.
const WAIT_MS: i64 = 50;

/// How a run is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub warm_up_ns: u64,
    pub duration_ns: u64,
    /// Look at the sockets all the time instead of sleeping until one is ready.
    pub spin: bool,
    pub client_cpu: usize,
    pub target_cpu: usize,
    pub target_pid: Option<u32>,
}

/// What a run gave. Times in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub seconds: f64,
    pub ios: u64,
    pub iops: f64,
    /// Of slices without steal, or of all when `clean_slices` is 0.
    pub clean_iops: f64,
    pub mb_per_s: f64,
    pub latency_us_p50: f64,
    pub latency_us_p99: f64,
    pub latency_us_p999: f64,
    pub latency_us_max: f64,
    /// CPU time of all threads of the target, in clean slices as `clean_iops`.
    pub target_cpu_us_per_io: Option<f64>,
    /// CPU seconds per second, times 100.
    pub target_cpu_percent: Option<f64>,
    pub client_cpu_us_per_io: f64,
    pub client_cpu_percent: f64,
    /// Time of turns in which something came, times 100; of load over frames only, which never
    /// sleeps. Well below 100 the target was what limited the run.
    pub client_busy_percent: Option<f64>,
    pub slices: usize,
    pub clean_slices: usize,
    pub steal_percent: f64,
}

/// The state of the world at a slice's edge.
#[derive(Clone, Copy, Debug)]
struct Edge {
    at_ns: u64,
    ios: u64,
    target: Option<CpuTime>,
    client: CpuTime,
    steal: Steal,
}

impl Edge {
    /// Whether neither client nor target waited long for its CPU since the edge before. The kernel
    /// books a wait when it ends, so a slice is judged by the one behind it as well. Threads of a
    /// target also wait for each other; nobody else had the CPU if together they used nearly all of
    /// it.
    fn had_its_cpu(&self, before: &Self) -> bool {
        let waited = |now: CpuTime, then: CpuTime| now.wait_ns.saturating_sub(then.wait_ns);
        let (now, then) = (
            self.target.unwrap_or_default(),
            before.target.unwrap_or_default(),
        );
        let is_full = now.run_ns.saturating_sub(then.run_ns) + WAIT_NS_MAX
            >= self.at_ns.saturating_sub(before.at_ns);
        (is_full || waited(now, then) <= WAIT_NS_MAX)
            && waited(self.client, before.client) <= WAIT_NS_MAX
    }
}

/// Which slices nobody disturbed; slice `i` lies between the edges `i` and `i + 1`.
fn clean_slices(edges: &[Edge]) -> Vec<bool> {
    let had_its_cpu: Vec<bool> = edges
        .windows(2)
        .map(|pair| pair[1].had_its_cpu(&pair[0]))
        .collect();
    let is_clean = |(index, pair): (usize, &[Edge])| {
        pair[0].steal == pair[1].steal
            && pair[0].ios < pair[1].ios
            && had_its_cpu[index]
            && had_its_cpu.get(index + 1).copied().unwrap_or(false)
    };
    let mut clean: Vec<bool> = edges.windows(2).enumerate().map(is_clean).collect();
    if clean.iter().filter(|clean| **clean).count() < CLEAN_SLICES_MIN {
        clean.fill(false);
    }
    clean
}

/// A run under way.
#[derive(Debug)]
struct Run<'a> {
    plan: Plan,
    clock: Clock,
    /// What all sessions go over, unless they have sockets.
    wire: Option<Wire>,
    sessions: &'a mut [Session],
    /// Which session goes over the flow at this place.
    by_slot: Vec<Option<usize>>,
    epoll: OwnedFd,
    /// Which sessions wait for room in their socket, so that it is asked for only then.
    waits_for_room: Vec<bool>,
    scratch: Vec<u8>,
    payload: Vec<u8>,
    tally: Tally,
    progress_ns: u64,
    /// Time spent in turns over frames in which something came.
    busy_ns: u64,
}

/// Runs the load and measures it. All sessions have been connected with the same work.
pub fn measure(
    plan: Plan,
    sessions: &mut [Session],
    wire: Option<Wire>,
    io_bytes: u32,
) -> Result<Figures, Trouble> {
    let clock = Clock::start();
    let count = sessions.len();
    let io_size = usize::try_from(io_bytes).expect("32 bits fit");
    let mut run = Run {
        plan,
        clock,
        wire,
        by_slot: by_slot(sessions),
        epoll: epoll::create(CreateFlags::CLOEXEC).map_err(io::Error::from)?,
        waits_for_room: vec![false; count],
        scratch: vec![0; SCRATCH_BYTES],
        payload: (0..=250).cycle().take(io_size).collect(),
        tally: Tally::default(),
        progress_ns: 0,
        busy_ns: 0,
        sessions,
    };
    for index in 0..count {
        run.watch(index)?;
        run.turn(index)?;
    }
    run.until(plan.warm_up_ns)?;
    let warm_ios = run.tally.ios;
    run.tally = Tally::default();
    run.busy_ns = 0;
    assert!(
        warm_ios > 0 || plan.warm_up_ns == 0,
        "a warm-up without I/O was reported as a stall"
    );
    let begin = run.clock.now_ns();
    let mut edges = vec![run.edge()?];
    let mut tallies = Vec::new();
    while run.clock.now_ns() < begin + plan.duration_ns {
        let next = run.clock.now_ns() + SLICE_NS;
        run.until(next)?;
        edges.push(run.edge()?);
        tallies.push(run.tally.latency_ns.clone());
        run.tally.latency_ns.reset();
    }
    let clean = clean_slices(&edges);
    let any = clean.contains(&true);
    let mut latency_ns = Tally::default().latency_ns;
    for (slice, _) in tallies
        .iter()
        .zip(&clean)
        .filter(|(_, clean)| **clean || !any)
    {
        latency_ns += slice;
    }
    let figures = Figures {
        client_busy_percent: run.wire.is_some().then(|| {
            let span_ns = edges[edges.len() - 1].at_ns - edges[0].at_ns;
            ratio(run.busy_ns, span_ns) * 100.0
        }),
        ..figures(&edges, &clean, &latency_ns, io_bytes)
    };
    run.drain()?;
    Ok(figures)
}

fn by_slot(sessions: &[Session]) -> Vec<Option<usize>> {
    let mut by_slot = Vec::new();
    for (index, session) in sessions.iter().enumerate() {
        if let Some(slot) = session.line().slot() {
            by_slot.resize(by_slot.len().max(slot + 1), None);
            by_slot[slot] = Some(index);
        }
    }
    by_slot
}

impl Run<'_> {
    fn watch(&mut self, index: usize) -> Result<(), Trouble> {
        let data = EventData::new_u64(u64::try_from(index).expect("an index is small"));
        if let Some(socket) = self.sessions[index].line().socket() {
            epoll::add(&self.epoll, socket, data, EventFlags::IN).map_err(io::Error::from)?;
        }
        Ok(())
    }

    fn until(&mut self, end_ns: u64) -> Result<(), Trouble> {
        loop {
            let now = self.clock.now_ns();
            if now >= end_ns {
                return Ok(());
            }
            if now > self.progress_ns + STALL_NS {
                return Err(Trouble::Protocol("nothing for 20 s".into()));
            }
            self.wait_and_turn()?;
        }
    }

    fn wait_and_turn(&mut self) -> Result<(), Trouble> {
        if let Some(wire) = self.wire.clone() {
            return self.turn_over(&wire);
        }
        let wait_ns = if self.plan.spin {
            0
        } else {
            WAIT_MS * 1_000_000
        };
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: wait_ns,
        };
        let none = epoll::Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        let mut events = [none; READY_MAX];
        let ready = match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
            Ok(ready) => ready,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(io::Error::from(error).into()),
        };
        for event in events.iter().take(ready) {
            self.turn(usize::try_from(event.data.u64()).expect("it is one of our indices"))?;
        }
        Ok(())
    }

    /// Frames in and out, and a turn of each session that has news.
    fn turn_over(&mut self, wire: &Wire) -> Result<(), Trouble> {
        let began = self.clock.now_ns();
        let mut worked = wire.turn();
        while let Some(slot) = wire.with(Client::next_due).map(FlowId::slot) {
            let Some(&Some(index)) = self.by_slot.get(slot) else {
                continue;
            };
            while self.turn(index)? {}
            worked = true;
        }
        if worked {
            self.busy_ns += self.clock.now_ns().saturating_sub(began);
        }
        Ok(())
    }

    /// `true`: something came.
    fn turn(&mut self, index: usize) -> Result<bool, Trouble> {
        let clock = self.clock;
        let session = &mut self.sessions[index];
        let came = session.turn(
            || clock.now_ns(),
            &mut self.scratch,
            &self.payload,
            &mut self.tally,
        )?;
        if came {
            self.progress_ns = clock.now_ns();
        }
        if session.wants_write() != self.waits_for_room[index] {
            let wants = session.wants_write();
            self.waits_for_room[index] = wants;
            let mut flags = EventFlags::IN;
            flags.set(EventFlags::OUT, wants);
            let data = EventData::new_u64(u64::try_from(index).expect("an index is small"));
            if let Some(socket) = session.line().socket() {
                epoll::modify(&self.epoll, socket, data, flags).map_err(io::Error::from)?;
            }
        }
        Ok(came)
    }

    fn edge(&self) -> Result<Edge, Trouble> {
        let plan = &self.plan;
        Ok(Edge {
            at_ns: self.clock.now_ns(),
            ios: self.tally.ios,
            target: plan.target_pid.map(CpuTime::read).transpose()?,
            client: CpuTime::read(std::process::id())?,
            steal: Steal::read(plan.client_cpu, plan.target_cpu)?,
        })
    }

    /// Lets the commands that are outstanding end, so that the target is left tidy.
    fn drain(&mut self) -> Result<(), Trouble> {
        self.sessions.iter_mut().for_each(Session::stop);
        let end = self.clock.now_ns() + STALL_NS;
        while !self.sessions.iter().all(Session::is_idle) && self.clock.now_ns() < end {
            self.wait_and_turn()?;
        }
        Ok(())
    }
}

/// Waits until any of these sessions has something to say, for idle connections.
pub fn wait_readable(sessions: &[Session], timeout_ms: i64) -> io::Result<bool> {
    let mut fds: Vec<PollFd<'_>> = sessions
        .iter()
        .filter_map(|session| session.line().socket())
        .map(|socket| PollFd::new(socket, PollFlags::IN))
        .collect();
    let timeout = Timespec {
        tv_sec: timeout_ms / 1000,
        tv_nsec: timeout_ms % 1000 * 1_000_000,
    };
    Ok(poll(&mut fds, Some(&timeout))? > 0)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "figures for people: 53 bits are enough"
)]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

fn figures(edges: &[Edge], clean: &[bool], latency_ns: &Histogram<u64>, io_bytes: u32) -> Figures {
    let (first, last) = (edges[0], edges[edges.len() - 1]);
    let any = clean.contains(&true);
    let used: Vec<&[Edge]> = edges
        .windows(2)
        .zip(clean)
        .filter(|(_, clean)| **clean || !any)
        .map(|(pair, _)| pair)
        .collect();
    let sum = |value: &dyn Fn(&Edge) -> u64| -> u64 {
        used.iter()
            .map(|pair| value(&pair[1]).saturating_sub(value(&pair[0])))
            .sum()
    };
    let (used_ns, used_ios) = (sum(&|edge| edge.at_ns), sum(&|edge| edge.ios));
    let target_ns = first
        .target
        .map(|_| sum(&|edge| edge.target.map_or(0, |target| target.run_ns)));
    let client_ns = sum(&|edge| edge.client.run_ns);
    let span_ns = last.at_ns - first.at_ns;
    let stolen =
        (last.steal.client - first.steal.client) + (last.steal.target - first.steal.target);
    let ns_per_tick = 10_000_000;
    let quantile = |q| ratio(latency_ns.value_at_quantile(q), 1000);
    let clean_iops = ratio(used_ios, used_ns) * 1e9;
    Figures {
        seconds: ratio(span_ns, 1_000_000_000),
        ios: last.ios - first.ios,
        iops: ratio(last.ios - first.ios, span_ns) * 1e9,
        clean_iops,
        mb_per_s: clean_iops * f64::from(io_bytes) / 1e6,
        latency_us_p50: quantile(0.5),
        latency_us_p99: quantile(0.99),
        latency_us_p999: quantile(0.999),
        latency_us_max: ratio(latency_ns.max(), 1000),
        target_cpu_us_per_io: target_ns.map(|ns| ratio(ns, used_ios) / 1000.0),
        target_cpu_percent: target_ns.map(|ns| ratio(ns, used_ns) * 100.0),
        client_cpu_us_per_io: ratio(client_ns, used_ios) / 1000.0,
        client_cpu_percent: ratio(client_ns, used_ns) * 100.0,
        client_busy_percent: None,
        slices: clean.len(),
        clean_slices: clean.iter().filter(|clean| **clean).count(),
        steal_percent: ratio(stolen * ns_per_tick, 2 * span_ns) * 100.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_slices_are_left_out() {
        let edge = |slice: u64, ios, run_ns, wait_ns, stolen| Edge {
            at_ns: slice * SLICE_NS,
            ios,
            target: Some(CpuTime { run_ns, wait_ns }),
            client: CpuTime::default(),
            steal: Steal {
                client: stolen,
                target: 0,
            },
        };
        // Clean, then one with steal, one that waited (booked in the one behind it), and clean
        // ones.
        let mut edges = vec![
            edge(0, 0, 0, 0, 0),
            edge(1, 200, 2_000_000, WAIT_NS_MAX, 0),
            edge(2, 210, 18_000_000, WAIT_NS_MAX, 1),
            edge(3, 220, 20_000_000, WAIT_NS_MAX, 1),
            edge(4, 230, 30_000_000, 3 * WAIT_NS_MAX, 1),
        ];
        for n in 1..=6 {
            edges.push(edge(
                4 + n,
                230 + 200 * n,
                30_000_000 + 2_000_000 * n,
                3 * WAIT_NS_MAX,
                1,
            ));
        }
        let clean = clean_slices(&edges);
        let expected = [
            true, false, false, false, true, true, true, true, true, false,
        ];
        assert_eq!(clean, expected);
        let it = figures(&edges, &clean, &Tally::default().latency_ns, 4096);
        assert_eq!((it.slices, it.clean_slices), (10, 6));
        assert!((it.clean_iops - 10_000.0).abs() < 1e-6);
        assert!((it.target_cpu_us_per_io.unwrap() - 10.0).abs() < 1e-6);
        assert!((it.iops - 7150.0).abs() < 1e-6);
        assert!((it.steal_percent - 2.5).abs() < 1e-6);
        assert_eq!(
            clean_slices(&edges[..5]),
            [false; 4],
            "one clean slice is an accident"
        );
    }
}
