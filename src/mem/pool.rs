//! One core's pool of chunks: a LIFO free list through a table of indices, and reservations.
//!
//! The table has one word per chunk: for a free chunk the next free one, for a chunk in a buffer
//! the next chunk of that buffer. So a buffer of any length is a head, a tail and a count, and
//! taking or giving back a chain touches no heap. `reserve` promises chunks without naming them: a
//! promise can always be kept, because `alloc` takes only from what is not promised.

use std::cell::Cell;
use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

use super::buf::DmaBuf;
use super::loan::Loans;
use super::region::{InPlace, Pages, Region, RegionError};

/// Bytes in a chunk, the unit of allocation; each chunk is aligned to 4096 at least.
pub const CHUNK_BYTES: usize = 16 * 1024;

/// The index that ends a chain.
pub(super) const NONE: u32 = u32::MAX;

/// A handle to one core's pool; clones name the same pool.
#[derive(Clone)]
pub struct Pool {
    core: Rc<Core>,
}

/// What handles and buffers share.
pub(super) struct Core {
    region: Region,
    next: Box<[Cell<u32>]>,
    head: Cell<u32>,
    free: Cell<usize>,
    reserved: Cell<usize>,
    /// Views that outlive their buffer.
    pub(super) loans: Loans,
}

/// A run of chunks taken from a pool. Always given back to it or kept by a [`DmaBuf`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    pub(super) head: u32,
    pub(super) tail: u32,
    pub(super) chunks: usize,
}

impl Pool {
    /// A pool of at least `bytes` bytes, rounded up to whole chunks.
    pub fn new(bytes: usize, pages: Pages) -> Result<Self, RegionError> {
        let rounded = bytes
            .checked_next_multiple_of(CHUNK_BYTES)
            .ok_or(RegionError::Size(bytes))?;
        let region = Region::new(rounded, pages)?;
        let chunks = u32::try_from(rounded / CHUNK_BYTES)
            .ok()
            .filter(|&chunks| chunks != NONE)
            .ok_or(RegionError::Size(bytes))?;
        let next = (1..=chunks)
            .map(|next| Cell::new(if next == chunks { NONE } else { next }))
            .collect();
        let core = Core {
            region,
            next,
            head: Cell::new(0),
            free: Cell::new(chunks as usize),
            reserved: Cell::new(0),
            loans: Loans::new(chunks as usize),
        };
        Ok(Self {
            core: Rc::new(core),
        })
    }

    /// How many chunks a buffer of `bytes` bytes takes.
    pub const fn chunks_for(bytes: usize) -> usize {
        bytes.div_ceil(CHUNK_BYTES)
    }

    /// The pool's memory, as (first byte, length in bytes), for devices that have to be told of it
    /// before they may reach it. It stays in place as long as the pool.
    pub fn memory(&self) -> (NonNull<u8>, usize) {
        (self.core.region.base(), self.core.region.len())
    }

    /// Chunks that are lent at least once.
    pub fn lent(&self) -> usize {
        self.core.loans.chunks()
    }

    /// All chunks of the pool, free or not.
    pub fn chunks(&self) -> usize {
        self.core.next.len()
    }

    /// Chunks that are neither in a buffer nor reserved.
    pub fn available(&self) -> usize {
        self.core.free.get() - self.core.reserved.get()
    }

    /// Chunks that are promised to someone and not yet allocated.
    pub fn reserved(&self) -> usize {
        self.core.reserved.get()
    }

    /// Promises `chunks` chunks to the caller, who later turns them into buffers with
    /// [`Pool::alloc_reserved`] or returns them with [`Pool::unreserve`]. `false`: not that many
    /// are available, and nothing changed.
    #[must_use]
    pub fn reserve(&self, chunks: usize) -> bool {
        if chunks > self.available() {
            return false;
        }
        self.core.reserved.set(self.core.reserved.get() + chunks);
        true
    }

    /// Returns a promise. Returning more than was reserved is a programmer error and panics.
    pub fn unreserve(&self, chunks: usize) {
        let reserved = self.core.reserved.get().checked_sub(chunks);
        self.core
            .reserved
            .set(reserved.expect("only what was reserved is returned"));
    }

    /// A buffer of `bytes` bytes out of what is available. Its contents are whatever its chunks
    /// held before: never show bytes of it to a peer that were not written since.
    pub fn alloc(&self, bytes: usize) -> Option<DmaBuf> {
        let chunks = Self::chunks_for(bytes);
        if chunks > self.available() {
            return None;
        }
        Some(self.buf(chunks, bytes))
    }

