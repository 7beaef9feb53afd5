//! SEND DIAGNOSTIC and RECEIVE DIAGNOSTIC RESULTS (SPC-4).
//!
//! The only test is the default self-test, which reads the first block through the device. There
//! are no tests in the background, and no diagnostic page but the list of pages, which names only
//! itself.

use crate::backend::{IoError, Operation};
use crate::scsi::sense::{AdditionalSense, Sense, SenseKey};
use crate::scsi::task::{Begin, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event};

/// A default self-test that is under way.
#[derive(Debug)]
pub struct SelfTest;

pub(in crate::scsi) fn send(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let self_test = cdb.bit(1, 2);
    // SPC-4, SELF-TEST CODE: none but the default, whose code is zero.
    if cdb.u8(1) >> 5 != 0 {
        return Err(Sense::invalid_field_in_cdb(1, Some(7)));
    }
    if cdb.be16(3) != 0 {
        return Err(Sense::invalid_field_in_cdb(3, None));
    }
    if !self_test || call.unit.info().blocks == 0 {
        return Task::good(Transfer::None);
    }
    let step = Step::Collect {
        data_out_bytes: 0,
        scratch_bytes: call.unit.block_size(),
    };
    Ok((Task::new(Machine::SelfTest(SelfTest), Transfer::None), step))
}

impl SelfTest {
    pub(in crate::scsi) fn resume(&mut self, event: Event) -> Result<Step, Sense> {
        match event {
            Event::Collected {
                scratch: Some(buf), ..
            } => Ok(Step::Submit(Operation::Read {
                lba: 0,
                blocks: 1,
                buf,
            })),
            Event::Completed { result: Ok(()), .. } => Ok(Step::GOOD),
            Event::Completed {
                result: Err(IoError::NotReady),
                ..
            } => Err(Sense::new(
                SenseKey::NotReady,
                AdditionalSense::LOGICAL_UNIT_NOT_READY,
            )),
            Event::Completed { result: Err(_), .. } => Err(Sense::new(
                SenseKey::HardwareError,
                AdditionalSense::LOGICAL_UNIT_FAILED_SELF_TEST,
            )),
            Event::Collected { scratch: None, .. }
            | Event::Streamed(_)
            | Event::Frozen
            | Event::Changed(_) => wrong_event("SEND DIAGNOSTIC", &event),
        }
    }
}

pub(in crate::scsi) fn receive(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    // Without PCV the answer is to a SEND DIAGNOSTIC, none of which asks for another page.
    if cdb.bit(1, 0) && cdb.u8(2) != 0 {
        return Err(Sense::invalid_field_in_cdb(2, None));
    }
    call.data_in.put(&[0, 0, 0, 1, 0]);
    Task::parameter_data(call.data_in, u32::from(cdb.be16(3)))
}

#[cfg(test)]
mod tests {
    use crate::backend::IoError;
    use crate::scsi::sense::{AdditionalSense, SenseKey};
    use crate::scsi::testbed::{Bench, Done};

    const SELF_TEST: [u8; 6] = [0x1d, 0x04, 0, 0, 0, 0];

    #[test]
    fn default_self_test_reads_and_fails_with_the_device() {
        let mut bench = Bench::new(8);
        let answer = bench.plain(&SELF_TEST);
        assert_eq!(answer.done, [Done::Read { lba: 0, blocks: 1 }]);
        answer.good();
        bench.fault = Some(IoError::Medium);
        let sense = bench.plain(&SELF_TEST).sense();
        let failed = AdditionalSense::LOGICAL_UNIT_FAILED_SELF_TEST;
        assert_eq!(
            (sense.key, sense.additional),
            (SenseKey::HardwareError, failed)
        );
    }

    #[test]
    fn other_tests_and_pages_are_invalid_fields() {
        let mut bench = Bench::new(8);
        for code in 1..8_u8 {
            bench
                .plain(&[0x1d, code << 5, 0, 0, 0, 0])
                .invalid_field(1, Some(7));
        }
        bench
            .write(&[0x1d, 0x10, 0, 0, 4, 0], &[0; 4])
            .invalid_field(3, None);
        bench.plain(&[0x1d, 0x10, 0, 0, 0, 0]).good();
    }

    #[test]
    fn list_of_diagnostic_pages_names_itself() {
        let mut bench = Bench::new(8);
        let list = [0, 0, 0, 1, 0];
        for flags in [0, 1] {
            let data = bench.read(&[0x1c, flags, 0, 0, 255, 0], 255).good();
            assert_eq!(data, list);
        }
        let cut = bench.read(&[0x1c, 1, 0, 0, 3, 0], 255).good();
        assert_eq!(cut, list[..3]);
        bench
            .read(&[0x1c, 1, 0x40, 0, 255, 0], 255)
            .invalid_field(2, None);
    }
}
