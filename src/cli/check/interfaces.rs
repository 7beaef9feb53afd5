//! Network interfaces of the host: TAP devices, those under virtual devices of DPDK, and what the
//! host itself uses.
//!
//! /proc/net is of the network namespace that looks; /sys/class/net is of the one that mounted it,
//! which in `unshare -n` is another.

use std::net::{IpAddr, Ipv6Addr};

use super::privileges::{self, Capability};
use super::{Found, Tree};
use crate::config::Port;

const NET: &str = "sys/class/net";

/// Names of the interfaces in the network namespace of this process.
fn interfaces(tree: &Tree) -> Vec<String> {
    let text = tree.text("proc/net/dev").unwrap_or_default();
    let names = text.lines().filter_map(|line| line.split_once(':'));
    let mut names: Vec<String> = names.map(|(name, _)| name.trim().to_owned()).collect();
    names.sort_unstable();
    names
}

/// Whether /sys speaks of the same network namespace, by the names that it has.
fn sys_is_ours(tree: &Tree) -> bool {
    // bonding_masters is a file beside the interfaces.
    let mut names = tree.names(NET);
    names.retain(|name| tree.exists(&format!("{NET}/{name}/mtu")));
    names == interfaces(tree)
}

pub(super) fn check_tap(port: &Port, device: &str, tree: &Tree, found: &mut Vec<Found>) {
    let name = &port.name;
    if !tree.exists("dev/net/tun") {
        found.push(Found::error(
            format!("port {name}: there is no /dev/net/tun"),
            "load the driver: modprobe tun (in a container: pass the device in)",
        ));
    } else if !tree.usable("dev/net/tun") {
        found.push(Found::error(
            format!("port {name}: /dev/net/tun may not be opened by this user"),
            "DeviceAllow=/dev/net/tun rw in the unit; chmod 0666 /dev/net/tun is the kernel's own \
             default",
        ));
    }
    let there = interfaces(tree).iter().any(|name| name == device) && sys_is_ours(tree);
    if there && !tree.exists(&format!("{NET}/{device}/tun_flags")) {
        found.push(Found::error(
            format!("port {name}: the interface {device} is there and is no TAP device"),
            "name another one: a TAP device is made at start",
        ));
        return;
    }
    let owner = tree.number::<u32>(&format!("{NET}/{device}/owner"));
    let owned = there && owner.is_some() && owner == privileges::user(tree);
    if !owned && !privileges::has(tree, Capability::NetAdmin) {
        found.push(Found::error(
            format!("port {name}: a TAP device needs CAP_NET_ADMIN"),
            format!(
                "AmbientCapabilities=CAP_NET_ADMIN in the unit; or make it for the user first: ip \
                 tuntap add {device} mode tap multi_queue vnet_hdr user USER && ip link set \
                 {device} mtu {} up; or try it out in unshare -rn",
                port.mtu
            ),
        ));
    } else if owned && !privileges::has(tree, Capability::NetAdmin) {
        let mtu = tree.number::<u16>(&format!("{NET}/{device}/mtu"));
        if let Some(mtu) = mtu.filter(|mtu| *mtu != port.mtu) {
            found.push(Found::error(
                format!("port {name}: mtu = {}, and {device} has {mtu}", port.mtu),
                format!("ip link set {device} mtu {}, or mtu = {mtu}", port.mtu),
            ));
        }
    }
}

/// Virtual devices of DPDK on an interface of the host.
pub(super) fn check_vdev(port: &Port, vdev: &str, tree: &Tree, found: &mut Vec<Found>) {
    let name = &port.name;
    let argument = |key: &str| {
        let mut arguments = vdev.split(',').skip(1);
        arguments.find_map(|argument| argument.strip_prefix(key)?.strip_prefix('='))
    };
    let needs: &[(Capability, &str)] = if vdev.starts_with("net_af_") {
        &[(Capability::NetRaw, "CAP_NET_RAW")]
    } else if vdev.starts_with("net_tap") {
        &[(Capability::NetAdmin, "CAP_NET_ADMIN")]
    } else {
        &[]
    };
    for (capability, called) in needs {
        if !privileges::has(tree, *capability) {
            found.push(Found::error(
                format!("port {name}: {vdev} needs {called}"),
                format!("AmbientCapabilities={called} in the unit, or try it out in unshare -rn"),
            ));
        }
    }
    let queues = argument("qpairs").or_else(|| argument("queues"));
    check_queues(port, vdev, queues, found);
    let interface = argument("iface").filter(|_| vdev.starts_with("net_af_"));
    let Some(interface) = interface else { return };
    if !interfaces(tree).iter().any(|name| name == interface) {
        found.push(Found::error(
            format!("port {name}: there is no interface {interface}"),
            "ip link shows those that are there, in this network namespace",
        ));
        return;
    }
    let mtu = match sys_is_ours(tree) {
        true => tree.number::<u32>(&format!("{NET}/{interface}/mtu")),
        // IPv6's own is that of the device, unless a router has told it to be shorter.
        false => tree.number(&format!("proc/sys/net/ipv6/conf/{interface}/mtu")),
    };
    if let Some(mtu) = mtu.filter(|mtu| *mtu < u32::from(port.mtu)) {
        let wanted = port.mtu;
        found.push(Found::error(
            format!("port {name}: mtu = {wanted}, and {interface} has {mtu}"),
            format!("ip link set {interface} mtu {wanted}, its other end too, or mtu = {mtu}"),
        ));
    }
    let state = tree.text(&format!("{NET}/{interface}/operstate"));
    if state.as_deref() == Some("down") && sys_is_ours(tree) {
        found.push(Found::warning(
            format!("port {name}: {interface} is down"),
            format!("ip link set {interface} up"),
        ));
    }
}

