//! Asynchronous events (Base Specification 2.0 §5.2): a few requests are always outstanding, and an
//! event is asked for again only when the log page that it names was read, which is what lets the
//! next one of its kind come.
//!
//! A controller that has more to tell than is good is listened to a few times a second, and what it
//! names is looked at, and logged, once a second.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::admin::{PAGE_READ, Purpose};
use super::{ControllerError, Life, Trouble};
use crate::backend::nvme::bar::Bar;
use crate::backend::nvme::dma::DmaSpace;
use crate::backend::nvme::spec::command::{self, log};
use crate::backend::nvme::spec::entry::{CompletionEntry, NamespaceId};
use crate::backend::nvme::spec::identify::ControllerData;
use crate::backend::nvme::spec::log::{Event, EventKind};
use crate::backend::nvme::spec::status::Status;

/// Requests outstanding, whatever the controller could take.
const EVENTS_MAX: u16 = 4;
/// Requests that are sent in a second.
const EVENTS_PER_SECOND: u16 = 16;
/// How often what events name is looked at: each look is lines of the log, and reading a page may
/// itself say that there is more in it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes that are read of a page that is read only to have been read.
const PAGE_BYTES: u32 = 512;
/// How often in a row a log page may be late before it is read no more: nothing depends on it.
const PAGE_LATE_MAX: u8 = 2;

#[derive(Debug, Default)]
pub(super) struct Events {
    most: u16,
    outstanding: u16,
    /// Nothing of the following is looked at before this.
    not_before: Option<Instant>,
    /// Pages to be read.
    errors: bool,
    health: bool,
    namespaces: bool,
    /// When namespaces are looked at though nothing was said of them.
    look_at: Option<Instant>,
    /// 0 stands for none.
    other: BTreeSet<u8>,
    /// The second under way, and what was sent in it.
    second: Option<Instant>,
    sent: u16,
}

impl Events {
    /// For a controller that has just been initialised: nothing is outstanding.
    pub(super) fn begin(&mut self, data: &ControllerData) {
        *self = Self {
            most: data.events_max.min(EVENTS_MAX),
            health: true,
            not_before: self.not_before,
            second: self.second,
            sent: self.sent,
            ..Self::default()
        };
    }

    pub(super) fn want_error_log(&mut self) {
        self.errors = true;
    }

    pub(super) fn has_work(&self, now: Instant) -> bool {
        let wants = self.errors || self.health || self.looks(now) || !self.other.is_empty();
        wants && self.not_before.is_none_or(|at| now >= at)
    }

    fn looks(&self, now: Instant) -> bool {
        self.namespaces || self.look_at.is_some_and(|at| now >= at)
    }

    /// A namespace could not be looked at: all are, so much later.
    pub(super) fn look_again(&mut self, now: Instant, after: Duration) {
        self.look_at = self.look_at.or_else(|| now.checked_add(after));
    }

    /// A request has completed.
    pub(super) fn came(&mut self, entry: &CompletionEntry, controller: &str) {
        self.outstanding = self.outstanding.saturating_sub(1);
        let status = entry.status();
        if !status.is_success() {
            // One fewer, or none where it wants none.
            let limit = status.is(Status::EVENT_LIMIT);
            self.most = if limit { self.outstanding } else { 0 };
            tracing::debug!(controller, "an event request ended: {status}");
            return;
        }
        let event = Event::parse(entry.result());
        tracing::debug!(controller, ?event, "an event");
        match event.kind {
            EventKind::Error(code) => {
                if !std::mem::replace(&mut self.errors, true) {
                    tracing::warn!(controller, code, "the controller reports an error");
                }
            }
            EventKind::Health(_) => self.health = true,
            EventKind::NamespaceChanged => self.namespaces = true,
            EventKind::FirmwareActivation => {
                if self.other.is_empty() {
                    tracing::info!(controller, "the controller activates firmware");
                }
                self.other.insert(log::FIRMWARE_SLOTS);
            }
            EventKind::Other(kind, code) => {
                if self.other.is_empty() {
                    tracing::info!(controller, kind, code, "the controller reports an event");
                }
                self.other.insert(event.log_page);
            }
        }
    }

    /// Whether one more request may be sent now.
    fn may_send(&mut self, now: Instant) -> bool {
        let second = Duration::from_secs(1);
        let over = |since: Instant| now.saturating_duration_since(since) >= second;
        if self.second.is_none_or(over) {
            (self.second, self.sent) = (Some(now), 0);
        }
        let may = self.outstanding < self.most && self.sent < EVENTS_PER_SECOND;
        if may {
            self.outstanding += 1;
            self.sent += 1;
        }
        may
    }
}

impl<B: Bar, D: DmaSpace> Life<B, D> {
    /// Asks for events, where all pages are read.
    pub(super) fn arm_events(&mut self) {
        let now = self.now();
        while self.events.may_send(now) {
            let entry = command::asynchronous_event();
            self.admin.submit(&*self.bar, entry, (Purpose::Event, None));
        }
    }

    /// Reads what events have named.
    pub(super) async fn read_event_logs(&mut self) -> Result<(), Trouble> {
        let now = self.now();
        self.events.not_before = now.checked_add(LOOK_EVERY);
        if std::mem::take(&mut self.events.health) {
            self.read_health().await?;
        }
        if std::mem::take(&mut self.events.errors) {
            self.read_error_log().await?;
        }
        if self.events.looks(now) {
            (self.events.namespaces, self.events.look_at) = (false, None);
            let bytes = 4096;
            self.read_page(log::CHANGED_NAMESPACES, bytes).await?;
            // All of them, whichever are listed: the list may be too short.
            self.scan().await?;
        }
        while let Some(page) = self.events.other.pop_first() {
            if page != 0 {
                self.read_page(page, PAGE_BYTES).await?;
            }
        }
        Ok(())
    }

    /// Reads a page of the whole controller. `false`: it has none, and the data page means nothing.
    pub(super) async fn read_page(&mut self, page: u8, bytes: u32) -> Result<bool, Trouble> {
        let nth = usize::from(page);
        if self.pages_late[nth] >= PAGE_LATE_MAX {
            return Ok(false);
        }
        let entry = command::log_page(page, NamespaceId::ALL, bytes);
        let answer = self.command_with_data(entry).await;
        let late = &mut self.pages_late[nth];
        match &answer {
            Ok(_) => *late = 0,
            Err(Trouble::Fault(ControllerError::Late { what, .. })) if *what == PAGE_READ => {
                *late += 1;
                if *late == PAGE_LATE_MAX {
                    let controller = &self.name;
                    tracing::error!(controller, page, "the log page is not read any more");
                }
            }
            Err(_) => {}
        }
        let status = answer?.status();
        if !status.is_success() {
            let controller = &self.name;
            tracing::debug!(controller, page, "the log page cannot be read: {status}");
        }
        Ok(status.is_success())
    }
}
