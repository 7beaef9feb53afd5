//! SANITIZE (SBC-3): OVERWRITE, BLOCK ERASE, CRYPTOGRAPHIC ERASE and EXIT FAILURE MODE.
//!
//! The command asks the unit's home core, which begins a [`Job`](crate::scsi::job::Job) that
//! outlives it. With IMMED = 1 it ends when the operation has begun, else when that is over. While
//! the operation runs, every command but INQUIRY, REPORT LUNS and REQUEST SENSE is answered NOT
//! READY, SANITIZE IN PROGRESS; after one that failed, SANITIZE COMMAND FAILED, until another one
//! succeeds or, if it had AUSE = 1, EXIT FAILURE MODE ends that (SBC-3 §4.11).
//!
//! CRYPTOGRAPHIC ERASE is there only on devices whose erased contents nobody can get back. ZNR must
//! be zero: the device has no zones.
//!
//! ```text
//! OVERWRITE's list:
//! 0 INVERT, TEST, OVERWRITE COUNT   2..4 INITIALIZATION PATTERN LENGTH   4.. pattern
//! ```

use crate::mem::DmaBuf;
use crate::scsi::change::Change;
use crate::scsi::job::{Sanitize as What, SanitizeMethod};
use crate::scsi::sense::Sense;
use crate::scsi::task::{Begin, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event};

/// A SANITIZE that is under way.
#[derive(Debug)]
pub struct Sanitize {
    immediate: bool,
    unrestricted_exit: bool,
    block_size: u32,
    /// The home core has begun the operation.
    begun: bool,
}

/// Where PARAMETER LIST LENGTH stands in the CDB.
const LIST_LENGTH_AT: u16 = 7;
/// Bytes before the pattern in OVERWRITE's list.
const HEADER_BYTES: u32 = 4;

pub(in crate::scsi) fn overwrite(call: &mut UnitCall<'_>) -> Begin {
    let list_bytes = call.command.cdb.be16(7);
    let length = u32::from(list_bytes);
    let block_size = call.unit.block_size();
    // SBC-3 OVERWRITE: a pattern of one byte at least, and of one block at most.
    if length <= HEADER_BYTES || length > HEADER_BYTES + block_size {
        return Err(Sense::invalid_field_in_cdb(LIST_LENGTH_AT, None));
    }
    let transfer = Transfer::Out(u64::from(list_bytes));
    if call.command.data_out_bytes < length {
        return Task::refused(transfer, Sense::parameter_list_length_error(LIST_LENGTH_AT));
    }
    let step = Step::Collect {
        data_out_bytes: length,
        scratch_bytes: 0,
    };
    Ok((Task::new(Machine::Sanitize(new(call)), transfer), step))
}

pub(in crate::scsi) fn block_erase(call: &mut UnitCall<'_>) -> Begin {
    erase(call, SanitizeMethod::BlockErase)
}

pub(in crate::scsi) fn cryptographic_erase(call: &mut UnitCall<'_>) -> Begin {
    erase(call, SanitizeMethod::CryptographicErase)
}

/// SBC-3, EXIT FAILURE MODE: nothing where nothing has failed.
pub(in crate::scsi) fn exit_failure_mode(call: &mut UnitCall<'_>) -> Begin {
    no_list(call)?;
    let mut exit = new(call);
    exit.immediate = true;
    let step = Step::Change(Change::ExitSanitizeFailure);
    Ok((Task::new(Machine::Sanitize(exit), Transfer::None), step))
}

fn new(call: &UnitCall<'_>) -> Sanitize {
    let cdb = &call.command.cdb;
    Sanitize {
        immediate: cdb.bit(1, 7),
        unrestricted_exit: cdb.bit(1, 5),
        block_size: call.unit.block_size(),
        begun: false,
    }
}

fn erase(call: &UnitCall<'_>, method: SanitizeMethod) -> Begin {
    no_list(call)?;
    let sanitize = new(call);
    let step = sanitize.begin(method);
    Ok((Task::new(Machine::Sanitize(sanitize), Transfer::None), step))
}

