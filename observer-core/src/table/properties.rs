//! Whatever processes do, no count of a name is lost, doubled, taken back or moved.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use observer_common::{ESTABLISHED, ProcessKey, SLOT_FIRST, SLOT_OVERFLOW, SYN_SENT, Slot};
use proptest::prelude::*;

use super::{
    Filter, Kind, Labels, OTHER, Table, TableConfig, UNATTRIBUTED,
    fake::{FakeFacts, FakeKernel, key},
    name_of,
};

const SLOTS: u32 = 10;
const COMMS: [&[u8]; 7] = [b"a", b"b\xff", b"b\xfe", b"", b"c", b"<other>", b"e"];
const NO_SOCKET: u32 = observer_common::SLOT_NO_SOCKET;

#[derive(Clone, Debug)]
enum Step {
    Spawn {
        pid: u32,
        comm: usize,
    },
    Exec {
        slot: u32,
        comm: usize,
    },
    Exit {
        slot: u32,
    },
    Open {
        slot: u32,
    },
    Close {
        slot: u32,
    },
    /// One of the sockets in TIME_WAIT ends, maybe long after its process.
    End {
        which: usize,
    },
    Fail {
        slot: u32,
        option: i32,
    },
    /// Changes the filter: hides a comm, or none.
    Select {
        hidden: usize,
    },
    /// Adds new processes, as the jobs that read sockets do.
    Discover,
    Tick,
    /// Long enough that a name without processes can be evicted.
    Pause,
    Scrape,
}

fn step() -> impl Strategy<Value = Step> {
    let slot = SLOT_FIRST..SLOTS;
    prop_oneof![
        4 => (1_u32..6, 0..COMMS.len()).prop_map(|(pid, comm)| Step::Spawn { pid, comm }),
        2 => (slot.clone(), 0..COMMS.len()).prop_map(|(slot, comm)| Step::Exec { slot, comm }),
        3 => slot.clone().prop_map(|slot| Step::Exit { slot }),
        4 => (0..SLOTS).prop_map(|slot| Step::Open { slot }),
        4 => slot.clone().prop_map(|slot| Step::Close { slot }),
        3 => (0_usize..8).prop_map(|which| Step::End { which }),
        2 => (0..SLOTS, 1..3).prop_map(|(slot, option)| Step::Fail { slot, option }),
        1 => (0..2 * COMMS.len()).prop_map(|hidden| Step::Select { hidden }),
        1 => Just(Step::Discover),
        6 => Just(Step::Tick),
        1 => Just(Step::Pause),
        3 => Just(Step::Scrape),
    ]
}

/// `[transitions, TIME_WAIT entries, failures, ends of TIME_WAIT]`: one of each way a count is
/// kept.
type Counts = [u64; 4];

/// Events since the last scrape, and the number of live sockets.
#[derive(Default)]
struct Events {
    /// By the name of the slot when it happened, or when the table learned of it.
    by_name: HashMap<String, Counts>,
    live: i64,
    /// Events that no scrape shows yet, by slot, of processes that are not in the table.
    unseen: HashMap<u32, (Counts, i64)>,
    /// Failures, which each tick reads.
    unread: HashMap<u32, u64>,
}

impl Events {
    /// Something happened in a slot.
    fn add(&mut self, table: &Table, kernel: &FakeKernel, slot: u32, counts: Counts, live: i64) {
        match name_of_slot(table, kernel, slot) {
            Some(name) => self.add_to(name, counts, live),
            None => {
                let (unseen, unseen_live) = self.unseen.entry(slot).or_default();
                add(unseen, counts);
                *unseen_live += live;
            }
        }
    }

    fn add_to(&mut self, name: String, counts: Counts, live: i64) {
        add(self.by_name.entry(name).or_default(), counts);
        self.live += live;
    }

    /// The table has all processes now.
    fn see(&mut self, table: &Table, kernel: &FakeKernel) {
        for (slot, (counts, live)) in std::mem::take(&mut self.unseen) {
            let name = name_of_slot(table, kernel, slot).expect("it was discovered");
            self.add_to(name, counts, live);
        }
    }

    /// A tick is about to read the failures.
    fn read(&mut self, table: &Table, kernel: &FakeKernel) {
        for (slot, count) in std::mem::take(&mut self.unread) {
            let name = name_of_slot(table, kernel, slot).expect("it was discovered");
            self.add_to(name, [0, 0, count, 0], 0);
        }
    }
}

