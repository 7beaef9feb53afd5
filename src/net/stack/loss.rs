//! What a flow's TCP needs to get over losses: a faster clock, and duplicate acknowledgments where
//! it would wait for a timeout.
//!
//! smoltcp waits a second or more before it sends again, so each flow's clock runs [`CLOCK_SCALE`]
//! times as fast. And it sends again at once only for three duplicate acknowledgments, for one hole
//! of a flight, so [`Recovery`] looks at what comes and goes and gives it made-up duplicates
//! ([`Advice::duplicates`]):
//!
//! - for the next hole, when an acknowledgment gets over the first one but not over all that was
//!   under way when the loss was found (RFC 6582 §3.2, partial acknowledgments);
//! - when real ones do not count, because data of the peer or its window came between;
//! - when a flight is too small for three of them (RFC 5827);
//! - when nothing is answered for [`PROBE_MIN`] or two round trips, a few times: the last segment
//!   of a flight has none behind it that would tell of its loss (RFC 8985 §7), and a repair may be
//!   lost itself.
//!
//! After a timeout everything is sent again, and duplicates that answer what was sent twice are
//! kept away (RFC 6582 §4.1). And where segments overtake each other, which an answer shows that
//! comes too soon to be one to the repair, duplicates are held back for a part of a round trip,
//! like RFC 8985 §6.2 does, since each mistaken repair halves the flow's rate. Where only the
//! answers were late, the first one shows it by the timestamp that it echoes (RFC 3522), and
//! nothing more is sent again; without timestamps nobody can tell.

use std::time::{Duration, Instant};

use super::packet::Seq;

/// How many times as fast as time a flow's clock runs: every duration that smoltcp is told is
/// multiplied by it, and its retransmission timeout of at least 1 s is 200 ms. Its TIME-WAIT of 10
/// s would be 2 s, which is short of two segment lifetimes (RFC 9293 §3.4.2), so that it is left to
/// a clock that is not scaled ([`super::waits`]).
pub const CLOCK_SCALE: u32 = 5;
/// Duplicates that mean a loss (RFC 5681 §3.2).
pub const DUPLICATES: u8 = 3;
/// An unanswered flight is not asked after before this.
pub const PROBE_MIN: Duration = Duration::from_millis(20);
/// Who asks later than so much after the time has come has stood still: what it sent may not have
/// left before, or the answer waits to be received.
const STOOD_STILL: Duration = Duration::from_millis(5);
/// What a peer may take longer where a single segment is under way, which it need not answer at
/// once (RFC 9293 §3.8.6.3 allows it more; few take it).
const ANSWER_DELAY: Duration = Duration::from_millis(50);

/// An unanswered flight is asked after so many times; then the flow's own timeout is left to it.
const PROBES_MAX: u8 = 3;
/// Duplicates are held back for so many quarters of a round trip, at most.
const PATIENCE_MAX: u32 = 4;
/// So many repairs that were needed, one after the other, end the patience (RFC 8985 §6.2).
const REPAIRS_MAX: u8 = 16;

/// The clock of one flow.
#[derive(Clone, Copy, Debug)]
pub struct FlowClock {
    epoch: Instant,
}

impl FlowClock {
    pub const fn new(epoch: Instant) -> Self {
        Self { epoch }
    }

    /// The flow's time at `now`: microseconds from 1 s on, so that nothing seems to be at its
    /// start.
    pub fn at(&self, now: Instant) -> smoltcp::time::Instant {
        let micros = now.saturating_duration_since(self.epoch).as_micros();
        let scaled = i64::try_from(micros)
            .unwrap_or(i64::MAX)
            .saturating_mul(i64::from(CLOCK_SCALE));
        smoltcp::time::Instant::from_micros(scaled.saturating_add(1_000_000))
    }

    /// When the flow's time will be `at`; never before it.
    pub fn when(&self, at: smoltcp::time::Instant) -> Instant {
        let scaled = u64::try_from(at.total_micros().saturating_sub(1_000_000)).unwrap_or(0);
        self.epoch + Duration::from_micros(scaled.div_ceil(u64::from(CLOCK_SCALE)))
    }

