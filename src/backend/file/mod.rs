//! Files and block devices of one core: slots of operations under way, and the engines that make
//! their calls.
//!
//! ```text
//! submit ─► slot (token, buffer, job) ─► job.call ─► ring | helper thread | inline on tmpfs
//!                                          ▲                      │
//! completion ◄─ Done ◄─ job.on_result ◄────┴──────── answer ◄─────┘
//! ```
//!
//! Invariants: a slot has at most one call under way and is left alone while it has one, so iovecs
//! and buffer stay where the kernel or a helper uses them; nothing that may block runs on the core.
//! A unit stays, and its object open, until its last operation has ended, also when it is detached
//! before. One of several units gets a part of the slots and helpers only: a hung disk stalls its
//! own requests and nobody else's.
//!
//! Should the core end with calls under way, their memory, the ring and the threads are left to
//! them (leaked) rather than freed under the kernel's hands or waited for without bound. A turn for
//! synchronous calls that was taken then stays taken: cores end like this only with the process.
//!
//! A file is a disk whose end may be cut off by others. Reads notice (they come back short), writes
//! would silently make it longer again; so before changes its size is looked at, once a turn, and
//! what lies beyond the end is [`IoError::OutOfRange`]. Between the look and the write a cut can
//! still slip through: the lock tells well-behaved programs to stay away.

mod errno;
mod gate;
mod helpers;
mod job;
mod object;
mod registry;
mod ring;
mod sys;
mod turn;

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::mem;
use std::os::fd::AsRawFd;
use std::ptr;
use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

pub(crate) use object::FileObject;

use super::request::{Completion, IoError, Manner, Operation, Token};
use super::spec::{Engine, OpenError};
use super::wake::Wake;
use crate::mem::DmaBuf;
use helpers::{HELPERS_PER_UNIT_MAX, Helpers, Work};
use job::{Call, IOVECS_MAX, Job, Progress};
use ring::{Ring, RingFile};
use sys::{Iovecs, ZEROES, ZEROES_BYTES};
use turn::Waiter;

/// Requests of one unit that wait for a slot; beyond it they complete with [`IoError::Resource`].
const WAITING_MAX: usize = 4096;
/// Where there are several units, one of them gets this part of the slots.
const UNIT_SHARE: usize = 4;

/// How long a call that makes no progress, or meets transient errors, is made again.
const RETRY_FOR: Duration = Duration::from_secs(2);
/// For so long at first the core stays awake for it. Then it is made again when the core turns for
/// another reason, at the latest with its next timer.
const RETRY_AWAKE: Duration = Duration::from_millis(1);

/// Longest transfer that is made inline on a file system in memory, in bytes.
const INLINE_BYTES_MAX: usize = 1 << 20;

/// Which way a unit's calls go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Ring(RingFile),
    Inline,
    Helpers,
}

#[derive(Debug)]
struct FileUnit {
    object: Arc<FileObject>,
    way: Way,
    /// The size seen in turn `size_turn`.
    size: u64,
    size_turn: u64,
    /// Some index names it.
    attached: bool,
    /// Its slots.
    under_way: usize,
    waiting: VecDeque<Slot>,
    /// Its calls that helpers have, and slots whose calls wait for one.
    helping: usize,
    for_helpers: VecDeque<u32>,
    /// Slots that wait for the turn to make a synchronous call, oldest first.
    syncing: VecDeque<u32>,
    waiter: Arc<Waiter>,
}

#[derive(Debug)]
struct Slot {
    /// The place of its unit, which stays there until this slot is empty.
    unit: u32,
    job: Job,
    /// The call under way has the object's turn for synchronous calls.
    has_turn: bool,
    /// The call under way is a helper's.
    is_helped: bool,
    /// When the first of an unbroken row of transient errors came.
    retrying_since: Option<Instant>,
    token: Token,
    buf: Option<DmaBuf>,
}

