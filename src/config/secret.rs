//! A CHAP secret in memory.
//!
//! The bytes are zeroised when the value is dropped, and neither `Debug` nor any error message ever
//! shows them or their length.

use std::fmt;

use zeroize::Zeroizing;

/// Secrets shorter than this can be guessed from one recorded login: RFC 7143 §9.2.1 asks for 96
/// random bits at least where IPsec does not protect the connection.
pub const SECRET_LEN_RECOMMENDED: usize = 12;

/// Secrets longer than this are refused; a file that large is not a secret.
pub const SECRET_LEN_MAX: usize = 255;

/// A CHAP secret: 1 to [`SECRET_LEN_MAX`] bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over; `None` when they are empty or too many.
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        let bytes = Zeroizing::new(bytes);
        (1..=SECRET_LEN_MAX)
            .contains(&bytes.len())
            .then_some(Self(bytes))
    }

    /// The bytes, for the digest of a CHAP response. Never log them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_neither_bytes_nor_length() {
        let short = Secret::new(b"hunter2".to_vec()).expect("seven bytes are a secret");
        let long = Secret::new(vec![b'h'; 40]).expect("forty bytes are a secret");
        assert_eq!(format!("{short:?}"), "Secret(…)");
        assert_eq!(format!("{long:?}"), format!("{short:?}"));
    }

    #[test]
    fn empty_and_oversized_secrets_do_not_exist() {
        assert!(Secret::new(Vec::new()).is_none());
        assert!(Secret::new(vec![1; SECRET_LEN_MAX]).is_some());
        assert!(Secret::new(vec![1; SECRET_LEN_MAX + 1]).is_none());
    }
}
