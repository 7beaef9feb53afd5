//! The states of a login, and what a sequence of requests does to each (RFC 7143 §6.3).

use super::exchange::Exchange;
use super::negotiation::Negotiation;
use super::parties::Parties;
use super::reason::Reason;
use super::security::{Proof, Security, SecurityKeys};
use super::{Context, Limits, Random};
use crate::iscsi::keys::{Key, Use};
use crate::iscsi::negotiated::{Negotiated, SessionType};
use crate::iscsi::text::TextWriter;
use crate::pdu::{LoginRequest, Stage, StatSn, Tsih};

/// Longest alias (RFC 7143 §6.1: 255 bytes for texts that have no bound of their own).
const ALIAS_MAX_BYTES: usize = 255;

/// Where a login stands. Each state owns what its stage may know, and is consumed by the next.
#[derive(Debug)]
pub(super) enum State {
    /// The first sequence is not complete.
    Start,
    Security(Box<Established>, Security),
    Operational(Box<Established>, Operational),
    /// Both sides have agreed; nothing more is handled.
    Done(Box<Negotiated>),
}

/// What holds from the first sequence on.
#[derive(Debug)]
pub(super) struct Established {
    parties: Parties,
    negotiation: Negotiation,
}

/// The operational stage.
#[derive(Debug)]
pub(super) struct Operational {
    proof: Proof,
    /// Our own declarations have been made.
    declared: bool,
}

/// One whole sequence of the initiator's, and where the answer goes.
pub(super) struct Sequence<'a> {
    pub(super) cx: &'a Context<'a>,
    pub(super) request: &'a LoginRequest,
    pub(super) pairs: Vec<(&'a str, &'a str)>,
    pub(super) exchange: &'a mut Exchange,
    pub(super) random: Random<'a>,
    pub(super) out: &'a mut TextWriter,
}

impl State {
    /// Takes a whole sequence.
    pub(super) fn receive(self, mut sequence: Sequence<'_>) -> Result<Self, Reason> {
        match self {
            Self::Start => {
                let state = Self::begin(&mut sequence)?;
                state.negotiate(sequence, Position::First)
            }
            state => state.negotiate(sequence, Position::Later),
        }
    }

    /// The first sequence says who is there; its other keys belong to the stage that it begins
    /// with.
    fn begin(sequence: &mut Sequence<'_>) -> Result<Self, Reason> {
        let Sequence { cx, request, .. } = *sequence;
        let parties = Parties::identify(cx, sequence.exchange, &sequence.pairs)?;
        if parties.session_type == SessionType::Normal {
            // RFC 7143 §13.9: the first response of a login that names a target has this.
            sequence
                .out
                .push(Key::TargetPortalGroupTag.name(), cx.portal_group_tag);
        }
        let security = Security::new(parties.auth.clone());
        let established = Box::new(Established {
            parties,
            negotiation: Negotiation::new().with_joins(request.tsih != Tsih::NEW_SESSION),
        });
        if request.csg == Stage::SecurityNegotiation {
            return Ok(Self::Security(established, security));
        }
        // §6.3.2: security may be left out only where nothing is to be proved.
        let proof = security.proof().ok_or(Reason::AuthenticationRequired)?;
        Ok(Self::Operational(
            established,
            Operational {
                proof,
                declared: false,
            },
        ))
    }

    fn negotiate(self, sequence: Sequence<'_>, position: Position) -> Result<Self, Reason> {
        let Sequence {
            cx,
            request,
            pairs,
            exchange,
            random,
            out,
        } = sequence;
        match self {
            Self::Security(mut established, security) => {
                let mut keys = SecurityKeys::default();
                let mut reader = Reader {
                    cx,
                    request,
                    exchange,
                    position,
                };
                reader.read(&pairs, &mut established, Some(&mut keys), out)?;
                let security = security.receive(&keys, random, out)?;
                if request.transit && security.is_evaded() {
                    return Err(Reason::AuthenticationRequired);
                }
                Ok(Self::Security(established, security))
            }
            Self::Operational(mut established, mut operational) => {
                if !operational.declared {
                    operational.declared = true;
                    established.declare(cx.limits, out);
                }
                let mut reader = Reader {
                    cx,
                    request,
                    exchange,
                    position,
                };
                reader.read(&pairs, &mut established, None, out)?;
                if request.transit {
                    if let Some(key) = established.negotiation.unanswered() {
                        return Err(Reason::OfferIgnored(key));
                    }
                    let Established {
                        parties,
                        negotiation,
                    } = &mut *established;
                    negotiation.offer(parties.ours(cx.limits), out);
                }
                Ok(Self::Operational(established, operational))
            }
            // Neither is handed a sequence: Start has become one of the above, Done has ended.
            state @ (Self::Start | Self::Done(_)) => Ok(state),
        }
    }

