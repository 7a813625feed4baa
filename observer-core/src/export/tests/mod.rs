//! What is exported, down to the bytes.

mod bound;
mod cost;
mod documented;
mod format;
mod samples;
mod sockets;

use super::testing::*;
