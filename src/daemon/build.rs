//! From the configuration to what cores serve: backing objects, logical units, target nodes.

use std::net::SocketAddr;
use std::sync::Arc;

use tracing::{error, info};

use super::{Hooks, StartError};
use crate::backend::{Backing, Engine, Kind, NamespaceId, NvmeSettings, Selector, Spec, UnitIndex};
use crate::config::{self, Auth, Config};
use crate::iscsi::acl::Acl;
use crate::iscsi::auth::{AuthPolicy, ChapPolicy, Credentials, Secret};
use crate::iscsi::node::{
    Availability, DigestPolicy, LunMapping, Nodes, PortalGroup, Redirect, TargetNode,
};
use crate::mem::Pages;
use crate::reactor::fill_random;
use crate::scsi::asymmetric_access::{AccessState, PortGroup, PortGroups};
use crate::scsi::copy::token::TokenKey;
use crate::scsi::provisioning::{OutOfSpace, Policy, Threshold};
use crate::scsi::reservations::Matching;
use crate::scsi::{Identity, LogicalUnit, NotReadyReason};
use crate::state::StateDir;

/// What can be configured can be served.
const _: () = assert!(config::CONNECTIONS_MAX == crate::iscsi::session::CONNECTIONS_MAX);

/// PRODUCT REVISION LEVEL of INQUIRY: major and minor version.
const REVISION: &str = concat!(
    env!("CARGO_PKG_VERSION_MAJOR"),
    ".",
    env!("CARGO_PKG_VERSION_MINOR")
);
/// PRODUCT IDENTIFICATION of INQUIRY.
const PRODUCT: &str = "VIRTUAL-DISK";

const _: () = assert!(config::TASK_SET_MAX == crate::iscsi::session::QUEUE_DEPTH_MAX);

/// Logical units and what backs them, by index in the configuration.
#[derive(Debug)]
pub(super) struct Units {
    pub(super) replicas: Vec<LogicalUnit>,
    /// Absent where the backing object is missing.
    pub(super) backings: Vec<Option<Arc<Backing>>>,
    /// What may still come, to be tried again.
    pub(super) missing: Vec<Missing>,
}

/// A unit whose device was not there, or was refused.
#[derive(Clone, Debug)]
pub(super) struct Missing {
    pub(super) unit: UnitIndex,
    pub(super) name: String,
    pub(super) spec: Spec,
    pub(super) policy: Policy,
    /// Why not, as it was logged.
    pub(super) why: String,
}

pub(super) fn pages(pages: config::Pages) -> Pages {
    match pages {
        config::Pages::Normal => Pages::Normal,
        config::Pages::Huge => Pages::Huge,
    }
}

/// Opens what can be opened. A backing object that cannot makes its unit NOT READY and nothing
/// else.
pub(super) fn units(config: &Config, state: &StateDir, hooks: &Hooks) -> Result<Units, StartError> {
    let identities = state
        .identities(&config.logical_units)
        .map_err(|error| StartError::new(error.to_string()))?;
    if let Some(notice) = &identities.notice {
        error!("{notice}");
    }
    let mut units = Units {
        replicas: Vec::new(),
        backings: Vec::new(),
        missing: Vec::new(),
    };
    for (unit, kept) in config.logical_units.iter().zip(&identities.units) {
        let identity = Identity::new(
            PRODUCT,
            REVISION,
            &kept.serial,
            kept.naa,
            *kept.uuid.as_bytes(),
        )
        .map_err(|error| {
            StartError::new(format!("logical_unit \"{}\": serial: {error}", unit.name))
        })?;
        let spec = spec(unit, &config.nvme);
        match Backing::open(&spec) {
            Ok(backing) => {
                let backing = hooks.wrap(&unit.name, backing);
                announce(&unit.name, &backing);
                let info = backing.info().clone();
                let replica = LogicalUnit::new(identity, info, unit.read_only);
                units.replicas.push(replica);
                units.backings.push(Some(backing));
            }
            Err(error) => {
                error!(
                    "NOT READY: logical_unit \"{}\": backend: {error}",
                    unit.name
                );
                let index = u16::try_from(units.replicas.len());
                units.missing.push(Missing {
                    unit: UnitIndex(index.expect("the configuration bounds the units")),
                    name: unit.name.clone(),
                    spec,
                    policy: space_policy(&unit.thin),
                    why: error.to_string(),
                });
                let reason = NotReadyReason::Missing;
                let replica = LogicalUnit::without_device(identity, unit.read_only, reason);
                units.replicas.push(replica);
                units.backings.push(None);
            }
        }
    }
    let mut key = [0; 32];
    fill_random(&mut key);
    let management_url = config.daemon.management_url.as_deref().map(Arc::from);
    for (replica, unit) in units.replicas.iter_mut().zip(&config.logical_units) {
        replica.set_space_policy(space_policy(&unit.thin));
        replica.set_port_groups(port_groups(config, unit));
        restore(replica, unit, state)?;
        replica.set_token_key(TokenKey::new(key));
        replica.set_management_url(management_url.clone());
        replica.count_on(config.cores.list.count());
    }
    Ok(units)
}

