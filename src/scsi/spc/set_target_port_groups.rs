//! SET TARGET PORT GROUPS (SPC-4 §6.45): initiators choose the states of the target's ports.
//!
//! Exists where the configuration allows it. The whole parameter list is checked before anything
//! changes; the unit's home core then applies all of it at once, and tells every other nexus.
//!
//! ```text
//! 0..4 reserved    4.. descriptors of 4 bytes: 0 ASYMMETRIC ACCESS STATE (bits 3–0),
//!                      1 reserved, 2..4 TARGET PORT GROUP OR TARGET PORT
//! ```
//!
//! The last field names a group, and for offline, which is a state of a port, a port. A nexus may
//! not take offline the port that it came in by: so one port is left that can undo it.

use std::sync::Arc;

use crate::mem::DmaBuf;
use crate::scsi::asymmetric_access::{AccessState, PORT_GROUPS_MAX};
use crate::scsi::change::Change;
use crate::scsi::nexus::Nexus;
use crate::scsi::sense::Sense;
use crate::scsi::task::{Begin, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event};

const HEADER_BYTES: u16 = 4;
const DESCRIPTOR_BYTES: u16 = 4;
/// A longer list names some group twice.
const LIST_BYTES_MAX: u32 = 4 + 4 * 256;
const _: () = assert!(LIST_BYTES_MAX as usize == 4 + 4 * PORT_GROUPS_MAX);

/// Where PARAMETER LIST LENGTH stands in the CDB.
const LIST_LENGTH_AT: u16 = 6;

/// A SET TARGET PORT GROUPS that is under way.
#[derive(Debug)]
pub struct SetTargetPortGroups {
    list_bytes: u16,
    i_t: Arc<Nexus>,
}

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let list_bytes = call.command.cdb.be32(6);
    if list_bytes == 0 {
        // SPC-4 §6.45: no parameter list is no error and changes nothing.
        return Task::good(Transfer::None);
    }
    let transfer = Transfer::Out(u64::from(list_bytes));
    let length_error = Sense::parameter_list_length_error(LIST_LENGTH_AT);
    // A list that is cut within a descriptor, by the CDB or by what the initiator sends.
    let whole = list_bytes >= u32::from(HEADER_BYTES)
        && list_bytes.is_multiple_of(u32::from(DESCRIPTOR_BYTES))
        && list_bytes <= LIST_BYTES_MAX
        && list_bytes <= call.command.data_out_bytes;
    let Some(length) = u16::try_from(list_bytes).ok().filter(|_| whole) else {
        return Task::refused(transfer, length_error);
    };
    let task = SetTargetPortGroups {
        list_bytes: length,
        i_t: Arc::clone(call.i_t),
    };
    let step = Step::Collect {
        data_out_bytes: list_bytes,
        scratch_bytes: 0,
    };
    Ok((
        Task::new(Machine::SetTargetPortGroups(task), transfer),
        step,
    ))
}

impl SetTargetPortGroups {
    pub(in crate::scsi) fn resume(&mut self, event: &Event) -> Result<Step, Sense> {
        match event {
            Event::Collected {
                data_out: Some(list),
                ..
            } => {
                let states = self.check(list)?;
                if states.is_empty() {
                    return Ok(Step::GOOD);
                }
                Ok(Step::Change(Change::AccessStates(states)))
            }
            Event::Changed(_) => Ok(Step::GOOD),
            Event::Collected { data_out: None, .. }
            | Event::Completed { .. }
            | Event::Streamed(_)
            | Event::Frozen => wrong_event("SET TARGET PORT GROUPS", event),
        }
    }

    /// Checks the whole list: the new state of each group that it names.
    fn check(&self, list: &DmaBuf) -> Result<Vec<(u16, AccessState)>, Sense> {
        let mut states = Vec::new();
        for at in (HEADER_BYTES..self.list_bytes).step_by(DESCRIPTOR_BYTES.into()) {
            let mut descriptor = [0; DESCRIPTOR_BYTES as usize];
            list.copy_to(at.into(), &mut descriptor);
            let [state, _, high, low] = descriptor;
            let Some(state) = AccessState::from_code(state & 0x0f) else {
                return Err(Sense::invalid_field_in_parameter_list(at, Some(3)));
            };
            let named = u16::from_be_bytes([high, low]);
            let ports = self.i_t.ports();
            let port = match state {
                AccessState::Offline => ports
                    .iter()
                    .filter(|port| port.relative_port() != self.i_t.port().relative_port())
                    .find(|port| port.relative_port() == named),
                _ => ports.iter().find(|port| port.portal_group_tag() == named),
            };
            let tag = port.map(|port| port.portal_group_tag());
            // SPC-4 §6.45: a group that is not there, or that is named twice, fails the command and
            // leaves all groups as they are.
            match tag {
                Some(tag) if states.iter().all(|(other, _)| *other != tag) => {
                    states.push((tag, state));
                }
                _ => return Err(Sense::invalid_field_in_parameter_list(at + 2, None)),
            }
        }
        Ok(states)
    }
}

#[cfg(test)]
mod tests {
    use crate::scsi::asymmetric_access::{AccessState, Altered, PortGroups};
    use crate::scsi::sense::{AdditionalSense, Sense, SenseKey};
    use crate::scsi::testbed::Bench;
    use proptest::prelude::*;

    /// Ports 1 and 2 in the groups 1 and 9; the nexus comes in by the first.
    fn bench() -> Bench {
        let mut bench = Bench::new(8);
        bench.set_ports(&[(1, 1), (9, 2)]);
        bench.set_port_groups(PortGroups::new(Vec::new(), true));
        bench
    }

