//! Infers which listener's accept queue overflowed, if no function hook is attached.
//!
//! A request that is dropped because the accept queue is full increments ListenOverflows and
//! ListenDrops of the namespace and `sk_drops` of the listener (`tcp_conn_request`,
//! `tcp_v4_syn_recv_sock` and `tcp_listendrop`). Other drops increment the latter two only. So a
//! listener has at least the number of a namespace's overflows that exceeds the drops of all
//! others. The rest is attributed to the listener whose queue is full, if there is exactly one.

use std::collections::{BTreeMap, HashMap};

use observer_common::{ListenerKey, ListenerSample};

/// Connection requests that were dropped because the accept queue was full, as inferred from a
/// network namespace's counters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overflows {
    /// By listener: as many as were certainly its own, and those left if its queue alone is full.
    pub attributed: Vec<(ListenerSample, u64)>,
    /// Those that may belong to any of several listeners.
    pub unattributed: u64,
}

/// The counters of a namespace and its listeners when they were last read consistently.
#[derive(Debug)]
struct Namespace {
    /// ListenOverflows.
    overflows: u64,
    /// Drops that are already divided, by listener.
    drops: HashMap<ListenerKey, u32>,
    /// Listeners that have ended since.
    ended: Vec<ListenerSample>,
}

/// Separates overflows from other drops.
#[derive(Debug, Default)]
pub struct Inference {
    namespaces: HashMap<u32, Namespace>,
}

impl Inference {
    /// The namespaces that have to be read: those not known yet, and those where a listener
    /// dropped something. By namespace, the slot of a listener in it.
    #[must_use]
    pub fn wanted(&self, samples: &[ListenerSample]) -> BTreeMap<u32, u32> {
        let wanted = samples.iter().filter(|sample| {
            let namespace = self.namespaces.get(&sample.listener.netns);
            namespace.is_none_or(|known| !known.ended.is_empty() || known.new_drops(sample) > 0)
        });
        wanted
            .map(|sample| (sample.listener.netns, sample.listener.slot))
            .collect()
    }

    /// Keeps the last samples of listeners that ended, until their namespace is resolved.
    pub fn note_ended(&mut self, samples: &[ListenerSample]) {
        for sample in samples.iter().filter(|it| it.listener.closed != 0) {
            if let Some(namespace) = self.namespaces.get_mut(&sample.listener.netns)
                && namespace.new_drops(sample) > 0
            {
                namespace.ended.push(*sample);
            }
        }
    }

    /// Divides the new overflows of `netns` among its listeners. `total` is ListenOverflows, read
    /// before `samples`, so that each overflow in it is among their drops.
    pub fn resolve(
        &mut self,
        netns: u32,
        total: u64,
        samples: &[ListenerSample],
        into: &mut Overflows,
    ) {
        let here = || samples.iter().filter(|it| it.listener.netns == netns);
        let drops = || {
            here()
                .filter(|it| it.listener.closed == 0)
                .map(|it| (it.key, it.listener.dropped()))
                .collect()
        };
        let Some(namespace) = self.namespaces.get_mut(&netns) else {
            self.namespaces.insert(
                netns,
                Namespace {
                    overflows: total,
                    drops: drops(),
                    ended: Vec::new(),
                },
            );
            return;
        };
        let ended = std::mem::take(&mut namespace.ended);
        let shares: Vec<(ListenerSample, u64)> = here()
            .filter(|it| it.listener.closed == 0)
            .chain(&ended)
            .map(|it| (*it, u64::from(namespace.new_drops(it))))
            .filter(|(_, drops)| *drops > 0)
            .collect();
        let overflows = total.saturating_sub(namespace.overflows);
        let dropped: u64 = shares.iter().map(|(_, drops)| drops).sum();
        let mut left = overflows;
        let mut attributed: Vec<(ListenerSample, u64, u64)> = shares
            .into_iter()
            .map(|(sample, drops)| {
                let others = dropped - drops;
                let certain = overflows.saturating_sub(others).min(drops);
                left -= certain;
                (sample, certain, drops - certain)
            })
            .collect();
        let mut full = attributed.iter_mut().filter(|(it, ..)| is_full(it));
        if let (Some((_, count, rest)), None) = (full.next(), full.next()) {
            let more = left.min(*rest);
            *count += more;
            left -= more;
        }
        let attributed = attributed.into_iter().filter(|(_, count, _)| *count > 0);
        into.attributed
            .extend(attributed.map(|(sample, count, _)| (sample, count)));
        into.unattributed += left;
        namespace.overflows = total;
        namespace.drops = drops();
    }

    /// Forgets namespaces that have no listener any more.
    pub fn retain(&mut self, samples: &[ListenerSample]) {
        self.namespaces
            .retain(|netns, _| samples.iter().any(|it| it.listener.netns == *netns));
    }
}

