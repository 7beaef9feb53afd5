//! Random operations, faults and power cuts against what blocks may hold.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::blocks::{Blocks, Mark, ZEROES};
use super::rig::{Rig, settings};
use crate::backend::nvme::model::faults::{Action, Match};
use crate::backend::nvme::model::{Model, ModelOptions, NamespaceOptions};
use crate::backend::nvme::spec::entry::NamespaceId;
use crate::backend::nvme::spec::status::Status;
use crate::backend::request::{Completion, Operation};

/// Blocks of the namespace: few, so that operations meet.
const BLOCKS: u64 = 96;
const BLOCK: usize = 512;
/// Requests that are under way at once.
const DEPTH: usize = 24;

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    Write {
        lba: u64,
        blocks: u32,
        fua: bool,
    },
    Read {
        lba: u64,
        blocks: u32,
    },
    Zero {
        lba: u64,
        blocks: u32,
        fua: bool,
        may_unmap: bool,
    },
    Unmap {
        lba: u64,
        blocks: u32,
    },
    Flush,
    Turns(u8),
    Drain,
    Fault(u8, Action),
    Remove,
    PowerCut,
}

fn range() -> impl Strategy<Value = (u64, u32)> {
    (0..BLOCKS, prop_oneof![1..4_u32, 1..40_u32]).prop_map(|(lba, blocks)| {
        let left = u32::try_from(BLOCKS - lba).unwrap();
        (lba, blocks.min(left))
    })
}

fn fault() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::Drop),
        (1..3000_usize).prop_map(Action::Delay),
        (1..3000_usize).prop_map(Action::CompleteLate),
        Just(Action::Duplicate),
        Just(Action::StalePhase),
        (0x7000..=u16::MAX).prop_map(Action::WrongCid),
        (0x7000..=u16::MAX).prop_map(Action::WrongHead),
        (5..=u16::MAX).prop_map(Action::WrongQueue),
        Just(Action::Status(Status::INTERNAL)),
        Just(Action::Status(Status::WRITE_FAULT)),
        Just(Action::Status(Status::NAMESPACE_NOT_READY)),
        Just(Action::Status(Status::UNRECOVERED_READ)),
        Just(Action::Fatal),
    ]
}

fn step(faults: bool) -> impl Strategy<Value = Step> {
    let weight = u32::from(faults);
    let write = |((lba, blocks), fua)| Step::Write { lba, blocks, fua };
    let zero = |((lba, blocks), fua, may_unmap)| Step::Zero {
        lba,
        blocks,
        fua,
        may_unmap,
    };
    prop_oneof![
        8 => (range(), any::<bool>()).prop_map(write),
        6 => range().prop_map(|(lba, blocks)| Step::Read { lba, blocks }),
        2 => (range(), any::<bool>(), any::<bool>()).prop_map(zero),
        2 => range().prop_map(|(lba, blocks)| Step::Unmap { lba, blocks }),
        2 => Just(Step::Flush),
        4 => (1..30_u8).prop_map(Step::Turns),
        1 => Just(Step::Drain),
        3 * weight => (0..3_u8, fault()).prop_map(|(skip, action)| Step::Fault(skip, action)),
        weight => Just(Step::Remove),
        1 => Just(Step::PowerCut),
    ]
}

/// A controller, and how it is used.
#[derive(Clone, Debug)]
struct Setting {
    options: ModelOptions,
    cores: usize,
    queue_entries: u16,
}

fn setting() -> impl Strategy<Value = Setting> {
    let hardware = (
        any::<u64>(),
        0..4_u8,
        1..4_u16,
        0..3_u8,
        any::<bool>(),
        any::<bool>(),
    );
    let limits = (
        prop_oneof![Just(0_u16), Just(8), Just(64)],
        prop_oneof![Just(0_u8), Just(1), Just(2)],
        prop_oneof![Just(0_u8), Just(3)],
        prop_oneof![Just(4096_usize), Just(16_384), Just(1 << 40)],
        prop_oneof![Just(0b1000_1101_u16), Just(0b0000_1000), Just(0b100)],
    );
    let use_ = (1..4_usize, prop_oneof![Just(2_u16), Just(4), Just(16)]);
    (hardware, limits, use_).prop_map(|(hardware, limits, (cores, queue_entries))| {
        let (seed, mdts, queue_pairs, dstrd, oacs_dbbuf, cache) = hardware;
        let (noiob, wzsl, dmrl, run_bytes, oncs) = limits;
        let options = ModelOptions {
            seed,
            mdts,
            queue_pairs,
            dstrd,
            oacs_dbbuf,
            vwc: if cache { 7 } else { 0 },
            version: crate::backend::nvme::spec::registers::Version(0x0002_0000),
            css: 0x41,
            wzsl,
            dmrl,
            run_bytes,
            oncs,
            namespaces: vec![NamespaceOptions {
                blocks: BLOCKS,
                noiob,
                ..NamespaceOptions::default()
            }],
            ..ModelOptions::default()
        };
        Setting {
            options,
            cores,
            queue_entries,
        }
    })
}

