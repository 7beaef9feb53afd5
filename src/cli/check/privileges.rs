//! What the process may do: lock memory for cards, open TAP devices and packet sockets.

use super::{Found, Tree, nvme};
use crate::config::{Config, Device};

const STATUS: &str = "proc/self/status";

/// Capabilities of Linux by number (capability.h).
#[derive(Clone, Copy)]
pub(super) enum Capability {
    NetAdmin = 12,
    NetRaw = 13,
    IpcLock = 14,
}

/// Whether the process has it now.
pub(super) fn has(tree: &Tree, capability: Capability) -> bool {
    let set = tree.value(STATUS, "CapEff:");
    let set = set.and_then(|text| u64::from_str_radix(&text, 16).ok());
    set.unwrap_or_default() >> (capability as u32) & 1 == 1
}

/// The user that the process acts as.
pub(super) fn user(tree: &Tree) -> Option<u32> {
    // Real, effective, saved, of the file system.
    let ids = tree.value(STATUS, "Uid:")?;
    ids.split_whitespace().nth(1)?.parse().ok()
}

pub(super) fn check(config: &Config, tree: &Tree, found: &mut Vec<Found>) {
    check_locked_memory(config, tree, found);
}

/// What a card reaches is locked in memory by vfio.
fn check_locked_memory(config: &Config, tree: &Tree, found: &mut Vec<Found>) {
    let pci = |device: &Device| matches!(device, Device::Pci(_));
    let card = config.ports.iter().any(|port| pci(&port.device));
    let dpdk = config.dpdk.as_ref().filter(|_| card);
    // Each controller reaches the pools by itself.
    let controllers = nvme::controllers(config).len();
    if (dpdk.is_none() && controllers == 0) || has(tree, Capability::IpcLock) {
        return;
    }
    // "Max locked memory  8388608  8388608  bytes": the soft limit comes first.
    let limit = tree.value("proc/self/limits", "Max locked memory");
    let soft = limit.and_then(|text| text.split_whitespace().next().map(str::to_owned));
    let Some(soft) = soft.and_then(|text| text.parse::<u64>().ok()) else {
        // "unlimited", or a kernel that does not say.
        return;
    };
    let pools = config.memory.pool_bytes_per_core * config.cores.list.count();
    let of_cards = dpdk.map_or(0, |dpdk| dpdk.memory_bytes.saturating_add(pools));
    let needed = of_cards.saturating_add(pools.saturating_mul(controllers)) as u64;
    if needed > soft {
        const MIB: u64 = 1024 * 1024;
        found.push(Found::error(
            format!(
                "this process may lock {} MiB of memory, and cards reach {} MiB of it",
                soft / MIB,
                needed.div_ceil(MIB)
            ),
            "LimitMEMLOCK=infinity in the unit, ulimit -l unlimited in a shell, or CAP_IPC_LOCK",
        ));
    }
}
