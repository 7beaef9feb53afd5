//! What the model's controller reaches: mappings at addresses of their own, and whose the bytes
//! are.
//!
//! Addresses are handed out upwards and never again, with gaps, so that a stale one, or one that
//! runs over the end of its mapping, is always found.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use super::random::Random;
use crate::backend::nvme::dma::{Iova, MapError, PAGE_BYTES, Run};

/// What IOMMUs with 39 bits translate.
const END: u64 = 1 << 39;
/// Gaps between mappings, in pages, at most.
const GAP_PAGES: usize = 16;

/// Memory that is mapped, all of it in one piece.
#[derive(Debug)]
struct Live {
    iova: u64,
    len: usize,
    base: NonNull<u8>,
}

/// Why an access was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    Unmapped,
    NotOwned,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Space {
    /// In the order of their addresses.
    live: Vec<Live>,
    next: u64,
    run_bytes: usize,
    random: Random,
    /// This process's memory of which books are kept: start, end.
    watched: Vec<(usize, usize)>,
    /// Its ranges that somebody owns, by start: end, owner.
    owned: BTreeMap<usize, (usize, u64)>,
    pub(super) unmap_fails: bool,
    pub(super) map_fails: bool,
}

// SAFETY: the pointers are to memory that stays mapped while they are here (`DmaSpace::map`'s
// contract), whatever thread looks at it, and are used only under the model's lock.
unsafe impl Send for Space {}

impl Space {
    /// Mappings are in pieces of `run_bytes`, whole pages.
    pub(super) fn new(run_bytes: usize, seed: u64) -> Self {
        assert!(run_bytes.is_multiple_of(PAGE_BYTES) && run_bytes > 0);
        Self {
            live: Vec::new(),
            next: 1 << 20,
            run_bytes,
            random: Random::new(seed ^ 0x5bace),
            watched: Vec::new(),
            owned: BTreeMap::new(),
            unmap_fails: false,
            map_fails: false,
        }
    }

    /// # Safety
    /// As `DmaSpace::map`.
    pub(super) unsafe fn map(
        &mut self,
        base: NonNull<u8>,
        len: usize,
        runs: &mut Vec<Run>,
    ) -> Result<(), MapError> {
        let whole = len > 0
            && len.is_multiple_of(PAGE_BYTES)
            && base.addr().get().is_multiple_of(PAGE_BYTES)
            && runs.is_empty();
        assert!(whole, "whole pages are mapped, into no other runs");
        if self.map_fails {
            let errno = rustix::io::Errno::NOMEM;
            return Err(MapError::Map { bytes: len, errno });
        }
        for offset in (0..len).step_by(self.run_bytes) {
            let bytes = self.run_bytes.min(len - offset);
            let iova = self.next;
            let gap = (1 + self.random.below(GAP_PAGES)) * PAGE_BYTES;
            let after = iova + (bytes + gap) as u64;
            if after > END {
                return Err(MapError::NoAddress(len));
            }
            self.next = after;
            // SAFETY: inside the bytes that the caller has mapped.
            let base = unsafe { base.add(offset) };
            let len = bytes;
            self.live.push(Live { iova, len, base });
            let iova = Iova(iova);
            runs.push(Run { offset, len, iova });
        }
        Ok(())
    }

    /// `false` among the results: a run is not mapped.
    pub(super) fn unmap(&mut self, runs: &[Run]) -> Result<bool, MapError> {
        if self.unmap_fails {
            return Err(MapError::Unmap(rustix::io::Errno::IO));
        }
        let mut known = true;
        for run in runs {
            let at = self
                .live
                .iter()
                .position(|live| live.iova == run.iova.0 && live.len == run.len);
            match at {
                Some(at) => drop(self.live.remove(at)),
                None => known = false,
            }
        }
        Ok(known)
    }

    /// Mappings' pieces that are live.
    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    /// Bytes of these.
    pub(super) fn bytes(&self) -> usize {
        self.live.iter().map(|live| live.len).sum()
    }

