//! Reservations of nexuses on different cores (SPC-4 §5.9), and what the cluster validation of
//! Windows does with them, as its log and Microsoft's descriptions have it.

use super::acts::{attention, other, settle};
use super::served::{BLOCK, Served, TARGET, login, pattern, two_cores, until};
use iiblockdaemon::iscsi::session::Guard;
use iiblockdaemon::testing::tcp::{TcpInitiator, write_16};
use iiblockdaemon::testing::{self, Command, DataOut, Direction, Event, Scsi};

const GOOD: u8 = 0x00;
const CHECK_CONDITION: u8 = 0x02;
const RESERVATION_CONFLICT: u8 = 0x18;

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const REGISTER_AND_IGNORE: u8 = 6;

/// Write Exclusive, Registrants Only: what clusters of Windows use.
const REGISTRANTS_ONLY: u8 = 5;
const EXCLUSIVE_ACCESS: u8 = 3;

const RESERVATIONS_PREEMPTED: (u8, u8, u8) = (6, 0x2a, 0x03);
const RESERVATIONS_RELEASED: (u8, u8, u8) = (6, 0x2a, 0x04);
const COMMANDS_CLEARED: (u8, u8, u8) = (6, 0x2f, 0x00);
const REGISTRATIONS_PREEMPTED: (u8, u8, u8) = (6, 0x2a, 0x05);

const APTPL: u8 = 1;

const NODE_A: &str = "iqn.1991-05.com.microsoft:node-a";
const NODE_B: &str = "iqn.1991-05.com.microsoft:node-b";

/// Keys as the wizard's log shows them.
const KEY_A: u64 = 0x3_0000_000a;
const KEY_B: u64 = 0x3_0000_000b;
const KEY_A_ANEW: u64 = 0x3_0000_000c;

fn out_command(action: u8, kind: u8, key: u64, new_key: u64, flags: u8) -> Scsi {
    let mut list = vec![0; 24];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&new_key.to_be_bytes());
    list[20] = flags;
    let cdb = [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0];
    Scsi::new(0, &cdb, Direction::Out(DataOut::new(list)))
}

/// PERSISTENT RESERVE OUT; its status.
fn out(it: &mut TcpInitiator, action: u8, kind: u8, keys: (u64, u64)) -> u8 {
    let command = out_command(action, kind, keys.0, keys.1, 0);
    it.execute(command).unwrap().status
}

fn read(it: &mut TcpInitiator, action: u8) -> Vec<u8> {
    let cdb = [0x5e, action, 0, 0, 0, 0, 0, 0x10, 0, 0];
    let outcome = it.execute_good(Scsi::new(0, &cdb, Direction::In(4096)));
    outcome.unwrap().data_in
}

/// READ KEYS.
fn keys(it: &mut TcpInitiator) -> Vec<u64> {
    let data = read(it, 0);
    let keys = data[8..].chunks(8);
    keys.map(|key| u64::from_be_bytes(key.try_into().unwrap()))
        .collect()
}

/// READ RESERVATION: key and type.
fn reservation(it: &mut TcpInitiator) -> Option<(u64, u8)> {
    let data = read(it, 1);
    let key = data.get(8..16)?.try_into().unwrap();
    Some((u64::from_be_bytes(key), data[21]))
}

fn write_status(it: &mut TcpInitiator) -> u8 {
    let data = Direction::Out(DataOut::new(pattern(BLOCK as usize, 3)));
    it.execute(Scsi::new(0, &write_16(5, 1, false), data))
        .unwrap()
        .status
}

fn read_status(it: &mut TcpInitiator) -> u8 {
    let cdb = testing::tcp::read_16(5, 1);
    let command = Scsi::new(0, &cdb, Direction::In(BLOCK));
    it.execute(command).unwrap().status
}

/// What TEST UNIT READY says first.
fn told(it: &mut TcpInitiator) -> Option<(u8, u8, u8)> {
    let outcome = it.execute(Scsi::new(0, &[0; 6], Direction::None));
    outcome.unwrap().sense_code()
}

fn node(served: &Served, core: usize, name: &str) -> TcpInitiator {
    served.session_on(core, testing::Config::new(name, TARGET), &[0])
}

fn ignore_and_register(it: &mut TcpInitiator, key: u64, flags: u8) -> u8 {
    let command = out_command(REGISTER_AND_IGNORE, 0, 0, key, flags);
    it.execute(command).unwrap().status
}

