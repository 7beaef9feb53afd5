//! Logical block provisioning (SBC-3 §4.7): how much space backs a unit's blocks, when initiators
//! are warned that it runs short, and when it is spent.
//!
//! The daemon looks at each backing object about once a second and brings what it sees to the
//! unit's home core as [`News`](super::news::News). The home compares it with the thresholds; all
//! replicas then know the same usage and the same [`Level`].
//!
//! The soft threshold warns each nexus once per crossing: it is armed again only when usage has
//! fallen [`HYSTERESIS_PERCENT`] below it. At the hard one, the configured capacity, the device
//! itself refuses what needs space; a device that is really full does so without being told.

use crate::backend::Usage;

/// Part of the soft threshold that usage must fall below it before it can be reached again.
pub const HYSTERESIS_PERCENT: u8 = 5;

/// Bytes in a threshold set, the unit of thresholds and of resource counts.
const THRESHOLD_SET_BYTES: u32 = 1 << 20;

/// When a soft threshold is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Threshold {
    /// Of all the space that there is or may be used, 1 to 100.
    Percent(u8),
    /// Bytes in use.
    Bytes(u64),
}

/// What a command is told that finds no space (SBC-3 §4.7.3.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OutOfSpace {
    /// It fails: DATA PROTECT, SPACE ALLOCATION FAILED WRITE PROTECT.
    #[default]
    Fail,
    /// It is to be sent again: NOT READY, SPACE ALLOCATION IN PROGRESS.
    Retry,
}

/// What is configured of a unit's space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    pub soft: Option<Threshold>,
    /// Most bytes that the unit may use.
    pub capacity: Option<u64>,
    pub out_of_space: OutOfSpace,
}

/// Which thresholds are reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Level {
    pub soft: bool,
    pub hard: bool,
}

impl Policy {
    /// Bytes that the unit uses or could use.
    fn total(&self, usage: Usage) -> u64 {
        let there_is = usage.used.saturating_add(usage.available);
        self.capacity.unwrap_or(there_is).min(there_is)
    }

    /// The soft threshold in bytes in use.
    pub fn soft_bytes(&self, usage: Usage) -> Option<u64> {
        Some(match self.soft? {
            Threshold::Bytes(bytes) => bytes,
            Threshold::Percent(percent) => share(self.total(usage), percent.min(100)),
        })
    }

    /// Bytes that the unit may still take.
    pub fn available(&self, usage: Usage) -> u64 {
        self.total(usage).saturating_sub(usage.used)
    }

    /// What follows `before` when usage is found to be this.
    pub fn level(&self, before: Level, usage: Usage) -> Level {
        let soft = self.soft_bytes(usage).is_some_and(|threshold| {
            let rearm = share(threshold, 100 - HYSTERESIS_PERCENT);
            usage.used >= threshold || before.soft && usage.used >= rearm
        });
        let hard = self.capacity.is_some_and(|capacity| usage.used >= capacity);
        Level { soft, hard }
    }
}

/// What a replica knows of its unit's space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Provisioning {
    pub policy: Policy,
    /// Absent until the device was looked at, and for ever where it cannot say.
    pub usage: Option<Usage>,
    pub level: Level,
}

/// Thresholds that are enforced, in threshold sets: what the Logical Block Provisioning mode page
/// (SBC-3 §6.5.9) reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thresholds {
    /// Used resources at which initiators are warned.
    pub soft_used: Option<u32>,
    /// Used resources at which writes that need space fail.
    pub hard_used: Option<u32>,
}

/// LBA mapping resources in threshold sets: the counts of the Logical Block Provisioning log page
/// (SBC-3 §6.4.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resources {
    pub used: u32,
    pub available: u32,
}

impl Provisioning {
    /// What is enforced; `None` where nothing is configured or the usage is not known yet.
    pub fn thresholds(&self) -> Option<Thresholds> {
        let thresholds = Thresholds {
            soft_used: self.policy.soft_bytes(self.usage?).map(sets),
            hard_used: self.policy.capacity.map(sets),
        };
        let any = thresholds.soft_used.is_some() || thresholds.hard_used.is_some();
        any.then_some(thresholds)
    }

    /// What is used and what is left; `None` where it is not known.
    pub fn resources(&self) -> Option<Resources> {
        let usage = self.usage?;
        Some(Resources {
            used: sets(usage.used),
            available: sets(self.policy.available(usage)),
        })
    }

