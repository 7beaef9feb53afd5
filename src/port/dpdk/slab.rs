//! What is lent to a device: the records through which DPDK says that it needs a piece of memory no
//! more, and the [`Loan`]s that keep those pieces until then.
//!
//! A loan belongs to the core of its pool. DPDK frees buffers on the thread that sends, so nearly
//! always the loan ends right there; a buffer that is freed on another thread (the one that stops
//! the device) is put on a list, and the loan ends when its own core looks there.

use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use dpdk_sys as sys;

use crate::mem::Loan;

/// The end of a list.
const NONE: u32 = u32::MAX;
/// The number of no core: what DPDK calls threads that it does not know.
const NOBODY: u32 = u32::MAX;

/// The records of one queue.
pub(super) struct Slab {
    slots: Box<[Slot]>,
    /// The first that is not in use.
    free: Cell<u32>,
    /// How many are in use.
    out: Cell<usize>,
    /// Of each chunk of the pool, how many of the loans have a part of it. Empty where the loans
    /// are of several pools.
    parts: Box<[Cell<u32>]>,
    /// Chunks that at least one has.
    chunks: Cell<usize>,
    /// The core whose loans these are.
    owner: AtomicU32,
    /// The first of those that another thread gave back.
    returned: AtomicU32,
}

struct Slot {
    /// DPDK's part: written by it whenever it counts.
    shared: UnsafeCell<sys::rte_mbuf_ext_shared_info>,
    /// Touched by the owner only.
    loan: Cell<Option<Loan>>,
    /// The next on whichever list it is.
    next: AtomicU32,
    index: u32,
    slab: Cell<*const Slab>,
}

impl Slab {
    /// `count` records for loans of the thread that calls, which DPDK knows, all of one pool of
    /// `chunks` chunks; 0: of whatever pool, and nobody asks for [`Slab::chunks`]. The address is
    /// in what DPDK gets, so it stays in its box, and outlives all that is lent: see [`Slab::end`].
    pub(super) fn new(count: u32, chunks: usize) -> Box<Self> {
        // SAFETY: reads a variable of this thread.
        let owner = unsafe { sys::iibd_lcore_id() };
        let slots = (0..count).map(|index| Slot {
            shared: UnsafeCell::new(sys::rte_mbuf_ext_shared_info::default()),
            loan: Cell::new(None),
            next: AtomicU32::new(if index + 1 == count { NONE } else { index + 1 }),
            index,
            slab: Cell::new(std::ptr::null()),
        });
        let slab = Box::new(Self {
            slots: slots.collect(),
            free: Cell::new(if count == 0 { NONE } else { 0 }),
            out: Cell::new(0),
            parts: vec![Cell::new(0); chunks].into_boxed_slice(),
            chunks: Cell::new(0),
            owner: AtomicU32::new(owner),
            returned: AtomicU32::new(NONE),
        });
        for slot in &slab.slots {
            slot.slab.set(&raw const *slab);
            let opaque = (&raw const *slot).cast_mut().cast::<c_void>();
            let shared = sys::rte_mbuf_ext_shared_info {
                free_cb: Some(given_back),
                fcb_opaque: opaque,
                refcnt: 1,
            };
            // SAFETY: nobody else has the record yet.
            unsafe { slot.shared.get().write(shared) };
        }
        slab
    }

    /// Keeps the loan, and gives what DPDK counts its uses in. `None`: all records are in use.
    pub(super) fn keep(&self, loan: Loan) -> Option<*mut sys::rte_mbuf_ext_shared_info> {
        let slot = self.slots.get(self.free.get() as usize)?;
        self.free.set(slot.next.load(Ordering::Relaxed));
        self.out.set(self.out.get() + 1);
        for parts in self.parts_of(&loan) {
            if parts.get() == 0 {
                self.chunks.set(self.chunks.get() + 1);
            }
            parts.set(parts.get() + 1);
        }
        slot.loan.set(Some(loan));
        Some(slot.shared.get())
    }

    /// Ends the loans that another thread gave back.
    pub(super) fn reclaim(&self) {
        if self.returned.load(Ordering::Relaxed) == NONE {
            return;
        }
        let mut index = self.returned.swap(NONE, Ordering::Acquire);
        // At most all of them: each is on the list once.
        while let Some(slot) = self.slots.get(index as usize) {
            index = slot.next.load(Ordering::Relaxed);
            self.take_back(slot);
        }
    }

    /// Records in use.
    pub(super) fn out(&self) -> usize {
        self.out.get()
    }

    /// The counts of the loan's chunks.
    fn parts_of(&self, loan: &Loan) -> &[Cell<u32>] {
        let run = loan.run();
        let counts = self.parts.get(run.start as usize..run.end as usize);
        counts.unwrap_or_default()
    }

    /// Chunks that the records in use keep from their pool, each counted once.
    pub(super) fn chunks(&self) -> usize {
        self.chunks.get()
    }

    /// The end of the owner: on its thread, after all that could be freed has been. What a device
    /// still reads stays as it is until the process ends. `true`: there is no such thing.
    pub(super) fn end(self: Box<Self>) -> bool {
        self.reclaim();
        let is_all_back = self.out() == 0;
        if !is_all_back {
            tracing::warn!("a device still has {} pieces of lent memory", self.out());
            self.owner.store(NOBODY, Ordering::Release);
            Box::leak(self);
        }
        is_all_back
    }

