//! A Windows failover cluster: what its storage validation and its disk resource do with persistent
//! reservations (SPC-4 §5.13), from Microsoft's public description of the tests.
//!
//! Every node registers a key of its own; the owner of a disk reserves it (write exclusive,
//! registrants only), defends it, and is challenged by preempting; the reservation outlives resets
//! and the loss of a session, and is gone after CLEAR.

use super::host::Host;
use super::served::{BLOCK, Served, pattern, two_cores};
use iiblockdaemon::pdu::{LunField, TaskManagementFunction, TaskManagementResponseCode};
use iiblockdaemon::testing::tcp::{read_16, write_16};
use iiblockdaemon::testing::{DataOut, Direction, TaskManagement};

const NODE_A: &str = "iqn.1991-05.com.microsoft:node-a";
const NODE_B: &str = "iqn.1991-05.com.microsoft:node-b";
const NODE_C: &str = "iqn.1991-05.com.microsoft:node-c";
const KEY_A: u64 = 0x0a00_0000_0000_7366;
const KEY_B: u64 = 0x0b00_0000_0000_7366;
/// Write exclusive, registrants only.
const TYPE: u8 = 0x05;

const REGISTER: u8 = 0x00;
const RESERVE: u8 = 0x01;
const RELEASE: u8 = 0x02;
const CLEAR: u8 = 0x03;
const PREEMPT: u8 = 0x04;
const PREEMPT_AND_ABORT: u8 = 0x05;
const REGISTER_AND_IGNORE: u8 = 0x06;

const REGISTRATIONS_PREEMPTED: (u8, u8, u8) = (0x06, 0x2a, 0x05);
const RESERVATIONS_PREEMPTED: (u8, u8, u8) = (0x06, 0x2a, 0x03);

fn out(action: u8, type_: u8, key: u64, new_key: u64) -> ([u8; 10], Direction) {
    let mut cdb = [0x5f, action, type_, 0, 0, 0, 0, 0, 24, 0];
    if matches!(action, REGISTER | REGISTER_AND_IGNORE | CLEAR) {
        cdb[2] = 0;
    }
    let mut list = vec![0; 24];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&new_key.to_be_bytes());
    (cdb, Direction::Out(DataOut::new(list)))
}

#[track_caller]
fn reserve_out(host: &mut Host, action: u8, key: u64, new_key: u64) {
    let (cdb, list) = out(action, TYPE, key, new_key);
    let outcome = host.run(0, &cdb, list);
    assert!(outcome.is_good(), "{cdb:02x?}: {outcome:02x?}");
}

#[track_caller]
fn conflicts(host: &mut Host, action: u8, key: u64, new_key: u64) {
    let (cdb, list) = out(action, TYPE, key, new_key);
    host.conflicts(0, &cdb, list);
}

/// READ KEYS: the generation and the keys, in ascending order.
fn keys(host: &mut Host) -> (u32, Vec<u64>) {
    let data = host.read(0, &[0x5e, 0, 0, 0, 0, 0, 0, 0x10, 0, 0], 4096);
    let generation = u32::from_be_bytes(data[..4].try_into().unwrap());
    let mut keys: Vec<_> = data[8..]
        .chunks_exact(8)
        .map(|key| u64::from_be_bytes(key.try_into().unwrap()))
        .collect();
    keys.sort_unstable();
    (generation, keys)
}

/// READ RESERVATION: the holder's key and the type.
fn reservation(host: &mut Host) -> Option<(u64, u8)> {
    let data = host.read(0, &[0x5e, 1, 0, 0, 0, 0, 0, 0x10, 0, 0], 4096);
    let key = data.get(8..16)?;
    Some((u64::from_be_bytes(key.try_into().unwrap()), data[21]))
}

fn write(host: &mut Host) -> u8 {
    let data = Direction::Out(DataOut::new(pattern(512, 7)));
    host.run(0, &write_16(100, 1, false), data).status
}

fn read(host: &mut Host) -> u8 {
    host.run(0, &read_16(100, 1), Direction::In(BLOCK)).status
}

const GOOD: u8 = 0x00;
const CONFLICT: u8 = super::host::RESERVATION_CONFLICT;

/// Node A owns the disk, node B has registered, node C has not.
fn owned(served: &Served) -> (Host, Host, Host) {
    let mut a = Host::new(served, 0, NODE_A);
    let mut b = Host::new(served, 1, NODE_B);
    let c = Host::new(served, 1, NODE_C);
    reserve_out(&mut a, REGISTER_AND_IGNORE, 0, KEY_A);
    reserve_out(&mut b, REGISTER, 0, KEY_B);
    reserve_out(&mut a, RESERVE, KEY_A, 0);
    (a, b, c)
}