    pub(super) fn watch(&mut self, start: NonNull<u8>, len: usize) {
        let start = start.addr().get();
        self.watched.push((start, start + len));
    }

    pub(super) fn unwatch(&mut self, start: NonNull<u8>) {
        let start = start.addr().get();
        self.watched.retain(|&(first, _)| first != start);
    }

    pub(super) fn own(&mut self, start: NonNull<u8>, len: usize, owner: u64) {
        let start = start.addr().get();
        let before = self.owned.insert(start, (start + len, owner));
        assert!(before.is_none(), "memory has one owner at a time");
    }

    pub(super) fn disown(&mut self, start: NonNull<u8>, owner: u64) {
        let gone = self.owned.remove(&start.addr().get());
        assert!(
            gone.is_some_and(|(_, was)| was == owner),
            "memory is taken from its owner"
        );
    }

    /// Whether all of `len` bytes from `start` on are somebody's, if books of them are kept.
    fn is_owned(&self, start: NonNull<u8>, len: usize) -> bool {
        let mut at = start.addr().get();
        let end = at + len;
        if !self
            .watched
            .iter()
            .any(|&(first, last)| at < last && first < end)
        {
            return true;
        }
        while at < end {
            match self.owned.range(..=at).next_back() {
                Some((_, &(upto, _))) if upto > at => at = upto,
                _ => return false,
            }
        }
        true
    }

    fn locate(&self, iova: u64, len: usize) -> Result<NonNull<u8>, Refused> {
        let behind = self.live.partition_point(|live| live.iova <= iova);
        let live = behind.checked_sub(1).map(|at| &self.live[at]);
        let live = live.ok_or(Refused::Unmapped)?;
        let offset = usize::try_from(iova - live.iova).map_err(|_| Refused::Unmapped)?;
        if offset.checked_add(len).is_none_or(|end| end > live.len) {
            return Err(Refused::Unmapped);
        }
        // SAFETY: inside the mapping.
        Ok(unsafe { live.base.add(offset) })
    }

    /// Reads queue entries, lists and the like.
    pub(super) fn read(&self, iova: u64, bytes: &mut [u8]) -> Result<(), Refused> {
        let len = bytes.len();
        let from = self.locate(iova, len)?;
        let to = NonNull::from(bytes);
        // SAFETY: so many bytes are mapped there, and no part of them is ours; the driver writes
        // them before it tells of them and not behind that (what a device sees otherwise is
        // anybody's guess, and here as well).
        unsafe { from.copy_to_nonoverlapping(to.cast(), len) };
        Ok(())
    }

