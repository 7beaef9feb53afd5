//! Third-party copies: tokens that go from core to core, and copies that a reset or an abort stops
//! at the next piece (SPC-4 §5.17).

use super::acts::{good, manage, other, response, settle};
use super::served::{BLOCK, Served, config, login, pattern, two_cores, until};
use iiblockdaemon::pdu::{TaskManagementFunction as Function, TaskManagementResponseCode as Code};
use iiblockdaemon::testing::tcp::TcpInitiator;
use iiblockdaemon::testing::{Command, DataOut, Direction, Event, Scsi, TaskHandle};

/// Blocks of one piece of a copy.
const PIECE: u32 = 512 * 1024 / BLOCK;
const BLOCKS: u32 = 4 * PIECE;

fn out(lun: u8, service_action: u8, list: Vec<u8>) -> Scsi {
    let mut cdb = [0; 16];
    cdb[..2].copy_from_slice(&[0x83, service_action]);
    cdb[9] = u8::from(service_action != 0x00);
    let bytes = u32::try_from(list.len()).unwrap();
    cdb[10..14].copy_from_slice(&bytes.to_be_bytes());
    Scsi::new(lun, &cdb, Direction::Out(DataOut::new(list)))
}

/// A list of one range, behind a header whose last two bytes are to be its length.
fn with_range(mut list: Vec<u8>, lba: u64, blocks: u32) -> Vec<u8> {
    list.extend([0, 16]);
    list.extend(lba.to_be_bytes());
    list.extend(blocks.to_be_bytes());
    list.extend([0; 4]);
    let length = u16::try_from(list.len() - 2).unwrap();
    list[..2].copy_from_slice(&length.to_be_bytes());
    list
}

/// RECEIVE ROD TOKEN INFORMATION of list 1.
fn information(it: &mut TcpInitiator, lun: u8) -> Vec<u8> {
    let mut cdb = [0; 16];
    cdb[..2].copy_from_slice(&[0x84, 0x07]);
    cdb[5] = 1;
    cdb[12] = 4;
    let receive = Scsi::new(lun, &cdb, Direction::In(1024));
    it.execute_good(receive).unwrap().data_in
}

fn token(it: &mut TcpInitiator, lun: u8, lba: u64, blocks: u32) -> Vec<u8> {
    let list = with_range(vec![0; 14], lba, blocks);
    it.execute_good(out(lun, 0x10, list)).unwrap();
    let data = information(it, lun);
    assert_eq!(data[5], 1, "completed without errors");
    data[data.len() - 512..].to_vec()
}

fn write_using(token: &[u8], lun: u8, lba: u64, blocks: u32) -> Scsi {
    let mut list = vec![0; 534];
    list[16..528].copy_from_slice(token);
    out(lun, 0x11, with_range(list, lba, blocks))
}

/// The last eight bytes of the unit's NAA designator descriptor, which is the first of page 83h.
fn designator(it: &mut TcpInitiator, lun: u8) -> Vec<u8> {
    let inquiry = Scsi::new(lun, &[0x12, 1, 0x83, 1, 0, 0], Direction::In(256));
    let page = it.execute_good(inquiry).unwrap().data_in;
    page[4..8 + usize::from(page[7])].to_vec()
}

/// Copies blocks of LUN 0 to LUN 1; LUN 0 is addressed.
fn extended_copy(it: &mut TcpInitiator) -> TaskHandle {
    let mut list = vec![1, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0];
    for lun in 0..2 {
        let mut cscd = vec![0xe4, 0, 0, 0];
        cscd.extend(designator(it, lun));
        cscd.resize(28, 0);
        cscd.extend(BLOCK.to_be_bytes());
        list.extend(cscd);
    }
    list.extend([0x02, 0, 0, 0x18, 0, 0, 0, 1, 0, 0]);
    list.extend(u16::try_from(BLOCKS).unwrap().to_be_bytes());
    list.extend([0; 16]);
    it.submit(Command::Scsi(out(0, 0x00, list))).unwrap()
}

/// COPY STATUS of list 1 at LUN 0.
fn copy_status(it: &mut TcpInitiator) -> u8 {
    let mut cdb = [0; 16];
    cdb[..3].copy_from_slice(&[0x84, 0x00, 1]);
    cdb[13] = 12;
    let receive = Scsi::new(0, &cdb, Direction::In(12));
    it.execute_good(receive).unwrap().data_in[4]
}

#[test]
fn a_token_of_one_core_is_used_and_deleted_on_another() {
    let served = Served::start(two_cores());
    let mut near = served.session(login());
    let mut far = served.session_on(1, other(1), &[0, 1]);
    let data = pattern(64 * BLOCK as usize, 5);
    near.write_blocks(0, 100, &data, BLOCK).unwrap();
    let token = token(&mut near, 0, 100, 64);
    far.execute_good(write_using(&token, 1, 9, 64)).unwrap();
    assert_eq!(information(&mut far, 1)[5], 1);
    assert!(far.read_blocks(1, 9, 64, BLOCK).unwrap() == data);
    let mut delete = vec![0; 534];
    delete[2] = 0b10;
    delete[16..528].copy_from_slice(&token);
    let delete = out(1, 0x11, with_range(delete, 500, 1));
    far.execute_good(delete).unwrap();
    let outcome = near.execute(write_using(&token, 1, 700, 64)).unwrap();
    assert_eq!(outcome.sense_code(), Some((0x05, 0x23, 0x09)));
    assert!(near.read_blocks(1, 700, 64, BLOCK).unwrap() == vec![0; data.len()]);
}

