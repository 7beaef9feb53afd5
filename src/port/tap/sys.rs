//! The calls to the system that a TAP device is made with. `unsafe` for `ioctl` alone: rustix has
//! none for tunnels.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libc::Ioctl;

/// Bytes of a device's name with the zero behind it.
pub(super) const NAME_BYTES: usize = libc::IFNAMSIZ;
/// Bytes of `struct ifreq`.
const REQUEST_BYTES: usize = size_of::<libc::ifreq>();

/// `struct ifreq` with one of its values.
#[repr(C)]
pub(super) struct Request<T> {
    name: [u8; NAME_BYTES],
    pub(super) value: T,
}

/// A value that fills the union of `struct ifreq`: plain integers, without padding.
pub(super) trait Value: Default {}

#[repr(C)]
#[derive(Default)]
pub(super) struct Flags {
    pub(super) flags: u16,
    rest: [u16; 11],
}

#[repr(C)]
#[derive(Default)]
pub(super) struct Number {
    pub(super) number: c_int,
    rest: [u32; 5],
}

#[repr(C)]
#[derive(Default)]
pub(super) struct Address {
    family: u16,
    pub(super) mac: [u8; 6],
    rest: [u16; 8],
}

impl Value for Flags {}
impl Value for Number {}
impl Value for Address {}

impl<T: Value> Request<T> {
    /// About the device of this name, which has fewer than [`NAME_BYTES`] bytes.
    pub(super) fn new(name: &str) -> Self {
        const {
            assert!(size_of::<Self>() == REQUEST_BYTES, "the kernel's layout");
        }
        let mut bytes = [0; NAME_BYTES];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Self {
            name: bytes,
            value: T::default(),
        }
    }

    /// Asks the system about it.
    pub(super) fn ask(&mut self, fd: impl AsFd, operation: Ioctl) -> io::Result<()> {
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: the operations of this module read and write one `struct ifreq`, which is what
        // this is in size and layout; any bytes are good values of its fields.
        let result = unsafe { libc::ioctl(fd, operation, &raw mut *self) };
        checked(result)
    }
}

pub(super) const SET_INTERFACE: Ioctl = libc::TUNSETIFF;
pub(super) const READ_FLAGS: Ioctl = libc::SIOCGIFFLAGS as Ioctl;
pub(super) const SET_FLAGS: Ioctl = libc::SIOCSIFFLAGS as Ioctl;
pub(super) const READ_MTU: Ioctl = libc::SIOCGIFMTU as Ioctl;
pub(super) const SET_MTU: Ioctl = libc::SIOCSIFMTU as Ioctl;
pub(super) const READ_ADDRESS: Ioctl = libc::SIOCGIFHWADDR as Ioctl;

/// Which offloads the host may leave to us.
pub(super) fn set_offload(tap: impl AsFd, features: u32) -> io::Result<()> {
    let fd = tap.as_fd().as_raw_fd();
    // SAFETY: this operation takes a number, and touches no memory of ours.
    let result = unsafe { libc::ioctl(fd, libc::TUNSETOFFLOAD, libc::c_ulong::from(features)) };
    checked(result)
}

/// How many bytes the header in front of each frame has, and that it is little-endian.
pub(super) fn set_header(tap: impl AsFd, bytes: usize) -> io::Result<()> {
    let fd = tap.as_fd().as_raw_fd();
    let bytes = c_int::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: this operation reads one int.
    checked(unsafe { libc::ioctl(fd, libc::TUNSETVNETHDRSZ, &raw const bytes) })?;
    let is_little: c_int = 1;
    // SAFETY: this operation reads one int.
    checked(unsafe { libc::ioctl(fd, libc::TUNSETVNETLE, &raw const is_little) })
}

fn checked(result: c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
