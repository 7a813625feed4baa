//! The same as the metrics and `observer tail` show it.

use std::time::Duration;

use observer::kernel::monotonic_ns;
use observer_core::walk::QUIET_SECONDS;
use observer_test_support::{Daemon, Metrics, Netns, patience, skip};

use super::by_ss;
use crate::stream::Tail;

/// A connection for each turn, and those that have a guard; and one in use. Prints the time, and a client's port.
const QUIET: &str = r"
listener = listen(*FAMILIES[0], port=9000)
kept = []
def opened():
    client = connect(socket.AF_INET, ('127.0.0.1', 9000))
    server = listener.accept()[0]
    kept.append((client, server))
    # More than a jiffy, so that ss shows who spoke last.
    time.sleep(0.03)
    return client, server
def exchange(client, server):
    client.send(b'q')
    server.recv(10)
    time.sleep(0.03)
    server.send(b'a')
    client.recv(10)
    time.sleep(0.03)
print(time.clock_gettime_ns(time.CLOCK_MONOTONIC))
used = opened()
opened()
exchange(*opened())
asked = opened()
exchange(*asked)
asked[0].send(b'q')
asked[1].recv(10)
for level, option, value in (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),
):
    guarded = opened()
    for each in guarded:
        each.setsockopt(level, option, value)
    exchange(*guarded)
# Of the last one, with TCP_USER_TIMEOUT, which ss does not show.
print(guarded[0].getsockname()[1])
def uses():
    while True:
        exchange(*used)
threading.Thread(target=uses, daemon=True).start()
input()
";

const CONNECTIONS: f64 = 12.0;
/// Both ends of the unused connection, of the idle one and of the two with guards.
const NOBODYS: f64 = 8.0;
/// Both ends of those without a guard that are not in use.
const UNGUARDED: f64 = 6.0;

fn quiet(metrics: &Metrics, comm: &str, turn: &str, seconds: u32) -> f64 {
    let labels = [("turn", turn), ("quiet", &*seconds.to_string())];
    metrics.by(comm, "socket_quiet_connections", &labels)
}

fn unguarded(metrics: &Metrics, comm: &str) -> f64 {
    metrics.by(comm, "socket_unguarded_connections", &[])
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn quiet_unguarded_and_old_connections_are_those_of_ss() {
    let daemon = Daemon::start(&[]);
    if !daemon.scrape().has_signal("ports") {
        skip!("the kernel has no iterators over maps");
    }
    let netns = Netns::new();
    let mut program = netns.script(QUIET, &[]);
    let comm = program.comm();
    let began: u64 = program.line().parse().expect("a time");
    let timeout: u16 = program.line().parse().expect("a port");
    for seconds in [10, 60] {
        let patience = Duration::from_secs(u64::from(seconds)) + patience();
        let what = format!("connections that are quiet for {seconds} s");
        let metrics = daemon.until_within(patience, &what, |metrics| {
            let turns = ["nobody", "peer", "program"];
            let counts = turns.map(|turn| quiet(metrics, &comm, turn, seconds));
            counts == [NOBODYS, 1.0, 1.0]
                && (seconds < 60 || unguarded(metrics, &comm) == UNGUARDED)
        });
        let most_seconds = (monotonic_ns() - began) as f64 / 1e9;
        let by_ss = by_ss::connections(&netns);
        // They only become more.
        let later = by_ss::quiet(&by_ss, 9000);
        for turn in ["nobody", "peer", "program"] {
            for at_least in QUIET_SECONDS {
                let shown = quiet(&metrics, &comm, turn, at_least);
                let most = later.get(&(turn, at_least)).copied().unwrap_or_default();
                let shown_by = format!("{turn} {at_least}: {shown}, by ss {most}");
                assert!(shown <= f64::from(most), "{shown_by}: {by_ss:#?}");
            }
        }
        let not_guarded = by_ss.iter().filter(|((local, remote), it)| {
            let has_timeout = [local, remote].contains(&&timeout);
            it.idle_ms() > 60_000 && !it.has_keepalive() && !has_timeout
        });
        let most = not_guarded.count() as f64;
        let shown = unguarded(&metrics, &comm);
        assert!(shown <= most, "unguarded {shown}, by ss {most}: {by_ss:#?}");

        let age = |part: &str, labels: &[(&str, &str)]| {
            let name = format!("socket_live_conn_age_seconds_{part}");
            metrics.by(&comm, &name, labels)
        };
        // None is younger than it has been quiet.
        let younger = age("bucket", &[("le", &*seconds.to_string())]);
        let counts = (younger, age("bucket", &[("le", "300")]), age("count", &[]));
        assert_eq!(counts, (0.0, CONNECTIONS, CONNECTIONS), "{seconds}");
        let range = f64::from(seconds) * CONNECTIONS..most_seconds * CONNECTIONS;
        let sum = age("sum", &[]);
        assert!(range.contains(&sum), "{sum} {range:?}");
        println!(
            "quiet for {seconds} s: {later:?}; {most} unguarded, ages {sum:.1} s of {range:?}"
        );
    }
    program.end();
}

/// For each line a client that gives up a server, and one whose server does.
const GIVES_UP: &str = r"
listener = listen(*FAMILIES[0], port=9000)
print('ready')
for line in sys.stdin:
    pairs = []
    for _ in range(2):
        client = connect(socket.AF_INET, ('127.0.0.1', 9000))
        pairs.append((client, listener.accept()[0]))
        client.send(b'q')
        pairs[-1][1].recv(10)
    time.sleep(1.3)
    for first, second in (pairs[0], reversed(pairs[1])):
        first.close()
        second.recv(10)
        second.close()
    print('done')
";

/// `1.3` of `...after 1.3s...`.
fn seconds_after(line: &str, words: &str) -> f64 {
    let rest = line
        .split_once(words)
        .unwrap_or_else(|| panic!("{words}: {line}"))
        .1;
    let number = rest.split_once('s').expect("a unit").0;
    number.parse().unwrap_or_else(|_| panic!("{line}"))
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn tail_says_for_how_long_a_program_waited_before_it_gave_up() {
    let netns = Netns::new();
    let mut program = netns.script(GIVES_UP, &[]);
    program.expect("ready");
    let pid = program.pid().to_string();
    let mut tail = Tail::start(&["--kind", "close", "--pid", &pid, "--count", "12"]);
    tail.first_line(&mut program);
    let (lines, _) = tail.end(&mut program);
    let mut counts = [0; 3];
    // One that is older than the hooks waited for longer than they know.
    for line in lines.iter().filter(|it| {
        it.contains("close") && it.contains("ESTABLISHED ") && !it.contains("start not seen")
    }) {
        // The server's address, or the client's.
        let of_server = line.contains("127.0.0.1:9000 →");
        let waited = match (of_server, line.contains("gave up after ")) {
            (false, true) => {
                assert!(line.contains("s, waiting for the peer"), "{line}");
                counts[0] += 1;
                seconds_after(line, "gave up after ")
            }
            (false, false) => {
                assert!(line.contains("s, without an answer"), "{line}");
                counts[1] += 1;
                seconds_after(line, "the peer closed after ")
            }
            (true, false) => {
                assert!(!line.contains("without an answer"), "{line}");
                counts[2] += 1;
                continue;
            }
            (true, true) => panic!("{line}"),
        };
        let age = seconds_after(line, "ESTABLISHED ");
        // Both are rounded.
        assert!((1.2..=age + 0.1).contains(&waited), "{line}");
    }
    println!("{}", lines.join("\n"));
    assert!(counts.iter().all(|it| *it > 0), "{counts:?}: {lines:#?}");
    program.finish();
}
