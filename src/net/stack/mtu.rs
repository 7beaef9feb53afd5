//! [`PathMtu`]: how long packets to one peer may be (RFC 1191, RFC 8201), and whom to believe about
//! it (RFC 5927 §7).
//!
//! Routers that cannot pass a packet on say so, and so can anyone else. What is said counts only if
//! it quotes a segment that is under way, that was longer than what is said to fit, and if it makes
//! packets shorter, never below what every path of that IP version must carry. A while later the
//! full length is tried again, since paths change.

use std::time::{Duration, Instant};

use super::packet::{Quoted, Seq};

/// What every IPv4 host takes (RFC 791 §3.1). Paths may carry less, down to 68 bytes (§3.2): these
/// are not served, since whoever claims to be one would have everything cut to pieces.
pub const MTU_MIN_V4: u16 = 576;
/// What every IPv6 path carries (RFC 8200 §5).
pub const MTU_MIN_V6: u16 = 1280;
/// After so long the link's own length is tried again (RFC 1191 §6.3, RFC 8201 §4).
pub const RETRY_AFTER: Duration = Duration::from_mins(10);
/// Lengths that links have, down to what counts, for routers that do not say theirs (RFC 1191 §7,
/// table 7-1, and IPv6's least).
const PLATEAUS: [u16; 7] = [8166, 4352, 2002, 1492, MTU_MIN_V6, 1006, MTU_MIN_V4];

/// The longest packet on the way to a peer.
#[derive(Clone, Debug)]
pub struct PathMtu {
    link: u16,
    min: u16,
    now: u16,
    lowered: Option<Instant>,
}

impl PathMtu {
    /// Nothing is known yet but the link, whose longest packet has `link` bytes.
    pub const fn new(link: u16, is_v6: bool) -> Self {
        Self {
            link,
            min: if is_v6 { MTU_MIN_V6 } else { MTU_MIN_V4 },
            now: link,
            lowered: None,
        }
    }

    /// As [`PathMtu::new`], and packets of `mtu` bytes are known to pass; if these are shorter than
    /// the link's, longer ones are not tried for a while.
    pub fn known(link: u16, is_v6: bool, mtu: u16, now: Instant) -> Self {
        let new = Self::new(link, is_v6);
        Self {
            now: mtu.min(link),
            lowered: (mtu < link).then_some(now),
            ..new
        }
    }

    /// The longest packet, in bytes with its IP header.
    pub const fn bytes(&self) -> u16 {
        self.now
    }

    /// A router says that `told` bytes fit, about the packet that it quotes; 0: it does not say.
    /// `snd_una..snd_max`: what is under way. `Some`: the new length; what is under way and longer
    /// than that is lost.
    pub fn too_big(
        &mut self,
        now: Instant,
        told: u32,
        quoted: &Quoted,
        snd_una: Seq,
        snd_max: Seq,
    ) -> Option<u16> {
        let is_under_way = !quoted.seq.is_before(snd_una) && quoted.seq.is_before(snd_max);
        if !is_under_way || quoted.packet_len > u32::from(self.link) {
            return None;
        }
        let fits = if told == 0 {
            PLATEAUS
                .into_iter()
                .find(|&plateau| u32::from(plateau) < quoted.packet_len)?
        } else {
            // What fits is less than what did not.
            u16::try_from(told)
                .ok()
                .filter(|&fits| u32::from(fits) < quoted.packet_len)?
        };
        let fits = fits.max(self.min);
        if fits >= self.now {
            return None;
        }
        self.now = fits;
        self.lowered = Some(now);
        Some(fits)
    }

    /// `Some`: it is time to try the link's own length again.
    pub fn retry(&mut self, now: Instant) -> Option<u16> {
        if now < self.deadline()? {
            return None;
        }
        self.lowered = None;
        self.now = self.link;
        Some(self.now)
    }

