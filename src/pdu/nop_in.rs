//! NOP-In (RFC 7143 §11.19), target to initiator: the answer to a ping, or the target's own ping.

use super::bhs::FINAL;
use super::{Bhs, CmdSn, Itt, LunField, Opcode, StatSn, Ttt};

/// An answer echoes the ping data as its data segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NopIn {
    pub lun: LunField,
    /// That of the NOP-Out, or [`Itt::RESERVED`] in the target's own ping.
    pub itt: Itt,
    /// A valid one asks for an answer; [`Ttt::RESERVED`] otherwise.
    pub ttt: Ttt,
    /// Advances only when `itt` is not the reserved one (RFC 7143 §11.19.2).
    pub stat_sn: StatSn,
    pub exp_cmd_sn: CmdSn,
    pub max_cmd_sn: CmdSn,
}

impl NopIn {
    pub fn parse(bhs: &Bhs) -> Self {
        Self {
            lun: bhs.lun(),
            itt: bhs.initiator_task_tag(),
            ttt: bhs.target_transfer_tag(),
            stat_sn: bhs.stat_sn(),
            exp_cmd_sn: bhs.exp_cmd_sn(),
            max_cmd_sn: bhs.max_cmd_sn(),
        }
    }

    /// The header; lengths are set with [`Bhs::with_lengths`].
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::blank(Opcode::NopIn);
        bhs.set_flags(FINAL);
        bhs.set_lun(self.lun);
        bhs.set_initiator_task_tag(self.itt);
        bhs.set_target_transfer_tag(self.ttt);
        bhs.set_stat_sn(self.stat_sn);
        bhs.set_exp_cmd_sn(self.exp_cmd_sn);
        bhs.set_max_cmd_sn(self.max_cmd_sn);
        bhs
    }
}
