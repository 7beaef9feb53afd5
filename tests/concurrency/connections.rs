//! Sessions of several connections that are accepted on different cores, under load, and
//! reinstatement of one of them (RFC 7143 §4.2.2, §6.3.4): each connection moves to the core of
//! its session.

use std::thread::JoinHandle;

use super::acts::{block, log_in, other, settle, write};
use super::served::{BLOCK, Served, login, pattern, ping, two_cores, until};
use iiblockdaemon::iscsi::session::Guard;
use iiblockdaemon::pdu::{AsyncEvent, Cid, LogoutReason, LogoutResponseCode, TaskAttribute};
use iiblockdaemon::testing::tcp::{Failure, TcpInitiator, read_16, write_16};
use iiblockdaemon::testing::{self, Command, DataOut, Direction, Event, Scsi, TaskHandle};

const CONNECTIONS: u16 = 4;
/// Commands that one connection has under way in the tests of load.
const DEPTH: usize = 16;

fn wants_many() -> testing::Config {
    login().with_key("MaxConnections", "8")
}

fn further(served: &Served, core: usize, it: &mut TcpInitiator, cid: u16) -> TcpInitiator {
    let config = it.engine().further(Cid(cid));
    served.session_on(core, config, &[])
}

/// A session on core 0 whose connections were accepted on both cores by turns.
fn many(served: &Served) -> Vec<TcpInitiator> {
    let first = served.session(wants_many());
    let mut all = vec![first];
    for cid in 1..CONNECTIONS {
        let core = usize::from(cid % 2);
        let next = further(served, core, &mut all[0], cid);
        all.push(next);
    }
    all
}

/// Whether the last of many ordered writes to one block, spread over all connections, is what the
/// block holds in the end.
fn ordered_writes_keep_their_order(served: &Served, rounds: u32) -> bool {
    let mut all = many(served);
    let mut right = true;
    for round in 0..rounds {
        let mut tasks: Vec<(usize, TaskHandle)> = Vec::new();
        for n in 0..32_u32 {
            let command = Scsi {
                attribute: TaskAttribute::Ordered,
                ..Scsi::new(
                    0,
                    &write_16(5, 1, false),
                    Direction::Out(block(100 * round + n)),
                )
            };
            // Not a fixed turn, so that later commands overtake earlier ones.
            let at = (n * 7 + round) as usize % all.len();
            tasks.push((at, all[at].engine().submit(Command::Scsi(command))));
            all[at].engine().poll_event();
        }
        // They take their numbers in the order of sending, and go out in another.
        for at in [3, 1, 0, 2] {
            all[at].flush().unwrap();
        }
        for (at, task) in &tasks {
            let event = all[*at].wait(*task).unwrap();
            assert!(matches!(event, Event::Scsi { outcome, .. } if outcome.is_good()));
        }
        // The one that went out last had the highest numbers.
        let last = tasks.iter().rev().find(|(at, _)| *at == 2).unwrap();
        let n = tasks.iter().position(|task| task == last).unwrap();
        let last = 100 * round + u32::try_from(n).unwrap();
        let held = all[0].read_blocks(0, 5, 1, BLOCK).unwrap();
        right &= held == block(last).bytes;
    }
    right
}

#[test]
fn ordered_writes_over_connections_of_two_cores_keep_their_order() {
    let served = Served::start(two_cores());
    assert!(ordered_writes_keep_their_order(&served, 50));
}

