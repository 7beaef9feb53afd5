//! Vital product data pages (SPC-4 and SBC-3, vital product data parameters): one function a page,
//! one table of pages.
//!
//! Page 83h names the unit in four ways that do not follow from its name in the configuration: a
//! locally assigned NAA (we own no OUI), a UUID, and the T10 vendor identification with the serial
//! number; by what its medium is called, where that has names of its own; and the port and target
//! that it was asked through.

use super::inquiry::{BLOCK_DEVICE, NOTHING, put_padded};
use super::vpd_target;
use crate::backend::Designators;
use crate::scsi::copy::vpd::third_party_copy;
use crate::scsi::nexus::Nexus;
use crate::scsi::parameter::ParameterData;
use crate::scsi::provisioning::threshold_exponent;
use crate::scsi::sbc::compare_and_write::MAX_COMPARE_AND_WRITE_BLOCKS;
use crate::scsi::sbc::unmap::{MAX_UNMAP_BLOCKS, MAX_UNMAP_DESCRIPTORS};
use crate::scsi::sbc::write_atomic;
use crate::scsi::sbc::write_same::MAX_WRITE_SAME_BYTES;
use crate::scsi::sense::{SENSE_BYTES_MAX, Sense};
use crate::scsi::task::{Context, MAX_TRANSFER_BYTES};
use crate::scsi::unit::{LogicalUnit, PRODUCT_CHARS_MAX, PortIdentity, VENDOR};

/// Transfer size that we serve best, in bytes; VPD B0h reports it in blocks.
const OPTIMAL_TRANSFER_BYTES: u32 = 256 * 1024;

/// Pages with their codes, ascending; page 00h lists them.
const PAGES: [(u8, Page); 11] = [
    (0x00, supported_pages),
    (0x80, unit_serial_number),
    (0x83, device_identification),
    (0x85, vpd_target::management_network_addresses),
    (0x86, extended_inquiry),
    (0x87, vpd_target::mode_page_policy),
    (0x88, vpd_target::scsi_ports),
    (0x8f, third_party_copy),
    (0xb0, block_limits),
    (0xb1, block_device_characteristics),
    (0xb2, logical_block_provisioning),
];

/// Writes what follows the page header.
type Page = fn(&mut ParameterData, &LogicalUnit, &Nexus);

/// Writes the page `code`, header included.
pub(super) fn page(cx: &mut Context<'_>, code: u8) -> Result<(), Sense> {
    let unknown = Sense::invalid_field_in_cdb(2, None);
    let unit = cx.unit();
    let data = &mut *cx.data_in;
    let Some(unit) = unit else {
        // Nothing is mapped: the only page is the one that says so.
        if code != 0 {
            return Err(unknown);
        }
        data.put(&[NOTHING, 0, 0, 1, 0]);
        return Ok(());
    };
    let (_, write) = PAGES
        .iter()
        .find(|(page, _)| *page == code)
        .ok_or(unknown)?;
    data.put(&[BLOCK_DEVICE, code, 0, 0]);
    write(data, unit, cx.i_t);
    data.patch_length_be16(2);
    Ok(())
}

/// SPC-4, Supported VPD Pages page.
fn supported_pages(data: &mut ParameterData, _unit: &LogicalUnit, _i_t: &Nexus) {
    for (code, _) in PAGES {
        data.put_u8(code);
    }
}

/// SPC-4, Unit Serial Number page.
fn unit_serial_number(data: &mut ParameterData, unit: &LogicalUnit, _i_t: &Nexus) {
    data.put(unit.identity().serial().as_bytes());
}

/// CODE SET values of a designator.
const BINARY: u8 = 1;
const ASCII: u8 = 2;
const UTF_8: u8 = 3;

/// PIV with ASSOCIATION and DESIGNATOR TYPE, the second byte of a designator. The protocol
/// identifier is valid only for ports and targets.
const UNIT: u8 = 0x00;
const PORT: u8 = 0x90;
const TARGET: u8 = 0xa0;

const T10_VENDOR: u8 = 0x1;
const EUI_64: u8 = 0x2;
const NAA: u8 = 0x3;
const RELATIVE_PORT: u8 = 0x4;
const PORT_GROUP: u8 = 0x5;
const SCSI_NAME: u8 = 0x8;
const UUID: u8 = 0xa;

