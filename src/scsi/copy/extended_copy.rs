//! EXTENDED COPY with list identifiers of one byte (LID1; SPC-4 §6.4), as VMware's VAAI, sg_xcopy
//! and ddpt send it.
//!
//! Sources and destinations are identification descriptors (E4h) whose designator names a logical
//! unit that this session sees, as VPD page 83h of that unit has it, or the ID FFFFh for the unit
//! that the command addresses. Segments are of the type 02h, block device to block device; their
//! length has to be a whole number of blocks of both units. What cannot be reached or does not fit
//! is COPY ABORTED and found before anything moves.
//!
//! ```text
//! Collect ─► parse ─► plan (all checks) ─► copying: SubmitTo, SubmitTo, … ─► Finish
//! ```

use std::sync::Arc;

use super::copying::{Copying, Failure, Run, Spot};
use super::operations::{Beginning, ListId, OperationKey};
use super::parse::{self, Cscd, ListIdUsage, ParameterList, Segment, field};
use super::{
    COPY_TARGET_NOT_REACHABLE, DESCRIPTOR_LIST_BYTES_MAX, INCORRECT_COPY_TARGET_TYPE, PIECE_BYTES,
    THIRD_PARTY_DEVICE_FAILURE, THIS_UNIT, UNEXPECTED_INEXACT_SEGMENT, UNREACHABLE_COPY_TARGET,
    check_read, check_write, copy_aborted,
};
use crate::backend::UnitIndex;
use crate::mem::DmaBuf;
use crate::scsi::nexus::{MappedLun, Nexus};
use crate::scsi::parameter::ParameterData;
use crate::scsi::sense::{AdditionalSense, Sense};
use crate::scsi::spc::vpd;
use crate::scsi::task::{
    Begin, Context, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event,
};
use crate::scsi::unit::LogicalUnit;

/// An EXTENDED COPY that is under way.
#[derive(Debug)]
pub struct ExtendedCopy {
    unit: UnitIndex,
    service_action: u8,
    operation: Option<OperationKey>,
    copying: Option<Copying>,
}

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let list_bytes = cdb.be32(10);
    if list_bytes == 0 {
        // SPC-4 §6.4.1: no parameter list is no error and copies nothing.
        return Task::good(Transfer::None);
    }
    let transfer = Transfer::Out(u64::from(list_bytes));
    let header = u32::try_from(parse::HEADER_BYTES).expect("16");
    let range = header..=header + DESCRIPTOR_LIST_BYTES_MAX;
    if call.command.data_out_bytes < list_bytes || !range.contains(&list_bytes) {
        let sense = Sense::parameter_list_length_error(parse::LIST_LENGTH_AT);
        return Task::refused(transfer, sense);
    }
    let copy = ExtendedCopy {
        unit: call.index,
        service_action: cdb.service_action(),
        operation: None,
        copying: None,
    };
    let step = Step::Collect {
        data_out_bytes: list_bytes,
        scratch_bytes: PIECE_BYTES,
    };
    Ok((
        Task::new(Machine::ExtendedCopy(Box::new(copy)), transfer),
        step,
    ))
}

impl ExtendedCopy {
    pub(in crate::scsi) fn resume(
        &mut self,
        cx: &mut Context<'_>,
        event: Event,
    ) -> Result<Step, Sense> {
        match event {
            Event::Collected {
                data_out: Some(list),
                scratch: Some(scratch),
            } => {
                let bytes = list.to_vec();
                drop(list);
                self.begin(cx, &bytes, scratch)
            }
            Event::Completed { .. } => self.advance(cx, Some(event)),
            Event::Collected { .. } | Event::Streamed(_) | Event::Frozen | Event::Changed(_) => {
                wrong_event("EXTENDED COPY", &event)
            }
        }
    }

    /// The copy, if it is known by a list identifier.
    pub(in crate::scsi) fn operation(&self) -> Option<OperationKey> {
        self.operation
    }

    pub(in crate::scsi) fn copying(&self) -> Option<&Copying> {
        self.copying.as_ref()
    }

    fn begin(&mut self, cx: &mut Context<'_>, list: &[u8], scratch: DmaBuf) -> Result<Step, Sense> {
        let list = parse::parse(list)?;
        if list.usage != ListIdUsage::None {
            let begun = cx.copies.begin(Beginning {
                unit: self.unit,
                id: ListId::Short(list.list_id),
                service_action: self.service_action,
                keep: list.usage == ListIdUsage::Keep,
            });
            match begun {
                Ok(key) => self.operation = Some(key),
                Err(outcome) => return Ok(Step::Finish(outcome)),
            }
        }
        let mut plan = Plan {
            units: cx.units,
            map: cx.map,
            i_t: cx.i_t,
            this: self.unit,
            scratch: cx.data_in,
        };
        let runs = plan.runs(&list);
        cx.data_in.clear();
        self.copying = Some(Copying::new(runs?, Some(scratch)));
        self.advance(cx, None)
    }

    fn advance(&mut self, cx: &mut Context<'_>, event: Option<Event>) -> Result<Step, Sense> {
        let copying = self
            .copying
            .as_mut()
            .expect("the device is asked by the copy that is under way");
        let step = copying.advance(cx, event);
        if let Some(key) = self.operation {
            cx.copies
                .progress(key, copying.runs_done(), copying.bytes_done());
        }
        match step {
            Ok(Some(step)) => Ok(step),
            Ok(None) => Ok(Step::GOOD),
            Err(failure) => Err(failed(&failure)),
        }
    }
}

