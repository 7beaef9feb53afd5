//! Additional header segments (RFC 7143 §11.2.2): what does not fit into the 48 bytes of a SCSI
//! Command.
//!
//! ```text
//!  byte 0..2 AHSLength │ 2 AHSType │ 3 AHS-specific │ 4.. the rest │ pad to four
//! ```
//! AHSLength counts from byte 3 on, without padding: a segment of length n takes 3 + n bytes,
//! rounded up to words. [`AhsIter`] walks over what a peer sent: each step takes at least four
//! bytes, so it ends, and the first error ends it as well.

use arrayvec::ArrayVec;
use thiserror::Error;

/// How many bytes of AHS we keep: an extended CDB that makes 48 bytes of CDB, and the bidirectional
/// length, with room to spare. The wire allows 1020.
pub const AHS_BYTES_MAX: usize = 64;

mod field {
    use std::ops::Range;
    pub(super) const AHS_LENGTH: Range<usize> = 0..2;
    pub(super) const AHS_TYPE: usize = 2;
    pub(super) const AHS_SPECIFIC: usize = 3;
}

/// Bytes before those that AHSLength counts.
const UNCOUNTED: usize = 3;
const TYPE_MASK: u8 = 0x3f;
const TYPE_EXTENDED_CDB: u8 = 1;
const TYPE_BIDIRECTIONAL_READ_LENGTH: u8 = 2;
/// AHSLength of the bidirectional segment: one reserved byte and four of length.
const BIDIRECTIONAL_READ_LENGTH: usize = 5;

/// All additional header segments of one PDU as they stood on the wire, padding included.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct AhsBytes(ArrayVec<u8, AHS_BYTES_MAX>);

/// One additional header segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ahs<'a> {
    /// The bytes of the CDB after the sixteenth (RFC 7143 §11.2.2.3).
    ExtendedCdb(&'a [u8]),
    /// Bytes that the initiator expects to read in a bidirectional command (RFC 7143 §11.2.2.4).
    ExpectedBidirectionalReadDataLength(u32),
    /// A type that RFC 7143 does not define, or reserves: six bits.
    Unknown(u8),
}

/// Why a segment cannot be read, or not be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum AhsError {
    #[error("an AHS is longer than TotalAHSLength allows")]
    Truncated,
    #[error("an AHS of type {kind} has length {length}")]
    Length { kind: u8, length: u16 },
    #[error("more than {AHS_BYTES_MAX} bytes of AHS")]
    TooLong,
}

impl AhsBytes {
    /// No segment.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the segments as they stand on the wire.
    ///
    /// # Errors
    /// [`AhsError::TooLong`] if there are more than [`AHS_BYTES_MAX`] bytes.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, AhsError> {
        ArrayVec::try_from(bytes)
            .map(Self)
            .map_err(|_| AhsError::TooLong)
    }

    /// Appends one segment with its padding, for emission.
    ///
    /// # Errors
    /// [`AhsError::TooLong`] if it does not fit; nothing was appended then. [`Ahs::Unknown`] has no
    /// body and is written with length 1.
    pub fn push(&mut self, ahs: Ahs<'_>) -> Result<(), AhsError> {
        let number;
        let (kind, body): (u8, &[u8]) = match ahs {
            Ahs::ExtendedCdb(rest) => (TYPE_EXTENDED_CDB, rest),
            Ahs::ExpectedBidirectionalReadDataLength(length) => {
                number = length.to_be_bytes();
                (TYPE_BIDIRECTIONAL_READ_LENGTH, &number)
            }
            Ahs::Unknown(kind) => (kind & TYPE_MASK, &[]),
        };
        let length = body.len() + 1;
        let size = (UNCOUNTED + length).next_multiple_of(4);
        let wire_length = u16::try_from(length).map_err(|_| AhsError::TooLong)?;
        if size > self.0.remaining_capacity() {
            return Err(AhsError::TooLong);
        }
        let end = self.0.len() + size;
        self.0.extend(wire_length.to_be_bytes());
        self.0.extend([kind, 0]);
        self.0.extend(body.iter().copied());
        self.0.extend(std::iter::repeat_n(0, end - self.0.len()));
        Ok(())
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes, padding included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The segments in wire order.
    pub fn iter(&self) -> AhsIter<'_> {
        AhsIter { rest: &self.0 }
    }
}

impl<'a> IntoIterator for &'a AhsBytes {
    type Item = Result<Ahs<'a>, AhsError>;
    type IntoIter = AhsIter<'a>;

    fn into_iter(self) -> AhsIter<'a> {
        self.iter()
    }
}

/// Walks over additional header segments.
#[derive(Clone, Debug)]
pub struct AhsIter<'a> {
    rest: &'a [u8],
}

