//! A session in its full feature phase (RFC 7143 §4, §8.2, §11): one I_T nexus with its command
//! window, its tasks and its connections.
//!
//! An engine without IO. Bytes, completions and time come in through `receive`, `complete`,
//! `changed`, `reset_done` and `tick`; what is to be sent waits in [`Session::transmit`], what is
//! to be submitted goes to [`Env::requests`], what concerns other cores to [`Env::effects`].
//!
//! ```text
//! receive ─► framer ─► begin (header) ─► sink (data) ─► end (digest) ─► deliver by CmdSN
//!                                                                          │
//!        transmit ◄─ Data-In, R2T, responses ◄─ scsi steps ◄───────────────┘
//! ```
//!
//! Invariants: a task is answered once or aborted; nothing of an aborted task reaches the device
//! after the answer that says so; MaxCmdSN never goes back; whatever a peer may send inside the
//! window has a reserved place. After every call the caller sends what waits and submits what was
//! requested.
//!
//! Files: `window` (CmdSN), `table`, `tags` and `task` (tasks), `task_set` (their order), `command`
//! (arrival, delivery, steps, answers), `data_out` (immediate, unsolicited, R2T), `data_in`
//! (pieces, PDUs, residuals), `management` (task management, resets), `queries` (RFC 7144), `held`
//! (requests before their turn), `clearing` (what other things abort), `requests` (NOP, text,
//! logout, reject), `connection`, `attachment` (connections that come and go), `identity`,
//! `timers`.

mod attachment;
#[cfg(test)]
mod bench;
mod clearing;
mod command;
mod connection;
mod data_in;
mod data_out;
mod guards;
mod held;
mod identity;
mod management;
mod queries;
mod requests;
mod table;
mod tags;
mod task;
mod task_set;
mod timers;
mod window;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

use crate::backend::{IoError, Request, Token, UnitIndex};
use crate::mem::{DmaBuf, Pool};
use crate::pdu::{CmdSn, Event, FrameError, LoginResponse, StatSn, TaskManagementRequest};
use crate::scsi::copy::operations::Operations;
use crate::scsi::nexus;
use crate::scsi::{
    Change, Decision, LogicalUnit, MappedLun, Nexus, Outcome, ParameterData, UnitAttention,
};

use super::negotiated::{Negotiated, SessionType};
use super::node::Nodes;
use super::transmit::TransmitQueue;
use connection::{Arriving, Connections, Sink};
pub use connection::{CONNECTIONS_MAX, ConnectionIndex, Ending, Scope};
pub use guards::{Guard, Guards};
use held::{HELD_REQUESTS_MAX, HeldRequest};
pub use table::TaskId;
use table::TaskTable;
pub use task::OUTSTANDING_R2T_MAX;
use task_set::Ordering;
use window::Window;

/// Commands of one session that may be under way: the depth of its window.
pub const QUEUE_DEPTH_MAX: u16 = 128;
/// Requests of a discovery session that may be under way.
const DISCOVERY_DEPTH_MAX: u16 = 4;
/// Immediate commands of one session that may be under way beside them.
pub const IMMEDIATE_MAX: u16 = 8;
/// Task management requests of one session that may be waiting.
pub const MANAGEMENT_MAX: usize = 8;
/// Logouts of one session that may be waiting: of each connection, and of the session.
pub const LOGOUTS_MAX: usize = CONNECTIONS_MAX as usize + 1;
/// How long an aborted task waits for data that the peer was asked for.
const ABORT_DRAIN: Duration = Duration::from_secs(3);

/// Which session of a core: an index into its table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionIndex(pub u16);

/// What the reactor lends for the length of a call.
#[derive(Debug)]
pub struct Env<'a> {
    pub now: Instant,
    /// Milliseconds since 1970-01-01 00:00 UTC.
    pub unix_ms: u64,
    pub pool: &'a Pool,
    /// Chunks of the pool that are set aside for the first command of each session.
    pub floor: usize,
    /// This core's replicas of the logical units, by [`UnitIndex`].
    pub units: &'a mut [LogicalUnit],
    pub nodes: &'a Arc<Nodes>,
    pub guards: &'a Guards,
    /// Requests for the backends; the caller submits them after the call.
    pub requests: &'a mut Vec<Request>,
    pub effects: &'a mut Vec<Effect>,
    pub data_in: &'a mut ParameterData,
}

