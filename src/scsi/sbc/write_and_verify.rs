//! WRITE AND VERIFY (10), (12), (16) and (32) (SBC-3).
//!
//! The blocks are written to the medium and then read back in pieces of a scratch buffer, so that
//! what cannot be read is found; with BYTCHK = 01b they are compared with what the initiator sent
//! (SBC-3, WRITE AND VERIFY). The write forces unit access: what is verified is the medium, not a
//! volatile cache. Any other BYTCHK and any WRPROTECT are invalid fields; DPO is a hint that we
//! need not take.

use super::verify::{ByteCheck, Verify};
use super::{CUT_WITHIN_A_BLOCK, Extent, FLAGS_AT, FLAGS_AT_32};
use crate::backend::Operation;
use crate::mem::DmaBuf;
use crate::scsi::sense::{self, Access, Sense};
use crate::scsi::task::{Begin, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event};

/// A WRITE AND VERIFY that is under way.
#[derive(Debug)]
pub struct WriteAndVerify {
    lba: u64,
    blocks: u32,
    /// Until the data were written.
    scratch: Option<DmaBuf>,
    verify: Verify,
}

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    begin(call, Extent::parse(cdb), cdb.u8(FLAGS_AT))
}

pub(in crate::scsi) fn start_32(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    begin(call, Extent::parse_32(cdb), cdb.u8(FLAGS_AT_32))
}

fn begin(call: &UnitCall<'_>, extent: Extent, flags: u8) -> Begin {
    let command = call.command;
    let unit = call.unit;
    let block_size = unit.block_size();
    extent.check_range(unit)?;
    let bytes = extent.transfer_bytes(unit)?;
    let transfer = Transfer::Out(u64::from(bytes));
    // RFC 7143 §11.4.5.1: where the initiator sends less than the CDB says, only that is written.
    let data_out_bytes = bytes.min(command.data_out_bytes);
    if data_out_bytes % block_size != 0 {
        return Task::refused(transfer, CUT_WITHIN_A_BLOCK);
    }
    if data_out_bytes == 0 {
        return Task::good(transfer);
    }
    // The table keeps the upper bit of BYTCHK zero.
    let check = if flags & 0b10 == 0 {
        ByteCheck::None
    } else {
        ByteCheck::EachBlock
    };
    let blocks = data_out_bytes / block_size;
    let verify = Verify::new(check, extent.lba, blocks, block_size);
    let scratch_bytes = verify.scratch_bytes();
    let write_and_verify = WriteAndVerify {
        lba: extent.lba,
        blocks,
        scratch: None,
        verify,
    };
    let step = Step::Collect {
        data_out_bytes,
        scratch_bytes,
    };
    let machine = Machine::WriteAndVerify(Box::new(write_and_verify));
    Ok((Task::new(machine, transfer), step))
}

