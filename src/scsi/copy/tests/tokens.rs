//! POPULATE TOKEN, WRITE USING TOKEN and RECEIVE ROD TOKEN INFORMATION, as Windows and `ddpt` use
//! them.

use proptest::prelude::*;

use super::*;
use crate::backend::IoError;
use crate::scsi::change::{Change, Update};
use crate::scsi::copy::token::{Rod, TOKENS_MAX, TokenChange, TokenKey};
use crate::scsi::copy::{RANGE_DESCRIPTORS_MAX, TOO_MANY_SEGMENT_DESCRIPTORS};
use crate::scsi::sense::{AdditionalSense, Sense, SenseKey};
use crate::scsi::task::{Status, Transfer};
use crate::scsi::testbed::{self, Done, UNIX_MS};
use crate::scsi::unit::{LogicalUnit, NotReadyReason, PortIdentity, ReadyState};
use crate::scsi::unit_attention::NexusUnit;

const INVALID_TOKEN: fn(u8) -> AdditionalSense = |qualifier| AdditionalSense::new(0x23, qualifier);

type Ranges<'a> = &'a [(u64, u32)];

fn descriptors(ranges: Ranges<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (lba, blocks) in ranges {
        bytes.extend(lba.to_be_bytes());
        bytes.extend(blocks.to_be_bytes());
        bytes.extend([0; 4]);
    }
    bytes
}

/// `header` up to BLOCK DEVICE RANGE DESCRIPTOR LENGTH, which is filled in with the list's own.
fn list(mut header: Vec<u8>, ranges: Ranges<'_>) -> Vec<u8> {
    let descriptors = descriptors(ranges);
    header.extend(u16::try_from(descriptors.len()).unwrap().to_be_bytes());
    header.extend(descriptors);
    let length = u16::try_from(header.len() - 2).unwrap();
    header[..2].copy_from_slice(&length.to_be_bytes());
    header
}

fn populate_list(timeout_s: u32, ranges: Ranges<'_>) -> Vec<u8> {
    let mut header = vec![0; 14];
    header[4..8].copy_from_slice(&timeout_s.to_be_bytes());
    list(header, ranges)
}

fn write_list(token: &[u8], offset: u64, flags: u8, ranges: Ranges<'_>) -> Vec<u8> {
    let mut header = vec![0; 534];
    header[2] = flags;
    header[8..16].copy_from_slice(&offset.to_be_bytes());
    header[16..528].copy_from_slice(token);
    list(header, ranges)
}

fn with_list_id(service_action: u8, list_id: u32, bytes: usize) -> [u8; 16] {
    let mut cdb = cdb(0x83, service_action, bytes);
    cdb[6..10].copy_from_slice(&list_id.to_be_bytes());
    cdb
}

fn populate(bench: &mut Bench, list_id: u32, list: &[u8]) -> Answer {
    bench.write(&with_list_id(0x10, list_id, list.len()), list)
}

fn write(bench: &mut Bench, list_id: u32, list: &[u8]) -> Answer {
    bench.write(&with_list_id(0x11, list_id, list.len()), list)
}

fn information(bench: &mut Bench, list_id: u32) -> Answer {
    let mut cdb = cdb(0x84, 0x07, 4096);
    cdb[2..6].copy_from_slice(&list_id.to_be_bytes());
    bench.read(&cdb, 4096)
}

/// A token for these blocks.
fn token(bench: &mut Bench, list_id: u32, ranges: Ranges<'_>) -> Vec<u8> {
    populate(bench, list_id, &populate_list(0, ranges)).good();
    let data = information(bench, list_id).good();
    data[data.len() - 512..].to_vec()
}

fn zero_token() -> Vec<u8> {
    let mut token = vec![0; 512];
    token[..8].copy_from_slice(&[0xff, 0xff, 0, 1, 0, 0, 0x01, 0xf8]);
    token
}

/// The units of a bench change places, so that the next command addresses the other one.
fn turn(bench: &mut Bench) {
    let second = bench.second.as_mut().unwrap();
    std::mem::swap(bench.unit.as_mut().unwrap(), &mut second.unit);
    std::mem::swap(&mut bench.disk, &mut second.disk);
    std::mem::swap(&mut bench.nexus, &mut second.nexus);
}

