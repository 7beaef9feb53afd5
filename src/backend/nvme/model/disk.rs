//! What a namespace of the model holds: blocks, a volatile cache before them, and what is left when
//! power fails.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::options::NamespaceOptions;
use super::random::Random;

/// Writes in the cache; the oldest goes to the medium before there are more.
const CACHED_MAX: usize = 4096;

/// `None`: deallocated.
pub(super) type Content = Option<Arc<[u8]>>;
/// What one command has changed.
pub(super) type Change = Vec<(u64, Content)>;

/// See the module.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) options: NamespaceOptions,
    /// What reads see; deallocated blocks are not there.
    current: HashMap<u64, Arc<[u8]>>,
    /// What is on the medium.
    durable: HashMap<u64, Arc<[u8]>>,
    /// The way from the one to the other.
    cached: VecDeque<Change>,
}

fn put(blocks: &mut HashMap<u64, Arc<[u8]>>, lba: u64, content: &Content) {
    match content {
        Some(bytes) => drop(blocks.insert(lba, Arc::clone(bytes))),
        None => drop(blocks.remove(&lba)),
    }
}

impl Disk {
    pub(super) fn new(options: NamespaceOptions) -> Self {
        Self {
            options,
            current: HashMap::new(),
            durable: HashMap::new(),
            cached: VecDeque::new(),
        }
    }

    pub(super) fn block_bytes(&self) -> usize {
        1 << self.options.block_shift.min(16)
    }

    /// What blocks that are deallocated read as (DLFEAT bits 2:0).
    fn unwritten(&self) -> u8 {
        match self.options.dlfeat & 7 {
            1 => 0,
            2 => 0xff,
            // It is not said, and so a driver must not trust it.
            _ => 0xdb,
        }
    }

    pub(super) fn is_allocated(&self, lba: u64) -> bool {
        self.current.contains_key(&lba)
    }

    pub(super) fn allocated(&self) -> u64 {
        self.current.len() as u64
    }

    /// Adds the block to `bytes`.
    pub(super) fn read(&self, lba: u64, bytes: &mut Vec<u8>) {
        match self.current.get(&lba) {
            Some(block) => bytes.extend_from_slice(block),
            None => bytes.resize(bytes.len() + self.block_bytes(), self.unwritten()),
        }
    }

    /// What a reader would find behind a power cut that loses all of the cache.
    pub(super) fn read_durable(&self, lba: u64) -> Vec<u8> {
        let unwritten = || vec![self.unwritten(); self.block_bytes()];
        self.durable
            .get(&lba)
            .map_or_else(unwritten, |block| block.to_vec())
    }

    /// A command's change; with `through` it is on the medium at once.
    pub(super) fn write(&mut self, change: Change, through: bool) {
        for (lba, content) in &change {
            put(&mut self.current, *lba, content);
        }
        if !through {
            self.cached.push_back(change);
            if self.cached.len() > CACHED_MAX {
                self.destage();
            }
            return;
        }
        // What is older in the cache must not go over it later.
        let lbas: HashSet<u64> = change.iter().map(|(lba, _)| *lba).collect();
        for older in &mut self.cached {
            older.retain(|(lba, _)| !lbas.contains(lba));
        }
        for (lba, content) in &change {
            put(&mut self.durable, *lba, content);
        }
    }

    fn destage(&mut self) {
        for (lba, content) in self.cached.pop_front().into_iter().flatten() {
            put(&mut self.durable, lba, &content);
        }
    }

    pub(super) fn flush(&mut self) {
        while !self.cached.is_empty() {
            self.destage();
        }
    }

