//! Signals about descriptors and calls of processes.

mod fd;
mod fd_passing;
mod sockopt;
