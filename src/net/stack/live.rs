//! [`Live`]: what the stack keeps of a flow beside the flow itself.

use std::net::IpAddr;
use std::time::Instant;

use super::event::Lost;
use super::flow::Flow;
use super::mtu::PathMtu;

/// What is behind a key of the table.
pub(super) enum Entry {
    Live(Live),
    /// The flow lives on that core.
    Elsewhere {
        to: usize,
    },
}

/// A flow of this core.
pub(super) struct Live {
    pub(super) flow: Box<Flow>,
    pub(super) phase: Phase,
    /// Place of its network in the settings.
    pub(super) place: usize,
    /// The next station on the way to the peer: the peer itself, or a router.
    pub(super) hop: IpAddr,
    pub(super) is_routed: bool,
    /// How long packets to the peer may be.
    pub(super) path: PathMtu,
    /// When the last segment came that brought the stream further.
    pub(super) heard: Instant,
    /// Where to send is not known yet.
    pub(super) is_unresolved: bool,
    /// [`super::neighbours::Neighbours::changes`] when its link header was made.
    pub(super) changes: u64,
    /// It is among those that make room for others.
    pub(super) is_over: bool,
    /// It came from another core, which still forwards its frames.
    pub(super) attached: bool,
    /// The reactor was told that there is something to take, and has not come up empty since.
    pub(super) told_readable: bool,
    /// A send took less than it was given.
    pub(super) wants_room: bool,
    /// It failed, and the reactor was told.
    pub(super) lost: Option<Lost>,
    /// It is given up then.
    pub(super) until: Option<Instant>,
}

/// How far a connection is, as the reactor sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// A peer has sent a SYN to the portal group of this tag.
    HalfOpen { tag: u16 },
    /// We have.
    Connecting,
    /// The reactor has it.
    Open,
    /// The reactor is done with it.
    Finishing,
}

impl Entry {
    pub(super) fn live(&self) -> Option<&Live> {
        match self {
            Self::Live(live) => Some(live),
            Self::Elsewhere { .. } => None,
        }
    }

    pub(super) fn live_mut(&mut self) -> Option<&mut Live> {
        match self {
            Self::Live(live) => Some(live),
            Self::Elsewhere { .. } => None,
        }
    }
}

impl Live {
    /// What is to be told: there is something to take, there is room again. It counts as told.
    pub(super) fn news(&mut self) -> (bool, bool) {
        let readable = !self.told_readable && self.flow.is_readable();
        let writable = self.wants_room && self.flow.is_writable();
        self.told_readable |= readable;
        self.wants_room &= !writable;
        (readable, writable)
    }
}
