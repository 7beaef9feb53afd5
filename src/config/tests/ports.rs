//! What `[dpdk]` and `[[port]]` may say, and what each mistake in them leads to.

use std::net::SocketAddr;

use super::*;
use crate::net::stack::model::{Address, Network, Route};

/// A port of each kind, with a portal on each network.
const PORTS: &str = r#"
[cores]
list = [2, 3, 4, 5]
[dpdk]
[[port]]
name = "p0"
type = "dpdk"
device = "3b:00.0"
addresses = ["10.0.0.2/24", "fd00::2/64"]
gateway = ["10.0.0.1", "fd00::1"]
routes = [{ to = "10.1.0.0/16", via = "10.0.0.9" }]
dscp = 8
[[port.vlan]]
id = 100
pcp = 3
dscp = 26
addresses = ["10.0.100.2/24"]
gateway = "10.0.100.1"
[[port.vlan]]
id = 200
addresses = ["10.0.200.2/24"]
[[port]]
name = "t0"
type = "tap"
device = "iibd0"
queues = 2
cores = [5, 3]
mtu = 4000
promiscuous = true
keepalive_s = 20
user_timeout_s = 90
addresses = ["192.168.7.2/24"]
[[portal_group]]
tag = 1
portals = ["0.0.0.0:3260", "10.0.0.2", "[fd00::2]:3261"]
[[portal_group]]
tag = 2
portals = ["10.0.100.2", "192.168.7.2", "127.0.0.1:3262"]
[[logical_unit]]
name = "disk0"
backend = { type = "memory", size = "1MiB" }
[[target]]
name = "iqn.2026-11.io.iiblockdaemon:disk0"
[[target.lun]]
lun = 0
unit = "disk0"
"#;

fn good(from: &str, to: &str) -> Config {
    assert!(PORTS.contains(from), "{from} is not in the good file");
    let loaded = parse(&PORTS.replacen(from, to, 1)).unwrap();
    assert_eq!(findings(&loaded.report), [""; 0], "{to}");
    loaded.config
}

/// `to` in place of `from` leads to one finding, which stands below `to`'s first line and goes on
/// like this.
fn only(from: &str, to: &str, expected: &str) {
    assert!(PORTS.contains(from), "{from} is not in the good file");
    let found = match parse(&PORTS.replacen(from, to, 1)) {
        Ok(loaded) => findings(&loaded.report),
        Err(report) => findings(&report),
    };
    assert!(
        found.len() == 1 && found[0].starts_with(expected),
        "{to}:\n{found:#?}\n{expected}"
    );
}

fn address(text: &str) -> Address {
    let (ip, prefix) = text.split_once('/').unwrap();
    Address {
        ip: ip.parse().unwrap(),
        prefix: prefix.parse().unwrap(),
    }
}

fn route(to: &str, via: &str) -> Route {
    Route {
        to: address(to),
        via: via.parse().unwrap(),
    }
}

#[test]
fn ports_with_every_key_and_every_default() {
    let config = good("", "");
    let dpdk = config.dpdk.as_ref().unwrap();
    assert!(dpdk.huge && dpdk.args.is_empty());
    assert_eq!(dpdk.file_prefix, "iiblockdaemon");
    // Four queues of 4096 frames of 10 KiB, and 64 MiB.
    assert_eq!(dpdk.memory_bytes, (4 * 40 + 64) << 20);
    let [nic, tap] = &config.ports[..] else {
        panic!("{:?}", config.ports)
    };
    assert_eq!(nic.device, Device::Pci("0000:3b:00.0".to_owned()));
    assert_eq!(
        (nic.name.as_str(), &nic.cores[..], nic.mtu),
        ("p0", &[0, 1, 2, 3][..], 9000)
    );
    assert!(!nic.promiscuous);
    let seconds = Duration::from_secs;
    assert_eq!(
        (nic.keepalive, nic.user_timeout),
        (seconds(15), seconds(60))
    );
    let untagged = Network {
        vlan: None,
        pcp: 0,
        dscp: 8,
        addresses: vec![address("10.0.0.2/24"), address("fd00::2/64")],
        routes: vec![
            route("0.0.0.0/0", "10.0.0.1"),
            route("::/0", "fd00::1"),
            route("10.1.0.0/16", "10.0.0.9"),
        ],
    };
    let first = Network {
        vlan: Some(100),
        pcp: 3,
        dscp: 26,
        addresses: vec![address("10.0.100.2/24")],
        routes: vec![route("0.0.0.0/0", "10.0.100.1")],
    };
    let second = Network {
        vlan: Some(200),
        pcp: 0,
        // The port's own.
        dscp: 8,
        addresses: vec![address("10.0.200.2/24")],
        routes: vec![],
    };
    assert_eq!(nic.networks, [untagged, first, second]);
    assert_eq!(tap.device, Device::Tap("iibd0".to_owned()));
    assert_eq!((&tap.cores[..], tap.mtu), (&[3, 1][..], 4000));
    assert!(tap.promiscuous);
    assert_eq!(
        (tap.keepalive, tap.user_timeout),
        (seconds(20), seconds(90))
    );
}

