//! `iiblockdaemon nvme info`: what a controller says of itself, its namespaces and its health.
//!
//! It is opened through VFIO as the daemon would open it, set up, asked, and shut down again.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::Machine;
use crate::backend::nvme::any::{AnyBar, AnySpace};
use crate::backend::nvme::facts::{NamespaceReport, Report, Settings};
use crate::backend::nvme::keeper;
use crate::backend::nvme::spec::log::Health;
use crate::backend::nvme::vfio::sysfs::Function;
use crate::backend::nvme::vfio::{self, OpenOptions, PciAddress};

/// How long the controller's keeper may take to answer, once the controller is ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// Zero degrees Celsius, as the standard rounds it.
const ZERO_CELSIUS: i32 = 273;

/// Asks the controller.
pub(super) fn ask(
    machine: &Machine<'_>,
    address: PciAddress,
    unsafe_noiommu: bool,
) -> Result<String, String> {
    let hardware = || {
        let options = OpenOptions {
            unsafe_noiommu,
            ..OpenOptions::default()
        };
        let (bar, space) = vfio::open(address, options).map_err(|error| error.to_string())?;
        Ok((Arc::new(AnyBar::Vfio(bar)), Arc::new(AnySpace::Vfio(space))))
    };
    let name = address.to_string();
    let failed = |error: String| format!("{address}: {error}");
    let handle = keeper::open_at(&name, Settings::default(), hardware).map_err(failed)?;
    let report = handle.report(PATIENCE);
    drop(handle);
    // Until it is shut down, so that it may be given back.
    keeper::finish_all();
    let report = report.ok_or_else(|| failed("its keeper does not answer".to_owned()))?;
    let function = Function::read(&machine.root, address);
    Ok(text(&name, function.as_ref(), &report))
}

/// What there is to say, a line each.
fn text(address: &str, function: Option<&Function>, report: &Report) -> String {
    let controller = &report.controller;
    let mut out = String::new();
    // Writing to text never fails.
    let _ = writeln!(
        out,
        "{address}  {}, serial {}, firmware {}",
        controller.model, controller.serial, controller.firmware
    );
    let _ = writeln!(out, "  NVMe {}", controller.version);
    if let Some(link) = function.and_then(|function| function.link.as_ref()) {
        let more = match link.is_degraded() {
            true => format!(" (it could do {} x{})", link.speed_max, link.lanes_max),
            false => String::new(),
        };
        let _ = writeln!(out, "  link: {} x{}{more}", link.speed, link.lanes);
    }
    match &report.health {
        Some(health) => describe_health(&mut out, health),
        None => out += "  health: not read\n",
    }
    if report.namespaces.is_empty() {
        out += "  no active namespaces\n";
    }
    for namespace in &report.namespaces {
        describe_namespace(&mut out, namespace);
    }
    out
}

fn describe_health(out: &mut String, health: &Health) {
    let celsius = i32::from(health.kelvin) - ZERO_CELSIUS;
    let _ = writeln!(
        out,
        "  health: {celsius} °C, {} % of the rated endurance used, {} % of the spare blocks left \
         (threshold {} %)",
        health.used, health.spare, health.spare_threshold
    );
    let _ = writeln!(
        out,
        "  {} hours on, {} power cycles, {} unsafe shutdowns, {} media errors, {} errors logged",
        health.power_on_hours,
        health.power_cycles,
        health.unsafe_shutdowns,
        health.media_errors,
        health.errors_logged
    );
    for warning in health.warnings.sentences() {
        let _ = writeln!(out, "  WARNING: {warning}");
    }
}

