//! An [`Initiator`] over a TCP socket, or another [`Line`], one call at a time.
//!
//! Every wait is bounded by the timeout that was given at the start; nothing sleeps. While bytes
//! wait to be sent the socket is also read, so that a target which stops reading until it is rid of
//! its own output is no deadlock.

use super::{
    Command, Config, DataOut, Direction, Event, Initiator, Negotiated, Numbers, Pdu, RawPdu, Scsi,
    ScsiOutcome, TaskHandle, TaskManagement, Violation,
};
use crate::pdu::{Cid, LoginStatus, LogoutReason, TaskManagementResponseCode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// Bytes taken from the socket in one call.
const SCRATCH_BYTES: usize = 256 * 1024;
/// How often one that waits for the window looks whether another connection has opened it, until it
/// gives up.
const WINDOW_LOOKS: u32 = 1000;
/// Unit attentions that one nexus may have waiting before we call it a fault.
const UNIT_ATTENTIONS_MAX: usize = 16;
/// SPC-4 §4.5.6: sense key of a unit attention.
const UNIT_ATTENTION: u8 = 0x06;

/// Why a call failed.
#[derive(Debug)]
pub enum Failure {
    Io(io::Error),
    /// Nothing came for the whole timeout.
    TimedOut,
    /// The target closed the connection.
    Closed,
    Violation(Violation),
    LoginRefused(LoginStatus),
    /// Something else happened than the call waits for.
    Unexpected(Box<Event>),
    /// A command that should have ended with GOOD did not.
    NotGood(Box<ScsiOutcome>),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "socket: {error}"),
            Self::TimedOut => f.write_str("the target did not answer in time"),
            Self::Closed => f.write_str("the target closed the connection"),
            Self::Violation(violation) => write!(f, "{violation}"),
            Self::LoginRefused(status) => {
                write!(
                    f,
                    "login refused: class {}, detail {}",
                    status.class, status.detail
                )
            }
            Self::Unexpected(event) => write!(f, "unexpected event: {event:?}"),
            Self::NotGood(outcome) => write!(
                f,
                "status {:#04x}, sense {:02x?}, {:?}",
                outcome.status,
                outcome.sense_code(),
                outcome.response
            ),
        }
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// READ (16), SBC-4.
pub fn read_16(lba: u64, blocks: u32) -> [u8; 16] {
    range_cdb(0x88, 0, lba, blocks)
}

/// WRITE (16), SBC-4, with or without FUA.
pub fn write_16(lba: u64, blocks: u32, fua: bool) -> [u8; 16] {
    range_cdb(0x8a, if fua { 0x08 } else { 0 }, lba, blocks)
}

fn range_cdb(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[1] = flags;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// What the bytes of a connection go over. Nothing but [`Line::wait`] waits.
pub trait Line {
    /// Waits until something can be received, or sent where `to_send`: which of both. `None`: not
    /// within `timeout`.
    ///
    /// # Errors
    /// The connection's, or the operating system's.
    fn wait(&mut self, to_send: bool, timeout: Duration) -> io::Result<Option<Ready>>;

    /// Sends what there is room for.
    ///
    /// # Errors
    /// The connection's.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Receives what has come; 0 when the other side has closed.
    ///
    /// # Errors
    /// The connection's.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize>;

    /// Ends our side.
    ///
    /// # Errors
    /// The connection's.
    fn close(&mut self) -> io::Result<()>;
}

/// What a [`Line`] is ready for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    pub to_read: bool,
    pub to_write: bool,
}

impl Line for TcpStream {
    fn wait(&mut self, to_send: bool, timeout: Duration) -> io::Result<Option<Ready>> {
        let timeout =
            Timespec::try_from(timeout).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
        let mut wanted = PollFlags::IN;
        wanted.set(PollFlags::OUT, to_send);
        let mut fds = [PollFd::new(self, wanted)];
        if poll(&mut fds, Some(&timeout))? == 0 {
            return Ok(None);
        }
        let ready = fds[0].revents();
        Ok(Some(Ready {
            to_read: ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
            to_write: ready.contains(PollFlags::OUT),
        }))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(self, bytes)
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Read::read(self, bytes)
    }

