//! SCSI Data-In (RFC 7143 §11.7), target to initiator: the data of a read, the last of them with
//! status.

use super::bhs::{FINAL, flag};
use super::{Bhs, CmdSn, FormatError, Itt, LunField, Opcode, Residual, StatSn, Ttt};

mod field {
    pub(super) const STATUS: usize = 3;
    pub(super) const DATA_SN: usize = 36;
    pub(super) const BUFFER_OFFSET: usize = 40;
    pub(super) const RESIDUAL_COUNT: usize = 44;
}

const ACKNOWLEDGE: u8 = 0x40;
const OVERFLOW: u8 = 0x04;
const UNDERFLOW: u8 = 0x02;
const STATUS: u8 = 0x01;

/// One piece of a read's data, which follow as the data segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScsiDataIn {
    /// The last PDU of its sequence: due together with `status` (RFC 7143 §11.7.3).
    pub final_: bool,
    /// The A bit: asks for a DataACK SNACK, at error recovery levels above 0 only.
    pub acknowledge: bool,
    /// The S bit: SAM-5 status byte and residual, so that no SCSI Response follows. Only for
    /// statuses without sense data.
    pub status: Option<(u8, Residual)>,
    /// Only with a `ttt`.
    pub lun: LunField,
    pub itt: Itt,
    /// Only with `acknowledge`, else [`Ttt::RESERVED`].
    pub ttt: Ttt,
    /// Meaningful, and written, only with `status`; zero otherwise (RFC 7143 §11.7.2).
    pub stat_sn: StatSn,
    pub exp_cmd_sn: CmdSn,
    pub max_cmd_sn: CmdSn,
    /// Counts from zero over all Data-In PDUs of the command.
    pub data_sn: u32,
    /// Where the data segment begins within the data of the command, in bytes.
    pub buffer_offset: u32,
}

impl ScsiDataIn {
    /// # Errors
    /// [`FormatError::ContradictoryResidual`].
    pub fn parse(bhs: &Bhs) -> Result<Self, FormatError> {
        let flags = bhs.flags();
        let has_status = flags & STATUS != 0;
        let status = if has_status {
            let residual = Residual::parse(
                flags & OVERFLOW != 0,
                flags & UNDERFLOW != 0,
                bhs.u32_at::<{ field::RESIDUAL_COUNT }>(),
            )?;
            Some((bhs.u8_at::<{ field::STATUS }>(), residual))
        } else {
            None
        };
        Ok(Self {
            final_: flags & FINAL != 0,
            acknowledge: flags & ACKNOWLEDGE != 0,
            status,
            lun: bhs.lun(),
            itt: bhs.initiator_task_tag(),
            ttt: bhs.target_transfer_tag(),
            stat_sn: if has_status {
                bhs.stat_sn()
            } else {
                StatSn::default()
            },
            exp_cmd_sn: bhs.exp_cmd_sn(),
            max_cmd_sn: bhs.max_cmd_sn(),
            data_sn: bhs.u32_at::<{ field::DATA_SN }>(),
            buffer_offset: bhs.u32_at::<{ field::BUFFER_OFFSET }>(),
        })
    }

    /// The header; lengths are set with [`Bhs::with_lengths`].
    #[inline]
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::blank(Opcode::ScsiDataIn);
        let mut flags = flag(self.final_, FINAL) | flag(self.acknowledge, ACKNOWLEDGE);
        if let Some((status, residual)) = self.status {
            let (residual_flags, count) = residual.emit(OVERFLOW, UNDERFLOW);
            flags |= STATUS | residual_flags;
            bhs.put_u8::<{ field::STATUS }>(status);
            bhs.put_u32::<{ field::RESIDUAL_COUNT }>(count);
            bhs.set_stat_sn(self.stat_sn);
        }
        bhs.set_flags(flags);
        bhs.set_lun(self.lun);
        bhs.set_initiator_task_tag(self.itt);
        bhs.set_target_transfer_tag(self.ttt);
        bhs.set_exp_cmd_sn(self.exp_cmd_sn);
        bhs.set_max_cmd_sn(self.max_cmd_sn);
        bhs.put_u32::<{ field::DATA_SN }>(self.data_sn);
        bhs.put_u32::<{ field::BUFFER_OFFSET }>(self.buffer_offset);
        bhs
    }
}
