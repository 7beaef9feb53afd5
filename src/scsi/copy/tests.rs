//! Third-party copies on two disks in memory: what is common, and a model of both disks.

mod extended_copy;
mod tokens;

use super::{CSCD_DESCRIPTORS_MAX, SEGMENT_DESCRIPTORS_MAX};
use crate::backend::DeviceInfo;
use crate::scsi::testbed::{Answer, Bench, info};

const BLOCKS: u64 = 3000;

/// A disk of 512-byte blocks and one of `info`.
fn two_disks(info: DeviceInfo) -> Bench {
    Bench::new(BLOCKS).with_second(info)
}

fn bench() -> Bench {
    two_disks(info(512, BLOCKS))
}

/// An identification descriptor CSCD descriptor with a unit's NAA designator.
fn naa(naa: u64, block_bytes: u32) -> [u8; 32] {
    let mut cscd = [0; 32];
    cscd[..8].copy_from_slice(&[0xe4, 0, 0, 0, 1, 3, 0, 8]);
    cscd[8..16].copy_from_slice(&naa.to_be_bytes());
    cscd[28..32].copy_from_slice(&block_bytes.to_be_bytes());
    cscd
}

fn first(bench: &Bench) -> [u8; 32] {
    naa(bench.unit().identity().naa(), bench.unit().block_size())
}

fn second(bench: &Bench) -> [u8; 32] {
    let unit = &bench.second.as_ref().unwrap().unit;
    naa(unit.identity().naa(), unit.block_size())
}

/// A block device to block device segment.
#[derive(Clone, Copy, Debug)]
struct Seg {
    from: (u16, u64),
    to: (u16, u64),
    blocks: u16,
    flags: u8,
}

fn seg(from: (u16, u64), to: (u16, u64), blocks: u16) -> Seg {
    Seg {
        from,
        to,
        blocks,
        flags: 0,
    }
}

impl Seg {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0x02, self.flags, 0, 0x18];
        bytes.extend(self.from.0.to_be_bytes());
        bytes.extend(self.to.0.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(self.blocks.to_be_bytes());
        bytes.extend(self.from.1.to_be_bytes());
        bytes.extend(self.to.1.to_be_bytes());
        bytes
    }
}

fn parameter_list(header: (u8, u8), cscds: &[[u8; 32]], segments: &[Seg]) -> Vec<u8> {
    let cscds = cscds.concat();
    let segments: Vec<u8> = segments.iter().flat_map(Seg::bytes).collect();
    let mut list = vec![header.0, header.1];
    list.extend(u16::try_from(cscds.len()).unwrap().to_be_bytes());
    list.extend([0; 4]);
    list.extend(u32::try_from(segments.len()).unwrap().to_be_bytes());
    list.extend([0; 4]);
    list.extend(cscds);
    list.extend(segments);
    list
}

/// A command with a list of `bytes` bytes in CDB bytes 10 to 13.
fn cdb(opcode: u8, service_action: u8, bytes: usize) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..2].copy_from_slice(&[opcode, service_action]);
    let bytes = u32::try_from(bytes).unwrap();
    cdb[10..14].copy_from_slice(&bytes.to_be_bytes());
    cdb
}

fn send(bench: &mut Bench, list: &[u8]) -> Answer {
    bench.write(&cdb(0x83, 0x00, list.len()), list)
}

/// List identifier 1, kept.
fn copy(bench: &mut Bench, cscds: &[[u8; 32]], segments: &[Seg]) -> Answer {
    send(bench, &parameter_list((1, 0), cscds, segments))
}

/// RECEIVE COPY RESULTS of list 1.
fn receive(bench: &mut Bench, service_action: u8) -> Answer {
    let mut cdb = cdb(0x84, service_action, 1024);
    cdb[2] = 1;
    bench.read(&cdb, 1024)
}

fn be16(data: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(*data[at..].first_chunk().unwrap())
}

fn be32(data: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(*data[at..].first_chunk().unwrap())
}

fn be64(data: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(*data[at..].first_chunk().unwrap())
}

fn bytes(blocks: u64, block_size: u32) -> usize {
    usize::try_from(blocks * u64::from(block_size)).unwrap()
}

#[test]
fn third_party_copy_page_says_what_is_enforced() {
    let page = bench().read(&[0x12, 1, 0x8f, 4, 0, 0], 1024).good();
    assert_eq!(usize::from(be16(&page, 2)), page.len() - 4);
    let mut found = Vec::new();
    let mut rest = &page[4..];
    while !rest.is_empty() {
        let length = usize::from(be16(rest, 2));
        assert_eq!(length % 4, 0);
        found.push((be16(rest, 0), &rest[4..4 + length]));
        rest = &rest[4 + length..];
    }
    let kinds: Vec<_> = found.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [0, 1, 4, 8, 0x0c, 0x0106, 0x0108, 0x8001]);
    let limits = found[0].1;
    assert_eq!((limits.len(), be16(limits, 6)), (32, 64));
    assert_eq!((be32(limits, 8), be32(limits, 12)), (600, 60));
    assert_eq!(be64(limits, 16), 256 * 1024 * 1024 / 512);
    assert_eq!(
        found[1].1[..13],
        [
            12, 0x83, 3, 0x00, 0x10, 0x11, 0x84, 5, 0x00, 0x01, 0x03, 0x04, 0x07
        ]
    );
    assert_eq!(be16(found[2].1, 4), CSCD_DESCRIPTORS_MAX);
    assert_eq!(be16(found[2].1, 6), SEGMENT_DESCRIPTORS_MAX);
    assert_eq!((found[5].1.len(), found[6].1.len()), (92, 132));
    assert_eq!(be32(found[6].1, 4), 0x0001_0000);
    assert_eq!(be32(found[6].1, 4 + 64), 0xffff_0001);
    assert_eq!((found[7].1.len(), found[7].1[12]), (32, 9));
}

#[test]
fn operating_parameters_say_what_is_enforced() {
    let mut bench = bench();
    let data = receive(&mut bench, 0x03).good();
    assert_eq!(usize::try_from(be32(&data, 0)).unwrap(), data.len() - 4);
    assert_eq!((data.len(), data[4]), (46, 1));
    assert_eq!(
        (be16(&data, 8), be16(&data, 10), be32(&data, 12)),
        (CSCD_DESCRIPTORS_MAX, SEGMENT_DESCRIPTORS_MAX, 8192)
    );
    assert_eq!(be32(&data, 16), 65_535 * 4096);
    assert_eq!((data[37], &data[43..]), (9, &[2, 0x02, 0xe4][..]));
    let short = bench.read(&cdb(0x84, 0x03, 7), 1024).good();
    assert_eq!(short, data[..7]);
    assert!(bench.read(&cdb(0x84, 0x03, 0), 1024).good().is_empty());
}
