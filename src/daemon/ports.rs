//! Opening the network devices that the daemon drives itself, and giving their queues to cores.

use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use super::{Hooks, StartError};
use crate::config::{Config, Device, Port as PortConfig};
use crate::net::stack::model::Settings;
use crate::port::remote::Requests;
use crate::port::{IdlePort, Link, dpdk, tap};
use crate::reactor::fill_random;
use crate::reactor::flows::Attachment;

/// Frames that wait to be sent by the core of a queue for cores that have none.
const REQUESTS_MAX: usize = 256;

/// Drivers whose memory another process maps.
const VIRTIO_USER: &str = "net_virtio_user";

/// What devices need while any of their queues is polled.
#[derive(Debug, Default)]
pub(super) struct Devices {
    dpdk: Vec<Named>,
    eal: Option<dpdk::Eal>,
}

/// A device and the port that it is.
#[derive(Debug)]
struct Named {
    port: String,
    device: dpdk::Device,
}

/// What is known of a port's device and of no queue of it.
#[derive(Clone, Copy, Default, Debug)]
struct Place {
    numa: Option<u32>,
    link: Option<Link>,
}

impl Devices {
    /// No queue is polled any more.
    pub(super) fn close(&mut self) {
        for Named { port, device } in &self.dpdk {
            info!(
                port,
                device = device.driver(),
                losses = list(&device.troubles()),
                "port stopped"
            );
        }
        self.dpdk.clear();
        self.eal = None;
    }

    fn place(&self, port: &PortConfig) -> Place {
        let named = self.dpdk.iter().find(|named| named.port == port.name);
        named.map_or_else(Place::default, |Named { device, .. }| Place {
            numa: device.numa(),
            link: Some(device.link()),
        })
    }

    /// Starts DPDK where a port needs it.
    fn begin(config: &Config) -> Result<Self, StartError> {
        let Some(dpdk) = &config.dpdk else {
            return Ok(Self::default());
        };
        let mut settings = dpdk::EalSettings {
            memory_mib: u32::try_from(dpdk.memory_bytes >> 20).unwrap_or(u32::MAX),
            huge: dpdk.huge,
            file_prefix: dpdk.file_prefix.clone(),
            extra: dpdk.args.clone(),
            ..dpdk::EalSettings::default()
        };
        for port in &config.ports {
            match &port.device {
                Device::Pci(address) => settings.pci.push(address.clone()),
                Device::Vdev(device) => settings.vdevs.push(device.clone()),
                Device::Tap(_) => {}
            }
        }
        let shares_memory = |device: &String| device.starts_with(VIRTIO_USER);
        settings.single_file_segments = settings.vdevs.iter().any(shares_memory);
        let eal = dpdk::Eal::start(&settings)
            .map_err(|error| StartError::new(format!("dpdk: {error}")))?;
        Ok(Self {
            dpdk: Vec::new(),
            eal: Some(eal),
        })
    }

    fn open(&mut self, port: &PortConfig) -> Result<Vec<IdlePort>, String> {
        let queues = u16::try_from(port.cores.len()).unwrap_or(u16::MAX);
        let name = match &port.device {
            Device::Pci(address) => address,
            // The driver with its number, without the arguments.
            Device::Vdev(device) => device.split(',').next().unwrap_or(device),
            Device::Tap(name) => {
                let config = tap::Config {
                    mtu: port.mtu,
                    queues,
                    ..tap::Config::new(name)
                };
                let opened = tap::open(&config).map_err(|error| error.to_string())?;
                return Ok(opened.into_iter().map(IdlePort::Tap).collect());
            }
        };
        let eal = self.eal.as_ref().ok_or("DPDK was not started")?;
        let settings = dpdk::DeviceSettings {
            queues,
            mtu: port.mtu,
            promiscuous: port.promiscuous,
            ..dpdk::DeviceSettings::default()
        };
        let device = dpdk::Device::open(eal, name, &settings).map_err(|error| error.to_string())?;
        let opened = (0..queues).filter_map(|queue| device.queue(queue));
        let opened = opened.map(IdlePort::Dpdk).collect();
        self.dpdk.push(Named {
            port: port.name.clone(),
            device,
        });
        Ok(opened)
    }
}

