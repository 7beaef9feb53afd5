//! What a login has agreed on: the operational parameters and the names of a session and its
//! connection (RFC 7143 §13).
//!
//! Lengths are in bytes, times in seconds. Nothing here is secret.

use std::sync::Arc;

use super::names::IscsiName;
use super::node::TargetNode;
use crate::pdu::{Cid, CmdSn, Isid, StatSn, Tsih};

/// SessionType (RFC 7143 §13.21).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SessionType {
    Normal,
    /// Only text, logout and NOP requests are served.
    Discovery,
}

/// The outcome of one login.
#[derive(Clone, Debug)]
pub struct Negotiated {
    pub session_type: SessionType,
    pub initiator_name: IscsiName,
    pub initiator_alias: Option<String>,
    /// X#NodeArchitecture as the initiator declared it, at most 255 bytes; nothing is concluded
    /// from it.
    pub node_architecture: Option<String>,
    /// Present exactly in a normal session.
    pub target: Option<Arc<TargetNode>>,
    /// Portal group that the connection came through.
    pub portal_group_tag: u16,
    pub isid: Isid,
    /// What the initiator asked for: zero for a new session, else the session that this connection
    /// is to join or take over. Then the session's parameters count and those of [`Parameters`]
    /// that belong to a session are defaults.
    pub tsih: Tsih,
    pub cid: Cid,
    /// CmdSN of the login; also that of the first command that is not immediate.
    pub cmd_sn: CmdSn,
    /// StatSN of the next response after the final Login Response.
    pub next_stat_sn: StatSn,
    /// The initiator has proved who it is.
    pub authenticated: bool,
    /// The target has proved to the initiator who it is.
    pub mutually_authenticated: bool,
    pub parameters: Parameters,
}

impl Negotiated {
    /// Bytes that one command may bring unasked and that must have a place: none in a discovery
    /// session, which serves no SCSI.
    pub fn unsolicited_bytes(&self) -> usize {
        match self.session_type {
            SessionType::Normal => self.parameters.first_burst_length as usize,
            SessionType::Discovery => 0,
        }
    }
}

/// Operational parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parameters {
    /// CRC32C over headers, in both directions, from the first PDU after login.
    pub header_digest: bool,
    /// CRC32C over data segments.
    pub data_digest: bool,
    /// Longest data segment that we may send: the initiator's MaxRecvDataSegmentLength.
    pub initiator_max_recv_data_segment_length: u32,
    /// Longest data segment that the initiator may send: what we declared, else 8192.
    pub target_max_recv_data_segment_length: u32,
    pub max_connections: u16,
    /// Unsolicited Data-Out PDUs are not allowed.
    pub initial_r2t: bool,
    pub immediate_data: bool,
    /// Most bytes of one sequence of Data-In PDUs, or of Data-Out PDUs that answer an R2T.
    pub max_burst_length: u32,
    /// Most unsolicited bytes of one command, immediate data included; at most `max_burst_length`.
    pub first_burst_length: u32,
    pub default_time2wait_s: u16,
    pub default_time2retain_s: u16,
    pub max_outstanding_r2t: u16,
    pub data_pdu_in_order: bool,
    pub data_sequence_in_order: bool,
    pub error_recovery_level: u8,
    pub iscsi_protocol_level: u8,
}
