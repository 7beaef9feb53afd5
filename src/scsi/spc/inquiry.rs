//! INQUIRY (SPC-4): standard data, and the way to the VPD pages.
//!
//! Answered in every state and at every LUN. Where nothing is mapped, the peripheral byte says that
//! nothing can be connected there (qualifier 011b, type 1Fh).

use super::vpd;
use crate::scsi::parameter::ParameterData;
use crate::scsi::sense::Sense;
use crate::scsi::task::{Begin, Command, Context, Task};
use crate::scsi::unit::{Identity, LogicalUnit, PRODUCT_CHARS_MAX, REVISION_CHARS_MAX, VENDOR};

/// PERIPHERAL QUALIFIER and DEVICE TYPE of a connected direct access block device.
pub(super) const BLOCK_DEVICE: u8 = 0x00;

/// No device can be connected at this LUN.
pub(super) const NOTHING: u8 = 0x7f;

/// Bytes of standard INQUIRY data, version descriptors included.
const STANDARD_BYTES: usize = 96;

/// The medium can be taken out.
const RMB: u8 = 0x80;

/// VERSION: SPC-4.
const VERSION: u8 = 0x06;

/// HISUP (REPORT LUNS addressing) and response data format 2.
const HISUP_AND_FORMAT: u8 = 0x12;

/// TPGS: asymmetric access states that the target changes, and that initiators change too.
const TPGS_IMPLICIT: u8 = 0x10;
const TPGS_IMPLICIT_AND_EXPLICIT: u8 = 0x30;

/// MULTIP: the target has several ports.
const MULTIP: u8 = 0x10;

/// CMDQUE: the task management model of SAM-5.
const CMDQUE: u8 = 0x02;

/// 3PC: third-party copy commands (VPD page 8Fh says which).
const THIRD_PARTY_COPY: u8 = 0x08;

/// SPC-4, version descriptor values: SAM-5, iSCSI, SPC-4 and SBC-3, no version claimed.
const VERSION_DESCRIPTORS: [u16; 4] = [0x00a0, 0x0960, 0x0460, 0x04c0];

pub(in crate::scsi) fn start(cx: &mut Context<'_>, command: &Command) -> Begin {
    let cdb = &command.cdb;
    let page = cdb.u8(2);
    if cdb.bit(1, 0) {
        vpd::page(cx, page)?;
    } else if page == 0 {
        let several_ports = cx.i_t.ports().len() > 1;
        standard(cx.data_in, cx.unit(), several_ports);
    } else {
        // SPC-4 INQUIRY: a page code means nothing without EVPD.
        return Err(Sense::invalid_field_in_cdb(2, None));
    }
    Task::parameter_data(cx.data_in, u32::from(cdb.be16(3)))
}

/// SPC-4, standard INQUIRY data.
fn standard(data: &mut ParameterData, unit: Option<&LogicalUnit>, several_ports: bool) {
    let identity = unit.map(LogicalUnit::identity);
    let removable = unit.is_some_and(LogicalUnit::removable);
    let tpgs = unit.map_or(0, |unit| {
        if unit.port_groups().explicit() {
            TPGS_IMPLICIT_AND_EXPLICIT
        } else {
            TPGS_IMPLICIT
        }
    });
    data.put(&[
        if identity.is_some() {
            BLOCK_DEVICE
        } else {
            NOTHING
        },
        if removable { RMB } else { 0 },
        VERSION,
        HISUP_AND_FORMAT,
        0, // ADDITIONAL LENGTH, below
        // SCCS, PROTECT: none
        if identity.is_some() {
            THIRD_PARTY_COPY | tpgs
        } else {
            tpgs
        },
        if identity.is_some() && several_ports {
            MULTIP
        } else {
            0
        },
        CMDQUE,
    ]);
    data.put(VENDOR.as_bytes());
    put_padded(
        data,
        identity.map_or("", Identity::product),
        PRODUCT_CHARS_MAX,
    );
    put_padded(
        data,
        identity.map_or("", Identity::revision),
        REVISION_CHARS_MAX,
    );
    data.put_zeroes(22); // vendor specific and SPI fields
    for descriptor in VERSION_DESCRIPTORS {
        data.put_be16(descriptor);
    }
    data.put_zeroes(STANDARD_BYTES - data.len());
    data.patch_length_u8(4);
}

