//! The daemon's own log, on standard error or in the journal.

use std::{ffi::OsStr, fmt, io::IsTerminal as _};

use observer_core::{
    config::{LogFilter, LogFormat},
    text::harden_json,
};
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    layer::SubscriberExt as _,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt as _,
};

use crate::service::journal::{self, FINDINGS, Journal};

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

/// Starts logging to standard error. If that is the journal, lines of text become entries with fields.
///
/// # Errors
///
/// When a logger is already installed.
pub fn init(format: LogFormat, filter: &LogFilter) -> Result<LogHandle, LoggingError> {
    let is_journal = journal::is_stderr();
    let style = TextStyle::new(
        std::io::stderr().is_terminal(),
        is_journal,
        std::env::var_os("NO_COLOR").as_deref(),
    );
    let (filter, handle) = reload::Layer::new(env_filter(filter));
    // Without the journal's socket, the lines still reach the journal.
    let entries = (is_journal && format == LogFormat::Text).then(Journal::connect);
    let layer = match entries {
        Some(Ok(journal)) => journal.boxed(),
        _ => layer(format, style, std::io::stderr),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init()?;
    Ok(LogHandle(handle))
}

/// Writes the fields of findings at the top of the line. Events of `tracing` have no structured
/// values, so they are passed as text.
struct WithFindings<F>(F);

/// The parts of a finding's event.
#[derive(Default)]
struct Finding {
    message: String,
    fields: Map<String, Value>,
}

impl Visit for Finding {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.fields = serde_json::from_str(&text).unwrap_or_default();
        }
    }
}

#[derive(Serialize)]
struct FindingLine<'a> {
    timestamp: String,
    level: &'a str,
    message: String,
    #[serde(flatten)]
    fields: Map<String, Value>,
    target: &'a str,
}

impl<S, N, F> FormatEvent<S, N> for WithFindings<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        if metadata.target() != FINDINGS {
            return self.0.format_event(context, writer, event);
        }
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let mut finding = Finding::default();
        event.record(&mut finding);
        let line = FindingLine {
            timestamp,
            level: metadata.level().as_str(),
            message: finding.message,
            fields: finding.fields,
            target: metadata.target(),
        };
        let line = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
        // A program controls its name, and a terminal may show it.
        writeln!(writer, "{}", harden_json(&line))
    }
}

fn layer<S, W>(format: LogFormat, style: TextStyle, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match (format, style.timestamps) {
        (LogFormat::Json, _) => layer
            .json()
            .flatten_event(true)
            .with_ansi(false)
            .map_event_format(WithFindings)
            .boxed(),
        (LogFormat::Text, true) => layer.with_ansi(style.ansi).boxed(),
        (LogFormat::Text, false) => layer.with_ansi(style.ansi).without_time().boxed(),
    }
}

fn env_filter(filter: &LogFilter) -> EnvFilter {
    EnvFilter::new(filter.directives())
}

#[cfg(test)]
mod tests {
    use std::{
        io,
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
    fn findings_are_a_sentence_and_in_json_have_their_fields_at_the_top() {
        let finding = || {
            let fields = r#"{"anomaly":"fd_leak","evidence":{"open":3},"comm":"a\nb"}"#;
            tracing::error!(target: FINDINGS, %fields, "{} raised: …", "fd_leak");
        };
        let text = logged(LogFormat::Json, JOURNAL, |_| finding());
        assert_eq!(text.lines().count(), 1, "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["level"], "ERROR");
        assert_eq!(value["message"], "fd_leak raised: …");
        assert_eq!(value["target"], FINDINGS);
        assert_eq!(value["evidence"]["open"], 3);
        assert_eq!(value["comm"], "a\nb");
        assert!(value["timestamp"].as_str().unwrap().starts_with("20"));
        let text = logged(LogFormat::Text, JOURNAL, |_| {
            tracing::warn!(target: FINDINGS, "{}", "fd_leak raised: …");
        });
        assert_eq!(text, " WARN observer::findings: fd_leak raised: …\n");
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
}
