//! Whatever processes do, no count is lost, doubled or taken back.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use observer_common::{ESTABLISHED, ProcessKey, SLOT_FIRST, SYN_SENT};
use proptest::prelude::*;

use super::{
    Labels, Table, TableConfig,
    fake::{FakeFacts, FakeKernel, key},
};

const SLOTS: u32 = 10;
const COMMS: [&[u8]; 6] = [b"a", b"b\xff", b"b\xfe", b"", b"c", b"d"];
/// Different texts among them that are not empty.
const NAMES: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    Spawn { pid: u32, comm: usize },
    Exit { slot: u32 },
    Open { slot: u32 },
    Close { slot: u32 },
    Fail { slot: u32, option: i32 },
    Tick,
    Scrape,
}

fn step() -> impl Strategy<Value = Step> {
    let slot = SLOT_FIRST..SLOTS;
    prop_oneof![
        3 => (1_u32..6, 0..COMMS.len()).prop_map(|(pid, comm)| Step::Spawn { pid, comm }),
        3 => slot.clone().prop_map(|slot| Step::Exit { slot }),
        4 => (0..SLOTS).prop_map(|slot| Step::Open { slot }),
        4 => slot.clone().prop_map(|slot| Step::Close { slot }),
        2 => (0..SLOTS, 1..3).prop_map(|(slot, option)| Step::Fail { slot, option }),
        6 => Just(Step::Tick),
        3 => Just(Step::Scrape),
    ]
}

/// `[transitions, TIME_WAIT entries, failures]`: one of each way a count is kept.
type Counts = [u64; 3];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn sums_are_exact_and_series_never_go_down(
        steps in prop::collection::vec(step(), 1..250),
        max_processes in 0_usize..7,
        filtered in any::<bool>(),
    ) {
        let kernel = FakeKernel::new(SLOTS as usize);
        let facts = FakeFacts::default();
        let mut table = Table::new(TableConfig {
            max_processes,
            grace: Duration::from_secs(2),
            filter: filtered.then(|| -> super::Filter { Box::new(|comm, _| comm != "a") }),
        });
        let mut now = Instant::now();
        let mut start = 0;
        let mut truth: Counts = [0; 3];
        let mut before: HashMap<Labels, Counts> = HashMap::new();
        let mut owners: BTreeMap<u32, ProcessKey> = BTreeMap::new();
        for step in steps.into_iter().chain([Step::Scrape]) {
            let used = |slot: u32| slot < SLOT_FIRST || kernel.slot(slot).key.tgid != 0;
            match step {
                Step::Spawn { pid, comm } => {
                    start += 1;
                    // A pid is free once its process has exited, sockets or not.
                    owners.retain(|&slot, key| kernel.slot(slot).key == *key);
                    let taken = owners.values().any(|key| {
                        key.tgid == pid && !facts.dead.lock().unwrap().contains(key)
                    });
                    if !taken && let Some(slot) = kernel.spawn(pid, start, COMMS[comm]) {
                        owners.insert(slot, key(pid, start));
                    }
                }
                Step::Exit { slot } => facts.kill(kernel.slot(slot).key),
                Step::Open { slot } if used(slot) => {
                    truth[0] += 1;
                    kernel.change(slot, |slot| {
                        slot.sockets += 1;
                        slot.transitions[usize::from(SYN_SENT)][usize::from(ESTABLISHED)] += 1;
                    });
                }
                Step::Close { slot } if used(slot) && kernel.slot(slot).sockets > 0 => {
                    truth[1] += 1;
                    kernel.change(slot, |slot| {
                        slot.sockets -= 1;
                        slot.time_wait_entered[0] += 1;
                    });
                }
                Step::Fail { slot, option } if used(slot) => {
                    truth[2] += 1;
                    kernel.fail_setsockopt(slot, option);
                }
                Step::Open { .. } | Step::Close { .. } | Step::Fail { .. } => {}
                Step::Tick => {
                    now += Duration::from_secs(1);
                    table.tick(now, &kernel, &facts);
                    table.reconcile_time_wait(start);
                }
                Step::Scrape => {
                    let mut after: HashMap<Labels, Counts> = HashMap::new();
                    let mut sum: Counts = [0; 3];
                    let (mut own, mut exited, mut doubled) = (0, 0, false);
                    table.visit(&kernel, &facts, &mut |view| {
                        let counts = [
                            view.counts.transitions[usize::from(SYN_SENT)]
                                [usize::from(ESTABLISHED)],
                            view.counts.time_wait_entered.iter().sum(),
                            view.failures.values().sum(),
                        ];
                        for (sum, count) in sum.iter_mut().zip(counts) {
                            *sum += count;
                        }
                        match view.labels.pid() {
                            "exited" if view.labels.comm().is_empty() => {}
                            "exited" => exited += 1,
                            pid => own += usize::from(pid.parse::<u32>().is_ok()),
                        }
                        doubled |= after.insert(view.labels.clone(), counts).is_some();
                    });
                    prop_assert!(!doubled, "two series with the same labels");
                    prop_assert_eq!(sum, truth);
                    prop_assert!(own <= max_processes && exited <= max_processes);
                    for (labels, before) in &before {
                        let after = after.get(labels);
                        let of_process = labels.pid().parse::<u32>().is_ok();
                        // A group may have to make room, and come back later.
                        let crowded = max_processes < NAMES;
                        let of_group = labels.pid() == "exited" && !labels.comm().is_empty();
                        let kept = !(of_process || of_group && crowded);
                        prop_assert!(!kept || after.is_some(), "{labels:?} vanished");
                        if let Some(after) = after {
                            // A pid may come back under the same labels after it was
                            // folded: a reset, as for any restarted process.
                            prop_assert!(
                                !kept || before.iter().zip(after).all(|(b, a)| a >= b),
                                "{labels:?} went from {before:?} to {after:?}"
                            );
                        }
                    }
                    before = after;
                }
            }
        }
    }
}
