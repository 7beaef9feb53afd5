//! One operation on a file as a sequence of system calls: a state machine without IO.
//!
//! [`Job::call`] says which call comes next and [`Job::on_result`] takes what it answered; engines
//! differ only in how they make the call. Here short transfers are continued, transient errors are
//! told from others (whoever has a clock bounds how long they are tried again), zeroing falls back
//! from what a file system lacks to what every one has, and what must be durable ends with its
//! fdatasync.
//!
//! Lost writes: the kernel tells a failed write-back to one synchronous call, with whatever errno
//! it met, and forgets it. Where changes may sit in the page cache, a synchronous write that fails
//! could so mean its own bytes or anybody's; a FUA write is a plain write and an fdatasync there.
//! The failure of the write is its own, any failure of the fdatasync is everybody's.

use rustix::io::Errno;

use super::errno;
use crate::backend::{IoError, LbaRun, Operation};

/// Iovecs, and with that segments of a buffer, in one call; a longer transfer takes several.
pub(super) const IOVECS_MAX: usize = 64;
/// Zero bytes that one call writes at most where zeroes have to be written.
pub(super) const ZERO_CALL_BYTES: u64 = 1 << 20;

/// A system call to make on the job's object. Offsets and lengths in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {
    /// Read into the buffer from its byte `done` on.
    Read {
        offset: u64,
        done: u64,
    },
    /// Write the buffer from its byte `done` on; with `dsync` on the medium before it returns.
    Write {
        offset: u64,
        done: u64,
        dsync: bool,
    },
    WriteZeroes {
        offset: u64,
        len: u64,
    },
    /// fdatasync.
    Sync,
    PunchHole {
        offset: u64,
        len: u64,
    },
    ZeroRange {
        offset: u64,
        len: u64,
    },
    /// Whether space backs all of these bytes of a file: 1, or 0.
    IsBacked {
        offset: u64,
        len: u64,
    },
    /// BLKDISCARD.
    Discard {
        offset: u64,
        len: u64,
    },
    /// The first byte from `offset` on that is data: lseek SEEK_DATA.
    SeekData {
        offset: u64,
    },
    /// The first byte from `offset` on that is in a hole: lseek SEEK_HOLE.
    SeekHole {
        offset: u64,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// Make [`Job::call`].
    Call,
    /// Nothing was achieved: make [`Job::call`] again later, or [`Job::give_up`] with this error.
    Again(IoError),
    Done(Result<(), IoError>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Read,
    Write,
    PunchHole,
    ZeroRange,
    WriteZeroes,
    Discard,
    Sync,
    SeekData,
    SeekHole,
    /// Before a change that may take no more space; the one that follows it.
    IsBacked(Change),
}

/// A phase that takes space where none was taken before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    Write,
    ZeroRange,
}

/// What a job must know of the object that it works on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traits {
    pub(super) block_size: u32,
    /// Transfers bypass the page cache and are aligned to this many bytes; 1 where they do not.
    pub(super) align: u64,
    /// Changes, of this operation or of earlier ones, may sit in the page cache.
    pub(super) cached: bool,
    /// Every change is durable before it completes.
    pub(super) write_through: bool,
    pub(super) is_block_device: bool,
    /// Nothing may take more space.
    pub(super) limit_reached: bool,
}

#[derive(Debug)]
pub(super) struct Job {
    phase: Phase,
    offset: u64,
    len: u64,
    done: u64,
    align: u64,
    dsync: bool,
    then_sync: bool,
    /// An unmap, which has no fallback.
    unmap: bool,
    cache_lost: bool,
    block_size: u64,
    /// What a look for holes has found.
    run: Option<LbaRun>,
}

