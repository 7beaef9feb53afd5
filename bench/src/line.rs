//! What a session of the load generator goes over: a socket, or a flow of a stack in this process.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use iiblockdaemon::net::stack::model::FlowId;
use iiblockdaemon::port::AnyPort;
use iiblockdaemon::testing::flows::{Client, State};
use iiblockdaemon::testing::tcp;

use crate::clock::Clock;
use crate::stream::{discard, receive};

/// A stack and its connections, all in one thread.
#[derive(Clone)]
pub struct Wire {
    client: Rc<RefCell<Client<AnyPort>>>,
    clock: Clock,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    pub fn new(client: Client<AnyPort>, clock: Clock) -> Self {
        Self {
            client: Rc::new(RefCell::new(client)),
            clock,
        }
    }

    /// The time as the stack knows it.
    pub fn now(&self) -> Instant {
        self.clock.began() + Duration::from_nanos(self.clock.now_ns())
    }

    /// Frames in and out once.
    pub fn turn(&self) -> bool {
        self.client.borrow_mut().turn(self.now())
    }

    /// Does something with the stack.
    pub fn with<R>(&self, act: impl FnOnce(&mut Client<AnyPort>) -> R) -> R {
        act(&mut self.client.borrow_mut())
    }
}

/// One connection of a [`Wire`].
#[derive(Debug)]
pub struct Flow {
    wire: Wire,
    flow: FlowId,
    /// Received, not read yet.
    unread: Vec<u8>,
}

impl Flow {
    pub fn new(wire: &Wire, flow: FlowId) -> Self {
        Self {
            wire: wire.clone(),
            flow,
            unread: Vec::new(),
        }
    }

    fn trouble(&self) -> io::Error {
        let state = self.wire.with(|client| client.state(self.flow));
        io::Error::new(ErrorKind::ConnectionReset, format!("{state:?}"))
    }
}

impl Drop for Flow {
    /// Nobody closes it when the process ends: a reset does, so that the target is left tidy.
    fn drop(&mut self) {
        self.wire.with(|client| client.abort(self.flow));
        self.wire.turn();
    }
}

impl tcp::Line for Flow {
    fn wait(&mut self, to_send: bool, timeout: Duration) -> io::Result<Option<tcp::Ready>> {
        let until = self.wire.now() + timeout;
        loop {
            self.wire.turn();
            let ready = self.wire.with(|client| tcp::Ready {
                to_read: client.is_readable(self.flow) || !self.unread.is_empty(),
                to_write: to_send && client.is_writable(self.flow),
            });
            if ready.to_read || ready.to_write {
                return Ok(Some(ready));
            }
            match self.wire.with(|client| client.state(self.flow)) {
                State::Connecting | State::Open => {}
                State::Closed => {
                    return Ok(Some(tcp::Ready {
                        to_read: true,
                        to_write: false,
                    }));
                }
                State::Lost(_) => return Err(self.trouble()),
            }
            if self.wire.now() > until {
                return Ok(None);
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.wire.with(|client| client.send(self.flow, bytes)))
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let (wire, flow, unread) = (self.wire.clone(), self.flow, &mut self.unread);
        while wire.with(|client| client.receive(flow, |slice| unread.extend_from_slice(slice))) > 0
        {
        }
        if self.unread.is_empty() {
            return match self.wire.with(|client| client.state(flow)) {
                State::Closed => Ok(0),
                State::Lost(_) => Err(self.trouble()),
                State::Connecting | State::Open => Err(ErrorKind::WouldBlock.into()),
            };
        }
        let len = bytes.len().min(self.unread.len());
        bytes[..len].copy_from_slice(&self.unread[..len]);
        self.unread.drain(..len);
        Ok(len)
    }

    fn close(&mut self) -> io::Result<()> {
        self.wire.with(|client| client.finish(self.flow));
        Ok(())
    }
}

/// See the module.
#[derive(Debug)]
pub enum Line {
    Tcp(TcpStream),
    Flow(Flow),
    /// With whoever receives from it just now.
    Lent,
}

impl Line {
    /// The socket, where there is one.
    pub fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Flow(_) | Self::Lent => None,
        }
    }

    /// The place of the flow among those of its stack.
    pub fn slot(&self) -> Option<usize> {
        match self {
            Self::Flow(line) => Some(line.flow.slot()),
            Self::Tcp(_) | Self::Lent => None,
        }
    }

    /// There may be something to receive; of a socket only the kernel knows.
    pub(crate) fn may_receive(&self) -> bool {
        match self {
            Self::Tcp(_) => true,
            Self::Flow(line) => line.wire.with(|client| client.is_readable(line.flow)),
            Self::Lent => false,
        }
    }

    /// Receives once: `take` gets the bytes. `Some`: how many there were.
    pub(crate) fn receive(
        &mut self,
        scratch: &mut [u8],
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<Option<usize>> {
        match self {
            Self::Tcp(stream) => {
                let received = receive(stream, scratch)?;
                if let Some(bytes) = received {
                    take(&scratch[..bytes]);
                }
                Ok(received)
            }
            Self::Flow(line) => {
                let bytes = line.wire.with(|client| client.receive(line.flow, take));
                if bytes > 0 {
                    return Ok(Some(bytes));
                }
                match line.wire.with(|client| client.state(line.flow)) {
                    State::Connecting | State::Open => Ok(None),
                    State::Closed | State::Lost(_) => Err(line.trouble()),
                }
            }
            Self::Lent => Ok(None),
        }
    }

    /// Throws up to `scratch.len()` bytes away where that costs less than receiving them. `None`:
    /// it does not, here.
    pub(crate) fn discard(&mut self, scratch: &mut [u8]) -> io::Result<Option<Option<usize>>> {
        match self {
            Self::Tcp(stream) => discard(stream, scratch).map(Some),
            Self::Flow(_) | Self::Lent => Ok(None),
        }
    }

    /// Sends what there is room for.
    pub(crate) fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write_vectored(slices),
            Self::Flow(line) => {
                let mut sent = 0;
                for slice in slices {
                    let taken = line.wire.with(|client| client.send(line.flow, slice));
                    sent += taken;
                    if taken < slice.len() {
                        break;
                    }
                }
                if sent == 0 {
                    return match line.wire.with(|client| client.state(line.flow)) {
                        State::Lost(_) => Err(line.trouble()),
                        _ => Err(ErrorKind::WouldBlock.into()),
                    };
                }
                Ok(sent)
            }
            Self::Lent => Err(ErrorKind::WouldBlock.into()),
        }
    }
}
