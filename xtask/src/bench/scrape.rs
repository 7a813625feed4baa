//! Reads `/metrics` of a running observer, and holds it against what the load did.

use std::{
    collections::BTreeMap,
    fmt,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{load::Made, proc::Runs};

/// One scrape.
pub struct Scrape {
    pub text: String,
    /// From the connect to the last byte.
    pub took: Duration,
}

/// The body of a GET, which must succeed.
pub fn get(address: SocketAddr, path: &str) -> Result<Scrape> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    // By HTTP/1.0 the answer comes in one piece and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: observer\r\n\r\n")?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    let took = start.elapsed();
    let reply = String::from_utf8(reply).context("the answer is not UTF-8")?;
    let (head, body) = reply.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.get(9..12) == Some("200"), "{path}: {head}");
    Ok(Scrape {
        text: body.to_owned(),
        took,
    })
}

/// One sample: labels as they stand, and the value.
struct Sample<'a> {
    labels: &'a str,
    value: f64,
}

impl Scrape {
    fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Sample<'a>> {
        self.text.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            if !labels.is_empty() && !labels.starts_with('{') {
                return None;
            }
            let value = value.parse().ok()?;
            Some(Sample { labels, value })
        })
    }

    /// The sum of the samples of `name` that have all of `labels`, each as `a="b"`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.samples(name)
            .filter(|sample| labels.iter().all(|label| sample.labels.contains(label)))
            .map(|sample| sample.value)
            .sum()
    }

    /// Run-time statistics by program.
    pub fn programs(&self) -> BTreeMap<String, Runs> {
        let mut programs: BTreeMap<String, Runs> = BTreeMap::new();
        for sample in self.samples("observer_bpf_runs_total") {
            programs.entry(label(sample.labels)).or_default().runs = sample.value as u64;
        }
        for sample in self.samples("observer_bpf_run_seconds_total") {
            let seconds = sample.value;
            let runs = programs.entry(label(sample.labels)).or_default();
            runs.nanoseconds = (seconds * 1e9).round() as u64;
        }
        programs
    }
}

/// The value of the only label.
fn label(labels: &str) -> String {
    labels.split('"').nth(1).unwrap_or_default().to_owned()
}

/// A number that is not what it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Wrong {
    pub what: String,
    pub counted: f64,
    pub expected: f64,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            counted,
            expected,
        } = self;
        write!(f, "{what} is {counted}, expected {expected}")
    }
}

/// Compares the observer's counts of the load's processes, whose names begin with `comm`, with
/// what the load made.
pub fn wrong_counts(scrape: &Scrape, comm: &str, made: &Made) -> Vec<Wrong> {
    let opened = made.short + made.reset + made.live;
    let expected: [(&str, &[&str], u64); 10] = [
        ("socket_state_transitions_total", &[], made.transitions()),
        ("socket_connects_total", &["result=\"ok\""], opened),
        (
            "socket_connects_total",
            &["result=\"ECONNREFUSED\""],
            made.refused,
        ),
        ("socket_accepts_total", &[], opened),
        ("socket_time_wait_entered_total", &[], made.short),
        ("socket_resets_total", &["direction=\"sent\""], made.reset),
        (
            "socket_resets_total",
            &["reason=\"IN_ESTABLISHED\""],
            made.reset,
        ),
        ("socket_resets_total", &["reason=\"REFUSED\""], made.refused),
        (
            "socket_connections",
            &["state=\"ESTABLISHED\""],
            2 * made.live,
        ),
        ("socket_connections", &["state=\"LISTEN\""], made.listeners),
    ];
    let comm = format!("comm=\"{comm}");
    let wrong = |(name, labels, expected): (&str, &[&str], u64)| {
        let all: Vec<&str> = labels.iter().copied().chain([comm.as_str()]).collect();
        let counted = scrape.sum(name, &all);
        let expected = expected as f64;
        (counted != expected).then(|| Wrong {
            what: format!("{name}{{{}}}", labels.join(",")),
            counted,
            expected,
        })
    };
    expected.into_iter().filter_map(wrong).collect()
}

