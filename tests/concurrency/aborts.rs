//! ABORT TASK, ABORT TASK SET and CLEAR TASK SET: what they wait for and what they leave alone
//! (RFC 7143 §4.2.3.3, §11.5).

use super::acts::{attention, block, good, lun, manage, other, response, settle, write};
use super::served::{BLOCK, Served, config, login, pattern, ping, until};
use iiblockdaemon::iscsi::session::Guard;
use iiblockdaemon::pdu::{
    Itt, TaskManagementFunction as Function, TaskManagementRequest, TaskManagementResponse,
    TaskManagementResponseCode as Code,
};
use iiblockdaemon::testing::{Command, DataOut, Direction, Event, RawPdu, Scsi, TaskHandle};

/// Whether ABORT TASK was answered while its task was at the device.
fn abort_task_is_early(served: &Served) -> bool {
    let mut it = served.session(login());
    served.faults[0].hold_writes(true);
    let task = write(&mut it, 0, 7, block(1));
    until(&mut it, || served.faults[0].held() == 1);
    let abort = manage(&mut it, Function::AbortTask, 0, Some(task));
    settle(&mut [&mut it]);
    let early = it.has_ended(abort);
    served.faults[0].hold_writes(false);
    assert_eq!(response(&mut it, abort), Code::FunctionComplete);
    assert_eq!(it.wait(task).unwrap(), Event::Aborted { task });
    early
}

#[test]
fn abort_task_waits_for_a_write_at_the_device() {
    assert!(!abort_task_is_early(&Served::start(config())));
}

#[test]
fn an_abort_that_does_not_wait_is_noticed() {
    let served = Served::start(config()).without(Guard::AbortWaitsForDevice);
    assert!(abort_task_is_early(&served));
}

/// Whether the first of two requests that reach one task was answered before it was gone.
fn first_of_two_aborts_is_early(served: &Served) -> bool {
    let mut it = served.session(login());
    served.faults[0].hold_writes(true);
    let task = write(&mut it, 0, 7, block(1));
    until(&mut it, || served.faults[0].held() == 1);
    let first = manage(&mut it, Function::AbortTask, 0, Some(task));
    let second = manage(&mut it, Function::AbortTaskSet, 0, None);
    let third = manage(&mut it, Function::LogicalUnitReset, 0, None);
    settle(&mut [&mut it]);
    let early = it.has_ended(first);
    assert!(!it.has_ended(third));
    served.faults[0].hold_writes(false);
    for request in [first, second, third] {
        assert_eq!(response(&mut it, request), Code::FunctionComplete);
    }
    early
}

#[test]
fn every_request_that_reaches_a_task_waits_for_it() {
    assert!(!first_of_two_aborts_is_early(&Served::start(config())));
}

#[test]
fn a_request_that_forgets_its_task_is_noticed() {
    let served = Served::start(config()).without(Guard::AbortKeepsEarlierWaiter);
    assert!(first_of_two_aborts_is_early(&served));
}

#[test]
fn abort_task_of_a_task_that_waits_for_data_is_answered_at_once() {
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
    let abort = manage(&mut it, Function::AbortTask, 0, Some(task));
    assert_eq!(response(&mut it, abort), Code::FunctionComplete);
    assert_eq!(it.read_blocks(0, 0, 8, BLOCK).unwrap(), pattern(4096, 1));
}

#[test]
fn abort_task_of_an_unknown_task_takes_no_cmd_sn() {
    let served = Served::start(config());
    let mut it = served.session(login());
    let unknown = Some(TaskHandle(Itt(0x7777)));
    for _ in 0..3 {
        let abort = manage(&mut it, Function::AbortTask, 0, unknown);
        assert_eq!(response(&mut it, abort), Code::TaskDoesNotExist);
        // The next command still has its CmdSN to itself.
        it.read_blocks(0, 0, 1, BLOCK).unwrap();
    }
    let elsewhere = manage(&mut it, Function::LogicalUnitReset, 9, None);
    assert_eq!(response(&mut it, elsewhere), Code::LunDoesNotExist);
    for function in [Function::ClearAca, Function::Other(0x33)] {
        let request = manage(&mut it, function, 0, None);
        assert_eq!(response(&mut it, request), Code::FunctionNotSupported);
    }
    let reassign = manage(&mut it, Function::TaskReassign, 0, unknown);
    assert_eq!(response(&mut it, reassign), Code::ReassignmentNotSupported);
}

