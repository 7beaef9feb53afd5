//! Load and measurement for targets of RFC 7143: ours and its peers, with the same client.
//!
//! [`session`] is one connection of the load generator: after a login by the strict initiator of
//! `iiblockdaemon::testing` it speaks a lean dialect of its own (reads, writes, R2Ts, pings), a
//! batch per system call and nothing kept of the data, so that the client is not what is measured.
//! [`processor`] reads what the kernel says of processes and CPUs, [`clock`] is the only place that
//! reads the time.

pub mod clock;
pub mod device;
pub mod dma;
pub mod ends;
pub mod line;
pub mod lone;
pub mod measure;
pub mod processor;
pub mod rings;
pub mod server;
pub mod session;
mod stream;
pub mod verify;
