//! What the kernel says of processes and CPUs (proc(5)).
//!
//! CPU time of a process is the sum over its threads of the run time in `schedstat`, in
//! nanoseconds, where the kernel keeps it, else of user and system time in `stat`, in ticks. Time
//! that the hypervisor took away is in no process's account; [`Steal`] tells when it happened, and
//! the time spent waiting for a CPU that another process had is the second number of `schedstat`.

use std::fs;
use std::io;
use std::path::Path;

/// Ticks of `stat` per second; Linux shows user space this value on every architecture we run on.
const TICKS_PER_S: u64 = 100;
const NS_PER_TICK: u64 = 1_000_000_000 / TICKS_PER_S;

/// What a process has had of the CPUs so far, summed over its threads that still live, in
/// nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CpuTime {
    pub run_ns: u64,
    /// Time that it could have run, but another process had the CPU. Zero where the kernel does not
    /// say.
    pub wait_ns: u64,
}

impl CpuTime {
    pub fn read(pid: u32) -> io::Result<Self> {
        let mut total = Self::default();
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = thread?.path();
            // A thread may end between the listing and the reading.
            let time = thread_cpu_time(&path).unwrap_or_default();
            total.run_ns += time.run_ns;
            total.wait_ns += time.wait_ns;
        }
        Ok(total)
    }
}

fn thread_cpu_time(thread: &Path) -> Option<CpuTime> {
    if let Ok(schedstat) = fs::read_to_string(thread.join("schedstat")) {
        let mut fields = schedstat
            .split_whitespace()
            .map_while(|field| field.parse().ok());
        if let (Some(run_ns @ 1..), Some(wait_ns)) = (fields.next(), fields.next()) {
            return Some(CpuTime { run_ns, wait_ns });
        }
    }
    let stat = fs::read_to_string(thread.join("stat")).ok()?;
    // The name may hold anything, also spaces: count from its closing parenthesis.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(CpuTime {
        run_ns: (user + system) * NS_PER_TICK,
        wait_ns: 0,
    })
}

/// Resident memory of a process, in KiB.
pub fn resident_kib(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .ok_or_else(|| io::Error::other("no VmRSS in status"))
}

/// Memory of a process in KiB, page tables too. A page that is mapped in many places counts once,
/// where what the kernel calls resident has it as many times as it is mapped.
pub fn proportional_kib(pid: u32) -> io::Result<u64> {
    let number = |file: &str, key: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
            .ok_or_else(|| io::Error::other(format!("no {key} in {file}")))
    };
    Ok(number("smaps_rollup", "Pss:")? + number("status", "VmPTE:")?)
}

/// Ticks that the hypervisor took from each of two CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Steal {
    pub client: u64,
    pub target: u64,
}

impl Steal {
    /// The counts so far. CPUs that do not exist count as zero.
    pub fn read(client_cpu: usize, target_cpu: usize) -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let steal = |cpu: usize| {
            let name = format!("cpu{cpu} ");
            let line = stat.lines().find_map(|line| line.strip_prefix(&name));
            line.and_then(|line| line.split_whitespace().nth(7)?.parse().ok())
                .unwrap_or(0)
        };
        Ok(Self {
            client: steal(client_cpu),
            target: steal(target_cpu),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_cpu_and_memory() {
        let pid = std::process::id();
        let before = CpuTime::read(pid).unwrap().run_ns;
        let mut sum = 0_u64;
        while CpuTime::read(pid).unwrap().run_ns == before {
            sum = (0..100_000_u64).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
        }
        assert!(resident_kib(pid).unwrap() > 100);
        assert!(proportional_kib(pid).unwrap() > 100);
        CpuTime::read(0).unwrap_err();
    }
}
