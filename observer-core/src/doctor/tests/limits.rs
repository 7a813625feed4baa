use super::*;
use crate::detect::Limit;

#[test]
fn failed_options_are_limited_and_those_of_running_programs_come_first() {
    let of = |name: u32, option: u32, is_running: bool| FailedOptions {
        labels: Arc::new(Labels::name(&format!("p{name}"), "")),
        option: format!("option{option}"),
        count: u64::from(option) + 100 * u64::from(!is_running),
        is_running,
        ..fast_open()
    };
    let ended = (0..30).flat_map(|name| (0..8).map(move |option| (name, option)));
    let mut failed: Vec<_> = ended
        .map(|(name, option)| of(name, option, false))
        .collect();
    failed.push(of(99, 1, true));
    let items = report(&[], &failed, &Sysctls::default()).findings;
    // The only one that runs, five of each of 19 others, and how many there are beside.
    assert_eq!(items.len(), 1 + 19 * 5 + 1);
    assert!(
        items[0]
            .summary
            .starts_with("p99: 1 setsockopt(option1) call failed")
    );
    let last = &items.last().unwrap().summary;
    let more = 30 * 8 - 19 * 5;
    assert!(
        last.starts_with(&format!(
            "{more} more kinds of setsockopt() calls of 30 programs"
        )),
        "{last}"
    );
}

#[test]
fn findings_without_room_are_counted() {
    let finding = exhausted(detect::Severity::Critical);
    let labels = finding.labels.as_deref().unwrap();
    let unlisted = |limit, count| Unlisted {
        anomaly: Anomaly::FdExhaustion,
        limit,
        name: Some(Labels::name(labels.comm(), labels.unit())),
        count,
    };
    let findings = std::slice::from_ref(&finding);
    let of = |unlisted: &[Unlisted]| {
        report_with(
            findings,
            unlisted,
            &[],
            &Odd::default(),
            &Sysctls::default(),
        )
        .findings
    };
    let same_name = of(&[unlisted(Limit::Name, 95)]);
    assert_eq!(same_name.len(), 1);
    assert_eq!(
        same_name[0].notes[0],
        "95 more processes of this name have the same finding"
    );
    let others = of(&[unlisted(Limit::Unit, 1_234), unlisted(Limit::All, 1)]);
    assert_eq!(others[1].severity, Severity::Warn);
    assert_eq!(
        others[1].summary,
        "there are more findings than are listed, which may hide some (1,235 fd_exhaustion)"
    );
}

/// A user has any number of network namespaces.
#[test]
fn a_setting_of_many_namespaces_is_one_line() {
    let setting = |netns| Setting {
        name: "net.ipv4.ip_local_port_range_high".to_owned(),
        netns,
        value: 40_010,
        verdict: Verdict::Warn,
        why: "why".to_owned(),
    };
    let report = Report {
        findings: Vec::new(),
        settings: (1..=150)
            .map(|it| setting(Some(it)))
            .chain([setting(None)])
            .collect(),
        not_looked_at: Vec::new(),
    };
    let text = render(&report, None);
    let lines: Vec<_> = text.lines().filter(|it| it.starts_with("WARN")).collect();
    assert_eq!(
        lines,
        [
            "WARN  net.ipv4.ip_local_port_range_high = 40010 (netns 1, 2, 3, 4, 5 and 145 more): why",
            "WARN  net.ipv4.ip_local_port_range_high = 40010: why",
        ]
    );
}
