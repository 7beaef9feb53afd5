//! Pools and buffers under random operations, checked against a model of plain vectors.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const POOL_CHUNKS: usize = 24;

#[derive(Clone, Debug)]
enum Op {
    Alloc(usize),
    AllocReserved(usize),
    Reserve(usize),
    Unreserve(usize),
    Extend(usize, usize),
    Truncate(usize, usize),
    Drop(usize),
    Write(usize, usize, Vec<u8>),
    Fill(usize, usize, usize, u8),
}

fn ops() -> impl Strategy<Value = Op> {
    let bytes = 0..6 * CHUNK_BYTES;
    prop_oneof![
        bytes.clone().prop_map(Op::Alloc),
        bytes.clone().prop_map(Op::AllocReserved),
        (0..8usize).prop_map(Op::Reserve),
        (0..8usize).prop_map(Op::Unreserve),
        (any::<usize>(), 0..2 * CHUNK_BYTES).prop_map(|(which, bytes)| Op::Extend(which, bytes)),
        (any::<usize>(), bytes.clone()).prop_map(|(which, len)| Op::Truncate(which, len)),
        any::<usize>().prop_map(Op::Drop),
        (
            any::<usize>(),
            bytes.clone(),
            prop::collection::vec(any::<u8>(), 0..600)
        )
            .prop_map(|(which, offset, data)| Op::Write(which, offset, data)),
        (any::<usize>(), bytes.clone(), bytes, any::<u8>())
            .prop_map(|(which, offset, len, byte)| Op::Fill(which, offset, len, byte)),
    ]
}

/// A buffer and what it must contain.
struct Twin {
    buf: DmaBuf,
    model: Vec<u8>,
}

impl Twin {
    fn new(mut buf: DmaBuf, stamp: u8) -> Self {
        let len = buf.len();
        buf.fill(0, len, stamp);
        Self {
            buf,
            model: vec![stamp; len],
        }
    }

    fn check(&self) {
        assert_eq!(self.buf.len(), self.model.len());
        assert_eq!(self.buf.chunks(), Pool::chunks_for(self.model.len()));
        let mut joined = Vec::new();
        self.buf
            .slices()
            .for_each(|slice| joined.extend_from_slice(slice));
        assert!(joined == self.model, "contents are stable");
    }
}

fn check_all(pool: &Pool, twins: &[Twin], reserved: usize) {
    let mut owned = HashSet::new();
    for twin in twins {
        twin.check();
        for (start, len) in twin.buf.segments(0..twin.buf.len()) {
            let first = start.as_ptr().addr();
            assert_eq!(first % 4096, 0, "chunks are aligned");
            for chunk in (first..first + len).step_by(CHUNK_BYTES) {
                assert!(owned.insert(chunk), "a chunk is in one buffer only");
            }
        }
    }
    assert_eq!(pool.reserved(), reserved);
    assert_eq!(
        pool.available() + reserved + owned.len(),
        POOL_CHUNKS,
        "no chunk is lost"
    );
}

