//! Names of processes.

use crate::{table::Labels, text::sanitize};

/// `api (pid 5674, api.service)`. A program chooses its name, which may have any characters.
#[must_use]
pub fn named(labels: &Labels) -> String {
    described(labels, "")
}

/// The same with `which` processes it is.
pub(super) fn described(labels: &Labels, which: &str) -> String {
    let pid = labels.pid().map(|pid| format!("pid {pid}"));
    let details = [
        which.to_owned(),
        pid.unwrap_or_default(),
        sanitize(labels.unit()),
    ];
    let details: Vec<_> = details.into_iter().filter(|it| !it.is_empty()).collect();
    let comm = match labels.comm() {
        "" => "a program without a name".to_owned(),
        comm => sanitize(comm),
    };
    match details.is_empty() {
        true => comm,
        false => format!("{comm} ({})", details.join(", ")),
    }
}
