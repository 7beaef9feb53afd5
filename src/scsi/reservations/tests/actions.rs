//! Each service action, RESERVE and RELEASE, by hand.

use super::room::*;
use crate::scsi::nexus::Whom;
use crate::scsi::reservations::{Kind, Matching, REGISTRATIONS_MAX};
use crate::scsi::sense::{AdditionalSense, Sense};
use crate::scsi::unit_attention::UnitAttention;

const WE: u8 = 1;
const EA: u8 = 3;
const WERO: u8 = 5;
const EARO: u8 = 6;
const WEAR: u8 = 7;
const EAAR: u8 = 8;

/// Both initiators registered, A with key 1, B with key 2.
fn registered() -> Room {
    let mut room = Room::of_two();
    room.register(0, 0, 1).good();
    room.register(1, 0, 2).good();
    room
}

fn held_by_a(kind: u8) -> Room {
    let mut room = registered();
    room.reserve(0, 1, kind).good();
    room
}

fn in_list(byte: u16, bit: Option<u8>) -> Sense {
    Sense::invalid_field_in_parameter_list(byte, bit)
}

#[test]
fn register_makes_changes_and_removes_a_registration() {
    let mut room = Room::of_two();
    room.register(0, 5, 7).conflict();
    room.register(0, 0, 7).good();
    room.register(0, 0, 8).conflict();
    room.register(0, 7, 8).good();
    assert_eq!(room.keys(0), (2, vec![8]));
    room.register(0, 7, 0).conflict();
    room.register(0, 8, 0).good();
    assert_eq!(room.keys(1), (3, vec![]));
}

#[test]
fn unregistered_nexus_that_unregisters_has_done_nothing() {
    let mut room = Room::of_two();
    room.register(0, 0, 0).good();
    room.out(0, REGISTER_AND_IGNORE, 0, List::new(9, 0)).good();
    assert_eq!(room.keys(0), (0, vec![]));
}

#[test]
fn register_and_ignore_asks_for_no_key() {
    let mut room = Room::of_two();
    room.out(0, REGISTER_AND_IGNORE, 0, List::new(99, 7)).good();
    room.out(0, REGISTER_AND_IGNORE, 0, List::new(98, 8)).good();
    assert_eq!(room.keys(0), (2, vec![8]));
    room.out(0, REGISTER_AND_IGNORE, 0, List::new(97, 0)).good();
    assert_eq!(room.keys(0), (3, vec![]));
}

#[test]
fn generation_wraps_and_does_not_count_what_reserves_or_fails() {
    let mut room = registered();
    room.reserve(0, 1, WE).good();
    room.out(0, RELEASE, WE, List::new(1, 0)).good();
    room.reserve(0, 9, WE).conflict();
    room.out(0, PREEMPT, WE, List::new(1, 55)).conflict();
    assert_eq!(room.keys(0).0, 2);
    let mut state = room.state().clone();
    state.generation = u32::MAX;
    room.unit[0].set_reservations(std::sync::Arc::new(state));
    room.register(0, 1, 3).good();
    assert_eq!(room.keys(0).0, 0);
}

#[test]
fn one_registration_more_than_there_is_room_for_is_refused_whole() {
    let mut room = Room::new(Matching::Port);
    for nth in 0..REGISTRATIONS_MAX {
        let name = format!("iqn.2026-11.io.example:{nth}");
        let session = room.log_in(nexus(&name, 0, 1, 1));
        room.register(session, 0, 5).good();
    }
    let late = room.log_in(nexus(NAME_A, 0, 1, 1));
    let refusal = AdditionalSense::INSUFFICIENT_REGISTRATION_RESOURCES;
    room.register(late, 0, 6).illegal(refusal);
    room.register(0, 5, 0).good();
    let ids = vec![transport_id(NAME_B, Some(1))];
    let two = List::Basic {
        key: 0,
        new_key: 6,
        flags: 0,
        ids: Some(ids),
    };
    room.out(late, REGISTER, 0, two).illegal(refusal);
    assert_eq!(room.state().registrations().len(), REGISTRATIONS_MAX - 1);
    room.register(late, 0, 6).good();
}

