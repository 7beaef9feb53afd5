//! Access states of portal groups, and thin provisioning.

use super::*;

#[test]
fn access_of_portal_groups_and_of_units() {
    let tag = "tag = 1\n";
    let good = |from: &str, to: &str| {
        let loaded = parse(&GOOD.replacen(from, to, 1)).unwrap();
        assert_eq!(findings(&loaded.report), [""; 0]);
        loaded.config
    };
    let plain = good(tag, tag);
    assert_eq!(plain.portal_groups[0].access, Access::Optimized);
    assert!(!plain.portal_groups[0].preferred && !plain.logical_units[0].explicit_alua);
    for (word, access) in [
        ("optimized", Access::Optimized),
        ("non-optimized", Access::NonOptimized),
        ("standby", Access::Standby),
        ("unavailable", Access::Unavailable),
    ] {
        let text = format!("{tag}access = \"{word}\"\npreferred = true\n");
        let config = good(tag, &text);
        assert_eq!(config.portal_groups[0].access, access);
        assert!(config.portal_groups[0].preferred);
    }
    let explicit = good("[[target]]\n", "explicit_alua = true\n[[target]]\n");
    assert!(explicit.logical_units[0].explicit_alua);
    one(
        tag,
        "tag = 1\naccess = \"standbye\"\n",
        "4:10 access cannot be \"standbye\" | did you mean \"standby\"?",
    );
    one(
        tag,
        "tag = 1\npreferred = 1\n",
        "4:13 preferred must be true or false",
    );
}

#[test]
fn thin_provisioning_and_its_mistakes() {
    let thin = |keys: &str| format!("[logical_unit.thin]\n{keys}\n[[target]]\n");
    let good = |keys: &str| {
        let loaded = parse(&GOOD.replacen("[[target]]\n", &thin(keys), 1)).unwrap();
        assert_eq!(findings(&loaded.report), [""; 0], "{keys}");
        loaded.config.logical_units[0].thin
    };
    assert_eq!(
        parse(GOOD).unwrap().config.logical_units[0].thin,
        Thin::default()
    );
    assert_eq!(good(""), Thin::default());
    let whole = good("soft_threshold = \"80%\"\ncapacity = \"512KiB\"\nout_of_space = \"retry\"");
    assert_eq!(
        whole,
        Thin {
            soft_threshold: Some(SoftThreshold::Percent(80)),
            capacity: Some(512 << 10),
            out_of_space: OutOfSpace::Retry,
        }
    );
    let bytes = good("soft_threshold = \"256KiB\"");
    assert_eq!(bytes.soft_threshold, Some(SoftThreshold::Bytes(256 << 10)));
    let bytes = good("soft_threshold = 4096");
    assert_eq!(bytes.soft_threshold, Some(SoftThreshold::Bytes(4096)));
    for wrong in ["0%", "101%", "-1%", "%", "eighty%", "80.5%"] {
        one(
            "[[target]]\n",
            &thin(&format!("soft_threshold = \"{wrong}\"")),
            &format!("9:18 \"{wrong}\" is not a share of the space | write a whole number"),
        );
    }
    one(
        "[[target]]\n",
        &thin("soft_threshold = \"much\""),
        "9:18 \"much\" is not a size",
    );
    one(
        "[[target]]\n",
        &thin("out_of_space = \"hang\""),
        "9:16 out_of_space cannot be \"hang\"",
    );
    one(
        "[[target]]\n",
        &thin("soft_treshold = \"80%\""),
        "9:1 unknown key \"soft_treshold\" in [logical_unit.thin] | did you mean \"soft_threshold\"?",
    );
    one(
        "[[target]]\n",
        &thin("soft_threshold = \"1MiB\"\ncapacity = \"512KiB\""),
        "9:1 warning: soft_threshold is beyond capacity",
    );
    let null = GOOD.replace("\"memory\"", "\"null\"");
    let text = null.replacen("[[target]]\n", &thin("capacity = \"512KiB\""), 1);
    let found = findings(&parse(&text).unwrap_err());
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].starts_with("9:1 capacity needs a backend that says how much space it uses"),
        "{found:#?}"
    );
}
