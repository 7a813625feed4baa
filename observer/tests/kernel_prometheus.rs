//! With a real Prometheus: processes that end, are replaced, or exist briefly never cause a rate
//! above the true one, at any evaluation of any minute; and every query in the documentation is
//! accepted.
//!
//! One run of six minutes, because a wrong rate would be visible for that time: a process sends
//! 10,000 RSTs in a minute and ends, and the following five minutes are evaluated. Meanwhile a
//! server with worker processes is reloaded under load, and 10,000 processes exist only for one
//! connection each.
//!
//! Nothing here depends on the speed of the machine: the programs record the times of their
//! actions, with which rates are compared.

mod chain;
mod prometheus;

use std::{
    env,
    path::Path,
    time::{Duration, Instant},
};

use observer_test_support::{Daemon, Netns, Program, needs_programs};
use prometheus::{
    Prometheus, Rates, Truth, documented_names, documented_queries, metric_names, now, records,
};

/// How many RSTs, and how many processes.
const EVENTS: &str = "10000";
const MINUTES_AFTER: Duration = Duration::from_secs(5 * 60);
/// By how many seconds the counts of a process that is new may be late: it is added by the next tick,
/// a tenth of a second later and maybe busy then.
fn late() -> f64 {
    match env::var_os("OBSERVER_TEST_BUSY") {
        Some(_) => 2.0,
        None => 0.5,
    }
}
/// For programs that make 10,000 connections at their own pace.
const LONG: Duration = Duration::from_secs(15 * 60);

/// Accepts connections, and waits until each is reset.
const SINK: &str = r"
listener = listen(*FAMILIES[0])
print(listener.getsockname()[1])
def serve():
    while True:
        conn, _ = listener.accept()
        assert outcome(lambda: conn.recv(1)) == 'ECONNRESET'
        conn.close()
threading.Thread(target=serve, daemon=True).start()
input()
";

/// Shared by the programs below: pacing, and recording times.
const PACE: &str = r"
from array import array
def paced(count, per_second):
    start = time.time()
    for number in range(count):
        time.sleep(max(0, start + number / per_second - time.time()))
        yield number
def write(path, stamps):
    with open(path, 'wb') as file:
        stamps.tofile(file)
";

