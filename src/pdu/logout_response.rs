//! Logout Response (RFC 7143 §11.15), target to initiator.

use super::bhs::FINAL;
use super::code::wire_code;
use super::{Bhs, CmdSn, Itt, Opcode, StatSn};

mod field {
    pub(super) const RESPONSE: usize = 2;
    pub(super) const TIME2WAIT: usize = 40;
    pub(super) const TIME2RETAIN: usize = 42;
}

/// What became of a Logout Request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogoutResponse {
    pub response: LogoutResponseCode,
    pub itt: Itt,
    pub stat_sn: StatSn,
    pub exp_cmd_sn: CmdSn,
    pub max_cmd_sn: CmdSn,
    /// Seconds to wait before the initiator reconnects (RFC 7143 §11.15.3).
    pub time2wait: u16,
    /// Seconds after that for which the target keeps the state of tasks (RFC 7143 §11.15.4).
    pub time2retain: u16,
}

wire_code! {
    /// RFC 7143 §11.15.1.
    pub enum LogoutResponseCode {
        Closed = 0,
        CidNotFound = 1,
        RecoveryNotSupported = 2,
        CleanupFailed = 3,
    }
}

impl LogoutResponse {
    pub fn parse(bhs: &Bhs) -> Self {
        Self {
            response: LogoutResponseCode::parse(bhs.u8_at::<{ field::RESPONSE }>()),
            itt: bhs.initiator_task_tag(),
            stat_sn: bhs.stat_sn(),
            exp_cmd_sn: bhs.exp_cmd_sn(),
            max_cmd_sn: bhs.max_cmd_sn(),
            time2wait: bhs.u16_at::<{ field::TIME2WAIT }>(),
            time2retain: bhs.u16_at::<{ field::TIME2RETAIN }>(),
        }
    }

    /// The header; no data segment follows.
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::blank(Opcode::LogoutResponse);
        bhs.set_flags(FINAL);
        bhs.put_u8::<{ field::RESPONSE }>(self.response.emit());
        bhs.set_initiator_task_tag(self.itt);
        bhs.set_stat_sn(self.stat_sn);
        bhs.set_exp_cmd_sn(self.exp_cmd_sn);
        bhs.set_max_cmd_sn(self.max_cmd_sn);
        bhs.put_u16::<{ field::TIME2WAIT }>(self.time2wait);
        bhs.put_u16::<{ field::TIME2RETAIN }>(self.time2retain);
        bhs
    }
}
