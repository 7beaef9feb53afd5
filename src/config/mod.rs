//! The configuration: what a TOML file may say, what it means, and what is wrong with it.
//!
//! [`model`] is what the rest of the daemon sees. Reading a file ([`Config::load`]) collects every
//! error in it, each with the place it stands at and, where there is one, the remedy; nothing is
//! guessed from an invalid file. The code that reads is the schema: `reader` knows which keys were
//! asked for and calls all others unknown.
//!
//! Secrets are read into [`Secret`], which is zeroised and shows nothing; [`Report`] masks those
//! that stand in the file itself.

mod auth;
mod embedded;
mod file;
mod metrics;
mod model;
mod names;
mod networks;
mod nvme;
mod ports;
mod reader;
mod report;
mod secret;
mod suggest;
mod targets;
mod units;

pub use embedded::{EMBEDDED_BLOCK_SIZE, EMBEDDED_SIZE, EMBEDDED_TARGET};
pub use file::{LoadError, Loaded, Surroundings};
pub use model::*;
pub use names::{PatternError, parse_pattern};
pub use report::{Finding, Report, Severity, Span};
pub use secret::{SECRET_LEN_MAX, SECRET_LEN_RECOMMENDED, Secret};
pub use suggest::nearest;
pub use targets::TARGETS_MAX;
pub use units::{ISCSI_PORT, UNITS_MAX};

pub(crate) use units::parse_portal;

#[cfg(test)]
mod tests;
