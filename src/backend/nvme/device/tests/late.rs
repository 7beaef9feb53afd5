//! Commands that do not complete in time.

use super::super::super::facts::Settings;
use super::super::super::link::Note;
use super::super::super::model::faults::{Action, Match};
use super::bench::Bench;
use super::{Operation, zero};

#[test]
fn a_late_command_is_told_of_twice() {
    let mut bench = Bench::opened(11);
    bench
        .model
        .faults(|plan| plan.once(Match::any_io(), Action::Drop));
    let tag = bench.read(0, 0, 1);
    bench.settle_some();
    let timeout = Settings::default().io_timeout;
    bench.pass(timeout);
    bench.turn(8);
    let Some(Note::Late { id, again, .. }) = bench.note() else {
        panic!("it is late");
    };
    assert!(!again);
    bench.turn(8);
    assert!(bench.note().is_none());
    bench.pass(timeout);
    bench.turn(8);
    let Some(Note::Late {
        id: same, again, ..
    }) = bench.note()
    else {
        panic!("it is late again");
    };
    assert!(again && same == id);
    bench.pass(10 * timeout);
    bench.turn(8);
    assert!(bench.note().is_none(), "there is nothing more to say");
    bench.reset();
    bench.open(1);
    assert_eq!(bench.wait(0, tag).0, Ok(()), "sent again behind the reset");
}

#[test]
fn what_works_on_much_of_the_medium_has_longer() {
    let (flush, short) = (Operation::Flush, Settings::default().io_timeout);
    let (lba, blocks) = (0, 8);
    for slow in [flush, zero(0, 8, false), Operation::Unmap { lba, blocks }] {
        let mut bench = Bench::opened(14);
        bench
            .model
            .faults(|plan| plan.always(Match::any_io(), Action::Drop));
        bench.submit(0, slow);
        bench.turn(8);
        bench.read(0, 100, 1);
        bench.turn(8);
        let late = |bench: &mut Bench| {
            bench.pass(short);
            bench.turn(8);
            let mut notes = std::iter::from_fn(|| bench.note());
            let again = |note| match note {
                Note::Late { again, .. } => again,
                other => panic!("{other:?}"),
            };
            notes.by_ref().map(again).collect::<Vec<_>>()
        };
        assert_eq!(late(&mut bench), [false], "the read, which came later");
        assert_eq!(late(&mut bench), [true, false]);
        assert_eq!(late(&mut bench), [true], "and then no longer than others");
        assert!(late(&mut bench).is_empty());
        bench.reset();
        bench.open(1);
        bench.model.faults(|plan| plan.clear());
        bench.settle();
        assert_eq!(bench.cores[0].answered.len(), 2);
    }
}

#[test]
fn a_pause_of_the_controller_is_not_made_longer() {
    let mut bench = Bench::opened(17);
    bench
        .model
        .faults(|plan| plan.always(Match::any_io(), Action::Delay(1000)));
    // All that the queue takes.
    let slow: Vec<_> = (0..15).map(|nth| bench.read(0, nth, 1)).collect();
    bench.turn(1);
    bench.pass(Settings::default().io_timeout);
    bench.turn(1);
    let told = std::iter::from_fn(|| bench.note()).count();
    assert_eq!(told, 3, "a share of them may be aborted");
    let timeouts = &bench.handle.facts.counters.timeouts;
    let others = timeouts.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(others, 12, "the keeper counts those that it is told of");
    bench.model.faults(|plan| plan.clear());
    for tag in slow {
        assert_eq!(bench.wait(0, tag).0, Ok(()));
    }
    // At once, and all slots are there a second later.
    let tag = bench.read(0, 0, 1);
    assert_eq!(bench.wait(0, tag).0, Ok(()));
    for after in [12, 15] {
        let before = bench.model.counters().fetched;
        let tags: Vec<_> = (0..20).map(|nth| bench.read(0, nth, 1)).collect();
        bench.core_turn(0, 0);
        bench.model.settle();
        assert_eq!(bench.model.counters().fetched - before, after);
        for tag in tags {
            assert_eq!(bench.wait(0, tag).0, Ok(()));
        }
        bench.pass(Settings::default().rest());
        bench.turn(0);
    }
}
