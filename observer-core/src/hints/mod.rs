//! Hints about failures: facts about the kernel, fixes, and how to verify them.
//!
//! Each fact was read in kernel source (5.10, 6.1, 6.12, 7.3) or tried on 6.18. docs/hints.md is generated from
//! here.

mod connections;
mod hint;
mod need;
mod options;

#[cfg(test)]
pub(crate) mod documented;
#[cfg(test)]
mod tests;

pub use hint::{Advice, FailedOption, Hint, Shown, Sockets};
pub use need::{Kernel, Known, Need};

/// All hints: those for setsockopt() first.
pub static HINTS: [Hint; options::OPTIONS.len() + connections::CONNECTIONS.len()] = {
    let mut hints = [options::OPTIONS[0]; options::OPTIONS.len() + connections::CONNECTIONS.len()];
    let mut index = 0;
    while index < hints.len() {
        hints[index] = match index.checked_sub(options::OPTIONS.len()) {
            None => options::OPTIONS[index],
            Some(index) => connections::CONNECTIONS[index],
        };
        index += 1;
    }
    hints
};

/// The hints for a failed setsockopt() call that apply to the host.
pub fn for_option(failed: &FailedOption<'_>, known: &Known<'_>) -> Vec<Advice> {
    let hints = HINTS.iter().filter(|hint| hint.shown.is_for(failed));
    hints.filter_map(|hint| Advice::new(hint, known)).collect()
}
