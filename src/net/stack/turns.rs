//! [`Turns`]: slots of the flow table that wait for their turn, each at most once.
//!
//! A slot whose flow is gone stays until its turn comes; a flow that takes the slot meanwhile is in
//! the list already. So the list is never longer than the table.

use std::collections::VecDeque;

/// See the module.
#[derive(Debug)]
pub(super) struct Turns {
    slots: VecDeque<u32>,
    /// By slot: it is in the list.
    waits: Box<[bool]>,
}

impl Turns {
    /// For a table of so many slots.
    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots: VecDeque::with_capacity(slots),
            waits: vec![false; slots].into_boxed_slice(),
        }
    }

    /// Puts a slot at the end, if it does not wait already.
    pub(super) fn push(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.waits[slot as usize], true) {
            self.slots.push_back(slot);
        }
    }

    /// Puts a slot that was taken out at the front again.
    pub(super) fn put_back(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.waits[slot as usize], true) {
            self.slots.push_front(slot);
        }
    }

    pub(super) fn pop(&mut self) -> Option<u32> {
        let slot = self.slots.pop_front()?;
        self.waits[slot as usize] = false;
        Some(slot)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}
