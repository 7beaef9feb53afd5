//! What a configuration says of the endpoint for metrics.

use std::net::SocketAddr;

/// `[metrics]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// On this machine alone, unless `allow_remote`.
    pub listen: SocketAddr,
    pub allow_remote: bool,
}
