//! A finding in one line, for the log, the API, the page and `observer doctor`.

use std::time::Duration;

use super::{
    anomaly::Anomaly,
    cause::Explanation,
    finding::{Breakdown, Change, Direction, Evidence, Finding, Severity, Subject},
};
use crate::{table::Labels, text::sanitize};

/// Results of failed connects that are named.
const RESULTS: usize = 3;
/// Kinds of descriptors that are named.
const NEWEST: usize = 3;

/// Who does what: a line without control characters.
#[must_use]
pub fn headline(finding: &Finding) -> String {
    format!("{} {}", who(finding), what(finding))
}

/// The same with why, and what helps.
#[must_use]
pub fn finding_summary(finding: &Finding) -> String {
    let mut summary = headline(finding);
    if let Some(causes) = causes(&finding.causes) {
        summary += &format!("; {causes}");
    }
    if let Some(fix) = fix(&finding.causes) {
        summary += &format!("; fix: {}", fix.trim_end_matches('.'));
    }
    summary
}

/// The same after what happened to it. `at` is when it happened, by CLOCK_MONOTONIC.
#[must_use]
pub fn change_summary(change: &Change, at: Duration) -> String {
    let finding = change.finding();
    let anomaly = finding.anomaly.name();
    let lasted = || duration(at.saturating_sub(finding.since));
    match change {
        Change::Raised(_) => format!("{anomaly} raised: {}", finding_summary(finding)),
        Change::Updated(_) => {
            let severity = match finding.severity {
                Severity::Warning => "warning",
                Severity::Critical => "critical",
            };
            let summary = finding_summary(finding);
            format!("{anomaly} is {severity} after {}: {summary}", lasted())
        }
        // The numbers are those of what is over.
        Change::Cleared(_) => {
            format!("{anomaly} cleared after {}: {}", lasted(), who(finding))
        }
    }
}

/// Two units at most: `24 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`.
#[must_use]
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let Some(first) = units.iter().position(|(length, _)| seconds >= *length) else {
        return "less than a second".to_owned();
    };
    let (length, unit) = units[first];
    let mut text = format!("{} {unit}", seconds / length);
    if let Some((smaller, unit)) = units.get(first + 1) {
        let rest = seconds % length / smaller;
        if rest > 0 {
            text += &format!(" {rest} {unit}");
        }
    }
    text
}

/// With whom it is wrong.
fn who(finding: &Finding) -> String {
    let Finding {
        subject, labels, ..
    } = finding;
    let named = labels.as_deref().map(named);
    match subject {
        Subject::Process(key) => named.unwrap_or_else(|| format!("pid {}", key.tgid)),
        Subject::Name(name) => described(name, "all processes"),
        Subject::Destination(to) => {
            let holder = named.unwrap_or_else(|| "an unknown process".to_owned());
            format!("{holder} from {} to {}", to.source, to.remote)
        }
        Subject::Listener(place) => {
            let holder = named.map_or_else(String::new, |named| format!(" of {named}"));
            format!("the listener {}{holder}", place.address)
        }
        Subject::Namespace(netns) => {
            let holder = named.map_or_else(String::new, |named| format!("{named} in "));
            format!("{holder}network namespace {netns}")
        }
        Subject::Source { address, .. } => address.to_string(),
    }
}

/// `api (pid 5674, api.service)`. A program chooses its name, which may have any characters.
#[must_use]
pub fn named(labels: &Labels) -> String {
    described(labels, "")
}

fn described(labels: &Labels, which: &str) -> String {
    let pid = labels.pid().map(|pid| format!("pid {pid}"));
    let details = [
        which.to_owned(),
        pid.unwrap_or_default(),
        sanitize(labels.unit()),
    ];
    let details: Vec<_> = details.into_iter().filter(|it| !it.is_empty()).collect();
    let comm = match labels.comm() {
        "" => "a program without a name".to_owned(),
        comm => sanitize(comm),
    };
    match details.is_empty() {
        true => comm,
        false => format!("{comm} ({})", details.join(", ")),
    }
}

