//! Removes entries of sockets whose end the kernel programs missed.

use std::{sync::Mutex, time::Duration};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use observer_common::{CLOSE, Conn, correct_handover, unpack_handover};

use super::{slots::Slots, stats::Stats, take_hash};
use observer_core::sync::lock;

use crate::kernel::clock::monotonic_ns;

/// Time after which an entry with a missed end is removed.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Whether the socket of an entry closed more than ten minutes before `now` (`bpf_ktime_get_ns`), and
/// resynchronisation `epoch` found no process that holds it.
fn has_ended(conn: &Conn, epoch: u32, now: u64) -> bool {
    let age = now.saturating_sub(conn.entered_ns);
    conn.state == CLOSE && conn.epoch != epoch && age > MAX_AGE.as_nanos() as u64
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
        let now = monotonic_ns();
        let stale: Vec<_> = connections
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, conn)| has_ended(conn, epoch, now))
            .collect();
        let mut swept = 0;
        for (socket, _) in stale {
            // The walk over the map takes time, and the address may be a new socket's by now.
            let Some(conn) = connections
                .get(&socket, 0)
                .ok()
                .filter(|conn| has_ended(conn, epoch, now))
            else {
                continue;
            };
            if connections.remove(&socket).is_ok() {
                slots.remove_socket(conn.slot);
                if conn.handover != 0 {
                    // As in `complete_handover` of the kernel programs.
                    let (to, adjusted) = unpack_handover(conn.handover);
                    let adjust = |slot, state, by| slots.adjust_live(slot, state, by);
                    correct_handover(conn.slot, to, adjusted, CLOSE, adjust);
                    slots.complete_pass_on(conn.slot);
                    slots.remove_socket(to);
                }
                stats.count_removed_connection();
                swept += 1;
            }
        }
        swept
    }
}

#[cfg(test)]
mod tests {
    use observer_common::{ESTABLISHED, TIMED_STATES, pack_handover};

    use super::*;

    #[test]
    fn a_closed_entry_has_ended_unless_a_walk_found_its_holder() {
        const EPOCH: u32 = 40;
        const NOW: u64 = 3_600_000_000_000;
        let ended = |change: fn(&mut Conn)| {
            let mut conn = Conn {
                slot: 3,
                flags: 0,
                state: CLOSE,
                previous: ESTABLISHED,
                born_ns: 0,
                entered_ns: 0,
                handover: 0,
                epoch: EPOCH - 1,
                retransmits: 0,
                accepted: 1,
                error: 0,
                copied_seq: 0,
                unread_since: 0,
                waited_for: 0,
                waited_ms: 0,
                spent: [0; TIMED_STATES.len()],
            };
            change(&mut conn);
            has_ended(&conn, EPOCH, NOW)
        };
        assert!(ended(|_| {}));
        assert!(ended(|conn| conn.handover = pack_handover(4, CLOSE)));
        assert!(!ended(|conn| conn.epoch = EPOCH));
        assert!(!ended(|conn| conn.state = ESTABLISHED));
        assert!(!ended(|conn| conn.entered_ns = NOW));
    }
}
