//! The table of a core's connections: strangers come in, sessions take them over, all of them end.

use std::time::Instant;

use super::Reactor;
use super::message::{ConnectionKey, ToControl};
use crate::control::event::Event;
use crate::iscsi::handshake::Handshake;
use crate::iscsi::negotiated::Negotiated;
use crate::iscsi::session::{ConnectionIndex, SessionIndex};
use crate::net::Stream;
use crate::net::stack::Chunk;
use crate::pdu::LoginResponse;

/// A connection and what it is to us.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) key: ConnectionKey,
    pub(super) stream: Stream,
    pub(super) phase: Phase,
    /// Received, not yet taken by the engine.
    pub(super) unread: Vec<u8>,
    /// The same of a flow, in the frame it came in; behind `unread`.
    pub(super) chunk: Option<Chunk>,
    /// A flow may have more to take.
    pub(super) readable: bool,
    /// In the queue of flows that may be taken from.
    pub(super) queued: bool,
    /// More is wanted than was sent: of a socket, the poller tells when it can take it.
    pub(super) watch_write: bool,
    /// Not paused.
    pub(super) watch_read: bool,
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
    pub(super) fn has_unsent_words(&self) -> bool {
        matches!(&self.phase, Phase::Greeting { handshake, .. } if !handshake.outgoing().is_empty())
    }
}

impl ConnectionKey {
    pub(super) fn slot(self) -> usize {
        usize::try_from(self.0 & 0xffff_ffff).expect("masked to 32 bits")
    }
}

impl Reactor {
    /// A stranger.
    pub(super) fn greet(&mut self, stream: Stream, portal_group_tag: u16) {
        if self.stopping {
            self.dismiss(stream);
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
        let watched = match &stream {
            Stream::Host(stream) => self.poller.add(stream, key.0),
            Stream::Flow(flow) => {
                self.flows.own(*flow, key);
                Ok(())
            }
        };
        if let Err(error) = watched {
            self.free_connections.push(slot);
            self.tell(Event::Trouble(format!(
                "a connection cannot be watched: {error}"
            )));
            self.dismiss(stream);
            return None;
        }
        let is_flow = matches!(stream, Stream::Flow(_));
        self.sockets += usize::from(!is_flow);
        self.connections[slot as usize] = Some(Connection {
            key,
            stream,
            phase,
            unread,
            chunk: None,
            readable: false,
            queued: false,
            watch_write: false,
            watch_read: true,
            dirty: false,
        });
        if is_flow {
            // Something may have come before anybody listened.
            self.set_readable(key);
        }
        Some(key)
    }

    /// Takes a connection out of the table, and out of the poller. Its stream goes on until it is
    /// finished or dropped: see [`super::flows::Flows`].
    pub(super) fn remove_connection(&mut self, key: ConnectionKey) -> Option<Connection> {
        let slot = key.slot();
        let found = self.connections.get_mut(slot)?;
        if found.as_ref()?.key != key {
            return None;
        }
        let connection = found.take()?;
        match &connection.stream {
            Stream::Host(stream) => {
                // A socket that the kernel has given up on is not watched any more either.
                let _ = self.poller.remove(stream);
                self.sockets -= 1;
            }
            Stream::Flow(flow) => self.flows.disown(*flow),
        }
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
        if let Some(connection) = self.remove_connection(key) {
            self.dismiss(connection.stream);
        }
    }

    /// Lets a connection without a session go by itself, behind everything that was sent on it.
    pub(super) fn release_connection(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.remove_connection(key) {
            self.part_with(connection.stream);
        }
    }

    /// Ends a connection that is nobody's, at once.
    pub(super) fn dismiss(&mut self, stream: Stream) {
        self.flows.drop_stream(stream);
        self.control.send(ToControl::Gone { core: self.core });
    }

    /// The same, behind everything that was sent on it.
    pub(super) fn part_with(&mut self, stream: Stream) {
        self.flows.finish(stream);
        self.control.send(ToControl::Gone { core: self.core });
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
                Phase::Lingering { last_words, .. }
                    if last_words.outgoing().is_empty()
                        && self.flows.has_delivered(&connection.stream) =>
                {
                    self.release_connection(key);
                }
                Phase::Lingering { until, .. } if self.lent.now > *until => {
                    self.drop_connection(key);
                }
                _ => {}
            }
        }
    }
}
