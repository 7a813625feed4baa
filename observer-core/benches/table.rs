//! Housekeeping: one tick over all processes.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use observer_core::table::{
    Table, TableConfig,
    fake::{FakeFacts, FakeKernel, key},
};

fn table(processes: u32) -> Table {
    Table::new(TableConfig {
        max_processes: processes as usize,
        ..TableConfig::default()
    })
}

fn source(processes: u32) -> FakeKernel {
    let source = FakeKernel::new(processes as usize + 3);
    // Not by `spawn`, which looks for a free slot from the start each time.
    for (pid, slot) in (1..).zip(&mut source.slots.lock().expect("not poisoned")[3..]) {
        slot.key = key(pid, 1);
        slot.comm[..11].copy_from_slice(b"some-daemon");
    }
    source
}

fn tick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tick");
    group.sample_size(20);
    for processes in [1000, 10_000] {
        let facts = FakeFacts::default();
        let source = source(processes);
        let mut settled = table(processes);
        let mut now = Instant::now();
        group.bench_function(BenchmarkId::new("nothing new", processes), |bencher| {
            bencher.iter(|| {
                now += Duration::from_secs(1);
                settled.tick(now, &source, &facts);
            });
        });
        group.bench_function(BenchmarkId::new("all new", processes), |bencher| {
            bencher.iter(|| {
                let mut table = table(processes);
                table.tick(now, &source, &facts);
                black_box(table.processes())
            });
        });
    }
    group.finish();
}

/// What each tick publishes, of processes with a dozen counters that are not zero.
fn snapshot(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("snapshot");
    group.sample_size(20);
    for processes in [1000, 10_000] {
        let facts = FakeFacts::default();
        let source = source(processes);
        for slot in &mut source.slots.lock().expect("not poisoned")[3..] {
            slot.state.transitions[1][..10].fill(12_345);
            slot.accept.accepted = 12_345;
            slot.connect.results[0] = 12_345;
        }
        let mut table = table(processes);
        table.tick(Instant::now(), &source, &facts);
        group.bench_function(BenchmarkId::from_parameter(processes), |bencher| {
            bencher.iter(|| black_box(table.snapshot(1, &source, &facts)));
        });
    }
    group.finish();
}

/// One process ends and another comes, with all that belongs to it.
fn turnover(criterion: &mut Criterion) {
    let facts = FakeFacts::default();
    let source = source(1000);
    let mut table = table(1000);
    let mut now = Instant::now();
    let mut pid = 1000;
    criterion.bench_function("a process comes and goes", |bencher| {
        bencher.iter(|| {
            facts.kill(key(pid, 1));
            // Two ticks to be seen without sockets, and the grace period.
            for _ in 0..3 {
                now += Duration::from_secs(6);
                table.tick(now, &source, &facts);
            }
            pid += 1;
            source.spawn(pid, 1, b"some-daemon").expect("a free slot");
            table.tick(now, &source, &facts);
        });
    });
}

criterion_group!(benches, tick, snapshot, turnover);
criterion_main!(benches);
