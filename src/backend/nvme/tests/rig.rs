//! A controller with its keeper's state machine and some cores, in one thread.

use std::collections::{BTreeMap, VecDeque};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::backend::nvme::controller::{Controller, ControllerError};
use crate::backend::nvme::device::{Cores, Served};
use crate::backend::nvme::facts::{Facts, Namespace, Selector, Settings, State};
use crate::backend::nvme::link::{Handle, Refusal, ToKeeper, channel};
use crate::backend::nvme::model::{Model, ModelBar, ModelSpace};
use crate::backend::nvme::spec::entry::NamespaceId;
use crate::backend::request::{Completion, Manner, Operation, Token};
use crate::backend::suite;
use crate::backend::wake::Wake;
use crate::mem::{CHUNK_BYTES, DmaBuf, Pages, Pool};

/// Chunks of a core's pool.
const CHUNKS: usize = 64;
/// Turns in which everything that is under way must end.
const TURNS_MAX: usize = 200_000;

pub(super) type Core = Cores<ModelBar, ModelSpace>;

/// One core.
#[derive(Debug)]
pub(super) struct OneCore {
    cores: Core,
    pub(super) pool: Pool,
    _wake: Arc<Wake>,
}

/// What was submitted and is not answered.
#[derive(Debug)]
struct Open {
    segments: Vec<NonNull<u8>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) model: Model,
    pub(super) now: Instant,
    controller: Controller<ModelBar, ModelSpace>,
    pub(super) handle: Option<Arc<Handle<ModelBar, ModelSpace>>>,
    pub(super) facts: Arc<Facts>,
    notes: SyncSender<ToKeeper<ModelSpace>>,
    pub(super) namespace: Option<Arc<Namespace>>,
    pub(super) cores: Vec<OneCore>,
    open: BTreeMap<u64, Open>,
    /// Memory of buffers that did not come back, and whose it was.
    lost: Vec<(NonNull<u8>, u64)>,
    next_tag: u64,
    pub(super) done: VecDeque<Completion>,
    steps: usize,
    /// A core that gets no turn.
    pub(super) held_up: Option<usize>,
}

/// Times that let tests be short.
pub(super) fn settings(queue_entries: u16) -> Settings {
    Settings {
        queue_entries,
        io_timeout: Duration::from_millis(100),
        admin_timeout: Duration::from_millis(200),
        hold_max: Duration::from_secs(3600),
        health_interval: Duration::from_secs(60),
    }
}

impl Rig {
    /// A controller that is about to be initialised, without cores.
    pub(super) fn starting(model: &Model, settings: Settings) -> Self {
        let (notes, keeper) = channel();
        let facts = Arc::new(Facts::default());
        let hardware = (model.bar(), model.space());
        let controller =
            Controller::new("model", hardware, settings, Arc::clone(&facts), keeper).unwrap();
        Self {
            model: model.clone(),
            now: suite::now(),
            controller,
            handle: None,
            facts,
            notes,
            namespace: None,
            cores: Vec::new(),
            open: BTreeMap::new(),
            lost: Vec::new(),
            next_tag: 0,
            done: VecDeque::new(),
            steps: 16,
            held_up: None,
        }
    }

    /// One that is ready, with so many cores that all serve namespace 1.
    pub(super) fn new(model: &Model, settings: Settings, cores: usize) -> Self {
        let mut rig = Self::starting(model, settings);
        let ready = |rig: &mut Self| rig.controller.limits().is_some();
        assert!(rig.run_until(ready), "{:?}", rig.controller.ended());
        let limits = rig.controller.limits().unwrap();
        let hardware = (model.bar(), model.space());
        let handle = Handle::new(
            hardware,
            (settings, limits),
            Arc::clone(&rig.facts),
            rig.notes.clone(),
        );
        rig.handle = Some(Arc::new(handle));
        rig.namespace = Some(rig.find(Selector::Id(NamespaceId(1))).unwrap());
        for _ in 0..cores {
            rig.add_core();
        }
        rig
    }

    pub(super) fn find(&mut self, wanted: Selector) -> Result<Arc<Namespace>, Refusal> {
        let (answer, answered) = sync_channel(1);
        self.notes.send(ToKeeper::Find(wanted, answer)).unwrap();
        let mut found = None;
        let asked = self.run_until(|_| {
            found = answered.try_recv().ok();
            found.is_some()
        });
        assert!(asked, "every question is answered");
        found.unwrap()
    }

    pub(super) fn add_core(&mut self) {
        let pool = Pool::new(CHUNKS * CHUNK_BYTES, Pages::Normal).unwrap();
        self.model.watch(pool.memory());
        let wake = Arc::new(Wake::new().unwrap());
        let mut cores = Core::new(1, (&pool, Pages::Normal), &wake);
        let served = Served {
            handle: self.handle.as_ref().unwrap(),
            namespace: self.namespace.as_ref().unwrap(),
            write_through: false,
        };
        let _on_core = self.model.as_core();
        assert_eq!(cores.attach(0, &served), Ok("nvme"));
        self.cores.push(OneCore {
            cores,
            pool,
            _wake: wake,
        });
    }

