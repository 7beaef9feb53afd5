//! What the host does with a controller: its block devices, and who uses them.

use super::Machine;
use crate::backend::nvme::vfio::PciAddress;

/// A disk or partition of the kernel's.
const BLOCKS: &str = "sys/class/block";
/// Block devices of one controller that are looked at, partitions among them.
const BLOCKS_MAX: usize = 65_536;

/// The name of a controller with the kernel's driver, such as `nvme0`.
pub(super) fn controller(machine: &Machine<'_>, address: PciAddress) -> Option<String> {
    let names = machine.names(&format!("sys/bus/pci/devices/{address}/nvme"));
    names.into_iter().next()
}

/// The disks that are namespaces of a controller.
pub(super) fn disks(machine: &Machine<'_>, address: PciAddress) -> Vec<String> {
    let Some(controller) = controller(machine, address) else {
        return Vec::new();
    };
    let below = format!("sys/bus/pci/devices/{address}/nvme/{controller}");
    let names = machine.names(&below);
    let mut disks: Vec<String> = names.iter().filter_map(|name| disk_of(name)).collect();
    disks.sort_unstable();
    disks.dedup();
    disks
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

/// Why the host needs a controller: a line each, none when it does not.
pub(super) fn reasons(machine: &Machine<'_>, address: PciAddress) -> Vec<String> {
    let mounts = machine.text("proc/self/mountinfo").unwrap_or_default();
    let swaps = machine.text("proc/swaps").unwrap_or_default();
    let mut found = Vec::new();
    for disk in disks(machine, address) {
        let parts = machine.names(&format!("{BLOCKS}/{disk}"));
        let parts = parts
            .into_iter()
            .filter(|name| name.starts_with(disk.as_str()))
            .take(BLOCKS_MAX);
        let before = found.len();
        for name in std::iter::once(disk.clone()).chain(parts) {
            found.extend(uses(machine, &name, &mounts, &swaps));
        }
        let device = machine.path(&format!("dev/{disk}"));
        if found.len() == before && machine.bus.is_held(&device) {
            found.push(format!("/dev/{disk} is held by a file system or a process"));
        }
    }
    found
}

/// What a disk or a partition is used for.
fn uses(machine: &Machine<'_>, name: &str, mounts: &str, swaps: &str) -> Vec<String> {
    let mut found = Vec::new();
    let device = format!("/dev/{name}");
    let number = machine.text(&format!("{BLOCKS}/{name}/dev"));
    for line in mounts.lines() {
        // proc(5): identifier, parent, major:minor, root, mount point, options, -, type, source.
        let mut fields = line.split(' ');
        let (of, point) = (fields.nth(2), fields.nth(1));
        let source = line
            .split(" - ")
            .nth(1)
            .and_then(|end| end.split(' ').nth(1));
        if (number.is_some() && of == number.as_deref()) || source == Some(device.as_str()) {
            found.push(format!("{device} is mounted at {}", point.unwrap_or("/")));
        }
    }
    let swap = |line: &str| line.split_ascii_whitespace().next() == Some(device.as_str());
    if swaps.lines().any(swap) {
        found.push(format!("{device} is swap space"));
    }
    for holder in machine.names(&format!("{BLOCKS}/{name}/holders")) {
        let kind = match machine.text(&format!("{BLOCKS}/{holder}/dm/name")) {
            Some(mapped) => format!("{holder} (device mapper: {mapped})"),
            None => holder,
        };
        found.push(format!("{device} is a part of {kind}"));
    }
    for entry in machine.names("sys/fs/btrfs") {
        if machine
            .path(&format!("sys/fs/btrfs/{entry}/devices/{name}"))
            .exists()
        {
            found.push(format!("{device} is a part of the mounted btrfs {entry}"));
        }
    }
    found
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
