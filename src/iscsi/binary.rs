//! Binary values in text: hexadecimal after `0x`, base64 after `0b` (RFC 7143 §6.1, RFC 4648 §4).
//!
//! Decoding is bounded by the caller; an odd number of hexadecimal digits means that the first byte
//! has only its low half. We emit hexadecimal, which every initiator reads.

use thiserror::Error;

/// Why a value is not binary.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BinaryError {
    #[error("a binary value begins with neither `0x` nor `0b`, or is empty")]
    NoPrefix,
    #[error("a binary value has a character that is not of its alphabet")]
    BadDigit,
    #[error("a base64 value is not padded as it must be")]
    BadPadding,
    #[error("a binary value is longer than its bound")]
    TooLong,
}

/// Decodes `text` into at most `max_bytes` bytes.
pub fn decode(text: &str, max_bytes: usize) -> Result<Vec<u8>, BinaryError> {
    let bytes = text.as_bytes();
    match bytes.split_first_chunk() {
        Some((b"0x" | b"0X", digits)) if !digits.is_empty() => decode_hex(digits, max_bytes),
        Some((b"0b" | b"0B", digits)) if !digits.is_empty() => decode_base64(digits, max_bytes),
        _ => Err(BinaryError::NoPrefix),
    }
}

/// `bytes` as a hexadecimal constant.
pub fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("0x");
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 0x0f)]));
    }
    text
}

fn decode_hex(digits: &[u8], max_bytes: usize) -> Result<Vec<u8>, BinaryError> {
    if digits.len().div_ceil(2) > max_bytes {
        return Err(BinaryError::TooLong);
    }
    let mut out = Vec::with_capacity(digits.len().div_ceil(2));
    let (first, rest) = digits.split_at(digits.len() % 2);
    if let [half] = first {
        out.push(hex_digit(*half)?);
    }
    for pair in rest.chunks_exact(2) {
        let mut byte = 0;
        for digit in pair {
            byte = byte << 4 | hex_digit(*digit)?;
        }
        out.push(byte);
    }
    Ok(out)
}

fn hex_digit(digit: u8) -> Result<u8, BinaryError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(BinaryError::BadDigit),
    }
}

/// RFC 4648 §4: groups of four characters for three bytes; the last group may end in one or two
/// `=`, and the bits that these leave over are zero.
fn decode_base64(digits: &[u8], max_bytes: usize) -> Result<Vec<u8>, BinaryError> {
    if !digits.len().is_multiple_of(4) {
        return Err(BinaryError::BadPadding);
    }
    let padding = digits
        .iter()
        .rev()
        .take_while(|digit| **digit == b'=')
        .count();
    if padding > 2 {
        return Err(BinaryError::BadPadding);
    }
    let length = digits.len() / 4 * 3 - padding;
    if length > max_bytes {
        return Err(BinaryError::TooLong);
    }
    let mut out = Vec::with_capacity(length + padding);
    let (characters, _) = digits.split_at(digits.len() - padding);
    for group in characters.chunks(4) {
        let mut bits = 0_u32;
        for index in 0..4 {
            let sextet = group
                .get(index)
                .map_or(Ok(0), |digit| base64_digit(*digit))?;
            bits = bits << 6 | u32::from(sextet);
        }
        let [_, bytes @ ..] = bits.to_be_bytes();
        out.extend_from_slice(&bytes);
    }
    let left_over = out.split_off(length);
    if left_over.iter().all(|byte| *byte == 0) {
        Ok(out)
    } else {
        Err(BinaryError::BadPadding)
    }
}

fn base64_digit(digit: u8) -> Result<u8, BinaryError> {
    match digit {
        b'A'..=b'Z' => Ok(digit - b'A'),
        b'a'..=b'z' => Ok(digit - b'a' + 26),
        b'0'..=b'9' => Ok(digit - b'0' + 52),
        b'+' => Ok(62),
        b'/' => Ok(63),
        _ => Err(BinaryError::BadDigit),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // RFC 7143 §6.1; the base64 values are the test vectors of RFC 4648 §10.
    #[test]
    fn both_encodings_are_read() {
        for (text, bytes) in [
            ("0x00ff", &b"\x00\xff"[..]),
            ("0XaBcD", b"\xab\xcd"),
            ("0xf", b"\x0f"),
            ("0x123", b"\x01\x23"),
            ("0bZg==", b"f"),
            ("0bZm8=", b"fo"),
            ("0bZm9v", b"foo"),
            ("0BZm9vYg==", b"foob"),
            ("0bZm9vYmE=", b"fooba"),
            ("0bZm9vYmFy", b"foobar"),
            ("0b+/+/", b"\xfb\xff\xbf"),
        ] {
            assert_eq!(decode(text, 64).as_deref(), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        for (text, error) in [
            ("", BinaryError::NoPrefix),
            ("0x", BinaryError::NoPrefix),
            ("0b", BinaryError::NoPrefix),
            ("1234", BinaryError::NoPrefix),
            ("0xg0", BinaryError::BadDigit),
            ("0x0 ", BinaryError::BadDigit),
            ("0bZg=", BinaryError::BadPadding),
            ("0bZg", BinaryError::BadPadding),
            ("0bZ===", BinaryError::BadPadding),
            ("0b====", BinaryError::BadPadding),
            ("0bZh==", BinaryError::BadPadding),
            ("0bZm8=Zm9v", BinaryError::BadDigit),
            ("0bZ=8=", BinaryError::BadDigit),
            ("0bZ-8=", BinaryError::BadDigit),
        ] {
            assert_eq!(decode(text, 64), Err(error), "{text}");
        }
    }

    #[test]
    fn a_value_of_the_bound_is_taken_and_one_byte_more_is_not() {
        let hex = encode(&[7; 16]);
        assert_eq!(decode(&hex, 16), Ok(vec![7; 16]));
        assert_eq!(decode(&hex, 15), Err(BinaryError::TooLong));
        assert_eq!(decode("0bZm9v", 3), Ok(b"foo".to_vec()));
        assert_eq!(decode("0bZm9v", 2), Err(BinaryError::TooLong));
        assert_eq!(decode("0bZm8=", 2), Ok(b"fo".to_vec()));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(0[xXbB])?[0-9a-zA-Z+/=\u{e4}]{0,40}") {
            if let Ok(bytes) = decode(&text, 20) {
                prop_assert!(bytes.len() <= 20);
            }
        }

        #[test]
        fn what_is_encoded_is_decoded(bytes in proptest::collection::vec(any::<u8>(), 1..80)) {
            prop_assert_eq!(decode(&encode(&bytes), 80), Ok(bytes));
        }
    }
}