#[test]
fn an_extended_copy_is_served_beside_other_commands_and_tells_how_it_stands() {
    let served = Served::start(config());
    let mut it = served.session(login());
    let data = pattern((BLOCKS * BLOCK) as usize, 6);
    for (nth, piece) in (0_u64..).zip(data.chunks((PIECE * BLOCK) as usize)) {
        let lba = nth * u64::from(PIECE);
        it.write_blocks(0, lba, piece, BLOCK).unwrap();
    }
    served.faults[1].hold_writes(true);
    let copy = extended_copy(&mut it);
    until(&mut it, || served.faults[1].held() == 1);
    assert_eq!(copy_status(&mut it), 0, "in progress");
    let second = extended_copy(&mut it);
    let refused = it.wait(second).unwrap();
    let Event::Scsi { outcome, .. } = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(outcome.sense_code(), Some((0x05, 0x00, 0x16)), "in use");
    served.faults[1].hold_writes(false);
    assert!(good(&it.wait(copy).unwrap()));
    assert_eq!(copy_status(&mut it), 1, "completed without errors");
    for (nth, piece) in (0_u64..).zip(data.chunks((PIECE * BLOCK) as usize)) {
        let lba = nth * u64::from(PIECE);
        assert!(it.read_blocks(1, lba, PIECE, BLOCK).unwrap() == piece);
    }
}

#[test]
fn a_reset_of_a_unit_stops_copies_to_it_that_address_another() {
    let served = Served::start(two_cores());
    let mut it = served.session(login());
    let mut far = served.session_on(1, other(1), &[0, 1]);
    let data = pattern((PIECE * BLOCK) as usize, 7);
    for nth in 0..4 {
        let lba = nth * u64::from(PIECE);
        it.write_blocks(0, lba, &data, BLOCK).unwrap();
    }
    served.faults[1].hold_writes(true);
    let copy = extended_copy(&mut it);
    until(&mut it, || served.faults[1].held() == 1);
    let reset = manage(&mut far, Function::LogicalUnitReset, 1, None);
    settle(&mut [&mut it, &mut far]);
    assert!(!far.has_ended(reset), "the first piece is at the device");
    served.faults[1].hold_writes(false);
    assert_eq!(response(&mut far, reset), Code::FunctionComplete);
    settle(&mut [&mut it, &mut far]);
    assert!(!it.has_ended(copy), "an aborted task is not answered");
    assert_eq!(copy_status(&mut it), 2, "completed with errors");
    it.clear_unit_attentions(1).unwrap();
    let behind = it.read_blocks(1, u64::from(PIECE), PIECE, BLOCK).unwrap();
    assert!(
        behind == vec![0; data.len()],
        "nothing after the first piece"
    );
}

#[test]
fn an_aborted_copy_writes_no_further_piece() {
    let served = Served::start(config());
    let mut it = served.session(login());
    it.write_blocks(0, u64::from(PIECE), &pattern(BLOCK as usize, 8), BLOCK)
        .unwrap();
    served.faults[1].hold_writes(true);
    let copy = extended_copy(&mut it);
    until(&mut it, || served.faults[1].held() == 1);
    let abort = manage(&mut it, Function::AbortTask, 0, Some(copy));
    settle(&mut [&mut it]);
    assert!(!it.has_ended(abort), "a piece is at the device");
    served.faults[1].hold_writes(false);
    assert_eq!(response(&mut it, abort), Code::FunctionComplete);
    settle(&mut [&mut it]);
    let behind = it.read_blocks(1, u64::from(PIECE), 1, BLOCK).unwrap();
    assert!(behind == vec![0; BLOCK as usize]);
    assert_eq!(copy_status(&mut it), 2);
}

/// Each reset reaches the copy at both of its units, and all of them wait for the same piece.
#[test]
fn many_resets_of_the_target_reach_one_copy() {
    let served = Served::start(config());
    let mut it = served.session(login());
    served.faults[1].hold_writes(true);
    let copy = extended_copy(&mut it);
    until(&mut it, || served.faults[1].held() == 1);
    let resets: Vec<_> = (0..8)
        .map(|_| manage(&mut it, Function::TargetWarmReset, 0, None))
        .collect();
    settle(&mut [&mut it]);
    served.faults[1].hold_writes(false);
    for reset in resets {
        assert_eq!(response(&mut it, reset), Code::FunctionComplete);
    }
    assert!(matches!(it.wait(copy).unwrap(), Event::Aborted { .. }));
    it.clear_unit_attentions(0).unwrap();
}
