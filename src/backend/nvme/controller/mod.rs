//! [`Controller`]: what a keeper does with its controller, from the first register to the last.
//!
//! ```text
//!   init ──► serve: pairs, aborts, events, health, namespaces ──► shut down
//!    ▲          │ late twice, a broken rule, CSTS.CFS      │
//!    └─ ladder ◄┘ (disable, function reset, let go)        │ the last unit goes
//!    └─ away ◄──── taken away, all ones                    ┘
//! ```
//!
//! All of this is one life, written as one asynchronous function that owns everything
//! ([`Life::live`]) and waits in one place only: [`Life::turn`]. There is no executor behind it and
//! nothing is ever woken: [`Controller::poll`] runs it until it waits again. It knows no clock but
//! the time that it is given, so tests step it through years without a thread.
//!
//! Invariants: every wait ends by its own deadline; one admin command of a job is outstanding at a
//! time, beside requests for events and Aborts; whatever a wait ends with, what was sent to the
//! cores before still holds; cores are told [`Quiet`](super::dma::Quiet) only for what was seen.

mod admin;
mod events;
mod failures;
mod health;
mod init;
mod namespaces;
mod pairs;
mod questions;
mod recover;
mod shutdown;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use self::admin::{Admin, Purpose, name_of};
use self::events::Events;
use self::failures::Failures;
use self::health::HealthState;
use self::namespaces::Namespaces;
use self::pairs::Pairs;
use self::questions::{QUESTIONS_MAX, Question};
use super::bar::{Bar, Presence, status};
use super::dma::{DmaSpace, MapError, Shadow};
use super::facts::{Counters, Facts, Limits, Report, Settings, State};
use super::link::{Breach, Generation, Note, ToKeeper};
use super::spec::command;
use super::spec::entry::{CommandId, CompletionEntry, QueueId, SubmissionEntry};
use super::spec::identify::{ControllerData, ControllerType};
use super::spec::registers::{Capabilities, Status as Csts, Version};
use super::spec::status::Status;

/// How long the first initialisation may take: all units of the daemon wait for it.
const START_MAX: Duration = Duration::from_secs(80);
/// How long letting go may take of a controller that never became ready.
const GIVE_UP_MAX: Duration = Duration::from_secs(5);
/// How often the function's presence and its status register are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How often a register is looked at that is about to change.
const REGISTER_LOOK: Duration = Duration::from_millis(1);
/// How often the admin queue is looked at while a command is outstanding.
const COMMAND_LOOK: Duration = Duration::from_micros(100);
/// The same, for a command that takes longer than this.
const COMMAND_LONG: Duration = Duration::from_millis(10);
/// Notes that are taken in one turn.
const NOTES_PER_TURN: usize = 256;
/// Late commands that wait for their Abort to be sent.
const LATE_MAX: usize = 64;
/// Aborts outstanding, whatever the controller could take.
const ABORTS_MAX: u16 = 4;

