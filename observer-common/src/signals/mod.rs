//! One file per signal: the indices of its counters and their label values, and the keys and values of
//! its maps. A signal that is a single counter of [`Slot`](crate::Slot) has no file.

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
