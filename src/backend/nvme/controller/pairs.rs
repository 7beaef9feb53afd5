//! The queue pairs of the cores: who has joined, who has a pair in the controller, who shares
//! another's, and what each was told.
//!
//! The first cores that join have a pair of their own, as far as the controller has them; the
//! others are guests, spread over the first. A core that leaves gives its rings, which go only when
//! its queues are deleted, or the controller is quiet. Its guests are halted, and then get what is
//! free.
//!
//! A core that owes its answer to `Halt` may still ring the doorbells that it had: its queue and
//! its rings stay its own, and it gets nothing new, until it answers.
//!
//! Orders that find no room in their core's queue wait here. There are never more of them than what
//! one recovery says: a `Halt` makes void what a core has not taken yet.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{ControllerError, Life, REGISTER_LOOK, Trouble, good};
use crate::backend::nvme::bar::Bar;
use crate::backend::nvme::controller::init::quirks;
use crate::backend::nvme::controller::recover::HALT_MAX;
use crate::backend::nvme::dma::{DmaPages, DmaSpace, Quiet, Shadow};
use crate::backend::nvme::facts::State;
use crate::backend::nvme::link::{Grant, Lane, Order, Orders, PairIndex, Rings};
use crate::backend::nvme::spec::command;
use crate::backend::nvme::spec::entry::QueueId;
use crate::backend::nvme::spec::registers::offset;

/// Cores that may be joined at once.
const PAIRS_MAX: usize = 1024;

/// What a core has of the controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// Nothing yet.
    Waiting,
    Open(QueueId),
    /// The use of this one's pair.
    Guest(PairIndex),
    /// Nothing, and `Halt` is not answered: the doorbells of the queue that it had may still be
    /// rung, so that nobody can have it.
    Owing(Option<QueueId>),
}

#[derive(Debug)]
struct Pair<D: DmaSpace> {
    orders: Arc<Orders<D>>,
    rings: Rings,
    at: At,
    outbox: VecDeque<Order<D>>,
    /// `Halt` is not answered.
    owes: bool,
    /// Nothing that proves it quiet was seen since its `Halt`.
    halted: bool,
    /// It was told `Fail`, and nothing better since.
    failed: bool,
    /// It has left, and these are its rings, unless they are kept from everybody.
    left: Option<Vec<DmaPages<D>>>,
}

impl<D: DmaSpace> Pair<D> {
    fn order(&mut self, order: Order<D>) {
        if !self.outbox.is_empty() {
            self.outbox.push_back(order);
        } else if let Err(order) = self.orders.send(order) {
            self.outbox.push_back(order);
        }
    }

    /// Nothing where the last `Halt` is not answered, behind which nothing was opened.
    fn halt(&mut self) {
        if !self.owes {
            self.outbox.clear();
            self.order(Order::Halt);
            (self.owes, self.halted) = (true, true);
        }
    }

    fn quiet(&mut self, proof: Quiet) {
        if std::mem::take(&mut self.halted) {
            self.order(Order::Quiet(proof));
        }
        self.at = match self.at {
            At::Open(queue) if self.owes => At::Owing(Some(queue)),
            At::Guest(_) if self.owes => At::Owing(None),
            at @ At::Owing(_) => at,
            At::Waiting | At::Open(_) | At::Guest(_) => At::Waiting,
        };
    }
}

#[derive(Debug)]
pub(super) struct Pairs<D: DmaSpace> {
    /// In the order in which they have joined.
    all: Vec<Pair<D>>,
    /// I/O queues that the controller lets us create.
    usable: u16,
}

impl<D: DmaSpace> Default for Pairs<D> {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            usable: 0,
        }
    }
}

impl<D: DmaSpace> Pairs<D> {
    fn pair(&mut self, index: PairIndex) -> Option<&mut Pair<D>> {
        self.all.iter_mut().find(|pair| pair.orders.index == index)
    }

    /// Sends what found no room before.
    pub(super) fn deliver(&mut self) {
        for pair in &mut self.all {
            while let Some(order) = pair.outbox.pop_front() {
                if let Err(order) = pair.orders.send(order) {
                    pair.outbox.push_front(order);
                    break;
                }
            }
        }
    }

    pub(super) fn halted(&mut self, index: PairIndex) {
        if let Some(pair) = self.pair(index) {
            pair.owes = false;
            if matches!(pair.at, At::Owing(_)) {
                pair.at = At::Waiting;
            }
        }
    }

    /// A core whose rings come back uses nothing any more. The rings of one that is not known go.
    pub(super) fn leaves(&mut self, index: PairIndex, pages: Option<DmaPages<D>>) {
        if let Some(pair) = self.pair(index) {
            (pair.owes, pair.halted) = (false, false);
            pair.outbox.clear();
            pair.left = Some(pages.into_iter().collect());
        }
    }

    /// The queue that a core has of its own.
    pub(super) fn queue(&self, index: PairIndex) -> Option<QueueId> {
        let mut all = self.all.iter();
        let pair = all.find(|pair| pair.orders.index == index)?;
        match pair.at {
            At::Open(queue) => Some(queue),
            At::Waiting | At::Guest(_) | At::Owing(_) => None,
        }
    }