impl Job {
    /// The job of an operation whose range was checked.
    pub(super) fn new(operation: &Operation, traits: Traits) -> Self {
        let (lba, blocks) = operation.range();
        let through = traits.write_through;
        let durable = |fua| fua || through;
        let (phase, dsync, then_sync) = match *operation {
            Operation::Read { .. } => (Phase::Read, false, false),
            Operation::Write { fua, .. } if traits.cached => (Phase::Write, false, durable(fua)),
            Operation::Write { fua, .. } => (Phase::Write, durable(fua), false),
            Operation::Flush => (Phase::Sync, false, false),
            Operation::LbaStatus { .. } => (Phase::SeekData, false, false),
            Operation::Unmap { .. } if traits.is_block_device => (Phase::Discard, false, through),
            Operation::Unmap { .. } => (Phase::PunchHole, false, through),
            Operation::WriteZeroes { fua, may_unmap, .. } => {
                let phase = if may_unmap {
                    Phase::PunchHole
                } else {
                    Phase::ZeroRange
                };
                (phase, false, durable(fua))
            }
        };
        let phase = match phase {
            Phase::Write if traits.limit_reached => Phase::IsBacked(Change::Write),
            Phase::ZeroRange if traits.limit_reached => Phase::IsBacked(Change::ZeroRange),
            phase => phase,
        };
        let size = u64::from(traits.block_size);
        Self {
            phase,
            offset: lba.checked_mul(size).expect("the range was checked"),
            len: blocks.checked_mul(size).expect("the range was checked"),
            done: 0,
            align: traits.align,
            dsync,
            then_sync,
            unmap: matches!(operation, Operation::Unmap { .. }),
            cache_lost: false,
            block_size: size,
            run: None,
        }
    }

    /// The call to make now.
    pub(super) fn call(&self) -> Call {
        let (offset, len, done) = (self.offset + self.done, self.len - self.done, self.done);
        match self.phase {
            Phase::Read => Call::Read { offset, done },
            Phase::Write => Call::Write {
                offset,
                done,
                dsync: self.dsync,
            },
            Phase::WriteZeroes => Call::WriteZeroes {
                offset,
                len: len.min(ZERO_CALL_BYTES),
            },
            Phase::PunchHole => Call::PunchHole { offset, len },
            Phase::ZeroRange => Call::ZeroRange { offset, len },
            Phase::Discard => Call::Discard { offset, len },
            Phase::IsBacked(_) => Call::IsBacked { offset, len },
            Phase::Sync => Call::Sync,
            Phase::SeekData => Call::SeekData { offset },
            Phase::SeekHole => Call::SeekHole { offset },
        }
    }

    /// Takes the answer of the last call: bytes transferred (0 for calls that transfer none) or an
    /// errno.
    pub(super) fn on_result(&mut self, result: Result<usize, Errno>) -> Progress {
        match result {
            Ok(bytes) => self.on_success(bytes as u64),
            Err(errno) if self.may_repeat(errno) => Progress::Again(errno::io_error(errno)),
            Err(errno) => self.on_error(errno),
        }
    }

    /// Whether the end of the job means that writes which were completed earlier may be lost: the
    /// fdatasync failed. A later one would succeed over the loss.
    pub(super) fn cache_lost(&self) -> bool {
        self.cache_lost
    }

    /// Whether the last call was one that success of puts something on the medium, and that learns
    /// of failed write-backs.
    pub(super) fn is_durable(&self) -> bool {
        self.phase == Phase::Sync || self.is_synchronous_write()
    }

    pub(super) fn is_synchronous_write(&self) -> bool {
        self.phase == Phase::Write && self.dsync
    }

    /// Whether the last call may simply be made again. An fdatasync only if it was not made at all:
    /// any other answer may be the only word of a lost write.
    fn may_repeat(&self, errno: Errno) -> bool {
        let not_made = matches!(errno, Errno::INTR | Errno::CANCELED);
        not_made || (self.phase != Phase::Sync && errno::is_transient(errno))
    }

    fn on_success(&mut self, bytes: u64) -> Progress {
        match self.phase {
            Phase::Sync => Progress::Done(Ok(())),
            Phase::SeekData => self.on_data(bytes),
            Phase::SeekHole => self.on_hole(bytes),
            Phase::IsBacked(_) if bytes == 0 => Progress::Done(Err(IoError::NoSpace)),
            Phase::IsBacked(change) => {
                self.phase = match change {
                    Change::Write => Phase::Write,
                    Change::ZeroRange => Phase::ZeroRange,
                };
                Progress::Call
            }
            Phase::PunchHole | Phase::ZeroRange | Phase::Discard => self.finish(),
            Phase::Read | Phase::Write | Phase::WriteZeroes => self.advance(bytes),
        }
    }

