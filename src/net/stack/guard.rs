//! [`Guard`]: what a segment has to pass before its flow sees it.
//!
//! The flow's own TCP believes more of its peer, and of whoever can send in the peer's name, than
//! it should. Each [`Rule`] names one such belief; its test shows what goes wrong without it. A
//! segment is passed on, perhaps shortened or with older fields replaced, or it is dropped, and
//! some that are dropped are answered with an acknowledgment that says where we are.
//!
//! Order of the checks: RFC 9293 §3.10.7.4 with RFC 5961 and RFC 7323 §5. What a segment says
//! counts only after all of them: a forged one that fails any leaves no trace.
//!
//! Bounded: challenges, by [`CHALLENGES_MAX`] for each flow, so that none of them tells anything
//! about another flow (which one limit for all would, RFC 5961 §7).

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use super::packet::emit::Adjusted;
use super::packet::{Flags, Segment, Seq};

/// Challenges that a flow sends in one [`CHALLENGE_PERIOD`], at most.
pub const CHALLENGES_MAX: u8 = 10;
/// See [`CHALLENGES_MAX`].
pub const CHALLENGE_PERIOD: Duration = Duration::from_secs(5);
/// A timestamp of the peer that is older than this says nothing any more (RFC 7323 §5.5).
const TIMESTAMP_AGE_MAX: Duration = Duration::from_hours(24 * 24);

/// A rule that segments have to keep, or are made to keep.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Rule {
    /// Bytes beyond what there is room for are cut off. Behind them, the flow would count bytes
    /// that it has nowhere to put, and give them out as whatever was there before; or panic.
    WithinRoom,
    /// A FIN does not come before bytes that were cut off: it would end the stream short of them.
    FinBehindItsData,
    /// A reset has the very number that is expected (RFC 5961 §3.2). Another one in the window is
    /// challenged, which the true peer answers with the right number.
    ExactReset,
    /// A SYN on a standing connection is challenged (RFC 5961 §4.2).
    NoSecondSyn,
    /// An acknowledgment that others have overtaken does not cost the data that come with it: the
    /// latest stands in for it.
    OvertakenAck,
    /// Nothing is acknowledged that was never sent, nor what is past by more than a window (RFC
    /// 5961 §5.2).
    AckOfSent,
    /// The window is taken from the newest segment, not from the last to arrive (RFC 9293
    /// §3.10.7.4, SND.WL1 and SND.WL2).
    NewestWindow,
    /// A segment is not older than the last one in order, by its timestamp (RFC 7323 §5). At
    /// 100 Gbit/s sequence numbers come again after a third of a second.
    NotWrapped,
    /// Only what is in the window says anything (RFC 9293 §3.10.7.4, first). What is before it is
    /// answered, and what it acknowledges does not count: the flow's TCP does not count it either,
    /// and who has no idea of the sequence numbers could make up what was acknowledged.
    InWindow,
    /// The handshake ends with the acknowledgment of our SYN and nothing else (RFC 9293
    /// §3.10.7.4, fifth). Data that come with another number are not the peer's.
    AckOfSyn,
}

impl Rule {
    /// How many there are.
    pub const COUNT: usize = Self::AckOfSyn as usize + 1;
}

/// Which rules are held to: all of them, but in tests.
#[derive(Clone, Copy, Default, Debug)]
pub struct Rules {
    #[cfg(any(test, feature = "testing"))]
    down: u16,
}

impl Rules {
    #[cfg(any(test, feature = "testing"))]
    const fn hold(self, rule: Rule) -> bool {
        self.down & 1 << rule as u8 == 0
    }

    #[cfg(not(any(test, feature = "testing")))]
    #[inline(always)]
    #[expect(clippy::unused_self, reason = "in tests it says which rules hold")]
    const fn hold(self, _rule: Rule) -> bool {
        true
    }

    /// Takes a rule away.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub const fn without(self, rule: Rule) -> Self {
        Self {
            down: self.down | 1 << rule as u8,
        }
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// We have sent a SYN (SYN-SENT).
    Calling,
    /// Their SYN has come, ours is not acknowledged (SYN-RECEIVED).
    Answering,
    /// All states after these.
    Standing,
}

