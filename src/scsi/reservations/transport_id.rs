//! TransportIDs of iSCSI initiators (SPC-4 §7.6.4.6).
//!
//! ```text
//! byte 0    TPID FORMAT (bits 7–6), reserved, PROTOCOL IDENTIFIER (bits 3–0) = 5h
//! 1         reserved
//! 2..4      ADDITIONAL LENGTH, of what follows: at least 20, a multiple of four
//! 4..       name, for format 01b then ",i,0x" and the ISID; a null; nulls to the end
//! ```
//!
//! Format 00b names all ports of an initiator, 01b one of them. Names are compared in lower case,
//! as iSCSI has them (RFC 7143 §4.2.7).

use arrayvec::ArrayString;

use crate::scsi::nexus::INITIATOR_NAME_BYTES_MAX;
use crate::scsi::parameter::ParameterData;

use super::Registrant;

const HEADER_BYTES: usize = 4;

/// Shortest and longest ADDITIONAL LENGTH that we take or write: the longest name, the separator,
/// an ISID and a null, rounded up.
const ADDITIONAL_BYTES_MIN: usize = 20;
const ADDITIONAL_BYTES_MAX: usize = 244;

/// Shortest and longest TransportID in bytes.
pub const TRANSPORT_ID_BYTES_MIN: usize = HEADER_BYTES + ADDITIONAL_BYTES_MIN;
pub const TRANSPORT_ID_BYTES_MAX: usize = HEADER_BYTES + ADDITIONAL_BYTES_MAX;

const PROTOCOL_ISCSI: u8 = 0x5;

/// TPID FORMAT 01b, in its place.
const FORMAT_PORT: u8 = 0x40;

/// Separates name and ISID.
const SEPARATOR: &str = ",i,0x";

/// An initiator, or one port of it, as a TransportID names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransportId {
    pub name: ArrayString<INITIATOR_NAME_BYTES_MAX>,
    /// `None`: the initiator as a whole.
    pub isid: Option<[u8; 6]>,
}

/// Where in the TransportID something is wrong: the byte from its beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wrong(pub u16);

impl TransportId {
    /// The TransportID at the front of `list`, and what follows it.
    ///
    /// # Errors
    /// Where in it the first thing is that is not as it has to be.
    pub fn split_from(list: &[u8]) -> Result<(Self, &[u8]), Wrong> {
        let (header, rest) = list.split_first_chunk::<HEADER_BYTES>().ok_or(Wrong(0))?;
        let [format, reserved, length @ ..] = *header;
        let is_port = match format {
            PROTOCOL_ISCSI => false,
            format if format == FORMAT_PORT | PROTOCOL_ISCSI => true,
            _ => return Err(Wrong(0)),
        };
        if reserved != 0 {
            return Err(Wrong(1));
        }
        let length = usize::from(u16::from_be_bytes(length));
        if !(ADDITIONAL_BYTES_MIN..=ADDITIONAL_BYTES_MAX).contains(&length) || length % 4 != 0 {
            return Err(Wrong(2));
        }
        let (text, rest) = rest.split_at_checked(length).ok_or(Wrong(2))?;
        Ok((Self::from_text(text, is_port).ok_or(Wrong(4))?, rest))
    }

