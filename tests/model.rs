//! Random operations on a whole daemon, judged by a model of the disk.
//!
//! Several initiators read and write zones of their own on several kinds of logical unit, through
//! two cores; their connections are cut at random moments (in the middle of a PDU, of a write,
//! before an answer, during login) and they log in again with the same ISID. The model knows what
//! every block may hold: an answered write is there; an unanswered one may be there, block by
//! block, and may land until the login that follows is answered and never after it.
//!
//! `MODEL_SEED=… cargo test --test model` repeats a run (threads make their own order of it, so a
//! failure may need a few attempts).

#![expect(
    clippy::tests_outside_test_module,
    reason = "this whole file is a test"
)]

#[path = "model/disk.rs"]
mod disk;
#[path = "model/random.rs"]
mod random;
#[path = "common/served.rs"]
mod served;
#[path = "model/worker.rs"]
mod worker;

use disk::Geometry;
use iiblockdaemon::backend::Faults;
use iiblockdaemon::reactor::clock;
use iiblockdaemon::testing::tcp::{Failure, TcpInitiator};
use iiblockdaemon::testing::{Command, Config, DataOut, Direction, Scsi};
use random::Random;
use served::{Served, TOML_MEMORY, faulty, toml_head, toml_target, toml_unit};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;
use worker::{Mischief, Worker};

pub(crate) const TARGET: &str = "iqn.2026-11.io.iiblockdaemon:model";
pub(crate) const INITIATOR: &str = "iqn.2026-11.io.iiblockdaemon:worker";
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// The units that are served, LUN by LUN.
pub(crate) const UNITS: [Geometry; 4] = [
    Geometry {
        name: "memory512",
        block_bytes: 512,
    },
    Geometry {
        name: "memory4k",
        block_bytes: 4096,
    },
    Geometry {
        name: "ring512",
        block_bytes: 512,
    },
    Geometry {
        name: "sync4k",
        block_bytes: 4096,
    },
];
const WORKERS: u16 = 3;
/// Operations of one worker in one run.
const OPERATIONS: u32 = 1200;
/// A run takes no more operations after this time.
const RUN_MAX: Duration = Duration::from_millis(2500);
const SEEDS: [u64; 2] = [1, 0x5eed_0002];

/// Of each of [`UNITS`].
const BACKENDS: [&str; 4] = [
    TOML_MEMORY,
    TOML_MEMORY,
    r#"{ type = "file", path = "DIR/ring.img", size = "16MiB", engine = "auto" }"#,
    r#"{ type = "file", path = "DIR/sync.img", size = "16MiB", engine = "sync" }"#,
];

fn configuration() -> String {
    let mut toml = toml_head(2, 32);
    for (Geometry { name, block_bytes }, backend) in UNITS.iter().zip(BACKENDS) {
        toml += &toml_unit(name, backend);
        toml += &format!("block_size = {block_bytes}\n");
    }
    toml + &toml_target(TARGET, "", &UNITS.map(|unit| unit.name))
}

/// A daemon whose units can be held and delayed.
fn serve() -> (Served, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    let served = Served::from_toml(&configuration(), faulty(&faults, |_| true));
    (served, faults)
}

/// Holds and delays what is at the devices, for a few milliseconds at a time, until told to end.
fn disturb(faults: &Faults, mut random: Random, end: &Receiver<()>) {
    loop {
        let wait = Duration::from_micros(random.below(4000));
        match end.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
        faults.hold_writes(random.one_in(3));
        faults.delay_polls(if random.one_in(2) { 5 } else { 0 });
    }
    faults.hold_writes(false);
    faults.delay_polls(0);
}

