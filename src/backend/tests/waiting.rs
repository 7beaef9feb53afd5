//! Disks that hang, fail late or go away: who waits for whom.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::suite::{self, Driver};
use super::*;

/// A file under [`Engine::Sync`] whose calls wait for what the test sends.
struct Gated {
    backing: Arc<Backing>,
    gate: crossbeam::channel::Sender<rustix::io::Errno>,
}

impl Gated {
    fn new(folder: &TempDir, name: &str) -> Self {
        let path = folder.path().join(name);
        let backing = Backing::open(&file_spec(&path, Engine::Sync, Some(false))).unwrap();
        let (gate, held) = crossbeam::channel::bounded(0);
        object(&backing).gate.hold(held);
        Self { backing, gate }
    }
}

/// Turns until `count` completions came; returns tags and results.
fn turn_until(set: &mut Set, count: usize) -> Vec<(u64, Result<(), IoError>)> {
    let mut done = Vec::with_capacity(64);
    let mut came = Vec::new();
    while came.len() < count {
        set.kick(suite::now());
        set.poll(&mut done);
        let tokens = done.drain(..).map(|it| (it.token.finish(), it.result));
        came.extend(tokens);
        std::thread::yield_now();
    }
    came
}

fn submit(set: &mut Set, unit: u16, operation: Operation, tag: u64) {
    set.submit(Request {
        unit: UnitIndex(unit),
        operation,
        past_limit: false,
        token: Token::new(tag),
    });
}

#[test]
fn a_hung_disk_stalls_nobody_else() {
    let folder = disk_folder();
    let hung = [Gated::new(&folder, "hung1"), Gated::new(&folder, "hung2")];
    let fine = Backing::open(&file_spec(&folder.path().join("fine"), Engine::Sync, None)).unwrap();
    let mut set = Set::new(&Options { depth: 8, units: 8 }).unwrap();
    let pool = crate::mem::Pool::new(1 << 20, crate::mem::Pages::Normal).unwrap();
    let read = |lba| Operation::Read {
        lba,
        blocks: 1,
        buf: pool.alloc(512).unwrap(),
    };
    for (unit, gated) in (0..).zip(&hung) {
        set.attach(UnitIndex(unit), &gated.backing).unwrap();
    }
    set.attach(UnitIndex(2), &fine).unwrap();
    for lba in 0..12 {
        submit(&mut set, 0, read(lba), lba);
        submit(&mut set, 1, read(lba), lba);
    }
    for lba in 0..12 {
        submit(&mut set, 2, read(lba), 100 + lba);
    }
    let came = turn_until(&mut set, 12);
    assert!(
        came.iter()
            .all(|&(tag, result)| tag >= 100 && result == Ok(()))
    );
    assert_eq!(set.in_flight(), 24, "the hung ones still wait");
    drop(hung);
    let came = turn_until(&mut set, 24);
    assert!(
        came.iter()
            .all(|&(tag, result)| tag < 100 && result == Ok(()))
    );
    assert_eq!(set.in_flight(), 0);
}

#[test]
fn what_waits_when_its_unit_goes_reaches_its_own_file() {
    let folder = disk_folder();
    for engine in [Engine::Auto, Engine::Sync] {
        let open = |name: &str| {
            let path = folder.path().join(format!("{name}-{engine:?}"));
            (
                Backing::open(&file_spec(&path, engine, None)).unwrap(),
                path,
            )
        };
        let ((first, first_path), (second, second_path)) = (open("first"), open("second"));
        let mut set = Set::new(&Options { depth: 2, units: 4 }).unwrap();
        let pool = crate::mem::Pool::new(1 << 20, crate::mem::Pages::Normal).unwrap();
        let write = |lba, fill| {
            let mut buf = pool.alloc(4096).unwrap();
            buf.fill(0, 4096, fill);
            Operation::Write {
                lba,
                blocks: 8,
                buf,
                fua: true,
            }
        };
        set.attach(UnitIndex(1), &first).unwrap();
        for nth in 0..8 {
            submit(&mut set, 1, write(nth * 8, 0x11), nth);
        }
        set.detach(UnitIndex(1));
        set.attach(UnitIndex(1), &second).unwrap();
        submit(&mut set, 1, write(64, 0x22), 8);
        let came = turn_until(&mut set, 9);
        assert!(came.iter().all(|(_, result)| *result == Ok(())), "{came:?}");
        let first = fs::read(first_path).unwrap();
        let second = fs::read(second_path).unwrap();
        assert!(first[..32768].iter().all(|&byte| byte == 0x11));
        assert!(first[32768..].iter().all(|&byte| byte == 0));
        assert!(second[..32768].iter().all(|&byte| byte == 0));
        assert!(second[32768..36864].iter().all(|&byte| byte == 0x22));
    }
}

