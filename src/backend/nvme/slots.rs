//! [`Slots`]: the commands of one queue pair that are outstanding, by their CIDs, and in the order
//! in which they are late.
//!
//! A CID is the number of a slot and, above it, how often the slot was used: what completes a
//! second time, or after its slot went to another command, names nothing that is outstanding. CIDs
//! never are FFFFh, which the error log uses for something else.
//!
//! There is a list for each [`Patience`], and in it deadlines are in order: every command is given
//! the same time, from when it is sent. One that was late waits behind those of short patience,
//! since then it has as long as they have.
//!
//! The slot of a command that was late rests when it has ended, until its deadline: somebody may be
//! about to abort it by its CID, which must not be another's by then.

use std::time::Instant;

use super::facts::{Patience, QUEUE_ENTRIES_MAX};
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
    Foreign { lane: u16, tag: u16 },
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
    /// The number of a flush among those of its namespace.
    pub(crate) flush: u64,
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
    state: State,
    /// How often the slot was used, in as many bits as a CID has left.
    uses: u16,
    /// The list that it is in, and its place there.
    list: Option<Patience>,
    earlier: u16,
    later: u16,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Free,
    Taken(Command),
    /// Until then.
    Resting(Instant),
}

#[derive(Clone, Copy, Debug)]
struct Command {
    origin: Origin,
    deadline: Instant,
    lateness: Lateness,
}

/// The ends of a list.
#[derive(Clone, Copy, Debug)]
struct Ends {
    earliest: u16,
    latest: u16,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    free: Vec<u16>,
    resting: usize,
    lists: [Ends; Patience::ALL.len()],
}

impl Slots {
    /// So many slots, below [`QUEUE_ENTRIES_MAX`].
    pub(crate) fn new(count: u16) -> Self {
        assert!(count < QUEUE_ENTRIES_MAX, "a queue has an entry more");
        let slot = |_| Slot {
            state: State::Free,
            uses: 0,
            list: None,
            earlier: NONE,
            later: NONE,
        };
        let ends = Ends {
            earliest: NONE,
            latest: NONE,
        };
        Self {
            slots: (0..count).map(slot).collect(),
            free: (0..count).rev().collect(),
            resting: 0,
            lists: [ends; Patience::ALL.len()],
        }
    }

