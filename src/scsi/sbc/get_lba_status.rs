//! GET LBA STATUS (SBC-3).
//!
//! Which blocks from an address on have memory behind them, as runs that the device tells one after
//! the other; neighbouring runs of the same status become one descriptor. Where the device cannot
//! unmap, every block is mapped (SBC-3: a fully provisioned unit).
//!
//! ```text
//! 0..4  PARAMETER DATA LENGTH      4..8  reserved
//! 8..   descriptors of 16 bytes: 0..8 LBA, 8..12 NUMBER OF LOGICAL BLOCKS, 12 PROVISIONING STATUS
//! ```
//!
//! The first descriptor begins at the address that was asked for. What ends the list is the end of
//! the medium, the room that ALLOCATION LENGTH leaves, or one of the bounds below: an initiator
//! goes on behind the last descriptor.

use super::check_range;
use crate::backend::{LbaRun, Operation};
use crate::mem::DmaBuf;
use crate::scsi::parameter::ParameterData;
use crate::scsi::sense::{self, Access, Sense};
use crate::scsi::task::{Begin, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event};

/// Most descriptors that one command returns.
const DESCRIPTORS_MAX: u32 = 256;
/// Most questions to the device of one command: one for each descriptor, and some for the runs that
/// a device tells in pieces (a memory disk, 4 GiB at once, which costs it some 10 µs).
const QUESTIONS_MAX: u32 = DESCRIPTORS_MAX + 64;

const HEADER_BYTES: u32 = 8;
const DESCRIPTOR_BYTES: u32 = 16;

/// PROVISIONING STATUS values.
const MAPPED: u8 = 0;
const DEALLOCATED: u8 = 1;

/// A GET LBA STATUS that is under way.
#[derive(Debug)]
pub struct GetLbaStatus {
    /// The first block that is not described.
    next: u64,
    capacity: u64,
    allocation_length: u32,
    descriptors_max: usize,
    questions: u32,
    descriptors: Vec<Descriptor>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Descriptor {
    lba: u64,
    blocks: u32,
    mapped: bool,
}

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let (lba, allocation_length) = (cdb.be64(2), cdb.be32(10));
    let info = call.unit.info();
    // The block itself must be there.
    check_range(info.blocks, lba, 1)?;
    let room = allocation_length.saturating_sub(HEADER_BYTES) / DESCRIPTOR_BYTES;
    let descriptors_max = room.clamp(1, DESCRIPTORS_MAX);
    let mut status = GetLbaStatus {
        next: lba,
        capacity: info.blocks,
        allocation_length,
        descriptors_max: usize::try_from(descriptors_max).expect("at most DESCRIPTORS_MAX"),
        questions: 0,
        descriptors: Vec::new(),
    };
    if !info.unmap {
        status.add(LbaRun {
            blocks: u64::MAX,
            mapped: true,
        });
        let transfer = status.write(call.data_in);
        return Task::good(transfer);
    }
    let step = Step::Collect {
        data_out_bytes: 0,
        scratch_bytes: u32::try_from(LbaRun::BYTES).expect("a few bytes"),
    };
    let machine = Machine::GetLbaStatus(Box::new(status));
    Ok((Task::new(machine, Transfer::None), step))
}

impl GetLbaStatus {
    /// The next step, and what is transferred once that is the last.
    pub(in crate::scsi) fn resume(
        &mut self,
        data_in: &mut ParameterData,
        event: Event,
    ) -> Result<(Step, Transfer), Sense> {
        match event {
            Event::Collected {
                scratch: Some(buf), ..
            } => Ok((self.ask(buf), Transfer::None)),
            Event::Completed {
                result: Ok(()),
                buf: Some(buf),
            } => {
                let full = !self.add(LbaRun::parse(&buf));
                let enough = self.questions >= QUESTIONS_MAX;
                if full || enough || self.next == self.capacity {
                    Ok((Step::GOOD, self.write(data_in)))
                } else {
                    Ok((self.ask(buf), Transfer::None))
                }
            }
            Event::Completed {
                result: Err(error), ..
            } => Err(sense::from_io_error(error, Access::Read)),
            Event::Collected { .. }
            | Event::Completed { .. }
            | Event::Streamed(_)
            | Event::Frozen
            | Event::Changed(_) => wrong_event("GET LBA STATUS", &event),
        }
    }

    fn ask(&mut self, buf: DmaBuf) -> Step {
        self.questions += 1;
        let lba = self.next;
        Step::Submit(Operation::LbaStatus { lba, buf })
    }

    /// Adds what is known from `next` on. `false`: there is no room for all of it.
    fn add(&mut self, run: LbaRun) -> bool {
        let mut left = run.blocks.min(self.capacity - self.next);
        while left > 0 {
            let last = self.descriptors.last_mut();
            if let Some(last) =
                last.filter(|last| last.mapped == run.mapped && last.blocks < u32::MAX)
            {
                let more = left.min(u64::from(u32::MAX - last.blocks));
                last.blocks += u32::try_from(more).expect("no more than fits");
                self.next += more;
                left -= more;
            } else if self.descriptors.len() < self.descriptors_max {
                self.descriptors.push(Descriptor {
                    lba: self.next,
                    blocks: 0,
                    mapped: run.mapped,
                });
            } else {
                return false;
            }
        }
        true
    }

