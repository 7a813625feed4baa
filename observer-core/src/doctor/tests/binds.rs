//! The note about calls of bind() and listen() that fail.

use super::*;
use crate::table::{FailedBind, FailedBinds};

const IN_USE: i32 = libc::EADDRINUSE;
/// The last process whose call failed.
const PID: u32 = 77;

fn call(address: &str, errno: i32) -> FailedBind {
    FailedBind {
        netns: NETNS,
        address: address.parse().unwrap(),
        errno: errno as u16,
        is_listen: false,
    }
}

/// Of nginx, a minute ago.
fn binds(calls: &[(FailedBind, u32)]) -> Binds {
    let mut failed = std::collections::BTreeMap::new();
    let mut recorded = FailedBinds {
        last_pid: PID,
        ..FailedBinds::default()
    };
    for (call, count) in calls {
        let errno = crate::names::errno_name(call.errno).into_owned();
        *failed.entry(errno).or_default() += u64::from(*count);
        recorded.calls.add(*call, (*count).into());
    }
    Binds {
        labels: Arc::new(Labels::name("nginx", "nginx.service")),
        is_running: false,
        failed,
        recorded,
        last_ago: Duration::from_secs(60),
    }
}

fn holder(address: &str, pid: u32, comm: &str) -> Listening {
    let place = ListenAddress {
        netns: NETNS,
        address: address.parse().unwrap(),
    };
    (place, Arc::new(Labels::process(pid, comm, "")))
}

fn note(binds: Binds, holders: &[Listening]) -> Option<Item> {
    let odd = Odd {
        binds: vec![binds],
        holders: holders.to_vec(),
        ..Odd::default()
    };
    let report = report_with(&[], &[], &[], &odd, &Sysctls::default());
    let mut notes = report.findings.into_iter();
    notes.find(|it| it.id == "binds-fail")
}

/// What the summary says about addresses.
fn addresses(calls: &[(FailedBind, u32)], holders: &[Listening]) -> String {
    let summary = note(binds(calls), holders).unwrap().summary;
    summary.split_once("1 min ago: ").unwrap().1.to_owned()
}

#[test]
fn the_note_names_the_port_and_who_holds_it() {
    let taken = [(call("0.0.0.0:8080", IN_USE), 5)];
    let python = holder("0.0.0.0:8080", 1_234, "python3");
    let elsewhere = holder("0.0.0.0:80", 9, "other");
    let note = note(binds(&taken), &[elsewhere, python]).unwrap();
    assert_eq!(
        note.summary,
        "nginx (nginx.service): 5 calls of bind() or listen() have failed since the observer started (5 EADDRINUSE), the \
         last one 1 min ago: bind() to 0.0.0.0:8080 (5 times), where python3 (pid 1234) listens"
    );
    assert!(note.causes.is_empty(), "the summary says it");
    assert_eq!(note.holds_for[0].hint, "port-taken");
    let expected = serde_json::json!({
        "errnos": {"EADDRINUSE": 5},
        "calls": [{
            "call": "bind", "errno": "EADDRINUSE", "netns": NETNS, "address": "0.0.0.0", "port": 8080, "count": 5,
            "listening": [{"comm": "python3", "unit": "", "pid": 1234}],
        }],
        "last_seconds_ago": 60.0,
    });
    assert_eq!(note.evidence, expected);
}