/// Counts with their names, for one line.
fn list(counts: &[(String, u64)]) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    let counts = counts.iter().map(|(name, count)| format!("{name}={count}"));
    counts.collect::<Vec<_>>().join(" ")
}

/// The queues of all ports, not yet polled by any core.
pub(super) struct Ports(Vec<Opened>);

struct Opened {
    queues: Vec<IdlePort>,
    settings: Arc<Settings>,
}

/// Opens every port that is configured.
pub(super) fn open(config: &Config, hooks: &Hooks) -> Result<(Ports, Devices), StartError> {
    let mut devices = Devices::begin(config)?;
    let mut opened = Vec::with_capacity(config.ports.len());
    for (index, port) in config.ports.iter().enumerate() {
        let handed = hooks.queues(&port.name);
        // What tests hand in has no stations whose objections to wait for.
        let is_probed = handed.is_none();
        let queues = match handed {
            Some(queues) => queues,
            None => devices
                .open(port)
                .map_err(|error| StartError::new(format!("port {:?}: {error}", port.name)))?,
        };
        if queues.len() != port.cores.len() {
            return Err(StartError::new(format!(
                "port {:?}: cores: {} queues are asked for, and the device gives {}",
                port.name,
                port.cores.len(),
                queues.len()
            )));
        }
        let capabilities = queues.first().map(IdlePort::capabilities);
        if let Some(has) = capabilities {
            let [a, b, c, d, e, f] = has.mac;
            let Place { numa, link } = devices.place(port);
            info!(
                port = port.name,
                queues = queues.len(),
                mtu = has.mtu,
                mac = %format_args!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
                numa_node = numa,
                link_up = link.map(|link| link.up),
                link_mbit_per_s = link.and_then(|link| link.mbit_per_s),
                "port opened"
            );
        }
        let mut secret = [0; 32];
        fill_random(&mut secret);
        let mut settings = config.settings(index, secret);
        if !is_probed {
            settings.probe_interval = Duration::ZERO;
        }
        let settings = Arc::new(settings);
        opened.push(Opened { queues, settings });
    }
    Ok((Ports(opened), devices))
}

impl Ports {
    /// What each core has of every port: a queue, or a way to one.
    pub(super) fn spread(
        self,
        config: &Config,
        cores: usize,
    ) -> Result<Vec<Vec<Attachment>>, StartError> {
        let mut spread: Vec<Vec<Attachment>> = (0..cores).map(|_| Vec::new()).collect();
        for (port, (Opened { queues, settings }, its)) in
            self.0.into_iter().zip(&config.ports).enumerate()
        {
            let without: Vec<_> = (0..cores)
                .filter(|core| !its.cores.contains(core))
                .collect();
            let mut requests = Vec::new();
            if !without.is_empty() {
                for queue in &queues {
                    let made = Requests::new(&queue.capabilities(), REQUESTS_MAX);
                    requests.push(made.map_err(|error| {
                        StartError::new(format!("port {:?}: {error}", its.name))
                    })?);
                }
            }
            for core in without {
                let by = &requests[core % requests.len()];
                spread[core].push(Attachment {
                    port,
                    queue: IdlePort::Remote(by.remote()),
                    requests: None,
                    settings: Arc::clone(&settings),
                });
            }
            let mut requests = requests.into_iter();
            for (queue, core) in queues.into_iter().zip(&its.cores) {
                spread[*core].push(Attachment {
                    port,
                    queue,
                    requests: requests.next(),
                    settings: Arc::clone(&settings),
                });
            }
        }
        Ok(spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_named_one_by_one() {
        assert_eq!(list(&[]), "none");
        let two = [
            ("rx_missed_errors".to_owned(), 3),
            ("tx_errors".to_owned(), 1),
        ];
        assert_eq!(list(&two), "rx_missed_errors=3 tx_errors=1");
    }
}