    /// Whether a write of so many blocks at `lba` is all or nothing, where `unit` is the atomic
    /// size of the controller.
    fn is_atomic(&self, change: &Change, unit: u64) -> bool {
        let own = self.options.nsfeat & 2 != 0;
        let unit = if own {
            u64::from(self.options.nawupf) + 1
        } else {
            unit
        };
        let (Some((first, _)), Some((last, _))) = (change.first(), change.last()) else {
            return true;
        };
        let offset = u64::from(self.options.nabo);
        let crosses = match u64::from(self.options.nabspf) {
            0 => false,
            _ if !own => false,
            size => {
                let stripe = |lba: u64| lba.wrapping_sub(offset) / (size + 1);
                *first < offset && *last >= offset || stripe(*first) != stripe(*last)
            }
        };
        change.len() as u64 <= unit && !crosses
    }

    /// Any part of the cache reaches the medium: writes of the atomic size whole or not at all,
    /// longer ones block by block.
    pub(super) fn power_cut(&mut self, random: &mut Random, unit: u64) {
        for change in std::mem::take(&mut self.cached) {
            let whole = self.is_atomic(&change, unit);
            let together = random.coin();
            for (lba, content) in change {
                let survives = if whole { together } else { random.coin() };
                if survives {
                    put(&mut self.durable, lba, &content);
                }
            }
        }
        self.current.clone_from(&self.durable);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(nsfeat: u8) -> Disk {
        Disk::new(NamespaceOptions {
            nsfeat,
            nawupf: 3,
            nabspf: 7,
            ..NamespaceOptions::default()
        })
    }

    fn change(lba: u64, blocks: u64, byte: u8) -> Change {
        let content: Arc<[u8]> = vec![byte; 512].into();
        let all = lba..lba + blocks;
        all.map(|lba| (lba, Some(Arc::clone(&content)))).collect()
    }

    fn first(disk: &Disk, lba: u64) -> u8 {
        let mut bytes = Vec::new();
        disk.read(lba, &mut bytes);
        assert_eq!(bytes.len(), 512);
        bytes[0]
    }

    #[test]
    fn what_was_flushed_or_forced_survives_every_cut() {
        for seed in 0..64 {
            let mut disk = disk(0);
            disk.write(change(0, 4, 1), false);
            disk.flush();
            disk.write(change(0, 1, 2), false);
            disk.write(change(0, 1, 3), true);
            disk.write(change(1, 1, 4), false);
            assert_eq!((first(&disk, 0), first(&disk, 1)), (3, 4));
            assert_eq!(disk.read_durable(0)[0], 3);
            disk.power_cut(&mut Random::new(seed), 1);
            assert_eq!(first(&disk, 0), 3, "not the older one");
            assert!([1, 4].contains(&first(&disk, 1)));
            assert_eq!(first(&disk, 2), 1);
        }
    }

    #[test]
    fn writes_are_torn_beyond_the_atomic_size_and_at_boundaries_only() {
        let torn = |nsfeat, lba, blocks| {
            (0..200).any(|seed| {
                let mut disk = disk(nsfeat);
                disk.write(change(lba, blocks, 7), false);
                disk.power_cut(&mut Random::new(seed), 2);
                let survived = (lba..lba + blocks).filter(|lba| disk.is_allocated(*lba));
                !([0, blocks].contains(&(survived.count() as u64)))
            })
        };
        assert!(!torn(0, 0, 2) && torn(0, 0, 3), "the controller's size");
        assert!(!torn(2, 0, 4) && torn(2, 0, 5), "the namespace's own");
        assert!(torn(2, 6, 4) && !torn(2, 8, 4), "its boundary is at 8");
    }

    #[test]
    fn the_cache_is_bounded_and_destaged_in_order() {
        let mut disk = disk(0);
        for nth in 0..CACHED_MAX + 2 {
            disk.write(change(0, 1, u8::try_from(nth % 251).unwrap()), false);
        }
        assert_eq!(disk.read_durable(0)[0], 1, "the two oldest have gone");
        assert_eq!(disk.cached.len(), CACHED_MAX);
        disk.write(vec![(0, None)], false);
        assert_eq!((first(&disk, 0), disk.allocated()), (0, 0));
    }
}
