//! The Internet checksum (RFC 1071) over bytes in several slices.
//!
//! The sum does not depend on the byte order it is taken in, so words of eight bytes are added as
//! they lie in memory, and the order is put right once at the end.

use std::net::IpAddr;

use super::Frame;

/// A sum under way. [`Sum::add`] takes slices of any length, also odd ones between others.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sum {
    /// Of 16-bit words in little-endian order, not folded.
    words: u64,
    /// An odd number of bytes has been added: the next one is the second of its word.
    odd: bool,
}

impl Sum {
    pub const fn new() -> Self {
        Self {
            words: 0,
            odd: false,
        }
    }

    /// The pseudo-header of a protocol over IPv4 or IPv6 (RFC 9293 §3.1, RFC 8200 §8.1). `len`: the
    /// bytes of header and payload. Addresses of two families have no such header: nothing is
    /// added.
    #[must_use]
    pub fn pseudo_header(source: IpAddr, dest: IpAddr, protocol: u8, len: u32) -> Self {
        let mut sum = Self::new();
        match (source, dest) {
            (IpAddr::V4(source), IpAddr::V4(dest)) => {
                sum.add(&source.octets());
                sum.add(&dest.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(dest)) => {
                sum.add(&source.octets());
                sum.add(&dest.octets());
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
        }
        sum.add(&len.to_be_bytes());
        sum.add(&[0, protocol]);
        sum
    }

    /// Adds bytes behind those before.
    pub fn add(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if self.odd
            && let Some((&second, behind)) = rest.split_first()
        {
            self.words = fold_32(self.words) + (u64::from(second) << 8);
            self.odd = false;
            rest = behind;
        }
        // Nothing is neither odd nor even: whose turn it is stays as it was.
        if rest.is_empty() {
            return;
        }
        let (words, tail) = rest.as_chunks::<8>();
        let mut sum = 0_u64;
        // Each step adds less than 2³³: a block cannot overflow.
        for block in words.chunks(1 << 20) {
            sum = fold_32(sum + add_words(block));
        }
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        let word = u64::from_le_bytes(last);
        sum += (word & 0xFFFF_FFFF) + (word >> 32);
        self.words = fold_32(self.words) + fold_32(sum);
        self.odd = tail.len() % 2 == 1;
    }

    /// Adds bytes `start..end` of a frame, as far as it has them.
    pub fn add_frame(&mut self, frame: &Frame, start: usize, end: usize) {
        let mut at = 0_usize;
        for slice in frame.slices() {
            let next = at.saturating_add(slice.len());
            if next > start && at < end {
                let from = start.saturating_sub(at).min(slice.len());
                let to = end.saturating_sub(at).min(slice.len());
                self.add(&slice[from..to]);
            }
            at = next;
            if at >= end {
                break;
            }
        }
    }

    /// The sum folded to 16 bits, not complemented: what a device that writes the checksum wants in
    /// its field.
    #[must_use]
    pub fn folded(self) -> u16 {
        let mut sum = fold_32(self.words);
        sum = (sum & 0xFFFF) + (sum >> 16);
        sum = (sum & 0xFFFF) + (sum >> 16);
        let sum = (sum & 0xFFFF) + (sum >> 16);
        u16::try_from(sum & 0xFFFF)
            .expect("16 bits are left")
            .swap_bytes()
    }

    /// What the checksum field has to hold.
    #[must_use]
    pub fn checksum(self) -> u16 {
        !self.folded()
    }

    /// The bytes, with their checksum among them, are as they were sent.
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.folded() == 0xFFFF
    }
}

/// The sum of at most 2²⁰ words of eight bytes: less than 2⁵³.
fn add_words(words: &[[u8; 8]]) -> u64 {
    // Several sums, none of which waits for another, and no checks in between: the compiler adds
    // several words with one instruction.
    let mut sums = [0_u64; 8];
    let (lines, rest) = words.as_chunks::<8>();
    for line in lines {
        for (sum, &word) in sums.iter_mut().zip(line) {
            let word = u64::from_le_bytes(word);
            *sum = sum.wrapping_add((word & 0xFFFF_FFFF).wrapping_add(word >> 32));
        }
    }
    for (sum, &word) in sums.iter_mut().zip(rest) {
        let word = u64::from_le_bytes(word);
        *sum = sum.wrapping_add((word & 0xFFFF_FFFF).wrapping_add(word >> 32));
    }
    sums.iter().sum()
}

/// At most 2³³, with the same 16-bit sum.
const fn fold_32(sum: u64) -> u64 {
    (sum & 0xFFFF_FFFF) + (sum >> 32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As RFC 1071 §4.1 says it, two bytes at a time.
    fn plainly(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_rfc_s_example() {
        // RFC 1071 §3.
        let mut sum = Sum::new();
        sum.add(&[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7]);
        assert_eq!(sum.folded(), 0xDDF2);
        assert_eq!(sum.checksum(), !0xDDF2);
    }

    #[test]
    fn many_full_words_do_not_overflow() {
        let bytes = vec![0xFF; (1 << 20) * 8 + 24];
        let mut sum = Sum::new();
        for _ in 0..4 {
            sum.add(&bytes);
        }
        assert_eq!(sum.folded(), 0xFFFF);
    }

    proptest! {
        #[test]
        fn slices_add_up_like_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            cuts in proptest::collection::vec(0_usize..600, 0..6),
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().filter(|&at| at <= bytes.len()).collect();
            cuts.sort_unstable();
            let mut sum = Sum::new();
            let mut at = 0;
            for cut in cuts {
                sum.add(&bytes[at..cut]);
                at = cut;
            }
            sum.add(&bytes[at..]);
            // Both zeros of ones' complement are one.
            prop_assert_eq!(sum.folded() % 0xFFFF, plainly(&bytes) % 0xFFFF);
            prop_assert_eq!(sum.folded() == 0, bytes.iter().all(|&byte| byte == 0));
        }
    }
}
