//! Parameter lists that lie, and CDBs that do not fit them (SPC-4 §6.16.3, §6.16.4).

use super::room::*;
use crate::scsi::reservations::Matching;
use crate::scsi::reservations::parameter_list::{
    LIST_BYTES_MAX, ServiceAction, check_length, parse,
};
use crate::scsi::sense::{AdditionalSense, Sense};
use proptest::prelude::*;

const LENGTH_ERROR: AdditionalSense = AdditionalSense::PARAMETER_LIST_LENGTH_ERROR;

#[test]
fn basic_list_is_24_bytes_and_no_other_length() {
    let mut room = Room::of_two();
    for action in [
        REGISTER,
        RESERVE,
        RELEASE,
        CLEAR,
        PREEMPT,
        PREEMPT_AND_ABORT,
        6,
    ] {
        for length in [0, 1, 8, 23, 25, 28, 52, 4096] {
            let answer = room.run(0, &out_cdb(action, 1, length), &vec![0; length]);
            answer.illegal(LENGTH_ERROR);
        }
    }
    for length in [usize::try_from(u32::MAX).unwrap(), LIST_BYTES_MAX + 1] {
        let answer = room.run(0, &out_cdb(REGISTER, 1, length), &[0; 24]);
        answer.sense(Sense::parameter_list_length_error(5));
    }
    assert_eq!(room.state().generation(), 0);
}

#[test]
fn list_that_the_initiator_does_not_send_whole_is_a_length_error() {
    let mut room = Room::of_two();
    for sent in [0, 1, 23] {
        let answer = room.run(0, &out_cdb(REGISTER, 0, 24), &[0; 24][..sent]);
        answer.illegal(LENGTH_ERROR);
    }
}

#[test]
fn list_is_as_long_as_its_transport_ids_say() {
    let list = List::Basic {
        key: 0,
        new_key: 7,
        flags: 0,
        ids: Some(vec![transport_id(NAME_B, Some(1))]),
    };
    let good = list.bytes();
    for length in (24..good.len()).chain([good.len() + 4]) {
        let mut room = Room::of_two();
        let mut bytes = good.clone();
        bytes.resize(length, 0);
        room.run(0, &out_cdb(REGISTER, 0, length), &bytes)
            .illegal(LENGTH_ERROR);
        assert_eq!(room.state().generation(), 0);
    }
    for said in [0, 23, 0xffff_ffff_u32] {
        let mut bytes = good.clone();
        bytes[24..28].copy_from_slice(&said.to_be_bytes());
        let answer = Room::of_two().run(0, &out_cdb(REGISTER, 0, bytes.len()), &bytes);
        answer.illegal(LENGTH_ERROR);
    }
}

#[test]
fn wrong_transport_id_is_pointed_at_in_the_list() {
    let ids = vec![transport_id(NAME_B, Some(1)), transport_id(NAME_B, Some(2))];
    let first = u16::try_from(ids[0].len()).unwrap();
    let list = List::Basic {
        key: 0,
        new_key: 7,
        flags: 0,
        ids: Some(ids),
    };
    for (at, value, field) in [
        (28, 0x46, 28),
        (28 + first, 0x15, 28 + first),
        (28 + first + 3, 21, 30 + first),
    ] {
        let mut bytes = list.bytes();
        bytes[usize::from(at)] = value;
        let answer = Room::of_two().run(0, &out_cdb(REGISTER, 0, bytes.len()), &bytes);
        answer.sense(Sense::invalid_field_in_parameter_list(field, None));
    }
}

#[test]
fn reserved_bits_are_invalid_fields() {
    for (byte, bits) in [(20, &[1, 4, 5, 6, 7][..]), (21, &[0, 3, 7])] {
        for &bit in bits {
            let mut bytes = List::new(0, 7).bytes();
            bytes[byte] |= 1 << bit;
            let at = u16::try_from(byte).unwrap();
            let answer = Room::of_two().run(0, &out_cdb(REGISTER, 0, 24), &bytes);
            answer.sense(Sense::invalid_field_in_parameter_list(at, Some(bit)));
        }
    }
    // The obsolete bytes are ignored.
    let mut bytes = List::new(0, 7).bytes();
    bytes[16..20].fill(0xff);
    bytes[22..24].fill(0xff);
    Room::of_two()
        .run(0, &out_cdb(REGISTER, 0, 24), &bytes)
        .good();
}

#[test]
fn spec_i_pt_is_for_register_alone() {
    let mut room = Room::of_two();
    room.register(0, 0, 1).good();
    for action in [RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, 6] {
        let list = List::with_flags(1, 0, SPEC_I_PT);
        let sense = Sense::invalid_field_in_parameter_list(20, Some(3));
        room.out(0, action, 1, list).sense(sense);
    }
}

#[test]
fn list_of_register_and_move_holds_one_transport_id_and_nothing_else() {
    let mut room = Room::new(Matching::Port);
    room.log_in(nexus(NAME_A, 1, 1, 2));
    room.register(0, 0, 1).good();
    room.reserve(0, 1, 1).good();
    let list = List::Move {
        key: 1,
        new_key: 2,
        flags: 0,
        port: 2,
        id: transport_id(NAME_B, Some(1)),
    };
    let good = list.bytes();
    let mut run = |bytes: &[u8]| room.run(0, &out_cdb(REGISTER_AND_MOVE, 0, bytes.len()), bytes);
    for length in 0..good.len() {
        run(&good[..length]).illegal(LENGTH_ERROR);
    }
    run(&[&good[..], &[0; 4]].concat()).illegal(LENGTH_ERROR);
    run(&vec![0; 4096]).illegal(LENGTH_ERROR);
    for (byte, bit) in [(16, 0), (16, 7), (17, 2), (17, 7)] {
        let mut bytes = good.clone();
        bytes[byte] |= 1 << bit;
        let at = u16::try_from(byte).unwrap();
        run(&bytes).sense(Sense::invalid_field_in_parameter_list(at, Some(bit)));
    }
    let mut two = good.clone();
    two.extend(transport_id(NAME_B, Some(2)));
    let said = u32::try_from(two.len() - 24).unwrap();
    two[20..24].copy_from_slice(&said.to_be_bytes());
    run(&two).sense(Sense::invalid_field_in_parameter_list(20, None));
    let mut foreign = good.clone();
    foreign[24] = 0x46;
    run(&foreign).sense(Sense::invalid_field_in_parameter_list(24, None));
    run(&good).good();
}

proptest! {
    #[test]
    fn no_list_is_more_than_a_refusal(
        action in 0..8_usize,
        mut list in prop::collection::vec(any::<u8>(), 0..200),
        tidy in any::<bool>(),
    ) {
        let action = ServiceAction::ALL[action];
        if tidy && list.len() >= 28 {
            list[16] = 0;
            list[17] &= 3;
            list[20] &= 0x0d;
            list[21] = 0;
            let said = u32::try_from(list.len() - 28).unwrap();
            list[24..28].copy_from_slice(&said.to_be_bytes());
        }
        if check_length(action, u32::try_from(list.len()).unwrap()).is_ok() {
            // Whatever it is, it does not panic, and what it accepts it has wholly read.
            let _ = parse(action, 1, &list);
        }
    }
}
