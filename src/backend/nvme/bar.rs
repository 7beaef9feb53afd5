//! [`Bar`]: the registers of one controller, and what goes with its PCI function.
//!
//! Two kinds of parties use it: the controller's keeper reads and writes any register, a core's
//! queue pair writes the doorbells that it was granted and reads nothing (a read waits for the
//! device, a write does not).

use std::fmt;

use std::time::Duration;

use super::spec::registers::{Capabilities, Configuration, Status, Version, offset};

/// Bytes of a BAR that hold all registers but the doorbells.
pub(crate) const BAR_BYTES_MIN: usize = offset::DOORBELLS + 2 * 4;

/// Register access. Values are in this machine's byte order; offsets are in bytes from the start of
/// the BAR, naturally aligned.
///
/// # Ordering
/// Accesses of one thread reach the device in the order in which they are made. A write happens
/// after every write to memory that this thread made before it ([`w32`](Bar::w32) and
/// [`w64`](Bar::w64) begin with a Release fence), so that a doorbell never overtakes its entry.
///
/// # A device that is gone
/// Reads give all ones, writes go nowhere, and nothing faults. It stays gone until
/// [`reopen`](Bar::reopen) has found one in its place.
///
/// # Panics
/// An offset beyond [`len`](Bar::len) is a programmer error.
pub(crate) trait Bar: fmt::Debug + Send + Sync + 'static {
    /// Bytes that can be reached.
    fn len(&self) -> usize;

    fn r32(&self, offset: usize) -> u32;

    /// By default in two halves, the lower first.
    fn r64(&self, offset: usize) -> u64 {
        let low = self.r32(offset);
        let high = self.r32(offset + 4);
        u64::from(low) | u64::from(high) << 32
    }

    fn w32(&self, offset: usize, value: u32);

    /// By default in two halves, the lower first: what the standard lets hosts do that have no
    /// writes of 8 bytes (Base Specification §3.1.1).
    fn w64(&self, offset: usize, value: u64) {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        self.w32(offset, u32::from_le_bytes([a, b, c, d]));
        self.w32(offset + 4, u32::from_le_bytes([e, f, g, h]));
    }

    /// Resets the function (PCIe FLR or what the bus has). When it returns `Ok` the device makes no
    /// access to memory until it is enabled again, and every register is at its default. It may
    /// take some 100 ms: never on a data core.
    fn reset(&self) -> Result<(), ResetError>;

    /// What the bus says of the function beside its registers.
    fn presence(&self) -> Presence;

    /// Lets go of the function, so that the kernel can take it away: it is [`Presence::Gone`] when
    /// this returns, and reaches no memory. Registers may be accessed meanwhile, by any thread.
    fn release(&self);

    /// Which device it is, for what some of them need beyond the standard. `None`: it is not known.
    fn function(&self) -> Option<Function> {
        None
    }

    /// Opens the function that is in the place of the one that was let go. When it returns `Ok` all
    /// mappings of the function's space hold for it, at their addresses.
    fn reopen(&self) -> Result<(), ReopenError>;
}

/// A PCI device by its numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Function {
    pub(crate) vendor: u16,
    pub(crate) device: u16,
}

impl Function {
    /// How long CSTS.RDY means nothing behind CC.EN = 0.
    pub(crate) fn ready_late(self) -> Duration {
        match (self.vendor, self.device) {
            // Samsung 172X and PM series, Memblaze, HGST.
            (0x144d, 0xa821 | 0xa822 | 0xa826) | (0x1c58, 0x0003 | 0x0023) | (0x1c5f, 0x0540) => {
                Duration::from_millis(2500)
            }
            _ => Duration::ZERO,
        }
    }
}

/// Whether the function is there to stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    Here,
    /// The kernel wants it back: someone unplugs or unbinds it, and waits for us to let go.
    Wanted,
    /// The bus has seen an error of it that is not corrected.
    Failed,
    Gone,
}

