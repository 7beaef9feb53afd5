//! CmdSN, StatSN and the command window as an initiator sees them (RFC 7143 §4.2.2).
//!
//! One connection delivers in order, so every number that the target sends is known beforehand
//! (StatSN) or may only grow (ExpCmdSN, MaxCmdSN). CmdSN counts the commands of all connections of
//! a session, which share it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::pdu::{CmdSn, StatSn};
use crate::testing::Violation;
use crate::testing::violation::ensure;

/// The numbers of one connection, for tests that build PDUs by hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Numbers {
    /// What the next non-immediate command carries.
    pub cmd_sn: CmdSn,
    /// The StatSN that the target must use next.
    pub exp_stat_sn: StatSn,
    /// The newest that the target said.
    pub exp_cmd_sn: CmdSn,
    /// The newest that the target said.
    pub max_cmd_sn: CmdSn,
}

/// What the connections of one session share (RFC 7143 §4.2.2.1), on whatever threads they are.
#[derive(Debug)]
pub(super) struct SharedCmdSn {
    next: AtomicU32,
    /// The newest that the target said on any of them.
    max: AtomicU32,
}

impl SharedCmdSn {
    fn new(first: CmdSn) -> Self {
        Self {
            next: AtomicU32::new(first.0),
            // Before the first answer there is no window; Login Requests are immediate.
            max: AtomicU32::new(first.minus(1).0),
        }
    }

    fn next(&self) -> CmdSn {
        CmdSn(self.next.load(Ordering::Acquire))
    }

    fn max(&self) -> CmdSn {
        CmdSn(self.max.load(Ordering::Acquire))
    }

    fn raise(&self, max: CmdSn) {
        let newer = |known: u32| CmdSn(known).is_before(max).then_some(max.0);
        let _ = self
            .max
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, newer);
    }

    fn take(&self) -> CmdSn {
        CmdSn(self.next.fetch_add(1, Ordering::AcqRel))
    }

    /// The same as long as the window has it.
    fn take_in_window(&self) -> Option<CmdSn> {
        let open = |next: u32| (!CmdSn(next).is_after(self.max())).then(|| next.wrapping_add(1));
        let taken = self
            .next
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, open);
        taken.ok().map(CmdSn)
    }
}

/// The bookkeeping behind [`Numbers`].
#[derive(Debug)]
pub(super) struct Serials {
    /// `cmd_sn` stands in `shared`.
    numbers: Numbers,
    shared: Arc<SharedCmdSn>,
    /// Set by the first Login Response, whose StatSN is the target's free choice.
    started: bool,
}

impl Serials {
    pub(super) fn new(cmd_sn: CmdSn) -> Self {
        let numbers = Numbers {
            cmd_sn,
            exp_stat_sn: StatSn(0),
            exp_cmd_sn: cmd_sn,
            // Before the first answer there is no window; Login Requests are immediate.
            max_cmd_sn: cmd_sn.minus(1),
        };
        Self {
            numbers,
            shared: Arc::new(SharedCmdSn::new(cmd_sn)),
            started: false,
        }
    }

    /// Those of a further connection of a session.
    pub(super) fn joining(shared: &Arc<SharedCmdSn>) -> Self {
        Self {
            shared: Arc::clone(shared),
            ..Self::new(shared.next())
        }
    }

    pub(super) fn shared(&self) -> Arc<SharedCmdSn> {
        Arc::clone(&self.shared)
    }

    pub(super) fn numbers(&self) -> Numbers {
        Numbers {
            cmd_sn: self.shared.next(),
            ..self.numbers
        }
    }

    pub(super) fn exp_stat_sn(&self) -> StatSn {
        self.numbers.exp_stat_sn
    }

    /// A PDU that consumes a StatSN.
    pub(super) fn on_status(&mut self, stat_sn: StatSn) -> Result<(), Violation> {
        if !self.started {
            self.started = true;
            self.numbers.exp_stat_sn = stat_sn;
        }
        self.on_unnumbered(stat_sn)?;
        self.numbers.exp_stat_sn = stat_sn.next();
        Ok(())
    }

    /// A PDU that shows the next StatSN without consuming it (R2T; NOP-In without a task tag).
    pub(super) fn on_unnumbered(&self, stat_sn: StatSn) -> Result<(), Violation> {
        let expected = self.numbers.exp_stat_sn;
        ensure!(
            stat_sn == expected,
            StatSn,
            "expected {expected:?}, received {stat_sn:?}"
        );
        Ok(())
    }

