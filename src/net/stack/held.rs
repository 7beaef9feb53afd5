//! [`Held`]: what came for a flow and was not taken yet, in order and out of order.
//!
//! Frames are kept as they are and handed out whole, in order, as [`Chunk`]s: nothing is copied.
//! Where bytes come twice, the first copy stays. A frame keeps a whole buffer of its port from
//! being used, however few bytes of it are new: beyond a few frames, small segments are copied
//! together, so that a peer that sends single bytes holds memory for its window and not for
//! thousands of buffers. And all flows of a core together keep no more frames than a [`Budget`]
//! allows: a queue whose buffers all lie in some flows receives nothing any more, not even what
//! those flows wait for. Beyond it everything is copied, and beyond [`budget::COPIES_BYTES_MAX`]
//! only what is next in its stream is taken.

mod budget;

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use arrayvec::ArrayVec;

use crate::port::Frame;
pub(super) use budget::Budget;
#[cfg(test)]
use budget::COPIES_BYTES_MAX;
use budget::Share;

/// Runs of bytes out of order, at most: as many as smoltcp remembers.
pub(super) const HOLES_MAX: usize = 32;
/// Entries, at most.
pub(super) const ENTRIES_MAX: usize = 2048;
/// Frames that are kept whatever is in them: commands that come in one turn.
pub(super) const SMALL_FRAMES_MAX: usize = 64;
/// Frames kept at all.
pub(super) const FRAMES_MAX: usize = 1024;
/// Memory of ports that the kept frames hold.
pub(super) const FRAME_BYTES_MAX: usize = 4 << 20;
/// Bytes beyond the first missing one that are taken.
pub(super) const WINDOW_BYTES: usize = 1 << 20;
/// Size of a buffer in which segments are copied together.
const HEAP_BYTES: usize = 16 * 1024;
/// Such buffers at a time.
const HEAPS_MAX: usize = 160;
/// Bytes of a flow, in order, owned by whoever has them.
pub struct Chunk {
    storage: Storage,
    offset: usize,
    len: usize,
}

enum Storage {
    Frame(Frame),
    Bytes(Vec<u8>),
}

impl Chunk {
    /// Bytes; at least one.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The first `bytes` of it are done with; all of them, where it has less.
    pub fn skip(&mut self, bytes: usize) {
        let bytes = bytes.min(self.len);
        self.offset += bytes;
        self.len -= bytes;
    }

    /// Only when all of it was skipped.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes in order; no slice is empty.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let head = match &self.storage {
            Storage::Frame(frame) => frame.head(),
            Storage::Bytes(bytes) => bytes,
        };
        // Nearly always that is all.
        let from = self.offset.min(head.len());
        let first = &head[from..from + self.len.min(head.len() - from)];
        let rest = match &self.storage {
            Storage::Frame(frame) if first.len() < self.len => {
                let left = self.len - first.len();
                Some(part(frame.slices(), self.offset + first.len(), left))
            }
            _ => None,
        };
        let first = Some(first).filter(|first| !first.is_empty());
        first.into_iter().chain(rest.into_iter().flatten())
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk").field("len", &self.len).finish()
    }
}

/// The `len` bytes from `skip` on of what lies in `slices`.
fn part<'a>(
    slices: impl Iterator<Item = &'a [u8]>,
    mut skip: usize,
    mut len: usize,
) -> impl Iterator<Item = &'a [u8]> {
    slices.filter_map(move |slice| {
        let from = skip.min(slice.len());
        skip -= from;
        let take = len.min(slice.len() - from);
        len -= take;
        (take != 0).then(|| &slice[from..from + take])
    })
}

/// Bytes by their sequence numbers.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// By sequence number; none overlaps another.
    entries: VecDeque<Entry>,
    /// Buffers of what was copied, the youngest last.
    heaps: VecDeque<Heap>,
    /// The sequence number of the first byte that was not handed out.
    next: u32,
    /// Runs of bytes with something missing before them.
    holes: usize,
    frame_bytes: usize,
    share: Share,
    /// Names the next heap.
    heap: u32,
}

#[derive(Debug)]
struct Entry {
    at: u32,
    len: u32,
    /// Where its bytes are.
    what: What,
    /// From where on in them.
    offset: u32,
}

