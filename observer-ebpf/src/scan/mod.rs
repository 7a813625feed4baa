//! Walks over what is there already.

mod open_files;
