//! Requests beside SCSI: NOP, text, logout, what is rejected, and who is silent for too long.

use std::time::Duration;

use super::by_hand::{GOOD, next_r2t, next_reject, next_status, send, solicited, write_by_hand};
use super::served::{BLOCK, INITIATOR, Served, TARGET, TIMEOUT, config, login, pattern, target};
use iiblockdaemon::pdu::{
    BHS_LEN, Bhs, Cid, Isid, Itt, LoginRequest, LogoutReason, LogoutResponseCode, LunField,
    RejectReason, Snack, SnackType, Stage, TextRequest, Tsih, Ttt,
};
use iiblockdaemon::testing::tcp::TcpInitiator;
use iiblockdaemon::testing::{self, Command, Direction, Event, Nop, RawPdu, Scsi};

#[test]
fn pings_come_back_as_far_as_they_may() {
    let served = Served::start(config());
    let mut it = served.session(login().with_key("MaxRecvDataSegmentLength", "1024"));
    for (bytes, immediate) in [
        (0, true),
        (1, false),
        (1023, true),
        (1024, false),
        (5000, true),
    ] {
        let data = pattern(bytes, 1);
        let nop = Nop {
            immediate,
            data: data.clone(),
        };
        let task = it.submit(Command::Nop(nop)).unwrap();
        let Event::Nop { data: back, .. } = it.wait(task).unwrap() else {
            panic!("no echo");
        };
        assert_eq!(back, data[..bytes.min(1024)]);
    }
}

#[test]
fn a_silent_initiator_is_pinged_and_its_answer_keeps_the_session() {
    let mut config = config();
    config.limits.nop_interval = Some(Duration::from_millis(150));
    config.limits.nop_timeout = TIMEOUT;
    let served = Served::start(config);
    let mut it = served.session(login());
    for _ in 0..3 {
        let event = it.next_event().unwrap();
        let Event::NopIn { ttt, data, .. } = event else {
            panic!("{event:?}");
        };
        assert!(!ttt.is_reserved() && data.is_empty());
        it.flush().unwrap();
    }
    it.read_blocks(0, 0, 1, BLOCK).unwrap();
}

#[test]
fn an_initiator_that_does_not_answer_pings_loses_its_session() {
    let mut config = config();
    config.limits.nop_interval = Some(Duration::from_millis(150));
    config.limits.nop_timeout = Duration::from_millis(150);
    let served = Served::start(config);
    let mut it = served.session(testing::Config {
        answer_nop_in: false,
        ..login()
    });
    assert!(matches!(it.next_event().unwrap(), Event::NopIn { .. }));
    it.wait_closed().unwrap();
}

#[test]
fn an_initiator_that_owes_data_loses_its_session() {
    let mut config = config();
    config.limits.no_progress_timeout = Duration::from_millis(150);
    let served = Served::start(config);
    let mut it = served.session(solicited());
    let command = write_by_hand(&mut it, 0, 8);
    send(&mut it, &command, &[]);
    next_r2t(&mut it);
    it.wait_closed().unwrap();
}

#[test]
fn text_is_negotiated_and_continued() {
    let mut config = config();
    for n in 0..40 {
        let name = format!("iqn.2026-11.io.iiblockdaemon.quite.a.long.name:{n:04}");
        config.targets.push(target(&name, &[(0, 0)]));
    }
    let served = Served::start(config);
    let answer = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
    let mut it = served.session(login().with_key("MaxRecvDataSegmentLength", "512"));
    assert_eq!(
        it.text(&[("X-a.b", "1")]).unwrap(),
        answer("X-a.b", "NotUnderstood")
    );
    // In a normal session: this target, and no other.
    let own = it.text(&[("SendTargets", "")]).unwrap();
    assert_eq!(own[0], ("TargetName".into(), TARGET.into()));
    assert_eq!(own.iter().filter(|(key, _)| key == "TargetName").count(), 1);
    // All of them take many responses of 512 bytes.
    let discovery =
        testing::Config::discovery(INITIATOR).with_key("MaxRecvDataSegmentLength", "512");
    let all = TcpInitiator::discover(served.address(), discovery, TIMEOUT).unwrap();
    assert_eq!(all.len(), 41);
    let address = format!("{},1", served.address());
    assert!(
        all.iter()
            .all(|(_, addresses)| *addresses == [address.clone()])
    );
    // The initiator may take more from now on.
    assert_eq!(
        it.text(&[("MaxRecvDataSegmentLength", "4096")]).unwrap(),
        []
    );
    // What belongs to login is rejected, and its CmdSN is free again (RFC 7143 §7.3).
    let text = TextRequest {
        immediate: false,
        final_: true,
        continue_: false,
        lun: LunField([0; 8]),
        itt: it.engine().take_raw_tag(),
        ttt: Ttt::RESERVED,
        cmd_sn: it.engine().take_cmd_sn(false),
        exp_stat_sn: it.engine().numbers().exp_stat_sn,
    };
    it.send_pdu(&RawPdu::new(text.emit(), b"HeaderDigest=CRC32C\0".to_vec()))
        .unwrap();
    assert_eq!(next_reject(&mut it).0, RejectReason::ProtocolError);
    it.send_pdu(&RawPdu::new(text.emit(), b"X-c=1\0".to_vec()))
        .unwrap();
    assert_eq!(it.next_raw().unwrap().data, b"X-c=NotUnderstood\0");
    // A tag that we did not give.
    let stray = TextRequest {
        ttt: Ttt(0x1234),
        immediate: true,
        ..text
    };
    it.send_pdu(&RawPdu::new(stray.emit(), Vec::new())).unwrap();
    assert_eq!(next_reject(&mut it).0, RejectReason::ProtocolError);
    it.read_blocks(0, 0, 1, BLOCK).unwrap();
}

