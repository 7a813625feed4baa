//! One file per signal: its counters in a [`Slot`](crate::Slot), their indices and label values, and
//! the keys and values of its maps.

mod accept;
mod bind;
mod connect;
mod fd;
mod listen;
mod ports;
mod quic;
mod reset;
mod retransmit;
mod sockopt;
mod state;
mod time_wait;
mod tls;
mod udp;
mod waiting;

pub use accept::*;
pub use bind::*;
pub use connect::*;
pub use fd::*;
pub use listen::*;
pub use ports::*;
pub use quic::*;
pub use reset::*;
pub use retransmit::*;
pub use sockopt::*;
pub use state::*;
pub use time_wait::*;
pub use tls::*;
pub use udp::*;
pub use waiting::*;