/// What it does.
fn what(finding: &Finding) -> String {
    // None at all is said by the numbers.
    let left = finding.time_left.filter(|left| !left.is_zero());
    let left = left.map(duration);
    match &finding.evidence {
        Evidence::Resets {
            direction,
            per_second,
            baseline,
            share,
            peer_pid,
            sent: _,
            received: _,
        } => {
            let verb = match direction {
                Direction::Sent => "sends",
                Direction::Received => "receives",
            };
            let peer = peer_pid.map_or_else(String::new, |pid| {
                format!("; the other end is mostly pid {pid} of this host")
            });
            let normal = baseline.map_or_else(String::new, |baseline| {
                format!(" (normal here: {}/s)", rate(baseline))
            });
            format!(
                "{verb} {} RSTs/s, {} of its ended connections{normal}{peer}",
                rate(*per_second),
                percent(*share),
            )
        }
        Evidence::Connects {
            failed,
            attempts,
            seconds,
            waiting,
            results,
        } => {
            let waiting = match waiting {
                0 => None,
                1 => Some("1 connection has waited for an answer for over 3 s".to_owned()),
                waiting => Some(format!(
                    "{} connections have waited for an answer for over 3 s",
                    number(*waiting)
                )),
            };
            let failed = (*failed > 0).then(|| {
                format!(
                    "{} of {} connects failed in {}{}",
                    number(*failed),
                    number(*attempts),
                    duration(Duration::from_secs(*seconds)),
                    reasons(results),
                )
            });
            let parts: Vec<_> = failed.into_iter().chain(waiting).collect();
            format!("cannot connect: {}", parts.join("; "))
        }
        Evidence::Unanswered {
            unanswered,
            ended,
            seconds,
        } => format!(
            "loses connections that nothing answers any more: {} of the {} that ended in {}",
            number(*unanswered),
            number(*ended),
            duration(Duration::from_secs(*seconds)),
        ),
        Evidence::Ports {
            blocked,
            available,
            live: _,
            time_wait,
            opened_per_second,
            end,
            failed_searches,
            holders: _,
        } => {
            let (taken, opened) = match finding.subject {
                Subject::Namespace(_) => ("are taken by bind()", "bound"),
                _ => ("are blocked", "opened"),
            };
            let state = format!(
                "{} of {} {taken}, {} of them in TIME_WAIT, and {} connections/s are {opened}",
                number(*blocked),
                number(*available),
                percent(f64::from(*time_wait) / f64::from((*blocked).max(1))),
                rate(*opened_per_second),
            );
            if finding.anomaly == Anomaly::TimeWaitSurge {
                return format!(
                    "leaves most local ports in TIME_WAIT: {state}; {} will be blocked at this rate",
                    percent(*end)
                );
            }
            let when = left.map_or_else(String::new, |left| format!(" in {left}"));
            match failed_searches {
                0 => format!("runs out of local ports{when}: {state}"),
                failed => format!(
                    "is out of local ports, {} calls found none in 10 s: {state}",
                    number(*failed)
                ),
            }
        }
        Evidence::TimeWaitOverflows { overflows } => format!(
            "closed {} connections without TIME_WAIT in 10 s",
            number(*overflows)
        ),
        Evidence::Descriptors {
            open,
            limit,
            growth_per_second,
            emfile,
            enfile,
            newest,
        } => {
            let open = format!(
                "has {} of {} file descriptors open",
                number(*open),
                number(*limit)
            );
            let errors: Vec<_> = [(*emfile, "EMFILE"), (*enfile, "ENFILE")]
                .into_iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, errno)| format!("{} with {errno}", number(count)))
                .collect();
            let when = match left.filter(|_| errors.is_empty()) {
                Some(left) => format!("; none is left in {left}"),
                None => String::new(),
            };
            let errors = match errors.is_empty() {
                true => String::new(),
                false => format!("; calls fail, {} in the last seconds", errors.join(", ")),
            };
            let kinds: Vec<_> = newest
                .iter()
                .take(NEWEST)
                .map(|it| format!("{} {}", number(it.count), it.kind))
                .collect();
            let kinds = match kinds.is_empty() {
                true => String::new(),
                false => format!("; the newest are {}", kinds.join(", ")),
            };
            format!("{open}{}{when}{errors}{kinds}", growth(*growth_per_second))
        }
        Evidence::CloseWait { over_10s, over_60s } => {
            let long = match over_60s {
                0 => String::new(),
                long => format!(", {} of them for over a minute", number(*long)),
            };
            let sockets = if *over_10s == 1 { "socket" } else { "sockets" };
            format!(
                "does not close {} {sockets} that the other side closed over 10 s ago{long}",
                number(*over_10s)
            )
        }
        Evidence::AcceptQueue {
            overflows,
            backlog,
            max_backlog,
            fullest,
            sockets,
            accepts,
            stuck_pid,
            holders: _,
        } => {
            let fullest = match sockets {
                0 | 1 => String::new(),
                sockets => format!(
                    " over {} sockets, the fullest {} full",
                    number(*sockets),
                    percent(*fullest)
                ),
            };
            let stuck = stuck_pid.map_or_else(String::new, |pid| format!(", none by pid {pid}"));
            let accepts = match accepts {
                0 => "none was accepted".to_owned(),
                accepts => format!("{} were accepted", number(*accepts)),
            };
            format!(
                "dropped {} connection requests in 10 s: {} connections wait for accept() where {} \
                 may{fullest}; {accepts} in the last seconds{stuck}",
                number(*overflows),
                number(*backlog),
                number(*max_backlog),
            )
        }
        Evidence::Scan { ports, segments } => format!(
            "tries closed ports: {} segments to at least {} ports",
            number(*segments),
            number(*ports)
        ),
    }
}

