//! Backing devices of logical units: the vocabulary that `scsi` speaks and the devices that obey
//! it.
//!
//! A [`Request`] carries its buffer and its [`Token`] by value, so that nobody else can touch
//! memory which a device owns, and comes back exactly once as a [`Completion`]. A [`Backing`] is
//! opened once on the control side; each core has a [`Set`] of its own to which it attaches all of
//! them. Devices: memory, null, regular files and block devices (io_uring, or plain calls where
//! that is refused), and namespaces of NVMe controllers that this process drives itself.

mod backing;
mod faults;
mod file;
mod memory;
pub(crate) mod nvme;
pub mod request;
mod set;
mod space;
mod spec;
#[cfg(any(test, feature = "testing"))]
pub mod suite;
#[cfg(test)]
mod tests;
mod wake;

pub use backing::Backing;
pub use faults::Faults;
pub use nvme::facts::{Selector, Settings as NvmeSettings};
#[cfg(any(test, feature = "testing"))]
pub use nvme::model::plugged::NvmeModel;
pub use nvme::spec::entry::NamespaceId;
pub use nvme::unit::Readiness;
pub use request::{
    Completion, Designators, DeviceInfo, IoError, LbaRun, Operation, Request, Token, UnitIndex,
    Usage,
};
pub use set::{DEPTH_MAX, Options, Set};
pub use space::Size;
pub use spec::{Engine, Kind, OpenError, PHYSICAL_BLOCK_BYTES_MAX, Spec};
