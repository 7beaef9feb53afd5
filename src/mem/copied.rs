//! Counts what [`copy`](super::copy) copies, on each thread for itself, so that a test can hold the
//! data path to its copy budget. In no other build.

use std::cell::Cell;

thread_local! {
    static BYTES: Cell<u64> = const { Cell::new(0) };
}

/// Bytes that this thread has copied so far.
pub fn bytes() -> u64 {
    BYTES.get()
}

pub(super) fn add(bytes: usize) {
    BYTES.set(BYTES.get().wrapping_add(bytes as u64));
}