#[test]
fn wildcards_are_in_the_way_of_all_addresses() {
    let who = |asked: &str, held: &[(&str, &str)]| {
        let holders: Vec<_> = (1..)
            .zip(held)
            .map(|(pid, (at, comm))| holder(at, pid, comm))
            .collect();
        let text = addresses(&[(call(asked, IN_USE), 10)], &holders);
        text.split_once("where ").map(|it| it.1.to_owned())
    };
    let listens = |who: &str| Some(format!("{who} (pid 1) listens"));
    assert_eq!(who("10.0.0.1:80", &[("0.0.0.0:80", "a")]), listens("a"));
    assert_eq!(who("0.0.0.0:80", &[("10.0.0.1:80", "a")]), listens("a"));
    assert_eq!(who("10.0.0.1:80", &[("[::]:80", "a")]), listens("a"));
    assert_eq!(who("[::]:80", &[("127.0.0.1:80", "a")]), listens("a"));
    assert_eq!(who("[::]:80", &[("[::1]:80", "a")]), listens("a"));
    assert_eq!(who("0.0.0.0:80", &[("[::1]:80", "a")]), None);
    assert_eq!(who("10.0.0.1:80", &[("10.0.0.2:80", "a")]), None);
    assert_eq!(who("10.0.0.1:80", &[("10.0.0.1:81", "a")]), None);
    // The one that is most alike: the other may have IPV6_V6ONLY.
    let both = [("0.0.0.0:80", "a"), ("[::]:80", "b")];
    assert_eq!(who("10.0.0.1:80", &both), listens("a"));
    let workers = [("[::]:80", "w"); 5];
    let expected = "w (pid 1), w (pid 2), w (pid 3) and 2 more listen";
    assert_eq!(who("[::]:80", &workers).as_deref(), Some(expected));
    // In a container.
    let mut inside = holder("0.0.0.0:80", 1, "a");
    inside.0.netns += 1;
    let text = addresses(&[(call("0.0.0.0:80", IN_USE), 10)], &[inside]);
    assert_eq!(text, "bind() to 0.0.0.0:80 (10 times)");
}

#[test]
fn addresses_with_the_same_holder_are_one_sentence() {
    let listen = FailedBind {
        is_listen: true,
        ..call("127.0.0.1:9000", IN_USE)
    };
    let calls = [
        (call("[::]:80", IN_USE), 7),
        (call("0.0.0.0:80", IN_USE), 7),
        (listen, 1),
        (call("0.0.0.0:81", IN_USE), 1),
    ];
    let text = addresses(&calls, &[holder("[::]:80", 7, "apache2")]);
    assert_eq!(
        text,
        "bind() to 0.0.0.0:80 (7 times) and [::]:80 (7 times), where apache2 (pid 7) listens; bind() to 0.0.0.0:81 (once)"
    );
    let text = addresses(&[(listen, 10)], &[]);
    assert_eq!(text, "listen() at 127.0.0.1:9000 (10 times)");
}

/// A service that has not started makes no further calls.
#[test]
fn few_calls_are_noted_if_another_program_holds_the_port() {
    let held = [holder("0.0.0.0:80", 7, "apache2")];
    let is_noted = |count, change: &dyn Fn(&mut Binds), holders: &[Listening]| {
        let mut binds = binds(&[(call("0.0.0.0:80", IN_USE), count)]);
        change(&mut binds);
        note(binds, holders).is_some()
    };
    let runs = |it: &mut Binds| it.is_running = true;
    assert!(is_noted(1, &|_| {}, &held));
    assert!(!is_noted(2, &runs, &held));
    assert!(is_noted(3, &runs, &held));
    // Nobody holds it any more.
    assert!(!is_noted(2, &|_| {}, &[]));
    assert!(is_noted(3, &|_| {}, &[]));
    assert!(!is_noted(9, &runs, &[]));
    assert!(is_noted(10, &runs, &[]));
    // Long ago.
    let old = |it: &mut Binds| it.last_ago = Duration::from_secs(90_000);
    assert!(!is_noted(9, &old, &held));
    assert!(is_noted(10, &old, &held));
    // The process itself holds it.
    assert!(!is_noted(9, &runs, &[holder("[::]:80", PID, "nginx")]));
    // Refused for another reason.
    let denied = |count| binds(&[(call("0.0.0.0:80", libc::EACCES), count)]);
    assert!(note(denied(2), &held).is_none());
    assert!(note(denied(3), &held).is_some());
}

