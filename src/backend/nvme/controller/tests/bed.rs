//! What tests step a controller with: the model, a clock of their own, and cores that do nothing
//! but obey.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::backend::nvme::controller::{Controller, ControllerError};
use crate::backend::nvme::dma::{DmaPages, PAGE_BYTES, Quiet};
use crate::backend::nvme::facts::{Facts, Limits, Namespace, Report, Selector, Settings, State};
use crate::backend::nvme::link::{
    Generation, Grant, Handle, Lane, Note, Order, PairEnd, Refusal, Rings, ToKeeper, channel,
};
use crate::backend::nvme::model::{Model, ModelBar, ModelOptions, ModelSpace};
use crate::backend::wake::Wake;
use crate::mem::Pages;

/// Turns that anything may take: waits are in steps of a millisecond, and the longest is 30 s.
const TURNS_MAX: usize = 200_000;
/// Steps of the model in each turn.
const STEPS: usize = 8;

pub(super) struct Bed {
    pub(super) model: Model,
    pub(super) controller: Controller<ModelBar, ModelSpace>,
    pub(super) facts: Arc<Facts>,
    pub(super) now: Instant,
    notes: SyncSender<ToKeeper<ModelSpace>>,
}

impl Bed {
    /// Nothing has happened yet.
    pub(super) fn new(options: ModelOptions) -> Self {
        let model = Model::new(options);
        let (notes, heard) = channel();
        let facts = Arc::new(Facts::default());
        let hardware = (model.bar(), model.space());
        let settings = Settings::default();
        let known = Arc::clone(&facts);
        let controller = Controller::new("0000:5e:00.0", hardware, settings, known, heard);
        #[expect(
            clippy::disallowed_methods,
            reason = "where the test's own clock starts"
        )]
        let now = Instant::now();
        Self {
            model,
            controller: controller.unwrap(),
            facts,
            now,
            notes,
        }
    }

    /// Initialised.
    pub(super) fn ready(options: ModelOptions) -> Self {
        let mut bed = Self::new(options);
        bed.until("ready", |bed| bed.controller.limits().is_some());
        bed
    }

    pub(super) fn turn(&mut self) {
        let pace = self.controller.poll(self.now);
        self.model.step(STEPS);
        self.now += pace.again_in.min(Duration::from_millis(100));
    }

    #[track_caller]
    pub(super) fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..TURNS_MAX {
            if is_so(self) {
                return;
            }
            self.turn();
        }
        panic!("never: {what}");
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        self.until("time passes", |bed| bed.now >= until);
    }

    /// How it ended that never became ready.
    #[track_caller]
    pub(super) fn failure(&mut self) -> ControllerError {
        self.until("the end", |bed| bed.controller.ended().is_some());
        let ended = self.controller.ended().cloned();
        ended.unwrap().unwrap_err()
    }

    pub(super) fn limits(&self) -> Limits {
        self.controller.limits().unwrap()
    }

    #[track_caller]
    pub(super) fn state(&mut self, state: State) {
        self.until("the state", |bed| bed.controller.state() == state);
    }

    pub(super) fn send(&self, note: ToKeeper<ModelSpace>) {
        self.notes.try_send(note).unwrap();
    }

    fn answer<T>(&mut self, answered: &Receiver<T>) -> Option<T> {
        for _ in 0..TURNS_MAX {
            match answered.try_recv() {
                Ok(answer) => return Some(answer),
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return None,
                Err(std::sync::mpsc::TryRecvError::Empty) => self.turn(),
            }
        }
        panic!("no answer");
    }

    pub(super) fn find(&mut self, wanted: Selector) -> Result<Arc<Namespace>, Refusal> {
        let (answer, answered) = sync_channel(1);
        self.send(ToKeeper::Find(wanted, answer));
        self.answer(&answered).unwrap()
    }

    pub(super) fn report(&mut self) -> Option<Report> {
        let (answer, answered) = sync_channel(1);
        self.send(ToKeeper::Report(answer));
        self.answer(&answered)
    }

    /// What units and cores have of an initialised controller. Its end closes the controller.
    pub(super) fn handle(&self) -> Handle<ModelBar, ModelSpace> {
        let hardware = (self.model.bar(), self.model.space());
        let given = (Settings::default(), self.limits());
        Handle::new(hardware, given, Arc::clone(&self.facts), self.notes.clone())
    }

    /// Closes it, and looks at the end.
    #[track_caller]
    pub(super) fn close(&mut self) {
        self.send(ToKeeper::Close);
        self.until("the end", |bed| bed.controller.ended().is_some());
        assert_eq!(self.controller.ended(), Some(&Ok(())));
        assert_eq!(self.controller.state(), State::Closed);
    }
}

