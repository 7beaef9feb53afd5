//! Logout and the end of the daemon: both wait for what is at a device, and for nothing else.

use std::time::Duration;

use super::acts::{block, log_in, other, settle, write};
use super::served::{
    BLOCK, DISK_BYTES, Served, TIMEOUT, config, folder, login, pattern, ping, two_cores, until,
};
use iiblockdaemon::config::{Backend, Engine};
use iiblockdaemon::iscsi::session::Guard;
use iiblockdaemon::pdu::{AsyncEvent, Cid, LogoutReason};
use iiblockdaemon::testing::tcp::{Failure, TcpInitiator};
use iiblockdaemon::testing::{Command, DataOut, Event};

/// Whether a Logout Response came while a write was at the device.
fn logout_is_early(served: &Served) -> bool {
    let mut it = served.session(login());
    let mut watcher = served.session(other(1));
    served.faults[0].hold_writes(true);
    write(&mut it, 0, 7, block(1));
    until(&mut it, || served.faults[0].held() == 1);
    let logout = Command::Logout {
        reason: LogoutReason::CloseSession,
        cid: Cid(0),
    };
    let logout = it.submit(logout).unwrap();
    settle(&mut [&mut watcher]);
    // It is silent while it waits, and has spoken if it does not.
    let early = it.stream().peek(&mut [0]).is_ok();
    served.faults[0].hold_writes(false);
    assert!(matches!(it.wait(logout).unwrap(), Event::Logout { .. }));
    it.wait_closed().unwrap();
    early
}

#[test]
fn logout_waits_for_what_is_at_the_device() {
    assert!(!logout_is_early(&Served::start(config())));
}

#[test]
fn a_logout_that_does_not_wait_is_noticed() {
    let served = Served::start(config()).without(Guard::LogoutWaits);
    assert!(logout_is_early(&served));
}

#[test]
fn logout_does_not_wait_for_data_that_nobody_sends_any_more() {
    let served = Served::start(config());
    let mut it = served.session(login());
    let data = DataOut {
        held: true,
        ..DataOut::solicited(pattern(4096, 2))
    };
    let task = write(&mut it, 0, 0, data);
    ping(&mut it).unwrap();
    assert_eq!(it.engine().open_r2ts(task), 1);
    it.logout().unwrap();
    assert!(!it.has_ended(task));
    let mut next = served.session(login());
    assert_eq!(next.read_blocks(0, 0, 8, BLOCK).unwrap(), [0; 4096]);
}

#[test]
fn a_stop_asks_for_logout_and_ends_when_all_have_logged_out() {
    let mut config = two_cores();
    config.daemon.shutdown_timeout = Duration::from_secs(60);
    let served = Served::start(config);
    let mut sessions = [
        served.session_on(0, login(), &[0]),
        served.session_on(1, other(1), &[0]),
    ];
    served.stopper().stop();
    for it in &mut sessions {
        let asked = it
            .find_event(|event| matches!(event, Event::Async { .. }))
            .unwrap();
        let Event::Async { message, .. } = asked else {
            unreachable!("that is what was looked for");
        };
        assert_eq!(message.event, AsyncEvent::LogoutRequested);
        assert_eq!(message.parameter3, 60);
        // Still served until it logs out.
        it.write_blocks(0, 0, &block(1).bytes, BLOCK).unwrap();
        it.logout().unwrap();
    }
    served.ended().unwrap();
}

#[test]
fn a_stop_does_not_wait_for_ever_for_a_logout() {
    let mut config = two_cores();
    config.daemon.shutdown_timeout = Duration::from_millis(200);
    let served = Served::start(config);
    let mut it = served.session_on(1, login(), &[0]);
    served.stopper().stop();
    it.wait_closed().unwrap();
    // Over frames somebody in between takes the connection, and loses it.
    let refused = TcpInitiator::open(served.address(), login(), TIMEOUT);
    let refused = refused.and_then(|mut it| it.login());
    assert!(refused.is_err(), "no portal listens any more");
    served.ended().unwrap();
}

#[test]
fn a_second_stop_ends_it_at_once() {
    let mut config = config();
    config.daemon.shutdown_timeout = Duration::from_secs(600);
    let served = Served::start(config);
    let mut it = served.session(login());
    served.stopper().stop();
    it.find_event(|event| matches!(event, Event::Async { .. }))
        .unwrap();
    served.stopper().stop();
    let message = served.ended().unwrap_err().to_string();
    assert!(message.contains("second signal"), "{message}");
}

#[test]
fn what_was_written_to_a_file_is_there_and_flushed_after_the_stop() {
    let dir = folder();
    let path = dir.path().join("disk.img");
    let mut config = two_cores();
    config.logical_units[0].backend = Backend::File {
        path: path.clone(),
        size: Some(DISK_BYTES),
        engine: Engine::Auto,
        direct: None,
    };
    let served = Served::start(config);
    let faults = served.faults[0].clone();
    let mut sessions = [
        served.session_on(0, login(), &[0]),
        served.session_on(1, other(1), &[0]),
    ];
    for (n, it) in (0_u32..).zip(&mut sessions) {
        let data = pattern(65536, n);
        it.write_blocks(0, u64::from(n) * 128, &data, BLOCK)
            .unwrap();
    }
    assert_eq!(faults.flushes(), 0);
    served.stop().unwrap();
    assert!(faults.flushes() >= 2, "each core flushes what it wrote");
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len() as u64, DISK_BYTES);
    for n in 0..2_usize {
        let seed = u32::try_from(n).unwrap();
        assert_eq!(bytes[n * 65536..][..65536], pattern(65536, seed));
    }
}

#[test]
fn a_stop_waits_for_a_write_at_the_device() {
    let served = Served::start(two_cores());
    let mut it = served.session_on(1, login(), &[0]);
    let faults = served.faults[0].clone();
    faults.hold_writes(true);
    write(&mut it, 0, 7, block(1));
    until(&mut it, || faults.held() == 1);
    served.stopper().stop();
    it.wait_closed().unwrap();
    faults.hold_writes(false);
    served.ended().unwrap();
    assert_eq!(faults.held(), 0);
}

/// A connection that moves between two cores while they are told to stop becomes no session: nobody
/// would end it.
#[test]
fn a_login_on_its_way_between_cores_does_not_outlive_the_stop() {
    let served = Served::start(two_cores());
    let mut old = served.session(login());
    let faults = served.faults[0].clone();
    faults.hold_writes(true);
    write(&mut old, 0, 7, block(1));
    until(&mut old, || faults.held() == 1);
    served.guards.take_down(Guard::HandoffsGoAtOnce);
    let on_its_way = log_in(&served, 1, login());
    until(&mut old, || served.guards.handoffs() == 1);
    served.stopper().stop();
    // The first core knows of the stop, and has a device to wait for.
    old.wait_closed().unwrap();
    served.guards.put_up(Guard::HandoffsGoAtOnce);
    let (_, result, _) = on_its_way.join().unwrap();
    assert!(matches!(result, Err(Failure::Closed)), "{result:?}");
    faults.hold_writes(false);
    served.ended().unwrap();
}
