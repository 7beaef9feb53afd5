//! Bad input for every row of the opcode table: what an initiator may get wrong, whatever the
//! command is.
//!
//! [`shape`] says where a row's fields are, so that a new row is covered by all of this at once:
//! LBA and length at and beyond the end (SBC-3: 21h/00h, an empty range included), lengths over
//! what we advertise (24h with the field pointer at the length), allocation lengths (SPC-4: they
//! cut, they change nothing else), parameter lists that are shorter or longer than the CDB says or
//! hold anything at all, and expected data transfer lengths that are wrong in each direction (RFC
//! 7143 §11.4.5.1). Always: the command ends, INVALID FIELD IN CDB points into the CDB, INVALID
//! FIELD IN PARAMETER LIST into the list, and a command that is refused has written nothing.
//! Reserved bits are walked in the tests of [`super::opcodes`].

use super::asymmetric_access::PortGroups;
use super::opcodes::{Direction, Opcode, rows};
use super::sense::{AdditionalSense, SenseKey, SenseSpecific};
use super::task::{MAX_TRANSFER_BYTES, Status, Transfer};
use super::testbed::{self, Answer, Bench, Done};
use super::unit::LogicalUnit;
use proptest::prelude::*;
use std::ops::Range;

const BLOCK: usize = 512;
const BLOCKS: u64 = 3000;
/// Where commands of the block kind begin in these tests, and how much they name.
const LBA: u64 = 64;
const LENGTH: u64 = 2;

/// What a row's CDB has, and where.
#[derive(Clone, Debug)]
enum Shape {
    /// Neither address nor length.
    Plain,
    /// Address and length of blocks.
    Blocks {
        lba: Range<usize>,
        length: Range<usize>,
        limit: Limit,
    },
    /// An address, and parameter data about what is there.
    Address {
        lba: Range<usize>,
        allocation: Range<usize>,
    },
    /// Parameter data up to an ALLOCATION LENGTH.
    Allocation(Range<usize>),
    /// A parameter list of a PARAMETER LIST LENGTH.
    List(Range<usize>),
}

/// What bounds the length of a [`Shape::Blocks`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Limit {
    /// The capacity only.
    Capacity,
    /// MAXIMUM TRANSFER LENGTH (VPD page B0h).
    Transfer,
    /// Another field of VPD page B0h, or the field's own width.
    Own,
}

