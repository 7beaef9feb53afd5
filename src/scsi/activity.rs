//! What a unit has done since the daemon started: the counters of the General Statistics log page.
//!
//! One set of counters for each core, which that core alone writes, with plain loads and stores;
//! whoever asks sums them up. The sums of different counters may be of different moments.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

/// The counters of one core.
#[derive(Debug, Default)]
struct Counters {
    read_commands: AtomicU64,
    write_commands: AtomicU64,
    blocks_read: AtomicU64,
    blocks_written: AtomicU64,
}

/// The counters of a unit, as one core sees them.
#[derive(Clone, Debug)]
pub struct Activity {
    own: Arc<CachePadded<Counters>>,
    all: Arc<[Arc<CachePadded<Counters>>]>,
}

/// The sums over all cores.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    pub read_commands: u64,
    pub write_commands: u64,
    pub blocks_read: u64,
    pub blocks_written: u64,
}

impl Activity {
    /// Counters for this many cores, seen by the first.
    pub(super) fn new(cores: usize) -> Self {
        let all: Arc<[_]> = (0..cores.max(1)).map(|_| Arc::default()).collect();
        let own = Arc::clone(&all[0]);
        Self { own, all }
    }

    /// The same counters, seen by `core`; by the first where there are not so many.
    pub(super) fn on(&self, core: usize) -> Self {
        Self {
            own: Arc::clone(self.all.get(core).unwrap_or(&self.own)),
            all: Arc::clone(&self.all),
        }
    }

    /// A command that reads this many blocks.
    pub(super) fn count_read(&self, blocks: u32) {
        add(&self.own.read_commands, 1);
        add(&self.own.blocks_read, u64::from(blocks));
    }

    /// A command that writes this many blocks.
    pub(super) fn count_write(&self, blocks: u32) {
        add(&self.own.write_commands, 1);
        add(&self.own.blocks_written, u64::from(blocks));
    }

    pub(super) fn totals(&self) -> Totals {
        let sum = |of: fn(&Counters) -> &AtomicU64| {
            let each = self.all.iter().map(|core| of(core).load(Ordering::Relaxed));
            each.fold(0, u64::wrapping_add)
        };
        Totals {
            read_commands: sum(|core| &core.read_commands),
            write_commands: sum(|core| &core.write_commands),
            blocks_read: sum(|core| &core.blocks_read),
            blocks_written: sum(|core| &core.blocks_written),
        }
    }
}

/// Adds where nobody else writes.
fn add(counter: &AtomicU64, by: u64) {
    let value = counter.load(Ordering::Relaxed);
    counter.store(value.wrapping_add(by), Ordering::Relaxed);
}

/// Counters are no part of what replicas agree on.
impl PartialEq for Activity {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Activity {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_all_cores_are_summed_up() {
        let first = Activity::new(2);
        let second = first.on(1);
        first.count_read(8);
        second.count_read(1);
        second.count_write(3);
        first.on(7).count_write(4);
        let expected = Totals {
            read_commands: 2,
            write_commands: 2,
            blocks_read: 9,
            blocks_written: 7,
        };
        assert_eq!((first.totals(), second.totals()), (expected, expected));
    }

    #[test]
    fn cores_that_count_at_once_lose_nothing() {
        const EACH: u64 = 100_000;
        let activity = Activity::new(2);
        std::thread::scope(|scope| {
            for core in 0..2 {
                let own = activity.on(core);
                scope.spawn(move || (0..EACH).for_each(|_| own.count_read(2)));
            }
        });
        let totals = activity.totals();
        assert_eq!(
            (totals.read_commands, totals.blocks_read),
            (2 * EACH, 4 * EACH)
        );
    }
}
