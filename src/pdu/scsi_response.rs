//! SCSI Response (RFC 7143 §11.4, RFC 7144 §4.2), target to initiator.
//!
//! Sense data and response data follow as the data segment: a length of two bytes, then the bytes
//! (RFC 7143 §11.4.7).

use super::bhs::FINAL;
use super::code::wire_code;
use super::{Bhs, CmdSn, FormatError, Itt, Opcode, Residual, StatSn};

mod field {
    pub(super) const RESPONSE: usize = 2;
    pub(super) const STATUS: usize = 3;
    pub(super) const STATUS_QUALIFIER: usize = 8;
    pub(super) const SNACK_TAG: usize = 20;
    pub(super) const EXP_DATA_SN: usize = 36;
    pub(super) const BIDIRECTIONAL_READ_RESIDUAL_COUNT: usize = 40;
    pub(super) const RESIDUAL_COUNT: usize = 44;
}

const BIDIRECTIONAL_OVERFLOW: u8 = 0x10;
const BIDIRECTIONAL_UNDERFLOW: u8 = 0x08;
const OVERFLOW: u8 = 0x04;
const UNDERFLOW: u8 = 0x02;

/// The end of a SCSI command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScsiResponse {
    pub response: ScsiResponseCode,
    /// SAM-5 status byte; meaningful only when `response` is
    /// [`ScsiResponseCode::CompletedAtTarget`].
    pub status: u8,
    /// SAM-5 §5.3.2 (RFC 7144 §4.2); zero, for it is reserved, unless iSCSIProtocolLevel is 2 or
    /// more.
    pub status_qualifier: u16,
    pub residual: Residual,
    /// Of the read half of a bidirectional command.
    pub bidi_residual: Residual,
    pub itt: Itt,
    /// RFC 7143 §11.4.6; zero unless the initiator sent an R-Data SNACK for this task.
    pub snack_tag: u32,
    pub stat_sn: StatSn,
    pub exp_cmd_sn: CmdSn,
    pub max_cmd_sn: CmdSn,
    /// How many R2T and Data-In PDUs the target sent for the command (RFC 7143 §11.4.8).
    pub exp_data_sn: u32,
}

wire_code! {
    /// Service response of the iSCSI layer (RFC 7143 §11.4.3).
    pub enum ScsiResponseCode {
        CompletedAtTarget = 0x00,
        TargetFailure = 0x01,
    }
}

impl ScsiResponse {
    /// # Errors
    /// [`FormatError::ContradictoryResidual`].
    pub fn parse(bhs: &Bhs) -> Result<Self, FormatError> {
        let flags = bhs.flags();
        Ok(Self {
            response: ScsiResponseCode::parse(bhs.u8_at::<{ field::RESPONSE }>()),
            status: bhs.u8_at::<{ field::STATUS }>(),
            status_qualifier: bhs.u16_at::<{ field::STATUS_QUALIFIER }>(),
            residual: Residual::parse(
                flags & OVERFLOW != 0,
                flags & UNDERFLOW != 0,
                bhs.u32_at::<{ field::RESIDUAL_COUNT }>(),
            )?,
            bidi_residual: Residual::parse(
                flags & BIDIRECTIONAL_OVERFLOW != 0,
                flags & BIDIRECTIONAL_UNDERFLOW != 0,
                bhs.u32_at::<{ field::BIDIRECTIONAL_READ_RESIDUAL_COUNT }>(),
            )?,
            itt: bhs.initiator_task_tag(),
            snack_tag: bhs.u32_at::<{ field::SNACK_TAG }>(),
            stat_sn: bhs.stat_sn(),
            exp_cmd_sn: bhs.exp_cmd_sn(),
            max_cmd_sn: bhs.max_cmd_sn(),
            exp_data_sn: bhs.u32_at::<{ field::EXP_DATA_SN }>(),
        })
    }

    /// The header; lengths are set with [`Bhs::with_lengths`].
    #[inline]
    pub fn emit(&self) -> Bhs {
        let (flags, count) = self.residual.emit(OVERFLOW, UNDERFLOW);
        let (bidi_flags, bidi_count) = self
            .bidi_residual
            .emit(BIDIRECTIONAL_OVERFLOW, BIDIRECTIONAL_UNDERFLOW);
        let mut bhs = Bhs::blank(Opcode::ScsiResponse);
        bhs.set_flags(FINAL | flags | bidi_flags);
        bhs.put_u8::<{ field::RESPONSE }>(self.response.emit());
        bhs.put_u8::<{ field::STATUS }>(self.status);
        bhs.put_u16::<{ field::STATUS_QUALIFIER }>(self.status_qualifier);
        bhs.set_initiator_task_tag(self.itt);
        bhs.put_u32::<{ field::SNACK_TAG }>(self.snack_tag);
        bhs.set_stat_sn(self.stat_sn);
        bhs.set_exp_cmd_sn(self.exp_cmd_sn);
        bhs.set_max_cmd_sn(self.max_cmd_sn);
        bhs.put_u32::<{ field::EXP_DATA_SN }>(self.exp_data_sn);
        bhs.put_u32::<{ field::BIDIRECTIONAL_READ_RESIDUAL_COUNT }>(bidi_count);
        bhs.put_u32::<{ field::RESIDUAL_COUNT }>(count);
        bhs
    }
}