/// What concerns more than this session.
#[derive(Debug)]
pub enum Effect {
    /// Ask the unit's home core for this, then call [`Session::changed`].
    Change {
        session: SessionIndex,
        task: TaskId,
        unit: UnitIndex,
        change: Change,
        by: Arc<Nexus>,
    },
    /// Keep everybody else from changing these blocks, on every core, then call
    /// [`Session::frozen`].
    Freeze {
        session: SessionIndex,
        task: TaskId,
        unit: UnitIndex,
        lba: u64,
        blocks: u64,
        /// From reading them too.
        reads: bool,
    },
    /// The task that froze blocks of this unit is over.
    Thaw {
        session: SessionIndex,
        task: TaskId,
        unit: UnitIndex,
    },
    /// Call [`Session::job_ended`] when the unit's job is over.
    AwaitJob {
        session: SessionIndex,
        task: TaskId,
        unit: UnitIndex,
    },
    /// Abort what all sessions have at these units, on every core, then call
    /// [`Session::reset_done`].
    Reset {
        session: SessionIndex,
        management: u32,
        scope: ResetScope,
        /// Whose session it is: another one may have its place by then.
        by: Arc<Nexus>,
    },
    /// Have the units forget what belongs to this session's nexus, then call
    /// [`Session::reset_done`].
    NexusReset {
        session: SessionIndex,
        management: u32,
        /// See [`Effect::Reset`].
        by: Arc<Nexus>,
    },
}

/// What a reset reaches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResetScope {
    pub units: Vec<UnitIndex>,
    pub condition: UnitAttention,
    /// TARGET COLD RESET: all sessions of this target end too (RFC 7143 §11.5.1).
    pub close_sessions_of: Option<String>,
}

/// How far `receive` got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// All bytes were taken.
    Done,
    /// The connection has to send before it can take more; keep the rest.
    Paused,
}

/// Why the engine ends a connection.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    #[error("a discovery session that asked for nothing for {0:?}")]
    DiscoveryIdle(Duration),
    #[error("the initiator logged out")]
    LoggedOut,
    #[error("the initiator asked for a TARGET COLD RESET")]
    ColdReset,
    #[error("no answer to a NOP-In ping within {0:?}")]
    PingTimeout(Duration),
    #[error(
        "no progress for {0:?}: the peer neither sent the data that it was asked for nor read what it asked for"
    )]
    NoProgress(Duration),
}

/// Timeouts of a session; `None` turns a check off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    pub ping_interval: Option<Duration>,
    pub ping_timeout: Duration,
    pub no_progress: Duration,
}

/// A task management or logout request that waits for its tasks to be gone.
#[derive(Clone, Copy, Debug)]
struct Management {
    id: u32,
    /// Where it came from and is answered.
    connection: ConnectionIndex,
    itt: crate::pdu::Itt,
    /// Other sessions and cores have not acknowledged yet.
    remote: bool,
    /// The tasks that it waits for are still being looked up.
    gathering: bool,
    /// By connection: the StatSN that the initiator has to acknowledge there first.
    acknowledgements: [Option<StatSn>; CONNECTIONS_MAX as usize],
    answer: Answer,
}

/// A task management request that has overtaken commands which were sent before it on other
/// connections.
#[derive(Clone, Copy, Debug)]
struct Early {
    connection: ConnectionIndex,
    request: TaskManagementRequest,
}

/// What a [`Management`] is answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Function,
    /// Its tasks being gone, the units are asked to forget the nexus.
    NexusReset,
    /// The session ends behind it.
    ColdReset,
    Logout(Closes),
}

/// What a logout closes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Closes {
    Session,
    Connection(ConnectionIndex),
}