#[test]
fn registrants_write_and_others_only_read() {
    let served = Served::start(two_cores());
    let (mut a, mut b, mut c) = owned(&served);
    assert_eq!(keys(&mut c), (2, vec![KEY_A, KEY_B]));
    assert_eq!(reservation(&mut b), Some((KEY_A, TYPE)));
    assert_eq!((write(&mut a), read(&mut a)), (GOOD, GOOD));
    assert_eq!((write(&mut b), read(&mut b)), (GOOD, GOOD));
    assert_eq!((write(&mut c), read(&mut c)), (CONFLICT, GOOD));
    // The owner reserves again what it has; nobody else does, nor releases it.
    reserve_out(&mut a, RESERVE, KEY_A, 0);
    conflicts(&mut b, RESERVE, KEY_B, 0);
    reserve_out(&mut b, RELEASE, KEY_B, 0);
    assert_eq!(reservation(&mut b), Some((KEY_A, TYPE)));
    // Without a registration, and with somebody else's key, nothing is to be had.
    conflicts(&mut c, RESERVE, 0, 0);
    conflicts(&mut b, RESERVE, KEY_A, 0);
    conflicts(&mut a, REGISTER, KEY_B, KEY_A + 1);
    reserve_out(&mut a, RELEASE, KEY_A, 0);
    assert_eq!(reservation(&mut a), None);
    assert_eq!(write(&mut c), GOOD);
}

#[test]
fn the_challenger_takes_the_disk_by_preempting() {
    for action in [PREEMPT, PREEMPT_AND_ABORT] {
        let served = Served::start(two_cores());
        let (mut a, mut b, _) = owned(&served);
        let generation = keys(&mut b).0;
        reserve_out(&mut b, action, KEY_B, KEY_A);
        assert_eq!(reservation(&mut b), Some((KEY_B, TYPE)));
        assert_eq!(keys(&mut b), (generation + 1, vec![KEY_B]));
        // The loser is told once, and has lost the disk.
        let told = a.attention(0);
        assert!(
            told == Some(REGISTRATIONS_PREEMPTED) || told == Some(RESERVATIONS_PREEMPTED),
            "{told:02x?}"
        );
        assert_eq!(a.attention(0), None);
        assert_eq!(write(&mut a), CONFLICT);
        assert_eq!(write(&mut b), GOOD);
        // It registers anew, and takes it back.
        reserve_out(&mut a, REGISTER_AND_IGNORE, 0, KEY_A);
        reserve_out(&mut a, action, KEY_A, KEY_B);
        assert_eq!(reservation(&mut a), Some((KEY_A, TYPE)));
        assert!(b.attention(0).is_some());
        assert_eq!(write(&mut b), CONFLICT);
    }
}

#[test]
fn reservations_outlive_resets_and_lost_sessions() {
    let served = Served::start(two_cores());
    let (mut a, mut b, mut c) = owned(&served);
    for function in [
        TaskManagementFunction::LogicalUnitReset,
        TaskManagementFunction::TargetWarmReset,
    ] {
        let request = TaskManagement {
            immediate: true,
            function,
            lun: LunField([0; 8]),
            referenced: None,
        };
        let outcome = b.0.manage(request).unwrap();
        assert_eq!(outcome, TaskManagementResponseCode::FunctionComplete);
        for node in [&mut a, &mut b, &mut c] {
            assert_eq!(node.attention(0).map(|code| code.1), Some(0x29));
            node.0.clear_unit_attentions(0).unwrap();
        }
        assert_eq!(reservation(&mut c), Some((KEY_A, TYPE)));
        assert_eq!(write(&mut c), CONFLICT);
    }
    // The owner's session is lost; its registration is of its name and ISID, which come back.
    drop(a);
    assert_eq!(keys(&mut b).1, [KEY_A, KEY_B]);
    assert_eq!(write(&mut c), CONFLICT);
    let mut a = Host::new(&served, 1, NODE_A);
    assert_eq!(write(&mut a), GOOD);
    reserve_out(&mut a, RELEASE, KEY_A, 0);
}

#[test]
fn unregistering_releases_and_clear_leaves_nothing() {
    let served = Served::start(two_cores());
    let (mut a, mut b, mut c) = owned(&served);
    reserve_out(&mut a, REGISTER, KEY_A, 0);
    assert_eq!(reservation(&mut c), None);
    // RESERVATIONS RELEASED, since the type is one of registrants (SPC-4 §5.13.11).
    assert_eq!(b.attention(0), Some((0x06, 0x2a, 0x04)));
    assert_eq!(write(&mut c), GOOD);
    reserve_out(&mut a, REGISTER, 0, KEY_A);
    reserve_out(&mut b, RESERVE, KEY_B, 0);
    reserve_out(&mut a, CLEAR, KEY_A, 0);
    assert!(keys(&mut c).1.is_empty());
    assert_eq!(reservation(&mut c), None);
    // RESERVATIONS PREEMPTED to the other registrant.
    assert_eq!(b.attention(0), Some(RESERVATIONS_PREEMPTED));
    conflicts(&mut a, RESERVE, KEY_A, 0);
    assert_eq!(write(&mut c), GOOD);
}
