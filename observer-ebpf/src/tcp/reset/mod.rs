//! RSTs.

mod class;
mod received;
mod sent;
mod sources;