    /// How long `duration` is for the flow.
    pub fn scaled(duration: Duration) -> smoltcp::time::Duration {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        smoltcp::time::Duration::from_micros(micros.saturating_mul(u64::from(CLOCK_SCALE)))
    }
}

/// An acknowledgment that the guard let pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heard {
    pub ack: Seq,
    /// As in the header, not scaled.
    pub window: u16,
    /// The segment takes no sequence number.
    pub is_empty: bool,
    /// It says what has come beyond a hole (RFC 2018).
    pub has_sack: bool,
    /// Which of our timestamps it echoes, where both ends send them (TSecr, RFC 7323 §3).
    pub echo: Option<u32>,
}

/// What to do with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Advice {
    /// Whether the flow is to see it.
    pub pass: bool,
    /// The window that it is to see.
    pub window: u16,
    /// Made-up duplicates that it is to see then: empty segments, number RCV.NXT, acknowledgment
    /// and window of [`Recovery::duplicate`].
    pub duplicates: u8,
}

/// What is known of losses on one flow.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// SND.UNA.
    una: Seq,
    /// SND.MAX.
    max: Seq,
    /// The window that the flow has seen last.
    window: u16,
    /// The peer tells holes (RFC 2018).
    sack: bool,
    /// Duplicates for `una` that have come.
    heard: u8,
    /// Those of them, and of the made-up ones, that the flow has counted.
    counted: u8,
    /// The flow is about to send the segment at `una` again.
    owes: bool,
    phase: Phase,
    /// Numbers before this one answer the segment sent at that time.
    timed: Option<(Seq, Instant)>,
    round_trip: Option<Duration>,
    probe_at: Option<Instant>,
    /// How often the flight was asked after since something was answered.
    probes: u8,
    /// Once since then the flight was given more time, for having stood still.
    is_excused: bool,
    /// The longest segment so far, in bytes.
    segment: u32,
    /// For how many quarters of a round trip duplicates are held back.
    patience: u32,
    /// Repairs that were needed since one was not.
    repairs: u8,
    held_until: Option<Instant>,
    /// When duplicates began the repair whose first answer has yet to come.
    repaired: Option<Instant>,
    /// What our timestamps showed when a flight was asked after of which nothing was known to be
    /// lost, until its first answer comes: those of what was sent before are older.
    asked: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nothing is known to be lost.
    Open,
    /// What was sent before `until` is being repaired.
    Repairing { until: Seq },
    /// It is all sent again.
    Repeating { until: Seq },
}

impl Recovery {
    /// `next`: the number of the first byte; `sack`: both ends have sent SACK-permitted.
    pub const fn new(next: Seq, sack: bool) -> Self {
        Self {
            una: next,
            max: next,
            window: 0,
            sack,
            heard: 0,
            counted: 0,
            owes: false,
            phase: Phase::Open,
            timed: None,
            round_trip: None,
            probe_at: None,
            probes: 0,
            is_excused: false,
            segment: 0,
            patience: 0,
            repairs: 0,
            held_until: None,
            repaired: None,
            asked: None,
        }
    }

    /// A segment with data or FIN leaves. The peer's window has been heard before, from its SYN or
    /// what acknowledged ours.
    pub fn sent(&mut self, now: Instant, seq: Seq, len: u32) {
        let end = seq.plus(len);
        // What asks whether the peer is there, or whether its window has opened, is no data.
        if len == 0 || seq.is_before(self.una) || self.window == 0 {
            return;
        }
        if seq.is_before(self.max) {
            self.sent_again(seq);
        } else if self.timed.is_none() {
            self.timed = Some((end, now));
        }
        self.max = self.max.max(end);
        self.segment = self.segment.max(len);
        self.set_probe(now);
    }

