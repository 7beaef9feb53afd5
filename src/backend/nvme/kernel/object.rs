//! [`KernelObject`]: a namespace by its character device, opened once on the control side.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, major, minor, open, stat};
use rustix::io::Errno;

use super::super::super::request::{DeviceInfo, IoError};
use super::super::super::spec::{OpenError, Spec};
use super::super::facts::{
    CACHE_LOST, DeallocateLimits, Geometry, Limits, QUEUE_ENTRIES_MAX, TRANSFER_BYTES_MAX,
};
use super::super::spec::command::{Identify, RANGES_MAX, identify};
use super::super::spec::entry::NamespaceId;
use super::super::spec::identify::{ControllerData, Identifiers, NamespaceData, PAGE_BYTES, Page};
use super::super::spec::registers::Version;
use super::super::unit::Readiness;
use super::command::{ADMIN, COMMAND_BYTES, NAMESPACE_ID, bytes};

/// Bytes of one Write Zeroes at most.
const ZEROES_BYTES_MAX: u64 = 32 << 20;
const PAGE: u64 = PAGE_BYTES as u64;
/// The exponent of the smallest memory page that a controller may have, where it is not known.
const PAGE_SHIFT: u8 = 12;

/// See the module. The claim goes when it is dropped.
#[derive(Debug)]
pub(crate) struct KernelObject {
    file: OwnedFd,
    pub(super) geometry: Geometry,
    pub(super) limits: Limits,
    pub(super) write_through: bool,
    /// As of the last look.
    blocks: AtomicU64,
    cache: Cache,
    /// It was formatted with other blocks, or it is gone. Neither is ever over.
    is_another: AtomicBool,
    is_gone: AtomicBool,
    /// The block device's name, and its number, as in `259:0`.
    disk: String,
    number: String,
    _claim: OwnedFd,
}

/// Whether acknowledged changes may be lost, and whether an operator was told.
#[derive(Debug, Default)]
struct Cache {
    lost: AtomicBool,
    told: AtomicBool,
}

impl KernelObject {
    /// Opens the namespace at `path` and claims its block device.
    ///
    /// # Errors
    /// Why it cannot be served, and the remedy.
    pub(crate) fn open(spec: &Spec, path: &Path) -> Result<(Self, DeviceInfo), OpenError> {
        let refuse = |why: String| OpenError::Nvme {
            address: path.display().to_string(),
            why,
        };
        let access = if spec.read_only {
            OFlags::RDONLY
        } else {
            OFlags::RDWR
        };
        let stat = stat(path).map_err(|errno| refuse(errno.to_string()))?;
        let disk = disk_of(&stat).ok_or_else(|| {
            refuse("it is no character device of a namespace, such as /dev/ng0n1".to_owned())
        })?;
        let flags = access | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let claim = open(&disk, flags, Mode::empty()).map_err(|errno| {
            let disk = disk.display();
            refuse(match errno {
                Errno::BUSY => format!("{disk} is mounted, or used by something else"),
                errno => format!("{disk}: {errno}"),
            })
        })?;
        let number = check_claim(&claim, &disk).map_err(refuse)?;
        // The kernel lets commands that write through for files opened to write.
        let file = open(path, access | OFlags::CLOEXEC, Mode::empty());
        let file = file.map_err(|errno| refuse(errno.to_string()))?;
        let opened = fstat(&file).map_err(|errno| refuse(errno.to_string()))?;
        if disk_of(&opened).as_ref() != Some(&disk) {
            return Err(refuse("it has become another device just now".to_owned()));
        }
        let (identity, queue) = (Identity::ask(&file), QueueLimits::of(&disk));
        let identity = identity.map_err(|errno| {
            refuse(format!("identifying it: {errno}; this needs CAP_SYS_ADMIN"))
        })?;
        identity.check(spec).map_err(refuse)?;
        let geometry = identity.geometry();
        let limits = identity.limits(queue);
        let info = info(spec, &geometry, &limits, identity.namespace.blocks)?;
        let object = Self {
            file,
            geometry,
            limits,
            write_through: !spec.write_cache,
            blocks: AtomicU64::new(identity.namespace.blocks),
            cache: Cache::default(),
            is_another: AtomicBool::new(false),
            is_gone: AtomicBool::new(false),
            disk: name_of(&disk),
            number,
            _claim: claim,
        };
        Ok((object, info))
    }

