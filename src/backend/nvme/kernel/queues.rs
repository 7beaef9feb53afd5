//! [`Queues`]: the kernel's namespaces of one core, on one ring.
//!
//! A slot is a command under way: its vectors and its ranges stay where they are until it has
//! ended, and its request keeps the buffer. The ring never goes before they have all ended. While
//! the kernel resets a controller nothing of its namespaces ends, so that none gets all slots.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering::SeqCst, fence};
use std::time::{Duration, Instant};

use io_uring::cqueue::Entry32;
use io_uring::squeue::Entry128;
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};

use super::super::super::request::{Completion, IoError, Manner, Operation, Token};
use super::super::super::spec::OpenError;
use super::super::super::wake::Wake;
use super::super::facts::TRANSFER_BYTES_MAX;
use super::super::outcome::{self, Outcome, RETRIES_MAX};
use super::super::requests::Requests;
use super::super::slots::Part;
use super::super::spec::command::{RANGE_BYTES, RANGES_MAX, range};
use super::super::spec::status::Status;
use super::super::translate::{self, Begun, Data, Service};
use super::KernelObject;
use super::command::{COMMAND_BYTES, URING_IO_VECTORED, bytes};
use crate::mem::CHUNK_BYTES;

/// Commands of one core under way.
const SLOTS: u32 = 256;
/// So many of them any namespace may have, however many namespaces there are.
const SHARE_MIN: u32 = 16;
/// Vectors of one command, a chunk of memory each; where the first one begins behind the beginning
/// of its chunk, the last one ends before the end of its own.
const VECTORS_MAX: usize = TRANSFER_BYTES_MAX as usize / CHUNK_BYTES + 1;
const RANGES_BYTES: usize = RANGES_MAX * RANGE_BYTES;
/// Commands of one namespace that are sent before the next one's turn.
const TURN: usize = 32;
/// Pause before a command that the controller was not ready for is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// What zeroes are written from, where there is no Write Zeroes.
static ZEROES: [u8; CHUNK_BYTES] = [0; CHUNK_BYTES];

type Ring = IoUring<Entry128, Entry32>;

/// A namespace on this core.
#[derive(Debug)]
struct Served {
    object: Arc<KernelObject>,
    requests: Requests,
    under_way: u32,
    /// No unit has it any more; it goes with its last request.
    detached: bool,
}

struct Slot {
    /// Whose command it is: the place of the namespace, and its part.
    part: Option<(usize, Part)>,
    vectors: Vec<libc::iovec>,
    /// Ranges of a deallocation.
    ranges: Box<[u8; RANGES_BYTES]>,
}

/// See the module.
pub(crate) struct Queues {
    /// By unit, the place of its namespace.
    units: Vec<Option<usize>>,
    served: Vec<Option<Served>>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    ring: Option<Ring>,
    unsubmitted: usize,
    wake: Arc<Wake>,
    now: Option<Instant>,
}

/// A place in the table stays while a unit or a command names it.
const STAYS: &str = "a namespace stays until its last request has ended";

impl Queues {
    /// For units below `units`; completions signal `wake` while the core sleeps.
    pub(crate) fn new(units: usize, wake: &Arc<Wake>) -> Self {
        Self {
            units: (0..units).map(|_| None).collect(),
            served: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            ring: None,
            unsubmitted: 0,
            wake: Arc::clone(wake),
            now: None,
        }
    }

