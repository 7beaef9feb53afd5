//! Whole PDUs from bytes and back (RFC 7143 §11.1), with digests by the plain crc32c crate.
//!
//! The target has a framer of its own that never holds a data segment; this one keeps whole PDUs,
//! because a test wants to look at them, and it is a second opinion on where digests and padding
//! stand.

use crate::pdu::{BHS_LEN, Bhs};
use crate::testing::Violation;
use crate::testing::violation::ensure;

/// Bytes of a header or data digest on the wire.
const DIGEST_BYTES: usize = 4;

/// One PDU as received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pdu {
    pub bhs: Bhs,
    /// The data segment without padding.
    pub data: Vec<u8>,
}

/// How to digest a PDU that is sent by hand.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum DigestMode {
    /// As negotiated.
    #[default]
    Negotiated,
    /// Present if negotiated, but with one bit flipped.
    Wrong,
    /// Left out, whatever was negotiated.
    Absent,
}

/// A PDU to be sent by hand, right or wrong.
#[derive(Clone, Debug)]
pub struct RawPdu {
    pub bhs: Bhs,
    /// A multiple of four bytes.
    pub ahs: Vec<u8>,
    pub data: Vec<u8>,
    pub header_digest: DigestMode,
    pub data_digest: DigestMode,
    /// Leave the two length fields of `bhs` alone instead of setting them from `ahs` and `data`.
    pub keep_lengths: bool,
}

impl RawPdu {
    /// A PDU with these bytes, lengths and digests in order.
    pub fn new(bhs: Bhs, data: Vec<u8>) -> Self {
        Self {
            bhs,
            ahs: Vec::new(),
            data,
            header_digest: DigestMode::Negotiated,
            data_digest: DigestMode::Negotiated,
            keep_lengths: false,
        }
    }
}

/// CRC32C as the wire has it: the digest's low byte first (RFC 7143 §13.1).
fn digest(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    crc32c::crc32c(bytes).to_le_bytes()
}

fn push_digest(out: &mut Vec<u8>, from: usize, negotiated: bool, mode: DigestMode) {
    match (negotiated, mode) {
        (false, _) | (_, DigestMode::Absent) => {}
        (true, DigestMode::Negotiated) => {
            let bytes = digest(&out[from..]);
            out.extend_from_slice(&bytes);
        }
        (true, DigestMode::Wrong) => {
            let mut bytes = digest(&out[from..]);
            bytes[0] ^= 1;
            out.extend_from_slice(&bytes);
        }
    }
}

/// Which digests a connection has.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Digests {
    pub(super) header: bool,
    pub(super) data: bool,
}

impl Digests {
    /// Appends the PDU to `out`.
    pub(super) fn emit(self, pdu: &RawPdu, out: &mut Vec<u8>) {
        let bhs = if pdu.keep_lengths {
            pdu.bhs
        } else {
            let length = u32::try_from(pdu.data.len()).expect("a test's data segment is small");
            pdu.bhs.with_lengths(pdu.ahs.len(), length)
        };
        let header_at = out.len();
        out.extend_from_slice(bhs.bytes());
        out.extend_from_slice(&pdu.ahs);
        push_digest(out, header_at, self.header, pdu.header_digest);
        if !pdu.data.is_empty() {
            let data_at = out.len();
            out.extend_from_slice(&pdu.data);
            let padding = pdu.data.len().next_multiple_of(4) - pdu.data.len();
            out.extend_from_slice(&[0; 3][..padding]);
            push_digest(out, data_at, self.data, pdu.data_digest);
        }
    }
}

/// Bytes received that are not yet a whole PDU.
#[derive(Default, Debug)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// How much of `bytes` was taken already.
    taken: usize,
}

impl Inbox {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether a PDU was begun and has not ended.
    pub(super) fn is_mid_pdu(&self) -> bool {
        self.bytes.len() > self.taken
    }