#[test]
fn portals_belong_to_the_port_that_has_their_address() {
    let config = good("", "");
    let of = |group: usize| -> Vec<Option<usize>> {
        let portals = config.portal_groups[group].portals.iter();
        portals.map(|portal| portal.port).collect()
    };
    assert_eq!(of(0), [None, Some(0), Some(0)]);
    assert_eq!(of(1), [Some(0), Some(1), None]);
    let settings = config.settings(0, [7; 32]);
    let portals: Vec<(SocketAddr, u16)> = settings
        .portals
        .iter()
        .map(|portal| (portal.address, portal.tag))
        .collect();
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    assert_eq!(
        portals,
        [
            (at("10.0.0.2:3260"), 1),
            (at("[fd00::2]:3261"), 1),
            (at("10.0.100.2:3260"), 2)
        ]
    );
    assert_eq!(settings.networks, config.ports[0].networks);
    assert_eq!((settings.secret, settings.half_open_max), ([7; 32], 64));
    assert_eq!(settings.flows_max, 1024 + 64 + 64);
    assert_eq!(settings.user_timeout, Duration::from_secs(60));
    assert_eq!(config.settings(1, [0; 32]).portals.len(), 1);
    // The host's wildcard does not take the port's connections; a second portal there would.
    only(
        "\"0.0.0.0:3260\"",
        "\"10.0.0.2:3260\"",
        "35:29 portal 10.0.0.2:3260 collides with 10.0.0.2:3260",
    );
    only(
        "\"192.168.7.2\"",
        "\"192.168.7.2:0\"",
        "38:26 portal 192.168.7.2:0 takes any free port | name the port: iSCSI's is 3260",
    );
    only(
        "\"[fd00::2]:3261\"",
        "\"[fd00::2%3]:3261\"",
        "35:40 portal [fd00::2%3]:3261 has the scope 3, on a port | a port is no interface of the \
         host's: write [fd00::2]:3261",
    );
    only(
        "\"192.168.7.2\"",
        "\"192.168.7.3:3264\"",
        "23:1 warning: no portal is on the port \"t0\" | name one of its addresses in a \
         [[portal_group]], as in portals = [\"192.168.7.2:3260\"]",
    );
}

#[test]
fn ports_and_their_devices() {
    let device = "device = \"3b:00.0\"";
    for text in ["0000:3b:00.0", "0:3B:0.0"] {
        let config = good("3b:00.0", text);
        assert_eq!(
            config.ports[0].device,
            Device::Pci("0000:3b:00.0".to_owned())
        );
    }
    for wrong in [
        "",
        "eth0",
        "3b:00",
        "3b:20.0",
        "3b:00.8",
        "3b.00.0",
        "00003:3b:00.0",
        "3b:+1.0",
        "0000:100:00.0",
    ] {
        only("3b:00.0", wrong, &format!("8:10 {wrong:?} is not a PCI"));
    }
    let vdev = "vdev = \"net_af_packet0,iface=vd0,qpairs=4\"";
    let config = good(device, vdev);
    let expected = Device::Vdev("net_af_packet0,iface=vd0,qpairs=4".to_owned());
    assert_eq!(config.ports[0].device, expected);
    assert_eq!(config.ports[0].mtu, 1500);
    for wrong in ["", "af_packet0", "net_tap0, iface=x", ",net_tap0"] {
        only(
            device,
            &format!("vdev = {wrong:?}"),
            &format!("8:8 {wrong:?} is not a virtual device"),
        );
    }
    only(
        device,
        "vdev = \"net_af_paket0\"",
        "8:8 warning: DPDK's driver \"net_af_paket\" is not one that we know | did you mean \
         \"net_af_packet\"?",
    );
    only(
        device,
        &format!("{device}\n{vdev}"),
        "9:8 the port has both device and vdev",
    );
    only(device, "", "5:1 [[port]] has no device");
    only("device = \"iibd0\"", "", "22:1 [[port]] has no device");
    for wrong in ["", ".", "a/b", "a b", "sixteen_letters_"] {
        only(
            "iibd0",
            wrong,
            &format!("25:10 {wrong:?} cannot name a network"),
        );
    }
    only(
        "device = \"iibd0\"",
        "device = \"iibd0\"\nvdev = \"net_tap0\"",
        "26:8 a port of type \"tap\" has no vdev",
    );
    only("\"tap\"", "\"tun\"", "24:8 type cannot be \"tun\"");
    only(
        "\"t0\"",
        "\"p0\"",
        "23:8 two ports are named \"p0\" | give each",
    );
    only("\"t0\"", "\"t 0\"", "23:8 \"t 0\" cannot name a port");
    only(
        "type = \"tap\"\ndevice = \"iibd0\"",
        "type = \"dpdk\"\ndevice = \"0000:3b:00.0\"",
        "25:10 two ports drive \"0000:3b:00.0\" | a device belongs to one port",
    );
    only(
        "promiscuous",
        "promiscous",
        "29:1 unknown key \"promiscous\" in [[port]] | did you mean \"promiscuous\"?",
    );
}

