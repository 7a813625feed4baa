//! What the tests on a real kernel share: a running observer to ask, real programs to
//! misbehave, network namespaces to do it in, and the kernel's own counters to compare with.
//!
//! These tests need root and BPF. They run where `OBSERVER_KERNEL_TESTS=1` is set, which
//! `cargo xtask test` does; elsewhere each says that it was skipped, and why.

#![expect(dead_code, reason = "each test binary uses another part of this")]

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

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

/// The observer binary.
pub fn observer() -> PathBuf {
    std::env::var_os("OBSERVER_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_observer").into(), Into::into)
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
        let mut command = Command::new(observer());
        command
            .args(["run", "--listen", "127.0.0.1:0"])
            .args(["--tick-interval", "100ms", "--fd-interval", "200ms"])
            .args([
                "--resync-interval",
                "500ms",
                "--reconcile-interval",
                "500ms",
            ])
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
            if let Some(address) = address_in(&text) {
                break address;
            }
            if let Some(status) = child.try_wait().unwrap() {
                thread::sleep(Duration::from_millis(100));
                panic!("observer ended with {status}:\n{}", log.lock().unwrap());
            }
            assert!(
                started.elapsed() < PATIENCE,
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
                metrics.text,
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

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// A parsed exposition.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub text: String,
    pub samples: Vec<Sample>,
}

impl Metrics {
    pub fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(parse_sample)
            .collect();
        Self {
            text: text.to_owned(),
            samples,
        }
    }

    /// Samples of `name` that have all of `labels`.
    pub fn select<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        })
    }

    /// Sum of [`select`](Self::select); 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        // `fold`, because the empty sum of floats is -0.
        self.select(name, labels)
            .fold(0.0, |sum, sample| sum + sample.value)
    }

    /// The same for one process.
    pub fn of(&self, pid: u32, name: &str, labels: &[(&str, &str)]) -> f64 {
        let pid = pid.to_string();
        let mut all = vec![("pid", pid.as_str())];
        all.extend_from_slice(labels);
        self.sum(name, &all)
    }

    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.select(name, labels).next().is_some()
    }

    /// Whether a signal is observed on this kernel; says so when it is not.
    pub fn observes(&self, signal: &str) -> bool {
        let observed = self.has("observer_signal_info", &[("signal", signal)]);
        if !observed {
            println!("skipped: {signal} is not observed on this kernel");
        }
        observed
    }

    /// Asserts `seen == counted + unattributed + lost` for every signal.
    pub fn assert_complete(&self) {
        for seen in self.select("observer_events_seen_total", &[]) {
            let signal = seen.labels["signal"].as_str();
            let settled = self.sum("observer_events_total", &[("signal", signal)]);
            assert_eq!(
                seen.value, settled,
                "events of {signal} are missing:\n{}",
                self.text
            );
        }
    }
}

fn parse_sample(line: &str) -> Sample {
    let (head, labels, rest) = match line.find('{') {
        Some(open) => {
            let close = closing_brace(line, open);
            (&line[..open], &line[open + 1..close], &line[close + 1..])
        }
        None => {
            let space = line.find(' ').expect("a value");
            (&line[..space], "", &line[space..])
        }
    };
    let value = match rest.trim() {
        "+Inf" => f64::INFINITY,
        text => text
            .parse()
            .unwrap_or_else(|_| panic!("no value in {line:?}")),
    };
    Sample {
        name: head.to_owned(),
        labels: parse_labels(labels),
        value,
    }
}

fn closing_brace(line: &str, open: usize) -> usize {
    let mut quoted = false;
    let mut escaped = false;
    for (at, character) in line.char_indices().skip_while(|(at, _)| *at <= open) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return at,
            _ => {}
        }
    }
    panic!("no closing brace in {line:?}");
}

fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next().expect("a closing quote") {
                (_, '\\') => match characters.next().expect("an escape").1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (at, '"') => break at,
                (_, other) => value.push(other),
            }
        };
        let duplicate = labels.insert(key.trim_start_matches(',').to_owned(), value);
        assert!(duplicate.is_none(), "label {key} twice in {text:?}");
        rest = &after[end + 1..];
    }
    labels
}

/// A network namespace of its own, with loopback up; gone when dropped.
pub struct Netns {
    pub name: String,
}

