use std::time::Duration;

use observer_common::WAIT_PEER_FIRST_BYTE;

use super::*;
use crate::{
    detect::{Awaited, Thresholds, Worker, windows::Pace},
    table::ListenAddress,
    walk::{Peer, PeerWait},
};

/// Ten overflows and two accepts a second.
fn listener(second: u64, backlog: u64, workers: Vec<Worker>) -> Listener {
    Listener {
        sockets: 1,
        backlog,
        max_backlog: 100,
        fullest: backlog as f64 / 100.0,
        overflows: 10 * second,
        accepts: 2 * second,
        syncookies: Some(0),
        workers,
        ..Listener::new(ListenAddress {
            netns: 1,
            address: "0.0.0.0:80".parse().unwrap(),
        })
    }
}

/// The detector after ten seconds of these samples, and the last assessment.
fn after_ten_seconds(sample: impl Fn(u64) -> Listener) -> (ListenOverflow, Assessment) {
    let thresholds = Thresholds::default();
    let mut detector = ListenOverflow::new(&thresholds);
    let mut last = Assessment::default();
    for second in 0..10 {
        last = detector.assess(&sample(second), &at(second, &thresholds));
    }
    (detector, last)
}

fn at(second: u64, thresholds: &Thresholds) -> At<'_> {
    At {
        now: Duration::from_secs(second),
        elapsed: Duration::from_secs(1),
        idle_until: None,
        pace: Pace::default(),
        raised: false,
        thresholds,
    }
}

/// The cause after ten seconds of these samples.
fn cause_of(sample: impl Fn(u64) -> Listener) -> &'static str {
    let (detector, _) = after_ten_seconds(&sample);
    detector.evidence(&sample(9)).1[0].cause.id
}

/// The cause after ten seconds of overflows and accepts, with these numbers of waiting connections.
fn cause(backlog: impl Fn(u64) -> u64) -> &'static str {
    cause_with(backlog, |_| Vec::new()).0
}

/// The same with several workers, and which of them is stuck.
fn cause_with(
    backlog: impl Fn(u64) -> u64,
    workers: impl Fn(u64) -> Vec<Worker>,
) -> (&'static str, Option<u32>) {
    let listener = |second| listener(second, backlog(second), workers(second));
    let (detector, _) = after_ten_seconds(listener);
    let (evidence, causes) = detector.evidence(&listener(9));
    let Evidence::AcceptQueue { stuck_pid, .. } = evidence else {
        panic!("{evidence:?}");
    };
    (causes[0].cause.id, stuck_pid)
}

/// One worker's queue is full, and it accepts this number of connections per second.
fn of_full_worker(accepts: u64) -> (&'static str, Option<u32>) {
    let worker = |tgid, fullest, accepts| Worker {
        process: ProcessKey {
            start_boottime_ns: 1,
            tgid,
            reserved: 0,
        },
        fullest,
        accepts,
    };
    cause_with(
        |_| 100,
        |second| vec![worker(1, 0.1, 0), worker(2, 1.0, accepts * second)],
    )
}

#[test]
fn workers_that_wait_for_a_server_do_not_accept() {
    let cause = |processes, waiting, longest_ms, accepts| {
        let wait = PeerWait {
            owner: (1, 1),
            peer: Peer {
                netns: 1,
                address: [10, 0, 0, 9].into(),
                port: 5432,
                is_client: false,
            },
            waits_for: WAIT_PEER_FIRST_BYTE,
            is_judged: true,
            connections: waiting,
            longest_ms,
            server: None,
        };
        let waits = (waiting > 0).then_some(Awaited { wait, server: None });
        let busy = Workers {
            processes,
            waiting,
            waits: waits.into_iter().collect(),
        };
        let listener = |second| Listener {
            stalled: 9,
            stalled_ms: 20_000,
            accepts: accepts * second,
            busy: busy.clone(),
            ..listener(second, 100, Vec::new())
        };
        let (detector, _) = after_ten_seconds(listener);
        let (evidence, causes) = detector.evidence(&listener(9));
        let Evidence::AcceptQueue { waits, .. } = evidence else {
            panic!("{evidence:?}");
        };
        (causes[0].cause.id, waits.len())
    };
    assert_eq!(cause(8, 4, 12_000, 0), ("workers_wait", 1));
    assert_eq!(cause(8, 4, 12_000, 1), ("workers_wait", 1));
    assert_eq!(cause(8, 3, 90_000, 0), ("no_accepts", 1));
    assert_eq!(cause(8, 0, 0, 0), ("no_accepts", 0));
    // A single one has waited since before the connections came, or for something else.
    assert_eq!(cause(1, 1, 20_000, 0), ("workers_wait", 1));
    assert_eq!(cause(1, 1, 19_999, 0), ("no_accepts", 1));
    assert_eq!(cause(1, 1, 90_000, 0), ("no_accepts", 1));
}

/// Time from the first sample to the one at which it is raised for a queue that stays full.
fn raised_after(tick: Duration) -> Duration {
    let thresholds = Thresholds::default();
    let mut detector = ListenOverflow::new(&thresholds);
    let full = listener(0, 100, Vec::new());
    for number in 0..100 {
        let now = number * tick;
        let at = At {
            now,
            elapsed: tick,
            idle_until: None,
            pace: Pace::new(tick),
            raised: false,
            thresholds: &thresholds,
        };
        if detector.assess(&full, &at).raise.is_some() {
            return now;
        }
    }
    panic!("it is not raised");
}

