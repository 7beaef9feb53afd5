//! Stands where DPDK is not built in: there is no such device, and no frame of one. What is public
//! is the same as with it; see `dpdk/mod.rs`.

#[path = "dpdk/settings.rs"]
mod settings;

use std::os::fd::BorrowedFd;

pub use settings::{DeviceError, DeviceSettings, EalError, EalSettings};

use super::{Burst, Capabilities, Counters, Full, Link, Outgoing, Port};
use crate::mem::Pool;

/// DPDK is not built in.
pub const BUILT_IN: bool = false;

/// Never exists in this build.
#[derive(Clone, Debug)]
pub enum Eal {}

impl Eal {
    /// # Errors
    /// [`EalError::NotBuiltIn`].
    pub fn start(_settings: &EalSettings) -> Result<Self, EalError> {
        Err(EalError::NotBuiltIn)
    }
}

/// Never exists in this build.
#[derive(Debug)]
pub enum Device {}

impl Device {
    /// # Errors
    /// None: without an [`Eal`] it cannot be called.
    pub fn open(eal: &Eal, _name: &str, _settings: &DeviceSettings) -> Result<Self, DeviceError> {
        match *eal {}
    }

    /// # Errors
    /// None: without an [`Eal`] it cannot be called.
    pub fn ring_pair(
        eal: &Eal,
        _names: [&str; 2],
        _settings: &DeviceSettings,
    ) -> Result<(Self, Self), DeviceError> {
        match *eal {}
    }

    pub fn queue(&self, _queue: u16) -> Option<IdleQueue> {
        match *self {}
    }

    pub fn capabilities(&self) -> Capabilities {
        match *self {}
    }

    pub fn driver(&self) -> &str {
        match *self {}
    }

    pub fn numa(&self) -> Option<u32> {
        match *self {}
    }

    pub fn link(&self) -> Link {
        match *self {}
    }

    pub fn troubles(&self) -> Vec<(String, u64)> {
        match *self {}
    }
}

/// Never exists in this build.
#[derive(Debug)]
pub enum IdleQueue {}

impl IdleQueue {
    pub fn capabilities(&self) -> Capabilities {
        match *self {}
    }

    /// # Errors
    /// None: there is no such queue.
    pub fn adopt(self, _lent: Option<&Pool>) -> Result<Queue, DeviceError> {
        match self {}
    }
}

/// Never exists in this build.
#[derive(Debug)]
pub enum Queue {}

impl Queue {
    pub fn buffers_in_use(&self) -> u32 {
        match *self {}
    }

    pub fn lent(&self) -> usize {
        match *self {}
    }
}

impl Port for Queue {
    fn capabilities(&self) -> &Capabilities {
        match *self {}
    }

    fn receive(&mut self, _burst: &mut Burst) {
        match *self {}
    }

    fn transmit(&mut self, _frame: &Outgoing<'_>) -> Result<(), Full> {
        match *self {}
    }

    fn flush(&mut self) {
        match *self {}
    }

    fn counters(&self) -> Counters {
        match *self {}
    }

    fn link(&mut self) -> Link {
        match *self {}
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        match *self {}
    }
}

/// Never exists in this build.
#[derive(Debug)]
pub enum Mbuf {}

impl Mbuf {
    pub fn head(&self) -> &[u8] {
        match *self {}
    }

    pub fn slices(&self) -> std::iter::Empty<&[u8]> {
        match *self {}
    }

    pub fn len(&self) -> usize {
        match *self {}
    }

    pub fn is_empty(&self) -> bool {
        match *self {}
    }

    pub fn held_bytes(&self) -> usize {
        match *self {}
    }
}
