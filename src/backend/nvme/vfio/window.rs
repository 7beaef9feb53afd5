//! [`Window`]: a function's registers in this process's addresses, which stay when the function
//! goes.
//!
//! An access to the registers of a function that was taken away may end in SIGBUS. The handler that
//! is installed here finds the window that the address is in, marks it as gone and puts ordinary
//! memory in its place; the access is made again, and is harmless. Signals at other addresses go to
//! whoever handled them before.

use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering, fence};

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// Functions that one process can have open.
pub(super) const WINDOWS_MAX: usize = 64;
const PAGE_BYTES: usize = 4096;

/// What the handler knows of a window.
struct Slot {
    /// 0: free.
    base: AtomicUsize,
    len: AtomicUsize,
    state: AtomicU8,
}

/// No function is behind the window.
const GONE: u8 = 0;
/// One is being put there.
const ATTACHING: u8 = 1;
const HERE: u8 = 2;

static SLOTS: [Slot; WINDOWS_MAX] = [const {
    Slot {
        base: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        state: AtomicU8::new(GONE),
    }
}; WINDOWS_MAX];

/// Takes a slot before its address is known.
const CLAIMED: usize = 1;

pub(super) struct Window {
    slot: &'static Slot,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is not tied to a thread; it is accessed by volatile reads and writes alone.
unsafe impl Send for Window {}
// SAFETY: registers may be accessed by several threads at once; every method takes `&self` for that
// reason, and nothing but the device is behind them.
unsafe impl Sync for Window {}

impl Window {
    /// Addresses for `len` bytes (whole pages), with no function behind them. `Ok(None)`: as many
    /// as can be are open.
    pub(super) fn new(len: usize) -> Result<Option<Self>, Errno> {
        assert!(len > 0 && len.is_multiple_of(PAGE_BYTES), "whole pages");
        install_handler()?;
        let free = |slot: &&Slot| {
            let claimed =
                slot.base
                    .compare_exchange(0, CLAIMED, Ordering::AcqRel, Ordering::Relaxed);
            claimed.is_ok()
        };
        let Some(slot) = SLOTS.iter().find(free) else {
            return Ok(None);
        };
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing else.
        let mapped = unsafe { mmap_anonymous(ptr::null_mut(), len, protection, MapFlags::PRIVATE) };
        let base = match mapped.map(|base| NonNull::new(base.cast::<u8>())) {
            Ok(Some(base)) => base,
            refused => {
                slot.base.store(0, Ordering::Release);
                return Err(refused.err().unwrap_or(Errno::NOMEM));
            }
        };
        slot.state.store(GONE, Ordering::Relaxed);
        slot.len.store(len, Ordering::Relaxed);
        // Release: the handler that sees the address sees the length.
        slot.base.store(base.addr().get(), Ordering::Release);
        Ok(Some(Self { slot, base, len }))
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Puts the registers at `offset` of a function's file into the window.
    pub(super) fn attach(&self, device: &OwnedFd, offset: u64) -> Result<(), Errno> {
        let at = self.base.as_ptr().cast();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        let state = &self.slot.state;
        state.store(ATTACHING, Ordering::SeqCst);
        // SAFETY: it replaces the mapping of this window, which is ours, in one step; what is
        // behind it is accessed by volatile operations alone.
        unsafe { mmap(at, self.len, protection, flags, device, offset) }?;
        // Another thread's access may have found meanwhile that it is gone again.
        let here = state.compare_exchange(ATTACHING, HERE, Ordering::SeqCst, Ordering::SeqCst);
        debug_assert!(matches!(here, Ok(ATTACHING) | Err(GONE)), "{here:?}");
        Ok(())
    }

    /// Takes the registers out of the window, behind any access that is being made. It is gone
    /// even where an error is returned, but the function's file may still be in use.
    pub(super) fn detach(&self) -> Result<(), Errno> {
        self.slot.state.store(GONE, Ordering::SeqCst);
        cover(self.base.as_ptr(), self.len)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.slot.state.load(Ordering::Acquire) != HERE
    }

    fn place(&self, offset: usize, bytes: usize) -> NonNull<u8> {
        let inside = offset.is_multiple_of(bytes)
            && self
                .len
                .checked_sub(bytes)
                .is_some_and(|last| offset <= last);
        assert!(
            inside,
            "{bytes} bytes at {offset:#x} are not in a window of {:#x}",
            self.len
        );
        // SAFETY: inside the mapping, as asserted.
        unsafe { self.base.add(offset) }
    }

    pub(super) fn r32(&self, offset: usize) -> u32 {
        let place = self.place(offset, 4).cast::<u32>();
        // SAFETY: inside the mapping and aligned (`place`), of readable pages; any bits are an
        // integer. Where the function has gone the handler sees to it that there is memory.
        let value = unsafe { place.read_volatile() };
        // Behind the read: where it was of the memory that replaces registers, the state says so.
        fence(Ordering::Acquire);
        if self.is_gone() {
            u32::MAX
        } else {
            u32::from_le(value)
        }
    }

    pub(super) fn r64(&self, offset: usize) -> u64 {
        let place = self.place(offset, 8).cast::<u64>();
        // SAFETY: as in `r32`.
        let value = unsafe { place.read_volatile() };
        fence(Ordering::Acquire);
        if self.is_gone() {
            u64::MAX
        } else {
            u64::from_le(value)
        }
    }

    pub(super) fn w32(&self, offset: usize, value: u32) {
        let place = self.place(offset, 4).cast::<u32>();
        // Entries in memory come before the doorbell that tells of them.
        fence(Ordering::Release);
        // SAFETY: as in `r32`, of writable pages.
        unsafe { place.write_volatile(value.to_le()) };
    }

    pub(super) fn w64(&self, offset: usize, value: u64) {
        let place = self.place(offset, 8).cast::<u64>();
        fence(Ordering::Release);
        // SAFETY: as in `w32`.
        unsafe { place.write_volatile(value.to_le()) };
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // Before the unmapping: the next mapping at these addresses is none of the handler's.
        self.slot.len.store(0, Ordering::SeqCst);
        // SAFETY: the mapping is this window's, which nobody accesses any more.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert_eq!(unmapped, Ok(()), "a mapping of ours");
        // Behind it: another window may take the slot from here on.
        self.slot.base.store(0, Ordering::Release);
    }
}

impl std::fmt::Debug for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Window")
            .field("len", &self.len)
            .field("gone", &self.is_gone())
            .finish()
    }
}

