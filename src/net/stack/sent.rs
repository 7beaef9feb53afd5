//! [`Sent`]: what was given to a flow to be sent and is not acknowledged yet.
//!
//! ```text
//! push ─► [ header | lent payload … | header | … ] ─► pieces(sequence range) ─► frames
//!          ▲ acknowledge() frees from here
//! ```
//!
//! smoltcp decides which sequence numbers go out, and when again; their bytes come from here.
//! Headers are copied into a ring, payload stays in its buffers as [`Loan`]s. Neighbouring headers
//! are one entry, so that what a flow needs is bounded by bytes, not by calls.

use std::collections::VecDeque;

use arrayvec::ArrayVec;

use crate::mem::{self, Loan};
use crate::port::Piece;

/// Entries kept at a time: beyond them nothing is taken until some are acknowledged. A piece that
/// lies in many runs of chunks may go beyond it by their number.
pub(super) const ENTRIES_MAX: usize = 4096;
/// Bytes of copied pieces kept at a time.
pub(super) const COPIED_BYTES_MAX: usize = 256 * 1024;
/// Pieces of one frame that come from here.
pub(super) const PIECES_MAX: usize = 32;

/// Pieces of a frame's payload, in order, with room for one more.
pub(super) type Pieces<'a> = ArrayVec<Piece<'a>, { PIECES_MAX + 1 }>;

/// Parts of loans that a frame begins and ends with: as long as they are there, so are its pieces.
pub(super) type Cuts = [Option<Loan>; 2];

/// Bytes by their sequence numbers.
#[derive(Default)]
pub(super) struct Sent {
    entries: VecDeque<Entry>,
    /// The bytes of all copied entries, in order.
    copied: VecDeque<u8>,
    /// The sequence number of the first entry's first byte. Not later than `una`: a loan that is
    /// acknowledged in part is kept whole.
    base: u32,
    /// The first that is not acknowledged.
    una: u32,
    /// The next to be pushed.
    end: u32,
    /// Bytes that have left `copied`, wrapping.
    gone: u32,
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sent")
            .field("una", &self.una)
            .field("end", &self.end)
            .field("entries", &self.entries.len())
            .finish_non_exhaustive()
    }
}

struct Entry {
    /// Sequence number of its first byte.
    at: u32,
    what: What,
}

enum What {
    /// Where in all bytes that ever were in `copied`, wrapping, and how many.
    Copied {
        from: u32,
        len: u32,
    },
    Lent(Loan),
}

impl Entry {
    fn len(&self) -> usize {
        match &self.what {
            What::Copied { len, .. } => *len as usize,
            What::Lent(loan) => loan.len(),
        }
    }
}

/// How far `to` lies behind `from`.
fn distance(from: u32, to: u32) -> usize {
    to.wrapping_sub(from) as usize
}

/// A length of less than 2^31, as sequence numbers count.
fn count(len: usize) -> u32 {
    u32::try_from(len).expect("what a flow holds is bounded far below 4 GiB")
}

impl Sent {
    /// Nothing, from `seq` on.
    pub(super) fn new(seq: u32) -> Self {
        Self {
            base: seq,
            una: seq,
            end: seq,
            ..Self::default()
        }
    }

    /// The sequence number of the first byte that is not acknowledged.
    pub(super) fn una(&self) -> u32 {
        self.una
    }

    /// The sequence number of the next byte to be pushed.
    pub(super) fn end(&self) -> u32 {
        self.end
    }

    /// Bytes that are not acknowledged.
    pub(super) fn len(&self) -> usize {
        distance(self.una, self.end)
    }

    /// It takes more than a little of whatever kind of piece, as far as its own bounds go.
    pub(super) fn has_room(&self) -> bool {
        self.entries.len() <= ENTRIES_MAX / 8 * 7 && self.copied.len() <= COPIED_BYTES_MAX / 8 * 7
    }