#[derive(Debug)]
enum What {
    Frame(Frame),
    /// By the number of a heap.
    Heap(u32),
}

#[derive(Debug)]
struct Heap {
    number: u32,
    /// Entries in it.
    entries: usize,
    bytes: Vec<u8>,
}

/// A part of a segment that is not held.
#[derive(Clone, Copy)]
struct Gap {
    /// Relative to `next`.
    from: usize,
    len: usize,
    /// Where in the entries it goes.
    index: usize,
}

/// There is no room for a segment, or it is not in the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refused;

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("what a flow holds is bounded far below 4 GiB")
}

impl Held {
    /// Nothing; `next` is the sequence number of the first byte to come.
    pub(super) fn new(next: u32) -> Self {
        Self {
            next,
            ..Self::default()
        }
    }

    /// The same, within what its core may keep.
    pub(super) fn within(next: u32, budget: Option<Budget>) -> Self {
        Self {
            share: Share::of(budget),
            ..Self::new(next)
        }
    }

    /// What it is within.
    pub(super) fn budget(&self) -> Option<Budget> {
        self.share.budget()
    }

    /// Goes to another core, or comes from one: everything is copied, as frames are of a core's own
    /// port, and counts there.
    pub(super) fn move_to(&mut self, budget: Option<Budget>) {
        let mut copies = Self::within(self.next, budget);
        for entry in &self.entries {
            let from = self.relative(entry);
            let (len, offset) = (entry.len as usize, entry.offset as usize);
            let index = copies.entries.len();
            let gap = Gap { from, len, index };
            match &entry.what {
                What::Frame(frame) => copies.copy(gap, frame.slices(), offset),
                What::Heap(number) => {
                    let heap = &self.heaps[Self::heap(&self.heaps, *number)];
                    copies.copy(gap, std::iter::once(&heap.bytes[..]), offset);
                }
            }
        }
        *self = copies;
    }

    /// The sequence number of the first byte that was not handed out.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// Memory of ports that is held.
    pub(super) fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    fn relative(&self, entry: &Entry) -> usize {
        entry.at.wrapping_sub(self.next) as usize
    }

    /// Takes the bytes at `payload` of the frame, whose first one has the sequence number `seq`.
    ///
    /// # Errors
    /// [`Refused`]: nothing was taken, and the segment must be as if it had never come.
    pub(super) fn insert(
        &mut self,
        seq: u32,
        frame: Frame,
        payload: Range<usize>,
    ) -> Result<(), Refused> {
        let (mut offset, mut len) = (payload.start, payload.len());
        let mut from = seq.wrapping_sub(self.next) as usize;
        let before = self.next.wrapping_sub(seq) as usize;
        if from > WINDOW_BYTES {
            // Not ahead of what was handed out: all or a part of it comes again.
            if before >= len {
                return if before <= WINDOW_BYTES {
                    Ok(())
                } else {
                    Err(Refused)
                };
            }
            (offset, len, from) = (offset + before, len - before, 0);
        }
        if len == 0 {
            return Ok(());
        }
        if from + len > WINDOW_BYTES {
            return Err(Refused);
        }
        let has_room = self.entries.len() < ENTRIES_MAX && self.heaps.len() < HEAPS_MAX;
        if from == self.end() && has_room && self.keeps(&frame, len) {
            // In order: what nearly all of them are.
            self.keep(&frame);
            self.entries.push_back(Entry {
                at: self.next.wrapping_add(count(from)),
                len: count(len),
                what: What::Frame(frame),
                offset: count(offset),
            });
            return Ok(());
        }
        let gaps = self.gaps(from, len)?;
        if self.entries.len() + gaps.len() > ENTRIES_MAX
            || self.heaps.len() + gaps.len() > HEAPS_MAX
        {
            return Err(Refused);
        }
        if let &[gap] = &gaps[..] {
            if self.holes == HOLES_MAX && self.holes_after(gap) > HOLES_MAX {
                return Err(Refused);
            }
            if self.keeps(&frame, gap.len) {
                self.keep(&frame);
                self.place(gap, What::Frame(frame), offset + (gap.from - from));
                return Ok(());
            }
        }
        if !self.share.allows_copy() && !gaps.first().is_some_and(|&gap| self.is_next(gap)) {
            return Err(Refused);
        }
        // From the last on, so that the places of those before stay what they are.
        for gap in gaps.into_iter().rev() {
            self.copy(gap, frame.slices(), offset + (gap.from - from));
        }
        Ok(())
    }

