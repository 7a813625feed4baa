//! The tests on a real kernel, one module for each subject. They need root and BPF, and count the
//! events of the whole machine, so they run one at a time: `cargo xtask test`.

#[macro_use]
extern crate observer_test_support;

mod accept;
mod api;
mod benign;
mod binds;
mod cgroups;
mod connect;
mod connect_rare;
mod connect_strace;
mod connection_errors;
mod corners;
mod daemon;
mod doctor;
mod errors;
mod exact;
mod failed_options;
mod field;
mod findings;
mod full_maps;
mod functions;
mod gave_up;
mod http2;
mod instructions;
mod io_uring;
mod layout;
mod listen;
mod mptcp;
mod namespaces;
mod ownership;
mod ports;
mod quic;
mod real_programs;
mod reset;
mod reset_answer;
mod retransmit;
mod scenarios;
mod seed;
mod service;
mod setsockopt;
mod sources;
mod state;
mod stream;
mod time_wait;
mod tls;
mod tls_at_start;
mod tls_programs;
mod udp;
mod units;
mod waiting;
mod walk;
mod web;

/// Waits until an RST that was received, and may be the observed side's own abort, is certain.
fn wait_until_resets_are_certain() {
    let pending = std::time::Duration::from_nanos(observer_common::PENDING_NS);
    std::thread::sleep(3 * pending);
}
