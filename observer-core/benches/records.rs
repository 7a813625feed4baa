//! A record on its way from the ring to a line of output.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use observer_common::{
    CLOSE, CLOSE_WAIT, ESTABLISHED, LAST_ACK, Pod as _, RECORD_CLOSE, Record, STATES, SYN_RECV,
};
use observer_core::{
    names::ResetReasons,
    record::{Clock, Identity, json, line},
};

const IDENTITY: Identity<'_> = Identity {
    pid: 4321,
    comm: "some-daemon",
    unit: "some-daemon.service",
};

/// A connection that the peer closed, as bytes of the ring.
fn bytes() -> Vec<u8> {
    let mut bytes = vec![0; size_of::<Record>()];
    let mut record = Record::read_from(&bytes).expect("the buffer has the size");
    record.time_ns = 123_456_789_012;
    record.age_ns = 12_345_678;
    record.tgid = 4321;
    record.kind = RECORD_CLOSE;
    record.from = LAST_ACK;
    record.to = CLOSE;
    record.family = 2;
    record.local_port = 443;
    record.remote_port = 51_234;
    record.protocol = 6;
    record.local[..4].copy_from_slice(&[192, 0, 2, 1]);
    record.remote[..4].copy_from_slice(&[198, 51, 100, 77]);
    let mut spent = [0; STATES];
    for state in [SYN_RECV, ESTABLISHED, CLOSE_WAIT, LAST_ACK] {
        spent[usize::from(state)] = 54_321;
    }
    record.spent = spent;
    // SAFETY: a Record is plain integers without padding (Pod).
    let plain = unsafe {
        std::slice::from_raw_parts(std::ptr::from_ref(&record).cast::<u8>(), bytes.len())
    };
    bytes.copy_from_slice(plain);
    bytes
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Elements(1));
    let bytes = bytes();
    let record = Record::read_from(&bytes).expect("a record");
    let reasons = ResetReasons::default();
    let clock = Clock::now();
    group.bench_function("decode", |bencher| {
        bencher.iter(|| Record::read_from(black_box(&bytes)));
    });
    group.bench_function("line", |bencher| {
        bencher.iter(|| line(black_box(&record), &IDENTITY, &reasons, clock));
    });
    group.bench_function("json", |bencher| {
        bencher.iter(|| json(black_box(&record), &IDENTITY, &reasons, clock));
    });
    group.finish();
}

criterion_group!(benches, records);
criterion_main!(benches);
