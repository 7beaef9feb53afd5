//! SCSI Data-Out (RFC 7143 §11.7), initiator to target: the data of a write, solicited by an R2T or
//! not.

use super::bhs::{FINAL, flag};
use super::{Bhs, Itt, LunField, Opcode, StatSn, Ttt};

mod field {
    pub(super) const DATA_SN: usize = 36;
    pub(super) const BUFFER_OFFSET: usize = 40;
}

/// One piece of a write's data, which follow as the data segment. It carries no CmdSN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScsiDataOut {
    /// The last PDU of its sequence (of the unsolicited data, or of one R2T).
    pub final_: bool,
    /// Only with a `ttt`; it must then be that of the R2T.
    pub lun: LunField,
    pub itt: Itt,
    /// The R2T that asked for the data; [`Ttt::RESERVED`] for unsolicited data.
    pub ttt: Ttt,
    pub exp_stat_sn: StatSn,
    /// Counts from zero within the sequence.
    pub data_sn: u32,
    /// Where the data segment begins within the data of the command, in bytes.
    pub buffer_offset: u32,
}

impl ScsiDataOut {
    #[inline]
    pub fn parse(bhs: &Bhs) -> Self {
        Self {
            final_: bhs.flags() & FINAL != 0,
            lun: bhs.lun(),
            itt: bhs.initiator_task_tag(),
            ttt: bhs.target_transfer_tag(),
            exp_stat_sn: bhs.exp_stat_sn(),
            data_sn: bhs.u32_at::<{ field::DATA_SN }>(),
            buffer_offset: bhs.u32_at::<{ field::BUFFER_OFFSET }>(),
        }
    }

    /// The header; lengths are set with [`Bhs::with_lengths`].
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::blank(Opcode::ScsiDataOut);
        bhs.set_flags(flag(self.final_, FINAL));
        bhs.set_lun(self.lun);
        bhs.set_initiator_task_tag(self.itt);
        bhs.set_target_transfer_tag(self.ttt);
        bhs.set_exp_stat_sn(self.exp_stat_sn);
        bhs.put_u32::<{ field::DATA_SN }>(self.data_sn);
        bhs.put_u32::<{ field::BUFFER_OFFSET }>(self.buffer_offset);
        bhs
    }
}
