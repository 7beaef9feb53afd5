//! A daemon with a namespace of an NVMe controller, over TCP: what an initiator sees while the
//! controller works, is reset under load, is taken out of its slot and comes back.
//!
//! The controller is the model behind the registers of the driver itself, in a thread of its own;
//! it judges the driver at the end of each test. Each test has a controller at an address of its
//! own.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this whole file is a test"
)]

#[path = "common/served.rs"]
mod served;

use iiblockdaemon::backend::NvmeModel;
use iiblockdaemon::daemon::Hooks;
use iiblockdaemon::testing::tcp::{TcpInitiator, write_16};
use iiblockdaemon::testing::{Command, DataOut, Direction, Event, Scsi, ScsiOutcome};
use served::{
    BLOCK, Served, TARGET, TIMEOUT, TOML_MEMORY, login, pattern, toml_head, toml_target, toml_unit,
};

const BLOCKS: u64 = 1 << 15;
/// Blocks of one command here, and their bytes.
const PIECE_BLOCKS: u32 = 16;
const PIECE: usize = (PIECE_BLOCKS * BLOCK) as usize;
/// Commands under way at a time.
const DEPTH: u32 = 16;
/// Commands in which something has to come to pass.
const COMMANDS_MAX: u32 = 1_000_000;
/// I/O opcodes (NVM Command Set Specification 1.0 §3).
const FLUSH: u8 = 0x00;
const WRITE: u8 = 0x01;
const READ: u8 = 0x02;
const DATASET_MANAGEMENT: u8 = 0x09;

/// Sense key, ASC, ASCQ (SPC-4, annex of assignments).
type Sense = (u8, u8, u8);
const NOT_READY: u8 = 0x02;
const MEDIUM_NOT_PRESENT: Sense = (NOT_READY, 0x3a, 0x00);
const BECOMING_READY: Sense = (NOT_READY, 0x04, 0x01);
const MEDIUM_MAY_HAVE_CHANGED: Sense = (0x06, 0x28, 0x00);

/// A daemon with a controller's namespace at LUN 0 and a memory disk at LUN 1, and a session.
struct Bed {
    model: NvmeModel,
    it: TcpInitiator,
    served: Served,
}

fn bed(address: &str, cores: usize) -> Bed {
    let mut model = NvmeModel::at(address, BLOCKS);
    let backend = format!("{{ type = \"nvme\", address = \"{address}\" }}");
    let toml = toml_head(cores, 32)
        + &toml_unit("namespace", &backend)
        + &toml_unit("memory", TOML_MEMORY)
        + &toml_target(TARGET, "", &["namespace", "memory"]);
    let served = Served::from_toml(&toml, Hooks::default);
    model.leave_to_units();
    let it = session(&served, 1);
    Bed { model, it, served }
}

/// Another nexus for each `number`.
fn connect(served: &Served, number: u16) -> TcpInitiator {
    let login = login().with_isid_qualifier(number);
    TcpInitiator::connect(served.address(), login, TIMEOUT).expect("a login")
}

fn session(served: &Served, number: u16) -> TcpInitiator {
    let mut it = connect(served, number);
    for lun in [0, 1] {
        it.clear_unit_attentions(lun).expect("it is ready");
    }
    it
}

impl Bed {
    /// Ends all in order: the controller is told of the shutdown, once.
    fn end(mut self) {
        self.it.logout().expect("a logout in order");
        self.served.stop().expect("the daemon ends in order");
        assert_eq!(self.model.shutdowns(), 1);
        assert_eq!(self.model.mapped_bytes(), 0, "nothing is left to it");
    }
}

fn write(lun: u8, lba: u64, data: Vec<u8>, fua: bool) -> Scsi {
    let cdb = write_16(lba, PIECE_BLOCKS, fua);
    Scsi::new(lun, &cdb, Direction::Out(DataOut::new(data)))
}

fn test_unit_ready(it: &mut TcpInitiator, lun: u8) -> ScsiOutcome {
    let command = Scsi::new(lun, &[0; 6], Direction::None);
    it.execute(command).expect("an answer")
}

fn flush(it: &mut TcpInitiator) {
    let cdb = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    it.execute_good(Scsi::new(0, &cdb, Direction::None))
        .expect("SYNCHRONIZE CACHE (10)");
}

/// UNMAP (SBC-3 §5.28) of one run of blocks.
fn unmap(it: &mut TcpInitiator, lba: u64, blocks: u32) {
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend(lba.to_be_bytes());
    list.extend(blocks.to_be_bytes());
    list.extend([0; 4]);
    let cdb = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    let command = Scsi::new(0, &cdb, Direction::Out(DataOut::new(list)));
    it.execute_good(command).expect("UNMAP");
}

/// Whether the blocks of `data` are at `lba` by `block`.
fn holds(data: &[u8], lba: u64, block: impl Fn(u64) -> Vec<u8>) -> bool {
    let size = usize::try_from(BLOCK).unwrap();
    (lba..)
        .zip(data.chunks(size))
        .all(|(lba, wanted)| block(lba) == wanted)
}

