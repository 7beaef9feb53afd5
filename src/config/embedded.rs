//! What runs without a configuration file: one portal on loopback, one target, one disk.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::{default_cores, default_limits, default_memory};
use super::model::{
    Access, Auth, Backend, Config, Cores, Daemon, DigestPolicy, Engine, LogicalUnit, LunMap,
    MAX_CONNECTIONS_DEFAULT, Nvme, Placement, Poll, Portal, PortalGroup, ReservationMatching,
    Target, TargetState, Thin,
};
use super::units::ISCSI_PORT;
use crate::iscsi::names::IscsiName;

/// The embedded target's name.
pub const EMBEDDED_TARGET: &str = "iqn.2026-11.io.iiblockdaemon:disk0";
/// The embedded disk's size in bytes.
pub const EMBEDDED_SIZE: u64 = 1 << 30;
/// Bytes in a block of the embedded disk.
pub const EMBEDDED_BLOCK_SIZE: u32 = 512;

impl Config {
    /// A 1-GiB disk in `<state_dir>/disk0.img`, served on 127.0.0.1:3260 and, where the host has
    /// it, on `[::1]:3260`, to anybody who can reach these.
    pub fn embedded(state_dir: &Path) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let loopback = |ip, optional| Portal {
            address: SocketAddr::new(ip, ISCSI_PORT),
            port: None,
            optional,
        };
        let name = IscsiName::parse(EMBEDDED_TARGET).expect("the constant is a valid name");
        Self {
            daemon: Daemon {
                state_dir: state_dir.to_owned(),
                shutdown_timeout: Duration::from_secs(10),
                management_url: None,
            },
            cores: Cores {
                list: default_cores(cpus),
                pin: true,
                poll: Poll::Adaptive,
                placement: Placement::Least,
            },
            memory: default_memory(),
            limits: default_limits(),
            dpdk: None,
            ports: Vec::new(),
            nvme: Nvme::default(),
            metrics: None,
            discovery_auth: Auth::None,
            portal_groups: vec![PortalGroup {
                tag: 1,
                portals: vec![
                    loopback(Ipv4Addr::LOCALHOST.into(), false),
                    loopback(Ipv6Addr::LOCALHOST.into(), true),
                ],
                access: Access::Optimized,
                preferred: false,
            }],
            logical_units: vec![LogicalUnit {
                name: "disk0".to_owned(),
                block_size: EMBEDDED_BLOCK_SIZE,
                physical_block_size: 4096,
                read_only: false,
                write_cache: true,
                removable: false,
                long_cdbs: false,
                serial: None,
                reservations: ReservationMatching::Port,
                explicit_alua: false,
                thin: Thin::default(),
                backend: image(state_dir.join("disk0.img")),
            }],
            targets: vec![Target {
                name,
                alias: None,
                portal_groups: vec![1],
                initiators: Vec::new(),
                addresses: Vec::new(),
                header_digest: DigestPolicy::Optional,
                data_digest: DigestPolicy::Optional,
                max_connections: MAX_CONNECTIONS_DEFAULT,
                auth: Auth::None,
                luns: vec![first_unit()],
                state: TargetState::Serving,
                redirect: None,
            }],
        }
    }
}

/// The first unit at LUN 0.
fn first_unit() -> LunMap {
    LunMap {
        lun: 0,
        unit: 0,
        read_only: false,
        initiators: Vec::new(),
        queue_depth: None,
    }
}

/// An image that is there is served as large as it is, whatever size it was created with.
fn image(path: PathBuf) -> Backend {
    let there = path.metadata().is_ok_and(|metadata| metadata.len() > 0);
    let size = (!there).then_some(EMBEDDED_SIZE);
    Backend::File {
        path,
        size,
        engine: Engine::Auto,
        direct: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_default_serves_one_sparse_gibibyte_on_loopback() {
        let config = Config::embedded(Path::new("/state"));
        let portals: Vec<String> = config.portal_groups[0]
            .portals
            .iter()
            .map(|p| p.address.to_string())
            .collect();
        assert_eq!(portals, ["127.0.0.1:3260", "[::1]:3260"]);
        assert!(!config.portal_groups[0].portals[0].optional);
        assert!(config.portal_groups[0].portals[1].optional);
        assert_eq!(
            config.targets[0].name.as_str(),
            "iqn.2026-11.io.iiblockdaemon:disk0"
        );
        assert_eq!(config.targets[0].luns[0].lun, 0);
        let unit = &config.logical_units[config.targets[0].luns[0].unit];
        let Backend::File { path, size, .. } = &unit.backend else {
            panic!("{unit:?}")
        };
        assert_eq!(path, Path::new("/state/disk0.img"));
        assert_eq!(*size, Some(1024 * 1024 * 1024));
        assert!(config.cores.list.count() >= 1);
    }

    #[test]
    fn an_image_from_an_earlier_run_keeps_its_size() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("disk0.img"), [0; 1024]).unwrap();
        let config = Config::embedded(state.path());
        let backend = &config.logical_units[0].backend;
        assert!(
            matches!(backend, Backend::File { size: None, .. }),
            "{backend:?}"
        );
    }
}