/// PROTOCOL IDENTIFIER: iSCSI.
const ISCSI: u8 = 0x50;

/// SPC-4, Device Identification page; the UUID designator is SPC-5's.
pub(in crate::scsi) fn device_identification(
    data: &mut ParameterData,
    unit: &LogicalUnit,
    i_t: &Nexus,
) {
    let port = i_t.port();
    let identity = unit.identity();
    designator(data, BINARY, UNIT | NAA, |data| {
        data.put_be64(identity.naa());
    });
    uuid(data, identity.uuid());
    medium_designators(data, &unit.info().designators);
    designator(data, ASCII, UNIT | T10_VENDOR, |data| {
        data.put(VENDOR.as_bytes());
        put_padded(data, identity.product(), PRODUCT_CHARS_MAX);
        data.put(identity.serial().as_bytes());
    });
    designator(data, ISCSI | BINARY, PORT | RELATIVE_PORT, |data| {
        data.put_be16(0);
        data.put_be16(port.relative_port());
    });
    designator(data, ISCSI | BINARY, PORT | PORT_GROUP, |data| {
        data.put_be16(0);
        data.put_be16(port.portal_group_tag());
    });
    port_name(data, port);
    let name = port.target_name().as_bytes();
    designator(data, ISCSI | UTF_8, TARGET | SCSI_NAME, |data| {
        data.put(name);
        terminate(data, name.len());
    });
}

fn uuid(data: &mut ParameterData, uuid: &[u8; 16]) {
    designator(data, BINARY, UNIT | UUID, |data| {
        data.put(&[0x10, 0]);
        data.put(uuid);
    });
}

/// Names of the medium. An NGUID is laid out as an EUI-64 based identifier of 16 bytes, one with
/// the extension in front (SPC-5, EUI-64 based designator formats).
fn medium_designators(data: &mut ParameterData, names: &Designators) {
    if let Some(nguid) = &names.nguid {
        designator(data, BINARY, UNIT | EUI_64, |data| data.put(nguid));
    }
    if let Some(eui64) = &names.eui64 {
        designator(data, BINARY, UNIT | EUI_64, |data| data.put(eui64));
    }
    if let Some(own) = &names.uuid {
        uuid(data, own);
    }
}

/// The designation descriptor of a target port's name (RFC 7143 §4.4.1, SCSI port name): the
/// target's name, ",t,0x" and the portal group tag.
pub(super) fn port_name(data: &mut ParameterData, port: &PortIdentity) {
    let name = port.target_name().as_bytes();
    designator(data, ISCSI | UTF_8, PORT | SCSI_NAME, |data| {
        data.put(name);
        data.put(b",t,0x");
        for shift in [12, 8, 4, 0] {
            let digit = port.portal_group_tag() >> shift & 0xf;
            data.put_u8(b"0123456789abcdef"[usize::from(digit)]);
        }
        terminate(data, name.len() + 9);
    });
}

/// Writes one designation descriptor around what `write` puts.
fn designator(
    data: &mut ParameterData,
    code_set: u8,
    kind: u8,
    write: impl FnOnce(&mut ParameterData),
) {
    data.put(&[code_set, kind, 0, 0]);
    let length_at = data.len() - 1;
    write(data);
    data.patch_length_u8(length_at);
}

/// SPC-4, SCSI name string designator: a SCSI name string ends with one to four zero bytes, so that
/// its length is a multiple of four.
pub(super) fn terminate(data: &mut ParameterData, name_bytes: usize) {
    data.put_zeroes(4 - name_bytes % 4);
}

/// LUICLR: the condition that the reported LUNs changed is cleared for the nexus at every LUN.
const LUICLR: u8 = 1;

/// SPC-4, Extended INQUIRY Data page.
fn extended_inquiry(data: &mut ParameterData, unit: &LogicalUnit, _i_t: &Nexus) {
    data.put_u8(0); // SPT and GRD_CHK…: no protection information
    data.put_u8(0x07); // HEADSUP, ORDSUP, SIMPSUP
    data.put_u8(u8::from(unit.info().write_cache)); // V_SUP
    data.put_u8(LUICLR);
    data.put_zeroes(5); // no vendor specific activation, no extended self-test
    data.put_u8(u8::try_from(SENSE_BYTES_MAX).expect("sense data are short"));
    data.put_zeroes(50);
}

