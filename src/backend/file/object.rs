//! A file or block device, opened once and owned exclusively.
//!
//! Opening runs on the control side and may block. It takes an OFD lock (files) or O_EXCL (block
//! devices), refuses an object that this process has open under any name, gives a file its size,
//! and learns what the object can do. Invariants: the capacity changes only when the control side
//! looks again, and only grows; a file is never shrunk.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Relaxed, SeqCst},
};

use rustix::event::Timespec;
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, SeekFrom, Stat, StatxFlags, fallocate,
    fcntl_setfl, fstat, fstatfs, fstatvfs, fsync, ftruncate, ioctl_blksszget, open, seek, statx,
};
use rustix::io::{Errno, pread};

use super::gate::Gate;
use super::job::Traits;
use super::registry::{ObjectId, Registration};
use super::turn::Turn;
use super::{registry, sys};
use crate::backend::request::{DeviceInfo, Usage};
use crate::backend::spec::{Engine, OpenError, Spec};

/// Magic numbers of file systems in memory, where calls do not block and io_uring would punt:
/// tmpfs, ramfs, hugetlbfs.
const MEMORY_FILE_SYSTEMS: [u64; 3] = [0x0102_1994, 0x8584_58f6, 0x9584_58f6];
/// Local ones, whose `fstat` answers from memory: ext2/3/4, XFS, btrfs, F2FS, ZFS, tmpfs, ramfs and
/// overlayfs (a file that is open for writing lies on its upper layer, which no NFS can be). All
/// others, of the network or not known, may ask a server and would hold up a core.
const LOCAL_FILE_SYSTEMS: [u64; 8] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0x0102_1994,
    0x8584_58f6,
    0x794c_7630,
];

/// What `st_blocks` counts, whatever the file system's block is.
const STAT_BLOCK_BYTES: u64 = 512;

#[derive(Debug)]
pub(crate) struct FileObject {
    fd: OwnedFd,
    pub(super) path: PathBuf,
    pub(super) traits: Traits,
    pub(super) engine: Engine,
    /// Calls never block: the object is in memory.
    pub(super) in_memory: bool,
    /// Its size is checked before changes: a regular file on a file system whose `fstat` asks no
    /// server.
    pub(super) may_shrink: bool,
    /// What was done while opening that an operator should know.
    pub(super) notes: Vec<String>,
    write_cache_lost: AtomicBool,
    /// What would take more space is refused.
    limit_reached: AtomicBool,
    /// Bytes that a file system zeroes without the page cache; smaller edges go through it. 0 where
    /// none do.
    cached_edge: u64,
    /// Changes may have gone to the page cache: always without O_DIRECT, with it once such an edge
    /// was made.
    cached: AtomicBool,
    /// Whose turn it is to make a synchronous call, among all cores.
    pub(super) turn: Turn,
    pub(crate) gate: Gate,
    _registration: Registration,
}

impl FileObject {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The size of the object now, in bytes.
    pub(super) fn size_now(&self) -> Result<u64, Errno> {
        fstat(&self.fd).map(|stat| size(&stat))
    }

    /// The size of the object now, in bytes, of a device too. May block.
    pub(crate) fn bytes_now(&self) -> Result<u64, Errno> {
        if self.traits.is_block_device {
            // The offset of the descriptor is nobody's: all transfers say where.
            seek(&self.fd, SeekFrom::End(0))
        } else {
            self.size_now()
        }
    }

    /// Whether [`usage`](Self::usage) can say anything: a device does not tell what backs it.
    pub(crate) fn knows_usage(&self) -> bool {
        !self.traits.is_block_device
    }

    /// Space that the file takes, and that its file system has left for it. May block.
    pub(crate) fn usage(&self) -> Result<Option<Usage>, Errno> {
        if !self.knows_usage() {
            return Ok(None);
        }
        let stat = fstat(&self.fd)?;
        let system = fstatvfs(&self.fd)?;
        Ok(Some(Usage {
            used: u64::try_from(stat.st_blocks)
                .unwrap_or(0)
                .saturating_mul(STAT_BLOCK_BYTES),
            available: system.f_bavail.saturating_mul(system.f_frsize),
        }))
    }

