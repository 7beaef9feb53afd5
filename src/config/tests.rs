//! What each mistake in a file leads to: place, message and remedy.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::iscsi::auth::ChapAlgorithm;

mod metrics;
mod nvme;
mod space;

const GOOD: &str = r#"
[[portal_group]]
tag = 1
portals = ["127.0.0.1:3260"]
[[logical_unit]]
name = "disk0"
backend = { type = "memory", size = "1MiB" }
[[target]]
name = "iqn.2026-11.io.iiblockdaemon:disk0"
[[target.lun]]
lun = 0
unit = "disk0"
"#;

fn around(dir: &Path) -> Surroundings {
    Surroundings {
        dir: dir.to_owned(),
        state_dir: Some("/state".into()),
        cpus: 4,
    }
}

fn parse(text: &str) -> Result<Loaded, Report> {
    Config::parse("x.toml", text, &around(Path::new("/nowhere")))
}

/// `line:column message | help` of each finding, warnings marked.
fn findings(report: &Report) -> Vec<String> {
    let describe = |finding: &Finding| {
        let (line, column) = report.position(finding);
        let mark = if finding.severity == Severity::Warning {
            "warning: "
        } else {
            ""
        };
        let help = finding.help.as_deref().unwrap_or_default();
        format!("{line}:{column} {mark}{} | {help}", finding.message)
    };
    report.findings().iter().map(describe).collect()
}

/// What is found when `to` stands for `from` in [`GOOD`]; at least one error or warning.
fn changed(from: &str, to: &str) -> Vec<String> {
    assert!(GOOD.contains(from), "{from} is not in the good file");
    let found = match parse(&GOOD.replacen(from, to, 1)) {
        Ok(loaded) => findings(&loaded.report),
        Err(report) => findings(&report),
    };
    assert!(!found.is_empty(), "{to} is taken for good");
    found
}

/// `to` in place of `from` leads to exactly one finding.
fn one(from: &str, to: &str, expected: &str) {
    let found = changed(from, to);
    assert!(
        found.len() == 1 && found[0].starts_with(expected),
        "{to}:\n{found:#?}\n{expected}"
    );
}

#[test]
fn a_short_file_gets_every_default() {
    let Loaded { config, report } = parse(GOOD).unwrap();
    assert_eq!(findings(&report), [""; 0]);
    assert_eq!(config.daemon.state_dir, Path::new("/state"));
    assert_eq!(config.daemon.shutdown_timeout, Duration::from_secs(10));
    assert_eq!(config.daemon.management_url, None);
    assert_eq!(config.cores.list, CoreList::Count(3));
    assert!(config.cores.pin);
    assert_eq!(
        (config.cores.poll, config.cores.placement),
        (Poll::Adaptive, Placement::Least)
    );
    assert_eq!(config.memory.pool_bytes_per_core, 256 << 20);
    assert_eq!(config.limits.nop_interval, Some(Duration::from_secs(30)));
    assert_eq!(config.limits.unauthenticated_connections, 64);
    assert_eq!(config.discovery_auth, Auth::None);
    let unit = &config.logical_units[0];
    assert_eq!((unit.block_size, unit.physical_block_size), (512, 4096));
    assert!(unit.write_cache && !unit.read_only && unit.serial.is_none());
    assert!(!unit.removable && unit.reservations == ReservationMatching::Port);
    assert_eq!(unit.backend, Backend::Memory { size: 1 << 20 });
    let target = &config.targets[0];
    assert_eq!(
        (&target.portal_groups[..], target.max_connections),
        (&[1][..], 4)
    );
    assert_eq!(
        (target.header_digest, target.data_digest),
        (DigestPolicy::Optional, DigestPolicy::Optional)
    );
    assert_eq!(
        target.luns,
        [LunMap {
            lun: 0,
            unit: 0,
            read_only: false,
            initiators: Vec::new(),
            queue_depth: None,
        }]
    );
}

