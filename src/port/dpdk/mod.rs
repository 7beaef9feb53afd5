//! Ports of DPDK: network cards whose driver runs in this process, and the virtual devices with
//! which the same path is tried without one.
//!
//! ```text
//! Eal ── Device::open ── Device ── queue(i) ── IdleQueue ── adopt, on its core ── Queue: Port
//! ```
//!
//! Received frames stay in DPDK's memory as [`Mbuf`]s. What is sent is copied into such buffers, or
//! attached to them where the device lets go of it by itself: `slab` keeps what is lent until then.
//! Nothing here retries without bound, and every frame is sent, waiting, or counted.

mod chain;
mod device;
mod eal;
mod facts;
mod limits;
mod mbuf;
mod mempool;
mod queue;
mod registered;
mod settings;
mod setup;
mod slab;
#[cfg(test)]
mod tests;

pub use device::Device;
pub use eal::Eal;
pub use mbuf::{Mbuf, Slices};
pub use queue::{IdleQueue, Queue};
pub use settings::{DeviceError, DeviceSettings, EalError, EalSettings};

/// DPDK is built in.
pub const BUILT_IN: bool = true;
