//! Queue pairs against the model of a controller: one that keeps the rules, and one that does not.

mod bench;
mod durable;
mod late;
mod random;

use std::time::Duration;

use super::super::facts::{
    Facts, Limits, NamespaceState, RETRY_DELAY_MAX, Settings, State, WAITING_MAX,
};
use super::super::link::{Breach, Generation, Note, Order, ToKeeper};
use super::super::model::faults::{Action, Match};
use super::super::spec::command::io;
use super::super::spec::status::Status;
use super::*;
use bench::{BLOCKS, Bench, NSID, geometry, limits, pattern};

const SECOND: Duration = Duration::from_secs(1);

fn zero(lba: u64, blocks: u64, may_unmap: bool) -> Operation {
    Operation::WriteZeroes {
        lba,
        blocks,
        fua: false,
        may_unmap,
    }
}

fn counter(bench: &Bench, of: impl Fn(&Facts) -> u64) -> u64 {
    of(&bench.handle.facts)
}

fn quarantined(bench: &Bench) -> u64 {
    use std::sync::atomic::Ordering::Relaxed;
    counter(bench, |facts| {
        facts.counters.quarantined_bytes.load(Relaxed)
    })
}

#[test]
fn what_is_written_is_read_whatever_its_length() {
    for boundary_blocks in [0, 24] {
        let mut geometry = geometry();
        geometry.boundary_blocks = boundary_blocks;
        let mut bench = Bench::with(7, limits(), geometry, 1);
        bench.watched = true;
        bench.open(1);
        // Every second chunk is kept, so that buffers are scattered.
        let pool = bench.cores[0].pool.clone();
        let all: Vec<_> = (0..pool.chunks()).map(|_| pool.alloc(1).unwrap()).collect();
        let kept: Vec<_> = all.into_iter().step_by(2).collect();
        for (nth, blocks) in (1..70).chain([128, 511, 1024]).enumerate() {
            let lba = (nth as u64 * 37) % 1000;
            let data = pattern(nth as u64, 512 * blocks);
            let tag = bench.write(0, lba, &data, nth % 2 == 0);
            assert_eq!(bench.wait(0, tag).0, Ok(()));
            assert!(bench.blocks(lba, blocks as u64) == data, "{blocks} blocks");
            let tag = bench.read(0, lba, u32::try_from(blocks).unwrap());
            assert!(bench.contents(0, tag) == data, "{blocks} blocks");
        }
        drop(kept);
        bench.settle();
        assert_eq!(pool.available(), pool.chunks());
    }
}

#[test]
fn a_batch_rings_one_doorbell_and_reads_no_register() {
    let mut bench = Bench::opened(3);
    let before = bench.model.counters();
    for nth in 0..12 {
        bench.read(0, 8 * nth, 8);
    }
    bench.core_turn(0, 0);
    let rung = bench.model.counters().doorbells - before.doorbells;
    assert_eq!(rung, 1, "one for twelve commands");
    bench.model.settle();
    // A quarter of the ring each.
    for polled in 1..=3 {
        bench.core_turn(0, 0);
        assert_eq!(bench.cores[0].answered.len(), 4 * polled);
    }
    let after = bench.model.counters();
    assert_eq!(after.doorbells - before.doorbells, 4);
    assert_eq!(after.register_reads, before.register_reads);
    bench.settle();
    let quiet = bench.model.counters();
    assert_eq!(quiet.doorbells, after.doorbells, "idle turns ring nothing");
}

#[test]
fn more_is_submitted_than_there_are_slots() {
    let mut bench = Bench::opened(4);
    let tags: Vec<u64> = (0..200).map(|nth| bench.read(0, nth, 1)).collect();
    assert_eq!(bench.cores[0].cores.in_flight(), 200);
    bench.core_turn(0, 0);
    assert!(bench.cores[0].cores.needs_poll());
    for tag in tags {
        assert_eq!(bench.wait(0, tag).0, Ok(()));
    }
    assert_eq!(bench.cores[0].cores.in_flight(), 0);
    assert!(!bench.cores[0].cores.needs_poll());
}

