//! A port with a bad network behind it: seeded loss, duplication, corruption, reordering and delay
//! around any other port, on each way for itself.
//!
//! The same seed, frames and times give the same faults. Time comes by [`Port::set_now`] alone and
//! [`Port::deadline`] says when the next frame is due, so virtual time will do.
//!
//! ```text
//! inner.receive ─► receive way ─► caller        caller ─► transmit way ─► inner.transmit
//!                  each way: lose? corrupt? duplicate? then hold it up, or pass it on
//! ```
//!
//! Faults happen to what is on the wire: a packet that the device is to cut is cut here first, and
//! checksums are filled before a bit is flipped, or nobody could find it. Every frame that goes
//! astray is counted in [`Fault::faults`]. Each way holds at most [`HELD_MAX`] frames.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::buffers::Buffer;
use super::checksum::verify;
use super::offload::{SEGMENTS_MAX, Wire};
use super::parcel::Parcel;
use super::{BURST, Burst, Capabilities, Checksum, Counters, Frame, Full, Link, Outgoing, Port};

/// Frames that one way holds up at one time; more are lost, as in a queue that is full.
pub const HELD_MAX: usize = 16 * 1024;
/// Frames that wait to be sent, not counting the segments of the last packet.
const WAITING_MAX: usize = 4 * BURST;
/// A frame that lets others pass goes on after so long in any case.
const REORDERED_MAX: Duration = Duration::from_millis(1);

/// How often what goes wrong on one way, in frames per million.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Rates {
    pub loss: u32,
    pub duplication: u32,
    /// One bit of the frame is another.
    pub corruption: u32,
    /// So many frames let up to `reorder_distance` later ones pass.
    pub reordering: u32,
    /// In frames; 0 is taken for 1.
    pub reorder_distance: u32,
    /// Every frame takes so long,
    pub delay: Duration,
    /// and up to so much longer, so that frames overtake each other.
    pub jitter: Duration,
}

/// What went wrong on one way.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Faults {
    pub lost: u64,
    pub duplicated: u64,
    pub corrupted: u64,
    pub reordered: u64,
    pub delayed: u64,
    /// Lost because [`HELD_MAX`] frames were held up.
    pub overflowed: u64,
}

/// A port with faults. See the module.
#[derive(Debug)]
pub struct Fault<P> {
    inner: P,
    now: Option<Instant>,
    receive: Way<Frame>,
    transmit: Way<Parcel>,
    received: u64,
    received_bytes: u64,
}

impl<P: Port> Fault<P> {
    /// Faults on the two ways of `inner`, decided by `seed`.
    pub fn new(inner: P, receive: Rates, transmit: Rates, seed: u64) -> Self {
        Self {
            inner,
            now: None,
            receive: Way::new(receive, seed),
            transmit: Way::new(transmit, !seed),
            received: 0,
            received_bytes: 0,
        }
    }

    /// What went wrong with frames received and sent.
    pub fn faults(&self) -> (Faults, Faults) {
        (self.receive.faults, self.transmit.faults)
    }

    /// Other rates from now on; what is held up stays so.
    pub fn set_rates(&mut self, receive: Rates, transmit: Rates) {
        self.receive.rates = receive;
        self.transmit.rates = transmit;
    }

    pub fn inner(&self) -> &P {
        &self.inner
    }

    pub fn inner_mut(&mut self) -> &mut P {
        &mut self.inner
    }
}

impl<P: Port> Port for Fault<P> {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn receive(&mut self, burst: &mut Burst) {
        self.receive.release(self.now);
        // One look at the device per call: with loss of everything this must end too.
        if self.receive.ready.len() < BURST {
            let mut came = Burst::new();
            self.inner.receive(&mut came);
            for frame in came {
                self.receive.push(frame, self.now);
            }
        }
        while !burst.is_full()
            && let Some(frame) = self.receive.ready.pop_front()
        {
            self.received += 1;
            self.received_bytes += frame.len() as u64;
            burst.push(frame);
        }
    }

