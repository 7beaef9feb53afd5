//! Whether the data cores' CPUs are there, near their cards, and undisturbed where they spin.

use super::{Found, Tree, cpus_of, ranges};
use crate::config::{Config, CoreList, Device, Poll};

const CPUS: &str = "sys/devices/system/cpu";

pub(super) fn check(config: &Config, tree: &Tree, found: &mut Vec<Found>) {
    let online = tree.cpus(&format!("{CPUS}/online")).unwrap_or_default();
    let CoreList::List(list) = &config.cores.list else {
        if config.cores.poll == Poll::Busy {
            found.push(Found::warning(
                "[cores] poll = \"busy\" without list: which CPUs spin is left to chance",
                "name them, list = [2, 3], and keep everything else off them (isolcpus)",
            ));
        }
        return;
    };
    check_there(config, list, &online, tree, found);
    check_nodes(config, tree, found);
    if config.cores.poll == Poll::Busy {
        check_alone(list, &online, tree, found);
    }
}

fn check_there(
    config: &Config,
    list: &[usize],
    online: &[usize],
    tree: &Tree,
    found: &mut Vec<Found>,
) {
    let without = |cpus: &[usize], some: &[usize]| -> Vec<usize> {
        let absent = cpus.iter().filter(|cpu| !some.contains(cpu));
        absent.copied().collect()
    };
    let absent = without(list, online);
    if !absent.is_empty() && !online.is_empty() {
        found.push(Found::error(
            format!(
                "[cores] list: CPU {} is not there or off-line",
                ranges(&absent)
            ),
            format!(
                "choose from {}, or bring it on-line: echo 1 > /sys/devices/system/cpu/cpuN/online",
                ranges(online)
            ),
        ));
    }
    let allowed = tree.value("proc/self/status", "Cpus_allowed_list:");
    let allowed = allowed.map(|text| super::tree::cpu_list(&text));
    let there: Vec<usize> = without(list, &absent);
    let forbidden = allowed.map(|allowed| (without(&there, &allowed), allowed));
    if let Some((forbidden, allowed)) = forbidden
        && !forbidden.is_empty()
        && config.cores.pin
    {
        found.push(Found::error(
            format!(
                "[cores] list: CPU {} is not one of those that this process may use ({})",
                ranges(&forbidden),
                ranges(&allowed)
            ),
            "an isolated CPU has to be given by taskset or CPUAffinity=; a cpuset of the \
             container or AllowedCPUs= of the unit may hold it back",
        ));
    }
}

/// Each card and the CPUs of its queues belong to one NUMA node.
fn check_nodes(config: &Config, tree: &Tree, found: &mut Vec<Found>) {
    for port in &config.ports {
        let Device::Pci(address) = &port.device else {
            continue;
        };
        let path = format!("sys/bus/pci/devices/{address}/numa_node");
        // -1: the machine has no nodes, or does not say.
        let node = tree.number::<i64>(&path).filter(|node| *node >= 0);
        let near =
            node.and_then(|node| tree.cpus(&format!("sys/devices/system/node/node{node}/cpulist")));
        let (Some(node), Some(near)) = (node, near) else {
            continue;
        };
        let mut far = cpus_of(config, port);
        far.retain(|cpu| !near.contains(cpu));
        if !far.is_empty() {
            found.push(Found::warning(
                format!(
                    "port {}: {address} is at NUMA node {node}, CPU {} of its queues is not",
                    port.name,
                    ranges(&far)
                ),
                format!(
                    "each frame then crosses between the sockets; choose from CPU {}",
                    ranges(&near)
                ),
            ));
        }
    }
}

/// A core that spins wants its CPU for itself.
fn check_alone(list: &[usize], online: &[usize], tree: &Tree, found: &mut Vec<Found>) {
    if !online.is_empty() && online.iter().all(|cpu| list.contains(cpu)) {
        found.push(Found::warning(
            "[cores] list takes every CPU, and poll = \"busy\" never gives one back",
            "leave at least one CPU to the kernel and to the control thread",
        ));
    }
    let missing = |file: &str| -> Vec<usize> {
        let given = tree.cpus(&format!("{CPUS}/{file}")).unwrap_or_default();
        let rest = list.iter().filter(|cpu| !given.contains(cpu));
        rest.copied().collect()
    };
    let (shared, ticking) = (missing("isolated"), missing("nohz_full"));
    let cpus = ranges(list);
    if !shared.is_empty() {
        found.push(Found::warning(
            format!(
                "[cores] poll = \"busy\", and CPU {} is not isolated: other tasks take turns there",
                ranges(&shared)
            ),
            format!("add to the kernel's command line: isolcpus=managed_irq,domain,{cpus}"),
        ));
    }
    if !ticking.is_empty() {
        found.push(Found::warning(
            format!(
                "[cores] poll = \"busy\", and the timer ticks on CPU {}",
                ranges(&ticking)
            ),
            format!(
                "add to the kernel's command line: nohz_full={cpus} rcu_nocbs={cpus} (a kernel \
                 with CONFIG_NO_HZ_FULL)"
            ),
        ));
    }
    for (at, cpu) in list.iter().enumerate() {
        let siblings = tree.cpus(&format!("{CPUS}/cpu{cpu}/topology/thread_siblings_list"));
        let siblings = siblings.unwrap_or_default();
        let twin = list[at + 1..].iter().find(|other| siblings.contains(other));
        if let Some(twin) = twin {
            found.push(Found::warning(
                format!("[cores] list: CPU {cpu} and {twin} are threads of one core"),
                "two threads that spin there slow each other down; take one of them",
            ));
        }
    }
}
