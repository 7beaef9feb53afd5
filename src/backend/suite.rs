//! What every device must do, as one suite: run against each of them by its own tests.
//!
//! Panics say what was broken and the seed of the random part. The driver sleeps on the set's wake
//! descriptors exactly as a core does, so that a completion which wakes nobody is found too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::backing::Device;
use super::{
    Backing, Completion, Faults, IoError, LbaRun, Operation, Options, Request, Set, Token,
    UnitIndex,
};
use crate::mem::{CHUNK_BYTES, DmaBuf, Pages, Pool};

/// The unit that the suite uses.
const UNIT: UnitIndex = UnitIndex(3);
/// Bytes at the start of the device that the model follows, in zones that operations of a batch
/// share out among themselves.
const ZONE_BYTES: usize = 128 << 10;
const ZONES: usize = 16;
/// Smallest device that the suite can run on, in bytes.
pub const DEVICE_BYTES_MIN: u64 = 8 << 20;
const POOL_BYTES: usize = 16 << 20;
const BATCHES: usize = 60;
/// How long a completion may take before the suite gives up, in seconds.
const PATIENCE_S: i64 = 60;

/// Runs everything against what `open` opens: a fresh device, all zeroes, of at least
/// [`DEVICE_BYTES_MIN`] bytes, writable. `stores: false` for the null device.
pub fn run(open: impl Fn() -> Arc<Backing>, stores: bool, seed: u64) {
    let backing = open();
    if stores {
        random_operations_agree_with_a_model(&backing, seed);
        runs_cover_the_device_and_own_up_to_what_was_written(&backing);
    }
    // The same device again: it must be possible to attach it to another set.
    bounds_are_kept(&backing);
    long_scattered_transfers_arrive(&backing, stores);
    faults_reach_the_caller_and_tokens_come_back(&backing);
    held_writes_land_when_they_are_released(&backing, stores);
    durability_can_be_dropped_for_tests(&backing);
    requests_to_missing_units_complete(&backing);
}

impl Backing {
    /// The same device with faults in front of it.
    pub fn with_faults(inner: &Arc<Self>, faults: Arc<Faults>) -> Arc<Self> {
        Arc::new(Self {
            core: Arc::clone(&inner.core),
            faults: Some(faults),
        })
    }

    /// Behaves from now on as after a failed flush.
    pub fn lose_write_cache(&self) {
        if let Device::File(file) = &self.core.device {
            file.set_write_cache_lost(true);
        }
    }
}

/// The time, for turns that a test drives.
#[expect(
    clippy::disallowed_methods,
    reason = "who drives a set has a clock, as a core has"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// One core with one device.
#[derive(Debug)]
pub struct Driver {
    pub set: Set,
    pub pool: Pool,
    done: Vec<Completion>,
    arrived: BTreeMap<u64, Completion>,
    next_tag: u64,
    /// [`Request::past_limit`] of what is submitted.
    pub past_limit: bool,
}

impl Driver {
    pub fn new(backing: &Arc<Backing>) -> Self {
        let options = Options { depth: 8, units: 8 };
        let mut set = Set::new(&options).expect("an eventfd");
        let pool = Pool::new(POOL_BYTES, Pages::Normal).expect("a small pool");
        set.use_pool(&pool, Pages::Normal);
        set.attach(UNIT, backing)
            .expect("the device can be attached");
        set.after_sleep();
        Self {
            set,
            pool,
            done: Vec::with_capacity(4),
            arrived: BTreeMap::new(),
            next_tag: 1,
            past_limit: false,
        }
    }

