//! A running observer, for one test or shared by tests with the same arguments.

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

use crate::{Metrics, PATIENCE, http, installed::Installed, left_out, patience, scale, spawn};

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
    /// A scrape at the start of the test.
    pub before: Metrics,
}

/// The idle shared daemon.
struct Idle {
    args: Vec<String>,
    daemon: Daemon,
}

/// One is enough: others would use CPU time of the tested one.
static IDLE: Mutex<Option<Idle>> = Mutex::new(None);

fn idle() -> MutexGuard<'static, Option<Idle>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A shared daemon, for one test. The next test with the same arguments reuses it, unless this one fails.
pub struct Shared(Option<Idle>);

impl Deref for Shared {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        let idle = self.0.as_ref();
        &idle.expect("it is taken out on drop alone").daemon
    }
}

/// Whether `condition` holds before the timeout.
pub fn holds_in_time(mut condition: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !condition() {
        if started.elapsed() >= patience() {
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
    /// A running daemon if possible: it has counted for other tests before, so only counts of a
    /// process or a name of this test can be compared with absolute numbers.
    pub fn shared() -> Shared {
        Self::shared_with(&[])
    }

    /// The same, with these arguments.
    pub fn shared_with(args: &[&str]) -> Shared {
        let idle = idle().take();
        let running = idle.filter(|it| it.args == args).and_then(|mut it| {
            let alive = matches!(it.daemon.child.try_wait(), Ok(None));
            alive.then(|| {
                it.daemon.before = it.daemon.scrape();
                it
            })
        });
        Shared(Some(running.unwrap_or_else(|| Idle {
            args: args.iter().map(|&it| it.to_owned()).collect(),
            daemon: Self::start(args),
        })))
    }

    /// The same, but started now: for tests of what is older than the daemon.
    pub fn shared_anew(args: &[&str]) -> Shared {
        drop(idle().take());
        Self::shared_with(args)
    }

    /// Starts one with short intervals, and waits until it is ready. Stops the shared daemon, so that it uses no CPU time.
    pub fn start(args: &[&str]) -> Self {
        Self::start_with(args, |_| {})
    }

    /// The same, after `prepare` changed the command.
    pub fn start_with(args: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        Self::launch(args, prepare, |_, _| {})
    }

    /// The same, and calls `meanwhile` repeatedly with the process id and the log.
    pub fn start_while(args: &[&str], meanwhile: impl FnMut(u32, &str)) -> Self {
        Self::launch(args, |_| {}, meanwhile)
    }

    /// Starts that of a package as its unit does, with its configuration and any free port.
    pub fn start_installed(installed: &Installed) -> Self {
        let mut command = installed.daemon();
        command.arg("--listen=127.0.0.1:0");
        Self::run(command, |_, _| {})
    }

    fn launch(
        args: &[&str],
        prepare: impl FnOnce(&mut Command),
        meanwhile: impl FnMut(u32, &str),
    ) -> Self {
        let mut command = Command::new(observer());
        // An emulated machine would spend most of its time on these.
        let [tick, fd, resync, reconcile, tracked, walk, tls] = if scale() < 1.0 {
            // At the start, one system call per tracked process, and sixteen for its counters of TIME_WAIT.
            // Probes for TLS double the time of a start. A walk takes a second of CPU time, and would pause for minutes.
            ["250ms", "1s", "1s", "1s", "512", "5%", "never"]
        } else {
            ["100ms", "200ms", "500ms", "500ms", "4096", "0.2%", "auto"]
        };
        let settings = [
            ("--tick-interval", tick),
            ("--fd-interval", fd),
            ("--resync-interval", resync),
            ("--reconcile-interval", reconcile),
            ("--max-tracked-processes", tracked),
            ("--walk-cpu", walk),
            ("--tls", tls),
            // Loads the programs on functions twice.
            ("--self-test", "no"),
        ];
        command
            .args(["run", "--listen=127.0.0.1:0"])
            .args(
                settings
                    .iter()
                    .filter(|(flag, _)| {
                        // Arguments of the test.
                        !args.iter().any(|arg| arg.split('=').next() == Some(*flag))
                    })
                    .map(|(flag, value)| format!("{flag}={value}")),
            )
            .args(args);
        prepare(&mut command);
        Self::run(command, meanwhile)
    }

    /// Runs a command that becomes the daemon, and waits until that is ready.
    fn run(mut command: Command, mut meanwhile: impl FnMut(u32, &str)) -> Self {
        drop(idle().take());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
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
            // The kernel verifies each program, which takes long in an emulated machine.
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

    /// Its log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Status and body of a GET.
    pub fn get(&self, path: &str) -> (u16, String) {
        let reply = http::get(self.address, path).expect("the daemon answers");
        (reply.status, reply.body)
    }

    /// A scrape that shows all earlier events: the next tick adds new processes, and reads failed setsockopt calls.
    pub fn scrape(&self) -> Metrics {
        wait_for_tick(self.address).expect("the daemon ticks");
        let (status, body) = self.get("/metrics");
        assert_eq!(status, 200, "{body}");
        Metrics::parse_strictly(&body).unwrap()
    }

    /// Whether the kernel also skipped a backup program since the test began, so that events are
    /// missing (docs/limitations.md, Counting); prints that.
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
        self.until_within(patience(), what, condition)
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
            if scale() < 1.0 {
                // There, a scrape takes a good part of a second of what the kernel needs meanwhile.
                thread::sleep((started.elapsed() / 8).min(Duration::from_secs(2)));
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
/// When it does not respond, or does not tick.
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

/// Kinds of hook, the best first (`--hooks`).
const KINDS: [&str; 3] = ["any", "kprobe", "tracepoint"];

/// The kinds that are tested on a slow machine.
const FEW_KINDS: usize = 2;

/// The arguments of a daemon with one kind of hook. Resynchronisation is disabled, because it would hide missing events.
fn of_kind(kind: &str) -> [&str; 4] {
    ["--hooks", kind, "--resync-interval", "1h"]
}

/// The hooks that each kind attaches, cached after the first start with it.
static KNOWN: Mutex<BTreeMap<&str, Metrics>> = Mutex::new(BTreeMap::new());

/// The types of hooks that a kind attaches for a signal, if that is known.
fn known_types(kind: &str, signal: &str) -> Option<BTreeSet<String>> {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.get(kind).map(|metrics| metrics.hook_types(signal))
}

impl Daemon {
    /// A shared daemon with a kind of hook: `any` uses the best.
    pub fn shared_of_kind(kind: &'static str) -> Shared {
        let daemon = Self::shared_with(&of_kind(kind));
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(kind).or_insert_with(|| daemon.before.clone());
        daemon
    }

    /// Whether it attaches the same hooks for a signal as the best kind.
    pub fn has_best_hooks(&self, signal: &str) -> bool {
        let types = self.before.hook_types(signal);
        known_types(KINDS[0], signal).is_some_and(|best| best == types)
    }
}

/// Runs `test` with a shared daemon with a kind of hook, unless a better kind is known to attach the same hooks for
/// `signal`.
pub fn with_kind_of_hook(kind: &'static str, signal: &str, test: impl FnOnce(&Daemon)) {
    let number = KINDS.iter().position(|it| *it == kind);
    let number = number.expect("a kind of hook");
    if number >= FEW_KINDS && scale() < 1.0 {
        println!("--hooks {kind}: tried where the machine is fast");
        return;
    }
    let better = || {
        KINDS[..number]
            .iter()
            .filter_map(|it| known_types(it, signal))
    };
    let is_same = |types: &BTreeSet<String>| better().any(|it| it == *types);
    if known_types(kind, signal).is_some_and(|types| is_same(&types)) {
        println!("--hooks {kind}: the same for {signal}");
        return;
    }
    let daemon = Daemon::shared_of_kind(kind);
    let types = daemon.before.hook_types(signal);
    if is_same(&types) {
        println!("--hooks {kind}: the same for {signal}");
        return;
    }
    println!("--hooks {kind}: {signal} is served by {types:?}");
    test(&daemon);
}

/// Generates a test for each function and kind of hook, in a module for each kind, so that libtest
/// runs those of a kind one after the other with one daemon. The functions get a daemon.
#[macro_export]
macro_rules! for_each_kind_of_hook {
    ($($test:ident: $signal:literal;)+) => {
        $crate::for_each_kind_of_hook!(any, $($test: $signal;)+);
        $crate::for_each_kind_of_hook!(kprobe, $($test: $signal;)+);
        $crate::for_each_kind_of_hook!(tracepoint, $($test: $signal;)+);
    };
    ($kind:ident, $($test:ident: $signal:literal;)+) => {
        mod $kind {
            $(
                #[test]
                #[ignore = "needs root and BPF: run by cargo xtask test"]
                fn $test() {
                    $crate::with_kind_of_hook(stringify!($kind), $signal, super::$test);
                }
            )+
        }
    };
}
