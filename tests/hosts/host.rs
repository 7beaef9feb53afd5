//! A host: one session, and the few ways in which it sends a command.

use super::served::{Served, TARGET};
use iiblockdaemon::testing::tcp::TcpInitiator;
use iiblockdaemon::testing::{self, DataOut, Direction, Scsi, ScsiOutcome};

pub(crate) const RESERVATION_CONFLICT: u8 = 0x18;

pub(crate) struct Host(pub(crate) TcpInitiator);

impl Host {
    /// Logs in on this core, with no unit attention left at LUN 0 and 1.
    pub(crate) fn new(served: &Served, core: usize, name: &str) -> Self {
        let login = testing::Config::new(name, TARGET);
        Self(served.session_on(core, login, &[0, 1]))
    }

    pub(crate) fn run(&mut self, lun: u8, cdb: &[u8], data: Direction) -> ScsiOutcome {
        self.0.execute(Scsi::new(lun, cdb, data)).unwrap()
    }

    /// Parameter data of a command that ends well.
    #[track_caller]
    pub(crate) fn read(&mut self, lun: u8, cdb: &[u8], bytes: u32) -> Vec<u8> {
        let outcome = self.run(lun, cdb, Direction::In(bytes));
        assert!(outcome.is_good(), "{cdb:02x?}: {outcome:02x?}");
        outcome.data_in
    }

    #[track_caller]
    pub(crate) fn write(&mut self, lun: u8, cdb: &[u8], data: Vec<u8>) {
        let outcome = self.run(lun, cdb, Direction::Out(DataOut::new(data)));
        assert!(outcome.is_good(), "{cdb:02x?}: {outcome:02x?}");
    }

    #[track_caller]
    pub(crate) fn plain(&mut self, lun: u8, cdb: &[u8]) {
        let outcome = self.run(lun, cdb, Direction::None);
        assert!(outcome.is_good(), "{cdb:02x?}: {outcome:02x?}");
    }

    /// Sense key, ASC and ASCQ of a command that does not end well.
    #[track_caller]
    pub(crate) fn refused(&mut self, lun: u8, cdb: &[u8], data: Direction) -> (u8, u8, u8) {
        let outcome = self.run(lun, cdb, data);
        outcome
            .sense_code()
            .unwrap_or_else(|| panic!("{cdb:02x?}: no sense data in {outcome:02x?}"))
    }

    /// The command meets somebody else's reservation.
    #[track_caller]
    pub(crate) fn conflicts(&mut self, lun: u8, cdb: &[u8], data: Direction) {
        let outcome = self.run(lun, cdb, data);
        assert_eq!(outcome.status, RESERVATION_CONFLICT, "{cdb:02x?}");
    }

    /// What TEST UNIT READY says first, if it is not GOOD.
    pub(crate) fn attention(&mut self, lun: u8) -> Option<(u8, u8, u8)> {
        self.run(lun, &[0; 6], Direction::None).sense_code()
    }
}