    /// A namespace of 1 Mi blocks with a write cache, whose commands go to the null device.
    #[cfg(test)]
    pub(super) fn of_null() -> Self {
        let null = || open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let file = null().expect("every system has one");
        let mut controller: Page = [0; PAGE_BYTES];
        controller[525] = 1;
        let mut data: Page = [0; PAGE_BYTES];
        data[130] = 9;
        let namespace = NamespaceData::parse(&data);
        let identity = Identity {
            id: NamespaceId(1),
            controller: ControllerData::parse(&controller),
            identifiers: Identifiers::default(),
            namespace,
        };
        let queue = QueueLimits {
            bytes: u64::MAX,
            segments: u64::MAX,
        };
        Self {
            file,
            geometry: identity.geometry(),
            limits: identity.limits(queue),
            write_through: false,
            blocks: AtomicU64::new(1 << 20),
            cache: Cache::default(),
            is_another: AtomicBool::new(false),
            is_gone: AtomicBool::new(false),
            disk: "null".to_owned(),
            number: "1:3".to_owned(),
            _claim: null().expect("it was opened just now"),
        }
    }

    pub(super) fn file(&self) -> &OwnedFd {
        &self.file
    }

    pub(super) fn blocks(&self) -> u64 {
        // It guards no memory: whoever reads an older value is refused by the controller.
        self.blocks.load(Relaxed)
    }

    /// Whether acknowledged changes may be lost, so that no flush can vouch for them.
    pub(crate) fn cache_lost(&self) -> bool {
        self.cache.lost.load(Relaxed)
    }

    /// An operator has looked at what was lost.
    pub(crate) fn forget_cache_lost(&self) {
        self.cache.lost.store(false, Relaxed);
        self.cache.told.store(false, Relaxed);
    }

    /// What a flush may say that has ended. One that the medium has failed takes with it what it
    /// was to write: the next one finds an empty cache, and has nothing to vouch for.
    pub(super) fn flushed(&self, result: Result<(), IoError>) -> Result<(), IoError> {
        match result {
            Ok(()) if self.cache_lost() => Err(IoError::WriteCacheLost),
            Err(IoError::Medium | IoError::WriteFault | IoError::Hardware) => {
                self.cache.lost.store(true, Relaxed);
                result
            }
            _ => result,
        }
    }

    /// Whether its blocks are others than at opening, so that no command may go to it.
    pub(super) fn is_another(&self) -> bool {
        self.is_another.load(Relaxed)
    }

    /// Whether it can be used, as of the last look.
    pub(crate) fn readiness(&self) -> Readiness {
        if self.is_gone.load(Relaxed) {
            return Readiness::Absent;
        }
        match self.is_another() {
            true => Readiness::Failed,
            false => Readiness::Ready,
        }
    }

    /// As a look does that finds other blocks.
    #[cfg(test)]
    pub(super) fn set_another(&self) {
        self.is_another.store(true, Relaxed);
    }

    /// How many blocks the kernel says that there are now, which hold from here on: those at the
    /// last look of a namespace that has gone, or that has other blocks now. May block.
    ///
    /// # Errors
    /// That the kernel does not say it.
    pub(crate) fn look_again(&self) -> Result<u64, Errno> {
        self.tell_losses();
        self.look_below(Path::new("/"))
    }