/// Resets connections, over a minute.
const RESETTER: &str = r"
port, count, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
stamps = array('d')
linger = struct.pack('ii', 1, 0)
input()
for _ in paced(count, count / 60):
    client = connect(socket.AF_INET, ('127.0.0.1', port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    stamps.append(time.time())
    client.close()
    stamps.append(time.time())
write(path, stamps)
print('done')
";

/// Forks processes of one connection each, 40 in a second. They have its name; it has no socket.
const FORKER: &str = r"
port, count, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
stamps = array('d')
input()
for _ in paced(count, 40):
    stamps.append(time.time())
    pid = os.fork()
    if pid == 0:
        failed = 1
        try:
            reset(connect(socket.AF_INET, ('127.0.0.1', port)))
            failed = 0
        finally:
            os._exit(failed)
    assert os.waitpid(pid, 0)[1] == 0
    stamps.append(time.time())
write(path, stamps)
print('done')
input()
";

/// Four workers accept on one listener, answer each request and end the connection as it asks.
/// Every three seconds new workers take their place, and the old ones end when they have
/// answered. Each worker writes down when it did what.
const SERVER: &str = r"
path = sys.argv[1]
listener = listen(*FAMILIES[0])
listener.setblocking(False)
def work():
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while not stop:
        select.select([listener], [], [], 0.05)
        asked = time.time()
        try:
            conn, _ = listener.accept()
        except BlockingIOError:
            continue
        accepted = time.time()
        conn.setblocking(True)
        wish = conn.recv(1)
        conn.sendall(b'y')
        closing = time.time()
        if wish == b'r':
            reset(conn)
        else:
            conn.close()
        os.write(log, struct.pack('5d', asked, accepted, closing, time.time(), wish == b'r'))
def start():
    pids = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            failed = 1
            try:
                work()
                failed = 0
            finally:
                os._exit(failed)
        pids.append(pid)
    return pids
def end(pids):
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
workers, reloads = start(), 0
print(listener.getsockname()[1])
while not select.select([sys.stdin], [], [], 3)[0]:
    old, workers = workers, start()
    end(old)
    reloads += 1
end(workers)
print(Tally(reloads=reloads))
sys.stdin.readline()
sys.stdin.readline()
";

/// Asks the server 100 times in a second, and every other time for an RST.
const REQUESTS: &str = r"
port, tally = int(sys.argv[1]), Tally()
input()
for number in paced(10 ** 9, 100):
    if select.select([sys.stdin], [], [], 0)[0]:
        break
    conn = connect(socket.AF_INET, ('127.0.0.1', port))
    conn.sendall(b'r' if number % 2 else b'c')
    assert conn.recv(1) == b'y'
    if outcome(lambda: conn.recv(1)) == 'ECONNRESET':
        tally.add('resets')
    conn.close()
    tally.add('connections')
print(tally)
sys.stdin.readline()
sys.stdin.readline()
";

/// Compares what Prometheus has of a name with what its processes really did: the samples, and
/// the rate that everybody asks for, at every second.
struct Check<'a> {
    prometheus: &'a Prometheus,
    start: f64,
    end: f64,
}

impl Check<'_> {
    /// Of the only series of `metric` that `comm` has.
    fn check(&self, metric: &str, comm: &str, truth: &Truth) {
        self.check_with(metric, None, comm, truth);
    }

    /// The same of the only one that also has `label`, a matcher.
    fn check_with(&self, metric: &str, label: Option<&str>, comm: &str, truth: &Truth) {
        let comma = label.map_or_else(String::new, |label| format!(", {label}"));
        let selector = format!("{metric}{{comm=\"{comm}\"{comma}}}");
        let samples = self.prometheus.samples(&selector);
        let (time, value) = samples.last();
        println!(
            "{selector}: {value} of {}, {:.0} s after the last",
            truth.count(),
            time - truth.last()
        );
        assert!(time > truth.last(), "no sample after the last event");
        assert_eq!(value, truth.count() as f64, "{selector}");
        samples.assert_true(&selector, truth);
        // As it stands in the contract: all names, and no filter of names.
        let braces = label.map_or_else(String::new, |label| format!("{{{label}}}"));
        let query = format!("sum by (comm) (rate({metric}{braces}[1m]))");
        let all = self.prometheus.query_range(&query, self.start, self.end);
        let series: Vec<_> = all.iter().filter(|it| it.labels["comm"] == comm).collect();
        assert_eq!(series.len(), 1, "{query} for {comm}");
        let rates = Rates {
            query: &query,
            points: &series[0].points,
            start: self.start,
            end: self.end,
        };
        samples.assert_rates(truth, &rates);
    }
}

/// Of which each may show as late as this, in seconds.
fn pairs(file: &Path, late: f64) -> Truth {
    Truth::new(
        records::<2>(file)
            .into_iter()
            .map(|[began, over]| (began, over + late)),
    )
}

