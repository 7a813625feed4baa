//! The Prometheus exposition.
//!
//! [`family`] is the list of metrics, [`series`](self) and [`own`](self) write their samples to a
//! [`sink`], and [`collector`] runs a scrape.

mod anomalies;
pub mod bound;
pub mod collector;
mod counters;
mod destinations;
mod doctor;
pub mod family;
mod findings;
pub mod health;
pub mod jobs;
pub mod metric;
mod names;
mod own;
mod processes;
mod series;
pub mod sink;
mod sockets;
mod text;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use anomalies::{Anomalies, log_fields};
pub use collector::Exporter;
pub use health::Health;
pub use own::BuildInfo;
pub use series::ProcessMetrics;
pub use text::Piece;
