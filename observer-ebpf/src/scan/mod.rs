//! Walks over existing kernel objects.

mod open_files;
mod udp;
