//! A TAP device of this machine as a port: the kernel on the other side, no driver and no DPDK.
//! Several queues, with checksums and TCP segmentation left to the kernel both ways.
//!
//! ```text
//! receive ◄─ readv: header, frame, rest of a long one
//! transmit ─► writev: header, head, payload from where it is
//! ```
//!
//! The device is made, or attached to where it exists, given the MTU and brought up. It goes with
//! the last of its queues, unless it was made to stay. Its own address is the host's side; the
//! port's is made from it. Of the daemons of one network namespace one has it, with all its queues:
//! it holds an abstract socket's name for that (see `claim`). Any program of the namespace can hold
//! that name and so keep the daemon from starting, which then says that the device is in use;
//! /proc/net/unix shows such a name. Where local users are not trusted, give the daemon a network
//! namespace of its own.
//! A device that is removed while it is served is told in the log, and is a link that stays down.
//!
//! A frame costs one system call. Received ones lie in buffers of the MTU; packets that the kernel
//! has joined (`segment_bytes`) lie in a few long ones. While no buffer is free frames wait in the
//! kernel's queue, whose losses the port of queue 0 counts as missed.

mod header;
mod sys;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use arrayvec::ArrayVec;
use rustix::io::{Errno, readv, writev};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};

use super::buffers::{Buffer, Buffers};
use super::checksum::{self, IPV4_CHECKSUM_AT};
use super::offload::head_to_cut;
use super::sum::Sum;
use super::{
    Burst, Capabilities, Counters, ETHERNET_BYTES, Frame, Full, HEAD_BYTES_MAX, Link, Outgoing,
    Port, VLAN_BYTES,
};
use header::HEADER_BYTES;
use sys::{Address, Flags, NAME_BYTES, Number, Request};

/// The longest IP packet that a TAP device carries.
pub const MTU_MAX: u16 = u16::MAX - 14;
const MTU_MIN: u16 = 576;
/// Queues of one device, at most (the kernel's limit).
pub const QUEUES_MAX: u16 = 256;
/// Pieces of payload written from where they are.
const PIECES_MAX: usize = 62;
/// The longest frame, joined from segments.
const LONG_BYTES: usize = u16::MAX as usize + ETHERNET_BYTES + VLAN_BYTES;
/// Tries at one frame before it is dropped.
const FULL_MAX: u32 = 100_000;
const TUN: &str = "/dev/net/tun";

/// How a device is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    pub name: String,
    /// Bytes of the longest IP packet, 576 to [`MTU_MAX`].
    pub mtu: u16,
    /// 1 to [`QUEUES_MAX`].
    pub queues: u16,
    /// The address of the port; `None`: made from the device's.
    pub mac: Option<[u8; 6]>,
    /// Leave checksums and segmentation to the kernel, both ways.
    pub offload: bool,
    /// Buffers for frames of the MTU, per queue.
    pub buffers: usize,
    /// Buffers of 64 KiB for packets that the kernel has joined, per queue.
    pub long_buffers: usize,
}

impl Config {
    /// A device with one queue and the usual limits.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            mtu: 1500,
            queues: 1,
            mac: None,
            offload: true,
            buffers: 2048,
            long_buffers: 64,
        }
    }
}

/// Why a device could not be made or attached to.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    #[error(
        "`{0}` cannot be the name of a TAP device: 1 to 15 bytes, none of / : % or white space"
    )]
    Name(String),
    #[error("TAP device {name}: the MTU {mtu} is not from {MTU_MIN} to {MTU_MAX}")]
    Mtu { name: String, mtu: u16 },
    #[error("TAP device {name}: {queues} queues are not from 1 to {QUEUES_MAX}")]
    Queues { name: String, queues: u16 },
    #[error(
        "there is no {TUN}: load the driver (`modprobe tun`), or pass the device into the container"
    )]
    NoDriver,
    #[error(
        "TAP device {name}: not permitted. Give the daemon CAP_NET_ADMIN, or have root prepare the \
         device: `ip tuntap add dev {name} mode tap multi_queue vnet_hdr user USER; \
         ip link set {name} mtu {mtu} up`"
    )]
    Denied { name: String, mtu: u16 },
    #[error("TAP device {0} is in use by another daemon or process: stop it, or take another name")]
    Busy(String),
    #[error(
        "{0} exists and is no TAP device with several queues: take another name, or remove it \
         (`ip link delete {0}`)"
    )]
    Kind(String),
    #[error("TAP device {name}: cannot {what}: {source}")]
    System {
        name: String,
        what: &'static str,
        source: io::Error,
    },
}

