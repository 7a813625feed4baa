//! The arguments of `observer run`.

use std::path::{Path, PathBuf};

use super::{ConfigError, Options, Settings, file};

/// Flags of `observer run`: the options, and the file that may hold them.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct RunArgs {
    /// TOML file with the options below as keys (listen = "127.0.0.1:9963")
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "OBSERVER_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,

    /// Stop at the end of standard input, that is when the program that started this one has ended.
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,

    /// The settings, which the file can contain, too.
    #[command(flatten)]
    pub options: Options,
}

impl RunArgs {
    /// As if only `--config FILE` had been given.
    #[must_use]
    pub fn for_file(config: Option<PathBuf>) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// Reads the file, if there is one, and merges it with flags, environment and
    /// defaults. Called again on SIGHUP.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is invalid.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let file = match &self.config {
            Some(path) => file::read(path)?,
            None => Options::default(),
        };
        Ok(Settings::new(self.options.clone().or(file)))
    }

    /// The file's path.
    #[must_use]
    pub fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }
}
