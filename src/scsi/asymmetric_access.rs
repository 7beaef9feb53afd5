//! Asymmetric logical unit access (SPC-4 §5.15.2): what a unit answers depends on the port that it
//! is asked through.
//!
//! One target port group is one portal group tag; the target has one port in each. A group's state
//! is a unit's own: it begins as the configuration has it and is changed by SET TARGET PORT GROUPS
//! (explicit) or by the operator (implicit). It is not kept when the daemon ends: after a start
//! what the operator has configured holds, so that no initiator that is long gone decides which
//! paths there are. Resets leave it alone.
//!
//! Changes take effect on every core before they are answered, so there is no transitioning state
//! to be seen (T_SUP = 0), and none can fail half-way.

use std::sync::Arc;

use super::sense::{AdditionalSense, Sense, SenseKey};

/// Target port groups that one unit may have.
pub const PORT_GROUPS_MAX: usize = 256;

/// A target port asymmetric access state; the values are the standard's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum AccessState {
    #[default]
    Optimized = 0x0,
    NonOptimized = 0x1,
    Standby = 0x2,
    Unavailable = 0x3,
    /// A secondary state, of a port alone; our groups have one port.
    Offline = 0xe,
}

impl AccessState {
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0x0 => Some(Self::Optimized),
            0x1 => Some(Self::NonOptimized),
            0x2 => Some(Self::Standby),
            0x3 => Some(Self::Unavailable),
            0xe => Some(Self::Offline),
            _ => None,
        }
    }

    /// The ASYMMETRIC ACCESS STATE field.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// How little the unit does through a port in this state.
    pub(super) const fn hindrance(self) -> Reach {
        match self {
            Self::Optimized | Self::NonOptimized => Reach::Active,
            Self::Standby => Reach::Standby,
            Self::Unavailable => Reach::Unavailable,
            Self::Offline => Reach::Offline,
        }
    }
}

/// The last state in which a command is answered; each answers in all states before it too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Reach {
    Active,
    Standby,
    Unavailable,
    Offline,
}

impl Reach {
    /// SPC-4 §5.15.2.4 to §5.15.2.7: what a unit answers in each state. Beyond what the standard
    /// asks for, READ CAPACITY is answered in standby, because hosts size a path before they know
    /// that it is one, and so are the reports of what the unit can do.
    pub(super) const fn of(opcode: u8, service_action: u16) -> Self {
        match (opcode, service_action) {
            // REQUEST SENSE, INQUIRY, REPORT LUNS, REPORT TARGET PORT GROUPS
            (0x03 | 0x12 | 0xa0, _) | (0xa3, 0x0a) => Self::Offline,
            // READ BUFFER, WRITE BUFFER, SET TARGET PORT GROUPS
            (0x3b | 0x3c, _) | (0xa4, 0x0a) => Self::Unavailable,
            // MODE SELECT, MODE SENSE, LOG SELECT, LOG SENSE, PERSISTENT RESERVE IN and OUT,
            // RECEIVE and SEND DIAGNOSTIC, READ CAPACITY, other MAINTENANCE IN
            (
                0x15 | 0x1a | 0x55 | 0x5a | 0x4c | 0x4d | 0x5e | 0x5f | 0x1c | 0x1d | 0x25 | 0xa3,
                _,
            )
            | (0x9e, 0x10) => Self::Standby,
            _ => Self::Active,
        }
    }

    /// The sense data of a command that does not reach as far as its port is hindered.
    pub(super) const fn refusal(self) -> Option<Sense> {
        let qualifier = match self {
            Self::Active => return None,
            Self::Standby => 0x0b,
            Self::Unavailable => 0x0c,
            Self::Offline => 0x12,
        };
        Some(Sense::new(
            SenseKey::NotReady,
            AdditionalSense::new(0x04, qualifier),
        ))
    }
}

/// Who last changed a group's state: the STATUS CODE of REPORT TARGET PORT GROUPS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Altered {
    #[default]
    Never = 0,
    /// SET TARGET PORT GROUPS.
    Explicitly = 1,
    /// The operator.
    Implicitly = 2,
}