#[test]
fn queues_and_their_cores() {
    assert_eq!(
        good("queues = 2\ncores = [5, 3]", "").ports[1].cores,
        [0, 1, 2, 3]
    );
    assert_eq!(good("cores = [5, 3]", "").ports[1].cores, [0, 1]);
    assert_eq!(good("queues = 2", "").ports[1].cores, [3, 1]);
    let counted = parse(
        &PORTS
            .replace("list = [2, 3, 4, 5]", "count = 3")
            .replace("cores = [5, 3]", ""),
    );
    assert_eq!(counted.unwrap().config.ports[0].cores, [0, 1, 2]);
    only(
        "list = [2, 3, 4, 5]",
        "count = 4",
        "27:9 cores names CPUs, and [cores] does not say",
    );
    only(
        "[5, 3]",
        "[5, 6]",
        "27:13 CPU 6 is not a data core | [cores] list has [2, 3, 4, 5]",
    );
    only("[5, 3]", "[5, 5]", "27:13 CPU 5 stands twice in cores");
    only("[5, 3]", "[]", "27:9 cores is empty");
    only("queues = 2", "queues = 3", "26:10 3 queues and 2 cores");
    only(
        "queues = 2",
        "queues = 5",
        "26:10 queues = 5 is out of range | queues goes from 1 to 4",
    );
}

