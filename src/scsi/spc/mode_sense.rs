//! MODE SENSE (6) and (10) (SPC-4).
//!
//! A header, a block descriptor unless DBD is set, and the pages that were asked for. The
//! device-specific parameter says whether this nexus may write (WP) and that DPO and FUA are known
//! (SBC-3, mode parameter header). Saved values are those of the last MODE SELECT with SP = 1, the
//! default values before one.

use super::mode_pages::{PAGES, Values};
use crate::scsi::sense::Sense;
use crate::scsi::task::{Begin, Task, UnitCall};

const ALL_PAGES: u8 = 0x3f;
const ALL_SUBPAGES: u8 = 0xff;

const WRITE_PROTECT: u8 = 1 << 7;
const DPOFUA: u8 = 1 << 4;
const LONG_LBA: u8 = 1 << 0;

/// The forms of the block descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum BlockDescriptor {
    None,
    Short,
    Long,
}

impl BlockDescriptor {
    const fn bytes(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Short => 8,
            Self::Long => 16,
        }
    }
}

pub(in crate::scsi) fn start_6(call: &mut UnitCall<'_>) -> Begin {
    let cdb = call.command.cdb;
    let descriptor = if cdb.bit(1, 3) {
        BlockDescriptor::None
    } else {
        BlockDescriptor::Short
    };
    // SPC-4, mode parameter header (6): MODE DATA LENGTH, MEDIUM TYPE, device-specific, descriptor
    // length.
    let specific = device_specific(call);
    call.data_in.put(&[0, 0, specific, descriptor.bytes()]);
    body(call, descriptor)?;
    call.data_in.patch_length_u8(0);
    Task::parameter_data(call.data_in, u32::from(cdb.u8(4)))
}

pub(in crate::scsi) fn start_10(call: &mut UnitCall<'_>) -> Begin {
    let cdb = call.command.cdb;
    let descriptor = match (cdb.bit(1, 3), cdb.bit(1, 4)) {
        (true, _) => BlockDescriptor::None,
        (false, false) => BlockDescriptor::Short,
        (false, true) => BlockDescriptor::Long,
    };
    let long_lba = if descriptor == BlockDescriptor::Long {
        LONG_LBA
    } else {
        0
    };
    let specific = device_specific(call);
    call.data_in
        .put(&[0, 0, 0, specific, long_lba, 0, 0, descriptor.bytes()]);
    body(call, descriptor)?;
    call.data_in.patch_length_be16(0);
    Task::parameter_data(call.data_in, u32::from(cdb.be16(7)))
}

fn device_specific(call: &UnitCall<'_>) -> u8 {
    if call.read_only {
        WRITE_PROTECT | DPOFUA
    } else {
        DPOFUA
    }
}

/// The block descriptor and the pages, which both forms have in common.
fn body(call: &mut UnitCall<'_>, descriptor: BlockDescriptor) -> Result<(), Sense> {
    let cdb = &call.command.cdb;
    let (page, subpage) = (cdb.u8(2) & 0x3f, cdb.u8(3));
    let values = match cdb.u8(2) >> 6 {
        0b00 => Values::Current,
        0b01 => Values::Changeable,
        0b10 => Values::Default,
        _ => Values::Saved,
    };
    block_descriptor(call, descriptor);
    if page == ALL_PAGES && subpage != 0 && subpage != ALL_SUBPAGES {
        return Err(Sense::invalid_field_in_cdb(3, None));
    }
    let mut found = false;
    for row in &PAGES {
        let page_wanted = page == ALL_PAGES || page == row.page;
        let subpage_wanted = subpage == ALL_SUBPAGES || subpage == row.subpage;
        if page_wanted && subpage_wanted {
            row.write(call.data_in, call.unit, values);
            found = true;
        }
    }
    if found {
        return Ok(());
    }
    let page_known = PAGES.iter().any(|row| row.page == page);
    Err(if page_known {
        Sense::invalid_field_in_cdb(3, None)
    } else {
        Sense::invalid_field_in_cdb(2, Some(5))
    })
}

