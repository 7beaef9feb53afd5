//! [`Requests`]: what one core wants of one controller, from submission to completion.
//!
//! A request is given out part by part, each part a command. Its first error wins and ends the
//! giving out; it completes when no part is outstanding. One with many parts has only some of them
//! outstanding and then goes behind the others, so that erasing a disk does not stop it.
//!
//! Invariants: a request in the table has a token that is answered once; `open` parts of it are
//! outstanding or wait to be sent again; it stands in `waiting` at most once.

use std::collections::VecDeque;
use std::time::Instant;

use super::super::request::{Completion, IoError, Token};
use super::facts::WAITING_MAX;
use super::slots::Part;
use super::translate::Job;
use crate::mem::DmaBuf;

/// Parts of one request that are outstanding at once.
const PARTS_MAX: u32 = 32;

/// One request.
#[derive(Debug)]
pub(crate) struct Request {
    token: Token,
    /// Gone when the device may still write to it.
    pub(crate) buf: Option<DmaBuf>,
    pub(crate) job: Job,
    open: u32,
    waits: bool,
    error: Option<IoError>,
}

/// A part to be sent again, not before the time.
#[derive(Clone, Copy, Debug)]
struct Later {
    part: Part,
    not_before: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    table: Vec<Option<Request>>,
    free: Vec<u32>,
    waiting: VecDeque<u32>,
    again: VecDeque<Part>,
    later: Vec<Later>,
    /// When the first of those is due.
    due: Option<Instant>,
}

/// The table keeps a request while a part of it is named anywhere.
const STAYS: &str = "a request stays until its parts have ended";

impl Requests {
    /// Requests that were not answered.
    pub(crate) fn count(&self) -> usize {
        self.table.len() - self.free.len()
    }

    /// Whether another one may wait.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    /// Whether a part could be given out now, time apart.
    pub(crate) fn has_parts(&self) -> bool {
        !self.waiting.is_empty() || !self.again.is_empty()
    }

    /// Takes a request in.
    pub(crate) fn add(&mut self, token: Token, buf: Option<DmaBuf>, job: Job) {
        let request = Request {
            token,
            buf,
            job,
            open: 0,
            waits: true,
            error: None,
        };
        let at = self.free.pop().unwrap_or_else(|| {
            self.table.push(None);
            u32::try_from(self.table.len() - 1).expect("bounded by what may wait")
        });
        self.table[at as usize] = Some(request);
        self.waiting.push_back(at);
    }

    fn at(&mut self, at: u32) -> &mut Request {
        self.table[at as usize].as_mut().expect(STAYS)
    }

    /// The request of a part.
    pub(crate) fn of(&mut self, part: &Part) -> &mut Request {
        self.at(part.request)
    }

    /// The next part to send: of what is sent again first.
    pub(crate) fn next(&mut self, now: Instant, ready: &mut VecDeque<Completion>) -> Option<Part> {
        if let Some(part) = self.next_again(now, ready) {
            return Some(part);
        }
        while let Some(&at) = self.waiting.front() {
            let request = self.at(at);
            let cut = if request.open < PARTS_MAX {
                request.job.next()
            } else {
                None
            };
            if cut.is_none() || request.job.is_given_out() {
                request.waits = false;
                self.waiting.pop_front();
            }
            let Some(cut) = cut else {
                // It was given up meanwhile, or goes on when some part of it ends.
                self.finish(at, ready);
                continue;
            };
            self.at(at).open += 1;
            return Some(Part {
                request: at,
                cut,
                retries: 0,
                replays: 0,
                flush: 0,
            });
        }
        None
    }

    fn next_again(&mut self, now: Instant, ready: &mut VecDeque<Completion>) -> Option<Part> {
        if self.due.is_some_and(|due| due <= now) {
            self.take_from_later(|later| later.not_before <= now);
        }
        while let Some(part) = self.again.pop_front() {
            if self.at(part.request).error.is_none() {
                return Some(part);
            }
            self.end_part(part.request, Ok(()), ready);
        }
        None
    }