#[test]
fn a_long_request_lets_others_pass() {
    let limits = Limits {
        write_zeroes_bytes: Some(512),
        queue_entries: 128,
        ..limits()
    };
    let mut bench = Bench::with(5, limits, geometry(), 1);
    bench.open(1);
    let long = bench.submit(0, zero(0, BLOCKS, false));
    bench.turn(0);
    let short = bench.read(0, 0, 1);
    assert_eq!(bench.wait(0, short).0, Ok(()));
    assert!(!bench.cores[0].answered.contains_key(&long));
    assert_eq!(bench.wait(0, long).0, Ok(()));
    let written = bench.model.counters().io[&io::WRITE_ZEROES];
    assert_eq!(written, BLOCKS, "each block once");
}

#[test]
fn zeroes_and_deallocations_read_as_zeroes() {
    for write_zeroes_bytes in [Some(32 << 10), None] {
        let limits = Limits {
            write_zeroes_bytes,
            ..limits()
        };
        let mut bench = Bench::with(6, limits, geometry(), 1);
        bench.open(1);
        let data = pattern(1, 512 * 1000);
        let tag = bench.write(0, 0, &data, false);
        assert_eq!(bench.wait(0, tag).0, Ok(()));
        let tag = bench.submit(0, zero(3, 300, true));
        assert_eq!(bench.wait(0, tag).0, Ok(()));
        let (lba, blocks) = (500, 333);
        let tag = bench.submit(0, Operation::Unmap { lba, blocks });
        assert_eq!(bench.wait(0, tag).0, Ok(()));
        let found = bench.blocks(0, 1000);
        let mut expected = data;
        expected[512 * 3..512 * 303].fill(0);
        expected[512 * 500..512 * 833].fill(0);
        assert!(found == expected);
        assert!(!bench.model.is_allocated(NSID, 600));
        let zeroed = bench.model.is_allocated(NSID, 100);
        assert_eq!(zeroed, write_zeroes_bytes.is_none());
    }
}

#[test]
fn a_status_is_the_requests_error_and_the_first_one_wins() {
    let mut bench = Bench::opened(9);
    for (status, error) in [
        (Status::UNRECOVERED_READ, IoError::Medium),
        (Status::INTERNAL, IoError::Hardware),
        (Status::ACCESS_DENIED, IoError::Denied),
        (
            Status::NAMESPACE_NOT_READY.with_do_not_retry(),
            IoError::Recovering,
        ),
    ] {
        let fault = Action::Status(status);
        bench
            .model
            .faults(|plan| plan.once(Match::io(io::READ), fault));
        let tag = bench.read(0, 0, 1);
        let (result, buf) = bench.wait(0, tag);
        assert_eq!((result, buf.unwrap().len()), (Err(error), 512));
        assert_eq!(bench.handle.facts.last_failure(), (status, 0));
    }
    // 64 cuts, of which the second fails: what was not sent by then is not sent any more.
    let fault = Action::Status(Status::WRITE_FAULT);
    bench
        .model
        .faults(|plan| plan.nth(Match::io(io::WRITE), 1, fault));
    let before = bench.model.counters().fetched;
    let tag = bench.write(0, 0, &pattern(1, 64 * (16 << 10)), false);
    assert_eq!(bench.wait(0, tag).0, Err(IoError::WriteFault));
    assert!(bench.model.counters().fetched - before < 40);
    bench.settle();
    assert_eq!(bench.cores[0].cores.in_flight(), 0);
}

/// Counts what is logged.
#[derive(Default)]
struct Logged(std::sync::atomic::AtomicUsize);