#[test]
fn all_ports_are_registered_as_if_each_had_asked() {
    let mut room = Room::new(Matching::Port);
    let first = room.log_in(nexus(NAME_A, 1, 1, 3));
    let second = room.log_in(nexus(NAME_A, 1, 2, 3));
    let all = |key, new_key| List::with_flags(key, new_key, ALL_TG_PT);
    room.out(first, REGISTER, 0, all(0, 7)).good();
    assert_eq!(room.keys(first), (1, vec![7, 7, 7]));
    room.register(second, 7, 8).good();
    assert_eq!(room.keys(first).1, [7, 8, 7]);
    // Not all have the key 7 any more: none is changed.
    room.out(first, REGISTER, 0, all(7, 9)).conflict();
    assert_eq!(room.keys(first), (2, vec![7, 8, 7]));
    room.out(first, REGISTER_AND_IGNORE, 0, all(0, 9)).good();
    assert_eq!(room.keys(first).1, [9, 9, 9]);
    room.out(second, REGISTER, 0, all(9, 0)).good();
    assert_eq!(room.keys(first).1, Vec::<u64>::new());
}

#[test]
fn further_initiator_ports_are_registered_with_the_one_that_asks() {
    let mut room = Room::of_two();
    let list = |ids: &[Vec<u8>]| List::Basic {
        key: 0,
        new_key: 7,
        flags: ALL_TG_PT,
        ids: Some(ids.to_vec()),
    };
    let b = transport_id(NAME_B, Some(1));
    let own = transport_id(NAME_A, Some(1));
    let stranger = transport_id("iqn.2026-11.io.example:c", Some(3));
    room.out(0, REGISTER, 0, list(&[b.clone(), own, stranger, b.clone()]))
        .good();
    assert_eq!(room.keys(0), (1, vec![7; 6]));
    assert!(
        room.state()
            .registration_of(&room.sessions[1].i_t.clone())
            .is_some()
    );
    // Registered nexuses cannot do it, nor can it be done to them.
    room.out(0, REGISTER, 0, list(&[])).conflict();
    let again = List::Basic {
        key: 7,
        new_key: 7,
        flags: 0,
        ids: Some(vec![]),
    };
    room.out(0, REGISTER, 0, again).sense(in_list(20, Some(3)));
    room.register(0, 7, 0).good();
    room.out(0, REGISTER_AND_IGNORE, 0, List::new(0, 0)).good();
    let alone = List::Basic {
        key: 0,
        new_key: 7,
        flags: 0,
        ids: Some(vec![b]),
    };
    room.out(0, REGISTER, 0, alone).sense(in_list(28, None));
    assert_eq!(room.state().registrations().len(), 5);
}

#[test]
fn transport_id_without_isid_registers_every_port_of_the_initiator() {
    let mut room = Room::of_two();
    let other = room.log_in(nexus(NAME_B, 2, 1, 2));
    let list = List::Basic {
        key: 0,
        new_key: 7,
        flags: 0,
        ids: Some(vec![transport_id(NAME_B, None)]),
    };
    room.out(0, REGISTER, 0, list).good();
    room.reserve(0, 7, EARO).good();
    assert!(!room.conflicts(1, &WRITE_10) && !room.conflicts(other, &WRITE_10));
}

#[test]
fn only_registrants_with_their_own_key_may_act() {
    for action in [RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT] {
        let mut room = Room::of_two();
        room.register(0, 0, 1).good();
        room.out(1, action, WE, List::new(0, 1)).conflict();
        room.out(1, action, WE, List::new(1, 1)).conflict();
        room.out(0, action, WE, List::new(2, 1)).conflict();
        assert_eq!(room.keys(0), (1, vec![1]));
    }
}

#[test]
fn reservation_is_made_once_and_repeated_only_by_its_holder() {
    for kind in Kind::ALL {
        let mut room = held_by_a(kind as u8);
        room.reserve(0, 1, kind as u8).good();
        let again = room.reserve(1, 2, kind as u8);
        if kind.is_all_registrants() {
            again.good();
        } else {
            again.conflict();
        }
        for other in Kind::ALL.into_iter().filter(|other| *other != kind) {
            room.reserve(0, 1, other as u8).conflict();
        }
        assert_eq!(room.state().reservation().unwrap().kind, kind);
    }
}

#[test]
fn obsolete_types_and_scopes_are_invalid_fields_of_the_cdb() {
    let mut room = registered();
    for code in [0, 2, 4, 9, 15] {
        let sense = Sense::invalid_field_in_cdb(2, Some(3));
        room.reserve(0, 1, code).sense(sense);
    }
    for scope in [0x11, 0x21, 0xf1] {
        let sense = Sense::invalid_field_in_cdb(2, Some(7));
        room.reserve(0, 1, scope).sense(sense);
    }
    assert_eq!(room.state().reservation(), None);
}

