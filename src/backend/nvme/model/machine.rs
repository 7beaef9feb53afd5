//! The model's state, and what happens in one step.
//!
//! In each step one thing happens, chosen by the seed among all that can: a register follows, a
//! command is fetched, carried out or completed, an event is told. Nothing happens between steps.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{Ordering, fence};
use std::thread::ThreadId;

use super::Counters;
use super::command::{Code, Command, Posted};
use super::disk::Disk;
use super::events::{Events, Happening, Logs};
use super::faults::{Action, FaultPlan};
use super::options::{ModelOptions, NamespaceOptions};
use super::queue::{Completions, Submission};
use super::random::Random;
use super::registers::Registers;
use super::space::{Refused, Space};
use super::verdict::{Rule, Verdict};
use crate::backend::nvme::link::Rings;

/// All there is, under the model's lock.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) options: ModelOptions,
    pub(super) registers: Registers,
    pub(super) space: Space,
    pub(super) submissions: BTreeMap<u16, Submission>,
    pub(super) completions: BTreeMap<u16, Completions>,
    /// Pages of shadow doorbells and of event indices.
    pub(super) shadow: Option<(u64, u64)>,
    pub(super) flights: Vec<Flight>,
    pub(super) events: Events,
    pub(super) logs: Logs,
    pub(super) disks: Vec<Disk>,
    pub(super) faults: FaultPlan,
    pub(super) verdict: Verdict,
    pub(super) counters: Counters,
    /// Threads of data cores.
    pub(super) cores: HashSet<ThreadId>,
    pub(super) random: Random,
    pub(super) now: u64,
    choices: Vec<Choice>,
}

/// A command that was fetched and is not completed.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) queue: u16,
    pub(super) command: Command,
    /// The step before which nothing happens to it.
    due: u64,
    stage: Stage,
    action: Option<Action>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Execute,
    Complete(Code, u32),
    /// Its completion is lost.
    Lost,
}

/// What an executed command has to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Done(Code, u32),
    /// It stays until there is an event.
    Parked,
}

impl From<Code> for Outcome {
    fn from(code: Code) -> Self {
        Self::Done(code, 0)
    }
}

#[derive(Clone, Copy, Debug)]
enum Choice {
    Register,
    Fetch(u16),
    Work(usize),
    Event,
}

impl Machine {
    pub(super) fn new(options: ModelOptions) -> Self {
        let disks = options.namespaces.iter().cloned().map(Disk::new);
        Self {
            disks: disks.collect(),
            registers: Registers::default(),
            space: Space::new(options.run_bytes, options.seed),
            submissions: BTreeMap::new(),
            completions: BTreeMap::new(),
            shadow: None,
            flights: Vec::new(),
            events: Events::default(),
            logs: Logs::default(),
            faults: FaultPlan::default(),
            verdict: Verdict::default(),
            counters: Counters::default(),
            cores: HashSet::new(),
            random: Random::new(options.seed),
            now: 0,
            choices: Vec::new(),
            options,
        }
    }

    pub(super) fn break_rule(&mut self, rule: Rule, detail: impl Into<String>) {
        self.verdict.add(rule, detail.into());
    }

    /// Takes `count` steps; in how many of them something happened.
    pub(super) fn step(&mut self, count: usize) -> usize {
        (0..count).filter(|_| self.turn()).count()
    }

    fn turn(&mut self) -> bool {
        self.now += 1;
        if self.faults.remove_at.is_some_and(|at| at <= self.now) {
            self.faults.remove_at = None;
            self.remove();
        }
        let mut choices = std::mem::take(&mut self.choices);
        choices.clear();
        self.choose_from(&mut choices);
        let chosen = choices.get(self.random.below(choices.len())).copied();
        self.choices = choices;
        match chosen {
            None => return false,
            Some(Choice::Register) => self.follow_registers(),
            Some(Choice::Fetch(queue)) => self.fetch(queue),
            Some(Choice::Work(at)) => self.work(at),
            Some(Choice::Event) => self.tell_event(),
        }
        true
    }

    /// Whether nothing will happen until the driver does something.
    pub(super) fn is_idle(&mut self) -> bool {
        let waits = |flight: &Flight| !matches!(flight.stage, Stage::Lost) && flight.due > self.now;
        if self.registers.is_pending() || self.flights.iter().any(waits) {
            return false;
        }
        let mut choices = Vec::new();
        self.choose_from(&mut choices);
        choices.is_empty()
    }