#[test]
fn a_full_file_says_everything() {
    let text = r#"
[daemon]
state_dir = "/srv/iscsi"
shutdown_timeout_s = 5
management_url = "https://storage.example/"
[cores]
list = [1, 2]
pin = false
poll = "busy"
placement = "hash"
[memory]
pool_mib_per_core = 1_28
pages = "huge"
[limits]
unauthenticated_connections = 8
login_timeout_s = 3
sessions = 10
nop_interval_s = 0
nop_timeout_s = 7
no_progress_timeout_s = 0x10
[discovery.auth]
method = "chap"
user = "discoverer"
secret = "discovery secret"
[[portal_group]]
tag = 1
portals = ["192.0.2.1", "[2001:db8::1]:3261"]
[[portal_group]]
tag = 2
portals = ["198.51.100.1:3260"]
[[logical_unit]]
name = "a"
block_size = 4096
read_only = true
write_cache = false
removable = true
long_cdbs = true
serial = "A-1"
backend = { type = "file", path = "a.img", size = 8192, engine = "sync", direct = true }
[[logical_unit]]
name = "b"
physical_block_size = 512
reservations = "name"
backend = { type = "block", path = "/dev/iiblockdaemon-test", engine = "io_uring" }
[[target]]
name = "IQN.2026-11.io.iiblockdaemon:A"
alias = "First"
portal_groups = [2]
initiators = ["iqn.1993-08.org.debian:*"]
addresses = ["192.0.2.7/24", "2001:db8::5"]
header_digest = "required"
data_digest = "off"
max_connections = 8
[target.auth]
method = "chap"
user = "alice"
secret = "alice's long secret"
mutual_user = "target"
mutual_secret = "the target's secret"
algorithms = ["sha256", "md5"]
[[target.lun]]
lun = 5
unit = "b"
[[target.lun]]
lun = 255
unit = "a"
read_only = true
initiators = ["eui.02004567a425678d"]
[[target]]
name = "eui.02004567A425678D"
portal_groups = [1, 2]
lun = [{ lun = 0, unit = "a" }]
"#;
    let Loaded { config, report } = parse(text).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(findings(&report), [""; 0]);
    assert_eq!(config.cores.list, CoreList::List(vec![1, 2]));
    assert_eq!(
        (config.cores.poll, config.cores.placement),
        (Poll::Busy, Placement::Hash)
    );
    assert_eq!(
        config.memory,
        Memory {
            pool_bytes_per_core: 128 << 20,
            pages: Pages::Huge
        }
    );
    assert_eq!(config.limits.nop_interval, None);
    assert_eq!(config.limits.no_progress_timeout, Duration::from_secs(16));
    let portals: Vec<String> = config.portal_groups[0]
        .portals
        .iter()
        .map(|p| p.address.to_string())
        .collect();
    assert_eq!(portals, ["192.0.2.1:3260", "[2001:db8::1]:3261"]);
    assert_eq!(
        config.logical_units[0].backend,
        Backend::File {
            path: "/srv/iscsi/a.img".into(),
            size: Some(8192),
            engine: Engine::Sync,
            direct: Some(true),
        }
    );
    let target = &config.targets[0];
    assert_eq!(target.name.as_str(), "iqn.2026-11.io.iiblockdaemon:a");
    assert_eq!(target.addresses[0].to_string(), "192.0.2.0/24");
    assert_eq!(target.addresses[1].to_string(), "2001:db8::5/128");
    let luns = (target.luns[0].unit, target.luns[1].unit);
    assert_eq!((luns, target.max_connections), ((1, 0), 8));
    let Auth::Chap(chap) = &target.auth else {
        panic!("{:?}", target.auth)
    };
    assert_eq!(chap.secret.expose(), b"alice's long secret");
    assert_eq!(chap.mutual.as_ref().unwrap().user, "target");
    assert_eq!(chap.algorithms, [ChapAlgorithm::Sha256, ChapAlgorithm::Md5]);
    assert!(!format!("{config:?}").contains("long secret"));
}

