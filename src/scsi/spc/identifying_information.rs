//! REPORT IDENTIFYING INFORMATION and SET IDENTIFYING INFORMATION (SPC-4).
//!
//! A few bytes that applications leave with the unit to know it again. There is one kind of them,
//! INFORMATION TYPE 0; type 7Fh lists the kinds. They are kept over a restart, and other nexuses
//! are told of a change.

use super::setting;
use crate::scsi::change::{Change, IDENTIFYING_BYTES_MAX};
use crate::scsi::sense::Sense;
use crate::scsi::task::{Begin, Task, UnitCall};

/// INFORMATION TYPE: identifying information of the peripheral device.
const DEVICE: u8 = 0x00;
/// INFORMATION TYPE: which types there are.
const SUPPORTED: u8 = 0x7f;

/// Where both CDBs have their length field, and INFORMATION TYPE.
const LENGTH_AT: u16 = 6;
const TYPE_AT: u16 = 10;

pub(in crate::scsi) fn report(call: &mut UnitCall<'_>) -> Begin {
    let data = &mut *call.data_in;
    data.put_be32(0);
    match call.command.cdb.u8(10) >> 1 {
        DEVICE => data.put(&call.unit.non_volatile().identifying_information),
        SUPPORTED => {
            let max = u16::try_from(IDENTIFYING_BYTES_MAX).expect("some bytes");
            data.put(&[DEVICE << 1, 0]);
            data.put_be16(max);
        }
        _ => return Err(Sense::invalid_field_in_cdb(TYPE_AT, Some(7))),
    }
    data.patch_length_be16(2);
    Task::parameter_data(data, call.command.cdb.be32(6))
}

pub(in crate::scsi) fn set(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    if cdb.u8(10) >> 1 != DEVICE {
        return Err(Sense::invalid_field_in_cdb(TYPE_AT, Some(7)));
    }
    let bytes = cdb.be32(6);
    if usize::try_from(bytes).is_ok_and(|bytes| bytes <= IDENTIFYING_BYTES_MAX) {
        setting::start(call, bytes, LENGTH_AT, |list, _| {
            Change::Identifying(list.into())
        })
    } else {
        Err(Sense::invalid_field_in_cdb(LENGTH_AT, None))
    }
}

#[cfg(test)]
mod tests {
    use crate::scsi::sense::Sense;
    use crate::scsi::testbed::Bench;
    use crate::scsi::unit_attention::UnitAttention;

    fn report(kind: u8) -> [u8; 12] {
        [0xa3, 0x05, 0, 0, 0, 0, 0, 0, 1, 0, kind << 1, 0]
    }

    fn set(kind: u8, bytes: u8) -> [u8; 12] {
        [0xa4, 0x06, 0, 0, 0, 0, 0, 0, 0, bytes, kind << 1, 0]
    }

    #[test]
    fn what_was_set_is_reported_kept_and_told_to_others() {
        let mut bench = Bench::new(8);
        assert_eq!(bench.read(&report(0), 256).good(), [0, 0, 0, 0]);
        bench.write(&set(0, 6), b"rack 7").good();
        let data = bench.read(&report(0), 256).good();
        assert_eq!(
            (&data[..4], &data[4..]),
            (&[0, 0, 0, 6][..], &b"rack 7"[..])
        );
        assert!(bench.saved);
        let told = UnitAttention::DeviceIdentifierChanged;
        assert_eq!(bench.others.take(), Some(told));
        assert_eq!(bench.nexus.take(), None);
        bench.plain(&set(0, 0)).good();
        assert_eq!(bench.read(&report(0), 256).good(), [0, 0, 0, 0]);
    }

    #[test]
    fn kinds_are_listed_and_unknown_ones_are_invalid_fields() {
        let mut bench = Bench::new(8);
        let data = bench.read(&report(0x7f), 256).good();
        assert_eq!(data, [0, 0, 0, 4, 0, 0, 0, 64]);
        bench.read(&report(2), 256).invalid_field(10, Some(7));
        bench.write(&set(0x7f, 1), &[1]).invalid_field(10, Some(7));
    }

    #[test]
    fn too_much_and_less_than_announced_are_refused() {
        let mut bench = Bench::new(8);
        bench.write(&set(0, 64), &[b'x'; 64]).good();
        bench.write(&set(0, 65), &[b'y'; 65]).invalid_field(6, None);
        let answer = bench.write(&set(0, 64), &[b'y'; 63]);
        assert_eq!(answer.sense(), Sense::parameter_list_length_error(6));
        assert_eq!(bench.read(&report(0), 256).good()[4..], [b'x'; 64]);
    }
}
