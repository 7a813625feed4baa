//! Entries of sockets whose end the kernel programs missed.

use std::{sync::Mutex, time::Duration};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use observer_common::{CLOSE, Conn};

use super::{slots::Slots, stats::Stats, take_hash};
use observer_core::sync::lock;

use crate::kernel::clock::monotonic_ns;

/// How long an entry is kept whose end was missed.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Whether an entry that is in its last state since `entered_ns` is older than ten minutes.
fn is_stale(entered_ns: u64) -> bool {
    monotonic_ns().saturating_sub(entered_ns) > MAX_AGE.as_nanos() as u64
}

/// Whether the socket of an entry closed more than ten minutes ago, and resynchronisation `epoch` found
/// no process that holds it.
fn has_ended(conn: &Conn, epoch: u32) -> bool {
    conn.state == CLOSE && conn.handover == 0 && conn.epoch != epoch && is_stale(conn.entered_ns)
}

/// The map of connections.
pub struct Connections(Mutex<HashMap<MapData, u64, Conn>>);

impl Connections {
    /// Takes the map out of `ebpf`.
    ///
    /// # Errors
    ///
    /// When it is missing.
    pub fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self(Mutex::new(take_hash(ebpf, "CONNECTIONS")?)))
    }

    /// Removes the entries of sockets that closed more than ten minutes ago and that no process
    /// was found to hold in resynchronisation `epoch`. Returns how many.
    pub fn sweep(&self, epoch: u32, slots: &Slots, stats: &Stats) -> u64 {
        let mut connections = lock(&self.0);
        let stale: Vec<_> = connections
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, conn)| has_ended(conn, epoch))
            .collect();
        let mut swept = 0;
        for (socket, _) in stale {
            // The walk over the map takes time, and the address may be a new socket's by now.
            let Some(conn) = connections
                .get(&socket, 0)
                .ok()
                .filter(|conn| has_ended(conn, epoch))
            else {
                continue;
            };
            if connections.remove(&socket).is_ok() {
                slots.remove_socket(conn.slot);
                stats.count_removed_connection();
                swept += 1;
            }
        }
        swept
    }
}
