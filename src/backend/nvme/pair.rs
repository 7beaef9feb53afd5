//! [`Pair`]: one core's queue pair of one controller, and what the core wants of the controller.
//!
//! ```text
//! Joining ─Open─► Live ─Halt─► Halted ─Quiet─► Held ─Open─► Live …
//!        └Share─► Guest ─┘       any ─Fail─► Failed ─Open, Share─► Live, Guest
//! ```
//!
//! Only a live pair touches its queues, and only a guest its lane. Elsewhere requests are held, for
//! as long as the operator's `hold` says; then they and all that come are told that the device is
//! becoming ready. A controller that breaks a rule is left alone at once and reported.
//!
//! A command's buffer belongs to its request, which stays in the table until the command has
//! completed, or until the keeper has a [`Quiet`](super::dma::Quiet) proof that it will not be
//! touched. Where there is no proof the buffer goes into quarantine: views of its chunks keep them
//! out of the pool.
//!
//! Nothing is logged here while commands are served: a log may be waited for. The keeper does it.
//!
//! Never: a buffer given back whose command is outstanding; a command told to a controller behind
//! `Halt`; an index of the controller's that [`Slots`] does not know.

use std::collections::VecDeque;
use std::mem;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::super::request::{Completion, IoError, Token};
use super::super::wake::Wake;
use super::bar::Bar;
use super::dma::{DmaPages, DmaSpace, Iova, MapError, Mapping, PAGE_BYTES};
use super::facts::{
    Counters, Namespace, NamespaceState, Patience, REPLAYS_MAX, State as ControllerState,
};
use super::lane::Hosted;
use super::link::{Breach, Foreign, Generation, Grant, Handle, LANE_MAX, Lane, Note, Order};
use super::link::{PairEnd, Unsent};
use super::outcome::{self, Outcome, RETRIES_MAX};
use super::prp;
use super::requests::Requests;
use super::ring::Ring;
use super::slots::{Origin, Part, Slots};
use super::spec::command;
use super::spec::entry::{CommandId, CompletionEntry, NamespaceId, SubmissionEntry};
use super::spec::status::Status;
use super::translate::{Data, Job};
use crate::mem::{DmaBuf, Loan, Pages, Pool};

/// Orders that are obeyed in one turn.
const ORDERS_BURST: usize = 64;
/// Least wait before a command is sent again that its controller was not ready for.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Where the pair stands with the keeper.
#[derive(Debug)]
enum State<D: DmaSpace> {
    Joining,
    Live(Grant<D>),
    Guest(Generation, Arc<Lane>),
    /// By order, or because the controller broke a rule.
    Halted,
    Held,
    Failed,
}

/// A note that is to be sent.
#[derive(Clone, Copy, Debug)]
enum Owed {
    Halted,
    Broken(Generation, Breach),
}

