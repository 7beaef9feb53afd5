//! [`Opened`]: a function that the kernel has given to this process, by either of VFIO's ways: a
//! group in a container, or a device of its own with iommufd. Dropping it gives the function back.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, pread, pwrite, read};

use super::super::bar::ResetError;
use super::super::dma::MapError;
use super::iova::Range;
use super::sys::{self, Call};
use super::sysfs::Function;
use super::uapi::{self, DmaMap, DmaUnmap, IoasMap, IoasUnmap, IrqInfo, IrqSet};
use super::{Api, OpenError, OpenOptions};

/// PCI configuration space: the command register, and its bits.
const COMMAND: u64 = 4;
const MEMORY: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const INTX_OFF: u16 = 1 << 10;

/// What the kernel tells by: someone wants the function back, the bus has seen an error.
#[derive(Debug)]
pub(super) struct Events {
    request: OwnedFd,
    error: OwnedFd,
}

impl Events {
    pub(super) fn new() -> Result<Self, OpenError> {
        let new = || {
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(OpenError::asking("for an event descriptor"))
        };
        Ok(Self {
            request: new()?,
            error: new()?,
        })
    }

    /// Whether the function is wanted back, said since the last time.
    pub(super) fn requested(&self) -> bool {
        happened(&self.request)
    }

    pub(super) fn failed(&self) -> bool {
        happened(&self.error)
    }
}

fn happened(event: &OwnedFd) -> bool {
    // One counter of 8 bytes; EAGAIN where it is 0.
    read(event, &mut [0; 8]).is_ok()
}

/// Field order is the order of closing: the function before what it is in.
#[derive(Debug)]
pub(super) struct Opened {
    device: OwnedFd,
    iommu: Iommu,
    pub(super) registers: uapi::Region,
    /// Where the configuration space begins in the function's file.
    config: u64,
    resets: bool,
    /// Addresses that the device may use, and what they are multiples of; none without an IOMMU.
    pub(super) ranges: Vec<Range>,
    pub(super) granule: u64,
}

#[derive(Debug)]
enum Iommu {
    Container {
        #[expect(dead_code, reason = "held open: the function belongs to the group")]
        group: OwnedFd,
        container: OwnedFd,
    },
    Iommufd {
        iommufd: OwnedFd,
        ioas: u32,
    },
    Absent {
        #[expect(dead_code, reason = "held open: the function belongs to the group")]
        group: OwnedFd,
        #[expect(dead_code, reason = "held open: the group belongs to the container")]
        container: OwnedFd,
    },
}

impl Opened {
    pub(super) fn new(
        function: &Function,
        options: OpenOptions,
        events: &Events,
    ) -> Result<Self, OpenError> {
        let (device, iommu, info) = match &function.character {
            Some(name) if options.api != Api::Group && !function.unguarded => {
                let path = format!("/dev/vfio/devices/{name}");
                match by_device(&path) {
                    // Without permission for the new files the old ones may do.
                    Err(OpenError::Open { .. }) if options.api == Api::Any => {
                        by_group(function, options)?
                    }
                    opened => opened?,
                }
            }
            _ if options.api == Api::Device => return Err(OpenError::NoDeviceFile),
            _ => by_group(function, options)?,
        };
        let mut opened = Self {
            device,
            iommu,
            registers: uapi::Region {
                len: 0,
                offset: 0,
                mappable: 0,
            },
            config: 0,
            resets: false,
            ranges: info.ranges,
            granule: info.granule,
        };
        opened.look()?;
        opened.listen(uapi::INTERRUPT_REQUEST, &events.request)?;
        opened.listen(uapi::INTERRUPT_ERROR, &events.error)?;
        opened.enable(MEMORY)?;
        Ok(opened)
    }

    /// Where the registers and the configuration space are.
    fn look(&mut self) -> Result<(), OpenError> {
        let mut info = uapi::DeviceInfo::sized();
        let asking = "what the function is";
        sys::exchange(&self.device, &mut info).map_err(OpenError::asking(asking))?;
        self.resets = info.flags & uapi::DEVICE_RESETS != 0;
        let region = |index| {
            let mut head = [0; uapi::Region::WORDS];
            head[2] = index;
            let answer = sys::ask(self.device.as_fd(), uapi::DEVICE_REGION_INFO, head);
            let answer = answer.map_err(OpenError::asking("for its regions"))?;
            Ok::<_, OpenError>(uapi::Region::read(&answer))
        };
        let (registers, config) = (region(uapi::REGION_BAR0)?, region(uapi::REGION_CONFIG)?);
        self.registers = registers;
        self.config = config.offset;
        Ok(())
    }

