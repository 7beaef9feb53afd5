//! READ (6), (10), (12), (16) and (32) (SBC-3).
//!
//! The blocks are streamed by the transport. RDPROTECT must be zero, since the unit has no
//! protection information; DPO is a hint that we need not take. FUA asks for the blocks as they are
//! on the medium, and what is newer in a volatile cache goes there first (SBC-3, FUA bit).

use super::{Extent, FLAGS_AT, FLAGS_AT_32};
use crate::backend::Operation;
use crate::scsi::sense::{self, Access, Sense};
use crate::scsi::task::{Begin, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event};

/// A READ that is under way.
#[derive(Debug)]
pub struct Read {
    lba: u64,
    blocks: u32,
}

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let force_unit_access = cdb.group() != 0 && cdb.bit(FLAGS_AT, 3);
    begin(call, Extent::parse(cdb), force_unit_access)
}

pub(in crate::scsi) fn start_32(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    begin(call, Extent::parse_32(cdb), cdb.bit(FLAGS_AT_32, 3))
}

fn begin(call: &UnitCall<'_>, extent: Extent, force_unit_access: bool) -> Begin {
    let command = call.command;
    let unit = call.unit;
    extent.check_range(unit)?;
    let bytes = extent.transfer_bytes(unit)?;
    let transfer = Transfer::In(u64::from(bytes));
    // RFC 7143 §11.4.5.1: what the initiator has no room for is not sent, so it need not be read.
    let blocks = if command.data_in_bytes >= bytes {
        extent.blocks
    } else {
        command.data_in_bytes.div_ceil(unit.block_size())
    };
    if blocks == 0 {
        return Task::good(transfer);
    }
    unit.activity().count_read(blocks);
    let read = Read {
        lba: extent.lba,
        blocks,
    };
    let step = if force_unit_access && unit.info().write_cache {
        Step::Submit(Operation::Flush)
    } else {
        read.stream()
    };
    Ok((Task::new(Machine::Read(read), transfer), step))
}

impl Read {
    pub(in crate::scsi) fn resume(&mut self, event: &Event) -> Result<Step, Sense> {
        match event {
            Event::Streamed(Ok(())) => Ok(Step::GOOD),
            Event::Streamed(Err(error)) => Err(sense::from_io_error(*error, Access::Read)),
            Event::Completed { result: Ok(()), .. } => Ok(self.stream()),
            Event::Completed {
                result: Err(error), ..
            } => Err(sense::from_io_error(*error, Access::Read)),
            Event::Collected { .. } | Event::Frozen | Event::Changed(_) => {
                wrong_event("READ", event)
            }
        }
    }

