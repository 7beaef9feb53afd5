//! Setting up a device: what is asked for brought together with what its driver reports, what is
//! known of the driver, and what its buffers can hold.

use std::ffi::c_int;
use std::ptr;

use dpdk_sys as sys;

use super::device::{device_info, driver_of, frames_of_queue, segments_of_queue};
use super::eal::{complaints, error_text};
use super::facts::{self, Driver, Lending};
use super::limits::Limits;
use super::mempool::{ANY_SOCKET, CACHE, HEADROOM, Mempool};
use super::queue::PIECES_MAX;
use super::{DeviceError, DeviceSettings};
use crate::port::{Capabilities, ETHERNET_BYTES, VLAN_BYTES};

/// Receive buffers are of whole units of this: many drivers use only so much of them.
const ROOM_UNIT: usize = 1024;
/// The least MTU that IPv4 allows to be asked for here.
const MTU_LEAST: u16 = 576;
/// Each word of a key for which both directions of a flow have the same hash.
const SYMMETRIC: [u8; 2] = [0x6d, 0x5a];

/// A device that has been set up and started.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) rx: Mempool,
    pub(super) tx: Mempool,
    pub(super) capabilities: Capabilities,
    pub(super) driver_name: String,
    pub(super) lending: Lending,
    pub(super) limits: Limits,
    pub(super) looks_when_called: bool,
    pub(super) prepares: bool,
    pub(super) fills_ipv4: bool,
    pub(super) tx_descriptors: u16,
    pub(super) device: *mut sys::rte_device,
}

/// What is being set up.
struct Job<'a> {
    port: u16,
    name: &'a str,
    settings: &'a DeviceSettings,
    info: sys::rte_eth_dev_info,
    driver: Driver,
    /// The longest frame and the least room, where the driver does not say it.
    ring: Option<(usize, usize)>,
}

/// Sets up and starts a port. What is left of it after an error is for the caller to close.
pub(super) fn set_up(
    port: u16,
    name: &str,
    arguments: &str,
    settings: &DeviceSettings,
) -> Result<Setup, DeviceError> {
    let info = device_info(port).ok_or_else(|| DeviceError::Unknown {
        name: name.to_owned(),
        why: "its driver says nothing about it".to_owned(),
    })?;
    let (driver_name, driver) = driver_of(&info);
    let job = Job {
        port,
        name,
        settings,
        driver,
        ring: facts::ring_of_af_packet(&driver_name, arguments),
        info,
    };
    job.check_queues(&driver_name)?;
    job.check_mtu()?;
    let room = job.receive_room()?;
    let (rx_offloads, tx_offloads) = job.offloads(room);
    job.configure(rx_offloads, tx_offloads)?;
    job.set_mtu()?;
    let (rx_descriptors, tx_descriptors) = job.descriptors()?;
    let has_segments = tx_offloads & sys::IIBD_TX_OFFLOAD_MULTI_SEGS != 0;
    // What is lent is a piece of its own. Those that copy are known to take pieces, whatever they
    // report.
    let lending = match driver.lending {
        Lending::Dma if !has_segments => Lending::Never,
        lending => lending,
    };
    let limits = Limits::new(&info.tx_desc_lim, &driver, lending, job.frame_bytes());
    let sent = job.sent_buffers(lending, tx_descriptors);
    let (rx, tx) = job.pools((room, rx_descriptors), (limits.copied, sent))?;
    job.queues(&rx, rx_descriptors, tx_descriptors)?;
    job.start()?;
    let needs_care = sys::IIBD_TX_OFFLOAD_IPV4_CKSUM
        | sys::IIBD_TX_OFFLOAD_TCP_CKSUM
        | sys::IIBD_TX_OFFLOAD_TCP_TSO;
    Ok(Setup {
        capabilities: job.capabilities((rx_offloads, tx_offloads), (lending, &limits), room)?,
        rx,
        tx,
        driver_name,
        lending,
        limits,
        looks_when_called: driver.looks_when_called,
        prepares: tx_offloads & needs_care != 0,
        fills_ipv4: tx_offloads & sys::IIBD_TX_OFFLOAD_IPV4_CKSUM != 0,
        tx_descriptors,
        device: info.device,
    })
}