    /// Has some parts sent again at once, in the order in which they were put back.
    fn take_from_later(&mut self, wanted: impl Fn(&Later) -> bool) {
        let again = &mut self.again;
        self.later.retain(|later| {
            let wanted = wanted(later);
            if wanted {
                again.push_back(later.part);
            }
            !wanted
        });
        self.due = self.later.iter().map(|later| later.not_before).min();
    }

    /// A part that is no longer outstanding is to be sent again, at `not_before` or at once.
    pub(crate) fn put_back(&mut self, part: Part, not_before: Option<Instant>) {
        let Some(not_before) = not_before else {
            return self.again.push_front(part);
        };
        self.later.push(Later { part, not_before });
        self.due = Some(self.due.map_or(not_before, |due| due.min(not_before)));
    }

    /// A part of the request `at` has ended.
    pub(crate) fn end_part(
        &mut self,
        at: u32,
        result: Result<(), IoError>,
        ready: &mut VecDeque<Completion>,
    ) {
        let request = self.at(at);
        request.open -= 1;
        if let Err(error) = result {
            request.error.get_or_insert(error);
            request.job.give_up();
            // It is not answered before they have ended.
            if request.open > 0 && !self.later.is_empty() {
                self.take_from_later(|later| later.part.request == at);
            }
        }
        self.finish(at, ready);
    }

    /// Answers the request if nothing is left to do for it, or has it wait again.
    fn finish(&mut self, at: u32, ready: &mut VecDeque<Completion>) {
        let request = self.at(at);
        if request.waits {
            return;
        }
        let goes_on = if request.job.is_given_out() {
            request.open == 0 && request.error.is_none() && request.job.go_on()
        } else {
            request.open < PARTS_MAX
        };
        if goes_on {
            request.waits = true;
            self.waiting.push_back(at);
        } else if request.open == 0 {
            let request = self.table[at as usize].take().expect(STAYS);
            self.free.push(at);
            ready.push_back(Completion {
                token: request.token,
                result: request.error.map_or(Ok(()), Err),
                buf: request.buf,
            });
        }
    }

    /// Answers every request with `error`, or its own. No part is outstanding.
    pub(crate) fn fail(&mut self, error: IoError, ready: &mut VecDeque<Completion>) {
        self.waiting.clear();
        self.again.clear();
        self.later.clear();
        self.due = None;
        for at in 0..self.table.len() {
            let Some(request) = self.table[at].take() else {
                continue;
            };
            self.free.push(u32::try_from(at).expect("numbered by u32"));
            ready.push_back(Completion {
                token: request.token,
                result: Err(request.error.unwrap_or(error)),
                buf: request.buf,
            });
        }
    }

    /// Answers those that have failed and of which nothing is outstanding, wherever they wait.
    pub(crate) fn sweep(&mut self, ready: &mut VecDeque<Completion>) {
        for _ in 0..self.again.len() {
            let part = self.again.pop_front().expect("counted");
            if self.at(part.request).error.is_some() {
                self.end_part(part.request, Ok(()), ready);
            } else {
                self.again.push_back(part);
            }
        }
        for _ in 0..self.waiting.len() {
            let at = self.waiting.pop_front().expect("counted");
            let request = self.at(at);
            request.waits = request.error.is_none();
            if request.waits {
                self.waiting.push_back(at);
            } else {
                self.finish(at, ready);
            }
        }
    }

