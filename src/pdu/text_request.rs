//! Text Request (RFC 7143 §11.10), initiator to target. The key=value pairs are the data segment.

use super::bhs::{FINAL, flag};
use super::{Bhs, CmdSn, FormatError, Itt, LunField, Opcode, StatSn, Ttt};

/// The text goes on in the next PDU. The same bit in Text and Login PDUs of both directions.
pub(super) const CONTINUE: u8 = 0x40;

/// One PDU of a text negotiation, or a SendTargets request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TextRequest {
    pub immediate: bool,
    pub final_: bool,
    /// The C bit: the text is not complete.
    pub continue_: bool,
    pub lun: LunField,
    pub itt: Itt,
    /// Copied from the Text Response that this one continues, [`Ttt::RESERVED`] at the start.
    pub ttt: Ttt,
    pub cmd_sn: CmdSn,
    pub exp_stat_sn: StatSn,
}

impl TextRequest {
    /// # Errors
    /// [`FormatError::ContinueWithFinal`].
    pub fn parse(bhs: &Bhs) -> Result<Self, FormatError> {
        let (final_, continue_) = parse_text_flags(bhs.flags())?;
        Ok(Self {
            immediate: bhs.immediate(),
            final_,
            continue_,
            lun: bhs.lun(),
            itt: bhs.initiator_task_tag(),
            ttt: bhs.target_transfer_tag(),
            cmd_sn: bhs.cmd_sn(),
            exp_stat_sn: bhs.exp_stat_sn(),
        })
    }

    /// The header; lengths are set with [`Bhs::with_lengths`].
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::blank(Opcode::TextRequest);
        bhs.set_immediate(self.immediate);
        bhs.set_flags(flag(self.final_, FINAL) | flag(self.continue_, CONTINUE));
        bhs.set_lun(self.lun);
        bhs.set_initiator_task_tag(self.itt);
        bhs.set_target_transfer_tag(self.ttt);
        bhs.set_cmd_sn(self.cmd_sn);
        bhs.set_exp_stat_sn(self.exp_stat_sn);
        bhs
    }
}

/// F and C of a Text PDU; both at once is an error (RFC 7143 §11.10.2 and §11.11.2).
pub(super) fn parse_text_flags(flags: u8) -> Result<(bool, bool), FormatError> {
    match (flags & FINAL != 0, flags & CONTINUE != 0) {
        (true, true) => Err(FormatError::ContinueWithFinal),
        bits => Ok(bits),
    }
}
