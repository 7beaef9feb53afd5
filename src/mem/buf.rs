//! [`DmaBuf`]: a byte buffer of any length out of a pool's chunks, with exactly one owner.
//!
//! Its memory is what devices and the kernel read and write, so it never moves and never aliases:
//! a chunk belongs to one buffer until that buffer is dropped. `&self` gives shared slices, `&mut
//! self` exclusive ones; raw segments are for whoever owns the buffer while a device works on it.
//! Neighbouring chunks are joined into one segment wherever they come in order.

use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::mem;
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;
use std::slice;

use super::loan::Loan;
use super::pool::{CHUNK_BYTES, Chain, Core, NONE, Pool};

/// A chain of chunks. The contents of a fresh one are stale: see [`Pool::alloc`].
pub struct DmaBuf {
    /// Absent exactly when there is no chunk.
    pool: Option<Rc<Core>>,
    chain: Chain,
    len: usize,
}

impl DmaBuf {
    /// A buffer of no bytes, without a pool.
    pub const fn empty() -> Self {
        Self {
            pool: None,
            chain: Chain {
                head: NONE,
                tail: NONE,
                chunks: 0,
            },
            len: 0,
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Chunks that the buffer holds.
    pub fn chunks(&self) -> usize {
        self.chain.chunks
    }

    /// Shortens the buffer to `len` bytes, giving chunks that are no longer needed back to the
    /// pool. A longer `len` changes nothing.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        self.len = len;
        let keep = Pool::chunks_for(len);
        let Some(pool) = self.pool.as_ref() else {
            return;
        };
        if keep == 0 {
            pool.give(self.chain);
            self.chain = Chain {
                head: NONE,
                tail: NONE,
                chunks: 0,
            };
            self.pool = None;
        } else if keep < self.chain.chunks {
            let mut last = self.chain.head;
            for _ in 1..keep {
                last = pool.next(last);
            }
            let rest = Chain {
                head: pool.next(last),
                tail: self.chain.tail,
                chunks: self.chain.chunks - keep,
            };
            pool.cut(last);
            pool.give(rest);
            self.chain = Chain {
                head: self.chain.head,
                tail: last,
                chunks: keep,
            };
        }
    }

    /// Sets the length to anything that the chunks have room for, and keeps them all. What comes in
    /// is stale. Such a buffer is not to be extended.
    ///
    /// # Panics
    /// When the chunks do not hold `len` bytes.
    pub fn set_len(&mut self, len: usize) {
        assert!(
            Pool::chunks_for(len) <= self.chain.chunks,
            "the chunks hold the length"
        );
        self.len = len;
    }

    /// The raw pieces of `range`, in order, as (first byte, length in bytes). Panics if the range
    /// does not lie inside the buffer. The pointers stay good while the buffer is neither dropped
    /// nor truncated; who reads or writes through them must own the buffer, or have it lent.
    #[inline]
    pub fn segments(&self, range: Range<usize>) -> Segments<'_> {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "bytes {range:?} are inside a buffer of {} bytes",
            self.len
        );
        let skip = range.start / CHUNK_BYTES;
        Segments {
            buf: self,
            chunk: if skip == 0 {
                self.chain.head
            } else {
                self.chunk_at(skip)
            },
            offset: range.start % CHUNK_BYTES,
            left: range.end - range.start,
        }
    }

    /// The chunk behind so many others.
    fn chunk_at(&self, skip: usize) -> u32 {
        let mut chunk = self.chain.head;
        if let Some(pool) = &self.pool {
            for _ in 0..skip {
                chunk = pool.next(chunk);
            }
        }
        chunk
    }

    /// Views of `range`, in order, that stay good after the buffer is gone: `take` gets each, one
    /// for every run of chunks that lie behind each other. Until they have ended nobody can write
    /// to their chunks. Panics if the range does not lie inside the buffer.
    pub fn lend(&self, range: Range<usize>, mut take: impl FnMut(Loan)) {
        let Some(pool) = &self.pool else {
            return;
        };
        let mut segments = self.segments(range);
        while segments.left > 0 {
            let (chunk, offset) = (segments.chunk, segments.offset);
            let len = segments.advance(pool);
            take(Loan::new(pool, chunk, offset, len));
        }
    }

    /// Whether views of any of its chunks are out: nobody, no device either, may write to it then.
    pub fn is_lent(&self) -> bool {
        let Some(pool) = &self.pool else {
            return false;
        };
        let mut chunk = self.chain.head;
        for _ in 0..self.chain.chunks {
            if pool.loans.is_out(chunk) {
                return true;
            }
            chunk = pool.next(chunk);
        }
        false
    }

    /// The contents, in order.
    pub fn slices(&self) -> Slices<'_> {
        self.range_slices(0, self.len)
    }

    /// The contents from `offset` on for `len` bytes, in order. Panics beyond the end.
    pub fn range_slices(&self, offset: usize, len: usize) -> Slices<'_> {
        Slices {
            segments: self.segments(self.range(offset, len)),
        }
    }

    /// The contents, in order, to be written.
    pub fn slices_mut(&mut self) -> SlicesMut<'_> {
        self.range_slices_mut(0, self.len)
    }

    /// The contents from `offset` on for `len` bytes, in order, to be written. Panics beyond the
    /// end.
    #[inline]
    pub fn range_slices_mut(&mut self, offset: usize, len: usize) -> SlicesMut<'_> {
        let range = self.range(offset, len);
        if let Some(pool) = &self.pool
            && pool.loans.is_any()
        {
            let mut chunk = self.chain.head;
            for _ in 0..self.chain.chunks {
                assert!(!pool.loans.is_out(chunk), "what is lent is not written");
                chunk = pool.next(chunk);
            }
        }
        SlicesMut {
            segments: self.segments(range),
            exclusive: PhantomData,
        }
    }

    /// Copies `src` into the buffer at `offset`. Panics beyond the end.
    pub fn copy_from(&mut self, offset: usize, src: &[u8]) {
        let mut rest = src;
        for slice in self.range_slices_mut(offset, src.len()) {
            let (piece, behind) = rest.split_at(slice.len());
            super::copy(slice, piece);
            rest = behind;
        }
    }

    /// Copies bytes out of the buffer, from `offset` on until `dst` is full. Panics beyond the end.
    pub fn copy_to(&self, offset: usize, dst: &mut [u8]) {
        let len = dst.len();
        let mut rest = dst;
        for slice in self.range_slices(offset, len) {
            let (piece, behind) = rest.split_at_mut(slice.len());
            super::copy(piece, slice);
            rest = behind;
        }
    }

    /// All of it in one piece, for parameter lists; blocks are not copied like this.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.copy_to(0, &mut bytes);
        bytes
    }

    /// Sets `len` bytes from `offset` on to `byte`. Panics beyond the end.
    pub fn fill(&mut self, offset: usize, len: usize, byte: u8) {
        for slice in self.range_slices_mut(offset, len) {
            slice.fill(byte);
        }
    }

    fn range(&self, offset: usize, len: usize) -> Range<usize> {
        let end = offset.checked_add(len).filter(|&end| end <= self.len);
        offset..end.expect("the range lies inside the buffer")
    }

    /// Appends `chain` and sets the length, which must fit the chunks.
    pub(super) fn grow(&mut self, pool: &Rc<Core>, chain: Option<Chain>, len: usize) {
        if let Some(chain) = chain {
            match &self.pool {
                None => {
                    self.pool = Some(Rc::clone(pool));
                    self.chain = chain;
                }
                Some(own) => {
                    assert!(
                        Rc::ptr_eq(own, pool),
                        "a buffer grows only by chunks of its own pool"
                    );
                    own.link(self.chain.tail, chain);
                    self.chain.tail = chain.tail;
                    self.chain.chunks += chain.chunks;
                }
            }
        }
        debug_assert_eq!(
            Pool::chunks_for(len),
            self.chain.chunks,
            "the chunks fit the length"
        );
        self.len = len;
    }
}

