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
//! The slot of a command that may be aborted by its CID rests a little when it has ended: an Abort
//! may still be under way, and must not meet another command. A share of the slots at most is for
//! such commands, so that a controller that paused is not held up by slots that rest.

use std::collections::VecDeque;
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
/// One slot of so many, and at least one, may be of a command that may be aborted, or rest.
const ABORTABLE_SHARE: usize = 4;
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
    Resting,
}

#[derive(Clone, Copy, Debug)]
struct Command {
    origin: Origin,
    deadline: Instant,
    lateness: Lateness,
    /// By its CID.
    abortable: bool,
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
    /// Slots that rest, and until when: in order.
    resting: VecDeque<(Instant, u16)>,
    /// Those, and the ones of commands that may be aborted.
    abortable: usize,
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
            resting: VecDeque::with_capacity(usize::from(count)),
            abortable: 0,
            lists: [ends; Patience::ALL.len()],
        }
    }

    /// Commands that are outstanding.
    pub(crate) fn taken(&self) -> usize {
        self.slots.len() - self.free.len() - self.resting.len()
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
            abortable: false,
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

    /// The command is no longer outstanding. If it may be aborted, its slot rests until `rested`,
    /// which never runs backwards.
    pub(crate) fn release(&mut self, id: CommandId, rested: Instant) -> Option<Origin> {
        let (number, &mut command) = self.named(id)?;
        if command.abortable {
            self.unlink(number);
            self.slots[usize::from(number)].state = State::Resting;
            self.resting.push_back((rested, number));
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
        let was = std::mem::replace(&mut slot.state, State::Free);
        if matches!(
            was,
            State::Resting
                | State::Taken(Command {
                    abortable: true,
                    ..
                })
        ) {
            self.abortable -= 1;
        }
        self.free.push(number);
    }

    /// Takes one out that is outstanding: with the deadline that comes last, of long patience
    /// first. No slot rests then: nobody aborts anything any more.
    pub(crate) fn release_latest(&mut self) -> Option<Origin> {
        while let Some((_, number)) = self.resting.pop_front() {
            self.give_back(number);
        }
        for patience in Patience::ALL.into_iter().rev() {
            let number = self.lists[patience as usize].latest;
            if let Some(slot) = self.slots.get(usize::from(number))
                && let State::Taken(command) = slot.state
            {
                self.give_back(number);
                return Some(command.origin);
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

    /// A command whose deadline has passed, if there is one. Slots that have rested are free.
    pub(crate) fn late(&mut self, now: Instant) -> Option<Late> {
        while let Some(&(rested, number)) = self.resting.front()
            && rested <= now
        {
            self.resting.pop_front();
            self.give_back(number);
        }
        for patience in Patience::ALL {
            let number = self.lists[patience as usize].earliest;
            if let Some(slot) = self.slots.get(usize::from(number))
                && let State::Taken(command) = slot.state
                && command.deadline <= now
            {
                let (id, again) = (self.id(number), command.lateness == Lateness::Once);
                return Some(Late { id, again });
            }
        }
        None
    }

    /// Whether one command more may be aborted by its CID.
    pub(crate) fn has_abortable(&self) -> bool {
        self.abortable < (self.slots.len() / ABORTABLE_SHARE).max(1)
    }

    /// It is late, and somebody may abort it by its CID (`abortable`), or nobody does. It has until
    /// `deadline`, which is as for short patience, or for ever the second time.
    pub(crate) fn told(&mut self, late: Late, deadline: Instant, abortable: bool) {
        let Some((number, command)) = self.named(late.id) else {
            return;
        };
        let more = abortable && !command.abortable;
        command.abortable |= abortable;
        command.deadline = deadline;
        command.lateness = if late.again {
            Lateness::Twice
        } else {
            Lateness::Once
        };
        self.abortable += usize::from(more);
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
    use std::collections::{BTreeMap, BTreeSet, VecDeque};
    use std::time::Duration;

    use super::super::super::suite;
    use super::*;
    use proptest::prelude::*;

    const TIMEOUT: Duration = Duration::from_secs(8);
    const REST: Duration = Duration::from_secs(1);

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
                assert_eq!(slots.release(old, now), None);
            }
            assert_eq!(slots.release(id, now), Some(part(request)));
            assert_eq!(slots.release(id, now), None, "completed twice");
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
            assert_eq!(slots.release(id, now), origin);
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
        slots.told(late, now + TIMEOUT, true);
        assert_eq!(slots.late(now), None);
        let now = now + TIMEOUT;
        let other = slots.late(now).unwrap();
        assert_eq!((other.id, other.again), (second, false));
        assert_eq!(slots.release(second, now), Some(part(1)));
        let again = slots.late(now).unwrap();
        assert_eq!((again.id, again.again), (first, true));
        slots.told(again, now + TIMEOUT, true);
        assert_eq!(slots.late(now + 10 * TIMEOUT), None);
        assert_eq!(slots.taken(), 1);
        assert_eq!(slots.release_latest(), Some(part(0)));
        assert_eq!((slots.taken(), slots.release_latest()), (0, None));
        slots.told(again, now, true);
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
            slots.told(late, start, true);
            if !again {
                // What is behind it completes, so that it is at the head again.
                let other = slots.late(start + 2 * TIMEOUT).unwrap();
                assert_eq!(slots.release(other.id, start), Some(part(1)));
                let other = slots.late(start + 2 * TIMEOUT).unwrap();
                assert_eq!(slots.release(other.id, start), Some(part(2)));
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
        assert_eq!(slots.release(short, now), Some(part(1)));
        assert_eq!(slots.late(now), None);
        let now = start + 2 * TIMEOUT;
        assert_eq!(slots.late(now), late(long, false));
        let again = false;
        slots.told(Late { id: long, again }, now + TIMEOUT, true);
        assert_eq!(slots.late(now), None);
        let next = slots.take(part(2), (Patience::Long, now + 2 * TIMEOUT));
        let now = now + TIMEOUT;
        assert_eq!(slots.late(now), late(long, true), "as long as a short one");
        let again = true;
        slots.told(Late { id: long, again }, now, true);
        assert_eq!(slots.late(now), None);
        assert_eq!(
            slots.late(now + TIMEOUT),
            next.map(|id| Late { id, again: false })
        );
        let left: Vec<_> = std::iter::from_fn(|| slots.release_latest()).collect();
        assert_eq!(left, [part(2), part(0)]);
    }

    #[test]
    fn the_slot_of_what_may_be_aborted_rests_a_little() {
        let (mut slots, start) = (Slots::new(2), suite::now());
        let (ended, rested) = (start + TIMEOUT / 2, start + TIMEOUT / 2 + REST);
        let late = |slots: &mut Slots, abortable| {
            let id = slots.take(part(0), (SHORT, start)).unwrap();
            let late = Late { id, again: false };
            assert_eq!(slots.late(start), Some(late));
            slots.told(late, start + TIMEOUT, abortable);
            assert_eq!(slots.release(id, rested), Some(part(0)));
            assert_eq!(
                (slots.taken(), slots.free()),
                (0, 2 - usize::from(abortable))
            );
            assert_eq!(slots.release(id, rested), None, "it has ended");
            id
        };
        late(&mut slots, false);
        assert!(slots.has_abortable());
        let id = late(&mut slots, true);
        assert!(!slots.has_abortable(), "one in four, and one at least");
        for nth in 0..200 {
            let other = slots.take(part(nth), (SHORT, start + 2 * TIMEOUT)).unwrap();
            assert_ne!(other, id);
            assert_eq!(slots.next(), None, "one is in use, one rests");
            assert_eq!(slots.late(ended), None);
            slots.release(other, rested).unwrap();
        }
        assert_eq!(slots.late(rested), None);
        assert!(slots.free() == 2 && slots.has_abortable());
        // A reset ends the rest.
        late(&mut slots, true);
        assert_eq!((slots.release_latest(), slots.free()), (None, 2));
        assert!(slots.has_abortable());
    }

    /// What slots are to do, in a map of what is outstanding and queues of deadlines.
    #[derive(Default)]
    struct Plain {
        taken: BTreeMap<CommandId, Origin>,
        /// Deadline, whether it was late.
        queues: [VecDeque<(CommandId, Instant, bool)>; 2],
        abortable: BTreeSet<CommandId>,
        resting: VecDeque<Instant>,
    }

    impl Plain {
        fn release(&mut self, id: CommandId, rested: Instant) -> Option<Origin> {
            let origin = self.taken.remove(&id)?;
            for queue in &mut self.queues {
                queue.retain(|&(it, _, _)| it != id);
            }
            if self.abortable.remove(&id) {
                self.resting.push_back(rested);
            }
            Some(origin)
        }

        fn late(&mut self, now: Instant) -> Option<Late> {
            self.resting.retain(|&rested| rested > now);
            let mut heads = self.queues.iter().filter_map(VecDeque::front);
            let &(id, _, again) = heads.find(|&&(_, at, _)| at <= now)?;
            Some(Late { id, again })
        }

        fn told(&mut self, late: Late, deadline: Instant, abortable: bool) {
            for queue in &mut self.queues {
                queue.retain(|&(it, _, _)| it != late.id);
            }
            if !late.again {
                self.queues[0].push_back((late.id, deadline, true));
            }
            if abortable {
                self.abortable.insert(late.id);
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
                        prop_assert_eq!(id.is_some(), plain.taken.len() + plain.resting.len() < 5);
                        if let Some(id) = id {
                            prop_assert_eq!(plain.taken.insert(id, part(nth)), None);
                            let queue = &mut plain.queues[patience as usize];
                            queue.push_back((id, deadline, false));
                        }
                    }
                    4 | 5 => {
                        let id = plain.taken.keys().nth(usize::from(pick) % 5).copied();
                        let id = id.unwrap_or(CommandId(pick));
                        let rested = now + REST;
                        prop_assert_eq!(slots.release(id, rested), plain.release(id, rested));
                    }
                    6 => now += Duration::from_secs(u64::from(pick % 9)),
                    _ => {
                        let late = slots.late(now);
                        prop_assert_eq!(late, plain.late(now));
                        if let Some(late) = late {
                            let abortable = !late.again && slots.has_abortable();
                            slots.told(late, now + TIMEOUT, abortable);
                            plain.told(late, now + TIMEOUT, abortable);
                        }
                    }
                }
                prop_assert_eq!(slots.taken(), plain.taken.len());
                prop_assert_eq!(slots.free() + slots.taken() + plain.resting.len(), 5);
                prop_assert!(plain.resting.len() + plain.abortable.len() <= 1);
            }
            while slots.release_latest().is_some() {}
            prop_assert_eq!((slots.taken(), slots.free()), (0, 5));
        }
    }
}