    fn look_below(&self, root: &Path) -> Result<u64, Errno> {
        let text = |what: &str| -> Result<String, Errno> {
            let path = root.join(format!("sys/class/block/{}/{what}", self.disk));
            let text = fs::read_to_string(path);
            text.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        };
        let number = |what: &str| text(what)?.trim().parse::<u64>().map_err(|_| Errno::IO);
        let said = || {
            // Another disk may have its name by now; not its number, while it is claimed.
            if text("dev")?.trim() != self.number {
                return Err(Errno::NODEV);
            }
            Ok((number("size")?, number("queue/logical_block_size")?))
        };
        let (sectors, block_bytes) = match said() {
            Ok(said) => said,
            Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
                self.is_gone.store(true, Relaxed);
                return Ok(self.blocks());
            }
            Err(errno) => return Err(errno),
        };
        let was = 1_u64.checked_shl(self.geometry.block_shift.into());
        if was != Some(block_bytes) {
            if !self.is_another.swap(true, Relaxed) {
                tracing::error!(
                    disk = self.disk,
                    block_bytes,
                    "the namespace was formatted with other blocks and is not served: set \
                     block_size, then restart the daemon"
                );
            }
            return Ok(self.blocks());
        }
        let blocks = blocks_of(sectors, self.geometry.block_shift);
        self.blocks.store(blocks, Relaxed);
        Ok(blocks)
    }
}

impl KernelObject {
    /// Says once that a flush has failed: no core waits for a log. Whether it was said now.
    fn tell_losses(&self) -> bool {
        let news = self.cache_lost() && !self.cache.told.swap(true, Relaxed);
        if news {
            tracing::error!(disk = self.disk, "a flush failed: {CACHE_LOST}");
        }
        news
    }
}

/// The block device beside a character device: /dev/nvme0n1 of ng0n1.
fn disk_of(stat: &Stat) -> Option<PathBuf> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
        return None;
    }
    let (major, minor) = (major(stat.st_rdev), minor(stat.st_rdev));
    let link = fs::read_link(format!("/sys/dev/char/{major}:{minor}")).ok()?;
    disk_name(link.file_name()?.to_str()?).map(|name| Path::new("/dev").join(name))
}

/// The number of what was claimed, if it is the disk of that name, as the kernel has it, and no
/// other node.
fn check_claim(claim: &OwnedFd, disk: &Path) -> Result<String, String> {
    let below = format!("/sys/class/block/{}/dev", name_of(disk));
    let number = fs::read_to_string(&below).map_err(|error| format!("{below}: {error}"))?;
    let stat = fstat(claim).map_err(|errno| errno.to_string())?;
    match is_block(&stat, number.trim()) {
        true => Ok(number.trim().to_owned()),
        false => Err(format!(
            "{} is not the device {}, which it has to be; udev makes such nodes",
            disk.display(),
            number.trim()
        )),
    }
}

/// Whether a file is the block device of that number, as in `259:0`.
fn is_block(stat: &Stat, number: &str) -> bool {
    let is = format!("{}:{}", major(stat.st_rdev), minor(stat.st_rdev));
    FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice && is == number
}

fn disk_name(character: &str) -> Option<OsString> {
    let rest = character.strip_prefix("ng")?;
    let (controller, namespace) = rest.split_once('n')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (digits(controller) && digits(namespace)).then(|| format!("nvme{rest}").into())
}

fn name_of(disk: &Path) -> String {
    let name = disk.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Of the kernel's sectors of 512 bytes, which are what it counts in wherever it counts.
fn blocks_of(sectors: u64, block_shift: u8) -> u64 {
    sectors >> block_shift.saturating_sub(9).min(63)
}

/// What the kernel's queue takes, in bytes and in pieces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct QueueLimits {
    bytes: u64,
    segments: u64,
}

impl QueueLimits {
    fn of(disk: &Path) -> Self {
        let name = name_of(disk);
        let number = |what: &str| -> Option<u64> {
            let text = fs::read_to_string(format!("/sys/class/block/{name}/queue/{what}"));
            text.ok()?.trim().parse().ok()
        };
        Self {
            bytes: number("max_hw_sectors_kb").map_or(PAGE, |kib| kib.saturating_mul(1024)),
            segments: number("max_segments").unwrap_or(1),
        }
    }
}

/// What the controller says.
#[derive(Debug)]
struct Identity {
    id: NamespaceId,
    controller: ControllerData,
    namespace: NamespaceData,
    identifiers: Identifiers,
}

