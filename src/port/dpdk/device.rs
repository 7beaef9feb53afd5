//! A DPDK device: set up, started, and handed out queue by queue.
//!
//! It stops when the last of its queues has ended, on that queue's thread, and is closed when
//! nobody has a handle of it any more. Memory that somebody still uses then is left as it is.

#![expect(
    clippy::disallowed_types,
    reason = "DPDK does not allow two calls about one port at once; no frame waits for it"
)]

use std::ffi::{CStr, c_int};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use dpdk_sys as sys;

use super::eal::{Eal, c_string, complaints, error_text};
use super::facts::{self, Driver, Lending};
use super::limits::Limits;
use super::mempool::{CACHE, Mempool, Ring};
use super::queue::{IdleQueue, PIECES_MAX, WAITING_MAX};
use super::setup::{Setup, set_up};
use super::{DeviceError, DeviceSettings};
use crate::port::{BURST, Capabilities, Link};

/// How long a queue that has ended, and whose memory the device still has, waits for the others.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Counters of a driver that are told, at most: more queues than these count the same.
const TROUBLES_MAX: usize = 32;

/// A device of DPDK's that runs.
#[derive(Debug)]
pub struct Device {
    shared: Arc<Shared>,
}

impl Device {
    /// Sets up the device of that name: a virtual device of the settings (`net_af_packet0`), one
    /// that is still to be attached (with its arguments, behind commas), or a PCI address.
    ///
    /// # Errors
    /// [`DeviceError`], with the remedy.
    pub fn open(eal: &Eal, name: &str, settings: &DeviceSettings) -> Result<Self, DeviceError> {
        let arguments = eal.vdev(name).unwrap_or(name).to_owned();
        let name = name.split(',').next().unwrap_or_default();
        let name = if name.contains(':') {
            facts::pci_address(name)
        } else {
            name.to_owned()
        };
        let port = match port_of(&name)? {
            Some(port) => port,
            None if arguments.contains(',') || name.starts_with("net_") => {
                eal.attach(&arguments)?;
                port_of(&name)?.ok_or_else(|| unknown(&name))?
            }
            None => return Err(unknown(&name)),
        };
        Self::start(eal, port, &name, &arguments, settings, Vec::new())
    }

    /// Two devices of this process joined by rings: what one sends the other receives, in the same
    /// buffers. For tests and measurements.
    ///
    /// # Errors
    /// [`DeviceError`]; the names have to be new.
    pub fn ring_pair(
        eal: &Eal,
        names: [&str; 2],
        settings: &DeviceSettings,
    ) -> Result<(Self, Self), DeviceError> {
        let memory = |why| DeviceError::Step {
            name: names[0].to_owned(),
            step: "make its rings",
            why,
            log: complaints(),
        };
        let ring = || Ring::new(settings.rx_descriptors).map(Arc::new);
        let rings = || {
            (0..settings.queues)
                .map(|_| ring())
                .collect::<Result<Vec<_>, _>>()
        };
        let (there, back) = (rings().map_err(memory)?, rings().map_err(memory)?);
        let open = |name: &str, receives: &[Arc<Ring>], sends: &[Arc<Ring>]| {
            let port = port_from_rings(name, receives, sends)?;
            let rings = receives.iter().chain(sends).cloned().collect();
            Self::start(eal, port, name, name, settings, rings)
        };
        let left = open(names[0], &back, &there)?;
        let right = open(names[1], &there, &back)?;
        Ok((left, right))
    }

