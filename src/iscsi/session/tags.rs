//! Which slots have the task with an Initiator Task Tag: a hash table of fixed size, open addressed
//! with linear probing.
//!
//! The tags are the peer's to choose, and a peer may choose them so that all begin at one place.
//! That costs little: a search looks at no more places than there are tasks, of which the command
//! window admits a hundred and some. So the hash needs no key; it only spreads the tags that
//! ordinary initiators pick, which count in the low or, in the other byte order, in the high byte.
//!
//! Invariants: between the place where a tag's hash points and the place where it stands, no place
//! is empty; at least one place is. A tag may stand here twice, for a command that came with a tag
//! that is in use (RFC 7143 §11.2.1.8).

use crate::pdu::Itt;

/// 2^32 divided by the golden ratio, odd: the products of tags that follow each other lie far
/// apart in their upper bits.
const SPREAD: u32 = 0x9e37_79b1;

#[derive(Clone, Copy, Debug)]
struct Place {
    /// The reserved tag where the place is empty.
    itt: Itt,
    slot: u16,
}

const EMPTY: Place = Place {
    itt: Itt::RESERVED,
    slot: 0,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Tags {
    /// A power of two of them.
    places: Box<[Place]>,
    /// How far a hash is shifted to be an index.
    shift: u32,
}

impl Tags {
    /// With room for `capacity` tags.
    pub(super) fn new(capacity: u16) -> Self {
        let wanted = (u32::from(capacity) * 3 / 2 + 1).next_power_of_two().max(2);
        Self {
            places: vec![EMPTY; wanted as usize].into_boxed_slice(),
            shift: u32::BITS - wanted.trailing_zeros(),
        }
    }

    fn home(&self, itt: Itt) -> usize {
        (itt.0.wrapping_mul(SPREAD) >> self.shift) as usize
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.places.len() - 1)
    }

    /// The lowest slot with this tag.
    pub(super) fn slot(&self, itt: Itt) -> Option<u16> {
        let mut found: Option<u16> = None;
        let mut at = self.home(itt);
        loop {
            let place = self.places[at];
            if place.itt == Itt::RESERVED {
                return found;
            }
            if place.itt == itt {
                found = Some(found.map_or(place.slot, |slot| slot.min(place.slot)));
            }
            at = self.next(at);
        }
    }

    /// The slot has this tag from now on; it has no other, and the tag is not the reserved one.
    pub(super) fn insert(&mut self, itt: Itt, slot: u16) {
        let mut at = self.home(itt);
        while self.places[at].itt != Itt::RESERVED {
            at = self.next(at);
        }
        self.places[at] = Place { itt, slot };
    }

    /// The slot does not have this tag any more, if it had.
    pub(super) fn remove(&mut self, itt: Itt, slot: u16) {
        let mut gap = self.home(itt);
        loop {
            let place = self.places[gap];
            if place.itt == Itt::RESERVED {
                return;
            }
            if place.itt == itt && place.slot == slot {
                break;
            }
            gap = self.next(gap);
        }
        // What stands behind the gap moves into it, unless that is before its home.
        let mut at = gap;
        loop {
            at = self.next(at);
            let place = self.places[at];
            if place.itt == Itt::RESERVED {
                break;
            }
            let mask = self.places.len() - 1;
            let from_home = at.wrapping_sub(self.home(place.itt)) & mask;
            let from_gap = at.wrapping_sub(gap) & mask;
            if from_home >= from_gap {
                self.places[gap] = place;
                gap = at;
            }
        }
        self.places[gap] = EMPTY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAPACITY: u16 = 24;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert { itt: u32 },
        Remove { nth: usize },
    }

    /// Few tags, so that they come twice; some with one home; some as initiators count.
    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let tags = Tags::new(CAPACITY);
        let crowd: Vec<_> = (0..u32::MAX)
            .filter(|itt| tags.home(Itt(*itt)) == tags.places.len() - 2)
            .take(12)
            .collect();
        let itt = prop_oneof![
            0..30_u32,
            (0..30_u32).prop_map(u32::swap_bytes),
            prop::sample::select(crowd),
        ];
        let step = prop_oneof![
            3 => itt.prop_map(|itt| Step::Insert { itt }),
            2 => any::<prop::sample::Index>().prop_map(|nth| Step::Remove { nth: nth.index(64) }),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// It answers as the search of a plain list of slots does.
        #[test]
        fn a_tag_is_found_where_a_list_has_it(steps in steps()) {
            let mut tags = Tags::new(CAPACITY);
            let mut list = [None; CAPACITY as usize];
            for step in steps {
                let free = list.iter().rposition(Option::is_none);
                let taken: Vec<_> = (0..list.len()).filter(|at| list[*at].is_some()).collect();
                match step {
                    Step::Insert { itt } => {
                        if let Some(at) = free {
                            list[at] = Some(itt);
                            tags.insert(Itt(itt), u16::try_from(at).unwrap());
                        }
                    }
                    Step::Remove { .. } if taken.is_empty() => {}
                    Step::Remove { nth } => {
                        let at = taken[nth % taken.len()];
                        let itt = list[at].take().unwrap();
                        let slot = u16::try_from(at).unwrap();
                        tags.remove(Itt(itt), slot);
                        tags.remove(Itt(itt), slot);
                    }
                }
                for itt in list.iter().flatten().copied().chain([77, 0, 1 << 24]) {
                    let at = list.iter().position(|tag| *tag == Some(itt));
                    let slot = at.map(|at| u16::try_from(at).unwrap());
                    prop_assert_eq!(tags.slot(Itt(itt)), slot);
                }
                prop_assert_eq!(tags.slot(Itt::RESERVED), None);
            }
        }
    }

    #[test]
    fn tags_as_initiators_count_stand_near_their_home() {
        for count in [
            |n: u32| n,
            u32::swap_bytes,
            |n| 0x8000_0000 | n,
            |n| n << 16,
        ] {
            let mut tags = Tags::new(136);
            for n in 0..136 {
                tags.insert(Itt(count(n)), u16::try_from(n).unwrap());
            }
            let mask = tags.places.len() - 1;
            let steps = |(at, place): (usize, &Place)| {
                let home = tags.home(place.itt);
                (place.itt != Itt::RESERVED).then(|| at.wrapping_sub(home) & mask)
            };
            let total: usize = tags.places.iter().enumerate().filter_map(steps).sum();
            assert!(total <= 2 * 136, "{total} steps for 136 tags");
        }
    }
}
