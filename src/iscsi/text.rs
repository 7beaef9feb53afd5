//! Text: `key=value` pairs in the data segments of Login and Text PDUs (RFC 7143 §6.1, §6.2).
//!
//! [`Assembler`] joins the data segments of one sequence (C bit), [`pairs`] reads the whole,
//! [`TextWriter`] makes ours and [`Outgoing`] cuts it into data segments again. Everything is
//! bounded by a named constant; nothing here knows what a key means, that is `keys`' affair. Ranges
//! (`a~b`) are not read: the only keys that had them are obsolete (§13.25).

use std::fmt::{self, Write as _};

use thiserror::Error;

/// Longest key name (RFC 7143 §6.1).
pub const KEY_MAX_BYTES: usize = 63;
/// Longest value that we take. Large binary values are the longest there are.
pub const VALUE_MAX_BYTES: usize = 8192;
/// Most bytes of text that one login may send, over all its PDUs.
pub const LOGIN_TEXT_MAX_BYTES: usize = 64 * 1024;
/// Most bytes of text in one sequence of Text Requests.
pub const FULL_FEATURE_TEXT_MAX_BYTES: usize = 16 * 1024;
/// Most keys in one sequence; bounds what our answer can grow to.
pub const KEYS_MAX: usize = 128;
/// Longest data segment of either side during login, whatever was declared (RFC 7143 §13.12).
pub const LOGIN_DATA_SEGMENT_MAX_BYTES: usize = 8192;

/// Why a peer's text cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum TextError {
    #[error("the last key=value pair does not end with NUL")]
    NotTerminated,
    #[error("a pair has no `=`")]
    NoEquals,
    #[error("a pair has an empty key")]
    EmptyKey,
    #[error("a key is longer than {KEY_MAX_BYTES} bytes")]
    KeyTooLong,
    #[error("a key does not begin with a letter or has a character that no key may have")]
    BadKey,
    #[error("a value is longer than {VALUE_MAX_BYTES} bytes")]
    ValueTooLong,
    #[error("a value is not UTF-8")]
    NotUtf8,
    #[error("there are more than {KEYS_MAX} keys")]
    TooManyKeys,
    #[error("a key occurs twice")]
    DuplicateKey,
    #[error("the text is longer than its bound")]
    TooLong,
}

/// Reads all pairs of a whole text. NULs beyond those that end pairs are skipped: they say nothing,
/// and some initiators pad with them.
pub fn pairs(text: &[u8]) -> Result<Vec<(&str, &str)>, TextError> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    if text.last().is_some_and(|last| *last != 0) {
        return Err(TextError::NotTerminated);
    }
    for pair in text
        .split(|byte| *byte == 0)
        .filter(|pair| !pair.is_empty())
    {
        if found.len() == KEYS_MAX {
            return Err(TextError::TooManyKeys);
        }
        let (key, value) = parse_pair(pair)?;
        // RFC 7143 §6.2: a key is declared or negotiated once.
        if found.iter().any(|(earlier, _)| *earlier == key) {
            return Err(TextError::DuplicateKey);
        }
        found.push((key, value));
    }
    Ok(found)
}

fn parse_pair(pair: &[u8]) -> Result<(&str, &str), TextError> {
    let equals = pair
        .iter()
        .position(|byte| *byte == b'=')
        .ok_or(TextError::NoEquals)?;
    let (key, value) = pair.split_at(equals);
    let value = value.get(1..).unwrap_or_default();
    let Some(first) = key.first() else {
        return Err(TextError::EmptyKey);
    };
    if key.len() > KEY_MAX_BYTES {
        return Err(TextError::KeyTooLong);
    }
    // RFC 7143 §6.1: standard labels, and `#` in the names of registered extensions. They begin
    // with a capital letter, but for iSCSIProtocolLevel, which the standard itself names otherwise.
    let legal = |b: &u8| b.is_ascii_alphanumeric() || b".-+@_#".contains(b);
    if !first.is_ascii_alphabetic() || !key.iter().all(legal) {
        return Err(TextError::BadKey);
    }
    if value.len() > VALUE_MAX_BYTES {
        return Err(TextError::ValueTooLong);
    }
    let key = std::str::from_utf8(key).map_err(|_| TextError::BadKey)?;
    let value = std::str::from_utf8(value).map_err(|_| TextError::NotUtf8)?;
    Ok((key, value))
}

/// RFC 7143 §6.1: a decimal constant without leading zeroes, or a hexadecimal constant after `0x`.
pub fn parse_number(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let digits = hex.bytes().all(|b| b.is_ascii_hexdigit());
        return if digits {
            u64::from_str_radix(hex, 16).ok()
        } else {
            None
        };
    }
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    if !digits || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    text.parse().ok()
}

