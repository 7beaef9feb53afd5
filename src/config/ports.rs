//! Reads `[dpdk]` and `[[port]]`: the network devices that the daemon drives itself.

use std::time::Duration;

use super::file::MIB;
use super::model::{
    CoreList, Device, Dpdk, MTU_DEFAULT, MTU_DEFAULT_PCI, PORTS_MAX, Port, PortalGroup,
};
use super::networks::{Own, read_networks};
use super::reader::{At, Section};
use super::report::Finding;
use super::suggest::nearest;
use crate::net::stack::model::Network;

/// The longest name of a port in bytes.
const NAME_LEN_MAX: usize = 15;
/// The longest interface name that Linux takes, in bytes.
const INTERFACE_LEN_MAX: usize = 15;
/// The longest text of a virtual device in bytes.
const VDEV_LEN_MAX: usize = 1024;
/// The longest file prefix in bytes.
const PREFIX_LEN_MAX: usize = 63;
/// The most further EAL arguments.
const ARGS_MAX: usize = 32;
/// Frames that a DPDK queue is given memory for: rings of both ways, caches, and what flows hold.
const FRAMES_PER_QUEUE: usize = 4096;
/// Bytes of a frame's memory beside the packet: headers of DPDK, head room, Ethernet and tags.
const FRAME_BESIDE: usize = 512;
/// MiB of DPDK's own, beside frames.
const DPDK_MIB_MIN: usize = 64;
/// The longest MTU of a TAP device: the kernel's buffer less the Ethernet header.
const MTU_MAX_TAP: u16 = 65_521;
/// The shortest MTU of IPv6 (RFC 8200 §5).
const MTU_MIN_IPV6: u16 = 1280;

const DRIVERS: [&str; 9] = [
    "net_af_packet",
    "net_af_xdp",
    "net_memif",
    "net_null",
    "net_pcap",
    "net_ring",
    "net_tap",
    "net_vhost",
    "net_virtio_user",
];

/// EAL options that the daemon sets, and the key that decides each.
const OWN_OPTIONS: [(&str, &str); 15] = [
    ("-l", "cores of [[port]]"),
    ("-c", "cores of [[port]]"),
    ("--lcores", "cores of [[port]]"),
    ("--main-lcore", "cores of [[port]]"),
    ("-m", "memory_mib"),
    ("--socket-mem", "memory_mib"),
    ("--no-huge", "huge"),
    ("--in-memory", "huge"),
    ("--no-pci", "device of [[port]]"),
    ("--file-prefix", "file_prefix"),
    ("--vdev", "vdev of [[port]]"),
    ("-a", "device of [[port]]"),
    ("--allow", "device of [[port]]"),
    ("-b", "device of [[port]]"),
    ("--block", "device of [[port]]"),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dpdk,
    Tap,
}

const KINDS: [(&str, Kind); 2] = [("dpdk", Kind::Dpdk), ("tap", Kind::Tap)];

/// What was read, and where.
#[derive(Debug, Default)]
pub(super) struct Ports {
    pub(super) dpdk: Option<Dpdk>,
    pub(super) ports: Vec<At<Port>>,
    /// The addresses of all of them.
    pub(super) own: Vec<Own>,
}

pub(super) fn read_ports(root: &mut Section<'_>, cores: &CoreList) -> Ports {
    let table = root.table("dpdk", "[dpdk]");
    let sections = root.tables("port", "[[port]]");
    if sections.len() > PORTS_MAX {
        let message = format!("more than {PORTS_MAX} ports");
        root.report(Finding::error(sections[PORTS_MAX].span(), message));
    }
    let mut read = Ports::default();
    let mut names: Vec<At<String>> = Vec::new();
    let mut devices: Vec<At<String>> = Vec::new();
    for (index, mut section) in sections.into_iter().take(PORTS_MAX).enumerate() {
        let name = read_name(&mut section, &mut names);
        let device = read_device(&mut section, &mut devices);
        let cores = read_cores(&mut section, cores);
        let networks = read_networks(&mut section, index, &mut read.own);
        let mtu = read_mtu(&mut section, device.as_ref(), &networks);
        let promiscuous = section.boolean("promiscuous").unwrap_or(false);
        let (keepalive, user_timeout) = read_timeouts(&mut section);
        // A port that is wrong in some way stays known, so that portals on it are not reported as
        // well; the file is refused anyway.
        let port = Port {
            name: name.unwrap_or_default(),
            device: device.unwrap_or(Device::Tap(String::new())),
            cores,
            mtu,
            promiscuous,
            networks,
            keepalive,
            user_timeout,
        };
        read.ports.push(At {
            value: port,
            span: section.key_span("name"),
        });
        section.finish();
    }
    let needed: Vec<&Port> = read.ports.iter().map(|port| &port.value).collect();
    read.dpdk = read_dpdk(root, table, &needed);
    read
}

