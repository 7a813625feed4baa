//! The table's decisions, one by one.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use observer_common::{
    CLOSE, ESTABLISHED, SLOT_OVERFLOW, SLOT_UNATTRIBUTED, SYN_SENT, Slot, TimeWaitCount,
};

use super::{
    Kind, Table, TableConfig,
    fake::{FakeFacts, FakeKernel, key},
    printable,
};
use crate::process::Unit;

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
    alive: bool,
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

    fn series(&self) -> BTreeMap<String, Seen> {
        let mut series = BTreeMap::new();
        self.table.visit(&self.kernel, &self.facts, &mut |view| {
            if let Kind::Process { shown: false, .. } = view.kind {
                return;
            }
            let pid = view.labels.pid().map(|pid| format!("{pid}:"));
            let pid = pid.unwrap_or_default();
            let name = format!("{pid}{}/{}", view.labels.comm(), view.labels.unit());
            let seen = Seen {
                accepts: view.counts.accept.accepted,
                established: view.counts.live(ESTABLISHED),
                failures: view.failures.values().sum(),
                time_wait: view.time_wait,
                alive: match view.kind {
                    Kind::Name { alive } => alive,
                    Kind::Process { .. } => true,
                },
            };
            assert!(series.insert(name, seen).is_none(), "two series alike");
        });
        series
    }

    /// The pids that have series.
    fn shown(&self) -> Vec<u32> {
        let series = self.series();
        let pids = series.keys().filter_map(|name| name.split_once(':'));
        let mut pids: Vec<_> = pids.map(|(pid, _)| pid.parse().unwrap()).collect();
        pids.sort_unstable();
        pids
    }
}

fn accept(slot: &mut Slot) {
    slot.accept.accepted += 1;
}

#[test]
fn a_process_ends_and_its_counts_stay_with_its_name() {
    let mut bench = Bench::new(10);
    let slot = bench.kernel.spawn(7, 1, b"nginx").unwrap();
    bench
        .facts
        .units
        .lock()
        .unwrap()
        .insert(7, Unit::systemd("web.service"));
    bench.kernel.change(slot, |slot| {
        accept(slot);
        slot.sockets = 1;
        // A missed transition leaves one socket too many.
        slot.state.transitions[usize::from(SYN_SENT)][usize::from(ESTABLISHED)] = 2;
        slot.state.transitions[usize::from(ESTABLISHED)][usize::from(CLOSE)] = 1;
    });
    bench.kernel.fail_setsockopt(slot, 3);
    bench.ticks(1);
    let before = bench.series();
    assert_eq!(before["7:nginx/web.service"], before["nginx/web.service"]);
    bench.facts.kill(key(7, 1));
    bench.ticks(30);
    let seen = bench.series();
    assert!(!seen.contains_key("7:nginx/web.service"));
    let name = &seen["nginx/web.service"];
    assert_eq!((name.established, name.alive), (1, false));
    assert_eq!(bench.table.processes().exited, 1, "it still holds a socket");

    bench.kernel.change(slot, |slot| slot.sockets = 0);
    bench.ticks(5);
    assert_eq!(bench.kernel.slot(slot).generation, 0, "grace not over");
    bench.kernel.change(slot, accept);
    bench.ticks(1);
    assert_eq!(bench.kernel.slot(slot).generation, 1);
    assert_eq!(
        bench.series()["nginx/web.service"],
        Seen {
            accepts: 2,
            established: 0,
            failures: 1,
            time_wait: 0,
            alive: false,
        }
    );
    assert!(bench.kernel.failures.lock().unwrap().is_empty());
}