/// Why a function was not reset. The memory that it was given may still be written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ResetError {
    #[error("the function cannot be reset")]
    Unsupported,
    #[error("the reset failed: {0}")]
    Failed(rustix::io::Errno),
}

/// Why there is no function in its place, for the operator.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ReopenError(pub(crate) String);

/// The registers that are read more than once, by name.
pub(crate) fn capabilities(bar: &impl Bar) -> Capabilities {
    Capabilities(bar.r64(offset::CAP))
}

pub(crate) fn version(bar: &impl Bar) -> Version {
    Version(bar.r32(offset::VS))
}

pub(crate) fn status(bar: &impl Bar) -> Status {
    Status(bar.r32(offset::CSTS))
}

/// How often CSTS.RDY is looked at while a controller is stopped.
const STOP_LOOK: Duration = Duration::from_millis(1);
/// How long that is done at most, whatever CAP.TO says: whoever wants it comes again.
pub(crate) const STOP_MAX: Duration = Duration::from_secs(5);

/// Makes sure that a function which was not ours until now makes no access to memory, before it is
/// given any: CC.EN = 0 and CSTS.RDY = 0. Whether it is so. `pause` waits for so long, or less.
pub(crate) fn stop(bar: &impl Bar, mut pause: impl FnMut(Duration)) -> bool {
    let configuration = bar.r32(offset::CC);
    if configuration == u32::MAX {
        return false;
    }
    let mut left = capabilities(bar).ready_timeout().min(STOP_MAX);
    if Configuration::is_enabled(configuration) {
        // One that is just being enabled is not ready, and not stopped either.
        becomes_ready(bar, true, (&mut left, &mut pause));
        bar.w32(offset::CC, configuration & !1);
        let late = bar.function().map_or(Duration::ZERO, Function::ready_late);
        for _ in 0..late.as_millis() / STOP_LOOK.as_millis() {
            pause(STOP_LOOK);
        }
    }
    becomes_ready(bar, false, (&mut left, &mut pause))
}