/// Writes text that is filled up with spaces on the right (SPC-4, ASCII data field requirements).
pub(super) fn put_padded(data: &mut ParameterData, text: &str, width: usize) {
    data.put(text.as_bytes());
    for _ in text.len()..width {
        data.put_u8(b' ');
    }
}

#[cfg(test)]
mod tests {
    use crate::scsi::asymmetric_access::PortGroups;
    use crate::scsi::task::Transfer;
    use crate::scsi::testbed::Bench;

    fn inquiry(evpd: u8, page: u8, allocation_length: u16) -> [u8; 6] {
        let [a, b] = allocation_length.to_be_bytes();
        [0x12, evpd, page, a, b, 0]
    }

    #[test]
    fn standard_data_say_what_the_unit_is() {
        let data = Bench::new(8).read(&inquiry(0, 0, 260), 260).good();
        assert_eq!(data.len(), 96);
        assert_eq!(data[..8], [0x00, 0x00, 0x06, 0x12, 91, 0x18, 0, 0x02]);
        assert_eq!(&data[8..36], b"IIBLOCKDdisk            0001");
        assert_eq!(
            data[58..66],
            [0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0]
        );
        assert!(
            data[36..58]
                .iter()
                .chain(&data[66..])
                .all(|byte| *byte == 0)
        );
    }

    #[test]
    fn removable_unit_says_so() {
        let data = Bench::removable(8).read(&inquiry(0, 0, 36), 36).good();
        assert_eq!(data[..2], [0x00, 0x80]);
    }

    #[test]
    fn multip_says_that_the_target_has_several_ports() {
        let mut bench = Bench::new(8);
        for (ports, multip) in [(&[(1, 1)][..], 0), (&[(1, 1), (1, 2)], 0x10)] {
            bench.set_ports(ports);
            assert_eq!(bench.read(&inquiry(0, 0, 96), 96).good()[6], multip);
        }
    }

    #[test]
    fn tpgs_says_who_changes_asymmetric_access_states() {
        let mut bench = Bench::new(8);
        for (explicit, tpgs) in [(false, 0x10), (true, 0x30)] {
            bench.set_port_groups(PortGroups::new(Vec::new(), explicit));
            let data = bench.read(&inquiry(0, 0, 96), 96).good();
            assert_eq!(data[5], 0x08 | tpgs);
        }
    }

    #[test]
    fn standard_data_are_cut_to_any_allocation_length() {
        let mut bench = Bench::new(8);
        let whole = bench.read(&inquiry(0, 0, u16::MAX), u32::MAX).good();
        for length in [0, 1, 4, 5, 36, 95, 96, 97, 511, 512] {
            let answer = bench.read(&inquiry(0, 0, length), 1024);
            let bytes = usize::from(length).min(96);
            assert_eq!(answer.transfer, Transfer::In(bytes.try_into().unwrap()));
            assert_eq!(answer.good(), whole[..bytes]);
        }
    }

    #[test]
    fn page_code_without_evpd_is_an_invalid_field() {
        Bench::new(8)
            .read(&inquiry(0, 0x83, 255), 255)
            .invalid_field(2, None);
    }

    #[test]
    fn unknown_vpd_page_and_cmddt_are_invalid_fields() {
        let mut bench = Bench::new(8);
        bench
            .read(&inquiry(1, 0xc0, 255), 255)
            .invalid_field(2, None);
        bench
            .read(&inquiry(2, 0, 255), 255)
            .invalid_field(1, Some(1));
    }

    #[test]
    fn nothing_is_connected_where_no_unit_is_mapped() {
        let mut bench = Bench::new(8);
        bench.unit = None;
        let data = bench.read(&inquiry(0, 0, 255), 255).good();
        assert_eq!((data[0], data.len()), (0x7f, 96));
        assert_eq!(
            bench.read(&inquiry(1, 0, 255), 255).good(),
            [0x7f, 0, 0, 1, 0]
        );
        bench
            .read(&inquiry(1, 0x83, 255), 255)
            .invalid_field(2, None);
    }
}