    /// Behind the last byte that is held, relative to `next`.
    fn end(&self) -> usize {
        let last = self.entries.back();
        last.map_or(0, |last| self.relative(last) + last.len as usize)
    }

    /// Counts a frame that is kept.
    fn keep(&mut self, frame: &Frame) {
        self.share.set(self.share.frames + 1, self.share.copies);
        self.frame_bytes += frame.held_bytes();
    }

    /// The parts of a segment that are not held.
    fn gaps(&self, from: usize, len: usize) -> Result<ArrayVec<Gap, { HOLES_MAX + 1 }>, Refused> {
        let end = from + len;
        let mut gaps = ArrayVec::new();
        let mut from = from;
        let mut index = match self.entries.back() {
            Some(last) if from < self.relative(last) + last.len as usize => self
                .entries
                .partition_point(|entry| self.relative(entry) + entry.len as usize <= from),
            _ => self.entries.len(),
        };
        for entry in self.entries.range(index..) {
            let (start, stop) = (
                self.relative(entry),
                self.relative(entry) + entry.len as usize,
            );
            if start >= end {
                break;
            }
            if from < start {
                let len = start - from;
                gaps.try_push(Gap { from, len, index })
                    .map_err(|_| Refused)?;
            }
            from = stop;
            index += 1;
        }
        if from < end {
            let len = end - from;
            gaps.try_push(Gap { from, len, index })
                .map_err(|_| Refused)?;
        }
        Ok(gaps)
    }

    /// Whether a frame is kept for `len` bytes of it; otherwise they are copied.
    fn keeps(&self, frame: &Frame, len: usize) -> bool {
        let bytes = frame.held_bytes();
        let frames = self.share.frames;
        let worth = frames < SMALL_FRAMES_MAX || len >= bytes / 2;
        let allowed = frames < FRAMES_MAX && self.share.allows_frame();
        worth && allowed && self.frame_bytes + bytes <= FRAME_BYTES_MAX
    }

    /// Nothing is missing before the gap.
    fn is_next(&self, gap: Gap) -> bool {
        let mut end = 0;
        for entry in self.entries.range(..gap.index) {
            if self.relative(entry) != end {
                return false;
            }
            end += entry.len as usize;
        }
        gap.from == end
    }

    /// How many holes there are when the gap is filled.
    fn holes_after(&self, gap: Gap) -> usize {
        let before = match gap.index.checked_sub(1) {
            Some(index) => {
                let entry = &self.entries[index];
                self.relative(entry) + entry.len as usize
            }
            None => 0,
        };
        let after = self
            .entries
            .get(gap.index)
            .map(|entry| self.relative(entry));
        self.holes
            + usize::from(gap.from > before)
            + usize::from(after.is_some_and(|after| gap.from + gap.len < after))
            - usize::from(after.is_some())
    }

    fn place(&mut self, gap: Gap, what: What, offset: usize) {
        self.holes = self.holes_after(gap);
        let entry = Entry {
            at: self.next.wrapping_add(count(gap.from)),
            len: count(gap.len),
            what,
            offset: count(offset),
        };
        self.entries.insert(gap.index, entry);
    }

