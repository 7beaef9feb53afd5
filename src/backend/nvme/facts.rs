//! What everybody may know of a controller: [`Settings`] from the operator, [`Limits`] from the
//! controller, and [`Facts`] that change while it is served.
//!
//! Facts are written by the keeper and read by anyone, without locks; counters of cores are added
//! to only when something went wrong. None of them guards memory: each is good by itself.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64};
use std::time::Duration;

use super::super::request::{Designators, DeviceInfo};
use super::link::Generation;
use super::spec::command::io;
use super::spec::entry::NamespaceId;
use super::spec::identify::{ControllerData, Identifiers, NamespaceData};
use super::spec::log::Health;
use super::spec::status::Status;
use super::vitals::Vitals;

/// Entries of an I/O queue at most, whatever the controller could do: memory per core is
/// [`QUEUE_ENTRIES_MAX`] × (64 + 16 + 4096) bytes.
pub(crate) const QUEUE_ENTRIES_MAX: u16 = 1024;
/// Longest transfer of one command, in bytes: what one page of PRP entries describes, from the
/// first page on.
pub(crate) const TRANSFER_BYTES_MAX: u32 = 1 << 20;
/// Requests of one core for one controller that wait for a slot or for a recovery to end; beyond
/// it they complete with `IoError::Resource`.
pub(crate) const WAITING_MAX: usize = 4096;
/// How often a command whose controller was reset is sent again.
pub(crate) const REPLAYS_MAX: u8 = 2;

/// Longest wait before a command is sent again that its controller was not ready for, whatever it
/// asks for: initiators do not wait for ever.
pub(crate) const RETRY_DELAY_MAX: Duration = Duration::from_secs(4);

/// What an operator is told then.
pub(crate) const CACHE_LOST: &str = "writes that were acknowledged may be lost. Flushes of the \
     unit fail from now on, with HARDWARE ERROR, WRITE ERROR; all else goes on. Check what is on \
     it, then restart the daemon";

/// What the operator decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Entries of each I/O queue, 2 to [`QUEUE_ENTRIES_MAX`]; the controller may have fewer.
    pub(crate) queue_entries: u16,
    /// How long an I/O command may take before it is aborted, unless it needs
    /// [`Patience::Long`]; as long again before the controller is reset.
    pub(crate) io_timeout: Duration,
    /// The same for admin commands, which are not aborted.
    pub(crate) admin_timeout: Duration,
    /// How long requests are held while the controller recovers; then they are NOT READY.
    pub(crate) hold_max: Duration,
    /// How often the health log is read.
    pub(crate) health_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            queue_entries: 256,
            io_timeout: Duration::from_secs(8),
            admin_timeout: Duration::from_secs(10),
            // Initiators give up after 30 s or more.
            hold_max: Duration::from_secs(15),
            health_interval: Duration::from_secs(60),
        }
    }
}

/// What the controller can do, within what is used of it. The same after every reset, but for queue
/// pairs: a controller that comes back with less is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    /// Entries of an I/O queue: min(MQES + 1, setting), at least 2. One less is outstanding.
    pub(crate) queue_entries: u16,
    /// I/O queue pairs, at least 1: where there are more cores, they share.
    pub(crate) queue_pairs: u16,
    /// Bytes of one transfer at most: min(MDTS, [`TRANSFER_BYTES_MAX`]), a multiple of 4096.
    pub(crate) transfer_bytes: u32,
    /// Blocks of one Write Zeroes at most (WZSL, 16 bits), where it is supported.
    pub(crate) write_zeroes_bytes: Option<u64>,
    /// Dataset Management, where it is supported.
    pub(crate) deallocate: Option<DeallocateLimits>,
    /// There is a volatile write cache: flushes and FUA mean something.
    pub(crate) write_cache: bool,
}

/// Limits of one Dataset Management command (DMRL, DMRSL, DMSL).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DeallocateLimits {
    /// 1 to 256.
    pub(crate) ranges: u16,
    pub(crate) range_blocks: u32,
    pub(crate) blocks: u64,
}

/// What can be said of a controller as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum State {
    /// It is being initialised for the first time.
    Starting,
    Ready,
    /// It is being reset; requests are held.
    Recovering,
    /// It was given up; someone must look at it.
    Failed,
    /// It was taken away.
    Gone,
    /// We have let go of it.
    Closed,
}

impl State {
    const ALL: [Self; 6] = [
        Self::Starting,
        Self::Ready,
        Self::Recovering,
        Self::Failed,
        Self::Gone,
        Self::Closed,
    ];
}

