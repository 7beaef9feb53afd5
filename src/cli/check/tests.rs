//! Machines made of files, each lacking one thing.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::config::Surroundings;

/// Two cards of four queues, one at each of two NUMA nodes.
const SERVER: &str = r#"
[cores]
list = [2, 3, 4, 5, 10, 11, 12, 13]
poll = "busy"
[memory]
pages = "huge"
[dpdk]
memory_mib = 1024
[[port]]
name = "p0"
type = "dpdk"
device = "0000:3b:00.0"
cores = [2, 3, 4, 5]
addresses = ["10.0.0.2/24"]
[[port]]
name = "p1"
type = "dpdk"
device = "0000:af:00.0"
cores = [10, 11, 12, 13]
addresses = ["10.0.1.2/24", "fd00::2/64"]
[[portal_group]]
tag = 1
portals = ["10.0.0.2", "10.0.1.2"]
[[logical_unit]]
name = "disk0"
backend = { type = "memory", size = "1MiB" }
[[target]]
name = "iqn.2026-11.io.iiblockdaemon:disk0"
[[target.lun]]
lun = 0
unit = "disk0"
"#;

/// A directory that looks like the root of a machine.
struct Fake(TempDir);

impl Fake {
    fn file(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, path: &str, to: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        symlink(to, path).unwrap();
    }

    /// The interfaces that /proc knows.
    fn interfaces(&self, names: &[&str]) {
        let lines = names.iter().map(|name| format!("  {name}: 0 0 0 0\n"));
        let head = "Inter-|   Receive\n face |bytes\n".to_owned();
        self.file("proc/net/dev", &lines.fold(head, |text, line| text + &line));
    }

    fn remove(&self, path: &str) {
        let path = self.0.path().join(path);
        let removed = match path.symlink_metadata().unwrap().is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.unwrap();
    }

    fn card(&self, address: &str, node: usize, group: usize) {
        let device = format!("sys/bus/pci/devices/{address}");
        self.file(&format!("{device}/class"), "0x020000\n");
        self.file(&format!("{device}/numa_node"), &format!("{node}\n"));
        self.link(
            &format!("{device}/driver"),
            "../../../bus/pci/drivers/vfio-pci",
        );
        self.link(
            &format!("{device}/iommu_group"),
            &format!("../../../kernel/iommu_groups/{group}"),
        );
        self.file(
            &format!("sys/kernel/iommu_groups/{group}/devices/{address}"),
            "",
        );
        self.file(&format!("dev/vfio/{group}"), "");
    }

    /// A machine on which [`SERVER`] runs.
    fn server() -> Self {
        let fake = Self(tempfile::tempdir().unwrap());
        let cpu = "sys/devices/system/cpu";
        fake.file(&format!("{cpu}/online"), "0-15\n");
        fake.file(&format!("{cpu}/isolated"), "2-5,10-13\n");
        fake.file(&format!("{cpu}/nohz_full"), "2-5,10-13\n");
        for at in 0..16 {
            let path = format!("{cpu}/cpu{at}/topology/thread_siblings_list");
            fake.file(&path, &format!("{at}\n"));
        }
        let node = "sys/devices/system/node";
        for (at, cpus) in [(0, "0-7\n"), (1, "8-15\n")] {
            fake.file(&format!("{node}/node{at}/cpulist"), cpus);
            let pages = format!("{node}/node{at}/hugepages/hugepages-2048kB");
            fake.file(&format!("{pages}/nr_hugepages"), "800\n");
            fake.file(&format!("{pages}/free_hugepages"), "800\n");
        }
        fake.file(
            "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "1600\n",
        );
        fake.file(
            "proc/meminfo",
            "MemTotal: 1 kB\nHugePages_Total:    1600\nHugePages_Free:     1600\n\
             HugePages_Rsvd:        0\nHugepagesize:       2048 kB\n",
        );
        fake.file(
            "proc/self/status",
            "Name:\tx\nUid:\t990\t990\t990\t990\nCapEff:\t0000000000000000\n\
             Cpus_allowed_list:\t0-15\n",
        );
        fake.file(
            "proc/self/limits",
            "Limit  Soft Limit  Hard Limit  Units\n\
             Max locked memory         unlimited            unlimited            bytes\n",
        );
        fake.file(
            "proc/net/route",
            "Iface\tDestination\tGateway\tFlags\neth0\t00000000\t010200C0\t0003\n\
             eth1\t0001A8C0\t00000000\t0001\n",
        );
        fake.file("dev/vfio/vfio", "");
        fake.card("0000:3b:00.0", 0, 12);
        fake.card("0000:af:00.0", 1, 40);
        fake
    }

