//! The recurring jobs of the daemon, one file each.

mod fds;
mod listeners;
mod ports;
pub mod reconcile;
pub mod resync;
mod tick;

pub use self::{
    fds::Fds, listeners::Listeners, ports::Ports, reconcile::Reconcile, resync::Resync, tick::Tick,
};