/// Where the fields of a row are.
///
/// # Panics
/// For a row that nobody has described: say here where its fields are.
fn shape(row: &Opcode) -> Shape {
    let blocks = |limit| match row.usage.len() {
        6 => Shape::Blocks {
            lba: 1..4,
            length: 4..5,
            limit,
        },
        10 => Shape::Blocks {
            lba: 2..6,
            length: 7..9,
            limit,
        },
        12 => Shape::Blocks {
            lba: 2..6,
            length: 6..10,
            limit,
        },
        _ => Shape::Blocks {
            lba: 2..10,
            length: 10..14,
            limit,
        },
    };
    match (row.opcode, row.service_action) {
        // TEST UNIT READY, RESERVE and RELEASE, START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL,
        // READ CAPACITY (10)
        (0x00 | 0x16 | 0x17 | 0x1b | 0x1e | 0x25 | 0x56 | 0x57, _) => Shape::Plain,
        // REQUEST SENSE, MODE SENSE (6)
        (0x03 | 0x1a, _) => Shape::Allocation(4..5),
        // INQUIRY, RECEIVE DIAGNOSTIC RESULTS
        (0x12 | 0x1c, _) => Shape::Allocation(3..5),
        // READ, WRITE, WRITE AND VERIFY, VERIFY, ORWRITE
        (
            0x08 | 0x0a | 0x28 | 0x2a | 0x2e | 0x2f | 0x88 | 0x8a | 0x8b | 0x8e | 0x8f | 0xa8
            | 0xaa | 0xae | 0xaf,
            _,
        ) => blocks(Limit::Transfer),
        // PRE-FETCH, SYNCHRONIZE CACHE
        (0x34 | 0x35 | 0x90 | 0x91, _) => blocks(Limit::Capacity),
        // WRITE SAME
        (0x41 | 0x93, _) => blocks(Limit::Own),
        // WRITE ATOMIC (16)
        (0x9c, _) => Shape::Blocks {
            lba: 2..10,
            length: 12..14,
            limit: Limit::Own,
        },
        // COMPARE AND WRITE
        (0x89, _) => Shape::Blocks {
            lba: 2..10,
            length: 13..14,
            limit: Limit::Own,
        },
        // READ DEFECT DATA (10), LOG SENSE, MODE SENSE (10), PERSISTENT RESERVE IN
        (0x37 | 0x4d | 0x5a | 0x5e, _) => Shape::Allocation(7..9),
        // WRITE BUFFER, READ BUFFER
        (0x3b, _) => Shape::List(6..9),
        (0x3c, _) => Shape::Allocation(6..9),
        // RECEIVE COPY RESULTS and its kin, READ CAPACITY (16)
        (0x84, _) | (0x9e, Some(0x10)) => Shape::Allocation(10..14),
        // GET LBA STATUS
        (0x9e, Some(0x12)) => Shape::Address {
            lba: 2..10,
            allocation: 10..14,
        },
        // REPORT LUNS, READ DEFECT DATA (12), MAINTENANCE IN
        (0xa0 | 0xa3 | 0xb7, _) => Shape::Allocation(6..10),
        // MODE SELECT (6), SEND DIAGNOSTIC
        (0x15, _) => Shape::List(4..5),
        (0x1d, _) => Shape::List(3..5),
        // UNMAP, SANITIZE, LOG SELECT, MODE SELECT (10)
        (0x42 | 0x48 | 0x4c | 0x55, _) => Shape::List(7..9),
        // PERSISTENT RESERVE OUT
        (0x5f, _) => Shape::List(5..9),
        // EXTENDED COPY and its kin
        (0x83, _) => Shape::List(10..14),
        // MAINTENANCE OUT
        (0xa4, _) => Shape::List(6..10),
        // A CDB of 32 bytes (SBC-3)
        (0x7f, _) => Shape::Blocks {
            lba: 12..20,
            length: 28..32,
            limit: if row.name.starts_with("WRITE SAME") {
                Limit::Own
            } else {
                Limit::Transfer
            },
        },
        _ => panic!("{}: say in shape() where its fields are", row.name),
    }
}

/// A CDB of the row that has nothing wrong, beside the fields of its shape.
fn base(row: &Opcode) -> Vec<u8> {
    let mut cdb = vec![0; row.usage.len()];
    cdb[0] = row.opcode;
    if row.opcode == 0x7f {
        // ADDITIONAL CDB LENGTH and SERVICE ACTION (SPC-4, variable length CDBs).
        cdb[7] = 0x18;
        cdb[8..10].copy_from_slice(&row.usage[8..10]);
        if row.name.contains("VERIFY") {
            // Byte by byte.
            cdb[10] = 0x02;
        }
        return cdb;
    }
    cdb[1] = row
        .service_action
        .map_or(0, |action| u8::try_from(action).unwrap());
    match row.opcode {
        // MODE SENSE: all pages
        0x1a | 0x5a => cdb[2] = 0x3f,
        // SEND DIAGNOSTIC: with a page
        0x1d => cdb[1] |= 0x10,
        // READ BUFFER: the echo buffer's descriptor; WRITE BUFFER: the echo buffer
        0x3c => cdb[1] = 0x0b,
        0x3b => cdb[1] = 0x0a,
        // LOG SENSE: cumulative values
        0x4d => cdb[2] = 0x40,
        // MODE SELECT: pages as the standard has them
        0x15 | 0x55 => cdb[1] |= 0x10,
        // Commands that verify: byte by byte
        0x2e | 0x2f | 0x8e | 0x8f | 0xae | 0xaf => cdb[1] |= 0x02,
        _ => {}
    }
    cdb
}

/// The largest value of a field.
fn max_of(field: &Range<usize>, row: &Opcode) -> u64 {
    match field.len() {
        8 => u64::MAX,
        // The 6-byte forms have 21 bits of address.
        3 if row.usage.len() == 6 => 0x1f_ffff,
        bytes => (1 << (8 * bytes)) - 1,
    }
}