    /// Takes a card away from vfio-pci.
    fn with_driver(&self, address: &str, driver: &str, interface: &str) {
        let device = format!("sys/bus/pci/devices/{address}");
        self.link(&format!("{device}/driver"), &format!("../drivers/{driver}"));
        self.file(&format!("{device}/net/{interface}/mtu"), "1500\n");
    }
}

fn config(text: &str) -> Config {
    let around = Surroundings {
        dir: "/nowhere".into(),
        state_dir: Some("/state".into()),
        cpus: 16,
    };
    Config::parse("x.toml", text, &around).unwrap().config
}

/// What is found, but for the missing feature, which a build has or has not.
fn found(text: &str, fake: &Fake) -> Vec<String> {
    let found = machine(&config(text), &Tree::new(fake.0.path()));
    let shown = found.iter().map(Found::to_string);
    shown
        .filter(|text| !text.contains("needs the feature `dpdk`"))
        .collect()
}

/// Exactly one thing is found, which begins with `expected` and says `help` somewhere.
fn one(text: &str, fake: &Fake, expected: &str, help: &str) {
    let found = found(text, fake);
    assert!(
        found.len() == 1 && found[0].starts_with(expected) && found[0].contains(help),
        "{found:#?}\n{expected}\n{help}"
    );
}

#[test]
fn a_machine_that_has_everything_is_good() {
    assert_eq!(found(SERVER, &Fake::server()), [""; 0]);
}

#[test]
fn a_build_without_dpdk_says_how_to_get_one() {
    let found = machine(&config(SERVER), &Tree::new(Fake::server().0.path()));
    let expected = usize::from(!dpdk::BUILT_IN);
    assert_eq!(found.len(), expected, "{found:#?}");
    for found in found {
        assert_eq!(found.severity, Severity::Error);
        let text = found.to_string();
        assert!(text.starts_with("error: port p0, p1: type \"dpdk\" needs"));
        assert!(text.contains("cargo build --release --features dpdk"));
    }
}

#[test]
fn cpus_that_are_not_there_or_not_ours() {
    let fake = Fake::server();
    fake.file("sys/devices/system/cpu/online", "0-11\n");
    one(
        SERVER,
        &fake,
        "error: [cores] list: CPU 12-13 is not there or off-line",
        "choose from 0-11",
    );
    let fake = Fake::server();
    fake.file(
        "proc/self/status",
        "CapEff:\t0\nCpus_allowed_list:\t0-4,10-13\n",
    );
    let held = "error: [cores] list: CPU 5 is not one of those that this process may use";
    one(SERVER, &fake, held, "AllowedCPUs=");
    let loose = SERVER.replace("poll = \"busy\"", "poll = \"busy\"\npin = false");
    assert_eq!(found(&loose, &fake), [""; 0]);
}

#[test]
fn cpus_far_from_their_card() {
    let swapped = SERVER.replace("cores = [2, 3, 4, 5]", "cores = [2, 3, 10, 11]");
    one(
        &swapped,
        &Fake::server(),
        "warning: port p0: 0000:3b:00.0 is at NUMA node 0, CPU 10-11 of its queues is not",
        "choose from CPU 0-7",
    );
    // A machine without nodes says -1.
    let fake = Fake::server();
    fake.file("sys/bus/pci/devices/0000:3b:00.0/numa_node", "-1\n");
    assert_eq!(found(&swapped, &fake), [""; 0]);
}

#[test]
fn cores_that_spin_want_their_cpus_alone() {
    let fake = Fake::server();
    fake.file("sys/devices/system/cpu/isolated", "\n");
    fake.file("sys/devices/system/cpu/nohz_full", "(null)\n");
    fake.file(
        "sys/devices/system/cpu/cpu2/topology/thread_siblings_list",
        "2,10\n",
    );
    let all = found(SERVER, &fake);
    assert_eq!(all.len(), 3, "{all:#?}");
    assert!(all[0].starts_with("warning: [cores] poll = \"busy\", and CPU 2-5,10-13 is not"));
    assert!(all[0].contains("isolcpus=managed_irq,domain,2-5,10-13"));
    assert!(all[1].contains("nohz_full=2-5,10-13 rcu_nocbs=2-5,10-13"));
    assert!(all[2].contains("CPU 2 and 10 are threads of one core"));
    let adaptive = SERVER.replace("poll = \"busy\"", "");
    assert_eq!(found(&adaptive, &fake), [""; 0]);
    let fake = Fake::server();
    fake.file("sys/devices/system/cpu/online", "2-5,10-13\n");
    one(
        SERVER,
        &fake,
        "warning: [cores] list takes every CPU",
        "leave at least one CPU",
    );
}