    fn close(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// One connection of an initiator.
#[derive(Debug)]
pub struct TcpInitiator<L = TcpStream> {
    stream: L,
    engine: Initiator,
    timeout: Duration,
    scratch: Box<[u8]>,
    out: Vec<u8>,
    /// Events that came while a call waited for others.
    set_aside: VecDeque<Event>,
}

impl TcpInitiator {
    /// Connects and logs in.
    pub fn connect(
        address: SocketAddr,
        config: Config,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let mut it = Self::open(address, config, timeout)?;
        it.login()?;
        Ok(it)
    }

    /// Connects and sends nothing.
    pub fn open(address: SocketAddr, config: Config, timeout: Duration) -> Result<Self, Failure> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self::over(stream, config, timeout))
    }

    /// Lists the targets that this initiator may see, with their addresses, in a discovery session.
    pub fn discover(
        address: SocketAddr,
        config: Config,
        timeout: Duration,
    ) -> Result<Vec<(String, Vec<String>)>, Failure> {
        let mut it = Self::connect(address, config, timeout)?;
        let keys = it.text(&[("SendTargets", "All")])?;
        it.logout()?;
        let mut targets: Vec<(String, Vec<String>)> = Vec::new();
        for (key, value) in keys {
            match (key.as_str(), targets.last_mut()) {
                ("TargetName", _) => targets.push((value, Vec::new())),
                ("TargetAddress", Some((_, addresses))) => addresses.push(value),
                _ => {}
            }
        }
        Ok(targets)
    }
}

impl<L: Line> TcpInitiator<L> {
    /// Over a connection that stands. Sends nothing.
    pub fn over(stream: L, config: Config, timeout: Duration) -> Self {
        Self {
            stream,
            engine: Initiator::new(config),
            timeout,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            out: Vec::new(),
            set_aside: VecDeque::new(),
        }
    }

    /// Runs the login that the configuration describes to its end.
    pub fn login(&mut self) -> Result<(), Failure> {
        match self.next_event()? {
            Event::LoggedIn => Ok(()),
            Event::LoginRefused(status) => Err(Failure::LoginRefused(status)),
            other => Err(Failure::Unexpected(Box::new(other))),
        }
    }

    /// The engine, to look at or to submit to; call [`Self::flush`] or wait for something
    /// afterwards.
    pub fn engine(&mut self) -> &mut Initiator {
        &mut self.engine
    }

    /// The socket, to pull at.
    pub fn stream(&self) -> &L {
        &self.stream
    }

    /// Gives the connection up to someone who drives it by other means. The socket is non-blocking;
    /// all bytes that arrived were taken, and none are waiting to be sent.
    pub fn into_parts(mut self) -> Result<(L, Numbers, Negotiated), Failure> {
        self.flush()?;
        Ok((
            self.stream,
            self.engine.numbers(),
            self.engine.negotiated().clone(),
        ))
    }

    /// Queues a command and sends what may be sent.
    pub fn submit(&mut self, command: Command) -> Result<TaskHandle, Failure> {
        let task = self.engine.submit(command);
        self.flush()?;
        Ok(task)
    }