    /// Appends what it takes of `piece`, at most `room` bytes, and says how many those were. Less
    /// than the piece or the room means that a bound is reached.
    pub(super) fn push(&mut self, piece: &mem::Piece<'_>, room: usize) -> usize {
        if self.entries.len() >= ENTRIES_MAX {
            return 0;
        }
        match piece {
            mem::Piece::Bytes(bytes) => self.copy(&bytes[..bytes.len().min(room)]),
            mem::Piece::Buffer(buf, range) => {
                let len = range.len().min(room);
                let mut end = self.end;
                buf.lend(range.start..range.start + len, |loan| {
                    let at = end;
                    end = end.wrapping_add(count(loan.len()));
                    let what = What::Lent(loan);
                    self.entries.push_back(Entry { at, what });
                });
                debug_assert_eq!(distance(self.end, end), len, "a buffer lends what it has");
                self.end = end;
                len
            }
        }
    }

    fn copy(&mut self, bytes: &[u8]) -> usize {
        let room = COPIED_BYTES_MAX.saturating_sub(self.copied.len());
        let bytes = &bytes[..bytes.len().min(room)];
        if bytes.is_empty() {
            return 0;
        }
        let from = self.gone.wrapping_add(count(self.copied.len()));
        // Copies of headers, and of payload that came as plain bytes.
        self.copied.extend(bytes);
        match self.entries.back_mut() {
            Some(Entry {
                what: What::Copied { len, .. },
                ..
            }) => *len += count(bytes.len()),
            _ => self.entries.push_back(Entry {
                at: self.end,
                what: What::Copied {
                    from,
                    len: count(bytes.len()),
                },
            }),
        }
        self.end = self.end.wrapping_add(count(bytes.len()));
        bytes.len()
    }

    /// Everything before `seq` has arrived; a number outside of what is held changes nothing.
    pub(super) fn acknowledge(&mut self, seq: u32) {
        // Nothing ends here that did not end when `una` came to it.
        if seq == self.una || distance(self.una, seq) > self.len() {
            return;
        }
        self.una = seq;
        // Copied bytes that are done with: they leave together.
        let mut copied = 0;
        while let Some(first) = self.entries.front_mut() {
            let done = distance(first.at, seq);
            let whole = done >= first.len();
            if let What::Copied { from, len } = &mut first.what {
                let done = count(done.min(*len as usize));
                copied += done;
                *from = from.wrapping_add(done);
                *len -= done;
                first.at = first.at.wrapping_add(done);
            }
            if !whole {
                break;
            }
            self.entries.pop_front();
        }
        if copied != 0 {
            self.copied.drain(..copied as usize);
            self.gone = self.gone.wrapping_add(copied);
        }
        self.base = self.entries.front().map_or(seq, |first| first.at);
    }

    /// Whether all of the `len` bytes from `seq` on are held.
    pub(super) fn holds(&self, seq: u32, len: usize) -> bool {
        let before = distance(self.una, seq);
        before <= self.len() && len <= self.len() - before
    }

    /// Puts the pieces of the `len` bytes from `seq` on into `pieces`, which has none, as far as it
    /// takes them, and says how many bytes those were: all, or as many as [`PIECES_MAX`] pieces
    /// have. Bytes that are not held have no pieces. `cuts`: nothing.
    pub(super) fn pieces<'a>(
        &'a self,
        seq: u32,
        len: usize,
        cuts: &'a mut Cuts,
        pieces: &mut Pieces<'a>,
    ) -> usize {
        if !self.holds(seq, len) || len == 0 {
            return 0;
        }
        let from = distance(self.base, seq);
        let first = self
            .entries
            .partition_point(|entry| distance(self.base, entry.at) + entry.len() <= from);
        let mut skip = from - distance(self.base, self.entries[first].at);
        let mut left = len;
        let mut cuts = cuts.iter_mut();
        for entry in self.entries.range(first..) {
            if left == 0 || pieces.len() + 2 > PIECES_MAX {
                break;
            }
            let take = (entry.len() - skip).min(left);
            match &entry.what {
                What::Lent(loan) if take == loan.len() => pieces.push(Piece::Loan(loan)),
                What::Lent(loan) => {
                    let cut = cuts.next().expect("only the first and the last are cut");
                    pieces.push(Piece::Loan(cut.insert(loan.part(skip..skip + take))));
                }
                What::Copied { from, .. } => {
                    let start = distance(self.gone, *from) + skip;
                    let (one, two) = self.copied(start, take);
                    pieces.push(Piece::Bytes(one));
                    if !two.is_empty() {
                        pieces.push(Piece::Bytes(two));
                    }
                }
            }
            skip = 0;
            left -= take;
        }
        len - left
    }

    /// Copies the bytes from `seq` on, all of which must be held.
    pub(super) fn copy_to(&self, mut seq: u32, mut out: &mut [u8]) {
        while !out.is_empty() {
            let (mut cuts, mut pieces) = (Cuts::default(), Pieces::new());
            let got = self.pieces(seq, out.len(), &mut cuts, &mut pieces);
            assert!(got != 0, "{} bytes from {seq} on are held", out.len());
            for piece in &pieces {
                let (now, later) = out.split_at_mut(piece.bytes().len());
                // A copy of a frame of very many pieces, or of a flow that goes to another core.
                mem::copy(now, piece.bytes());
                out = later;
            }
            seq = seq.wrapping_add(count(got));
        }
    }

    /// A part of `copied`, which may lie in two places.
    fn copied(&self, start: usize, len: usize) -> (&[u8], &[u8]) {
        let (one, two) = self.copied.as_slices();
        if start >= one.len() {
            let start = start - one.len();
            return (&two[start..start + len], &[]);
        }
        let here = len.min(one.len() - start);
        (&one[start..start + here], &two[..len - here])
    }

    /// Everything that is held, copied, with the sequence number of its first byte: what goes to
    /// another core, where loans of this one's pool cannot go.
    pub(super) fn into_copy(self) -> Copied {
        let mut bytes = vec![0; self.len()];
        self.copy_to(self.una, &mut bytes);
        Copied {
            seq: self.una,
            bytes,
        }
    }
}

