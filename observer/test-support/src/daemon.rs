//! A running observer, of a test's own or shared by those that take it as it comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    ops::Deref,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::time::{ClockId, clock_gettime};

use crate::{Metrics, PATIENCE, http, left_out, scale, spawn};

/// The observer binary: `OBSERVER_BIN`, or the one that cargo has built for the tests.
pub fn observer() -> PathBuf {
    let set = ["OBSERVER_BIN", "CARGO_BIN_EXE_observer"];
    let path = set.into_iter().find_map(env::var_os);
    path.expect("OBSERVER_BIN is set where cargo does not run the tests")
        .into()
}

/// A running `observer run`.
pub struct Daemon {
    child: Child,
    pub address: SocketAddr,
    log: Arc<Mutex<String>>,
    /// A scrape when the test got it.
    pub before: Metrics,
}

/// The daemon that is shared and that no test has at the moment.
static IDLE: Mutex<Option<Daemon>> = Mutex::new(None);

fn idle() -> MutexGuard<'static, Option<Daemon>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shared daemon, for one test. The next test gets it, too, unless this one fails.
pub struct Shared(Option<Daemon>);

impl Deref for Shared {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        self.0.as_ref().expect("it is taken out on drop alone")
    }
}

/// Whether `condition` holds before this loses patience.
pub fn holds_in_time(mut condition: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !condition() {
        if started.elapsed() >= PATIENCE {
            return false;
        }
        thread::sleep(Duration::from_millis(50));
    }
    true
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !thread::panicking() {
            *idle() = self.0.take();
        }
    }
}

impl Daemon {
    /// One that runs already, if it may: it has counted for other tests before, so only what
    /// belongs to a process or a name of this test can be compared with absolute numbers.
    pub fn shared() -> Shared {
        let idle = idle().take();
        let running = idle.and_then(|mut daemon| {
            let alive = matches!(daemon.child.try_wait(), Ok(None));
            alive.then(|| {
                daemon.before = daemon.scrape();
                daemon
            })
        });
        Shared(Some(running.unwrap_or_else(|| Self::start(&[]))))
    }

    /// Starts one with short intervals, and waits until it is ready. The shared one ends, so that
    /// it takes no time from this one.
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
        drop(idle().take());
        let mut command = Command::new(observer());
        // An emulated machine would spend most of its time on these.
        let [tick, fd, resync, reconcile, tracked] = if scale() < 1.0 {
            // At start, a system call for each process that can be tracked, and sixteen for what
            // it may leave in TIME_WAIT.
            ["250ms", "1s", "1s", "1s", "512"]
        } else {
            ["100ms", "200ms", "500ms", "500ms", "4096"]
        };
        let settings = [
            ("--tick-interval", tick),
            ("--fd-interval", fd),
            ("--resync-interval", resync),
            ("--reconcile-interval", reconcile),
            ("--max-tracked-processes", tracked),
            // Loads the programs on functions twice.
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
        let mut child = spawn(&mut command).expect("observer can be started");
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
        let mut daemon = Self {
            child,
            address,
            log,
            before: Metrics::default(),
        };
        daemon.wait("readiness", |daemon| daemon.get("/readyz").0 == 200);
        daemon.before = daemon.scrape();
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
        let reply = http::get(self.address, path).expect("the daemon answers");
        (reply.status, reply.body)
    }

    /// A scrape that shows all that happened before: the next tick adds processes that are new, and
    /// reads failed setsockopt calls.
    pub fn scrape(&self) -> Metrics {
        wait_for_tick(self.address).expect("the daemon ticks");
        let (status, body) = self.get("/metrics");
        assert_eq!(status, 200, "{body}");
        Metrics::parse_strictly(&body).unwrap()
    }

    /// Whether the kernel skipped a second program too since the test began, so that what it should
    /// have seen is missing (docs/limitations.md, Counting); says so when it did.
    pub fn skipped_twice(&self, program: &str) -> bool {
        let runs = self.scrape().skipped_runs(program) - self.before.skipped_runs(program);
        if runs > 0.0 {
            left_out!("the kernel skipped {runs} runs of {program}");
        }
        runs > 0.0
    }

    /// Waits until `condition` holds.
    pub fn wait(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let held = holds_in_time(|| condition(self));
        assert!(held, "waited in vain for {what}; log:\n{}", self.log());
    }

    /// Scrapes after each tick until `condition` holds, and returns that scrape; panics with the last
    /// one.
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
    pub fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.child.wait().unwrap()
    }

    /// Waits for its end, after a signal, and returns the exit status.
    pub fn wait_for_end(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

/// Waits until a running observer has finished a tick that began after this was called.
///
/// # Errors
///
/// When it does not answer, or does not tick.
pub fn wait_for_tick(address: SocketAddr) -> Result<()> {
    let began = || -> Result<u64> {
        let answer = http::get(address, "/api/v1/processes?limit=0")?.body;
        let answer: serde_json::Value = serde_json::from_str(&answer)?;
        answer["monotonic_ns"].as_u64().context("no time")
    };
    let started = Instant::now();
    let asked = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    while u128::from(began()?) < asked.as_nanos() {
        ensure!(started.elapsed() < PATIENCE, "waited in vain for a tick");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
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

/// Runs `test` with a daemon for each kind of hook that makes a difference to `signal` here.
/// Resynchronisation is kept from helping.
pub fn with_each_kind_of_hook(signal: &str, mut test: impl FnMut(&Daemon)) {
    // What each kind attaches, once a daemon was started with it: that stays the same.
    static KNOWN: Mutex<BTreeMap<&str, Metrics>> = Mutex::new(BTreeMap::new());
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut seen = BTreeSet::new();
    let mut kinds = vec!["any", "kprobe", "tracepoint"];
    if scale() < 1.0 {
        println!("--hooks tracepoint: tried where the machine is fast");
        kinds.pop();
    }
    for hooks in kinds {
        let expected = known().get(hooks).map(|metrics| metrics.hook_types(signal));
        if expected.is_some_and(|types| seen.contains(&types)) {
            continue;
        }
        let daemon = Daemon::start(&["--hooks", hooks, "--resync-interval", "1h"]);
        known().insert(hooks, daemon.before.clone());
        let types = daemon.before.hook_types(signal);
        if seen.insert(types.clone()) {
            println!("--hooks {hooks}: {signal} is served by {types:?}");
            test(&daemon);
        }
    }
}
