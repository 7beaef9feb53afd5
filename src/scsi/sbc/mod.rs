//! Block commands (SBC-3), one file each.
//!
//! What they share stands here: where a CDB has its address and length, the range checks, and the
//! cutting of long work into pieces. The order of the checks is the same everywhere: the range
//! against the capacity first, then the length against what we advertise in VPD page B0h.

pub mod compare_and_write;
pub mod get_lba_status;
pub mod or_write;
pub mod pre_fetch;
pub mod prevent_allow_medium_removal;
pub mod read;
pub mod read_capacity;
pub mod read_defect_data;
pub mod sanitize;
pub mod start_stop_unit;
pub mod synchronize_cache;
pub mod unmap;
pub mod verify;
pub mod write;
pub mod write_and_verify;
pub mod write_atomic;
pub mod write_same;

use super::cdb::Cdb;
use super::sense::{AdditionalSense, Sense};
use super::task::MAX_TRANSFER_BYTES;
use super::unit::LogicalUnit;

/// Most bytes of scratch buffer that a command works in at a time.
const PIECE_BYTES_MAX: u32 = 256 * 1024;

/// Where the byte of flags (protection, DPO, FUA and the like) stands in a CDB.
const FLAGS_AT: usize = 1;
/// The same in the 32-byte form.
const FLAGS_AT_32: usize = 10;

/// The address and length fields of a block command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Extent {
    lba: u64,
    /// The length field as it stands; what zero means is the command's own affair.
    blocks: u32,
    /// Where the length field is, for the field pointer.
    length_at: u16,
}

impl Extent {
    /// Reads the fields of the 6, 10, 12 and 16 byte forms, which are in the same place for all
    /// commands of a form (SPC-4, CDB formats). In the 6-byte form zero means 256 blocks (SBC-3
    /// READ (6)).
    fn parse(cdb: &Cdb) -> Self {
        match cdb.group() {
            0 => {
                let blocks = match cdb.u8(4) {
                    0 => 256,
                    blocks => u32::from(blocks),
                };
                Self {
                    lba: u64::from(cdb.be24(1) & 0x1f_ffff),
                    blocks,
                    length_at: 4,
                }
            }
            4 => Self {
                lba: cdb.be64(2),
                blocks: cdb.be32(10),
                length_at: 10,
            },
            5 => Self {
                lba: u64::from(cdb.be32(2)),
                blocks: cdb.be32(6),
                length_at: 6,
            },
            _ => Self {
                lba: u64::from(cdb.be32(2)),
                blocks: u32::from(cdb.be16(7)),
                length_at: 7,
            },
        }
    }

    /// Reads the fields of the 32-byte form (SBC-3, READ (32) and its like).
    fn parse_32(cdb: &Cdb) -> Self {
        Self {
            lba: cdb.be64(12),
            blocks: cdb.be32(28),
            length_at: 28,
        }
    }

    /// The range must end at or before the capacity, also when it is empty (SBC-3), else
    /// LOGICAL BLOCK ADDRESS OUT OF RANGE.
    fn check_range(&self, unit: &LogicalUnit) -> Result<(), Sense> {
        check_range(unit.info().blocks, self.lba, u64::from(self.blocks))
    }

    /// The length in bytes, which must not exceed MAXIMUM TRANSFER LENGTH (SBC-3, VPD B0h), else
    /// INVALID FIELD IN CDB.
    fn transfer_bytes(&self, unit: &LogicalUnit) -> Result<u32, Sense> {
        self.blocks
            .checked_mul(unit.block_size())
            .filter(|bytes| *bytes <= MAX_TRANSFER_BYTES)
            .ok_or_else(|| self.length_error())
    }

    fn length_error(&self) -> Sense {
        Sense::invalid_field_in_cdb(self.length_at, None)
    }
}

/// Checks a range against a capacity, all in blocks.
fn check_range(capacity: u64, lba: u64, blocks: u64) -> Result<(), Sense> {
    match lba.checked_add(blocks) {
        Some(end) if end <= capacity => Ok(()),
        _ => Err(Sense::illegal_request(AdditionalSense::LBA_OUT_OF_RANGE)),
    }
}

/// The initiator's data are fewer than the CDB asks for and do not end with a block: nothing can be
/// done with a part of a block, so nothing is done at all.
const CUT_WITHIN_A_BLOCK: Sense =
    Sense::illegal_request(AdditionalSense::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT);

