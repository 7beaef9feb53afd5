//! What a stack counts. Every frame that comes to nothing is counted once, by the reason.

#[cfg(doc)]
use super::isn::SEGMENT_BYTES_MIN;
use super::packet::Malformed;

/// Why a frame was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Dropped {
    /// Its headers make no sense, or a checksum is wrong: [`StackCounters::malformed`] has the
    /// reasons.
    Malformed,
    /// Sent to another station's hardware address.
    OtherStation,
    /// Of a VLAN that no network of ours is in.
    OtherVlan,
    /// Sent to an address that is not ours.
    OtherAddress,
    /// Sent to an address of ours that is not in use (yet).
    AddressNotInUse,
    /// A protocol that is not spoken here.
    OtherProtocol,
    /// No connection has these ends, and it cannot begin one.
    NoFlow,
    /// The guard of its connection did not let it pass.
    Guarded,
    /// A SYN that found no room.
    NoRoom,
    /// A SYN of a peer that takes less in a segment than [`SEGMENT_BYTES_MIN`]: to serve it would
    /// cost many frames for few bytes.
    SmallSegments,
    /// An acknowledgement that is no valid SYN cookie.
    BadCookie,
    /// A SYN while nothing is listened to any more.
    NotListening,
    /// A question that was not answered because there were too many.
    Limited,
    /// A message about a path that no connection can have caused.
    BadPathMessage,
    /// An answer for which the port had no room.
    PortFull,
    /// It was about to go to a station that did not answer.
    NoNeighbour,
}

impl Dropped {
    /// How many reasons there are.
    pub const COUNT: usize = Self::NoNeighbour as usize + 1;
}

/// Counts since the start of the stack.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StackCounters {
    /// Frames worked on.
    pub frames: u64,
    /// Frames dropped, each for one reason.
    dropped: [u64; Dropped::COUNT],
    /// Of these, the malformed ones.
    malformed: [u64; Malformed::COUNT],
    /// SYNs for a portal.
    pub syns: u64,
    /// Of these, answered with a cookie (RFC 4987 §3.6).
    pub cookies_sent: u64,
    /// Connections that began with a cookie that came back.
    pub cookies_accepted: u64,
    /// Connections whose handshake was completed.
    pub opened: u64,
    /// Half-open connections given up.
    pub half_open_expired: u64,
    /// Connections that ended in TIME-WAIT for a new one of the same ends (RFC 9293 §3.6.1).
    pub time_wait_reused: u64,
    /// Resets sent.
    pub resets_sent: u64,
    /// Connections lost because the peer reset them.
    pub resets_received: u64,
    /// Connections lost because the peer was silent.
    pub timed_out: u64,
    /// Connections given up because smoltcp panicked in them.
    pub panics: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Challenge acknowledgements sent (RFC 5961).
    pub challenges: u64,
    /// Echo requests answered.
    pub echoes: u64,
    /// ARP requests and neighbour solicitations answered.
    pub neighbours_told: u64,
    /// ARP requests and neighbour solicitations sent.
    pub neighbours_asked: u64,
    /// Frames passed on to the core of their flow.
    pub strays: u64,
    /// Connections whose path MTU became smaller.
    pub path_mtus: u64,
}

impl StackCounters {
    /// How many frames were dropped for `reason`.
    pub fn dropped(&self, reason: Dropped) -> u64 {
        self.dropped[reason as usize]
    }

    /// How many frames were dropped because of that.
    pub fn malformed(&self, reason: Malformed) -> u64 {
        self.malformed[usize::from(reason as u8)]
    }

    pub(super) fn drop_malformed(&mut self, reason: Malformed) {
        self.drop(Dropped::Malformed);
        self.malformed[usize::from(reason as u8)] += 1;
    }

    /// How many frames were dropped, for whatever reason.
    pub fn dropped_in_all(&self) -> u64 {
        let sum = |sum: u64, count: &u64| sum.saturating_add(*count);
        self.dropped.iter().fold(0, sum)
    }

    pub(super) fn drop(&mut self, reason: Dropped) {
        self.dropped[reason as usize] += 1;
    }
}
