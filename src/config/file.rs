//! From the text of a configuration file to a [`Config`], or to a report of everything wrong in it.
//!
//! This file reads the tables that stand once (`[daemon]`, `[cores]`, `[memory]`, `[limits]`,
//! `[discovery]`); `metrics`, `nvme`, `ports`, `units` and `targets` read the others and resolve
//! what refers to what.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;
use zeroize::Zeroizing;

use super::auth::read_auth;
use super::model::{
    CORES_MAX, Config, CoreList, Cores, Daemon, Limits, Memory, Pages, Placement, Poll,
};
use super::reader::{Findings, Section};
use super::report::{Finding, Report};
use super::{metrics, nvme, ports, targets, units};
use crate::state;

/// The largest configuration file that is read.
const FILE_LEN_MAX: u64 = 4 * 1024 * 1024;

pub(super) const MIB: usize = 1024 * 1024;

/// A valid configuration and what should still be looked at.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// Warnings only.
    pub report: Report,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(
        "{path}: there is no such file\n  help: copy deploy/iiblockdaemon.toml there, name another \
         one with --config FILE, or start without --config to serve the embedded default"
    )]
    Missing { path: String },
    #[error("{path}: cannot be read: {source}\n  help: {help}")]
    Unreadable {
        path: String,
        source: io::Error,
        help: &'static str,
    },
    #[error("{0}")]
    Invalid(Report),
}

/// What surrounds a file and decides its defaults.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Where a relative `secret_file` starts.
    pub dir: PathBuf,
    /// `state_dir` when the file names none.
    pub state_dir: Option<PathBuf>,
    /// CPUs that this process may use, at least 1.
    pub cpus: usize,
}

impl Surroundings {
    /// Those of this process, for a file in `dir`.
    pub fn of_process(dir: &Path) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            dir: dir.to_owned(),
            state_dir: state::default_dir(),
            cpus,
        }
    }
}

impl Config {
    /// Reads and checks the file at `path`, and the secret files that it names.
    ///
    /// # Errors
    /// The file is missing or unreadable, or the report of everything that is wrong in it.
    pub fn load(path: &Path) -> Result<Loaded, LoadError> {
        let text = read_text(path)?;
        let dir = path.parent().unwrap_or_else(|| Path::new(""));
        let shown = path.display().to_string();
        Self::parse(&shown, &text, &Surroundings::of_process(dir)).map_err(LoadError::Invalid)
    }

    /// Checks the text of a file that is called `file` in the report.
    ///
    /// # Errors
    /// The report of everything that is wrong in it.
    pub fn parse(file: &str, text: &str, around: &Surroundings) -> Result<Loaded, Report> {
        let (root, syntax) = DeTable::parse_recoverable(text);
        let findings = Findings::default();
        for error in &syntax {
            let span = error.span().unwrap_or(0..0);
            findings.push(Finding::error(
                span,
                format!("not TOML: {}", error.message()),
            ));
        }
        // What a broken file seems to lack may stand in the part that could not be read.
        let config = if syntax.is_empty() {
            read(
                Section::new("the file", root.get_ref(), 0..0, &findings),
                around,
            )
        } else {
            None
        };
        let report = Report::new(file, text, findings.into_vec());
        match config {
            Some(config) if report.errors() == 0 => Ok(Loaded { config, report }),
            _ => Err(report),
        }
    }
}

fn read_text(path: &Path) -> Result<Zeroizing<String>, LoadError> {
    let shown = || path.display().to_string();
    let unreadable = |source, help| LoadError::Unreadable {
        path: shown(),
        source,
        help,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(LoadError::Missing { path: shown() });
        }
        Err(error) => {
            return Err(unreadable(
                error,
                "the user that runs the daemon must be able to read it",
            ));
        }
    };
    let mut text = Zeroizing::new(String::new());
    let read = file.take(FILE_LEN_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| unreadable(error, "a configuration is a file of UTF-8 text"))?;
    if text.len() as u64 > FILE_LEN_MAX {
        let error = io::Error::from(io::ErrorKind::FileTooLarge);
        return Err(unreadable(error, "a configuration has at most 4 MiB"));
    }
    Ok(text)
}

