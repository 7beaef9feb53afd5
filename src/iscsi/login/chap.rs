//! CHAP: choosing an algorithm, making a challenge, checking and making responses (RFC 7143
//! §12.1.3, RFC 1994 §4.1).
//!
//! A response is the hash over identifier, secret and challenge. Nothing here tells a wrong user
//! name from a wrong secret: both are compared in constant time, both always.

use arrayvec::ArrayVec;
use md5::Digest;
use subtle::ConstantTimeEq;

use super::Random;
use super::reason::Reason;
use crate::iscsi::auth::{ChapAlgorithm, ChapPolicy, Credentials};
use crate::iscsi::binary;
use crate::iscsi::keys::Key;
use crate::iscsi::text::{list, parse_number};

/// Longest challenge of an initiator that we answer (RFC 7143 §12.1.3).
pub(super) const CHALLENGE_MAX_BYTES: usize = 1024;
/// Longest response, and longest challenge of ours.
const DIGEST_MAX_BYTES: usize = 32;

/// A hash, or a challenge of the same length.
pub(super) type ChapBytes = ArrayVec<u8, DIGEST_MAX_BYTES>;

/// What we asked the initiator.
#[derive(Debug)]
pub(super) struct Challenge {
    pub(super) algorithm: ChapAlgorithm,
    pub(super) identifier: u8,
    pub(super) challenge: ChapBytes,
}

/// What the initiator asked us, for mutual authentication.
#[derive(Debug)]
pub(super) struct CounterChallenge {
    identifier: u8,
    challenge: Vec<u8>,
}

/// The first algorithm of the initiator's list that the policy allows. Numbers that we do not know,
/// and what is no number, are passed over.
pub(super) fn choose(policy: &ChapPolicy, offered: &str) -> Option<ChapAlgorithm> {
    list(offered)
        .filter_map(parse_number)
        .filter_map(ChapAlgorithm::from_number)
        .find(|algorithm| policy.algorithms().contains(algorithm))
}

impl Challenge {
    /// A fresh challenge, as long as the hash of its algorithm.
    pub(super) fn new(algorithm: ChapAlgorithm, random: Random<'_>) -> Self {
        let mut bytes = [0; DIGEST_MAX_BYTES + 1];
        random(&mut bytes);
        let [identifier, rest @ ..] = bytes;
        let challenge = rest.into_iter().take(algorithm.digest_bytes()).collect();
        Self {
            algorithm,
            identifier,
            challenge,
        }
    }

    /// Checks the initiator's name and response against what it must know.
    pub(super) fn check(
        &self,
        expected: &Credentials,
        name: &str,
        response: &str,
    ) -> Result<(), Reason> {
        let response = binary::decode(response, DIGEST_MAX_BYTES)
            .map_err(|error| Reason::ChapBinary(Key::ChapR, error))?;
        let right = respond(self.algorithm, self.identifier, expected, &self.challenge);
        let same_name = name.as_bytes().ct_eq(expected.user.as_bytes());
        let same_response = response.as_slice().ct_eq(right.as_slice());
        if bool::from(same_name & same_response) {
            Ok(())
        } else {
            Err(Reason::ChapFailed)
        }
    }

    /// Reads the initiator's own challenge. RFC 7143 §12.1.3: our own challenge must not come back.
    pub(super) fn counter(
        &self,
        identifier: &str,
        challenge: &str,
    ) -> Result<CounterChallenge, Reason> {
        let identifier = parse_number(identifier)
            .and_then(|number| u8::try_from(number).ok())
            .ok_or(Reason::ChapNumber(Key::ChapI))?;
        let challenge = binary::decode(challenge, CHALLENGE_MAX_BYTES)
            .map_err(|error| Reason::ChapBinary(Key::ChapC, error))?;
        if challenge == self.challenge.as_slice() {
            return Err(Reason::ChapReflected);
        }
        Ok(CounterChallenge {
            identifier,
            challenge,
        })
    }

    /// Proves to the initiator that we know `ours`.
    pub(super) fn answer(&self, counter: &CounterChallenge, ours: &Credentials) -> ChapBytes {
        respond(self.algorithm, counter.identifier, ours, &counter.challenge)
    }
}

