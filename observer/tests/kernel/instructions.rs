//! What observing costs in instructions, in a guest whose clock advances by a nanosecond with each instruction
//! (`cargo xtask vm --instructions`): the same load executes the same instructions, so there is no noise. The lowest of
//! several runs is the one without timers and other processes in it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

use observer::kernel::monotonic_ns;
use observer_test_support::{Daemon, Metrics, Program};

/// Set in such guests.
const COUNTED: &str = "OBSERVER_COUNTS_INSTRUCTIONS";

const CALLS: u32 = 1_000;
const REQUESTS: u32 = 20;
/// Requests of which the programs' runs are counted: many, because the scrapes before and after them are connections, too.
const COUNTED_REQUESTS: u32 = 4_000;
/// The most that a request may take more, both ends included, in percent of its instructions without the observer. The
/// goal of 5 is missed: docs/benchmark.md says why. More than this is a regression.
const MOST_PERCENT: f64 = 13.0;

/// Instructions of `work`: the least of several times.
fn instructions(mut work: impl FnMut()) -> u64 {
    let run = |_| {
        let before = monotonic_ns();
        work();
        monotonic_ns() - before
    };
    (0..50).map(run).min().expect("several runs")
}

fn system_calls() {
    for _ in 0..CALLS {
        std::hint::black_box(nix::unistd::getppid());
    }
}

/// One request of its own connection, which nginx closes.
fn request() {
    let mut client = TcpStream::connect("127.0.0.1:8080").expect("nginx listens");
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("nginx reads");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("nginx answers");
    assert!(answer.len() > 1024 && answer.starts_with(b"HTTP/1.1 200"));
}

/// Of a system call and of a request.
fn both() -> [f64; 2] {
    let calls = instructions(system_calls);
    let requests = instructions(|| (0..REQUESTS).for_each(|_| request()));
    [
        calls as f64 / f64::from(CALLS),
        requests as f64 / f64::from(REQUESTS),
    ]
}

/// Prints how often each program runs for a request, and its instructions, those of the kernel's statistics included.
fn print_programs(daemon: &Daemon) {
    const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";
    fs::write(STATISTICS, "1").unwrap();
    let before = daemon.scrape();
    (0..COUNTED_REQUESTS).for_each(|_| request());
    let after = daemon.scrape();
    fs::write(STATISTICS, "0").unwrap();
    for program in after.select("observer_bpf_runs_total", &[]) {
        let labels = [("program", program.labels["program"].as_str())];
        let of = |metrics: &Metrics, name| metrics.sum(name, &labels);
        let more = |name| of(&after, name) - of(&before, name);
        let runs = more("observer_bpf_runs_total");
        if runs > 0.0 {
            let each = 1e9 * more("observer_bpf_run_seconds_total") / runs;
            let runs = runs / f64::from(COUNTED_REQUESTS);
            println!("{}: {runs:.1} runs of {each:.0} instructions", labels[0].1);
        }
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_request_takes_few_more_instructions_and_a_system_call_none() {
    if std::env::var_os(COUNTED).is_none() {
        skip!("not in a guest that counts instructions");
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().display().to_string();
    fs::write(directory.path().join("index.html"), "x".repeat(1024)).unwrap();
    let configuration = directory.path().join("nginx.conf");
    let text = format!(
        "daemon off; master_process off; pid {at}/pid; error_log stderr; user root;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; keepalive_timeout 0; client_body_temp_path {at}/a; proxy_temp_path {at}/b;\n\
         fastcgi_temp_path {at}/c; uwsgi_temp_path {at}/d; scgi_temp_path {at}/e;\n\
         server {{ listen 127.0.0.1:8080; root {at}; }} }}\n"
    );
    fs::write(&configuration, text).unwrap();
    let nginx = Program::spawn(Command::new("nginx").arg("-c").arg(&configuration));
    while TcpStream::connect("127.0.0.1:8080").is_err() {
        std::thread::yield_now();
    }

    let before = both();
    let daemon = Daemon::start(&[
        "--tick-interval=1s",
        "--fd-interval=15s",
        "--resync-interval=15s",
        "--reconcile-interval=10s",
        "--walk-cpu=0.2%",
    ]);
    let beside = both();
    let metrics = daemon.scrape();
    let hooks = metrics.select("observer_hook_attached", &[]);
    let syscalls = hooks
        .filter(|it| it.value == 1.0 && it.labels["hook"].starts_with("sys_"))
        .count();
    let accepts = metrics.by("nginx", "socket_accepts_total", &[]);
    print_programs(&daemon);
    daemon.stop();
    let after = both();
    let more = |what: &str, index: usize| {
        let alone = before[index].min(after[index]);
        let percent = 100.0 * (beside[index] - alone) / alone;
        println!(
            "{what}: {:.1} instructions, {:.1} beside the observer ({percent:+.2} %), {:.1} after it",
            before[index], beside[index], after[index]
        );
        percent
    };
    let call = more("an empty system call", 0);
    let request = more("a request to nginx", 1);
    println!("{syscalls} hooks on system calls; {accepts} accepts counted");
    nginx.kill();
    assert!(accepts >= f64::from(50 * REQUESTS), "{accepts}");
    if syscalls == 0 {
        assert!(call < 0.1, "{call} % more for a system call");
    }
    assert!(request <= MOST_PERCENT, "{request} % more for a request");
}
