//! [`VfioBar`]: the registers of a function that VFIO has given to this process.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::super::bar::{self, Bar, Presence, ReopenError, ResetError};
use super::opened::{Events, Opened};
use super::space::VfioSpace;
use super::sysfs::Function;
use super::window::Window;
use super::{OpenError, OpenOptions, PciAddress, function_at};

/// Of one function; [`VfioSpace`] is its memory.
#[derive(Debug)]
pub(crate) struct VfioBar {
    address: PciAddress,
    options: OpenOptions,
    window: Arc<Window>,
    space: Arc<VfioSpace>,
    events: Events,
    /// What events have said, until the function is let go of.
    wanted: AtomicBool,
    /// Until it is reset.
    failed: AtomicBool,
}

impl VfioBar {
    pub(super) fn new(
        address: PciAddress,
        options: OpenOptions,
        window: Arc<Window>,
        space: Arc<VfioSpace>,
        events: Events,
    ) -> Self {
        Self {
            address,
            options,
            window,
            space,
            events,
            wanted: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        }
    }

    fn open_again(&self) -> Result<(), OpenError> {
        let function = function_at(self.address)?;
        let opened = Opened::new(&function, self.options, &self.events)?;
        let len = self.window.len();
        if opened.registers.mappable < len as u64 {
            return Err(OpenError::Other);
        }
        let offset = opened.registers.offset;
        let mapped = self.window.attach(opened.device(), offset);
        mapped.map_err(OpenError::asking("to map its registers"))?;
        // Commands of before may be in it still, where the kernel had no reset for it: their
        // buffers were given back, and are mapped again below.
        let adopted = self.stop().and_then(|()| {
            opened.let_master()?;
            self.space.adopt(opened).map_err(OpenError::Map)
        });
        if adopted.is_err() {
            self.let_go();
        }
        adopted
    }

    /// The controller makes no access to memory when this returns `Ok`.
    pub(super) fn stop(&self) -> Result<(), OpenError> {
        // Registers tell nobody when they change. The keeper's thread, for some ms.
        let pause = std::thread::park_timeout;
        if bar::stop(self, pause) {
            return Ok(());
        }
        Err(OpenError::Runs)
    }

    fn let_go(&self) {
        if let Err(errno) = self.window.detach() {
            // The kernel keeps the function for us then, with bus mastering off.
            tracing::error!(address = %self.address, %errno, "registers stay mapped");
        }
        self.space.close();
    }
}

impl Bar for VfioBar {
    fn len(&self) -> usize {
        self.window.len()
    }

    fn r32(&self, offset: usize) -> u32 {
        self.window.r32(offset)
    }

    fn r64(&self, offset: usize) -> u64 {
        self.window.r64(offset)
    }

    fn w32(&self, offset: usize, value: u32) {
        self.window.w32(offset, value);
    }

    fn w64(&self, offset: usize, value: u64) {
        self.window.w64(offset, value);
    }

    fn reset(&self) -> Result<(), ResetError> {
        let done = self.space.reset();
        if done.is_ok() {
            // What was said of it before the reset is answered by it.
            self.events.failed();
            self.failed.store(false, Relaxed);
        }
        done
    }

    fn presence(&self) -> Presence {
        if self.window.is_gone() {
            return Presence::Gone;
        }
        if self.events.requested() {
            self.wanted.store(true, Relaxed);
        }
        if self.events.failed() {
            self.failed.store(true, Relaxed);
        }
        match (self.wanted.load(Relaxed), self.failed.load(Relaxed)) {
            (true, _) => Presence::Wanted,
            (false, true) => Presence::Failed,
            (false, false) => Presence::Here,
        }
    }

    fn release(&self) {
        self.let_go();
    }

    fn function(&self) -> Option<bar::Function> {
        let function = Function::read(Path::new("/"), self.address)?;
        Some(bar::Function {
            vendor: function.vendor,
            device: function.device,
        })
    }

    fn reopen(&self) -> Result<(), ReopenError> {
        // One that is only gone from the bus is still held by its files.
        self.let_go();
        self.events.requested();
        self.events.failed();
        self.wanted.store(false, Relaxed);
        self.failed.store(false, Relaxed);
        self.open_again()
            .map_err(|error| ReopenError(error.to_string()))
    }
}

impl Drop for VfioBar {
    /// The function goes with its registers, whatever memory is still mapped for it.
    fn drop(&mut self) {
        self.let_go();
    }
}
