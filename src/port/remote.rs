//! The port of a core that has no queue of its own: what it sends goes by a bounded ring to the
//! core that polls the queue, and it receives nothing.
//!
//! ```text
//! core without a queue: Remote::transmit ─► ring ─► core with the queue: Requests::send_to(port)
//! ```
//!
//! Each frame is copied once, since buffers and loans belong to their core. The owner sends what
//! came from others before or after its own in each turn, at most [`BURST`] at a time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use super::bell::Bell;
use super::buffers::Buffers;
use super::parcel::Parcel;
use super::{
    BURST, Burst, Capabilities, Counters, ETHERNET_BYTES, Full, Link, NO_QUEUE, Outgoing, Port,
    VLAN_BYTES,
};

/// What both sides share.
struct Ring {
    parcels: ArrayQueue<Parcel>,
    bell: Bell,
}

/// A port whose queue is polled by another core. See the module.
pub struct Remote {
    capabilities: Capabilities,
    ring: Arc<Ring>,
    buffers: Buffers,
    counters: Counters,
}

/// What cores without a queue ask the owner of one to send.
pub struct Requests {
    ring: Arc<Ring>,
    capabilities: Capabilities,
    buffers: Buffers,
    /// Taken off the ring, and not yet taken by the port.
    waiting: Option<Parcel>,
}

/// How far an owner has come with what others ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// There is nothing left.
    Done,
    /// There is more to do at once.
    More,
    /// There is more, and the port is full: nobody tells when it has room again.
    Blocked,
}

impl Requests {
    /// The owner's side for a port that can do this, with room for `depth` frames.
    ///
    /// # Errors
    /// When the process may open no more files.
    pub fn new(capabilities: &Capabilities, depth: usize) -> io::Result<Self> {
        let depth = depth.max(1);
        let bytes = usize::from(capabilities.mtu) + ETHERNET_BYTES + VLAN_BYTES;
        let capabilities = Capabilities {
            // It copies, whatever the device does.
            holds_loans: false,
            // Its buffers are for frames of the MTU.
            segments_ipv4: None,
            ..capabilities.clone()
        };
        Ok(Self {
            ring: Arc::new(Ring {
                parcels: ArrayQueue::new(depth),
                bell: Bell::new()?,
            }),
            capabilities,
            // One more, for the one that waits.
            buffers: Buffers::new(depth + 1, bytes),
            waiting: None,
        })
    }

    /// A port for another core. As many as there are cores.
    pub fn remote(&self) -> Remote {
        Remote {
            capabilities: Capabilities {
                queue: NO_QUEUE,
                ..self.capabilities.clone()
            },
            ring: Arc::clone(&self.ring),
            buffers: self.buffers.clone(),
            counters: Counters::default(),
        }
    }

    /// Has `port` send what others asked for, at most [`BURST`] frames; the caller flushes.
    pub fn send_to<P: Port>(&mut self, port: &mut P) -> Asked {
        for _ in 0..BURST {
            let Some(parcel) = self.waiting.take().or_else(|| self.ring.parcels.pop()) else {
                self.ring.bell.silence();
                if self.ring.parcels.is_empty() {
                    return Asked::Done;
                }
                self.ring.bell.ring();
                continue;
            };
            if parcel.with(|frame| port.transmit(frame)).is_err() {
                self.waiting = Some(parcel);
                // It would only tell again what cannot be helped now.
                self.ring.bell.silence();
                return Asked::Blocked;
            }
        }
        if self.ring.parcels.is_empty() {
            Asked::Done
        } else {
            Asked::More
        }
    }

    /// What to sleep on until somebody asks.
    pub fn wakes(&self) -> BorrowedFd<'_> {
        self.ring.bell.as_fd()
    }
}

impl Port for Remote {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn receive(&mut self, _burst: &mut Burst) {}

    /// Never [`Full`]: this core cannot know when there is room again, so what finds none is
    /// dropped and counted, as on a wire.
    fn transmit(&mut self, frame: &Outgoing<'_>) -> Result<(), Full> {
        if !self.capabilities.can_send(frame) {
            self.counters.refused += 1;
            return Ok(());
        }
        let bytes = frame.len() as u64;
        let parcel = Parcel::copied(frame, Some(&self.buffers));
        if self.ring.parcels.push(parcel).is_err() {
            self.counters.transmit_errors += 1;
            return Ok(());
        }
        self.counters.sent += 1;
        self.counters.sent_bytes += bytes;
        self.ring.bell.ring();
        Ok(())
    }

    fn flush(&mut self) {}

    fn counters(&self) -> Counters {
        self.counters
    }

    /// Always up: who has the queue looks after its link.
    fn link(&mut self) -> Link {
        Link {
            up: true,
            mbit_per_s: None,
        }
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote")
            .field("capabilities", &self.capabilities)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requests")
            .field("waiting", &self.ring.parcels.len())
            .finish_non_exhaustive()
    }
}
