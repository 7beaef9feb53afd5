//! iiblockdaemon: an iSCSI target daemon (RFC 7143).
//!
//! ```text
//!        one core: Reactor owns everything between the two lines and shares nothing
//! ────────────────────────────────────────────────────────────────────────────────────
//! NIC queue ─► port ─► net::stack ─┐
//!              frames   TCP        ▼
//!  host TCP ─► net::host ─► Stream ─► pdu ──────► iscsi ───────► scsi ────► backend
//!               sockets     bytes    framer:    connection,    task:       request
//!                                    BHS+AHS+   login,         CDB →
//!                                    data+CRC   session,       handler
//!                                               CmdSN window                │ completion
//!  host TCP ◄─ net::host ◄─ Stream ◄─ pdu ◄────── iscsi ◄─────── scsi ◄─────┘
//! NIC queue ◄─ port ◄─ net::stack ◄──┘   Data-In, R2T, status and sense, StatSN
//! ────────────────────────────────────────────────────────────────────────────────────
//!  one bounded lock-free inbox per core ◄──► other cores, and the control thread
//! ```
//!
//! Read [`reactor`] first: its `poll_once` is one bounded call per arrow. `pdu`, `iscsi` and `scsi`
//! are engines without IO: bytes, completions and time are arguments, what to send and what to
//! submit are results. `docs/ARCHITECTURE.md` has the reasons; `tests/tidy.rs` holds who may use
//! whom.

pub mod api;
pub mod backend;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod iscsi;
pub mod log;
pub mod mem;
pub mod metrics;
pub mod net;
pub mod pdu;
pub mod port;
pub mod reactor;
pub mod scsi;
pub mod state;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