/// SBC-3, Block Limits page; all lengths in logical blocks.
fn block_limits(data: &mut ParameterData, unit: &LogicalUnit, _i_t: &Nexus) {
    let info = unit.info();
    let block_size = info.block_size;
    data.put_u8(0); // WSNZ: WRITE SAME of zero blocks means to the end
    data.put_u8(MAX_COMPARE_AND_WRITE_BLOCKS);
    data.put_be16(1 << info.physical_block_exponent.min(15));
    data.put_be32(MAX_TRANSFER_BYTES / block_size);
    data.put_be32(OPTIMAL_TRANSFER_BYTES / block_size);
    data.put_be32(0); // MAXIMUM PREFETCH LENGTH
    let unmap = |limit| if info.unmap { limit } else { 0 };
    data.put_be32(unmap(MAX_UNMAP_BLOCKS));
    data.put_be32(unmap(u32::from(MAX_UNMAP_DESCRIPTORS)));
    data.put_be32(unmap(info.unmap_granularity));
    data.put_be32(unmap(1 << 31)); // UGAVALID, alignment 0
    data.put_be64(u64::from(MAX_WRITE_SAME_BYTES / block_size));
    // SBC-4: all zero where there are no atomic writes; 1 is said as 0 where any will do.
    let atomic = |limit| {
        if info.atomic_write_blocks > 0 {
            limit
        } else {
            0
        }
    };
    let granularity = match write_atomic::granularity(info) {
        1 => 0,
        blocks => atomic(blocks),
    };
    data.put_be32(info.atomic_write_blocks);
    data.put_be32(granularity); // ATOMIC ALIGNMENT
    data.put_be32(granularity); // ATOMIC TRANSFER LENGTH GRANULARITY
    data.put_zeroes(8); // no atomic boundaries
}

/// SBC-3, Block Device Characteristics page.
fn block_device_characteristics(data: &mut ParameterData, unit: &LogicalUnit, _i_t: &Nexus) {
    // MEDIUM ROTATION RATE: 1 = does not rotate, 0 = not reported.
    data.put_be16(u16::from(unit.info().non_rotating));
    // After a BLOCK ERASE, and after a CRYPTOGRAPHIC ERASE where there is one, every block can be
    // read without an error: WABEREQ and WACEREQ are 01b.
    let cryptographic = if unit.info().cryptographic_erase {
        0x10
    } else {
        0
    };
    data.put(&[0, 0x40 | cryptographic]);
    // FUAB: FUA means the medium. VBULS: unmapped blocks are compared as the zeroes that they are.
    let vbuls = u8::from(unit.info().unmap_reads_zeroes || !unit.info().unmap);
    data.put_u8(0x02 | vbuls);
    data.put_zeroes(55);
}

