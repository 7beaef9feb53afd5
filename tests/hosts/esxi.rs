//! ESXi: discovery of a disk, creation of a VMFS datastore, and the offloads of its storage API
//! (atomic test and set, block zero, full copy, unmap).
//!
//! From VMware's public descriptions of VAAI and the traces in bug reports against other targets:
//! what kept ESXi from formatting was RESERVE (6) that was not there, VPD page 86h that was not
//! there, and an underflow reported for a whole transfer.

use super::host::Host;
use super::served::{BLOCK, Served, pattern, two_cores};
use iiblockdaemon::pdu::Residual;
use iiblockdaemon::testing::tcp::{read_16, write_16};
use iiblockdaemon::testing::{DataOut, Direction};

const ESX_1: &str = "iqn.1998-01.com.vmware:esx-1";
const ESX_2: &str = "iqn.1998-01.com.vmware:esx-2";
const MIB: usize = 1 << 20;
/// Where the lock of a file lies, in blocks.
const LOCK: u64 = 4096;
const RESERVE_6: [u8; 6] = [0x16, 0, 0, 0, 0, 0];
const RELEASE_6: [u8; 6] = [0x17, 0, 0, 0, 0, 0];
const MISCOMPARE: (u8, u8, u8) = (0x0e, 0x1d, 0x00);

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn vpd(page: u8) -> [u8; 6] {
    [0x12, 0x01, page, 0, 0xff, 0]
}

/// The NAA designator of the unit (VPD page 83h).
fn naa(page: &[u8]) -> Vec<u8> {
    let mut at = 4;
    while at < page.len() {
        let end = at + 4 + usize::from(page[at + 3]);
        if page[at + 1] & 0x3f == 0x03 {
            return page[at..end].to_vec();
        }
        at = end;
    }
    panic!("no NAA designator in {page:02x?}");
}

fn compare_and_write(lba: u64, compare: &[u8], write: &[u8]) -> ([u8; 16], Vec<u8>) {
    let mut cdb = [0; 16];
    cdb[0] = 0x89;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[13] = 1;
    (cdb, [compare, write].concat())
}

fn write_same_16(lba: u64, blocks: u32, flags: u8) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = 0x93;
    cdb[1] = flags;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// EXTENDED COPY (LID1) with one segment from the first to the second designator's unit (SPC-4).
fn extended_copy(
    from: &[u8],
    to: &[u8],
    source: u64,
    destination: u64,
    blocks: u16,
) -> ([u8; 16], Vec<u8>) {
    let mut list = vec![0; 16];
    // List identifier 1, priority 1, LIST ID USAGE 00b as ESXi has it.
    list[0] = 1;
    list[1] = 1;
    for designator in [from, to] {
        let mut descriptor = [0; 32];
        descriptor[0] = 0xe4;
        descriptor[4..4 + designator.len()].copy_from_slice(designator);
        descriptor[28..32].copy_from_slice(&BLOCK.to_be_bytes());
        list.extend_from_slice(&descriptor);
    }
    list[2..4].copy_from_slice(&64_u16.to_be_bytes());
    let mut segment = [0; 28];
    segment[0] = 0x02;
    // DC: the length counts blocks of the destination.
    segment[1] = 0x02;
    segment[2..4].copy_from_slice(&24_u16.to_be_bytes());
    segment[6..8].copy_from_slice(&1_u16.to_be_bytes());
    segment[10..12].copy_from_slice(&blocks.to_be_bytes());
    segment[12..20].copy_from_slice(&source.to_be_bytes());
    segment[20..28].copy_from_slice(&destination.to_be_bytes());
    list.extend_from_slice(&segment);
    list[8..12].copy_from_slice(&28_u32.to_be_bytes());
    let mut cdb = [0; 16];
    cdb[0] = 0x83;
    cdb[10..14].copy_from_slice(&u32::try_from(list.len()).unwrap().to_be_bytes());
    (cdb, list)
}

