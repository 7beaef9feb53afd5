//! Reads `[[target]]` with its LUNs and resolves the portal groups and units that it names.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::auth::{read_auth, read_text_value};
use super::model::{
    CONNECTIONS_MAX, DigestPolicy, LUN_MAX, LogicalUnit, LunMap, MAX_CONNECTIONS_DEFAULT,
    PortalGroup, Redirect, TASK_SET_MAX, Target, TargetState,
};
use super::names::{PatternError, parse_pattern};
use super::reader::{At, Section};
use super::report::Finding;
use super::units::{nearest_unit, parse_portal};
use crate::iscsi::names::{IscsiName, NamePattern};

/// The most targets of one process.
pub const TARGETS_MAX: usize = 4096;

const DIGESTS: [(&str, DigestPolicy); 3] = [
    ("optional", DigestPolicy::Optional),
    ("required", DigestPolicy::Required),
    ("off", DigestPolicy::Off),
];

const STATES: [(&str, TargetState); 3] = [
    ("serving", TargetState::Serving),
    ("removed", TargetState::Removed),
    ("unavailable", TargetState::Unavailable),
];

pub(super) fn read_targets(
    root: &mut Section<'_>,
    groups: &[At<PortalGroup>],
    units: &[At<LogicalUnit>],
    dir: &Path,
) -> Vec<Target> {
    let sections = root.tables("target", "[[target]]");
    if sections.is_empty() && !root.has("target") {
        root.missing(
            "[[target]]",
            "add what to serve:\n[[target]]\nname = \"iqn.2026-11.com.example:disk0\"\n\
             [[target.lun]]\nlun = 0\nunit = \"disk0\"",
        );
    }
    if sections.len() > TARGETS_MAX {
        let message = format!("more than {TARGETS_MAX} targets");
        root.report(Finding::error(sections[TARGETS_MAX].span(), message));
    }
    let mut targets = Vec::with_capacity(sections.len());
    let mut names: Vec<At<IscsiName>> = Vec::new();
    let mut used = Used {
        groups: vec![false; groups.len()],
        units: vec![false; units.len()],
    };
    let any = !sections.is_empty();
    for section in sections.into_iter().take(TARGETS_MAX) {
        targets.extend(read_target(
            section, groups, units, dir, &mut names, &mut used,
        ));
    }
    if any {
        report_unused(root, groups, units, &used);
    }
    targets
}

/// Which groups and units some target refers to.
struct Used {
    groups: Vec<bool>,
    units: Vec<bool>,
}

fn report_unused(
    root: &Section<'_>,
    groups: &[At<PortalGroup>],
    units: &[At<LogicalUnit>],
    used: &Used,
) {
    for (group, _) in groups.iter().zip(&used.groups).filter(|(_, used)| !**used) {
        let message = format!("no target uses the portal group {}", group.value.tag);
        let help = "it listens all the same; name it in a target's portal_groups";
        root.report(Finding::warning(group.span.clone(), message).help(help));
    }
    for (unit, _) in units.iter().zip(&used.units).filter(|(_, used)| !**used) {
        let message = format!("no target maps the logical unit {:?}", unit.value.name);
        let help = "map it with [[target.lun]]";
        root.report(Finding::warning(unit.span.clone(), message).help(help));
    }
}

/// `None` only when an error was reported.
fn read_target(
    mut section: Section<'_>,
    groups: &[At<PortalGroup>],
    units: &[At<LogicalUnit>],
    dir: &Path,
    names: &mut Vec<At<IscsiName>>,
    used: &mut Used,
) -> Option<Target> {
    let name = read_target_name(&mut section, names);
    let alias = read_text_value(&mut section, "alias");
    let portal_groups = read_group_tags(&mut section, groups, used);
    let initiators = read_patterns(&mut section);
    let addresses = read_addresses(&mut section);
    let mut digest = |key| {
        section
            .choice(key, &DIGESTS)
            .map_or(DigestPolicy::Optional, |d| d.value)
    };
    let (header_digest, data_digest) = (digest("header_digest"), digest("data_digest"));
    let max_connections = section
        .integer("max_connections", 1..=CONNECTIONS_MAX.into(), "connections")
        .and_then(|count| u16::try_from(count.value).ok())
        .unwrap_or(MAX_CONNECTIONS_DEFAULT);
    let auth = read_auth(section.table("auth", "[target.auth]"), dir);
    let state = section
        .choice("state", &STATES)
        .map_or(TargetState::Serving, |state| state.value);
    let redirect = read_redirect(&mut section, &portal_groups);
    let elsewhere = redirect.as_ref().is_some_and(|redirect| {
        let mut groups = portal_groups.iter();
        groups.all(|tag| redirect.portal_groups.contains(tag))
    });
    let luns = read_luns(&mut section, units, used);
    if luns.is_empty() && !elsewhere && state == TargetState::Serving && !section.has("lun") {
        let help = "map a logical unit:\n[[target.lun]]\nlun = 0\nunit = \"disk0\"";
        section.missing("[[target.lun]]", help);
    }
    section.finish();
    Some(Target {
        name: name?,
        alias,
        portal_groups,
        initiators,
        addresses,
        header_digest,
        data_digest,
        max_connections,
        auth: auth?,
        luns,
        state,
        redirect,
    })
}

