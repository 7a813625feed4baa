use std::path::Path;

use super::*;
use crate::process::fixture::Fixture;

fn key(tgid: u32) -> ProcessKey {
    ProcessKey {
        start_boottime_ns: u64::from(tgid) * 10_000_000,
        tgid,
        reserved: 0,
    }
}

fn add(proc: &Fixture, pid: u32, fds: u32) {
    proc.write_stat(pid, 'S', 1, u64::from(pid));
    proc.write(
        pid,
        "limits",
        b"Max open files            64                 128               files\n",
    );
    for fd in 0..fds {
        proc.write(pid, &format!("fd/{fd}"), b"");
    }
}

/// Some time since boot.
const START: Duration = Duration::from_secs(1000);

const LIMITS: ScanLimits = ScanLimits {
    batch: 2,
    interval: Duration::from_secs(1),
    close_percent: 30,
};

#[test]
fn measures_and_keeps_the_peak() {
    let proc = Fixture::new();
    add(&proc, 1, 5);
    let scanner = ResourceScanner::new(proc.root().clone(), LIMITS);
    scanner.set_live([key(1)]);
    assert_eq!(scanner.get(&key(1)), None);
    let start = START;
    assert_eq!(
        scanner.scan(start),
        Scan {
            measured: 1,
            ..Scan::default()
        }
    );
    let first = Resources {
        open_fds: Some(5),
        fd_high_water: Some(5),
        max_fds: Some(64),
        hard_max_fds: Some(128),
        measured_at: start,
    };
    assert_eq!(scanner.get(&key(1)), Some(first));

    std::fs::remove_file(proc.root().process(1).join("fd/4")).unwrap();
    assert_eq!(
        scanner.scan(start + Duration::from_millis(999)),
        Scan::default()
    );
    let later = start + Duration::from_secs(1);
    assert_eq!(scanner.scan(later).measured, 1);
    let second = Resources {
        open_fds: Some(4),
        measured_at: later,
        ..first
    };
    assert_eq!(scanner.get(&key(1)), Some(second));
}

#[test]
fn takes_the_oldest_first() {
    let proc = Fixture::new();
    for pid in 1..=5 {
        add(&proc, pid, 1);
    }
    let scanner = ResourceScanner::new(proc.root().clone(), LIMITS);
    scanner.set_live((1..=5).map(key));
    let start = START;
    let at = |second| start + Duration::from_secs(second);
    let measured = |scanner: &ResourceScanner, second| {
        (1..=5)
            .filter(|&pid| {
                scanner
                    .get(&key(pid))
                    .is_some_and(|r| r.measured_at == at(second))
            })
            .count()
    };
    for second in 0..3 {
        assert_eq!(scanner.scan(at(second)).measured, 2);
        assert_eq!(measured(&scanner, second), 2);
    }
    // Five processes in batches of two: the sixth measurement is one of the first two.
    assert_eq!(measured(&scanner, 0), 1);
    add(&proc, 6, 1);
    scanner.set_live((1..=6).map(key));
    scanner.scan(at(3));
    assert!(scanner.get(&key(6)).is_some(), "a new process goes first");
}

#[test]
fn one_batch_does_not_measure_a_process_twice() {
    let proc = Fixture::new();
    add(&proc, 1, 1);
    let limits = ScanLimits {
        batch: 100,
        interval: Duration::ZERO,
        ..LIMITS
    };
    let scanner = ResourceScanner::new(proc.root().clone(), limits);
    scanner.set_live([key(1)]);
    assert_eq!(scanner.scan(START).measured, 1);
}

#[test]
fn the_gone_are_reported_once_and_keep_their_values() {
    let proc = Fixture::new();
    add(&proc, 1, 3);
    add(&proc, 2, 3);
    let scanner = ResourceScanner::new(proc.root().clone(), LIMITS);
    scanner.set_live([key(1), key(2)]);
    let start = START;
    scanner.scan(start);
    proc.remove(1);
    // The pid is in use again.
    proc.write_stat(2, 'S', 1, 3);
    let mut scan = scanner.scan(start + Duration::from_secs(1));
    scan.gone.sort_unstable_by_key(|key| key.tgid);
    assert_eq!(
        scan,
        Scan {
            gone: vec![key(1), key(2)],
            ..Scan::default()
        }
    );
    assert_eq!(scanner.get(&key(1)).unwrap().open_fds, Some(3));
    scanner.set_live([key(1), key(2)]);
    assert_eq!(
        scanner.scan(start + Duration::from_secs(2)),
        Scan::default()
    );
    scanner.set_live([]);
    assert_eq!(scanner.get(&key(1)), None);
}