/// Tells of ports that no portal is on.
pub(super) fn report_unused(root: &Section<'_>, read: &Ports, groups: &[At<PortalGroup>]) {
    for (index, port) in read.ports.iter().enumerate() {
        let mut portals = groups.iter().flat_map(|group| &group.value.portals);
        if portals.any(|portal| portal.port == Some(index)) {
            continue;
        }
        // A port without a good address is an error already.
        let Some(own) = read.own.iter().find(|own| own.port == index) else {
            continue;
        };
        let message = format!("no portal is on the port {:?}", port.value.name);
        let portal = std::net::SocketAddr::new(own.ip, super::ISCSI_PORT);
        let help = format!(
            "name one of its addresses in a [[portal_group]], as in portals = [\"{portal}\"]; \
             0.0.0.0 and [::] are the host's addresses only"
        );
        root.report(Finding::warning(port.span.clone(), message).help(help));
    }
}

fn read_name(section: &mut Section<'_>, names: &mut Vec<At<String>>) -> Option<String> {
    let name = section.required_text("name", "name the port, as in name = \"p0\"")?;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.value.is_empty() || name.value.len() > NAME_LEN_MAX || !name.value.chars().all(good) {
        let help = format!("use 1 to {NAME_LEN_MAX} of the characters a-z A-Z 0-9 - _ .");
        let message = format!("{:?} cannot name a port", name.value);
        section.report(Finding::error(name.span, message).help(help));
        return None;
    }
    let name = At {
        value: name.value.to_owned(),
        span: name.span,
    };
    let help = "give each port its own name";
    distinct(section, names, name, "two ports are named", help)
}

/// `value`, unless it stands among `others`; then that is reported.
fn distinct(
    section: &Section<'_>,
    others: &mut Vec<At<String>>,
    value: At<String>,
    what: &str,
    help: &str,
) -> Option<String> {
    if let Some(first) = others.iter().find(|other| other.value == value.value) {
        section.report(
            Finding::error(value.span, format!("{what} {:?}", value.value))
                .other(first.span.clone(), "the first one")
                .help(help),
        );
        return None;
    }
    let text = value.value.clone();
    others.push(value);
    Some(text)
}

