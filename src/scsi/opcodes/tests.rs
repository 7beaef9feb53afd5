//! Tests of the table: every row in itself, and what arbitrary CDBs of all rows come to.

use super::*;
use crate::scsi::sense::{Sense, SenseKey, SenseSpecific};
use crate::scsi::task::Transfer;
use crate::scsi::testbed::{self, Bench, Done};
use proptest::prelude::*;

const BLOCKS: u64 = 3000;

/// Patterns of bits that come near the ends of fields.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        4 => Just(0),
        2 => Just(0xff),
        1 => Just(0x80),
        1 => Just(1),
        2 => any::<u8>(),
    ]
}

/// A CDB of some row: arbitrary bits, of which those that must be zero mostly are.
fn cdb() -> impl Strategy<Value = [u8; 32]> {
    let row = 0..rows().len();
    (
        row,
        prop::array::uniform32(byte()),
        prop::bool::weighted(0.9),
    )
        .prop_map(|(row, mut cdb, well_formed)| {
            let row = &rows()[row];
            if well_formed {
                let mut allowed = [0; 32];
                allowed[..16].copy_from_slice(&row.allowed_bits().to_be_bytes());
                allowed[16..].copy_from_slice(&row.allowed_extended.to_be_bytes());
                for (at, byte) in cdb.iter_mut().enumerate() {
                    *byte &= if at < row.usage.len() {
                        allowed[at]
                    } else {
                        0xff
                    };
                }
            }
            name(row, &mut cdb);
            cdb
        })
}

/// Puts what names the row into its CDB.
fn name(row: &Opcode, cdb: &mut [u8; 32]) {
    cdb[0] = row.opcode;
    match row.service_action {
        Some(service_action) if row.usage.len() == 32 => {
            cdb[7] = ADDITIONAL_LENGTH;
            cdb[8..10].copy_from_slice(&service_action.to_be_bytes());
        }
        Some(service_action) => {
            cdb[1] = cdb[1] & 0xe0 | u8::try_from(service_action).unwrap();
        }
        None => {}
    }
}

fn find(opcode: u8, service_action: u16) -> Lookup {
    let mut cdb = [0; 16];
    cdb[..2].copy_from_slice(&[opcode, service_action.to_be_bytes()[1]]);
    cdb[8..10].copy_from_slice(&service_action.to_be_bytes());
    lookup(&Cdb::new(&cdb))
}

#[test]
fn rows_ascend_and_are_found_by_their_own_codes() {
    let order: Vec<_> = rows()
        .iter()
        .map(|row| (row.opcode, row.service_action))
        .collect();
    assert!(order.is_sorted_by(|one, next| one < next));
    for row in rows() {
        let (Lookup::Row(found) | Lookup::LongRow(found)) =
            find(row.opcode, row.service_action.unwrap_or(0))
        else {
            panic!("{} is not found", row.name);
        };
        assert_eq!(found.name, row.name);
    }
}

#[test]
fn cdb_length_follows_from_the_group_code() {
    for row in rows() {
        let expected = match row.opcode >> 5 {
            0 => 6,
            1 | 2 => 10,
            3 => 32,
            4 => 16,
            5 => 12,
            group => panic!("{} has group {group}", row.name),
        };
        assert_eq!(row.usage.len(), expected, "{}", row.name);
    }
}

#[test]
fn operation_codes_outside_the_table_are_unknown() {
    let known: Vec<_> = rows().iter().map(|row| row.opcode).collect();
    for opcode in (0..=255).filter(|opcode| !known.contains(opcode)) {
        assert!(
            matches!(find(opcode, 0), Lookup::UnknownOpcode),
            "{opcode:02x}"
        );
    }
}

#[test]
fn every_bit_outside_the_usage_data_is_an_invalid_field() {
    for row in rows() {
        for at in 1..row.usage.len() {
            for bit in 0..8 {
                let tolerated = at == 1
                    && (row.usage.len() == 6 && bit >= 5
                        || row.service_action.is_some() && row.opcode != 0x7f && bit < 5);
                let names_it = row.usage.len() == 32 && (8..10).contains(&at);
                if row.usage[at] & 1 << bit != 0 || tolerated || names_it {
                    continue;
                }
                let mut cdb = [0; 32];
                name(row, &mut cdb);
                cdb[at] |= 1 << bit;
                let mut info = testbed::info(512, 8);
                info.atomic_write_blocks = 8;
                info.cryptographic_erase = true;
                let answer = Bench::with_info(info).run(&cdb, &[], 512);
                answer.invalid_field(u16::try_from(at).unwrap(), Some(bit));
            }
        }
    }
}

#[test]
fn commands_that_write_are_refused_on_a_read_only_mapping_and_others_are_not() {
    for row in rows() {
        let mut info = testbed::info(512, 8);
        info.atomic_write_blocks = 8;
        info.cryptographic_erase = true;
        let mut bench = Bench::with_info(info);
        bench.nexus = crate::scsi::unit_attention::NexusUnit::new(true);
        let mut cdb = [0; 32];
        name(row, &mut cdb);
        let answer = bench.run(&cdb, &[], 0);
        let protected = answer
            .outcome
            .sense
            .is_some_and(|s| s.key == SenseKey::DataProtect);
        let gated =
            row.gates.intersects(Gates::WRITES | Gates::CHANGES) && row.available(bench.unit());
        assert_eq!(protected, gated, "{}", row.name);
    }
}