#[test]
fn release_needs_the_type_and_tells_those_who_shared() {
    for kind in Kind::ALL {
        let mut room = held_by_a(kind as u8);
        let other = if kind == Kind::WriteExclusive { EA } else { WE };
        let wrong = AdditionalSense::INVALID_RELEASE_OF_PERSISTENT_RESERVATION;
        room.out(0, RELEASE, other, List::new(1, 0)).illegal(wrong);
        room.out(0, RELEASE, kind as u8, List::new(1, 0)).good();
        assert_eq!(room.state().reservation(), None);
        let told = match kind {
            Kind::WriteExclusive | Kind::ExclusiveAccess => vec![],
            _ => vec![UnitAttention::ReservationsReleased],
        };
        assert_eq!(room.attentions(1), told, "{kind:?}");
        assert_eq!(room.attentions(0), []);
    }
}

#[test]
fn to_release_what_one_does_not_hold_is_good_and_does_nothing() {
    let mut room = held_by_a(WERO);
    room.out(1, RELEASE, EA, List::new(2, 0)).good();
    room.out(1, RELEASE, WERO, List::new(2, 0)).good();
    assert!(room.state().reservation().is_some());
    let mut room = registered();
    room.out(1, RELEASE, 0, List::new(2, 0)).good();
}

#[test]
fn clear_takes_everything_and_tells_everyone() {
    let mut room = held_by_a(EARO);
    room.out(1, CLEAR, 0, List::new(2, 0)).good();
    assert_eq!(room.keys(1), (3, vec![]));
    assert_eq!(room.attentions(0), [UnitAttention::ReservationsPreempted]);
    assert_eq!(room.attentions(1), []);
    assert!(!room.conflicts(1, &WRITE_10));
}

#[test]
fn holder_that_unregisters_releases() {
    for kind in Kind::ALL {
        let mut room = held_by_a(kind as u8);
        room.register(0, 1, 0).good();
        let told = room.attentions(1);
        match kind {
            Kind::WriteExclusive | Kind::ExclusiveAccess => assert_eq!(told, []),
            Kind::WriteExclusiveRegistrantsOnly | Kind::ExclusiveAccessRegistrantsOnly => {
                assert_eq!(told, [UnitAttention::ReservationsReleased]);
            }
            Kind::WriteExclusiveAllRegistrants | Kind::ExclusiveAccessAllRegistrants => {
                assert_eq!(told, []);
                assert!(room.conflicts(0, &WRITE_10) && !room.conflicts(1, &WRITE_10));
                room.register(1, 2, 0).good();
            }
        }
        assert_eq!(room.state().reservation(), None, "{kind:?}");
    }
}

#[test]
fn preempting_the_holder_takes_its_place_and_its_registration() {
    for kind in [WE, EA, WERO, EARO] {
        for (action, aborts) in [(PREEMPT, false), (PREEMPT_AND_ABORT, true)] {
            let mut room = held_by_a(kind);
            room.out(1, action, EA, List::new(2, 1)).good();
            assert_eq!(room.keys(1), (3, vec![2]));
            assert!(room.state().is_holder(&room.sessions[1].i_t));
            assert_eq!(room.attentions(0), [UnitAttention::RegistrationsPreempted]);
            assert_eq!(room.attentions(1), []);
            assert_eq!(room.abort.includes(&room.sessions[0].i_t), aborts);
            assert!(!room.abort.includes(&room.sessions[1].i_t));
            assert!(room.conflicts(0, &READ_10));
        }
    }
}

#[test]
fn preemption_that_changes_the_type_tells_the_others_that_it_was_released() {
    let mut room = held_by_a(WERO);
    let third = room.log_in(nexus(NAME_B, 2, 1, 2));
    room.register(third, 0, 3).good();
    room.out(1, PREEMPT, EARO, List::new(2, 1)).good();
    assert_eq!(
        room.attentions(third),
        [UnitAttention::ReservationsReleased]
    );
    room.out(third, PREEMPT, EARO, List::new(3, 2)).good();
    assert_eq!(room.attentions(third), []);
    assert_eq!(room.attentions(1), [UnitAttention::RegistrationsPreempted]);
}

#[test]
fn holder_may_preempt_itself_to_change_the_type() {
    let mut room = held_by_a(WERO);
    room.out(0, PREEMPT, EA, List::new(1, 1)).good();
    assert_eq!(room.keys(0), (3, vec![1, 2]));
    assert_eq!(
        room.state().reservation().unwrap().kind,
        Kind::ExclusiveAccess
    );
    assert_eq!(room.attentions(1), [UnitAttention::ReservationsReleased]);
    assert_eq!(room.attentions(0), []);
}