fn read_device(section: &mut Section<'_>, devices: &mut Vec<At<String>>) -> Option<Device> {
    let kind = section.required_text("type", "say what it is: type = \"dpdk\" or \"tap\"");
    let kind = kind.and_then(|kind| section.choose("type", &kind, &KINDS));
    let device = section.text("device");
    let vdev = section.text("vdev");
    let taken = "a device belongs to one port";
    match (kind?, device, vdev) {
        (Kind::Dpdk, Some(_), Some(vdev)) => {
            let other = section.key_span("device");
            section.report(
                Finding::error(vdev.span, "the port has both device and vdev")
                    .other(other, "this is another device")
                    .help("keep one of them: device for a network card, vdev for a virtual one"),
            );
            None
        }
        (Kind::Dpdk, Some(device), None) => {
            let pci = read_pci(section, &device)?;
            let device = At {
                value: pci,
                span: device.span,
            };
            distinct(section, devices, device, "two ports drive", taken).map(Device::Pci)
        }
        (Kind::Dpdk, None, Some(vdev)) => {
            let driver = read_vdev(section, &vdev)?;
            let device = At {
                value: driver,
                span: vdev.span,
            };
            let help = "number the devices of one driver, as in net_af_packet0 and net_af_packet1";
            distinct(section, devices, device, "two ports drive", help)?;
            Some(Device::Vdev(vdev.value.to_owned()))
        }
        (Kind::Dpdk, None, None) => {
            if !section.has("device") && !section.has("vdev") {
                let help = "name a network card by its PCI address, device = \"0000:3b:00.0\", or \
                            a virtual device, vdev = \"net_af_packet0,iface=eth1\"";
                section.missing("device", help);
            }
            None
        }
        (Kind::Tap, device, vdev) => {
            if let Some(vdev) = vdev {
                let finding = Finding::error(vdev.span, "a port of type \"tap\" has no vdev");
                section.report(finding.help("name the TAP device, as in device = \"iibd0\""));
            }
            let interface = match device {
                Some(device) => read_interface(section, &device)?,
                None => {
                    if !section.has("device") {
                        let help = "name the TAP device, as in device = \"iibd0\"";
                        section.missing("device", help);
                    }
                    return None;
                }
            };
            distinct(section, devices, interface, "two ports drive", taken).map(Device::Tap)
        }
    }
}

/// A PCI address in full: domain, bus, device, function.
pub(super) fn read_pci(section: &Section<'_>, text: &At<&str>) -> Option<String> {
    let parts: Vec<&str> = text.value.split([':', '.']).collect();
    let number = |text: &str, digits: usize| {
        let hexadecimal = text.len() <= digits && text.chars().all(|c| c.is_ascii_hexdigit());
        let value = u32::from_str_radix(text, 16).ok();
        value.filter(|_| hexadecimal)
    };
    let parsed = match parts[..] {
        [bus, device, function] => Some(("0", bus, device, function)),
        [domain, bus, device, function] => Some((domain, bus, device, function)),
        _ => None,
    };
    let parsed = parsed.and_then(|(domain, bus, device, function)| {
        let device = number(device, 2).filter(|device| *device < 32)?;
        let function = number(function, 1).filter(|function| *function < 8)?;
        Some((number(domain, 4)?, number(bus, 2)?, device, function))
    });
    let separated = text.value.matches('.').count() == 1;
    match parsed.filter(|_| separated) {
        Some((domain, bus, device, function)) => {
            Some(format!("{domain:04x}:{bus:02x}:{device:02x}.{function}"))
        }
        None => {
            let message = format!("{:?} is not a PCI address", text.value);
            let help = "write it as `lspci -D` does: \"0000:3b:00.0\"";
            section.report(Finding::error(text.span.clone(), message).help(help));
            None
        }
    }
}

/// The first word of a virtual device, which names it.
fn read_vdev(section: &Section<'_>, text: &At<&str>) -> Option<String> {
    let name = text.value.split(',').next().unwrap_or_default();
    let driver = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let printable = text.value.bytes().all(|byte| byte.is_ascii_graphic());
    let named = driver.starts_with("net_") || driver.starts_with("eth_");
    if text.value.len() > VDEV_LEN_MAX || !printable || !named {
        let message = format!("{:?} is not a virtual device", text.value);
        let help = "write driver, number and arguments without blanks, as in \
                    \"net_af_packet0,iface=eth1\"";
        section.report(Finding::error(text.span.clone(), message).help(help));
        return None;
    }
    if !DRIVERS.contains(&driver)
        && let Some(near) = nearest(driver, DRIVERS)
    {
        let message = format!("DPDK's driver {driver:?} is not one that we know");
        let help = format!("did you mean {near:?}?");
        section.report(Finding::warning(text.span.clone(), message).help(help));
    }
    Some(name.to_owned())
}

fn read_interface(section: &Section<'_>, text: &At<&str>) -> Option<At<String>> {
    let good = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%');
    let dots = matches!(text.value, "." | "..");
    let len = 1..=INTERFACE_LEN_MAX;
    if !len.contains(&text.value.len()) || !text.value.chars().all(good) || dots {
        let message = format!("{:?} cannot name a network interface", text.value);
        let help = format!("use 1 to {INTERFACE_LEN_MAX} characters, as in \"iibd0\"");
        section.report(Finding::error(text.span.clone(), message).help(help));
        return None;
    }
    Some(At {
        value: text.value.to_owned(),
        span: text.span.clone(),
    })
}

