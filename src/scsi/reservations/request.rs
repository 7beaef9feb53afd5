//! What commands ask of the reservations of a unit, parsed and not yet judged (SPC-4 §6.16;
//! SPC-2 RESERVE and RELEASE).

use super::TransportId;

/// What a command asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// PERSISTENT RESERVE OUT.
    Persistent {
        /// RESERVATION KEY.
        key: u64,
        action: Action,
    },
    /// RESERVE (6) or (10) of the whole unit, for the nexus that asks.
    Reserve,
    /// RELEASE (6) or (10) of the whole unit, by the nexus that asks.
    Release,
}

/// The service actions of PERSISTENT RESERVE OUT (SPC-4 §6.16.2) with their own parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    Register(Register),
    /// `scope_type`: byte 2 of the CDB.
    Reserve {
        scope_type: u8,
    },
    Release {
        scope_type: u8,
    },
    Clear,
    Preempt(Preempt),
    RegisterAndMove(Box<RegisterAndMove>),
}

/// REGISTER and REGISTER AND IGNORE EXISTING KEY.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Register {
    pub ignore_existing: bool,
    /// SERVICE ACTION RESERVATION KEY; zero unregisters.
    pub new_key: u64,
    pub aptpl: bool,
    /// ALL_TG_PT: at every port of the target.
    pub all_ports: bool,
    /// With SPEC_I_PT: who else. `None` without it.
    pub others: Option<Vec<TransportId>>,
}

/// PREEMPT and PREEMPT AND ABORT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preempt {
    /// SERVICE ACTION RESERVATION KEY: whose registrations go.
    pub victim: u64,
    pub scope_type: u8,
    /// The commands of the victims go too.
    pub abort: bool,
}

/// REGISTER AND MOVE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegisterAndMove {
    pub new_key: u64,
    pub aptpl: bool,
    /// UNREG: the asking nexus is no longer registered afterwards.
    pub unregister: bool,
    /// RELATIVE TARGET PORT IDENTIFIER of the receiving nexus.
    pub relative_port: u16,
    pub to: TransportId,
}
