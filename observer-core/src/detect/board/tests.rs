use super::{testing::finding, *};

#[test]
fn totals_are_bounded_and_lose_no_raise() {
    let mut board = Board::default();
    for number in 0..2_000 {
        let unit = format!("{}.service", number % 10);
        let name = Labels::process(number, &format!("program-{number}"), &unit);
        for anomaly in Anomaly::ALL {
            board.raise(finding(
                anomaly,
                Subject::Namespace(number % 10),
                Some(name.clone()),
            ));
        }
    }
    let totals: Vec<_> = board.totals().collect();
    assert_eq!(totals.len(), TOTALS);
    let sum: u64 = totals.iter().map(|(_, _, raises)| raises).sum();
    assert_eq!(sum, 2_000 * Anomaly::ALL.len() as u64);
    assert!(
        totals
            .iter()
            .all(|(_, name, _)| name.unwrap().pid().is_none())
    );
}

fn of_process(pid: u32, comm: &str, unit: &str, severity: Severity) -> Finding {
    let key = crate::table::fake::key(pid, 1);
    let labels = Labels::process(pid, comm, unit);
    Finding {
        severity,
        score: f64::from(pid),
        ..finding(Anomaly::FdLeak, Subject::Process(key), Some(labels))
    }
}

/// Raises a critical finding after these warnings, and gives the subject of the one that it has displaced, and under
/// which limit that one counts then.
fn displaced(
    warnings: impl Iterator<Item = Finding>,
    critical: Finding,
) -> Option<(String, Limit)> {
    let mut board = Board::default();
    warnings.for_each(|it| board.raise(it));
    let before = board.entries().count();
    let key = (critical.anomaly, critical.subject.clone());
    board.raise(critical.clone());
    let unlisted = board.unlisted().map(|it| it.limit).collect::<Vec<_>>();
    if board.raised(key.0, &key.1).is_none() {
        assert_eq!(unlisted.len(), 1);
        return None;
    }
    assert_eq!(board.entries().count(), before);
    let changes = board.changes().rev().map(|(_, it)| it);
    let [Change::Raised(raised), Change::Unlisted(old)] = &changes.take(2).collect::<Vec<_>>()[..]
    else {
        panic!("no finding was displaced");
    };
    assert_eq!(*raised, critical);
    assert!(board.is_found(old.anomaly, &old.subject));
    Some((old.subject.to_string(), unlisted[0]))
}

#[test]
fn a_critical_finding_takes_the_place_of_the_least_warning() {
    use Severity::{Critical, Warning};

    let first = |limit| Some(("pid 1".to_owned(), limit));
    let of_name = |severity| (1..6).map(move |it| of_process(it, "api", "a.service", severity));
    let api = of_process(99, "api", "a.service", Critical);
    let all = of_name(Warning).chain([of_process(0, "db", "b.service", Warning)]);
    assert_eq!(displaced(all, api.clone()), first(Limit::Name));
    assert_eq!(displaced(of_name(Critical), api.clone()), None);

    let unit = |pid: u32| format!("user@1000.service/{pid}.service");
    let of_unit = |pids: std::ops::Range<u32>| {
        pids.map(|it| of_process(it, &it.to_string(), &unit(it), Warning))
    };
    let own = of_process(999, "own", "user@1000.service", Critical);
    assert_eq!(displaced(of_unit(1..21), own.clone()), first(Limit::Unit));
    // The limit of a unit for all anomalies counts those of others, too.
    let all = Anomaly::ALL.into_iter().filter(|it| *it != own.anomaly);
    let many = all
        .zip((0..).step_by(20))
        .take(5)
        .flat_map(|(anomaly, from)| {
            of_unit(from + 1..from + 21).map(move |it| Finding { anomaly, ..it })
        });
    assert_eq!(displaced(many, own.clone()), first(Limit::Unit));

    let of_all = (1..=FINDINGS as u32).map(|pid| {
        let name = format!("p{pid}");
        of_process(pid, &name, &format!("{name}.service"), Warning)
    });
    assert_eq!(displaced(of_all.clone(), own), first(Limit::All));
    let warning = of_process(999, "own", "user@1000.service", Warning);
    assert_eq!(displaced(of_all, warning), None);
}

#[test]
fn counts_are_those_of_what_is_raised() {
    let mut board = Board::default();
    for step in 0..500_u32 {
        let unit = format!("{}.service", step % 3);
        let found = of_process(
            step % 40,
            &format!("p{}", step % 7),
            &unit,
            Severity::Warning,
        );
        let (anomaly, subject) = (found.anomaly, found.subject.clone());
        match step % 5 {
            0 => board.end(anomaly, &subject, Duration::from_secs(40)),
            // Its labels have changed.
            1 if board.raised(anomaly, &subject).is_some() => board.put(found),
            _ => board.raise(found),
        }
        let mut expected = Raised::default();
        let raised = board.entries().filter(|it| it.cleared_at.is_none());
        raised.for_each(|it| expected.add(&it.finding));
        assert_eq!(board.raised, expected);
    }
}

#[test]
fn only_raises_count() {
    let mut board = Board::default();
    let subject = Subject::Namespace(1);
    board.raise(finding(Anomaly::SynScan, subject.clone(), None));
    board.end(Anomaly::SynScan, &subject, Duration::from_secs(40));
    board.raise(finding(Anomaly::SynScan, subject, None));
    let totals: Vec<_> = board.totals().collect();
    assert_eq!(totals, [(Anomaly::SynScan, None, 2)]);
}
