//! Exporters of made-up processes.

use std::{
    sync::{Arc, RwLock},
    time::Instant,
};

use observer_common::{
    CLOSE, CLOSE_WAIT, ESTABLISHED, LISTEN, SLOT_NO_SOCKET, SLOT_UNATTRIBUTED, SYN_RECV, SYN_SENT,
    Slot, TimeWaitCount, connect_index,
};

use super::{BuildInfo, Exporter, Piece, ProcessMetrics, collector::Inner};
use crate::{
    detect::{Engine, Thresholds},
    process::Unit,
    sync::read,
    table::{
        Snapshot, Table, TableConfig,
        fake::{FakeFacts, FakeKernel},
    },
};

/// One of everything.
pub fn busy(slot: &mut Slot) {
    let state = |state: u8| usize::from(state);
    slot.state.transitions[state(CLOSE)][state(SYN_SENT)] = 5;
    slot.state.transitions[state(SYN_SENT)][state(ESTABLISHED)] = 4;
    slot.state.transitions[state(SYN_SENT)][state(CLOSE)] = 1;
    slot.state.transitions[state(LISTEN)][state(SYN_RECV)] = 2;
    slot.state.transitions[state(SYN_RECV)][state(ESTABLISHED)] = 2;
    slot.state.transitions[state(ESTABLISHED)][state(CLOSE_WAIT)] = 3;
    slot.state.transitions[state(CLOSE_WAIT)][state(CLOSE)] = 3;
    slot.state.adjust[state(LISTEN)] = 1;
    slot.sockets = 4;
    slot.connect.results[0] = 4;
    slot.connect.results[connect_index(111)] = 1;
    slot.accept.accepted = 2;
    slot.time_wait.entered[0] = 6;
    slot.retransmit.segments = 9;
    slot.udp.receive_drops = 7;
    slot.fd.exhausted[0] = 1;
    // The kernel's number for it and the class.
    slot.reset.sent[5] = 2;
    slot.reset.sent[48] = 1;
    slot.reset.received[state(ESTABLISHED)] = 3;
    slot.connect.seconds.buckets[2] = 3;
    slot.connect.seconds.buckets[10] = 1;
    slot.connect.seconds.sum_ns = 70_250_000_000;
    slot.state.age.buckets[0] = 2;
    slot.state.age.sum_ns = 1_000;
    slot.state.close_wait.buckets[4] = 3;
}

pub const AWKWARD: [&[u8]; 5] = [
    b"quo\"te",
    b"back\\slash",
    b"new\nline",
    b"bad\xff\x01",
    b"\xe2\x82\xacuro",
];

pub fn exporter(kernel: FakeKernel, config: TableConfig) -> Exporter {
    exporter_of(kernel, config, ProcessMetrics::All, |_| {})
}

/// The same, after `change` was done to the table.
pub fn exporter_of(
    kernel: FakeKernel,
    config: TableConfig,
    process_metrics: ProcessMetrics,
    change: impl FnOnce(&mut Table),
) -> Exporter {
    let mut table = Table::new(config);
    let facts = FakeFacts::default();
    facts
        .units
        .lock()
        .unwrap()
        .insert(100, Unit::systemd("a\\x2db@\"1\".service"));
    table.tick(Instant::now(), &kernel, &facts);
    change(&mut table);
    Exporter::new(
        Arc::new(RwLock::new(table)),
        Arc::new(RwLock::new(Engine::new(Thresholds::default()))),
        Arc::new(kernel),
        Arc::new(facts),
        build(),
        process_metrics,
    )
}

/// The table of an exporter.
#[must_use]
pub fn table(exporter: &Exporter) -> Arc<RwLock<Table>> {
    Arc::clone(&exporter.inner.table)
}

/// The engine of an exporter.
#[must_use]
pub fn engine(exporter: &Exporter) -> Arc<RwLock<Engine>> {
    Arc::clone(&exporter.inner.engine)
}

/// What the exporter's table has now.
#[must_use]
pub fn snapshot(exporter: &Exporter) -> Snapshot {
    let Inner {
        table,
        source,
        facts,
        ..
    } = &*exporter.inner;
    read(table).snapshot(5_000_000_000, &**source, &**facts)
}

/// A build to show.
#[must_use]
pub fn build() -> BuildInfo {
    BuildInfo {
        version: "1.2.3".to_owned(),
        revision: "0123456789ab".to_owned(),
    }
}

/// A kernel with one process for each awkward name.
pub fn kernel() -> FakeKernel {
    let kernel = FakeKernel::new(16);
    for (pid, comm) in (100..).zip(AWKWARD) {
        let slot = kernel.spawn(pid, 1, comm).unwrap();
        kernel.change(slot, busy);
        kernel.change(slot, |it| it.time_wait_count = slot);
        let count = TimeWaitCount {
            entered: 6,
            ended: 0,
        };
        kernel.time_waits.lock().unwrap().insert(slot, count);
        kernel.fail_setsockopt(slot, 13);
    }
    kernel.change(SLOT_UNATTRIBUTED, |slot| slot.retransmit.segments = 1);
    kernel.change(SLOT_NO_SOCKET, |slot| slot.reset.sent[57] = 8);
    kernel
}

pub fn text(exporter: &Exporter) -> String {
    exporter.scrape().iter().map(Piece::text).collect()
}
