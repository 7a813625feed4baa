//! Names of the kernel's numbers, for label values and records. Unknown numbers stay numbers.

mod errno;
mod options;
mod reset;
mod socket;
mod sockopt;

pub use errno::errno_name;
pub use reset::{ResetReasons, received_reset_name};
pub use socket::{family_name, protocol_name};
pub use sockopt::{level_name, option_name};