    fn transmit(&mut self, frame: &Outgoing<'_>) -> Result<(), Full> {
        if !self.inner.capabilities().can_send(frame) {
            // The device counts what it refuses.
            return self.inner.transmit(frame);
        }
        if self.transmit.ready.len() >= WAITING_MAX {
            return Err(Full);
        }
        let touches_bytes = self.transmit.rates.corruption > 0;
        if frame.offload.segment_bytes.is_none() && !touches_bytes {
            let parcel = Parcel::copied(frame, None);
            self.transmit.push(parcel, self.now);
            return Ok(());
        }
        let wire = Wire::of(frame);
        for index in 0..wire.frames() {
            let mut bytes = Buffer::zeroed(wire.len(index));
            wire.write(index, &mut bytes);
            let parcel = Parcel::on_the_wire(bytes, frame.head.len());
            self.transmit.push(parcel, self.now);
        }
        Ok(())
    }

    fn flush(&mut self) {
        self.transmit.release(self.now);
        while let Some(parcel) = self.transmit.ready.pop_front() {
            if parcel.with(|frame| self.inner.transmit(frame)).is_ok() {
                continue;
            }
            self.inner.flush();
            if parcel.with(|frame| self.inner.transmit(frame)).is_err() {
                self.transmit.ready.push_front(parcel);
                return;
            }
        }
        self.inner.flush();
    }

    /// Frames lost on the way in count as missed, those lost on the way out as sent.
    fn counters(&self) -> Counters {
        let inner = self.inner.counters();
        let (receive, transmit) = self.faults();
        Counters {
            received: self.received,
            received_bytes: self.received_bytes,
            missed: inner.missed + receive.lost + receive.overflowed,
            sent: inner.sent + transmit.lost + transmit.overflowed,
            ..inner
        }
    }

    fn link(&mut self) -> Link {
        self.inner.link()
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wakes()
    }

    fn set_now(&mut self, now: Instant) {
        self.now = Some(self.now.map_or(now, |last| last.max(now)));
        self.inner.set_now(now);
    }

    /// In the past while a frame is ready: then the port wants its turn at once.
    fn deadline(&self) -> Option<Instant> {
        let is_ready = !self.receive.ready.is_empty() || !self.transmit.ready.is_empty();
        let ready = self.now.filter(|_| is_ready);
        let held = [self.receive.deadline(), self.transmit.deadline()];
        let all = held.into_iter().chain([ready, self.inner.deadline()]);
        all.flatten().min()
    }
}

/// What a way does to a frame of either kind.
trait Passing: Sized {
    /// Frames that one packet may become.
    const AT_ONCE: usize;
    fn len(&self) -> usize;
    fn duplicate(&self) -> Self;
    /// Flips a bit, counted from the first byte.
    fn corrupt(&mut self, bit: usize);
}

impl Passing for Frame {
    const AT_ONCE: usize = BURST;

    fn len(&self) -> usize {
        Self::len(self)
    }

    fn duplicate(&self) -> Self {
        let bytes: Vec<u8> = self.slices().flatten().copied().collect();
        let mut copy = Self::copied(&bytes);
        copy.checksum = self.checksum;
        copy.segment_bytes = self.segment_bytes;
        copy
    }

    fn corrupt(&mut self, bit: usize) {
        let mut bytes: Vec<u8> = self.slices().flatten().copied().collect();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let mut damaged = Self::copied(&bytes);
        damaged.segment_bytes = self.segment_bytes;
        damaged.checksum = match self.checksum {
            Checksum::Unknown => Checksum::Unknown,
            // The sum of joined segments, or one that the host left out, cannot be verified.
            Checksum::Good | Checksum::Bad => match verify(&bytes) {
                Checksum::Good => Checksum::Unknown,
                said => said,
            },
        };
        *self = damaged;
    }
}

impl Passing for Parcel {
    const AT_ONCE: usize = SEGMENTS_MAX;

    fn len(&self) -> usize {
        self.bytes().len()
    }

    fn duplicate(&self) -> Self {
        Self::duplicate(self)
    }

    fn corrupt(&mut self, bit: usize) {
        self.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
    }
}

/// A frame that is held up.
#[derive(Debug)]
struct Held<T> {
    frame: T,
    /// Goes on at this time at the latest; without a clock it never comes.
    due: Option<Instant>,
    /// Goes on after so many others; `None`: only with time.
    passing: Option<u32>,
}

/// One of the two ways.
#[derive(Debug)]
struct Way<T> {
    rates: Rates,
    faults: Faults,
    random: Random,
    /// In the order in which they came.
    held: VecDeque<Held<T>>,
    /// The earliest of those held, so that looking at the clock costs nothing.
    earliest: Option<Instant>,
    ready: VecDeque<T>,
}

