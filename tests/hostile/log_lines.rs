//! Counts what is logged.

use std::fmt::Debug;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Default, Debug)]
pub(crate) struct LogLines {
    lines: AtomicU64,
    panics: AtomicU64,
}

static LOG: LogLines = LogLines {
    lines: AtomicU64::new(0),
    panics: AtomicU64::new(0),
};
static WATCHED: OnceLock<()> = OnceLock::new();

/// Watches the log of this process from the first call on.
pub(crate) fn watch() -> &'static LogLines {
    WATCHED.get_or_init(|| tracing_subscriber::registry().with(Counter).init());
    &LOG
}

impl LogLines {
    pub(crate) fn lines(&self) -> u64 {
        self.lines.load(SeqCst)
    }

    /// Lines that tell of a login that panicked.
    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(SeqCst)
    }
}

struct Counter;

impl<S: Subscriber> Layer<S> for Counter {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        LOG.lines.fetch_add(1, SeqCst);
        event.record(&mut Words);
    }
}

struct Words;

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = if field.name() == "message" {
            format!("{value:?}")
        } else {
            String::new()
        };
        if text.contains("made this program panic") {
            LOG.panics.fetch_add(1, SeqCst);
        }
    }
}
