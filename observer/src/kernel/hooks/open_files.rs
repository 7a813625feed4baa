//! The walk over the open files of all processes, which finds sockets older than the daemon.

use super::spec::{FallbackChain, ProgramSpec, chain, iter_task_file, variant};

/// The iterator over open files.
pub const ITER: ProgramSpec = iter_task_file("resync_iter");

/// Every chain of the signal.
pub const CHAINS: &[FallbackChain] = &[chain("sockets", &[variant(&[ITER], &[])])];
