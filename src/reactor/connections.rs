//! Sockets of a core: greeting strangers, receiving, sending, ending.

use std::io::{IoSlice, IoSliceMut};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

use super::message::{ConnectionKey, ToControl};
use super::{DEVICES, DOORBELL, Reactor, SCRATCH_BYTES};
use crate::control::directory::{Admission, SessionName};
use crate::control::event::Event;
use crate::iscsi::handshake::{Greeting, Handshake};
use crate::iscsi::login;
use crate::iscsi::negotiated::{Negotiated, SessionType};
use crate::iscsi::session::{ConnectionIndex, Progress, SessionIndex};
use crate::iscsi::transmit::SLICES_MAX;
use crate::net::Stream;
use crate::net::host::Moved;
use crate::pdu::LoginResponse;

/// Missing payload from which on it is received straight into its buffer.
const DIRECT_BYTES: u32 = 32 * 1024;
/// Pieces of a buffer that one direct receive fills.
const DIRECT_SLICES: usize = 32;
/// What may come behind payload that is received directly.
const OVERFLOW_BYTES: usize = 4096;
/// How long a closed connection may take to read our last words.
const LINGER: Duration = Duration::from_secs(2);
/// Sends to one connection in one turn.
const SENDS_MAX: usize = 16;

/// One socket and what it is to us.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) key: ConnectionKey,
    pub(super) stream: Stream,
    pub(super) phase: Phase,
    /// Received, not yet taken by the engine.
    pub(super) unread: Vec<u8>,
    watch_write: bool,
    watch_read: bool,
    pub(super) dirty: bool,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Not logged in.
    Greeting {
        handshake: Box<Handshake>,
        portal_group_tag: u16,
        since: Instant,
    },
    /// Logged in as far as the connection goes; the directory decides.
    Placing {
        negotiated: Box<Negotiated>,
        response: LoginResponse,
        text: Vec<u8>,
        portal_group_tag: u16,
    },
    Session(SessionIndex, ConnectionIndex),
    /// Our last words are on their way; whatever still comes is dropped.
    Lingering {
        last_words: Box<Handshake>,
        until: Instant,
    },
}

impl Connection {
    /// Part of an answer to its login waits to be sent.
    fn has_unsent_words(&self) -> bool {
        matches!(&self.phase, Phase::Greeting { handshake, .. } if !handshake.outgoing().is_empty())
    }
}

impl ConnectionKey {
    fn slot(self) -> usize {
        usize::try_from(self.0 & 0xffff_ffff).expect("masked to 32 bits")
    }
}

impl Reactor {
    /// A stranger.
    pub(super) fn greet(&mut self, stream: Stream, portal_group_tag: u16) {
        if self.stopping {
            self.control.send(ToControl::Gone { core: self.core });
            return;
        }
        if self.greetings.len() >= self.greetings_max {
            // The one that has had the most time makes room, so that a crowd of silent strangers
            // does not keep honest initiators out; those in the middle of a login stay while there
            // are others.
            let silent = self.greetings.iter().find(|key| self.is_silent(**key));
            if let Some(leaves) = silent.or_else(|| self.greetings.front()).copied() {
                self.lost(
                    leaves,
                    "it gave way to newer ones: too many connections without a login",
                );
            }
        }
        let handshake = Box::new(Handshake::new());
        let phase = Phase::Greeting {
            handshake,
            portal_group_tag,
            since: self.lent.now,
        };
        if let Some(key) = self.add_connection(stream, phase, Vec::new()) {
            self.greetings.push_back(key);
        }
    }

    /// Has said nothing that could be answered, or has been refused.
    fn is_silent(&self, key: ConnectionKey) -> bool {
        let connection = self.connections.get(key.slot()).and_then(Option::as_ref);
        match connection.map(|connection| &connection.phase) {
            Some(Phase::Greeting { handshake, .. }) => !handshake.has_spoken(),
            Some(Phase::Lingering { .. }) => true,
            Some(Phase::Placing { .. } | Phase::Session(..)) | None => false,
        }
    }

