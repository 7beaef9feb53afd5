//! What the daemon says of itself in figures: the table of metric families, and the text in which
//! they are asked for (Prometheus text format 0.0.4, OpenMetrics 1.0.0).
//!
//! Pure: whoever knows the values writes a [`Page`], family by family, in the order of the table in
//! [`families`]. Names, help, types and units stand in that table and nowhere else. The values of a
//! label are names that the configuration or the hardware gives, at most [`SERIES_MAX`] of a kind.
//! Nothing here runs on a data core.

pub mod families;
mod format;
mod page;

pub use format::Format;
pub use page::{Page, Value};

/// Series of a family at most that have a name of the configuration in a label; what is beyond is
/// in the sums alone.
pub const SERIES_MAX: usize = 1000;

/// What a family is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It only grows, from 0 or from what a device has counted before us.
    Counter,
    Gauge,
    /// Always 1: what is to be known stands in the labels.
    Info,
}

/// A metric family: what is the same of all its series.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Family {
    /// Without `_total` and `_info`, which the formats add.
    pub name: &'static str,
    pub kind: Kind,
    /// The last word of the name, where there is a unit: always a base unit.
    pub unit: Option<&'static str>,
    /// A sentence.
    pub help: &'static str,
    /// Names of the labels of each series.
    pub labels: &'static [&'static str],
}
