//! SCSI device server: CDBs in, steps out (SAM-5, SPC-4, SBC-3 with SBC-4's fields where noted).
//!
//! ```text
//! iscsi ─► Task::start ─► opcodes::lookup ─► checks ─► one file per command ─► Step
//!                            the table        (task)     spc::* and sbc::*
//! ```
//!
//! An engine without IO: [`task::Task`] is told what happened and returns the next [`task::Step`].
//! It knows nothing of sockets, time or threads, and takes no memory of its own: parameter data go
//! to a buffer that the caller lends, blocks travel in the caller's `DmaBuf`s.
//!
//! A new command is one file under [`spc`] or [`sbc`] and one row in [`opcodes`]: dispatch, the
//! check of reserved bits, who may run when the unit is not ready or write protected, and REPORT
//! SUPPORTED OPERATION CODES all come from that row.
#![forbid(unsafe_code)]

pub mod activity;
pub mod asymmetric_access;
pub mod cdb;
pub mod change;
pub mod copy;
pub mod job;
pub mod lun;
pub mod news;
pub mod nexus;
pub mod opcodes;
pub mod parameter;
pub mod provisioning;
pub mod reservations;
pub mod sbc;
pub mod sense;
pub mod spc;
pub mod task;
pub mod unit;
pub mod unit_attention;

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod testbed;

pub use cdb::Cdb;
pub use change::{Change, Decision, NonVolatile, Update};
pub use job::{Job, JobEvent, JobStep, Sanitize};
pub use lun::{LunAddress, WellKnownLun};
pub use news::News;
pub use nexus::{InitiatorPort, MappedLun, Nexus, Whom};
pub use parameter::ParameterData;
pub use sense::{AdditionalSense, Sense, SenseKey, SenseSpecific};
pub use spc::mode_pages::Qerr;
pub use task::{Command, Context, Event, Outcome, Status, Step, Task, TaskAttribute, Transfer};
pub use unit::{Identity, LogicalUnit, NotReadyReason, PortIdentity, ReadyState};
pub use unit_attention::{NexusUnit, UnitAttention};