/// What was left by another cluster is cleared away.
fn clear_what_was_left(a: &mut TcpInitiator, b: &mut TcpInitiator) {
    assert_eq!(ignore_and_register(b, 99, 0), GOOD);
    assert_eq!(out(b, RESERVE, REGISTRANTS_ONLY, (99, 0)), GOOD);
    assert_eq!(ignore_and_register(a, KEY_A, 0), GOOD);
    assert_eq!(out(a, CLEAR, 0, (KEY_A, 0)), GOOD);
    assert_eq!(told(b), Some(RESERVATIONS_PREEMPTED));
    assert_eq!((keys(a), reservation(b)), (vec![], None));
}

/// Each node registers, first as for a restart, then not.
fn register_both(a: &mut TcpInitiator, b: &mut TcpInitiator) {
    for flags in [APTPL, 0] {
        assert_eq!(ignore_and_register(a, KEY_A, flags), GOOD);
        assert_eq!(read(a, 2)[3] & 1, flags, "PTPL_A");
    }
    assert_eq!(ignore_and_register(b, KEY_B, 0), GOOD);
    assert_eq!(keys(b), [KEY_A, KEY_B]);
}

/// Node A owns the disk; registered node B writes, an unregistered one does not.
fn own_and_share(a: &mut TcpInitiator, b: &mut TcpInitiator) {
    assert_eq!(out(a, RESERVE, REGISTRANTS_ONLY, (KEY_A, 0)), GOOD);
    assert_eq!(reservation(b), Some((KEY_A, 5)));
    assert_eq!(
        out(b, RESERVE, REGISTRANTS_ONLY, (KEY_B, 0)),
        RESERVATION_CONFLICT
    );
    assert_eq!(write_status(b), GOOD);
    assert_eq!(out(b, REGISTER, 0, (KEY_B, 0)), GOOD);
    assert_eq!(write_status(b), RESERVATION_CONFLICT);
    assert_eq!(read_status(b), GOOD);
    assert_eq!(told(b), None, "TEST UNIT READY does not conflict");
}

/// The owner changes its key and holds the disk under the new one; its release is told.
fn change_key_and_release(a: &mut TcpInitiator, b: &mut TcpInitiator) {
    assert_eq!(out(a, REGISTER, 0, (KEY_A, KEY_A_ANEW)), GOOD);
    assert_eq!(out(a, REGISTER, 0, (KEY_A, KEY_A)), RESERVATION_CONFLICT);
    assert_eq!(reservation(b), Some((KEY_A_ANEW, 5)));

    // A release is told to the other registrant.
    assert_eq!(ignore_and_register(b, KEY_B, 0), GOOD);
    assert_eq!(
        out(a, RELEASE, EXCLUSIVE_ACCESS, (KEY_A_ANEW, 0)),
        CHECK_CONDITION
    );
    assert_eq!(out(a, RELEASE, REGISTRANTS_ONLY, (KEY_A_ANEW, 0)), GOOD);
    assert_eq!(told(b), Some(RESERVATIONS_RELEASED));
    assert_eq!(reservation(b), None);
    assert_eq!(out(a, RESERVE, REGISTRANTS_ONLY, (KEY_A_ANEW, 0)), GOOD);
}

#[test]
fn windows_cluster_validation_finds_what_it_wants() {
    let served = Served::start(two_cores());
    let mut a = node(&served, 0, NODE_A);
    let mut b = node(&served, 1, NODE_B);
    clear_what_was_left(&mut a, &mut b);
    register_both(&mut a, &mut b);
    own_and_share(&mut a, &mut b);
    change_key_and_release(&mut a, &mut b);

    // Node A falls silent. Its reservation stays until node B takes the disk over.
    drop(a);
    settle(&mut [&mut b]);
    assert_eq!(reservation(&mut b), Some((KEY_A_ANEW, 5)));
    assert_eq!(
        out(&mut b, PREEMPT, REGISTRANTS_ONLY, (KEY_B, KEY_A_ANEW)),
        GOOD
    );
    assert_eq!(
        (keys(&mut b), reservation(&mut b)),
        (vec![KEY_B], Some((KEY_B, 5)))
    );
    assert_eq!(write_status(&mut b), GOOD);

    // Node A comes back, is nobody, registers and takes over with PREEMPT AND ABORT.
    let mut a = node(&served, 0, NODE_A);
    assert_eq!(write_status(&mut a), RESERVATION_CONFLICT);
    assert_eq!(
        out(&mut a, REGISTER, 0, (KEY_A_ANEW, 0)),
        RESERVATION_CONFLICT
    );
    assert_eq!(ignore_and_register(&mut a, KEY_A, 0), GOOD);
    assert_eq!(
        out(&mut a, PREEMPT_AND_ABORT, REGISTRANTS_ONLY, (KEY_A, KEY_B)),
        GOOD
    );
    assert_eq!(told(&mut b), Some(REGISTRATIONS_PREEMPTED));
    assert_eq!(write_status(&mut b), RESERVATION_CONFLICT);
    assert_eq!(out(&mut b, CLEAR, 0, (KEY_B, 0)), RESERVATION_CONFLICT);
    assert_eq!(reservation(&mut b), Some((KEY_A, 5)));

    // The end: unregistered, the disk is free.
    assert_eq!(out(&mut a, REGISTER, 0, (KEY_A, 0)), GOOD);
    assert_eq!((keys(&mut b), reservation(&mut b)), (vec![], None));
    assert_eq!(write_status(&mut b), GOOD);
}

