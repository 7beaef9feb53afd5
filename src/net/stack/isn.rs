//! Initial sequence numbers (RFC 6528) and SYN cookies (RFC 4987 §3.6).
//!
//! Who does not see our packets cannot guess either: both come out of SipHash-2-4 with a secret of
//! their own. The flow's TCP draws its number from a generator that can be run backwards
//! ([`seed_for`]), so it is made to draw the one that was chosen.
//!
//! A cookie is an initial sequence number that says what has to be known of a SYN when its
//! acknowledgment comes back, so that nothing is kept meanwhile:
//!
//! ```text
//! 31    27 26  24 23                          0
//! │ period │ MSS  │ code over ends, numbers,   │  all of it plus a mask of the connection's own
//! │ mod 32 │ index│ period, MSS and options    │
//! ```
//!
//! Window scale and SACK ride in the low bits of our timestamp, which comes back too, and are under
//! the code like the rest. A peer without timestamps gets a connection without either.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::model::FlowKey;
use super::packet::{Flags, Segment, Seq};

/// How long cookies of one period are made; they are good until the next one is over.
pub const COOKIE_PERIOD: Duration = Duration::from_secs(32);
/// A peer that takes shorter segments only is not served: it could make us send a packet for each
/// byte.
pub const SEGMENT_BYTES_MIN: u16 = 216;
/// Segment sizes that a cookie can say, in bytes. A peer that wants less gets no cookie.
const SEGMENT_SIZES: [u16; 8] = [SEGMENT_BYTES_MIN, 536, 1220, 1440, 1460, 4312, 8940, 8960];
/// What a peer takes that does not say (RFC 9293 §3.7.1).
const SEGMENT_SIZE_V4: u16 = 536;
const SEGMENT_SIZE_V6: u16 = 1220;
/// Low bits of a cookie's timestamp that say options.
const OPTION_BITS: u32 = 5;
const OPTION_MASK: u32 = (1 << OPTION_BITS) - 1;
/// Among the four lower ones: no window scale. Shifts end at 14.
const NO_SCALE: u32 = 15;
const CODE_MASK: u32 = 0x00FF_FFFF;

/// Where initial sequence numbers and cookies come from. Bounded, and keeps nothing of any
/// connection.
#[derive(Clone, Debug)]
pub struct Numbers {
    numbers: Secret,
    cookies: Secret,
    epoch: Instant,
}

#[derive(Clone, Copy)]
struct Secret(u64, u64);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// What the answer to a SYN says, where a cookie is its sequence number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cookie {
    pub isn: Seq,
    /// Our timestamp, where the peer sends them. Without it the answer has neither window scale nor
    /// SACK-permitted.
    pub timestamp: Option<u32>,
    /// The peer's window scale that was understood: ours is sent if it is here.
    pub window_scale: Option<u8>,
    pub sack_permitted: bool,
}

/// What an acknowledgment brings back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CookieContents {
    /// Our initial sequence number.
    pub isn: Seq,
    /// The peer's.
    pub irs: Seq,
    /// Bytes of the largest segment that the peer takes, or a little less.
    pub mss: u16,
    pub window_scale: Option<u8>,
    pub sack_permitted: bool,
    /// The peer's latest timestamp, where both ends send them.
    pub timestamp: Option<u32>,
}

impl Numbers {
    /// `epoch`: the same on all queues of a port, like the secret.
    pub fn new(secret: &[u8; 32], epoch: Instant) -> Self {
        let (words, _) = secret.as_chunks::<8>();
        let word = |index: usize| u64::from_le_bytes(words[index]);
        Self {
            numbers: Secret(word(0), word(1)),
            cookies: Secret(word(2), word(3)),
            epoch,
        }
    }

    /// The initial sequence number of a connection that begins now: a clock of 4 µs, plus a hash of
    /// its ends.
    pub fn isn(&self, key: &FlowKey, now: Instant) -> Seq {
        let ticks = now.saturating_duration_since(self.epoch).as_micros() / 4;
        let [.., a, b, c, d] = ticks.to_be_bytes();
        let clock = u32::from_be_bytes([a, b, c, d]);
        Seq(low_word(self.numbers.hash(key, &[]))).plus(clock)
    }

    /// The answer to `syn` that leaves nothing behind here. `clock`: what our timestamps count.
    /// `None`: its segments are too small.
    pub fn cookie(&self, syn: &Segment, clock: u32, now: Instant) -> Option<Cookie> {
        let default = match syn.key.peer {
            SocketAddr::V4(_) => SEGMENT_SIZE_V4,
            SocketAddr::V6(_) => SEGMENT_SIZE_V6,
        };
        let wanted = syn.options.mss.unwrap_or(default);
        let fitting = SEGMENT_SIZES.iter().rposition(|&size| size <= wanted)?;
        let size_index = u32::try_from(fitting).ok()?;
        let is_timed = syn.options.timestamps.is_some();
        let window_scale = syn.options.window_scale.filter(|_| is_timed);
        let sack_permitted = syn.options.sack_permitted && is_timed;
        let told = is_timed.then(|| {
            window_scale.map_or(NO_SCALE, u32::from)
                | u32::from(sack_permitted) << (OPTION_BITS - 1)
        });
        let period = self.period(now);
        let code = self.code(&syn.key, syn.seq, period, size_index, told);
        let [.., low_period] = period.to_be_bytes();
        let body = u32::from(low_period) << 27 | size_index << 24 | code;
        Some(Cookie {
            isn: Seq(body).plus(self.mask(&syn.key, syn.seq)),
            timestamp: told.map(|told| timestamp_saying(told, clock)),
            window_scale,
            sack_permitted,
        })
    }

