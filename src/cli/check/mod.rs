//! Whether this machine can do what a configuration asks of it: CPUs, huge pages, network cards,
//! TAP devices, NVMe controllers, privileges.
//!
//! Everything is read below a root that is given, `/` outside tests, and nothing is changed. What
//! it finds is true of the process that looks: run it as the user that the daemon runs as, while
//! the daemon does not run.

mod cpus;
mod interfaces;
mod memory;
mod nvme;
mod pci;
mod privileges;
mod tree;

use std::fmt;

use crate::config::{Config, CoreList, Device, Port, Severity};
use crate::port::dpdk;
pub(super) use tree::Tree;

/// One thing that this machine lacks or that was probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) severity: Severity,
    message: String,
    help: String,
}

impl Found {
    fn error(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            help: help.into(),
        }
    }

    fn warning(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(message, help)
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let help = self.help.replace('\n', "\n        ");
        write!(f, "{severity}: {}\n  help: {help}", self.message)
    }
}

/// Everything that stands between `config` and the machine below `tree`, the order being that of
/// the start.
pub(super) fn machine(config: &Config, tree: &Tree) -> Vec<Found> {
    let mut found = Vec::new();
    cpus::check(config, tree, &mut found);
    memory::check(config, tree, &mut found);
    if config.dpdk.is_some() && !dpdk::BUILT_IN {
        let ports = config.ports.iter().filter(|port| port.device.needs_dpdk());
        let names: Vec<&str> = ports.map(|port| port.name.as_str()).collect();
        found.push(Found::error(
            format!(
                "port {}: type \"dpdk\" needs the feature `dpdk`, which this build does not have",
                names.join(", ")
            ),
            "install libdpdk 22.11 or newer (Debian: apt install libdpdk-dev libclang-dev \
             pkg-config) and build with: cargo build --release --features dpdk\n\
             or use type = \"tap\", or portals of the host",
        ));
    }
    for port in &config.ports {
        match &port.device {
            Device::Pci(address) => pci::check(config, port, address, tree, &mut found),
            Device::Vdev(vdev) => interfaces::check_vdev(port, vdev, tree, &mut found),
            Device::Tap(name) => interfaces::check_tap(port, name, tree, &mut found),
        }
        interfaces::check_addresses(port, tree, &mut found);
    }
    nvme::check(config, tree, &mut found);
    privileges::check(config, tree, &mut found);
    found
}

/// The CPUs of a port's queues, as far as the configuration names them.
fn cpus_of(config: &Config, port: &Port) -> Vec<usize> {
    match &config.cores.list {
        CoreList::List(list) => port
            .cores
            .iter()
            .filter_map(|core| list.get(*core).copied())
            .collect(),
        CoreList::Count(_) => Vec::new(),
    }
}

/// Numbers as the kernel writes lists of them: `2-5,8`.
fn ranges(numbers: &[usize]) -> String {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for number in sorted {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let text = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
