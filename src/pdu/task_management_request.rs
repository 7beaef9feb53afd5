//! Task Management Function Request (RFC 7143 §11.5, RFC 7144 §4.3), initiator to target.

use super::bhs::FINAL;
use super::code::wire_code;
use super::{Bhs, CmdSn, Itt, LunField, Opcode, StatSn};

mod field {
    pub(super) const REFERENCED_TASK_TAG: usize = 20;
    pub(super) const REF_CMD_SN: usize = 32;
    pub(super) const EXP_DATA_SN: usize = 36;
}

const FUNCTION_MASK: u8 = 0x7f;

/// Asks the target to abort tasks or to reset something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskManagementRequest {
    pub immediate: bool,
    /// Seven bits; an `Other` one is answered "function not supported", not rejected.
    pub function: TaskManagementFunction,
    pub lun: LunField,
    pub itt: Itt,
    /// The task to abort or reassign; [`Itt::RESERVED`] for the other functions.
    pub referenced_itt: Itt,
    pub cmd_sn: CmdSn,
    pub exp_stat_sn: StatSn,
    /// CmdSN of the task to abort, so that it is known also when it has not arrived yet.
    pub ref_cmd_sn: CmdSn,
    /// Only for TASK REASSIGN.
    pub exp_data_sn: u32,
}

wire_code! {
    /// Task management functions (RFC 7143 §11.5.1); from QUERY TASK on those of RFC 7144 §4.3,
    /// which there are at iSCSIProtocolLevel 2 and more.
    pub enum TaskManagementFunction {
        AbortTask = 1,
        AbortTaskSet = 2,
        ClearAca = 3,
        ClearTaskSet = 4,
        LogicalUnitReset = 5,
        TargetWarmReset = 6,
        TargetColdReset = 7,
        TaskReassign = 8,
        QueryTask = 9,
        QueryTaskSet = 10,
        ITNexusReset = 11,
        QueryAsynchronousEvent = 12,
    }
}

impl TaskManagementRequest {
    pub fn parse(bhs: &Bhs) -> Self {
        Self {
            immediate: bhs.immediate(),
            function: TaskManagementFunction::parse(bhs.flags() & FUNCTION_MASK),
            lun: bhs.lun(),
            itt: bhs.initiator_task_tag(),
            referenced_itt: Itt(bhs.u32_at::<{ field::REFERENCED_TASK_TAG }>()),
            cmd_sn: bhs.cmd_sn(),
            exp_stat_sn: bhs.exp_stat_sn(),
            ref_cmd_sn: CmdSn(bhs.u32_at::<{ field::REF_CMD_SN }>()),
            exp_data_sn: bhs.u32_at::<{ field::EXP_DATA_SN }>(),
        }
    }

    /// The header; no data segment follows.
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::blank(Opcode::TaskManagementRequest);
        bhs.set_immediate(self.immediate);
        bhs.set_flags(FINAL | self.function.emit() & FUNCTION_MASK);
        bhs.set_lun(self.lun);
        bhs.set_initiator_task_tag(self.itt);
        bhs.put_u32::<{ field::REFERENCED_TASK_TAG }>(self.referenced_itt.0);
        bhs.set_cmd_sn(self.cmd_sn);
        bhs.set_exp_stat_sn(self.exp_stat_sn);
        bhs.put_u32::<{ field::REF_CMD_SN }>(self.ref_cmd_sn.0);
        bhs.put_u32::<{ field::EXP_DATA_SN }>(self.exp_data_sn);
        bhs
    }
}