    /// Copies a part of a frame to the others that were copied.
    fn copy<'a>(&mut self, gap: Gap, slices: impl Iterator<Item = &'a [u8]>, offset: usize) {
        let room = |heap: &Heap| heap.bytes.capacity() - heap.bytes.len();
        if self.heaps.back().is_none_or(|heap| room(heap) < gap.len) {
            self.heap = self.heap.wrapping_add(1);
            let bytes = gap.len.max(HEAP_BYTES);
            self.share.set(self.share.frames, self.share.copies + bytes);
            self.heaps.push_back(Heap {
                number: self.heap,
                entries: 0,
                bytes: Vec::with_capacity(bytes),
            });
        }
        let heap = self.heaps.back_mut().expect("there is one now");
        let start = heap.bytes.len();
        for slice in part(slices, offset, gap.len) {
            // The one more copy of what comes in small segments.
            heap.bytes.extend_from_slice(slice);
        }
        debug_assert_eq!(
            heap.bytes.len() - start,
            gap.len,
            "the payload lies in the frame"
        );
        let number = heap.number;
        if let Some(before) = gap.index.checked_sub(1) {
            let end = gap.from;
            let relative = self.relative(&self.entries[before]);
            let entry = &self.entries[before];
            let joins = matches!(entry.what, What::Heap(heap) if heap == number)
                && entry.offset as usize + entry.len as usize == start
                && relative + entry.len as usize == end;
            if joins {
                self.holes = self.holes_after(gap);
                self.entries[before].len += count(gap.len);
                return;
            }
        }
        let heap = self.heaps.back_mut().expect("there is one now");
        heap.entries += 1;
        self.place(gap, What::Heap(number), start);
    }

    /// Hands out the next bytes, at most `max`; `None` when they have not come.
    pub(super) fn take(&mut self, max: usize) -> Option<Chunk> {
        let first = self.entries.front_mut()?;
        let len = max.min(first.len as usize);
        if first.at != self.next || len == 0 {
            return None;
        }
        self.next = self.next.wrapping_add(count(len));
        let offset = first.offset as usize;
        if len < first.len as usize {
            let bytes = match &first.what {
                What::Frame(frame) => copied(frame.slices(), offset, len),
                What::Heap(number) => {
                    let at = Self::heap(&self.heaps, *number);
                    self.heaps[at].bytes[offset..offset + len].to_vec()
                }
            };
            first.at = self.next;
            first.offset += count(len);
            first.len -= count(len);
            return Some(Chunk::from(bytes));
        }
        let first = self.entries.pop_front()?;
        let number = match first.what {
            What::Frame(frame) => {
                self.share.set(self.share.frames - 1, self.share.copies);
                self.frame_bytes -= frame.held_bytes();
                let storage = Storage::Frame(frame);
                return Some(Chunk {
                    storage,
                    offset,
                    len,
                });
            }
            What::Heap(number) => number,
        };
        let at = Self::heap(&self.heaps, number);
        let heap = &mut self.heaps[at];
        heap.entries -= 1;
        if heap.entries != 0 {
            return Some(Chunk::from(heap.bytes[offset..offset + len].to_vec()));
        }
        let bytes = self.heaps.remove(at)?.bytes;
        let left = self.share.copies.saturating_sub(bytes.capacity());
        self.share.set(self.share.frames, left);
        let storage = Storage::Bytes(bytes);
        Some(Chunk {
            storage,
            offset,
            len,
        })
    }

    /// Where a heap is; they are few, and the oldest is mostly asked for.
    fn heap(heaps: &VecDeque<Heap>, number: u32) -> usize {
        heaps
            .iter()
            .position(|heap| heap.number == number)
            .expect("a heap is there as long as an entry names it")
    }

    /// Bytes in order from `next` on.
    #[cfg(test)]
    fn ready(&self) -> usize {
        let mut end = 0;
        for entry in &self.entries {
            if self.relative(entry) != end {
                break;
            }
            end += entry.len as usize;
        }
        end
    }
}

impl From<Vec<u8>> for Chunk {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            len: bytes.len(),
            storage: Storage::Bytes(bytes),
            offset: 0,
        }
    }
}