impl<'a> AhsIter<'a> {
    /// Over the bytes between BHS and header digest.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn split_segment(&mut self) -> Result<Ahs<'a>, AhsError> {
        let (head, _) = self
            .rest
            .split_first_chunk::<4>()
            .ok_or(AhsError::Truncated)?;
        let length = u16::from_be_bytes(
            head[field::AHS_LENGTH]
                .try_into()
                .expect("the range is two bytes long"),
        );
        let kind = head[field::AHS_TYPE] & TYPE_MASK;
        let unpadded = UNCOUNTED + usize::from(length);
        let size = unpadded.next_multiple_of(4);
        let (segment, rest) = self
            .rest
            .split_at_checked(size)
            .ok_or(AhsError::Truncated)?;
        self.rest = rest;
        // A length of zero leaves out the AHS-specific byte: such a body is empty.
        let body = segment
            .get(field::AHS_SPECIFIC + 1..unpadded)
            .unwrap_or_default();
        let wrong_length = Err(AhsError::Length { kind, length });
        match kind {
            TYPE_EXTENDED_CDB if body.is_empty() => wrong_length,
            TYPE_EXTENDED_CDB => Ok(Ahs::ExtendedCdb(body)),
            TYPE_BIDIRECTIONAL_READ_LENGTH if usize::from(length) == BIDIRECTIONAL_READ_LENGTH => {
                body.try_into().map_or(wrong_length, |bytes| {
                    Ok(Ahs::ExpectedBidirectionalReadDataLength(
                        u32::from_be_bytes(bytes),
                    ))
                })
            }
            TYPE_BIDIRECTIONAL_READ_LENGTH => wrong_length,
            unknown => Ok(Ahs::Unknown(unknown)),
        }
    }
}

impl<'a> Iterator for AhsIter<'a> {
    type Item = Result<Ahs<'a>, AhsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let item = self.split_segment();
        if item.is_err() {
            self.rest = &[];
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_32_byte_cdb_takes_20_bytes_and_the_bidirectional_length_8() {
        let mut ahs = AhsBytes::new();
        ahs.push(Ahs::ExtendedCdb(&[7; 16])).unwrap();
        assert_eq!(ahs.len(), 20);
        // RFC 7143 §11.2.2.3: AHSLength is the length of the CDB minus 15.
        assert_eq!(ahs.as_slice()[..4], [0, 32 - 15, 1, 0]);
        ahs.push(Ahs::ExpectedBidirectionalReadDataLength(0x0102_0304))
            .unwrap();
        assert_eq!(ahs.as_slice()[20..], [0, 5, 2, 0, 1, 2, 3, 4]);
        let found: Vec<_> = ahs.iter().collect();
        assert_eq!(
            found,
            [
                Ok(Ahs::ExtendedCdb(&[7; 16])),
                Ok(Ahs::ExpectedBidirectionalReadDataLength(0x0102_0304)),
            ]
        );
    }

    #[test]
    fn a_segment_longer_than_what_is_there_is_an_error_and_the_end() {
        let mut iter = AhsIter::new(&[0xff, 0xff, 1, 0]);
        assert_eq!(iter.next(), Some(Err(AhsError::Truncated)));
        assert_eq!(iter.next(), None);
        assert_eq!(
            AhsIter::new(&[0, 5, 2]).next(),
            Some(Err(AhsError::Truncated))
        );
    }

    #[test]
    fn lengths_that_a_type_cannot_have_are_errors() {
        let wrong = |kind, length| Some(Err(AhsError::Length { kind, length }));
        assert_eq!(AhsIter::new(&[0, 0, 1, 0]).next(), wrong(1, 0));
        assert_eq!(AhsIter::new(&[0, 1, 1, 0]).next(), wrong(1, 1));
        assert_eq!(AhsIter::new(&[0, 1, 2, 0]).next(), wrong(2, 1));
        assert_eq!(
            AhsIter::new(&[0, 6, 2, 0, 1, 2, 3, 4, 5, 0, 0, 0]).next(),
            wrong(2, 6)
        );
        assert_eq!(
            AhsIter::new(&[0, 0, 9, 0]).next(),
            Some(Ok(Ahs::Unknown(9)))
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_and_leaves_the_rest_alone() {
        let mut ahs = AhsBytes::new();
        ahs.push(Ahs::ExtendedCdb(&[1; 56])).unwrap();
        let before = ahs.clone();
        assert_eq!(ahs.push(Ahs::ExtendedCdb(&[2; 1])), Err(AhsError::TooLong));
        assert_eq!(ahs, before);
        assert_eq!(
            AhsBytes::from_wire(&[0; AHS_BYTES_MAX + 1]),
            Err(AhsError::TooLong)
        );
        assert_eq!(
            ahs.push(Ahs::ExtendedCdb(&vec![2; 70_000])),
            Err(AhsError::TooLong)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_end_after_at_most_one_item_per_word(
            bytes in prop::collection::vec(any::<u8>(), 0..256),
        ) {
            let items: Vec<_> = AhsIter::new(&bytes).collect();
            prop_assert!(items.len() <= bytes.len().div_ceil(4));
            let errors = items.iter().filter(|item| item.is_err()).count();
            prop_assert!(errors <= 1);
            prop_assert!(errors == 0 || items.last().unwrap().is_err());
        }

        #[test]
        fn what_was_pushed_is_found_again(
            cdb in prop::collection::vec(any::<u8>(), 1..=48),
            length: u32,
        ) {
            let mut ahs = AhsBytes::new();
            ahs.push(Ahs::ExpectedBidirectionalReadDataLength(length)).unwrap();
            ahs.push(Ahs::ExtendedCdb(&cdb)).unwrap();
            prop_assert_eq!(ahs.len() % 4, 0);
            let again = AhsBytes::from_wire(ahs.as_slice()).unwrap();
            let found: Vec<_> = again.iter().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(
                found,
                vec![Ahs::ExpectedBidirectionalReadDataLength(length), Ahs::ExtendedCdb(&cdb)]
            );
        }
    }
}
