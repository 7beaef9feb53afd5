//! The initiator's half of CHAP (RFC 7143 §12.1.3, RFC 1994), one-way and mutual.
//!
//! Algorithms 5 (MD5), 6 (SHA-1), 7 (SHA-256) and 8 (SHA3-256). Nothing is random here: challenges
//! are the test's, so that a session can be repeated byte for byte.

use crate::testing::Violation;
use crate::testing::violation::ensure;

/// Bytes of a decoded challenge or response that we accept at most.
const BINARY_VALUE_MAX: usize = 1024;

const MD5: u8 = 5;
const SHA1: u8 = 6;
const SHA256: u8 = 7;
const SHA3_256: u8 = 8;

/// What the initiator knows for CHAP.
#[derive(Clone, Debug)]
pub struct Chap {
    pub user: String,
    pub secret: Vec<u8>,
    /// The list for `CHAP_A`, most wanted first; also numbers that nobody knows may stand in it.
    pub algorithms: Vec<u16>,
    pub encoding: ChapEncoding,
    /// Ask the target to prove itself as well.
    pub mutual: Option<ChapPeer>,
    /// Break a rule on purpose.
    pub fault: ChapFault,
}

/// The target's side of mutual CHAP as the initiator expects it.
#[derive(Clone, Debug)]
pub struct ChapPeer {
    pub user: String,
    pub secret: Vec<u8>,
    pub identifier: u8,
    pub challenge: Vec<u8>,
}

/// How binary values are written (RFC 7143 §6.1).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ChapEncoding {
    #[default]
    Hex,
    Base64,
}

/// What a hostile initiator does in CHAP.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ChapFault {
    #[default]
    None,
    /// One bit of the response is wrong.
    WrongResponse,
    /// The challenge for the target is the target's own.
    ReflectChallenge,
    /// The response is one byte short.
    ShortResponse,
}

/// `H(identifier ‖ secret ‖ challenge)`; `None` for an unknown algorithm.
pub fn chap_response(
    algorithm: u16,
    identifier: u8,
    secret: &[u8],
    challenge: &[u8],
) -> Option<Vec<u8>> {
    fn hash<D: sha2::Digest>(identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        D::new()
            .chain_update([identifier])
            .chain_update(secret)
            .chain_update(challenge)
            .finalize()
            .to_vec()
    }
    let hash = match u8::try_from(algorithm).ok()? {
        MD5 => hash::<md5::Md5>,
        SHA1 => hash::<sha1::Sha1>,
        SHA256 => hash::<sha2::Sha256>,
        SHA3_256 => hash::<sha3::Sha3_256>,
        _ => return None,
    };
    Some(hash(identifier, secret, challenge))
}

/// Writes a binary value with its prefix.
pub(super) fn encode(bytes: &[u8], encoding: ChapEncoding) -> String {
    match encoding {
        ChapEncoding::Hex => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("0x{digits}")
        }
        ChapEncoding::Base64 => {
            let mut text = String::from("0b");
            for group in bytes.chunks(3) {
                let mut triple = [0; 4];
                triple[1..=group.len()].copy_from_slice(group);
                let bits = u32::from_be_bytes(triple);
                for digit in 0..4 {
                    if digit > group.len() {
                        text.push('=');
                    } else {
                        let index = (bits >> (18 - 6 * digit)) & 63;
                        text.push(char::from(ALPHABET[index as usize]));
                    }
                }
            }
            text
        }
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Reads a binary value in either notation; `None` if it is neither, or too long.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let (prefix, digits) = text.split_at_checked(2)?;
    let bytes = match prefix {
        "0x" | "0X" => {
            let digits = digits.as_bytes();
            let nibble = |digit: &u8| {
                char::from(*digit)
                    .to_digit(16)
                    .and_then(|n| u8::try_from(n).ok())
            };
            let (odd, pairs) = digits.split_at(digits.len() % 2);
            let mut bytes: Vec<u8> = odd.iter().map(nibble).collect::<Option<_>>()?;
            for pair in pairs.chunks(2) {
                bytes.push(nibble(&pair[0])? << 4 | nibble(&pair[1])?);
            }
            bytes
        }
        "0b" | "0B" => decode_base64(digits.as_bytes())?,
        _ => return None,
    };
    (!bytes.is_empty() && bytes.len() <= BINARY_VALUE_MAX).then_some(bytes)
}

