//! The login phase from the initiator's side (RFC 7143 §6.3, §11.12, §11.13).
//!
//! One request is answered by one response; text longer than a PDU goes on with the C bit in either
//! direction. The security stage comes first unless it is skipped, then the operational stage
//! unless that is, then full feature phase.

use super::chap::Exchange;
use super::config::{Auth, Config, LOGIN_TEXT_MAX, SessionType, pairs};
use super::negotiation::{Negotiated, Negotiation, emit_text, parse_text};
use super::serials::Numbers;
use super::wire::RawPdu;
use crate::pdu::{Itt, LoginRequest, LoginResponse, LoginStatus, Stage, StatSn, Tsih};
use crate::testing::Violation;
use crate::testing::violation::ensure;

/// More rounds than this and the target is leading us in circles.
const ROUNDS_MAX: u32 = 1000;
/// The most text that the target may spread over several responses.
const TEXT_MAX: usize = 64 * 1024;
/// All requests of one login carry the same tag (RFC 7143 §11.12.4 leaves its value free).
pub(super) const LOGIN_ITT: Itt = Itt(0);

/// What follows from a Login Response.
#[derive(Debug)]
pub(super) enum Step {
    Send(RawPdu),
    Done(Negotiated),
    Refused(LoginStatus),
}

/// One login under way.
#[derive(Debug)]
pub(super) struct LoginPhase {
    config: Config,
    stage: Stage,
    negotiation: Negotiation,
    exchange: Option<Exchange>,
    /// Text that is still to be sent in this stage.
    outbox: Vec<u8>,
    /// Nothing more to say in this stage once `outbox` is sent.
    ready: bool,
    /// Text of responses with the C bit.
    text: Vec<u8>,
    last: Option<LoginRequest>,
    rounds: u32,
}

impl LoginPhase {
    pub(super) fn new(config: &Config) -> Self {
        let stage = match config.auth {
            Auth::Skip => Stage::LoginOperationalNegotiation,
            Auth::None | Auth::Chap { .. } => Stage::SecurityNegotiation,
        };
        Self {
            stage,
            negotiation: Negotiation::new(config),
            exchange: None,
            outbox: Vec::new(),
            ready: false,
            text: Vec::new(),
            last: None,
            rounds: 0,
            config: config.clone(),
        }
    }

    /// The first request: who we are, what we want (RFC 7143 §6.3.1).
    pub(super) fn start(&mut self, numbers: Numbers) -> RawPdu {
        let session_type = match self.config.session_type {
            SessionType::Normal => "Normal",
            SessionType::Discovery => "Discovery",
        };
        let name = self.config.initiator_name.clone();
        let mut keys = pairs(&[("InitiatorName", &name), ("SessionType", session_type)]);
        if let Some(target) = &self.config.target_name {
            keys.push(("TargetName".into(), target.clone()));
        }
        match &self.config.auth {
            Auth::Skip => {
                keys.extend(self.config.keys.iter().cloned());
                self.ready = true;
            }
            Auth::None => {
                keys.extend(pairs(&[("AuthMethod", "None")]));
                self.ready = true;
            }
            Auth::Chap { or_none, .. } => {
                let methods = if *or_none { "CHAP,None" } else { "CHAP" };
                keys.extend(pairs(&[("AuthMethod", methods)]));
            }
        }
        keys.extend(self.config.first_keys.iter().cloned());
        self.say(&keys);
        self.request(numbers)
    }

    pub(super) fn handle(
        &mut self,
        response: &LoginResponse,
        data: &[u8],
        numbers: Numbers,
    ) -> Result<Step, Violation> {
        self.rounds += 1;
        ensure!(
            self.rounds <= ROUNDS_MAX,
            LoginRounds,
            "{ROUNDS_MAX} responses and no end"
        );
        let Some(last) = self.last else {
            let detail = "a Login Response before any request";
            return Err(Violation::new(crate::testing::Rule::Phase, detail));
        };
        let echoes_isid = response.isid == last.isid
            || !(response.status.is_success() || self.config.strict_fields);
        ensure!(
            response.itt == last.itt && echoes_isid,
            LoginIdentity,
            "{:?} {:?} is not that of the request",
            response.itt,
            response.isid
        );
        if !response.status.is_success() {
            return Ok(Step::Refused(response.status));
        }
        check_flags(response, &last)?;
        if last.continue_ {
            // §11.13.7: until our text is complete the target has nothing to say.
            ensure!(
                data.is_empty() && !response.transit && !response.continue_,
                LoginContinue,
                "an answer of {} bytes to a request with the C bit",
                data.len()
            );
            return Ok(Step::Send(self.request(numbers)));
        }
        self.text.extend_from_slice(data);
        ensure!(
            self.text.len() <= TEXT_MAX,
            LoginRounds,
            "more than {TEXT_MAX} bytes of text"
        );
        if response.continue_ {
            ensure!(!data.is_empty(), LoginContinue, "a C bit without text");
            return Ok(Step::Send(self.ask_for_more(numbers)));
        }
        let text = std::mem::take(&mut self.text);
        self.take_text(&parse_text(&text)?)?;
        if response.transit {
            return self.transit(response, numbers);
        }
        Ok(Step::Send(self.request(numbers)))
    }

