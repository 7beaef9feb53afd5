//! EXTENDED COPY (LID1) and what RECEIVE COPY RESULTS says of it.

use proptest::prelude::*;

use super::*;
use crate::backend::{IoError, UnitIndex};
use crate::scsi::change::Change;
use crate::scsi::copy::copying::Cause;
use crate::scsi::copy::{
    COPY_TARGET_NOT_REACHABLE, Denied, INCORRECT_COPY_TARGET_TYPE, INLINE_DATA_LENGTH_EXCEEDED,
    THIRD_PARTY_DEVICE_FAILURE, TOO_MANY_SEGMENT_DESCRIPTORS, TOO_MANY_TARGET_DESCRIPTORS,
    UNEXPECTED_INEXACT_SEGMENT, UNREACHABLE_COPY_TARGET, UNSUPPORTED_SEGMENT_DESCRIPTOR,
    UNSUPPORTED_TARGET_DESCRIPTOR, check_read, check_write,
};
use crate::scsi::nexus::MappedLun;
use crate::scsi::reservations::Request;
use crate::scsi::sense::{AdditionalSense, Sense, SenseKey, SenseSpecific};
use crate::scsi::task::{Status, Transfer};
use crate::scsi::testbed::{self, Done};
use crate::scsi::unit::{LogicalUnit, NotReadyReason, PortIdentity, ReadyState};
use crate::scsi::unit_attention::NexusUnit;

#[track_caller]
fn aborted(answer: &Answer, additional: AdditionalSense, segment: u32) {
    answer.refused_with(SenseKey::CopyAborted, additional);
    assert_eq!(answer.sense().command_specific, Some(segment));
}

#[test]
fn extended_copy_moves_blocks_to_another_unit_in_pieces() {
    let mut bench = bench();
    let cscds = [first(&bench), second(&bench)];
    let answer = copy(&mut bench, &cscds, &[seg((0, 7), (1, 100), 2500)]);
    assert_eq!(answer.transfer, Transfer::Out(16 + 64 + 28));
    let pieces = [(7, 100, 1024), (1031, 1124, 1024), (2055, 2148, 452)];
    let steps = pieces.into_iter().flat_map(|(from, to, blocks)| {
        let fua = false;
        let (read, write) = (from, to);
        [
            Done::Read { lba: read, blocks },
            Done::Write {
                lba: write,
                blocks,
                fua,
            },
        ]
    });
    assert_eq!(answer.done, steps.collect::<Vec<_>>());
    answer.good();
    let disk = &bench.second.as_ref().unwrap().disk;
    assert!(disk[100 * 512..2600 * 512] == bench.disk[7 * 512..2507 * 512]);
}

#[test]
fn extended_copy_on_one_unit_moves_overlapping_blocks_as_if_at_once() {
    for (from, to) in [(0, 1), (1, 0), (0, 900), (900, 0), (300, 300)] {
        let mut bench = bench();
        let before = bench.disk.clone();
        let cscds = [first(&bench)];
        copy(&mut bench, &cscds, &[seg((0, from), (0, to), 2000)]).good();
        let mut expected = before.clone();
        let (from, to) = (bytes(from, 512), bytes(to, 512));
        expected[to..to + 2000 * 512].copy_from_slice(&before[from..from + 2000 * 512]);
        assert!(bench.disk == expected, "{from} to {to}");
    }
}

#[test]
fn extended_copy_knows_units_by_uuid_and_itself_by_ffff() {
    let mut bench = bench();
    let mut uuid = [0; 32];
    uuid[..10].copy_from_slice(&[0xe4, 0xc0, 0, 0, 1, 0x0a, 0, 18, 0x10, 0]);
    uuid[10..26].copy_from_slice(b"fedcba9876543210");
    uuid[28..].copy_from_slice(&512_u32.to_be_bytes());
    copy(&mut bench, &[uuid], &[seg((0xffff, 0), (0, 5), 3)]).good();
    let disk = &bench.second.as_ref().unwrap().disk;
    assert!(disk[5 * 512..8 * 512] == bench.disk[..3 * 512]);
}