    /// A buffer of `bytes` bytes out of what the caller has reserved; the reservation shrinks by
    /// the chunks that it takes. `None` (and nothing changed) if less is reserved.
    pub fn alloc_reserved(&self, bytes: usize) -> Option<DmaBuf> {
        let chunks = Self::chunks_for(bytes);
        let reserved = self.core.reserved.get().checked_sub(chunks)?;
        self.core.reserved.set(reserved);
        Some(self.buf(chunks, bytes))
    }

    /// Makes `buf` longer by `bytes` bytes, with chunks out of what is available where its last one
    /// has no room. `false` (and nothing changed) if they are not there. `buf` must be empty or of
    /// this pool.
    #[must_use]
    pub fn extend(&self, buf: &mut DmaBuf, bytes: usize) -> bool {
        let Some(len) = buf.len().checked_add(bytes) else {
            return false;
        };
        let more = Self::chunks_for(len) - buf.chunks();
        if more > self.available() {
            return false;
        }
        let chain = (more > 0).then(|| self.core.take(more));
        buf.grow(&self.core, chain, len);
        true
    }

    /// Takes chunks that the caller has checked to be there.
    fn buf(&self, chunks: usize, bytes: usize) -> DmaBuf {
        let mut buf = DmaBuf::empty();
        if chunks > 0 {
            buf.grow(&self.core, Some(self.core.take(chunks)), bytes);
        }
        buf
    }
}

// SAFETY: a pool cuts up one region, which its handles and buffers keep in place together.
unsafe impl InPlace for Pool {
    fn memory(&self) -> (NonNull<u8>, usize) {
        Self::memory(self)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("chunks", &self.chunks())
            .field("free", &self.core.free.get())
            .field("reserved", &self.reserved())
            .finish()
    }
}

impl Core {
    /// The first byte of a chunk; `CHUNK_BYTES` bytes from there are the chunk's.
    pub(super) fn chunk(&self, index: u32) -> NonNull<u8> {
        assert!(
            (index as usize) < self.next.len(),
            "chunk {index} is of this pool"
        );
        // SAFETY: the index is below the number of chunks that the region was made for, so the
        // offset lies inside the region's mapping.
        unsafe { self.region.base().add(index as usize * CHUNK_BYTES) }
    }

    /// The chunk behind `index` in its chain, or [`NONE`].
    pub(super) fn next(&self, index: u32) -> u32 {
        self.next[index as usize].get()
    }

    /// Puts `chain` behind the chunk `tail`.
    pub(super) fn link(&self, tail: u32, chain: Chain) {
        debug_assert_eq!(
            self.next(tail),
            NONE,
            "only the last chunk of a chain is extended"
        );
        self.next[tail as usize].set(chain.head);
    }

    /// Ends a chain behind `index`.
    pub(super) fn cut(&self, index: u32) {
        self.next[index as usize].set(NONE);
    }

    /// Unlinks `chunks` chunks, at least one, from the free list.
    fn take(&self, chunks: usize) -> Chain {
        let left = self
            .free
            .get()
            .checked_sub(chunks)
            .expect("the caller saw that many free chunks");
        let head = self.head.get();
        let mut tail = head;
        for _ in 1..chunks {
            tail = self.next(tail);
        }
        self.head.set(self.next(tail));
        self.cut(tail);
        self.free.set(left);
        Chain { head, tail, chunks }
    }

    /// Puts a chain on top of the free list, in its order, so that neighbours stay neighbours.
    ///
    /// Chunks of which a view is still out come back with its end, one by one.
    pub(super) fn give(&self, chain: Chain) {
        debug_assert_eq!(self.next(chain.tail), NONE, "a whole chain is given back");
        if self.loans.is_any() {
            self.give_unlent(chain);
            return;
        }
        self.next[chain.tail as usize].set(self.head.get());
        self.head.set(chain.head);
        self.free.set(self.free.get() + chain.chunks);
    }

    fn give_unlent(&self, chain: Chain) {
        let mut chunk = chain.head;
        for _ in 0..chain.chunks {
            let next = self.next(chunk);
            if !self.loans.leave_behind(chunk) {
                self.give_one(chunk);
            }
            chunk = next;
        }
    }

    /// Puts one chunk on top of the free list.
    pub(super) fn give_one(&self, chunk: u32) {
        self.next[chunk as usize].set(self.head.get());
        self.head.set(chunk);
        self.free.set(self.free.get() + 1);
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        assert_eq!(
            self.free.get(),
            self.next.len(),
            "every chunk is back when its pool goes"
        );
        let mut index = self.head.get();
        let mut seen = 0;
        while index != NONE && seen <= self.next.len() {
            index = self.next(index);
            seen += 1;
        }
        assert_eq!(
            seen,
            self.next.len(),
            "the free list holds every chunk once"
        );
    }
}
