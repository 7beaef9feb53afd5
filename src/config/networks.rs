//! Reads the networks of a `[[port]]`: addresses, default gateways and routes, without a tag and
//! of each `[[port.vlan]]`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::model::{ADDRESSES_MAX, ROUTES_MAX, VLANS_MAX};
use super::reader::{At, Section};
use super::report::{Finding, Span};
use crate::net::stack::model::{Address, Network, Route};

/// Differentiated services code points have six bits (RFC 2474).
const DSCP_MAX: u64 = 63;
/// Priority code points have three bits (IEEE 802.1Q).
const PCP_MAX: u64 = 7;
/// 0 means "no VLAN" and 4095 is reserved (IEEE 802.1Q).
const VLAN_IDS: std::ops::RangeInclusive<u64> = 1..=4094;

const ADDRESSES_HELP: &str = "write the port's own address and the length of its network, as in \
                              \"10.0.0.2/24\" or \"fd00::2/64\"";

/// An address of ours that was read, and of which port.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) ip: IpAddr,
    /// Index of the port.
    pub(super) port: usize,
    pub(super) span: Span,
}

/// The networks of port number `port`. Addresses are added to `own`.
pub(super) fn read_networks(
    section: &mut Section<'_>,
    port: usize,
    own: &mut Vec<Own>,
) -> Vec<Network> {
    let dscp = read_dscp(section, 0);
    let mut networks = Vec::new();
    if let Some(network) = read_network(section, port, own) {
        networks.push(Network { dscp, ..network });
    } else if !section.has("addresses") && !section.has("vlan") {
        section.missing("addresses", ADDRESSES_HELP);
    }
    let vlans = section.tables("vlan", "[[port.vlan]]");
    if vlans.len() > VLANS_MAX {
        let message = format!("more than {VLANS_MAX} VLANs of one port");
        section.report(Finding::error(vlans[VLANS_MAX].span(), message));
    }
    let mut ids: Vec<At<u16>> = Vec::new();
    for mut vlan in vlans.into_iter().take(VLANS_MAX) {
        let id = read_vlan_id(&mut vlan, &mut ids);
        let pcp = vlan.integer("pcp", 0..=PCP_MAX, "");
        let dscp = read_dscp(&mut vlan, dscp);
        let network = read_network(&mut vlan, port, own);
        if network.is_none() && !vlan.has("addresses") {
            vlan.missing("addresses", ADDRESSES_HELP);
        }
        vlan.finish();
        networks.extend(network.map(|network| Network {
            vlan: id,
            pcp: pcp.map_or(0, |pcp| narrow(pcp.value)),
            dscp,
            ..network
        }));
    }
    networks
}

/// A number whose range was checked.
fn narrow(value: u64) -> u8 {
    u8::try_from(value).unwrap_or_default()
}

fn read_dscp(section: &mut Section<'_>, default: u8) -> u8 {
    let dscp = section.integer("dscp", 0..=DSCP_MAX, "");
    dscp.map_or(default, |dscp| narrow(dscp.value))
}

fn read_vlan_id(section: &mut Section<'_>, ids: &mut Vec<At<u16>>) -> Option<u16> {
    if !section.has("id") {
        section.missing("id", "number the VLAN, as in id = 100");
    }
    let id = section.integer("id", VLAN_IDS, "")?;
    let number = u16::try_from(id.value).ok()?;
    if let Some(first) = ids.iter().find(|other| other.value == number) {
        section.report(
            Finding::error(id.span, format!("VLAN {number} stands twice in this port"))
                .other(first.span.clone(), "the first one")
                .help("put all its addresses into one [[port.vlan]]"),
        );
        return None;
    }
    ids.push(At {
        value: number,
        span: id.span,
    });
    Some(number)
}

