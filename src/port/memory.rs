//! Ports in memory: two devices of one process joined by a cable, for simulations, tests and
//! benches. Each queue of each device is an [`End`] with a thread of its own.
//!
//! A frame is written once, by the sender, into a buffer of the queue that it goes to: checksums
//! are filled, packets cut and sums verified as the devices' capabilities say. Frames are spread
//! over the other device's queues by a hash that is the same for both directions of a flow, as a
//! network card with a symmetric key does it.
//!
//! ```text
//! transmit ─► staged (one burst) ─ flush ─► ring of the queue that the flow belongs to ─► receive
//! ```
//!
//! Bounded: each queue has its ring and its buffers, made at start; [`Overflow`] says what happens
//! when they are used up.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use super::bell::Bell;
use super::buffers::Buffers;
use super::checksum::{symmetric_hash, verify};
use super::offload::{SEGMENTS_MAX, Wire};
use super::{
    BURST, Burst, Capabilities, Checksum, Counters, ETHERNET_BYTES, Frame, Full, Link, Outgoing,
    Port, VLAN_BYTES,
};

/// Frames that wait for the next flush, not counting the segments of the last.
const STAGED_MAX: usize = BURST;

/// What happens to a frame when the queue it goes to has no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overflow {
    /// It waits at the sender, who is told [`Full`]: nothing is ever lost.
    Hold,
    /// It is lost, and the receiver counts it as missed: a device that nobody polls.
    Miss,
}

/// How the devices are made; both are alike.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes of the longest IP packet.
    pub mtu: u16,
    /// Frames that wait to be received, per queue.
    pub ring: usize,
    /// Buffers of each queue, in its ring and with those who received them.
    pub buffers: usize,
    pub overflow: Overflow,
    /// Receivers can sleep until a frame comes. It costs two system calls each time that an empty
    /// ring gets its first frame.
    pub wakes: bool,
    /// The addresses of the two devices.
    pub macs: [[u8; 6]; 2],
    pub verifies_checksums: bool,
    pub fills_ipv4_checksum: bool,
    pub fills_tcp_checksum: bool,
    /// Bytes of the longest IPv4 packet that is cut.
    pub segments_ipv4: Option<u16>,
    /// Pieces of payload that callers are asked to keep to.
    pub pieces_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mtu: 1500,
            ring: 1024,
            buffers: 4096,
            overflow: Overflow::Hold,
            wakes: false,
            macs: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
            verifies_checksums: false,
            fills_ipv4_checksum: false,
            fills_tcp_checksum: false,
            segments_ipv4: None,
            pieces_max: 16,
        }
    }
}

/// One queue of each of two devices.
///
/// # Errors
/// When the process may open no more files, with [`Config::wakes`].
pub fn pair(config: &Config) -> io::Result<(End, End)> {
    let (mut left, mut right) = mesh(config, 1, 1)?;
    let ends = left.pop().zip(right.pop());
    Ok(ends.expect("one queue of each"))
}

/// The queues of two devices that have `left` and `right` of them, at least one each.
///
/// # Errors
/// When the process may open no more files, with [`Config::wakes`].
pub fn mesh(config: &Config, left: u16, right: u16) -> io::Result<(Vec<End>, Vec<End>)> {
    let queues = |count: u16| -> io::Result<Arc<[Queue]>> {
        (0..count.max(1)).map(|_| Queue::new(config)).collect()
    };
    let (left, right) = (queues(left)?, queues(right)?);
    let ends = |own: &Arc<[Queue]>, peer: &Arc<[Queue]>, mac| -> Vec<End> {
        (0..own.len())
            .map(|queue| End::new(config, mac, queue, own, peer))
            .collect()
    };
    Ok((
        ends(&left, &right, config.macs[0]),
        ends(&right, &left, config.macs[1]),
    ))
}

/// What comes in at one queue.
struct Queue {
    ring: ArrayQueue<Frame>,
    buffers: Buffers,
    /// Frames for which there was no room.
    missed: AtomicU64,
    bell: Option<Bell>,
    /// Its end still exists.
    polled: AtomicBool,
}

impl Queue {
    fn new(config: &Config) -> io::Result<Self> {
        // All segments of one packet are taken together, or it would wait for ever.
        let least = if config.segments_ipv4.is_some() {
            SEGMENTS_MAX
        } else {
            1
        };
        let bytes = usize::from(config.mtu) + ETHERNET_BYTES + VLAN_BYTES;
        Ok(Self {
            ring: ArrayQueue::new(config.ring.max(1)),
            buffers: Buffers::new(config.buffers.max(least), bytes),
            missed: AtomicU64::new(0),
            bell: if config.wakes {
                Some(Bell::new()?)
            } else {
                None
            },
            polled: AtomicBool::new(true),
        })
    }

    fn miss(&self) {
        self.missed.fetch_add(1, Ordering::Relaxed);
    }
}

/// A frame on its way to the peer.
struct Staged {
    frame: Frame,
    queue: usize,
    /// It is the last of what one call to `transmit` took: bytes of that, for the counters.
    completes: Option<u64>,
}

/// One queue of one of the two devices. See the module.
pub struct End {
    capabilities: Capabilities,
    overflow: Overflow,
    own: Arc<[Queue]>,
    peer: Arc<[Queue]>,
    staged: VecDeque<Staged>,
    counters: Counters,
}

