//! What is to go wrong: [`FaultPlan`].

use std::ops::Range;

use super::command::Command;
use crate::backend::nvme::spec::entry::QueueId;
use crate::backend::nvme::spec::status::Status;

/// Which commands. What is `None` does not matter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Match {
    pub(crate) queue: Option<QueueId>,
    /// On the admin queue, or on any other.
    pub(crate) admin: Option<bool>,
    pub(crate) opcode: Option<u8>,
    /// I/O commands whose first block is in it.
    pub(crate) lba: Option<Range<u64>>,
}

impl Match {
    /// I/O commands of this opcode.
    pub(crate) fn io(opcode: u8) -> Self {
        Self {
            admin: Some(false),
            opcode: Some(opcode),
            ..Self::default()
        }
    }

    /// All I/O commands.
    pub(crate) fn any_io() -> Self {
        Self {
            admin: Some(false),
            ..Self::default()
        }
    }

    /// Admin commands of this opcode.
    pub(crate) fn admin(opcode: u8) -> Self {
        Self {
            admin: Some(true),
            opcode: Some(opcode),
            ..Self::default()
        }
    }

    fn fits(&self, queue: u16, command: &Command) -> bool {
        self.queue.is_none_or(|wanted| wanted.0 == queue)
            && self.admin.is_none_or(|admin| admin == (queue == 0))
            && self.opcode.is_none_or(|wanted| wanted == command.opcode())
            && self
                .lba
                .as_ref()
                .is_none_or(|lbas| queue != 0 && lbas.contains(&command.slba()))
    }
}

/// What happens to a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// It is carried out or not, and no completion comes.
    Drop,
    /// It is carried out only so many steps later.
    Delay(usize),
    /// It is carried out, and completed only so many steps later.
    CompleteLate(usize),
    /// Its completion comes twice.
    Duplicate,
    /// Its completion is written with the phase of the last round.
    StalePhase,
    /// Its completion has this CID.
    WrongCid(u16),
    /// Its completion has this SQHD.
    WrongHead(u16),
    /// Its completion has this SQID.
    WrongQueue(u16),
    /// It is not carried out and ends like this.
    Status(Status),
    /// It is carried out, and its completion says something else in dword 0.
    Result(u32),
    /// CSTS.CFS.
    Fatal,
    /// The function is gone.
    Remove,
}

/// One fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    pub(crate) on: Match,
    /// Commands that match and are spared first.
    pub(crate) skip: u64,
    /// Commands that it happens to then.
    pub(crate) times: u64,
    pub(crate) action: Action,
}

/// Bytes that Identify or a log page returns in the place of what is true.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Lie {
    /// CNS of Identify, or a log page's identifier.
    pub(crate) page: u8,
    /// `None`: of all.
    pub(crate) nsid: Option<u32>,
    pub(crate) offset: usize,
    pub(crate) bytes: Vec<u8>,
}

/// All that is to go wrong. The default is nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct FaultPlan {
    pub(crate) commands: Vec<Fault>,
    /// CSTS.RDY does not become 1.
    pub(crate) never_ready: bool,
    /// Steps more until it does.
    pub(crate) ready_late: usize,
    /// CSTS.RDY does not become 0 behind CC.EN = 0.
    pub(crate) never_disabled: bool,
    /// Queues that Set Features grants, whatever was asked for (the field, from zero).
    pub(crate) grant_queues: Option<u32>,
    /// What Abort answers: `true` that it was aborted. `None`: the truth.
    pub(crate) abort_answers: Option<bool>,
    /// The function's reset fails, and nothing stops.
    pub(crate) reset_fails: bool,
    /// The function has no reset.
    pub(crate) reset_unsupported: bool,
    /// A function that was let go cannot be opened again.
    pub(crate) reopen_fails: bool,
    pub(crate) unmap_fails: bool,
    pub(crate) map_fails: bool,
    /// CAP.CSS is this from now on, whatever it was.
    pub(crate) command_sets: Option<u8>,
    /// CSTS.SHST stays as it is when a shutdown is announced.
    pub(crate) stuck_shutdown: bool,
    /// The function is gone at this step.
    pub(crate) remove_at: Option<u64>,
    pub(crate) identify: Vec<Lie>,
    pub(crate) logs: Vec<Lie>,
}

impl FaultPlan {
    /// Lets the next matching command meet with `action`.
    pub(crate) fn once(&mut self, on: Match, action: Action) {
        self.nth(on, 0, action);
    }

    /// Spares `skip` matching commands before.
    pub(crate) fn nth(&mut self, on: Match, skip: u64, action: Action) {
        let times = 1;
        self.commands.push(Fault {
            on,
            skip,
            times,
            action,
        });
    }

    /// Lets all matching commands meet with `action`.
    pub(crate) fn always(&mut self, on: Match, action: Action) {
        let (skip, times) = (0, u64::MAX);
        self.commands.push(Fault {
            on,
            skip,
            times,
            action,
        });
    }

    /// Nothing goes wrong any more.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// What is to happen to a command that was fetched.
    pub(super) fn meet(&mut self, queue: u16, command: &Command) -> Option<Action> {
        let mut met = None;
        for fault in &mut self.commands {
            if met.is_some() || !fault.on.fits(queue, command) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                met = Some(fault.action);
            }
        }
        self.commands.retain(|fault| fault.times > 0);
        met
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(lba: u8) -> Command {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        bytes[40] = lba;
        Command(bytes)
    }

    #[test]
    fn faults_meet_the_commands_that_they_are_for() {
        let mut plan = FaultPlan::default();
        plan.nth(Match::io(1), 1, Action::Drop);
        plan.always(
            Match {
                lba: Some(10..20),
                ..Match::any_io()
            },
            Action::Fatal,
        );
        plan.once(Match::admin(1), Action::Duplicate);
        assert_eq!(plan.meet(1, &write(0)), None);
        assert_eq!(plan.meet(0, &write(0)), Some(Action::Duplicate));
        assert_eq!(plan.meet(0, &write(0)), None, "once");
        assert_eq!(plan.meet(2, &write(0)), Some(Action::Drop));
        for lba in 10..20 {
            assert_eq!(plan.meet(1, &write(lba)), Some(Action::Fatal));
        }
        assert_eq!(plan.meet(1, &write(20)), None);
        plan.clear();
        assert_eq!(plan, FaultPlan::default());
    }
}