    pub(super) fn add_connection(
        &mut self,
        stream: Stream,
        phase: Phase,
        unread: Vec<u8>,
    ) -> Option<ConnectionKey> {
        let slot = self.free_connections.pop().unwrap_or_else(|| {
            self.connections.push(None);
            u32::try_from(self.connections.len() - 1).expect("bounded by file descriptors")
        });
        self.generation = self.generation.wrapping_add(1);
        // The top bit stays clear: keys of the poller's other sources have it set.
        let key = ConnectionKey(u64::from(self.generation & 0x7fff_ffff) << 32 | u64::from(slot));
        if let Err(error) = self.poller.add(&stream, key.0) {
            self.free_connections.push(slot);
            self.tell(Event::Trouble(format!(
                "a connection cannot be watched: {error}"
            )));
            self.control.send(ToControl::Gone { core: self.core });
            return None;
        }
        self.connections[slot as usize] = Some(Connection {
            key,
            stream,
            phase,
            unread,
            watch_write: false,
            watch_read: true,
            dirty: false,
        });
        Some(key)
    }

    /// Takes a connection out of the table, and out of the poller.
    pub(super) fn remove_connection(&mut self, key: ConnectionKey) -> Option<Connection> {
        let slot = key.slot();
        let found = self.connections.get_mut(slot)?;
        if found.as_ref()?.key != key {
            return None;
        }
        let connection = found.take()?;
        // A socket that the kernel has given up on is not watched any more either.
        let _ = self.poller.remove(&connection.stream);
        self.free_connections
            .push(u32::try_from(slot).expect("made from a u32"));
        self.greetings.retain(|greeting| *greeting != key);
        Some(connection)
    }

    pub(super) fn connection(&mut self, key: ConnectionKey) -> Option<&mut Connection> {
        self.connections
            .get_mut(key.slot())?
            .as_mut()
            .filter(|connection| connection.key == key)
    }

    /// Drops a connection that has no session.
    pub(super) fn drop_connection(&mut self, key: ConnectionKey) {
        if self.remove_connection(key).is_some() {
            self.control.send(ToControl::Gone { core: self.core });
        }
    }

    fn break_greeting(&mut self, key: ConnectionKey, why: &str) {
        if let Some(connection) = self.connection(key) {
            let (peer, local) = (connection.stream.peer(), connection.stream.local());
            self.tell(Event::LoginBroken {
                peer,
                local,
                why: why.to_owned(),
            });
            self.drop_connection(key);
        }
    }

    /// Serves what the poller reported.
    pub(super) fn receive_ready(&mut self) -> bool {
        let ready = std::mem::take(&mut self.ready);
        let mut worked = false;
        for event in &ready {
            if event.key == DOORBELL || event.key == DEVICES {
                continue;
            }
            worked = true;
            let key = ConnectionKey(event.key);
            if event.writable {
                self.mark_dirty(key);
            }
            if event.readable {
                self.receive(key);
            }
        }
        self.ready = ready;
        worked
    }

