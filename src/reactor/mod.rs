//! One core's loop. It owns its connections, its sessions, its replicas of the logical units, its
//! buffers and its device queues, and shares nothing but its inbox.
//!
//! ```text
//! inbox ─► sockets, ports: receive ─► PDUs ─► tasks ─► devices: submit, reap ─► send ─► timers
//! ```
//!
//! Every step is bounded by a named constant. Time is read once per turn.
//!
//! Files: `connections` (their table), `greeting` (logins), `transfer` (receive and send),
//! `sessions` (placement, reinstatement, ends), `links` (the connections of a session), `barrier`
//! (what every core must do before an answer), `home` (who decides about a unit's changes),
//! `freeze` (blocks that one task alone changes), `job` (what a unit does on its own), `devices`
//! (how units get theirs), `message`, `clock`, `affinity`.

pub mod affinity;
mod barrier;
pub mod clock;
mod connections;
mod devices;
pub mod flows;
mod freeze;
mod greeting;
mod home;
mod job;
mod lent;
mod links;
pub mod message;
mod sessions;
mod transfer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;

use crate::backend::{self, Backing, Completion, IoError, Operation, Request, Token, UnitIndex};
use crate::control::directory::Core;
use crate::control::event::Event;
use crate::control::ring::{Inbox, Outbox, Sender};
use crate::iscsi::login;
use crate::iscsi::node::Nodes;
use crate::iscsi::session::{self, Effect, Guard, Guards, SessionIndex, Timeouts};
use crate::mem::{DmaBuf, Pages, Pool};
use crate::net::{Poller, Ready, Stream};
use crate::scsi::{LogicalUnit, ReadyState};
use barrier::Barrier;
use connections::Connection;

use flows::{Attachment, Flows, FrameRings};
pub use greeting::fill_random;
use home::{Home, PendingReset};
use lent::Lent;
use message::{ConnectionKey, Freeze, Handoff, Owner, ToControl, ToCore};
use sessions::Entry;

/// Messages taken from the inbox in one turn.
const INBOX_BURST: usize = 64;
/// Rounds of submitting and reaping in one turn; a device that completes at once is served to the
/// end of what one turn brought.
const DEVICE_ROUNDS: usize = 8;
/// Rounds of messages of a core to itself in one turn; what is left is for the next.
const LOCAL_ROUNDS: usize = 16;
/// Bytes received from one connection in one turn: with it the scratch stays in a core's own cache.
const SCRATCH_BYTES: usize = 256 * 1024;
/// Errors of devices that one core tells between two ticks.
const DEVICE_ERRORS_PER_TICK: u32 = 4;
/// How often timers are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Work-free time after which an adaptive core sleeps.
const SPIN: Duration = Duration::from_micros(60);
/// The longest sleep: the watchdog wants to see every core move.
pub(crate) const SLEEP_MAX: Duration = Duration::from_secs(1);

/// How a core waits for work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Polling {
    /// Never sleeps.
    Busy,
    /// Sleeps until something happens after a short spin.
    Adaptive,
}

/// What a reactor is made of. Sent to the thread that will be the core.
#[derive(Debug)]
pub struct Plan {
    pub core: Core,
    pub cpu: Option<usize>,
    pub polling: Polling,
    pub pool_bytes: usize,
    pub pages: Pages,
    pub nodes: Arc<Nodes>,
    pub units: Vec<LogicalUnit>,
    pub backings: Vec<Option<Arc<Backing>>>,
    pub backend: backend::Options,
    pub timeouts: Timeouts,
    pub login_timeout: Duration,
    pub login_limits: login::Limits,
    /// Fills a buffer with unpredictable bytes: [`fill_random`], or what a test puts in its place.
    pub random: fn(&mut [u8]),
    /// Connections of this core that may be without a session at a time.
    pub greetings_max: usize,
    /// Connections beyond the first of their session that this core may have at a time.
    pub joined_max: usize,
    pub inbox: Inbox<ToCore>,
    pub cores: Vec<Sender<ToCore>>,
    pub control: Sender<ToControl>,
    pub heartbeat: Arc<Heartbeat>,
    pub guards: Arc<Guards>,
    /// Of each port its queue here, or a way to one.
    pub ports: Vec<Attachment>,
    pub frames: FrameRings,
}