/// Counters of one controller since it was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Commands that were late.
    pub(crate) timeouts: AtomicU64,
    pub(crate) aborts: AtomicU64,
    pub(crate) controller_resets: AtomicU64,
    pub(crate) function_resets: AtomicU64,
    /// Commands that were sent again behind a reset.
    pub(crate) replays: AtomicU64,
    /// Completions that no rule of the standard explains.
    pub(crate) breaches: AtomicU64,
    /// Commands that failed; those that were sent again, and succeeded then, did not.
    pub(crate) errors: AtomicU64,
    pub(crate) events: AtomicU64,
    /// Bytes of buffers that are kept from everybody because the device may still write to them.
    pub(crate) quarantined_bytes: AtomicU64,
}

impl Counters {
    /// Adds to one of them.
    pub(crate) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Relaxed);
    }
}

/// Bits of an LBA that the log shows: more than any medium has.
const LBA_BITS: u32 = 48;

/// Facts of a controller that change.
#[derive(Debug)]
pub(crate) struct Facts {
    state: AtomicU8,
    /// CRDT1 to CRDT3, in 100 ms.
    retry_delays: [AtomicU16; 3],
    /// The lowest generation whose doorbells may be rung.
    oldest: AtomicU32,
    /// The last command that failed: its status above [`LBA_BITS`] bits of its LBA.
    last_failure: AtomicU64,
    /// The error log has more to say of one that failed.
    more: AtomicBool,
    /// How often it was let go because it was taken away, or wanted back; wraps around.
    absences: AtomicU32,
    pub(crate) counters: Counters,
    /// The control side's alone.
    pub(crate) vitals: Vitals,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(State::Starting as u8),
            retry_delays: [const { AtomicU16::new(0) }; 3],
            oldest: AtomicU32::new(0),
            last_failure: AtomicU64::new(0),
            more: AtomicBool::new(false),
            absences: AtomicU32::new(0),
            counters: Counters::default(),
            vitals: Vitals::default(),
        }
    }
}

impl Facts {
    pub(crate) fn state(&self) -> State {
        let at = self.state.load(Relaxed);
        State::ALL[usize::from(at)]
    }

    /// The keeper's.
    pub(crate) fn set_state(&self, state: State) {
        self.state.store(state as u8, Relaxed);
    }

    /// How often it was away, this time with them. Who reads it before the state, and finds it
    /// moved, sees no [`State::Ready`] of the time before.
    pub(crate) fn absences(&self) -> u32 {
        self.absences.load(Acquire)
    }

    /// The keeper's: it is away, which the state says already.
    pub(crate) fn add_absence(&self) {
        self.absences.fetch_add(1, Release);
    }

    /// The keeper's: doorbells of this generation, and of those before, are to be left alone. Told
    /// before `Halt` is, for cores that are held up within a turn.
    pub(crate) fn make_void(&self, generation: Generation) {
        self.oldest.store(generation.0.wrapping_add(1), Relaxed);
    }

    /// Whether doorbells of this generation are to be left alone.
    pub(crate) fn is_void(&self, generation: Generation) -> bool {
        generation.0 < self.oldest.load(Relaxed)
    }

    /// A core's: a command has failed, which the keeper logs.
    pub(crate) fn add_failure(&self, status: Status, lba: u64) {
        let lba = lba.min((1 << LBA_BITS) - 1);
        let failure = u64::from(status.field()) << LBA_BITS | lba;
        self.last_failure.store(failure, Relaxed);
        if status.more() {
            self.more.store(true, Relaxed);
        }
        Counters::add(&self.counters.errors, 1);
    }

    /// The status and the LBA of the command that failed last, if one has.
    pub(crate) fn last_failure(&self) -> (Status, u64) {
        let failure = self.last_failure.load(Relaxed);
        let field = u16::try_from(failure >> LBA_BITS).expect("16 bits are left");
        (Status::from_field(field), failure & ((1 << LBA_BITS) - 1))
    }

    /// The keeper's: whether the error log has said more of a command since it was last asked.
    pub(crate) fn has_more(&self) -> bool {
        self.more.load(Relaxed) && self.more.swap(false, Relaxed)
    }