    fn sent_again(&mut self, seq: Seq) {
        // Its answer would say nothing about the time it took (RFC 6298 §3).
        self.timed = None;
        if self.owes && seq == self.una {
            self.owes = false;
        } else if seq == self.una {
            self.phase = Phase::Repeating { until: self.max };
            self.held_until = None;
            self.repaired = None;
            self.asked = None;
        }
    }

    /// What to do with an acknowledgment.
    pub fn acknowledged(&mut self, now: Instant, heard: &Heard) -> Advice {
        if heard.ack.is_after(self.una) {
            return self.advanced(now, heard);
        }
        let mut advice = Advice {
            pass: true,
            window: heard.window,
            duplicates: 0,
        };
        if heard.ack != self.una {
            return advice;
        }
        if self.una == self.max || !self.is_duplicate(heard) {
            self.window = heard.window;
            self.counted = 0;
            return advice;
        }
        self.heard = self.heard.saturating_add(1);
        advice.window = self.window;
        let is_third = heard.is_empty && self.counted >= DUPLICATES - 1;
        let is_held = self.phase == Phase::Open && self.patience > 0;
        if is_third && (is_held || matches!(self.phase, Phase::Repeating { .. })) {
            advice.pass = false;
            self.hold(now);
            return advice;
        }
        // The flow counts only what is empty, and begins anew after anything else.
        self.counted = if heard.is_empty {
            self.counted.saturating_add(1)
        } else {
            0
        };
        if self.heard >= self.threshold() && self.phase == Phase::Open {
            if is_held {
                self.hold(now);
            } else {
                advice.duplicates = self.repair();
                self.repaired = Some(now);
            }
        }
        advice
    }

    /// Duplicates that mean a loss now: a small flight cannot cause three.
    fn threshold(&self) -> u8 {
        let segments = self.max.count_since(self.una).div_ceil(self.segment.max(1));
        match segments {
            0..=2 => 1,
            3 => 2,
            _ => DUPLICATES,
        }
    }

    /// What is missing may only be late.
    fn hold(&mut self, now: Instant) {
        if self.phase == Phase::Open && self.held_until.is_none() {
            let round_trip = self.round_trip.unwrap_or(PROBE_MIN);
            self.held_until = Some(now + round_trip * self.patience / 4);
        }
    }

    /// The first answer since duplicates began a repair. `true`: it came too soon, the repair was
    /// not needed.
    fn was_early(&mut self, now: Instant) -> bool {
        let Some((repaired, round_trip)) = self.repaired.take().zip(self.round_trip) else {
            return false;
        };
        if now.saturating_duration_since(repaired) < round_trip / 2 {
            self.patience = (self.patience + 1).min(PATIENCE_MAX);
            self.repairs = 0;
            return true;
        }
        self.repairs += 1;
        if self.repairs >= REPAIRS_MAX {
            self.repairs = 0;
            self.patience = 0;
        }
        false
    }

    /// The first answer since an unanswered flight was asked after. `true`: it answers what was
    /// sent before that, so that nothing was lost (RFC 3522 §3.2). A peer echoes the timestamp of
    /// the segment that brought its stream further (RFC 7323 §4.3); from one without timestamps a
    /// late answer looks like one to what was sent again over a path that has become faster.
    fn was_late(&mut self, echo: Option<u32>) -> bool {
        let asked = self.asked.take().zip(echo);
        asked.is_some_and(|(clock, echo)| Seq(echo).is_before(Seq(clock)))
    }

    /// The flow is to find a loss now. How many duplicates that takes.
    fn repair(&mut self) -> u8 {
        if self.phase == Phase::Open {
            self.phase = Phase::Repairing { until: self.max };
        }
        self.held_until = None;
        self.owes = true;
        let missing = DUPLICATES.saturating_sub(self.counted);
        self.counted = self.counted.max(DUPLICATES);
        missing
    }

    /// The same, also where it has counted as many already: another window makes it begin anew.
    fn repair_again(&mut self) -> u8 {
        if self.counted < DUPLICATES {
            return self.repair();
        }
        self.window = match self.window {
            0 | 1 => self.window.saturating_add(1),
            window => window - 1,
        };
        self.repair();
        DUPLICATES + 1
    }