    fn stream(&self) -> Step {
        Step::Stream {
            lba: self.lba,
            blocks: self.blocks,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::IoError;
    use crate::scsi::sense::{AdditionalSense, SenseKey};
    use crate::scsi::task::{MAX_TRANSFER_BYTES, Transfer};
    use crate::scsi::testbed::{self, Bench, Done};
    use crate::scsi::unit::LogicalUnit;

    const BLOCKS: u64 = 600;

    #[test]
    fn every_form_reads_the_blocks_that_it_names() {
        let mut bench = Bench::new(BLOCKS);
        let expected = bench.disk[5 * 512..8 * 512].to_vec();
        for cdb in [
            &[0x08, 0, 0, 5, 3, 0][..],
            &[0x28, 0, 0, 0, 0, 5, 0, 0, 3, 0],
            &[0xa8, 0, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0],
            &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0],
        ] {
            let answer = bench.read(cdb, 3 * 512);
            assert_eq!(answer.transfer, Transfer::In(3 * 512));
            assert_eq!(answer.done, [Done::Read { lba: 5, blocks: 3 }]);
            assert_eq!(answer.good(), expected, "{cdb:02x?}");
        }
    }

    #[test]
    fn read_6_of_zero_blocks_reads_256() {
        let mut bench = Bench::new(BLOCKS);
        let data = bench.read(&[0x08, 0, 0, 1, 0, 0], 256 * 512).good();
        assert_eq!(data, bench.disk[512..257 * 512]);
    }

    #[test]
    fn read_10_of_zero_blocks_reads_nothing_and_is_still_checked() {
        let mut bench = Bench::new(BLOCKS);
        let answer = bench.plain(&[0x28, 0, 0, 0, 0x02, 0x58, 0, 0, 0, 0]);
        assert_eq!(answer.done, []);
        answer.good();
        for lba in [[0, 0, 0x02, 0x59], [0x80, 0, 0, 0], [0xff; 4]] {
            let [a, b, c, d] = lba;
            bench
                .plain(&[0x28, 0, a, b, c, d, 0, 0, 0, 0])
                .illegal(AdditionalSense::LBA_OUT_OF_RANGE);
        }
    }

    #[test]
    fn read_10_beyond_last_lba_reports_lba_out_of_range() {
        let mut bench = Bench::new(BLOCKS);
        bench
            .read(&[0x28, 0, 0, 0, 0x02, 0x57, 0, 0, 1, 0], 512)
            .good();
        bench
            .read(&[0x28, 0, 0, 0, 0x02, 0x57, 0, 0, 2, 0], 1024)
            .illegal(AdditionalSense::LBA_OUT_OF_RANGE);
    }

    #[test]
    fn read_16_near_the_end_of_64_bits_reports_lba_out_of_range() {
        let mut bench = Bench::with_unit(LogicalUnit::new(
            testbed::identity(),
            testbed::info(512, u64::MAX),
            false,
        ));
        for blocks in [1, 2, 0xff] {
            let mut cdb = [0xff; 16];
            cdb[0] = 0x88;
            cdb[1] = 0;
            cdb[10..16].copy_from_slice(&[0, 0, 0, blocks, 0, 0]);
            bench
                .read(&cdb, 512)
                .illegal(AdditionalSense::LBA_OUT_OF_RANGE);
        }
    }

    #[test]
    fn longer_than_the_maximum_transfer_points_at_the_length() {
        let unit = LogicalUnit::new(testbed::identity(), testbed::info(512, 1 << 40), false);
        let mut bench = Bench::with_unit(unit);
        let [a, b, c, d] = (MAX_TRANSFER_BYTES / 512 + 1).to_be_bytes();
        bench
            .read(
                &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d, 0, 0],
                u32::MAX,
            )
            .invalid_field(10, None);
        bench
            .read(
                &[0xa8, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
                u32::MAX,
            )
            .invalid_field(6, None);
    }

    #[test]
    fn any_rdprotect_is_an_invalid_field() {
        let mut bench = Bench::new(BLOCKS);
        for protect in 1..8_u8 {
            let first_bit = 7 - protect.leading_zeros().to_be_bytes()[3] + 5;
            let cdb = [0x28, protect << 5, 0, 0, 0, 0, 0, 0, 1, 0];
            bench.read(&cdb, 512).invalid_field(1, Some(first_bit));
        }
    }

    #[test]
    fn dpo_and_fua_nv_change_nothing() {
        let mut bench = Bench::new(BLOCKS);
        let answer = bench.read(&[0x28, 0x12, 0, 0, 0, 0, 0, 0, 1, 0], 512);
        assert_eq!(answer.done, [Done::Read { lba: 0, blocks: 1 }]);
        answer.good();
    }

    #[test]
    fn fua_writes_the_cache_to_the_medium_first() {
        let mut bench = Bench::new(BLOCKS);
        let answer = bench.read(&[0x28, 0x08, 0, 0, 0, 0, 0, 0, 1, 0], 512);
        assert_eq!(answer.done, [Done::Flush, Done::Read { lba: 0, blocks: 1 }]);
        assert_eq!(answer.good(), bench.disk[..512]);
    }

    #[test]
    fn initiator_that_takes_less_is_read_less_and_the_cdb_decides_the_residual() {
        let mut bench = Bench::new(BLOCKS);
        for (expected, blocks) in [(200, 1), (512, 1), (513, 2)] {
            let answer = bench.read(&[0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0], expected);
            assert_eq!(answer.transfer, Transfer::In(1024));
            assert_eq!(answer.done, [Done::Read { lba: 0, blocks }]);
            let expected = usize::try_from(expected).unwrap();
            assert_eq!(answer.good(), bench.disk[..expected]);
        }
        let answer = bench.read(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], 0);
        assert_eq!(
            (answer.transfer, &answer.done[..]),
            (Transfer::In(512), &[][..])
        );
        answer.good();
    }

    #[test]
    fn initiator_that_takes_more_gets_what_the_cdb_says() {
        let mut bench = Bench::new(BLOCKS);
        let answer = bench.read(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], 10_000);
        assert_eq!(answer.transfer, Transfer::In(512));
        assert_eq!(answer.good().len(), 512);
    }

    #[test]
    fn medium_error_is_an_unrecovered_read_error() {
        let mut bench = Bench::new(BLOCKS);
        bench.fault = Some(IoError::Medium);
        let sense = bench.read(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], 512).sense();
        assert_eq!(sense.key, SenseKey::MediumError);
        assert_eq!(sense.additional, AdditionalSense::UNRECOVERED_READ_ERROR);
    }
}
