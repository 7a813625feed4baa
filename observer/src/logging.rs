//! The daemon's own log, on standard error.

use std::{ffi::OsStr, io::IsTerminal as _, os::fd::AsFd};

use observer_core::config::{LogFilter, LogFormat};
use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt, layer::SubscriberExt as _, registry::LookupSpan, reload,
    util::SubscriberInitExt as _,
};

/// The log could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// A logger is already installed.
    #[error("cannot install the log: {0}")]
    Install(#[from] tracing_subscriber::util::TryInitError),
    /// The logger no longer exists.
    #[error("cannot change the log level: {0}")]
    Reload(#[from] reload::Error),
}

/// Changes the level while running.
#[derive(Clone, Debug)]
pub struct LogHandle(reload::Handle<EnvFilter, Registry>);

impl LogHandle {
    /// Replaces the filter.
    ///
    /// # Errors
    ///
    /// When the log no longer exists.
    pub fn set(&self, filter: &LogFilter) -> Result<(), LoggingError> {
        Ok(self.0.reload(env_filter(filter))?)
    }
}

/// Format of text lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TextStyle {
    ansi: bool,
    timestamps: bool,
}

impl TextStyle {
    /// Colours only on a terminal and without NO_COLOR (no-color.org); no timestamps for the journal,
    /// which has its own.
    fn new(is_terminal: bool, is_journal: bool, no_color: Option<&OsStr>) -> Self {
        Self {
            ansi: is_terminal && no_color.is_none_or(OsStr::is_empty),
            timestamps: !is_journal,
        }
    }
}

/// Starts logging to standard error.
///
/// # Errors
///
/// When a logger is already installed.
pub fn init(format: LogFormat, filter: &LogFilter) -> Result<LogHandle, LoggingError> {
    let stderr = std::io::stderr();
    let journal = std::env::var_os("JOURNAL_STREAM");
    let style = TextStyle::new(
        stderr.is_terminal(),
        journal.is_some_and(|stream| is_stream(&stream, &stderr)),
        std::env::var_os("NO_COLOR").as_deref(),
    );
    let (filter, handle) = reload::Layer::new(env_filter(filter));
    let layer = layer(format, style, std::io::stderr);
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init()?;
    Ok(LogHandle(handle))
}

fn layer<S, W>(format: LogFormat, style: TextStyle, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> fmt::MakeWriter<'writer> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer);
    match (format, style.timestamps) {
        (LogFormat::Json, _) => layer.json().flatten_event(true).with_ansi(false).boxed(),
        (LogFormat::Text, true) => layer.with_ansi(style.ansi).boxed(),
        (LogFormat::Text, false) => layer.with_ansi(style.ansi).without_time().boxed(),
    }
}

fn env_filter(filter: &LogFilter) -> EnvFilter {
    EnvFilter::new(filter.directives())
}

/// Whether `fd` is the stream that systemd describes in JOURNAL_STREAM as
/// `device:inode`. The variable alone proves nothing, since it is inherited by children
/// whose standard error goes elsewhere (systemd.exec(5)).
fn is_stream(described: &OsStr, fd: impl AsFd) -> bool {
    let parse = || {
        let (device, inode) = described.to_str()?.split_once(':')?;
        Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?))
    };
    let (Some(expected), Ok(stat)) = (parse(), nix::sys::stat::fstat(fd)) else {
        return false;
    };
    expected == (stat.st_dev, stat.st_ino)
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        os::unix::fs::MetadataExt as _,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, style: TextStyle, log: impl FnOnce(&LogHandle)) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let (filter, handle) = reload::Layer::new(env_filter(&"info".parse().unwrap()));
        let subscriber =
            tracing_subscriber::registry()
                .with(filter)
                .with(layer(format, style, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || log(&LogHandle(handle)));
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    const JOURNAL: TextStyle = TextStyle {
        ansi: false,
        timestamps: false,
    };

    #[test]
    fn the_journal_gets_no_timestamps() {
        let text = logged(LogFormat::Text, JOURNAL, |_| {
            tracing::info!(port = 9963, "serving")
        });
        assert_eq!(text, " INFO observer::logging::tests: serving port=9963\n");
        let timestamps = TextStyle {
            timestamps: true,
            ..JOURNAL
        };
        let text = logged(LogFormat::Text, timestamps, |_| tracing::info!("serving"));
        assert!(
            text.starts_with("20") && text.ends_with("serving\n"),
            "{text}"
        );
    }

    #[test]
    fn json_has_fields_at_the_top() {
        let text = logged(LogFormat::Json, JOURNAL, |_| tracing::warn!(pid = 7, "odd"));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["level"], "WARN");
        assert_eq!(value["message"], "odd");
        assert_eq!(value["pid"], 7);
        assert!(value["timestamp"].is_string());
    }

    #[test]
    fn the_level_changes_while_running() {
        let text = logged(LogFormat::Text, JOURNAL, |handle| {
            tracing::debug!("before");
            handle.set(&"debug".parse().unwrap()).unwrap();
            tracing::debug!("after");
        });
        assert_eq!(text, "DEBUG observer::logging::tests: after\n");
    }

    #[test]
    fn colours_are_for_willing_terminals() {
        let ansi = |terminal, no_color: Option<&str>| {
            TextStyle::new(terminal, false, no_color.map(OsStr::new)).ansi
        };
        assert!(ansi(true, None) && ansi(true, Some("")));
        assert!(!ansi(false, None) && !ansi(true, Some("1")));
    }

    #[test]
    fn journal_stream_is_compared_with_the_descriptor() {
        let file = tempfile::tempfile().unwrap();
        let meta = file.metadata().unwrap();
        let stream = |device: u64, inode: u64| format!("{device}:{inode}");
        assert!(is_stream(
            OsStr::new(&stream(meta.dev(), meta.ino())),
            &file
        ));
        assert!(!is_stream(
            OsStr::new(&stream(meta.dev(), meta.ino() + 1)),
            &file
        ));
        for bad in ["", "1", "a:b", "1:2:3"] {
            assert!(!is_stream(OsStr::new(bad), &file), "{bad}");
        }
    }
}