/// Makes the device, or attaches to it, and gives its queues, each to be polled by its own core.
///
/// # Errors
/// [`TapError`], with the remedy.
pub fn open(config: &Config) -> Result<Vec<Tap>, TapError> {
    check(config)?;
    let name = config.name.as_str();
    let claim = Arc::new(claim(config)?);
    let mut queues = Vec::new();
    for _ in 0..config.queues {
        queues.push(attach(config)?);
    }
    let control = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| failed(config, "open a socket")(error.into()))?;
    set_mtu(config, &control)?;
    bring_up(config, &control)?;
    let mut address = Request::<Address>::new(name);
    address
        .ask(&control, sys::READ_ADDRESS)
        .map_err(failed(config, "read its address"))?;
    let mac = config
        .mac
        .unwrap_or_else(|| neighbour_of(address.value.mac));
    queues
        .into_iter()
        .zip(0..)
        .map(|(device, queue)| Tap::new(config, (device, &claim), queue, mac))
        .collect()
}

fn check(config: &Config) -> Result<(), TapError> {
    let name = config.name.clone();
    let is_strange = |letter: char| letter.is_whitespace() || "/:%\0".contains(letter);
    let is_dots = name == "." || name == "..";
    if name.is_empty() || name.len() >= NAME_BYTES || name.contains(is_strange) || is_dots {
        return Err(TapError::Name(name));
    }
    let mtu = config.mtu;
    if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
        return Err(TapError::Mtu { name, mtu });
    }
    let queues = config.queues;
    if !(1..=QUEUES_MAX).contains(&queues) {
        return Err(TapError::Queues { name, queues });
    }
    Ok(())
}

/// Says what was tried, and the remedy where there is a known one.
fn failed(config: &Config, what: &'static str) -> impl Fn(io::Error) -> TapError {
    let (name, mtu) = (config.name.clone(), config.mtu);
    move |source| match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PERM | Errno::ACCESS) => TapError::Denied {
            name: name.clone(),
            mtu,
        },
        _ => TapError::System {
            name: name.clone(),
            what,
            source,
        },
    }
}

/// Makes the device this caller's alone, for as long as the socket is open: a device of several
/// queues takes further ones from anybody, and frames would be spread over two daemons. An abstract
/// name is, like that of the device, one of the network namespace, and leaves nothing behind.
fn claim(config: &Config) -> Result<OwnedFd, TapError> {
    let failed = |error: Errno| failed(config, "claim it")(error.into());
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None);
    let socket = socket.map_err(failed)?;
    let name = format!("iiblockdaemon/tap/{}", config.name);
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(failed)?;
    match bind(&socket, &address) {
        Ok(()) => Ok(socket),
        Err(Errno::ADDRINUSE) => Err(TapError::Busy(config.name.clone())),
        Err(error) => Err(failed(error)),
    }
}

/// One queue of the device.
fn attach(config: &Config) -> Result<OwnedFd, TapError> {
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("a small flag");
    let opened = File::options()
        .read(true)
        .write(true)
        .custom_flags(nonblocking)
        .open(TUN);
    let device: OwnedFd = opened
        .map_err(
            |error| match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => TapError::NoDriver,
                _ => failed(config, "open the driver")(error),
            },
        )?
        .into();
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    let mut interface = Request::<Flags>::new(&config.name);
    interface.value.flags = u16::try_from(flags).expect("16 bits of flags");
    interface
        .ask(&device, sys::SET_INTERFACE)
        .map_err(
            |error| match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::BUSY) => TapError::Busy(config.name.clone()),
                Some(Errno::INVAL) => TapError::Kind(config.name.clone()),
                _ => failed(config, "attach to it")(error),
            },
        )?;
    sys::set_header(&device, HEADER_BYTES).map_err(failed(config, "set the header's size"))?;
    let features = if config.offload {
        libc::TUN_F_CSUM | libc::TUN_F_TSO4
    } else {
        0
    };
    sys::set_offload(&device, features).map_err(failed(config, "set its offloads"))?;
    Ok(device)
}

