//! Everything of observer that needs neither a kernel nor a network: names, processes, the table,
//! the exposition, records and settings.
//!
//! `cargo test -p observer-core` needs the stable toolchain and nothing else: no BPF linker, no
//! root, no build script. ARCHITECTURE.md has the code map.

pub mod names;
pub mod sync;
pub mod text;
