//! Walks over kernel objects that exist already.

mod open_files;
mod udp;