fn no_list(call: &UnitCall<'_>) -> Result<(), Sense> {
    match call.command.cdb.be16(7) {
        0 => Ok(()),
        _ => Err(Sense::invalid_field_in_cdb(LIST_LENGTH_AT, None)),
    }
}

impl Sanitize {
    pub(in crate::scsi) fn resume(&mut self, event: &Event) -> Result<Step, Sense> {
        match event {
            Event::Collected {
                data_out: Some(list),
                ..
            } => Ok(self.begin(self.parse(list)?)),
            Event::Changed(_) if self.immediate || self.begun => Ok(Step::GOOD),
            Event::Changed(_) => {
                self.begun = true;
                Ok(Step::AwaitJob)
            }
            Event::Collected { .. }
            | Event::Completed { .. }
            | Event::Streamed(_)
            | Event::Frozen => wrong_event("SANITIZE", event),
        }
    }

    fn begin(&self, method: SanitizeMethod) -> Step {
        Step::Change(Change::Sanitize(What {
            method,
            unrestricted_exit: self.unrestricted_exit,
        }))
    }

    /// Reads OVERWRITE's list, which is longer than its header and not longer than a block more.
    fn parse(&self, list: &DmaBuf) -> Result<SanitizeMethod, Sense> {
        let mut header = [0; HEADER_BYTES as usize];
        list.copy_to(0, &mut header);
        let [flags, _, high, low] = header;
        // TEST asks for what SBC-3 leaves to vendors.
        if flags & 0x60 != 0 {
            return Err(Sense::invalid_field_in_parameter_list(0, Some(6)));
        }
        let count = flags & 0x1f;
        if count == 0 {
            return Err(Sense::invalid_field_in_parameter_list(0, Some(4)));
        }
        let length = u16::from_be_bytes([high, low]);
        if length == 0 || u32::from(length) > self.block_size {
            return Err(Sense::invalid_field_in_parameter_list(2, None));
        }
        if header.len() + usize::from(length) > list.len() {
            return Err(Sense::parameter_list_length_error(LIST_LENGTH_AT));
        }
        let mut pattern = vec![0; usize::from(length)];
        list.copy_to(header.len(), &mut pattern);
        Ok(SanitizeMethod::Overwrite {
            pattern,
            count,
            invert: flags & 0x80 != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::scsi::change::{Change, Update};
    use crate::scsi::job::{FAILED, SANITIZE_COMMAND_FAILED, Sanitize, SanitizeMethod};
    use crate::scsi::sense::{AdditionalSense, Sense, SenseKey, SenseSpecific};
    use crate::scsi::testbed::{self, Bench};

    const BLOCKS: u64 = 600;
    const IMMED: u8 = 0x80;
    const AUSE: u8 = 0x20;
    const OVERWRITE: u8 = 0x01;
    const BLOCK_ERASE: u8 = 0x02;
    const CRYPTOGRAPHIC_ERASE: u8 = 0x03;
    const EXIT_FAILURE_MODE: u8 = 0x1f;

    fn bench() -> Bench {
        let mut info = testbed::info(512, BLOCKS);
        info.cryptographic_erase = true;
        Bench::with_info(info)
    }

    fn cdb(byte: u8, list_bytes: u16) -> [u8; 10] {
        let [a, b] = list_bytes.to_be_bytes();
        [0x48, byte, 0, 0, 0, 0, 0, a, b, 0]
    }

    fn list(flags: u8, pattern: &[u8]) -> Vec<u8> {
        let mut list = vec![flags, 0];
        list.extend(u16::try_from(pattern.len()).unwrap().to_be_bytes());
        list.extend(pattern);
        list
    }

    fn overwrite(bench: &mut Bench, byte: u8, list: &[u8]) -> testbed::Answer {
        let length = u16::try_from(list.len()).unwrap();
        bench.write(&cdb(byte | OVERWRITE, length), list)
    }

    fn in_progress(bench: &mut Bench) -> Sense {
        bench.plain(&[0; 6]).sense()
    }

    #[test]
    fn overwrite_of_any_pattern_up_to_a_block_is_everywhere_when_it_ends() {
        for pattern in [&[0xa5; 512][..], &[1, 2, 3, 4], &[7; 256], &[9]] {
            let mut bench = bench();
            overwrite(&mut bench, 0, &list(1, pattern)).good();
            let block: Vec<u8> = pattern.iter().copied().cycle().take(512).collect();
            assert!(bench.disk.chunks(512).all(|one| one == block));
            bench.plain(&[0; 6]).good();
        }
    }

    #[test]
    fn erasing_leaves_zeroes() {
        for action in [BLOCK_ERASE, CRYPTOGRAPHIC_ERASE] {
            let mut bench = bench();
            bench.plain(&cdb(action, 0)).good();
            assert!(bench.disk.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn with_immed_it_goes_on_behind_the_answer_and_keeps_others_out() {
        let mut bench = bench();
        bench.plain(&cdb(IMMED | BLOCK_ERASE, 0)).good();
        assert!(bench.disk.iter().any(|byte| *byte != 0));
        for refused in [
            &[0; 6][..],
            &[0x1b, 0, 0, 0, 1, 0],
            &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0],
            &[0x1a, 0, 0x3f, 0, 255, 0],
            &cdb(BLOCK_ERASE, 0),
            &cdb(EXIT_FAILURE_MODE, 0),
        ] {
            let sense = bench.read(refused, 512).sense();
            assert_eq!(sense.key, SenseKey::NotReady, "{refused:02x?}");
            assert_eq!(sense.additional, AdditionalSense::SANITIZE_IN_PROGRESS);
            assert_eq!(sense.specific, SenseSpecific::Progress(0));
        }
        bench.read(&[0x12, 0, 0, 0, 255, 0], 255).good();
        bench
            .read(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0], 512)
            .good();
        let unit = bench.unit.as_mut().unwrap();
        unit.apply(&Update::SanitizeProgress(0x4000));
        let data = bench.read(&[0x03, 0, 0, 0, 252, 0], 252).good();
        assert_eq!((data[2], data[12], data[13]), (0x02, 0x04, 0x1b));
        assert_eq!(data[15..18], [0x80, 0x40, 0]);
        bench.finish_job().unwrap();
        assert!(bench.disk.iter().all(|byte| *byte == 0));
        bench.plain(&[0; 6]).good();
    }

    #[test]
    fn no_reset_ends_it() {
        let mut bench = bench();
        bench.plain(&cdb(IMMED | BLOCK_ERASE, 0)).good();
        bench.unit.as_mut().unwrap().apply(&Update::Reset);
        let sense = in_progress(&mut bench);
        assert_eq!(sense.additional, AdditionalSense::SANITIZE_IN_PROGRESS);
        bench.finish_job().unwrap();
    }

    #[test]
    fn failure_is_told_and_stays_until_another_succeeds() {
        let mut bench = bench();
        bench.job_fault = Some(crate::backend::IoError::Medium);
        let answer = bench.plain(&cdb(BLOCK_ERASE, 0));
        assert_eq!(answer.outcome, FAILED);
        assert_eq!(in_progress(&mut bench), SANITIZE_COMMAND_FAILED);
        // Without AUSE nothing but another one helps.
        bench
            .plain(&cdb(EXIT_FAILURE_MODE, 0))
            .invalid_field(1, Some(4));
        bench.job_fault = None;
        bench.plain(&cdb(BLOCK_ERASE, 0)).good();
        bench.plain(&[0; 6]).good();
    }

    #[test]
    fn failure_with_ause_is_left_by_exit_failure_mode() {
        let mut bench = bench();
        bench.job_fault = Some(crate::backend::IoError::Medium);
        bench.plain(&cdb(AUSE | BLOCK_ERASE, 0)).sense();
        bench.plain(&cdb(EXIT_FAILURE_MODE, 0)).good();
        bench.plain(&[0; 6]).good();
        bench.plain(&cdb(EXIT_FAILURE_MODE, 0)).good();
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        let mut bench = bench();
        for length in [0, 1, 4, 517] {
            let data = vec![1; usize::from(length)];
            bench
                .write(&cdb(OVERWRITE, length), &data)
                .invalid_field(7, None);
        }
        let short = bench.write(&cdb(OVERWRITE, 8), &[1, 0, 0, 4]);
        assert_eq!(short.sense(), Sense::parameter_list_length_error(7));
        for (list, byte, bit) in [
            (&[0, 0, 0, 1, 9][..], 0, Some(4)),
            (&[0x21, 0, 0, 1, 9], 0, Some(6)),
            (&[0x41, 0, 0, 1, 9], 0, Some(6)),
            (&[1, 0, 0, 0, 9], 2, None),
            (&[1, 0, 2, 1, 9], 2, None),
        ] {
            let sense = overwrite(&mut bench, 0, list).sense();
            assert_eq!(sense, Sense::invalid_field_in_parameter_list(byte, bit));
        }
        let sense = overwrite(&mut bench, 0, &[1, 0, 0, 2, 9]).sense();
        assert_eq!(sense, Sense::parameter_list_length_error(7));
        for action in [BLOCK_ERASE, CRYPTOGRAPHIC_ERASE, EXIT_FAILURE_MODE] {
            bench.write(&cdb(action, 8), &[0; 8]).invalid_field(7, None);
        }
        bench.plain(&[0; 6]).good();
    }

    #[test]
    fn other_service_actions_and_znr_are_invalid_fields() {
        let mut bench = bench();
        for action in (0..0x20).filter(|action| !matches!(action, 1..=3 | 0x1f)) {
            bench.plain(&cdb(action, 0)).invalid_field(1, Some(4));
        }
        bench
            .plain(&cdb(0x40 | BLOCK_ERASE, 0))
            .invalid_field(1, Some(6));
    }

    #[test]
    fn device_that_cannot_erase_by_cryptography_has_no_such_service_action() {
        Bench::new(BLOCKS)
            .plain(&cdb(CRYPTOGRAPHIC_ERASE, 0))
            .invalid_field(1, Some(4));
    }

    #[test]
    fn what_was_begun_survives_a_restart_and_so_does_its_failure() {
        let mut bench = bench();
        let what = Sanitize {
            method: SanitizeMethod::BlockErase,
            unrestricted_exit: true,
        };
        let unit = bench.unit.as_mut().unwrap();
        let i_t = testbed::nexus(
            crate::scsi::PortIdentity::new("iqn.2026-11.io.example:disk", 1, 2).unwrap(),
        );
        let begun = unit.decide(&Change::Sanitize(what.clone()), &i_t).unwrap();
        assert!(begun.save && begun.update.is_some());
        unit.apply(&begun.update.unwrap());
        let mut again = Bench::with_info(testbed::info(512, BLOCKS));
        let restarted = again.unit.as_mut().unwrap();
        restarted.restore(unit.non_volatile().clone());
        assert_eq!(restarted.sanitizing(), Some(&what));
        let unit = bench.unit.as_mut().unwrap();
        let ended = unit.decide(&Change::Sanitized(false), &i_t).unwrap();
        assert!(ended.save);
        unit.apply(&ended.update.unwrap());
        restarted.restore(unit.non_volatile().clone());
        assert_eq!(restarted.sanitizing(), None);
        assert_eq!(again.plain(&[0; 6]).sense(), SANITIZE_COMMAND_FAILED);
        again.plain(&cdb(EXIT_FAILURE_MODE, 0)).good();
        again.plain(&[0; 6]).good();
    }
}
