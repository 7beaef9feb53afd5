//! The kernel's structures of commands (linux/nvme_ioctl.h), on little-endian machines.

use super::super::spec::entry::SubmissionEntry;

/// `_IO('N', 0x40)`: which namespace a file is.
pub(super) const NAMESPACE_ID: u64 = 0x4e40;
/// `_IOWR('N', 0x41, struct nvme_passthru_cmd)`.
pub(super) const ADMIN: u64 = request(0x41);
/// `_IOWR('N', 0x81, struct nvme_uring_cmd)`: an I/O command with an array of `struct iovec`.
pub(super) const URING_IO_VECTORED: u32 = 0xc048_4e81;
/// `struct nvme_uring_cmd` and `struct nvme_passthru_cmd` have the same length.
pub(super) const COMMAND_BYTES: usize = 72;

/// Read and write (3), the length, the letter, the number.
const fn request(number: u64) -> u64 {
    3 << 30 | (COMMAND_BYTES as u64) << 16 | (b'N' as u64) << 8 | number
}

/// Where the fields are, which the two structures have in common but for the last one.
mod at {
    pub(super) const OPCODE: usize = 0;
    pub(super) const NSID: usize = 4;
    pub(super) const ADDRESS: usize = 24;
    pub(super) const LENGTH: usize = 36;
    pub(super) const DWORD_10: usize = 40;
    pub(super) const TIMEOUT_MS: usize = 64;
}

/// `struct nvme_uring_cmd` with `entry`'s command, and data at `address`: bytes, or vectors.
pub(super) fn bytes(entry: &SubmissionEntry, address: u64, length: u32) -> [u8; COMMAND_BYTES] {
    let mut bytes = [0; COMMAND_BYTES];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(at::OPCODE, &[entry.opcode()]);
    put(at::NSID, &entry.namespace().0.to_le_bytes());
    put(at::ADDRESS, &address.to_le_bytes());
    put(at::LENGTH, &length.to_le_bytes());
    for nth in 0..6 {
        put(at::DWORD_10 + 4 * nth, &entry.dword(10 + nth).to_le_bytes());
    }
    // The kernel's own, for which its driver has a setting.
    put(at::TIMEOUT_MS, &0_u32.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::super::spec::command::{Blocks, Identify, identify, write};
    use super::super::super::spec::entry::NamespaceId;
    use super::*;

    #[test]
    fn requests_have_the_kernels_numbers() {
        assert_eq!(ADMIN, 0xc048_4e41);
        assert_eq!(u64::from(URING_IO_VECTORED), request(0x81));
    }

    #[test]
    fn a_command_is_where_the_kernel_looks_for_it() {
        let blocks = Blocks {
            namespace: NamespaceId(0x0102_0304),
            lba: 0x1112_1314_1516_1718,
            count: 8,
        };
        let bytes = bytes(&write(blocks, true), 0x2122_2324_2526_2728, 3);
        let word = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
        assert_eq!(bytes[0], 1, "Write");
        assert_eq!(bytes[1..4], [0; 3], "no flags");
        assert_eq!(word(4), 0x0102_0304);
        assert_eq!((word(8), word(12), word(16), word(20)), (0, 0, 0, 0));
        assert_eq!((word(24), word(28)), (0x2526_2728, 0x2122_2324));
        assert_eq!((word(32), word(36)), (0, 3));
        assert_eq!((word(40), word(44)), (0x1516_1718, 0x1112_1314));
        assert_eq!(word(48), 1 << 30 | 7, "FUA, eight blocks");
        assert_eq!(bytes[52..], [0; 20]);
        let identity = super::bytes(&identify(Identify::Controller), 0, 4096);
        assert_eq!((identity[0], identity[40]), (6, 1));
    }
}
