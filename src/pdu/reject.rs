//! Reject (RFC 7143 §11.17), target to initiator. The header of the rejected PDU is the data
//! segment.

use super::bhs::FINAL;
use super::code::wire_code;
use super::{Bhs, CmdSn, Itt, Opcode, StatSn};

mod field {
    pub(super) const REASON: usize = 2;
    pub(super) const DATA_SN: usize = 36;
}

/// A PDU that the target will not act on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reject {
    pub reason: RejectReason,
    pub stat_sn: StatSn,
    pub exp_cmd_sn: CmdSn,
    pub max_cmd_sn: CmdSn,
    /// DataSN or R2TSN; only for rejected DataACK SNACKs (RFC 7143 §11.17.3).
    pub data_sn: u32,
}

wire_code! {
    /// RFC 7143 §11.17.1.
    pub enum RejectReason {
        DataDigestError = 0x02,
        SnackReject = 0x03,
        ProtocolError = 0x04,
        CommandNotSupported = 0x05,
        TooManyImmediateCommands = 0x06,
        TaskInProgress = 0x07,
        InvalidDataAck = 0x08,
        InvalidPduField = 0x09,
        /// The target has no Target Transfer Tag to spare for a long operation.
        LongOperation = 0x0a,
        /// Deprecated in RFC 7143.
        NegotiationReset = 0x0b,
        WaitingForLogout = 0x0c,
    }
}

impl Reject {
    pub fn parse(bhs: &Bhs) -> Self {
        Self {
            reason: RejectReason::parse(bhs.u8_at::<{ field::REASON }>()),
            stat_sn: bhs.stat_sn(),
            exp_cmd_sn: bhs.exp_cmd_sn(),
            max_cmd_sn: bhs.max_cmd_sn(),
            data_sn: bhs.u32_at::<{ field::DATA_SN }>(),
        }
    }

    /// The header; lengths are set with [`Bhs::with_lengths`]. The Initiator Task Tag is the
    /// reserved one.
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::blank(Opcode::Reject);
        bhs.set_flags(FINAL);
        bhs.put_u8::<{ field::REASON }>(self.reason.emit());
        bhs.set_initiator_task_tag(Itt::RESERVED);
        bhs.set_stat_sn(self.stat_sn);
        bhs.set_exp_cmd_sn(self.exp_cmd_sn);
        bhs.set_max_cmd_sn(self.max_cmd_sn);
        bhs.put_u32::<{ field::DATA_SN }>(self.data_sn);
        bhs
    }
}