    /// Submits and returns the tag under which the completion will arrive.
    pub fn submit(&mut self, operation: Operation) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.set.submit(Request {
            unit: UNIT,
            operation,
            past_limit: self.past_limit,
            token: Token::new(tag),
        });
        tag
    }

    /// One turn: kick and poll.
    pub fn turn(&mut self) {
        self.set.kick(now());
        self.set.poll(&mut self.done);
        for completion in self.done.drain(..) {
            let tag = completion.token.tag();
            let twice = self.arrived.insert(tag, completion);
            assert!(twice.is_none(), "token {tag} came back once");
        }
    }

    /// The result and buffer of `tag`, sleeping as a core does until it arrives.
    pub fn wait(&mut self, tag: u64) -> (Result<(), IoError>, Option<DmaBuf>) {
        loop {
            self.turn();
            if let Some(completion) = self.arrived.remove(&tag) {
                assert_eq!(completion.token.finish(), tag);
                return (completion.result, completion.buf);
            }
            self.sleep();
        }
    }

    pub fn run(&mut self, operation: Operation) -> (Result<(), IoError>, Option<DmaBuf>) {
        let tag = self.submit(operation);
        self.wait(tag)
    }

    pub fn write(
        &mut self,
        lba: u64,
        block_size: u32,
        data: &[u8],
        fua: bool,
    ) -> Result<(), IoError> {
        let (result, buf) = self.run(self.write_operation(lba, block_size, data, fua));
        assert_eq!(buf.expect("the buffer comes back").len(), data.len());
        result
    }

    pub fn write_operation(&self, lba: u64, block_size: u32, data: &[u8], fua: bool) -> Operation {
        let mut buf = self.pool.alloc(data.len()).expect("room in the pool");
        buf.copy_from(0, data);
        Operation::Write {
            lba,
            blocks: blocks(data.len(), block_size),
            buf,
            fua,
        }
    }

    pub fn read_operation(&self, lba: u64, block_size: u32, bytes: usize) -> Operation {
        let mut buf = self.pool.alloc(bytes).expect("room in the pool");
        // What a device does not fill must not look like what it should hold.
        buf.fill(0, bytes, 0xee);
        Operation::Read {
            lba,
            blocks: blocks(bytes, block_size),
            buf,
        }
    }

    pub fn read(&mut self, lba: u64, block_size: u32, bytes: usize) -> Result<Vec<u8>, IoError> {
        let (result, buf) = self.run(self.read_operation(lba, block_size, bytes));
        let buf = buf.expect("the buffer comes back");
        result.map(|()| contents(&buf))
    }

    fn sleep(&mut self) {
        if self.set.before_sleep() {
            let fds: Vec<_> = self.set.wake_fds().collect();
            let mut fds: Vec<_> = fds
                .iter()
                .map(|fd| PollFd::new(fd, PollFlags::IN))
                .collect();
            let patience = Timespec {
                tv_sec: PATIENCE_S,
                tv_nsec: 0,
            };
            match poll(&mut fds, Some(&patience)) {
                Ok(woken) => assert!(woken > 0, "a completion wakes the core"),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => panic!("poll: {errno}"),
            }
            self.set.after_sleep();
        }
    }

    /// Nothing is left behind: no request and no chunk.
    pub fn finish(self) {
        assert_eq!(self.set.in_flight(), 0, "every request was answered");
        assert!(self.arrived.is_empty(), "every answer was looked at");
        assert_eq!(
            self.pool.available(),
            self.pool.chunks(),
            "every chunk is back"
        );
    }
}

/// SplitMix64: enough randomness for tests, reproducible from its seed.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }
}