#[test]
fn a_rendered_report_shows_file_line_column_caret_and_help() {
    let report = parse(&GOOD.replace("unit = \"disk0\"", "unit = \"dsk0\"")).unwrap_err();
    let rendered = report.render(false);
    let expected = "  \
  × logical_unit \"dsk0\" is not defined
    ╭─[x.toml:12:8]
 11 │ lun = 0
 12 │ unit = \"dsk0\"
    ·        ──────
    ╰────
  help: did you mean \"disk0\"?
";
    assert!(rendered.contains(expected), "{rendered}");
    assert!(
        report.render(true).contains("\u{1b}["),
        "colours when asked for"
    );
    assert_eq!(report.summary(), "1 error and 1 warning in x.toml");
}

#[test]
fn all_errors_are_found_at_once_in_the_order_of_the_file() {
    let found = changed(
        "tag = 1\nportals = [\"127.0.0.1:3260\"]",
        "tag = 99999\nportal = []\n[memory]\npages = \"hgue\"\n[limits]\nsessions = \"many\"",
    );
    let places: Vec<&str> = found.iter().filter_map(|f| f.split(' ').next()).collect();
    assert_eq!(places, ["2:1", "3:7", "4:1", "6:9", "8:12"], "{found:#?}");
}

#[test]
fn broken_toml_is_placed() {
    let found = findings(&parse("[daemon\nstate_dir = \"/x\"\n").unwrap_err());
    assert!(found[0].starts_with("1:8 not TOML:"), "{found:#?}");
    let found = findings(&parse("[a]\nx = 1\nx = 2\n").unwrap_err());
    assert!(
        found[0].starts_with("3:1 not TOML: duplicate key"),
        "{found:#?}"
    );
    let deep = format!("a = {}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse(&deep).unwrap_err().errors() > 0);
}

#[test]
fn an_empty_file_says_what_it_lacks() {
    let found = findings(&parse("").unwrap_err());
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("1:1 the file has no [[portal_group]] | add where to listen"));
    assert!(found[1].starts_with("1:1 the file has no [[target]] | add what to serve"));
}

#[test]
fn unknown_keys_suggest_the_nearest() {
    one(
        "tag = 1",
        "tag = 1\nportls = []",
        "4:1 unknown key \"portls\" in [[portal_group]] | did you mean \"portals\"?",
    );
    one(
        "unit = \"disk0\"",
        "unit = \"disk0\"\ncolour = 1",
        "13:1 unknown key \"colour\" in [[target.lun]] | [[target.lun]] knows: lun, unit, read_only, initiators",
    );
    one(
        "[[portal_group]]",
        "[limit]\n[[portal_group]]",
        "2:2 unknown key \"limit\" in the file | did you mean \"limits\"?",
    );
    one(
        "size =",
        "direct = true, size =",
        "7:30 unknown key \"direct\" in the backend",
    );
}

#[test]
fn wrong_types_and_words_are_named() {
    one(
        "[[portal_group]]",
        "[cores]\npin = 1\n[[portal_group]]",
        "3:7 pin must be true or false",
    );
    one(
        "[[portal_group]]",
        "[cores]\ncount = 0\n[[portal_group]]",
        "3:9 count = 0 is out of range | count goes from 1 to 256 cores",
    );
    one(
        "[[portal_group]]",
        "[cores]\ncount = -1\n[[portal_group]]",
        "3:9 count = -1 is out of range",
    );
    one(
        "[[portal_group]]",
        "[cores]\ncount = 8\n[[portal_group]]",
        "3:9 warning: 8 data cores on 4 usable CPUs",
    );
    one(
        "[[portal_group]]",
        "[cores]\ncount = 1\nlist = [1]\n[[portal_group]]",
        "3:1 [cores] has both count and list",
    );
    one(
        "[[portal_group]]",
        "[cores]\nlist = [1, 1]\n[[portal_group]]",
        "3:12 CPU 1 stands twice in list",
    );
    one(
        "[[portal_group]]",
        "[cores]\nlist = []\n[[portal_group]]",
        "3:8 list is empty or too long",
    );
    one(
        "[[portal_group]]",
        "[cores]\npoll = \"bussy\"\n[[portal_group]]",
        "3:8 poll cannot be \"bussy\" | did you mean \"busy\"? poll is \"adaptive\" or \"busy\"",
    );
    one(
        "[[portal_group]]",
        "[daemon]\nstate_dir = \"here\"\n[[portal_group]]",
        "3:13 state_dir is not an absolute path",
    );
    one(
        "[[portal_group]]",
        "cores = 1\n[[portal_group]]",
        "2:9 cores must be a table",
    );
    one("\"1MiB\"", "1.5", "7:37 size must be a whole number");
}

