//! A running observer, and what else the tests share.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use crate::Metrics;

/// How long to wait for something that should happen at once. Generous, because emulated
/// machines are slow; tests wait for conditions, never for this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Returns from the test, saying why, unless tests on the real kernel were asked for.
#[macro_export]
macro_rules! needs_kernel {
    () => {
        if std::env::var_os("OBSERVER_KERNEL_TESTS").is_none() {
            println!(
                "skipped: needs root and BPF; run it through `cargo xtask test` \
                 (OBSERVER_KERNEL_TESTS=1)"
            );
            return;
        }
    };
}

/// Python that the programs of the tests share: see the file.
pub const PRELUDE: &str = include_str!("prelude.py");

/// The observer binary: `OBSERVER_BIN`, or the one that cargo has built for the tests.
pub fn observer() -> PathBuf {
    let set = ["OBSERVER_BIN", "CARGO_BIN_EXE_observer"];
    let path = set.into_iter().find_map(std::env::var_os);
    path.expect("OBSERVER_BIN is set where cargo does not run the tests")
        .into()
}

/// A running `observer run`.
pub struct Daemon {
    child: Child,
    pub address: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Daemon {
    /// Starts one with short intervals, and waits until it is ready.
    pub fn start(args: &[&str]) -> Self {
        Self::start_with(args, |_| {})
    }

    /// The same, after `prepare` changed the command.
    pub fn start_with(args: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        Self::launch(args, prepare, |_, _| {})
    }

    /// The same, and gives `meanwhile` the process id and the log, again and again.
    pub fn start_while(args: &[&str], meanwhile: impl FnMut(u32, &str)) -> Self {
        Self::launch(args, |_| {}, meanwhile)
    }

    fn launch(
        args: &[&str],
        prepare: impl FnOnce(&mut Command),
        mut meanwhile: impl FnMut(u32, &str),
    ) -> Self {
        let mut command = Command::new(observer());
        // An emulated machine would spend most of its time on these.
        let [tick, fd, resync, reconcile] = if scale() < 1.0 {
            ["250ms", "1s", "1s", "1s"]
        } else {
            ["100ms", "200ms", "500ms", "500ms"]
        };
        let settings = [
            ("--tick-interval", tick),
            ("--fd-interval", fd),
            ("--resync-interval", resync),
            ("--reconcile-interval", reconcile),
            // Attaches everything twice.
            ("--self-test", "no"),
        ];
        command
            .args(["run", "--listen=127.0.0.1:0"])
            .args(
                settings
                    .iter()
                    .filter(|(flag, _)| {
                        // What a test says itself.
                        !args.iter().any(|arg| arg.split('=').next() == Some(*flag))
                    })
                    .map(|(flag, value)| format!("{flag}={value}")),
            )
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        prepare(&mut command);
        let mut child = command.spawn().expect("observer can be started");
        let stderr = child.stderr.take().expect("stderr is piped");
        let log = Arc::new(Mutex::new(String::new()));
        let copy = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = copy.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let started = Instant::now();
        let address = loop {
            let text = log.lock().unwrap().clone();
            meanwhile(child.id(), &text);
            if let Some(address) = address_in(&text) {
                break address;
            }
            if let Some(status) = child.try_wait().unwrap() {
                thread::sleep(Duration::from_millis(100));
                panic!("observer ended with {status}:\n{}", log.lock().unwrap());
            }
            // Each program is verified, which an emulated machine takes long for.
            assert!(
                started.elapsed() < 3 * PATIENCE,
                "observer does not start:\n{text}"
            );
            thread::sleep(Duration::from_millis(20));
        };
        let daemon = Self {
            child,
            address,
            log,
        };
        daemon.wait("readiness", |daemon| daemon.get("/readyz").0 == 200);
        daemon
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Status and body of a GET.
    pub fn get(&self, path: &str) -> (u16, String) {
        get(self.address, path)
    }

    /// A scrape.
    pub fn scrape(&self) -> Metrics {
        let (status, body) = self.get("/metrics");
        assert_eq!(status, 200, "{body}");
        Metrics::parse(&body)
    }

    /// Waits until `condition` holds.
    pub fn wait(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let started = Instant::now();
        while !condition(self) {
            assert!(
                started.elapsed() < PATIENCE,
                "waited in vain for {what}; log:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Scrapes until `condition` holds, and returns that scrape; panics with the last one.
    pub fn until(&self, what: &str, condition: impl Fn(&Metrics) -> bool) -> Metrics {
        self.until_within(PATIENCE, what, condition)
    }

    pub fn until_within(
        &self,
        patience: Duration,
        what: &str,
        condition: impl Fn(&Metrics) -> bool,
    ) -> Metrics {
        let started = Instant::now();
        loop {
            let metrics = self.scrape();
            if condition(&metrics) {
                return metrics;
            }
            assert!(
                started.elapsed() < patience,
                "waited in vain for {what}; last scrape:\n{}\nlog:\n{}",
                metrics.shown(),
                self.log()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Sends a signal, by name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.pid().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Sends SIGTERM and returns the exit status.
    pub fn stop(mut self) -> std::process::ExitStatus {
        self.signal("TERM");
        self.child.wait().unwrap()
    }

    /// Waits for its end, after a signal, and returns the exit status.
    pub fn wait_for_end(mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address_in(log: &str) -> Option<SocketAddr> {
    let start = log.find("http://")? + "http://".len();
    let end = log[start..].find("/metrics")?;
    log[start..start + end].parse().ok()
}

/// Status and body of a GET.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: observer\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    let reply = String::from_utf8(reply).expect("the exposition is UTF-8");
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head and a body");
    let status = head[9..12].parse().unwrap();
    let body = if head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        unchunk(body)
    } else {
        body.to_owned()
    };
    (status, body)
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        text.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    text
}

/// The kernel's counters in this namespace: `/proc/net/snmp`, by `Tcp` column.
pub fn snmp() -> BTreeMap<String, i64> {
    table(&std::fs::read_to_string("/proc/net/snmp").unwrap(), "Tcp")
}

pub(crate) fn table(text: &str, prefix: &str) -> BTreeMap<String, i64> {
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter_map(|line| line.strip_prefix(prefix)?.strip_prefix(':'))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let [names, values] = &rows[..] else {
        panic!("no {prefix} rows in {text}")
    };
    names
        .iter()
        .zip(values)
        .map(|(name, value)| ((*name).to_owned(), value.parse().unwrap()))
        .collect()
}

/// Runs a command, which must succeed, and returns its output.
pub fn run(program: &str, args: &[&str]) -> String {
    checked(Command::new(program).args(args).output().unwrap(), program)
}

pub(crate) fn checked(output: Output, program: &str) -> String {
    assert!(
        output.status.success(),
        "{program} failed: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether a program is installed; says so when it is not.
pub fn has_program(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

/// Whether the running kernel is at least this version. For what no metric tells: prefer
/// [`Metrics::observes`].
pub fn kernel_at_least(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (major, minor)
}

/// Runs `test` with a daemon for each kind of hook that makes a difference to `signal` here.
/// Resynchronisation is kept from helping.
pub fn with_each_kind_of_hook(signal: &str, mut test: impl FnMut(&str, &Daemon)) {
    let mut seen = BTreeSet::new();
    let mut kinds = vec!["any", "kprobe", "tracepoint"];
    if scale() < 1.0 {
        println!("--hooks tracepoint: tried where the machine is fast");
        kinds.pop();
    }
    for hooks in kinds {
        let daemon = Daemon::start(&["--hooks", hooks, "--resync-interval", "1h"]);
        let rungs = daemon.scrape().rungs(signal);
        if seen.insert(rungs.clone()) {
            println!("--hooks {hooks}: {signal} is served by {rungs:?}");
            test(hooks, &daemon);
        } else {
            println!("--hooks {hooks}: the same as before, {rungs:?}");
        }
    }
}

/// How much of the load tests make. Below 1 in emulated machines, where everything takes
/// twenty times as long: `OBSERVER_TEST_SCALE`.
pub fn scale() -> f64 {
    std::env::var("OBSERVER_TEST_SCALE").map_or(1.0, |scale| scale.parse().unwrap())
}

/// A count of what a test does often, `least` or more.
pub fn scaled(count: u64, least: u64) -> u64 {
    ((count as f64 * scale()) as u64).max(least)
}
