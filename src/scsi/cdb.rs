//! The command descriptor block (SPC-4, CDB formats): a fixed room of 32 bytes and accessors for
//! its fields.
//!
//! All multi-byte fields are big-endian. Bytes beyond what the transport delivered read as zero, so
//! accessors with constant offsets cannot fail. Which bits may be set at all is not known here: the
//! one check against reserved bits is made with the usage mask of the command's row in
//! [`opcodes`](super::opcodes).

use super::sense::Sense;

/// Longest CDB that is kept, in bytes: the variable-length form of the 32-byte block commands.
pub const CDB_BYTES_MAX: usize = 32;

/// Bytes of a CDB that an iSCSI Command PDU carries without an additional header segment
/// (RFC 7143 §11.3.5).
pub const CDB_BYTES_BASIC: usize = 16;

/// One command descriptor block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cdb {
    bytes: [u8; CDB_BYTES_MAX],
}

impl Cdb {
    /// The CDB of a command without an extended-CDB header segment; shorter CDBs are padded with
    /// zeroes by the initiator (RFC 7143 §11.3.5).
    #[inline]
    pub fn new(basic: &[u8; CDB_BYTES_BASIC]) -> Self {
        let mut bytes = [0; CDB_BYTES_MAX];
        bytes[..CDB_BYTES_BASIC].copy_from_slice(basic);
        Self { bytes }
    }

    /// The CDB of a command whose bytes from the 17th on came in `extended`; `None` when all of it
    /// is longer than [`CDB_BYTES_MAX`].
    pub fn with_extended(basic: &[u8; CDB_BYTES_BASIC], extended: &[u8]) -> Option<Self> {
        let mut bytes = [0; CDB_BYTES_MAX];
        bytes[..CDB_BYTES_BASIC].copy_from_slice(basic);
        bytes
            .get_mut(CDB_BYTES_BASIC..CDB_BYTES_BASIC + extended.len())?
            .copy_from_slice(extended);
        Some(Self { bytes })
    }

    /// The operation code, byte 0.
    pub fn opcode(&self) -> u8 {
        self.bytes[0]
    }

    /// The SERVICE ACTION field where all commands but the variable-length ones have it: bits 4–0
    /// of byte 1.
    pub fn service_action(&self) -> u8 {
        self.bytes[1] & 0x1f
    }

    /// The form of the CDB by its group code, the upper three bits of the operation code
    /// (SPC-4, operation code structure); 0 = 6 bytes, 1 and 2 = 10, 4 = 16, 5 = 12.
    pub fn group(&self) -> u8 {
        self.bytes[0] >> 5
    }

    /// The first 16 bytes as one number, byte 0 most significant.
    pub(super) fn basic_bits(&self) -> u128 {
        let (basic, _) = self
            .bytes
            .split_first_chunk::<CDB_BYTES_BASIC>()
            .expect("32 bytes hold 16");
        u128::from_be_bytes(*basic)
    }

    /// The bytes from the 17th on as one number, the 17th most significant.
    pub(super) fn extended_bits(&self) -> u128 {
        let (_, extended) = self
            .bytes
            .split_first_chunk::<CDB_BYTES_BASIC>()
            .expect("32 bytes hold 16");
        u128::from_be_bytes(*extended.first_chunk().expect("and 16 more"))
    }

    /// The byte at `at`.
    pub fn u8(&self, at: usize) -> u8 {
        self.bytes[at]
    }

    /// Whether `bit` (7 = most significant) of the byte at `at` is set.
    pub fn bit(&self, at: usize, bit: u8) -> bool {
        self.bytes[at] & (1 << bit) != 0
    }

    /// The two-byte field at `at`.
    pub fn be16(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    /// The three-byte field at `at`.
    pub fn be24(&self, at: usize) -> u32 {
        let [a, b, c] = self.array(at);
        u32::from_be_bytes([0, a, b, c])
    }

    /// The four-byte field at `at`.
    pub fn be32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    /// The eight-byte field at `at`.
    pub fn be64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        *self.bytes[at..]
            .first_chunk()
            .expect("field offsets are constants inside the CDB")
    }

    /// Checks that only bits of `allowed` are set in the first 16 bytes (SPC-4: reserved
    /// fields are zero, else INVALID FIELD IN CDB). The sense data point at the first bit that
    /// offends.
    pub(super) fn check_reserved(&self, allowed: u128) -> Result<(), Sense> {
        check_bits(self.basic_bits() & !allowed, 0)
    }

    /// The same of the bytes from the 17th on, for the 32-byte form.
    pub(super) fn check_reserved_extended(&self, allowed: u128) -> Result<(), Sense> {
        check_bits(self.extended_bits() & !allowed, 16)
    }
}

/// Names the first of the bits that offend, in 16 bytes that begin at byte `from` of the CDB.
fn check_bits(offending: u128, from: u16) -> Result<(), Sense> {
    if offending == 0 {
        return Ok(());
    }
    let position = offending.leading_zeros().to_be_bytes()[3];
    Err(Sense::invalid_field_in_cdb(
        from + u16::from(position / 8),
        Some(7 - position % 8),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::sense::SenseSpecific;

    fn counting() -> Cdb {
        Cdb::new(&[0x88, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])
    }

    #[test]
    fn fields_are_big_endian() {
        let cdb = counting();
        assert_eq!(cdb.opcode(), 0x88);
        assert_eq!(cdb.group(), 4);
        assert_eq!(cdb.be16(7), 0x0708);
        assert_eq!(cdb.be24(1), 0x01_0203);
        assert_eq!(cdb.be32(10), 0x0a0b_0c0d);
        assert_eq!(cdb.be64(2), 0x0203_0405_0607_0809);
    }

    #[test]
    fn extended_bytes_follow_the_first_sixteen() {
        let cdb = Cdb::with_extended(&[0x7f; 16], &[1, 2, 3, 4]).unwrap();
        assert_eq!(cdb.be32(16), 0x0102_0304);
        assert_eq!(cdb.be32(20), 0);
    }

    #[test]
    fn extended_cdb_of_more_than_32_bytes_is_refused() {
        assert!(Cdb::with_extended(&[0x7f; 16], &[0; 16]).is_some());
        assert_eq!(Cdb::with_extended(&[0x7f; 16], &[0; 17]), None);
    }

    #[test]
    fn reserved_bit_is_named_by_byte_and_bit() {
        let mut bytes = [0; 16];
        bytes[3] = 0b0001_0100;
        bytes[9] = 0xff;
        let sense = Cdb::new(&bytes).check_reserved(0).unwrap_err();
        assert_eq!(
            sense.specific,
            SenseSpecific::Field {
                in_cdb: true,
                byte: 3,
                bit: Some(4)
            }
        );
        assert_eq!(Cdb::new(&bytes).check_reserved(u128::MAX), Ok(()));
        let long = Cdb::with_extended(&bytes, &[0, 0, 0x80]).unwrap();
        assert_eq!(long.check_reserved_extended(u128::MAX), Ok(()));
        let sense = long.check_reserved_extended(0).unwrap_err();
        assert_eq!(sense, Sense::invalid_field_in_cdb(18, Some(7)));
    }
}