fn apply(pool: &Pool, twins: &mut Vec<Twin>, reserved: &mut usize, stamp: u8, op: Op) {
    let available = pool.available();
    let slot = |which: usize, twins: &[Twin]| (!twins.is_empty()).then(|| which % twins.len());
    match op {
        Op::Alloc(bytes) => {
            let buf = pool.alloc(bytes);
            assert_eq!(buf.is_some(), Pool::chunks_for(bytes) <= available);
            twins.extend(buf.map(|buf| Twin::new(buf, stamp)));
        }
        Op::AllocReserved(bytes) => {
            let buf = pool.alloc_reserved(bytes);
            assert_eq!(buf.is_some(), Pool::chunks_for(bytes) <= *reserved);
            if let Some(buf) = buf {
                *reserved -= buf.chunks();
                twins.push(Twin::new(buf, stamp));
            }
        }
        Op::Reserve(chunks) => {
            let done = pool.reserve(chunks);
            assert_eq!(done, chunks <= available);
            *reserved += if done { chunks } else { 0 };
        }
        Op::Unreserve(chunks) => {
            let chunks = chunks.min(*reserved);
            pool.unreserve(chunks);
            *reserved -= chunks;
        }
        Op::Extend(which, bytes) => {
            let Some(at) = slot(which, twins) else { return };
            let twin = &mut twins[at];
            let len = twin.model.len();
            let more = Pool::chunks_for(len + bytes) - twin.buf.chunks();
            assert_eq!(pool.extend(&mut twin.buf, bytes), more <= available);
            let grown = twin.buf.len() - len;
            assert_eq!(grown, if more <= available { bytes } else { 0 });
            twin.buf.fill(len, grown, stamp);
            twin.model.resize(len + grown, stamp);
        }
        Op::Truncate(which, len) => {
            let Some(at) = slot(which, twins) else { return };
            twins[at].buf.truncate(len);
            twins[at].model.truncate(len);
        }
        Op::Drop(which) => {
            let Some(at) = slot(which, twins) else { return };
            drop(twins.swap_remove(at));
        }
        Op::Write(which, offset, data) => {
            let Some(at) = slot(which, twins) else { return };
            let twin = &mut twins[at];
            let offset = offset.min(twin.model.len());
            let data = &data[..data.len().min(twin.model.len() - offset)];
            twin.buf.copy_from(offset, data);
            twin.model[offset..offset + data.len()].copy_from_slice(data);
            let mut back = vec![0; data.len()];
            twin.buf.copy_to(offset, &mut back);
            assert_eq!(back, data);
        }
        Op::Fill(which, offset, len, byte) => {
            let Some(at) = slot(which, twins) else { return };
            let twin = &mut twins[at];
            let offset = offset.min(twin.model.len());
            let len = len.min(twin.model.len() - offset);
            twin.buf.fill(offset, len, byte);
            twin.model[offset..offset + len].fill(byte);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn random_operations_keep_chunks_contents_and_accounts_apart(
        ops in prop::collection::vec(ops(), 1..80)
    ) {
        let pool = Pool::new(POOL_CHUNKS * CHUNK_BYTES, Pages::Normal).unwrap();
        let mut twins = Vec::new();
        let mut reserved = 0;
        for (step, op) in ops.into_iter().enumerate() {
            let stamp = u8::try_from(step).expect("fewer than 256 steps");
            apply(&pool, &mut twins, &mut reserved, stamp, op);
            check_all(&pool, &twins, reserved);
        }
        twins.clear();
        prop_assert_eq!(pool.available() + reserved, POOL_CHUNKS);
    }
}

fn pool(chunks: usize) -> Pool {
    Pool::new(chunks * CHUNK_BYTES, Pages::Normal).unwrap()
}

#[test]
fn fresh_pool_gives_one_segment_for_many_chunks() {
    let pool = pool(8);
    let buf = pool.alloc(8 * CHUNK_BYTES).unwrap();
    assert_eq!(buf.segments(0..buf.len()).count(), 1);
    assert_eq!(
        buf.segments(5..CHUNK_BYTES + 7)
            .map(|(_, len)| len)
            .sum::<usize>(),
        CHUNK_BYTES + 2
    );
}

#[test]
fn what_is_reserved_is_not_for_others_and_is_kept_for_the_owner() {
    let pool = pool(4);
    assert!(pool.reserve(3));
    assert!(!pool.reserve(2));
    assert!(pool.alloc(2 * CHUNK_BYTES).is_none());
    let other = pool.alloc(1).unwrap();
    let own = pool.alloc_reserved(2 * CHUNK_BYTES + 1).unwrap();
    assert_eq!((pool.available(), pool.reserved(), own.chunks()), (0, 0, 3));
    assert!(pool.alloc_reserved(1).is_none());
    drop((own, other));
    assert_eq!(pool.available(), 4);
}

#[test]
#[should_panic(expected = "only what was reserved is returned")]
fn returning_more_than_was_reserved_is_a_programmer_error() {
    let pool = pool(2);
    assert!(pool.reserve(1));
    pool.unreserve(2);
}

#[test]
fn buffers_outlive_their_last_pool_handle() {
    let pool = pool(2);
    let mut buf = pool.alloc(CHUNK_BYTES + 1).unwrap();
    drop(pool);
    buf.copy_from(CHUNK_BYTES - 1, b"ab");
    let mut back = [0; 2];
    buf.copy_to(CHUNK_BYTES - 1, &mut back);
    assert_eq!(&back, b"ab");
}

#[test]
fn empty_buffer_needs_no_pool_and_can_grow_into_one() {
    let pool = pool(2);
    let mut buf = DmaBuf::empty();
    assert_eq!((buf.len(), buf.slices().count()), (0, 0));
    assert!(pool.extend(&mut buf, 10));
    assert_eq!((buf.len(), buf.chunks(), pool.available()), (10, 1, 1));
    assert!(!pool.extend(&mut buf, 2 * CHUNK_BYTES));
    assert_eq!(buf.len(), 10);
    buf.truncate(0);
    assert_eq!((buf.chunks(), pool.available()), (0, 2));
}

#[test]
#[should_panic(expected = "inside the buffer")]
fn copying_beyond_the_end_panics() {
    let pool = pool(1);
    pool.alloc(10).unwrap().copy_from(8, b"abc");
}

#[test]
#[should_panic(expected = "its own pool")]
fn growing_by_chunks_of_another_pool_panics() {
    let (one, two) = (pool(1), pool(1));
    let mut buf = one.alloc(CHUNK_BYTES).unwrap();
    let _ = two.extend(&mut buf, 1);
}

#[test]
fn length_within_the_chunks_keeps_them_all() {
    let pool = Pool::new(4 * CHUNK_BYTES, Pages::Normal).unwrap();
    let mut buf = pool.alloc(3 * CHUNK_BYTES).unwrap();
    buf.set_len(10);
    assert_eq!((buf.len(), buf.chunks(), pool.available()), (10, 3, 1));
    buf.set_len(3 * CHUNK_BYTES);
    buf.fill(2 * CHUNK_BYTES, CHUNK_BYTES, 7);
    buf.truncate(CHUNK_BYTES);
    assert_eq!((buf.chunks(), pool.available()), (1, 3));
}
