//! Asks a running daemon, over its Unix socket.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use thiserror::Error;

use crate::privileges::group_name;

/// Timeout of a request, which the daemon answers from memory.
const PATIENCE: Duration = Duration::from_secs(10);

/// No response.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No socket, or no process listens on it.
    #[error("no observer listens on the API socket {0}")]
    NoDaemon(PathBuf),
    /// Only root, the daemon's user and a group may connect.
    #[error("permission denied: {path}; {}", remedy(group.as_deref()))]
    Denied {
        /// The socket.
        path: PathBuf,
        /// The group, if it is another one than that of root.
        group: Option<String>,
    },
    /// The connection failed.
    #[error("the observer on {path} does not answer")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An error response.
    #[error("the observer answers with status {status}: {text}")]
    Refused {
        /// Of HTTP.
        status: u16,
        /// The body.
        text: String,
    },
    /// The response is not JSON, so the server may not be an observer.
    #[error("unexpected answer: is this an observer?")]
    Strange,
}

fn remedy(group: Option<&str>) -> String {
    match group {
        Some(group) => format!(
            "run it with sudo, or join the group {group} (`sudo usermod -aG {group} \"$USER\"`, then log in again)"
        ),
        None => "run it with sudo, or let a group use it (--api-group of the daemon)".to_owned(),
    }
}

/// The name or number of the group that may use the socket.
fn group_of(socket: &Path) -> Option<String> {
    let group = socket.metadata().ok()?.gid();
    (group != 0).then(|| group_name(group).unwrap_or_else(|| group.to_string()))
}

/// The JSON at `path` of the API, as in `/api/v1/anomalies`, of the daemon that listens on `socket`.
///
/// # Errors
///
/// When there is no daemon, or it does not answer.
pub fn get(socket: &Path, path: &str) -> Result<Value, ClientError> {
    let of_socket = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NoDaemon(socket.to_owned())
        }
        io::ErrorKind::PermissionDenied => ClientError::Denied {
            path: socket.to_owned(),
            group: group_of(socket),
        },
        _ => ClientError::Broken {
            path: socket.to_owned(),
            source,
        },
    };
    let ask = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // With HTTP/1.0 the response is not chunked and ends with the connection.
        let request = format!("GET {path} HTTP/1.0\r\nHost: observer\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = String::from_utf8(ask().map_err(of_socket)?).map_err(|_| ClientError::Strange)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(ClientError::Strange)?;
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
    match status.ok_or(ClientError::Strange)? {
        200 => serde_json::from_str(body).map_err(|_| ClientError::Strange),
        status => Err(ClientError::Refused {
            status,
            text: body.trim().to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn it_says_why_there_is_no_answer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let asked = || get(&path, "/api/v1/anomalies");
        assert!(matches!(asked(), Err(ClientError::NoDaemon(_))));
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(asked(), Err(ClientError::NoDaemon(_))));
        std::fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let answer = |text: &'static str| {
            let listener = listener.try_clone().unwrap();
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 512]).unwrap();
                stream.write_all(text.as_bytes()).unwrap();
            })
        };
        for (text, expected) in [
            ("", "unexpected answer: is this an observer?"),
            (
                "HTTP/1.0 200 OK\r\n\r\n{",
                "unexpected answer: is this an observer?",
            ),
            (
                "HTTP/1.0 400 Bad Request\r\n\r\nwrong\n",
                "the observer answers with status 400: wrong",
            ),
        ] {
            let server = answer(text);
            assert_eq!(asked().unwrap_err().to_string(), expected);
            server.join().unwrap();
        }
        let server = answer("HTTP/1.0 200 OK\r\nA: b\r\n\r\n{\"findings\":[]}");
        assert_eq!(asked().unwrap()["findings"], serde_json::json!([]));
        server.join().unwrap();
    }
}
