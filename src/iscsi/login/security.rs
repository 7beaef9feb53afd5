//! The security negotiation stage: AuthMethod, then the steps of CHAP (RFC 7143 §6.3.2, §12).
//!
//! ```text
//!  Begin ──AuthMethod=None────────────────────────────────────────────────────────► Done
//!    └────AuthMethod=CHAP──► Chosen ──CHAP_A──► Challenged ──CHAP_N, CHAP_R (, I, C)──► Done
//! ```
//!
//! Each step owns only what it may know and is consumed by the next; a step that fails ends the
//! login.

use std::sync::Arc;

use super::Random;
use super::chap::{self, Challenge};
use super::reason::Reason;
use crate::iscsi::auth::{AuthPolicy, ChapPolicy};
use crate::iscsi::binary;
use crate::iscsi::keys::Key;
use crate::iscsi::text::{TextWriter, list};

/// Who has proved who it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Proof {
    pub(super) initiator: bool,
    pub(super) target: bool,
}

/// Where the negotiation stands.
#[derive(Debug)]
pub(super) struct Security {
    policy: Arc<AuthPolicy>,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Begin,
    Chosen,
    Challenged(Challenge),
    Done(Proof),
}

/// The security keys of one sequence.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct SecurityKeys<'a> {
    auth_method: Option<&'a str>,
    a: Option<&'a str>,
    i: Option<&'a str>,
    c: Option<&'a str>,
    n: Option<&'a str>,
    r: Option<&'a str>,
}

impl<'a> SecurityKeys<'a> {
    /// Notes the value of a key; others than those of [`crate::iscsi::keys::Kind::Security`] are
    /// none of its business.
    pub(super) fn note(&mut self, key: Key, value: &'a str) {
        let place = match key {
            Key::AuthMethod => &mut self.auth_method,
            Key::ChapA => &mut self.a,
            Key::ChapI => &mut self.i,
            Key::ChapC => &mut self.c,
            Key::ChapN => &mut self.n,
            Key::ChapR => &mut self.r,
            _ => return,
        };
        *place = Some(value);
    }

    /// A key that belongs to a later step than the choice of an algorithm.
    fn response_key(&self) -> Option<Key> {
        [
            (Key::ChapI, self.i),
            (Key::ChapC, self.c),
            (Key::ChapN, self.n),
            (Key::ChapR, self.r),
        ]
        .into_iter()
        .find_map(|(key, value)| value.map(|_| key))
    }

    fn chap_key(&self) -> Option<Key> {
        self.a.map(|_| Key::ChapA).or_else(|| self.response_key())
    }
}

impl Security {
    pub(super) fn new(policy: Arc<AuthPolicy>) -> Self {
        Self {
            policy,
            step: Step::Begin,
        }
    }

    /// Takes the keys of a whole sequence, and writes our part.
    pub(super) fn receive(
        self,
        keys: &SecurityKeys<'_>,
        random: Random<'_>,
        out: &mut TextWriter,
    ) -> Result<Self, Reason> {
        let Self { policy, step } = self;
        let step = match step {
            Step::Begin => begin(&policy, keys, random, out)?,
            Step::Chosen => chosen(chap_policy(&policy)?, keys, random, out)?,
            Step::Challenged(challenge) => challenged(chap_policy(&policy)?, challenge, keys, out)?,
            Step::Done(proof) => match keys.chap_key() {
                Some(key) => return Err(Reason::ChapOrder(key)),
                None => Step::Done(proof),
            },
        };
        Ok(Self { policy, step })
    }

    /// Who has proved what, once all was proved that must be. RFC 7143 §6.3.2: an initiator may
    /// leave the stage without a word of AuthMethod only where nothing is to be proved.
    pub(super) fn proof(&self) -> Option<Proof> {
        match (&self.step, &*self.policy) {
            (Step::Done(proof), _) => Some(*proof),
            (Step::Begin, AuthPolicy::None) => Some(Proof::default()),
            _ => None,
        }
    }

