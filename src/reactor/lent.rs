//! What a core lends to its sessions for the length of a call.

use std::sync::Arc;
use std::time::Instant;

use super::clock::Calendar;
use crate::backend::Request;
use crate::iscsi::node::Nodes;
use crate::iscsi::session::{Effect, Env, Guards};
use crate::mem::Pool;
use crate::scsi::{LogicalUnit, ParameterData};

#[derive(Debug)]
pub(super) struct Lent {
    pub(super) now: Instant,
    /// See [`Env::unix_ms`].
    pub(super) unix_ms: u64,
    pub(super) pool: Pool,
    /// See [`Env::floor`]; kept by whoever adds and removes sessions.
    pub(super) floor: usize,
    pub(super) units: Vec<LogicalUnit>,
    pub(super) nodes: Arc<Nodes>,
    pub(super) guards: Arc<Guards>,
    pub(super) requests: Vec<Request>,
    pub(super) effects: Vec<Effect>,
    pub(super) data_in: ParameterData,
}

impl Lent {
    pub(super) fn new(
        (now, calendar): (Instant, &Calendar),
        pool: Pool,
        units: Vec<LogicalUnit>,
        nodes: Arc<Nodes>,
        guards: Arc<Guards>,
    ) -> Self {
        Self {
            now,
            unix_ms: calendar.unix_ms(now),
            pool,
            floor: 0,
            units,
            nodes,
            guards,
            requests: Vec::with_capacity(256),
            effects: Vec::new(),
            data_in: ParameterData::new(),
        }
    }

    pub(super) fn env(&mut self) -> Env<'_> {
        Env {
            now: self.now,
            unix_ms: self.unix_ms,
            pool: &self.pool,
            floor: self.floor,
            units: &mut self.units,
            nodes: &self.nodes,
            guards: &self.guards,
            requests: &mut self.requests,
            effects: &mut self.effects,
            data_in: &mut self.data_in,
        }
    }
}