fn random_operations_agree_with_a_model(backing: &Arc<Backing>, seed: u64) {
    let (size, unmap_zeroes) = (backing.info().block_size, backing.info().unmap_reads_zeroes);
    let faults = Arc::new(Faults::default());
    // Delays of different lengths make completions overtake each other.
    faults.delay_polls(5);
    let mut driver = Driver::new(&Backing::with_faults(backing, Arc::clone(&faults)));
    let mut random = Random(seed);
    let mut model = vec![0_u8; ZONE_BYTES * ZONES];
    let mut overtaken = false;
    for batch in 0..BATCHES {
        let mut reads = Vec::new();
        let mut tags = Vec::new();
        for zone in 0..ZONES {
            let bytes = size as usize;
            let first = random.below(ZONE_BYTES / bytes);
            let count = 1 + random.below(ZONE_BYTES / bytes - first);
            let start = zone * ZONE_BYTES + first * bytes;
            let (lba, range) = ((start / bytes) as u64, start..start + count * bytes);
            let blocks = count as u64;
            let operation = match random.below(8) {
                0..=2 => {
                    let stamp = random.next().to_le_bytes();
                    let cells = model[range.clone()].iter_mut().zip(stamp.iter().cycle());
                    cells.for_each(|(cell, &byte)| *cell = byte);
                    let fua = random.below(3) == 0;
                    driver.write_operation(lba, size, &model[range], fua)
                }
                3 if unmap_zeroes => {
                    model[range].fill(0);
                    Operation::Unmap { lba, blocks }
                }
                4 => {
                    model[range].fill(0);
                    let (fua, may_unmap) = (random.below(2) == 0, random.below(2) == 0);
                    Operation::WriteZeroes {
                        lba,
                        blocks,
                        fua,
                        may_unmap,
                    }
                }
                5 => Operation::Flush,
                _ => {
                    reads.push((driver.next_tag, range.clone()));
                    driver.read_operation(lba, size, range.len())
                }
            };
            tags.push(driver.submit(operation));
        }
        let mut reads: BTreeMap<_, _> = reads.into_iter().collect();
        for (nth, &tag) in tags.iter().enumerate() {
            overtaken |= nth > 0 && driver.arrived.contains_key(&tag);
            let (result, buf) = driver.wait(tag);
            assert_eq!(result, Ok(()), "seed {seed} batch {batch} tag {tag}");
            if let Some(range) = reads.remove(&tag) {
                let read = contents(&buf.expect("the buffer comes back"));
                assert!(
                    read == model[range],
                    "seed {seed} batch {batch} tag {tag}: contents differ"
                );
            }
        }
    }
    assert!(overtaken, "completions came out of order at least once");
    let all = driver.read(0, size, model.len()).expect("the whole model");
    assert!(all == model, "seed {seed}: contents differ at the end");
    driver.finish();
}

/// The runs of the whole device: first block, the block behind them, whether they are mapped.
fn runs(driver: &mut Driver, end: u64) -> Vec<(u64, u64, bool)> {
    let mut runs = Vec::new();
    let mut lba = 0;
    while lba < end {
        let mut buf = driver.pool.alloc(LbaRun::BYTES).expect("room in the pool");
        buf.fill(0, LbaRun::BYTES, 0xee);
        let (result, buf) = driver.run(Operation::LbaStatus { lba, buf });
        assert_eq!(result, Ok(()));
        let run = LbaRun::parse(&buf.expect("the buffer comes back"));
        let next = lba.saturating_add(run.blocks).min(end);
        runs.push((lba, next, run.mapped));
        lba = next;
    }
    runs
}

