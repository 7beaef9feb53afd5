//! Where the daemon listens: sockets of the host, and portals whose address is one of a port's.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use tracing::info;

use super::{DOORBELL, StartError};
use crate::config::Config;
use crate::control::ring::Inbox;
use crate::net::{Listener, Poller};
use crate::reactor::message::ToControl;

/// What connections come by.
#[derive(Debug)]
pub(super) struct Portals {
    /// Those of the host, with the tag of their group.
    pub(super) listeners: Vec<(Listener, u16)>,
    /// All of them, in the order of the configuration.
    pub(super) addresses: Vec<(SocketAddr, u16)>,
}

/// Listens wherever the host is to; the stacks of ports listen by themselves.
pub(super) fn bind(config: &Config) -> Result<Portals, StartError> {
    let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
    for group in &config.portal_groups {
        for portal in &group.portals {
            if portal.port.is_some() {
                addresses.push((portal.address, group.tag));
                continue;
            }
            match Listener::bind(portal.address) {
                Ok(listener) => {
                    addresses.push((listener.address(), group.tag));
                    listeners.push((listener, group.tag));
                }
                Err(error) if portal.optional => {
                    info!(address = %portal.address, %error, "this portal is left out");
                }
                Err(error) => {
                    return Err(StartError::new(format!(
                        "portal_group {}: portals: cannot listen on {}: {error}\n  help: {}",
                        group.tag,
                        portal.address,
                        bind_remedy(&error, portal.address),
                    )));
                }
            }
        }
    }
    Ok(Portals {
        listeners,
        addresses,
    })
}

/// What helps where an address cannot be listened on.
pub(super) fn bind_remedy(error: &std::io::Error, address: SocketAddr) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!(
                "another program listens there (`ss -ltnp sport = :{}` names it)",
                address.port()
            )
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has that address".to_owned()
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => "choose another address".to_owned(),
    }
}

/// Has `poller` tell of connections and of messages.
pub(super) fn watch(
    poller: &mut Poller,
    listeners: &[(Listener, u16)],
    inbox: &Inbox<ToControl>,
) -> Result<(), StartError> {
    for (at, (listener, _)) in listeners.iter().enumerate() {
        poller
            .add(&listener.as_fd(), at as u64)
            .map_err(|error| StartError::new(format!("epoll: {error}")))?;
    }
    poller
        .add(&inbox.doorbell(), DOORBELL)
        .map_err(|error| StartError::new(format!("epoll: {error}")))
}
