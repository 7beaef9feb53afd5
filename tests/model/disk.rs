//! What the blocks of a zone may hold.
//!
//! Time is a count of events. A write may take effect at any time from its submission to its end;
//! the end of one that was never answered is the answer to the login that superseded its session. A
//! block holds the value of one of its candidates: an answered write drives out those that ended
//! before it began, a read that nothing overlapped leaves the one that it saw.

use std::ops::Range;

/// Bytes of the pattern that fills a block, so that a torn one shows.
const GRAIN_BYTES: usize = 16;
/// Stands in the pattern for the block's address where one block was written to many.
const ANY_LBA: u64 = u64::MAX;

/// A unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) name: &'static str,
    pub(crate) block_bytes: u32,
}

/// Names a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp(u32);

#[derive(Clone, Debug)]
struct Candidate {
    stamp: Stamp,
    /// What the block would hold: the stamp, or zero.
    value: u32,
    begun: u64,
    ended: Option<u64>,
    driven_out: Option<u64>,
}

/// A run of blocks that one worker writes alone.
#[derive(Debug)]
pub(crate) struct Zone {
    pub(crate) geometry: Geometry,
    pub(crate) first_lba: u64,
    blocks: Vec<Vec<Candidate>>,
    now: u64,
    last_stamp: u32,
}

impl Zone {
    /// Blocks that hold zeroes.
    pub(crate) fn new(geometry: Geometry, first_lba: u64, blocks: usize) -> Self {
        let zeroes = Candidate {
            stamp: Stamp(0),
            value: 0,
            begun: 0,
            ended: Some(0),
            driven_out: None,
        };
        Self {
            geometry,
            first_lba,
            blocks: vec![vec![zeroes]; blocks],
            now: 1,
            last_stamp: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Something happens: what comes later compares as later.
    pub(crate) fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// A write of its own pattern, or of zeroes, is submitted.
    pub(crate) fn begin(&mut self, range: Range<usize>, zeroes: bool) -> Stamp {
        let begun = self.tick();
        self.last_stamp += 1;
        let stamp = Stamp(self.last_stamp);
        for block in &mut self.blocks[range] {
            block.push(Candidate {
                stamp,
                value: if zeroes { 0 } else { stamp.0 },
                begun,
                ended: None,
                driven_out: None,
            });
        }
        stamp
    }

    /// The write was answered: it has taken effect.
    pub(crate) fn complete(&mut self, range: Range<usize>, stamp: Stamp) {
        let now = self.tick();
        for block in &mut self.blocks[range] {
            let Some(at) = block.iter().position(|it| it.stamp == stamp) else {
                continue;
            };
            block[at].ended = Some(now);
            let begun = block[at].begun;
            for other in block.iter_mut() {
                if other.ended.is_some_and(|ended| ended < begun) {
                    other.driven_out.get_or_insert(now);
                }
            }
        }
    }

    /// The write was never answered and can take effect no more; nobody knows whether it has.
    pub(crate) fn abandon(&mut self, range: Range<usize>, stamp: Stamp) {
        let now = self.tick();
        for block in &mut self.blocks[range] {
            for candidate in block.iter_mut().filter(|it| it.stamp == stamp) {
                candidate.ended = Some(now);
            }
        }
    }

    /// The write was refused before it did anything.
    pub(crate) fn refuse(&mut self, range: Range<usize>, stamp: Stamp) {
        for block in &mut self.blocks[range] {
            block.retain(|it| it.stamp != stamp);
        }
    }

    /// Nothing is under way: forgets what was driven out.
    pub(crate) fn settle(&mut self) {
        for block in &mut self.blocks {
            block.retain(|it| it.driven_out.is_none());
        }
    }

    /// The bytes that a write of `range` carries.
    pub(crate) fn pattern(&self, range: Range<usize>, stamp: Stamp) -> Vec<u8> {
        let mut bytes = Vec::new();
        for at in range {
            self.fill(&mut bytes, stamp.0, self.first_lba + at as u64);
        }
        bytes
    }

    /// The one block that a WRITE SAME carries.
    pub(crate) fn same_pattern(&self, stamp: Stamp) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.fill(&mut bytes, stamp.0, ANY_LBA);
        bytes
    }

    fn fill(&self, bytes: &mut Vec<u8>, value: u32, lba: u64) {
        let mut grain = [0; GRAIN_BYTES];
        grain[..4].copy_from_slice(&value.to_be_bytes());
        grain[4..8].copy_from_slice(&(!value).to_be_bytes());
        grain[8..].copy_from_slice(&lba.to_be_bytes());
        for _ in 0..self.geometry.block_bytes as usize / GRAIN_BYTES {
            bytes.extend_from_slice(&grain);
        }
    }

    /// What was read between `since` and now is one of the things that may be there. Panics if not.
    pub(crate) fn check_read(&mut self, range: Range<usize>, since: u64, data: &[u8]) {
        let now = self.tick();
        let block_bytes = self.geometry.block_bytes as usize;
        assert_eq!(data.len(), range.len() * block_bytes, "a whole READ");
        let name = self.geometry.name;
        for (at, bytes) in range.zip(data.chunks(block_bytes)) {
            let lba = self.first_lba + at as u64;
            let block = &mut self.blocks[at];
            let may = |it: &Candidate| it.driven_out.is_none_or(|out| out > since);
            let quiet = |it: &Candidate| it.ended.is_some_and(|ended| ended < since);
            let stable = block.iter().filter(|it| may(it)).all(quiet);
            let mut seen = None;
            for grain in bytes.chunks(GRAIN_BYTES) {
                let value = value_of(grain, lba);
                let known =
                    value.is_some_and(|value| block.iter().any(|it| may(it) && it.value == value));
                let torn = stable && seen.is_some_and(|seen| Some(seen) != value);
                assert!(
                    known && !torn,
                    "{name}: block {lba} holds {grain:02x?} ({value:?}, torn: {torn}) and may hold {block:?}"
                );
                seen = value;
            }
            if stable {
                for it in block.iter_mut().filter(|it| Some(it.value) != seen) {
                    it.driven_out.get_or_insert(now);
                }
            }
        }
    }

    /// Whether a write to one of these blocks was submitted after `since`.
    pub(crate) fn is_disturbed(&self, range: Range<usize>, since: u64) -> bool {
        self.blocks[range]
            .iter()
            .flatten()
            .any(|it| it.begun > since)
    }

    /// What `range` holds, if there is only one thing that it may hold.
    pub(crate) fn known(&self, range: Range<usize>) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for at in range {
            let mut values = self.blocks[at].iter().filter(|it| it.driven_out.is_none());
            let first = values.next()?;
            if first.ended.is_none() || values.next().is_some() {
                return None;
            }
            if first.value != 0 {
                // Which of the two patterns it is only a read can tell.
                return None;
            }
            bytes.resize(bytes.len() + self.geometry.block_bytes as usize, 0);
        }
        Some(bytes)
    }
}

/// Whose pattern it is; zero for zeroes.
fn value_of(grain: &[u8], lba: u64) -> Option<u32> {
    if grain.iter().all(|&byte| byte == 0) {
        return Some(0);
    }
    let value = u32::from_be_bytes(grain[..4].try_into().ok()?);
    let inverse = u32::from_be_bytes(grain[4..8].try_into().ok()?);
    let place = u64::from_be_bytes(grain[8..].try_into().ok()?);
    (inverse == !value && (place == lba || place == ANY_LBA)).then_some(value)
}
