//! Memory of pools that devices read by themselves: known to DPDK once, mapped for each device.
//!
//! Several queues of one core send out of one pool, so each pool's memory counts its users; it is
//! forgotten with the last. Devices behind one IOMMU container share its mappings, so these go with
//! the last user too.

#![expect(
    clippy::disallowed_types,
    reason = "taken while a queue begins or ends, never for a frame"
)]

use std::ffi::{c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dpdk_sys as sys;

use super::device::Shared;
use super::eal::error_text;
use crate::mem::Pool;

/// Unit of memory registered with devices, where it is all of ordinary pages.
const PAGE_BYTES: usize = 4096;
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Who uses which memory, by its first address.
#[derive(Debug)]
struct Users(Vec<(usize, u32)>);

impl Users {
    /// Another user. `true`: it is the first.
    fn add(&mut self, base: usize) -> bool {
        match self.0.iter_mut().find(|(known, _)| *known == base) {
            Some((_, users)) => {
                *users += 1;
                false
            }
            None => {
                self.0.push((base, 1));
                true
            }
        }
    }

    /// A user less. `true`: it was the last.
    fn remove(&mut self, base: usize) -> bool {
        let Some(at) = self.0.iter().position(|(known, _)| *known == base) else {
            return false;
        };
        self.0[at].1 -= 1;
        let is_last = self.0[at].1 == 0;
        if is_last {
            self.0.swap_remove(at);
        }
        is_last
    }
}

/// Of the whole process; touched when queues begin and end.
static USERS: Mutex<Users> = Mutex::new(Users(Vec::new()));

fn users() -> MutexGuard<'static, Users> {
    USERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the device read a pool's memory. `false`: it cannot, and the log says why.
pub(super) fn add(shared: &Shared, pool: &Pool) -> bool {
    // SAFETY: reads what was settled when the environment started.
    if unsafe { sys::rte_eal_iova_mode() } != sys::RTE_IOVA_VA {
        // The pages lie anywhere in physical memory.
        tracing::info!("no IOMMU gives devices our addresses: payload is copied for DPDK");
        return false;
    }
    let (base, len) = pool.memory();
    let memory = base.as_ptr().cast::<c_void>();
    let mut users = users();
    let known = if users.add(memory.addr()) {
        make_known(memory, len)
    } else {
        0
    };
    let mapped = known == 0 && {
        // SAFETY: a mapping of whole pages, which the queue keeps by its handle of the pool; the
        // addresses that the device uses are our own.
        let done =
            unsafe { sys::rte_dev_dma_map(shared.device(), memory, memory.addr() as u64, len) };
        done == 0 || errno() == libc::EEXIST
    };
    if mapped {
        return true;
    }
    tracing::warn!(
        "{} cannot read {len} bytes of buffers by itself ({}; RLIMIT_MEMLOCK?): payload is copied",
        shared.name(),
        error_text(errno())
    );
    if users.remove(memory.addr()) && known == 0 {
        // SAFETY: registered above, and used by nobody.
        unsafe { sys::rte_extmem_unregister(memory, len) };
    }
    false
}

/// The device reads it no more.
pub(super) fn remove(shared: &Shared, pool: &Pool) {
    let (base, len) = pool.memory();
    let memory = base.as_ptr().cast::<c_void>();
    let mut users = users();
    if !users.remove(memory.addr()) {
        return;
    }
    // SAFETY: mapped with the same arguments; nothing of it is lent.
    unsafe { sys::rte_dev_dma_unmap(shared.device(), memory, memory.addr() as u64, len) };
    // SAFETY: as above.
    unsafe { sys::rte_extmem_unregister(memory, len) };
}

/// Makes memory known to DPDK. 0 where it is, whoever did it.
fn make_known(memory: *mut c_void, len: usize) -> c_int {
    let is_huge = [memory.addr(), len]
        .iter()
        .all(|n| n.is_multiple_of(HUGE_PAGE_BYTES));
    let page = if is_huge { HUGE_PAGE_BYTES } else { PAGE_BYTES };
    let Ok(pages) = u32::try_from(len / page) else {
        return -1;
    };
    // SAFETY: a mapping of whole pages that stays until it is unregistered: its users keep it.
    let done = unsafe { sys::rte_extmem_register(memory, len, std::ptr::null_mut(), pages, page) };
    if done != 0 && errno() == libc::EEXIST {
        return 0;
    }
    done
}

fn errno() -> c_int {
    // SAFETY: reads a variable of this thread.
    unsafe { sys::iibd_errno() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_made_known_with_its_first_user_and_forgotten_with_its_last() {
        let mut users = Users(Vec::new());
        assert!(users.add(4096));
        assert!(!users.add(4096));
        assert!(users.add(8192));
        assert!(!users.remove(4096));
        assert!(users.remove(4096));
        assert!(!users.remove(4096), "it is not known any more");
        assert!(users.add(4096));
        assert!(users.remove(8192));
    }
}
