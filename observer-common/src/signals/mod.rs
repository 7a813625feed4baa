//! One file per signal: what its counters are indexed by, the values and keys of its maps, and
//! its label values. A signal that is a single counter of [`Slot`](crate::Slot) has none.

mod bind;
mod connect;
mod fd;
mod listen;
mod ports;
mod reset;
mod sockopt;
mod state;
mod time_wait;

pub use bind::*;
pub use connect::*;
pub use fd::*;
pub use listen::*;
pub use ports::*;
pub use reset::*;
pub use sockopt::*;
pub use state::*;
pub use time_wait::*;
