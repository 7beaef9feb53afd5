//! The target side as login, discovery and sessions see it: targets, portal groups, access lists
//! and LUN maps (RFC 7143 §4.4).
//!
//! Built by the daemon from its configuration, then immutable and shared between cores by [`Arc`].
//! A change of the configuration makes a new [`Nodes`]; whoever holds a [`TargetNode`] keeps the
//! one that it was admitted to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::acl::{Acl, AclDenial, admits_name};
use super::auth::AuthPolicy;
use super::names::{IscsiName, NamePattern};

/// Everything that can be logged in to.
#[derive(Debug, Default)]
pub struct Nodes {
    /// Ordered by name, each name once.
    targets: Vec<Arc<TargetNode>>,
    portal_groups: Vec<PortalGroup>,
    discovery: Arc<AuthPolicy>,
}

/// One target node.
#[derive(Debug)]
pub struct TargetNode {
    pub name: IscsiName,
    /// TargetAlias, at most 255 bytes of UTF-8; the daemon checks it.
    pub alias: Option<String>,
    pub availability: Availability,
    /// Tags of the portal groups through which it can be reached.
    pub portal_groups: Vec<u16>,
    pub acl: Acl,
    pub auth: Arc<AuthPolicy>,
    pub header_digest: DigestPolicy,
    pub data_digest: DigestPolicy,
    /// Connections that one session may have: what MaxConnections is negotiated down to.
    pub max_connections: u16,
    pub luns: Vec<LunMapping>,
    pub redirect: Option<Redirect>,
}

/// Where a target sends its initiators instead (RFC 7143 §11.13.5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redirect {
    pub to: SocketAddr,
    pub permanent: bool,
    /// Tags of the portal groups at which it holds.
    pub portal_groups: Vec<u16>,
}

/// Whether a target takes logins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Availability {
    #[default]
    Available,
    /// Taken out of the configuration; initiators that know it are told so instead of "not found".
    Removed,
    /// Exists, but serves nobody at the moment.
    Unavailable,
}

/// What a target wants of HeaderDigest or DataDigest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DigestPolicy {
    /// Never CRC32C.
    Off,
    /// What the initiator prefers.
    #[default]
    Optional,
    /// CRC32C, or no session.
    Required,
}

/// Portals that serve one set of targets under one tag.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortalGroup {
    /// TargetPortalGroupTag.
    pub tag: u16,
    /// Addresses that the daemon listens on. An unspecified address stands for whichever address an
    /// initiator reached us by.
    pub portals: Vec<SocketAddr>,
}

/// A logical unit under a number of a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LunMapping {
    /// 0 to 16383: what fits the flat space method of addressing.
    pub lun: u16,
    /// Index into every core's table of units.
    pub unit: u16,
    pub read_only: bool,
    /// Initiators that see it; empty: all.
    pub initiators: Vec<NamePattern>,
    /// Commands of one I_T nexus in the task set at once, at least 1; `None`: no limit of its own.
    pub queue_depth: Option<u16>,
}

/// Who looks, from where, and through which door.
#[derive(Clone, Copy, Debug)]
pub struct Viewer<'a> {
    pub initiator: &'a IscsiName,
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

impl Nodes {
    /// Orders `targets` by name. Of two targets of one name the first stays; the configuration has
    /// refused such a pair before.
    pub fn new(
        mut targets: Vec<Arc<TargetNode>>,
        portal_groups: Vec<PortalGroup>,
        discovery: Arc<AuthPolicy>,
    ) -> Self {
        targets.sort_by(|a, b| a.name.cmp(&b.name));
        targets.dedup_by(|later, first| later.name == first.name);
        Self {
            targets,
            portal_groups,
            discovery,
        }
    }

    /// All targets, ordered by name.
    pub fn targets(&self) -> &[Arc<TargetNode>] {
        &self.targets
    }

    /// All portal groups.
    pub fn portal_groups(&self) -> &[PortalGroup] {
        &self.portal_groups
    }

    /// What a discovery session must prove.
    pub fn discovery(&self) -> &Arc<AuthPolicy> {
        &self.discovery
    }