/// `redirect = { to = "…", permanent = …, portal_groups = […] }` of a target that is reached through
/// `groups`.
fn read_redirect(target: &mut Section<'_>, groups: &[u16]) -> Option<Redirect> {
    let mut section = target.table("redirect", "redirect")?;
    let to = section.required_text("to", "say where to, as in to = \"192.0.2.1:3260\"");
    let address = to.and_then(|to| match parse_portal(to.value) {
        // RFC 7143 §13.8: in a redirection the address has no portal group tag.
        Ok(address) if !address.ip().is_unspecified() => Some(address),
        _ => {
            let message = format!("{:?} is not where an initiator can be sent", to.value);
            let help = "write one IP address and a port, as in \"192.0.2.1:3260\" or \
                        \"[2001:db8::1]:3260\", without a portal group tag";
            section.report(Finding::error(to.span, message).help(help));
            None
        }
    });
    let permanent = section.boolean("permanent").unwrap_or(false);
    let tags = section.integers("portal_groups", &(0..=65_535));
    let mut portal_groups = Vec::new();
    for tag in tags.iter().flat_map(|tags| &tags.value) {
        let known = u16::try_from(tag.value).ok();
        match known.filter(|known| groups.contains(known)) {
            Some(known) => portal_groups.push(known),
            None => {
                let message = format!("the target is not behind portal group {}", tag.value);
                let help = "name some of the target's own portal_groups, or leave the key out to \
                            redirect at all of them";
                section.report(Finding::error(tag.span.clone(), message).help(help));
            }
        }
    }
    if let Some(tags) = tags.filter(|tags| tags.value.is_empty()) {
        let finding = Finding::error(tags.span, "portal_groups is empty");
        section.report(finding.help("leave the key out to redirect at all of them"));
    } else if portal_groups.is_empty() {
        portal_groups = groups.to_vec();
    }
    section.finish();
    Some(Redirect {
        to: address?,
        permanent,
        portal_groups,
    })
}

fn read_target_name(
    section: &mut Section<'_>,
    names: &mut Vec<At<IscsiName>>,
) -> Option<IscsiName> {
    let help = "name the target, as in name = \"iqn.2026-11.com.example:disk0\"";
    let text = section.required_text("name", help)?;
    let name = match IscsiName::parse(text.value) {
        Ok(name) => name,
        Err(error) => {
            let message = format!("{:?} is not an iSCSI name", text.value);
            let help = "a valid one: \"iqn.2026-11.com.example:disk0\" (the month in which you held \
                        the domain, the domain reversed, a colon, your own words)";
            section.report(
                Finding::error(text.span, message)
                    .label(error.to_string())
                    .help(help),
            );
            return None;
        }
    };
    if let Some(first) = names.iter().find(|other| other.value == name) {
        section.report(
            Finding::error(text.span, format!("two targets are named {name}"))
                .other(first.span.clone(), "the first one")
                .help("names are compared in lower case; give each target its own"),
        );
        return None;
    }
    names.push(At {
        value: name.clone(),
        span: text.span,
    });
    Some(name)
}

fn read_group_tags(
    section: &mut Section<'_>,
    groups: &[At<PortalGroup>],
    used: &mut Used,
) -> Vec<u16> {
    let Some(tags) = section.integers("portal_groups", &(0..=65_535)) else {
        // Without the key, every group leads to the target.
        used.groups.fill(true);
        return groups.iter().map(|group| group.value.tag).collect();
    };
    if section.is_empty_array("portal_groups") {
        let finding = Finding::error(tags.span, "portal_groups is empty");
        section
            .report(finding.help("name a portal group, or leave the key out to use all of them"));
    }
    let mut found: Vec<u16> = Vec::with_capacity(tags.value.len());
    for tag in tags.value {
        match groups
            .iter()
            .position(|group| u64::from(group.value.tag) == tag.value)
        {
            Some(index) if found.contains(&groups[index].value.tag) => {
                let message = format!("portal group {} stands twice", tag.value);
                section.report(Finding::error(tag.span, message).help("name it once"));
            }
            Some(index) => {
                used.groups[index] = true;
                found.push(groups[index].value.tag);
            }
            None => {
                let tags: Vec<String> = groups.iter().map(|g| g.value.tag.to_string()).collect();
                let help = match tags.len() {
                    0 => "no [[portal_group]] is defined".to_owned(),
                    _ => format!("defined are: {}", tags.join(", ")),
                };
                let message = format!("portal group {} is not defined", tag.value);
                section.report(Finding::error(tag.span, message).help(help));
            }
        }
    }
    found
}

