//! [`Cores`]: the NVMe controllers of one core, as [`Set`](super::super::Set) uses them.
//!
//! A unit is a namespace of a controller; units of one controller share the core's queue pair. A
//! pair is joined with the first unit and left when the last one has gone, nothing is outstanding
//! and no other core uses it.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use super::super::request::{Completion, IoError, Manner, Operation, Token};
use super::super::wake::Wake;
use super::bar::Bar;
use super::dma::{DmaPages, DmaSpace};
use super::facts::{Namespace, NamespaceState};
use super::link::{Handle, Note, PairEnd, Unsent};
use super::pair::{Pair, PairError};
use super::translate::{self, Begun, Service};
use crate::mem::{Pages, Pool};

/// A namespace as a unit.
#[derive(Debug)]
pub(crate) struct Served<'a, B: Bar, D: DmaSpace> {
    pub(crate) handle: &'a Arc<Handle<B, D>>,
    pub(crate) namespace: &'a Arc<Namespace>,
    /// What completes is on the medium, although the controller has a write cache.
    pub(crate) write_through: bool,
}

#[derive(Debug)]
struct Attached {
    /// The place of the controller's pair.
    pair: usize,
    namespace: Arc<Namespace>,
    write_through: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Cores<B: Bar, D: DmaSpace> {
    units: Vec<Option<Attached>>,
    pairs: Vec<Option<Pair<B, D>>>,
    /// Pairs that have ended and whose keepers do not know it yet.
    leaving: Vec<(PairEnd<D>, Option<DmaPages<D>>)>,
    pool: Pool,
    pages: Pages,
    wake: Arc<Wake>,
}

/// A pair stays while a unit names it.
const STAYS: &str = "a pair stays until its last unit has gone";

impl<B: Bar, D: DmaSpace> Cores<B, D> {
    /// For units below `units`, with buffers of `pool` alone.
    pub(crate) fn new(units: usize, (pool, pages): (&Pool, Pages), wake: &Arc<Wake>) -> Self {
        Self {
            units: (0..units).map(|_| None).collect(),
            pairs: Vec::new(),
            leaving: Vec::new(),
            pool: pool.clone(),
            pages,
            wake: Arc::clone(wake),
        }
    }

    /// Takes a unit in, at a place that is free. May wait for the controller's keeper.
    ///
    /// # Panics
    /// The place is taken, or there is none.
    pub(crate) fn attach(
        &mut self,
        index: u16,
        served: &Served<'_, B, D>,
    ) -> Result<&'static str, PairError> {
        let place = &mut self.units[usize::from(index)];
        assert!(place.is_none(), "a place has one unit");
        let same = |pair: &Option<Pair<B, D>>| {
            let pair = pair.as_ref();
            pair.is_some_and(|pair| Arc::ptr_eq(pair.handle(), served.handle))
        };
        let found = self.pairs.iter().position(same);
        let pair = match found {
            Some(at) => at,
            None => {
                let pair = Pair::new(served.handle, (&self.pool, self.pages), &self.wake)?;
                let free = self.pairs.iter().position(Option::is_none);
                let at = free.unwrap_or_else(|| {
                    self.pairs.push(None);
                    self.pairs.len() - 1
                });
                self.pairs[at] = Some(pair);
                at
            }
        };
        let served_by = self.pairs[pair].as_mut().expect(STAYS);
        served_by.units += 1;
        served_by.serve(served.namespace);
        *place = Some(Attached {
            pair,
            namespace: Arc::clone(served.namespace),
            write_through: served.write_through,
        });
        Ok("nvme")
    }

    /// Forgets a unit. Its requests under way complete all the same.
    pub(crate) fn detach(&mut self, index: u16) {
        let place = self.units.get_mut(usize::from(index));
        let Some(attached) = place.and_then(Option::take) else {
            return;
        };
        self.pairs[attached.pair].as_mut().expect(STAYS).units -= 1;
        self.leave();
    }