#[test]
fn token_is_fetched_by_its_list_identifier_and_says_what_it_stands_for() {
    let mut bench = bench();
    let answer = populate(
        &mut bench,
        77,
        &populate_list(0, &[(8, 4), (100, 0), (20, 6)]),
    );
    assert_eq!(answer.transfer, Transfer::Out(16 + 48));
    assert_eq!(answer.done, []);
    answer.good();
    let data = information(&mut bench, 77).good();
    assert_eq!(data.len(), 32 + 4 + 2 + 512);
    assert_eq!(be32(&data, 0), 32 + 4 + 2 + 512 - 4);
    assert_eq!(data[4..8], [0x10, 0x01, 0, 0]);
    assert_eq!(data[12..16], [0, 0, 0, 0xf1]);
    assert_eq!(be64(&data, 16), 10);
    assert_eq!(be32(&data, 32), 514);
    let token = &data[38..];
    assert_eq!((be32(token, 0), be16(token, 6)), (0x0001_0000, 0x01f8));
    assert_eq!(token[16..26], [0xe4, 0, 0, 0, 1, 0x0a, 0, 18, 0x10, 0]);
    assert_eq!(token[26..42], *b"0123456789abcdef");
    assert_eq!((be64(token, 48), be64(token, 56)), (0, 10 * 512));
    assert_eq!((be32(token, 96), token[101]), (512, 3));
    // It can be asked again, and by parts.
    let mut cdb = cdb(0x84, 0x07, 34);
    cdb[5] = 77;
    assert_eq!(bench.read(&cdb, 4096).good(), data[..34]);
    assert_eq!(
        information(&mut bench, 78).sense(),
        Sense::invalid_field_in_cdb(2, None)
    );
}

#[test]
fn token_is_written_on_another_unit_by_another_nexus() {
    let mut bench = bench();
    let token = token(&mut bench, 1, &[(8, 4), (100, 0), (20, 6)]);
    let source = bench.disk.clone();
    turn(&mut bench);
    bench.set_initiator([0x80, 0, 0, 0, 0, 2]);
    // The second session need not even see the unit that made it.
    bench.second.as_mut().unwrap().hidden = true;
    let mut expected = bench.disk.clone();
    let list = write_list(&token, 2, 0, &[(50, 3), (60, 5)]);
    let answer = write(&mut bench, 1, &list);
    answer.good();
    // Blocks 10, 11, 20 and 21 to 25.
    expected[50 * 512..52 * 512].copy_from_slice(&source[10 * 512..12 * 512]);
    expected[52 * 512..53 * 512].copy_from_slice(&source[20 * 512..21 * 512]);
    expected[60 * 512..65 * 512].copy_from_slice(&source[21 * 512..26 * 512]);
    assert!(bench.disk == expected);
    let data = information(&mut bench, 1).good();
    assert_eq!(data[4..6], [0x11, 0x01]);
    assert_eq!((be64(&data, 16), be32(&data, 32)), (8, 0));
}

#[test]
fn zero_token_fills_ranges_with_zeroes_in_pieces() {
    let mut bench = bench();
    let mut expected = bench.disk.clone();
    expected[512..1024].fill(0);
    expected[9 * 512..2009 * 512].fill(0);
    let list = write_list(&zero_token(), 0, 0, &[(1, 1), (5, 0), (9, 2000)]);
    let answer = write(&mut bench, 9, &list);
    let zeroes = |lba, blocks| Done::WriteZeroes {
        lba,
        blocks,
        may_unmap: true,
    };
    assert_eq!(answer.done, [zeroes(1, 1), zeroes(9, 2000)]);
    answer.good();
    assert!(bench.disk == expected);
    let data = information(&mut bench, 9).good();
    assert_eq!((data[5], be64(&data, 16)), (1, 2001));
}

