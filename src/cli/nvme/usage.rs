//! What the host does with a controller: its block devices, and who uses them.

use std::io;

use super::users::{self, Node};
use super::{Device, Guard, Kind, Machine};
use crate::backend::nvme::vfio::PciAddress;
use crate::backend::nvme::vfio::sysfs::Function;

/// The kernel's driver.
pub(super) const NVME: &str = "nvme";
/// A disk or partition of the kernel's.
pub(super) const BLOCKS: &str = "sys/class/block";

/// What was found of a controller, a line each. The host does without it only when both are empty.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Why the host needs it.
    pub(super) uses: Vec<String>,
    /// What could not be looked at, and why.
    pub(super) unknown: Vec<String>,
}

impl Found {
    pub(super) fn is_nothing(&self) -> bool {
        self.uses.is_empty() && self.unknown.is_empty()
    }

    /// Of what could not be looked at, and where that is.
    pub(super) fn not_known(&mut self, what: &str, below: &str, error: &io::Error) {
        let line = format!("{what}: /{below}: {error}");
        if !self.unknown.contains(&line) {
            self.unknown.push(line);
        }
    }
}

/// The name of a controller with the kernel's driver, such as `nvme0`; `None` while there is none.
pub(super) fn controller(machine: &Machine<'_>, address: PciAddress) -> io::Result<Option<String>> {
    let names = if_any(machine.names(&below(address)))?;
    Ok(names.into_iter().next())
}

/// Where the kernel's driver puts the name of its controller.
fn below(address: PciAddress) -> String {
    format!("sys/bus/pci/devices/{address}/nvme")
}

/// Nothing, where what is listed is not there at all.
pub(super) fn if_any<T: Default>(found: io::Result<T>) -> io::Result<T> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        found => found,
    }
}

/// The disks that are namespaces of a controller.
pub(super) fn disks(machine: &Machine<'_>, address: PciAddress) -> io::Result<Vec<String>> {
    let Some(controller) = controller(machine, address)? else {
        return Ok(Vec::new());
    };
    let names = machine.names(&format!("{}/{controller}", below(address)))?;
    let mut disks: Vec<String> = names.iter().filter_map(|name| disk_of(name)).collect();
    disks.sort_unstable();
    disks.dedup();
    Ok(disks)
}

/// The disk of a namespace: `nvme0n1` of itself, and of `nvme0c1n1`, which is one path to it.
fn disk_of(name: &str) -> Option<String> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (subsystem, namespace) = name.strip_prefix("nvme")?.rsplit_once('n')?;
    let subsystem = match subsystem.split_once('c') {
        Some((subsystem, path)) if digits(path) => subsystem,
        Some(_) => return None,
        None => subsystem,
    };
    let whole = digits(subsystem) && digits(namespace);
    whole.then(|| format!("nvme{subsystem}n{namespace}"))
}

/// What /sys and /proc say of the uses of a controller, but for what processes have open.
pub(super) fn look(machine: &Machine<'_>, function: &Function) -> Found {
    if function.driver.as_deref() != Some(NVME) {
        return Found::default();
    }
    let mut look = Look::new(machine);
    for disk in look.disks(function) {
        look.disk(&disk);
    }
    users::kernel(machine, &look.nodes, &mut look.found);
    look.found
}

/// Takes all disks of a controller for this process alone, and looks then: nothing claims what is
/// not used now for as long as the guards live.
pub(super) fn claim(machine: &Machine<'_>, function: &Function) -> Result<Vec<Guard>, Found> {
    if function.driver.as_deref() != Some(NVME) {
        return Ok(Vec::new());
    }
    let mut look = Look::new(machine);
    let disks = look.disks(function);
    let mut guards = Vec::new();
    for disk in &disks {
        let held = look.hold(disk);
        let before = look.found.uses.len();
        look.disk(disk);
        match held {
            Ok(guard) => guards.push(guard),
            // What has it is named already.
            Err(error) if is_busy(&error) && look.found.uses.len() > before => {}
            Err(error) if is_busy(&error) => {
                let line = format!("/dev/{disk} is held by a file system or a process");
                look.found.uses.push(line);
            }
            Err(error) => {
                let (what, node) = (format!("who has {disk}"), format!("dev/{disk}"));
                look.found.not_known(&what, &node, &error);
            }
        }
    }
    look.characters(function.address, &disks);
    users::kernel(machine, &look.nodes, &mut look.found);
    users::processes(machine, &look.nodes, &mut look.found);
    if look.disks(function) != disks {
        let line = "its namespaces: they change just now".to_owned();
        look.found.unknown.push(line);
    }
    match look.found.is_nothing() {
        true => Ok(guards),
        false => Err(look.found),
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ResourceBusy
}

/// A look at a controller.
#[derive(Debug)]
struct Look<'m> {
    machine: &'m Machine<'m>,
    found: Found,
    /// Where what is mounted and swapped to is looked up, once for all disks.
    mounts: String,
    swaps: String,
    /// The devices that it has come by.
    nodes: Vec<Node>,
}

impl<'m> Look<'m> {
    fn new(machine: &'m Machine<'m>) -> Self {
        let mut look = Self {
            machine,
            found: Found::default(),
            mounts: String::new(),
            swaps: String::new(),
            nodes: Vec::new(),
        };
        look.mounts = look.text("what is mounted", "proc/self/mountinfo");
        // A kernel without swap has no such file, and neither has a /proc of processes alone.
        if machine.path("proc/swaps").exists() || !machine.path("proc/filesystems").exists() {
            look.swaps = look.text("what is swap space", "proc/swaps");
        }
        look
    }

