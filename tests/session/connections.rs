//! Several connections in one session: who may join, the order of commands over all of them, the
//! allegiance of data and status, task management across them, and how one or all of them end
//! (RFC 7143 §4.2.2, §4.2.3, §6.3.4, §11.14).

use super::by_hand::{
    GOOD, data_out, next_r2t, next_reject, next_status, send, send_data, write_by_hand,
};
use super::served::{BLOCK, Served, config, login, pattern, ping, until};
use iiblockdaemon::iscsi::session::Guard;
use iiblockdaemon::pdu::{
    Cid, LoginStatus, LogoutReason, LogoutResponseCode, LunField, RejectReason,
    TaskManagementFunction as Function, TaskManagementResponseCode as Code,
};
use iiblockdaemon::testing::tcp::{Failure, TcpInitiator, write_16};
use iiblockdaemon::testing::{
    self, Command, DataOut, Direction, Event, Nop, Scsi, TaskHandle, TaskManagement,
};

/// Round trips that give a wrong answer the time to come.
const ROUNDS: usize = 20;

fn wants(connections: &str) -> testing::Config {
    login().with_key("MaxConnections", connections)
}

/// Another connection of the session of `it`.
fn further(served: &Served, it: &mut TcpInitiator, cid: u16) -> TcpInitiator {
    let config = it.engine().further(Cid(cid));
    served.session_on(0, config, &[])
}

/// A session of two connections.
fn two(served: &Served) -> (TcpInitiator, TcpInitiator) {
    let mut first = served.session(wants("8"));
    let second = further(served, &mut first, 1);
    (first, second)
}

fn refusal(served: &Served, config: testing::Config) -> LoginStatus {
    match served.open(0, config).login() {
        Err(Failure::LoginRefused(status)) => status,
        other => panic!("{other:?}"),
    }
}

fn settle(sessions: &mut [&mut TcpInitiator]) {
    for _ in 0..ROUNDS {
        for session in &mut *sessions {
            ping(session).unwrap();
        }
    }
}

fn write(it: &mut TcpInitiator, lba: u64, data: DataOut) -> TaskHandle {
    let blocks = u32::try_from(data.bytes.len()).unwrap() / BLOCK;
    let command = Scsi::new(0, &write_16(lba, blocks, false), Direction::Out(data));
    it.submit(Command::Scsi(command)).unwrap()
}

fn block(seed: u32) -> Vec<u8> {
    pattern(BLOCK as usize, seed)
}

fn manage(it: &mut TcpInitiator, function: Function, of: Option<TaskHandle>) -> TaskHandle {
    let request = TaskManagement {
        immediate: true,
        function,
        lun: LunField([0; 8]),
        referenced: of,
    };
    it.submit(Command::TaskManagement(request)).unwrap()
}

fn response(it: &mut TcpInitiator, task: TaskHandle) -> Code {
    match it.wait(task).unwrap() {
        Event::TaskManagement { response, .. } => response,
        other => panic!("{other:?}"),
    }
}

fn log_out(it: &mut TcpInitiator, reason: LogoutReason, cid: u16) -> LogoutResponseCode {
    let task = ask_to_log_out(it, reason, cid);
    logged_out(it, task)
}

fn ask_to_log_out(it: &mut TcpInitiator, reason: LogoutReason, cid: u16) -> TaskHandle {
    let cid = Cid(cid);
    it.submit(Command::Logout { reason, cid }).unwrap()
}