impl Drop for DmaBuf {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give(self.chain);
        }
    }
}

impl Default for DmaBuf {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for DmaBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaBuf")
            .field("len", &self.len)
            .field("chunks", &self.chain.chunks)
            .finish()
    }
}

/// Iterator over raw pieces: see [`DmaBuf::segments`].
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    buf: &'a DmaBuf,
    /// The chunk of the next byte, if any is left.
    chunk: u32,
    /// Where in it.
    offset: usize,
    left: usize,
}

impl Segments<'_> {
    /// Goes on to behind the run of neighbours that the next byte is in, and says how long it is.
    /// Something must be left.
    #[inline]
    fn advance(&mut self, pool: &Core) -> usize {
        if self.left <= CHUNK_BYTES - self.offset {
            // What is left ends in this chunk: most ranges do so at once.
            return mem::take(&mut self.left);
        }
        self.advance_chunks(pool)
    }

    fn advance_chunks(&mut self, pool: &Core) -> usize {
        let mut len = 0;
        loop {
            let piece = self.left.min(CHUNK_BYTES - self.offset);
            len += piece;
            self.left -= piece;
            self.offset += piece;
            if self.offset < CHUNK_BYTES {
                return len;
            }
            let next = pool.next(self.chunk);
            let adjacent = self.chunk.checked_add(1) == Some(next);
            self.chunk = next;
            self.offset = 0;
            if self.left == 0 || !adjacent {
                return len;
            }
        }
    }
}

impl Iterator for Segments<'_> {
    type Item = (NonNull<u8>, usize);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let pool = self.buf.pool.as_ref()?;
        // SAFETY: `offset` is below the chunk's length.
        let start = unsafe { pool.chunk(self.chunk).add(self.offset) };
        Some((start, self.advance(pool)))
    }
}

impl FusedIterator for Segments<'_> {}

/// Iterator over contents: see [`DmaBuf::slices`].
#[derive(Clone, Debug)]
pub struct Slices<'a> {
    segments: Segments<'a>,
}

impl<'a> Iterator for Slices<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let (start, len) = self.segments.next()?;
        // SAFETY: the chunks are this buffer's alone and initialised (anonymous memory); the shared
        // borrow of the buffer keeps them in place and keeps out `&mut` slices.
        Some(unsafe { slice::from_raw_parts(start.as_ptr(), len) })
    }
}

impl FusedIterator for Slices<'_> {}

/// Iterator over contents to be written: see [`DmaBuf::slices_mut`].
#[derive(Debug)]
pub struct SlicesMut<'a> {
    segments: Segments<'a>,
    exclusive: PhantomData<&'a mut DmaBuf>,
}

impl<'a> Iterator for SlicesMut<'a> {
    type Item = &'a mut [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let (start, len) = self.segments.next()?;
        // SAFETY: the chunks are this buffer's alone and initialised; the iterator was made from an
        // exclusive borrow of the buffer and yields each byte at most once.
        Some(unsafe { slice::from_raw_parts_mut(start.as_ptr(), len) })
    }
}

impl FusedIterator for SlicesMut<'_> {}
