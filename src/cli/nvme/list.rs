//! `iiblockdaemon nvme list`.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Machine, usage};
use crate::backend::nvme::vfio::sysfs::{Function, Link};

/// One controller, as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    address: String,
    /// `vendor:device`, hexadecimal.
    pci_id: String,
    driver: Option<String>,
    /// With the kernel's driver: its name there, what it says of itself, and its disks.
    name: Option<String>,
    model: Option<String>,
    serial: Option<String>,
    firmware: Option<String>,
    disks: Vec<String>,
    /// Why the host needs it.
    used: Vec<String>,
    /// What could not be looked at, and why.
    not_known: Vec<String>,
    iommu_group: Option<u32>,
    numa_node: Option<u32>,
    link_speed: Option<String>,
    link_lanes: Option<u32>,
    /// The link is slower or narrower than both ends could do.
    link_degraded: bool,
}

pub(super) fn controllers(machine: &Machine<'_>) -> Vec<Shown> {
    let functions = Function::nvme_controllers(&machine.root);
    functions
        .iter()
        .map(|function| shown(machine, function))
        .collect()
}

fn shown(machine: &Machine<'_>, function: &Function) -> Shown {
    let address = function.address;
    // What cannot be read is told below.
    let name = usage::controller(machine, address).unwrap_or_default();
    let found = usage::look(machine, function);
    let said = |what: &str| {
        let name = name.as_ref()?;
        machine.text(&format!("sys/bus/pci/devices/{address}/nvme/{name}/{what}"))
    };
    Shown {
        address: address.to_string(),
        pci_id: format!("{:04x}:{:04x}", function.vendor, function.device),
        driver: function.driver.clone(),
        model: said("model"),
        serial: said("serial"),
        firmware: said("firmware_rev"),
        disks: usage::disks(machine, address).unwrap_or_default(),
        used: found.uses,
        not_known: found.unknown,
        iommu_group: function.group,
        numa_node: function.numa_node,
        link_speed: function.link.as_ref().map(|link| link.speed.clone()),
        link_lanes: function.link.as_ref().map(|link| link.lanes),
        link_degraded: function.link.as_ref().is_some_and(Link::is_degraded),
        name,
    }
}

/// `address  driver  what it is`, and indented what else there is to say.
pub(super) fn as_text(controllers: &[Shown]) -> String {
    if controllers.is_empty() {
        return "no NVMe controllers on this machine's PCI bus\n".to_owned();
    }
    let mut text = String::new();
    for one in controllers {
        let driver = one.driver.as_deref().unwrap_or("no driver");
        let what = one.model.as_deref().unwrap_or(&one.pci_id);
        let mut line = format!("{}  {driver:9}  {what}", one.address);
        let said = [("serial", &one.serial), ("firmware", &one.firmware)];
        for (label, value) in said {
            if let Some(value) = value {
                line += &format!(", {label} {value}");
            }
        }
        if !one.disks.is_empty() {
            line += &format!(": {}", one.disks.join(", "));
        }
        // Writing to text never fails.
        let _ = writeln!(text, "{}", line.trim_end());
        let group = one.iommu_group.map(|group| format!("IOMMU group {group}"));
        let group = group.unwrap_or_else(|| "no IOMMU group".to_owned());
        let node = one.numa_node.map(|node| format!(", NUMA node {node}"));
        let mut line = format!("  {group}{}", node.unwrap_or_default());
        if let (Some(speed), Some(lanes)) = (&one.link_speed, one.link_lanes) {
            line += &format!(", link {speed} x{lanes}");
        }
        if one.link_degraded {
            line += " (it could do more)";
        }
        let _ = writeln!(text, "{line}");
        for reason in &one.used {
            let _ = writeln!(text, "  in use: {reason}");
        }
        for reason in &one.not_known {
            let _ = writeln!(text, "  not known: {reason}");
        }
    }
    text
}

pub(super) fn as_json(controllers: &[Shown]) -> String {
    let json = serde_json::to_string_pretty(controllers);
    json.expect("texts and numbers alone") + "\n"
}
