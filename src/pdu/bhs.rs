//! The basic header segment (RFC 7143 §11.2.1): 48 bytes that every PDU starts with.
//!
//! Here are the fields that all PDUs share, and those that stand at the same place in all requests
//! or in all responses. What a single PDU adds is in its own file, read and written through
//! `u32_at` and its kin, whose offset is a constant that is checked when the program is compiled:
//! after the type `[u8; 48]` no accessor can fail.

use super::{Cid, CmdSn, Isid, Itt, LunField, Opcode, StatSn, Tsih, Ttt, UnknownOpcode};
use std::fmt;

/// Bytes in a basic header segment.
pub const BHS_LEN: usize = 48;

/// The longest data segment that the 24 bits of DataSegmentLength can say, in bytes.
pub const DATA_SEGMENT_LENGTH_MAX: u32 = 0x00ff_ffff;

/// The longest AHS that the byte TotalAHSLength (in words of four bytes) can say, in bytes.
const TOTAL_AHS_LENGTH_MAX: usize = 255 * 4;

/// Where the shared fields stand.
mod field {
    // RFC 7143 §11.2.1, all PDUs.
    pub(super) const OPCODE: usize = 0;
    pub(super) const FLAGS: usize = 1;
    pub(super) const TOTAL_AHS_LENGTH: usize = 4;
    pub(super) const DATA_SEGMENT_LENGTH: usize = 5; // three bytes
    pub(super) const LUN: usize = 8;
    pub(super) const INITIATOR_TASK_TAG: usize = 16;
    // All PDUs that have one.
    pub(super) const TARGET_TRANSFER_TAG: usize = 20;
    // Login and Logout, RFC 7143 §11.12 to §11.14.
    pub(super) const ISID: usize = 8;
    pub(super) const TSIH: usize = 14;
    pub(super) const CID: usize = 20;
    // Requests, RFC 7143 §4.2.2.
    pub(super) const CMD_SN: usize = 24;
    pub(super) const EXP_STAT_SN: usize = 28;
    // Responses, RFC 7143 §4.2.2.
    pub(super) const STAT_SN: usize = 24;
    pub(super) const EXP_CMD_SN: usize = 28;
    pub(super) const MAX_CMD_SN: usize = 32;
}

/// Immediate delivery, in the first byte of requests.
const IMMEDIATE: u8 = 0x40;

/// The top bit of the second byte: F (final) where a PDU has it, T (transit) in Login, and written
/// as one in the PDUs that have neither.
pub(super) const FINAL: u8 = 0x80;

/// `bit` if `on`, else nothing: one term of a flag byte.
#[inline]
pub(super) const fn flag(on: bool, bit: u8) -> u8 {
    if on { bit } else { 0 }
}

/// The 48 bytes, and what all PDUs have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bhs([u8; BHS_LEN]);

/// How many zero bytes follow a segment of `length` bytes so that the next one starts at a multiple
/// of four (RFC 7143 §11.1): 0 to 3.
#[inline]
pub const fn pad_length(length: u32) -> u32 {
    length.wrapping_neg() & 3
}

impl Bhs {
    /// A header as received.
    #[inline]
    pub const fn new(bytes: [u8; BHS_LEN]) -> Self {
        Self(bytes)
    }

    /// A header with this opcode and everything else zero.
    #[inline]
    pub(super) const fn blank(opcode: Opcode) -> Self {
        let mut bytes = [0; BHS_LEN];
        bytes[field::OPCODE] = opcode.emit();
        Self(bytes)
    }

    /// The bytes for the wire.
    #[inline]
    pub const fn bytes(&self) -> &[u8; BHS_LEN] {
        &self.0
    }

    /// What kind of PDU this is; vendor-specific and undefined opcodes are an error to be rejected.
    #[inline]
    pub const fn opcode(&self) -> Result<Opcode, UnknownOpcode> {
        Opcode::parse(self.0[field::OPCODE])
    }

