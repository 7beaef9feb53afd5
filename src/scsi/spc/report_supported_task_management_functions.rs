//! REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4).
//!
//! What the transport does (RFC 7143 §11.5.1): ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL
//! UNIT RESET and TARGET RESET, and where the session speaks RFC 7144 also QUERY TASK, QUERY TASK
//! SET, QUERY ASYNCHRONOUS EVENT and I_T NEXUS RESET. CLEAR ACA has no use where NORMACA is 0. REPD
//! = 1 adds how long they may take.

use crate::scsi::sense::Sense;
use crate::scsi::task::{Begin, Task, UnitCall};

/// Shortest ALLOCATION LENGTH.
const ALLOCATION_BYTES_MIN: u32 = 4;

/// ATS, ATSS, CTSS, LURS, TRS.
const SUPPORTED: [u8; 2] = [0b1101_1010, 0];

/// QTS; QAES, QTSS, ITNRS: the functions of RFC 7144 §4.
const RFC_7144: [u8; 2] = [0b0000_0100, 0b0000_0111];

/// ATSTS, CTSTS, LURTS, TRTS: those that take the long timeout, since they wait for data that other
/// initiators were asked for.
const LONG: [u8; 2] = [0b0101_1010, 0];

/// TMFTMOV: the timeouts are valid.
const TIMEOUTS_VALID: u8 = 0x01;

/// In units of 100 ms, as the fields are.
const LONG_TIMEOUT: u32 = 600;
const SHORT_TIMEOUT: u32 = 100;

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let allocation_length = cdb.be32(6);
    // SPC-4: so much must be asked for.
    if allocation_length < ALLOCATION_BYTES_MIN {
        return Err(Sense::invalid_field_in_cdb(6, None));
    }
    let data = &mut *call.data_in;
    if call.i_t.rfc_7144() {
        data.put(&[SUPPORTED[0] | RFC_7144[0], SUPPORTED[1] | RFC_7144[1]]);
    } else {
        data.put(&SUPPORTED);
    }
    data.put(&[0, 0]);
    if cdb.bit(2, 7) {
        data.put(&[TIMEOUTS_VALID, 0]);
        data.put(&LONG);
        data.put_be32(LONG_TIMEOUT);
        data.put_be32(SHORT_TIMEOUT);
        data.patch_length_u8(3);
    }
    Task::parameter_data(data, allocation_length)
}

#[cfg(test)]
mod tests {
    use crate::scsi::testbed::Bench;

    fn report(flags: u8, allocation_length: u8) -> [u8; 12] {
        [0xa3, 0x0d, flags, 0, 0, 0, 0, 0, 0, allocation_length, 0, 0]
    }

    #[test]
    fn functions_come_with_timeouts_where_they_are_asked_for() {
        let mut bench = Bench::new(8);
        assert_eq!(bench.read(&report(0, 255), 255).good(), [0xda, 0, 0, 0]);
        let data = bench.read(&report(0x80, 255), 255).good();
        assert_eq!(
            data,
            [0xda, 0, 0, 12, 1, 0, 0x5a, 0, 0, 0, 2, 0x58, 0, 0, 0, 100]
        );
    }

    #[test]
    fn functions_of_rfc_7144_are_there_where_the_session_has_them() {
        let mut bench = Bench::new(8);
        bench.speak_rfc_7144();
        assert_eq!(bench.read(&report(0, 255), 255).good(), [0xde, 7, 0, 0]);
    }

    #[test]
    fn allocation_length_under_four_is_an_invalid_field() {
        let mut bench = Bench::new(8);
        for length in 0..4 {
            bench.read(&report(0, length), 255).invalid_field(6, None);
        }
        assert_eq!(
            bench.read(&report(0x80, 5), 255).good(),
            [0xda, 0, 0, 12, 1]
        );
    }
}
