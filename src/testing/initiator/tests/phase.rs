//! Window, task management, pings, text, rejects and logout; and any bytes at all.

use super::*;
use proptest::prelude::*;

#[test]
fn commands_wait_for_the_window_and_immediate_ones_do_not() {
    let mut it = Stand::logged_in(&[]);
    let tasks: Vec<TaskHandle> = (0..10).map(|_| it.scsi(Direction::None)).collect();
    assert_eq!(it.sent().len(), 8);
    let request = TaskManagement {
        immediate: true,
        function: TaskManagementFunction::AbortTask,
        lun: LUN,
        referenced: Some(tasks[2]),
    };
    let abort = it.initiator.submit(Command::TaskManagement(request));
    let sent = it.sent();
    assert_eq!(sent.len(), 1, "only the immediate one");
    let abort_pdu = TaskManagementRequest::parse(&sent[0].bhs);
    assert_eq!(
        (abort_pdu.itt, abort_pdu.referenced_itt),
        (abort.0, tasks[2].0)
    );
    assert_eq!(
        (abort_pdu.cmd_sn, abort_pdu.ref_cmd_sn),
        (CmdSn(9), CmdSn(3))
    );
    let response = it.response(tasks[0], 0, Residual::None);
    it.give(response.emit(), &[]).unwrap();
    let sent = it.sent();
    assert_eq!(
        sent.len(),
        2,
        "the whole window is free for the two that waited"
    );
    assert_eq!(sent[0].bhs.initiator_task_tag(), tasks[8].0);
}

#[test]
fn an_aborted_command_is_never_answered() {
    let cases = [
        (TaskManagementFunction::AbortTask, vec![0]),
        (TaskManagementFunction::AbortTaskSet, vec![0, 1]),
        (TaskManagementFunction::LogicalUnitReset, vec![0, 1]),
        (TaskManagementFunction::TargetWarmReset, vec![0, 1, 2]),
    ];
    for (function, gone) in cases {
        let mut it = Stand::logged_in(&[]);
        let mut tasks = vec![it.scsi(Direction::None), it.scsi(Direction::None)];
        let other = Scsi::new(9, &[0; 6], Direction::None);
        tasks.push(it.initiator.submit(Command::Scsi(other)));
        let referenced = (function == TaskManagementFunction::AbortTask).then_some(tasks[0]);
        let request = TaskManagement {
            immediate: true,
            function,
            lun: LUN,
            referenced,
        };
        let management = it.initiator.submit(Command::TaskManagement(request));
        let late = it.scsi(Direction::None);
        it.sent();
        let response = TaskManagementResponse {
            response: TaskManagementResponseCode::FunctionComplete,
            additional_information: [0; 3],
            itt: management.0,
            stat_sn: it.take_stat_sn(),
            exp_cmd_sn: it.exp_cmd_sn,
            max_cmd_sn: it.max_cmd_sn(),
        };
        it.give(response.emit(), &[]).unwrap();
        for index in &gone {
            let aborted = Event::Aborted {
                task: tasks[*index],
            };
            assert_eq!(it.initiator.poll_event(), Some(aborted), "{function:?}");
        }
        let end = it.initiator.poll_event();
        assert!(
            matches!(end, Some(Event::TaskManagement { .. })),
            "{function:?}: {end:?}"
        );
        let response = it.response(late, 0, Residual::None);
        it.give(response.emit(), &[]).unwrap();
        let response = it.response(tasks[0], 0, Residual::None);
        breaks(Rule::UnknownTask, it.give(response.emit(), &[]));
    }
}

fn nop_in(it: &mut Stand, itt: Itt, ttt: Ttt) -> NopIn {
    let stat_sn = if itt.is_reserved() {
        it.stat_sn
    } else {
        it.take_stat_sn()
    };
    let (exp_cmd_sn, max_cmd_sn) = (it.exp_cmd_sn, it.max_cmd_sn());
    NopIn {
        lun: LunField::default(),
        itt,
        ttt,
        stat_sn,
        exp_cmd_sn,
        max_cmd_sn,
    }
}