impl Slot {
    /// Whether the call learns of lost writes for everybody: see [`turn::Turn`]. Direct transfers
    /// report their own errors to their own callers.
    fn needs_turn(call: Call, object: &FileObject) -> bool {
        call == Call::Sync && object.is_cached() && !object.in_memory
    }

    /// Whether the failure of the last call was, or may have been, the only word of lost writes.
    /// The latter is a synchronous direct write that was under way when something first went into
    /// the page cache.
    fn cache_lost(&self, result: Result<(), IoError>, object: &FileObject) -> bool {
        let may_have_heard = self.job.is_synchronous_write() && object.is_cached();
        self.job.cache_lost() || (result.is_err() && may_have_heard)
    }
}

#[derive(Debug)]
pub(crate) struct Files {
    /// The place in `units` that an index names.
    attached: Vec<Option<u32>>,
    units: Vec<Option<FileUnit>>,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    /// Units whose operations wait for a slot, each once, in the order of their turns.
    hungry: VecDeque<u32>,
    /// Operations that wait for a slot.
    waiting: usize,
    /// Units with slots that wait for a turn to make a synchronous call, each once.
    syncing: Vec<u32>,
    /// Slots whose calls are to be made again.
    retrying: Vec<u32>,
    /// Lent to kernel and helpers through pointers, so no reference is made while they are. A
    /// vector, because moving a box would claim its contents.
    iovecs: Vec<UnsafeCell<Iovecs>>,
    ring: Option<Ring>,
    helpers: Helpers,
    answers: Vec<(u32, Result<usize, Errno>)>,
    wake: Arc<Wake>,
    turn: u64,
    /// The time of this turn; none before the first.
    now: Option<Instant>,
}

impl Files {
    /// `depth` operations under way at once, `units` units.
    pub(crate) fn new(depth: u32, units: usize, wake: &Arc<Wake>) -> Self {
        let empty = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        let iovecs = || UnsafeCell::new([empty; IOVECS_MAX]);
        Self {
            attached: (0..units).map(|_| None).collect(),
            units: Vec::new(),
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            hungry: VecDeque::new(),
            waiting: 0,
            syncing: Vec::new(),
            retrying: Vec::with_capacity(depth as usize),
            iovecs: (0..depth).map(|_| iovecs()).collect(),
            ring: None,
            helpers: Helpers::new(depth as usize, Arc::clone(wake)),
            answers: Vec::with_capacity(depth as usize),
            wake: Arc::clone(wake),
            turn: 0,
            now: None,
        }
    }

