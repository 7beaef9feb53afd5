//! The wire of RFC 7143: every PDU, additional header segments, digests and the framer.
//!
//! ```text
//!  BHS (48) │ AHS (0..=1020) │ header digest (0, 4) │ data │ pad (0..=3) │ data digest (0, 4)
//! ```
//!
//! [`Bhs`] is a view over the 48 fixed bytes; each PDU has one file with its field offsets, `parse`
//! and `emit` (both directions, because the initiator of `testing` speaks too). [`Framer`] cuts a
//! byte stream into headers and pieces of data segments without ever holding a data segment. Text
//! segments (key=value pairs) are not parsed here but in `iscsi`.
//!
//! Invariants: nothing a peer sends can panic, allocate or be read out of bounds here; reserved
//! bytes are written as zero and ignored on read; numbers are big-endian (the digests are the one
//! exception, see [`digest_to_wire`]).
#![forbid(unsafe_code)]

mod ahs;
mod async_message;
mod bhs;
mod code;
mod data_in;
mod data_out;
mod digest;
mod error;
mod framer;
mod login_request;
mod login_response;
mod logout_request;
mod logout_response;
mod nop_in;
mod nop_out;
mod opcode;
mod r2t;
mod reject;
mod residual;
mod scsi_command;
mod scsi_response;
mod serial;
mod snack;
mod tags;
mod task_management_request;
mod task_management_response;
mod text_request;
mod text_response;

pub use ahs::{AHS_BYTES_MAX, Ahs, AhsBytes, AhsError, AhsIter};
pub use async_message::{AsyncEvent, AsyncMessage};
pub use bhs::{BHS_LEN, Bhs, DATA_SEGMENT_LENGTH_MAX, pad_length};
pub use data_in::ScsiDataIn;
pub use data_out::ScsiDataOut;
pub use digest::{
    DIGEST_LEN, DataDigest, digest_from_wire, digest_to_wire, header_digest, self_test,
};
pub use error::FormatError;
pub use framer::{Event, FrameError, Framer, Header, Limits};
pub use login_request::{LoginRequest, Stage};
pub use login_response::{LoginResponse, LoginStatus};
pub use logout_request::{LogoutReason, LogoutRequest};
pub use logout_response::{LogoutResponse, LogoutResponseCode};
pub use nop_in::NopIn;
pub use nop_out::NopOut;
pub use opcode::{Opcode, UnknownOpcode};
pub use r2t::R2t;
pub use reject::{Reject, RejectReason};
pub use residual::Residual;
pub use scsi_command::{ScsiCommand, TaskAttribute};
pub use scsi_response::{ScsiResponse, ScsiResponseCode};
pub use serial::{CmdSn, StatSn};
pub use snack::{Snack, SnackType};
pub use tags::{Cid, Isid, Itt, LunField, Tsih, Ttt};
pub use task_management_request::{TaskManagementFunction, TaskManagementRequest};
pub use task_management_response::{TaskManagementResponse, TaskManagementResponseCode};
pub use text_request::TextRequest;
pub use text_response::TextResponse;
