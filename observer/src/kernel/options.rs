//! The daemon's settings for the kernel side.

use std::path::PathBuf;

use observer_core::contract::{Hooks, ObserveTls, SyscallTracepoints};

/// Sizes and switches of the kernel side.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Bytes of the ring: a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Entries of the connection map.
    pub max_connections: u32,
    /// Slots for processes.
    pub slots: u32,
    /// Counters of failed setsockopt calls.
    pub max_sockopt_failures: u32,
    /// Kinds of record to write, one bit per `RECORD_` number.
    pub record_mask: u32,
    /// Where to read BTF from.
    pub btf: PathBuf,
    /// The best attach type to use.
    pub hooks: Hooks,
    /// Whether tracepoints of system calls may be used.
    pub syscall_tracepoints: SyscallTracepoints,
    /// Whether TLS handshakes are observed.
    pub tls: ObserveTls,
    /// Whether to run the self-test of the hooks. It needs CAP_SYS_ADMIN; without it,
    /// [`Loaded::untested`](super::Loaded::untested) says so.
    pub self_test: bool,
    /// Whether the kernel programs log (to the `log` facade, at debug level). When off, the
    /// verifier removes the code.
    pub log: bool,
}