/// `addresses`, `gateway` and `routes` of one table; `None` when it has no good address.
fn read_network(section: &mut Section<'_>, port: usize, own: &mut Vec<Own>) -> Option<Network> {
    let addresses = read_addresses(section, port, own);
    let mut routes = Vec::new();
    let mut spans: Vec<At<IpNet>> = Vec::new();
    for gateway in section.text_or_texts("gateway") {
        let via = read_router(section, "gateway", &gateway, &addresses);
        let Some(via) = via else { continue };
        let to = if via.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        let to: IpNet = to.parse().expect("the text is a network");
        let to = At {
            value: to,
            span: gateway.span,
        };
        add_route(section, &mut routes, &mut spans, to, via);
    }
    let sections = section.tables("routes", "[[port.routes]]");
    for mut route in sections {
        let to = read_destination(&mut route);
        let help = "name the router, as in via = \"10.0.0.1\"";
        let via = route.required_text("via", help);
        let via = via.and_then(|via| read_router(&route, "via", &via, &addresses));
        route.finish();
        if let (Some(to), Some(via)) = (to, via) {
            if to.value.addr().is_ipv4() == via.is_ipv4() {
                add_route(section, &mut routes, &mut spans, to, via);
            } else {
                let message = format!("the way to {} cannot lead by {via}", to.value);
                let help = "name a router of the same IP version";
                section.report(Finding::error(to.span, message).help(help));
            }
        }
    }
    if let Some(extra) = spans.get(ROUTES_MAX) {
        let message = format!("more than {ROUTES_MAX} routes in one network");
        section.report(Finding::error(extra.span.clone(), message));
    }
    if addresses.is_empty() {
        return None;
    }
    Some(Network {
        vlan: None,
        pcp: 0,
        dscp: 0,
        addresses: addresses.into_iter().map(address_of).collect(),
        routes,
    })
}

fn address_of(net: IpNet) -> Address {
    Address {
        ip: net.addr(),
        prefix: net.prefix_len(),
    }
}

fn add_route(
    section: &Section<'_>,
    routes: &mut Vec<Route>,
    spans: &mut Vec<At<IpNet>>,
    to: At<IpNet>,
    via: IpAddr,
) {
    if let Some(first) = spans.iter().find(|other| other.value == to.value) {
        let what = match to.value.prefix_len() {
            0 => "two default gateways of one IP version".to_owned(),
            _ => format!("two routes to {}", to.value),
        };
        section.report(
            Finding::error(to.span, what)
                .other(first.span.clone(), "the first one")
                .help("keep one of them; a longer prefix wins over a shorter one"),
        );
        return;
    }
    routes.push(Route {
        to: address_of(to.value),
        via,
    });
    spans.push(to);
}

fn read_destination(route: &mut Section<'_>) -> Option<At<IpNet>> {
    let help = "name a network, as in to = \"10.1.0.0/16\" or \"fd01::/48\"";
    let to = route.required_text("to", help)?;
    match to.value.parse::<IpNet>() {
        Ok(net) if net.trunc() == net => Some(At {
            value: net,
            span: to.span,
        }),
        Ok(net) => {
            let message = format!("{net} has bits behind its prefix");
            let help = format!("the network is {}", net.trunc());
            route.report(Finding::error(to.span, message).help(help));
            None
        }
        Err(_) => {
            let message = format!("{:?} is not a network", to.value);
            route.report(Finding::error(to.span, message).help(help));
            None
        }
    }
}