/// The connection as it stands when a segment comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    pub stage: Stage,
    /// The number that is expected next: RCV.NXT. Behind a FIN that has come.
    pub rcv_nxt: Seq,
    /// Bytes that really fit behind it.
    pub room: u32,
    /// The oldest number that is not acknowledged: SND.UNA.
    pub snd_una: Seq,
    /// Behind the last number that was ever sent: SND.MAX.
    pub snd_max: Seq,
}

/// What becomes of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The flow sees it, as it says here.
    Pass(Adjusted),
    /// The flow's TCP sees it, so as to answer it as it does; nothing that it says counts.
    Reply(Rule, Adjusted),
    /// The flow does not see it. An acknowledgment is sent: SND.MAX, RCV.NXT, the window.
    Answer(Rule),
    /// The flow does not see it.
    Drop(Rule),
}

/// What the guard of one flow remembers.
#[derive(Clone, Debug)]
pub struct Guard {
    rules: Rules,
    /// Where both ends send timestamps.
    recent: Option<Recent>,
    /// How far the peer's window is shifted.
    window_shift: u8,
    /// The window that the newest segment said, not scaled.
    window: u16,
    /// The largest window so far, in bytes.
    window_bytes_max: u32,
    /// Sequence number of the segment that the window is from: SND.WL1.
    window_seq: Seq,
    /// Its acknowledgment number: SND.WL2.
    window_ack: Seq,
    challenges: u8,
    challenges_since: Option<Instant>,
}

/// The peer's latest timestamp: TS.Recent.
#[derive(Clone, Copy, Debug)]
struct Recent {
    value: u32,
    at: Instant,
}

impl Guard {
    /// For a connection whose handshake has yet to come, or is under way.
    pub const fn new(rules: Rules) -> Self {
        Self {
            rules,
            recent: None,
            window_shift: 0,
            window: 0,
            window_bytes_max: 0,
            window_seq: Seq(0),
            window_ack: Seq(0),
            challenges: 0,
            challenges_since: None,
        }
    }

    /// Learns from the peer's SYN, or SYN-ACK. `timestamps`: whether we have sent them too, or
    /// will; `ack`: our initial sequence number.
    pub fn learn(&mut self, now: Instant, syn: &Segment, timestamps: bool, isn: Seq) {
        let told = syn.options.timestamps.filter(|_| timestamps);
        self.begin(
            now,
            syn.options.window_scale,
            told.map(|told| told.value),
            syn.seq,
            isn,
        );
        // The window of a SYN is not scaled.
        self.window_bytes_max = u32::from(syn.window);
    }

    /// What `learn` learns, where the SYN itself is gone: it came back in a cookie. `irs`: the
    /// peer's initial sequence number; `isn`: ours; `timestamp`: the peer's latest, where both ends
    /// send them.
    pub fn begin(
        &mut self,
        now: Instant,
        window_shift: Option<u8>,
        timestamp: Option<u32>,
        irs: Seq,
        isn: Seq,
    ) {
        self.recent = timestamp.map(|value| Recent { value, at: now });
        self.window_shift = window_shift.unwrap_or(0);
        self.window_seq = irs;
        self.window_ack = isn;
    }

    /// The peer's latest timestamp (TS.Recent), where both ends send them.
    pub fn recent(&self) -> Option<u32> {
        self.recent.map(|recent| recent.value)
    }

    /// The peer's window as last believed, in bytes.
    pub fn window_bytes(&self) -> u32 {
        u32::from(self.window) << self.window_shift
    }

    /// What becomes of `segment`. Checksums are right, and it is one of this flow.
    pub fn check(&mut self, now: Instant, segment: &Segment, view: &View) -> Verdict {
        if view.stage == Stage::Calling {
            // Nothing is known of the peer's numbers yet. Data wait for the handshake.
            let mut adjusted = Adjusted::whole(segment);
            adjusted.len = 0;
            adjusted.flags -= Flags::FIN;
            return Verdict::Pass(adjusted);
        }
        if let Some(verdict) = self.check_timestamp(now, segment) {
            return verdict;
        }
        if let Some(verdict) = self.check_control(now, segment, view) {
            return verdict;
        }
        if let Some(verdict) = self.check_place(now, segment, view) {
            return verdict;
        }
        let mut adjusted = Adjusted::whole(segment);
        if segment.is_rst() {
            adjusted.len = 0;
            return Verdict::Pass(adjusted);
        }
        if let Some(verdict) = self.trim(segment, view, &mut adjusted) {
            return verdict;
        }
        let verdict = match view.stage {
            Stage::Standing => self.check_ack(now, segment, view, &mut adjusted),
            Stage::Calling | Stage::Answering => self.check_ack_of_syn(segment, view),
        };
        if let Some(verdict) = verdict {
            return verdict;
        }
        if segment.is_empty() {
            // It may stand right behind a full window, or behind what was lost.
            adjusted.seq = view.rcv_nxt;
        }
        self.follow_window(segment, &mut adjusted);
        self.follow_timestamp(now, segment, view);
        Verdict::Pass(adjusted)
    }

