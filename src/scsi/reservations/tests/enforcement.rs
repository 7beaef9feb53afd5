//! Which commands conflict: every row of the table against the standards' tables, by name.

use super::room::*;
use crate::scsi::opcodes::{self, Opcode};
use crate::scsi::reservations::Kind;

/// How the standards' tables class a command (SPC-4 §5.9.3, SBC-3 §4.19, SPC-2 §5.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    /// Never conflicts, or the home core decides.
    Always,
    /// Conflicts only with RESERVE.
    Query,
    /// Conflicts with Exclusive Access too.
    Read,
    /// Conflicts with all.
    Write,
    /// PERSISTENT RESERVE IN.
    PersistentReserveIn,
}

/// By the beginning of the name; what is not listed conflicts with all.
const CLASSES: [(&str, Class); 33] = [
    ("INQUIRY", Class::Always),
    ("REQUEST SENSE", Class::Always),
    ("REPORT LUNS", Class::Always),
    ("READ CAPACITY", Class::Always),
    ("RESERVE (", Class::Always),
    ("RELEASE (", Class::Always),
    ("PERSISTENT RESERVE OUT", Class::Always),
    ("REPORT TARGET PORT GROUPS", Class::Always),
    ("REPORT IDENTIFYING INFORMATION", Class::Always),
    ("TEST UNIT READY", Class::Query),
    ("LOG SENSE", Class::Query),
    ("REPORT REFERRALS", Class::Query),
    ("REPORT PRIORITY", Class::Query),
    ("REPORT TIMESTAMP", Class::Query),
    ("PERSISTENT RESERVE IN", Class::PersistentReserveIn),
    ("READ (6)", Class::Read),
    ("READ (10)", Class::Read),
    ("READ (12)", Class::Read),
    ("READ (16)", Class::Read),
    ("READ (32)", Class::Read),
    ("VERIFY (", Class::Read),
    ("PRE-FETCH", Class::Read),
    ("GET LBA STATUS", Class::Read),
    ("READ DEFECT DATA", Class::Read),
    ("READ BUFFER", Class::Read),
    ("RECEIVE DIAGNOSTIC RESULTS", Class::Read),
    ("RECEIVE COPY", Class::Read),
    ("RECEIVE ROD TOKEN", Class::Read),
    ("POPULATE TOKEN", Class::Read),
    ("MODE SENSE (6)", Class::Read),
    ("MODE SENSE (10)", Class::Read),
    ("REPORT SUPPORTED OPERATION CODES", Class::Read),
    ("REPORT SUPPORTED TASK MANAGEMENT", Class::Read),
];

pub(super) fn class_of(row: &Opcode) -> Class {
    CLASSES
        .iter()
        .find(|(name, _)| row.name.starts_with(name))
        .map_or(Class::Write, |(_, class)| *class)
}

/// A CDB of the row that nothing excuses.
pub(super) fn cdb_of(row: &Opcode) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = row.opcode;
    if row.opcode == 0x7f {
        cdb[7] = 0x18;
        cdb[8..10].copy_from_slice(&row.service_action.unwrap_or(0).to_be_bytes());
    } else {
        cdb[1] = u8::try_from(row.service_action.unwrap_or(0)).unwrap();
    }
    if row.opcode == 0x1e {
        cdb[4] = 1;
    }
    cdb
}

/// Commands that reach a nexus that has no access by a reservation of this type, or by RESERVE
/// (`None`).
pub(super) fn passes(class: Class, denied_by: Option<Kind>) -> bool {
    let Some(kind) = denied_by else {
        return class == Class::Always;
    };
    let exclusive_access = matches!(
        kind,
        Kind::ExclusiveAccess
            | Kind::ExclusiveAccessRegistrantsOnly
            | Kind::ExclusiveAccessAllRegistrants
    );
    match class {
        Class::Always | Class::Query | Class::PersistentReserveIn => true,
        Class::Read => !exclusive_access,
        Class::Write => false,
    }
}

#[test]
fn each_row_conflicts_with_each_type_as_the_tables_say() {
    for kind in Kind::ALL {
        let mut room = Room::of_two();
        let stranger = room.log_in(nexus(NAME_B, 7, 1, 2));
        room.register(0, 0, 1).good();
        room.register(1, 0, 2).good();
        room.reserve(0, 1, kind as u8).good();
        for row in opcodes::rows() {
            let cdb = cdb_of(row);
            let passes = passes(class_of(row), Some(kind));
            assert!(
                !room.conflicts(0, &cdb),
                "{} by the holder of {kind:?}",
                row.name
            );
            let by_registrant = !room.conflicts(1, &cdb);
            let expected = passes || kind.admits_registrants();
            assert_eq!(
                by_registrant, expected,
                "{} by a registrant of {kind:?}",
                row.name
            );
            let by_stranger = !room.conflicts(stranger, &cdb);
            assert_eq!(
                by_stranger, passes,
                "{} by a stranger to {kind:?}",
                row.name
            );
        }
    }
}

#[test]
fn each_row_conflicts_with_reserve_as_spc_2_says() {
    let mut room = Room::of_two();
    room.run(0, &RESERVE_10, &[]).good();
    for row in opcodes::rows() {
        let cdb = cdb_of(row);
        let class = class_of(row);
        assert_eq!(
            !room.conflicts(1, &cdb),
            passes(class, None),
            "{}",
            row.name
        );
        // Persistent reservations are nobody's while the unit is reserved.
        let own = class == Class::PersistentReserveIn;
        assert_eq!(room.conflicts(0, &cdb), own, "{} by the holder", row.name);
    }
}

#[test]
fn starting_a_unit_passes_and_stopping_it_does_not() {
    let mut room = Room::of_two();
    room.register(0, 0, 1).good();
    room.reserve(0, 1, 3).good();
    assert!(!room.conflicts(1, &[0x1b, 0, 0, 0, 1, 0]));
    assert!(room.conflicts(1, &[0x1b, 0, 0, 0, 0, 0]));
    assert!(room.conflicts(1, &[0x1b, 0, 0, 0, 0x11, 0]));
}