    /// How long to wait before a command is sent again whose status has this CRD, 0 to 3. Nothing
    /// where the controller names no delay, and never more than [`RETRY_DELAY_MAX`].
    pub(crate) fn retry_delay(&self, crd: u8) -> Duration {
        let delay = usize::from(crd)
            .checked_sub(1)
            .and_then(|nth| self.retry_delays.get(nth));
        let tenths = delay.map_or(0, |delay| delay.load(Relaxed));
        Duration::from_millis(u64::from(tenths) * 100).min(RETRY_DELAY_MAX)
    }

    /// The keeper's: CRDT1 to CRDT3 of Identify, in 100 ms.
    pub(crate) fn set_retry_delays(&self, delays: [u16; 3]) {
        for (place, delay) in self.retry_delays.iter().zip(delays) {
            place.store(delay, Relaxed);
        }
    }
}

/// What is constant of a namespace while it is served. A namespace that comes back with another
/// block size or other identifiers is not the same one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Geometry {
    pub(crate) namespace: NamespaceId,
    /// 9 or 12.
    pub(crate) block_shift: u8,
    /// Blocks between boundaries that commands do not cross (NOIOB); 0 there are none.
    pub(crate) boundary_blocks: u32,
    /// Blocks that are written all or nothing when power fails, at least 1.
    pub(crate) atomic_blocks: u32,
    /// Boundaries of atomic writes (NABSPF + 1, NABO), where there are any.
    pub(crate) atomic_boundary: Option<AtomicBoundary>,
    /// Deallocated blocks read as zeroes.
    pub(crate) unmapped_reads_zeroes: bool,
    pub(crate) write_zeroes_deallocates: bool,
    /// Preferred granularity of deallocations, in blocks, at least 1.
    pub(crate) deallocate_granularity: u32,
    /// Not all blocks have space behind them, and not all may get some.
    pub(crate) thin: bool,
    pub(crate) identifiers: Identifiers,
}

impl Geometry {
    /// Of a namespace, by what it and its controller say.
    pub(crate) fn of(
        (namespace, identifiers): (NamespaceId, Identifiers),
        data: &NamespaceData,
        controller: &ControllerData,
    ) -> Self {
        let from_zero = |field: u16| u32::from(field) + 1;
        let bounded = data.own_atomics && data.boundary_power_fail != 0;
        Self {
            namespace,
            block_shift: data.format.block_shift,
            boundary_blocks: data.optimal_boundary.into(),
            atomic_blocks: match data.own_atomics {
                true => from_zero(data.atomic_power_fail),
                false => controller.atomic_power_fail_blocks,
            },
            atomic_boundary: bounded.then_some(AtomicBoundary {
                blocks: from_zero(data.boundary_power_fail),
                offset: data.boundary_offset.into(),
            }),
            unmapped_reads_zeroes: data.deallocated_reads_zeroes,
            write_zeroes_deallocates: data.write_zeroes_deallocates,
            deallocate_granularity: match data.own_granularities {
                true => data.deallocate_granularity,
                false => 1,
            },
            thin: data.thin || data.capacity < data.blocks,
            identifiers,
        }
    }

    /// What of it a logical unit says.
    pub(crate) fn tell(&self, limits: &Limits, info: &mut DeviceInfo) {
        info.write_cache &= limits.write_cache;
        info.unmap = limits.deallocate.is_some() && !info.read_only;
        info.unmap_reads_zeroes = info.unmap && self.unmapped_reads_zeroes;
        info.unmap_granularity = self.deallocate_granularity.max(1);
        info.thin = self.thin;
        info.atomic_write_blocks = self.atomic_write_blocks(limits, info.physical_block_exponent);
        info.designators = Designators {
            nguid: self.identifiers.nguid,
            eui64: self.identifiers.eui64,
            uuid: self.identifiers.uuid,
        };
    }

    /// Blocks that a write of an initiator's may have to be done whole or not at all when power
    /// fails; 0 where none is. Atomic writes consist of whole physical blocks, of which there are
    /// `1 << physical_block_exponent` logical blocks in each.
    pub(crate) fn atomic_write_blocks(&self, limits: &Limits, physical_block_exponent: u8) -> u32 {
        let blocks = match self.atomic_boundary {
            // Only one block is sure not to cross any.
            Some(_) => 1,
            None => {
                let most = limits.transfer_bytes >> self.block_shift.min(31);
                most.clamp(1, self.atomic_blocks.max(1))
            }
        };
        blocks >> physical_block_exponent.min(31) << physical_block_exponent.min(31)
    }
}

/// How a namespace is named.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Selector {
    /// The only active one that there is.
    Only,
    Id(NamespaceId),
    Nguid([u8; 16]),
    Eui64([u8; 8]),
    Uuid([u8; 16]),
}