/// Counters of a session, for its obituary and the operator.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counters {
    pub commands: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub rejects: u64,
    pub data_digest_errors: u64,
    pub ignored_pdus: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    index: SessionIndex,
    negotiated: Box<Negotiated>,
    timeouts: Timeouts,
    i_t: Arc<Nexus>,
    copies: Operations,
    luns: Vec<MappedLun>,
    lun_numbers: Vec<u16>,
    window: Window,
    tasks: TaskTable,
    ordering: Ordering,
    /// Commands that wait for a lower CmdSN, by CmdSN modulo the length.
    held: Box<[HeldCommand]>,
    held_requests: ArrayVec<HeldRequest, HELD_REQUESTS_MAX>,
    /// Tasks that wait for buffers or for room to send, oldest first.
    waiting: VecDeque<TaskId>,
    connections: Connections,
    /// Oldest first; places are kept for logouts.
    management: ArrayVec<Management, { MANAGEMENT_MAX + LOGOUTS_MAX }>,
    early: ArrayVec<Early, MANAGEMENT_MAX>,
    /// The window has opened and nothing that was sent since says so.
    window_untold: bool,
    management_id: u32,
    ttt: u16,
    counters: Counters,
}

/// What stands in the place of a CmdSN that is ahead of ExpCmdSN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum HeldCommand {
    #[default]
    Missing,
    Task(TaskId),
    /// One of `held_requests`.
    Request,
    /// Aborted before it came.
    Skip,
}

impl Session {
    /// A session from the outcome of its leading login. `None` when the pool cannot back it.
    ///
    /// `last` is the final Login Response and its text, which goes out first, with the window that
    /// the session opens with; `ends` are peer and local address of the connection.
    pub fn new(
        index: SessionIndex,
        negotiated: Box<Negotiated>,
        last: (&LoginResponse, &[u8]),
        ends: (SocketAddr, SocketAddr),
        timeouts: Timeouts,
        env: &mut Env<'_>,
    ) -> Option<Self> {
        let chunks = Pool::chunks_for(negotiated.unsolicited_bytes());
        let depth = match negotiated.session_type {
            SessionType::Normal => QUEUE_DEPTH_MAX,
            SessionType::Discovery => DISCOVERY_DEPTH_MAX,
        };
        let mut window = Window::new(negotiated.cmd_sn, u32::from(depth), chunks, env.pool)?;
        window.grant(0, env.floor, env.pool);
        let i_t = Arc::new(identity::i_t_nexus(&negotiated)?);
        let mut luns = identity::luns(&negotiated);
        for mapped in &mut luns {
            if let Some(unit) = env.units.get(usize::from(mapped.unit.0)) {
                mapped.nexus.refresh(unit, &i_t);
            }
        }
        let connection = Self::connection(&negotiated, &window, last, ends, env.now);
        Some(Self {
            index,
            timeouts,
            i_t,
            copies: Operations::default(),
            window,
            tasks: TaskTable::new(QUEUE_DEPTH_MAX + IMMEDIATE_MAX, env.now),
            ordering: Ordering::new(identity::queue_depths(&negotiated, &luns)),
            lun_numbers: luns.iter().map(|mapped| mapped.lun).collect(),
            luns,
            held: vec![HeldCommand::Missing; usize::from(QUEUE_DEPTH_MAX)].into_boxed_slice(),
            held_requests: ArrayVec::new(),
            waiting: VecDeque::with_capacity(usize::from(QUEUE_DEPTH_MAX + IMMEDIATE_MAX)),
            connections: Connections::new(connection),
            management: ArrayVec::new(),
            management_id: 0,
            early: ArrayVec::new(),
            window_untold: false,
            ttt: 0,
            counters: Counters::default(),
            negotiated,
        })
    }

    /// It has a connection.
    fn is_attached(&self) -> bool {
        self.connections.are_attached()
    }

    /// How many LUNs the initiator sees.
    pub fn luns(&self) -> usize {
        self.luns.len()
    }

    /// What the login agreed on.
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Commands that are under way.
    pub fn tasks_under_way(&self) -> usize {
        self.tasks.len()
    }

    /// The opcodes received last, oldest first, for an obituary.
    pub fn last_opcodes(&self, on: ConnectionIndex) -> Vec<u8> {
        self.connections[on].last_opcodes.iter().collect()
    }

    /// ExpCmdSN and MaxCmdSN, as the next PDU will carry them.
    pub fn command_window(&self) -> (CmdSn, CmdSn) {
        (self.window.exp_cmd_sn(), self.window.max_cmd_sn())
    }

    /// What waits to be sent; `advance` it by what the stream took and call [`Self::poll`].
    pub fn transmit(&mut self, on: ConnectionIndex) -> &mut TransmitQueue {
        &mut self.connections[on].transmit
    }

