//! READ BUFFER and WRITE BUFFER (SPC-4): the echo buffer, which tests the way to the unit and back.
//!
//! A unit has one echo buffer. It belongs to the nexus that wrote it last; to the others it is
//! overwritten (EBOS = 1). There is no other buffer, so all other modes are refused.

use std::sync::Arc;

use super::setting;
use crate::scsi::change::Change;
use crate::scsi::nexus::Nexus;
use crate::scsi::sense::{AdditionalSense, Sense, SenseKey};
use crate::scsi::task::{Begin, Task, Transfer, UnitCall};

/// Bytes of the echo buffer.
pub const ECHO_BUFFER_BYTES: u16 = 4096;

/// MODE: echo buffer.
const ECHO: u8 = 0x0a;
/// MODE: echo buffer descriptor.
const ECHO_DESCRIPTOR: u8 = 0x0b;

/// EBOS: what other nexuses overwrite is noticed.
const EBOS: u8 = 0x01;

/// Where both CDBs have their length field.
const LENGTH_AT: u16 = 6;

/// What was written last, and by whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Echo {
    pub(in crate::scsi) by: Arc<Nexus>,
    pub(in crate::scsi) bytes: Box<[u8]>,
}

pub(in crate::scsi) fn write(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    if cdb.u8(1) & 0x1f != ECHO {
        return Err(Sense::invalid_field_in_cdb(1, Some(4)));
    }
    let bytes = cdb.be24(6);
    if bytes > u32::from(ECHO_BUFFER_BYTES) {
        return Err(Sense::invalid_field_in_cdb(LENGTH_AT, None));
    }
    if bytes == 0 {
        return Task::good(Transfer::None);
    }
    setting::start(call, bytes, LENGTH_AT, |list, _| Change::Echo(list.into()))
}

pub(in crate::scsi) fn read(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    match cdb.u8(1) & 0x1f {
        ECHO => match &call.unit.echo {
            Some(echo) if *echo.by == **call.i_t => call.data_in.put(&echo.bytes),
            Some(_) => {
                return Err(Sense::new(
                    SenseKey::AbortedCommand,
                    AdditionalSense::ECHO_BUFFER_OVERWRITTEN,
                ));
            }
            None => {
                return Err(Sense::illegal_request(
                    AdditionalSense::COMMAND_SEQUENCE_ERROR,
                ));
            }
        },
        ECHO_DESCRIPTOR => {
            call.data_in.put(&[EBOS, 0]);
            call.data_in.put_be16(ECHO_BUFFER_BYTES);
        }
        _ => return Err(Sense::invalid_field_in_cdb(1, Some(4))),
    }
    Task::parameter_data(call.data_in, cdb.be24(6))
}

#[cfg(test)]
mod tests {
    use crate::scsi::change::Change;
    use crate::scsi::sense::{AdditionalSense, Sense, SenseKey};
    use crate::scsi::testbed::{Bench, other_nexus};

    fn cdb(opcode: u8, mode: u8, bytes: u16) -> [u8; 10] {
        let [a, b] = bytes.to_be_bytes();
        [opcode, mode, 0, 0, 0, 0, 0, a, b, 0]
    }

    #[test]
    fn what_was_written_comes_back_up_to_the_capacity() {
        let mut bench = Bench::new(8);
        let descriptor = bench.read(&cdb(0x3c, 0x0b, 255), 255).good();
        assert_eq!(descriptor, [1, 0, 0x10, 0]);
        bench
            .read(&cdb(0x3c, 0x0a, 255), 255)
            .illegal(AdditionalSense::COMMAND_SEQUENCE_ERROR);
        let pattern: Vec<u8> = (0..4096_u32).map(|at| at.to_le_bytes()[0] ^ 0x5a).collect();
        bench.write(&cdb(0x3b, 0x0a, 4096), &pattern).good();
        assert!(bench.read(&cdb(0x3c, 0x0a, 4096), 4096).good() == pattern);
        bench.write(&cdb(0x3b, 0x0a, 5), b"hello").good();
        assert_eq!(bench.read(&cdb(0x3c, 0x0a, 4096), 4096).good(), b"hello");
        assert_eq!(bench.read(&cdb(0x3c, 0x0a, 2), 4096).good(), b"he");
        bench.plain(&cdb(0x3b, 0x0a, 0)).good();
        assert_eq!(bench.read(&cdb(0x3c, 0x0a, 5), 5).good(), b"hello");
        bench
            .write(&cdb(0x3b, 0x0a, 4097), &[0; 4097])
            .invalid_field(6, None);
        let answer = bench.write(&cdb(0x3b, 0x0a, 9), b"short");
        assert_eq!(answer.sense(), Sense::parameter_list_length_error(6));
    }

    #[test]
    fn buffer_of_another_nexus_is_overwritten_and_goes_with_it() {
        let mut bench = Bench::new(8);
        bench.write(&cdb(0x3b, 0x0a, 5), b"hello").good();
        let other = other_nexus();
        bench
            .change_by(&Change::Echo(b"theirs".as_slice().into()), &other)
            .unwrap();
        bench.read(&cdb(0x3c, 0x0a, 9), 9).refused_with(
            SenseKey::AbortedCommand,
            AdditionalSense::ECHO_BUFFER_OVERWRITTEN,
        );
        assert!(bench.unit().holds_for(&other));
        bench.change_by(&Change::NexusLost, &other).unwrap();
        assert!(!bench.unit().holds_for(&other));
        bench
            .read(&cdb(0x3c, 0x0a, 9), 9)
            .illegal(AdditionalSense::COMMAND_SEQUENCE_ERROR);
    }

    #[test]
    fn other_modes_are_invalid_fields() {
        let mut bench = Bench::new(8);
        for mode in (0..32).filter(|mode| *mode != 0x0a) {
            bench
                .write(&cdb(0x3b, mode, 4), &[0; 4])
                .invalid_field(1, Some(4));
            if mode != 0x0b {
                bench.read(&cdb(0x3c, mode, 4), 4).invalid_field(1, Some(4));
            }
        }
    }
}