impl<T: Passing> Way<T> {
    fn new(rates: Rates, seed: u64) -> Self {
        Self {
            rates,
            faults: Faults::default(),
            random: Random(seed),
            held: VecDeque::new(),
            earliest: None,
            ready: VecDeque::with_capacity(WAITING_MAX + 2 * T::AT_ONCE),
        }
    }

    /// A frame comes along.
    fn push(&mut self, mut frame: T, now: Option<Instant>) {
        let rates = self.rates;
        if self.random.happens(rates.loss) {
            self.faults.lost += 1;
            return;
        }
        if self.random.happens(rates.corruption) && frame.len() > 0 {
            let bits = u64::try_from(frame.len() * 8).unwrap_or(u64::MAX);
            let bit = self.random.below(bits);
            frame.corrupt(usize::try_from(bit).expect("below a frame's bits"));
            self.faults.corrupted += 1;
        }
        if self.random.happens(rates.duplication) {
            self.faults.duplicated += 1;
            let copy = frame.duplicate();
            self.pass(copy, now);
        }
        self.pass(frame, now);
    }

    /// Holds a frame up, or passes it on.
    fn pass(&mut self, frame: T, now: Option<Instant>) {
        let rates = self.rates;
        let later = now.filter(|_| !rates.delay.is_zero() || !rates.jitter.is_zero());
        if let Some(now) = later {
            let jitter = u64::try_from(rates.jitter.as_nanos()).unwrap_or(u64::MAX);
            let more = Duration::from_nanos(self.random.below(jitter.saturating_add(1)));
            self.faults.delayed += 1;
            self.hold(frame, Some(now + rates.delay + more), None);
            return;
        }
        if self.random.happens(rates.reordering) {
            let distance = u64::from(rates.reorder_distance.max(1));
            let passing = 1 + self.random.below(distance);
            self.faults.reordered += 1;
            let due = now.map(|now| now + REORDERED_MAX);
            self.hold(frame, due, u32::try_from(passing).ok());
            return;
        }
        self.ready.push_back(frame);
        self.let_pass();
    }

    fn hold(&mut self, frame: T, due: Option<Instant>, passing: Option<u32>) {
        if self.held.len() >= HELD_MAX {
            self.faults.overflowed += 1;
            return;
        }
        self.earliest = [self.earliest, due].into_iter().flatten().min();
        self.held.push_back(Held {
            frame,
            due,
            passing,
        });
    }

    /// A frame went on: those that let it pass have waited for one more.
    fn let_pass(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let mut at = 0;
        while let Some(held) = self.held.get_mut(at) {
            held.passing = held.passing.map(|left| left.saturating_sub(1));
            if held.passing != Some(0) {
                at += 1;
            } else if let Some(held) = self.held.remove(at) {
                self.ready.push_back(held.frame);
            }
        }
    }

    /// Passes on what is due, in the order of the times.
    fn release(&mut self, now: Option<Instant>) {
        let Some(now) = now.filter(|&now| self.earliest.is_some_and(|first| first <= now)) else {
            return;
        };
        // What was not bounded by its own size: at most as many as are held.
        let mut due = Vec::new();
        let mut rest = VecDeque::with_capacity(self.held.len());
        for held in self.held.drain(..) {
            match held.due {
                Some(at) if at <= now => due.push((at, held.frame)),
                _ => rest.push_back(held),
            }
        }
        self.held = rest;
        // Stable: those of one time stay in the order in which they came.
        due.sort_by_key(|(at, _)| *at);
        self.ready.extend(due.into_iter().map(|(_, frame)| frame));
        self.earliest = self.held.iter().filter_map(|held| held.due).min();
    }

    fn deadline(&self) -> Option<Instant> {
        self.earliest
    }
}

/// A small generator of numbers (SplitMix64, after Steele, Lea and Flood 2014).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `limit`, which is at least 1.
    fn below(&mut self, limit: u64) -> u64 {
        let product = u128::from(self.next()) * u128::from(limit);
        u64::try_from(product >> 64).expect("below a u64")
    }

    /// Something that happens so many times in a million.
    fn happens(&mut self, per_million: u32) -> bool {
        // Nothing is drawn for what never happens, so that one rate does not change the others'.
        per_million > 0 && self.below(1_000_000) < u64::from(per_million)
    }
}
