//! Ready To Transfer (RFC 7143 §11.8), target to initiator: asks for a piece of a write's data.

use super::bhs::FINAL;
use super::{Bhs, CmdSn, Itt, LunField, Opcode, StatSn, Ttt};

mod field {
    pub(super) const R2T_SN: usize = 36;
    pub(super) const BUFFER_OFFSET: usize = 40;
    pub(super) const DESIRED_DATA_TRANSFER_LENGTH: usize = 44;
}

/// Room for data is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct R2t {
    pub lun: LunField,
    pub itt: Itt,
    /// Echoed by the Data-Out PDUs that answer; never [`Ttt::RESERVED`].
    pub ttt: Ttt,
    /// The StatSN that the next status will carry; an R2T does not advance it (RFC 7143 §11.8.3).
    pub stat_sn: StatSn,
    pub exp_cmd_sn: CmdSn,
    pub max_cmd_sn: CmdSn,
    /// Counts from zero over the R2Ts of the command.
    pub r2t_sn: u32,
    /// First byte wanted, within the data of the command.
    pub buffer_offset: u32,
    /// Bytes wanted: not zero and at most MaxBurstLength.
    pub desired_length: u32,
}

impl R2t {
    pub fn parse(bhs: &Bhs) -> Self {
        Self {
            lun: bhs.lun(),
            itt: bhs.initiator_task_tag(),
            ttt: bhs.target_transfer_tag(),
            stat_sn: bhs.stat_sn(),
            exp_cmd_sn: bhs.exp_cmd_sn(),
            max_cmd_sn: bhs.max_cmd_sn(),
            r2t_sn: bhs.u32_at::<{ field::R2T_SN }>(),
            buffer_offset: bhs.u32_at::<{ field::BUFFER_OFFSET }>(),
            desired_length: bhs.u32_at::<{ field::DESIRED_DATA_TRANSFER_LENGTH }>(),
        }
    }

    /// The header; no data segment follows.
    #[inline]
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::blank(Opcode::R2t);
        bhs.set_flags(FINAL);
        bhs.set_lun(self.lun);
        bhs.set_initiator_task_tag(self.itt);
        bhs.set_target_transfer_tag(self.ttt);
        bhs.set_stat_sn(self.stat_sn);
        bhs.set_exp_cmd_sn(self.exp_cmd_sn);
        bhs.set_max_cmd_sn(self.max_cmd_sn);
        bhs.put_u32::<{ field::R2T_SN }>(self.r2t_sn);
        bhs.put_u32::<{ field::BUFFER_OFFSET }>(self.buffer_offset);
        bhs.put_u32::<{ field::DESIRED_DATA_TRANSFER_LENGTH }>(self.desired_length);
        bhs
    }
}
