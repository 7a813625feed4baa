//! What programs of every signal are made of. Knows no signal.

pub mod call_args;
pub mod clock;
pub mod counters;
pub mod fd_lookup;
pub mod fields;
pub mod maps;
pub mod outcome;
pub mod process;
pub mod read;
pub mod records;
pub mod regs;
pub mod seq;
pub mod socket;