#[test]
fn portals_and_their_groups() {
    let portals = "[\"127.0.0.1:3260\"]";
    one(
        portals,
        "[\"localhost:3260\"]",
        "4:12 \"localhost:3260\" is not a portal | a portal is an IP address and a port",
    );
    one(
        portals,
        "[\"127.0.0.1:99999\"]",
        "4:12 \"127.0.0.1:99999\" is not a portal",
    );
    one(
        portals,
        "[\"dpdk:0000:01:00.0\"]",
        "4:12 \"dpdk:0000:01:00.0\" is not a portal | a portal is an address: give \"0000:01:00.0\" a [[port]]",
    );
    one(portals, "[]", "4:11 portals is empty");
    one(
        portals,
        "[1]",
        "4:12 an element of portals must be a string",
    );
    one(
        portals,
        "[\"127.0.0.1:0\"]",
        "4:12 warning: portal 127.0.0.1:0 takes any free port",
    );
    one(
        "[[logical_unit]]",
        "[[portal_group]]\ntag = 1\nportals = [\"127.0.0.2:3260\"]\n[[logical_unit]]",
        "6:7 two portal groups have the tag 1",
    );
    for twin in ["127.0.0.1", "0.0.0.0:3260"] {
        one(
            "[[logical_unit]]",
            &format!("[[portal_group]]\ntag = 2\nportals = [\"{twin}\"]\n[[logical_unit]]"),
            "7:12 portal ",
        );
    }
    one(
        "[[target.lun]]",
        "portal_groups = [1, 7]\n[[target.lun]]",
        "10:21 portal group 7 is not defined | defined are: 1",
    );
    one(
        "[[target.lun]]",
        "portal_groups = [1, 1]\n[[target.lun]]",
        "10:21 portal group 1 stands twice",
    );
    let found = changed("[[target.lun]]", "portal_groups = []\n[[target.lun]]");
    assert!(
        found[1].starts_with("10:17 portal_groups is empty"),
        "{found:#?}"
    );
    assert!(
        found[0].starts_with("3:7 warning: no target uses the portal group 1"),
        "{found:#?}"
    );
}

