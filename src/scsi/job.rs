//! Work of a logical unit that outlives the command that began it: SANITIZE (SBC-3 §4.11).
//!
//! ```text
//! home core: Job::next(event) ─► Buffer | Submit | Wait | Done ─► event ─► Job::next …
//! ```
//!
//! An engine without IO, driven by the unit's home core. It has one operation at the device at a
//! time and at most one buffer. What it does depends on nothing that an initiator does meanwhile:
//! no task management function and no end of a session stops it (SBC-3 §4.11). After a restart of
//! the daemon it begins anew, which erases what the first attempt has left. Nor does a shortage
//! that passes end it: the same operation is tried again, with the same buffer.
//!
//! | method            | what it does                                                            |
//! |-------------------|-------------------------------------------------------------------------|
//! | BLOCK ERASE       | zeroes every block, deallocating it where the device can; flushes       |
//! | OVERWRITE         | writes the pattern to every block as often as asked, flushes every time |
//! | CRYPTOGRAPHIC ERASE | as BLOCK ERASE, on devices whose erased memory nobody can read again  |

use super::sense::{AdditionalSense, Sense, SenseKey};
use super::task::{Outcome, Status};
use crate::backend::{DeviceInfo, IoError, Operation};
use crate::mem::DmaBuf;

/// Most bytes that one operation of an erasing job covers.
const ERASE_BYTES: u64 = 256 << 20;
/// Bytes that one operation of an overwriting job writes.
const OVERWRITE_BYTES: u32 = 256 * 1024;
/// PROGRESS INDICATION is told in this many steps at most.
const PROGRESS_STEPS: u16 = 64;
const PROGRESS_STEP: u16 = u16::MAX / PROGRESS_STEPS + 1;

/// What a SANITIZE command asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sanitize {
    pub method: SanitizeMethod,
    /// AUSE: EXIT FAILURE MODE may end the failure, should there be one.
    pub unrestricted_exit: bool,
}

/// How the blocks are made unreadable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SanitizeMethod {
    BlockErase,
    CryptographicErase,
    Overwrite {
        /// Repeated over each block; 1 byte to a block.
        pattern: Vec<u8>,
        /// 1 to 31.
        count: u8,
        /// Every second time the pattern's bits are inverted.
        invert: bool,
    },
}

/// What a job needs next. One event answers each step but `Done`.
#[derive(Debug)]
pub enum JobStep {
    /// A buffer of so many bytes. Answer: [`JobEvent::Buffer`].
    Buffer(usize),
    /// Give this to the unit's device. Answer: [`JobEvent::Completed`].
    Submit(Operation),
    /// The device was short of something and did nothing: it is tried again after a while. Answer:
    /// [`JobEvent::Again`].
    Wait,
    /// It is over; `Err` when the device has failed.
    Done(Result<(), IoError>),
}

/// What the home core did.
#[derive(Debug)]
pub enum JobEvent {
    Begin,
    Buffer(DmaBuf),
    /// Some time has passed.
    Again,
    Completed {
        result: Result<(), IoError>,
        buf: Option<DmaBuf>,
    },
}

/// A SANITIZE in execution.
#[derive(Debug)]
pub struct Job {
    method: SanitizeMethod,
    block_size: u32,
    blocks: u64,
    may_unmap: bool,
    /// The pass that is under way, from 0, and its first block that is not done.
    pass: u8,
    at: u64,
    /// `at` before the operation at the device, where it is tried again.
    from: u64,
    /// The buffer of the operation that is tried again.
    kept: Option<DmaBuf>,
    /// The operation at the device is the flush that ends a pass.
    flushing: bool,
    told: u16,
}

impl Job {
    pub fn new(sanitize: &Sanitize, info: &DeviceInfo) -> Self {
        Self {
            method: sanitize.method.clone(),
            block_size: info.block_size,
            blocks: info.blocks,
            may_unmap: info.unmap,
            pass: 0,
            at: 0,
            from: 0,
            kept: None,
            flushing: false,
            told: 0,
        }
    }

