//! ROD tokens (SPC-4 §5.17.6, §6.4.8): what stands for blocks of a unit, and how it is written.
//!
//! ```text
//! 0..4 ROD TYPE   6..8 ROD TOKEN LENGTH   8..16 COPY MANAGER ROD TOKEN IDENTIFIER
//! 16..48 CREATOR LOGICAL UNIT DESCRIPTOR   48..64 NUMBER OF BYTES REPRESENTED
//! 96..128 of the block device: what READ CAPACITY (16) says   128..512 ours: the secret, the time
//! ```
//!
//! Tokens are of the type *access upon reference*: what is copied is what the blocks hold when the
//! token is used. A token is a capability: whoever has its 512 bytes may read these blocks by it,
//! from any session, logical unit and core of this daemon, until it expires. So its secret of 256
//! bits comes out of a key that is drawn at each start and never leaves the daemon.
//!
//! The unit that made a token keeps it, and every replica of the unit with it: all that is done to
//! a token goes through the unit's home core ([`TokenChange`]).

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use sha3::{Digest, Sha3_256};

use super::ranges::{self, Range};
use super::{IDENTIFICATION, array, be16, be32};
use crate::backend::UnitIndex;
use crate::scsi::nexus::Nexus;
use crate::scsi::sense::{AdditionalSense, Sense};
use crate::scsi::unit::LogicalUnit;

/// Bytes of every token.
pub const TOKEN_BYTES: usize = 512;

/// Tokens that a unit keeps. One more takes the place of one that is of no use any more, else of
/// the one that was used least lately.
pub const TOKENS_MAX: usize = 512;

/// ROD TYPE: access upon reference.
pub const ACCESS_UPON_REFERENCE: u32 = 0x0001_0000;

/// ROD TYPE: block device zero, which is nobody's and never expires.
pub const BLOCK_ZERO: u32 = 0xffff_0001;

/// ROD TOKEN LENGTH: bytes behind that field.
const LENGTH: u16 = 0x01f8;

const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

const UNSUPPORTED_TOKEN_TYPE: AdditionalSense = AdditionalSense::new(0x23, 0x01);
const TOKEN_UNKNOWN: AdditionalSense = AdditionalSense::new(0x23, 0x04);
const TOKEN_CORRUPT: AdditionalSense = AdditionalSense::new(0x23, 0x05);
const TOKEN_EXPIRED: AdditionalSense = AdditionalSense::new(0x23, 0x07);
const TOKEN_DELETED: AdditionalSense = AdditionalSense::new(0x23, 0x09);
const INVALID_TOKEN_LENGTH: AdditionalSense = AdditionalSense::new(0x23, 0x0a);

/// What the secrets of this daemon's tokens are made from.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TokenKey([u8; SECRET_BYTES]);

impl TokenKey {
    /// `bytes` are unpredictable and drawn anew at each start.
    pub fn new(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

/// What a token shall stand for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rod {
    pub ranges: Vec<Range>,
    pub block_size: u32,
    pub timeout_s: u32,
    /// LIST IDENTIFIER of the command that makes it.
    pub list_id: u32,
}

impl Rod {
    /// Blocks that it stands for.
    pub(super) fn blocks(&self) -> u64 {
        ranges::blocks(&self.ranges)
    }
}

/// A token of a unit.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub(super) rod: Rod,
    creator: Arc<Nexus>,
    secret: [u8; SECRET_BYTES],
    created_ms: u64,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("rod", &self.rod)
            .field("created_ms", &self.created_ms)
            .finish_non_exhaustive()
    }
}

/// COPY MANAGER ROD TOKEN IDENTIFIER: the front of the secret's hash, so that it gives none of the
/// secret away.
pub type TokenId = [u8; ID_BYTES];

impl Token {
    pub(super) fn id(&self) -> TokenId {
        array(&Sha3_256::digest(self.secret), 0)
    }