    /// Sends everything that may be sent now.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.engine.poll_transmit(&mut self.out);
        while !self.out.is_empty() {
            self.pump()?;
        }
        Ok(())
    }

    /// Sends a PDU built by hand.
    pub fn send_pdu(&mut self, pdu: &RawPdu) -> Result<(), Failure> {
        self.engine.send(pdu);
        self.flush()
    }

    /// Sends bytes as they stand.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.engine.send_bytes(bytes);
        self.flush()
    }

    /// The next event, waiting for it if need be.
    pub fn next_event(&mut self) -> Result<Event, Failure> {
        match self.set_aside.pop_front() {
            Some(event) => Ok(event),
            None => self.wait_for(|_| true),
        }
    }

    /// The next answer to a PDU that was sent by hand; other events are kept for later.
    pub fn next_raw(&mut self) -> Result<Pdu, Failure> {
        match self.find_event(|event| matches!(event, Event::Raw(_)))? {
            Event::Raw(pdu) => Ok(pdu),
            other => Err(Failure::Unexpected(Box::new(other))),
        }
    }

    /// The last event of `task`; other events are kept for later.
    pub fn wait(&mut self, task: TaskHandle) -> Result<Event, Failure> {
        self.find_event(|event| event.task() == Some(task))
    }

    /// Whether the last event of `task` has come already. Waits for nothing.
    pub fn has_ended(&self, task: TaskHandle) -> bool {
        let mut events = self.set_aside.iter();
        events.any(|event| event.task() == Some(task))
    }

    /// The first event, old or new, that `wanted` accepts; other events are kept for later.
    pub fn find_event(&mut self, wanted: impl Fn(&Event) -> bool) -> Result<Event, Failure> {
        if let Some(at) = self.set_aside.iter().position(&wanted)
            && let Some(event) = self.set_aside.remove(at)
        {
            return Ok(event);
        }
        self.wait_for(wanted)
    }

    /// Runs one SCSI command to its end.
    pub fn execute(&mut self, command: Scsi) -> Result<ScsiOutcome, Failure> {
        let task = self.submit(Command::Scsi(command))?;
        match self.wait(task)? {
            Event::Scsi { outcome, .. } => Ok(outcome),
            other => Err(Failure::Unexpected(Box::new(other))),
        }
    }

    /// The same, and the status must be GOOD.
    pub fn execute_good(&mut self, command: Scsi) -> Result<ScsiOutcome, Failure> {
        let outcome = self.execute(command)?;
        if outcome.is_good() {
            Ok(outcome)
        } else {
            Err(Failure::NotGood(Box::new(outcome)))
        }
    }

    /// TEST UNIT READY until no unit attention is left.
    pub fn clear_unit_attentions(&mut self, lun: u8) -> Result<(), Failure> {
        let test_unit_ready = || Scsi::new(lun, &[0; 6], Direction::None);
        for _ in 0..UNIT_ATTENTIONS_MAX {
            let outcome = self.execute(test_unit_ready())?;
            if !matches!(outcome.sense_code(), Some((UNIT_ATTENTION, ..))) {
                break;
            }
        }
        self.execute_good(test_unit_ready()).map(drop)
    }

    /// Number of blocks and bytes in each: READ CAPACITY (16).
    pub fn read_capacity(&mut self, lun: u8) -> Result<(u64, u32), Failure> {
        let mut cdb = [0; 16];
        cdb[0] = 0x9e;
        cdb[1] = 0x10;
        cdb[13] = 32;
        let outcome = self.execute_good(Scsi::new(lun, &cdb, Direction::In(32)))?;
        let last = outcome
            .data_in
            .first_chunk::<8>()
            .map(|bytes| u64::from_be_bytes(*bytes));
        let size = outcome
            .data_in
            .get(8..12)
            .and_then(|bytes| bytes.first_chunk::<4>());
        match (last.and_then(|last| last.checked_add(1)), size) {
            (Some(blocks), Some(size)) => Ok((blocks, u32::from_be_bytes(*size))),
            _ => Err(Failure::NotGood(Box::new(outcome))),
        }
    }

    /// Reads whole blocks with READ (16).
    pub fn read_blocks(
        &mut self,
        lun: u8,
        lba: u64,
        blocks: u32,
        block_bytes: u32,
    ) -> Result<Vec<u8>, Failure> {
        let data = Direction::In(blocks * block_bytes);
        self.execute_good(Scsi::new(lun, &read_16(lba, blocks), data))
            .map(|o| o.data_in)
    }

    /// Writes whole blocks with WRITE (16). `data` must be a multiple of `block_bytes`.
    pub fn write_blocks(
        &mut self,
        lun: u8,
        lba: u64,
        data: &[u8],
        block_bytes: u32,
    ) -> Result<(), Failure> {
        let length = u32::try_from(data.len()).expect("a test writes less than 4 GiB");
        assert!(length.is_multiple_of(block_bytes), "whole blocks only");
        let cdb = write_16(lba, length / block_bytes, false);
        let data = Direction::Out(DataOut::new(data.to_vec()));
        self.execute_good(Scsi::new(lun, &cdb, data)).map(drop)
    }

    /// One text negotiation.
    pub fn text(&mut self, keys: &[(&str, &str)]) -> Result<Vec<(String, String)>, Failure> {
        let keys = keys
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect();
        let task = self.submit(Command::Text(keys))?;
        match self.wait(task)? {
            Event::Text { keys, .. } => Ok(keys),
            other => Err(Failure::Unexpected(Box::new(other))),
        }
    }

    /// One task management function.
    pub fn manage(
        &mut self,
        request: TaskManagement,
    ) -> Result<TaskManagementResponseCode, Failure> {
        let task = self.submit(Command::TaskManagement(request))?;
        match self.wait(task)? {
            Event::TaskManagement { response, .. } => Ok(response),
            other => Err(Failure::Unexpected(Box::new(other))),
        }
    }

    /// Closes the session, and sees that the target closes the connection.
    pub fn logout(&mut self) -> Result<(), Failure> {
        let logout = Command::Logout {
            reason: LogoutReason::CloseSession,
            cid: Cid(0),
        };
        let task = self.submit(logout)?;
        match self.wait(task)? {
            Event::Logout { .. } => {}
            other => return Err(Failure::Unexpected(Box::new(other))),
        }
        self.stream.close()?;
        self.wait_closed()
    }

    /// Takes what the target still sends until it closes the connection.
    pub fn wait_closed(&mut self) -> Result<(), Failure> {
        loop {
            match self.wait_for(|_| true) {
                Ok(event) => self.set_aside.push_back(event),
                Err(Failure::Closed) => return Ok(()),
                Err(other) => return Err(other),
            }
        }
    }

    fn wait_for(&mut self, wanted: impl Fn(&Event) -> bool) -> Result<Event, Failure> {
        loop {
            while let Some(event) = self.engine.poll_event() {
                if wanted(&event) {
                    return Ok(event);
                }
                self.set_aside.push_back(event);
            }
            self.engine.poll_transmit(&mut self.out);
            self.pump()?;
        }
    }

    /// Waits until the line is ready. `None`: something else is to be sent first, since the window
    /// has opened by what came on another connection of the session.
    fn wait_ready(&mut self) -> Result<Option<Ready>, Failure> {
        let waits = self.out.is_empty() && self.engine.waits_for_window();
        let looks = if waits { WINDOW_LOOKS } else { 1 };
        for _ in 0..looks {
            let ready = self
                .stream
                .wait(!self.out.is_empty(), self.timeout / looks)?;
            if ready.is_some() {
                return Ok(ready);
            }
            self.engine.poll_transmit(&mut self.out);
            if waits && !self.out.is_empty() {
                return Ok(None);
            }
        }
        Err(Failure::TimedOut)
    }

    /// Waits until the line can be read, or written if something is to be, and does so once.
    fn pump(&mut self) -> Result<(), Failure> {
        let Some(ready) = self.wait_ready()? else {
            return Ok(());
        };
        if ready.to_write {
            let sent = self.stream.write(&self.out)?;
            self.out.drain(..sent);
        }
        if ready.to_read {
            match self.stream.read(&mut self.scratch)? {
                0 => return Err(Failure::Closed),
                read => self.engine.receive(&self.scratch[..read])?,
            }
        }
        Ok(())
    }
}

impl Event {
    /// The command whose last event this is.
    pub fn task(&self) -> Option<TaskHandle> {
        match self {
            Self::Scsi { task, .. }
            | Self::Nop { task, .. }
            | Self::Text { task, .. }
            | Self::TaskManagement { task, .. }
            | Self::Aborted { task }
            | Self::Logout { task, .. } => Some(*task),
            Self::Reject { task, .. } => *task,
            Self::LoggedIn
            | Self::LoginRefused(_)
            | Self::NopIn { .. }
            | Self::Async { .. }
            | Self::Raw(_) => None,
        }
    }
}
