//! The data path takes and gives back no memory of the heap once a session has been warm: not for
//! READs, not for WRITEs with immediate data or R2T, not with digests, from the socket to the
//! memory disk.
//!
//! A counting allocator looks at the data core's thread alone. That thread marks itself when it is
//! asked for the random bytes of a CHAP challenge, the one place where a test has code of its own
//! on it.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this whole file is a test"
)]

#[path = "common/served.rs"]
mod served;

use iiblockdaemon::daemon::Hooks;
use iiblockdaemon::testing::tcp::{TcpInitiator, read_16, write_16};
use iiblockdaemon::testing::{Command, Config, DataOut, Direction, Event, Scsi};
use served::{
    Served, TARGET, TIMEOUT, TOML_CHAP, TOML_MEMORY, chap, login, toml_head, toml_target, toml_unit,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

const WARM_UP: u32 = 400;
const MEASURED: u32 = 1000;
/// Batches of them, one of which leaves the heap alone.
const ROUNDS: u32 = 5;
const DEPTH: u32 = 16;

fn configuration() -> String {
    [
        &toml_head(1, 64),
        "[limits]\nnop_interval_s = 0\n",
        &toml_unit("disk", TOML_MEMORY),
        &toml_target(TARGET, TOML_CHAP, &["disk"]),
    ]
    .concat()
}

static TAKEN: AtomicU64 = AtomicU64::new(0);
static GIVEN_BACK: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// What this thread takes and gives back is counted.
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

#[global_allocator]
static HEAP: Counting = Counting;

fn count(what: &AtomicU64) {
    // A thread that is ending has no mark any more.
    if COUNTED.try_with(Cell::get).unwrap_or(false) {
        what.fetch_add(1, SeqCst);
    }
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(&TAKEN);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(&GIVEN_BACK);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(&TAKEN);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(&TAKEN);
        count(&GIVEN_BACK);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.realloc(place, layout, size) }
    }
}

/// Runs on the data core's thread.
fn mark_this_thread(bytes: &mut [u8]) {
    COUNTED.with(|counted| counted.set(true));
    getrandom::fill(bytes).expect("the kernel's random source answers");
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Read,
    /// With immediate data as far as they go.
    Write,
    /// All of it on request.
    WriteOnRequest,
}

fn command(way: Way, at: u32, bytes: u32) -> Command {
    let blocks = bytes / 512;
    let lba = u64::from(at % 64 * blocks) % (16 * 1024 * 2 - u64::from(blocks));
    let data = || vec![at.to_be_bytes()[3]; usize::try_from(bytes).expect("small")];
    let (cdb, direction) = match way {
        Way::Read => (read_16(lba, blocks), Direction::In(bytes)),
        Way::Write => (
            write_16(lba, blocks, false),
            Direction::Out(DataOut::new(data())),
        ),
        Way::WriteOnRequest => (
            write_16(lba, blocks, false),
            Direction::Out(DataOut::solicited(data())),
        ),
    };
    Command::Scsi(Scsi::new(0, &cdb, direction))
}

/// Keeps [`DEPTH`] commands under way until `total` have been answered.
fn work(it: &mut TcpInitiator, way: Way, bytes: u32, total: u32) {
    let (mut sent, mut answered) = (0, 0);
    while answered < total {
        while sent < total && sent - answered < DEPTH {
            it.engine().submit(command(way, sent, bytes));
            sent += 1;
        }
        match it.next_event().expect("an answer") {
            Event::Scsi { outcome, .. } => assert!(outcome.is_good(), "{outcome:?}"),
            other => panic!("unexpected: {other:?}"),
        }
        answered += 1;
    }
}

fn counts() -> (u64, u64) {
    (TAKEN.load(SeqCst), GIVEN_BACK.load(SeqCst))
}

fn log_in(served: &Served, digests: bool) -> TcpInitiator {
    let config = Config {
        auth: chap(),
        ..login()
    };
    let config = config.with_digests(digests, digests);
    let mut it = TcpInitiator::connect(served.address(), config, TIMEOUT).expect("a login");
    it.clear_unit_attentions(0).expect("it is ready");
    it
}

#[test]
fn reads_and_writes_of_a_warm_session_leave_the_heap_alone() {
    let hooks = || Hooks {
        random: Some(mark_this_thread),
        ..Hooks::default()
    };
    let served = Served::from_toml(&configuration(), hooks);
    for digests in [false, true] {
        let before_login = counts();
        let mut it = log_in(&served, digests);
        // A login does allocate: the counter sees the right thread.
        assert!(counts().0 > before_login.0, "nothing is counted");
        for (way, bytes) in [
            (Way::Read, 4096),
            (Way::Write, 4096),
            (Way::WriteOnRequest, 4096),
            (Way::Read, 128 * 1024),
            (Way::Write, 128 * 1024),
            (Way::WriteOnRequest, 128 * 1024),
        ] {
            work(&mut it, way, bytes, WARM_UP);
            // News of the unit may come meanwhile, from about once a second; what a command takes
            // would be there every time.
            let quiet = (0..ROUNDS).any(|_| {
                let before = counts();
                work(&mut it, way, bytes, MEASURED);
                counts() == before
            });
            assert!(
                quiet,
                "allocations and frees of {MEASURED} × {way:?} of {bytes} bytes, digests: {digests}"
            );
        }
        it.logout().expect("an end in order");
    }
}