    /// The initiator asks for the transition to the next stage: whether it is made, and the state
    /// after it.
    pub(super) fn leave(
        self,
        cx: &Context<'_>,
        request: &LoginRequest,
    ) -> Result<(bool, Self), Reason> {
        match self {
            Self::Security(established, security) => match security.proof() {
                None => Ok((false, Self::Security(established, security))),
                Some(proof) if request.nsg == Stage::FullFeaturePhase => {
                    // Nothing can be negotiated any more, so a required digest cannot come to be.
                    let missing = established
                        .negotiation
                        .missing_digest(established.parties.ours(cx.limits));
                    if let Some(key) = missing {
                        return Err(Reason::DigestRequired(key));
                    }
                    Ok((true, Self::Done(established.conclude(cx, request, proof))))
                }
                Some(proof) => {
                    let operational = Operational {
                        proof,
                        declared: false,
                    };
                    Ok((true, Self::Operational(established, operational)))
                }
            },
            Self::Operational(established, operational) => {
                if established
                    .negotiation
                    .is_complete(established.parties.ours(cx.limits))
                {
                    let negotiated = established.conclude(cx, request, operational.proof);
                    Ok((true, Self::Done(negotiated)))
                } else {
                    Ok((false, Self::Operational(established, operational)))
                }
            }
            state @ (Self::Start | Self::Done(_)) => Ok((false, state)),
        }
    }
}

impl Established {
    /// What we state of ourselves once authentication lies behind us.
    fn declare(&mut self, limits: &Limits, out: &mut TextWriter) {
        if let Some(alias) = self
            .parties
            .target
            .as_ref()
            .and_then(|target| target.alias.as_ref())
        {
            out.push(Key::TargetAlias.name(), alias);
        }
        self.negotiation.declare(limits, out);
    }

    fn conclude(self, cx: &Context<'_>, request: &LoginRequest, proof: Proof) -> Box<Negotiated> {
        let Self {
            parties,
            negotiation,
        } = self;
        Box::new(Negotiated {
            session_type: parties.session_type,
            initiator_name: parties.initiator,
            initiator_alias: parties.initiator_alias,
            node_architecture: parties.node_architecture,
            target: parties.target,
            portal_group_tag: cx.portal_group_tag,
            isid: request.isid,
            tsih: request.tsih,
            cid: request.cid,
            cmd_sn: request.cmd_sn,
            // Known when the response has taken its number.
            next_stat_sn: StatSn::default(),
            authenticated: proof.initiator,
            mutually_authenticated: proof.target,
            parameters: negotiation.parameters(),
        })
    }
}

/// Whether a sequence is the first of its login.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    First,
    Later,
}

/// Sorts the pairs of a sequence to those who take them.
struct Reader<'a> {
    cx: &'a Context<'a>,
    request: &'a LoginRequest,
    exchange: &'a mut Exchange,
    position: Position,
}

impl Reader<'_> {
    fn read<'p>(
        &mut self,
        pairs: &[(&'p str, &'p str)],
        established: &mut Established,
        mut security: Option<&mut SecurityKeys<'p>>,
        out: &mut TextWriter,
    ) -> Result<(), Reason> {
        let Established {
            parties,
            negotiation,
        } = established;
        let mut first_burst = None;
        for (name, value) in pairs.iter().copied() {
            let Some(key) = Key::from_name(name) else {
                // RFC 7143 §6.2: whoever does not know a key says so.
                out.push(name, "NotUnderstood");
                continue;
            };
            if self.is_repeated(key, value, parties) {
                continue;
            }
            self.check(key)?;
            match key {
                Key::InitiatorAlias | Key::NodeArchitecture if value.len() > ALIAS_MAX_BYTES => {
                    return Err(Reason::BadValue(key));
                }
                Key::InitiatorAlias => parties.initiator_alias = Some(value.to_owned()),
                // RFC 7143 §13.26: for the operator's eyes.
                Key::NodeArchitecture => parties.node_architecture = Some(value.to_owned()),
                // Its answer depends on what else the sequence says (§13.14).
                Key::FirstBurstLength => first_burst = Some(value),
                _ if key.row().use_ == Use::SecurityStage => {
                    if let Some(keys) = security.as_deref_mut() {
                        keys.note(key, value);
                    }
                }
                _ => negotiation.receive(key, value, parties.ours(self.cx.limits), out)?,
            }
        }
        if let Some(value) = first_burst {
            negotiation.receive(
                Key::FirstBurstLength,
                value,
                parties.ours(self.cx.limits),
                out,
            )?;
        }
        Ok(())
    }

    /// RFC 7143 §6.2 has a key declared once, but libiscsi says who it is again in the operational
    /// stage. Saying the same again changes nothing and is passed over; anything else is an error.
    fn is_repeated(&self, key: Key, value: &str, parties: &Parties) -> bool {
        match key.row().use_ {
            Use::First => self.position == Position::Later && parties.repeats(key, value),
            Use::Any => self.exchange.seen.contains(key) && parties.repeats(key, value),
            Use::SecurityStage | Use::Operational | Use::Leading | Use::FullFeature => false,
        }
    }

    /// RFC 7143 §6.2 and the "Use" and "Senders" of §13: whether the initiator may send this key
    /// here and now.
    fn check(&mut self, key: Key) -> Result<(), Reason> {
        let row = key.row();
        if !row.initiator_sends {
            return Err(Reason::TargetsKey(key));
        }
        if !self.exchange.seen.insert(key) {
            return Err(Reason::DuplicateKey(key));
        }
        let operational = self.request.csg == Stage::LoginOperationalNegotiation;
        let fits = match row.use_ {
            Use::First => self.position == Position::First,
            Use::SecurityStage => self.request.csg == Stage::SecurityNegotiation,
            Use::Operational => operational,
            Use::Leading if operational && self.request.tsih != Tsih::NEW_SESSION => {
                return Err(Reason::NotLeading(key));
            }
            Use::Leading => operational,
            Use::Any => true,
            Use::FullFeature => false,
        };
        if fits {
            Ok(())
        } else {
            Err(Reason::WrongStage(key))
        }
    }
}