    /// RFC 7323 §5.3, R1 to R3.
    fn check_timestamp(&mut self, now: Instant, segment: &Segment) -> Option<Verdict> {
        let recent = self.recent?;
        if segment.is_rst() || !self.rules.hold(Rule::NotWrapped) {
            return None;
        }
        let Some(told) = segment.options.timestamps else {
            // Both ends have agreed to send them (RFC 7323 §3.2).
            return Some(Verdict::Drop(Rule::NotWrapped));
        };
        let is_older = Seq(told.value).is_before(Seq(recent.value));
        if is_older && now.saturating_duration_since(recent.at) < TIMESTAMP_AGE_MAX {
            let is_worth_an_answer = !segment.is_empty();
            return Some(if is_worth_an_answer && self.may_challenge(now) {
                Verdict::Answer(Rule::NotWrapped)
            } else {
                Verdict::Drop(Rule::NotWrapped)
            });
        }
        None
    }

    /// Takes the timestamp of a segment that passes, if it is at the front of the stream (RFC 7323
    /// §4.3).
    fn follow_timestamp(&mut self, now: Instant, segment: &Segment, view: &View) {
        let is_at_front = !segment.seq.is_after(view.rcv_nxt);
        if let Some(recent) = self.recent.as_mut().filter(|_| is_at_front)
            && let Some(told) = segment.options.timestamps
        {
            *recent = Recent {
                value: told.value,
                at: now,
            };
        }
    }

    /// RST and SYN.
    fn check_control(&mut self, now: Instant, segment: &Segment, view: &View) -> Option<Verdict> {
        if segment.is_rst() && self.rules.hold(Rule::ExactReset) {
            if segment.seq == view.rcv_nxt {
                return None;
            }
            let ahead = segment.seq.since(view.rcv_nxt);
            let is_in_window = u32::try_from(ahead).is_ok_and(|ahead| ahead < view.room);
            return Some(if is_in_window && self.may_challenge(now) {
                Verdict::Answer(Rule::ExactReset)
            } else {
                Verdict::Drop(Rule::ExactReset)
            });
        }
        if segment.is_syn() && self.rules.hold(Rule::NoSecondSyn) {
            // The first SYN again: our answer to it was lost, and is sent again by its timer.
            let is_repeated = view.stage == Stage::Answering && segment.seq.plus(1) == view.rcv_nxt;
            return Some(if !is_repeated && self.may_challenge(now) {
                Verdict::Answer(Rule::NoSecondSyn)
            } else {
                Verdict::Drop(Rule::NoSecondSyn)
            });
        }
        None
    }

    /// What lies before the window or behind it says nothing. Data behind it are for `trim`.
    fn check_place(&mut self, now: Instant, segment: &Segment, view: &View) -> Option<Verdict> {
        if segment.is_rst() || !self.rules.hold(Rule::InWindow) {
            return None;
        }
        let (rcv_nxt, limit) = (view.rcv_nxt, view.rcv_nxt.plus(view.room));
        let is_old = if segment.is_empty() {
            segment.seq.is_before(rcv_nxt)
        } else {
            !segment.end().is_after(rcv_nxt)
        };
        if is_old {
            // The peer asks whether we are there, or did not hear that this has come.
            let adjusted = Adjusted {
                ack: view.snd_una,
                window: self.window,
                ..Adjusted::whole(segment)
            };
            return Some(Verdict::Reply(Rule::InWindow, adjusted));
        }
        if segment.payload_len != 0 || !segment.seq.is_after(limit) {
            return None;
        }
        Some(if self.may_challenge(now) {
            Verdict::Answer(Rule::InWindow)
        } else {
            Verdict::Drop(Rule::InWindow)
        })
    }

