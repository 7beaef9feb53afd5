//! `[metrics]`.

use super::*;

fn with(table: &str) -> Vec<String> {
    match parse(&format!("{GOOD}[metrics]\n{table}")) {
        Ok(loaded) => findings(&loaded.report),
        Err(report) => findings(&report),
    }
}

fn metrics(table: &str) -> Metrics {
    let loaded = parse(&format!("{GOOD}[metrics]\n{table}")).unwrap();
    assert_eq!(findings(&loaded.report), [""; 0]);
    loaded.config.metrics.unwrap()
}

#[test]
fn there_is_no_endpoint_unless_it_is_asked_for() {
    assert_eq!(parse(GOOD).unwrap().config.metrics, None);
    let at = |listen: &str, allow_remote| Metrics {
        listen: listen.parse().unwrap(),
        allow_remote,
    };
    for local in ["127.0.0.1:9260", "127.1.2.3:0", "[::1]:9260"] {
        assert_eq!(metrics(&format!("listen = {local:?}")), at(local, false));
    }
    for remote in ["0.0.0.0:9260", "[::]:9260", "192.0.2.1:9260"] {
        let table = format!("listen = {remote:?}\nallow_remote = true");
        assert_eq!(metrics(&table), at(remote, true));
    }
}

#[test]
fn an_endpoint_for_everybody_has_to_be_meant() {
    for remote in [
        "0.0.0.0:9260",
        "[::]:9260",
        "192.0.2.1:9260",
        "[::ffff:10.0.0.1]:1",
    ] {
        for more in ["", "\nallow_remote = false"] {
            let found = with(&format!("listen = {remote:?}{more}"));
            assert_eq!(found.len(), 1, "{found:?}");
            let (at, rest) = found[0].split_once(' ').unwrap();
            assert!(at.ends_with(":10"), "{found:?}");
            let wanted = format!("listen = {remote:?} can be reached by other machines | ");
            assert!(rest.starts_with(&wanted), "{found:?}");
            assert!(rest.contains("allow_remote = true"), "{found:?}");
        }
    }
}

#[test]
fn what_is_no_address_is_refused() {
    for wrong in [
        "",
        "localhost:9260",
        "127.0.0.1",
        "9260",
        "::1:9260",
        "127.0.0.1:65536",
    ] {
        let found = with(&format!("listen = {wrong:?}"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].contains("is not an address and a port | "),
            "{found:?}"
        );
    }
    let found = with("listen = 9260");
    assert!(found[0].contains("listen must be a string"), "{found:?}");
    let found = with("");
    assert!(
        found[0].contains("[metrics] has no listen | write listen = \"127.0.0.1:9260\""),
        "{found:?}"
    );
    let found = with("listen = \"127.0.0.1:9260\"\nlisen = 1");
    assert!(found[0].contains("did you mean"), "{found:?}");
}

#[test]
fn a_portal_has_its_address_for_itself() {
    let portal = parse(GOOD).unwrap().config.portal_groups[0].portals[0];
    let shared = Portal {
        address: "127.0.0.1:9260".parse().unwrap(),
        ..portal
    };
    let text = GOOD.replacen(&portal.address.to_string(), &shared.address.to_string(), 1);
    assert_ne!(text, GOOD);
    let report = parse(&format!("{text}[metrics]\nlisten = \"127.0.0.1:9260\"")).unwrap_err();
    let found = findings(&report);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("listen: 127.0.0.1:9260 is a portal too | give the metrics"),
        "{found:?}"
    );
}
