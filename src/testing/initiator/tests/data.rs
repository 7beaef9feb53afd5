//! Data and status of SCSI commands (RFC 7143 §11.4, §11.7, §11.8).

use super::*;

#[test]
fn a_read_is_put_together_and_its_status_may_come_with_the_last_data() {
    let mut it = Stand::logged_in(&[]);
    let task = it.scsi(Direction::In(1000));
    let sent = it.sent();
    let command = ScsiCommand::parse(&sent[0].bhs).unwrap();
    assert!(command.read && !command.write && command.final_);
    assert_eq!(
        (command.lun, command.expected_data_transfer_length),
        (LUN, 1000)
    );
    assert_eq!(
        command.cdb[..11],
        [
            0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0
        ]
    );
    let data = bytes(900);
    it.give(it.data_in(task, 0, 0).emit(), &data[..512])
        .unwrap();
    let stat_sn = it.take_stat_sn();
    let status = Some((0, Residual::Underflow(100)));
    let last = ScsiDataIn {
        final_: true,
        status,
        stat_sn,
        ..it.data_in(task, 1, 512)
    };
    it.give(last.emit(), &data[512..]).unwrap();
    let Some(Event::Scsi { outcome, .. }) = it.initiator.poll_event() else {
        panic!("no end")
    };
    assert!(outcome.is_good() && outcome.collapsed && outcome.data_in == data);
    assert_eq!(outcome.residual, Residual::Underflow(100));
    assert_eq!(it.initiator.outstanding(), 0);
}

#[test]
fn data_in_rules_are_seen_to_break() {
    let check = |rule, change: &dyn Fn(&mut ScsiDataIn), length: usize| {
        let mut it = Stand::logged_in(&[
            ("MaxBurstLength", "1024"),
            ("MaxRecvDataSegmentLength", "8192"),
        ]);
        let task = it.scsi(Direction::In(4096));
        it.sent();
        it.give(it.data_in(task, 0, 0).emit(), &bytes(512)).unwrap();
        let mut pdu = it.data_in(task, 1, 512);
        pdu.stat_sn = it.stat_sn;
        change(&mut pdu);
        pdu.final_ |= pdu.status.is_some();
        breaks(rule, it.give(pdu.emit(), &bytes(length)));
    };
    check(Rule::DataSn, &|it| it.data_sn = 2, 512);
    check(Rule::DataInOffset, &|it| it.buffer_offset = 0, 512);
    check(Rule::DataInOffset, &|it| it.buffer_offset = 516, 512);
    check(Rule::DataInBurst, &|_| {}, 516);
    check(Rule::DataInBeyondExpected, &|_| {}, 3588);
    check(Rule::DataInAcknowledge, &|it| it.acknowledge = true, 512);
    check(Rule::DataInTag, &|it| it.ttt = Ttt(1), 512);
    check(
        Rule::DataInStatus,
        &|it| it.status = Some((2, Residual::Underflow(3072))),
        512,
    );
    check(
        Rule::Residual,
        &|it| it.status = Some((0, Residual::None)),
        512,
    );
    check(
        Rule::Residual,
        &|it| it.status = Some((0, Residual::Underflow(1))),
        512,
    );
    check(Rule::UnknownTask, &|it| it.itt = Itt(999), 512);
    check(
        Rule::ExpCmdSn,
        &|it| it.exp_cmd_sn = it.exp_cmd_sn.plus(3),
        512,
    );
    check(
        Rule::MaxCmdSn,
        &|it| it.max_cmd_sn = it.max_cmd_sn.minus(1),
        512,
    );
    check(
        Rule::StatSn,
        &|it| {
            it.status = Some((0, Residual::Underflow(3072)));
            it.stat_sn = it.stat_sn.next();
        },
        512,
    );
    let mut it = Stand::logged_in(&[]);
    let task = it.scsi(Direction::None);
    it.sent();
    breaks(
        Rule::DataInWithoutRead,
        it.give(it.data_in(task, 0, 0).emit(), &bytes(4)),
    );
}

