//! The log as entries of the systemd journal, with priority and fields
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL>).

use std::{
    ffi::OsStr,
    fmt::{self, Write as _},
    io,
    os::{fd::AsFd, unix::net::UnixDatagram},
    path::Path,
};

use observer_core::text::sanitize;
use serde_json::{Map, Value};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

/// The target of lines about findings. In JSON and in the journal they have a field `fields`, whose text is an
/// object.
pub const FINDINGS: &str = "observer::findings";

const SOCKET: &str = "/run/systemd/journal/socket";

/// Whether standard error goes to the journal.
#[must_use]
pub fn is_stderr() -> bool {
    let described = std::env::var_os("JOURNAL_STREAM");
    described.is_some_and(|described| is_stream(&described, io::stderr()))
}

/// Whether `fd` is the stream that systemd describes in JOURNAL_STREAM as `device:inode`. The
/// variable alone is not sufficient: children inherit it even if their standard error is another
/// file (systemd.exec(5)).
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

/// Writes each event as an entry. Its fields are in the message as in a line of text, and also fields of the entry:
/// `journalctl OBSERVER_SIGNAL=accept`.
#[derive(Debug)]
pub struct Journal(UnixDatagram);

impl Journal {
    /// Connects to the journal. To be called before the process restricts itself.
    ///
    /// # Errors
    ///
    /// When there is no journal.
    pub fn connect() -> io::Result<Self> {
        Self::connect_to(Path::new(SOCKET))
    }

    fn connect_to(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Self(socket))
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // There is no other log for this error.
        let _ = self.0.send(&entry(event));
    }
}

fn entry(event: &Event<'_>) -> Vec<u8> {
    let metadata = event.metadata();
    let is_finding = metadata.target() == FINDINGS;
    let mut text = Text {
        is_finding,
        ..Text::default()
    };
    event.record(&mut text);
    let mut entry = Vec::new();
    let mut put = |name: &str, value: &str| put(&mut entry, name, value);
    put("MESSAGE", &(text.message + &text.fields_text));
    put("PRIORITY", priority(*metadata.level()));
    put("SYSLOG_IDENTIFIER", "observer");
    put("OBSERVER_TARGET", metadata.target());
    for (name, value) in &text.fields {
        let name = name.to_uppercase().replace(['.', '-'], "_");
        let value = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        put(&format!("OBSERVER_{name}"), &value);
    }
    entry
}

/// Adds a field. A value with several lines is preceded by its length.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend(name.bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend((value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend(value.bytes());
    entry.push(b'\n');
}

/// The numbers of syslog(3).
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

/// What is read from an event.
#[derive(Default)]
struct Text {
    is_finding: bool,
    message: String,
    /// ` name=value` for each field.
    fields_text: String,
    fields: Map<String, Value>,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            let _ = write!(self.fields_text, " {field}={value:?}");
            self.fields.insert(field.name().to_owned(), value.into());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = format!("{value:?}");
        match field.name() {
            "message" => self.message = value,
            // Source location of messages of the crate `log`.
            name if name.starts_with("log.") => {}
            // The evidence of a finding, which is already in its sentence.
            "fields" if self.is_finding => {
                self.fields = serde_json::from_str(&value).unwrap_or_default();
            }
            name => {
                let _ = write!(self.fields_text, " {name}={}", sanitize(&value));
                self.fields.insert(name.to_owned(), value.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt as _, time::Duration};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// The entry that is sent while `log` runs.
    fn sent(log: impl FnOnce()) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let layer = Journal::connect_to(&path).unwrap();
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, log);
        let mut buffer = vec![0; 65_536];
        let length = journal.recv(&mut buffer).unwrap();
        buffer.truncate(length);
        buffer
    }

    #[test]
    fn an_entry_has_priority_message_and_fields() {
        let entry = sent(|| tracing::warn!(signal = "accept", hooks = 2, "not observed"));
        assert_eq!(
            String::from_utf8(entry).unwrap(),
            "MESSAGE=not observed signal=\"accept\" hooks=2\n\
             PRIORITY=4\n\
             SYSLOG_IDENTIFIER=observer\n\
             OBSERVER_TARGET=observer::service::journal::tests\n\
             OBSERVER_HOOKS=2\n\
             OBSERVER_SIGNAL=accept\n"
        );
    }

    #[test]
    fn a_finding_is_a_sentence_with_its_numbers_as_fields() {
        let fields =
            r#"{"anomaly":"fd_leak","evidence":{"open":3},"comm":"a\nPRIORITY=0","pid":7}"#;
        let entry = sent(|| tracing::error!(target: FINDINGS, %fields, "fd_leak raised: …"));
        let length = "a\nPRIORITY=0".len() as u64;
        let expected = [
            "MESSAGE=fd_leak raised: …\nPRIORITY=3\nSYSLOG_IDENTIFIER=observer\n".as_bytes(),
            b"OBSERVER_TARGET=observer::findings\n",
            b"OBSERVER_ANOMALY=fd_leak\n",
            b"OBSERVER_COMM\n",
            &length.to_le_bytes(),
            b"a\nPRIORITY=0\n",
            b"OBSERVER_EVIDENCE={\"open\":3}\n",
            b"OBSERVER_PID=7\n",
        ];
        assert_eq!(
            String::from_utf8_lossy(&entry),
            String::from_utf8_lossy(&expected.concat())
        );
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
