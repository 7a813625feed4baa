//! TLS handshakes in progress: their owners, and those left over from exited processes.

use std::time::{Duration, Instant};

use observer_common::{
    SLOT_OVERFLOW, SLOT_UNATTRIBUTED, TLS_CLIENT, TLS_OPENSSL, TLS_SERVER, TLS_UNKNOWN,
    TlsHandshake, TlsKey, TlsSeen,
};

use super::{
    Handshakes, Table, TableConfig,
    fake::{FakeFacts, FakeKernel, key},
};

const NOW: Duration = Duration::from_secs(100);
const SLOW_AFTER: Duration = Duration::from_secs(5);

struct Bench {
    kernel: FakeKernel,
    facts: FakeFacts,
    table: Table,
    now: Instant,
}

impl Bench {
    /// Two processes of `web` and one of `api`, in slots that are returned.
    fn new() -> (Self, [u32; 3]) {
        let kernel = FakeKernel::new(16);
        let slots = [(1, b"web"), (2, b"web"), (3, b"api")];
        let slots = slots.map(|(pid, comm)| kernel.spawn(pid, 1, comm).unwrap());
        let mut bench = Self {
            kernel,
            facts: FakeFacts::default(),
            table: Table::new(TableConfig::default()),
            now: Instant::now(),
        };
        bench.tick();
        (bench, slots)
    }

    fn tick(&mut self) {
        self.now += Duration::from_secs(1);
        self.table.tick(self.now, &self.kernel, &self.facts);
    }

    fn update(&mut self, seen: &[TlsSeen]) -> Vec<TlsSeen> {
        self.table.update_handshakes(seen, NOW, SLOW_AFTER)
    }

    /// Comm, role, number and age in seconds of the oldest.
    fn by_name(&self) -> Vec<(String, &'static str, u32, u64)> {
        let all = self.table.handshakes();
        let mut all: Vec<_> = all
            .flat_map(|(labels, it)| {
                let roles: Vec<_> = it.roles().collect();
                let comm = labels.comm().to_owned();
                let line = |(role, count, oldest): (_, _, Duration)| {
                    (comm.clone(), role, count, oldest.as_secs())
                };
                roles.into_iter().map(line).collect::<Vec<_>>()
            })
            .collect();
        all.sort_unstable();
        all
    }
}

fn line(
    comm: &str,
    role: &'static str,
    count: u32,
    oldest: u64,
) -> (String, &'static str, u32, u64) {
    (comm.to_owned(), role, count, oldest)
}

/// A handshake of the first generation of a slot that began so many seconds ago.
fn seen(slot: u32, role: u32, age: u64) -> TlsSeen {
    TlsSeen {
        key: TlsKey {
            object: u64::from(slot) << 32 | age,
            tgid: slot,
            library: TLS_OPENSSL,
        },
        handshake: TlsHandshake {
            began_ns: u64::try_from((NOW - Duration::from_secs(age)).as_nanos()).unwrap(),
            slot,
            generation: 0,
            role,
            reserved: 0,
        },
    }
}

#[test]
fn handshakes_are_of_names_and_of_processes() {
    let (mut bench, [first, second, api]) = Bench::new();
    let abandoned = bench.update(&[
        seen(first, TLS_SERVER, 4),
        seen(first, TLS_SERVER, 5),
        seen(first, TLS_CLIENT, 1),
        seen(second, TLS_SERVER, 30),
        seen(api, TLS_UNKNOWN, 2),
    ]);
    assert_eq!(abandoned, []);
    assert_eq!(
        bench.by_name(),
        [
            line("api", "unknown", 1, 2),
            line("web", "client", 1, 1),
            line("web", "server", 3, 30),
        ]
    );
    let of_processes = bench.table.handshakes_of_processes();
    assert_eq!(of_processes.len(), 3);
    let seconds = |all: [u64; 3]| all.map(Duration::from_secs);
    assert_eq!(
        of_processes[&(first, 0)],
        Handshakes {
            in_progress: [1, 2, 0],
            slow: [0, 1, 0],
            oldest: seconds([1, 5, 0]),
        }
    );
    assert_eq!(of_processes[&(second, 0)].slow, [0, 1, 0]);
    assert_eq!(of_processes[&(api, 0)].slow, [0, 0, 0]);

    // The next reading replaces it.
    bench.update(&[seen(api, TLS_CLIENT, 3)]);
    assert_eq!(bench.by_name(), [line("api", "client", 1, 3)]);
    assert_eq!(bench.table.handshakes_of_processes().len(), 1);
}

/// Nobody frees the objects of a process that has ended.
#[test]
fn handshakes_of_processes_that_ended_are_abandoned() {
    let (mut bench, [first, second, _]) = Bench::new();
    bench.facts.kill(key(1, 1));
    bench.tick();
    let (of_ended, of_running) = (seen(first, TLS_CLIENT, 9), seen(second, TLS_CLIENT, 9));
    assert_eq!(bench.update(&[of_ended, of_running]), [of_ended]);
    assert_eq!(bench.by_name(), [line("web", "client", 1, 9)]);
    let of_processes = bench.table.handshakes_of_processes();
    let owners: Vec<_> = of_processes.keys().copied().collect();
    assert_eq!(owners, [(second, 0)]);
}

/// The slot was given to another process since.
#[test]
fn handshakes_of_an_earlier_generation_are_abandoned() {
    let (mut bench, [first, _, _]) = Bench::new();
    bench.facts.kill(key(1, 1));
    for _ in 0..10 {
        bench.tick();
    }
    assert_eq!(bench.kernel.spawn(9, 1, b"next"), Some(first));
    bench.tick();
    let before = seen(first, TLS_CLIENT, 9);
    let mut now = seen(first, TLS_CLIENT, 1);
    now.handshake.generation = bench.kernel.slot(first).generation;
    assert_ne!(now.handshake.generation, 0);
    assert_eq!(bench.update(&[before, now]), [before]);
    assert_eq!(bench.by_name(), [line("next", "client", 1, 1)]);
}

/// Their processes are not in the table, so it does not know whether they run.
#[test]
fn handshakes_without_a_slot_of_their_own_count_for_names_alone() {
    let (mut bench, _) = Bench::new();
    let seen = [
        seen(SLOT_UNATTRIBUTED, TLS_CLIENT, 7),
        seen(SLOT_OVERFLOW, TLS_SERVER, 8),
    ];
    assert_eq!(bench.update(&seen), []);
    assert_eq!(
        bench.by_name(),
        [
            line("<other>", "server", 1, 8),
            line("<unattributed>", "client", 1, 7),
        ]
    );
    assert!(bench.table.handshakes_of_processes().is_empty());
}

/// The clock of the reading may be behind that of a program by the time that reading takes.
#[test]
fn a_handshake_that_began_after_the_reading_has_no_age() {
    let (mut bench, [first, _, _]) = Bench::new();
    let mut seen = seen(first, TLS_CLIENT, 0);
    seen.handshake.began_ns += 1_000_000_000;
    // An unknown role is not counted.
    let mut unknown = seen;
    unknown.handshake.role = 3;
    assert_eq!(bench.update(&[seen, unknown]), []);
    assert_eq!(bench.by_name(), [line("web", "client", 1, 0)]);
}