fn set_mtu(config: &Config, control: &OwnedFd) -> Result<(), TapError> {
    let mut mtu = Request::<Number>::new(&config.name);
    mtu.ask(control, sys::READ_MTU)
        .map_err(failed(config, "read its MTU"))?;
    // A device that is right needs no permission.
    if mtu.value.number == i32::from(config.mtu) {
        return Ok(());
    }
    mtu.value.number = i32::from(config.mtu);
    mtu.ask(control, sys::SET_MTU)
        .map_err(failed(config, "set its MTU"))
}

fn bring_up(config: &Config, control: &OwnedFd) -> Result<(), TapError> {
    let up = u16::try_from(libc::IFF_UP).expect("a small flag");
    let mut flags = Request::<Flags>::new(&config.name);
    flags
        .ask(control, sys::READ_FLAGS)
        .map_err(failed(config, "read its flags"))?;
    if flags.value.flags & up != 0 {
        return Ok(());
    }
    flags.value.flags |= up;
    flags
        .ask(control, sys::SET_FLAGS)
        .map_err(failed(config, "bring it up"))
}

/// Another address, for the other end of the device's cable: administered here, for one station.
fn neighbour_of(mac: [u8; 6]) -> [u8; 6] {
    let [first, middle @ .., last] = mac;
    let mut other = [(first | 0x02) & !0x01, 0, 0, 0, 0, last ^ 0x80];
    other[1..5].copy_from_slice(&middle);
    other
}

/// One queue of a TAP device. See the module.
#[derive(Debug)]
pub struct Tap {
    /// Absent when it was removed from the system.
    device: Option<OwnedFd>,
    /// Shared by all queues of the device.
    _claim: Arc<OwnedFd>,
    /// To ask about the link.
    control: OwnedFd,
    name: String,
    capabilities: Capabilities,
    buffers: Buffers,
    long_buffers: Buffers,
    /// To receive the next frame into.
    next: Option<Buffer>,
    /// Where the rest of a long one goes.
    next_long: Option<Buffer>,
    /// Where it goes while no long buffer is free.
    scratch: Box<[u8]>,
    /// Pieces beyond the number that is written at once.
    together: Vec<u8>,
    losses: Option<Losses>,
    counters: Counters,
    full: u32,
}

impl Tap {
    fn new(
        config: &Config,
        (device, claim): (OwnedFd, &Arc<OwnedFd>),
        queue: u16,
        mac: [u8; 6],
    ) -> Result<Self, TapError> {
        let bytes = usize::from(config.mtu) + ETHERNET_BYTES + VLAN_BYTES;
        let offload = config.offload;
        let control = socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|error| failed(config, "open a socket")(error.into()))?;
        Ok(Self {
            device: Some(device),
            _claim: Arc::clone(claim),
            control,
            name: config.name.clone(),
            capabilities: Capabilities {
                mac,
                mtu: config.mtu,
                queue,
                queues: config.queues,
                verifies_checksums: offload,
                fills_ipv4_checksum: offload,
                fills_tcp_checksum: offload,
                segments_ipv4: offload.then_some(u16::MAX),
                segment_bytes_min: 1,
                receive_frames: config.buffers.max(1),
                pieces_max: PIECES_MAX,
                holds_loans: true,
            },
            buffers: Buffers::new(config.buffers.max(1), bytes),
            // Nothing is joined for us without offloads.
            long_buffers: Buffers::new(if offload { config.long_buffers } else { 0 }, LONG_BYTES),
            next: None,
            next_long: None,
            scratch: vec![0; LONG_BYTES].into_boxed_slice(),
            together: Vec::new(),
            losses: (queue == 0).then(|| Losses::open(&config.name)).flatten(),
            counters: Counters::default(),
            full: 0,
        })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Buffers for frames of the MTU, and long ones, that hold no frame.
    pub fn buffers_available(&self) -> (usize, usize) {
        (
            self.buffers.available() + usize::from(self.next.is_some()),
            self.long_buffers.available() + usize::from(self.next_long.is_some()),
        )
    }

