//! PERSISTENT RESERVE IN, byte by byte (SPC-4 §6.15).

use super::room::*;
use crate::scsi::reservations::{Matching, REGISTRATIONS_MAX};
use crate::scsi::sense::{AdditionalSense, Sense};

fn in_cdb(action: u8, allocation_length: u16) -> [u8; 10] {
    let [high, low] = allocation_length.to_be_bytes();
    [0x5e, action, 0, 0, 0, 0, 0, high, low, 0]
}

#[test]
fn keys_come_in_the_order_of_registration() {
    let mut room = Room::of_two();
    assert_eq!(room.read(0, READ_KEYS), [0; 8]);
    room.register(1, 0, 0x0102_0304_0506_0708).good();
    room.register(0, 0, 9).good();
    let expected = [
        0, 0, 0, 2, 0, 0, 0, 16, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 9,
    ];
    assert_eq!(room.read(0, READ_KEYS), expected);
}

#[test]
fn allocation_length_cuts_the_data_and_not_the_length_in_them() {
    let mut room = Room::of_two();
    room.register(0, 0, 1).good();
    room.register(1, 0, 2).good();
    room.reserve(0, 1, 5).good();
    for action in [
        READ_KEYS,
        READ_RESERVATION,
        REPORT_CAPABILITIES,
        READ_FULL_STATUS,
    ] {
        let whole = room.read(1, action);
        for allocation_length in 0..u16::try_from(whole.len() + 2).unwrap() {
            let data = room.run(1, &in_cdb(action, allocation_length), &[]).good();
            let cut = whole.len().min(usize::from(allocation_length));
            assert_eq!(data, whole[..cut]);
        }
    }
}

#[test]
fn reservation_is_reported_with_its_holders_key_or_with_none() {
    let mut room = Room::of_two();
    room.register(0, 0, 7).good();
    assert_eq!(room.read(1, READ_RESERVATION), [0, 0, 0, 1, 0, 0, 0, 0]);
    room.reserve(0, 7, 6).good();
    let mut expected = [0; 24];
    expected[3] = 1;
    expected[7] = 16;
    expected[15] = 7;
    expected[21] = 6;
    assert_eq!(room.read(1, READ_RESERVATION), expected);
    room.out(0, PREEMPT, 8, List::new(7, 7)).good();
    (expected[3], expected[15], expected[21]) = (2, 0, 8);
    assert_eq!(room.read(1, READ_RESERVATION), expected);
}

#[test]
fn capabilities_are_what_the_other_tests_show() {
    let mut room = Room::of_two();
    let mut expected = [0, 8, 0x1d, 0xb0, 0xea, 0x01, 0, 0];
    assert_eq!(room.read(0, REPORT_CAPABILITIES), expected);
    room.out(0, REGISTER, 0, List::with_flags(0, 7, APTPL))
        .good();
    expected[3] |= 1;
    assert_eq!(room.read(0, REPORT_CAPABILITIES), expected);
}

#[test]
fn full_status_names_every_nexus_and_its_part_in_the_reservation() {
    let mut room = Room::of_two();
    let other_port = room.log_in(nexus(NAME_B, 2, 2, 2));
    room.register(0, 0, 7).good();
    room.register(other_port, 0, 8).good();
    for (kind, holders) in [(5, [true, false]), (7, [true, true])] {
        room.reserve(0, 7, kind).good();
        let data = room.read(1, READ_FULL_STATUS);
        let mut expected = vec![0, 0, 0, 2];
        let ids = [transport_id(NAME_A, Some(1)), transport_id(NAME_B, Some(2))];
        let bytes = 48 + ids.concat().len();
        expected.extend(u32::try_from(bytes).unwrap().to_be_bytes());
        for (at, id) in (0_u8..).zip(&ids) {
            let holder = holders[usize::from(at)];
            expected.extend([0, 0, 0, 0, 0, 0, 0, 7 + at, 0, 0, 0, 0]);
            expected.extend([u8::from(holder), if holder { kind } else { 0 }]);
            expected.extend([0, 0, 0, 0, 0, 1 + at]);
            expected.extend(u32::try_from(id.len()).unwrap().to_be_bytes());
            expected.extend(id);
        }
        assert_eq!(data, expected);
        room.out(0, RELEASE, kind, List::new(7, 0)).good();
    }
}

#[test]
fn initiators_that_match_by_name_are_reported_without_isid() {
    let mut room = Room::new(Matching::Name);
    room.log_in(nexus(NAME_A, 1, 1, 1));
    room.register(0, 0, 7).good();
    assert_eq!(
        room.read(0, READ_FULL_STATUS)[32..],
        transport_id(NAME_A, None)
    );
}

#[test]
fn full_status_of_the_most_and_longest_names_says_its_length() {
    let mut room = Room::new(Matching::Port);
    for nth in 0..REGISTRATIONS_MAX {
        let name = format!("iqn.2026-11.io.example:{nth:0200}");
        let session = room.log_in(nexus(&name, 0, 1, 1));
        room.register(session, 0, 1).good();
    }
    let data = room.read(0, READ_FULL_STATUS);
    assert_eq!(data.len(), 0xffff);
    let one = 24 + 4 + (223_u32 + 17 + 1).next_multiple_of(4);
    let length = one * u32::try_from(REGISTRATIONS_MAX).unwrap();
    assert_eq!(data[4..8], length.to_be_bytes());
    assert_eq!(room.keys(0).1, [1; REGISTRATIONS_MAX]);
}

#[test]
fn unknown_service_actions_are_invalid_fields() {
    let mut room = Room::of_two();
    for action in 4..32 {
        let answer = room.run(0, &in_cdb(action, 8), &[]);
        answer.sense(Sense::invalid_field_in_cdb(1, Some(4)));
    }
    for action in 8..32 {
        let answer = room.run(0, &out_cdb(action, 0, 24), &[0; 24]);
        answer.illegal(AdditionalSense::INVALID_FIELD_IN_CDB);
    }
}