    pub(super) fn state(&self) -> State {
        self.controller.state()
    }

    pub(super) fn ended(&self) -> Option<&Result<(), ControllerError>> {
        self.controller.ended()
    }

    /// How many steps the model takes in a turn.
    pub(super) fn set_steps(&mut self, steps: usize) {
        self.steps = steps;
    }

    /// Everybody gets a turn, and some time passes: little, or up to the keeper's next look where
    /// the model has nothing to do.
    pub(super) fn turn(&mut self) {
        self.model.step(self.steps);
        let pace = self.controller.poll(self.now);
        // What did not come back belongs to its command until the quarantine is over.
        if self.facts.counters.quarantined_bytes.load(Relaxed) == 0 {
            for (start, tag) in self.lost.drain(..) {
                self.model.disown(start, tag);
            }
        }
        for (nth, core) in self.cores.iter_mut().enumerate() {
            if self.held_up == Some(nth) {
                continue;
            }
            let on_core = self.model.as_core();
            core.cores.kick(self.now, &mut self.done);
            core.cores.poll(&mut self.done);
            drop(on_core);
        }
        let little = Duration::from_micros(20);
        let more = pace.again_in.min(Duration::from_millis(20));
        self.now += if self.model.is_idle() {
            little.max(more)
        } else {
            little
        };
    }

    /// Takes turns until it is so: whether it became so.
    pub(super) fn run_until(&mut self, mut so: impl FnMut(&mut Self) -> bool) -> bool {
        for _ in 0..TURNS_MAX {
            if so(self) {
                return true;
            }
            self.turn();
        }
        false
    }

    /// Lets so much time pass.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        assert!(self.run_until(|rig| rig.now >= until));
    }

    /// Submits at a core; the tag comes back with the completion.
    pub(super) fn submit(&mut self, core: usize, operation: Operation) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        let mut segments = Vec::new();
        if let Operation::Read { buf, .. } | Operation::Write { buf, .. } = &operation {
            for (start, len) in buf.segments(0..buf.len()) {
                self.model.own((start, len), tag);
                segments.push(start);
            }
        }
        self.open.insert(tag, Open { segments });
        let manner = Manner::new(true, false);
        let token = Token::new(tag);
        let cores = &mut self.cores[core].cores;
        cores.submit(0, operation, (token, manner), &mut self.done);
        tag
    }

    pub(super) fn buffer(&self, core: usize, bytes: usize) -> DmaBuf {
        let buf = self.cores[core].pool.alloc(bytes);
        buf.expect("the pool is larger than a test's buffers")
    }

    pub(super) fn in_flight(&self) -> usize {
        self.open.len()
    }

    /// The next completion, if there is one: tag, result and buffer. Each comes once.
    pub(super) fn reap(&mut self) -> Option<Completion> {
        let completion = self.done.pop_front()?;
        let tag = completion.token.tag();
        let open = self.open.remove(&tag).expect("it completes once");
        for start in open.segments {
            if completion.buf.is_some() {
                self.model.disown(start, tag);
            } else {
                self.lost.push((start, tag));
            }
        }
        Some(completion)
    }

    /// Runs until one has completed.
    pub(super) fn wait(&mut self) -> Completion {
        let came = self.run_until(|rig| !rig.done.is_empty());
        assert!(came, "every request completes; {:?}", self.state());
        self.reap().expect("there is one")
    }

    /// Runs one operation to its end.
    pub(super) fn run(&mut self, core: usize, operation: Operation) -> Completion {
        let tag = self.submit(core, operation);
        let completion = self.wait();
        assert_eq!(completion.token.tag(), tag);
        completion
    }

    /// Detaches all cores and shuts the controller down. Nothing may be left.
    pub(super) fn close(mut self) -> Result<(), ControllerError> {
        assert_eq!(self.open.len(), 0, "everything was answered");
        for core in &mut self.cores {
            core.cores.detach(0);
        }
        let quiet = self.run_until(|rig| rig.cores.iter().all(|core| core.cores.in_flight() == 0));
        assert!(quiet, "cores come to an end");
        for core in std::mem::take(&mut self.cores) {
            let OneCore { cores, pool, .. } = core;
            drop(cores);
            self.model.unwatch(pool.memory().0);
            assert_eq!(pool.available(), pool.chunks(), "every buffer is back");
        }
        self.handle = None;
        let ended = self.run_until(|rig| rig.controller.ended().is_some());
        assert!(ended, "the keeper comes to an end");
        let ended = self.controller.ended().cloned().unwrap();
        let model = self.model.clone();
        drop(self);
        assert_eq!(model.mappings(), 0, "no memory is left to the device");
        assert_eq!(model.verdict(), []);
        ended
    }

    /// Power fails under everybody: whoever waits is forgotten. The model is dark behind it.
    pub(super) fn power_cut(mut self) {
        self.model.power_cut();
        // What is outstanding is answered by the removal.
        while !self.open.is_empty() {
            self.wait().token.finish();
        }
        self.close().unwrap();
    }
}