    /// Writes the parameter data.
    fn write(&self, data: &mut ParameterData) -> Transfer {
        data.put_zeroes(8);
        for Descriptor {
            lba,
            blocks,
            mapped,
        } in &self.descriptors
        {
            data.put_be64(*lba);
            data.put_be32(*blocks);
            data.put(&[if *mapped { MAPPED } else { DEALLOCATED }, 0, 0, 0]);
        }
        data.patch_length_be32(0);
        data.truncate(usize::try_from(self.allocation_length).unwrap_or(usize::MAX));
        Transfer::In(u64::try_from(data.len()).expect("the buffer has a fixed small size"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::IoError;
    use crate::scsi::sense::AdditionalSense;
    use crate::scsi::testbed::{self, Bench};
    use crate::scsi::unit::LogicalUnit;

    const BLOCKS: u64 = 600;

    fn cdb(lba: u64, length: u32) -> [u8; 16] {
        let mut cdb = [0; 16];
        cdb[..2].copy_from_slice(&[0x9e, 0x12]);
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        cdb[10..14].copy_from_slice(&length.to_be_bytes());
        cdb
    }

    fn descriptors(data: &[u8]) -> Vec<(u64, u32, u8)> {
        let length = u32::from_be_bytes(*data.first_chunk().unwrap());
        assert_eq!(usize::try_from(length).unwrap() + 4, data.len());
        data[8..]
            .chunks(16)
            .map(|one| {
                assert_eq!(one[13..], [0; 3]);
                (
                    u64::from_be_bytes(*one.first_chunk().unwrap()),
                    u32::from_be_bytes(*one[8..].first_chunk().unwrap()),
                    one[12],
                )
            })
            .collect()
    }

    #[test]
    fn runs_are_told_in_order_up_to_the_end_and_neighbours_are_one() {
        let mut bench = Bench::new(BLOCKS);
        bench.holes = vec![(10, 5), (15, 5), (590, 10)];
        let data = bench.read(&cdb(3, 4096), 4096).good();
        assert_eq!(
            descriptors(&data),
            [(3, 7, 0), (10, 10, 1), (20, 570, 0), (590, 10, 1)]
        );
        let data = bench.read(&cdb(12, 4096), 4096).good();
        assert_eq!(descriptors(&data)[0], (12, 8, 1));
    }

    #[test]
    fn descriptors_end_with_the_allocation_length() {
        let mut bench = Bench::new(BLOCKS);
        bench.holes = vec![(10, 10), (30, 10)];
        for (length, bytes) in [
            (0, 0),
            (1, 1),
            (8, 8),
            (23, 23),
            (24, 24),
            (39, 24),
            (40, 40),
        ] {
            let answer = bench.read(&cdb(0, length), 4096);
            assert_eq!(answer.transfer, Transfer::In(bytes));
            let data = answer.good();
            assert_eq!(u64::try_from(data.len()).unwrap(), bytes);
            if length == 40 {
                assert_eq!(descriptors(&data), [(0, 10, 0), (10, 10, 1)]);
            }
        }
    }

    #[test]
    fn a_disk_of_many_runs_is_told_up_to_the_bound() {
        let mut bench = Bench::new(BLOCKS);
        bench.holes = (0..300).map(|nth| (2 * nth, 1)).collect();
        let data = bench.read(&cdb(0, u32::MAX), u32::MAX).good();
        let described = descriptors(&data);
        assert_eq!(described.len(), 256);
        assert_eq!(described[255], (255, 1, 0));
    }

    #[test]
    fn a_run_in_many_pieces_is_told_up_to_the_bound_and_goes_on_behind_it() {
        let mut bench = Bench::new(BLOCKS);
        bench.holes = (0..BLOCKS).map(|lba| (lba, 1)).collect();
        let asked = u64::from(QUESTIONS_MAX);
        assert!(asked < BLOCKS && QUESTIONS_MAX > DESCRIPTORS_MAX);
        let data = bench.read(&cdb(0, 4096), 4096).good();
        assert_eq!(descriptors(&data), [(0, QUESTIONS_MAX, 1)]);
        let data = bench.read(&cdb(asked, 4096), 4096).good();
        let left = u32::try_from(BLOCKS - asked).unwrap();
        assert_eq!(descriptors(&data), [(asked, left, 1)]);
    }

    #[test]
    fn beyond_last_lba_reports_lba_out_of_range() {
        let mut bench = Bench::new(BLOCKS);
        bench.read(&cdb(BLOCKS - 1, 24), 24).good();
        for lba in [BLOCKS, BLOCKS + 1, 1 << 63, u64::MAX] {
            bench
                .read(&cdb(lba, 24), 24)
                .illegal(AdditionalSense::LBA_OUT_OF_RANGE);
        }
    }

    #[test]
    fn unit_that_cannot_unmap_is_mapped_in_descriptors_of_32_bits() {
        let mut info = testbed::info(512, u64::from(u32::MAX) + 11);
        info.unmap = false;
        let mut bench = Bench::with_unit(LogicalUnit::new(testbed::identity(), info, false));
        let data = bench.read(&cdb(1, 4096), 4096).good();
        assert_eq!(
            descriptors(&data),
            [(1, u32::MAX, 0), (u64::from(u32::MAX) + 1, 10, 0)]
        );
    }

    #[test]
    fn device_error_is_told() {
        let mut bench = Bench::new(BLOCKS);
        bench.fault = Some(IoError::Medium);
        let sense = bench.read(&cdb(0, 24), 24).sense();
        assert_eq!(sense.additional, AdditionalSense::UNRECOVERED_READ_ERROR);
    }
}
