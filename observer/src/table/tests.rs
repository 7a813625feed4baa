//! The table's decisions, one by one.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use observer_common::{CLOSE, ESTABLISHED, SLOT_OVERFLOW, SLOT_UNATTRIBUTED, SYN_SENT, Slot};

use super::{
    Kind, Table, TableConfig,
    fake::{FakeFacts, FakeKernel, key},
    printable,
};

struct Bench {
    kernel: FakeKernel,
    facts: FakeFacts,
    table: Table,
    now: Instant,
}

/// What a test looks at.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    accepts: u64,
    established: i64,
    failures: u64,
    time_wait: u64,
    alive: Option<bool>,
}

impl Bench {
    fn new(max_processes: usize) -> Self {
        Self {
            kernel: FakeKernel::new(16),
            facts: FakeFacts::default(),
            table: Table::new(TableConfig {
                max_processes,
                ..TableConfig::default()
            }),
            now: Instant::now(),
        }
    }

    fn ticks(&mut self, n: u32) {
        for _ in 0..n {
            self.now += Duration::from_secs(1);
            self.table.tick(self.now, &self.kernel, &self.facts);
        }
    }

    /// A process that accepts once, ends and is folded.
    fn accept_and_exit(&mut self, pid: u32, comm: &[u8]) {
        let slot = self.kernel.spawn(pid, 1, comm).unwrap();
        self.kernel.change(slot, accept);
        self.ticks(1);
        self.facts.kill(key(pid, 1));
        self.ticks(10);
    }

    fn series(&mut self) -> BTreeMap<String, Seen> {
        let mut series = BTreeMap::new();
        self.table.visit(&self.kernel, &self.facts, &mut |view| {
            let name = format!(
                "{}/{}/{}",
                view.labels.pid(),
                view.labels.comm(),
                view.labels.unit()
            );
            let seen = Seen {
                accepts: view.counts.accepts,
                established: view.counts.live(ESTABLISHED),
                failures: view.failures.values().sum(),
                time_wait: view.time_wait,
                alive: match view.kind {
                    Kind::Process { alive, .. } => Some(alive),
                    _ => None,
                },
            };
            assert!(series.insert(name, seen).is_none(), "two series alike");
        });
        series
    }
}

fn accept(slot: &mut Slot) {
    slot.accepts += 1;
}

#[test]
fn an_exited_process_is_folded_once_it_is_quiet() {
    let mut bench = Bench::new(10);
    let slot = bench.kernel.spawn(7, 1, b"nginx").unwrap();
    bench
        .facts
        .units
        .lock()
        .unwrap()
        .insert(7, "web.service".into());
    bench.kernel.change(slot, |slot| {
        accept(slot);
        slot.sockets = 1;
        // A missed transition leaves one socket too many.
        slot.transitions[usize::from(SYN_SENT)][usize::from(ESTABLISHED)] = 2;
        slot.transitions[usize::from(ESTABLISHED)][usize::from(CLOSE)] = 1;
    });
    bench.kernel.fail_setsockopt(slot, 3);
    bench.ticks(1);
    bench.facts.kill(key(7, 1));
    bench.ticks(30);
    let seen = &bench.series()["7/nginx/web.service"];
    assert_eq!(seen.alive, Some(false), "it still holds a socket");
    assert_eq!(bench.table.processes().exited, 1);

    bench.kernel.change(slot, |slot| slot.sockets = 0);
    bench.ticks(5);
    assert_eq!(bench.kernel.slot(slot).generation, 0, "grace not over");
    bench.kernel.change(slot, accept);
    bench.ticks(1);
    assert_eq!(bench.kernel.slot(slot).generation, 1);
    let series = bench.series();
    assert!(!series.contains_key("7/nginx/web.service"));
    assert_eq!(
        series["exited/nginx/web.service"],
        Seen {
            accepts: 2,
            established: 0,
            failures: 1,
            time_wait: 0,
            alive: None,
        }
    );
    assert!(bench.kernel.failures.lock().unwrap().is_empty());
}