/// Sets a big-endian field, keeping the bits above a 21-bit address.
fn set(cdb: &mut [u8], field: &Range<usize>, value: u64) {
    let bytes = value.to_be_bytes();
    cdb[field.clone()].copy_from_slice(&bytes[8 - field.len()..]);
}

/// The row's CDB for these blocks.
fn block_cdb(row: &Opcode, lba: u64, length: u64) -> Vec<u8> {
    let mut cdb = base(row);
    if let Shape::Blocks {
        lba: at,
        length: length_at,
        ..
    } = shape(row)
    {
        set(&mut cdb, &at, lba);
        set(&mut cdb, &length_at, length);
    }
    cdb
}

/// Bytes of Data-Out that the row wants for so many blocks.
fn wanted(row: &Opcode, blocks: u64) -> usize {
    let blocks = usize::try_from(blocks).unwrap();
    match (row.direction, row.opcode) {
        (Direction::None | Direction::In, _) => 0,
        // Compare data, then write data.
        (Direction::Out, 0x89) => 2 * blocks * BLOCK,
        // One block for all.
        (Direction::Out, 0x41 | 0x93) => BLOCK,
        (Direction::Out, 0x7f) if row.name.starts_with("WRITE SAME") => BLOCK,
        (Direction::Out, _) => blocks * BLOCK,
    }
}

fn bench() -> Bench {
    let mut info = testbed::info(512, BLOCKS);
    info.atomic_write_blocks = 256;
    info.cryptographic_erase = true;
    let mut bench = Bench::with_info(info);
    bench.set_port_groups(PortGroups::new(Vec::new(), true));
    bench
}

/// What always holds for an answer, whatever the command was.
#[track_caller]
fn check(row: &Opcode, cdb: &[u8], sent: usize, before: &[u8], bench: &Bench, answer: &Answer) {
    let what = format!(
        "{} {cdb:02x?} with {sent} bytes: {:?}",
        row.name, answer.outcome
    );
    for done in &answer.done {
        let (lba, blocks) = match *done {
            Done::Read { lba, blocks } | Done::Write { lba, blocks, .. } => {
                (lba, u64::from(blocks))
            }
            Done::Unmap { lba, blocks }
            | Done::WriteZeroes { lba, blocks, .. }
            | Done::Freeze { lba, blocks } => (lba, blocks),
            Done::Flush => (0, 0),
        };
        let end = lba.checked_add(blocks).expect(&what);
        assert!(end <= BLOCKS, "{what}");
    }
    let Some(sense) = answer.outcome.sense else {
        assert_ne!(answer.outcome.status, Status::CheckCondition, "{what}");
        return;
    };
    // A miscompare is found after the data have been looked at, but nothing is written then either.
    assert!(bench.disk == before, "refused, and yet written: {what}");
    match (sense.additional, sense.specific) {
        (AdditionalSense::INVALID_FIELD_IN_CDB, SenseSpecific::Field { in_cdb, byte, .. }) => {
            assert!(in_cdb && usize::from(byte) < row.usage.len(), "{what}");
            assert_eq!(answer.done, [], "{what}");
        }
        (
            AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST,
            SenseSpecific::Field { in_cdb, byte, .. },
        ) => {
            assert!(!in_cdb && usize::from(byte) < sent, "{what}");
        }
        (
            AdditionalSense::INVALID_FIELD_IN_CDB
            | AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST,
            other,
        ) => panic!("no field pointer but {other:?}: {what}"),
        _ => {}
    }
}

/// Runs it and checks what always holds.
#[track_caller]
fn run(row: &Opcode, bench: &mut Bench, cdb: &[u8], data: &[u8], data_in_bytes: u32) -> Answer {
    let before = bench.disk.clone();
    let answer = bench.run(cdb, data, data_in_bytes);
    check(row, cdb, data.len(), &before, bench, &answer);
    answer
}

