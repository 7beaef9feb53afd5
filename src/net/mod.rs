//! Byte streams for the reactor. Over host sockets ([`host`]), and flows of a TCP of our own over
//! frames ([`stack`]).

pub mod host;
pub mod stack;
mod stream;

pub use host::{Listener, Poller, Ready};
pub use stream::{Flow, Stream};

/// What a receive or a send came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moved {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing now.
    WouldBlock,
    /// The peer has closed its side (receive only).
    Closed,
}

/// An instant to count virtual time from: what it is does not matter.
#[cfg(any(test, feature = "testing"))]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need a beginning of time, whichever"
)]
pub fn some_instant() -> std::time::Instant {
    std::time::Instant::now()
}
