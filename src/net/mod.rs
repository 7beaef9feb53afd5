//! Byte streams for the reactor. Today over host sockets; the flows of a user-space TCP stack will
//! stand beside them behind the same [`Stream`].

pub mod host;

pub use host::{Listener, Poller, Ready, Stream};
