//! The parameter lists of PERSISTENT RESERVE OUT (SPC-4 §6.16.3, §6.16.4).
//!
//! ```text
//! basic:              0..8 RESERVATION KEY   8..16 SERVICE ACTION RESERVATION KEY
//!                     16..20 obsolete   20 SPEC_I_PT (bit 3), ALL_TG_PT (2), APTPL (0)
//!                     21 reserved   22..24 obsolete
//!                     with SPEC_I_PT: 24..28 length of the TransportIDs, 28.. TransportIDs
//! REGISTER AND MOVE:  0..16 as above   16 reserved   17 UNREG (bit 1), APTPL (bit 0)
//!                     18..20 RELATIVE TARGET PORT IDENTIFIER
//!                     20..24 length of the TransportID, 24.. TransportID
//! ```
//!
//! A list is exactly as long as what it says it holds: 24 bytes where no TransportID is in it.

use super::request::{Action, Preempt, Register, RegisterAndMove, Request};
use super::transport_id::{TRANSPORT_ID_BYTES_MAX, TRANSPORT_ID_BYTES_MIN, TransportId, Wrong};
use crate::scsi::sense::Sense;

/// Length of a list without TransportIDs, and where they begin in one of REGISTER AND MOVE.
pub const BASIC_BYTES: usize = 24;

/// Where the TransportIDs begin in a list with SPEC_I_PT.
const TRANSPORT_IDS_AT: usize = 28;

/// Most TransportIDs of one list.
const TRANSPORT_IDS_MAX: usize = 32;

/// Longest list that we take, in bytes.
pub const LIST_BYTES_MAX: usize = TRANSPORT_IDS_AT + TRANSPORT_IDS_MAX * TRANSPORT_ID_BYTES_MAX;

/// Where PARAMETER LIST LENGTH stands in the CDB.
const LIST_LENGTH_AT: u16 = 5;

mod field {
    pub(super) const FLAGS: usize = 20;
    pub(super) const MOVE_FLAGS: usize = 17;
    pub(super) const SPEC_I_PT: u8 = 1 << 3;
    pub(super) const ALL_TG_PT: u8 = 1 << 2;
    pub(super) const APTPL: u8 = 1 << 0;
    pub(super) const UNREG: u8 = 1 << 1;
}

/// The service actions of PERSISTENT RESERVE OUT (SPC-4 §6.16.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ServiceAction {
    Register = 0,
    Reserve = 1,
    Release = 2,
    Clear = 3,
    Preempt = 4,
    PreemptAndAbort = 5,
    RegisterAndIgnoreExistingKey = 6,
    RegisterAndMove = 7,
}

impl ServiceAction {
    pub const ALL: [Self; 8] = [
        Self::Register,
        Self::Reserve,
        Self::Release,
        Self::Clear,
        Self::Preempt,
        Self::PreemptAndAbort,
        Self::RegisterAndIgnoreExistingKey,
        Self::RegisterAndMove,
    ];

    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|action| *action as u8 == code)
    }
}

/// Whether a PARAMETER LIST LENGTH can be right, before any of the list is there.
///
/// # Errors
/// PARAMETER LIST LENGTH ERROR.
pub fn check_length(action: ServiceAction, bytes: u32) -> Result<(), Sense> {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let fits = match action {
        ServiceAction::Register => (BASIC_BYTES..=LIST_BYTES_MAX).contains(&bytes),
        ServiceAction::RegisterAndMove => (BASIC_BYTES + TRANSPORT_ID_BYTES_MIN
            ..=BASIC_BYTES + TRANSPORT_ID_BYTES_MAX)
            .contains(&bytes),
        _ => bytes == BASIC_BYTES,
    };
    if fits { Ok(()) } else { Err(length_error()) }
}