    fn choose_from(&mut self, choices: &mut Vec<Choice>) {
        if self.registers.is_due(self.now) {
            choices.push(Choice::Register);
        }
        if !self.registers.runs() {
            return;
        }
        let queues: Vec<u16> = self.submissions.keys().copied().collect();
        let fetches = self.registers.fetches() && self.flights.len() < self.options.window;
        for queue in queues {
            if fetches && self.has_commands(queue) {
                choices.push(Choice::Fetch(queue));
            }
        }
        for at in 0..self.flights.len() {
            if self.can_work(&self.flights[at]) {
                choices.push(Choice::Work(at));
            }
        }
        if self.registers.completes() && self.events.is_ready() && !self.is_full(0) {
            choices.push(Choice::Event);
        }
    }

    fn can_work(&self, flight: &Flight) -> bool {
        flight.due <= self.now
            && match flight.stage {
                Stage::Execute => true,
                Stage::Complete(..) => self.registers.completes() && !self.is_full(flight.queue),
                Stage::Lost => false,
            }
    }

    /// Whether the queue that `queue` completes to has no place.
    fn is_full(&self, queue: u16) -> bool {
        let submission = self.submissions.get(&queue);
        let completions = submission.and_then(|queue| self.completions.get(&queue.completion));
        completions.is_none_or(Completions::is_full)
    }

    /// Looks for commands, where there are shadow doorbells also there.
    fn has_commands(&mut self, id: u16) -> bool {
        let Some(queue) = self.submissions.get_mut(&id) else {
            return false;
        };
        let Some(shadow) = queue.shadow.filter(|_| queue.is_empty() && !queue.asleep) else {
            return !queue.is_empty();
        };
        let stored = self.space.store(shadow.event, queue.tail);
        // The driver stores its tail and then looks at the event index: one of us sees the other.
        fence(Ordering::SeqCst);
        let loaded = stored.and_then(|()| self.space.load(shadow.doorbell));
        let (tail, rung) = match loaded {
            Ok(tail) => (tail, queue.ring(tail, true)),
            Err(_) => (0, Err(Rule::Unmapped)),
        };
        queue.asleep = queue.is_empty();
        let found = !queue.is_empty();
        if let Err(rule) = rung {
            self.break_rule(rule, format!("shadow tail of queue {id}: {tail}"));
        }
        found
    }

    /// Takes the heads of completion queues out of their shadow doorbells.
    fn look_at_shadow_heads(&mut self) {
        let mut broken = Vec::new();
        for (id, queue) in &mut self.completions {
            let Some(shadow) = queue.shadow else { continue };
            let stored = self.space.store(shadow.event, queue.head());
            fence(Ordering::SeqCst);
            let loaded = stored.and_then(|()| self.space.load(shadow.doorbell));
            let rung = loaded.map_err(|_| Rule::Unmapped);
            if let Err(rule) = rung.and_then(|head| queue.ring(head, true)) {
                broken.push((rule, *id));
            }
        }
        for (rule, id) in broken {
            self.break_rule(rule, format!("shadow head of queue {id}"));
        }
    }

    fn fetch(&mut self, id: u16) {
        self.check_fresh(id);
        let Some(queue) = self.submissions.get_mut(&id) else {
            return;
        };
        let at = queue.fetch();
        let mut bytes = [0; 64];
        if let Err(refused) = self.space.read(at, &mut bytes) {
            self.refuse(refused, at, "an entry of a submission queue");
            self.registers.fail();
            return;
        }
        let command = Command(bytes);
        self.counters.fetched += 1;
        let known = queue.outstanding.insert(command.cid());
        let action = self.faults.meet(id, &command);
        let stage = if known {
            self.inspect(id, &command);
            Stage::Execute
        } else {
            let detail = format!("CID {} of queue {id} is outstanding", command.cid());
            self.break_rule(Rule::CommandId, detail);
            Stage::Complete(Code::ID_CONFLICT, 0)
        };
        let mut flight = Flight {
            queue: id,
            command,
            due: self.now,
            stage,
            action,
        };
        match action {
            Some(Action::Delay(steps)) => flight.due += steps as u64,
            Some(Action::Status(status)) => {
                flight.stage = Stage::Complete(Code(status.field()), 0);
            }
            Some(Action::Fatal) => self.registers.fail(),
            Some(Action::Remove) => return self.remove(),
            Some(Action::Drop) if self.random.coin() => flight.stage = Stage::Lost,
            _ => {}
        }
        self.flights.push(flight);
    }

