//! The flow table: from both ends of a connection, and its VLAN, to whatever is kept of it.
//!
//! Open addressing with linear probing over small buckets beside the slots that hold keys and
//! values, so that a lookup touches one or two lines of buckets and one slot however many flows
//! there are. Everything is taken at start. The hash has a random key, so that no peer can choose
//! ends that collide. A slot's generation changes whenever it is emptied: an old [`FlowId`] finds
//! nothing.
//!
//! Frames come in runs of one connection, so that the last one that was found is looked at first.
//! The hash multiplies what tells connections apart with a random key of 256 bits and folds the
//! product. That is much cheaper than SipHash, and less: who saw hashes could find the key. Nobody
//! does: they are not sent, there are only as many entries as there may be connections, their order
//! is told to nobody, and a search that a stranger times over a network is nanoseconds of it. Who
//! guesses finds two ends of one hash about as often as chance has it.
//!
//! Invariants: each full slot has exactly one bucket; between a bucket and where its hash wants it
//! there is no empty bucket; at least half of the buckets are empty.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use super::model::{FlowId, FlowKey};

/// No slot.
const NONE: u32 = u32::MAX;

/// See the module.
pub(super) struct Table<T> {
    key: [u64; 4],
    buckets: Box<[Bucket]>,
    slots: Box<[Slot<T>]>,
    /// The first empty slot.
    free: u32,
    len: usize,
    /// Where the last entry was found. It may be gone.
    last: Cell<u32>,
}

#[derive(Clone, Copy)]
struct Bucket {
    hash: u32,
    slot: u32,
}

const EMPTY: Bucket = Bucket {
    hash: 0,
    slot: NONE,
};

struct Slot<T> {
    generation: u32,
    /// Behind this one in the list of empty slots.
    next_free: u32,
    full: Option<(FlowKey, T)>,
}

impl<T> Table<T> {
    /// A table for `max` entries, at least one and fewer than 2³⁰.
    pub(super) fn new(max: usize) -> Self {
        let max = u32::try_from(max.clamp(1, (1 << 30) - 1)).expect("limited above");
        let buckets = (max as usize * 2).next_power_of_two();
        let slots = (1..=max).map(|next| Slot {
            generation: 0,
            next_free: if next == max { NONE } else { next },
            full: None,
        });
        let random = RandomState::new();
        Self {
            key: [0_u64, 1, 2, 3].map(|part| random.hash_one(part)),
            buckets: vec![EMPTY; buckets].into_boxed_slice(),
            slots: slots.collect(),
            free: 0,
            len: 0,
            last: Cell::new(NONE),
        }
    }

    /// Bytes of memory for each entry, at most.
    #[cfg(test)]
    pub(super) const fn bytes_each() -> usize {
        size_of::<Slot<T>>() + 4 * size_of::<Bucket>()
    }

    /// Entries.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// There is no room for another entry.
    pub(super) fn is_full(&self) -> bool {
        self.free == NONE
    }

    /// The slot of the entry with that key.
    #[inline]
    pub(super) fn find(&self, key: &FlowKey) -> Option<u32> {
        let last = self.last.get();
        let is_last = |slot: &Slot<T>| matches!(&slot.full, Some((full, _)) if full == key);
        if self.slots.get(last as usize).is_some_and(is_last) {
            return Some(last);
        }
        let at = self.bucket_of(key, self.hash(key))?;
        let slot = self.buckets[at].slot;
        self.last.set(slot);
        Some(slot)
    }

    /// Puts an entry in. `None`: the table is full, or has one with that key; the value is dropped.
    pub(super) fn insert(&mut self, key: FlowKey, value: T) -> Option<u32> {
        let hash = self.hash(&key);
        if self.free == NONE || self.bucket_of(&key, hash).is_some() {
            return None;
        }
        let slot = self.free;
        let place = &mut self.slots[slot as usize];
        self.free = place.next_free;
        place.full = Some((key, value));
        let mut at = self.home(hash);
        while self.buckets[at].slot != NONE {
            at = self.after(at);
        }
        self.buckets[at] = Bucket { hash, slot };
        self.len += 1;
        Some(slot)
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, slot: u32) -> Option<(FlowKey, T)> {
        let place = self.slots.get_mut(slot as usize)?;
        let (key, value) = place.full.take()?;
        place.generation = place.generation.wrapping_add(1);
        place.next_free = self.free;
        self.free = slot;
        self.len -= 1;
        let mut hole = self.home(self.hash(&key));
        while self.buckets[hole].slot != slot {
            hole = self.after(hole);
        }
        // Buckets behind move up as far as their hash lets them, so that no search ends early.
        let mut at = self.after(hole);
        while self.buckets[at].slot != NONE {
            let home = self.home(self.buckets[at].hash);
            if self.distance(home, at) >= self.distance(hole, at) {
                self.buckets[hole] = self.buckets[at];
                hole = at;
            }
            at = self.after(at);
        }
        self.buckets[hole] = EMPTY;
        Some((key, value))
    }