/// RFC 7143 §11.6.1: a command that never came is aborted by its CmdSN, which closes the gap.
#[test]
fn abort_task_of_a_command_that_never_came_closes_its_gap() {
    let served = Served::start(config());
    let mut it = served.session(login());
    let missing = it.engine().take_cmd_sn(false);
    let behind = it
        .submit(Command::Scsi(Scsi::new(0, &[0; 6], Direction::None)))
        .unwrap();
    settle(&mut [&mut it]);
    assert!(!it.has_ended(behind), "it waits for the missing one");
    let itt = it.engine().take_raw_tag();
    let numbers = it.engine().numbers();
    let request = TaskManagementRequest {
        immediate: true,
        function: Function::AbortTask,
        lun: lun(0),
        itt,
        referenced_itt: Itt(0x7777),
        cmd_sn: numbers.cmd_sn,
        exp_stat_sn: numbers.exp_stat_sn,
        ref_cmd_sn: missing,
        exp_data_sn: 0,
    };
    it.send_pdu(&RawPdu::new(request.emit(), Vec::new()))
        .unwrap();
    let answer = TaskManagementResponse::parse(&it.next_raw().unwrap().bhs);
    assert_eq!(answer.response, Code::FunctionComplete);
    assert!(good(&it.wait(behind).unwrap()));
    it.read_blocks(0, 0, 1, BLOCK).unwrap();
}

#[test]
fn set_wide_aborts_reach_one_logical_unit_and_nothing_else() {
    for function in [Function::AbortTaskSet, Function::ClearTaskSet] {
        let served = Served::start(config());
        let mut it = served.session(login());
        let mut bystander = served.session(other(1));
        for faults in &served.faults {
            faults.hold_writes(true);
        }
        let gone: Vec<_> = (0..3).map(|n| write(&mut it, 0, n, block(1))).collect();
        let stays = write(&mut it, 1, 0, block(2));
        // TST = 001b: the task set of another nexus is another one.
        let foreign = write(&mut bystander, 0, 9, block(3));
        until(&mut it, || {
            served.faults[0].held() == 4 && served.faults[1].held() == 1
        });
        let request = manage(&mut it, function, 0, None);
        settle(&mut [&mut it, &mut bystander]);
        assert!(!it.has_ended(request));
        served.faults[0].hold_writes(false);
        assert_eq!(response(&mut it, request), Code::FunctionComplete);
        for task in gone {
            assert_eq!(it.wait(task).unwrap(), Event::Aborted { task });
        }
        assert!(!it.has_ended(stays));
        served.faults[1].hold_writes(false);
        assert!(good(&it.wait(stays).unwrap()));
        assert!(good(&bystander.wait(foreign).unwrap()));
        assert_eq!(attention(&mut it, 0), None);
        assert_eq!(attention(&mut bystander, 0), None);
    }
}

#[test]
fn more_requests_than_may_wait_are_rejected_and_the_others_are_answered() {
    let served = Served::start(config());
    let mut it = served.session(login());
    served.faults[0].hold_writes(true);
    write(&mut it, 0, 7, block(1));
    until(&mut it, || served.faults[0].held() == 1);
    let asked: Vec<_> = (0..20)
        .map(|_| manage(&mut it, Function::AbortTaskSet, 0, None))
        .collect();
    settle(&mut [&mut it]);
    let rejected = asked
        .iter()
        .filter(|request| it.has_ended(**request))
        .count();
    assert_eq!(rejected, 20 - 8);
    served.faults[0].hold_writes(false);
    for request in &asked[..8] {
        assert_eq!(response(&mut it, *request), Code::FunctionComplete);
    }
}
