//! [`Backing`]: the object behind a logical unit, opened once on the control side and shared by all
//! cores. Each core attaches it to its own [`Set`](super::Set).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::faults::Faults;
use super::file::FileObject;
use super::memory::MemoryDisk;
use super::nvme::any::{AnyBar, AnySpace};
use super::nvme::keeper;
use super::nvme::kernel::KernelObject;
use super::nvme::unit::{Readiness, Unit};
use super::request::DeviceInfo;
use super::spec::{Kind, OpenError, Spec};

/// An open device. It is closed, and its lock given up, when the last handle goes.
#[derive(Debug)]
pub struct Backing {
    pub(super) core: Arc<Core>,
    pub(super) faults: Option<Arc<Faults>>,
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) device: Device,
    info: DeviceInfo,
    /// Logical blocks, which only ever grow: `info.blocks` are those at opening.
    blocks: AtomicU64,
    /// Requests that have failed.
    failures: AtomicU64,
}

/// What there is behind a unit. One `match` per request, in [`Set`](super::Set).
#[derive(Debug)]
pub(super) enum Device {
    Memory(MemoryDisk),
    Null,
    File(Arc<FileObject>),
    Nvme(Arc<Unit<AnyBar, AnySpace>>),
    NvmeKernel(Arc<KernelObject>),
}

impl Backing {
    /// Opens what `spec` says. May block; errors name the object, the cause and the remedy, and
    /// nothing was changed on disk unless the object could be locked.
    pub fn open(spec: &Spec) -> Result<Arc<Self>, OpenError> {
        let (device, info) = match &spec.kind {
            Kind::Memory { bytes } => {
                let info = zeroing_info(spec, *bytes)?;
                (Device::Memory(MemoryDisk::new(*bytes)?), info)
            }
            Kind::Null { bytes } => (Device::Null, zeroing_info(spec, *bytes)?),
            Kind::File {
                path,
                bytes,
                engine,
                direct,
            } => {
                // Refuse an impossible geometry before a file is created.
                spec.info(bytes.unwrap_or(u64::MAX))?;
                let (file, info) = FileObject::open_file(spec, path, *bytes, *engine, *direct)?;
                (Device::File(Arc::new(file)), info)
            }
            Kind::Block { path, engine } => {
                let (file, info) = FileObject::open_block(spec, path, *engine)?;
                (Device::File(Arc::new(file)), info)
            }
            Kind::Nvme {
                address,
                namespace,
                settings,
                unsafe_noiommu,
            } => {
                let unit = Unit::at(address, *namespace, (*settings, *unsafe_noiommu))?;
                return Self::of_namespace(unit, spec);
            }
            Kind::NvmeKernel { path } => {
                let (object, info) = KernelObject::open(spec, path)?;
                (Device::NvmeKernel(Arc::new(object)), info)
            }
        };
        Ok(Self::new(device, info))
    }

    /// For a namespace that is served, as `spec` (but its kind) says.
    pub(crate) fn of_namespace(
        unit: Unit<AnyBar, AnySpace>,
        spec: &Spec,
    ) -> Result<Arc<Self>, OpenError> {
        let info = unit.info(spec)?;
        Ok(Self::new(Device::Nvme(Arc::new(unit)), info))
    }

    fn new(device: Device, info: DeviceInfo) -> Arc<Self> {
        Arc::new(Self {
            core: Arc::new(Core {
                device,
                blocks: AtomicU64::new(info.blocks),
                failures: AtomicU64::new(0),
                info,
            }),
            faults: None,
        })
    }

    /// Whether the device can be used now. All but those that come and go always can.
    pub fn readiness(&self) -> Readiness {
        match &self.core.device {
            Device::Memory(_) | Device::Null | Device::File(_) => Readiness::Ready,
            Device::Nvme(unit) => unit.readiness(),
            Device::NvmeKernel(object) => object.readiness(),
        }
    }

    /// How often the device was away, this time with them; wraps around. To be read before
    /// [`readiness`](Self::readiness): then one that has moved, and is ready, is back.
    pub fn absences(&self) -> u32 {
        match &self.core.device {
            Device::Memory(_) | Device::Null | Device::File(_) | Device::NvmeKernel(_) => 0,
            Device::Nvme(unit) => unit.absences(),
        }
    }

    /// Whether the device may change, come and go by itself, so that it is to be looked at again
    /// without being told. Such looks are cheap: no device is asked.
    pub fn changes_by_itself(&self) -> bool {
        matches!(self.core.device, Device::Nvme(_) | Device::NvmeKernel(_))
    }

    /// Waits until what was open and is used no more is shut down: the last act of a process.
    /// Bounded by what the devices may take for that.
    pub fn finish_all() {
        keeper::finish_all();
    }

    /// What the device said of itself when it was opened; constant, and all of it still holds but
    /// `blocks`.
    pub fn info(&self) -> &DeviceInfo {
        &self.core.info
    }

    /// What was done or found while opening that an operator should know, for the log.
    pub fn notes(&self) -> &[String] {
        match &self.core.device {
            Device::File(file) => file.notes(),
            Device::Memory(_) | Device::Null | Device::Nvme(_) | Device::NvmeKernel(_) => &[],
        }
    }

    /// Whether acknowledged changes may be lost, and flushes are refused since, on all cores:
    /// files refuse changes as well.
    pub fn write_cache_lost(&self) -> bool {
        match &self.core.device {
            Device::File(file) => file.write_cache_lost(),
            Device::Nvme(unit) => unit.namespace.cache_lost(),
            Device::NvmeKernel(object) => object.cache_lost(),
            Device::Memory(_) | Device::Null => false,
        }
    }

    /// An operator has looked at what was lost: changes are taken again.
    pub fn clear_write_cache_lost(&self) {
        match &self.core.device {
            Device::File(file) => file.set_write_cache_lost(false),
            Device::Nvme(unit) => unit.namespace.set_cache_lost(false),
            Device::NvmeKernel(object) => object.forget_cache_lost(),
            Device::Memory(_) | Device::Null => {}
        }
    }

    /// Requests that have failed at the device since it was opened.
    pub fn failures(&self) -> u64 {
        self.core.failures.load(Relaxed)
    }

    /// A core's: one has.
    pub(super) fn add_failure(&self) {
        self.core.failures.fetch_add(1, Relaxed);
    }

    /// Capacity in logical blocks, as of now.
    pub fn blocks(&self) -> u64 {
        // It guards no other memory: whoever reads an older value refuses what would go now.
        self.core.blocks.load(Relaxed)
    }

    pub(super) fn set_blocks(&self, blocks: u64) {
        self.core.blocks.store(blocks, Relaxed);
    }

    pub(super) fn device(&self) -> &Device {
        &self.core.device
    }

    pub(super) fn faults(&self) -> Option<&Faults> {
        self.faults.as_deref()
    }
}

/// Longest atomic write of a device in process, in bytes.
const ATOMIC_WRITE_BYTES: u32 = 1 << 20;

/// Devices in process: any block can be unmapped and reads as zeroes then.
fn zeroing_info(spec: &Spec, bytes: u64) -> Result<DeviceInfo, OpenError> {
    let mut info = spec.info(bytes)?;
    info.unmap = !spec.read_only;
    info.thin = true;
    info.unmap_reads_zeroes = true;
    info.unmap_granularity = (4096 / spec.block_size).max(1);
    // Nothing of theirs survives a power loss, so nothing of a write can be lost by halves.
    info.cryptographic_erase = true;
    info.atomic_write_blocks = ATOMIC_WRITE_BYTES / spec.block_size;
    Ok(info)
}
