//! A simple HTTP client: one GET per connection.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::PATIENCE;

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// The status line and the headers, in lower case.
    pub head: String,
    pub body: String,
    /// From the connect to the last byte.
    pub took: Duration,
}

/// A GET.
pub fn get(address: SocketAddr, path: &str) -> Result<Reply> {
    ask(address, "GET", path)
}

/// A request without a body.
pub fn ask(address: SocketAddr, method: &str, path: &str) -> Result<Reply> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // With HTTP/1.0 the response is not chunked and ends with the connection.
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: observer\r\n\r\n")?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    let took = start.elapsed();
    let reply = String::from_utf8(reply).context("the answer is not UTF-8")?;
    let (head, body) = reply.split_once("\r\n\r\n").context("no answer")?;
    let status = head.get(9..12).and_then(|status| status.parse().ok());
    Ok(Reply {
        status: status.with_context(|| format!("no status in {head:?}"))?,
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
        took,
    })
}