/// `: 40 refused, 5 timed out`, most first.
fn reasons(results: &Breakdown) -> String {
    let mut failures: Vec<_> = results.iter().filter(|(name, _)| *name != "ok").collect();
    failures.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    failures.truncate(RESULTS);
    let failures: Vec<_> = failures
        .into_iter()
        .map(|(name, count)| format!("{} {}", number(count), name.replace('_', " ")))
        .collect();
    match failures.is_empty() {
        true => String::new(),
        false => format!(" ({})", failures.join(", ")),
    }
}

fn causes(causes: &[Explanation]) -> Option<String> {
    match causes {
        [] => None,
        [only] => Some(format!("cause: {}", only.cause.text)),
        several => {
            // Those of different questions do not share.
            let all_hold = several.iter().all(|it| it.share >= 1.0);
            let text = |it: &Explanation| match all_hold {
                true => it.cause.text.to_owned(),
                false => format!("{} ({})", it.cause.text, percent(it.share)),
            };
            let texts: Vec<_> = several.iter().map(text).collect();
            let and = if all_hold { "; and " } else { ", or " };
            Some(format!("causes: {}", texts.join(and)))
        }
    }
}

/// Of the first cause that has one.
fn fix(causes: &[Explanation]) -> Option<&'static str> {
    let hints = causes.iter().flat_map(|it| it.cause.hints());
    let mut fixes = hints.map(|hint| hint.fix);
    fixes.find(|fix| !fix.is_empty())
}