    /// Has the kernel tell of a kind of event; where the function has none it never happens.
    fn listen(&self, index: u32, event: &OwnedFd) -> Result<(), OpenError> {
        let mut info = IrqInfo {
            index,
            ..IrqInfo::sized()
        };
        // Kernels that do not know the kind say EINVAL.
        if sys::exchange(&self.device, &mut info).is_err() || info.count == 0 {
            return Ok(());
        }
        let mut set = IrqSet {
            flags: uapi::IRQ_SET_EVENTFD | uapi::IRQ_SET_TRIGGER,
            index,
            count: 1,
            descriptor: event.as_raw_fd(),
            ..IrqSet::sized()
        };
        sys::exchange(&self.device, &mut set).map_err(OpenError::asking("for its events"))
    }

    fn command(&self) -> Result<u16, Errno> {
        let mut bytes = [0; 2];
        let read = pread(&self.device, &mut bytes, self.config + COMMAND)?;
        if read < bytes.len() {
            return Err(Errno::IO);
        }
        Ok(u16::from_le_bytes(bytes))
    }

    fn set_command(&self, command: u16) -> Result<(), Errno> {
        let bytes = command.to_le_bytes();
        let written = pwrite(&self.device, &bytes, self.config + COMMAND)?;
        if written < bytes.len() {
            return Err(Errno::IO);
        }
        Ok(())
    }

    /// Lets the function make accesses of its own. Not before its controller is known to make
    /// none: where no IOMMU stands between, they go wherever it was told to by whoever had it.
    pub(super) fn let_master(&self) -> Result<(), OpenError> {
        self.enable(MEMORY | BUS_MASTER)
    }

    /// Lets the function answer to accesses, or `what` else, without interrupts.
    fn enable(&self, what: u16) -> Result<(), OpenError> {
        let enabled = what | INTX_OFF;
        let attempt = || {
            let before = self.command()?;
            if before == u16::MAX {
                return Ok(false);
            }
            self.set_command(before | enabled)?;
            let after = self.command()?;
            Ok(after != u16::MAX && after & enabled == enabled)
        };
        match attempt() {
            Ok(true) => Ok(()),
            Ok(false) => Err(OpenError::Silent),
            Err(errno) => Err(OpenError::asking("for access to the bus")(errno)),
        }
    }

    /// The function makes no access to memory from then on, if it is there at all.
    pub(super) fn disable(&self) -> Result<(), Errno> {
        let command = self.command()?;
        self.set_command(command & !BUS_MASTER)
    }

    pub(super) fn device(&self) -> &OwnedFd {
        &self.device
    }

    /// Whether an IOMMU stands between the function and the memory.
    pub(super) fn is_guarded(&self) -> bool {
        !matches!(self.iommu, Iommu::Absent { .. })
    }

    pub(super) fn reset(&self) -> Result<(), ResetError> {
        if !self.resets {
            return Err(ResetError::Unsupported);
        }
        match sys::call(&self.device, Call::Reset) {
            Ok(_) => {}
            Err(Errno::NOTTY | Errno::INVAL | Errno::OPNOTSUPP) => {
                return Err(ResetError::Unsupported);
            }
            Err(errno) => return Err(ResetError::Failed(errno)),
        }
        // The kernel restores the configuration space; this makes sure of it.
        self.let_master().map_err(|error| match error {
            OpenError::Asking { errno, .. } => ResetError::Failed(errno),
            _ => ResetError::Failed(Errno::NODEV),
        })
    }

    /// # Safety
    /// As of [`DmaSpace::map`](super::super::dma::DmaSpace::map).
    pub(super) unsafe fn map(
        &self,
        base: NonNull<u8>,
        bytes: u64,
        iova: u64,
    ) -> Result<(), MapError> {
        let address = base.as_ptr().expose_provenance() as u64;
        let mapped = match &self.iommu {
            Iommu::Container { container, .. } => {
                let mut map = DmaMap {
                    flags: uapi::MAP_READ_WRITE,
                    address,
                    iova,
                    bytes,
                    ..DmaMap::sized()
                };
                // SAFETY: the caller's promise.
                unsafe { sys::lend(container, &mut map) }
            }
            Iommu::Iommufd { iommufd, ioas } => {
                let mut map = IoasMap {
                    flags: uapi::IOAS_MAP_FLAGS,
                    ioas: *ioas,
                    address,
                    bytes,
                    iova,
                    ..IoasMap::sized()
                };
                // SAFETY: the caller's promise.
                unsafe { sys::lend(iommufd, &mut map) }
            }
            Iommu::Absent { .. } => Ok(()),
        };
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        mapped.map_err(|errno| MapError::Map { bytes, errno })
    }

    pub(super) fn unmap(&self, iova: u64, bytes: u64) -> Result<(), MapError> {
        let (unmapped, done) = match &self.iommu {
            Iommu::Container { container, .. } => {
                let mut unmap = DmaUnmap {
                    iova,
                    bytes,
                    ..DmaUnmap::sized()
                };
                let done = sys::exchange(container, &mut unmap);
                (unmap.bytes, done)
            }
            Iommu::Iommufd { iommufd, ioas } => {
                let mut unmap = IoasUnmap {
                    ioas: *ioas,
                    iova,
                    bytes,
                    ..IoasUnmap::sized()
                };
                let done = sys::exchange(iommufd, &mut unmap);
                (unmap.bytes, done)
            }
            Iommu::Absent { .. } => (bytes, Ok(())),
        };
        done.map_err(MapError::Unmap)?;
        // The kernel says how much it was.
        if unmapped == bytes {
            Ok(())
        } else {
            Err(MapError::Unmap(Errno::IO))
        }
    }
}

