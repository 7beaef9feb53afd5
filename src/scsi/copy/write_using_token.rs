//! WRITE USING TOKEN (SBC-4 §5.49): writes the blocks that a ROD token stands for, or zeroes.
//!
//! ```text
//! 0..2 WRITE USING TOKEN DATA LENGTH   2 DEL_TKN, IMMED   8..16 OFFSET INTO ROD
//! 16..528 ROD TOKEN   534..536 BLOCK DEVICE RANGE DESCRIPTOR LENGTH   536.. descriptors
//! ```
//!
//! OFFSET INTO ROD counts blocks, which have to be as long on the unit that made the token as here.
//! The ranges may not reach beyond the token's end; then nothing is written. With IMMED = 1 the
//! answer comes when all is written, as with 0; MAXIMUM TOKEN TRANSFER SIZE keeps that short.
//!
//! The token is checked here, then by the home core of its unit, which puts its expiry off; from
//! then on the copy goes on whatever becomes of the token. With DEL_TKN it is deleted when all is
//! written.

use std::sync::Arc;

use super::copying::{Copying, Failure, Run, Spot};
use super::operations::{Beginning, ListId, OperationKey};
use super::populate_token::collect;
use super::ranges::{self, Range};
use super::token::{self, Presented, TOKEN_BYTES, Token, TokenChange, TokenId};
use super::{Denied, PIECE_BYTES, array, be64, check_read, check_write};
use crate::backend::UnitIndex;
use crate::mem::DmaBuf;
use crate::scsi::change::Change;
use crate::scsi::sense::{AdditionalSense, Sense};
use crate::scsi::task::{Begin, Context, Event, Machine, Outcome, Step, UnitCall, wrong_event};

const HEADER_BYTES: u32 = 536;
const OFFSET_AT: usize = 8;
const TOKEN_AT: usize = 16;
const DESCRIPTOR_LENGTH_AT: usize = 534;

/// INVALID TOKEN OPERATION, CAUSE NOT REPORTABLE.
const INVALID_TOKEN_OPERATION: AdditionalSense = AdditionalSense::new(0x23, 0x00);

/// A WRITE USING TOKEN that is under way.
#[derive(Debug)]
pub struct WriteUsingToken {
    unit: UnitIndex,
    list_id: u32,
    service_action: u8,
    operation: Option<OperationKey>,
    copying: Option<Copying>,
    /// The unit that made the token, and the token.
    token: Option<(UnitIndex, TokenId)>,
    delete: bool,
    deleting: bool,
}

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let write = WriteUsingToken {
        unit: call.index,
        list_id: cdb.be32(6),
        service_action: cdb.service_action(),
        operation: None,
        copying: None,
        token: None,
        delete: false,
        deleting: false,
    };
    collect(call, HEADER_BYTES, PIECE_BYTES, |_| {
        Machine::WriteUsingToken(Box::new(write))
    })
}