    /// Takes a unit in, at a place that is free; the first one makes the ring.
    pub(crate) fn attach(
        &mut self,
        index: u16,
        object: &Arc<KernelObject>,
    ) -> Result<&'static str, OpenError> {
        let index = usize::from(index);
        let free = self.units.get(index).is_some_and(Option::is_none);
        if !free {
            return Err(OpenError::Slot(u16::try_from(index).unwrap_or(u16::MAX)));
        }
        if self.ring.is_none() {
            let ring = build(SLOTS).map_err(|error| OpenError::IoUring(error.to_string()))?;
            let signalled = ring
                .submitter()
                .register_eventfd(self.wake.fd().as_raw_fd());
            signalled.map_err(|error| OpenError::IoUring(error.to_string()))?;
            self.slots = (0..SLOTS).map(|_| Slot::new()).collect();
            self.free = (0..SLOTS).rev().collect();
            self.ring = Some(ring);
        }
        let served = Some(Served {
            object: Arc::clone(object),
            requests: Requests::default(),
            under_way: 0,
            detached: false,
        });
        let place = self.served.iter().position(Option::is_none);
        let place = place.unwrap_or_else(|| {
            self.served.push(None);
            self.served.len() - 1
        });
        self.served[place] = served;
        self.units[index] = Some(place);
        Ok("nvme-kernel")
    }

    /// Forgets a unit. Its requests under way complete all the same.
    pub(crate) fn detach(&mut self, index: u16) {
        let place = self.units.get_mut(usize::from(index));
        if let Some(place) = place.and_then(Option::take) {
            self.served[place].as_mut().expect(STAYS).detached = true;
            self.sweep(place);
        }
    }

    /// Starts an operation that has blocks, or is a flush, with a buffer of its length.
    pub(crate) fn submit(
        &mut self,
        index: u16,
        mut operation: Operation,
        (token, manner): (Token, Manner),
        ready: &mut VecDeque<Completion>,
    ) {
        let place = self.units.get(usize::from(index)).copied().flatten();
        let served = place.and_then(|place| self.served[place].as_mut());
        let result = match served {
            None => Err(IoError::NotReady),
            Some(served) if served.object.is_another() => Err(IoError::NotReady),
            Some(served) if !served.requests.has_room() => Err(IoError::Resource),
            Some(served) => {
                let service = Service {
                    geometry: &served.object.geometry,
                    limits: &served.object.limits,
                    blocks: served.object.blocks(),
                    write_through: served.object.write_through,
                };
                match translate::begin(&mut operation, &service, manner) {
                    Ok(Begun::Job(job)) => {
                        return served.requests.add(token, operation.into_buf(), job);
                    }
                    Ok(Begun::Done) => Ok(()),
                    Err(error) => Err(error),
                }
            }
        };
        ready.push_back(Completion {
            token,
            result,
            buf: operation.into_buf(),
        });
    }

    /// Gives the kernel what there are slots for. `now` is the time of the turn.
    pub(crate) fn kick(&mut self, now: Instant, ready: &mut VecDeque<Completion>) {
        self.now = Some(now);
        let share = share(self.served.iter().flatten().count());
        let mut sent = true;
        while sent && !self.free.is_empty() {
            sent = false;
            for place in 0..self.served.len() {
                for _ in 0..TURN {
                    if !self.send_one((place, share), now, ready) {
                        break;
                    }
                    sent = true;
                }
            }
        }
        if self.unsubmitted > 0 {
            self.enter();
        }
    }

    /// `false`: there is nothing to send, or nothing to send it by.
    fn send_one(
        &mut self,
        (place, share): (usize, u32),
        now: Instant,
        ready: &mut VecDeque<Completion>,
    ) -> bool {
        let (Some(served), Some(ring)) = (self.served[place].as_mut(), self.ring.as_mut()) else {
            return false;
        };
        let Some(&number) = self.free.last().filter(|_| served.under_way < share) else {
            return false;
        };
        let Some(part) = served.requests.next(now, ready) else {
            return false;
        };
        // Since it was submitted; blocks of another size would go beyond its memory.
        if served.object.is_another() {
            let result = Err(IoError::NotReady);
            served.requests.end_part(part.request, result, ready);
            return true;
        }
        let slot = &mut self.slots[number as usize];
        let Some(command) = slot.command(&mut served.requests, &part) else {
            served
                .requests
                .end_part(part.request, Err(IoError::Resource), ready);
            return true;
        };
        let entry = entry(served.object.file().as_raw_fd(), &command, number);
        // SAFETY: the slot's vectors and ranges stay where they are until it is free again, behind
        // its completion, and so does what they name: a buffer that the request owns, or zeroes
        // that are never written. The file is open as long as `served` has requests.
        let pushed = unsafe { ring.submission().push(&entry) };
        if pushed.is_err() {
            // There are as many entries as slots: full is impossible, and loses nothing.
            served.requests.put_back(part, None);
            return false;
        }
        self.free.pop();
        served.under_way += 1;
        slot.part = Some((place, part));
        self.unsubmitted += 1;
        true
    }

    /// Gives the kernel what was queued; what it does not take stays queued.
    fn enter(&mut self) {
        if let Some(ring) = &mut self.ring {
            // After an error entries may have been taken: what counts is what the queue holds.
            let _ = ring.submitter().submit();
            self.unsubmitted = ring.submission().len();
        }
    }

    /// Moves what is done into `ready`.
    pub(crate) fn poll(&mut self, ready: &mut VecDeque<Completion>) {
        if self.kernel_has_work() {
            self.enter();
        }
        for _ in 0..SLOTS {
            let Some(ended) = self.ring.as_mut().and_then(|ring| ring.completion().next()) else {
                return;
            };
            self.ended(ended.user_data(), ended.result(), ready);
        }
    }

    fn ended(&mut self, user_data: u64, result: i32, ready: &mut VecDeque<Completion>) {
        let number = u32::try_from(user_data).expect("only slots are submitted");
        let slot = &mut self.slots[number as usize];
        let (place, mut part) = slot.part.take().expect("a slot completes once");
        self.free.push(number);
        let served = self.served[place].as_mut().expect(STAYS);
        served.under_way -= 1;
        let job = &served.requests.of(&part).job;
        let (access, flushes) = (job.access(), job.flushes().is_some());
        let result = match meaning(result, access) {
            Outcome::Good => Ok(()),
            Outcome::Retry { .. } if part.retries < RETRIES_MAX => {
                part.retries += 1;
                let not_before = self.now.map(|now| now + RETRY_PAUSE);
                return served.requests.put_back(part, not_before);
            }
            Outcome::Fail(error)
            | Outcome::Retry {
                otherwise: error, ..
            } => Err(error),
        };
        let result = match flushes {
            true => served.object.flushed(result),
            false => result,
        };
        served.requests.end_part(part.request, result, ready);
        self.sweep(place);
    }

    /// Lets a namespace go that no unit and no request needs.
    fn sweep(&mut self, place: usize) {
        let idle = |served: &Served| served.detached && served.requests.count() == 0;
        if self.served[place].as_ref().is_some_and(idle) {
            self.served[place] = None;
        }
    }

    fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Operations that were submitted and are not in `ready` yet.
    pub(crate) fn in_flight(&self) -> usize {
        let each = self.served.iter().flatten();
        each.map(|served| served.requests.count()).sum()
    }

    /// Whether a kick would find something, which wakes nobody.
    pub(crate) fn needs_poll(&self) -> bool {
        let share = share(self.served.iter().flatten().count());
        let sends = |one: &Served| one.under_way < share && one.requests.has_parts();
        let sends = !self.free.is_empty() && self.served.iter().flatten().any(sends);
        sends || self.unsubmitted > 0
    }

    /// Whether a poll would find something.
    fn has_answers(&mut self) -> bool {
        let done = |ring: &mut Ring| !ring.completion().is_empty();
        self.under_way() > 0 && (self.kernel_has_work() || self.ring.as_mut().is_some_and(done))
    }

    /// Turns signals on or off; `true`: there is nothing to do, so the core may sleep.
    pub(crate) fn sleep(&mut self, on: bool) -> bool {
        if let Some(ring) = &mut self.ring {
            let queue = ring.completion();
            if on {
                queue.enable_eventfd();
                fence(SeqCst);
            } else {
                queue.disable_eventfd();
            }
        }
        !(on && (self.needs_poll() || self.has_answers()))
    }

    /// Completions that the kernel holds back until this thread enters it.
    fn kernel_has_work(&mut self) -> bool {
        self.ring.as_mut().is_some_and(|ring| {
            let queue = ring.submission();
            queue.taskrun() || queue.cq_overflow()
        })
    }
}

