//! ORWRITE (16) (SBC-3).
//!
//! Each bit of the data-out buffer is ORed into the block that is there. The blocks are read,
//! combined and written in pieces of a scratch buffer, while nobody else, on any core, changes any
//! of them ([`Step::Freeze`]), so that no bit that another initiator sets is lost.
//!
//! ORPROTECT must be zero, since the unit has no protection information; DPO is a hint that we need
//! not take; FUA goes to the device. Where the initiator sends less than the CDB says, only that is
//! ORed, as WRITE does it.

use super::verify::bytes_of;
use super::{CUT_WITHIN_A_BLOCK, Extent, Piece, Pieces};
use crate::backend::Operation;
use crate::mem::DmaBuf;
use crate::scsi::sense::{self, Access, Sense};
use crate::scsi::task::{Begin, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event};

/// An ORWRITE that is under way.
#[derive(Debug)]
pub struct OrWrite {
    lba: u64,
    blocks: u32,
    block_size: u32,
    fua: bool,
    pieces: Pieces,
    /// The piece that is being read, until it was combined.
    reading: Option<Piece>,
    data_out: Option<DmaBuf>,
    scratch: Option<DmaBuf>,
}

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let command = call.command;
    let unit = call.unit;
    let block_size = unit.block_size();
    let extent = Extent::parse(&command.cdb);
    extent.check_range(unit)?;
    let bytes = extent.transfer_bytes(unit)?;
    let transfer = Transfer::Out(u64::from(bytes));
    let data_out_bytes = bytes.min(command.data_out_bytes);
    if data_out_bytes % block_size != 0 {
        return Task::refused(transfer, CUT_WITHIN_A_BLOCK);
    }
    if data_out_bytes == 0 {
        return Task::good(transfer);
    }
    let blocks = data_out_bytes / block_size;
    let pieces = Pieces::new(extent.lba, blocks, block_size);
    let scratch_bytes = pieces.piece_blocks() * block_size;
    let or_write = OrWrite {
        lba: extent.lba,
        blocks,
        block_size,
        fua: command.cdb.bit(1, 3),
        pieces,
        reading: None,
        data_out: None,
        scratch: None,
    };
    let step = Step::Collect {
        data_out_bytes,
        scratch_bytes,
    };
    let machine = Machine::OrWrite(Box::new(or_write));
    Ok((Task::new(machine, transfer), step))
}

impl OrWrite {
    pub(in crate::scsi) fn resume(&mut self, event: Event) -> Result<Step, Sense> {
        match event {
            Event::Collected {
                data_out: Some(data_out),
                scratch: Some(scratch),
            } => {
                self.data_out = Some(data_out);
                self.scratch = Some(scratch);
                Ok(Step::Freeze {
                    lba: self.lba,
                    blocks: u64::from(self.blocks),
                    reads: true,
                })
            }
            Event::Frozen => match self.scratch.take() {
                Some(scratch) => Ok(self.read_next(scratch)),
                None => wrong_event("ORWRITE", &event),
            },
            Event::Completed {
                result: Ok(()),
                buf: Some(buf),
            } => Ok(match self.reading.take() {
                Some(piece) => self.write(piece, buf),
                None => self.read_next(buf),
            }),
            Event::Completed {
                result: Err(error), ..
            } => {
                let access = if self.reading.is_some() {
                    Access::Read
                } else {
                    Access::Write
                };
                Err(sense::from_io_error(error, access))
            }
            Event::Collected { .. }
            | Event::Completed { .. }
            | Event::Streamed(_)
            | Event::Changed(_) => wrong_event("ORWRITE", &event),
        }
    }

    fn read_next(&mut self, mut buf: DmaBuf) -> Step {
        self.reading = self.pieces.advance();
        let Some(Piece { lba, blocks, .. }) = self.reading else {
            return Step::GOOD;
        };
        buf.truncate(bytes_of(blocks, self.block_size));
        Step::Submit(Operation::Read { lba, blocks, buf })
    }

    /// Combines the piece that was read with its counterpart and writes it.
    fn write(&self, piece: Piece, mut buf: DmaBuf) -> Step {
        if let Some(data_out) = &self.data_out {
            let from = bytes_of(piece.offset, self.block_size);
            let len = buf.len();
            or_into(&mut buf, data_out.range_slices(from, len));
        }
        Step::Submit(Operation::Write {
            lba: piece.lba,
            blocks: piece.blocks,
            buf,
            fua: self.fua,
        })
    }
}

