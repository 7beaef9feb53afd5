//! Sense data (SPC-4, sense data): what went wrong, and its two encodings.
//!
//! A [`Sense`] is a small value that is encoded only when a response is written: fixed format
//! (response code 70h) where the unit's D_SENSE bit is zero, descriptor format (72h) where it is
//! one. The fixed format has four bytes of INFORMATION; a larger value leaves VALID at zero there
//! (SPC-4, fixed format). [`from_io_error`] is the one place where device errors become sense data.

use crate::backend::IoError;

/// Room that every encoding of a [`Sense`] fits in, in bytes.
pub const SENSE_BYTES_MAX: usize = 40;

/// Bytes of fixed format sense data as we send them: ADDITIONAL SENSE LENGTH is 10.
const FIXED_BYTES: usize = 18;

/// SPC-4, the sense keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SenseKey {
    NoSense = 0x0,
    RecoveredError = 0x1,
    NotReady = 0x2,
    MediumError = 0x3,
    HardwareError = 0x4,
    IllegalRequest = 0x5,
    UnitAttention = 0x6,
    DataProtect = 0x7,
    CopyAborted = 0xa,
    AbortedCommand = 0xb,
    Miscompare = 0xe,
}

/// Additional sense code and its qualifier (SPC-4 annex of ASC and ASCQ assignments).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdditionalSense {
    pub code: u8,
    pub qualifier: u8,
}

impl AdditionalSense {
    pub const NONE: Self = Self::new(0x00, 0x00);
    pub const SPACE_ALLOCATION_IN_PROGRESS: Self = Self::new(0x04, 0x14);
    pub const LOGICAL_UNIT_NOT_READY: Self = Self::new(0x04, 0x00);
    pub const PERIPHERAL_DEVICE_WRITE_FAULT: Self = Self::new(0x03, 0x00);
    pub const BECOMING_READY: Self = Self::new(0x04, 0x01);
    pub const INITIALIZING_COMMAND_REQUIRED: Self = Self::new(0x04, 0x02);
    pub const MANUAL_INTERVENTION_REQUIRED: Self = Self::new(0x04, 0x03);
    pub const FORMAT_IN_PROGRESS: Self = Self::new(0x04, 0x04);
    pub const SANITIZE_IN_PROGRESS: Self = Self::new(0x04, 0x1b);
    pub const WRITE_ERROR: Self = Self::new(0x0c, 0x00);
    pub const INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT: Self = Self::new(0x0e, 0x03);
    pub const UNRECOVERED_READ_ERROR: Self = Self::new(0x11, 0x00);
    pub const PARAMETER_LIST_LENGTH_ERROR: Self = Self::new(0x1a, 0x00);
    pub const MISCOMPARE_DURING_VERIFY: Self = Self::new(0x1d, 0x00);
    pub const INVALID_COMMAND_OPERATION_CODE: Self = Self::new(0x20, 0x00);
    pub const ACCESS_DENIED_NO_ACCESS_RIGHTS: Self = Self::new(0x20, 0x02);
    pub const LBA_OUT_OF_RANGE: Self = Self::new(0x21, 0x00);
    pub const INVALID_FIELD_IN_CDB: Self = Self::new(0x24, 0x00);
    pub const LOGICAL_UNIT_NOT_SUPPORTED: Self = Self::new(0x25, 0x00);
    pub const INVALID_FIELD_IN_PARAMETER_LIST: Self = Self::new(0x26, 0x00);
    pub const INVALID_RELEASE_OF_PERSISTENT_RESERVATION: Self = Self::new(0x26, 0x04);
    pub const WRITE_PROTECTED: Self = Self::new(0x27, 0x00);
    pub const SOFTWARE_WRITE_PROTECTED: Self = Self::new(0x27, 0x02);
    pub const SPACE_ALLOCATION_FAILED_WRITE_PROTECT: Self = Self::new(0x27, 0x07);
    pub const COMMAND_SEQUENCE_ERROR: Self = Self::new(0x2c, 0x00);
    pub const SANITIZE_COMMAND_FAILED: Self = Self::new(0x31, 0x03);
    pub const MEDIUM_NOT_PRESENT: Self = Self::new(0x3a, 0x00);
    pub const LOGICAL_UNIT_FAILED_SELF_TEST: Self = Self::new(0x3e, 0x03);
    pub const ECHO_BUFFER_OVERWRITTEN: Self = Self::new(0x3f, 0x0f);
    pub const INTERNAL_TARGET_FAILURE: Self = Self::new(0x44, 0x00);
    pub const MEDIUM_REMOVAL_PREVENTED: Self = Self::new(0x53, 0x02);
    pub const INSUFFICIENT_REGISTRATION_RESOURCES: Self = Self::new(0x55, 0x04);

