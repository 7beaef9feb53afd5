//! [`Loan`]: a shared view of a buffer's bytes that may outlive the buffer.
//!
//! What was sent has to stay as it is until the peer has acknowledged it and no device reads it any
//! more, while the command that it belongs to ends with the last byte handed over. So each chunk
//! counts the views of it; a buffer that goes leaves lent chunks behind, and they return to the
//! pool when their last view ends. Loans belong to the pool's core, like everything of it.
//!
//! Invariants: a lent chunk is never written (its buffer refuses) and never free.

use std::cell::Cell;
use std::fmt;
use std::ops::{Deref, Range};
use std::rc::Rc;
use std::slice;

use super::pool::{CHUNK_BYTES, Core};

/// Set in a chunk's count when its buffer is gone.
const LEFT_BEHIND: u32 = 1 << 31;

/// How often each chunk of a pool is lent.
pub(super) struct Loans {
    counts: Box<[Cell<u32>]>,
    /// Chunks that are lent at least once.
    chunks: Cell<usize>,
}

impl Loans {
    pub(super) fn new(chunks: usize) -> Self {
        Self {
            counts: vec![Cell::new(0); chunks].into_boxed_slice(),
            chunks: Cell::new(0),
        }
    }

    /// Any chunk is lent.
    pub(super) fn is_any(&self) -> bool {
        self.chunks.get() != 0
    }

    /// Chunks that are lent at least once.
    pub(super) fn chunks(&self) -> usize {
        self.chunks.get()
    }

    pub(super) fn is_out(&self, chunk: u32) -> bool {
        self.counts[chunk as usize].get() != 0
    }

    /// The chunk's buffer is gone. `false`: it is not lent, and may be free at once.
    pub(super) fn leave_behind(&self, chunk: u32) -> bool {
        let count = &self.counts[chunk as usize];
        if count.get() == 0 {
            return false;
        }
        count.set(count.get() | LEFT_BEHIND);
        true
    }

    fn begin(&self, chunk: u32) {
        let count = &self.counts[chunk as usize];
        if count.get() == 0 {
            self.chunks.set(self.chunks.get() + 1);
        }
        count.set(count.get() + 1);
    }

    /// `true`: that was the last one, and the chunk's buffer is gone.
    fn end(&self, chunk: u32) -> bool {
        let count = &self.counts[chunk as usize];
        let left = count.get() - 1;
        if left & !LEFT_BEHIND != 0 {
            count.set(left);
            return false;
        }
        count.set(0);
        self.chunks.set(self.chunks.get() - 1);
        left == LEFT_BEHIND
    }
}

/// Bytes that lie behind each other in a pool, shared and unchanging. See the module.
pub struct Loan {
    pool: Rc<Core>,
    /// The chunk of the first byte.
    chunk: u32,
    /// Where in it.
    offset: u32,
    len: u32,
}

impl Loan {
    /// A view of `len` bytes, at least one, from `offset` of `chunk` on: a run of chunks in order
    /// that a buffer of the caller's holds.
    pub(super) fn new(pool: &Rc<Core>, chunk: u32, offset: usize, len: usize) -> Self {
        let chunk = chunk + u32::try_from(offset / CHUNK_BYTES).expect("inside the pool");
        let loan = Self {
            pool: Rc::clone(pool),
            chunk,
            offset: u32::try_from(offset % CHUNK_BYTES).expect("less than a chunk"),
            len: u32::try_from(len).expect("a buffer is shorter than 4 GiB"),
        };
        if loan.is_in_one_chunk() {
            pool.loans.begin(loan.chunk);
        } else {
            loan.run().for_each(|chunk| pool.loans.begin(chunk));
        }
        loan
    }

    /// What the loan of a block or of a PDU's payload mostly is.
    fn is_in_one_chunk(&self) -> bool {
        self.offset as usize + self.len as usize <= CHUNK_BYTES
    }

    /// A view of a part of it. Panics if the range is empty or does not lie inside.
    pub fn part(&self, range: Range<usize>) -> Self {
        assert!(
            range.start < range.end && range.end <= self.len(),
            "bytes {range:?} are inside a loan of {} bytes",
            self.len
        );
        let offset = self.offset as usize + range.start;
        Self::new(&self.pool, self.chunk, offset, range.len())
    }

    /// The chunks that cannot be written to or given away while it lasts, as their numbers in the
    /// pool, from 0.
    pub fn run(&self) -> Range<u32> {
        let bytes = self.offset as usize + self.len as usize;
        let chunks = u32::try_from(bytes.div_ceil(CHUNK_BYTES)).expect("inside the pool");
        self.chunk..self.chunk + chunks
    }
}