impl Job<'_> {
    fn failed(&self, step: &'static str, error: c_int) -> DeviceError {
        DeviceError::Step {
            name: self.name.to_owned(),
            step,
            why: error_text(error),
            log: complaints(),
        }
    }

    fn check_queues(&self, driver: &str) -> Result<(), DeviceError> {
        let most = self.info.max_rx_queues.min(self.info.max_tx_queues);
        let asked = self.settings.queues;
        if (1..=most).contains(&asked) {
            return Ok(());
        }
        let hint = match driver {
            "net_af_packet" => "; give it more with qpairs=N",
            "net_vhost" | "net_virtio_user" => "; give it more with queues=N",
            _ => "",
        };
        Err(DeviceError::Queues {
            name: self.name.to_owned(),
            asked,
            most,
            hint: hint.to_owned(),
        })
    }

    /// Bytes of the longest frame.
    fn frame_bytes(&self) -> usize {
        usize::from(self.settings.mtu) + ETHERNET_BYTES + VLAN_BYTES
    }

    fn impossible_mtu(&self, why: String) -> DeviceError {
        DeviceError::Mtu {
            name: self.name.to_owned(),
            mtu: self.settings.mtu,
            why,
        }
    }

    fn check_mtu(&self) -> Result<(), DeviceError> {
        if self.settings.mtu < MTU_LEAST {
            return Err(self.impossible_mtu(format!("the least is {MTU_LEAST}")));
        }
        if let Some((most, _)) = self.ring
            && self.frame_bytes() > most
        {
            let frame = (self.frame_bytes() + 128).next_power_of_two();
            let why = format!(
                "its ring takes frames of {most} bytes; give it framesz={frame},blocksz={}",
                frame.max(4096) * 4
            );
            return Err(self.impossible_mtu(why));
        }
        if !self.driver.any_mtu && self.settings.mtu > self.info.max_mtu {
            return Err(self.impossible_mtu(format!("the most is {}", self.info.max_mtu)));
        }
        Ok(())
    }

    /// The room of a receive buffer.
    fn receive_room(&self) -> Result<u16, DeviceError> {
        let frame = self.frame_bytes().next_multiple_of(ROOM_UNIT);
        let least = self.ring.map_or(0, |(_, least)| least);
        let frame = if self.driver.rounds_room {
            frame.next_power_of_two()
        } else {
            frame
        };
        let asked = self.settings.room.map_or(frame, usize::from);
        let most = usize::from(u16::MAX) - HEADROOM as usize;
        let room = asked.max(least).max(ROOM_UNIT).min(most);
        let scatters = self.info.rx_offload_capa & sys::IIBD_RX_OFFLOAD_SCATTER != 0;
        if room < self.frame_bytes() && !scatters {
            return Err(self.impossible_mtu(format!(
                "its buffers have room for {room} bytes, and it cannot divide frames"
            )));
        }
        Ok(u16::try_from(room).expect("at most 65535"))
    }

    /// Frames that the core of a queue may hold: a long one may lie in several buffers.
    fn receive_frames(&self, room: u16) -> usize {
        let each = self.frame_bytes().div_ceil(usize::from(room)).max(1);
        let buffers = usize::try_from(self.settings.frames).unwrap_or(usize::MAX);
        (buffers / each).max(1)
    }

    /// Those that are used, of those that the driver reports.
    fn offloads(&self, room: u16) -> (u64, u64) {
        let mut rx = sys::IIBD_RX_OFFLOAD_IPV4_CKSUM | sys::IIBD_RX_OFFLOAD_TCP_CKSUM;
        if usize::from(room) < self.frame_bytes() {
            rx |= sys::IIBD_RX_OFFLOAD_SCATTER;
        }
        let mut tx = sys::IIBD_TX_OFFLOAD_IPV4_CKSUM
            | sys::IIBD_TX_OFFLOAD_TCP_CKSUM
            | sys::IIBD_TX_OFFLOAD_MULTI_SEGS;
        let segments = sys::IIBD_TX_OFFLOAD_TCP_TSO
            | sys::IIBD_TX_OFFLOAD_TCP_CKSUM
            | sys::IIBD_TX_OFFLOAD_MULTI_SEGS;
        if self.driver.segments && self.info.tx_offload_capa & segments == segments {
            tx |= sys::IIBD_TX_OFFLOAD_TCP_TSO;
        }
        (
            rx & self.info.rx_offload_capa,
            tx & self.info.tx_offload_capa,
        )
    }

    fn configure(&self, rx_offloads: u64, tx_offloads: u64) -> Result<(), DeviceError> {
        let mut key: Vec<u8> = SYMMETRIC
            .iter()
            .copied()
            .cycle()
            .take(usize::from(self.info.hash_key_size))
            .collect();
        let mut conf = sys::rte_eth_conf::default();
        conf.rxmode.offloads = rx_offloads;
        conf.txmode.offloads = tx_offloads;
        conf.rxmode.mtu = u32::from(self.settings.mtu);
        let hashed = (sys::IIBD_RSS_IP | sys::IIBD_RSS_TCP) & self.info.flow_type_rss_offloads;
        if self.settings.queues > 1 && hashed != 0 {
            conf.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = hashed;
            if !key.is_empty() {
                conf.rx_adv_conf.rss_conf.rss_key = key.as_mut_ptr();
                conf.rx_adv_conf.rss_conf.rss_key_len = self.info.hash_key_size;
            }
        }
        let queues = self.settings.queues;
        // SAFETY: the configuration and its key live until the call returns; DPDK copies both.
        let mut done =
            unsafe { sys::rte_eth_dev_configure(self.port, queues, queues, &raw const conf) };
        if done != 0 && self.driver.any_mtu {
            // Its own MTU then; longer frames pass all the same.
            conf.rxmode.mtu = 0;
            // SAFETY: as above.
            done =
                unsafe { sys::rte_eth_dev_configure(self.port, queues, queues, &raw const conf) };
        }
        match done {
            0 => Ok(()),
            error => Err(self.failed("be configured", error)),
        }
    }

    fn set_mtu(&self) -> Result<(), DeviceError> {
        // SAFETY: the port is configured and not started.
        let refused = unsafe { sys::rte_eth_dev_set_mtu(self.port, self.settings.mtu) };
        let mut own = 0;
        // SAFETY: writes the variable.
        let known = unsafe { sys::rte_eth_dev_get_mtu(self.port, &raw mut own) } == 0;
        if refused == 0 || self.driver.any_mtu || known && own >= self.settings.mtu {
            // What was complained of is settled.
            drop(complaints());
            return Ok(());
        }
        Err(self.impossible_mtu(format!("the driver says {}", error_text(refused))))
    }

    fn descriptors(&self) -> Result<(u16, u16), DeviceError> {
        let (mut rx, mut tx) = (self.settings.rx_descriptors, self.settings.tx_descriptors);
        // SAFETY: reads and writes the variables.
        let done =
            unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(self.port, &raw mut rx, &raw mut tx) };
        match done {
            0 => Ok((rx, tx)),
            error => Err(self.failed("have so many descriptors", error)),
        }
    }

    fn socket(&self) -> c_int {
        let asked = self
            .settings
            .numa
            .and_then(|node| c_int::try_from(node).ok());
        asked.unwrap_or_else(|| {
            // SAFETY: only looks up the port.
            let node = unsafe { sys::rte_eth_dev_socket_id(self.port) };
            node.max(ANY_SOCKET)
        })
    }

    /// Buffers that each queue sends from.
    fn sent_buffers(&self, lending: Lending, descriptors: u16) -> u32 {
        let mut sent = segments_of_queue(descriptors) + 2 * CACHE;
        if lending == Lending::Never {
            // A whole frame in one piece.
            let waiting = u32::try_from(super::queue::WAITING_MAX).expect("a small number");
            sent = u32::from(descriptors) + waiting + 2 * CACHE;
        }
        if self.driver.passes_buffers {
            sent = sent.saturating_add(self.settings.frames);
        }
        sent
    }

    /// The pools of all queues, from the room of their buffers, the descriptors of a receive queue
    /// and the buffers of a transmit queue.
    fn pools(
        &self,
        (room, descriptors): (u16, u16),
        (sent_room, sent): (u16, u32),
    ) -> Result<(Mempool, Mempool), DeviceError> {
        let queues = u32::from(self.settings.queues);
        let filled = descriptors.saturating_mul(self.driver.receive_rings);
        let received = frames_of_queue(self.settings, filled).saturating_mul(queues);
        let pool = |frames: u32, room: u16| {
            Mempool::new(frames, room, self.socket()).map_err(|why| DeviceError::Memory {
                name: self.name.to_owned(),
                frames,
                bytes: u32::from(room) + HEADROOM,
                why,
            })
        };
        Ok((
            pool(received, room)?,
            pool(sent.saturating_mul(queues), sent_room)?,
        ))
    }

    fn queues(&self, rx: &Mempool, rx_count: u16, tx_count: u16) -> Result<(), DeviceError> {
        // A negative number is "any", which has the same bits here.
        let socket = self.socket().cast_unsigned();
        for queue in 0..self.settings.queues {
            // SAFETY: the port is configured for so many queues; the pool outlives it: the device
            // is closed before its pools are freed. No settings: the driver's own.
            let done = unsafe {
                let (conf, pool) = (ptr::null(), rx.as_ptr());
                sys::rte_eth_rx_queue_setup(self.port, queue, rx_count, socket, conf, pool)
            };
            if done != 0 {
                return Err(self.failed("set up a receive queue", done));
            }
            // SAFETY: as above.
            let done = unsafe {
                sys::rte_eth_tx_queue_setup(self.port, queue, tx_count, socket, ptr::null())
            };
            if done != 0 {
                return Err(self.failed("set up a transmit queue", done));
            }
        }
        Ok(())
    }

    fn start(&self) -> Result<(), DeviceError> {
        // SAFETY: the port and its queues are set up.
        let done = unsafe { sys::rte_eth_dev_start(self.port) };
        if done != 0 {
            return Err(self.failed("start", done));
        }
        // Neighbour discovery of IPv6 asks by multicast.
        // SAFETY: the port runs.
        let done = unsafe { sys::rte_eth_allmulticast_enable(self.port) };
        if done != 0 && !self.settings.promiscuous {
            tracing::info!(
                "device {}: it cannot be told to receive all multicast frames ({}); IPv6 needs \
                 those for its addresses, so make it promiscuous if neighbours do not find it",
                self.name,
                error_text(done)
            );
        }
        if self.settings.promiscuous {
            // SAFETY: the port runs.
            let done = unsafe { sys::rte_eth_promiscuous_enable(self.port) };
            if done != 0 {
                return Err(self.failed("receive frames for other addresses", done));
            }
        }
        Ok(())
    }

    fn capabilities(
        &self,
        (rx, tx): (u64, u64),
        (lending, limits): (Lending, &Limits),
        room: u16,
    ) -> Result<Capabilities, DeviceError> {
        let mut mac = sys::rte_ether_addr::default();
        // SAFETY: writes the variable.
        let done = unsafe { sys::rte_eth_macaddr_get(self.port, &raw mut mac) };
        if done != 0 {
            return Err(self.failed("tell its address", done));
        }
        let has = |offloads: u64, which: u64| offloads & which == which;
        // The first of its buffers has the headers. One that is copied as a whole takes any number.
        let pieces = if lending == Lending::Never {
            PIECES_MAX
        } else {
            limits.buffers - 1
        };
        Ok(Capabilities {
            mac: mac.addr_bytes,
            mtu: self.settings.mtu,
            queue: 0,
            queues: self.settings.queues,
            verifies_checksums: has(rx, sys::IIBD_RX_OFFLOAD_TCP_CKSUM),
            fills_ipv4_checksum: has(tx, sys::IIBD_TX_OFFLOAD_IPV4_CKSUM),
            fills_tcp_checksum: has(tx, sys::IIBD_TX_OFFLOAD_TCP_CKSUM),
            segments_ipv4: has(tx, sys::IIBD_TX_OFFLOAD_TCP_TSO).then_some(limits.segmented),
            segment_bytes_min: self.driver.segment_least,
            receive_frames: self.receive_frames(room),
            pieces_max: usize::from(pieces),
            holds_loans: lending == Lending::Copies,
        })
    }
}