/// Starts a program, and waits until it prints that it is done.
fn done(program: &mut Program) {
    assert_eq!(program.line_within(LONG), "done");
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn rates_by_name_are_what_was_really_done() {
    needs_programs!("prometheus");
    println!("six minutes of scrapes, one each second: 10,000 RSTs of a process that ends,");
    println!("a server that is reloaded every three seconds, and 10,000 short-lived processes");
    let netns = Netns::new();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let [resets_file, forks_file, served_file] = ["resets", "forks", "served"].map(file);
    let daemon = Daemon::start(&[]);
    let prometheus = Prometheus::start(daemon.address);

    let script = |source: &str, args: &[&str]| netns.script(&[PACE, source].concat(), args);
    let mut sinks = [script(SINK, &[]), script(SINK, &[])];
    let [first, second] = sinks.each_mut().map(Program::line);
    let mut resetter = script(RESETTER, &[&first, EVENTS, resets_file.to_str().unwrap()]);
    let mut forker = script(FORKER, &[&second, EVENTS, forks_file.to_str().unwrap()]);
    let mut server = script(SERVER, &[served_file.to_str().unwrap()]);
    let port = server.line();
    let mut requests = script(REQUESTS, &[&port]);
    let names = [&resetter, &forker, &server].map(Program::comm);
    let [resetter_comm, forker_comm, server_comm] = names.each_ref().map(String::as_str);

    // Halfway between two scrapes, so that no sample is on the edge of a minute.
    let scraped = |prometheus: &Prometheus| {
        let up = prometheus.query("up[1m]").unwrap();
        up.first().map(|up| up.points[0].0)
    };
    daemon.wait("the first scrape", |_| scraped(&prometheus).is_some());
    let start = scraped(&prometheus).expect("a scrape") + 0.5;
    for program in [&mut requests, &mut forker, &mut resetter] {
        program.go();
    }
    done(&mut resetter);
    resetter.finish();
    println!("a process has sent {EVENTS} RSTs and ended");
    let ended = Instant::now();
    done(&mut forker);
    println!("{EVENTS} processes have ended");
    while ended.elapsed() < MINUTES_AFTER {
        std::thread::sleep(Duration::from_secs(1));
    }
    requests.go();
    let asked = requests.tally();
    server.go();
    let reloads = server.tally()["reloads"];
    println!("{asked:?} of a server that was reloaded {reloads} times");
    assert!(reloads >= 60, "{reloads}");

    let last = now();
    let is_later = |scrape: &(f64, f64)| scrape.0 > last + late() + 0.5;
    let later = || {
        let up = prometheus.query("up[1m]").unwrap();
        up[0].points.iter().copied().find(is_later)
    };
    daemon.wait("the last scrape", |_| later().is_some());
    let check = Check {
        prometheus: &prometheus,
        start,
        // Scrapes during the queries make no difference.
        end: later().expect("a scrape").0 + 0.5,
    };
    let resets = pairs(&resets_file, 0.0);
    println!("RSTs for {:.1} s", resets.last() - resets.first());
    assert!(check.end - resets.last() >= MINUTES_AFTER.as_secs_f64());
    check.check("socket_resets_total", resetter_comm, &resets);

    let served = records::<5>(&served_file);
    let accepts = Truth::new(served.iter().map(|it| (it[0], it[1] + late())));
    let answers = served.iter().filter(|it| it[4] == 1.0);
    let answers = Truth::new(answers.map(|it| (it[2], it[3] + late())));
    // No more and no less than the load made.
    assert_eq!(accepts.count() as u64, asked["connections"]);
    assert_eq!(answers.count() as u64, asked["resets"]);
    if daemon.scrape().observes("accept") {
        check.check("socket_accepts_total", server_comm, &accepts);
    }
    // A segment of a client may cross the RST and reach the listener, which then refuses it: one more RST, about once in
    // 100,000.
    let label = Some("reason=\"LINGER_ZERO\"");
    check.check_with("socket_resets_total", label, server_comm, &answers);

    let forks = pairs(&forks_file, late());
    assert_eq!(forks.count().to_string(), EVENTS);
    check.check("socket_connects_total", forker_comm, &forks);
    check.check("socket_resets_total", forker_comm, &forks);
    for metric in ["socket_connects_total", "socket_resets_total"] {
        // The last scrape may have failed on a busy machine.
        let query =
            format!("sum by (comm) (last_over_time({metric}{{comm=\"{forker_comm}\"}}[1m]))");
        let sum = prometheus.query(&query).unwrap();
        assert_eq!(sum[0].points[0].1.to_string(), EVENTS, "{query}");
    }
    daemon.scrape().assert_complete();

    recommended_queries_are_accepted(&prometheus);
    for mut program in [forker, server, requests] {
        program.go();
        program.finish();
    }
    for sink in sinks {
        sink.kill();
    }
}

/// Runs the queries in the documentation.
fn recommended_queries_are_accepted(prometheus: &Prometheus) {
    let queries = documented_queries();
    assert!(queries.len() >= 10, "{queries:?}");
    let mut names = documented_names();
    names.extend(metric_names(&prometheus.names().join(" ")));
    for query in &queries {
        let answer = prometheus.query(query);
        let series = answer.unwrap_or_else(|error| panic!("{query}: {error}"));
        println!("{} series: {query}", series.len());
        for name in metric_names(query) {
            assert!(names.contains(&name), "there is no {name}: {query}");
        }
    }
}
