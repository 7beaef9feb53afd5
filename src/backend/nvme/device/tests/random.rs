//! Random requests, faults and resets, against a map of blocks.

use proptest::prelude::*;

use super::super::super::link::Note;
use super::super::super::model::faults::{Action, Match};
use super::super::super::spec::status::Status;
use super::bench::{Bench, geometry, limits, pattern};
use crate::backend::request::{IoError, Operation};

/// Blocks that a core's requests are in.
const ZONE: u64 = 256;

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write { core: u8, lba: u8, blocks: u8 },
    Read { core: u8, lba: u8, blocks: u8 },
    Zero { core: u8, lba: u8, blocks: u8 },
    Unmap { core: u8, lba: u8, blocks: u8 },
    Flush { core: u8 },
    Turn { core: u8, steps: u8 },
    Fault { skip: u8, kind: u8 },
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0_u8..4, 0_u8..200, 1_u8..56);
    prop_oneof![
        6 => place().prop_map(|(core, lba, blocks)| Step::Write { core, lba, blocks }),
        6 => place().prop_map(|(core, lba, blocks)| Step::Read { core, lba, blocks }),
        1 => place().prop_map(|(core, lba, blocks)| Step::Zero { core, lba, blocks }),
        1 => place().prop_map(|(core, lba, blocks)| Step::Unmap { core, lba, blocks }),
        1 => (0_u8..4).prop_map(|core| Step::Flush { core }),
        12 => (0_u8..4, 0_u8..30).prop_map(|(core, steps)| Step::Turn { core, steps }),
        1 => (0_u8..8, 0_u8..7).prop_map(|(skip, kind)| Step::Fault { skip, kind }),
        1 => Just(Step::Reset),
    ]
}

/// What a read must find: the request's place, and what was there when it was submitted.
struct Expected {
    core: usize,
    tag: u64,
    data: Option<Vec<u8>>,
}

struct Run {
    bench: Bench,
    pairs: u16,
    /// What the blocks hold when all that was submitted is done.
    blocks: Vec<u8>,
    /// Whether a request under way touches the block.
    busy: Vec<bool>,
    open: Vec<(Expected, std::ops::Range<usize>)>,
    stamp: u64,
}

impl Run {
    fn new(seed: u64, cores: usize, pairs: u16) -> Self {
        let mut bench = Bench::with(seed, limits(), geometry(), cores);
        bench.open(pairs);
        bench.turn(0);
        let blocks = usize::try_from(ZONE).unwrap() * cores;
        Self {
            bench,
            pairs,
            blocks: vec![0; 512 * blocks],
            busy: vec![false; blocks],
            open: Vec::new(),
            stamp: 0,
        }
    }

    /// Blocks of the core's zone that no request under way touches.
    fn place(&self, core: u8, lba: u8, blocks: u8) -> Option<(usize, std::ops::Range<usize>)> {
        let core = usize::from(core) % self.bench.cores.len();
        let from = core * usize::try_from(ZONE).unwrap() + usize::from(lba);
        let range = from..from + usize::from(blocks);
        let free = !self.busy[range.clone()].contains(&true);
        free.then_some((core, range))
    }

    fn begin(&mut self, core: usize, range: std::ops::Range<usize>, operation: Operation) {
        let is_read = matches!(operation, Operation::Read { .. });
        let bytes = 512 * range.start..512 * range.end;
        let data = is_read.then(|| self.blocks[bytes].to_vec());
        self.busy[range.clone()].fill(true);
        let tag = self.bench.submit(core, operation);
        self.open.push((Expected { core, tag, data }, range));
    }

