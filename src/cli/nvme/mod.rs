//! `iiblockdaemon nvme`: which NVMe controllers there are, and handing them over between the
//! kernel's driver and ours.
//!
//! `list` reads /sys and /proc alone, `bind` and `unbind` write to /sys too and open device files,
//! all below a root that is given, `/` outside tests; `info` opens the controller as the daemon
//! would. `bind` never takes a controller that the host uses, and what cannot be looked at counts
//! as used; `unbind` always gives one back that no process is seen to have open.

mod binding;
mod info;
mod list;
#[cfg(test)]
mod tests;
mod usage;
mod users;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags};
use rustix::fs::{fstat, major, minor, open, statx};
use rustix::io::Errno;

use super::{EXIT_CONFIG, EXIT_START, print_all};
use crate::backend::nvme::vfio::{AddressError, PciAddress};

/// What is done with controllers.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Command {
    /// List the NVMe controllers of this machine, and who has them
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a controller that the host does not use to vfio-pci, for the daemon to drive
    Bind {
        /// Its PCI address, as in 0000:5e:00.0
        address: String,
        /// Even where no IOMMU guards this machine's memory from it
        #[arg(long)]
        unsafe_noiommu: bool,
    },
    /// Show what a controller that is with vfio-pci says of itself, its namespaces and its health
    Info {
        /// Its PCI address, as in 0000:5e:00.0
        address: String,
        /// Even where no IOMMU guards this machine's memory from it
        #[arg(long)]
        unsafe_noiommu: bool,
    },
    /// Give a controller back to the kernel's driver
    Unbind {
        /// Its PCI address, as in 0000:5e:00.0
        address: String,
    },
}

/// Does it; the exit status.
pub(super) fn run(command: &Command) -> u8 {
    let machine = Machine {
        root: PathBuf::from("/"),
        bus: &Kernel,
    };
    match command {
        Command::List { json } => {
            let found = list::controllers(&machine);
            let text = if *json {
                list::as_json(&found)
            } else {
                list::as_text(&found)
            };
            print_all(text.as_bytes())
        }
        Command::Bind {
            address,
            unsafe_noiommu,
        } => of(address, |address| {
            binding::bind(&machine, address, *unsafe_noiommu)
        }),
        Command::Unbind { address } => of(address, |address| binding::unbind(&machine, address)),
        Command::Info {
            address,
            unsafe_noiommu,
        } => of(address, |address| {
            info::ask(&machine, address, *unsafe_noiommu)
        }),
    }
}

/// Does something with the controller at an address; the exit status.
fn of(address: &str, done: impl FnOnce(PciAddress) -> Result<String, String>) -> u8 {
    let address = match address.parse() {
        Ok(address) => address,
        Err(error) => {
            let error: AddressError = error;
            eprintln!("error: {address:?}: {error}");
            return EXIT_CONFIG;
        }
    };
    match done(address) {
        Ok(text) => print_all(text.as_bytes()),
        Err(text) => {
            eprintln!("error: {text}");
            EXIT_START
        }
    }
}

/// The machine whose controllers they are.
#[derive(Clone, Debug)]
struct Machine<'b> {
    root: PathBuf,
    bus: &'b dyn Bus,
}

impl Machine<'_> {
    fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    fn text(&self, below: &str) -> Option<String> {
        self.read(below).ok()
    }

    /// A file's text without the blanks around it.
    fn read(&self, below: &str) -> io::Result<String> {
        let bytes = fs::read(self.path(below))?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The names in a directory, all of them, sorted.
    fn names(&self, below: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path(below))? {
            if names.len() == NAMES_MAX {
                return Err(io::Error::other(format!("more than {NAMES_MAX} names")));
            }
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Names in a directory: as many processes as the kernel ever has.
const NAMES_MAX: usize = 1 << 22;

/// What keeps a device file for this process alone, until it is dropped.
type Guard = Box<dyn std::fmt::Debug>;

/// A device as its files name it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Device {
    kind: Kind,
    /// Major and minor, as in `259:3`.
    number: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Block,
    Character,
}

impl Device {
    /// Of a file of that type; `None` where that is no device file.
    fn new(file: FileType, (major, minor): (u32, u32)) -> Option<Self> {
        let kind = match file {
            FileType::BlockDevice => Kind::Block,
            FileType::CharacterDevice => Kind::Character,
            _ => return None,
        };
        Some(Self {
            kind,
            number: format!("{major}:{minor}"),
        })
    }
}

/// What is asked of the kernel.
trait Bus: std::fmt::Debug {
    /// Writes to a file of /sys.
    fn write(&self, path: &Path, text: &str) -> io::Result<()>;

    /// Takes a device for this process alone, by a file that has to be its.
    ///
    /// # Errors
    /// `ResourceBusy`: somebody has it. Any other: that cannot be told.
    fn hold(&self, path: &Path, device: &Device) -> io::Result<Guard>;

    /// What device a file is, whatever leads to it; `None`: no device.
    fn device(&self, path: &Path) -> io::Result<Option<Device>>;

    /// Whether somebody has a file of vfio's for himself. `false` where that cannot be told.
    fn is_held(&self, path: &Path) -> bool;
}

/// This machine's.
#[derive(Debug)]
struct Kernel;

impl Bus for Kernel {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        fs::OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
    }

    fn hold(&self, path: &Path, device: &Device) -> io::Result<Guard> {
        let held = open(path, EXCLUSIVE, Mode::empty())?;
        let stat = fstat(&held)?;
        let number = (major(stat.st_rdev), minor(stat.st_rdev));
        let found = Device::new(FileType::from_raw_mode(stat.st_mode), number);
        if found.as_ref() != Some(device) {
            let number = &device.number;
            return Err(io::Error::other(format!("it is not the device {number}")));
        }
        Ok(Box::new(held))
    }

    fn device(&self, path: &Path) -> io::Result<Option<Device>> {
        // Of a file of the network's, whose server may be gone, what is known is enough.
        let flags = AtFlags::STATX_DONT_SYNC;
        let stat = statx(CWD, path, flags, StatxFlags::TYPE)?;
        let file = FileType::from_raw_mode(stat.stx_mode.into());
        Ok(Device::new(
            file,
            (stat.stx_rdev_major, stat.stx_rdev_minor),
        ))
    }

    fn is_held(&self, path: &Path) -> bool {
        open(path, EXCLUSIVE, Mode::empty()).is_err_and(|errno| errno == Errno::BUSY)
    }
}

/// O_EXCL: of block devices, fails while a file system, swap or another device has it.
const EXCLUSIVE: OFlags = OFlags::RDONLY
    .union(OFlags::EXCL)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);
