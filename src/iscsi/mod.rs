//! iSCSI target engine (RFC 7143): login, sessions, connections, tasks.
#![forbid(unsafe_code)]

pub mod acl;
pub mod auth;
pub mod binary;
pub mod discovery;
pub mod handshake;
pub mod keys;
pub mod login;
pub mod names;
pub mod negotiated;
pub mod node;
pub mod session;
pub mod text;
pub mod text_phase;
pub mod transmit;
