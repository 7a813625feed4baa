//! Evaluates a walk over all connections and sockets in TIME_WAIT, from the records of the BPF
//! iterators: local ports in use by destination, sockets that have been in a state for long, and
//! what connections wait for (`waits`) and for whom (`peers`).
//!
//! The kernel gives a connection any port of `ip_local_port_range` that is not reserved, not taken
//! by a bind(), and not in use towards the same destination from the same source address in the
//! same network namespace (`__inet_hash_connect`, net/ipv4/inet_hashtables.c). So ports are counted
//! for each such destination, and compared with the rest of the range. A port in TIME_WAIT is in
//! use. It is blocked, too, unless `net.ipv4.tcp_tw_reuse` lets connect() use it again (`reuse`).

mod collector;
mod destination;
mod history;
mod pace;
mod peers;
mod result;
mod reuse;
mod waits;

pub use collector::Collector;
pub use destination::{Destination, address};
pub use history::History;
pub use pace::Pause;
pub use peers::{Peer, PeerWait, Served};
pub use result::{DestinationUse, NamespaceUse, ProcessUse, Share, StatePeer, Walk};
pub use waits::{NOBODY, QUIET_SECONDS, UNANSWERED_SECONDS, Waits, wait_name};

/// Duration of TIME_WAIT: `TCP_TIMEWAIT_LEN` (include/net/tcp.h).
pub const TIME_WAIT_LENGTH: std::time::Duration = std::time::Duration::from_secs(60);
