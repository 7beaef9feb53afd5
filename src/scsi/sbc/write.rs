//! WRITE (6), (10), (12), (16) and (32) (SBC-3).
//!
//! Collect, submit, finish. WRPROTECT must be zero, since the unit has no protection information;
//! DPO is a hint that we need not take; FUA goes to the device. Nothing is written before all data
//! that are to be written have come.

use super::{CUT_WITHIN_A_BLOCK, Extent, FLAGS_AT, FLAGS_AT_32};
use crate::backend::Operation;
use crate::scsi::sense::{self, Access, Sense};
use crate::scsi::task::{Begin, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event};

/// A WRITE that is under way.
#[derive(Debug)]
pub struct Write {
    lba: u64,
    blocks: u32,
    fua: bool,
}

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let fua = cdb.group() != 0 && cdb.bit(FLAGS_AT, 3);
    begin(call, Extent::parse(cdb), fua)
}

pub(in crate::scsi) fn start_32(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    begin(call, Extent::parse_32(cdb), cdb.bit(FLAGS_AT_32, 3))
}

fn begin(call: &UnitCall<'_>, extent: Extent, fua: bool) -> Begin {
    let command = call.command;
    let unit = call.unit;
    extent.check_range(unit)?;
    let bytes = extent.transfer_bytes(unit)?;
    let transfer = Transfer::Out(u64::from(bytes));
    // RFC 7143 §11.4.5.1: where the initiator sends less than the CDB says, only that is written.
    let (data_out_bytes, blocks) = if command.data_out_bytes >= bytes {
        (bytes, extent.blocks)
    } else {
        let sent = command.data_out_bytes;
        if !sent.is_multiple_of(unit.block_size()) {
            return Task::refused(transfer, CUT_WITHIN_A_BLOCK);
        }
        (sent, sent / unit.block_size())
    };
    if blocks == 0 {
        return Task::good(transfer);
    }
    unit.activity().count_write(blocks);
    let write = Write {
        lba: extent.lba,
        blocks,
        fua,
    };
    let step = Step::Collect {
        data_out_bytes,
        scratch_bytes: 0,
    };
    Ok((Task::new(Machine::Write(write), transfer), step))
}

