//! Reads `[[portal_group]]` and `[[logical_unit]]`.
//!
//! No two groups may listen on one address, since a connection has to belong to one group
//! (RFC 7143 §4.4.1), and no two units may use one backing object.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::{Component, Path, PathBuf};

use super::model::{
    Access, Backend, Engine, LogicalUnit, OutOfSpace, Portal, PortalGroup, ReservationMatching,
    SoftThreshold, Thin,
};
use super::networks::Own;
use super::nvme;
use super::reader::{At, Section};
use super::report::{Finding, Span};
use super::suggest::nearest;

/// IANA's port of iSCSI, where a portal names none.
pub const ISCSI_PORT: u16 = 3260;

/// The longest unit serial number in bytes (VPD 80h holds it).
const SERIAL_LEN_MAX: usize = 36;
/// The longest name of a logical unit in bytes.
const UNIT_NAME_LEN_MAX: usize = 64;
const ACCESS: [(&str, Access); 4] = [
    ("optimized", Access::Optimized),
    ("non-optimized", Access::NonOptimized),
    ("standby", Access::Standby),
    ("unavailable", Access::Unavailable),
];
const OUT_OF_SPACE: [(&str, OutOfSpace); 2] =
    [("fail", OutOfSpace::Fail), ("retry", OutOfSpace::Retry)];

/// The most logical units of one process.
pub const UNITS_MAX: usize = 4096;

/// `own` are the addresses of the daemon's own ports.
pub(super) fn read_portal_groups(root: &mut Section<'_>, own: &[Own]) -> Vec<At<PortalGroup>> {
    let sections = root.tables("portal_group", "[[portal_group]]");
    if sections.is_empty() && !root.has("portal_group") {
        root.missing(
            "[[portal_group]]",
            "add where to listen:\n[[portal_group]]\ntag = 1\nportals = [\"127.0.0.1:3260\"]",
        );
    }
    let mut groups: Vec<At<PortalGroup>> = Vec::with_capacity(sections.len());
    let mut listening: Vec<(Portal, Span)> = Vec::new();
    for mut section in sections {
        let tag = section.integer("tag", 0..=65_535, "");
        if tag.is_none() && !section.has("tag") {
            section.missing("tag", "number the group, as in tag = 1");
        }
        let portals = read_portals(&mut section, own, &mut listening);
        let access = section.choice("access", &ACCESS).map(|access| access.value);
        let preferred = section.boolean("preferred").unwrap_or(false);
        if let Some(tag) = tag {
            let number = u16::try_from(tag.value).unwrap_or_default();
            match groups.iter().find(|group| group.value.tag == number) {
                Some(first) => section.report(
                    Finding::error(tag.span, format!("two portal groups have the tag {number}"))
                        .other(first.span.clone(), "the first one")
                        .help("give each group its own tag"),
                ),
                None => groups.push(At {
                    value: PortalGroup {
                        tag: number,
                        portals,
                        access: access.unwrap_or_default(),
                        preferred,
                    },
                    span: tag.span,
                }),
            }
        }
        section.finish();
    }
    groups
}

fn read_portals(
    section: &mut Section<'_>,
    own: &[Own],
    listening: &mut Vec<(Portal, Span)>,
) -> Vec<Portal> {
    let Some(texts) = section.texts("portals") else {
        if !section.has("portals") {
            section.missing(
                "portals",
                "say where to listen, as in portals = [\"0.0.0.0:3260\"]",
            );
        }
        return Vec::new();
    };
    if section.is_empty_array("portals") {
        let finding = Finding::error(texts.span, "portals is empty");
        section.report(finding.help("say where to listen, as in portals = [\"0.0.0.0:3260\"]"));
    }
    let mut portals = Vec::with_capacity(texts.value.len());
    for text in texts.value {
        let address = match parse_portal(text.value) {
            Ok(address) => address,
            Err(help) => {
                let message = format!("{:?} is not a portal", text.value);
                section.report(Finding::error(text.span, message).help(help));
                continue;
            }
        };
        let port = own.iter().find(|own| own.ip == address.ip());
        let portal = Portal {
            address,
            port: port.map(|own| own.port),
            optional: false,
        };
        if let (Some(own), SocketAddr::V6(scoped)) = (port, address)
            && scoped.scope_id() != 0
        {
            report_scope(section, &scoped, own, &text.span);
            continue;
        }
        if address.port() == 0 {
            report_any_port(section, address, port, &text.span);
        }
        match listening.iter().find(|(other, _)| overlap(other, &portal)) {
            Some((other, span)) => {
                let message = format!("portal {address} collides with {}", other.address);
                section.report(
                    Finding::error(text.span, message)
                        .label("here again")
                        .other(span.clone(), "already listens here")
                        .help(
                            "a portal belongs to one portal group, and an unspecified address \
                             takes its port on all addresses",
                        ),
                );
            }
            None => {
                listening.push((portal, text.span));
                portals.push(portal);
            }
        }
    }
    portals
}

