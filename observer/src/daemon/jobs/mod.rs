//! The recurring jobs of the daemon, one file each.

mod detect;
mod fd_kinds;
mod fds;
mod listeners;
mod namespaces;
mod ports;
pub mod reconcile;
pub mod resync;
mod tick;
pub mod tls;
mod web_config;

pub use self::{
    detect::Detect, fd_kinds::KindsOfFds, fds::Fds, listeners::Listeners, namespaces::Namespaces,
    ports::Ports, reconcile::Reconcile, resync::Resync, tick::Tick, tls::Tls,
    web_config::WebConfig,
};
