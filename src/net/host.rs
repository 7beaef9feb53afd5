//! Host sockets: non-blocking TCP with plain receives and vectored sends, and level-triggered
//! epoll.
//!
//! One trip through the kernel's TCP per send costs several times what the rest of a small command
//! does, so callers gather everything that a turn has for a connection into one [`Stream::send`].
//! `EPOLLOUT` is armed only after a partial send.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType,
    acceptfrom_with, bind, getsockname, listen, recv, sendmsg, socket_with, sockopt,
};

pub use super::Moved;

/// Connections that the kernel completes for us before they are accepted (it takes less where its
/// own limit is lower): a burst beyond it costs honest initiators a second each.
const BACKLOG: i32 = 4096;
/// Slices in one vectored send (the kernel's own limit, UIO_MAXIOV).
pub const SEND_SLICES_MAX: usize = 1024;
/// Events taken from the kernel in one turn.
pub const READY_MAX: usize = 256;

/// A listening TCP socket.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    address: SocketAddr,
}

impl Listener {
    /// Binds and listens. IPv6 sockets take IPv6 only, so that a portal is exactly what it says.
    ///
    /// # Errors
    /// The operating system's: address in use, not available, permission.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let family = if address.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(
            family,
            SocketType::STREAM,
            flags,
            Some(rustix::net::ipproto::TCP),
        )?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        bind(&socket, &address)?;
        listen(&socket, BACKLOG)?;
        let address = SocketAddr::try_from(getsockname(&socket)?)?;
        Ok(Self { socket, address })
    }

    /// Where it listens, with the port that the kernel chose if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection, or `None` when nobody waits.
    ///
    /// # Errors
    /// Those that concern this process (no descriptors left); a connection that died while it
    /// waited is skipped.
    pub fn accept(&self) -> io::Result<Option<Stream>> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match acceptfrom_with(&self.socket, flags) {
            Ok((socket, peer)) => {
                let Some(peer) = peer.and_then(|p| SocketAddr::try_from(p).ok()) else {
                    return Ok(None);
                };
                // The last response of a turn must not wait for an acknowledgement (Nagle).
                sockopt::set_tcp_nodelay(&socket, true)?;
                let local = SocketAddr::try_from(getsockname(&socket)?)?;
                Ok(Some(Stream {
                    socket,
                    peer,
                    local,
                }))
            }
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR | Errno::PROTO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// One TCP connection. Belongs to one core at a time and may be sent to another.
#[derive(Debug)]
pub struct Stream {
    socket: OwnedFd,
    peer: SocketAddr,
    local: SocketAddr,
}

impl Stream {
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Receives once into `buffer`.
    ///
    /// # Errors
    /// The connection's: reset, timed out.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Moved> {
        match recv(&self.socket, buffer, RecvFlags::empty()) {
            Ok((0, _)) => Ok(Moved::Closed),
            Ok((bytes, _)) => Ok(Moved::Bytes(bytes)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Moved::WouldBlock),
            Err(error) => Err(error.into()),
        }
    }

    /// Receives once into several buffers, in order.
    ///
    /// # Errors
    /// The connection's: reset, timed out.
    pub fn receive_into(&self, buffers: &mut [io::IoSliceMut<'_>]) -> io::Result<Moved> {
        match rustix::io::readv(&self.socket, buffers) {
            Ok(0) => Ok(Moved::Closed),
            Ok(bytes) => Ok(Moved::Bytes(bytes)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Moved::WouldBlock),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends what the kernel takes of `slices` (at most [`SEND_SLICES_MAX`]).
    ///
    /// # Errors
    /// The connection's: reset, broken pipe.
    pub fn send(&self, slices: &[IoSlice<'_>]) -> io::Result<Moved> {
        let mut control = SendAncillaryBuffer::default();
        match sendmsg(&self.socket, slices, &mut control, SendFlags::NOSIGNAL) {
            Ok(bytes) => Ok(Moved::Bytes(bytes)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Moved::WouldBlock),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends the sending side so that the peer reads everything sent and then the end.
    pub fn finish(&self) {
        // A connection that is gone already needs no end.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// One readiness report; `key` is what [`Poller::add`] was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    pub key: u64,
    pub readable: bool,
    pub writable: bool,
}

/// Level-triggered epoll.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller")
            .field("epoll", &self.epoll)
            .finish()
    }
}

impl Poller {
    /// # Errors
    /// The operating system's.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self {
            epoll,
            events: Vec::with_capacity(READY_MAX),
        })
    }

    /// Watches `source` for readability under `key`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn add(&self, source: &impl AsFd, key: u64) -> io::Result<()> {
        let data = epoll::EventData::new_u64(key);
        Ok(epoll::add(
            &self.epoll,
            source,
            data,
            epoll::EventFlags::IN,
        )?)
    }

    /// Watches for reading, for writing, both or (errors aside) neither.
    ///
    /// # Errors
    /// The operating system's.
    pub fn watch(&self, source: &impl AsFd, key: u64, read: bool, write: bool) -> io::Result<()> {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, read);
        flags.set(epoll::EventFlags::OUT, write);
        Ok(epoll::modify(
            &self.epoll,
            source,
            epoll::EventData::new_u64(key),
            flags,
        )?)
    }

    /// Stops watching.
    ///
    /// # Errors
    /// The operating system's.
    pub fn remove(&self, source: &impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, source)?)
    }

    /// Fills `ready`; waits for at most `timeout` (`None` = not at all).
    ///
    /// # Errors
    /// The operating system's; an interrupted wait is an empty one.
    pub fn poll(
        &mut self,
        timeout: Option<std::time::Duration>,
        ready: &mut Vec<Ready>,
    ) -> io::Result<()> {
        let timeout = timeout.unwrap_or_default();
        let timeout = rustix::event::Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        self.events.clear();
        ready.clear();
        let buffer = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, buffer, Some(&timeout)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        // An error or hang-up is shown by the next receive.
        let read = epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        ready.extend(self.events.iter().map(|event| {
            let flags = event.flags;
            Ready {
                key: event.data.u64(),
                readable: flags.intersects(read),
                writable: flags.contains(epoll::EventFlags::OUT),
            }
        }));
        Ok(())
    }
}