    fn start(
        eal: &Eal,
        port: u16,
        name: &str,
        arguments: &str,
        settings: &DeviceSettings,
        rings: Vec<Arc<Ring>>,
    ) -> Result<Self, DeviceError> {
        if !eal.take_port(port) {
            return Err(DeviceError::Opened(name.to_owned()));
        }
        // From here on a failure closes it.
        let opened = Opened {
            port,
            rings,
            eal: eal.clone(),
        };
        let setup = set_up(port, name, arguments, settings)?;
        let queues = (0..settings.queues).map(|_| AtomicBool::new(false));
        Ok(Self {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                queues: queues.collect(),
                users: AtomicU32::new(u32::from(settings.queues)),
                stopped: Stopped::default(),
                troubles: OnceLock::new(),
                control: Mutex::new(()),
                opened,
                setup,
                _eal: eal.clone(),
            }),
        })
    }

    /// A queue, from 0. `None`: there is no such, or it was given before.
    pub fn queue(&self, queue: u16) -> Option<IdleQueue> {
        let given = self.shared.queues.get(usize::from(queue))?;
        if given.swap(true, Ordering::AcqRel) {
            return None;
        }
        let using = Using(Arc::clone(&self.shared));
        Some(IdleQueue::new(using, queue))
    }

    /// What its first queue can do; the others are alike.
    pub fn capabilities(&self) -> Capabilities {
        self.shared.capabilities(0)
    }

    /// Transmit buffers, of all its queues, that are in use.
    #[cfg(test)]
    pub(super) fn tx_buffers_in_use(&self) -> u32 {
        self.shared.tx().in_use()
    }

    /// The name of its driver.
    pub fn driver(&self) -> &str {
        &self.shared.setup.driver_name
    }

    /// The NUMA node that it is at, where it is at one.
    pub fn numa(&self) -> Option<u32> {
        // SAFETY: only looks up the port.
        let node = unsafe { sys::rte_eth_dev_socket_id(self.shared.port()) };
        u32::try_from(node).ok()
    }

    /// Whether the link is up.
    pub fn link(&self) -> Link {
        self.shared.link()
    }

    /// What its driver counts of errors, drops and misses, by the driver's own names, where it is
    /// not zero; at most [`TROUBLES_MAX`]. As it was when the last queue ended, if that is so.
    pub fn troubles(&self) -> Vec<(String, u64)> {
        if let Some(troubles) = self.shared.troubles.get() {
            return troubles.clone();
        }
        self.shared.troubles_now()
    }

    /// All that its driver counts, by the driver's own names.
    #[cfg(test)]
    pub(super) fn xstats(&self) -> Vec<(String, u64)> {
        self.shared.xstats()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        for given in &self.shared.queues {
            if !given.swap(true, Ordering::AcqRel) {
                self.shared.finish();
            }
        }
    }
}

/// A queue that is in use, or may come to be.
#[derive(Debug)]
pub(super) struct Using(Arc<Shared>);

impl Using {
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// A port that has to be closed, and what it needs until then.
#[derive(Debug)]
struct Opened {
    port: u16,
    rings: Vec<Arc<Ring>>,
    eal: Eal,
}

impl Drop for Opened {
    fn drop(&mut self) {
        let device = device_info(self.port).map(|info| info.device);
        // SAFETY: nobody has a queue of it any more.
        let stopped = unsafe { sys::rte_eth_dev_stop(self.port) };
        // SAFETY: as above; it is stopped, or was never started.
        let closed = unsafe { sys::rte_eth_dev_close(self.port) };
        if closed != 0 {
            tracing::warn!(
                "DPDK port {}: cannot be closed: {} (stopped: {stopped})",
                self.port,
                error_text(closed)
            );
        }
        self.eal.give_port(self.port);
        // Frames on their way are of this device's pools, or come to it.
        self.rings.iter().for_each(|ring| ring.drain());
        if let Some(device) = device.filter(|&device| bus_of(device) == "vdev") {
            // SAFETY: the device is still on its bus, since closing a port does not take it off.
            let removed = unsafe { sys::rte_dev_remove(device) };
            if removed != 0 {
                tracing::debug!("DPDK device stays: {}", error_text(removed));
            }
        }
    }
}

/// Whether a device has stopped, to wait for.
#[derive(Default, Debug)]
struct Stopped {
    is_so: Mutex<bool>,
    told: Condvar,
}

impl Stopped {
    fn tell(&self) {
        *self.is_so.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.told.notify_all();
    }