/// Reports port 0, with which only the host's sockets can do something.
fn report_any_port(section: &Section<'_>, address: SocketAddr, own: Option<&Own>, span: &Span) {
    let message = format!("portal {address} takes any free port");
    let finding = match own {
        None => Finding::warning(span.clone(), message)
            .help("initiators look for a known one; iSCSI's is 3260"),
        Some(own) => Finding::error(span.clone(), message)
            .other(own.span.clone(), "this address is no socket of the host's")
            .help(format!("name the port: iSCSI's is {ISCSI_PORT}")),
    };
    section.report(finding);
}

/// Reports a scope, which names an interface of the host's.
fn report_scope(section: &Section<'_>, address: &SocketAddrV6, own: &Own, span: &Span) {
    let message = format!(
        "portal {address} has the scope {}, on a port",
        address.scope_id()
    );
    let bare = SocketAddrV6::new(*address.ip(), address.port(), 0, 0);
    section.report(
        Finding::error(span.clone(), message)
            .other(own.span.clone(), "this address is no socket of the host's")
            .help(format!(
                "a port is no interface of the host's: write {bare}"
            )),
    );
}

/// Whether one of the two portals would take the other's connections. An unspecified address is the
/// host's.
fn overlap(a: &Portal, b: &Portal) -> bool {
    let (of_a, of_b) = (a.address, b.address);
    let any = |one: &Portal, other: &Portal| {
        one.address.ip().is_unspecified() && one.port.is_none() && other.port.is_none()
    };
    of_a.port() == of_b.port()
        && of_a.port() != 0
        && of_a.is_ipv4() == of_b.is_ipv4()
        && (of_a.ip() == of_b.ip() || any(a, b) || any(b, a))
}

/// An address with or without a port; the error is the remedy.
pub(crate) fn parse_portal(text: &str) -> Result<SocketAddr, String> {
    if let Some(device) = text.strip_prefix("dpdk:") {
        return Err(format!(
            "a portal is an address: give {device:?} a [[port]] with type = \"dpdk\" and \
             addresses, and name one of those addresses here"
        ));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, ISCSI_PORT));
    }
    Err(
        "a portal is an IP address and a port, as in \"192.0.2.1:3260\" or \
         \"[2001:db8::1]:3260\"; host names are not looked up"
            .to_owned(),
    )
}

pub(super) fn read_logical_units(root: &mut Section<'_>, state_dir: &Path) -> Vec<At<LogicalUnit>> {
    let sections = root.tables("logical_unit", "[[logical_unit]]");
    if sections.len() > UNITS_MAX {
        let message = format!("more than {UNITS_MAX} logical units");
        root.report(Finding::error(sections[UNITS_MAX].span(), message));
    }
    let mut units: Vec<At<LogicalUnit>> = Vec::with_capacity(sections.len());
    let mut serials: Vec<At<String>> = Vec::new();
    let mut taken = Taken::default();
    for mut section in sections.into_iter().take(UNITS_MAX) {
        let name = read_name(&mut section, &units);
        let block_size = read_block_size(&mut section, "block_size", 512);
        let physical = read_physical(&mut section, block_size);
        let serial = read_serial(&mut section, &mut serials);
        let read_only = section.boolean("read_only").unwrap_or(false);
        let write_cache = section.boolean("write_cache").unwrap_or(true);
        let reservations = section
            .choice("reservations", &MATCHINGS)
            .map_or(ReservationMatching::Port, |matching| matching.value);
        let removable = section.boolean("removable").unwrap_or(false);
        let long_cdbs = section.boolean("long_cdbs").unwrap_or(false);
        let backend = read_what_holds_it(&mut section, block_size, state_dir, &mut taken);
        let explicit_alua = section.boolean("explicit_alua").unwrap_or(false);
        let thin = section.table("thin", "[logical_unit.thin]");
        let thin = thin.map_or_else(Thin::default, |thin| read_thin(thin, backend.as_ref()));
        if let Some(name) = name {
            // A unit without a usable backend stays known, so that the LUNs that name it are not
            // reported as well; the file is refused anyway.
            let value = LogicalUnit {
                name: name.value,
                block_size,
                physical_block_size: physical,
                read_only,
                write_cache,
                removable,
                long_cdbs,
                serial,
                reservations,
                explicit_alua,
                thin,
                backend: backend.unwrap_or(Backend::Null { size: 0 }),
            };
            units.push(At {
                value,
                span: name.span,
            });
        }
        section.finish();
    }
    units
}

