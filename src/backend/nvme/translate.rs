//! From an [`Operation`] to commands: a [`Job`] knows what is left to do of one, and gives it out
//! cut by cut.
//!
//! - A flush is nothing where there is no write cache.
//! - UNMAP is Dataset Management, as many ranges in a command as the controller takes. It is
//!   advice; that blocks read as zeroes then is promised only where the namespace promises it.
//! - Zeroes are Write Zeroes; where the controller has none, they are written out of one page.
//! - Which blocks have memory behind them is not known: all of them may.
//!
//! Comparing and writing at once is no fused command: few controllers have them, and the target
//! freezes the range anyway.

use super::super::request::{IoError, LbaRun, Manner, Operation};
use super::facts::{Geometry, Limits};
use super::outcome::Access;
use super::spec::command::{self, Blocks};
use super::spec::entry::{NamespaceId, SubmissionEntry};
use super::split::{self, Cut, Rules};

/// What each command of a job does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verb {
    Read,
    Write,
    Zero,
    /// Writes of zeroes, where there is no Write Zeroes.
    ZeroByWriting,
    Deallocate,
    Flush,
}

/// Where a job's commands find their data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Data {
    None,
    /// So many bytes of the request's buffer, from the cut's offset on.
    Buffer(usize),
    /// So many bytes of zeroes.
    Zeroes(usize),
    /// Ranges, which are written to the list page of the command.
    Ranges(usize),
}

/// How a namespace is to be served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service<'a> {
    pub(crate) geometry: &'a Geometry,
    pub(crate) limits: &'a Limits,
    /// Blocks that it has now.
    pub(crate) blocks: u64,
    /// What completes is on the medium.
    pub(crate) write_through: bool,
}

/// What is left to do of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Job {
    verb: Verb,
    namespace: NamespaceId,
    block_shift: u8,
    fua: bool,
    /// Zeroing may give blocks up.
    deallocate: bool,
    /// A flush is to follow when all is done.
    flush_behind: bool,
    rules: Rules,
    total: u64,
    lba: u64,
    left: u64,
    offset: usize,
    /// Blocks of one range of a deallocation.
    range_blocks: u32,
}

/// What a new operation comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Begun {
    Job(Job),
    /// It is done already.
    Done,
}

/// Begins `operation`, which has blocks unless it is a flush.
pub(crate) fn begin(
    operation: &mut Operation,
    service: &Service<'_>,
    manner: Manner,
) -> Result<Begun, IoError> {
    let Service {
        geometry, limits, ..
    } = *service;
    let (lba, blocks) = operation.range();
    if lba
        .checked_add(blocks)
        .is_none_or(|end| end > service.blocks)
    {
        return Err(IoError::OutOfRange);
    }
    let through = service.write_through && manner.durable && limits.write_cache;
    let job = |verb, rules| Job {
        verb,
        namespace: geometry.namespace,
        block_shift: geometry.block_shift,
        fua: false,
        deallocate: false,
        flush_behind: false,
        rules,
        total: blocks,
        lba,
        left: blocks,
        offset: 0,
        range_blocks: 0,
    };
    let job = match operation {
        Operation::LbaStatus { buf, .. } => {
            let run = LbaRun {
                blocks: service.blocks - lba,
                mapped: true,
            };
            run.emit(buf);
            return Ok(Begun::Done);
        }
        Operation::Flush if !limits.write_cache => return Ok(Begun::Done),
        Operation::Flush => flush(geometry.namespace),
        Operation::Read { .. } => job(Verb::Read, split::of_transfers(geometry, limits)),
        Operation::Write { fua, .. } => Job {
            fua: limits.write_cache && (*fua || through),
            ..job(Verb::Write, split::of_transfers(geometry, limits))
        },
        Operation::Unmap { .. } => {
            let most = limits.deallocate.ok_or(IoError::Unsupported)?;
            Job {
                range_blocks: most.range_blocks.max(1),
                flush_behind: through,
                ..job(Verb::Deallocate, split::of_deallocations(&most))
            }
        }
        Operation::WriteZeroes { fua, may_unmap, .. } => {
            let (verb, rules) = match limits.write_zeroes_bytes {
                Some(bytes) => (Verb::Zero, split::of_zeroes(geometry, bytes)),
                None => (Verb::ZeroByWriting, split::of_transfers(geometry, limits)),
            };
            Job {
                fua: limits.write_cache && (*fua || through),
                deallocate: *may_unmap && geometry.write_zeroes_deallocates,
                ..job(verb, rules)
            }
        }
    };
    Ok(Begun::Job(job))
}