    /// The pair that every PDU from the target carries.
    pub(super) fn on_window(
        &mut self,
        exp_cmd_sn: CmdSn,
        max_cmd_sn: CmdSn,
    ) -> Result<(), Violation> {
        let sent = self.shared.next();
        let known = &mut self.numbers;
        // §4.2.2.1: MaxCmdSN = ExpCmdSN − 1 closes the window; anything smaller is to be ignored by
        // initiators, so no target has a reason to send it.
        ensure!(
            !max_cmd_sn.is_before(exp_cmd_sn.minus(1)),
            MaxCmdSn,
            "{max_cmd_sn:?} is before {exp_cmd_sn:?} − 1"
        );
        ensure!(
            !exp_cmd_sn.is_before(known.exp_cmd_sn),
            ExpCmdSn,
            "went back from {:?} to {exp_cmd_sn:?}",
            known.exp_cmd_sn
        );
        ensure!(
            !exp_cmd_sn.is_after(sent),
            ExpCmdSn,
            "{exp_cmd_sn:?} acknowledges commands that were not sent; the next is {sent:?}"
        );
        ensure!(
            !max_cmd_sn.is_before(known.max_cmd_sn),
            MaxCmdSn,
            "went back from {:?} to {max_cmd_sn:?}",
            known.max_cmd_sn
        );
        known.exp_cmd_sn = exp_cmd_sn;
        known.max_cmd_sn = max_cmd_sn;
        self.shared.raise(max_cmd_sn);
        Ok(())
    }

    /// Whether a non-immediate command may be sent now.
    #[cfg(test)]
    fn window_is_open(&self) -> bool {
        !self.shared.next().is_after(self.shared.max())
    }

    /// The CmdSN of a command that is sent now; only a non-immediate one uses it up.
    pub(super) fn take_cmd_sn(&mut self, immediate: bool) -> CmdSn {
        if immediate {
            self.shared.next()
        } else {
            self.shared.take()
        }
    }

    /// The same, unless a command that is not immediate has to wait for the window.
    pub(super) fn take_if_open(&mut self, immediate: bool) -> Option<CmdSn> {
        if immediate {
            Some(self.shared.next())
        } else {
            self.shared.take_in_window()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rule;

    #[test]
    fn the_first_status_sets_the_count_and_each_later_one_is_the_next() {
        let mut serials = Serials::new(CmdSn(5));
        serials.on_status(StatSn(0xffff_ffff)).unwrap();
        serials.on_unnumbered(StatSn(0)).unwrap();
        serials.on_status(StatSn(0)).unwrap();
        assert_eq!(serials.on_status(StatSn(2)).unwrap_err().rule, Rule::StatSn);
        assert_eq!(serials.on_status(StatSn(0)).unwrap_err().rule, Rule::StatSn);
    }

    #[test]
    fn the_window_opens_only_forward_and_only_as_far_as_was_sent() {
        let mut serials = Serials::new(CmdSn(0xffff_fffe));
        assert!(!serials.window_is_open());
        serials.on_window(CmdSn(0xffff_fffe), CmdSn(1)).unwrap();
        assert!(serials.window_is_open());
        assert_eq!(serials.take_cmd_sn(true), CmdSn(0xffff_fffe));
        for expected in [0xffff_fffe, 0xffff_ffff, 0, 1] {
            assert!(serials.window_is_open());
            assert_eq!(serials.take_cmd_sn(false), CmdSn(expected));
        }
        assert!(!serials.window_is_open());
        let rule = |result: Result<(), Violation>| result.unwrap_err().rule;
        assert_eq!(rule(serials.on_window(CmdSn(3), CmdSn(4))), Rule::ExpCmdSn);
        assert_eq!(
            rule(serials.on_window(CmdSn(1), CmdSn(0xffff_ffff))),
            Rule::MaxCmdSn
        );
        serials.on_window(CmdSn(2), CmdSn(1)).unwrap();
        assert_eq!(rule(serials.on_window(CmdSn(1), CmdSn(1))), Rule::ExpCmdSn);
        assert_eq!(rule(serials.on_window(CmdSn(1), CmdSn(0))), Rule::ExpCmdSn);
    }
}