    /// The slot that an identifier names, while that flow is there.
    pub(super) fn slot(&self, id: FlowId) -> Option<u32> {
        let place = self.slots.get(id.slot as usize)?;
        (place.generation == id.generation && place.full.is_some()).then_some(id.slot)
    }

    /// The identifier of what is in a slot.
    pub(super) fn id(&self, slot: u32) -> FlowId {
        FlowId {
            slot,
            generation: self.slots[slot as usize].generation,
        }
    }

    pub(super) fn entry(&self, slot: u32) -> Option<(&FlowKey, &T)> {
        let (key, value) = self.slots.get(slot as usize)?.full.as_ref()?;
        Some((key, value))
    }

    /// Slots, full and empty ones: they are numbered from 0.
    pub(super) fn slots(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("limited when it was made")
    }

    /// All entries, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        let full = self.slots.iter().filter_map(|slot| slot.full.as_ref());
        full.map(|(_, value)| value)
    }

    pub(super) fn value_mut(&mut self, slot: u32) -> Option<&mut T> {
        let (_, value) = self.slots.get_mut(slot as usize)?.full.as_mut()?;
        Some(value)
    }

    /// A hash of both ends and the VLAN.
    fn hash(&self, key: &FlowKey) -> u32 {
        let [first, second, third, fourth] = self.key;
        let vlan = key.vlan.unwrap_or(u16::MAX);
        let ports =
            u64::from(vlan) << 32 | u64::from(key.local.port()) << 16 | u64::from(key.peer.port());
        let hash = match (key.local.ip(), key.peer.ip()) {
            (IpAddr::V4(local), IpAddr::V4(peer)) => {
                let both = u64::from(local.to_bits()) << 32 | u64::from(peer.to_bits());
                folded(ports ^ first, both ^ second)
            }
            (local, peer) => {
                let [[a, b], [c, d]] = [local, peer].map(halves);
                let locals = folded(a ^ first, b ^ second);
                let peers = folded(c ^ locals ^ second, d ^ third);
                folded(ports ^ first, peers ^ fourth)
            }
        };
        let hash = folded(hash ^ third, fourth);
        u32::try_from(hash >> 32).expect("the upper half has 32 bits")
    }

    fn bucket_of(&self, key: &FlowKey, hash: u32) -> Option<usize> {
        let mut at = self.home(hash);
        loop {
            let bucket = self.buckets[at];
            if bucket.slot == NONE {
                return None;
            }
            if bucket.hash == hash {
                let full = self.slots[bucket.slot as usize].full.as_ref();
                if full.is_some_and(|(other, _)| other == key) {
                    return Some(at);
                }
            }
            at = self.after(at);
        }
    }

    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.buckets.len() - 1)
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.buckets.len() - 1)
    }
}

/// Both halves of the product, one over the other.
fn folded(one: u64, other: u64) -> u64 {
    let (low, high) = one.carrying_mul(other, 0);
    low ^ high
}