    /// The I bit (RFC 7143 §11.2.1.1): the request is delivered at once and does not advance CmdSN.
    #[inline]
    pub const fn immediate(&self) -> bool {
        self.0[field::OPCODE] & IMMEDIATE != 0
    }

    /// Length of all additional header segments in bytes, a multiple of four, at most 1020.
    #[inline]
    pub fn total_ahs_length(&self) -> usize {
        usize::from(self.0[field::TOTAL_AHS_LENGTH]) * 4
    }

    /// Length of the data segment in bytes without its padding, at most
    /// [`DATA_SEGMENT_LENGTH_MAX`].
    #[inline]
    pub fn data_segment_length(&self) -> u32 {
        let [high, middle, low] = self.bytes_at::<{ field::DATA_SEGMENT_LENGTH }, 3>();
        u32::from_be_bytes([0, high, middle, low])
    }

    /// Length of the data segment in bytes with its padding: a multiple of four.
    #[inline]
    pub fn padded_data_length(&self) -> u32 {
        let length = self.data_segment_length();
        length + pad_length(length)
    }

    /// The LUN, in the PDUs that have one.
    #[inline]
    pub fn lun(&self) -> LunField {
        LunField(self.bytes_at::<{ field::LUN }, 8>())
    }

    #[inline]
    pub fn initiator_task_tag(&self) -> Itt {
        Itt(self.u32_at::<{ field::INITIATOR_TASK_TAG }>())
    }

    /// The Target Transfer Tag, in the PDUs that have one.
    #[inline]
    pub fn target_transfer_tag(&self) -> Ttt {
        Ttt(self.u32_at::<{ field::TARGET_TRANSFER_TAG }>())
    }

    /// CmdSN of a request that is a command (not of Data-Out and SNACK).
    #[inline]
    pub fn cmd_sn(&self) -> CmdSn {
        CmdSn(self.u32_at::<{ field::CMD_SN }>())
    }

    /// ExpStatSN of any PDU that an initiator sends.
    #[inline]
    pub fn exp_stat_sn(&self) -> StatSn {
        StatSn(self.u32_at::<{ field::EXP_STAT_SN }>())
    }

    /// StatSN of any PDU that a target sends (reserved in a Data-In without status).
    #[inline]
    pub fn stat_sn(&self) -> StatSn {
        StatSn(self.u32_at::<{ field::STAT_SN }>())
    }

    /// ExpCmdSN of any PDU that a target sends.
    #[inline]
    pub fn exp_cmd_sn(&self) -> CmdSn {
        CmdSn(self.u32_at::<{ field::EXP_CMD_SN }>())
    }

    /// MaxCmdSN of any PDU that a target sends.
    #[inline]
    pub fn max_cmd_sn(&self) -> CmdSn {
        CmdSn(self.u32_at::<{ field::MAX_CMD_SN }>())
    }

    /// The same header with the lengths of what follows it.
    ///
    /// `ahs_bytes` is the padded length of all AHS together, `data_bytes` that of the data segment
    /// without padding.
    ///
    /// # Panics
    /// If `ahs_bytes` is no multiple of four or above 1020, or `data_bytes` above
    /// [`DATA_SEGMENT_LENGTH_MAX`]: both are the caller's own numbers, never a peer's.
    #[inline]
    #[must_use]
    pub fn with_lengths(mut self, ahs_bytes: usize, data_bytes: u32) -> Self {
        assert!(ahs_bytes.is_multiple_of(4) && ahs_bytes <= TOTAL_AHS_LENGTH_MAX);
        assert!(data_bytes <= DATA_SEGMENT_LENGTH_MAX);
        self.0[field::TOTAL_AHS_LENGTH] =
            u8::try_from(ahs_bytes / 4).expect("the assertion above bounds it");
        let [_, high, middle, low] = data_bytes.to_be_bytes();
        self.put_bytes::<{ field::DATA_SEGMENT_LENGTH }, 3>([high, middle, low]);
        self
    }

