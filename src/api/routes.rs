//! What can be asked for, and the answers.

use std::sync::Arc;

use axum::Router;
use axum::body::HttpBody as _;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, StatusCode, Version};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{BODY_BYTES_MAX, Source};
use crate::metrics::Format;

type Asked = State<Arc<dyn Source>>;

const PLAIN: &str = "text/plain; charset=utf-8";

/// All routes.
pub(super) fn router(source: Arc<dyn Source>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .route("/readyz", get(readiness))
        .fallback(unknown)
        .layer(from_fn(check))
        .with_state(source)
}

async fn metrics(State(source): Asked, headers: HeaderMap) -> Response {
    // A list may come in several fields (RFC 9110 §5.3).
    let accept: Vec<_> = headers.get_all(ACCEPT).iter().collect();
    let accept: Vec<_> = accept.iter().filter_map(|it| it.to_str().ok()).collect();
    let accept = (!accept.is_empty()).then(|| accept.join(","));
    let format = Format::negotiate(accept.as_deref());
    let head = [
        (CONTENT_TYPE, format.content_type()),
        (CACHE_CONTROL, "no-store"),
    ];
    (head, source.metrics(format)).into_response()
}

async fn health(State(source): Asked) -> Response {
    verdict(source.health())
}

async fn readiness(State(source): Asked) -> Response {
    verdict(source.readiness())
}

fn verdict(verdict: Result<(), String>) -> Response {
    match verdict {
        Ok(()) => plain(StatusCode::OK, "ok"),
        Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, &why),
    }
}

async fn unknown() -> Response {
    plain(
        StatusCode::NOT_FOUND,
        "there is /metrics, /healthz and /readyz",
    )
}

fn plain(status: StatusCode, text: &str) -> Response {
    let head = [(CONTENT_TYPE, PLAIN), (CACHE_CONTROL, "no-store")];
    (status, head, format!("{text}\n")).into_response()
}

/// What every request has to keep.
async fn check(request: Request, next: Next) -> Response {
    // RFC 9112 §3.2.
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() >= Version::HTTP_11) {
        return last(plain(StatusCode::BAD_REQUEST, "one Host field is wanted"));
    }
    if request.body().size_hint().lower() > BODY_BYTES_MAX {
        return last(plain(StatusCode::PAYLOAD_TOO_LARGE, "no body is wanted"));
    }
    next.run(request).await
}

/// The connection is closed behind it.
fn last(mut response: Response) -> Response {
    let close = axum::http::HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response
}