/// Why a controller is not served, or not any more. The text is for the operator.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ControllerError {
    #[error("it does not answer: its registers read as all ones, as those of an absent device do")]
    Gone,
    #[error("its registers are {0} bytes, which hold no doorbells of an I/O queue")]
    ShortBar(usize),
    #[error("it says that a queue has {0} entry (CAP.MQES); at least 2 are needed")]
    QueueEntries(u32),
    #[error("its memory pages are at least {0} bytes (CAP.MPSMIN); pages of 4096 are needed")]
    PageSize(u64),
    #[error("it has no NVM command set (CAP.CSS)")]
    NoCommandSet,
    #[error("it serves no I/O: its type is {0:?} (CNTRLTYPE)")]
    Kind(ControllerType),
    #[error("its queue entries are larger than 64 and 16 bytes (SQES 2^{0}, CQES 2^{1})")]
    EntrySizes(u8, u8),
    #[error("CSTS.RDY is still 1 after {} ms of CC.EN = 0", .0.as_millis())]
    StaysReady(Duration),
    #[error("CSTS.RDY is still 0 after {} ms of CC.EN = 1", .0.as_millis())]
    NeverReady(Duration),
    #[error("it reports a fatal status (CSTS.CFS)")]
    Fatal,
    #[error("it has disabled itself (CSTS.RDY = 0)")]
    Disabled,
    #[error("the bus reports an error of it that is not corrected")]
    Bus,
    #[error("{what} has not completed within {} s", .after.as_secs())]
    Late { what: &'static str, after: Duration },
    #[error("{what} failed: {status}")]
    Refused { what: &'static str, status: Status },
    #[error("it broke a rule: {0}")]
    Breach(#[from] Breach),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("it is not ready for use within {} s, however busy it is", .0.as_secs())]
    Overdue(Duration),
    #[error("it is not the controller that it was: {0}")]
    Changed(String),
    #[error("no thread for it: {0}")]
    Thread(String),
}

/// What ends a wait before what was waited for has come.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Trouble {
    /// The last unit has gone.
    Closing,
    /// The function is not there, or is wanted back.
    Gone,
    Fault(ControllerError),
}

impl From<ControllerError> for Trouble {
    fn from(error: ControllerError) -> Self {
        Self::Fault(error)
    }
}

impl From<MapError> for Trouble {
    fn from(error: MapError) -> Self {
        Self::Fault(error.into())
    }
}

impl From<Breach> for Trouble {
    fn from(breach: Breach) -> Self {
        Self::Fault(breach.into())
    }
}

/// When [`Controller::poll`] has something to do again, unless a note comes before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pace {
    pub(crate) again_in: Duration,
}

/// What a life and its keeper share.
#[derive(Debug)]
struct Outside<D: DmaSpace> {
    now: Cell<Option<Instant>>,
    again_in: Cell<Duration>,
    limits: Cell<Option<Limits>>,
    inbox: RefCell<VecDeque<ToKeeper<D>>>,
}

type Ending = Pin<Box<dyn Future<Output = Result<(), ControllerError>>>>;

/// A controller and all that happens to it. Made, polled and dropped on one thread.
pub(crate) struct Controller<B: Bar, D: DmaSpace> {
    outside: Rc<Outside<D>>,
    facts: Arc<Facts>,
    notes: Receiver<ToKeeper<D>>,
    /// No more notes can come.
    deaf: bool,
    life: Ending,
    ended: Option<Result<(), ControllerError>>,
    bar: std::marker::PhantomData<B>,
}

impl<B: Bar, D: DmaSpace> fmt::Debug for Controller<B, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller")
            .field("facts", &self.facts)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl<B: Bar, D: DmaSpace> Controller<B, D> {
    /// Nothing is done to the hardware before the first [`poll`](Self::poll).
    ///
    /// # Errors
    /// That there is no memory for the admin queue which the device can reach.
    pub(crate) fn new(
        name: &str,
        hardware: (Arc<B>, Arc<D>),
        settings: Settings,
        facts: Arc<Facts>,
        notes: Receiver<ToKeeper<D>>,
    ) -> Result<Self, MapError> {
        let outside = Rc::new(Outside {
            now: Cell::new(None),
            again_in: Cell::new(Duration::ZERO),
            limits: Cell::new(None),
            inbox: RefCell::new(VecDeque::new()),
        });
        let given = (settings, Arc::clone(&facts));
        let life = Life::new(name, hardware, given, Rc::clone(&outside))?;
        Ok(Self {
            outside,
            facts,
            notes,
            deaf: false,
            life: Box::pin(life.live()),
            ended: None,
            bar: std::marker::PhantomData,
        })
    }

    /// Does what there is to do at `now`, which never runs backwards. Never waits, but for a
    /// function reset (some 100 ms).
    pub(crate) fn poll(&mut self, now: Instant) -> Pace {
        self.hear();
        self.outside.now.set(Some(now));
        if self.ended.is_none() {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(ended) = self.life.as_mut().poll(&mut context) {
                self.ended = Some(ended);
            }
        }
        let again_in = match self.ended {
            Some(_) => Duration::MAX,
            None => self.outside.again_in.get(),
        };
        Pace { again_in }
    }

    fn hear(&mut self) {
        let mut inbox = self.outside.inbox.borrow_mut();
        while inbox.len() < NOTES_PER_TURN && !self.deaf {
            match self.notes.try_recv() {
                Ok(note) => inbox.push_back(note),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.deaf = true;
                    inbox.push_back(ToKeeper::Close);
                }
            }
        }
    }

    /// Waits until the next poll is due or a note has come, which it keeps for the poll.
    pub(crate) fn rest(&mut self, pace: Pace) {
        if self.deaf {
            return std::thread::park_timeout(pace.again_in);
        }
        let note = match self.notes.recv_timeout(pace.again_in) {
            Ok(note) => note,
            Err(RecvTimeoutError::Timeout) => return,
            Err(RecvTimeoutError::Disconnected) => {
                self.deaf = true;
                ToKeeper::Close
            }
        };
        self.outside.inbox.borrow_mut().push_back(note);
    }

    /// What it can do, once it was ready for the first time.
    pub(crate) fn limits(&self) -> Option<Limits> {
        self.outside.limits.get()
    }

    #[cfg(test)]
    pub(crate) fn state(&self) -> State {
        self.facts.state()
    }

    /// How it ended: `Ok` when the last unit had gone, an error if it never became ready.
    pub(crate) fn ended(&self) -> Option<&Result<(), ControllerError>> {
        self.ended.as_ref()
    }
}

