//! [`Set`]: the devices of one core.
//!
//! A turn submits what its tasks ask for, kicks once, and polls a bounded batch of completions. A
//! request never fails to be submitted: what is wrong with it is its completion. Devices in process
//! do their work in `submit` and the answer waits in `ready`; long zeroings of the memory disk go
//! on a step each poll; files and block devices complete when the kernel or a helper thread says
//! so; NVMe controllers are asked in each poll. Completions come in any order.
//!
//! Invariants: every token that is submitted comes back once; a device sees only ranges inside its
//! capacity and buffers of exactly the range's length.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use super::backing::{Backing, Device};
use super::faults::Verdict;
use super::file::Files;
use super::memory::{MemoryDisk, ZERO_STEP_BYTES};
use super::nvme::any::{AnyBar, AnySpace};
use super::nvme::device::{Cores, Served};
use super::nvme::kernel::queues::Queues;
use super::request::{
    Completion, DeviceInfo, IoError, LbaRun, Manner, Operation, Request, Token, UnitIndex,
};
use super::spec::OpenError;
use super::wake::Wake;
use crate::mem::{Pages, Pool};

/// Completions for which room is made at start.
const READY_CAPACITY: usize = 4096;
/// Most file operations under way that [`Options::depth`] may ask for.
pub const DEPTH_MAX: u32 = 16 * 1024;

/// Sizes of a set, fixed at start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Operations on files and block devices that are under way at once, 1 to [`DEPTH_MAX`]; more
    /// wait inside.
    pub depth: u32,
    /// Units, whose indices run below this.
    pub units: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            depth: 256,
            units: 1024,
        }
    }
}

/// One core's devices. Made and used on that core's thread.
#[derive(Debug)]
pub struct Set {
    options: Options,
    units: Vec<Option<Arc<Backing>>>,
    ready: VecDeque<Completion>,
    zeroing: VecDeque<Zeroing>,
    parked: Vec<Parked>,
    /// A unit was attached whose device has faults on purpose.
    may_fault: bool,
    files: Option<Files>,
    nvme: Option<Cores<AnyBar, AnySpace>>,
    nvme_kernel: Option<Queues>,
    /// Of which all buffers are that NVMe controllers are given.
    pool: Option<(Pool, Pages)>,
    wake: Arc<Wake>,
}

/// Why the engine of a unit is there.
const ATTACHED: &str = "made when the unit was attached";

/// A long zeroing of a memory disk: bytes `at..end` are still to do.
#[derive(Debug)]
struct Zeroing {
    backing: Arc<Backing>,
    at: u64,
    end: u64,
    token: Token,
}

/// A request that a fault keeps back.
#[derive(Debug)]
struct Parked {
    request: Request,
    until: Until,
}

#[derive(Debug)]
enum Until {
    Released,
    Polls(u32),
}

impl Set {
    /// An empty set.
    pub fn new(options: &Options) -> Result<Self, Errno> {
        let options = Options {
            depth: options.depth.clamp(1, DEPTH_MAX),
            ..*options
        };
        Ok(Self {
            options,
            units: (0..options.units).map(|_| None).collect(),
            ready: VecDeque::with_capacity(READY_CAPACITY),
            zeroing: VecDeque::new(),
            parked: Vec::new(),
            may_fault: false,
            files: None,
            nvme: None,
            nvme_kernel: None,
            pool: None,
            wake: Arc::new(Wake::new()?),
        })
    }

    /// Names the pool out of which the buffers of all requests come, and the pages of queues:
    /// before the first NVMe controller is attached, which has to reach them.
    pub fn use_pool(&mut self, pool: &Pool, pages: Pages) {
        self.pool = Some((pool.clone(), pages));
    }

