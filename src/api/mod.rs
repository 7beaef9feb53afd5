//! The HTTP endpoint for those who watch: `/metrics`, `/healthz`, `/readyz` (RFC 9110, RFC 9112).
//!
//! One thread, on a CPU without a data core where there is one, with a tokio runtime of its own:
//! axum, hyper and tokio are used here and nowhere else. What it answers comes from a [`Source`],
//! which reads what others have written down for it; it asks no core and waits for none.
//!
//! Bounds: [`CONNECTIONS_MAX`] connections, further ones are closed at once and counted;
//! [`HEAD_MAX`] for the head of a request and for the time between two; [`HEAD_BYTES_MAX`] of it;
//! [`STALL_MAX`] without progress while an answer is sent. Bodies are not read.

mod routes;
mod server;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::oneshot;

use crate::metrics::Format;

/// Connections at a time.
pub const CONNECTIONS_MAX: u64 = 64;
/// How long a peer may take to send the head of a request, the pause before it included.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// Bytes of a head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Fields of a head.
const FIELDS_MAX: usize = 64;
/// Bytes of a body that a peer may announce.
const BODY_BYTES_MAX: u64 = 1 << 20;
/// How long a peer may take no byte of an answer.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How long nobody is accepted after accepting has failed.
const DEAF: Duration = Duration::from_millis(100);
/// How long the end waits for answers that are on their way.
const END_MAX: Duration = Duration::from_secs(1);

/// Where the answers come from. Asked on the endpoint's thread; must not wait for anybody.
pub trait Source: Send + Sync {
    /// A page of metrics.
    fn metrics(&self, format: Format) -> String;

    /// Whether the process works.
    ///
    /// # Errors
    /// What is wrong, in a sentence.
    fn health(&self) -> Result<(), String>;

    /// Whether logins are taken.
    ///
    /// # Errors
    /// Why not, in a sentence.
    fn readiness(&self) -> Result<(), String>;
}

/// How much the endpoint is used; written by its thread.
#[derive(Debug, Default)]
pub struct Use {
    connections: AtomicU64,
    refused: AtomicU64,
}

impl Use {
    /// Connections that there are now.
    pub fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// Connections that were one too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

/// An endpoint that answers; it ends when this goes.
#[derive(Debug)]
pub struct Api {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Api {
    /// Answers at `listener` from a thread of its own, which runs `prepare` first. The use that is
    /// made of it is counted in `uses`.
    ///
    /// # Errors
    /// That there is no thread or no runtime to be had.
    pub fn start(
        listener: TcpListener,
        source: Arc<dyn Source>,
        uses: Arc<Use>,
        prepare: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let (stop, stopped) = oneshot::channel();
        let answer = move || {
            prepare();
            let router = routes::router(source);
            runtime.block_on(server::serve(listener, &router, &uses, stopped));
            // What is still open is closed with the runtime.
        };
        let thread = std::thread::Builder::new()
            .name("api".into())
            .spawn(answer)?;
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it: answers that are on their way have a second, everything else is closed now.
    pub fn end(&mut self) {
        // Dropping it is the word.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the metrics endpoint has panicked");
        }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.end();
    }
}
