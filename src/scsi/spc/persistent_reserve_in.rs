//! PERSISTENT RESERVE IN (SPC-4 §6.15).
//!
//! Answered from this core's replica, but only when every change that was decided before is known
//! on all cores: what it reports is never older than what somebody was already told.

use crate::scsi::change::Change;
use crate::scsi::reservations::report::Report;
use crate::scsi::sense::Sense;
use crate::scsi::task::{
    Begin, Context, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event,
};

/// A PERSISTENT RESERVE IN that is under way.
#[derive(Debug)]
pub struct PersistentReserveIn {
    report: Report,
    allocation_length: u16,
}

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let report = match cdb.service_action() {
        0 => Report::ReadKeys,
        1 => Report::ReadReservation,
        2 => Report::ReportCapabilities,
        3 => Report::ReadFullStatus,
        _ => return Err(Sense::invalid_field_in_cdb(1, Some(4))),
    };
    let read = PersistentReserveIn {
        report,
        allocation_length: cdb.be16(7),
    };
    let task = Task::new(Machine::PersistentReserveIn(read), Transfer::None);
    Ok((task, Step::Change(Change::Fence)))
}

impl PersistentReserveIn {
    /// Leaves what there is to say in the context's `data_in`, cut to the ALLOCATION LENGTH.
    pub(in crate::scsi) fn resume(
        &mut self,
        cx: &mut Context<'_>,
        event: &Event,
    ) -> Result<Step, Sense> {
        let Event::Changed(_) = event else {
            wrong_event("PERSISTENT RESERVE IN", event);
        };
        if let Some(unit) = cx.unit() {
            unit.reservations().report(self.report, cx.i_t, cx.data_in);
        }
        cx.data_in.truncate(usize::from(self.allocation_length));
        Ok(Step::GOOD)
    }
}
