//! What is shown of findings.

use std::{collections::BTreeMap, time::Duration};

use proptest::{collection::vec, option, prelude::*};

use super::{AWKWARD, Series, engine, exporter, kernel, parse, text};
use crate::{
    detect::{
        Anomaly, Board, Severity, Subject,
        testing::{self, finding},
    },
    sync::write,
    table::{Labels, TableConfig, fake::key, name_of},
};

/// Samples of findings after `change`.
fn samples(change: impl FnOnce(&mut Board)) -> BTreeMap<Series, f64> {
    let exporter = exporter(kernel(), TableConfig::default());
    change(write(&engine(&exporter)).board_mut());
    let mut samples = parse(&text(&exporter));
    samples.retain(|(name, _), _| name.starts_with("socket_anom"));
    samples
}

/// The samples of a metric, by the values of its labels.
fn values(samples: &BTreeMap<Series, f64>, metric: &str) -> Vec<(String, f64)> {
    let of = samples.iter().filter(|((name, _), _)| name == metric);
    of.map(|((_, labels), value)| {
        let labels = ["anomaly", "pid", "comm", "unit"].map(|name| labels.get(name));
        let labels: Vec<_> = labels.into_iter().flatten().map(String::as_str).collect();
        (labels.join("|"), *value)
    })
    .collect()
}

fn process(pid: u32) -> (Subject, Option<Labels>) {
    let labels = Labels::process(pid, "api", "api.service");
    (Subject::Process(key(pid, 1)), Some(labels))
}

#[test]
fn nothing_is_shown_before_the_first_raise() {
    assert_eq!(samples(|_| ()), BTreeMap::new());
}

#[test]
fn a_finding_is_shown_until_an_hour_after_it_is_over() {
    let (subject, labels) = process(7);
    let mut raised = finding(Anomaly::FdLeak, subject.clone(), labels);
    raised.severity = Severity::Critical;
    raised.score = 2.5;
    raised.time_left = Some(Duration::from_millis(1_500));
    let of = |samples: &BTreeMap<Series, f64>| {
        [
            "socket_anomaly",
            "socket_anomaly_score",
            "socket_anomaly_time_left_seconds",
            "socket_anomalies_total",
        ]
        .map(|metric| values(samples, metric))
    };
    let series = |value| vec![("fd_leak|7|api|api.service".to_owned(), value)];
    let total = vec![("fd_leak|api|api.service".to_owned(), 1.0)];
    let shown = samples(|board| board.raise(raised.clone()));
    assert_eq!(
        of(&shown),
        [series(2.0), series(2.5), series(1.5), total.clone()]
    );
    let cleared = |now: u64| {
        samples(|board| {
            board.raise(raised.clone());
            board.end(Anomaly::FdLeak, &subject, Duration::from_secs(100));
            testing::begin(board, Duration::from_secs(now));
        })
    };
    let over = [series(0.0), Vec::new(), Vec::new(), total.clone()];
    assert_eq!(of(&cleared(3_699)), over);
    assert_eq!(
        of(&cleared(3_700)),
        [Vec::new(), Vec::new(), Vec::new(), total]
    );
}

#[test]
fn of_findings_with_the_same_labels_the_worst_is_shown() {
    let (_, labels) = process(7);
    let shown = samples(|board| {
        for (netns, severity, score, left) in [
            (1, Severity::Warning, 9.0, Some(50)),
            (2, Severity::Critical, 2.0, None),
            (3, Severity::Warning, 1.0, Some(20)),
            (4, Severity::Critical, 99.0, Some(1)),
        ] {
            let subject = Subject::Namespace(netns);
            let mut finding = finding(Anomaly::PortExhaustion, subject.clone(), labels.clone());
            finding.severity = severity;
            finding.score = score;
            finding.time_left = left.map(Duration::from_secs);
            board.raise(finding);
            if netns == 4 {
                board.end(Anomaly::PortExhaustion, &subject, Duration::from_secs(60));
            }
        }
    });
    let series = |value| vec![("port_exhaustion|7|api|api.service".to_owned(), value)];
    assert_eq!(values(&shown, "socket_anomaly"), series(2.0));
    assert_eq!(values(&shown, "socket_anomaly_score"), series(9.0));
    let left = "socket_anomaly_time_left_seconds";
    assert_eq!(values(&shown, left), series(20.0));
}

#[test]
fn what_has_no_process_has_neither_pid_nor_name() {
    let shown =
        samples(|board| board.raise(finding(Anomaly::SynScan, Subject::Namespace(1), None)));
    for metric in ["socket_anomaly", "socket_anomalies_total"] {
        assert_eq!(values(&shown, metric), [("syn_scan".to_owned(), 1.0)]);
    }
}

#[test]
fn awkward_names_are_escaped() {
    let shown = samples(|board| {
        for (pid, comm) in (1..).zip(AWKWARD) {
            let labels = Labels::process(pid, &name_of(comm), "a\\b\"\n.service");
            let subject = Subject::Process(key(pid, 1));
            board.raise(finding(Anomaly::RstStorm, subject, Some(labels)));
        }
    });
    for metric in ["socket_anomaly", "socket_anomalies_total"] {
        let mut comms: Vec<_> = shown
            .keys()
            .filter(|(name, _)| name == metric)
            .map(|(_, labels)| labels["comm"].clone())
            .collect();
        comms.sort();
        let mut expected = AWKWARD.map(name_of);
        expected.sort();
        assert_eq!(comms, expected);
    }
}

proptest! {
    /// `parse` refuses a series that comes twice.
    #[test]
    fn no_series_comes_twice(
        findings in vec((0..10_usize, 0..4_u32, option::of((option::of(1..4_u32), "[ab<\"]?")), any::<bool>()), 0..60)
    ) {
        let shown = samples(|board| {
            for (anomaly, netns, labels, over) in &findings {
                let labels = labels.as_ref().map(|(pid, comm)| match pid {
                    Some(pid) => Labels::process(*pid, comm, ""),
                    None => Labels::name(comm, ""),
                });
                let anomaly = Anomaly::ALL[*anomaly];
                let subject = Subject::Namespace(*netns);
                board.raise(finding(anomaly, subject.clone(), labels));
                if *over {
                    board.end(anomaly, &subject, Duration::from_secs(60));
                }
            }
        });
        let raises: f64 = values(&shown, "socket_anomalies_total").iter().map(|(_, value)| value).sum();
        prop_assert_eq!(raises, findings.len() as f64);
        let one = !findings.is_empty();
        prop_assert_eq!(!values(&shown, "socket_anomaly").is_empty(), one);
    }
}