/// Rows whose blocks have an address.
fn block_rows() -> impl Iterator<Item = (&'static Opcode, Range<usize>, Range<usize>, Limit)> {
    rows().iter().filter_map(|row| match shape(row) {
        Shape::Blocks { lba, length, limit } => Some((row, lba, length, limit)),
        _ => None,
    })
}

/// Zero blocks mean the rest of the medium (SBC-3, WRITE SAME and SYNCHRONIZE CACHE and PRE-FETCH)
/// or 256 (READ (6), WRITE (6)).
fn zero_means_some(row: &Opcode) -> bool {
    row.usage.len() == 6 || matches!(row.opcode, 0x34 | 0x35 | 0x41 | 0x90 | 0x91 | 0x93 | 0x7f)
}

#[test]
fn every_row_has_its_fields_inside_its_cdb() {
    for row in rows() {
        let fields = match shape(row) {
            Shape::Plain => vec![],
            Shape::Blocks { lba, length, .. } => vec![lba, length],
            Shape::Address { lba, allocation } => vec![lba, allocation],
            Shape::Allocation(at) | Shape::List(at) => vec![at],
        };
        for field in fields {
            assert!(field.end <= row.usage.len(), "{}", row.name);
            // Each byte of the field is evaluated; a wide one may have reserved bytes in front.
            assert_ne!(row.usage[field.end - 1], 0, "{}", row.name);
        }
    }
}

#[test]
fn ranges_that_pass_the_end_are_out_of_range_and_touch_nothing() {
    for (row, lba_at, length_at, _) in block_rows() {
        let (lba_max, length_max) = (max_of(&lba_at, row), max_of(&length_at, row));
        let one = 1.min(length_max);
        for (lba, length) in [
            (BLOCKS, one),
            (BLOCKS - 1, 2),
            (BLOCKS + 1, 0),
            (BLOCKS + 1, one),
            (lba_max / 2 + 1, one),
            (lba_max, 0),
            (lba_max, one),
            (lba_max, length_max),
            (lba_max - 1, length_max),
        ] {
            let cdb = block_cdb(row, lba, length);
            let data = vec![0x5a; wanted(row, length.min(64))];
            let answer = run(row, &mut bench(), &cdb, &data, u32::MAX);
            assert_eq!(answer.done, [], "{} {lba}+{length}", row.name);
            let sense = answer.sense();
            assert_eq!(
                (sense.key, sense.additional),
                (SenseKey::IllegalRequest, AdditionalSense::LBA_OUT_OF_RANGE),
                "{} {lba}+{length}",
                row.name
            );
        }
    }
}

#[test]
fn ranges_that_touch_the_end_are_not_out_of_range() {
    for (row, ..) in block_rows() {
        let empty = (BLOCKS, 0);
        let last = (BLOCKS - 1, 1);
        for (lba, length) in [last, empty] {
            if (lba, length) == empty && zero_means_some(row) {
                continue;
            }
            let cdb = block_cdb(row, lba, length);
            let data = vec![0x5a; wanted(row, length)];
            let answer = run(row, &mut bench(), &cdb, &data, u32::MAX);
            let additional = answer.outcome.sense.map(|sense| sense.additional);
            assert_ne!(
                additional,
                Some(AdditionalSense::LBA_OUT_OF_RANGE),
                "{} {lba}+{length}",
                row.name
            );
        }
    }
}

#[test]
fn addresses_beyond_the_end_are_out_of_range() {
    for row in rows() {
        let Shape::Address { lba, allocation } = shape(row) else {
            continue;
        };
        for value in [BLOCKS, BLOCKS + 1, 1 << 63, u64::MAX] {
            let mut cdb = base(row);
            set(&mut cdb, &lba, value);
            set(&mut cdb, &allocation, 24);
            run(row, &mut bench(), &cdb, &[], 24).illegal(AdditionalSense::LBA_OUT_OF_RANGE);
        }
    }
}

