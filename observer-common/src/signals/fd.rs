//! socket() and accept() calls that failed because file descriptors or memory ran out.

/// Exhaustion counters: `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`.
pub const FD_ERRNOS: [i32; 4] = [24, 23, 105, 12];
