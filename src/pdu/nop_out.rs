//! NOP-Out (RFC 7143 §11.18), initiator to target: a ping, or the answer to the target's ping.

use super::bhs::FINAL;
use super::{Bhs, CmdSn, Itt, LunField, Opcode, StatSn, Ttt};

/// Ping data, if any, are the data segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NopOut {
    pub immediate: bool,
    /// Echo of the NOP-In's when it answers one.
    pub lun: LunField,
    /// [`Itt::RESERVED`] when no answer is wanted.
    pub itt: Itt,
    /// Echo of the NOP-In's when it answers one, else [`Ttt::RESERVED`].
    pub ttt: Ttt,
    pub cmd_sn: CmdSn,
    pub exp_stat_sn: StatSn,
}

impl NopOut {
    pub fn parse(bhs: &Bhs) -> Self {
        Self {
            immediate: bhs.immediate(),
            lun: bhs.lun(),
            itt: bhs.initiator_task_tag(),
            ttt: bhs.target_transfer_tag(),
            cmd_sn: bhs.cmd_sn(),
            exp_stat_sn: bhs.exp_stat_sn(),
        }
    }

    /// The header; lengths are set with [`Bhs::with_lengths`].
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::blank(Opcode::NopOut);
        bhs.set_immediate(self.immediate);
        bhs.set_flags(FINAL);
        bhs.set_lun(self.lun);
        bhs.set_initiator_task_tag(self.itt);
        bhs.set_target_transfer_tag(self.ttt);
        bhs.set_cmd_sn(self.cmd_sn);
        bhs.set_exp_stat_sn(self.exp_stat_sn);
        bhs
    }
}
