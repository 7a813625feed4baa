//! Processes as /proc and the cgroup tree describe them: identity, systemd unit or container, and
//! file descriptors.
//!
//! The files are untrusted input and change while they are read. So parsers take bytes and never
//! panic; a process that ends during a read is `None` and not an error; and values are attributed to
//! a [`ProcessKey`](observer_common::ProcessKey) only after comparing its start time, because pids
//! are reused.
//!
//! The parsers are our own and not those of the `procfs` crate, which insists on UTF-8 (a
//! comm, a mount point and a cgroup name are bytes) and can panic on a short line of
//! /proc/PID/limits.
//!
//! Requirements: the /proc of the initial pid namespace, because the kernel programs report
//! pids of that namespace, mounted without `hidepid` or readable regardless of it; and the
//! initial time namespace, because start times in /proc are shifted by the reader's.

pub mod cgroup;
pub mod cgroup_id;
pub mod fd_kinds;
pub mod fds;
#[cfg(test)]
pub(crate) mod fixture;
pub mod identity;
pub mod mapped;
pub mod own;
pub mod resources;
mod root;
pub mod unit;

pub(crate) use root::is_gone;
pub use root::{ProcError, ProcRoot};
pub use unit::{Unit, UnitKind};