/// Compares what the load says it made with the kernel's counters in its namespace.
pub fn wrong_load(snmp: &str, made: &Made) -> Result<Vec<Wrong>> {
    let counters = tcp_counters(snmp)?;
    let opened = made.short + made.reset + made.live;
    let expected = [
        ("ActiveOpens", opened + made.refused),
        ("PassiveOpens", opened),
        ("AttemptFails", made.refused),
        ("CurrEstab", 2 * made.live),
        ("OutRsts", made.reset + made.refused),
    ];
    let mut wrong = Vec::new();
    for (name, expected) in expected {
        let Some(&counted) = counters.get(name) else {
            bail!("/proc/net/snmp has no {name}");
        };
        if counted != expected {
            wrong.push(Wrong {
                what: format!("Tcp: {name}"),
                counted: counted as f64,
                expected: expected as f64,
            });
        }
    }
    Ok(wrong)
}

fn tcp_counters(snmp: &str) -> Result<BTreeMap<&str, u64>> {
    let mut rows = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (Some(names), Some(values)) = (rows.next(), rows.next()) else {
        bail!("/proc/net/snmp has no Tcp lines");
    };
    Ok(names
        .split(' ')
        .zip(values.split(' '))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADE: Made = Made {
        short: 7,
        reset: 2,
        refused: 1,
        live: 3,
        listeners: 4,
        seconds: 1.0,
        cpu_seconds: 1.0,
    };

    fn scrape(text: &str) -> Scrape {
        Scrape {
            text: text.to_owned(),
            took: Duration::ZERO,
        }
    }

    const RIGHT: &str = r#"# TYPE socket_state_transitions_total counter
socket_state_transitions_total{comm="load",unit="",from="CLOSE",to="LISTEN"} 4
socket_state_transitions_total{comm="load",unit="",from="CLOSE",to="SYN_SENT"} 96
socket_state_transitions_total{comm="other",unit="",from="CLOSE",to="SYN_SENT"} 9
socket_connects_total{comm="load0",unit="",result="ok"} 5
socket_connects_total{comm="load1",unit="",result="ok"} 7
socket_process_connects_total{pid="5",comm="load1",unit="",result="ok"} 7
socket_connects_total{comm="load",unit="",result="ECONNREFUSED"} 1
socket_accepts_total{comm="load",unit=""} 12
socket_time_wait_entered_total{comm="load",unit=""} 7
socket_resets_total{comm="load",unit="",direction="sent",reason="LINGER_ZERO"} 2
socket_resets_total{comm="load",unit="",direction="received",reason="IN_ESTABLISHED"} 2
socket_resets_total{comm="load",unit="",direction="received",reason="REFUSED"} 1
socket_connections{comm="load",unit="",state="ESTABLISHED"} 6
socket_connections{comm="load",unit="",state="LISTEN"} 4
"#;

    #[test]
    fn right_counts_are_right() {
        assert_eq!(wrong_counts(&scrape(RIGHT), "load", &MADE), []);
    }

    #[test]
    fn each_wrong_count_is_named() {
        let text = RIGHT
            .replace("result=\"ok\"} 7", "result=\"ok\"} 6")
            .replace(
                "LISTEN\"} 4\nsocket_state_transitions_total{comm=\"load\",unit=\"\",from=\"CLOSE\",to=\"SYN_SENT\"} 96",
                "LISTEN\"} 4\n",
            );
        let wrong = wrong_counts(&scrape(&text), "load", &MADE);
        let names: Vec<&str> = wrong.iter().map(|wrong| wrong.what.as_str()).collect();
        assert_eq!(
            names,
            [
                "socket_state_transitions_total{}",
                "socket_connects_total{result=\"ok\"}"
            ]
        );
        assert!((wrong[0].counted - 4.0).abs() < 1e-9);
        assert!((wrong[0].expected - 100.0).abs() < 1e-9);
    }

    #[test]
    fn the_load_is_held_against_the_kernel() {
        let snmp = "Ip: Forwarding\nIp: 1\nTcp: MaxConn ActiveOpens PassiveOpens AttemptFails CurrEstab OutRsts\nTcp: -1 13 12 1 6 3\n";
        assert_eq!(wrong_load(snmp, &MADE).unwrap(), []);
        let wrong = wrong_load(&snmp.replace(" 13 ", " 14 "), &MADE).unwrap();
        assert_eq!(wrong.len(), 1);
        assert!(wrong_load("", &MADE).is_err());
    }

    #[test]
    fn programs_have_runs_and_time() {
        let text = "observer_bpf_runs_total{program=\"a\"} 4\nobserver_bpf_run_seconds_total{program=\"a\"} 0.000001\n";
        let expected = Runs {
            runs: 4,
            nanoseconds: 1000,
        };
        assert_eq!(scrape(text).programs()["a"], expected);
    }
}
