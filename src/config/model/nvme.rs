//! What a configuration says of NVMe controllers that the daemon drives itself.

use std::time::Duration;

/// The most entries of an I/O queue that can be configured.
pub const NVME_QUEUE_DEPTH_MAX: u16 = 1024;

/// `[nvme]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nvme {
    /// Controllers are driven where no IOMMU guards the machine's memory from them.
    pub unsafe_noiommu: bool,
    /// Entries of each I/O queue, 2 to [`NVME_QUEUE_DEPTH_MAX`]; the controller may have fewer.
    pub queue_depth: u16,
    /// How long a command may take before it is aborted, 1 s to 30 s; as long again before the
    /// controller is reset.
    pub io_timeout: Duration,
    /// The same for commands that set the controller up, 1 s to 60 s.
    pub admin_timeout: Duration,
    /// How long requests wait for a controller that is being reset, 1 s to 120 s.
    pub hold: Duration,
}

impl Default for Nvme {
    fn default() -> Self {
        Self {
            unsafe_noiommu: false,
            queue_depth: 256,
            io_timeout: Duration::from_secs(8),
            admin_timeout: Duration::from_secs(10),
            hold: Duration::from_secs(15),
        }
    }
}

/// Which namespace of a controller. Identifiers are in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NvmeNamespace {
    /// The only active one that it has.
    Only,
    /// Its number: 1 to 0xfffffffe.
    Id(u32),
    /// Not all zeroes, as the others.
    Nguid([u8; 16]),
    Eui64([u8; 8]),
    Uuid([u8; 16]),
}