    /// The next frame of the device: bytes of it, with its first ones in `next` and the others in
    /// `next_long`, if there is one. `None`: there is none, or no room for one.
    fn read(&mut self) -> Option<(header::Header, usize)> {
        if self.next.is_none() {
            self.next = self.buffers.take(self.buffers.bytes());
        }
        if self.next_long.is_none() {
            self.next_long = self.long_buffers.take(LONG_BYTES);
        }
        let first = self.next.as_mut()?;
        let rest = match &mut self.next_long {
            Some(long) => &mut long[first.len()..],
            None => &mut self.scratch,
        };
        let mut header = [0; HEADER_BYTES];
        let mut parts = [
            IoSliceMut::new(&mut header),
            IoSliceMut::new(first),
            IoSliceMut::new(rest),
        ];
        match readv(self.device.as_ref()?, &mut parts) {
            Ok(bytes) if bytes >= HEADER_BYTES => Some((header, bytes - HEADER_BYTES)),
            Err(Errno::BADFD) => {
                self.lose();
                None
            }
            // Nothing there, interrupted, or the device is down: the next turn tries again.
            Ok(_) | Err(_) => None,
        }
    }

    /// The device was removed from the system: it never comes back by this descriptor, which would
    /// wake who sleeps on it for ever.
    fn lose(&mut self) {
        if self.device.take().is_some() {
            tracing::error!(
                "TAP device {}: queue {} is lost, the device was removed from the system; restart \
                 the daemon to have it again",
                self.name,
                self.capabilities.queue
            );
        }
    }

    /// What was read as a frame. `None`: it was counted instead.
    fn frame(&mut self, header: &header::Header, len: usize) -> Option<Frame> {
        let short = self.buffers.bytes();
        let buffer = if len <= short {
            let mut buffer = self.next.take()?;
            buffer.truncate(len);
            buffer
        } else if let Some(mut long) = self.next_long.take() {
            long[..short].copy_from_slice(self.next.as_ref()?);
            long.truncate(len);
            long
        } else {
            self.counters.missed += 1;
            return None;
        };
        let mut frame = Frame::new(buffer);
        header::note(header, &mut frame);
        let packet = len.saturating_sub(checksum::l2_len(frame.head()));
        let is_long = packet > usize::from(self.capabilities.mtu) && frame.segment_bytes.is_none();
        if len < ETHERNET_BYTES || is_long {
            self.counters.receive_errors += 1;
            return None;
        }
        Some(frame)
    }

    /// Writes a frame of which the first bytes are `head` instead of its own.
    fn write(&mut self, frame: &Outgoing<'_>, head: &[u8]) -> rustix::io::Result<usize> {
        let header = header::emit(&frame.offload);
        let mut parts = ArrayVec::<_, { PIECES_MAX + 3 }>::new();
        parts.push(IoSlice::new(&header));
        parts.push(IoSlice::new(head));
        let at_once = frame.payload.len().min(PIECES_MAX);
        let (pieces, more) = frame.payload.split_at(at_once);
        parts.extend(pieces.iter().map(|piece| IoSlice::new(piece.bytes())));
        self.together.clear();
        for piece in more {
            self.together.extend_from_slice(piece.bytes());
        }
        parts.push(IoSlice::new(&self.together));
        writev(self.device.as_ref().ok_or(Errno::BADFD)?, &parts)
    }
}