/// What was sent and is not acknowledged, apart from any core.
#[derive(Debug)]
pub(super) struct Copied {
    seq: u32,
    bytes: Vec<u8>,
}

impl From<Copied> for Sent {
    /// The copy as one entry; it may be longer than what is taken at a time.
    fn from(copy: Copied) -> Self {
        let mut sent = Self::new(copy.seq);
        let len = count(copy.bytes.len());
        if len != 0 {
            sent.copied = copy.bytes.into();
            sent.end = copy.seq.wrapping_add(len);
            let what = What::Copied { from: 0, len };
            sent.entries.push_back(Entry { at: copy.seq, what });
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mem::{CHUNK_BYTES, Pages, Pool};

    #[derive(Clone, Debug)]
    enum Step {
        Bytes(usize),
        Buffer { len: usize, skip: usize },
        Acknowledge(f64),
        Read { from: f64, len: f64 },
        Move,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..200usize).prop_map(Step::Bytes),
            4 => (1..3 * CHUNK_BYTES, 0..100usize)
                .prop_map(|(len, skip)| Step::Buffer { len, skip }),
            4 => (0.0..1.0).prop_map(Step::Acknowledge),
            6 => (0.0..1.0, 0.0..1.0).prop_map(|(from, len)| Step::Read { from, len }),
            1 => Just(Step::Move),
        ]
    }

