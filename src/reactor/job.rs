//! Jobs of logical units: what a unit does on its own after a command has begun it (SANITIZE).
//!
//! ```text
//! decided ─► begin_job ─► Job::next ─► device ─► job_completed ─► Job::next …
//!                            └► Change::Sanitized ─► saved, on every core ─► who waits
//! ```
//!
//! A job runs on its unit's home core, one for each unit. Its operations carry tags that no session
//! has. It takes a buffer out of the pool when there is one beside what is promised to sessions,
//! and else tries again with the next tick, as it does when its device is short of something. When
//! the daemon stops, the job stops between two operations, and one that was still being decided
//! does not begin; what was kept of it makes it begin again at the next start.

use std::sync::Arc;

use super::message::{Asker, Owner, ToCore};
use super::{NO_SESSION, Reactor};
use crate::backend::{IoError, Request, Token, UnitIndex};
use crate::control::event::Event;
use crate::mem::{DmaBuf, Pool};
use crate::scsi::job::FAILED;
use crate::scsi::{
    Change, InitiatorPort, Job, JobEvent, JobStep, Nexus, Outcome, PortIdentity, ReadyState,
    Sanitize,
};

/// A job under way.
#[derive(Debug)]
pub(super) struct Running {
    job: Job,
    /// Who waits for its end: the one command that began it.
    waiter: Option<Owner>,
    /// It waits for a buffer of so many bytes.
    wants_bytes: Option<usize>,
    /// Its device was short of something: it goes on with the next tick.
    is_short: bool,
    /// That was logged; a shortage may last for many ticks.
    shortage_told: bool,
    /// It is over, and what is to be told of that is being decided (`true`) or was refused.
    ended: Option<(bool, bool)>,
}

impl Reactor {
    /// Begins again what the daemon had not finished when it last ran.
    pub(super) fn resume_jobs(&mut self) {
        for at in 0..self.lent.units.len() {
            let index = UnitIndex(u16::try_from(at).expect("the configuration bounds the units"));
            let unit = &self.lent.units[at];
            if self.home_of(index) == self.core
                && unit.ready() == ReadyState::Ready
                && let Some(what) = unit.sanitizing().cloned()
            {
                self.tell(Event::Trouble(format!(
                    "a sanitize operation of unit {at} was interrupted and begins again"
                )));
                self.begin_job(index, &what);
            }
        }
    }

    /// This core is the unit's home, and every core knows that the job begins. When the daemon
    /// stops it does not: this core may have said already that it has finished, while the command
    /// came from one that had not. The next start begins it.
    pub(super) fn begin_job(&mut self, unit: UnitIndex, what: &Sanitize) {
        if self.stopping {
            return;
        }
        let at = usize::from(unit.0);
        let job = Job::new(what, self.lent.units[at].info());
        self.homes[at].job = Some(Running {
            job,
            waiter: None,
            wants_bytes: None,
            is_short: false,
            shortage_told: false,
            ended: None,
        });
        self.drive_job(unit, JobEvent::Begin);
    }

    /// Does what the job needs next.
    fn drive_job(&mut self, unit: UnitIndex, event: JobEvent) {
        let Some(running) = &mut self.homes[usize::from(unit.0)].job else {
            return;
        };
        match running.job.next(event) {
            JobStep::Buffer(bytes) => {
                running.wants_bytes = Some(bytes);
                self.lend_to_job(unit);
            }
            JobStep::Submit(operation) => self.lent.requests.push(Request {
                unit,
                operation,
                // Every block is to be overwritten, whatever is backed now (SBC-3 §4.11).
                past_limit: true,
                token: Token::new(NO_SESSION | u64::from(unit.0)),
            }),
            JobStep::Wait => {
                running.is_short = true;
                if !std::mem::replace(&mut running.shortage_told, true) {
                    let error = IoError::Resource;
                    self.backends.add_failure(unit);
                    self.tell(Event::DeviceError { unit, error });
                }
            }
            JobStep::Done(result) => {
                running.ended = Some((result.is_ok(), true));
                if let Err(error) = result {
                    self.backends.add_failure(unit);
                    self.tell(Event::DeviceError { unit, error });
                }
                self.ask_to_end_job(unit, result.is_ok());
            }
        }
    }

