//! SendTargets (RFC 7143 §4.4.3, §13.3, Appendix C): which targets and addresses an initiator is
//! told.
//!
//! It is told of a target only if it may log in to it, and of the portals of that target's own
//! groups. A portal that listens on every address is named by the address that the initiator has
//! reached us by, if that is of its family. Portals on loopback addresses are named only over
//! loopback: anywhere else they would be the initiator's own machine.

use std::net::{IpAddr, SocketAddr};

use super::keys::Key;
use super::names::IscsiName;
use super::negotiated::SessionType;
use super::node::{Nodes, TargetNode, Viewer};
use super::text::TextWriter;

/// Most bytes of one answer. Past it whole targets are left out, and [`Listing::Cut`] says so.
pub const SEND_TARGETS_MAX_BYTES: usize = 1024 * 1024;

/// What came of one SendTargets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listing {
    /// Everything that matches was written, nothing perhaps.
    Whole,
    /// There was more than [`SEND_TARGETS_MAX_BYTES`].
    Cut,
    /// The value is not one that this type of session may ask for; `Reject` was written.
    Rejected,
}

/// Writes the answer to `SendTargets=value` (RFC 7143 Appendix C).
///
/// `All` is for discovery sessions only, and the empty value, which means the target of the
/// session, for normal sessions only. A name means that target: any in a discovery session, its own
/// in a normal session. A name that the initiator may not know of is answered like one that does
/// not exist: with nothing.
pub fn send_targets(
    nodes: &Nodes,
    viewer: Viewer<'_>,
    session_type: SessionType,
    own: Option<&TargetNode>,
    value: &str,
    out: &mut TextWriter,
) -> Listing {
    let own = own.map(|target| &target.name);
    match (session_type, value) {
        (SessionType::Discovery, "All") => list_where(nodes, viewer, out, |_| true),
        (SessionType::Normal, "") => list_where(nodes, viewer, out, |name| Some(name) == own),
        (SessionType::Normal, "All") | (SessionType::Discovery, "") => reject(out),
        (session_type, name) => match IscsiName::parse(name) {
            Err(_) => reject(out),
            Ok(wanted) => list_where(nodes, viewer, out, |name| {
                *name == wanted && (session_type == SessionType::Discovery || Some(name) == own)
            }),
        },
    }
}

fn reject(out: &mut TextWriter) -> Listing {
    out.push(Key::SendTargets.name(), "Reject");
    Listing::Rejected
}

fn list_where(
    nodes: &Nodes,
    viewer: Viewer<'_>,
    out: &mut TextWriter,
    wanted: impl Fn(&IscsiName) -> bool,
) -> Listing {
    for target in nodes
        .visible_to(viewer)
        .filter(|target| wanted(&target.name))
    {
        let mut record = TextWriter::default();
        record.push(Key::TargetName.name(), &target.name);
        let named = record.len();
        for (address, tag) in addresses(nodes, target, viewer.local) {
            record.push(
                Key::TargetAddress.name(),
                format_args!("{},{tag}", Shown(address)),
            );
        }
        // A target without an address would be looked for at ours.
        if record.len() == named {
            continue;
        }
        if out.len() + record.len() > SEND_TARGETS_MAX_BYTES {
            return Listing::Cut;
        }
        out.append(record);
    }
    Listing::Whole
}

/// The portals of a target with their tags, as an initiator that reached us at `local` can use
/// them.
fn addresses<'a>(
    nodes: &'a Nodes,
    target: &'a TargetNode,
    local: SocketAddr,
) -> impl Iterator<Item = (SocketAddr, u16)> + 'a {
    let reached = local.ip().to_canonical();
    let groups = target
        .portal_groups
        .iter()
        .filter_map(|tag| nodes.portal_group(*tag));
    groups.flat_map(move |group| {
        let usable = move |portal: &SocketAddr| usable(portal.ip().to_canonical(), reached);
        group.portals.iter().filter_map(move |portal| {
            usable(portal).map(|ip| (SocketAddr::new(ip, portal.port()), group.tag))
        })
    })
}

fn usable(portal: IpAddr, reached: IpAddr) -> Option<IpAddr> {
    if portal.is_unspecified() {
        // A socket on `::` takes IPv4 as well.
        (portal.is_ipv6() || reached.is_ipv4()).then_some(reached)
    } else {
        (!portal.is_loopback() || reached.is_loopback()).then_some(portal)
    }
}

/// RFC 7143 §13.8: IPv6 addresses in brackets, and no zone, which means nothing elsewhere.
struct Shown(SocketAddr);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.ip() {
            IpAddr::V4(ip) => write!(f, "{ip}:{}", self.0.port()),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{}", self.0.port()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::iscsi::acl::Acl;
    use crate::iscsi::login::fixture::{name, target};
    use crate::iscsi::names::NamePattern;
    use crate::iscsi::node::PortalGroup;

    fn group(tag: u16, portals: &[&str]) -> PortalGroup {
        PortalGroup {
            tag,
            portals: portals.iter().map(|p| p.parse().unwrap()).collect(),
        }
    }

    fn nodes() -> Nodes {
        let mut a = target("iqn.2026-11.io.x:a");
        a.portal_groups = vec![1, 2];
        let mut b = target("iqn.2026-11.io.x:b");
        b.portal_groups = vec![2];
        let mut hidden = target("iqn.2026-11.io.x:hidden");
        hidden.acl = Acl::new(vec![NamePattern::new("*:other").unwrap()], vec![]);
        let mut nowhere = target("iqn.2026-11.io.x:nowhere");
        nowhere.portal_groups = vec![9];
        let groups = vec![
            group(1, &["10.0.0.1:3260", "[fd00::1]:3260", "127.0.0.1:3260"]),
            group(2, &["0.0.0.0:3261", "[::]:3262"]),
        ];
        let targets = [a, b, hidden, nowhere].map(Arc::new).to_vec();
        Nodes::new(targets, groups, Arc::default())
    }