    /// SPC-4 §6.4.8, ROD token format.
    pub(super) fn encode(&self, unit: &LogicalUnit) -> [u8; TOKEN_BYTES] {
        let mut token = [0; TOKEN_BYTES];
        let mut put = |at: usize, bytes: &[u8]| {
            token[at..at + bytes.len()].copy_from_slice(bytes);
        };
        let block_size = self.rod.block_size.to_be_bytes();
        put(0, &ACCESS_UPON_REFERENCE.to_be_bytes());
        put(6, &LENGTH.to_be_bytes());
        put(8, &self.id());
        // The unit by its UUID designator, as in an identification descriptor CSCD descriptor.
        put(16, &[IDENTIFICATION, 0, 0, 0, 1, 0x0a, 0, 18, 0x10, 0]);
        put(26, unit.identity().uuid());
        put(45, &block_size[1..]);
        let bytes = self.rod.blocks() * u64::from(self.rod.block_size);
        put(56, &bytes.to_be_bytes());
        put(96, &block_size);
        put(100, &[0, unit.info().physical_block_exponent]);
        let (lbpme, lbprz) = (unit.info().unmap, unit.info().unmap_reads_zeroes);
        let provisioning = u8::from(lbpme) << 7 | u8::from(lbpme && lbprz) << 6;
        put(102, &[provisioning, 0]);
        put(128, &self.secret);
        put(160, &self.created_ms.to_be_bytes());
        token
    }
}

/// What is asked of the home core of the unit that keeps tokens.
#[derive(Debug)]
pub enum TokenChange {
    Create {
        rod: Rod,
        unix_ms: u64,
    },
    /// It is about to be used, which puts its expiry off.
    Use {
        id: TokenId,
        unix_ms: u64,
    },
    Delete {
        id: TokenId,
    },
}

/// What every replica of the unit does.
#[derive(Clone, Debug)]
pub enum TokenUpdate {
    Created { token: Arc<Token>, unix_ms: u64 },
    Used { id: TokenId, unix_ms: u64 },
    Deleted { id: TokenId },
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    id: TokenId,
    token: Arc<Token>,
    used_ms: u64,
    deleted: bool,
}

impl Entry {
    /// A calendar that goes back expires nothing.
    fn is_expired(&self, unix_ms: u64) -> bool {
        let idle = unix_ms.saturating_sub(self.used_ms);
        idle > u64::from(self.token.rod.timeout_s) * 1000
    }

    fn check(&self, unix_ms: u64) -> Result<(), Sense> {
        if self.deleted {
            return Err(Sense::illegal_request(TOKEN_DELETED));
        }
        if self.is_expired(unix_ms) {
            return Err(Sense::illegal_request(TOKEN_EXPIRED));
        }
        Ok(())
    }
}

/// The tokens of a unit, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tokens {
    key: TokenKey,
    /// Tokens made since the start.
    made: u64,
    entries: VecDeque<Entry>,
}

impl Tokens {
    pub(in crate::scsi) fn set_key(&mut self, key: TokenKey) {
        self.key = key;
    }

    /// Runs on the home core.
    ///
    /// # Errors
    /// INVALID TOKEN OPERATION with what is wrong with the token.
    pub(in crate::scsi) fn decide(
        &self,
        change: &TokenChange,
        uuid: &[u8; 16],
        by: &Arc<Nexus>,
    ) -> Result<TokenUpdate, Sense> {
        match change {
            TokenChange::Create { rod, unix_ms } => {
                // A keyed hash: SHA-3 is safe with the key in front.
                let mut secret = Sha3_256::new();
                secret.update(self.key.0);
                secret.update(uuid);
                secret.update(self.made.to_be_bytes());
                secret.update(unix_ms.to_be_bytes());
                let token = Token {
                    rod: rod.clone(),
                    creator: Arc::clone(by),
                    secret: array(&secret.finalize(), 0),
                    created_ms: *unix_ms,
                };
                Ok(TokenUpdate::Created {
                    token: Arc::new(token),
                    unix_ms: *unix_ms,
                })
            }
            TokenChange::Use { id, unix_ms } => {
                self.find(id)?.check(*unix_ms)?;
                Ok(TokenUpdate::Used {
                    id: *id,
                    unix_ms: *unix_ms,
                })
            }
            // One that is gone already needs no more.
            TokenChange::Delete { id } => Ok(TokenUpdate::Deleted { id: *id }),
        }
    }

