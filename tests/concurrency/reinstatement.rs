//! A login that takes the place of a session or a connection, also when several race or die on
//! their way (RFC 7143 §6.3.5).

use super::acts::{LoggingIn, block, log_in, other, settle, write};
use super::served::{BLOCK, Served, login, pattern, ping, two_cores, until};
use iiblockdaemon::iscsi::session::Guard;
use iiblockdaemon::pdu::{Cid, LoginStatus, Tsih};
use iiblockdaemon::testing::tcp::{Failure, TcpInitiator, write_16};
use iiblockdaemon::testing::{self, Command, DataOut, Direction, Scsi};

/// A write is held on core 0 and its initiator logs in again with `again` from `core`: how many
/// writes were held when that was answered. Afterwards the block is written anew and must stay so.
fn held_at_reinstatement(
    served: &Served,
    core: usize,
    again: impl FnOnce(&mut TcpInitiator) -> testing::Config,
) -> u64 {
    let mut old = served.session(login());
    let mut here = served.session_on(0, other(1), &[0]);
    let mut there = served.session_on(1, other(2), &[0]);
    served.faults[0].hold_writes(true);
    let superseded = write(&mut old, 0, 7, block(1));
    until(&mut old, || served.faults[0].held() == 1);
    let waits = served.guards.hold(Guard::ReinstatementWaits);
    let again = again(&mut old);
    let logging_in = log_in(served, core, again);
    old.wait_closed().unwrap();
    assert!(!old.has_ended(superseded));
    settle(&mut [&mut here, &mut there]);
    if waits {
        assert!(!logging_in.is_finished(), "it waits for the old write");
        served.faults[0].hold_writes(false);
    }
    let (mut new, result, held) = logging_in.join().unwrap();
    result.unwrap();
    served.faults[0].hold_writes(false);
    new.clear_unit_attentions(0).unwrap();
    new.write_blocks(0, 7, &block(2).bytes, BLOCK).unwrap();
    for session in [&mut new, &mut here, &mut there] {
        assert_eq!(session.read_blocks(0, 7, 1, BLOCK).unwrap(), block(2).bytes);
    }
    held
}

#[test]
fn session_reinstatement_is_answered_when_the_old_write_has_landed() {
    for core in [0, 1] {
        let served = Served::start(two_cores());
        assert_eq!(held_at_reinstatement(&served, core, |_| login()), 0);
    }
}

#[test]
fn reinstatement_before_the_old_write_has_landed_is_noticed() {
    for core in [0, 1] {
        let served = Served::start(two_cores()).without(Guard::ReinstatementWaits);
        assert_eq!(held_at_reinstatement(&served, core, |_| login()), 1);
    }
}

/// A login that joins the session of `old`: without the keys that only a leading login may have
/// (RFC 7143 §13, use LO).
fn rejoin(old: &mut TcpInitiator) -> testing::Config {
    let keys = [
        ("HeaderDigest", "None"),
        ("DataDigest", "None"),
        ("MaxRecvDataSegmentLength", "262144"),
    ];
    testing::Config {
        tsih: old.engine().negotiated().tsih,
        cmd_sn: old.engine().numbers().cmd_sn,
        keys: keys.map(|(key, value)| (key.into(), value.into())).into(),
        ..login()
    }
}

#[test]
fn connection_reinstatement_is_answered_when_the_old_write_has_landed() {
    for core in [0, 1] {
        let served = Served::start(two_cores());
        assert_eq!(held_at_reinstatement(&served, core, rejoin), 0);
    }
}

#[test]
fn a_connection_is_reinstated_again_and_again_in_one_session() {
    let served = Served::start(two_cores());
    let mut it = served.session(login());
    let tsih = it.engine().negotiated().tsih;
    for round in 0..6 {
        it.write_blocks(0, 3, &block(round).bytes, BLOCK).unwrap();
        let again = rejoin(&mut it);
        let mut next = served.session_on(round as usize % 2, again, &[]);
        assert_eq!(next.engine().negotiated().tsih, tsih);
        it.wait_closed().unwrap();
        // No unit attention: it is the same nexus.
        let back = next.read_blocks(0, 3, 1, BLOCK).unwrap();
        assert_eq!(back, block(round).bytes);
        it = next;
    }
    it.logout().unwrap();
}