#[test]
fn huge_pages_that_are_missing_are_counted() {
    // 8 pools of 256 MiB, rings of 2 ports at each core, 1 GiB for DPDK: 1024, 16 and 512 pages.
    let fake = Fake::server();
    let meminfo = |free: usize, reserved: usize| {
        format!(
            "HugePages_Total:    1600\nHugePages_Free:     {free}\nHugePages_Rsvd:        {reserved}\n\
             Hugepagesize:       2048 kB\n"
        )
    };
    fake.file("proc/meminfo", &meminfo(1500, 64));
    let expected = "error: 1552 huge pages of 2M are needed (1024 for the pools, 16 for the rings \
                    of connections, 512 for DPDK), 1436 are free: 116 are missing";
    one(SERVER, &fake, expected, "sysctl -w vm.nr_hugepages=1716");
    one(SERVER, &fake, expected, "hugepagesz=2M hugepages=1716");
    // DPDK also takes pages of 1 GiB.
    let large = "sys/kernel/mm/hugepages/hugepages-1048576kB";
    fake.file(&format!("{large}/free_hugepages"), "1\n");
    assert_eq!(found(SERVER, &fake), [""; 0]);
    fake.file(&format!("{large}/resv_hugepages"), "1\n");
    assert_eq!(found(SERVER, &fake).len(), 1);
    let normal = SERVER.replace("pages = \"huge\"", "");
    fake.file("proc/meminfo", &meminfo(511, 0));
    one(
        &normal,
        &fake,
        "error: 512 huge pages of 2M are needed (512 for DPDK), 511 are free: 1 are missing",
        "vm.nr_hugepages=1601",
    );
    fake.file("proc/meminfo", "MemTotal: 1 kB\n");
    one(
        SERVER,
        &fake,
        "error: this kernel has no huge pages",
        "normal",
    );
}

#[test]
fn huge_pages_at_the_wrong_node_are_told() {
    let fake = Fake::server();
    let pages = "sys/devices/system/node/node1/hugepages/hugepages-2048kB";
    fake.file(&format!("{pages}/nr_hugepages"), "740\n");
    fake.file(&format!("{pages}/free_hugepages"), "700\n");
    let expected = "warning: NUMA node 1 has 700 free huge pages of 2M, and what runs there wants \
                    776";
    let now = "echo 816 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages";
    one(SERVER, &fake, expected, now);
    one(SERVER, &fake, expected, "hugepages=1:816");
}

#[test]
fn cards_and_their_drivers() {
    let p0 = "0000:3b:00.0";
    let fake = Fake::server();
    fake.remove(&format!("sys/bus/pci/devices/{p0}"));
    one(
        SERVER,
        &fake,
        "error: port p0: there is no PCI device 0000:3b:00.0",
        "lspci",
    );
    let fake = Fake::server();
    fake.file(&format!("sys/bus/pci/devices/{p0}/class"), "0x010802\n");
    one(
        SERVER,
        &fake,
        "error: port p0: 0000:3b:00.0 is no network card (PCI class 0x010802)",
        "",
    );
    let fake = Fake::server();
    fake.remove(&format!("sys/bus/pci/devices/{p0}/driver"));
    one(
        SERVER,
        &fake,
        "error: port p0: 0000:3b:00.0 is bound to no driver",
        "driverctl set-override 0000:3b:00.0 vfio-pci",
    );
    let fake = Fake::server();
    fake.with_driver(p0, "igb_uio", "none0");
    one(
        SERVER,
        &fake,
        "warning: port p0: 0000:3b:00.0 is bound to igb_uio",
        "driverctl",
    );
    let fake = Fake::server();
    fake.with_driver(p0, "ixgbe", "eth7");
    one(
        SERVER,
        &fake,
        "error: port p0: 0000:3b:00.0 is bound to ixgbe, the kernel's driver",
        "echo 0000:3b:00.0 > /sys/bus/pci/drivers_probe",
    );
}

