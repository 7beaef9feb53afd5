//! Any bytes on the port, at any pace: nothing that a stranger or a session sends stalls, starves
//! or ends another session, makes memory grow, floods the log or ends the process.
//!
//! The attacks run one after the other against one daemon while an honest session writes and reads.
//! A panic in a data core ends the process and so this test; one in a login is told and looked for.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this whole file is a test"
)]

#[path = "hostile/attacks.rs"]
mod attacks;
#[path = "hostile/log_lines.rs"]
mod log_lines;
#[path = "model/random.rs"]
mod random;
#[path = "common/served.rs"]
mod served;

use attacks::ATTACKS;
use iiblockdaemon::daemon::Hooks;
use iiblockdaemon::reactor::clock;
use iiblockdaemon::testing::Config;
use iiblockdaemon::testing::tcp::{Failure, TcpInitiator};
use random::Random;
use served::{Served, TOML_MEMORY, toml_head, toml_target, toml_unit};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

pub(crate) const TARGET: &str = "iqn.2026-11.io.iiblockdaemon:open";
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// `[limits]` of the daemon below, which has two cores.
pub(crate) const STRANGERS_MAX: usize = 16;
/// login_timeout_s and no_progress_timeout_s, and as much again for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(6);
/// What one honest command may take beside everything else.
const LATENCY_MAX: Duration = Duration::from_secs(2);
/// What the process may have grown by: both sides of every connection are in it.
const GROWTH_BYTES_MAX: usize = 96 << 20;
/// Lines that one second may cost: five kinds of ten each, with their summaries.
const LINES_PER_SECOND_MAX: u64 = 60;

/// A memory disk on two cores that soon lose their patience.
fn configuration() -> String {
    const LIMITS: &str = "[limits]
unauthenticated_connections = 16
login_timeout_s = 2
no_progress_timeout_s = 2
nop_interval_s = 0
";
    [
        &toml_head(2, 32),
        LIMITS,
        &toml_unit("disk", TOML_MEMORY),
        &toml_target(TARGET, "", &["disk"]),
    ]
    .concat()
}

/// An initiator that only wants its disk.
pub(crate) fn honest(address: SocketAddr, qualifier: u16) -> Result<TcpInitiator, Failure> {
    let config =
        Config::new("iqn.2026-11.io.iiblockdaemon:honest", TARGET).with_isid_qualifier(qualifier);
    let mut it = TcpInitiator::connect(address, config, TIMEOUT)?;
    it.clear_unit_attentions(0)?;
    Ok(it)
}

/// Writes and reads until told to end. Returns the number of rounds and the longest.
fn honest_work(mut it: TcpInitiator, end: &AtomicBool) -> (u64, Duration) {
    let (mut rounds, mut longest) = (0, Duration::ZERO);
    while !end.load(SeqCst) {
        let block = vec![u8::try_from(rounds % 251).unwrap(); 4096];
        let since = clock::now();
        it.write_blocks(0, 8 * (rounds % 64), &block, 512).unwrap();
        let read = it.read_blocks(0, 8 * (rounds % 64), 8, 512).unwrap();
        longest = longest.max(clock::now() - since);
        assert_eq!(read, block);
        rounds += 1;
    }
    it.logout().unwrap();
    (rounds, longest)
}

/// Resident bytes of this process.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}

#[test]
fn no_attack_disturbs_an_honest_session_or_the_process() {
    let log = log_lines::watch();
    let served = Served::from_toml(&configuration(), Hooks::default);
    let address = served.address();
    let end = Arc::new(AtomicBool::new(false));
    let work = std::thread::spawn({
        let end = Arc::clone(&end);
        let it = honest(address, 1).unwrap();
        move || honest_work(it, &end)
    });
    let mut random = Random::new(0x4057_113e);
    let before = resident_bytes();
    let since = clock::now();
    for (name, attack) in ATTACKS {
        let started = clock::now();
        attack(address, &mut random);
        let grown = resident_bytes().saturating_sub(before);
        println!("{name}: {:?}, {grown} bytes more", clock::now() - started);
        assert!(
            grown < GROWTH_BYTES_MAX,
            "{name}: memory grew by {grown} bytes"
        );
        let mut other = honest(address, 2).unwrap_or_else(|error| panic!("{name}: {error}"));
        other.logout().unwrap();
    }
    end.store(true, SeqCst);
    let (rounds, longest) = work.join().expect("the honest session lives");
    let seconds = (clock::now() - since).as_secs() + 2;
    println!(
        "honest rounds: {rounds}, the longest {longest:?}; {} log lines",
        log.lines()
    );
    assert!(rounds > 100, "the honest session hardly moved: {rounds}");
    assert!(longest < LATENCY_MAX, "an honest round took {longest:?}");
    let lines = log.lines();
    assert!(lines > 0, "attacks are told");
    assert!(
        lines <= seconds * LINES_PER_SECOND_MAX,
        "{lines} lines in {seconds} seconds"
    );
    assert_eq!(log.panics(), 0, "a login made the daemon panic");
}
