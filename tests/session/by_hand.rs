//! PDUs that are made and looked at by hand: what the initiator of `testing` would not send, or
//! would not show.

use super::served::{BLOCK, login};
use iiblockdaemon::pdu::{
    Bhs, LunField, Opcode, R2t, RejectReason, ScsiCommand, ScsiDataOut, ScsiResponse,
    TaskAttribute, Ttt,
};
use iiblockdaemon::testing::tcp::{TcpInitiator, write_16};
use iiblockdaemon::testing::{self, Direction, Event, Pdu, RawPdu, Scsi, ScsiOutcome};

pub(crate) const ABORTED_COMMAND: u8 = 0x0b;
pub(crate) const UNEXPECTED_UNSOLICITED_DATA: (u8, u8, u8) = (ABORTED_COMMAND, 0x0c, 0x0c);
pub(crate) const INCORRECT_AMOUNT_OF_DATA: (u8, u8, u8) = (ABORTED_COMMAND, 0x0c, 0x0d);
pub(crate) const PROTOCOL_SERVICE_CRC_ERROR: (u8, u8, u8) = (ABORTED_COMMAND, 0x47, 0x05);

/// Status, and sense key, ASC and ASCQ if there are sense data.
pub(crate) type Ending = (u8, Option<(u8, u8, u8)>);

pub(crate) fn solicited() -> testing::Config {
    login().with_key("InitialR2T", "Yes")
}

/// A WRITE (16) or READ (16) to be sent by hand; the rest is the caller's to change.
pub(crate) fn by_hand(it: &mut TcpInitiator, cdb: [u8; 16], bytes: u32) -> ScsiCommand {
    let itt = it.engine().take_raw_tag();
    let cmd_sn = it.engine().take_cmd_sn(false);
    ScsiCommand {
        immediate: false,
        final_: true,
        read: cdb[0] == 0x88,
        write: cdb[0] == 0x8a,
        attribute: TaskAttribute::Simple,
        priority: 0,
        lun: LunField([0; 8]),
        itt,
        expected_data_transfer_length: bytes,
        cmd_sn,
        exp_stat_sn: it.engine().numbers().exp_stat_sn,
        cdb,
    }
}

pub(crate) fn write_by_hand(it: &mut TcpInitiator, lba: u64, blocks: u32) -> ScsiCommand {
    by_hand(it, write_16(lba, blocks, false), blocks * BLOCK)
}

pub(crate) fn send(it: &mut TcpInitiator, command: &ScsiCommand, data: &[u8]) {
    it.send_pdu(&RawPdu::new(command.emit(), data.to_vec()))
        .unwrap();
}

/// A Data-Out PDU for a command that was sent by hand.
pub(crate) fn data_out(
    it: &mut TcpInitiator,
    of: &ScsiCommand,
    ttt: Ttt,
    offset: u32,
) -> ScsiDataOut {
    ScsiDataOut {
        final_: true,
        lun: of.lun,
        itt: of.itt,
        ttt,
        exp_stat_sn: it.engine().numbers().exp_stat_sn,
        data_sn: 0,
        buffer_offset: offset,
    }
}

pub(crate) fn send_data(it: &mut TcpInitiator, pdu: &ScsiDataOut, data: &[u8]) {
    it.send_pdu(&RawPdu::new(pdu.emit(), data.to_vec()))
        .unwrap();
}

pub(crate) fn next_r2t(it: &mut TcpInitiator) -> R2t {
    let pdu = it.next_raw().unwrap();
    assert_eq!(pdu.bhs.opcode(), Ok(Opcode::R2t));
    R2t::parse(&pdu.bhs)
}

/// Status and sense of the SCSI Response that comes next for a command sent by hand.
pub(crate) fn next_status(it: &mut TcpInitiator) -> Ending {
    let Pdu { bhs, data } = it.next_raw().unwrap();
    assert_eq!(bhs.opcode(), Ok(Opcode::ScsiResponse));
    let response = ScsiResponse::parse(&bhs).unwrap();
    let sense = data.get(2..).filter(|sense| sense.len() >= 14);
    let code = sense.map(|sense| (sense[2] & 0x0f, sense[12], sense[13]));
    (response.status, code)
}

pub(crate) const GOOD: Ending = (0, None);

pub(crate) fn check_condition(code: (u8, u8, u8)) -> Ending {
    (2, Some(code))
}

pub(crate) fn next_reject(it: &mut TcpInitiator) -> (RejectReason, Bhs) {
    match it.find_event(|event| matches!(event, Event::Reject { .. })) {
        Ok(Event::Reject { reason, header, .. }) => (reason, header),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn execute(it: &mut TcpInitiator, cdb: &[u8], data: Direction) -> ScsiOutcome {
    it.execute(Scsi::new(0, cdb, data)).unwrap()
}