#[test]
fn addresses_gateways_and_routes() {
    let own = "[\"192.168.7.2/24\"]";
    for (wrong, expected) in [
        ("[]", "32:13 addresses is empty"),
        (
            "[\"192.168.7.2\"]",
            "32:14 192.168.7.2 has no prefix length | say how long its network is, as in \
             \"192.168.7.2/24\"",
        ),
        ("[\"x/24\"]", "32:14 \"x/24\" is not an address with"),
        ("[\"192.168.7.2/33\"]", "32:14 \"192.168.7.2/33\" is not"),
        ("[\"0.0.0.0/24\"]", "32:14 0.0.0.0/24 cannot be a port's"),
        ("[\"127.0.0.2/8\"]", "32:14 127.0.0.2/8 cannot be a port's"),
        ("[\"224.0.0.2/24\"]", "32:14 224.0.0.2/24 cannot be"),
        ("[\"192.168.7.0/24\"]", "32:14 192.168.7.0/24 cannot be"),
        ("[\"192.168.7.255/24\"]", "32:14 192.168.7.255/24 cannot"),
        ("[\"192.168.7.2/0\"]", "32:14 192.168.7.2/0 cannot be"),
        ("[\"fd01::/64\"]", "32:14 fd01::/64 cannot be a port's"),
        ("[\"ff02::1/64\"]", "32:14 ff02::1/64 cannot be a port's"),
        (
            "[\"10.0.100.2/24\"]",
            "32:14 10.0.100.2 stands twice | an address belongs to one port and one VLAN",
        ),
    ] {
        // No portal there, so that only the address is wrong.
        let text = PORTS.replace("\"192.168.7.2\"", "\"127.0.0.1:3263\"");
        let found = match parse(&text.replacen(own, wrong, 1)) {
            Ok(loaded) => findings(&loaded.report),
            Err(report) => findings(&report),
        };
        let found: Vec<&String> = found
            .iter()
            .filter(|f| !f.contains("no portal is"))
            .collect();
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{wrong}: {found:#?}"
        );
    }
    for good_one in [
        "[\"192.168.7.2/31\"]",
        "[\"192.168.7.2/32\"]",
        "[\"192.168.7.2/24\", \"fe80::5/64\"]",
    ] {
        good(own, good_one);
    }
    let gateway = "gateway = \"10.0.100.1\"";
    for (wrong, expected) in [
        (
            "gateway = \"10.0.101.1\"",
            "18:11 gateway 10.0.101.1 cannot be reached from here | a router has to be in \
             10.0.100.0/24",
        ),
        (
            "gateway = \"fd00::1\"",
            "18:11 gateway fd00::1 cannot be reached from here | there is no IPv6 address",
        ),
        (
            "gateway = \"10.0.100.2\"",
            "18:11 gateway 10.0.100.2 is the port's own address",
        ),
        (
            "gateway = \"10.0.100.255\"",
            "18:11 gateway 10.0.100.255 is no host's address",
        ),
        ("gateway = \"router\"", "18:11 \"router\" is not an address"),
        ("gateway = 7", "18:11 gateway must be an array"),
        (
            "gateway = [\"10.0.100.1\", \"10.0.100.3\"]",
            "18:26 two default gateways of one IP version",
        ),
        (
            "gateway = \"10.0.100.1\"\nroutes = [{ to = \"0.0.0.0/0\", via = \"10.0.100.3\" }]",
            "19:18 two default gateways of one IP version",
        ),
    ] {
        only(gateway, wrong, expected);
    }
    let routes = "{ to = \"10.1.0.0/16\", via = \"10.0.0.9\" }";
    for (wrong, expected) in [
        (
            "{ to = \"10.1.0.0/16\" }",
            "11:11 [[port.routes]] has no via",
        ),
        ("{ via = \"10.0.0.9\" }", "11:11 [[port.routes]] has no to"),
        (
            "{ to = \"10.1.0.1/16\", via = \"10.0.0.9\" }",
            "11:18 10.1.0.1/16 has bits behind its prefix | the network is 10.1.0.0/16",
        ),
        (
            "{ to = \"far\", via = \"10.0.0.9\" }",
            "11:18 \"far\" is not a network",
        ),
        (
            "{ to = \"fd01::/48\", via = \"10.0.0.9\" }",
            "11:18 the way to fd01::/48 cannot lead by 10.0.0.9",
        ),
        (
            "{ to = \"10.1.0.0/16\", via = \"10.0.0.9\" }, { to = \"10.1.0.0/16\", via = \"10.0.0.8\" }",
            "11:60 two routes to 10.1.0.0/16",
        ),
        (
            "{ to = \"10.1.0.0/16\", via = \"10.0.0.9\", metric = 3 }",
            "11:51 unknown key \"metric\"",
        ),
    ] {
        only(routes, wrong, expected);
    }
    only(
        "pcp = 3",
        "pcp = 8",
        "15:7 pcp = 8 is out of range | pcp goes from 0 to 7",
    );
    only("dscp = 26", "dscp = 64", "16:8 dscp = 64 is out of range");
    only(
        "dscp = 8",
        "pcp = 1",
        "12:1 unknown key \"pcp\" in [[port]]",
    );
    only("id = 200", "id = 100", "20:6 VLAN 100 stands twice");
    for wrong in ["0", "4095"] {
        let expected = format!("20:6 id = {wrong} is out of range | id goes from 1 to 4094");
        only("id = 200", &format!("id = {wrong}"), &expected);
    }
    only("id = 200\n", "", "19:1 [[port.vlan]] has no id");
    only(
        "addresses = [\"10.0.200.2/24\"]\n",
        "",
        "19:1 [[port.vlan]] has no addresses",
    );
}