#[test]
fn an_error_of_a_sync_is_everybodys_whatever_it_is() {
    let folder = disk_folder();
    for errno in [rustix::io::Errno::NODATA, rustix::io::Errno::NOSPC] {
        let disk = Gated::new(&folder, &format!("{errno:?}"));
        let mut driver = Driver::new(&disk.backing);
        // The write fails for itself; the sync of the next one for everybody.
        let write = driver.write_operation(0, 512, &[1; 512], true);
        let own = driver.submit(write);
        disk.gate.send(errno).unwrap();
        driver.wait(own).0.unwrap_err();
        assert!(!disk.backing.write_cache_lost(), "{errno:?}");
        let flush = driver.submit(Operation::Flush);
        disk.gate.send(errno).unwrap();
        driver.wait(flush).0.unwrap_err();
        assert!(disk.backing.write_cache_lost(), "{errno:?}");
        assert_eq!(
            driver.write(0, 512, &[1; 512], false),
            Err(IoError::WriteCacheLost)
        );
        driver.finish();
    }
}

#[test]
fn a_core_sleeps_while_another_has_the_turn_and_is_woken_by_its_end() {
    let folder = disk_folder();
    let disk = Gated::new(&folder, "disk");
    let (mut first, mut second) = (Driver::new(&disk.backing), Driver::new(&disk.backing));
    let one = first.submit(Operation::Flush);
    let two = second.submit(Operation::Flush);
    second.turn();
    assert!(!second.set.needs_poll(), "waiting is no work");
    assert!(second.set.before_sleep(), "it may sleep");
    drop(disk.gate);
    assert_eq!(first.wait(one).0, Ok(()));
    let mut woken = [0; 8];
    let fd = second.set.wake_fds().next().unwrap();
    assert_eq!(rustix::io::read(fd, &mut woken), Ok(8), "signalled");
    second.set.after_sleep();
    assert_eq!(second.wait(two).0, Ok(()));
    first.finish();
    second.finish();
}

#[test]
fn transient_errors_are_tried_again_for_a_time_and_not_without_end() {
    let folder = disk_folder();
    let disk = Gated::new(&folder, "disk");
    let mut set = Set::new(&Options { depth: 2, units: 1 }).unwrap();
    set.attach(UnitIndex(0), &disk.backing).unwrap();
    let pool = crate::mem::Pool::new(1 << 20, crate::mem::Pages::Normal).unwrap();
    let read = || Operation::Read {
        lba: 0,
        blocks: 1,
        buf: pool.alloc(512).unwrap(),
    };
    let start = suite::now();
    let mut done = Vec::with_capacity(4);
    let mut turn = |set: &mut Set, after_ms| {
        set.kick(start + Duration::from_millis(after_ms));
        set.poll(&mut done);
        done.pop().map(|it| (it.token.finish(), it.result))
    };
    // Far more often than any count would allow, within a second: then it succeeds.
    submit(&mut set, 0, read(), 1);
    for _ in 0..500 {
        disk.gate.send(rustix::io::Errno::AGAIN).unwrap();
        while !set.needs_poll() {
            assert_eq!(turn(&mut set, 0), None);
        }
        assert_eq!(turn(&mut set, 0), None);
    }
    disk.gate.send(rustix::io::Errno::AGAIN).unwrap();
    while !set.needs_poll() {
        assert_eq!(turn(&mut set, 0), None);
    }
    set.kick(start + Duration::from_secs(1));
    assert!(!set.needs_poll(), "the core may sleep between later tries");
    assert_eq!(turn(&mut set, 1000), None);
    disk.gate.send(rustix::io::Errno::AGAIN).unwrap();
    let mut came = None;
    while came.is_none() {
        came = turn(&mut set, 5000);
    }
    assert_eq!(came, Some((1, Err(IoError::Resource))));
    assert_eq!(set.in_flight(), 0);
}