/// `None` only when an error was reported.
fn read(mut root: Section<'_>, around: &Surroundings) -> Option<Config> {
    let daemon = read_daemon(root.table("daemon", "[daemon]"), &root, around);
    let cores = read_cores(root.table("cores", "[cores]"), around);
    let memory = read_memory(root.table("memory", "[memory]"));
    let limits = read_limits(root.table("limits", "[limits]"));
    let nvme = nvme::read_nvme(root.table("nvme", "[nvme]"));
    let metrics = metrics::read_metrics(root.table("metrics", "[metrics]"));
    let discovery_auth = match root.table("discovery", "[discovery]") {
        Some(mut discovery) => {
            let auth = discovery.table("auth", "[discovery.auth]");
            let auth = read_auth(auth, &around.dir);
            discovery.finish();
            auth
        }
        None => read_auth(None, &around.dir),
    };
    let state_dir = daemon
        .as_ref()
        .map_or_else(|| Path::new(""), |daemon| &daemon.state_dir);
    let ports = ports::read_ports(&mut root, &cores.list);
    let groups = units::read_portal_groups(&mut root, &ports.own);
    ports::report_unused(&root, &ports, &groups);
    metrics::report_shared(&root, metrics.as_ref(), &groups);
    let units = units::read_logical_units(&mut root, state_dir);
    let targets = targets::read_targets(&mut root, &groups, &units, &around.dir);
    root.finish();
    Some(Config {
        daemon: daemon?,
        cores,
        memory,
        limits,
        dpdk: ports.dpdk,
        nvme,
        metrics: metrics.map(|(metrics, _)| metrics),
        ports: ports.ports.into_iter().map(|port| port.value).collect(),
        discovery_auth: discovery_auth?,
        portal_groups: groups.into_iter().map(|group| group.value).collect(),
        logical_units: units.into_iter().map(|unit| unit.value).collect(),
        targets,
    })
}

fn read_daemon(
    section: Option<Section<'_>>,
    root: &Section<'_>,
    around: &Surroundings,
) -> Option<Daemon> {
    let mut state_dir = around.state_dir.clone();
    let mut shutdown_timeout = Duration::from_secs(10);
    let mut management_url = None;
    let mut span = root.span();
    if let Some(mut section) = section {
        span = section.span();
        management_url = read_management_url(&mut section);
        if let Some(path) = section.text("state_dir") {
            span = path.span;
            state_dir = Some(PathBuf::from(path.value)).filter(|path| path.is_absolute());
        }
        if let Some(seconds) = section.integer("shutdown_timeout_s", 0..=600, "seconds") {
            shutdown_timeout = Duration::from_secs(seconds.value);
        }
        section.finish();
    }
    if state_dir.is_none() {
        let finding = Finding::error(span, "state_dir is not an absolute path");
        root.report(finding.help("write state_dir = \"/var/lib/iiblockdaemon\" under [daemon]"));
    }
    Some(Daemon {
        state_dir: state_dir?,
        shutdown_timeout,
        management_url,
    })
}

fn read_management_url(section: &mut Section<'_>) -> Option<String> {
    let url = section.text("management_url")?;
    let printable = url.value.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
    if url.value.is_empty() || url.value.len() > MANAGEMENT_URL_BYTES_MAX || !printable {
        let message = format!("{:?} cannot be an address", url.value);
        let help = format!("write 1 to {MANAGEMENT_URL_BYTES_MAX} printable ASCII characters");
        section.report(Finding::error(url.span, message).help(help));
        return None;
    }
    Some(url.value.to_owned())
}

/// The longest address in bytes (VPD 85h holds it).
const MANAGEMENT_URL_BYTES_MAX: usize = 255;

/// One CPU is left to the control thread and the system where there is more than one.
pub(super) fn default_cores(cpus: usize) -> CoreList {
    CoreList::Count(cpus.saturating_sub(1).clamp(1, CORES_MAX))
}