    /// Before the first command the completion queue has no phase tags: old ones would be taken
    /// for new completions.
    fn check_fresh(&mut self, id: u16) {
        let completion = self.submissions.get(&id).map(|queue| queue.completion);
        let Some(queue) = completion.and_then(|id| self.completions.get_mut(&id)) else {
            return;
        };
        if !std::mem::replace(&mut queue.is_fresh, false) {
            return;
        }
        let tags = (0..queue.entries).map(|nth| queue.base + 16 * u64::from(nth) + 12);
        let old = |word: u32| word & 1 << 16 != 0;
        let is_old = |at: u64| self.space.load(at).is_ok_and(old);
        if tags.into_iter().any(is_old) {
            let detail = format!("the completion queue of queue {id} is not zeroed");
            self.break_rule(Rule::Queue, detail);
        }
    }

    /// What is wrong with a command before it is looked at any closer.
    fn inspect(&mut self, queue: u16, command: &Command) {
        let opcode = command.opcode();
        if !command.is_known(queue == 0) {
            let detail = format!("opcode {opcode:#04x} on queue {queue}");
            self.break_rule(Rule::Unsupported, detail);
        } else if let Some(what) = command.reserved(queue == 0) {
            let detail = format!("opcode {opcode:#04x} on queue {queue}: {what}");
            self.break_rule(Rule::Reserved, detail);
        }
    }

    fn work(&mut self, at: usize) {
        let (queue, command) = (self.flights[at].queue, self.flights[at].command);
        match self.flights[at].stage {
            Stage::Lost => {}
            Stage::Execute => {
                let outcome = self.execute(queue, &command);
                // Commands that delete queues or reset take others with them.
                let same = |flight: &Flight| {
                    flight.queue == queue && flight.command.cid() == command.cid()
                };
                let Some(at) = self.flights.iter().position(same) else {
                    return;
                };
                match outcome {
                    Outcome::Parked => drop(self.flights.swap_remove(at)),
                    Outcome::Done(code, result) => self.flights[at].executed(code, result),
                }
                if let Some(Action::CompleteLate(steps)) =
                    self.flights.get(at).and_then(|f| f.action)
                {
                    self.flights[at].due = self.now + steps as u64;
                }
            }
            Stage::Complete(code, result) => {
                let flight = self.flights.swap_remove(at);
                self.complete(&flight, code, result);
            }
        }
    }

    fn execute(&mut self, queue: u16, command: &Command) -> Outcome {
        if queue == 0 {
            self.admin(command)
        } else {
            self.nvm(command).into()
        }
    }

    fn complete(&mut self, flight: &Flight, code: Code, result: u32) {
        let (queue, cid) = (flight.queue, flight.command.cid());
        if code != Code::ID_CONFLICT
            && let Some(submission) = self.submissions.get_mut(&queue)
        {
            submission.outstanding.remove(&cid);
        }
        if code != Code::SUCCESS {
            self.note_error(queue, &flight.command, code);
        }
        self.post(queue, cid, (code, result), flight.action);
        if flight.action == Some(Action::Duplicate) && !self.is_full(queue) {
            self.post(queue, cid, (code, result), None);
        }
    }

    /// Writes a completion of a submission queue's command, with what is to go wrong with it.
    pub(super) fn post(
        &mut self,
        queue: u16,
        cid: u16,
        (code, result): (Code, u32),
        action: Option<Action>,
    ) {
        let Some(submission) = self.submissions.get_mut(&queue) else {
            return;
        };
        let Some(completions) = self.completions.get_mut(&submission.completion) else {
            return;
        };
        let (at, phase) = completions.post();
        let mut posted = Posted {
            result,
            sqhd: submission.tell(),
            sqid: queue,
            cid,
            code,
            phase,
        };
        match action {
            Some(Action::WrongCid(cid)) => posted.cid = cid,
            Some(Action::WrongHead(head)) => posted.sqhd = head,
            Some(Action::WrongQueue(queue)) => posted.sqid = queue,
            Some(Action::StalePhase) => posted.phase = !phase,
            Some(Action::Result(result)) => posted.result = result,
            _ => {}
        }
        self.counters.completed += 1;
        let (first, last) = posted.encode();
        let written = self.space.write(at, &first);
        // The dword with the phase tag comes last, and makes the others seen.
        if let Err(refused) = written.and_then(|()| self.space.store(at + 12, last)) {
            self.refuse(refused, at, "an entry of a completion queue");
            self.registers.fail();
        }
        self.look_at_shadow_heads();
    }