/// What a core was told, without what goes with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Told {
    Open(Generation, u16),
    Share(Generation),
    Host,
    Halt,
    Quiet(Quiet),
    Fail,
}

/// A core that has joined: it answers `Halt` and keeps what it was told.
pub(super) struct Core {
    pub(super) end: PairEnd<ModelSpace>,
    pub(super) pages: Option<DmaPages<ModelSpace>>,
    pub(super) grant: Option<Grant<ModelSpace>>,
    pub(super) lanes: Vec<Arc<Lane>>,
    /// It does not answer `Halt`.
    pub(super) is_stuck: bool,
    told: Vec<Told>,
}

impl Core {
    pub(super) fn join(handle: &Handle<ModelBar, ModelSpace>) -> Self {
        let wake = Arc::new(Wake::new().unwrap());
        let pages = DmaPages::new(&handle.space, 5 * PAGE_BYTES, Pages::Normal).unwrap();
        let rings = Rings {
            submissions: pages.iova(0..4 * PAGE_BYTES).unwrap(),
            completions: pages.iova(4 * PAGE_BYTES..5 * PAGE_BYTES).unwrap(),
            entries: handle.limits.queue_entries.min(256),
        };
        Self {
            end: handle.join(&wake, rings).unwrap(),
            pages: Some(pages),
            grant: None,
            lanes: Vec::new(),
            is_stuck: false,
            told: Vec::new(),
        }
    }

    pub(super) fn obey(&mut self) {
        while let Some(order) = self.end.orders.take() {
            let told = match order {
                Order::Open(grant) => {
                    let told = Told::Open(grant.generation, grant.queue.0);
                    self.grant = Some(grant);
                    told
                }
                Order::Share(generation, lane) => {
                    self.lanes.push(lane);
                    Told::Share(generation)
                }
                Order::Host(lane) => {
                    self.lanes.push(lane);
                    Told::Host
                }
                Order::Halt => {
                    self.lanes.clear();
                    self.grant = None;
                    if !self.is_stuck {
                        self.end.send(Note::Halted).unwrap();
                    }
                    Told::Halt
                }
                Order::Quiet(proof) => Told::Quiet(proof),
                Order::Fail => Told::Fail,
            };
            self.told.push(told);
        }
    }

    /// What it was told since the last time.
    pub(super) fn told(&mut self) -> Vec<Told> {
        self.obey();
        std::mem::take(&mut self.told)
    }

    pub(super) fn leave(&mut self) {
        let pages = self.pages.take().unwrap();
        self.end.send(Note::Leave(Some(pages))).unwrap();
    }
}

/// Turns until the last core has been told so many things in all; then what each was.
#[track_caller]
pub(super) fn until_told(bed: &mut Bed, cores: &mut [&mut Core], last: &Told) -> Vec<Vec<Told>> {
    for _ in 0..TURNS_MAX {
        cores.iter_mut().for_each(|core| core.obey());
        if cores.iter().all(|core| core.told.contains(last)) {
            return cores.iter_mut().map(|core| core.told()).collect();
        }
        bed.turn();
    }
    let told: Vec<_> = cores.iter_mut().map(|core| core.told()).collect();
    panic!("never {last:?}: {told:?}");
}