    /// The same, to look at.
    pub fn transmit_queue(&self, on: ConnectionIndex) -> &TransmitQueue {
        &self.connections[on].transmit
    }

    /// The stream took `bytes`.
    pub fn sent(&mut self, on: ConnectionIndex, now: Instant, bytes: usize) {
        let connection = &mut self.connections[on];
        connection.transmit.advance(bytes);
        connection.last_sent = now;
    }

    /// Takes bytes of the stream from the front of `input`.
    ///
    /// # Errors
    /// What ends the connection. Its tasks stay until [`Self::detach`] or [`Self::leave`].
    pub fn receive(
        &mut self,
        env: &mut Env<'_>,
        on: ConnectionIndex,
        input: &mut &[u8],
    ) -> Result<Progress, Fault> {
        self.connections[on].last_received = env.now;
        loop {
            let connection = &mut self.connections[on];
            if connection.deaf || connection.ending.is_some() {
                // RFC 7143 §11.14: nothing is served behind the answer to a logout.
                *input = &[];
                return Ok(Progress::Done);
            }
            if connection.transmit.is_congested() {
                return Ok(Progress::Paused);
            }
            match connection.framer.next(input)? {
                None => return Ok(Progress::Done),
                Some(Event::Header) => {
                    self.begin(env, on);
                    if self.connections[on].framer.ends_with_header() {
                        self.end(env, on, true);
                    }
                }
                Some(Event::Data(bytes)) => self.sink(on, bytes),
                Some(Event::End { data_digest_ok }) => self.end(env, on, data_digest_ok),
            }
        }
    }

    /// While at least `threshold` bytes of payload are missing that have a place in a task's
    /// buffer: that place, to receive into directly. Call [`Self::received_directly`] with what
    /// came.
    pub fn direct(
        &mut self,
        on: ConnectionIndex,
        threshold: u32,
    ) -> Option<(&mut DmaBuf, usize, usize)> {
        let connection = &self.connections[on];
        let missing = connection.framer.missing();
        if missing < threshold {
            return None;
        }
        let Some(Arriving {
            sink: Sink::Task { id, at },
            ..
        }) = &connection.arriving
        else {
            return None;
        };
        let buf = self.tasks.find(*id)?.data_out.buf.as_mut()?;
        Some((buf, *at as usize, missing as usize))
    }

    /// `bytes` of payload were received into the place that [`Self::direct`] showed.
    pub fn received_directly(&mut self, on: ConnectionIndex, now: Instant, bytes: usize) {
        let connection = &mut self.connections[on];
        connection.last_received = now;
        let Some(Arriving {
            sink: Sink::Task { id, at },
            ..
        }) = &mut connection.arriving
        else {
            unreachable!("only a task's buffer is received into directly");
        };
        let task = self
            .tasks
            .find(*id)
            .expect("nothing has run since direct()");
        connection.last_payload = now;
        let buf = task.data_out.buf.as_ref().expect("direct() showed it");
        for slice in buf.range_slices(*at as usize, bytes) {
            connection.framer.advance_direct(slice);
        }
        *at += u32::try_from(bytes).expect("no more than was missing");
        self.counters.bytes_in += bytes as u64;
    }

    /// Puts payload where the header said.
    fn sink(&mut self, on: ConnectionIndex, bytes: &[u8]) {
        let connection = &mut self.connections[on];
        let Some(arriving) = &mut connection.arriving else {
            return;
        };
        self.counters.bytes_in += bytes.len() as u64;
        match &mut arriving.sink {
            Sink::Discard => {}
            Sink::Task { id, at } => {
                if let Some(buf) = self
                    .tasks
                    .find(*id)
                    .and_then(|task| task.data_out.buf.as_mut())
                {
                    connection.last_payload = connection.last_received;
                    // Copy 1 of 1: from the receive scratch into the buffer that the device reads.
                    buf.copy_from(*at as usize, bytes);
                }
                *at += u32::try_from(bytes.len()).expect("a data segment has less than 2^24 bytes");
            }
            Sink::Text => connection.text.request.extend_from_slice(bytes),
            Sink::Ping { buf: Some(buf), at } => {
                let room = buf.len() - *at;
                let taken = bytes.len().min(room);
                buf.copy_from(*at, &bytes[..taken]);
                *at += taken;
            }
            Sink::Ping { buf: None, .. } => {}
        }
    }