#[test]
fn two_ticks_without_sockets_are_needed_however_short_the_grace() {
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
fn there_is_no_grace_period_when_slots_run_low() {
    let mut bench = Bench::new(10);
    bench.table.config.slots = 4;
    let spawn = |bench: &mut Bench, pid| {
        let slot = bench.kernel.spawn(pid, 1, b"a").unwrap();
        bench.facts.kill(key(pid, 1));
        bench.ticks(2);
        slot
    };
    let first = spawn(&mut bench, 1);
    spawn(&mut bench, 2);
    assert_eq!(bench.kernel.slot(first).generation, 0);
    // Three of four are in use now.
    spawn(&mut bench, 3);
    assert_eq!(bench.kernel.slot(first).generation, 1);
}

#[test]
fn idle_processes_of_the_largest_unit_are_retired_when_slots_run_low() {
    let mut bench = Bench::new(20);
    bench.table.config.slots = 8;
    let spawn = |bench: &Bench, pid, comm: &[u8]| {
        let slot = bench.kernel.spawn(pid, 1, comm).unwrap();
        bench.kernel.change(slot, accept);
        slot
    };
    let unit = Unit {
        name: "web.service".to_owned(),
        ..Unit::default()
    };
    bench.facts.units.lock().unwrap().insert(1, unit);
    let web = spawn(&bench, 1, b"web");
    bench.ticks(1);
    let many: Vec<_> = (2..9).map(|pid| spawn(&bench, pid, b"many")).collect();
    // One has a socket, and one had some meanwhile.
    bench.kernel.change(many[0], |slot| slot.sockets = 1);
    bench.ticks(5);
    bench
        .kernel
        .change(many[3], |slot| slot.state.transitions[1][2] += 1);
    bench.ticks(5);
    assert!(bench.kernel.retired.lock().unwrap().is_empty());
    bench.ticks(1);
    // Six of eight may stay.
    assert_eq!(*bench.kernel.retired.lock().unwrap(), many[1..3]);
    bench.ticks(2);
    assert_eq!(bench.kernel.retired.lock().unwrap().len(), 2);
    let generations = |slots: &[u32]| -> Vec<u32> {
        let of = |slot: &u32| bench.kernel.slot(*slot).generation;
        slots.iter().map(of).collect()
    };
    assert_eq!(generations(&many[..4]), [0, 1, 1, 0]);
    assert_eq!(generations(&[web]), [0]);
    let series = bench.series();
    assert_eq!(series["many/"].accepts, 7);
    assert!(!series.contains_key("3:many/"));
    // It is back.
    bench.kernel.spawn(3, 1, b"many").unwrap();
    bench.ticks(1);
    let series = bench.series();
    assert_eq!(series["3:many/"].accepts, 0);
    assert_eq!(series["many/"].accepts, 7);
}

#[test]
fn names_past_the_bound_count_for_other_until_one_makes_room() {
    let mut bench = Bench::new(10);
    bench.table = Table::new(TableConfig {
        max_names: 2,
        ..TableConfig::default()
    });
    bench.accept_and_exit(1, b"a");
    let b = bench.kernel.spawn(2, 1, b"b").unwrap();
    let c = bench.kernel.spawn(3, 1, b"c").unwrap();
    bench.kernel.change(b, accept);
    bench.kernel.change(c, |slot| {
        accept(slot);
        slot.state.adjust[usize::from(ESTABLISHED)] = 1;
    });
    bench.kernel.fail_setsockopt(c, 1);
    bench.ticks(1);
    let series = bench.series();
    let other = &series["<other>/"];
    assert_eq!(
        (other.accepts, other.established, other.failures),
        (1, 1, 1)
    );
    assert_eq!(series["3:c/"].accepts, 1, "it is shown all the same");
    assert!(!series.contains_key("c/"));

    // "a" has been gone for ten minutes: its series ends, and nothing moves elsewhere.
    bench.ticks(610);
    bench.kernel.change(c, accept);
    let series = bench.series();
    assert!(!series.contains_key("a/"));
    let other = &series["<other>/"];
    assert_eq!(
        (other.accepts, other.established, other.failures),
        (1, 0, 1)
    );
    let own = &series["c/"];
    assert_eq!((own.accepts, own.established, own.failures), (1, 1, 0));
    assert_eq!((series["3:c/"].accepts, series["3:c/"].failures), (2, 1));
    let counts = bench.table.processes();
    assert_eq!((counts.names, counts.names_evicted), (2, 1));

    bench.kernel.change(c, |slot| {
        accept(slot);
        slot.state.adjust[usize::from(ESTABLISHED)] = 0;
    });
    bench.kernel.fail_setsockopt(c, 1);
    bench.facts.kill(key(3, 1));
    bench.ticks(10);
    let series = bench.series();
    let own = &series["c/"];
    assert_eq!((own.accepts, own.established, own.failures), (2, 0, 1));
    assert_eq!(series["<other>/"].failures, 1);
}

#[test]
fn a_name_stays_while_a_process_of_it_lives() {
    let mut bench = Bench::new(10);
    bench.table = Table::new(TableConfig {
        max_names: 1,
        ..TableConfig::default()
    });
    bench.kernel.spawn(9, 1, b"a").unwrap();
    bench.accept_and_exit(1, b"a");
    bench.ticks(1000);
    bench.accept_and_exit(2, b"b");
    let series = bench.series();
    assert_eq!(series["a/"].accepts, 1);
    assert_eq!(series["<other>/"].accepts, 1);
}

#[test]
fn a_program_that_calls_execve_counts_for_its_new_name_from_then_on() {
    let mut bench = Bench::new(10);
    let slot = bench.kernel.spawn(7, 1, b"sh").unwrap();
    bench.kernel.change(slot, |slot| {
        accept(slot);
        slot.state.adjust[usize::from(ESTABLISHED)] = 1;
        slot.time_wait_count = 100;
    });
    let count = TimeWaitCount {
        entered: 5,
        ended: 2,
    };
    bench.kernel.time_waits.lock().unwrap().insert(100, count);
    bench.kernel.fail_setsockopt(slot, 1);
    bench.ticks(1);
    bench.facts.exec(key(7, 1), b"server");
    bench.ticks(1);
    bench.kernel.change(slot, accept);
    let series = bench.series();
    let (old, new) = (&series["sh/"], &series["server/"]);
    assert_eq!((old.accepts, old.established, old.failures), (1, 0, 1));
    assert_eq!((new.accepts, new.established, new.failures), (1, 1, 0));
    assert_eq!((old.time_wait, new.time_wait), (0, 3), "they go along");
    assert_eq!((old.alive, new.alive), (false, true));
    assert_eq!(series["7:server/"].accepts, 2);
    assert!(!series.contains_key("7:sh/"));
}

#[test]
fn a_program_that_changes_its_name_all_the_time_is_no_burden() {
    let mut bench = Bench::new(10);
    let slot = bench.kernel.spawn(7, 1, b"a").unwrap();
    for name in 0..100 {
        bench.kernel.change(slot, accept);
        bench.facts.exec(key(7, 1), format!("n{name}").as_bytes());
        bench.ticks(1);
    }
    assert!(bench.table.processes().names < 12);
    let accepts = bench.series();
    let names = accepts.iter().filter(|(name, _)| !name.contains(':'));
    assert_eq!(names.map(|(_, seen)| seen.accepts).sum::<u64>(), 100);
}

#[test]
fn a_filter_has_processes_count_for_other_and_may_change() {
    let mut bench = Bench::new(10);
    bench.table.config.filter = Some(Box::new(|comm, _unit| comm != "noise"));
    let slot = bench.kernel.spawn(1, 1, b"noise").unwrap();
    bench.kernel.change(slot, accept);
    bench.kernel.change(SLOT_OVERFLOW, accept);
    bench.kernel.change(SLOT_UNATTRIBUTED, accept);
    bench.ticks(1);
    let series = bench.series();
    assert_eq!(series["<other>/"].accepts, 2);
    assert_eq!(series["<unattributed>/"].accepts, 1);
    assert_eq!(series.len(), 2, "it is not shown by pid either");

    bench.table.set_filter(Box::new(|_, _| true));
    bench.ticks(1);
    bench.kernel.change(slot, accept);
    let series = bench.series();
    assert_eq!(series["<other>/"].accepts, 2);
    assert_eq!(series["noise/"].accepts, 1);
    assert_eq!(series["1:noise/"].accepts, 2);

    bench.table.set_filter(Box::new(|_, _| false));
    bench.ticks(1);
    bench.kernel.change(slot, accept);
    let series = bench.series();
    assert_eq!(series["<other>/"].accepts, 3);
    assert_eq!(series["noise/"].accepts, 1);
    assert!(bench.shown().is_empty());
}

#[test]
fn a_name_in_angle_brackets_is_not_ours() {
    let mut bench = Bench::new(10);
    for (pid, comm) in [(1, &b"<other>"[..]), (2, b"\\<other>"), (3, b"a<b")] {
        let slot = bench.kernel.spawn(pid, 1, comm).unwrap();
        bench.kernel.change(slot, accept);
    }
    bench.ticks(1);
    let series = bench.series();
    assert_eq!(series["<other>/"].accepts, 0);
    for name in [r"\<other>/", r"\\<other>/", "a<b/"] {
        assert_eq!(series[name].accepts, 1, "{name}");
    }
}

#[test]
fn a_scrape_shows_processes_and_failures_as_of_the_last_tick() {
    let mut bench = Bench::new(10);
    let slot = bench.kernel.spawn(7, 1, b"a").unwrap();
    bench.kernel.change(slot, accept);
    bench.kernel.fail_setsockopt(slot, 1);
    assert!(!bench.series().contains_key("a/"));
    bench.ticks(1);
    bench.kernel.change(slot, accept);
    bench.kernel.fail_setsockopt(slot, 1);
    bench.kernel.fail_setsockopt(slot, 2);
    for _ in 0..2 {
        let series = bench.series();
        assert_eq!((series["a/"].accepts, series["a/"].failures), (2, 1));
        assert_eq!(series["a/"], series["7:a/"]);
    }
    bench.ticks(1);
    let series = bench.series();
    assert_eq!((series["a/"].accepts, series["a/"].failures), (2, 3));
    assert_eq!(bench.kernel.failures.lock().unwrap().len(), 2);
}

#[test]
fn a_reused_pid_of_the_same_name_is_another_process() {
    let mut bench = Bench::new(10);
    // Different bytes, same text.
    let old = bench.kernel.spawn(7, 1, b"a\xff").unwrap();
    bench.kernel.change(old, accept);
    bench.kernel.change(old, |slot| slot.sockets = 1);
    bench.ticks(1);
    bench.facts.kill(key(7, 1));
    bench.ticks(1);
    let new = bench.kernel.spawn(7, 2, b"a\xfe").unwrap();
    bench.kernel.change(new, accept);
    bench.ticks(1);
    let series = bench.series();
    assert_eq!(series["7:a\u{fffd}/"].accepts, 1);
    assert_eq!(series["a\u{fffd}/"].accepts, 2);
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
    bench.ticks(1);
    for _ in 0..2 {
        assert_eq!(bench.series()["a/"].failures, 2);
        bench.ticks(1);
    }
}

#[test]
fn time_wait_outlives_its_process() {
    let mut bench = Bench::new(10);
    let set = |bench: &Bench, number: u32, entered, ended| {
        let count = TimeWaitCount { entered, ended };
        bench
            .kernel
            .time_waits
            .lock()
            .unwrap()
            .insert(number, count);
    };
    for (pid, comm, number) in [(1, b"a", 100), (2, b"b", 200)] {
        let slot = bench.kernel.spawn(pid, 1, comm).unwrap();
        bench.kernel.change(slot, |it| it.time_wait_count = number);
    }
    set(&bench, 100, 30, 5);
    set(&bench, 200, 10, 0);
    bench.ticks(1);
    bench.facts.kill(key(1, 1));
    bench.ticks(10);
    let live = |bench: &mut Bench| {
        let series = bench.series();
        (series["a/"].time_wait, series["b/"].time_wait)
    };
    assert_eq!(live(&mut bench), (25, 10));
    set(&bench, 100, 30, 29);
    bench.ticks(1);
    assert_eq!(live(&mut bench), (1, 10));
    assert!(bench.kernel.freed_time_waits.lock().unwrap().is_empty());
    set(&bench, 100, 30, 30);
    bench.ticks(1);
    assert_eq!(live(&mut bench), (0, 10));
    assert_eq!(*bench.kernel.freed_time_waits.lock().unwrap(), [100]);
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
        if let Kind::Name { .. } = view.kind {
            kinds += view.failures.len();
            sum += view.failures.values().sum::<u64>();
        }
    });
    assert!(kinds <= 65, "{kinds}");
    assert_eq!(sum, 4000, "none is lost");
}