    /// Starts an operation that has blocks, or is a flush, with a buffer of its length.
    pub(crate) fn submit(
        &mut self,
        index: u16,
        mut operation: Operation,
        (token, manner): (Token, Manner),
        ready: &mut VecDeque<Completion>,
    ) {
        let attached = self.units.get(usize::from(index)).and_then(Option::as_ref);
        let Some(attached) = attached else {
            return answer(operation, token, Err(IoError::NotReady), ready);
        };
        let namespace = &attached.namespace;
        let refused = match namespace.state() {
            NamespaceState::Active => None,
            NamespaceState::ReadOnly if operation.changes_blocks() => Some(IoError::WriteProtected),
            NamespaceState::ReadOnly => None,
            NamespaceState::Missing => Some(IoError::Absent),
            NamespaceState::Changed => Some(IoError::NotReady),
        };
        if let Some(error) = refused {
            return answer(operation, token, Err(error), ready);
        }
        let pair = self.pairs[attached.pair].as_mut().expect(STAYS);
        let begun = {
            let service = Service {
                geometry: &namespace.geometry,
                limits: &pair.handle().limits,
                blocks: namespace.blocks(),
                write_through: attached.write_through,
            };
            translate::begin(&mut operation, &service, manner)
        };
        match begun {
            Ok(Begun::Job(job)) => pair.submit(job, (token, operation.into_buf()), ready),
            Ok(Begun::Done) => answer(operation, token, Ok(()), ready),
            Err(error) => answer(operation, token, Err(error), ready),
        }
    }

    /// Sends what was submitted, with a doorbell for each controller at most. `now` is the time of
    /// the turn, which bounds how long commands may take.
    pub(crate) fn kick(&mut self, now: Instant, ready: &mut VecDeque<Completion>) {
        for pair in self.pairs.iter_mut().flatten() {
            pair.kick(now, ready);
        }
        self.say_goodbye();
    }

    /// Obeys keepers and moves what is done into `ready`.
    pub(crate) fn poll(&mut self, ready: &mut VecDeque<Completion>) {
        let mut leaves = false;
        for pair in self.pairs.iter_mut().flatten() {
            pair.poll(ready);
            leaves |= pair.units == 0;
        }
        if leaves {
            self.leave();
        }
    }

    /// Ends the pairs that nobody needs.
    fn leave(&mut self) {
        for place in &mut self.pairs {
            if place.as_ref().is_some_and(Pair::may_leave) {
                let ended = place.take().map(Pair::end);
                self.leaving.extend(ended);
            }
        }
        self.say_goodbye();
    }

    fn say_goodbye(&mut self) {
        while let Some((end, pages)) = self.leaving.pop() {
            if let Err(Unsent::Full(Note::Leave(pages))) = end.send(Note::Leave(pages)) {
                self.leaving.push((end, pages));
                return;
            }
        }
    }

    /// Operations that were submitted and are not in `ready` yet, and commands of other cores that
    /// send through this one.
    pub(crate) fn in_flight(&self) -> usize {
        self.pairs.iter().flatten().map(Pair::in_flight).sum()
    }

    /// Whether there is something to kick or to poll that wakes nobody.
    pub(crate) fn needs_poll(&self) -> bool {
        !self.leaving.is_empty() || self.pairs.iter().flatten().any(Pair::needs_poll)
    }

    /// Whether the core may sleep, once signals are on.
    pub(crate) fn is_quiet(&self) -> bool {
        self.pairs.iter().flatten().all(Pair::is_quiet)
    }
}

fn answer(
    operation: Operation,
    token: Token,
    result: Result<(), IoError>,
    ready: &mut VecDeque<Completion>,
) {
    ready.push_back(Completion {
        token,
        result,
        buf: operation.into_buf(),
    });
}

impl<B: Bar, D: DmaSpace> Drop for Cores<B, D> {
    fn drop(&mut self) {
        let ended = self.pairs.drain(..).flatten().map(Pair::end);
        self.leaving.extend(ended);
        self.say_goodbye();
        if !self.leaving.is_empty() {
            // The keeper does not read its notes: its controller may still use the rings.
            tracing::error!(
                rings = self.leaving.len(),
                "rings are left to NVMe controllers"
            );
            mem::forget(mem::take(&mut self.leaving));
        }
    }
}

#[cfg(test)]
mod tests;
