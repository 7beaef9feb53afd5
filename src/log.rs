//! Where log lines go and how they look.
//!
//! `RUST_LOG` decides what is logged when it is set, else `--log-level`. Lines go to stderr, as
//! text or as JSON; when stderr is systemd's journal and no format was asked for, they go there
//! with their fields. Data cores format nothing: they hand records to the control side, which logs.

use std::env;
use std::io;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt};

/// `--log-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One readable line each.
    Text,
    /// One JSON object each.
    Json,
}

/// `--log-level`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Off => Self::OFF,
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("RUST_LOG = {value:?} is not a filter: {source}\n  help: try RUST_LOG=info")]
    Filter {
        value: String,
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("logging is already set up: {0}")]
    Twice(#[from] TryInitError),
}

/// Sets logging up for the whole process. `format` is `None` when none was asked for.
///
/// # Errors
/// `RUST_LOG` is not a filter, or this was called before.
pub fn init(level: Level, format: Option<Format>) -> Result<(), LogError> {
    let filter = match env::var("RUST_LOG") {
        Ok(value) if !value.trim().is_empty() => {
            EnvFilter::try_new(&value).map_err(|source| LogError::Filter { value, source })?
        }
        _ => EnvFilter::default().add_directive(LevelFilter::from(level).into()),
    };
    let registry = tracing_subscriber::registry().with(filter);
    registry
        .with(output(format))
        .try_init()
        .map_err(LogError::Twice)
}

type Registered = tracing_subscriber::layer::Layered<EnvFilter, Registry>;

fn output(format: Option<Format>) -> Box<dyn Layer<Registered> + Send + Sync> {
    match format {
        None if stderr_is_journal() => {
            // The journal's socket may be out of reach in a sandbox; its stderr never is.
            if let Ok(journal) = tracing_journald::layer() {
                return journal
                    .with_syslog_identifier("iiblockdaemon".to_owned())
                    .boxed();
            }
            fmt::layer()
                .with_writer(io::stderr)
                .with_ansi(false)
                .without_time()
                .boxed()
        }
        None | Some(Format::Text) => {
            let colours = io::IsTerminal::is_terminal(&io::stderr());
            fmt::layer()
                .with_writer(io::stderr)
                .with_ansi(colours)
                .boxed()
        }
        Some(Format::Json) => fmt::layer().json().with_writer(io::stderr).boxed(),
    }
}

/// systemd puts device and inode of the journal's stream into `JOURNAL_STREAM`; a child process may
/// inherit the variable with another stderr.
fn stderr_is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else {
        return false;
    };
    rustix::fs::fstat(io::stderr()).is_ok_and(|stat| is_stream(&stream, stat.st_dev, stat.st_ino))
}

fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    let Some((dev, ino)) = stream.split_once(':') else {
        return false;
    };
    dev.parse() == Ok(device) && ino.parse() == Ok(inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_recognised_by_device_and_inode() {
        assert!(is_stream("8:1234", 8, 1234));
        for other in ["8:1235", "9:1234", "8", "", "a:b", ":"] {
            assert!(!is_stream(other, 8, 1234), "{other}");
        }
    }
}
