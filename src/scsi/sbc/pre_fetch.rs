//! PRE-FETCH (10) and (16) (SBC-3).
//!
//! A hint that the blocks will be read soon. The range is checked and nothing is fetched: a device
//! that has a cache of its own fills it by what is read. GOOD status says that not all of the
//! blocks are in a cache, which CONDITION MET would claim (SBC-3, PRE-FETCH); IMMED changes
//! nothing, and a length of zero means to the end of the medium. GROUP NUMBER is taken and ignored
//! (GROUP_SUP = 0).

use super::Extent;
use crate::scsi::task::{Begin, Task, Transfer, UnitCall};

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    Extent::parse(&call.command.cdb).check_range(call.unit)?;
    Task::good(Transfer::None)
}

#[cfg(test)]
mod tests {
    use crate::scsi::sense::AdditionalSense;
    use crate::scsi::testbed::Bench;

    fn cdb_16(flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
        let mut cdb = [0; 16];
        cdb[..2].copy_from_slice(&[0x90, flags]);
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
        cdb[14] = 3;
        cdb
    }

    #[test]
    fn both_forms_are_good_whatever_immed_and_group_number_say() {
        let mut bench = Bench::new(100);
        for immed in [0, 2] {
            for blocks in [0, 1, 100] {
                bench
                    .plain(&[0x34, immed, 0, 0, 0, 0, 3, 0, blocks, 0])
                    .good();
                bench.plain(&cdb_16(immed, 0, blocks.into())).good();
            }
        }
    }

    #[test]
    fn range_must_end_at_the_capacity_also_when_it_is_empty() {
        let mut bench = Bench::new(100);
        bench.plain(&cdb_16(0, 100, 0)).good();
        for (lba, blocks) in [(101, 0), (100, 1), (99, 2), (u64::MAX, 1), (1 << 63, 0)] {
            bench
                .plain(&cdb_16(0, lba, blocks))
                .illegal(AdditionalSense::LBA_OUT_OF_RANGE);
        }
        bench
            .plain(&[0x34, 0, 0, 0, 0, 101, 0, 0, 0, 0])
            .illegal(AdditionalSense::LBA_OUT_OF_RANGE);
    }
}