    /// Chooses the unit's engine and takes it in. Returns the engine's name.
    pub(crate) fn attach(
        &mut self,
        index: u16,
        object: &Arc<FileObject>,
    ) -> Result<&'static str, OpenError> {
        let place = self.attached.get(usize::from(index));
        if place.is_none_or(Option::is_some) {
            return Err(OpenError::Slot(index));
        }
        let plain = if object.in_memory {
            (Way::Inline, "sync")
        } else {
            (Way::Helpers, "sync (helper threads)")
        };
        let (way, name) = match object.engine {
            Engine::Sync => plain,
            Engine::Auto if object.in_memory => plain,
            Engine::Auto => match self.ring_way(index, object) {
                Ok(way) => (way, "io_uring"),
                Err(error) => {
                    tracing::info!(path = %object.path.display(), %error, "io_uring is refused, using system calls");
                    plain
                }
            },
            Engine::IoUring => match self.ring_way(index, object) {
                Ok(way) => (way, "io_uring"),
                Err(error) => return Err(OpenError::IoUring(error.to_string())),
            },
        };
        let unit = FileUnit {
            object: Arc::clone(object),
            way,
            size: 0,
            size_turn: u64::MAX,
            attached: true,
            under_way: 0,
            waiting: VecDeque::new(),
            helping: 0,
            for_helpers: VecDeque::new(),
            syncing: VecDeque::new(),
            waiter: Waiter::new(&self.wake),
        };
        let at = self.units.iter().position(Option::is_none);
        let at = at.unwrap_or_else(|| {
            self.units.push(None);
            self.units.len() - 1
        });
        self.units[at] = Some(unit);
        let at = u32::try_from(at).expect("a bounded table and what is leaving it");
        self.attached[usize::from(index)] = Some(at);
        Ok(name)
    }

    /// Forgets a unit. Its operations under way complete all the same; calls that they still make
    /// name its file itself, since the ring's place may be another unit's by then.
    pub(crate) fn detach(&mut self, index: u16) {
        let at = self.attached.get_mut(usize::from(index));
        let Some(at) = at.and_then(Option::take) else {
            return;
        };
        let unit = unit(&mut self.units, at);
        unit.attached = false;
        if let (Way::Ring(file), Some(ring)) = (unit.way, &mut self.ring) {
            unit.way = Way::Ring(RingFile::Plain(unit.object.fd().as_raw_fd()));
            ring.remove_file(file);
        }
        self.forget_if_done(at);
    }

    fn forget_if_done(&mut self, at: u32) {
        let unit = unit(&mut self.units, at);
        if !unit.attached && unit.under_way == 0 && unit.waiting.is_empty() {
            self.units[at as usize] = None;
        }
    }

    /// Slots that one unit may have.
    fn slots_per_unit(&self) -> usize {
        match self.units.len() {
            0 | 1 => self.slots.len(),
            _ => (self.slots.len() / UNIT_SHARE).max(1),
        }
    }

    /// Calls of one unit that may be with the helpers.
    fn helped_per_unit(&self) -> usize {
        match self.units.len() {
            0 | 1 => self.slots.len(),
            _ => HELPERS_PER_UNIT_MAX,
        }
    }

    /// Starts an operation whose range and buffer were checked.
    pub(crate) fn submit(
        &mut self,
        index: u16,
        operation: Operation,
        token: Token,
        manner: Manner,
        ready: &mut VecDeque<Completion>,
    ) {
        let Some(&Some(at)) = self.attached.get(usize::from(index)) else {
            ready.push_back(failed(token, operation.into_buf(), IoError::NotReady));
            return;
        };
        let share = self.slots_per_unit();
        let unit = unit(&mut self.units, at);
        let mut traits = unit.object.traits;
        traits.write_through &= manner.durable;
        if let Err(error) = admit(unit, self.turn, &operation, u64::from(traits.block_size)) {
            ready.push_back(failed(token, operation.into_buf(), error));
            return;
        }
        if matches!(
            operation,
            Operation::Unmap { .. } | Operation::WriteZeroes { .. }
        ) {
            let (lba, blocks) = operation.range();
            let size = u64::from(traits.block_size);
            unit.object.will_zero(lba * size, blocks * size);
        }
        traits.cached |= unit.object.is_cached();
        traits.limit_reached = unit.object.limit_reached() && !manner.past_limit;
        let job = Job::new(&operation, traits);
        let slot = Slot {
            unit: at,
            job,
            has_turn: false,
            is_helped: false,
            retrying_since: None,
            token,
            buf: operation.into_buf(),
        };
        let may_start = unit.waiting.is_empty() && unit.under_way < share;
        if may_start && let Some(free) = self.free.pop() {
            return self.start(free, slot, ready);
        }
        if unit.waiting.len() == WAITING_MAX {
            return ready.push_back(failed(slot.token, slot.buf, IoError::Resource));
        }
        if unit.waiting.is_empty() {
            self.hungry.push_back(at);
        }
        unit.waiting.push_back(slot);
        self.waiting += 1;
    }

    /// Gives the kernel what was submitted since the last turn. `now`: the time of this turn.
    pub(crate) fn kick(&mut self, now: Instant) {
        self.now = Some(now);
        self.turn = self.turn.wrapping_add(1);
        if let Some(ring) = &mut self.ring {
            ring.submit();
        }
    }

    /// Takes answers, goes on with their operations, and moves what is done into `ready`.
    pub(crate) fn poll(&mut self, ready: &mut VecDeque<Completion>) {
        // One try each in a turn, so that there is a kick between two of them.
        for _ in 0..self.retrying.len() {
            let at = self.retrying.remove(0);
            self.step(at, ready);
        }
        let mut answers = mem::take(&mut self.answers);
        if let Some(ring) = &mut self.ring {
            ring.reap(&mut answers);
        }
        while answers.len() < answers.capacity()
            && let Some(answer) = self.helpers.reap()
        {
            answers.push(answer);
        }
        for (at, result) in answers.drain(..) {
            self.on_answer(at, result, ready);
        }
        self.answers = answers;
        self.take_turns(ready);
        self.start_waiting(ready);
    }

    /// Goes on with what waited for turns that are free now.
    fn take_turns(&mut self, ready: &mut VecDeque<Completion>) {
        let mut nth = 0;
        while let Some(&at) = self.syncing.get(nth) {
            let waits = loop {
                // Its last operation may have ended in here, and it with it.
                let Some(unit) = &mut self.units[at as usize] else {
                    break false;
                };
                if unit.syncing.is_empty() || !unit.object.turn.is_free() {
                    break !unit.syncing.is_empty();
                }
                // It can lose the turn to another core and goes to the end then.
                let slot = unit.syncing.pop_front().expect("looked at just now");
                self.step(slot, ready);
            };
            if waits {
                nth += 1;
            } else {
                self.syncing.swap_remove(nth);
            }
        }
    }

    /// Gives free slots to those who wait for one, a slot to each unit in turn.
    fn start_waiting(&mut self, ready: &mut VecDeque<Completion>) {
        let share = self.slots_per_unit();
        let mut tries = self.hungry.len();
        while tries > 0
            && let Some(&free) = self.free.last()
            && let Some(at) = self.hungry.pop_front()
        {
            let unit = unit(&mut self.units, at);
            if unit.under_way >= share {
                self.hungry.push_back(at);
                tries -= 1;
                continue;
            }
            let slot = unit.waiting.pop_front().expect("hungry units have some");
            if !unit.waiting.is_empty() {
                self.hungry.push_back(at);
            }
            self.free.pop();
            self.waiting -= 1;
            self.start(free, slot, ready);
            tries = self.hungry.len();
        }
    }

    /// Whether something is to be done again soon that wakes nobody.
    pub(crate) fn needs_poll(&self) -> bool {
        self.retrying.iter().any(|&at| {
            let slot = self.slots[at as usize].as_ref();
            let since = slot.and_then(|slot| slot.retrying_since);
            elapsed(since, self.now) < RETRY_AWAKE
        })
    }

    /// Operations that were submitted and are not in `ready` yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len() + self.waiting
    }

    /// Turns signals of completions on (and says whether the core may sleep) or off.
    pub(crate) fn sleep(&mut self, on: bool) -> bool {
        if let Some(ring) = &mut self.ring {
            ring.signal(on);
        }
        let ring_works = self.ring.as_mut().is_some_and(Ring::has_work);
        let mut quiet = !ring_works && !self.helpers.has_answers();
        if on {
            for unit in self.syncing.iter().map(|&at| &self.units[at as usize]) {
                let unit = unit.as_ref().expect(UNIT_STAYS);
                quiet &= !unit.object.turn.signal_end(&unit.waiter);
            }
        }
        quiet
    }

    fn ring_way(&mut self, index: u16, object: &FileObject) -> Result<Way, std::io::Error> {
        let ring = match &mut self.ring {
            Some(ring) => ring,
            none => {
                let slots = u32::try_from(self.slots.len()).expect("made from a u32");
                let units = u32::try_from(self.attached.len()).expect("a bounded table");
                none.insert(Ring::new(slots, units, self.wake.fd())?)
            }
        };
        Ok(Way::Ring(ring.add_file(u32::from(index), object.fd())))
    }

    fn start(&mut self, at: u32, slot: Slot, ready: &mut VecDeque<Completion>) {
        debug_assert!(self.slots[at as usize].is_none(), "a free slot is empty");
        unit(&mut self.units, slot.unit).under_way += 1;
        self.slots[at as usize] = Some(slot);
        self.step(at, ready);
    }

    fn on_answer(
        &mut self,
        at: u32,
        result: Result<usize, Errno>,
        ready: &mut VecDeque<Completion>,
    ) {
        let slot = self.slots[at as usize]
            .as_mut()
            .expect("an answer is for a slot with a call");
        let place = slot.unit;
        let was_helped = mem::take(&mut slot.is_helped);
        if was_helped {
            unit(&mut self.units, place).helping -= 1;
        }
        if self.on_result(at, result, ready) {
            self.step(at, ready);
        }
        if was_helped {
            self.help_next(place, ready);
        }
    }

    /// Goes on with slots of a unit that wait for a helper.
    fn help_next(&mut self, place: u32, ready: &mut VecDeque<Completion>) {
        let share = self.helped_per_unit();
        // The unit may be gone with its last operation.
        while let Some(unit) = &mut self.units[place as usize]
            && unit.helping < share
            && let Some(at) = unit.for_helpers.pop_front()
        {
            self.step(at, ready);
        }
    }

    /// What follows from the answer of a slot's call. `true`: its next call.
    fn on_result(
        &mut self,
        at: u32,
        result: Result<usize, Errno>,
        ready: &mut VecDeque<Completion>,
    ) -> bool {
        let slot = self.slots[at as usize]
            .as_mut()
            .expect("a slot with an operation");
        match slot.job.on_result(result) {
            Progress::Call => {
                slot.retrying_since = None;
                self.end_turn(at);
                return true;
            }
            Progress::Again(error) => {
                slot.retrying_since = slot.retrying_since.or(self.now);
                if elapsed(slot.retrying_since, self.now) < RETRY_FOR {
                    self.end_turn(at);
                    self.retrying.push(at);
                } else {
                    slot.job.give_up();
                    self.finish(at, Err(error), ready);
                }
            }
            Progress::Done(result) => self.finish(at, result, ready),
        }
        false
    }

    fn end_turn(&mut self, at: u32) {
        let slot = self.slots[at as usize]
            .as_mut()
            .expect("a slot with an operation");
        if mem::take(&mut slot.has_turn) {
            unit(&mut self.units, slot.unit).object.turn.end();
        }
    }

    /// Makes the slot's next call, or several as long as they are made inline.
    fn step(&mut self, at: u32, ready: &mut VecDeque<Completion>) {
        while self.make_call(at, ready) {}
    }

    /// Takes the turn that the slot's next call needs. `true`: the slot waits for it or has ended.
    fn must_wait(&mut self, at: u32, ready: &mut VecDeque<Completion>) -> bool {
        let slot = self.slots[at as usize]
            .as_mut()
            .expect("a slot with an operation");
        let place = slot.unit;
        let unit = unit(&mut self.units, place);
        if slot.has_turn || !Slot::needs_turn(slot.job.call(), &unit.object) {
            return false;
        }
        if unit.object.write_cache_lost() {
            self.finish(at, Err(IoError::WriteCacheLost), ready);
            return true;
        }
        slot.has_turn = unit.object.turn.take();
        let waits = !slot.has_turn;
        if waits {
            if !self.syncing.contains(&place) {
                self.syncing.push(place);
            }
            unit.syncing.push_back(at);
        }
        waits
    }

    /// Makes the slot's next call. `true`: it is over and another one follows.
    fn make_call(&mut self, at: u32, ready: &mut VecDeque<Completion>) -> bool {
        if self.must_wait(at, ready) {
            return false;
        }
        let (units, helped) = (self.units.len(), self.helped_per_unit());
        let slot = self.slots[at as usize]
            .as_mut()
            .expect("a slot with an operation");
        let unit = unit(&mut self.units, slot.unit);
        let call = slot.job.call();
        let iovecs = self.iovecs[at as usize].get();
        // SAFETY: the slot has no call under way, so nobody else uses its iovecs.
        let (count, bytes) = fill(unsafe { &mut *iovecs }, call, slot.buf.as_ref());
        let iovecs = iovecs.cast::<libc::iovec>().cast_const();
        let started = match unit.way {
            Way::Inline if bytes > 0 && bytes <= INLINE_BYTES_MAX => {
                // SAFETY: the slot owns the buffer that the iovecs describe, and the call is
                // over when this returns.
                let result = unsafe { sys::make(unit.object.fd(), call, iovecs, count) };
                return self.on_result(at, result, ready);
            }
            Way::Ring(file) if !is_for_helpers(call) => {
                let ring = self.ring.as_mut().expect("made when the unit was attached");
                // SAFETY: `count` of the slot's iovecs were just filled in.
                let iovecs = unsafe { slice::from_raw_parts(iovecs, count) };
                // SAFETY: the slot keeps buffer and iovecs in place and the unit its object, and
                // the slot makes no other call until this one has been reaped.
                unsafe { ring.push(at, file, call, iovecs) }
            }
            Way::Ring(_) | Way::Inline | Way::Helpers => {
                if unit.helping >= helped {
                    unit.for_helpers.push_back(at);
                    return false;
                }
                let work = Work {
                    slot: at,
                    fd: unit.object.fd().as_raw_fd(),
                    call,
                    iovecs,
                    count,
                    pass: unit.object.gate.pass(),
                };
                let sent = self.helpers.send(work, units);
                if sent.is_ok() {
                    unit.helping += 1;
                    slot.is_helped = true;
                }
                sent
            }
        };
        if let Err(errno) = started {
            self.finish(at, Err(errno::io_error(errno)), ready);
        }
        false
    }

    fn finish(&mut self, at: u32, result: Result<(), IoError>, ready: &mut VecDeque<Completion>) {
        let slot = self.slots[at as usize]
            .take()
            .expect("a slot with an operation");
        let unit = unit(&mut self.units, slot.unit);
        let object = &unit.object;
        if slot.cache_lost(result, object) {
            object.set_write_cache_lost(true);
            tracing::error!(
                path = %object.path.display(),
                "a flush failed: writes that were acknowledged before may be lost. The unit refuses \
                 writes and flushes from now on, with HARDWARE ERROR, WRITE ERROR; reads go on. \
                 Check the disk and what is on it, then restart the daemon, which takes writes again"
            );
        }
        if slot.has_turn {
            object.turn.end();
        }
        // What an earlier failure took with it cannot be promised any more.
        let lost = slot.job.is_durable() && object.write_cache_lost();
        let result = if lost {
            result.and(Err(IoError::WriteCacheLost))
        } else {
            result
        };
        unit.under_way -= 1;
        self.forget_if_done(slot.unit);
        self.free.push(at);
        let mut buf = slot.buf;
        if let (Some(run), Some(buf)) = (slot.job.run(), &mut buf) {
            run.emit(buf);
        }
        ready.push_back(Completion {
            token: slot.token,
            result,
            buf,
        });
    }

    /// Ends with operations under way: what they use stays behind for ever.
    fn abandon(&mut self) {
        tracing::error!(
            operations = self.in_flight(),
            "ended with file operations under way"
        );
        for unit in self.units.iter_mut().flatten() {
            for slot in unit.waiting.drain(..) {
                slot.token.finish();
            }
        }
        mem::forget(mem::take(&mut self.units));
        mem::forget(mem::take(&mut self.slots));
        mem::forget(mem::take(&mut self.iovecs));
        mem::forget(self.ring.take());
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // The kernel takes a ring down in its own time; files must be closed (and their locks given
        // up) when this returns.
        for index in 0..self.attached.len() {
            self.detach(u16::try_from(index).expect("units are numbered by u16"));
        }
        if self.in_flight() > 0 {
            self.abandon();
        }
    }
}