/// SPC-4 §6.4.2: a unit has failed a segment. INFORMATION says how many bytes of it were not
/// copied.
fn failed(failure: &Failure) -> Sense {
    copy_aborted(failure.run, None, THIRD_PARTY_DEVICE_FAILURE).with_information(failure.missing)
}

/// What the segments of a list mean here.
struct Plan<'a> {
    units: &'a [LogicalUnit],
    map: &'a [MappedLun],
    i_t: &'a Arc<Nexus>,
    /// The addressed unit.
    this: UnitIndex,
    /// Where the designators of a unit are written to be compared.
    scratch: &'a mut ParameterData,
}

impl<'a> Plan<'a> {
    fn runs(&mut self, list: &ParameterList) -> Result<Vec<Run>, Sense> {
        let units = self.resolve(&list.cscds);
        let segments = list.segments.iter().enumerate();
        segments
            .map(|(nth, segment)| self.run(list, &units, nth, segment))
            .collect()
    }

    fn run(
        &self,
        list: &ParameterList,
        units: &[Option<UnitIndex>],
        nth: usize,
        segment: &Segment,
    ) -> Result<Run, Sense> {
        let (source, from) = self.find(list, units, nth, segment.source, field::SOURCE)?;
        let (destination, to) =
            self.find(list, units, nth, segment.destination, field::DESTINATION)?;
        let from_block = u64::from(from.block_size());
        let to_block = u64::from(to.block_size());
        let counted = if segment.destination_count {
            to_block
        } else {
            from_block
        };
        let bytes = u64::from(segment.blocks) * counted;
        if bytes % from_block != 0 || bytes % to_block != 0 {
            return Err(copy_aborted(nth, None, UNEXPECTED_INEXACT_SEGMENT));
        }
        let beyond = |unit: &LogicalUnit, lba: u64| {
            let end = lba.checked_add(bytes / u64::from(unit.block_size()));
            end.is_none_or(|end| end > unit.info().blocks)
        };
        let may = check_read(from, source, self.map, self.i_t)
            .and_then(|()| check_write(to, destination, self.map));
        if may.is_err() {
            return Err(copy_aborted(nth, None, THIRD_PARTY_DEVICE_FAILURE));
        }
        // What lies beyond the end of a unit cannot be copied; nothing further is to be said of it.
        if beyond(from, segment.source_lba) {
            let at = Some(field::SOURCE_LBA);
            return Err(copy_aborted(nth, at, AdditionalSense::NONE));
        }
        if beyond(to, segment.destination_lba) {
            let at = Some(field::DESTINATION_LBA);
            return Err(copy_aborted(nth, at, AdditionalSense::NONE));
        }
        Ok(Run {
            from: Some(spot(source, segment.source_lba, from)),
            to: spot(destination, segment.destination_lba, to),
            bytes,
        })
    }

    /// The unit that a segment's CSCD descriptor ID at its byte `at` stands for.
    fn find(
        &self,
        list: &ParameterList,
        units: &[Option<UnitIndex>],
        nth: usize,
        id: u16,
        at: u16,
    ) -> Result<(UnitIndex, &'a LogicalUnit), Sense> {
        let index = if id == THIS_UNIT {
            Some(self.this)
        } else {
            let Some(cscd) = list.cscds.get(usize::from(id)) else {
                return Err(copy_aborted(nth, Some(at), UNREACHABLE_COPY_TARGET));
            };
            if cscd.peripheral_device_type != 0 {
                return Err(copy_aborted(nth, Some(at), INCORRECT_COPY_TARGET_TYPE));
            }
            units.get(usize::from(id)).copied().flatten()
        };
        let unit = index.and_then(|index| self.units.get(usize::from(index.0)));
        let (Some(index), Some(unit)) = (index, unit) else {
            return Err(copy_aborted(nth, Some(at), COPY_TARGET_NOT_REACHABLE));
        };
        if let Some(cscd) = list.cscds.get(usize::from(id))
            && cscd.block_bytes != unit.block_size()
        {
            // SPC-4 §6.4.5.9: DISK BLOCK LENGTH is that of the unit.
            let at = super::field(cscd.at + 29);
            return Err(Sense::invalid_field_in_parameter_list(at, None));
        }
        Ok((index, unit))
    }

    /// The units of the session's map that the descriptors name.
    fn resolve(&mut self, cscds: &[Cscd]) -> Vec<Option<UnitIndex>> {
        let mut found = vec![None; cscds.len()];
        for mapped in self.map {
            let Some(unit) = self.units.get(usize::from(mapped.unit.0)) else {
                continue;
            };
            self.scratch.clear();
            vpd::device_identification(self.scratch, unit, self.i_t);
            for (cscd, found) in cscds.iter().zip(&mut found) {
                if found.is_none() && names(self.scratch.as_bytes(), cscd) {
                    *found = Some(mapped.unit);
                }
            }
        }
        found
    }
}

fn spot(unit: UnitIndex, lba: u64, replica: &LogicalUnit) -> Spot {
    Spot {
        unit,
        lba,
        block_size: replica.block_size(),
    }
}

/// Whether one of these designation descriptors (SPC-4, VPD page 83h) is the descriptor's and names
/// the unit itself, not a port or the target.
fn names(mut designators: &[u8], cscd: &Cscd) -> bool {
    while let [code_set, kind, _, length, rest @ ..] = designators {
        let Some((designator, rest)) = rest.split_at_checked(usize::from(*length)) else {
            return false;
        };
        let association = kind >> 4 & 0b11;
        if association == 0
            && code_set & 0x0f == cscd.code_set
            && kind & 0x3f == cscd.kind
            && designator == cscd.designator()
        {
            return true;
        }
        designators = rest;
    }
    false
}
