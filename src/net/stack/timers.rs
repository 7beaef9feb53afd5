//! The timer wheel: when a flow wants to be looked at again.
//!
//! One slot per millisecond for [`SLOTS`] of them, each a list through an array of links, one link
//! per flow: arming, disarming and expiring touch a few words, however many flows there are. It is
//! lazy: a timer that is armed already for an earlier time stays as it is, and one beyond the
//! wheel's reach is put as far as it goes; whoever is told too early arms again. Never is it told
//! too late by more than a slot.
//!
//! Invariants: every armed timer is in the slot of a time from `cursor` on, less than [`SLOTS`]
//! milliseconds on; a slot's bit says whether its list has any.

use std::time::{Duration, Instant};

/// Slots, of a millisecond each.
const SLOTS: usize = 8192;
const WORDS: usize = SLOTS / 64;
const NONE: u32 = u32::MAX;

/// See the module.
pub(super) struct Wheel {
    start: Instant,
    /// Milliseconds since the start; everything before has been told.
    cursor: u64,
    /// Nothing is due before this: what a turn with nothing to do looks at.
    soonest: Instant,
    heads: Box<[u32]>,
    bits: Box<[u64]>,
    links: Box<[Link]>,
}

#[derive(Clone, Copy)]
struct Link {
    next: u32,
    before: u32,
    /// When it is due, in milliseconds since the start; `None`: not armed.
    due: Option<u64>,
    slot: u32,
}

const UNARMED: Link = Link {
    next: NONE,
    before: NONE,
    due: None,
    slot: 0,
};

impl Wheel {
    /// A wheel for timers 0 to `timers` − 1.
    pub(super) fn new(timers: usize, now: Instant) -> Self {
        Self {
            start: now,
            cursor: 0,
            soonest: now,
            heads: vec![NONE; SLOTS].into_boxed_slice(),
            bits: vec![0; WORDS].into_boxed_slice(),
            links: vec![UNARMED; timers].into_boxed_slice(),
        }
    }

    /// Arms a timer, or makes it earlier. It is told at `at` or up to a slot later. A time that has
    /// passed is taken for the first one behind the cursor, which is up to a lap behind where
    /// nothing was due since: the next [`Wheel::pop`] tells it, and so may the one under way until
    /// it has given `None`; after that no round with the same time tells it.
    pub(super) fn arm(&mut self, timer: u32, at: Instant) {
        let past = at.saturating_duration_since(self.start);
        let due = u64::try_from(past.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let due = due.max(self.cursor + 1);
        let Some(link) = self.links.get(timer as usize) else {
            return;
        };
        if link.due.is_some_and(|armed| armed <= due) {
            return;
        }
        self.disarm(timer);
        let told = self.link(timer, due);
        if let Some(at) = self.time_of(told) {
            self.soonest = self.soonest.min(at);
        }
    }

    /// Forgets a timer.
    pub(super) fn disarm(&mut self, timer: u32) {
        let Some(link) = self.links.get(timer as usize).copied() else {
            return;
        };
        if link.due.is_none() {
            return;
        }
        if link.before == NONE {
            self.heads[link.slot as usize] = link.next;
        } else {
            self.links[link.before as usize].next = link.next;
        }
        if link.next != NONE {
            self.links[link.next as usize].before = link.before;
        }
        if self.heads[link.slot as usize] == NONE {
            self.bits[link.slot as usize / 64] &= !(1 << (link.slot % 64));
        }
        self.links[timer as usize] = UNARMED;
    }

    /// A timer that is due; it is not armed any more. To be called until it gives none.
    pub(super) fn pop(&mut self, now: Instant) -> Option<u32> {
        if now < self.soonest {
            return None;
        }
        let past = now.saturating_duration_since(self.start);
        let now = u64::try_from(past.as_millis()).unwrap_or(u64::MAX);
        loop {
            let first = self.first();
            let Some(at) = first.filter(|&at| at <= now) else {
                self.cursor = self.cursor.max(now);
                // An empty wheel is looked at once a lap, so that the cursor stays within reach.
                let soonest = first.unwrap_or_else(|| now.saturating_add(SLOTS as u64));
                if let Some(soonest) = self.time_of(soonest) {
                    self.soonest = soonest;
                }
                return None;
            };
            self.cursor = at;
            let timer = self.heads[slot_of(at)];
            let due = self.links[timer as usize]
                .due
                .expect("what is linked is armed");
            self.disarm(timer);
            if due <= now {
                return Some(timer);
            }
            // It was beyond the wheel's reach when it was armed: another lap.
            self.link(timer, due);
        }
    }

    /// When the first timer is due, at the earliest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.time_of(self.first()?)
    }

    /// `None`: beyond what the clock can tell.
    fn time_of(&self, millis: u64) -> Option<Instant> {
        self.start.checked_add(Duration::from_millis(millis))
    }

