//! Who asks a controller for a namespace or a report, and what is answered.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::super::bar::Bar;
use super::super::dma::DmaSpace;
use super::super::facts::{Namespace, Selector, State};
use super::super::link::Refusal;
use super::Life;

/// Questions that wait for the controller to be ready.
pub(super) const QUESTIONS_MAX: usize = 64;

/// Someone waits for a namespace.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) wanted: Selector,
    pub(super) answer: SyncSender<Result<Arc<Namespace>, Refusal>>,
}

impl<B: Bar, D: DmaSpace> Life<B, D> {
    pub(super) fn question(&mut self, question: Question) {
        let refused = match self.facts.state() {
            State::Failed => Some("the controller has failed; see this log for its error"),
            State::Gone => Some("the controller was taken away"),
            State::Closed => Some("the controller was closed"),
            _ if self.questions.len() >= QUESTIONS_MAX => Some("too many units are asked for"),
            State::Starting | State::Ready | State::Recovering => None,
        };
        match refused {
            // A receiver that has gone wants no answer, here and below.
            Some(why) => drop(question.answer.try_send(Err(Refusal(why.to_owned())))),
            None => self.questions.push_back(question),
        }
    }

    pub(super) fn refuse_questions(&mut self, why: &str) {
        for question in self.questions.drain(..) {
            let _ = question.answer.try_send(Err(Refusal(why.to_owned())));
        }
        self.health.forgo();
        self.answer_reports();
    }

    /// Answers who wants a report, once there was time to look at the health.
    pub(super) fn answer_reports(&mut self) {
        if self.reports.is_empty() || self.health.is_new() {
            return;
        }
        let report = self.report();
        for answer in self.reports.drain(..) {
            // Where there is nothing to tell the answer goes, which says so.
            if let Some(report) = &report {
                let _ = answer.try_send(report.clone());
            }
        }
    }

    pub(super) fn answer_questions(&mut self) {
        while let Some(question) = self.questions.pop_front() {
            let found = match &self.identity {
                Some(identity) => self.namespaces.serve(question.wanted, identity),
                None => Err(Refusal("the controller was never ready".to_owned())),
            };
            let _ = question.answer.try_send(found);
        }
    }
}
