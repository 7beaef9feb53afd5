//! WRITE SAME (10), (16) and (32) (SBC-3).
//!
//! One block of data-out, or zeroes with NDOB, goes to every block of the range. Zeroes become one
//! operation of the device, which may deallocate with UNMAP = 1; any other pattern is written in
//! pieces of a scratch buffer. With UNMAP = 1 the blocks are deallocated and read as zeroes
//! whatever the pattern is, as initiators have come to expect of every target in the field; SBC-3
//! would have a pattern of ones written (docs/CONFORMANCE.md, deviations).
//!
//! WRPROTECT and ANCHOR must be zero (ANC_SUP = 0 in VPD B2h), UNMAP needs LBPWS. A length of zero
//! means to the end of the medium (WSNZ = 0 in VPD B0h), and neither may exceed MAXIMUM WRITE SAME
//! LENGTH.

use super::{CUT_WITHIN_A_BLOCK, Extent, FLAGS_AT, FLAGS_AT_32, Piece, Pieces};
use crate::backend::Operation;
use crate::mem::DmaBuf;
use crate::scsi::sense::{self, Access, Sense};
use crate::scsi::task::{Begin, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event};

/// Most bytes that one WRITE SAME may cover; VPD B0h reports it in blocks.
pub const MAX_WRITE_SAME_BYTES: u32 = 16 * 1024 * 1024;

/// Bits of the byte of flags.
const UNMAP: u8 = 1 << 3;
const NDOB: u8 = 1 << 0;

/// Largest logical block.
const BLOCK_BYTES_MAX: usize = 4096;

/// A WRITE SAME that is under way.
#[derive(Debug)]
pub struct WriteSame {
    lba: u64,
    blocks: u32,
    block_size: u32,
    may_unmap: bool,
    pieces: Pieces,
}

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    begin(call, Extent::parse(cdb), (cdb.u8(FLAGS_AT), 1))
}

pub(in crate::scsi) fn start_32(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    begin(call, Extent::parse_32(cdb), (cdb.u8(FLAGS_AT_32), 10))
}

/// `flags` is the byte of flags, and where it stands in the CDB.
fn begin(call: &UnitCall<'_>, extent: Extent, (flags, flags_at): (u8, u16)) -> Begin {
    let command = call.command;
    let unit = call.unit;
    let block_size = unit.block_size();
    let may_unmap = flags & UNMAP != 0;
    if may_unmap && !unit.info().unmap {
        return Err(Sense::invalid_field_in_cdb(flags_at, Some(3)));
    }
    extent.check_range(unit)?;
    let blocks = match extent.blocks {
        0 => unit.info().blocks - extent.lba,
        blocks => u64::from(blocks),
    };
    let blocks = u32::try_from(blocks)
        .ok()
        .filter(|blocks| *blocks <= MAX_WRITE_SAME_BYTES / block_size)
        .ok_or_else(|| extent.length_error())?;

    // The 10-byte form has no NDOB bit; the table keeps it zero there.
    let no_data_out = flags & NDOB != 0;
    let transfer = if no_data_out {
        Transfer::None
    } else {
        Transfer::Out(u64::from(block_size))
    };
    // One block is what there must be: with less there is no pattern, and with more the initiator
    // means another command.
    if !no_data_out && command.data_out_bytes != block_size {
        return Task::refused(transfer, CUT_WITHIN_A_BLOCK);
    }
    if blocks == 0 {
        return Task::good(transfer);
    }
    let pieces = Pieces::new(extent.lba, blocks, block_size);
    let scratch_bytes = pieces.piece_blocks() * block_size;
    let write_same = WriteSame {
        lba: extent.lba,
        blocks,
        block_size,
        may_unmap,
        pieces,
    };
    let step = if no_data_out {
        write_same.write_zeroes()
    } else {
        Step::Collect {
            data_out_bytes: block_size,
            scratch_bytes,
        }
    };
    Ok((Task::new(Machine::WriteSame(write_same), transfer), step))
}

