//! What a stack is told and what it tells.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// From one probe for an address to the next. Shorter than the one to two seconds of RFC 5227,
/// which was written for networks that need so long to answer.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// The networks that a port is in, and what is served there. The same on all queues of a port.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Each with a VLAN of its own; at most one without a tag.
    pub networks: Vec<Network>,
    /// Where connections are taken; each address is one of a network's (the first that has it).
    pub portals: Vec<Portal>,
    /// For initial sequence numbers and SYN cookies (RFC 6528, RFC 4987); the same on all queues of
    /// a port, and new with every start.
    pub secret: [u8; 32],
    /// Connections at a time.
    pub flows_max: usize,
    /// Of these, connections whose handshake is not over; beyond them SYNs are answered with
    /// cookies.
    pub half_open_max: usize,
    /// Silence after which a peer is asked whether it is there (RFC 9293 §3.8.4).
    pub keepalive: Duration,
    /// How long a peer may leave what was sent unacknowledged (RFC 9293 §3.8.3).
    pub user_timeout: Duration,
    /// From one probe for an address of ours to the next, and from the last of three until it
    /// counts as free (RFC 5227 §2.1.1); [`PROBE_INTERVAL`] but for tests.
    pub probe_interval: Duration,
}

/// One network that a port is in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Network {
    /// VLAN ID (IEEE 802.1Q), 1 to 4094; `None`: frames without a tag.
    pub vlan: Option<u16>,
    /// Priority code point of the tag, 0 to 7; ignored without a VLAN.
    pub pcp: u8,
    /// Differentiated services code point of sent packets, 0 to 63 (RFC 2474).
    pub dscp: u8,
    /// Our addresses there, IPv4 or IPv6, at least one.
    pub addresses: Vec<Address>,
    /// Beside the networks of the addresses themselves; the longest prefix wins.
    pub routes: Vec<Route>,
}

/// An address and the network it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    pub ip: IpAddr,
    /// Bits of the network.
    pub prefix: u8,
}

/// Packets to addresses of this network go by that router. A default gateway has prefix 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    pub to: Address,
    /// In the network of one of our addresses.
    pub via: IpAddr,
}

/// Where connections are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Portal {
    pub address: SocketAddr,
    /// TargetPortalGroupTag.
    pub tag: u16,
}

/// A connection of one stack, now and never again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl FlowId {
    /// Its place among the flows of its stack: of two flows with the same place one is over.
    pub fn slot(self) -> usize {
        self.slot as usize
    }
}

/// What tells flows apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowKey {
    pub vlan: Option<u16>,
    pub local: SocketAddr,
    pub peer: SocketAddr,
}

/// Which station an address is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    pub vlan: Option<u16>,
    pub ip: IpAddr,
    pub mac: [u8; 6],
}