/// Walks a range in pieces that fit one scratch buffer; all are of one size but the last, which may
/// be shorter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Pieces {
    lba: u64,
    blocks: u32,
    piece: u32,
    next: u32,
}

/// One step of the walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    lba: u64,
    /// Blocks from the beginning of the range.
    offset: u32,
    blocks: u32,
}

impl Pieces {
    /// `block_size` is at most [`PIECE_BYTES_MAX`].
    fn new(lba: u64, blocks: u32, block_size: u32) -> Self {
        let piece = blocks.min(PIECE_BYTES_MAX / block_size).max(1);
        Self {
            lba,
            blocks,
            piece,
            next: 0,
        }
    }

    /// Blocks in the largest piece, which is the first.
    fn piece_blocks(&self) -> u32 {
        self.piece
    }

    fn advance(&mut self) -> Option<Piece> {
        let offset = self.next;
        let blocks = self.piece.min(self.blocks - offset);
        if blocks == 0 {
            return None;
        }
        self.next += blocks;
        Some(Piece {
            lba: self.lba + u64::from(offset),
            offset,
            blocks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::testbed;
    use proptest::prelude::*;

    fn unit(blocks: u64) -> LogicalUnit {
        LogicalUnit::new(testbed::identity(), testbed::info(512, blocks), false)
    }

    fn extent(bytes: &[u8]) -> Extent {
        let mut cdb = [0; 16];
        cdb[..bytes.len()].copy_from_slice(bytes);
        Extent::parse(&Cdb::new(&cdb))
    }

    #[test]
    fn each_form_has_its_fields_in_its_own_place() {
        assert_eq!(
            extent(&[0x08, 0xff, 2, 3, 0, 0]),
            Extent {
                lba: 0x1f_0203,
                blocks: 256,
                length_at: 4
            }
        );
        assert_eq!(
            extent(&[0x28, 0, 1, 2, 3, 4, 0, 5, 6, 0]),
            Extent {
                lba: 0x0102_0304,
                blocks: 0x0506,
                length_at: 7
            }
        );
        assert_eq!(
            extent(&[0xa8, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
            Extent {
                lba: 0x0102_0304,
                blocks: 0x0506_0708,
                length_at: 6
            }
        );
        assert_eq!(
            extent(&[0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
            Extent {
                lba: 0x0102_0304_0506_0708,
                blocks: 0x090a_0b0c,
                length_at: 10
            }
        );
    }

    #[test]
    fn range_may_touch_the_end_and_not_pass_it() {
        assert_eq!(check_range(100, 99, 1), Ok(()));
        assert_eq!(check_range(100, 100, 0), Ok(()));
        for (lba, blocks) in [
            (100, 1),
            (101, 0),
            (99, 2),
            (u64::MAX, 1),
            (u64::MAX, u64::MAX),
        ] {
            let sense = check_range(100, lba, blocks).unwrap_err();
            assert_eq!(
                sense.additional,
                AdditionalSense::LBA_OUT_OF_RANGE,
                "{lba}+{blocks}"
            );
        }
    }

    #[test]
    fn length_over_the_maximum_transfer_names_its_field() {
        let unit = unit(u64::MAX);
        let at_most = MAX_TRANSFER_BYTES / 512;
        let extent = Extent {
            lba: 0,
            blocks: at_most,
            length_at: 10,
        };
        assert_eq!(extent.transfer_bytes(&unit), Ok(MAX_TRANSFER_BYTES));
        for blocks in [at_most + 1, u32::MAX] {
            let extent = Extent {
                lba: 0,
                blocks,
                length_at: 10,
            };
            assert_eq!(
                extent.transfer_bytes(&unit),
                Err(Sense::invalid_field_in_cdb(10, None))
            );
        }
    }

    proptest! {
        #[test]
        fn pieces_cover_the_range_and_nothing_else(
            blocks in 1_u32..5000,
            lba in 0_u64..u64::MAX / 2,
            block_size in prop::sample::select(vec![512_u32, 4096]),
        ) {
            let mut pieces = Pieces::new(lba, blocks, block_size);
            prop_assert!(pieces.piece_blocks() * block_size <= PIECE_BYTES_MAX);
            let mut covered = 0;
            while let Some(piece) = pieces.advance() {
                prop_assert!(piece.blocks > 0 && piece.blocks <= pieces.piece_blocks());
                prop_assert_eq!(piece.lba, lba + u64::from(piece.offset));
                prop_assert_eq!(piece.offset, covered);
                covered += piece.blocks;
            }
            prop_assert_eq!(covered, blocks);
        }
    }
}