/// Writes and reads a part of the disk that is its own, `rounds` times `DEPTH` commands at once,
/// and compares.
fn works(mut it: TcpInitiator, part: u64, rounds: u32) -> JoinHandle<TcpInitiator> {
    std::thread::spawn(move || {
        for round in 0..rounds {
            let seed = u32::try_from(part).unwrap() * 1000 + round;
            let bytes = if round % 3 == 0 { 32 * 1024 } else { 4096 };
            let blocks = bytes / BLOCK;
            let lba = |n: usize| part * 2048 + 64 * n as u64;
            let writes: Vec<_> = (0..DEPTH)
                .map(|n| {
                    let bytes = pattern(bytes as usize, seed + u32::try_from(n).unwrap() * 7);
                    let data = if n % 2 == 0 {
                        DataOut::new(bytes)
                    } else {
                        DataOut::solicited(bytes)
                    };
                    write(&mut it, 0, lba(n), data)
                })
                .collect();
            for task in writes {
                let event = it.wait(task).unwrap();
                assert!(matches!(event, Event::Scsi { outcome, .. } if outcome.is_good()));
            }
            let reads: Vec<_> = (0..DEPTH)
                .map(|n| {
                    let data = Direction::In(bytes);
                    let read = Scsi::new(0, &read_16(lba(n), blocks), data);
                    it.submit(Command::Scsi(read)).unwrap()
                })
                .collect();
            for (n, task) in reads.into_iter().enumerate() {
                let Event::Scsi { outcome, .. } = it.wait(task).unwrap() else {
                    panic!("no answer to a read");
                };
                let expected = pattern(bytes as usize, seed + u32::try_from(n).unwrap() * 7);
                assert!(outcome.data_in == expected, "part {part}, round {round}");
            }
        }
        it
    })
}

#[test]
fn connections_of_two_cores_work_together_under_load() {
    let served = Served::start(two_cores());
    let mut beside = served.session_on(1, other(1), &[0]);
    let workers: Vec<_> = (0..)
        .zip(many(&served))
        .map(|(part, it)| works(it, part, 20))
        .collect();
    settle(&mut [&mut beside]);
    let mut all: Vec<_> = workers.into_iter().map(|it| it.join().unwrap()).collect();
    settle(&mut [&mut beside]);
    all[0].logout().unwrap();
    for it in &mut all[1..] {
        it.wait_closed().unwrap();
    }
}

/// One of two connections is reinstated from `core` while it has a write at the device: how many
/// writes were held when the login was answered, with that of the other connection.
fn held_when_one_comes_back(core: usize) -> u64 {
    let served = Served::start(two_cores());
    let mut a = served.session(wants_many());
    let mut b = further(&served, 1, &mut a, 1);
    let mut there = served.session_on(1, other(2), &[0]);
    served.faults[0].hold_writes(true);
    let superseded = write(&mut b, 0, 7, block(1));
    let stays = write(&mut a, 0, 8, block(2));
    until(&mut a, || served.faults[0].held() == 2);
    let again = log_in(&served, core, a.engine().further(Cid(1)));
    b.wait_closed().unwrap();
    assert!(!b.has_ended(superseded));
    settle(&mut [&mut a, &mut there]);
    assert!(!again.is_finished(), "it waits for the old write");
    served.faults[0].hold_writes(false);
    let (mut b, result, held) = again.join().unwrap();
    result.unwrap();
    let event = a.wait(stays).unwrap();
    assert!(matches!(event, Event::Scsi { outcome, .. } if outcome.is_good()));
    b.write_blocks(0, 7, &block(3).bytes, BLOCK).unwrap();
    for it in [&mut a, &mut b, &mut there] {
        assert_eq!(it.read_blocks(0, 7, 1, BLOCK).unwrap(), block(3).bytes);
    }
    held
}

#[test]
fn one_connection_is_reinstated_when_its_old_write_has_landed() {
    for core in [0, 1] {
        assert_eq!(held_when_one_comes_back(core), 0);
    }
}

#[test]
fn of_two_logins_that_race_for_one_cid_the_later_stays() {
    let served = Served::start(two_cores());
    let mut a = served.session(wants_many());
    let mut b = further(&served, 0, &mut a, 1);
    served.guards.take_down(Guard::HandoffsGoAtOnce);
    let overtaken = log_in(&served, 1, a.engine().further(Cid(1)));
    until(&mut a, || served.guards.handoffs() == 1);
    // This one is on the session's core and has no way to go.
    let (mut later, result, _) = log_in(&served, 0, a.engine().further(Cid(1)))
        .join()
        .unwrap();
    result.unwrap();
    b.wait_closed().unwrap();
    served.guards.put_up(Guard::HandoffsGoAtOnce);
    let (_, earlier, _) = overtaken.join().unwrap();
    assert!(matches!(earlier, Err(Failure::Closed)), "{earlier:?}");
    ping(&mut later).unwrap();
    later.read_blocks(0, 0, 1, BLOCK).unwrap();
    a.logout().unwrap();
    later.wait_closed().unwrap();
}

