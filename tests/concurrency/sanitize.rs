//! SANITIZE outlives its command, its session and every reset, and keeps other commands out
//! meanwhile (SBC-3 §4.11).

use super::acts::{manage, other, response, settle, write};
use super::served::{BLOCK, Served, login, pattern, two_cores, until};
use iiblockdaemon::backend::IoError;
use iiblockdaemon::pdu::{TaskManagementFunction as Function, TaskManagementResponseCode as Code};
use iiblockdaemon::testing::tcp::TcpInitiator;
use iiblockdaemon::testing::{Command, DataOut, Direction, Event, Scsi};

const BLOCK_ERASE: [u8; 10] = [0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0];
const IN_PROGRESS: Option<(u8, u8, u8)> = Some((0x02, 0x04, 0x1b));

/// Round trips after which the end of the operation is not waited for any longer.
const ROUND_TRIPS_MAX: usize = 100_000;

/// What TEST UNIT READY says behind all unit attentions.
fn sense(it: &mut TcpInitiator) -> Option<(u8, u8, u8)> {
    loop {
        let outcome = it.execute(Scsi::new(0, &[0; 6], Direction::None)).unwrap();
        match outcome.sense_code() {
            Some((0x06, _, _)) => {}
            other => return other,
        }
    }
}

fn fill(it: &mut TcpInitiator) {
    let task = write(it, 0, 7, DataOut::new(pattern(8 * BLOCK as usize, 1)));
    assert!(matches!(it.wait(task).unwrap(), Event::Scsi { outcome, .. } if outcome.is_good()));
}

#[test]
fn a_sanitize_waits_for_nobody_and_nobody_ends_it() {
    for core in [0, 1] {
        let served = Served::start(two_cores());
        let mut asker = served.session_on(core, login(), &[0, 1]);
        let mut near = served.session_on(0, other(1), &[0, 1]);
        let mut far = served.session_on(1, other(2), &[0, 1]);
        fill(&mut asker);
        served.faults[0].hold_writes(true);
        let erase = Scsi::new(0, &BLOCK_ERASE, Direction::None);
        let erase = asker.submit(Command::Scsi(erase)).unwrap();
        until(&mut asker, || served.faults[0].held() == 1);
        for session in [&mut near, &mut far] {
            assert_eq!(sense(session), IN_PROGRESS, "core {core}");
            let read = session.read_blocks(0, 0, 1, BLOCK);
            assert!(read.is_err(), "nobody reads what is being erased");
        }
        // Neither a reset waits for it, nor does it end with that.
        let reset = manage(&mut near, Function::LogicalUnitReset, 0, None);
        assert_eq!(response(&mut near, reset), Code::FunctionComplete);
        settle(&mut [&mut asker, &mut near, &mut far]);
        assert!(
            !asker.has_ended(erase),
            "an aborted command is not answered"
        );
        assert_eq!(sense(&mut far), IN_PROGRESS);
        // Nor does it end with the session that began it.
        asker.logout().unwrap();
        assert_eq!(served.faults[0].held(), 1);
        assert_eq!(sense(&mut near), IN_PROGRESS);
        served.faults[0].hold_writes(false);
        until(&mut near, || served.faults[0].held() == 0);
        let over = |it: &mut TcpInitiator| (0..ROUND_TRIPS_MAX).any(|_| sense(it).is_none());
        assert!(over(&mut near) && over(&mut far), "it ends");
        let read = far.read_blocks(0, 7, 8, BLOCK).unwrap();
        assert!(read.iter().all(|byte| *byte == 0), "everything is erased");
    }
}

#[test]
fn a_device_that_is_short_of_something_for_a_while_ends_no_sanitize() {
    let served = Served::start(two_cores());
    for core in [0, 1] {
        let mut it = served.session_on(core, login(), &[0, 1]);
        fill(&mut it);
        for nth in [1, 2] {
            // The erasing itself, and the flush behind it.
            served.faults[0].fail_nth(nth, IoError::Resource);
            it.execute_good(Scsi::new(0, &BLOCK_ERASE, Direction::None))
                .unwrap();
            assert_eq!(sense(&mut it), None);
        }
        let read = it.read_blocks(0, 7, 8, BLOCK).unwrap();
        assert!(read.iter().all(|byte| *byte == 0));
        it.logout().unwrap();
    }
}

#[test]
fn a_sanitize_without_immed_is_answered_at_its_end() {
    let served = Served::start(two_cores());
    for core in [0, 1] {
        let mut it = served.session_on(core, login(), &[0, 1]);
        fill(&mut it);
        it.execute_good(Scsi::new(0, &BLOCK_ERASE, Direction::None))
            .unwrap();
        assert_eq!(sense(&mut it), None);
        let read = it.read_blocks(0, 7, 8, BLOCK).unwrap();
        assert!(read.iter().all(|byte| *byte == 0));
        let mut list = vec![0x82, 0, 0, 4];
        list.extend(b"wipe");
        let overwrite = [0x48, 0x01, 0, 0, 0, 0, 0, 0, 8, 0];
        it.execute_good(Scsi::new(0, &overwrite, Direction::Out(DataOut::new(list))))
            .unwrap();
        let read = it.read_blocks(0, 7, 8, BLOCK).unwrap();
        // Two passes, the first one inverted.
        assert!(read.chunks(4).all(|word| word == b"wipe"));
        it.logout().unwrap();
    }
}

/// What was let in before is aborted, and what of it is at a device is waited for: nothing lands
/// behind the operation.
#[test]
fn a_sanitize_waits_for_what_is_at_a_device_and_aborts_the_rest() {
    for core in [0, 1] {
        let served = Served::start(two_cores());
        let mut asker = served.session_on(core, login(), &[0, 1]);
        let mut writer = served.session_on(1 - core, other(1), &[0, 1]);
        let mut other_there = served.session_on(1 - core, other(2), &[0, 1]);
        fill(&mut asker);
        served.faults[0].hold_writes(true);
        let at_device = write(&mut writer, 0, 7, DataOut::new(pattern(BLOCK as usize, 2)));
        until(&mut writer, || served.faults[0].held() == 1);
        let erase = Scsi::new(0, &BLOCK_ERASE, Direction::None);
        let erase = asker.submit(Command::Scsi(erase)).unwrap();
        let applied = (0..ROUND_TRIPS_MAX).any(|_| sense(&mut other_there) == IN_PROGRESS);
        assert!(applied, "every core keeps others out");
        settle(&mut [&mut asker, &mut writer]);
        assert_eq!(served.faults[0].held(), 1, "it has not begun");
        served.faults[0].hold_writes(false);
        let ended = asker.wait(erase).unwrap();
        assert!(matches!(ended, Event::Scsi { outcome, .. } if outcome.is_good()));
        settle(&mut [&mut writer]);
        assert!(!writer.has_ended(at_device), "it was aborted");
        assert_eq!(sense(&mut writer), None);
        let after = writer.read_blocks(0, 7, 8, BLOCK).unwrap();
        assert!(after.iter().all(|byte| *byte == 0));
    }
}
