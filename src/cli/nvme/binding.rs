//! Gives controllers to vfio-pci and back, by `driver_override`, which concerns one function and
//! ends with the machine.

use std::io;

use super::users::{self, Node};
use super::{Device, Guard, Kind, Machine, usage};
use crate::backend::nvme::vfio::sysfs::Function;
use crate::backend::nvme::vfio::{DRIVER, PciAddress};

/// Says Y where vfio takes functions that are in no IOMMU group.
const NOIOMMU: &str = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode";

/// Gives the controller to vfio-pci; one that no IOMMU guards only with `unsafe_noiommu`. The text
/// says what was done, or why not.
pub(super) fn bind(
    machine: &Machine<'_>,
    address: PciAddress,
    unsafe_noiommu: bool,
) -> Result<String, String> {
    let function = find(machine, address)?;
    let back = format!("give it back with: iiblockdaemon nvme unbind {address}");
    if function.driver.as_deref() == Some(DRIVER) {
        return Ok(format!("{address} is with {DRIVER} already; {back}\n"));
    }
    if let Some(other) = function.driver.as_deref().filter(|it| *it != usage::NVME) {
        return Err(format!(
            "{address} is with {other}: who drives it through that cannot be told\n  help: end \
             that, then: echo {address} > /sys/bus/pci/drivers/{other}/unbind"
        ));
    }
    can_be_taken(machine, &function, unsafe_noiommu)?;
    let disks = usage::claim(machine, &function).map_err(|found| refused(address, &found))?;
    let handed = hand_over(machine, &function, (DRIVER, disks));
    let now = find(machine, address)?;
    let refused = match handed {
        Err(error) => Some(format!("{address}: {error}")),
        Ok(()) if now.driver.as_deref() != Some(DRIVER) => {
            Some(format!("{DRIVER} did not take {address}"))
        }
        Ok(()) => None,
    };
    if let Some(refused) = refused {
        let state = match put_back(machine, &now) {
            Ok(()) => "it is as it was".to_owned(),
            Err(error) => format!("and it could not be given back: {error}"),
        };
        return Err(format!("{refused}; {state}"));
    }
    let before = function.driver.as_deref().unwrap_or("no driver");
    let mut text = format!("{address} is with {DRIVER} now, before with {before}; {back}\n");
    for neighbour in neighbours(machine, &now) {
        text += &format!("  note: it shares its IOMMU group with {neighbour}\n");
    }
    Ok(text)
}

/// Whether vfio-pci would take a controller.
fn can_be_taken(
    machine: &Machine<'_>,
    function: &Function,
    unsafe_noiommu: bool,
) -> Result<(), String> {
    let address = function.address;
    let driver = machine.path(&format!("sys/bus/pci/drivers/{DRIVER}"));
    if !driver.exists() {
        return Err(format!("{DRIVER} is not loaded\n  help: modprobe {DRIVER}"));
    }
    if function.group.is_some() {
        return Ok(());
    }
    if !unsafe_noiommu {
        return Err(format!(
            "{address} is in no IOMMU group: the IOMMU is off\n  help: turn it on in the firmware \
             (VT-d, AMD-Vi) and on the kernel's command line: intel_iommu=on iommu=pt (AMD: \
             iommu=pt); for trials in a machine that may be lost: --unsafe-noiommu"
        ));
    }
    // vfio makes the group when it takes the function, and only then.
    match machine.text(NOIOMMU).as_deref() {
        Some("Y" | "1") => Ok(()),
        _ => Err(format!(
            "{address} is in no IOMMU group, and vfio takes none such\n  help: echo 1 > /{NOIOMMU}"
        )),
    }
}

/// Why a controller is not taken.
fn refused(address: PciAddress, found: &usage::Found) -> String {
    let mut text = match found.uses.is_empty() {
        true => format!("{address}: whether this host uses it cannot be told"),
        false => format!(
            "{address} is used by this host:\n  {}",
            found.uses.join("\n  ")
        ),
    };
    if !found.unknown.is_empty() {
        text += &format!("\n  not known: {}", found.unknown.join("\n  not known: "));
        text += "\n  help: what cannot be looked at counts as used: do this as root, outside \
                 containers, where /dev, /proc and /sys are the machine's own";
    }
    if !found.uses.is_empty() {
        text += "\n  help: stop what uses it first; what is on it is out of the host's reach then";
    }
    text
}