fn decode_base64(digits: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let unpadded = digits
        .strip_suffix(b"==")
        .or_else(|| digits.strip_suffix(b"="))
        .unwrap_or(digits);
    if !digits.len().is_multiple_of(4) || unpadded.len() % 4 == 1 {
        return None;
    }
    for group in unpadded.chunks(4) {
        let mut bits = 0_u32;
        for digit in group {
            let value = ALPHABET.iter().position(|known| known == digit)?;
            bits = bits << 6 | u32::try_from(value).ok()?;
        }
        bits <<= 6 * (4 - group.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

/// Where the exchange stands.
#[derive(Debug)]
enum Step {
    /// `CHAP_A` was or will be sent.
    Algorithm,
    /// The response was sent.
    Response {
        own_challenge: Vec<u8>,
        algorithm: u16,
    },
    Done,
}

/// One CHAP exchange.
#[derive(Debug)]
pub(super) struct Exchange {
    chap: Chap,
    step: Step,
}

type Keys = Vec<(String, String)>;

impl Exchange {
    pub(super) fn new(chap: Chap) -> Self {
        Self {
            chap,
            step: Step::Algorithm,
        }
    }

    /// The list of algorithms, the first thing to send.
    pub(super) fn start(&self) -> Keys {
        let list: Vec<String> = self.chap.algorithms.iter().map(u16::to_string).collect();
        vec![("CHAP_A".into(), list.join(","))]
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.step, Step::Done)
    }

    /// Takes the target's CHAP keys of one whole text; returns what to send.
    pub(super) fn advance(&mut self, keys: &[(String, String)]) -> Result<Keys, Violation> {
        let value = |key: &str| {
            keys.iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value.as_str())
                .ok_or_else(|| {
                    Violation::new(
                        crate::testing::Rule::ChapMessage,
                        format!("{key} is missing"),
                    )
                })
        };
        match &self.step {
            Step::Algorithm => {
                let (chosen, identifier, challenge) =
                    (value("CHAP_A")?, value("CHAP_I")?, value("CHAP_C")?);
                let algorithm = chosen.parse::<u16>().unwrap_or(0);
                ensure!(
                    self.chap.algorithms.contains(&algorithm),
                    ChapAlgorithm,
                    "CHAP_A={chosen} is not one of {:?}",
                    self.chap.algorithms
                );
                let identifier = identifier.parse::<u8>().map_err(|_| {
                    let detail = format!("CHAP_I={identifier} is no byte");
                    Violation::new(crate::testing::Rule::ChapMessage, detail)
                })?;
                let challenge = decoded("CHAP_C", challenge)?;
                self.respond(algorithm, identifier, &challenge)
            }
            Step::Response {
                own_challenge,
                algorithm,
            } => {
                if let Some(peer) = &self.chap.mutual {
                    let (user, response) = (value("CHAP_N")?, value("CHAP_R")?);
                    let response = decoded("CHAP_R", response)?;
                    let expected =
                        chap_response(*algorithm, peer.identifier, &peer.secret, own_challenge);
                    ensure!(
                        user == peer.user && Some(&response) == expected.as_ref(),
                        ChapMutualResponse,
                        "CHAP_N={user} with a response that does not prove the secret of {}",
                        peer.user
                    );
                }
                self.step = Step::Done;
                Ok(Vec::new())
            }
            Step::Done => {
                ensure!(
                    keys.is_empty(),
                    ChapMessage,
                    "CHAP goes on after its end: {keys:?}"
                );
                Ok(Vec::new())
            }
        }
    }

    fn respond(
        &mut self,
        algorithm: u16,
        identifier: u8,
        challenge: &[u8],
    ) -> Result<Keys, Violation> {
        let chap = &self.chap;
        let response = chap_response(algorithm, identifier, &chap.secret, challenge);
        let Some(mut response) = response else {
            let detail = format!("the target chose algorithm {algorithm}, which nobody knows");
            return Err(Violation::new(crate::testing::Rule::ChapAlgorithm, detail));
        };
        match chap.fault {
            ChapFault::WrongResponse => response[0] ^= 1,
            ChapFault::ShortResponse => response.truncate(response.len() - 1),
            ChapFault::None | ChapFault::ReflectChallenge => {}
        }
        let mut keys = vec![
            ("CHAP_N".into(), chap.user.clone()),
            ("CHAP_R".into(), encode(&response, chap.encoding)),
        ];
        let mut own_challenge = Vec::new();
        if let Some(peer) = &chap.mutual {
            let (own_identifier, sent) = match chap.fault {
                ChapFault::ReflectChallenge => (identifier, challenge),
                _ => (peer.identifier, peer.challenge.as_slice()),
            };
            own_challenge.extend_from_slice(sent);
            keys.push(("CHAP_I".into(), own_identifier.to_string()));
            keys.push(("CHAP_C".into(), encode(sent, chap.encoding)));
        }
        self.step = Step::Response {
            own_challenge,
            algorithm,
        };
        Ok(keys)
    }
}

fn decoded(key: &str, value: &str) -> Result<Vec<u8>, Violation> {
    decode(value).ok_or_else(|| {
        let detail = format!("{key}={value} is no binary value of §6.1");
        Violation::new(crate::testing::Rule::ChapMessage, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rule;

    #[test]
    fn binary_values_survive_both_notations() {
        for length in 1..40_u8 {
            let bytes: Vec<u8> = (0..length).map(|n| n.wrapping_mul(37)).collect();
            for encoding in [ChapEncoding::Hex, ChapEncoding::Base64] {
                assert_eq!(
                    decode(&encode(&bytes, encoding)).as_deref(),
                    Some(bytes.as_slice())
                );
            }
        }
        // RFC 4648 §10.
        assert_eq!(encode(b"foobar", ChapEncoding::Base64), "0bZm9vYmFy");
        assert_eq!(encode(b"fooba", ChapEncoding::Base64), "0bZm9vYmE=");
        assert_eq!(encode(b"foob", ChapEncoding::Base64), "0bZm9vYg==");
        for wrong in [
            "", "0", "0x", "0xg0", "0bA", "0bA===", "0bZm9vYg", "1234", "0b====", "0xé",
        ] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
        assert_eq!(decode("0x123"), Some(vec![0x1, 0x23]));
    }

    #[test]
    fn responses_have_the_length_of_their_hash() {
        let length =
            |algorithm| chap_response(algorithm, 1, b"secret", b"challenge").map(|r| r.len());
        assert_eq!(
            [5, 6, 7, 8].map(length),
            [Some(16), Some(20), Some(32), Some(32)]
        );
        assert_eq!([0, 4, 9, 256 + 5].map(length), [None; 4]);
        // md5("\x01" "secret" "challenge"), computed with coreutils.
        let md5 = chap_response(5, 1, b"secret", b"challenge").unwrap();
        assert_eq!(encode(&md5, ChapEncoding::Hex), MD5_OF_EXAMPLE);
    }

    const MD5_OF_EXAMPLE: &str = "0x46e47770030e2b4e26a0db72a7efec00";

    fn exchange(fault: ChapFault) -> Exchange {
        Exchange::new(Chap {
            user: "u".into(),
            secret: b"secret".to_vec(),
            algorithms: vec![7, 5],
            encoding: ChapEncoding::Hex,
            mutual: Some(ChapPeer {
                user: "t".into(),
                secret: b"mutual".to_vec(),
                identifier: 9,
                challenge: vec![1, 2, 3],
            }),
            fault,
        })
    }

    fn keys(pairs: &[(&str, &str)]) -> Keys {
        pairs
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect()
    }

    #[test]
    fn a_target_that_cannot_prove_the_mutual_secret_is_refused() {
        let first = keys(&[("CHAP_A", "5"), ("CHAP_I", "1"), ("CHAP_C", "0x0102")]);
        let proof = chap_response(5, 9, b"mutual", &[1, 2, 3]).unwrap();
        let proof = encode(&proof, ChapEncoding::Base64);
        let mut good = exchange(ChapFault::None);
        assert_eq!(good.start(), keys(&[("CHAP_A", "7,5")]));
        assert_eq!(good.advance(&first).unwrap().len(), 4);
        good.advance(&keys(&[("CHAP_N", "t"), ("CHAP_R", &proof)]))
            .unwrap();
        assert!(good.is_done());
        let mut bad = exchange(ChapFault::None);
        bad.advance(&first).unwrap();
        let answer = bad.advance(&keys(&[("CHAP_N", "t"), ("CHAP_R", "0x00")]));
        assert_eq!(answer.unwrap_err().rule, Rule::ChapMutualResponse);
    }

    #[test]
    fn an_algorithm_that_was_not_offered_is_a_violation() {
        let mut it = exchange(ChapFault::None);
        let first = keys(&[("CHAP_A", "6"), ("CHAP_I", "1"), ("CHAP_C", "0x0102")]);
        assert_eq!(it.advance(&first).unwrap_err().rule, Rule::ChapAlgorithm);
    }
}
