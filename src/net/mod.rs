//! Byte streams for the reactor. Over host sockets ([`host`]), and flows of a TCP of our own over
//! frames ([`stack`]).

pub mod host;
pub mod stack;

pub use host::{Listener, Moved, Poller, Ready, Stream};
/// An instant to count virtual time from: what it is does not matter.
#[cfg(any(test, feature = "testing"))]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need a beginning of time, whichever"
)]
pub fn some_instant() -> std::time::Instant {
    std::time::Instant::now()
}