fn read_patterns(section: &mut Section<'_>) -> Vec<NamePattern> {
    let Some(texts) = section.texts("initiators") else {
        return Vec::new();
    };
    let mut patterns = Vec::with_capacity(texts.value.len());
    for text in texts.value {
        match parse_pattern(text.value) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => {
                let help = match error {
                    PatternError::BadCharacter(_) => {
                        "a pattern knows one wildcard: * stands for any run of characters"
                    }
                    _ => {
                        "write an initiator's name, with a * where it varies, as in \
                          \"iqn.1993-08.org.debian:*\""
                    }
                };
                let message = format!("{:?} matches no initiator name", text.value);
                let finding = Finding::error(text.span, message).label(error.to_string());
                section.report(finding.help(help));
            }
        }
    }
    patterns
}

fn read_addresses(section: &mut Section<'_>) -> Vec<IpNet> {
    let Some(texts) = section.texts("addresses") else {
        return Vec::new();
    };
    let mut nets = Vec::with_capacity(texts.value.len());
    for text in texts.value {
        let net = text
            .value
            .parse()
            .or_else(|_| text.value.parse::<IpAddr>().map(IpNet::from));
        match net {
            Ok(net) => nets.push(net.trunc()),
            Err(_) => {
                let message = format!("{:?} is not a network", text.value);
                let help = "write an address with a prefix length, as in \"192.0.2.0/24\" or \
                            \"2001:db8::/32\", or one address";
                section.report(Finding::error(text.span, message).help(help));
            }
        }
    }
    nets
}

fn read_luns(section: &mut Section<'_>, units: &[At<LogicalUnit>], used: &mut Used) -> Vec<LunMap> {
    let sections = section.tables("lun", "[[target.lun]]");
    let mut luns: Vec<At<LunMap>> = Vec::with_capacity(sections.len());
    for mut section in sections {
        let lun = section.integer("lun", 0..=u64::from(LUN_MAX), "");
        if lun.is_none() && !section.has("lun") {
            section.missing("lun", "number it, as in lun = 0");
        }
        let unit = read_unit(&mut section, units, used);
        let read_only = section.boolean("read_only").unwrap_or(false);
        let initiators = read_patterns(&mut section);
        let depths = 1..=u64::from(TASK_SET_MAX);
        let queue_depth = section
            .integer("queue_depth", depths, " commands")
            .and_then(|depth| u16::try_from(depth.value).ok());
        if let Some(lun) = lun {
            let number = u16::try_from(lun.value).unwrap_or(LUN_MAX);
            let value = LunMap {
                lun: number,
                unit: unit.unwrap_or(0),
                read_only,
                initiators,
                queue_depth,
            };
            add_lun(
                &section,
                &mut luns,
                At {
                    value,
                    span: lun.span,
                },
                unit.is_some(),
            );
        }
        section.finish();
    }
    luns.into_iter().map(|lun| lun.value).collect()
}

fn read_unit(
    section: &mut Section<'_>,
    units: &[At<LogicalUnit>],
    used: &mut Used,
) -> Option<usize> {
    let name = section.required_text("unit", "name the logical unit, as in unit = \"disk0\"")?;
    let found = units.iter().position(|unit| unit.value.name == name.value);
    match found {
        Some(index) => used.units[index] = true,
        None => {
            let message = format!("logical_unit {:?} is not defined", name.value);
            section
                .report(Finding::error(name.span, message).help(nearest_unit(name.value, units)));
        }
    }
    found
}

/// Adds a mapping, unless a LUN stands twice.
fn add_lun(section: &Section<'_>, luns: &mut Vec<At<LunMap>>, lun: At<LunMap>, resolved: bool) {
    let number = lun.value.lun;
    let Some(first) = luns.iter().find(|other| other.value.lun == number) else {
        luns.push(lun);
        return;
    };
    let (message, help) = if resolved && first.value.unit == lun.value.unit {
        (
            format!("the unit is mapped twice at LUN {number}"),
            "remove one of the two".to_owned(),
        )
    } else {
        let free = (0..=LUN_MAX).find(|free| luns.iter().all(|lun| lun.value.lun != *free));
        let help = free.map_or_else(
            || "the target is full".to_owned(),
            |free| format!("the lowest free LUN of this target is {free}"),
        );
        (format!("two units are mapped at LUN {number}"), help)
    };
    let other = first.span.clone();
    section.report(
        Finding::error(lun.span, message)
            .other(other, "the first one")
            .help(help),
    );
}