/// RFC 7143 §6.1: a list is values with commas between them.
pub fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
}

/// Joins the data segments of a sequence of PDUs into one text.
pub struct Assembler {
    text: Vec<u8>,
    /// Bytes that may still come.
    room: usize,
}

impl Assembler {
    /// An assembler that takes at most `max_bytes` in its whole life.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            text: Vec::new(),
            room: max_bytes,
        }
    }

    /// Takes the data segment of the next PDU, and returns the whole text when the PDU's C bit
    /// (`continues`) says that it was the last one.
    pub fn push(&mut self, segment: &[u8], continues: bool) -> Result<Option<Vec<u8>>, TextError> {
        self.room = self
            .room
            .checked_sub(segment.len())
            .ok_or(TextError::TooLong)?;
        self.text.extend_from_slice(segment);
        Ok(if continues {
            None
        } else {
            Some(std::mem::take(&mut self.text))
        })
    }
}

/// Not the text itself: responses of CHAP stand in it.
impl fmt::Debug for Assembler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, room } = self;
        write!(f, "Assembler({} bytes, room for {room})", text.len())
    }
}

/// Writes pairs.
#[derive(Default)]
pub struct TextWriter {
    text: Vec<u8>,
}

impl fmt::Debug for TextWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TextWriter({} bytes)", self.text.len())
    }
}

impl TextWriter {
    /// Appends one pair. Both parts are ours or were checked: neither has a NUL.
    pub fn push(&mut self, key: &str, value: impl fmt::Display) {
        struct Sink<'a>(&'a mut Vec<u8>);
        impl fmt::Write for Sink<'_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.extend_from_slice(text.as_bytes());
                Ok(())
            }
        }
        let mut sink = Sink(&mut self.text);
        write!(sink, "{key}={value}\0").expect("writing to a vector cannot fail");
    }

    /// Appends what another writer has written.
    pub fn append(&mut self, mut other: Self) {
        self.text.append(&mut other.text);
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Nothing was written.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The text.
    pub fn finish(self) -> Vec<u8> {
        self.text
    }
}

/// A text of ours on its way out, in as many data segments as it takes. A pair may be cut anywhere
/// (RFC 7143 §6.2: the C bit says that the text goes on).
#[derive(Default)]
pub struct Outgoing {
    text: Vec<u8>,
    /// Bytes already given out; at most `text.len()`.
    sent: usize,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outgoing({} of {} bytes)", self.sent, self.text.len())
    }
}

impl Outgoing {
    /// Starts to send `text`.
    pub fn new(text: Vec<u8>) -> Self {
        Self { text, sent: 0 }
    }

    /// The next data segment of at most `max_bytes`, and whether more follow (the C bit). After the
    /// last one it is empty.
    pub fn next_segment(&mut self, max_bytes: usize) -> (&[u8], bool) {
        let end = self.sent.saturating_add(max_bytes).min(self.text.len());
        let segment = self.text.get(self.sent..end).unwrap_or_default();
        self.sent = end;
        (segment, end < self.text.len())
    }

