//! [`Stream`]: what a connection of a core is over.

use std::net::SocketAddr;

use super::host;
use super::stack::model::{FlowId, FlowKey};

/// A connection's bytes come and go through a socket of the host's TCP, or through a flow of one of
/// the core's stacks, which only that stack can move.
#[derive(Debug)]
pub enum Stream {
    Host(host::Stream),
    Flow(Flow),
}

/// A flow of one of a core's stacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Which of the core's stacks.
    pub stack: usize,
    pub id: FlowId,
    pub key: FlowKey,
}

impl Stream {
    pub fn peer(&self) -> SocketAddr {
        match self {
            Self::Host(stream) => stream.peer(),
            Self::Flow(flow) => flow.key.peer,
        }
    }

    pub fn local(&self) -> SocketAddr {
        match self {
            Self::Host(stream) => stream.local(),
            Self::Flow(flow) => flow.key.local,
        }
    }
}