    /// Makes `backing` this core's device of `unit`. Returns the name of the engine that serves it.
    pub fn attach(
        &mut self,
        unit: UnitIndex,
        backing: &Arc<Backing>,
    ) -> Result<&'static str, OpenError> {
        let place = self
            .units
            .get_mut(usize::from(unit.0))
            .filter(|place| place.is_none());
        let place = place.ok_or(OpenError::Slot(unit.0))?;
        let engine = match backing.device() {
            Device::Memory(_) => "memory",
            Device::Null => "null",
            Device::File(object) => {
                let Options { depth, units } = self.options;
                let files = self
                    .files
                    .get_or_insert_with(|| Files::new(depth, units.into(), &self.wake));
                files.attach(unit.0, object)?
            }
            Device::Nvme(nvme) => {
                let refused = |why: String| OpenError::Nvme {
                    address: nvme.name().to_owned(),
                    why,
                };
                let Some((pool, pages)) = &self.pool else {
                    let why = "this core has no memory that the controller reaches";
                    return Err(refused(why.to_owned()));
                };
                let units = self.options.units.into();
                let cores = self
                    .nvme
                    .get_or_insert_with(|| Cores::new(units, (pool, *pages), &self.wake));
                let served = Served {
                    handle: &nvme.handle,
                    namespace: &nvme.namespace,
                    write_through: !backing.info().write_cache,
                };
                let attached = cores.attach(unit.0, &served);
                attached.map_err(|error| refused(error.to_string()))?
            }
            Device::NvmeKernel(object) => {
                let units = self.options.units.into();
                let queues = self
                    .nvme_kernel
                    .get_or_insert_with(|| Queues::new(units, &self.wake));
                queues.attach(unit.0, object)?
            }
        };
        self.may_fault |= backing.faults().is_some();
        *place = Some(Arc::clone(backing));
        Ok(engine)
    }

    /// Takes `unit` away. Its requests under way still complete; later ones are
    /// [`IoError::NotReady`].
    pub fn detach(&mut self, unit: UnitIndex) {
        let backing = self
            .units
            .get_mut(usize::from(unit.0))
            .and_then(Option::take);
        if backing.is_none() {
            return;
        }
        if let Some(files) = &mut self.files {
            files.detach(unit.0);
        }
        if let Some(nvme) = &mut self.nvme {
            nvme.detach(unit.0);
        }
        if let Some(queues) = &mut self.nvme_kernel {
            queues.detach(unit.0);
        }
    }

    /// Counts a request of somebody's that has failed at the device of `unit`.
    #[cold]
    pub fn add_failure(&self, unit: UnitIndex) {
        let backing = self.units.get(usize::from(unit.0)).and_then(Option::as_ref);
        if let Some(backing) = backing {
            backing.add_failure();
        }
    }

    /// Starts a request. Its completion comes out of a later [`Set::poll`], whatever happens.
    pub fn submit(&mut self, request: Request) {
        if self.may_fault {
            self.submit_faulty(request);
        } else {
            self.start(request);
        }
    }

    /// The same where faults may be wanted.
    #[cold]
    fn submit_faulty(&mut self, request: Request) {
        let backing = self
            .units
            .get(usize::from(request.unit.0))
            .and_then(Option::as_ref);
        let verdict = backing
            .and_then(|backing| backing.faults())
            .map_or(Verdict::Run, |it| it.on_submit(&request.operation));
        match verdict {
            Verdict::Run => self.start(request),
            Verdict::Fail(error) => self.done(request.token, Err(error), request.operation),
            Verdict::Hold => self.parked.push(Parked {
                request,
                until: Until::Released,
            }),
            Verdict::Delay(polls) => self.parked.push(Parked {
                request,
                until: Until::Polls(polls),
            }),
        }
    }

    /// Gives the kernel what was submitted. Once in every turn, after the last `submit`, also when
    /// nothing was: it marks the turn for which sizes of files are remembered. `now`, the time of
    /// the turn, bounds how long transient errors are tried again: turn at least ten times a second
    /// while [`Set::in_flight`] says that something is.
    pub fn kick(&mut self, now: Instant) {
        if let Some(files) = &mut self.files {
            files.kick(now);
        }
        if let Some(nvme) = &mut self.nvme {
            nvme.kick(now, &mut self.ready);
        }
        if let Some(queues) = &mut self.nvme_kernel {
            queues.kick(now, &mut self.ready);
        }
    }

    /// Moves completions into `done` until its capacity is used up; it never grows.
    pub fn poll(&mut self, done: &mut Vec<Completion>) {
        if !self.parked.is_empty() {
            self.release();
        }
        if let Some(files) = &mut self.files
            && files.in_flight() > 0
        {
            files.poll(&mut self.ready);
        }
        if let Some(nvme) = &mut self.nvme {
            nvme.poll(&mut self.ready);
        }
        if let Some(queues) = &mut self.nvme_kernel {
            queues.poll(&mut self.ready);
        }
        self.zero_step();
        while done.len() < done.capacity()
            && let Some(completion) = self.ready.pop_front()
        {
            done.push(completion);
        }
    }

    /// Requests that were submitted and whose completions were not polled yet; and other cores that
    /// send to an NVMe controller through this one, which must not end before they do.
    pub fn in_flight(&self) -> usize {
        let files = self.files.as_ref().map_or(0, Files::in_flight);
        let nvme = self.nvme.as_ref().map_or(0, Cores::in_flight);
        let kernel = self.nvme_kernel.as_ref().map_or(0, Queues::in_flight);
        files + nvme + kernel + self.ready.len() + self.zeroing.len() + self.parked.len()
    }

    /// Descriptors that become readable when a poll may find something, for epoll. Signals come
    /// only between [`Set::before_sleep`] and [`Set::after_sleep`] once the latter was called.
    pub fn wake_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.wake.fd())
    }

    /// Whether the set has work of its own to do in `poll`, so that the core must not sleep.
    pub fn needs_poll(&self) -> bool {
        !self.ready.is_empty()
            || !self.zeroing.is_empty()
            || !self.parked.is_empty()
            || self.files.as_ref().is_some_and(Files::needs_poll)
            || self.nvme.as_ref().is_some_and(Cores::needs_poll)
            || self.nvme_kernel.as_ref().is_some_and(Queues::needs_poll)
    }

    /// Turns signals on and looks once more. `true`: the core may sleep on [`Set::wake_fds`] and
    /// calls [`Set::after_sleep`] when it wakes. `false`: there is something to kick or to poll,
    /// and signals are off again.
    #[must_use]
    pub fn before_sleep(&mut self) -> bool {
        self.wake.arm();
        let quiet = self.files.as_mut().is_none_or(|files| files.sleep(true));
        let kernel = self.nvme_kernel.as_mut();
        let quiet = kernel.is_none_or(|queues| queues.sleep(true)) && quiet;
        let quiet = quiet && self.nvme.as_ref().is_none_or(Cores::is_quiet);
        let may_sleep = quiet && !self.needs_poll();
        if !may_sleep {
            self.signals_off();
        }
        may_sleep
    }

    /// The core has slept: turns signals off, so that a busy core pays nothing for them, and takes
    /// back those that came (a system call, so only after a real sleep).
    pub fn after_sleep(&mut self) {
        self.signals_off();
        self.wake.drain();
    }

    fn signals_off(&mut self) {
        self.wake.disarm();
        if let Some(files) = &mut self.files {
            files.sleep(false);
        }
        if let Some(queues) = &mut self.nvme_kernel {
            queues.sleep(false);
        }
    }

    /// Says that these blocks are about to be read or written: the memory disk warms the cache.
    pub fn prefetch(&self, unit: UnitIndex, lba: u64, blocks: u64) {
        let backing = self.units.get(usize::from(unit.0)).and_then(Option::as_ref);
        let Some(backing) = backing else { return };
        if let Device::Memory(disk) = backing.device() {
            let size = u64::from(backing.info().block_size);
            disk.prefetch(lba.saturating_mul(size), blocks.saturating_mul(size));
        }
    }

    /// Checks a request and gives it to its device.
    #[inline]
    fn start(&mut self, request: Request) {
        let Request {
            unit,
            mut operation,
            past_limit,
            token,
        } = request;
        let Some(backing) = self.units.get(usize::from(unit.0)).and_then(Option::as_ref) else {
            return self.done(token, Err(IoError::NotReady), operation);
        };
        let (lba, blocks) = operation.range();
        if let Err(error) = check(&operation, (lba, blocks), backing) {
            return self.done(token, Err(error), operation);
        }
        let durable = !backing
            .faults()
            .is_some_and(super::Faults::durability_dropped);
        if !durable {
            forget_fua(&mut operation);
        }
        let is_flush = matches!(operation, Operation::Flush);
        if (blocks == 0 && !is_flush) || (is_flush && !durable) {
            // There is nothing to do.
            return self.done(token, Ok(()), operation);
        }
        let size = u64::from(backing.info().block_size);
        let (at, end) = (lba * size, (lba + blocks) * size);
        let manner = Manner::new(durable, past_limit);
        match backing.device() {
            Device::File(_) => {
                let files = self.files.as_mut().expect(ATTACHED);
                return files.submit(unit.0, operation, token, manner, &mut self.ready);
            }
            Device::Memory(disk) => {
                let place = (at..end, size);
                let Some(result) = work_in_memory(disk, &mut operation, place, past_limit) else {
                    let backing = Arc::clone(backing);
                    return self.zeroing.push_back(Zeroing {
                        backing,
                        at,
                        end,
                        token,
                    });
                };
                return self.done(token, result, operation);
            }
            Device::Nvme(_) => {
                let nvme = self.nvme.as_mut().expect(ATTACHED);
                return nvme.submit(unit.0, operation, (token, manner), &mut self.ready);
            }
            Device::NvmeKernel(_) => {
                let queues = self.nvme_kernel.as_mut().expect(ATTACHED);
                return queues.submit(unit.0, operation, (token, manner), &mut self.ready);
            }
            Device::Null => answer_from_nothing(&mut operation, backing.info().blocks - lba),
        }
        self.done(token, Ok(()), operation);
    }

    /// Does one step of the oldest long zeroing.
    fn zero_step(&mut self) {
        let Some(job) = self.zeroing.front_mut() else {
            return;
        };
        let end = job.end.min(job.at + ZERO_STEP_BYTES);
        if let Device::Memory(disk) = job.backing.device() {
            disk.zero(job.at..end);
        }
        job.at = end;
        if job.at == job.end {
            let job = self.zeroing.pop_front().expect("looked at just now");
            self.ready.push_back(Completion {
                token: job.token,
                result: Ok(()),
                buf: None,
            });
        }
    }

    /// Starts what faults no longer keep back.
    fn release(&mut self) {
        let mut at = 0;
        while at < self.parked.len() {
            let Parked { request, until } = &mut self.parked[at];
            let backing = self
                .units
                .get(usize::from(request.unit.0))
                .and_then(Option::as_ref);
            let faults = backing.and_then(|backing| backing.faults());
            let free = match until {
                Until::Released => faults.is_none_or(super::Faults::release),
                Until::Polls(polls) => {
                    *polls = polls.saturating_sub(1);
                    *polls == 0
                }
            };
            if free {
                let parked = self.parked.remove(at);
                self.start(parked.request);
            } else {
                at += 1;
            }
        }
    }

    fn done(&mut self, token: Token, result: Result<(), IoError>, operation: Operation) {
        self.ready.push_back(Completion {
            token,
            result,
            buf: operation.into_buf(),
        });
    }
}

