//! START STOP UNIT (SBC-3).
//!
//! | POWER CONDITION | modifier | what it does here                                   |
//! |-----------------|----------|-----------------------------------------------------|
//! | 0h START_VALID  | ignored  | START = 1 starts, START = 0 flushes, then stops     |
//! | 1h ACTIVE       | 0        | starts                                              |
//! | 7h LU_CONTROL   | 0        | nothing: the unit has no power conditions of its own |
//! | all others      | any      | INVALID FIELD IN CDB: no such condition (VPD 8Ah)   |
//!
//! A stopped unit answers NOT READY, INITIALIZING COMMAND REQUIRED to what needs the medium. LOEJ
//! is refused where the medium cannot be removed. IMMED allows status before the work is done; we
//! do the work first.
//!
//! A removable unit is another kind of device. START_VALID with LOEJ = 1 takes the medium out,
//! flushed first, or puts it in; MEDIUM NOT PRESENT is answered in between. Without LOEJ it is only
//! flushed, since initiators take a drive that was stopped for one that is always there. All power
//! conditions are accepted, as such drives do, and none but ACTIVE does anything.

use crate::backend::Operation;
use crate::scsi::change::Change;
use crate::scsi::sense::{self, Access, Sense};
use crate::scsi::task::{Begin, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event};

/// A START STOP UNIT that is under way.
#[derive(Debug)]
pub struct StartStopUnit {
    /// Who prevented the removal and is gone no longer counts: his end is waited for first.
    settle: bool,
    /// What is asked for then; `None`: that was all.
    change: Option<Change>,
}

const START_VALID: u8 = 0x0;
const ACTIVE: u8 = 0x1;
const LU_CONTROL: u8 = 0x7;

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let power_condition = cdb.u8(4) >> 4;
    let modifier = cdb.u8(3) & 0x0f;
    let (no_flush, load_eject, start) = (cdb.bit(4, 2), cdb.bit(4, 1), cdb.bit(4, 0));
    if call.unit.removable() {
        return removable(call);
    }
    let started = match (power_condition, modifier) {
        (START_VALID, _) if load_eject => return Err(Sense::invalid_field_in_cdb(4, Some(1))),
        (START_VALID, _) => start,
        (ACTIVE, 0) => true,
        (LU_CONTROL, 0) => return Task::good(Transfer::None),
        (ACTIVE | LU_CONTROL, _) => return Err(Sense::invalid_field_in_cdb(3, Some(3))),
        _ => return Err(Sense::invalid_field_in_cdb(4, Some(7))),
    };
    if started == call.unit.started() {
        return Task::good(Transfer::None);
    }
    let flush = !started && !no_flush;
    Ok(begin(call, flush, Some(Change::Started(started))))
}

/// The same for a unit whose medium can be taken out.
fn removable(call: &UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let (no_flush, load_eject, start) = (cdb.bit(4, 2), cdb.bit(4, 1), cdb.bit(4, 0));
    let change = match cdb.u8(4) >> 4 {
        START_VALID if load_eject => Some(Change::Load(start)),
        START_VALID if start => Some(Change::Started(true)),
        ACTIVE => Some(Change::Started(true)),
        START_VALID => None,
        _ => return Task::good(Transfer::None),
    };
    let flush = !no_flush && !start && !matches!(change, Some(Change::Started(_)));
    Ok(begin(call, flush, change))
}

/// SBC-3 START STOP UNIT: unless NO_FLUSH is set, what is cached goes to the medium before the unit
/// stops.
fn begin(call: &UnitCall<'_>, flush: bool, change: Option<Change>) -> (Task, Step) {
    let settle = matches!(change, Some(Change::Load(_)));
    let mut start_stop = StartStopUnit { settle, change };
    let step = if flush && call.unit.info().write_cache && call.unit.not_ready().is_none() {
        Step::Submit(Operation::Flush)
    } else {
        start_stop.next()
    };
    let machine = Machine::StartStopUnit(start_stop);
    (Task::new(machine, Transfer::None), step)
}

impl StartStopUnit {
    pub(in crate::scsi) fn resume(&mut self, event: &Event) -> Result<Step, Sense> {
        match event {
            Event::Completed { result: Ok(()), .. } | Event::Changed(_) => Ok(self.next()),
            Event::Completed {
                result: Err(error), ..
            } => Err(sense::from_io_error(*error, Access::Write)),
            Event::Collected { .. } | Event::Streamed(_) | Event::Frozen => {
                wrong_event("START STOP UNIT", event)
            }
        }
    }