#[test]
fn two_quiet_ticks_are_needed_however_short_the_grace() {
    let mut bench = Bench::new(10);
    bench.table.config.grace = Duration::ZERO;
    let slot = bench.kernel.spawn(7, 1, b"a").unwrap();
    bench.facts.kill(key(7, 1));
    bench.ticks(1);
    assert_eq!(bench.kernel.slot(slot).generation, 0);
    bench.ticks(1);
    assert_eq!(bench.kernel.slot(slot).generation, 1);
}

#[test]
fn a_place_goes_to_the_next_new_process_only() {
    let mut bench = Bench::new(2);
    let slots: Vec<u32> = (1..=3)
        .map(|pid| bench.kernel.spawn(pid, 1, b"p").unwrap())
        .collect();
    for &slot in &slots {
        bench.kernel.change(slot, accept);
    }
    bench.ticks(1);
    assert_eq!(bench.series()["other//"].accepts, 1);
    assert_eq!(
        (bench.table.processes().shown, bench.table.processes().other),
        (2, 1)
    );

    bench.facts.kill(key(1, 1));
    bench.ticks(10);
    let slot = bench.kernel.spawn(4, 1, b"p").unwrap();
    bench.kernel.change(slot, accept);
    let series = bench.series();
    assert_eq!(series["other//"].accepts, 1, "pid 3 stays where it is");
    assert_eq!(series["4/p/"].accepts, 1);
    assert_eq!(series["exited/p/"].accepts, 1);

    bench.facts.kill(key(3, 1));
    bench.ticks(10);
    assert_eq!(
        bench.series()["other//"].accepts,
        1,
        "its counts stay there too"
    );
    assert_eq!(bench.series()["exited/p/"].accepts, 1);
}

#[test]
fn groups_of_the_exited_are_bounded() {
    let mut bench = Bench::new(2);
    for (pid, comm) in [(1, b"a"), (2, b"b"), (3, b"c"), (4, b"d")] {
        bench.accept_and_exit(pid, comm);
    }
    // The two that were added to last.
    let series = bench.series();
    assert_eq!(series["exited/c/"].accepts, 1);
    assert_eq!(series["exited/d/"].accepts, 1);
    assert_eq!(series["exited//"].accepts, 2);
    assert_eq!(bench.table.processes().exited_groups, 3);
}

#[test]
fn a_group_stays_while_a_process_of_its_name_lives() {
    let mut bench = Bench::new(2);
    bench.kernel.spawn(9, 1, b"a").unwrap();
    for (pid, comm) in [(1, b"a"), (2, b"b"), (3, b"c")] {
        bench.accept_and_exit(pid, comm);
    }
    let series = bench.series();
    assert_eq!(series["exited/a/"].accepts, 1);
    assert_eq!(series["exited/c/"].accepts, 1);
    assert_eq!(series["exited//"].accepts, 1);
}

#[test]
fn a_filter_sends_processes_to_other() {
    let mut bench = Bench::new(10);
    bench.table.config.filter = Some(Box::new(|comm, _unit| comm != "noise"));
    let slot = bench.kernel.spawn(1, 1, b"noise").unwrap();
    bench.kernel.change(slot, accept);
    bench.kernel.change(SLOT_OVERFLOW, accept);
    bench.kernel.change(SLOT_UNATTRIBUTED, accept);
    let series = bench.series();
    assert_eq!(series["other//"].accepts, 2);
    assert_eq!(series["unattributed//"].accepts, 1);
    assert_eq!(series.len(), 3);
}

#[test]
fn a_reused_pid_of_the_same_name_shares_the_series_and_keeps_it_whole() {
    let mut bench = Bench::new(10);
    // Different bytes, same text.
    let old = bench.kernel.spawn(7, 1, b"a\xff").unwrap();
    let new = bench.kernel.spawn(7, 2, b"a\xfe").unwrap();
    bench.kernel.change(old, accept);
    bench.kernel.change(new, accept);
    bench.kernel.fail_setsockopt(old, 1);
    let name = "7/a\u{fffd}/";
    assert_eq!(bench.series()[name].accepts, 2);
    bench.facts.kill(key(7, 1));
    bench.ticks(10);
    let seen = &bench.series()[name];
    assert_eq!(
        (seen.accepts, seen.failures, seen.alive),
        (2, 1, Some(true))
    );
    bench.facts.kill(key(7, 2));
    bench.ticks(10);
    let series = bench.series();
    let seen = &series["exited/a\u{fffd}/"];
    assert_eq!((seen.accepts, seen.failures), (2, 1));
    assert!(!series.contains_key(name));
}

