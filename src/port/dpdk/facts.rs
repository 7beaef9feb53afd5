//! What is known of DPDK's drivers beyond what they report themselves, and what this machine's
//! /sys says about pages and PCI devices.

use std::fs;
use std::path::Path;

use super::EalError;

/// Whether a device may read frames out of memory that is not DPDK's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lending {
    /// It copies what it sends before `rte_eth_tx_burst` returns.
    Copies,
    /// It reads by DMA: memory has to be registered first.
    Dma,
    /// Frames go to somebody who cannot reach our memory or keeps the buffers themselves.
    Never,
}

/// One driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Driver {
    pub(super) lending: Lending,
    /// It carries longer frames than it says: its refusal of an MTU is no reason to stop.
    pub(super) any_mtu: bool,
    /// Buffers that it sends end up with whoever receives them.
    pub(super) passes_buffers: bool,
    /// Its segmentation is known to work.
    pub(super) segments: bool,
    /// Bytes of payload in a segment, at least: less is what cards take for an attack.
    pub(super) segment_least: u16,
    /// It uses of a receive buffer only as much as a power of two.
    pub(super) rounds_room: bool,
    /// Rings of so many descriptors that each receive queue fills with buffers.
    pub(super) receive_rings: u16,
    /// Bytes of one buffer that it sends from, at most.
    pub(super) buffer_most: u16,
    /// Buffers of one frame that it takes at most, where it does not say or says too much.
    pub(super) pieces_most: Option<u16>,
    /// It cannot be asked for what it has sent, and looks by itself whenever it is called.
    pub(super) looks_when_called: bool,
}

/// What most cards take.
const SEGMENT_LEAST: u16 = 64;
/// What a descriptor of most cards can say (`ixgbe`, `enic`); drivers of others cut by themselves.
const BUFFER_MOST: u16 = 1 << 14;

const VIRTUAL: Driver = Driver {
    lending: Lending::Never,
    any_mtu: true,
    passes_buffers: false,
    segments: false,
    segment_least: SEGMENT_LEAST,
    rounds_room: false,
    receive_rings: 1,
    buffer_most: u16::MAX,
    pieces_most: None,
    looks_when_called: false,
};

/// What is not known is held to what it reports.
const UNKNOWN: Driver = Driver {
    lending: Lending::Dma,
    any_mtu: false,
    passes_buffers: false,
    segments: true,
    segment_least: SEGMENT_LEAST,
    rounds_room: false,
    receive_rings: 1,
    buffer_most: BUFFER_MOST,
    pieces_most: None,
    looks_when_called: false,
};

/// Drivers of which more is known. All that are not here are held to what they report.
const DRIVERS: &[(&str, Driver)] = &[
    (
        "net_af_packet",
        Driver {
            lending: Lending::Copies,
            ..VIRTUAL
        },
    ),
    (
        "net_vhost",
        Driver {
            lending: Lending::Copies,
            ..VIRTUAL
        },
    ),
    (
        "net_null",
        Driver {
            lending: Lending::Copies,
            ..VIRTUAL
        },
    ),
    (
        "net_ring",
        Driver {
            passes_buffers: true,
            ..VIRTUAL
        },
    ),
    ("net_virtio_user", VIRTUAL),
    ("net_memif", VIRTUAL),
    // The host's side of the device drops what is longer than its MTU.
    (
        "net_tap",
        Driver {
            any_mtu: false,
            ..VIRTUAL
        },
    ),
    // `em_rctl_bsize` in the driver's source.
    (
        "net_e1000_em",
        Driver {
            rounds_room: true,
            ..UNKNOWN
        },
    ),
    // Two command rings, of first and of further pieces of frames. Lengths of 14 bits, and bit 14
    // is the one that hands a descriptor over. It says 255 of a frame that the device cuts, and
    // the device takes 24 (VMXNET3_MAX_TSO_TXD_PER_PKT).
    (
        "net_vmxnet3",
        Driver {
            receive_rings: 2,
            buffer_most: BUFFER_MOST - 1,
            pieces_most: Some(24),
            looks_when_called: true,
            ..UNKNOWN
        },
    ),
    // BNXT_MAX_TSO_SEGS, and one of them is for what the device is to do.
    (
        "net_bnxt",
        Driver {
            pieces_most: Some(31),
            looks_when_called: true,
            ..UNKNOWN
        },
    ),
    // MLX4_MAX_SGE.
    (
        "net_mlx4",
        Driver {
            pieces_most: Some(32),
            ..UNKNOWN
        },
    ),
    // As many as its ring has; the hosts that are known take 256 and more.
    (
        "net_virtio",
        Driver {
            pieces_most: Some(33),
            ..UNKNOWN
        },
    ),
    // I40E_MIN_TSO_MSS and IAVF_MIN_TSO_MSS in the drivers' sources.
    (
        "net_i40e",
        Driver {
            segment_least: 256,
            ..UNKNOWN
        },
    ),
    (
        "net_iavf",
        Driver {
            segment_least: 256,
            ..UNKNOWN
        },
    ),
];