/// ORs `bits`, as many bytes as `buf` has, into `buf`, whatever the pieces are that each comes in.
fn or_into<'a>(buf: &mut DmaBuf, bits: impl Iterator<Item = &'a [u8]>) {
    let mut at = 0;
    for slice in bits {
        let mut rest = slice;
        for into in buf.range_slices_mut(at, slice.len()) {
            let (piece, behind) = rest.split_at(into.len());
            for (byte, bits) in into.iter_mut().zip(piece) {
                *byte |= bits;
            }
            rest = behind;
        }
        at += slice.len();
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::IoError;
    use crate::scsi::sense::AdditionalSense;
    use crate::scsi::task::Transfer;
    use crate::scsi::testbed::{Bench, Done};

    const BLOCKS: u64 = 2000;

    fn cdb(flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
        let mut cdb = [0; 16];
        cdb[..2].copy_from_slice(&[0x8b, flags]);
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
        cdb
    }

    #[test]
    fn bits_are_ored_into_what_is_there_in_pieces_under_one_freeze() {
        let mut bench = Bench::new(BLOCKS);
        let data: Vec<u8> = (0..1200_u32 * 512)
            .map(|at| (at / 3).to_le_bytes()[0])
            .collect();
        let mut expected = bench.disk.clone();
        for (byte, bits) in expected[3 * 512..].iter_mut().zip(&data) {
            *byte |= bits;
        }
        let answer = bench.write(&cdb(0, 3, 1200), &data);
        assert_eq!(answer.transfer, Transfer::Out(1200 * 512));
        let mut done = vec![Done::Freeze {
            lba: 3,
            blocks: 1200,
        }];
        for (lba, blocks) in [(3, 512), (515, 512), (1027, 176)] {
            done.push(Done::Read { lba, blocks });
            done.push(Done::Write {
                lba,
                blocks,
                fua: false,
            });
        }
        assert_eq!(answer.done, done);
        answer.good();
        assert!(bench.disk == expected);
    }

    #[test]
    fn fua_goes_to_the_device() {
        let mut bench = Bench::new(BLOCKS);
        let answer = bench.write(&cdb(0x18, 0, 1), &[0; 512]);
        let written = Done::Write {
            lba: 0,
            blocks: 1,
            fua: true,
        };
        assert_eq!(answer.done.last(), Some(&written));
        answer.good();
    }

    #[test]
    fn fewer_blocks_than_the_cdb_says_are_ored_and_parts_of_a_block_are_not() {
        let mut bench = Bench::new(BLOCKS);
        let untouched = bench.disk[512..1024].to_vec();
        bench.write(&cdb(0, 0, 2), &[0xff; 512]).good();
        assert_eq!(bench.disk[..512], [0xff; 512]);
        assert_eq!(bench.disk[512..1024], untouched);
        bench
            .write(&cdb(0, 0, 1), &[0xff; 200])
            .illegal(AdditionalSense::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT);
        let answer = bench.write(&cdb(0, 0, 1), &[]);
        assert_eq!(answer.done, []);
        answer.good();
    }

    #[test]
    fn orprotect_is_an_invalid_field_and_ranges_end_at_the_capacity() {
        let mut bench = Bench::new(BLOCKS);
        for protect in 1..8_u8 {
            bench
                .write(&cdb(protect << 5, 0, 1), &[0; 512])
                .illegal(AdditionalSense::INVALID_FIELD_IN_CDB);
        }
        for (lba, blocks) in [(BLOCKS, 1), (BLOCKS + 1, 0), (u64::MAX, 1), (1 << 63, 0)] {
            bench
                .write(&cdb(0, lba, blocks), &[0; 512])
                .illegal(AdditionalSense::LBA_OUT_OF_RANGE);
        }
        bench.plain(&cdb(0, BLOCKS, 0)).good();
    }

    #[test]
    fn what_cannot_be_read_is_not_written() {
        let mut bench = Bench::new(BLOCKS);
        bench.fault = Some(IoError::Medium);
        let answer = bench.write(&cdb(0, 0, 1), &[1; 512]);
        assert_eq!(
            answer.sense().additional,
            AdditionalSense::UNRECOVERED_READ_ERROR
        );
        assert!(!answer.done.iter().any(|d| matches!(d, Done::Write { .. })));
    }
}