    /// What is next, after the answer to the last step.
    pub fn next(&mut self, event: JobEvent) -> JobStep {
        let buf = match event {
            JobEvent::Begin => None,
            JobEvent::Buffer(buf) => Some(self.filled(buf)),
            JobEvent::Again => self.kept.take(),
            JobEvent::Completed {
                result: Err(IoError::Resource),
                buf,
            } => {
                self.at = self.from;
                self.flushing = false;
                self.kept = buf;
                return JobStep::Wait;
            }
            JobEvent::Completed {
                result: Err(error), ..
            } => return JobStep::Done(Err(error)),
            JobEvent::Completed {
                result: Ok(()),
                buf,
            } => buf,
        };
        if self.flushing {
            self.flushing = false;
            self.pass += 1;
            self.at = 0;
        }
        if self.pass == self.passes() {
            return JobStep::Done(Ok(()));
        }
        self.from = self.at;
        if self.at == self.blocks {
            // SBC-3 §4.11: what is sanitized is the medium, caches included, in every pass.
            self.flushing = true;
            return JobStep::Submit(Operation::Flush);
        }
        match self.method {
            SanitizeMethod::BlockErase | SanitizeMethod::CryptographicErase => self.erase(),
            SanitizeMethod::Overwrite { .. } => self.overwrite(buf),
        }
    }

    /// PROGRESS INDICATION in 65536ths, when enough of it is new to be told.
    pub fn progress(&mut self) -> Option<u16> {
        let whole = u128::from(self.blocks) * u128::from(self.passes());
        let done = u128::from(self.blocks) * u128::from(self.pass) + u128::from(self.at);
        let progress = u16::try_from((done << 16) / whole.max(1)).unwrap_or(u16::MAX);
        if progress / PROGRESS_STEP == self.told / PROGRESS_STEP {
            return None;
        }
        self.told = progress;
        Some(progress)
    }

    fn passes(&self) -> u8 {
        match self.method {
            SanitizeMethod::Overwrite { count, .. } => count,
            SanitizeMethod::BlockErase | SanitizeMethod::CryptographicErase => 1,
        }
    }

    fn erase(&mut self) -> JobStep {
        let piece = ERASE_BYTES / u64::from(self.block_size);
        let (lba, blocks) = (self.at, piece.min(self.blocks - self.at));
        self.at += blocks;
        JobStep::Submit(Operation::WriteZeroes {
            lba,
            blocks,
            fua: false,
            may_unmap: self.may_unmap,
        })
    }

    fn overwrite(&mut self, buf: Option<DmaBuf>) -> JobStep {
        let piece = u64::from(OVERWRITE_BYTES / self.block_size);
        let blocks = piece.min(self.blocks - self.at);
        let bytes = blocks * u64::from(self.block_size);
        let bytes = usize::try_from(bytes).expect("at most OVERWRITE_BYTES");
        let Some(mut buf) = buf.filter(|buf| buf.len() >= bytes) else {
            return JobStep::Buffer(bytes);
        };
        buf.truncate(bytes);
        let lba = self.at;
        self.at += blocks;
        JobStep::Submit(Operation::Write {
            lba,
            blocks: u32::try_from(blocks).expect("at most OVERWRITE_BYTES"),
            buf,
            fua: false,
        })
    }

    /// Fills a buffer of whole blocks with the pattern of the pass.
    fn filled(&self, mut buf: DmaBuf) -> DmaBuf {
        let SanitizeMethod::Overwrite {
            pattern,
            invert,
            count,
        } = &self.method
        else {
            return buf;
        };
        // SBC-3, INVERT: every second pass, so that the last one is the pattern itself.
        let inverted = *invert && (*count - self.pass).is_multiple_of(2);
        let flip = if inverted { 0xff } else { 0 };
        let bytes = usize::try_from(self.block_size).expect("at most 4096");
        let block: Vec<u8> = pattern
            .iter()
            .cycle()
            .take(bytes)
            .map(|byte| byte ^ flip)
            .collect();
        for at in (0..buf.len()).step_by(bytes) {
            buf.copy_from(at, &block);
        }
        buf
    }
}

/// How a command ends that waited for a sanitize operation which failed, and what is answered from
/// then on (SBC-3 §4.11).
pub const SANITIZE_COMMAND_FAILED: Sense = Sense::new(
    SenseKey::MediumError,
    AdditionalSense::SANITIZE_COMMAND_FAILED,
);