/// With a comma between thousands.
fn number(value: impl Into<u64>) -> String {
    let digits = value.into().to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Two digits at least.
fn rate(value: f64) -> String {
    if value < 9.95 {
        let text = format!("{value:.1}");
        return text.strip_suffix(".0").map(str::to_owned).unwrap_or(text);
    }
    number(value.round() as u64)
}

fn percent(share: f64) -> String {
    let percent = 100.0 * share.clamp(0.0, 1.0);
    match percent {
        p if p > 0.0 && p < 0.5 => "less than 1 %".to_owned(),
        p => format!("{p:.0} %"),
    }
}

/// `, 11 more a minute`: in the unit of time in which it is at least one. Empty if it does not grow.
fn growth(per_second: f64) -> String {
    let units = [("second", 1.0), ("minute", 60.0), ("hour", 3600.0)];
    let fits = |(_, seconds): &&(&str, f64)| per_second * seconds >= 1.0;
    match units.iter().find(fits) {
        Some((unit, seconds)) => {
            let article = if *unit == "hour" { "an" } else { "a" };
            format!(", {} more {article} {unit}", rate(per_second * seconds))
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        detect::{Cause, Holder, KindCount, cause},
        table::{ListenAddress, fake::key},
        walk::Destination,
    };

    fn process() -> (Subject, Option<Labels>) {
        let key = key(5674, 1);
        let labels = Labels::process(5674, "api", "api.service");
        (Subject::Process(key), Some(labels))
    }

    fn destination() -> (Subject, Option<Labels>) {
        let to = Destination {
            netns: 1,
            source: [10, 0, 0, 1].into(),
            remote: ([10, 0, 9, 12], 5432).into(),
        };
        let labels = Labels::name("php-fpm", "");
        (Subject::Destination(to), Some(labels))
    }

    fn listener() -> (Subject, Option<Labels>) {
        let place = ListenAddress {
            netns: 1,
            address: ([0, 0, 0, 0], 8080).into(),
        };
        let labels = Labels::process(7, "api", "");
        (Subject::Listener(place), Some(labels))
    }

    fn namespace() -> (Subject, Option<Labels>) {
        (Subject::Namespace(4_026_531_840), None)
    }

    fn finding(
        anomaly: Anomaly,
        (subject, labels): (Subject, Option<Labels>),
        time_left: Option<u64>,
        evidence: Evidence,
        causes: &[(&'static Cause, u64)],
    ) -> Finding {
        Finding {
            anomaly,
            subject,
            labels: labels.map(Arc::new),
            severity: Severity::Critical,
            score: 2.0,
            time_left: time_left.map(Duration::from_secs),
            since: Duration::from_secs(100),
            evidence,
            causes: cause::explain(causes),
        }
    }

    fn resets(direction: Direction, peer_pid: Option<u32>) -> Evidence {
        Evidence::Resets {
            direction,
            per_second: 140.2,
            baseline: Some(0.52),
            share: 0.62,
            sent: Breakdown::default(),
            received: Breakdown::default(),
            peer_pid,
        }
    }

    #[test]
    fn a_storm_that_is_sent() {
        let causes = [(&cause::UNREAD, 1)];
        let evidence = resets(Direction::Sent, None);
        let finding = finding(Anomaly::RstStorm, process(), None, evidence, &causes);
        assert_eq!(
            finding_summary(&finding),
            "api (pid 5674, api.service) sends 140 RSTs/s, 62 % of its ended connections (normal \
             here: 0.5/s); cause: closes connections with unread data; fix: After \
             shutdown(SHUT_WR), read to the end, then close"
        );
    }

    #[test]
    fn causes_that_hold_together_have_no_shares() {
        let both = [&cause::SHORT_CONNECTIONS, &cause::SMALL_RANGE];
        let both = both.map(|cause| Explanation { cause, share: 1.0 });
        assert_eq!(
            causes(&both).unwrap(),
            "causes: opens a connection for each request; each closed one keeps its port for 60 \
             seconds; and few local ports are available: a small ip_local_port_range, reserved or \
             bound ports"
        );
    }

    #[test]
    fn what_is_normal_for_a_new_process_is_not_known() {
        let mut evidence = resets(Direction::Sent, None);
        if let Evidence::Resets { baseline, .. } = &mut evidence {
            *baseline = None;
        }
        let finding = finding(Anomaly::RstStorm, process(), None, evidence, &[]);
        assert_eq!(
            finding_summary(&finding),
            "api (pid 5674, api.service) sends 140 RSTs/s, 62 % of its ended connections"
        );
    }

    #[test]
    fn a_storm_that_is_received_has_several_causes() {
        let causes = [(&cause::PEER_ABORTS, 5), (&cause::PEER_LEFT, 4)];
        let labels = Labels::name("api", "");
        let name = (Subject::Name(Arc::new(labels.clone())), Some(labels));
        let evidence = resets(Direction::Received, Some(77));
        let finding = finding(Anomaly::RstStorm, name, None, evidence, &causes);
        assert_eq!(
            finding_summary(&finding),
            "api (all processes) receives 140 RSTs/s, 62 % of its ended connections (normal here: \
             0.5/s); the other end is mostly pid 77 of this host; causes: peers abort established \
             connections: they cancel, restart, or something in between times out (56 %), or goes on \
             writing after the peer has closed: the peer left early, or misuses half-close (44 %); \
             fix: Find who sent it"
        );
    }

    #[test]
    fn failed_connects() {
        let evidence = |failed, waiting| Evidence::Connects {
            failed,
            attempts: 50,
            seconds: 120,
            waiting,
            results: Breakdown::new([("ok", 5), ("timed_out", 5), ("refused", 40)]),
        };
        let of = |failed, waiting| {
            let evidence = evidence(failed, waiting);
            finding_summary(&finding(
                Anomaly::ConnectFailures,
                process(),
                None,
                evidence,
                &[],
            ))
        };
        let who = "api (pid 5674, api.service) cannot connect:";
        let failed = "45 of 50 connects failed in 2 min (40 refused, 5 timed out)";
        assert_eq!(of(45, 0), format!("{who} {failed}"));
        assert_eq!(
            of(0, 1_200),
            format!("{who} 1,200 connections have waited for an answer for over 3 s")
        );
        assert_eq!(
            of(45, 1),
            format!("{who} {failed}; 1 connection has waited for an answer for over 3 s")
        );
    }

    #[test]
    fn peers_that_are_silent() {
        let evidence = Evidence::Unanswered {
            unanswered: 30,
            ended: 40,
            seconds: 120,
        };
        let causes = [(&cause::NOT_ACKNOWLEDGED, 1)];
        let finding = finding(Anomaly::SilentPeers, process(), None, evidence, &causes);
        assert_eq!(
            finding_summary(&finding),
            "api (pid 5674, api.service) loses connections that nothing answers any more: 30 of the \
             40 that ended in 2 min; cause: what it sends is not acknowledged: a NAT or firewall \
             forgot the connections, or the peers are gone; fix: TCP_KEEPIDLE, TCP_KEEPINTVL, \
             TCP_KEEPCNT; TCP_USER_TIMEOUT"
        );
    }

    fn ports(failed_searches: u64) -> Evidence {
        Evidence::Ports {
            blocked: 14_900,
            available: 28_232,
            live: 298,
            time_wait: 14_602,
            opened_per_second: 560.4,
            end: 1.18,
            failed_searches,
            holders: vec![Holder {
                process: None,
                labels: Arc::new(Labels::name("php-fpm", "")),
                count: 14_900,
            }],
        }
    }

    #[test]
    fn ports_for_a_destination() {
        let of = |anomaly, left, failed| {
            finding_summary(&finding(anomaly, destination(), left, ports(failed), &[]))
        };
        let who = "php-fpm from 10.0.0.1 to 10.0.9.12:5432";
        let numbers = "14,900 of 28,232 are blocked, 98 % of them in TIME_WAIT, and 560 \
                       connections/s are opened";
        assert_eq!(
            of(Anomaly::PortExhaustion, Some(24), 0),
            format!("{who} runs out of local ports in 24 s: {numbers}")
        );
        assert_eq!(
            of(Anomaly::PortExhaustion, None, 3),
            format!("{who} is out of local ports, 3 calls found none in 10 s: {numbers}")
        );
        assert_eq!(
            of(Anomaly::TimeWaitSurge, None, 0),
            format!(
                "{who} leaves most local ports in TIME_WAIT: {numbers}; 100 % will be blocked at \
                 this rate"
            )
        );
    }

    #[test]
    fn ports_of_a_namespace() {
        let evidence = Evidence::Ports {
            blocked: 15_000,
            available: 28_232,
            live: 1_500,
            time_wait: 13_500,
            opened_per_second: 500.0,
            end: 1.1,
            failed_searches: 0,
            holders: Vec::new(),
        };
        let finding = finding(
            Anomaly::PortExhaustion,
            namespace(),
            Some(26),
            evidence,
            &[],
        );
        assert_eq!(
            finding_summary(&finding),
            "network namespace 4026531840 runs out of local ports in 26 s: 15,000 of 28,232 are \
             taken by bind(), 90 % of them in TIME_WAIT, and 500 connections/s are bound"
        );
    }

    #[test]
    fn overflows_of_time_wait() {
        let evidence = Evidence::TimeWaitOverflows { overflows: 1_200 };
        let finding = finding(Anomaly::TimeWaitOverflow, namespace(), None, evidence, &[]);
        assert_eq!(
            finding_summary(&finding),
            "network namespace 4026531840 closed 1,200 connections without TIME_WAIT in 10 s"
        );
    }

    #[test]
    fn descriptors() {
        let kind = |kind: &str, count| KindCount {
            kind: kind.to_owned(),
            count,
        };
        let newest = vec![kind("pipes", 200), kind("files in /tmp", 56)];
        let of = |anomaly, left, open, growth_per_second, emfile| {
            let evidence = Evidence::Descriptors {
                open,
                limit: 1_024,
                growth_per_second,
                emfile,
                enfile: 0,
                newest: newest.clone(),
            };
            finding_summary(&finding(anomaly, process(), left, evidence, &[]))
        };
        assert_eq!(
            of(Anomaly::FdLeak, Some(1_222), 800, 11.0 / 60.0, 0),
            "api (pid 5674, api.service) has 800 of 1,024 file descriptors open, 11 more a minute; \
             none is left in 20 min 22 s; the newest are 200 pipes, 56 files in /tmp"
        );
        assert_eq!(
            of(Anomaly::FdExhaustion, Some(0), 1_024, 0.0, 212),
            "api (pid 5674, api.service) has 1,024 of 1,024 file descriptors open; calls fail, 212 \
             with EMFILE in the last seconds; the newest are 200 pipes, 56 files in /tmp"
        );
    }

    #[test]
    fn sockets_in_close_wait() {
        let of = |over_10s, over_60s| {
            let evidence = Evidence::CloseWait { over_10s, over_60s };
            finding_summary(&finding(
                Anomaly::CloseWaitLeak,
                process(),
                None,
                evidence,
                &[],
            ))
        };
        assert_eq!(
            of(45, 30),
            "api (pid 5674, api.service) does not close 45 sockets that the other side closed over \
             10 s ago, 30 of them for over a minute"
        );
        assert!(
            of(1, 0).ends_with("does not close 1 socket that the other side closed over 10 s ago")
        );
    }

    #[test]
    fn an_accept_queue() {
        let of = |sockets, accepts| {
            let evidence = Evidence::AcceptQueue {
                overflows: 38,
                backlog: 129,
                max_backlog: 128,
                fullest: 1.01,
                sockets,
                accepts,
                stuck_pid: (sockets == 8).then_some(12),
                holders: Vec::new(),
            };
            finding_summary(&finding(
                Anomaly::ListenOverflow,
                listener(),
                None,
                evidence,
                &[],
            ))
        };
        let start = "the listener 0.0.0.0:8080 of api (pid 7) dropped 38 connection requests in 10 \
                     s: 129 connections wait for accept() where 128 may";
        assert_eq!(
            of(1, 0),
            format!("{start}; none was accepted in the last seconds")
        );
        assert_eq!(
            of(8, 1_500),
            format!(
                "{start} over 8 sockets, the fullest 100 % full; 1,500 were accepted in the last \
                 seconds, none by pid 12"
            )
        );
    }

    #[test]
    fn a_scan() {
        let source = Subject::Source {
            netns: 1,
            address: [198, 51, 100, 7].into(),
        };
        let evidence = Evidence::Scan {
            ports: 200,
            segments: 5_000,
        };
        let causes = [(&cause::SCAN, 1)];
        let finding = finding(Anomaly::SynScan, (source, None), None, evidence, &causes);
        assert_eq!(
            finding_summary(&finding),
            "198.51.100.7 tries closed ports: 5,000 segments to at least 200 ports; cause: somebody \
             looks for open ports; the source address may be forged"
        );
    }

    #[test]
    fn changes_say_what_happened() {
        let evidence = Evidence::TimeWaitOverflows { overflows: 2 };
        let finding = finding(Anomaly::TimeWaitOverflow, namespace(), None, evidence, &[]);
        let of = |change, at| change_summary(&change, Duration::from_secs(at));
        let numbers = "network namespace 4026531840 closed 2 connections without TIME_WAIT in 10 s";
        assert_eq!(
            of(Change::Raised(finding.clone()), 100),
            format!("time_wait_overflow raised: {numbers}")
        );
        assert_eq!(
            of(Change::Updated(finding.clone()), 700),
            format!("time_wait_overflow is critical after 10 min: {numbers}")
        );
        assert_eq!(
            of(Change::Cleared(finding), 350),
            "time_wait_overflow cleared after 4 min 10 s: network namespace 4026531840"
        );
    }

    #[test]
    fn a_program_cannot_forge_a_line_by_its_name() {
        let labels = Labels::process(1, "a\nERROR\u{202e}\u{1b}[2J", "\u{9b}unit\n");
        let key = key(1, 1);
        let process = (Subject::Process(key), Some(labels));
        let evidence = Evidence::CloseWait {
            over_10s: 3,
            over_60s: 0,
        };
        let finding = finding(Anomaly::CloseWaitLeak, process, None, evidence, &[]);
        let summary = finding_summary(&finding);
        assert!(!summary.chars().any(|c| c.is_control() || c == '\u{202e}'));
        assert!(summary.starts_with(r"a\x0aERROR\u{202e}\x1b[2J (pid 1, \u{9b}unit\x0a) does"));
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in [
            (0.2, "less than a second"),
            (0.9, "1 s"),
            (24.0, "24 s"),
            (60.0, "1 min"),
            (250.0, "4 min 10 s"),
            (3_600.0, "1 h"),
            (7_530.0, "2 h 5 min"),
            (273_700.0, "3 d 4 h"),
        ] {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), text);
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(number(999_u64), "999");
        assert_eq!(number(1_234_567_u64), "1,234,567");
        assert_eq!(
            [0.0, 0.04, 1.25, 9.96, 1_500.4].map(rate),
            ["0", "0", "1.2", "10", "1,500"]
        );
        assert_eq!(
            [0.0, 0.001, 0.5, 7.0].map(percent),
            ["0 %", "less than 1 %", "50 %", "100 %"]
        );
        assert_eq!(
            [5.0, 0.1, 0.001, 0.000_1].map(growth),
            [
                ", 5 more a second",
                ", 6 more a minute",
                ", 3.6 more an hour",
                ""
            ]
        );
    }
}
