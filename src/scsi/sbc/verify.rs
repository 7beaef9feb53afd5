//! VERIFY (10), (12), (16) and (32) (SBC-3).
//!
//! The blocks are read in pieces of a scratch buffer, so that what cannot be read is found, and
//! with BYTCHK compared with what the initiator sends:
//!
//! | BYTCHK | data-out                | compared with          |
//! |--------|-------------------------|------------------------|
//! | 00b    | none                    | nothing                |
//! | 01b    | as many blocks as asked | each its own block     |
//! | 10b    | refused                 | (not defined)          |
//! | 11b    | one block               | every block            |
//!
//! VRPROTECT must be zero, since the unit has no protection information; DPO is a hint that we need
//! not take. The first difference ends the command with MISCOMPARE, and INFORMATION holds its
//! offset in the data-out buffer in bytes (SBC-3, VERIFY).

use super::{CUT_WITHIN_A_BLOCK, Extent, FLAGS_AT, FLAGS_AT_32, Piece, Pieces};
use crate::backend::Operation;
use crate::mem::DmaBuf;
use crate::scsi::sense::{self, Access, AdditionalSense, Sense, SenseKey};
use crate::scsi::task::{Begin, Event, Machine, Step, Task, Transfer, UnitCall, wrong_event};

/// A VERIFY that is under way.
#[derive(Debug)]
pub struct Verify {
    check: ByteCheck,
    block_size: u32,
    pieces: Pieces,
    /// The piece that is being read.
    reading: Option<Piece>,
    data_out: Option<DmaBuf>,
}

/// The BYTCHK field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ByteCheck {
    None,
    EachBlock,
    OneBlock,
}

pub(in crate::scsi) fn start(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let check = ByteCheck::parse(cdb.u8(FLAGS_AT), 1)?;
    begin(call, Extent::parse(cdb), check)
}

pub(in crate::scsi) fn start_32(call: &mut UnitCall<'_>) -> Begin {
    let cdb = &call.command.cdb;
    let check = ByteCheck::parse(cdb.u8(FLAGS_AT_32), 10)?;
    begin(call, Extent::parse_32(cdb), check)
}

impl ByteCheck {
    /// Reads the field from the byte of flags, which stands at `at`.
    fn parse(flags: u8, at: u16) -> Result<Self, Sense> {
        match flags >> 1 & 0b11 {
            0b00 => Ok(Self::None),
            0b01 => Ok(Self::EachBlock),
            0b11 => Ok(Self::OneBlock),
            _ => Err(Sense::invalid_field_in_cdb(at, Some(2))),
        }
    }
}

fn begin(call: &UnitCall<'_>, extent: Extent, check: ByteCheck) -> Begin {
    let command = call.command;
    let unit = call.unit;
    let block_size = unit.block_size();
    extent.check_range(unit)?;
    let bytes = extent.transfer_bytes(unit)?;
    let wanted = match check {
        ByteCheck::None => 0,
        ByteCheck::EachBlock => bytes,
        ByteCheck::OneBlock => bytes.min(block_size),
    };
    let transfer = if wanted == 0 {
        Transfer::None
    } else {
        Transfer::Out(u64::from(wanted))
    };
    let data_out_bytes = wanted.min(command.data_out_bytes);
    if data_out_bytes % block_size != 0 {
        return Task::refused(transfer, CUT_WITHIN_A_BLOCK);
    }
    // What the initiator does not send cannot be compared.
    let blocks = match check {
        ByteCheck::EachBlock => data_out_bytes / block_size,
        ByteCheck::OneBlock if data_out_bytes == 0 => 0,
        ByteCheck::None | ByteCheck::OneBlock => extent.blocks,
    };
    if blocks == 0 {
        return Task::good(transfer);
    }
    let verify = Verify::new(check, extent.lba, blocks, block_size);
    let scratch_bytes = verify.scratch_bytes();
    let step = Step::Collect {
        data_out_bytes,
        scratch_bytes,
    };
    let machine = Machine::Verify(Box::new(verify));
    Ok((Task::new(machine, transfer), step))
}

impl Verify {
    /// Verifies a range that is not empty; what is compared with comes with [`Event::Collected`].
    pub(super) fn new(check: ByteCheck, lba: u64, blocks: u32, block_size: u32) -> Self {
        Self {
            check,
            block_size,
            pieces: Pieces::new(lba, blocks, block_size),
            reading: None,
            data_out: None,
        }
    }

    /// Bytes of scratch buffer that it reads into.
    pub(super) fn scratch_bytes(&self) -> u32 {
        self.pieces.piece_blocks() * self.block_size
    }