#[test]
fn thousands_of_connections_join_and_leave_one_session() {
    let served = Served::start(two_cores());
    let mut a = served.session(wants_many());
    for round in 0..1500_u32 {
        let cid = 1 + u16::try_from(round % 300).unwrap();
        let mut b = further(&served, round as usize % 2, &mut a, cid);
        if round % 10 == 0 {
            b.write_blocks(0, 3, &block(round).bytes, BLOCK).unwrap();
            assert_eq!(a.read_blocks(0, 3, 1, BLOCK).unwrap(), block(round).bytes);
        }
        let reason = LogoutReason::CloseConnection;
        let cid = Cid(cid);
        // By itself, by the other one, or by a login that takes its place.
        match round % 3 {
            0 => {
                let task = b.submit(Command::Logout { reason, cid }).unwrap();
                assert!(is_closed(&b.wait(task).unwrap()));
            }
            1 => {
                let task = a.submit(Command::Logout { reason, cid }).unwrap();
                assert!(is_closed(&a.wait(task).unwrap()));
            }
            _ => {
                let mut again = further(&served, 1, &mut a, cid.0);
                b.wait_closed().unwrap();
                let task = again.submit(Command::Logout { reason, cid }).unwrap();
                assert!(is_closed(&again.wait(task).unwrap()));
                again.wait_closed().unwrap();
                continue;
            }
        }
        b.wait_closed().unwrap();
    }
    a.logout().unwrap();
}

#[test]
fn a_stop_asks_for_logout_on_every_connection() {
    let mut config = two_cores();
    config.daemon.shutdown_timeout = std::time::Duration::from_secs(60);
    let served = Served::start(config);
    let mut all = many(&served);
    served.stopper().stop();
    for it in &mut all {
        let asked = it.find_event(|event| matches!(event, Event::Async { .. }));
        let Event::Async { message, .. } = asked.unwrap() else {
            unreachable!("that is what was looked for");
        };
        assert_eq!(message.event, AsyncEvent::LogoutRequested);
    }
    for (cid, it) in (0..).zip(&mut all) {
        let reason = LogoutReason::CloseConnection;
        let cid = Cid(cid);
        let task = it.submit(Command::Logout { reason, cid }).unwrap();
        assert!(is_closed(&it.wait(task).unwrap()));
        it.wait_closed().unwrap();
    }
    served.ended().unwrap();
}

fn is_closed(event: &Event) -> bool {
    let closed = LogoutResponseCode::Closed;
    matches!(event, Event::Logout { response, .. } if *response == closed)
}

/// Connections of a session that fail at any time, with work of all of them under way: nothing
/// stays behind (the daemon's end asserts it), and others do not notice.
#[test]
fn sessions_of_several_connections_may_die_at_any_time() {
    let served = Served::start(two_cores());
    let mut watcher = served.session_on(1, other(1), &[0]);
    for round in 0..40_usize {
        let mut all = many(&served);
        served.faults[0].hold_writes(round % 2 == 0);
        for (n, it) in all.iter_mut().enumerate() {
            let data = DataOut {
                held: n % 2 == 1,
                ..DataOut::solicited(pattern(64 * 1024, 1))
            };
            write(it, 0, 256 * n as u64, data);
            write(it, 0, 256 * n as u64 + 128, DataOut::new(pattern(4096, 2)));
        }
        if round % 3 == 0 {
            // One is coming back while another one dies.
            let _ = log_in(&served, round % 2, all[0].engine().further(Cid(1)));
        }
        drop(all.remove(round % all.len()));
        settle(&mut [&mut watcher]);
        served.faults[0].hold_writes(false);
        for it in &mut all {
            it.wait_closed().unwrap();
        }
    }
    watcher.logout().unwrap();
}
