//! A change of a logical unit that was answered is obeyed by every core, for every later command.

use super::acts::other;
use super::served::{Served, login, two_cores};
use iiblockdaemon::iscsi::session::Guard;
use iiblockdaemon::testing::tcp::TcpInitiator;
use iiblockdaemon::testing::{Direction, Scsi};

const INITIALIZING_COMMAND_REQUIRED: Option<(u8, u8, u8)> = Some((0x02, 0x04, 0x02));
const TEST_UNIT_READY: [u8; 6] = [0; 6];
/// Stops and starts of each test.
const CHANGES: usize = 200;

fn start_stop(it: &mut TcpInitiator, lun: u8, start: bool) {
    let cdb = [0x1b, 0, 0, 0, u8::from(start), 0];
    it.execute_good(Scsi::new(lun, &cdb, Direction::None))
        .unwrap();
}

/// Whether a unit that one core's session has stopped and started is so for that of the other.
fn is_obeyed(served: &Served, asking: usize, lun: u8) -> bool {
    let mut here = served.session_on(asking, login(), &[lun]);
    let mut there = served.session_on(1 - asking, other(1), &[lun]);
    for change in 0..CHANGES {
        let start = change % 2 == 1;
        start_stop(&mut here, lun, start);
        let ready = Scsi::new(lun, &TEST_UNIT_READY, Direction::None);
        let sense = there.execute(ready).unwrap().sense_code();
        let expected = if start {
            None
        } else {
            INITIALIZING_COMMAND_REQUIRED
        };
        if sense != expected {
            start_stop(&mut here, lun, true);
            return false;
        }
    }
    true
}

#[test]
fn a_stopped_unit_is_stopped_on_every_core() {
    // Of two units each has its home on another core.
    for (asking, lun) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
        let served = Served::start(two_cores());
        assert!(is_obeyed(&served, asking, lun), "{asking} {lun}");
    }
}

#[test]
fn a_replica_that_is_skipped_is_noticed() {
    for (asking, lun) in [(0, 0), (1, 1)] {
        let served = Served::start(two_cores()).without(Guard::EveryReplicaApplies);
        assert!(!is_obeyed(&served, asking, lun), "{asking} {lun}");
    }
}