#[test]
fn too_many_of_anything_is_refused() {
    let many =
        |count: usize, each: &dyn Fn(usize) -> String| -> String { (0..count).map(each).collect() };
    let vlans = many(VLANS_MAX, &|at| {
        let id = 300 + at;
        format!("[[port.vlan]]\nid = {id}\naddresses = [\"10.9.{at}.2/24\"]\n")
    });
    let portal_groups = "[[port]]\nname = \"t0\"";
    only(
        portal_groups,
        &format!("{vlans}{portal_groups}"),
        "208:1 more than 64 VLANs of one port",
    );
    let addresses = many(ADDRESSES_MAX, &|at| format!(", \"10.0.0.{}/24\"", 10 + at));
    only(
        ", \"fd00::2/64\"]",
        &format!(", \"fd00::2/64\"{addresses}]"),
        "9:139 more than 8 addresses in one network",
    );
    let routes = many(ROUTES_MAX, &|at| {
        format!("{{ to = \"10.8.{at}.0/24\", via = \"10.0.0.9\" }}, ")
    });
    let found = parse(&PORTS.replace("routes = [", &format!("routes = [{routes}"))).unwrap_err();
    let found = findings(&found);
    assert!(
        found.len() == 1 && found[0].contains("more than 32 routes in one network"),
        "{found:#?}"
    );
    let ports = many(PORTS_MAX, &|at| {
        format!(
            "[[port]]\nname = \"m{at}\"\ntype = \"tap\"\ndevice = \"m{at}\"\n\
             addresses = [\"10.7.{at}.2/24\"]\n"
        )
    });
    let text = PORTS.replacen("[[portal_group]]", &format!("{ports}[[portal_group]]"), 1);
    let found = findings(&parse(&text).unwrap_err());
    let errors: Vec<&String> = found.iter().filter(|f| !f.contains("warning")).collect();
    assert!(
        errors.len() == 1 && errors[0].contains("more than 16 ports"),
        "{errors:#?}"
    );
}

#[test]
fn what_dpdk_is_told() {
    let dpdk = |keys: &str| good("[dpdk]", &format!("[dpdk]\n{keys}")).dpdk.unwrap();
    let full = dpdk(
        "memory_mib = 2048\nhuge = false\nfile_prefix = \"second\"\nargs = [\"--log-level=7\"]",
    );
    assert_eq!(
        full,
        Dpdk {
            memory_bytes: 2 << 30,
            huge: false,
            file_prefix: "second".to_owned(),
            args: vec!["--log-level=7".to_owned()],
        }
    );
    for (wrong, expected) in [
        (
            "memory_mib = 1",
            "5:14 memory_mib = 1 is out of range | memory_mib goes from 64",
        ),
        ("huge = 1", "5:8 huge must be true or false"),
        ("file_prefix = \"a/b\"", "5:15 \"a/b\" cannot be a file"),
        (
            "args = [\"--vdev=net_null0\"]",
            "5:9 the daemon sets --vdev itself | what decides it: vdev of [[port]]",
        ),
        ("args = [\"-m\", \"64\"]", "5:9 the daemon sets -m itself"),
        ("args = [\"\"]", "5:9 an argument is empty"),
        ("memory = 5", "5:1 unknown key \"memory\" in [dpdk]"),
    ] {
        only("[dpdk]", &format!("[dpdk]\n{wrong}"), expected);
    }
    // With a TAP device alone nothing of DPDK is there.
    let start = PORTS.find("[[port]]").unwrap();
    let end = PORTS.find("[[port]]\nname = \"t0\"").unwrap();
    let tap = PORTS.replace(&PORTS[start..end], "");
    let tap = tap
        .replace("\"10.0.0.2\", \"[fd00::2]:3261\"", "")
        .replace("\"10.0.100.2\",", "");
    let loaded = parse(&tap).unwrap();
    assert_eq!(loaded.config.dpdk, None);
    assert_eq!(
        findings(&loaded.report),
        [
            "4:1 warning: [dpdk] without a port that needs it | add a [[port]] with type = \
          \"dpdk\", or leave [dpdk] out"
        ]
    );
    let loaded = parse(&tap.replace("[dpdk]", "")).unwrap();
    assert_eq!(findings(&loaded.report), [""; 0]);
}

#[test]
fn sizes_and_times_have_bounds() {
    for (wrong, expected) in [
        ("mtu = 575", "28:7 mtu = 575 is out of range"),
        ("mtu = 65536", "28:7 mtu = 65536 is out of range"),
        ("mtu = 65522", "28:7 mtu 65522 is too long for a TAP device"),
    ] {
        only("mtu = 4000", wrong, expected);
    }
    only(
        "device = \"3b:00.0\"",
        "device = \"3b:00.0\"\nmtu = 1279",
        "9:7 mtu 1279 is too short for IPv6",
    );
    assert_eq!(good("mtu = 4000", "mtu = 576").ports[1].mtu, 576);
    only(
        "user_timeout_s = 90",
        "user_timeout_s = 20",
        "31:1 user_timeout_s (20) ends a connection before keepalive_s (20) has asked",
    );
    only(
        "keepalive_s = 20",
        "keepalive_s = 0",
        "30:15 keepalive_s = 0 is out of range | keepalive_s goes from 1 to 3600 seconds",
    );
}