/// Gives the controller back to the driver that wants it, whoever took it and however it ended.
pub(super) fn unbind(machine: &Machine<'_>, address: PciAddress) -> Result<String, String> {
    let function = find(machine, address)?;
    if let Some(driver) = function
        .driver
        .as_deref()
        .filter(|driver| *driver != DRIVER)
    {
        // Ours may have been left behind.
        let path = format!("sys/bus/pci/devices/{address}/driver_override");
        if machine.text(&path).as_deref() == Some(DRIVER) {
            let _ = set_override(machine, address, "");
        }
        return Ok(format!("{address} is with {driver} already\n"));
    }
    if let Some(group) = function.group {
        let prefix = if function.unguarded { "noiommu-" } else { "" };
        let file = format!("dev/vfio/{prefix}{group}");
        if machine.bus.is_held(&machine.path(&file)) {
            return Err(format!(
                "{address} is in use: a process has /{file} open\n  help: stop the daemon first"
            ));
        }
    }
    if let Some(line) = by_character(machine, &function) {
        return Err(format!(
            "{address} is in use: {line}\n  help: stop the daemon first"
        ));
    }
    hand_over(machine, &function, ("", Vec::new()))
        .map_err(|error| format!("{address}: {error}"))?;
    match find(machine, address)?.driver {
        Some(driver) if driver != DRIVER => Ok(format!("{address} is with {driver} now\n")),
        Some(_) => Err(format!("{address} is still with {DRIVER}")),
        None => Err(format!(
            "{address} is with no driver\n  help: modprobe nvme, which takes it"
        )),
    }
}

/// Who is seen to have a controller by its own file of vfio's, which any number may open: all that
/// there is where the kernel has no files of groups. Where that cannot be told it is given back.
fn by_character(machine: &Machine<'_>, function: &Function) -> Option<String> {
    let name = function.character.as_deref()?;
    let below = format!("sys/bus/pci/devices/{}/vfio-dev", function.address);
    let node = Node {
        name: format!("/dev/vfio/devices/{name}"),
        device: Device {
            kind: Kind::Character,
            number: machine.text(&format!("{below}/{name}/dev"))?,
        },
    };
    let mut found = usage::Found::default();
    users::processes(machine, &[node], &mut found);
    found.uses.into_iter().next()
}

fn find(machine: &Machine<'_>, address: PciAddress) -> Result<Function, String> {
    let help = "iiblockdaemon nvme list names the controllers that are there";
    let function = Function::read(&machine.root, address)
        .ok_or_else(|| format!("there is no PCI device {address}\n  help: {help}"))?;
    if !function.is_nvme() {
        return Err(format!("{address} is no NVMe controller\n  help: {help}"));
    }
    Ok(function)
}

/// Takes a function from its driver and has the bus look for the one that `wanted` names, or, where
/// it is empty, for any that wants it. Its disks are held until the driver has let go of them, so
/// that nobody begins to use one.
fn hand_over(
    machine: &Machine<'_>,
    function: &Function,
    (wanted, disks): (&str, Vec<Guard>),
) -> Result<(), String> {
    let address = function.address;
    let failed = |what: &str, error: &io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => format!("{what}: {error}; this needs root"),
        _ => format!("{what}: {error}"),
    };
    set_override(machine, address, wanted)
        .map_err(|error| failed("setting driver_override", &error))?;
    if let Some(driver) = &function.driver {
        let path = machine.path(&format!("sys/bus/pci/devices/{address}/driver/unbind"));
        let taken = machine.bus.write(&path, &address.to_string());
        taken.map_err(|error| failed(&format!("taking it from {driver}"), &error))?;
    }
    drop(disks);
    let path = machine.path("sys/bus/pci/drivers_probe");
    let probed = machine.bus.write(&path, &address.to_string());
    probed.map_err(|error| failed("having the bus look for a driver", &error))
}

/// Undoes what was begun: no override, and the driver that wants it.
fn put_back(machine: &Machine<'_>, function: &Function) -> Result<(), String> {
    if function
        .driver
        .as_deref()
        .is_some_and(|driver| driver != DRIVER)
    {
        // Nobody took it yet. What cannot be written now could not be written before either.
        let _ = set_override(machine, function.address, "");
        return Ok(());
    }
    hand_over(machine, function, ("", Vec::new()))
}

fn set_override(machine: &Machine<'_>, address: PciAddress, driver: &str) -> io::Result<()> {
    let path = machine.path(&format!("sys/bus/pci/devices/{address}/driver_override"));
    // An empty line takes it away.
    machine.bus.write(&path, &format!("{driver}\n"))
}

/// Functions of the same group that a driver of the kernel's has: the group is given away as a
/// whole or not at all.
fn neighbours(machine: &Machine<'_>, function: &Function) -> Vec<String> {
    /// VFIO's own list of those that nobody uses.
    const HARMLESS: [&str; 3] = [DRIVER, "pci-stub", "pcieport"];
    let Some(group) = function.group else {
        return Vec::new();
    };
    let members = machine.names(&format!("sys/kernel/iommu_groups/{group}/devices"));
    // They are a note: vfio itself opens no group that is given away by halves.
    let members = members.unwrap_or_default();
    let others = members.iter().filter_map(|member| {
        let other = Function::read(&machine.root, member.parse().ok()?)?;
        let driver = other.driver?;
        let harmless = HARMLESS.contains(&driver.as_str()) || other.address == function.address;
        (!harmless).then(|| format!("{member}, which is with {driver}: bind that one too"))
    });
    others.collect()
}
