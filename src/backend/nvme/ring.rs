//! [`Ring`]: the memory of one queue pair, and where in it the next entry is (Base Specification
//! 2.0 §3.3.1, §3.3.3, Annex B).
//!
//! ```text
//! entries × 64       entries × 16       a page for each command            a page
//! ┌────────────────┬──────────────────┬──────────────────────────────────┬────────┐
//! │ submissions    │ completions      │ PRP list, or ranges to deallocate│ zeroes │
//! └────────────────┴──────────────────┴──────────────────────────────────┴────────┘
//! ```
//!
//! Commands are bounded by the slots, one less than there are entries, so the submission queue
//! never runs over, and the completion queue has room for all: SQHD says nothing that is needed,
//! and controllers that are sloppy with it do no harm. What was put in is told by one doorbell for
//! a batch; what was taken out too.
//!
//! Never: a register read; an entry of the controller's used before [`Ring::check`].

use std::sync::Arc;

use super::bar::Bar;
use super::dma::{DmaPages, DmaSpace, Iova, MapError, PAGE_BYTES};
use super::link::{Breach, Grant, Handle, Rings};
use super::prp::ListPage;
use super::spec::entry::{COMPLETION_BYTES, CompletionEntry, SUBMISSION_BYTES, SubmissionEntry};
use super::spec::registers::offset::DOORBELLS;
use crate::mem::Pages;

/// See the module.
#[derive(Debug)]
pub(crate) struct Ring<D: DmaSpace> {
    pages: DmaPages<D>,
    entries: u16,
    /// Where the completions and the list pages begin, in bytes.
    completions: usize,
    lists: usize,
    tail: u16,
    /// The tail and the head that the controller was told.
    rung_tail: u16,
    rung_head: u16,
    head: u16,
    phase: bool,
}

impl<D: DmaSpace> Ring<D> {
    /// Memory for queues of so many entries, 2 to
    /// [`QUEUE_ENTRIES_MAX`](super::facts::QUEUE_ENTRIES_MAX).
    pub(crate) fn new(space: &Arc<D>, entries: u16, pages: Pages) -> Result<Self, MapError> {
        let count = usize::from(entries);
        let completions = (count * SUBMISSION_BYTES).next_multiple_of(PAGE_BYTES);
        let lists = completions + (count * COMPLETION_BYTES).next_multiple_of(PAGE_BYTES);
        let bytes = lists + count * PAGE_BYTES;
        let pages = DmaPages::new(space, bytes, pages)?;
        Ok(Self {
            pages,
            entries,
            completions,
            lists,
            tail: 0,
            rung_tail: 0,
            rung_head: 0,
            head: 0,
            phase: true,
        })
    }

    /// What the keeper has to know.
    pub(crate) fn rings(&self) -> Result<Rings, MapError> {
        let count = usize::from(self.entries);
        let (submissions, completions) = (0..count * SUBMISSION_BYTES, count * COMPLETION_BYTES);
        let completions = self.completions..self.completions + completions;
        Ok(Rings {
            submissions: self.pages.iova(submissions)?,
            completions: self.pages.iova(completions)?,
            entries: self.entries,
        })
    }

    /// For a pair that the controller has made anew: both queues are empty.
    pub(crate) fn reset(&mut self) {
        self.pages.zero(self.completions..self.lists);
        (self.tail, self.rung_tail) = (0, 0);
        (self.head, self.rung_head, self.phase) = (0, 0, true);
    }

    /// Puts a command in, for which the caller has a slot.
    pub(crate) fn put(&mut self, entry: &SubmissionEntry) {
        let at = usize::from(self.tail) * SUBMISSION_BYTES;
        self.pages.put_command(at, entry);
        self.tail = self.behind(self.tail);
    }

    /// Takes the next completion out, if there is one.
    pub(crate) fn take(&mut self) -> Option<CompletionEntry> {
        let at = self.completions + usize::from(self.head) * COMPLETION_BYTES;
        let entry = self.pages.completion(at, self.phase)?;
        self.head = self.behind(self.head);
        if self.head == 0 {
            self.phase = !self.phase;
        }
        Some(entry)
    }

    fn behind(&self, place: u16) -> u16 {
        if place + 1 == self.entries {
            0
        } else {
            place + 1
        }
    }

    /// Whether a completion can be true: it names the submission queue of this pair.
    pub(crate) fn check(completion: &CompletionEntry, grant: &Grant<D>) -> Result<(), Breach> {
        if completion.queue() == grant.queue {
            Ok(())
        } else {
            Err(Breach::WrongQueue(completion.queue().0))
        }
    }

    /// Tells the controller of commands that were put in since the last time.
    pub(crate) fn ring_tail<B: Bar>(&mut self, handle: &Handle<B, D>, grant: &Grant<D>) {
        if self.tail != self.rung_tail {
            let at = grant.submission_doorbell;
            ring(handle, grant, at, (self.rung_tail, self.tail));
            self.rung_tail = self.tail;
        }
    }