    fn take_back(&self, slot: &Slot) {
        if let Some(loan) = slot.loan.take() {
            for parts in self.parts_of(&loan) {
                parts.set(parts.get() - 1);
                if parts.get() == 0 {
                    self.chunks.set(self.chunks.get() - 1);
                }
            }
        }
        slot.next.store(self.free.get(), Ordering::Relaxed);
        self.free.set(slot.index);
        self.out.set(self.out.get() - 1);
    }

    fn put_on_list(&self, slot: &Slot) {
        let mut first = self.returned.load(Ordering::Relaxed);
        loop {
            slot.next.store(first, Ordering::Relaxed);
            match self.returned.compare_exchange_weak(
                first,
                slot.index,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }
}

/// DPDK needs the memory of a record no more.
extern "C" fn given_back(_memory: *mut c_void, opaque: *mut c_void) {
    // SAFETY: `opaque` is the record that this was registered with; it lives as long as anything is
    // lent. Shared only: other threads use nothing of it but the list's atomic fields.
    let slot = unsafe { &*opaque.cast::<Slot>().cast_const() };
    // SAFETY: the slab owns the record, so it lives as well.
    let slab = unsafe { &*slot.slab.get() };
    // SAFETY: reads a variable of this thread.
    let here = unsafe { sys::iibd_lcore_id() };
    if here != NOBODY && here == slab.owner.load(Ordering::Acquire) {
        slab.take_back(slot);
    } else {
        slab.put_on_list(slot);
    }
}

impl fmt::Debug for Slab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab")
            .field("slots", &self.slots.len())
            .field("out", &self.out())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{CHUNK_BYTES, Pages, Pool};

    /// As DPDK calls it when the last use ends.
    fn free(shared: *mut sys::rte_mbuf_ext_shared_info) {
        // SAFETY: a record of a slab that lives.
        let call = unsafe { (*shared).free_cb.unwrap() };
        // SAFETY: as above.
        let opaque = unsafe { (*shared).fcb_opaque };
        // SAFETY: the function is `given_back`, with its own record.
        unsafe { call(std::ptr::null_mut(), opaque) };
    }

    #[test]
    fn loans_freed_on_a_strange_thread_end_when_their_owner_looks() {
        let pool = Pool::new(CHUNK_BYTES, Pages::Normal).unwrap();
        let slab = Slab::new(2, 1);
        let buf = pool.alloc(10).unwrap();
        let mut loans = Vec::new();
        buf.lend(0..10, |loan| loans.push(loan));
        drop(buf);
        let loan = loans.pop().unwrap();
        let shares = [
            slab.keep(loan.clone()).unwrap(),
            slab.keep(loan.clone()).unwrap(),
        ];
        assert!(slab.keep(loan).is_none());
        assert_eq!((slab.out(), pool.available()), (2, 0));
        // This thread is none that DPDK knows, so it counts as a strange one.
        shares.into_iter().for_each(free);
        assert_eq!((slab.out(), pool.available()), (2, 0));
        slab.reclaim();
        assert_eq!((slab.out(), pool.available()), (0, 1));
        assert!(slab.end());
    }

    #[test]
    fn a_chunk_counts_once_however_many_parts_of_it_are_lent() {
        let pool = Pool::new(4 * CHUNK_BYTES, Pages::Normal).unwrap();
        let buf = pool.alloc(2 * CHUNK_BYTES).unwrap();
        let mut loans = Vec::new();
        buf.lend(0..2 * CHUNK_BYTES, |loan| loans.push(loan));
        assert_eq!(loans.len(), 1, "its chunks lie behind each other");
        let slab = Slab::new(16, pool.chunks());
        let keep = |at: usize, bytes: usize| slab.keep(loans[0].part(at..at + bytes)).unwrap();
        let mut shares: Vec<_> = (0..11).map(|number| keep(number * 1448, 1448)).collect();
        assert_eq!((slab.out(), slab.chunks()), (11, 1));
        // One in both.
        shares.push(keep(CHUNK_BYTES - 100, 200));
        assert_eq!((slab.out(), slab.chunks()), (12, 2));
        let last = shares.pop().unwrap();
        free(last);
        slab.reclaim();
        assert_eq!((slab.out(), slab.chunks()), (11, 1));
        shares.into_iter().for_each(free);
        slab.reclaim();
        assert_eq!((slab.out(), slab.chunks()), (0, 0));
        assert!(slab.end());
        // Of loans of anybody's nothing is counted.
        let slab = Slab::new(1, 0);
        let share = slab.keep(loans[0].part(0..10)).unwrap();
        assert_eq!((slab.out(), slab.chunks()), (1, 0));
        free(share);
        assert!(slab.end());
    }

    #[test]
    fn what_comes_back_before_the_end_is_back_and_what_does_not_stays() {
        let pool = Pool::new(CHUNK_BYTES, Pages::Normal).unwrap();
        let lend = || {
            let mut loans = Vec::new();
            pool.alloc(10).unwrap().lend(0..10, |loan| loans.push(loan));
            loans.pop().unwrap()
        };
        let slab = Slab::new(1, 1);
        let share = slab.keep(lend()).unwrap();
        free(share);
        assert_eq!(slab.out(), 1, "nobody has looked yet");
        assert!(slab.end());
        assert_eq!((pool.available(), pool.lent()), (1, 0));

        let slab = Slab::new(1, 1);
        let share = slab.keep(lend()).unwrap();
        assert!(!slab.end());
        // The device may still say so later, and nothing may come of it.
        free(share);
        assert_eq!((pool.available(), pool.lent()), (0, 1));
    }
}
