//! A scrape: table and text, without sending it.

use std::{
    hint::black_box,
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use observer_common::{
    CLOSE, CLOSE_WAIT, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, LAST_ACK, LISTEN, SYN_RECV, SYN_SENT,
    Slot, connect_index,
};
use observer_core::{
    detect::{Engine, Thresholds},
    export::{BuildInfo, Exporter, Piece, ProcessMetrics},
    table::{
        Table, TableConfig,
        fake::{FakeFacts, FakeKernel},
    },
};

/// So many names share the processes.
const NAMES: u32 = 100;

/// The slot of a service that is client and server.
fn service(slot: &mut Slot) {
    let transitions = [
        (CLOSE, SYN_SENT),
        (SYN_SENT, ESTABLISHED),
        (LISTEN, SYN_RECV),
        (SYN_RECV, ESTABLISHED),
        (ESTABLISHED, FIN_WAIT1),
        (FIN_WAIT1, FIN_WAIT2),
        (FIN_WAIT2, CLOSE),
        (ESTABLISHED, CLOSE_WAIT),
        (CLOSE_WAIT, LAST_ACK),
        (LAST_ACK, CLOSE),
    ];
    for (from, to) in transitions {
        slot.state.transitions[usize::from(from)][usize::from(to)] = 12_345;
    }
    slot.state.adjust[usize::from(LISTEN)] = 1;
    slot.connect.results[0] = 12_345;
    slot.connect.results[connect_index(111)] = 7;
    slot.accept.accepted = 12_345;
    slot.time_wait.entered[0] = 12_345;
    slot.reset.received[usize::from(ESTABLISHED)] = 3;
    for histogram in [
        &mut slot.connect.seconds,
        &mut slot.state.age,
        &mut slot.state.close_wait,
    ] {
        histogram.buckets[2] = 12_000;
        histogram.buckets[5] = 345;
        histogram.sum_ns = 1_234_567_891;
    }
}

/// The slot of a service that has only connected.
fn client(slot: &mut Slot) {
    slot.state.transitions[usize::from(CLOSE)][usize::from(SYN_SENT)] = 1;
    slot.state.transitions[usize::from(SYN_SENT)][usize::from(ESTABLISHED)] = 1;
    slot.connect.results[0] = 1;
    slot.connect.seconds.buckets[1] = 1;
    slot.connect.seconds.sum_ns = 98_765;
}

fn exporter(processes: u32, fill: fn(&mut Slot)) -> Exporter {
    let kernel = FakeKernel::new(processes as usize + 3);
    // Not by `spawn`, which looks for a free slot from the start each time.
    for (pid, slot) in (1..).zip(&mut kernel.slots.lock().expect("not poisoned")[3..]) {
        slot.key = observer_core::table::fake::key(pid, 1);
        let comm = format!("daemon-{}", pid % NAMES);
        slot.comm[..comm.len()].copy_from_slice(comm.as_bytes());
        fill(slot);
    }
    let facts = FakeFacts::default();
    let mut table = Table::new(TableConfig {
        max_processes: processes as usize,
        ..TableConfig::default()
    });
    table.tick(Instant::now(), &kernel, &facts);
    Exporter::new(
        Arc::new(RwLock::new(table)),
        Arc::new(RwLock::new(Engine::new(Thresholds::default()))),
        Arc::new(kernel),
        Arc::new(facts),
        BuildInfo {
            version: String::new(),
            revision: String::new(),
        },
        ProcessMetrics::All,
    )
}

fn scrape(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scrape");
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(5));
    for (kind, fill) in [
        ("services", service as fn(&mut Slot)),
        ("clients", client),
        ("idle", |_| {}),
    ] {
        for processes in [1000, 10_000] {
            let exporter = exporter(processes, fill);
            let size = |pieces: &[Piece]| pieces.iter().map(|piece| piece.text().len()).sum();
            let bytes: usize = size(&exporter.scrape());
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(BenchmarkId::new(kind, processes), |bencher| {
                bencher.iter(|| black_box(size(&exporter.scrape())));
            });
        }
    }
    group.finish();
}

/// The cost of copying the same amount of text, a lower bound of writing it.
fn copy(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("copy");
    group.sample_size(20);
    for mebibytes in [7, 70] {
        let from = vec![b'a'; mebibytes << 20];
        let mut to = Vec::with_capacity(from.len());
        group.throughput(Throughput::Bytes(from.len() as u64));
        let name = BenchmarkId::new("into the same memory", format!("{mebibytes} MiB"));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                to.clear();
                to.extend_from_slice(black_box(&from));
            });
        });
        let name = BenchmarkId::new("into new memory", format!("{mebibytes} MiB"));
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(from.clone()));
        });
    }
    group.finish();
}

criterion_group!(benches, scrape, copy);
criterion_main!(benches);