#[test]
fn preempting_a_key_that_holds_nothing_removes_its_registrations_only() {
    for kind in [WE, EARO, WEAR, EAAR] {
        let mut room = held_by_a(kind);
        // The type is of no interest then, not even a wrong one.
        room.out(0, PREEMPT, 0xff, List::new(1, 2)).good();
        assert_eq!(room.keys(0), (3, vec![1]));
        assert!(room.state().is_holder(&room.sessions[0].i_t));
        assert_eq!(room.attentions(1), [UnitAttention::RegistrationsPreempted]);
        room.out(0, PREEMPT, kind, List::new(1, 2)).conflict();
    }
}

#[test]
fn without_a_reservation_preempt_removes_registrations() {
    let mut room = registered();
    room.out(0, PREEMPT, WE, List::new(1, 0))
        .sense(in_list(8, None));
    room.out(0, PREEMPT, WE, List::new(1, 3)).conflict();
    room.out(0, PREEMPT_AND_ABORT, WE, List::new(1, 2)).good();
    assert_eq!(room.keys(0), (3, vec![1]));
    assert_eq!(room.state().reservation(), None);
    assert!(room.abort.includes(&room.sessions[1].i_t));
    room.out(0, PREEMPT, WE, List::new(1, 1)).good();
    assert_eq!(room.keys(0), (4, vec![]));
    assert_eq!(room.attentions(0), []);
}

#[test]
fn key_zero_preempts_all_registrants_and_nobody_else() {
    for kind in [WEAR, EAAR] {
        let mut room = held_by_a(kind);
        room.out(1, PREEMPT, 0x02, List::new(2, 0))
            .sense(Sense::invalid_field_in_cdb(2, Some(3)));
        room.out(1, PREEMPT, WE, List::new(2, 0)).good();
        assert_eq!(room.keys(1), (3, vec![2]));
        assert_eq!(room.attentions(0), [UnitAttention::RegistrationsPreempted]);
        assert!(room.state().is_holder(&room.sessions[1].i_t));
    }
    for kind in [WE, EA, WERO, EARO] {
        let mut room = held_by_a(kind);
        room.out(1, PREEMPT, WE, List::new(2, 0))
            .sense(in_list(8, None));
        assert_eq!(room.keys(1), (2, vec![1, 2]));
    }
}

#[test]
fn last_of_all_registrants_preempts_itself_and_leaves_no_reservation() {
    let mut room = held_by_a(WEAR);
    room.register(1, 2, 0).good();
    room.out(0, PREEMPT, WEAR, List::new(1, 1)).good();
    assert_eq!(room.state().reservation(), None);
    assert!(!room.conflicts(1, &WRITE_10));
}

fn move_to(key: u64, new_key: u64, id: Vec<u8>, port: u16, flags: u8) -> List {
    List::Move {
        key,
        new_key,
        flags,
        port,
        id,
    }
}

#[test]
fn reservation_moves_to_the_named_nexus() {
    for (flags, keys) in [(0, vec![1, 2, 5]), (UNREG, vec![2, 5])] {
        let mut room = held_by_a(WERO);
        let to = transport_id(NAME_B, Some(9));
        room.out(0, REGISTER_AND_MOVE, 0, move_to(1, 5, to, 2, flags))
            .good();
        assert_eq!(room.keys(0), (3, keys));
        let moved = room.log_in(nexus(NAME_B, 9, 2, 2));
        assert!(room.state().is_holder(&room.sessions[moved].i_t));
        assert_eq!(room.conflicts(0, &WRITE_10), flags == UNREG);
        assert!((0..3).all(|session| room.attentions(session).is_empty()));
    }
}

#[test]
fn reservation_moves_to_a_registered_nexus_under_its_new_key() {
    let mut room = held_by_a(EA);
    let to = transport_id(NAME_B, Some(1));
    room.out(0, REGISTER_AND_MOVE, 0, move_to(1, 5, to, 1, 0))
        .good();
    assert_eq!(room.keys(0).1, [1, 5]);
    assert!(!room.conflicts(1, &WRITE_10) && room.conflicts(0, &READ_10));
}