    fn advance(&mut self, bytes: u64) -> Progress {
        if bytes == 0 {
            // The object ends before what was asked for: it has shrunk since it was opened.
            let read = self.phase == Phase::Read;
            return if read {
                Progress::Done(Err(IoError::OutOfRange))
            } else {
                Progress::Again(IoError::Medium)
            };
        }
        let reached = self.done.saturating_add(bytes).min(self.len);
        if reached == self.len {
            return self.finish();
        }
        // A direct transfer can only go on at an aligned byte: repeat the part of a block.
        let aligned = reached / self.align * self.align;
        if aligned <= self.done {
            // For reads, a part of a block is what is left before the end of a shrunken file.
            let read = self.phase == Phase::Read;
            return Progress::Again(if read {
                IoError::OutOfRange
            } else {
                IoError::Medium
            });
        }
        self.done = aligned;
        Progress::Call
    }

    fn finish(&mut self) -> Progress {
        if !self.then_sync {
            return Progress::Done(Ok(()));
        }
        self.phase = Phase::Sync;
        self.then_sync = false;
        Progress::Call
    }

    /// The next data begin at byte `at`. Blocks that lie wholly before are a hole.
    fn on_data(&mut self, at: u64) -> Progress {
        let blocks = at.saturating_sub(self.offset) / self.block_size;
        if blocks == 0 {
            self.phase = Phase::SeekHole;
            return Progress::Call;
        }
        self.found(blocks, false)
    }

    /// The next hole begins at byte `at`. A block that it cuts has data too.
    fn on_hole(&mut self, at: u64) -> Progress {
        let bytes = at.saturating_sub(self.offset);
        self.found(bytes.div_ceil(self.block_size).max(1), true)
    }

    fn found(&mut self, blocks: u64, mapped: bool) -> Progress {
        self.run = Some(LbaRun { blocks, mapped });
        Progress::Done(Ok(()))
    }

    /// What an [`Operation::LbaStatus`] has found.
    pub(super) fn run(&self) -> Option<LbaRun> {
        self.run
    }

    /// The call that was to be made again will not be.
    pub(super) fn give_up(&mut self) {
        self.cache_lost = self.phase == Phase::Sync;
    }