fn add(total: &mut Counts, counts: Counts) {
    for (total, count) in total.iter_mut().zip(counts) {
        *total += count;
    }
}

/// The name of a slot; `None` if its process is not in the table yet.
fn name_of_slot(table: &Table, kernel: &FakeKernel, slot: u32) -> Option<String> {
    match slot {
        SLOT_OVERFLOW => Some(OTHER.to_owned()),
        slot if slot < SLOT_FIRST => Some(UNATTRIBUTED.to_owned()),
        slot => {
            let entry = table.entry(slot, kernel.slot(slot).generation)?;
            Some(table.names.get(entry.name).labels.comm().to_owned())
        }
    }
}

/// The values of a scrape.
#[derive(Default)]
struct Scrape {
    names: BTreeMap<Labels, (Counts, i64)>,
    processes: BTreeMap<Labels, Counts>,
}

impl Scrape {
    fn of(table: &Table, kernel: &FakeKernel, facts: &FakeFacts) -> Self {
        let mut scrape = Self::default();
        table.visit(kernel, facts, &mut |view| {
            let counts = [
                view.counts.state.transitions[usize::from(SYN_SENT)][usize::from(ESTABLISHED)],
                view.counts.time_wait.entered.iter().sum(),
                view.failures.values().sum(),
                view.time_wait_ended.unwrap_or(0),
            ];
            let labels = Labels::clone(view.labels);
            let doubled = match view.kind {
                Kind::Name { .. } => {
                    let live = view.counts.live(ESTABLISHED);
                    scrape.names.insert(labels, (counts, live)).is_some()
                }
                Kind::Process { shown: false, .. } => false,
                Kind::Process { .. } => scrape.processes.insert(labels, counts).is_some(),
            };
            assert!(!doubled, "two series with the same labels");
        });
        scrape
    }
}

/// Events of an evicted name are not shown; if it returns, its counters start at 0. `kept` are the previous names.
fn forget_evicted(
    table: &Table,
    kept: &mut Vec<Arc<Labels>>,
    events: &mut Events,
    before: &mut Scrape,
) {
    let now: Vec<_> = table
        .names
        .iter()
        .map(|(_, name)| Arc::clone(&name.labels))
        .collect();
    for gone in kept
        .iter()
        .filter(|it| !now.iter().any(|other| Arc::ptr_eq(it, other)))
    {
        events.by_name.remove(gone.comm());
        before.names.remove(&**gone);
    }
    *kept = now;
}

