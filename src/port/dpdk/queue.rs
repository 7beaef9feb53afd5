//! One receive and one transmit queue of a device, polled by one thread: the [`Port`].
//!
//! ```text
//! transmit ─► Chain: headers copied, payload copied or attached ─► waiting ─ flush ─► device
//! ```
//!
//! Bounded: [`WAITING_MAX`] frames wait for a flush; what the device refuses [`REFUSALS_MAX`] times
//! without taking anything else is dropped and counted, or one frame that a driver never takes
//! (`net_tap` has such) would stop the queue for ever.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;

use arrayvec::ArrayVec;
use dpdk_sys as sys;

use super::DeviceError;
use super::chain::Chain;
use super::device::{Shared, Using};
use super::eal::error_text;
use super::facts::Lending;
use super::limits::Limits;
use super::mbuf::{Mbuf, checksum};
use super::registered;
use super::slab::Slab;
use crate::mem::Pool;
use crate::port::checksum::l2_len;
use crate::port::{
    BURST, Burst, Capabilities, Checksum, Counters, Frame, Full, Link, Outgoing, Piece, Port,
};

/// Frames that the device is asked for at once: a driver may set aside a buffer for each, and put
/// back those that found no frame (`net_vhost`). Not fewer: vector code of some drivers takes eight
/// at a time.
const TAKEN_MAX: usize = 8;
/// Frames that wait for a flush.
pub(super) const WAITING_MAX: usize = 128;
/// Calls in a row in which the device takes nothing, until the first frame is dropped.
const REFUSALS_MAX: u32 = 10_000;
/// Times that a queue that ends asks the device for what it has sent.
const CLEANUPS_MAX: usize = 1_000;
/// Buffers that the device is asked for at once.
const CLEANED_MAX: u32 = 64;
/// The part of a pool that one queue's device may keep from it, as a divisor: many drivers let go
/// of what they have sent only as they send more, which without memory nobody could.
const KEPT_PART: usize = 8;
/// Pieces of payload in one frame, beside its headers, whatever the device could take.
pub(super) const PIECES_MAX: u16 = 16;

/// A queue that no thread polls yet.
#[derive(Debug)]
pub struct IdleQueue {
    using: Using,
    queue: u16,
}

impl IdleQueue {
    pub(super) fn new(using: Using, queue: u16) -> Self {
        Self { using, queue }
    }

    /// What the queue can do. `holds_loans` may still change when it is adopted.
    pub fn capabilities(&self) -> Capabilities {
        self.using.shared().capabilities(self.queue)
    }

    /// Makes the queue the calling thread's, and the thread one that DPDK knows while it has one.
    /// `lent` is the pool whose buffers will be sent from; without it all payload is copied where
    /// the device reads memory by itself.
    ///
    /// # Errors
    /// DPDK has no room for another thread.
    pub fn adopt(self, lent: Option<&Pool>) -> Result<Queue, DeviceError> {
        let shared = Arc::clone(self.using.shared());
        let registered =
            Registered::new().map_err(|why| shared.failed("serve this thread", why))?;
        let mut capabilities = self.capabilities();
        let lendable = match shared.lending() {
            Lending::Copies => Lendable::Anything,
            Lending::Never => Lendable::Nothing,
            Lending::Dma => lent.map_or(Lendable::Nothing, |pool| {
                match registered::add(&shared, pool) {
                    true => Lendable::Registered(pool.clone()),
                    false => Lendable::Nothing,
                }
            }),
        };
        capabilities.holds_loans = !matches!(lendable, Lendable::Nothing);
        let limits = shared.limits();
        let records = if capabilities.holds_loans {
            shared.segments_of_queue()
        } else {
            0
        };
        let slab = Slab::new(records, lendable.chunks());
        Ok(Queue {
            _registered: registered,
            port: shared.port(),
            queue: self.queue,
            shared,
            using: Some(self.using),
            capabilities,
            lendable,
            limits,
            slab: Some(slab),
            received: [sys::iibd_received::default(); TAKEN_MAX],
            waiting: ArrayVec::new(),
            lengths: ArrayVec::new(),
            prepared: 0,
            refusals: 0,
            answers: true,
            counters: Counters::default(),
        })
    }
}

/// Which memory the device may read for itself.
#[derive(Debug)]
enum Lendable {
    Nothing,
    Anything,
    /// That of the pool, which has been registered with it. The handle keeps the memory.
    Registered(Pool),
}

impl Lendable {
    /// Chunks of the pool, where there is one.
    fn chunks(&self) -> usize {
        match self {
            Self::Registered(pool) => pool.chunks(),
            Self::Nothing | Self::Anything => 0,
        }
    }
}