#[test]
fn a_namespace_is_written_flushed_unmapped_and_read_back() {
    let mut bed = bed("0000:d1:00.0", 2);
    let (model, it) = (&bed.model, &mut bed.it);
    assert_eq!(it.read_capacity(0).unwrap(), (BLOCKS, BLOCK));
    let data = pattern(40 * PIECE, 1);
    it.write_blocks(0, 24, &data, BLOCK).expect("a write");
    let back = it.read_blocks(0, 24, 40 * PIECE_BLOCKS, BLOCK);
    assert!(back.expect("a read") == data);
    assert!(holds(&data, 24, |lba| model.block(lba)));
    assert!(model.commands(WRITE) > 0 && model.commands(READ) > 0);
    flush(it);
    assert!(model.commands(FLUSH) > 0);
    assert!(holds(&data, 24, |lba| model.durable_block(lba)));
    // FUA needs no flush.
    let (flushes, through) = (model.commands(FLUSH), pattern(PIECE, 2));
    it.execute_good(write(0, 4096, through.clone(), true))
        .expect("a write with FUA");
    assert!(holds(&through, 4096, |lba| model.durable_block(lba)));
    assert_eq!(model.commands(FLUSH), flushes);
    unmap(it, 32, PIECE_BLOCKS);
    assert!(model.commands(DATASET_MANAGEMENT) > 0);
    let gone = 32..32 + u64::from(PIECE_BLOCKS);
    assert!(!gone.clone().any(|lba| model.is_allocated(lba)));
    assert!(model.is_allocated(gone.start - 1) && model.is_allocated(gone.end));
    let back = it.read_blocks(0, 24, 40 * PIECE_BLOCKS, BLOCK);
    let mut wanted = data;
    wanted[8 * 512..8 * 512 + PIECE].fill(0);
    assert!(back.expect("a read") == wanted);
    // The same blocks by every core.
    let mut other = session(&bed.served, 2);
    let back = other.read_blocks(0, 24, 40 * PIECE_BLOCKS, BLOCK);
    assert!(back.expect("a read by another session") == wanted);
    other.logout().expect("a logout in order");
    bed.end();
}

#[test]
fn a_controller_that_fails_under_load_is_reset_and_every_write_is_answered_and_there() {
    let mut bed = bed("0000:d2:00.0", 1);
    let (model, it) = (&bed.model, &mut bed.it);
    let pieces = u32::try_from(BLOCKS).unwrap() / PIECE_BLOCKS;
    let lba = |number: u32| u64::from(number % pieces * PIECE_BLOCKS);
    let enabled = model.enabled();
    let (mut sent, mut answered, mut last) = (0_u32, 0_u32, None);
    while last.is_none_or(|last| answered < last) {
        let may_send = last.unwrap_or(COMMANDS_MAX);
        while sent < may_send && sent - answered < DEPTH {
            let data = pattern(PIECE, sent);
            let command = Command::Scsi(write(0, lba(sent), data, false));
            it.engine().submit(command);
            sent += 1;
        }
        match it.next_event().expect("an answer") {
            Event::Scsi { outcome, .. } => assert!(outcome.is_good(), "{outcome:?}"),
            other => panic!("unexpected: {other:?}"),
        }
        answered += 1;
        if answered == 100 {
            model.fail();
        }
        // Some more after it, so that there is load on both sides of the reset.
        if last.is_none() && answered > 100 && model.enabled() > enabled {
            last = Some(sent + 100);
        }
        assert!(answered < COMMANDS_MAX, "it was never reset");
    }
    for number in sent.saturating_sub(pieces)..sent {
        let data = pattern(PIECE, number);
        assert!(
            holds(&data, lba(number), |lba| model.block(lba)),
            "{number} of {sent}"
        );
    }
    it.write_blocks(1, 0, &pattern(PIECE, 7), BLOCK)
        .expect("the memory disk");
    bed.end();
}

/// What TEST UNIT READY says of LUN 0 until `wanted`.
fn until(it: &mut TcpInitiator, wanted: impl Fn(&ScsiOutcome) -> bool) -> Vec<Sense> {
    let mut said = Vec::new();
    for _ in 0..COMMANDS_MAX {
        let outcome = test_unit_ready(it, 0);
        if wanted(&outcome) {
            return said;
        }
        let sense = outcome.sense_code().unwrap_or_default();
        if said.last() != Some(&sense) {
            said.push(sense);
        }
    }
    panic!("it did not come to pass; it was {said:x?}");
}

#[test]
fn a_controller_that_is_removed_is_not_ready_until_it_is_back_and_nothing_else_minds() {
    let mut bed = bed("0000:d3:00.0", 2);
    let (model, it) = (&bed.model, &mut bed.it);
    let data = pattern(PIECE, 3);
    it.write_blocks(0, 64, &data, BLOCK).expect("a write");
    it.write_blocks(1, 64, &data, BLOCK).expect("a write");
    flush(it);
    model.remove();
    // Commands meanwhile are answered, by data or by sense data.
    let refused = (0..COMMANDS_MAX).find_map(|_| {
        let command = write(0, 128, pattern(PIECE, 4), false);
        it.execute(command).expect("an answer").sense_code()
    });
    let refused = refused.expect("a write finds nothing");
    assert!(
        [MEDIUM_NOT_PRESENT, BECOMING_READY].contains(&refused),
        "{refused:x?}"
    );
    until(it, |outcome| {
        outcome.sense_code() == Some(MEDIUM_NOT_PRESENT)
    });
    // The other unit, this session and new ones go on.
    let back = it.read_blocks(1, 64, PIECE_BLOCKS, BLOCK);
    assert!(back.expect("the memory disk reads") == data);
    let mut other = connect(&bed.served, 2);
    other.clear_unit_attentions(1).expect("it is ready");
    other
        .write_blocks(1, 0, &data, BLOCK)
        .expect("the memory disk writes");
    other.logout().expect("a logout in order");

    model.plug();
    let said = until(it, ScsiOutcome::is_good);
    assert!(said.contains(&MEDIUM_MAY_HAVE_CHANGED), "{said:x?}");
    let back = it.read_blocks(0, 64, PIECE_BLOCKS, BLOCK);
    assert!(back.expect("it reads again") == data, "what was flushed");
    it.write_blocks(0, 128, &pattern(PIECE, 5), BLOCK)
        .expect("it writes again");
    // All that was written had been flushed, so nothing was lost with the cache.
    flush(it);
    bed.end();
}