/// The file at `path`, for reading and writing.
fn open_file(path: &str) -> Result<OwnedFd, OpenError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    open(Path::new(path), flags, Mode::empty()).map_err(|errno| match errno {
        Errno::BUSY => OpenError::Busy(path.to_owned()),
        errno => OpenError::Open {
            path: path.to_owned(),
            errno,
        },
    })
}

type Way = (OwnedFd, Iommu, uapi::IommuInfo);

/// A device file and iommufd: Linux 6.6 and newer.
fn by_device(path: &str) -> Result<Way, OpenError> {
    let device = open_file(path)?;
    let iommufd = open_file("/dev/iommu")?;
    let mut bind = uapi::BindIommufd {
        iommufd: iommufd.as_raw_fd(),
        ..uapi::BindIommufd::sized()
    };
    sys::exchange(&device, &mut bind).map_err(|errno| match errno {
        Errno::BUSY => OpenError::Busy(path.to_owned()),
        errno => OpenError::asking("to bind the function to iommufd")(errno),
    })?;
    let mut alloc = uapi::IoasAlloc::sized();
    let asking = "for an address space";
    sys::exchange(&iommufd, &mut alloc).map_err(OpenError::asking(asking))?;
    let ioas = alloc.ioas;
    let mut attach = uapi::AttachIoas {
        ioas,
        ..uapi::AttachIoas::sized()
    };
    let asking = "to attach the function to its address space";
    sys::exchange(&device, &mut attach).map_err(OpenError::asking(asking))?;
    let asking = "for the addresses of the IOMMU";
    let (ranges, granule) = sys::ioas_ranges(&iommufd, ioas).map_err(OpenError::asking(asking))?;
    let info = uapi::IommuInfo {
        ranges,
        granule: granule.checked_next_power_of_two().unwrap_or(4096),
    };
    Ok((device, Iommu::Iommufd { iommufd, ioas }, info))
}

/// The function's group in a container of ours.
fn by_group(function: &Function, options: OpenOptions) -> Result<Way, OpenError> {
    let number = function.group.ok_or(OpenError::NoGroup)?;
    let unguarded = function.unguarded;
    if unguarded && !options.unsafe_noiommu {
        return Err(OpenError::Unguarded);
    }
    let container = open_file("/dev/vfio/vfio")?;
    let asking = "for the version of VFIO";
    let version = sys::call(&container, Call::ApiVersion).map_err(OpenError::asking(asking))?;
    let kind = if unguarded {
        uapi::NO_IOMMU
    } else {
        uapi::TYPE1V2_IOMMU
    };
    let asking = "for the kind of IOMMU";
    let known = sys::call(&container, Call::CheckExtension(kind));
    let known = known.map_err(OpenError::asking(asking))?;
    if version != uapi::API_VERSION || known == 0 {
        return Err(OpenError::Version);
    }
    let prefix = if unguarded { "noiommu-" } else { "" };
    let group = open_file(&format!("/dev/vfio/{prefix}{number}"))?;
    let mut status = uapi::GroupStatus::sized();
    let asking = "for the state of the group";
    sys::exchange(&group, &mut status).map_err(OpenError::asking(asking))?;
    if status.flags & uapi::GROUP_VIABLE == 0 {
        return Err(OpenError::NotViable(number));
    }
    if status.flags & uapi::GROUP_CONTAINER_SET != 0 {
        return Err(OpenError::Busy(format!("/dev/vfio/{number}")));
    }
    let asking = "to put the group into a container";
    sys::set_container(&group, &container).map_err(OpenError::asking(asking))?;
    let asking = "to set the IOMMU up";
    sys::call(&container, Call::SetIommu(kind)).map_err(OpenError::asking(asking))?;
    let asking = "for the function of the group";
    let device = sys::device_of_group(&group, &function.address.to_string());
    let device = device.map_err(OpenError::asking(asking))?;
    if unguarded {
        let info = uapi::IommuInfo {
            ranges: Vec::new(),
            granule: 4096,
        };
        return Ok((device, Iommu::Absent { group, container }, info));
    }
    let head = [0; uapi::IommuInfo::WORDS];
    let answer = sys::ask(container.as_fd(), uapi::IOMMU_INFO, head);
    let answer = answer.map_err(OpenError::asking("for the addresses of the IOMMU"))?;
    let info = uapi::IommuInfo::read(&answer);
    Ok((device, Iommu::Container { group, container }, info))
}