    fn cdb(length: u32) -> [u8; 12] {
        let mut cdb = [0; 12];
        cdb[..2].copy_from_slice(&[0xa4, 0x0a]);
        cdb[6..10].copy_from_slice(&length.to_be_bytes());
        cdb
    }

    fn set(bench: &mut Bench, descriptors: &[[u8; 4]]) -> crate::scsi::testbed::Answer {
        let list = [&[0; 4][..], descriptors.as_flattened()].concat();
        bench.write(&cdb(u32::try_from(list.len()).unwrap()), &list)
    }

    fn states(bench: &Bench) -> [AccessState; 2] {
        let groups = bench.unit().port_groups();
        [groups.state(1), groups.state(9)]
    }

    const UNTOUCHED: [AccessState; 2] = [AccessState::Optimized; 2];

    #[test]
    fn each_state_is_set_and_told_to_others_alone() {
        let codes = [
            ([0x01, 0, 0, 9], AccessState::NonOptimized),
            ([0x02, 0, 0, 9], AccessState::Standby),
            ([0x03, 0, 0, 9], AccessState::Unavailable),
            ([0x0e, 0, 0, 2], AccessState::Offline),
            ([0x00, 0, 0, 9], AccessState::Optimized),
        ];
        let mut bench = bench();
        for (descriptor, state) in codes {
            set(&mut bench, &[descriptor]).good();
            assert_eq!(states(&bench), [AccessState::Optimized, state]);
            let group = bench.unit().port_groups().group(9);
            assert_eq!(group.altered, Altered::Explicitly);
            assert_eq!(bench.nexus.pending(), None, "it asked for that itself");
        }
    }

    #[test]
    fn several_groups_change_together_or_not_at_all() {
        let mut bench = bench();
        set(&mut bench, &[[0x02, 0, 0, 1], [0x03, 0, 0, 9]]).good();
        assert_eq!(
            states(&bench),
            [AccessState::Standby, AccessState::Unavailable]
        );
        let answer = set(&mut bench, &[[0x00, 0, 0, 1], [0x00, 0, 0, 8]]);
        assert_eq!(
            answer.sense(),
            Sense::invalid_field_in_parameter_list(10, None)
        );
        assert_eq!(
            states(&bench),
            [AccessState::Standby, AccessState::Unavailable]
        );
    }

    #[test]
    fn what_is_wrong_in_a_descriptor_is_pointed_at() {
        let wrong = [
            ([[0x04, 0, 0, 1], [0, 0, 0, 9]], 4, Some(3)),
            ([[0x0f, 0, 0, 1], [0, 0, 0, 9]], 4, Some(3)),
            ([[0x00, 0, 0, 2], [0, 0, 0, 9]], 6, None),
            ([[0x02, 0, 0, 9], [1, 0, 0, 9]], 10, None),
            // Offline names a port: not one that is not there, nor the asker's own.
            ([[0x0e, 0, 0, 9], [0, 0, 0, 1]], 6, None),
            ([[0x0e, 0, 0, 1], [0, 0, 0, 9]], 6, None),
        ];
        for (descriptors, byte, bit) in wrong {
            let mut bench = bench();
            let answer = set(&mut bench, &descriptors);
            let expected = Sense::invalid_field_in_parameter_list(byte, bit);
            assert_eq!(answer.sense(), expected, "{descriptors:02x?}");
            assert_eq!(states(&bench), UNTOUCHED);
        }
    }

    #[test]
    fn lists_of_wrong_length_change_nothing() {
        for (length, sent) in [(3, 8), (5, 8), (7, 8), (8, 4), (1032, 1032), (u32::MAX, 8)] {
            let mut bench = bench();
            let list = vec![0; sent];
            bench
                .write(&cdb(length), &list)
                .refused_with(SenseKey::IllegalRequest, AdditionalSense::new(0x1a, 0));
            assert_eq!(states(&bench), UNTOUCHED);
        }
        let mut bench = bench();
        bench.write(&cdb(0), &[]).good();
        bench.write(&cdb(4), &[0; 4]).good();
        assert_eq!(states(&bench), UNTOUCHED);
    }

    #[test]
    fn where_states_are_the_targets_affair_the_command_does_not_exist() {
        let mut bench = bench();
        bench.set_port_groups(PortGroups::new(Vec::new(), false));
        let list = [0, 0, 0, 0, 2, 0, 0, 9];
        bench.write(&cdb(8), &list).invalid_field(1, Some(4));
        assert_eq!(states(&bench), UNTOUCHED);
    }

    #[test]
    fn a_nexus_in_an_unavailable_port_brings_itself_back() {
        let mut bench = bench();
        set(&mut bench, &[[0x03, 0, 0, 1]]).good();
        bench
            .plain(&[0; 6])
            .refused_with(SenseKey::NotReady, AdditionalSense::new(0x04, 0x0c));
        set(&mut bench, &[[0x00, 0, 0, 1]]).good();
        bench.plain(&[0; 6]).good();
    }

    proptest! {
        #[test]
        fn arbitrary_lists_end_and_leave_the_askers_port_online(
            list in prop::collection::vec(any::<u8>(), 0..64),
            length in prop_oneof![0_u32..70, any::<u32>()],
        ) {
            let mut bench = bench();
            bench.write(&cdb(length), &list);
            prop_assert_ne!(states(&bench)[0], AccessState::Offline);
        }
    }
}
