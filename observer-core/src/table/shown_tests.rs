//! Tests which processes are shown when there are too many.

use std::time::{Duration, Instant};

use observer_common::{ESTABLISHED, Slot};

use crate::table::{
    Kind, Table, TableConfig,
    fake::{FakeFacts, FakeKernel, key},
};

struct Bench {
    kernel: FakeKernel,
    facts: FakeFacts,
    table: Table,
    now: Instant,
}

impl Bench {
    /// Two places and four processes, of which each has more sockets than the one before.
    fn new() -> Self {
        let bench = Self {
            kernel: FakeKernel::new(16),
            facts: FakeFacts::default(),
            table: Table::new(TableConfig {
                max_processes: 2,
                ..TableConfig::default()
            }),
            now: Instant::now(),
        };
        for pid in 1..=4 {
            let slot = bench.kernel.spawn(pid, 1, b"p").unwrap();
            bench
                .kernel
                .change(slot, |slot| sockets(slot, i64::from(pid) * 1000));
        }
        bench
    }

    fn seconds(&mut self, n: u32) {
        for _ in 0..n {
            self.now += Duration::from_secs(1);
            self.table.tick(self.now, &self.kernel, &self.facts);
        }
    }

    fn change(&self, pid: u32, change: impl FnOnce(&mut Slot)) {
        let slots = self.kernel.slots.lock().unwrap().clone();
        let index = slots.iter().position(|slot| slot.key == key(pid, 1));
        self.kernel.change(index.unwrap() as u32, change);
    }

    fn shown(&self) -> Vec<u32> {
        let mut shown = Vec::new();
        self.table.visit(&self.kernel, &self.facts, &mut |view| {
            if let Kind::Process {
                key, shown: true, ..
            } = view.kind
            {
                shown.push(key.tgid);
            }
        });
        shown.sort_unstable();
        shown
    }
}

fn sockets(slot: &mut Slot, count: i64) {
    slot.sockets = count;
    slot.state.adjust[usize::from(ESTABLISHED)] = count;
}

#[test]
fn those_with_the_most_sockets_are_shown() {
    let mut bench = Bench::new();
    bench.table.discover(&bench.kernel, &bench.facts);
    assert_eq!(bench.shown(), [1, 2], "the first, until the first choice");
    bench.seconds(1);
    assert_eq!(bench.shown(), [3, 4]);
    assert_eq!(
        (
            bench.table.processes().shown,
            bench.table.processes().hidden
        ),
        (2, 2)
    );
}

#[test]
fn a_place_is_kept_for_a_while_and_against_slightly_greater_ones() {
    let mut bench = Bench::new();
    bench.seconds(1);
    bench.change(1, |slot| sockets(slot, 50_000));
    bench.seconds(50);
    assert_eq!(bench.shown(), [3, 4], "shown for less than a minute");
    bench.seconds(20);
    assert_eq!(bench.shown(), [1, 4]);
    bench.seconds(100);
    // A fifth more is not enough.
    bench.change(3, |slot| sockets(slot, 4800));
    bench.seconds(100);
    assert_eq!(bench.shown(), [1, 4]);
    bench.change(3, |slot| sockets(slot, 5100));
    bench.seconds(10);
    assert_eq!(bench.shown(), [1, 3]);
}

#[test]
fn trouble_comes_first_and_at_once() {
    let mut bench = Bench::new();
    bench.seconds(1);
    bench.change(1, |slot| slot.reset.sent[1] += 5);
    bench.seconds(6);
    assert_eq!(bench.shown(), [1, 4]);
    // It is forgotten in time.
    bench.seconds(600);
    assert_eq!(bench.shown(), [3, 4]);
}

#[test]
fn the_exited_hold_no_place() {
    let mut bench = Bench::new();
    bench.seconds(1);
    for pid in [3, 4] {
        bench.facts.kill(key(pid, 1));
    }
    bench.seconds(1);
    assert_eq!(bench.shown(), [1, 2]);
    assert_eq!(bench.table.processes().exited, 2, "they still have sockets");
}

#[test]
fn all_are_shown_while_there_is_room() {
    let mut bench = Bench::new();
    bench.seconds(1);
    bench.table.config.max_processes = 4;
    bench.seconds(1);
    assert_eq!(bench.shown(), [1, 2, 3, 4]);
    bench.table.config.max_processes = 0;
    bench.seconds(6);
    assert!(bench.shown().is_empty());
}