impl Slot {
    fn new() -> Self {
        Self {
            part: None,
            vectors: Vec::with_capacity(VECTORS_MAX),
            ranges: Box::new([0; RANGES_BYTES]),
        }
    }

    /// The command of a part, whose data the slot's vectors name then. `None`: they are too many.
    fn command(&mut self, requests: &mut Requests, part: &Part) -> Option<[u8; COMMAND_BYTES]> {
        let request = requests.of(part);
        let (entry, data) = request.job.command(&part.cut);
        self.vectors.clear();
        let zeroes = ZEROES.as_ptr().cast_mut();
        match data {
            Data::None => {}
            Data::Zeroes(len) => {
                for at in (0..len).step_by(ZEROES.len()) {
                    self.add(zeroes, ZEROES.len().min(len - at))?;
                }
            }
            Data::Buffer(len) => {
                let range = part.cut.offset..part.cut.offset + len;
                for (first, len) in request.buf.as_ref()?.segments(range) {
                    self.add(first.as_ptr(), len)?;
                }
            }
            Data::Ranges(count) => {
                let places = self.ranges.chunks_exact_mut(RANGE_BYTES);
                for (place, (lba, blocks)) in places.zip(request.job.ranges(&part.cut)) {
                    place.copy_from_slice(&range(lba, blocks));
                }
                let first = self.ranges.as_mut_ptr();
                self.add(first, count * RANGE_BYTES)?;
            }
        }
        let address = match self.vectors.is_empty() {
            true => 0,
            false => self.vectors.as_ptr().expose_provenance() as u64,
        };
        let count = u32::try_from(self.vectors.len()).ok()?;
        Some(bytes(&entry, address, count))
    }