#[test]
fn a_card_that_the_host_needs_is_not_taken() {
    let fake = Fake::server();
    fake.with_driver("0000:3b:00.0", "ixgbe", "eth0");
    let all = found(SERVER, &fake);
    assert_eq!(all.len(), 2, "{all:#?}");
    assert!(all[0].starts_with("error: port p0: 0000:3b:00.0 is eth0, the host's default route"));
    let fake = Fake::server();
    fake.with_driver("0000:3b:00.0", "ixgbe", "eth1");
    let all = found(SERVER, &fake);
    assert!(
        all[0]
            .starts_with("warning: port p0: 0000:3b:00.0 is eth1, which the host has addresses on")
    );
    assert!(all[0].contains("ip address flush dev eth1"), "{all:#?}");
}

#[test]
fn routes_of_both_ip_versions_show_what_an_interface_is_for() {
    let fake = Fake::server();
    let zeros = "0".repeat(32);
    let route = |destination: &str, len: &str, interface: &str| {
        format!("{destination} {len} {zeros} 00 {zeros} 00000400 00000003 00000000 1 {interface}\n")
    };
    let local = "fe80".to_owned() + &"0".repeat(28);
    let network = "fd00".to_owned() + &"0".repeat(28);
    let routes =
        route(&zeros, "00", "eth4") + &route(&network, "40", "eth5") + &route(&local, "40", "eth6");
    fake.file("proc/net/ipv6_route", &routes);
    let tree = Tree::new(fake.0.path());
    let used = |interface| interfaces::used_for(interface, &tree);
    assert_eq!(used("eth0"), Some(interfaces::Use::DefaultRoute));
    assert_eq!(used("eth1"), Some(interfaces::Use::Routes));
    assert_eq!(used("eth4"), Some(interfaces::Use::DefaultRoute));
    assert_eq!(used("eth5"), Some(interfaces::Use::Routes));
    assert_eq!((used("eth6"), used("eth")), (None, None));
}

#[test]
fn the_iommu_group_has_to_be_free_and_usable() {
    let device = "sys/bus/pci/devices/0000:3b:00.0";
    let fake = Fake::server();
    fake.remove(&format!("{device}/iommu_group"));
    one(
        SERVER,
        &fake,
        "error: port p0: 0000:3b:00.0 is in no IOMMU group",
        "intel_iommu=on iommu=pt",
    );
    let fake = Fake::server();
    let members = "sys/kernel/iommu_groups/12/devices";
    for (member, driver) in [
        ("0000:3a:00.0", "pcieport"),
        ("0000:3b:00.1", "ixgbe"),
        ("0000:3b:00.2", "vfio-pci"),
    ] {
        fake.file(&format!("{members}/{member}"), "");
        fake.link(
            &format!("sys/bus/pci/devices/{member}/driver"),
            &format!("../drivers/{driver}"),
        );
    }
    // Bound to nothing.
    fake.file(&format!("{members}/0000:3b:00.3"), "");
    one(
        SERVER,
        &fake,
        "error: port p0: 0000:3b:00.0 shares IOMMU group 12 with 0000:3b:00.1, which is bound to \
         ixgbe",
        "bind 0000:3b:00.1 to vfio-pci too",
    );
    let fake = Fake::server();
    fake.remove("dev/vfio/12");
    let expected = "error: port p0: /dev/vfio/12 may not be opened by this user";
    one(SERVER, &fake, expected, "DeviceAllow=/dev/vfio/12 rw");
    let fake = Fake::server();
    fake.file(
        "sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
        "Y\n",
    );
    let all = found(SERVER, &fake);
    assert!(all.len() == 2 && all[0].starts_with("warning: port p0: vfio works without an IOMMU"));
    let ordinary = SERVER.replace("memory_mib = 1024", "memory_mib = 1024\nhuge = false");
    let all = found(&ordinary, &Fake::server());
    assert_eq!(all.len(), 2, "{all:#?}");
    assert!(all[0].starts_with("error: port p0: a card needs huge pages"));
}

