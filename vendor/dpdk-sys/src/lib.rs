//! Bindings to the system's DPDK: what `iiblockdaemon::port::dpdk` uses of it, and nothing else.
//!
//! Three sources: the exported functions and their types, read by bindgen from the headers that
//! are installed; `shim.c`, which gives a symbol to what DPDK defines inline; the constants made
//! with `RTE_BIT64`, of which bindgen cannot tell the value. Without the feature `link` the crate
//! is empty.

#[cfg(feature = "link")]
#[allow(
    warnings,
    unsafe_op_in_unsafe_fn,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "written by bindgen; what it needs differs between DPDK's releases"
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

#[cfg(feature = "link")]
pub use bindings::*;
