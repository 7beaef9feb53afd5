//! Controllers that the kernel gives to this process through VFIO: registers ([`VfioBar`]) and
//! memory ([`VfioSpace`]).
//!
//! ```text
//! /sys/bus/pci/devices ─► sysfs::Function
//!                              │ open
//! /dev/vfio/N + container ─┐   ▼          ┌─► Window: registers, SIGBUS ─► VfioBar
//! /dev/vfio/devices/vfioN ─┴► Opened ─────┤
//!            + iommufd                    └─► Addresses, table of mappings ─► VfioSpace
//! ```
//!
//! The function is bound to `vfio-pci` beforehand (`iiblockdaemon nvme bind`). Both of VFIO's ways
//! are taken: the device's own file with iommufd where the kernel has it, else its group in a
//! container of ours. Without an IOMMU the device reaches all memory of the machine: only where
//! `unsafe_noiommu` says so.
//!
//! When the process ends, however it ends, the kernel resets the function and takes the memory
//! away from it.

mod address;
mod bar;
mod iova;
mod opened;
mod pagemap;
mod space;
mod sys;
pub(crate) mod sysfs;
#[cfg(test)]
mod tests;
mod uapi;
mod window;

use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use super::bar::BAR_BYTES_MIN;
use super::dma::MapError;
pub(crate) use address::{AddressError, PciAddress};
pub(crate) use bar::VfioBar;
use opened::{Events, Opened};
pub(crate) use space::VfioSpace;
use sysfs::Function;
use window::{WINDOWS_MAX, Window};

/// Driver that gives functions to processes.
pub(crate) const DRIVER: &str = "vfio-pci";
/// Bytes of registers that are mapped at most: the doorbells of 65536 queue pairs at the widest
/// stride that is in use.
const REGISTERS_BYTES_MAX: usize = 16 << 20;
const PAGE_BYTES: usize = 4096;

/// What is asked of [`open`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct OpenOptions {
    /// A function that no IOMMU guards is opened all the same.
    pub(crate) unsafe_noiommu: bool,
    pub(crate) api: Api,
}

/// VFIO's ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Api {
    /// The device's own file where there is one and it may be opened, else its group.
    #[default]
    Any,
    /// The group in a container.
    Group,
    /// The device's own file, with iommufd.
    Device,
}

/// Why a function cannot be had, with the remedy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("there is no PCI device {0}; `iiblockdaemon nvme list` names the controllers")]
    Missing(PciAddress),
    #[error("{address} is no NVMe controller (PCI class {class:06x})")]
    Class { address: PciAddress, class: u32 },
    #[error(
        "{address} is bound to {driver}; give it to {DRIVER} with: iiblockdaemon nvme bind {address}"
    )]
    Driver {
        address: PciAddress,
        /// `no driver` where there is none.
        driver: String,
    },
    #[error(
        "it is in no IOMMU group: the IOMMU is off; turn it on in the firmware (VT-d, AMD-Vi) and \
         on the kernel's command line (intel_iommu=on iommu=pt; AMD: iommu=pt)"
    )]
    NoGroup,
    #[error(
        "no IOMMU guards it: a controller that errs may write anywhere; for trials set \
         unsafe_noiommu = true under [nvme]"
    )]
    Unguarded,
    #[error("this kernel has no file for it under /dev/vfio/devices (Linux 6.6 and newer do)")]
    NoDeviceFile,
    #[error(
        "other devices of its IOMMU group {0} are with the kernel's drivers: bind them to {DRIVER} \
         too, or put the controller into another slot"
    )]
    NotViable(u32),
    #[error("{0} is in use: by another process, or by a controller of the same IOMMU group")]
    Busy(String),
    #[error(
        "{path}: {errno}; load the driver (modprobe {DRIVER}), and let this user open it \
         (SUBSYSTEM==\"vfio\", GROUP=\"vfio\", MODE=\"0660\" in a udev rule)"
    )]
    Open { path: String, errno: Errno },
    #[error("this kernel's VFIO is another than the one that is used here")]
    Version,
    #[error("the kernel was asked {what}: {errno}")]
    Asking { what: &'static str, errno: Errno },
    #[error("it does not answer on the bus")]
    Silent,
    #[error(
        "its registers cannot be mapped: {mappable} bytes of BAR 0 ({len} bytes) can, and \
         {BAR_BYTES_MIN} are needed"
    )]
    Registers { len: u64, mappable: u64 },
    #[error(
        "its controller cannot be stopped (CSTS.RDY stays 1 behind CC.EN = 0) and is given no memory"
    )]
    Runs,
    #[error("what is in its place has fewer registers")]
    Other,
    #[error("{WINDOWS_MAX} controllers are open: more than that need another process")]
    TooMany,
    #[error("our NVMe driver runs on x86-64 only; use type = \"nvme-kernel\" or \"block\"")]
    Architecture,
    #[error(transparent)]
    Map(#[from] MapError),
}

impl OpenError {
    fn asking(what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Asking { what, errno }
    }
}

/// Opens the controller at `address`, which nobody else has. May take some 100 ms: the kernel
/// resets it.
pub(crate) fn open(
    address: PciAddress,
    options: OpenOptions,
) -> Result<(Arc<VfioBar>, Arc<VfioSpace>), OpenError> {
    // Elsewhere the order of stores to memory and to registers takes other instructions.
    if !cfg!(target_arch = "x86_64") {
        return Err(OpenError::Architecture);
    }
    let function = function_at(address)?;
    let events = Events::new()?;
    let opened = Opened::new(&function, options, &events)?;
    let registers = opened.registers;
    let mappable = usize::try_from(registers.mappable).unwrap_or(usize::MAX);
    let len = mappable.min(REGISTERS_BYTES_MAX) / PAGE_BYTES * PAGE_BYTES;
    if len < BAR_BYTES_MIN {
        return Err(OpenError::Registers {
            len: registers.len,
            mappable: registers.mappable,
        });
    }
    let mapping = OpenError::asking("to map its registers");
    let window = Window::new(len).map_err(&mapping)?;
    let window = Arc::new(window.ok_or(OpenError::TooMany)?);
    window
        .attach(opened.device(), registers.offset)
        .map_err(&mapping)?;
    let space = Arc::new(VfioSpace::new(opened, Arc::clone(&window)));
    let bar = VfioBar::new(address, options, window, Arc::clone(&space), events);
    // Nothing is mapped for it yet, but without an IOMMU all memory is there.
    if space.is_guarded() {
        space.let_master()?;
    } else {
        bar.stop_and(|| space.let_master())?;
    }
    Ok((Arc::new(bar), space))
}

/// What /sys says of a function that can be opened.
fn function_at(address: PciAddress) -> Result<Function, OpenError> {
    usable(Path::new("/"), address)
}

fn usable(root: &Path, address: PciAddress) -> Result<Function, OpenError> {
    let function = Function::read(root, address).ok_or(OpenError::Missing(address))?;
    let class = function.class;
    if !function.is_nvme() {
        return Err(OpenError::Class { address, class });
    }
    match function.driver.as_deref() {
        Some(DRIVER) => Ok(function),
        driver => Err(OpenError::Driver {
            address,
            driver: driver.unwrap_or("no driver").to_owned(),
        }),
    }
}
