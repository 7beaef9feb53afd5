//! A model of an NVMe controller behind [`Bar`] and [`DmaSpace`], for tests: it does what the
//! standard says, or what it is told to do wrong, in an order that its seed decides, and judges
//! what the driver does.
//!
//! ```text
//!   driver ── ModelBar, ModelSpace ──► Machine: registers, queues, disks   one lock
//!   test ──── Model: step, faults ───►          faults, verdict
//! ```
//!
//! Nothing happens but in [`Model::step`], or in the thread of [`Model::run_in_background`]. Every
//! access of the controller to memory is checked: against the live mappings and, of data, against
//! the books of who owns which buffer ([`Model::own`]). What a driver does against the rules is a
//! [`Violation`]; a test ends with none of them unread, or panics.
//!
//! It reads commands and writes what Identify returns at the standard's offsets and by its own
//! tables: it shares no builder and no parser with the driver.

use std::collections::BTreeMap;
use std::fmt;
use std::ptr::NonNull;
#[expect(
    clippy::disallowed_types,
    reason = "a controller is one thing, whoever turns to it"
)]
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::bar::{Bar, Presence, ReopenError, ResetError};
use super::dma::{DmaSpace, MapError, Run};
use super::link::Rings;
use super::spec::entry::{NamespaceId, QueueId};

mod admin;
mod command;
mod disk;
pub(crate) mod events;
pub(crate) mod faults;
mod identify;
mod machine;
mod nvm;
mod options;
pub(crate) mod plugged;
mod prp;
mod queue;
mod random;
mod registers;
mod space;
#[cfg(test)]
mod tests;
mod verdict;

use events::Happening;
use faults::FaultPlan;
use machine::Machine;
pub(crate) use options::{ModelOptions, NamespaceOptions};
pub(crate) use verdict::{Rule, Violation};

/// What has happened since the model was made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) register_reads: u64,
    /// Doorbells among them.
    pub(crate) register_writes: u64,
    pub(crate) doorbells: u64,
    pub(crate) fetched: u64,
    pub(crate) completed: u64,
    /// Commands that were carried out, by opcode.
    pub(crate) admin: BTreeMap<u8, u64>,
    pub(crate) io: BTreeMap<u8, u64>,
    /// Data of I/O commands, from and to the driver.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Events that were told.
    pub(crate) events: u64,
    pub(crate) enabled: u64,
    /// Times that CSTS.RDY followed CC.EN = 0.
    pub(crate) disabled: u64,
    pub(crate) function_resets: u64,
    pub(crate) shutdowns: u64,
    pub(crate) queues_created: u64,
    pub(crate) queues_deleted: u64,
}

/// What both sides of the model share.
struct Shared {
    #[expect(
        clippy::disallowed_types,
        reason = "a controller is one thing, whoever turns to it"
    )]
    machine: Mutex<Machine>,
    /// The driver has done something.
    stirred: Condvar,
    bar_bytes: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Machine> {
        // A test that has failed under the lock is still to see why.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// Panics at its end if there are violations that nobody has looked at.
#[derive(Debug)]
struct Judge(Arc<Shared>);

impl Drop for Judge {
    fn drop(&mut self) {
        let left = self.0.lock().verdict.take();
        let listed: Vec<String> = left.iter().map(Violation::to_string).collect();
        assert!(
            left.is_empty() || std::thread::panicking(),
            "the driver has broken rules:\n{}",
            listed.join("\n")
        );
    }
}

/// The test's end of the model; clones are the same controller.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    shared: Arc<Shared>,
    /// The last of them judges.
    _judge: Arc<Judge>,
}

/// The registers.
#[derive(Debug)]
pub(crate) struct ModelBar(Arc<Shared>);

/// The address space.
#[derive(Debug)]
pub(crate) struct ModelSpace(Arc<Shared>);