/// What was written is mapped, what was unmapped is not where the device says that it can tell, and
/// the runs follow each other to the end.
fn runs_cover_the_device_and_own_up_to_what_was_written(backing: &Arc<Backing>) {
    const WRITTEN_BYTES: u64 = 64 << 10;
    let info = backing.info();
    let (size, end) = (info.block_size, info.blocks);
    let mut driver = Driver::new(backing);
    let zero = Operation::WriteZeroes {
        lba: 0,
        blocks: end,
        fua: false,
        may_unmap: true,
    };
    assert_eq!(driver.run(zero).0, Ok(()));
    let written = [2 * WRITTEN_BYTES, 16 * WRITTEN_BYTES];
    for at in written {
        let data = vec![0x5a; usize::try_from(WRITTEN_BYTES).unwrap()];
        let wrote = driver.write(at / u64::from(size), size, &data, false);
        assert_eq!(wrote, Ok(()));
    }
    let runs = runs(&mut driver, end);
    for at in written {
        let (from, to) = (at / u64::from(size), (at + WRITTEN_BYTES) / u64::from(size));
        let overlaps =
            |(first, next, mapped): &(u64, u64, bool)| !mapped && *first < to && from < *next;
        assert!(
            !runs.iter().any(overlaps),
            "{runs:?} deny what was written at {at}"
        );
    }
    // A namespace may zero what is deallocated, and does not tell where.
    let tells = !matches!(backing.device(), Device::Nvme(_) | Device::NvmeKernel(_));
    if tells && info.unmap && info.unmap_reads_zeroes {
        let (first, _, mapped) = runs[0];
        assert!(
            first == 0 && !mapped,
            "{runs:?} say that nothing was unmapped"
        );
        let zero = Operation::WriteZeroes {
            lba: 0,
            blocks: end,
            fua: false,
            may_unmap: true,
        };
        assert_eq!(driver.run(zero).0, Ok(()));
        let runs = self::runs(&mut driver, end);
        assert_eq!(runs, [(0, end, false)], "an erased device is one run");
    }
    let buf = driver.pool.alloc(LbaRun::BYTES).expect("room in the pool");
    let beyond = driver.run(Operation::LbaStatus { lba: end, buf });
    assert_eq!(beyond.0, Err(IoError::OutOfRange));
    drop(beyond);
    driver.finish();
}

fn bounds_are_kept(backing: &Arc<Backing>) {
    let (size, end) = (backing.info().block_size, backing.info().blocks);
    let mut driver = Driver::new(backing);
    let block = vec![0x5a; size as usize];
    for lba in [end, end + 1, u64::MAX] {
        assert_eq!(
            driver.read(lba, size, block.len()),
            Err(IoError::OutOfRange)
        );
        assert_eq!(
            driver.write(lba, size, &block, false),
            Err(IoError::OutOfRange)
        );
        let zero = Operation::WriteZeroes {
            lba,
            blocks: 1,
            fua: false,
            may_unmap: true,
        };
        assert_eq!(driver.run(zero).0, Err(IoError::OutOfRange));
    }
    let two = driver.read(end - 1, size, 2 * block.len());
    assert_eq!(two, Err(IoError::OutOfRange), "across the end");
    assert_eq!(
        driver.write(end - 1, size, &block, true),
        Ok(()),
        "the last block"
    );
    driver
        .read(end - 1, size, block.len())
        .expect("the last block");
    let nothing = Operation::Read {
        lba: end,
        blocks: 0,
        buf: DmaBuf::empty(),
    };
    assert_eq!(driver.run(nothing).0, Ok(()), "no blocks at the end");
    driver.finish();
}

fn long_scattered_transfers_arrive(backing: &Arc<Backing>, stores: bool) {
    let size = backing.info().block_size;
    let mut driver = Driver::new(backing);
    // Every second chunk is kept, so that the buffers' segments are single chunks.
    let mut chunks: Vec<_> = (0..driver.pool.chunks())
        .map(|_| driver.pool.alloc(CHUNK_BYTES).expect("free"))
        .collect();
    let mut nth = 0;
    chunks.retain(|_| {
        nth += 1;
        nth % 2 == 0
    });
    let data: Vec<u8> = (0..2_usize << 20)
        .map(|at| (at / 509).to_le_bytes()[0] ^ (at / 8191).to_le_bytes()[0])
        .collect();
    let operation = driver.write_operation(1, size, &data, true);
    if let Operation::Write { buf, .. } = &operation {
        assert!(
            buf.segments(0..buf.len()).count() > 64,
            "more segments than one call takes"
        );
    }
    assert_eq!(driver.run(operation).0, Ok(()));
    assert_eq!(driver.run(Operation::Flush).0, Ok(()));
    let read = driver.read(1, size, data.len()).expect("what was written");
    assert!(
        read == if stores { data } else { vec![0; read.len()] },
        "contents differ"
    );
    drop(chunks);
    driver.finish();
}

