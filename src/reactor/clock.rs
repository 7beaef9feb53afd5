//! The only reader of time. A turn reads it once and hands it down.

use std::time::Instant;

/// Monotonic time.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the clock"
)]
pub fn now() -> Instant {
    Instant::now()
}