    /// The target of this name.
    pub fn target(&self, name: &IscsiName) -> Option<&Arc<TargetNode>> {
        let at = self
            .targets
            .binary_search_by(|target| target.name.cmp(name))
            .ok()?;
        self.targets.get(at)
    }

    /// The portal group of this tag.
    pub fn portal_group(&self, tag: u16) -> Option<&PortalGroup> {
        self.portal_groups.iter().find(|group| group.tag == tag)
    }

    /// The targets that this initiator may know of (RFC 7143 §4.4.3 leaves it to us whom we tell),
    /// ordered by name.
    pub fn visible_to<'a>(
        &'a self,
        viewer: Viewer<'a>,
    ) -> impl Iterator<Item = &'a Arc<TargetNode>> {
        self.targets.iter().filter(move |target| {
            target.availability != Availability::Removed
                && target.admits(viewer.initiator, viewer.peer.ip()).is_ok()
        })
    }
}

impl TargetNode {
    /// Whether this initiator may come from this address.
    pub fn admits(&self, initiator: &IscsiName, address: IpAddr) -> Result<(), AclDenial> {
        self.acl.check(initiator, address)
    }

    /// Whether it is reached through the portal group of this tag.
    pub fn is_behind(&self, portal_group: u16) -> bool {
        self.portal_groups.contains(&portal_group)
    }

    /// Where those who come through this portal group are sent, if they are.
    pub fn redirect_at(&self, portal_group: u16) -> Option<&Redirect> {
        let redirect = self.redirect.as_ref()?;
        redirect
            .portal_groups
            .contains(&portal_group)
            .then_some(redirect)
    }

    /// The LUNs that this initiator sees.
    pub fn luns_for<'a>(
        &'a self,
        initiator: &'a IscsiName,
    ) -> impl Iterator<Item = &'a LunMapping> {
        self.luns
            .iter()
            .filter(|mapping| admits_name(&mapping.initiators, initiator))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::login::fixture::{name, target};

    fn viewer(initiator: &IscsiName) -> Viewer<'_> {
        Viewer {
            initiator,
            peer: "10.0.0.9:40000".parse().unwrap(),
            local: "10.0.0.1:3260".parse().unwrap(),
        }
    }

    #[test]
    fn an_initiator_sees_only_targets_that_admit_it_and_are_not_removed() {
        let mut masked = target("iqn.2026-11.io.x:masked");
        masked.acl = Acl::new(vec![NamePattern::new("iqn.2000-01.y:*").unwrap()], vec![]);
        let mut elsewhere = target("iqn.2026-11.io.x:elsewhere");
        elsewhere.acl = Acl::new(vec![], vec!["192.0.2.0/24".parse().unwrap()]);
        let mut removed = target("iqn.2026-11.io.x:removed");
        removed.availability = Availability::Removed;
        let open = target("iqn.2026-11.io.x:open");
        let all = [masked, elsewhere, removed, open].map(Arc::new).to_vec();
        let nodes = Nodes::new(all, vec![], Arc::default());

        let initiator = name("iqn.1993-08.org.debian:01:a");
        let seen: Vec<_> = nodes
            .visible_to(viewer(&initiator))
            .map(|t| t.name.as_str())
            .collect();
        assert_eq!(seen, ["iqn.2026-11.io.x:open"]);
        assert!(nodes.target(&name("iqn.2026-11.io.x:masked")).is_some());
        assert!(nodes.target(&name("iqn.2026-11.io.x:none")).is_none());
    }

    #[test]
    fn a_mask_hides_a_lun_from_other_initiators() {
        let mut node = target("iqn.2026-11.io.x:t");
        let lun = |lun, initiators: &[&str]| LunMapping {
            lun,
            unit: lun,
            read_only: false,
            initiators: initiators
                .iter()
                .map(|p| NamePattern::new(p).unwrap())
                .collect(),
            queue_depth: None,
        };
        node.luns = vec![lun(0, &[]), lun(1, &["*:a"]), lun(2, &["*:b", "*:c"])];
        let seen = |text| {
            node.luns_for(&name(text))
                .map(|l| l.lun)
                .collect::<Vec<_>>()
        };
        assert_eq!(seen("iqn.2000-01.x:a"), [0, 1]);
        assert_eq!(seen("iqn.2000-01.x:c"), [0, 2]);
    }
}
