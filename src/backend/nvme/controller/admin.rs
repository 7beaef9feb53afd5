//! The admin queue pair, as its host sees it: who is outstanding, since when, and what came back
//! (Base Specification 2.0 §3.3.1, §3.3.3).
//!
//! A CID is the index of its slot. What completes is checked against the slots before anything of
//! it is used: a controller that names another command than an outstanding one is not to be
//! trusted, and is reset. How far it says that it has read is not looked at: the slots bound the
//! queue. No command here waits for another one: the caller never has more
//! outstanding than there are slots.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::backend::nvme::bar::Bar;
use crate::backend::nvme::dma::{DmaPages, DmaSpace, Iova, MapError, PAGE_BYTES, Shadow};
use crate::backend::nvme::link::Breach;
use crate::backend::nvme::spec::command::admin as opcode;
use crate::backend::nvme::spec::entry::{
    COMPLETION_BYTES, CommandId, CompletionEntry, QueueId, SUBMISSION_BYTES, SubmissionEntry,
};
use crate::backend::nvme::spec::registers::{Capabilities, admin_queue_attributes, offset};
use crate::mem::Pages;

/// Entries of each of the two queues; one fewer is outstanding at most.
const ENTRIES: u16 = 32;
/// Where things are in the pages: a page for each.
const SUBMISSIONS: usize = 0;
const COMPLETIONS: usize = PAGE_BYTES;
const DATA: usize = 2 * PAGE_BYTES;

/// What a command is for: who is to learn of its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// The job under way, of which there is one.
    Job,
    /// An Asynchronous Event Request, which may take for ever.
    Event,
    /// An Abort of a command of a core's.
    Abort,
}

#[derive(Clone, Copy, Debug)]
struct Outstanding {
    purpose: Purpose,
    opcode: u8,
    late_at: Option<Instant>,
}

/// The queue pair, its memory, and a page of data for the job under way.
#[derive(Debug)]
pub(super) struct Admin<D: DmaSpace> {
    pages: DmaPages<D>,
    slots: [Option<Outstanding>; ENTRIES as usize],
    tail: u16,
    head: u16,
    phase: bool,
    /// Completions were taken that the controller does not know of.
    taken: bool,
    /// Where the doorbells are in the BAR.
    doorbells: (usize, usize),
    shadow: Option<Arc<Shadow<D>>>,
}

impl<D: DmaSpace> Admin<D> {
    pub(super) fn new(space: &Arc<D>) -> Result<Self, MapError> {
        Ok(Self {
            pages: pages(space, 3 * PAGE_BYTES)?,
            slots: [None; ENTRIES as usize],
            tail: 0,
            head: 0,
            phase: true,
            taken: false,
            doorbells: (offset::DOORBELLS, offset::DOORBELLS),
            shadow: None,
        })
    }

    /// Forgets what was outstanding and tells a controller that is disabled where the queues are.
    pub(super) fn program(&mut self, bar: &impl Bar, caps: Capabilities) -> Result<(), MapError> {
        self.pages.zero(0..DATA);
        self.slots = [None; ENTRIES as usize];
        (self.tail, self.head, self.phase, self.taken) = (0, 0, true, false);
        self.doorbells = (caps.submission_doorbell(0), caps.completion_doorbell(0));
        self.shadow = None;
        let submissions = self.pages.iova(SUBMISSIONS..COMPLETIONS)?;
        let completions = self.pages.iova(COMPLETIONS..DATA)?;
        bar.w32(offset::AQA, admin_queue_attributes(ENTRIES, ENTRIES));
        bar.w64(offset::ASQ, submissions.0);
        bar.w64(offset::ACQ, completions.0);
        Ok(())
    }

    /// The controller takes these doorbells from now on. Registers are written all the same: there
    /// are few commands, and some controllers know no others of this queue.
    /// Before the controller is told of it: from then on it looks there for what was rung so far,
    /// too.
    pub(super) fn use_shadow(&mut self, shadow: Arc<Shadow<D>>) {
        for (doorbell, at) in [(self.doorbells.0, self.tail), (self.doorbells.1, self.head)] {
            let place = doorbell - offset::DOORBELLS;
            if Shadow::<D>::covers(place) {
                let _ = shadow.ring(place, at, at);
            }
        }
        self.shadow = Some(shadow);
    }

    /// The controller does not look there.
    pub(super) fn drop_shadow(&mut self) {
        self.shadow = None;
    }

    /// Where the controller sees the data page.
    pub(super) fn data(&self) -> Result<Iova, MapError> {
        self.pages.iova(DATA..DATA + PAGE_BYTES)
    }

    pub(super) fn clear_data(&mut self) {
        self.pages.zero(DATA..DATA + PAGE_BYTES);
    }