impl End {
    fn new(
        config: &Config,
        mac: [u8; 6],
        queue: usize,
        own: &Arc<[Queue]>,
        peer: &Arc<[Queue]>,
    ) -> Self {
        let count = |n: usize| u16::try_from(n).expect("made from a u16");
        Self {
            capabilities: Capabilities {
                mac,
                mtu: config.mtu,
                queue: count(queue),
                queues: count(own.len()),
                verifies_checksums: config.verifies_checksums,
                fills_ipv4_checksum: config.fills_ipv4_checksum,
                fills_tcp_checksum: config.fills_tcp_checksum,
                segments_ipv4: config.segments_ipv4,
                segment_bytes_min: 1,
                receive_frames: config.buffers.max(1),
                pieces_max: config.pieces_max,
                holds_loans: false,
            },
            overflow: config.overflow,
            own: Arc::clone(own),
            peer: Arc::clone(peer),
            staged: VecDeque::with_capacity(STAGED_MAX + SEGMENTS_MAX),
            counters: Counters::default(),
        }
    }

    /// Buffers of this queue that hold no frame.
    pub fn buffers_available(&self) -> usize {
        self.queue().buffers.available()
    }

    fn queue(&self) -> &Queue {
        &self.own[usize::from(self.capabilities.queue)]
    }

    /// Which queue of the peer such a frame comes in at.
    fn queue_for(&self, head: &[u8]) -> usize {
        let queues = u32::try_from(self.peer.len()).expect("at most 65535");
        usize::try_from(symmetric_hash(head) % queues).expect("a queue's number")
    }

    /// Puts one frame on the wire into the staged ones. `false`: there is no buffer.
    fn stage(&mut self, wire: &Wire<'_>, index: usize, queue: usize) -> bool {
        let Some(mut buffer) = self.peer[queue].buffers.take(wire.len(index)) else {
            return false;
        };
        wire.write(index, &mut buffer);
        let checksum = if self.capabilities.verifies_checksums {
            verify(&buffer)
        } else {
            Checksum::Unknown
        };
        let mut frame = Frame::new(buffer);
        frame.checksum = checksum;
        self.staged.push_back(Staged {
            frame,
            queue,
            completes: None,
        });
        true
    }

    fn complete(&mut self, bytes: u64) {
        self.counters.sent += 1;
        self.counters.sent_bytes += bytes;
    }

    fn take_from_ring(&mut self, burst: &mut Burst) {
        while !burst.is_full()
            && let Some(frame) = self.queue().ring.pop()
        {
            self.counters.received += 1;
            self.counters.received_bytes += frame.len() as u64;
            burst.push(frame);
        }
    }
}

impl Port for End {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn receive(&mut self, burst: &mut Burst) {
        self.take_from_ring(burst);
        if burst.is_full() || self.queue().bell.is_none() {
            return;
        }
        if let Some(bell) = &self.queue().bell {
            bell.silence();
        }
        self.take_from_ring(burst);
        if let Some(bell) = &self.queue().bell
            && !self.queue().ring.is_empty()
        {
            bell.ring();
        }
    }

    fn transmit(&mut self, frame: &Outgoing<'_>) -> Result<(), Full> {
        if !self.capabilities.can_send(frame) {
            self.counters.refused += 1;
            return Ok(());
        }
        if self.staged.len() >= STAGED_MAX {
            return Err(Full);
        }
        let wire = Wire::of(frame);
        let queue = self.queue_for(frame.head);
        let before = self.staged.len();
        for index in 0..wire.frames() {
            if self.stage(&wire, index, queue) {
                continue;
            }
            match self.overflow {
                Overflow::Hold => {
                    self.staged.truncate(before);
                    return Err(Full);
                }
                Overflow::Miss => self.peer[queue].miss(),
            }
        }
        let bytes = frame.len() as u64;
        if self.staged.len() == before {
            self.complete(bytes);
        } else if let Some(last) = self.staged.back_mut() {
            last.completes = Some(bytes);
        }
        Ok(())
    }

    fn flush(&mut self) {
        while let Some(Staged {
            frame,
            queue,
            completes,
        }) = self.staged.pop_front()
        {
            let to = &self.peer[queue];
            if !to.polled.load(Ordering::Relaxed) {
                to.miss();
            } else if let Err(frame) = to.ring.push(frame) {
                if self.overflow == Overflow::Hold {
                    self.staged.push_front(Staged {
                        frame,
                        queue,
                        completes,
                    });
                    return;
                }
                to.miss();
            } else if let Some(bell) = &to.bell {
                bell.ring();
            }
            if let Some(bytes) = completes {
                self.complete(bytes);
            }
        }
    }

    fn counters(&self) -> Counters {
        Counters {
            missed: self.queue().missed.load(Ordering::Relaxed),
            ..self.counters
        }
    }

    fn link(&mut self) -> Link {
        let up = self
            .peer
            .iter()
            .any(|queue| queue.polled.load(Ordering::Relaxed));
        Link {
            up,
            mbit_per_s: None,
        }
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        self.queue().bell.as_ref().map(AsFd::as_fd)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let queue = self.queue();
        queue.polled.store(false, Ordering::Relaxed);
        while let Some(frame) = queue.ring.pop() {
            drop(frame);
            queue.miss();
        }
    }
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("End")
            .field("capabilities", &self.capabilities)
            .field("staged", &self.staged.len())
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}