impl Selector {
    /// Whether it names the namespace `id` with these identifiers.
    pub(crate) fn names(&self, id: NamespaceId, identifiers: &Identifiers) -> bool {
        match self {
            Self::Only => true,
            Self::Id(wanted) => *wanted == id,
            Self::Nguid(wanted) => identifiers.nguid == Some(*wanted),
            Self::Eui64(wanted) => identifiers.eui64 == Some(*wanted),
            Self::Uuid(wanted) => identifiers.uuid == Some(*wanted),
        }
    }
}

/// All that an operator may want to see of a controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Report {
    pub(crate) controller: ControllerData,
    /// As of the last time it was read.
    pub(crate) health: Option<Health>,
    /// Active namespaces, in the order of their numbers.
    pub(crate) namespaces: Vec<NamespaceReport>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NamespaceReport {
    pub(crate) namespace: NamespaceId,
    pub(crate) blocks: u64,
    pub(crate) block_shift: u8,
    pub(crate) identifiers: Identifiers,
    /// Why it cannot be served, if it cannot.
    pub(crate) refused: Option<String>,
}

/// An atomic write crosses no multiple of `blocks` behind `offset`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AtomicBoundary {
    pub(crate) blocks: u32,
    pub(crate) offset: u32,
}

/// A namespace as it is served: its geometry, and what changes.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) geometry: Geometry,
    blocks: AtomicU64,
    state: AtomicU32,
    /// How often it was gone, or another one; wraps around.
    absences: AtomicU32,
    /// Flushes that have begun.
    flushes: AtomicU64,
    /// The first flush that can cover all changes which have completed and may be in the write
    /// cache; 0 before the first one.
    needed: AtomicU64,
    /// The last flush that has succeeded.
    flushed: AtomicU64,
    cache_lost: AtomicBool,
    /// That is because a flush failed, which is not logged yet.
    flush_failed: AtomicBool,
}

/// Whether a namespace can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum NamespaceState {
    Active,
    /// The health log or the namespace says that writes are refused.
    ReadOnly,
    /// It was detached or deleted.
    Missing,
    /// It came back as another one: block size or identifiers differ.
    Changed,
}

impl NamespaceState {
    const ALL: [Self; 4] = [Self::Active, Self::ReadOnly, Self::Missing, Self::Changed];
}

impl Namespace {
    pub(crate) fn new(geometry: Geometry, blocks: u64) -> Self {
        Self {
            geometry,
            blocks: AtomicU64::new(blocks),
            state: AtomicU32::new(NamespaceState::Active as u32),
            absences: AtomicU32::new(0),
            flushes: AtomicU64::new(0),
            needed: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            cache_lost: AtomicBool::new(false),
            flush_failed: AtomicBool::new(false),
        }
    }

    /// A core's: a change has completed that may be in the controller's write cache. A flush that
    /// began before does not cover it for sure.
    pub(crate) fn cached(&self) {
        // Behind the completion. Who reads the number before a flush's own was not told of this
        // completion by chance: the controller had done it before that flush was sent.
        let needed = self.flushes.load(Acquire).saturating_add(1);
        // Once between two flushes: the line of memory stays shared by all cores else.
        if self.needed.load(Relaxed) < needed {
            self.needed.fetch_max(needed, AcqRel);
        }
    }

    /// A core's: a flush is about to be sent. Its number, for [`flushed`](Self::flushed).
    pub(crate) fn begins_flush(&self) -> u64 {
        self.flushes.fetch_add(1, AcqRel).saturating_add(1)
    }

    /// A core's: that flush has succeeded.
    pub(crate) fn flushed(&self, flush: u64) {
        self.flushed.fetch_max(flush, AcqRel);
    }

    /// Whether nothing that has completed needs a flush.
    fn is_flushed(&self) -> bool {
        self.needed.load(Acquire) <= self.flushed.load(Acquire)
    }

    /// Whether acknowledged changes may be lost, so that no flush can vouch for them.
    pub(crate) fn cache_lost(&self) -> bool {
        self.cache_lost.load(Relaxed)
    }

    /// A core's: a flush has failed, and with it went what it was to write. The keeper logs it.
    pub(crate) fn fail_flush(&self) {
        self.set_cache_lost(true);
        self.flush_failed.store(true, Relaxed);
    }