    /// Tells the controller of completions that were taken out since the last time.
    pub(crate) fn ring_head<B: Bar>(&mut self, handle: &Handle<B, D>, grant: &Grant<D>) {
        if self.head != self.rung_head {
            let at = grant.completion_doorbell;
            ring(handle, grant, at, (self.rung_head, self.head));
            self.rung_head = self.head;
        }
    }

    /// The list page of a slot, which is below the number of entries less one.
    pub(crate) fn list(&mut self, slot: u16) -> ListPage<'_, D> {
        debug_assert!(slot + 1 < self.entries, "the last page is that of zeroes");
        ListPage {
            offset: self.lists + usize::from(slot) * PAGE_BYTES,
            pages: &mut self.pages,
        }
    }

    /// A page that nobody writes.
    pub(crate) fn zeroes(&self) -> Result<Iova, MapError> {
        let at = self.lists + usize::from(self.entries - 1) * PAGE_BYTES;
        self.pages.iova(at..at + PAGE_BYTES)
    }

    /// The memory, for the keeper.
    pub(crate) fn into_pages(self) -> DmaPages<D> {
        self.pages
    }
}

fn ring<B: Bar, D: DmaSpace>(
    handle: &Handle<B, D>,
    grant: &Grant<D>,
    at: usize,
    (old, new): (u16, u16),
) {
    let wanted = grant
        .shadow
        .as_ref()
        .is_none_or(|shadow| shadow.ring(at - DOORBELLS, old, new));
    // A core that was held up may find the controller halted, and the order to leave it alone
    // unread.
    if wanted && !handle.facts.is_void(grant.generation) {
        handle.bar.w32(at, new.into());
    }
}

#[cfg(test)]
mod tests {
    use super::super::flat::{Flat, flat};
    use super::super::link::Generation;
    use super::super::spec::entry::{CommandId, QueueId};
    use super::super::spec::status::Status;
    use super::*;

    fn ring(entries: u16) -> Ring<Flat> {
        Ring::new(&flat(), entries, Pages::Normal).unwrap()
    }

    fn grant() -> Grant<Flat> {
        Grant {
            generation: Generation(1),
            queue: QueueId(3),
            submission_doorbell: 0x1018,
            completion_doorbell: 0x101c,
            shadow: None,
        }
    }

    fn completion(head: u16, phase: bool) -> CompletionEntry {
        let queue = (QueueId(3), head);
        CompletionEntry::new(0, queue, CommandId(7), Status::SUCCESS, phase)
    }

    fn write(ring: &mut Ring<Flat>, nth: u16, entry: CompletionEntry) {
        let at = ring.completions + usize::from(nth) * COMPLETION_BYTES;
        ring.pages.copy_in(at, &entry.to_bytes());
    }

    #[test]
    fn completions_are_taken_with_the_phase_of_their_lap() {
        let mut ring = ring(3);
        assert_eq!(ring.take(), None);
        for lap in 0..5 {
            let phase = lap % 2 == 0;
            for nth in 0..3 {
                assert_eq!(ring.take(), None, "lap {lap}: the last lap's are stale");
                write(&mut ring, nth, completion(nth, phase));
                assert_eq!(ring.take(), Some(completion(nth, phase)));
            }
        }
        ring.reset();
        assert_eq!(ring.take(), None);
        write(&mut ring, 0, completion(0, true));
        assert!(ring.take().is_some());
    }

    #[test]
    fn the_parts_of_the_memory_do_not_touch() {
        for entries in [2, 63, 64, 256, 1024] {
            let mut ring = ring(entries);
            let rings = ring.rings().unwrap();
            let count = u64::from(entries);
            assert!(rings.submissions.0.is_multiple_of(4096));
            assert!(rings.completions.0.is_multiple_of(4096));
            assert!(rings.submissions.0 + 64 * count <= rings.completions.0);
            let first = ring.list(0).offset;
            let last = ring.list(entries - 2).offset;
            let base = rings.submissions.0;
            assert!(rings.completions.0 + 16 * count <= base + first as u64);
            let zeroes = ring.zeroes().unwrap().0 - base;
            assert_eq!(zeroes, last as u64 + 4096);
            assert_eq!(ring.pages.len() as u64, zeroes + 4096);
        }
    }

    #[test]
    fn a_completion_of_another_queue_is_a_breach_whatever_its_head() {
        let grant = grant();
        for head in [0, 3, u16::MAX] {
            let of = |queue| {
                let queue = (QueueId(queue), head);
                CompletionEntry::new(0, queue, CommandId(7), Status::SUCCESS, true)
            };
            assert_eq!(Ring::check(&of(3), &grant), Ok(()));
            let breach = Err(Breach::WrongQueue(2));
            assert_eq!(Ring::check(&of(2), &grant), breach);
        }
    }
}