fn hides(hidden: usize) -> Filter {
    let hidden = COMMS.get(hidden).map(|comm| name_of(comm));
    Box::new(move |comm, _| hidden.as_deref() != Some(comm))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn names_step_by_what_happened_and_by_nothing_else(
        steps in prop::collection::vec(step(), 1..250),
        max_names in 0_usize..7,
        max_processes in 0_usize..7,
    ) {
        let kernel = FakeKernel::new(SLOTS as usize);
        let facts = FakeFacts::default();
        let mut table = Table::new(TableConfig {
            max_names,
            max_processes,
            grace: Duration::from_secs(2),
            slots: 4096,
            filter: None,
        });
        let mut now = Instant::now();
        let mut start = 0;
        let mut owners: BTreeMap<u32, ProcessKey> = BTreeMap::new();
        let mut events = Events::default();
        let mut kept = Vec::new();
        let mut holders: HashMap<u32, String> = HashMap::new();
        let mut before = Scrape::of(&table, &kernel, &facts);
        for step in steps.into_iter().chain([Step::Scrape]) {
            let used = |slot: u32| slot < SLOT_FIRST || kernel.slot(slot).key.tgid != 0;
            if matches!(step, Step::Discover | Step::Tick | Step::Pause) {
                table.discover(&kernel, &facts);
                forget_evicted(&table, &mut kept, &mut events, &mut before);
                events.see(&table, &kernel);
            }
            if matches!(step, Step::Tick | Step::Pause) {
                events.read(&table, &kernel);
            }
            match step {
                Step::Spawn { pid, comm } => {
                    start += 1;
                    // A pid is free once its process has exited, sockets or not.
                    owners.retain(|&slot, key| kernel.slot(slot).key == *key);
                    let taken = owners.values().any(|key| {
                        key.tgid == pid && !facts.dead.lock().unwrap().contains(key)
                    });
                    if !taken && let Some(slot) = kernel.spawn(pid, start, COMMS[comm]) {
                        kernel.change(slot, |it| it.time_wait_count = slot + 100 * start as u32);
                        owners.insert(slot, key(pid, start));
                    }
                }
                Step::Exec { slot, comm } if used(slot) => {
                    facts.exec(kernel.slot(slot).key, COMMS[comm]);
                }
                Step::Exit { slot } => facts.kill(kernel.slot(slot).key),
                Step::Open { slot } if used(slot) && slot != NO_SOCKET => {
                    events.add(&table, &kernel, slot, [1, 0, 0, 0], 1);
                    kernel.change(slot, |slot| {
                        slot.sockets += 1;
                        slot.state.transitions[usize::from(SYN_SENT)][usize::from(ESTABLISHED)] += 1;
                    });
                }
                Step::Close { slot } if used(slot) && kernel.slot(slot).sockets > 0 => {
                    events.add(&table, &kernel, slot, [0, 1, 0, 0], -1);
                    let number = kernel.slot(slot).time_wait_count;
                    let mut time_waits = kernel.time_waits.lock().unwrap();
                    time_waits.entry(number).or_default().entered += 1;
                    drop(time_waits);
                    kernel.change(slot, |slot| {
                        slot.sockets -= 1;
                        slot.time_wait.entered[0] += 1;
                        slot.state.adjust[usize::from(ESTABLISHED)] -= 1;
                    });
                }
                Step::End { which } => {
                    let mut time_waits = kernel.time_waits.lock().unwrap();
                    let mut open = time_waits.iter_mut().filter(|(_, it)| it.live() > 0);
                    if let Some((number, count)) = open.nth(which) {
                        count.ended += 1;
                        match holders.get(number) {
                            Some(name) => events.add_to(name.clone(), [0, 0, 0, 1], 0),
                            None => {
                                let slot = number % 100;
                                events.add(&table, &kernel, slot, [0, 0, 0, 1], 0);
                            }
                        }
                    }
                }
                Step::Fail { slot, option } if used(slot) && slot != NO_SOCKET => {
                    *events.unread.entry(slot).or_default() += 1;
                    kernel.fail_setsockopt(slot, option);
                }
                Step::Exec { .. }
                | Step::Open { .. }
                | Step::Close { .. }
                | Step::Fail { .. }
                | Step::Discover => {}
                Step::Select { hidden } => table.set_filter(hides(hidden)),
                Step::Tick => {
                    now += Duration::from_secs(1);
                    table.tick(now, &kernel, &facts);
                }
                Step::Pause => {
                    now += Duration::from_secs(601);
                    table.tick(now, &kernel, &facts);
                }
                Step::Scrape => {
                    let after = Scrape::of(&table, &kernel, &facts);
                    prop_assert!(after.names.len() <= max_names + 2);
                    prop_assert!(after.processes.len() <= max_processes);
                    prop_assert_eq!(after.names.values().map(|it| it.1).sum::<i64>(), events.live);
                    forget_evicted(&table, &mut kept, &mut events, &mut before);
                    for (labels, (counts, _)) in &after.names {
                        let happened = events.by_name.remove(labels.comm()).unwrap_or_default();
                        let begin = before.names.get(labels).map_or([0; 4], |it| it.0);
                        let steps: [u64; 4] =
                            std::array::from_fn(|i| counts[i].wrapping_sub(begin[i]));
                        prop_assert_eq!(steps, happened, "{:?}", labels);
                    }
                    prop_assert!(events.by_name.is_empty(), "{:?} are nowhere", events.by_name);
                    for (labels, counts) in &after.processes {
                        let of_process = |slot: &Slot| {
                            let transitions = slot.state.transitions[usize::from(SYN_SENT)];
                            labels.pid() == Some(&slot.key.tgid.to_string())
                                && transitions[usize::from(ESTABLISHED)] == counts[0]
                        };
                        let known = (SLOT_FIRST..SLOTS).any(|slot| of_process(&kernel.slot(slot)));
                        prop_assert!(known, "{labels:?} {counts:?}");
                    }
                    before = after;
                }
            }
            forget_evicted(&table, &mut kept, &mut events, &mut before);
            // Whose sockets in TIME_WAIT are: those of a process that is gone stay with its name.
            for slot in SLOT_FIRST..SLOTS {
                if let Some(name) = name_of_slot(&table, &kernel, slot) {
                    holders.insert(kernel.slot(slot).time_wait_count, name);
                }
            }
        }
    }
}
