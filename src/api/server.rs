//! Accepts connections and serves HTTP/1.1 on them, within the bounds of the module above.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::stream::Stalling;
use super::{CONNECTIONS_MAX, DEAF, END_MAX, FIELDS_MAX, HEAD_BYTES_MAX, HEAD_MAX, STALL_MAX, Use};

/// Serves until `stopped` comes or its other end goes.
pub(super) async fn serve(
    listener: TcpListener,
    router: &Router,
    uses: &Arc<Use>,
    mut stopped: oneshot::Receiver<()>,
) {
    let graceful = GracefulShutdown::new();
    while let Some(accepted) = next(&listener, &mut stopped).await {
        match accepted {
            Ok(stream) => {
                let Some(place) = Place::take(uses) else {
                    uses.refused.fetch_add(1, Relaxed);
                    continue;
                };
                let connection = graceful.watch(connection(stream, router));
                tokio::spawn(async move {
                    // A peer that breaks off, or is too slow, has had its answer.
                    let _ = connection.await;
                    drop(place);
                });
            }
            // No descriptor is free, say: it would fail again at once.
            Err(_) => sleep(DEAF).await,
        }
    }
    drop(listener);
    let _ = timeout(END_MAX, graceful.shutdown()).await;
}

/// HTTP/1.1 on `stream`.
pub(super) fn connection<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    router: &Router,
) -> http1::Connection<TokioIo<Stalling<S>>, TowerToHyperService<Router>> {
    let stream = TokioIo::new(Stalling::new(stream, STALL_MAX));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(FIELDS_MAX)
        .serve_connection(stream, TowerToHyperService::new(router.clone()))
}

/// Who comes next; `None`: it is over.
async fn next(
    listener: &TcpListener,
    stopped: &mut oneshot::Receiver<()>,
) -> Option<io::Result<TcpStream>> {
    poll_fn(|cx| {
        if Pin::new(&mut *stopped).poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        let accepted = listener.poll_accept(cx);
        accepted.map(|accepted| Some(accepted.map(|(stream, _)| stream)))
    })
    .await
}

/// A place among the connections, free again when it goes.
#[derive(Debug)]
struct Place(Arc<Use>);

impl Place {
    /// `None`: all are taken. Only one thread takes and gives.
    fn take(uses: &Arc<Use>) -> Option<Self> {
        if uses.connections() >= CONNECTIONS_MAX {
            return None;
        }
        uses.connections.fetch_add(1, Relaxed);
        Some(Self(Arc::clone(uses)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}
