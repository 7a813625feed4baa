//! The Prometheus exposition.
