//! PERSISTENT RESERVE OUT (SPC-4 §6.16).
//!
//! The parameter list is collected and parsed ([`parameter_list`]); what it asks for is decided by
//! the unit's home core, where nothing else changes the reservations meanwhile.

use crate::mem::DmaBuf;
use crate::scsi::change::Change;
use crate::scsi::reservations::parameter_list::{self, ServiceAction};
use crate::scsi::sense::Sense;
use crate::scsi::task::{Begin, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event};

/// Where PARAMETER LIST LENGTH stands in the CDB.
const LIST_LENGTH_AT: u16 = 5;

/// A PERSISTENT RESERVE OUT that is under way.
#[derive(Debug)]
pub struct PersistentReserveOut {
    action: ServiceAction,
    /// Byte 2 of the CDB.
    scope_type: u8,
}

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let Some(action) = ServiceAction::from_code(cdb.service_action()) else {
        return Err(Sense::invalid_field_in_cdb(1, Some(4)));
    };
    let list_bytes = cdb.be32(usize::from(LIST_LENGTH_AT));
    let transfer = Transfer::Out(u64::from(list_bytes));
    if let Err(sense) = parameter_list::check_length(action, list_bytes) {
        return Task::refused(transfer, sense);
    }
    if call.command.data_out_bytes < list_bytes {
        // What the initiator sends is not the whole list.
        return Task::refused(transfer, Sense::parameter_list_length_error(LIST_LENGTH_AT));
    }
    let out = PersistentReserveOut {
        action,
        scope_type: cdb.u8(2),
    };
    let step = Step::Collect {
        data_out_bytes: list_bytes,
        scratch_bytes: 0,
    };
    Ok((
        Task::new(Machine::PersistentReserveOut(out), transfer),
        step,
    ))
}

impl PersistentReserveOut {
    pub(in crate::scsi) fn resume(&mut self, event: &Event) -> Result<Step, Sense> {
        match event {
            Event::Collected {
                data_out: Some(list),
                ..
            } => self.ask(list),
            Event::Changed(_) => Ok(Step::GOOD),
            Event::Collected { data_out: None, .. }
            | Event::Completed { .. }
            | Event::Streamed(_)
            | Event::Frozen => wrong_event("PERSISTENT RESERVE OUT", event),
        }
    }

    fn ask(&self, list: &DmaBuf) -> Result<Step, Sense> {
        let bytes = list.to_vec();
        let request = parameter_list::parse(self.action, self.scope_type, &bytes)?;
        Ok(Step::Change(Change::Reservation(Box::new(request))))
    }
}
