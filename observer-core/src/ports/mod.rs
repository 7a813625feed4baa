//! Local ports in use, by destination: what the iterators wrote down, made into numbers.
//!
//! The kernel gives a connection any port of `ip_local_port_range` that is not reserved, not
//! taken by a bind(), and not in use towards the same destination from the same source
//! address in the same network namespace (`__inet_hash_connect`,
//! net/ipv4/inet_hashtables.c). So ports are counted for each such destination, and against
//! what that leaves of the range. Rest in TIME_WAIT is use. It blocks the port, too, unless
//! `net.ipv4.tcp_tw_reuse` lets connect() take it again (`reuse`).

mod destination;
mod reuse;
mod usage;

pub use destination::{Destination, address};
pub use usage::{Collector, Share, Usage};