    /// Whether cores are there that have not left.
    pub(super) fn are_in_use(&self) -> bool {
        self.all.iter().any(|pair| pair.left.is_none())
    }

    /// Whether a core has not answered `Halt`.
    pub(super) fn owe(&self) -> bool {
        self.all.iter().any(|pair| pair.owes)
    }

    /// Tells all that have anything of the controller's to touch nothing.
    pub(super) fn halt(&mut self) {
        for pair in &mut self.all {
            if pair.left.is_none() && matches!(pair.at, At::Open(_) | At::Guest(_)) {
                pair.halt();
            }
        }
    }

    /// Tells all that were halted that the controller is quiet, and lets go of the rings of those
    /// that have left.
    pub(super) fn quiet(&mut self, proof: Quiet) {
        self.all.retain(|pair| pair.left.is_none());
        for pair in &mut self.all {
            pair.quiet(proof);
        }
    }

    /// Tells all that there is no hope for now.
    pub(super) fn fail(&mut self) {
        for pair in &mut self.all {
            if pair.left.is_none() && !pair.failed {
                pair.failed = true;
                pair.order(Order::Fail);
            }
        }
    }

    /// A controller without I/O queues has been initialised, and takes so many.
    pub(super) fn begin(&mut self, usable: u16) {
        self.usable = usable;
    }

    fn leaving(&self) -> Option<PairIndex> {
        let leaving = self.all.iter().find(|pair| pair.left.is_some());
        leaving.map(|pair| pair.orders.index)
    }

    /// A guest whose host has gone.
    fn orphan(&self) -> Option<PairIndex> {
        let has_host = |host| self.queue(host).is_some();
        let mut all = self.all.iter();
        let orphan = all.find(|pair| matches!(pair.at, At::Guest(host) if !has_host(host)));
        orphan.map(|pair| pair.orders.index)
    }

    fn waiting(&self) -> Option<PairIndex> {
        let waiting = self.all.iter().find(|pair| pair.at == At::Waiting);
        waiting.map(|pair| pair.orders.index)
    }

    pub(super) fn has_work(&self) -> bool {
        // Where all queues are those of cores that owe, nothing can be done for others.
        let can_have = || self.is_open() || self.free_queue().is_some();
        self.leaving().is_some()
            || self.orphan().is_some()
            || self.waiting().is_some() && can_have()
    }

    /// Whether a core has a queue pair.
    fn is_open(&self) -> bool {
        let mut all = self.all.iter();
        all.any(|pair| matches!(pair.at, At::Open(_)))
    }

    /// The lowest queue that nobody has, nor rings the doorbells of.
    fn free_queue(&self) -> Option<QueueId> {
        let taken = |queue| {
            let has = |at| at == At::Open(queue) || at == At::Owing(Some(queue));
            self.all.iter().any(|pair| has(pair.at))
        };
        (1..=self.usable).map(QueueId).find(|&queue| !taken(queue))
    }

    /// Makes `guest` use another's queue pair, the next one in turn. `false`: there is none.
    fn share(&mut self, guest: PairIndex, generation: super::Generation) -> bool {
        let is_guest = |pair: &&Pair<D>| matches!(pair.at, At::Guest(_));
        let guests = self.all.iter().filter(is_guest).count();
        let is_host = |pair: &&mut Pair<D>| matches!(pair.at, At::Open(_));
        let hosts = self.all.iter_mut().filter(is_host).count();
        let Some(nth) = guests.checked_rem(hosts) else {
            return false;
        };
        let find = |pair: &Pair<D>| pair.orders.index == guest;
        let Some(place) = self.all.iter().position(find) else {
            return true;
        };
        let to = Arc::clone(&self.all[place].orders);
        let Some(host) = self.all.iter_mut().filter(is_host).nth(nth) else {
            return false;
        };
        let lane = Lane::new(&host.orders, &to);
        let host_index = host.orders.index;
        host.order(Order::Host(Arc::clone(&lane)));
        let pair = &mut self.all[place];
        pair.at = At::Guest(host_index);
        pair.failed = false;
        pair.order(Order::Share(generation, lane));
        true
    }
}

impl<B: Bar, D: DmaSpace> Life<B, D> {
    pub(super) fn pair_joins(&mut self, orders: Arc<Orders<D>>, rings: Rings) {
        let mut pair = Pair {
            orders,
            rings,
            at: At::Waiting,
            outbox: VecDeque::new(),
            owes: false,
            halted: false,
            failed: false,
            left: None,
        };
        let hopeless = matches!(
            self.facts.state(),
            State::Failed | State::Gone | State::Closed
        );
        let full = self.pairs.all.len() >= PAIRS_MAX;
        if hopeless || full {
            pair.failed = true;
            pair.order(Order::Fail);
        }
        if full {
            let controller = &self.name;
            tracing::error!(controller, "more than {PAIRS_MAX} cores want a queue pair");
        } else {
            self.pairs.all.push(pair);
        }
    }

