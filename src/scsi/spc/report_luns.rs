//! REPORT LUNS (SPC-4).
//!
//! The LUNs that this initiator may see, whatever unit was addressed. We have no well known logical
//! units: SELECT REPORT 01h is an empty list and 02h is the same as 00h. A target without any LUN
//! for the initiator reports LUN 0, since SAM-5 wants one entry point; INQUIRY says there that
//! nothing is connected.

use crate::scsi::lun;
use crate::scsi::parameter::{PARAMETER_DATA_BYTES, ParameterData};
use crate::scsi::sense::Sense;
use crate::scsi::task::{Begin, Command, Context, Task};
use crate::scsi::unit_attention::UnitAttention;

const HEADER_BYTES: usize = 8;
const LUN_BYTES: usize = 8;

/// Most LUNs in one report; a target has fewer.
const REPORTED_LUNS_MAX: usize = (PARAMETER_DATA_BYTES - HEADER_BYTES) / LUN_BYTES;

/// The SELECT REPORT field's values that we know.
const ADDRESSABLE: u8 = 0x00;
const WELL_KNOWN: u8 = 0x01;
const ALL: u8 = 0x02;

pub(in crate::scsi) fn start(cx: &mut Context<'_>, command: &Command) -> Begin {
    let cdb = &command.cdb;
    let all = match cdb.u8(2) {
        ADDRESSABLE | ALL => true,
        WELL_KNOWN => false,
        _ => return Err(Sense::invalid_field_in_cdb(2, None)),
    };
    // SPC-4 REPORT LUNS: whoever asks for the list knows of its change, at every LUN.
    for mapped in cx.map.iter_mut() {
        mapped.nexus.clear(UnitAttention::ReportedLunsChanged);
    }
    match &*cx.map {
        _ if !all => list(cx.data_in, [].into_iter()),
        [] => list(cx.data_in, [0].into_iter()),
        map => list(cx.data_in, map.iter().map(|mapped| mapped.lun)),
    }
    Task::parameter_data(cx.data_in, cdb.be32(6))
}

/// LUN LIST LENGTH counts the list only, not the four reserved bytes before it.
fn list(data: &mut ParameterData, luns: impl ExactSizeIterator<Item = u16>) {
    let luns = luns.take(REPORTED_LUNS_MAX);
    let bytes = u32::try_from(luns.len() * LUN_BYTES).expect("the list is shorter than the buffer");
    data.put_be32(bytes);
    data.put_be32(0);
    for lun in luns {
        data.put(&lun::encode(lun));
    }
}

#[cfg(test)]
mod tests {
    use crate::scsi::task::Transfer;
    use crate::scsi::testbed::Bench;
    use crate::scsi::unit_attention::UnitAttention;

    fn report(select: u8, allocation_length: u32) -> [u8; 12] {
        let [a, b, c, d] = allocation_length.to_be_bytes();
        [0xa0, 0, select, 0, 0, 0, a, b, c, d, 0, 0]
    }

    #[test]
    fn visible_luns_are_listed_by_the_simplest_method() {
        let mut bench = Bench::new(8);
        bench.luns = vec![0, 255, 256];
        let mut expected = vec![0, 0, 0, 24, 0, 0, 0, 0];
        expected.extend([0, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([0, 255, 0, 0, 0, 0, 0, 0]);
        expected.extend([0x41, 0, 0, 0, 0, 0, 0, 0]);
        for select in [0, 2] {
            assert_eq!(bench.read(&report(select, 512), 512).good(), expected);
        }
    }

    #[test]
    fn there_are_no_well_known_units_and_no_other_reports() {
        let mut bench = Bench::new(8);
        assert_eq!(bench.read(&report(1, 512), 512).good(), [0; 8]);
        for select in [3, 0x10, 0x11, 0x12, 0xff] {
            bench.read(&report(select, 512), 512).invalid_field(2, None);
        }
    }

    #[test]
    fn list_is_cut_and_still_tells_its_whole_length() {
        let mut bench = Bench::new(8);
        bench.luns = (0..256).collect();
        for length in [0, 1, 4, 16, 17, 2055, 2056, u32::MAX] {
            let answer = bench.read(&report(0, length), u32::MAX);
            assert_eq!(answer.transfer, Transfer::In(u64::from(length.min(2056))));
            let data = answer.good();
            if length >= 4 {
                assert_eq!(data[..4], [0, 0, 8, 0]);
            }
        }
    }

    #[test]
    fn every_lun_of_a_full_table_is_bounded_by_the_buffer() {
        let mut bench = Bench::new(8);
        bench.luns = (0..u16::MAX).collect();
        let data = bench.read(&report(0, u32::MAX), u32::MAX).good();
        let listed = u32::from_be_bytes(*data.first_chunk().unwrap());
        assert_eq!(usize::try_from(listed).unwrap(), data.len() - 8);
    }

    #[test]
    fn initiator_that_sees_nothing_is_given_lun_0_to_ask() {
        let mut bench = Bench::new(8);
        bench.unit = None;
        bench.luns.clear();
        let data = bench.read(&report(0, 512), 512).good();
        assert_eq!(data, [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn asking_for_the_list_clears_the_condition_that_it_changed_and_no_other() {
        let mut bench = Bench::new(8);
        bench.nexus.raise(UnitAttention::ReportedLunsChanged);
        bench.nexus.raise(UnitAttention::CapacityChanged);
        bench.read(&report(0, 512), 512).good();
        assert_eq!(bench.nexus.take(), Some(UnitAttention::CapacityChanged));
        assert_eq!(bench.nexus.take(), None);
    }
}