    /// Gives the job the buffer that it waits for, if there is one beside what sessions may count
    /// on.
    fn lend_to_job(&mut self, unit: UnitIndex) {
        let Some(running) = &mut self.homes[usize::from(unit.0)].job else {
            return;
        };
        let Some(bytes) = running.wants_bytes else {
            return;
        };
        let left = self.lent.pool.available().checked_sub(self.lent.floor);
        let fits = left.is_some_and(|left| left >= Pool::chunks_for(bytes));
        if let Some(buf) = fits.then(|| self.lent.pool.alloc(bytes)).flatten() {
            running.wants_bytes = None;
            self.drive_job(unit, JobEvent::Buffer(buf));
        }
    }

    /// An operation of a job has ended.
    pub(super) fn job_completed(
        &mut self,
        tag: u64,
        result: Result<(), IoError>,
        buf: Option<DmaBuf>,
    ) {
        let unit = UnitIndex(u16::try_from(tag & 0xffff).expect("masked to 16 bits"));
        if self.stopping {
            self.homes[usize::from(unit.0)].job = None;
            return;
        }
        if let Some(running) = &mut self.homes[usize::from(unit.0)].job
            && result.is_ok()
            && let Some(progress) = running.job.progress()
        {
            let change = Change::SanitizeProgress(progress);
            self.ask(unit, Asker::None, change, nobody());
        }
        self.drive_job(unit, JobEvent::Completed { result, buf });
    }

    /// Goes on with jobs that wait for a buffer or for their device, or whose end could not be
    /// kept.
    pub(super) fn tick_jobs(&mut self) {
        if self.stopping {
            return;
        }
        for at in 0..self.homes.len() {
            let Some(running) = &mut self.homes[at].job else {
                continue;
            };
            let unit = UnitIndex(u16::try_from(at).expect("the configuration bounds the units"));
            if let Some((well, false)) = running.ended {
                running.ended = Some((well, true));
                self.ask_to_end_job(unit, well);
            } else if std::mem::take(&mut running.is_short) {
                self.drive_job(unit, JobEvent::Again);
            } else {
                self.lend_to_job(unit);
            }
        }
    }

    fn ask_to_end_job(&mut self, unit: UnitIndex, well: bool) {
        self.ask(unit, Asker::Job(unit), Change::Sanitized(well), nobody());
    }

    /// Every core knows that the job is over; or that could not be kept, and is tried again.
    pub(super) fn job_end_decided(&mut self, unit: UnitIndex, kept: Result<(), Outcome>) {
        let home = &mut self.homes[usize::from(unit.0)];
        let Some(running) = &mut home.job else {
            return;
        };
        let Some((well, _)) = running.ended else {
            return;
        };
        if kept.is_err() {
            running.ended = Some((well, false));
            return;
        }
        let result = if well { Ok(()) } else { Err(FAILED) };
        let waiter = running.waiter;
        home.job = None;
        home.last_job = Some(result);
        if let Some(owner) = waiter {
            self.send_to(
                owner.core,
                ToCore::JobEnded {
                    unit,
                    owner,
                    result,
                },
            );
        }
    }

    /// A task here waits for the end of the unit's job.
    pub(super) fn await_job(&mut self, unit: UnitIndex, owner: Owner) {
        self.send_to(self.home_of(unit), ToCore::JobAwaited { unit, owner });
    }

    /// This core is the unit's home. The job may be over already. When the daemon stops nobody
    /// learns how it ended, because it may not have: the sessions that wait are closed.
    pub(super) fn job_awaited(&mut self, unit: UnitIndex, owner: Owner) {
        if self.stopping {
            return;
        }
        let home = &mut self.homes[usize::from(unit.0)];
        if let Some(running) = &mut home.job {
            running.waiter = Some(owner);
            return;
        }
        let result = home.last_job.unwrap_or(Ok(()));
        self.send_to(
            owner.core,
            ToCore::JobEnded {
                unit,
                owner,
                result,
            },
        );
    }

    /// The job that a task here waits for is over.
    pub(super) fn job_ended(&mut self, unit: UnitIndex, owner: Owner, result: Result<(), Outcome>) {
        let Owner { session, task, .. } = owner;
        if let Some(entry) = self
            .sessions
            .get_mut(usize::from(session.0))
            .and_then(Option::as_mut)
        {
            entry
                .session
                .job_ended(&mut self.lent.env(), task, unit, result);
            self.after_session(session);
        }
    }
}

