//! LOGICAL UNIT RESET and the resets of a target, across cores (RFC 7143 §4.2.3.3, §11.5).

use super::acts::{RESET, attention, block, good, manage, other, response, settle, write};
use super::served::{
    BLOCK, INITIATOR, Served, TARGET, config, login, pattern, ping, target, two_cores, unit, until,
};
use iiblockdaemon::iscsi::session::Guard;
use iiblockdaemon::pdu::{TaskManagementFunction as Function, TaskManagementResponseCode as Code};
use iiblockdaemon::testing::{self, DataOut, Event};

/// What a LOGICAL UNIT RESET by a session on core 0 does with a write that is held on `core`.
struct ResetSeen {
    early: bool,
    answered: bool,
}

fn reset_with_a_write_held_on(served: &Served, core: usize) -> ResetSeen {
    let mut asker = served.session(login());
    let mut near = served.session_on(0, other(1), &[0, 1]);
    let mut far = served.session_on(1, other(2), &[0, 1]);
    served.faults[0].hold_writes(true);
    let writer = if core == 0 { &mut near } else { &mut far };
    let task = write(writer, 0, 7, block(1));
    until(writer, || served.faults[0].held() == 1);
    let reset = manage(&mut asker, Function::LogicalUnitReset, 0, None);
    settle(&mut [&mut asker, &mut near, &mut far]);
    let early = asker.has_ended(reset);
    served.faults[0].hold_writes(false);
    assert_eq!(response(&mut asker, reset), Code::FunctionComplete);
    settle(&mut [&mut near, &mut far]);
    let writer = if core == 0 { &mut near } else { &mut far };
    let answered = writer.has_ended(task);
    for session in [&mut asker, &mut near, &mut far] {
        assert_eq!(attention(session, 0), RESET, "every nexus is told");
        assert_eq!(attention(session, 0), None, "once");
        assert_eq!(attention(session, 1), None, "the other unit was not reset");
    }
    ResetSeen { early, answered }
}

#[test]
fn a_reset_waits_for_the_devices_of_every_core_and_answers_no_aborted_task() {
    for core in [0, 1] {
        let seen = reset_with_a_write_held_on(&Served::start(two_cores()), core);
        assert!(!seen.early && !seen.answered, "core {core}");
    }
}

#[test]
fn a_reset_that_does_not_wait_for_devices_is_noticed() {
    for core in [0, 1] {
        let served = Served::start(two_cores()).without(Guard::CoreWaitsForDevice);
        assert!(
            reset_with_a_write_held_on(&served, core).early,
            "core {core}"
        );
    }
}

#[test]
fn a_reset_that_leaves_a_core_out_is_noticed() {
    let served = Served::start(two_cores()).without(Guard::ResetWaitsForAllCores);
    assert!(reset_with_a_write_held_on(&served, 1).early);
}

#[test]
fn an_aborted_task_that_is_answered_is_noticed() {
    for core in [0, 1] {
        let served = Served::start(two_cores()).without(Guard::AbortedIsNotAnswered);
        assert!(
            reset_with_a_write_held_on(&served, core).answered,
            "core {core}"
        );
    }
}