/// How many writes on the other core still got through after a reservation was acknowledged.
fn writes_past_a_reservation(served: &Served) -> usize {
    let mut owner = served.session(login());
    let mut stranger = served.session_on(1, other(1), &[0]);
    let mut past = 0;
    for round in 0..20_u64 {
        let key = round + 1;
        assert_eq!(ignore_and_register(&mut owner, key, 0), GOOD);
        assert_eq!(out(&mut owner, RESERVE, EXCLUSIVE_ACCESS, (key, 0)), GOOD);
        past += usize::from(write_status(&mut stranger) != RESERVATION_CONFLICT);
        assert_eq!(out(&mut owner, CLEAR, 0, (key, 0)), GOOD);
        assert_eq!(write_status(&mut stranger), GOOD);
    }
    past
}

#[test]
fn a_reservation_that_was_acknowledged_is_obeyed_on_every_core() {
    assert_eq!(writes_past_a_reservation(&Served::start(two_cores())), 0);
}

#[test]
fn a_core_that_does_not_hear_of_reservations_is_noticed() {
    // LUN 0 is unit 0, whose home is the first core: the second is the one that misses it.
    let served = Served::start(two_cores()).without(Guard::EveryReplicaApplies);
    assert_eq!(writes_past_a_reservation(&served), 20);
}

/// SPC-4 §5.9.11.5: PREEMPT AND ABORT is answered when nothing of the victim's is at the device.
#[test]
fn preempt_and_abort_waits_for_the_victims_write_and_nobody_answers_it() {
    let served = Served::start(two_cores());
    let mut taker = served.session(login());
    let mut victim = served.session_on(1, other(1), &[0]);
    assert_eq!(ignore_and_register(&mut taker, 1, 0), GOOD);
    assert_eq!(ignore_and_register(&mut victim, 2, 0), GOOD);
    assert_eq!(out(&mut victim, RESERVE, EXCLUSIVE_ACCESS, (2, 0)), GOOD);
    served.faults[0].hold_writes(true);
    let data = Direction::Out(DataOut::new(pattern(BLOCK as usize, 7)));
    let write = Command::Scsi(Scsi::new(0, &write_16(5, 1, false), data));
    let held = victim.submit(write).unwrap();
    until(&mut victim, || served.faults[0].held() == 1);
    let command = out_command(PREEMPT_AND_ABORT, EXCLUSIVE_ACCESS, 1, 2, 0);
    let preempt = taker.submit(Command::Scsi(command)).unwrap();
    settle(&mut [&mut taker, &mut victim]);
    assert!(
        !taker.has_ended(preempt),
        "the write is still at the device"
    );
    served.faults[0].hold_writes(false);
    let Event::Scsi { outcome, .. } = taker.wait(preempt).unwrap() else {
        panic!("a SCSI Response");
    };
    assert!(outcome.is_good());
    settle(&mut [&mut victim]);
    assert!(!victim.has_ended(held), "aborted, and TAS is zero");
    assert_eq!(told(&mut victim), Some(COMMANDS_CLEARED));
    assert_eq!(told(&mut victim), Some(REGISTRATIONS_PREEMPTED));
    assert_eq!(write_status(&mut victim), RESERVATION_CONFLICT);
    assert_eq!(write_status(&mut taker), GOOD);
}

/// SPC-2 §5.5.1: RESERVE ends with its session, persistent reservations do not.
#[test]
fn reserve_of_a_session_that_ends_is_gone_on_every_core() {
    let served = Served::start(two_cores());
    let mut far = served.session_on(1, other(1), &[0]);
    for round in 0..20 {
        let mut owner = served.session(login());
        owner
            .execute_good(Scsi::new(0, &[0x16, 0, 0, 0, 0, 0], Direction::None))
            .unwrap();
        assert_eq!(read_status(&mut far), RESERVATION_CONFLICT, "round {round}");
        if round % 2 == 0 {
            owner.logout().unwrap();
        } else {
            drop(owner);
        }
        let mut tries = 0;
        while read_status(&mut far) == RESERVATION_CONFLICT {
            tries += 1;
            assert!(tries < 100_000, "the reservation of a dead session stays");
        }
        assert_eq!(attention(&mut far, 0), None);
    }
}
