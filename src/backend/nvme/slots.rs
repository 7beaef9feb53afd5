//! [`Slots`]: the commands of one queue pair that are outstanding, by their CIDs, and in the order
//! in which they are late.
//!
//! A CID is the number of a slot and, above it, how often the slot was used: what completes a
//! second time, or after its slot went to another command, names nothing that is outstanding. CIDs
//! never are FFFFh, which the error log uses for something else.
//!
//! Deadlines are in the order of the list: every command is given the same time, from when it is
//! sent and again from when it was first late.

use std::time::Instant;

use super::facts::QUEUE_ENTRIES_MAX;
use super::link::Generation;
use super::spec::entry::CommandId;
use super::split::Cut;

/// Bits of a CID that are the slot's number.
const NUMBER_BITS: u16 = 10;
const NUMBER: u16 = (1 << NUMBER_BITS) - 1;
const _: () = assert!(
    QUEUE_ENTRIES_MAX <= 1 << NUMBER_BITS,
    "with a slot less than entries, all ones is no slot"
);
/// No slot.
const NONE: u16 = u16::MAX;

/// Whose command it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// Part of a request of this core.
    Own(Part),
    /// A guest's: which lane, and what it calls the command.
    Foreign {
        lane: u16,
        generation: Generation,
        tag: u16,
    },
}

/// Part of a request, and how often it was sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) request: u32,
    pub(crate) cut: Cut,
    /// Because its controller was not ready.
    pub(crate) retries: u8,
    /// Because its controller was reset.
    pub(crate) replays: u8,
}

/// How often a command was late.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Lateness {
    InTime,
    Once,
    /// There is nothing more to say of it.
    Twice,
}

/// A command that is late now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Late {
    pub(crate) id: CommandId,
    /// For the second time.
    pub(crate) again: bool,
}

#[derive(Debug)]
struct Slot {
    command: Option<Command>,
    /// How often the slot was used, in as many bits as a CID has left.
    uses: u16,
    earlier: u16,
    later: u16,
}

#[derive(Clone, Copy, Debug)]
struct Command {
    origin: Origin,
    deadline: Instant,
    lateness: Lateness,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    free: Vec<u16>,
    earliest: u16,
    latest: u16,
}

impl Slots {
    /// So many slots, below [`QUEUE_ENTRIES_MAX`].
    pub(crate) fn new(count: u16) -> Self {
        assert!(count < QUEUE_ENTRIES_MAX, "a queue has an entry more");
        let slot = |_| Slot {
            command: None,
            uses: 0,
            earlier: NONE,
            later: NONE,
        };
        Self {
            slots: (0..count).map(slot).collect(),
            free: (0..count).rev().collect(),
            earliest: NONE,
            latest: NONE,
        }
    }

