//! Header and data digests: CRC32C (RFC 7143 §13.1).
//!
//! Two engines compute the same sum: `crc32c`, quick to start, for headers and short pieces, and
//! `crc-fast`, several times faster from a few hundred bytes on. They continue each other's sums,
//! so a data segment may arrive in pieces of any length. `crc32c` is also the oracle for
//! `crc-fast`, in the tests and in [`self_test`], which the daemon runs before it listens.
//!
//! A digest covers the padding of its segment as well (RFC 7143 §13.1).

use crc_fast::CrcAlgorithm::Crc32Iscsi;

/// Bytes of a digest on the wire.
pub const DIGEST_LEN: usize = 4;

/// Pieces shorter than this are faster with `crc32c`.
const CRC_FAST_MIN: usize = 256;

/// The sum of a header: BHS and AHS together.
#[inline]
pub fn header_digest(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// The digest as it travels. RFC 7143 §13.1 maps the bits of the sum so that its least significant
/// byte goes first, unlike all other numbers of the protocol; Appendix A.4 shows it.
#[inline]
pub fn digest_to_wire(digest: u32) -> [u8; DIGEST_LEN] {
    digest.to_le_bytes()
}

/// The inverse of [`digest_to_wire`].
#[inline]
pub fn digest_from_wire(bytes: [u8; DIGEST_LEN]) -> u32 {
    u32::from_le_bytes(bytes)
}

/// The sum of a data segment and its padding, piece by piece.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DataDigest {
    crc: u32,
}

impl DataDigest {
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next bytes.
    #[inline]
    pub fn update(&mut self, bytes: &[u8]) {
        self.crc = if bytes.len() < CRC_FAST_MIN {
            crc32c::crc32c_append(self.crc, bytes)
        } else {
            append_with_crc_fast(self.crc, bytes)
        };
    }

    /// The sum of all bytes so far.
    #[inline]
    pub fn finish(self) -> u32 {
        self.crc
    }
}

/// `crc32c_append` in terms of `crc-fast`, whose state is the complement of the sum so far.
#[inline]
fn append_with_crc_fast(crc: u32, bytes: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new_with_init_state(Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    u32::try_from(digest.finalize()).expect("a 32-bit sum has its upper half clear")
}

/// Checks on this machine, with the code paths that its processor selects, that both engines give
/// the sums of RFC 7143 Appendix A.4, and that they agree on a long block in uneven pieces.
///
/// # Errors
/// A sentence that names the engine and the vector.
pub fn self_test() -> Result<(), String> {
    for vector in &RFC_VECTORS {
        let wire = vector.wire;
        if digest_to_wire(crc32c::crc32c(vector.bytes)) != wire {
            return Err(format!("crc32c gives a wrong CRC32C for {}", vector.name));
        }
        if digest_to_wire(append_with_crc_fast(0, vector.bytes)) != wire {
            return Err(format!("crc-fast gives a wrong CRC32C for {}", vector.name));
        }
    }
    let block: [u8; SELF_TEST_BLOCK] = std::array::from_fn(|i| (i * 31).to_le_bytes()[0]);
    let expected = crc32c::crc32c(&block);
    for split in [0, 1, 255, 256, 257, 1449, SELF_TEST_BLOCK] {
        let mut digest = DataDigest::new();
        let (first, second) = block.split_at(split);
        digest.update(first);
        digest.update(second);
        if digest.finish() != expected {
            return Err(format!(
                "crc-fast and crc32c disagree on a block split at {split}"
            ));
        }
    }
    Ok(())
}

/// Long enough for every wide path of `crc-fast`.
const SELF_TEST_BLOCK: usize = 4096 + 37;

/// Bytes and their digest in wire order.
struct Vector {
    name: &'static str,
    bytes: &'static [u8],
    wire: [u8; DIGEST_LEN],
}

/// RFC 7143 Appendix A.4.
const RFC_VECTORS: [Vector; 5] = [
    Vector {
        name: "32 bytes of zero",
        bytes: &[0; 32],
        wire: [0xaa, 0x36, 0x91, 0x8a],
    },
    Vector {
        name: "32 bytes of ones",
        bytes: &[0xff; 32],
        wire: [0x43, 0xab, 0xa8, 0x62],
    },
    Vector {
        name: "00h to 1Fh",
        bytes: &counting::<32>(false),
        wire: [0x4e, 0x79, 0xdd, 0x46],
    },
    Vector {
        name: "1Fh to 00h",
        bytes: &counting::<32>(true),
        wire: [0x5c, 0xdb, 0x3f, 0x11],
    },
    Vector {
        name: "a READ (10) command",
        bytes: &READ_10_COMMAND,
        wire: [0x56, 0x3a, 0x96, 0xd9],
    },
];

/// The header of the last vector.
const READ_10_COMMAND: [u8; 48] = [
    0x01, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x18,
    0x28, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
];

const fn counting<const N: usize>(down: bool) -> [u8; N] {
    assert!(N <= 256);
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        bytes[i] = (if down { N - 1 - i } else { i }).to_le_bytes()[0];
        i += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// CRC32C bit by bit from its polynomial, so that the oracle is not taken on trust either.
    fn bit_by_bit(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                if crc & 1 == 1 {
                    crc >> 1 ^ 0x82f6_3b78
                } else {
                    crc >> 1
                }
            })
        })
    }

    #[test]
    fn self_test_passes_on_this_machine() {
        assert_eq!(self_test(), Ok(()));
    }

    #[test]
    fn vectors_of_the_rfc_hold_for_a_third_implementation() {
        for vector in &RFC_VECTORS {
            assert_eq!(
                digest_to_wire(bit_by_bit(vector.bytes)),
                vector.wire,
                "{}",
                vector.name
            );
            assert_eq!(digest_from_wire(vector.wire), header_digest(vector.bytes));
        }
    }

    #[test]
    fn every_length_and_alignment_gives_the_sum_of_the_oracle() {
        let bytes: Vec<u8> = (0..1400u32)
            .map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0])
            .collect();
        for start in 0..16 {
            for end in start..bytes.len() {
                let piece = &bytes[start..end];
                let expected = crc32c::crc32c(piece);
                assert_eq!(append_with_crc_fast(0, piece), expected, "{start}..{end}");
                let mut digest = DataDigest::new();
                digest.update(piece);
                assert_eq!(digest.finish(), expected, "{start}..{end}");
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_give_the_sum_of_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..20_000),
            cuts in prop::collection::vec(1usize..3000, 1..20),
        ) {
            let mut digest = DataDigest::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at(rest.len().min(*cut));
                digest.update(piece);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(digest.finish(), bit_by_bit(&bytes));
        }
    }
}