#[test]
fn pings_go_both_ways() {
    let mut it = Stand::logged_in(&[]);
    let nop = Nop {
        immediate: false,
        data: bytes(9),
    };
    let task = it.initiator.submit(Command::Nop(nop));
    assert_eq!(it.sent()[0].data, bytes(9));
    let answer = nop_in(&mut it, task.0, Ttt::RESERVED);
    it.give(answer.emit(), &bytes(9)).unwrap();
    assert_eq!(
        it.initiator.poll_event(),
        Some(Event::Nop {
            task,
            data: bytes(9)
        })
    );
    let ping = nop_in(&mut it, Itt::RESERVED, Ttt(55));
    it.give(ping.emit(), &bytes(4)).unwrap();
    let sent = it.sent();
    let pong = NopOut::parse(&sent[0].bhs);
    assert!(pong.immediate && pong.itt.is_reserved() && pong.ttt == Ttt(55));
    assert_eq!(sent[0].data, bytes(4));
    let update = nop_in(&mut it, Itt::RESERVED, Ttt::RESERVED);
    it.give(update.emit(), &[]).unwrap();
    assert!(it.sent().is_empty());
    breaks(Rule::NopInTags, it.give(update.emit(), &bytes(4)));
    let mut it = Stand::logged_in(&[]);
    let task = it.initiator.submit(Command::Nop(Nop {
        immediate: true,
        data: bytes(8),
    }));
    it.sent();
    let answer = nop_in(&mut it, task.0, Ttt::RESERVED);
    breaks(Rule::NopInEcho, it.give(answer.emit(), &bytes(7)));
}

#[test]
fn a_long_text_is_collected() {
    let mut it = Stand::logged_in(&[]);
    let task = it
        .initiator
        .submit(Command::Text(pairs(&[("SendTargets", "All")])));
    let sent = it.sent();
    assert_eq!(sent[0].data, b"SendTargets=All\0");
    let mut text = |final_: bool, continue_, ttt, data: &[u8]| {
        let response = TextResponse {
            final_,
            continue_,
            lun: LunField::default(),
            itt: task.0,
            ttt,
            stat_sn: it.take_stat_sn(),
            exp_cmd_sn: it.exp_cmd_sn,
            max_cmd_sn: it.max_cmd_sn(),
        };
        it.give(response.emit(), data).unwrap();
        it.sent()
    };
    let more = text(false, true, Ttt(8), b"TargetName=a\0Target");
    let request = TextRequest::parse(&more[0].bhs).unwrap();
    assert!(request.final_ && request.ttt == Ttt(8) && more[0].data.is_empty());
    assert!(text(true, false, Ttt::RESERVED, b"Address=b\0").is_empty());
    let keys = pairs(&[("TargetName", "a"), ("TargetAddress", "b")]);
    assert_eq!(it.initiator.poll_event(), Some(Event::Text { task, keys }));
}

#[test]
fn a_rejected_command_is_over() {
    let mut it = Stand::logged_in(&[]);
    let task = it.scsi(Direction::None);
    let header = it.sent()[0].bhs;
    let reject = Reject {
        reason: RejectReason::ProtocolError,
        stat_sn: it.take_stat_sn(),
        exp_cmd_sn: it.exp_cmd_sn,
        max_cmd_sn: it.max_cmd_sn(),
        data_sn: 0,
    };
    it.give(reject.emit(), header.bytes()).unwrap();
    let reason = RejectReason::ProtocolError;
    let expected = Event::Reject {
        reason,
        header,
        task: Some(task),
    };
    assert_eq!(it.initiator.poll_event(), Some(expected));
    assert_eq!(it.initiator.outstanding(), 0);
    let again = Reject {
        stat_sn: it.take_stat_sn(),
        ..reject
    };
    breaks(Rule::RejectHeader, it.give(again.emit(), &[0; 47]));
}