    /// Commands that are outstanding.
    pub(crate) fn taken(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// The slot that [`take`](Self::take) takes next.
    pub(crate) fn next(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// Takes a free slot for a command. `None`: there is none.
    pub(crate) fn take(&mut self, origin: Origin, deadline: Instant) -> Option<CommandId> {
        let number = self.free.pop()?;
        let slot = &mut self.slots[usize::from(number)];
        slot.command = Some(Command {
            origin,
            deadline,
            lateness: Lateness::InTime,
        });
        let id = CommandId(slot.uses << NUMBER_BITS | number);
        self.link(number);
        Some(id)
    }

    fn number(&self, id: CommandId) -> Option<u16> {
        let number = id.0 & NUMBER;
        let slot = self.slots.get(usize::from(number))?;
        let is_it = slot.command.is_some() && slot.uses == id.0 >> NUMBER_BITS;
        is_it.then_some(number)
    }

    /// The command is no longer outstanding.
    pub(crate) fn release(&mut self, id: CommandId) -> Option<Origin> {
        let number = self.number(id)?;
        self.unlink(number);
        let slot = &mut self.slots[usize::from(number)];
        slot.uses = (slot.uses + 1) & (u16::MAX >> NUMBER_BITS);
        self.free.push(number);
        slot.command.take().map(|command| command.origin)
    }

    /// Takes one out that is outstanding: with the deadline that comes last.
    pub(crate) fn release_latest(&mut self) -> Option<Origin> {
        let number = match self.latest {
            // What was late twice is in no list, and older.
            NONE => {
                let taken = |slot: &Slot| slot.command.is_some();
                let found = self.slots.iter().position(taken)?;
                u16::try_from(found).expect("numbered by u16")
            }
            number => number,
        };
        let uses = self.slots[usize::from(number)].uses;
        self.release(CommandId(uses << NUMBER_BITS | number))
    }

    /// The command whose deadline has passed for the longest time, if any has.
    pub(crate) fn late(&self, now: Instant) -> Option<Late> {
        let slot = self.slots.get(usize::from(self.earliest))?;
        let command = slot.command.as_ref()?;
        (command.deadline <= now).then(|| Late {
            id: CommandId(slot.uses << NUMBER_BITS | self.earliest),
            again: command.lateness == Lateness::Once,
        })
    }

    /// The keeper knows that it is late: it has until `deadline`, or for ever the second time.
    pub(crate) fn told(&mut self, late: Late, deadline: Instant) {
        let Some(number) = self.number(late.id) else {
            return;
        };
        self.unlink(number);
        let slot = &mut self.slots[usize::from(number)];
        let Some(command) = &mut slot.command else {
            return;
        };
        command.deadline = deadline;
        if late.again {
            command.lateness = Lateness::Twice;
        } else {
            command.lateness = Lateness::Once;
            self.link(number);
        }
    }

    fn link(&mut self, number: u16) {
        let earlier = std::mem::replace(&mut self.latest, number);
        let slot = &mut self.slots[usize::from(number)];
        (slot.earlier, slot.later) = (earlier, NONE);
        match self.slots.get_mut(usize::from(earlier)) {
            Some(earlier) => earlier.later = number,
            None => self.earliest = number,
        }
    }

    fn unlink(&mut self, number: u16) {
        let slot = &mut self.slots[usize::from(number)];
        let is_linked = slot
            .command
            .is_some_and(|it| it.lateness != Lateness::Twice);
        if !is_linked {
            return;
        }
        let (earlier, later) = (slot.earlier, slot.later);
        (slot.earlier, slot.later) = (NONE, NONE);
        match self.slots.get_mut(usize::from(earlier)) {
            Some(earlier) => earlier.later = later,
            None => self.earliest = later,
        }
        match self.slots.get_mut(usize::from(later)) {
            Some(later) => later.earlier = earlier,
            None => self.latest = earlier,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};
    use std::time::Duration;

    use super::super::super::suite;
    use super::*;
    use proptest::prelude::*;

    const TIMEOUT: Duration = Duration::from_secs(8);

    fn part(request: u32) -> Origin {
        Origin::Own(Part {
            request,
            cut: Cut {
                lba: 0,
                blocks: 1,
                offset: 0,
            },
            retries: 0,
            replays: 0,
        })
    }

    #[test]
    fn an_id_names_its_command_once() {
        let (mut slots, now) = (Slots::new(1), suite::now());
        let mut ids = Vec::new();
        for request in 0..64 {
            let id = slots.take(part(request), now).unwrap();
            assert_eq!(slots.take(part(0), now), None, "all are taken");
            assert!(!ids.contains(&id));
            for &old in &ids {
                assert_eq!(slots.release(old), None);
            }
            assert_eq!(slots.release(id), Some(part(request)));
            assert_eq!(slots.release(id), None, "completed twice");
            ids.push(id);
        }
    }

    #[test]
    fn no_number_of_sixteen_bits_names_what_is_not_there() {
        let (mut slots, now) = (Slots::new(QUEUE_ENTRIES_MAX - 1), suite::now());
        let taken: Vec<_> = (0..40)
            .map(|nth| slots.take(part(nth), now).unwrap())
            .collect();
        for id in (0..=u16::MAX).map(CommandId) {
            let nth = taken.iter().position(|&it| it == id);
            let origin = nth.map(|nth| part(u32::try_from(nth).unwrap()));
            assert_eq!(slots.release(id), origin);
        }
    }

    #[test]
    fn a_command_is_late_twice_and_no_more() {
        let (mut slots, start) = (Slots::new(4), suite::now());
        let first = slots.take(part(0), start + TIMEOUT).unwrap();
        let later = start + Duration::from_secs(1);
        let second = slots.take(part(1), later + TIMEOUT).unwrap();
        assert_eq!(slots.late(start), None);
        let now = start + TIMEOUT;
        let late = Late {
            id: first,
            again: false,
        };
        assert_eq!(slots.late(now), Some(late));
        assert_eq!(slots.late(now), Some(late), "until someone was told");
        slots.told(late, now + TIMEOUT);
        assert_eq!(slots.late(now), None);
        let now = now + TIMEOUT;
        let other = slots.late(now).unwrap();
        assert_eq!((other.id, other.again), (second, false));
        assert_eq!(slots.release(second), Some(part(1)));
        let again = slots.late(now).unwrap();
        assert_eq!((again.id, again.again), (first, true));
        slots.told(again, now + TIMEOUT);
        assert_eq!(slots.late(now + 10 * TIMEOUT), None);
        assert_eq!(slots.taken(), 1);
        assert_eq!(slots.release_latest(), Some(part(0)));
        assert_eq!((slots.taken(), slots.release_latest()), (0, None));
        slots.told(again, now);
    }

    #[test]
    fn the_latest_is_released_first() {
        let (mut slots, start) = (Slots::new(4), suite::now());
        for nth in 0..3 {
            let deadline = start + TIMEOUT * nth;
            slots.take(part(nth), deadline).unwrap();
        }
        for again in [false, true] {
            let late = slots.late(start).unwrap();
            assert_eq!(late.again, again);
            slots.told(late, start);
            if !again {
                // What is behind it completes, so that it is at the head again.
                let other = slots.late(start + 2 * TIMEOUT).unwrap();
                assert_eq!(slots.release(other.id), Some(part(1)));
                let other = slots.late(start + 2 * TIMEOUT).unwrap();
                assert_eq!(slots.release(other.id), Some(part(2)));
            }
        }
        slots.take(part(3), start).unwrap();
        slots.take(part(4), start).unwrap();
        let released: Vec<_> = std::iter::from_fn(|| slots.release_latest()).collect();
        assert_eq!(released, [part(4), part(3), part(0)]);
    }

    proptest! {
        /// Against a map of what is outstanding and a queue of deadlines.
        #[test]
        fn slots_agree_with_a_map(steps in prop::collection::vec((0_u8..8, any::<u16>()), 1..300)) {
            let (mut slots, start) = (Slots::new(5), suite::now());
            let mut now = start;
            let mut taken = BTreeMap::new();
            let mut order = VecDeque::new();
            for (nth, (step, pick)) in (0_u32..).zip(steps) {
                match step {
                    0..=3 => {
                        let origin = part(nth);
                        let id = slots.take(origin, now + TIMEOUT);
                        prop_assert_eq!(id.is_some(), taken.len() < 5);
                        if let Some(id) = id {
                            prop_assert_eq!(taken.insert(id, origin), None);
                            order.push_back((id, now + TIMEOUT, false));
                        }
                    }
                    4 | 5 => {
                        let id = taken.keys().nth(usize::from(pick) % 5).copied();
                        let id = id.unwrap_or(CommandId(pick));
                        prop_assert_eq!(slots.release(id), taken.remove(&id));
                        order.retain(|&(it, _, _)| it != id);
                    }
                    6 => now += Duration::from_secs(u64::from(pick % 9)),
                    _ => {
                        let late = slots.late(now);
                        let expected = order.front().copied().filter(|&(_, at, _)| at <= now);
                        let expected = expected.map(|(id, _, again)| Late { id, again });
                        prop_assert_eq!(late, expected);
                        if let Some(late) = late {
                            slots.told(late, now + TIMEOUT);
                            order.pop_front();
                            if !late.again {
                                order.push_back((late.id, now + TIMEOUT, true));
                            }
                        }
                    }
                }
                prop_assert_eq!(slots.taken(), taken.len());
                prop_assert_eq!(slots.free() + slots.taken(), 5);
            }
            while slots.release_latest().is_some() {}
            prop_assert_eq!(slots.taken(), 0);
        }
    }
}
