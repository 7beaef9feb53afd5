//! What an initiator must prove, and with what: authentication policies and their secrets
//! (RFC 7143 §12.1.3, RFC 1994).
//!
//! A policy is checked when it is made, so that one in use is known to have two different secrets
//! and at least one algorithm. Secrets are wiped when dropped, compare in constant time and print
//! nothing.

use std::fmt;

use arrayvec::ArrayVec;
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

/// Longest CHAP user name (RFC 7143 §6.1: 255 bytes for texts that have no bound of their own).
pub const USER_MAX_BYTES: usize = 255;

/// A shared secret.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over; no other copy of them is made here.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Whether both secrets have the same bytes, in a time that depends on their lengths only.
    pub fn same_as(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }

    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The hash functions that CHAP may use, with their numbers on the wire (RFC 7143 §12.1.3 and the
/// IANA registry of PPP authentication algorithms).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ChapAlgorithm {
    Md5 = 5,
    Sha1 = 6,
    Sha256 = 7,
    Sha3_256 = 8,
}

impl ChapAlgorithm {
    /// All of them, the strongest first.
    pub const ALL: [Self; 4] = [Self::Sha3_256, Self::Sha256, Self::Sha1, Self::Md5];

    /// The algorithm with this number in CHAP_A, if we know one.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| u64::from(algorithm.number()) == number)
    }

    /// The number in CHAP_A.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Bytes in a response, and in the challenges that we make.
    pub fn digest_bytes(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Sha3_256 => 32,
        }
    }

    /// The name that the configuration uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha3_256 => "sha3-256",
        }
    }
}

/// A name and the secret that proves it.
#[derive(Debug)]
pub struct Credentials {
    pub user: String,
    pub secret: Secret,
}

/// CHAP, with what the initiator must know and, for mutual authentication, what we prove to it.
#[derive(Debug)]
pub struct ChapPolicy {
    initiator: Credentials,
    target: Option<Credentials>,
    algorithms: ArrayVec<ChapAlgorithm, 4>,
}

/// Why credentials do not make a policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum PolicyError {
    #[error("the CHAP user name is empty")]
    EmptyUser,
    #[error("the CHAP user name is longer than {USER_MAX_BYTES} bytes or has a NUL in it")]
    BadUser,
    #[error("the CHAP secret is empty")]
    EmptySecret,
    #[error("the CHAP secret and the mutual CHAP secret are the same")]
    EqualSecrets,
    #[error("the list of CHAP algorithms is empty")]
    NoAlgorithm,
}

impl ChapPolicy {
    /// A policy under which an initiator proves `initiator` by one of `algorithms`, and we prove
    /// `target` if it asks. Algorithms named twice count once. RFC 7143 §9.2.1: the two directions
    /// never share a secret, or one side's answer could be played back as the other's.
    pub fn new(
        initiator: Credentials,
        target: Option<Credentials>,
        algorithms: &[ChapAlgorithm],
    ) -> Result<Self, PolicyError> {
        for credentials in [Some(&initiator), target.as_ref()].into_iter().flatten() {
            if credentials.user.is_empty() {
                return Err(PolicyError::EmptyUser);
            }
            if credentials.user.len() > USER_MAX_BYTES || credentials.user.contains('\0') {
                return Err(PolicyError::BadUser);
            }
            if credentials.secret.expose().is_empty() {
                return Err(PolicyError::EmptySecret);
            }
        }
        if target
            .as_ref()
            .is_some_and(|target| target.secret.same_as(&initiator.secret))
        {
            return Err(PolicyError::EqualSecrets);
        }
        let wanted = |algorithm: &ChapAlgorithm| algorithms.contains(algorithm);
        let algorithms: ArrayVec<_, 4> = ChapAlgorithm::ALL.into_iter().filter(wanted).collect();
        if algorithms.is_empty() {
            return Err(PolicyError::NoAlgorithm);
        }
        Ok(Self {
            initiator,
            target,
            algorithms,
        })
    }

    /// What the initiator must prove.
    pub fn initiator(&self) -> &Credentials {
        &self.initiator
    }

    /// What we prove to an initiator that asks.
    pub fn target(&self) -> Option<&Credentials> {
        self.target.as_ref()
    }

    /// The algorithms that may be used.
    pub fn algorithms(&self) -> &[ChapAlgorithm] {
        &self.algorithms
    }
}

/// What must be proved before full feature phase.
#[derive(Debug, Default)]
pub enum AuthPolicy {
    /// Nothing: AuthMethod=None, or no security negotiation at all.
    #[default]
    None,
    /// AuthMethod=CHAP, always.
    Chap(Box<ChapPolicy>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(user: &str, secret: &str) -> Credentials {
        Credentials {
            user: user.into(),
            secret: Secret::new(secret.into()),
        }
    }

    #[test]
    fn a_secret_prints_nothing_of_itself() {
        let policy = ChapPolicy::new(
            credentials("u", "hunter2hunter2"),
            None,
            &ChapAlgorithm::ALL,
        );
        let printed = format!("{policy:?}");
        assert!(
            printed.contains("Secret(…)") && !printed.contains("hunter2"),
            "{printed}"
        );
        assert!(!printed.contains("104, 117"), "{printed}");
    }

    // RFC 7143 §9.2.1.
    #[test]
    fn a_policy_without_sense_is_refused_when_it_is_made() {
        let all = &ChapAlgorithm::ALL;
        let new = |user: &str, secret, mutual, algorithms| {
            let mutual = Some(credentials("target", mutual));
            ChapPolicy::new(credentials(user, secret), mutual, algorithms).map(|_| ())
        };
        assert_eq!(
            new("u", "same", "same", all),
            Err(PolicyError::EqualSecrets)
        );
        assert_eq!(new("", "a", "b", all), Err(PolicyError::EmptyUser));
        assert_eq!(new("u\0", "a", "b", all), Err(PolicyError::BadUser));
        assert_eq!(new(&"u".repeat(255), "a", "b", all), Ok(()));
        assert_eq!(
            new(&"u".repeat(256), "a", "b", all),
            Err(PolicyError::BadUser)
        );
        assert_eq!(new("u", "", "b", all), Err(PolicyError::EmptySecret));
        assert_eq!(new("u", "a", "", all), Err(PolicyError::EmptySecret));
        assert_eq!(new("u", "a", "b", &[]), Err(PolicyError::NoAlgorithm));
        assert_eq!(new("u", "a", "b", all), Ok(()));
    }

    #[test]
    fn only_the_four_numbers_are_algorithms() {
        let known: Vec<u64> = (0..=300)
            .filter(|n| ChapAlgorithm::from_number(*n).is_some())
            .collect();
        assert_eq!(known, [5, 6, 7, 8]);
    }
}