    /// `None`: the vectors would have to move.
    fn add(&mut self, first: *mut u8, len: usize) -> Option<()> {
        if self.vectors.len() == VECTORS_MAX {
            return None;
        }
        self.vectors.push(libc::iovec {
            iov_base: first.cast(),
            iov_len: len,
        });
        Some(())
    }
}

/// How many commands one of so many namespaces may have under way.
fn share(namespaces: usize) -> u32 {
    let namespaces = u32::try_from(namespaces).unwrap_or(u32::MAX).max(1);
    (SLOTS / namespaces).max(SHARE_MIN)
}

/// What the kernel says of a command: a status of the controller's, or an error of its own.
fn meaning(result: i32, access: outcome::Access) -> Outcome {
    if let Ok(status) = u16::try_from(result) {
        return outcome::of(Status::from_field(status), access);
    }
    Outcome::Fail(match result.checked_neg() {
        // A reset of the controller's took it back, or a deadline of the kernel's.
        Some(libc::EINTR | libc::ECANCELED) => {
            let (delay, otherwise) = (0, IoError::Aborted);
            return Outcome::Retry { delay, otherwise };
        }
        Some(libc::ETIME | libc::ETIMEDOUT) => IoError::Aborted,
        Some(libc::ENOMEM | libc::EAGAIN) => IoError::Resource,
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPERM | libc::EACCES) => IoError::Unsupported,
        Some(libc::ENODEV | libc::ENXIO) => IoError::NotReady,
        _ => IoError::Hardware,
    })
}

fn entry(file: RawFd, command: &[u8; COMMAND_BYTES], slot: u32) -> Entry128 {
    let mut place = [0; 80];
    place[..COMMAND_BYTES].copy_from_slice(command);
    opcode::UringCmd80::new(Fd(file), URING_IO_VECTORED)
        .cmd(place)
        .build()
        .user_data(u64::from(slot))
}

/// The best ring that this kernel grants.
fn build(entries: u32) -> io::Result<Ring> {
    let deferred = Ring::builder()
        .setup_submit_all()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(entries);
    deferred.or_else(|_| Ring::builder().build(entries))
}

