//! Whether there are huge pages enough for the pools, rings and DPDK, in all and at each NUMA node.

use super::{Found, Tree};
use crate::config::{Config, CoreList, Device, Pages};

const MEMINFO: &str = "proc/meminfo";
const NODES: &str = "sys/devices/system/node";

/// The rings of connections take pages of this size only.
const RINGS_PAGE: usize = 2 << 20;

/// What is to be had of huge pages, in pages of the default size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Need {
    pools: usize,
    /// Of connections over ports: one page for each core and port.
    rings: usize,
    dpdk: usize,
}

impl Need {
    /// Pages that are the cores', an equal part each.
    fn at_cores(&self) -> usize {
        self.pools.saturating_add(self.rings)
    }
}

pub(super) fn check(config: &Config, tree: &Tree, found: &mut Vec<Found>) {
    let pools = config.memory.pages == Pages::Huge;
    let dpdk = config.dpdk.as_ref().filter(|dpdk| dpdk.huge);
    if !pools && dpdk.is_none() {
        return;
    }
    let kib = tree.value(MEMINFO, "Hugepagesize:");
    let kib = kib.and_then(|text| text.trim_end_matches("kB").trim().parse::<usize>().ok());
    let Some(page) = kib.and_then(|kib| kib.checked_mul(1024)) else {
        found.push(Found::error(
            "this kernel has no huge pages",
            "set [memory] pages = \"normal\", and for virtual devices [dpdk] huge = false",
        ));
        return;
    };
    let cores = config.cores.list.count();
    let dpdk_bytes = dpdk.map_or(0, |dpdk| dpdk.memory_bytes);
    // DPDK takes pages of any size; pools only those of the default.
    let other = dpdk_bytes.min(free_of_other_sizes(tree, page));
    let need = Need {
        pools: match pools {
            true => config.memory.pool_bytes_per_core.div_ceil(page) * cores,
            false => 0,
        },
        rings: match pools && page == RINGS_PAGE {
            true => config.ports.len() * cores,
            false => 0,
        },
        dpdk: (dpdk_bytes - other).div_ceil(page),
    };
    check_total(&need, page, tree, found);
    check_nodes(config, &need, page, tree, found);
}

/// Bytes in free huge pages that are not of the default size.
fn free_of_other_sizes(tree: &Tree, default: usize) -> usize {
    const SIZES: &str = "sys/kernel/mm/hugepages";
    let mut bytes = 0_usize;
    for name in tree.names(SIZES) {
        let kib = name.strip_prefix("hugepages-");
        let kib = kib.and_then(|text| text.strip_suffix("kB")?.parse::<usize>().ok());
        let Some(size) = kib.and_then(|kib| kib.checked_mul(1024)) else {
            continue;
        };
        if size != default {
            let count = |file: &str| -> usize {
                let number = tree.number(&format!("{SIZES}/{name}/{file}"));
                number.unwrap_or_default()
            };
            let free = count("free_hugepages").saturating_sub(count("resv_hugepages"));
            bytes = bytes.saturating_add(free.saturating_mul(size));
        }
    }
    bytes
}

fn check_total(need: &Need, page: usize, tree: &Tree, found: &mut Vec<Found>) {
    let value = |key: &str| -> usize {
        let text = tree.value(MEMINFO, key);
        text.and_then(|text| text.parse().ok()).unwrap_or_default()
    };
    let free = value("HugePages_Free:").saturating_sub(value("HugePages_Rsvd:"));
    let needed = need.at_cores().saturating_add(need.dpdk);
    let missing = needed.saturating_sub(free);
    if missing == 0 {
        return;
    }
    let total = value("HugePages_Total:").saturating_add(missing);
    let size = in_words(page);
    let parts = [
        (need.pools, "for the pools"),
        (need.rings, "for the rings of connections"),
        (need.dpdk, "for DPDK"),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(pages, _)| *pages > 0)
        .map(|(pages, what)| format!("{pages} {what}"))
        .collect();
    found.push(Found::error(
        format!(
            "{needed} huge pages of {size} are needed ({}), {free} are free: {missing} are missing",
            parts.join(", ")
        ),
        format!(
            "now: sysctl -w vm.nr_hugepages={total}\n\
             at every start: hugepagesz={size} hugepages={total} on the kernel's command line, or \
             vm.nr_hugepages={total} in /etc/sysctl.d/90-iiblockdaemon.conf"
        ),
    ));
}

/// The size of a page as the kernel's command line takes it.
fn in_words(page: usize) -> String {
    const MIB: usize = 1024 * 1024;
    match page {
        page if page.is_multiple_of(1024 * MIB) => format!("{}G", page / (1024 * MIB)),
        page if page.is_multiple_of(MIB) => format!("{}M", page / MIB),
        page => format!("{}K", page / 1024),
    }
}

/// Pages in use belong next to the CPUs and cards that use them.
fn check_nodes(config: &Config, need: &Need, page: usize, tree: &Tree, found: &mut Vec<Found>) {
    let mut nodes: Vec<usize> = tree
        .names(NODES)
        .iter()
        .filter_map(|name| name.strip_prefix("node")?.parse().ok())
        .collect();
    nodes.sort_unstable();
    if nodes.len() < 2 {
        return;
    }
    for node in nodes {
        let needed = pools_at(config, need, node, tree) + dpdk_at(config, need, node, tree);
        let kib = page / 1024;
        let path = format!("{NODES}/node{node}/hugepages/hugepages-{kib}kB");
        let count =
            |file: &str| -> usize { tree.number(&format!("{path}/{file}")).unwrap_or_default() };
        let free = count("free_hugepages");
        let missing = needed.saturating_sub(free);
        if missing == 0 {
            continue;
        }
        let total = count("nr_hugepages").saturating_add(missing);
        found.push(Found::warning(
            format!(
                "NUMA node {node} has {free} free huge pages of {}, and what runs there wants \
                 {needed}",
                in_words(page)
            ),
            format!(
                "now: echo {total} > /{path}/nr_hugepages\n\
                 at every start (Linux 5.16 or newer): hugepages={node}:{total} on the kernel's \
                 command line, other nodes behind a comma"
            ),
        ));
    }
}

/// Pages of the pools and rings of the cores at a node.
fn pools_at(config: &Config, need: &Need, node: usize, tree: &Tree) -> usize {
    let CoreList::List(list) = &config.cores.list else {
        return 0;
    };
    let near = tree.cpus(&format!("{NODES}/node{node}/cpulist"));
    let near = near.unwrap_or_default();
    let cores = list.iter().filter(|cpu| near.contains(cpu)).count();
    need.at_cores() / list.len().max(1) * cores
}

/// DPDK's pages of the queues of cards at a node.
fn dpdk_at(config: &Config, need: &Need, node: usize, tree: &Tree) -> usize {
    let (mut here, mut all) = (0, 0);
    for port in config.ports.iter().filter(|port| port.device.needs_dpdk()) {
        all += port.cores.len();
        let Device::Pci(address) = &port.device else {
            continue;
        };
        let path = format!("sys/bus/pci/devices/{address}/numa_node");
        if tree.number::<usize>(&path) == Some(node) {
            here += port.cores.len();
        }
    }
    match all {
        0 => 0,
        all => (need.dpdk * here).div_ceil(all),
    }
}
