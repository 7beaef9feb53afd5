//! Text Response (RFC 7143 §11.11), target to initiator. The key=value pairs are the data segment.

use super::bhs::{FINAL, flag};
use super::text_request::{CONTINUE, parse_text_flags};
use super::{Bhs, CmdSn, FormatError, Itt, LunField, Opcode, StatSn, Ttt};

/// The answer to one Text Request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TextResponse {
    pub final_: bool,
    /// The C bit: the text is not complete.
    pub continue_: bool,
    pub lun: LunField,
    pub itt: Itt,
    /// A bookmark when the exchange goes on, [`Ttt::RESERVED`] when it is over.
    pub ttt: Ttt,
    pub stat_sn: StatSn,
    pub exp_cmd_sn: CmdSn,
    pub max_cmd_sn: CmdSn,
}

impl TextResponse {
    /// # Errors
    /// [`FormatError::ContinueWithFinal`].
    pub fn parse(bhs: &Bhs) -> Result<Self, FormatError> {
        let (final_, continue_) = parse_text_flags(bhs.flags())?;
        Ok(Self {
            final_,
            continue_,
            lun: bhs.lun(),
            itt: bhs.initiator_task_tag(),
            ttt: bhs.target_transfer_tag(),
            stat_sn: bhs.stat_sn(),
            exp_cmd_sn: bhs.exp_cmd_sn(),
            max_cmd_sn: bhs.max_cmd_sn(),
        })
    }

    /// The header; lengths are set with [`Bhs::with_lengths`].
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::blank(Opcode::TextResponse);
        bhs.set_flags(flag(self.final_, FINAL) | flag(self.continue_, CONTINUE));
        bhs.set_lun(self.lun);
        bhs.set_initiator_task_tag(self.itt);
        bhs.set_target_transfer_tag(self.ttt);
        bhs.set_stat_sn(self.stat_sn);
        bhs.set_exp_cmd_sn(self.exp_cmd_sn);
        bhs.set_max_cmd_sn(self.max_cmd_sn);
        bhs
    }
}