    /// An access to memory that was not to be.
    pub(super) fn refuse(&mut self, refused: Refused, iova: u64, what: &str) {
        let rule = match refused {
            Refused::Unmapped => Rule::Unmapped,
            Refused::NotOwned => Rule::NotOwned,
        };
        self.break_rule(rule, format!("{what} at {iova:#x}"));
    }

    /// Forgets queues and commands, as every reset does.
    pub(super) fn forget(&mut self) {
        self.flights.clear();
        self.submissions.clear();
        self.completions.clear();
        self.shadow = None;
        self.events.forget();
    }

    /// The function is not there any more.
    pub(super) fn remove(&mut self) {
        self.forget();
        self.registers.remove();
    }

    /// Completes a command that is worked on, if it is: whether it was.
    pub(super) fn abort(&mut self, queue: u16, cid: u16) -> bool {
        let its = |flight: &&mut Flight| flight.queue == queue && flight.command.cid() == cid;
        let Some(flight) = self.flights.iter_mut().find(its) else {
            return false;
        };
        let late = matches!(flight.stage, Stage::Complete(..)) && flight.due <= self.now;
        if !late {
            flight.stage = Stage::Complete(Code::ABORTED, 0);
            flight.due = self.now;
        }
        !late
    }

    /// Completes what a submission queue has left, behind its deletion.
    pub(super) fn abort_queue(&mut self, queue: u16) {
        let mut left = Vec::new();
        self.flights.retain(|flight| {
            let its = flight.queue == queue;
            if its {
                left.push(flight.command.cid());
            }
            !its
        });
        for cid in left {
            if !self.is_full(queue) {
                self.post(queue, cid, (Code::SQ_DELETED, 0), None);
            }
        }
    }

    /// A write that is worked on may have come to the medium when power fails.
    pub(super) fn power_cut(&mut self) {
        let writes: Vec<Command> = self
            .flights
            .iter()
            .filter(|flight| flight.queue != 0 && matches!(flight.stage, Stage::Execute))
            .map(|flight| flight.command)
            .collect();
        for command in writes {
            if self.random.coin() {
                self.tear(&command);
            }
        }
        let unit = u64::from(self.options.awupf) + 1;
        for disk in &mut self.disks {
            disk.power_cut(&mut self.random, unit);
        }
        self.remove();
        self.registers.cut();
    }
}

impl Machine {
    pub(super) fn disk_at(&self, nsid: u32) -> &Disk {
        let at = self.nth_disk(nsid);
        &self.disks[at]
    }

    fn nth_disk(&self, nsid: u32) -> usize {
        let at = usize::try_from(nsid).expect("few namespaces");
        assert!(
            (1..=self.disks.len()).contains(&at),
            "there is such a namespace"
        );
        at - 1
    }

    pub(super) fn change_namespace(
        &mut self,
        nsid: u32,
        change: impl FnOnce(&mut NamespaceOptions),
    ) {
        let at = self.nth_disk(nsid);
        change(&mut self.disks[at].options);
        self.logs.changed.insert(nsid);
        self.happen(Happening {
            kind: 2,
            information: 0,
            log_page: 4,
        });
    }

    /// See [`Model::open_pair`](super::Model::open_pair).
    pub(super) fn open_pair(&mut self, queue: u16, rings: Rings) {
        assert!(queue > 0 && queue <= self.options.queue_pairs);
        let entries = rings.entries.into();
        self.force_ready();
        let submissions = Submission::new(rings.submissions.0, entries, queue);
        self.submissions.insert(queue, submissions);
        let completions = Completions::new(rings.completions.0, entries);
        self.completions.insert(queue, completions);
    }
}

impl Flight {
    fn executed(&mut self, code: Code, result: u32) {
        self.stage = if self.action == Some(Action::Drop) {
            Stage::Lost
        } else {
            Stage::Complete(code, result)
        };
    }
}
