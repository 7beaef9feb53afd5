//! PREVENT ALLOW MEDIUM REMOVAL (SBC-3).
//!
//! As long as one nexus prevents it, nobody takes the medium out of a removable unit, nor puts it
//! in. What a nexus has prevented ends with the nexus and with every reset. Only bit 0 of PREVENT
//! is left of what older standards had.

use std::sync::Arc;

use crate::scsi::change::Change;
use crate::scsi::nexus::Nexus;
use crate::scsi::sense::{AdditionalSense, Sense};
use crate::scsi::task::{Begin, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event};

/// Whether a unit's medium can be taken out, whether it is out, and who is against it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Medium {
    pub(in crate::scsi) removable: bool,
    pub(in crate::scsi) ejected: bool,
    /// Each nexus once, so no more than there are sessions.
    prevented_by: Vec<Arc<Nexus>>,
}

impl Medium {
    /// Whether the medium may be moved.
    ///
    /// # Errors
    /// MEDIUM REMOVAL PREVENTED.
    pub(in crate::scsi) fn check_allowed(&self) -> Result<(), Sense> {
        if self.prevented_by.is_empty() {
            return Ok(());
        }
        Err(Sense::illegal_request(
            AdditionalSense::MEDIUM_REMOVAL_PREVENTED,
        ))
    }

    pub(in crate::scsi) fn is_prevented_by(&self, i_t: &Nexus) -> bool {
        self.prevented_by.iter().any(|one| **one == *i_t)
    }

    pub(in crate::scsi) fn set_prevented(&mut self, by: &Arc<Nexus>, prevent: bool) {
        self.prevented_by.retain(|one| one != by);
        if prevent {
            self.prevented_by.push(Arc::clone(by));
        }
    }

    /// Nobody prevents anything any more.
    pub(in crate::scsi) fn allow_all(&mut self) {
        self.prevented_by.clear();
    }
}

/// A PREVENT ALLOW MEDIUM REMOVAL that is under way.
#[derive(Debug)]
pub struct PreventAllow;

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let prevent = call.command.cdb.bit(4, 0);
    let task = Task::new(Machine::PreventAllow(PreventAllow), Transfer::None);
    Ok((task, Step::Change(Change::Prevent(prevent))))
}

impl PreventAllow {
    pub(in crate::scsi) fn resume(&mut self, event: &Event) -> Result<Step, Sense> {
        match event {
            Event::Changed(_) => Ok(Step::GOOD),
            Event::Collected { .. }
            | Event::Completed { .. }
            | Event::Streamed(_)
            | Event::Frozen => wrong_event("PREVENT ALLOW MEDIUM REMOVAL", event),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::scsi::change::Change;
    use crate::scsi::sense::{AdditionalSense, SenseKey};
    use crate::scsi::testbed::{Bench, other_nexus};

    const PREVENT: [u8; 6] = [0x1e, 0, 0, 0, 1, 0];
    const ALLOW: [u8; 6] = [0x1e, 0, 0, 0, 0, 0];
    const EJECT: [u8; 6] = [0x1b, 0, 0, 0, 2, 0];
    const LOAD: [u8; 6] = [0x1b, 0, 0, 0, 3, 0];

    #[track_caller]
    fn is_prevented(bench: &mut Bench, cdb: &[u8]) {
        let sense = bench.plain(cdb).sense();
        let expected = AdditionalSense::MEDIUM_REMOVAL_PREVENTED;
        assert_eq!(
            (sense.key, sense.additional),
            (SenseKey::IllegalRequest, expected)
        );
    }

    #[test]
    fn prevented_medium_is_neither_ejected_nor_loaded() {
        let mut bench = Bench::removable(8);
        bench.plain(&PREVENT).good();
        is_prevented(&mut bench, &EJECT);
        bench.plain(&[0; 6]).good();
        bench.plain(&ALLOW).good();
        bench.plain(&EJECT).good();
        bench.plain(&PREVENT).good();
        is_prevented(&mut bench, &LOAD);
        bench.plain(&ALLOW).good();
        bench.plain(&LOAD).good();
        bench.plain(&[0; 6]).good();
    }

    #[test]
    fn every_nexus_that_prevents_has_to_allow() {
        let mut bench = Bench::removable(8);
        bench.plain(&PREVENT).good();
        bench.plain(&PREVENT).good();
        bench
            .change_by(&Change::Prevent(true), &other_nexus())
            .unwrap();
        bench.plain(&ALLOW).good();
        is_prevented(&mut bench, &EJECT);
        bench
            .change_by(&Change::Prevent(false), &other_nexus())
            .unwrap();
        bench.plain(&EJECT).good();
    }

    #[test]
    fn prevention_ends_with_its_nexus_and_with_a_reset() {
        let mut bench = Bench::removable(8);
        for end in [Change::NexusLost, Change::Reset] {
            bench
                .change_by(&Change::Prevent(true), &other_nexus())
                .unwrap();
            assert!(bench.unit().holds_for(&other_nexus()));
            bench.plain(&PREVENT).good();
            bench.plain(&ALLOW).good();
            is_prevented(&mut bench, &EJECT);
            bench.change_by(&end, &other_nexus()).unwrap();
            assert!(!bench.unit().holds_for(&other_nexus()));
            bench.plain(&EJECT).good();
            bench.plain(&LOAD).good();
        }
    }

    #[test]
    fn obsolete_values_of_prevent_are_invalid_fields() {
        for prevent in [2, 3] {
            Bench::removable(8)
                .plain(&[0x1e, 0, 0, 0, prevent, 0])
                .invalid_field(4, Some(1));
        }
    }
}
