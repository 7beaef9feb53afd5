//! COMPARE AND WRITE (SBC-3).
//!
//! The data-out buffer holds two instances of as many blocks as the CDB says: what the initiator
//! expects to be there, and what is to take its place. The blocks are read, compared and written
//! while nobody else, on any core, changes them ([`Step::Freeze`]); a difference ends the command
//! with MISCOMPARE, and INFORMATION holds its offset in the data-out buffer in bytes.
//!
//! Nothing is written on any error. The initiator must mean to send exactly both instances: with
//! less there is nothing to compare or to write, and with more it means another number of blocks,
//! which the one-byte field of the CDB cannot say. WRPROTECT must be zero; DPO is a hint that we
//! need not take; FUA goes to the device.

use super::verify::{first_difference, miscompare};
use super::{Extent, check_range};
use crate::backend::Operation;
use crate::mem::DmaBuf;
use crate::scsi::sense::{self, Access, Sense};
use crate::scsi::task::{Begin, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event};

/// Most blocks of one COMPARE AND WRITE: what its field can say. VPD B0h reports it.
pub const MAX_COMPARE_AND_WRITE_BLOCKS: u8 = u8::MAX;

/// Where NUMBER OF LOGICAL BLOCKS stands in the CDB.
const LENGTH_AT: u16 = 13;

/// A COMPARE AND WRITE that is under way.
#[derive(Debug)]
pub struct CompareAndWrite {
    lba: u64,
    blocks: u32,
    fua: bool,
    /// Both instances, until they were compared and the second was copied.
    data_out: Option<DmaBuf>,
    scratch: Option<DmaBuf>,
}

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let command = call.command;
    let unit = call.unit;
    let extent = Extent {
        lba: command.cdb.be64(2),
        blocks: u32::from(command.cdb.u8(13)),
        length_at: LENGTH_AT,
    };
    check_range(unit.info().blocks, extent.lba, u64::from(extent.blocks))?;
    let bytes = extent.blocks * unit.block_size();
    let transfer = Transfer::Out(2 * u64::from(bytes));
    // SBC-3 COMPARE AND WRITE: a transfer of other than both instances is no valid request.
    if command.data_out_bytes != 2 * bytes {
        return Task::refused(transfer, extent.length_error());
    }
    if bytes == 0 {
        return Task::good(Transfer::None);
    }
    let compare_and_write = CompareAndWrite {
        lba: extent.lba,
        blocks: extent.blocks,
        fua: command.cdb.bit(1, 3),
        data_out: None,
        scratch: None,
    };
    let step = Step::Collect {
        data_out_bytes: 2 * bytes,
        scratch_bytes: bytes,
    };
    let machine = Machine::CompareAndWrite(Box::new(compare_and_write));
    Ok((Task::new(machine, transfer), step))
}