/// Whether the accept queue is full (`sk_acceptq_is_full`, `include/net/sock.h`).
fn is_full(sample: &ListenerSample) -> bool {
    sample.listener.closed == 0 && sample.backlog > sample.max_backlog
}

impl Namespace {
    fn new_drops(&self, sample: &ListenerSample) -> u32 {
        let known = self.drops.get(&sample.key).copied().unwrap_or(0);
        sample.listener.dropped().wrapping_sub(known)
    }
}

#[cfg(test)]
mod tests {
    use observer_common::Listener;

    use super::*;

    fn sample(socket: u64, drops: u32, closed: u32) -> ListenerSample {
        ListenerSample {
            key: ListenerKey { socket, born_ns: 1 },
            listener: Listener {
                drops: drops + 7,
                drops_before: 7,
                closed,
                netns: 5,
                ..Listener::default()
            },
            ..ListenerSample::default()
        }
    }

    /// The attributed overflows, by socket, and the unattributed ones, with drops and overflows that start at zero.
    fn inferred(total: u64, drops: &[u32]) -> (Vec<(u64, u64)>, u64) {
        let mut inference = Inference::default();
        let mut overflows = Overflows::default();
        let quiet: Vec<_> = (1..)
            .zip(drops)
            .map(|(socket, _)| sample(socket, 0, 0))
            .collect();
        assert_eq!(inference.wanted(&quiet).len(), 1);
        inference.resolve(5, 100, &quiet, &mut overflows);
        assert!(inference.wanted(&quiet).is_empty());
        let after: Vec<_> = (1..)
            .zip(drops)
            .map(|(socket, drops)| sample(socket, *drops, 0))
            .collect();
        inference.resolve(5, 100 + total, &after, &mut overflows);
        assert!(inference.wanted(&after).is_empty());
        let attributed = overflows
            .attributed
            .iter()
            .map(|(sample, count)| (sample.key.socket, *count))
            .collect();
        (attributed, overflows.unattributed)
    }

    #[test]
    fn only_what_is_certain_is_attributed() {
        assert_eq!(inferred(0, &[3, 0]), (vec![], 0));
        // One listener dropped: all are its.
        assert_eq!(inferred(3, &[3, 0]), (vec![(1, 3)], 0));
        assert_eq!(inferred(2, &[3, 0]), (vec![(1, 2)], 0));
        // All drops were overflows.
        assert_eq!(inferred(7, &[3, 4]), (vec![(1, 3), (2, 4)], 0));
        // At least two of the five are the second's, the other three may be either's.
        assert_eq!(inferred(5, &[3, 4]), (vec![(1, 1), (2, 2)], 2));
        assert_eq!(inferred(3, &[3, 4]), (vec![], 3));
        // Drops of a listener that is not known.
        assert_eq!(inferred(5, &[3]), (vec![(1, 3)], 2));
    }

    #[test]
    fn what_is_left_belongs_to_the_only_full_queue() {
        let resolved = |full: [bool; 2]| {
            let mut inference = Inference::default();
            let mut overflows = Overflows::default();
            inference.resolve(5, 0, &[sample(1, 0, 0), sample(2, 0, 0)], &mut overflows);
            // The first has put off the ACKs of 50 handshakes (TCP_DEFER_ACCEPT).
            let mut after = [sample(1, 50, 0), sample(2, 20, 0)];
            for (sample, full) in after.iter_mut().zip(full) {
                sample.max_backlog = 8;
                sample.backlog = 8 + u32::from(full);
            }
            inference.resolve(5, 20, &after, &mut overflows);
            let attributed = overflows.attributed.iter();
            let attributed: Vec<_> = attributed.map(|(it, n)| (it.key.socket, *n)).collect();
            (attributed, overflows.unattributed)
        };
        assert_eq!(resolved([false, true]), (vec![(2, 20)], 0));
        assert_eq!(resolved([true, false]), (vec![(1, 20)], 0));
        assert_eq!(resolved([true, true]), (vec![], 20));
        assert_eq!(resolved([false, false]), (vec![], 20));
    }

    #[test]
    fn a_listener_that_ended_still_has_its_share() {
        let mut inference = Inference::default();
        let mut overflows = Overflows::default();
        inference.resolve(5, 0, &[sample(1, 0, 0), sample(2, 0, 0)], &mut overflows);
        let ended = [sample(1, 4, 1), sample(2, 0, 0)];
        inference.note_ended(&ended);
        let now = [sample(2, 0, 0)];
        assert_eq!(inference.wanted(&now).len(), 1);
        inference.resolve(5, 4, &now, &mut overflows);
        let [(sample, 4)] = overflows.attributed[..] else {
            panic!("{overflows:?}")
        };
        assert_eq!(sample.key.socket, 1);
        assert!(inference.wanted(&now).is_empty());
        inference.retain(&[]);
        assert_eq!(inference.wanted(&now).len(), 1);
    }
}
