//! What all stages of a login share: the order of its requests, text in several PDUs, numbers and
//! the making of responses (RFC 7143 §11.12, §11.13).

use super::reason::Reason;
use super::refusal::{Offered, Refusal};
use super::stages::{Sequence, State};
use super::{Context, LOGIN_REQUESTS_MAX, Login, LoginStep, Random, VERSION};
use crate::iscsi::keys::KeySet;
use crate::iscsi::text::{
    Assembler, LOGIN_DATA_SEGMENT_MAX_BYTES, LOGIN_TEXT_MAX_BYTES, Outgoing, TextWriter, pairs,
};
use crate::pdu::{
    Cid, CmdSn, Isid, Itt, LoginRequest, LoginResponse, LoginStatus, Stage, StatSn, Tsih,
};

/// What all stages share.
#[derive(Debug)]
pub(super) struct Exchange {
    /// What the first request fixed for all.
    first: Option<Identity>,
    /// The stage that both sides are in, once the first request has said where it begins.
    stage: Stage,
    requests: u32,
    pub(super) next_stat_sn: StatSn,
    incoming: Assembler,
    outgoing: Outgoing,
    /// Keys that the initiator has sent.
    pub(super) seen: KeySet,
    pub(super) initiator: Option<Offered>,
    pub(super) target: Option<Offered>,
}

/// The fields that stay the same through all Login Requests of a connection.
#[derive(Clone, Copy, Debug)]
struct Identity {
    itt: Itt,
    isid: Isid,
    tsih: Tsih,
    cid: Cid,
    cmd_sn: CmdSn,
}

impl Exchange {
    /// Nothing has been received.
    pub(super) fn new() -> Self {
        Self {
            first: None,
            stage: Stage::SecurityNegotiation,
            requests: 0,
            next_stat_sn: StatSn(0),
            incoming: Assembler::new(LOGIN_TEXT_MAX_BYTES),
            outgoing: Outgoing::default(),
            seen: KeySet::default(),
            initiator: None,
            target: None,
        }
    }

    /// Checks the request and, when it completes a sequence, has the state take it.
    pub(super) fn receive(
        &mut self,
        state: State,
        cx: &Context<'_>,
        request: &LoginRequest,
        data: &[u8],
        random: Random<'_>,
    ) -> Result<State, Reason> {
        self.next_stat_sn = self.stat_sn_for(request);
        self.check_order(request)?;
        if data.len() > LOGIN_DATA_SEGMENT_MAX_BYTES {
            return Err(Reason::SegmentTooLong);
        }
        // RFC 7143 §6.2: while our text goes on, the initiator asks for the rest with nothing.
        if !self.outgoing.is_done() {
            let silent = data.is_empty() && !request.continue_;
            return if silent {
                Ok(state)
            } else {
                Err(Reason::TextBeforeEndOfOurs)
            };
        }
        let Some(text) = self.incoming.push(data, request.continue_)? else {
            return Ok(state);
        };
        let mut out = TextWriter::default();
        let sequence = Sequence {
            cx,
            request,
            pairs: pairs(&text)?,
            exchange: self,
            random,
            out: &mut out,
        };
        let state = state.receive(sequence)?;
        self.outgoing = Outgoing::new(out.finish());
        Ok(state)
    }