impl Model {
    pub(crate) fn new(options: ModelOptions) -> Self {
        let machine = Machine::new(options);
        let bar_bytes = machine.bar_bytes();
        #[expect(
            clippy::disallowed_types,
            reason = "a controller is one thing, whoever turns to it"
        )]
        let machine = Mutex::new(machine);
        let shared = Arc::new(Shared {
            bar_bytes,
            machine,
            stirred: Condvar::new(),
        });
        let judge = Arc::new(Judge(Arc::clone(&shared)));
        Self {
            shared,
            _judge: judge,
        }
    }

    pub(crate) fn bar(&self) -> Arc<ModelBar> {
        Arc::new(ModelBar(Arc::clone(&self.shared)))
    }

    pub(crate) fn space(&self) -> Arc<ModelSpace> {
        Arc::new(ModelSpace(Arc::clone(&self.shared)))
    }

    /// Lets `count` steps pass, each with at most one thing that happens: how many did.
    pub(crate) fn step(&self, count: usize) -> usize {
        self.shared.lock().step(count)
    }

    /// Whether nothing happens any more until the driver does something.
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.lock().is_idle()
    }

    /// Steps until it is idle.
    pub(crate) fn settle(&self) {
        let mut machine = self.shared.lock();
        while !machine.is_idle() {
            machine.step(1);
        }
    }

    /// Steps in a thread of its own until the worker is dropped.
    pub(crate) fn run_in_background(&self) -> Worker {
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&self.shared), Arc::clone(&stop));
        let thread = std::thread::spawn(move || work(&shared, &stopped));
        Worker {
            shared: Arc::clone(&self.shared),
            stop,
            thread: Some(thread),
        }
    }

    /// Changes what is to go wrong.
    pub(crate) fn faults(&self, change: impl FnOnce(&mut FaultPlan)) {
        let mut machine = self.shared.lock();
        change(&mut machine.faults);
        machine.space.unmap_fails = machine.faults.unmap_fails;
        machine.space.map_fails = machine.faults.map_fails;
        drop(machine);
        self.shared.stirred.notify_all();
    }

    /// CSTS.CFS is 1 from now on.
    pub(crate) fn fail(&self) {
        self.shared.lock().registers.fail();
    }

    /// The bus sees an error of the function that is not corrected.
    pub(crate) fn fail_bus(&self) {
        self.shared.lock().registers.fail_bus();
    }

    /// The function is taken out of its slot.
    pub(crate) fn remove(&self) {
        self.shared.lock().remove();
    }

    /// It is in its slot again, for whoever reopens it.
    pub(crate) fn plug(&self) {
        self.shared.lock().registers.plug();
    }

    /// The kernel wants the function back.
    pub(crate) fn want(&self) {
        self.shared.lock().registers.want();
    }

    /// Power fails: the function reads as gone, and any part of what was not flushed is lost.
    pub(crate) fn power_cut(&self) {
        self.shared.lock().power_cut();
    }

    /// Power is back, and all registers at their defaults.
    pub(crate) fn power_on(&self) {
        self.shared.lock().registers.power_on();
    }

    /// The back door: the controller is ready and has an I/O queue pair with these rings. Gives the
    /// offsets of its doorbells, of the submission and of the completion queue.
    pub(crate) fn open_pair(&self, queue: QueueId, rings: Rings) -> (usize, usize) {
        let mut machine = self.shared.lock();
        machine.open_pair(queue.0, rings);
        let stride = 4 << machine.options.dstrd;
        let first = 0x1000 + 2 * usize::from(queue.0) * stride;
        (first, first + stride)
    }

    /// Takes what the driver did against the rules.
    pub(crate) fn verdict(&self) -> Vec<Violation> {
        self.shared.lock().verdict.take()
    }

    /// From now on data is moved from and to this memory only where it has an owner.
    pub(crate) fn watch(&self, (start, len): (NonNull<u8>, usize)) {
        self.shared.lock().space.watch(start, len);
    }

    /// The memory at `start` is about to be somebody else's.
    pub(crate) fn unwatch(&self, start: NonNull<u8>) {
        self.shared.lock().space.unwatch(start);
    }

    /// Gives memory that is watched to `owner`.
    pub(crate) fn own(&self, (start, len): (NonNull<u8>, usize), owner: u64) {
        self.shared.lock().space.own(start, len, owner);
    }

    /// `owner` owns what begins at `start` no more.
    pub(crate) fn disown(&self, start: NonNull<u8>, owner: u64) {
        self.shared.lock().space.disown(start, owner);
    }

    /// A block as a read would return it.
    pub(crate) fn block(&self, namespace: NamespaceId, lba: u64) -> Vec<u8> {
        let machine = self.shared.lock();
        let mut bytes = Vec::new();
        machine.disk_at(namespace.0).read(lba, &mut bytes);
        bytes
    }

    /// A block as it is on the medium, without the cache.
    pub(crate) fn durable_block(&self, namespace: NamespaceId, lba: u64) -> Vec<u8> {
        self.shared.lock().disk_at(namespace.0).read_durable(lba)
    }

    /// Whether the block has memory behind it.
    pub(crate) fn is_allocated(&self, namespace: NamespaceId, lba: u64) -> bool {
        self.shared.lock().disk_at(namespace.0).is_allocated(lba)
    }

    /// Changes a namespace under the driver, which is told by an event if it wants to be.
    pub(crate) fn change_namespace(
        &self,
        namespace: NamespaceId,
        change: impl FnOnce(&mut NamespaceOptions),
    ) {
        let mut machine = self.shared.lock();
        machine.change_namespace(namespace.0, change);
        drop(machine);
        self.shared.stirred.notify_all();
    }

    /// Changes the health log; where its warnings change there is an event.
    pub(crate) fn change_health(&self, change: impl FnOnce(&mut [u8; 512])) {
        let mut machine = self.shared.lock();
        let before = machine.logs.health[0];
        change(&mut machine.logs.health);
        if machine.logs.health[0] != before {
            machine.happen(Happening {
                kind: 1,
                information: 0,
                log_page: 2,
            });
        }
        drop(machine);
        self.shared.stirred.notify_all();
    }

    /// Something happens, `times` times.
    pub(crate) fn happen(&self, event: Happening, times: usize) {
        let mut machine = self.shared.lock();
        for _ in 0..times {
            machine.happen(event);
        }
        drop(machine);
        self.shared.stirred.notify_all();
    }

    /// This thread is a data core's as long as the guard lives: it may read no register, and write
    /// only doorbells.
    pub(crate) fn as_core(&self) -> OnCore {
        let thread = std::thread::current().id();
        self.shared.lock().cores.insert(thread);
        OnCore(Arc::clone(&self.shared))
    }

    pub(crate) fn counters(&self) -> Counters {
        self.shared.lock().counters.clone()
    }

    /// Pieces of memory that are mapped.
    pub(crate) fn mappings(&self) -> usize {
        self.shared.lock().space.len()
    }

    /// Bytes of them.
    pub(crate) fn mapped_bytes(&self) -> usize {
        self.shared.lock().space.bytes()
    }

    /// Commands that were fetched and are not completed.
    pub(crate) fn in_flight(&self) -> usize {
        self.shared.lock().flights.len()
    }
}