#[test]
fn logical_units_and_their_backends() {
    let backend = "{ type = \"memory\", size = \"1MiB\" }";
    one(
        "\"1MiB\"",
        "\"1000\"",
        "7:37 size 1000 is not a whole number of blocks | the nearest size that is: 512",
    );
    one(
        "\"1MiB\"",
        "\"1XiB\"",
        "7:37 \"1XiB\" is not a size | write a number and a unit",
    );
    one(
        "\"1MiB\"",
        "\"99999999999GiB\"",
        "7:37 size = \"99999999999GiB\" is out of range",
    );
    one("\"1MiB\"", "0", "7:37 size = 0 is out of range");
    one(
        backend,
        "{ type = \"memory\" }",
        "7:11 the backend has no size",
    );
    one(backend, "{ size = 512 }", "7:11 the backend has no type");
    one(
        backend,
        "{ type = \"flie\", path = \"a\" }",
        "7:20 type cannot be \"flie\" | did you mean \"file\"?",
    );
    one(
        backend,
        "{ type = \"file\" }",
        "7:11 the backend has no path",
    );
    one(
        backend,
        "{ type = \"file\", path = \"none.img\" }",
        "7:35 warning: /state/none.img does not exist | add size",
    );
    one(
        backend,
        "{ type = \"file\", path = \"a\", size = 512, engine = \"iouring\" }",
        "7:61 engine cannot be \"iouring\" | did you mean \"io_uring\"?",
    );
    one("backend = ", "# ", "5:1 [[logical_unit]] has no backend");
    one(
        "backend = ",
        "block_size = 1024\nbackend = ",
        "7:14 block_size cannot be 1024 | block_size is 512 or 4096",
    );
    one(
        "backend = ",
        "block_size = 4096\nphysical_block_size = 512\nbackend = ",
        "8:1 physical_block_size 512 is below block_size 4096",
    );
    one(
        "backend = ",
        "reservations = \"nam\"\nbackend = ",
        "7:16 reservations cannot be \"nam\" | did you mean \"name\"?",
    );
    one(
        "backend = ",
        "serial = \"a\\u00e9\"\nbackend = ",
        "7:10 \"aé\" cannot be a serial number",
    );
    let found = changed("name = \"disk0\"", "name = \"disk 0\"");
    assert!(found[0].starts_with("6:8 \"disk 0\" cannot name a logical unit | use 1 to 64"));
    for (name, serial, path, place) in [
        (
            "disk0",
            "S2",
            "b.img",
            "12:8 two logical units are named \"disk0\"",
        ),
        (
            "disk1",
            "S1",
            "b.img",
            "13:10 two logical units have the serial \"S1\"",
        ),
        (
            "disk1",
            "S2",
            "./x/../a.img",
            "14:35 /state/./x/../a.img is used by two logical units",
        ),
    ] {
        let unit = |name, serial, path| {
            format!(
                "[[logical_unit]]\nname = \"{name}\"\nserial = \"{serial}\"\n\
                 backend = {{ type = \"file\", path = \"{path}\", size = 512 }}\n"
            )
        };
        let two = unit("disk0", "S1", "a.img") + "\n\n" + &unit(name, serial, path);
        let old = "[[logical_unit]]\nname = \"disk0\"\nbackend = { type = \"memory\", size = \"1MiB\" }\n";
        let found = changed(old, &two);
        assert!(
            found.iter().any(|f| f.starts_with(place)),
            "{found:#?}\n{place}"
        );
    }
}

#[test]
fn links_to_one_file_are_one_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.img"), [0; 512]).unwrap();
    std::os::unix::fs::symlink("a.img", dir.path().join("b.img")).unwrap();
    let unit = |name: &str| {
        let path = dir.path().join(name);
        format!(
            "[[logical_unit]]\nname = \"{}\"\nbackend = {{ type = \"file\", path = {path:?} }}\n",
            &name[..1]
        )
    };
    let found = changed(
        "[[target]]",
        &format!("{}{}[[target]]", unit("a.img"), unit("b.img")),
    );
    assert!(
        found
            .iter()
            .any(|f| f.contains("is used by two logical units")),
        "{found:#?}"
    );
}

