//! Reads `/metrics` of a running observer, and compares it with the load.

use std::{collections::BTreeMap, fmt, net::SocketAddr, time::Duration};

use anyhow::{Result, bail, ensure};
use observer_test_support::{Metrics, http};

use super::{load::Made, proc::Runs};

type Labels<'a> = &'a [(&'a str, &'a str)];

/// One scrape.
pub struct Scrape {
    pub metrics: Metrics,
    /// From the connect to the last byte.
    pub took: Duration,
}

/// Scrapes a running observer.
pub fn scrape(address: SocketAddr) -> Result<Scrape> {
    let reply = http::get(address, "/metrics")?;
    ensure!(reply.status == 200, "/metrics: {}", reply.head);
    Ok(Scrape {
        metrics: Metrics::parse(&reply.body)?,
        took: reply.took,
    })
}

/// Run-time statistics by program.
pub fn programs(metrics: &Metrics) -> BTreeMap<String, Runs> {
    let mut programs: BTreeMap<String, Runs> = BTreeMap::new();
    for sample in metrics.select("observer_bpf_runs_total", &[]) {
        let name = sample.labels["program"].clone();
        programs.entry(name).or_default().runs = sample.value as u64;
    }
    for sample in metrics.select("observer_bpf_run_seconds_total", &[]) {
        let name = sample.labels["program"].clone();
        let runs = programs.entry(name).or_default();
        runs.nanoseconds = (sample.value * 1e9).round() as u64;
    }
    programs
}

/// A number that differs from the expected one.
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

/// Compares the observer's counts of the load's processes, whose names begin with `comm`, with the load.
pub fn wrong_counts(metrics: &Metrics, comm: &str, made: &Made) -> Vec<Wrong> {
    let opened = made.short + made.reset + made.live;
    let expected: [(&str, Labels<'_>, u64); 10] = [
        ("socket_state_transitions_total", &[], made.transitions()),
        ("socket_connects_total", &[("result", "ok")], opened),
        (
            "socket_connects_total",
            &[("result", "ECONNREFUSED")],
            made.refused,
        ),
        ("socket_accepts_total", &[], opened),
        ("socket_time_wait_entered_total", &[], made.short),
        ("socket_resets_total", &[("direction", "sent")], made.reset),
        (
            "socket_resets_total",
            &[("reason", "IN_ESTABLISHED")],
            made.reset,
        ),
        (
            "socket_resets_total",
            &[("reason", "REFUSED")],
            made.refused,
        ),
        (
            "socket_connections",
            &[("state", "ESTABLISHED")],
            2 * made.live,
        ),
        ("socket_connections", &[("state", "LISTEN")], made.listeners),
    ];
    let wrong = |(name, labels, expected): (&str, Labels<'_>, u64)| {
        let of_load = metrics.select(name, labels).filter(|sample| {
            let name = sample.labels.get("comm");
            name.is_some_and(|name| name.starts_with(comm))
        });
        let counted: f64 = of_load.map(|sample| sample.value).sum();
        let expected = expected as f64;
        let labels = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{value}\""));
        (counted != expected).then(|| Wrong {
            what: format!("{name}{{{}}}", labels.collect::<Vec<_>>().join(",")),
            counted,
            expected,
        })
    };
    expected.into_iter().filter_map(wrong).collect()
}

/// Compares the load as reported by the generator with the kernel's TCP counters in its namespace.
pub fn wrong_load(counters: &BTreeMap<String, i64>, made: &Made) -> Result<Vec<Wrong>> {
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
        let (counted, expected) = (counted as f64, expected as f64);
        if counted != expected {
            wrong.push(Wrong {
                what: format!("Tcp: {name}"),
                counted,
                expected,
            });
        }
    }
    Ok(wrong)
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
        assert_eq!(
            wrong_counts(&Metrics::parse(RIGHT).unwrap(), "load", &MADE),
            []
        );
    }

    #[test]
    fn each_wrong_count_is_named() {
        let text = RIGHT
            .replace("result=\"ok\"} 7", "result=\"ok\"} 6")
            .replace(
                "LISTEN\"} 4\nsocket_state_transitions_total{comm=\"load\",unit=\"\",from=\"CLOSE\",to=\"SYN_SENT\"} 96",
                "LISTEN\"} 4\n",
            );
        let wrong = wrong_counts(&Metrics::parse(&text).unwrap(), "load", &MADE);
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
        let counters = [
            ("ActiveOpens", 13),
            ("PassiveOpens", 12),
            ("AttemptFails", 1),
            ("CurrEstab", 6),
            ("OutRsts", 3),
        ];
        let mut counters = counters
            .map(|(name, value)| (name.to_owned(), value))
            .into();
        assert_eq!(wrong_load(&counters, &MADE).unwrap(), []);
        counters.insert("ActiveOpens".to_owned(), 14);
        let wrong = wrong_load(&counters, &MADE).unwrap();
        assert_eq!(wrong.len(), 1);
        assert!(wrong_load(&BTreeMap::new(), &MADE).is_err());
    }

    #[test]
    fn programs_have_runs_and_time() {
        let text = "observer_bpf_runs_total{program=\"a\"} 4\nobserver_bpf_run_seconds_total{program=\"a\"} 0.000001\n";
        let expected = Runs {
            runs: 4,
            nanoseconds: 1000,
        };
        assert_eq!(programs(&Metrics::parse(text).unwrap())["a"], expected);
    }
}