/// Puts ordinary memory in the place of a window's mapping, in one step. Called by the handler:
/// one system call, no lock, no allocation.
fn cover(base: *mut u8, len: usize) -> Result<(), Errno> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    // SAFETY: `base` and `len` are those of a window's mapping, which is replaced as a whole.
    unsafe { mmap_anonymous(base.cast(), len, protection, flags) }?;
    Ok(())
}

/// How the process handled the signal before; set before our handler can run.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

fn install_handler() -> Result<(), Errno> {
    static INSTALLED: OnceLock<Result<(), Errno>> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        // SAFETY: a structure of the C library's of which all zeroes are a value.
        let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: it writes one structure, and changes nothing.
        succeeded(unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) })?;
        BEFORE.get_or_init(|| before);
        // SAFETY: as above.
        let mut ours: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_fault;
        ours.sa_sigaction = handler as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler is of the kind that the flags say, and makes nothing but calls that
        // a handler may make.
        succeeded(unsafe { libc::sigaction(libc::SIGBUS, &raw const ours, ptr::null_mut()) })
    })
}

fn succeeded(result: libc::c_int) -> Result<(), Errno> {
    let error = || {
        let error = std::io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    };
    if result == 0 { Ok(()) } else { Err(error()) }
}

/// The handler. It runs between any two instructions of any thread.
extern "C" fn on_fault(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a structure to handlers with SA_SIGINFO, and leaves it alone.
    let what = unsafe { &*info };
    // Positive: by an access, so that there is an address.
    if what.si_code > 0 {
        // SAFETY: a signal by an access has an address.
        let address = unsafe { what.si_addr() };
        if covered(address.addr()) {
            return;
        }
    }
    pass_on(signal, info, context);
}

/// Whether `address` was in a window, which is gone now.
fn covered(address: usize) -> bool {
    for slot in &SLOTS {
        let base = slot.base.load(Ordering::Acquire);
        let len = slot.len.load(Ordering::Relaxed);
        if base > CLAIMED && address.wrapping_sub(base) < len {
            slot.state.store(GONE, Ordering::SeqCst);
            let covered = cover(ptr::with_exposed_provenance_mut(base), len).is_ok();
            // Once more, for a handler that was held up until another function was attached.
            slot.state.store(GONE, Ordering::SeqCst);
            return covered;
        }
    }
    false
}

