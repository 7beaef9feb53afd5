//! The model's registers (NVM Express Base Specification 2.0 §3.1.3, PCIe Transport Specification
//! 1.0 §3.1), in the words of a controller: what each may be written, and when.

use super::machine::Machine;
use super::queue::{Completions, Submission};
use super::verdict::Rule;
use crate::backend::nvme::bar::Presence;

/// Offsets in bytes.
mod at {
    pub(super) const CAP: usize = 0x00;
    pub(super) const CAP_HIGH: usize = 0x04;
    pub(super) const VS: usize = 0x08;
    pub(super) const INTMS: usize = 0x0c;
    pub(super) const INTMC: usize = 0x10;
    pub(super) const CC: usize = 0x14;
    pub(super) const CSTS: usize = 0x1c;
    pub(super) const AQA: usize = 0x24;
    pub(super) const ASQ: usize = 0x28;
    pub(super) const ASQ_HIGH: usize = 0x2c;
    pub(super) const ACQ: usize = 0x30;
    pub(super) const ACQ_HIGH: usize = 0x34;
    pub(super) const CRTO: usize = 0x68;
    pub(super) const DOORBELLS: usize = 0x1000;
}

/// CC.EN.
const EN: u32 = 1;
/// CC.CSS, CC.MPS, CC.AMS: constant while enabled.
const FIXED: u32 = 0x7 << 4 | 0xf << 7 | 0x7 << 11;
/// CC.SHN.
const SHN: u32 = 0x3 << 14;
/// Bits of CC that mean nothing.
const CC_RESERVED: u32 = 0xff00_000e;
/// CC.IOCQES = 4, CC.IOSQES = 6.
const ENTRY_SIZES: u32 = 4 << 20 | 6 << 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    #[default]
    Disabled,
    /// CC.EN = 1; CSTS.RDY follows at this step, if ever.
    Enabling(Option<u64>),
    Ready,
    /// CC.EN = 0; CSTS.RDY follows.
    Disabling(Option<u64>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Shutdown {
    #[default]
    None,
    Occurring(Option<u64>),
    Complete,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Place {
    #[default]
    Here,
    /// Here, and asked for by the kernel.
    Wanted,
    /// Out of its slot.
    Gone,
    /// There again (or still), let go of and not opened.
    Released,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Registers {
    cc: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    phase: Phase,
    shutdown: Shutdown,
    /// CSTS.CFS.
    fatal: bool,
    place: Place,
    /// Without power.
    cut: bool,
    /// The bus has seen an error, and the function was not reset since.
    bus_failed: bool,
}

impl Registers {
    fn is_here(&self) -> bool {
        matches!(self.place, Place::Here | Place::Wanted) && !self.cut
    }

    /// CC.IOSQES and IOCQES are what the standard's entries need.
    pub(super) fn has_entry_sizes(&self) -> bool {
        self.cc & 0x00ff_0000 == ENTRY_SIZES
    }

    /// Something will change by itself.
    pub(super) fn is_pending(&self) -> bool {
        matches!(
            self.phase,
            Phase::Enabling(Some(_)) | Phase::Disabling(Some(_))
        ) || matches!(self.shutdown, Shutdown::Occurring(Some(_)))
    }

    pub(super) fn is_due(&self, now: u64) -> bool {
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now);
        match (self.phase, self.shutdown) {
            (Phase::Enabling(at) | Phase::Disabling(at), _) if due(at) => true,
            (_, Shutdown::Occurring(at)) => due(at),
            _ => false,
        }
    }

    /// Whether commands that were fetched go on: also while the controller is being disabled.
    pub(super) fn runs(&self) -> bool {
        self.is_here() && matches!(self.phase, Phase::Ready | Phase::Disabling(_))
    }

    pub(super) fn fetches(&self) -> bool {
        let up = self.phase == Phase::Ready && self.shutdown == Shutdown::None;
        self.is_here() && up && !self.fatal
    }

    pub(super) fn completes(&self) -> bool {
        self.runs() && !self.fatal
    }

    /// CSTS.CFS.
    pub(super) fn fail(&mut self) {
        self.fatal = true;
    }

    /// As behind a reset of the function.
    fn reset(&mut self) {
        *self = Self {
            place: self.place,
            cut: self.cut,
            ..Self::default()
        };
    }

    pub(super) fn remove(&mut self) {
        self.reset();
        self.place = Place::Gone;
    }

    pub(super) fn cut(&mut self) {
        self.place = Place::Here;
        self.cut = true;
    }

    pub(super) fn power_on(&mut self) {
        self.reset();
        self.cut = false;
    }

    /// Someone has plugged it in again.
    pub(super) fn plug(&mut self) {
        if self.place == Place::Gone {
            self.place = Place::Released;
        }
    }

    pub(super) fn want(&mut self) {
        if self.place == Place::Here {
            self.place = Place::Wanted;
        }
    }

    pub(super) fn fail_bus(&mut self) {
        self.bus_failed = true;
    }

    pub(super) fn presence(&self) -> Presence {
        match self.place {
            Place::Here if self.bus_failed => Presence::Failed,
            Place::Here => Presence::Here,
            Place::Wanted => Presence::Wanted,
            Place::Gone | Place::Released => Presence::Gone,
        }
    }

    fn csts(&self) -> u32 {
        let ready = matches!(self.phase, Phase::Ready | Phase::Disabling(_));
        let shutdown = match self.shutdown {
            Shutdown::None => 0,
            Shutdown::Occurring(_) => 1,
            Shutdown::Complete => 2,
        };
        u32::from(ready) | u32::from(self.fatal) << 1 | shutdown << 2
    }
}

fn low(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn with_low(value: u64, low: u32) -> u64 {
    value >> 32 << 32 | u64::from(low)
}

fn with_high(value: u64, high: u32) -> u64 {
    value << 32 >> 32 | u64::from(high) << 32
}

impl Machine {
    /// Bytes of the BAR: doorbells for the queues that there can be, in whole pages.
    pub(super) fn bar_bytes(&self) -> usize {
        let queues = usize::from(self.options.queue_pairs) + 1;
        let doorbells = 2 * queues * (4 << self.options.dstrd);
        let needed = (at::DOORBELLS + doorbells).next_multiple_of(4096);
        self.options.bar_bytes.unwrap_or(needed)
    }

    fn cap(&self) -> u64 {
        let options = &self.options;
        u64::from(options.mqes)
            | 1 << 16
            | u64::from(options.cap_to) << 24
            | u64::from(options.dstrd & 0xf) << 32
            | u64::from(self.faults.command_sets.unwrap_or(options.css)) << 37
            | u64::from(options.mpsmin & 0xf) << 48
            | u64::from(options.mpsmax & 0xf) << 52
            | u64::from(options.crwmt.is_some()) << 59
    }

    pub(super) fn read_register(&mut self, offset: usize) -> u32 {
        self.counters.register_reads += 1;
        if self.cores.contains(&std::thread::current().id()) {
            let detail = format!("a core has read the register at {offset:#x}");
            self.break_rule(Rule::CoreAccess, detail);
        }
        if !self.registers.is_here() {
            return u32::MAX;
        }
        if offset >= at::DOORBELLS {
            self.break_rule(
                Rule::Register,
                format!("the doorbell at {offset:#x} is read"),
            );
            return 0;
        }
        let registers = &self.registers;
        match offset {
            at::CAP => low(self.cap()),
            at::CAP_HIGH => low(self.cap() >> 32),
            at::VS => self.options.version.0,
            at::CC => registers.cc,
            at::CSTS => registers.csts(),
            at::AQA => registers.aqa,
            at::ASQ => low(registers.asq),
            at::ASQ_HIGH => low(registers.asq >> 32),
            at::ACQ => low(registers.acq),
            at::ACQ_HIGH => low(registers.acq >> 32),
            at::CRTO => self.options.crwmt.map_or(0, u32::from),
            _ => 0,
        }
    }

    pub(super) fn write_register(&mut self, offset: usize, value: u32) {
        self.counters.register_writes += 1;
        if !self.registers.is_here() {
            return;
        }
        if offset >= at::DOORBELLS {
            return self.ring(offset, value);
        }
        if self.cores.contains(&std::thread::current().id()) {
            let detail = format!("a core has written the register at {offset:#x}");
            self.break_rule(Rule::CoreAccess, detail);
        }
        let disabled = self.registers.phase == Phase::Disabled;
        match offset {
            at::CC => return self.configure(value),
            at::INTMS | at::INTMC => return,
            at::AQA if disabled => self.registers.aqa = value,
            at::ASQ if disabled => self.registers.asq = with_low(self.registers.asq, value),
            at::ASQ_HIGH if disabled => self.registers.asq = with_high(self.registers.asq, value),
            at::ACQ if disabled => self.registers.acq = with_low(self.registers.acq, value),
            at::ACQ_HIGH if disabled => self.registers.acq = with_high(self.registers.acq, value),
            at::AQA..=at::ACQ_HIGH => {
                let detail = format!("{value:#x} at {offset:#x}, which is enabled");
                return self.break_rule(Rule::Enabled, detail);
            }
            _ => return self.break_rule(Rule::Register, format!("{value:#x} at {offset:#x}")),
        }
        let reserved = match offset {
            at::AQA => value & 0xf000_f000,
            at::ASQ | at::ACQ => value & 0xfff,
            _ => 0,
        };
        if reserved != 0 {
            self.break_rule(Rule::Register, format!("{value:#x} at {offset:#x}"));
        }
    }

    fn configure(&mut self, value: u32) {
        let before = std::mem::replace(&mut self.registers.cc, value);
        if value & CC_RESERVED != 0 || value & SHN == SHN {
            self.break_rule(Rule::Register, format!("CC = {value:#x}"));
        }
        match (before & EN != 0, value & EN != 0) {
            (false, false) => {}
            (false, true) => self.enable(),
            (true, true) => {
                if (before ^ value) & FIXED != 0 {
                    let detail = format!("CC = {value:#x}, and was {before:#x}");
                    self.break_rule(Rule::Enabled, detail);
                }
                if before & SHN == 0 && value & SHN != 0 {
                    self.announce_shutdown(value & SHN == 1 << 14);
                }
            }
            (true, false) => self.disable(),
        }
    }

    fn enable(&mut self) {
        if self.registers.phase != Phase::Disabled {
            let phase = self.registers.phase;
            self.break_rule(Rule::NotSettled, format!("CC.EN = 1 while {phase:?}"));
        }
        if let Some(wrong) = self.misconfigured() {
            self.break_rule(Rule::Configuration, wrong);
            self.registers.fail();
        }
        let steps = 1 + self.random.below(self.options.ready_steps.max(1));
        let due = self.now + (steps + self.faults.ready_late) as u64;
        let due = Some(due).filter(|_| !self.faults.never_ready && !self.registers.fatal);
        self.registers.phase = Phase::Enabling(due);
    }

    /// What CC and the admin queue's registers say that cannot be.
    fn misconfigured(&self) -> Option<String> {
        let registers = &self.registers;
        let page = registers.cc >> 7 & 0xf;
        let (mpsmin, mpsmax) = (self.options.mpsmin.into(), self.options.mpsmax.into());
        let set = match registers.cc >> 4 & 7 {
            0 => self.options.css & 1 != 0,
            6 => self.options.css & 0x40 != 0,
            7 => self.options.css & 0x80 != 0,
            _ => false,
        };
        let entries = [registers.aqa & 0xfff, registers.aqa >> 16 & 0xfff];
        if !(mpsmin..=mpsmax).contains(&page) {
            Some(format!("CC.MPS = {page}, outside {mpsmin} to {mpsmax}"))
        } else if page != 0 {
            Some("this model has pages of 4096 bytes only".to_owned())
        } else if !set {
            Some(format!("CC.CSS of {:#x}", registers.cc))
        } else if registers.cc >> 11 & 7 != 0 {
            Some("CC.AMS is not round robin".to_owned())
        } else if entries.contains(&0) || registers.asq == 0 || registers.acq == 0 {
            Some("there are no admin queues".to_owned())
        } else {
            None
        }
    }

    fn disable(&mut self) {
        let steps = 1 + self.random.below(self.options.ready_steps.max(1));
        let due = Some(self.now + steps as u64).filter(|_| !self.faults.never_disabled);
        match self.registers.phase {
            Phase::Ready => self.registers.phase = Phase::Disabling(due),
            Phase::Enabling(at) => {
                // It never will be ready: there is nothing to wait for.
                if at.is_some() && !self.registers.fatal {
                    let detail = "CC.EN = 0 before CSTS.RDY was 1".to_owned();
                    self.break_rule(Rule::NotSettled, detail);
                }
                self.settle_disabled();
            }
            Phase::Disabling(_) | Phase::Disabled => {}
        }
    }

    /// CSTS.RDY is 0, and nothing of what was is left.
    fn settle_disabled(&mut self) {
        self.forget();
        self.registers.phase = Phase::Disabled;
        self.registers.shutdown = Shutdown::None;
        self.registers.fatal = false;
        self.counters.disabled += 1;
    }

    fn announce_shutdown(&mut self, normal: bool) {
        self.counters.shutdowns += 1;
        let queues = self.submissions.len();
        if normal && queues > 1 && self.faults == super::FaultPlan::default() {
            let detail = format!("{} I/O queues are there", queues - 1);
            self.break_rule(Rule::Shutdown, detail);
        }
        let steps = 1 + self.random.below(self.options.ready_steps.max(1));
        let due = Some(self.now + steps as u64).filter(|_| !self.faults.stuck_shutdown);
        self.registers.shutdown = Shutdown::Occurring(due);
    }

    /// What a register does by itself, now that its time has come.
    pub(super) fn follow_registers(&mut self) {
        let now = self.now;
        match self.registers.phase {
            Phase::Enabling(Some(at)) if at <= now => self.become_ready(),
            Phase::Disabling(Some(at)) if at <= now => self.settle_disabled(),
            _ => {
                for disk in &mut self.disks {
                    disk.flush();
                }
                self.registers.shutdown = Shutdown::Complete;
            }
        }
    }

    fn become_ready(&mut self) {
        self.counters.enabled += 1;
        self.registers.phase = Phase::Ready;
        let registers = &self.registers;
        let submissions = (registers.aqa & 0xfff) + 1;
        let completions = (registers.aqa >> 16 & 0xfff) + 1;
        let (asq, acq) = (registers.asq, registers.acq);
        self.events = super::events::Events::default();
        self.submissions
            .insert(0, Submission::new(asq, submissions, 0));
        self.completions
            .insert(0, Completions::new(acq, completions));
    }

    /// The back door: ready, whatever the registers said, without an admin queue.
    pub(super) fn force_ready(&mut self) {
        self.registers.cc = EN | ENTRY_SIZES;
        self.registers.phase = Phase::Ready;
    }

    fn ring(&mut self, offset: usize, value: u32) {
        self.counters.doorbells += 1;
        // Nothing is put into words, and so allocated on a core, where all is well.
        if let Err(rule) = self.rung(offset, value) {
            self.break_rule(rule, format!("{value} in the doorbell at {offset:#x}"));
        }
    }

    fn rung(&mut self, offset: usize, value: u32) -> Result<(), Rule> {
        let stride = 4 << self.options.dstrd;
        let place = offset - at::DOORBELLS;
        let nth = u16::try_from(place / stride).unwrap_or(u16::MAX);
        let (id, is_head) = (nth / 2, nth % 2 == 1);
        if !place.is_multiple_of(stride) {
            return Err(Rule::DoorbellUnknown);
        }
        let up = self.registers.phase == Phase::Ready;
        if !up || self.registers.shutdown != Shutdown::None && !is_head {
            return Err(Rule::DoorbellDisabled);
        }
        if is_head {
            let queue = self.completions.get_mut(&id);
            let queue = queue.ok_or(Rule::DoorbellUnknown)?;
            queue.ring(value, queue.shadow.is_some())
        } else {
            let queue = self.submissions.get_mut(&id);
            let queue = queue.ok_or(Rule::DoorbellUnknown)?;
            queue.asleep = false;
            queue.ring(value, queue.shadow.is_some())
        }
    }

    /// What the bus can do to the function. `false`: it did not.
    pub(super) fn reset_function(&mut self) -> bool {
        if self.faults.reset_fails || !self.registers.is_here() {
            return false;
        }
        self.counters.function_resets += 1;
        self.forget();
        self.registers.reset();
        true
    }

    pub(super) fn release(&mut self) {
        self.forget();
        self.registers.reset();
        if self.registers.is_here() {
            self.registers.place = Place::Released;
        }
    }

    /// `false`: there is none.
    pub(super) fn reopen(&mut self) -> bool {
        let may = !self.faults.reopen_fails && !self.registers.cut;
        let there = may && self.registers.place == Place::Released;
        if there {
            self.registers.reset();
            self.registers.place = Place::Here;
        }
        there
    }
}
