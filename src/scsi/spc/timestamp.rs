//! REPORT TIMESTAMP and SET TIMESTAMP (SPC-4).
//!
//! The timestamp is the host's clock, in milliseconds since 1970 modulo 2^48, until somebody sets
//! it: from then on it is as much ahead of that clock as it was then (SCSIP = 1 in the Control
//! Extension mode page). It is not kept over a restart.

use super::setting;
use crate::scsi::change::Change;
use crate::scsi::sense::Sense;
use crate::scsi::task::{Begin, Task, Transfer, UnitCall};
use crate::scsi::unit::LogicalUnit;

/// Bytes of the parameter list of SET TIMESTAMP.
const LIST_BYTES: u32 = 12;

/// Where both CDBs have their length field.
const LENGTH_AT: u16 = 6;

/// TIMESTAMP ORIGIN values.
const SET_BY_COMMAND: u8 = 0b010;
const SET_BY_OTHER_MEANS: u8 = 0b011;

/// Bits of the timestamp.
const TIMESTAMP_MASK: u64 = (1 << 48) - 1;

pub(in crate::scsi) fn report(call: &mut UnitCall<'_>) -> Begin {
    let (origin, timestamp) = now(call.unit, call.unix_ms);
    let data = &mut *call.data_in;
    data.put_be16(10);
    data.put(&[origin, 0]);
    data.put(&timestamp.to_be_bytes()[2..]);
    data.put_be16(0);
    Task::parameter_data(data, call.command.cdb.be32(6))
}

/// The unit's timestamp and where it comes from.
fn now(unit: &LogicalUnit, unix_ms: u64) -> (u8, u64) {
    match unit.timestamp_ahead_ms {
        None => (SET_BY_OTHER_MEANS, unix_ms & TIMESTAMP_MASK),
        Some(ahead) => (SET_BY_COMMAND, unix_ms.wrapping_add(ahead) & TIMESTAMP_MASK),
    }
}

pub(in crate::scsi) fn set(call: &mut UnitCall<'_>) -> Begin {
    match call.command.cdb.be32(6) {
        // SPC-4, PARAMETER LIST LENGTH: zero is no error.
        0 => Task::good(Transfer::None),
        LIST_BYTES => setting::start(call, LIST_BYTES, LENGTH_AT, |list, unix_ms| {
            let [_, _, _, _, timestamp @ .., _, _] = list else {
                unreachable!("a list of this length is collected whole");
            };
            let to = timestamp
                .iter()
                .fold(0, |value, byte| value << 8 | u64::from(*byte));
            Change::Timestamp {
                ahead_ms: to.wrapping_sub(unix_ms),
            }
        }),
        bytes => {
            let sense = Sense::parameter_list_length_error(LENGTH_AT);
            Task::refused(Transfer::Out(u64::from(bytes)), sense)
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::scsi::sense::Sense;
    use crate::scsi::testbed::{Bench, UNIX_MS};
    use crate::scsi::unit_attention::UnitAttention;

    const REPORT: [u8; 12] = [0xa3, 0x0f, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0];

    fn set(bytes: u8) -> [u8; 12] {
        [0xa4, 0x0f, 0, 0, 0, 0, 0, 0, 0, bytes, 0, 0]
    }

    #[test]
    fn timestamp_is_the_hosts_clock_until_it_is_set() {
        let mut bench = Bench::new(8);
        let mut expected = vec![0, 10, 0b011, 0];
        expected.extend(&UNIX_MS.to_be_bytes()[2..]);
        expected.extend([0, 0]);
        assert_eq!(bench.read(&REPORT, 12).good(), expected);
        let list = [0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0];
        bench.write(&set(12), &list).good();
        let data = bench.read(&REPORT, 12).good();
        assert_eq!(data, [0, 10, 0b010, 0, 0, 0, 1, 2, 3, 4, 0, 0]);
        let told = UnitAttention::TimestampChanged;
        assert_eq!(bench.others.take(), Some(told));
        assert_eq!(bench.nexus.take(), None);
    }

    #[test]
    fn timestamp_goes_on_from_what_was_set_with_the_clock() {
        let mut bench = Bench::new(8);
        let list = [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
        bench.write(&set(12), &list).good();
        let unit = bench.unit();
        assert_eq!(super::now(unit, UNIX_MS + 5), (0b010, 6));
        assert_eq!(super::now(unit, UNIX_MS - 2), (0b010, (1 << 48) - 1));
    }

    #[test]
    fn list_of_another_length_is_a_length_error_and_none_changes_nothing() {
        let mut bench = Bench::new(8);
        bench.plain(&set(0)).good();
        for (bytes, sent) in [(11, 11), (13, 13), (12, 11)] {
            let answer = bench.write(&set(bytes), &vec![1; sent]);
            assert_eq!(answer.sense(), Sense::parameter_list_length_error(6));
        }
        assert_eq!(bench.read(&REPORT, 12).good()[2], 0b011);
        assert_eq!(bench.others.take(), None);
    }
}
