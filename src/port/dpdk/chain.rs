//! A frame on its way out: a chain of packet buffers, written from front to back.

use std::ptr::NonNull;
use std::slice;

use dpdk_sys as sys;

use super::mempool::Mempool;
use super::slab::Slab;
use crate::mem::{self, Loan};

/// A chain; freed when it is dropped.
pub(super) struct Chain<'a> {
    pool: &'a Mempool,
    head: NonNull<sys::rte_mbuf>,
    /// The last buffer of the chain.
    last: NonNull<sys::rte_mbuf>,
    /// The buffer that is being written, if any: the first, or not yet part of the chain.
    open: Option<Open<'a>>,
    len: u32,
    /// Buffers of what is closed.
    buffers: u16,
    /// Some of them are lent memory.
    lends: bool,
}

struct Open<'a> {
    mbuf: NonNull<sys::rte_mbuf>,
    room: &'a mut [u8],
    used: u16,
}

impl<'a> Chain<'a> {
    /// A chain that begins with a copy of the headers. `None`: no buffer is left.
    pub(super) fn new(pool: &'a Mempool, head: &[u8]) -> Option<Self> {
        let open = alloc(pool)?;
        let mut chain = Self {
            pool,
            head: open.mbuf,
            last: open.mbuf,
            open: Some(open),
            len: 0,
            buffers: 1,
            lends: false,
        };
        chain.copy(head)?;
        Some(chain)
    }

    /// Appends a copy of `bytes`. `None`: no buffer is left.
    pub(super) fn copy(&mut self, bytes: &[u8]) -> Option<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let open = match &mut self.open {
                Some(open) if usize::from(open.used) < open.room.len() => open,
                _ => {
                    self.close();
                    self.open.insert(alloc(self.pool)?)
                }
            };
            let used = usize::from(open.used);
            let count = rest.len().min(open.room.len() - used);
            let (now, later) = rest.split_at(count);
            // The network's own copy, where the device cannot send from where the bytes are.
            mem::copy(&mut open.room[used..used + count], now);
            open.used = u16::try_from(used + count).expect("a buffer is shorter than 64 KiB");
            rest = later;
        }
        Some(())
    }

    /// Appends the loan's bytes, to be read from where they are, in equal buffers of at most `most`
    /// bytes. `None`: no buffer or no record is left.
    pub(super) fn lend(&mut self, loan: &Loan, slab: &Slab, most: u16) -> Option<()> {
        self.close();
        let most = usize::from(most.max(1));
        let each = loan.len().div_ceil(loan.len().div_ceil(most));
        for start in (0..loan.len()).step_by(each) {
            self.attach(loan.part(start..loan.len().min(start + each)), slab)?;
        }
        Some(())
    }

    fn attach(&mut self, loan: Loan, slab: &Slab) -> Option<()> {
        let bytes = u16::try_from(loan.len()).ok()?;
        let first = loan.as_ptr();
        let Open { mbuf, .. } = alloc(self.pool)?;
        let Some(shared) = slab.keep(loan) else {
            // SAFETY: ours alone, and not part of a chain.
            unsafe { sys::iibd_free(mbuf.as_ptr()) };
            return None;
        };
        // SAFETY: an empty buffer of ours; the bytes stay as they are until the record's function
        // is called, and nobody writes through the buffer.
        unsafe { sys::iibd_attach(mbuf.as_ptr(), first, bytes, shared) };
        self.append(mbuf, bytes);
        self.lends = true;
        Some(())
    }

    /// Ends the buffer that is being written.
    pub(super) fn close(&mut self) {
        let Some(open) = self.open.take() else {
            return;
        };
        // SAFETY: a single buffer of ours, of which so many bytes were written.
        unsafe { sys::iibd_set_bytes(open.mbuf.as_ptr(), open.used) };
        if open.mbuf == self.head {
            self.len += u32::from(open.used);
        } else {
            self.append(open.mbuf, open.used);
        }
    }

    fn append(&mut self, mbuf: NonNull<sys::rte_mbuf>, bytes: u16) {
        let (head, last) = (self.head.as_ptr(), self.last.as_ptr());
        // SAFETY: first and last buffer of our chain, and a single one.
        unsafe { sys::iibd_append(head, last, mbuf.as_ptr()) };
        self.last = mbuf;
        self.len += u32::from(bytes);
        self.buffers += 1;
    }

    /// Bytes of what is closed.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Buffers of what is closed.
    pub(super) fn buffers(&self) -> u16 {
        self.buffers
    }

    /// Whether some of it is read from lent memory.
    pub(super) fn lends(&self) -> bool {
        self.lends
    }

    /// The chain, whose buffers are the caller's from now on.
    pub(super) fn into_raw(mut self) -> *mut sys::rte_mbuf {
        self.close();
        let head = self.head.as_ptr();
        std::mem::forget(self);
        head
    }
}

impl Drop for Chain<'_> {
    fn drop(&mut self) {
        if let Some(open) = self.open.take().filter(|open| open.mbuf != self.head) {
            // SAFETY: not part of the chain yet, and ours.
            unsafe { sys::iibd_free(open.mbuf.as_ptr()) };
        }
        // SAFETY: a whole chain of ours.
        unsafe { sys::iibd_free(self.head.as_ptr()) };
    }
}

fn alloc(pool: &Mempool) -> Option<Open<'_>> {
    let (mut data, mut room) = (std::ptr::null_mut(), 0);
    // SAFETY: the pool lives as long as the borrow; both variables are written.
    let mbuf = unsafe { sys::iibd_alloc(pool.as_ptr(), &raw mut data, &raw mut room) };
    let mbuf = NonNull::new(mbuf)?;
    // SAFETY: the buffer is ours and has so much room there; its memory was zeroed once and holds
    // older frames since.
    let room = unsafe { slice::from_raw_parts_mut(data, room as usize) };
    Some(Open {
        mbuf,
        room,
        used: 0,
    })
}
