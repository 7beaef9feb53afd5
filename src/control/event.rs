//! What data cores tell the operator. Made where it happens, put into words by the control thread.

use std::net::SocketAddr;

use crate::backend::{IoError, UnitIndex};
use crate::iscsi::login::Refusal;
use crate::iscsi::session::{Counters, Scope};

/// One occurrence worth a line.
#[derive(Debug)]
pub enum Event {
    LoginRefused(Box<Refusal>),
    /// A connection ended before its login did.
    LoginBroken {
        peer: SocketAddr,
        local: SocketAddr,
        why: String,
    },
    LoggedIn(Box<Login>),
    /// A connection of a session ended.
    Ended(Box<Obituary>),
    /// A request failed at a unit's device; the initiator has the sense data.
    DeviceError {
        unit: UnitIndex,
        error: IoError,
    },
    /// Something of the daemon's own failed.
    Trouble(String),
    /// What a core has done, at its end.
    Account(String),
}

/// Who has logged in to what.
#[derive(Debug)]
pub struct Login {
    pub initiator: String,
    pub target: Option<String>,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub tsih: u16,
    pub cid: u16,
    pub core: usize,
    pub how: &'static str,
    pub authenticated: bool,
    pub mutual: bool,
    pub header_digest: bool,
    pub data_digest: bool,
    pub luns: usize,
    /// X#NodeArchitecture, safe to print.
    pub node_architecture: Option<String>,
}

/// How a connection of a session came to its end.
#[derive(Debug)]
pub struct Obituary {
    pub initiator: String,
    pub target: Option<String>,
    pub peer: SocketAddr,
    pub tsih: u16,
    pub cid: u16,
    /// Whether its session ended with it.
    pub scope: Scope,
    /// Other connections of the session: they go on, or ended with this one.
    pub others: usize,
    /// In order: an initiator that logged out. Not in order: everything else.
    pub in_order: bool,
    pub why: String,
    pub tasks_in_flight: usize,
    pub unsent_bytes: usize,
    pub last_opcodes: Vec<u8>,
    pub counters: Counters,
}