/// What a whole list asks for. `scope_type`: byte 2 of the CDB.
///
/// # Errors
/// PARAMETER LIST LENGTH ERROR, or INVALID FIELD IN PARAMETER LIST with the field.
pub fn parse(action: ServiceAction, scope_type: u8, list: &[u8]) -> Result<Request, Sense> {
    let (basic, rest) = list
        .split_first_chunk::<BASIC_BYTES>()
        .ok_or_else(length_error)?;
    let key = be64(basic, 0);
    let new_key = be64(basic, 8);
    if action == ServiceAction::RegisterAndMove {
        let action = parse_move(basic, rest, new_key)?;
        return Ok(Request::Persistent { key, action });
    }
    let flags = basic[field::FLAGS];
    check_reserved(
        field::FLAGS,
        flags,
        field::SPEC_I_PT | field::ALL_TG_PT | field::APTPL,
    )?;
    check_reserved(21, basic[21], 0)?;
    let specifies_ports = flags & field::SPEC_I_PT != 0;
    // SPC-4 §6.16.3: SPEC_I_PT is for REGISTER alone.
    if specifies_ports && action != ServiceAction::Register {
        return Err(invalid(field::FLAGS, Some(3)));
    }
    let others = if specifies_ports {
        Some(parse_transport_ids(rest)?)
    } else if rest.is_empty() {
        None
    } else {
        return Err(length_error());
    };
    let preempt = |abort| {
        Action::Preempt(Preempt {
            victim: new_key,
            scope_type,
            abort,
        })
    };
    let action = match action {
        ServiceAction::Register | ServiceAction::RegisterAndIgnoreExistingKey => {
            Action::Register(Register {
                ignore_existing: action == ServiceAction::RegisterAndIgnoreExistingKey,
                new_key,
                aptpl: flags & field::APTPL != 0,
                all_ports: flags & field::ALL_TG_PT != 0,
                others,
            })
        }
        ServiceAction::Reserve => Action::Reserve { scope_type },
        ServiceAction::Release => Action::Release { scope_type },
        ServiceAction::Clear => Action::Clear,
        ServiceAction::Preempt => preempt(false),
        ServiceAction::PreemptAndAbort => preempt(true),
        ServiceAction::RegisterAndMove => unreachable!("it has returned above"),
    };
    Ok(Request::Persistent { key, action })
}

fn parse_move(basic: &[u8; BASIC_BYTES], rest: &[u8], new_key: u64) -> Result<Action, Sense> {
    let flags = basic[field::MOVE_FLAGS];
    check_reserved(16, basic[16], 0)?;
    check_reserved(field::MOVE_FLAGS, flags, field::UNREG | field::APTPL)?;
    let said = u32::from_be_bytes([basic[20], basic[21], basic[22], basic[23]]);
    if usize::try_from(said) != Ok(rest.len()) {
        return Err(length_error());
    }
    let (to, behind) = TransportId::split_from(rest).map_err(|wrong| at(BASIC_BYTES, wrong))?;
    if !behind.is_empty() {
        return Err(invalid(20, None));
    }
    Ok(Action::RegisterAndMove(Box::new(RegisterAndMove {
        new_key,
        aptpl: flags & field::APTPL != 0,
        unregister: flags & field::UNREG != 0,
        relative_port: u16::from_be_bytes([basic[18], basic[19]]),
        to,
    })))
}

fn parse_transport_ids(rest: &[u8]) -> Result<Vec<TransportId>, Sense> {
    let (said, mut list) = rest.split_first_chunk::<4>().ok_or_else(length_error)?;
    if usize::try_from(u32::from_be_bytes(*said)) != Ok(list.len()) {
        return Err(length_error());
    }
    let whole = list.len();
    let mut ids = Vec::new();
    while !list.is_empty() {
        let from = TRANSPORT_IDS_AT + whole - list.len();
        let (id, behind) = TransportId::split_from(list).map_err(|wrong| at(from, wrong))?;
        ids.push(id);
        list = behind;
    }
    Ok(ids)
}

fn be64(basic: &[u8; BASIC_BYTES], from: usize) -> u64 {
    u64::from_be_bytes(
        *basic[from..]
            .first_chunk()
            .expect("two keys are in 24 bytes"),
    )
}

fn check_reserved(byte: usize, value: u8, allowed: u8) -> Result<(), Sense> {
    let offending = value & !allowed;
    if offending == 0 {
        return Ok(());
    }
    Err(invalid(byte, u8::try_from(offending.ilog2()).ok()))
}

fn at(from: usize, Wrong(byte): Wrong) -> Sense {
    invalid(from + usize::from(byte), None)
}

fn invalid(byte: usize, bit: Option<u8>) -> Sense {
    let byte = u16::try_from(byte).expect("a list has at most LIST_BYTES_MAX bytes");
    Sense::invalid_field_in_parameter_list(byte, bit)
}

fn length_error() -> Sense {
    Sense::parameter_list_length_error(LIST_LENGTH_AT)
}