    /// Writes the first bytes of the data page, a multiple of 4.
    pub(super) fn put_data(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= PAGE_BYTES);
        self.pages.copy_in(DATA, bytes);
    }

    /// Copies out what is at `range` of the data page.
    pub(super) fn copy_data(&self, range: Range<usize>, to: &mut [u8]) {
        assert!(range.end <= PAGE_BYTES && range.len() == to.len());
        self.pages.copy_out(DATA + range.start, to);
    }

    /// Gives the controller a command.
    ///
    /// # Panics
    /// If no slot is free.
    pub(super) fn submit(
        &mut self,
        bar: &impl Bar,
        mut entry: SubmissionEntry,
        (purpose, late_at): (Purpose, Option<Instant>),
    ) {
        let usable = &self.slots[..usize::from(ENTRIES) - 1];
        let free = usable.iter().position(Option::is_none);
        let slot = free.expect("purposes bound what is outstanding");
        let opcode = entry.opcode();
        self.slots[slot] = Some(Outstanding {
            purpose,
            opcode,
            late_at,
        });
        entry.set_id(CommandId(u16::try_from(slot).expect("few slots")));
        let place = SUBMISSIONS + usize::from(self.tail) * SUBMISSION_BYTES;
        self.pages.put_command(place, &entry);
        let old = self.tail;
        self.tail = (old + 1) % ENTRIES;
        self.ring(bar, self.doorbells.0, (old, self.tail));
    }

    /// The next command that has ended. Behind the last one, [`acknowledge`](Self::acknowledge).
    pub(super) fn reap(&mut self) -> Result<Option<(Purpose, CompletionEntry)>, Breach> {
        let place = COMPLETIONS + usize::from(self.head) * COMPLETION_BYTES;
        let Some(entry) = self.pages.completion(place, self.phase) else {
            return Ok(None);
        };
        if entry.queue() != QueueId(0) {
            return Err(Breach::WrongQueue(entry.queue().0));
        }
        let slot = self.slots.get_mut(usize::from(entry.id().0));
        let outstanding = slot
            .and_then(Option::take)
            .ok_or_else(|| Breach::UnknownCommand(entry.id().0))?;
        self.head = (self.head + 1) % ENTRIES;
        self.phase ^= self.head == 0;
        self.taken = true;
        Ok(Some((outstanding.purpose, entry)))
    }

    /// Tells the controller how far completions were taken.
    pub(super) fn acknowledge(&mut self, bar: &impl Bar) {
        if std::mem::take(&mut self.taken) {
            self.ring(bar, self.doorbells.1, (self.head, self.head));
        }
    }

    fn ring(&self, bar: &impl Bar, doorbell: usize, (old, new): (u16, u16)) {
        let place = doorbell - offset::DOORBELLS;
        if let Some(shadow) = &self.shadow
            && Shadow::<D>::covers(place)
        {
            let _ = shadow.ring(place, old, new);
        }
        bar.w32(doorbell, new.into());
    }

    /// The opcode of a command that has taken too long.
    pub(super) fn late(&self, now: Instant) -> Option<u8> {
        let outstanding = self.slots.iter().flatten();
        let late = |one: &&Outstanding| one.late_at.is_some_and(|at| now >= at);
        outstanding.into_iter().find(late).map(|one| one.opcode)
    }
}

/// Shadow doorbells, in pages as those of [`pages`].
pub(super) fn shadow<D: DmaSpace>(space: &Arc<D>) -> Result<Shadow<D>, MapError> {
    match Shadow::new(space, Pages::Normal) {
        Err(MapError::Scattered(_)) => Shadow::new(space, Pages::Huge),
        other => other,
    }
}

/// Pages of the control side: ordinary ones, or huge ones where the space wants those.
fn pages<D: DmaSpace>(space: &Arc<D>, bytes: usize) -> Result<DmaPages<D>, MapError> {
    match DmaPages::new(space, bytes, Pages::Normal) {
        Err(MapError::Scattered(_)) => DmaPages::new(space, bytes, Pages::Huge),
        other => other,
    }
}

/// The command that reads a log page.
pub(super) const PAGE_READ: &str = "Get Log Page";

/// What the standard calls an admin command.
pub(super) fn name_of(code: u8) -> &'static str {
    match code {
        opcode::DELETE_SUBMISSION_QUEUE => "Delete I/O Submission Queue",
        opcode::CREATE_SUBMISSION_QUEUE => "Create I/O Submission Queue",
        opcode::LOG_PAGE => PAGE_READ,
        opcode::DELETE_COMPLETION_QUEUE => "Delete I/O Completion Queue",
        opcode::CREATE_COMPLETION_QUEUE => "Create I/O Completion Queue",
        opcode::IDENTIFY => "Identify",
        opcode::ABORT => "Abort",
        opcode::SET_FEATURES => "Set Features",
        opcode::FEATURES => "Get Features",
        opcode::DOORBELL_BUFFER_CONFIG => "Doorbell Buffer Config",
        _ => "an admin command",
    }
}