    /// Before our SYN is acknowledged nothing else can be.
    fn check_ack_of_syn(&self, segment: &Segment, view: &View) -> Option<Verdict> {
        if !self.rules.hold(Rule::AckOfSyn) {
            return None;
        }
        if !segment.is_ack() {
            return Some(Verdict::Drop(Rule::AckOfSyn));
        }
        // The flow's TCP answers it with a reset, as the standard has it.
        let reply = Adjusted {
            len: 0,
            flags: Flags::ACK,
            ..Adjusted::whole(segment)
        };
        (segment.ack != view.snd_max).then_some(Verdict::Reply(Rule::AckOfSyn, reply))
    }

    /// Cuts off what there is no room for, and the FIN behind it.
    fn trim(&self, segment: &Segment, view: &View, adjusted: &mut Adjusted) -> Option<Verdict> {
        let limit = view.rcv_nxt.plus(view.room);
        let bytes = u32::try_from(adjusted.len).unwrap_or(u32::MAX);
        let over = segment.data_seq().plus(bytes).count_since(limit).min(bytes);
        if over == 0 {
            return None;
        }
        if self.rules.hold(Rule::WithinRoom) {
            let left = usize::try_from(bytes - over).unwrap_or(0);
            adjusted.len = left;
            if left == 0 {
                // A probe of a closed window, or a peer that knows no window: it has to be told.
                // One answer for each segment with data cannot go back and forth for ever.
                return Some(Verdict::Answer(Rule::WithinRoom));
            }
        }
        if self.rules.hold(Rule::FinBehindItsData) {
            adjusted.flags -= Flags::FIN;
        }
        None
    }

    fn check_ack(
        &mut self,
        now: Instant,
        segment: &Segment,
        view: &View,
        adjusted: &mut Adjusted,
    ) -> Option<Verdict> {
        if !segment.is_ack() {
            // RFC 9293 §3.10.7.4, fifth.
            return Some(Verdict::Drop(Rule::AckOfSent));
        }
        if self.rules.hold(Rule::AckOfSent) {
            let oldest = view.snd_una.minus(self.window_bytes_max);
            if segment.ack.is_after(view.snd_max) || segment.ack.is_before(oldest) {
                return Some(if self.may_challenge(now) {
                    Verdict::Answer(Rule::AckOfSent)
                } else {
                    Verdict::Drop(Rule::AckOfSent)
                });
            }
        }
        if segment.ack.is_before(view.snd_una) && self.rules.hold(Rule::OvertakenAck) {
            // It says nothing new, and with a newer number it would look like a duplicate.
            if segment.is_empty() {
                return Some(Verdict::Drop(Rule::OvertakenAck));
            }
            adjusted.ack = view.snd_una;
        }
        None
    }

    /// Takes the window of a segment that is newer than the one before, and puts the window before
    /// into one that is not.
    fn follow_window(&mut self, segment: &Segment, adjusted: &mut Adjusted) {
        let ack = segment.ack;
        let is_newer = ack.is_after(self.window_ack)
            || ack == self.window_ack
                && (segment.seq.is_after(self.window_seq)
                    || segment.seq == self.window_seq
                        && (segment.window > self.window || segment.window == 0));
        if is_newer {
            self.window = segment.window;
            self.window_seq = segment.seq;
            self.window_ack = ack;
            self.window_bytes_max = self.window_bytes_max.max(self.window_bytes());
        } else if self.rules.hold(Rule::NewestWindow) {
            adjusted.window = self.window;
        }
    }

    /// Whether one more challenge may be sent; if so, it counts.
    pub(super) fn may_challenge(&mut self, now: Instant) -> bool {
        let is_over = self
            .challenges_since
            .is_none_or(|since| now.saturating_duration_since(since) >= CHALLENGE_PERIOD);
        if is_over {
            self.challenges_since = Some(now);
            self.challenges = 0;
        }
        if self.challenges == CHALLENGES_MAX {
            return false;
        }
        self.challenges += 1;
        true
    }
}