#[test]
fn a_data_segment_above_the_declared_length_is_a_violation() {
    let mut it = Stand::logged_in(&[("MaxRecvDataSegmentLength", "4096")]);
    it.initiator.negotiated.max_recv_data_segment_length = 1024;
    let task = it.scsi(Direction::In(4096));
    it.sent();
    breaks(
        Rule::DataSegmentTooLong,
        it.give(it.data_in(task, 0, 0).emit(), &bytes(1028)),
    );
}

/// Immediate, unsolicited and solicited data of one write, cut to the target's segment length.
#[test]
fn a_write_uses_every_phase_that_was_negotiated() {
    let mut it = Stand::logged_in(&[
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
        ("FirstBurstLength", "2048"),
        ("MaxBurstLength", "4096"),
        ("MaxRecvDataSegmentLength", "1000"),
        ("MaxOutstandingR2T", "2"),
    ]);
    let data = bytes(7000);
    let task = it.scsi(Direction::Out(DataOut::new(data.clone())));
    let sent = it.sent();
    let command = ScsiCommand::parse(&sent[0].bhs).unwrap();
    assert!(command.write && !command.final_ && sent[0].data == data[..1000]);
    let outs = |pdus: &[Pdu], ttt: Ttt, start: u32, end: u32| {
        let mut at = start;
        for (data_sn, pdu) in (0..).zip(pdus) {
            let out = ScsiDataOut::parse(&pdu.bhs);
            assert_eq!(
                (out.ttt, out.data_sn, out.buffer_offset, out.lun),
                (ttt, data_sn, at, LUN)
            );
            let next = at + u32::try_from(pdu.data.len()).unwrap();
            assert_eq!(pdu.data, data[at as usize..next as usize]);
            assert_eq!(out.final_, next == end);
            at = next;
        }
        assert_eq!(at, end);
    };
    outs(&sent[1..], Ttt::RESERVED, 1000, 2048);
    it.give(it.r2t(task, 0, 2048, 2952).emit(), &[]).unwrap();
    it.give(it.r2t(task, 1, 5000, 2000).emit(), &[]).unwrap();
    let sent = it.sent();
    outs(&sent[..3], Ttt(100), 2048, 5000);
    outs(&sent[3..], Ttt(101), 5000, 7000);
    let response = it.response(task, 0, Residual::None);
    it.give(response.emit(), &[]).unwrap();
    assert!(matches!(
        it.initiator.poll_event(),
        Some(Event::Scsi { .. })
    ));
}

#[test]
fn r2t_rules_are_seen_to_break() {
    let check = |rule, change: &dyn Fn(&mut R2t)| {
        let mut it = Stand::logged_in(&[("MaxBurstLength", "1024"), ("MaxOutstandingR2T", "2")]);
        let task = it.scsi(Direction::Out(DataOut::solicited(bytes(4096))));
        it.sent();
        it.give(it.r2t(task, 0, 0, 1024).emit(), &[]).unwrap();
        let mut second = it.r2t(task, 1, 1024, 1024);
        change(&mut second);
        breaks(rule, it.give(second.emit(), &[]));
    };
    check(Rule::R2tSn, &|it| it.r2t_sn = 2);
    check(Rule::R2tRange, &|it| it.desired_length = 1025);
    check(Rule::R2tRange, &|it| it.desired_length = 0);
    check(Rule::R2tRange, &|it| it.buffer_offset = 1023);
    check(Rule::R2tRange, &|it| it.buffer_offset = 4000);
    check(Rule::R2tRange, &|it| it.buffer_offset = u32::MAX);
    check(Rule::R2tTag, &|it| it.ttt = Ttt::RESERVED);
    check(Rule::R2tTag, &|it| it.ttt = Ttt(100));
    check(Rule::R2tTag, &|it| it.lun = LunField::default());
    check(Rule::StatSn, &|it| it.stat_sn = it.stat_sn.next());
    let mut it = Stand::logged_in(&[("MaxBurstLength", "1024")]);
    let task = it.scsi(Direction::Out(DataOut::solicited(bytes(4096))));
    it.sent();
    it.give(it.r2t(task, 0, 0, 1024).emit(), &[]).unwrap();
    breaks(
        Rule::MaxOutstandingR2t,
        it.give(it.r2t(task, 1, 1024, 1024).emit(), &[]),
    );
    let mut it = Stand::logged_in(&[]);
    let task = it.scsi(Direction::In(512));
    it.sent();
    breaks(
        Rule::R2tWithoutWrite,
        it.give(it.r2t(task, 0, 0, 512).emit(), &[]),
    );
}