/// A router, which has to be a neighbour.
fn read_router(
    section: &Section<'_>,
    key: &str,
    text: &At<&str>,
    addresses: &[IpNet],
) -> Option<IpAddr> {
    let Ok(ip) = text.value.parse::<IpAddr>() else {
        let message = format!("{:?} is not an address", text.value);
        let help = format!("write {key} as an address without a prefix, as in \"10.0.0.1\"");
        section.report(Finding::error(text.span.clone(), message).help(help));
        return None;
    };
    if let Some(own) = addresses.iter().find(|net| net.addr() == ip) {
        let message = format!("{key} {ip} is the port's own address {own}");
        let finding = Finding::error(text.span.clone(), message);
        section.report(finding.help("name the router's address"));
        return None;
    }
    let same = addresses
        .iter()
        .filter(|net| net.addr().is_ipv4() == ip.is_ipv4());
    let networks: Vec<String> = same.map(|net| net.trunc().to_string()).collect();
    if let Some(net) = addresses.iter().find(|net| net.contains(&ip)) {
        if is_host_of(IpNet::new_assert(ip, net.prefix_len())) {
            return Some(ip);
        }
        let message = format!("{key} {ip} is no host's address in {}", net.trunc());
        let finding = Finding::error(text.span.clone(), message);
        section.report(finding.help("name the router's address"));
        return None;
    }
    let help = if networks.is_empty() {
        let version = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        format!("there is no {version} address beside it; add one to addresses")
    } else {
        format!("a router has to be in {}", networks.join(" or "))
    };
    let message = format!("{key} {ip} cannot be reached from here");
    section.report(Finding::error(text.span.clone(), message).help(help));
    None
}

fn read_addresses(section: &mut Section<'_>, port: usize, own: &mut Vec<Own>) -> Vec<IpNet> {
    let Some(texts) = section.texts("addresses") else {
        return Vec::new();
    };
    if section.is_empty_array("addresses") {
        let finding = Finding::error(texts.span, "addresses is empty");
        section.report(finding.help(ADDRESSES_HELP));
    }
    let mut addresses: Vec<IpNet> = Vec::with_capacity(texts.value.len());
    for text in texts.value {
        let Some(net) = read_address(section, &text) else {
            continue;
        };
        if addresses.len() == ADDRESSES_MAX {
            let message = format!("more than {ADDRESSES_MAX} addresses in one network");
            section.report(Finding::error(text.span, message));
            break;
        }
        if let Some(first) = own.iter().find(|other| other.ip == net.addr()) {
            section.report(
                Finding::error(text.span, format!("{} stands twice", net.addr()))
                    .other(first.span.clone(), "the first one")
                    .help("an address belongs to one port and one VLAN"),
            );
            continue;
        }
        own.push(Own {
            ip: net.addr(),
            port,
            span: text.span,
        });
        addresses.push(net);
    }
    addresses
}

fn read_address(section: &Section<'_>, text: &At<&str>) -> Option<IpNet> {
    let Ok(net) = text.value.parse::<IpNet>() else {
        let (message, help) = match text.value.parse::<IpAddr>() {
            Ok(ip) => (
                format!("{ip} has no prefix length"),
                format!("say how long its network is, as in \"{ip}/{}\"", usual(ip)),
            ),
            Err(_) => (
                format!("{:?} is not an address with a prefix length", text.value),
                ADDRESSES_HELP.to_owned(),
            ),
        };
        section.report(Finding::error(text.span.clone(), message).help(help));
        return None;
    };
    if !is_host_of(net) {
        let message = format!("{net} cannot be a port's address");
        let finding = Finding::error(text.span.clone(), message);
        section.report(finding.help(ADDRESSES_HELP));
        return None;
    }
    Some(net)
}

fn usual(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 24 } else { 64 }
}

/// Whether a station can have this address in this network.
fn is_host_of(net: IpNet) -> bool {
    let ip = net.addr();
    if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || net.prefix_len() == 0 {
        return false;
    }
    match net {
        // RFC 3021: both addresses of a /31 are hosts.
        IpNet::V4(net) if net.prefix_len() < 31 => {
            ip != IpAddr::V4(net.network()) && ip != IpAddr::V4(net.broadcast())
        }
        IpNet::V4(net) => !net.addr().is_broadcast(),
        // RFC 4291 §2.6.1: the first address of a network means its routers.
        IpNet::V6(net) => net.prefix_len() >= 127 || net.addr() != net.network(),
    }
}
