//! The configuration as the rest of the daemon sees it: validated, typed, with every default
//! filled.
//!
//! Whoever holds a [`Config`] may rely on this:
//! - units, targets and portal groups have distinct names and tags, and every reference resolves:
//!   [`LunMap::unit`] indexes [`Config::logical_units`], [`Target::portal_groups`] holds tags of
//!   [`Config::portal_groups`];
//! - no two portal groups can listen on one address, and no backing file or NVMe namespace is used
//!   twice by its name (other names of the same thing are found out when it is opened);
//! - sizes are whole numbers of logical blocks, names are valid iSCSI names (RFC 7143 §4.2.7);
//! - secrets were read from their files and are not empty.

mod metrics;
mod nvme;
mod ports;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::secret::Secret;
use crate::iscsi::auth::ChapAlgorithm;
use crate::iscsi::names::{IscsiName, NamePattern};

pub use metrics::*;
pub use nvme::*;
pub use ports::*;

/// Everything a configuration file can say.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub daemon: Daemon,
    pub cores: Cores,
    pub memory: Memory,
    pub limits: Limits,
    /// There exactly when one of the ports needs it.
    pub dpdk: Option<Dpdk>,
    /// Those that the daemon drives itself; often none.
    pub ports: Vec<Port>,
    pub nvme: Nvme,
    /// Where metrics can be read; nowhere by default.
    pub metrics: Option<Metrics>,
    /// Authentication of discovery sessions.
    pub discovery_auth: Auth,
    /// At least one, each with at least one portal.
    pub portal_groups: Vec<PortalGroup>,
    pub logical_units: Vec<LogicalUnit>,
    /// At least one.
    pub targets: Vec<Target>,
}

/// `[daemon]`
#[derive(Clone, Debug, PartialEq)]
pub struct Daemon {
    /// Where identities and other state are kept; relative backend paths start here.
    pub state_dir: PathBuf,
    /// How long SIGTERM waits for sessions to finish: 0 s to 10 min.
    pub shutdown_timeout: Duration,
    /// Where the daemon is managed, told to initiators: 1 to 255 printable ASCII characters.
    pub management_url: Option<String>,
}

/// `[cores]`
#[derive(Clone, Debug, PartialEq)]
pub struct Cores {
    pub list: CoreList,
    /// Each data core's thread is bound to its CPU.
    pub pin: bool,
    pub poll: Poll,
    pub placement: Placement,
}

/// Which CPUs run the data path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreList {
    /// This many data cores, 1 to [`CORES_MAX`], on the first CPUs this process may use.
    Count(usize),
    /// These CPUs by number: distinct, 1 to [`CORES_MAX`] of them.
    List(Vec<usize>),
}

impl CoreList {
    /// How many data cores that is.
    pub fn count(&self) -> usize {
        match self {
            Self::Count(count) => *count,
            Self::List(list) => list.len(),
        }
    }
}

/// What an idle data core does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Spins briefly, then sleeps until something wakes it.
    Adaptive,
    /// Spins for ever.
    Busy,
}

/// Which core gets an accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The core with the fewest connections.
    Least,
    /// A hash of the peer's address and port.
    Hash,
}

/// `[memory]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of data-path memory of each core, a whole number of MiB.
    pub pool_bytes_per_core: usize,
    pub pages: Pages,
}

/// What backs the pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    Normal,
    Huge,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of this process that have not logged in yet.
    pub unauthenticated_connections: usize,
    /// From accept to the final Login Response.
    pub login_timeout: Duration,
    /// Sessions of this process.
    pub sessions: usize,
    /// Silence after which the target sends a NOP-In; `None` (0 in the file) never does.
    pub nop_interval: Option<Duration>,
    /// How long the answer to that NOP-In may take.
    pub nop_timeout: Duration,
    /// A peer that owes data or does not read is dropped after this.
    pub no_progress_timeout: Duration,
}

/// `[[portal_group]]`: portals that one session may span (RFC 7143 §4.4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortalGroup {
    /// TargetPortalGroupTag, 0 to 65535.
    pub tag: u16,
    pub portals: Vec<Portal>,
    /// What the ports of this group are for at first.
    pub access: Access,
    /// The group's paths are preferred to those of others in the same state.
    pub preferred: bool,
}

/// Asymmetric access states that a portal group may begin in (SPC-4 §5.15.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Access {
    #[default]
    Optimized,
    NonOptimized,
    Standby,
    Unavailable,
}

/// One listening address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portal {
    pub address: SocketAddr,
    /// Index into [`Config::ports`] of the port that has the address; `None`: a socket of the host
    /// listens.
    pub port: Option<usize>,
    /// The daemon starts without it when the host does not have the address. Only the embedded
    /// configuration sets this, for `[::1]`.
    pub optional: bool,
}

/// `[[logical_unit]]`: one backing object with one identity, wherever it is mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogicalUnit {
    /// Unique in the file; the key of the unit's identity in the state directory.
    pub name: String,
    /// 512 or 4096 bytes.
    pub block_size: u32,
    /// `block_size` or 4096 bytes.
    pub physical_block_size: u32,
    pub read_only: bool,
    /// Completed writes may wait in a volatile cache until a flush.
    pub write_cache: bool,
    /// Initiators may eject the medium and load it again.
    pub removable: bool,
    /// The 32-byte forms of the block commands are served.
    pub long_cdbs: bool,
    /// Unit serial number: 1 to 36 printable ASCII characters. `None`: the one that was generated
    /// for this unit and is kept in the state directory.
    pub serial: Option<String>,
    /// Who is the same registrant of a persistent reservation.
    pub reservations: ReservationMatching,
    /// Initiators may change the asymmetric access states of its ports.
    pub explicit_alua: bool,
    pub thin: Thin,
    pub backend: Backend,
}