    /// Parses what stands behind the header, up to its end.
    fn from_text(text: &[u8], is_port: bool) -> Option<Self> {
        let end = text.iter().position(|byte| *byte == 0)?;
        let (text, padding) = text.split_at_checked(end)?;
        if padding.iter().any(|byte| *byte != 0) {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        let (name, isid) = if is_port {
            let (name, isid) = text.rsplit_once(SEPARATOR)?;
            (name, Some(parse_isid(isid)?))
        } else {
            (text, None)
        };
        if name.is_empty() || name.contains(|c: char| c.is_control() || c == ',') {
            return None;
        }
        let name = ArrayString::from(&name.to_lowercase()).ok()?;
        Some(Self { name, isid })
    }
}

/// One to twelve hexadecimal digits.
fn parse_isid(digits: &str) -> Option<[u8; 6]> {
    let fits = (1..=12).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let value = fits.then(|| u64::from_str_radix(digits, 16).ok())??;
    let [_, _, isid @ ..] = value.to_be_bytes();
    Some(isid)
}

/// Bytes of the TransportID of a registrant.
pub fn len(registrant: &Registrant) -> usize {
    let isid = registrant.isid().map_or(0, |_| SEPARATOR.len() + 12);
    let text = (registrant.name().len() + isid + 1).next_multiple_of(4);
    HEADER_BYTES + text.max(ADDITIONAL_BYTES_MIN)
}

/// Writes the TransportID of a registrant, [`len`] bytes.
pub fn put(registrant: &Registrant, out: &mut ParameterData) {
    let additional = len(registrant) - HEADER_BYTES;
    let format = registrant.isid().map_or(0, |_| FORMAT_PORT);
    out.put(&[format | PROTOCOL_ISCSI, 0]);
    out.put_be16(u16::try_from(additional).expect("a name has at most 223 bytes"));
    out.put(registrant.name().as_bytes());
    let mut written = registrant.name().len();
    if let Some(isid) = registrant.isid() {
        out.put(SEPARATOR.as_bytes());
        for byte in isid {
            let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
            out.put(&[digit(byte >> 4), digit(byte & 0x0f)]);
        }
        written += SEPARATOR.len() + 12;
    }
    out.put_zeroes(additional - written);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::unit::PortIdentity;
    use proptest::prelude::*;

    fn registrant(name: &str, isid: Option<[u8; 6]>) -> Registrant {
        let port = PortIdentity::new("iqn.2026-11.io.example:disk", 1, 1).unwrap();
        Registrant::new(name, isid, port).unwrap()
    }

    fn emitted(registrant: &Registrant) -> Vec<u8> {
        let mut out = ParameterData::new();
        put(registrant, &mut out);
        assert_eq!(out.len(), len(registrant));
        out.as_bytes().to_vec()
    }

    fn raw(format: u8, text: &[u8]) -> Vec<u8> {
        let mut bytes = vec![format, 0, 0, 0];
        bytes.extend(text);
        let padded = (text.len() + 1).next_multiple_of(4).max(20);
        bytes.resize(4 + padded, 0);
        bytes[3] = u8::try_from(padded).unwrap();
        bytes
    }

    #[test]
    fn a_port_is_written_with_its_isid_and_padded() {
        let bytes = emitted(&registrant("iqn.a", Some([0x40, 0, 1, 0x37, 0xab, 0])));
        let mut expected = vec![0x45, 0, 0, 24];
        expected.extend(b"iqn.a,i,0x40000137ab00\0\0");
        assert_eq!(bytes, expected);
        let whole = emitted(&registrant("iqn.a", None));
        assert_eq!(whole.len(), 24);
        assert_eq!(whole[..4], [0x05, 0, 0, 20]);
        assert_eq!(&whole[4..10], b"iqn.a\0");
    }

    #[test]
    fn names_of_all_lengths_come_back_as_they_went() {
        for bytes in 1..=INITIATOR_NAME_BYTES_MAX {
            for isid in [None, Some([0x80, 1, 2, 3, 4, 5])] {
                let registrant = registrant(&"n".repeat(bytes), isid);
                let mut list = emitted(&registrant);
                assert!((TRANSPORT_ID_BYTES_MIN..=TRANSPORT_ID_BYTES_MAX).contains(&list.len()));
                list.push(7);
                let (parsed, rest) = TransportId::split_from(&list).unwrap();
                assert_eq!((&*parsed.name, parsed.isid), (registrant.name(), isid));
                assert_eq!(rest, [7]);
            }
        }
    }

    #[test]
    fn isid_may_be_short_and_in_capitals() {
        let (parsed, _) = TransportId::split_from(&raw(0x45, b"IQN.A,i,0xAB")).unwrap();
        assert_eq!(&*parsed.name, "iqn.a");
        assert_eq!(parsed.isid, Some([0, 0, 0, 0, 0, 0xab]));
    }

    #[test]
    fn each_lie_is_named_by_its_byte() {
        let good = raw(0x45, b"iqn.a,i,0x1");
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        let cases: [(Vec<u8>, u16); 16] = [
            (vec![], 0),
            (vec![0x45, 0, 0], 0),
            (with(0, 0x46), 0),
            (with(0, 0x85), 0),
            (with(0, 0xc5), 0),
            (with(0, 0x55), 0),
            (with(1, 1), 1),
            (with(3, 19), 2),
            (with(3, 16), 2),
            (with(3, 24), 2),
            (with(2, 0xff), 2),
            (with(23, b'x'), 4),
            (raw(0x45, b"iqn.a"), 4),
            (raw(0x45, b"iqn.a,i,0x1234567890abc"), 4),
            (raw(0x45, b",i,0x1"), 4),
            (raw(0x05, b"\xff\xff"), 4),
        ];
        for (bytes, at) in cases {
            assert_eq!(
                TransportId::split_from(&bytes).unwrap_err(),
                Wrong(at),
                "{bytes:02x?}"
            );
        }
        let mut unterminated = raw(0x05, &[b'a'; 19]);
        unterminated[23] = b'a';
        assert_eq!(TransportId::split_from(&unterminated), Err(Wrong(4)));
        let mut long = vec![0x05, 0, 0, 244];
        long.extend([b'n'; 224]);
        long.resize(248, 0);
        assert_eq!(
            TransportId::split_from(&long),
            Err(Wrong(4)),
            "224 characters"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_are_more_than_a_refusal(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = *first & 0x40 | 5;
            }
            if let Ok((parsed, rest)) = TransportId::split_from(&bytes) {
                prop_assert!(!parsed.name.is_empty());
                prop_assert!(bytes.ends_with(rest) && rest.len() + 24 <= bytes.len());
            }
        }
    }
}
