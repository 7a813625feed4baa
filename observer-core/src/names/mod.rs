//! From numbers to names: what a label value or a line of `observer tail` says instead of
//! the number that the kernel gave. Unknown numbers stay numbers; nothing here fails.

mod errno;
mod options;
mod reset;
mod socket;
mod sockopt;

pub use errno::errno_name;
pub use reset::{ResetReasons, received_reset_name};
pub use socket::{family_name, protocol_name};
pub use sockopt::{level_name, option_name};