    /// Receives once from a connection.
    fn receive(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connection(key) else {
            return;
        };
        if !connection.unread.is_empty() {
            // It is paused: what came before has to be taken first.
            return;
        }
        if let Phase::Session(index, on) = connection.phase
            && self.receive_directly(key, index, on)
        {
            return;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let connection = self.connection(key).expect("still there");
        match connection.stream.receive(&mut scratch) {
            Ok(Moved::Bytes(bytes)) => self.take(key, &scratch[..bytes]),
            Ok(Moved::WouldBlock) => {}
            Ok(Moved::Closed) => self.lost(key, "the initiator closed it"),
            Err(error) => self.lost(key, &error.to_string()),
        }
        self.scratch = scratch;
    }

    /// While much payload of a WRITE is missing: receives it where it belongs.
    fn receive_directly(
        &mut self,
        key: ConnectionKey,
        index: SessionIndex,
        on: ConnectionIndex,
    ) -> bool {
        let slot = key.slot();
        let Some(connection) = self.connections[slot].as_ref() else {
            return false;
        };
        let Some(entry) = self.sessions[usize::from(index.0)].as_mut() else {
            return false;
        };
        let Some((buf, at, missing)) = entry.session.direct(on, DIRECT_BYTES) else {
            return false;
        };
        let mut slices: ArrayVec<IoSliceMut<'_>, DIRECT_SLICES> = ArrayVec::new();
        let mut room = 0;
        for slice in buf.range_slices_mut(at, missing) {
            room += slice.len();
            slices.push(IoSliceMut::new(slice));
            if slices.remaining_capacity() == 1 {
                break;
            }
        }
        let overflow = room == missing;
        if overflow {
            slices.push(IoSliceMut::new(&mut self.scratch[..OVERFLOW_BYTES]));
        }
        let moved = connection.stream.receive_into(&mut slices);
        drop(slices);
        match moved {
            Ok(Moved::Bytes(bytes)) => {
                let payload = bytes.min(room);
                entry.session.received_directly(on, self.lent.now, payload);
                let behind = bytes - payload;
                let scratch = std::mem::take(&mut self.scratch);
                // Also with nothing behind it: the PDU may be whole now.
                self.take(key, &scratch[..behind]);
                self.scratch = scratch;
            }
            Ok(Moved::WouldBlock) => {}
            Ok(Moved::Closed) => self.lost(key, "the initiator closed it"),
            Err(error) => self.lost(key, &error.to_string()),
        }
        true
    }

    /// Hands received bytes to whoever they are for. What cannot be taken now is kept.
    pub(super) fn take(&mut self, key: ConnectionKey, bytes: &[u8]) {
        let mut input = bytes;
        let Some(connection) = self.connection(key) else {
            return;
        };
        if let Phase::Greeting { .. } = connection.phase {
            self.greeting_bytes(key, &mut input);
        }
        let Some(connection) = self.connection(key) else {
            return;
        };
        match connection.phase {
            Phase::Session(index, on) => self.session_bytes(key, (index, on), input),
            Phase::Placing { .. } if !input.is_empty() => {
                // Nothing may come before our answer (RFC 7143 §6.3); a scratch full is kept
                // anyway.
                if connection.unread.len() + input.len() > SCRATCH_BYTES {
                    self.lost(key, "it sent data before its login was answered");
                } else {
                    connection.unread.extend_from_slice(input);
                    self.watch(key, false);
                }
            }
            Phase::Greeting { .. } | Phase::Placing { .. } | Phase::Lingering { .. } => {}
        }
    }

    fn greeting_bytes(&mut self, key: ConnectionKey, input: &mut &[u8]) {
        let slot = key.slot();
        let Some(connection) = self.connections[slot].as_mut() else {
            return;
        };
        let (peer, local) = (connection.stream.peer(), connection.stream.local());
        let Phase::Greeting {
            handshake,
            portal_group_tag,
            ..
        } = &mut connection.phase
        else {
            return;
        };
        let portal_group_tag = *portal_group_tag;
        let cx = login::Context {
            nodes: &self.lent.nodes,
            portal_group_tag,
            local,
            peer,
            limits: &self.login_limits,
            admission: self.admission,
        };
        let mut random = self.random;
        let Some(greeting) = guarded(|| handshake.receive(&cx, input, &mut random)) else {
            self.login_panics += 1;
            let why = format!(
                "the login of {peer} made this program panic ({} times since the start); the connection \
                 is closed: please report it",
                self.login_panics
            );
            self.tell(Event::Trouble(why));
            self.drop_connection(key);
            *input = &[];
            return;
        };
        match greeting {
            Ok(Greeting::GoesOn) => self.mark_dirty(key),
            Ok(Greeting::Refused(refusal)) => {
                self.tell(Event::LoginRefused(refusal));
                self.linger(key);
                *input = &[];
            }
            Ok(Greeting::Final {
                negotiated,
                response,
                text,
            }) => {
                let phase = Phase::Placing {
                    negotiated,
                    response,
                    text,
                    portal_group_tag,
                };
                self.ask_directory(key, phase);
            }
            Err(fault) => {
                self.break_greeting(key, &fault.to_string());
                *input = &[];
            }
        }
    }

    /// A login is complete but for its place.
    fn ask_directory(&mut self, key: ConnectionKey, phase: Phase) {
        let Phase::Placing { negotiated, .. } = &phase else {
            unreachable!("only a complete login is placed");
        };
        let admission = Admission {
            name: session_name(negotiated),
            tsih: negotiated.tsih.0,
            core: self.core,
        };
        // What was not sent yet goes out before the final response does.
        self.flush_connection(key);
        let Some(connection) = self.connection(key) else {
            return;
        };
        if connection.has_unsent_words() {
            // An initiator that does not read its answers has no use for the last one.
            self.break_greeting(key, "it did not read the answers to its login");
            return;
        }
        connection.phase = phase;
        self.control.send(ToControl::Admit {
            core: self.core,
            key,
            admission,
        });
    }

    /// Refuses a login that the directory or this core has no place for.
    pub(super) fn refuse(&mut self, key: ConnectionKey, reason: login::Reason) {
        let slot = key.slot();
        let Some(connection) = self.connections[slot].as_mut() else {
            return;
        };
        let (peer, local) = (connection.stream.peer(), connection.stream.local());
        let Phase::Placing {
            negotiated,
            response,
            portal_group_tag,
            ..
        } = &connection.phase
        else {
            return;
        };
        let cx = login::Context {
            nodes: &self.lent.nodes,
            portal_group_tag: *portal_group_tag,
            local,
            peer,
            limits: &self.login_limits,
            admission: self.admission,
        };
        let (response, refusal) = login::refuse_final(&cx, negotiated, response, reason);
        let mut handshake = Box::new(Handshake::new());
        handshake.answer(&response, &[]);
        connection.phase = Phase::Lingering {
            last_words: handshake,
            until: self.lent.now + LINGER,
        };
        self.tell(Event::LoginRefused(refusal));
        self.mark_dirty(key);
    }

    /// A greeting is over: its last words go out, then the connection ends.
    fn linger(&mut self, key: ConnectionKey) {
        let until = self.lent.now + LINGER;
        let Some(connection) = self.connection(key) else {
            return;
        };
        let phase = std::mem::replace(
            &mut connection.phase,
            Phase::Session(SessionIndex(u16::MAX), ConnectionIndex::LEADING),
        );
        let last_words = match phase {
            Phase::Greeting { handshake, .. } => handshake,
            _ => Box::new(Handshake::new()),
        };
        // It still counts among those without a session: a refusal is cheap to provoke.
        connection.phase = Phase::Lingering { last_words, until };
        self.mark_dirty(key);
    }

    fn session_bytes(
        &mut self,
        key: ConnectionKey,
        (index, on): (SessionIndex, ConnectionIndex),
        bytes: &[u8],
    ) {
        let mut input = bytes;
        let Some(entry) = self.sessions[usize::from(index.0)].as_mut() else {
            return;
        };
        let env = &mut self.lent.env();
        match entry.session.receive(env, on, &mut input) {
            Ok(Progress::Done) => {}
            Ok(Progress::Paused) => {
                let connection = self.connections[key.slot()]
                    .as_mut()
                    .expect("it just received");
                connection.unread.extend_from_slice(input);
                self.watch(key, false);
            }
            Err(fault) => {
                self.connection_lost(index, on, &fault.to_string());
                return;
            }
        }
        self.after_session(index);
    }

    /// The connection failed or was closed by its peer.
    pub(super) fn lost(&mut self, key: ConnectionKey, why: &str) {
        let Some(connection) = self.connection(key) else {
            return;
        };
        match connection.phase {
            Phase::Session(index, on) => self.connection_lost(index, on, why),
            Phase::Greeting { .. } | Phase::Placing { .. } => self.break_greeting(key, why),
            Phase::Lingering { .. } => self.drop_connection(key),
        }
    }

    pub(super) fn mark_dirty(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connection(key)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty
                .push(u32::try_from(key.slot()).expect("made from a u32"));
        }
    }