impl Identity {
    fn ask(file: &OwnedFd) -> Result<Self, Errno> {
        let id = NamespaceId(namespace_id(file)?);
        let controller = ControllerData::parse(&*admin(file, Identify::Controller)?);
        let namespace = NamespaceData::parse(&*admin(file, Identify::Namespace(id))?);
        let identifiers = match controller.version >= Version::V1_3 {
            true => Identifiers::parse(&*admin(file, Identify::Descriptors(id))?),
            false => Identifiers::default(),
        };
        let identifiers = identifiers.or(&namespace);
        Ok(Self {
            id,
            controller,
            namespace,
            identifiers,
        })
    }

    /// Whether it can be served, and with blocks of that size.
    fn check(&self, spec: &Spec) -> Result<(), String> {
        let format = &self.namespace.format;
        if self.identifiers.command_set.is_some_and(|set| set != 0) {
            return Err("it is not of the NVM command set (zoned or key value)".to_owned());
        }
        if self.namespace.protection != 0 || format.metadata_bytes != 0 {
            let remedy = "format it without (nvme format --pi=0 --ms=0)";
            return Err(format!(
                "it has metadata or protection information; {remedy}"
            ));
        }
        let bytes = 1_u64
            .checked_shl(format.block_shift.into())
            .unwrap_or_default();
        if bytes != u64::from(spec.block_size) {
            return Err(format!(
                "its blocks are {bytes} bytes, not block_size = {}; set block_size, or format it",
                spec.block_size
            ));
        }
        if self.namespace.blocks > u64::MAX >> format.block_shift {
            return Err("it says that it has more blocks than any device has".to_owned());
        }
        Ok(())
    }

    fn geometry(&self) -> Geometry {
        Geometry::of(
            (self.id, self.identifiers),
            &self.namespace,
            &self.controller,
        )
    }

    /// What the controller and the kernel's queue both take.
    fn limits(&self, queue: QueueLimits) -> Limits {
        let device = self.controller.transfer_bytes_max(PAGE_SHIFT);
        // The first piece of unaligned memory is cut in two.
        let pieces = queue.segments.saturating_sub(1).saturating_mul(PAGE);
        let transfer = device
            .unwrap_or(u64::MAX)
            .min(queue.bytes)
            .min(pieces)
            .min(TRANSFER_BYTES_MAX.into());
        let transfer = (transfer / PAGE * PAGE).max(PAGE);
        let zeroes = device
            .unwrap_or(ZEROES_BYTES_MAX)
            .clamp(PAGE, ZEROES_BYTES_MAX);
        Limits {
            queue_entries: QUEUE_ENTRIES_MAX,
            queue_pairs: 1,
            transfer_bytes: u32::try_from(transfer).unwrap_or(TRANSFER_BYTES_MAX),
            write_zeroes_bytes: self.controller.write_zeroes.then_some(zeroes),
            deallocate: self.controller.deallocate.then_some(DeallocateLimits {
                ranges: u16::try_from(RANGES_MAX).unwrap_or(u16::MAX),
                range_blocks: u32::MAX,
                blocks: u64::MAX,
            }),
            write_cache: self.controller.write_cache,
        }
    }
}

/// What a unit on it says of itself.
fn info(
    spec: &Spec,
    geometry: &Geometry,
    limits: &Limits,
    blocks: u64,
) -> Result<DeviceInfo, OpenError> {
    let mut info = spec.info(blocks.saturating_mul(spec.block_size.into()))?;
    geometry.tell(limits, &mut info);
    Ok(info)
}

