//! What befalls a logical unit without any initiator's doing: its device grew, its space runs
//! short, the operator says otherwise.
//!
//! News come from the daemon's control side to the unit's home core and go the way of changes from
//! there ([`change`](super::change)): decided in one row with them, applied by every core's
//! replica, told to every nexus. Nobody asked, so nothing is refused and nobody is left out.

use super::asymmetric_access::{AccessState, Altered};
use super::change::{Decision, Update};
use super::nexus::Whom;
use super::unit::{LogicalUnit, NotReadyReason, ReadyState};
use super::unit_attention::UnitAttention;
use crate::backend::{DeviceInfo, Usage};

/// Something that the daemon has learned about a unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// The device holds so many logical blocks now.
    Capacity(u64),
    /// The unit began without a device, and this one has come.
    Device(DeviceInfo),
    /// The device can be used, or cannot any more.
    Ready(ReadyState),
    /// The device was away, for however short a time, and can be used again.
    Returned,
    /// So much space backs its blocks.
    Usage(Usage),
    /// The operator has other states of portal groups, by tag, in mind.
    AccessStates(Vec<(u16, AccessState)>),
}

impl News {
    /// Whether `later` say all that these do.
    pub fn replaced_by(&self, later: &Self) -> bool {
        match (self, later) {
            (Self::Capacity(_), Self::Capacity(_)) | (Self::Usage(_), Self::Usage(_)) => true,
            // Each is told: a device that came back between is not the same as one that stayed.
            (Self::Device(_) | Self::Ready(_) | Self::Returned, _) => false,
            (Self::AccessStates(old), Self::AccessStates(new)) => old
                .iter()
                .all(|(tag, _)| new.iter().any(|(other, _)| other == tag)),
            (Self::Capacity(_) | Self::Usage(_) | Self::AccessStates(_), _) => false,
        }
    }
}

impl LogicalUnit {
    /// Decides what news mean. Runs on the home core, as [`LogicalUnit::decide`] does.
    pub fn decide_news(&self, news: &News) -> Decision {
        match news {
            News::Capacity(blocks) => self.decide_capacity(*blocks),
            News::Device(info) => self.decide_device(info),
            News::Ready(ready) => self.decide_ready(*ready),
            News::Returned => self.decide_return(),
            News::Usage(usage) => self.decide_usage(*usage),
            News::AccessStates(states) => {
                self.port_states(states, Altered::Implicitly, Whom::Everyone)
            }
        }
    }

    /// SBC-3 §4.6: a capacity that has changed is told. A unit never shrinks under its initiators.
    fn decide_capacity(&self, blocks: u64) -> Decision {
        if blocks <= self.info().blocks {
            return Decision::default();
        }
        Decision {
            attentions: vec![(Whom::Everyone, UnitAttention::CapacityChanged)],
            ..Decision::update(Update::Capacity(blocks))
        }
    }

    /// SPC-4 §5.13: of a medium that was not there before nobody knows anything. A sanitize
    /// operation that was interrupted goes on.
    fn decide_device(&self, info: &DeviceInfo) -> Decision {
        if self.ready() != ReadyState::NotReady(NotReadyReason::Missing) {
            return Decision::default();
        }
        Decision {
            attentions: vec![(Whom::Everyone, UnitAttention::MediumMayHaveChanged)],
            job: self.sanitizing().cloned(),
            ..Decision::update(Update::Device(info.clone()))
        }
    }

    /// A device that has only recovered holds what it held.
    fn decide_ready(&self, ready: ReadyState) -> Decision {
        if self.ready() == ready {
            return Decision::default();
        }
        Decision::update(Update::Ready(ready))
    }

    /// SPC-4 §5.13: what comes back after it was away may be another medium, whatever was known of
    /// it meanwhile.
    fn decide_return(&self) -> Decision {
        Decision {
            attentions: vec![(Whom::Everyone, UnitAttention::MediumMayHaveChanged)],
            ..self.decide_ready(ReadyState::Ready)
        }
    }

