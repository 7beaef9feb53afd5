//! Data-path memory: regions of pages, per-core pools of chunks, and [`DmaBuf`].
//!
//! All of it is taken at start. A [`Region`] is a mapping; a [`Pool`] cuts one into chunks of
//! [`CHUNK_BYTES`] and belongs to one core (it is neither `Send` nor `Sync`); a [`DmaBuf`] is a
//! chain of a pool's chunks with exactly one owner, a few words big whatever its length, and gives
//! its chunks back when it is dropped. Exhaustion is an answer (`None`, `false`), never a panic:
//! callers turn it into back-pressure, and reserve chunks before they promise room to a peer.
//!
//! A [`Loan`] is a view of a buffer's bytes that outlives the buffer: what a peer may ask for again
//! stays as it is until it has acknowledged it.
//!
//! An [`Alias`] is the opposite: memory for rings whose contents nobody reads.
//!
//! Invariants: a chunk is free, in exactly one buffer, or left behind by one until its last loan
//! ends; `free = available + reserved`; what a
//! buffer holds is changed only through its owner or by the device that its owner was moved to.

pub mod alias;
mod buf;
#[cfg(any(test, feature = "testing"))]
pub mod copied;
mod loan;
mod pool;
mod region;
#[cfg(test)]
mod tests;

pub use alias::Alias;
pub use buf::{DmaBuf, Segments, Slices, SlicesMut};
pub use loan::Loan;
pub use pool::{CHUNK_BYTES, Pool};
pub use region::{InPlace, Pages, Region, RegionError};

/// Copies `src` over `dst`, which must be equally long. Every copy of user data on the data path
/// goes through here, so that the copy budget of `docs/ARCHITECTURE.md` can be checked by looking
/// for its callers; each says which copy of how many it is.
pub fn copy(dst: &mut [u8], src: &[u8]) {
    #[cfg(any(test, feature = "testing"))]
    copied::add(src.len());
    dst.copy_from_slice(src);
}

/// A part of what is to be sent.
#[derive(Clone, Debug)]
pub enum Piece<'a> {
    /// Small bytes; whoever keeps them copies them.
    Bytes(&'a [u8]),
    /// Bytes of a buffer; whoever keeps them has them lent.
    Buffer(&'a DmaBuf, std::ops::Range<usize>),
}

impl Piece<'_> {
    /// In bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Buffer(_, range) => range.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
