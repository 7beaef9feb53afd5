//! The words of NVM Express: registers, queue entries, commands, statuses, and the data that
//! Identify and log pages return. (NVM Express Base Specification 2.0, NVM Command Set
//! Specification 1.0, NVMe over PCIe Transport Specification 1.0; section numbers are theirs.)
//!
//! Pure: bytes in, values out. What a controller says is read with bounds, and every value that
//! its bytes can have is a value here, so a controller that lies cannot make a parser panic.
//! Whether a value makes sense is for whoever uses it to say.

#![forbid(unsafe_code)]

pub(crate) mod command;
pub(crate) mod entry;
pub(crate) mod identify;
pub(crate) mod log;
pub(crate) mod registers;
pub(crate) mod status;

/// The bytes of one page of data that a controller has returned, read at fixed offsets.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    /// `N` bytes from `at` on; offsets are constants inside the page.
    fn bytes<const N: usize>(self, at: usize) -> [u8; N] {
        *self.0[at..]
            .first_chunk()
            .expect("offsets are inside the page")
    }

    fn byte(self, at: usize) -> u8 {
        self.0[at]
    }

    fn u16(self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    fn u32(self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    fn u64(self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }

    fn u128(self, at: usize) -> u128 {
        u128::from_le_bytes(self.bytes(at))
    }

    fn bit(self, at: usize, bit: u8) -> bool {
        self.byte(at) & 1 << bit != 0
    }

    /// ASCII, padded with blanks: what is not printable becomes `?`, blanks at the ends go.
    fn text(self, at: usize, len: usize) -> String {
        let printable = |&byte: &u8| {
            if (0x20..0x7f).contains(&byte) {
                char::from(byte)
            } else {
                '?'
            }
        };
        let bytes = self.0[at..at + len].iter();
        let text: String = bytes
            .take_while(|&&byte| byte != 0)
            .map(printable)
            .collect();
        text.trim().to_owned()
    }
}