    #[inline]
    pub(super) fn set_immediate(&mut self, immediate: bool) {
        if immediate {
            self.0[field::OPCODE] |= IMMEDIATE;
        }
    }

    /// The second byte: F and what else the opcode keeps there.
    #[inline]
    pub(super) fn flags(&self) -> u8 {
        self.0[field::FLAGS]
    }

    #[inline]
    pub(super) fn set_flags(&mut self, flags: u8) {
        self.0[field::FLAGS] = flags;
    }

    #[inline]
    pub(super) fn isid(&self) -> Isid {
        Isid(self.bytes_at::<{ field::ISID }, 6>())
    }

    #[inline]
    pub(super) fn set_isid(&mut self, isid: Isid) {
        self.put_bytes::<{ field::ISID }, 6>(isid.0);
    }

    #[inline]
    pub(super) fn tsih(&self) -> Tsih {
        Tsih(self.u16_at::<{ field::TSIH }>())
    }

    #[inline]
    pub(super) fn set_tsih(&mut self, tsih: Tsih) {
        self.put_u16::<{ field::TSIH }>(tsih.0);
    }

    #[inline]
    pub(super) fn cid(&self) -> Cid {
        Cid(self.u16_at::<{ field::CID }>())
    }

    #[inline]
    pub(super) fn set_cid(&mut self, cid: Cid) {
        self.put_u16::<{ field::CID }>(cid.0);
    }

    #[inline]
    pub(super) fn set_lun(&mut self, lun: LunField) {
        self.put_bytes::<{ field::LUN }, 8>(lun.0);
    }

    #[inline]
    pub(super) fn set_initiator_task_tag(&mut self, itt: Itt) {
        self.put_u32::<{ field::INITIATOR_TASK_TAG }>(itt.0);
    }

    #[inline]
    pub(super) fn set_target_transfer_tag(&mut self, ttt: Ttt) {
        self.put_u32::<{ field::TARGET_TRANSFER_TAG }>(ttt.0);
    }

    #[inline]
    pub(super) fn set_cmd_sn(&mut self, cmd_sn: CmdSn) {
        self.put_u32::<{ field::CMD_SN }>(cmd_sn.0);
    }

    #[inline]
    pub(super) fn set_exp_stat_sn(&mut self, exp_stat_sn: StatSn) {
        self.put_u32::<{ field::EXP_STAT_SN }>(exp_stat_sn.0);
    }

    #[inline]
    pub(super) fn set_stat_sn(&mut self, stat_sn: StatSn) {
        self.put_u32::<{ field::STAT_SN }>(stat_sn.0);
    }

    #[inline]
    pub(super) fn set_exp_cmd_sn(&mut self, exp_cmd_sn: CmdSn) {
        self.put_u32::<{ field::EXP_CMD_SN }>(exp_cmd_sn.0);
    }

    #[inline]
    pub(super) fn set_max_cmd_sn(&mut self, max_cmd_sn: CmdSn) {
        self.put_u32::<{ field::MAX_CMD_SN }>(max_cmd_sn.0);
    }

    #[inline]
    pub(super) fn u8_at<const AT: usize>(&self) -> u8 {
        const { assert!(AT < BHS_LEN) }
        self.0[AT]
    }

    #[inline]
    pub(super) fn u16_at<const AT: usize>(&self) -> u16 {
        u16::from_be_bytes(self.bytes_at::<AT, 2>())
    }

    #[inline]
    pub(super) fn u32_at<const AT: usize>(&self) -> u32 {
        u32::from_be_bytes(self.bytes_at::<AT, 4>())
    }

    #[inline]
    pub(super) fn bytes_at<const AT: usize, const N: usize>(&self) -> [u8; N] {
        const { assert!(AT + N <= BHS_LEN) }
        std::array::from_fn(|i| self.0[AT + i])
    }

    #[inline]
    pub(super) fn put_u8<const AT: usize>(&mut self, value: u8) {
        const { assert!(AT < BHS_LEN) }
        self.0[AT] = value;
    }

