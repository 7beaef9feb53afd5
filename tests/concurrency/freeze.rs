//! COMPARE AND WRITE is one act to everybody else, on whichever core (SBC-3 §5.2).

use super::acts::{block, good, manage, other, response, settle, write};
use super::served::{BLOCK, Served, login, pattern, two_cores, until};
use iiblockdaemon::iscsi::session::Guard;
use iiblockdaemon::pdu::{TaskManagementFunction as Function, TaskManagementResponseCode as Code};
use iiblockdaemon::testing::tcp::TcpInitiator;
use iiblockdaemon::testing::{Command, DataOut, Direction, Event, Scsi, TaskHandle};

const LBA: u64 = 7;
const MISCOMPARE: Option<(u8, u8, u8)> = Some((0x0e, 0x1d, 0x00));
/// COMPARE AND WRITEs of the race, all together.
const RACE: u64 = 100_000;

fn compare_and_write(lba: u64, old: &[u8], new: &[u8]) -> Scsi {
    let mut cdb = [0; 16];
    cdb[0] = 0x89;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[13] = 1;
    Scsi::new(0, &cdb, Direction::Out(DataOut::new([old, new].concat())))
}

fn start_compare(it: &mut TcpInitiator, old: u32, new: u32) -> TaskHandle {
    let [old, new] = [old, new].map(|seed| pattern(BLOCK as usize, seed));
    let command = compare_and_write(LBA, &old, &new);
    it.submit(Command::Scsi(command)).unwrap()
}

fn sense_of(event: &Event) -> Option<(u8, u8, u8)> {
    match event {
        Event::Scsi { outcome, .. } => outcome.sense_code(),
        other => panic!("{other:?}"),
    }
}

/// A block that counts: the number of updates, eight bytes, over and over.
fn counter(value: u64) -> Vec<u8> {
    value.to_be_bytes().repeat(BLOCK as usize / 8)
}

/// Counts up with COMPARE AND WRITE, `attempts` times; how many were GOOD.
fn count_up(it: &mut TcpInitiator, attempts: u64) -> u64 {
    let mut known = 0;
    let mut updates = 0;
    for _ in 0..attempts {
        let command = compare_and_write(LBA, &counter(known), &counter(known + 1));
        let outcome = it.execute(command).unwrap();
        if outcome.is_good() {
            updates += 1;
            known += 1;
        } else {
            assert_eq!(outcome.sense_code(), MISCOMPARE);
            let bytes = it.read_blocks(0, LBA, 1, BLOCK).unwrap();
            known = u64::from_be_bytes(*bytes.first_chunk().unwrap());
            assert_eq!(bytes, counter(known), "a read sees one update or another");
        }
    }
    updates
}

#[test]
fn no_update_of_sessions_that_race_on_two_cores_is_lost() {
    let served = Served::start(two_cores());
    let sessions: u16 = 4;
    let racers: Vec<_> = (0..sessions)
        .map(|n| served.session_on(usize::from(n % 2), other(n), &[0]))
        .map(|mut it| {
            std::thread::spawn(move || (count_up(&mut it, RACE / u64::from(sessions)), it))
        })
        .collect();
    let counted: u64 = racers
        .into_iter()
        .map(|racer| racer.join().unwrap().0)
        .sum();
    let mut it = served.session(login());
    assert!(
        counted >= RACE / u64::from(sessions),
        "somebody always wins"
    );
    assert_eq!(it.read_blocks(0, LBA, 1, BLOCK).unwrap(), counter(counted));
}

/// A write that is at the device of `core` when a COMPARE AND WRITE on core 0 that expects what
/// was there before begins: whether the compare sees what was written.
fn compare_sees_a_write_at_the_device(served: &Served, core: usize) -> bool {
    let mut comparer = served.session(login());
    let mut writer = served.session_on(core, other(1), &[0]);
    let mut far = served.session_on(1, other(2), &[0]);
    comparer
        .write_blocks(0, LBA, &pattern(BLOCK as usize, 1), BLOCK)
        .unwrap();
    served.faults[0].hold_writes(true);
    let written = write(&mut writer, 0, LBA, block(2));
    until(&mut writer, || served.faults[0].held() == 1);
    let compared = start_compare(&mut comparer, 1, 3);
    settle(&mut [&mut comparer, &mut writer, &mut far]);
    served.faults[0].hold_writes(false);
    assert!(good(&writer.wait(written).unwrap()));
    let sense = sense_of(&comparer.wait(compared).unwrap());
    assert!(sense.is_none() || sense == MISCOMPARE, "{sense:?}");
    sense == MISCOMPARE
}