/// A flush has one command, on no block.
fn flush(namespace: NamespaceId) -> Job {
    Job {
        verb: Verb::Flush,
        namespace,
        block_shift: 0,
        fua: false,
        deallocate: false,
        flush_behind: false,
        rules: Rules {
            most: 1,
            boundary: 0,
            whole: 1,
        },
        total: 1,
        lba: 0,
        left: 1,
        offset: 0,
        range_blocks: 0,
    }
}

impl Job {
    pub(crate) fn access(&self) -> Access {
        match self.verb {
            Verb::Read => Access::Read,
            Verb::Write | Verb::Zero | Verb::ZeroByWriting | Verb::Deallocate | Verb::Flush => {
                Access::Write
            }
        }
    }

    pub(crate) fn namespace(&self) -> NamespaceId {
        self.namespace
    }

    /// The namespace whose write cache its command flushes, if that is what it does.
    pub(crate) fn flushes(&self) -> Option<NamespaceId> {
        matches!(self.verb, Verb::Flush).then_some(self.namespace)
    }

    /// The namespace in whose write cache may be what a command of it has changed.
    pub(crate) fn caches(&self) -> Option<NamespaceId> {
        let caches = match self.verb {
            Verb::Write | Verb::Zero | Verb::ZeroByWriting => !self.fua,
            Verb::Deallocate => true,
            Verb::Read | Verb::Flush => false,
        };
        caches.then_some(self.namespace)
    }

    /// Every command was given out.
    pub(crate) fn is_given_out(&self) -> bool {
        self.left == 0
    }

    /// The next command's part.
    pub(crate) fn next(&mut self) -> Option<Cut> {
        if self.left == 0 {
            return None;
        }
        let blocks = split::first_cut(self.rules, self.total, self.lba, self.left);
        let cut = Cut {
            lba: self.lba,
            blocks,
            offset: self.offset,
        };
        self.lba += u64::from(blocks);
        self.left -= u64::from(blocks);
        if matches!(self.verb, Verb::Read | Verb::Write) {
            self.offset += bytes(blocks, self.block_shift);
        }
        Some(cut)
    }

    /// Nothing more is to be given out.
    pub(crate) fn give_up(&mut self) {
        self.left = 0;
        self.flush_behind = false;
    }

    /// All was done: whether there is something to do behind it, which it becomes.
    pub(crate) fn go_on(&mut self) -> bool {
        let flushes = self.flush_behind;
        if flushes {
            *self = flush(self.namespace);
        }
        flushes
    }

    /// The command of a cut, but for its CID and its data pointer.
    pub(crate) fn command(&self, cut: &Cut) -> (SubmissionEntry, Data) {
        let blocks = Blocks {
            namespace: self.namespace,
            lba: cut.lba,
            count: cut.blocks,
        };
        let len = || bytes(cut.blocks, self.block_shift);
        match self.verb {
            Verb::Read => (command::read(blocks), Data::Buffer(len())),
            Verb::Write => (command::write(blocks, self.fua), Data::Buffer(len())),
            Verb::ZeroByWriting => (command::write(blocks, self.fua), Data::Zeroes(len())),
            Verb::Zero => {
                let entry = command::write_zeroes(blocks, self.fua, self.deallocate);
                (entry, Data::None)
            }
            Verb::Flush => (command::flush(self.namespace), Data::None),
            Verb::Deallocate => {
                let ranges = self.ranges(cut).count();
                let entry = command::deallocate(self.namespace, ranges);
                (entry, Data::Ranges(ranges))
            }
        }
    }

    /// The ranges of a deallocation: (first block, blocks).
    pub(crate) fn ranges(&self, cut: &Cut) -> impl Iterator<Item = (u64, u32)> + use<> {
        let (mut lba, mut left, most) = (cut.lba, cut.blocks, self.range_blocks);
        std::iter::from_fn(move || {
            let blocks = left.min(most);
            let range = (lba, blocks);
            lba += u64::from(blocks);
            left -= blocks;
            (blocks > 0).then_some(range)
        })
    }
}

fn bytes(blocks: u32, block_shift: u8) -> usize {
    let bytes = u64::from(blocks) << block_shift;
    usize::try_from(bytes).expect("a transfer of 1 MiB at most")
}

