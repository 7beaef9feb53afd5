//! What was said to be on the medium is there when power fails.

use super::super::super::bar::Bar;
use super::super::super::dma::Quiet;
use super::bench::{Bench, NSID, geometry, limits, pattern};
use super::{Action, IoError, Limits, Match, Operation, Order, Status, io, zero};

#[test]
fn what_was_flushed_or_written_through_survives_a_power_cut() {
    let mut bench = Bench::opened(8);
    let (first, second) = (pattern(1, 4096), pattern(2, 4096));
    let tag = bench.write(0, 0, &first, true);
    assert_eq!(bench.wait(0, tag).0, Ok(()));
    let tag = bench.write(0, 100, &second, false);
    assert_eq!(bench.wait(0, tag).0, Ok(()));
    let tag = bench.submit(0, Operation::Flush);
    assert_eq!(bench.wait(0, tag).0, Ok(()));
    bench.model.power_cut();
    let durable = |lba: u64| bench.model.durable_block(NSID, lba);
    assert!((0..8).flat_map(durable).eq(first));
    assert!((100..108).flat_map(durable).eq(second));
}

#[test]
fn what_a_unit_without_a_cache_has_changed_survives_a_power_cut() {
    for write_zeroes_bytes in [Some(32 << 10), None] {
        let limits = Limits {
            write_zeroes_bytes,
            ..limits()
        };
        let mut bench = Bench::with(15, limits, geometry(), 1);
        bench.attach_through(3);
        bench.open(1);
        let data = pattern(1, 512 * 64);
        let write = |bench: &Bench, data: &[u8]| Operation::Write {
            lba: 0,
            blocks: u32::try_from(data.len() / 512).unwrap(),
            buf: bench.buf(0, data),
            fua: false,
        };
        let (lba, blocks) = (32, 32);
        for change in [
            write(&bench, &pattern(2, 512 * 64)),
            write(&bench, &data[..512 * 16]),
            zero(16, 16, true),
            Operation::Unmap { lba, blocks },
        ] {
            let tag = bench.submit_to(0, 3, change);
            assert_eq!(bench.wait(0, tag).0, Ok(()));
        }
        assert!(!bench.namespace.empties_cache(false), "nothing stays in it");
        bench.model.power_cut();
        let durable = |lba: u64| bench.model.durable_block(NSID, lba);
        assert!(
            (0..16)
                .flat_map(durable)
                .eq(data[..512 * 16].iter().copied())
        );
        assert!((16..64).flat_map(durable).all(|byte| byte == 0));
    }
}

#[test]
fn a_flush_that_has_failed_is_not_sent_again_by_a_halt() {
    for guests in [0, 1] {
        let mut bench = Bench::with(16, limits(), geometry(), 1 + guests);
        bench.open(1);
        bench.turn(0);
        let data = pattern(1, 512);
        let tag = bench.write(guests, 0, &data, false);
        assert_eq!(bench.wait(guests, tag).0, Ok(()));
        let fault = Action::Status(Status::WRITE_FAULT);
        bench
            .model
            .faults(|plan| plan.once(Match::io(io::FLUSH), fault));
        // Behind more than one batch.
        let reads: Vec<_> = (0..8).map(|_| bench.read(guests, 0, 1)).collect();
        let flush = bench.submit(guests, Operation::Flush);
        bench.core_turn(guests, 0);
        if guests > 0 {
            bench.core_turn(0, 0);
            bench.model.settle();
            for _ in 0..4 {
                bench.core_turn(0, 0);
            }
        }
        // The completion is there, and the order to halt comes before anybody has looked at it.
        bench.model.settle();
        bench.halt();
        for read in reads {
            assert_eq!(bench.wait(guests, read).0, Ok(()));
        }
        assert_eq!(bench.wait(guests, flush).0, Err(IoError::WriteFault));
        bench.handle.bar.reset().unwrap();
        bench.order_all(|| Order::Quiet(Quiet::FunctionReset));
        bench.open(1);
        let flush = bench.submit(guests, Operation::Flush);
        assert_eq!(bench.wait(guests, flush).0, Err(IoError::WriteCacheLost));
    }
}