#[test]
fn token_that_is_wrong_writes_nothing_and_says_why() {
    let mut bench = bench();
    let good = token(&mut bench, 1, &[(0, 8)]);
    let before = bench.disk.clone();
    for (at, value, qualifier) in [
        (0, 0x12, 0x01),            // no such type
        (7, 0xf9, 0x0a),            // another length
        (8, good[8] ^ 1, 0x04),     // never made here
        (26, b'x', 0x04),           // by no unit of ours
        (63, good[63] ^ 1, 0x05),   // stands for more
        (128, good[128] ^ 1, 0x05), // the secret
        (511, 1, 0x05),
    ] {
        let mut wrong = good.clone();
        wrong[at] = value;
        let answer = write(&mut bench, 2, &write_list(&wrong, 0, 0, &[(50, 8)]));
        answer.illegal(INVALID_TOKEN(qualifier));
    }
    assert!(bench.disk == before);
    write(&mut bench, 2, &write_list(&good, 0, 0, &[(50, 8)])).good();
}

#[test]
fn token_expires_when_it_is_not_used_in_time() {
    let mut bench = bench();
    populate(&mut bench, 1, &populate_list(10, &[(0, 8)])).good();
    let data = information(&mut bench, 1).good();
    let list = write_list(&data[38..], 0, 0, &[(50, 8)]);
    for seconds in [10, 20, 30] {
        // Each use puts it off.
        bench.unix_ms = UNIX_MS + seconds * 1000;
        write(&mut bench, 2, &list).good();
    }
    bench.unix_ms = UNIX_MS + 40_001;
    write(&mut bench, 2, &list).illegal(INVALID_TOKEN(0x07));
    // A calendar that is set back does not end it.
    bench.unix_ms = UNIX_MS - 1_000_000;
    write(&mut bench, 2, &list).good();
}

#[test]
fn token_is_deleted_after_its_use_when_asked() {
    let mut bench = bench();
    let token = token(&mut bench, 1, &[(0, 8)]);
    write(&mut bench, 2, &write_list(&token, 0, 0b10, &[(50, 8)])).good();
    let answer = write(&mut bench, 3, &write_list(&token, 0, 0, &[(50, 8)]));
    answer.illegal(INVALID_TOKEN(0x09));
}

#[test]
fn ranges_are_checked_before_anything_is_written() {
    let mut bench = bench();
    let good = token(&mut bench, 1, &[(0, 8)]);
    let zero = zero_token();
    let many = vec![(0, 0); usize::from(RANGE_DESCRIPTORS_MAX) + 1];
    write(&mut bench, 2, &write_list(&zero, 0, 0, &many)).illegal(TOO_MANY_SEGMENT_DESCRIPTORS);
    write(&mut bench, 2, &write_list(&zero, 0, 0, &many[1..])).good();
    populate(&mut bench, 3, &populate_list(0, &many)).illegal(TOO_MANY_SEGMENT_DESCRIPTORS);
    for beyond in [(3000, 1), (2999, 2), (u64::MAX, 1), (u64::MAX, u32::MAX)] {
        let ranges = [(0, 1), beyond];
        let answer = write(&mut bench, 2, &write_list(&zero, 0, 0, &ranges));
        answer.illegal(AdditionalSense::LBA_OUT_OF_RANGE);
        let answer = populate(&mut bench, 3, &populate_list(0, &ranges));
        answer.illegal(AdditionalSense::LBA_OUT_OF_RANGE);
    }
    let invalid = |byte| Sense::invalid_field_in_parameter_list(byte, None);
    let twice = [(0, 4), (3, 4)];
    let answer = write(&mut bench, 2, &write_list(&zero, 0, 0, &twice));
    assert_eq!((answer.sense(), &answer.done[..]), (invalid(552), &[][..]));
    let answer = populate(&mut bench, 3, &populate_list(0, &twice));
    assert_eq!(answer.sense(), invalid(32));
    for (offset, ranges) in [
        (1, (50, 8)),
        (8, (50, 1)),
        (0, (50, 9)),
        (u64::MAX, (50, 1)),
    ] {
        let answer = write(&mut bench, 2, &write_list(&good, offset, 0, &[ranges]));
        assert_eq!((answer.sense(), &answer.done[..]), (invalid(8), &[][..]));
    }
}

#[test]
fn more_than_the_maximum_token_transfer_is_an_invalid_field() {
    let mut bench = Bench::with_unit(LogicalUnit::new(
        testbed::identity(),
        info(512, 1 << 30),
        false,
    ));
    let most = 256 * 1024 * 1024 / 512;
    populate(&mut bench, 1, &populate_list(0, &[(0, most)])).good();
    let answer = populate(&mut bench, 1, &populate_list(0, &[(0, most), (1 << 20, 1)]));
    assert_eq!(
        answer.sense(),
        Sense::invalid_field_in_parameter_list(40, None)
    );
}

