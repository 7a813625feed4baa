//! The HTTP server: /metrics, /healthz, /readyz, /api/v1, and an overview page.

mod api;
mod auth;
mod config;
mod impatient;
mod inherited;
mod page;
mod routes;
mod server;
mod socket;
mod tls;

#[cfg(test)]
mod secured_tests;
#[cfg(test)]
mod tests;

pub use config::{WebConfig, WebConfigError, WebConfigFile};
pub use inherited::{Inherited, InheritedError};
pub use routes::App;
pub use server::{BindError, Server};
pub use socket::{ApiSocket, SocketError};