/// What the controller said of itself while it was initialised.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Identity {
    caps: Capabilities,
    version: Version,
    data: ControllerData,
    limits: Limits,
}

/// All that there is of a controller.
#[derive(Debug)]
struct Life<B: Bar, D: DmaSpace> {
    name: String,
    bar: Arc<B>,
    space: Arc<D>,
    settings: Settings,
    facts: Arc<Facts>,
    outside: Rc<Outside<D>>,
    admin: Admin<D>,
    /// What the job under way has got.
    answer: Option<CompletionEntry>,
    identity: Option<Identity>,
    shadow: Option<Arc<Shadow<D>>>,
    generation: Generation,
    pairs: Pairs<D>,
    namespaces: Namespaces,
    questions: VecDeque<Question>,
    /// Who wants a report, until the health was looked at.
    reports: Vec<SyncSender<Report>>,
    events: Events,
    health: HealthState,
    failures: Failures,
    /// Late commands, to be aborted, and when that was told.
    late: VecDeque<(QueueId, CommandId, Instant)>,
    aborts: u16,
    /// The admin queue is served by the controller.
    enabled: bool,
    /// The cores may use it.
    serving: bool,
    /// The function is ours: its registers may be touched.
    attached: bool,
    /// It was found to be gone, or wanted.
    gone: bool,
    /// It was not gone then, and somebody waits for us to let it go.
    wanted: bool,
    /// It is being let go in order.
    parting: bool,
    closing: bool,
    /// A job's command was given up, and may be answered yet.
    unanswered: bool,
    /// A job's command is outstanding: closing waits for its end, so that no answer is taken for
    /// another's and no queue is half deleted.
    commanding: bool,
    /// The shutdown is under way, so that closing ends no wait.
    leaving: bool,
    /// Every wait ends at this time, and for how long what is under way was allowed to take.
    deadline: Option<(Instant, Duration)>,
    /// What cores have told.
    trouble: Option<Trouble>,
    /// When the function is looked at again.
    look_at: Option<Instant>,
    /// Since when it serves, and how many recoveries in a row were not followed by more service
    /// than a little.
    ready_at: Option<Instant>,
    repeats: u32,
    /// How often each log page was late since it was last answered.
    pages_late: [u8; 256],
}

