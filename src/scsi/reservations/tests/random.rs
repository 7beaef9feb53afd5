//! Random sequences of everything that touches reservations, from several nexuses, against the
//! model: status, PRGENERATION, keys, reservation, unit attentions, aborted nexuses, and for each
//! nexus whether each command of the table conflicts.

use std::sync::Arc;

use super::enforcement::{Class, cdb_of, class_of, passes};
use super::model::{Act, Model, Nexus, Verdict};
use super::room::*;
use crate::scsi::opcodes;
use crate::scsi::reservations::{Kind, Matching};
use crate::scsi::task::Status;
use proptest::prelude::*;

/// The sessions: two ports of one initiator, one of them at both target ports, and another.
const NEXUSES: [Nexus; 5] = [(1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1), (2, 1, 2)];

fn name(number: u8) -> &'static str {
    if number == 1 { NAME_A } else { NAME_B }
}

fn key() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 4 => Just(1), 3 => Just(2), 1 => Just(3)]
}

fn out() -> impl Strategy<Value = Act> {
    let kind = prop_oneof![8 => prop::sample::select(vec![1, 3, 5, 6, 7, 8]), 1 => 0..10_u8];
    let action = prop_oneof![3 => Just(0), 3 => Just(6), 3 => Just(1), 4 => 0..8_u8];
    let others = prop::option::weighted(0.1, prop::collection::vec((1..3_u8, 1..3_u8), 0..3));
    let to = (1..3_u8, 1..3_u8, 1..3_u16);
    let flags = (any::<bool>(), prop::bool::weighted(0.2), any::<bool>());
    (action, kind, key(), key(), flags, others, to).prop_map(
        |(action, kind, key, new_key, (aptpl, all_ports, unregister), others, to)| Act::Out {
            action,
            kind,
            key,
            new_key,
            aptpl,
            all_ports,
            others,
            to,
            unregister,
        },
    )
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        20 => out(),
        2 => Just(Act::Reserve),
        3 => Just(Act::Release),
        1 => Just(Act::LogInAgain),
        1 => Just(Act::Reset),
    ]
}

/// Sends what the act says.
fn perform(room: &mut Room, session: usize, act: &Act) -> Verdict {
    let outcome = match act {
        Act::LogInAgain => {
            room.log_in_again(session);
            return Verdict::Good;
        }
        Act::Reset => {
            room.reset();
            return Verdict::Good;
        }
        Act::Reserve => room.run(session, &RESERVE_6, &[]).outcome,
        Act::Release => room.run(session, &RELEASE_10, &[]).outcome,
        Act::Out {
            action,
            kind,
            key,
            new_key,
            aptpl,
            all_ports,
            others,
            to,
            unregister,
        } => {
            let list = if *action == REGISTER_AND_MOVE {
                List::Move {
                    key: *key,
                    new_key: *new_key,
                    flags: u8::from(*aptpl) | if *unregister { UNREG } else { 0 },
                    port: to.2,
                    id: transport_id(name(to.0), Some(to.1)),
                }
            } else {
                let id = |(of, isid): &(u8, u8)| transport_id(name(*of), Some(*isid));
                let ids = others
                    .as_ref()
                    .map(|others| others.iter().map(id).collect());
                let bare_flag = ids.is_some() && *action != REGISTER;
                List::Basic {
                    key: *key,
                    new_key: *new_key,
                    flags: u8::from(*aptpl)
                        | if *all_ports { ALL_TG_PT } else { 0 }
                        | if bare_flag { SPEC_I_PT } else { 0 },
                    ids: ids.filter(|_| !bare_flag),
                }
            };
            room.out(session, *action, *kind, list).outcome
        }
    };
    match outcome.status {
        Status::Good => Verdict::Good,
        Status::ReservationConflict => Verdict::Conflict,
        Status::CheckCondition => Verdict::Check,
        other => panic!("{other:?}"),
    }
}

/// Compares all that can be seen with the model.
fn compare(room: &mut Room, model: &Model, by: usize) {
    for (session, nexus) in NEXUSES.into_iter().enumerate() {
        let mut told: Vec<_> = room
            .attentions(session)
            .into_iter()
            .map(|ua| ua as u8)
            .collect();
        told.sort_unstable();
        let id = model.id(nexus);
        let of_model = model
            .told
            .iter()
            .filter(|(whom, _)| *whom == id && session != by);
        assert_eq!(
            told,
            of_model.map(|(_, ua)| *ua).collect::<Vec<_>>(),
            "told {nexus:?}"
        );
        let i_t = Arc::clone(&room.sessions[session].i_t);
        assert_eq!(
            room.abort.includes(&i_t),
            model.aborted.contains(&id),
            "aborts {nexus:?}"
        );
    }
    assert_eq!(room.state().aptpl(), model.aptpl);
    if model.reserved.is_none() {
        let (generation, mut keys) = room.keys(by);
        keys.sort_unstable();
        let mut expected: Vec<_> = model.keys.values().copied().collect();
        expected.sort_unstable();
        assert_eq!((generation, keys), (model.generation, expected));
        let data = room.read(by, READ_RESERVATION);
        match model.held {
            None => assert_eq!(data.len(), 8),
            Some((kind, holder)) => {
                let key = if kind >= 7 { 0 } else { model.keys[&holder] };
                assert_eq!(data[8..16], key.to_be_bytes());
                assert_eq!(data[21], kind);
            }
        }
    }
    for (session, nexus) in NEXUSES.into_iter().enumerate() {
        for row in opcodes::rows() {
            let class = class_of(row);
            let runs = match model.reserved {
                Some(holder) if holder == nexus => class != Class::PersistentReserveIn,
                Some(_) => passes(class, None),
                None => match model.held {
                    Some((kind, _)) if !model.has_access(nexus) => {
                        passes(class, Kind::from_code(kind))
                    }
                    _ => true,
                },
            };
            let conflicts = room.conflicts(session, &cdb_of(row));
            assert_eq!(!conflicts, runs, "{} by {nexus:?}", row.name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_sequence_does_what_the_model_does(
        by_name in any::<bool>(),
        acts in prop::collection::vec((0..NEXUSES.len(), act()), 1..40),
    ) {
        let matching = if by_name { Matching::Name } else { Matching::Port };
        let mut room = Room::new(matching);
        let mut model = Model { by_name, ..Model::default() };
        for (of, isid, at) in NEXUSES {
            room.log_in(nexus(name(of), isid, at, 2));
        }
        for (session, act) in acts {
            room.abort = crate::scsi::nexus::Whom::Nobody;
            let expected = model.act(NEXUSES[session], &act);
            let verdict = perform(&mut room, session, &act);
            prop_assert_eq!(verdict, expected, "{:?} by {:?}", act, NEXUSES[session]);
            compare(&mut room, &model, session);
        }
    }
}
