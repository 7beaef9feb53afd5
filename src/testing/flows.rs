//! The other end of the wire over a stack of our own: connections that a test or a bench opens
//! through a [`Port`], for an [`Initiator`](super::Initiator) without IO or for anything else that
//! wants bytes.
//!
//! One [`Client`] belongs to one thread. [`Client::turn`] moves frames and time; everything else
//! only asks for it. It never waits.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::mem::Piece;
use crate::net::Moved;
use crate::net::stack::model::{FlowId, Settings};
use crate::net::stack::{Event, Lost, NoRings, Received, Stack};
use crate::port::Port;

/// How a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The handshake is not over.
    Connecting,
    Open,
    /// The peer has closed its side, and everything before that was taken.
    Closed,
    Lost(Lost),
}

/// Connections of one queue of a port. See the module.
#[derive(Debug)]
pub struct Client<P: Port> {
    stack: Stack<P>,
    connections: Connections,
    /// Those of which there is news, each once.
    due: VecDeque<FlowId>,
}

/// By the place of the flow.
#[derive(Debug, Default)]
struct Connections(Vec<Option<Connection>>);

impl Connections {
    fn get(&self, flow: FlowId) -> Option<&Connection> {
        let known = self.0.get(flow.slot())?.as_ref();
        known.filter(|it| it.flow == flow)
    }

    fn get_mut(&mut self, flow: FlowId) -> Option<&mut Connection> {
        let known = self.0.get_mut(flow.slot())?.as_mut();
        known.filter(|it| it.flow == flow)
    }

    fn insert(&mut self, connection: Connection) {
        let slot = connection.flow.slot();
        if slot >= self.0.len() {
            self.0.resize_with(slot + 1, || None);
        }
        self.0[slot] = Some(connection);
    }

    fn remove(&mut self, flow: FlowId) {
        if self.get(flow).is_some() {
            self.0[flow.slot()] = None;
        }
    }
}

#[derive(Debug)]
struct Connection {
    flow: FlowId,
    state: State,
    /// It waits among those that there is news of.
    due: bool,
    /// There may be something to take.
    readable: bool,
    /// A send has found no room, and none was told of since.
    full: bool,
}

impl<P: Port> Client<P> {
    /// A client with the addresses of `settings`.
    ///
    /// # Errors
    /// There is no memory for the stack.
    pub fn new(port: P, settings: &Arc<Settings>, now: Instant) -> Result<Self, NoRings> {
        Ok(Self {
            stack: Stack::new(port, settings, now)?,
            connections: Connections::default(),
            due: VecDeque::new(),
        })
    }

    /// Begins to connect; port 0 of `local` picks one. `None`: the address is not ours (yet), or
    /// there is no room.
    pub fn connect(
        &mut self,
        local: SocketAddr,
        peer: SocketAddr,
        vlan: Option<u16>,
        now: Instant,
    ) -> Option<FlowId> {
        let flow = self.stack.connect(local, peer, vlan, now)?;
        self.connections.insert(Connection {
            flow,
            state: State::Connecting,
            due: false,
            readable: false,
            full: false,
        });
        Some(flow)
    }

    /// Frames in and out, and timers. `true`: something happened, or there is more to do at once.
    pub fn turn(&mut self, now: Instant) -> bool {
        let mut worked = self.stack.receive(now);
        self.stack.tick(now);
        worked |= self.stack.transmit(now);
        while let Some(event) = self.stack.next_event() {
            self.heard(&event);
        }
        worked
    }

    fn heard(&mut self, event: &Event) {
        let (Event::Connected(flow)
        | Event::Readable(flow)
        | Event::Writable(flow)
        | Event::Lost(flow)) = event
        else {
            return;
        };
        let Some(connection) = self.connections.get_mut(*flow) else {
            return;
        };
        if !connection.due {
            connection.due = true;
            self.due.push_back(*flow);
        }
        match event {
            Event::Connected(_) => connection.state = State::Open,
            Event::Readable(_) => connection.readable = true,
            Event::Writable(_) => connection.full = false,
            _ => {
                let lost = self.stack.send(*flow, &[]).err();
                connection.state = State::Lost(lost.unwrap_or(Lost::Failed));
            }
        }
    }

    /// A connection of which there was news since it was last told here: more to take, room to
    /// send, its end.
    pub fn next_due(&mut self) -> Option<FlowId> {
        loop {
            let flow = self.due.pop_front()?;
            if let Some(connection) = self.connections.get_mut(flow) {
                connection.due = false;
                return Some(flow);
            }
        }
    }

    /// How a connection stands. One that was finished or aborted is unknown.
    pub fn state(&self, flow: FlowId) -> State {
        let connection = self.connections.get(flow);
        connection.map_or(State::Lost(Lost::Unknown), |it| it.state)
    }

    /// A take may find something.
    pub fn is_readable(&self, flow: FlowId) -> bool {
        self.connections.get(flow).is_some_and(|it| it.readable)
    }

    /// A send may find room.
    pub fn is_writable(&self, flow: FlowId) -> bool {
        let connection = self.connections.get(flow);
        connection.is_some_and(|it| it.state == State::Open && !it.full)
    }

    /// The next bytes, piece by piece: how many there were, none if nothing has come.
    pub fn receive(&mut self, flow: FlowId, mut sink: impl FnMut(&[u8])) -> usize {
        let Some(connection) = self.connections.get_mut(flow) else {
            return 0;
        };
        if !connection.readable {
            return 0;
        }
        match self.stack.take(flow) {
            Ok(Received::Data(chunk)) => {
                chunk.slices().for_each(&mut sink);
                return chunk.len();
            }
            Ok(Received::WouldBlock) => {}
            Ok(Received::Closed) => connection.state = State::Closed,
            Err(lost) => connection.state = State::Lost(lost),
        }
        connection.readable = false;
        0
    }

    /// Takes what fits of `bytes`, a copy of it: how many.
    pub fn send(&mut self, flow: FlowId, bytes: &[u8]) -> usize {
        let Some(connection) = self.connections.get_mut(flow) else {
            return 0;
        };
        match self.stack.send(flow, &[Piece::Bytes(bytes)]) {
            Ok(Moved::Bytes(taken)) => {
                connection.full = taken < bytes.len();
                taken
            }
            Ok(_) => {
                connection.full = true;
                0
            }
            Err(lost) => {
                connection.state = State::Lost(lost);
                0
            }
        }
    }

    /// Ends our side behind what was sent, and forgets the connection.
    pub fn finish(&mut self, flow: FlowId) {
        self.connections.remove(flow);
        self.stack.finish(flow);
    }

    /// Resets the connection and forgets it.
    pub fn abort(&mut self, flow: FlowId) {
        self.connections.remove(flow);
        self.stack.abort(flow);
    }

    pub fn stack(&self) -> &Stack<P> {
        &self.stack
    }

    pub fn stack_mut(&mut self) -> &mut Stack<P> {
        &mut self.stack
    }
}