/// SBC-3, Logical Block Provisioning page.
fn logical_block_provisioning(data: &mut ParameterData, unit: &LogicalUnit, _i_t: &Nexus) {
    const LBPU: u8 = 1 << 7;
    const LBPWS: u8 = 1 << 6;
    const LBPWS10: u8 = 1 << 5;
    const LBPRZ: u8 = 1 << 2;
    const THIN: u8 = 2;
    let info = unit.info();
    let mut flags = 0;
    if info.unmap {
        flags = LBPU | LBPWS | LBPWS10;
        if info.unmap_reads_zeroes {
            flags |= LBPRZ;
        }
    }
    let provisioning = if info.unmap && info.thin { THIN } else { 0 };
    let exponent = if unit.provisioning().has_threshold_sets() {
        threshold_exponent(info.block_size)
    } else {
        0
    };
    // DP, ANC_SUP: no provisioning groups, and no anchored blocks.
    data.put(&[exponent, flags, provisioning, 0]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::provisioning::{Policy, Threshold};
    use crate::scsi::testbed::{self, Bench};
    use crate::scsi::unit::PortIdentity;

    fn read_page(bench: &mut Bench, code: u8) -> Vec<u8> {
        bench.read(&[0x12, 1, code, 0xff, 0xff, 0], u32::MAX).good()
    }

    #[test]
    fn supported_pages_are_ascending_and_each_can_be_read() {
        let mut bench = Bench::new(8);
        let list = read_page(&mut bench, 0);
        assert_eq!(
            list,
            [
                0, 0, 0, 11, 0, 0x80, 0x83, 0x85, 0x86, 0x87, 0x88, 0x8f, 0xb0, 0xb1, 0xb2
            ]
        );
        for code in &list[4..] {
            let page = read_page(&mut bench, *code);
            let follow = usize::from(u16::from_be_bytes([page[2], page[3]]));
            assert_eq!((page[0], page[1], page.len()), (0, *code, follow + 4));
        }
    }

    #[test]
    fn serial_number_is_the_units_own() {
        assert_eq!(
            read_page(&mut Bench::new(8), 0x80),
            *b"\x00\x80\x00\x08SERIAL42"
        );
    }

    #[test]
    fn device_identification_names_unit_port_and_target() {
        let page = read_page(&mut Bench::new(8), 0x83);
        let mut expected = vec![
            0x01, 0x03, 0, 8, 0x31, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
        ];
        expected.extend([0x01, 0x0a, 0, 18, 0x10, 0]);
        expected.extend(b"0123456789abcdef");
        expected.extend([0x02, 0x01, 0, 32]);
        expected.extend(b"IIBLOCKDdisk            SERIAL42");
        expected.extend([0x51, 0x94, 0, 4, 0, 0, 0, 2]);
        expected.extend([0x51, 0x95, 0, 4, 0, 0, 0, 1]);
        expected.extend([0x53, 0x98, 0, 36]);
        expected.extend(b"iqn.2026-11.io.example:disk,t,0x0001");
        let end = expected.len();
        // The name of 36 characters takes four zero bytes to end it, the one of 27 takes one.
        expected.extend([0; 4]);
        expected[end - 37] = 40;
        expected.extend([0x53, 0xa8, 0, 28]);
        expected.extend(b"iqn.2026-11.io.example:disk\0");
        assert_eq!(page[4..], expected);
    }

    #[test]
    fn names_of_the_medium_stand_behind_those_of_the_unit() {
        let mut info = testbed::info(512, 8);
        info.designators.eui64 = Some([1, 2, 3, 4, 5, 6, 7, 8]);
        let page = read_page(&mut Bench::with_info(info.clone()), 0x83);
        let at = 4 + 12 + 22;
        let eui64 = [0x01, 0x02, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(page[at..at + 12], eui64);
        info.designators.nguid = Some(*b"NGUIDNGUIDNGUID0");
        info.designators.uuid = Some(*b"fedcba9876543210");
        let page = read_page(&mut Bench::with_info(info), 0x83);
        assert_eq!(page[at..at + 20], *b"\x01\x02\x00\x10NGUIDNGUIDNGUID0");
        assert_eq!(page[at + 20..at + 32], eui64);
        let uuid = *b"\x01\x0a\x00\x12\x10\x00fedcba9876543210";
        assert_eq!(page[at + 32..at + 54], uuid);
    }

    #[test]
    fn longest_names_fit_their_designators() {
        let port = PortIdentity::new(&"n".repeat(223), u16::MAX, u16::MAX).unwrap();
        let i_t = testbed::nexus(port);
        let mut info = testbed::info(512, 8);
        info.designators = Designators {
            nguid: Some([1; 16]),
            eui64: Some([2; 8]),
            uuid: Some([3; 16]),
        };
        let unit = LogicalUnit::new(testbed::identity(), info, false);
        let mut data = ParameterData::new();
        device_identification(&mut data, &unit, &i_t);
        let mut rest = data.as_bytes();
        let mut kinds = Vec::new();
        while let [_, kind, _, len, after @ ..] = rest {
            kinds.push(*kind);
            rest = &after[usize::from(*len)..];
        }
        let unit = [0x03, 0x0a, 0x02, 0x02, 0x0a, 0x01];
        assert_eq!(kinds[..6], unit);
        assert_eq!(kinds[6..], [0x94, 0x95, 0x98, 0xa8]);
    }

    #[test]
    fn extended_inquiry_claims_all_three_attributes_and_the_cache() {
        let page = read_page(&mut Bench::new(8), 0x86);
        assert_eq!(
            (page.len(), &page[..7]),
            (64, &[0, 0x86, 0, 60, 0, 7, 1][..])
        );
        assert_eq!((page[7], page[13]), (1, 40));
    }

    #[test]
    fn block_limits_are_in_blocks_of_the_unit() {
        for block_size in [512_u32, 4096] {
            let mut bench = Bench::with_info(testbed::info(block_size, 8));
            let page = read_page(&mut bench, 0xb0);
            assert_eq!(page[..8], [0, 0xb0, 0, 0x3c, 0, 0xff, 0, 8]);
            let field = |at: usize| u32::from_be_bytes(*page[at..].first_chunk().unwrap());
            assert_eq!(field(8), 4 * 1024 * 1024 / block_size);
            assert_eq!(field(12), 256 * 1024 / block_size);
            assert_eq!((field(20), field(24)), (1 << 20, 256));
            assert_eq!((field(28), field(32)), (8, 1 << 31));
            assert_eq!((field(36), field(40)), (0, 16 * 1024 * 1024 / block_size));
            assert_eq!(page[5], 255);
            assert_eq!(page[44..], [0; 20]);
        }
    }

    #[test]
    fn atomic_writes_have_the_granularity_of_physical_blocks() {
        for (exponent, granularity) in [(3, 8), (0, 0)] {
            let mut info = testbed::info(512, 8);
            info.atomic_write_blocks = 2048;
            info.physical_block_exponent = exponent;
            let page = read_page(&mut Bench::with_info(info), 0xb0);
            let field = |at: usize| u32::from_be_bytes(*page[at..].first_chunk().unwrap());
            assert_eq!(
                (field(44), field(48), field(52)),
                (2048, granularity, granularity)
            );
            assert_eq!(page[56..], [0; 8]);
        }
    }

    #[test]
    fn provisioning_is_claimed_as_far_as_the_device_guarantees_it() {
        let b2 = |unmap, unmap_reads_zeroes, thin, soft| {
            let mut info = testbed::info(512, 8);
            (info.unmap, info.unmap_reads_zeroes, info.thin) = (unmap, unmap_reads_zeroes, thin);
            let mut unit = LogicalUnit::new(testbed::identity(), info, false);
            unit.set_space_policy(Policy {
                soft,
                ..Policy::default()
            });
            let mut bench = Bench::with_unit(unit);
            let cdb = [0x12, 1, 0xb2, 0, 255, 0];
            bench.read(&cdb, 255).good()[4..].to_vec()
        };
        assert_eq!(b2(true, true, true, None), [0, 0xe4, 2, 0]);
        // A device that may keep what was unmapped, and does not say what backs its blocks.
        assert_eq!(b2(true, false, false, None), [0, 0xe0, 0, 0]);
        assert_eq!(b2(false, false, true, None), [0, 0, 0, 0]);
        let soft = Some(Threshold::Percent(80));
        assert_eq!(b2(true, true, true, soft), [11, 0xe4, 2, 0]);
    }

    #[test]
    fn device_that_cannot_unmap_has_no_unmap_limits_and_is_not_thin() {
        let mut info = testbed::info(512, 8);
        info.unmap = false;
        info.non_rotating = false;
        let mut bench = Bench::with_info(info);
        assert_eq!(read_page(&mut bench, 0xb0)[20..36], [0; 16]);
        assert_eq!(read_page(&mut bench, 0xb1)[4..6], [0, 0]);
        assert_eq!(read_page(&mut bench, 0xb2), [0, 0xb2, 0, 4, 0, 0, 0, 0]);
    }

    #[test]
    fn thin_unit_that_does_not_rotate_says_so() {
        let mut bench = Bench::new(8);
        let page = read_page(&mut bench, 0xb1);
        assert_eq!((page.len(), &page[4..9]), (64, &[0, 1, 0, 0x40, 3][..]));
        assert_eq!(read_page(&mut bench, 0xb2), [0, 0xb2, 0, 4, 0, 0xe4, 2, 0]);
    }
}