#[test]
fn long_cdb_must_say_how_long_it_is_and_its_service_action_is_known() {
    let mut cdb = [0; 32];
    cdb[0] = 0x7f;
    cdb[9] = 0x09;
    for length in [0, 0x17, 0x19, 0xff] {
        cdb[7] = length;
        Bench::new(8).run(&cdb, &[], 512).invalid_field(7, None);
    }
    cdb[7] = ADDITIONAL_LENGTH;
    cdb[31] = 1;
    let data = Bench::new(8).run(&cdb, &[], 512).good();
    assert_eq!(data, Bench::new(8).disk[..512]);
    for service_action in [0x0008_u16, 0x000e, 0x0109, 0xffff] {
        cdb[8..10].copy_from_slice(&service_action.to_be_bytes());
        Bench::new(8).run(&cdb, &[], 512).invalid_field(8, None);
    }
}

#[test]
fn long_forms_obey_their_own_flags_and_their_own_length_field() {
    let long = |service_action, flags, lba: u64, blocks: u32| {
        let mut cdb = [0; 32];
        cdb[0] = 0x7f;
        cdb[7] = ADDITIONAL_LENGTH;
        cdb[9] = service_action;
        cdb[10] = flags;
        cdb[12..20].copy_from_slice(&lba.to_be_bytes());
        // Expected tags mean nothing without protection information.
        cdb[20..28].fill(0xff);
        cdb[28..].copy_from_slice(&blocks.to_be_bytes());
        cdb
    };
    let mut bench = Bench::new(8);
    let answer = bench.write(&long(0x0b, 0x08, 2, 2), &[5; 1024]);
    let written = Done::Write {
        lba: 2,
        blocks: 2,
        fua: true,
    };
    assert_eq!(answer.done, [written]);
    answer.good();
    bench.write(&long(0x0a, 0x02, 2, 2), &[5; 1024]).good();
    bench.write(&long(0x0a, 0x06, 2, 2), &[5; 512]).good();
    bench
        .write(&long(0x0a, 0x04, 2, 2), &[5; 512])
        .invalid_field(10, Some(2));
    let zeroed = bench.plain(&long(0x0d, 0x09, 0, 8));
    assert_eq!(
        zeroed.done,
        [Done::WriteZeroes {
            lba: 0,
            blocks: 8,
            may_unmap: true
        }]
    );
    zeroed.good();
    bench.read(&long(0x09, 0x08, 0, 8), 4096).good();
    for service_action in [0x09, 0x0a, 0x0b, 0x0c, 0x0d] {
        bench
            .write(&long(service_action, 0, 7, 2), &[0; 1024])
            .illegal(crate::scsi::AdditionalSense::LBA_OUT_OF_RANGE);
        bench
            .write(&long(service_action, 0x20, 0, 1), &[0; 512])
            .invalid_field(10, Some(5));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever the CDB, the parameter list and the expected lengths are: the command ends, the
    /// device is asked only for what it has, data are no longer than said, and a command that
    /// is refused for its CDB has touched nothing.
    #[test]
    fn any_command_with_any_data_ends_within_its_bounds(
        cdb in cdb(),
        data_out in prop_oneof![
            prop::collection::vec(byte(), 0..64),
            Just(vec![0; 512]),
            Just(vec![3; 2048]),
        ],
        data_in_bytes in prop_oneof![Just(0), Just(1), Just(512), Just(u32::MAX), any::<u32>()],
    ) {
        let mut info = testbed::info(512, BLOCKS);
        info.atomic_write_blocks = 64;
        info.cryptographic_erase = true;
        let mut bench = Bench::with_info(info);
        let before = bench.disk.clone();
        let answer = bench.run(&cdb, &data_out, data_in_bytes);
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
            prop_assert!(lba.checked_add(blocks).is_some_and(|end| end <= BLOCKS));
        }
        match answer.transfer {
            Transfer::None => prop_assert_eq!(answer.data.len(), 0),
            Transfer::In(bytes) => {
                let expected = bytes.min(u64::from(data_in_bytes));
                prop_assert_eq!(u64::try_from(answer.data.len()).unwrap(), expected);
            }
            Transfer::Out(_) => prop_assert_eq!(answer.data.len(), 0),
        }
        if let Some(Sense { specific: SenseSpecific::Field { in_cdb: true, byte, .. }, .. }) =
            answer.outcome.sense
        {
            prop_assert!(byte < 32);
            prop_assert_eq!(&answer.done[..], &[][..]);
            prop_assert!(bench.disk == before);
        }
    }

    #[test]
    fn arbitrary_bytes_are_never_more_than_a_refusal(
        cdb in prop::array::uniform16(any::<u8>()),
        data_out in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let answer = Bench::new(8).run(&cdb, &data_out, 0);
        prop_assert!(answer.outcome.sense.is_none_or(|sense| sense.key != SenseKey::NoSense));
    }
}

#[test]
fn unit_that_does_not_serve_the_32_byte_forms_knows_none_of_them() {
    let unit = LogicalUnit::new(testbed::identity(), testbed::info(512, 8), false);
    let mut bench = Bench::with_unit(unit.clone());
    let mut cdb = [0; 32];
    (cdb[0], cdb[7], cdb[9]) = (0x7f, 0x18, 0x09);
    bench.run(&cdb, &[], 0).good();
    bench.unit = Some(unit);
    for service_action in [0x09, 0x0b, 0xff] {
        cdb[9] = service_action;
        let answer = bench.run(&cdb, &[], 512);
        let code = answer.sense().additional;
        let known = service_action != 0xff;
        assert_eq!(
            code == crate::scsi::AdditionalSense::INVALID_COMMAND_OPERATION_CODE,
            known
        );
    }
}
