//! The model's queues, and what their doorbells may say (NVM Express Base Specification 2.0 §3.3,
//! PCIe Transport Specification 1.0 §3.1.2).

use std::collections::BTreeSet;

use super::verdict::Rule;

/// Addresses of a queue's shadow doorbell and of its event index.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shadowed {
    pub(super) doorbell: u64,
    pub(super) event: u64,
}

/// How far `to` is from `from` in a ring.
fn distance(from: u32, to: u32, entries: u32) -> u32 {
    (to + entries - from) % entries
}

/// A submission queue.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) base: u64,
    pub(super) entries: u32,
    pub(super) head: u32,
    pub(super) tail: u32,
    /// The last head that a completion has told: all that the driver can know.
    told: u32,
    pub(super) completion: u16,
    /// CIDs of commands that are not completed.
    pub(super) outstanding: BTreeSet<u16>,
    pub(super) shadow: Option<Shadowed>,
    /// It looks at its shadow doorbell only when the register is written.
    pub(super) asleep: bool,
}

impl Submission {
    pub(super) fn new(base: u64, entries: u32, completion: u16) -> Self {
        Self {
            base,
            entries,
            head: 0,
            tail: 0,
            told: 0,
            completion,
            outstanding: BTreeSet::new(),
            shadow: None,
            asleep: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// The driver's new tail. `again`: it may be the one that is known.
    pub(super) fn ring(&mut self, value: u32, again: bool) -> Result<(), Rule> {
        if value >= self.entries {
            return Err(Rule::DoorbellValue);
        }
        if value == self.tail {
            return if again {
                Ok(())
            } else {
                Err(Rule::DoorbellSame)
            };
        }
        let waiting = distance(self.told, self.tail, self.entries);
        let added = distance(self.tail, value, self.entries);
        if waiting + added >= self.entries {
            return Err(Rule::SubmissionOverrun);
        }
        self.tail = value;
        Ok(())
    }

    /// Where the next command is.
    pub(super) fn fetch(&mut self) -> u64 {
        let at = self.base + 64 * u64::from(self.head);
        self.head = (self.head + 1) % self.entries;
        at
    }

    /// SQHD of a completion that is posted now.
    pub(super) fn tell(&mut self) -> u16 {
        self.told = self.head;
        u16::try_from(self.head).expect("queues have at most 2^16 entries")
    }
}

/// A completion queue.
#[derive(Debug)]
pub(super) struct Completions {
    pub(super) base: u64,
    pub(super) entries: u32,
    head: u32,
    tail: u32,
    pub(super) phase: bool,
    pub(super) shadow: Option<Shadowed>,
    /// No command that completes to it was fetched.
    pub(super) is_fresh: bool,
}

impl Completions {
    pub(super) fn new(base: u64, entries: u32) -> Self {
        Self {
            base,
            entries,
            head: 0,
            tail: 0,
            phase: true,
            shadow: None,
            is_fresh: true,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        distance(self.head, self.tail, self.entries) + 1 == self.entries
    }

    /// Completions that the driver has not said to have read.
    pub(super) fn unread(&self) -> u32 {
        distance(self.head, self.tail, self.entries)
    }

    pub(super) fn head(&self) -> u32 {
        self.head
    }

    /// The driver's new head.
    pub(super) fn ring(&mut self, value: u32, again: bool) -> Result<(), Rule> {
        if value >= self.entries {
            return Err(Rule::DoorbellValue);
        }
        if value == self.head {
            return if again {
                Ok(())
            } else {
                Err(Rule::DoorbellSame)
            };
        }
        if distance(self.head, value, self.entries) > self.unread() {
            return Err(Rule::CompletionOverrun);
        }
        self.head = value;
        Ok(())
    }

    /// Where the next completion goes, and its phase.
    pub(super) fn post(&mut self) -> (u64, bool) {
        let place = (self.base + 16 * u64::from(self.tail), self.phase);
        self.tail = (self.tail + 1) % self.entries;
        if self.tail == 0 {
            self.phase = !self.phase;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_passes_only_commands_that_were_seen_to_be_read() {
        let mut queue = Submission::new(0x1000, 4, 1);
        assert_eq!(queue.ring(4, false), Err(Rule::DoorbellValue));
        assert_eq!(queue.ring(0, false), Err(Rule::DoorbellSame));
        assert_eq!(queue.ring(0, true), Ok(()));
        assert_eq!(queue.ring(3, false), Ok(()), "one place stays free");
        assert_eq!(queue.ring(0, false), Err(Rule::SubmissionOverrun));
        assert_eq!((queue.fetch(), queue.fetch()), (0x1000, 0x1040));
        assert_eq!(
            queue.ring(0, false),
            Err(Rule::SubmissionOverrun),
            "not told"
        );
        assert_eq!(queue.tell(), 2);
        assert_eq!(queue.ring(1, false), Ok(()));
        assert_eq!(queue.ring(2, false), Err(Rule::SubmissionOverrun));
        assert!(!queue.is_empty());
    }

    #[test]
    fn a_head_passes_only_what_was_posted() {
        let mut queue = Completions::new(0x2000, 3);
        assert_eq!(queue.ring(1, false), Err(Rule::CompletionOverrun));
        assert_eq!(queue.post(), (0x2000, true));
        assert_eq!(queue.post(), (0x2010, true));
        assert!(queue.is_full());
        assert_eq!(queue.ring(2, false), Ok(()));
        assert_eq!(queue.unread(), 0);
        assert_eq!(queue.post(), (0x2020, true));
        assert_eq!(queue.post(), (0x2000, false));
        assert_eq!(queue.ring(1, false), Ok(()));
        assert_eq!(queue.ring(1, false), Err(Rule::DoorbellSame));
        assert_eq!(queue.ring(3, false), Err(Rule::DoorbellValue));
    }
}
