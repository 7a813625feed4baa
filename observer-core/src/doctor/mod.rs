//! The report of `observer doctor`: findings, related sysctls, and signals that are not observed.

mod follows;
mod notes;
mod report;
mod settings;
mod text;

pub use follows::Origin;
pub use notes::ProcessState;
pub use report::{Fact, FailedOptions, Inputs, Item, NotLookedAt, Report, Severity};
pub use settings::{Setting, Verdict};
pub use text::render;

#[cfg(test)]
mod tests;