/// Everything that is asked of a disk before it is used.
fn discover(host: &mut Host, lun: u8) -> Vec<u8> {
    // The first 36 bytes, then as many as there are said to be.
    let first = host.read(lun, &[0x12, 0, 0, 0, 36, 0], 36);
    assert_eq!(first.len(), 36);
    let all = 5 + first[4];
    let whole = host.read(lun, &[0x12, 0, 0, 0, all, 0], all.into());
    assert_eq!(whole.len(), usize::from(all));
    let pages = host.read(lun, &vpd(0x00), 255);
    for page in [0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2] {
        assert!(pages[4..].contains(&page), "{page:02x}h in {pages:02x?}");
        let data = host.read(lun, &vpd(page), 255);
        assert_eq!(data[1], page);
        assert_eq!(data.len(), 4 + usize::from(be16(&data, 2)));
    }
    host.plain(lun, &[0; 6]);
    let short = host.read(lun, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8);
    let mut cdb = [0; 16];
    cdb[..2].copy_from_slice(&[0x9e, 0x10]);
    cdb[13] = 32;
    let long = host.read(lun, &cdb, 32);
    assert_eq!((&long[4..8], be32(&long, 8)), (&short[..4], BLOCK));
    assert_eq!(long[14] & 0xc0, 0xc0, "thin, and zeros where unmapped");
    // Caching, control and all pages, by both commands; not write protected.
    for page in [0x08, 0x0a, 0x3f] {
        let six = host.read(lun, &[0x1a, 0, page, 0, 0xff, 0], 255);
        assert_eq!(six.len(), usize::from(six[0]) + 1);
        assert_eq!(six[2] & 0x80, 0);
        let ten = host.read(lun, &[0x5a, 0, page, 0, 0, 0, 0, 0x10, 0, 0], 4096);
        assert_eq!(ten.len(), usize::from(be16(&ten, 0)) + 2);
    }
    host.read(lun, &vpd(0x83), 255)
}

/// REPORT SUPPORTED OPERATION CODES of one command: supported as the standard has it (SPC-4).
fn is_supported(host: &mut Host, opcode: u8) -> bool {
    let cdb = [0xa3, 0x0c, 0x01, opcode, 0, 0, 0, 0, 1, 0, 0, 0];
    let data = host.read(0, &cdb, 256);
    data[1] & 0x07 == 0x03 && usize::from(be16(&data, 2)) + 4 == data.len()
}

