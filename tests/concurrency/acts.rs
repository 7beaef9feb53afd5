//! What the tests do: write, manage tasks, log in on another thread, give every core its time.

use std::thread::JoinHandle;

use super::served::{BLOCK, Served, login, pattern, ping};
use iiblockdaemon::pdu::{
    LunField, TaskManagementFunction as Function, TaskManagementResponseCode as Code,
};
use iiblockdaemon::testing::tcp::{Failure, TcpInitiator, write_16};
use iiblockdaemon::testing::{
    self, Command, DataOut, Direction, Event, Scsi, TaskHandle, TaskManagement,
};

/// Rounds of pings on every core: what cores tell each other needs two or three.
pub(crate) const ROUNDS: usize = 20;

pub(crate) fn lun(number: u8) -> LunField {
    LunField([0, number, 0, 0, 0, 0, 0, 0])
}

/// Another initiator on the same machine.
pub(crate) fn other(n: u16) -> testing::Config {
    login().with_isid_qualifier(100 + n)
}

pub(crate) fn write(it: &mut TcpInitiator, lun: u8, lba: u64, data: DataOut) -> TaskHandle {
    let blocks = u32::try_from(data.bytes.len()).unwrap() / BLOCK;
    let command = Scsi::new(lun, &write_16(lba, blocks, false), Direction::Out(data));
    it.submit(Command::Scsi(command)).unwrap()
}

pub(crate) fn block(seed: u32) -> DataOut {
    DataOut::new(pattern(BLOCK as usize, seed))
}

pub(crate) fn manage(
    it: &mut TcpInitiator,
    function: Function,
    at: u8,
    of: Option<TaskHandle>,
) -> TaskHandle {
    let request = TaskManagement {
        immediate: true,
        function,
        lun: lun(at),
        referenced: of,
    };
    it.submit(Command::TaskManagement(request)).unwrap()
}

pub(crate) fn response(it: &mut TcpInitiator, task: TaskHandle) -> Code {
    match it.wait(task).unwrap() {
        Event::TaskManagement { response, .. } => response,
        other => panic!("{other:?}"),
    }
}

/// Gives every core that one of these sessions is on time to do whatever it is going to do.
pub(crate) fn settle(sessions: &mut [&mut TcpInitiator]) {
    for _ in 0..ROUNDS {
        for session in &mut *sessions {
            ping(session).unwrap();
        }
    }
}

/// Sense key and ASC of the unit attention that TEST UNIT READY reports, if it does.
pub(crate) fn attention(it: &mut TcpInitiator, at: u8) -> Option<(u8, u8)> {
    let outcome = it.execute(Scsi::new(at, &[0; 6], Direction::None)).unwrap();
    outcome.sense_code().map(|(key, asc, _)| (key, asc))
}

pub(crate) const RESET: Option<(u8, u8)> = Some((0x06, 0x29));

pub(crate) fn good(event: &Event) -> bool {
    matches!(event, Event::Scsi { outcome, .. } if outcome.is_good())
}

/// A login under way on another thread, and how many writes were held when it was answered.
pub(crate) type LoggingIn = JoinHandle<(TcpInitiator, Result<(), Failure>, u64)>;

pub(crate) fn log_in(served: &Served, core: usize, login: testing::Config) -> LoggingIn {
    let mut it = served.open(core, login);
    let faults = served.faults[0].clone();
    std::thread::spawn(move || {
        let result = it.login();
        let held = faults.held();
        (it, result, held)
    })
}
