//! Cores on the model of a controller, with the test as their keeper: it opens pairs by the model's
//! back door, and does what a keeper does in a recovery.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::super::super::super::suite;
use super::super::super::bar::Bar;
use super::super::super::dma::Quiet;
use super::super::super::facts::{DeallocateLimits, Facts, Geometry, Limits, Namespace, Settings};
use super::super::super::link::{
    Generation, Grant, Handle, Lane, Note, Order, Orders, Rings, ToKeeper, channel,
};
use super::super::super::model::{Model, ModelBar, ModelOptions, ModelSpace};
use super::super::super::spec::entry::{NamespaceId, QueueId};
use super::super::super::spec::identify::Identifiers;
use super::super::{Cores, Served};
use crate::backend::request::{Completion, IoError, Manner, Operation, Token};
use crate::backend::wake::Wake;
use crate::mem::{DmaBuf, Pages, Pool};

pub(super) const NSID: NamespaceId = NamespaceId(1);
pub(super) const BLOCKS: u64 = 4096;
pub(super) const MANNER: Manner = Manner {
    durable: true,
    past_limit: false,
};
/// Turns after which a test has hung.
const TURNS_MAX: usize = 100_000;

pub(super) fn limits() -> Limits {
    Limits {
        queue_entries: 16,
        queue_pairs: 4,
        transfer_bytes: 16 << 10,
        write_zeroes_bytes: Some(32 << 10),
        deallocate: Some(DeallocateLimits {
            ranges: 4,
            range_blocks: 16,
            blocks: 1 << 32,
        }),
        write_cache: true,
    }
}

pub(super) fn geometry() -> Geometry {
    Geometry {
        namespace: NSID,
        block_shift: 9,
        boundary_blocks: 0,
        atomic_blocks: 1,
        atomic_boundary: None,
        unmapped_reads_zeroes: true,
        write_zeroes_deallocates: true,
        deallocate_granularity: 1,
        thin: false,
        identifiers: Identifiers::default(),
    }
}

/// One core. Its device goes before its pool does.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) cores: Cores<ModelBar, ModelSpace>,
    pub(super) orders: Arc<Orders<ModelSpace>>,
    pub(super) rings: Rings,
    ready: VecDeque<Completion>,
    pub(super) answered: BTreeMap<u64, (Result<(), IoError>, Option<DmaBuf>)>,
    pub(super) pool: Pool,
}

#[derive(Debug)]
pub(super) struct Bench {
    pub(super) cores: Vec<Core>,
    pub(super) model: Model,
    pub(super) handle: Arc<Handle<ModelBar, ModelSpace>>,
    pub(super) namespace: Arc<Namespace>,
    pub(super) notes: Receiver<ToKeeper<ModelSpace>>,
    pub(super) now: Instant,
    /// Only buffers of requests are touched. For what has no other data.
    pub(super) watched: bool,
    generation: u32,
    next_tag: u64,
}

impl Bench {
    pub(super) fn new(seed: u64) -> Self {
        Self::with(seed, limits(), geometry(), 1)
    }

    /// `count` cores that have joined and are not open.
    pub(super) fn with(seed: u64, limits: Limits, geometry: Geometry, count: usize) -> Self {
        let options = ModelOptions {
            seed,
            ..ModelOptions::default()
        };
        let model = Model::new(options);
        let (sender, notes) = channel();
        let given = (Settings::default(), limits);
        let facts = Arc::new(Facts::default());
        let hardware = (model.bar(), model.space());
        let handle = Arc::new(Handle::new(hardware, given, facts, sender));
        let namespace = Arc::new(Namespace::new(geometry, BLOCKS));
        let mut bench = Self {
            cores: Vec::new(),
            model,
            handle,
            namespace,
            notes,
            now: suite::now(),
            watched: false,
            generation: 0,
            next_tag: 1,
        };
        for _ in 0..count {
            bench.join();
        }
        bench
    }

    fn join(&mut self) {
        let pool = Pool::new(4 << 20, Pages::Normal).unwrap();
        let wake = Arc::new(Wake::new().unwrap());
        let mut cores = Cores::new(4, (&pool, Pages::Normal), &wake);
        let served = Served {
            handle: &self.handle,
            namespace: &self.namespace,
            write_through: false,
        };
        assert_eq!(cores.attach(2, &served), Ok("nvme"));
        let Ok(ToKeeper::Join(orders, rings)) = self.notes.try_recv() else {
            panic!("a core joins with its first unit");
        };
        self.cores.push(Core {
            cores,
            orders,
            rings,
            ready: VecDeque::new(),
            answered: BTreeMap::new(),
            pool,
        });
    }

    /// The namespace once more, as the unit `index` of the first core, which has no write cache.
    pub(super) fn attach_through(&mut self, index: u16) {
        let served = Served {
            handle: &self.handle,
            namespace: &self.namespace,
            write_through: true,
        };
        assert_eq!(self.cores[0].cores.attach(index, &served), Ok("nvme"));
    }

    /// Gives the first `pairs` cores a queue pair each; the others send through them.
    pub(super) fn open(&mut self, pairs: u16) {
        self.generation += 1;
        let generation = Generation(self.generation);
        for (core, nth) in self.cores.iter().zip(1..=pairs) {
            let queue = QueueId(nth);
            let (submission_doorbell, completion_doorbell) =
                self.model.open_pair(queue, core.rings);
            let grant = Grant {
                generation,
                queue,
                submission_doorbell,
                completion_doorbell,
                shadow: None,
            };
            core.orders.send(Order::Open(grant)).unwrap();
        }
        let (hosts, guests) = self.cores.split_at(usize::from(pairs));
        for (nth, guest) in guests.iter().enumerate() {
            let host = &hosts[nth % hosts.len()];
            let lane = Lane::new(&host.orders, &guest.orders);
            host.orders.send(Order::Host(Arc::clone(&lane))).unwrap();
            guest.orders.send(Order::Share(generation, lane)).unwrap();
        }
    }