    pub const fn new(code: u8, qualifier: u8) -> Self {
        Self { code, qualifier }
    }
}

/// Sense key specific data (SPC-4, sense key specific).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SenseSpecific {
    None,
    /// Field pointer: which byte of the CDB or of the parameter list was wrong, and where the
    /// culprit is smaller than a byte, its most significant bit (7 = the byte's highest).
    Field {
        in_cdb: bool,
        byte: u16,
        bit: Option<u8>,
    },
    /// Segment pointer of a third-party copy: which byte was wrong, counted from the beginning of
    /// the segment descriptor whose number stands in [`Sense::command_specific`].
    Segment {
        byte: u16,
    },
    /// PROGRESS INDICATION: how much is done, in 65536ths.
    Progress(u16),
}

/// One error or state, not yet encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sense {
    pub key: SenseKey,
    pub additional: AdditionalSense,
    /// INFORMATION: an offset or block address whose meaning the command defines.
    pub information: Option<u64>,
    /// COMMAND-SPECIFIC INFORMATION.
    pub command_specific: Option<u32>,
    pub specific: SenseSpecific,
}

impl Sense {
    /// Nothing to report: what REQUEST SENSE returns where nothing is pending.
    pub const NO_SENSE: Self = Self::new(SenseKey::NoSense, AdditionalSense::NONE);

    pub const fn new(key: SenseKey, additional: AdditionalSense) -> Self {
        Self {
            key,
            additional,
            information: None,
            command_specific: None,
            specific: SenseSpecific::None,
        }
    }

    pub const fn illegal_request(additional: AdditionalSense) -> Self {
        Self::new(SenseKey::IllegalRequest, additional)
    }

    /// INVALID FIELD IN CDB whose field pointer names `byte` and, for a field that does not begin a
    /// byte, its most significant `bit`.
    pub const fn invalid_field_in_cdb(byte: u16, bit: Option<u8>) -> Self {
        Self {
            specific: SenseSpecific::Field {
                in_cdb: true,
                byte,
                bit,
            },
            ..Self::illegal_request(AdditionalSense::INVALID_FIELD_IN_CDB)
        }
    }

    /// INVALID FIELD IN PARAMETER LIST, pointing at `byte` of the parameter list.
    pub const fn invalid_field_in_parameter_list(byte: u16, bit: Option<u8>) -> Self {
        Self {
            specific: SenseSpecific::Field {
                in_cdb: false,
                byte,
                bit,
            },
            ..Self::illegal_request(AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST)
        }
    }

