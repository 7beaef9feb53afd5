//! What a `[[target]]` and its LUNs may say.

use super::{GOOD, changed, parse};
use crate::config::{Redirect, TargetState};

#[test]
fn a_queue_depth_is_at_least_one_and_at_most_the_window() {
    for depth in [1, 32, 128] {
        let text = GOOD.replace("lun = 0", &format!("lun = 0\nqueue_depth = {depth}"));
        let config = parse(&text).unwrap().config;
        assert_eq!(config.targets[0].luns[0].queue_depth, Some(depth));
    }
    for depth in ["0", "129", "-1"] {
        let found = changed("lun = 0", &format!("lun = 0\nqueue_depth = {depth}"));
        assert!(found.len() == 1 && found[0].contains("128"), "{found:#?}");
    }
    let found = changed("lun = 0", "lun = 0\nqueue_depth = \"many\"");
    assert_eq!(found.len(), 1, "{found:#?}");
}

#[test]
fn a_target_may_be_elsewhere_removed_or_unavailable() {
    let target = |text: &str| {
        let text = GOOD.replace("[[target.lun]]", &format!("{text}\n[[target.lun]]"));
        parse(&text).unwrap().config.targets.remove(0)
    };
    assert_eq!(target("").state, TargetState::Serving);
    assert_eq!(target("state = \"removed\"").state, TargetState::Removed);
    let away = target("state = \"unavailable\"");
    assert_eq!(
        (away.state, away.redirect),
        (TargetState::Unavailable, None)
    );
    let moved = target("redirect = { to = \"192.0.2.1\" }").redirect;
    let wanted = Redirect {
        to: "192.0.2.1:3260".parse().unwrap(),
        permanent: false,
        portal_groups: vec![1],
    };
    assert_eq!(moved, Some(wanted.clone()));
    let text = "redirect = { to = \"[2001:db8::1]:3261\", permanent = true, portal_groups = [1] }";
    let wanted = Redirect {
        to: "[2001:db8::1]:3261".parse().unwrap(),
        permanent: true,
        ..wanted
    };
    assert_eq!(target(text).redirect, Some(wanted));
}

#[test]
fn a_redirection_names_one_address_and_own_portal_groups() {
    for (redirect, expected) in [
        (
            "{ to = \"192.0.2.1:3260,1\" }",
            "is not where an initiator can be sent",
        ),
        (
            "{ to = \"0.0.0.0:3260\" }",
            "is not where an initiator can be sent",
        ),
        (
            "{ to = \"host:3260\" }",
            "is not where an initiator can be sent",
        ),
        ("{ permanent = true }", "has no to"),
        (
            "{ to = \"192.0.2.1\", portal_groups = [7] }",
            "is not behind portal group 7",
        ),
        (
            "{ to = \"192.0.2.1\", portal_groups = [] }",
            "portal_groups is empty",
        ),
        ("{ to = \"192.0.2.1\", forever = true }", "unknown key"),
        ("\"192.0.2.1\"", "a table"),
    ] {
        let text = format!("redirect = {redirect}\n[[target.lun]]");
        let found = changed("[[target.lun]]", &text);
        assert!(
            found.len() == 1 && found[0].contains(expected),
            "{redirect}: {found:#?}"
        );
    }
    let found = changed("[[target.lun]]", "state = \"gone\"\n[[target.lun]]");
    assert_eq!(found.len(), 1, "{found:#?}");
}

/// Where nobody logs in, nothing has to be mapped.
#[test]
fn a_target_that_serves_needs_a_lun() {
    let lun = &GOOD[GOOD.find("[[target.lun]]").unwrap()..];
    for (key, errors) in [
        ("", 1),
        ("state = \"serving\"\n", 1),
        ("state = \"removed\"\n", 0),
        ("redirect = { to = \"192.0.2.1\" }\n", 0),
    ] {
        let text = GOOD.replace(lun, key);
        let found = parse(&text).map_or_else(|report| report.errors(), |_| 0);
        assert_eq!(found, errors, "{key}");
    }
}