    pub(in crate::scsi) fn resume(&mut self, event: Event) -> Result<Step, Sense> {
        match event {
            Event::Collected {
                data_out,
                scratch: Some(scratch),
            } => {
                self.data_out = data_out;
                Ok(self.read_next(scratch))
            }
            Event::Completed {
                result: Ok(()),
                buf: Some(scratch),
            } => {
                self.compare(&scratch)?;
                Ok(self.read_next(scratch))
            }
            Event::Completed {
                result: Err(error), ..
            } => Err(sense::from_io_error(error, Access::Read)),
            Event::Collected { .. }
            | Event::Completed { .. }
            | Event::Streamed(_)
            | Event::Frozen
            | Event::Changed(_) => wrong_event("VERIFY", &event),
        }
    }

    fn read_next(&mut self, mut buf: DmaBuf) -> Step {
        self.reading = self.pieces.advance();
        let Some(Piece { lba, blocks, .. }) = self.reading else {
            return Step::GOOD;
        };
        buf.truncate(bytes_of(blocks, self.block_size));
        Step::Submit(Operation::Read { lba, blocks, buf })
    }

    /// Compares the piece that was read with its counterpart.
    fn compare(&self, read: &DmaBuf) -> Result<(), Sense> {
        let (Some(piece), Some(data_out)) = (self.reading, &self.data_out) else {
            return Ok(());
        };
        let block = bytes_of(1, self.block_size);
        let difference = match self.check {
            ByteCheck::None => None,
            ByteCheck::EachBlock => {
                let from = bytes_of(piece.offset, self.block_size);
                let sent = data_out.range_slices(from, read.len());
                first_difference(sent, read.slices()).map(|offset| from + offset)
            }
            ByteCheck::OneBlock => (0..read.len() / block).find_map(|nth| {
                first_difference(data_out.slices(), read.range_slices(nth * block, block))
            }),
        };
        match difference {
            None => Ok(()),
            Some(offset) => Err(miscompare(offset)),
        }
    }
}

/// The data-out buffer and the blocks differ first at this byte of the buffer.
pub(super) fn miscompare(offset: usize) -> Sense {
    let information = u64::try_from(offset).expect("no transfer has 2^64 bytes");
    Sense::new(
        SenseKey::Miscompare,
        AdditionalSense::MISCOMPARE_DURING_VERIFY,
    )
    .with_information(information)
}

/// Bytes of `blocks` blocks, which are at most one transfer.
pub(super) fn bytes_of(blocks: u32, block_size: u32) -> usize {
    usize::try_from(u64::from(blocks) * u64::from(block_size))
        .expect("a transfer of at most MAX_TRANSFER_BYTES fits the address space")
}