    /// The target agreed to go on to the next stage.
    fn transit(&mut self, response: &LoginResponse, numbers: Numbers) -> Result<Step, Violation> {
        ensure!(
            self.exchange.as_ref().is_none_or(Exchange::is_done),
            ChapMessage,
            "a transit in the middle of CHAP"
        );
        ensure!(
            self.outbox.is_empty(),
            KeyAnswer,
            "a transit together with an offer that asks for an answer"
        );
        if response.nsg == Stage::FullFeaturePhase {
            self.check_tsih(response.tsih)?;
            let next = Negotiation::new(&self.config);
            let negotiation = std::mem::replace(&mut self.negotiation, next);
            return Ok(Step::Done(negotiation.finish(response.tsih)?));
        }
        self.stage = response.nsg;
        let keys = self.config.keys.clone();
        self.say(&keys);
        self.ready = true;
        Ok(Step::Send(self.request(numbers)))
    }

    /// Offers `keys` and queues them as text.
    fn say(&mut self, keys: &[(String, String)]) {
        self.negotiation.offer(keys);
        self.outbox.extend(emit_text(keys));
    }

    /// Takes one whole text of the target, and queues what it asks for.
    fn take_text(&mut self, keys: &[(String, String)]) -> Result<(), Violation> {
        let mut chap_keys = Vec::new();
        let mut answers = Vec::new();
        for (key, value) in keys {
            if key.starts_with("CHAP_") {
                chap_keys.push((key.clone(), value.clone()));
            } else if let Some(answer) = self.negotiation.take(key, value)? {
                answers.push((key.clone(), answer));
            }
        }
        self.outbox.extend(emit_text(&answers));
        if self.stage != Stage::SecurityNegotiation {
            ensure!(
                chap_keys.is_empty(),
                ChapMessage,
                "CHAP outside of the security stage"
            );
            return Ok(());
        }
        let method = keys
            .iter()
            .find(|(key, _)| key == "AuthMethod")
            .map(|(_, value)| value);
        match (
            &mut self.exchange,
            &self.config.auth,
            method.map(String::as_str),
        ) {
            (None, Auth::Chap { chap, .. }, Some("CHAP")) => {
                let exchange = Exchange::new(chap.clone());
                self.outbox.extend(emit_text(&exchange.start()));
                self.exchange = Some(exchange);
            }
            (None, _, Some("None")) => self.ready = true,
            (Some(exchange), _, None) => {
                self.outbox
                    .extend(emit_text(&exchange.advance(&chap_keys)?));
                self.ready = true;
            }
            (None, Auth::None | Auth::Skip, None) => {}
            (_, _, method) => {
                let detail = format!("AuthMethod={method:?} at this point of the stage");
                return Err(Violation::new(crate::testing::Rule::AuthMethod, detail));
            }
        }
        ensure!(
            self.exchange.is_some() || chap_keys.is_empty(),
            ChapMessage,
            "CHAP keys before CHAP was chosen"
        );
        Ok(())
    }

    /// §11.13.3: the final response names the session, a new one or the one that was asked for.
    fn check_tsih(&self, tsih: Tsih) -> Result<(), Violation> {
        let asked = self.config.tsih;
        ensure!(
            tsih != Tsih::NEW_SESSION && (asked == Tsih::NEW_SESSION || asked == tsih),
            LoginTsih,
            "{tsih:?} after a login that asked for {asked:?}"
        );
        Ok(())
    }

    /// The next piece of what is to be said, with T on the last if the stage is done.
    fn request(&mut self, numbers: Numbers) -> RawPdu {
        let piece = self
            .config
            .text_piece_bytes
            .clamp(1, LOGIN_TEXT_MAX)
            .min(self.outbox.len());
        let data: Vec<u8> = self.outbox.drain(..piece).collect();
        let continue_ = !self.outbox.is_empty();
        self.emit(continue_, self.ready && !continue_, data, numbers)
    }

    /// An empty request that lets the target go on with its text (RFC 7143 §6.2).
    fn ask_for_more(&mut self, numbers: Numbers) -> RawPdu {
        self.emit(false, false, Vec::new(), numbers)
    }

    fn emit(&mut self, continue_: bool, transit: bool, data: Vec<u8>, numbers: Numbers) -> RawPdu {
        let nsg = match self.stage {
            Stage::SecurityNegotiation if !self.config.skip_operational => {
                Stage::LoginOperationalNegotiation
            }
            _ => Stage::FullFeaturePhase,
        };
        let exp_stat_sn = if self.last.is_none() {
            StatSn(0)
        } else {
            numbers.exp_stat_sn
        };
        let request = LoginRequest {
            transit,
            continue_,
            csg: self.stage,
            nsg: if transit { nsg } else { Stage::default() },
            version_max: 0,
            version_min: 0,
            isid: self.config.isid,
            tsih: self.config.tsih,
            itt: LOGIN_ITT,
            cid: self.config.cid,
            cmd_sn: numbers.cmd_sn,
            exp_stat_sn,
        };
        self.last = Some(request);
        RawPdu::new(request.emit(), data)
    }
}

/// Version, stages, T and C of a response against its request.
fn check_flags(response: &LoginResponse, last: &LoginRequest) -> Result<(), Violation> {
    ensure!(
        response.version_active == 0,
        LoginVersion,
        "active version {} of 0 to 0",
        response.version_active
    );
    ensure!(
        response.csg == last.csg,
        LoginStage,
        "{:?} in answer to a request in {:?}",
        response.csg,
        last.csg
    );
    // §6.3: only the initiator starts a transition, and the target agrees or does not.
    ensure!(
        !response.transit || (last.transit && response.nsg == last.nsg),
        LoginStage,
        "a transit to {:?} that was not asked for",
        response.nsg
    );
    Ok(())
}