/// The driver of that name, of a device on the bus of that name.
pub(super) fn driver(name: &str, bus: &str) -> Driver {
    // A driver may have several aliases: "net_virtio_user" is also "virtio_user".
    let known = DRIVERS
        .iter()
        .find(|(known, _)| *known == name || known.strip_prefix("net_") == Some(name));
    match known {
        Some((_, driver)) => *driver,
        None if bus == "vdev" => Driver {
            any_mtu: false,
            ..VIRTUAL
        },
        None => UNKNOWN,
    }
}

/// A driver's counter of that name counts what was lost or came wrong, as most name them.
pub(super) fn is_trouble(name: &str) -> bool {
    const WORDS: &[&str] = &[
        "err",
        "errs",
        "error",
        "errors",
        "drop",
        "drops",
        "dropped",
        "miss",
        "misses",
        "missed",
        "discard",
        "discards",
        "discarded",
        "overflow",
        "overflows",
    ];
    /// Of several words, the last of which may go on.
    const BEGINNINGS: &[&str] = &["_nobuf", "_no_buf", "_out_of_buf"];
    let name = format!("_{}", name.to_ascii_lowercase());
    name.split('_').any(|word| WORDS.contains(&word))
        || BEGINNINGS.iter().any(|words| name.contains(words))
}

/// `key=value` among the arguments of a virtual device.
pub(super) fn argument<'a>(device: &'a str, key: &str) -> Option<&'a str> {
    device
        .split(',')
        .skip(1)
        .find_map(|argument| argument.strip_prefix(key)?.strip_prefix('='))
}

/// Bytes that the kernel puts before a frame in a ring of `net_af_packet` (`TPACKET_V2`: the header
/// and the address, rounded up, and 16 bytes for a link header of which it has 14).
const AF_PACKET_BEFORE: usize = 66;
/// `framesz` where it is not given.
const AF_PACKET_FRAME: usize = 2048;

/// The longest frame of a device with such arguments, and the least room of a receive buffer;
/// where these are not what the device reports.
pub(super) fn ring_of_af_packet(driver: &str, device: &str) -> Option<(usize, usize)> {
    if driver != "net_af_packet" {
        return None;
    }
    let asked = argument(device, "framesz").and_then(|bytes| bytes.parse().ok());
    let frame: usize = asked.unwrap_or(AF_PACKET_FRAME);
    Some((frame.saturating_sub(AF_PACKET_BEFORE), frame))
}

/// The address with its domain.
pub(super) fn pci_address(address: &str) -> String {
    let address = address.to_ascii_lowercase();
    if address.matches(':').count() == 1 {
        format!("0000:{address}")
    } else {
        address
    }
}

/// Drivers of the kernel beside which DPDK works.
const BIFURCATED: &[&str] = &["mlx4_core", "mlx5_core", "mana"];
/// Drivers of the kernel that hand a device to DPDK.
const HANDS_OVER: &[&str] = &["vfio-pci", "uio_pci_generic", "igb_uio", "uio_hv_generic"];