#[test]
fn after_logout_nothing_more_may_come() {
    let mut it = Stand::logged_in(&[]);
    let logout = Command::Logout {
        reason: LogoutReason::CloseSession,
        cid: Cid(0),
    };
    let task = it.initiator.submit(logout);
    it.sent();
    let response = LogoutResponse {
        response: LogoutResponseCode::Closed,
        itt: task.0,
        stat_sn: it.take_stat_sn(),
        exp_cmd_sn: it.exp_cmd_sn,
        max_cmd_sn: it.max_cmd_sn(),
        time2wait: 0,
        time2retain: 0,
    };
    it.give(response.emit(), &[]).unwrap();
    assert!(matches!(
        it.initiator.poll_event(),
        Some(Event::Logout { .. })
    ));
    let ping = nop_in(&mut it, Itt::RESERVED, Ttt(1));
    breaks(Rule::Phase, it.give(ping.emit(), &[]));
}

#[test]
fn a_reserved_byte_that_is_not_zero_is_seen_unless_told_otherwise() {
    for strict in [true, false] {
        let mut it = Stand::logged_in(&[]);
        it.initiator.config.strict_fields = strict;
        let mut header = *nop_in(&mut it, Itt::RESERVED, Ttt::RESERVED).emit().bytes();
        header[3] = 1;
        let result = it.give(Bhs::new(header), &[]);
        if strict {
            breaks(Rule::Reserved, result);
        } else {
            result.unwrap();
        }
    }
}

#[test]
fn pdus_made_by_hand_are_answered_by_hand() {
    let mut it = Stand::logged_in(&[]);
    let itt = it.initiator.take_raw_tag();
    let cmd_sn = it.initiator.take_cmd_sn(false);
    let header = NopOut {
        immediate: false,
        lun: LunField::default(),
        itt,
        ttt: Ttt::RESERVED,
        cmd_sn,
        exp_stat_sn: it.initiator.numbers().exp_stat_sn,
    };
    it.initiator.send(&RawPdu::new(header.emit(), bytes(3)));
    assert_eq!(it.sent().len(), 1);
    let answer = nop_in(&mut it, itt, Ttt::RESERVED);
    it.give(answer.emit(), b"not an echo").unwrap();
    let event = it.initiator.poll_event();
    assert!(matches!(event, Some(Event::Raw(pdu)) if pdu.data == b"not an echo"));
}

#[test]
fn every_rule_names_its_section() {
    for rule in Rule::ALL {
        assert!(rule.section().starts_with('§'), "{rule:?}");
    }
}

/// Every opcode that a target sends (RFC 7143 §11.2.1.2).
const ANSWERS: &[u8] = &[0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3f];

proptest! {
    #[test]
    fn no_bytes_panic(login: bool, bytes: Vec<u8>, pieces in 1_usize..64) {
        let mut it = if login {
            Stand::logged_in(&[])
        } else {
            Stand::new(Config::new("iqn.i", "iqn.t"))
        };
        it.sent();
        for piece in bytes.chunks(pieces) {
            if it.initiator.receive(piece).is_err() {
                break;
            }
        }
    }

    #[test]
    fn no_header_panics(
        opcode in prop::sample::select(ANSWERS),
        header: [u8; 24],
        lower: [u8; 20],
        tag in 0_u32..4,
        data in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut it = Stand::logged_in(&[]);
        it.initiator.config.strict_fields = false;
        it.scsi(Direction::In(64));
        it.scsi(Direction::Out(DataOut::solicited(bytes(64))));
        it.initiator.submit(Command::Nop(Nop::default()));
        it.sent();
        let mut bhs = [0; 48];
        bhs[..24].copy_from_slice(&header);
        bhs[28..].copy_from_slice(&lower);
        bhs[0] = opcode;
        bhs[16..20].copy_from_slice(&tag.to_be_bytes());
        // The numbers are right, so that the rest is looked at.
        bhs[24..28].copy_from_slice(&it.stat_sn.0.to_be_bytes());
        bhs[28..32].copy_from_slice(&it.exp_cmd_sn.0.to_be_bytes());
        bhs[32..36].copy_from_slice(&it.max_cmd_sn().0.to_be_bytes());
        let _ = it.give(Bhs::new(bhs), &data);
        it.sent();
    }
}
