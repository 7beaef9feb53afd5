//! UNMAP (SBC-3).
//!
//! A list of ranges that the initiator no longer needs. All of it is checked before anything is
//! unmapped: a descriptor that is out of range or over the limits of VPD page B0h leaves every
//! block as it was. ANCHOR must be zero (ANC_SUP = 0 in VPD B2h).
//!
//! ```text
//! 0..2  UNMAP DATA LENGTH      2..4  UNMAP BLOCK DESCRIPTOR DATA LENGTH      4..8  reserved
//! 8..   descriptors of 16 bytes: 0..8 LBA, 8..12 NUMBER OF LOGICAL BLOCKS, 12..16 reserved
//! ```

use super::check_range;
use crate::backend::Operation;
use crate::mem::DmaBuf;
use crate::scsi::sense::{self, Access, Sense};
use crate::scsi::task::{Begin, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event};

/// Most blocks that one UNMAP may name in all its descriptors; VPD B0h reports it.
pub const MAX_UNMAP_BLOCKS: u32 = 1 << 20;

/// Most descriptors of one UNMAP; VPD B0h reports it.
pub const MAX_UNMAP_DESCRIPTORS: u16 = 256;

const HEADER_BYTES: u16 = 8;
const DESCRIPTOR_BYTES: u16 = 16;

/// Where PARAMETER LIST LENGTH stands in the CDB.
const LIST_LENGTH_AT: u16 = 7;

/// An UNMAP that is under way.
#[derive(Debug)]
pub struct Unmap {
    /// Bytes of the parameter list that were collected.
    list_bytes: u16,
    capacity: u64,
    list: Option<DmaBuf>,
    descriptors: u16,
    next: u16,
}

/// One range of the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Descriptor {
    lba: u64,
    blocks: u32,
}

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let list_bytes = call.command.cdb.be16(7);
    if list_bytes == 0 {
        // SBC-3 UNMAP: no parameter list is no error and unmaps nothing.
        return Task::good(Transfer::None);
    }
    let transfer = Transfer::Out(u64::from(list_bytes));
    let sent = u16::try_from(call.command.data_out_bytes).unwrap_or(u16::MAX);
    let list_bytes = list_bytes.min(sent);
    if list_bytes < HEADER_BYTES {
        return Task::refused(transfer, Sense::parameter_list_length_error(LIST_LENGTH_AT));
    }
    let unmap = Unmap {
        list_bytes,
        capacity: call.unit.info().blocks,
        list: None,
        descriptors: 0,
        next: 0,
    };
    let step = Step::Collect {
        data_out_bytes: u32::from(list_bytes),
        scratch_bytes: 0,
    };
    Ok((Task::new(Machine::Unmap(unmap), transfer), step))
}

impl Unmap {
    pub(in crate::scsi) fn resume(&mut self, event: Event) -> Result<Step, Sense> {
        match event {
            Event::Collected {
                data_out: Some(list),
                ..
            } => {
                self.descriptors = self.check(&list)?;
                self.list = Some(list);
                Ok(self.unmap_next())
            }
            Event::Completed { result: Ok(()), .. } => Ok(self.unmap_next()),
            Event::Completed {
                result: Err(error), ..
            } => Err(sense::from_io_error(error, Access::Write)),
            Event::Collected { data_out: None, .. }
            | Event::Streamed(_)
            | Event::Frozen
            | Event::Changed(_) => wrong_event("UNMAP", &event),
        }
    }

