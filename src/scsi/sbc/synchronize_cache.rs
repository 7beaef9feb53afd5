//! SYNCHRONIZE CACHE (10) and (16) (SBC-3).
//!
//! A device flushes all of its cache whatever the range is, but the range is checked; a length of
//! zero means to the end. IMMED allows status before the work is done; we do the work first, so
//! that a failed flush is told to the command that asked for it. Without a volatile cache there is
//! nothing to do.

use super::Extent;
use crate::backend::Operation;
use crate::scsi::sense::{self, Access, Sense};
use crate::scsi::task::{Begin, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event};

/// A SYNCHRONIZE CACHE that is under way.
#[derive(Debug)]
pub struct SynchronizeCache;

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    Extent::parse(&call.command.cdb).check_range(call.unit)?;
    if !call.unit.info().write_cache {
        return Task::good(Transfer::None);
    }
    let task = Task::new(Machine::SynchronizeCache(SynchronizeCache), Transfer::None);
    Ok((task, Step::Submit(Operation::Flush)))
}

impl SynchronizeCache {
    pub(in crate::scsi) fn resume(&mut self, event: &Event) -> Result<Step, Sense> {
        match event {
            Event::Completed { result: Ok(()), .. } => Ok(Step::GOOD),
            Event::Completed {
                result: Err(error), ..
            } => Err(sense::from_io_error(*error, Access::Write)),
            Event::Collected { .. } | Event::Streamed(_) | Event::Frozen | Event::Changed(_) => {
                wrong_event("SYNCHRONIZE CACHE", event)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::IoError;
    use crate::scsi::sense::{AdditionalSense, SenseKey};
    use crate::scsi::testbed::{self, Bench, Done};

    const WHOLE: [u8; 10] = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn both_forms_flush_whatever_immed_says() {
        let mut bench = Bench::new(100);
        for flags in [0, 0x02, 0x04, 0x06] {
            let mut long = [0; 16];
            long[..2].copy_from_slice(&[0x91, flags]);
            for cdb in [&[0x35, flags, 0, 0, 0, 5, 0, 0, 95, 0][..], &long] {
                let answer = bench.plain(cdb);
                assert_eq!(answer.done, [Done::Flush]);
                answer.good();
            }
        }
    }

    #[test]
    fn range_beyond_the_end_is_refused() {
        let mut bench = Bench::new(100);
        for (lba, blocks) in [(5, 96), (101, 0)] {
            bench
                .plain(&[0x35, 0, 0, 0, 0, lba, 0, 0, blocks, 0])
                .illegal(AdditionalSense::LBA_OUT_OF_RANGE);
        }
        let mut long = [0xff; 16];
        long[..2].copy_from_slice(&[0x91, 0]);
        long[14..].fill(0);
        bench
            .plain(&long)
            .illegal(AdditionalSense::LBA_OUT_OF_RANGE);
    }

    #[test]
    fn without_a_cache_there_is_nothing_to_do() {
        let mut info = testbed::info(512, 100);
        info.write_cache = false;
        let answer = Bench::with_info(info).plain(&WHOLE);
        assert_eq!(answer.done, []);
        answer.good();
    }

    #[test]
    fn lost_cache_is_a_hardware_error() {
        let mut bench = Bench::new(100);
        bench.fault = Some(IoError::WriteCacheLost);
        let sense = bench.plain(&WHOLE).sense();
        assert_eq!(sense.key, SenseKey::HardwareError);
        assert_eq!(sense.additional, AdditionalSense::WRITE_ERROR);
    }
}
