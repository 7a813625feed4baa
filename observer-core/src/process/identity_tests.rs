use proptest::prelude::*;

use super::*;
use crate::process::fixture::Fixture;

fn key(tgid: u32, start_boottime_ns: u64) -> ProcessKey {
    ProcessKey {
        start_boottime_ns,
        tgid,
        reserved: 0,
    }
}

const TAIL: &[u8] =
    b" S 8617 8617 6702 0 -1 4194304 101 0 0 0 0 0 0 0 20 0 3 0 133242 3133440 410\n";

#[test]
fn the_comm_may_hold_anything() {
    let expected = Stat {
        state: b'S',
        threads: 3,
        start_ticks: 133_242,
    };
    for comm in [
        b"cat".as_slice(),
        b"a b",
        b") R 1 (",
        b"\n)\n",
        b"\xff\xfe)",
        b"",
        b"))))",
    ] {
        let stat = [b"8626 (", comm, b")", TAIL].concat();
        assert_eq!(Stat::parse(&stat).unwrap(), expected, "{comm:?}");
    }
}

#[test]
fn errors_name_the_field() {
    for (text, message) in [
        ("", "stat: there is no field comm"),
        ("1 (x)", "stat: there is no field state"),
        ("1 (x) S 1 2", "stat: there is no field num_threads"),
        (
            "1 (x) S 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 0 soon",
            "stat: field starttime is not a number: \"soon\"",
        ),
    ] {
        assert_eq!(
            Stat::parse(text.as_bytes()).unwrap_err().to_string(),
            message
        );
    }
}

fn is_alive(root: &ProcRoot, key: &ProcessKey) -> bool {
    liveness(root, key) != Liveness::Gone
}

#[test]
fn ticks_are_rounded_down() {
    assert_eq!(start_ticks(&key(1, 0)), 0);
    assert_eq!(start_ticks(&key(1, 1_332_429_999_999)), 133_242);
    assert_eq!(start_ticks(&key(1, 1_332_430_000_000)), 133_243);
    assert_eq!(start_ticks(&key(1, u64::MAX)), u64::MAX / 10_000_000);
}

#[test]
fn identity_is_read_and_a_reused_pid_is_recognised() {
    let proc = Fixture::new();
    let first = key(42, 5_000_000_123);
    assert_eq!(identify(proc.root(), &first).unwrap(), None);
    assert!(!is_alive(proc.root(), &first));

    proc.write(42, "comm", b"we) ird\xff\n\n");
    proc.write(42, "cgroup", b"0::/system.slice/nginx.service\n");
    proc.write_stat(42, 'S', 1, 500);
    let identity = identify(proc.root(), &first).unwrap().unwrap();
    assert_eq!(identity.comm, b"we) ird\xff\n");
    assert_eq!(identity.unit, Unit::systemd("nginx.service"));
    assert_eq!(
        (identity.pid, identity.start_boottime_ns),
        (42, 5_000_000_123)
    );
    assert!(is_alive(proc.root(), &first));

    proc.write_stat(42, 'S', 1, 501);
    assert_eq!(identify(proc.root(), &first).unwrap(), None);
    assert!(!is_alive(proc.root(), &first));
    assert!(is_alive(proc.root(), &key(42, 5_010_000_000)));
}

#[test]
fn vanishing_between_two_reads_is_no_error() {
    let proc = Fixture::new();
    proc.write(42, "comm", b"x\n");
    assert_eq!(identify(proc.root(), &key(42, 0)).unwrap(), None);
    proc.write(42, "cgroup", b"0::/\n");
    assert_eq!(identify(proc.root(), &key(42, 0)).unwrap(), None);
}

#[test]
fn what_a_process_is_called_is_read_with_its_life() {
    let proc = Fixture::new();
    let key = key(42, 0);
    for (comm, in_stat) in [
        (&b"plain"[..], &b"plain"[..]),
        (b"a) (b", b"a) (b"),
        (b"bad\xff", b"bad\xff"),
        // As the kernel escapes them.
        (b"new\nline", b"new\\nline"),
        (b"back\\slash", b"back\\\\slash"),
    ] {
        proc.write(42, "comm", &[comm, b"\n"].concat());
        proc.write(42, "cgroup", b"0::/\n");
        proc.write_stat(42, 'S', 1, 0);
        let stat = proc.root().read(42, "stat").unwrap().unwrap();
        let end = stat.iter().rposition(|&byte| byte == b')').unwrap();
        proc.write(42, "stat", &[b"42 (", in_stat, &stat[end..]].concat());
        let alive = Liveness::Alive(Some(comm.to_vec()));
        assert_eq!(liveness(proc.root(), &key), alive);
    }
}

#[test]
fn a_zombie_is_dead_unless_threads_go_on() {
    let proc = Fixture::new();
    proc.write_stat(42, 'Z', 1, 0);
    assert!(!is_alive(proc.root(), &key(42, 0)));
    proc.write_stat(42, 'Z', 2, 0);
    assert!(is_alive(proc.root(), &key(42, 0)));
    proc.write_stat(42, 'X', 2, 0);
    assert!(!is_alive(proc.root(), &key(42, 0)));
}

#[test]
fn an_unreadable_stat_does_not_kill() {
    let proc = Fixture::new();
    proc.write(42, "stat", b"nonsense");
    assert!(is_alive(proc.root(), &key(42, 0)));
}

#[test]
fn this_process_is_itself() {
    let root = ProcRoot::default();
    let pid = std::process::id();
    let stat = Stat::read(&root, pid).unwrap().unwrap();
    let me = key(
        pid,
        stat.start_ticks * 1_000_000_000 / ticks_per_second() + 1,
    );
    assert!(is_alive(&root, &me));
    let identity = identify(&root, &me).unwrap().unwrap();
    let comm = std::fs::read("/proc/self/comm").unwrap();
    let comm = comm.strip_suffix(b"\n").unwrap();
    assert_eq!(identity.comm, comm);
    assert_eq!(liveness(&root, &me), Liveness::Alive(Some(comm.to_vec())));
    assert!(!is_alive(
        &root,
        &key(pid, me.start_boottime_ns + 10_000_000)
    ));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = Stat::parse(&bytes);
    }

    #[test]
    fn any_comm_is_stepped_over(comm in prop::collection::vec(any::<u8>(), 0..64)) {
        let stat = [b"1 (", comm.as_slice(), b")", TAIL].concat();
        prop_assert_eq!(Stat::parse(&stat).unwrap().start_ticks, 133_242);
    }
}
