//! Task Management Function Response (RFC 7143 §11.6, RFC 7144 §4.4), target to initiator.

use super::bhs::FINAL;
use super::code::wire_code;
use super::{Bhs, CmdSn, Itt, Opcode, StatSn};

mod field {
    pub(super) const RESPONSE: usize = 2;
    pub(super) const ADDITIONAL_RESPONSE_INFORMATION: usize = 8; // three bytes
}

/// What became of a task management request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskManagementResponse {
    pub response: TaskManagementResponseCode,
    /// What QUERY ASYNCHRONOUS EVENT found (SAM-5 §7.10, RFC 7144 §4.4): UADE DEPTH and sense key,
    /// ASC, ASCQ. Zero otherwise.
    pub additional_information: [u8; 3],
    pub itt: Itt,
    pub stat_sn: StatSn,
    pub exp_cmd_sn: CmdSn,
    pub max_cmd_sn: CmdSn,
}

wire_code! {
    /// RFC 7143 §11.6.1; FUNCTION SUCCEEDED is RFC 7144 §4.4's.
    pub enum TaskManagementResponseCode {
        FunctionComplete = 0,
        TaskDoesNotExist = 1,
        LunDoesNotExist = 2,
        TaskStillAllegiant = 3,
        ReassignmentNotSupported = 4,
        FunctionNotSupported = 5,
        AuthorizationFailed = 6,
        FunctionSucceeded = 7,
        FunctionRejected = 255,
    }
}

impl TaskManagementResponse {
    pub fn parse(bhs: &Bhs) -> Self {
        Self {
            response: TaskManagementResponseCode::parse(bhs.u8_at::<{ field::RESPONSE }>()),
            additional_information: bhs.bytes_at::<{ field::ADDITIONAL_RESPONSE_INFORMATION }, 3>(),
            itt: bhs.initiator_task_tag(),
            stat_sn: bhs.stat_sn(),
            exp_cmd_sn: bhs.exp_cmd_sn(),
            max_cmd_sn: bhs.max_cmd_sn(),
        }
    }

    /// The header; no data segment follows.
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::blank(Opcode::TaskManagementResponse);
        bhs.set_flags(FINAL);
        bhs.put_u8::<{ field::RESPONSE }>(self.response.emit());
        bhs.put_bytes::<{ field::ADDITIONAL_RESPONSE_INFORMATION }, 3>(self.additional_information);
        bhs.set_initiator_task_tag(self.itt);
        bhs.set_stat_sn(self.stat_sn);
        bhs.set_exp_cmd_sn(self.exp_cmd_sn);
        bhs.set_max_cmd_sn(self.max_cmd_sn);
        bhs
    }
}