fn describe_namespace(out: &mut String, namespace: &NamespaceReport) {
    let number = namespace.namespace.0;
    let block_bytes = 1_u64
        .checked_shl(u32::from(namespace.block_shift))
        .unwrap_or_default();
    let bytes = u128::from(namespace.blocks) * u128::from(block_bytes);
    let _ = writeln!(
        out,
        "  namespace {number}: {} blocks of {block_bytes} bytes, {bytes} bytes",
        namespace.blocks
    );
    let identifiers = &namespace.identifiers;
    if let Some(nguid) = identifiers.nguid {
        let _ = writeln!(out, "    nguid = \"{}\"", hexadecimal(&nguid));
    }
    if let Some(eui64) = identifiers.eui64 {
        let _ = writeln!(out, "    eui64 = \"{}\"", hexadecimal(&eui64));
    }
    if let Some(uuid) = identifiers.uuid {
        let _ = writeln!(out, "    uuid = \"{}\"", uuid::Uuid::from_bytes(uuid));
    }
    if let Some(why) = &namespace.refused {
        let _ = writeln!(out, "    cannot be served: {why}");
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::nvme::spec::entry::NamespaceId;
    use crate::backend::nvme::spec::identify::{ControllerData, Identifiers, PAGE_BYTES};
    use crate::backend::nvme::spec::log::HEALTH_BYTES;
    use crate::backend::nvme::vfio::sysfs::Link;

    fn report() -> Report {
        let mut page = [b' '; PAGE_BYTES];
        page[4..8].copy_from_slice(b"S123");
        page[24..29].copy_from_slice(b"SSD 9");
        page[64..67].copy_from_slice(b"F01");
        page[80..84].copy_from_slice(&[0, 4, 1, 0]);
        let mut health = [0; HEALTH_BYTES];
        health[0] = 0b101;
        health[1..3].copy_from_slice(&310_u16.to_le_bytes());
        (health[3], health[4], health[5]) = (8, 10, 101);
        health[128] = 77;
        let namespace = NamespaceReport {
            namespace: NamespaceId(3),
            blocks: 1000,
            block_shift: 12,
            identifiers: Identifiers {
                eui64: Some([0, 1, 2, 3, 0xfc, 0xfd, 0xfe, 0xff]),
                uuid: Some([0x11; 16]),
                ..Identifiers::default()
            },
            refused: Some("it has metadata".to_owned()),
        };
        Report {
            controller: ControllerData::parse(&page),
            health: Some(Health::parse(&health)),
            namespaces: vec![namespace],
        }
    }

    #[test]
    fn everything_is_said_in_the_operators_words() {
        let function = Function {
            address: "0000:5e:00.0".parse().unwrap(),
            vendor: 1,
            device: 2,
            class: 0x01_08_02,
            driver: None,
            group: None,
            unguarded: false,
            numa_node: None,
            link: Some(Link {
                speed: "8.0 GT/s PCIe".to_owned(),
                lanes: 2,
                speed_max: "16.0 GT/s PCIe".to_owned(),
                lanes_max: 4,
            }),
            character: None,
        };
        let said = text("0000:5e:00.0", Some(&function), &report());
        let wanted = "\
0000:5e:00.0  SSD 9, serial S123, firmware F01
  NVMe 1.4
  link: 8.0 GT/s PCIe x2 (it could do 16.0 GT/s PCIe x4)
  health: 37 °C, 101 % of the rated endurance used, 8 % of the spare blocks left (threshold 10 %)
  77 hours on, 0 power cycles, 0 unsafe shutdowns, 0 media errors, 0 errors logged
  WARNING: the spare capacity is below its threshold
  WARNING: reliability is degraded by media or internal errors
  namespace 3: 1000 blocks of 4096 bytes, 4096000 bytes
    eui64 = \"00010203fcfdfeff\"
    uuid = \"11111111-1111-1111-1111-111111111111\"
    cannot be served: it has metadata
";
        assert_eq!(said, wanted);
        let mut bare = report();
        bare.health = None;
        bare.namespaces.clear();
        let said = text("0000:5e:00.0", None, &bare);
        assert!(
            said.ends_with("  health: not read\n  no active namespaces\n"),
            "{said}"
        );
    }

    #[test]
    fn a_controller_that_lies_is_shown_all_the_same() {
        let mut report = report();
        report.health = Some(Health::parse(&[0xff; HEALTH_BYTES]));
        report.namespaces[0].blocks = u64::MAX;
        report.namespaces[0].block_shift = u8::MAX;
        let said = text("0000:5e:00.0", None, &report);
        assert!(
            said.contains("18446744073709551615 blocks of 0 bytes"),
            "{said}"
        );
    }
}
