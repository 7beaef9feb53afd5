//! Ports that the daemon drives itself, past the host's TCP: `[dpdk]` and `[[port]]`.
//!
//! Beside what `model` says, whoever holds a [`Config`] may rely on this:
//! - names, devices and addresses of ports are distinct, over all ports and VLANs;
//! - [`Port::cores`] are indices of data cores, each at most once in a port;
//! - gateways and routers are in the network of one of the addresses beside them;
//! - [`Config::dpdk`] is there exactly when a port needs DPDK.

use std::time::Duration;

use super::Config;
use crate::net::stack::model::{Network, PROBE_INTERVAL, Portal, Settings};

/// The most ports of one process.
pub const PORTS_MAX: usize = 16;
/// The most VLANs of one port.
pub const VLANS_MAX: usize = 64;
/// The most addresses in one network of a port.
pub const ADDRESSES_MAX: usize = 8;
/// The most routes of one network of a port, default gateways among them.
pub const ROUTES_MAX: usize = 32;
/// MTU of a PCI device where the file does not say.
pub const MTU_DEFAULT_PCI: u16 = 9000;
/// MTU of other ports where the file does not say: what every virtual device takes.
pub const MTU_DEFAULT: u16 = 1500;
/// Connections of one port beside those that the limits of the process name: discovery.
const FLOWS_BESIDE: usize = 64;

/// `[dpdk]`: how the process takes part in DPDK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dpdk {
    /// Bytes for the frames of all DPDK ports, a whole number of MiB.
    pub memory_bytes: usize,
    /// On huge pages.
    pub huge: bool,
    /// Names the process's files, so that several may run on one machine.
    pub file_prefix: String,
    /// Further arguments of the EAL, none of those that the daemon sets.
    pub args: Vec<String>,
}

/// `[[port]]`: a network device and the networks that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Unique in the file.
    pub name: String,
    pub device: Device,
    /// The data core of each queue, as an index from 0 (not the CPU's number); at least one.
    pub cores: Vec<usize>,
    /// The longest IP packet in bytes: 576 to 65535, with IPv6 at least 1280.
    pub mtu: u16,
    /// Frames for other stations are taken in too (and dropped by the stack).
    pub promiscuous: bool,
    /// At least one, each with at least one address: the one without a tag first where it is, then
    /// VLANs in the order of the file.
    pub networks: Vec<Network>,
    /// Silence after which a peer is asked whether it is there.
    pub keepalive: Duration,
    /// How long a peer may leave what was sent unacknowledged; longer than `keepalive`.
    pub user_timeout: Duration,
}

/// What carries the frames of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A network card by its PCI address, in full: `0000:3b:00.0`.
    Pci(String),
    /// A virtual device of DPDK: driver with a number, then its arguments.
    Vdev(String),
    /// A TAP device of this machine, by its interface name.
    Tap(String),
}

impl Device {
    pub fn needs_dpdk(&self) -> bool {
        matches!(self, Self::Pci(_) | Self::Vdev(_))
    }
}

impl Config {
    /// What the stacks of port `index` (of [`Config::ports`]) are told. `secret` is random, new
    /// with every start.
    pub fn settings(&self, index: usize, secret: [u8; 32]) -> Settings {
        let port = &self.ports[index];
        let portals = self.portal_groups.iter().flat_map(|group| {
            let of_port = |portal: &&super::Portal| portal.port == Some(index);
            let portals = group.portals.iter().filter(of_port);
            portals.map(|portal| Portal {
                address: portal.address,
                tag: group.tag,
            })
        });
        let greeting = self.limits.unauthenticated_connections;
        Settings {
            networks: port.networks.clone(),
            portals: portals.collect(),
            secret,
            flows_max: self.limits.sessions + greeting + FLOWS_BESIDE,
            half_open_max: greeting,
            keepalive: port.keepalive,
            user_timeout: port.user_timeout,
            probe_interval: PROBE_INTERVAL,
        }
    }
}