/// The `len` bytes from `offset` on of what lies in `slices`.
fn copied<'a>(slices: impl Iterator<Item = &'a [u8]>, offset: usize, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    for slice in part(slices, offset, len) {
        bytes.extend_from_slice(slice);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::port::buffers::Buffers;

    const HEAD: usize = 54;

    /// The byte of a stream at `at`, as its copy number `copy` says it is.
    fn byte(at: usize, copy: usize) -> u8 {
        u8::try_from((at * 7 + copy * 101) % 251).unwrap()
    }

    fn frame(store: &Buffers, from: usize, len: usize, copy: usize) -> Frame {
        let mut buffer = store.take(HEAD + len).unwrap();
        buffer[..HEAD].fill(0xee);
        for at in 0..len {
            buffer[HEAD + at] = byte(from + at, copy);
        }
        Frame::new(buffer)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert { from: isize, len: usize },
        Take(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (-50..400isize, 0..60usize).prop_map(|(from, len)| Step::Insert { from, len }),
            2 => (0..5isize, 1..4usize).prop_map(|(from, len)| Step::Insert { from, len }),
            2 => (-500..5000isize, 0..1500usize)
                .prop_map(|(from, len)| Step::Insert { from, len }),
            1 => (0..2000usize).prop_map(Step::Take),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn it_holds_what_a_map_of_bytes_holds(
            isn in prop_oneof![any::<u32>(), u32::MAX - 3000..u32::MAX],
            steps in prop::collection::vec(step(), 1..150),
        ) {
            let store = Buffers::new(400, 2048);
            let mut held = Held::new(isn);
            // Which copy of each byte came first, by its place in the stream.
            let mut model: Vec<Option<usize>> = Vec::new();
            let mut taken = 0_usize;
            for (copy, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert { from, len } => {
                        let Some(from) = taken.checked_add_signed(from) else { continue };
                        let seq = isn.wrapping_add(count(from));
                        let frame = frame(&store, from, len, copy);
                        if held.insert(seq, frame, HEAD..HEAD + len) == Ok(()) {
                            model.resize(model.len().max(from + len), None);
                            for slot in &mut model[from.max(taken)..(from + len).max(taken)] {
                                slot.get_or_insert(copy);
                            }
                        }
                    }
                    Step::Take(max) => {
                        let expected = held.ready().min(max);
                        let first = held.take(max);
                        prop_assert_eq!(first.is_some(), expected != 0);
                        if let Some(chunk) = first {
                            let bytes: Vec<u8> = chunk.slices().flatten().copied().collect();
                            prop_assert!(bytes.len() == chunk.len() && chunk.len() <= expected);
                            for is in bytes {
                                let copy = model[taken].expect("handed out, so it came");
                                prop_assert_eq!(is, byte(taken, copy));
                                taken += 1;
                            }
                        }
                    }
                }
                let ready = model.iter().skip(taken).take_while(|copy| copy.is_some()).count();
                prop_assert_eq!(held.ready(), ready);
                let mut last = Some(0);
                let mut holes = 0;
                for copy in model.iter().skip(taken) {
                    holes += usize::from(copy.is_some() && last.is_none());
                    last = *copy;
                }
                prop_assert_eq!(held.holes, holes);
                prop_assert!(holes <= HOLES_MAX);
                let in_use = 400 - store.available();
                prop_assert!(in_use <= FRAMES_MAX && in_use >= held.share.frames);
                prop_assert_eq!(held.share.frames, in_use);
                prop_assert_eq!(held.frame_bytes(), in_use * 2048);
            }
            while held.take(usize::MAX).is_some() {}
            if held.entries.is_empty() {
                prop_assert_eq!((held.heaps.len(), store.available()), (0, 400));
            }
        }
    }

    #[test]
    fn full_frames_are_handed_out_where_they_are() {
        let store = Buffers::new(2, 9100);
        let mut held = Held::new(5);
        let one = frame(&store, 0, 9000, 0);
        let address = one.head()[HEAD..].as_ptr();
        held.insert(5, one, HEAD..HEAD + 9000).unwrap();
        let chunk = held.take(1 << 20).unwrap();
        let slices: Vec<_> = chunk.slices().collect();
        assert_eq!((slices.len(), slices[0].as_ptr()), (1, address));
        assert_eq!(store.available(), 1);
        drop(chunk);
        assert_eq!(store.available(), 2);
    }

    #[test]
    fn single_bytes_hold_few_buffers() {
        let store = Buffers::new(SMALL_FRAMES_MAX + 1, 9216);
        let mut held = Held::new(0);
        for at in 0..100_000 {
            let frame = frame(&store, at, 1, 0);
            held.insert(count(at), frame, HEAD..HEAD + 1).unwrap();
        }
        assert_eq!(held.ready(), 100_000);
        assert_eq!(store.available(), 1);
        assert!(held.heaps.len() <= 100_000 / HEAP_BYTES + 1);
        let mut got = 0;
        while let Some(chunk) = held.take(usize::MAX) {
            for is in chunk.slices().flatten() {
                assert_eq!(*is, byte(got, 0));
                got += 1;
            }
        }
        assert_eq!((got, held.heaps.len()), (100_000, 0));
    }

    #[test]
    fn crossed_single_bytes_are_bounded_in_entries() {
        let store = Buffers::new(SMALL_FRAMES_MAX + 1, 2048);
        let mut held = Held::new(0);
        let mut refused = 0;
        for pair in 0..10 * ENTRIES_MAX {
            // The second byte of each pair first, so that no two lie behind each other in a heap.
            for at in [2 * pair + 1, 2 * pair] {
                let frame = frame(&store, at, 1, 0);
                let result = held.insert(count(at), frame, HEAD..HEAD + 1);
                refused += usize::from(result.is_err());
            }
        }
        assert!(held.entries.len() <= ENTRIES_MAX && refused > 0);
        assert!(held.heaps.len() <= HEAPS_MAX);
    }

    #[test]
    fn holes_and_the_window_are_bounded() {
        let store = Buffers::new(64, 2048);
        let mut held = Held::new(0);
        let mut insert =
            |at: usize| held.insert(count(at), frame(&store, at, 1, 0), HEAD..HEAD + 1);
        for hole in 0..HOLES_MAX {
            insert(2 * hole + 1).unwrap();
        }
        assert_eq!(insert(2 * HOLES_MAX + 1), Err(Refused));
        assert_eq!(insert(2 * HOLES_MAX), Ok(()), "joins the last");
        assert_eq!(insert(2 * HOLES_MAX + 1), Ok(()));
        assert_eq!(insert(WINDOW_BYTES), Err(Refused));
        assert_eq!(insert(0), Ok(()), "the first missing byte is always taken");
    }

    #[test]
    fn what_lies_behind_is_nothing_and_what_lies_far_away_is_refused() {
        let store = Buffers::new(1, 2048);
        let mut held = Held::new(1000);
        let mut insert = |seq: u32| held.insert(seq, frame(&store, 0, 10, 0), HEAD..HEAD + 10);
        assert_eq!(insert(990), Ok(()));
        assert_eq!(insert(1000_u32.wrapping_sub(2 << 20)), Err(Refused));
        assert_eq!(insert(1 << 31), Err(Refused));
        assert!(held.take(100).is_none());
        assert_eq!(store.available(), 1);
    }

    #[test]
    fn eight_peers_with_a_hole_each_leave_a_queue_its_buffers() {
        let store = Buffers::new(2048, 2048);
        let budget = Budget::new(1024);
        let mut flows: Vec<Held> = (0..8)
            .map(|_| Held::within(0, Some(budget.clone())))
            .collect();
        for at in 1..700 {
            for held in &mut flows {
                let from = at * 1460;
                let frame = frame(&store, from, 1460, 0);
                held.insert(count(from), frame, HEAD..HEAD + 1460).unwrap();
            }
        }
        assert_eq!((budget.frames(), store.available()), (1024, 1024));
        // What is missing comes, and everything goes out.
        for held in &mut flows {
            let first = frame(&store, 0, 1460, 0);
            held.insert(0, first, HEAD..HEAD + 1460).unwrap();
            let mut taken = 0;
            while let Some(chunk) = held.take(usize::MAX) {
                for is in chunk.slices().flatten() {
                    assert_eq!(*is, byte(taken, 0));
                    taken += 1;
                }
            }
            assert_eq!(taken, 700 * 1460);
        }
        drop(flows);
        assert_eq!((budget.frames(), store.available()), (0, 2048));
        assert_eq!(budget.copies(), 0);
    }

    #[test]
    fn beyond_all_budgets_only_the_next_bytes_are_taken() {
        let store = Buffers::new(8, 2048);
        let budget = Budget::new(0);
        let mut held = Held::within(0, Some(budget.clone()));
        let mut others = Share::of(Some(budget.clone()));
        others.set(0, COPIES_BYTES_MAX);
        let mut insert = |at: usize| {
            let frame = frame(&store, at, 100, 0);
            held.insert(count(at), frame, HEAD..HEAD + 100)
        };
        assert_eq!(insert(100), Err(Refused));
        assert_eq!(insert(0), Ok(()));
        assert_eq!(insert(200), Err(Refused));
        assert_eq!(insert(100), Ok(()));
    }
}