    fn on_error(&mut self, errno: Errno) -> Progress {
        let unsupported = matches!(errno, Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL);
        match self.phase {
            // No data up to the end of the file.
            Phase::SeekData if errno == Errno::NXIO => return self.found(u64::MAX, false),
            Phase::SeekHole if errno == Errno::NXIO => return self.found(1, true),
            // What cannot say where its holes are has none.
            Phase::SeekData | Phase::SeekHole if unsupported => return self.found(u64::MAX, true),
            _ => {}
        }
        let fallback = match self.phase {
            // An unmap is a hint that a device may not take; zeroing is not.
            Phase::PunchHole if unsupported && !self.unmap => Some(Phase::ZeroRange),
            Phase::ZeroRange if unsupported => Some(Phase::WriteZeroes),
            _ => None,
        };
        if let Some(phase) = fallback {
            self.phase = phase;
            return Progress::Call;
        }
        self.cache_lost = self.phase == Phase::Sync;
        Progress::Done(Err(errno::io_error(errno)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::DmaBuf;

    const BUFFERED: Traits = Traits {
        block_size: 512,
        align: 1,
        cached: true,
        write_through: false,
        is_block_device: false,
        limit_reached: false,
    };
    const DIRECT: Traits = Traits {
        align: 512,
        cached: false,
        ..BUFFERED
    };

    fn write(fua: bool) -> Operation {
        Operation::Write {
            lba: 2,
            blocks: 4,
            buf: DmaBuf::empty(),
            fua,
        }
    }

    fn zeroes(fua: bool, may_unmap: bool) -> Operation {
        Operation::WriteZeroes {
            lba: 0,
            blocks: 8,
            fua,
            may_unmap,
        }
    }

    #[test]
    fn short_transfers_go_on_where_they_ended() {
        let mut job = Job::new(&write(false), BUFFERED);
        assert_eq!(
            job.call(),
            Call::Write {
                offset: 1024,
                done: 0,
                dsync: false
            }
        );
        assert_eq!(job.on_result(Ok(700)), Progress::Call);
        assert_eq!(
            job.call(),
            Call::Write {
                offset: 1724,
                done: 700,
                dsync: false
            }
        );
        assert_eq!(job.on_result(Ok(1348)), Progress::Done(Ok(())));
    }

    #[test]
    fn short_direct_transfers_repeat_the_part_of_a_block() {
        let mut job = Job::new(&write(true), DIRECT);
        assert_eq!(job.on_result(Ok(700)), Progress::Call);
        assert_eq!(
            job.call(),
            Call::Write {
                offset: 1536,
                done: 512,
                dsync: true
            }
        );
    }

    #[test]
    fn transient_errors_are_left_to_who_has_a_clock() {
        let mut job = Job::new(&write(false), DIRECT);
        let call = job.call();
        for errno in [Errno::AGAIN, Errno::INTR, Errno::CANCELED] {
            let again = job.on_result(Err(errno));
            assert_eq!(again, Progress::Again(errno::io_error(errno)));
            assert_eq!(job.call(), call);
        }
        job.give_up();
        assert!(!job.cache_lost());
        let mut flush = Job::new(&Operation::Flush, BUFFERED);
        let again = flush.on_result(Err(Errno::INTR));
        assert_eq!(again, Progress::Again(IoError::Resource));
        flush.give_up();
        assert!(flush.cache_lost());
    }

    #[test]
    fn a_read_beyond_the_end_is_out_of_range() {
        let mut job = Job::new(
            &Operation::Read {
                lba: 0,
                blocks: 2,
                buf: DmaBuf::empty(),
            },
            DIRECT,
        );
        assert_eq!(job.on_result(Ok(512)), Progress::Call);
        assert_eq!(
            job.on_result(Ok(0)),
            Progress::Done(Err(IoError::OutOfRange))
        );
    }

    #[test]
    fn zeroing_falls_back_and_ends_with_the_sync_that_fua_asks_for() {
        let mut job = Job::new(&zeroes(true, true), BUFFERED);
        assert_eq!(
            job.call(),
            Call::PunchHole {
                offset: 0,
                len: 4096
            }
        );
        assert_eq!(job.on_result(Err(Errno::OPNOTSUPP)), Progress::Call);
        assert_eq!(
            job.call(),
            Call::ZeroRange {
                offset: 0,
                len: 4096
            }
        );
        assert_eq!(job.on_result(Err(Errno::OPNOTSUPP)), Progress::Call);
        assert_eq!(
            job.call(),
            Call::WriteZeroes {
                offset: 0,
                len: 4096
            }
        );
        assert_eq!(job.on_result(Ok(4096)), Progress::Call);
        assert_eq!(job.call(), Call::Sync);
        assert_eq!(job.on_result(Ok(0)), Progress::Done(Ok(())));
    }

    #[test]
    fn an_unmap_that_the_file_system_lacks_is_unsupported() {
        let mut job = Job::new(&Operation::Unmap { lba: 0, blocks: 8 }, BUFFERED);
        let done = job.on_result(Err(Errno::OPNOTSUPP));
        assert_eq!(done, Progress::Done(Err(IoError::Unsupported)));
    }

    #[test]
    fn runs_of_holes_and_data_are_whole_blocks() {
        let status = || {
            let buf = DmaBuf::empty();
            Job::new(&Operation::LbaStatus { lba: 4, buf }, BUFFERED)
        };
        let run = |blocks, mapped| Some(LbaRun { blocks, mapped });
        // A hole that ends within a block leaves that block to the data.
        let mut job = status();
        assert_eq!(job.call(), Call::SeekData { offset: 2048 });
        assert_eq!(job.on_result(Ok(4200)), Progress::Done(Ok(())));
        assert_eq!(job.run(), run(4, false));
        // No data before the end.
        let mut job = status();
        assert_eq!(job.on_result(Err(Errno::NXIO)), Progress::Done(Ok(())));
        assert_eq!(job.run(), run(u64::MAX, false));
        // Data from the block's first byte, or from within it: the hole behind ends the run.
        for data in [2048, 2100] {
            let mut job = status();
            assert_eq!(job.on_result(Ok(data)), Progress::Call);
            assert_eq!(job.call(), Call::SeekHole { offset: 2048 });
            assert_eq!(job.on_result(Ok(3000)), Progress::Done(Ok(())));
            assert_eq!(job.run(), run(2, true));
        }
        // A file system without the calls.
        let mut job = status();
        assert_eq!(job.on_result(Err(Errno::OPNOTSUPP)), Progress::Done(Ok(())));
        assert_eq!(job.run(), run(u64::MAX, true));
    }

    #[test]
    fn write_through_makes_every_change_durable() {
        let through = Traits {
            write_through: true,
            ..DIRECT
        };
        let job = Job::new(&write(false), through);
        assert_eq!(
            job.call(),
            Call::Write {
                offset: 1024,
                done: 0,
                dsync: true
            }
        );
        let mut job = Job::new(&zeroes(false, false), through);
        assert_eq!(job.on_result(Ok(0)), Progress::Call);
        assert_eq!(job.call(), Call::Sync);
    }

    /// Errors of write-back: any errno that a device or a file system can give.
    const LOSSES: [Errno; 9] = [
        Errno::IO,
        Errno::NODATA,
        Errno::NOSPC,
        Errno::NOLINK,
        Errno::TIMEDOUT,
        Errno::ILSEQ,
        Errno::DQUOT,
        Errno::STALE,
        Errno::AGAIN,
    ];

    #[test]
    fn a_durable_write_through_the_cache_is_a_write_and_a_sync() {
        let through = Traits {
            write_through: true,
            ..BUFFERED
        };
        for mut job in [
            Job::new(&write(true), BUFFERED),
            Job::new(&write(false), through),
        ] {
            let plain = matches!(job.call(), Call::Write { dsync: false, .. });
            assert!(plain, "a synchronous write would hear of others' losses");
            assert_eq!(job.on_result(Ok(2048)), Progress::Call);
            assert_eq!(job.call(), Call::Sync);
            assert_eq!(job.on_result(Ok(0)), Progress::Done(Ok(())));
            assert!(job.is_durable() && !job.cache_lost());
        }
    }

    #[test]
    fn any_failure_of_a_sync_loses_the_cache() {
        for errno in LOSSES {
            let error = errno::io_error(errno);
            let mut flush = Job::new(&Operation::Flush, BUFFERED);
            assert_eq!(flush.on_result(Err(errno)), Progress::Done(Err(error)));
            let mut fua = Job::new(&write(true), BUFFERED);
            assert_eq!(fua.on_result(Ok(2048)), Progress::Call);
            assert_eq!(fua.on_result(Err(errno)), Progress::Done(Err(error)));
            let mut zero = Job::new(&zeroes(true, true), DIRECT);
            assert_eq!(zero.on_result(Ok(0)), Progress::Call);
            assert_eq!(zero.on_result(Err(errno)), Progress::Done(Err(error)));
            assert!(flush.cache_lost(), "{errno:?}");
            assert!(fua.cache_lost(), "{errno:?}");
            assert!(zero.cache_lost(), "{errno:?}");
        }
    }

    #[test]
    fn the_failure_of_a_write_is_its_own() {
        for errno in LOSSES {
            for traits in [BUFFERED, DIRECT] {
                let mut job = Job::new(&write(true), traits);
                let again = matches!(job.on_result(Err(errno)), Progress::Again(_));
                assert_eq!(again, errno == Errno::AGAIN, "{errno:?}");
                job.give_up();
                assert!(!job.cache_lost(), "{errno:?}");
                assert_eq!(job.is_durable(), !traits.cached);
            }
        }
    }

    #[test]
    fn a_sync_that_was_not_made_is_made_again() {
        let mut job = Job::new(&Operation::Flush, BUFFERED);
        for errno in [Errno::INTR, Errno::CANCELED] {
            let again = job.on_result(Err(errno));
            assert!(matches!(again, Progress::Again(_)), "{errno:?}");
            assert_eq!(job.call(), Call::Sync);
        }
        assert_eq!(job.on_result(Ok(0)), Progress::Done(Ok(())));
        assert!(!job.cache_lost());
    }
}
