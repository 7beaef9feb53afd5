//! RESERVE and RELEASE, 6 and 10 bytes (SPC-2), which SPC-4 §5.9.3 has kept.
//!
//! The whole unit, for the nexus that asks: extents and third parties are refused, their bits are
//! reserved since SPC-3.

use crate::scsi::change::Change;
use crate::scsi::reservations::Request;
use crate::scsi::sense::Sense;
use crate::scsi::task::{Begin, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event};

#[expect(clippy::unnecessary_wraps, reason = "the type of every row's handler")]
pub(in crate::scsi) fn start_reserve(_call: &mut UnitCall<'_>) -> Begin {
    Ok(begin(Request::Reserve))
}

#[expect(clippy::unnecessary_wraps, reason = "the type of every row's handler")]
pub(in crate::scsi) fn start_release(_call: &mut UnitCall<'_>) -> Begin {
    Ok(begin(Request::Release))
}

fn begin(request: Request) -> (Task, Step) {
    let task = Task::new(Machine::Reserve, Transfer::None);
    (task, Step::Change(Change::Reservation(Box::new(request))))
}

/// The home core has answered.
pub(in crate::scsi) fn resume(event: &Event) -> Result<Step, Sense> {
    match event {
        Event::Changed(_) => Ok(Step::GOOD),
        _ => wrong_event("RESERVE or RELEASE", event),
    }
}