fn elapsed(since: Option<Instant>, now: Option<Instant>) -> Duration {
    let both = since.zip(now);
    both.map_or(Duration::ZERO, |(since, now)| {
        now.saturating_duration_since(since)
    })
}

const UNIT_STAYS: &str = "a unit stays until its last operation has ended";

fn unit(units: &mut [Option<FileUnit>], at: u32) -> &mut FileUnit {
    units
        .get_mut(at as usize)
        .and_then(Option::as_mut)
        .expect(UNIT_STAYS)
}

/// Describes the memory of a transfer. Returns the number of iovecs and their bytes.
fn fill(iovecs: &mut Iovecs, call: Call, buf: Option<&DmaBuf>) -> (usize, usize) {
    let mut total = 0;
    let mut count = 0;
    let mut add = |iovec: libc::iovec| {
        total += iovec.iov_len;
        iovecs[count] = iovec;
        count += 1;
    };
    match call {
        Call::Read { done, .. } | Call::Write { done, .. } => {
            let Some(buf) = buf else { return (0, 0) };
            let from = usize::try_from(done).expect("inside a buffer");
            for (start, len) in buf.segments(from..buf.len()).take(IOVECS_MAX) {
                add(libc::iovec {
                    iov_base: start.as_ptr().cast(),
                    iov_len: len,
                });
            }
        }
        Call::WriteZeroes { len, .. } => {
            let mut left = usize::try_from(len).expect("at most ZERO_CALL_BYTES");
            while left > 0 {
                let piece = left.min(ZEROES_BYTES);
                add(ZEROES.iovec(piece));
                left -= piece;
            }
        }
        Call::Sync
        | Call::PunchHole { .. }
        | Call::ZeroRange { .. }
        | Call::Discard { .. }
        | Call::IsBacked { .. }
        | Call::SeekData { .. }
        | Call::SeekHole { .. } => {}
    }
    (count, total)
}