impl WriteSame {
    pub(in crate::scsi) fn resume(&mut self, event: Event) -> Result<Step, Sense> {
        match event {
            Event::Collected {
                data_out: Some(pattern),
                scratch: Some(mut scratch),
            } => {
                let zeroes = pattern
                    .slices()
                    .all(|slice| slice.iter().all(|byte| *byte == 0));
                if zeroes || self.may_unmap {
                    return Ok(self.write_zeroes());
                }
                repeat(&pattern, &mut scratch);
                Ok(self.write_next(scratch))
            }
            Event::Completed {
                result: Ok(()),
                buf: Some(scratch),
            } => Ok(self.write_next(scratch)),
            Event::Completed {
                result: Ok(()),
                buf: None,
            } => Ok(Step::GOOD),
            Event::Completed {
                result: Err(error), ..
            } => Err(sense::from_io_error(error, Access::Write)),
            Event::Collected { .. } | Event::Streamed(_) | Event::Frozen | Event::Changed(_) => {
                wrong_event("WRITE SAME", &event)
            }
        }
    }

    fn write_zeroes(&self) -> Step {
        Step::Submit(Operation::WriteZeroes {
            lba: self.lba,
            blocks: u64::from(self.blocks),
            fua: false,
            may_unmap: self.may_unmap,
        })
    }

    fn write_next(&mut self, mut buf: DmaBuf) -> Step {
        let Some(Piece { lba, blocks, .. }) = self.pieces.advance() else {
            return Step::GOOD;
        };
        let bytes = u64::from(blocks) * u64::from(self.block_size);
        buf.truncate(usize::try_from(bytes).expect("a piece is at most PIECE_BYTES_MAX"));
        Step::Submit(Operation::Write {
            lba,
            blocks,
            buf,
            fua: false,
        })
    }
}