    pub(crate) fn set_limit_reached(&self, reached: bool) {
        self.limit_reached.store(reached, Relaxed);
    }

    pub(super) fn limit_reached(&self) -> bool {
        self.limit_reached.load(Relaxed)
    }

    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    pub(crate) fn write_cache_lost(&self) -> bool {
        self.write_cache_lost.load(SeqCst)
    }

    pub(crate) fn set_write_cache_lost(&self, lost: bool) {
        self.write_cache_lost.store(lost, SeqCst);
    }

    /// Whether changes may sit in the page cache, so that synchronous calls learn of lost ones.
    pub(crate) fn is_cached(&self) -> bool {
        self.cached.load(SeqCst)
    }

    /// An unmap or a zeroing of these bytes is about to be made: notes it if an edge of it is less
    /// than a block of the file system, which is zeroed in the page cache also with O_DIRECT.
    pub(super) fn will_zero(&self, offset: u64, len: u64) {
        let edge = |at: u64| !at.is_multiple_of(self.cached_edge.max(1));
        if (edge(offset) || edge(offset.saturating_add(len))) && !self.is_cached() {
            self.cached.store(true, SeqCst);
        }
    }

    /// Opens (or creates) a regular file.
    pub(crate) fn open_file(
        spec: &Spec,
        path: &Path,
        bytes: Option<u64>,
        engine: Engine,
        direct: Option<bool>,
    ) -> Result<(Self, DeviceInfo), OpenError> {
        let mut notes = Vec::new();
        let fd = open_or_create(spec, path, bytes, &mut notes)?;
        let stat = fstat(&fd).map_err(|errno| io(path, "stat the file", errno))?;
        refuse_special(path, &stat)?;
        let registration = registry::register(ObjectId::file(&stat), path)?;
        lock_patiently(&fd, spec.read_only).map_err(|errno| match errno {
            Errno::AGAIN | Errno::ACCESS => OpenError::Locked { path: path.into() },
            _ => io(path, "lock the file", errno),
        })?;
        let bytes = settle_size(spec, path, &fd, size(&stat), bytes, &mut notes)?;
        let mut info = spec.info(bytes)?;
        if !bytes.is_multiple_of(u64::from(spec.block_size)) {
            notes.push(format!(
                "the last {} bytes are no whole block and stay unused",
                bytes % u64::from(spec.block_size)
            ));
        }
        let magic = magic(&fd);
        let in_memory = MEMORY_FILE_SYSTEMS.contains(&magic);
        let wanted = direct.unwrap_or(!in_memory);
        let required = direct == Some(true);
        let sector = registry::logical_block_size(stat.st_dev);
        let align = settle_direct(spec, path, &fd, sector, wanted, required, &mut notes)?;
        info.unmap = !spec.read_only && can_punch(&fd, bytes);
        info.thin = true;
        info.unmap_reads_zeroes = info.unmap;
        let granule = u64::try_from(stat.st_blksize)
            .unwrap_or(0)
            .max(u64::from(spec.block_size));
        info.unmap_granularity = u32::try_from(granule / u64::from(spec.block_size)).unwrap_or(1);
        info.non_rotating = !registry::is_rotating(stat.st_dev);
        let object = Self {
            fd,
            path: path.into(),
            traits: traits(spec, align, false),
            engine,
            in_memory,
            may_shrink: LOCAL_FILE_SYSTEMS.contains(&magic),
            notes,
            write_cache_lost: AtomicBool::new(false),
            limit_reached: AtomicBool::new(false),
            cached_edge: granule,
            cached: AtomicBool::new(align == 1),
            turn: Turn::new(),
            gate: Gate::default(),
            _registration: registration,
        };
        Ok((object, info))
    }

