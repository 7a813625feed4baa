//! Reads the configuration file, with errors that name the place.

use std::{
    io,
    path::{Path, PathBuf},
};

use clap::Args as _;
use toml::de::DeTable;

use super::Options;
use crate::detect::DESCRIBED;

/// Why the configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It could not be read.
    #[error("cannot read configuration file {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is invalid. The text has line, column and the line itself.
    #[error("configuration file {path}: {message}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The error and its place.
        message: String,
    },
}

pub(super) fn read(path: &Path) -> Result<Options, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text).map_err(|message| ConfigError::Invalid {
        path: path.to_owned(),
        message,
    })
}

/// Parses the text of a file.
///
/// # Errors
///
/// A readable text with the error and its place.
pub fn parse(text: &str) -> Result<Options, String> {
    toml::from_str(text).map_err(|error| {
        let mut message = error.to_string().trim_end().to_owned();
        if let Some(hint) = unknown_key_hint(text) {
            message.push_str("\nhint: ");
            message.push_str(&hint);
        }
        message
    })
}

/// The valid keys of a file, which are the names of the flags.
pub(super) fn known_keys() -> Vec<String> {
    Options::augment_args(clap::Command::new("keys"))
        .get_arguments()
        .filter_map(|argument| argument.get_long().map(str::to_owned))
        .collect()
}

/// The section of the file that has the thresholds of the detectors.
const THRESHOLDS: &str = "thresholds";

/// A suggestion for the first unknown key.
fn unknown_key_hint(text: &str) -> Option<String> {
    let table = DeTable::parse(text).ok()?;
    let section = table.get_ref().get(THRESHOLDS);
    if let Some(section) = section.and_then(|it| it.get_ref().as_table()) {
        let known: Vec<_> = DESCRIBED
            .iter()
            .map(|it| it.name.replace('_', "-"))
            .collect();
        if let Some(unknown) = first_unknown(section, &known) {
            return nearest(&unknown, &known);
        }
    }
    let mut known = known_keys();
    known.push(THRESHOLDS.to_owned());
    let unknown = first_unknown(table.get_ref(), &known)?;
    if table.get_ref()[unknown.as_str()].get_ref().is_table() {
        return Some(format!(
            "the only section is [{THRESHOLDS}]; write other keys at the top level, above it"
        ));
    }
    nearest(&unknown, &known)
}

/// The first key of `table` that is not `known`.
fn first_unknown(table: &DeTable<'_>, known: &[String]) -> Option<String> {
    let unknown = table
        .keys()
        .filter(|key| !known.iter().any(|name| name == key.get_ref()));
    let first = unknown.min_by_key(|key| key.span().start)?;
    Some(first.get_ref().clone().into_owned())
}

/// The known key that is most like `unknown`.
fn nearest(unknown: &str, known: &[String]) -> Option<String> {
    let normal = unknown.replace('_', "-").to_lowercase();
    let (likeness, best) = known
        .iter()
        .map(|name| (strsim::jaro_winkler(&normal, name), name))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (likeness > 0.8).then(|| format!("did you mean `{best}`?"))
}
