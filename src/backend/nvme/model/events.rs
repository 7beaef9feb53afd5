//! Asynchronous events, logs and features of the model: what a reset forgets of them, and what it
//! does not.

use std::collections::{BTreeSet, VecDeque};

use super::command::{Code, Command};
use super::machine::Machine;

/// Events that wait to be told; more are lost.
const PENDING_MAX: usize = 10_000;

/// An asynchronous event (NVM Express Base Specification 2.0 §5.2.1): what dword 0 says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Happening {
    /// 0 error, 1 health, 2 notice.
    pub(crate) kind: u8,
    pub(crate) information: u8,
    pub(crate) log_page: u8,
}

/// Temperature in kelvin, spare and its threshold in percent: a healthy log.
const HEALTH: [u8; 5] = [0, 0x2c, 0x01, 100, 10];

/// See the module.
#[derive(Debug)]
pub(super) struct Events {
    pending: VecDeque<Happening>,
    /// CIDs of Asynchronous Event Requests.
    pub(super) parked: VecDeque<u16>,
    /// Log pages that were told and not read: no more of their kind.
    masked: BTreeSet<(u8, u8)>,
    /// Feature 0Bh.
    pub(super) configuration: u32,
    /// Feature 06h.
    pub(super) caches: bool,
    /// Feature 07h: the highest queue identifier, when it was set.
    pub(super) granted: Option<u32>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            pending: VecDeque::new(),
            parked: VecDeque::new(),
            masked: BTreeSet::new(),
            configuration: 0,
            caches: true,
            granted: None,
        }
    }
}

impl Events {
    /// As behind a reset.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    fn is_masked(&self, event: &Happening) -> bool {
        self.masked.iter().any(|(kind, _)| *kind == event.kind)
    }

    /// Whether one can be told.
    pub(super) fn is_ready(&self) -> bool {
        !self.parked.is_empty() && self.pending.iter().any(|event| !self.is_masked(event))
    }

    fn add(&mut self, event: Happening) {
        if self.pending.len() < PENDING_MAX {
            self.pending.push_back(event);
        }
    }

    fn take(&mut self) -> Option<(Happening, u16)> {
        let at = self.pending.iter().position(|event| !self.is_masked(event));
        let event = self.pending.remove(at?)?;
        let cid = self.parked.pop_front()?;
        self.masked.insert((event.kind, event.log_page));
        Some((event, cid))
    }

    /// The page was read, without RAE.
    pub(super) fn unmask(&mut self, log_page: u8) {
        self.masked.retain(|(_, page)| *page != log_page);
    }
}

/// Logs: what outlives resets.
#[derive(Debug)]
pub(super) struct Logs {
    /// SMART / Health, 02h.
    pub(super) health: [u8; 512],
    /// Changed namespaces, 04h.
    pub(super) changed: BTreeSet<u32>,
    /// Error Information, 01h, the newest first.
    pub(super) errors: VecDeque<[u8; 64]>,
    errors_ever: u64,
}

impl Default for Logs {
    fn default() -> Self {
        let mut health = [0; 512];
        health[..HEALTH.len()].copy_from_slice(&HEALTH);
        Self {
            health,
            changed: BTreeSet::new(),
            errors: VecDeque::new(),
            errors_ever: 0,
        }
    }
}

impl Machine {
    /// Something happens of which the driver is told, if it wants to be.
    pub(super) fn happen(&mut self, event: Happening) {
        let wanted = match (event.kind, event.information) {
            (1, _) => self.events.configuration & 0xff != 0,
            (2, information @ 0..=23) => self.events.configuration & 1 << (8 + information) != 0,
            _ => true,
        };
        if wanted {
            self.events.add(event);
        }
    }

    pub(super) fn tell_event(&mut self) {
        let Some((event, cid)) = self.events.take() else {
            return;
        };
        let result = u32::from(event.kind)
            | u32::from(event.information) << 8
            | u32::from(event.log_page) << 16;
        if let Some(queue) = self.submissions.get_mut(&0) {
            queue.outstanding.remove(&cid);
        }
        self.counters.events += 1;
        self.post(0, cid, (Code::SUCCESS, result), None);
    }

    /// An entry for the error log.
    pub(super) fn note_error(&mut self, queue: u16, command: &Command, code: Code) {
        let logs = &mut self.logs;
        logs.errors_ever += 1;
        let mut entry = [0; 64];
        entry[..8].copy_from_slice(&logs.errors_ever.to_le_bytes());
        entry[8..10].copy_from_slice(&queue.to_le_bytes());
        entry[10..12].copy_from_slice(&command.cid().to_le_bytes());
        entry[12..14].copy_from_slice(&(code.0 << 1).to_le_bytes());
        entry[16..24].copy_from_slice(&command.slba().to_le_bytes());
        entry[24..28].copy_from_slice(&command.nsid().to_le_bytes());
        logs.errors.push_front(entry);
        logs.errors.truncate(usize::from(self.options.elpe) + 1);
        let ever = u128::from(logs.errors_ever);
        logs.health[176..192].copy_from_slice(&ever.to_le_bytes());
    }

    /// A log page, whole.
    pub(super) fn log(&mut self, page: u8) -> Option<Vec<u8>> {
        Some(match page {
            1 => {
                let mut bytes = self
                    .logs
                    .errors
                    .iter()
                    .flatten()
                    .copied()
                    .collect::<Vec<_>>();
                bytes.resize((usize::from(self.options.elpe) + 1) * 64, 0);
                bytes
            }
            2 => self.logs.health.to_vec(),
            3 => {
                let mut bytes = vec![0; 512];
                bytes[0] = 1;
                let name = self.options.firmware.as_bytes();
                let len = name.len().min(8);
                bytes[8..16].fill(b' ');
                bytes[8..8 + len].copy_from_slice(&name[..len]);
                bytes
            }
            4 => {
                let ids = std::mem::take(&mut self.logs.changed);
                let mut bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
                bytes.resize(4096, 0);
                bytes
            }
            _ => return None,
        })
    }
}