    /// RFC 7143 §11.12: what stays the same, which stage it is, and where it may lead.
    fn check_order(&mut self, request: &LoginRequest) -> Result<(), Reason> {
        self.requests += 1;
        if self.requests > LOGIN_REQUESTS_MAX {
            return Err(Reason::TooManyRequests);
        }
        let LoginRequest {
            itt,
            isid,
            tsih,
            cid,
            cmd_sn,
            csg,
            nsg,
            ..
        } = *request;
        // §11.12.4: the range that the initiator speaks must have ours in it.
        if request.version_min > VERSION {
            return Err(Reason::UnsupportedVersion);
        }
        match self.first {
            None => {
                if csg == Stage::FullFeaturePhase {
                    return Err(Reason::BeginsInFullFeaturePhase);
                }
                self.stage = csg;
                self.first = Some(Identity {
                    itt,
                    isid,
                    tsih,
                    cid,
                    cmd_sn,
                });
            }
            Some(first) if first.itt != itt => return Err(Reason::IttChanged),
            Some(first) if first.isid != isid => return Err(Reason::IsidChanged),
            Some(first) if first.tsih != tsih => return Err(Reason::TsihChanged),
            Some(first) if first.cid != cid => return Err(Reason::CidChanged),
            Some(first) if first.cmd_sn != cmd_sn => return Err(Reason::CmdSnChanged),
            Some(_) => {}
        }
        if csg != self.stage {
            return Err(Reason::StageMismatch {
                expected: self.stage,
                got: csg,
            });
        }
        if request.transit && (nsg as u8) <= csg as u8 {
            return Err(Reason::BadTransition { from: csg, to: nsg });
        }
        Ok(())
    }

    /// Sends what there is to say, and makes the transition if both sides want it. RFC 7143 §6.3:
    /// we never ask for a transition that the initiator did not ask for.
    pub(super) fn respond(
        mut self: Box<Self>,
        state: State,
        cx: &Context<'_>,
        request: &LoginRequest,
    ) -> LoginStep {
        let (segment, more) = self.outgoing.next_segment(LOGIN_DATA_SEGMENT_MAX_BYTES);
        let text = segment.to_vec();
        let mut transit = false;
        let mut state = state;
        if request.transit && !more {
            match state.leave(cx, request) {
                Ok((left, next)) => (transit, state) = (left, next),
                Err(reason) => return self.refuse(cx, request, reason),
            }
        }
        let mut response = self.response(cx, request, LoginStatus::SUCCESS);
        response.continue_ = more;
        response.transit = transit;
        if transit {
            response.nsg = request.nsg;
            self.stage = request.nsg;
        }
        match state {
            State::Done(negotiated) => {
                let mut negotiated = negotiated;
                negotiated.next_stat_sn = self.next_stat_sn;
                LoginStep::Final {
                    negotiated,
                    response,
                    text,
                }
            }
            state => LoginStep::Reply {
                response,
                text,
                next: Login {
                    exchange: self,
                    state,
                },
            },
        }
    }

    /// RFC 7143 §6.3: a refusal ends the login; it has no text.
    pub(super) fn refuse(
        &mut self,
        cx: &Context<'_>,
        request: &LoginRequest,
        reason: Reason,
    ) -> LoginStep {
        let response = self.response(cx, request, reason.status());
        let (initiator, target) = (self.initiator.take(), self.target.take());
        let refusal = Box::new(Refusal::new(cx, reason, initiator, target));
        LoginStep::Refuse { response, refusal }
    }

    /// A response without transition, with the next StatSN.
    fn response(
        &mut self,
        cx: &Context<'_>,
        request: &LoginRequest,
        status: LoginStatus,
    ) -> LoginResponse {
        let stat_sn = self.next_stat_sn;
        self.next_stat_sn = stat_sn.next();
        LoginResponse {
            transit: false,
            continue_: false,
            csg: request.csg,
            nsg: Stage::default(),
            version_max: VERSION,
            version_active: VERSION,
            isid: request.isid,
            tsih: request.tsih,
            itt: request.itt,
            stat_sn,
            exp_cmd_sn: request.cmd_sn,
            max_cmd_sn: request
                .cmd_sn
                .plus(cx.limits.command_window.saturating_sub(1)),
            status,
        }
    }

    pub(super) fn stat_sn_for(&self, request: &LoginRequest) -> StatSn {
        if self.first.is_none() {
            request.exp_stat_sn
        } else {
            self.next_stat_sn
        }
    }
}
