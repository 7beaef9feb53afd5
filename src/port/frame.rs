//! [`Frame`]: a received frame, owned by whoever holds it.

use std::fmt;
use std::num::NonZeroU16;

use super::buffers::Buffer;
use super::dpdk::Mbuf;

/// What the device says about the checksums of a received frame.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Checksum {
    /// Nothing: they have to be verified.
    #[default]
    Unknown,
    /// IP and TCP are right.
    Good,
    /// One of them is wrong.
    Bad,
}

/// A received Ethernet frame, without its check sequence. Dropping it gives its buffer back to its
/// port, on whatever thread that happens.
pub struct Frame {
    storage: Storage,
    /// What the device says about its checksums.
    pub checksum: Checksum,
    /// The device has joined several segments of so many bytes of payload into this frame.
    pub segment_bytes: Option<NonZeroU16>,
}

enum Storage {
    Buffer(Buffer),
    Mbuf(Mbuf),
}

impl Frame {
    /// A frame in a buffer of its own, which is exactly as long as the frame.
    pub fn new(buffer: Buffer) -> Self {
        Self {
            storage: Storage::Buffer(buffer),
            checksum: Checksum::Unknown,
            segment_bytes: None,
        }
    }

    /// A frame in the memory of a DPDK port.
    pub fn from_mbuf(mbuf: Mbuf) -> Self {
        Self {
            storage: Storage::Mbuf(mbuf),
            checksum: Checksum::Unknown,
            segment_bytes: None,
        }
    }

    /// A copy on the heap, for tests and for frames that go to another core's device.
    pub fn copied(bytes: &[u8]) -> Self {
        Self::new(Buffer::copied(bytes))
    }

    /// The first bytes in one piece: all headers, and the whole frame where it is in one piece.
    pub fn head(&self) -> &[u8] {
        match &self.storage {
            Storage::Buffer(buffer) => buffer,
            Storage::Mbuf(mbuf) => mbuf.head(),
        }
    }

    /// The pieces of the frame in order, `head` being the first; none is empty.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let (whole, chained) = match &self.storage {
            Storage::Buffer(buffer) => (Some(&**buffer), None),
            Storage::Mbuf(mbuf) => (None, Some(mbuf.slices())),
        };
        whole.into_iter().chain(chained.into_iter().flatten())
    }

    /// Bytes of the frame.
    pub fn len(&self) -> usize {
        match &self.storage {
            Storage::Buffer(buffer) => buffer.len(),
            Storage::Mbuf(mbuf) => mbuf.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that the frame keeps its port from using, whatever its length.
    pub fn held_bytes(&self) -> usize {
        match &self.storage {
            Storage::Buffer(buffer) => buffer.capacity(),
            Storage::Mbuf(mbuf) => mbuf.held_bytes(),
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("len", &self.len())
            .field("checksum", &self.checksum)
            .finish()
    }
}
