//! Wrong digests: of a header, of a command, of Data-Out (RFC 7143 §7.3, §7.8).

use super::by_hand::{
    Ending, GOOD, PROTOCOL_SERVICE_CRC_ERROR, by_hand, check_condition, data_out, next_r2t,
    next_reject, next_status, send, send_data, solicited, write_by_hand,
};
use super::served::{BLOCK, Served, config, login, pattern, ping};
use iiblockdaemon::iscsi::session::Guard;
use iiblockdaemon::pdu::{Bhs, LunField, NopOut, RejectReason, TextRequest, Ttt};
use iiblockdaemon::testing::tcp::{Failure, read_16};
use iiblockdaemon::testing::{DigestMode, RawPdu};

#[test]
fn a_wrong_header_digest_ends_the_connection() {
    let served = Served::start(config());
    let mut it = served.session(login().with_digests(true, true));
    let command = by_hand(&mut it, read_16(0, 1), BLOCK);
    let pdu = RawPdu {
        header_digest: DigestMode::Wrong,
        ..RawPdu::new(command.emit(), Vec::new())
    };
    it.send_pdu(&pdu).unwrap();
    it.wait_closed().unwrap();
    assert!(
        matches!(it.next_event(), Err(Failure::Closed)),
        "it was answered"
    );
}

fn with_wrong_data_digest(bhs: Bhs, data: Vec<u8>) -> RawPdu {
    RawPdu {
        data_digest: DigestMode::Wrong,
        ..RawPdu::new(bhs, data)
    }
}

/// RFC 7143 §7.8, §7.3: the PDU is rejected with its header; a command counts as not received.
#[test]
fn a_wrong_data_digest_rejects_the_pdu_and_leaves_its_cmd_sn_to_the_next() {
    let served = Served::start(config());
    let mut it = served.session(login().with_digests(true, true));
    it.write_blocks(0, 0, &pattern(512, 1), BLOCK).unwrap();
    let good = pattern(512, 2);
    let command = write_by_hand(&mut it, 0, 1);
    for _ in 0..3 {
        it.send_pdu(&with_wrong_data_digest(command.emit(), good.clone()))
            .unwrap();
        let (reason, header) = next_reject(&mut it);
        assert_eq!(reason, RejectReason::DataDigestError);
        assert_eq!(header, command.emit().with_lengths(0, 512));
    }
    ping(&mut it).unwrap();
    assert_eq!(it.engine().numbers().exp_cmd_sn, command.cmd_sn);
    send(&mut it, &command, &good);
    assert_eq!(next_status(&mut it), GOOD);
    let numbers = it.engine().numbers();
    let itt = it.engine().take_raw_tag();
    let nop = NopOut {
        immediate: false,
        lun: LunField([0; 8]),
        itt,
        ttt: Ttt::RESERVED,
        cmd_sn: it.engine().take_cmd_sn(false),
        exp_stat_sn: numbers.exp_stat_sn,
    };
    it.send_pdu(&with_wrong_data_digest(nop.emit(), vec![1; 9]))
        .unwrap();
    assert_eq!(next_reject(&mut it).0, RejectReason::DataDigestError);
    it.send_pdu(&RawPdu::new(nop.emit(), vec![1; 9])).unwrap();
    assert_eq!(it.next_raw().unwrap().data, [1; 9]);
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
    it.send_pdu(&with_wrong_data_digest(
        text.emit(),
        b"SendTargets=\0".to_vec(),
    ))
    .unwrap();
    assert_eq!(next_reject(&mut it).0, RejectReason::DataDigestError);
    it.send_pdu(&RawPdu::new(text.emit(), b"X-test=1\0".to_vec()))
        .unwrap();
    assert_eq!(it.next_raw().unwrap().data, b"X-test=NotUnderstood\0");
    assert!(it.read_blocks(0, 0, 1, BLOCK).unwrap() == good);
}

/// What became of a block whose Data-Out came with a wrong digest: status, and whether it changed.
fn hurt_data_out(served: &Served) -> (Ending, bool) {
    let mut it = served.session(solicited().with_digests(false, true));
    it.write_blocks(0, 0, &pattern(1024, 1), BLOCK).unwrap();
    let command = write_by_hand(&mut it, 0, 2);
    send(&mut it, &command, &[]);
    let r2t = next_r2t(&mut it);
    let data = pattern(1024, 2);
    let mut pdu = data_out(&mut it, &command, r2t.ttt, 0);
    pdu.final_ = false;
    it.send_pdu(&with_wrong_data_digest(pdu.emit(), data[..512].to_vec()))
        .unwrap();
    pdu.final_ = true;
    pdu.data_sn = 1;
    pdu.buffer_offset = 512;
    send_data(&mut it, &pdu, &data[512..]);
    let status = next_status(&mut it);
    let changed = it.read_blocks(0, 0, 2, BLOCK).unwrap() != pattern(1024, 1);
    (status, changed)
}

#[test]
fn a_write_with_a_hurt_data_out_fails_and_touches_nothing() {
    let wanted = check_condition(PROTOCOL_SERVICE_CRC_ERROR);
    assert_eq!(hurt_data_out(&Served::start(config())), (wanted, false));
}

#[test]
fn data_that_are_used_although_their_digest_is_wrong_are_noticed() {
    let served = Served::start(config()).without(Guard::DataDigest);
    assert_eq!(hurt_data_out(&served), (GOOD, true));
}
