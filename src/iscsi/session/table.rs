//! The tasks of a session: a fixed slab with an index by Initiator Task Tag.
//!
//! The tags are the peer's to choose, so nothing is hashed by them: they stand in one dense array
//! as long as the command window, whose scan is a few cache lines whatever the peer picks. A slot's
//! serial number changes with each use; what comes back from a device or from another core names
//! slot and serial, so that nothing old can reach a newer task.

use crate::pdu::Itt;

use super::task::Task;

/// Names one task of a session, now and never again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskId {
    pub slot: u16,
    pub serial: u32,
}

#[derive(Debug)]
pub(super) struct TaskTable {
    /// The reserved tag where the slot is free or is only there to fill the last eight.
    itts: Box<[u32]>,
    tasks: Box<[Option<Task>]>,
    free: Vec<u16>,
    serial: u32,
}

impl TaskTable {
    pub(super) fn new(capacity: u16) -> Self {
        Self {
            itts: vec![Itt::RESERVED.0; usize::from(capacity).next_multiple_of(8)]
                .into_boxed_slice(),
            tasks: (0..capacity).map(|_| None).collect(),
            free: (0..capacity).rev().collect(),
            serial: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tasks.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.tasks.len()
    }

    /// Puts a task into a free slot. The window and the bound on immediate commands together admit
    /// no more tasks than there are slots.
    pub(super) fn insert(&mut self, mut task: Task) -> TaskId {
        let slot = self
            .free
            .pop()
            .expect("the window admits no more tasks than there are slots");
        self.serial = self.serial.wrapping_add(1);
        let id = TaskId {
            slot,
            serial: self.serial,
        };
        let at = usize::from(slot);
        self.itts[at] = task.itt.0;
        task.id = id;
        self.tasks[at] = Some(task);
        id
    }

    pub(super) fn remove(&mut self, slot: u16) -> Task {
        let at = usize::from(slot);
        let task = self.tasks[at]
            .take()
            .expect("only a present task is removed");
        self.itts[at] = Itt::RESERVED.0;
        self.free.push(slot);
        task
    }

    pub(super) fn slot(&mut self, slot: u16) -> Option<&mut Task> {
        self.tasks.get_mut(usize::from(slot))?.as_mut()
    }

    /// The task that `id` names, if it is still there.
    pub(super) fn find(&mut self, id: TaskId) -> Option<&mut Task> {
        self.slot(id.slot).filter(|task| task.id == id)
    }

    /// The slot of the task with this tag.
    pub(super) fn by_itt(&self, itt: Itt) -> Option<u16> {
        if itt == Itt::RESERVED {
            return None;
        }
        // Eight at a time without a branch between them, which is what makes the scan cheap.
        let eights = self.itts.as_chunks::<8>().0;
        let eight = eights
            .iter()
            .position(|tags| tags.iter().fold(false, |hit, tag| hit | (*tag == itt.0)))?;
        let within = eights[eight].iter().position(|tag| *tag == itt.0)?;
        u16::try_from(eight * 8 + within).ok()
    }

    /// Takes the tag from a task that is not answered any more, so that another may have it.
    pub(super) fn forget_tag(&mut self, slot: u16) {
        self.itts[usize::from(slot)] = Itt::RESERVED.0;
    }

    /// The present tasks.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Task> {
        self.tasks.iter().flatten()
    }

    /// The slots that hold tasks, as they are at this moment; tasks may be removed meanwhile.
    pub(super) fn capacity(&self) -> u16 {
        u16::try_from(self.tasks.len()).expect("made from a u16")
    }
}