/// Whether CSTS.RDY becomes `wanted` in the time that is left. A controller that has failed never
/// becomes ready.
fn becomes_ready(
    bar: &impl Bar,
    wanted: bool,
    (left, pause): (&mut Duration, &mut impl FnMut(Duration)),
) -> bool {
    loop {
        let csts = status(bar);
        if csts.is_gone() || wanted && csts.is_fatal() {
            return false;
        }
        if csts.is_ready() == wanted {
            return true;
        }
        if left.is_zero() {
            return false;
        }
        let step = STOP_LOOK.min(*left);
        pause(step);
        *left -= step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use crossbeam::queue::SegQueue;

    /// Eight bytes that remember who wrote where.
    #[derive(Debug, Default)]
    struct Halves(SegQueue<(usize, u32)>);

    impl Bar for Halves {
        fn len(&self) -> usize {
            BAR_BYTES_MIN
        }

        fn r32(&self, offset: usize) -> u32 {
            0x1111_1111 * (1 + u32::try_from(offset / 4).unwrap())
        }

        fn w32(&self, offset: usize, value: u32) {
            self.0.push((offset, value));
        }

        fn reset(&self) -> Result<(), ResetError> {
            Err(ResetError::Unsupported)
        }

        fn presence(&self) -> Presence {
            Presence::Here
        }

        fn release(&self) {}

        fn reopen(&self) -> Result<(), ReopenError> {
            Err(ReopenError("nothing is there".to_owned()))
        }
    }

    #[test]
    fn eight_bytes_are_two_halves_the_lower_first() {
        let bar = Halves::default();
        assert_eq!(capabilities(&bar), Capabilities(0x2222_2222_1111_1111));
        assert_eq!(version(&bar), Version(0x3333_3333));
        assert_eq!(status(&bar), Status(0x8888_8888));
        bar.w64(offset::ASQ, 0x0123_4567_89ab_c000);
        assert_eq!(bar.0.pop(), Some((0x28, 0x89ab_c000)));
        assert_eq!(bar.0.pop(), Some((0x2c, 0x0123_4567)));
        assert_eq!(bar.0.pop(), None);
    }

    /// CC and CSTS of a controller that is ready, and is not any more so many looks behind EN = 0.
    #[derive(Debug)]
    struct Running {
        cc: AtomicU32,
        /// It is not ready yet for so many looks.
        early: AtomicU32,
        looks: AtomicU32,
        answers: bool,
        function: Option<Function>,
    }

    impl Running {
        fn new(cc: u32, looks: u32) -> Self {
            Self {
                cc: cc.into(),
                early: AtomicU32::new(0),
                looks: looks.into(),
                answers: true,
                function: None,
            }
        }
    }

    impl Bar for Running {
        fn len(&self) -> usize {
            BAR_BYTES_MIN
        }

        fn r32(&self, at: usize) -> u32 {
            let cc = self.cc.load(Relaxed);
            match at {
                _ if !self.answers => u32::MAX,
                // CAP.TO: 127.5 s.
                offset::CAP => 0xff00_0000,
                offset::CC => cc,
                offset::CSTS if cc & 1 == 1 => {
                    let early = self.early.load(Relaxed);
                    self.early.store(early.saturating_sub(1), Relaxed);
                    u32::from(early == 0)
                }
                offset::CSTS => {
                    let left = self.looks.load(Relaxed);
                    self.looks.store(left.saturating_sub(1), Relaxed);
                    u32::from(left > 0)
                }
                _ => 0,
            }
        }

        fn w32(&self, at: usize, value: u32) {
            assert_eq!(at, offset::CC);
            assert_eq!(self.early.load(Relaxed), 0, "half way");
            self.cc.store(value, Relaxed);
        }

        fn reset(&self) -> Result<(), ResetError> {
            Err(ResetError::Unsupported)
        }

        fn presence(&self) -> Presence {
            Presence::Here
        }

        fn release(&self) {}

        fn function(&self) -> Option<Function> {
            self.function
        }

        fn reopen(&self) -> Result<(), ReopenError> {
            Err(ReopenError("nothing is there".to_owned()))
        }
    }

    #[test]
    fn a_controller_that_is_being_enabled_is_ready_before_it_is_stopped() {
        let bar = Running {
            early: AtomicU32::new(30),
            ..Running::new(0x46_0001, 10)
        };
        let mut waited = Duration::ZERO;
        assert!(stop(&bar, |step| waited += step));
        assert_eq!(bar.cc.load(Relaxed), 0x46_0000);
        assert_eq!(waited, STOP_LOOK * 40);
    }

    #[test]
    fn a_controller_whose_status_is_late_is_waited_for() {
        let (vendor, device) = (0x144d, 0xa822);
        let bar = Running {
            function: Some(Function { vendor, device }),
            ..Running::new(0x46_0001, 0)
        };
        let mut waited = Duration::ZERO;
        assert!(stop(&bar, |step| waited += step));
        assert_eq!(waited, Duration::from_millis(2500));
    }

    #[test]
    fn a_controller_that_runs_is_stopped_before_it_is_given_memory() {
        for (cc, looks, stops) in [
            (0x46_0001, 30, true),
            // It is being disabled by whoever had it.
            (0x46_0000, 30, true),
            (0, 0, true),
            (0x46_0001, u32::MAX, false),
            (0, u32::MAX, false),
        ] {
            let bar = Running::new(cc, looks);
            let mut waited = Duration::ZERO;
            assert_eq!(stop(&bar, |step| waited += step), stops, "{cc:x} {looks}");
            assert_eq!(bar.cc.load(Relaxed), cc & !1);
            let bounds = match (stops, looks) {
                (false, _) => STOP_MAX..=STOP_MAX,
                (true, looks) => Duration::ZERO..=STOP_LOOK * looks,
            };
            assert!(bounds.contains(&waited), "{waited:?}");
        }
        let mut gone = Running::new(1, 0);
        gone.answers = false;
        assert!(!stop(&gone, |_| unreachable!()));
    }
}