/// SBC-3, mode parameter block descriptors.
fn block_descriptor(call: &mut UnitCall<'_>, form: BlockDescriptor) {
    let info = call.unit.info();
    match form {
        BlockDescriptor::None => {}
        BlockDescriptor::Short => {
            call.data_in
                .put_be32(u32::try_from(info.blocks).unwrap_or(u32::MAX));
            // One reserved byte and three of block size.
            call.data_in.put_be32(info.block_size & 0x00ff_ffff);
        }
        BlockDescriptor::Long => {
            call.data_in.put_be64(info.blocks);
            call.data_in.put_be32(0);
            call.data_in.put_be32(info.block_size);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::scsi::testbed::{self, Bench};
    use crate::scsi::unit::LogicalUnit;
    use crate::scsi::unit_attention::NexusUnit;

    const CONTROL: [u8; 12] = [0x8a, 0x0a, 0x20, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];

    fn sense_6(dbd: u8, page: u8, subpage: u8) -> [u8; 6] {
        [0x1a, dbd, page, subpage, 255, 0]
    }

    fn sense_10(flags: u8, page: u8, subpage: u8) -> [u8; 10] {
        [0x5a, flags, page, subpage, 0, 0, 0, 0xff, 0xff, 0]
    }

    /// Codes of the pages behind a header, in their order.
    fn codes(mut pages: &[u8]) -> Vec<(u8, u8)> {
        let mut codes = Vec::new();
        while let [code, second, ..] = *pages {
            let (subpage, len) = if code & 0x40 == 0 {
                (0, usize::from(second) + 2)
            } else {
                (
                    second,
                    usize::from(u16::from_be_bytes([pages[2], pages[3]])) + 4,
                )
            };
            codes.push((code & 0x3f, subpage));
            pages = &pages[len..];
        }
        codes
    }

    #[test]
    fn mode_sense_6_has_header_block_descriptor_and_page() {
        let data = Bench::new(0x0102).read(&sense_6(0, 0x0a, 0), 255).good();
        assert_eq!(data[..12], [23, 0, 0x10, 8, 0, 0, 1, 2, 0, 0, 2, 0]);
        assert_eq!(data[12..], CONTROL);
    }

    #[test]
    fn mode_sense_10_has_the_short_or_the_long_descriptor_or_none() {
        let mut bench = Bench::new(0x0102);
        let short = bench.read(&sense_10(0, 0x0a, 0), 255).good();
        assert_eq!(
            short[..16],
            [0, 26, 0, 0x10, 0, 0, 0, 8, 0, 0, 1, 2, 0, 0, 2, 0]
        );
        assert_eq!(short[16..], CONTROL);
        let long = bench.read(&sense_10(0x10, 0x0a, 0), 255).good();
        assert_eq!(long[..8], [0, 34, 0, 0x10, 1, 0, 0, 16]);
        assert_eq!(
            long[8..24],
            [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 2, 0]
        );
        let none = bench.read(&sense_10(0x18, 0x0a, 0), 255).good();
        assert_eq!(none[..8], [0, 18, 0, 0x10, 0, 0, 0, 0]);
        assert_eq!(none[8..], CONTROL);
    }

    #[test]
    fn short_descriptor_of_a_large_disk_says_that_it_cannot() {
        let unit = LogicalUnit::new(testbed::identity(), testbed::info(4096, 1 << 40), false);
        let data = Bench::with_unit(unit)
            .read(&sense_6(0, 0x0a, 0), 255)
            .good();
        assert_eq!(data[4..12], [0xff, 0xff, 0xff, 0xff, 0, 0, 0x10, 0]);
    }

    #[test]
    fn all_pages_come_with_or_without_subpages() {
        let mut bench = Bench::new(8);
        let plain = [
            (0x01, 0),
            (0x02, 0),
            (0x08, 0),
            (0x0a, 0),
            (0x1a, 0),
            (0x1c, 0),
        ];
        let data = bench.read(&sense_6(8, 0x3f, 0), 255).good();
        assert_eq!(usize::from(data[0]) + 1, data.len());
        assert_eq!(codes(&data[4..]), plain);
        let data = bench.read(&sense_6(8, 0x3f, 0xff), 255).good();
        let mut whole = plain.to_vec();
        whole.insert(4, (0x0a, 1));
        whole.insert(5, (0x0a, 2));
        whole.push((0x1c, 2));
        assert_eq!(codes(&data[4..]), whole);
        let data = bench.read(&sense_6(8, 0x0a, 0xff), 255).good();
        assert_eq!(codes(&data[4..]), [(0x0a, 0), (0x0a, 1), (0x0a, 2)]);
        let data = bench.read(&sense_6(8, 0x0a, 0x01), 255).good();
        assert_eq!((&data[4..8], data.len()), (&[0x4a, 1, 0, 0x1c][..], 4 + 32));
        assert_eq!(data[8], 0x07, "TCMOS, SCSIP and IALUAE");
    }

    #[test]
    fn caching_page_tells_whether_there_is_a_volatile_cache() {
        let mut info = testbed::info(512, 8);
        let data = Bench::with_info(info.clone())
            .read(&sense_6(8, 0x08, 0), 255)
            .good();
        assert_eq!(
            (data[4..7].to_vec(), data.len()),
            (vec![0x88, 0x12, 0x04], 4 + 20)
        );
        info.write_cache = false;
        let data = Bench::with_info(info)
            .read(&sense_6(8, 0x08, 0), 255)
            .good();
        assert_eq!(data[6], 0);
    }

    #[test]
    fn changeable_values_name_the_bits_and_the_other_values_begin_alike() {
        let mut bench = Bench::new(8);
        let current = bench.read(&sense_6(8, 0x0a, 0), 255).good();
        for control in [0x80, 0xc0] {
            let page = bench.read(&sense_6(8, control | 0x0a, 0), 255).good();
            assert_eq!(page, current);
        }
        let changeable = bench.read(&sense_6(8, 0x40 | 0x0a, 0), 255).good();
        assert_eq!(
            changeable[4..],
            [0x8a, 0x0a, 0x04, 0x06, 0x08, 0x40, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn write_cache_that_is_not_there_cannot_be_changed() {
        let mut info = testbed::info(512, 8);
        for (write_cache, changeable) in [(true, 0x04), (false, 0)] {
            info.write_cache = write_cache;
            let mut bench = Bench::with_info(info.clone());
            let page = bench.read(&sense_6(8, 0x48, 0), 255).good();
            assert_eq!((page[4], page[6]), (0x88, changeable));
        }
    }

    #[test]
    fn all_pages_fit_the_lengths_of_the_6_byte_form() {
        let data = Bench::new(8).read(&sense_6(0, 0x3f, 0xff), 255).good();
        assert!(data.len() <= 255 && usize::from(data[0]) + 1 == data.len());
    }

    #[test]
    fn unknown_page_and_subpage_are_pointed_at() {
        let mut bench = Bench::new(8);
        bench
            .read(&sense_6(0, 0x05, 0), 255)
            .invalid_field(2, Some(5));
        bench.read(&sense_6(0, 0x0a, 7), 255).invalid_field(3, None);
        bench.read(&sense_6(0, 0x3f, 1), 255).invalid_field(3, None);
    }

    #[test]
    fn refused_mode_sense_returns_no_data() {
        assert_eq!(
            Bench::new(8).read(&sense_6(0, 0x3f, 1), 255).transfer,
            crate::scsi::task::Transfer::None
        );
    }

    #[test]
    fn write_protection_of_the_mapping_shows_in_the_header() {
        let mut bench = Bench::new(8);
        bench.nexus = NexusUnit::new(true);
        assert_eq!(bench.read(&sense_6(0, 0x3f, 0), 255).good()[2], 0x90);
        assert_eq!(bench.read(&sense_10(0, 0x3f, 0), 255).good()[3], 0x90);
    }
}