    /// Whether anything is counted in threshold sets: thresholds, or resources.
    pub fn has_threshold_sets(&self) -> bool {
        self.usage.is_some() || self.policy.soft.is_some() || self.policy.capacity.is_some()
    }
}

/// THRESHOLD EXPONENT (SBC-3, VPD B2h): the power of two of a threshold set's logical blocks.
pub fn threshold_exponent(block_size: u32) -> u8 {
    let blocks = THRESHOLD_SET_BYTES / block_size.clamp(1, THRESHOLD_SET_BYTES);
    u8::try_from(blocks.ilog2()).unwrap_or(0)
}

/// So many percent of `bytes`, at most all.
fn share(bytes: u64, percent: u8) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(percent) / 100).unwrap_or(bytes)
}

/// Whole threshold sets in so many bytes; the largest count stands for all beyond.
fn sets(bytes: u64) -> u32 {
    u32::try_from(bytes / u64::from(THRESHOLD_SET_BYTES)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn usage(used: u64, available: u64) -> Usage {
        Usage {
            used: used * MIB,
            available: available * MIB,
        }
    }

    fn soft(threshold: Threshold) -> Policy {
        Policy {
            soft: Some(threshold),
            ..Policy::default()
        }
    }

    #[test]
    fn a_soft_threshold_is_reached_once_and_armed_again_below_its_hysteresis() {
        for policy in [
            soft(Threshold::Percent(80)),
            soft(Threshold::Bytes(80 * MIB)),
        ] {
            let mut level = Level::default();
            let mut seen = Vec::new();
            for used in [79, 80, 79, 81, 76, 75, 80] {
                level = policy.level(level, usage(used, 100 - used));
                seen.push(level.soft);
            }
            assert_eq!(seen, [false, true, true, true, true, false, true]);
        }
    }

    #[test]
    fn a_percentage_is_of_what_there_is_or_of_what_may_be_used() {
        let percent = soft(Threshold::Percent(50));
        assert_eq!(percent.soft_bytes(usage(10, 90)), Some(50 * MIB));
        let limited = Policy {
            capacity: Some(20 * MIB),
            ..percent
        };
        assert_eq!(limited.soft_bytes(usage(10, 90)), Some(10 * MIB));
        assert_eq!(limited.available(usage(15, 90)), 5 * MIB);
        // Others fill the file system: less is left than the capacity allows.
        assert_eq!(limited.soft_bytes(usage(10, 2)), Some(6 * MIB));
        assert_eq!(limited.available(usage(10, 2)), 2 * MIB);
    }

    #[test]
    fn the_hard_threshold_holds_exactly_as_long_as_the_capacity_is_used_up() {
        let policy = Policy {
            capacity: Some(20 * MIB),
            ..Policy::default()
        };
        for (used, hard) in [(19, false), (20, true), (30, true), (19, false)] {
            assert_eq!(
                policy.level(Level::default(), usage(used, 90)).hard,
                hard,
                "{used}"
            );
        }
    }

    #[test]
    fn a_unit_without_a_policy_has_resources_and_no_thresholds() {
        let mut space = Provisioning::default();
        assert_eq!((space.thresholds(), space.resources()), (None, None));
        space.usage = Some(usage(3, 5));
        assert_eq!(space.thresholds(), None);
        let counts = space.resources().unwrap();
        assert_eq!((counts.used, counts.available), (3, 5));
        space.policy = soft(Threshold::Percent(50));
        assert_eq!(space.thresholds().unwrap().soft_used, Some(4));
        assert_eq!(space.thresholds().unwrap().hard_used, None);
    }

    #[test]
    fn a_threshold_set_is_a_mebibyte_of_blocks() {
        assert_eq!(threshold_exponent(512), 11);
        assert_eq!(threshold_exponent(4096), 8);
    }

    proptest! {
        #[test]
        fn no_usage_and_no_threshold_overflows(
            used in any::<u64>(),
            available in any::<u64>(),
            percent in any::<u8>(),
            bytes in any::<u64>(),
            capacity in any::<Option<u64>>(),
        ) {
            let usage = Usage { used, available };
            for threshold in [Threshold::Percent(percent), Threshold::Bytes(bytes)] {
                let policy = Policy { soft: Some(threshold), capacity, ..Policy::default() };
                let level = policy.level(Level::default(), usage);
                prop_assert!(policy.level(level, usage) == level, "it stays where it is");
                prop_assert!(policy.available(usage) <= available);
            }
        }
    }
}
