//! What a connection has to send: header bytes in a small ring, payload in the backend's buffers.
//!
//! Small things (headers, sense data, padding, digests) are written once into a byte ring; runs of
//! them that follow each other leave as one slice, so that thirty write responses are one element
//! of a vectored send. Payload is never copied: a [`DmaBuf`] is held here, unchanged, until its
//! last byte was taken by the stream.
//!
//! Invariants: `runs` describe exactly the bytes of the ring, in order; a run is never empty.
//!
//! Bounds: the ring holds [`RING_BYTES`]. Whoever queues something that can wait (Data-In, R2T)
//! asks [`TransmitQueue::has_room`] first, which keeps [`RING_RESERVE`] for what cannot: the
//! answers of commands that are already in the window.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use arrayvec::ArrayVec;

use crate::mem::{self, DmaBuf};
use crate::pdu::{BHS_LEN, Bhs, DataDigest, digest_to_wire, header_digest};

/// Small bytes that can be waiting on one connection.
pub const RING_BYTES: usize = 64 * 1024;
/// What of the ring is kept for answers.
pub const RING_RESERVE: usize = 40 * 1024;
/// Payload bytes that can be waiting before further Data-In is held back.
pub const PAYLOAD_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Payload bytes from which on the peer must read before it may ask for more. Data-In stays well
/// below it; what a flood of pings wants back gets there.
const PAYLOAD_CONGESTED_BYTES: usize = PAYLOAD_BYTES_MAX + 1024 * 1024;
/// Small bytes waiting from which on nothing more is received. What can still become due then has
/// room: the answers of all tasks that a session can have, with the longest sense data and both
/// digests, and one text or NOP answer of the PDU that was being received.
pub const RING_CONGESTED_BYTES: usize = 36 * 1024;
const _: () = {
    let answer = BHS_LEN + 2 + crate::scsi::sense::SENSE_BYTES_MAX + 2 + 8;
    let tasks = crate::iscsi::session::QUEUE_DEPTH_MAX + crate::iscsi::session::IMMEDIATE_MAX;
    let management = (crate::iscsi::session::MANAGEMENT_MAX + crate::iscsi::session::LOGOUTS_MAX)
        * (BHS_LEN + 4);
    let text = BHS_LEN + 8192 + 8;
    assert!(RING_CONGESTED_BYTES + tasks as usize * answer + management + text <= RING_BYTES);
};
/// Slices that one send gathers.
pub const SLICES_MAX: usize = 512;
/// Pieces that one send to a flow of our own TCP gathers.
pub const PIECES_MAX: usize = 128;

/// Bytes of the ring and the payload behind them: a header and its data segment, or several headers
/// of which the last has one.
#[derive(Debug)]
struct Run {
    ring: usize,
    /// Empty where no payload follows.
    payload: Range<usize>,
    /// Whose payload it is.
    slot: u16,
}

/// A buffer that runs refer to.
#[derive(Debug)]
struct HeldBuf {
    buf: Option<DmaBuf>,
    /// Runs that still refer to it.
    runs: u32,
    /// No further run will be cut from it.
    released: bool,
}

/// Names a buffer given to [`TransmitQueue::hold`] until [`TransmitQueue::release`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a held buffer must be released"]
pub struct Held(u16);

/// See the module.
#[derive(Debug)]
pub struct TransmitQueue {
    ring: Box<[u8]>,
    /// Offset of the oldest byte in `ring`.
    head: usize,
    used: usize,
    runs: VecDeque<Run>,
    held: Vec<HeldBuf>,
    free: Vec<u16>,
    payload: usize,
    /// Bytes that the stream has taken and keeps in our buffers until the peer has them.
    unacknowledged: usize,
    header_digest: bool,
    data_digest: bool,
}

impl Default for TransmitQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl TransmitQueue {
    pub fn new() -> Self {
        Self {
            ring: vec![0; RING_BYTES].into_boxed_slice(),
            head: 0,
            used: 0,
            runs: VecDeque::with_capacity(256),
            held: Vec::with_capacity(64),
            free: Vec::with_capacity(64),
            payload: 0,
            unacknowledged: 0,
            header_digest: false,
            data_digest: false,
        }
    }

