//! What a block may hold: the oracle of the property tests.
//!
//! A block's content is a stamp, repeated. Each block has the row of its stamps that the medium or
//! the cache may still hold, the oldest first. Nothing is written to a block on which a change is
//! under way, so the row is in the order of time.

use std::collections::BTreeMap;

/// What became of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Pending,
    Done,
    /// It may have been carried out or not.
    Unknown,
}

/// Stamp of blocks that hold zeroes.
pub(super) const ZEROES: u32 = 0;

#[derive(Clone, Debug)]
struct Row {
    /// How many were dropped from the front.
    gone: usize,
    stamps: Vec<(u32, Fate)>,
}

impl Default for Row {
    fn default() -> Self {
        Self {
            gone: 0,
            stamps: vec![(ZEROES, Fate::Done)],
        }
    }
}

impl Row {
    /// The place of the last change that is done.
    fn last_done(&self) -> usize {
        let done = |(_, fate): &(u32, Fate)| *fate == Fate::Done;
        self.stamps.iter().rposition(done).expect("there always is")
    }

    fn settle(&mut self, stamp: u32) {
        self.gone += self.stamps.len();
        self.stamps = vec![(stamp, Fate::Done)];
    }
}

/// A flush that was begun: what it will have brought to the medium.
#[derive(Clone, Debug)]
pub(super) struct Mark(BTreeMap<u64, usize>);

/// All blocks of a namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    rows: BTreeMap<u64, Row>,
}

impl Blocks {
    fn row(&mut self, lba: u64) -> &mut Row {
        self.rows.entry(lba).or_default()
    }

    pub(super) fn begin(&mut self, lba: u64, stamp: u32) {
        let row = self.row(lba);
        assert!(row.stamps.iter().all(|(_, fate)| *fate != Fate::Pending));
        row.stamps.push((stamp, Fate::Pending));
    }

    /// With `through` it is on the medium.
    pub(super) fn end(&mut self, lba: u64, good: bool, through: bool) {
        let row = self.row(lba);
        let last = row.stamps.last_mut().expect("it was begun");
        assert_eq!(last.1, Fate::Pending);
        last.1 = if good { Fate::Done } else { Fate::Unknown };
        let stamp = last.0;
        if good && through {
            row.settle(stamp);
        }
    }

    pub(super) fn mark(&self) -> Mark {
        let places = self
            .rows
            .iter()
            .map(|(lba, row)| (*lba, row.gone + row.last_done()));
        Mark(places.collect())
    }

    /// The flush has completed: what was done before it began has come to the medium.
    pub(super) fn flushed(&mut self, mark: &Mark) {
        for (lba, place) in &mark.0 {
            let row = self.row(*lba);
            let older = place.saturating_sub(row.gone);
            row.stamps.drain(..older);
            row.gone += older;
        }
    }

    /// What a read may return now.
    pub(super) fn check(&mut self, lba: u64, stamp: u32) -> Result<(), String> {
        let row = self.row(lba);
        let current = &row.stamps[row.last_done()..];
        if current.iter().any(|(known, _)| *known == stamp) {
            return Ok(());
        }
        Err(format!("block {lba} is {stamp}, and may be {current:?}"))
    }

    /// What a block may hold behind a power cut; from then on it holds that.
    pub(super) fn check_after_cut(&mut self, lba: u64, stamp: u32) -> Result<(), String> {
        let row = self.row(lba);
        let known = row.stamps.iter().any(|(known, _)| *known == stamp);
        let found = format!("block {lba} is {stamp}, and may be {:?}", row.stamps);
        row.settle(stamp);
        known.then_some(()).ok_or(found)
    }
}

#[test]
fn rows_know_what_may_be_there() {
    let mut blocks = Blocks::default();
    blocks.begin(1, 7);
    blocks.end(1, true, false);
    assert!(blocks.check(1, 7).is_ok() && blocks.check(1, 0).is_err());
    let mark = blocks.mark();
    blocks.begin(1, 8);
    blocks.end(1, false, false);
    assert!(blocks.check(1, 7).is_ok() && blocks.check(1, 8).is_ok());
    blocks.clone().check_after_cut(1, 0).unwrap();
    blocks.flushed(&mark);
    assert!(blocks.clone().check_after_cut(1, 0).is_err());
    blocks.clone().check_after_cut(1, 7).unwrap();
    blocks.clone().check_after_cut(1, 8).unwrap();
    blocks.begin(1, 9);
    blocks.end(1, true, true);
    assert!(blocks.check_after_cut(1, 8).is_err());
}
