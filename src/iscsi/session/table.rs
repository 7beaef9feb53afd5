//! The tasks of a session: a fixed slab with an index by Initiator Task Tag.
//!
//! A task has its slot from the arrival of its command to its end and is never moved: a command
//! begins in what is there of the last task of the slot ([`Task::begin`]). A slot's serial number
//! changes with each use; what comes back from a device or from another core names slot and serial,
//! so that nothing old can reach a newer task.

use std::time::Instant;

use crate::pdu::Itt;

use super::tags::Tags;
use super::task::{Arrived, Task};

/// Names one task of a session, now and never again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskId {
    pub slot: u16,
    pub serial: u32,
}

#[derive(Debug)]
struct Slot {
    /// The task is there; otherwise it is what the last one has left, and holds nothing.
    taken: bool,
    task: Task,
}

#[derive(Debug)]
pub(super) struct TaskTable {
    tags: Tags,
    slots: Box<[Slot]>,
    free: Vec<u16>,
    serial: u32,
}

impl TaskTable {
    pub(super) fn new(capacity: u16, now: Instant) -> Self {
        let vacant = |_| Slot {
            taken: false,
            task: Task::vacant(now),
        };
        Self {
            tags: Tags::new(capacity),
            slots: (0..capacity).map(vacant).collect(),
            free: (0..capacity).rev().collect(),
            serial: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// A command has come, whose tag is not the reserved one: it takes a free slot. The window and
    /// the bound on immediate commands together admit no more tasks than there are slots.
    pub(super) fn insert(&mut self, arrived: &Arrived<'_>) -> &mut Task {
        let slot = self
            .free
            .pop()
            .expect("the window admits no more tasks than there are slots");
        self.serial = self.serial.wrapping_add(1);
        let id = TaskId {
            slot,
            serial: self.serial,
        };
        self.tags.insert(arrived.command.itt, slot);
        let place = &mut self.slots[usize::from(slot)];
        place.taken = true;
        place.task.begin(id, arrived);
        &mut place.task
    }

    /// The task has ended and holds nothing any more.
    pub(super) fn remove(&mut self, slot: u16) {
        let place = &mut self.slots[usize::from(slot)];
        assert!(place.taken, "only a present task is removed");
        place.taken = false;
        self.tags.remove(place.task.itt, slot);
        self.free.push(slot);
    }

    pub(super) fn slot(&mut self, slot: u16) -> Option<&mut Task> {
        let place = self.slots.get_mut(usize::from(slot))?;
        place.taken.then_some(&mut place.task)
    }

    /// The task that `id` names, if it is still there.
    pub(super) fn find(&mut self, id: TaskId) -> Option<&mut Task> {
        self.slot(id.slot)
            .filter(|task| task.id.serial == id.serial)
    }

    /// The slot of the task with this tag.
    pub(super) fn by_itt(&self, itt: Itt) -> Option<u16> {
        self.tags.slot(itt)
    }

    /// Takes the tag from a task that is not answered any more, so that another may have it.
    pub(super) fn forget_tag(&mut self, slot: u16) {
        let place = &self.slots[usize::from(slot)];
        self.tags.remove(place.task.itt, slot);
    }

    /// The present tasks.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Task> {
        let taken = self.slots.iter().filter(|place| place.taken);
        taken.map(|place| &place.task)
    }

    /// The slots that hold tasks, as they are at this moment; tasks may be removed meanwhile.
    pub(super) fn capacity(&self) -> u16 {
        u16::try_from(self.slots.len()).expect("made from a u16")
    }
}