    fn on_blocks(&mut self, step: Step) {
        let (Step::Write { core, lba, blocks }
        | Step::Read { core, lba, blocks }
        | Step::Zero { core, lba, blocks }
        | Step::Unmap { core, lba, blocks }) = step
        else {
            return;
        };
        let Some((core, range)) = self.place(core, lba, blocks) else {
            return;
        };
        let (lba, count) = (range.start as u64, u32::from(blocks));
        let bytes = 512 * range.start..512 * range.end;
        let operation = match step {
            Step::Write { .. } => {
                self.stamp += 1;
                let data = pattern(self.stamp, bytes.len());
                self.blocks[bytes].copy_from_slice(&data);
                Operation::Write {
                    lba,
                    blocks: count,
                    buf: self.bench.buf(core, &data),
                    fua: self.stamp.is_multiple_of(3),
                }
            }
            Step::Read { .. } => Operation::Read {
                lba,
                blocks: count,
                buf: self.bench.buf(core, &vec![0xee; bytes.len()]),
            },
            Step::Zero { .. } => {
                self.blocks[bytes].fill(0);
                super::zero(lba, count.into(), self.stamp.is_multiple_of(2))
            }
            _ => {
                self.blocks[bytes].fill(0);
                let blocks = count.into();
                Operation::Unmap { lba, blocks }
            }
        };
        self.begin(core, range, operation);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Flush { core } => {
                let core = usize::from(core) % self.bench.cores.len();
                self.begin(core, 0..0, Operation::Flush);
            }
            Step::Turn { core, steps } => {
                let core = usize::from(core) % self.bench.cores.len();
                self.bench.core_turn(core, steps.into());
                self.look();
            }
            Step::Fault { skip, kind } => {
                let action = match kind {
                    0 => Action::Duplicate,
                    1 => Action::WrongCid(0x3ff),
                    2 => Action::StalePhase,
                    3 => Action::WrongHead(40),
                    4 => Action::Drop,
                    5 => Action::CompleteLate(25),
                    _ => Action::Status(Status::INTERRUPTED),
                };
                let skip = skip.into();
                self.bench
                    .model
                    .faults(|plan| plan.nth(Match::any_io(), skip, action));
            }
            Step::Reset => self.reset(),
            _ => self.on_blocks(step),
        }
        // What a keeper does about a breach.
        let broken = |note| matches!(note, Some(Note::Broken(..)));
        if broken(self.bench.note()) {
            self.reset();
        }
    }

    fn reset(&mut self) {
        self.bench.reset();
        self.bench.turn(3);
        self.bench.open(self.pairs);
        self.look();
    }

    /// Looks at what was answered.
    fn look(&mut self) {
        let mut at = 0;
        while at < self.open.len() {
            let (Expected { core, tag, .. }, _) = &self.open[at];
            let Some((result, buf)) = self.bench.cores[*core].answered.remove(tag) else {
                at += 1;
                continue;
            };
            let (expected, range) = self.open.swap_remove(at);
            self.busy[range.clone()].fill(false);
            if result == Err(IoError::Recovering) {
                // Sent again too often. Nobody knows what a write has done.
                self.forget(&expected, range);
                continue;
            }
            assert_eq!(result, Ok(()));
            if let Some(data) = expected.data {
                assert!(buf.unwrap().to_vec() == data, "blocks {range:?} differ");
            }
        }
    }

    fn forget(&mut self, expected: &Expected, range: std::ops::Range<usize>) {
        if expected.data.is_none() {
            let (lba, count) = (range.start as u64, range.len() as u64);
            let found = self.bench.blocks(lba, count);
            self.blocks[512 * range.start..512 * range.end].copy_from_slice(&found);
        }
    }

    fn end(mut self) {
        self.bench.model.faults(|plan| plan.clear());
        for _ in 0..3 {
            for _ in 0..200 {
                self.bench.turn(20);
            }
            self.bench.pass(super::SECOND);
            self.look();
            if !self.open.is_empty() {
                self.reset();
            }
        }
        for _ in 0..200 {
            self.bench.turn(20);
        }
        self.look();
        assert_eq!(self.open.len(), 0, "all are answered");
        let found = self.bench.blocks(0, self.busy.len() as u64);
        assert!(found == self.blocks, "the medium differs at the end");
        for core in &self.bench.cores {
            assert_eq!(core.pool.available(), core.pool.chunks());
        }
        assert_eq!(super::quarantined(&self.bench), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_core_agrees_with_a_map(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut run = Run::new(seed, 1, 1);
        steps.into_iter().for_each(|step| run.take(step));
        run.end();
    }

    #[test]
    fn cores_that_share_agree_with_a_map(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut run = Run::new(seed, 4, 2);
        steps.into_iter().for_each(|step| run.take(step));
        run.end();
    }
}