#[test]
fn shared_cards_stay_with_their_driver() {
    let p0 = "0000:3b:00.0";
    let device = format!("sys/bus/pci/devices/{p0}");
    let fake = Fake::server();
    fake.with_driver(p0, "mlx5_core", "ens1");
    fake.file(&format!("{device}/net/ens1/mtu"), "9000\n");
    let expected = "error: port p0: mlx5_core does not offer 0000:3b:00.0 to user space";
    one(SERVER, &fake, expected, "modprobe mlx5_ib ib_uverbs");
    fake.file(&format!("{device}/infiniband_verbs/uverbs0/dev"), "");
    let expected = "error: port p0: /dev/infiniband/uverbs0 may not be opened";
    one(
        SERVER,
        &fake,
        expected,
        "DeviceAllow=/dev/infiniband/uverbs0 rw",
    );
    fake.file("dev/infiniband/uverbs0", "");
    assert_eq!(found(SERVER, &fake), [""; 0]);
    fake.file(&format!("{device}/net/ens1/mtu"), "1500\n");
    let expected = "warning: port p0: mtu = 9000, and ens1 has 1500";
    one(SERVER, &fake, expected, "ip link set ens1 mtu 9000");
    fake.file("proc/net/route", "Iface\nens1\t00000000\t010200C0\t0003\n");
    let all = found(SERVER, &fake);
    assert!(
        all[0].contains("0000:3b:00.0 is ens1, the host's default route"),
        "{all:#?}"
    );
}

#[test]
fn memory_that_cards_reach_has_to_be_lockable() {
    let fake = Fake::server();
    let limits = "Max locked memory         8388608              8388608              bytes\n";
    fake.file("proc/self/limits", limits);
    one(
        SERVER,
        &fake,
        "error: this process may lock 8 MiB of memory, and cards reach 3072 MiB of it",
        "LimitMEMLOCK=infinity",
    );
    fake.file(
        "proc/self/status",
        "CapEff:\t0000000000004000\nCpus_allowed_list:\t0-15\n",
    );
    assert_eq!(found(SERVER, &fake), [""; 0]);
}

const TAP: &str = r#"
[[port]]
name = "t0"
type = "tap"
device = "iibd0"
addresses = ["10.0.0.2/24", "fd00::2/64"]
[[portal_group]]
tag = 1
portals = ["10.0.0.2"]
[[logical_unit]]
name = "disk0"
backend = { type = "memory", size = "1MiB" }
[[target]]
name = "iqn.2026-11.io.iiblockdaemon:disk0"
[[target.lun]]
lun = 0
unit = "disk0"
"#;

#[test]
fn tap_devices_and_who_may_have_them() {
    let fake = Fake::server();
    fake.file("dev/net/tun", "");
    let needs = "error: port t0: a TAP device needs CAP_NET_ADMIN";
    one(TAP, &fake, needs, "ip tuntap add iibd0 mode tap");
    let device = "sys/class/net/iibd0";
    fake.interfaces(&["iibd0"]);
    fake.file(&format!("{device}/mtu"), "1500\n");
    fake.file(&format!("{device}/tun_flags"), "0x5102\n");
    fake.file(&format!("{device}/owner"), "0\n");
    one(TAP, &fake, needs, "");
    fake.file(&format!("{device}/owner"), "990\n");
    assert_eq!(found(TAP, &fake), [""; 0]);
    // Another MTU takes the privilege.
    fake.file(&format!("{device}/mtu"), "9000\n");
    let mtu = "error: port t0: mtu = 1500, and iibd0 has 9000";
    one(TAP, &fake, mtu, "ip link set iibd0 mtu 1500");
    fake.remove(&format!("{device}/tun_flags"));
    one(
        TAP,
        &fake,
        "error: port t0: the interface iibd0 is there and is no TAP device",
        "",
    );
    let fake = Fake::server();
    fake.file("proc/self/status", "CapEff:\t0000000000001000\n");
    one(
        TAP,
        &fake,
        "error: port t0: there is no /dev/net/tun",
        "modprobe tun",
    );
    fake.file("dev/net/tun", "");
    assert_eq!(found(TAP, &fake), [""; 0]);
}