    /// The queue of a connection that is gone: takes nothing.
    pub fn closed() -> Self {
        Self {
            ring: Box::default(),
            head: 0,
            used: 0,
            runs: VecDeque::new(),
            held: Vec::new(),
            free: Vec::new(),
            payload: 0,
            unacknowledged: 0,
            header_digest: false,
            data_digest: false,
        }
    }

    /// From the next PDU on (RFC 7143 §6.3: digests begin with the full feature phase).
    pub fn set_digests(&mut self, header: bool, data: bool) {
        self.header_digest = header;
        self.data_digest = data;
    }

    /// Nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Bytes that are waiting.
    pub fn len(&self) -> usize {
        self.used + self.payload
    }

    /// Whether something that can wait may be queued now.
    pub fn has_room(&self) -> bool {
        self.has_room_beside(0)
    }

    /// The same, with `bytes` of payload on their way here.
    pub fn has_room_beside(&self, bytes: usize) -> bool {
        let payload = self.payload + self.unacknowledged + bytes;
        self.used <= RING_BYTES - RING_RESERVE && payload < PAYLOAD_BYTES_MAX
    }

    /// So many bytes that were sent are still in our buffers: they count as waiting, so that a peer
    /// that acknowledges nothing keeps no more memory than one that reads nothing. A stream that
    /// keeps bytes takes less than [`PAYLOAD_BYTES_MAX`] of them, so whatever finds no room here
    /// stands behind bytes that the stream has refused, and goes on when it takes them.
    pub fn set_unacknowledged(&mut self, bytes: usize) {
        self.unacknowledged = bytes;
    }

    /// So much waits that the peer must read before it may ask for more.
    pub fn is_congested(&self) -> bool {
        self.used > RING_CONGESTED_BYTES
            || self.payload + self.unacknowledged > PAYLOAD_CONGESTED_BYTES
    }

    /// Whether an answer of up to `bytes` of data segment fits at all.
    pub fn fits(&self, bytes: usize) -> bool {
        self.used + BHS_LEN + bytes + 16 <= RING_BYTES
    }

    /// Queues a PDU whose data segment, if any, is small and copied into the ring. `false`: it does
    /// not fit and nothing was queued.
    #[must_use]
    pub fn push(&mut self, bhs: Bhs, data: &[u8]) -> bool {
        if !self.fits(data.len()) {
            return false;
        }
        let length = u32::try_from(data.len()).expect("fits() bounds it by the ring");
        self.put_header(bhs.with_lengths(0, length));
        if !data.is_empty() {
            let digest = self.data_digest.then(|| digest_of([data]));
            self.put(data);
            self.put_trailer(data.len(), digest);
        }
        true
    }