impl<B: Bar, D: DmaSpace> Life<B, D> {
    fn new(
        name: &str,
        (bar, space): (Arc<B>, Arc<D>),
        (settings, facts): (Settings, Arc<Facts>),
        outside: Rc<Outside<D>>,
    ) -> Result<Self, MapError> {
        Ok(Self {
            name: name.to_owned(),
            admin: Admin::new(&space)?,
            bar,
            space,
            settings,
            facts,
            outside,
            answer: None,
            identity: None,
            shadow: None,
            generation: Generation::default(),
            pairs: Pairs::default(),
            namespaces: Namespaces::default(),
            questions: VecDeque::new(),
            reports: Vec::new(),
            events: Events::default(),
            health: HealthState::default(),
            failures: Failures::default(),
            late: VecDeque::new(),
            aborts: 0,
            enabled: false,
            serving: false,
            attached: true,
            gone: false,
            wanted: false,
            parting: false,
            closing: false,
            unanswered: false,
            commanding: false,
            leaving: false,
            deadline: None,
            trouble: None,
            look_at: None,
            ready_at: None,
            repeats: 0,
            pages_late: [0; 256],
        })
    }

    /// From the first register to the last.
    async fn live(mut self) -> Result<(), ControllerError> {
        self.allow(START_MAX);
        let began = self.init().await;
        self.deadline = None;
        if let Err(trouble) = began {
            let error = match trouble {
                Trouble::Fault(error) => error,
                Trouble::Gone => ControllerError::Gone,
                // Nobody wants to know any more.
                Trouble::Closing => {
                    self.shut_down().await;
                    return Ok(());
                }
            };
            self.facts.set_state(State::Failed);
            self.allow(GIVE_UP_MAX);
            self.give_up().await;
            return Err(error);
        }
        self.announce();
        self.ready();
        loop {
            let trouble = self.serve().await;
            if trouble == Trouble::Closing || self.recover(trouble).await.is_err() {
                self.shut_down().await;
                return Ok(());
            }
            self.ready();
        }
    }

    /// What begins now may take so long.
    fn allow(&mut self, time: Duration) {
        self.deadline = Some((self.now() + time, time));
    }

    fn announce(&self) {
        let Some(Identity {
            data,
            limits,
            version,
            ..
        }) = &self.identity
        else {
            return;
        };
        tracing::info!(
            controller = self.name,
            model = data.model,
            serial = data.serial,
            firmware = data.firmware,
            %version,
            queue_pairs = limits.queue_pairs,
            queue_entries = limits.queue_entries,
            transfer_bytes = limits.transfer_bytes,
            write_cache = limits.write_cache,
            shadow_doorbells = self.shadow.is_some(),
            "the controller is ready"
        );
        self.outside.limits.set(Some(*limits));
    }

    /// The cores may use it from now on.
    fn ready(&mut self) {
        self.trouble = None;
        self.late.clear();
        self.aborts = 0;
        if let Some(identity) = &self.identity {
            self.pairs.begin(identity.limits.queue_pairs);
        }
        self.serving = true;
        self.ready_at = Some(self.now());
        self.facts.set_state(State::Ready);
    }

    /// Does one thing after the other until something is wrong or it is to end.
    async fn serve(&mut self) -> Trouble {
        loop {
            if self.closing {
                return Trouble::Closing;
            }
            if let Err(trouble) = self.serve_once().await {
                return trouble;
            }
        }
    }

    async fn serve_once(&mut self) -> Result<(), Trouble> {
        self.answer_questions();
        self.answer_reports();
        if self.pairs.has_work() {
            return self.work_on_pairs().await;
        }
        let now = self.now();
        if self.events.has_work(now) {
            return self.read_event_logs().await;
        }
        if self.health.is_due(now) {
            return self.read_health().await;
        }
        self.arm_events();
        let pace = if self.aborts > 0 { REGISTER_LOOK } else { LOOK };
        self.turn(pace).await
    }