/// What units before this one have.
#[derive(Debug, Default)]
struct Taken {
    paths: Vec<At<PathBuf>>,
    namespaces: Vec<nvme::Taken>,
}

/// `backend`, or `nvme` in its place. `None` only when an error was reported.
fn read_what_holds_it(
    section: &mut Section<'_>,
    block_size: u32,
    state_dir: &Path,
    taken: &mut Taken,
) -> Option<Backend> {
    if section.has("nvme") && section.has("backend") {
        let message = "backend and nvme both say what holds the blocks";
        let finding = Finding::error(section.key_span("nvme"), message);
        section.report(finding.help("leave one of them out"));
    }
    let backend = match section.table("backend", "the backend") {
        Some(backend) => return read_backend(backend, block_size, state_dir, taken),
        None if section.has("nvme") => {
            return nvme::read_namespace(section, "nvme", &mut taken.namespaces);
        }
        None => None,
    };
    if !section.has("backend") {
        section.missing(
            "backend",
            "say what holds the blocks, as in\n\
             backend = { type = \"file\", path = \"disk0.img\", size = \"1GiB\" }",
        );
    }
    backend
}

fn read_thin(mut section: Section<'_>, backend: Option<&Backend>) -> Thin {
    let thin = Thin {
        soft_threshold: read_soft_threshold(&mut section),
        capacity: section.size("capacity").map(|size| size.value),
        out_of_space: section
            .choice("out_of_space", &OUT_OF_SPACE)
            .map_or_else(OutOfSpace::default, |choice| choice.value),
    };
    let silent = match backend {
        Some(Backend::Memory { .. } | Backend::File { .. }) | None => false,
        Some(
            Backend::Null { .. }
            | Backend::Block { .. }
            | Backend::Nvme { .. }
            | Backend::NvmeKernel { .. },
        ) => true,
    };
    let at = ["soft_threshold", "capacity"];
    if let Some(key) = at.into_iter().find(|key| silent && section.has(key)) {
        let message = format!("{key} needs a backend that says how much space it uses");
        let help = "these do: type = \"file\" and type = \"memory\"";
        section.report(Finding::error(section.key_span(key), message).help(help));
    }
    if let (Some(SoftThreshold::Bytes(soft)), Some(capacity)) = (thin.soft_threshold, thin.capacity)
        && soft > capacity
    {
        let message = "soft_threshold is beyond capacity: it would never be reached";
        let span = section.key_span("soft_threshold");
        section.report(Finding::warning(span, message).help("make it smaller than capacity"));
    }
    section.finish();
    thin
}

/// A share of the space, as in "80%", or a number of bytes.
fn read_soft_threshold(section: &mut Section<'_>) -> Option<SoftThreshold> {
    const KEY: &str = "soft_threshold";
    if !section.is_percentage(KEY) {
        let bytes = section.size(KEY)?.value;
        return Some(SoftThreshold::Bytes(bytes));
    }
    let text = section.text(KEY)?;
    let number = text.value.trim_end_matches('%').trim_end().parse();
    match number {
        Ok(percent @ 1..=100_u8) => Some(SoftThreshold::Percent(percent)),
        _ => {
            let message = format!("{:?} is not a share of the space", text.value);
            let help = "write a whole number from 1 to 100 and %, as in \"80%\"";
            section.report(Finding::error(text.span, message).help(help));
            None
        }
    }
}