#[test]
fn what_is_at_a_device_lands_before_the_compare() {
    for core in [0, 1] {
        let served = Served::start(two_cores());
        assert!(compare_sees_a_write_at_the_device(&served, core), "{core}");
    }
}

#[test]
fn a_core_that_acknowledges_a_freeze_early_is_noticed() {
    for core in [0, 1] {
        let served = Served::start(two_cores()).without(Guard::FreezeWaitsForDevice);
        assert!(!compare_sees_a_write_at_the_device(&served, core), "{core}");
    }
}

#[test]
fn a_freeze_that_leaves_a_core_out_is_noticed() {
    let served = Served::start(two_cores()).without(Guard::FreezeWaitsForAllCores);
    assert!(!compare_sees_a_write_at_the_device(&served, 1));
}

/// A write of `core` that comes while a COMPARE AND WRITE is under way: whether it keeps away
/// from the device until that is over.
fn write_waits_for_the_compare(served: &Served, core: usize) -> bool {
    let mut comparer = served.session(login());
    let mut writer = served.session_on(core, other(1), &[0]);
    let mut far = served.session_on(1, other(2), &[0]);
    let before = pattern(BLOCK as usize, 1);
    comparer.write_blocks(0, LBA, &before, BLOCK).unwrap();
    served.faults[0].hold_writes(true);
    let compared = start_compare(&mut comparer, 1, 3);
    until(&mut comparer, || served.faults[0].held() == 1);
    let written = write(&mut writer, 0, LBA, block(2));
    settle(&mut [&mut comparer, &mut writer, &mut far]);
    let held = served.faults[0].held();
    // What does not touch the frozen block is not kept from anything.
    let elsewhere = write(&mut writer, 0, LBA + 1, block(4));
    until(&mut writer, || served.faults[0].held() == held + 1);
    served.faults[0].hold_writes(false);
    assert!(good(&comparer.wait(compared).unwrap()));
    for task in [written, elsewhere] {
        assert!(good(&writer.wait(task).unwrap()));
    }
    let after = comparer.read_blocks(0, LBA, 1, BLOCK).unwrap();
    held == 1 && after == pattern(BLOCK as usize, 2)
}

#[test]
fn a_write_that_comes_meanwhile_lands_after_it() {
    for core in [0, 1] {
        let served = Served::start(two_cores());
        assert!(write_waits_for_the_compare(&served, core), "{core}");
    }
}

#[test]
fn a_write_that_does_not_wait_is_noticed() {
    for core in [0, 1] {
        let served = Served::start(two_cores()).without(Guard::FrozenBlocksAreHeld);
        assert!(!write_waits_for_the_compare(&served, core), "{core}");
    }
}

#[test]
fn a_reset_ends_a_freeze_and_what_waits_for_it_without_touching_a_block() {
    for core in [0, 1] {
        let served = Served::start(two_cores());
        let mut comparer = served.session(login());
        let mut writer = served.session_on(core, other(1), &[0]);
        let mut asker = served.session_on(1 - core, other(2), &[0]);
        let before = pattern(BLOCK as usize, 1);
        comparer.write_blocks(0, LBA, &before, BLOCK).unwrap();
        served.faults[0].hold_writes(true);
        let compared = start_compare(&mut comparer, 1, 3);
        until(&mut comparer, || served.faults[0].held() == 1);
        let written = write(&mut writer, 0, LBA, block(2));
        settle(&mut [&mut comparer, &mut writer]);
        let reset = manage(&mut asker, Function::LogicalUnitReset, 0, None);
        settle(&mut [&mut asker, &mut comparer, &mut writer]);
        assert!(
            !asker.has_ended(reset),
            "the compared write is at the device"
        );
        served.faults[0].hold_writes(false);
        assert_eq!(response(&mut asker, reset), Code::FunctionComplete);
        settle(&mut [&mut comparer, &mut writer]);
        assert!(!comparer.has_ended(compared) && !writer.has_ended(written));
        // The one at the device may have landed; the one that was held has not.
        for session in [&mut asker, &mut comparer, &mut writer] {
            session.clear_unit_attentions(0).unwrap();
        }
        let after = asker.read_blocks(0, LBA, 1, BLOCK).unwrap();
        assert!(after == before || after == pattern(BLOCK as usize, 3));
        asker
            .write_blocks(0, LBA, &pattern(BLOCK as usize, 5), BLOCK)
            .unwrap();
        let compared = start_compare(&mut writer, 5, 6);
        assert!(good(&writer.wait(compared).unwrap()), "nothing is frozen");
    }
}

