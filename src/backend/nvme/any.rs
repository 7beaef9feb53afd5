//! What a daemon's controllers are reached through: VFIO, or the model in tests.

use std::ptr::NonNull;
use std::sync::Arc;

use super::bar::{Bar, Function, Presence, ReopenError, ResetError};
use super::dma::{DmaSpace, MapError, Run};
#[cfg(any(test, feature = "testing"))]
use super::model::{ModelBar, ModelSpace};
use super::vfio::{VfioBar, VfioSpace};

/// Registers of either.
#[derive(Debug)]
pub(crate) enum AnyBar {
    Vfio(Arc<VfioBar>),
    #[cfg(any(test, feature = "testing"))]
    Model(Arc<ModelBar>),
}

/// The address space of either.
#[derive(Debug)]
pub(crate) enum AnySpace {
    Vfio(Arc<VfioSpace>),
    #[cfg(any(test, feature = "testing"))]
    Model(Arc<ModelSpace>),
}

/// Calls the same of what there is.
macro_rules! either {
    ($all:ident, $self:ident, $one:ident => $what:expr) => {
        match $self {
            $all::Vfio($one) => $what,
            #[cfg(any(test, feature = "testing"))]
            $all::Model($one) => $what,
        }
    };
}

impl Bar for AnyBar {
    fn len(&self) -> usize {
        either!(AnyBar, self, bar => bar.len())
    }

    fn r32(&self, offset: usize) -> u32 {
        either!(AnyBar, self, bar => bar.r32(offset))
    }

    fn r64(&self, offset: usize) -> u64 {
        either!(AnyBar, self, bar => bar.r64(offset))
    }

    fn w32(&self, offset: usize, value: u32) {
        either!(AnyBar, self, bar => bar.w32(offset, value));
    }

    fn w64(&self, offset: usize, value: u64) {
        either!(AnyBar, self, bar => bar.w64(offset, value));
    }

    fn reset(&self) -> Result<(), ResetError> {
        either!(AnyBar, self, bar => bar.reset())
    }

    fn presence(&self) -> Presence {
        either!(AnyBar, self, bar => bar.presence())
    }

    fn release(&self) {
        either!(AnyBar, self, bar => bar.release());
    }

    fn function(&self) -> Option<Function> {
        either!(AnyBar, self, bar => bar.function())
    }

    fn reopen(&self) -> Result<(), ReopenError> {
        either!(AnyBar, self, bar => bar.reopen())
    }
}

impl DmaSpace for AnySpace {
    unsafe fn map(
        &self,
        base: NonNull<u8>,
        len: usize,
        runs: &mut Vec<Run>,
    ) -> Result<(), MapError> {
        // SAFETY: the caller's promises are those that each of them asks for.
        either!(AnySpace, self, space => unsafe { space.map(base, len, runs) })
    }

    fn unmap(&self, runs: &[Run]) -> Result<(), MapError> {
        either!(AnySpace, self, space => space.unmap(runs))
    }
}
