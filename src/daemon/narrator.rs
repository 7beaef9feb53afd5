//! Puts what cores tell into words, and keeps a flood of it from filling the log: of each kind so
//! many lines a second are written in full, the rest is counted and the count is written.

use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::control::event::{Event, Login, Obituary};
use crate::iscsi::session::Scope;

/// Lines of one kind in one second that are written in full.
const LINES_PER_SECOND: u32 = 10;

/// A budget of lines.
#[derive(Debug, Default)]
struct Budget {
    written: u32,
    suppressed: u64,
}

impl Budget {
    fn take(&mut self) -> bool {
        if self.written < LINES_PER_SECOND {
            self.written += 1;
            return true;
        }
        self.suppressed += 1;
        false
    }

    /// A second is over: how many lines it has cost.
    fn renew(&mut self) -> u64 {
        self.written = 0;
        std::mem::take(&mut self.suppressed)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Narrator {
    units: Vec<String>,
    devices: Budget,
    refusals: Budget,
    broken: Budget,
    logins: Budget,
    ends: Budget,
    troubles: Budget,
    since: Instant,
}

impl Narrator {
    /// `units` are the names of the logical units, by index.
    pub(super) fn new(units: Vec<String>, now: Instant) -> Self {
        Self {
            units,
            devices: Budget::default(),
            refusals: Budget::default(),
            broken: Budget::default(),
            logins: Budget::default(),
            ends: Budget::default(),
            troubles: Budget::default(),
            since: now,
        }
    }

    /// Call it every turn.
    pub(super) fn turn(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.finish();
        }
    }

    /// Writes the counts of what was left out.
    pub(super) fn finish(&mut self) {
        let count = |budget: &mut Budget, what: &str| match budget.renew() {
            0 => {}
            suppressed => warn!(suppressed, "further {what} in the same second"),
        };
        count(&mut self.devices, "errors of devices");
        count(&mut self.refusals, "refused logins");
        count(
            &mut self.broken,
            "connections that ended before their login",
        );
        count(&mut self.logins, "logins");
        count(&mut self.ends, "ended connections");
        count(&mut self.troubles, "troubles");
    }

    pub(super) fn trouble(&mut self, text: &str) {
        if self.troubles.take() {
            error!("{text}");
        }
    }

    pub(super) fn tell(&mut self, event: Event, now: Instant) {
        self.turn(now);
        match event {
            Event::LoginRefused(refusal) if self.refusals.take() => warn!("{refusal}"),
            Event::LoginBroken { peer, local, why } if self.broken.take() => {
                warn!("connection from {peer} to {local} ended before its login did: {why}");
            }
            Event::LoggedIn(login) if self.logins.take() => logged_in(&login),
            Event::Ended(obituary) if self.ends.take() => ended(&obituary),
            Event::DeviceError { unit, error } if self.devices.take() => {
                let name = self
                    .units
                    .get(usize::from(unit.0))
                    .map_or("?", String::as_str);
                error!(unit = name, "a request failed: {error}");
            }
            Event::Trouble(text) => self.trouble(&text),
            Event::Account(text) => info!("{text}"),
            Event::DeviceError { .. }
            | Event::LoginRefused(_)
            | Event::LoginBroken { .. }
            | Event::LoggedIn(_)
            | Event::Ended(_) => {}
        }
    }
}

fn logged_in(login: &Login) {
    let target = login.target.as_deref().unwrap_or("discovery");
    let auth = match (login.authenticated, login.mutual) {
        (_, true) => "mutual CHAP",
        (true, false) => "CHAP",
        (false, false) => "none",
    };
    let digest = |on| if on { "CRC32C" } else { "None" };
    info!(
        tsih = login.tsih,
        cid = login.cid,
        core = login.core,
        luns = login.luns,
        header_digest = digest(login.header_digest),
        data_digest = digest(login.data_digest),
        auth,
        node_architecture = login.node_architecture,
        "login accepted: {} from {} to {target} on {}: {}",
        login.initiator,
        login.peer,
        login.local,
        login.how
    );
}

fn ended(obituary: &Obituary) {
    let target = obituary.target.as_deref().unwrap_or("discovery");
    let counters = obituary.counters;
    let others = match (obituary.others, obituary.scope) {
        (0, _) => String::new(),
        (others, Scope::Session) => {
            format!("; the session ended, with {others} more connections")
        }
        (others, Scope::Connection) => {
            format!("; the session goes on, with {others} connections")
        }
    };
    if obituary.in_order {
        info!(
            tsih = obituary.tsih,
            cid = obituary.cid,
            commands = counters.commands,
            "connection ended: {} from {} to {target}: {}{others}",
            obituary.initiator,
            obituary.peer,
            obituary.why
        );
    } else {
        warn!(
            tsih = obituary.tsih,
            cid = obituary.cid,
            commands = counters.commands,
            tasks_in_flight = obituary.tasks_in_flight,
            unsent_bytes = obituary.unsent_bytes,
            rejects = counters.rejects,
            data_digest_errors = counters.data_digest_errors,
            last_opcodes = ?obituary.last_opcodes,
            "connection lost: {} from {} to {target}: {}{others}",
            obituary.initiator,
            obituary.peer,
            obituary.why
        );
    }
}
