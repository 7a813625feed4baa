//! Detectors: one sample of many processes, and how it is put together.

use std::{
    collections::HashMap,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use observer_common::ProcessKey;
use observer_core::{
    detect::{
        ConnectResult, CounterClasses, Counts, Culprits, Descriptors, Engine, Gatherer, Inputs,
        Name, Process, RecordedPeers, Sample, SentReset, Thresholds,
    },
    names::ResetReasons,
    table::{
        Handshakes, Labels, Table, TableConfig,
        fake::{FakeFacts, FakeKernel, key},
    },
    walk::Waits,
};

/// A second of which the daemon spends all but a few milliseconds on other things: nothing is in the processor's caches.
fn evict_caches(other: &mut [u64]) {
    for line in other.chunks_mut(8) {
        line[0] = line[0].wrapping_add(1);
    }
    black_box(other);
}

/// More than the caches hold.
fn other_data() -> Vec<u64> {
    vec![0; 16 << 20]
}

/// Each process connects, closes and resets a little until `second`.
fn sample(now: u64, second: u64, processes: u32) -> Sample {
    let now = Duration::from_secs(1_000 + now);
    let process = |pid: u32| {
        let mut counts = Counts::default();
        counts.connects[ConnectResult::Ok as usize] = 10 * second;
        counts.connects[ConnectResult::Refused as usize] = second;
        counts.ended = 10 * second;
        counts.resets_sent[SentReset::LingerZero as usize] = second;
        Process {
            key: ProcessKey {
                start_boottime_ns: 1,
                tgid: pid,
                reserved: 0,
            },
            labels: Arc::new(Labels::process(pid, "some-daemon", "some-daemon.service")),
            counts,
            descriptors: Some(Descriptors {
                open: 300 + second % 7,
                limit: 1024,
                measured_at: Duration::from_secs(1_000 + second),
            }),
            sees_allocations: false,
            fd_kinds: None,
            walked_at: Some(Duration::from_secs(1_000 + second)),
            syn_sent: 0,
            syn_sent_over_3s: 0,
            close_wait_over_10s: 3,
            close_wait_over_60s: 1,
            close_wait_of_servers: 0,
            close_wait_unanswered: 0,
            owned_fin_wait2: 0,
            not_closed_by_peer: 0,
            reset_peer: None,
            reset_peer_labels: None,
            of_name: 1,
            waits: Waits {
                connections: 250,
                in_use_of_clients: 50,
                quiet: [[1, 0, 0, 0], [0; 4], [200, 100, 10, 0]],
                ..Waits::default()
            },
            peers: Vec::new(),
            culprits: Culprits::default(),
            handshakes: Handshakes::default(),
        }
    };
    let processes: Vec<_> = (0..processes).map(process).collect();
    let names = processes.iter().step_by(10).map(|process| Name {
        running: 10,
        counts: process.counts,
        ..Name::new(Arc::new(Labels::name(
            "some-daemon",
            &process.key.tgid.to_string(),
        )))
    });
    Sample {
        now,
        names: names.collect(),
        processes,
        ..Sample::default()
    }
}

fn step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("detect");
    group.sample_size(20);
    let mut other = other_data();
    for (name, is_idle) in [("a calm second", false), ("an idle second", true)] {
        for processes in [1_000, 10_000] {
            let mut engine = Engine::new(Thresholds::default());
            let mut second = 0;
            for _ in 0..200 {
                second += 1;
                engine.step(&sample(second, second, processes));
            }
            // Until all is calm.
            for _ in 0..200 {
                second += 1;
                engine.step(&sample(second, 200, processes));
            }
            group.bench_function(BenchmarkId::new(name, processes), |bencher| {
                bencher.iter_batched_ref(
                    || {
                        second += 1;
                        let sample = sample(second, if is_idle { 200 } else { second }, processes);
                        evict_caches(&mut other);
                        sample
                    },
                    |sample| engine.step(sample),
                    criterion::BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

/// From the snapshot of a tick, of processes with a dozen counters that are not zero.
fn gather(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gather");
    group.sample_size(20);
    let mut other = other_data();
    let reasons = ResetReasons::default();
    let classes = CounterClasses::new(|index| reasons.name(index).into_owned());
    for processes in [1_000, 10_000] {
        let facts = FakeFacts::default();
        let source = FakeKernel::new(processes as usize + 3);
        for (pid, slot) in (1..).zip(&mut source.slots.lock().expect("not poisoned")[3..]) {
            slot.key = key(pid, 1);
            let comm = format!("daemon-{}", pid / 10);
            slot.comm[..comm.len()].copy_from_slice(comm.as_bytes());
            slot.state.transitions[1][..10].fill(12_345);
            slot.accept.accepted = 12_345;
            slot.connect.results[0] = 12_345;
        }
        let mut table = Table::new(TableConfig {
            max_processes: processes as usize,
            ..TableConfig::default()
        });
        table.tick(Instant::now(), &source, &facts);
        let snapshot = table.snapshot(1, &source, &facts);
        let mut gatherer = Gatherer::default();
        group.bench_function(BenchmarkId::from_parameter(processes), |bencher| {
            bencher.iter_batched(
                || evict_caches(&mut other),
                |()| {
                    black_box(gatherer.gather(Inputs {
                        snapshot: &snapshot,
                        classes: &classes,
                        fd_kinds: &HashMap::new(),
                        recorded_peers: &RecordedPeers::default(),
                        namespaces: &[],
                        sources: Vec::new(),
                        netns: &|_| None,
                    }));
                },
                criterion::BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, step, gather);
criterion_main!(benches);