#[test]
fn register_and_move_is_refused_where_there_is_nothing_to_move() {
    let to = || transport_id(NAME_B, Some(9));
    let run = |room: &mut Room, session, list| room.out(session, REGISTER_AND_MOVE, 0, list);
    let mut room = registered();
    run(&mut room, 0, move_to(1, 5, to(), 2, 0)).sense(Sense::invalid_field_in_cdb(1, Some(4)));
    let mut room = held_by_a(WE);
    run(&mut room, 1, move_to(2, 5, to(), 2, 0)).conflict();
    run(&mut room, 0, move_to(9, 5, to(), 2, 0)).conflict();
    run(&mut room, 0, move_to(1, 0, to(), 2, 0)).sense(in_list(8, None));
    run(&mut room, 0, move_to(1, 5, to(), 3, 0)).sense(in_list(18, None));
    let own = transport_id(NAME_A, Some(1));
    run(&mut room, 0, move_to(1, 5, own.clone(), 1, 0)).sense(in_list(24, None));
    run(
        &mut room,
        0,
        move_to(1, 5, transport_id(NAME_B, None), 1, 0),
    )
    .sense(in_list(24, None));
    assert_eq!(room.keys(0), (2, vec![1, 2]));
    // The same initiator port at another target port is another nexus.
    run(&mut room, 0, move_to(1, 5, own, 2, 0)).good();
    for kind in [WEAR, EAAR] {
        let mut room = held_by_a(kind);
        run(&mut room, 0, move_to(1, 5, to(), 2, 0)).conflict();
    }
}

#[test]
fn registrations_and_reservation_survive_logout_and_reset() {
    let mut room = held_by_a(EA);
    room.log_in_again(0);
    room.reset();
    assert_eq!(room.keys(0), (2, vec![1, 2]));
    assert!(!room.conflicts(0, &WRITE_10) && room.conflicts(1, &READ_10));
}

#[test]
fn aptpl_of_the_last_registration_decides_what_survives_a_restart() {
    let mut room = registered();
    room.reserve(0, 1, WERO).good();
    assert_eq!(room.saves, 0);
    room.restart(Matching::Port);
    assert_eq!(room.keys(0), (0, vec![]));
    let with_aptpl = |key, new_key| List::with_flags(key, new_key, APTPL);
    room.out(0, REGISTER, 0, with_aptpl(0, 1)).good();
    room.out(1, REGISTER, 0, with_aptpl(0, 2)).good();
    room.reserve(0, 1, WERO).good();
    assert_eq!(room.saves, 3);
    room.restart(Matching::Port);
    assert_eq!(room.keys(0), (0, vec![1, 2]), "PRGENERATION begins anew");
    assert!(room.state().is_holder(&room.sessions[0].i_t) && room.state().aptpl());
    let stranger = room.log_in(nexus(NAME_B, 3, 1, 2));
    assert!(room.conflicts(stranger, &WRITE_10) && !room.conflicts(1, &WRITE_10));
    room.register(1, 2, 3).good();
    assert!(!room.state().aptpl());
    assert_eq!(room.saves, 4, "what was kept is taken back");
    room.restart(Matching::Port);
    assert_eq!(room.keys(0), (0, vec![]));
}

#[test]
fn matching_by_name_finds_an_initiator_that_comes_back_with_another_isid() {
    let mut room = Room::new(Matching::Name);
    let first = room.log_in(nexus(NAME_A, 1, 1, 2));
    room.register(first, 0, 7).good();
    room.reserve(first, 7, EA).good();
    let back = room.log_in(nexus(NAME_A, 2, 1, 2));
    let stranger = room.log_in(nexus(NAME_B, 1, 1, 2));
    let elsewhere = room.log_in(nexus(NAME_A, 1, 2, 2));
    assert!(!room.conflicts(back, &WRITE_10));
    assert!(room.conflicts(stranger, &READ_10) && room.conflicts(elsewhere, &READ_10));
    room.register(back, 7, 8).good();
    assert_eq!(room.keys(first).1, [8]);
    // Either form of TransportID names it.
    for isid in [None, Some(5)] {
        let to = transport_id(NAME_B, isid);
        room.out(back, REGISTER_AND_MOVE, 0, move_to(8, 9, to, 1, 0))
            .good();
        assert!(!room.conflicts(stranger, &WRITE_10));
        let to = transport_id(NAME_A, isid);
        room.out(stranger, REGISTER_AND_MOVE, 0, move_to(9, 8, to, 1, UNREG))
            .good();
    }
}