/// Why a core cannot have a pair.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum PairError {
    #[error(transparent)]
    Map(#[from] MapError),
    #[error(transparent)]
    Closed(#[from] super::link::NoKeeper),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Pair<B: Bar, D: DmaSpace> {
    handle: Arc<Handle<B, D>>,
    end: PairEnd<D>,
    mapping: Mapping<D, Pool>,
    ring: Ring<D>,
    zeroes: Iova,
    slots: Slots,
    requests: Requests,
    state: State<D>,
    owed: Option<Owed>,
    /// Guests of this pair.
    lanes: Vec<Option<Hosted>>,
    quarantine: Vec<Loan>,
    quarantined_bytes: u64,
    /// The time of this turn; none before the first.
    now: Option<Instant>,
    /// Since when requests are held, and whether that was too long.
    held_since: Option<Instant>,
    overdue: bool,
    /// Units of this core on the controller.
    pub(crate) units: usize,
    /// Their namespaces, and those of units that have gone.
    namespaces: Vec<Arc<Namespace>>,
}

impl<B: Bar, D: DmaSpace> Pair<B, D> {
    /// Takes the memory, makes the pool reachable and joins. May wait for the keeper: at start.
    pub(crate) fn new(
        handle: &Arc<Handle<B, D>>,
        (pool, pages): (&Pool, Pages),
        wake: &Arc<Wake>,
    ) -> Result<Self, PairError> {
        let entries = handle.limits.queue_entries;
        let ring = Ring::new(&handle.space, entries, pages)?;
        let mapping = Mapping::new(&handle.space, pool.clone())?;
        let zeroes = ring.zeroes()?;
        let end = handle.join(wake, ring.rings()?)?;
        Ok(Self {
            handle: Arc::clone(handle),
            end,
            mapping,
            ring,
            zeroes,
            slots: Slots::new(entries - 1),
            requests: Requests::default(),
            state: State::Joining,
            owed: None,
            lanes: Vec::new(),
            quarantine: Vec::new(),
            quarantined_bytes: 0,
            now: None,
            held_since: None,
            overdue: false,
            units: 0,
            namespaces: Vec::new(),
        })
    }

    /// Takes the namespace of a unit in.
    pub(crate) fn serve(&mut self, namespace: &Arc<Namespace>) {
        let id = namespace.geometry.namespace;
        self.namespaces.retain(|one| one.geometry.namespace != id);
        self.namespaces.push(Arc::clone(namespace));
    }

    pub(crate) fn handle(&self) -> &Arc<Handle<B, D>> {
        &self.handle
    }

    /// Takes a request in.
    pub(crate) fn submit(
        &mut self,
        job: Job,
        (token, buf): (Token, Option<DmaBuf>),
        ready: &mut VecDeque<Completion>,
    ) {
        let refused = match self.state {
            State::Failed => Some(self.why_lost()),
            _ if self.overdue => Some(IoError::Recovering),
            _ if !self.requests.has_room() => Some(IoError::Resource),
            _ => None,
        };
        match refused {
            None => self.requests.add(token, buf, job),
            Some(error) => ready.push_back(Completion {
                token,
                result: Err(error),
                buf,
            }),
        }
    }

    /// Of what is given up or not taken in: it may be sent again, unless there is no hope for now.
    /// A controller that is ready has told the others so, and creates this pair next.
    fn why_lost(&self) -> IoError {
        match self.handle.facts.state() {
            ControllerState::Gone => IoError::Absent,
            ControllerState::Failed | ControllerState::Closed => IoError::NotReady,
            _ => IoError::Recovering,
        }
    }

    /// Sends what there are slots for and tells the controller once. `now` is the turn's time.
    pub(crate) fn kick(&mut self, now: Instant, ready: &mut VecDeque<Completion>) {
        self.now = Some(now);
        match &self.state {
            State::Live(_) => {
                self.serve_guests(now);
                self.send(now, self.slots.free(), ready);
            }
            State::Guest(_, lane) => {
                let lane = Arc::clone(lane);
                let before = self.slots.taken();
                self.send(now, LANE_MAX.saturating_sub(before), ready);
                if self.slots.taken() > before {
                    lane.wake_host();
                }
            }
            State::Joining | State::Halted | State::Held => self.hold(now, ready),
            State::Failed => {}
        }
        if let State::Live(grant) = &self.state {
            self.ring.ring_tail(&self.handle, grant);
        }
        self.tell_owed();
    }

    /// Sends at most `most` commands.
    fn send(&mut self, now: Instant, most: usize, ready: &mut VecDeque<Completion>) {
        for _ in 0..most.min(self.slots.free()) {
            let Some(part) = self.requests.next(now, ready) else {
                return;
            };
            if !self.issue(part, now, ready) {
                return;
            }
        }
    }

    /// `false`: nothing more can be sent now.
    fn issue(&mut self, mut part: Part, now: Instant, ready: &mut VecDeque<Completion>) -> bool {
        if let Some(error) = self.refusal(&part) {
            self.requests.end_part(part.request, Err(error), ready);
            return true;
        }
        let Some(slot) = self.slots.next() else {
            self.requests.put_back(part, None);
            return false;
        };
        let Ok(mut entry) = self.command(&part, slot) else {
            let error = Err(IoError::Resource);
            self.requests.end_part(part.request, error, ready);
            return true;
        };
        if let Some(namespace) = self.requests.of(&part).job.flushes() {
            let namespace = self.namespace(namespace);
            part.flush = namespace.map_or(0, |namespace| namespace.begins_flush());
        }
        let patience = Patience::with(entry.opcode());
        let deadline = now + self.timeout(patience);
        let id = self.slots.take(Origin::Own(part), (patience, deadline));
        let id = id.expect("a slot is free");
        entry.set_id(id);
        match &self.state {
            State::Guest(_, lane) => {
                let (tag, entry) = (id.0, entry);
                if lane.commands.push(Foreign { tag, entry }).is_err() {
                    self.slots.release(id, now);
                    self.requests.put_back(part, None);
                    return false;
                }
            }
            _ => self.ring.put(&entry),
        }
        true
    }

    /// Why a part is not to be sent: while it was held the namespace may have become another one,
    /// or one with other blocks, whose pages would not be those of the part's data.
    fn refusal(&mut self, part: &Part) -> Option<IoError> {
        let id = self.requests.of(part).job.namespace();
        let mut all = self.namespaces.iter();
        let namespace = all.find(|one| one.geometry.namespace == id);
        match namespace.map(|namespace| namespace.state()) {
            Some(NamespaceState::Active | NamespaceState::ReadOnly) => None,
            Some(NamespaceState::Missing) => Some(IoError::Absent),
            Some(NamespaceState::Changed) | None => Some(IoError::NotReady),
        }
    }

    /// The command of a part, with its data.
    fn command(&mut self, part: &Part, slot: u16) -> Result<SubmissionEntry, prp::Unaligned> {
        let request = self.requests.of(part);
        let (mut entry, data) = request.job.command(&part.cut);
        let mut list = self.ring.list(slot);
        match data {
            Data::None => {}
            Data::Zeroes(len) => {
                let zeroes = self.zeroes;
                let pieces = (0..len).step_by(PAGE_BYTES);
                let pieces = pieces.map(|at| (zeroes, PAGE_BYTES.min(len - at)));
                prp::build(&mut entry, &mut list, pieces)?;
            }
            Data::Buffer(len) => {
                let buf = request.buf.as_ref().ok_or(prp::Unaligned)?;
                let range = part.cut.offset..part.cut.offset + len;
                let mut found = 0;
                let segments = buf.segments(range);
                let pieces = segments.flat_map(|(at, len)| located(&self.mapping, at, len));
                let pieces = pieces.inspect(|(_, len)| found += len);
                prp::build(&mut entry, &mut list, pieces)?;
                if found != len {
                    return Err(prp::Unaligned);
                }
            }
            Data::Ranges(_) => {
                let offset = list.offset;
                for (nth, (lba, blocks)) in request.job.ranges(&part.cut).enumerate() {
                    let at = offset + nth * command::RANGE_BYTES;
                    list.pages.copy_in(at, &command::range(lba, blocks));
                }
                let page = list.pages.iova(offset..offset + PAGE_BYTES);
                entry.set_prps(page.map_err(|_| prp::Unaligned)?.0, 0);
            }
        }
        Ok(entry)
    }

    /// Puts in what guests want, each a part of the slots that are free.
    fn serve_guests(&mut self, now: Instant) {
        if self.lanes.is_empty() {
            return;
        }
        let share = (self.slots.free() / (self.lanes.len() + 1)).max(1);
        for (lane, hosted) in self.lanes.iter_mut().enumerate() {
            let lane = u16::try_from(lane).expect("at most one for each core");
            for _ in 0..share.min(self.slots.free()) {
                let Some(foreign) = hosted.as_ref().and_then(|it| it.lane.commands.pop()) else {
                    break;
                };
                let Foreign { tag, mut entry } = foreign;
                let origin = Origin::Foreign { lane, tag };
                let patience = Patience::with(entry.opcode());
                let deadline = now + self.handle.settings.timeout(patience);
                let id = self.slots.take(origin, (patience, deadline));
                entry.set_id(id.expect("a slot is free"));
                self.ring.put(&entry);
                if let Some(hosted) = hosted {
                    hosted.outstanding += 1;
                }
            }
        }
    }

    /// Takes a batch of completions and obeys orders: in this sequence, since a flush that has
    /// failed would be sent again behind `Halt`, and vouch for what it has lost.
    pub(crate) fn poll(&mut self, ready: &mut VecDeque<Completion>) {
        match &self.state {
            State::Live(_) => self.reap(ready),
            State::Guest(_, lane) => {
                let lane = Arc::clone(lane);
                self.take_returns(&lane, ready);
            }
            State::Joining | State::Halted | State::Held | State::Failed => {}
        }
        for _ in 0..ORDERS_BURST {
            let Some(order) = self.end.orders.take() else {
                break;
            };
            self.obey(order, ready);
        }
        // Behind what has completed: a core that was held up finds nothing late.
        self.tell_late();
        if !self.lanes.is_empty() {
            self.forget_guests();
        }
    }

    fn reap(&mut self, ready: &mut VecDeque<Completion>) {
        let entries = self.handle.limits.queue_entries;
        // All there is where an order may end the reading.
        let batch = if self.end.orders.is_empty() {
            (entries / 4).max(1)
        } else {
            entries
        };
        for _ in 0..batch {
            let Some(completion) = self.ring.take() else {
                break;
            };
            if let Err((generation, breach)) = self.take_completion(&completion, ready) {
                self.owed = Some(Owed::Broken(generation, breach));
                self.state = State::Halted;
                return self.tell_owed();
            }
        }
        if let State::Live(grant) = &self.state {
            self.ring.ring_head(&self.handle, grant);
        }
        for hosted in self.lanes.iter_mut().flatten() {
            hosted.wake();
        }
    }

    fn take_completion(
        &mut self,
        completion: &CompletionEntry,
        ready: &mut VecDeque<Completion>,
    ) -> Result<(), (Generation, Breach)> {
        let State::Live(grant) = &self.state else {
            return Ok(());
        };
        let (id, rested) = (completion.id(), self.rested());
        let checked = Ring::check(completion, grant);
        let released = checked.and_then(|()| {
            let released = rested.and_then(|rested| self.slots.release(id, rested));
            released.ok_or(Breach::UnknownCommand(id.0))
        });
        match released.map_err(|breach| (grant.generation, breach))? {
            Origin::Own(part) => self.ended(part, completion.status(), ready),
            Origin::Foreign { lane, tag } => {
                if let Some(Some(hosted)) = self.lanes.get_mut(usize::from(lane)) {
                    hosted.give_back(tag, *completion);
                }
            }
        }
        Ok(())
    }

    fn take_returns(&mut self, lane: &Lane, ready: &mut VecDeque<Completion>) {
        for _ in 0..LANE_MAX {
            let Some(returned) = lane.returns.pop() else {
                return;
            };
            let id = CommandId(returned.tag);
            if let Some(rested) = self.rested()
                && let Some(Origin::Own(part)) = self.slots.release(id, rested)
            {
                self.ended(part, returned.completion.status(), ready);
            }
        }
    }

    /// A command of ours has ended.
    fn ended(&mut self, mut part: Part, status: Status, ready: &mut VecDeque<Completion>) {
        let at = part.request;
        let job = &self.requests.of(&part).job;
        let (access, flushes, caches) = (job.access(), job.flushes(), job.caches());
        let result = match outcome::of(status, access) {
            Outcome::Good => Ok(()),
            Outcome::Retry { delay, .. } if part.retries < RETRIES_MAX => {
                part.retries += 1;
                let pause = self.handle.facts.retry_delay(delay).max(RETRY_PAUSE);
                let not_before = self.now.map(|now| now + pause);
                return self.requests.put_back(part, not_before);
            }
            Outcome::Fail(error)
            | Outcome::Retry {
                otherwise: error, ..
            } => Err(error),
        };
        if result.is_err() {
            self.handle.facts.add_failure(status, part.cut.lba);
        }
        if let (Ok(()), Some(namespace)) = (result, caches)
            && let Some(namespace) = self.namespace(namespace)
        {
            namespace.cached();
        }
        let result = match flushes {
            Some(namespace) => self.flushed(namespace, part.flush, result),
            None => result,
        };
        self.requests.end_part(at, result, ready);
    }

    /// What a flush may say that has ended. One that the medium has failed takes with it what it
    /// was to write: the next one finds an empty cache, and has nothing to vouch for.
    fn flushed(
        &self,
        id: NamespaceId,
        flush: u64,
        result: Result<(), IoError>,
    ) -> Result<(), IoError> {
        let namespace = self.namespace(id);
        if let (Ok(()), Some(namespace)) = (result, namespace) {
            namespace.flushed(flush);
        }
        let lost = namespace.is_some_and(|namespace| namespace.cache_lost());
        match (result, namespace) {
            (Ok(()), _) if lost => Err(IoError::WriteCacheLost),
            (Err(IoError::Medium | IoError::WriteFault | IoError::Hardware), Some(namespace))
                if !lost =>
            {
                // The keeper says so.
                namespace.fail_flush();
                result
            }
            _ => result,
        }
    }

    fn namespace(&self, id: NamespaceId) -> Option<&Arc<Namespace>> {
        let mut all = self.namespaces.iter();
        all.find(|one| one.geometry.namespace == id)
    }

    fn obey(&mut self, order: Order<D>, ready: &mut VecDeque<Completion>) {
        match order {
            Order::Open(grant) => {
                self.lose(ready);
                self.ring.reset();
                self.state = State::Live(grant);
                (self.held_since, self.overdue, self.owed) = (None, false, None);
            }
            Order::Share(generation, lane) => {
                self.lose(ready);
                self.state = State::Guest(generation, lane);
                (self.held_since, self.overdue, self.owed) = (None, false, None);
            }
            Order::Host(lane) => self.host(lane),
            Order::Halt => {
                self.lanes.clear();
                self.owed = Some(Owed::Halted);
                if !matches!(self.state, State::Failed) {
                    self.state = State::Halted;
                }
                self.tell_owed();
            }
            Order::Quiet(_) => self.quiet(ready),
            Order::Fail => {
                self.lanes.clear();
                self.lose(ready);
                self.state = State::Failed;
                self.requests.fail(self.why_lost(), ready);
            }
        }
    }

    fn host(&mut self, lane: Arc<Lane>) {
        let hosted = Some(Hosted::new(lane));
        match self.lanes.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = hosted,
            None => self.lanes.push(hosted),
        }
    }

    /// Forgets guests that have gone.
    fn forget_guests(&mut self) {
        for place in &mut self.lanes {
            if place.as_ref().is_some_and(Hosted::is_over) {
                *place = None;
            }
        }
        if self.lanes.iter().all(Option::is_none) {
            self.lanes.clear();
        }
    }

    /// No memory of outstanding commands is touched any more: they are sent again.
    fn quiet(&mut self, ready: &mut VecDeque<Completion>) {
        // The last one first, each before those: they are sent in the order in which they were.
        while let Some(origin) = self.slots.release_latest() {
            let Origin::Own(mut part) = origin else {
                continue;
            };
            if part.replays < REPLAYS_MAX {
                part.replays += 1;
                Counters::add(&self.handle.facts.counters.replays, 1);
                self.requests.put_back(part, None);
            } else {
                let error = Err(self.why_lost());
                self.requests.end_part(part.request, error, ready);
            }
        }
        self.requests.sweep(ready);
        self.free_quarantine();
        if !matches!(self.state, State::Failed) {
            self.state = State::Held;
        }
    }

    /// Outstanding commands fail, and their buffers are kept from everybody.
    fn lose(&mut self, ready: &mut VecDeque<Completion>) {
        if self.slots.taken() == 0 {
            return;
        }
        let (mut bytes, error) = (0, Err(self.why_lost()));
        while let Some(origin) = self.slots.release_latest() {
            let Origin::Own(part) = origin else { continue };
            if let Some(buf) = self.requests.of(&part).buf.take() {
                buf.lend(0..buf.len(), |loan| self.quarantine.push(loan));
                bytes += buf.len() as u64;
            }
            self.requests.end_part(part.request, error, ready);
        }
        self.requests.sweep(ready);
        self.quarantined_bytes += bytes;
        let counters = &self.handle.facts.counters;
        Counters::add(&counters.quarantined_bytes, bytes);
    }

    fn free_quarantine(&mut self) {
        self.quarantine.clear();
        let bytes = mem::take(&mut self.quarantined_bytes);
        let counters = &self.handle.facts.counters;
        counters.quarantined_bytes.fetch_sub(bytes, Relaxed);
    }

    /// Requests are held; the time for that runs.
    fn hold(&mut self, now: Instant, ready: &mut VecDeque<Completion>) {
        let since = *self.held_since.get_or_insert(now);
        let held = now.saturating_duration_since(since);
        if !self.overdue && held >= self.handle.settings.hold_max {
            self.overdue = true;
            self.lose(ready);
            self.requests.fail(IoError::Recovering, ready);
        }
    }

    /// How long a command of this core may be outstanding. That of a guest is its host's to tell
    /// of, unless the host itself is held up.
    fn timeout(&self, patience: Patience) -> Duration {
        let timeout = self.handle.settings.timeout(patience);
        match &self.state {
            State::Guest(..) => timeout * 3 / 2,
            _ => timeout,
        }
    }

    /// Until when the slot rests of a command that ends now. `None`: nothing was ever sent.
    fn rested(&self) -> Option<Instant> {
        self.now.map(|now| now + self.handle.settings.rest())
    }

    /// Tells the keeper of commands that are late, as far as their slots may rest.
    fn tell_late(&mut self) {
        let (generation, is_guest) = match &self.state {
            State::Live(grant) => (grant.generation, false),
            State::Guest(generation, _) => (*generation, true),
            _ => return,
        };
        let Some(now) = self.now else { return };
        while let Some(late) = self.slots.late(now) {
            let (id, again) = (late.id, late.again);
            let note = Note::Late {
                generation,
                id,
                again,
                at: now,
            };
            // A guest does not know by what CID it could be aborted.
            let abortable = !again && !is_guest && self.slots.has_abortable();
            let tells = again || abortable;
            if tells && let Err(Unsent::Full(_)) = self.end.send(note) {
                return;
            }
            if !tells && !is_guest {
                Counters::add(&self.handle.facts.counters.timeouts, 1);
            }
            let deadline = now + self.timeout(Patience::Short);
            self.slots.told(late, deadline, abortable);
        }
    }

    fn tell_owed(&mut self) {
        let note = match self.owed {
            None => return,
            Some(Owed::Halted) => Note::Halted,
            Some(Owed::Broken(generation, breach)) => Note::Broken(generation, breach),
        };
        if !matches!(self.end.send(note), Err(Unsent::Full(_))) {
            self.owed = None;
        }
    }

    /// Requests that were not answered, and commands of guests on their way. A guest that wants
    /// nothing is none: it stays until its core ends, which waits for ours to have nothing to do.
    pub(crate) fn in_flight(&self) -> usize {
        let hosted = self.lanes.iter().flatten();
        let foreign: usize = hosted
            .map(|it| usize::from(it.outstanding) + it.lane.commands.len())
            .sum();
        self.requests.count() + foreign
    }

    /// Whether a kick or a poll can find something to do that wakes nobody.
    pub(crate) fn needs_poll(&self) -> bool {
        let has_room = self.slots.free() > 0;
        let sends = has_room && self.requests.has_parts();
        self.owed.is_some()
            || match &self.state {
                State::Live(_) => self.slots.taken() > 0 || sends,
                State::Guest(..) => sends && self.slots.taken() < LANE_MAX,
                State::Joining | State::Halted | State::Held | State::Failed => false,
            }
    }

    /// Whether there is nothing that a wake was, or will have been, for.
    pub(crate) fn is_quiet(&self) -> bool {
        let nobody_returns = match &self.state {
            State::Guest(_, lane) => lane.returns.is_empty(),
            _ => true,
        };
        let wants = |hosted: &Hosted| !hosted.lane.commands.is_empty();
        let nobody_wants = !self.lanes.iter().flatten().any(wants);
        self.end.orders.is_empty() && nobody_returns && nobody_wants
    }

    /// Whether nothing and nobody needs the pair any more.
    pub(crate) fn may_leave(&self) -> bool {
        let has_guests = self.lanes.iter().any(Option::is_some);
        self.units == 0 && !has_guests && self.in_flight() == 0 && self.slots.taken() == 0
    }

    /// Ends the pair, whatever is outstanding. Buffers that a device may still touch stay for ever;
    /// the rings are for the keeper, if the pair has a queue of its own or nothing is outstanding.
    pub(crate) fn end(mut self) -> (PairEnd<D>, Option<DmaPages<D>>) {
        if let State::Guest(_, lane) = &self.state {
            lane.end();
        }
        let left = self.slots.taken();
        let mut unanswered = VecDeque::new();
        self.lose(&mut unanswered);
        for completion in unanswered {
            completion.token.finish();
        }
        self.requests.abandon();
        if left > 0 {
            let bytes = self.quarantined_bytes;
            tracing::error!(
                left,
                bytes,
                "an NVMe queue pair ended with commands outstanding"
            );
            mem::forget((self.quarantine, self.mapping));
            if let State::Live(_) = self.state {
                // They go when the keeper has deleted the queue, and with it what is outstanding.
                return (self.end, Some(self.ring.into_pages()));
            }
            // What was outstanding may be in another's queue, with lists in these pages.
            mem::forget(self.ring);
            return (self.end, None);
        }
        match self.mapping.revoke() {
            // The device cannot reach any buffer, so nobody's is in danger.
            Ok(()) => {
                let counters = &self.handle.facts.counters;
                let bytes = self.quarantined_bytes;
                counters.quarantined_bytes.fetch_sub(bytes, Relaxed);
            }
            Err(error) => {
                tracing::error!("a pool is left to an NVMe controller: {error}");
                mem::forget(self.quarantine);
            }
        }
        (self.end, Some(self.ring.into_pages()))
    }
}

/// Where the device sees `len` bytes from `at` on, piece by piece, as far as it does.
fn located<D: DmaSpace>(
    mapping: &Mapping<D, Pool>,
    mut at: NonNull<u8>,
    mut left: usize,
) -> impl Iterator<Item = (Iova, usize)> {
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let (iova, len) = mapping.locate(at, left)?;
        left -= len;
        at = at.map_addr(|at| at.saturating_add(len));
        Some((iova, len))
    })
}