#[test]
fn target_warm_reset_reaches_all_units_of_the_target_and_no_other() {
    let mut config = two_cores();
    config.logical_units.push(unit("disk2"));
    config.targets[0] = target(TARGET, &[(0, 0), (1, 1)]);
    config
        .targets
        .push(target("iqn.2026-11.io.x:other", &[(0, 2), (1, 0)]));
    let served = Served::start(config);
    let mut asker = served.session(login());
    let mut far = served.session_on(1, other(1), &[0, 1]);
    let foreign = testing::Config::new(INITIATOR, "iqn.2026-11.io.x:other");
    let mut foreign = served.session_on(1, foreign, &[0, 1]);
    for faults in &served.faults {
        faults.hold_writes(true);
    }
    let gone = write(&mut far, 1, 7, block(1));
    // The same unit, mapped by another target: its tasks are reset too, at its own LUN.
    let shared = write(&mut foreign, 1, 8, block(1));
    let stays = write(&mut foreign, 0, 7, block(2));
    until(&mut asker, || {
        served.faults.iter().all(|faults| faults.held() == 1)
    });
    let reset = manage(&mut asker, Function::TargetWarmReset, 0, None);
    settle(&mut [&mut asker, &mut far, &mut foreign]);
    assert!(!asker.has_ended(reset));
    served.faults[1].hold_writes(false);
    settle(&mut [&mut asker, &mut far, &mut foreign]);
    assert!(!asker.has_ended(reset), "the other unit still has a write");
    served.faults[0].hold_writes(false);
    assert_eq!(response(&mut asker, reset), Code::FunctionComplete);
    served.faults[2].hold_writes(false);
    assert!(good(&foreign.wait(stays).unwrap()));
    settle(&mut [&mut far, &mut foreign]);
    assert!(!far.has_ended(gone) && !foreign.has_ended(shared));
    for session in [&mut asker, &mut far] {
        assert_eq!(attention(session, 0), RESET);
        assert_eq!(attention(session, 1), RESET);
    }
    assert_eq!(attention(&mut foreign, 0), None);
    assert_eq!(attention(&mut foreign, 1), RESET);
}

/// RFC 7143 §11.5.1: a TARGET COLD RESET ends all connections of the target when it is answered.
#[test]
fn target_cold_reset_ends_every_session_of_the_target() {
    let mut config = two_cores();
    config.logical_units.push(unit("disk2"));
    config
        .targets
        .push(target("iqn.2026-11.io.x:other", &[(0, 2)]));
    let served = Served::start(config);
    let mut asker = served.session(login());
    let mut far = served.session_on(1, other(1), &[0, 1]);
    let foreign = testing::Config::new(INITIATOR, "iqn.2026-11.io.x:other");
    let mut foreign = served.session_on(1, foreign, &[0]);
    served.faults[0].hold_writes(true);
    write(&mut far, 0, 7, block(1));
    until(&mut asker, || served.faults[0].held() == 1);
    let reset = manage(&mut asker, Function::TargetColdReset, 0, None);
    settle(&mut [&mut asker, &mut foreign]);
    assert!(!asker.has_ended(reset));
    far.wait_closed().unwrap();
    served.faults[0].hold_writes(false);
    assert_eq!(response(&mut asker, reset), Code::FunctionComplete);
    asker.wait_closed().unwrap();
    ping(&mut foreign).unwrap();
    served.session(login()).read_blocks(0, 7, 1, BLOCK).unwrap();
}

/// RFC 7143 §4.2.3.3: a set-wide function waits for the data that R2Ts have asked for.
#[test]
fn a_reset_waits_for_data_that_were_asked_for() {
    let served = Served::start(config());
    let mut it = served.session(login());
    it.write_blocks(0, 0, &pattern(4096, 1), BLOCK).unwrap();
    let data = DataOut {
        held: true,
        ..DataOut::solicited(pattern(4096, 2))
    };
    let task = write(&mut it, 0, 0, data);
    ping(&mut it).unwrap();
    assert_eq!(it.engine().open_r2ts(task), 1);
    let reset = manage(&mut it, Function::LogicalUnitReset, 0, None);
    settle(&mut [&mut it]);
    assert!(!it.has_ended(reset));
    it.engine().release(task);
    it.flush().unwrap();
    assert_eq!(response(&mut it, reset), Code::FunctionComplete);
    assert_eq!(attention(&mut it, 0), RESET);
    assert_eq!(it.read_blocks(0, 0, 8, BLOCK).unwrap(), pattern(4096, 1));
}