/// See [`Model::as_core`].
#[derive(Debug)]
pub(crate) struct OnCore(Arc<Shared>);

impl Drop for OnCore {
    fn drop(&mut self) {
        let thread = std::thread::current().id();
        self.0.lock().cores.remove(&thread);
    }
}

/// See [`Model::run_in_background`].
#[derive(Debug)]
pub(crate) struct Worker {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Under the lock, so that the thread is not between its look at it and its wait.
        let machine = self.shared.lock();
        self.stop.store(true, Ordering::Relaxed);
        drop(machine);
        self.shared.stirred.notify_all();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the worker ends");
        }
    }
}

/// Steps that are taken before others have a look.
const BATCH: usize = 32;

fn work(shared: &Shared, stop: &AtomicBool) {
    let mut machine = shared.lock();
    while !stop.load(Ordering::Relaxed) {
        machine.step(BATCH);
        if machine.is_idle() {
            let woken = shared.stirred.wait(machine);
            machine = woken.unwrap_or_else(PoisonError::into_inner);
        } else {
            drop(machine);
            std::thread::yield_now();
            machine = shared.lock();
        }
    }
}

impl Bar for ModelBar {
    fn len(&self) -> usize {
        self.0.bar_bytes
    }

    fn r32(&self, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len());
        self.0.lock().read_register(offset)
    }

    // Profiles find it by its name.
    #[inline(never)]
    fn w32(&self, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len());
        self.0.lock().write_register(offset, value);
        self.0.stirred.notify_all();
    }

    fn reset(&self) -> Result<(), ResetError> {
        let mut machine = self.0.lock();
        if machine.faults.reset_unsupported {
            return Err(ResetError::Unsupported);
        }
        if machine.reset_function() {
            Ok(())
        } else {
            Err(ResetError::Failed(rustix::io::Errno::IO))
        }
    }

    fn presence(&self) -> Presence {
        self.0.lock().registers.presence()
    }

    fn release(&self) {
        self.0.lock().release();
    }

    fn reopen(&self) -> Result<(), ReopenError> {
        if self.0.lock().reopen() {
            Ok(())
        } else {
            Err(ReopenError("there is no function in its place".to_owned()))
        }
    }
}

impl DmaSpace for ModelSpace {
    unsafe fn map(
        &self,
        base: NonNull<u8>,
        len: usize,
        runs: &mut Vec<Run>,
    ) -> Result<(), MapError> {
        let mut machine = self.0.lock();
        // SAFETY: the caller's promise is this function's own.
        unsafe { machine.space.map(base, len, runs) }
    }

    fn unmap(&self, runs: &[Run]) -> Result<(), MapError> {
        let mut machine = self.0.lock();
        if !machine.space.unmap(runs)? {
            machine.break_rule(Rule::Unmap, format!("{runs:?}"));
        }
        Ok(())
    }
}
