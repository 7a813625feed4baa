//! Everything of observer that needs neither a kernel nor a network: names, processes, the table,
//! the exposition, records and settings.
//!
//! `cargo test -p observer-core` needs the stable toolchain and nothing else: no BPF linker, no
//! root, no build script. ARCHITECTURE.md has the code map.

pub mod binaries;
pub mod btf;
pub mod clock;
pub mod config;
pub mod contract;
pub mod detect;
pub mod doctor;
pub mod export;
pub mod heaviest;
pub mod hints;
pub mod host;
pub mod names;
pub mod net;
pub mod process;
pub mod record;
pub mod sync;
pub mod table;
pub mod text;
pub mod walk;
