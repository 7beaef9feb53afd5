//! Whether our NVMe driver can have a controller: it is there, bound to vfio-pci, and its IOMMU
//! group is free. And whether the devices of the kernel's driver may be opened.

use super::pci::{DEVICES, VFIO, check_vfio};
use super::{Found, Tree};
use crate::config::{Backend, Config};

/// PCI Code and ID Assignment: mass storage, non-volatile memory, NVM Express.
const CLASS: &str = "0x010802";

/// The controllers that units name, each once, with the first unit that does.
pub(super) fn controllers(config: &Config) -> Vec<(&str, &str)> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for unit in &config.logical_units {
        if let Backend::Nvme { address, .. } = &unit.backend
            && found.iter().all(|(other, _)| other != address)
        {
            found.push((address, &unit.name));
        }
    }
    found
}

pub(super) fn check(config: &Config, tree: &Tree, found: &mut Vec<Found>) {
    for (address, unit) in controllers(config) {
        let name = format!("logical_unit {unit}");
        check_controller(config, &name, address, tree, found);
    }
    for unit in &config.logical_units {
        let Backend::NvmeKernel { path } = &unit.backend else {
            continue;
        };
        let shown = path.display();
        let below = path.strip_prefix("/").unwrap_or(path).to_string_lossy();
        if !tree.usable(&below) {
            found.push(Found::error(
                format!("logical_unit {}: {shown} may not be opened", unit.name),
                "name a namespace's character device, such as /dev/ng0n1 (Linux 5.13 or newer), \
                 and give this user the right to read and write it",
            ));
        }
    }
}

fn check_controller(
    config: &Config,
    name: &str,
    address: &str,
    tree: &Tree,
    found: &mut Vec<Found>,
) {
    let path = format!("{DEVICES}/{address}");
    if !tree.exists(&path) {
        found.push(Found::error(
            format!("{name}: there is no PCI device {address}"),
            "iiblockdaemon nvme list names the controllers that are there",
        ));
        return;
    }
    let class = tree.text(&format!("{path}/class")).unwrap_or_default();
    if class != CLASS {
        found.push(Found::error(
            format!("{name}: {address} is no NVMe controller (PCI class {class})"),
            "iiblockdaemon nvme list names the controllers that are there",
        ));
        return;
    }
    let bind = format!(
        "what is on it is out of the host's reach then:\niiblockdaemon nvme bind {address}"
    );
    match tree.link(&format!("{path}/driver")).as_deref() {
        Some(VFIO) => {}
        Some(driver) => {
            found.push(Found::error(
                format!("{name}: {address} is bound to {driver}"),
                bind,
            ));
            return;
        }
        None => {
            found.push(Found::error(
                format!("{name}: {address} is bound to no driver"),
                bind,
            ));
            return;
        }
    }
    let group = tree.text(&format!("{path}/iommu_group/name"));
    if group.as_deref() == Some("vfio-noiommu") && !config.nvme.unsafe_noiommu {
        found.push(Found::error(
            format!("{name}: no IOMMU guards the machine from {address}"),
            "turn the IOMMU on (intel_iommu=on iommu=pt on the kernel's command line); or, for \
             trials, set unsafe_noiommu = true under [nvme]",
        ));
        return;
    }
    check_vfio(name, address, tree, found);
    let speed = |file: &str| tree.text(&format!("{path}/{file}"));
    let (speed_now, speed_max) = (speed("current_link_speed"), speed("max_link_speed"));
    let (lanes_now, lanes_max) = (speed("current_link_width"), speed("max_link_width"));
    if let (Some(speed_now), Some(lanes_now)) = (&speed_now, &lanes_now)
        && (Some(speed_now) != speed_max.as_ref() || Some(lanes_now) != lanes_max.as_ref())
    {
        found.push(Found::warning(
            format!("{name}: the link of {address} is at {speed_now}, {lanes_now} lanes"),
            format!(
                "it could do {}, {} lanes: look at the slot",
                speed_max.unwrap_or_default(),
                lanes_max.unwrap_or_default()
            ),
        ));
    }
}