impl WriteUsingToken {
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
            Event::Changed(Ok(())) if self.deleting => Ok(Step::GOOD),
            Event::Changed(Ok(())) => self.advance(cx, None),
            Event::Completed { .. } => self.advance(cx, Some(event)),
            Event::Collected { .. }
            | Event::Streamed(_)
            | Event::Frozen
            | Event::Changed(Err(_)) => wrong_event("WRITE USING TOKEN", &event),
        }
    }

    pub(in crate::scsi) fn operation(&self) -> Option<OperationKey> {
        self.operation
    }

    pub(in crate::scsi) fn copying(&self) -> Option<&Copying> {
        self.copying.as_ref()
    }

    fn begin(&mut self, cx: &mut Context<'_>, list: &[u8], scratch: DmaBuf) -> Result<Step, Sense> {
        let unit = cx.unit().expect("a unit's command has its unit");
        let ranges = ranges::parse(list, DESCRIPTOR_LENGTH_AT, unit)?;
        let to = Spot {
            unit: self.unit,
            lba: 0,
            block_size: unit.block_size(),
        };
        let presented: [u8; TOKEN_BYTES] = array(list, TOKEN_AT);
        let runs = match token::find(&presented, cx.units, cx.unix_ms)? {
            Presented::Zeroes => ranges.iter().map(|range| zeroes(range, to)).collect(),
            Presented::Token { unit: from, token } => {
                self.delete = list.get(2).is_some_and(|flags| flags & 0b10 != 0);
                self.token = Some((from, token.id()));
                let source = cx.units.get(usize::from(from.0));
                let source = source.expect("the token was found there");
                if let Err(denied) = check_read(source, from, cx.map, cx.i_t) {
                    return refused(denied);
                }
                runs(&token, from, be64(list, OFFSET_AT), &ranges, to)?
            }
        };
        if let Err(denied) = check_write(unit, self.unit, cx.map) {
            return refused(denied);
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
        self.copying = Some(Copying::new(runs, Some(scratch)));
        match self.token {
            Some((unit, id)) => Ok(Step::ChangeOf {
                unit,
                change: Change::Token(TokenChange::Use {
                    id,
                    unix_ms: cx.unix_ms,
                }),
            }),
            None => self.advance(cx, None),
        }
    }

    fn advance(&mut self, cx: &mut Context<'_>, event: Option<Event>) -> Result<Step, Sense> {
        let copying = self
            .copying
            .as_mut()
            .expect("it began before anything was asked for");
        let step = copying.advance(cx, event);
        if let Some(key) = self.operation {
            cx.copies
                .progress(key, copying.runs_done(), copying.bytes_done());
        }
        match step {
            Ok(Some(step)) => Ok(step),
            Ok(None) => Ok(self.written()),
            Err(Failure { cause, .. }) => match cause.sense() {
                Some(sense) => Err(sense),
                None => Ok(Step::Finish(Outcome::reservation_conflict())),
            },
        }
    }

    fn written(&mut self) -> Step {
        match self.token {
            Some((unit, id)) if self.delete => {
                self.deleting = true;
                Step::ChangeOf {
                    unit,
                    change: Change::Token(TokenChange::Delete { id }),
                }
            }
            _ => Step::GOOD,
        }
    }
}

/// How the command ends when a unit may not be read or written.
fn refused(denied: Denied) -> Result<Step, Sense> {
    match super::copying::Cause::Denied(denied).sense() {
        Some(sense) => Err(sense),
        None => Ok(Step::Finish(Outcome::reservation_conflict())),
    }
}

fn zeroes(range: &Range, to: Spot) -> Run {
    Run {
        from: None,
        to: Spot {
            lba: range.lba,
            ..to
        },
        bytes: u64::from(range.blocks) * u64::from(to.block_size),
    }
}

/// Cuts the destination's ranges and the token's into runs that lie in one range of each.
fn runs(
    token: &Arc<Token>,
    unit: UnitIndex,
    offset: u64,
    ranges: &[Range],
    to: Spot,
) -> Result<Vec<Run>, Sense> {
    let rod = &token.rod;
    if rod.block_size != to.block_size {
        return Err(Sense::illegal_request(INVALID_TOKEN_OPERATION));
    }
    let end = offset.checked_add(ranges::blocks(ranges));
    if end.is_none_or(|end| end > rod.blocks()) {
        let at = super::field(OFFSET_AT);
        return Err(Sense::invalid_field_in_parameter_list(at, None));
    }
    let mut sources = rod.ranges.iter().copied();
    let mut source = sources.next();
    let mut skip = offset;
    let mut runs = Vec::new();
    for range in ranges {
        let mut done = 0;
        while done < range.blocks {
            let Some(found) = source else {
                unreachable!("the blocks were counted");
            };
            let left = u64::from(found.blocks) - skip.min(u64::from(found.blocks));
            if left == 0 {
                skip -= u64::from(found.blocks);
                source = sources.next();
                continue;
            }
            let wanted = range.blocks - done;
            let blocks = u32::try_from(left).map_or(wanted, |left| left.min(wanted));
            runs.push(Run {
                from: Some(Spot {
                    unit,
                    lba: found.lba + skip,
                    block_size: rod.block_size,
                }),
                to: Spot {
                    lba: range.lba + u64::from(done),
                    ..to
                },
                bytes: u64::from(blocks) * u64::from(to.block_size),
            });
            skip += u64::from(blocks);
            done += blocks;
        }
    }
    Ok(runs)
}