#[test]
fn other_reasons_have_causes_and_hints() {
    let found = |address: &str, errno, holders: &[Listening]| {
        let note = note(binds(&[(call(address, errno), 10)]), holders).unwrap();
        let hints = note.holds_for.into_iter().map(|it| it.hint);
        (
            note.causes.into_iter().next(),
            hints.collect::<Vec<_>>().join(","),
        )
    };
    let with = |address, errno, cause: &str, hint: &str, holders: &[Listening]| {
        let (text, hints) = found(address, errno, holders);
        assert!(text.as_ref().unwrap().contains(cause), "{text:?}");
        assert_eq!(hints, hint);
    };
    with("0.0.0.0:80", IN_USE, "TIME_WAIT", "port-taken", &[]);
    let any = "no port of net.ipv4.ip_local_port_range";
    with("0.0.0.0:0", IN_USE, any, "port-taken", &[]);
    let itself = [holder("[::]:80", PID, "nginx")];
    let v6only = "IPV6_V6ONLY";
    with("0.0.0.0:80", IN_USE, v6only, "port-taken", &itself);
    let privileged = "CAP_NET_BIND_SERVICE";
    with(
        "0.0.0.0:80",
        libc::EACCES,
        privileged,
        "port-privileged",
        &[],
    );
    let (none, hint) = found("0.0.0.0:8080", libc::EACCES, &[]);
    assert_eq!((none, hint.as_str()), (None, "port-privileged"));
    let absent = "had the address 192.0.2.1";
    with(
        "192.0.2.1:80",
        libc::EADDRNOTAVAIL,
        absent,
        "bind-address",
        &[],
    );
    let (none, hint) = found("0.0.0.0:80", libc::EINVAL, &[]);
    assert_eq!((none, hint.as_str()), (None, ""));
}

/// If records were lost, or their addresses could not be read.
#[test]
fn counts_alone_are_a_note() {
    let mut only_counted = binds(&[]);
    only_counted.failed = [("EADDRINUSE", 1_200), ("EACCES", 19)]
        .map(|(errno, count)| (errno.to_owned(), count))
        .into();
    let note = note(only_counted, &[]).unwrap();
    let expected = "nginx (nginx.service): 1,219 calls of bind() or listen() have failed since the observer started (1,200 \
                    EADDRINUSE, 19 EACCES)";
    assert_eq!(note.summary, expected);
    assert!(note.evidence["last_seconds_ago"].is_null());
}

/// A program that tries one port after the other, and what looks similar.
#[test]
fn a_search_for_a_free_port_is_not_noted() {
    let ports = |counts: &[(u16, u32)]| {
        let call = |port: u16| call(&format!("127.0.0.1:{port}"), IN_USE);
        let calls: Vec<_> = counts
            .iter()
            .map(|(port, count)| (call(*port), *count))
            .collect();
        Binds {
            is_running: true,
            ..binds(&calls)
        }
    };
    let first = holder("127.0.0.1:8888", 1, "jupyter-lab");
    let second = holder("127.0.0.1:8889", 2, "jupyter-lab");
    let found = holder("127.0.0.1:8890", PID, "jupyter-lab");
    let all = [first, second, found];
    let is_noted = |binds: Binds, holders: &[Listening]| note(binds, holders).is_some();
    let tries = ports(&[(8888, 6), (8889, 5)]);
    assert!(!is_noted(tries.clone(), &all));
    // It has found none, or not by a search.
    assert!(is_noted(tries.clone(), &all[..2]));
    let elsewhere = holder("127.0.0.1:9000", PID, "jupyter-lab");
    assert!(is_noted(tries, &[all[0].clone(), elsewhere]));
    // One port may be that of something else, which the program does without.
    assert!(is_noted(ports(&[(8889, 12)]), &all));
    // So may another port of a program of the same name.
    assert!(is_noted(ports(&[(8888, 6), (8889, 5), (80, 10)]), &all));
}
