//! What a scrape finds: the metrics of [`families`], out of what others have written down.
//!
//! It reads atomics, what the keepers of NVMe controllers have read last, and what the kernel says
//! of their links. It asks no core, no keeper and no device, and an object is held only while it is
//! looked at.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use tracing::info;

use super::board::{Board, UnitNotes};
use super::{StartError, portals};
use crate::api::{Api, Source, Use};
use crate::backend::{Backing, Readiness};
use crate::config::Config;
use crate::metrics::{Format, Page, SERIES_MAX, families as f};
use crate::reactor::{Heartbeat, affinity, clock};

mod nvme;

/// The socket of the endpoint, if there is to be one.
pub(super) fn listen(config: &Config) -> Result<Option<TcpListener>, StartError> {
    let Some(metrics) = &config.metrics else {
        return Ok(None);
    };
    let address = metrics.listen;
    TcpListener::bind(address).map(Some).map_err(|error| {
        let help = portals::bind_remedy(&error, address);
        StartError::new(format!(
            "metrics: listen: cannot listen on {address}: {error}\n  help: {help}"
        ))
    })
}

/// Has an endpoint answer, on none of the CPUs `data` where others are left.
pub(super) fn start(
    listener: TcpListener,
    measures: Measures,
    data: Vec<usize>,
) -> Result<Api, StartError> {
    let uses = Arc::clone(&measures.uses);
    let prepare = move || affinity::keep_off(&data);
    let api = Api::start(listener, Arc::new(measures), uses, prepare);
    let api = api.map_err(|error| StartError::new(format!("metrics: listen: {error}")))?;
    info!("metrics are at http://{}/metrics", api.address());
    Ok(api)
}

/// See the module.
#[derive(Debug)]
pub(super) struct Measures {
    board: Arc<Board>,
    /// By core.
    hearts: Vec<Arc<Heartbeat>>,
    /// Names of logical units, by index.
    units: Vec<String>,
    uses: Arc<Use>,
    /// Since 1970, in seconds.
    started: f64,
    /// Where the machine's /sys is.
    root: PathBuf,
}

/// A unit as it is found in a scrape.
struct Found<'a> {
    name: &'a str,
    notes: &'a UnitNotes,
    /// Absent where nothing could be opened, or is open any more.
    backing: Option<Arc<Backing>>,
}

impl Measures {
    pub(super) fn new(config: &Config, board: &Arc<Board>, hearts: Vec<Arc<Heartbeat>>) -> Self {
        let units = config.logical_units.iter().map(|unit| unit.name.clone());
        let started = clock::Calendar::read().unix_ms(clock::now());
        Self {
            board: Arc::clone(board),
            hearts,
            units: units.collect(),
            uses: Arc::default(),
            started: started as f64 / 1000.0,
            root: PathBuf::from("/"),
        }
    }

    fn process(&self, page: &mut Page) {
        page.add(&f::BUILD, &[env!("CARGO_PKG_VERSION")], true);
        page.add(&f::START_TIME, &[], self.started);
        page.add(&f::READY, &[], self.board.serves());
    }

    fn cores(&self, page: &mut Page) {
        let names: Vec<String> = (0..self.hearts.len())
            .map(|core| core.to_string())
            .collect();
        let hearts = || names.iter().zip(&self.hearts);
        let notes = || names.iter().zip(self.board.cores());
        for (core, heart) in hearts() {
            page.add(&f::CORE_TURNS, &[core], heart.turns());
        }
        for (core, heart) in hearts() {
            page.add(&f::CORE_BUSY, &[core], heart.busy().as_secs_f64());
        }
        for (core, notes) in notes() {
            page.add(&f::CORE_STANDS, &[core], notes.stands());
        }
        for (core, notes) in notes() {
            page.add(&f::CORE_CONNECTIONS, &[core], notes.connections());
        }
        for (core, notes) in notes() {
            page.add(&f::CORE_SESSIONS, &[core], notes.sessions());
        }
    }

    fn logins(&self, page: &mut Page) {
        page.add(&f::LOGINS, &[], self.board.logins());
        for (status, count) in self.board.refused() {
            page.add(&f::LOGINS_REFUSED, &[status], count);
        }
        page.add(&f::LOGINS_BROKEN, &[], self.board.broken());
        for (how, count) in self.board.ended() {
            page.add(&f::CONNECTIONS_ENDED, &[how], count);
        }
    }

    fn units(&self, page: &mut Page) {
        let units = self.units.iter().zip(self.board.units());
        let units: Vec<Found<'_>> = units
            .map(|(name, notes)| Found {
                name,
                notes,
                backing: notes.backing(),
            })
            .collect();
        let ready = units.iter().filter(|unit| unit.is_ready()).count();
        page.add(&f::UNITS, &["ready"], ready as u64);
        page.add(&f::UNITS, &["not_ready"], (units.len() - ready) as u64);
        let shown = &units[..units.len().min(SERIES_MAX)];
        for unit in shown {
            page.add(&f::UNIT_READY, &[unit.name], unit.is_ready());
        }
        for (unit, backing) in shown.iter().filter_map(Found::open) {
            let block: u64 = backing.info().block_size.into();
            let bytes = backing.blocks().saturating_mul(block);
            page.add(&f::UNIT_SIZE, &[unit.name], bytes);
        }
        let usages = || shown.iter().filter_map(|it| Some((it, it.notes.usage()?)));
        for (unit, usage) in usages() {
            page.add(&f::UNIT_USED, &[unit.name], usage.used);
        }
        for (unit, usage) in usages() {
            page.add(&f::UNIT_AVAILABLE, &[unit.name], usage.available);
        }
        for (unit, backing) in shown.iter().filter_map(Found::open) {
            let lost = backing.write_cache_lost();
            page.add(&f::UNIT_CACHE_LOST, &[unit.name], lost);
        }
        for (unit, backing) in shown.iter().filter_map(Found::open) {
            page.add(&f::UNIT_ERRORS, &[unit.name], backing.failures());
        }
    }

    fn endpoint(&self, page: &mut Page) {
        page.add(&f::API_CONNECTIONS, &[], self.uses.connections());
        page.add(&f::API_REFUSED, &[], self.uses.refused());
    }
}

impl Found<'_> {
    fn is_ready(&self) -> bool {
        let readiness = self.backing.as_ref().map(|backing| backing.readiness());
        readiness == Some(Readiness::Ready)
    }

    fn open(&self) -> Option<(&Self, &Arc<Backing>)> {
        Some((self, self.backing.as_ref()?))
    }
}

impl Source for Measures {
    fn metrics(&self, format: Format) -> String {
        let mut page = Page::new(format);
        self.process(&mut page);
        self.cores(&mut page);
        self.logins(&mut page);
        self.units(&mut page);
        nvme::controllers(&mut page, &self.root, clock::now());
        self.endpoint(&mut page);
        page.finish()
    }

    fn health(&self) -> Result<(), String> {
        self.board.health(clock::now())
    }

    fn readiness(&self) -> Result<(), String> {
        if !self.board.serves() {
            return Err("the daemon stops: no logins are taken".to_owned());
        }
        self.health()
    }
}
