//! A space for tests where the device's addresses are this machine's.

use std::ptr::NonNull;
use std::sync::Arc;

use super::dma::{DmaSpace, Iova, MapError, Run};

#[derive(Debug)]
pub(crate) struct Flat;

pub(crate) fn flat() -> Arc<Flat> {
    Arc::new(Flat)
}

impl DmaSpace for Flat {
    unsafe fn map(
        &self,
        base: NonNull<u8>,
        len: usize,
        runs: &mut Vec<Run>,
    ) -> Result<(), MapError> {
        runs.push(Run {
            offset: 0,
            len,
            iova: Iova(base.addr().get() as u64),
        });
        Ok(())
    }

    fn unmap(&self, _runs: &[Run]) -> Result<(), MapError> {
        Ok(())
    }
}