    /// `false`: it was not told in time.
    fn wait(&self, patience: Duration) -> bool {
        let is_so = self.is_so.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .told
            .wait_timeout_while(is_so, patience, |is_so| !*is_so);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// What the handles of one device share. Fields are dropped in this order: the port is closed
/// before its pools go, and DPDK ends after them.
#[derive(Debug)]
pub(super) struct Shared {
    name: String,
    /// Which have been given.
    queues: Box<[AtomicBool]>,
    /// Queues that have not ended.
    users: AtomicU32,
    stopped: Stopped,
    /// What the driver counted when the last queue ended.
    troubles: OnceLock<Vec<(String, u64)>>,
    /// Calls about the port as a whole, which DPDK does not allow at once. Never held on the data
    /// path.
    control: Mutex<()>,
    opened: Opened,
    setup: Setup,
    _eal: Eal,
}

impl Shared {
    pub(super) fn port(&self) -> u16 {
        self.opened.port
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn rx(&self) -> &Mempool {
        &self.setup.rx
    }

    pub(super) fn tx(&self) -> &Mempool {
        &self.setup.tx
    }

    pub(super) fn lending(&self) -> Lending {
        self.setup.lending
    }

    pub(super) fn limits(&self) -> Limits {
        self.setup.limits
    }

    /// Its driver looks for what has been sent when it is called, and cannot be asked.
    pub(super) fn looks_when_called(&self) -> bool {
        self.setup.looks_when_called
    }

    /// The driver wants to see frames with offloads before they are sent.
    pub(super) fn prepares(&self) -> bool {
        self.setup.prepares
    }

    /// What asks for the sum of the IPv4 header of each segment, where that has to be asked for.
    pub(super) fn ip_checksum_flag(&self) -> u64 {
        if self.setup.fills_ipv4 {
            sys::RTE_MBUF_F_TX_IP_CKSUM
        } else {
            0
        }
    }

    /// Pieces of memory that one queue and its device can hold at once.
    pub(super) fn segments_of_queue(&self) -> u32 {
        segments_of_queue(self.setup.tx_descriptors)
    }

    pub(super) fn device(&self) -> *mut sys::rte_device {
        self.setup.device
    }

    pub(super) fn capabilities(&self, queue: u16) -> Capabilities {
        Capabilities {
            queue,
            queues: u16::try_from(self.queues.len()).expect("made from a u16"),
            ..self.setup.capabilities.clone()
        }
    }

    /// A queue has ended, used or not. With the last one the device stops: nobody is in it then,
    /// and what it frees of that thread's is freed where it belongs.
    fn finish(&self) {
        if self.users.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        // Some drivers begin to count anew when they stop.
        let _ = self.troubles.set(self.troubles_now());
        let _one_at_a_time = self.control();
        // SAFETY: no thread polls it, and none will.
        let stopped = unsafe { sys::rte_eth_dev_stop(self.port()) };
        if stopped != 0 {
            tracing::warn!("device {}: cannot stop: {}", self.name, error_text(stopped));
        }
        self.stopped.tell();
    }

    /// Waits until the last queue has stopped the device, or for [`STOP_PATIENCE`].
    pub(super) fn wait_until_stopped(&self) {
        self.stopped.wait(STOP_PATIENCE);
    }

    fn control(&self) -> MutexGuard<'_, ()> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> sys::rte_eth_stats {
        let _one_at_a_time = self.control();
        let mut stats = sys::rte_eth_stats::default();
        // SAFETY: writes the variable, where the driver has anything to say.
        unsafe { sys::rte_eth_stats_get(self.port(), &raw mut stats) };
        stats
    }

    /// See [`Device::troubles`].
    fn troubles_now(&self) -> Vec<(String, u64)> {
        let counted = self.xstats().into_iter();
        let troubles = counted.filter(|(name, count)| *count != 0 && facts::is_trouble(name));
        troubles.take(TROUBLES_MAX).collect()
    }

    /// All that the driver counts, by its own names.
    fn xstats(&self) -> Vec<(String, u64)> {
        let _one_at_a_time = self.control();
        let port = self.port();
        // SAFETY: without room it only tells how many there are.
        let count = unsafe { sys::rte_eth_xstats_get(port, ptr::null_mut(), 0) };
        let (Ok(count), Ok(len)) = (u32::try_from(count), usize::try_from(count)) else {
            return Vec::new();
        };
        let mut values = vec![sys::rte_eth_xstat::default(); len];
        let mut names = vec![sys::rte_eth_xstat_name::default(); len];
        // SAFETY: there is room for `count`.
        let got = unsafe { sys::rte_eth_xstats_get(port, values.as_mut_ptr(), count) };
        // SAFETY: as above.
        let named = unsafe { sys::rte_eth_xstats_get_names(port, names.as_mut_ptr(), count) };
        let got = usize::try_from(got.min(named)).unwrap_or(0).min(len);
        values[..got]
            .iter()
            .filter_map(|value| {
                let name = names.get(usize::try_from(value.id).ok()?)?;
                // SAFETY: the driver ends each name with a NUL inside its field.
                let name = unsafe { CStr::from_ptr(name.name.as_ptr()) };
                Some((name.to_string_lossy().into_owned(), value.value))
            })
            .collect()
    }

    pub(super) fn link(&self) -> Link {
        let _one_at_a_time = self.control();
        let mut speed = 0;
        // SAFETY: writes the variable.
        let up = unsafe { sys::iibd_link(self.port(), &raw mut speed) } != 0;
        Link {
            up,
            mbit_per_s: (speed != 0 && speed != u32::MAX).then_some(speed),
        }
    }

    pub(super) fn failed(&self, step: &'static str, why: String) -> DeviceError {
        DeviceError::Step {
            name: self.name.clone(),
            step,
            why,
            log: String::new(),
        }
    }
}

// SAFETY: nothing of it is tied to a thread; the device's pointer is only handed to DPDK's own
// functions, which may be called from any.
unsafe impl Send for Shared {}
// SAFETY: as above; what changes is atomic.
unsafe impl Sync for Shared {}

/// Buffers that a transmit queue needs: what the device can have at once, what waits, what each
/// core keeps at hand.
pub(super) fn segments_of_queue(descriptors: u16) -> u32 {
    let waiting = u32::try_from(WAITING_MAX).expect("a small number");
    u32::from(descriptors) + waiting * (u32::from(PIECES_MAX) + 1)
}

/// Buffers that a receive queue needs.
pub(super) fn frames_of_queue(settings: &DeviceSettings, descriptors: u16) -> u32 {
    let burst = u32::try_from(BURST).expect("a small number");
    let own = u32::from(descriptors) + 2 * burst + 2 * CACHE;
    own.saturating_add(settings.frames)
}

/// The number of the port of that name.
fn port_of(name: &str) -> Result<Option<u16>, DeviceError> {
    let text = c_string(name)?;
    let mut port = 0;
    // SAFETY: the text ends with a NUL; the variable is written when there is one.
    let found = unsafe { sys::rte_eth_dev_get_port_by_name(text.as_ptr(), &raw mut port) };
    Ok((found == 0).then_some(port))
}

fn unknown(name: &str) -> DeviceError {
    let why = if name.contains(':') {
        "DPDK did not take this address: is it among the PCI addresses of the configuration, and \
         is there a driver of DPDK's for it (`dpdk-devbind.py --status`)?"
    } else {
        "it is neither a PCI address nor a virtual device of the configuration"
    };
    DeviceError::Unknown {
        name: name.to_owned(),
        why: why.to_owned(),
    }
}

fn port_from_rings(
    name: &str,
    receives: &[Arc<Ring>],
    sends: &[Arc<Ring>],
) -> Result<u16, DeviceError> {
    let text = c_string(name)?;
    let pointers = |rings: &[Arc<Ring>]| -> Vec<*mut sys::rte_ring> {
        rings.iter().map(|ring| ring.as_ptr()).collect()
    };
    let (receives, sends) = (pointers(receives), pointers(sends));
    let count = u32::try_from(receives.len()).expect("made from a u16");
    // SAFETY: so many rings each, which live as long as the device: it holds them. The name is
    // copied.
    let port = unsafe {
        sys::rte_eth_from_rings(
            text.as_ptr(),
            receives.as_ptr(),
            count,
            sends.as_ptr(),
            count,
            0,
        )
    };
    u16::try_from(port).map_err(|_| DeviceError::Step {
        name: name.to_owned(),
        step: "be made of rings",
        // SAFETY: reads a variable of this thread.
        why: error_text(unsafe { sys::iibd_errno() }),
        log: complaints(),
    })
}

/// What the driver says of a port.
pub(super) fn device_info(port: u16) -> Option<sys::rte_eth_dev_info> {
    let mut info = sys::rte_eth_dev_info::default();
    // SAFETY: writes the variable.
    let done: c_int = unsafe { sys::rte_eth_dev_info_get(port, &raw mut info) };
    (done == 0).then_some(info)
}

/// The name of the bus that a device is on.
pub(super) fn bus_of(device: *const sys::rte_device) -> String {
    if device.is_null() {
        return String::new();
    }
    // SAFETY: a device of a port that exists.
    let bus = unsafe { sys::rte_dev_bus(device) };
    if bus.is_null() {
        return String::new();
    }
    // SAFETY: buses stay as long as the process.
    let name = unsafe { sys::rte_bus_name(bus) };
    text_of(name)
}

/// A text of DPDK's, which may be absent.
pub(super) fn text_of(text: *const std::ffi::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: DPDK's texts end with a NUL, and this one is copied at once.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_string_lossy().into_owned()
}

/// The driver of a port by its name and bus.
pub(super) fn driver_of(info: &sys::rte_eth_dev_info) -> (String, Driver) {
    let name = text_of(info.driver_name);
    let driver = facts::driver(&name, &bus_of(info.device));
    (name, driver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_waited_for_and_not_for_ever() {
        let stopped = Stopped::default();
        assert!(!stopped.wait(Duration::from_millis(1)));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| stopped.wait(Duration::from_secs(60)));
            stopped.tell();
            assert!(waits.join().unwrap());
        });
        assert!(stopped.wait(Duration::ZERO));
    }
}