#[test]
fn a_full_queue_is_raised_as_soon_at_any_pace() {
    for (tick, after) in [(100, 5_000), (1_000, 5_000), (60_000, 60_000)] {
        let [tick, after] = [tick, after].map(Duration::from_millis);
        assert_eq!(raised_after(tick), after);
    }
}

/// The total since the creation of the namespace does not show the current rate, nor does a
/// counter that could not be read for a while.
#[test]
fn cookies_of_the_past_are_no_flood() {
    let thresholds = Thresholds::default();
    let cause = |cookies: [Option<u64>; 6]| {
        let mut detector = ListenOverflow::new(&thresholds);
        let mut last = None;
        for (second, cookies) in (0..).zip(cookies) {
            let now = Listener {
                syncookies: cookies,
                fullest: 0.0,
                ..listener(second, 0, Vec::new())
            };
            detector.assess(&now, &at(second, &thresholds));
            last = Some(now);
        }
        detector.evidence(&last.unwrap()).1[0].cause.id
    };
    let (none, some) = (None, Some(1_000));
    assert_eq!(cause([none, none, some, some, some, some]), "small_backlog");
    assert_eq!(cause([some, none, none, some, some, some]), "small_backlog");
    assert_eq!(cause([some, none, none, none, none, Some(1_100)]), "flood");
    // For the connections of a burst.
    assert_eq!(
        cause([some, none, none, none, none, Some(1_050)]),
        "small_backlog"
    );
}

#[test]
fn a_worker_that_accepts_is_not_stuck() {
    assert_eq!(of_full_worker(0), ("one_worker_stuck", Some(2)));
    // The kernel gave it more than the others.
    assert_eq!(of_full_worker(1), ("slow_accept", None));
}

/// A master that made all sockets before it forked its workers: of eight, one has this queue and each other
/// `others`.
fn of_master(fullest: u64, others: u64) -> &'static str {
    cause_of(|second| Listener {
        sockets: 8,
        backlog: fullest + 7 * others,
        max_backlog: 8 * 16,
        fullest: fullest as f64 / 16.0,
        ..listener(second, 0, Vec::new())
    })
}

#[test]
fn one_full_socket_of_several_is_that_of_a_stuck_worker() {
    assert_eq!(of_master(17, 0), "one_worker_stuck");
    assert_eq!(of_master(17, 1), "one_worker_stuck");
    // All are slow, and one was given more than the others.
    assert_eq!(of_master(17, 8), "slow_accept");
}

/// The cause if nothing is dropped, 57 of 511 connections wait and so many have been accepted a second.
fn cause_of_waits(accepts: u64) -> (Option<Severity>, &'static str) {
    let waiting = |second| Listener {
        max_backlog: 511,
        fullest: 57.0 / 511.0,
        stalled: 40,
        stalled_ms: 55_000,
        overflows: 0,
        accepts: accepts * second,
        ..listener(second, 57, Vec::new())
    };
    let (detector, last) = after_ten_seconds(waiting);
    (last.raise, detector.evidence(&waiting(9)).1[0].cause.id)
}

#[test]
fn connections_that_wait_for_long_are_enough() {
    let raised = Some(Severity::Warning);
    assert_eq!(cause_of_waits(0), (raised, "no_accepts"));
    assert_eq!(cause_of_waits(1), (raised, "slow_accept"));
}

/// A queue of five of a server that does 14 a second, to which clients come 20 times a second and try again.
#[test]
fn a_small_queue_of_a_server_that_is_overloaded_is_not_too_small() {
    let (detector, _) = after_ten_seconds(|second| Listener {
        max_backlog: 5,
        fullest: 1.0,
        accepts: 14 * second,
        overflows: 100 * second,
        ..listener(second, 5, Vec::new())
    });
    assert_eq!(detector.cause.id, "slow_accept");
}

/// The cause of a raised finding at each second, of a server that stops to accept for this time.
fn causes_with_a_pause(pause: u64) -> Vec<&'static str> {
    let thresholds = Thresholds::default();
    let mut detector = ListenOverflow::new(&thresholds);
    let mut causes = Vec::new();
    for second in 0_u64..40 {
        let sample = Listener {
            accepts: 20 * second.min(10) + 20 * second.saturating_sub(10 + pause),
            ..listener(second, 100, Vec::new())
        };
        let at = At {
            raised: second > 5,
            ..at(second, &thresholds)
        };
        detector.assess(&sample, &at);
        if at.raised {
            causes.push(detector.cause.id);
        }
    }
    causes.dedup();
    causes
}

#[test]
fn a_raised_finding_keeps_its_cause_until_another_one_lasts() {
    assert_eq!(causes_with_a_pause(13), ["slow_accept"]);
    let both = ["slow_accept", "no_accepts", "slow_accept"];
    assert_eq!(causes_with_a_pause(20), both);
}

/// A hundred clients at a queue of five, which is emptied all the time.
#[test]
fn a_small_queue_that_is_emptied_often_is_too_small() {
    let cause = |rate: u64, max_backlog: u64| {
        cause_of(|second| Listener {
            max_backlog,
            fullest: 1.0,
            accepts: rate * second,
            ..listener(second, max_backlog, Vec::new())
        })
    };
    assert_eq!(cause(500, 5), "small_backlog");
    assert_eq!(cause(2, 5), "slow_accept");
    assert_eq!(cause(20_000, 4_096), "slow_accept");
}

#[test]
fn a_longer_queue_helps_against_bursts_only() {
    assert_eq!(cause(|_| 100), "slow_accept");
    assert_eq!(cause(|second| 100 * (second % 2)), "small_backlog");
}
