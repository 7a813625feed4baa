//! What is wrong with a host, what its settings have to do with it, and what could not be looked at: the
//! report of `observer doctor`.

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
