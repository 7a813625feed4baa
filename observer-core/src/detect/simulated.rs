//! Series drawn at random, with known ends: what must be raised, how soon, and what must stay silent.
//!
//! A series has a sample a second. The one before the first has zero counters, and starts the differences.

mod draw;
mod play;

mod accept_queues;
mod close_wait;
mod connects;
mod descriptors;
mod gave_up;
mod idle;
mod ports;
mod quic;
mod resets;
mod scans;
mod silence;
mod time_wait;
mod tls;
mod tls_failures;
mod waits;