/// The data core of each queue.
fn read_cores(section: &mut Section<'_>, data: &CoreList) -> Vec<usize> {
    let count = data.count();
    let queues = section.integer("queues", 1..=count.max(1) as u64, "queues, one a data core");
    let wanted = queues.as_ref().map(|queues| queues.value);
    let listed = section.integers("cores", &(0..=65_535));
    let Some(listed) = listed else {
        let queues = wanted.and_then(|queues| usize::try_from(queues).ok());
        return (0..queues.unwrap_or(count)).collect();
    };
    let CoreList::List(data) = data else {
        let message = "cores names CPUs, and [cores] does not say on which CPUs data cores run";
        let help = "write [cores] list = [...], or leave cores out of the port";
        section.report(Finding::error(listed.span, message).help(help));
        return vec![0];
    };
    let mut cores: Vec<usize> = Vec::with_capacity(listed.value.len());
    for cpu in &listed.value {
        let found = data.iter().position(|core| *core as u64 == cpu.value);
        match found {
            Some(core) if cores.contains(&core) => {
                let message = format!("CPU {} stands twice in cores", cpu.value);
                let help = "each core polls one queue of a port";
                section.report(Finding::error(cpu.span.clone(), message).help(help));
            }
            Some(core) => cores.push(core),
            None => {
                let message = format!("CPU {} is not a data core", cpu.value);
                let help = format!("[cores] list has {data:?}: choose from these, or add it there");
                section.report(Finding::error(cpu.span.clone(), message).help(help));
            }
        }
    }
    if section.is_empty_array("cores") {
        let finding = Finding::error(listed.span.clone(), "cores is empty");
        section.report(finding.help("name one CPU for each queue, or leave the key out"));
    } else if let Some(queues) = queues
        && queues.value != listed.value.len() as u64
    {
        let cpus = listed.value.len();
        let message = format!("{} queues and {cpus} cores", queues.value);
        section.report(
            Finding::error(queues.span, message)
                .other(listed.span, "these are the cores")
                .help("name one CPU for each queue, or leave queues out"),
        );
    }
    cores
}

fn read_mtu(section: &mut Section<'_>, device: Option<&Device>, networks: &[Network]) -> u16 {
    let default = match device {
        Some(Device::Pci(_)) => MTU_DEFAULT_PCI,
        _ => MTU_DEFAULT,
    };
    let Some(mtu) = section.integer("mtu", 576..=65_535, "bytes of an IP packet") else {
        return default;
    };
    let bytes = u16::try_from(mtu.value).unwrap_or(default);
    let mut addresses = networks.iter().flat_map(|network| &network.addresses);
    if matches!(device, Some(Device::Tap(_))) && bytes > MTU_MAX_TAP {
        let message = format!("mtu {bytes} is too long for a TAP device");
        let help = format!("it carries up to {MTU_MAX_TAP}");
        section.report(Finding::error(mtu.span.clone(), message).help(help));
    }
    if bytes < MTU_MIN_IPV6 && addresses.any(|address| address.ip.is_ipv6()) {
        let message = format!("mtu {bytes} is too short for IPv6");
        let help = format!("IPv6 needs {MTU_MIN_IPV6}; leave its addresses out of this port else");
        section.report(Finding::error(mtu.span, message).help(help));
    }
    bytes
}

/// `keepalive_s` and `user_timeout_s`.
fn read_timeouts(section: &mut Section<'_>) -> (Duration, Duration) {
    let keepalive = section.integer("keepalive_s", 1..=3600, "seconds");
    let user = section.integer("user_timeout_s", 5..=3600, "seconds");
    let keepalive_s = keepalive.map_or(15, |seconds| seconds.value);
    let user_s = user.map_or(60, |seconds| seconds.value);
    if user_s <= keepalive_s {
        let key = ["user_timeout_s", "keepalive_s"];
        let key = key.into_iter().find(|key| section.has(key));
        let span = key.map_or_else(|| section.span(), |key| section.key_span(key));
        let message = format!(
            "user_timeout_s ({user_s}) ends a connection before keepalive_s ({keepalive_s}) has \
             asked"
        );
        section.report(Finding::error(span, message).help("make user_timeout_s the longer one"));
    }
    (
        Duration::from_secs(keepalive_s),
        Duration::from_secs(user_s),
    )
}

