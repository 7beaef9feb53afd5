//! Which CPUs there are, and pinning a thread to one of them.

/// The highest CPU number that `core_affinity` can name without aborting the process.
const CPU_MAX: usize = 1023;

/// CPUs that this process may run on, ascending. Call it before any thread is pinned.
pub fn available() -> Vec<usize> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    let mut cpus: Vec<_> = ids
        .into_iter()
        .map(|core| core.id)
        .filter(|id| *id <= CPU_MAX)
        .collect();
    cpus.sort_unstable();
    cpus
}

/// Pins the calling thread, and looks whether it worked.
///
/// # Errors
/// A sentence for the operator.
pub fn pin(cpu: usize) -> Result<(), String> {
    if cpu > CPU_MAX {
        return Err(format!(
            "CPU {cpu} is beyond the {CPU_MAX} that can be pinned to"
        ));
    }
    if !core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) {
        return Err(format!(
            "CPU {cpu} is offline or outside this process's CPU set"
        ));
    }
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) if set.is_set(cpu) && set.count() == 1 => Ok(()),
        Ok(_) => Err(format!("the kernel did not keep the thread on CPU {cpu}")),
        Err(error) => Err(format!("CPU affinity cannot be read: {error}")),
    }
}

/// Keeps the calling thread off these CPUs, where that leaves it any.
pub fn keep_off(cpus: &[usize]) {
    let Ok(mut set) = rustix::thread::sched_getaffinity(None) else {
        return;
    };
    for cpu in cpus.iter().filter(|cpu| **cpu <= CPU_MAX) {
        set.unset(*cpu);
    }
    if set.count() > 0 {
        // It is a kindness to the data cores, and no more.
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_pinned_where_it_may_run_and_nowhere_else() {
        let cpus = available();
        assert!(!cpus.is_empty());
        let first = cpus[0];
        std::thread::spawn(move || pin(first).unwrap())
            .join()
            .unwrap();
        std::thread::spawn(|| pin(5000).unwrap_err())
            .join()
            .unwrap();
    }

    #[test]
    fn a_thread_keeps_off_where_there_is_another_cpu() {
        let cpus = available();
        let (first, others) = (cpus[0], cpus[1..].to_vec());
        let off = move |kept_off: Vec<usize>| {
            let thread = std::thread::spawn(move || {
                keep_off(&kept_off);
                available()
            });
            thread.join().unwrap()
        };
        let left = if others.is_empty() {
            cpus.clone()
        } else {
            others
        };
        assert_eq!(off(vec![first, 5000]), left);
        // Nowhere is no place.
        assert_eq!(off(cpus.clone()), cpus);
    }
}