/// Whether io_uring cannot make this call.
fn is_for_helpers(call: Call) -> bool {
    matches!(
        call,
        Call::Discard { .. }
            | Call::IsBacked { .. }
            | Call::SeekData { .. }
            | Call::SeekHole { .. }
    )
}

/// Refuses what must not reach the object: changes after a lost cache, and beyond a cut-off end.
fn admit(unit: &mut FileUnit, turn: u64, operation: &Operation, block: u64) -> Result<(), IoError> {
    let changes = operation.changes_blocks();
    if (changes || matches!(operation, Operation::Flush)) && unit.object.write_cache_lost() {
        return Err(IoError::WriteCacheLost);
    }
    if !changes || !unit.object.may_shrink {
        return Ok(());
    }
    if unit.size_turn != turn {
        unit.size = unit.object.size_now().map_err(errno::io_error)?;
        unit.size_turn = turn;
    }
    let (lba, blocks) = operation.range();
    let end = lba
        .checked_add(blocks)
        .and_then(|end| end.checked_mul(block));
    if end.is_some_and(|end| end <= unit.size) {
        Ok(())
    } else {
        Err(IoError::OutOfRange)
    }
}

/// Locks a file as another process would.
#[cfg(test)]
pub(super) fn lock_for_tests(file: &std::fs::File) {
    use std::os::fd::AsFd;
    sys::lock(file.as_fd(), false).expect("nobody else holds it");
}

fn failed(token: Token, buf: Option<DmaBuf>, error: IoError) -> Completion {
    Completion {
        token,
        result: Err(error),
        buf,
    }
}
