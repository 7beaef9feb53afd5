//! Asynchronous Message (RFC 7143 §11.9), target to initiator: something happened that no command
//! asked about.

use super::bhs::FINAL;
use super::code::wire_code;
use super::{Bhs, CmdSn, Itt, LunField, Opcode, StatSn};

mod field {
    pub(super) const ASYNC_EVENT: usize = 36;
    pub(super) const ASYNC_VCODE: usize = 37;
    pub(super) const PARAMETER_1: usize = 38;
    pub(super) const PARAMETER_2: usize = 40;
    pub(super) const PARAMETER_3: usize = 42;
}

/// An event of the target. Its meaning of the three parameters is in RFC 7143 §11.9.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AsyncMessage {
    /// The logical unit concerned; reserved for events of the target.
    pub lun: LunField,
    pub stat_sn: StatSn,
    pub exp_cmd_sn: CmdSn,
    pub max_cmd_sn: CmdSn,
    pub event: AsyncEvent,
    /// Connection events: the CID.
    pub parameter1: u16,
    /// Connection events: Time2Wait in seconds.
    pub parameter2: u16,
    /// Connection events: Time2Retain in seconds; requests: seconds to comply.
    pub parameter3: u16,
    /// Only for vendor-specific events.
    pub vcode: u8,
}

wire_code! {
    /// RFC 7143 §11.9.1.
    pub enum AsyncEvent {
        /// Sense data follow as the data segment.
        ScsiEvent = 0,
        LogoutRequested = 1,
        ConnectionDropped = 2,
        AllConnectionsDropped = 3,
        NegotiationRequested = 4,
        TasksTerminated = 5,
        VendorSpecific = 255,
    }
}

impl AsyncMessage {
    pub fn parse(bhs: &Bhs) -> Self {
        Self {
            lun: bhs.lun(),
            stat_sn: bhs.stat_sn(),
            exp_cmd_sn: bhs.exp_cmd_sn(),
            max_cmd_sn: bhs.max_cmd_sn(),
            event: AsyncEvent::parse(bhs.u8_at::<{ field::ASYNC_EVENT }>()),
            parameter1: bhs.u16_at::<{ field::PARAMETER_1 }>(),
            parameter2: bhs.u16_at::<{ field::PARAMETER_2 }>(),
            parameter3: bhs.u16_at::<{ field::PARAMETER_3 }>(),
            vcode: bhs.u8_at::<{ field::ASYNC_VCODE }>(),
        }
    }

    /// The header; lengths are set with [`Bhs::with_lengths`]. The Initiator Task Tag is the
    /// reserved one.
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::blank(Opcode::AsyncMessage);
        bhs.set_flags(FINAL);
        bhs.set_lun(self.lun);
        bhs.set_initiator_task_tag(Itt::RESERVED);
        bhs.set_stat_sn(self.stat_sn);
        bhs.set_exp_cmd_sn(self.exp_cmd_sn);
        bhs.set_max_cmd_sn(self.max_cmd_sn);
        bhs.put_u8::<{ field::ASYNC_EVENT }>(self.event.emit());
        bhs.put_u8::<{ field::ASYNC_VCODE }>(self.vcode);
        bhs.put_u16::<{ field::PARAMETER_1 }>(self.parameter1);
        bhs.put_u16::<{ field::PARAMETER_2 }>(self.parameter2);
        bhs.put_u16::<{ field::PARAMETER_3 }>(self.parameter3);
        bhs
    }
}
