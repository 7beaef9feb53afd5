//! What a command does to the unit, as reservations see it (SPC-4 §5.9.3 and SBC-3 §4.19: the
//! tables of commands that are allowed in the presence of reservations; SPC-2 §5.5 for RESERVE).
//!
//! | the tables' row                                         | here      |
//! |---------------------------------------------------------|-----------|
//! | allowed everywhere, also while reserved by SPC-2        | nothing   |
//! | allowed everywhere but while reserved by SPC-2          | `QUERY`   |
//! | allowed by Write Exclusive, conflict by Exclusive Access | `READ`    |
//! | conflict everywhere                                     | `WRITE`   |
//! | PERSISTENT RESERVE IN                                   | of its own |
//!
//! A nexus has a set of what it is denied, kept up to date with every change, so that a command
//! costs one test of two bytes. Two commands are of several minds: [`is_excused`].
//!
//! RESERVE, RELEASE and PERSISTENT RESERVE OUT need nothing here: the home core decides about them.

use bitflags::bitflags;

use crate::scsi::cdb::Cdb;

bitflags! {
    /// Kinds of access: what a command needs, or what a nexus is denied.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Access: u8 {
        /// Asks what does not depend on what is stored.
        const QUERY = 1 << 0;
        /// Reads blocks, or what may depend on them.
        const READ = 1 << 1;
        /// Changes blocks, or how the unit behaves.
        const WRITE = 1 << 2;
        /// Asks for the persistent reservations.
        const PERSISTENT_RESERVE_IN = 1 << 3;
    }
}

/// What a command needs. `service_action` is zero where the operation code has none. What the
/// standards do not list is taken for a write.
pub const fn needed(opcode: u8, service_action: u16) -> Access {
    match (opcode, service_action) {
        // REQUEST SENSE, INQUIRY, REPORT LUNS, READ CAPACITY (10) and (16); RESERVE, RELEASE,
        // PERSISTENT RESERVE OUT; REPORT IDENTIFYING INFORMATION, REPORT TARGET PORT GROUPS.
        (0x03 | 0x12 | 0xa0 | 0x25 | 0x16 | 0x17 | 0x56 | 0x57 | 0x5f, _)
        | (0x9e, 0x10)
        | (0xa3, 0x05 | 0x0a) => Access::empty(),
        // TEST UNIT READY, LOG SENSE, REPORT REFERRALS, REPORT PRIORITY, REPORT TIMESTAMP.
        (0x00 | 0x4d, _) | (0x9e, 0x13) | (0xa3, 0x0e | 0x0f) => Access::QUERY,
        (0x5e, _) => Access::PERSISTENT_RESERVE_IN,
        // READ, VERIFY, PRE-FETCH, READ DEFECT DATA, READ BUFFER, RECEIVE DIAGNOSTIC RESULTS,
        // MODE SENSE, RECEIVE COPY RESULTS and RECEIVE ROD TOKEN INFORMATION.
        (0x08 | 0x28 | 0x88 | 0xa8, _)
        | (0x2f | 0x8f | 0xaf, _)
        | (0x34 | 0x90, _)
        | (0x37 | 0xb7, _)
        | (0x3c | 0x9b, _)
        | (0x1c | 0x1a | 0x5a | 0x84, _)
        // READ (32), VERIFY (32); POPULATE TOKEN; GET LBA STATUS; REPORT SUPPORTED OPERATION
        // CODES, REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS.
        | (0x7f, 0x09 | 0x0a)
        | (0x83, 0x10)
        | (0x9e, 0x12)
        | (0xa3, 0x0c | 0x0d) => Access::READ,
        _ => Access::WRITE,
    }
}

/// Whether a command that would conflict is let through for what its CDB says: a START STOP UNIT
/// that only starts the unit (SBC-3), and a PREVENT ALLOW MEDIUM REMOVAL that only allows (SPC-4).
pub fn is_excused(cdb: &Cdb) -> bool {
    match cdb.opcode() {
        0x1b => cdb.u8(4) & 0xf1 == 0x01,
        0x1e => cdb.u8(4) & 0x03 == 0x00,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_starting_and_only_allowing_are_excused() {
        let cdb = |opcode, byte_4| {
            let mut bytes = [0; 16];
            (bytes[0], bytes[4]) = (opcode, byte_4);
            Cdb::new(&bytes)
        };
        assert!(is_excused(&cdb(0x1b, 0x01)));
        for byte_4 in [0x00, 0x11, 0x71, 0x10] {
            assert!(!is_excused(&cdb(0x1b, byte_4)), "{byte_4:02x}");
        }
        assert!(is_excused(&cdb(0x1e, 0)));
        for byte_4 in 1..4 {
            assert!(!is_excused(&cdb(0x1e, byte_4)), "{byte_4:02x}");
        }
        assert!(!is_excused(&cdb(0x28, 0)));
    }
}
