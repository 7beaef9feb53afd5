//! Signals, as streams that the control thread watches: SIGTERM and SIGINT end the daemon, SIGHUP
//! has it look at its backing objects again.

use std::io::Read;
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::StartError;
use crate::net::Poller;

/// Signals of a kind that one turn takes.
const BURST: usize = 16;

/// A byte for each signal that came.
#[derive(Debug)]
pub struct Signals {
    end: UnixStream,
    hang_up: UnixStream,
}

impl Signals {
    /// From now on signals come here.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn catch() -> Result<Self, StartError> {
        let wrong = |error| StartError::new(format!("signals cannot be caught: {error}"));
        Ok(Self {
            end: caught(&[SIGTERM, SIGINT]).map_err(wrong)?,
            hang_up: caught(&[SIGHUP]).map_err(wrong)?,
        })
    }

    /// Has `poller` say when there are any.
    pub(super) fn watch(&self, poller: &mut Poller, end: u64, hang_up: u64) -> std::io::Result<()> {
        poller.add(&self.end, end)?;
        poller.add(&self.hang_up, hang_up)
    }

    /// How many that end the daemon have come since the last call.
    pub(super) fn ends(&self) -> usize {
        taken(&self.end)
    }

    /// Whether a SIGHUP has come since the last call.
    pub(super) fn hung_up(&self) -> bool {
        taken(&self.hang_up) > 0
    }
}

fn caught(signals: &[libc::c_int]) -> std::io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, writer.try_clone()?)?;
    }
    reader.set_nonblocking(true)?;
    Ok(reader)
}

fn taken(mut stream: &UnixStream) -> usize {
    let mut bytes = [0; BURST];
    stream.read(&mut bytes).unwrap_or(0)
}
