//! The copies that a session has asked for, and what became of them (SPC-4 §5.17.4, §6.4.3.2).
//!
//! A copy is known by its list identifier, which is unique among the copies under way of one I_T
//! nexus at one logical unit. What a finished copy has left is kept until a copy with the same
//! identifier replaces it, [`FINISHED_MAX`] later ones crowd it out, the unit is reset, or the
//! session ends.

use std::sync::Arc;

use super::token::Token;
use super::{CONCURRENT_COPIES_MAX, OPERATION_IN_PROGRESS};
use crate::backend::UnitIndex;
use crate::scsi::sense::{Sense, SenseKey};
use crate::scsi::task::{Outcome, Status};

/// Finished copies that a session remembers.
pub const FINISHED_MAX: usize = 64;

/// LIST IDENTIFIER: of one byte for EXTENDED COPY, of four for the token commands. The two never
/// mean the same copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListId {
    Short(u8),
    Long(u32),
}

/// Names a copy of a session, now and never again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OperationKey(u64);

/// Where a copy stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Running,
    Ended(Outcome),
    /// Aborted by task management.
    Terminated,
}

/// One copy.
#[derive(Clone, Debug)]
pub struct Operation {
    key: OperationKey,
    unit: UnitIndex,
    pub(super) id: ListId,
    /// SERVICE ACTION of its command.
    pub(super) service_action: u8,
    /// It is remembered when it has ended (LIST ID USAGE 00b).
    keep: bool,
    pub(super) state: State,
    pub(super) segments: u16,
    pub(super) bytes: u64,
    pub(super) token: Option<Arc<Token>>,
}

/// What is known of a copy when it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beginning {
    pub(super) unit: UnitIndex,
    pub(super) id: ListId,
    pub(super) service_action: u8,
    pub(super) keep: bool,
}

/// See the module. Oldest first.
#[derive(Debug, Default)]
pub struct Operations {
    list: Vec<Operation>,
    next: u64,
}

impl Operations {
    /// A copy begins. One with the same identifier that has ended is forgotten.
    ///
    /// # Errors
    /// How the command ends: OPERATION IN PROGRESS where the identifier is in use (SPC-4
    /// §6.4.3.2), BUSY where too many copies are under way.
    pub(super) fn begin(&mut self, beginning: Beginning) -> Result<OperationKey, Outcome> {
        let Beginning {
            unit,
            id,
            service_action,
            keep,
        } = beginning;
        let mut running = 0;
        for operation in &self.list {
            if operation.state != State::Running {
                continue;
            }
            running += 1;
            if operation.unit == unit && operation.id == id {
                let sense = Sense::new(SenseKey::IllegalRequest, OPERATION_IN_PROGRESS);
                return Err(Outcome {
                    status: Status::CheckCondition,
                    sense: Some(sense),
                });
            }
        }
        if running >= usize::from(CONCURRENT_COPIES_MAX) {
            return Err(Outcome::busy());
        }
        self.list
            .retain(|operation| operation.unit != unit || operation.id != id);
        self.next += 1;
        let key = OperationKey(self.next);
        self.list.push(Operation {
            key,
            unit,
            id,
            service_action,
            keep,
            state: State::Running,
            segments: 0,
            bytes: 0,
            token: None,
        });
        Ok(key)
    }

    /// How far a copy has come.
    pub(super) fn progress(&mut self, key: OperationKey, segments: u16, bytes: u64) {
        if let Some(operation) = self.find_key(key) {
            operation.segments = segments;
            operation.bytes = bytes;
        }
    }

    /// The token that a copy has made.
    pub(super) fn made(&mut self, key: OperationKey, token: Arc<Token>) {
        if let Some(operation) = self.find_key(key) {
            operation.token = Some(token);
        }
    }

    /// The command of a copy has ended.
    pub fn finish(&mut self, key: OperationKey, outcome: Outcome) {
        self.end(key, State::Ended(outcome));
    }