fn read_cores(section: Option<Section<'_>>, around: &Surroundings) -> Cores {
    let mut cores = Cores {
        list: default_cores(around.cpus),
        pin: true,
        poll: Poll::Adaptive,
        placement: Placement::Least,
    };
    let Some(mut section) = section else {
        return cores;
    };
    let count = section.integer("count", 1..=CORES_MAX as u64, "cores");
    let list = section.integers("list", &(0..=65_535));
    if let Some(pin) = section.boolean("pin") {
        cores.pin = pin;
    }
    if section.has("count") && section.has("list") {
        section.report(
            Finding::error(section.key_span("count"), "[cores] has both count and list")
                .other(section.key_span("list"), "this names the cores")
                .help("keep one of them: list says how many, too"),
        );
    }
    if let Some(count) = count {
        cores.list = CoreList::Count(usize::try_from(count.value).unwrap_or(CORES_MAX));
        if count.value > around.cpus as u64 {
            let have = around.cpus;
            let message = format!("{} data cores on {have} usable CPUs", count.value);
            let help = "cores that share a CPU take turns; give each its own";
            section.report(Finding::warning(count.span, message).help(help));
        }
    }
    if let Some(list) = list {
        let mut seen: Vec<usize> = Vec::with_capacity(list.value.len());
        if section.is_empty_array("list") || list.value.len() > CORES_MAX {
            let help = format!("name 1 to {CORES_MAX} CPUs, as in list = [1, 2]");
            section.report(Finding::error(list.span, "list is empty or too long").help(help));
        }
        for cpu in list.value {
            let number = usize::try_from(cpu.value).unwrap_or(usize::MAX);
            if seen.contains(&number) {
                let finding =
                    Finding::error(cpu.span, format!("CPU {number} stands twice in list"));
                section.report(finding.help("each CPU runs one core"));
            } else {
                seen.push(number);
            }
        }
        cores.list = CoreList::List(seen);
    }
    let polls = [("adaptive", Poll::Adaptive), ("busy", Poll::Busy)];
    if let Some(poll) = section.choice("poll", &polls) {
        cores.poll = poll.value;
    }
    let placements = [("least", Placement::Least), ("hash", Placement::Hash)];
    if let Some(placement) = section.choice("placement", &placements) {
        cores.placement = placement.value;
    }
    section.finish();
    cores
}

pub(super) fn default_memory() -> Memory {
    Memory {
        pool_bytes_per_core: 256 * MIB,
        pages: Pages::Normal,
    }
}

fn read_memory(section: Option<Section<'_>>) -> Memory {
    let mut memory = default_memory();
    let Some(mut section) = section else {
        return memory;
    };
    if let Some(mib) = section.integer("pool_mib_per_core", 32..=1024 * 1024, "MiB") {
        memory.pool_bytes_per_core = usize::try_from(mib.value).unwrap_or(usize::MAX / MIB) * MIB;
    }
    let pages = [("normal", Pages::Normal), ("huge", Pages::Huge)];
    if let Some(pages) = section.choice("pages", &pages) {
        memory.pages = pages.value;
    }
    section.finish();
    memory
}

pub(super) fn default_limits() -> Limits {
    Limits {
        unauthenticated_connections: 64,
        login_timeout: Duration::from_secs(15),
        sessions: 1024,
        nop_interval: Some(Duration::from_secs(30)),
        nop_timeout: Duration::from_secs(30),
        no_progress_timeout: Duration::from_secs(60),
    }
}

fn read_limits(section: Option<Section<'_>>) -> Limits {
    const HOUR: u64 = 3600;
    let mut limits = default_limits();
    let Some(mut section) = section else {
        return limits;
    };
    let count = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    if let Some(n) = section.integer("unauthenticated_connections", 1..=65_536, "connections") {
        limits.unauthenticated_connections = count(n.value);
    }
    if let Some(n) = section.integer("sessions", 1..=65_535, "sessions") {
        limits.sessions = count(n.value);
    }
    if let Some(s) = section.integer("login_timeout_s", 1..=HOUR, "seconds") {
        limits.login_timeout = Duration::from_secs(s.value);
    }
    if let Some(s) = section.integer("nop_interval_s", 0..=HOUR, "seconds (0: never)") {
        limits.nop_interval = (s.value > 0).then(|| Duration::from_secs(s.value));
    }
    if let Some(s) = section.integer("nop_timeout_s", 1..=HOUR, "seconds") {
        limits.nop_timeout = Duration::from_secs(s.value);
    }
    if let Some(s) = section.integer("no_progress_timeout_s", 1..=HOUR, "seconds") {
        limits.no_progress_timeout = Duration::from_secs(s.value);
    }
    section.finish();
    limits
}