    /// Checks the whole parameter list and returns how many descriptors it has.
    fn check(&self, list: &DmaBuf) -> Result<u16, Sense> {
        let mut header = [0; HEADER_BYTES as usize];
        list.copy_to(0, &mut header);
        let descriptor_bytes = u16::from_be_bytes([header[2], header[3]]);
        // SBC-3 UNMAP: a last descriptor that is not whole is ignored.
        let descriptors = descriptor_bytes / DESCRIPTOR_BYTES;
        if descriptors > MAX_UNMAP_DESCRIPTORS {
            return Err(Sense::invalid_field_in_parameter_list(2, None));
        }
        if HEADER_BYTES + descriptors * DESCRIPTOR_BYTES > self.list_bytes {
            return Err(Sense::parameter_list_length_error(LIST_LENGTH_AT));
        }
        let mut total = 0_u64;
        for nth in 0..descriptors {
            let Descriptor { lba, blocks } = descriptor(list, nth);
            check_range(self.capacity, lba, u64::from(blocks))?;
            total += u64::from(blocks);
            if total > u64::from(MAX_UNMAP_BLOCKS) {
                let field = HEADER_BYTES + nth * DESCRIPTOR_BYTES + 8;
                return Err(Sense::invalid_field_in_parameter_list(field, None));
            }
        }
        Ok(descriptors)
    }

    /// Unmaps the next range that is not empty.
    fn unmap_next(&mut self) -> Step {
        let Some(list) = &self.list else {
            return Step::GOOD;
        };
        while self.next < self.descriptors {
            let Descriptor { lba, blocks } = descriptor(list, self.next);
            self.next += 1;
            if blocks != 0 {
                return Step::Submit(Operation::Unmap {
                    lba,
                    blocks: u64::from(blocks),
                });
            }
        }
        Step::GOOD
    }
}