    /// Takes a buffer that Data-In will be cut from.
    pub fn hold(&mut self, buf: DmaBuf) -> Held {
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.held[usize::from(slot)];
            let old = entry.buf.replace(buf);
            assert!(old.is_none() && entry.runs == 0, "a free place is empty");
            entry.released = false;
            Held(slot)
        } else {
            let slot = u16::try_from(self.held.len()).expect("bounded by the command window");
            self.held.push(HeldBuf {
                buf: Some(buf),
                runs: 0,
                released: false,
            });
            Held(slot)
        }
    }

    /// Queues a PDU whose data segment is `range` of a held buffer. Ask [`Self::has_room`] first.
    pub fn push_payload(&mut self, bhs: Bhs, held: &Held, range: Range<usize>) {
        let bytes = range.len();
        let length = u32::try_from(bytes).expect("a data segment has at most 2^24 - 1 bytes");
        self.put_header(bhs.with_lengths(0, length));
        if bytes == 0 {
            return;
        }
        let entry = &mut self.held[usize::from(held.0)];
        entry.runs += 1;
        let digest = self.data_digest.then(|| {
            let buf = entry.buf.as_ref();
            let buf = buf.expect("a Held stands for a buffer that is here");
            digest_of(buf.range_slices(range.start, bytes))
        });
        self.payload += bytes;
        let run = self.runs.back_mut();
        let run = run.expect("the header has just been put into it");
        (run.payload, run.slot) = (range, held.0);
        self.put_trailer(bytes, digest);
    }

    /// No further PDU is cut from this buffer; it goes back to its pool with its last byte.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "giving the handle up is the point"
    )]
    pub fn release(&mut self, held: Held) {
        let entry = &mut self.held[usize::from(held.0)];
        entry.released = true;
        if entry.runs == 0 {
            entry.buf = None;
            self.free.push(held.0);
        }
    }

    /// What to send next, oldest first.
    pub fn gather<'a>(&'a self, out: &mut ArrayVec<IoSlice<'a>, SLICES_MAX>) {
        let mut at = self.head;
        for run in &self.runs {
            if run.ring > 0 {
                if out.remaining_capacity() < 2 {
                    return;
                }
                let (first, rest) = self.in_ring(at, run.ring);
                out.push(IoSlice::new(first));
                if !rest.is_empty() {
                    out.push(IoSlice::new(rest));
                }
                at = (at + run.ring) % RING_BYTES;
            }
            if let Some(buf) = self.payload_of(run) {
                for slice in buf.range_slices(run.payload.start, run.payload.len()) {
                    if out.try_push(IoSlice::new(slice)).is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// The same for a stream that keeps buffers until the peer has acknowledged their bytes.
    pub fn gather_pieces<'a>(&'a self, out: &mut ArrayVec<mem::Piece<'a>, PIECES_MAX>) {
        let mut at = self.head;
        for run in &self.runs {
            if run.ring > 0 {
                if out.remaining_capacity() < 2 {
                    return;
                }
                let (first, rest) = self.in_ring(at, run.ring);
                out.push(mem::Piece::Bytes(first));
                if !rest.is_empty() {
                    out.push(mem::Piece::Bytes(rest));
                }
                at = (at + run.ring) % RING_BYTES;
            }
            if let Some(buf) = self.payload_of(run) {
                if out.remaining_capacity() < 2 {
                    return;
                }
                out.push(mem::Piece::Buffer(buf, run.payload.clone()));
            }
        }
    }

    /// So many bytes of the ring from `at` on, which may go on at its beginning.
    #[inline]
    fn in_ring(&self, at: usize, bytes: usize) -> (&[u8], &[u8]) {
        match self.ring.get(at..at + bytes) {
            Some(all) => (all, &[]),
            None => (&self.ring[at..], &self.ring[..at + bytes - RING_BYTES]),
        }
    }

    /// The buffer of a run, unless it has no payload.
    #[inline]
    fn payload_of(&self, run: &Run) -> Option<&DmaBuf> {
        if run.payload.is_empty() {
            return None;
        }
        let buf = self.held[usize::from(run.slot)].buf.as_ref();
        Some(buf.expect("a run keeps its buffer"))
    }

    /// The stream took `bytes` of what [`Self::gather`] or [`Self::gather_pieces`] showed.
    pub fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let run = self
                .runs
                .front_mut()
                .expect("no more was taken than was shown");
            let small = bytes.min(run.ring);
            run.ring -= small;
            self.head = (self.head + small) % RING_BYTES;
            self.used -= small;
            bytes -= small;
            let had_payload = !run.payload.is_empty();
            let large = bytes.min(run.payload.len());
            run.payload.start += large;
            self.payload -= large;
            bytes -= large;
            if run.ring == 0 && run.payload.is_empty() {
                let slot = run.slot;
                self.runs.pop_front();
                if had_payload {
                    self.run_done(slot);
                }
            }
        }
        if self.runs.is_empty() {
            // Start over at the cache-hot end.
            self.head = 0;
        }
    }

    fn run_done(&mut self, slot: u16) {
        let entry = &mut self.held[usize::from(slot)];
        entry.runs -= 1;
        if entry.runs == 0 && entry.released {
            entry.buf = None;
            self.free.push(slot);
        }
    }

    #[inline]
    fn put_header(&mut self, bhs: Bhs) {
        self.put(bhs.bytes());
        if self.header_digest {
            self.put(&digest_to_wire(header_digest(bhs.bytes())));
        }
    }

    /// Appends to the ring, and to the last run.
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        assert!(
            self.used + bytes.len() <= RING_BYTES,
            "callers ask for room first"
        );
        let at = (self.head + self.used) % RING_BYTES;
        match self.ring.get_mut(at..at + bytes.len()) {
            Some(place) => place.copy_from_slice(bytes),
            None => self.put_around(at, bytes),
        }
        self.used += bytes.len();
        match self.runs.back_mut() {
            Some(run) if run.payload.is_empty() => run.ring += bytes.len(),
            _ => self.runs.push_back(Run {
                ring: bytes.len(),
                payload: 0..0,
                slot: 0,
            }),
        }
    }

    /// The ring's end comes before that of `bytes`.
    #[cold]
    fn put_around(&mut self, at: usize, bytes: &[u8]) {
        let (first, rest) = bytes.split_at(RING_BYTES - at);
        self.ring[at..].copy_from_slice(first);
        self.ring[..rest.len()].copy_from_slice(rest);
    }

    /// What stands behind a data segment of so many bytes: padding, and the data digest.
    #[inline]
    fn put_trailer(&mut self, data: usize, digest: Option<DataDigest>) {
        let pad = &PADDING[..padding(data)];
        if !pad.is_empty() {
            self.put(pad);
        }
        if let Some(mut digest) = digest {
            digest.update(pad);
            self.put(&digest_to_wire(digest.finish()));
        }
    }
}

