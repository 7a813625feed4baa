//! The report of `observer doctor`: findings, related sysctls, and signals that are not observed.

mod binds;
mod follows;
mod item;
mod losses;
mod notes;
mod odd;
mod options;
mod report;
mod settings;
mod text;

pub use binds::Binds;
pub use follows::{Listening, Origin};
pub use item::{Fact, Item, NotLookedAt, Severity};
pub use losses::Losses;
pub use notes::ProcessState;
pub use odd::{Counted, FailedHandshakes, FastOpen, Growth, Odd, Refused};
pub use options::FailedOptions;
pub use report::{Inputs, Report};
pub use settings::{Setting, Verdict};
pub use text::render;

#[cfg(test)]
mod tests;
