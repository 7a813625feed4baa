//! The list of signals that programs count.

/// State transitions of TCP sockets.
pub const SIGNAL_STATE: u32 = 0;
/// Outcomes of connection attempts.
pub const SIGNAL_CONNECT: u32 = 1;
/// Accepted connections.
pub const SIGNAL_ACCEPT: u32 = 2;
/// RST segments sent.
pub const SIGNAL_RESET_SENT: u32 = 3;
/// RST segments received.
pub const SIGNAL_RESET_RECEIVED: u32 = 4;
/// Sockets that entered TIME_WAIT.
pub const SIGNAL_TIME_WAIT: u32 = 5;
/// Failed setsockopt calls.
pub const SIGNAL_SETSOCKOPT: u32 = 6;
/// Calls that failed because file descriptors, or memory for sockets, ran out.
pub const SIGNAL_FD: u32 = 7;
/// Retransmitted segments.
pub const SIGNAL_RETRANSMIT: u32 = 8;
/// Sockets that left TIME_WAIT.
pub const SIGNAL_TIME_WAIT_END: u32 = 9;
/// TCP sockets that a process received from another one (SCM_RIGHTS, pidfd_getfd).
pub const SIGNAL_RECEIVED: u32 = 10;
/// Searches for a local port that failed.
pub const SIGNAL_PORTS: u32 = 11;
/// Connection requests that found an accept queue full.
pub const SIGNAL_LISTEN_OVERFLOW: u32 = 12;
/// Calls of bind() and listen() on TCP sockets that failed.
pub const SIGNAL_BIND: u32 = 13;
/// Sockets closed without TIME_WAIT because buckets or memory ran out.
pub const SIGNAL_TIME_WAIT_OVERFLOW: u32 = 14;
/// TLS handshakes.
pub const SIGNAL_TLS: u32 = 15;
/// Datagrams dropped at UDP sockets.
pub const SIGNAL_UDP_DROPS: u32 = 16;
/// Early data and stream resets of QUIC.
pub const SIGNAL_QUIC: u32 = 17;
/// How many signals there are.
pub const SIGNALS: usize = 18;

/// Label values, in the order of the `SIGNAL_` numbers.
pub const SIGNAL_NAMES: [&str; SIGNALS] = [
    "state",
    "connect",
    "accept",
    "reset_sent",
    "reset_received",
    "time_wait",
    "setsockopt",
    "fd",
    "retransmit",
    "time_wait_end",
    "fd_received",
    "port_exhausted",
    "listen_overflow",
    "bind",
    "time_wait_overflow",
    "tls",
    "udp_receive_drops",
    "quic",
];
