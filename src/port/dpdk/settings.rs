//! What DPDK and its devices are told, and why they could not be had. The same with and without
//! DPDK built in, so that a configuration can be read and refused by any build.

/// How DPDK's environment is started: once per process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EalSettings {
    /// CPUs for DPDK's own threads, which sleep nearly always; empty: those of the process.
    pub cpus: Vec<usize>,
    /// Memory for frames, in MiB, of all devices together.
    pub memory_mib: u32,
    /// Of huge pages. `false`: ordinary pages, which need no privilege and serve virtual devices
    /// only.
    pub huge: bool,
    /// One file for all huge pages: virtio-user needs it.
    pub single_file_segments: bool,
    /// Tells processes on one machine apart; empty: DPDK's own choice.
    pub file_prefix: String,
    /// Virtual devices with their arguments, `net_af_packet0,iface=eth0`.
    pub vdevs: Vec<String>,
    /// PCI addresses, `0000:03:00.0`; no others are touched.
    pub pci: Vec<String>,
    /// Further arguments of the EAL, as they stand.
    pub extra: Vec<String>,
}

impl Default for EalSettings {
    fn default() -> Self {
        Self {
            cpus: Vec::new(),
            memory_mib: 512,
            huge: true,
            single_file_segments: false,
            file_prefix: String::new(),
            vdevs: Vec::new(),
            pci: Vec::new(),
            extra: Vec::new(),
        }
    }
}

/// How a device is set up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceSettings {
    /// Queues, each for one core.
    pub queues: u16,
    /// The longest IP packet, in bytes.
    pub mtu: u16,
    /// Descriptors of each receive queue; brought to what the device allows.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue; brought to what the device allows.
    pub tx_descriptors: u16,
    /// Received frames that each queue's core may hold on to, beside those in descriptors.
    pub frames: u32,
    /// Bytes of one receive buffer; `None`: a whole frame. Longer frames come in pieces, where the
    /// device can do that.
    pub room: Option<u16>,
    /// Receive frames for other addresses too.
    pub promiscuous: bool,
    /// The NUMA node of its memory; `None`: the device's own.
    pub numa: Option<u32>,
}

impl Default for DeviceSettings {
    fn default() -> Self {
        Self {
            queues: 1,
            mtu: 1500,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            frames: 2048,
            room: None,
            promiscuous: false,
            numa: None,
        }
    }
}

/// Why DPDK's environment did not start. The text names the remedy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EalError {
    #[error("{NOT_BUILT_IN}")]
    NotBuiltIn,
    #[error("DPDK can be started once per process, and has been")]
    Started,
    #[error("{0:?} cannot be an argument of DPDK: it is empty or has a NUL in it")]
    Argument(String),
    #[error("the thread of DPDK's own cannot be made: {0}")]
    Thread(String),
    #[error(
        "DPDK is to have {needed_mib} MiB of huge pages, and {free} are free; \
         reserve them with `sysctl -w vm.nr_hugepages={nr_hugepages}` (or more, kept in \
         /etc/sysctl.d, or hugepages= on the kernel's command line), ask for less memory, or do \
         without huge pages (virtual devices only)"
    )]
    HugePages {
        needed_mib: u32,
        /// "3 pages of 2048 KiB", or "none".
        free: String,
        /// What to set `vm.nr_hugepages` to.
        nr_hugepages: u64,
    },
    #[error("PCI device {address}: {why}")]
    Pci { address: String, why: String },
    #[error("DPDK does not start: {why}{log}")]
    Init {
        why: String,
        /// What it said itself, if it did.
        log: String,
    },
    #[error("virtual device {device:?}: {why}{log}")]
    Vdev {
        device: String,
        why: String,
        log: String,
    },
}

/// Why a device cannot be used. The text names the remedy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("{NOT_BUILT_IN}")]
    NotBuiltIn,
    #[error(transparent)]
    Attach(#[from] EalError),
    #[error("device {0} is in use: it can be opened once")]
    Opened(String),
    #[error("there is no DPDK device {name:?}: {why}")]
    Unknown { name: String, why: String },
    #[error("device {name}: {asked} queues are asked for, it has {most}{hint}")]
    Queues {
        name: String,
        asked: u16,
        most: u16,
        hint: String,
    },
    #[error("device {name}: an MTU of {mtu} is impossible: {why}")]
    Mtu { name: String, mtu: u16, why: String },
    #[error(
        "device {name}: its {frames} buffers of {bytes} bytes ({mib} MiB) cannot be had: {why}; \
         raise DPDK's memory, or take fewer queues, descriptors or frames",
        mib = (u64::from(*frames) * u64::from(*bytes)) >> 20
    )]
    Memory {
        name: String,
        frames: u32,
        bytes: u32,
        why: String,
    },
    #[error("device {name}: it cannot {step}: {why}{log}")]
    Step {
        name: String,
        step: &'static str,
        why: String,
        log: String,
    },
}

/// What to do without the feature.
pub(super) const NOT_BUILT_IN: &str = "this program is built without DPDK; build it with \
     `cargo build --release --features dpdk` (Debian and Ubuntu: pkg-config libdpdk-dev \
     libclang-dev; see docs/OPERATING.md), or use a TAP device or host sockets";