    /// PARAMETER LIST LENGTH ERROR, pointing at the CDB's length field at `byte`.
    pub const fn parameter_list_length_error(byte: u16) -> Self {
        Self {
            specific: SenseSpecific::Field {
                in_cdb: true,
                byte,
                bit: None,
            },
            ..Self::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR)
        }
    }

    pub const fn with_command_specific(self, command_specific: u32) -> Self {
        Self {
            command_specific: Some(command_specific),
            ..self
        }
    }

    pub const fn with_information(self, information: u64) -> Self {
        Self {
            information: Some(information),
            ..self
        }
    }

    /// Encodes current sense data to the front of `out` and returns their length.
    pub fn encode(&self, format: SenseFormat, out: &mut [u8; SENSE_BYTES_MAX]) -> usize {
        out.fill(0);
        match format {
            SenseFormat::Fixed => self.encode_fixed(out),
            SenseFormat::Descriptor => self.encode_descriptor(out),
        }
    }

    /// SPC-4, fixed format sense data.
    fn encode_fixed(&self, out: &mut [u8; SENSE_BYTES_MAX]) -> usize {
        out[0] = 0x70;
        if let Some(information) = self.information.and_then(|wide| u32::try_from(wide).ok()) {
            out[0] |= 0x80;
            out[3..7].copy_from_slice(&information.to_be_bytes());
        }
        out[2] = self.key as u8;
        out[7] = 10;
        let command_specific = self.command_specific.unwrap_or(0);
        out[8..12].copy_from_slice(&command_specific.to_be_bytes());
        out[12] = self.additional.code;
        out[13] = self.additional.qualifier;
        if let Some(specific) = self.specific.bytes() {
            out[15..18].copy_from_slice(&specific);
        }
        FIXED_BYTES
    }

    /// SPC-4, descriptor format sense data: a header of 8 bytes, then the information descriptor
    /// (12 bytes), the command specific information descriptor (12 bytes) and the sense key
    /// specific descriptor (8 bytes) where there is something to say.
    fn encode_descriptor(&self, out: &mut [u8; SENSE_BYTES_MAX]) -> usize {
        out[0] = 0x72;
        out[1] = self.key as u8;
        out[2] = self.additional.code;
        out[3] = self.additional.qualifier;
        let mut end = 8;
        if let Some(information) = self.information {
            out[end + 1] = 0x0a;
            out[end + 2] = 0x80;
            out[end + 4..end + 12].copy_from_slice(&information.to_be_bytes());
            end += 12;
        }
        if let Some(command_specific) = self.command_specific {
            out[end..end + 2].copy_from_slice(&[0x01, 0x0a]);
            out[end + 8..end + 12].copy_from_slice(&command_specific.to_be_bytes());
            end += 12;
        }
        if let Some(specific) = self.specific.bytes() {
            out[end] = 0x02;
            out[end + 1] = 0x06;
            out[end + 4..end + 7].copy_from_slice(&specific);
            end += 8;
        }
        out[7] = u8::try_from(end - 8).expect("the header and three descriptors are 40 bytes");
        end
    }
}

impl SenseSpecific {
    /// The three bytes of the SENSE KEY SPECIFIC field, SKSV set.
    fn bytes(self) -> Option<[u8; 3]> {
        match self {
            Self::None => None,
            Self::Field { in_cdb, byte, bit } => {
                let command_or_data = if in_cdb { 0x40 } else { 0 };
                let bit_pointer = bit.map_or(0, |bit| 0x08 | (bit & 7));
                let [high, low] = byte.to_be_bytes();
                Some([0x80 | command_or_data | bit_pointer, high, low])
            }
            // SPC-4, segment pointer sense key specific data: SD, the offset is into the segment.
            Self::Segment { byte } => {
                let [high, low] = byte.to_be_bytes();
                Some([0x80 | 0x20, high, low])
            }
            Self::Progress(progress) => {
                let [high, low] = progress.to_be_bytes();
                Some([0x80, high, low])
            }
        }
    }
}

/// The two encodings of sense data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SenseFormat {
    Fixed,
    Descriptor,
}

/// What the command did to the medium when its device failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read,
    Write,
}