#[test]
fn lengths_over_the_maximum_transfer_point_at_the_length() {
    let at_most = u64::from(MAX_TRANSFER_BYTES) / 512;
    for (row, _, length_at, limit) in block_rows() {
        let max = max_of(&length_at, row);
        if limit != Limit::Transfer || max <= at_most {
            continue;
        }
        // A unit so large that only the maximum stands in the way; no disk is behind it.
        for length in [at_most + 1, max] {
            let unit = LogicalUnit::new(testbed::identity(), testbed::info(512, 1 << 40), false);
            let cdb = block_cdb(row, 0, length);
            let data = vec![0; wanted(row, 1)];
            let answer = run(row, &mut Bench::with_unit(unit), &cdb, &data, u32::MAX);
            answer.invalid_field(u16::try_from(length_at.start).unwrap(), None);
        }
    }
}

#[test]
fn allocation_lengths_cut_the_data_and_change_nothing_else() {
    for row in rows() {
        let (Shape::Allocation(at) | Shape::Address { allocation: at, .. }) = shape(row) else {
            continue;
        };
        let with = |allocation: u64| {
            let mut cdb = base(row);
            set(&mut cdb, &at, allocation);
            run(row, &mut bench(), &cdb, &[], u32::MAX)
        };
        let max = max_of(&at, row);
        let whole = with(max);
        if whole.outcome.sense.is_some() {
            // A command that has nothing to say here is refused for that, and not for the length.
            for allocation in [0, 1, 2] {
                assert_eq!(with(allocation).outcome, whole.outcome, "{}", row.name);
            }
            continue;
        }
        let data = whole.good();
        assert!(!data.is_empty(), "{}", row.name);
        let full = u64::try_from(data.len()).unwrap();
        for allocation in [
            0,
            1,
            2,
            3,
            4,
            7,
            full / 2,
            full - 1,
            full,
            full + 1,
            max / 2,
        ] {
            let allocation = allocation.min(max);
            let answer = with(allocation);
            if allocation < 4 && row.name == "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS" {
                // SPC-4 §6.36: at least four bytes must be asked for.
                answer.invalid_field(6, None);
                continue;
            }
            let expected = usize::try_from(allocation.min(full)).unwrap();
            assert_eq!(
                answer.transfer,
                Transfer::In(allocation.min(full)),
                "{} {allocation}",
                row.name
            );
            assert_eq!(answer.good(), data[..expected], "{} {allocation}", row.name);
        }
    }
}

#[test]
fn initiators_that_take_less_than_the_cdb_says_get_the_beginning() {
    for row in rows() {
        if row.direction != Direction::In {
            continue;
        }
        let mut cdb = block_cdb(row, LBA, LENGTH);
        if let Shape::Allocation(at) | Shape::Address { allocation: at, .. } = shape(row) {
            set(&mut cdb, &at, max_of(&at, row).min(4096));
        }
        let whole = run(row, &mut bench(), &cdb, &[], u32::MAX);
        for expected in [0, 1, 7, 511, 512, 513] {
            let answer = run(row, &mut bench(), &cdb, &[], expected);
            assert_eq!(answer.transfer, whole.transfer, "{}", row.name);
            assert_eq!(answer.outcome, whole.outcome, "{}", row.name);
            let end = whole.data.len().min(usize::try_from(expected).unwrap());
            assert_eq!(answer.data, whole.data[..end], "{} {expected}", row.name);
        }
    }
}

#[test]
fn initiators_that_send_another_length_than_the_cdb_says_write_no_other_blocks() {
    let named =
        usize::try_from(LBA).unwrap() * BLOCK..usize::try_from(LBA + LENGTH).unwrap() * BLOCK;
    for (row, ..) in block_rows() {
        if row.direction != Direction::Out {
            continue;
        }
        let cdb = block_cdb(row, LBA, LENGTH);
        let wanted = wanted(row, LENGTH);
        for sent in [
            0,
            1,
            BLOCK - 1,
            BLOCK,
            BLOCK + 1,
            wanted - 1,
            wanted + 1,
            4 * wanted,
        ] {
            let mut bench = bench();
            let before = bench.disk.clone();
            let answer = run(row, &mut bench, &cdb, &vec![0x5a; sent], 0);
            assert!(
                bench.disk[..named.start] == before[..named.start]
                    && bench.disk[named.end..] == before[named.end..],
                "{} with {sent} bytes wrote elsewhere",
                row.name
            );
            // Not a part of a block, ever.
            for block in named.clone().step_by(BLOCK) {
                let range = block..block + BLOCK;
                let whole = bench.disk[range.clone()] == before[range.clone()]
                    || answer.outcome.status == Status::Good;
                assert!(
                    whole,
                    "{} with {sent} bytes: {:?}",
                    row.name, answer.outcome
                );
            }
            if sent < wanted && sent % BLOCK != 0 {
                assert_ne!(answer.outcome.status, Status::Good, "{} {sent}", row.name);
            }
        }
    }
}