    pub(super) fn opened(seed: u64) -> Self {
        let mut bench = Self::new(seed);
        bench.open(1);
        bench.turn(0);
        bench
    }

    pub(super) fn order_all(&self, order: impl Fn() -> Order<ModelSpace>) {
        for core in &self.cores {
            core.orders.send(order()).unwrap();
        }
    }

    /// Halts all, resets the function and tells all that it is quiet.
    pub(super) fn reset(&mut self) {
        self.halt();
        self.handle.bar.reset().unwrap();
        self.order_all(|| Order::Quiet(Quiet::FunctionReset));
    }

    pub(super) fn halt(&mut self) {
        self.order_all(|| Order::Halt);
        for nth in 0..self.cores.len() {
            self.core_turn(nth, 0);
        }
        let halted = |note: &ToKeeper<_>| matches!(note, ToKeeper::Note(_, Note::Halted));
        let count = self.notes.try_iter().filter(halted).count();
        assert_eq!(count, self.cores.len(), "each says that it has halted");
    }

    /// A note to the keeper.
    pub(super) fn note(&self) -> Option<Note<ModelSpace>> {
        match self.notes.try_recv().ok()? {
            ToKeeper::Note(_, note) => Some(note),
            other => panic!("{other:?} is no note"),
        }
    }

    pub(super) fn buf(&self, nth: usize, data: &[u8]) -> DmaBuf {
        let mut buf = self.cores[nth].pool.alloc(data.len()).unwrap();
        buf.copy_from(0, data);
        buf
    }

    pub(super) fn write(&mut self, nth: usize, lba: u64, data: &[u8], fua: bool) -> u64 {
        let buf = self.buf(nth, data);
        let blocks = u32::try_from(data.len() / 512).unwrap();
        let operation = Operation::Write {
            lba,
            blocks,
            buf,
            fua,
        };
        self.submit(nth, operation)
    }

    pub(super) fn read(&mut self, nth: usize, lba: u64, blocks: u32) -> u64 {
        let bytes = vec![0xee; 512 * blocks as usize];
        let buf = self.buf(nth, &bytes);
        self.submit(nth, Operation::Read { lba, blocks, buf })
    }

    pub(super) fn submit(&mut self, nth: usize, operation: Operation) -> u64 {
        self.submit_to(nth, 2, operation)
    }

    pub(super) fn submit_to(&mut self, nth: usize, unit: u16, operation: Operation) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        if let Operation::Read { buf, .. } | Operation::Write { buf, .. } = &operation
            && self.watched
        {
            for segment in buf.segments(0..buf.len()) {
                self.model.own(segment, tag);
            }
        }
        let core = &mut self.cores[nth];
        let with = (Token::new(tag), MANNER);
        core.cores.submit(unit, operation, with, &mut core.ready);
        tag
    }

    /// A turn of a core, with so many steps of the controller in between.
    pub(super) fn core_turn(&mut self, nth: usize, steps: usize) {
        let core = &mut self.cores[nth];
        let on_core = self.model.as_core();
        core.cores.kick(self.now, &mut core.ready);
        drop(on_core);
        self.model.step(steps);
        let on_core = self.model.as_core();
        core.cores.poll(&mut core.ready);
        drop(on_core);
        for completion in core.ready.drain(..) {
            let Completion { token, result, buf } = completion;
            let tag = token.finish();
            if let Some(buf) = buf.as_ref().filter(|_| self.watched) {
                for (start, _) in buf.segments(0..buf.len()) {
                    self.model.disown(start, tag);
                }
            }
            let answered = core.answered.insert(tag, (result, buf));
            assert!(answered.is_none(), "{tag} was answered twice");
        }
    }

    pub(super) fn turn(&mut self, steps: usize) {
        for nth in 0..self.cores.len() {
            self.core_turn(nth, steps);
        }
    }

    /// Turns until nothing is to be done any more.
    pub(super) fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            self.turn(8);
            let busy = |core: &Core| core.cores.needs_poll() || !core.cores.is_quiet();
            if self.model.is_idle() && !self.cores.iter().any(busy) {
                return;
            }
        }
        panic!("it goes on for ever");
    }

    /// Turns until a request is answered.
    pub(super) fn wait(&mut self, nth: usize, tag: u64) -> (Result<(), IoError>, Option<DmaBuf>) {
        for _ in 0..TURNS_MAX {
            if let Some(answer) = self.cores[nth].answered.remove(&tag) {
                return answer;
            }
            self.turn(8);
        }
        panic!("{tag} is never answered");
    }

    pub(super) fn contents(&mut self, nth: usize, tag: u64) -> Vec<u8> {
        let (result, buf) = self.wait(nth, tag);
        assert_eq!(result, Ok(()));
        buf.unwrap().to_vec()
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// What the medium holds.
    pub(super) fn blocks(&self, lba: u64, count: u64) -> Vec<u8> {
        let blocks = lba..lba + count;
        blocks.flat_map(|lba| self.model.block(NSID, lba)).collect()
    }
}

/// Bytes that differ from block to block and from stamp to stamp.
pub(super) fn pattern(stamp: u64, bytes: usize) -> Vec<u8> {
    let word = |at: usize| stamp.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (at as u64);
    (0..bytes / 8)
        .flat_map(|at| word(at).to_le_bytes())
        .collect()
}
