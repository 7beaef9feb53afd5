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

/// A part to be sent again, not before the time if there is one.
#[derive(Clone, Copy, Debug)]
struct Again {
    part: Part,
    not_before: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    table: Vec<Option<Request>>,
    free: Vec<u32>,
    waiting: VecDeque<u32>,
    again: VecDeque<Again>,
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
        !self.waiting.is_empty() || self.again.iter().any(|again| again.not_before.is_none())
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
            });
        }
        None
    }

    fn next_again(&mut self, now: Instant, ready: &mut VecDeque<Completion>) -> Option<Part> {
        for _ in 0..self.again.len() {
            let again = self.again.pop_front()?;
            let at = again.part.request;
            if self.at(at).error.is_some() {
                self.end_part(at, Ok(()), ready);
            } else if again.not_before.is_some_and(|time| time > now) {
                self.again.push_back(again);
            } else {
                return Some(again.part);
            }
        }
        None
    }

    /// A part that is no longer outstanding is to be sent again, at `not_before` or at once.
    pub(crate) fn put_back(&mut self, part: Part, not_before: Option<Instant>) {
        let again = Again { part, not_before };
        match not_before {
            None => self.again.push_front(again),
            Some(_) => self.again.push_back(again),
        }
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
            let again = self.again.pop_front().expect("counted");
            let at = again.part.request;
            if self.at(at).error.is_some() {
                self.end_part(at, Ok(()), ready);
            } else {
                self.again.push_back(again);
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