impl Write {
    pub(in crate::scsi) fn resume(&mut self, event: Event) -> Result<Step, Sense> {
        match event {
            Event::Collected {
                data_out: Some(buf),
                ..
            } => {
                let Self { lba, blocks, fua } = *self;
                Ok(Step::Submit(Operation::Write {
                    lba,
                    blocks,
                    buf,
                    fua,
                }))
            }
            Event::Completed { result: Ok(()), .. } => Ok(Step::GOOD),
            Event::Completed {
                result: Err(error), ..
            } => Err(sense::from_io_error(error, Access::Write)),
            Event::Collected { data_out: None, .. }
            | Event::Streamed(_)
            | Event::Frozen
            | Event::Changed(_) => wrong_event("WRITE", &event),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::IoError;
    use crate::scsi::sense::{AdditionalSense, SenseKey};
    use crate::scsi::task::{MAX_TRANSFER_BYTES, Outcome, Transfer};
    use crate::scsi::testbed::{self, Bench, Done};
    use crate::scsi::unit::LogicalUnit;
    use crate::scsi::unit_attention::NexusUnit;

    const BLOCKS: u64 = 600;
    const ONE_BLOCK: [u8; 10] = [0x2a, 0, 0, 0, 0, 5, 0, 0, 1, 0];
    const TWO_BLOCKS: [u8; 10] = [0x2a, 0, 0, 0, 0, 5, 0, 0, 2, 0];

    #[test]
    fn every_form_writes_the_blocks_that_it_names() {
        for (fill, cdb) in [
            &[0x0a, 0, 0, 5, 3, 0][..],
            &[0x2a, 0, 0, 0, 0, 5, 0, 0, 3, 0],
            &[0xaa, 0, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0],
            &[0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0],
        ]
        .into_iter()
        .enumerate()
        {
            let mut bench = Bench::new(BLOCKS);
            let mut expected = bench.disk.clone();
            let data = vec![fill.to_le_bytes()[0]; 3 * 512];
            expected[5 * 512..8 * 512].copy_from_slice(&data);
            let answer = bench.write(cdb, &data);
            assert_eq!(answer.transfer, Transfer::Out(3 * 512));
            assert_eq!(
                answer.done,
                [Done::Write {
                    lba: 5,
                    blocks: 3,
                    fua: false
                }]
            );
            answer.good();
            assert_eq!(bench.disk, expected, "{cdb:02x?}");
        }
    }

    #[test]
    fn write_6_of_zero_blocks_writes_256() {
        let mut bench = Bench::new(BLOCKS);
        bench
            .write(&[0x0a, 0, 0, 1, 0, 0], &vec![9; 256 * 512])
            .good();
        assert_eq!(bench.disk[512..257 * 512], vec![9; 256 * 512]);
    }

    #[test]
    fn write_10_beyond_last_lba_writes_nothing() {
        let mut bench = Bench::new(BLOCKS);
        let before = bench.disk.clone();
        bench
            .write(&[0x2a, 0, 0, 0, 0x02, 0x57, 0, 0, 2, 0], &[0; 1024])
            .illegal(AdditionalSense::LBA_OUT_OF_RANGE);
        assert_eq!(bench.disk, before);
    }

    #[test]
    fn longer_than_the_maximum_transfer_points_at_the_length() {
        let unit = LogicalUnit::new(testbed::identity(), testbed::info(512, 1 << 40), false);
        let mut bench = Bench::with_unit(unit);
        let [a, b, c, d] = (MAX_TRANSFER_BYTES / 512 + 1).to_be_bytes();
        bench
            .write(
                &[0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d, 0, 0],
                &[0; 512],
            )
            .invalid_field(10, None);
    }

    #[test]
    fn fua_goes_to_the_device_and_dpo_and_fua_nv_do_not() {
        let mut bench = Bench::new(BLOCKS);
        for (flags, fua) in [(0x08, true), (0x18, true), (0x10, false), (0x02, false)] {
            let cdb = [0x2a, flags, 0, 0, 0, 0, 0, 0, 1, 0];
            let answer = bench.write(&cdb, &[1; 512]);
            assert_eq!(
                answer.done,
                [Done::Write {
                    lba: 0,
                    blocks: 1,
                    fua
                }]
            );
            answer.good();
        }
    }

    #[test]
    fn any_wrprotect_is_an_invalid_field() {
        let mut bench = Bench::new(BLOCKS);
        for protect in 1..8_u8 {
            let answer = bench.write(&[0x2a, protect << 5, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512]);
            answer.illegal(AdditionalSense::INVALID_FIELD_IN_CDB);
        }
    }

    #[test]
    fn initiator_that_sends_fewer_whole_blocks_has_those_written() {
        let mut bench = Bench::new(BLOCKS);
        let untouched = bench.disk[6 * 512..7 * 512].to_vec();
        let answer = bench.write(&TWO_BLOCKS, &[b'b'; 512]);
        assert_eq!(answer.transfer, Transfer::Out(1024));
        answer.good();
        assert_eq!(bench.disk[5 * 512..6 * 512], [b'b'; 512]);
        assert_eq!(bench.disk[6 * 512..7 * 512], untouched);
    }

    #[test]
    fn initiator_that_sends_nothing_has_nothing_written() {
        let mut bench = Bench::new(BLOCKS);
        let answer = bench.write(&ONE_BLOCK, &[]);
        assert_eq!(
            (answer.transfer, &answer.done[..]),
            (Transfer::Out(512), &[][..])
        );
        answer.good();
    }

    #[test]
    fn initiator_that_sends_more_has_what_the_cdb_says_written() {
        let mut bench = Bench::new(BLOCKS);
        let untouched = bench.disk[6 * 512..7 * 512].to_vec();
        let answer = bench.write(&ONE_BLOCK, &[b'b'; 10_000]);
        assert_eq!(answer.transfer, Transfer::Out(512));
        answer.good();
        assert_eq!(bench.disk[5 * 512..6 * 512], [b'b'; 512]);
        assert_eq!(bench.disk[6 * 512..7 * 512], untouched);
    }

    #[test]
    fn data_that_end_within_a_block_write_nothing_and_keep_the_residual() {
        let mut bench = Bench::new(BLOCKS);
        for (cdb, sent, transfer) in [(ONE_BLOCK, 200, 512), (TWO_BLOCKS, 700, 1024)] {
            let answer = bench.write(&cdb, &vec![b'b'; sent]);
            answer.illegal(AdditionalSense::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT);
            assert_eq!(answer.transfer, Transfer::Out(transfer));
        }
    }

    #[test]
    fn read_only_mapping_and_read_only_unit_are_write_protected() {
        let mut bench = Bench::new(BLOCKS);
        bench.nexus = NexusUnit::new(true);
        let protected = (SenseKey::DataProtect, AdditionalSense::WRITE_PROTECTED);
        bench
            .write(&ONE_BLOCK, &[0; 512])
            .refused_with(protected.0, protected.1);
        bench.nexus = NexusUnit::new(false);
        bench.unit = Some(LogicalUnit::new(
            testbed::identity(),
            testbed::info(512, BLOCKS),
            true,
        ));
        bench
            .write(&ONE_BLOCK, &[0; 512])
            .refused_with(protected.0, protected.1);
    }

    #[test]
    fn device_errors_become_their_own_sense_data() {
        let mut bench = Bench::new(BLOCKS);
        for (error, key, code) in [
            (
                IoError::Medium,
                SenseKey::MediumError,
                AdditionalSense::new(0x0c, 0),
            ),
            (
                IoError::NoSpace,
                SenseKey::DataProtect,
                AdditionalSense::new(0x27, 0x07),
            ),
            (
                IoError::WriteProtected,
                SenseKey::DataProtect,
                AdditionalSense::new(0x27, 0),
            ),
            (
                IoError::NotReady,
                SenseKey::NotReady,
                AdditionalSense::new(0x04, 0),
            ),
            (
                IoError::OutOfRange,
                SenseKey::IllegalRequest,
                AdditionalSense::new(0x21, 0),
            ),
            (
                IoError::WriteCacheLost,
                SenseKey::HardwareError,
                AdditionalSense::new(0x0c, 0),
            ),
        ] {
            bench.fault = Some(error);
            let sense = bench.write(&ONE_BLOCK, &[0; 512]).sense();
            assert_eq!((sense.key, sense.additional), (key, code), "{error:?}");
        }
    }

    // SAM-5 §5.3.1: the initiator is to come again, and nothing is wrong with the medium.
    #[test]
    fn a_shortage_in_this_process_is_busy() {
        let mut bench = Bench::new(BLOCKS);
        bench.fault = Some(IoError::Resource);
        let answer = bench.write(&ONE_BLOCK, &[0; 512]);
        assert_eq!(answer.outcome, Outcome::busy());
    }
}
