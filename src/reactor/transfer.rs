//! Bytes between connections and whoever they are for: receiving and sending.

use std::io::{IoSlice, IoSliceMut};

use arrayvec::ArrayVec;

use super::connections::{Connection, Phase};
use super::message::ConnectionKey;
use super::{NO_CONNECTION, Reactor, SCRATCH_BYTES};
use crate::control::event::Event;
use crate::iscsi::session::{ConnectionIndex, Progress, SessionIndex};
use crate::iscsi::transmit::{PIECES_MAX, SLICES_MAX, TransmitQueue};
use crate::mem;
use crate::net::stack::Stack;
use crate::net::{Flow, Moved, Stream, host};
use crate::port::AnyPort;

/// Missing payload from which on it is received straight into its buffer.
const DIRECT_BYTES: u32 = 32 * 1024;
/// Pieces of a buffer that one direct receive fills.
const DIRECT_SLICES: usize = 32;
/// What may come behind payload that is received directly.
const OVERFLOW_BYTES: usize = 4096;
/// Sends to one connection in one turn.
const SENDS_MAX: usize = 16;

impl Reactor {
    /// Serves what the poller reported.
    pub(super) fn receive_ready(&mut self) -> bool {
        let ready = std::mem::take(&mut self.ready);
        let mut worked = false;
        for event in &ready {
            if event.key >= NO_CONNECTION {
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

    /// Receives once from a socket.
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
        let Stream::Host(stream) = &connection.stream else {
            unreachable!("only sockets are in the poller");
        };
        match stream.receive(&mut scratch) {
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
        let Some(Connection {
            stream: Stream::Host(stream),
            ..
        }) = self.connections[slot].as_ref()
        else {
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
        let moved = stream.receive_into(&mut slices);
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
        let left = self.offer(key, bytes);
        if left > 0
            && let Some(connection) = self.connection(key)
        {
            let rest = &bytes[bytes.len() - left..];
            connection.unread.extend_from_slice(rest);
        }
        self.settle(key);
    }

    /// Offers received bytes to whoever they are for: how many of them could not be taken now. The
    /// connection is paused then. Call [`Self::settle`] behind the last.
    pub(super) fn offer(&mut self, key: ConnectionKey, bytes: &[u8]) -> usize {
        let mut input = bytes;
        let Some(connection) = self.connection(key) else {
            return 0;
        };
        if let Phase::Greeting { .. } = connection.phase {
            self.greeting_bytes(key, &mut input);
        }
        let Some(connection) = self.connection(key) else {
            return 0;
        };
        match connection.phase {
            Phase::Session(index, on) => self.session_bytes(key, (index, on), input),
            Phase::Placing { .. } if !input.is_empty() => {
                // Nothing may come before our answer (RFC 7143 §6.3); a scratch full is kept
                // anyway.
                if connection.unread.len() + input.len() > SCRATCH_BYTES {
                    self.lost(key, "it sent data before its login was answered");
                    return 0;
                }
                self.watch(key, false);
                input.len()
            }
            Phase::Greeting { .. } | Phase::Placing { .. } | Phase::Lingering { .. } => 0,
        }
    }

    fn session_bytes(
        &mut self,
        key: ConnectionKey,
        (index, on): (SessionIndex, ConnectionIndex),
        bytes: &[u8],
    ) -> usize {
        let mut input = bytes;
        let Some(entry) = self.sessions[usize::from(index.0)].as_mut() else {
            return 0;
        };
        let env = &mut self.lent.env();
        match entry.session.receive(env, on, &mut input) {
            Ok(Progress::Done) => 0,
            Ok(Progress::Paused) => {
                self.watch(key, false);
                input.len()
            }
            Err(fault) => {
                self.connection_lost(index, on, &fault.to_string());
                0
            }
        }
    }

    /// Does what received bytes have made due.
    pub(super) fn settle(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connection(key)
            && let Phase::Session(index, _) = connection.phase
        {
            self.after_session(index);
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
        let connection = self.connection(key);
        if connection.is_some_and(|it| it.readable && it.watch_read) {
            self.set_readable(key);
        }
    }

    pub(super) fn watch(&mut self, key: ConnectionKey, read: bool) {
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
        let Stream::Host(stream) = &connection.stream else {
            // A flow that is not taken from closes its window, and tells when it has room.
            return;
        };
        let (read, write) = (connection.watch_read, connection.watch_write);
        if let Err(error) = self.poller.watch(stream, connection.key.0, read, write) {
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

    pub(super) fn flush_connection(&mut self, key: ConnectionKey) {
        let slot = key.slot();
        let Some(connection) = self.connections[slot].as_mut() else {
            return;
        };
        match &mut connection.phase {
            Phase::Session(index, on) => {
                let (index, on) = (*index, *on);
                self.flush_session(key, index, on);
            }
            Phase::Greeting { .. } | Phase::Lingering { .. } => self.flush_words(key),
            Phase::Placing { .. } => {}
        }
    }

    /// Sends what is to be said to a connection without a session.
    fn flush_words(&mut self, key: ConnectionKey) {
        let slot = key.slot();
        let Some(connection) = self.connections[slot].as_mut() else {
            return;
        };
        let lingers = matches!(connection.phase, Phase::Lingering { .. });
        let (Phase::Greeting {
            handshake: words, ..
        }
        | Phase::Lingering {
            last_words: words, ..
        }) = &mut connection.phase
        else {
            return;
        };
        let mut blocked = false;
        let mut failed = None;
        while !words.outgoing().is_empty() && !blocked && failed.is_none() {
            let moved = match &connection.stream {
                Stream::Host(stream) => stream
                    .send(&[IoSlice::new(words.outgoing())])
                    .map_err(|error| error.to_string()),
                Stream::Flow(flow) => self
                    .flows
                    .stack(*flow)
                    .send(flow.id, &[mem::Piece::Bytes(words.outgoing())])
                    .map_err(|lost| lost.to_string()),
            };
            match moved {
                Ok(Moved::Bytes(bytes)) => words.sent(bytes),
                Ok(_) => blocked = true,
                Err(why) => failed = Some(why),
            }
        }
        if let Some(why) = failed {
            self.lost(key, &why);
            return;
        }
        if lingers && !blocked {
            match &connection.stream {
                Stream::Host(stream) => stream.finish(),
                Stream::Flow(flow) => {
                    // Nothing that comes is listened to any more. Until the peer has everything it
                    // counts: a refusal is cheap to provoke.
                    connection.watch_read = false;
                    connection.chunk = None;
                    self.flows.stack(*flow).finish(flow.id);
                }
            }
        }
        self.watch_writes(slot, blocked);
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
            if entry.session.transmit_queue(on).is_empty() {
                break;
            }
            let (gathered, moved) = match &connection.stream {
                Stream::Host(stream) => send_to_socket(stream, entry.session.transmit_queue(on)),
                Stream::Flow(flow) => {
                    let stack = self.flows.stack(*flow);
                    send_to_flow(stack, *flow, entry.session.transmit(on))
                }
            };
            match moved {
                Ok(Moved::Bytes(bytes)) => {
                    entry.session.sent(on, self.lent.now, bytes);
                    // Room again: what waited for it goes on now, and is sent in this turn.
                    self.poll_session(index);
                    blocked = bytes < gathered;
                }
                Ok(_) => blocked = true,
                Err(why) => {
                    self.lost(key, &why);
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

/// What was shown to a stream, in bytes, and what it took or why it failed.
type Sent = (usize, Result<Moved, String>);

fn send_to_socket(stream: &host::Stream, queue: &TransmitQueue) -> Sent {
    let mut slices: ArrayVec<IoSlice<'_>, SLICES_MAX> = ArrayVec::new();
    queue.gather(&mut slices);
    let gathered = slices.iter().map(|slice| slice.len()).sum();
    let moved = stream.send(&slices);
    (gathered, moved.map_err(|error| error.to_string()))
}

fn send_to_flow(stack: &mut Stack<AnyPort>, flow: Flow, queue: &mut TransmitQueue) -> Sent {
    let mut pieces: ArrayVec<mem::Piece<'_>, PIECES_MAX> = ArrayVec::new();
    queue.gather_pieces(&mut pieces);
    let gathered = pieces.iter().map(mem::Piece::len).sum();
    let moved = stack.send(flow.id, &pieces);
    drop(pieces);
    queue.set_unacknowledged(stack.unacknowledged(flow.id));
    (gathered, moved.map_err(|lost| lost.to_string()))
}
