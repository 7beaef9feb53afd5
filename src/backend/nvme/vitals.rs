//! [`Vitals`]: what a controller's keeper read last of its identity and its health, for those who
//! must not wait for the keeper.
//!
//! The lock is held for a copy of a few hundred bytes, by the keeper about once a minute and by
//! whoever looks; no data core comes here.

#[expect(clippy::disallowed_types, reason = "the control side only")]
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

use super::spec::identify::ControllerData;
use super::spec::log::Health;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    #[expect(clippy::disallowed_types, reason = "the control side only")]
    last: Mutex<Reading>,
}

/// What was read last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Reading {
    pub(crate) identity: Option<ControllerData>,
    /// And when.
    pub(crate) health: Option<(Health, Instant)>,
}

impl Vitals {
    /// The keeper's: the controller was identified, for the first time or again.
    pub(crate) fn identified(&self, data: &ControllerData) {
        let data = data.clone();
        self.with(|last| last.identity = Some(data));
    }

    /// The keeper's: the health log was read.
    pub(crate) fn examined(&self, health: Health, now: Instant) {
        self.with(|last| last.health = Some((health, now)));
    }

    pub(crate) fn last(&self) -> Reading {
        self.with(|last| last.clone())
    }

    fn with<T>(&self, look: impl FnOnce(&mut Reading) -> T) -> T {
        // Each value is put in whole.
        look(&mut self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::nvme::spec::identify::PAGE_BYTES;
    use crate::backend::nvme::spec::log::HEALTH_BYTES;
    use crate::backend::suite;

    #[test]
    fn what_was_read_last_is_what_is_seen() {
        let (vitals, now) = (Vitals::default(), suite::now());
        assert_eq!(vitals.last(), Reading::default());
        let mut page = [b' '; PAGE_BYTES];
        for firmware in [b"1.0", b"2.0"] {
            page[64..67].copy_from_slice(firmware);
            vitals.identified(&ControllerData::parse(&page));
        }
        let health = Health::parse(&[1; HEALTH_BYTES]);
        vitals.examined(Health::parse(&[0; HEALTH_BYTES]), now);
        vitals.examined(health, now);
        let last = vitals.last();
        assert_eq!(last.identity.unwrap().firmware, "2.0");
        assert_eq!(last.health, Some((health, now)));
    }
}