/// One run. Panics when the model is broken; returns how many operations were answered.
fn run(seed: u64, mischief: Mischief) -> u64 {
    let (served, faults) = serve();
    let until = clock::now() + RUN_MAX;
    let address = served.address();
    let (end, ended) = channel();
    let disturber = {
        let random = Random::new(seed ^ 0xd157);
        std::thread::spawn(move || disturb(&faults, random, &ended))
    };
    let workers: Vec<_> = (0..WORKERS)
        .map(|index| {
            std::thread::spawn(move || {
                let random = Random::new(seed.wrapping_add(u64::from(index)));
                let mut worker = Worker::new(address, index, random, mischief);
                worker.run(OPERATIONS, || clock::now() < until)
            })
        })
        .collect();
    let results: Vec<_> = workers
        .into_iter()
        .map(std::thread::JoinHandle::join)
        .collect();
    drop(end);
    disturber.join().expect("nothing in it can fail");
    drop(served);
    let mut answered = 0;
    for result in results {
        match result {
            Ok(count) => answered += count,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    answered
}

#[test]
fn random_operations_and_cuts_agree_with_the_model() {
    let given = std::env::var("MODEL_SEED").ok();
    let seeds = match given {
        Some(seed) => vec![seed.parse().expect("MODEL_SEED is a number")],
        None => {
            let mut fresh = [0; 8];
            getrandom::fill(&mut fresh).expect("the kernel's random source answers");
            let mut seeds = SEEDS.to_vec();
            seeds.push(u64::from_be_bytes(fresh));
            seeds
        }
    };
    for seed in seeds {
        println!("MODEL_SEED={seed}");
        let answered = run(seed, Mischief::None);
        println!("{answered} operations answered");
        assert!(answered > 100, "the run did next to nothing: {answered}");
    }
}

/// The switch with which the model is seen to fail: a write that was not answered lands after the
/// login that superseded its session.
#[test]
fn a_late_landing_is_found_out() {
    let found = catch_unwind(AssertUnwindSafe(|| run(7, Mischief::LateLanding)));
    let message = found.expect_err("a write landed late and nobody noticed");
    let message = message.downcast_ref::<String>().expect("a message");
    assert!(message.contains("may hold"), "{message}");
}

fn write_block(byte: u8) -> Scsi {
    let data = DataOut::new(vec![byte; 512]);
    let cdb = iiblockdaemon::testing::tcp::write_16(8, 1, false);
    Scsi::new(0, &cdb, Direction::Out(data))
}

/// A write of the old session is at the device when its initiator logs in again: the login is
/// answered when the write has ended, and nothing lands later.
#[test]
fn a_held_write_delays_the_login_that_supersedes_its_session() {
    let (served, faults) = serve();
    let config = || Config::new(INITIATOR, TARGET);
    for cut in [false, true] {
        let mut old = TcpInitiator::connect(served.address(), config(), TIMEOUT).unwrap();
        old.clear_unit_attentions(0).unwrap();
        faults.hold_writes(true);
        old.submit(Command::Scsi(write_block(1))).unwrap();
        let deadline = clock::now() + TIMEOUT;
        while faults.held() == 0 {
            assert!(
                clock::now() < deadline,
                "the write never came to the device"
            );
            std::thread::yield_now();
        }
        let kept = (!cut).then_some(old);
        let impatient =
            TcpInitiator::connect(served.address(), config(), Duration::from_millis(150));
        assert!(
            matches!(impatient, Err(Failure::TimedOut)),
            "a login was answered beside a write of the session that it supersedes: {impatient:?}"
        );
        let patient = std::thread::spawn({
            let address = served.address();
            move || TcpInitiator::connect(address, Config::new(INITIATOR, TARGET), TIMEOUT)
        });
        faults.hold_writes(false);
        let mut new = patient.join().unwrap().unwrap();
        new.clear_unit_attentions(0).unwrap();
        new.execute_good(write_block(2)).unwrap();
        assert_eq!(new.read_blocks(0, 8, 1, 512).unwrap(), [2; 512]);
        assert_eq!(faults.held(), 0);
        drop(kept);
        new.logout().unwrap();
    }
}