/// A target port group of a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortGroup {
    /// The portal group tag, 0 to 65535.
    pub tag: u16,
    pub state: AccessState,
    /// PREF.
    pub preferred: bool,
    pub altered: Altered,
}

impl PortGroup {
    pub fn new(tag: u16, state: AccessState, preferred: bool) -> Self {
        Self {
            tag,
            state,
            preferred,
            altered: Altered::Never,
        }
    }
}

/// The target port groups of a unit. A tag that it does not know is active/optimized.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortGroups {
    /// Ascending by tag, each once, at most [`PORT_GROUPS_MAX`].
    groups: Arc<[PortGroup]>,
    explicit: bool,
}

impl PortGroups {
    /// `explicit`: initiators may change states. Of two groups with one tag the first stays, and so
    /// do the first [`PORT_GROUPS_MAX`].
    pub fn new(mut groups: Vec<PortGroup>, explicit: bool) -> Self {
        groups.sort_by_key(|group| group.tag);
        groups.dedup_by_key(|group| group.tag);
        groups.truncate(PORT_GROUPS_MAX);
        Self {
            groups: groups.into(),
            explicit,
        }
    }

    /// Whether SET TARGET PORT GROUPS exists here.
    pub fn explicit(&self) -> bool {
        self.explicit
    }

    pub fn group(&self, tag: u16) -> PortGroup {
        let found = self.groups.binary_search_by_key(&tag, |group| group.tag);
        found.map_or_else(
            |_| PortGroup::new(tag, AccessState::Optimized, false),
            |at| self.groups[at],
        )
    }

    /// The state of the port in this group.
    pub fn state(&self, tag: u16) -> AccessState {
        self.group(tag).state
    }