#[test]
fn lists_that_lie_about_their_length_are_refused() {
    let mut bench = bench();
    let lists = [
        (0x10, populate_list(0, &[(0, 1), (9, 1)]), 14),
        (
            0x11,
            write_list(&zero_token(), 0, 0, &[(0, 1), (9, 1)]),
            534,
        ),
    ];
    for (service_action, list, length_at) in lists {
        let whole = list.len();
        bench.plain(&with_list_id(service_action, 1, 0)).good();
        for sent in 1..whole {
            let cdb = with_list_id(service_action, 1, whole);
            let answer = bench.write(&cdb, &list[..sent]);
            assert_eq!(answer.sense().key, SenseKey::IllegalRequest);
            assert_eq!(answer.done, []);
        }
        let answer = bench.write(&with_list_id(service_action, 1, 4097), &list);
        answer.illegal(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
        for (at, value) in [
            (0, 0_u16),
            (0, 20),
            (length_at, 0),
            (length_at, 15),
            (length_at, 33),
        ] {
            let mut wrong = list.clone();
            let value = value.to_be_bytes();
            wrong[usize::from(at)..usize::from(at) + 2].copy_from_slice(&value);
            let answer = bench.write(&with_list_id(service_action, 1, whole), &wrong);
            let expected = Sense::invalid_field_in_parameter_list(at, None);
            assert_eq!(answer.sense(), expected, "{service_action:x} {at}");
        }
    }
}

#[test]
fn rod_type_and_timeout_are_ours_or_refused() {
    let mut bench = bench();
    let invalid = |byte| Sense::invalid_field_in_parameter_list(byte, None);
    let mut list = populate_list(600, &[(0, 1)]);
    list[2] = 0b10;
    assert_eq!(populate(&mut bench, 1, &list).sense(), invalid(8));
    list[8..12].copy_from_slice(&[0, 1, 0, 0]);
    populate(&mut bench, 1, &list).good();
    let list = populate_list(601, &[(0, 1)]);
    assert_eq!(populate(&mut bench, 1, &list).sense(), invalid(4));
}

#[test]
fn token_of_other_blocks_sizes_or_a_unit_that_is_not_ready_is_not_written() {
    let mut bench = two_disks(info(4096, 100));
    let token = token(&mut bench, 1, &[(0, 8)]);
    turn(&mut bench);
    let answer = write(&mut bench, 1, &write_list(&token, 0, 0, &[(0, 1)]));
    answer.illegal(INVALID_TOKEN(0x00));
    turn(&mut bench);
    bench.nexus = NexusUnit::new(true);
    let answer = write(&mut bench, 1, &write_list(&token, 0, 0, &[(0, 1)]));
    answer.refused_with(SenseKey::DataProtect, AdditionalSense::WRITE_PROTECTED);
    let mut bench = two_disks(info(512, 100));
    let token = self::token(&mut bench, 1, &[(0, 8)]);
    turn(&mut bench);
    let source = &mut bench.second.as_mut().unwrap().unit;
    source.set_ready(ReadyState::NotReady(NotReadyReason::Failed));
    let answer = write(&mut bench, 1, &write_list(&token, 0, 0, &[(0, 1)]));
    assert_eq!(answer.sense().key, SenseKey::NotReady);
}

#[test]
fn failed_write_is_told_by_rod_token_information() {
    let mut bench = bench();
    let token = token(&mut bench, 1, &[(0, 8)]);
    bench.fault = Some(IoError::Medium);
    let answer = write(&mut bench, 2, &write_list(&token, 0, 0, &[(50, 8)]));
    assert_eq!(answer.sense().key, SenseKey::MediumError);
    let data = information(&mut bench, 2).good();
    assert_eq!((data[5], data[12], data[13], data[14]), (2, 2, 18, 18));
    assert_eq!((be64(&data, 16), data[32], data[34]), (0, 0x70, 3));
    assert_eq!(be32(&data, 50), 0);
}

#[test]
fn aborted_write_stops_at_the_next_piece_and_says_so() {
    let mut bench = bench();
    let token = token(&mut bench, 1, &[(0, 1400)]);
    bench.abort_after = Some(2);
    let list = write_list(&token, 0, 0, &[(1500, 1400)]);
    assert_eq!(write(&mut bench, 2, &list).done.len(), 2);
    bench.abort_after = None;
    let data = information(&mut bench, 2).good();
    assert_eq!(data[5], 0x60);
}

#[test]
fn tokens_of_a_unit_are_bounded_and_their_secrets_differ_with_the_key() {
    let mut unit = LogicalUnit::new(testbed::identity(), info(512, 100), false);
    unit.set_token_key(TokenKey::new([7; 32]));
    let by = testbed::nexus(PortIdentity::new("iqn.2026-11.io.example:disk", 1, 1).unwrap());
    let make = |unit: &mut LogicalUnit, list_id, unix_ms| {
        let rod = Rod {
            ranges: Vec::new(),
            block_size: 512,
            timeout_s: 60,
            list_id,
        };
        let change = Change::Token(TokenChange::Create { rod, unix_ms });
        let update = unit.decide(&change, &by).unwrap().update.unwrap();
        unit.apply(&update);
        assert!(matches!(update, Update::Token(_)));
        unit.tokens.made_by(&by, list_id).unwrap().encode(unit)
    };
    let other = make(
        &mut LogicalUnit::new(testbed::identity(), info(512, 100), false),
        0,
        UNIX_MS,
    );
    let first = make(&mut unit, 0, UNIX_MS);
    assert_ne!(first, other);
    let second = make(&mut unit, 0, UNIX_MS);
    assert_ne!(first[8..16], second[8..16]);
    assert_ne!(first[128..160], second[128..160]);
    for nth in 1..TOKENS_MAX {
        make(&mut unit, u32::try_from(nth).unwrap(), UNIX_MS);
    }
    // The oldest made room for the last.
    let id = |token: &[u8; 512]| *token[8..].first_chunk().unwrap();
    let check = |unit: &LogicalUnit, token: &[u8; 512]| {
        let change = Change::Token(TokenChange::Use {
            id: id(token),
            unix_ms: UNIX_MS,
        });
        unit.decide(&change, &by).map(|_| ())
    };
    let outcome = check(&unit, &first).unwrap_err();
    assert_eq!(outcome.status, Status::CheckCondition);
    assert_eq!(outcome.sense.unwrap().additional, INVALID_TOKEN(0x04));
    assert_eq!(check(&unit, &second), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the ranges of the token and of the write are, the blocks go where they belong.
    #[test]
    fn random_ranges_agree_with_a_model(
        source in prop::collection::vec(0_u32..300, 1..6),
        target in prop::collection::vec(0_u32..300, 1..6),
        offset in 0_u64..400,
    ) {
        let mut bench = bench();
        // Disjoint, in a zone of their own each.
        let place = |blocks: &[u32]| -> Vec<(u64, u32)> {
            let zones = (0_u64..).map(|nth| nth * 400 + nth % 7);
            zones.zip(blocks.iter().copied()).collect()
        };
        let (source, target) = (place(&source), place(&target));
        let token = token(&mut bench, 1, &source);
        let mut blocks: Vec<u8> = Vec::new();
        for (lba, count) in &source {
            let at = bytes(*lba, 512);
            blocks.extend(&bench.disk[at..at + bytes(u64::from(*count), 512)]);
        }
        turn(&mut bench);
        let mut model = bench.disk.clone();
        let mut rest = blocks.get(bytes(offset, 512)..);
        for (lba, count) in &target {
            let (at, length) = (bytes(*lba, 512), bytes(u64::from(*count), 512));
            rest = rest.and_then(|rest| {
                let (moved, behind) = rest.split_at_checked(length)?;
                model[at..at + length].copy_from_slice(moved);
                Some(behind)
            });
        }
        let before = bench.disk.clone();
        let answer = write(&mut bench, 2, &write_list(&token, offset, 0, &target));
        if rest.is_some() {
            answer.good();
            prop_assert!(bench.disk == model);
        } else {
            prop_assert_eq!(answer.sense(), Sense::invalid_field_in_parameter_list(8, None));
            prop_assert!(bench.disk == before);
        }
    }
}