    #[inline]
    pub(super) fn put_u16<const AT: usize>(&mut self, value: u16) {
        self.put_bytes::<AT, 2>(value.to_be_bytes());
    }

    #[inline]
    pub(super) fn put_u32<const AT: usize>(&mut self, value: u32) {
        self.put_bytes::<AT, 4>(value.to_be_bytes());
    }

    #[inline]
    pub(super) fn put_bytes<const AT: usize, const N: usize>(&mut self, value: [u8; N]) {
        const { assert!(AT + N <= BHS_LEN) }
        self.0[AT..AT + N].copy_from_slice(&value);
    }
}

impl fmt::Debug for Bhs {
    /// Twelve words in hexadecimal, as the figures of RFC 7143 draw them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bhs(")?;
        for (i, byte) in self.0.iter().enumerate() {
            let gap = if i % 4 == 0 && i > 0 { " " } else { "" };
            write!(f, "{gap}{byte:02x}")?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::{
        AsyncMessage, FormatError, LoginRequest, LoginResponse, LogoutRequest, LogoutResponse,
        NopIn, NopOut, R2t, Reject, ScsiCommand, ScsiDataIn, ScsiDataOut, ScsiResponse, Snack,
        TaskManagementRequest, TaskManagementResponse, TextRequest, TextResponse,
    };
    use proptest::prelude::*;

    #[test]
    fn pad_fills_up_to_words() {
        assert_eq!(
            [0, 1, 2, 3, 4, 5, DATA_SEGMENT_LENGTH_MAX].map(pad_length),
            [0, 3, 2, 1, 0, 3, 1]
        );
    }

    #[test]
    fn lengths_are_read_as_they_were_set() {
        let bhs = Bhs::blank(Opcode::ScsiCommand).with_lengths(20, 0x01_0203);
        assert_eq!(bhs.bytes()[4..8], [5, 1, 2, 3]);
        assert_eq!(bhs.total_ahs_length(), 20);
        assert_eq!(bhs.data_segment_length(), 0x01_0203);
        assert_eq!(bhs.padded_data_length(), 0x01_0204);
        let longest = Bhs::new([0xff; BHS_LEN]);
        assert_eq!(longest.total_ahs_length(), 1020);
        assert_eq!(longest.padded_data_length(), 0x0100_0000);
    }

    #[test]
    #[should_panic(expected = "ahs_bytes")]
    fn ahs_that_is_no_multiple_of_four_is_a_mistake_of_the_caller() {
        let _ = Bhs::blank(Opcode::ScsiCommand).with_lengths(3, 0);
    }

    #[test]
    fn debug_groups_words() {
        let text = format!("{:?}", Bhs::blank(Opcode::Reject));
        assert!(text.starts_with("Bhs(3f000000 00000000 "), "{text}");
        assert_eq!(text.len(), "Bhs()".len() + 12 * 9 - 1);
    }

    /// Whatever parses is emitted to a header that parses to the same, has the PDU's opcode, and
    /// sets no bit that was clear, but the first of the second byte and those of a fixed or
    /// reserved tag.
    macro_rules! round_trips {
        ($($test:ident: $pdu:ident => $opcode:ident,)+) => {
            proptest! {
                $(
                    #[test]
                    fn $test(bytes in prop::array::uniform32(any::<u8>()), tail: [u8; 16]) {
                        let mut whole = [0; BHS_LEN];
                        whole[..32].copy_from_slice(&bytes);
                        whole[32..].copy_from_slice(&tail);
                        let bhs = Bhs::new(whole);
                        if let Ok(pdu) = parse_with($pdu::parse, &bhs) {
                            let bhs = pdu.emit();
                            prop_assert_eq!(bhs.opcode(), Ok(Opcode::$opcode));
                            prop_assert_eq!(parse_with($pdu::parse, &bhs), Ok(pdu));
                            prop_assert_eq!(bhs.data_segment_length(), 0);
                            for at in (20..BHS_LEN).chain(2..16) {
                                prop_assert_eq!(bhs.bytes()[at] & !whole[at], 0, "byte {}", at);
                            }
                        }
                    }
                )+
            }
        };
    }

    /// Makes the total and the failing parsers look alike.
    trait Parsed<T> {
        fn into_result(self) -> Result<T, FormatError>;
    }

    impl<T> Parsed<T> for Result<T, FormatError> {
        fn into_result(self) -> Self {
            self
        }
    }

    macro_rules! total {
        ($($pdu:ident)+) => {
            $(impl Parsed<$pdu> for $pdu {
                fn into_result(self) -> Result<Self, FormatError> {
                    Ok(self)
                }
            })+
        };
    }

    total! {
        AsyncMessage LogoutResponse NopIn NopOut R2t Reject ScsiDataOut TaskManagementRequest
        TaskManagementResponse
    }

    fn parse_with<T, P: Parsed<T>>(parse: fn(&Bhs) -> P, bhs: &Bhs) -> Result<T, FormatError> {
        parse(bhs).into_result()
    }

    round_trips! {
        nop_out: NopOut => NopOut,
        scsi_command: ScsiCommand => ScsiCommand,
        task_management_request: TaskManagementRequest => TaskManagementRequest,
        login_request: LoginRequest => LoginRequest,
        text_request: TextRequest => TextRequest,
        scsi_data_out: ScsiDataOut => ScsiDataOut,
        logout_request: LogoutRequest => LogoutRequest,
        snack: Snack => Snack,
        nop_in: NopIn => NopIn,
        scsi_response: ScsiResponse => ScsiResponse,
        task_management_response: TaskManagementResponse => TaskManagementResponse,
        login_response: LoginResponse => LoginResponse,
        text_response: TextResponse => TextResponse,
        scsi_data_in: ScsiDataIn => ScsiDataIn,
        logout_response: LogoutResponse => LogoutResponse,
        r2t: R2t => R2t,
        async_message: AsyncMessage => AsyncMessage,
        reject: Reject => Reject,
    }

    #[test]
    fn values_that_the_rfc_reserves_are_named() {
        fn with_flags(flags: u8) -> Bhs {
            let mut bhs = Bhs::blank(Opcode::NopOut);
            bhs.set_flags(flags);
            bhs
        }
        for reserved in 5..8 {
            let error = ScsiCommand::parse(&with_flags(0x80 | reserved)).unwrap_err();
            assert_eq!(error, FormatError::ReservedTaskAttribute(reserved));
        }
        let login = |flags| LoginRequest::parse(&with_flags(flags)).map(|pdu| pdu.nsg as u8);
        assert_eq!(login(0x08), Err(FormatError::ReservedStage(2)));
        assert_eq!(login(0x82), Err(FormatError::ReservedStage(2)));
        assert_eq!(
            login(0x02),
            Ok(0),
            "NSG is reserved without T, so it is ignored"
        );
        assert_eq!(login(0xc0), Err(FormatError::ContinueWithTransit));
        let text = TextRequest::parse(&with_flags(0xc0));
        assert_eq!(text, Err(FormatError::ContinueWithFinal));
        let logout = LogoutRequest::parse(&with_flags(0x83));
        assert_eq!(logout, Err(FormatError::ReservedLogoutReason(3)));
        let snack = Snack::parse(&with_flags(0x84));
        assert_eq!(snack, Err(FormatError::ReservedSnackType(4)));
        let contradictory = Err(FormatError::ContradictoryResidual);
        assert_eq!(ScsiResponse::parse(&with_flags(0x86)), contradictory);
        assert_eq!(ScsiResponse::parse(&with_flags(0x98)), contradictory);
        assert_eq!(
            ScsiDataIn::parse(&with_flags(0x87)).map(|_| ()),
            Err(FormatError::ContradictoryResidual)
        );
        assert!(
            ScsiDataIn::parse(&with_flags(0x86)).is_ok(),
            "reserved without the S bit"
        );
    }
}
