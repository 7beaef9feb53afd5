//! SCSI Command (RFC 7143 §11.3, RFC 7144 §4.1), initiator to target.

use super::bhs::{FINAL, flag};
use super::{Bhs, CmdSn, FormatError, Itt, LunField, Opcode, StatSn};

mod field {
    pub(super) const PRIORITY: usize = 2; // upper four bits
    pub(super) const EXPECTED_DATA_TRANSFER_LENGTH: usize = 20;
    pub(super) const CDB: usize = 32; // sixteen bytes
}

const READ: u8 = 0x40;
const WRITE: u8 = 0x20;
const ATTRIBUTE_MASK: u8 = 0x07;
const PRIORITY_SHIFT: u32 = 4;

/// A command descriptor block and how its data will travel. Immediate data follow as the data
/// segment; a CDB longer than 16 bytes goes on in an AHS ([`super::Ahs::ExtendedCdb`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScsiCommand {
    pub immediate: bool,
    /// No unsolicited Data-Out PDUs follow (RFC 7143 §11.3.1.1). The engine checks it against
    /// `write`.
    pub final_: bool,
    pub read: bool,
    pub write: bool,
    pub attribute: TaskAttribute,
    /// Command priority, 0 (none given) to 15 (RFC 7144 §4.1): reserved unless iSCSIProtocolLevel
    /// is 2 or more.
    pub priority: u8,
    pub lun: LunField,
    pub itt: Itt,
    /// Bytes that the initiator expects to transfer: of the write where both directions are set.
    pub expected_data_transfer_length: u32,
    pub cmd_sn: CmdSn,
    pub exp_stat_sn: StatSn,
    pub cdb: [u8; 16],
}

/// Task attribute (RFC 7143 §11.3.1.2, SAM-5 §8.9).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[repr(u8)]
pub enum TaskAttribute {
    #[default]
    Untagged = 0,
    Simple = 1,
    Ordered = 2,
    HeadOfQueue = 3,
    Aca = 4,
}

impl TaskAttribute {
    fn parse(wire: u8) -> Result<Self, FormatError> {
        match wire {
            0 => Ok(Self::Untagged),
            1 => Ok(Self::Simple),
            2 => Ok(Self::Ordered),
            3 => Ok(Self::HeadOfQueue),
            4 => Ok(Self::Aca),
            reserved => Err(FormatError::ReservedTaskAttribute(reserved)),
        }
    }
}

impl ScsiCommand {
    /// # Errors
    /// [`FormatError::ReservedTaskAttribute`].
    #[inline]
    pub fn parse(bhs: &Bhs) -> Result<Self, FormatError> {
        let flags = bhs.flags();
        Ok(Self {
            immediate: bhs.immediate(),
            final_: flags & FINAL != 0,
            read: flags & READ != 0,
            write: flags & WRITE != 0,
            attribute: TaskAttribute::parse(flags & ATTRIBUTE_MASK)?,
            priority: bhs.u8_at::<{ field::PRIORITY }>() >> PRIORITY_SHIFT,
            lun: bhs.lun(),
            itt: bhs.initiator_task_tag(),
            expected_data_transfer_length: bhs.u32_at::<{ field::EXPECTED_DATA_TRANSFER_LENGTH }>(),
            cmd_sn: bhs.cmd_sn(),
            exp_stat_sn: bhs.exp_stat_sn(),
            cdb: bhs.bytes_at::<{ field::CDB }, 16>(),
        })
    }

    /// The header; lengths are set with [`Bhs::with_lengths`].
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::blank(Opcode::ScsiCommand);
        bhs.set_immediate(self.immediate);
        bhs.set_flags(
            flag(self.final_, FINAL)
                | flag(self.read, READ)
                | flag(self.write, WRITE)
                | self.attribute as u8,
        );
        bhs.put_u8::<{ field::PRIORITY }>(self.priority << PRIORITY_SHIFT);
        bhs.set_lun(self.lun);
        bhs.set_initiator_task_tag(self.itt);
        bhs.put_u32::<{ field::EXPECTED_DATA_TRANSFER_LENGTH }>(self.expected_data_transfer_length);
        bhs.set_cmd_sn(self.cmd_sn);
        bhs.set_exp_stat_sn(self.exp_stat_sn);
        bhs.put_bytes::<{ field::CDB }, 16>(self.cdb);
        bhs
    }
}