    fn ask(
        session_type: SessionType,
        own: Option<&str>,
        value: &str,
        local: &str,
    ) -> (Listing, String) {
        let nodes = nodes();
        let initiator = name("iqn.1993-08.org.debian:01:a");
        let viewer = Viewer {
            initiator: &initiator,
            peer: "10.9.9.9:40000".parse().unwrap(),
            local: local.parse().unwrap(),
        };
        let own = own.map(|own| nodes.target(&name(own)).unwrap().as_ref());
        let mut out = TextWriter::default();
        let listing = send_targets(&nodes, viewer, session_type, own, value, &mut out);
        (
            listing,
            String::from_utf8(out.finish()).unwrap().replace('\0', "\n"),
        )
    }

    // RFC 7143 Appendix C.
    #[test]
    fn all_lists_what_the_initiator_may_log_in_to_with_its_own_portals() {
        let (listing, text) = ask(SessionType::Discovery, None, "All", "10.0.0.1:3260");
        assert_eq!(listing, Listing::Whole);
        assert_eq!(
            text,
            "TargetName=iqn.2026-11.io.x:a\nTargetAddress=10.0.0.1:3260,1\n\
             TargetAddress=[fd00::1]:3260,1\nTargetAddress=10.0.0.1:3261,2\n\
             TargetAddress=10.0.0.1:3262,2\nTargetName=iqn.2026-11.io.x:b\n\
             TargetAddress=10.0.0.1:3261,2\nTargetAddress=10.0.0.1:3262,2\n"
        );
    }

    #[test]
    fn a_portal_on_every_address_is_named_by_the_one_that_was_reached() {
        let b = "iqn.2026-11.io.x:b";
        let (_, text) = ask(SessionType::Discovery, None, b, "[fd00::7]:3262");
        assert_eq!(
            text,
            format!("TargetName={b}\nTargetAddress=[fd00::7]:3262,2\n")
        );
        let (_, mapped) = ask(SessionType::Discovery, None, b, "[::ffff:10.0.0.1]:3262");
        let v4 = "TargetAddress=10.0.0.1:3261,2\nTargetAddress=10.0.0.1:3262,2\n";
        assert_eq!(mapped, format!("TargetName={b}\n{v4}"));
    }

    #[test]
    fn loopback_portals_are_named_over_loopback() {
        let (_, text) = ask(
            SessionType::Discovery,
            None,
            "iqn.2026-11.io.x:a",
            "127.0.0.1:3260",
        );
        assert!(text.contains("TargetAddress=127.0.0.1:3260,1\n"), "{text}");
    }

    // RFC 7143 Appendix C: which value each type of session may ask for.
    #[test]
    fn each_type_of_session_has_its_own_values() {
        use Listing::{Rejected, Whole};
        use SessionType::{Discovery, Normal};
        let (a, b) = ("iqn.2026-11.io.x:a", "iqn.2026-11.io.x:b");
        for (session_type, own, value, listing, lists) in [
            (Discovery, None, "All", Whole, vec![a, b]),
            (Discovery, None, a, Whole, vec![a]),
            (Discovery, None, "iqn.2026-11.io.x:hidden", Whole, vec![]),
            (Discovery, None, "iqn.2026-11.io.x:none", Whole, vec![]),
            (Discovery, None, "iqn.2026-11.io.x:nowhere", Whole, vec![]),
            (Discovery, None, "", Rejected, vec![]),
            (Discovery, None, "all", Rejected, vec![]),
            (Normal, Some(a), "", Whole, vec![a]),
            (Normal, Some(a), a, Whole, vec![a]),
            (Normal, Some(a), b, Whole, vec![]),
            (Normal, Some(a), "All", Rejected, vec![]),
        ] {
            let (got, text) = ask(session_type, own, value, "10.0.0.1:3260");
            assert_eq!(got, listing, "{session_type:?} {value}");
            let names: Vec<_> = text
                .lines()
                .filter_map(|line| line.strip_prefix("TargetName="))
                .collect();
            assert_eq!(names, lists, "{session_type:?} {value}");
            assert_eq!(text == "SendTargets=Reject\n", listing == Rejected);
        }
    }

    #[test]
    fn a_listing_is_cut_at_a_whole_target() {
        let long = |i: usize| target(&format!("iqn.2026-11.io.x:{i:0>180}"));
        let mut targets: Vec<_> = (0..4000).map(long).map(Arc::new).collect();
        let groups = vec![group(1, &["10.0.0.1:3260", "10.0.0.2:3260"])];
        let initiator = name("iqn.1993-08.org.debian:01:a");
        let viewer = Viewer {
            initiator: &initiator,
            peer: "10.9.9.9:40000".parse().unwrap(),
            local: "10.0.0.1:3260".parse().unwrap(),
        };
        let listed = |targets: Vec<Arc<TargetNode>>| {
            let nodes = Nodes::new(targets, groups.clone(), Arc::default());
            let mut out = TextWriter::default();
            let listing = send_targets(
                &nodes,
                viewer,
                SessionType::Discovery,
                None,
                "All",
                &mut out,
            );
            (listing, out.finish())
        };
        let (listing, text) = listed(targets.clone());
        assert_eq!(listing, Listing::Cut);
        assert!(text.len() <= SEND_TARGETS_MAX_BYTES);
        assert!(text.ends_with(b"TargetAddress=10.0.0.2:3260,1\0"));
        targets.truncate(3000);
        assert_eq!(listed(targets).0, Listing::Whole);
    }
}
