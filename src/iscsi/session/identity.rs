//! Who a session is to its logical units, from what its login agreed on (RFC 7143 §4.4.1, SAM-5).

use super::super::negotiated::Negotiated;
use crate::backend::UnitIndex;
use crate::scsi::{InitiatorPort, MappedLun, Nexus, NexusUnit, PortIdentity, UnitAttention};

/// The LUNs that this initiator sees, each with POWER ON pending (SAM-5 §5.14: a new I_T
/// nexus).
pub(super) fn luns(negotiated: &Negotiated) -> Vec<MappedLun> {
    let Some(target) = &negotiated.target else {
        return Vec::new();
    };
    let mut luns: Vec<_> = target
        .luns_for(&negotiated.initiator_name)
        .map(|mapping| {
            let mut nexus = NexusUnit::new(mapping.read_only);
            nexus.raise(UnitAttention::PowerOn);
            MappedLun {
                lun: mapping.lun,
                unit: UnitIndex(mapping.unit),
                nexus,
            }
        })
        .collect();
    luns.sort_by_key(|mapped| mapped.lun);
    luns
}

/// How many commands the session may have at each of its LUNs, in their order.
pub(super) fn queue_depths(negotiated: &Negotiated, luns: &[MappedLun]) -> Box<[Option<u16>]> {
    let mappings = negotiated
        .target
        .as_ref()
        .map_or(&[][..], |node| &node.luns);
    let depth = |mapped: &MappedLun| {
        let mut mappings = mappings.iter();
        mappings
            .find(|mapping| mapping.lun == mapped.lun)?
            .queue_depth
    };
    luns.iter().map(depth).collect()
}

/// Who talks to whom. `None` when a name is longer than RFC 7143 allows.
pub(super) fn i_t_nexus(negotiated: &Negotiated) -> Option<Nexus> {
    let (target, groups) = match &negotiated.target {
        Some(target) => (target.name.as_str(), &target.portal_groups[..]),
        None => ("", &[][..]),
    };
    // RELATIVE TARGET PORT IDENTIFIER: the portal group's place among those of the target, from 1.
    let port = |(at, tag): (usize, &u16)| {
        PortIdentity::new(target, *tag, u16::try_from(at + 1).unwrap_or(u16::MAX))
    };
    let ports: Option<Vec<_>> = groups.iter().enumerate().map(port).collect();
    let ports = ports?;
    let tag = negotiated.portal_group_tag;
    let own = ports.iter().find(|port| port.portal_group_tag() == tag);
    let own = match own {
        Some(own) => own.clone(),
        None => PortIdentity::new(target, tag, 1)?,
    };
    let initiator = InitiatorPort::new(negotiated.initiator_name.as_str(), negotiated.isid.0)?;
    let level = negotiated.parameters.iscsi_protocol_level;
    Some(Nexus::new(initiator, own, ports).with_rfc_7144(level >= super::queries::RFC_7144))
}