/// Whether the ISID is a part of who holds a persistent reservation (SPC-4; RFC 7143 §4.4.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ReservationMatching {
    /// The initiator port: name and ISID.
    #[default]
    Port,
    /// The initiator's name alone.
    Name,
}

/// `[logical_unit.thin]`: when space behind the blocks runs short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Thin {
    /// Where initiators are warned.
    pub soft_threshold: Option<SoftThreshold>,
    /// Bytes that the unit may use.
    pub capacity: Option<u64>,
    pub out_of_space: OutOfSpace,
}

/// Where initiators are warned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftThreshold {
    /// Of the capacity, or of what is used and left, 1 to 100.
    Percent(u8),
    /// Bytes in use.
    Bytes(u64),
}

/// What happens to a write that finds no space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OutOfSpace {
    /// It fails.
    #[default]
    Fail,
    /// The initiator is told to try again.
    Retry,
}

/// What holds the blocks of a logical unit. Sizes are in bytes, whole numbers of logical blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Sparse memory that is gone when the daemon ends.
    Memory { size: u64 },
    /// Reads zeroes, forgets writes.
    Null { size: u64 },
    /// A regular file, created sparse at `size` when it does not exist. `size` is `None` for an
    /// existing file that is served as large as it is.
    File {
        path: PathBuf,
        size: Option<u64>,
        engine: Engine,
        /// O_DIRECT: `None` when the daemon decides.
        direct: Option<bool>,
    },
    /// A block device, as large as it is.
    Block { path: PathBuf, engine: Engine },
    /// A namespace of a controller that our own driver has, as large as it is.
    Nvme {
        /// In full: domain, bus, device, function.
        address: String,
        namespace: NvmeNamespace,
    },
    /// A namespace of the kernel's driver, by its character device; as large as it is.
    NvmeKernel { path: PathBuf },
}

/// How a file or block device is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// io_uring where it works well here, else `Sync`.
    Auto,
    IoUring,
    Sync,
}

/// `[[target]]`: one iSCSI target node.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub name: IscsiName,
    /// TargetAlias: at most 255 bytes.
    pub alias: Option<String>,
    /// Tags of the portal groups that lead to it; at least one.
    pub portal_groups: Vec<u16>,
    /// Who may see it and log in; empty means any.
    pub initiators: Vec<NamePattern>,
    /// From where; empty means anywhere.
    pub addresses: Vec<IpNet>,
    pub header_digest: DigestPolicy,
    pub data_digest: DigestPolicy,
    /// Connections that one session may have: 1 to 8 (RFC 7143 §13.2, MaxConnections).
    pub max_connections: u16,
    pub auth: Auth,
    /// With distinct LUNs; at least one, unless nobody can log in here.
    pub luns: Vec<LunMap>,
    pub state: TargetState,
    /// Where initiators are sent instead (RFC 7143 §11.13.5).
    pub redirect: Option<Redirect>,
}

/// Whether a target takes logins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetState {
    Serving,
    /// Initiators that know it are told that it is gone for good.
    Removed,
    /// Nobody may log in for now.
    Unavailable,
}

/// `redirect` of a `[[target]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub to: SocketAddr,
    pub permanent: bool,
    /// Tags of the target's portal groups at which it holds; at least one.
    pub portal_groups: Vec<u16>,
}

/// Which values of HeaderDigest or DataDigest the target agrees to (RFC 7143 §13.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestPolicy {
    /// CRC32C or None, as the initiator prefers.
    Optional,
    /// CRC32C only.
    Required,
    /// None only.
    Off,
}

/// `[target.auth]` and `[discovery.auth]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// AuthMethod None.
    None,
    Chap(Chap),
}

/// Credentials of RFC 7143 §12.1.3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chap {
    /// CHAP_N that the initiator sends.
    pub user: String,
    pub secret: Secret,
    /// With it the target proves itself too when the initiator asks.
    pub mutual: Option<MutualChap>,
    /// What the target agrees to; not empty, distinct.
    pub algorithms: Vec<ChapAlgorithm>,
}

/// What the target answers with; its secret always differs from the initiator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MutualChap {
    pub user: String,
    pub secret: Secret,
}

/// `[[target.lun]]`: a logical unit seen at a LUN of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LunMap {
    /// 0 to [`LUN_MAX`].
    pub lun: u16,
    /// Index into [`Config::logical_units`].
    pub unit: usize,
    /// Read-only here, whatever the unit is elsewhere.
    pub read_only: bool,
    /// Only these initiators see this LUN; empty means all that may log in.
    pub initiators: Vec<NamePattern>,
    /// Commands that one I_T nexus may have here at once, 1 to [`TASK_SET_MAX`]; the next one gets
    /// TASK SET FULL. `None`: as many as its session's window admits.
    pub queue_depth: Option<u16>,
}

/// The most commands of one nexus at one LUN: what the window of a session admits.
pub const TASK_SET_MAX: u16 = 128;
/// The largest LUN.
pub const LUN_MAX: u16 = 255;
/// Most connections of one session that can be configured.
pub const CONNECTIONS_MAX: u16 = 8;
/// Connections of one session where the configuration does not say.
pub const MAX_CONNECTIONS_DEFAULT: u16 = 4;
/// The most data cores of one process.
pub const CORES_MAX: usize = 256;