/// Says what was opened, and what was found then.
pub(super) fn announce(unit: &str, backing: &Backing) {
    for note in backing.notes() {
        info!(unit, "{note}");
    }
    let info = backing.info();
    info!(
        unit,
        bytes = info.blocks * u64::from(info.block_size),
        block_size = info.block_size,
        "backing object opened"
    );
}

/// The states that the configuration has for portal groups, by tag.
pub(super) fn access_states(config: &Config) -> Vec<(u16, AccessState)> {
    let state = |access| match access {
        config::Access::Optimized => AccessState::Optimized,
        config::Access::NonOptimized => AccessState::NonOptimized,
        config::Access::Standby => AccessState::Standby,
        config::Access::Unavailable => AccessState::Unavailable,
    };
    let groups = config.portal_groups.iter();
    groups
        .map(|group| (group.tag, state(group.access)))
        .collect()
}

/// The states in which the ports of a unit begin.
fn port_groups(config: &Config, unit: &config::LogicalUnit) -> PortGroups {
    let preferred = config.portal_groups.iter().map(|group| group.preferred);
    let groups = access_states(config).into_iter().zip(preferred);
    let groups = groups.map(|((tag, state), preferred)| PortGroup::new(tag, state, preferred));
    PortGroups::new(groups.collect(), unit.explicit_alua)
}

fn space_policy(thin: &config::Thin) -> Policy {
    Policy {
        soft: thin.soft_threshold.map(|soft| match soft {
            config::SoftThreshold::Percent(percent) => Threshold::Percent(percent),
            config::SoftThreshold::Bytes(bytes) => Threshold::Bytes(bytes),
        }),
        capacity: thin.capacity,
        out_of_space: match thin.out_of_space {
            config::OutOfSpace::Fail => OutOfSpace::Fail,
            config::OutOfSpace::Retry => OutOfSpace::Retry,
        },
    }
}

/// Gives a unit what was kept of it and what the configuration says of its medium.
fn restore(
    replica: &mut LogicalUnit,
    unit: &config::LogicalUnit,
    state: &StateDir,
) -> Result<(), StartError> {
    let kept = state
        .unit(replica.identity().uuid())
        .map_err(|error| StartError::new(format!("logical_unit \"{}\": {error}", unit.name)))?;
    let matching = match unit.reservations {
        config::ReservationMatching::Port => Matching::Port,
        config::ReservationMatching::Name => Matching::Name,
    };
    replica.match_registrants_by(matching);
    replica.restore(kept);
    if unit.long_cdbs {
        replica.serve_long_cdbs();
    }
    if unit.removable {
        replica.make_removable();
    }
    Ok(())
}

fn spec(unit: &config::LogicalUnit, nvme: &config::Nvme) -> Spec {
    let engine = |engine: config::Engine| match engine {
        config::Engine::Auto => Engine::Auto,
        config::Engine::IoUring => Engine::IoUring,
        config::Engine::Sync => Engine::Sync,
    };
    let kind = match &unit.backend {
        config::Backend::Memory { size } => Kind::Memory { bytes: *size },
        config::Backend::Null { size } => Kind::Null { bytes: *size },
        config::Backend::File {
            path,
            size,
            engine: wanted,
            direct,
        } => Kind::File {
            path: path.clone(),
            bytes: *size,
            engine: engine(*wanted),
            direct: *direct,
        },
        config::Backend::Block {
            path,
            engine: wanted,
        } => Kind::Block {
            path: path.clone(),
            engine: engine(*wanted),
        },
        config::Backend::Nvme { address, namespace } => Kind::Nvme {
            address: address.clone(),
            namespace: selector(*namespace),
            settings: nvme_settings(nvme),
            unsafe_noiommu: nvme.unsafe_noiommu,
        },
        config::Backend::NvmeKernel { path } => Kind::NvmeKernel { path: path.clone() },
    };
    Spec {
        kind,
        block_size: unit.block_size,
        physical_block_size: unit.physical_block_size,
        read_only: unit.read_only,
        write_cache: unit.write_cache,
    }
}

