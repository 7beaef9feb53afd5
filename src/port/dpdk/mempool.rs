//! A pool of DPDK's packet buffers, and the rings of a pair of devices.

use std::ffi::{CString, c_int};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use dpdk_sys as sys;

use super::eal::{error_text, keep_running};

/// Buffers that each core keeps at hand.
pub(super) const CACHE: u32 = 128;
/// Bytes that every buffer has in front for headers of the driver's.
pub(super) const HEADROOM: u32 = sys::RTE_PKTMBUF_HEADROOM;
/// A socket's number where any will do.
pub(super) const ANY_SOCKET: c_int = -1;

/// Names in DPDK are for the whole process.
static NEXT: AtomicU32 = AtomicU32::new(0);

fn name() -> CString {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    CString::new(format!("iibd_{number}")).expect("no NUL in it")
}

#[derive(Debug)]
pub(super) struct Mempool {
    pool: NonNull<sys::rte_mempool>,
    count: u32,
}

// SAFETY: a pool is not tied to the thread that made it.
unsafe impl Send for Mempool {}
// SAFETY: DPDK's default pools may be used by any number of threads at once.
unsafe impl Sync for Mempool {}

impl Mempool {
    /// `count` buffers with room for `room` bytes each, at most 65535 less [`HEADROOM`].
    pub(super) fn new(count: u32, room: u16, socket: c_int) -> Result<Self, String> {
        let name = name();
        let bytes = u32::from(room) + HEADROOM;
        let bytes = u16::try_from(bytes).map_err(|_| format!("{bytes} bytes are too many"))?;
        let cache = if count >= 4 * CACHE { CACHE } else { 0 };
        // SAFETY: the environment runs, since who calls this holds an `Eal`; the name ends with a
        // NUL and is copied.
        let pool =
            unsafe { sys::rte_pktmbuf_pool_create(name.as_ptr(), count, cache, 0, bytes, socket) };
        let pool = NonNull::new(pool).ok_or_else(|| {
            // SAFETY: reads a variable of this thread.
            error_text(unsafe { sys::iibd_errno() })
        })?;
        Ok(Self { pool, count })
    }

    pub(super) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.pool.as_ptr()
    }

    /// Buffers that are in use.
    pub(super) fn in_use(&self) -> u32 {
        // SAFETY: the pool exists as long as `self`; counting does not change it.
        let available = unsafe { sys::rte_mempool_avail_count(self.as_ptr()) };
        self.count.saturating_sub(available)
    }
}

impl Drop for Mempool {
    fn drop(&mut self) {
        let in_use = self.in_use();
        if in_use > 0 {
            // Somebody still has frames. Their memory stays until the process ends, and DPDK too,
            // whose own end would take all memory away.
            keep_running();
            tracing::warn!("{in_use} buffers of a DPDK pool are still in use: it is not freed");
            return;
        }
        // SAFETY: every buffer is back, and nobody can take one: the device is closed and the
        // handle is being dropped.
        unsafe { sys::rte_mempool_free(self.as_ptr()) }
    }
}

/// A ring of frames between two devices of `net_ring`.
#[derive(Debug)]
pub(super) struct Ring {
    ring: NonNull<sys::rte_ring>,
}

// SAFETY: as for the pool: not tied to a thread.
unsafe impl Send for Ring {}
// SAFETY: made for several producers and consumers.
unsafe impl Sync for Ring {}

impl Ring {
    /// A ring for `count` frames, a power of two.
    pub(super) fn new(count: u16) -> Result<Self, String> {
        let name = name();
        let count = u32::from(count);
        // SAFETY: the environment runs; the name ends with a NUL and is copied.
        let ring = unsafe { sys::rte_ring_create(name.as_ptr(), count, ANY_SOCKET, 0) };
        let ring = NonNull::new(ring).ok_or_else(|| {
            // SAFETY: reads a variable of this thread.
            error_text(unsafe { sys::iibd_errno() })
        })?;
        Ok(Self { ring })
    }

    pub(super) fn as_ptr(&self) -> *mut sys::rte_ring {
        self.ring.as_ptr()
    }

    /// Frees what waits in it.
    pub(super) fn drain(&self) {
        // SAFETY: the ring lives, and may be emptied by several threads at once.
        unsafe { sys::iibd_drain(self.as_ptr()) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: both devices that used it are closed: each holds a handle of the ring.
        unsafe { sys::rte_ring_free(self.ring.as_ptr()) }
    }
}
