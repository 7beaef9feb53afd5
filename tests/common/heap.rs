//! A counting allocator that looks at the threads that mark themselves, and what is measured with
//! it: READs and WRITEs of a session that is warm.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use iiblockdaemon::testing::tcp::{TcpInitiator, read_16, write_16};
use iiblockdaemon::testing::{Command, DataOut, Direction, Event, Scsi};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

const WARM_UP: u32 = 400;
const MEASURED: u32 = 250;
/// Batches of them, one of which leaves the heap alone.
const ROUNDS: u32 = 20;
const DEPTH: u32 = 16;

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

/// What the calling thread takes and gives back is counted from now on.
pub(crate) fn count_this_thread() {
    COUNTED.with(|counted| counted.set(true));
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

/// Allocations and frees of the marked threads.
pub(crate) fn counts() -> (u64, u64) {
    (TAKEN.load(SeqCst), GIVEN_BACK.load(SeqCst))
}

/// Commands of every kind, each once warm, cost no allocation and no free.
pub(crate) fn assert_left_alone(it: &mut TcpInitiator) {
    for (way, bytes) in [
        (Way::Read, 4096),
        (Way::Write, 4096),
        (Way::WriteOnRequest, 4096),
        (Way::Read, 128 * 1024),
        (Way::Write, 128 * 1024),
        (Way::WriteOnRequest, 128 * 1024),
    ] {
        work(it, way, bytes, WARM_UP);
        // News of the unit may come meanwhile, from about once a second; what a command takes would
        // be there every time.
        let quiet = (0..ROUNDS).any(|_| {
            let before = counts();
            work(it, way, bytes, MEASURED);
            counts() == before
        });
        assert!(
            quiet,
            "allocations and frees of {MEASURED} × {way:?} of {bytes} bytes"
        );
    }
}