fn selector(namespace: config::NvmeNamespace) -> Selector {
    match namespace {
        config::NvmeNamespace::Only => Selector::Only,
        config::NvmeNamespace::Id(id) => Selector::Id(NamespaceId(id)),
        config::NvmeNamespace::Nguid(id) => Selector::Nguid(id),
        config::NvmeNamespace::Eui64(id) => Selector::Eui64(id),
        config::NvmeNamespace::Uuid(id) => Selector::Uuid(id),
    }
}

fn nvme_settings(nvme: &config::Nvme) -> NvmeSettings {
    NvmeSettings {
        queue_entries: nvme.queue_depth,
        io_timeout: nvme.io_timeout,
        admin_timeout: nvme.admin_timeout,
        hold_max: nvme.hold,
        ..NvmeSettings::default()
    }
}

/// The target nodes and portal groups.
pub(super) fn nodes(
    config: &Config,
    addresses: &[(SocketAddr, u16)],
) -> Result<Arc<Nodes>, StartError> {
    let targets = config
        .targets
        .iter()
        .map(target)
        .collect::<Result<Vec<_>, _>>()?;
    let groups = config
        .portal_groups
        .iter()
        .map(|group| PortalGroup {
            tag: group.tag,
            // Where it really listens: a port may be the kernel's choice, a portal left out.
            portals: addresses
                .iter()
                .filter(|(_, tag)| *tag == group.tag)
                .map(|(address, _)| *address)
                .collect(),
        })
        .collect();
    let discovery = auth(&config.discovery_auth, "discovery")?;
    Ok(Arc::new(Nodes::new(targets, groups, Arc::new(discovery))))
}

fn target(target: &config::Target) -> Result<Arc<TargetNode>, StartError> {
    let digest = |policy: config::DigestPolicy| match policy {
        config::DigestPolicy::Optional => DigestPolicy::Optional,
        config::DigestPolicy::Required => DigestPolicy::Required,
        config::DigestPolicy::Off => DigestPolicy::Off,
    };
    let luns = target
        .luns
        .iter()
        .map(|map| {
            Ok(LunMapping {
                lun: map.lun,
                unit: u16::try_from(map.unit)
                    .map_err(|_| StartError::new("there are more logical units than 65535"))?,
                read_only: map.read_only,
                initiators: map.initiators.clone(),
                queue_depth: map.queue_depth,
            })
        })
        .collect::<Result<Vec<_>, StartError>>()?;
    Ok(Arc::new(TargetNode {
        name: target.name.clone(),
        alias: target.alias.clone(),
        availability: match target.state {
            config::TargetState::Serving => Availability::Available,
            config::TargetState::Removed => Availability::Removed,
            config::TargetState::Unavailable => Availability::Unavailable,
        },
        redirect: target.redirect.as_ref().map(|redirect| Redirect {
            to: redirect.to,
            permanent: redirect.permanent,
            portal_groups: redirect.portal_groups.clone(),
        }),
        portal_groups: target.portal_groups.clone(),
        acl: Acl::new(target.initiators.clone(), target.addresses.clone()),
        auth: Arc::new(auth(&target.auth, target.name.as_str())?),
        header_digest: digest(target.header_digest),
        data_digest: digest(target.data_digest),
        max_connections: target.max_connections,
        luns,
    }))
}

fn auth(auth: &Auth, whose: &str) -> Result<AuthPolicy, StartError> {
    let Auth::Chap(chap) = auth else {
        return Ok(AuthPolicy::None);
    };
    let credentials = |user: &str, secret: &config::Secret| Credentials {
        user: user.to_owned(),
        secret: Secret::new(secret.expose().to_vec()),
    };
    let mutual = chap
        .mutual
        .as_ref()
        .map(|mutual| credentials(&mutual.user, &mutual.secret));
    ChapPolicy::new(
        credentials(&chap.user, &chap.secret),
        mutual,
        &chap.algorithms,
    )
    .map(|policy| AuthPolicy::Chap(Box::new(policy)))
    .map_err(|error| StartError::new(format!("{whose}: auth: {error}")))
}