#[test]
fn addresses_of_the_host_are_not_a_ports() {
    let fake = Fake::server();
    fake.file("dev/net/tun", "");
    fake.file("proc/self/status", "CapEff:\t0000000000001000\n");
    fake.file(
        "proc/net/fib_trie",
        "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.1\n        /32 host LOCAL\n     |-- \
         10.0.0.255\n        /32 link BROADCAST\n     |-- 10.0.0.2\n        /24 link UNICAST\n",
    );
    assert_eq!(found(TAP, &fake), [""; 0]);
    fake.file(
        "proc/net/fib_trie",
        "Main:\n     |-- 10.0.0.2\n        /32 link UNICAST\n        /32 host LOCAL\n",
    );
    one(
        TAP,
        &fake,
        "error: port t0: 10.0.0.2 is an address of the host, too",
        "ip address del 10.0.0.2/24",
    );
    fake.remove("proc/net/fib_trie");
    fake.file(
        "proc/net/if_inet6",
        "fd000000000000000000000000000002 03 40 00 80     eth0\n",
    );
    one(
        TAP,
        &fake,
        "error: port t0: fd00::2 is an address of the host, too",
        "",
    );
}

#[test]
fn virtual_devices_and_what_they_stand_on() {
    let vdev = |text: &str, more: &str| {
        TAP.replace(
            "type = \"tap\"\ndevice = \"iibd0\"",
            &format!("type = \"dpdk\"\nvdev = \"{text}\"\nqueues = 2\n{more}"),
        ) + "[dpdk]\nhuge = false\n"
    };
    let packet = vdev("net_af_packet0,iface=vd0,qpairs=2", "mtu = 9000");
    let fake = Fake::server();
    fake.file("proc/self/status", "CapEff:\t0000000000003000\n");
    one(
        &packet,
        &fake,
        "error: port t0: there is no interface vd0",
        "ip link",
    );
    fake.interfaces(&["vd0"]);
    fake.file("sys/class/net/vd0/mtu", "1500\n");
    one(
        &packet,
        &fake,
        "error: port t0: mtu = 9000, and vd0 has 1500",
        "ip link set vd0 mtu 9000",
    );
    fake.file("sys/class/net/vd0/mtu", "9000\n");
    assert_eq!(found(&packet, &fake), [""; 0]);
    fake.file("sys/class/net/vd0/operstate", "down\n");
    one(
        &packet,
        &fake,
        "warning: port t0: vd0 is down",
        "ip link set vd0 up",
    );
    // /sys is another network namespace's: what it says of a vd0 of its own does not count.
    fake.file("sys/class/net/vd0/mtu", "1500\n");
    fake.interfaces(&["lo", "vd0"]);
    assert_eq!(found(&packet, &fake), [""; 0]);
    fake.file("proc/sys/net/ipv6/conf/vd0/mtu", "1500\n");
    one(
        &packet,
        &fake,
        "error: port t0: mtu = 9000, and vd0 has 1500",
        "ip link set vd0 mtu 9000",
    );
    fake.interfaces(&["vd0"]);
    fake.file("sys/class/net/vd0/mtu", "9000\n");
    let single = vdev("net_virtio_user0,path=/tmp/s", "");
    let queues = "error: port t0: 2 queues, and net_virtio_user0 has 1";
    one(
        &single,
        &fake,
        queues,
        "add queues=2 to vdev, or set queues = 1",
    );
    assert_eq!(found(&vdev("net_null0", ""), &fake), [""; 0]);
    fake.file("proc/self/status", "CapEff:\t0000000000000000\n");
    let raw = "error: port t0: net_tap0 needs CAP_NET_ADMIN";
    one(
        &vdev("net_tap0", ""),
        &fake,
        raw,
        "AmbientCapabilities=CAP_NET_ADMIN",
    );
    fake.remove("sys/class/net/vd0/operstate");
    let raw = "error: port t0: net_af_packet0,iface=vd0,qpairs=2 needs CAP_NET_RAW";
    one(&packet, &fake, raw, "unshare -rn");
}

#[test]
fn a_configuration_for_sockets_asks_for_nothing() {
    let fake = Fake(tempfile::tempdir().unwrap());
    let start = TAP.find("[[port]]").unwrap();
    let end = TAP.find("[[portal_group]]").unwrap();
    let plain = TAP.replace(&TAP[start..end], "");
    assert_eq!(found(&plain, &fake), [""; 0]);
    let busy = format!("[cores]\ncount = 2\npoll = \"busy\"\n{plain}");
    one(
        &busy,
        &fake,
        "warning: [cores] poll = \"busy\" without list",
        "isolcpus",
    );
}

#[test]
fn numbers_are_written_as_ranges() {
    assert_eq!(ranges(&[5, 3, 4, 8, 8]), "3-5,8");
    assert_eq!(ranges(&[]), "");
}