    /// Whether all of it was given out.
    pub fn is_done(&self) -> bool {
        self.sent == self.text.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pairs_are_read_in_order() {
        let text = b"InitiatorName=iqn.2000-01.a:b\0SessionType=Normal\0X-com.x.y=\0A=b=c\0";
        let expected = vec![
            ("InitiatorName", "iqn.2000-01.a:b"),
            ("SessionType", "Normal"),
            ("X-com.x.y", ""),
            ("A", "b=c"),
        ];
        assert_eq!(pairs(text), Ok(expected));
        assert_eq!(pairs(b""), Ok(vec![]));
        assert_eq!(pairs(b"\0\0A=b\0\0\0"), Ok(vec![("A", "b")]));
    }

    // RFC 7143 §6.1.
    #[test]
    fn each_broken_pair_has_its_own_error() {
        for (text, error) in [
            (&b"A=b"[..], TextError::NotTerminated),
            (b"A=b\0C", TextError::NotTerminated),
            (b"A\0", TextError::NoEquals),
            (b"=b\0", TextError::EmptyKey),
            (b"-A=b\0", TextError::BadKey),
            (b"A b=c\0", TextError::BadKey),
            (b"A\xc3\xa4=c\0", TextError::BadKey),
            (b"1A=c\0", TextError::BadKey),
            (b"A=\xff\0", TextError::NotUtf8),
            (b"A=b\0B=c\0A=b\0", TextError::DuplicateKey),
        ] {
            assert_eq!(
                pairs(text),
                Err(error),
                "{:?}",
                text.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn each_bound_holds_at_its_last_byte() {
        let pair = |key: usize, value: usize| {
            format!("{}={}\0", "K".repeat(key), "v".repeat(value)).into_bytes()
        };
        assert_eq!(
            pairs(&pair(KEY_MAX_BYTES, VALUE_MAX_BYTES)).map(|found| found.len()),
            Ok(1)
        );
        assert_eq!(
            pairs(&pair(KEY_MAX_BYTES + 1, 1)),
            Err(TextError::KeyTooLong)
        );
        assert_eq!(
            pairs(&pair(1, VALUE_MAX_BYTES + 1)),
            Err(TextError::ValueTooLong)
        );
        let keys = |count| (0..count).map(|i| format!("K{i}=\0")).collect::<String>();
        assert_eq!(
            pairs(keys(KEYS_MAX).as_bytes()).map(|p| p.len()),
            Ok(KEYS_MAX)
        );
        assert_eq!(
            pairs(keys(KEYS_MAX + 1).as_bytes()),
            Err(TextError::TooManyKeys)
        );
    }

    // RFC 7143 §6.1.
    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        for (text, number) in [
            ("0", Some(0)),
            ("512", Some(512)),
            ("0x200", Some(512)),
            ("0X1fF", Some(511)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("0xffffffffffffffff", Some(u64::MAX)),
            ("0x10000000000000000", None),
            ("", None),
            ("0x", None),
            ("0x+1", None),
            ("+1", None),
            ("-1", None),
            ("007", None),
            ("1 ", None),
            ("1k", None),
        ] {
            assert_eq!(parse_number(text), number, "{text:?}");
        }
    }

    #[test]
    fn segments_are_joined_until_the_c_bit_is_clear_and_the_bound_covers_all_of_them() {
        let mut assembler = Assembler::new(8);
        assert_eq!(assembler.push(b"A=", true), Ok(None));
        assert_eq!(assembler.push(b"", true), Ok(None));
        assert_eq!(assembler.push(b"b\0", false), Ok(Some(b"A=b\0".to_vec())));
        assert_eq!(assembler.push(b"B=c\0", false), Ok(Some(b"B=c\0".to_vec())));
        assert_eq!(assembler.push(b"", false), Ok(Some(vec![])));
        assert_eq!(assembler.push(b"X", false), Err(TextError::TooLong));
    }

    #[test]
    fn a_text_goes_out_in_segments_of_the_size_that_the_peer_takes() {
        let mut out = Outgoing::new(b"A=b\0C=d\0".to_vec());
        assert_eq!(out.next_segment(3), (&b"A=b"[..], true));
        assert_eq!(out.next_segment(5), (&b"\0C=d\0"[..], false));
        assert!(out.is_done());
        assert_eq!(out.next_segment(5), (&b""[..], false));
    }

    #[test]
    fn no_text_is_printed_by_its_holders() {
        let mut assembler = Assembler::new(100);
        assembler.push(b"CHAP_R=0x17\0", true).unwrap();
        let mut writer = TextWriter::default();
        writer.push("CHAP_R", "0x17");
        let held = format!(
            "{assembler:?} {writer:?} {:?}",
            Outgoing::new(b"CHAP_R=0x17\0".into())
        );
        let expected =
            "Assembler(12 bytes, room for 88) TextWriter(12 bytes) Outgoing(0 of 12 bytes)";
        assert_eq!(held, expected);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(text in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(found) = pairs(&text) {
                prop_assert!(found.len() <= KEYS_MAX);
            }
        }

        #[test]
        fn what_is_written_is_read_and_any_cut_joins_again(
            values in proptest::collection::vec("[ -~]{0,40}", 0..20),
            cut in 1_usize..30,
        ) {
            let mut writer = TextWriter::default();
            for (i, value) in values.iter().enumerate() {
                writer.push(&format!("Key{i}"), value);
            }
            let text = writer.finish();
            let mut out = Outgoing::new(text.clone());
            let mut joined = None;
            let mut assembler = Assembler::new(text.len());
            while joined.is_none() {
                let (segment, more) = out.next_segment(cut);
                joined = assembler.push(segment, more).unwrap();
            }
            prop_assert_eq!(joined.as_deref(), Some(&text[..]));
            let read = pairs(&text).unwrap();
            prop_assert_eq!(read.len(), values.len());
            prop_assert!(read.iter().zip(&values).all(|((_, read), value)| read == value));
        }
    }
}
