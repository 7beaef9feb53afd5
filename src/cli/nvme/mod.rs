//! `iiblockdaemon nvme`: which NVMe controllers there are, and handing them over between the
//! kernel's driver and ours.
//!
//! `list`, `bind` and `unbind` read and write /sys and /proc alone, below a root that is given, `/`
//! outside tests; `info` opens the controller as the daemon would. `bind` never takes a controller
//! that the host uses; `unbind` always gives one back that no process has open.

mod binding;
mod info;
mod list;
#[cfg(test)]
mod tests;
mod usage;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use rustix::fs::{Mode, OFlags, open};
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
        Command::Bind { address } => of(address, |address| binding::bind(&machine, address)),
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
        let bytes = fs::read(self.path(below)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The names in a directory, sorted.
    fn names(&self, below: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(below)) else {
            return Vec::new();
        };
        let names = entries.flatten();
        let mut names: Vec<String> = names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names
    }
}

/// What is asked of the kernel.
trait Bus: std::fmt::Debug {
    /// Writes to a file of /sys.
    fn write(&self, path: &Path, text: &str) -> io::Result<()>;

    /// Whether somebody has a device file for himself. `false` where that cannot be told.
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

    fn is_held(&self, path: &Path) -> bool {
        // O_EXCL: of block devices, fails while a file system, swap or another device has it.
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = open(path, flags, Mode::empty());
        matches!(opened, Err(Errno::BUSY))
    }
}
