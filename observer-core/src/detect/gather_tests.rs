use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use observer_common::{
    CLOSE, ESTABLISHED, Listener as KernelListener, ListenerKey, ListenerSample, RESET_LINGER_ZERO,
    V4_MAPPED,
};

use super::*;
use crate::{
    detect::sample::SentReset,
    names::ResetReasons,
    table::{
        Resources, Table, TableConfig,
        fake::{FakeFacts, FakeKernel, key},
    },
};

fn gather(snapshot: &Snapshot) -> Sample {
    let reasons = ResetReasons::default();
    Sample::gather(Inputs {
        snapshot,
        classes: &CounterClasses::new(|index| reasons.name(index).into_owned()),
        fd_kinds: &HashMap::new(),
        sources: Vec::new(),
    })
}

#[test]
fn a_sample_has_what_processes_and_names_have() {
    let (kernel, mut facts) = (FakeKernel::new(16), FakeFacts::default());
    facts.resources = Resources {
        open_fds: Some(70),
        max_fds: Some(100),
        ..Resources::default()
    };
    for pid in [7, 8] {
        let slot = kernel.spawn(pid, 1, b"a").unwrap();
        kernel.change(slot, |it| {
            it.reset.sent[RESET_LINGER_ZERO as usize] = 5;
            it.state.transitions[usize::from(ESTABLISHED)][usize::from(CLOSE)] = 6;
            it.connect.results[0] = u64::from(pid);
        });
    }
    let mut table = Table::new(TableConfig::default());
    let now = Instant::now();
    table.tick(now, &kernel, &facts);
    facts.kill(key(8, 1));
    table.tick(now + Duration::from_secs(1), &kernel, &facts);
    let sample = gather(&table.snapshot(3_000_000_000, &kernel, &facts));
    assert_eq!(sample.now, Duration::from_secs(3));
    let [process] = &sample.processes[..] else {
        panic!("{:?}", sample.processes);
    };
    assert_eq!(process.key, key(7, 1));
    let descriptors = process.descriptors.unwrap();
    assert_eq!((descriptors.open, descriptors.limit), (70, 100));
    let linger = SentReset::LingerZero as usize;
    assert_eq!(process.counts.resets_sent[linger], 5);
    let name = sample
        .names
        .iter()
        .find(|it| it.labels.comm() == "a")
        .unwrap();
    assert_eq!(name.running, 1);
    assert_eq!(name.counts.resets_sent[linger], 10, "the ended one's, too");
    assert_eq!((name.counts.ended, name.counts.connects[0]), (12, 15));
}

/// Two processes listen at one address, and another address has had no socket since one ended.
#[test]
fn listeners_are_summed_by_address() {
    let (kernel, facts) = (FakeKernel::new(16), FakeFacts::default());
    let slots = [7, 8].map(|pid| kernel.spawn(pid, 1, b"a").unwrap());
    for slot in slots {
        kernel.change(slot, |it| {
            it.accept.accepted = 4;
            it.fd.exhausted = [1, 2, 0, 0];
        });
    }
    let mut table = Table::new(TableConfig::default());
    table.tick(Instant::now(), &kernel, &facts);
    let listener = |socket, slot, port, backlog, overflows| ListenerSample {
        key: ListenerKey { socket, born_ns: 1 },
        listener: KernelListener {
            slot,
            port,
            overflows,
            address: [0, 0, V4_MAPPED, 0],
            ..KernelListener::default()
        },
        backlog,
        max_backlog: 10,
    };
    let mut gone = listener(3, slots[0], 81, 0, 3);
    gone.listener.closed = 1;
    let samples = [
        listener(1, slots[0], 80, 1, 5),
        listener(2, slots[1], 80, 9, 6),
        gone,
    ];
    table.update_listeners(&samples, None);
    let sample = gather(&table.snapshot(0, &kernel, &facts));
    let [listener] = &sample.listeners[..] else {
        panic!("{:?}", sample.listeners);
    };
    assert_eq!(listener.place.address.port(), 80);
    assert_eq!((listener.sockets, listener.overflows), (2, 11));
    assert_eq!((listener.backlog, listener.max_backlog), (10, 20));
    assert_eq!(listener.fullest, 0.9);
    assert_eq!((listener.accepts, listener.exhausted), (8, 6));
    let pids = listener.holders.iter().map(|it| it.process.unwrap().tgid);
    assert_eq!(pids.collect::<Vec<_>>(), [7, 8]);
}

#[test]
fn the_holders_with_the_most_are_named() {
    let holder = |tgid, count| Holder {
        process: Some(key(tgid, 1)),
        labels: Arc::new(Labels::name("a", "")),
        count,
    };
    let mut holders: Vec<_> = (0..20).map(|pid| holder(pid, u64::from(pid / 2))).collect();
    most_first(&mut holders);
    assert_eq!(holders.len(), HOLDERS);
    let first = holders.iter().map(|it| it.process.unwrap().tgid).take(3);
    assert_eq!(first.collect::<Vec<_>>(), [18, 19, 16]);
}
