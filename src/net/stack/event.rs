//! What a stack tells the reactor: events, received bytes, and how a connection ended.

use std::net::IpAddr;

pub use super::held::Chunk;
use super::model::{FlowId, FlowKey, Neighbour};
use super::waits::TimeWait;
use crate::port::Frame;

/// News for the reactor, in the order in which it happened.
#[derive(Debug)]
pub enum Event {
    /// A peer has completed its handshake with the portal group of that tag.
    Opened {
        flow: FlowId,
        key: FlowKey,
        tag: u16,
    },
    /// A connection that was asked for stands.
    Connected(FlowId),
    /// There is something to take: bytes, the peer's end, or the reason of a failure. Told once,
    /// and again only after a take came back with [`Received::WouldBlock`].
    Readable(FlowId),
    /// There is room again after a send that took less than it was given.
    Writable(FlowId),
    /// The connection failed; `take` and `send` say why. It stays until it is aborted or finished.
    Lost(FlowId),
    /// For the other cores of this port: an answer reaches only one of its queues.
    Learned(Neighbour),
    /// For the other cores of this port: an address is ours, or another station has it. None of
    /// these may get lost, or the cores would not agree.
    Address(AddressNews),
    /// A frame of a flow that lives on another core.
    Stray { to: usize, frame: Frame },
    /// A message about a flow that is not here (a path's MTU): every other core of this port is
    /// to see it. Such a frame comes out of a stack only if it came in by its own port.
    Foreign(Frame),
    /// An attached flow is over: the forwarding where it came from can go. `left`: what is still to
    /// be answered for it, there.
    Gone {
        key: FlowKey,
        left: Option<Box<TimeWait>>,
    },
}

/// What became of one of our addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressNews {
    pub vlan: Option<u16>,
    pub ip: IpAddr,
    pub state: AddressState,
    /// The first queue says so, which decides; another one only says what it has heard.
    pub is_decided: bool,
}

/// Whether an address may be used (RFC 5227, RFC 4862 §5.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressState {
    /// It is being found out whether another station has it; nothing is served there.
    Tentative,
    /// Ours.
    Ours,
    /// Ours, and the station with this hardware address uses it too. It goes on being served.
    Contested { mac: [u8; 6] },
    /// The station with this hardware address has it; nothing is served there.
    Duplicate { mac: [u8; 6] },
}

impl AddressState {
    /// Connections are taken there.
    pub const fn is_in_use(self) -> bool {
        match self {
            Self::Ours | Self::Contested { .. } => true,
            Self::Tentative | Self::Duplicate { .. } => false,
        }
    }
}

/// What a take came to.
#[derive(Debug)]
pub enum Received {
    /// The next bytes of the stream, at least one.
    Data(Chunk),
    /// Nothing now.
    WouldBlock,
    /// The peer has closed its side and everything before that was taken.
    Closed,
}

/// Why a connection is over before its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Lost {
    #[error("the peer reset the connection")]
    Reset,
    #[error("the peer did not answer in time")]
    TimedOut,
    #[error("the connection broke a rule of the stack's own and was given up")]
    Failed,
    #[error("there is no such connection")]
    Unknown,
}
