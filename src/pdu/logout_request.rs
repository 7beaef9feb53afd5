//! Logout Request (RFC 7143 §11.14), initiator to target.

use super::bhs::FINAL;
use super::{Bhs, Cid, CmdSn, FormatError, Itt, Opcode, StatSn};

const REASON_MASK: u8 = 0x7f;

/// Asks to close a session or a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogoutRequest {
    pub immediate: bool,
    pub reason: LogoutReason,
    pub itt: Itt,
    /// The connection to close or remove; reserved for [`LogoutReason::CloseSession`].
    pub cid: Cid,
    pub cmd_sn: CmdSn,
    pub exp_stat_sn: StatSn,
}

/// RFC 7143 §11.14.1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum LogoutReason {
    CloseSession = 0,
    CloseConnection = 1,
    RemoveConnectionForRecovery = 2,
}

impl LogoutReason {
    fn parse(wire: u8) -> Result<Self, FormatError> {
        match wire {
            0 => Ok(Self::CloseSession),
            1 => Ok(Self::CloseConnection),
            2 => Ok(Self::RemoveConnectionForRecovery),
            reserved => Err(FormatError::ReservedLogoutReason(reserved)),
        }
    }
}

impl LogoutRequest {
    /// # Errors
    /// [`FormatError::ReservedLogoutReason`].
    pub fn parse(bhs: &Bhs) -> Result<Self, FormatError> {
        Ok(Self {
            immediate: bhs.immediate(),
            reason: LogoutReason::parse(bhs.flags() & REASON_MASK)?,
            itt: bhs.initiator_task_tag(),
            cid: bhs.cid(),
            cmd_sn: bhs.cmd_sn(),
            exp_stat_sn: bhs.exp_stat_sn(),
        })
    }

    /// The header; no data segment follows.
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::blank(Opcode::LogoutRequest);
        bhs.set_immediate(self.immediate);
        bhs.set_flags(FINAL | self.reason as u8);
        bhs.set_initiator_task_tag(self.itt);
        bhs.set_cid(self.cid);
        bhs.set_cmd_sn(self.cmd_sn);
        bhs.set_exp_stat_sn(self.exp_stat_sn);
        bhs
    }
}
