//! Our own driver for NVMe controllers on PCI Express, from user space and by polling (NVM Express
//! Base Specification 2.0, NVM Command Set Specification 1.0, NVMe over PCIe Transport 1.0).
//!
//! ```text
//!   control side                          data cores
//!   ┌────────────────────┐   link   ┌──────────────────────────┐
//!   │ keeper: one thread │◄────────►│ queue pair of the core:  │  read and write by DMA,
//!   │ for a controller:  │          │ submit, doorbell, poll   │  no system call, no register
//!   │ init, admin queue, │          │ completions, quarantine  │  read, no interrupt
//!   │ events, health,    │          └───────────┬──────────────┘
//!   │ recovery, shutdown │                      │ doorbells, rings
//!   └─────────┬──────────┘                      │
//!             └───────────────► Bar, DmaSpace ◄─┘      VFIO, or a model in tests
//! ```
//!
//! - [`spec`]: the standard's words, pure.
//! - [`bar`], [`dma`]: what a controller is reached through, and memory that it reaches.
//! - [`facts`], [`link`]: what keeper and cores know together and say to each other; [`vitals`]:
//!   what the keeper read last, for whoever asks.
//! - [`controller`], [`keeper`]: the control side of a controller, and its thread.
//! - [`unit`], [`any`]: what a logical unit has of it, and what it is reached through.
//! - [`vfio`]: registers and memory of controllers that the kernel gives to this process.
//! - [`kernel`]: namespaces that stay with the kernel's driver, by the same commands.
//! - `model`: a controller for tests, behind `Bar` and `DmaSpace`.
//!
//! `spec` uses nothing else here; `bar` and `dma` use `spec`; `facts` and `link` use those. The
//! keeper and the queue pairs use all of these and not each other. `unsafe` stands in `dma` and in
//! what implements `Bar` and `DmaSpace`, nowhere else.
//!
//! Never: a reference to memory that a device may be writing to; a buffer back to its owner while
//! the device may still use it; a register read, a lock or a wait on a data core; an index, a
//! length or a number of the controller's that was not checked.

pub(crate) mod any;
pub(crate) mod bar;
pub(crate) mod controller;
pub(crate) mod device;
pub(crate) mod dma;
pub(crate) mod facts;
#[cfg(test)]
mod flat;
pub(crate) mod keeper;
pub(crate) mod kernel;
pub(crate) mod lane;
pub(crate) mod link;
#[cfg(any(test, feature = "testing"))]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "only unit tests ask all of the model")
)]
pub(crate) mod model;
pub(crate) mod outcome;
pub(crate) mod pair;
pub(crate) mod prp;
pub(crate) mod requests;
pub(crate) mod ring;
pub(crate) mod slots;
pub(crate) mod spec;
pub(crate) mod split;
#[cfg(test)]
mod tests;
pub(crate) mod translate;
pub(crate) mod unit;
pub(crate) mod vfio;
pub(crate) mod vitals;