    /// Does one thing for one core.
    pub(super) async fn work_on_pairs(&mut self) -> Result<(), Trouble> {
        if let Some(index) = self.pairs.leaving() {
            return self.close_pair(index).await;
        }
        if let Some(index) = self.pairs.orphan() {
            return self.rehome(index).await;
        }
        let Some(index) = self.pairs.waiting() else {
            return Ok(());
        };
        let Some(queue) = self.pairs.free_queue() else {
            if self.pairs.share(index, self.generation) {
                return Ok(());
            }
            // Those that have queues are about to leave.
            return self.turn(REGISTER_LOOK).await;
        };
        match self.create(index, queue).await? {
            Ok(()) => {
                self.open(index, queue);
                Ok(())
            }
            Err(error) if queue.0 == 1 || !self.pairs.is_open() => Err(error.into()),
            Err(error) => {
                // It has promised more: the cores share what there is.
                self.pairs.usable = queue.0 - 1;
                let controller = &self.name;
                let queue = queue.0;
                tracing::warn!(controller, queue, "no more queue pairs: {error}");
                Ok(())
            }
        }
    }

    /// Creates both queues of a core, the completion queue first (§5.4, §5.5).
    async fn create(
        &mut self,
        index: PairIndex,
        queue: QueueId,
    ) -> Result<Result<(), ControllerError>, Trouble> {
        let Some(pair) = self.pairs.pair(index) else {
            return Ok(Ok(()));
        };
        let rings = pair.rings;
        let mut entry = command::create_completion_queue(queue, rings.entries.into());
        entry.set_prps(rings.completions.0, 0);
        let entry = self.command(entry).await?;
        if let Err(error) = good(&entry, "Create I/O Completion Queue") {
            return Ok(Err(error));
        }
        let mut entry = command::create_submission_queue(queue, rings.entries.into());
        entry.set_prps(rings.submissions.0, 0);
        let entry = self.command(entry).await?;
        if let Err(error) = good(&entry, "Create I/O Submission Queue") {
            let entry = self
                .command(command::delete_completion_queue(queue))
                .await?;
            good(&entry, "Delete I/O Completion Queue")?;
            return Ok(Err(error));
        }
        let quirk = quirks(self.bar.function()).after_queue;
        if !quirk.is_zero() {
            self.pause(self.now() + quirk).await?;
        }
        Ok(Ok(()))
    }

    fn open(&mut self, index: PairIndex, queue: QueueId) {
        let Some(caps) = self.identity.as_ref().map(|identity| identity.caps) else {
            return;
        };
        let submission_doorbell = caps.submission_doorbell(queue.0);
        let completion_doorbell = caps.completion_doorbell(queue.0);
        let covered = Shadow::<D>::covers(completion_doorbell - offset::DOORBELLS);
        let grant = Grant {
            generation: self.generation,
            queue,
            submission_doorbell,
            completion_doorbell,
            shadow: self.shadow.clone().filter(|_| covered),
        };
        if let Some(pair) = self.pairs.pair(index) {
            pair.at = At::Open(queue);
            pair.failed = false;
            pair.order(Order::Open(grant));
        }
    }

    /// Deletes the queues of a core that has left, and lets its rings go.
    async fn close_pair(&mut self, index: PairIndex) -> Result<(), Trouble> {
        if let Some(queue) = self.pairs.queue(index) {
            self.delete(queue).await?;
        }
        self.pairs.all.retain(|pair| pair.orders.index != index);
        Ok(())
    }

    /// Deletes the queues of one pair, the submission queue first (§5.6, §5.7).
    pub(super) async fn delete(&mut self, queue: QueueId) -> Result<(), Trouble> {
        let entry = self
            .command(command::delete_submission_queue(queue))
            .await?;
        good(&entry, "Delete I/O Submission Queue")?;
        let entry = self
            .command(command::delete_completion_queue(queue))
            .await?;
        good(&entry, "Delete I/O Completion Queue")?;
        Ok(())
    }

    /// Deletes all queues, whoever has them.
    pub(super) async fn delete_all(&mut self) -> Result<(), Trouble> {
        let indices: Vec<_> = self.pairs.all.iter().map(|it| it.orders.index).collect();
        for index in indices {
            if let Some(queue) = self.pairs.queue(index) {
                self.delete(queue).await?;
            }
        }
        Ok(())
    }

    /// Takes back the lane of a guest whose host has gone with its queue: what the guest had sent
    /// is not in the controller any more.
    async fn rehome(&mut self, index: PairIndex) -> Result<(), Trouble> {
        if let Some(pair) = self.pairs.pair(index) {
            pair.halt();
        }
        let until = self.now() + HALT_MAX;
        while self.pairs.pair(index).is_some_and(|pair| pair.owes) {
            if self.now() >= until {
                let what = "what a core was told";
                let after = HALT_MAX;
                return Err(ControllerError::Late { what, after }.into());
            }
            self.turn(REGISTER_LOOK).await?;
        }
        if let Some(pair) = self.pairs.pair(index).filter(|pair| pair.left.is_none()) {
            pair.quiet(Quiet::QueueDeleted);
        }
        Ok(())
    }
}