fn checked(result: libc::c_int) -> Result<libc::c_int, Errno> {
    if result >= 0 {
        return Ok(result);
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn namespace_id(file: &OwnedFd) -> Result<u32, Errno> {
    // SAFETY: this operation takes no argument, and touches no memory of ours.
    let id = checked(unsafe { libc::ioctl(file.as_raw_fd(), NAMESPACE_ID) })?;
    u32::try_from(id).map_err(|_| Errno::IO)
}

/// Has the controller identify something; waits for it.
fn admin(file: &OwnedFd, what: Identify) -> Result<Box<Page>, Errno> {
    let mut page = Box::new([0; PAGE_BYTES]);
    let address = page.as_mut_ptr().expose_provenance() as u64;
    let length = u32::try_from(PAGE_BYTES).map_err(|_| Errno::INVAL)?;
    let mut command: [u8; COMMAND_BYTES] = bytes(&identify(what), address, length);
    // SAFETY: this operation reads a structure of as many bytes and writes to it and to the page,
    // which both outlive it: it returns when the command has ended.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), ADMIN, command.as_mut_ptr()) };
    match checked(result)? {
        0 => Ok(page),
        // A status of the controller's.
        _ => Err(Errno::IO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A namespace of 1000 blocks of 512 bytes behind a controller with a cache.
    fn identity(change: impl FnOnce(&mut Page, &mut Page)) -> Identity {
        let (mut controller, mut namespace) = ([0; PAGE_BYTES], [0; PAGE_BYTES]);
        controller[77] = 5;
        controller[520] = 0b1100;
        controller[525] = 1;
        namespace[0..2].copy_from_slice(&1000_u16.to_le_bytes());
        namespace[8..10].copy_from_slice(&1000_u16.to_le_bytes());
        namespace[33] = 1;
        namespace[130] = 9;
        change(&mut controller, &mut namespace);
        let namespace = NamespaceData::parse(&namespace);
        Identity {
            id: NamespaceId(1),
            controller: ControllerData::parse(&controller),
            identifiers: Identifiers::default().or(&namespace),
            namespace,
        }
    }

    /// The same with space for 999 blocks.
    fn identity_of_less() -> Identity {
        identity(|_, ns| ns[8..10].copy_from_slice(&999_u16.to_le_bytes()))
    }

    fn spec() -> Spec {
        Spec::new(super::super::super::super::spec::Kind::Null { bytes: 0 })
    }

    #[test]
    fn a_character_device_has_a_disk_beside_it() {
        assert_eq!(disk_name("ng0n1"), Some("nvme0n1".into()));
        assert_eq!(disk_name("ng12n34"), Some("nvme12n34".into()));
        for other in [
            "nvme0", "ng0", "ng0n1p1", "ngn1", "ng0n", "ng0c1n1", "zero", "",
        ] {
            assert_eq!(disk_name(other), None, "{other}");
        }
        let plain = stat("/dev/null").unwrap();
        assert_eq!(disk_of(&plain), None);
        let directory = stat("/dev").unwrap();
        assert_eq!(disk_of(&directory), None);
    }

    #[test]
    fn transfers_are_what_device_and_queue_both_take() {
        let queue = |bytes, segments| QueueLimits { bytes, segments };
        let transfer = |queue| identity(|_, _| ()).limits(queue).transfer_bytes;
        assert_eq!(transfer(queue(1 << 30, 1000)), 128 << 10, "MDTS");
        assert_eq!(transfer(queue(65_536, 1000)), 65_536);
        assert_eq!(transfer(queue(1 << 30, 17)), 65_536);
        assert_eq!(transfer(queue(0, 0)), 4096);
        let unlimited = identity(|controller, _| controller[77] = 0);
        assert_eq!(
            unlimited.limits(queue(u64::MAX, u64::MAX)).transfer_bytes,
            1 << 20
        );
        let none = identity(|controller, _| controller[520] = 0).limits(queue(4096, 2));
        assert_eq!((none.deallocate, none.write_zeroes_bytes), (None, None));
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_its_reason() {
        let refused = |change: fn(&mut Page, &mut Page)| identity(change).check(&spec());
        assert_eq!(refused(|_, _| ()), Ok(()));
        let with = |change| refused(change).unwrap_err();
        assert!(with(|_, ns| ns[130] = 12).contains("4096 bytes, not block_size = 512"));
        assert!(with(|_, ns| ns[128] = 8).contains("metadata"));
        assert!(with(|_, ns| ns[29] = 1).contains("protection"));
        assert!(with(|_, ns| ns[130] = 255).contains("0 bytes, not"));
        assert!(with(|_, ns| ns[..8].fill(0xff)).contains("more blocks than any"));
    }

    #[test]
    fn a_unit_says_what_the_namespace_can() {
        let identity = identity(|_, ns| ns[104..120].fill(7));
        let limits = identity.limits(QueueLimits {
            bytes: 1 << 20,
            segments: 127,
        });
        let info = info(&spec(), &identity.geometry(), &limits, 1000).unwrap();
        assert_eq!(info.blocks, 1000);
        assert!(info.unmap && info.unmap_reads_zeroes && info.write_cache);
        assert!(!info.thin);
        let less = identity_of_less();
        let thin = super::info(&spec(), &less.geometry(), &limits, 1000).unwrap();
        assert!(thin.thin, "fewer blocks have space than there are");
        // One block of 512 bytes, where a physical one has 4096.
        assert_eq!(info.atomic_write_blocks, 0);
        assert_eq!(info.designators.nguid, Some([7; 16]));
    }

    #[test]
    fn the_claim_is_of_the_disk_itself() {
        let mut node = stat("/dev/null").unwrap();
        assert!(!is_block(&node, "1:3"), "a character device");
        node.st_mode = node.st_mode & 0o777 | FileType::BlockDevice.as_raw_mode();
        assert!(is_block(&node, "1:3"));
        assert!(!is_block(&node, "259:0"), "another one has that name");
        let null = open("/dev/null", OFlags::RDONLY, Mode::empty()).unwrap();
        let refused = check_claim(&null, Path::new("/dev/nvme99n1")).unwrap_err();
        assert!(
            refused.contains("/sys/class/block/nvme99n1/dev: "),
            "{refused}"
        );
    }

    #[test]
    fn losses_are_told_once() {
        let object = KernelObject::of_null();
        assert!(!object.tell_losses());
        let failed = Err(IoError::WriteFault);
        assert_eq!(object.flushed(failed), failed);
        assert!(object.tell_losses() && !object.tell_losses());
        object.forget_cache_lost();
        assert!(!object.tell_losses());
        assert_eq!(object.flushed(failed), failed);
        assert!(object.tell_losses());
    }

    #[test]
    fn a_namespace_with_other_blocks_is_not_served() {
        let (object, root) = (KernelObject::of_null(), tempfile::tempdir().unwrap());
        let queue = root.path().join("sys/class/block/null/queue");
        fs::create_dir_all(&queue).unwrap();
        let say = |sectors: &str, block_bytes: &str| {
            fs::write(queue.join("../size"), sectors).unwrap();
            fs::write(queue.join("logical_block_size"), block_bytes).unwrap();
        };
        let dev = queue.join("../dev");
        fs::write(&dev, "1:3\n").unwrap();
        let look = || (object.look_below(root.path()), object.readiness());
        say("2097152\n", "512\n");
        assert_eq!(look(), (Ok(2 << 20), Readiness::Ready));
        say("none\n", "512\n");
        assert_eq!(look(), (Err(Errno::IO), Readiness::Ready));
        // The same bytes.
        say("2097152\n", "4096\n");
        assert_eq!(look(), (Ok(2 << 20), Readiness::Failed));
        assert!(object.is_another());
        // It is empty, whatever its blocks are.
        say("4194304\n", "512\n");
        assert_eq!(look(), (Ok(4 << 20), Readiness::Failed));
        // Another disk has its name.
        let object = KernelObject::of_null();
        say("4194304\n", "512\n");
        fs::write(&dev, "259:7\n").unwrap();
        let look = || (object.look_below(root.path()), object.readiness());
        assert_eq!(look(), (Ok(1 << 20), Readiness::Absent));
        let object = KernelObject::of_null();
        fs::remove_dir_all(root.path().join("sys")).unwrap();
        let look = || (object.look_below(root.path()), object.readiness());
        assert_eq!(
            look(),
            (Ok(1 << 20), Readiness::Absent),
            "no error each second"
        );
        assert!(!object.is_another());
    }

    #[test]
    fn the_kernel_counts_in_sectors() {
        assert_eq!((blocks_of(4096, 9), blocks_of(4096, 12)), (4096, 512));
        assert_eq!(blocks_of(4095, 12), 511, "what is not whole is none");
        assert_eq!(name_of(Path::new("/dev/nvme0n1")), "nvme0n1");
    }

    #[test]
    fn only_namespaces_are_opened() {
        for path in ["/dev/null", "/dev", "/nowhere/ng0n1"] {
            let refused = KernelObject::open(&spec(), Path::new(path)).unwrap_err();
            assert!(refused.to_string().contains(path), "{refused}");
        }
    }
}
