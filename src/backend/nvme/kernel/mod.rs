//! Namespaces that stay with the kernel's NVMe driver, by io_uring passthrough (`/dev/ngXnY`, Linux
//! 5.19 and newer), for machines that cannot give a controller away.
//!
//! ```text
//! Operation ─► translate: Job ─► command: 80 bytes of the entry ─► Queues: one ring for a core
//!                                                                        │
//! Completion ◄─ requests ◄─ outcome ◄─ status ◄──────────────────────────┘
//! ```
//!
//! The commands, how they are cut, and what a status means are those of our own driver. The kernel
//! does the rest: queues, timeouts, aborts, resets. While a namespace is served its block device
//! is claimed, so that nobody mounts it.

mod command;
mod object;
pub(crate) mod queues;

pub(crate) use object::KernelObject;