/// How a core turns, for whoever watches it: written by the core alone.
#[derive(Debug, Default)]
pub struct Heartbeat(CachePadded<Beats>);

#[derive(Debug, Default)]
struct Beats {
    turns: AtomicU64,
    busy_ns: AtomicU64,
}

impl Heartbeat {
    /// Turns so far.
    pub fn turns(&self) -> u64 {
        self.0.turns.load(Ordering::Relaxed)
    }

    /// The time of those in which there was work: what a core that polls has used, since it takes
    /// all of its CPU whether there is work or none.
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(self.0.busy_ns.load(Ordering::Relaxed))
    }

    /// A turn begins; of those before, so much time is to be added to that of work.
    fn beat(&self, busy: Duration) {
        let add = |to: &AtomicU64, more: u64| {
            to.store(
                to.load(Ordering::Relaxed).wrapping_add(more),
                Ordering::Relaxed,
            );
        };
        add(&self.0.turns, 1);
        if !busy.is_zero() {
            add(
                &self.0.busy_ns,
                u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX),
            );
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Reactor {
    core: Core,
    polling: Polling,
    next_tick: Instant,
    heartbeat: Arc<Heartbeat>,
    /// The turn before found work.
    worked: bool,
    // Neighbours.
    inbox: Inbox<ToCore>,
    cores: Vec<Outbox<ToCore>>,
    control: Outbox<ToControl>,
    barriers: Vec<Barrier>,
    acknowledgements: Vec<barrier::Debt>,
    next_barrier: u64,
    /// Messages of this core to itself.
    local: VecDeque<ToCore>,
    /// By unit; used where this core is the unit's home.
    homes: Vec<Home>,
    resets: Vec<PendingReset>,
    /// Blocks that only their owners change.
    frozen: Vec<freeze::Held>,
    /// Requests of others for such blocks.
    held: Vec<Request>,
    calendar: clock::Calendar,
    // Connections.
    poller: Poller,
    ready: Vec<Ready>,
    /// Connections over sockets.
    sockets: usize,
    connections: Vec<Option<Connection>>,
    free_connections: Vec<u32>,
    generation: u32,
    /// Connections without a session, oldest first.
    greetings: VecDeque<ConnectionKey>,
    greetings_max: usize,
    joined_max: usize,
    /// Connections that have something to send.
    dirty: Vec<u32>,
    /// Errors of devices that were told since the last tick.
    device_errors_told: u32,
    /// The list of the turn before, to be used again.
    spare_dirty: Vec<u32>,
    scratch: Box<[u8]>,
    // Sessions.
    sessions: Vec<Option<Entry>>,
    /// Sessions that wait for buffers or room.
    waiting: VecDeque<SessionIndex>,
    timeouts: Timeouts,
    login_timeout: Duration,
    login_limits: login::Limits,
    random: fn(&mut [u8]),
    /// Logins that made the engine panic; their connections were closed.
    login_panics: u64,
    admission: login::Admission,
    // Logical units.
    backends: backend::Set,
    done: Vec<Completion>,
    stopping: bool,
    flushed: bool,
    stopped: bool,
    ended: bool,
    /// Connections that a test keeps from going to the core of their session.
    handoffs: Vec<(Core, Box<Handoff>)>,
    flows: Flows,
    // Last: everything that holds buffers goes before the pool.
    lent: Lent,
}

impl Reactor {
    /// Makes the core's queues and buffers. Call it on the core's own thread.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn new(plan: Plan) -> Result<Self, String> {
        plan.cpu.map_or(Ok(()), affinity::pin)?;
        let pool = Pool::new(plan.pool_bytes, plan.pages).map_err(|error| error.to_string())?;
        let mut backends = devices::make(&plan.backend, &pool, plan.pages)?;
        let mut units = plan.units;
        let troubles = devices::attach(&mut backends, &plan.backings, &mut units);
        let (now, calendar) = (clock::now(), clock::Calendar::read());
        let flows = Flows::new(plan.ports, plan.frames, (&pool, plan.pages), now)?;
        let poller = poller(&plan.inbox, &backends, &flows).map_err(|e| format!("epoll: {e}"))?;
        Ok(Self {
            core: plan.core,
            polling: plan.polling,
            next_tick: now + TICK,
            heartbeat: plan.heartbeat,
            worked: false,
            inbox: plan.inbox,
            cores: plan.cores.into_iter().map(Outbox::new).collect(),
            control: Outbox::new(plan.control),
            barriers: Vec::new(),
            acknowledgements: Vec::new(),
            next_barrier: 0,
            local: VecDeque::new(),
            homes: units.iter().map(|_| Home::default()).collect(),
            resets: Vec::new(),
            frozen: Vec::new(),
            held: Vec::new(),
            calendar,
            poller,
            ready: Vec::with_capacity(crate::net::host::READY_MAX),
            sockets: 0,
            connections: Vec::new(),
            free_connections: Vec::new(),
            generation: 0,
            greetings: VecDeque::new(),
            greetings_max: plan.greetings_max,
            joined_max: plan.joined_max,
            dirty: Vec::with_capacity(64),
            spare_dirty: Vec::with_capacity(64),
            device_errors_told: 0,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            sessions: Vec::new(),
            waiting: VecDeque::new(),
            timeouts: plan.timeouts,
            login_timeout: plan.login_timeout,
            login_limits: plan.login_limits,
            random: plan.random,
            login_panics: 0,
            admission: login::Admission::Open,
            backends,
            done: Vec::with_capacity(256),
            stopping: false,
            flushed: false,
            stopped: false,
            ended: false,
            handoffs: Vec::new(),
            flows,
            lent: Lent::new((now, &calendar), pool, units, plan.nodes, plan.guards),
        }
        .begin(troubles))
    }

    /// Tells what could not be attached, and goes on with what the last end interrupted.
    fn begin(mut self, troubles: Vec<Event>) -> Self {
        for trouble in troubles {
            self.tell(trouble);
        }
        self.resume_jobs();
        self
    }

    /// Turns until told to stop and nothing is outstanding.
    pub fn run(mut self) {
        // Nobody has slept yet: devices need not ring.
        self.backends.after_sleep();
        let mut last_work = self.lent.now;
        while !self.ended {
            if self.poll_once(None) {
                last_work = self.lent.now;
            } else if self.polling == Polling::Adaptive && self.lent.now - last_work > SPIN {
                // A core that has to look at its ports itself spins no more between naps.
                if self.sleep() || !self.flows.naps() {
                    last_work = self.lent.now;
                }
            }
            if self.stopping && !self.stopped && self.is_finished() {
                // It goes on turning until all have finished: others may wait for its word.
                self.stopped = true;
                for account in self.flows.accounts(self.core) {
                    self.tell(Event::Account(account));
                }
                self.control.send(ToControl::Stopped { core: self.core });
            }
        }
        self.flows.close(self.lent.now);
        let pool = &self.lent.pool;
        // A device that does not let go in time keeps what it was lent, and the memory stays.
        let kept = pool.lent();
        if kept > 0 {
            tracing::warn!("core {}: {kept} buffers stay with a device", self.core);
        }
        assert_eq!(
            pool.available() + kept,
            pool.chunks(),
            "every buffer and every promise of one has come back"
        );
    }

    /// One turn: everything that is due, in the order of the picture above. `wait` bounds how long
    /// it waits for something to happen. `true`: there was work.
    pub fn poll_once(&mut self, wait: Option<Duration>) -> bool {
        if wait.is_none() && self.sockets == 0 && !self.flows.is_empty() {
            // Whatever else the poller knows only wakes.
            self.ready.clear();
        } else {
            self.poller
                .poll(wait, &mut self.ready)
                .expect("epoll_wait fails only on what this process does wrong");
        }
        let before = std::mem::replace(&mut self.lent.now, clock::now());
        self.lent.unix_ms = self.calendar.unix_ms(self.lent.now);
        let busy = if self.worked && wait.is_none() {
            self.lent.now.saturating_duration_since(before)
        } else {
            Duration::ZERO
        };
        self.heartbeat.beat(busy);
        self.flows.note_passed(self.core, || self.inbox.len());
        let messages = self.drain_inbox();
        self.flows.handled(messages);
        let mut worked = messages > 0;
        worked |= self.receive_ready();
        worked |= self.receive_frames();
        worked |= self.serve_devices();
        self.serve_waiting();
        self.serve_neighbours();
        self.flush();
        // Before ports are flushed: a connection that ends now says so now.
        self.tick();
        worked |= self.transmit_frames();
        self.retry_outboxes();
        self.worked = worked
            || !self.dirty.is_empty()
            || !self.lent.requests.is_empty()
            || !self.lent.effects.is_empty()
            || !self.local.is_empty();
        self.worked
    }

    /// Sleeps until a socket, a port, a device, the inbox or the next timer wants something.
    /// `true`: there was work, or no sleep.
    fn sleep(&mut self) -> bool {
        let outboxes_wait = self.control.is_waiting() || self.cores.iter().any(Outbox::is_waiting);
        // A device that is polled refuses every sleep: nothing is announced, no doorbell emptied.
        if outboxes_wait || self.backends.needs_poll() || !self.inbox.prepare_sleep() {
            return true;
        }
        // Who passes frames on looks at the same flag as who sends messages.
        if self.flows.passed(self.core) > 0 || !self.backends.before_sleep() {
            self.inbox.awake();
            return true;
        }
        let idle = self.connections.iter().all(Option::is_none);
        let mut timeout = if idle {
            SLEEP_MAX
        } else {
            self.next_tick.saturating_duration_since(self.lent.now)
        };
        if let Some(most) = self.flows.sleep_max(self.lent.now) {
            timeout = timeout.min(most);
        }
        let worked = self.poll_once(Some(timeout));
        self.flows.slept(worked);
        self.backends.after_sleep();
        self.inbox.awake();
        worked
    }

    /// How many messages there were.
    fn drain_inbox(&mut self) -> usize {
        for handled in 0..INBOX_BURST {
            let Some(message) = self.inbox.pop() else {
                return handled;
            };
            self.handle(message);
        }
        INBOX_BURST
    }

    fn handle(&mut self, message: ToCore) {
        match message {
            ToCore::Accepted {
                stream,
                portal_group_tag,
            } => self.greet(Stream::Host(stream), portal_group_tag),
            ToCore::Placed {
                key,
                verdict,
                order,
                name,
            } => self.placed(key, verdict, order, name),
            ToCore::Handoff { handoff, away } => self.arrived(handoff, away),
            ToCore::FlowGone { port, key, left } => {
                let now = self.lent.now;
                self.heard_of_port(port, |stack| stack.forget_forwarding(key, left, now));
            }
            ToCore::Learned { port, neighbour } => {
                let now = self.lent.now;
                self.heard_of_port(port, |stack| stack.learn(neighbour, now));
            }
            ToCore::Address { port, news } => {
                let now = self.lent.now;
                self.heard_of_port(port, |stack| stack.learn_address(news, now));
            }
            ToCore::Forgotten { tsih } => self.forgotten(tsih),
            ToCore::Abandoned { name, tsih, order } => self.abandoned(&name, tsih, order),
            ToCore::Barrier { from, id, work } => self.barrier_asked(from, id, work),
            ToCore::Acknowledged { id } => self.barrier_acknowledged(id),
            ToCore::Quiesce { seconds } => self.quiesce(seconds),
            ToCore::Stop => self.stop(),
            ToCore::End => self.ended = true,
            ToCore::Attach { unit, backing } => self.device_came(unit, &backing),
            ToCore::Asked { unit, ask } => self.asked(unit, *ask),
            ToCore::Answered { asker, result } => self.answered(asker, result),
            ToCore::Saved { unit, saved } => self.saved(unit, saved),
            ToCore::JobAwaited { unit, owner } => self.job_awaited(unit, owner),
            ToCore::JobEnded {
                unit,
                owner,
                result,
            } => self.job_ended(unit, owner, result),
            ToCore::FreezeAsked { freeze } => self.freeze_asked(freeze),
            ToCore::Freeze { freeze } => self.freeze(freeze),
            ToCore::FreezeAcknowledged { freeze } => self.freeze_acknowledged(freeze),
            ToCore::Frozen { owner } => self.frozen(owner),
            ToCore::ThawAsked { unit, owner } => self.thaw_asked(unit, owner),
            ToCore::Thaw { unit, owner } => self.thaw(unit, owner),
        }
    }

    /// Asks other cores for what sessions want, and does what this core owes to others and to
    /// itself.
    fn serve_neighbours(&mut self) {
        for _ in 0..LOCAL_ROUNDS {
            self.run_effects();
            self.settle_barriers();
            self.settle_freezes();
            if self.local.is_empty() {
                return;
            }
            for _ in 0..self.local.len() {
                let message = self.local.pop_front().expect("counted");
                self.handle(message);
            }
        }
    }

    /// Submits what the engines asked for and tells them what has ended, to the end of what devices
    /// complete at once.
    fn serve_devices(&mut self) -> bool {
        let mut worked = false;
        for _ in 0..DEVICE_ROUNDS {
            for Request {
                unit, operation, ..
            } in &self.lent.requests
            {
                // All of a turn's blocks are on their way into the cache before the first is
                // copied.
                let (lba, blocks) = operation.range();
                self.backends.prefetch(*unit, lba, blocks);
            }
            for request in self.lent.requests.drain(..) {
                if !self.frozen.is_empty()
                    && freeze::is_held(&self.frozen, self.core, &request)
                    && self.lent.guards.hold(Guard::FrozenBlocksAreHeld)
                {
                    self.held.push(request);
                } else {
                    self.backends.submit(request);
                }
            }
            self.backends.kick(self.lent.now);
            self.backends.poll(&mut self.done);
            if self.done.is_empty() {
                break;
            }
            worked = true;
            let mut done = std::mem::take(&mut self.done);
            self.completed(done.drain(..));
            self.done = done;
        }
        worked
    }

    /// Tells the engines what has ended, and after all that one session has in a row does what is
    /// due there.
    fn completed(&mut self, mut done: std::vec::Drain<'_, Completion>) {
        while let Some(first) = done.as_slice().first() {
            if first.token.tag() >= NO_SESSION {
                let Completion { token, result, buf } = done.next().expect("looked at just now");
                self.completed_without_session(token.finish(), result, buf);
                continue;
            }
            let (index, _) = session::unpack(first.token.tag());
            let is_its = |next: &&Completion| session::unpack(next.token.tag()).0 == index;
            let run = done.as_slice().iter().take_while(is_its).count();
            self.completed_of(index, done.by_ref().take(run));
            self.after_session(index);
        }
    }

    /// Tells one session what has ended; call [`Self::after_session`] then.
    fn completed_of(&mut self, index: SessionIndex, run: impl Iterator<Item = Completion>) {
        let at = usize::from(index.0);
        let Some(entry) = self.sessions.get_mut(at).and_then(Option::as_mut) else {
            unreachable!("a session stays until its requests have ended");
        };
        let env = &mut self.lent.env();
        for Completion { token, result, buf } in run {
            let (_, task) = session::unpack(token.finish());
            if let Err(error) = result
                && let Some(unit) = failed_unit(&mut entry.session, task, error)
            {
                self.backends.add_failure(unit);
                if self.device_errors_told < DEVICE_ERRORS_PER_TICK {
                    self.device_errors_told += 1;
                    let event = Event::DeviceError { unit, error };
                    self.control.send(ToControl::Tell(Box::new(event)));
                }
            }
            entry.session.complete(env, task, result, buf);
        }
    }

    #[cold]
    fn completed_without_session(
        &mut self,
        tag: u64,
        result: Result<(), IoError>,
        buf: Option<DmaBuf>,
    ) {
        if tag != FLUSH_AT_END {
            self.job_completed(tag, result, buf);
        } else if let Err(error) = result {
            self.tell(Event::Trouble(format!("the last flush failed: {error:?}")));
        }
    }

    /// Passes on what sessions ask of all cores.
    fn run_effects(&mut self) {
        let core = self.core;
        for effect in std::mem::take(&mut self.lent.effects) {
            match effect {
                Effect::Change {
                    session,
                    task,
                    unit,
                    change,
                    by,
                } => self.ask_for_task((session, task), unit, change, by),
                Effect::Freeze {
                    session,
                    task,
                    unit,
                    lba,
                    blocks,
                    reads,
                } => {
                    let owner = Owner {
                        core,
                        session,
                        task,
                    };
                    self.ask_to_freeze(Freeze {
                        unit,
                        lba,
                        blocks,
                        reads,
                        owner,
                    });
                }
                Effect::Thaw {
                    session,
                    task,
                    unit,
                } => {
                    let owner = Owner {
                        core,
                        session,
                        task,
                    };
                    self.ask_to_thaw(unit, owner);
                }
                Effect::AwaitJob {
                    session,
                    task,
                    unit,
                } => {
                    let owner = Owner {
                        core,
                        session,
                        task,
                    };
                    self.await_job(unit, owner);
                }
                Effect::Reset {
                    session,
                    management,
                    scope,
                    by,
                } => self.begin_reset((session, by), management, scope),
                Effect::NexusReset {
                    session,
                    management,
                    by,
                } => self.reset_nexus((session, by), management),
            }
        }
    }

    fn retry_outboxes(&mut self) {
        if !self.handoffs.is_empty() {
            self.release_handoffs();
        }
        for outbox in &mut self.cores {
            outbox.retry();
        }
        self.control.retry();
    }

    fn tell(&mut self, event: Event) {
        self.control.send(ToControl::Tell(Box::new(event)));
    }

    fn tick(&mut self) {
        if self.lent.now < self.next_tick {
            return;
        }
        self.next_tick = self.lent.now + TICK;
        self.device_errors_told = 0;
        self.calendar = clock::Calendar::read();
        self.tick_connections();
        self.tick_sessions();
        self.tick_jobs();
    }

    fn quiesce(&mut self, seconds: u16) {
        self.admission = login::Admission::ShuttingDown;
        self.flows.stop_listening();
        for entry in self.sessions.iter_mut().flatten() {
            entry.session.ask_to_log_out(seconds);
        }
        for at in 0..self.sessions.len() {
            if self.sessions[at].is_some() {
                self.after_session(SessionIndex(u16::try_from(at).expect("a table of u16")));
            }
        }
    }

    fn stop(&mut self) {
        self.admission = login::Admission::ShuttingDown;
        self.stopping = true;
        self.flows.stop_listening();
        self.close_all("the daemon stops");
        self.flows.say_farewell(self.lent.now);
    }

    /// Nothing is outstanding any more, and what was written is on the medium.
    fn is_finished(&mut self) -> bool {
        let quiet = self.sessions.iter().all(Option::is_none)
            && self.backends.in_flight() == 0
            && self.lent.requests.is_empty()
            && self.held.is_empty();
        if !quiet {
            return false;
        }
        if !self.flushed {
            self.flush_units();
        }
        // Devices wait for no peer.
        self.lent.requests.is_empty() && self.flows.are_done(self.lent.now)
    }

    /// Asks for what was written to be on the medium.
    fn flush_units(&mut self) {
        self.flushed = true;
        for (index, unit) in self.lent.units.iter().enumerate() {
            if unit.ready() == ReadyState::Ready && !unit.read_only() {
                let unit = UnitIndex(u16::try_from(index).expect("attached by such an index"));
                let token = Token::new(FLUSH_AT_END);
                let operation = Operation::Flush;
                self.lent.requests.push(Request {
                    unit,
                    operation,
                    past_limit: false,
                    token,
                });
            }
        }
    }
}

