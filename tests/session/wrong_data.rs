//! Data that are not what was asked for: lengths, offsets, numbers, tags (RFC 7143 §7.9, §11.7).

use super::by_hand::{
    Ending, GOOD, INCORRECT_AMOUNT_OF_DATA, PROTOCOL_SERVICE_CRC_ERROR,
    UNEXPECTED_UNSOLICITED_DATA, by_hand, check_condition, data_out, next_r2t, next_status, send,
    send_data, solicited, write_by_hand,
};
use super::served::{BLOCK, Served, config, login, pattern, ping};
use iiblockdaemon::pdu::{Itt, ScsiDataOut, Ttt};
use iiblockdaemon::testing::tcp::read_16;

/// Sends a solicited WRITE of 8 blocks; `spoil` changes the answer to its R2T.
fn spoiled_write(spoil: impl FnOnce(&mut ScsiDataOut, &mut Vec<u8>)) -> Ending {
    let served = Served::start(config());
    let mut it = served.session(solicited());
    it.write_blocks(0, 0, &pattern(4096, 1), BLOCK).unwrap();
    let command = write_by_hand(&mut it, 0, 8);
    send(&mut it, &command, &[]);
    let r2t = next_r2t(&mut it);
    assert_eq!((r2t.buffer_offset, r2t.desired_length), (0, 4096));
    let mut pdu = data_out(&mut it, &command, r2t.ttt, 0);
    let mut data = pattern(4096, 2);
    spoil(&mut pdu, &mut data);
    send_data(&mut it, &pdu, &data);
    let status = next_status(&mut it);
    let on_disk = it.read_blocks(0, 0, 8, BLOCK).unwrap();
    let wanted = if status == GOOD { 2 } else { 1 };
    assert!(
        on_disk == pattern(4096, wanted),
        "a write that failed touched the disk"
    );
    status
}

#[test]
fn a_write_whose_data_are_wrong_fails_and_touches_nothing() {
    assert_eq!(spoiled_write(|_, _| {}), GOOD);
    let short = spoiled_write(|_, data| data.truncate(4092));
    assert_eq!(short, check_condition(INCORRECT_AMOUNT_OF_DATA));
    let empty = spoiled_write(|_, data| data.clear());
    assert_eq!(empty, check_condition(INCORRECT_AMOUNT_OF_DATA));
    let long = spoiled_write(|_, data| data.extend([9; 512]));
    assert_eq!(long, check_condition(INCORRECT_AMOUNT_OF_DATA));
    let offset = spoiled_write(|pdu, _| pdu.buffer_offset = 512);
    assert_eq!(offset, check_condition(PROTOCOL_SERVICE_CRC_ERROR));
    let far = spoiled_write(|pdu, _| pdu.buffer_offset = u32::MAX);
    assert_eq!(far, check_condition(PROTOCOL_SERVICE_CRC_ERROR));
    let data_sn = spoiled_write(|pdu, _| pdu.data_sn = 1);
    assert_eq!(data_sn, check_condition(PROTOCOL_SERVICE_CRC_ERROR));
}

#[test]
fn data_out_that_answers_nothing_is_dropped() {
    let served = Served::start(config());
    let mut it = served.session(solicited());
    let command = write_by_hand(&mut it, 0, 8);
    send(&mut it, &command, &[]);
    let r2t = next_r2t(&mut it);
    let data = pattern(4096, 2);
    // An unknown tag, unsolicited data behind the end of them, an unknown task.
    let stray = data_out(&mut it, &command, Ttt(r2t.ttt.0 ^ 0x55), 0);
    send_data(&mut it, &stray, &[7; 512]);
    let late = data_out(&mut it, &command, Ttt::RESERVED, 0);
    send_data(&mut it, &late, &[7; 512]);
    let mut unknown = data_out(&mut it, &command, r2t.ttt, 0);
    unknown.itt = Itt(0x7777);
    send_data(&mut it, &unknown, &[7; 512]);
    ping(&mut it).unwrap();
    // In two pieces, the way it should be.
    let mut pdu = data_out(&mut it, &command, r2t.ttt, 0);
    pdu.final_ = false;
    send_data(&mut it, &pdu, &data[..1000]);
    pdu.final_ = true;
    pdu.data_sn = 1;
    pdu.buffer_offset = 1000;
    send_data(&mut it, &pdu, &data[1000..]);
    assert_eq!(next_status(&mut it), GOOD);
    assert!(it.read_blocks(0, 0, 8, BLOCK).unwrap() == data);
}

#[test]
fn unsolicited_data_that_were_not_agreed_on_fail_the_command() {
    let served = Served::start(config());
    // F = 0 announces unsolicited data, which InitialR2T=Yes forbids.
    let mut it = served.session(solicited());
    let mut command = write_by_hand(&mut it, 0, 8);
    command.final_ = false;
    send(&mut it, &command, &[]);
    assert_eq!(
        next_status(&mut it),
        check_condition(UNEXPECTED_UNSOLICITED_DATA)
    );
    it.logout().unwrap();
    // Immediate data although ImmediateData=No.
    let mut it = served.session(solicited().with_key("ImmediateData", "No"));
    let command = write_by_hand(&mut it, 0, 8);
    send(&mut it, &command, &[1; 512]);
    assert_eq!(
        next_status(&mut it),
        check_condition(UNEXPECTED_UNSOLICITED_DATA)
    );
    it.logout().unwrap();
    // More than FirstBurstLength, and more than the command expects.
    let mut it = served.session(login().with_key("FirstBurstLength", "1024"));
    let command = write_by_hand(&mut it, 0, 8);
    send(&mut it, &command, &[1; 1536]);
    assert_eq!(
        next_status(&mut it),
        check_condition(INCORRECT_AMOUNT_OF_DATA)
    );
    let command = write_by_hand(&mut it, 0, 1);
    send(&mut it, &command, &[1; 516]);
    assert_eq!(
        next_status(&mut it),
        check_condition(INCORRECT_AMOUNT_OF_DATA)
    );
    let mut command = write_by_hand(&mut it, 0, 8);
    command.final_ = false;
    send(&mut it, &command, &[1; 512]);
    let mut pdu = data_out(&mut it, &command, Ttt::RESERVED, 512);
    pdu.final_ = false;
    send_data(&mut it, &pdu, &[1; 512]);
    pdu.final_ = true;
    pdu.data_sn = 1;
    pdu.buffer_offset = 1024;
    send_data(&mut it, &pdu, &[1; 512]);
    assert_eq!(
        next_status(&mut it),
        check_condition(INCORRECT_AMOUNT_OF_DATA)
    );
    assert!(it.read_blocks(0, 0, 8, BLOCK).unwrap() == [0; 4096]);
    // Data with a command that reads.
    let command = by_hand(&mut it, read_16(0, 1), BLOCK);
    send(&mut it, &command, &[1; 512]);
    assert_eq!(
        next_status(&mut it),
        check_condition(UNEXPECTED_UNSOLICITED_DATA)
    );
    it.logout().unwrap();
}