    /// With SACK it tells of a hole; without, it says nothing new at all (RFC 5681 §2), except that
    /// during a repair the window may change.
    fn is_duplicate(&self, heard: &Heard) -> bool {
        if self.window == 0 {
            return false;
        }
        if self.sack {
            return heard.has_sack;
        }
        let is_repairing = matches!(self.phase, Phase::Repairing { .. });
        heard.is_empty && (heard.window == self.window || is_repairing)
    }

    fn advanced(&mut self, now: Instant, heard: &Heard) -> Advice {
        self.una = heard.ack;
        self.max = self.max.max(heard.ack);
        self.window = heard.window;
        self.heard = 0;
        self.counted = 0;
        self.owes = false;
        self.probe_at = None;
        self.probes = 0;
        self.is_excused = false;
        self.held_until = None;
        self.measure(now);
        let is_mistaken = self.was_early(now) | self.was_late(heard.echo);
        if is_mistaken && matches!(self.phase, Phase::Repairing { .. }) {
            self.phase = Phase::Open;
        }
        let mut duplicates = 0;
        match self.phase {
            Phase::Open => {}
            Phase::Repairing { until } | Phase::Repeating { until }
                if !self.una.is_before(until) =>
            {
                self.phase = Phase::Open;
            }
            Phase::Repairing { .. } => {
                duplicates = DUPLICATES;
                self.counted = DUPLICATES;
                self.owes = true;
            }
            Phase::Repeating { .. } => {}
        }
        if self.una != self.max {
            self.set_probe(now);
        }
        Advice {
            pass: true,
            window: heard.window,
            duplicates,
        }
    }

    /// RFC 6298 §2.3, without the variance.
    fn measure(&mut self, now: Instant) {
        let Some((end, at)) = self.timed else {
            return;
        };
        if self.una.is_before(end) {
            return;
        }
        self.timed = None;
        let sample = now.saturating_duration_since(at);
        self.round_trip = Some(match self.round_trip {
            None => sample,
            Some(smoothed) => (smoothed * 7 + sample) / 8,
        });
    }

    fn set_probe(&mut self, now: Instant) {
        let Some(round_trip) = self.round_trip.filter(|_| self.probes < PROBES_MAX) else {
            return;
        };
        let is_single = self.max.count_since(self.una) <= self.segment;
        let delay = if is_single && self.phase == Phase::Open {
            ANSWER_DELAY
        } else {
            Duration::ZERO
        };
        let wait = (round_trip * 2).max(PROBE_MIN) * (1 << self.probes);
        self.probe_at = Some(now + wait + delay);
    }

    /// When [`Recovery::expired`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.probe_at.into_iter().chain(self.held_until).min()
    }

    /// How many made-up duplicates the flow is to see now, because nothing has come for too long.
    /// `clock`: what our timestamps show.
    pub fn expired(&mut self, now: Instant, clock: u32) -> u8 {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let is_held = is_due(self.held_until);
        if !is_held && !is_due(self.probe_at) {
            return 0;
        }
        let due = self.probe_at.take().unwrap_or(now);
        let late = now.saturating_duration_since(due);
        self.held_until = None;
        if self.una == self.max || self.window == 0 {
            return 0;
        }
        if is_held {
            self.repaired = Some(now);
        } else if late > STOOD_STILL && !self.is_excused {
            self.is_excused = true;
            self.probe_at = Some(now + PROBE_MIN);
            return 0;
        } else {
            self.probes += 1;
            if self.phase == Phase::Open {
                self.asked = Some(clock);
            }
        }
        let duplicates = self.repair_again();
        self.set_probe(now);
        duplicates
    }

    /// Acknowledgment number and window of a made-up duplicate. Who knows SND.UNA better takes
    /// that number.
    pub const fn duplicate(&self) -> (Seq, u16) {
        (self.una, self.window)
    }
}

#[cfg(test)]
mod tests;