fn halves(ip: IpAddr) -> [u64; 2] {
    let ip = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let [a, b, c, d, e, f, g, h] = ip.segments().map(u64::from);
    [
        a << 48 | b << 32 | c << 16 | d,
        e << 48 | f << 32 | g << 16 | h,
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn key(number: u16) -> FlowKey {
        let vlan = (!number.is_multiple_of(3)).then_some(number % 3);
        let (local, peer) = if number.is_multiple_of(2) {
            ("10.0.0.1:3260", "10.0.0.2:0")
        } else {
            ("[fd00::1]:3260", "[fd00::2]:0")
        };
        let mut peer: std::net::SocketAddr = peer.parse().unwrap();
        peer.set_port(number);
        FlowKey {
            vlan,
            local: local.parse().unwrap(),
            peer,
        }
    }

    #[test]
    fn keys_differ_by_each_part() {
        let mut table = Table::new(8);
        let base = key(2);
        table.insert(base, ()).unwrap();
        let other_vlan = FlowKey { vlan: None, ..base };
        let swapped = FlowKey {
            local: base.peer,
            peer: base.local,
            ..base
        };
        assert!(table.find(&base).is_some());
        assert!(table.find(&other_vlan).is_none());
        assert!(table.find(&swapped).is_none());
        assert!(table.insert(base, ()).is_none(), "one entry per key");
    }

    #[test]
    fn an_identifier_of_before_finds_nothing() {
        let mut table = Table::new(1);
        let slot = table.insert(key(0), 'a').unwrap();
        let first = table.id(slot);
        assert_eq!(table.slot(first), Some(slot));
        assert_eq!(table.remove(slot), Some((key(0), 'a')));
        assert_eq!(table.slot(first), None);
        assert_eq!(table.insert(key(1), 'b'), Some(slot));
        assert_eq!(table.slot(first), None);
        assert!(table.insert(key(2), 'c').is_none(), "full");
    }

    #[test]
    fn a_full_table_keeps_all_and_searches_few_buckets() {
        let mut table = Table::new(4000);
        for number in 0..4000 {
            table.insert(key(number), number).unwrap();
        }
        let searched: usize = (0..4000)
            .map(|number| {
                let slot = table.find(&key(number)).unwrap();
                assert_eq!(table.entry(slot).unwrap().1, &number);
                let hash = table.hash(&key(number));
                let at = table.bucket_of(&key(number), hash).unwrap();
                table.distance(table.home(hash), at) + 1
            })
            .sum();
        assert!(searched < 4000 * 2, "{searched} buckets for 4000 lookups");
    }

    /// How many of so many entries share the first bucket that their hash wants with another.
    fn shared(table: &Table<()>, keys: impl Iterator<Item = FlowKey>) -> usize {
        let mut wanted = HashMap::new();
        for key in keys {
            *wanted
                .entry(table.home(table.hash(&key)))
                .or_insert(0_usize) += 1;
        }
        wanted.into_values().map(|count| count - 1).sum()
    }

    #[test]
    fn ends_that_differ_by_little_are_spread() {
        let table = Table::<()>::new(8192);
        let base = key(2);
        let v4 = |part: fn(u32) -> (u32, u16)| {
            (0..4096_u32).map(move |number| {
                let (address, port) = part(number);
                let ip = std::net::Ipv4Addr::from_bits(0x0A00_0000 + address);
                FlowKey {
                    peer: (ip, port).into(),
                    ..base
                }
            })
        };
        let v6 = |shift: u32| {
            (0..4096_u128).map(move |number| FlowKey {
                local: key(1).local,
                peer: (
                    std::net::Ipv6Addr::from_bits(0xFD << 120 | number << shift),
                    9,
                )
                    .into(),
                vlan: None,
            })
        };
        let ports = |number: u32| (5, u16::try_from(number).unwrap() + 1);
        let counts = [
            shared(&table, v4(ports)),
            shared(&table, v4(|number| (number, 3260))),
            shared(&table, v4(|number| (number << 12, 3260))),
            shared(&table, v6(0)),
            shared(&table, v6(64)),
            shared(&table, v6(108)),
        ];
        // 4096 of 16,384 buckets: 470 is what chance gives, with a deviation of 20.
        for count in counts {
            assert!(count < 670, "{counts:?}");
        }
    }

    proptest! {
        #[test]
        fn it_does_what_a_hash_map_does(
            steps in proptest::collection::vec((any::<bool>(), 0_u16..48), 1..400),
        ) {
            let mut table = Table::new(24);
            let mut model: HashMap<FlowKey, (u32, u16)> = HashMap::new();
            for (round, (put, number)) in steps.into_iter().enumerate() {
                let key = key(number);
                let mark = u16::try_from(round).unwrap();
                if put {
                    let fits = model.len() < 24 && !model.contains_key(&key);
                    let slot = table.insert(key, mark);
                    prop_assert_eq!(slot.is_some(), fits);
                    if let Some(slot) = slot {
                        model.insert(key, (slot, mark));
                    }
                } else if let Some((slot, mark)) = model.remove(&key) {
                    prop_assert_eq!(table.remove(slot), Some((key, mark)));
                } else {
                    prop_assert_eq!(table.find(&key), None);
                }
                prop_assert_eq!(table.len(), model.len());
                for (key, (slot, mark)) in &model {
                    prop_assert_eq!(table.find(key), Some(*slot));
                    prop_assert_eq!(table.entry(*slot), Some((key, mark)));
                }
            }
        }
    }
}