fn check_queues(port: &Port, vdev: &str, given: Option<&str>, found: &mut Vec<Found>) {
    let wanted = port.cores.len();
    let driver = vdev.split(',').next().unwrap_or_default();
    // These have one queue unless they are told.
    let key = ["net_af_packet", "net_vhost", "net_virtio_user"]
        .iter()
        .zip(["qpairs", "queues", "queues"])
        .find_map(|(known, key)| driver.starts_with(known).then_some(key));
    let Some(key) = key else { return };
    let has = given.and_then(|text| text.parse::<usize>().ok());
    if has.unwrap_or(1) != wanted {
        let name = &port.name;
        found.push(Found::error(
            format!(
                "port {name}: {wanted} queues, and {driver} has {}",
                has.unwrap_or(1)
            ),
            format!(
                "add {key}={wanted} to vdev, or set queues = {}",
                has.unwrap_or(1)
            ),
        ));
    }
}

/// No address of the port may be the host's, too: who answers would be chance.
pub(super) fn check_addresses(port: &Port, tree: &Tree, found: &mut Vec<Found>) {
    let own = of_host(tree);
    for address in port.networks.iter().flat_map(|network| &network.addresses) {
        if own.contains(&address.ip) {
            found.push(Found::error(
                format!(
                    "port {}: {} is an address of the host, too",
                    port.name, address.ip
                ),
                format!(
                    "give the port another one, or take it from the host: ip address del {}/{}",
                    address.ip, address.prefix
                ),
            ));
        }
    }
}

/// Addresses that the kernel answers for, loopback's left out.
fn of_host(tree: &Tree) -> Vec<IpAddr> {
    let mut own = Vec::new();
    // Each leaf is "|-- ADDRESS" and the lines of what it is; ours are "/32 host LOCAL".
    let mut leaf = None;
    for line in tree.text("proc/net/fib_trie").unwrap_or_default().lines() {
        if let Some(address) = line.trim().strip_prefix("|-- ") {
            leaf = address.parse::<IpAddr>().ok();
        } else if line.trim() == "/32 host LOCAL" {
            own.extend(leaf);
        }
    }
    for line in tree.text("proc/net/if_inet6").unwrap_or_default().lines() {
        let address = line.split_whitespace().next().unwrap_or_default();
        let bits = u128::from_str_radix(address, 16).ok();
        own.extend(bits.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))));
    }
    own.retain(|ip| !ip.is_loopback());
    own
}

/// What would be lost with an interface of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    DefaultRoute,
    Routes,
}

/// What the host uses an interface for, if anything; link-local addresses do not count.
pub(super) fn used_for(interface: &str, tree: &Tree) -> Option<Use> {
    // IPv4: interface, destination, gateway, flags; IPv6: destination, length, at last interface.
    let mut routes = Vec::new();
    for line in tree.text("proc/net/route").unwrap_or_default().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [name, destination, ..] = words[..]
            && name == interface
        {
            routes.push(destination.bytes().all(|byte| byte == b'0'));
        }
    }
    for line in tree.text("proc/net/ipv6_route").unwrap_or_default().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [destination, len, ..] = words[..] else {
            continue;
        };
        let local = destination.starts_with("fe80") || destination.starts_with("ff");
        if words.last() == Some(&interface) && !local {
            routes.push(len == "00" && destination.bytes().all(|byte| byte == b'0'));
        }
    }
    if routes.contains(&true) {
        return Some(Use::DefaultRoute);
    }
    (!routes.is_empty()).then_some(Use::Routes)
}
