//! Unit attention conditions of an I_T_L nexus (SAM-5, unit attention conditions).
//!
//! Each session's core keeps one [`NexusUnit`] for each logical unit that the session sees. Pending
//! conditions are a set: raising one twice reports it once, and the set cannot overflow, because
//! there are no more conditions than [`UnitAttention`] has names. They are reported in the order of
//! the names below, which is SAM-5's: what a power on or reset did comes before what changed since.

use super::asymmetric_access::Reach;
use super::nexus::Nexus;
use super::reservations::Access;
use super::sense::{AdditionalSense, Sense, SenseKey};
use super::unit::LogicalUnit;

/// A condition that an initiator must be told of once. The order is the order of reporting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum UnitAttention {
    /// The daemon started since this nexus last spoke to the unit.
    PowerOn,
    /// A target reset (warm or cold) took place.
    TargetReset,
    /// A LOGICAL UNIT RESET took place.
    LogicalUnitReset,
    /// The nexus was lost: a session was reinstated or an I_T NEXUS RESET took place.
    NexusLoss,
    /// The medium of a removable unit was put in, perhaps another one.
    MediumMayHaveChanged,
    /// Another nexus cleared this one's commands.
    CommandsCleared,
    /// The device behind the unit was replaced or its software changed.
    MicrocodeChanged,
    InquiryDataChanged,
    ModeParametersChanged,
    /// CLEAR took the reservation and this nexus's registration.
    ReservationsPreempted,
    /// PREEMPT took this nexus's registration.
    RegistrationsPreempted,
    /// The reservation that gave this nexus access was released.
    ReservationsReleased,
    TimestampChanged,
    DeviceIdentifierChanged,
    /// Some port of the target is for more or for less than before.
    AccessStateChanged,
    CapacityChanged,
    /// Space that backs blocks runs short.
    ThinProvisioningSoftThreshold,
    ReportedLunsChanged,
}

impl UnitAttention {
    const ALL: [Self; 18] = [
        Self::PowerOn,
        Self::TargetReset,
        Self::LogicalUnitReset,
        Self::NexusLoss,
        Self::MediumMayHaveChanged,
        Self::CommandsCleared,
        Self::MicrocodeChanged,
        Self::InquiryDataChanged,
        Self::ModeParametersChanged,
        Self::ReservationsPreempted,
        Self::RegistrationsPreempted,
        Self::ReservationsReleased,
        Self::TimestampChanged,
        Self::DeviceIdentifierChanged,
        Self::AccessStateChanged,
        Self::CapacityChanged,
        Self::ThinProvisioningSoftThreshold,
        Self::ReportedLunsChanged,
    ];

    const fn bit(self) -> u32 {
        1 << self as u8
    }

    /// The additional sense code that reports it (SPC-4, ASC and ASCQ assignments).
    pub const fn additional_sense(self) -> AdditionalSense {
        match self {
            Self::PowerOn => AdditionalSense::new(0x29, 0x00),
            Self::TargetReset => AdditionalSense::new(0x29, 0x02),
            Self::LogicalUnitReset => AdditionalSense::new(0x29, 0x03),
            Self::NexusLoss => AdditionalSense::new(0x29, 0x07),
            Self::MediumMayHaveChanged => AdditionalSense::new(0x28, 0x00),
            Self::CommandsCleared => AdditionalSense::new(0x2f, 0x00),
            Self::MicrocodeChanged => AdditionalSense::new(0x3f, 0x01),
            Self::InquiryDataChanged => AdditionalSense::new(0x3f, 0x03),
            Self::ModeParametersChanged => AdditionalSense::new(0x2a, 0x01),
            Self::ReservationsPreempted => AdditionalSense::new(0x2a, 0x03),
            Self::ReservationsReleased => AdditionalSense::new(0x2a, 0x04),
            Self::RegistrationsPreempted => AdditionalSense::new(0x2a, 0x05),
            Self::TimestampChanged => AdditionalSense::new(0x2a, 0x10),
            Self::DeviceIdentifierChanged => AdditionalSense::new(0x3f, 0x05),
            Self::AccessStateChanged => AdditionalSense::new(0x2a, 0x06),
            Self::CapacityChanged => AdditionalSense::new(0x2a, 0x09),
            Self::ThinProvisioningSoftThreshold => AdditionalSense::new(0x38, 0x07),
            Self::ReportedLunsChanged => AdditionalSense::new(0x3f, 0x0e),
        }
    }

