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

/// Programs of one user, of which each fails more often than the one of a service.
#[test]
fn the_programs_of_a_user_leave_room_for_others() {
    let unit = |number: u32| format!("user@1000.service/{number}.scope");
    let users = (0..100).map(|number| Labels::name(&format!("p{number}"), &unit(number)));
    let all: Vec<_> = users
        .chain([Labels::name("db", "db.service")])
        .map(Arc::new)
        .collect();
    let count = |labels: &Labels| match labels.comm() {
        "db" => 20,
        _ => 1_000,
    };
    let failed: Vec<_> = all
        .iter()
        .map(|labels| FailedOptions {
            labels: Arc::clone(labels),
            count: count(labels),
            ..fast_open()
        })
        .collect();
    let binds = all.iter().map(|labels| Binds {
        labels: Arc::clone(labels),
        is_running: true,
        failed: [("EADDRINUSE".to_owned(), count(labels))].into(),
        recorded: Default::default(),
        last_ago: Duration::ZERO,
    });
    let odd = Odd {
        binds: binds.collect(),
        ..Odd::default()
    };
    let items = report_with(&[], &[], &failed, &odd, &Sysctls::default()).findings;
    let listed = |id: &str| {
        let of = items
            .iter()
            .filter(|it| it.id == id && it.subject["kind"] == "name");
        let comms = of.map(|it| it.subject["comm"].clone());
        let (db, users): (Vec<_>, Vec<_>) = comms.partition(|it| it == "db");
        (db.len(), users.len())
    };
    assert_eq!(listed("setsockopt-fails"), (1, 10));
    assert_eq!(listed("binds-fail"), (1, 5));
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
        "there are more findings than are listed, which may hide some (1,235 fd_exhaustion): 1,235 of api.service"
    );
    let many = [
        ("api.service", 7),
        ("", 2),
        ("session-7.scope", 2),
        ("session-8.scope", 1),
    ];
    let rest = ["a.service", "b.service"].map(|it| (it, 1));
    let many = many.into_iter().chain(rest).map(|(unit, count)| Unlisted {
        name: Some(Labels::name("p", unit)),
        ..unlisted(Limit::All, count)
    });
    let item = of(&many.collect::<Vec<_>>()).remove(1);
    let named =
        "7 of api.service, 3 of sessions of users, 2 without a unit, the others of 2 more units";
    assert_eq!(item.summary.split_once(": ").unwrap().1, named);
    let by_unit = serde_json::json!({
        "": 2, "a.service": 1, "api.service": 7, "b.service": 1, "session-": 3,
    });
    assert_eq!(item.evidence["by_unit"], by_unit);
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
