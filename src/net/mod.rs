//! Byte streams for the reactor. Over host sockets ([`host`]), and flows of a TCP of our own over
//! frames ([`stack`]).

pub mod host;
pub mod stack;

pub use host::{Listener, Poller, Ready, Stream};