    /// Opens a block device of any size, for us alone.
    pub(crate) fn open_block(
        spec: &Spec,
        path: &Path,
        engine: Engine,
    ) -> Result<(Self, DeviceInfo), OpenError> {
        // Look before the open: O_EXCL means something else for files.
        let stat = rustix::fs::stat(path).map_err(|errno| io(path, "find the device", errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
            return Err(wrong_kind(
                path,
                "not a device",
                "a block device",
                "use backend type \"file\"",
            ));
        }
        let registration = registry::register(ObjectId::device(&stat), path)?;
        let access = if spec.read_only {
            OFlags::RDONLY
        } else {
            OFlags::RDWR
        };
        let flags = access | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = claim(path, flags, stat.st_rdev)?;
        let sector =
            ioctl_blksszget(&fd).map_err(|errno| io(path, "ask for the sector size", errno))?;
        if sector > spec.block_size {
            return Err(OpenError::Sector {
                path: path.into(),
                sector,
                block_size: spec.block_size,
            });
        }
        let bytes =
            seek(&fd, SeekFrom::End(0)).map_err(|errno| io(path, "ask for the size", errno))?;
        let mut info = spec.info(bytes)?;
        let mut notes = Vec::new();
        let align = settle_direct(
            spec,
            path,
            &fd,
            Some(sector.into()),
            true,
            false,
            &mut notes,
        )?;
        let granule = registry::discard_granularity(stat.st_rdev);
        info.unmap = !spec.read_only && granule.is_some();
        info.unmap_granularity = granule
            .and_then(|bytes| u32::try_from(bytes / u64::from(spec.block_size)).ok())
            .unwrap_or(1)
            .max(1);
        info.non_rotating = !registry::is_rotating(stat.st_rdev);
        let object = Self {
            fd,
            path: path.into(),
            traits: traits(spec, align, true),
            engine,
            in_memory: false,
            may_shrink: false,
            notes,
            write_cache_lost: AtomicBool::new(false),
            limit_reached: AtomicBool::new(false),
            cached_edge: 0,
            cached: AtomicBool::new(align == 1),
            turn: Turn::new(),
            gate: Gate::default(),
            _registration: registration,
        };
        Ok((object, info))
    }
}

fn refuse_special(path: &Path, stat: &Stat) -> Result<(), OpenError> {
    let (found, remedy) = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::BlockDevice => ("a block device", "use backend type \"block\""),
        _ => ("a special file", "name a regular file"),
    };
    Err(wrong_kind(path, found, "a file", remedy))
}

/// Opens a device with O_EXCL, patiently unless it is mounted.
fn claim(path: &Path, flags: OFlags, number: u64) -> Result<OwnedFd, OpenError> {
    let attempt = || open(path, flags, Mode::empty());
    let mut claimed = attempt();
    if matches!(claimed, Err(Errno::BUSY))
        && matches!(registry::busy(path, number), OpenError::Busy { .. })
    {
        claimed = patiently(&[Errno::BUSY], attempt);
    }
    claimed.map_err(|errno| match errno {
        Errno::BUSY => registry::busy(path, number),
        _ => io(path, "open the device", errno),
    })
}