    pub const fn sense(self) -> Sense {
        Sense::new(SenseKey::UnitAttention, self.additional_sense())
    }
}

/// What one session knows of one logical unit that it sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NexusUnit {
    pending: u32,
    read_only: bool,
    denied: Access,
    /// What the state of the port that the nexus came in by keeps it from.
    hindrance: Reach,
}

impl NexusUnit {
    /// A nexus without conditions. `read_only`: the unit is mapped here without the right to write.
    pub fn new(read_only: bool) -> Self {
        Self {
            pending: 0,
            read_only,
            denied: Access::empty(),
            hindrance: Reach::Active,
        }
    }

    /// Whether the mapping forbids writes, whatever the unit itself allows.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Adds a condition. A power on makes what was pending before it moot (SAM-5).
    pub fn raise(&mut self, condition: UnitAttention) {
        if condition == UnitAttention::PowerOn {
            self.pending = 0;
        }
        self.pending |= condition.bit();
    }

    /// The condition that is to be reported next.
    pub fn pending(&self) -> Option<UnitAttention> {
        UnitAttention::ALL
            .into_iter()
            .find(|condition| self.pending & condition.bit() != 0)
    }

    /// How many conditions are pending.
    pub fn pending_count(&self) -> u32 {
        self.pending.count_ones()
    }

    /// Reports the next condition, which is thereby cleared (UA_INTLCK_CTRL = 00b).
    #[inline]
    pub fn take(&mut self) -> Option<UnitAttention> {
        if self.pending == 0 {
            return None;
        }
        self.take_next()
    }

    #[cold]
    fn take_next(&mut self) -> Option<UnitAttention> {
        let next = self.pending()?;
        self.pending &= !next.bit();
        Some(next)
    }

    /// Recomputes what the nexus may do, after the unit has changed or the session has opened.
    pub fn refresh(&mut self, unit: &LogicalUnit, i_t: &Nexus) {
        self.denied = unit.reservations().denied_to(i_t);
        let tag = i_t.port().portal_group_tag();
        self.hindrance = unit.port_groups().state(tag).hindrance();
    }

    /// What reservations keep from this nexus.
    pub fn denied(&self) -> Access {
        self.denied
    }

    /// Refuses a command that is not answered in the asymmetric access state of the nexus's port.
    pub(super) fn check_reach(&self, reach: Reach) -> Result<(), Sense> {
        if reach >= self.hindrance {
            return Ok(());
        }
        self.hindrance.refusal().map_or(Ok(()), Err)
    }

    /// What the asymmetric access state of its port keeps the nexus from.
    pub(super) fn hindrance(&self) -> Reach {
        self.hindrance
    }

    /// Clears a condition that became moot without being reported.
    pub fn clear(&mut self, condition: UnitAttention) {
        self.pending &= !condition.bit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn condition_raised_twice_is_reported_once() {
        let mut nexus = NexusUnit::new(false);
        nexus.raise(UnitAttention::CapacityChanged);
        nexus.raise(UnitAttention::CapacityChanged);
        assert_eq!(nexus.take(), Some(UnitAttention::CapacityChanged));
        assert_eq!(nexus.take(), None);
    }

    #[test]
    fn resets_are_reported_before_changes() {
        let mut nexus = NexusUnit::new(false);
        for condition in UnitAttention::ALL.into_iter().rev() {
            if condition != UnitAttention::PowerOn {
                nexus.raise(condition);
            }
        }
        for condition in &UnitAttention::ALL[1..] {
            assert_eq!(nexus.take(), Some(*condition));
        }
        assert_eq!(nexus.pending(), None);
    }

    #[test]
    fn power_on_replaces_what_was_pending() {
        let mut nexus = NexusUnit::new(true);
        nexus.raise(UnitAttention::CapacityChanged);
        nexus.raise(UnitAttention::PowerOn);
        assert_eq!(nexus.take(), Some(UnitAttention::PowerOn));
        assert_eq!(nexus.take(), None);
        assert!(nexus.read_only());
    }

    #[test]
    fn cleared_condition_is_not_reported() {
        let mut nexus = NexusUnit::new(false);
        nexus.raise(UnitAttention::ReportedLunsChanged);
        nexus.clear(UnitAttention::ReportedLunsChanged);
        assert_eq!(nexus.take(), None);
    }
}
