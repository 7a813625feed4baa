//! Exact counts under load, compared with the kernel's counters.
//!
//! `OBSERVER_TEST_SCALE` scales the load, for slow emulated machines.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, Read as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt::Linger};
use observer_test_support::{Daemon, Metrics, Netns, Program, kernel_at_least, new_comm, scale};

const CONNECTIONS: f64 = 200_000.0;
const THREADS: u64 = 4;
/// Destinations per thread: enough that ports do not run out because of TIME_WAIT.
const ADDRESSES: u64 = 8;
/// Pairs left open at the end, to compare live states.
const OPEN: u64 = 10;

const LOAD: &str = "OBSERVER_TEST_LOAD";
const THREADS_OF_LOAD: &str = "OBSERVER_TEST_THREADS";
const COMM: &str = "OBSERVER_TEST_COMM";

/// Of ten connections: four are closed by the client, two by the server, three end by RST
/// (SO_LINGER 0), one is refused.
struct Mix {
    client: u64,
    server: u64,
    reset: u64,
    refused: u64,
}

fn mix(per_thread: u64, threads: u64) -> Mix {
    let tens = per_thread / 10 * threads;
    Mix {
        client: 4 * tens,
        server: 2 * tens,
        reset: 3 * tens,
        refused: tens,
    }
}

/// Not a test: the load that the test below starts in a new namespace.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn load_generator() {
    let Ok(per_thread) = std::env::var(LOAD) else {
        return;
    };
    let per_thread: u64 = per_thread.parse().unwrap();
    let threads: u64 = std::env::var(THREADS_OF_LOAD).unwrap().parse().unwrap();
    // The process's, whichever thread this is.
    std::fs::write("/proc/self/comm", std::env::var(COMM).unwrap()).unwrap();
    // libtest leaves the line before this one open.
    println!("\nready");
    wait_for_a_line();
    let open: Vec<_> = (0..threads)
        .map(|_| thread::spawn(move || one_thread(per_thread)))
        .collect::<Vec<_>>()
        .into_iter()
        .flat_map(|thread| thread.join().unwrap())
        .collect();
    println!("done");
    wait_for_a_line();
    drop(open);
    println!("closed");
    wait_for_a_line();
}

fn wait_for_a_line() {
    std::io::stdin()
        .lock()
        .read_line(&mut String::new())
        .unwrap();
}

type Open = (Option<TcpListener>, Option<(TcpStream, TcpStream)>);

fn one_thread(count: u64) -> Vec<Open> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = |i: u64| Ipv4Addr::new(127, 0, 0, 1 + (i % ADDRESSES) as u8);
    let pair = |i| {
        let client = TcpStream::connect((address(i), port)).unwrap();
        (client, listener.accept().unwrap().0)
    };
    let mut byte = [0];
    for i in 0..count {
        match i % 10 {
            0..=3 => {
                let (client, mut server) = pair(i);
                drop(client);
                assert_eq!(server.read(&mut byte).unwrap(), 0);
            }
            4 | 5 => {
                let (mut client, server) = pair(i);
                drop(server);
                assert_eq!(client.read(&mut byte).unwrap(), 0);
            }
            6..=8 => {
                let (client, mut server) = pair(i);
                let linger = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                setsockopt(&client, Linger, &linger).unwrap();
                drop(client);
                server.read(&mut byte).unwrap_err();
            }
            _ => {
                // Nobody listens on port 1.
                TcpStream::connect(SocketAddr::from((address(i), 1))).unwrap_err();
            }
        }
    }
    let open = OPEN.div_ceil(THREADS);
    let mut kept: Vec<Open> = (0..open).map(|i| (None, Some(pair(i)))).collect();
    kept.push((Some(listener), None));
    kept
}

