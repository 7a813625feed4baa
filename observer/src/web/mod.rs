//! The HTTP server: /metrics, /healthz, /readyz, /api/v1, and a page for a first look.

mod api;
mod page;
mod server;

#[cfg(test)]
mod tests;

pub use server::{App, BindError, Server};