    /// Writes what is no command's data: what Identify and log pages return goes through
    /// [`write_data`](Self::write_data).
    pub(super) fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), Refused> {
        let to = self.locate(iova, bytes.len())?;
        // SAFETY: so many bytes are mapped there, and nobody holds a reference to them
        // (`DmaSpace::map`'s contract).
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        Ok(())
    }

    /// Reads data of an I/O command.
    pub(super) fn read_data(&self, iova: u64, bytes: &mut [u8]) -> Result<(), Refused> {
        let from = self.locate(iova, bytes.len())?;
        if !self.is_owned(from, bytes.len()) {
            return Err(Refused::NotOwned);
        }
        self.read(iova, bytes)
    }

    /// Writes data of an I/O command.
    pub(super) fn write_data(&self, iova: u64, bytes: &[u8]) -> Result<(), Refused> {
        let to = self.locate(iova, bytes.len())?;
        if !self.is_owned(to, bytes.len()) {
            return Err(Refused::NotOwned);
        }
        self.write(iova, bytes)
    }

    /// A dword that both sides change by atomic accesses.
    fn word(&self, iova: u64) -> Result<&AtomicU32, Refused> {
        let place = self.locate(iova, 4)?.cast::<u32>();
        if !place.is_aligned() {
            return Err(Refused::Unmapped);
        }
        // SAFETY: mapped and aligned; stays so while `self` is borrowed, because unmapping needs
        // all of it.
        Ok(unsafe { AtomicU32::from_ptr(place.as_ptr()) })
    }

    pub(super) fn load(&self, iova: u64) -> Result<u32, Refused> {
        let word = self.word(iova)?;
        Ok(u32::from_le(word.load(Ordering::Acquire)))
    }

    /// Behind everything that was written before.
    pub(super) fn store(&self, iova: u64, value: u32) -> Result<(), Refused> {
        let word = self.word(iova)?;
        word.store(value.to_le(), Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Pages, Region};

    fn mapped(space: &mut Space, region: &Region) -> Vec<Run> {
        let mut runs = Vec::new();
        // SAFETY: the regions of these tests outlive their spaces, and nobody refers to their
        // bytes.
        unsafe { space.map(region.base(), region.len(), &mut runs) }.unwrap();
        runs
    }

    #[test]
    fn only_what_is_mapped_is_reached() {
        let region = Region::new(8192, Pages::Normal).unwrap();
        let other = Region::new(4096, Pages::Normal).unwrap();
        let mut space = Space::new(1 << 30, 1);
        let runs = mapped(&mut space, &region);
        let more = mapped(&mut space, &other);
        let at = runs[0].iova.0;
        space.write(at + 8190, &[7, 8]).unwrap();
        let mut bytes = [0; 2];
        space.read(at + 8190, &mut bytes).unwrap();
        assert_eq!(bytes, [7, 8]);
        assert_eq!(space.write(at + 8191, &[7, 8]), Err(Refused::Unmapped));
        assert_eq!(space.write(at - 1, &[7]), Err(Refused::Unmapped));
        assert_eq!(space.write(0, &[7]), Err(Refused::Unmapped));
        space.store(at + 4, 0x0102_0304).unwrap();
        assert_eq!(space.load(at + 4), Ok(0x0102_0304));
        assert_eq!(space.load(at + 5), Err(Refused::Unmapped));
        assert_eq!(space.unmap(&runs), Ok(true));
        assert_eq!(space.load(at + 4), Err(Refused::Unmapped));
        assert_eq!(space.unmap(&runs), Ok(false), "once only");
        space.load(more[0].iova.0).unwrap();
        assert_eq!(space.len(), 1);
    }

    #[test]
    fn data_is_reached_only_where_it_has_an_owner() {
        let region = Region::new(8192, Pages::Normal).unwrap();
        let mut space = Space::new(4096, 1);
        let runs = mapped(&mut space, &region);
        assert_eq!(runs.len(), 2);
        let at = runs[0].iova.0;
        assert_eq!(
            space.write_data(at, &[1; 4096]),
            Ok(()),
            "no books are kept"
        );
        space.watch(region.base(), 8192);
        assert_eq!(space.write_data(at, &[1]), Err(Refused::NotOwned));
        space.own(region.base(), 100, 1);
        // SAFETY: inside the region.
        let second = unsafe { region.base().add(100) };
        space.own(second, 100, 2);
        assert_eq!(space.write_data(at, &[1; 200]), Ok(()));
        assert_eq!(space.write_data(at, &[1; 201]), Err(Refused::NotOwned));
        space.disown(region.base(), 1);
        assert_eq!(space.read_data(at, &mut [0; 4]), Err(Refused::NotOwned));
        assert_eq!(space.read_data(at + 100, &mut [0; 100]), Ok(()));
        assert_eq!(space.write(at, &[1; 201]), Ok(()), "that is no data");
        space.unwatch(region.base());
        assert_eq!(space.write_data(at, &[1; 201]), Ok(()));
    }

    #[test]
    fn mappings_that_fail_stay_as_they_were() {
        let region = Region::new(4096, Pages::Normal).unwrap();
        let mut space = Space::new(4096, 1);
        let runs = mapped(&mut space, &region);
        space.unmap_fails = true;
        space.unmap(&runs).unwrap_err();
        space.load(runs[0].iova.0).unwrap();
        space.map_fails = true;
        // SAFETY: as in `mapped`.
        let refused = unsafe { space.map(region.base(), 4096, &mut Vec::new()) };
        assert!(refused.is_err());
    }
}
