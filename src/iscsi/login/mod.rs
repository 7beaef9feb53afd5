//! Login (RFC 7143 §6.3): from the first Login Request to full feature phase, or to a refusal.
//!
//! ```text
//!  Start ──► Security ──► Operational ──► Final (the caller enters full feature phase)
//!    └───────────┼──────────►┘ │
//!                └──────────────────────► Final
//! ```
//!
//! [`Login::handle`] consumes the login and gives back the next one, so that a login that has ended
//! cannot go on, and full feature phase cannot be reached but through [`LoginStep::Final`]. The
//! engine has no clock and no randomness of its own: the caller bounds the time of a login, and
//! hands randomness in. Bounds: [`LOGIN_REQUESTS_MAX`] requests,
//! [`LOGIN_TEXT_MAX_BYTES`](super::text::LOGIN_TEXT_MAX_BYTES) of text.
//!
//! StatSN: the first response carries the ExpStatSN of the first request, each further one the
//! number after; `Negotiated::next_stat_sn` says where full feature phase goes on. ExpCmdSN is the
//! CmdSN of the login, since Login Requests are immediate, and MaxCmdSN closes a window of
//! [`Limits::command_window`]. The caller overwrites both, and TSIH, in the final response where
//! the connection joins a session.

mod chap;
mod exchange;
mod negotiation;
mod parties;
mod reason;
mod refusal;
mod security;
mod stages;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use exchange::Exchange;
pub use reason::Reason;
pub use refusal::{OFFERED_MAX_CHARS, Offered, Refusal};
use stages::State;

use super::negotiated::Negotiated;
use super::node::Nodes;
use crate::pdu::{Bhs, FormatError, LoginRequest, LoginResponse, Stage};

/// Most Login Requests of one login.
pub const LOGIN_REQUESTS_MAX: u32 = 64;
/// The only version of the protocol there is (RFC 7143 §11.12.4).
const VERSION: u8 = 0;

/// A source of unpredictable bytes: fills the slice.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]);

/// What the login is measured against. May differ from one request to the next.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub nodes: &'a Nodes,
    /// Tag of the portal group that the connection came through.
    pub portal_group_tag: u16,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    pub limits: &'a Limits,
    pub admission: Admission,
}

/// Whether the daemon takes new sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Admission {
    #[default]
    Open,
    ShuttingDown,
    OutOfResources,
}

/// What we declare and offer. Lengths in bytes, 512 to 2^24 − 1; times in seconds, at most 3600.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    pub max_recv_data_segment_length: u32,
    pub max_burst_length: u32,
    pub first_burst_length: u32,
    /// At least 1.
    pub max_outstanding_r2t: u16,
    /// Forbid unsolicited Data-Out PDUs.
    pub initial_r2t: bool,
    pub immediate_data: bool,
    pub default_time2wait_s: u16,
    pub default_time2retain_s: u16,
    /// Commands that a new session may send at once; at least 1.
    pub command_window: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_recv_data_segment_length: 262_144,
            max_burst_length: 262_144,
            first_burst_length: 65_536,
            max_outstanding_r2t: 4,
            initial_r2t: false,
            immediate_data: true,
            default_time2wait_s: 2,
            default_time2retain_s: 20,
            command_window: 64,
        }
    }
}

/// What comes of one Login Request. `text` is the data segment of `response`, at most 8192 bytes.
#[derive(Debug)]
#[must_use]
pub enum LoginStep {
    /// Send this; the login goes on.
    Reply {
        response: LoginResponse,
        text: Vec<u8>,
        next: Login,
    },
    /// Everything is agreed on. The caller finds or makes the session, sets `response.tsih` (and
    /// ExpCmdSN and MaxCmdSN of a session that exists), sends it, and enters full feature phase; or
    /// refuses by [`refuse_final`].
    Final {
        negotiated: Box<Negotiated>,
        response: LoginResponse,
        text: Vec<u8>,
    },
    /// Send this, which has no text, and close the connection.
    Refuse {
        response: LoginResponse,
        refusal: Box<Refusal>,
    },
}

/// A login under way.
#[derive(Debug)]
pub struct Login {
    exchange: Box<Exchange>,
    state: State,
}

impl Default for Login {
    fn default() -> Self {
        Self::new()
    }
}

impl Login {
    /// A login that has not begun.
    pub fn new() -> Self {
        Self {
            exchange: Box::new(Exchange::new()),
            state: State::Start,
        }
    }

    /// Takes one Login Request with its whole data segment.
    pub fn handle(
        self,
        cx: &Context<'_>,
        request: &LoginRequest,
        data: &[u8],
        random: Random<'_>,
    ) -> LoginStep {
        let Self {
            mut exchange,
            state,
        } = self;
        match exchange.receive(state, cx, request, data, random) {
            Ok(state) => exchange.respond(state, cx, request),
            Err(reason) => exchange.refuse(cx, request, reason),
        }
    }

    /// Ends the login for a reason of the caller's.
    pub fn refuse(self, cx: &Context<'_>, request: &LoginRequest, reason: Reason) -> LoginStep {
        let mut exchange = self.exchange;
        exchange.next_stat_sn = exchange.stat_sn_for(request);
        exchange.refuse(cx, request, reason)
    }

    /// Ends the login because the header of a Login Request could not be read.
    pub fn refuse_header(self, cx: &Context<'_>, bhs: &Bhs, error: FormatError) -> LoginStep {
        // Without its flags, which hold all that can be wrong, the header can be read and echoed.
        let mut bytes = *bhs.bytes();
        bytes[1] = 0;
        let request = LoginRequest::parse(&Bhs::new(bytes))
            .expect("only the flags of a Login Request can be malformed");
        self.refuse(cx, &request, Reason::Header(error))
    }
}

/// Refuses a login that had succeeded as far as this module can say: the session directory knows
/// better. `response` is the one of [`LoginStep::Final`].
pub fn refuse_final(
    cx: &Context<'_>,
    negotiated: &Negotiated,
    response: &LoginResponse,
    reason: Reason,
) -> (LoginResponse, Box<Refusal>) {
    let response = LoginResponse {
        transit: false,
        nsg: Stage::default(),
        tsih: negotiated.tsih,
        status: reason.status(),
        ..*response
    };
    let target = negotiated
        .target
        .as_ref()
        .map(|target| Offered::new(target.name.as_str()));
    let initiator = Some(Offered::new(negotiated.initiator_name.as_str()));
    (
        response,
        Box::new(Refusal::new(cx, reason, initiator, target)),
    )
}