#[test]
fn a_session_that_goes_lets_go_of_its_blocks() {
    for core in [0, 1] {
        let served = Served::start(two_cores());
        let mut comparer = served.session_on(core, login(), &[0]);
        let mut waiting = served.session_on(1, other(1), &[0]);
        let mut writer = served.session_on(0, other(2), &[0]);
        let before = pattern(BLOCK as usize, 1);
        writer.write_blocks(0, LBA, &before, BLOCK).unwrap();
        served.faults[0].hold_writes(true);
        start_compare(&mut comparer, 1, 3);
        until(&mut comparer, || served.faults[0].held() == 1);
        // One more that waits for its turn and is gone before it comes.
        start_compare(&mut waiting, 3, 4);
        settle(&mut [&mut waiting]);
        drop(waiting);
        drop(comparer);
        let written = write(&mut writer, 0, LBA, block(2));
        served.faults[0].hold_writes(false);
        assert!(good(&writer.wait(written).unwrap()));
        let after = writer.read_blocks(0, LBA, 1, BLOCK).unwrap();
        assert_eq!(after, pattern(BLOCK as usize, 2));
    }
}

#[test]
fn an_atomic_write_is_seen_whole_by_readers_on_every_core() {
    const BLOCKS: u32 = 8;
    const BYTES: u32 = BLOCKS * BLOCK;
    for core in [0, 1] {
        let served = Served::start(two_cores());
        let mut writer = served.session(login());
        let mut reader = served.session_on(core, other(1), &[0]);
        let new = pattern(BYTES as usize, 5);
        let mut cdb = [0; 16];
        cdb[0] = 0x9c;
        cdb[9] = 8;
        cdb[13] = 8;
        served.faults[0].hold_writes(true);
        let data = Direction::Out(DataOut::new(new.clone()));
        let atomic = writer
            .submit(Command::Scsi(Scsi::new(0, &cdb, data)))
            .unwrap();
        until(&mut writer, || served.faults[0].held() == 1);
        let cdb = iiblockdaemon::testing::tcp::read_16(12, 1);
        let read = Scsi::new(0, &cdb, Direction::In(BLOCK));
        let read = reader.submit(Command::Scsi(read)).unwrap();
        // What the write does not touch is read at once.
        reader.read_blocks(0, 16, 8, BLOCK).unwrap();
        settle(&mut [&mut writer, &mut reader]);
        assert!(!reader.has_ended(read), "core {core}: a read is early");
        served.faults[0].hold_writes(false);
        assert!(good(&writer.wait(atomic).unwrap()));
        let Event::Scsi { outcome, .. } = reader.wait(read).unwrap() else {
            panic!("a read is answered as a command")
        };
        let from = 4 * BLOCK as usize;
        assert_eq!(outcome.data_in, new[from..from + BLOCK as usize]);
    }
}

/// QERR = 01b: a command that ends with CHECK CONDITION aborts the others of its task set, among
/// them one that waits for the blocks that it has frozen itself.
#[test]
fn a_miscompare_that_aborts_the_next_compare_holds_nothing_up() {
    for core in [0, 1] {
        let served = Served::start(two_cores());
        let mut comparer = served.session_on(core, login(), &[0]);
        let mut writer = served.session_on(1 - core, other(1), &[0]);
        let sense = [0x1a, 0x08, 0x0a, 0, 16, 0];
        let sense = Scsi::new(0, &sense, Direction::In(16));
        let mut list = comparer.execute_good(sense).unwrap().data_in;
        list[..4].fill(0);
        list[4] &= 0x7f;
        list[4 + 3] = list[4 + 3] & !0x06 | 0x02;
        let select = [0x15, 0x10, 0, 0, 16, 0];
        let select = Scsi::new(0, &select, Direction::Out(DataOut::new(list)));
        comparer.execute_good(select).unwrap();
        writer.clear_unit_attentions(0).unwrap();
        served.faults[0].hold_writes(true);
        let held = write(&mut writer, 0, LBA, block(1));
        until(&mut writer, || served.faults[0].held() == 1);
        let first = start_compare(&mut comparer, 7, 8);
        let second = start_compare(&mut comparer, 7, 9);
        settle(&mut [&mut comparer, &mut writer]);
        served.faults[0].hold_writes(false);
        assert!(good(&writer.wait(held).unwrap()));
        assert_eq!(sense_of(&comparer.wait(first).unwrap()), MISCOMPARE);
        let after = write(&mut writer, 0, LBA, block(2));
        assert!(good(&writer.wait(after).unwrap()));
        assert!(!comparer.has_ended(second), "it was aborted");
    }
}