    /// The next whole PDU, or `None` until more bytes come.
    ///
    /// `data_segment_max` is the MaxRecvDataSegmentLength that holds now: it also bounds what this
    /// buffer can grow to.
    pub(super) fn next(
        &mut self,
        digests: Digests,
        data_segment_max: u32,
    ) -> Result<Option<Pdu>, Violation> {
        let rest = &self.bytes[self.taken..];
        let Some((header, _)) = rest.split_first_chunk::<BHS_LEN>() else {
            return Ok(None);
        };
        let bhs = Bhs::new(*header);
        ensure!(
            bhs.total_ahs_length() == 0,
            Ahs,
            "{} bytes of AHS",
            bhs.total_ahs_length()
        );
        let length = bhs.data_segment_length();
        ensure!(
            length <= data_segment_max,
            DataSegmentTooLong,
            "{length} bytes in {:?}, the initiator declared {data_segment_max}",
            bhs.opcode()
        );
        let length = usize::try_from(length).expect("24 bits fit");
        let header_end = BHS_LEN + if digests.header { DIGEST_BYTES } else { 0 };
        if rest.len() < header_end {
            return Ok(None);
        }
        if digests.header {
            let (expected, found) = (digest(header), &rest[BHS_LEN..header_end]);
            ensure!(
                expected == found,
                HeaderDigest,
                "{:?}: expected {expected:02x?}, received {found:02x?}",
                bhs.opcode()
            );
        }
        if length == 0 {
            self.taken += header_end;
            return Ok(Some(Pdu {
                bhs,
                data: Vec::new(),
            }));
        }
        let padded_end = header_end + length.next_multiple_of(4);
        let end = padded_end + if digests.data { DIGEST_BYTES } else { 0 };
        if rest.len() < end {
            return Ok(None);
        }
        let padded = &rest[header_end..padded_end];
        if digests.data {
            let (expected, found) = (digest(padded), &rest[padded_end..end]);
            ensure!(
                expected == found,
                DataDigest,
                "{:?}: expected {expected:02x?}, received {found:02x?}",
                bhs.opcode()
            );
        }
        let (data, padding) = padded.split_at(length);
        ensure!(
            padding.iter().all(|byte| *byte == 0),
            Padding,
            "{:?}: {padding:02x?} after {length} bytes",
            bhs.opcode()
        );
        let data = data.to_vec();
        self.taken += end;
        Ok(Some(Pdu { bhs, data }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::{CmdSn, Itt, LunField, NopIn, StatSn, Ttt};
    use crate::testing::Rule;

    fn nop_in() -> Bhs {
        NopIn {
            lun: LunField::default(),
            itt: Itt(7),
            ttt: Ttt::RESERVED,
            stat_sn: StatSn(1),
            exp_cmd_sn: CmdSn(2),
            max_cmd_sn: CmdSn(3),
        }
        .emit()
    }

    const BOTH: Digests = Digests {
        header: true,
        data: true,
    };

    fn wire(pdu: &RawPdu) -> Vec<u8> {
        let mut out = Vec::new();
        BOTH.emit(pdu, &mut out);
        out
    }

    #[test]
    fn a_pdu_survives_the_wire_one_byte_at_a_time() {
        let bytes = wire(&RawPdu::new(nop_in(), b"hello".to_vec()));
        assert_eq!(bytes.len(), 48 + 4 + 8 + 4);
        let mut inbox = Inbox::default();
        let (last, front) = bytes.split_last().unwrap();
        for byte in front {
            inbox.push(&[*byte]);
            assert_eq!(inbox.next(BOTH, 8192), Ok(None));
            assert!(inbox.is_mid_pdu());
        }
        inbox.push(&[*last]);
        let pdu = inbox.next(BOTH, 8192).unwrap().unwrap();
        assert_eq!(pdu.data, b"hello");
        assert_eq!(pdu.bhs, nop_in().with_lengths(0, 5));
        assert!(!inbox.is_mid_pdu());
    }

    #[test]
    fn wrong_digests_padding_and_lengths_are_violations() {
        let check = |pdu: &RawPdu, damage: Option<usize>, rule: Rule| {
            let mut bytes = wire(pdu);
            if let Some(at) = damage {
                bytes[at] ^= 0x10;
            }
            let mut inbox = Inbox::default();
            inbox.push(&bytes);
            assert_eq!(inbox.next(BOTH, 16).unwrap_err().rule, rule);
        };
        let good = RawPdu::new(nop_in(), b"hello".to_vec());
        check(
            &RawPdu {
                header_digest: DigestMode::Wrong,
                ..good.clone()
            },
            None,
            Rule::HeaderDigest,
        );
        check(
            &RawPdu {
                data_digest: DigestMode::Wrong,
                ..good.clone()
            },
            None,
            Rule::DataDigest,
        );
        check(&good, Some(20), Rule::HeaderDigest);
        check(&good, Some(52), Rule::DataDigest);
        check(
            &RawPdu {
                ahs: vec![0; 4],
                ..good.clone()
            },
            None,
            Rule::Ahs,
        );
        check(
            &RawPdu {
                data: vec![0; 17],
                ..good.clone()
            },
            None,
            Rule::DataSegmentTooLong,
        );
        let mut inbox = Inbox::default();
        let mut bytes = Vec::new();
        Digests::default().emit(&good, &mut bytes);
        *bytes.last_mut().unwrap() = 1;
        inbox.push(&bytes);
        let violation = inbox.next(Digests::default(), 16).unwrap_err();
        assert_eq!(violation.rule, Rule::Padding);
    }

    #[test]
    fn the_digest_is_the_one_of_the_standard() {
        // RFC 7143 appendix (test vectors of RFC 3720 §B.4): 32 bytes of zero.
        assert_eq!(digest(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
    }
}