    /// Nobody is left to be answered.
    pub(crate) fn abandon(&mut self) {
        for request in self.table.drain(..).flatten() {
            request.token.finish();
        }
        self.free.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::request::{Manner, Operation};
    use super::super::super::suite;
    use super::super::facts::{Geometry, Limits};
    use super::super::spec::entry::NamespaceId;
    use super::super::spec::identify::Identifiers;
    use super::super::translate::{self, Begun, Service};
    use super::*;

    const PAUSE: Duration = Duration::from_secs(1);

    /// Zeroes, of which each command writes a block.
    fn zeroes(blocks: u64) -> Job {
        let geometry = Geometry {
            namespace: NamespaceId(1),
            block_shift: 9,
            boundary_blocks: 0,
            atomic_blocks: 1,
            atomic_boundary: None,
            unmapped_reads_zeroes: false,
            write_zeroes_deallocates: false,
            deallocate_granularity: 1,
            thin: false,
            identifiers: Identifiers::default(),
        };
        let limits = Limits {
            queue_entries: 2,
            queue_pairs: 1,
            transfer_bytes: 4096,
            write_zeroes_bytes: Some(512),
            deallocate: None,
            write_cache: false,
        };
        let service = Service {
            geometry: &geometry,
            limits: &limits,
            blocks,
            write_through: false,
        };
        let mut operation = Operation::WriteZeroes {
            lba: 0,
            blocks,
            fua: false,
            may_unmap: false,
        };
        let manner = Manner::new(true, false);
        match translate::begin(&mut operation, &service, manner) {
            Ok(Begun::Job(job)) => job,
            other => panic!("zeroing begins as {other:?}"),
        }
    }

    /// A request for each of `blocks`, and all their parts.
    fn given_out(blocks: &[u64], now: Instant) -> (Requests, Vec<Part>) {
        let (mut requests, mut ready) = (Requests::default(), VecDeque::new());
        for (tag, &blocks) in (0..).zip(blocks) {
            requests.add(Token::new(tag), None, zeroes(blocks));
        }
        let parts = std::iter::from_fn(|| requests.next(now, &mut ready)).collect();
        assert!(ready.is_empty() && !requests.has_parts());
        (requests, parts)
    }

    #[test]
    fn what_is_put_back_comes_when_it_is_due_and_what_may_go_at_once_before() {
        let now = suite::now();
        let (mut requests, parts) = given_out(&[1, 1, 1, 1], now);
        let mut ready = VecDeque::new();
        requests.put_back(parts[0], Some(now + 2 * PAUSE));
        requests.put_back(parts[1], Some(now + PAUSE));
        requests.put_back(parts[2], Some(now + PAUSE));
        assert!(!requests.has_parts());
        assert_eq!(requests.next(now, &mut ready), None);
        requests.put_back(parts[3], None);
        assert!(requests.has_parts());
        let mut all =
            |now| -> Vec<Part> { std::iter::from_fn(|| requests.next(now, &mut ready)).collect() };
        assert_eq!(all(now), parts[3..]);
        assert_eq!(all(now + PAUSE), parts[1..3]);
        assert_eq!(all(now + PAUSE), []);
        assert_eq!(all(now + 3 * PAUSE), parts[..1]);
        for part in parts {
            requests.end_part(part.request, Ok(()), &mut ready);
        }
        assert_eq!((ready.len(), requests.count()), (4, 0));
        let answered: u64 = ready.into_iter().map(|it| it.token.finish()).sum();
        assert_eq!(answered, 1 + 2 + 3);
    }

    #[test]
    fn a_request_that_has_failed_waits_for_no_time() {
        let now = suite::now();
        let (mut requests, parts) = given_out(&[3, 1], now);
        let mut ready = VecDeque::new();
        requests.put_back(parts[0], Some(now + PAUSE));
        requests.put_back(parts[3], Some(now + PAUSE));
        requests.put_back(parts[1], Some(now + PAUSE));
        requests.end_part(parts[2].request, Err(IoError::Medium), &mut ready);
        assert!(ready.is_empty() && requests.has_parts());
        assert_eq!(requests.next(now, &mut ready), None);
        let answered = ready.pop_front().unwrap();
        assert_eq!(answered.result, Err(IoError::Medium));
        assert_eq!(answered.token.finish(), 0);
        let due = requests.next(now + PAUSE, &mut ready);
        assert_eq!(due, Some(parts[3]), "the other one still waited");
        requests.fail(IoError::Recovering, &mut ready);
        let answered = ready.pop_front().unwrap();
        assert_eq!(answered.token.finish(), 1);
        assert_eq!(requests.count(), 0);
    }
}
