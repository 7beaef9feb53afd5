//! Whether DPDK can have a network card: it is there, bound to the right driver, its IOMMU group is
//! free, and the host does not need it.

use super::interfaces::{Use, used_for};
use super::{Found, Tree};
use crate::config::{Config, Port};

pub(super) const DEVICES: &str = "sys/bus/pci/devices";
/// Drivers that give a card to user space.
pub(super) const VFIO: &str = "vfio-pci";
const UIO: [&str; 2] = ["uio_pci_generic", "igb_uio"];
/// Drivers of the kernel that keep the card and share it with DPDK.
const BIFURCATED: [&str; 3] = ["mlx5_core", "mlx4_core", "mana"];
/// Drivers that may have other functions of an IOMMU group (VFIO's own list: nobody uses them).
const HARMLESS: [&str; 3] = [VFIO, "pci-stub", "pcieport"];

pub(super) fn check(
    config: &Config,
    port: &Port,
    address: &str,
    tree: &Tree,
    found: &mut Vec<Found>,
) {
    let name = &port.name;
    let path = format!("{DEVICES}/{address}");
    if !tree.exists(&path) {
        found.push(Found::error(
            format!("port {name}: there is no PCI device {address}"),
            "lspci -D names those that are there, network cards with \"Ethernet controller\"",
        ));
        return;
    }
    let class = tree.text(&format!("{path}/class")).unwrap_or_default();
    // PCI Code and ID Assignment: base class 02h are network controllers.
    if !class.is_empty() && !class.starts_with("0x02") {
        found.push(Found::error(
            format!("port {name}: {address} is no network card (PCI class {class})"),
            "lspci -D names network cards with \"Ethernet controller\"",
        ));
        return;
    }
    let driver = tree.link(&format!("{path}/driver"));
    match driver.as_deref() {
        Some(VFIO) => check_vfio(&format!("port {name}"), address, tree, found),
        Some(driver) if UIO.contains(&driver) => found.push(Found::warning(
            format!("port {name}: {address} is bound to {driver}, which no IOMMU guards"),
            format!(
                "a card that errs may write anywhere; better:\n{}",
                bind(address)
            ),
        )),
        Some(driver) if BIFURCATED.contains(&driver) => {
            check_bifurcated(port, address, driver, tree, found);
        }
        Some(driver) => check_kernel(port, address, driver, tree, found),
        None => found.push(Found::error(
            format!("port {name}: {address} is bound to no driver"),
            format!("give it to {VFIO}:\n{}", bind(address)),
        )),
    }
    if config.dpdk.as_ref().is_some_and(|dpdk| !dpdk.huge) {
        found.push(Found::error(
            format!("port {name}: a card needs huge pages, and [dpdk] has huge = false"),
            "set huge = true; ordinary pages serve virtual devices only",
        ));
    }
}

/// The lines that bind a card to vfio-pci.
fn bind(address: &str) -> String {
    format!(
        "modprobe {VFIO} && driverctl set-override {address} {VFIO}\n\
         or by hand: echo {VFIO} > /{DEVICES}/{address}/driver_override; echo {address} > \
         /{DEVICES}/{address}/driver/unbind; echo {address} > /sys/bus/pci/drivers_probe"
    )
}

/// The card is with the kernel.
fn check_kernel(port: &Port, address: &str, driver: &str, tree: &Tree, found: &mut Vec<Found>) {
    let name = &port.name;
    let interfaces = tree.names(&format!("{DEVICES}/{address}/net"));
    let uses = interfaces.iter().filter_map(|interface| {
        let used = used_for(interface, tree)?;
        Some((interface, used))
    });
    for (interface, used) in uses {
        match used {
            Use::DefaultRoute => found.push(Found::error(
                format!("port {name}: {address} is {interface}, the host's default route"),
                "without it the machine cannot be reached; choose another card, or move the \
                 route first",
            )),
            Use::Routes => found.push(Found::warning(
                format!("port {name}: {address} is {interface}, which the host has addresses on"),
                format!("they go with the card: ip address flush dev {interface}"),
            )),
        }
    }
    found.push(Found::error(
        format!("port {name}: {address} is bound to {driver}, the kernel's driver"),
        format!("give it to {VFIO}:\n{}", bind(address)),
    ));
}

