//! [`VfioSpace`]: the addresses of a function, and what of this process's memory is behind them.

#![expect(
    clippy::disallowed_types,
    reason = "mapping and opening on the control side only"
)]

use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::super::bar::ResetError;
use super::super::dma::{DmaSpace, Iova, MapError, Run};
use super::super::spec::registers::offset;
use super::OpenError;
use super::iova::Addresses;
use super::opened::Opened;
use super::pagemap;
use super::window::Window;

/// Mappings of one function: a few for each core and one for each page of rings.
const MAPPINGS_MAX: usize = 4096;

/// One function's. Behind an IOMMU each mapping is one run, at an address of our own choice.
/// Without one (`unsafe_noiommu`) addresses are those of the memory itself, and nothing can be
/// taken back but while the controller is disabled or gone: [`unmap`](DmaSpace::unmap) fails
/// otherwise, and the memory is never used again.
#[derive(Debug)]
pub(crate) struct VfioSpace {
    /// The lock is taken to map and unmap, to reset, release and reopen: never for a command.
    inside: Mutex<Inside>,
    window: Arc<Window>,
    guarded: bool,
}

#[derive(Debug)]
struct Inside {
    /// `None` while the function is let go of; mappings are made when it is opened again.
    opened: Option<Opened>,
    addresses: Addresses,
    table: Vec<Mapped>,
}

/// Memory that the function reaches, or will when it is there again.
#[derive(Clone, Copy, Debug)]
struct Mapped {
    /// An exposed address.
    base: usize,
    bytes: u64,
    iova: u64,
}

impl VfioSpace {
    pub(super) fn new(opened: Opened, window: Arc<Window>) -> Self {
        let inside = Inside {
            addresses: Addresses::new(opened.ranges.clone(), opened.granule),
            table: Vec::new(),
            opened: None,
        };
        let guarded = opened.is_guarded();
        let opened = Some(opened);
        Self {
            inside: Mutex::new(Inside { opened, ..inside }),
            window,
            guarded,
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        // A panic elsewhere leaves a table that is right: it changes behind the kernel's answers.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reset(&self) -> Result<(), ResetError> {
        match &self.inside().opened {
            Some(opened) => opened.reset(),
            None => Err(ResetError::Failed(Errno::NODEV)),
        }
    }

    pub(super) fn is_guarded(&self) -> bool {
        self.guarded
    }

    pub(super) fn let_master(&self) -> Result<(), OpenError> {
        match &self.inside().opened {
            Some(opened) => opened.let_master(),
            None => Err(OpenError::Silent),
        }
    }

    /// Closes the function. Its registers are not in the window any more.
    pub(super) fn close(&self) {
        if let Some(opened) = self.inside().opened.take() {
            // Where it fails there is nothing to be stopped.
            let _ = opened.disable();
        }
    }

    /// Takes the function that was opened again, and maps for it what is mapped.
    pub(super) fn adopt(&self, opened: Opened) -> Result<(), MapError> {
        let mut inside = self.inside();
        let inside = &mut *inside;
        if !inside.addresses.move_to(&opened.ranges, opened.granule) {
            let held: u64 = inside.table.iter().map(|mapped| mapped.bytes).sum();
            return Err(MapError::NoAddress(
                usize::try_from(held).unwrap_or(usize::MAX),
            ));
        }
        for mapped in &inside.table {
            let base: *mut u8 = ptr::with_exposed_provenance_mut(mapped.base);
            let base = NonNull::new(base).expect("mapped memory is not at zero");
            // SAFETY: 1. Who mapped it promised that it stays until `unmap` has returned `Ok`,
            // which would have taken it out of the table. 2. Promised as well.
            unsafe { opened.map(base, mapped.bytes, mapped.iova) }?;
        }
        inside.opened = Some(opened);
        Ok(())
    }

    /// The controller is in a state in which it reaches no memory, as its registers say.
    fn is_quiet(&self) -> bool {
        const ENABLED: u32 = 1;
        // Registers that are gone once may belong to a function that is still there, and a bus
        // master: that ends with the letting go.
        self.inside().opened.is_none()
            || (!self.window.is_gone()
                && self.window.r32(offset::CC) & ENABLED == 0
                && self.window.r32(offset::CSTS) & ENABLED == 0)
    }
}

impl DmaSpace for VfioSpace {
    unsafe fn map(
        &self,
        base: NonNull<u8>,
        len: usize,
        runs: &mut Vec<Run>,
    ) -> Result<(), MapError> {
        if !self.guarded {
            return pagemap::runs_of(base, len, runs);
        }
        let bytes = len as u64;
        let mut inside = self.inside();
        let inside = &mut *inside;
        if inside.table.len() >= MAPPINGS_MAX {
            let errno = Errno::NOSPC;
            return Err(MapError::Map { bytes: len, errno });
        }
        let iova = inside
            .addresses
            .take(bytes)
            .ok_or(MapError::NoAddress(len))?;
        if let Some(opened) = &inside.opened {
            // SAFETY: the caller's promise.
            let mapped = unsafe { opened.map(base, bytes, iova) };
            if let Err(error) = mapped {
                inside.addresses.give_back(iova);
                return Err(error);
            }
        }
        let base = base.as_ptr().expose_provenance();
        inside.table.push(Mapped { base, bytes, iova });
        runs.push(Run {
            offset: 0,
            len,
            iova: Iova(iova),
        });
        Ok(())
    }

    fn unmap(&self, runs: &[Run]) -> Result<(), MapError> {
        if !self.guarded {
            let quiet = self.is_quiet();
            return if quiet {
                Ok(())
            } else {
                Err(MapError::Unmap(Errno::BUSY))
            };
        }
        let mut inside = self.inside();
        let inside = &mut *inside;
        for run in runs {
            let at = inside
                .table
                .iter()
                .position(|mapped| mapped.iova == run.iova.0);
            let at = at.ok_or(MapError::Unmap(Errno::NOENT))?;
            let mapped = inside.table[at];
            if let Some(opened) = &inside.opened {
                opened.unmap(mapped.iova, mapped.bytes)?;
            }
            inside.table.swap_remove(at);
            inside.addresses.give_back(mapped.iova);
        }
        Ok(())
    }
}