#[test]
fn a_response_waits_for_its_data() {
    let mut it = Stand::logged_in(&[]);
    let task = it.scsi(Direction::Out(DataOut::solicited(bytes(512))));
    it.sent();
    it.give(it.r2t(task, 0, 0, 512).emit(), &[]).unwrap();
    let response = it.response(task, 2, Residual::Underflow(512));
    breaks(
        Rule::ResponseBeforeData,
        it.give(response.emit(), &[0, 1, 0x70]),
    );
    let mut it = Stand::logged_in(&[]);
    let task = it.scsi(Direction::Out(DataOut::solicited(bytes(512))));
    it.sent();
    let response = it.response(task, 0, Residual::None);
    breaks(Rule::MissingData, it.give(response.emit(), &[]));
}

#[test]
fn responses_carry_sense_counts_and_residuals_that_add_up() {
    let check = |rule, status, change: &dyn Fn(&mut ScsiResponse), data: &[u8]| {
        let mut it = Stand::logged_in(&[]);
        let task = it.scsi(Direction::In(512));
        it.sent();
        it.give(it.data_in(task, 0, 0).emit(), &bytes(500)).unwrap();
        let mut response = it.response(task, status, Residual::Underflow(12));
        response.exp_data_sn = 1;
        change(&mut response);
        let result = it.give(response.emit(), data);
        match rule {
            Some(rule) => breaks(rule, result),
            None => result.unwrap(),
        }
        it.initiator.poll_event()
    };
    let sense = [
        0, 18, 0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0, 0, 0,
    ];
    let event = check(None, 2, &|_| {}, &sense);
    let Some(Event::Scsi { outcome, .. }) = event else {
        panic!("no end")
    };
    assert_eq!(outcome.sense_code(), Some((5, 0x24, 0)));
    assert!(check(None, 0, &|_| {}, &[]).is_some());
    check(Some(Rule::Sense), 2, &|_| {}, &[]);
    check(Some(Rule::Sense), 2, &|_| {}, &[0, 19, 0x70]);
    check(Some(Rule::ExpDataSn), 0, &|it| it.exp_data_sn = 0, &[]);
    check(Some(Rule::ExpDataSn), 0, &|it| it.exp_data_sn = 2, &[]);
    check(
        Some(Rule::Residual),
        0,
        &|it| it.residual = Residual::None,
        &[],
    );
    check(
        Some(Rule::Residual),
        0,
        &|it| it.residual = Residual::Underflow(13),
        &[],
    );
    check(
        Some(Rule::Residual),
        0,
        &|it| it.residual = Residual::Overflow(1),
        &[],
    );
    check(
        Some(Rule::Residual),
        2,
        &|it| it.residual = Residual::Underflow(513),
        &sense,
    );
    check(
        Some(Rule::StatSn),
        0,
        &|it| it.stat_sn = it.stat_sn.minus(1),
        &[],
    );
}

#[test]
fn a_bidirectional_command_carries_its_lengths() {
    let mut it = Stand::logged_in(&[("ImmediateData", "No")]);
    let data = Direction::Both(DataOut::new(bytes(8)), 16);
    let command = Scsi {
        cdb: bytes(32),
        ..Scsi::new(3, &[], data)
    };
    it.initiator.submit(Command::Scsi(command));
    let mut out = Vec::new();
    it.initiator.poll_transmit(&mut out);
    let command = Bhs::new(*out.first_chunk().unwrap());
    assert_eq!((command.total_ahs_length(), out.len()), (28, 48 + 28));
    assert_eq!(out[48..52], [0, 17, 1, 0]);
    assert_eq!(out[52..68], bytes(32)[16..]);
    assert_eq!(out[68..], [0, 5, 2, 0, 0, 0, 0, 16]);
}