/// Whether DPDK can have a PCI device, by a /sys below `root`.
pub(super) fn pci_device(root: &Path, address: &str) -> Result<(), EalError> {
    let refuse = |why: String| EalError::Pci {
        address: address.to_owned(),
        why,
    };
    let device = root.join("sys/bus/pci/devices").join(address);
    if !device.exists() {
        return Err(refuse("there is none; `lspci -D` lists them".to_owned()));
    }
    let bind = format!("`dpdk-devbind.py --bind=vfio-pci {address}`");
    let link = |name: &str| {
        let target = fs::read_link(device.join(name)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    };
    let Some(driver) = link("driver") else {
        return Err(refuse(format!("no driver is bound to it; {bind}")));
    };
    if BIFURCATED.contains(&driver.as_str()) {
        return Ok(());
    }
    if !HANDS_OVER.contains(&driver.as_str()) {
        return Err(refuse(format!(
            "the kernel's driver {driver} has it; take its interface down, then {bind}"
        )));
    }
    if driver != "vfio-pci" {
        return Ok(());
    }
    let Some(group) = link("iommu_group") else {
        return Err(refuse(
            "it is in no IOMMU group: switch the IOMMU on (intel_iommu=on or amd_iommu=on on the \
             kernel's command line, and in the firmware)"
                .to_owned(),
        ));
    };
    let mut dev = root.join("dev/vfio").join(&group);
    // Without an IOMMU, where the kernel was told to allow that.
    let unsafe_dev = root.join("dev/vfio").join(format!("noiommu-{group}"));
    if unsafe_dev.exists() {
        dev = unsafe_dev;
    }
    let both = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
    rustix::fs::access(&dev, both).map_err(|errno| {
        refuse(format!(
            "{} cannot be opened for reading and writing: {errno}; give it to the user of this \
             process (chown, or a rule of udev)",
            dev.display()
        ))
    })
}

/// Whether `needed_mib` MiB of huge pages are free, by a /sys below `root`.
pub(super) fn huge_pages(root: &Path, needed_mib: u32) -> Result<(), EalError> {
    let number = |path: &Path| -> u64 {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    let mut free_kib = 0u64;
    let mut texts = Vec::new();
    for entry in fs::read_dir(root.join("sys/kernel/mm/hugepages"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let kib = name
            .strip_prefix("hugepages-")
            .and_then(|rest| rest.strip_suffix("kB")?.parse::<u64>().ok());
        let free = number(&entry.path().join("free_hugepages"));
        if let Some(kib) = kib.filter(|_| free > 0) {
            free_kib = free_kib.saturating_add(kib.saturating_mul(free));
            texts.push(format!("{free} pages of {kib} KiB"));
        }
    }
    let needed_kib = u64::from(needed_mib) * 1024;
    if free_kib >= needed_kib {
        return Ok(());
    }
    texts.sort();
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let value = |key: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let page_kib = value("Hugepagesize:")
        .filter(|&kib| kib > 0)
        .unwrap_or(2048);
    let missing = (needed_kib - free_kib).div_ceil(page_kib);
    Err(EalError::HugePages {
        needed_mib,
        free: if texts.is_empty() {
            "none".to_owned()
        } else {
            texts.join(" and ")
        },
        nr_hugepages: value("HugePages_Total:").unwrap_or(0) + missing,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn drivers_that_are_not_known_are_held_to_what_they_report() {
        assert!(driver("net_af_packet", "vdev").any_mtu);
        assert_eq!(driver("virtio_user", "vdev").lending, Lending::Never);
        assert_eq!(driver("net_bonding", "vdev").lending, Lending::Never);
        assert_eq!(driver("net_e1000_em", "pci").lending, Lending::Dma);
        assert!(driver("net_e1000_em", "pci").rounds_room);
        assert_eq!(driver("net_vmxnet3", "pci").receive_rings, 2);
        assert_eq!(driver("net_e1000_em", "pci").receive_rings, 1);
        assert!(driver("net_vmxnet3", "pci").looks_when_called);
        assert!(!driver("net_e1000_em", "pci").looks_when_called);
        assert_eq!(driver("net_iavf", "pci").segment_least, 256);
        assert_eq!(driver("net_ixgbe", "pci").segment_least, 64);
        assert!(!driver("net_e1000_em", "pci").any_mtu);
        assert!(!driver("net_tap", "vdev").any_mtu);
    }

    #[test]
    fn counters_of_losses_are_told_from_those_of_traffic() {
        for name in [
            "rx_missed_errors",
            "tx_errors",
            "rx_mbuf_allocation_errors",
            "rx_q0_errors",
            "rx_out_of_buffer_discards",
            "rx_crc_errors",
            "tx_dropped",
            "mac_local_errors",
            "rx_fifo_overflow",
            "rx_out_of_buffer",
            "rx_nobuffer",
            "RX_NO_BUFS",
            "RX_DROP_ALL",
            "TX_ERR_SHORT",
            "no_buf_count",
            "err_count",
        ] {
            assert!(is_trouble(name), "{name}");
        }
        for name in [
            "rx_good_packets",
            "tx_good_bytes",
            "rx_q0_packets",
            "rx_size_64_packets",
            "tx_deferred_packets",
            "rx_interrupts",
            "TX_DEFERRED",
            "transmission_ok",
            "",
        ] {
            assert!(!is_trouble(name), "{name}");
        }
    }

    #[test]
    fn frames_of_af_packet_are_as_long_as_its_ring_says() {
        let device = "net_af_packet0,iface=v0,framesz=16384,blocksz=65536";
        assert_eq!(argument(device, "iface"), Some("v0"));
        assert_eq!(argument(device, "frame"), None);
        assert_eq!(
            ring_of_af_packet("net_af_packet", device),
            Some((16384 - 66, 16384))
        );
        assert_eq!(
            ring_of_af_packet("net_af_packet", "net_af_packet0"),
            Some((1982, 2048))
        );
        assert_eq!(ring_of_af_packet("net_null", device), None);
    }

    #[test]
    fn pci_devices_that_cannot_be_had_are_explained() {
        let root = tempfile::tempdir().unwrap();
        let path = |rest: &str| root.path().join(rest);
        let why = |address: &str| {
            pci_device(root.path(), address)
                .map_err(|error| error.to_string())
                .unwrap_err()
        };
        let address = pci_address("03:00.0");
        assert_eq!(address, "0000:03:00.0");
        assert!(why(&address).contains("lspci"));
        let device = path("sys/bus/pci/devices/0000:03:00.0");
        fs::create_dir_all(&device).unwrap();
        assert!(why(&address).contains("no driver is bound"));
        symlink("../../drivers/e1000e", device.join("driver")).unwrap();
        assert!(why(&address).contains("e1000e has it"));
        fs::remove_file(device.join("driver")).unwrap();
        symlink("../../drivers/vfio-pci", device.join("driver")).unwrap();
        assert!(why(&address).contains("intel_iommu=on"));
        symlink("../../kernel/iommu_groups/7", device.join("iommu_group")).unwrap();
        assert!(why(&address).contains("dev/vfio/7"));
        fs::create_dir_all(path("dev/vfio")).unwrap();
        fs::write(path("dev/vfio/7"), "").unwrap();
        assert_eq!(pci_device(root.path(), &address), Ok(()));
        fs::rename(path("dev/vfio/7"), path("dev/vfio/noiommu-7")).unwrap();
        assert_eq!(pci_device(root.path(), &address), Ok(()));
        assert_eq!(pci_address("AF:00.0"), "0000:af:00.0");
        fs::remove_file(device.join("driver")).unwrap();
        symlink("../../drivers/mlx5_core", device.join("driver")).unwrap();
        assert_eq!(pci_device(root.path(), &address), Ok(()));
    }

    #[test]
    fn missing_huge_pages_are_counted() {
        let root = tempfile::tempdir().unwrap();
        let write = |rest: &str, text: &str| {
            let path = root.path().join(rest);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let text = huge_pages(root.path(), 64).unwrap_err().to_string();
        assert!(text.contains("none are free"), "{text}");
        assert!(text.contains("nr_hugepages=32`"), "{text}");
        write(
            "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "3\n",
        );
        write(
            "proc/meminfo",
            "HugePages_Total:      10\nHugepagesize:       2048 kB\n",
        );
        let text = huge_pages(root.path(), 64).unwrap_err().to_string();
        assert!(text.contains("3 pages of 2048 KiB are free"), "{text}");
        assert!(text.contains("nr_hugepages=39`"), "{text}");
        write(
            "sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages",
            "1\n",
        );
        assert_eq!(huge_pages(root.path(), 64), Ok(()));
    }
}
