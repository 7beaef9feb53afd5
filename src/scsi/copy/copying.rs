//! The machine that moves blocks: a list of runs, each read and written piece by piece.
//!
//! One buffer of [`PIECE_BYTES`] goes to and fro. A run whose destination lies behind its source on
//! the same unit and overlaps it moves its last piece first, so that every block arrives as it was
//! when the run began. A run onto itself moves nothing. Before every piece the session's right to
//! read and to write is looked at again, so that a reservation that takes it away ends the copy.

use super::{Denied, PIECE_BYTES, ZEROES_BYTES, check_read, check_write};
use crate::backend::{IoError, Operation, UnitIndex};
use crate::mem::DmaBuf;
use crate::scsi::sense::{self, Access, Sense};
use crate::scsi::task::{Context, Event, Step, wrong_event};

/// Where a run begins on a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Spot {
    pub(super) unit: UnitIndex,
    pub(super) lba: u64,
    pub(super) block_size: u32,
}

impl Spot {
    fn blocks(&self, bytes: u64) -> u64 {
        bytes / u64::from(self.block_size)
    }
}

/// Neighbouring blocks that are moved. `bytes` is a whole number of blocks of both units, which
/// both hold them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    /// Without it the destination is filled with zeroes.
    pub(super) from: Option<Spot>,
    pub(super) to: Spot,
    pub(super) bytes: u64,
}

impl Run {
    /// SBC-4 leaves open what a copy onto itself does; ours is that of moving all at once.
    fn is_backwards(&self) -> bool {
        self.from.is_some_and(|from| {
            let distance = self.to.lba.checked_sub(from.lba);
            from.unit == self.to.unit
                && distance.is_some_and(|blocks| blocks < from.blocks(self.bytes))
        })
    }

    fn stands_still(&self) -> bool {
        self.from
            .is_some_and(|from| from.unit == self.to.unit && from.lba == self.to.lba)
    }

    fn piece_bytes(&self) -> u64 {
        match self.from {
            Some(_) => u64::from(PIECE_BYTES),
            None => u64::from(ZEROES_BYTES),
        }
    }
}

/// What the last step was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Idle,
    Reading { offset: u64, bytes: u64 },
    Writing { bytes: u64 },
}

/// What stopped a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    /// Which run.
    pub(super) run: usize,
    pub(super) cause: Cause,
    /// Bytes of the run that were not written.
    pub(super) missing: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    Denied(Denied),
    Device(IoError, Access),
    /// The unit is not there.
    Gone,
}

impl Cause {
    /// What a command that failed like this on the unit itself would be told; `None` is
    /// RESERVATION CONFLICT.
    pub(super) fn sense(self) -> Option<Sense> {
        use crate::scsi::sense::{AdditionalSense, SenseKey};
        match self {
            Self::Denied(Denied::NotReady(sense)) => Some(sense),
            Self::Denied(Denied::WriteProtected(additional)) => {
                Some(Sense::new(SenseKey::DataProtect, additional))
            }
            Self::Denied(Denied::Reserved) => None,
            Self::Device(error, access) => Some(sense::from_io_error(error, access)),
            Self::Gone => Some(Sense::new(
                SenseKey::NotReady,
                AdditionalSense::LOGICAL_UNIT_NOT_READY,
            )),
        }
    }
}

/// A copy that is under way.
#[derive(Debug)]
pub(in crate::scsi) struct Copying {
    runs: Vec<Run>,
    at: usize,
    /// Bytes of the run in hand that are written, wherever they are in it.
    done: u64,
    phase: Phase,
    /// Bytes of the runs that are finished.
    finished: u64,
    /// Kept here while zeroes are written.
    scratch: Option<DmaBuf>,
}

impl Copying {
    pub(super) fn new(runs: Vec<Run>, scratch: Option<DmaBuf>) -> Self {
        Self {
            runs,
            at: 0,
            done: 0,
            phase: Phase::Idle,
            finished: 0,
            scratch,
        }
    }

    /// Runs that are finished.
    pub(super) fn runs_done(&self) -> u16 {
        u16::try_from(self.at).unwrap_or(u16::MAX)
    }

    /// Bytes that are written, all from the beginning on without a gap.
    pub(super) fn bytes_done(&self) -> u64 {
        match self.runs.get(self.at) {
            Some(run) if !run.is_backwards() => self.finished + self.done,
            _ => self.finished,
        }
    }

    /// Whether any block may have changed.
    pub(in crate::scsi) fn has_written(&self) -> bool {
        self.finished + self.done > 0 || matches!(self.phase, Phase::Writing { .. })
    }

    /// Whether the unit is read or written by what is left.
    pub(in crate::scsi) fn touches(&self, unit: UnitIndex) -> bool {
        let left = self.runs.get(self.at..).unwrap_or_default();
        left.iter()
            .any(|run| run.to.unit == unit || run.from.is_some_and(|from| from.unit == unit))
    }