/// A queue and the thread that polls it. See the module.
pub struct Queue {
    /// Loans and DPDK's caches belong to the thread. The first field: it goes before `shared`, with
    /// which the environment may end.
    _registered: Registered,
    shared: Arc<Shared>,
    /// Absent only while it is being dropped.
    using: Option<Using>,
    port: u16,
    queue: u16,
    capabilities: Capabilities,
    lendable: Lendable,
    limits: Limits,
    /// Absent only while it is being dropped.
    slab: Option<Box<Slab>>,
    received: [sys::iibd_received; TAKEN_MAX],
    waiting: ArrayVec<*mut sys::rte_mbuf, WAITING_MAX>,
    /// Of each that waits, in bytes.
    lengths: ArrayVec<u32, WAITING_MAX>,
    /// The first of those that wait, which the driver has looked at already.
    prepared: usize,
    refusals: u32,
    /// The device can be asked for what it has sent.
    answers: bool,
    counters: Counters,
}

impl Queue {
    /// Receive buffers of the device, of all its queues, that hold a frame or wait for one.
    pub fn buffers_in_use(&self) -> u32 {
        self.shared.rx().in_use()
    }

    /// Pieces of memory that are lent to the device.
    pub fn lent(&self) -> usize {
        self.slab.as_ref().map_or(0, |slab| slab.out())
    }

    #[cfg(test)]
    pub(super) fn all_buffers_in_use(&self) -> u32 {
        self.shared.rx().in_use() + self.shared.tx().in_use()
    }

    #[cfg(test)]
    pub(super) fn port_number(&self) -> u16 {
        self.port
    }

    #[cfg(test)]
    pub(super) fn limits_mut(&mut self) -> &mut Limits {
        &mut self.limits
    }

    /// As if the pool had been registered.
    #[cfg(test)]
    pub(super) fn lend_from(&mut self, pool: &Pool) {
        self.lendable = Lendable::Registered(pool.clone());
        self.slab = Some(Slab::new(
            self.shared.segments_of_queue(),
            self.lendable.chunks(),
        ));
    }

    /// The buffers of the last frame that waits.
    #[cfg(test)]
    pub(super) fn last_waiting(&self) -> Vec<Vec<u8>> {
        let mut mbuf = self.waiting.last().copied().unwrap_or(std::ptr::null_mut());
        let mut buffers = Vec::new();
        while !mbuf.is_null() {
            let mut segment = sys::iibd_segment::default();
            // SAFETY: a buffer of a whole chain of ours.
            unsafe { sys::iibd_segment_of(mbuf, &raw mut segment) };
            let bytes = segment.bytes as usize;
            // SAFETY: so many bytes were written there, or are lent.
            let bytes = unsafe { std::slice::from_raw_parts(segment.data, bytes) };
            buffers.push(bytes.to_vec());
            mbuf = segment.next;
        }
        buffers
    }