#[test]
fn a_reset_gives_up_on_data_that_do_not_come() {
    let served = Served::start(config());
    let mut it = served.session(login());
    let data = DataOut {
        held: true,
        ..DataOut::solicited(pattern(4096, 2))
    };
    let task = write(&mut it, 0, 0, data);
    ping(&mut it).unwrap();
    assert_eq!(it.engine().open_r2ts(task), 1);
    let reset = manage(&mut it, Function::LogicalUnitReset, 0, None);
    assert_eq!(response(&mut it, reset), Code::FunctionComplete);
    assert_eq!(attention(&mut it, 0), RESET);
    assert_eq!(it.read_blocks(0, 0, 8, BLOCK).unwrap(), vec![0; 4096]);
}

/// A reset that is acknowledged when its session is gone says nothing to the session that came into
/// its place.
#[test]
fn a_late_acknowledgement_does_not_answer_another_sessions_reset() {
    let served = Served::start(two_cores());
    let mut writer = served.session_on(1, other(1), &[0, 1]);
    let mut watcher = served.session_on(0, other(2), &[0, 1]);
    for faults in &served.faults {
        faults.hold_writes(true);
    }
    write(&mut writer, 0, 0, block(1));
    write(&mut writer, 1, 0, block(1));
    until(&mut writer, || {
        served.faults.iter().all(|faults| faults.held() == 1)
    });
    let mut first = served.session_on(0, other(3), &[]);
    manage(&mut first, Function::LogicalUnitReset, 0, None);
    settle(&mut [&mut first, &mut writer]);
    drop(first);
    settle(&mut [&mut watcher]);
    let mut second = served.session_on(0, other(4), &[]);
    let reset = manage(&mut second, Function::LogicalUnitReset, 1, None);
    settle(&mut [&mut second, &mut writer]);
    served.faults[0].hold_writes(false);
    settle(&mut [&mut writer, &mut second]);
    assert!(!second.has_ended(reset), "its own unit still has a write");
    served.faults[1].hold_writes(false);
    assert_eq!(response(&mut second, reset), Code::FunctionComplete);
}

/// RFC 7144 §4.3: only this nexus, all of its LUNs, and nothing lands behind the answer.
#[test]
fn i_t_nexus_reset_waits_for_the_devices_of_all_luns() {
    let served = Served::start(two_cores());
    let level = |login: testing::Config| login.with_key("iSCSIProtocolLevel", "2");
    let mut it = served.session_on(0, level(login()), &[0, 1]);
    let mut bystander = served.session_on(1, level(other(1)), &[0, 1]);
    for faults in &served.faults {
        faults.hold_writes(true);
    }
    let first = write(&mut it, 0, 1, block(1));
    let second = write(&mut it, 1, 2, block(2));
    let third = write(&mut bystander, 0, 3, block(3));
    until(&mut it, || {
        served.faults[0].held() == 2 && served.faults[1].held() == 1
    });
    let there = manage(&mut it, Function::QueryTask, 0, Some(first));
    assert_eq!(response(&mut it, there), Code::FunctionSucceeded);
    let reset = manage(&mut it, Function::ITNexusReset, 0, None);
    settle(&mut [&mut it, &mut bystander]);
    assert!(!it.has_ended(reset));
    served.faults[0].hold_writes(false);
    settle(&mut [&mut it, &mut bystander]);
    assert!(
        !it.has_ended(reset),
        "the other LUN's write is at its device"
    );
    served.faults[1].hold_writes(false);
    assert_eq!(response(&mut it, reset), Code::FunctionComplete);
    for task in [first, second] {
        assert_eq!(it.wait(task).unwrap(), Event::Aborted { task });
    }
    let gone = manage(&mut it, Function::QueryTaskSet, 0, None);
    assert_eq!(response(&mut it, gone), Code::FunctionComplete);
    assert!(good(&bystander.wait(third).unwrap()));
    for lun in [0, 1] {
        assert_eq!(attention(&mut it, lun), RESET);
        assert_eq!(attention(&mut it, lun), None);
        assert_eq!(attention(&mut bystander, lun), None);
    }
}