    /// The only place where anything waits: until the next poll. Then what has come meanwhile is
    /// taken up, and an error says that there are more urgent things than what was waited for.
    async fn turn(&mut self, again_in: Duration) -> Result<(), Trouble> {
        self.outside.again_in.set(again_in);
        let mut waited = false;
        poll_fn(|_| match std::mem::replace(&mut waited, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
        self.pairs.deliver();
        self.tell_failures();
        for _ in 0..NOTES_PER_TURN {
            let note = self.outside.inbox.borrow_mut().pop_front();
            let Some(note) = note else { break };
            self.take(note);
        }
        self.look()?;
        self.reap()?;
        self.abort_late();
        if let Some(trouble) = self.trouble.take().filter(|_| self.serving) {
            return Err(trouble);
        }
        if self.closing && !self.leaving && !self.commanding {
            return Err(Trouble::Closing);
        }
        match self.deadline {
            Some((at, allowed)) if self.now() >= at => {
                Err(ControllerError::Overdue(allowed).into())
            }
            _ => Ok(()),
        }
    }

    fn now(&self) -> Instant {
        let now = self.outside.now.get();
        now.expect("set before the life is polled")
    }

    fn take(&mut self, note: ToKeeper<D>) {
        match note {
            ToKeeper::Join(orders, rings) => self.pair_joins(orders, rings),
            ToKeeper::Note(_, Note::Late { .. } | Note::Broken(..)) if !self.serving => {}
            ToKeeper::Note(
                index,
                Note::Late {
                    generation,
                    id,
                    again,
                    at,
                },
            ) if generation == self.generation => {
                self.command_is_late((index, id), (again, at));
            }
            ToKeeper::Note(_, Note::Broken(generation, breach))
                if generation == self.generation =>
            {
                Counters::add(&self.facts.counters.breaches, 1);
                self.trouble = Some(ControllerError::Breach(breach).into());
            }
            // Of a time before the last reset.
            ToKeeper::Note(_, Note::Late { .. } | Note::Broken(..)) => {}
            ToKeeper::Note(index, Note::Halted) => self.pairs.halted(index),
            ToKeeper::Note(index, Note::Leave(pages)) => self.pairs.leaves(index, pages),
            ToKeeper::Find(wanted, answer) => self.question(Question { wanted, answer }),
            ToKeeper::Release(namespace) => self.namespaces.release(namespace),
            // Beyond the bound the answer goes unsent, which says that there is none.
            ToKeeper::Report(answer) if self.reports.len() < QUESTIONS_MAX => {
                self.reports.push(answer);
                self.answer_reports();
            }
            ToKeeper::Report(_) => {}
            ToKeeper::Close => self.closing = true,
        }
    }

    /// Looks at the function a few times a second: whether it is there, and well.
    fn look(&mut self) -> Result<(), Trouble> {
        if self.gone {
            return Err(Trouble::Gone);
        }
        let now = self.now();
        if !self.attached || self.look_at.is_some_and(|at| now < at) {
            return Ok(());
        }
        self.look_at = Some(now + LOOK);
        match self.bar.presence() {
            Presence::Here => {}
            Presence::Failed if !self.serving => {}
            Presence::Failed => return Err(ControllerError::Bus.into()),
            Presence::Wanted if self.parting => {}
            presence @ (Presence::Wanted | Presence::Gone) => {
                self.wanted = presence == Presence::Wanted;
                self.gone = true;
                return Err(Trouble::Gone);
            }
        }
        if self.enabled && !self.csts()?.is_ready() {
            return Err(ControllerError::Disabled.into());
        }
        Ok(())
    }

    /// CSTS, which says whether the controller is there and has not failed.
    fn csts(&mut self) -> Result<Csts, Trouble> {
        let csts = status(&*self.bar);
        if csts.is_gone() {
            self.gone = true;
            return Err(Trouble::Gone);
        }
        if csts.is_fatal() {
            return Err(ControllerError::Fatal.into());
        }
        Ok(csts)
    }

    /// Takes what the admin queue has completed.
    fn reap(&mut self) -> Result<(), Trouble> {
        if !self.enabled {
            return Ok(());
        }
        loop {
            let reaped = self.admin.reap();
            let reaped = reaped.inspect_err(|_| {
                Counters::add(&self.facts.counters.breaches, 1);
            })?;
            let Some((purpose, entry)) = reaped else {
                break;
            };
            match purpose {
                Purpose::Job => self.answer = Some(entry),
                Purpose::Abort => self.aborts = self.aborts.saturating_sub(1),
                Purpose::Event => {
                    if entry.status().is_success() {
                        Counters::add(&self.facts.counters.events, 1);
                    }
                    self.events.came(&entry, &self.name);
                }
            }
            if entry.status().more() {
                self.events.want_error_log();
            }
        }
        self.admin.acknowledge(&*self.bar);
        let Some(late) = self.admin.late(self.now()) else {
            return Ok(());
        };
        self.csts()?;
        Counters::add(&self.facts.counters.timeouts, 1);
        Err(ControllerError::Late {
            what: name_of(late),
            after: self.settings.admin_timeout,
        }
        .into())
    }

    fn command_is_late(
        &mut self,
        (index, id): (super::link::PairIndex, CommandId),
        (again, at): (bool, Instant),
    ) {
        // Whether it is gone, or has failed, is to be known first.
        self.look_at = None;
        if again {
            self.trouble = Some(
                ControllerError::Late {
                    what: "an I/O command that was to be aborted",
                    after: self.settings.io_timeout * 2,
                }
                .into(),
            );
            return;
        }
        Counters::add(&self.facts.counters.timeouts, 1);
        // Beyond the list they are left to their second deadline.
        if let Some(queue) = self.pairs.queue(index)
            && self.late.len() < LATE_MAX
        {
            self.late.push_back((queue, id, at));
        }
    }

    /// Sends Aborts, as many as the controller takes (ACL).
    fn abort_late(&mut self) {
        let Some(identity) = self.identity.as_ref().filter(|_| self.serving) else {
            return;
        };
        let most = identity.data.aborts_max.min(ABORTS_MAX);
        let (now, aborted_within) = (self.now(), self.settings.aborted_within());
        let late_at = now + self.settings.admin_timeout;
        while self.aborts < most
            && let Some((queue, id, seen_at)) = self.late.pop_front()
        {
            // Its core keeps the CID from other commands for little longer.
            if now.saturating_duration_since(seen_at) > aborted_within {
                continue;
            }
            tracing::warn!(
                controller = self.name,
                queue = queue.0,
                command = id.0,
                "a command is late and is aborted"
            );
            Counters::add(&self.facts.counters.aborts, 1);
            let purpose = (Purpose::Abort, Some(late_at));
            self.admin
                .submit(&*self.bar, command::abort(queue, id), purpose);
            self.aborts += 1;
        }
    }

    /// Sends a job's command and waits for its end, whichever that is.
    async fn command(&mut self, entry: SubmissionEntry) -> Result<CompletionEntry, Trouble> {
        let since = self.now();
        let purpose = (Purpose::Job, Some(since + self.settings.admin_timeout));
        self.answer = None;
        self.admin.submit(&*self.bar, entry, purpose);
        self.commanding = true;
        let answer = self.answered(since).await;
        self.commanding = false;
        self.unanswered |= answer.is_err();
        answer
    }

    async fn answered(&mut self, since: Instant) -> Result<CompletionEntry, Trouble> {
        loop {
            let long = self.now().saturating_duration_since(since) > COMMAND_LONG;
            let pace = if long { REGISTER_LOOK } else { COMMAND_LOOK };
            self.turn(pace).await?;
            if let Some(answer) = self.answer.take() {
                return Ok(answer);
            }
        }
    }

    /// As [`command`](Self::command), with the data page: what comes back is there if the status is
    /// success.
    async fn command_with_data(
        &mut self,
        mut entry: SubmissionEntry,
    ) -> Result<CompletionEntry, Trouble> {
        self.admin.clear_data();
        entry.set_prps(self.admin.data()?.0, 0);
        self.command(entry).await
    }

    /// Waits until `until`, or for a reason to stop waiting.
    async fn pause(&mut self, until: Instant) -> Result<(), Trouble> {
        loop {
            let left = until.saturating_duration_since(self.now());
            if left.is_zero() {
                return Ok(());
            }
            self.turn(left.min(LOOK)).await?;
        }
    }
}

/// `Ok` only for success.
fn good(entry: &CompletionEntry, what: &'static str) -> Result<(), ControllerError> {
    let status = entry.status();
    if status.is_success() {
        return Ok(());
    }
    Err(ControllerError::Refused { what, status })
}