    /// A request of this session has ended at its device.
    pub fn complete(
        &mut self,
        env: &mut Env<'_>,
        task: TaskId,
        result: Result<(), IoError>,
        buf: Option<DmaBuf>,
    ) {
        let Some(found) = self.tasks.find(task) else {
            return;
        };
        found.last_progress = env.now;
        if found.data_in.reading {
            self.piece_read(env, task, result, buf);
        } else if found.aborted && env.guards.hold(Guard::AbortedIsNotAnswered) {
            drop(buf);
            self.finish_aborted(env, task.slot);
        } else {
            self.resume(
                env,
                task.slot,
                crate::scsi::Event::Completed { result, buf },
            );
        }
    }

    /// Every core has applied the change of this task, or it was refused.
    pub fn changed(&mut self, env: &mut Env<'_>, task: TaskId, result: Result<(), Outcome>) {
        self.answered(env, task, crate::scsi::Event::Changed(result));
    }

    /// Nobody else changes the blocks that this task asked for.
    pub fn frozen(&mut self, env: &mut Env<'_>, task: TaskId) {
        self.answered(env, task, crate::scsi::Event::Frozen);
    }

    /// The unit's job that this task waits for is over. The task may be gone, and another one wait
    /// for nothing of the kind in its place.
    pub fn job_ended(
        &mut self,
        env: &mut Env<'_>,
        task: TaskId,
        unit: UnitIndex,
        result: Result<(), Outcome>,
    ) {
        let awaits = |found: &mut task::Task| found.state == task::State::Awaiting;
        if self.tasks.find(task).is_some_and(awaits) && self.unit_of(task.slot) == Some(unit) {
            self.changed(env, task, result);
        }
    }

    fn answered(&mut self, env: &mut Env<'_>, task: TaskId, event: crate::scsi::Event) {
        let Some(found) = self.tasks.find(task) else {
            return;
        };
        if found.aborted {
            self.finish_aborted(env, task.slot);
        } else {
            self.resume(env, task.slot, event);
        }
    }

    /// This core's replica of `unit` has changed. `asking` is the task of this session that asked
    /// for it.
    pub fn decided(
        &mut self,
        env: &mut Env<'_>,
        unit: UnitIndex,
        decision: &Decision,
        asking: Option<TaskId>,
    ) {
        if let Some(replica) = env.units.get(usize::from(unit.0)) {
            nexus::refresh(&mut self.luns, &self.i_t, unit, replica);
        }
        nexus::tell(&mut self.luns, &self.i_t, unit, &decision.attentions);
        if decision.abort.includes(&self.i_t) {
            self.clear_by_other(env, unit, asking);
        }
    }

    /// Who the session's initiator and target port are.
    pub fn i_t(&self) -> &Arc<Nexus> {
        &self.i_t
    }

    /// The units that the session sees.
    pub fn units(&self) -> impl Iterator<Item = UnitIndex> {
        self.luns.iter().map(|mapped| mapped.unit)
    }

    /// The tasks whose operation at a device changes some of these blocks; with `reads`, all that
    /// have something at the device of the unit: where a READ is at the moment is not looked at.
    pub fn in_the_way(
        &self,
        unit: UnitIndex,
        lba: u64,
        blocks: u64,
        reads: bool,
    ) -> impl Iterator<Item = TaskId> {
        let addresses = move |task: &task::Task| {
            let mapped = task.mapped.and_then(|at| self.luns.get(usize::from(at)));
            mapped.is_some_and(|mapped| mapped.unit == unit)
        };
        self.tasks
            .iter()
            .filter(move |task| {
                task.changes(unit, lba, blocks) || reads && task.at_device() && addresses(task)
            })
            .map(|task| task.id)
    }

    /// Whether a task was aborted.
    pub fn is_aborted(&mut self, task: TaskId) -> bool {
        self.tasks.find(task).is_some_and(|task| task.aborted)
    }

