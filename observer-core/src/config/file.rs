//! Reads the configuration file, with errors that name the place.

use std::{
    io,
    path::{Path, PathBuf},
};

use clap::Args as _;

use super::Options;

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

/// What the author of the first unknown key may have meant.
fn unknown_key_hint(text: &str) -> Option<String> {
    let table = toml::de::DeTable::parse(text).ok()?;
    let known = known_keys();
    let mut keys: Vec<_> = table.get_ref().keys().collect();
    keys.sort_by_key(|key| key.span().start);
    let unknown = keys
        .into_iter()
        .map(|key| key.get_ref())
        .find(|key| !known.iter().any(|name| name == *key))?;
    if table.get_ref()[unknown.as_ref()].get_ref().is_table() {
        return Some("there are no sections; write all keys at the top level".to_owned());
    }
    let normal = unknown.replace('_', "-").to_lowercase();
    let (likeness, best) = known
        .iter()
        .map(|name| (strsim::jaro_winkler(&normal, name), name))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (likeness > 0.8).then(|| format!("did you mean `{best}`?"))
}