    /// The keeper's: whether a flush has failed since it was last asked.
    pub(crate) fn has_failed_flush(&self) -> bool {
        self.flush_failed.load(Relaxed) && self.flush_failed.swap(false, Relaxed)
    }

    /// For the keeper, or an operator who has looked at what was lost.
    pub(crate) fn set_cache_lost(&self, lost: bool) {
        self.cache_lost.store(lost, Relaxed);
    }

    /// The keeper's, behind the last completion that a core takes, or `unsure` of that: the write
    /// cache is empty without having been written to the medium. Whether that may have lost
    /// something for the first time.
    pub(crate) fn empties_cache(&self, unsure: bool) -> bool {
        let lost = (unsure || !self.is_flushed()) && !self.cache_lost();
        if lost {
            self.set_cache_lost(true);
        }
        lost
    }

    /// Its size as the controller says it now, in logical blocks.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks.load(Relaxed)
    }

    pub(crate) fn state(&self) -> NamespaceState {
        let at = usize::try_from(self.state.load(Relaxed)).expect("one of four");
        NamespaceState::ALL[at]
    }

    /// The keeper's.
    pub(crate) fn set_blocks(&self, blocks: u64) {
        self.blocks.store(blocks, Relaxed);
    }

    /// The keeper's.
    pub(crate) fn set_state(&self, state: NamespaceState) {
        self.state.store(state as u32, Relaxed);
        if matches!(state, NamespaceState::Missing | NamespaceState::Changed) {
            self.absences.fetch_add(1, Release);
        }
    }

    /// As [`Facts::absences`].
    pub(crate) fn absences(&self) -> u32 {
        self.absences.load(Acquire)
    }
}

/// How long a command may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Patience {
    Short,
    /// It may work on much of the medium, however little it says.
    Long,
}

impl Patience {
    pub(crate) const ALL: [Self; 2] = [Self::Short, Self::Long];

    /// With an I/O command of this opcode.
    pub(crate) fn with(opcode: u8) -> Self {
        match opcode {
            io::FLUSH | io::WRITE_ZEROES | io::DATASET_MANAGEMENT => Self::Long,
            _ => Self::Short,
        }
    }
}

/// How many times as long.
const LONG: u32 = 2;
/// What the keeper has at least to send an Abort.
const ABORT_PAUSE: Duration = Duration::from_millis(50);

impl Settings {
    /// How long a command may be outstanding before it is aborted; then it has as long as one of
    /// short patience.
    pub(crate) fn timeout(&self, patience: Patience) -> Duration {
        match patience {
            Patience::Short => self.io_timeout,
            Patience::Long => self.io_timeout * LONG,
        }
    }

    /// How long after a command was late its Abort may be sent; what has not ended by then is left
    /// to its second deadline.
    pub(crate) fn aborted_within(&self) -> Duration {
        (self.io_timeout / 16).max(ABORT_PAUSE)
    }

