//! WRITE ATOMIC (16) (SBC-4).
//!
//! There only where the device guarantees that a write is on it whole or not at all after a loss of
//! power (`DeviceInfo::atomic_write_blocks`), up to the length that VPD page B0h tells. While it is
//! made nobody else, on any core, reads or changes its blocks ([`Step::Freeze`]), so that no reader
//! sees a part of it either.
//!
//! Address and length are multiples of the physical block (ATOMIC ALIGNMENT and ATOMIC TRANSFER
//! LENGTH GRANULARITY in VPD B0h). ATOMIC BOUNDARY must be zero (MAXIMUM ATOMIC BOUNDARY SIZE is
//! zero). WRPROTECT must be zero; DPO is a hint that we need not take; FUA goes to the device. Less
//! data than the CDB says cannot be written as one, so nothing is.

use super::{CUT_WITHIN_A_BLOCK, Extent};
use crate::backend::{DeviceInfo, Operation};
use crate::mem::DmaBuf;
use crate::scsi::sense::{self, Access, Sense};
use crate::scsi::task::{Begin, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event};

/// Where ATOMIC BOUNDARY and TRANSFER LENGTH stand in the CDB.
const BOUNDARY_AT: u16 = 10;
const LENGTH_AT: u16 = 12;
const LBA_AT: u16 = 2;

/// A WRITE ATOMIC that is under way.
#[derive(Debug)]
pub struct WriteAtomic {
    lba: u64,
    blocks: u32,
    fua: bool,
    data_out: Option<DmaBuf>,
}

/// ATOMIC ALIGNMENT and ATOMIC TRANSFER LENGTH GRANULARITY in blocks; 1 where any will do.
pub fn granularity(info: &DeviceInfo) -> u32 {
    1 << info.physical_block_exponent.min(15)
}

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let command = call.command;
    let unit = call.unit;
    let info = unit.info();
    let extent = Extent {
        lba: command.cdb.be64(2),
        blocks: u32::from(command.cdb.be16(12)),
        length_at: LENGTH_AT,
    };
    extent.check_range(unit)?;
    if command.cdb.be16(10) != 0 {
        return Err(Sense::invalid_field_in_cdb(BOUNDARY_AT, None));
    }
    let step = granularity(info);
    if !extent.lba.is_multiple_of(u64::from(step)) {
        return Err(Sense::invalid_field_in_cdb(LBA_AT, None));
    }
    if extent.blocks > info.atomic_write_blocks || !extent.blocks.is_multiple_of(step) {
        return Err(extent.length_error());
    }
    let bytes = extent.transfer_bytes(unit)?;
    let transfer = Transfer::Out(u64::from(bytes));
    if command.data_out_bytes < bytes {
        return Task::refused(transfer, CUT_WITHIN_A_BLOCK);
    }
    if bytes == 0 {
        return Task::good(transfer);
    }
    let write_atomic = WriteAtomic {
        lba: extent.lba,
        blocks: extent.blocks,
        fua: command.cdb.bit(1, 3),
        data_out: None,
    };
    let step = Step::Collect {
        data_out_bytes: bytes,
        scratch_bytes: 0,
    };
    let machine = Machine::WriteAtomic(Box::new(write_atomic));
    Ok((Task::new(machine, transfer), step))
}

impl WriteAtomic {
    pub(in crate::scsi) fn resume(&mut self, event: Event) -> Result<Step, Sense> {
        match event {
            Event::Collected {
                data_out: Some(data_out),
                ..
            } => {
                self.data_out = Some(data_out);
                Ok(Step::Freeze {
                    lba: self.lba,
                    blocks: u64::from(self.blocks),
                    reads: true,
                })
            }
            Event::Frozen => match self.data_out.take() {
                Some(buf) => Ok(Step::Submit(Operation::Write {
                    lba: self.lba,
                    blocks: self.blocks,
                    buf,
                    fua: self.fua,
                })),
                None => wrong_event("WRITE ATOMIC", &event),
            },
            Event::Completed { result: Ok(()), .. } => Ok(Step::GOOD),
            Event::Completed {
                result: Err(error), ..
            } => Err(sense::from_io_error(error, Access::Write)),
            Event::Collected { .. } | Event::Streamed(_) | Event::Changed(_) => {
                wrong_event("WRITE ATOMIC", &event)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::scsi::sense::AdditionalSense;
    use crate::scsi::task::Transfer;
    use crate::scsi::testbed::{self, Bench, Done};

    const BLOCKS: u64 = 1200;

    fn bench() -> Bench {
        let mut info = testbed::info(512, BLOCKS);
        info.atomic_write_blocks = 256;
        Bench::with_info(info)
    }

    fn cdb(flags: u8, lba: u64, blocks: u16) -> [u8; 16] {
        let mut cdb = [0; 16];
        cdb[..2].copy_from_slice(&[0x9c, flags]);
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        cdb[12..14].copy_from_slice(&blocks.to_be_bytes());
        cdb
    }

    #[test]
    fn blocks_are_written_while_nobody_else_reads_or_changes_them() {
        for (flags, fua) in [(0, false), (0x08, true), (0x18, true), (0x10, false)] {
            let mut bench = bench();
            let answer = bench.write(&cdb(flags, 8, 16), &[4; 16 * 512]);
            assert_eq!(answer.transfer, Transfer::Out(16 * 512));
            assert_eq!(
                answer.done,
                [
                    Done::Freeze { lba: 8, blocks: 16 },
                    Done::Write {
                        lba: 8,
                        blocks: 16,
                        fua
                    }
                ]
            );
            answer.good();
            assert_eq!(bench.disk[8 * 512..24 * 512], [4; 16 * 512]);
        }
    }

    #[test]
    fn range_comes_before_the_limits_and_those_name_their_fields() {
        let mut bench = bench();
        for (lba, blocks) in [
            (BLOCKS - 8, 512),
            (BLOCKS, 8),
            (u64::MAX, 8),
            (BLOCKS + 1, 0),
        ] {
            bench
                .write(&cdb(0, lba, blocks), &[])
                .illegal(AdditionalSense::LBA_OUT_OF_RANGE);
        }
        bench.write(&cdb(0, 0, 264), &[]).invalid_field(12, None);
        bench.write(&cdb(0, 0, 4), &[]).invalid_field(12, None);
        bench.write(&cdb(0, 4, 8), &[]).invalid_field(2, None);
        let mut bounded = cdb(0, 0, 8);
        bounded[11] = 8;
        bench.write(&bounded, &[]).invalid_field(10, None);
        for protect in 1..8_u8 {
            bench
                .write(&cdb(protect << 5, 0, 8), &[])
                .illegal(AdditionalSense::INVALID_FIELD_IN_CDB);
        }
        bench.plain(&cdb(0, 0, 0)).good();
    }

    #[test]
    fn less_data_than_the_cdb_says_write_nothing() {
        let mut bench = bench();
        for sent in [0, 512, 8 * 512 - 1] {
            bench
                .write(&cdb(0, 0, 8), &vec![1; sent])
                .illegal(AdditionalSense::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT);
        }
        bench.write(&cdb(0, 0, 8), &[1; 9 * 512]).good();
    }

    #[test]
    fn device_without_the_guarantee_does_not_know_the_command() {
        let mut bench = Bench::new(BLOCKS);
        bench
            .write(&cdb(0, 0, 8), &[1; 8 * 512])
            .illegal(AdditionalSense::INVALID_COMMAND_OPERATION_CODE);
    }
}