fn faults_reach_the_caller_and_tokens_come_back(backing: &Arc<Backing>) {
    let size = backing.info().block_size;
    let faults = Arc::new(Faults::default());
    let mut driver = Driver::new(&Backing::with_faults(backing, Arc::clone(&faults)));
    let block = vec![1; size as usize];
    for error in [
        IoError::Medium,
        IoError::NoSpace,
        IoError::NotReady,
        IoError::WriteCacheLost,
    ] {
        faults.fail_nth(2, error);
        assert_eq!(driver.write(0, size, &block, false), Ok(()));
        assert_eq!(driver.write(0, size, &block, false), Err(error));
        assert_eq!(driver.write(0, size, &block, false), Ok(()));
    }
    assert_eq!(faults.seen(), 12);
    driver.finish();
}

fn held_writes_land_when_they_are_released(backing: &Arc<Backing>, stores: bool) {
    let size = backing.info().block_size;
    let faults = Arc::new(Faults::default());
    let mut driver = Driver::new(&Backing::with_faults(backing, Arc::clone(&faults)));
    let (old, new) = (vec![0x11; size as usize], vec![0x22; size as usize]);
    assert_eq!(driver.write(5, size, &old, false), Ok(()));
    faults.hold_writes(true);
    let held = driver.submit(driver.write_operation(5, size, &new, false));
    let expected = if stores { old } else { vec![0; size as usize] };
    assert_eq!(
        driver.read(5, size, expected.len()),
        Ok(expected),
        "reads pass a held write"
    );
    assert_eq!((faults.held(), driver.set.in_flight()), (1, 1));
    assert!(
        driver.set.needs_poll(),
        "a core must not sleep on a held write"
    );
    faults.hold_writes(false);
    assert_eq!(driver.wait(held).0, Ok(()));
    let expected = if stores { new } else { vec![0; size as usize] };
    assert_eq!(driver.read(5, size, expected.len()), Ok(expected));
    assert_eq!(faults.held(), 0);
    driver.finish();
}

fn durability_can_be_dropped_for_tests(backing: &Arc<Backing>) {
    let size = backing.info().block_size;
    let faults = Arc::new(Faults::default());
    faults.drop_durability(true);
    let mut driver = Driver::new(&Backing::with_faults(backing, Arc::clone(&faults)));
    assert_eq!(driver.write(0, size, &vec![3; size as usize], true), Ok(()));
    let flush = driver.submit(Operation::Flush);
    assert!(
        driver.set.needs_poll(),
        "a dropped flush is answered without the device"
    );
    assert_eq!(driver.wait(flush).0, Ok(()));
    assert_eq!(faults.flushes(), 1);
    driver.finish();
}

fn requests_to_missing_units_complete(backing: &Arc<Backing>) {
    let size = backing.info().block_size;
    let mut driver = Driver::new(backing);
    let under_way = driver.submit(driver.read_operation(0, size, 4096));
    driver.set.detach(UNIT);
    assert_eq!(
        driver.wait(under_way).0,
        Ok(()),
        "what was under way completes"
    );
    assert_eq!(driver.read(0, size, 4096), Err(IoError::NotReady));
    let again = driver.set.attach(UNIT, backing);
    assert!(again.is_ok(), "the place is free again: {again:?}");
    assert!(
        driver.set.attach(UNIT, backing).is_err(),
        "a place is taken once"
    );
    driver.read(0, size, 4096).expect("the device is back");
    driver.finish();
}

fn blocks(bytes: usize, block_size: u32) -> u32 {
    u32::try_from(bytes / block_size as usize).expect("a short transfer")
}

fn contents(buf: &DmaBuf) -> Vec<u8> {
    let mut bytes = vec![0; buf.len()];
    buf.copy_to(0, &mut bytes);
    bytes
}
