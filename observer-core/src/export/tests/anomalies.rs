//! What `/api/v1/anomalies` and `/api/v1/processes` say of findings.

use std::{sync::Arc, time::Duration};

use observer_common::SLOT_FIRST;
use serde_json::{Value, json};

use super::{engine, exporter, kernel, snapshot};
use crate::{
    clock::Clock,
    detect::{
        Anomaly, Board, CHANGES, Change, Evidence, Finding, Holder, Severity, Subject, cause,
        testing::finding,
    },
    export::{Exporter, log_fields},
    sync::write,
    table::{Labels, TableConfig},
};

/// Of a host that booted at noon.
const CLOCK: Clock = Clock {
    realtime_offset_ns: 1_795_262_400_000_000_000,
    utc_offset_s: 7_200,
};

fn with(change: impl FnOnce(&mut Board)) -> Exporter {
    let exporter = exporter(kernel(), TableConfig::default());
    change(write(&engine(&exporter)).board_mut());
    exporter
}

fn answer(exporter: &Exporter, limit: usize) -> Value {
    serde_json::to_value(exporter.anomalies(limit, CLOCK)).unwrap()
}

/// A storm of one of the processes of [`kernel`].
fn storm() -> Finding {
    let process = kernel().slots.lock().unwrap()[SLOT_FIRST as usize].key;
    let labels = Labels::process(process.tgid, "quo\"te", "");
    let subject = Subject::Process(process);
    let mut finding = finding(Anomaly::RstStorm, subject, Some(labels));
    finding.causes = cause::explain(&[(&cause::UNREAD, 1)]);
    crate::detect::Host::default().advise(&mut finding.causes, None, false);
    finding.time_left = Some(Duration::from_millis(1_500));
    finding
}