impl Drop for Queues {
    /// Waits for what is under way: the kernel has its own deadlines.
    fn drop(&mut self) {
        while self.under_way() > 0 {
            let Some(ring) = &mut self.ring else { break };
            if ring
                .submitter()
                .submit_and_wait(1)
                .is_err_and(|error| error.kind() != io::ErrorKind::Interrupted)
            {
                tracing::error!("commands are left to the kernel, with their memory");
                mem::forget(mem::take(&mut self.slots));
                mem::forget(mem::take(&mut self.served));
                mem::forget(self.ring.take());
                return;
            }
            let mut ready = VecDeque::new();
            self.poll(&mut ready);
            for completion in ready {
                completion.token.finish();
            }
        }
        for served in self.served.iter_mut().flatten() {
            served.requests.abandon();
        }
    }
}

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queues")
            .field("units", &self.units)
            .field("served", &self.served)
            .field("under_way", &self.under_way())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::facts::Limits;
    use super::super::super::outcome::Access;
    use super::*;
    use crate::mem::{Pages, Pool};

    #[test]
    fn what_the_kernel_says_has_a_meaning() {
        let of = |result| meaning(result, Access::Read);
        assert_eq!(of(0), Outcome::Good);
        let unrecovered = i32::from(Status::new(2, 0x81).field());
        assert_eq!(of(unrecovered), Outcome::Fail(IoError::Medium));
        let dnr = i32::from(Status::new(2, 0x81).with_do_not_retry().field());
        assert_eq!(of(dnr), Outcome::Fail(IoError::Medium));
        assert_eq!(of(-libc::ENOMEM), Outcome::Fail(IoError::Resource));
        assert_eq!(of(-libc::EINVAL), Outcome::Fail(IoError::Unsupported));
        assert_eq!(of(-libc::ENODEV), Outcome::Fail(IoError::NotReady));
        assert_eq!(of(-libc::EIO), Outcome::Fail(IoError::Hardware));
        for back in [libc::EINTR, libc::ECANCELED] {
            let (delay, otherwise) = (0, IoError::Aborted);
            assert_eq!(of(-back), Outcome::Retry { delay, otherwise });
        }
        assert_eq!(of(-libc::ETIME), Outcome::Fail(IoError::Aborted));
        // What the kernel answers for a controller that it is resetting.
        let host = of(Status::PATH_HOST.field().into());
        let (delay, otherwise) = (0, IoError::Recovering);
        assert_eq!(host, Outcome::Retry { delay, otherwise });
        for odd in [i32::MIN, -1, 0x1_0000, i32::MAX] {
            assert!(matches!(of(odd), Outcome::Fail(_)), "{odd}");
        }
    }

    #[test]
    fn a_unit_that_is_not_there_is_not_ready() {
        let wake = Arc::new(Wake::new().unwrap());
        let mut queues = Queues::new(2, &wake);
        let mut ready = VecDeque::new();
        let manner = Manner::new(true, false);
        queues.submit(1, Operation::Flush, (Token::new(7), manner), &mut ready);
        let completion = ready.pop_front().unwrap();
        assert_eq!(completion.result, Err(IoError::NotReady));
        completion.token.finish();
        queues.detach(1);
        queues.poll(&mut ready);
        assert!(ready.is_empty() && queues.in_flight() == 0);
        assert!(queues.sleep(true), "nothing keeps the core awake");
    }

    /// A namespace that is none: the kernel's null device takes every command at once, and nobody
    /// hears of it before a poll.
    fn null() -> Arc<KernelObject> {
        Arc::new(KernelObject::of_null())
    }

    fn flush(queues: &mut Queues, index: u16, ready: &mut VecDeque<Completion>) {
        let manner = Manner::new(true, false);
        queues.submit(index, Operation::Flush, (Token::new(7), manner), ready);
    }

    #[test]
    fn a_namespace_of_which_nothing_ends_leaves_slots_for_others() {
        let wake = Arc::new(Wake::new().unwrap());
        let (mut queues, mut ready) = (Queues::new(3, &wake), VecDeque::new());
        for index in 0..3 {
            assert_eq!(queues.attach(index, &null()), Ok("nvme-kernel"));
        }
        let now = super::super::super::super::suite::now();
        let under_way = |queues: &Queues, place: usize| {
            let served = queues.served[place].as_ref().unwrap();
            served.under_way
        };
        for _ in 0..2 * SLOTS {
            flush(&mut queues, 0, &mut ready);
        }
        queues.kick(now, &mut ready);
        queues.kick(now, &mut ready);
        assert_eq!(under_way(&queues, 0), SLOTS / 3);
        assert!(!queues.needs_poll(), "it has its share");
        for _ in 0..5 {
            flush(&mut queues, 1, &mut ready);
        }
        queues.kick(now, &mut ready);
        assert_eq!(under_way(&queues, 1), 5);
        for _ in 0..1000 {
            queues.poll(&mut ready);
            queues.kick(now, &mut ready);
        }
        assert_eq!(ready.len(), 2 * SLOTS as usize + 5, "each in its turn");
        assert_eq!((under_way(&queues, 0), under_way(&queues, 1)), (0, 0));
        for completion in ready {
            completion.token.finish();
        }
        assert_eq!((share(0), share(1), share(4)), (SLOTS, SLOTS, 64));
        assert_eq!(share(1000), SHARE_MIN);
    }

    #[test]
    fn a_flush_vouches_for_nothing_behind_one_that_failed() {
        let wake = Arc::new(Wake::new().unwrap());
        let (mut queues, mut ready) = (Queues::new(1, &wake), VecDeque::new());
        let object = null();
        assert_eq!(queues.attach(0, &object), Ok("nvme-kernel"));
        let now = super::super::super::super::suite::now();
        // A flush that the controller ends so.
        let mut ended = |result: i32| {
            flush(&mut queues, 0, &mut ready);
            let served = queues.served[0].as_mut().unwrap();
            let part = served.requests.next(now, &mut ready).unwrap();
            served.under_way += 1;
            let number = queues.free.pop().unwrap();
            queues.slots[number as usize].part = Some((0, part));
            queues.ended(number.into(), result, &mut ready);
            let completion = ready.pop_front().unwrap();
            completion.token.finish();
            completion.result
        };
        let status = |kind, code| i32::from(Status::new(kind, code).with_do_not_retry().field());
        assert_eq!(ended(0), Ok(()));
        // What says nothing of the cache.
        assert_eq!(ended(-libc::ENODEV), Err(IoError::NotReady));
        assert_eq!(ended(0), Ok(()));
        let (media, write_fault) = (2, 0x80);
        assert_eq!(ended(status(media, write_fault)), Err(IoError::WriteFault));
        assert_eq!(ended(0), Err(IoError::WriteCacheLost));
        assert!(object.cache_lost());
        assert_eq!(
            ended(0),
            Err(IoError::WriteCacheLost),
            "until it is looked at"
        );
        object.forget_cache_lost();
        assert_eq!(ended(0), Ok(()));
        assert_eq!(ended(-libc::EIO), Err(IoError::Hardware));
        assert_eq!(ended(0), Err(IoError::WriteCacheLost));
    }

    #[test]
    fn nothing_is_sent_to_a_namespace_with_other_blocks() {
        let wake = Arc::new(Wake::new().unwrap());
        let (mut queues, mut ready) = (Queues::new(1, &wake), VecDeque::new());
        let object = null();
        assert_eq!(queues.attach(0, &object), Ok("nvme-kernel"));
        let now = super::super::super::super::suite::now();
        flush(&mut queues, 0, &mut ready);
        assert!(ready.is_empty(), "it waits for the kick");
        object.set_another();
        queues.kick(now, &mut ready);
        assert_eq!((queues.under_way(), queues.in_flight()), (0, 0));
        flush(&mut queues, 0, &mut ready);
        assert_eq!(ready.len(), 2);
        for completion in ready {
            assert_eq!(completion.result, Err(IoError::NotReady));
            completion.token.finish();
        }
    }

    #[test]
    fn the_longest_command_has_a_vector_for_each_chunk() {
        let pool = Pool::new(4 << 20, Pages::Normal).unwrap();
        let (blocks, fua) = (TRANSFER_BYTES_MAX / 512, false);
        let mut slot = Slot::new();
        // Every second chunk is kept, so that no two of the buffer meet.
        let all: Vec<_> = (0..pool.chunks()).map(|_| pool.alloc(1).unwrap()).collect();
        let _kept: Vec<_> = all.into_iter().step_by(2).collect();
        let length = TRANSFER_BYTES_MAX as usize;
        for zeroes in [false, true] {
            let operation = match zeroes {
                true => Operation::WriteZeroes {
                    lba: 0,
                    blocks: blocks.into(),
                    fua,
                    may_unmap: false,
                },
                false => Operation::Write {
                    lba: 0,
                    blocks,
                    buf: pool.alloc(length).unwrap(),
                    fua,
                },
            };
            let (part, mut requests) = first_part(operation);
            assert!(slot.command(&mut requests, &part).is_some());
            let bytes: usize = slot.vectors.iter().map(|one| one.iov_len).sum();
            assert_eq!((bytes, slot.vectors.len()), (length, VECTORS_MAX - 1));
            assert_eq!(slot.vectors.capacity(), VECTORS_MAX);
            requests.abandon();
        }
    }

    fn first_part(mut operation: Operation) -> (Part, Requests) {
        let object = KernelObject::of_null();
        let limits = Limits {
            write_zeroes_bytes: None,
            ..object.limits
        };
        let service = Service {
            geometry: &object.geometry,
            limits: &limits,
            blocks: 1 << 20,
            write_through: false,
        };
        let (manner, mut ready) = (Manner::new(true, false), VecDeque::new());
        let Ok(Begun::Job(job)) = translate::begin(&mut operation, &service, manner) else {
            panic!("there is something to do");
        };
        let mut requests = Requests::default();
        requests.add(Token::new(1), operation.into_buf(), job);
        let now = super::super::super::super::suite::now();
        (requests.next(now, &mut ready).unwrap(), requests)
    }

    #[test]
    fn an_entry_is_the_kernels_and_names_its_slot() {
        let mut command = [0; COMMAND_BYTES];
        command[0] = 2;
        command[71] = 0x55;
        let text = format!("{:?}", entry(5, &command, 9));
        // IORING_OP_URING_CMD.
        assert!(
            text.contains("op_code: 46") && text.contains("user_data: 9"),
            "{text}"
        );
    }
}