fn logged_out(it: &mut TcpInitiator, task: TaskHandle) -> LogoutResponseCode {
    match it.wait(task).unwrap() {
        Event::Logout { response, .. } => response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn max_connections_is_the_smaller_of_both_and_no_more_may_join() {
    for (ours, theirs, agreed) in [(4, "8", 4), (4, "3", 3), (1, "8", 1), (8, "1", 1)] {
        let mut config = config();
        config.targets[0].max_connections = ours;
        let served = Served::start(config);
        let mut it = served.session(wants(theirs));
        assert_eq!(it.engine().negotiated().max_connections, agreed);
        let agreed = u16::try_from(agreed).unwrap();
        let mut others: Vec<_> = (1..agreed)
            .map(|cid| further(&served, &mut it, cid))
            .collect();
        for round in 0..3 {
            let beyond = it.engine().further(Cid(100 + round));
            assert_eq!(refusal(&served, beyond), LoginStatus::TOO_MANY_CONNECTIONS);
            settle(&mut [&mut it]);
        }
        for other in &mut others {
            other.read_blocks(0, 0, 1, BLOCK).unwrap();
        }
        // One that has logged out makes room for another.
        if let Some(mut last) = others.pop() {
            let cid = agreed - 1;
            let code = log_out(&mut last, LogoutReason::CloseConnection, cid);
            assert_eq!(code, LogoutResponseCode::Closed);
            last.wait_closed().unwrap();
            let mut again = further(&served, &mut it, 77);
            again.read_blocks(0, 0, 1, BLOCK).unwrap();
            others.push(again);
        }
        it.logout().unwrap();
        for mut other in others {
            other.wait_closed().unwrap();
        }
    }
}

/// Two writes to one block, the later one sent first and on another connection: whether it was
/// done before the earlier one.
fn the_later_write_is_done_first(served: &Served) -> bool {
    let (mut a, mut b) = two(served);
    let mut early = false;
    for round in 0..10 {
        let first = write_by_hand(&mut a, 9, 1);
        let second = write_by_hand(&mut b, 9, 1);
        send(&mut b, &second, &block(2 * round + 1));
        settle(&mut [&mut b, &mut a]);
        early |= b.engine().poll_event().is_some() || b.stream().peek(&mut [0]).is_ok();
        assert_eq!(a.engine().numbers().exp_cmd_sn, first.cmd_sn);
        send(&mut a, &first, &block(2 * round));
        assert_eq!(next_status(&mut a), GOOD);
        assert_eq!(next_status(&mut b), GOOD);
        early |= b.read_blocks(0, 9, 1, BLOCK).unwrap() != block(2 * round + 1);
        if early {
            break;
        }
    }
    early
}

#[test]
fn commands_are_done_in_the_order_of_cmd_sn_over_all_connections() {
    assert!(!the_later_write_is_done_first(&Served::start(config())));
}

#[test]
fn commands_of_two_connections_out_of_order_are_noticed() {
    let served = Served::start(config()).without(Guard::CmdSnOrder);
    assert!(the_later_write_is_done_first(&served));
}

/// Data of a write come on another connection than the write: whether they were refused.
fn strayed_data_are_refused(served: &Served) -> bool {
    let mut a = served.session(wants("8").with_key("InitialR2T", "Yes"));
    let mut b = further(served, &mut a, 1);
    let command = write_by_hand(&mut a, 0, 8);
    send(&mut a, &command, &[]);
    let r2t = next_r2t(&mut a);
    let strays = data_out(&mut b, &command, r2t.ttt, 0);
    send_data(&mut b, &strays, &[0xee; 4096]);
    b.submit(Command::Nop(Nop::default())).unwrap();
    let refused = match b.next_event().unwrap() {
        Event::Reject { reason, header, .. } => {
            assert_eq!(reason, RejectReason::ProtocolError);
            assert_eq!(header.initiator_task_tag(), command.itt);
            true
        }
        Event::Nop { .. } => false,
        other => panic!("{other:?}"),
    };
    if refused {
        assert_eq!(b.read_blocks(0, 0, 8, BLOCK).unwrap(), [0; 4096]);
        let data = data_out(&mut a, &command, r2t.ttt, 0);
        send_data(&mut a, &data, &pattern(4096, 5));
        assert_eq!(next_status(&mut a), GOOD);
        assert_eq!(b.read_blocks(0, 0, 8, BLOCK).unwrap(), pattern(4096, 5));
    }
    refused
}

#[test]
fn data_out_on_another_connection_is_rejected_and_touches_nothing() {
    assert!(strayed_data_are_refused(&Served::start(config())));
}

#[test]
fn data_that_are_taken_from_another_connection_are_noticed() {
    let served = Served::start(config()).without(Guard::DataFollowTheirCommand);
    assert!(!strayed_data_are_refused(&served));
}

#[test]
fn data_and_status_go_the_way_that_their_command_came() {
    let served = Served::start(config());
    let mut first = served.session(wants("8"));
    let mut all = vec![
        further(&served, &mut first, 1),
        further(&served, &mut first, 2),
    ];
    all.push(first);
    for round in 0..30_u32 {
        // Each engine refuses an answer to what it did not send.
        let tasks: Vec<_> = all
            .iter_mut()
            .enumerate()
            .map(|(n, it)| {
                let seed = 3 * round + u32::try_from(n).unwrap();
                let data = DataOut::solicited(pattern(32 * 1024, seed));
                (write(it, 64 * n as u64, data), seed)
            })
            .collect();
        for (it, (task, _)) in all.iter_mut().zip(&tasks) {
            let event = it.wait(*task).unwrap();
            assert!(matches!(event, Event::Scsi { outcome, .. } if outcome.is_good()));
        }
        all.rotate_left(1);
        for (n, (_, seed)) in tasks.iter().enumerate() {
            let read = all[n].read_blocks(0, 64 * n as u64, 64, BLOCK).unwrap();
            assert_eq!(read, pattern(32 * 1024, *seed));
        }
    }
}

#[test]
fn tags_are_the_sessions_and_the_digests_are_the_connections() {
    let served = Served::start(config());
    let mut a = served.session(wants("8"));
    let config = a.engine().further(Cid(1)).with_digests(true, true);
    let mut b = served.session_on(0, config, &[]);
    assert!(b.engine().negotiated().header_digest && b.engine().negotiated().data_digest);
    b.write_blocks(0, 3, &block(4), BLOCK).unwrap();
    assert_eq!(a.read_blocks(0, 3, 1, BLOCK).unwrap(), block(4));
    // No unit attention on it: one I_T nexus.
    let outcome = b.execute(Scsi::new(0, &[0; 6], Direction::None)).unwrap();
    assert!(outcome.is_good());
}

#[test]
fn abort_task_reaches_a_task_of_another_connection() {
    let served = Served::start(config());
    let (mut a, mut b) = two(&served);
    served.faults[0].hold_writes(true);
    let task = write(&mut a, 7, DataOut::new(block(1)));
    until(&mut b, || served.faults[0].held() == 1);
    let abort = manage(&mut b, Function::AbortTask, Some(task));
    settle(&mut [&mut a, &mut b]);
    assert!(!b.has_ended(abort), "the write is at the device");
    served.faults[0].hold_writes(false);
    assert_eq!(response(&mut b, abort), Code::FunctionComplete);
    settle(&mut [&mut a, &mut b]);
    assert!(!a.has_ended(task), "an aborted task is not answered");
    a.write_blocks(0, 7, &block(2), BLOCK).unwrap();
    assert_eq!(b.read_blocks(0, 7, 1, BLOCK).unwrap(), block(2));
}

#[test]
fn abort_task_waits_for_no_data_of_another_connection() {
    let served = Served::start(config());
    let (mut a, mut b) = two(&served);
    let held = DataOut {
        held: true,
        ..DataOut::solicited(pattern(4096, 2))
    };
    let task = write(&mut a, 0, held);
    ping(&mut a).unwrap();
    assert_eq!(a.engine().open_r2ts(task), 1);
    let abort = manage(&mut b, Function::AbortTask, Some(task));
    assert_eq!(response(&mut b, abort), Code::FunctionComplete);
    // Data that are late find no task.
    a.engine().release(task);
    a.flush().unwrap();
    settle(&mut [&mut a]);
    assert_eq!(b.read_blocks(0, 0, 8, BLOCK).unwrap(), [0; 4096]);
}

#[test]
fn a_task_set_is_aborted_on_all_connections_when_their_data_have_come() {
    for function in [
        Function::AbortTaskSet,
        Function::ClearTaskSet,
        Function::LogicalUnitReset,
    ] {
        let served = Served::start(config());
        let (mut a, mut b) = two(&served);
        let held = DataOut {
            held: true,
            ..DataOut::solicited(pattern(4096, 2))
        };
        let task = write(&mut a, 0, held);
        ping(&mut a).unwrap();
        let request = manage(&mut b, function, None);
        settle(&mut [&mut a, &mut b]);
        assert!(
            !b.has_ended(request),
            "{function:?}: data were asked for on another connection"
        );
        a.engine().release(task);
        a.flush().unwrap();
        assert_eq!(response(&mut b, request), Code::FunctionComplete);
        settle(&mut [&mut a]);
        assert!(!a.has_ended(task));
        b.clear_unit_attentions(0).unwrap();
        assert_eq!(b.read_blocks(0, 0, 8, BLOCK).unwrap(), [0; 4096]);
    }
}

/// ABORT TASK SET overtakes a write that was sent before it on another connection: whether it was
/// answered before the write came.
fn a_task_set_is_aborted_too_early(served: &Served) -> bool {
    let (mut a, mut b) = two(served);
    served.faults[0].hold_writes(true);
    let command = write_by_hand(&mut a, 7, 1);
    let request = manage(&mut b, Function::AbortTaskSet, None);
    settle(&mut [&mut a, &mut b]);
    let early = b.has_ended(request);
    send(&mut a, &command, &block(1));
    until(&mut a, || served.faults[0].held() == 1);
    served.faults[0].hold_writes(false);
    assert_eq!(response(&mut b, request), Code::FunctionComplete);
    early
}

#[test]
fn aborting_a_task_set_waits_for_commands_that_were_sent_before() {
    assert!(!a_task_set_is_aborted_too_early(&Served::start(config())));
}

#[test]
fn aborting_a_task_set_before_all_commands_have_come_is_noticed() {
    let served = Served::start(config()).without(Guard::TaskSetWaitsForCommands);
    assert!(a_task_set_is_aborted_too_early(&served));
}

/// A status is under way on one connection when ABORT TASK SET comes on another: whether that is
/// answered before the initiator has the status.
fn statuses_are_overtaken(served: &Served) -> bool {
    let mut a = served.session(testing::Config {
        answer_nop_in: false,
        ..wants("8")
    });
    let config = testing::Config {
        answer_nop_in: true,
        ..a.engine().further(Cid(1))
    };
    let mut b = served.session_on(0, config, &[]);
    // The answer to this one is not acknowledged until the next thing is said on `a`.
    a.read_blocks(0, 0, 1, BLOCK).unwrap();
    let request = manage(&mut b, Function::AbortTaskSet, None);
    settle(&mut [&mut b]);
    let early = b.has_ended(request);
    if !early {
        let asked = a.find_event(|event| matches!(event, Event::NopIn { .. }));
        let Event::NopIn { ttt, .. } = asked.unwrap() else {
            unreachable!("that is what was looked for");
        };
        assert!(!ttt.is_reserved(), "it asks for an answer");
        ping(&mut a).unwrap();
    }
    assert_eq!(response(&mut b, request), Code::FunctionComplete);
    early
}

#[test]
fn aborting_a_task_set_waits_until_statuses_of_other_connections_are_acknowledged() {
    assert!(!statuses_are_overtaken(&Served::start(config())));
}

#[test]
fn statuses_that_are_overtaken_are_noticed() {
    let served = Served::start(config()).without(Guard::TaskSetWaitsForStatuses);
    assert!(statuses_are_overtaken(&served));
}

/// Logs the second of two connections out, by itself or by the first one, while it has a write at
/// the device and one that waits for data.
fn one_of_two_logs_out(by_itself: bool) {
    let served = Served::start(config());
    let (mut a, mut b) = two(&served);
    served.faults[0].hold_writes(true);
    let at_device = write(&mut b, 7, DataOut::new(block(1)));
    let waits = write(
        &mut b,
        64,
        DataOut {
            held: true,
            ..DataOut::solicited(pattern(4096, 2))
        },
    );
    let stays = write(&mut a, 8, DataOut::new(block(3)));
    until(&mut a, || served.faults[0].held() == 2);
    ping(&mut b).unwrap();
    let asker = if by_itself { &mut b } else { &mut a };
    let logout = ask_to_log_out(asker, LogoutReason::CloseConnection, 1);
    settle(&mut [&mut a]);
    let asker = if by_itself { &mut b } else { &mut a };
    assert!(!asker.has_ended(logout) && asker.engine().outstanding() > 0);
    served.faults[0].hold_writes(false);
    let code = logged_out(asker, logout);
    assert_eq!(code, LogoutResponseCode::Closed);
    b.wait_closed().unwrap();
    assert!(!b.has_ended(at_device) && !b.has_ended(waits));
    // The other one goes on, with its own task and with the window of the session.
    let event = a.wait(stays).unwrap();
    assert!(matches!(event, Event::Scsi { outcome, .. } if outcome.is_good()));
    a.write_blocks(0, 7, &block(9), BLOCK).unwrap();
    assert_eq!(a.read_blocks(0, 7, 1, BLOCK).unwrap(), block(9));
    assert_eq!(a.read_blocks(0, 64, 8, BLOCK).unwrap(), [0; 4096]);
    let code = log_out(&mut a, LogoutReason::CloseConnection, 1);
    assert_eq!(code, LogoutResponseCode::CidNotFound);
    // Its CID may come again.
    let mut again = further(&served, &mut a, 1);
    again.read_blocks(0, 7, 1, BLOCK).unwrap();
    a.logout().unwrap();
    again.wait_closed().unwrap();
}

#[test]
fn a_connection_that_logs_out_leaves_the_others_alone() {
    one_of_two_logs_out(true);
}

#[test]
fn a_connection_is_logged_out_on_another_one() {
    one_of_two_logs_out(false);
}

#[test]
fn connections_may_log_out_at_the_same_time_and_the_last_takes_the_session() {
    let served = Served::start(config());
    let mut first = served.session(wants("8"));
    let mut all = vec![
        further(&served, &mut first, 1),
        further(&served, &mut first, 2),
        first,
    ];
    served.faults[0].hold_writes(true);
    for (n, it) in all.iter_mut().enumerate() {
        write(it, 7 + n as u64, DataOut::new(block(1)));
    }
    until(&mut all[0], || served.faults[0].held() == 3);
    let logouts: Vec<_> = [1, 2, 0]
        .into_iter()
        .zip(&mut all)
        .map(|(cid, it)| ask_to_log_out(it, LogoutReason::CloseConnection, cid))
        .collect();
    served.faults[0].hold_writes(false);
    for (it, logout) in all.iter_mut().zip(logouts) {
        assert_eq!(logged_out(it, logout), LogoutResponseCode::Closed);
        it.wait_closed().unwrap();
    }
    let gone = all[2].engine().further(Cid(5));
    assert_eq!(refusal(&served, gone), LoginStatus::SESSION_DOES_NOT_EXIST);
}

#[test]
fn a_logout_of_the_session_closes_all_connections() {
    let served = Served::start(config());
    let (mut a, mut b) = two(&served);
    served.faults[0].hold_writes(true);
    let task = write(&mut a, 7, DataOut::new(block(1)));
    until(&mut b, || served.faults[0].held() == 1);
    let logout = ask_to_log_out(&mut b, LogoutReason::CloseSession, 0);
    // While it waits, nobody may join, and what the other one says is not served any more.
    let mut watcher = served.session(login().with_isid_qualifier(9));
    settle(&mut [&mut watcher]);
    let late = a.engine().further(Cid(5));
    assert_eq!(refusal(&served, late), LoginStatus::SESSION_DOES_NOT_EXIST);
    served.faults[0].hold_writes(false);
    assert_eq!(logged_out(&mut b, logout), LogoutResponseCode::Closed);
    b.wait_closed().unwrap();
    a.wait_closed().unwrap();
    assert!(!a.has_ended(task));
}

#[test]
fn a_connection_that_fails_takes_the_session_with_it() {
    let served = Served::start(config());
    let (mut a, b) = two(&served);
    let mut c = further(&served, &mut a, 2);
    served.faults[0].hold_writes(true);
    let task = write(&mut a, 7, DataOut::new(block(1)));
    until(&mut c, || served.faults[0].held() == 1);
    drop(b);
    a.wait_closed().unwrap();
    c.wait_closed().unwrap();
    assert!(!a.has_ended(task));
    let gone = a.engine().further(Cid(1));
    assert_eq!(refusal(&served, gone), LoginStatus::SESSION_DOES_NOT_EXIST);
    served.faults[0].hold_writes(false);
    let mut new = served.session(wants("8"));
    new.write_blocks(0, 7, &block(2), BLOCK).unwrap();
    assert_eq!(new.read_blocks(0, 7, 1, BLOCK).unwrap(), block(2));
}

#[test]
fn requests_of_connections_that_have_left_do_not_pile_up() {
    let served = Served::start(config());
    let mut a = served.session(wants("8"));
    served.faults[0].hold_writes(true);
    let task = write(&mut a, 7, DataOut::new(block(1)));
    until(&mut a, || served.faults[0].held() == 1);
    for _ in 0..5 {
        let mut b = further(&served, &mut a, 1);
        let requests: Vec<_> = (0..8)
            .map(|_| manage(&mut b, Function::AbortTask, Some(task)))
            .collect();
        settle(&mut [&mut b]);
        assert!(requests.iter().all(|request| !b.has_ended(*request)));
        let code = log_out(&mut a, LogoutReason::CloseConnection, 1);
        assert_eq!(code, LogoutResponseCode::Closed);
        b.wait_closed().unwrap();
    }
    let last = manage(&mut a, Function::AbortTask, Some(task));
    settle(&mut [&mut a]);
    served.faults[0].hold_writes(false);
    assert_eq!(response(&mut a, last), Code::FunctionComplete);
    a.write_blocks(0, 7, &block(2), BLOCK).unwrap();
}

#[test]
fn a_reset_of_the_target_ends_all_connections() {
    let served = Served::start(config());
    let (mut a, mut b) = two(&served);
    let request = manage(&mut b, Function::TargetColdReset, None);
    // It acknowledges the last status; whether it is answered before all is closed is open.
    let _ = ping(&mut a);
    assert_eq!(response(&mut b, request), Code::FunctionComplete);
    b.wait_closed().unwrap();
    a.wait_closed().unwrap();
}

#[test]
fn a_command_that_is_being_received_keeps_its_cmd_sn_to_itself() {
    let served = Served::start(config());
    let (mut a, mut b) = two(&served);
    let command = write_by_hand(&mut a, 7, 1);
    let pdu = command.emit().with_lengths(0, BLOCK);
    a.send_bytes(pdu.bytes()).unwrap();
    a.send_bytes(&block(1)[..100]).unwrap();
    // Time for it to be looked at, then another command with the same number.
    settle(&mut [&mut b]);
    let mut double = command;
    double.itt = b.engine().take_raw_tag();
    send(&mut b, &double, &block(2));
    settle(&mut [&mut b]);
    assert_eq!(b.engine().numbers().exp_cmd_sn, command.cmd_sn);
    a.send_bytes(&block(1)[100..]).unwrap();
    assert_eq!(next_status(&mut a), GOOD);
    assert_eq!(b.read_blocks(0, 7, 1, BLOCK).unwrap(), block(1));
    // The same aborted while it is being received: its number counts, and it is never done.
    let command = write_by_hand(&mut a, 7, 1);
    a.send_bytes(command.emit().with_lengths(0, BLOCK).bytes())
        .unwrap();
    a.send_bytes(&block(3)[..100]).unwrap();
    settle(&mut [&mut b]);
    let abort = manage(&mut b, Function::AbortTask, Some(TaskHandle(command.itt)));
    assert_eq!(response(&mut b, abort), Code::FunctionComplete);
    a.send_bytes(&block(3)[100..]).unwrap();
    settle(&mut [&mut a, &mut b]);
    assert_eq!(a.read_blocks(0, 7, 1, BLOCK).unwrap(), block(1));
    let (reason, _) = {
        // A tag of another connection's command cannot be answered to.
        let command = write_by_hand(&mut a, 0, 8);
        send(&mut a, &command, &[]);
        next_r2t(&mut a);
        let strays = data_out(&mut b, &command, iiblockdaemon::pdu::Ttt::RESERVED, 0);
        send_data(&mut b, &strays, &[1; 512]);
        next_reject(&mut b)
    };
    assert_eq!(reason, RejectReason::ProtocolError);
}