/// Who asks for what a job leaves: no initiator.
fn nobody() -> Arc<Nexus> {
    let initiator = InitiatorPort::new("", [0; 6]).expect("an empty name is short enough");
    let port = PortIdentity::new("", 0, 0).expect("an empty name is short enough");
    Arc::new(Nexus::new(initiator, port, Vec::new()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::message::{Ask, ToControl, Wish};
    use super::super::{Heartbeat, Plan, Polling, fill_random};
    use super::*;
    use crate::backend::{Backing, Faults, Kind, Options, Spec};
    use crate::control::ring::{Inbox, Outbox, Sender, inbox};
    use crate::iscsi::session::Timeouts;
    use crate::mem::Pages;
    use crate::scsi::job::SanitizeMethod;
    use crate::scsi::{Identity, LogicalUnit};

    const UNIT: UnitIndex = UnitIndex(0);
    const LONG: Duration = Duration::from_secs(60);

    /// One core with a disk in memory.
    fn plan(
        backing: Arc<Backing>,
        inbox: Inbox<ToCore>,
        own: Sender<ToCore>,
        control: Sender<ToControl>,
    ) -> Plan {
        let identity = Identity::new("disk", "0001", "SERIAL42", 1, [7; 16]).unwrap();
        Plan {
            core: 0,
            cpu: None,
            polling: Polling::Busy,
            pool_bytes: 16 << 20,
            pages: Pages::Normal,
            nodes: Arc::default(),
            units: vec![LogicalUnit::new(identity, backing.info().clone(), false)],
            backings: vec![Some(backing)],
            backend: Options {
                units: 1,
                ..Options::default()
            },
            timeouts: Timeouts {
                ping_interval: None,
                ping_timeout: LONG,
                no_progress: LONG,
            },
            login_timeout: LONG,
            login_limits: crate::iscsi::login::Limits::default(),
            random: fill_random,
            greetings_max: 1,
            joined_max: 1,
            inbox,
            cores: vec![own],
            control,
            heartbeat: Arc::new(Heartbeat::default()),
            guards: Arc::default(),
            ports: Vec::new(),
            frames: super::super::flows::FrameRings::new(1),
        }
    }

    fn next(control: &Inbox<ToControl>) -> ToControl {
        let begun = crate::reactor::clock::now();
        loop {
            if let Some(message) = control.pop() {
                return message;
            }
            assert!(begun.elapsed() < LONG, "the core says nothing");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_sanitize_that_is_decided_behind_the_stop_does_not_begin() {
        let faults = Arc::new(Faults::default());
        let memory = Backing::open(&Spec::new(Kind::Memory { bytes: 1 << 20 })).unwrap();
        let backing = Backing::with_faults(&memory, Arc::clone(&faults));
        let (own, sender) = inbox().unwrap();
        let (control, to_control) = inbox().unwrap();
        let plan = plan(backing, own, sender.clone(), to_control);
        let core = std::thread::spawn(|| Reactor::new(plan).unwrap().run());
        let mut outbox = Outbox::new(sender);
        outbox.send(ToCore::Stop);
        assert!(matches!(next(&control), ToControl::Stopped { core: 0 }));
        // A session of a core that does not know yet that the daemon stops asks now.
        faults.hold_writes(true);
        let method = SanitizeMethod::Overwrite {
            pattern: vec![0x55],
            count: 1,
            invert: false,
        };
        let wish = Wish::Change {
            change: Change::Sanitize(Sanitize {
                method,
                unrestricted_exit: false,
            }),
            by: nobody(),
        };
        let asker = Asker::None;
        let ask = Box::new(Ask { asker, wish });
        outbox.send(ToCore::Asked { unit: UNIT, ask });
        let ToControl::Save { state, .. } = next(&control) else {
            panic!("it is kept before it begins")
        };
        assert!(state.sanitize.is_some(), "the next start begins it");
        outbox.send(ToCore::Saved {
            unit: UNIT,
            saved: true,
        });
        outbox.send(ToCore::End);
        core.join().expect("every buffer is back at the end");
        assert_eq!(faults.held(), 0);
    }
}