/// What an operation under way does.
#[derive(Debug)]
enum Under {
    Read { lba: u64, blocks: u32 },
    Change { lba: u64, blocks: u32, fua: bool },
    Flush(Mark),
}

struct Course {
    setting: Setting,
    rig: Option<Rig>,
    model: Model,
    blocks: Blocks,
    under: BTreeMap<u64, Under>,
    stamp: u32,
    nth: usize,
}

fn stamped(stamp: u32) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    for word in block.chunks_exact_mut(4) {
        word.copy_from_slice(&stamp.to_le_bytes());
    }
    block
}

/// The stamp of a block that is whole.
fn stamp_of(block: &[u8]) -> Result<u32, String> {
    let stamp = u32::from_le_bytes(*block.first_chunk().unwrap());
    if block == stamped(stamp) {
        Ok(stamp)
    } else {
        Err(format!("a block is torn: {:?}", &block[..8]))
    }
}

impl Course {
    fn new(setting: Setting) -> Self {
        let model = Model::new(setting.options.clone());
        let mut course = Self {
            setting,
            rig: None,
            model,
            blocks: Blocks::default(),
            under: BTreeMap::new(),
            stamp: 0,
            nth: 0,
        };
        course.start();
        course
    }

    fn start(&mut self) {
        let settings = settings(self.setting.queue_entries);
        self.rig = Some(Rig::new(&self.model, settings, self.setting.cores));
    }

    fn rig(&mut self) -> &mut Rig {
        self.rig.as_mut().expect("it is on")
    }