/// The `nth` descriptor; the list is known to hold it.
fn descriptor(list: &DmaBuf, nth: u16) -> Descriptor {
    let mut bytes = [0; 12];
    list.copy_to(
        usize::from(HEADER_BYTES + nth * DESCRIPTOR_BYTES),
        &mut bytes,
    );
    let [lba @ .., b0, b1, b2, b3] = bytes;
    Descriptor {
        lba: u64::from_be_bytes(lba),
        blocks: u32::from_be_bytes([b0, b1, b2, b3]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::IoError;
    use crate::scsi::sense::{AdditionalSense, SenseKey};
    use crate::scsi::testbed::{self, Bench, Done};
    use proptest::prelude::*;

    const BLOCKS: u64 = 2000;

    fn list(ranges: &[(u64, u32)]) -> Vec<u8> {
        let descriptor_bytes = u16::try_from(ranges.len() * 16).unwrap();
        let mut list = Vec::new();
        list.extend((descriptor_bytes + 6).to_be_bytes());
        list.extend(descriptor_bytes.to_be_bytes());
        list.extend([0; 4]);
        for (lba, blocks) in ranges {
            list.extend(lba.to_be_bytes());
            list.extend(blocks.to_be_bytes());
            list.extend([0; 4]);
        }
        list
    }

    fn cdb(list_bytes: usize) -> [u8; 10] {
        let [a, b] = u16::try_from(list_bytes).unwrap().to_be_bytes();
        [0x42, 0, 0, 0, 0, 0, 0, a, b, 0]
    }

    fn unmap(bench: &mut Bench, ranges: &[(u64, u32)]) -> testbed::Answer {
        let list = list(ranges);
        bench.write(&cdb(list.len()), &list)
    }

    #[test]
    fn each_range_is_unmapped_in_turn_and_empty_ones_are_skipped() {
        let mut bench = Bench::new(BLOCKS);
        let answer = unmap(&mut bench, &[(1, 2), (5, 0), (2000, 0), (1990, 10)]);
        assert_eq!(
            answer.done,
            [
                Done::Unmap { lba: 1, blocks: 2 },
                Done::Unmap {
                    lba: 1990,
                    blocks: 10
                }
            ]
        );
        assert_eq!(answer.transfer, Transfer::Out(8 + 4 * 16));
        answer.good();
        assert_eq!(bench.disk[512..3 * 512], [0; 1024]);
    }

    #[test]
    fn list_without_descriptors_and_no_list_unmap_nothing() {
        let mut bench = Bench::new(BLOCKS);
        unmap(&mut bench, &[]).good();
        let answer = bench.plain(&cdb(0));
        assert_eq!(answer.transfer, Transfer::None);
        answer.good();
    }

    #[test]
    fn one_range_out_of_bounds_leaves_every_block_as_it_was() {
        let mut bench = Bench::new(BLOCKS);
        for bad in [(1999, 2), (2001, 0), (u64::MAX, 1), (u64::MAX, u32::MAX)] {
            unmap(&mut bench, &[(0, 1), bad]).illegal(AdditionalSense::LBA_OUT_OF_RANGE);
        }
    }

    #[test]
    fn more_descriptors_than_block_limits_allows_are_refused() {
        let mut bench = Bench::new(BLOCKS);
        let most = usize::from(MAX_UNMAP_DESCRIPTORS);
        unmap(&mut bench, &vec![(0, 1); most]).good();
        let answer = unmap(&mut bench, &vec![(0, 1); most + 1]);
        assert_eq!(
            answer.sense(),
            Sense::invalid_field_in_parameter_list(2, None)
        );
        assert_eq!(answer.done, []);
    }

    #[test]
    fn more_blocks_than_block_limits_allows_point_at_the_descriptor() {
        let info = testbed::info(512, u64::from(MAX_UNMAP_BLOCKS) * 2);
        let unit = crate::scsi::unit::LogicalUnit::new(testbed::identity(), info, false);
        let mut bench = Bench::with_unit(unit);
        let answer = unmap(&mut bench, &[(0, MAX_UNMAP_BLOCKS), (0, 1)]);
        assert_eq!(
            answer.sense(),
            Sense::invalid_field_in_parameter_list(8 + 16 + 8, None)
        );
        assert_eq!(answer.done, []);
    }

    #[test]
    fn list_shorter_than_its_header_is_a_length_error() {
        let mut bench = Bench::new(BLOCKS);
        for bytes in 1..8 {
            let answer = bench.write(&cdb(bytes), &vec![0; bytes]);
            assert_eq!(answer.sense(), Sense::parameter_list_length_error(7));
        }
    }

    #[test]
    fn list_that_promises_more_than_was_sent_is_a_length_error() {
        let mut bench = Bench::new(BLOCKS);
        let list = list(&[(0, 1), (1, 1)]);
        for sent in [0, 7, 8, 24, 39] {
            let answer = bench.write(&cdb(list.len()), &list[..sent]);
            assert_eq!(
                answer.sense(),
                Sense::parameter_list_length_error(7),
                "{sent}"
            );
            assert_eq!(answer.done, []);
        }
    }

    #[test]
    fn anchor_is_an_invalid_field() {
        let mut bench = Bench::new(BLOCKS);
        bench
            .plain(&[0x42, 1, 0, 0, 0, 0, 0, 0, 0, 0])
            .invalid_field(1, Some(0));
    }

    #[test]
    fn device_that_cannot_unmap_does_not_know_the_command() {
        let mut info = testbed::info(512, BLOCKS);
        info.unmap = false;
        let mut bench = Bench::with_info(info);
        unmap(&mut bench, &[(0, 1)]).illegal(AdditionalSense::INVALID_COMMAND_OPERATION_CODE);
    }

    #[test]
    fn device_error_ends_the_list() {
        let mut bench = Bench::new(BLOCKS);
        bench.fault = Some(IoError::Medium);
        let answer = unmap(&mut bench, &[(0, 1), (1, 1)]);
        assert_eq!(answer.done, [Done::Unmap { lba: 0, blocks: 1 }]);
        assert_eq!(answer.sense().key, SenseKey::MediumError);
    }

    proptest! {
        #[test]
        fn arbitrary_lists_end_and_touch_only_blocks_of_the_unit(
            list in prop::collection::vec(any::<u8>(), 0..200),
            claimed in 0_usize..300,
            plausible in any::<bool>(),
        ) {
            let mut list = list;
            if plausible && list.len() >= 24 {
                list[2..4].copy_from_slice(&[0, 16]);
                list[8..14].fill(0);
                list[16..19].fill(0);
            }
            let mut bench = Bench::new(BLOCKS);
            for done in bench.write(&cdb(claimed), &list).done {
                let Done::Unmap { lba, blocks } = done else { panic!("{done:?}") };
                prop_assert!(lba + blocks <= BLOCKS);
            }
        }
    }
}
