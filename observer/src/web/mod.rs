//! The HTTP server: /metrics, /healthz, /readyz, and a page for a first look.

mod page;
mod server;

#[cfg(test)]
mod tests;

pub use server::{App, BindError, Server};