/// Does with the signal what was done before.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let before = BEFORE.get();
    let handler = before.map_or(libc::SIG_DFL, |before| before.sa_sigaction);
    let takes_info = before.is_some_and(|before| before.sa_flags & libc::SA_SIGINFO != 0);
    if matches!(handler, libc::SIG_DFL | libc::SIG_IGN) {
        // SAFETY: a call that handlers may make; the process ends by the signal, now or when the
        // access is made again.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        // SAFETY: a call that handlers may make.
        unsafe { libc::raise(signal) };
        return;
    }
    let handler: *const () = ptr::with_exposed_provenance(handler);
    if takes_info {
        // SAFETY: with SA_SIGINFO it is a handler of three arguments.
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            unsafe { std::mem::transmute(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: without, of one.
        let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
        handler(signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::AtomicBool;

    /// A file of two pages in the place of a function's.
    fn registers() -> (File, Window) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let window = Window::new(8192).unwrap().unwrap();
        let fd = OwnedFd::from(file.try_clone().unwrap());
        window.attach(&fd, 0).unwrap();
        (file, window)
    }

    #[test]
    fn registers_are_read_and_written_where_they_are() {
        let (file, window) = registers();
        file.write_all_at(&[1, 2, 3, 4, 5, 6, 7, 8], 16).unwrap();
        assert_eq!(window.r32(16), 0x0403_0201);
        assert_eq!(window.r64(16), 0x0807_0605_0403_0201);
        window.w32(8188, 0x0a0b_0c0d);
        window.w64(8, 0x1122_3344_5566_7788);
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes[..4], 8188).unwrap();
        assert_eq!(bytes[..4], [0x0d, 0x0c, 0x0b, 0x0a]);
        file.read_exact_at(&mut bytes, 8).unwrap();
        assert_eq!(bytes, [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
    }

    #[test]
    fn a_function_that_is_gone_reads_as_ones() {
        let (file, window) = registers();
        window.w32(0, 7);
        window.detach().unwrap();
        assert!(window.is_gone());
        assert_eq!((window.r32(0), window.r64(8)), (u32::MAX, u64::MAX));
        window.w32(0, 9);
        assert_eq!(window.r32(0), u32::MAX, "writes go nowhere");
        window.attach(&OwnedFd::from(file), 0).unwrap();
        assert_eq!(window.r32(0), 7);
    }

    #[test]
    fn an_access_that_faults_finds_that_it_is_gone() {
        let (file, window) = registers();
        let (_other, untouched) = registers();
        untouched.w32(0, 5);
        // Behind the end of a file there is nothing: SIGBUS.
        file.set_len(0).unwrap();
        assert!(!window.is_gone());
        assert_eq!(window.r32(4096), u32::MAX);
        assert!(window.is_gone());
        window.w64(0, 1);
        assert_eq!(window.r64(0), u64::MAX);
        assert_eq!(untouched.r32(0), 5);
        let (file, window) = registers();
        file.set_len(0).unwrap();
        window.w32(4, 1);
        assert!(window.is_gone(), "a write faults as well");
    }

    #[test]
    fn other_threads_may_be_in_it_meanwhile() {
        let (file, window) = registers();
        let fd = OwnedFd::from(file);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|at| {
                    let (window, done) = (&window, &done);
                    scope.spawn(move || {
                        let mut seen = 0_u64;
                        loop {
                            window.w32(8 + 4 * at, 3);
                            let value = window.r32(0);
                            assert!(value == 0 || value == u32::MAX, "{value:#x}");
                            seen += 1;
                            if done.load(Ordering::Relaxed) {
                                break;
                            }
                        }
                        seen
                    })
                })
                .collect();
            for _ in 0..2000 {
                window.detach().unwrap();
                window.attach(&fd, 0).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            for reader in readers {
                assert!(reader.join().unwrap() > 0);
            }
        });
    }

    #[test]
    #[should_panic(expected = "are not in a window of 0x2000")]
    fn nothing_beyond_the_window_is_accessed() {
        registers().1.r32(8192);
    }

    #[test]
    #[should_panic(expected = "are not in a window of 0x2000")]
    fn nothing_unaligned_is_accessed() {
        registers().1.r64(4);
    }
}