fn read_name(section: &mut Section<'_>, units: &[At<LogicalUnit>]) -> Option<At<String>> {
    let help = "name the unit, as in name = \"disk0\"; [[target.lun]] refers to it";
    let name = section.required_text("name", help)?;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.value.is_empty()
        || name.value.len() > UNIT_NAME_LEN_MAX
        || !name.value.chars().all(good)
    {
        let help = format!("use 1 to {UNIT_NAME_LEN_MAX} of the characters a-z A-Z 0-9 - _ .");
        let message = format!("{:?} cannot name a logical unit", name.value);
        section.report(Finding::error(name.span, message).help(help));
        return None;
    }
    if let Some(first) = units.iter().find(|unit| unit.value.name == name.value) {
        section.report(
            Finding::error(
                name.span,
                format!("two logical units are named {:?}", name.value),
            )
            .other(first.span.clone(), "the first one")
            .help("give each logical unit its own name"),
        );
        return None;
    }
    Some(At {
        value: name.value.to_owned(),
        span: name.span,
    })
}

fn read_block_size(section: &mut Section<'_>, key: &'static str, default: u32) -> u32 {
    let Some(size) = section.integer(key, 1..=u64::from(u32::MAX), "bytes") else {
        return default;
    };
    match size.value {
        512 => 512,
        4096 => 4096,
        other => {
            let finding = Finding::error(size.span, format!("{key} cannot be {other}"));
            section.report(finding.help(format!("{key} is 512 or 4096")));
            default
        }
    }
}

fn read_physical(section: &mut Section<'_>, block_size: u32) -> u32 {
    let physical = read_block_size(section, "physical_block_size", 4096);
    if physical < block_size {
        let span = section.key_span("physical_block_size");
        let message = format!("physical_block_size {physical} is below block_size {block_size}");
        let help = "a physical block holds one logical block or several";
        section.report(Finding::error(span, message).help(help));
        return block_size;
    }
    physical
}

fn read_serial(section: &mut Section<'_>, serials: &mut Vec<At<String>>) -> Option<String> {
    let serial = section.text("serial")?;
    let printable = serial
        .value
        .bytes()
        .all(|byte| (0x20..=0x7e).contains(&byte));
    let padded = serial.value.trim() != serial.value;
    if serial.value.is_empty() || serial.value.len() > SERIAL_LEN_MAX || !printable || padded {
        let help =
            format!("use 1 to {SERIAL_LEN_MAX} printable ASCII characters, no blank at an end");
        let message = format!("{:?} cannot be a serial number", serial.value);
        section.report(Finding::error(serial.span, message).help(help));
        return None;
    }
    if let Some(first) = serials.iter().find(|other| other.value == serial.value) {
        section.report(
            Finding::error(
                serial.span,
                format!("two logical units have the serial {:?}", serial.value),
            )
            .other(first.span.clone(), "the first one")
            .help("initiators take units with one serial for one disk; leave it out to get one"),
        );
        return None;
    }
    serials.push(At {
        value: serial.value.to_owned(),
        span: serial.span,
    });
    Some(serial.value.to_owned())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Memory,
    Null,
    File,
    Block,
    Nvme,
    NvmeKernel,
}

const KINDS: [(&str, Kind); 6] = [
    ("file", Kind::File),
    ("block", Kind::Block),
    ("memory", Kind::Memory),
    ("null", Kind::Null),
    ("nvme", Kind::Nvme),
    ("nvme-kernel", Kind::NvmeKernel),
];
const MATCHINGS: [(&str, ReservationMatching); 2] = [
    ("port", ReservationMatching::Port),
    ("name", ReservationMatching::Name),
];
const ENGINES: [(&str, Engine); 3] = [
    ("auto", Engine::Auto),
    ("io_uring", Engine::IoUring),
    ("sync", Engine::Sync),
];

