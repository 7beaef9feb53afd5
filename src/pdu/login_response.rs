//! Login Response (RFC 7143 §11.13), target to initiator. The key=value pairs are the data segment.

use super::login_request::{emit_login_flags, parse_login_flags};
use super::{Bhs, CmdSn, FormatError, Isid, Itt, Opcode, Stage, StatSn, Tsih};

mod field {
    pub(super) const VERSION_MAX: usize = 2;
    pub(super) const VERSION_ACTIVE: usize = 3;
    pub(super) const STATUS_CLASS: usize = 36;
    pub(super) const STATUS_DETAIL: usize = 37;
}

/// The answer to one Login Request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoginResponse {
    pub transit: bool,
    pub continue_: bool,
    pub csg: Stage,
    /// Meaningful, and written, only with `transit`; [`Stage::SecurityNegotiation`] otherwise.
    pub nsg: Stage,
    pub version_max: u8,
    pub version_active: u8,
    pub isid: Isid,
    /// The new session's handle in the final response of a leading login, else an echo.
    pub tsih: Tsih,
    pub itt: Itt,
    pub stat_sn: StatSn,
    pub exp_cmd_sn: CmdSn,
    pub max_cmd_sn: CmdSn,
    pub status: LoginStatus,
}

/// Status-Class and Status-Detail (RFC 7143 §11.13.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LoginStatus {
    /// 0 success, 1 redirection, 2 initiator error, 3 target error.
    pub class: u8,
    pub detail: u8,
}

impl LoginStatus {
    pub const SUCCESS: Self = Self::new(0, 0x00);
    pub const TARGET_MOVED_TEMPORARILY: Self = Self::new(1, 0x01);
    pub const TARGET_MOVED_PERMANENTLY: Self = Self::new(1, 0x02);
    pub const INITIATOR_ERROR: Self = Self::new(2, 0x00);
    pub const AUTHENTICATION_FAILURE: Self = Self::new(2, 0x01);
    pub const AUTHORIZATION_FAILURE: Self = Self::new(2, 0x02);
    pub const NOT_FOUND: Self = Self::new(2, 0x03);
    pub const TARGET_REMOVED: Self = Self::new(2, 0x04);
    pub const UNSUPPORTED_VERSION: Self = Self::new(2, 0x05);
    pub const TOO_MANY_CONNECTIONS: Self = Self::new(2, 0x06);
    pub const MISSING_PARAMETER: Self = Self::new(2, 0x07);
    pub const CANNOT_INCLUDE_IN_SESSION: Self = Self::new(2, 0x08);
    pub const SESSION_TYPE_NOT_SUPPORTED: Self = Self::new(2, 0x09);
    pub const SESSION_DOES_NOT_EXIST: Self = Self::new(2, 0x0a);
    pub const INVALID_DURING_LOGIN: Self = Self::new(2, 0x0b);
    pub const TARGET_ERROR: Self = Self::new(3, 0x00);
    pub const SERVICE_UNAVAILABLE: Self = Self::new(3, 0x01);
    pub const OUT_OF_RESOURCES: Self = Self::new(3, 0x02);

    pub const fn new(class: u8, detail: u8) -> Self {
        Self { class, detail }
    }

    pub const fn is_success(self) -> bool {
        self.class == 0
    }
}

impl LoginResponse {
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
            version_active: bhs.u8_at::<{ field::VERSION_ACTIVE }>(),
            isid: bhs.isid(),
            tsih: bhs.tsih(),
            itt: bhs.initiator_task_tag(),
            stat_sn: bhs.stat_sn(),
            exp_cmd_sn: bhs.exp_cmd_sn(),
            max_cmd_sn: bhs.max_cmd_sn(),
            status: LoginStatus::new(
                bhs.u8_at::<{ field::STATUS_CLASS }>(),
                bhs.u8_at::<{ field::STATUS_DETAIL }>(),
            ),
        })
    }

    /// The header; lengths are set with [`Bhs::with_lengths`].
    pub fn emit(&self) -> Bhs {
        let mut bhs = Bhs::blank(Opcode::LoginResponse);
        bhs.set_flags(emit_login_flags(
            self.transit,
            self.continue_,
            self.csg,
            self.nsg,
        ));
        bhs.put_u8::<{ field::VERSION_MAX }>(self.version_max);
        bhs.put_u8::<{ field::VERSION_ACTIVE }>(self.version_active);
        bhs.set_isid(self.isid);
        bhs.set_tsih(self.tsih);
        bhs.set_initiator_task_tag(self.itt);
        bhs.set_stat_sn(self.stat_sn);
        bhs.set_exp_cmd_sn(self.exp_cmd_sn);
        bhs.set_max_cmd_sn(self.max_cmd_sn);
        bhs.put_u8::<{ field::STATUS_CLASS }>(self.status.class);
        bhs.put_u8::<{ field::STATUS_DETAIL }>(self.status.detail);
        bhs
    }
}