    fn watch(&mut self, key: ConnectionKey, read: bool) {
        let slot = key.slot();
        let Some(connection) = self.connections[slot].as_mut() else {
            return;
        };
        if connection.watch_read != read {
            connection.watch_read = read;
            self.rearm(slot);
        }
    }

    fn rearm(&mut self, slot: usize) {
        let Some(connection) = self.connections[slot].as_ref() else {
            return;
        };
        let (read, write) = (connection.watch_read, connection.watch_write);
        if let Err(error) = self
            .poller
            .watch(&connection.stream, connection.key.0, read, write)
        {
            self.tell(Event::Trouble(format!(
                "a connection cannot be watched: {error}"
            )));
        }
    }

    /// Sends what the turn has made.
    pub(super) fn flush(&mut self) {
        // Connections that are marked meanwhile have their turn in the next one.
        let mut dirty = std::mem::replace(&mut self.dirty, std::mem::take(&mut self.spare_dirty));
        for slot in dirty.drain(..) {
            let Some(connection) = self.connections[slot as usize].as_mut() else {
                continue;
            };
            connection.dirty = false;
            let key = connection.key;
            self.flush_connection(key);
        }
        self.spare_dirty = dirty;
    }

    fn flush_connection(&mut self, key: ConnectionKey) {
        let slot = key.slot();
        let Some(connection) = self.connections[slot].as_mut() else {
            return;
        };
        match &mut connection.phase {
            Phase::Session(index, on) => {
                let (index, on) = (*index, *on);
                self.flush_session(key, index, on);
            }
            Phase::Greeting {
                handshake: words, ..
            }
            | Phase::Lingering {
                last_words: words, ..
            } => {
                let mut blocked = false;
                let mut failed = None;
                while !words.outgoing().is_empty() && !blocked && failed.is_none() {
                    match connection.stream.send(&[IoSlice::new(words.outgoing())]) {
                        Ok(Moved::Bytes(bytes)) => words.sent(bytes),
                        Ok(_) => blocked = true,
                        Err(error) => failed = Some(error.to_string()),
                    }
                }
                let lingers = matches!(connection.phase, Phase::Lingering { .. });
                if let Some(why) = failed {
                    self.lost(key, &why);
                } else {
                    if lingers && !blocked {
                        connection.stream.finish();
                    }
                    self.watch_writes(slot, blocked);
                }
            }
            Phase::Placing { .. } => {}
        }
    }

