//! POPULATE TOKEN (SBC-4 §5.18): makes a ROD token for blocks of the addressed unit.
//!
//! ```text
//! 0..2 POPULATE TOKEN DATA LENGTH   2 RTV, IMMED   4..8 INACTIVITY TIMEOUT   8..12 ROD TYPE
//! 14..16 BLOCK DEVICE RANGE DESCRIPTOR LENGTH   16.. descriptors
//! ```
//!
//! Nothing is read: the token refers to the blocks. RECEIVE ROD TOKEN INFORMATION fetches it. With
//! IMMED = 1 the answer comes when the token is made, as with 0: there is nothing to wait for.

use std::sync::Arc;

use super::operations::{Beginning, ListId, OperationKey};
use super::token::{ACCESS_UPON_REFERENCE, Rod, TokenChange};
use super::{Denied, TOKEN_TIMEOUT_DEFAULT_S, TOKEN_TIMEOUT_MAX_S, be32, check_read, ranges};
use crate::backend::UnitIndex;
use crate::scsi::change::Change;
use crate::scsi::parameter::PARAMETER_DATA_BYTES;
use crate::scsi::sense::Sense;
use crate::scsi::task::{
    Begin, Context, Event, Machine, Outcome, Step, Task, Transfer, UnitCall, wrong_event,
};

const HEADER_BYTES: u32 = 16;
const TIMEOUT_AT: usize = 4;
const ROD_TYPE_AT: usize = 8;
const DESCRIPTOR_LENGTH_AT: usize = 14;

/// Longest parameter list that is taken, in bytes: more than the descriptors need.
pub(super) const LIST_BYTES_MAX: u32 = 4096;

/// A POPULATE TOKEN that is under way.
#[derive(Debug)]
pub struct PopulateToken {
    unit: UnitIndex,
    list_id: u32,
    service_action: u8,
    operation: Option<OperationKey>,
}

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let token = PopulateToken {
        unit: call.index,
        list_id: cdb.be32(6),
        service_action: cdb.service_action(),
        operation: None,
    };
    collect(call, HEADER_BYTES, 0, |_| {
        Machine::PopulateToken(Box::new(token))
    })
}

/// Begins a token command: collects its parameter list, which has at least `header` bytes.
pub(super) fn collect(
    call: &UnitCall<'_>,
    header: u32,
    scratch_bytes: u32,
    machine: impl FnOnce(&UnitCall<'_>) -> Machine,
) -> Begin {
    let list_bytes = call.command.cdb.be32(10);
    if list_bytes == 0 {
        // SBC-4: no parameter list is no error and does nothing.
        return Task::good(Transfer::None);
    }
    let transfer = Transfer::Out(u64::from(list_bytes));
    let range = header..=LIST_BYTES_MAX;
    if call.command.data_out_bytes < list_bytes || !range.contains(&list_bytes) {
        let sense = Sense::parameter_list_length_error(super::parse::LIST_LENGTH_AT);
        return Task::refused(transfer, sense);
    }
    let step = Step::Collect {
        data_out_bytes: list_bytes,
        scratch_bytes,
    };
    Ok((Task::new(machine(call), transfer), step))
}

const _: () = assert!(LIST_BYTES_MAX as usize <= PARAMETER_DATA_BYTES);

impl PopulateToken {
    pub(in crate::scsi) fn resume(
        &mut self,
        cx: &mut Context<'_>,
        event: &Event,
    ) -> Result<Step, Sense> {
        match event {
            Event::Collected {
                data_out: Some(list),
                ..
            } => {
                let bytes = list.to_vec();
                self.create(cx, &bytes)
            }
            Event::Changed(Ok(())) => Ok(self.created(cx)),
            Event::Collected { .. }
            | Event::Completed { .. }
            | Event::Streamed(_)
            | Event::Frozen
            | Event::Changed(Err(_)) => wrong_event("POPULATE TOKEN", event),
        }
    }

    pub(in crate::scsi) fn operation(&self) -> Option<OperationKey> {
        self.operation
    }

    fn create(&mut self, cx: &mut Context<'_>, list: &[u8]) -> Result<Step, Sense> {
        let unit = cx.unit().expect("a unit's command has its unit");
        // SBC-4: RTV says whether ROD TYPE counts; without it the type is ours to choose.
        let rtv = list.get(2).is_some_and(|flags| flags & 0b10 != 0);
        if rtv && be32(list, ROD_TYPE_AT) != ACCESS_UPON_REFERENCE {
            let at = super::field(ROD_TYPE_AT);
            return Err(Sense::invalid_field_in_parameter_list(at, None));
        }
        let timeout_s = match be32(list, TIMEOUT_AT) {
            0 => TOKEN_TIMEOUT_DEFAULT_S,
            seconds if seconds <= TOKEN_TIMEOUT_MAX_S => seconds,
            _ => {
                let at = super::field(TIMEOUT_AT);
                return Err(Sense::invalid_field_in_parameter_list(at, None));
            }
        };
        let ranges = ranges::parse(list, DESCRIPTOR_LENGTH_AT, unit)?;
        match check_read(unit, self.unit, cx.map, cx.i_t) {
            Ok(()) => {}
            Err(Denied::NotReady(sense)) => return Err(sense),
            Err(Denied::WriteProtected(_) | Denied::Reserved) => {
                return Ok(Step::Finish(Outcome::reservation_conflict()));
            }
        }
        let begun = cx.copies.begin(Beginning {
            unit: self.unit,
            id: ListId::Long(self.list_id),
            service_action: self.service_action,
            keep: true,
        });
        match begun {
            Ok(key) => self.operation = Some(key),
            Err(outcome) => return Ok(Step::Finish(outcome)),
        }
        let rod = Rod {
            ranges,
            block_size: unit.block_size(),
            timeout_s,
            list_id: self.list_id,
        };
        Ok(Step::Change(Change::Token(TokenChange::Create {
            rod,
            unix_ms: cx.unix_ms,
        })))
    }

    /// Every replica has the token: this one's is looked up by who made it and how.
    fn created(&self, cx: &mut Context<'_>) -> Step {
        let unit = cx.unit().expect("a unit's command has its unit");
        let Some(token) = unit.tokens.made_by(cx.i_t, self.list_id) else {
            // So many others were made meanwhile that it is gone already.
            return Step::Finish(Outcome::busy());
        };
        if let Some(key) = self.operation {
            let bytes = token.rod.blocks() * u64::from(token.rod.block_size);
            cx.copies.progress(key, 0, bytes);
            cx.copies.made(key, Arc::clone(token));
        }
        Step::GOOD
    }
}