    /// When [`PathMtu::retry`] has something to say.
    pub fn deadline(&self) -> Option<Instant> {
        self.lowered.map(|lowered| lowered + RETRY_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::stack::model::FlowKey;

    fn quoted(seq: u32, packet_len: u32) -> Quoted {
        Quoted {
            key: FlowKey {
                vlan: None,
                local: "10.0.0.1:3260".parse().unwrap(),
                peer: "10.0.0.2:40000".parse().unwrap(),
            },
            seq: Seq(seq),
            packet_len,
        }
    }

    /// What 9000 bytes of link become; 100 to 200 are under way.
    fn told(told: u32, seq: u32, packet_len: u32, is_v6: bool) -> Option<u16> {
        let mut path = PathMtu::new(9000, is_v6);
        let packet = quoted(seq, packet_len);
        let lowered = path.too_big(
            crate::net::some_instant(),
            told,
            &packet,
            Seq(100),
            Seq(200),
        );
        assert_eq!(path.bytes(), lowered.unwrap_or(9000));
        assert_eq!(path.deadline().is_some(), lowered.is_some());
        lowered
    }

    #[test]
    fn a_router_s_word_about_a_segment_under_way_counts() {
        assert_eq!(told(1500, 100, 9000, false), Some(1500));
        assert_eq!(told(1500, 199, 9000, true), Some(1500));
    }

    #[test]
    fn a_segment_that_is_not_under_way_was_made_up() {
        for seq in [99, 200, 201, 0x8000_0000, u32::MAX] {
            assert_eq!(told(1500, seq, 9000, false), None);
        }
    }

    #[test]
    fn what_does_not_fit_is_longer_than_what_fits() {
        for (fits, packet_len) in [(1500, 1500), (1500, 576), (9001, 9000), (70_000, 9000)] {
            assert_eq!(told(fits, 150, packet_len, false), None);
        }
        // It cannot have left here.
        assert_eq!(told(1500, 150, 9001, false), None);
    }

    #[test]
    fn a_path_that_is_known_to_be_narrow_is_not_made_wider_by_a_message() {
        let now = crate::net::some_instant();
        let mut path = PathMtu::known(9000, false, 1500, now);
        let packet = quoted(150, 9000);
        assert_eq!(path.too_big(now, 4000, &packet, Seq(100), Seq(200)), None);
        assert_eq!(path.bytes(), 1500);
        assert_eq!(path.retry(now + RETRY_AFTER), Some(9000));
        assert_eq!(PathMtu::known(9000, false, 9000, now).deadline(), None);
    }

    #[test]
    fn no_path_is_shorter_than_its_protocol_allows() {
        assert_eq!(told(68, 150, 9000, false), Some(MTU_MIN_V4));
        assert_eq!(told(68, 150, 9000, true), Some(MTU_MIN_V6));
        let mut small = PathMtu::new(576, false);
        let packet = quoted(150, 576);
        let now = crate::net::some_instant();
        assert_eq!(small.too_big(now, 68, &packet, Seq(100), Seq(200)), None);
    }

    #[test]
    fn an_old_router_leads_down_the_plateaus() {
        let mut path = PathMtu::new(9000, false);
        let now = crate::net::some_instant();
        for expected in [8166, 4352, 2002, 1492, 1280, 1006, 576] {
            let packet = quoted(150, u32::from(path.bytes()));
            let lowered = path.too_big(now, 0, &packet, Seq(100), Seq(200));
            assert_eq!(lowered, Some(expected));
        }
        let packet = quoted(150, 576);
        assert_eq!(path.too_big(now, 0, &packet, Seq(100), Seq(200)), None);
    }

    #[test]
    fn the_full_length_is_tried_again_after_ten_minutes() {
        let mut path = PathMtu::new(9000, false);
        let now = crate::net::some_instant();
        assert_eq!(path.retry(now), None);
        let packet = quoted(150, 9000);
        path.too_big(now, 1500, &packet, Seq(100), Seq(200));
        // Hearing it twice changes nothing, a longer way neither.
        assert_eq!(path.too_big(now, 1500, &packet, Seq(100), Seq(200)), None);
        assert_eq!(path.too_big(now, 4000, &packet, Seq(100), Seq(200)), None);
        assert_eq!(path.retry(now + RETRY_AFTER / 2), None);
        assert_eq!(path.retry(now + RETRY_AFTER), Some(9000));
        assert_eq!((path.bytes(), path.deadline()), (9000, None));
    }
}