#[test]
fn targets_and_their_luns() {
    let name = "\"iqn.2026-11.io.iiblockdaemon:disk0\"";
    one(
        name,
        "\"disk0\"",
        "9:8 \"disk0\" is not an iSCSI name | a valid one:",
    );
    one(
        name,
        "\"iqn.2026-13.io.x\"",
        "9:8 \"iqn.2026-13.io.x\" is not an iSCSI name",
    );
    let found = changed("name = \"iqn", "nmae = \"iqn");
    assert!(
        found[0].starts_with("8:1 [[target]] has no name | name the target"),
        "{found:#?}"
    );
    assert!(
        found[1].starts_with("9:1 unknown key \"nmae\" in [[target]] | did you mean \"name\"?")
    );
    one(
        "lun = 0",
        "lun = 256",
        "11:7 lun = 256 is out of range | lun goes from 0 to 255",
    );
    one("lun = 0", "", "10:1 [[target.lun]] has no lun");
    let found = changed("[[target.lun]]\nlun = 0\nunit = \"disk0\"", "");
    assert!(found[0].starts_with("6:8 warning: no target maps the logical unit \"disk0\""));
    assert!(found[1].starts_with("8:1 [[target]] has no [[target.lun]] | map a logical unit"));
    one(
        "[[target.lun]]",
        "alias = \"\"\n[[target.lun]]",
        "10:9 this cannot be alias",
    );
    one(
        "[[target.lun]]",
        "header_digest = \"crc\"\n[[target.lun]]",
        "10:17 header_digest cannot be \"crc\"",
    );
    one(
        "[[target.lun]]",
        "addresses = [\"10.0.0.0/33\"]\n[[target.lun]]",
        "10:14 \"10.0.0.0/33\" is not a network",
    );
    one(
        "[[target.lun]]",
        "initiators = [\"iqn.[ab]*\"]\n[[target.lun]]",
        "10:15 \"iqn.[ab]*\" matches no initiator name | a pattern knows one wildcard: *",
    );
    one(
        "unit = \"disk0\"",
        "unit = \"disk0\"\ninitiators = [\"debian*\"]",
        "13:15 \"debian*\" matches no initiator name",
    );
    one(
        "unit = \"disk0\"\n",
        "unit = \"disk0\"\n[[target.lun]]\nlun = 0\nunit = \"disk0\"\n",
        "14:7 the unit is mapped twice at LUN 0 | remove one of the two",
    );
    let found = changed(
        "[[target]]",
        "[[logical_unit]]\nname = \"d1\"\nbackend = { type = \"null\", size = 512 }\n[[target]]\n\
         name = \"iqn.2026-11.io.x\"\n[[target.lun]]\nlun = 0\nunit = \"disk0\"\n[[target.lun]]\n\
         lun = 0\nunit = \"d1\"\n[[target]]",
    );
    assert_eq!(
        found,
        ["17:7 two units are mapped at LUN 0 | the lowest free LUN of this target is 1"]
    );
    one(
        "[[target]]",
        "[[target]]\nname = \"IQN.2026-11.io.iiblockdaemon:disk0\"\n[[target.lun]]\nlun = 1\nunit = \"disk0\"\n[[target]]",
        "14:8 two targets are named iqn.2026-11.io.iiblockdaemon:disk0",
    );
}

#[test]
fn credentials() {
    let auth = |text: &str| format!("[target.auth]\n{text}\n[[target.lun]]");
    let lun = "[[target.lun]]";
    one(
        lun,
        &auth("method = \"chap\""),
        "11:10 CHAP needs user and secret",
    );
    one(
        lun,
        &auth("method = \"chap\"\nuser = \"a\""),
        "11:10 CHAP needs user and secret",
    );
    one(
        lun,
        &auth("method = \"cahp\""),
        "11:10 method cannot be \"cahp\" | did you mean \"chap\"?",
    );
    one(
        lun,
        &auth("user = \"a\"\nsecret = \"twelve bytes\""),
        "10:1 [target.auth] has no method | add method = \"chap\"",
    );
    one(
        lun,
        &auth("method = \"none\"\nuser = \"a\"\nsecret = \"twelve bytes\""),
        "11:10 warning: the credentials are not used",
    );
    one(
        lun,
        &auth("method = \"chap\"\nuser = \"a\"\nsecret = \"\""),
        "13:10 the secret is empty",
    );
    one(
        lun,
        &auth("method = \"chap\"\nuser = \"a\"\nsecret = \"eleven byte\""),
        "13:10 warning: the secret has fewer than 12 bytes | RFC 7143 §9.2.1",
    );
    let pair = "method = \"chap\"\nuser = \"a\"\nsecret = \"twelve bytes\"\n";
    one(
        lun,
        &auth(&format!("{pair}mutual_user = \"b\"")),
        "14:1 mutual CHAP is half configured",
    );
    one(
        lun,
        &auth(&format!("{pair}mutual_secret = \"other twelve\"")),
        "14:1 mutual CHAP is half configured",
    );
    one(
        lun,
        &auth(&format!(
            "{pair}mutual_user = \"b\"\nmutual_secret = \"twelve bytes\""
        )),
        "15:17 both directions of CHAP use one secret",
    );
    one(
        lun,
        &auth(&format!("{pair}secret_file = \"x\"")),
        "13:1 both secret and secret_file are given",
    );
    one(
        lun,
        &auth(&format!("{pair}algorithms = []")),
        "14:14 algorithms is empty",
    );
    one(
        lun,
        &auth(&format!("{pair}algorithms = [\"sha-256\"]")),
        "14:15 an element of algorithms cannot be \"sha-256\" | did you mean \"sha256\"?",
    );
    one(
        lun,
        &auth(&format!("{pair}algorithms = [\"md5\", \"md5\"]")),
        "14:22 \"md5\" stands twice in algorithms",
    );
    one(
        "[[portal_group]]",
        "[discovery.auth]\nmethod = \"chap\"\n[[portal_group]]",
        "3:10 CHAP needs user and secret",
    );
}