#[cfg(test)]
mod tests {
    use super::super::facts::DeallocateLimits;
    use super::super::spec::command::io;
    use super::super::spec::identify::Identifiers;
    use super::*;
    use crate::mem::{DmaBuf, Pages, Pool};

    const GEOMETRY: Geometry = Geometry {
        namespace: NamespaceId(7),
        block_shift: 9,
        boundary_blocks: 0,
        atomic_blocks: 1,
        atomic_boundary: None,
        unmapped_reads_zeroes: true,
        write_zeroes_deallocates: true,
        deallocate_granularity: 1,
        thin: false,
        identifiers: Identifiers {
            eui64: None,
            nguid: None,
            uuid: None,
            command_set: None,
        },
    };
    const LIMITS: Limits = Limits {
        queue_entries: 16,
        queue_pairs: 1,
        transfer_bytes: 8192,
        write_zeroes_bytes: Some(1 << 20),
        deallocate: Some(DeallocateLimits {
            ranges: 3,
            range_blocks: 100,
            blocks: 250,
        }),
        write_cache: true,
    };
    const CACHED: Service<'_> = Service {
        geometry: &GEOMETRY,
        limits: &LIMITS,
        blocks: 10_000,
        write_through: false,
    };
    const THROUGH: Service<'_> = Service {
        write_through: true,
        ..CACHED
    };
    const MANNER: Manner = Manner {
        durable: true,
        past_limit: false,
    };

    fn write(lba: u64, blocks: u32, fua: bool) -> Operation {
        Operation::Write {
            lba,
            blocks,
            buf: DmaBuf::empty(),
            fua,
        }
    }

    fn zero(blocks: u64, may_unmap: bool) -> Operation {
        Operation::WriteZeroes {
            lba: 5,
            blocks,
            fua: false,
            may_unmap,
        }
    }

    fn job(mut operation: Operation, service: &Service<'_>) -> Job {
        match begin(&mut operation, service, MANNER) {
            Ok(Begun::Job(job)) => job,
            other => panic!("{operation:?} begins as {other:?}"),
        }
    }

    /// Opcode, first block and CDW12 of each command.
    fn commands(mut job: Job) -> Vec<(u8, u64, u32)> {
        let entries = std::iter::from_fn(|| {
            let cut = job.next()?;
            Some(job.command(&cut).0)
        });
        entries
            .map(|entry| (entry.opcode(), entry.lba(), entry.dword(12)))
            .collect()
    }

    #[test]
    fn a_transfer_is_cut_and_each_cut_has_its_place_in_the_buffer() {
        let mut job = job(write(4, 40, false), &CACHED);
        let mut places = Vec::new();
        while let Some(cut) = job.next() {
            let (entry, data) = job.command(&cut);
            assert_eq!(
                (entry.opcode(), entry.namespace()),
                (io::WRITE, NamespaceId(7))
            );
            assert_eq!(entry.lba(), cut.lba);
            places.push((cut.lba, cut.offset, data));
        }
        assert!(job.is_given_out() && !job.go_on());
        assert_eq!(
            places,
            [
                (4, 0, Data::Buffer(8192)),
                (20, 8192, Data::Buffer(8192)),
                (36, 16_384, Data::Buffer(4096))
            ]
        );
    }

    #[test]
    fn fua_is_said_where_a_cache_can_lose_something() {
        const FUA: u32 = 1 << 30;
        let limits = Limits {
            write_cache: false,
            ..LIMITS
        };
        let uncached = Service {
            limits: &limits,
            ..THROUGH
        };
        for (service, asked, said) in [
            (&CACHED, false, false),
            (&CACHED, true, true),
            (&THROUGH, false, true),
            (&uncached, true, false),
        ] {
            let commands = commands(job(write(0, 1, asked), service));
            let flag = if said { FUA } else { 0 };
            assert_eq!(commands, [(io::WRITE, 0, flag)]);
        }
        let fault = Manner::new(false, false);
        let Ok(Begun::Job(job)) = begin(&mut write(0, 1, false), &THROUGH, fault) else {
            panic!("a write is begun");
        };
        assert_eq!(commands(job), [(io::WRITE, 0, 0)]);
        let flushed = begin(&mut Operation::Flush, &uncached, MANNER);
        assert_eq!(flushed, Ok(Begun::Done));
        let mut operation = Operation::Flush;
        let Ok(Begun::Job(mut flush)) = begin(&mut operation, &CACHED, MANNER) else {
            panic!("there is a cache to flush");
        };
        let cut = flush.next().unwrap();
        let (entry, data) = flush.command(&cut);
        assert_eq!((entry.opcode(), data), (io::FLUSH, Data::None));
        assert_eq!(entry.namespace(), NamespaceId(7), "and no other's");
        assert_eq!(flush.next(), None);
    }

    #[test]
    fn zeroes_are_not_sent_where_the_controller_makes_them() {
        const DEAC: u32 = 1 << 25;
        assert_eq!(
            commands(job(zero(3000, true), &CACHED)),
            [
                (io::WRITE_ZEROES, 5, DEAC | 2047),
                (io::WRITE_ZEROES, 2053, DEAC | 951)
            ]
        );
        assert_eq!(
            commands(job(zero(1, false), &CACHED)),
            [(io::WRITE_ZEROES, 5, 0)]
        );
        let geometry = Geometry {
            write_zeroes_deallocates: false,
            ..GEOMETRY
        };
        let kept = Service {
            geometry: &geometry,
            ..CACHED
        };
        assert_eq!(
            commands(job(zero(1, true), &kept)),
            [(io::WRITE_ZEROES, 5, 0)]
        );
        let limits = Limits {
            write_zeroes_bytes: None,
            ..LIMITS
        };
        let service = Service {
            limits: &limits,
            ..CACHED
        };
        let mut written = job(zero(17, true), &service);
        let cut = written.next().unwrap();
        let (entry, data) = written.command(&cut);
        assert_eq!((entry.opcode(), data), (io::WRITE, Data::Zeroes(8192)));
        let cut = written.next().unwrap();
        assert_eq!(written.command(&cut).1, Data::Zeroes(512));
    }

    #[test]
    fn deallocations_keep_all_three_limits() {
        let unmap = |blocks| Operation::Unmap { lba: 10, blocks };
        let mut all = job(unmap(620), &CACHED);
        let mut ranges = Vec::new();
        while let Some(cut) = all.next() {
            let (entry, data) = all.command(&cut);
            assert_eq!(entry.opcode(), io::DATASET_MANAGEMENT);
            let these: Vec<_> = all.ranges(&cut).collect();
            assert_eq!(data, Data::Ranges(these.len()));
            ranges.push(these);
        }
        assert_eq!(ranges[0], [(10, 100), (110, 100), (210, 50)]);
        assert_eq!(ranges[1], [(260, 100), (360, 100), (460, 50)]);
        assert_eq!(ranges[2], [(510, 100), (610, 20)]);
        assert!(!all.go_on());
        // What is written through is followed by a flush.
        let mut through = job(unmap(1), &THROUGH);
        assert!(through.next().is_some() && through.go_on());
        assert_eq!(commands(through), [(io::FLUSH, 0, 0)]);
        let mut given_up = job(unmap(1), &THROUGH);
        given_up.give_up();
        assert!(given_up.is_given_out() && !given_up.go_on());
        let limits = Limits {
            deallocate: None,
            ..LIMITS
        };
        let service = Service {
            limits: &limits,
            ..CACHED
        };
        let refused = begin(&mut unmap(1), &service, MANNER);
        assert_eq!(refused, Err(IoError::Unsupported));
    }

    #[test]
    fn what_is_beyond_the_namespace_is_refused() {
        for (lba, blocks) in [(9_999, 2), (10_000, 1), (u64::MAX, 1)] {
            let begun = begin(&mut write(lba, blocks, false), &CACHED, MANNER);
            assert_eq!(begun, Err(IoError::OutOfRange), "{lba}");
        }
        begin(&mut write(9_999, 1, false), &CACHED, MANNER).unwrap();
    }

    #[test]
    fn every_block_may_have_memory_behind_it() {
        let pool = Pool::new(4096, Pages::Normal).unwrap();
        let buf = pool.alloc(LbaRun::BYTES).unwrap();
        let mut operation = Operation::LbaStatus { lba: 100, buf };
        let begun = begin(&mut operation, &CACHED, MANNER);
        assert_eq!(begun, Ok(Begun::Done));
        let run = LbaRun::parse(&operation.into_buf().unwrap());
        assert_eq!((run.blocks, run.mapped), (9_900, true));
    }
}