#[test]
fn a_tsih_of_somebody_else_and_a_second_connection_are_refused() {
    let served = Served::start(two_cores());
    let mut it = served.session(login());
    let refused = |core: usize, config: testing::Config| match served.open(core, config).login() {
        Err(Failure::LoginRefused(status)) => status,
        other => panic!("{other:?}"),
    };
    let tsih = it.engine().negotiated().tsih;
    for core in [0, 1] {
        let joins = rejoin(&mut it);
        let stranger = testing::Config {
            isid: other(1).isid,
            ..joins.clone()
        };
        assert_eq!(refused(core, stranger), LoginStatus::SESSION_DOES_NOT_EXIST);
        let unknown = testing::Config {
            tsih: Tsih(tsih.0 + 1000),
            ..joins
        };
        assert_eq!(refused(core, unknown), LoginStatus::SESSION_DOES_NOT_EXIST);
        let second = testing::Config {
            cid: Cid(1),
            ..rejoin(&mut it)
        };
        assert_eq!(refused(core, second), LoginStatus::TOO_MANY_CONNECTIONS);
    }
    it.read_blocks(0, 0, 1, BLOCK).unwrap();
}

#[test]
fn of_three_logins_that_race_for_one_isid_one_is_left() {
    let served = Served::start(two_cores());
    let mut watcher = served.session_on(1, other(1), &[0]);
    for round in 0..15_u32 {
        served.faults[0].hold_writes(round % 2 == 1);
        let racers: Vec<LoggingIn> = (0..3).map(|n| log_in(&served, n % 2, login())).collect();
        settle(&mut [&mut watcher]);
        served.faults[0].hold_writes(false);
        let mut left = 0;
        // Only when all are answered is it decided who is left.
        let ended: Vec<_> = racers
            .into_iter()
            .map(|racer| racer.join().unwrap())
            .collect();
        for (mut it, result, _) in ended {
            match result {
                Ok(()) => {
                    left += usize::from(ping(&mut it).is_ok());
                    // Something for the next round to wait for.
                    let task = it.engine().submit(Command::Scsi(Scsi::new(
                        0,
                        &write_16(1, 1, false),
                        Direction::Out(block(round)),
                    )));
                    let _ = (task, it.flush());
                }
                Err(Failure::Closed) => {}
                Err(failure) => panic!("{failure}"),
            }
        }
        assert!(left <= 1, "{left} sessions with one ISID");
    }
    let mut last = served.session(login());
    last.write_blocks(0, 1, &block(99).bytes, BLOCK).unwrap();
    settle(&mut [&mut watcher]);
    assert_eq!(
        watcher.read_blocks(0, 1, 1, BLOCK).unwrap(),
        block(99).bytes
    );
}

/// Two logins with one ISID reach the core of their session in the wrong order: whether the one
/// that the directory let in last is the one that stays.
fn the_later_login_stays(served: &Served) -> bool {
    let mut old = served.session(login());
    served.guards.take_down(Guard::HandoffsGoAtOnce);
    let overtaken = log_in(served, 1, login());
    until(&mut old, || served.guards.handoffs() == 1);
    // This one is on the session's core and has no way to go.
    let (mut later, result, _) = log_in(served, 0, login()).join().unwrap();
    result.unwrap();
    old.wait_closed().unwrap();
    ping(&mut later).unwrap();
    served.guards.put_up(Guard::HandoffsGoAtOnce);
    let (_, earlier, _) = overtaken.join().unwrap();
    assert_ne!(
        earlier.is_ok(),
        ping(&mut later).is_ok(),
        "there is one session"
    );
    earlier.is_err()
}

#[test]
fn a_login_that_was_overtaken_is_dropped() {
    assert!(the_later_login_stays(&Served::start(two_cores())));
}