/// The data digest so far, of a data segment in pieces.
#[cold]
fn digest_of<'a>(slices: impl IntoIterator<Item = &'a [u8]>) -> DataDigest {
    let mut digest = DataDigest::new();
    for slice in slices {
        digest.update(slice);
    }
    digest
}

const PADDING: [u8; 3] = [0; 3];

/// Data segments are padded to a multiple of four bytes (RFC 7143 §11.1).
const fn padding(bytes: usize) -> usize {
    bytes.wrapping_neg() % 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Pages, Pool};
    use proptest::prelude::*;

    fn gathered(queue: &TransmitQueue) -> (Vec<u8>, Vec<u8>, Vec<bool>) {
        let mut slices = ArrayVec::new();
        queue.gather(&mut slices);
        let flat = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        let mut pieces = ArrayVec::new();
        queue.gather_pieces(&mut pieces);
        let mut bytes = Vec::new();
        let mut lent = Vec::new();
        for piece in &pieces {
            lent.push(matches!(piece, mem::Piece::Buffer(..)));
            match piece {
                mem::Piece::Bytes(more) => bytes.extend_from_slice(more),
                mem::Piece::Buffer(buf, range) => {
                    bytes.extend_from_slice(&buf.to_vec()[range.clone()]);
                }
            }
        }
        (flat, bytes, lent)
    }

    /// Header, payload and padding of a READ, seen from both kinds of streams, also when the ring
    /// wraps and after a part was taken.
    #[test]
    fn slices_and_pieces_are_the_same_bytes() {
        let pool = Pool::new(1 << 20, Pages::Normal).unwrap();
        let mut queue = TransmitQueue::new();
        let whole = RING_BYTES / BHS_LEN - 1;
        for _ in 0..whole {
            assert!(queue.push(Bhs::new([0; BHS_LEN]), &[]));
        }
        // One header stays in front, so that the ring does not start over.
        queue.advance((whole - 1) * BHS_LEN);
        let mut buf = pool.alloc(40_001).unwrap();
        for at in 0..buf.len() {
            buf.copy_from(at, &[at.to_le_bytes()[0]]);
        }
        let held = queue.hold(buf);
        queue.push_payload(Bhs::new([0; BHS_LEN]), &held, 0..30_000);
        queue.push_payload(Bhs::new([0; BHS_LEN]), &held, 30_000..40_001);
        queue.release(held);
        assert!(queue.push(Bhs::new([0; BHS_LEN]), b"behind the ring's end"));
        let (flat, bytes, lent) = gathered(&queue);
        assert_eq!(flat.len(), queue.len());
        assert_eq!(flat, bytes);
        assert_eq!(lent.iter().filter(|lent| **lent).count(), 2);
        queue.advance(BHS_LEN * 2 + 777);
        let (flat, bytes, _) = gathered(&queue);
        assert_eq!((flat.len(), &flat), (queue.len(), &bytes));
        queue.advance(queue.len());
        assert_eq!(pool.available(), pool.chunks());
    }

    #[test]
    fn what_is_not_acknowledged_takes_room() {
        let mut queue = TransmitQueue::new();
        assert!(queue.has_room());
        queue.set_unacknowledged(PAYLOAD_BYTES_MAX - 1);
        assert!(queue.has_room() && !queue.has_room_beside(1));
        queue.set_unacknowledged(PAYLOAD_BYTES_MAX);
        assert!(!queue.has_room() && !queue.is_congested());
        queue.set_unacknowledged(PAYLOAD_CONGESTED_BYTES + 1);
        assert!(queue.is_congested());
        queue.set_unacknowledged(0);
        assert!(queue.has_room());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Small { data: usize },
        Payload { range: Range<usize> },
        Advance { bytes: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (0..60_usize).prop_map(|data| Step::Small { data }),
            2 => (0..6000_usize, 0..4000_usize).prop_map(|(start, bytes)| Step::Payload {
                range: start..start + bytes,
            }),
            3 => (0..6000_usize).prop_map(|bytes| Step::Advance { bytes }),
        ]
    }

    /// A PDU as it goes out.
    fn wire(bhs: Bhs, data: &[u8], digest: bool) -> Vec<u8> {
        let length = u32::try_from(data.len()).unwrap();
        let mut wire = bhs.with_lengths(0, length).bytes().to_vec();
        let mut body = data.to_vec();
        body.resize(data.len().next_multiple_of(4), 0);
        wire.extend(&body);
        if digest && !body.is_empty() {
            wire.extend(digest_to_wire(crc32c::crc32c(&body)));
        }
        wire
    }

    proptest! {
        /// Whatever is queued and taken, in whatever parts: what is left is shown as it would stand
        /// in one long array, and nothing keeps memory in the end.
        #[test]
        fn what_was_queued_is_shown_in_order(
            steps in prop::collection::vec(step(), 0..50),
            digest: bool,
        ) {
            let pool = Pool::new(1 << 20, Pages::Normal).unwrap();
            let mut queue = TransmitQueue::new();
            queue.set_digests(false, digest);
            // Near the ring's end, so that it goes round.
            let bhs = Bhs::new([0x5a; BHS_LEN]);
            let headers = RING_BYTES / BHS_LEN - 3;
            for _ in 0..headers {
                assert!(queue.push(bhs, &[]));
            }
            queue.advance((headers - 1) * BHS_LEN);
            let mut left = wire(bhs, &[], digest);
            let mut buf = pool.alloc(10_000).unwrap();
            for at in 0..buf.len() {
                buf.copy_from(at, &[at.to_le_bytes()[0]]);
            }
            let bytes = buf.to_vec();
            let held = queue.hold(buf);
            for (n, step) in steps.into_iter().enumerate() {
                let bhs = Bhs::new([n.to_le_bytes()[0]; BHS_LEN]);
                match step {
                    Step::Small { data } => {
                        prop_assert!(queue.push(bhs, &bytes[..data]));
                        left.extend(wire(bhs, &bytes[..data], digest));
                    }
                    Step::Payload { range } => {
                        prop_assert!(queue.has_room());
                        queue.push_payload(bhs, &held, range.clone());
                        left.extend(wire(bhs, &bytes[range], digest));
                    }
                    Step::Advance { bytes } => {
                        let bytes = bytes.min(left.len());
                        queue.advance(bytes);
                        left.drain(..bytes);
                    }
                }
                prop_assert_eq!((queue.len(), queue.is_empty()), (left.len(), left.is_empty()));
                let (slices, pieces, _) = gathered(&queue);
                prop_assert_eq!(&slices, &left);
                prop_assert_eq!(&pieces, &left);
            }
            queue.release(held);
            queue.advance(left.len());
            prop_assert!(queue.is_empty());
            prop_assert_eq!(pool.available(), pool.chunks());
        }
    }
}
