//! A driver that is as small as can be, and does wrong what a test wants it to: entries are built
//! byte by byte.

use crate::backend::nvme::bar::Bar;
use crate::backend::nvme::dma::DmaPages;
use crate::backend::nvme::link::Rings;
use crate::backend::nvme::model::{Model, ModelBar, ModelOptions, ModelSpace};
use crate::backend::nvme::spec::entry::{CompletionEntry, QueueId};
use crate::mem::Pages;
use std::sync::Arc;

/// Entries of a queue.
pub(super) const ENTRIES: u16 = 8;
/// Where the completions are, and the data behind them.
const COMPLETIONS: usize = 4096;
pub(super) const DATA: usize = 8192;
pub(super) const CC: usize = 0x14;
pub(super) const CSTS: usize = 0x1c;
/// CC: enabled, entries of 64 and 16 bytes.
pub(super) const ENABLED: u32 = 0x0046_0001;
/// Bytes of data.
pub(super) const DATA_BYTES: usize = 16 * 4096;

/// A queue pair with some data.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) bar: Arc<ModelBar>,
    pub(super) pages: DmaPages<ModelSpace>,
    pub(super) doorbells: (usize, usize),
    pub(super) tail: u16,
    head: u16,
    phase: bool,
}

/// A command's dwords.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words(pub(super) [u32; 16]);

impl Words {
    pub(super) fn new(opcode: u8, cid: u16, nsid: u32) -> Self {
        let mut words = [0; 16];
        words[0] = u32::from(opcode) | u32::from(cid) << 16;
        words[1] = nsid;
        Self(words)
    }

    pub(super) fn with(mut self, nth: usize, value: u32) -> Self {
        self.0[nth] = value;
        self
    }

    pub(super) fn prps(mut self, first: u64, second: u64) -> Self {
        for (nth, value) in [(6, first), (8, second)] {
            self.0[nth] = u32::try_from(value & 0xffff_ffff).unwrap();
            self.0[nth + 1] = u32::try_from(value >> 32).unwrap();
        }
        self
    }

    /// SLBA and NLB.
    pub(super) fn blocks(self, lba: u64, blocks: u32) -> Self {
        self.with(10, u32::try_from(lba & 0xffff_ffff).unwrap())
            .with(11, u32::try_from(lba >> 32).unwrap())
            .with(12, blocks - 1)
    }
}

impl Pair {
    pub(super) fn new(model: &Model) -> Self {
        Self::numbered(model, QueueId(1))
    }

    pub(super) fn numbered(model: &Model, queue: QueueId) -> Self {
        let pages = DmaPages::new(&model.space(), DATA + DATA_BYTES, Pages::Normal).unwrap();
        let rings = Rings {
            submissions: pages.iova(0..4096).unwrap(),
            completions: pages.iova(COMPLETIONS..DATA).unwrap(),
            entries: ENTRIES,
        };
        let doorbells = model.open_pair(queue, rings);
        Self {
            bar: model.bar(),
            pages,
            doorbells,
            tail: 0,
            head: 0,
            phase: true,
        }
    }

    /// The admin queue, of a controller that is enabled as it should be.
    pub(super) fn admin(model: &Model) -> Self {
        let mut pair = Self::admin_disabled(model);
        pair.enable(model);
        pair
    }

    /// The same with CC.EN = 0.
    pub(super) fn admin_disabled(model: &Model) -> Self {
        let pages = DmaPages::new(&model.space(), DATA + DATA_BYTES, Pages::Normal).unwrap();
        let bar = model.bar();
        let entries = u32::from(ENTRIES) - 1;
        bar.w32(0x24, entries << 16 | entries);
        bar.w64(0x28, pages.iova(0..4096).unwrap().0);
        bar.w64(0x30, pages.iova(COMPLETIONS..DATA).unwrap().0);
        Self {
            bar,
            pages,
            doorbells: (0x1000, 0x1004),
            tail: 0,
            head: 0,
            phase: true,
        }
    }

