//! The record of a refused login: who came from where, what was offered, what is configured, and
//! the line of the configuration that would mend it.
//!
//! It holds no secret and no key of CHAP. What a peer wrote is escaped and cut to
//! [`OFFERED_MAX_CHARS`] before it is kept.

use std::fmt;
use std::net::SocketAddr;

use super::Context;
use super::reason::Reason;
use crate::iscsi::keys::Key;
use crate::iscsi::names::{IscsiName, NAME_MAX_BYTES, nearest};
use crate::pdu::LoginStatus;

/// Longest piece of a peer's text that is kept.
pub const OFFERED_MAX_CHARS: usize = NAME_MAX_BYTES;

/// Why one login was refused. Its `Display` is the line for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub reason: Reason,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub portal_group_tag: u16,
    /// InitiatorName as it was offered.
    pub initiator: Option<Offered>,
    /// TargetName as it was offered.
    pub target: Option<Offered>,
    /// The configured target whose name is most like the offered one, if that is not configured.
    pub nearest: Option<IscsiName>,
}

/// Text of a peer, safe to print: no control characters, bounded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offered(String);

impl Offered {
    /// Escapes and cuts `text`.
    pub fn new(text: &str) -> Self {
        let mut kept: String = text
            .chars()
            .flat_map(char::escape_default)
            .take(OFFERED_MAX_CHARS + 1)
            .collect();
        if kept.len() > OFFERED_MAX_CHARS {
            kept.truncate(OFFERED_MAX_CHARS);
            kept.push('…');
        }
        Self(kept)
    }

    /// The escaped text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Refusal {
    /// A record of `reason`, with the nearest name if a name was not found.
    pub(super) fn new(
        cx: &Context<'_>,
        reason: Reason,
        initiator: Option<Offered>,
        target: Option<Offered>,
    ) -> Self {
        let (peer, local, portal_group_tag) = (cx.peer, cx.local, cx.portal_group_tag);
        let nearest = match (reason, &target) {
            (Reason::TargetNotFound, Some(target)) => {
                let names = cx.nodes.targets().iter().map(|target| &target.name);
                nearest(target.as_str(), names).cloned()
            }
            _ => None,
        };
        Self {
            reason,
            peer,
            local,
            portal_group_tag,
            initiator,
            target,
            nearest,
        }
    }

    /// The status that the initiator was told.
    pub fn status(&self) -> LoginStatus {
        self.reason.status()
    }

    /// What an operator would change so that this login succeeds, where that is ours to say.
    pub fn remedy(&self) -> Option<String> {
        let target = || self.target.as_ref().map_or("?", Offered::as_str);
        let initiator = || self.initiator.as_ref().map_or("?", Offered::as_str);
        let auth = if self.target.is_some() {
            "[target.auth]"
        } else {
            "[discovery.auth]"
        };
        match self.reason {
            Reason::TargetNotFound => Some(match &self.nearest {
                Some(name) => format!("use the target name {name} on the initiator"),
                None => format!("add [[target]] name = \"{}\"", target()),
            }),
            Reason::TargetNotOnPortal => Some(format!(
                "add {} to portal_groups of [[target]] name = \"{}\"",
                self.portal_group_tag,
                target()
            )),
            Reason::InitiatorDenied => Some(format!(
                "add \"{}\" to initiators of [[target]] name = \"{}\"",
                initiator(),
                target()
            )),
            Reason::AddressDenied => Some(format!(
                "add \"{}\" to addresses of [[target]] name = \"{}\"",
                self.peer.ip().to_canonical(),
                target()
            )),
            Reason::AuthenticationRequired | Reason::ChapNotOffered | Reason::ChapFailed => Some(
                format!("set the user and secret of {auth} on the initiator"),
            ),
            Reason::NoneNotOffered => Some(format!(
                "set method = \"chap\" in {auth}, or take CHAP off the initiator"
            )),
            Reason::NoChapAlgorithm => Some(format!(
                "add an algorithm of the initiator to algorithms in {auth}"
            )),
            Reason::NoMutualSecret => Some(format!("set mutual_user and mutual_secret in {auth}")),
            Reason::DigestRequired(Key::HeaderDigest) => {
                Some("set header_digest = \"optional\", or switch it on at the initiator".into())
            }
            Reason::DigestRequired(_) => {
                Some("set data_digest = \"optional\", or switch it on at the initiator".into())
            }
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoginStatus { class, detail } = self.status();
        write!(
            f,
            "login refused ({class:02x}{detail:02x}): {}",
            self.reason
        )?;
        write!(f, "; from {} to {}", self.peer, self.local)?;
        write!(f, ", portal group {}", self.portal_group_tag)?;
        if let Some(initiator) = &self.initiator {
            write!(f, "; initiator {}", initiator.as_str())?;
        }
        if let Some(target) = &self.target {
            write!(f, "; target {}", target.as_str())?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "; the nearest configured name is {nearest}")?;
        }
        if let Some(remedy) = self.remedy() {
            write!(f, "; to mend it: {remedy}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_wrote_is_escaped_and_cut() {
        assert_eq!(Offered::new("iqn.2000-01.x:a").as_str(), "iqn.2000-01.x:a");
        assert_eq!(
            Offered::new("a\n\u{1b}[31m\"").as_str(),
            "a\\n\\u{1b}[31m\\\""
        );
        let cut = Offered::new(&"\u{202e}".repeat(5000));
        assert_eq!(cut.as_str().chars().count(), OFFERED_MAX_CHARS + 1);
        assert!(cut.as_str().is_ascii() || cut.as_str().ends_with('…'));
    }
}