    /// These groups with some of them in other states; `None` when that changes no state. A tag
    /// that was not known becomes known, as far as [`PORT_GROUPS_MAX`] goes.
    pub(super) fn with(&self, states: &[(u16, AccessState)], altered: Altered) -> Option<Self> {
        let mut groups = self.groups.to_vec();
        let mut changed = false;
        for (tag, state) in states {
            let at = match groups.binary_search_by_key(tag, |group| group.tag) {
                Ok(at) => at,
                Err(_) if groups.len() >= PORT_GROUPS_MAX => continue,
                Err(at) => {
                    groups.insert(at, self.group(*tag));
                    at
                }
            };
            let group = &mut groups[at];
            changed |= group.state != *state;
            if group.state != *state {
                (group.state, group.altered) = (*state, altered);
            }
        }
        changed.then(|| Self {
            groups: groups.into(),
            explicit: self.explicit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::opcodes;
    use crate::scsi::testbed::Bench;
    use crate::scsi::unit_attention::UnitAttention;

    const ALL: [AccessState; 5] = [
        AccessState::Optimized,
        AccessState::NonOptimized,
        AccessState::Standby,
        AccessState::Unavailable,
        AccessState::Offline,
    ];

    #[test]
    fn codes_are_the_standards_and_no_others() {
        for code in 0..=u8::MAX {
            let found = ALL.into_iter().find(|state| state.code() == code);
            assert_eq!(AccessState::from_code(code), found, "{code:02x}");
        }
    }

    #[test]
    fn a_group_that_is_not_known_is_optimized() {
        let groups = PortGroups::new(vec![PortGroup::new(7, AccessState::Standby, true)], false);
        assert_eq!(groups.state(7), AccessState::Standby);
        assert!(groups.group(7).preferred);
        assert_eq!(groups.state(8), AccessState::Optimized);
    }

    #[test]
    fn only_what_differs_is_a_change_and_bears_its_cause() {
        let groups = PortGroups::new(vec![PortGroup::new(7, AccessState::Standby, true)], true);
        let same = [(7, AccessState::Standby), (8, AccessState::Optimized)];
        assert_eq!(groups.with(&same, Altered::Explicitly), None);
        let other = [(7, AccessState::Standby), (8, AccessState::Unavailable)];
        let next = groups.with(&other, Altered::Explicitly).unwrap();
        assert_eq!(next.group(7).altered, Altered::Never);
        assert_eq!(next.group(8).altered, Altered::Explicitly);
        assert_eq!(next.state(8), AccessState::Unavailable);
        assert!(next.explicit());
    }

    /// SPC-4 §5.15.2.4 to §5.15.2.7, what has to be answered in each state, of all rows there are.
    #[test]
    fn each_state_answers_its_commands_and_refuses_the_others_with_its_own_code() {
        const STANDBY: &[&str] = &[
            "INQUIRY",
            "LOG SELECT",
            "LOG SENSE",
            "MODE SELECT",
            "MODE SENSE",
            "PERSISTENT RESERVE",
            "REPORT LUNS",
            "REPORT TARGET PORT GROUPS",
            "SET TARGET PORT GROUPS",
            "REQUEST SENSE",
            "RECEIVE DIAGNOSTIC",
            "SEND DIAGNOSTIC",
            "READ CAPACITY",
            "REPORT SUPPORTED",
        ];
        const OFFLINE: &[&str] = &[
            "INQUIRY",
            "REPORT LUNS",
            "REPORT TARGET PORT GROUPS",
            "REQUEST SENSE",
        ];
        for (state, qualifier) in [
            (AccessState::Standby, 0x0b),
            (AccessState::Unavailable, 0x0c),
            (AccessState::Offline, 0x12),
        ] {
            for row in opcodes::rows() {
                let named = |names: &[&str]| names.iter().any(|name| row.name.starts_with(name));
                let also = matches!(row.name, "SET TARGET PORT GROUPS");
                let answered = match state {
                    AccessState::Standby => named(STANDBY),
                    AccessState::Unavailable => named(OFFLINE) || also,
                    _ => named(OFFLINE),
                };
                let buffers = matches!(row.opcode, 0x3b | 0x3c);
                let others = row.opcode == 0xa3 && state == AccessState::Standby;
                if buffers || others {
                    continue;
                }
                let mut bench = Bench::new(8);
                let group = PortGroup::new(1, state, false);
                bench.set_port_groups(PortGroups::new(vec![group], true));
                let mut cdb = vec![0; row.usage.len()];
                cdb[0] = row.opcode;
                let service_action = row.service_action.unwrap_or(0);
                if cdb.len() == 32 {
                    cdb[7] = 0x18;
                    cdb[8..10].copy_from_slice(&service_action.to_be_bytes());
                } else {
                    cdb[1] = service_action.to_be_bytes()[1];
                }
                let sense = bench.run(&cdb, &[], 512).outcome.sense;
                let refused = sense.is_some_and(|sense| {
                    sense.key == SenseKey::NotReady
                        && sense.additional == AdditionalSense::new(0x04, qualifier)
                });
                assert_eq!(refused, !answered, "{} in {state:?}: {sense:?}", row.name);
            }
        }
    }

    #[test]
    fn a_port_that_is_not_optimized_hinders_nothing() {
        let mut bench = Bench::new(8);
        let group = PortGroup::new(1, AccessState::NonOptimized, false);
        bench.set_port_groups(PortGroups::new(vec![group], false));
        bench.plain(&[0; 6]).good();
        bench.read(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], 512).good();
    }

    #[test]
    fn a_hindered_port_reports_a_unit_attention_first_and_says_why_by_request_sense() {
        let mut bench = Bench::new(8);
        let group = PortGroup::new(1, AccessState::Standby, false);
        bench.set_port_groups(PortGroups::new(vec![group], false));
        bench.nexus.raise(UnitAttention::CapacityChanged);
        let sense = bench.plain(&[0; 6]).sense();
        assert_eq!(sense, UnitAttention::CapacityChanged.sense());
        let data = bench.read(&[3, 0, 0, 0, 252, 0], 252).good();
        assert_eq!((data[2], data[12], data[13]), (0x02, 0x04, 0x0b));
    }

    #[test]
    fn the_table_of_groups_is_bounded() {
        let last = u16::try_from(PORT_GROUPS_MAX).unwrap();
        let group = |tag| PortGroup::new(tag, AccessState::Standby, false);
        let groups = PortGroups::new((0..=last).map(group).collect(), true);
        assert_eq!(groups.groups.len(), PORT_GROUPS_MAX);
        let beyond = [(last, AccessState::Offline)];
        assert_eq!(groups.with(&beyond, Altered::Implicitly), None);
    }
}