impl WriteAndVerify {
    pub(in crate::scsi) fn resume(&mut self, event: Event) -> Result<Step, Sense> {
        match event {
            Event::Collected {
                data_out: Some(buf),
                scratch: Some(scratch),
            } => {
                self.scratch = Some(scratch);
                Ok(Step::Submit(Operation::Write {
                    lba: self.lba,
                    blocks: self.blocks,
                    buf,
                    fua: true,
                }))
            }
            Event::Completed { result, buf } => match (self.scratch.take(), result) {
                (Some(_), Err(error)) => Err(sense::from_io_error(error, Access::Write)),
                (Some(scratch), Ok(())) => self.verify.resume(Event::Collected {
                    data_out: buf,
                    scratch: Some(scratch),
                }),
                (None, result) => self.verify.resume(Event::Completed { result, buf }),
            },
            Event::Collected { .. } | Event::Streamed(_) | Event::Frozen | Event::Changed(_) => {
                wrong_event("WRITE AND VERIFY", &event)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::IoError;
    use crate::scsi::sense::AdditionalSense;
    use crate::scsi::task::Transfer;
    use crate::scsi::testbed::{Bench, Done};

    const BLOCKS: u64 = 2000;
    const BYTCHK: u8 = 0x02;

    fn cdb_10(flags: u8, lba: u16, blocks: u16) -> [u8; 10] {
        let ([a, b], [c, d]) = (lba.to_be_bytes(), blocks.to_be_bytes());
        [0x2e, flags, 0, 0, a, b, 0, c, d, 0]
    }

    #[test]
    fn every_form_writes_to_the_medium_and_reads_it_back() {
        let mut long = [0; 32];
        long[0] = 0x7f;
        long[7] = 0x18;
        long[9] = 0x0c;
        long[10] = BYTCHK;
        long[19] = 5;
        long[31] = 3;
        for cdb in [
            &cdb_10(BYTCHK, 5, 3)[..],
            &[0xae, BYTCHK, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0],
            &[0x8e, BYTCHK, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0],
            &long,
        ] {
            let mut bench = Bench::new(BLOCKS);
            let answer = bench.write(cdb, &[0x77; 3 * 512]);
            assert_eq!(answer.transfer, Transfer::Out(3 * 512));
            assert_eq!(
                answer.done,
                [
                    Done::Write {
                        lba: 5,
                        blocks: 3,
                        fua: true
                    },
                    Done::Read { lba: 5, blocks: 3 }
                ],
                "{cdb:02x?}"
            );
            answer.good();
            assert_eq!(bench.disk[5 * 512..8 * 512], [0x77; 3 * 512]);
        }
    }

    #[test]
    fn long_ones_are_verified_in_pieces_with_and_without_comparing() {
        for flags in [0, BYTCHK] {
            let mut bench = Bench::new(BLOCKS);
            let answer = bench.write(&cdb_10(flags, 0, 1200), &vec![3; 1200 * 512]);
            let reads: Vec<_> = answer.done[1..].to_vec();
            let pieces = [(0, 512), (512, 512), (1024, 176)];
            assert_eq!(
                reads,
                pieces.map(|(lba, blocks)| Done::Read { lba, blocks })
            );
            answer.good();
        }
    }

    #[test]
    fn other_values_of_bytchk_and_any_wrprotect_are_invalid_fields() {
        let mut bench = Bench::new(BLOCKS);
        for flags in [0x04, 0x06] {
            bench
                .write(&cdb_10(flags, 0, 1), &[0; 512])
                .invalid_field(1, Some(2));
        }
        for protect in 1..8_u8 {
            bench
                .write(&cdb_10(protect << 5, 0, 1), &[0; 512])
                .illegal(AdditionalSense::INVALID_FIELD_IN_CDB);
        }
    }

    #[test]
    fn initiator_that_sends_fewer_whole_blocks_has_those_written_and_verified() {
        let mut bench = Bench::new(BLOCKS);
        let untouched = bench.disk[512..1024].to_vec();
        bench.write(&cdb_10(BYTCHK, 0, 2), &[9; 512]).good();
        assert_eq!(bench.disk[..512], [9; 512]);
        assert_eq!(bench.disk[512..1024], untouched);
        bench
            .write(&cdb_10(BYTCHK, 0, 1), &[9; 200])
            .illegal(AdditionalSense::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT);
        let answer = bench.write(&cdb_10(BYTCHK, 0, 1), &[]);
        assert_eq!(answer.done, []);
        answer.good();
    }

    #[test]
    fn beyond_last_lba_reports_lba_out_of_range() {
        let mut bench = Bench::new(BLOCKS);
        for (lba, blocks) in [(2000, 1), (1999, 2), (2001, 0)] {
            bench
                .write(&cdb_10(0, lba, blocks), &[0; 1024])
                .illegal(AdditionalSense::LBA_OUT_OF_RANGE);
        }
    }

    #[test]
    fn what_cannot_be_written_is_a_write_error() {
        let mut bench = Bench::new(BLOCKS);
        bench.fault = Some(IoError::Medium);
        let sense = bench.write(&cdb_10(BYTCHK, 0, 1), &[0; 512]).sense();
        assert_eq!(sense.additional, AdditionalSense::WRITE_ERROR);
    }
}