/// The offset of the first byte that differs, where both have bytes, whatever the pieces are that
/// each comes in.
pub(super) fn first_difference<'a>(
    mut left: impl Iterator<Item = &'a [u8]>,
    mut right: impl Iterator<Item = &'a [u8]>,
) -> Option<usize> {
    let (mut from_left, mut from_right): (&[u8], &[u8]) = (&[], &[]);
    let mut offset = 0;
    loop {
        while from_left.is_empty() {
            from_left = left.next()?;
        }
        while from_right.is_empty() {
            from_right = right.next()?;
        }
        let len = from_left.len().min(from_right.len());
        let (head_left, tail_left) = from_left.split_at(len);
        let (head_right, tail_right) = from_right.split_at(len);
        if head_left != head_right {
            let within = head_left
                .iter()
                .zip(head_right)
                .position(|(one, other)| one != other);
            return within.map(|within| offset + within);
        }
        offset += len;
        (from_left, from_right) = (tail_left, tail_right);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::IoError;
    use crate::scsi::task::MAX_TRANSFER_BYTES;
    use crate::scsi::testbed::{Bench, Done};
    use proptest::prelude::*;

    const BLOCKS: u64 = 2000;

    fn verify_10(flags: u8, lba: u16, blocks: u16) -> [u8; 10] {
        let ([a, b], [c, d]) = (lba.to_be_bytes(), blocks.to_be_bytes());
        [0x2f, flags, 0, 0, a, b, 0, c, d, 0]
    }

    #[test]
    fn every_form_compares_the_blocks_that_it_names() {
        let mut bench = Bench::new(BLOCKS);
        let mut data = bench.disk[5 * 512..8 * 512].to_vec();
        for cdb in [
            &[0x2f, 0x02, 0, 0, 0, 5, 0, 0, 3, 0][..],
            &[0xaf, 0x02, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0],
            &[0x8f, 0x02, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0],
        ] {
            let answer = bench.write(cdb, &data);
            assert_eq!(answer.transfer, Transfer::Out(3 * 512));
            assert_eq!(answer.done, [Done::Read { lba: 5, blocks: 3 }]);
            answer.good();
            data[700] ^= 1;
            let sense = bench.write(cdb, &data).sense();
            assert_eq!(sense.key, SenseKey::Miscompare);
            data[700] ^= 1;
        }
    }

    #[test]
    fn miscompare_names_the_offset_of_the_first_difference_also_in_later_pieces() {
        let mut bench = Bench::new(BLOCKS);
        let good = bench.disk[..1100 * 512].to_vec();
        for at in [0, 511, 512, 262_143, 262_144, 1100 * 512 - 1] {
            let mut data = good.clone();
            data[at] ^= 0x58;
            data[1100 * 512 - 1] ^= 0x58;
            if at == 1100 * 512 - 1 {
                data[at] = good[at] ^ 1;
            }
            let sense = bench.write(&verify_10(0x02, 0, 1100), &data).sense();
            assert_eq!(sense.additional, AdditionalSense::MISCOMPARE_DURING_VERIFY);
            assert_eq!(sense.information, Some(u64::try_from(at).unwrap()));
        }
        let answer = bench.write(&verify_10(0x02, 0, 1100), &good);
        let pieces = [(0, 512), (512, 512), (1024, 76)];
        assert_eq!(
            answer.done,
            pieces.map(|(lba, blocks)| Done::Read { lba, blocks })
        );
        answer.good();
    }

    #[test]
    fn without_bytchk_blocks_are_read_and_data_ignored() {
        let mut bench = Bench::new(BLOCKS);
        let answer = bench.write(&verify_10(0x10, 7, 2), &[0xff; 1024]);
        assert_eq!(answer.transfer, Transfer::None);
        assert_eq!(answer.done, [Done::Read { lba: 7, blocks: 2 }]);
        answer.good();
    }

    #[test]
    fn bytchk_3_compares_one_block_with_every_block() {
        let mut bench = Bench::new(BLOCKS);
        let pattern: Vec<u8> = (0..512_u32).map(|at| at.to_le_bytes()[0]).collect();
        for block in bench.disk[..10 * 512].chunks_mut(512) {
            block.copy_from_slice(&pattern);
        }
        let answer = bench.write(&verify_10(0x06, 0, 10), &pattern);
        assert_eq!(answer.transfer, Transfer::Out(512));
        answer.good();
        bench.disk[7 * 512 + 9] ^= 1;
        let sense = bench.write(&verify_10(0x06, 0, 10), &pattern).sense();
        assert_eq!(
            (sense.key, sense.information),
            (SenseKey::Miscompare, Some(9))
        );
    }

    #[test]
    fn bytchk_2_is_an_invalid_field() {
        Bench::new(BLOCKS)
            .write(&verify_10(0x04, 0, 1), &[0; 512])
            .invalid_field(1, Some(2));
    }

    #[test]
    fn any_vrprotect_is_an_invalid_field() {
        let mut bench = Bench::new(BLOCKS);
        for protect in 1..8 {
            bench
                .write(&verify_10(protect << 5 | 2, 0, 1), &[0; 512])
                .illegal(AdditionalSense::INVALID_FIELD_IN_CDB);
        }
    }

    #[test]
    fn beyond_last_lba_reports_lba_out_of_range_also_for_zero_blocks() {
        let mut bench = Bench::new(BLOCKS);
        bench.plain(&verify_10(0x02, 2000, 0)).good();
        bench
            .plain(&verify_10(0x02, 2001, 0))
            .illegal(AdditionalSense::LBA_OUT_OF_RANGE);
        bench
            .write(&verify_10(0x02, 1999, 2), &[0; 1024])
            .illegal(AdditionalSense::LBA_OUT_OF_RANGE);
    }

    #[test]
    fn longer_than_the_maximum_transfer_points_at_the_length() {
        let mut bench = Bench::new(u64::from(MAX_TRANSFER_BYTES / 512 + 1));
        bench
            .write(&verify_10(0, 0, 8193), &[])
            .invalid_field(7, None);
    }

    #[test]
    fn only_what_the_initiator_sends_is_compared() {
        let mut bench = Bench::new(BLOCKS);
        let data = bench.disk[..512].to_vec();
        let answer = bench.write(&verify_10(0x02, 0, 2), &data);
        assert_eq!(answer.transfer, Transfer::Out(1024));
        assert_eq!(answer.done, [Done::Read { lba: 0, blocks: 1 }]);
        answer.good();
        bench
            .write(&verify_10(0x02, 0, 2), &data[..200])
            .illegal(AdditionalSense::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT);
    }

    #[test]
    fn block_that_cannot_be_read_is_a_medium_error() {
        let mut bench = Bench::new(BLOCKS);
        bench.fault = Some(IoError::Medium);
        let sense = bench.plain(&verify_10(0, 0, 1)).sense();
        assert_eq!(sense.additional, AdditionalSense::UNRECOVERED_READ_ERROR);
    }

    proptest! {
        #[test]
        fn first_difference_does_not_depend_on_the_pieces(
            left in prop::collection::vec(0_u8..2, 1..60),
            right in prop::collection::vec(0_u8..2, 1..60),
            left_piece in 1_usize..9,
            right_piece in 1_usize..9,
        ) {
            let expected = left.iter().zip(&right).position(|(one, other)| one != other);
            let found = first_difference(left.chunks(left_piece), right.chunks(right_piece));
            prop_assert_eq!(found, expected);
        }
    }
}