/// One unit on a controller of our own.
const FLASH: &str = r#"
[memory]
pool_mib_per_core = 64
[[portal_group]]
tag = 1
portals = ["10.0.0.2"]
[[logical_unit]]
name = "flash"
nvme = "0000:5e:00.0"
namespace = 1
[[logical_unit]]
name = "more"
nvme = "0000:5e:00.0"
namespace = 2
[[target]]
name = "iqn.2026-11.io.iiblockdaemon:flash"
[[target.lun]]
lun = 0
unit = "flash"
[[target.lun]]
lun = 1
unit = "more"
"#;

#[test]
fn a_controller_has_to_be_there_and_ours() {
    let fake = Fake::server();
    let absent = "error: logical_unit flash: there is no PCI device 0000:5e:00.0";
    one(FLASH, &fake, absent, "iiblockdaemon nvme list");
    fake.card("0000:5e:00.0", 0, 50);
    let network = "error: logical_unit flash: 0000:5e:00.0 is no NVMe controller (PCI class 0x02";
    one(FLASH, &fake, network, "nvme list");
    let device = "sys/bus/pci/devices/0000:5e:00.0";
    fake.file(&format!("{device}/class"), "0x010802\n");
    assert_eq!(found(FLASH, &fake), [""; 0]);
    fake.link(&format!("{device}/driver"), "../../../bus/pci/drivers/nvme");
    let kernels = "error: logical_unit flash: 0000:5e:00.0 is bound to nvme";
    one(
        FLASH,
        &fake,
        kernels,
        "iiblockdaemon nvme bind 0000:5e:00.0",
    );
    fake.remove(&format!("{device}/driver"));
    one(
        FLASH,
        &fake,
        "error: logical_unit flash: 0000:5e:00.0 is bound to no driver",
        "bind",
    );
}

#[test]
fn a_controller_is_guarded_and_may_be_opened() {
    let fake = Fake::server();
    fake.card("0000:5e:00.0", 0, 50);
    let device = "sys/bus/pci/devices/0000:5e:00.0";
    fake.file(&format!("{device}/class"), "0x010802\n");
    fake.remove("dev/vfio/50");
    let closed = "error: logical_unit flash: /dev/vfio/50 may not be opened by this user";
    one(FLASH, &fake, closed, "DeviceAllow=/dev/vfio/50 rw");
    fake.file("dev/vfio/50", "");
    for (name, value) in [
        ("current_link_speed", "8.0 GT/s PCIe\n"),
        ("max_link_speed", "16.0 GT/s PCIe\n"),
        ("current_link_width", "4\n"),
        ("max_link_width", "4\n"),
    ] {
        fake.file(&format!("{device}/{name}"), value);
    }
    let slow = "warning: logical_unit flash: the link of 0000:5e:00.0 is at 8.0 GT/s PCIe, 4 lanes";
    one(FLASH, &fake, slow, "16.0 GT/s PCIe");
    fake.file(&format!("{device}/current_link_speed"), "16.0 GT/s PCIe\n");
    fake.file(
        "proc/self/limits",
        "Max locked memory         8388608              8388608              bytes\n",
    );
    let locked = "error: this process may lock 8 MiB of memory, and cards reach ";
    one(FLASH, &fake, locked, "LimitMEMLOCK=infinity");
    fake.link(&format!("{device}/iommu_group"), "../../groups/50");
    fake.file("sys/bus/pci/groups/50/name", "vfio-noiommu\n");
    let unguarded = found(FLASH, &fake);
    let expected = "error: logical_unit flash: no IOMMU guards the machine from 0000:5e:00.0";
    assert!(unguarded[0].starts_with(expected), "{unguarded:#?}");
}

#[test]
fn a_device_of_the_kernels_driver_may_be_opened() {
    let text = FLASH
        .replace(
            "nvme = \"0000:5e:00.0\"\nnamespace = 1",
            "backend = { type = \"memory\", size = 4096 }",
        )
        .replace(
            "nvme = \"0000:5e:00.0\"\nnamespace = 2",
            "backend = { type = \"nvme-kernel\", path = \"/dev/ng0n1\" }",
        );
    let fake = Fake::server();
    let closed = "error: logical_unit more: /dev/ng0n1 may not be opened";
    one(&text, &fake, closed, "/dev/ng0n1 (Linux 5.13 or newer)");
    fake.file("dev/ng0n1", "");
    assert_eq!(found(&text, &fake), [""; 0]);
}