impl Drop for Set {
    /// A core that ends before its requests did: nobody is left to answer them.
    fn drop(&mut self) {
        let left = self.in_flight();
        if left > 0 {
            tracing::warn!(requests = left, "devices ended with requests unanswered");
        }
        for completion in self.ready.drain(..) {
            completion.token.finish();
        }
        for zeroing in self.zeroing.drain(..) {
            zeroing.token.finish();
        }
        for parked in self.parked.drain(..) {
            parked.request.token.finish();
        }
    }
}

/// What every device relies on, of an operation on `blocks` from `lba` on.
#[inline]
fn check(
    operation: &Operation,
    (lba, blocks): (u64, u64),
    backing: &Backing,
) -> Result<(), IoError> {
    let info = backing.info();
    if !matches!(operation, Operation::Read { .. }) {
        check_change(operation, info)?;
    }
    if lba
        .checked_add(blocks)
        .is_none_or(|end| end > backing.blocks())
    {
        return Err(IoError::OutOfRange);
    }
    let (buf, bytes) = match operation {
        Operation::Read { buf, .. } | Operation::Write { buf, .. } => {
            (buf, blocks * u64::from(info.block_size))
        }
        Operation::LbaStatus { buf, .. } => (buf, LbaRun::BYTES as u64),
        Operation::Flush | Operation::Unmap { .. } | Operation::WriteZeroes { .. } => {
            return Ok(());
        }
    };
    let is_filled = !matches!(operation, Operation::Write { .. });
    debug_assert!(!(is_filled && buf.is_lent()), "somebody may look at it");
    if buf.len() as u64 == bytes {
        return Ok(());
    }
    debug_assert!(false, "a buffer of {} bytes, not {bytes}", buf.len());
    Err(IoError::Resource)
}