/// `None` only when an error was reported.
fn read_backend(
    mut section: Section<'_>,
    block_size: u32,
    state_dir: &Path,
    taken: &mut Taken,
) -> Option<Backend> {
    let help = "say what kind it is: type = \"file\", \"block\", \"nvme\", \"nvme-kernel\", \
                \"memory\" or \"null\"";
    let kind = section.required_text("type", help)?;
    let paths = &mut taken.paths;
    let kind = section.choose("type", &kind, &KINDS)?;
    let backend = match kind {
        Kind::Memory | Kind::Null => {
            let size = read_size(&mut section, block_size);
            if size.is_none() && !section.has("size") {
                section.missing("size", "say how large it is, as in size = \"1GiB\"");
            }
            match kind {
                Kind::Memory => size.map(|size| Backend::Memory { size }),
                _ => size.map(|size| Backend::Null { size }),
            }
        }
        Kind::File => {
            let path = read_path(&mut section, state_dir, paths);
            let size = read_size(&mut section, block_size);
            let engine = section
                .choice("engine", &ENGINES)
                .map_or(Engine::Auto, |e| e.value);
            let direct = section.boolean("direct");
            if let Some(path) = &path
                && !section.has("size")
                && !path.value.exists()
            {
                let message = format!("{} does not exist", path.value.display());
                section.report(Finding::warning(path.span.clone(), message).help(
                    "add size = \"1GiB\" to have it created; without it the LUN is not ready",
                ));
            }
            path.map(|path| Backend::File {
                path: path.value,
                size,
                engine,
                direct,
            })
        }
        Kind::Nvme => nvme::read_namespace(&mut section, "address", &mut taken.namespaces),
        Kind::NvmeKernel => {
            let path = read_path(&mut section, state_dir, paths);
            path.map(|path| Backend::NvmeKernel { path: path.value })
        }
        Kind::Block => {
            let path = read_path(&mut section, state_dir, paths);
            let engine = section
                .choice("engine", &ENGINES)
                .map_or(Engine::Auto, |e| e.value);
            path.map(|path| Backend::Block {
                path: path.value,
                engine,
            })
        }
    };
    section.finish();
    backend
}

fn read_size(section: &mut Section<'_>, block_size: u32) -> Option<u64> {
    let size = section.size("size")?;
    let rest = size.value % u64::from(block_size);
    if rest != 0 {
        let below = size.value - rest;
        let nearest = if below == 0 {
            u64::from(block_size)
        } else {
            below
        };
        let message = format!("size {} is not a whole number of blocks", size.value);
        section.report(
            Finding::error(size.span, message)
                .label(format!("{rest} bytes more than a multiple of {block_size}"))
                .help(format!("the nearest size that is: {nearest}")),
        );
        return None;
    }
    Some(size.value)
}

/// The path, made absolute; reported when another unit uses it.
fn read_path(
    section: &mut Section<'_>,
    state_dir: &Path,
    paths: &mut Vec<At<PathBuf>>,
) -> Option<At<PathBuf>> {
    let help = "say where it is; a relative path starts in the state directory";
    let text = section.required_text("path", help)?;
    if text.value.is_empty() || text.value.contains('\0') {
        section.report(Finding::error(text.span, "this is not a path").help(help));
        return None;
    }
    let path = state_dir.join(text.value);
    let identity = path.canonicalize().unwrap_or_else(|_| without_dots(&path));
    if let Some(first) = paths.iter().find(|other| other.value == identity) {
        section.report(
            Finding::error(
                text.span,
                format!("{} is used by two logical units", path.display()),
            )
            .other(first.span.clone(), "the first one")
            .help("a backing object belongs to one unit; map that unit at several LUNs instead"),
        );
        return None;
    }
    paths.push(At {
        value: identity,
        span: text.span.clone(),
    });
    Some(At {
        value: path,
        span: text.span,
    })
}

/// `path` with `.` and `..` taken out by their letters, for a file that does not exist yet.
fn without_dots(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            _ => out.push(part),
        }
    }
    out
}

/// "Did you mean …" for a unit that is not there.
pub(super) fn nearest_unit(name: &str, units: &[At<LogicalUnit>]) -> String {
    let names = units.iter().map(|unit| unit.value.name.as_str());
    match (nearest(name, names.clone()), units.len()) {
        (Some(near), _) => format!("did you mean {near:?}?"),
        (None, 0) => "no [[logical_unit]] is defined".to_owned(),
        (None, _) => format!("defined are: {}", names.collect::<Vec<_>>().join(", ")),
    }
}
