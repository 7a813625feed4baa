//! Outcomes of connection attempts, on the real kernel, against what `strace` saw.

use std::collections::BTreeMap;

use observer_test_support::{Daemon, Netns, PRELUDE, Program};

/// A program and its threads under `strace`: every connect() that returned an outcome.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn outcomes_equal_what_strace_saw() {
    needs_programs!("strace");
    let netns = Netns::new();
    netns.sysctl("net.ipv4.tcp_syn_retries", "1");
    for (kind, v4, v6) in [
        ("unreachable", "198.51.100.0/25", "2001:db8:1::/64"),
        ("prohibit", "198.51.100.128/25", "2001:db8:2::/64"),
    ] {
        netns.run("ip", &["route", "add", kind, v4]);
        netns.run("ip", &["-6", "route", "add", kind, v6]);
    }
    let daemon = Daemon::shared();
    let log = std::env::temp_dir().join(format!("observer-strace-{}", std::process::id()));
    let source = [
        PRELUDE,
        r"
ROUTES = (('198.51.100.1', '198.51.100.129', '192.0.2.1'),
          ('2001:db8:1::1', '2001:db8:2::1', '2001:db8:3::1'))
def run(family, address, routes):
    listener, closed = listen(family, address), closed_port(family, address)
    for _ in range(5):
        connect(family, listener.getsockname()).close()
        outcome(lambda: connect(family, closed.getsockname()))
        for route in routes:
            outcome(lambda: connect(family, (route, 80)))
    nobody = deaf(family, address)
    outcome(lambda: connect(family, nobody[0].getsockname()))
threads = [
    threading.Thread(target=run, args=(family, address, routes))
    for (family, address), routes in zip(FAMILIES, ROUTES)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(os.getpid())
input()
",
    ]
    .concat();
    let mut program = Program::spawn(
        netns
            .command("strace")
            .args([
                "-f",
                "-qq",
                "-e",
                "trace=connect",
                "-e",
                "signal=none",
                "-o",
            ])
            .arg(&log)
            .args(["python3", "-u", "-c", &source]),
    );
    let pid: u32 = program.line().parse().unwrap();
    let metrics = daemon.scrape();
    program.end();
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    let seen = strace_outcomes(&text);
    println!("strace saw {seen:?}");
    if metrics.hook_types("connect").is_empty() {
        skip!("the return of connect() is not seen on this kernel");
    }
    let counted = metrics.counted(pid, "socket_connects_total", |labels| {
        labels["result"].clone()
    });
    assert_eq!(counted, seen, "{text}");
    assert_eq!(seen["ok"], 2 * 7);
    assert_eq!(seen["ETIMEDOUT"], 2);
    metrics.assert_complete();
}

/// Results of connect() to internet addresses in an strace log, where a call that waits is
/// cut in two: `PID connect(.. <unfinished ...>`, `PID <... connect resumed>)   = -1 ERRNO (..)`.
fn strace_outcomes(log: &str) -> BTreeMap<String, u64> {
    let mut unfinished: BTreeMap<&str, bool> = BTreeMap::new();
    let mut seen = BTreeMap::new();
    for line in log.lines() {
        let (pid, call) = line.split_once(' ').expect("a pid");
        let internet = if call.contains("resumed>") {
            unfinished.remove(pid).unwrap_or(false)
        } else {
            call.contains("AF_INET")
        };
        let Some((_, result)) = call.rsplit_once(" = ") else {
            unfinished.insert(pid, internet);
            continue;
        };
        if internet {
            let result = match result.split(' ').collect::<Vec<_>>()[..] {
                ["0"] => "ok",
                ["-1", errno, ..] => errno,
                _ => panic!("cannot read {line:?}"),
            };
            *seen.entry(result.to_owned()).or_default() += 1;
        }
    }
    seen
}