    /// Lets everything end that works on these blocks, if one side of it changes them.
    fn make_way(&mut self, lba: u64, blocks: u32, changes: bool) -> Result<(), String> {
        let meets = |other: &Under| match other {
            Under::Flush(_) => false,
            Under::Read { .. } if !changes => false,
            Under::Read { lba: l, blocks: b }
            | Under::Change {
                lba: l, blocks: b, ..
            } => lba < l + u64::from(*b) && *l < lba + u64::from(blocks),
        };
        while self.under.len() >= DEPTH || self.under.values().any(meets) {
            self.wait()?;
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), String> {
        let completion = self.rig().wait();
        self.ended(completion)
    }

    fn drain(&mut self) -> Result<(), String> {
        while !self.under.is_empty() {
            self.wait()?;
        }
        Ok(())
    }

    fn ended(&mut self, completion: Completion) -> Result<(), String> {
        let tag = completion.token.finish();
        let good = completion.result.is_ok();
        let cached = self.setting.options.vwc & 1 != 0;
        match self.under.remove(&tag).ok_or("it was under way")? {
            Under::Read { lba, .. } if good => {
                let data = completion.buf.ok_or("a read has its buffer")?.to_vec();
                for (lba, block) in (lba..).zip(data.chunks(BLOCK)) {
                    self.blocks.check(lba, stamp_of(block)?)?;
                }
            }
            Under::Read { .. } => {}
            Under::Change { lba, blocks, fua } => {
                for lba in lba..lba + u64::from(blocks) {
                    self.blocks.end(lba, good, fua || !cached);
                }
            }
            Under::Flush(mark) if good => self.blocks.flushed(&mark),
            Under::Flush(_) => {}
        }
        Ok(())
    }

    fn submit(&mut self, operation: Operation, under: Under) {
        let core = self.core();
        let tag = self.rig().submit(core, operation);
        self.under.insert(tag, under);
    }

    fn core(&self) -> usize {
        self.nth % self.setting.cores
    }

    fn change(&mut self, lba: u64, blocks: u32, stamp: u32, fua: bool) -> Under {
        for lba in lba..lba + u64::from(blocks) {
            self.blocks.begin(lba, stamp);
        }
        Under::Change { lba, blocks, fua }
    }

    fn take(&mut self, step: &Step) -> Result<(), String> {
        self.nth += 1;
        match *step {
            Step::Write { lba, blocks, fua } => {
                self.make_way(lba, blocks, true)?;
                self.stamp += 1;
                let stamp = self.stamp;
                let core = self.core();
                let mut buf = self.rig().buffer(core, blocks as usize * BLOCK);
                for nth in 0..blocks as usize {
                    buf.copy_from(nth * BLOCK, &stamped(stamp));
                }
                let under = self.change(lba, blocks, stamp, fua);
                self.submit(
                    Operation::Write {
                        lba,
                        blocks,
                        buf,
                        fua,
                    },
                    under,
                );
            }
            Step::Read { lba, blocks } => {
                self.make_way(lba, blocks, false)?;
                let core = self.core();
                let buf = self.rig().buffer(core, blocks as usize * BLOCK);
                self.submit(
                    Operation::Read { lba, blocks, buf },
                    Under::Read { lba, blocks },
                );
            }
            Step::Zero {
                lba,
                blocks,
                fua,
                may_unmap,
            } => {
                self.make_way(lba, blocks, true)?;
                let under = self.change(lba, blocks, ZEROES, fua);
                let blocks = blocks.into();
                self.submit(
                    Operation::WriteZeroes {
                        lba,
                        blocks,
                        fua,
                        may_unmap,
                    },
                    under,
                );
            }
            Step::Unmap { lba, blocks } => self.unmap(lba, blocks)?,
            Step::Flush => {
                self.make_way(0, 0, false)?;
                let mark = self.blocks.mark();
                self.submit(Operation::Flush, Under::Flush(mark));
            }
            Step::Turns(count) => self.turns(count)?,
            Step::Drain => self.drain()?,
            Step::Fault(skip, action) => {
                let skip = skip.into();
                self.model
                    .faults(|plan| plan.nth(Match::any_io(), skip, action));
            }
            Step::Remove => {
                self.model.remove();
                self.turns(20)?;
                self.model.plug();
            }
            Step::PowerCut => self.power_cut()?,
        }
        Ok(())
    }

    /// Without Dataset Management nothing is unmapped, and the request is refused.
    fn unmap(&mut self, lba: u64, blocks: u32) -> Result<(), String> {
        self.make_way(lba, blocks, true)?;
        let under = self.change(lba, blocks, ZEROES, false);
        let blocks = blocks.into();
        self.submit(Operation::Unmap { lba, blocks }, under);
        Ok(())
    }

    fn turns(&mut self, count: u8) -> Result<(), String> {
        for _ in 0..count {
            self.rig().turn();
            while let Some(completion) = self.rig().reap() {
                self.ended(completion)?;
            }
        }
        Ok(())
    }

    /// What is under way is not known to have happened, and all blocks are looked at.
    fn power_cut(&mut self) -> Result<(), String> {
        while let Some(completion) = self.rig().reap() {
            self.ended(completion)?;
        }
        for (_, under) in std::mem::take(&mut self.under) {
            if let Under::Change { lba, blocks, .. } = under {
                for lba in lba..lba + u64::from(blocks) {
                    self.blocks.end(lba, false, false);
                }
            }
        }
        self.model.faults(|plan| plan.clear());
        if let Some(rig) = self.rig.take() {
            rig.power_cut();
        }
        self.model.power_on();
        for lba in 0..BLOCKS {
            let stamp = stamp_of(&self.model.block(NamespaceId(1), lba))?;
            self.blocks.check_after_cut(lba, stamp)?;
        }
        self.start();
        Ok(())
    }

    fn finish(mut self) -> Result<(), String> {
        self.drain()?;
        self.model.faults(|plan| plan.clear());
        self.model.plug();
        let ready = |rig: &mut Rig| rig.state() == crate::backend::nvme::facts::State::Ready;
        if !self.rig().run_until(ready) {
            return Err("it is ready again, in the end".to_owned());
        }
        for lba in (0..BLOCKS).step_by(32) {
            self.take(&Step::Read { lba, blocks: 32 })?;
        }
        self.drain()?;
        let rig = self.rig.take().ok_or("it is on")?;
        rig.close().map_err(|error| error.to_string())
    }
}

fn run(setting: Setting, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut course = Course::new(setting);
    for step in steps {
        course.take(step).map_err(TestCaseError::fail)?;
    }
    course.finish().map_err(TestCaseError::fail)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn blocks_hold_what_was_written(
        setting in setting(),
        steps in proptest::collection::vec(step(false), 1..80),
    ) {
        run(setting, &steps)?;
    }

    #[test]
    fn blocks_hold_what_was_written_whatever_goes_wrong(
        setting in setting(),
        steps in proptest::collection::vec(step(true), 1..80),
    ) {
        run(setting, &steps)?;
    }
}
