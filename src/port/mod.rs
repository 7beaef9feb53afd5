//! Frames in bursts, and no TCP: one [`Port`] is one receive and one transmit queue of a network
//! device, polled by one core.
//!
//! ```text
//! device ─► receive(): a burst of Frames ─► whoever owns them; dropping one gives its buffer back
//! device ◄─ flush() ◄─ transmit(): headers copied, payload copied or lent
//! ```
//!
//! Frames are Ethernet frames without their check sequence; VLAN tags are left in. A frame that a
//! port does not hand on is counted, each for one reason ([`Counters`]): the suite of `suite` holds
//! every port to that, to its limits, and to giving every buffer back.
//!
//! Kinds: `memory` (two ends in one process), `fault` (seeded loss, reordering and worse around
//! any other), `tap` (a TAP device of this machine), [`dpdk`] (with the feature of that name),
//! `remote` (what a core without a queue sends by another core's). [`any::AnyPort`] is any of them.
//! [`offload`] does in software what a device does on the way to the wire.

pub mod any;
mod bell;
pub mod buffers;
pub mod checksum;
#[cfg(feature = "dpdk")]
pub mod dpdk;
#[cfg(not(feature = "dpdk"))]
#[path = "without_dpdk.rs"]
pub mod dpdk;
pub mod fault;
#[cfg(test)]
mod fault_tests;
mod frame;
mod idle;
pub mod memory;
#[cfg(test)]
mod memory_tests;
pub mod offload;
pub mod parcel;
pub mod remote;
#[cfg(test)]
pub(crate) mod suite;
pub mod sum;
pub mod tap;

use std::num::NonZeroU16;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use arrayvec::ArrayVec;

use crate::mem::Loan;
pub use any::AnyPort;
pub use frame::{Checksum, Frame};
pub use idle::IdlePort;

/// Frames received or sent with one call to a device.
pub const BURST: usize = 32;
/// What [`Capabilities::queue`] says of a port that sends by way of another core's queue.
pub const NO_QUEUE: u16 = u16::MAX;
/// Bytes of an Ethernet header without tags.
pub const ETHERNET_BYTES: usize = 14;
/// Bytes that a VLAN tag adds (IEEE 802.1Q).
pub const VLAN_BYTES: usize = 4;
/// Headers of one frame, at most: Ethernet with a tag, IPv6, TCP with all its options.
pub const HEAD_BYTES_MAX: usize = ETHERNET_BYTES + VLAN_BYTES + 40 + 60;

/// Frames that one call to [`Port::receive`] gives.
pub type Burst = ArrayVec<Frame, BURST>;

/// One queue pair of a network device.
pub trait Port {
    /// What it can do; the same from start to end.
    fn capabilities(&self) -> &Capabilities;

    /// Appends the frames that have come, oldest first, as far as `burst` has room. Never waits.
    fn receive(&mut self, burst: &mut Burst);

    /// Takes one frame to be sent with the next [`Port::flush`]. Headers are copied at once; bytes
    /// of the payload too, except where the port holds loans. A frame that the device can never
    /// send (too long, offloads that it has not) is dropped and counted, and taken all the same.
    ///
    /// # Errors
    /// [`Full`]: nothing was taken; flush and come back in a later turn.
    fn transmit(&mut self, frame: &Outgoing<'_>) -> Result<(), Full>;

    /// Gives what was taken to the device. What the device has no room for stays, in order, for the
    /// next call.
    fn flush(&mut self);

    /// Frames and bytes so far.
    fn counters(&self) -> Counters;

    /// Whether the link is up. May be as old as a second.
    fn link(&mut self) -> Link;

    /// What to sleep on until a frame comes; `None` where only polling tells.
    fn wakes(&self) -> Option<BorrowedFd<'_>>;

    /// Tells the time of this turn, which never goes back. Only a port that holds frames up asks
    /// for it.
    fn set_now(&mut self, _now: Instant) {}

    /// When a frame that is held up is to go on, the earliest; `None`: none is.
    fn deadline(&self) -> Option<Instant> {
        None
    }
}

/// What a port can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// Its own address.
    pub mac: [u8; 6],
    /// The longest IP packet that it carries, in bytes, both ways: 576 to 65535.
    pub mtu: u16,
    /// Which queue of the device this is, from 0; [`NO_QUEUE`]: it sends by way of another core.
    pub queue: u16,
    /// How many queues the device has, each with a core of its own.
    pub queues: u16,
    /// Received frames may say [`Checksum::Good`] or [`Checksum::Bad`].
    pub verifies_checksums: bool,
    /// It writes the checksum of IPv4 headers.
    pub fills_ipv4_checksum: bool,
    /// It writes the checksum of TCP over IPv4 and IPv6.
    pub fills_tcp_checksum: bool,
    /// The longest IPv4 packet, in bytes, that it cuts into TCP segments; `None`: it does not.
    pub segments_ipv4: Option<u16>,
    /// Bytes of payload in each of those segments, at least.
    pub segment_bytes_min: u16,
    /// Received frames of this queue that may be held on to at once, at least one: while so many
    /// are, it may receive nothing more.
    pub receive_frames: usize,
    /// Pieces of payload in one frame, at most; more are copied together by the port.
    pub pieces_max: usize,
    /// It sends out of lent memory without a copy by us.
    pub holds_loans: bool,
}

