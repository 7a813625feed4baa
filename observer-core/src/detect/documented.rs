//! Tests that docs/detectors.md matches the program.

use std::{fmt::Write as _, fs, path::Path};

use super::{Anomaly, DESCRIBED, cause::CAUSES};
use crate::hints::documented::{cell, check};

#[test]
fn detectors_are_in_the_documents() {
    let mut text = String::from(
        "\n## Causes\n\nThe first that explains 60 % of the events, else the three that explain the most.\n\n\
         | anomaly | cause | evidence | what is wrong | hints |\n|---|---|---|---|---|\n",
    );
    for cause in CAUSES {
        let hints: Vec<_> = cause
            .hints
            .iter()
            .map(|id| format!("[{id}](hints.md)"))
            .collect();
        let _ = writeln!(
            text,
            "| {} | `{}` | {} | {} | {} |",
            cause.anomaly.name(),
            cause.id,
            cell(cause.evidence),
            cell(cause.text),
            hints.join(", ")
        );
    }
    text.push_str("\n## Thresholds\n\n| name | default | what it is, and why |\n|---|---|---|\n");
    for threshold in DESCRIBED {
        let why: Vec<_> = threshold.why.iter().map(|line| line.trim()).collect();
        let mut why = cell(&why.join(" "));
        // As in a file of settings.
        for other in DESCRIBED {
            why = why.replace(
                &format!("`{}`", other.name),
                &format!("`{}`", other.name.replace('_', "-")),
            );
        }
        let name = threshold.name.replace('_', "-");
        let _ = writeln!(text, "| `{name}` | {} | {why} |", threshold.default);
    }
    text.push('\n');
    check("detectors.md", &text);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/detectors.md");
    let text = fs::read_to_string(path).expect("the document can be read");
    for anomaly in Anomaly::ALL {
        let name = anomaly.name();
        assert!(text.contains(&format!("| `{name}` |")), "{name}");
    }
}