/// [`SANITIZE_COMMAND_FAILED`] as the end of a command.
pub const FAILED: Outcome = Outcome {
    status: Status::CheckCondition,
    sense: Some(SANITIZE_COMMAND_FAILED),
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Pages, Pool};
    use crate::scsi::testbed;

    const BLOCKS: u64 = 1200;

    fn run(method: SanitizeMethod, info: &DeviceInfo) -> (Vec<u8>, Vec<Operation>, Vec<u16>) {
        let pool = Pool::new(1 << 20, Pages::Normal).unwrap();
        let sanitize = Sanitize {
            method,
            unrestricted_exit: false,
        };
        let mut job = Job::new(&sanitize, info);
        let size = usize::try_from(info.block_size).unwrap();
        let mut disk = vec![0xee; usize::try_from(info.blocks.min(BLOCKS)).unwrap() * size];
        let (mut seen, mut told) = (Vec::new(), Vec::new());
        let mut event = JobEvent::Begin;
        for _ in 0..10_000 {
            event = match job.next(event) {
                JobStep::Buffer(bytes) => {
                    let mut buf = pool.alloc(bytes).unwrap();
                    buf.fill(0, bytes, 0x11);
                    JobEvent::Buffer(buf)
                }
                JobStep::Submit(operation) => {
                    let (lba, _) = operation.range();
                    if let Operation::Write { buf, .. } = &operation {
                        let from = usize::try_from(lba).unwrap() * size;
                        buf.copy_to(0, &mut disk[from..from + buf.len()]);
                    }
                    let (operation, buf) = split(operation);
                    seen.push(operation);
                    JobEvent::Completed {
                        result: Ok(()),
                        buf,
                    }
                }
                JobStep::Wait => panic!("the device was short of nothing"),
                JobStep::Done(result) => {
                    assert_eq!(result, Ok(()));
                    return (disk, seen, told);
                }
            };
            told.extend(job.progress());
        }
        panic!("the job did not end");
    }

    /// The operation without its buffer, and the buffer.
    fn split(operation: Operation) -> (Operation, Option<DmaBuf>) {
        match operation {
            Operation::Write {
                lba,
                blocks,
                buf,
                fua,
            } => {
                let empty = Operation::Write {
                    lba,
                    blocks,
                    buf: DmaBuf::empty(),
                    fua,
                };
                (empty, Some(buf))
            }
            other => (other, None),
        }
    }

    #[test]
    fn block_erase_zeroes_every_block_in_pieces_and_flushes() {
        let blocks = (1 << 20) + 5;
        for unmap in [true, false] {
            let mut info = testbed::info(512, blocks);
            info.unmap = unmap;
            for method in [
                SanitizeMethod::BlockErase,
                SanitizeMethod::CryptographicErase,
            ] {
                let (_, seen, _) = run(method, &info);
                let mut next = 0;
                for operation in &seen[..seen.len() - 1] {
                    let Operation::WriteZeroes {
                        lba,
                        blocks,
                        may_unmap,
                        ..
                    } = *operation
                    else {
                        panic!("{operation:?}")
                    };
                    assert_eq!((lba, may_unmap), (next, unmap));
                    next += blocks;
                }
                assert_eq!((next, seen.len()), (blocks, 4));
                assert!(matches!(seen[3], Operation::Flush));
            }
        }
    }

    #[test]
    fn every_second_pass_is_inverted_and_never_the_last() {
        let pool = Pool::new(1 << 20, Pages::Normal).unwrap();
        for (count, passes) in [
            (1, &[0x0f][..]),
            (2, &[0xf0, 0x0f]),
            (3, &[0x0f, 0xf0, 0x0f]),
        ] {
            let what = Sanitize {
                method: SanitizeMethod::Overwrite {
                    pattern: vec![0x0f],
                    count,
                    invert: true,
                },
                unrestricted_exit: false,
            };
            let mut job = Job::new(&what, &testbed::info(512, BLOCKS));
            for (pass, byte) in (0..).zip(passes) {
                job.pass = pass;
                let filled = job.filled(pool.alloc(512).unwrap());
                assert!(filled.slices().flatten().all(|one| one == byte), "{count}");
            }
        }
    }

    #[test]
    fn overwrite_repeats_the_pattern_over_each_block_and_inverts_every_second_pass() {
        let info = testbed::info(512, BLOCKS);
        let pattern: Vec<u8> = (1..=200).collect();
        for (count, invert) in [(1, true), (2, true), (3, true), (2, false)] {
            let method = SanitizeMethod::Overwrite {
                pattern: pattern.clone(),
                count,
                invert,
            };
            let (disk, seen, _) = run(method, &info);
            let block: Vec<u8> = pattern.iter().cycle().take(512).copied().collect();
            assert!(disk.chunks(512).all(|one| one == block), "{count} {invert}");
            let flushes = seen.iter().filter(|op| matches!(op, Operation::Flush));
            assert_eq!(flushes.count(), usize::from(count));
            assert_eq!(seen.len(), usize::from(count) * 4);
        }
    }

    #[test]
    fn progress_rises_and_is_told_64_times_at_most() {
        let info = testbed::info(512, 1 << 20);
        let method = SanitizeMethod::Overwrite {
            pattern: vec![1],
            count: 3,
            invert: false,
        };
        let sanitize = Sanitize {
            method,
            unrestricted_exit: false,
        };
        let mut job = Job::new(&sanitize, &info);
        let mut told = Vec::new();
        for pass in 0..3 {
            for at in 0..4096 {
                (job.pass, job.at) = (pass, at << 8);
                told.extend(job.progress());
            }
        }
        assert!(
            told.is_sorted() && told.len() > 32 && told.len() <= 64,
            "{told:?}"
        );
    }

    #[test]
    fn a_shortage_ends_nothing_and_the_same_is_tried_again() {
        let info = testbed::info(512, BLOCKS);
        let pool = Pool::new(1 << 20, Pages::Normal).unwrap();
        let overwrite = SanitizeMethod::Overwrite {
            pattern: b"wipe".to_vec(),
            count: 2,
            invert: true,
        };
        for method in [SanitizeMethod::BlockErase, overwrite] {
            let sanitize = Sanitize {
                method: method.clone(),
                unrestricted_exit: false,
            };
            let (_, wanted, _) = run(method, &info);
            let mut job = Job::new(&sanitize, &info);
            let (mut seen, mut buffers, mut is_short) = (Vec::new(), 0, false);
            let mut event = JobEvent::Begin;
            loop {
                event = match job.next(event) {
                    JobStep::Buffer(bytes) => {
                        buffers += 1;
                        JobEvent::Buffer(pool.alloc(bytes).unwrap())
                    }
                    JobStep::Submit(operation) => {
                        // Every operation fails once, flushes too.
                        is_short = !is_short;
                        if let Operation::Write { buf, .. } = &operation {
                            let mut bytes = [0; 4];
                            buf.copy_to(0, &mut bytes);
                            // Two passes, the first one inverted.
                            let flip = if seen.len() < wanted.len() / 2 {
                                0xff
                            } else {
                                0
                            };
                            assert_eq!(bytes, b"wipe".map(|byte| byte ^ flip));
                        }
                        let (operation, buf) = split(operation);
                        let result = if is_short {
                            Err(IoError::Resource)
                        } else {
                            seen.push(operation);
                            Ok(())
                        };
                        JobEvent::Completed { result, buf }
                    }
                    JobStep::Wait => {
                        assert!(is_short);
                        JobEvent::Again
                    }
                    JobStep::Done(result) => {
                        assert_eq!(result, Ok(()));
                        break;
                    }
                };
            }
            assert_eq!(format!("{seen:?}"), format!("{wanted:?}"));
            assert!(buffers <= 2, "a buffer a pass, kept over the shortages");
        }
    }

    #[test]
    fn an_error_of_the_device_ends_it() {
        let info = testbed::info(512, BLOCKS);
        let sanitize = Sanitize {
            method: SanitizeMethod::BlockErase,
            unrestricted_exit: true,
        };
        let mut job = Job::new(&sanitize, &info);
        assert!(matches!(job.next(JobEvent::Begin), JobStep::Submit(_)));
        let failed = JobEvent::Completed {
            result: Err(IoError::Medium),
            buf: None,
        };
        assert!(matches!(
            job.next(failed),
            JobStep::Done(Err(IoError::Medium))
        ));
    }
}