/// Whether the device does this operation, which may change something, at all.
fn check_change(operation: &Operation, info: &DeviceInfo) -> Result<(), IoError> {
    if operation.changes_blocks() && info.read_only {
        return Err(IoError::WriteProtected);
    }
    if matches!(operation, Operation::Unmap { .. }) && !info.unmap {
        return Err(IoError::Unsupported);
    }
    Ok(())
}

/// What the memory disk does with a range of its bytes, in blocks of `size` bytes. `None`: it is so
/// long that it is zeroed step by step.
fn work_in_memory(
    disk: &MemoryDisk,
    operation: &mut Operation,
    (range, size): (Range<u64>, u64),
    past_limit: bool,
) -> Option<Result<(), IoError>> {
    match operation {
        Operation::Read { buf, .. } => disk.read(range.start, buf),
        Operation::Write { .. } if !(past_limit || disk.may_write(range.clone())) => {
            return Some(Err(IoError::NoSpace));
        }
        Operation::Write { buf, .. } => disk.write(range.start, buf),
        Operation::Flush => {}
        Operation::LbaStatus { buf, .. } => {
            let (mapped, end) = disk.run(range.start);
            let blocks = (end - range.start) / size;
            LbaRun { blocks, mapped }.emit(buf);
        }
        Operation::Unmap { .. } | Operation::WriteZeroes { .. } => {
            if range.end - range.start > ZERO_STEP_BYTES {
                return None;
            }
            disk.zero(range);
        }
    }
    Some(Ok(()))
}

/// What the null device does; `left` blocks are from the operation's first one to the end.
fn answer_from_nothing(operation: &mut Operation, left: u64) {
    match operation {
        // Zeroes are written each time: the buffer held somebody's data before.
        Operation::Read { buf, .. } => buf.fill(0, buf.len(), 0),
        // Whatever was written is gone.
        Operation::LbaStatus { buf, .. } => LbaRun {
            blocks: left,
            mapped: false,
        }
        .emit(buf),
        Operation::Write { .. }
        | Operation::Flush
        | Operation::Unmap { .. }
        | Operation::WriteZeroes { .. } => {}
    }
}

fn forget_fua(operation: &mut Operation) {
    match operation {
        Operation::Write { fua, .. } | Operation::WriteZeroes { fua, .. } => *fua = false,
        Operation::Read { .. }
        | Operation::Flush
        | Operation::Unmap { .. }
        | Operation::LbaStatus { .. } => {}
    }
}