/// Fills `scratch`, a whole number of blocks, with the block `pattern`.
fn repeat(pattern: &DmaBuf, scratch: &mut DmaBuf) {
    let mut block = [0; BLOCK_BYTES_MAX];
    let block = &mut block[..pattern.len()];
    pattern.copy_to(0, block);
    for at in (0..scratch.len()).step_by(block.len()) {
        scratch.copy_from(at, block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::IoError;
    use crate::scsi::sense::AdditionalSense;
    use crate::scsi::testbed::{self, Bench, Done};
    use crate::scsi::unit::LogicalUnit;

    const BLOCKS: u64 = 2000;
    fn write_same_10(flags: u8, lba: u16, blocks: u16) -> [u8; 10] {
        let ([a, b], [c, d]) = (lba.to_be_bytes(), blocks.to_be_bytes());
        [0x41, flags, 0, 0, a, b, 0, c, d, 0]
    }

    fn write_same_16(flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
        let mut cdb = [0; 16];
        cdb[..2].copy_from_slice(&[0x93, flags]);
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
        cdb
    }

    #[test]
    fn pattern_goes_to_every_block_in_pieces() {
        let mut bench = Bench::new(BLOCKS);
        let pattern: Vec<u8> = (0..512_u32).map(|at| at.to_le_bytes()[0] ^ 0x35).collect();
        let mut expected = bench.disk.clone();
        for block in expected[3 * 512..1203 * 512].chunks_mut(512) {
            block.copy_from_slice(&pattern);
        }
        let answer = bench.write(&write_same_10(0, 3, 1200), &pattern);
        assert_eq!(answer.transfer, Transfer::Out(512));
        let pieces = [(3, 512), (515, 512), (1027, 176)];
        let writes = pieces.map(|(lba, blocks)| Done::Write {
            lba,
            blocks,
            fua: false,
        });
        assert_eq!(answer.done, writes);
        answer.good();
        assert!(bench.disk == expected);
    }

    #[test]
    fn zeroes_are_one_operation_that_may_unmap_only_when_asked() {
        let mut bench = Bench::new(BLOCKS);
        for (flags, may_unmap) in [(0, false), (UNMAP, true)] {
            for cdb in [
                &write_same_10(flags, 8, 1000)[..],
                &write_same_16(flags, 8, 1000)[..],
            ] {
                let answer = bench.write(cdb, &[0; 512]);
                assert_eq!(
                    answer.done,
                    [Done::WriteZeroes {
                        lba: 8,
                        blocks: 1000,
                        may_unmap
                    }]
                );
                answer.good();
            }
        }
        assert!(
            bench.disk[8 * 512..1008 * 512]
                .iter()
                .all(|byte| *byte == 0)
        );
    }

    #[test]
    fn unmap_deallocates_whatever_the_pattern_is() {
        let mut bench = Bench::new(BLOCKS);
        bench.write(&write_same_16(0, 0, 3), &[7; 512]).good();
        bench.write(&write_same_16(UNMAP, 0, 2), &[7; 512]).good();
        assert_eq!(bench.disk[..1024], [0; 1024]);
        assert_eq!(bench.disk[1024..1536], [7; 512]);
    }

    #[test]
    fn ndob_needs_no_data_and_writes_zeroes() {
        let mut bench = Bench::new(BLOCKS);
        let answer = bench.plain(&write_same_16(UNMAP | NDOB, 1, 5));
        assert_eq!(answer.transfer, Transfer::None);
        assert_eq!(
            answer.done,
            [Done::WriteZeroes {
                lba: 1,
                blocks: 5,
                may_unmap: true
            }]
        );
        answer.good();
        bench
            .write(&write_same_10(NDOB, 0, 1), &[0; 512])
            .invalid_field(1, Some(0));
    }

    #[test]
    fn anchor_is_an_invalid_field() {
        let mut bench = Bench::new(BLOCKS);
        for flags in [0x10, 0x18] {
            bench
                .write(&write_same_10(flags, 0, 1), &[0; 512])
                .invalid_field(1, Some(4));
            bench
                .write(&write_same_16(flags, 0, 1), &[0; 512])
                .invalid_field(1, Some(4));
        }
    }

    #[test]
    fn unmap_on_a_device_that_cannot_is_an_invalid_field() {
        let mut info = testbed::info(512, BLOCKS);
        info.unmap = false;
        let mut bench = Bench::with_info(info);
        bench
            .write(&write_same_16(UNMAP, 0, 1), &[0; 512])
            .invalid_field(1, Some(3));
        bench.write(&write_same_16(0, 0, 1), &[0; 512]).good();
    }

    #[test]
    fn zero_blocks_mean_to_the_end() {
        let mut bench = Bench::new(BLOCKS);
        let answer = bench.write(&write_same_10(UNMAP, 1990, 0), &[0; 512]);
        assert_eq!(
            answer.done,
            [Done::WriteZeroes {
                lba: 1990,
                blocks: 10,
                may_unmap: true
            }]
        );
        answer.good();
        bench.write(&write_same_10(0, 2000, 0), &[1; 512]).good();
        for lba in [2001, 1 << 63, u64::MAX] {
            bench
                .write(&write_same_16(0, lba, 0), &[0; 512])
                .illegal(AdditionalSense::LBA_OUT_OF_RANGE);
        }
    }

    #[test]
    fn longer_than_the_maximum_points_at_the_length_also_to_the_end() {
        let at_most = MAX_WRITE_SAME_BYTES / 512;
        let capacity = u64::from(at_most) + 1;
        let info = testbed::info(512, capacity);
        let mut bench = Bench::with_unit(LogicalUnit::new(testbed::identity(), info, false));
        bench
            .write(&write_same_16(0, 0, at_most + 1), &[0; 512])
            .invalid_field(10, None);
        bench
            .write(&write_same_16(0, 0, 0), &[0; 512])
            .invalid_field(10, None);
        bench
            .write(&write_same_10(0, 0, 0), &[0; 512])
            .invalid_field(7, None);
    }

    #[test]
    fn beyond_last_lba_reports_lba_out_of_range() {
        let mut bench = Bench::new(BLOCKS);
        for (lba, blocks) in [(1999, 2), (2000, 1), (u64::MAX, u32::MAX), (u64::MAX, 1)] {
            bench
                .write(&write_same_16(0, lba, blocks), &[0; 512])
                .illegal(AdditionalSense::LBA_OUT_OF_RANGE);
        }
    }

    #[test]
    fn data_of_other_than_one_block_are_refused() {
        let mut bench = Bench::new(BLOCKS);
        for sent in [0, 256, 511, 513, 1024] {
            bench
                .write(&write_same_10(UNMAP, 0, 1), &vec![0; sent])
                .illegal(AdditionalSense::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT);
        }
    }

    #[test]
    fn no_space_is_a_space_allocation_failure() {
        let mut bench = Bench::new(BLOCKS);
        bench.fault = Some(IoError::NoSpace);
        let sense = bench.write(&write_same_10(0, 0, 1000), &[5; 512]).sense();
        assert_eq!(
            sense.additional,
            AdditionalSense::SPACE_ALLOCATION_FAILED_WRITE_PROTECT
        );
    }

    #[test]
    fn blocks_of_4096_bytes_repeat_whole() {
        let mut bench = Bench::with_info(testbed::info(4096, 100));
        let pattern: Vec<u8> = (0..4096_u32).map(|at| (at / 16).to_le_bytes()[0]).collect();
        bench.write(&write_same_16(0, 0, 100), &pattern).good();
        assert!(bench.disk.chunks(4096).all(|block| block == pattern));
    }
}
