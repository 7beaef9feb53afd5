//! The time, in nanoseconds since the program began to look at it.

use std::time::Instant;

/// A monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "a bench measures time; it reads it only here"
    )]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The start.
    pub fn began(self) -> Instant {
        self.0
    }

    /// Nanoseconds since the start.
    pub fn now_ns(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