#[test]
fn extended_copy_between_block_sizes_needs_whole_blocks_of_both() {
    let mut bench = two_disks(info(4096, 400));
    let cscds = [first(&bench), second(&bench)];
    copy(&mut bench, &cscds, &[seg((0, 8), (1, 3), 16)]).good();
    let disk = bench.second.as_ref().unwrap().disk.clone();
    assert!(disk[3 * 4096..5 * 4096] == bench.disk[4096..3 * 4096]);
    // DC = 1 counts blocks of the destination.
    let by_destination = Seg {
        flags: 0b10,
        ..seg((0, 0), (1, 0), 2)
    };
    copy(&mut bench, &cscds, &[by_destination]).good();
    let disk = bench.second.as_ref().unwrap().disk.clone();
    assert!(disk[..2 * 4096] == bench.disk[..2 * 4096]);
    let answer = copy(&mut bench, &cscds, &[seg((0, 0), (1, 0), 12)]);
    aborted(&answer, UNEXPECTED_INEXACT_SEGMENT, 0);
}

#[test]
fn extended_copy_of_nothing_is_good() {
    let mut bench = bench();
    bench.plain(&cdb(0x83, 0, 0)).good();
    let cscds = [first(&bench)];
    let answer = copy(&mut bench, &cscds, &[seg((0, 0), (0, 1), 0)]);
    assert_eq!(answer.done, []);
    answer.good();
    copy(&mut bench, &[], &[]).good();
}