impl Capabilities {
    /// The device can send such a frame. [`Port::transmit`] drops and counts those that it cannot.
    pub fn can_send(&self, frame: &Outgoing<'_>) -> bool {
        let (offload, head) = (&frame.offload, frame.head);
        let headers = [offload.l2_len, offload.l3_len, offload.l4_len].map(usize::from);
        let packet = frame.len().saturating_sub(checksum::l2_len(head));
        let asks = offload.ipv4_checksum || offload.tcp_checksum || frame.is_to_be_cut();
        let fits = match offload.segment_bytes {
            None => packet <= usize::from(self.mtu),
            Some(bytes) => {
                let (payload, bytes) = (frame.len() - head.len(), usize::from(bytes.get()));
                let longest = self.segments_ipv4.map_or(0, usize::from);
                let segment = headers[1] + headers[2] + bytes;
                packet <= longest
                    && bytes >= usize::from(self.segment_bytes_min)
                    && segment <= usize::from(self.mtu)
                    && payload.div_ceil(bytes) <= offload::SEGMENTS_MAX
                    && headers.iter().sum::<usize>() == head.len()
                    && (!offload.ipv6 && offload.ipv4_checksum && offload.tcp_checksum)
            }
        };
        let has = (!offload.ipv4_checksum || self.fills_ipv4_checksum && !offload.ipv6)
            && (!offload.tcp_checksum || self.fills_tcp_checksum);
        let headers_are_there = !asks
            || headers.iter().sum::<usize>() <= head.len()
                && headers[0] == checksum::l2_len(head)
                && headers[1] >= 20
                && (!offload.tcp_checksum || headers[2] >= 20);
        (ETHERNET_BYTES..=HEAD_BYTES_MAX).contains(&head.len()) && fits && has && headers_are_there
    }
}

/// A frame to be sent.
#[derive(Clone, Debug)]
pub struct Outgoing<'a> {
    /// Everything before the payload: at most [`HEAD_BYTES_MAX`] bytes.
    pub head: &'a [u8],
    /// The payload, in order.
    pub payload: &'a [Piece<'a>],
    pub offload: Offload,
}

impl Outgoing<'_> {
    /// Bytes on the wire, without the check sequence (before segmentation).
    pub fn len(&self) -> usize {
        self.head.len()
            + self
                .payload
                .iter()
                .map(|piece| piece.bytes().len())
                .sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// It is a packet that the device is to cut into segments.
    fn is_to_be_cut(&self) -> bool {
        self.offload.segment_bytes.is_some()
    }
}

/// A part of a payload.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// Copied before `transmit` returns.
    Bytes(&'a [u8]),
    /// May be sent from where it is.
    Loan(&'a Loan),
}

impl<'a> Piece<'a> {
    pub fn bytes(&self) -> &'a [u8] {
        match *self {
            Self::Bytes(bytes) => bytes,
            Self::Loan(loan) => loan,
        }
    }
}

/// What the device is asked to do to a frame. The lengths say where its headers are.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Offload {
    /// Bytes before the IP header.
    pub l2_len: u8,
    /// Bytes of the IP header with its extensions.
    pub l3_len: u8,
    /// Bytes of the TCP header with its options.
    pub l4_len: u8,
    /// The IP header is of version 6.
    pub ipv6: bool,
    /// Write the checksum of the IPv4 header; the field is zero.
    pub ipv4_checksum: bool,
    /// Write the checksum of TCP; the field holds the sum of the pseudo-header, not complemented.
    pub tcp_checksum: bool,
    /// Cut the packet into TCP segments of so many bytes of payload, at most
    /// [`offload::SEGMENTS_MAX`]; both checksums are to be written then, and the fields may hold
    /// anything. The head is the headers and nothing else.
    pub segment_bytes: Option<NonZeroU16>,
}

/// There is no room for a frame now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the port's transmit queue is full")]
pub struct Full;

/// What came and went, since the start of the port. Each frame is counted once on each way.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Given to the caller.
    pub received: u64,
    pub received_bytes: u64,
    /// Lost before they were given: the device had no buffer, or nobody polled it.
    pub missed: u64,
    /// Dropped because they were damaged or longer than the MTU allows.
    pub receive_errors: u64,
    /// Given to the device.
    pub sent: u64,
    pub sent_bytes: u64,
    /// Dropped: the device can never send such a frame.
    pub refused: u64,
    /// Dropped: the device would not take it for too long.
    pub transmit_errors: u64,
    /// Given to the device, which says that it lost them on the way out; they are among `sent`.
    /// Some devices count a frame once for each time that they do not take it.
    pub lost_by_device: u64,
}

/// Whether a cable is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    pub up: bool,
    /// In Mbit/s, where the device knows it.
    pub mbit_per_s: Option<u32>,
}