    /// The initiator wants to leave the stage without having begun to authenticate itself.
    pub(super) fn is_evaded(&self) -> bool {
        matches!(
            (&self.step, &*self.policy),
            (Step::Begin, AuthPolicy::Chap(_))
        )
    }
}

fn chap_policy(policy: &AuthPolicy) -> Result<&ChapPolicy, Reason> {
    match policy {
        AuthPolicy::Chap(policy) => Ok(policy),
        AuthPolicy::None => Err(Reason::ChapOrder(Key::AuthMethod)),
    }
}

/// RFC 7143 §12: the initiator offers methods, we take the one that the policy wants.
fn begin(
    policy: &AuthPolicy,
    keys: &SecurityKeys<'_>,
    random: Random<'_>,
    out: &mut TextWriter,
) -> Result<Step, Reason> {
    let Some(methods) = keys.auth_method else {
        return match keys.chap_key() {
            Some(_) => Err(Reason::ChapOrder(Key::AuthMethod)),
            None => Ok(Step::Begin),
        };
    };
    let offers = |method| list(methods).any(|offered| offered == method);
    match policy {
        AuthPolicy::None if !offers("None") => Err(Reason::NoneNotOffered),
        AuthPolicy::None => {
            if let Some(key) = keys.chap_key() {
                return Err(Reason::ChapOrder(key));
            }
            out.push(Key::AuthMethod.name(), "None");
            Ok(Step::Done(Proof::default()))
        }
        AuthPolicy::Chap(_) if !offers("CHAP") => Err(Reason::ChapNotOffered),
        AuthPolicy::Chap(policy) => {
            out.push(Key::AuthMethod.name(), "CHAP");
            chosen(policy, keys, random, out)
        }
    }
}

/// RFC 7143 §12.1.3: the initiator lists its algorithms, we take one and ask.
fn chosen(
    policy: &ChapPolicy,
    keys: &SecurityKeys<'_>,
    random: Random<'_>,
    out: &mut TextWriter,
) -> Result<Step, Reason> {
    if let Some(key) = keys.response_key() {
        return Err(Reason::ChapOrder(key));
    }
    let Some(offered) = keys.a else {
        return Ok(Step::Chosen);
    };
    let algorithm = chap::choose(policy, offered).ok_or(Reason::NoChapAlgorithm)?;
    let challenge = Challenge::new(algorithm, random);
    out.push(Key::ChapA.name(), algorithm.number());
    out.push(Key::ChapI.name(), challenge.identifier);
    out.push(Key::ChapC.name(), binary::encode(&challenge.challenge));
    Ok(Step::Challenged(challenge))
}

/// RFC 7143 §12.1.3: the initiator answers, and may ask us in turn. We answer only one that has
/// proved itself.
fn challenged(
    policy: &ChapPolicy,
    challenge: Challenge,
    keys: &SecurityKeys<'_>,
    out: &mut TextWriter,
) -> Result<Step, Reason> {
    let (name, response) = match (keys.n, keys.r) {
        (Some(name), Some(response)) => (name, response),
        (None, Some(_)) => return Err(Reason::ChapOrder(Key::ChapN)),
        (Some(_), None) => return Err(Reason::ChapOrder(Key::ChapR)),
        (None, None) => match keys.chap_key() {
            Some(key) => return Err(Reason::ChapOrder(key)),
            None => return Ok(Step::Challenged(challenge)),
        },
    };
    let counter = match (keys.i, keys.c) {
        (Some(identifier), Some(theirs)) => Some(challenge.counter(identifier, theirs)?),
        (None, None) => None,
        (None, Some(_)) => return Err(Reason::ChapOrder(Key::ChapI)),
        (Some(_), None) => return Err(Reason::ChapOrder(Key::ChapC)),
    };
    challenge.check(policy.initiator(), name, response)?;
    if let Some(counter) = &counter {
        let ours = policy.target().ok_or(Reason::NoMutualSecret)?;
        out.push(Key::ChapN.name(), &ours.user);
        out.push(
            Key::ChapR.name(),
            binary::encode(&challenge.answer(counter, ours)),
        );
    }
    Ok(Step::Done(Proof {
        initiator: true,
        target: counter.is_some(),
    }))
}
