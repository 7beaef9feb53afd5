//! READ DEFECT DATA (10) and (12) (SBC-3).
//!
//! Our devices keep their defects to themselves: both lists are there and empty, in any address
//! descriptor format that SBC-3 defines, since a list without descriptors has none to format. What
//! was asked for comes back in PLISTV, GLISTV and DEFECT LIST FORMAT. The two formats that it
//! leaves to vendors or reserves are invalid fields.

use crate::scsi::sense::Sense;
use crate::scsi::task::{Begin, Task, UnitCall};

/// DEFECT LIST FORMAT values from here on are vendor specific or reserved.
const FORMATS_END: u8 = 0b110;

pub(in crate::scsi) fn start_10(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let flags = flags(cdb.u8(2), 2)?;
    call.data_in.put(&[0, flags]);
    call.data_in.put_be16(0);
    Task::parameter_data(call.data_in, u32::from(cdb.be16(7)))
}

/// An ADDRESS DESCRIPTOR INDEX beyond the end of a list leaves nothing of it (SBC-3, READ DEFECT
/// DATA (12)), and so does any other here.
pub(in crate::scsi) fn start_12(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let flags = flags(cdb.u8(1), 1)?;
    call.data_in.put(&[0, flags]);
    call.data_in.put_be16(0); // GENERATION CODE: not supported
    call.data_in.put_be32(0);
    Task::parameter_data(call.data_in, cdb.be32(6))
}

/// The list bits and the format, which stand in the parameter data where they stand in the CDB.
fn flags(byte: u8, at: u16) -> Result<u8, Sense> {
    if byte & 0b111 >= FORMATS_END {
        return Err(Sense::invalid_field_in_cdb(at, Some(2)));
    }
    Ok(byte & 0x1f)
}

#[cfg(test)]
mod tests {
    use crate::scsi::testbed::Bench;

    fn cdb_10(flags: u8, length: u8) -> [u8; 10] {
        [0x37, 0, flags, 0, 0, 0, 0, 0, length, 0]
    }

    fn cdb_12(flags: u8, index: u8, length: u8) -> [u8; 12] {
        [0xb7, flags, 0, 0, 0, index, 0, 0, 0, length, 0, 0]
    }

    #[test]
    fn both_lists_are_there_and_empty_in_every_defined_format() {
        let mut bench = Bench::new(8);
        for format in 0..6 {
            for lists in [0, 0x08, 0x10, 0x18] {
                let flags = lists | format;
                assert_eq!(
                    bench.read(&cdb_10(flags, 255), 255).good(),
                    [0, flags, 0, 0]
                );
                assert_eq!(
                    bench.read(&cdb_12(flags, 9, 255), 255).good(),
                    [0, flags, 0, 0, 0, 0, 0, 0]
                );
            }
        }
    }

    #[test]
    fn other_formats_are_invalid_fields() {
        let mut bench = Bench::new(8);
        for format in [6, 7] {
            bench
                .read(&cdb_10(format, 255), 255)
                .invalid_field(2, Some(2));
            bench
                .read(&cdb_12(format, 0, 255), 255)
                .invalid_field(1, Some(2));
        }
    }

    #[test]
    fn header_is_cut_to_the_allocation_length() {
        let mut bench = Bench::new(8);
        for length in [0, 1, 3, 4, 8, 9] {
            let short = bench.read(&cdb_10(0, length), 255).good();
            assert_eq!(short.len(), usize::from(length.min(4)));
            let long = bench.read(&cdb_12(0, 0, length), 255).good();
            assert_eq!(long.len(), usize::from(length.min(8)));
        }
    }
}