    /// What a cookie says that comes back in `ack`; `None`: it is none of ours, or too old.
    pub fn open(&self, ack: &Segment, now: Instant) -> Option<CookieContents> {
        if !ack.is_ack() || ack.flags.intersects(Flags::SYN | Flags::RST) {
            return None;
        }
        let (isn, irs) = (ack.ack.minus(1), ack.seq.minus(1));
        let body = isn.minus(self.mask(&ack.key, irs)).0;
        let size_index = body >> 24 & 7;
        let times = ack.options.timestamps;
        let told = times.map(|times| times.echo & OPTION_MASK);
        let current = self.period(now);
        let period = [Some(current), current.checked_sub(1)]
            .into_iter()
            .flatten()
            .find(|period| period & 31 == u64::from(body >> 27))?;
        if self.code(&ack.key, irs, period, size_index, told) != body & CODE_MASK {
            return None;
        }
        let scale = told.map_or(NO_SCALE, |told| told & 15);
        Some(CookieContents {
            isn,
            irs,
            mss: SEGMENT_SIZES[usize::try_from(size_index).ok()?],
            window_scale: u8::try_from(scale).ok().filter(|_| scale != NO_SCALE),
            sack_permitted: told.is_some_and(|told| told >> (OPTION_BITS - 1) != 0),
            timestamp: times.map(|times| times.value),
        })
    }

    fn period(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_secs() / COOKIE_PERIOD.as_secs()
    }

    fn mask(&self, key: &FlowKey, irs: Seq) -> u32 {
        low_word(self.cookies.hash(key, &irs.0.to_be_bytes()))
    }

    fn code(
        &self,
        key: &FlowKey,
        irs: Seq,
        period: u64,
        size_index: u32,
        told: Option<u32>,
    ) -> u32 {
        let mut rest = [0; 20];
        rest[..4].copy_from_slice(&irs.0.to_be_bytes());
        rest[4..12].copy_from_slice(&period.to_be_bytes());
        rest[12..16].copy_from_slice(&size_index.to_be_bytes());
        rest[16..].copy_from_slice(&told.unwrap_or(u32::MAX).to_be_bytes());
        low_word(self.cookies.hash(key, &rest)) & CODE_MASK
    }
}

impl Secret {
    fn hash(self, key: &FlowKey, rest: &[u8]) -> u64 {
        #[expect(
            deprecated,
            reason = "SipHash-2-4 with a key is what is wanted; the hasher in its place has none"
        )]
        let mut hasher = std::hash::SipHasher::new_with_keys(self.0, self.1);
        hasher.write(&key.vlan.unwrap_or(u16::MAX).to_be_bytes());
        for end in [key.local, key.peer] {
            match end.ip() {
                IpAddr::V4(ip) => hasher.write(&ip.to_ipv6_mapped().octets()),
                IpAddr::V6(ip) => hasher.write(&ip.octets()),
            }
            hasher.write(&end.port().to_be_bytes());
        }
        hasher.write(rest);
        hasher.finish()
    }
}

fn low_word(hash: u64) -> u32 {
    let [a, b, c, d, ..] = hash.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The latest timestamp up to `clock` whose low bits are `told`.
const fn timestamp_saying(told: u32, clock: u32) -> u32 {
    let timestamp = clock & !OPTION_MASK | told;
    if timestamp > clock {
        timestamp.wrapping_sub(1 << OPTION_BITS)
    } else {
        timestamp
    }
}

/// The `random_seed` of a smoltcp interface whose first connection has that initial sequence
/// number.
///
/// The interface draws an IPv4 identification first, again while it is 0, then the connection draws
/// its number. Each draw is one step of a generator modulo 2⁶⁴ that is undone here, and 32 bits out
/// of its state: with the three upper bits 0, those from 29 on.
pub fn seed_for(isn: Seq) -> u64 {
    const LOW_MAX: u64 = 8;
    let mut seed = 0;
    for low in 0..LOW_MAX {
        let before = step_back(u64::from(isn.0) << 29 | low);
        seed = step_back(before);
        if draws_16_bits(before) != 0 {
            break;
        }
    }
    seed
}

const MULTIPLIER: u64 = 0xBB2E_FCEC_3C39_611D;
const ADDEND: u64 = 0x7590_EF39;

/// Newton's iteration: each round doubles the number of right bits, from three on.
const INVERSE: u64 = {
    let mut inverse = MULTIPLIER;
    let mut round = 0;
    while round < 5 {
        let error = MULTIPLIER.wrapping_mul(inverse);
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(error));
        round += 1;
    }
    inverse
};

const fn step_back(state: u64) -> u64 {
    state.wrapping_sub(ADDEND).wrapping_mul(INVERSE)
}

/// The 16 bits that are drawn out of a state.
const fn draws_16_bits(state: u64) -> u16 {
    let shift = 29 - (state >> 61);
    let [.., a, b, c, d] = (state >> shift).to_be_bytes();
    u16::from_be_bytes([a, b]) ^ u16::from_be_bytes([c, d])
}

#[cfg(test)]
mod tests;