impl tracing::Subscriber for Logged {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        use std::sync::atomic::Ordering::Relaxed;
        self.0.fetch_add(1, Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_core_waits_for_no_log_when_commands_fail() {
    use std::sync::atomic::Ordering::Relaxed;
    let logged = Arc::new(Logged::default());
    let mut bench = Bench::opened(13);
    let fault = Action::Status(Status::UNRECOVERED_READ);
    bench
        .model
        .faults(|plan| plan.always(Match::io(io::READ), fault));
    tracing::subscriber::with_default(Arc::clone(&logged), || {
        for lba in 0..3 {
            let tag = bench.read(0, lba, 1);
            assert_eq!(bench.wait(0, tag).0, Err(IoError::Medium));
            bench.pass(60 * SECOND);
        }
    });
    assert_eq!(logged.0.load(Relaxed), 0);
    let errors = counter(&bench, |facts| facts.counters.errors.load(Relaxed));
    assert_eq!(errors, 3);
    let last = bench.handle.facts.last_failure();
    assert_eq!(last, (Status::UNRECOVERED_READ, 2));
    let fault = Action::Status(Status::WRITE_FAULT);
    bench
        .model
        .faults(|plan| plan.once(Match::io(io::FLUSH), fault));
    tracing::subscriber::with_default(Arc::clone(&logged), || {
        for error in [IoError::WriteFault, IoError::WriteCacheLost] {
            let tag = bench.submit(0, Operation::Flush);
            assert_eq!(bench.wait(0, tag).0, Err(error));
        }
    });
    assert_eq!(logged.0.load(Relaxed), 0);
    // That is the keeper's, once.
    let told = [(); 2].map(|()| bench.namespace.has_failed_flush());
    assert_eq!(told, [true, false]);
}

#[test]
fn what_is_not_ready_is_sent_again_a_few_times() {
    let mut bench = Bench::opened(10);
    bench.handle.facts.set_retry_delays([3, 0, 0]);
    let busy = Action::Status(Status::from_field(
        Status::NAMESPACE_NOT_READY.field() | 1 << 11,
    ));
    bench.model.faults(|plan| plan.once(Match::any_io(), busy));
    let tag = bench.read(0, 0, 1);
    bench.settle();
    bench.pass(Duration::from_millis(299));
    bench.settle();
    assert!(bench.cores[0].answered.is_empty(), "not before its delay");
    assert!(!bench.cores[0].cores.needs_poll(), "a delay is no work");
    bench.pass(Duration::from_millis(1));
    bench.settle();
    assert_eq!(bench.wait(0, tag).0, Ok(()));
    // For ever: one try and three more.
    bench
        .model
        .faults(|plan| plan.always(Match::any_io(), busy));
    let before = bench.model.counters().fetched;
    let tag = bench.read(0, 0, 1);
    for _ in 0..4 {
        bench.settle();
        bench.pass(RETRY_DELAY_MAX);
    }
    assert_eq!(bench.wait(0, tag).0, Err(IoError::Recovering));
    assert_eq!(bench.model.counters().fetched - before, 4);
}

impl Bench {
    /// Turns where a command never completes.
    fn settle_some(&mut self) {
        for _ in 0..50 {
            self.turn(8);
        }
    }
}

#[test]
fn a_controller_that_breaks_a_rule_is_left_alone_and_reported() {
    let unknown = |breach: &Breach| matches!(breach, Breach::UnknownCommand(_));
    let queue = |breach: &Breach| matches!(breach, Breach::WrongQueue(9));
    type Expected = fn(&Breach) -> bool;
    let faults: [(Action, Expected); 5] = [
        (Action::WrongCid(0xffff), unknown),
        (Action::WrongCid(15), unknown),
        (Action::WrongCid(0x0400), unknown),
        (Action::Duplicate, unknown),
        (Action::WrongQueue(9), queue),
    ];
    for (nth, (action, expected)) in faults.into_iter().enumerate() {
        let mut bench = Bench::opened(12 + nth as u64);
        bench.watched = true;
        bench
            .model
            .faults(|plan| plan.nth(Match::any_io(), 1, action));
        let data = pattern(nth as u64, 4096);
        let write = bench.write(0, 8, &data, false);
        let reads: Vec<u64> = (0..3).map(|_| bench.read(0, 0, 8)).collect();
        bench.settle_some();
        let Some(Note::Broken(Generation(1), breach)) = bench.note() else {
            panic!("{action:?} is a breach");
        };
        assert!(expected(&breach), "{action:?} is no {breach}");
        let rung = bench.model.counters().doorbells;
        bench.settle_some();
        assert_eq!(bench.model.counters().doorbells, rung, "{action:?}");
        assert!(bench.note().is_none(), "said once");
        bench.reset();
        bench.open(1);
        assert_eq!(bench.wait(0, write).0, Ok(()));
        for read in reads {
            assert_eq!(bench.wait(0, read).0, Ok(()));
        }
        assert!(bench.blocks(8, 8) == data);
    }
}

#[test]
fn a_controller_that_says_nothing_true_of_its_head_is_served() {
    for head in [0, 15, 16, u16::MAX] {
        let mut bench = Bench::opened(64);
        bench
            .model
            .faults(|plan| plan.always(Match::any_io(), Action::WrongHead(head)));
        for nth in 0..40 {
            let data = pattern(nth, 512);
            let tag = bench.write(0, nth, &data, false);
            assert_eq!(bench.wait(0, tag).0, Ok(()), "{head}");
            assert!(bench.blocks(nth, 1) == data);
        }
        assert!(bench.note().is_none(), "{head}");
    }
}

#[test]
fn a_completion_of_the_last_lap_is_not_taken() {
    let mut bench = Bench::opened(20);
    // Once around the ring, so that old entries lie there.
    for _ in 0..20 {
        let tag = bench.read(0, 0, 1);
        assert_eq!(bench.wait(0, tag).0, Ok(()));
    }
    bench
        .model
        .faults(|plan| plan.once(Match::any_io(), Action::StalePhase));
    let tag = bench.read(0, 1, 1);
    bench.settle_some();
    assert!(bench.cores[0].answered.is_empty());
    bench.pass(Settings::default().io_timeout);
    bench.turn(0);
    assert!(matches!(bench.note(), Some(Note::Late { .. })));
    bench.reset();
    bench.open(1);
    assert_eq!(bench.wait(0, tag).0, Ok(()));
}

#[test]
fn a_halt_at_any_step_loses_nothing() {
    for steps in 0..60 {
        let mut bench = Bench::opened(1000 + steps as u64);
        bench.watched = true;
        let data = pattern(steps as u64, 40 << 10);
        let write = bench.write(0, 64, &data, false);
        let reads: Vec<u64> = (0..6).map(|nth| bench.read(0, 200 + nth, 3)).collect();
        let flush = bench.submit(0, Operation::Flush);
        bench.core_turn(0, steps);
        bench.reset();
        // What comes meanwhile waits.
        let late = bench.read(0, 3, 1);
        bench.turn(8);
        let answered = bench.cores[0].answered.len();
        bench.open(1);
        for tag in reads.into_iter().chain([write, flush, late]) {
            assert_eq!(
                bench.wait(0, tag).0,
                Ok(()),
                "{steps} steps, {answered} before"
            );
        }
        assert!(bench.blocks(64, 80) == data, "{steps} steps");
    }
}

#[test]
fn a_command_is_sent_again_behind_two_resets_and_no_more() {
    let mut bench = Bench::opened(30);
    bench
        .model
        .faults(|plan| plan.always(Match::any_io(), Action::Drop));
    let tag = bench.read(0, 0, 4);
    for reset in 0..3 {
        assert!(bench.cores[0].answered.is_empty(), "{reset}");
        bench.settle_some();
        bench.reset();
        bench.turn(0);
        bench.open(1);
    }
    let (result, buf) = bench.wait(0, tag);
    assert_eq!(
        (result, buf.unwrap().len()),
        (Err(IoError::Recovering), 2048)
    );
}

#[test]
fn without_proof_buffers_are_kept_from_everybody() {
    let mut bench = Bench::opened(31);
    bench
        .model
        .faults(|plan| plan.once(Match::io(io::READ), Action::Drop));
    let pool = bench.cores[0].pool.clone();
    // Two commands of one request; and a request that was not sent.
    let lost = bench.read(0, 0, 64);
    bench.settle_some();
    bench.halt();
    let held = bench.write(0, 0, &pattern(1, 512), false);
    bench.turn(0);
    assert!(bench.cores[0].answered.is_empty(), "they are held");
    // For too long.
    bench.pass(Settings::default().hold_max);
    bench.turn(0);
    let (result, buf) = bench.cores[0].answered.remove(&lost).unwrap();
    assert_eq!((result, buf.is_none()), (Err(IoError::Recovering), true));
    let (result, buf) = bench.cores[0].answered.remove(&held).unwrap();
    assert_eq!((result, buf.is_some()), (Err(IoError::Recovering), true));
    drop(buf);
    assert_eq!(quarantined(&bench), 32 << 10);
    assert_eq!((pool.lent(), pool.chunks() - pool.available()), (2, 2));
    bench.handle.facts.set_state(State::Failed);
    bench.order_all(|| Order::Fail);
    bench.turn(0);
    assert_eq!(quarantined(&bench), 32 << 10);
    // The next ladder has more luck.
    bench.reset();
    bench.turn(0);
    assert_eq!(quarantined(&bench), 0);
    assert_eq!((pool.lent(), pool.available()), (0, pool.chunks()));
    let refused = bench.read(0, 0, 1);
    assert_eq!(bench.wait(0, refused).0, Err(IoError::NotReady));
    bench.open(1);
    bench.turn(0);
    let tag = bench.read(0, 0, 1);
    assert_eq!(bench.wait(0, tag).0, Ok(()));
}

#[test]
fn requests_are_held_for_a_while_and_then_told_to_come_again() {
    let hold = Settings::default().hold_max;
    let mut bench = Bench::new(32);
    let first = bench.read(0, 0, 1);
    bench.turn(8);
    bench.pass(hold - SECOND);
    bench.turn(8);
    assert!(bench.cores[0].answered.is_empty());
    bench.open(1);
    assert_eq!(bench.wait(0, first).0, Ok(()));
    // Halted for ever, with a command outstanding of which nobody says what became of it.
    bench
        .model
        .faults(|plan| plan.once(Match::any_io(), Action::Drop));
    let outstanding = bench.read(0, 0, 1);
    bench.settle_some();
    bench.halt();
    let held = bench.read(0, 1, 1);
    bench.turn(0);
    bench.pass(hold);
    bench.turn(0);
    let (result, buf) = bench.wait(0, outstanding);
    assert_eq!((result, buf.is_none()), (Err(IoError::Recovering), true));
    assert_eq!(bench.wait(0, held).0, Err(IoError::Recovering));
    let later = bench.read(0, 1, 1);
    bench.core_turn(0, 0);
    let (result, _) = bench.cores[0].answered.remove(&later).unwrap();
    assert_eq!(result, Err(IoError::Recovering), "at once");
    bench.reset();
    bench.open(1);
    bench.turn(0);
    let tag = bench.read(0, 1, 1);
    assert_eq!(bench.wait(0, tag).0, Ok(()));
}

#[test]
fn a_controller_that_was_taken_away_is_absent() {
    let mut bench = Bench::opened(33);
    bench.handle.facts.set_state(State::Gone);
    bench
        .model
        .faults(|plan| plan.once(Match::any_io(), Action::Drop));
    bench.order_all(|| Order::Fail);
    let before = bench.read(0, 0, 1);
    assert_eq!(bench.wait(0, before).0, Err(IoError::Absent));
    let after = bench.read(0, 0, 1);
    assert_eq!(bench.wait(0, after).0, Err(IoError::Absent));
}

#[test]
fn a_namespace_says_what_can_be_done_with_it() {
    let mut bench = Bench::opened(34);
    for (state, read, write) in [
        (
            NamespaceState::ReadOnly,
            Ok(()),
            Err(IoError::WriteProtected),
        ),
        (
            NamespaceState::Missing,
            Err(IoError::Absent),
            Err(IoError::Absent),
        ),
        (
            NamespaceState::Changed,
            Err(IoError::NotReady),
            Err(IoError::NotReady),
        ),
        (NamespaceState::Active, Ok(()), Ok(())),
    ] {
        bench.namespace.set_state(state);
        let tag = bench.read(0, 0, 1);
        assert_eq!(bench.wait(0, tag).0, read, "{state:?}");
        let tag = bench.write(0, 0, &[1; 512], false);
        assert_eq!(bench.wait(0, tag).0, write, "{state:?}");
    }
    bench.namespace.set_blocks(10);
    let tag = bench.read(0, 9, 2);
    assert_eq!(bench.wait(0, tag).0, Err(IoError::OutOfRange));
}

#[test]
fn what_waits_is_bounded() {
    let mut bench = Bench::new(35);
    let flushes: Vec<u64> = (0..=WAITING_MAX)
        .map(|_| bench.submit(0, Operation::Flush))
        .collect();
    bench.turn(0);
    let last = *flushes.last().unwrap();
    let (result, _) = bench.cores[0].answered.remove(&last).unwrap();
    assert_eq!(result, Err(IoError::Resource));
    assert!(bench.cores[0].answered.is_empty());
    bench.open(1);
    for &tag in &flushes[..WAITING_MAX] {
        assert_eq!(bench.wait(0, tag).0, Ok(()));
    }
}

#[test]
fn a_buffer_that_the_device_cannot_reach_is_refused() {
    let mut bench = Bench::opened(36);
    let other = Pool::new(4096, Pages::Normal).unwrap();
    let buf = other.alloc(512).unwrap();
    let operation = Operation::Read {
        lba: 0,
        blocks: 1,
        buf,
    };
    let tag = bench.submit(0, operation);
    let (result, buf) = bench.wait(0, tag);
    assert_eq!(
        (result, buf.map(|buf| buf.len())),
        (Err(IoError::Resource), Some(512))
    );
}

#[test]
fn cores_without_a_pair_send_through_another_core() {
    let mut bench = Bench::with(40, limits(), geometry(), 5);
    bench.watched = true;
    bench.open(2);
    bench.turn(0);
    let mut written = Vec::new();
    for round in 0..30 {
        for nth in 0..5 {
            let lba = 100 * nth + round;
            let data = pattern(lba, 3 * 512);
            let tag = bench.write(usize::try_from(nth).unwrap(), lba, &data, false);
            written.push((nth, tag));
        }
        bench.turn(4);
    }
    for (nth, tag) in written {
        let nth = usize::try_from(nth).unwrap();
        assert_eq!(bench.wait(nth, tag).0, Ok(()), "core {nth}");
    }
    for nth in 0..5 {
        let tag = bench.read(4 - usize::try_from(nth).unwrap(), 100 * nth + 29, 3);
        let core = 4 - usize::try_from(nth).unwrap();
        assert!(bench.contents(core, tag) == pattern(100 * nth + 29, 3 * 512));
    }
    for core in &bench.cores {
        assert_eq!(core.cores.in_flight(), 0, "guests that want nothing");
    }
    let tag = bench.read(2, 0, 1);
    bench.core_turn(2, 0);
    assert_eq!(bench.cores[0].cores.in_flight(), 1, "not taken yet");
    bench.core_turn(0, 0);
    assert_eq!(bench.cores[0].cores.in_flight(), 1, "outstanding");
    assert_eq!(bench.wait(2, tag).0, Ok(()));
    assert_eq!(bench.cores[0].cores.in_flight(), 0);
    // The units go, and a host's pair stays until its guests have gone.
    let left = |bench: &Bench| {
        let notes = bench.notes.try_iter();
        let leave = |note: &ToKeeper<_>| matches!(note, ToKeeper::Note(_, Note::Leave(_)));
        notes.filter(leave).count()
    };
    bench.cores[0].cores.detach(2);
    bench.turn(0);
    assert_eq!(left(&bench), 0);
    let rest = bench.cores.split_off(2);
    drop(rest);
    bench.turn(0);
    assert_eq!(left(&bench), 4, "the guests, and the host");
}

#[test]
fn guests_lose_nothing_when_the_controller_is_reset() {
    for steps in 0..30 {
        let mut bench = Bench::with(50 + steps as u64, limits(), geometry(), 3);
        bench.watched = true;
        bench.open(1);
        bench.turn(0);
        let data = pattern(9, 20 << 10);
        let guest = bench.write(1, 0, &data, false);
        let host = bench.write(0, 1000, &data, false);
        let reads: Vec<u64> = (0..5).map(|nth| bench.read(2, 500 + nth, 1)).collect();
        // The guests' commands are on their way when the host turns.
        for nth in [1, 2, 0] {
            bench.core_turn(nth, steps);
        }
        bench.reset();
        bench.turn(0);
        bench.open(1);
        assert_eq!(bench.wait(1, guest).0, Ok(()), "{steps}");
        assert_eq!(bench.wait(0, host).0, Ok(()), "{steps}");
        for tag in reads {
            assert_eq!(bench.wait(2, tag).0, Ok(()), "{steps}");
        }
        assert!(bench.blocks(0, 40) == data && bench.blocks(1000, 40) == data);
    }
}

#[test]
fn the_last_unit_takes_the_pair_with_it_when_nothing_is_outstanding() {
    let mut bench = Bench::opened(60);
    let tag = bench.read(0, 0, 1);
    bench.core_turn(0, 0);
    bench.cores[0].cores.detach(2);
    assert!(bench.note().is_none(), "a command is outstanding");
    let refused = bench.read(0, 0, 1);
    assert_eq!(bench.wait(0, refused).0, Err(IoError::NotReady));
    assert_eq!(bench.wait(0, tag).0, Ok(()), "what was under way completes");
    bench.turn(0);
    let Some(Note::Leave(pages)) = bench.note() else {
        panic!("the rings are for the keeper");
    };
    assert_eq!(bench.model.mappings(), 1, "the pool's went");
    // As a keeper does once the queues are deleted.
    bench.handle.bar.reset().unwrap();
    drop(pages);
    assert_eq!(bench.model.mappings(), 0);
}

#[test]
fn a_core_that_ends_too_early_leaves_its_memory_to_the_device() {
    let mut bench = Bench::opened(61);
    bench
        .model
        .faults(|plan| plan.once(Match::any_io(), Action::Drop));
    bench.read(0, 0, 1);
    bench.settle_some();
    drop(bench.cores.pop());
    assert_eq!(bench.model.mappings(), 2, "pool and rings stay");
    assert_eq!(quarantined(&bench), 512);
    // The keeper learns it, deletes the queue, and guests go elsewhere.
    let Some(Note::Leave(pages)) = bench.note() else {
        panic!("the rings are for the keeper");
    };
    bench.handle.bar.reset().unwrap();
    drop(pages);
    assert_eq!(bench.model.mappings(), 1, "the pool stays");
}

#[test]
fn a_guest_that_ends_too_early_says_that_it_has_left() {
    let mut bench = Bench::with(64, limits(), geometry(), 2);
    bench.open(1);
    bench.turn(0);
    bench
        .model
        .faults(|plan| plan.once(Match::any_io(), Action::Drop));
    bench.read(1, 0, 1);
    bench.settle_some();
    let mapped = bench.model.mappings();
    drop(bench.cores.pop());
    // Nobody waits for its answers any more, and its lists stay where its command finds them.
    assert!(matches!(bench.note(), Some(Note::Leave(None))));
    assert_eq!(bench.model.mappings(), mapped);
    bench.handle.bar.reset().unwrap();
}

#[test]
fn a_guest_whose_host_is_held_up_says_so() {
    let mut bench = Bench::with(63, limits(), geometry(), 2);
    bench.open(1);
    bench.turn(0);
    let tag = bench.read(1, 0, 1);
    bench.core_turn(1, 0);
    let (began, timeout) = (bench.now, Settings::default().io_timeout);
    let mut told = None;
    while told.is_none() {
        bench.pass(SECOND / 2);
        bench.core_turn(1, 0);
        told = bench.note();
    }
    let passed = bench.now - began;
    let again = matches!(told, Some(Note::Late { again: true, .. }));
    assert!(again && passed == timeout * 3, "{told:?} {passed:?}");
    bench.pass(60 * SECOND);
    bench.core_turn(1, 0);
    assert!(bench.note().is_none(), "once is enough");
    // It was not for nothing: behind the reset the command is sent again.
    bench.reset();
    bench.open(1);
    assert_eq!(bench.wait(1, tag).0, Ok(()));
}

#[test]
fn nothing_is_asked_of_the_device_where_nothing_is_to_be_done() {
    let limits = Limits {
        write_cache: false,
        ..limits()
    };
    let mut bench = Bench::with(62, limits, geometry(), 1);
    let flush = bench.submit(0, Operation::Flush);
    bench.core_turn(0, 0);
    let (result, buf) = bench.wait(0, flush);
    assert!(result == Ok(()) && buf.is_none());
    assert_eq!(bench.model.counters().doorbells, 0);
}