/// What the initiator is told of a device error.
///
/// - no space to back the blocks: the initiator must not retry for ever, so DATA PROTECT
///   (SBC-3, resource exhaustion) and not a medium error;
/// - trouble of this process: ABORTED COMMAND, which initiators retry;
/// - a lost write cache: HARDWARE ERROR with WRITE ERROR, apart from a bad block's MEDIUM ERROR.
pub fn from_io_error(error: IoError, access: Access) -> Sense {
    use AdditionalSense as Asc;
    match (error, access) {
        (IoError::Medium, Access::Read) => {
            Sense::new(SenseKey::MediumError, Asc::UNRECOVERED_READ_ERROR)
        }
        (IoError::Medium, Access::Write) => Sense::new(SenseKey::MediumError, Asc::WRITE_ERROR),
        (IoError::NoSpace, _) => Sense::new(
            SenseKey::DataProtect,
            Asc::SPACE_ALLOCATION_FAILED_WRITE_PROTECT,
        ),
        (IoError::WriteProtected, _) => Sense::new(SenseKey::DataProtect, Asc::WRITE_PROTECTED),
        (IoError::NotReady, _) => Sense::new(SenseKey::NotReady, Asc::LOGICAL_UNIT_NOT_READY),
        (IoError::OutOfRange, _) => Sense::illegal_request(Asc::LBA_OUT_OF_RANGE),
        (IoError::Unsupported, _) => Sense::illegal_request(Asc::INVALID_COMMAND_OPERATION_CODE),
        (IoError::Resource, _) => {
            Sense::new(SenseKey::AbortedCommand, Asc::INTERNAL_TARGET_FAILURE)
        }
        (IoError::WriteCacheLost, _) => Sense::new(SenseKey::HardwareError, Asc::WRITE_ERROR),
        (IoError::Hardware, _) => Sense::new(SenseKey::HardwareError, Asc::INTERNAL_TARGET_FAILURE),
        (IoError::Aborted, _) => Sense::new(SenseKey::AbortedCommand, Asc::NONE),
        (IoError::WriteFault, _) => {
            Sense::new(SenseKey::MediumError, Asc::PERIPHERAL_DEVICE_WRITE_FAULT)
        }
        (IoError::Denied, _) => {
            Sense::new(SenseKey::DataProtect, Asc::ACCESS_DENIED_NO_ACCESS_RIGHTS)
        }
        (IoError::Recovering, _) => Sense::new(SenseKey::NotReady, Asc::BECOMING_READY),
        (IoError::Sanitizing, _) => Sense::new(SenseKey::NotReady, Asc::SANITIZE_IN_PROGRESS),
        (IoError::Formatting, _) => Sense::new(SenseKey::NotReady, Asc::FORMAT_IN_PROGRESS),
        (IoError::Absent, _) => Sense::new(SenseKey::NotReady, Asc::MEDIUM_NOT_PRESENT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(sense: &Sense, format: SenseFormat) -> Vec<u8> {
        let mut out = [0xee; SENSE_BYTES_MAX];
        let len = sense.encode(format, &mut out);
        out[..len].to_vec()
    }

    #[test]
    fn fixed_format_carries_key_code_and_field_pointer() {
        let sense = Sense::invalid_field_in_cdb(7, Some(3));
        assert_eq!(
            encode(&sense, SenseFormat::Fixed),
            [
                0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcb, 0, 7
            ]
        );
    }

    #[test]
    fn fixed_format_marks_information_valid() {
        let sense = Sense::new(
            SenseKey::Miscompare,
            AdditionalSense::MISCOMPARE_DURING_VERIFY,
        )
        .with_information(0x0102_0304);
        assert_eq!(
            encode(&sense, SenseFormat::Fixed),
            [
                0xf0, 0, 0x0e, 1, 2, 3, 4, 10, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0
            ]
        );
    }

    #[test]
    fn fixed_format_leaves_out_information_beyond_four_bytes() {
        let sense = Sense::NO_SENSE.with_information(1 << 32);
        let bytes = encode(&sense, SenseFormat::Fixed);
        assert_eq!(bytes[0], 0x70);
        assert_eq!(bytes[3..7], [0; 4]);
    }

    #[test]
    fn descriptor_format_has_a_descriptor_for_each_fact() {
        let sense = Sense::invalid_field_in_parameter_list(0x0203, None).with_information(9);
        assert_eq!(
            encode(&sense, SenseFormat::Descriptor),
            [
                0x72, 5, 0x26, 0, 0, 0, 0, 20, // header
                0x00, 0x0a, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 9, // information
                0x02, 0x06, 0, 0, 0x80, 2, 3, 0, // sense key specific
            ]
        );
        assert_eq!(
            encode(&Sense::NO_SENSE, SenseFormat::Descriptor),
            [0x72, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn segment_pointer_and_command_specific_information_stand_in_both_formats() {
        let mut sense = Sense::new(SenseKey::CopyAborted, AdditionalSense::new(0x08, 0x04))
            .with_information(5)
            .with_command_specific(0x0102);
        sense.specific = SenseSpecific::Segment { byte: 6 };
        assert_eq!(
            encode(&sense, SenseFormat::Fixed),
            [
                0xf0, 0, 0x0a, 0, 0, 0, 5, 10, 0, 0, 1, 2, 0x08, 0x04, 0, 0xa0, 0, 6
            ]
        );
        assert_eq!(
            encode(&sense, SenseFormat::Descriptor),
            [
                0x72, 0x0a, 0x08, 0x04, 0, 0, 0, 32, // header
                0x00, 0x0a, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 5, // information
                0x01, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, // command specific information
                0x02, 0x06, 0, 0, 0xa0, 0, 6, 0, // sense key specific
            ]
        );
    }

    #[test]
    fn additional_length_always_covers_the_rest() {
        for information in [None, Some(1)] {
            for specific in [
                SenseSpecific::None,
                SenseSpecific::Field {
                    in_cdb: true,
                    byte: 1,
                    bit: None,
                },
            ] {
                let sense = Sense {
                    information,
                    specific,
                    ..Sense::NO_SENSE
                };
                for format in [SenseFormat::Fixed, SenseFormat::Descriptor] {
                    let bytes = encode(&sense, format);
                    assert_eq!(bytes.len(), usize::from(bytes[7]) + 8);
                }
            }
        }
    }

    #[test]
    fn no_space_is_a_space_allocation_failure() {
        let sense = from_io_error(IoError::NoSpace, Access::Write);
        assert_eq!(sense.key, SenseKey::DataProtect);
        assert_eq!(sense.additional, AdditionalSense::new(0x27, 0x07));
    }

    #[test]
    fn medium_errors_tell_reads_from_writes() {
        let read = from_io_error(IoError::Medium, Access::Read);
        let write = from_io_error(IoError::Medium, Access::Write);
        assert_eq!(
            (read.key, read.additional.code),
            (SenseKey::MediumError, 0x11)
        );
        assert_eq!(
            (write.key, write.additional.code),
            (SenseKey::MediumError, 0x0c)
        );
    }

    #[test]
    fn process_trouble_is_retried_and_a_lost_cache_is_not() {
        let resource = from_io_error(IoError::Resource, Access::Read);
        let lost = from_io_error(IoError::WriteCacheLost, Access::Write);
        assert_eq!(resource.key, SenseKey::AbortedCommand);
        assert_eq!(lost.key, SenseKey::HardwareError);
    }

    #[test]
    fn a_device_that_says_what_ails_it_is_quoted() {
        use SenseKey as Key;
        for (error, key, code, qualifier) in [
            (IoError::Hardware, Key::HardwareError, 0x44, 0x00),
            (IoError::Aborted, Key::AbortedCommand, 0x00, 0x00),
            (IoError::WriteFault, Key::MediumError, 0x03, 0x00),
            (IoError::Denied, Key::DataProtect, 0x20, 0x02),
            (IoError::Recovering, Key::NotReady, 0x04, 0x01),
            (IoError::Sanitizing, Key::NotReady, 0x04, 0x1b),
            (IoError::Formatting, Key::NotReady, 0x04, 0x04),
            (IoError::Absent, Key::NotReady, 0x3a, 0x00),
        ] {
            for access in [Access::Read, Access::Write] {
                let sense = from_io_error(error, access);
                let additional = AdditionalSense::new(code, qualifier);
                assert_eq!((sense.key, sense.additional), (key, additional), "{error}");
            }
        }
    }
}
