//! The guards that a test can take away, one by one, to see that its checks notice.
//!
//! A daemon that serves has all of them: outside tests [`Guards`] is empty and [`Guards::hold`] is
//! `true`, so that nothing of this is left in the code that is built.

#[cfg(any(test, feature = "testing"))]
use std::sync::atomic::{AtomicU32, Ordering};

/// A rule on which the safety of data or the order of commands rests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Guard {
    /// A task management request of this session waits for its aborted tasks at the devices.
    AbortWaitsForDevice,
    /// A request that aborts a task which another one is waiting for lets the other one wait on.
    AbortKeepsEarlierWaiter,
    /// An aborted task is not answered.
    AbortedIsNotAnswered,
    /// A core acknowledges a reset when what it aborted has left the devices.
    CoreWaitsForDevice,
    /// A reset is answered when all cores have acknowledged, not only the one that was asked.
    ResetWaitsForAllCores,
    /// A login that takes a session's place is answered when the session has left the devices.
    ReinstatementWaits,
    /// Of two logins with one ISID the later one stays, in whatever order they reach the core.
    ReinstatementOrder,
    /// Commands are delivered in the order of CmdSN.
    CmdSnOrder,
    /// A command starts when the order of its task set lets it.
    TaskSetOrder,
    /// Data whose digest is wrong are not used.
    DataDigest,
    /// A function that reaches the tasks of several connections is answered when the statuses that
    /// they carry are acknowledged.
    TaskSetWaitsForStatuses,
    /// Data that come on another connection than their command did are not used.
    DataFollowTheirCommand,
    /// A function that reaches several tasks waits for commands that were sent before it.
    TaskSetWaitsForCommands,
    /// A Logout Response waits for what the session has at the devices.
    LogoutWaits,
    /// What a unit's home decides is applied by every replica.
    EveryReplicaApplies,
    /// A freeze begins when all cores hold the blocks, not only the first.
    FreezeWaitsForAllCores,
    /// What would change frozen blocks is held.
    FrozenBlocksAreHeld,
    /// A core acknowledges a freeze when what changes the blocks has left the devices.
    FreezeWaitsForDevice,
    /// A connection goes to the core of its session at once. Not a rule, but without it a test
    /// decides which of two logins comes first.
    HandoffsGoAtOnce,
}

/// Which guards stand.
#[derive(Debug, Default)]
pub struct Guards {
    #[cfg(any(test, feature = "testing"))]
    down: AtomicU32,
    #[cfg(any(test, feature = "testing"))]
    handoffs: AtomicU32,
}

impl Guards {
    /// Whether `guard` stands.
    #[cfg(any(test, feature = "testing"))]
    pub fn hold(&self, guard: Guard) -> bool {
        self.down.load(Ordering::Relaxed) & 1 << guard as u8 == 0
    }

    /// Whether `guard` stands: always.
    #[cfg(not(any(test, feature = "testing")))]
    #[inline(always)]
    pub const fn hold(&self, _guard: Guard) -> bool {
        true
    }

    /// Takes a guard away.
    #[cfg(any(test, feature = "testing"))]
    pub fn take_down(&self, guard: Guard) {
        self.down.fetch_or(1 << guard as u8, Ordering::Relaxed);
    }

    /// Puts it up again.
    #[cfg(any(test, feature = "testing"))]
    pub fn put_up(&self, guard: Guard) {
        self.down.fetch_and(!(1 << guard as u8), Ordering::Relaxed);
    }

    /// Connections that did not go at once.
    #[cfg(any(test, feature = "testing"))]
    pub fn handoffs(&self) -> u32 {
        self.handoffs.load(Ordering::Acquire)
    }

    /// A connection did not go at once.
    #[cfg(any(test, feature = "testing"))]
    pub fn count_handoff(&self) {
        self.handoffs.fetch_add(1, Ordering::Release);
    }

    /// A connection did not go at once: never.
    #[cfg(not(any(test, feature = "testing")))]
    pub const fn count_handoff(&self) {}
}
