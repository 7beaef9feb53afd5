//! I/O commands through the back door.

use super::harness::{DATA_BYTES, ENTRIES, Pair, Words, plain};
use crate::backend::nvme::model::{Model, ModelOptions};
use crate::backend::nvme::spec::entry::{NamespaceId, QueueId};

const ONE: NamespaceId = NamespaceId(1);
const FLUSH: u8 = 0;
const WRITE: u8 = 1;
const READ: u8 = 2;

#[test]
fn what_is_written_is_read() {
    let model = plain();
    let mut pair = Pair::new(&model);
    let data = pair.data();
    pair.fill(1024, 7);
    let write = Words::new(WRITE, 1, 1).blocks(5, 2).prps(data, 0);
    assert_eq!(pair.run(&model, write), 0);
    assert_eq!(model.block(ONE, 6), [7; 512]);
    assert_eq!(model.durable_block(ONE, 6), [0; 512]);
    pair.fill(1536, 9);
    let read = Words::new(READ, 1, 1).blocks(5, 3).prps(data, 0);
    assert_eq!(pair.run(&model, read), 0);
    let mut expected = vec![7; 1024];
    expected.resize(1536, 0);
    assert_eq!(pair.read_data(1536), expected);
    assert_eq!(pair.run(&model, Words::new(FLUSH, 3, 1)), 0);
    assert_eq!(model.durable_block(ONE, 6), [7; 512]);
    let counters = model.counters();
    assert_eq!((counters.fetched, counters.completed), (3, 3));
    assert_eq!((counters.bytes_in, counters.bytes_out), (1024, 1536));
    assert_eq!(model.verdict(), []);
}

#[test]
fn rings_wrap_and_commands_end_out_of_order() {
    let model = plain();
    let mut pair = Pair::new(&model);
    let data = pair.data();
    let mut in_order = true;
    for round in 0..20_u16 {
        for nth in 0..ENTRIES - 1 {
            let write = Words::new(WRITE, 100 * round + nth, 1);
            pair.put(write.blocks(nth.into(), 1).prps(data, 0));
        }
        pair.ring();
        model.settle();
        let ends: Vec<_> = std::iter::from_fn(|| pair.reap()).collect();
        assert_eq!(ends.len(), usize::from(ENTRIES) - 1);
        assert!(ends.iter().all(|end| end.status().is_success()));
        assert!(ends.iter().all(|end| end.queue() == QueueId(1)));
        let ids: Vec<u16> = ends.iter().map(|end| end.id().0).collect();
        in_order &= ids.is_sorted();
        let mut sorted = ids;
        sorted.sort_unstable();
        let all: Vec<u16> = (100 * round..).take(sorted.len()).collect();
        assert_eq!(sorted, all);
    }
    assert!(!in_order);
}

#[test]
fn a_seed_gives_one_course_of_things() {
    let course = |seed| {
        let model = Model::new(ModelOptions {
            seed,
            ..ModelOptions::default()
        });
        let mut pair = Pair::new(&model);
        let data = pair.data();
        for nth in 0..ENTRIES - 1 {
            pair.put(Words::new(READ, nth, 1).blocks(0, 1).prps(data, 0));
        }
        pair.ring();
        model.settle();
        std::iter::from_fn(|| pair.reap())
            .map(|end| (end.id(), end.head()))
            .collect::<Vec<_>>()
    };
    assert_eq!(course(3), course(3));
    assert!((4..20).any(|seed| course(seed) != course(3)));
}

#[test]
fn nothing_happens_between_steps() {
    let model = plain();
    let mut pair = Pair::new(&model);
    pair.submit(Words::new(FLUSH, 1, 1));
    assert!(!model.is_idle());
    assert_eq!(pair.peek(), None);
    assert_eq!(model.step(1), 1, "it is fetched");
    assert_eq!((pair.peek(), model.in_flight()), (None, 1));
    assert_eq!(model.step(10), 2, "it is carried out and completed");
    assert!(pair.reap().is_some());
    assert!(model.is_idle());
    assert_eq!(model.step(10), 0);
}

#[test]
fn long_transfers_go_through_lists() {
    let model = plain();
    let mut pair = Pair::new(&model);
    let data = pair.data();
    pair.fill(DATA_BYTES, 3);
    // The list is the last page of the data, entries for all pages before it.
    let pages = DATA_BYTES / 4096 - 1;
    let list = data + 4096 * pages as u64;
    for nth in 1..pages {
        let at = super::harness::DATA + 4096 * pages + 8 * (nth - 1);
        pair.pages.write_u64(at, data + 4096 * nth as u64);
    }
    let blocks = u32::try_from(pages * 8).unwrap();
    let write = Words::new(WRITE, 1, 1).blocks(0, blocks).prps(data, list);
    assert_eq!(pair.run(&model, write), 0);
    assert_eq!(model.block(ONE, u64::from(blocks) - 1), [3; 512]);
    assert_eq!(model.counters().bytes_in, u64::from(blocks) * 512);
}

#[test]
fn a_worker_serves_without_being_asked() {
    let model = plain();
    let mut pair = Pair::new(&model);
    let worker = model.run_in_background();
    for cid in 0..100 {
        pair.submit(Words::new(FLUSH, cid, 1));
        while pair.peek().is_none() {
            std::thread::yield_now();
        }
        assert_eq!(pair.reap().unwrap().id().0, cid);
    }
    drop(worker);
    assert_eq!(model.counters().completed, 100);
}
