//! Commands whose parameter list becomes one change of the unit: SET TIMESTAMP, SET IDENTIFYING
//! INFORMATION, WRITE BUFFER (SPC-4). They differ in what they make of the list.

use crate::scsi::change::Change;
use crate::scsi::sense::Sense;
use crate::scsi::task::{
    Begin, Context, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event,
};

/// The change that a whole parameter list asks for, at this time in milliseconds since 1970.
type Make = fn(list: &[u8], unix_ms: u64) -> Change;

/// Such a command that is under way.
#[derive(Debug)]
pub struct Setting {
    make: Make,
}

/// Begins one whose list has `list_bytes` bytes, as the field at `length_at` of its CDB says; zero
/// makes the change from an empty list.
pub(super) fn start(call: &UnitCall<'_>, list_bytes: u32, length_at: u16, make: Make) -> Begin {
    let machine = Machine::Setting(Setting { make });
    if list_bytes == 0 {
        let step = Step::Change(make(&[], call.unix_ms));
        return Ok((Task::new(machine, Transfer::None), step));
    }
    let transfer = Transfer::Out(u64::from(list_bytes));
    if list_bytes > call.command.data_out_bytes {
        return Task::refused(transfer, Sense::parameter_list_length_error(length_at));
    }
    let step = Step::Collect {
        data_out_bytes: list_bytes,
        scratch_bytes: 0,
    };
    Ok((Task::new(machine, transfer), step))
}

impl Setting {
    pub(in crate::scsi) fn resume(
        &mut self,
        cx: &Context<'_>,
        event: &Event,
    ) -> Result<Step, Sense> {
        match event {
            Event::Collected {
                data_out: Some(buf),
                ..
            } => Ok(Step::Change((self.make)(&buf.to_vec(), cx.unix_ms))),
            Event::Changed(_) => Ok(Step::GOOD),
            Event::Collected { data_out: None, .. }
            | Event::Completed { .. }
            | Event::Streamed(_)
            | Event::Frozen => wrong_event("a SET command", event),
        }
    }
}