    /// Puts an unarmed timer into its slot. Gives that slot's time.
    fn link(&mut self, timer: u32, due: u64) -> u64 {
        let reach = self.cursor + (SLOTS as u64 - 1);
        let told = due.clamp(self.cursor, reach);
        let slot = slot_of(told);
        let next = self.heads[slot];
        if next != NONE {
            self.links[next as usize].before = timer;
        }
        self.links[timer as usize] = Link {
            next,
            before: NONE,
            due: Some(due),
            slot: u32::try_from(slot).expect("there are few slots"),
        };
        self.heads[slot] = timer;
        self.bits[slot / 64] |= 1 << (slot % 64);
        told
    }

    /// The time of the first slot that has any.
    fn first(&self) -> Option<u64> {
        let from = slot_of(self.cursor);
        let low = u64::MAX << (from % 64);
        // The word of the cursor comes twice: its upper part first, its lower part last.
        (0..=WORDS).find_map(|step| {
            let word = (from / 64 + step) % WORDS;
            let mask = match step {
                0 => low,
                WORDS => !low,
                _ => u64::MAX,
            };
            let bits = self.bits[word] & mask;
            (bits != 0).then(|| {
                let slot = word * 64 + bits.trailing_zeros() as usize;
                let on = (slot + SLOTS - from) % SLOTS;
                self.cursor + on as u64
            })
        })
    }
}

fn slot_of(at: u64) -> usize {
    usize::try_from(at % SLOTS as u64).expect("there are few slots")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn due(wheel: &mut Wheel, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| wheel.pop(now)).collect()
    }

    #[test]
    fn a_timer_is_told_once_when_it_is_due() {
        let start = crate::net::some_instant();
        let mut wheel = Wheel::new(4, start);
        assert_eq!(wheel.deadline(), None);
        wheel.arm(2, start + 10 * MS);
        wheel.arm(3, start + 10 * MS);
        wheel.arm(1, start + 5 * MS);
        wheel.disarm(3);
        assert_eq!(wheel.deadline(), Some(start + 5 * MS));
        assert!(due(&mut wheel, start + 4 * MS).is_empty());
        assert_eq!(due(&mut wheel, start + 5 * MS), [1]);
        assert_eq!(due(&mut wheel, start + 100 * MS), [2]);
        assert_eq!(wheel.deadline(), None);
    }

    #[test]
    fn what_is_armed_earlier_stays_and_what_is_later_moves_up() {
        let start = crate::net::some_instant();
        let mut wheel = Wheel::new(1, start);
        wheel.arm(0, start + 7 * MS);
        wheel.arm(0, start + 9 * MS);
        assert_eq!(wheel.deadline(), Some(start + 7 * MS));
        wheel.arm(0, start + 3 * MS);
        assert_eq!(wheel.deadline(), Some(start + 3 * MS));
    }

    #[test]
    fn what_is_armed_for_now_waits_for_the_next_round() {
        let start = crate::net::some_instant();
        let mut wheel = Wheel::new(1, start);
        wheel.arm(0, start);
        let now = start + 20 * MS;
        assert_eq!(wheel.pop(now), Some(0));
        wheel.arm(0, start);
        assert_eq!(
            wheel.pop(start + 20 * MS),
            Some(0),
            "the cursor has not passed yet"
        );
        assert_eq!(wheel.pop(now), None);
        wheel.arm(0, start);
        assert_eq!(wheel.pop(now), None);
        assert_eq!(wheel.pop(now + MS), Some(0));
    }

    #[test]
    fn times_beyond_the_reach_of_the_wheel_are_kept() {
        let start = crate::net::some_instant();
        let mut wheel = Wheel::new(2, start);
        let far = Duration::from_secs(3600);
        wheel.arm(0, start + far);
        wheel.arm(1, start + far * 2);
        let mut now = start;
        let mut told = vec![];
        while let Some(at) = wheel.deadline() {
            assert!(at > now);
            now = at;
            told.extend(due(&mut wheel, now).into_iter().map(|timer| (timer, now)));
        }
        assert_eq!(told, [(0, start + far), (1, start + far * 2)]);
        // A leap over many laps at once.
        wheel.arm(0, now + far);
        assert_eq!(due(&mut wheel, now + far * 3), [0]);
    }

    proptest! {
        #[test]
        fn no_timer_is_early_or_forgotten(
            steps in proptest::collection::vec((0_u32..6, 0_u64..20_000, 0_u64..9_000), 1..60),
        ) {
            let start = crate::net::some_instant();
            let mut wheel = Wheel::new(6, start);
            let mut model: [Option<Instant>; 6] = [None; 6];
            let mut now = start;
            for (timer, ahead, pass) in steps {
                let at = now + Duration::from_millis(ahead);
                wheel.arm(timer, at);
                let armed = &mut model[timer as usize];
                *armed = Some(armed.map_or(at, |armed| armed.min(at)));
                now += Duration::from_millis(pass);
                for timer in due(&mut wheel, now) {
                    let at = model[timer as usize].take();
                    prop_assert!(at.is_some_and(|at| at <= now), "{timer} is early");
                }
                for at in model.into_iter().flatten() {
                    prop_assert!(at + MS > now, "one is forgotten");
                    prop_assert!(wheel.deadline().is_some_and(|first| first <= at + MS));
                }
            }
        }
    }
}
