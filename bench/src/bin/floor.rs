//! The least that a target on kernel sockets can cost: the floor under every figure of a real one.
//!
//! It answers login, READ CAPACITY, READ and WRITE out of a flat piece of memory and knows nothing
//! else: no sessions, no command window, no checks, no errors. One thread; a turn receives once
//! into a shared buffer and answers with one vectored send. For measurements on a trusted loopback
//! only: it ends on bad input.

use bench::server::{Connection, Disk};
use clap::Parser;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;

/// Connections in the life of the process.
const CONNECTIONS_MAX: usize = 1 << 16;
const READY_MAX: usize = 256;
const SCRATCH_BYTES: usize = 256 * 1024;
/// The listener's place among the sockets.
const LISTENER: u64 = u64::MAX;

#[derive(Debug, Parser)]
struct Options {
    #[arg(long)]
    portal: SocketAddr,
    #[arg(long, default_value_t = 512)]
    disk_mib: usize,
    #[arg(long, default_value_t = 1)]
    cpu: usize,
    /// Never sleep.
    #[arg(long)]
    spin: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if !core_affinity::set_for_current(core_affinity::CoreId { id: options.cpu }) {
        eprintln!("floor: cannot be pinned to CPU {}", options.cpu);
        return ExitCode::FAILURE;
    }
    match serve(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: &Options) -> io::Result<()> {
    let listener = TcpListener::bind(options.portal)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(
        &epoll,
        &listener,
        EventData::new_u64(LISTENER),
        EventFlags::IN,
    )?;
    let mut disk = Disk::new(options.disk_mib << 20);
    let mut scratch = vec![0; SCRATCH_BYTES];
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let none = epoll::Event {
        flags: EventFlags::empty(),
        data: EventData::new_u64(0),
    };
    let mut events = [none; READY_MAX];
    let timeout = options.spin.then_some(Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    });
    loop {
        let ready = match epoll::wait(&epoll, &mut events, timeout.as_ref()) {
            Ok(ready) => ready,
            // The bench stops and continues its targets.
            Err(Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in events.iter().take(ready) {
            let data = event.data.u64();
            if data == LISTENER {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                if connections.len() == CONNECTIONS_MAX {
                    return Err(io::Error::other("enough connections for one life"));
                }
                let index = EventData::new_u64(connections.len() as u64);
                epoll::add(&epoll, &stream, index, EventFlags::IN)?;
                connections.push(Some(Connection::new(stream)));
                continue;
            }
            let index = usize::try_from(data).expect("it is one of our indices");
            let Some(connection) = connections[index].as_mut() else {
                continue;
            };
            let could_write = !connection.wants_write();
            if connection.turn(&mut scratch, &mut disk).is_err() {
                connections[index] = None;
                continue;
            }
            if could_write == connection.wants_write() {
                let mut flags = EventFlags::IN;
                flags.set(EventFlags::OUT, connection.wants_write());
                epoll::modify(&epoll, connection.stream(), event.data, flags)?;
            }
        }
    }
}
