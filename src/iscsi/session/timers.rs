//! What the clock does to a session: pings, peers that make no progress, aborted tasks whose data
//! never come (RFC 7143 §11.18, §11.19).
//!
//! Time is an argument. Each connection has its own pings and is judged by what it sends and takes.

use std::time::{Duration, Instant};

use super::connection::ConnectionIndex;
use super::{Env, Fault, Session};
use crate::pdu::Ttt;

/// How long a discovery session may ask for nothing.
const DISCOVERY_IDLE_MAX: Duration = Duration::from_secs(60);

impl Session {
    /// Looks at the clock: pings, no-progress, aborted tasks whose data never come. Call a few
    /// times a second.
    ///
    /// # Errors
    /// What ends a connection, and which.
    pub fn tick(&mut self, env: &mut Env<'_>) -> Result<(), (ConnectionIndex, Fault)> {
        self.expire_aborted(env);
        self.reopen(env);
        for on in self.connections.indices() {
            if self.connections[on].attached {
                self.tick_connection(env, on).map_err(|fault| (on, fault))?;
            }
        }
        Ok(())
    }

    fn tick_connection(&mut self, env: &Env<'_>, on: ConnectionIndex) -> Result<(), Fault> {
        let held_since = self.held_since(on);
        let connection = &mut self.connections[on];
        if connection.transmit.is_empty() {
            // The clock of what is to be sent begins with it.
            connection.last_sent = env.now;
        }
        let limit = self.timeouts.no_progress;
        let last_payload = connection.last_payload;
        let quiet = |since: Instant| env.now.saturating_duration_since(since) > limit;
        if !connection.transmit.is_empty() && quiet(connection.last_sent) {
            return Err(Fault::NoProgress(limit));
        }
        if self.tasks.iter().any(|task| {
            task.connection == on
                && task.waits_for_peer()
                && quiet(task.last_progress.max(last_payload))
        }) {
            return Err(Fault::NoProgress(limit));
        }
        // RFC 7143 §4.2.2.1 has the initiator close its gaps; what waits behind one takes memory.
        if held_since.is_some_and(quiet) {
            return Err(Fault::NoProgress(limit));
        }
        let idle = env.now.saturating_duration_since(connection.last_text);
        let is_deaf = connection.deaf;
        if self.is_discovery() && idle > DISCOVERY_IDLE_MAX {
            return Err(Fault::DiscoveryIdle(DISCOVERY_IDLE_MAX));
        }
        if is_deaf {
            // It would not hear the answer.
            return Ok(());
        }
        self.tick_ping(on, env.now)
    }

    /// Pings a peer that has been silent, and gives up on one that does not answer (RFC 7143
    /// §11.19).
    fn tick_ping(&mut self, on: ConnectionIndex, now: Instant) -> Result<(), Fault> {
        let connection = &mut self.connections[on];
        if let Some((_, since)) = connection.ping {
            // Anything that came since then shows that the peer lives.
            if connection.last_received > since {
                connection.ping = None;
            } else if now.saturating_duration_since(since) > self.timeouts.ping_timeout {
                return Err(Fault::PingTimeout(self.timeouts.ping_timeout));
            }
            return Ok(());
        }
        let silence = now.saturating_duration_since(connection.last_received);
        let silent = self
            .timeouts
            .ping_interval
            .is_some_and(|interval| silence > interval);
        if silent || self.awaits_acknowledgement(on) {
            self.ping(on, now);
        }
        Ok(())
    }

    /// Asks for an answer, if there is room and none is being waited for.
    pub(super) fn ping(&mut self, on: ConnectionIndex, now: Instant) {
        let connection = &mut self.connections[on];
        if connection.ping.is_some() || !connection.transmit.has_room() {
            return;
        }
        self.ttt = self.ttt.wrapping_add(1);
        // No task has this slot, so the tag cannot be taken for that of an R2T.
        let ttt = Ttt(0xfffe_0000 | u32::from(self.ttt));
        connection.ping = Some((ttt, now));
        self.send_nop_in(on, ttt);
    }
}
