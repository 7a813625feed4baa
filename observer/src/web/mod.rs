//! The HTTP server: /metrics, /healthz, /readyz, /api/v1, and a page for a first look.

mod api;
mod page;
mod server;
mod socket;

#[cfg(test)]
mod tests;

pub use server::{App, BindError, Server};
pub use socket::{ApiSocket, SocketError};
