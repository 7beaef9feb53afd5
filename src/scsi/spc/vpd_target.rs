//! VPD pages that tell of the target around a unit (SPC-4): management network addresses, mode page
//! policy, SCSI ports.

use super::mode_pages;
use super::vpd;
use crate::scsi::nexus::Nexus;
use crate::scsi::parameter::ParameterData;
use crate::scsi::unit::LogicalUnit;

/// Most ports that the SCSI Ports page lists, so that it fits its buffer with the longest names.
const PORTS_LISTED_MAX: usize = 60;

/// SPC-4, Management Network Addresses page: the address that the configuration has, if any.
pub(super) fn management_network_addresses(
    data: &mut ParameterData,
    unit: &LogicalUnit,
    _i_t: &Nexus,
) {
    /// ASSOCIATION: the target device; SERVICE TYPE: not specified.
    const TARGET: u8 = 0b10 << 5;
    let Some(url) = unit.management_url() else {
        return;
    };
    data.put(&[TARGET, 0]);
    let length_at = data.len();
    data.put_be16(0);
    data.put(url.as_bytes());
    vpd::terminate(data, url.len());
    data.patch_length_be16(length_at);
}

/// SPC-4, Mode Page Policy page: every page is shared by all nexuses, and by no other unit.
pub(super) fn mode_page_policy(data: &mut ParameterData, _unit: &LogicalUnit, _i_t: &Nexus) {
    const SHARED: u8 = 0b00;
    for row in &mode_pages::PAGES {
        data.put(&[row.page, row.subpage, SHARED, 0]);
    }
}

/// SPC-4, SCSI Ports page. Initiator ports log in and are not named here.
pub(super) fn scsi_ports(data: &mut ParameterData, _unit: &LogicalUnit, i_t: &Nexus) {
    for port in i_t.ports().iter().take(PORTS_LISTED_MAX) {
        data.put_be16(0);
        data.put_be16(port.relative_port());
        data.put_zeroes(6); // no INITIATOR PORT TRANSPORTID
        let length_at = data.len();
        data.put_be16(0);
        vpd::port_name(data, port);
        data.patch_length_be16(length_at);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::scsi::nexus::InitiatorPort;
    use crate::scsi::testbed::Bench;
    use crate::scsi::unit::PortIdentity;

    fn read_page(bench: &mut Bench, code: u8) -> Vec<u8> {
        bench.read(&[0x12, 1, code, 0xff, 0xff, 0], u32::MAX).good()
    }

    #[test]
    fn management_address_is_the_configured_one_or_none() {
        let mut bench = Bench::new(8);
        assert_eq!(read_page(&mut bench, 0x85), [0, 0x85, 0, 0]);
        let unit = bench.unit.as_mut().unwrap();
        unit.set_management_url(Some(Arc::from("https://a.example/")));
        let page = read_page(&mut bench, 0x85);
        assert_eq!(page[..8], [0, 0x85, 0, 24, 0x40, 0, 0, 20]);
        assert_eq!(page[8..], *b"https://a.example/\0\0");
    }

    #[test]
    fn every_mode_page_is_shared() {
        let page = read_page(&mut Bench::new(8), 0x87);
        assert_eq!(page.len(), 4 + 4 * mode_pages::PAGES.len());
        assert_eq!(page[4..8], [0x01, 0, 0, 0]);
        assert!(page[4..].chunks(4).any(|policy| *policy == [0x0a, 1, 0, 0]));
        assert!(page[4..].chunks(4).all(|policy| policy[2..] == [0, 0]));
    }

    #[test]
    fn all_ports_of_the_target_are_listed_by_name() {
        let port = |tag, relative| PortIdentity::new("iqn.2026-11.io.example:d", tag, relative);
        let ports: Vec<_> = [port(1, 1), port(9, 2)].into_iter().flatten().collect();
        let initiator = InitiatorPort::new("iqn.x", [0; 6]).unwrap();
        let i_t = Nexus::new(initiator, ports[1].clone(), ports);
        let mut data = ParameterData::new();
        let bench = Bench::new(8);
        scsi_ports(&mut data, bench.unit(), &i_t);
        let mut expected = Vec::new();
        for (relative, tag) in [(1, 1), (2, 9)] {
            expected.extend([0, 0, 0, relative, 0, 0, 0, 0, 0, 0, 0, 40]);
            expected.extend([0x53, 0x98, 0, 36]);
            expected.extend(format!("iqn.2026-11.io.example:d,t,0x{tag:04x}").into_bytes());
            expected.extend([0; 3]);
        }
        assert_eq!(data.as_bytes(), expected);
    }

    #[test]
    fn longest_port_names_fit_the_buffer() {
        let name = "n".repeat(223);
        let ports: Vec<_> = (1..=200)
            .filter_map(|relative| PortIdentity::new(&name, relative, relative))
            .collect();
        let initiator = InitiatorPort::new("iqn.x", [0; 6]).unwrap();
        let i_t = Nexus::new(initiator, ports[0].clone(), ports);
        let mut data = ParameterData::new();
        data.put_zeroes(4);
        let bench = Bench::new(8);
        scsi_ports(&mut data, bench.unit(), &i_t);
        let entry = 12 + 4 + 236;
        assert_eq!(data.len(), 4 + PORTS_LISTED_MAX * entry);
    }
}