#[test]
fn failures_are_counted_and_tried_again() {
    let proc = Fixture::new();
    add(&proc, 1, 3);
    proc.write(1, "limits", b"");
    let scanner = ResourceScanner::new(proc.root().clone(), LIMITS);
    scanner.set_live([key(1)]);
    assert_eq!(
        scanner.scan(START),
        Scan {
            failed: 1,
            ..Scan::default()
        }
    );
    add(&proc, 1, 3);
    // Not at the next tick: it would be measured before all others.
    assert_eq!(scanner.scan(START), Scan::default());
    assert_eq!(scanner.scan(START + LIMITS.interval).measured, 1);
}

#[test]
fn a_denied_directory_leaves_the_rest() {
    use std::os::unix::fs::PermissionsExt as _;

    let proc = Fixture::new();
    add(&proc, 1, 3);
    let fds = proc.root().process(1).join("fd");
    let allow = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    allow(proc.root().path(), 0o755);
    allow(&fds, 0o000);
    let scanner = ResourceScanner::new(proc.root().clone(), LIMITS);
    scanner.set_live([key(1)]);
    let scan = || {
        // Permissions do not bind root; this is for the thread alone, and without effect unless
        // it is root's.
        nix::unistd::setfsuid(65534.into());
        scanner.scan(START)
    };
    let scan = std::thread::scope(|scope| scope.spawn(scan).join().unwrap());
    allow(&fds, 0o700);
    assert_eq!(
        scan,
        Scan {
            measured: 1,
            denied: 1,
            ..Scan::default()
        }
    );
    let resources = scanner.get(&key(1)).unwrap();
    assert_eq!((resources.open_fds, resources.max_fds), (None, Some(64)));
}

fn add_with_limit(proc: &Fixture, pid: u32, fds: u32, limit: u32) {
    add(proc, pid, fds);
    let limits = format!("Max open files            {limit}            {limit}            files\n");
    proc.write(pid, "limits", limits.as_bytes());
}

#[test]
fn what_may_run_out_is_measured_each_second() {
    let proc = Fixture::new();
    add_with_limit(&proc, 1, 1, 257);
    add_with_limit(&proc, 2, 1, 256);
    add_with_limit(&proc, 3, 89, 300);
    add_with_limit(&proc, 4, 90, 300);
    add_with_limit(&proc, 5, 10, 300);
    let limits = ScanLimits {
        batch: 100,
        interval: Duration::from_secs(15),
        ..LIMITS
    };
    let scanner = ResourceScanner::new(proc.root().clone(), limits);
    scanner.set_live((1..=5).map(key));
    let measured = |second| {
        let now = START + Duration::from_secs(second);
        scanner.scan(now);
        let at = |pid: &u32| scanner.get(&key(*pid)).unwrap().measured_at == now;
        (1..=5).filter(at).collect::<Vec<_>>()
    };
    assert_eq!(measured(0), [1, 2, 3, 4, 5]);
    assert_eq!(measured(1), [2, 4]);
    for fd in 10..15 {
        proc.write(5, &format!("fd/{fd}"), b"");
    }
    assert_eq!(measured(14), [2, 4]);
    assert_eq!(measured(15), [1, 2, 3, 4, 5]);
    // By five of 300: less than 2 %.
    assert_eq!(measured(16), [2, 4]);
    for fd in 15..21 {
        proc.write(5, &format!("fd/{fd}"), b"");
    }
    assert_eq!(measured(30), [1, 2, 3, 4, 5]);
    assert_eq!(measured(31), [2, 4, 5]);
    // It does not grow any more.
    assert_eq!(measured(32), [2, 4]);
    // Findings may be raised earlier.
    scanner.set_limits(ScanLimits {
        close_percent: 29,
        ..limits
    });
    assert_eq!(measured(47), [1, 2, 3, 4, 5]);
    assert_eq!(measured(48), [2, 3, 4]);
}

#[test]
fn a_small_batch_serves_all() {
    let proc = Fixture::new();
    for pid in 1..=4 {
        add_with_limit(&proc, pid, 1, 64);
    }
    for pid in 5..=8 {
        add_with_limit(&proc, pid, 1, 1024);
    }
    let limits = ScanLimits {
        batch: 1,
        interval: Duration::from_secs(4),
        ..LIMITS
    };
    let scanner = ResourceScanner::new(proc.root().clone(), limits);
    scanner.set_live((1..=8).map(key));
    let mut times = [0; 9];
    for second in 0..100 {
        let now = START + Duration::from_secs(second);
        assert_eq!(scanner.scan(now).measured, 1);
        for pid in 1..=8 {
            let resources = scanner.get(&key(pid)).unwrap_or_default();
            times[pid as usize] += u32::from(resources.measured_at == now);
        }
    }
    // Each four times as often as the others.
    for pid in 1..=8 {
        let expected = if pid <= 4 { 18..=22 } else { 4..=6 };
        assert!(expected.contains(&times[pid]), "{times:?}");
    }
}