#[test]
fn registrations_are_adapted_when_the_way_of_matching_changes() {
    let mut room = Room::new(Matching::Port);
    let with_aptpl = |new_key| List::with_flags(0, new_key, APTPL);
    for isid in 1..4 {
        let session = room.log_in(nexus(NAME_A, isid, 1, 1));
        room.out(session, REGISTER, 0, with_aptpl(u64::from(isid)))
            .good();
    }
    room.reserve(1, 2, EA).good();
    room.restart(Matching::Name);
    assert_eq!(room.keys(0).1, [2], "the holder's is the one that stays");
    assert!((0..3).all(|session| room.state().is_holder(&room.sessions[session].i_t)));
    room.restart(Matching::Port);
    assert!((0..3).all(|session| !room.conflicts(session, &WRITE_10)));
}

#[test]
fn reserve_excludes_others_until_it_is_released() {
    for (reserve, release) in [
        (&RESERVE_6[..], &RELEASE_6[..]),
        (&RESERVE_10, &RELEASE_10),
        (&RESERVE_6, &RELEASE_10),
    ] {
        let mut room = Room::of_two();
        room.run(0, reserve, &[]).good();
        room.run(0, reserve, &[]).good();
        room.run(1, reserve, &[]).conflict();
        for cdb in [&TEST_UNIT_READY[..], &READ_10, &WRITE_10] {
            assert!(room.conflicts(1, cdb) && !room.conflicts(0, cdb));
        }
        room.run(1, release, &[]).good();
        assert!(room.conflicts(1, &READ_10));
        room.run(0, release, &[]).good();
        room.run(1, reserve, &[]).good();
        assert!(room.conflicts(0, &READ_10));
    }
}

#[test]
fn reserve_ends_with_its_session_and_with_a_reset() {
    let mut room = Room::of_two();
    room.run(0, &RESERVE_6, &[]).good();
    room.log_in_again(1);
    assert!(room.conflicts(1, &READ_10));
    room.log_in_again(0);
    assert!(!room.conflicts(1, &READ_10));
    room.run(0, &RESERVE_6, &[]).good();
    room.reset();
    assert!(!room.conflicts(1, &READ_10));
}

#[test]
fn reserve_and_persistent_reservations_exclude_each_other() {
    let mut room = Room::of_two();
    room.run(0, &RESERVE_6, &[]).good();
    for session in [0, 1] {
        room.register(session, 0, 1).conflict();
        assert!(room.conflicts(session, &[0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0]));
    }
    room.run(0, &RELEASE_6, &[]).good();
    room.register(0, 0, 1).good();
    for session in [0, 1] {
        room.run(session, &RESERVE_6, &[]).conflict();
        room.run(session, &RELEASE_6, &[]).conflict();
    }
}

#[test]
fn reserve_and_release_are_good_and_idle_for_who_has_access_anyway() {
    for kind in Kind::ALL {
        let mut room = held_by_a(kind as u8);
        let stranger = room.log_in(nexus(NAME_B, 4, 1, 2));
        for cdb in [&RESERVE_6[..], &RESERVE_10, &RELEASE_6, &RELEASE_10] {
            room.run(0, cdb, &[]).good();
            let by_registrant = room.run(1, cdb, &[]);
            if kind.admits_registrants() {
                by_registrant.good();
            } else {
                by_registrant.conflict();
            }
            room.run(stranger, cdb, &[]).conflict();
        }
        assert_eq!(room.state().reservation().unwrap().kind, kind);
        assert_eq!(room.state().reserved_by(), None);
    }
}

#[test]
fn third_parties_and_extents_are_refused() {
    let mut room = Room::of_two();
    for byte_1 in [0x10, 0x01, 0x1e] {
        let answer = room.run(0, &[0x16, byte_1, 0, 0, 0, 0], &[]);
        answer.illegal(AdditionalSense::INVALID_FIELD_IN_CDB);
        let answer = room.run(0, &[0x56, byte_1, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
        answer.illegal(AdditionalSense::INVALID_FIELD_IN_CDB);
    }
    assert_eq!(room.state().reserved_by(), None);
    assert_eq!(room.abort, Whom::Nobody);
}

#[test]
fn unit_attention_comes_before_a_conflict_and_a_conflict_before_a_wrong_cdb() {
    let mut room = Room::of_two();
    room.register(0, 0, 1).good();
    room.reserve(0, 1, EA).good();
    room.nexus_unit(1).raise(UnitAttention::LogicalUnitReset);
    let mut wrong = READ_10;
    wrong[1] = 0x01;
    let reset = UnitAttention::LogicalUnitReset.sense();
    room.run(1, &wrong, &[]).sense(reset);
    room.run(1, &wrong, &[]).conflict();
}