#[test]
fn a_login_that_comes_late_and_stays_is_noticed() {
    let served = Served::start(two_cores()).without(Guard::ReinstatementOrder);
    assert!(!the_later_login_stays(&served));
}

/// A login reinstates a session of another core and its connection dies on the way: what it has
/// superseded is waited for all the same by the next login.
#[test]
fn a_login_that_dies_on_its_way_leaves_no_write_behind() {
    let served = Served::start(two_cores());
    let mut old = served.session(login());
    let mut here = served.session_on(0, other(1), &[0]);
    let mut there = served.session_on(1, other(2), &[0]);
    served.faults[0].hold_writes(true);
    write(&mut old, 0, 7, block(1));
    until(&mut old, || served.faults[0].held() == 1);
    for round in 0..10 {
        let mut dies = served.open(1, login());
        dies.engine().poll_event();
        dies.flush().unwrap();
        if round % 2 == 0 {
            // Its first answer, and the request that ends the login goes out and is not waited for.
            while dies.stream().peek(&mut [0]).is_err() {
                ping(&mut there).unwrap();
            }
            let mut bytes = [0; 4096];
            let read = std::io::Read::read(&mut dies.stream(), &mut bytes).unwrap();
            dies.engine().receive(&bytes[..read]).unwrap();
            dies.flush().unwrap();
        }
        drop(dies);
        settle(&mut [&mut here, &mut there]);
    }
    let logging_in = log_in(&served, 1, login());
    settle(&mut [&mut here, &mut there]);
    assert!(!logging_in.is_finished(), "the old write is still held");
    served.faults[0].hold_writes(false);
    let (mut new, result, held) = logging_in.join().unwrap();
    result.unwrap();
    assert_eq!(held, 0);
    new.clear_unit_attentions(0).unwrap();
    new.write_blocks(0, 7, &block(2).bytes, BLOCK).unwrap();
    assert_eq!(here.read_blocks(0, 7, 1, BLOCK).unwrap(), block(2).bytes);
}

/// Connections that die at every byte of a login and at every step of a write: nothing stays behind
/// (the daemon's end asserts it), and others do not notice.
#[test]
fn connections_may_die_at_any_time() {
    let served = Served::start(two_cores());
    let mut watcher = served.session_on(1, other(1), &[0]);
    let first = {
        let mut bytes = Vec::new();
        testing::Initiator::new(login()).poll_transmit(&mut bytes);
        bytes
    };
    for (n, cut) in (0..=first.len()).step_by(13).enumerate() {
        served.next_core(n % 2);
        let mut stream = std::net::TcpStream::connect(served.address()).unwrap();
        std::io::Write::write_all(&mut stream, &first[..cut]).unwrap();
    }
    for core in [0, 1, 0, 1] {
        // After the login; after a command; after some of its data; with the write at the device.
        drop(served.session_on(core, login(), &[]));
        let mut it = served.session_on(core, login(), &[0]);
        let data = DataOut {
            held: true,
            ..DataOut::solicited(pattern(256 * 1024, 1))
        };
        write(&mut it, 0, 64, data.clone());
        drop(it);
        let mut it = served.session_on(core, login(), &[0]);
        let task = write(&mut it, 0, 64, data);
        ping(&mut it).unwrap();
        let mut bytes = Vec::new();
        it.engine().release(task);
        it.engine().poll_transmit(&mut bytes);
        it.send_bytes(&bytes[..bytes.len() / 2]).unwrap();
        drop(it);
        let mut it = served.session_on(core, login(), &[0]);
        served.faults[0].hold_writes(true);
        write(&mut it, 0, 64, DataOut::new(pattern(256 * 1024, 2)));
        until(&mut it, || served.faults[0].held() == 1);
        drop(it);
        settle(&mut [&mut watcher]);
        served.faults[0].hold_writes(false);
        ping(&mut watcher).unwrap();
    }
    watcher.read_blocks(0, 64, 512, BLOCK).unwrap();
    watcher.logout().unwrap();
}