#[test]
fn the_worst_finding_and_the_newest_change_come_first() {
    let exporter = with(|board| {
        for (netns, severity, score) in [
            (1, Severity::Warning, 9.0),
            (2, Severity::Critical, 1.0),
            (3, Severity::Critical, 2.0),
        ] {
            let subject = Subject::Namespace(netns);
            let mut finding = finding(Anomaly::TimeWaitOverflow, subject, None);
            finding.severity = severity;
            finding.score = score;
            board.raise(finding);
        }
        let over = Duration::from_secs(70);
        board.end(Anomaly::TimeWaitOverflow, &Subject::Namespace(3), over);
    });
    let all = answer(&exporter, 10);
    let netns = |of: &Value| of["subject"]["netns"].as_u64().unwrap();
    let findings: Vec<_> = all["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(netns)
        .collect();
    assert_eq!(findings, [2, 1]);
    let changes = all["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 4);
    assert_eq!(changes[0]["change"], "cleared");
    assert_eq!(changes[0]["at"], "2026-11-21T12:01:10.000000Z");
    assert_eq!(changes[0]["at_monotonic_seconds"], 70.0);
    assert_eq!(
        changes[0]["summary"],
        "time_wait_overflow cleared after 1 min: network namespace 3"
    );
    assert_eq!(changes[3]["change"], "raised");
    assert_eq!(netns(&changes[3]["finding"]), 1);
    let two = answer(&exporter, 2);
    assert_eq!(two["changes"].as_array().unwrap()[..], changes[..2]);
    assert_eq!(two["findings"], all["findings"]);
}

#[test]
fn a_finding_has_its_summary_its_hints_and_both_times() {
    let answer = answer(&with(|board| board.raise(storm())), 0);
    let [finding] = &answer["findings"].as_array().unwrap()[..] else {
        panic!("{answer}");
    };
    assert_eq!(answer["changes"], json!([]));
    assert_eq!(finding["pid"], 100);
    assert_eq!(finding["comm"], "quo\"te");
    assert_eq!(finding["severity"], "warning");
    assert_eq!(finding["since"], "2026-11-21T12:00:10.000000Z");
    assert_eq!(finding["since_monotonic_seconds"], 10.0);
    assert_eq!(finding["time_left_seconds"], 1.5);
    let summary = finding["summary"].as_str().unwrap();
    assert!(summary.starts_with("quo\"te (pid 100) "), "{summary}");
    let [cause] = &finding["causes"].as_array().unwrap()[..] else {
        panic!("{finding}");
    };
    assert_eq!(cause["id"], "unread");
    let hint = &cause["hints"][0];
    assert_eq!(hint["id"], "half-close");
    for part in ["fact", "kernels", "fix", "check"] {
        assert!(hint[part].as_str().unwrap().len() > 2, "{part}");
    }
}

#[test]
fn processes_and_names_have_their_findings() {
    let labels = Labels::name("back\\slash", "");
    let exporter = with(|board| {
        let storm = storm();
        let Subject::Process(process) = storm.subject else {
            unreachable!()
        };
        let mut queue = finding(Anomaly::ListenOverflow, Subject::Namespace(1), None);
        queue.evidence = Evidence::AcceptQueue {
            overflows: 1,
            backlog: 1,
            max_backlog: 1,
            fullest: 1.0,
            stalled: 0,
            stalled_seconds: 0.0,
            sockets: 1,
            accepts: 0,
            stuck_pid: None,
            waits: Vec::new(),
            holders: vec![Holder {
                process: Some(process),
                labels: Arc::new(Labels::process(process.tgid, "quo\"te", "")),
                count: 1,
            }],
        };
        board.raise(storm);
        board.raise(queue);
        let name = Subject::Name(Arc::new(labels.clone()));
        board.raise(finding(Anomaly::ConnectFailures, name, Some(labels)));
    });
    let answer = exporter.processes(&snapshot(&exporter), 100, CLOCK);
    let answer = serde_json::to_value(answer).unwrap();
    let anomalies = |of: &str, key: &str, value: Value| {
        let all = answer[of].as_array().unwrap();
        let entry = all.iter().find(|it| it[key] == value).unwrap();
        let anomalies = entry["anomalies"].as_array().unwrap().iter();
        let mut anomalies: Vec<_> = anomalies.map(|it| it["anomaly"].clone()).collect();
        anomalies.sort_by_key(Value::to_string);
        anomalies
    };
    assert_eq!(
        anomalies("processes", "pid", 100.into()),
        ["listen_overflow", "rst_storm"]
    );
    assert_eq!(anomalies("processes", "pid", 101.into()), [""; 0]);
    let name = "back\\slash".into();
    assert_eq!(anomalies("names", "comm", name), ["connect_failures"]);
}

#[test]
fn an_answer_is_bounded() {
    let exporter = with(|board| {
        for number in 0..2_000 {
            let mut finding = storm();
            finding.subject = Subject::Namespace(number);
            board.raise(finding.clone());
            board.end(finding.anomaly, &finding.subject, Duration::from_secs(60));
        }
    });
    let answer = answer(&exporter, usize::MAX);
    assert_eq!(answer["changes"].as_array().unwrap().len(), CHANGES);
    let size = answer.to_string().len();
    println!("{size} bytes");
    assert!(size < 3_000 * CHANGES);
}

#[test]
fn a_log_line_has_the_evidence_and_the_ids_of_causes_and_hints() {
    let fields = log_fields(&Change::Raised(storm()), CLOCK);
    assert_eq!(
        Value::Object(fields),
        json!({
            "anomaly": "rst_storm",
            "causes": ["unread"],
            "change": "raised",
            "comm": "quo\"te",
            "evidence": {"overflows": 3},
            "hints": ["half-close"],
            "pid": 100,
            "score": 1.5,
            "severity": "warning",
            "since": "2026-11-21T12:00:10.000000Z",
            "subject": {"kind": "process", "pid": 100, "start_boottime_ns": 1},
            "time_left_seconds": 1.5,
            "unit": "",
        })
    );
}
