//! Login Request (RFC 7143 §11.12), initiator to target. The key=value pairs are the data segment.

use super::bhs::{FINAL, flag};
use super::text_request::CONTINUE;
use super::{Bhs, Cid, CmdSn, FormatError, Isid, Itt, Opcode, StatSn, Tsih};

mod field {
    pub(super) const VERSION_MAX: usize = 2;
    pub(super) const VERSION_MIN: usize = 3;
}

/// T stands where other PDUs have F.
const TRANSIT: u8 = FINAL;
const CURRENT_STAGE_SHIFT: u32 = 2;
const STAGE_MASK: u8 = 0x03;

/// One PDU of the login phase. Its first byte always carries the I bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoginRequest {
    /// The T bit: the initiator is ready to go to `nsg`.
    pub transit: bool,
    /// The C bit: the text is not complete.
    pub continue_: bool,
    pub csg: Stage,
    /// Meaningful, and written, only with `transit`; [`Stage::SecurityNegotiation`] otherwise.
    pub nsg: Stage,
    pub version_max: u8,
    pub version_min: u8,
    pub isid: Isid,
    pub tsih: Tsih,
    pub itt: Itt,
    pub cid: Cid,
    pub cmd_sn: CmdSn,
    /// Reserved in the first Login Request of a connection.
    pub exp_stat_sn: StatSn,
}

/// Login stages (RFC 7143 §11.12.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[repr(u8)]
pub enum Stage {
    #[default]
    SecurityNegotiation = 0,
    LoginOperationalNegotiation = 1,
    FullFeaturePhase = 3,
}

impl Stage {
    fn parse(wire: u8) -> Result<Self, FormatError> {
        match wire {
            0 => Ok(Self::SecurityNegotiation),
            1 => Ok(Self::LoginOperationalNegotiation),
            3 => Ok(Self::FullFeaturePhase),
            reserved => Err(FormatError::ReservedStage(reserved)),
        }
    }
}

impl LoginRequest {
    /// # Errors
    /// [`FormatError::ReservedStage`], [`FormatError::ContinueWithTransit`].
    pub fn parse(bhs: &Bhs) -> Result<Self, FormatError> {
        let (transit, continue_, csg, nsg) = parse_login_flags(bhs.flags())?;
        Ok(Self {
            transit,
            continue_,
            csg,
            nsg,
            version_max: bhs.u8_at::<{ field::VERSION_MAX }>(),
            version_min: bhs.u8_at::<{ field::VERSION_MIN }>(),
            isid: bhs.isid(),
            tsih: bhs.tsih(),
            itt: bhs.initiator_task_tag(),
            cid: bhs.cid(),
            cmd_sn: bhs.cmd_sn(),
            exp_stat_sn: bhs.exp_stat_sn(),
        })
    }

    /// The header; lengths are set with [`Bhs::with_lengths`].
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::blank(Opcode::LoginRequest);
        bhs.set_immediate(true);
        bhs.set_flags(emit_login_flags(
            self.transit,
            self.continue_,
            self.csg,
            self.nsg,
        ));
        bhs.put_u8::<{ field::VERSION_MAX }>(self.version_max);
        bhs.put_u8::<{ field::VERSION_MIN }>(self.version_min);
        bhs.set_isid(self.isid);
        bhs.set_tsih(self.tsih);
        bhs.set_initiator_task_tag(self.itt);
        bhs.set_cid(self.cid);
        bhs.set_cmd_sn(self.cmd_sn);
        bhs.set_exp_stat_sn(self.exp_stat_sn);
        bhs
    }
}

/// T, C, CSG and NSG of a Login PDU of either direction. NSG is reserved without T and then
/// ignored; C excludes T (RFC 7143 §11.12.2).
pub(super) fn parse_login_flags(flags: u8) -> Result<(bool, bool, Stage, Stage), FormatError> {
    let transit = flags & TRANSIT != 0;
    let continue_ = flags & CONTINUE != 0;
    if transit && continue_ {
        return Err(FormatError::ContinueWithTransit);
    }
    let csg = Stage::parse(flags >> CURRENT_STAGE_SHIFT & STAGE_MASK)?;
    let nsg = if transit {
        Stage::parse(flags & STAGE_MASK)?
    } else {
        Stage::default()
    };
    Ok((transit, continue_, csg, nsg))
}

/// The inverse of [`parse_login_flags`].
pub(super) fn emit_login_flags(transit: bool, continue_: bool, csg: Stage, nsg: Stage) -> u8 {
    let next = if transit { nsg as u8 } else { 0 };
    flag(transit, TRANSIT) | flag(continue_, CONTINUE) | (csg as u8) << CURRENT_STAGE_SHIFT | next
}