    /// Takes what the device did, or nothing to begin with. `None`: all is copied.
    pub(super) fn advance(
        &mut self,
        cx: &Context<'_>,
        event: Option<Event>,
    ) -> Result<Option<Step>, Failure> {
        match (self.phase, event) {
            (Phase::Idle, None) => {}
            (Phase::Reading { offset, bytes }, Some(Event::Completed { result, buf })) => {
                // A device may keep the buffer of a read that has failed.
                self.check(result, Access::Read)?;
                let buf = buf.expect("a good read brings its buffer back");
                return self.write(cx, offset, bytes, buf).map(Some);
            }
            (Phase::Writing { bytes }, Some(Event::Completed { result, buf })) => {
                self.check(result, Access::Write)?;
                self.scratch = buf.or_else(|| self.scratch.take());
                self.done += bytes;
            }
            (_, Some(event)) => wrong_event("a third-party copy", &event),
            (Phase::Reading { .. } | Phase::Writing { .. }, None) => {
                unreachable!("a copy that waits is told what happened")
            }
        }
        self.phase = Phase::Idle;
        self.next_piece(cx)
    }

    /// Begins the next piece, of the next run where this one is finished.
    fn next_piece(&mut self, cx: &Context<'_>) -> Result<Option<Step>, Failure> {
        while let Some(run) = self.runs.get(self.at).copied() {
            let left = run.bytes - self.done;
            if left == 0 || run.stands_still() {
                self.finished += run.bytes;
                self.done = 0;
                self.at += 1;
                continue;
            }
            let bytes = left.min(run.piece_bytes());
            let offset = if run.is_backwards() {
                left - bytes
            } else {
                self.done
            };
            let Some(from) = run.from else {
                return self.write_zeroes(cx, &run, offset, bytes).map(Some);
            };
            let unit = cx.units.get(usize::from(from.unit.0));
            let unit = unit.ok_or_else(|| self.failure(Cause::Gone))?;
            check_read(unit, from.unit, cx.map, cx.i_t)
                .map_err(|denied| self.failure(Cause::Denied(denied)))?;
            let mut buf = self
                .scratch
                .take()
                .expect("it was collected with the command, and comes back with each piece");
            buf.set_len(usize::try_from(bytes).expect("a piece is at most PIECE_BYTES"));
            self.phase = Phase::Reading { offset, bytes };
            return Ok(Some(Step::SubmitTo {
                unit: from.unit,
                operation: Operation::Read {
                    lba: from.lba + from.blocks(offset),
                    blocks: piece_blocks(&from, bytes),
                    buf,
                },
            }));
        }
        Ok(None)
    }

    fn write(
        &mut self,
        cx: &Context<'_>,
        offset: u64,
        bytes: u64,
        buf: DmaBuf,
    ) -> Result<Step, Failure> {
        let to = self.runs[self.at].to;
        self.check_destination(cx, to.unit)?;
        self.phase = Phase::Writing { bytes };
        Ok(Step::SubmitTo {
            unit: to.unit,
            operation: Operation::Write {
                lba: to.lba + to.blocks(offset),
                blocks: piece_blocks(&to, bytes),
                buf,
                fua: false,
            },
        })
    }

    fn write_zeroes(
        &mut self,
        cx: &Context<'_>,
        run: &Run,
        offset: u64,
        bytes: u64,
    ) -> Result<Step, Failure> {
        let to = run.to;
        let info = self.check_destination(cx, to.unit)?;
        self.phase = Phase::Writing { bytes };
        Ok(Step::SubmitTo {
            unit: to.unit,
            operation: Operation::WriteZeroes {
                lba: to.lba + to.blocks(offset),
                blocks: to.blocks(bytes),
                fua: false,
                may_unmap: info,
            },
        })
    }

    /// The session may write the unit; whether zeroes may be deallocated there.
    fn check_destination(&self, cx: &Context<'_>, index: UnitIndex) -> Result<bool, Failure> {
        let unit = cx.units.get(usize::from(index.0));
        let unit = unit.ok_or_else(|| self.failure(Cause::Gone))?;
        check_write(unit, index, cx.map).map_err(|denied| self.failure(Cause::Denied(denied)))?;
        Ok(unit.info().unmap && unit.info().unmap_reads_zeroes)
    }

    fn check(&self, result: Result<(), IoError>, access: Access) -> Result<(), Failure> {
        result.map_err(|error| self.failure(Cause::Device(error, access)))
    }

    fn failure(&self, cause: Cause) -> Failure {
        let run = self.runs.get(self.at);
        Failure {
            run: self.at,
            cause,
            missing: run.map_or(0, |run| run.bytes - self.done),
        }
    }
}

fn piece_blocks(spot: &Spot, bytes: u64) -> u32 {
    u32::try_from(spot.blocks(bytes)).expect("a piece is at most PIECE_BYTES")
}
