//! SNACK Request (RFC 7143 §11.16), initiator to target: asks for PDUs again, or acknowledges them.
//! Only for error recovery levels above 0.

use super::bhs::FINAL;
use super::{Bhs, FormatError, Itt, LunField, Opcode, StatSn, Ttt};

mod field {
    pub(super) const BEG_RUN: usize = 40;
    pub(super) const RUN_LENGTH: usize = 44;
}

const TYPE_MASK: u8 = 0x0f;

/// A run of PDUs that are missing or acknowledged. It carries no CmdSN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snack {
    pub type_: SnackType,
    /// Only for [`SnackType::DataAck`].
    pub lun: LunField,
    /// The task whose data are meant; reserved for status and DataACK.
    pub itt: Itt,
    /// Target Transfer Tag of a DataACK, or the SNACK Tag of an R-Data SNACK.
    pub ttt: Ttt,
    pub exp_stat_sn: StatSn,
    /// First DataSN, R2TSN or StatSN concerned.
    pub beg_run: u32,
    /// How many; zero means all from `beg_run` on.
    pub run_length: u32,
}

/// RFC 7143 §11.16.1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum SnackType {
    DataOrR2t = 0,
    Status = 1,
    DataAck = 2,
    RData = 3,
}

impl SnackType {
    fn parse(wire: u8) -> Result<Self, FormatError> {
        match wire {
            0 => Ok(Self::DataOrR2t),
            1 => Ok(Self::Status),
            2 => Ok(Self::DataAck),
            3 => Ok(Self::RData),
            reserved => Err(FormatError::ReservedSnackType(reserved)),
        }
    }
}

impl Snack {
    /// # Errors
    /// [`FormatError::ReservedSnackType`].
    pub fn parse(bhs: &Bhs) -> Result<Self, FormatError> {
        Ok(Self {
            type_: SnackType::parse(bhs.flags() & TYPE_MASK)?,
            lun: bhs.lun(),
            itt: bhs.initiator_task_tag(),
            ttt: bhs.target_transfer_tag(),
            exp_stat_sn: bhs.exp_stat_sn(),
            beg_run: bhs.u32_at::<{ field::BEG_RUN }>(),
            run_length: bhs.u32_at::<{ field::RUN_LENGTH }>(),
        })
    }

    /// The header; no data segment follows.
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::blank(Opcode::Snack);
        bhs.set_flags(FINAL | self.type_ as u8);
        bhs.set_lun(self.lun);
        bhs.set_initiator_task_tag(self.itt);
        bhs.set_target_transfer_tag(self.ttt);
        bhs.set_exp_stat_sn(self.exp_stat_sn);
        bhs.put_u32::<{ field::BEG_RUN }>(self.beg_run);
        bhs.put_u32::<{ field::RUN_LENGTH }>(self.run_length);
        bhs
    }
}