impl Port for Tap {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn receive(&mut self, burst: &mut Burst) {
        let room = burst.remaining_capacity();
        for _ in 0..room {
            let Some((header, len)) = self.read() else {
                return;
            };
            if let Some(frame) = self.frame(&header, len) {
                self.counters.received += 1;
                self.counters.received_bytes += len as u64;
                burst.push(frame);
            }
        }
    }

    fn transmit(&mut self, frame: &Outgoing<'_>) -> Result<(), Full> {
        if !self.capabilities.can_send(frame) {
            self.counters.refused += 1;
            return Ok(());
        }
        let mut head = [0; HEAD_BYTES_MAX];
        head[..frame.head.len()].copy_from_slice(frame.head);
        if frame.offload.segment_bytes.is_some() {
            let Some(cut) = head_to_cut(frame) else {
                self.counters.refused += 1;
                return Ok(());
            };
            head = cut;
        }
        // The host leaves this one to whoever sends.
        if frame.offload.ipv4_checksum {
            let l2 = usize::from(frame.offload.l2_len);
            let ip = &mut head[l2..l2 + usize::from(frame.offload.l3_len)];
            ip[IPV4_CHECKSUM_AT..][..2].fill(0);
            let mut sum = Sum::new();
            sum.add(ip);
            ip[IPV4_CHECKSUM_AT..][..2].copy_from_slice(&sum.checksum().to_be_bytes());
        }
        match self.write(frame, &head[..frame.head.len()]) {
            Ok(_) => {
                self.counters.sent += 1;
                self.counters.sent_bytes += frame.len() as u64;
            }
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::INTR)
                if self.full < FULL_MAX =>
            {
                self.full += 1;
                return Err(Full);
            }
            // The device is down or gone, or will not take this one.
            Err(_) => self.counters.transmit_errors += 1,
        }
        self.full = 0;
        Ok(())
    }

    fn flush(&mut self) {}

    fn counters(&self) -> Counters {
        let lost = self.losses.as_ref().map_or(0, Losses::so_far);
        Counters {
            missed: self.counters.missed + lost,
            ..self.counters
        }
    }

    /// One system call.
    fn link(&mut self) -> Link {
        let running = u16::try_from(libc::IFF_UP | libc::IFF_RUNNING).expect("small flags");
        let mut flags = Request::<Flags>::new(&self.name);
        let known = flags.ask(&self.control, sys::READ_FLAGS).is_ok();
        Link {
            up: self.device.is_some() && known && flags.value.flags & running == running,
            mbit_per_s: None,
        }
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        self.device.as_ref().map(AsFd::as_fd)
    }
}

/// What the kernel has dropped because nobody took it off the device's queues.
#[derive(Debug)]
struct Losses {
    /// The table of the network namespace that the device was opened in.
    table: File,
    name: String,
    before: u64,
}

impl Losses {
    fn open(name: &str) -> Option<Self> {
        let table = File::open("/proc/thread-self/net/dev").ok()?;
        let mut losses = Self {
            table,
            name: name.to_owned(),
            before: 0,
        };
        losses.before = losses.dropped()?;
        Some(losses)
    }

    fn so_far(&self) -> u64 {
        self.dropped()
            .map_or(0, |dropped| dropped.saturating_sub(self.before))
    }

    /// Frames to the device that were dropped, since it was made.
    fn dropped(&self) -> Option<u64> {
        const TABLE_BYTES_MAX: usize = 1 << 20;
        /// Behind the eight columns of what the host received, the fourth of what it sent.
        const COLUMN: usize = 11;
        let mut text = vec![];
        let mut part = [0; 4096];
        while text.len() < TABLE_BYTES_MAX {
            let read = self.table.read_at(&mut part, text.len() as u64).ok()?;
            if read == 0 {
                break;
            }
            text.extend_from_slice(&part[..read]);
        }
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find_map(|line| {
            let (name, columns) = line.trim().split_once(':')?;
            (name == self.name).then_some(columns)
        });
        line?.split_whitespace().nth(COLUMN)?.parse().ok()
    }
}
