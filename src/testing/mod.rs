//! Test gear that tests, benches and fuzzers share: an initiator without IO and a blocking driver
//! for it.
//!
//! [`Initiator`] is the other side of the wire, written from RFC 7143 and from nothing of `iscsi`,
//! so that the target is judged by a second reading of the standard. It takes bytes and gives
//! bytes; sockets, time and threads belong to whoever drives it ([`tcp`] does so over a blocking
//! socket). Every rule that the target breaks is a [`Violation`] that names its section.
//!
//! Nothing here is on the daemon's data path: it allocates freely, but every queue that the peer
//! can fill is bounded.

pub mod flows;
mod initiator;
pub mod tcp;
mod violation;

pub use initiator::{
    Auth, Chap, ChapEncoding, ChapFault, ChapPeer, Command, Config, DataOut, DataPhase, DigestMode,
    Direction, Event, Initiator, Joins, Login, Negotiated, Nop, Numbers, Pdu, RawPdu, Scsi,
    ScsiOutcome, SessionType, TaskHandle, TaskManagement, chap_response,
};
pub use violation::{Rule, Violation};
