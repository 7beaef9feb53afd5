//! READ CAPACITY (10) and (16) (SBC-3).
//!
//! The address of the last block and the block size; the 16-byte form adds the physical block size
//! and what unmapped blocks read as. The LOGICAL BLOCK ADDRESS and PMI fields are obsolete: an
//! address without PMI is refused as SBC-2 had it, and with PMI the answer is the same.

use crate::scsi::sense::Sense;
use crate::scsi::task::{Begin, Task, UnitCall};

/// Bytes of READ CAPACITY (10) parameter data; the CDB has no ALLOCATION LENGTH.
const CAPACITY_10_BYTES: u32 = 8;

/// Bytes of READ CAPACITY (16) parameter data.
const CAPACITY_16_BYTES: usize = 32;

pub(in crate::scsi) fn start_10(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    if !cdb.bit(8, 0) && cdb.be32(2) != 0 {
        return Err(Sense::invalid_field_in_cdb(2, None));
    }
    // SBC-3 READ CAPACITY (10): FFFF_FFFFh tells the initiator to ask by the 16-byte form.
    call.data_in
        .put_be32(u32::try_from(last_lba(call)).unwrap_or(u32::MAX));
    call.data_in.put_be32(call.unit.block_size());
    Task::parameter_data(call.data_in, CAPACITY_10_BYTES)
}

pub(in crate::scsi) fn start_16(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    if !cdb.bit(14, 0) && cdb.be64(2) != 0 {
        return Err(Sense::invalid_field_in_cdb(2, None));
    }
    let info = call.unit.info();
    call.data_in.put_be64(last_lba(call));
    call.data_in.put_be32(info.block_size);
    call.data_in.put_u8(0); // P_TYPE, PROT_EN: no protection information
    call.data_in.put_u8(info.physical_block_exponent & 0x0f);
    let provisioning_enabled = u16::from(info.unmap) << 15;
    let reads_zeroes = u16::from(info.unmap && info.unmap_reads_zeroes) << 14;
    call.data_in.put_be16(provisioning_enabled | reads_zeroes); // LOWEST ALIGNED LBA is 0
    call.data_in
        .put_zeroes(CAPACITY_16_BYTES - call.data_in.len());
    Task::parameter_data(call.data_in, cdb.be32(10))
}

fn last_lba(call: &UnitCall<'_>) -> u64 {
    call.unit.info().blocks.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use crate::scsi::sense::SenseKey;
    use crate::scsi::task::Transfer;
    use crate::scsi::testbed::{self, Bench};
    use crate::scsi::unit::{LogicalUnit, NotReadyReason};

    const CAPACITY_10: [u8; 10] = [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    fn capacity_16(allocation_length: u8) -> [u8; 16] {
        [
            0x9e,
            0x10,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            allocation_length,
            0,
            0,
        ]
    }

    #[test]
    fn read_capacity_10_names_the_last_block_and_its_size() {
        let data = Bench::new(0x0102).read(&CAPACITY_10, 8).good();
        assert_eq!(data, [0, 0, 1, 1, 0, 0, 2, 0]);
    }

    #[test]
    fn read_capacity_10_of_a_large_disk_sends_the_initiator_to_the_16_byte_form() {
        for (blocks, expected) in [
            (1 << 32, u32::MAX),
            (u64::MAX, u32::MAX),
            (0xffff_ffff, 0xffff_fffe),
        ] {
            let unit = LogicalUnit::new(testbed::identity(), testbed::info(4096, blocks), false);
            let data = Bench::with_unit(unit).read(&CAPACITY_10, 8).good();
            assert_eq!(data[..4], expected.to_be_bytes());
        }
    }

    #[test]
    fn read_capacity_10_with_an_address_needs_pmi() {
        let mut bench = Bench::new(8);
        bench
            .read(&[0x25, 0, 0, 0, 0, 1, 0, 0, 0, 0], 8)
            .invalid_field(2, None);
        bench.read(&[0x25, 0, 0, 0, 0, 1, 0, 0, 1, 0], 8).good();
    }

    #[test]
    fn read_capacity_16_tells_physical_blocks_and_provisioning() {
        let mut expected = [0; 32];
        expected[6..8].copy_from_slice(&[1, 1]);
        expected[10] = 2;
        expected[13] = 3;
        expected[14] = 0xc0;
        assert_eq!(
            Bench::new(0x0102).read(&capacity_16(32), 32).good(),
            expected
        );
        let mut info = testbed::info(512, 0x0102);
        info.unmap = false;
        expected[14] = 0;
        assert_eq!(
            Bench::with_info(info).read(&capacity_16(32), 32).good(),
            expected
        );
    }

    #[test]
    fn read_capacity_16_is_cut_to_any_allocation_length() {
        let mut bench = Bench::new(8);
        for length in 0..=255 {
            let answer = bench.read(&capacity_16(length), 255);
            let bytes = length.min(32);
            assert_eq!(answer.transfer, Transfer::In(u64::from(bytes)));
            assert_eq!(answer.good().len(), usize::from(bytes));
        }
    }

    #[test]
    fn unit_without_a_device_has_no_capacity() {
        let unit = LogicalUnit::without_device(testbed::identity(), false, NotReadyReason::Missing);
        let sense = Bench::with_unit(unit).read(&CAPACITY_10, 8).sense();
        assert_eq!(sense.key, SenseKey::NotReady);
    }
}
