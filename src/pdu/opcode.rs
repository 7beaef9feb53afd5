//! Opcodes (RFC 7143 §11.2.1.2): the low six bits of the first byte.

use thiserror::Error;

/// Every opcode of RFC 7143. Those below 20h go to the target, the others to the initiator.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Opcode {
    NopOut = 0x00,
    ScsiCommand = 0x01,
    TaskManagementRequest = 0x02,
    LoginRequest = 0x03,
    TextRequest = 0x04,
    ScsiDataOut = 0x05,
    LogoutRequest = 0x06,
    Snack = 0x10,
    NopIn = 0x20,
    ScsiResponse = 0x21,
    TaskManagementResponse = 0x22,
    LoginResponse = 0x23,
    TextResponse = 0x24,
    ScsiDataIn = 0x25,
    LogoutResponse = 0x26,
    R2t = 0x31,
    AsyncMessage = 0x32,
    Reject = 0x3f,
}

/// A six-bit opcode that RFC 7143 does not define (vendor-specific ones included).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("unknown opcode {0:#04x}")]
pub struct UnknownOpcode(pub u8);

impl Opcode {
    /// The meaning of six bits; the upper two bits of `bits` are ignored.
    #[inline]
    pub const fn parse(bits: u8) -> Result<Self, UnknownOpcode> {
        Ok(match bits & 0x3f {
            0x00 => Self::NopOut,
            0x01 => Self::ScsiCommand,
            0x02 => Self::TaskManagementRequest,
            0x03 => Self::LoginRequest,
            0x04 => Self::TextRequest,
            0x05 => Self::ScsiDataOut,
            0x06 => Self::LogoutRequest,
            0x10 => Self::Snack,
            0x20 => Self::NopIn,
            0x21 => Self::ScsiResponse,
            0x22 => Self::TaskManagementResponse,
            0x23 => Self::LoginResponse,
            0x24 => Self::TextResponse,
            0x25 => Self::ScsiDataIn,
            0x26 => Self::LogoutResponse,
            0x31 => Self::R2t,
            0x32 => Self::AsyncMessage,
            0x3f => Self::Reject,
            other => return Err(UnknownOpcode(other)),
        })
    }

    /// The six bits.
    #[inline]
    pub const fn emit(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_an_opcode_and_back_or_unknown() {
        let mut known = 0;
        for byte in 0..=u8::MAX {
            match Opcode::parse(byte) {
                Ok(opcode) => {
                    assert_eq!(opcode.emit(), byte & 0x3f);
                    known += 1;
                }
                Err(unknown) => assert_eq!(unknown, UnknownOpcode(byte & 0x3f)),
            }
        }
        assert_eq!(
            known,
            18 * 4,
            "18 opcodes, each with four values of the upper bits"
        );
    }
}