    /// Builds the frame's chain: out of lent memory where the device takes so many buffers, copied
    /// otherwise. `None`: no buffer is left.
    fn chain(&self, frame: &Outgoing<'_>) -> Option<Chain<'_>> {
        if frame.payload.len() <= self.capabilities.pieces_max {
            let chain = self.build(frame, true)?;
            // What is copied altogether fits by the length of its buffers.
            if !chain.lends() || chain.buffers() <= self.limits.buffers {
                return Some(chain);
            }
        }
        self.build(frame, false)
    }

    fn build(&self, frame: &Outgoing<'_>, lends: bool) -> Option<Chain<'_>> {
        let mut chain = Chain::new(self.shared.tx(), frame.head)?;
        let slab = self.slab.as_ref()?;
        for piece in frame.payload {
            match piece {
                Piece::Loan(loan) if lends && self.may_lend(loan, slab) => {
                    chain.lend(loan, slab, self.limits.lent)?;
                }
                other => chain.copy(other.bytes())?,
            }
        }
        chain.close();
        Some(chain)
    }

    fn may_lend(&self, bytes: &[u8], slab: &Slab) -> bool {
        let range = bytes.as_ptr_range();
        match &self.lendable {
            Lendable::Nothing => false,
            Lendable::Anything => true,
            Lendable::Registered(pool) => {
                let (base, len) = pool.memory();
                let first = base.as_ptr().addr();
                let is_inside = range.start.addr() >= first && range.end.addr() - first <= len;
                is_inside && !keeps_its_part(pool, slab)
            }
        }
    }

    /// The device has as much of the pool as it may have.
    fn has_its_part(&self) -> bool {
        match (&self.lendable, &self.slab) {
            (Lendable::Registered(pool), Some(slab)) => keeps_its_part(pool, slab),
            _ => false,
        }
    }

    /// The device's part of what is to be done to a frame, as DPDK's flags.
    fn flags(&self, frame: &Outgoing<'_>) -> u64 {
        let offload = &frame.offload;
        let mut flags = 0;
        if offload.ipv4_checksum {
            flags |= sys::RTE_MBUF_F_TX_IP_CKSUM;
        }
        if offload.tcp_checksum {
            flags |= sys::RTE_MBUF_F_TX_TCP_CKSUM;
        }
        if offload.segment_bytes.is_some() {
            let sums = sys::RTE_MBUF_F_TX_TCP_CKSUM | self.shared.ip_checksum_flag();
            flags |= sums | sys::RTE_MBUF_F_TX_TCP_SEG;
        }
        if flags != 0 {
            flags |= if offload.ipv6 {
                sys::RTE_MBUF_F_TX_IPV6
            } else {
                sys::RTE_MBUF_F_TX_IPV4
            };
        }
        flags
    }

    /// Lets the driver look at frames with offloads before they are sent, which some need. Gives
    /// how many of the first `burst` may be sent; one that the driver refuses is dropped.
    fn prepare(&mut self, burst: usize) -> usize {
        if !self.shared.prepares() {
            return burst;
        }
        if self.prepared < burst {
            let rest = &mut self.waiting[self.prepared..burst];
            let count = u16::try_from(rest.len()).expect("at most a burst");
            // SAFETY: the queue is set up and this thread's; the frames are ours.
            let done =
                unsafe { sys::iibd_prepare(self.port, self.queue, rest.as_mut_ptr(), count) };
            self.prepared += usize::from(done.min(count));
            if done < count {
                self.drop_waiting(self.prepared);
                self.counters.refused += 1;
            }
        }
        self.prepared.min(burst)
    }

    /// Frees one of those that wait.
    fn drop_waiting(&mut self, index: usize) {
        let mbuf = self.waiting.remove(index);
        self.lengths.remove(index);
        // SAFETY: a whole chain that was not given to the device.
        unsafe { sys::iibd_free(mbuf) };
    }

    /// Gives the device the first `count` of those that wait. Gives how many it took.
    fn send(&mut self, count: usize) -> usize {
        let burst = u16::try_from(count).expect("at most a burst");
        let first = self.waiting.as_mut_ptr();
        // SAFETY: the queue is set up and this thread's; so many chains wait there, each whole and
        // ours. The device owns those that it takes.
        let taken = unsafe { sys::iibd_transmit(self.port, self.queue, first, burst) };
        let taken = usize::from(taken.min(burst));
        let bytes = |bytes: &u32| u64::from(*bytes);
        self.counters.sent += taken as u64;
        self.counters.sent_bytes += self.lengths[..taken].iter().map(bytes).sum::<u64>();
        self.waiting.drain(..taken);
        self.lengths.drain(..taken);
        self.prepared = self.prepared.saturating_sub(taken);
        taken
    }

    /// Asks the device for what it has sent, while there is nothing to send or nothing can be lent:
    /// most look at that only when they need room, and would keep loans for as long. For those that
    /// neither can be asked nor look when they are called there is [`KEPT_PART`].
    fn clean_up(&mut self) {
        if self.lent() == 0 {
            return;
        }
        if self.answers {
            // SAFETY: the queue is set up and this thread's.
            let done = unsafe { sys::rte_eth_tx_done_cleanup(self.port, self.queue, CLEANED_MAX) };
            self.answers = done >= 0;
        } else if self.shared.looks_when_called() {
            let none = self.waiting.as_mut_ptr();
            // SAFETY: the queue is set up and this thread's; no frame is given.
            unsafe { sys::iibd_transmit(self.port, self.queue, none, 0) };
        }
    }

    /// Whether a received frame is as the rest of the world wants it.
    fn accept(&mut self, received: sys::iibd_received) -> Option<Frame> {
        let mbuf = Mbuf::new(received)?;
        if mbuf.len() - l2_len(mbuf.head()).min(mbuf.len()) > usize::from(self.capabilities.mtu) {
            return None;
        }
        let sums = if self.capabilities.verifies_checksums {
            checksum(received.flags, mbuf.head())
        } else {
            Checksum::Unknown
        };
        let mut frame = Frame::from_mbuf(mbuf);
        frame.checksum = sums;
        Some(frame)
    }
}

/// What is lent is as much of the pool as a device may keep.
fn keeps_its_part(pool: &Pool, slab: &Slab) -> bool {
    slab.chunks() >= pool.chunks() / KEPT_PART
}

impl Port for Queue {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn receive(&mut self, burst: &mut Burst) {
        let room = burst.remaining_capacity().min(TAKEN_MAX);
        let max = u16::try_from(room).expect("at most a burst");
        if max == 0 {
            return;
        }
        let first = self.received.as_mut_ptr();
        // SAFETY: the queue is set up and this thread's; there is room for so many descriptions.
        let count = unsafe { sys::iibd_receive(self.port, self.queue, first, max) };
        for index in 0..usize::from(count.min(max)) {
            let Some(frame) = self.accept(self.received[index]) else {
                self.counters.receive_errors += 1;
                continue;
            };
            self.counters.received += 1;
            self.counters.received_bytes += frame.len() as u64;
            burst.push(frame);
        }
    }

    fn transmit(&mut self, frame: &Outgoing<'_>) -> Result<(), Full> {
        if self.waiting.is_full() {
            return Err(Full);
        }
        if !self.capabilities.can_send(frame) {
            self.counters.refused += 1;
            return Ok(());
        }
        let chain = self.chain(frame).ok_or(Full)?;
        let (flags, offload) = (self.flags(frame), &frame.offload);
        let length = chain.len();
        let mbuf = chain.into_raw();
        if flags != 0 {
            let segment = offload.segment_bytes.map_or(0, std::num::NonZero::get);
            let (l2, l3, l4) = (offload.l2_len, offload.l3_len, offload.l4_len);
            // SAFETY: the head of a chain of ours.
            unsafe { sys::iibd_offload(mbuf, flags, l2, l3, l4, segment) };
        }
        self.waiting.push(mbuf);
        self.lengths.push(length);
        Ok(())
    }

    fn flush(&mut self) {
        if let Some(slab) = &self.slab {
            slab.reclaim();
        }
        if self.waiting.is_empty() || self.has_its_part() {
            self.clean_up();
        }
        while !self.waiting.is_empty() {
            let burst = self.waiting.len().min(BURST);
            let ready = self.prepare(burst);
            if ready == 0 {
                // The driver refused the first; it is gone.
                continue;
            }
            let taken = self.send(ready);
            if taken > 0 {
                self.refusals = 0;
            } else {
                self.refusals += 1;
                if self.refusals > REFUSALS_MAX {
                    self.refusals = 0;
                    self.drop_waiting(0);
                    self.prepared = self.prepared.saturating_sub(1);
                    self.counters.transmit_errors += 1;
                }
            }
            if taken < ready {
                return;
            }
        }
    }

    /// What the device lost before it reached any queue, and behind all queues, is counted by its
    /// first one.
    fn counters(&self) -> Counters {
        let mut counters = self.counters;
        if self.queue == 0 {
            let device = self.shared.stats();
            // Not `rx_nombuf`: some drivers raise it with each poll that finds no buffer.
            counters.missed = device.imissed;
            counters.receive_errors = counters.receive_errors.saturating_add(device.ierrors);
            // Not among `transmit_errors`: what vhost and others refuse is offered again.
            counters.lost_by_device = device.oerrors;
        }
        counters
    }

    fn link(&mut self) -> Link {
        self.shared.link()
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        while !self.waiting.is_empty() {
            self.drop_waiting(self.waiting.len() - 1);
        }
        for _ in 0..CLEANUPS_MAX {
            self.clean_up();
        }
        let Some(slab) = self.slab.take() else {
            return;
        };
        // The last queue stops the device, which frees all that it has; the others wait for that,
        // if theirs is among it.
        drop(self.using.take());
        slab.reclaim();
        if slab.out() > 0 {
            self.shared.wait_until_stopped();
        }
        let is_all_back = slab.end();
        if let Lendable::Registered(pool) = &self.lendable
            && is_all_back
        {
            registered::remove(&self.shared, pool);
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("port", &self.port)
            .field("queue", &self.queue)
            .field("waiting", &self.waiting.len())
            .field("counters", &self.counters)
            .finish()
    }
}

thread_local! {
    /// Queues of this thread.
    static QUEUES: Cell<u32> = const { Cell::new(0) };
}

/// DPDK knows the thread, and keeps buffers at hand for it. One for each of the thread's queues.
#[derive(Debug)]
struct Registered {
    one_thread: PhantomData<Rc<()>>,
}

impl Registered {
    fn new() -> Result<Self, String> {
        // SAFETY: the environment runs: who calls this has a device.
        if QUEUES.get() == 0 && unsafe { sys::rte_thread_register() } != 0 {
            // SAFETY: reads a variable of this thread.
            return Err(error_text(unsafe { sys::iibd_errno() }));
        }
        QUEUES.set(QUEUES.get() + 1);
        Ok(Self {
            one_thread: PhantomData,
        })
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        QUEUES.set(QUEUES.get() - 1);
        if QUEUES.get() == 0 {
            // SAFETY: this very thread was registered with its first queue, and the environment
            // still runs: the queue that this is a field of lets go of it later.
            unsafe { sys::rte_thread_unregister() }
        }
    }
}