/// The card stays with the kernel's driver, which shares it.
fn check_bifurcated(port: &Port, address: &str, driver: &str, tree: &Tree, found: &mut Vec<Found>) {
    let name = &port.name;
    let path = format!("{DEVICES}/{address}");
    let verbs = tree.names(&format!("{path}/infiniband_verbs"));
    if verbs.is_empty() {
        found.push(Found::error(
            format!("port {name}: {driver} does not offer {address} to user space"),
            "install rdma-core and load what does: modprobe mlx5_ib ib_uverbs (mlx4_ib, mana_ib); \
             the card stays with its driver, vfio-pci is wrong for it",
        ));
    }
    for device in verbs {
        let file = format!("dev/infiniband/{device}");
        if !tree.usable(&file) {
            found.push(Found::error(
                format!("port {name}: /{file} may not be opened by this user"),
                format!("DeviceAllow=/{file} rw in the unit, and a group that may"),
            ));
        }
    }
    for interface in tree.names(&format!("{path}/net")) {
        if let Some(used) = used_for(&interface, tree) {
            let what = match used {
                Use::DefaultRoute => "the host's default route",
                Use::Routes => "which the host has addresses on",
            };
            found.push(Found::warning(
                format!("port {name}: {address} is {interface}, {what}"),
                "the host and DPDK share the card by MAC address, and DPDK takes what is for it: \
                 leave this interface to the daemon",
            ));
        }
        let mtu = tree.number::<u32>(&format!("{path}/net/{interface}/mtu"));
        if let Some(mtu) = mtu.filter(|mtu| *mtu < u32::from(port.mtu)) {
            found.push(Found::warning(
                format!("port {name}: mtu = {}, and {interface} has {mtu}", port.mtu),
                format!("ip link set {interface} mtu {}", port.mtu),
            ));
        }
    }
}

/// Whether vfio can give the device at `address` to this process; `name` begins what is found.
pub(super) fn check_vfio(name: &str, address: &str, tree: &Tree, found: &mut Vec<Found>) {
    let unsafe_mode = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
    let Some(group) = tree.link(&format!("{DEVICES}/{address}/iommu_group")) else {
        found.push(Found::error(
            format!("{name}: {address} is in no IOMMU group: the IOMMU is off"),
            "turn it on in the firmware (VT-d, AMD-Vi) and on the kernel's command line: \
             intel_iommu=on iommu=pt (AMD: iommu=pt)",
        ));
        return;
    };
    if tree.text(unsafe_mode).as_deref() == Some("Y") {
        found.push(Found::warning(
            format!("{name}: vfio works without an IOMMU here"),
            "a card that errs may write anywhere; fit for trials only",
        ));
    }
    let members = format!("sys/kernel/iommu_groups/{group}/devices");
    for member in tree.names(&members) {
        let driver = tree.link(&format!("{DEVICES}/{member}/driver"));
        let Some(driver) = driver.filter(|driver| !HARMLESS.contains(&driver.as_str())) else {
            continue;
        };
        found.push(Found::error(
            format!(
                "{name}: {address} shares IOMMU group {group} with {member}, which is bound \
                 to {driver}"
            ),
            format!(
                "the group is given away as a whole: bind {member} to {VFIO} too, or put the card \
                 into another slot"
            ),
        ));
    }
    for file in ["dev/vfio/vfio".to_owned(), format!("dev/vfio/{group}")] {
        let unguarded = format!("dev/vfio/noiommu-{group}");
        if !tree.usable(&file) && !tree.usable(&unguarded) {
            found.push(Found::error(
                format!("{name}: /{file} may not be opened by this user"),
                format!(
                    "a udev rule gives it to a group, SUBSYSTEM==\"vfio\", GROUP=\"vfio\", \
                     MODE=\"0660\"; SupplementaryGroups=vfio and DeviceAllow=/{file} rw in the \
                     unit"
                ),
            ));
        }
    }
}
