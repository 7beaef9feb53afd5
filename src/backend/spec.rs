//! What to open, and why it could not be opened.
//!
//! A [`Spec`] is the device half of a configured logical unit. An [`OpenError`] names the object,
//! what the system said and what an operator can do about it; it is the whole message.

use std::path::PathBuf;

use rustix::io::Errno;

use super::nvme::facts::{Selector, Settings};
use super::request::{Designators, DeviceInfo};
use crate::mem::RegionError;

/// Which engine does a file's I/O.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Engine {
    /// io_uring where the kernel grants it and the file system can use it, else [`Engine::Sync`].
    #[default]
    Auto,
    IoUring,
    /// Plain system calls: inline on tmpfs, on helper threads elsewhere.
    Sync,
}

/// What holds the blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Memory of this process; gone when it ends.
    Memory { bytes: u64 },
    /// Nothing: reads give zeroes, writes vanish.
    Null { bytes: u64 },
    /// A regular file. With `bytes` a missing file is created sparse and a smaller one grows; a
    /// larger one keeps its size. `direct`: O_DIRECT required, refused, or (absent) where possible.
    File {
        path: PathBuf,
        bytes: Option<u64>,
        engine: Engine,
        direct: Option<bool>,
    },
    /// A block device, of the size that it has.
    Block { path: PathBuf, engine: Engine },
    /// A namespace of the NVMe controller at a PCI address, which this process drives itself.
    Nvme {
        /// As `lspci -D` writes it: "0000:5e:00.0".
        address: String,
        namespace: Selector,
        settings: Settings,
        /// Also where no IOMMU guards the machine's memory.
        unsafe_noiommu: bool,
    },
    /// A namespace that stays with the kernel's NVMe driver, by its character device
    /// ("/dev/ng0n1").
    NvmeKernel { path: PathBuf },
}

/// A device as configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    pub kind: Kind,
    /// Bytes in a logical block: 512 or 4096.
    pub block_size: u32,
    /// Bytes in a physical block: a power of two, from `block_size` to 1 MiB.
    pub physical_block_size: u32,
    pub read_only: bool,
    /// Without it every write is on the medium before it completes.
    pub write_cache: bool,
}

/// Largest physical block that may be configured, in bytes.
pub const PHYSICAL_BLOCK_BYTES_MAX: u32 = 1 << 20;

impl Spec {
    /// A writable device with 512-byte blocks on 4096-byte physical ones and a write cache.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            block_size: 512,
            physical_block_size: 4096,
            read_only: false,
            write_cache: true,
        }
    }

    /// What the spec alone says of a device of `bytes` bytes; the device refines it.
    pub(super) fn info(&self, bytes: u64) -> Result<DeviceInfo, OpenError> {
        let (logical, physical) = (self.block_size, self.physical_block_size);
        if logical != 512 && logical != 4096 {
            return Err(OpenError::BlockSize(logical));
        }
        if !physical.is_power_of_two() || physical < logical || physical > PHYSICAL_BLOCK_BYTES_MAX
        {
            return Err(OpenError::PhysicalBlockSize { physical, logical });
        }
        let blocks = bytes / u64::from(logical);
        if blocks == 0 {
            return Err(OpenError::Empty {
                bytes,
                block_size: logical,
            });
        }
        let exponent = u8::try_from((physical / logical).trailing_zeros()).expect("at most 11");
        Ok(DeviceInfo {
            block_size: logical,
            physical_block_exponent: exponent,
            blocks,
            read_only: self.read_only,
            write_cache: self.write_cache,
            unmap: false,
            unmap_reads_zeroes: false,
            unmap_granularity: 1,
            atomic_write_blocks: 0,
            cryptographic_erase: false,
            non_rotating: true,
            thin: false,
            designators: Designators::default(),
        })
    }
}

/// Why a device could not be opened or attached.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    #[error("block_size = {0}: logical blocks are 512 or 4096 bytes")]
    BlockSize(u32),
    #[error(
        "physical_block_size = {physical}: it is a power of two, at least block_size ({logical}) and at most {PHYSICAL_BLOCK_BYTES_MAX}"
    )]
    PhysicalBlockSize { physical: u32, logical: u32 },
    #[error(
        "a size of {bytes} bytes holds no block of {block_size} bytes; configure a larger size"
    )]
    Empty { bytes: u64, block_size: u32 },
    #[error("the memory disk cannot be mapped: {0}")]
    Memory(#[from] RegionError),
    #[error("{}: cannot {action}: {errno}; {remedy}", path.display())]
    Io {
        path: PathBuf,
        action: &'static str,
        errno: Errno,
        remedy: &'static str,
    },
    #[error("{}: does not exist and no size is configured; set `size` so that it can be created", path.display())]
    Missing { path: PathBuf },
    #[error("{}: {found}, not {wanted}; {remedy}", path.display())]
    WrongKind {
        path: PathBuf,
        found: &'static str,
        wanted: &'static str,
        remedy: &'static str,
    },
    #[error("{}: another process holds it; end that process (see `fuser -v` or `lsof` on the path)", path.display())]
    Locked { path: PathBuf },
    #[error("{}: in use, mounted at {mount_point}; unmount it first", path.display())]
    Mounted { path: PathBuf, mount_point: String },
    #[error("{}: in use by the kernel (mounted, swap, RAID, LVM or a partition of it); release it first", path.display())]
    Busy { path: PathBuf },
    #[error("{} is the same object as {}, which is open already; each backing object belongs to one logical unit", path.display(), other.display())]
    SameObject { path: PathBuf, other: PathBuf },
    #[error("{}: O_DIRECT is impossible here: {why}; leave `direct` out to use the page cache", path.display())]
    Direct { path: PathBuf, why: String },
    #[error("{}: its sectors are {sector} bytes, larger than block_size = {block_size}; set block_size = {sector}", path.display())]
    Sector {
        path: PathBuf,
        sector: u32,
        block_size: u32,
    },
    #[error(
        "engine = \"io_uring\" is impossible: {0}; set engine = \"auto\" or \"sync\", or allow io_uring (sysctl kernel.io_uring_disabled, container seccomp profile)"
    )]
    IoUring(String),
    #[error("NVMe controller {address}: {why}")]
    Nvme { address: String, why: String },
    #[error("unit {0} is attached already or beyond the table of units")]
    Slot(u16),
}