    fn next(&mut self) -> Step {
        if std::mem::take(&mut self.settle) {
            return Step::Change(Change::Settle);
        }
        self.change.take().map_or(Step::GOOD, Step::Change)
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::IoError;
    use crate::scsi::sense::{AdditionalSense, SenseKey};
    use crate::scsi::testbed::{Bench, Done};
    use crate::scsi::unit_attention::UnitAttention;

    const TEST_UNIT_READY: [u8; 6] = [0; 6];
    const STOP: [u8; 6] = [0x1b, 0, 0, 0, 0, 0];
    const START: [u8; 6] = [0x1b, 0, 0, 0, 1, 0];

    #[test]
    fn stopped_unit_is_flushed_and_not_ready_until_it_is_started() {
        let mut bench = Bench::new(8);
        let answer = bench.plain(&STOP);
        assert_eq!(answer.done, [Done::Flush]);
        answer.good();
        for cdb in [&TEST_UNIT_READY[..], &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]] {
            bench.read(cdb, 512).refused_with(
                SenseKey::NotReady,
                AdditionalSense::INITIALIZING_COMMAND_REQUIRED,
            );
        }
        bench.plain(&START).good();
        bench.plain(&TEST_UNIT_READY).good();
    }

    #[test]
    fn immed_changes_nothing_that_the_initiator_sees_later() {
        let mut bench = Bench::new(8);
        bench.plain(&[0x1b, 1, 0, 0, 0, 0]).good();
        assert!(!bench.unit().started());
        bench.plain(&[0x1b, 1, 0, 0, 1, 0]).good();
        assert!(bench.unit().started());
    }

    #[test]
    fn no_flush_stops_without_flushing() {
        let mut bench = Bench::new(8);
        let answer = bench.plain(&[0x1b, 0, 0, 0, 0x04, 0]);
        assert_eq!(answer.done, []);
        answer.good();
        assert!(!bench.unit().started());
    }

    #[test]
    fn unit_whose_cache_cannot_be_flushed_does_not_stop() {
        let mut bench = Bench::new(8);
        bench.fault = Some(IoError::WriteCacheLost);
        assert_eq!(bench.plain(&STOP).sense().key, SenseKey::HardwareError);
        assert!(bench.unit().started());
    }

    #[test]
    fn ejected_medium_is_not_present_until_it_is_loaded_and_others_are_told() {
        let mut bench = Bench::removable(8);
        for immed in [0, 1] {
            let answer = bench.plain(&[0x1b, immed, 0, 0, 0x02, 0]);
            assert_eq!(answer.done, [Done::Flush]);
            answer.good();
            bench.plain(&[0x1b, immed, 0, 0, 0x02, 0]).good();
            for cdb in [
                &TEST_UNIT_READY[..],
                &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0],
                &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ] {
                bench
                    .read(cdb, 512)
                    .refused_with(SenseKey::NotReady, AdditionalSense::MEDIUM_NOT_PRESENT);
            }
            bench.read(&[0x12, 0, 0, 0, 36, 0], 36).good();
            assert_eq!(bench.others.take(), None);
            bench.plain(&[0x1b, immed, 0, 0, 0x03, 0]).good();
            bench.plain(&[0x1b, immed, 0, 0, 0x03, 0]).good();
            bench.plain(&TEST_UNIT_READY).good();
            let told = UnitAttention::MediumMayHaveChanged;
            assert_eq!(bench.others.take(), Some(told));
        }
    }

    #[test]
    fn removable_unit_is_not_stopped_and_takes_every_power_condition() {
        let mut bench = Bench::removable(8);
        for flags in [0, 1, 4, 5] {
            bench.plain(&[0x1b, 0, 0, 0, flags, 0]).good();
            bench.plain(&TEST_UNIT_READY).good();
        }
        for condition in 1..16 {
            bench.plain(&[0x1b, 0, 0, 0, condition << 4 | 2, 0]).good();
            bench.plain(&TEST_UNIT_READY).good();
        }
    }

    #[test]
    fn load_eject_is_an_invalid_field() {
        let mut bench = Bench::new(8);
        for start in [0, 1] {
            bench
                .plain(&[0x1b, 0, 0, 0, 0x02 | start, 0])
                .invalid_field(4, Some(1));
        }
        assert!(bench.unit().started());
    }

    #[test]
    fn active_starts_and_lu_control_does_nothing() {
        let mut bench = Bench::new(8);
        bench.plain(&STOP).good();
        bench.plain(&[0x1b, 0, 0, 0, 0x70, 0]).good();
        assert!(!bench.unit().started());
        bench.plain(&[0x1b, 0, 0, 0, 0x10, 0]).good();
        assert!(bench.unit().started());
        bench
            .plain(&[0x1b, 0, 0, 1, 0x10, 0])
            .invalid_field(3, Some(3));
    }

    #[test]
    fn other_power_conditions_are_invalid_fields() {
        let mut bench = Bench::new(8);
        for condition in [2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15] {
            bench
                .plain(&[0x1b, 0, 0, 0, condition << 4, 0])
                .invalid_field(4, Some(7));
        }
    }
}