fn traits(spec: &Spec, align: u64, is_block_device: bool) -> Traits {
    Traits {
        block_size: spec.block_size,
        align,
        cached: align == 1,
        write_through: !spec.write_cache,
        is_block_device,
        limit_reached: false,
    }
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn open_or_create(
    spec: &Spec,
    path: &Path,
    bytes: Option<u64>,
    notes: &mut Vec<String>,
) -> Result<OwnedFd, OpenError> {
    let access = if spec.read_only {
        OFlags::RDONLY
    } else {
        OFlags::RDWR
    };
    // O_NONBLOCK so that a FIFO in the file's place cannot hold us; it is taken off again below.
    let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match open(path, flags, Mode::empty()) {
        Ok(fd) => return Ok(fd),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(io(path, "open the file", errno)),
    }
    if bytes.is_none() || spec.read_only {
        return Err(OpenError::Missing { path: path.into() });
    }
    let create = flags | OFlags::CREATE | OFlags::EXCL;
    let fd = open(path, create, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| io(path, "create the file", errno))?;
    notes.push("created".into());
    Ok(fd)
}

/// Grows the file to the configured size if it is smaller, and makes name and size durable.
fn settle_size(
    spec: &Spec,
    path: &Path,
    fd: &OwnedFd,
    now: u64,
    wanted: Option<u64>,
    notes: &mut Vec<String>,
) -> Result<u64, OpenError> {
    let Some(wanted) = wanted else { return Ok(now) };
    if now > wanted {
        notes.push(format!("the file keeps its {now} bytes, although {wanted} are configured: files are never shrunk"));
    }
    if now < wanted && spec.read_only {
        notes.push(format!(
            "the file keeps its {now} bytes, although {wanted} are configured: it is read-only"
        ));
    }
    if now >= wanted || spec.read_only {
        return Ok(now);
    }
    // Refuse an impossible geometry before the file is changed.
    spec.info(wanted)?;
    ftruncate(fd, wanted).map_err(|errno| io(path, "give the file its size", errno))?;
    fsync(fd).map_err(|errno| io(path, "sync the new size", errno))?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    // The entry of a new file in its folder is the folder's data. Not every file system can sync
    // one.
    if let Ok(folder) = fs::File::open(parent.unwrap_or_else(|| Path::new("."))) {
        let _ = folder.sync_all();
    }
    if now > 0 {
        notes.push(format!("grown from {now} to {wanted} bytes"));
    }
    Ok(wanted)
}

#[repr(align(4096))]
struct Page([u8; 4096]);

/// Sets O_DIRECT where it works with blocks of the unit's size. `sector`: logical block size of the
/// disk below in bytes, if known. Returns the alignment of transfers:
/// 1 through the page cache.
fn settle_direct(
    spec: &Spec,
    path: &Path,
    fd: &OwnedFd,
    sector: Option<u64>,
    wanted: bool,
    required: bool,
    notes: &mut Vec<String>,
) -> Result<u64, OpenError> {
    let set = |flags| {
        fcntl_setfl(fd, flags).map_err(|errno| io(path, "set the flags of the file", errno))
    };
    let refused = match wanted.then(|| probe_direct(spec.block_size, sector, fd)) {
        Some(Ok(())) => return Ok(u64::from(spec.block_size)),
        Some(Err(why)) => why,
        None => {
            set(OFlags::empty())?;
            return Ok(1);
        }
    };
    if required {
        return Err(OpenError::Direct {
            path: path.into(),
            why: refused,
        });
    }
    set(OFlags::empty())?;
    notes.push(format!(
        "through the page cache, without O_DIRECT: {refused}"
    ));
    Ok(1)
}

/// Tries O_DIRECT with the unit's blocks; on success it stays set.
fn probe_direct(block_size: u32, sector: Option<u64>, fd: &OwnedFd) -> Result<(), String> {
    // What is read below may be a hole, which no disk was asked for.
    sector_fits(block_size, sector)?;
    if let Ok(answer) = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        && StatxFlags::from_bits_retain(answer.stx_mask).contains(StatxFlags::DIOALIGN)
    {
        let (memory, offset) = (answer.stx_dio_mem_align, answer.stx_dio_offset_align);
        if offset == 0 {
            return Err("the file system does not support it".into());
        }
        if memory > block_size || offset > block_size {
            return Err(format!(
                "it needs an alignment of {} bytes, more than block_size = {block_size}",
                memory.max(offset)
            ));
        }
    }
    fcntl_setfl(fd, OFlags::DIRECT)
        .map_err(|errno| format!("the file system refuses it: {errno}"))?;
    let mut page = Page([0; 4096]);
    let block = page
        .0
        .get_mut(..block_size as usize)
        .ok_or("blocks are at most a page")?;
    pread(fd, block, 0).map_err(|errno| format!("reading one block failed: {errno}"))?;
    Ok(())
}

fn sector_fits(block_size: u32, sector: Option<u64>) -> Result<(), String> {
    match sector {
        Some(sector) if sector > u64::from(block_size) => Err(format!(
            "the disk below has sectors of {sector} bytes, more than block_size = {block_size}"
        )),
        _ => Ok(()),
    }
}

/// Whether the file system can punch holes, tried where it changes nothing: beyond the end.
fn can_punch(fd: &OwnedFd, bytes: u64) -> bool {
    let beyond = bytes.next_multiple_of(4096);
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(fd, flags, beyond, 4096).is_ok()
}

fn magic(fd: &OwnedFd) -> u64 {
    // The type is a signed or unsigned word by architecture; the numbers above fit either.
    fstatfs(fd).map_or(0, |stat| {
        u64::try_from(stat.f_type).unwrap_or(0) & 0xffff_ffff
    })
}

pub(super) fn io(path: &Path, action: &'static str, errno: Errno) -> OpenError {
    let remedy = match errno {
        Errno::NOENT | Errno::NOTDIR => "create the folder, or mend the path",
        Errno::ACCESS | Errno::PERM => {
            "run as a user who may, or change owner or mode of the object and its folders"
        }
        Errno::ROFS => "mount the file system writable, or set read_only = true",
        Errno::NOSPC | Errno::DQUOT => "make room on the file system or raise the quota",
        Errno::FBIG => "the file system or `ulimit -f` forbids files of this size; configure less",
        Errno::ISDIR => "name a file, not a folder",
        Errno::NOLCK | Errno::OPNOTSUPP => "use a file system that supports this",
        Errno::MFILE | Errno::NFILE => "raise the limit of open files (`ulimit -n`)",
        Errno::NXIO | Errno::NODEV | Errno::NOMEDIUM => "attach the device",
        _ => "look into the kernel log (dmesg) for the cause",
    };
    OpenError::Io {
        path: path.into(),
        action,
        errno,
        remedy,
    }
}

fn wrong_kind(
    path: &Path,
    found: &'static str,
    wanted: &'static str,
    remedy: &'static str,
) -> OpenError {
    OpenError::WrongKind {
        path: path.into(),
        found,
        wanted,
        remedy,
    }
}

/// How often, and how far apart, an object that somebody holds is asked for again.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// Makes `attempt` until it answers something else than `held`. The kernel takes the rings of a
/// killed process down some time after the process is gone, and its locks and claims go with the
/// last of them, with nothing to wait for: a daemon that restarts after a crash asks again for two
/// seconds.
fn patiently<T>(held: &[Errno], mut attempt: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    for _ in 1..LOCK_TRIES {
        match attempt() {
            Err(errno) if held.contains(&errno) => {
                // Nobody wakes it: waiting for the time to pass is the point.
                let _ = rustix::event::poll(&mut [], Some(&LOCK_PAUSE));
            }
            answer => return answer,
        }
    }
    attempt()
}

fn lock_patiently(fd: &OwnedFd, read_only: bool) -> Result<(), Errno> {
    patiently(&[Errno::AGAIN, Errno::ACCESS], || {
        sys::lock(fd.as_fd(), read_only)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dying_process_holds_is_asked_for_again() {
        let mut answers = vec![Ok(7), Err(Errno::BUSY), Err(Errno::BUSY)];
        let had = patiently(&[Errno::BUSY], || answers.pop().expect("no more tries"));
        assert_eq!(had, Ok(7));
        let mut tries = 0;
        let refused: Result<(), _> = patiently(&[Errno::BUSY], || {
            tries += 1;
            Err(Errno::NXIO)
        });
        assert_eq!((refused, tries), (Err(Errno::NXIO), 1));
    }

    #[test]
    fn disks_with_large_sectors_refuse_small_direct_blocks() {
        assert_eq!(sector_fits(512, None), Ok(()));
        assert_eq!(sector_fits(512, Some(512)), Ok(()));
        assert_eq!(sector_fits(4096, Some(512)), Ok(()));
        let why = sector_fits(512, Some(4096)).unwrap_err();
        assert!(why.contains("4096") && why.contains("512"), "{why}");
    }
}