    pub(in crate::scsi) fn apply(&mut self, update: &TokenUpdate) {
        match update {
            TokenUpdate::Created { token, unix_ms } => {
                if self.entries.len() >= TOKENS_MAX {
                    self.make_room(*unix_ms);
                }
                self.made += 1;
                self.entries.push_back(Entry {
                    id: token.id(),
                    token: Arc::clone(token),
                    used_ms: *unix_ms,
                    deleted: false,
                });
            }
            TokenUpdate::Used { id, unix_ms } => {
                if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == *id) {
                    entry.used_ms = *unix_ms;
                }
            }
            TokenUpdate::Deleted { id } => {
                if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == *id) {
                    entry.deleted = true;
                }
            }
        }
    }

    fn make_room(&mut self, unix_ms: u64) {
        let useless = self
            .entries
            .iter()
            .position(|entry| entry.check(unix_ms).is_err());
        let idle = || {
            let entries = self.entries.iter().enumerate();
            entries
                .min_by_key(|(_, entry)| entry.used_ms)
                .map(|(at, _)| at)
        };
        if let Some(at) = useless.or_else(idle) {
            self.entries.remove(at);
        }
    }

    fn find(&self, id: &TokenId) -> Result<&Entry, Sense> {
        let found = self.entries.iter().find(|entry| entry.id == *id);
        found.ok_or_else(|| Sense::illegal_request(TOKEN_UNKNOWN))
    }

    /// The token that this nexus has made last by a command with this list identifier.
    pub(super) fn made_by(&self, creator: &Nexus, list_id: u32) -> Option<&Arc<Token>> {
        let mut tokens = self.entries.iter().rev().map(|entry| &entry.token);
        tokens.find(|token| token.rod.list_id == list_id && *token.creator == *creator)
    }
}

/// What a token in a parameter list means.
#[derive(Clone, Debug)]
pub(super) enum Presented {
    Zeroes,
    Token {
        /// The unit that made it.
        unit: UnitIndex,
        token: Arc<Token>,
    },
}

/// Finds the token whose bytes somebody presents.
///
/// # Errors
/// INVALID TOKEN OPERATION with what is wrong with it (SPC-4 §5.17.6).
pub(super) fn find(
    presented: &[u8; TOKEN_BYTES],
    units: &[LogicalUnit],
    unix_ms: u64,
) -> Result<Presented, Sense> {
    match be32(presented, 0) {
        BLOCK_ZERO => return Ok(Presented::Zeroes),
        ACCESS_UPON_REFERENCE => {}
        _ => return Err(Sense::illegal_request(UNSUPPORTED_TOKEN_TYPE)),
    }
    if be16(presented, 6) != LENGTH {
        return Err(Sense::illegal_request(INVALID_TOKEN_LENGTH));
    }
    let uuid: [u8; 16] = array(presented, 26);
    let mut made_here = units.iter().enumerate();
    let Some((at, unit)) = made_here.find(|(_, unit)| *unit.identity().uuid() == uuid) else {
        return Err(Sense::illegal_request(TOKEN_UNKNOWN));
    };
    let entry = unit.tokens.find(&array(presented, 8))?;
    if !is_same(&entry.token.encode(unit), presented) {
        return Err(Sense::illegal_request(TOKEN_CORRUPT));
    }
    entry.check(unix_ms)?;
    let index = u16::try_from(at).expect("the configuration bounds the units");
    Ok(Presented::Token {
        unit: UnitIndex(index),
        token: Arc::clone(&entry.token),
    })
}

/// Compares in a time that does not tell where the two differ.
fn is_same(one: &[u8; TOKEN_BYTES], other: &[u8; TOKEN_BYTES]) -> bool {
    let differing = one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b));
    differing == 0
}