#[test]
fn a_datastore_is_created_by_one_host_and_mounted_by_another() {
    let served = Served::start(two_cores());
    let mut one = Host::new(&served, 0, ESX_1);
    let mut two = Host::new(&served, 1, ESX_2);
    let seen = discover(&mut one, 0);
    assert_eq!(naa(&discover(&mut two, 0)), naa(&seen), "one disk");
    for opcode in [0x16, 0x17, 0x42, 0x89, 0x93, 0xa0] {
        assert!(is_supported(&mut one, opcode), "{opcode:02x}h");
    }

    // The partition table under RESERVE (6).
    one.plain(0, &RESERVE_6);
    two.conflicts(0, &RESERVE_6, Direction::None);
    two.conflicts(0, &read_16(0, 1), Direction::In(BLOCK));
    two.plain(0, &RELEASE_6);
    let table = pattern(34 * 512, 1);
    one.write(0, &write_16(0, 34, false), table.clone());
    one.plain(0, &RELEASE_6);
    assert_eq!(two.read(0, &read_16(0, 34), 34 * 512), table);

    // The metadata, in pieces of 1 MiB; no residual for a transfer that was whole.
    let metadata = pattern(MIB, 2);
    let cdb = write_16(2048, 2048, false);
    let out = Direction::Out(DataOut::new(metadata.clone()));
    let outcome = one.run(0, &cdb, out);
    assert!(outcome.is_good(), "{outcome:02x?}");
    assert_eq!(outcome.residual, Residual::None);
    let bytes = u32::try_from(MIB).unwrap();
    assert_eq!(two.read(0, &read_16(2048, 2048), bytes), metadata);
    one.plain(0, &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn locks_are_taken_by_compare_and_write_and_the_loser_is_told_where() {
    let served = Served::start(two_cores());
    let mut one = Host::new(&served, 0, ESX_1);
    let mut two = Host::new(&served, 1, ESX_2);
    let free = vec![0; 512];
    let (mut by_one, mut by_two) = (free.clone(), free.clone());
    by_one[24..30].copy_from_slice(b"esx-1\0");
    by_two[24..30].copy_from_slice(b"esx-2\0");

    let (cdb, data) = compare_and_write(LOCK, &free, &by_one);
    one.write(0, &cdb, data);
    let (cdb, data) = compare_and_write(LOCK, &free, &by_two);
    let outcome = two.run(0, &cdb, Direction::Out(DataOut::new(data.clone())));
    assert_eq!(outcome.sense_code(), Some(MISCOMPARE));
    // Fixed format: VALID, and INFORMATION with the offset of the first byte that differs (SBC-3).
    assert_eq!(outcome.sense[0], 0xf0);
    assert_eq!(be32(&outcome.sense, 3), 24);
    assert_eq!(two.read(0, &read_16(LOCK, 1), BLOCK), by_one);

    // Released by the owner; now the other gets it, by the very command that failed.
    let (release, released) = compare_and_write(LOCK, &by_one, &free);
    one.write(0, &release, released);
    two.write(0, &cdb, data);
    assert_eq!(one.read(0, &read_16(LOCK, 1), BLOCK), by_two);
    // A heartbeat with what is there already.
    let (cdb, data) = compare_and_write(LOCK, &by_two, &by_two);
    two.write(0, &cdb, data);
}

#[test]
fn blocks_are_zeroed_copied_and_unmapped_by_the_target() {
    let served = Served::start(two_cores());
    let mut host = Host::new(&served, 0, ESX_1);
    let limits = host.read(0, &vpd(0xb0), 255);
    let bytes = u32::try_from(MIB).unwrap();
    host.write(0, &write_16(8192, 2048, false), pattern(MIB, 3));
    host.write(0, &write_16(10_240, 2048, false), pattern(MIB, 4));

    // Block zero: one block of zeros for a mebibyte, as written and as unmapped.
    for (lba, flags) in [(8192, 0), (10_240, 0x08)] {
        host.write(0, &write_same_16(lba, 2048, flags), vec![0; 512]);
        assert_eq!(host.read(0, &read_16(lba, 2048), bytes), vec![0; MIB]);
    }

    // Full copy within the unit and to the other one.
    let mut parameters = [0; 16];
    parameters[..2].copy_from_slice(&[0x84, 0x03]);
    parameters[10..14].copy_from_slice(&520_u32.to_be_bytes());
    let parameters = host.read(0, &parameters, 520);
    assert_eq!(
        be32(&parameters, 0) + 4,
        u32::try_from(parameters.len()).unwrap()
    );
    assert!(be16(&parameters, 8) >= 2, "two units in one copy");
    assert!(be32(&parameters, 16) >= 4 * bytes, "segments of 4 MiB");
    assert!(parameters[44..].contains(&0x02) && parameters[44..].contains(&0xe4));
    let disk = pattern(4 * MIB, 5);
    host.write(0, &write_16(0, 8192, false), disk.clone());
    let (here, there) = (
        naa(&host.read(0, &vpd(0x83), 255)),
        naa(&host.read(1, &vpd(0x83), 255)),
    );
    assert_ne!(here, there);
    for (lun, to, destination) in [(0, &here, 16_384), (1, &there, 0)] {
        let (cdb, list) = extended_copy(&here, to, 0, destination, 8192);
        host.write(0, &cdb, list);
        let copy = host.read(lun, &read_16(destination, 8192), 4 * bytes);
        assert!(copy == disk, "LUN {lun}");
    }

    // Dead space goes back.
    assert!(be32(&limits, 20) >= 2048 && be32(&limits, 24) >= 1);
    let mut list = vec![0; 24];
    list[..2].copy_from_slice(&22_u16.to_be_bytes());
    list[2..4].copy_from_slice(&16_u16.to_be_bytes());
    list[8..16].copy_from_slice(&16_384_u64.to_be_bytes());
    list[16..20].copy_from_slice(&2048_u32.to_be_bytes());
    host.write(0, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], list);
    assert_eq!(host.read(0, &read_16(16_384, 2048), bytes), vec![0; MIB]);
    assert!(host.read(0, &read_16(18_432, 2048), bytes) == disk[MIB..2 * MIB]);
    // GET LBA STATUS: deallocated, and mapped from there on.
    let mut status = [0; 16];
    status[..2].copy_from_slice(&[0x9e, 0x12]);
    status[2..10].copy_from_slice(&16_384_u64.to_be_bytes());
    status[13] = 40;
    let status = host.read(0, &status, 40);
    assert_eq!(be32(&status, 16), 2048);
    assert_eq!((status[20] & 0x0f, status[36] & 0x0f), (1, 0));
}

#[test]
fn a_host_that_is_gone_leaves_no_reservation_behind() {
    let served = Served::start(two_cores());
    let mut one = Host::new(&served, 0, ESX_1);
    let mut two = Host::new(&served, 1, ESX_2);
    one.plain(0, &RESERVE_6);
    two.conflicts(0, &RESERVE_6, Direction::None);
    // The connection is lost, and not by a logout.
    drop(one);
    let outcome = (0..100_000).find_map(|_| {
        let outcome = two.run(0, &RESERVE_6, Direction::None);
        outcome.is_good().then_some(outcome)
    });
    assert!(outcome.is_some(), "the reservation went with its nexus");
    assert_eq!(
        two.refused(0, &[0x16, 0x01, 0, 0, 0, 0], Direction::None).0,
        0x05
    );
    two.plain(0, &RELEASE_6);
}