#[test]
fn extended_copy_list_that_lies_about_its_length_is_refused() {
    let mut bench = bench();
    let cscds = [first(&bench)];
    let list = parameter_list((1, 0), &cscds, &[seg((0, 0), (0, 9), 1)]);
    for sent in 1..list.len() {
        let answer = send(&mut bench, &list[..sent]);
        assert_eq!(
            answer.sense(),
            Sense::parameter_list_length_error(10),
            "{sent}"
        );
        assert_eq!(answer.done, []);
        // The CDB says more than the initiator sends.
        let answer = bench.write(&cdb(0x83, 0, list.len()), &list[..sent]);
        answer.illegal(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
    }
    for (at, field) in [
        (2, &[0xff, 0xff][..]),
        (8, &[0xff; 4]),
        (8, &[0, 0, 0x20, 0]),
    ] {
        let mut list = list.clone();
        list[at..at + field.len()].copy_from_slice(field);
        send(&mut bench, &list).illegal(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
    }
    let answer = bench.write(&cdb(0x83, 0, usize::MAX >> 32), &list);
    answer.illegal(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
    let mut list = list;
    list[15] = 1;
    send(&mut bench, &list).illegal(INLINE_DATA_LENGTH_EXCEEDED);
}

#[test]
fn extended_copy_counts_descriptors_up_to_its_limits() {
    let mut bench = bench();
    let cscd = first(&bench);
    let most = usize::from(CSCD_DESCRIPTORS_MAX);
    let one = [seg((15, 0), (0, 9), 1)];
    copy(&mut bench, &vec![cscd; most], &one).good();
    copy(&mut bench, &vec![cscd; most + 1], &one).illegal(TOO_MANY_TARGET_DESCRIPTORS);
    let most = usize::from(SEGMENT_DESCRIPTORS_MAX);
    let segment = seg((0, 0), (0, 9), 1);
    copy(&mut bench, &[cscd], &vec![segment; most]).good();
    let answer = copy(&mut bench, &[cscd], &vec![segment; most + 1]);
    answer.illegal(TOO_MANY_SEGMENT_DESCRIPTORS);
    let answer = copy(&mut bench, &[cscd; 17], &vec![segment; 300]);
    answer.illegal(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
}

#[test]
fn extended_copy_names_what_is_wrong_with_a_descriptor() {
    let mut bench = bench();
    let good = first(&bench);
    let segment = [seg((0, 0), (0, 9), 1)];
    let with = |at: usize, value: u8| {
        let mut cscd = good;
        cscd[at] = value;
        [cscd]
    };
    let answer = copy(&mut bench, &with(0, 0xe0), &segment);
    answer.illegal(UNSUPPORTED_TARGET_DESCRIPTOR);
    let SenseSpecific::Field { in_cdb, byte, .. } = answer.sense().specific else {
        panic!("no field pointer");
    };
    assert_eq!((in_cdb, byte), (false, 16));
    for (at, value, byte, bit) in [(1, 0x20, 17, Some(5)), (7, 21, 23, None), (31, 1, 45, None)] {
        let answer = copy(&mut bench, &with(at, value), &segment);
        assert_eq!(
            answer.sense(),
            Sense::invalid_field_in_parameter_list(byte, bit)
        );
        assert_eq!(answer.done, []);
    }
    // LU ID TYPE means nothing in this descriptor.
    copy(&mut bench, &with(1, 0xc0), &segment).good();
    aborted(
        &copy(&mut bench, &with(1, 0x01), &segment),
        INCORRECT_COPY_TARGET_TYPE,
        0,
    );
    for (at, value) in [(15, 0), (5, 0x13), (5, 2), (4, 2), (7, 7)] {
        let answer = copy(&mut bench, &with(at, value), &segment);
        aborted(&answer, COPY_TARGET_NOT_REACHABLE, 0);
    }
    let mut list = parameter_list((1, 0), &[good], &segment);
    list[48] = 0x03;
    send(&mut bench, &list).illegal(UNSUPPORTED_SEGMENT_DESCRIPTOR);
    list[48..52].copy_from_slice(&[0x02, 0, 0, 0x19]);
    let answer = send(&mut bench, &list);
    assert_eq!(
        answer.sense(),
        Sense::invalid_field_in_parameter_list(50, None)
    );
    list[48..52].copy_from_slice(&[0x02, 4, 0, 0x18]);
    let answer = send(&mut bench, &list);
    assert_eq!(
        answer.sense(),
        Sense::invalid_field_in_parameter_list(49, Some(2))
    );
}

#[test]
fn extended_copy_checks_every_segment_before_the_first_moves() {
    let mut bench = bench();
    let cscds = [first(&bench), second(&bench)];
    let fine = seg((0, 0), (1, 0), 8);
    for (wrong, additional, at) in [
        (seg((2, 0), (1, 0), 1), UNREACHABLE_COPY_TARGET, 4),
        (seg((0, 0), (2, 0), 1), UNREACHABLE_COPY_TARGET, 6),
        (seg((0, 2999), (1, 0), 2), AdditionalSense::NONE, 12),
        (seg((0, u64::MAX), (1, 0), 2), AdditionalSense::NONE, 12),
        (seg((0, 0), (1, 3000), 1), AdditionalSense::NONE, 20),
        (seg((0, 0), (1, u64::MAX - 1), 2), AdditionalSense::NONE, 20),
    ] {
        let answer = copy(&mut bench, &cscds, &[fine, wrong]);
        aborted(&answer, additional, 1);
        let specific = answer.sense().specific;
        assert_eq!(specific, SenseSpecific::Segment { byte: at }, "{wrong:?}");
    }
}

#[test]
fn extended_copy_reaches_only_what_the_session_sees_and_may_use() {
    let mut bench = bench();
    let cscds = [first(&bench), second(&bench)];
    let there = [seg((0, 0), (1, 0), 8)];
    let back = [seg((1, 0), (0, 0), 8)];
    bench.second.as_mut().unwrap().hidden = true;
    let answer = copy(&mut bench, &cscds, &there);
    aborted(&answer, COPY_TARGET_NOT_REACHABLE, 0);
    let second = bench.second.as_mut().unwrap();
    second.hidden = false;
    second.nexus = NexusUnit::new(true);
    let answer = copy(&mut bench, &cscds, &there);
    aborted(&answer, THIRD_PARTY_DEVICE_FAILURE, 0);
    copy(&mut bench, &cscds, &back).good();
    let second = bench.second.as_mut().unwrap();
    second.nexus = NexusUnit::new(false);
    second
        .unit
        .set_ready(ReadyState::NotReady(NotReadyReason::Failed));
    for segments in [there, back] {
        let answer = copy(&mut bench, &cscds, &segments);
        aborted(&answer, THIRD_PARTY_DEVICE_FAILURE, 0);
    }
}

#[test]
fn list_identifier_usage_decides_what_is_remembered() {
    let mut bench = bench();
    let cscds = [first(&bench)];
    let segments = [seg((0, 0), (0, 9), 4), seg((0, 0), (0, 20), 2)];
    let unknown = Sense::invalid_field_in_cdb(2, None);
    for service_action in [0x00, 0x01, 0x04] {
        assert_eq!(receive(&mut bench, service_action).sense(), unknown);
    }
    for (header, refused) in [
        ((1, 0x10), None),
        ((0, 0x18), None),
        ((1, 0x18), Some((0, None))),
        ((1, 0x08), Some((1, Some(4)))),
    ] {
        let answer = send(&mut bench, &parameter_list(header, &cscds, &segments));
        match refused {
            None => assert!(answer.good().is_empty()),
            Some((byte, bit)) => assert_eq!(
                answer.sense(),
                Sense::invalid_field_in_parameter_list(byte, bit)
            ),
        }
        assert_eq!(receive(&mut bench, 0x00).sense(), unknown);
    }
    for _ in 0..2 {
        copy(&mut bench, &cscds, &segments).good();
        let status = receive(&mut bench, 0x00).good();
        assert_eq!(status, [0, 0, 0, 8, 1, 0, 2, 0, 0, 0, 12, 0]);
    }
    assert_eq!(receive(&mut bench, 0x01).good(), [0; 4]);
    assert_eq!(receive(&mut bench, 0x04).good(), [0; 4]);
}

#[test]
fn device_failure_aborts_the_copy_and_its_details_can_be_asked_for() {
    let mut bench = bench();
    let cscds = [first(&bench), second(&bench)];
    bench.fault = Some(IoError::Medium);
    let answer = copy(&mut bench, &cscds, &[seg((0, 0), (1, 0), 8)]);
    let sense = answer.sense();
    assert_eq!(
        (sense.key, sense.additional, sense.information),
        (
            SenseKey::CopyAborted,
            THIRD_PARTY_DEVICE_FAILURE,
            Some(8 * 512)
        )
    );
    let status = receive(&mut bench, 0x00).good();
    assert_eq!(status, [0, 0, 0, 8, 2, 0, 0, 0, 0, 0, 0, 0]);
    let details = receive(&mut bench, 0x04).good();
    assert_eq!((details.len(), be32(&details, 0)), (60 + 18, 56 + 18));
    assert_eq!((details[56], be16(&details, 58)), (2, 18));
    assert_eq!(details[60..63], [0xf0, 0, 0x0a]);
    assert_eq!(details[72..74], [0x0d, 0x01]);
    // What has not begun may be tried again.
    bench.fault = Some(IoError::Resource);
    let answer = copy(&mut bench, &cscds, &[seg((0, 0), (1, 0), 8)]);
    assert_eq!(answer.outcome.status, Status::Busy);
}

#[test]
fn aborted_copy_stops_at_the_next_piece_and_says_so() {
    let mut bench = bench();
    let cscds = [first(&bench), second(&bench)];
    bench.abort_after = Some(2);
    let answer = copy(&mut bench, &cscds, &[seg((0, 0), (1, 0), 3000)]);
    assert_eq!(answer.done.len(), 2);
    bench.abort_after = None;
    let status = receive(&mut bench, 0x00).good();
    assert_eq!(status[4], 2);
}

#[test]
fn reservation_of_another_nexus_keeps_a_copy_from_the_unit() {
    let mut bench = bench();
    let cscds = [first(&bench), second(&bench)];
    let reserve = Change::Reservation(Box::new(Request::Reserve));
    let other = testbed::other_nexus();
    bench.change_of(UnitIndex(1), &reserve, &other).unwrap();
    for segment in [seg((0, 0), (1, 0), 8), seg((1, 0), (0, 0), 8)] {
        let answer = copy(&mut bench, &cscds, &[segment]);
        aborted(&answer, THIRD_PARTY_DEVICE_FAILURE, 0);
    }
    copy(&mut bench, &cscds, &[seg((0, 0), (0, 9), 8)]).good();
    let release = Change::Reservation(Box::new(Request::Release));
    bench.change_of(UnitIndex(1), &release, &other).unwrap();
    copy(&mut bench, &cscds, &[seg((0, 0), (1, 0), 8)]).good();
}

/// Exclusive Access of another nexus holds where the session does not even see the unit.
#[test]
fn reservation_of_another_nexus_keeps_a_copy_from_a_unit_that_is_only_known_by_a_token() {
    let mut bench = bench();
    let map = [];
    let source = UnitIndex(1);
    let by = testbed::nexus(PortIdentity::new("iqn.2026-11.io.example:disk", 1, 2).unwrap());
    let check = |bench: &Bench| {
        let unit = &bench.second.as_ref().unwrap().unit;
        check_read(unit, source, &map, &by)
    };
    let other = testbed::other_nexus();
    assert_eq!(check(&bench), Ok(()));
    let reserve = Change::Reservation(Box::new(Request::Reserve));
    bench.change_of(source, &reserve, &other).unwrap();
    assert_eq!(check(&bench), Err(Denied::Reserved));
    let release = Change::Reservation(Box::new(Request::Release));
    bench.change_of(source, &release, &other).unwrap();
    assert_eq!(check(&bench), Ok(()));
}

#[test]
fn what_forbids_a_copy_to_write_is_named_as_for_write() {
    let unit = |read_only| LogicalUnit::new(testbed::identity(), info(512, 8), read_only);
    let map = |read_only| {
        [MappedLun {
            lun: 0,
            unit: UnitIndex(0),
            nexus: NexusUnit::new(read_only),
        }]
    };
    let check = |unit: &LogicalUnit, read_only| {
        let denied = check_write(unit, UnitIndex(0), &map(read_only)).err()?;
        Cause::Denied(denied).sense()
    };
    let protected = |additional| Some(Sense::new(SenseKey::DataProtect, additional));
    let hard = protected(AdditionalSense::WRITE_PROTECTED);
    let mut bench = bench();
    assert_eq!(check(bench.unit(), false), None);
    assert_eq!(check(bench.unit(), true), hard);
    assert_eq!(check(&unit(true), false), hard);
    // MODE SELECT of the Control page with SWP.
    let list = [
        0, 0, 0, 0, 0x0a, 0x0a, 0x20, 0x10, 0x08, 0, 0, 0, 0xff, 0xff, 0, 0,
    ];
    bench.write(&[0x15, 0x10, 0, 0, 16, 0], &list).good();
    let soft = protected(AdditionalSense::SOFTWARE_WRITE_PROTECTED);
    assert_eq!(check(bench.unit(), false), soft);
    assert_eq!(check(bench.unit(), true), hard);
}

fn segments() -> impl Strategy<Value = Vec<Seg>> {
    let place = || (0_u16..2, 0_u64..BLOCKS - 400);
    let one = (place(), place(), 0_u16..400).prop_map(|(from, to, blocks)| seg(from, to, blocks));
    // Near each other, so that many overlap.
    let near = (0_u16..2, 0_u64..600, 0_u64..600, 0_u16..2400)
        .prop_map(|(unit, from, to, blocks)| seg((unit, from), (unit, to), blocks));
    prop::collection::vec(prop_oneof![one, near], 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any list of segments leaves both disks as a model that moves each at once.
    #[test]
    fn random_segments_agree_with_a_model_of_two_disks(segments in segments()) {
        let mut bench = bench();
        let cscds = [first(&bench), second(&bench)];
        let mut model = [bench.disk.clone(), bench.second.as_ref().unwrap().disk.clone()];
        for Seg { from, to, blocks, .. } in &segments {
            let length = bytes(u64::from(*blocks), 512);
            let at = bytes(from.1, 512);
            let moved = model[usize::from(from.0)][at..at + length].to_vec();
            let at = bytes(to.1, 512);
            model[usize::from(to.0)][at..at + length].copy_from_slice(&moved);
        }
        copy(&mut bench, &cscds, &segments).good();
        prop_assert!(bench.disk == model[0]);
        prop_assert!(bench.second.as_ref().unwrap().disk == model[1]);
        let moved: u64 = segments.iter().map(|one| u64::from(one.blocks) * 512).sum();
        let status = receive(&mut bench, 0x00).good();
        prop_assert_eq!(u64::from(be32(&status, 8)), moved);
        prop_assert_eq!(usize::from(be16(&status, 5)), segments.len());
    }

    /// Whatever is sent, a copy that is refused has touched nothing.
    #[test]
    fn arbitrary_lists_are_copied_or_refused_whole(
        mut list in prop::collection::vec(any::<u8>(), 0..400),
        well_formed in any::<bool>(),
    ) {
        let mut bench = bench();
        if well_formed && list.len() >= 108 {
            let cscds = [first(&bench), second(&bench)];
            let fine = parameter_list((1, 0), &cscds, &[seg((0, 0), (1, 0), 8)]);
            list.truncate(108);
            for (byte, fine) in list.iter_mut().zip(fine) {
                if *byte > 3 {
                    *byte = fine;
                }
            }
        }
        let answer = send(&mut bench, &list);
        if answer.outcome.status == Status::CheckCondition {
            prop_assert_eq!(&answer.done[..], &[]);
        }
    }
}