#[test]
fn failures_counted_after_the_fold_are_kept() {
    let mut bench = Bench::new(10);
    let slot = bench.kernel.spawn(7, 1, b"a").unwrap();
    bench.kernel.fail_setsockopt(slot, 1);
    let late: Vec<_> = bench
        .kernel
        .failures
        .lock()
        .unwrap()
        .clone()
        .into_iter()
        .collect();
    bench.ticks(1);
    bench.facts.kill(key(7, 1));
    bench.ticks(10);
    bench.kernel.failures.lock().unwrap().extend(late);
    for _ in 0..2 {
        let series = bench.series();
        assert_eq!(series["exited/a/"].failures, 1);
        assert_eq!(series["exited//"].failures, 1);
    }
}

#[test]
fn time_wait_outlives_its_process_and_obeys_the_kernel() {
    let mut bench = Bench::new(10);
    let a = bench.kernel.spawn(1, 1, b"a").unwrap();
    let b = bench.kernel.spawn(2, 1, b"b").unwrap();
    bench
        .kernel
        .change(a, |slot| slot.time_wait_entered[0] = 30);
    bench
        .kernel
        .change(b, |slot| slot.time_wait_entered[0] = 10);
    bench.ticks(1);
    bench.facts.kill(key(1, 1));
    bench.ticks(10);
    let series = bench.series();
    assert_eq!(series["exited/a/"].time_wait, 30);
    assert_eq!(series["2/b/"].time_wait, 10);

    bench.table.reconcile_time_wait(39);
    assert_eq!(bench.table.time_wait_drift(), Some(1));
    let series = bench.series();
    assert_eq!(series["exited/a/"].time_wait + series["2/b/"].time_wait, 39);
    bench.table.reconcile_time_wait(100);
    assert_eq!(bench.table.time_wait_drift(), Some(-60));
    assert_eq!(bench.series()["exited/a/"].time_wait, 30);

    bench
        .kernel
        .change(b, |slot| slot.time_wait_entered[0] = 12);
    assert_eq!(
        bench.series()["2/b/"].time_wait,
        12,
        "entered since the tick"
    );

    // The kernel's number is older than what entered since: no reason to scale down.
    bench.table.reconcile_time_wait(42);
    bench
        .kernel
        .change(b, |slot| slot.time_wait_entered[0] = 20);
    bench.ticks(1);
    assert_eq!(bench.series()["2/b/"].time_wait, 20);
    bench
        .kernel
        .change(b, |slot| slot.time_wait_entered[0] = 25);
    assert_eq!(bench.series()["2/b/"].time_wait, 25);
    bench.ticks(48);
    let series = bench.series();
    assert_eq!(series["exited/a/"].time_wait, 30);
    bench.ticks(1);
    let series = bench.series();
    assert_eq!(series["exited/a/"].time_wait, 0);
    assert_eq!(series["2/b/"].time_wait, 15);
}

#[test]
fn any_bytes_make_a_printable_label() {
    assert_eq!(printable(b"a\"b\\c\nd\0junk"), "a\"b\\c\nd");
    assert_eq!(printable(b"\x1b[31m\xff\t"), "\u{fffd}[31m\u{fffd}\u{fffd}");
    assert_eq!(printable("é".as_bytes()), "é");
    assert_eq!(printable(b""), "");
}

#[test]
fn made_up_options_do_not_pile_up() {
    let mut bench = Bench::new(10);
    for start in 1..=4 {
        let slot = bench.kernel.spawn(7, start, b"a").unwrap();
        for option in 0..1000 {
            bench.kernel.fail_setsockopt(slot, option * start as i32);
        }
        bench.ticks(1);
        bench.facts.kill(key(7, start));
        bench.ticks(10);
    }
    let mut kinds = 0;
    let mut sum = 0;
    bench.table.visit(&bench.kernel, &bench.facts, &mut |view| {
        kinds += view.failures.len();
        sum += view.failures.values().sum::<u64>();
    });
    assert!(kinds <= 65, "{kinds}");
    assert_eq!(sum, 4000, "none is lost");
}