/// Starts the load, which waits, and returns it and its name.
fn start_load(netns: &Netns, per_thread: u64, threads: u64) -> (Program, String) {
    let test = std::env::current_exe().unwrap();
    let comm = new_comm();
    let mut program = Program::spawn_as(
        &comm,
        netns
            .command(test.to_str().unwrap())
            .args([
                "--exact",
                "exact::load_generator",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(LOAD, per_thread.to_string())
            .env(THREADS_OF_LOAD, threads.to_string())
            .env(COMM, &comm),
    );
    await_line(&mut program, "ready");
    (program, comm)
}

/// Reads lines until `expected`, because libtest prints lines, too.
fn await_line(program: &mut Program, expected: &str) {
    let started = Instant::now();
    while program.line_within(Duration::from_secs(600)) != expected {
        assert!(started.elapsed() < Duration::from_secs(900));
    }
}

fn transitions(metrics: &Metrics, pid: u32, from: &str, to: &str) -> f64 {
    let labels = [("from", from), ("to", to)];
    metrics.of(pid, "socket_state_transitions_total", &labels)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn every_counter_is_exact_with_a_ring_of_one_page() {
    let per_thread = ((CONNECTIONS * scale() / THREADS as f64) as u64).max(10) / 10 * 10;
    let netns = Netns::new();
    // All of TIME_WAIT fits; else the kernel leaves it out.
    netns.run("sysctl", &["-qw", "net.ipv4.tcp_max_tw_buckets=1000000"]);
    let daemon = Daemon::start(&[
        "--ring-bytes=4096",
        // Read, but not written out.
        "--log-events",
        "--log-level=info,observer::event=off",
    ]);
    let (mut program, comm) = start_load(&netns, per_thread, THREADS);
    let pid = program.pid();
    let (before, snmp_before) = (daemon.scrape(), netns.snmp());
    let started = Instant::now();
    program.go();
    await_line(&mut program, "done");
    let took = started.elapsed();

    let open = OPEN.div_ceil(THREADS) * THREADS;
    let live = [("ESTABLISHED", "established"), ("LISTEN", "listening")];
    let after = daemon.until("live states as ss has them", |metrics| {
        live.iter().all(|(state, ss)| {
            let of = [("state", *state)];
            let gauges = [
                metrics.of(pid, "socket_connections", &of),
                metrics.by(&comm, "socket_connections", &of),
            ];
            gauges == [netns.ss(ss) as f64; 2]
        })
    });
    assert_eq!(netns.ss("established") as u64, 2 * open);
    assert_eq!(netns.ss("listening") as u64, THREADS);
    let snmp = delta(&snmp_before, &netns.snmp());
    let missed = after.sum("observer_bpf_missed_runs_total", &[])
        - before.sum("observer_bpf_missed_runs_total", &[]);
    let lost = after.sum("observer_records_lost_total", &[]);
    let written = after.sum("observer_records_total", &[]);
    println!(
        "{} connections in {took:?}; records written {written}, lost {lost}; missed runs {missed}",
        per_thread * THREADS
    );
    println!("snmp: {snmp:?}");

    let Mix {
        client,
        server,
        reset,
        refused,
    } = mix(per_thread, THREADS);
    let established = client + server + reset + open;
    // A kernel that runs no program in a softirq that interrupts process 1 reports no run as missed
    // (docs/limitations.md). That is one connection in some 100,000.
    let unseen = (established / 40_000) as f64;
    let check = |what: &str, ours: f64, kernel: u64| {
        println!("{what}: {ours} of {kernel}");
        // A program that interrupts itself is skipped by the kernel; how often is known.
        assert!(
            (ours - kernel as f64).abs() <= missed + unseen,
            "{what}: {ours} instead of {kernel}, {missed} runs missed"
        );
    };
    // The load is the only process of its name, so both have the same counts.
    let of = |name, labels: &[(&str, &str)]| {
        let counted = after.by(&comm, name, labels);
        assert_eq!(after.of(pid, name, labels), counted, "{name} {labels:?}");
        counted
    };
    let step = |from, to| transitions(&after, pid, from, to);
    let kernel = |name: &str| u64::try_from(snmp[name]).unwrap();

    // The load's own counts, the kernel's, and the observer's.
    assert_eq!(kernel("ActiveOpens"), established + refused);
    assert_eq!(kernel("PassiveOpens"), established);
    assert_eq!(kernel("AttemptFails"), refused);
    assert_eq!(kernel("EstabResets"), 2 * reset);
    // On a busy machine, an RST occasionally answers a segment that arrived after its socket was destroyed.
    let late = kernel("OutRsts").checked_sub(reset + refused);
    let late = late.expect("an RST for each abort and each refused connection");
    assert!(late <= established / 1000, "{late}");
    let connects = "socket_connects_total";
    check("connects", of(connects, &[]), kernel("ActiveOpens"));
    check(
        "connects ok",
        of(connects, &[("result", "ok")]),
        established,
    );
    let econnrefused = of(connects, &[("result", "ECONNREFUSED")]);
    check("refused", econnrefused, kernel("AttemptFails"));
    check("SYN_SENT", step("CLOSE", "SYN_SENT"), kernel("ActiveOpens"));
    check(
        "SYN_RECV",
        step("LISTEN", "SYN_RECV"),
        kernel("PassiveOpens"),
    );
    check("accepts", of("socket_accepts_total", &[]), established);
    check(
        "established resets",
        step("ESTABLISHED", "CLOSE") + step("CLOSE_WAIT", "CLOSE"),
        kernel("EstabResets"),
    );
    check(
        "first closes",
        step("ESTABLISHED", "FIN_WAIT1"),
        client + server,
    );
    check("last closes", step("LAST_ACK", "CLOSE"), client + server);
    let time_wait = of("socket_time_wait_entered_total", &[]);
    check("TIME_WAIT", time_wait, client + server);
    let resets = |direction| of("socket_resets_total", &[("direction", direction)]);
    let sent = resets("sent");
    check("resets sent", sent.min(reset as f64), reset);
    assert!(sent <= (reset + late) as f64, "{sent}");
    check("resets received", resets("received"), reset + refused);
    let stray = "socket_stray_resets_total";
    let no_socket = after.sum(stray, &[]) - before.sum(stray, &[]);
    // Other programs on this host may be refused, too.
    if kernel_at_least(6, 10) {
        let least = refused as f64 - missed - unseen;
        assert!(no_socket >= least, "{no_socket} of {refused}");
    } else {
        left_out!("tcp_send_reset does not show RSTs without a socket before 6.10");
    }
    check(
        "ages",
        of("socket_conn_age_seconds_count", &[]),
        2 * (established - open),
    );
    let latencies = of("socket_connect_seconds_count", &[]);
    check("latencies", latencies, established);

    // Each end of a connection has a record, written or lost.
    let records = |kind| {
        let of = |metrics: &Metrics, name| metrics.sum(name, &[("kind", kind)]);
        of(&after, "observer_records_total") + of(&after, "observer_records_lost_total")
            - of(&before, "observer_records_total")
            - of(&before, "observer_records_lost_total")
    };
    assert!(records("close") >= 2.0 * (established - open) as f64 - missed - unseen);
    assert!(records("connect_failed") >= refused as f64 - missed - unseen);
    assert!(written > 0.0);
    if scale() >= 0.05 {
        assert!(lost > 0.0, "a ring of one page was enough");
    }
    after.assert_complete();

    program.go();
    await_line(&mut program, "closed");
    daemon.until("gauges at zero", |metrics| {
        metrics.of(pid, "socket_connections", &[]) == 0.0
            && metrics.of(pid, "socket_process_open_sockets", &[]) == 0.0
    });
    // The program of the last transition may have run during that scrape: gauges first, then counters.
    let end = daemon.scrape();
    // Not because the process is no longer shown.
    assert!(end.has_of(pid, "socket_connects_total", &[]));
    assert_eq!(end.by(&comm, "socket_connections", &[]), 0.0);
    assert_eq!(netns.ss("established") + netns.ss("listening"), 0);
    end.assert_complete();
    program.end();
    // It has ended, and all that it did stays counted under its name.
    let gone = daemon.until("the end of its series", |metrics| !metrics.shows(pid));
    let counters = |metrics: &Metrics| -> BTreeSet<String> {
        let all = metrics.samples.iter().filter(|sample| {
            let counter = ["_total", "_count", "_bucket"];
            sample.labels.get("comm") == Some(&comm)
                // Those of listeners appear when they are read.
                && sample.value != 0.0
                && !sample.labels.contains_key("pid")
                && counter.iter().any(|end| sample.name.ends_with(end))
                // Sockets leave TIME_WAIT independent of the process.
                && sample.name != "socket_time_wait_ended_total"
        });
        all.map(|it| format!("{} {:?} {}", it.name, it.labels, it.value))
            .collect()
    };
    let [end, gone_by] = [&end, &gone].map(counters);
    let differing: Vec<_> = end.symmetric_difference(&gone_by).collect();
    assert!(differing.is_empty(), "{differing:#?}");
    gone.assert_complete();
}

/// Tasks preempt each other in the programs, which the kernel skips then (from 7.0 on also those on
/// tracepoints). Nothing is missing all the same.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn more_threads_than_cpus_are_counted_exactly() {
    let cpus = thread::available_parallelism().unwrap().get() as u64;
    let threads = 3 * cpus;
    let per_thread = ((CONNECTIONS * scale() / threads as f64) as u64).max(100) / 10 * 10;
    let netns = Netns::new();
    netns.run("sysctl", &["-qw", "net.ipv4.tcp_max_tw_buckets=1000000"]);
    let daemon = Daemon::start(&[]);
    let (mut program, comm) = start_load(&netns, per_thread, threads);
    let (before, snmp_before) = (daemon.scrape(), netns.snmp());
    program.go();
    await_line(&mut program, "done");
    program.go();
    await_line(&mut program, "closed");
    let snmp = delta(&snmp_before, &netns.snmp());
    let metrics = daemon.until("gauges at zero", |metrics| {
        metrics.by(&comm, "socket_connections", &[]) == 0.0
    });
    for sample in metrics.select("observer_bpf_missed_runs_total", &[]) {
        let program = sample.labels["program"].as_str();
        let missed = sample.value - before.skipped_runs(program);
        if missed > 0.0 {
            println!("{program}: {missed} runs missed");
        }
    }
    let Mix {
        client,
        server,
        reset,
        refused,
    } = mix(per_thread, threads);
    let established = client + server + reset + OPEN.div_ceil(THREADS) * threads;
    assert_eq!(snmp["ActiveOpens"] as u64, established + refused);
    let of = |name, labels: &[(&str, &str)]| metrics.by(&comm, name, labels) as u64;
    let connects = "socket_connects_total";
    let counted = [
        of(connects, &[]),
        of(connects, &[("result", "ok")]),
        of(connects, &[("result", "ECONNREFUSED")]),
        of("socket_accepts_total", &[]),
    ];
    println!("{counted:?} of {established} established, {refused} refused");
    let [connects, ok, failed, accepts] = counted;
    let expected = [established + refused, established, refused];
    assert_eq!([connects, ok, failed], expected, "{}", metrics.shown());
    // Some of 100,000 count twice: a FIN that arrives as accept() returns (docs/limitations.md).
    let twice = accepts.checked_sub(established);
    let twice = twice.expect("none is missing");
    assert!(twice <= 1 + established / 100_000, "{twice}");
    metrics.assert_complete();
    program.end();
}

fn delta(before: &BTreeMap<String, i64>, after: &BTreeMap<String, i64>) -> BTreeMap<String, i64> {
    after
        .iter()
        .map(|(name, value)| (name.clone(), value - before[name]))
        .filter(|(_, value)| *value != 0)
        .chain(["AttemptFails", "EstabResets", "OutRsts"].map(|name| (name.to_owned(), 0)))
        .fold(BTreeMap::new(), |mut all, (name, value)| {
            *all.entry(name).or_default() += value;
            all
        })
}