#[test]
fn data_in_the_wrong_direction_change_nothing_and_end() {
    for row in rows() {
        let cdb = block_cdb(row, LBA, LENGTH);
        match row.direction {
            Direction::Out => {
                let mut bench = bench();
                let before = bench.disk.clone();
                let answer = run(row, &mut bench, &cdb, &[], 4096);
                // (WRITE SAME and UNMAP of nothing may end well: there was nothing to do.)
                assert!(bench.disk == before, "{}: {:?}", row.name, answer.outcome);
                assert!(answer.data.is_empty(), "{}", row.name);
            }
            Direction::In | Direction::None => {
                let answer = run(row, &mut bench(), &cdb, &[0x5a; 4096], 0);
                assert!(answer.data.is_empty(), "{}", row.name);
            }
        }
    }
}

#[test]
fn parameter_lists_shorter_than_the_cdb_says_are_refused_and_do_nothing() {
    for row in rows() {
        let Shape::List(at) = shape(row) else {
            continue;
        };
        for (said, sent) in [(1, 0), (24, 23), (64, 8), (255, 0), (255, 24)] {
            let mut cdb = base(row);
            set(&mut cdb, &at, said);
            let mut bench = bench();
            let before = bench.disk.clone();
            let answer = run(row, &mut bench, &cdb, &vec![0; sent], 0);
            assert!(bench.disk == before, "{} {said} {sent}", row.name);
            // UNMAP's own header says how much of it there is: a list of zeros names nothing
            // (SBC-3, UNMAP).
            if row.opcode != 0x42 {
                assert_ne!(
                    answer.outcome.status,
                    Status::Good,
                    "{}: PARAMETER LIST LENGTH {said}, sent {sent}",
                    row.name
                );
            }
        }
    }
}

/// Bytes that come near the ends of fields.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(0), 2 => Just(0xff), 1 => Just(0x80), 1 => Just(1), 2 => any::<u8>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Lists that say anything, of any length, and a PARAMETER LIST LENGTH that need not be theirs.
    #[test]
    fn parameter_lists_of_any_content_end_within_bounds(
        mut list in prop::collection::vec(byte(), 0..200),
        lie in prop_oneof![3 => Just(None), 1 => any::<u8>().prop_map(Some)],
        first in byte(),
    ) {
        if let Some(byte) = list.first_mut() {
            *byte = first;
        }
        for row in rows() {
            let Shape::List(at) = shape(row) else {
                continue;
            };
            let said = lie.map_or(list.len(), usize::from);
            let mut cdb = base(row);
            set(&mut cdb, &at, u64::try_from(said).unwrap());
            run(row, &mut bench(), &cdb, &list, 0);
        }
    }

    /// Addresses and lengths anywhere, with data of some other length.
    #[test]
    fn blocks_anywhere_with_data_of_any_length_end_within_bounds(
        lba in prop_oneof![0..BLOCKS + 2, any::<u64>(), Just(u64::MAX)],
        length in prop_oneof![4 => 0..9_u64, 1 => any::<u64>()],
        sent in 0..5000_usize,
        data_in_bytes in prop_oneof![Just(0), 0..5000_u32, Just(u32::MAX)],
    ) {
        for (row, lba_at, length_at, _) in block_rows() {
            let cdb = block_cdb(row, lba & max_of(&lba_at, row), length & max_of(&length_at, row));
            let data = vec![0x5a; if row.direction == Direction::Out { sent } else { 0 }];
            run(row, &mut bench(), &cdb, &data, data_in_bytes);
        }
    }
}
