//! A network device of DPDK's under a stack of this process, for load that goes over frames.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use iiblockdaemon::net::stack::model::{Address, FlowId, Network, PROBE_INTERVAL, Settings};
use iiblockdaemon::port::AnyPort;
use iiblockdaemon::port::dpdk::{Device, DeviceSettings, Eal, EalSettings};
use iiblockdaemon::testing::flows::{Client, State};

use crate::clock::Clock;
use crate::line::{Flow, Wire};

/// How long an address is tried out before it is used, and a connection waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Received frames that this end may hold on to.
const FRAMES: u32 = 4096;
/// Connections beside the sessions, for those that end while others begin.
const SPARE_FLOWS: usize = 16;

/// What the device is to be.
#[derive(Clone, Debug)]
pub struct Link {
    /// DPDK's name of the device, with its arguments.
    pub vdev: String,
    pub local: Local,
    pub mtu: u16,
    /// Frames in huge pages.
    pub huge: bool,
    pub memory_mib: u32,
    pub file_prefix: String,
    pub flows: usize,
}

/// Our address there and its network: `10.9.0.2/24`.
#[derive(Clone, Copy, Debug)]
pub struct Local(Address);

impl FromStr for Local {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').ok_or("an address, /, and a prefix")?;
        let ip: IpAddr = parts.0.parse().map_err(|_| "not an IP address")?;
        let prefix = parts.1.parse().map_err(|_| "not a prefix length")?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        if prefix > longest {
            return Err(format!("a prefix of at most {longest}"));
        }
        Ok(Self(Address { ip, prefix }))
    }
}

/// A device with its stack. Connections go before it does.
#[derive(Debug)]
pub struct Opened {
    wire: Wire,
    local: IpAddr,
    /// Ports that were asked for.
    taken: Cell<u32>,
    _device: Device,
    _eal: Eal,
}

impl Opened {
    /// # Errors
    /// A sentence that says what is missing.
    pub fn open(link: &Link, clock: Clock) -> Result<Self, String> {
        let settings = EalSettings {
            memory_mib: link.memory_mib,
            huge: link.huge,
            single_file_segments: link.huge,
            file_prefix: link.file_prefix.clone(),
            vdevs: vec![link.vdev.clone()],
            ..EalSettings::default()
        };
        let eal = Eal::start(&settings).map_err(|error| error.to_string())?;
        let settings = DeviceSettings {
            mtu: link.mtu,
            frames: FRAMES,
            ..DeviceSettings::default()
        };
        let name = link.vdev.split(',').next().unwrap_or(&link.vdev);
        let device = Device::open(&eal, name, &settings).map_err(|error| error.to_string())?;
        let queue = device.queue(0).ok_or("the device has no queue")?;
        let queue = queue.adopt(None).map_err(|error| error.to_string())?;
        let client = Client::new(AnyPort::Dpdk(queue), &stack(link), clock.began());
        let client = client.map_err(|error| error.to_string())?;
        Ok(Self {
            wire: Wire::new(client, clock),
            local: link.local.0.ip,
            taken: Cell::new(0),
            _device: device,
            _eal: eal,
        })
    }

    /// A local port that the process before this one has probably not used.
    fn port(&self) -> u16 {
        let taken = self.taken.get();
        self.taken.set(taken.wrapping_add(1));
        let from = std::process::id().wrapping_mul(977).wrapping_add(taken);
        1024 + u16::try_from(from % 60_000).unwrap_or(0)
    }

    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// A connection to `peer`, established.
    ///
    /// # Errors
    /// It was refused, or nobody is there.
    pub fn connect(&self, peer: SocketAddr) -> Result<Flow, String> {
        let until = self.wire.now() + PATIENCE;
        let mut flow: Option<FlowId> = None;
        while self.wire.now() < until {
            self.wire.turn();
            let now = self.wire.now();
            let Some(begun) = flow else {
                let local = SocketAddr::new(self.local, self.port());
                flow = self
                    .wire
                    .with(|client| client.connect(local, peer, None, now));
                continue;
            };
            match self.wire.with(|client| client.state(begun)) {
                State::Connecting => {}
                State::Open => return Ok(Flow::new(&self.wire, begun)),
                State::Closed => return Err(format!("{peer} has closed the connection")),
                State::Lost(why) => return Err(format!("{peer}: {why}")),
            }
        }
        Err(match flow {
            None => format!("{} could not be used: is the link up?", self.local),
            Some(_) => format!("{peer} does not answer"),
        })
    }
}

fn stack(link: &Link) -> Arc<Settings> {
    let network = Network {
        vlan: None,
        pcp: 0,
        dscp: 0,
        addresses: vec![link.local.0],
        routes: Vec::new(),
    };
    Arc::new(Settings {
        networks: vec![network],
        portals: Vec::new(),
        // Of a bench nobody guesses sequence numbers.
        secret: [3; 32],
        flows_max: link.flows + SPARE_FLOWS,
        half_open_max: SPARE_FLOWS,
        keepalive: Duration::from_secs(60),
        user_timeout: Duration::from_secs(30),
        probe_interval: PROBE_INTERVAL,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_prefix_that_fits_it() {
        assert_eq!("10.9.0.2/24".parse::<Local>().unwrap().0.prefix, 24);
        assert_eq!("fd09::2/64".parse::<Local>().unwrap().0.prefix, 64);
        for wrong in ["10.9.0.2", "10.9.0.2/33", "10.9.0/24", "fd09::2/129", "/"] {
            wrong.parse::<Local>().unwrap_err();
        }
    }
}
