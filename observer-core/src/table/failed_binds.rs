//! For which addresses calls of bind() and listen() failed, by name: from records, because counters have no addresses.

use super::{
    failed_calls::{FailedBinds, FailedCall},
    labels::Labels,
    store::Table,
};

impl Table {
    /// Adds calls to the names of their processes, which have been in the table since the last tick.
    pub fn add_failed_binds(&mut self, calls: &[FailedCall]) {
        for it in calls {
            let name = self.name_of_slot(it.owner.0, it.owner.1);
            let of_name = self.failed_binds.entry(name).or_default();
            match it.call {
                Some(call) => of_name.calls.add(call, 1.0),
                None => of_name.calls.add_others(1.0),
            }
            of_name.last_at = it.at;
            of_name.last_pid = it.pid;
        }
    }

    /// Calls `visit` for each name with such calls.
    pub fn visit_failed_binds(&self, visit: &mut dyn FnMut(&Labels, &FailedBinds)) {
        for (id, failed) in &self.failed_binds {
            visit(&self.names.get(*id).labels, failed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use observer_common::{Listener, ListenerKey, ListenerSample, V4_MAPPED};

    use super::*;
    use crate::table::{
        FailedBind, TableConfig,
        fake::{FakeFacts, FakeKernel, key},
    };

    fn call(owner: (u32, u32), pid: u32, at: u64, port: u16) -> FailedCall {
        FailedCall {
            owner,
            pid,
            at: Duration::from_secs(at),
            call: (port > 0).then(|| FailedBind {
                netns: 1,
                address: ([0; 4], port).into(),
                errno: 98,
                is_listen: false,
            }),
        }
    }

    /// A service that is started again and again, each time as another process.
    #[test]
    fn calls_of_ended_processes_count_for_their_name() {
        let kernel = FakeKernel::new(16);
        let facts = FakeFacts::default();
        let mut table = Table::new(TableConfig::default());
        let mut now = Instant::now();
        for pid in 1..=5 {
            let slot = kernel.spawn(pid, 1, b"web").unwrap();
            let owner = (slot, kernel.slot(slot).generation);
            table.tick(now, &kernel, &facts);
            let at = u64::from(pid);
            table.add_failed_binds(&[call(owner, pid, at, 80), call(owner, pid, at, 0)]);
            facts.kill(key(pid, 1));
            for _ in 0..10 {
                now += Duration::from_secs(1);
                table.tick(now, &kernel, &facts);
            }
            // Its slot is free, and the name that it counted for is still known.
            table.add_failed_binds(&[call(owner, pid, at, 81)]);
        }
        let mut all = Vec::new();
        table.visit_failed_binds(&mut |labels, it| {
            let calls = it.calls.first(9).into_iter();
            let calls: Vec<_> = calls.map(|(it, n)| (it.address.port(), n)).collect();
            all.push((
                labels.comm().to_owned(),
                calls,
                it.calls.total(),
                it.last_pid,
            ));
        });
        let expected = ("web".to_owned(), vec![(80, 5.0), (81, 5.0)], 15.0, 5);
        assert_eq!(all, [expected]);
    }

    #[test]
    fn holders_are_processes_if_they_are_known() {
        let kernel = FakeKernel::new(16);
        let facts = FakeFacts::default();
        let mut table = Table::new(TableConfig {
            max_processes: 1,
            ..TableConfig::default()
        });
        let mut now = Instant::now();
        let slots = [1, 2].map(|pid| kernel.spawn(pid, 1, b"web").unwrap());
        let sample = |slot: u32, port: u16| ListenerSample {
            key: ListenerKey {
                socket: u64::from(slot) << 16 | u64::from(port),
                born_ns: 1,
            },
            listener: Listener {
                slot,
                port,
                address: [0, 0, V4_MAPPED, 0],
                ..Listener::default()
            },
            ..ListenerSample::default()
        };
        let samples = [
            sample(slots[0], 80),
            sample(slots[1], 80),
            sample(slots[1], 81),
        ];
        let holders = |table: &Table| {
            let mut all = Vec::new();
            table.visit_holders(&mut |place, labels: &Arc<Labels>| {
                all.push((place.address.port(), labels.pid().map(str::to_owned)));
            });
            all
        };
        let of = |port, pid: &str| (port, Some(pid.to_owned()));
        table.tick(now, &kernel, &facts);
        table.update_listeners(&samples, None);
        // One of them is not shown by pid elsewhere.
        assert_eq!(holders(&table), [of(80, "1"), of(80, "2"), of(81, "2")]);
        facts.kill(key(2, 1));
        now += Duration::from_secs(1);
        table.tick(now, &kernel, &facts);
        table.update_listeners(&samples, None);
        assert_eq!(holders(&table), [of(80, "1"), (81, None)]);
    }
}