/// `[dpdk]`, with what `ports` ask for where it does not say.
fn read_dpdk(root: &Section<'_>, table: Option<Section<'_>>, ports: &[&Port]) -> Option<Dpdk> {
    let needed = ports.iter().any(|port| port.device.needs_dpdk());
    let mut dpdk = Dpdk {
        memory_bytes: default_memory_mib(ports) * MIB,
        huge: true,
        file_prefix: "iiblockdaemon".to_owned(),
        args: Vec::new(),
    };
    if let Some(mut section) = table {
        // A port whose device is wrong may have been meant to need it.
        let unknown = Device::Tap(String::new());
        if !needed && ports.iter().all(|port| port.device != unknown) {
            let finding = Finding::warning(section.span(), "[dpdk] without a port that needs it");
            root.report(finding.help("add a [[port]] with type = \"dpdk\", or leave [dpdk] out"));
        }
        let range = DPDK_MIB_MIN as u64..=1024 * 1024;
        if let Some(mib) = section.integer("memory_mib", range, "MiB") {
            dpdk.memory_bytes = usize::try_from(mib.value).unwrap_or(DPDK_MIB_MIN) * MIB;
        }
        if let Some(huge) = section.boolean("huge") {
            dpdk.huge = huge;
        }
        if let Some(prefix) = read_prefix(&mut section) {
            dpdk.file_prefix = prefix;
        }
        dpdk.args = read_args(&mut section);
        section.finish();
    }
    needed.then_some(dpdk)
}

/// Memory for the frames of every queue, in whole MiB.
fn default_memory_mib(ports: &[&Port]) -> usize {
    let queues = ports.iter().filter(|port| port.device.needs_dpdk());
    let bytes: usize = queues
        .map(|port| {
            let frame = (usize::from(port.mtu) + FRAME_BESIDE).next_multiple_of(1024);
            port.cores.len() * FRAMES_PER_QUEUE * frame
        })
        .sum();
    DPDK_MIB_MIN + bytes.div_ceil(MIB)
}

fn read_prefix(section: &mut Section<'_>) -> Option<String> {
    let prefix = section.text("file_prefix")?;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let len = 1..=PREFIX_LEN_MAX;
    if !len.contains(&prefix.value.len()) || !prefix.value.chars().all(good) {
        let message = format!("{:?} cannot be a file prefix", prefix.value);
        let help = format!("use 1 to {PREFIX_LEN_MAX} of the characters a-z A-Z 0-9 - _ .");
        section.report(Finding::error(prefix.span, message).help(help));
        return None;
    }
    Some(prefix.value.to_owned())
}

fn read_args(section: &mut Section<'_>) -> Vec<String> {
    let Some(texts) = section.texts("args") else {
        return Vec::new();
    };
    if texts.value.len() > ARGS_MAX {
        let message = format!("more than {ARGS_MAX} arguments");
        section.report(Finding::error(texts.span, message));
    }
    let mut args = Vec::with_capacity(texts.value.len());
    for text in texts.value {
        let option = text.value.split('=').next().unwrap_or_default();
        if let Some((_, key)) = OWN_OPTIONS.iter().find(|(own, _)| *own == option) {
            let message = format!("the daemon sets {option} itself");
            let help = format!("what decides it: {key}");
            section.report(Finding::error(text.span, message).help(help));
        } else if text.value.is_empty() || text.value.contains('\0') {
            let finding = Finding::error(text.span, "an argument is empty or holds a zero byte");
            section.report(finding.help("each element is one argument, as in \"--log-level=7\""));
        } else {
            args.push(text.value.to_owned());
        }
    }
    args
}