    /// How long no other command has the CID of one that has ended and may be aborted: longer than
    /// [`aborted_within`](Self::aborted_within), for the Abort to be carried out.
    pub(crate) fn rest(&self) -> Duration {
        self.aborted_within() * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_survive_their_numbers() {
        let facts = Facts::default();
        assert_eq!(facts.state(), State::Starting);
        for state in State::ALL {
            facts.set_state(state);
            assert_eq!(facts.state(), state);
        }
        assert!(!facts.is_void(Generation(0)));
        facts.make_void(Generation(3));
        let void = [2, 3, 4].map(|nth| facts.is_void(Generation(nth)));
        assert_eq!(void, [true, true, false]);
        facts.set_retry_delays([1, 10, u16::MAX]);
        let delays = [0, 1, 2, 3, 4].map(|crd| facts.retry_delay(crd).as_millis());
        assert_eq!(delays, [0, 100, 1000, 4000, 0]);
        let namespace = namespace();
        assert_eq!(namespace.state(), NamespaceState::Active);
        for state in NamespaceState::ALL {
            namespace.set_state(state);
            assert_eq!(namespace.state(), state);
        }
        namespace.set_blocks(u64::MAX);
        assert_eq!(namespace.blocks(), u64::MAX);
    }

    fn namespace() -> Namespace {
        let geometry = Geometry {
            namespace: NamespaceId(1),
            block_shift: 9,
            boundary_blocks: 0,
            atomic_blocks: 1,
            atomic_boundary: None,
            unmapped_reads_zeroes: false,
            write_zeroes_deallocates: false,
            deallocate_granularity: 1,
            thin: false,
            identifiers: Identifiers::default(),
        };
        Namespace::new(geometry, 100)
    }

    #[test]
    fn a_flush_covers_what_completed_before_it_began() {
        let one = namespace();
        assert!(one.is_flushed() && !one.empties_cache(false));
        one.cached();
        assert!(!one.is_flushed());
        let first = one.begins_flush();
        // While that is under way.
        one.cached();
        let second = one.begins_flush();
        one.flushed(first);
        assert!(!one.is_flushed(), "the change behind its beginning");
        one.flushed(second);
        assert!(one.is_flushed());
        // Out of order: the later one covers what the earlier one does.
        one.cached();
        let (first, second) = (one.begins_flush(), one.begins_flush());
        one.flushed(second);
        one.flushed(first);
        assert!(one.is_flushed() && !one.empties_cache(false) && !one.cache_lost());
        one.cached();
        // One that fails is not told of.
        let _ = one.begins_flush();
        assert!(one.empties_cache(false) && one.cache_lost());
        assert!(!one.empties_cache(false), "told once");
        let other = namespace();
        assert!(other.empties_cache(true) && other.cache_lost());
    }

    #[test]
    fn absences_are_counted() {
        let one = namespace();
        let mut seen = one.absences();
        for (state, away) in [
            (NamespaceState::ReadOnly, false),
            (NamespaceState::Missing, true),
            (NamespaceState::Active, false),
            (NamespaceState::Changed, true),
            (NamespaceState::Active, false),
        ] {
            one.set_state(state);
            assert_eq!(one.absences() != seen, away, "{state:?}");
            seen = one.absences();
        }
    }

    #[test]
    fn atomic_writes_are_whole_physical_blocks() {
        let limits = Limits {
            queue_entries: 256,
            queue_pairs: 1,
            transfer_bytes: 1 << 20,
            write_zeroes_bytes: None,
            deallocate: None,
            write_cache: false,
        };
        let geometry = |block_shift, atomic_blocks, atomic_boundary| Geometry {
            namespace: NamespaceId(1),
            block_shift,
            boundary_blocks: 0,
            atomic_blocks,
            atomic_boundary,
            unmapped_reads_zeroes: false,
            write_zeroes_deallocates: false,
            deallocate_granularity: 1,
            thin: false,
            identifiers: Identifiers::default(),
        };
        let plain = |shift, blocks, exponent| {
            geometry(shift, blocks, None).atomic_write_blocks(&limits, exponent)
        };
        assert_eq!(plain(9, 1, 0), 1);
        assert_eq!(plain(9, 1, 3), 0);
        assert_eq!(plain(9, 7, 3), 0);
        assert_eq!(plain(9, 17, 3), 16);
        assert_eq!(plain(12, 1, 0), 1);
        // Never more than one command moves.
        assert_eq!(plain(12, 1 << 16, 0), 256);
        assert_eq!(plain(9, 0, 0), 1);
        assert_eq!(plain(9, 8, u8::MAX), 0);
        let boundary = Some(AtomicBoundary {
            blocks: 8,
            offset: 0,
        });
        let bounded = geometry(9, 64, boundary);
        assert_eq!(bounded.atomic_write_blocks(&limits, 0), 1);
        assert_eq!(bounded.atomic_write_blocks(&limits, 3), 0);
    }

    #[test]
    fn a_namespace_is_named_by_what_it_has() {
        let identifiers = Identifiers {
            eui64: Some([1; 8]),
            uuid: Some([2; 16]),
            ..Identifiers::default()
        };
        let named = |selector: Selector| selector.names(NamespaceId(3), &identifiers);
        assert!(named(Selector::Only) && named(Selector::Id(NamespaceId(3))));
        assert!(named(Selector::Eui64([1; 8])) && named(Selector::Uuid([2; 16])));
        assert!(!named(Selector::Id(NamespaceId(1))) && !named(Selector::Eui64([2; 8])));
        assert!(!named(Selector::Nguid([0; 16])), "none is no identifier");
    }

    #[test]
    fn a_transfer_fits_one_page_of_prp_entries() {
        // PRP1 and 255 or 256 entries behind it, 8 bytes each.
        const { assert!(TRANSFER_BYTES_MAX / 4096 * 8 <= 4096) };
        let settings = Settings::default();
        let [short, long] = Patience::ALL.map(|patience| settings.timeout(patience));
        assert!(short < long);
        let escalated = long + short;
        assert!(escalated < Duration::from_secs(30), "initiators' patience");
    }
}
