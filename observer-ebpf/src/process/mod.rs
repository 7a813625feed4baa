//! What processes do with descriptors and sockets of every kind.

mod fd_passing;
mod sockopt;
