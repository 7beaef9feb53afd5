//! Who logs in to what: the keys of the first sequence of a login (RFC 7143 §6.3, §13.4, §13.5,
//! §13.21), and whether they may.

use std::sync::Arc;

use super::exchange::Exchange;
use super::negotiation::Ours;
use super::reason::Reason;
use super::{Admission, Context, Limits, Offered};
use crate::iscsi::acl::AclDenial;
use crate::iscsi::auth::AuthPolicy;
use crate::iscsi::keys::Key;
use crate::iscsi::names::IscsiName;
use crate::iscsi::negotiated::SessionType;
use crate::iscsi::node::{Availability, TargetNode};

/// Both ends of the session to be.
#[derive(Debug)]
pub(super) struct Parties {
    pub(super) session_type: SessionType,
    pub(super) initiator: IscsiName,
    pub(super) initiator_alias: Option<String>,
    pub(super) node_architecture: Option<String>,
    /// Present exactly in a normal session.
    pub(super) target: Option<Arc<TargetNode>>,
    pub(super) auth: Arc<AuthPolicy>,
}

impl Parties {
    /// Reads who the initiator is and what it wants, and decides whether it may try.
    pub(super) fn identify(
        cx: &Context<'_>,
        exchange: &mut Exchange,
        pairs: &[(&str, &str)],
    ) -> Result<Self, Reason> {
        let value = |key: Key| {
            pairs
                .iter()
                .find(|(name, _)| *name == key.name())
                .map(|(_, value)| *value)
        };
        let (initiator, target) = (value(Key::InitiatorName), value(Key::TargetName));
        exchange.initiator = initiator.map(Offered::new);
        exchange.target = target.map(Offered::new);

        // RFC 7143 §13.21: Normal unless it says otherwise.
        let session_type = match value(Key::SessionType) {
            None | Some("Normal") => SessionType::Normal,
            Some("Discovery") => SessionType::Discovery,
            Some(_) => return Err(Reason::UnknownSessionType),
        };
        // §13.5: each connection's login begins with the initiator's name.
        let initiator =
            parse_name(Key::InitiatorName, initiator)?.ok_or(Reason::NoInitiatorName)?;
        let target = parse_name(Key::TargetName, target)?;
        match cx.admission {
            Admission::Open => {}
            Admission::ShuttingDown => return Err(Reason::ShuttingDown),
            Admission::OutOfResources => return Err(Reason::OutOfResources),
        }
        let target = match session_type {
            SessionType::Discovery => None,
            // §13.4: a normal session's login names its target.
            SessionType::Normal => {
                let name = target.ok_or(Reason::NoTargetName)?;
                Some(find_target(cx, &initiator, &name)?)
            }
        };
        let auth = target
            .as_ref()
            .map_or_else(|| cx.nodes.discovery(), |target| &target.auth);
        let auth = Arc::clone(auth);
        Ok(Self {
            session_type,
            initiator,
            initiator_alias: None,
            node_architecture: None,
            target,
            auth,
        })
    }

    /// What this side wants of the operational parameters.
    pub(super) fn ours<'a>(&'a self, limits: &'a Limits) -> Ours<'a> {
        Ours {
            limits,
            target: self.target.as_deref(),
            session_type: self.session_type,
        }
    }

    /// Whether `key=value` says what the first sequence has said already.
    pub(super) fn repeats(&self, key: Key, value: &str) -> bool {
        let names = |name: &IscsiName| IscsiName::parse(value).is_ok_and(|same| same == *name);
        match key {
            Key::InitiatorName => names(&self.initiator),
            // A discovery session takes no notice of a target.
            Key::TargetName => self
                .target
                .as_ref()
                .is_none_or(|target| names(&target.name)),
            Key::SessionType => match self.session_type {
                SessionType::Normal => value == "Normal",
                SessionType::Discovery => value == "Discovery",
            },
            Key::InitiatorAlias => self.initiator_alias.as_deref() == Some(value),
            _ => false,
        }
    }
}

fn parse_name(key: Key, text: Option<&str>) -> Result<Option<IscsiName>, Reason> {
    text.map(IscsiName::parse)
        .transpose()
        .map_err(|error| Reason::BadName(key, error))
}

/// RFC 7143 §11.13.5: each way in which a target is not to be had has its own status.
fn find_target(
    cx: &Context<'_>,
    initiator: &IscsiName,
    name: &IscsiName,
) -> Result<Arc<TargetNode>, Reason> {
    let target = cx.nodes.target(name).ok_or(Reason::TargetNotFound)?;
    if target.availability == Availability::Removed {
        return Err(Reason::TargetRemoved);
    }
    if !target.is_behind(cx.portal_group_tag) {
        return Err(Reason::TargetNotOnPortal);
    }
    target
        .admits(initiator, cx.peer.ip())
        .map_err(|denial| match denial {
            AclDenial::Initiator => Reason::InitiatorDenied,
            AclDenial::Address => Reason::AddressDenied,
        })?;
    // Before anything is proved: the place that the initiator is sent to asks for that itself.
    if let Some(redirect) = target.redirect_at(cx.portal_group_tag) {
        return Err(Reason::TargetMoved {
            to: redirect.to,
            permanent: redirect.permanent,
        });
    }
    if target.availability == Availability::Unavailable {
        return Err(Reason::TargetUnavailable);
    }
    Ok(Arc::clone(target))
}