impl Netns {
    pub fn new(purpose: &str) -> Self {
        let name = format!("obs-{purpose}-{}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let this = Self { name };
        this.run("ip", &["link", "set", "lo", "up"]);
        this
    }

    /// A command that runs in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a command in it, which must succeed.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        checked(self.command(program).args(args).output().unwrap(), program)
    }

    /// Runs a Python program in it, which must succeed.
    pub fn python(&self, source: &str, args: &[&str]) -> Program {
        Program::spawn(
            self.command("python3")
                .args(["-u", "-c", source])
                .args(args),
        )
    }

    /// The same, after [`PRELUDE`].
    pub fn script(&self, source: &str, args: &[&str]) -> Program {
        self.python(&[PRELUDE, source].concat(), args)
    }

    /// Sets a sysctl of it. Written by a process inside, because `/proc/sys/net` shows the
    /// reader's own namespace.
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        self.run("sh", &["-c", &format!("echo '{value}' > {path}")]);
    }

    /// A number of `/proc/net/sockstat`: `tw` of `TCP:`.
    pub fn sockstat(&self, name: &str) -> u64 {
        let text = self.run("cat", &["/proc/net/sockstat"]);
        let words = text.lines().find_map(|line| line.strip_prefix("TCP: "));
        let words: Vec<&str> = words.expect("a TCP line").split(' ').collect();
        let pair = words.chunks(2).find(|pair| pair[0] == name);
        pair.expect("the word")[1].parse().unwrap()
    }

    /// The kernel's counters in it: `/proc/net/snmp`, by `Tcp` column.
    pub fn snmp(&self) -> BTreeMap<String, i64> {
        table(&self.run("cat", &["/proc/net/snmp"]), "Tcp")
    }

    /// `/proc/net/netstat`, by `TcpExt` column.
    pub fn netstat(&self) -> BTreeMap<String, i64> {
        table(&self.run("cat", &["/proc/net/netstat"]), "TcpExt")
    }

    /// Sockets that `ss` shows in a state (`established`, `time-wait`...), IPv4 and IPv6.
    pub fn ss(&self, state: &str) -> usize {
        self.run("ss", &["-Htan", "state", state]).lines().count()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}

/// The kernel's counters in this namespace: `/proc/net/snmp`, by `Tcp` column.
pub fn snmp() -> BTreeMap<String, i64> {
    table(&std::fs::read_to_string("/proc/net/snmp").unwrap(), "Tcp")
}

fn table(text: &str, prefix: &str) -> BTreeMap<String, i64> {
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

fn checked(output: Output, program: &str) -> String {
    assert!(
        output.status.success(),
        "{program} failed: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A real program that talks to the test in lines: it prints what it has done and waits
/// for a line before it goes on, so that nothing depends on timing.
pub struct Program {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Program {
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, lines) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Runs Python source; `print()` and `input()` are the conversation.
    pub fn python(source: &str, args: &[&str]) -> Self {
        Self::spawn(
            Command::new("python3")
                .args(["-u", "-c", source])
                .args(args),
        )
    }

    /// The process id. `ip netns exec` replaces itself, so it is the program's own.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line it prints.
    pub fn line(&mut self) -> String {
        self.line_within(PATIENCE)
    }

    /// The same, for something that may take longer.
    pub fn line_within(&mut self, patience: Duration) -> String {
        self.lines.recv_timeout(patience).unwrap_or_else(|error| {
            panic!(
                "the program says nothing ({error}): {:?}",
                self.child.try_wait()
            )
        })
    }

    /// Waits for a line that must be `expected`.
    pub fn expect(&mut self, expected: &str) {
        assert_eq!(self.line(), expected);
    }

    /// Lets it go on.
    pub fn go(&mut self) {
        let stdin = self.child.stdin.as_mut().expect("stdin is piped");
        stdin.write_all(b"\n").unwrap();
    }

    /// Says something to it.
    pub fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("stdin is piped");
        writeln!(stdin, "{line}").unwrap();
    }

    /// The next line it prints, which must be `name=count` words.
    pub fn tally(&mut self) -> BTreeMap<String, u64> {
        self.line()
            .split_whitespace()
            .map(|word| {
                let (name, count) = word.split_once('=').expect("name=count");
                (name.to_owned(), count.parse().expect("a count"))
            })
            .collect()
    }

    /// Waits for it to end well.
    pub fn finish(mut self) {
        let stdin = self.child.stdin.take();
        drop(stdin);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the program failed: {status}");
    }

    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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

/// The directory of this crate, for fixtures.
pub fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
