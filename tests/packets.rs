//! The stack against peers and strangers that say what they please, packet by packet: each test is
//! a script of frames over a port in memory, in virtual time, and names the section of the RFC that
//! says what has to come of it.
//!
//! Frames are written and read by hand (`wire`), the far end of a connection is a few counters
//! (`peer`): nothing of the stack's own is used to judge it.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this whole file is a test"
)]

#[path = "packets/attacks.rs"]
mod attacks;
#[path = "packets/flood.rs"]
mod flood;
#[path = "packets/guards.rs"]
mod guards;
#[path = "packets/heap.rs"]
mod heap;
#[path = "packets/lifetimes.rs"]
mod lifetimes;
#[path = "packets/network.rs"]
mod network;
#[path = "packets/peer.rs"]
mod peer;
#[path = "packets/stream.rs"]
mod stream;
#[path = "packets/wire.rs"]
mod wire;
#[path = "packets/world.rs"]
mod world;