    /// SBC-3 §4.7.3.7: reaching a soft threshold is told once.
    fn decide_usage(&self, usage: Usage) -> Decision {
        let space = self.provisioning();
        let level = space.policy.level(space.level, usage);
        if space.usage == Some(usage) && space.level == level {
            return Decision::default();
        }
        let mut decision = Decision::update(Update::Usage(usage, level));
        if level.soft && !space.level.soft {
            let reached = UnitAttention::ThinProvisioningSoftThreshold;
            decision.attentions.push((Whom::Everyone, reached));
        }
        decision
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::provisioning::{Policy, Threshold};
    use crate::scsi::sense::{AdditionalSense, SenseKey};
    use crate::scsi::spc::mode_pages::ModeParameters;
    use crate::scsi::testbed::{self, Bench};

    fn unit() -> LogicalUnit {
        let mut unit = LogicalUnit::new(testbed::identity(), testbed::info(512, 100), false);
        unit.set_space_policy(Policy {
            soft: Some(Threshold::Bytes(80)),
            ..Policy::default()
        });
        unit
    }

    fn take(unit: &mut LogicalUnit, news: &News) -> Vec<UnitAttention> {
        let Decision {
            update, attentions, ..
        } = unit.decide_news(news);
        if let Some(update) = update {
            unit.apply(&update);
        }
        let told = attentions.into_iter().map(|(whom, condition)| {
            assert_eq!(whom, Whom::Everyone);
            condition
        });
        told.collect()
    }

    #[test]
    fn growth_is_told_and_nothing_else_changes_a_capacity() {
        let mut unit = unit();
        for (blocks, told, after) in [
            (100, None, 100),
            (99, None, 100),
            (0, None, 100),
            (101, Some(UnitAttention::CapacityChanged), 101),
            (101, None, 101),
            (u64::MAX, Some(UnitAttention::CapacityChanged), u64::MAX),
        ] {
            let told_now = take(&mut unit, &News::Capacity(blocks));
            assert_eq!(told_now, told.into_iter().collect::<Vec<_>>(), "{blocks}");
            assert_eq!(unit.info().blocks, after);
        }
    }

    #[test]
    fn a_device_that_was_away_is_told_when_it_is_back() {
        let mut unit = unit();
        let away = ReadyState::NotReady(NotReadyReason::Absent);
        let failed = ReadyState::NotReady(NotReadyReason::Failed);
        for ready in [ReadyState::Ready, failed, ReadyState::Ready, away, failed] {
            assert_eq!(take(&mut unit, &News::Ready(ready)), [], "{ready:?}");
            assert_eq!(unit.ready(), ready);
            assert!(unit.decide_news(&News::Ready(ready)).is_nothing());
        }
        // Whatever was known of it, and each time.
        for _ in 0..2 {
            let told = take(&mut unit, &News::Returned);
            assert_eq!(told, [UnitAttention::MediumMayHaveChanged]);
            assert_eq!(unit.ready(), ReadyState::Ready);
        }
    }

    #[test]
    fn a_device_that_was_missing_makes_its_unit_ready_once() {
        let missing = NotReadyReason::Missing;
        let mut unit = LogicalUnit::without_device(testbed::identity(), false, missing);
        let mut info = testbed::info(4096, 1000);
        info.write_cache = true;
        info.read_only = true;
        let told = take(&mut unit, &News::Device(info.clone()));
        assert_eq!(told, [UnitAttention::MediumMayHaveChanged]);
        assert_eq!(unit.ready(), ReadyState::Ready);
        assert_eq!(unit.info(), &info);
        assert!(unit.read_only() && unit.write_protected());
        assert!(unit.mode().contains(unit.mode_default()));
        let other = testbed::info(512, 8);
        assert!(unit.decide_news(&News::Device(other)).is_nothing());
    }

    #[test]
    fn what_is_saved_without_a_device_says_nothing_of_its_cache() {
        let missing = NotReadyReason::Missing;
        let mut unit = LogicalUnit::without_device(testbed::identity(), false, missing);
        for current in [ModeParameters::D_SENSE, ModeParameters::empty()] {
            unit.apply(&Update::Mode {
                current,
                saved: true,
            });
        }
        let mut info = testbed::info(4096, 1000);
        info.write_cache = true;
        take(&mut unit, &News::Device(info.clone()));
        assert_eq!(unit.mode(), ModeParameters::WCE);
        assert!(!unit.write_through());
        // What was turned off where it could be stays so.
        unit.apply(&Update::Mode {
            current: ModeParameters::TAS,
            saved: true,
        });
        assert!(unit.write_through());
        let mut later = LogicalUnit::without_device(testbed::identity(), false, missing);
        later.restore(unit.non_volatile().clone());
        later.apply(&Update::Mode {
            current: ModeParameters::D_SENSE,
            saved: true,
        });
        take(&mut later, &News::Device(info));
        assert_eq!(later.mode(), ModeParameters::D_SENSE);
    }

    #[test]
    fn a_unit_whose_device_is_away_has_no_medium() {
        let mut bench = Bench::new(8);
        let away = ReadyState::NotReady(NotReadyReason::Absent);
        take(bench.unit.as_mut().unwrap(), &News::Ready(away));
        let absent = AdditionalSense::new(0x3a, 0x00);
        let test_unit_ready = [0, 0, 0, 0, 0, 0];
        bench
            .plain(&test_unit_ready)
            .refused_with(SenseKey::NotReady, absent);
        take(
            bench.unit.as_mut().unwrap(),
            &News::Ready(ReadyState::Ready),
        );
        bench.plain(&test_unit_ready).good();
    }

    #[test]
    fn each_crossing_of_the_soft_threshold_is_told_once() {
        let mut unit = unit();
        let reached = UnitAttention::ThinProvisioningSoftThreshold;
        for (used, told) in [(79, 0), (80, 1), (81, 0), (79, 0), (10, 0), (90, 1)] {
            let usage = Usage {
                used,
                available: 100,
            };
            let told_now = take(&mut unit, &News::Usage(usage));
            assert_eq!(told_now, vec![reached; told], "{used}");
            assert_eq!(unit.provisioning().usage, Some(usage));
            assert!(unit.decide_news(&News::Usage(usage)).is_nothing());
        }
    }

    #[test]
    fn the_operators_states_are_implicit_and_told_to_all() {
        let mut unit = unit();
        let news = News::AccessStates(vec![(1, AccessState::Standby)]);
        assert_eq!(take(&mut unit, &news), [UnitAttention::AccessStateChanged]);
        assert_eq!(unit.port_groups().group(1).altered, Altered::Implicitly);
        assert_eq!(take(&mut unit, &news), []);
    }

    #[test]
    fn a_grown_unit_reports_and_serves_its_new_blocks() {
        let mut bench = Bench::new(8);
        bench.disk.resize(16 * 512, 7);
        take(bench.unit.as_mut().unwrap(), &News::Capacity(16));
        let capacity = bench.read(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8).good();
        assert_eq!(capacity[..4], 15_u32.to_be_bytes());
        let read = bench.read(&[0x28, 0, 0, 0, 0, 15, 0, 0, 1, 0], 512).good();
        assert_eq!(read, [7; 512]);
    }
}