    /// So many of `whole`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a test's choice of a number below 2^32"
    )]
    fn share(whole: usize, share: f64) -> usize {
        (whole as f64 * share) as usize
    }

    fn pattern(seed: usize, len: usize) -> Vec<u8> {
        (0..len)
            .map(|at| u8::try_from((at * 31 + seed * 7) % 251).unwrap())
            .collect()
    }

    proptest! {
        #[test]
        fn it_holds_what_a_plain_vector_holds(
            isn in prop_oneof![any::<u32>(), u32::MAX - 100_000..u32::MAX],
            steps in prop::collection::vec(step(), 1..80),
        ) {
            let pool = Pool::new(64 * CHUNK_BYTES, Pages::Normal).unwrap();
            let mut sent = Sent::new(isn);
            let mut model = Vec::new();
            let mut una = isn;
            for (seed, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Bytes(len) => {
                        let bytes = pattern(seed, len);
                        let taken = sent.push(&mem::Piece::Bytes(&bytes), usize::MAX);
                        model.extend_from_slice(&bytes[..taken]);
                    }
                    Step::Buffer { len, skip } => {
                        let Some(mut buf) = pool.alloc(len + skip) else { continue };
                        let bytes = pattern(seed, len);
                        buf.copy_from(skip, &bytes);
                        let piece = mem::Piece::Buffer(&buf, skip..skip + len);
                        let taken = sent.push(&piece, usize::MAX);
                        model.extend_from_slice(&bytes[..taken]);
                    }
                    Step::Acknowledge(part) => {
                        let done = share(model.len(), part);
                        model.drain(..done);
                        una = una.wrapping_add(count(done));
                        sent.acknowledge(una);
                    }
                    Step::Read { from, len } => {
                        let from = share(model.len(), from);
                        let len = share(model.len() - from, len);
                        let (mut cuts, mut pieces) = (Cuts::default(), Pieces::new());
                        let seq = una.wrapping_add(count(from));
                        let got = sent.pieces(seq, len, &mut cuts, &mut pieces);
                        prop_assert!(got == len || pieces.len() + 2 > PIECES_MAX);
                        prop_assert!(pieces.remaining_capacity() != 0);
                        let bytes: Vec<u8> =
                            pieces.iter().flat_map(|piece| piece.bytes().to_vec()).collect();
                        prop_assert_eq!(&bytes[..], &model[from..from + got]);
                        let mut copy = vec![0; len];
                        sent.copy_to(una.wrapping_add(count(from)), &mut copy);
                        prop_assert_eq!(&copy[..], &model[from..from + len]);
                    }
                    Step::Move => sent = std::mem::take(&mut sent).into_copy().into(),
                }
                prop_assert_eq!((sent.una(), sent.len()), (una, model.len()));
                prop_assert!(!sent.holds(una.wrapping_sub(1), 1));
                prop_assert!(!sent.holds(una, model.len() + 1));
            }
            sent.acknowledge(sent.end());
            prop_assert_eq!((sent.len(), sent.entries.len(), sent.copied.len()), (0, 0, 0));
            prop_assert_eq!(pool.available(), pool.chunks());
        }
    }

    #[test]
    fn payload_is_never_copied() {
        let pool = Pool::new(4 * CHUNK_BYTES, Pages::Normal).unwrap();
        let buf = pool.alloc(2 * CHUNK_BYTES).unwrap();
        let mut sent = Sent::new(7);
        let piece = mem::Piece::Buffer(&buf, 0..buf.len());
        assert_eq!(sent.push(&piece, 20_000), 20_000);
        let (mut cuts, mut pieces) = (Cuts::default(), Pieces::new());
        assert_eq!(sent.pieces(107, 9000, &mut cuts, &mut pieces), 9000);
        let [Piece::Loan(loan)] = &pieces[..] else {
            panic!("{pieces:?} is one run of chunks");
        };
        let base = buf.slices().next().unwrap().as_ptr();
        assert_eq!(loan.as_ptr(), base.wrapping_add(100));
    }

    #[test]
    fn headers_alone_are_one_entry_and_bounded() {
        let mut sent = Sent::new(u32::MAX - 10);
        let mut taken = 0;
        loop {
            let now = sent.push(&mem::Piece::Bytes(&[1; 48]), usize::MAX);
            taken += now;
            if now < 48 {
                break;
            }
        }
        assert_eq!((taken, sent.entries.len()), (COPIED_BYTES_MAX, 1));
        // Acknowledged byte by byte it gives room byte by byte, however long that goes on.
        for _ in 0..2 * COPIED_BYTES_MAX {
            sent.acknowledge(sent.una().wrapping_add(1));
            assert_eq!(sent.push(&mem::Piece::Bytes(&[2; 48]), usize::MAX), 1);
        }
        assert_eq!((sent.len(), sent.entries.len()), (COPIED_BYTES_MAX, 1));
    }

    #[test]
    fn small_loans_are_bounded_and_numbers_out_of_place_change_nothing() {
        let pool = Pool::new(CHUNK_BYTES, Pages::Normal).unwrap();
        let buf = pool.alloc(1).unwrap();
        let mut sent = Sent::new(0);
        let piece = mem::Piece::Buffer(&buf, 0..1);
        let taken = (0..2 * ENTRIES_MAX)
            .filter(|_| sent.push(&piece, 9) == 1)
            .count();
        assert_eq!(taken, ENTRIES_MAX);
        for seq in [u32::MAX, count(ENTRIES_MAX) + 1, 1 << 31] {
            sent.acknowledge(seq);
            assert_eq!((sent.una(), sent.len()), (0, ENTRIES_MAX));
        }
        sent.acknowledge(count(ENTRIES_MAX));
        assert_eq!(sent.len(), 0);
    }
}