    /// The task of a copy is gone, and has not been answered.
    pub fn terminate(&mut self, key: OperationKey) {
        self.end(key, State::Terminated);
    }

    fn end(&mut self, key: OperationKey, state: State) {
        let Some(operation) = self.find_key(key) else {
            return;
        };
        operation.state = state;
        if !operation.keep {
            self.list.retain(|operation| operation.key != key);
            return;
        }
        let ended = |operation: &Operation| operation.state != State::Running;
        if self.list.iter().filter(|one| ended(one)).count() > FINISHED_MAX
            && let Some(oldest) = self.list.iter().position(ended)
        {
            self.list.remove(oldest);
        }
    }

    /// The unit was reset: what copies there have left is forgotten (SPC-4 §5.17.4).
    pub fn forget(&mut self, unit: UnitIndex) {
        self.list
            .retain(|operation| operation.unit != unit || operation.state == State::Running);
    }

    pub(super) fn find(&self, unit: UnitIndex, id: ListId) -> Option<&Operation> {
        self.list
            .iter()
            .find(|operation| operation.unit == unit && operation.id == id)
    }

    fn find_key(&mut self, key: OperationKey) -> Option<&mut Operation> {
        self.list.iter_mut().find(|operation| operation.key == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: UnitIndex = UnitIndex(3);
    const GOOD: Outcome = Outcome {
        status: Status::Good,
        sense: None,
    };

    fn beginning(id: u8, keep: bool) -> Beginning {
        Beginning {
            unit: UNIT,
            id: ListId::Short(id),
            service_action: 0,
            keep,
        }
    }

    #[test]
    fn identifier_of_a_copy_under_way_is_refused_and_of_an_ended_one_reused() {
        let mut operations = Operations::default();
        let key = operations.begin(beginning(1, true)).unwrap();
        let refused = operations.begin(beginning(1, true)).unwrap_err();
        assert_eq!(refused.sense.unwrap().additional, OPERATION_IN_PROGRESS);
        let elsewhere = Beginning {
            unit: UnitIndex(4),
            ..beginning(1, true)
        };
        operations.begin(elsewhere).unwrap();
        operations.progress(key, 2, 1024);
        operations.finish(key, GOOD);
        assert_eq!(operations.find(UNIT, ListId::Short(1)).unwrap().bytes, 1024);
        operations.begin(beginning(1, true)).unwrap();
        assert_eq!(operations.find(UNIT, ListId::Short(1)).unwrap().bytes, 0);
        assert!(operations.find(UNIT, ListId::Long(1)).is_none());
    }

    #[test]
    fn copies_under_way_and_remembered_are_bounded() {
        let mut operations = Operations::default();
        let keys: Vec<_> = (0..CONCURRENT_COPIES_MAX)
            .map(|id| operations.begin(beginning(id, true)).unwrap())
            .collect();
        assert_eq!(operations.begin(beginning(200, true)), Err(Outcome::busy()));
        for key in keys {
            operations.finish(key, GOOD);
        }
        assert_eq!(operations.list.len(), FINISHED_MAX);
        // The oldest have gone.
        assert!(operations.find(UNIT, ListId::Short(63)).is_none());
        assert!(operations.find(UNIT, ListId::Short(64)).is_some());
    }

    #[test]
    fn copy_that_is_not_kept_leaves_nothing() {
        let mut operations = Operations::default();
        let key = operations.begin(beginning(7, false)).unwrap();
        assert!(operations.find(UNIT, ListId::Short(7)).is_some());
        operations.finish(key, GOOD);
        assert!(operations.find(UNIT, ListId::Short(7)).is_none());
    }

    #[test]
    fn aborted_copy_says_so_and_a_reset_forgets_it() {
        let mut operations = Operations::default();
        let key = operations.begin(beginning(7, true)).unwrap();
        operations.terminate(key);
        let state = operations.find(UNIT, ListId::Short(7)).unwrap().state;
        assert_eq!(state, State::Terminated);
        operations.forget(UNIT);
        assert!(operations.find(UNIT, ListId::Short(7)).is_none());
    }
}