    pub(super) fn enable(&mut self, model: &Model) {
        self.bar.w32(CC, ENABLED);
        model.settle();
        assert_eq!(self.bar.r32(CSTS), 1);
        (self.tail, self.head, self.phase) = (0, 0, true);
        self.pages.zero(COMPLETIONS..DATA);
    }

    /// Creates both queues of a pair, whose rings are in `pages`.
    pub(super) fn create(
        &mut self,
        model: &Model,
        id: u16,
        pages: &DmaPages<ModelSpace>,
    ) -> (u16, u16) {
        let base = |range: std::ops::Range<usize>| pages.iova(range).unwrap().0;
        let size = u32::from(id) | (u32::from(ENTRIES) - 1) << 16;
        let completions = Words::new(5, 1, 0).with(10, size).with(11, 1);
        let first = self.run(model, completions.prps(base(COMPLETIONS..DATA), 0));
        let submissions = Words::new(1, 2, 0)
            .with(10, size)
            .with(11, u32::from(id) << 16 | 1);
        let second = self.run(model, submissions.prps(base(0..4096), 0));
        (first, second)
    }

    /// Set Features, Number of Queues: so many pairs.
    pub(super) fn ask_for(&mut self, model: &Model, pairs: u32) -> u32 {
        let count = pairs - 1;
        let wanted = Words::new(9, 3, 0)
            .with(10, 7)
            .with(11, count << 16 | count);
        self.submit(wanted);
        model.settle();
        let end = self.reap().unwrap();
        assert!(end.status().is_success());
        end.result()
    }

    /// The pair's I/O queues, created by an admin queue.
    pub(super) fn created(model: &Model, admin: &mut Self, id: u16) -> Self {
        let pages = DmaPages::new(&model.space(), DATA + DATA_BYTES, Pages::Normal).unwrap();
        assert_eq!(admin.create(model, id, &pages), (0, 0));
        let first = 0x1000 + 8 * usize::from(id);
        Self {
            bar: model.bar(),
            pages,
            doorbells: (first, first + 4),
            tail: 0,
            head: 0,
            phase: true,
        }
    }

    /// Where the controller sees the data.
    pub(super) fn data(&self) -> u64 {
        self.pages.iova(DATA..DATA + DATA_BYTES).unwrap().0
    }

    pub(super) fn put(&mut self, words: Words) {
        for (nth, word) in words.0.iter().enumerate() {
            let at = 64 * usize::from(self.tail) + 4 * nth;
            self.pages.write_u32(at, *word);
        }
        self.tail = (self.tail + 1) % ENTRIES;
    }

    pub(super) fn ring(&self) {
        self.bar.w32(self.doorbells.0, self.tail.into());
    }

    pub(super) fn submit(&mut self, words: Words) {
        self.put(words);
        self.ring();
    }

    pub(super) fn peek(&self) -> Option<CompletionEntry> {
        let at = COMPLETIONS + 16 * usize::from(self.head);
        self.pages.completion(at, self.phase)
    }

    pub(super) fn reap(&mut self) -> Option<CompletionEntry> {
        let found = self.peek()?;
        self.head = (self.head + 1) % ENTRIES;
        self.phase ^= self.head == 0;
        self.bar.w32(self.doorbells.1, self.head.into());
        Some(found)
    }

    /// Runs one command to its end: its status field.
    pub(super) fn run(&mut self, model: &Model, words: Words) -> u16 {
        self.submit(words);
        model.settle();
        let end = self.reap().expect("it completes");
        assert_eq!(u32::from(end.id().0), words.0[0] >> 16);
        end.status().field()
    }

    pub(super) fn fill(&mut self, bytes: usize, with: u8) {
        self.pages.copy_in(DATA, &vec![with; bytes]);
    }

    pub(super) fn read_data(&self, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.pages.copy_out(DATA, &mut data);
        data
    }
}

/// A plain model.
pub(super) fn plain() -> Model {
    Model::new(ModelOptions::default())
}

/// Which rules were broken, each once.
pub(super) fn broken(model: &Model) -> Vec<crate::backend::nvme::model::Rule> {
    let mut rules: Vec<_> = model.verdict().iter().map(|found| found.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}