/// RFC 1994 §4.1: hash over identifier, secret, challenge, in this order.
pub(super) fn respond(
    algorithm: ChapAlgorithm,
    identifier: u8,
    credentials: &Credentials,
    challenge: &[u8],
) -> ChapBytes {
    fn hash<D: Digest>(parts: [&[u8]; 3]) -> ChapBytes {
        let mut hasher = D::new();
        for part in parts {
            hasher.update(part);
        }
        hasher.finalize().iter().copied().collect()
    }
    let parts = [&[identifier][..], credentials.secret.expose(), challenge];
    match algorithm {
        ChapAlgorithm::Md5 => hash::<md5::Md5>(parts),
        ChapAlgorithm::Sha1 => hash::<sha1::Sha1>(parts),
        ChapAlgorithm::Sha256 => hash::<sha2::Sha256>(parts),
        ChapAlgorithm::Sha3_256 => hash::<sha3::Sha3_256>(parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::auth::Secret;

    fn credentials(user: &str, secret: &str) -> Credentials {
        Credentials {
            user: user.into(),
            secret: Secret::new(secret.into()),
        }
    }

    fn policy(algorithms: &[ChapAlgorithm]) -> ChapPolicy {
        ChapPolicy::new(credentials("user", "secret"), None, algorithms).unwrap()
    }

    // Made outside of this program: printf '\x17secret-of-12+challenge' | md5sum, sha1sum,
    // sha256sum, and python3's hashlib.sha3_256.
    #[test]
    fn each_algorithm_gives_its_known_answer() {
        let who = credentials("user", "secret-of-12+");
        for (algorithm, hex) in [
            (ChapAlgorithm::Md5, "0xc1ad04dbbb0ec4be18429938bbf2795d"),
            (
                ChapAlgorithm::Sha1,
                "0xa5b997969d88f1d3819ec670acf3013dd54331ba",
            ),
            (
                ChapAlgorithm::Sha256,
                "0xc422f94851055c423975fe22f05b919013c708e7003571c0b635387f93d0745f",
            ),
            (
                ChapAlgorithm::Sha3_256,
                "0x2fb4a362f882b45213ce6de64fae79f823b407cfdddfc3cd649f0629623f92de",
            ),
        ] {
            let response = respond(algorithm, 0x17, &who, b"challenge");
            assert_eq!(response.len(), algorithm.digest_bytes());
            assert_eq!(binary::encode(&response), hex, "{algorithm:?}");
        }
    }

    // RFC 7143 §12.1.3: in the order of the initiator's list.
    #[test]
    fn the_first_allowed_algorithm_of_the_offered_list_is_chosen() {
        use ChapAlgorithm::{Md5, Sha1, Sha3_256, Sha256};
        let all = policy(&ChapAlgorithm::ALL);
        let strong = policy(&[Sha256, Sha3_256]);
        for (policy, offered, chosen) in [
            (&all, "5", Some(Md5)),
            (&all, "8,7,6,5", Some(Sha3_256)),
            (&all, "5,6,7,8", Some(Md5)),
            (&all, "6,5", Some(Sha1)),
            (&all, "0x7,5", Some(Sha256)),
            (&all, "9,4,255,65541,7", Some(Sha256)),
            (&all, "x,,6", Some(Sha1)),
            (&all, "9", None),
            (&all, "", None),
            (&strong, "5,6,7,8", Some(Sha256)),
            (&strong, "5,6", None),
        ] {
            assert_eq!(choose(policy, offered), chosen, "{offered}");
        }
    }

    #[test]
    fn a_challenge_is_as_long_as_its_hash_and_comes_from_the_given_randomness() {
        for algorithm in ChapAlgorithm::ALL {
            let mut next = 0;
            let mut random = |bytes: &mut [u8]| {
                for byte in bytes {
                    *byte = next;
                    next += 1;
                }
            };
            let made = Challenge::new(algorithm, &mut random);
            assert_eq!(made.identifier, 0);
            assert_eq!(made.challenge.len(), algorithm.digest_bytes());
            assert!(
                made.challenge
                    .iter()
                    .copied()
                    .eq((1..).take(algorithm.digest_bytes()))
            );
        }
    }

    #[test]
    fn a_wrong_name_and_a_wrong_secret_fail_alike() {
        let made = Challenge::new(ChapAlgorithm::Sha256, &mut |bytes| bytes.fill(9));
        let right = credentials("user", "right");
        let response = |secret| {
            let who = credentials("user", secret);
            binary::encode(&respond(
                made.algorithm,
                made.identifier,
                &who,
                &made.challenge,
            ))
        };
        assert_eq!(made.check(&right, "user", &response("right")), Ok(()));
        let short = response("right")[..60].to_owned();
        for (name, response) in [
            ("user", response("wrong")),
            ("usex", response("right")),
            ("", response("right")),
            ("user", "0x00".into()),
            ("user", short),
        ] {
            assert_eq!(made.check(&right, name, &response), Err(Reason::ChapFailed));
        }
    }

    // RFC 7143 §12.1.3.
    #[test]
    fn our_own_challenge_is_not_answered_in_any_encoding() {
        let made = Challenge::new(ChapAlgorithm::Md5, &mut |bytes| bytes.fill(0));
        let hex = binary::encode(&made.challenge);
        assert_eq!(made.counter("7", &hex).unwrap_err(), Reason::ChapReflected);
        let base64 = format!("0b{}A==", "A".repeat(21));
        assert_eq!(
            made.counter("7", &base64).unwrap_err(),
            Reason::ChapReflected
        );
        assert_eq!(made.counter("7", "0x01").unwrap().challenge, [1]);
    }

    #[test]
    fn the_initiators_challenge_is_bounded() {
        let made = Challenge::new(ChapAlgorithm::Md5, &mut |bytes| bytes.fill(3));
        let longest = binary::encode(&[1; CHALLENGE_MAX_BYTES]);
        assert_eq!(
            made.counter("255", &longest).unwrap().challenge,
            [1; CHALLENGE_MAX_BYTES]
        );
        let long = Reason::ChapBinary(Key::ChapC, binary::BinaryError::TooLong);
        assert_eq!(
            made.counter("255", &format!("{longest}00")).unwrap_err(),
            long
        );
        let number = Reason::ChapNumber(Key::ChapI);
        assert_eq!(made.counter("256", "0x01").unwrap_err(), number);
        assert_eq!(made.counter("x", "0x01").unwrap_err(), number);
    }
}
