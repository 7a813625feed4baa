//! Local ports in use by destination, counted from the records of the BPF iterators.
//!
//! The kernel gives a connection any port of `ip_local_port_range` that is not reserved, not
//! taken by a bind(), and not in use towards the same destination from the same source
//! address in the same network namespace (`__inet_hash_connect`,
//! net/ipv4/inet_hashtables.c). So ports are counted for each such destination, and compared with
//! what remains of the range. A port in TIME_WAIT is in use. It is blocked, too, unless
//! `net.ipv4.tcp_tw_reuse` lets connect() use it again (`reuse`).

mod destination;
mod reuse;
mod usage;

pub use destination::{Destination, address};
pub use usage::{Collector, Share, Usage};
