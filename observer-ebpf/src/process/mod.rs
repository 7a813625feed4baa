//! What processes do with descriptors and sockets of every kind.

mod fd;
mod fd_passing;
mod sockopt;