    /// Commands that are outstanding.
    pub(crate) fn taken(&self) -> usize {
        self.slots.len() - self.free.len() - self.resting
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// The slot that [`take`](Self::take) takes next.
    pub(crate) fn next(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// Takes a free slot for a command. Deadlines of one patience never run backwards. `None`:
    /// there is none.
    pub(crate) fn take(
        &mut self,
        origin: Origin,
        (patience, deadline): (Patience, Instant),
    ) -> Option<CommandId> {
        let number = self.free.pop()?;
        self.slots[usize::from(number)].state = State::Taken(Command {
            origin,
            deadline,
            lateness: Lateness::InTime,
        });
        self.link(number, patience);
        Some(self.id(number))
    }

    fn id(&self, number: u16) -> CommandId {
        CommandId(self.slots[usize::from(number)].uses << NUMBER_BITS | number)
    }

    /// The place and the command that an ID names.
    fn named(&mut self, id: CommandId) -> Option<(u16, &mut Command)> {
        let number = id.0 & NUMBER;
        let slot = self.slots.get_mut(usize::from(number))?;
        match &mut slot.state {
            State::Taken(command) if slot.uses == id.0 >> NUMBER_BITS => Some((number, command)),
            _ => None,
        }
    }

    /// The command is no longer outstanding.
    pub(crate) fn release(&mut self, id: CommandId) -> Option<Origin> {
        let (number, &mut command) = self.named(id)?;
        if command.lateness == Lateness::Once {
            // It stays where it is in its list.
            self.slots[usize::from(number)].state = State::Resting(command.deadline);
            self.resting += 1;
        } else {
            self.give_back(number);
        }
        Some(command.origin)
    }

    /// The slot is free.
    fn give_back(&mut self, number: u16) {
        self.unlink(number);
        let slot = &mut self.slots[usize::from(number)];
        slot.uses = (slot.uses + 1) & (u16::MAX >> NUMBER_BITS);
        if matches!(slot.state, State::Resting(_)) {
            self.resting -= 1;
        }
        slot.state = State::Free;
        self.free.push(number);
    }

    /// Takes one out that is outstanding: with the deadline that comes last, of long patience
    /// first. When there is none no slot rests either: nobody aborts anything then.
    pub(crate) fn release_latest(&mut self) -> Option<Origin> {
        for patience in Patience::ALL.into_iter().rev() {
            while let number = self.lists[patience as usize].latest
                && number != NONE
            {
                let state = self.slots[usize::from(number)].state;
                self.give_back(number);
                if let State::Taken(command) = state {
                    return Some(command.origin);
                }
            }
        }
        // What was late twice is in no list, and older.
        let mut numbers = 0..;
        let origin = self
            .slots
            .iter()
            .zip(&mut numbers)
            .find_map(|(slot, at)| match slot.state {
                State::Taken(command) => Some((at, command.origin)),
                _ => None,
            });
        let (number, origin) = origin?;
        self.give_back(number);
        Some(origin)
    }

    /// A command whose deadline has passed, if there is one.
    pub(crate) fn late(&mut self, now: Instant) -> Option<Late> {
        for patience in Patience::ALL {
            while let number = self.lists[patience as usize].earliest
                && number != NONE
            {
                match self.slots[usize::from(number)].state {
                    State::Taken(command) if command.deadline <= now => {
                        let (id, again) = (self.id(number), command.lateness == Lateness::Once);
                        return Some(Late { id, again });
                    }
                    State::Resting(until) if until <= now => self.give_back(number),
                    _ => break,
                }
            }
        }
        None
    }

    /// The keeper knows that it is late: it has until `deadline`, which is as for short patience,
    /// or for ever the second time.
    pub(crate) fn told(&mut self, late: Late, deadline: Instant) {
        let Some((number, command)) = self.named(late.id) else {
            return;
        };
        command.deadline = deadline;
        command.lateness = if late.again {
            Lateness::Twice
        } else {
            Lateness::Once
        };
        self.unlink(number);
        if !late.again {
            self.link(number, Patience::Short);
        }
    }

    fn link(&mut self, number: u16, patience: Patience) {
        let ends = &mut self.lists[patience as usize];
        let earlier = std::mem::replace(&mut ends.latest, number);
        let slot = &mut self.slots[usize::from(number)];
        (slot.list, slot.earlier, slot.later) = (Some(patience), earlier, NONE);
        match self.slots.get_mut(usize::from(earlier)) {
            Some(earlier) => earlier.later = number,
            None => ends.earliest = number,
        }
    }

    fn unlink(&mut self, number: u16) {
        let slot = &mut self.slots[usize::from(number)];
        let Some(patience) = slot.list.take() else {
            return;
        };
        let (earlier, later) = (slot.earlier, slot.later);
        (slot.earlier, slot.later) = (NONE, NONE);
        let ends = &mut self.lists[patience as usize];
        match self.slots.get_mut(usize::from(earlier)) {
            Some(earlier) => earlier.later = later,
            None => ends.earliest = later,
        }
        match self.slots.get_mut(usize::from(later)) {
            Some(later) => later.earlier = earlier,
            None => ends.latest = earlier,
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

    const SHORT: Patience = Patience::Short;

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
            flush: 0,
        })
    }

    #[test]
    fn an_id_names_its_command_once() {
        let (mut slots, now) = (Slots::new(1), suite::now());
        let mut ids = Vec::new();
        for request in 0..64 {
            let id = slots.take(part(request), (SHORT, now)).unwrap();
            assert_eq!(slots.take(part(0), (SHORT, now)), None, "all are taken");
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
            .map(|nth| slots.take(part(nth), (SHORT, now)).unwrap())
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
        let first = slots.take(part(0), (SHORT, start + TIMEOUT)).unwrap();
        let later = start + Duration::from_secs(1);
        let second = slots.take(part(1), (SHORT, later + TIMEOUT)).unwrap();
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
            slots.take(part(nth), (SHORT, deadline)).unwrap();
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
        slots.take(part(3), (SHORT, start)).unwrap();
        slots.take(part(4), (SHORT, start)).unwrap();
        let released: Vec<_> = std::iter::from_fn(|| slots.release_latest()).collect();
        assert_eq!(released, [part(4), part(3), part(0)]);
    }

    #[test]
    fn each_patience_has_deadlines_of_its_own() {
        let (mut slots, start) = (Slots::new(4), suite::now());
        let long = slots
            .take(part(0), (Patience::Long, start + 2 * TIMEOUT))
            .unwrap();
        let short = slots.take(part(1), (SHORT, start + TIMEOUT)).unwrap();
        let late = |id, again| Some(Late { id, again });
        let now = start + TIMEOUT;
        assert_eq!(slots.late(now), late(short, false), "behind a longer one");
        assert_eq!(slots.release(short), Some(part(1)));
        assert_eq!(slots.late(now), None);
        let now = start + 2 * TIMEOUT;
        assert_eq!(slots.late(now), late(long, false));
        let again = false;
        slots.told(Late { id: long, again }, now + TIMEOUT);
        assert_eq!(slots.late(now), None);
        let next = slots.take(part(2), (Patience::Long, now + 2 * TIMEOUT));
        let now = now + TIMEOUT;
        assert_eq!(slots.late(now), late(long, true), "as long as a short one");
        let again = true;
        slots.told(Late { id: long, again }, now);
        assert_eq!(slots.late(now), None);
        assert_eq!(
            slots.late(now + TIMEOUT),
            next.map(|id| Late { id, again: false })
        );
        let left: Vec<_> = std::iter::from_fn(|| slots.release_latest()).collect();
        assert_eq!(left, [part(2), part(0)]);
    }

    #[test]
    fn a_late_command_leaves_its_slot_to_nobody_before_its_deadline() {
        let (mut slots, start) = (Slots::new(2), suite::now());
        let late = |slots: &mut Slots| {
            let id = slots.take(part(0), (SHORT, start)).unwrap();
            let late = Late { id, again: false };
            assert_eq!(slots.late(start), Some(late));
            slots.told(late, start + TIMEOUT);
            assert_eq!(slots.release(id), Some(part(0)));
            assert_eq!((slots.taken(), slots.free()), (0, 1));
            assert_eq!(slots.release(id), None, "it has ended");
            id
        };
        let id = late(&mut slots);
        for nth in 0..200 {
            let other = slots.take(part(nth), (SHORT, start + 2 * TIMEOUT)).unwrap();
            assert_ne!(other, id);
            assert_eq!(slots.next(), None, "one is in use, one rests");
            slots.release(other).unwrap();
        }
        assert_eq!(slots.late(start + TIMEOUT), None);
        assert_eq!(slots.free(), 2);
        // A reset ends the rest.
        late(&mut slots);
        assert_eq!((slots.release_latest(), slots.free()), (None, 2));
    }

    /// What slots are to do, in a map of what is outstanding and two queues of deadlines.
    #[derive(Default)]
    struct Plain {
        taken: BTreeMap<CommandId, Origin>,
        /// Deadline, whether it was late, whether it has ended.
        queues: [VecDeque<(CommandId, Instant, bool, bool)>; 2],
    }

    impl Plain {
        fn resting(&self) -> usize {
            let all = self.queues.iter().flatten();
            all.filter(|&&(_, _, _, rests)| rests).count()
        }

        fn release(&mut self, id: CommandId) -> Option<Origin> {
            let origin = self.taken.remove(&id)?;
            for queue in &mut self.queues {
                queue.retain(|&(it, _, again, _)| it != id || again);
                for (it, _, _, rests) in queue {
                    *rests |= *it == id;
                }
            }
            Some(origin)
        }

        fn late(&mut self, now: Instant) -> Option<Late> {
            for queue in &mut self.queues {
                while let Some(&(id, at, again, rests)) = queue.front()
                    && at <= now
                {
                    if !rests {
                        return Some(Late { id, again });
                    }
                    queue.pop_front();
                }
            }
            None
        }

        fn told(&mut self, late: Late, deadline: Instant) {
            for queue in &mut self.queues {
                queue.retain(|&(it, _, _, _)| it != late.id);
            }
            if !late.again {
                self.queues[0].push_back((late.id, deadline, true, false));
            }
        }
    }

    proptest! {
        #[test]
        fn slots_agree_with_a_map(steps in prop::collection::vec((0_u8..8, any::<u16>()), 1..300)) {
            let (mut slots, mut now) = (Slots::new(5), suite::now());
            let mut plain = Plain::default();
            for (nth, (step, pick)) in (0_u32..).zip(steps) {
                match step {
                    0..=3 => {
                        let patience = Patience::ALL[usize::from(step % 2)];
                        let deadline = now + TIMEOUT * u32::from(1 + step % 2);
                        let id = slots.take(part(nth), (patience, deadline));
                        prop_assert_eq!(id.is_some(), plain.taken.len() + plain.resting() < 5);
                        if let Some(id) = id {
                            prop_assert_eq!(plain.taken.insert(id, part(nth)), None);
                            let queue = &mut plain.queues[patience as usize];
                            queue.push_back((id, deadline, false, false));
                        }
                    }
                    4 | 5 => {
                        let id = plain.taken.keys().nth(usize::from(pick) % 5).copied();
                        let id = id.unwrap_or(CommandId(pick));
                        prop_assert_eq!(slots.release(id), plain.release(id));
                    }
                    6 => now += Duration::from_secs(u64::from(pick % 9)),
                    _ => {
                        let late = slots.late(now);
                        prop_assert_eq!(late, plain.late(now));
                        if let Some(late) = late {
                            slots.told(late, now + TIMEOUT);
                            plain.told(late, now + TIMEOUT);
                        }
                    }
                }
                prop_assert_eq!(slots.taken(), plain.taken.len());
                prop_assert_eq!(slots.free() + slots.taken() + plain.resting(), 5);
            }
            while slots.release_latest().is_some() {}
            prop_assert_eq!((slots.taken(), slots.free()), (0, 5));
        }
    }
}