impl Clone for Loan {
    fn clone(&self) -> Self {
        self.part(0..self.len())
    }
}

impl Deref for Loan {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let start = self.pool.chunk(self.chunk);
        // SAFETY: the offset is less than a chunk, so inside of it.
        let start = unsafe { start.add(self.offset as usize) };
        // SAFETY: the run of chunks lies in one region in order, initialised (anonymous memory);
        // while they are counted as lent nobody writes to them and the pool gives them to nobody.
        unsafe { slice::from_raw_parts(start.as_ptr(), self.len as usize) }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let end = |chunk| {
            if self.pool.loans.end(chunk) {
                self.pool.give_one(chunk);
            }
        };
        if self.is_in_one_chunk() {
            end(self.chunk);
        } else {
            self.run().for_each(end);
        }
    }
}

impl fmt::Debug for Loan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan")
            .field("chunk", &self.chunk)
            .field("offset", &self.offset)
            .field("len", &self.len)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DmaBuf, Pages, Pool};
    use super::*;

    fn pool(chunks: usize) -> Pool {
        Pool::new(chunks * CHUNK_BYTES, Pages::Normal).unwrap()
    }

    fn lent(buf: &DmaBuf, range: Range<usize>) -> Vec<Loan> {
        let mut loans = Vec::new();
        buf.lend(range, |loan| loans.push(loan));
        loans
    }

    #[test]
    fn bytes_outlive_their_buffer_and_come_back_with_the_last_view() {
        let pool = pool(4);
        let mut buf = pool.alloc(3 * CHUNK_BYTES).unwrap();
        buf.copy_from(CHUNK_BYTES - 2, b"abcd");
        let loans = lent(&buf, CHUNK_BYTES - 2..CHUNK_BYTES + 2);
        assert_eq!(loans.len(), 1, "neighbours are one piece");
        let part = loans[0].part(1..3);
        drop(buf);
        assert_eq!(pool.available(), 2, "the third chunk was not lent");
        assert_eq!((&*loans[0], &*part), (&b"abcd"[..], &b"bc"[..]));
        drop(loans);
        assert_eq!(pool.available(), 2);
        assert_eq!(&*part, b"bc");
        drop(part);
        assert_eq!(pool.available(), 4);
    }

    #[test]
    fn a_view_that_ends_first_leaves_the_chunk_to_its_buffer() {
        let pool = pool(2);
        let mut buf = pool.alloc(10).unwrap();
        drop(lent(&buf, 2..4));
        buf.copy_from(0, b"0123456789");
        let first = lent(&buf, 9..10);
        assert_eq!(&*first[0].clone(), b"9");
        drop(first);
        drop(buf);
        assert_eq!(pool.available(), 2);
    }

    #[test]
    fn chunks_apart_are_pieces_apart() {
        let pool = pool(4);
        let (one, two) = (pool.alloc(1).unwrap(), pool.alloc(CHUNK_BYTES).unwrap());
        let third = pool.alloc(1).unwrap();
        drop((one, third));
        drop(two);
        let mut buf = pool.alloc(4 * CHUNK_BYTES).unwrap();
        let len = buf.len();
        for at in 0..len / 8 {
            buf.copy_from(at * 8, &(at as u64).to_be_bytes());
        }
        let whole: Vec<u8> = lent(&buf, 0..len)
            .iter()
            .flat_map(|loan| loan.to_vec())
            .collect();
        assert_eq!(whole, buf.to_vec());
        let odd = 3 * CHUNK_BYTES - 5..3 * CHUNK_BYTES + 5;
        let part: Vec<u8> = lent(&buf, odd.clone())
            .iter()
            .flat_map(|l| l.to_vec())
            .collect();
        assert_eq!(part, buf.to_vec()[odd]);
    }

    #[test]
    #[should_panic(expected = "what is lent is not written")]
    fn lent_bytes_cannot_be_written() {
        let pool = pool(1);
        let mut buf = pool.alloc(10).unwrap();
        let _loans = lent(&buf, 0..1);
        buf.copy_from(5, b"x");
    }

    #[test]
    fn lent_chunks_are_given_to_nobody() {
        let pool = pool(2);
        let buf = pool.alloc(2 * CHUNK_BYTES).unwrap();
        let loans = lent(&buf, CHUNK_BYTES..CHUNK_BYTES + 1);
        drop(buf);
        assert!(pool.alloc(2 * CHUNK_BYTES).is_none());
        let other = pool.alloc(1).unwrap();
        assert_eq!(&*loans[0], &[0]);
        drop((other, loans));
        assert!(pool.alloc(2 * CHUNK_BYTES).is_some());
    }
}