impl CompareAndWrite {
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
                    // A reader sees all of the blocks before it or after it.
                    reads: true,
                })
            }
            Event::Frozen => match self.scratch.take() {
                Some(buf) => Ok(Step::Submit(Operation::Read {
                    lba: self.lba,
                    blocks: self.blocks,
                    buf,
                })),
                None => wrong_event("COMPARE AND WRITE", &event),
            },
            Event::Completed { result, buf } => match (self.data_out.take(), result, buf) {
                (Some(data_out), Ok(()), Some(read)) => self.compare(&data_out, read),
                (Some(_), Err(error), _) => Err(sense::from_io_error(error, Access::Read)),
                (_, Ok(()), _) => Ok(Step::GOOD),
                (None, Err(error), _) => Err(sense::from_io_error(error, Access::Write)),
            },
            Event::Collected { .. } | Event::Streamed(_) | Event::Changed(_) => {
                wrong_event("COMPARE AND WRITE", &event)
            }
        }
    }

    /// Compares what was read with the first instance and writes the second.
    fn compare(&self, data_out: &DmaBuf, mut buf: DmaBuf) -> Result<Step, Sense> {
        let bytes = buf.len();
        let expected = data_out.range_slices(0, bytes);
        if let Some(offset) = first_difference(expected, buf.slices()) {
            return Err(miscompare(offset));
        }
        let mut at = 0;
        for slice in data_out.range_slices(bytes, bytes) {
            buf.copy_from(at, slice);
            at += slice.len();
        }
        Ok(Step::Submit(Operation::Write {
            lba: self.lba,
            blocks: self.blocks,
            buf,
            fua: self.fua,
        }))
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::IoError;
    use crate::scsi::sense::{AdditionalSense, Sense, SenseKey};
    use crate::scsi::task::Transfer;
    use crate::scsi::testbed::{self, Bench, Done};

    const BLOCKS: u64 = 600;

    fn cdb(flags: u8, lba: u64, blocks: u8) -> [u8; 16] {
        let mut cdb = [0; 16];
        cdb[..2].copy_from_slice(&[0x89, flags]);
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        cdb[13] = blocks;
        cdb
    }

    /// What is there, and after it what is to be there.
    fn both(bench: &Bench, lba: usize, blocks: usize, fill: u8) -> Vec<u8> {
        let mut data = bench.disk[lba * 512..(lba + blocks) * 512].to_vec();
        data.resize(2 * blocks * 512, fill);
        data
    }

    #[test]
    fn equal_blocks_are_written_once_frozen_and_others_left_alone() {
        for blocks in [1, 17, 255] {
            let mut bench = Bench::new(BLOCKS);
            let data = both(&bench, 3, usize::from(blocks), 0x5a);
            let mut expected = bench.disk.clone();
            expected[3 * 512..(3 + usize::from(blocks)) * 512].fill(0x5a);
            let answer = bench.write(&cdb(0, 3, blocks), &data);
            let wide = u32::from(blocks);
            assert_eq!(answer.transfer, Transfer::Out(u64::from(wide) * 1024));
            assert_eq!(
                answer.done,
                [
                    Done::Freeze {
                        lba: 3,
                        blocks: u64::from(wide)
                    },
                    Done::Read {
                        lba: 3,
                        blocks: wide
                    },
                    Done::Write {
                        lba: 3,
                        blocks: wide,
                        fua: false
                    }
                ]
            );
            answer.good();
            assert!(bench.disk == expected);
        }
    }

    #[test]
    fn miscompare_names_the_first_difference_and_writes_nothing() {
        for at in [0, 1, 511, 512, 255 * 512 - 1] {
            let mut bench = Bench::new(BLOCKS);
            let mut data = both(&bench, 0, 255, 0x5a);
            data[at] ^= 1;
            let before = bench.disk.clone();
            let sense = bench.write(&cdb(0, 0, 255), &data).sense();
            let expected = Sense::new(
                SenseKey::Miscompare,
                AdditionalSense::MISCOMPARE_DURING_VERIFY,
            );
            assert_eq!(sense, expected.with_information(u64::try_from(at).unwrap()));
            assert!(bench.disk == before);
        }
    }

    #[test]
    fn a_difference_in_the_second_instance_alone_is_none() {
        let mut bench = Bench::new(BLOCKS);
        let mut data = both(&bench, 7, 1, 0);
        data[600] = 9;
        bench.write(&cdb(0, 7, 1), &data).good();
        assert_eq!(bench.disk[7 * 512 + 88], 9);
    }

    #[test]
    fn fua_goes_to_the_device_and_dpo_does_not() {
        for (flags, fua) in [(0x08, true), (0x10, false), (0x18, true)] {
            let mut bench = Bench::new(BLOCKS);
            let data = both(&bench, 0, 1, 1);
            let answer = bench.write(&cdb(flags, 0, 1), &data);
            let written = Done::Write {
                lba: 0,
                blocks: 1,
                fua,
            };
            assert_eq!(answer.done.last(), Some(&written));
            answer.good();
        }
    }

    #[test]
    fn data_of_other_than_two_instances_are_refused_whatever_the_length() {
        let mut bench = Bench::new(BLOCKS);
        for (blocks, sent) in [(1, 0), (1, 512), (1, 1023), (1, 2048), (3, 2048), (0, 512)] {
            bench
                .write(&cdb(0, 0, blocks), &vec![0; sent])
                .invalid_field(13, None);
        }
        // 256 blocks, which the field of one byte cannot say.
        bench
            .write(&cdb(0, 0, 0), &vec![0; 512 * 512])
            .invalid_field(13, None);
    }

    #[test]
    fn zero_blocks_do_nothing() {
        let mut bench = Bench::new(BLOCKS);
        let answer = bench.plain(&cdb(0, 0, 0));
        assert_eq!(answer.done, []);
        answer.good();
        bench.plain(&cdb(0, BLOCKS, 0)).good();
    }

    #[test]
    fn beyond_last_lba_reports_lba_out_of_range() {
        let mut bench = Bench::new(BLOCKS);
        for (lba, blocks) in [
            (BLOCKS, 1),
            (BLOCKS - 1, 2),
            (BLOCKS + 1, 0),
            (u64::MAX, 1),
            (u64::MAX, 255),
        ] {
            let data = vec![0; usize::from(blocks) * 1024];
            bench
                .write(&cdb(0, lba, blocks), &data)
                .illegal(AdditionalSense::LBA_OUT_OF_RANGE);
        }
    }

    #[test]
    fn any_wrprotect_is_an_invalid_field() {
        let mut bench = Bench::new(BLOCKS);
        for protect in 1..8_u8 {
            bench
                .write(&cdb(protect << 5, 0, 1), &[0; 1024])
                .illegal(AdditionalSense::INVALID_FIELD_IN_CDB);
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_written() {
        let mut bench = Bench::new(BLOCKS);
        let data = both(&bench, 0, 1, 1);
        bench.fault = Some(IoError::Medium);
        let answer = bench.write(&cdb(0, 0, 1), &data);
        let sense = answer.sense();
        assert_eq!(sense.additional, AdditionalSense::UNRECOVERED_READ_ERROR);
        assert!(!answer.done.iter().any(|d| matches!(d, Done::Write { .. })));
    }

    #[test]
    fn blocks_of_4096_bytes_are_compared_whole() {
        let mut bench = Bench::with_info(testbed::info(4096, 16));
        let mut data = bench.disk[..4096].to_vec();
        data.extend([7; 4096]);
        bench.write(&cdb(0, 0, 1), &data).good();
        assert_eq!(bench.disk[..4096], [7; 4096]);
        let sense = bench.write(&cdb(0, 1, 1), &data).sense();
        assert_eq!(sense.key, SenseKey::Miscompare);
    }
}