    fn text(&mut self, what: &str, below: &str) -> String {
        self.known(what, below, self.machine.read(below))
    }

    fn names(&mut self, what: &str, below: &str) -> Vec<String> {
        self.known(what, below, self.machine.names(below))
    }

    /// What was found, or nothing with a line that says so.
    fn known<T: Default>(&mut self, what: &str, below: &str, found: io::Result<T>) -> T {
        found.unwrap_or_else(|error| {
            self.found.not_known(what, below, &error);
            T::default()
        })
    }

    /// The disks that the kernel makes of a controller.
    fn disks(&mut self, function: &Function) -> Vec<String> {
        let (what, below) = ("its namespaces", below(function.address));
        if matches!(controller(self.machine, function.address), Ok(None)) {
            let error = io::Error::other("the kernel is still setting it up");
            self.found.not_known(what, &below, &error);
        }
        let disks = disks(self.machine, function.address);
        self.known(what, &below, disks)
    }

    /// Takes a disk for this process alone.
    fn hold(&self, disk: &str) -> io::Result<Guard> {
        let device = Device {
            kind: Kind::Block,
            number: self.machine.read(&format!("{BLOCKS}/{disk}/dev"))?,
        };
        let path = self.machine.path(&format!("dev/{disk}"));
        self.machine.bus.hold(&path, &device)
    }

    /// What a disk and its partitions are used for.
    fn disk(&mut self, disk: &str) {
        let parts = self.names("its partitions", &format!("{BLOCKS}/{disk}"));
        let parts = parts.iter().filter(|name| name.starts_with(disk));
        for name in std::iter::once(disk).chain(parts.map(String::as_str)) {
            self.block(name);
        }
    }

    fn add(&mut self, name: &str, kind: Kind, number: String) {
        self.nodes.push(Node {
            name: format!("/dev/{name}"),
            device: Device { kind, number },
        });
    }

    /// The devices by which commands go to the controller and to its namespaces.
    fn characters(&mut self, address: PciAddress, disks: &[String]) {
        // Without one nothing is taken, for that reason.
        let Ok(Some(controller)) = controller(self.machine, address) else {
            return;
        };
        let below = format!("{}/{controller}", below(address));
        let number = self.text("its number", &format!("{below}/dev"));
        self.add(&controller, Kind::Character, number);
        // Those without a disk are below the controller, those of several paths are not.
        let mut generic = self.names("its namespaces", &below);
        generic.retain(|name| name.starts_with("ng"));
        let of_disks = disks.iter().filter_map(|disk| disk.strip_prefix(NVME));
        generic.extend(of_disks.map(|rest| format!("ng{rest}")));
        generic.sort_unstable();
        generic.dedup();
        for name in generic {
            // Older kernels have none.
            let below = format!("sys/class/nvme-generic/{name}/dev");
            let number = if_any(self.machine.read(&below));
            let number = self.known("its number", &below, number);
            self.add(&name, Kind::Character, number);
        }
    }

    /// What a disk or a partition is used for.
    fn block(&mut self, name: &str) {
        let device = format!("/dev/{name}");
        let number = self.text("its number", &format!("{BLOCKS}/{name}/dev"));
        self.add(name, Kind::Block, number.clone());
        for line in self.mounts.lines() {
            // proc(5): identifier, parent, major:minor, root, mount point, options, -, type,
            // source.
            let mut fields = line.split(' ');
            let (of, point) = (fields.nth(2), fields.nth(1));
            let source = line
                .split(" - ")
                .nth(1)
                .and_then(|end| end.split(' ').nth(1));
            if of == Some(number.as_str()) || source == Some(device.as_str()) {
                let line = format!("{device} is mounted at {}", point.unwrap_or("/"));
                self.found.uses.push(line);
            }
        }
        let swap = |line: &str| line.split_ascii_whitespace().next() == Some(device.as_str());
        if self.swaps.lines().any(swap) {
            self.found.uses.push(format!("{device} is swap space"));
        }
        let holders = format!("{BLOCKS}/{name}/holders");
        for holder in self.names(&format!("what {device} is a part of"), &holders) {
            let kind = match self.machine.text(&format!("{BLOCKS}/{holder}/dm/name")) {
                Some(mapped) => format!("{holder} (device mapper: {mapped})"),
                None => holder,
            };
            self.found
                .uses
                .push(format!("{device} is a part of {kind}"));
        }
        self.btrfs(name);
    }

    /// Its mounts have numbers of their own.
    fn btrfs(&mut self, name: &str) {
        let below = "sys/fs/btrfs";
        let entries = if_any(self.machine.names(below));
        for entry in self.known("what btrfs has", below, entries) {
            let device = format!("{below}/{entry}/devices/{name}");
            match self.machine.path(&device).try_exists() {
                Ok(true) => {
                    let line = format!("/dev/{name} is a part of the mounted btrfs {entry}");
                    self.found.uses.push(line);
                }
                Ok(false) => {}
                Err(error) => self.found.not_known("what btrfs has", &device, &error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_a_disk_by_any_path() {
        assert_eq!(disk_of("nvme0n1").as_deref(), Some("nvme0n1"));
        assert_eq!(disk_of("nvme12c3n45").as_deref(), Some("nvme12n45"));
        for other in [
            "nvme0",
            "ng0n1",
            "nvme0n1p1",
            "hwmon3",
            "nvmen1",
            "nvme0cn1",
            "power",
        ] {
            assert_eq!(disk_of(other), None, "{other}");
        }
    }
}
