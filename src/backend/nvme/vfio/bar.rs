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
        let adopted = self.stop_and(|| {
            opened.let_master()?;
            self.space.adopt(opened).map_err(OpenError::Map)
        });
        if adopted.is_err() {
            self.let_go();
        }
        adopted
    }

    /// Gives memory to the function, by `give`, once the controller makes no access to any.
    pub(super) fn stop_and(
        &self,
        give: impl FnOnce() -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        // Registers tell nobody when they change. The keeper's thread: for some ms, or for 5 s
        // where the controller stays as it is, in which it reads no notes.
        stopped(self, std::thread::park_timeout, give)
    }

    fn let_go(&self) {
        if let Err(errno) = self.window.detach() {
            // The kernel keeps the function for us then, with bus mastering off.
            tracing::error!(address = %self.address, %errno, "registers stay mapped");
        }
        self.space.close();
    }
}

/// Commands of before may be in a controller still, where the kernel had no reset for it: their
/// buffers were given back, and `give` maps them again.
fn stopped(
    bar: &impl Bar,
    pause: impl FnMut(std::time::Duration),
    give: impl FnOnce() -> Result<(), OpenError>,
) -> Result<(), OpenError> {
    if bar::stop(bar, pause) {
        give()
    } else {
        Err(OpenError::Runs)
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

#[cfg(test)]
mod tests {
    use super::super::super::dma::Iova;
    use super::super::super::link::Rings;
    use super::super::super::model::{Model, ModelOptions};
    use super::super::super::spec::entry::QueueId;
    use super::super::super::spec::registers::{Configuration, offset};
    use super::*;

    #[test]
    fn a_function_gets_memory_only_when_its_controller_has_stopped() {
        for stops in [true, false] {
            let model = Model::new(ModelOptions::default());
            let bar = model.bar();
            // As its last owner has left it.
            let rings = Rings {
                submissions: Iova(0x1000),
                completions: Iova(0x2000),
                entries: 2,
            };
            model.open_pair(QueueId(1), rings);
            assert!(bar::status(&*bar).is_ready());
            model.faults(|plan| plan.never_disabled = !stops);
            let given = AtomicBool::new(false);
            let give = || {
                let configuration = bar.r32(offset::CC);
                assert!(!Configuration::is_enabled(configuration));
                assert!(!bar::status(&*bar).is_ready());
                given.store(true, Relaxed);
                Ok(())
            };
            let pause = |_| {
                model.step(1);
            };
            let ended = stopped(&*bar, pause, give);
            assert_eq!(ended.is_ok(), stops);
            assert_eq!(given.load(Relaxed), stops);
        }
    }
}