    /// Goes on with what waited for buffers or for room to send. Call once per turn after
    /// completions and sends.
    pub fn poll(&mut self, env: &mut Env<'_>) {
        self.reopen(env);
        // Each once, in order: one may wait for memory that those behind it hold and can send now.
        for _ in 0..self.waiting.len() {
            let Some(id) = self.waiting.pop_front() else {
                return;
            };
            let Some(task) = self.tasks.find(id) else {
                continue;
            };
            task.waits = false;
            match task.state {
                task::State::Collecting => self.collect(env, id.slot),
                task::State::Streaming => self.stream(env, id.slot),
                _ => {}
            }
        }
    }

    /// Something waits for [`Self::poll`].
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn wait(&mut self, id: TaskId) {
        let task = self.tasks.find(id).expect("who waits is there");
        if !task.waits {
            task.waits = true;
            self.waiting.push_back(id);
        }
    }

    /// Raises MaxCmdSN, and tells an initiator whose window was closed, when no answer will
    /// (RFC 7143 §11.19: a NOP-In that asks for nothing carries it).
    fn reopen(&mut self, env: &mut Env<'_>) {
        let was_closed = self.window.is_closed();
        self.grant(env);
        self.window_untold |= was_closed && !self.window.is_closed() && self.tasks.is_empty();
        if self.window_untold {
            self.tell_window();
        }
    }

    /// Gives what is reserved back; the session must be drained.
    pub fn close(mut self, env: &mut Env<'_>) {
        assert!(
            self.is_drained(),
            "a session ends when nothing of it is outstanding"
        );
        self.window.close(env.pool);
    }

    /// Queues a unit attention for this nexus on one unit.
    pub fn raise(&mut self, unit: UnitIndex, condition: UnitAttention) {
        for mapped in self.luns.iter_mut().filter(|mapped| mapped.unit == unit) {
            mapped.nexus.raise(condition);
        }
    }

    fn is_discovery(&self) -> bool {
        self.negotiated.session_type == SessionType::Discovery
    }

    /// Raises MaxCmdSN as far as memory and the task table allow.
    fn grant(&mut self, env: &mut Env<'_>) {
        if self.is_attached() {
            self.raise_window(env);
        }
    }

    fn raise_window(&mut self, env: &mut Env<'_>) {
        let under_way = u32::try_from(self.tasks.len()).unwrap_or(u32::MAX);
        self.window.grant(under_way, env.floor, env.pool);
    }

    fn next_stat_sn(&mut self, on: ConnectionIndex) -> StatSn {
        let now = self.connections[on].stat_sn;
        self.connections[on].stat_sn = now.next();
        now
    }

    /// Queues an answer with a small data segment. The transmit queue keeps room for every answer
    /// that can become due before `receive` pauses, so a full one is a programmer error.
    fn send(&mut self, on: ConnectionIndex, bhs: crate::pdu::Bhs, data: &[u8]) {
        let connection = &mut self.connections[on];
        if connection.attached {
            self.counters.bytes_out += data.len() as u64;
            assert!(
                connection.transmit.push(bhs, data),
                "the ring keeps room for answers"
            );
        }
    }

    fn request(
        &self,
        unit: UnitIndex,
        id: TaskId,
        operation: crate::backend::Operation,
    ) -> Request {
        let token = Token::new(pack(self.index, id));
        Request {
            unit,
            operation,
            past_limit: false,
            token,
        }
    }
}

/// The tag of a request's token: which session, slot and serial.
pub fn pack(session: SessionIndex, id: TaskId) -> u64 {
    u64::from(session.0) << 48 | u64::from(id.slot) << 32 | u64::from(id.serial)
}

/// The inverse, for the reactor: whose completion is this?
pub fn unpack(tag: u64) -> (SessionIndex, TaskId) {
    let part = |shift: u32| u16::try_from(tag >> shift & 0xffff).expect("masked to 16 bits");
    let serial = u32::try_from(tag & 0xffff_ffff).expect("masked to 32 bits");
    (
        SessionIndex(part(48)),
        TaskId {
            slot: part(32),
            serial,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_session_slot_and_serial() {
        let id = TaskId {
            slot: 135,
            serial: u32::MAX,
        };
        assert_eq!(
            unpack(pack(SessionIndex(u16::MAX), id)),
            (SessionIndex(u16::MAX), id)
        );
        let id = TaskId { slot: 0, serial: 1 };
        assert_eq!(unpack(pack(SessionIndex(3), id)), (SessionIndex(3), id));
    }
}
