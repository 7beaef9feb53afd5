//! Reads `[nvme]`, and what a unit says of a controller and its namespace.

use std::time::Duration;

use super::model::{Backend, NVME_QUEUE_DEPTH_MAX, Nvme, NvmeNamespace};
use super::ports::read_pci;
use super::reader::{At, Section};
use super::report::{Finding, Span};

/// The largest number of a namespace; the one above means all of them.
const NAMESPACE_MAX: u64 = 0xffff_fffe;
/// Keys that name a namespace, one of which may stand.
const NAMES: [&str; 4] = ["namespace", "nguid", "eui64", "uuid"];

/// A namespace that a unit has.
#[derive(Debug)]
pub(super) struct Taken {
    address: String,
    namespace: NvmeNamespace,
    span: Span,
}

pub(super) fn read_nvme(section: Option<Section<'_>>) -> Nvme {
    let mut nvme = Nvme::default();
    let Some(mut section) = section else {
        return nvme;
    };
    if let Some(unsafe_noiommu) = section.boolean("unsafe_noiommu") {
        nvme.unsafe_noiommu = unsafe_noiommu;
    }
    let depths = 2..=u64::from(NVME_QUEUE_DEPTH_MAX);
    if let Some(depth) = section.integer("queue_depth", depths, "entries") {
        nvme.queue_depth = u16::try_from(depth.value).unwrap_or(NVME_QUEUE_DEPTH_MAX);
    }
    if let Some(s) = section.integer("io_timeout_s", 1..=30, "seconds") {
        nvme.io_timeout = Duration::from_secs(s.value);
    }
    if let Some(s) = section.integer("admin_timeout_s", 1..=60, "seconds") {
        nvme.admin_timeout = Duration::from_secs(s.value);
    }
    if let Some(s) = section.integer("hold_s", 1..=120, "seconds") {
        nvme.hold = Duration::from_secs(s.value);
    }
    section.finish();
    nvme
}

/// A controller by the address that stands at `key`, and its namespace. `None` only when an error
/// was reported.
pub(super) fn read_namespace(
    section: &mut Section<'_>,
    key: &'static str,
    taken: &mut Vec<Taken>,
) -> Option<Backend> {
    let help = "name the controller by its PCI address, as in \"0000:5e:00.0\"; `iiblockdaemon \
                nvme list` shows those that are there";
    let text = section.required_text(key, help);
    let namespace = read_name(section);
    let text = text?;
    let address = read_pci(section, &text)?;
    let namespace = namespace?;
    let span = text.span;
    let same = |other: &&Taken| {
        let any = NvmeNamespace::Only;
        other.address == address
            && (other.namespace == namespace || other.namespace == any || namespace == any)
    };
    if let Some(first) = taken.iter().find(same) {
        let message = format!("a namespace of {address} is used by two logical units");
        section.report(
            Finding::error(span, message)
                .other(first.span.clone(), "the first one")
                .help("name another one by namespace = 2, nguid, eui64 or uuid in both units"),
        );
        return None;
    }
    taken.push(Taken {
        address: address.clone(),
        namespace,
        span,
    });
    Some(Backend::Nvme { address, namespace })
}

/// `None` only when an error was reported.
fn read_name(section: &mut Section<'_>) -> Option<NvmeNamespace> {
    let given: Vec<&str> = NAMES.into_iter().filter(|key| section.has(key)).collect();
    let id = section.integer("namespace", 1..=NAMESPACE_MAX, "");
    let nguid = section.text("nguid");
    let eui64 = section.text("eui64");
    let uuid = section.text("uuid");
    if let [_, second, ..] = given[..] {
        let message = format!("{} and {second} both name the namespace", given[0]);
        let finding = Finding::error(section.key_span(second), message);
        section.report(finding.help("leave one of them out"));
        return None;
    }
    let number = |id: At<u64>| u32::try_from(id.value).ok().map(NvmeNamespace::Id);
    match given.first() {
        None => Some(NvmeNamespace::Only),
        Some(&"namespace") => id.and_then(number),
        Some(&"nguid") => identifier(section, nguid?, "nguid").map(NvmeNamespace::Nguid),
        Some(&"eui64") => identifier(section, eui64?, "eui64").map(NvmeNamespace::Eui64),
        Some(_) => read_uuid(section, uuid?).map(NvmeNamespace::Uuid),
    }
}

fn read_uuid(section: &Section<'_>, text: At<&str>) -> Option<[u8; 16]> {
    let dashes: Vec<usize> = text.value.match_indices('-').map(|(at, _)| at).collect();
    let bare: String = text.value.chars().filter(|c| *c != '-').collect();
    match bytes_of(&bare) {
        Some(bytes) if dashes == [8, 13, 18, 23] => Some(bytes),
        _ => {
            let message = format!("{:?} is not a uuid", text.value);
            let help = "write 32 hexadecimal digits, as in \
                        \"6f1b2a34-5c6d-4e7f-8091-a2b3c4d5e6f7\", not all zeroes";
            section.report(Finding::error(text.span, message).help(help));
            None
        }
    }
}

/// `2 × N` hexadecimal digits.
fn identifier<const N: usize>(section: &Section<'_>, text: At<&str>, key: &str) -> Option<[u8; N]> {
    let bytes = bytes_of(text.value);
    if bytes.is_none() {
        let message = format!("{:?} is not an {key}", text.value);
        let help = format!("write {} hexadecimal digits, not all zeroes", 2 * N);
        section.report(Finding::error(text.span, message).help(help));
    }
    bytes
}

/// Zeroes are no identifier: the field of one that there is none of.
fn bytes_of<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(16 * high + low).ok()?;
    }
    (bytes != [0; N]).then_some(bytes)
}