/// The unit whose device has failed a task's request.
#[cold]
fn failed_unit(
    session: &mut session::Session,
    task: session::TaskId,
    error: IoError,
) -> Option<UnitIndex> {
    // A request that was held for a freeze ends like this when its task is aborted: no device has
    // failed.
    if error == IoError::Resource && session.is_aborted(task) {
        return None;
    }
    session.unit_of_task(task)
}

/// A poller that wakes for messages, for devices and for ports.
fn poller(
    inbox: &Inbox<ToCore>,
    backends: &backend::Set,
    flows: &Flows,
) -> std::io::Result<Poller> {
    let poller = Poller::new()?;
    poller.add(&inbox.doorbell(), DOORBELL)?;
    for fd in backends.wake_fds() {
        poller.add(&fd, DEVICES)?;
    }
    for fd in flows.wakes() {
        poller.add(&fd, PORTS)?;
    }
    Ok(poller)
}

/// Tags from here on are nobody's of a session: sessions never have index 65535.
const NO_SESSION: u64 = 0xffff << 48;
/// The tag of the flush at the end.
const FLUSH_AT_END: u64 = u64::MAX;
/// Keys of the poller from here on are not connections.
const NO_CONNECTION: u64 = PORTS;
const DOORBELL: u64 = u64::MAX;
const DEVICES: u64 = u64::MAX - 1;
const PORTS: u64 = u64::MAX - 2;