    fn watch_writes(&mut self, slot: usize, blocked: bool) {
        let Some(connection) = self.connections[slot].as_mut() else {
            return;
        };
        if connection.watch_write != blocked {
            connection.watch_write = blocked;
            self.rearm(slot);
        }
    }

    fn flush_session(&mut self, key: ConnectionKey, index: SessionIndex, on: ConnectionIndex) {
        let slot = key.slot();
        let mut blocked = false;
        for _ in 0..SENDS_MAX {
            let Some(connection) = self.connections[slot].as_ref() else {
                return;
            };
            let Some(entry) = self.sessions[usize::from(index.0)].as_mut() else {
                return;
            };
            let queue = entry.session.transmit_queue(on);
            if queue.is_empty() {
                break;
            }
            let mut slices: ArrayVec<IoSlice<'_>, SLICES_MAX> = ArrayVec::new();
            queue.gather(&mut slices);
            let gathered: usize = slices.iter().map(|slice| slice.len()).sum();
            let moved = connection.stream.send(&slices);
            drop(slices);
            match moved {
                Ok(Moved::Bytes(bytes)) => {
                    entry.session.sent(on, self.lent.now, bytes);
                    // Room again: what waited for it goes on now, and is sent in this turn.
                    self.poll_session(index);
                    blocked = bytes < gathered;
                }
                Ok(_) => blocked = true,
                Err(error) => {
                    self.lost(key, &error.to_string());
                    return;
                }
            }
            if blocked {
                break;
            }
        }
        let Some(entry) = self.sessions[usize::from(index.0)].as_ref() else {
            return;
        };
        let queue = entry.session.transmit_queue(on);
        let (empty, congested) = (queue.is_empty(), queue.is_congested());
        if let Some(ending) = entry.session.ending(on).cloned().filter(|_| empty) {
            self.end_connection(index, on, &ending);
            return;
        }
        if !empty && !blocked {
            // More than one turn's sends: go on in the next.
            self.mark_dirty(key);
        }
        self.watch_writes(slot, blocked);
        if !congested {
            self.take_unread(key);
        }
    }

    /// A paused connection can take more.
    pub(super) fn take_unread(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connection(key) else {
            return;
        };
        // A pause may have come behind the very last byte: then nothing is kept, and still it is
        // over.
        if connection.unread.is_empty() && connection.watch_read {
            return;
        }
        let unread = std::mem::take(&mut connection.unread);
        self.watch(key, true);
        self.take(key, &unread);
    }

    /// Ends greetings and lingering connections that have had their time.
    pub(super) fn tick_connections(&mut self) {
        for slot in 0..self.connections.len() {
            let Some(connection) = self.connections[slot].as_ref() else {
                continue;
            };
            let key = connection.key;
            match &connection.phase {
                Phase::Greeting { since, .. } if self.lent.now - *since > self.login_timeout => {
                    self.break_greeting(key, "the login took too long");
                }
                Phase::Lingering { until, .. } if self.lent.now > *until => {
                    self.drop_connection(key);
                }
                _ => {}
            }
        }
    }

    /// Polls one session for what waited.
    fn poll_session(&mut self, index: SessionIndex) {
        let at = usize::from(index.0);
        let Some(entry) = self.sessions[at].as_mut() else {
            return;
        };
        let env = &mut self.lent.env();
        entry.session.poll(env);
    }
}

/// What the directory knows a session by; discovery sessions it does not know.
pub(super) fn session_name(negotiated: &Negotiated) -> Option<SessionName> {
    let target = negotiated.target.as_ref()?;
    (negotiated.session_type == SessionType::Normal).then(|| SessionName {
        initiator: negotiated.initiator_name.as_str().to_owned(),
        isid: negotiated.isid.0,
        target: target.name.as_str().to_owned(),
        portal_group_tag: negotiated.portal_group_tag,
    })
}

/// Unpredictable bytes for challenges. Without a random source no login can be trusted: each ends.
pub fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the kernel's random source answers");
}

/// Runs what touches the state of one stranger alone. `None`: it panicked, and what it has touched
/// is thrown away with its connection.
fn guarded<T>(step: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(step)).ok()
}
