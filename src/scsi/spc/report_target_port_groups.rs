//! REPORT TARGET PORT GROUPS (SPC-4 §6.36).
//!
//! One descriptor for each portal group of the target, each with its one port, in the length-only
//! format (000b) or with the extended header (001b), which adds how long an implicit transition
//! takes at most. Answered from this core's replica: a change is everywhere before it is answered.

use crate::scsi::sense::Sense;
use crate::scsi::task::{Begin, Task, UnitCall};

/// PARAMETER DATA FORMAT values.
const LENGTH_ONLY: u8 = 0b000;
const EXTENDED: u8 = 0b001;

/// Seconds after which an initiator may give up on an implicit transition; ours take as long as a
/// message to every core.
const IMPLICIT_TRANSITION_TIME_S: u8 = 10;

/// O_SUP, U_SUP, S_SUP, AN_SUP and AO_SUP: all states but transitioning, and no dependence on
/// logical blocks.
const SUPPORTED_STATES: u8 = 0x4f;

/// TARGET PORT COUNT: a portal group is one port of the target.
const PORTS_PER_GROUP: u8 = 1;

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let format = cdb.u8(1) >> 5;
    let data = &mut *call.data_in;
    data.put_be32(0); // RETURN DATA LENGTH, below
    match format {
        LENGTH_ONLY => {}
        EXTENDED => data.put(&[EXTENDED << 4, IMPLICIT_TRANSITION_TIME_S, 0, 0]),
        _ => return Err(Sense::invalid_field_in_cdb(1, Some(7))),
    }
    for port in call.i_t.ports() {
        let group = call.unit.port_groups().group(port.portal_group_tag());
        data.put_u8(u8::from(group.preferred) << 7 | group.state.code());
        data.put_u8(SUPPORTED_STATES);
        data.put_be16(group.tag);
        data.put(&[0, group.altered as u8, 0, PORTS_PER_GROUP]);
        data.put_be16(0);
        data.put_be16(port.relative_port());
    }
    data.patch_length_be32(0);
    Task::parameter_data(data, cdb.be32(6))
}

#[cfg(test)]
mod tests {
    use crate::scsi::asymmetric_access::{AccessState, PortGroup, PortGroups};
    use crate::scsi::task::Transfer;
    use crate::scsi::testbed::Bench;

    fn cdb(format: u8, length: u32) -> [u8; 12] {
        let mut cdb = [0; 12];
        cdb[..2].copy_from_slice(&[0xa3, format << 5 | 0x0a]);
        cdb[6..10].copy_from_slice(&length.to_be_bytes());
        cdb
    }

    fn bench() -> Bench {
        let mut bench = Bench::new(8);
        bench.set_ports(&[(1, 1), (9, 2)]);
        let groups = vec![
            PortGroup::new(1, AccessState::NonOptimized, false),
            PortGroup::new(9, AccessState::Standby, true),
        ];
        bench.set_port_groups(PortGroups::new(groups, false));
        bench
    }

    const DESCRIPTORS: [u8; 24] = [
        0x01, 0x4f, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, // not optimized
        0x82, 0x4f, 0, 9, 0, 0, 0, 1, 0, 0, 0, 2, // preferred, standby
    ];

    #[test]
    fn every_port_of_the_target_is_reported_in_both_formats() {
        let mut bench = bench();
        let data = bench.read(&cdb(0, 1024), 1024).good();
        assert_eq!(data[..4], [0, 0, 0, 24]);
        assert_eq!(data[4..], DESCRIPTORS);
        let data = bench.read(&cdb(1, 1024), 1024).good();
        assert_eq!(data[..8], [0, 0, 0, 28, 0x10, 10, 0, 0]);
        assert_eq!(data[8..], DESCRIPTORS);
    }

    #[test]
    fn reported_groups_are_cut_to_any_allocation_length() {
        let mut bench = bench();
        let whole = bench.read(&cdb(1, u32::MAX), 1024).good();
        for length in 0..=whole.len() + 1 {
            let length = u32::try_from(length).unwrap();
            let answer = bench.read(&cdb(1, length), 1024);
            let bytes = whole.len().min(usize::try_from(length).unwrap());
            assert_eq!(answer.transfer, Transfer::In(bytes.try_into().unwrap()));
            assert_eq!(answer.good(), whole[..bytes]);
        }
    }

    #[test]
    fn other_formats_are_invalid_fields() {
        for format in 2..8 {
            bench()
                .read(&cdb(format, 255), 255)
                .invalid_field(1, Some(7));
        }
    }
}