#[test]
fn no_report_shows_a_secret() {
    let auth = "[target.auth]\nmethod = \"chap\"\nuser = \"a\"\nsecret = \"hush-hush\"\nsecrt = 1\n[[target.lun]]";
    let report = parse(&GOOD.replace("[[target.lun]]", auth)).unwrap_err();
    let rendered = report.render(false);
    assert!(rendered.contains("secret = \"*********\""), "{rendered}");
    assert!(!rendered.contains("hush") && !format!("{report:?}").contains("hush"));
}

#[test]
fn secrets_are_read_from_files_beside_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("alice.secret");
    let text = GOOD.replace(
        "[[target.lun]]",
        "[target.auth]\nmethod = \"chap\"\nuser = \"alice\"\nsecret_file = \"alice.secret\"\n[[target.lun]]",
    );
    let parse = || Config::parse("x.toml", &text, &around(dir.path()));
    let found = findings(&parse().unwrap_err());
    assert!(
        found[0].starts_with("13:15 the secret file ") && found.len() == 1,
        "{found:#?}"
    );

    fs::write(&file, "a secret of alice\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let loaded = parse().unwrap();
    let found = findings(&loaded.report);
    assert!(
        found[0].starts_with("13:15 warning: everybody on this machine can read"),
        "{found:#?}"
    );
    assert!(found[0].contains("| chmod 0600 "), "{found:#?}");

    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let loaded = parse().unwrap();
    assert_eq!(findings(&loaded.report), [""; 0]);
    let Auth::Chap(chap) = &loaded.config.targets[0].auth else {
        panic!("no CHAP")
    };
    assert_eq!(chap.secret.expose(), b"a secret of alice");

    fs::write(&file, [b'x'; 400]).unwrap();
    let found = findings(&parse().unwrap_err());
    assert!(
        found[0].starts_with("13:15 the secret is too long"),
        "{found:#?}"
    );
}

#[test]
fn files_that_cannot_be_read_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Config::load(&dir.path().join("none.toml"))
        .unwrap_err()
        .to_string();
    assert!(
        missing.contains("none.toml: there is no such file\n  help: copy deploy/"),
        "{missing}"
    );
    let folder = Config::load(dir.path()).unwrap_err().to_string();
    assert!(folder.contains("cannot be read"), "{folder}");
    let binary = dir.path().join("binary.toml");
    fs::write(&binary, [0xff, 0xfe]).unwrap();
    let binary = Config::load(&binary).unwrap_err().to_string();
    assert!(
        binary.contains("help: a configuration is a file of UTF-8 text"),
        "{binary}"
    );
}

mod hostile;
mod ports;
mod targets;