#[test]
fn what_does_not_belong_here_is_rejected_with_its_header() {
    let served = Served::start(config());
    let mut it = served.session(login());
    let numbers = it.engine().numbers();
    let second_login = LoginRequest {
        transit: true,
        continue_: false,
        csg: Stage::LoginOperationalNegotiation,
        nsg: Stage::FullFeaturePhase,
        version_max: 0,
        version_min: 0,
        isid: Isid([0x80, 0, 0, 0, 0, 1]),
        tsih: Tsih(0),
        itt: Itt(99),
        cid: Cid(0),
        cmd_sn: numbers.cmd_sn,
        exp_stat_sn: numbers.exp_stat_sn,
    };
    let snack = Snack {
        type_: SnackType::Status,
        lun: LunField([0; 8]),
        itt: Itt::RESERVED,
        ttt: Ttt::RESERVED,
        exp_stat_sn: numbers.exp_stat_sn,
        beg_run: 0,
        run_length: 0,
    };
    let unknown = |opcode: u8| {
        let mut bytes = [0; BHS_LEN];
        bytes[0] = opcode;
        bytes[16..20].copy_from_slice(&77_u32.to_be_bytes());
        Bhs::new(bytes)
    };
    let mut reserved_tag = write_by_hand(&mut it, 0, 1);
    reserved_tag.itt = Itt::RESERVED;
    for (bhs, data, wanted) in [
        (
            second_login.emit(),
            b"X=1\0".to_vec(),
            RejectReason::ProtocolError,
        ),
        (snack.emit(), Vec::new(), RejectReason::SnackReject),
        (
            unknown(0x1c),
            vec![1, 2, 3],
            RejectReason::CommandNotSupported,
        ),
        (unknown(0x0b), Vec::new(), RejectReason::CommandNotSupported),
        // One of the target's own.
        (unknown(0x21), Vec::new(), RejectReason::CommandNotSupported),
        (
            reserved_tag.emit(),
            Vec::new(),
            RejectReason::InvalidPduField,
        ),
    ] {
        let length = u32::try_from(data.len()).unwrap();
        it.send_pdu(&RawPdu::new(bhs, data)).unwrap();
        let (reason, header) = next_reject(&mut it);
        assert_eq!(reason, wanted);
        assert_eq!(header, bhs.with_lengths(0, length));
    }
    // The CmdSN of the command with the reserved tag is still free.
    reserved_tag.itt = it.engine().take_raw_tag();
    send(&mut it, &reserved_tag, &[5; 512]);
    assert_eq!(next_status(&mut it), GOOD);
}

#[test]
fn a_discovery_session_serves_no_scsi() {
    let served = Served::start(config());
    let mut it = TcpInitiator::connect(
        served.address(),
        testing::Config::discovery(INITIATOR),
        TIMEOUT,
    )
    .unwrap();
    let task = it
        .submit(Command::Scsi(Scsi::new(0, &[0; 6], Direction::None)))
        .unwrap();
    match it.wait(task).unwrap() {
        Event::Reject { reason, .. } => assert_eq!(reason, RejectReason::ProtocolError),
        other => panic!("{other:?}"),
    }
}

#[test]
fn logout_closes_what_it_names() {
    let served = Served::start(config());
    let response = |it: &mut TcpInitiator, reason, cid| {
        let task = it.submit(Command::Logout { reason, cid }).unwrap();
        match it.wait(task).unwrap() {
            Event::Logout { response, .. } => response,
            other => panic!("{other:?}"),
        }
    };
    let with_cid = testing::Config {
        cid: Cid(7),
        ..login()
    };
    let mut it = served.session(with_cid.clone());
    let code = response(&mut it, LogoutReason::CloseConnection, Cid(8));
    assert_eq!(code, LogoutResponseCode::CidNotFound);
    let code = response(&mut it, LogoutReason::RemoveConnectionForRecovery, Cid(7));
    assert_eq!(code, LogoutResponseCode::RecoveryNotSupported);
    it.read_blocks(0, 0, 1, BLOCK).unwrap();
    let code = response(&mut it, LogoutReason::CloseConnection, Cid(7));
    assert_eq!(code, LogoutResponseCode::Closed);
    it.wait_closed().unwrap();
    let mut it = served.session(with_cid);
    let code = response(&mut it, LogoutReason::CloseSession, Cid(99));
    assert_eq!(code, LogoutResponseCode::Closed);
    it.wait_closed().unwrap();
}
