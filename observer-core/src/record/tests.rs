use std::collections::BTreeSet;

use observer_common::{
    CALL_BIND, CALL_LISTEN, CLOSE, CLOSE_WAIT, CONN_ESTABLISHED, CONN_PASSIVE, CONN_RESET_RECEIVED,
    CONN_SEEDED, ENDED_TIMEOUT, ENDED_UNREAD, ESTABLISHED, IPPROTO_TCP, LAST_ACK, Pod as _,
    RECORD_BIND_FAILED, RECORD_CLOSE, RECORD_CONNECT_FAILED, RECORD_FD_EXHAUSTED,
    RECORD_RESET_RECEIVED, RECORD_RESET_SENT, RECORD_SETSOCKOPT_FAILED, RECORD_STATE,
    RECORD_TIME_WAIT, Record, SYN_SENT, pack_duration,
};
use proptest::prelude::*;

use super::*;
use crate::names::ResetReasons;

/// What a kernel before 6.10 has.
fn no_reasons() -> ResetReasons {
    ResetReasons::default()
}

const CLOCK: Clock = Clock {
    realtime_offset_ns: 1_795_303_302_000_000_000,
    utc_offset_s: 0,
};
const NGINX: Identity<'_> = Identity {
    pid: 4321,
    comm: "nginx",
    unit: "web.service",
};

fn zeroed() -> Record {
    Record::read_from(&[0; size_of::<Record>()]).unwrap()
}

fn record(kind: u8) -> Record {
    let mut record = Record {
        time_ns: 123_456_789,
        tgid: 4321,
        slot: 3,
        generation: 1,
        netns: 4_026_531_840,
        kind,
        from: ESTABLISHED,
        family: AF_INET,
        protocol: IPPROTO_TCP,
        local_port: 443,
        remote_port: 51_000,
        ..zeroed()
    };
    record.local[..4].copy_from_slice(&[10, 0, 0, 1]);
    record.remote[..4].copy_from_slice(&[192, 0, 2, 7]);
    record
}

/// As [`CALL_BIND`] or [`CALL_LISTEN`].
fn bind_failed(call: usize) -> Record {
    Record {
        from: 0,
        remote: [0; 16],
        remote_port: 0,
        errno: 13,
        reason: call as u32,
        ..record(RECORD_BIND_FAILED)
    }
}

fn closed() -> Record {
    let mut record = Record {
        age_ns: 33_200_000_000,
        from: LAST_ACK,
        to: CLOSE,
        flags: CONN_PASSIVE | CONN_ESTABLISHED,
        ..record(RECORD_CLOSE)
    };
    for (state, ns) in [
        (ESTABLISHED, 2_000_000_000),
        (CLOSE_WAIT, 31_200_000_000),
        (LAST_ACK, 100_000),
    ] {
        record.spent[usize::from(state)] = pack_duration(ns);
    }
    record
}

fn shown(record: &Record) -> String {
    line(record, &NGINX, &no_reasons(), CLOCK)
}

#[test]
fn columns_are_aligned() {
    let mut refused = Record {
        age_ns: 60_000,
        from: SYN_SENT,
        to: CLOSE,
        errno: 111,
        ..record(RECORD_CONNECT_FAILED)
    };
    refused.retransmits = 2;
    let sockopt = Record {
        from: 0,
        level: 6,
        option: 13,
        errno: 2,
        ..record(RECORD_SETSOCKOPT_FAILED)
    };
    let fd = Record {
        family: 0,
        from: 0,
        errno: 24,
        local_port: 0,
        ..record(RECORD_FD_EXHAUSTED)
    };
    let bind = Record {
        errno: 98,
        local: [0; 16],
        ..bind_failed(CALL_BIND)
    };
    let lines = [
        header(None),
        shown(&closed()),
        shown(&refused),
        shown(&Record {
            reason: 48,
            ..record(RECORD_RESET_SENT)
        }),
        shown(&Record {
            reason: ESTABLISHED.into(),
            ..record(RECORD_RESET_RECEIVED)
        }),
        shown(&Record {
            mptcp: 1,
            retransmits: 1,
            ..record(RECORD_TIME_WAIT)
        }),
        shown(&sockopt),
        shown(&fd),
        shown(&bind),
        shown(&Record {
            to: CLOSE_WAIT,
            ..record(RECORD_STATE)
        }),
    ]
    .join("\n");
    assert_eq!(
        lines,
        "\
TIME             PID COMM            EVENT             LOCAL → REMOTE                                STATE                        AGE  WHY
23:21:42.123    4321 nginx           close             10.0.0.1:443 → 192.0.2.7:51000                LAST_ACK→CLOSE             33.2s  ESTABLISHED 2.0s CLOSE_WAIT 31.2s LAST_ACK 0.1ms
23:21:42.123    4321 nginx           connect-failed    10.0.0.1:443 → 192.0.2.7:51000                SYN_SENT→CLOSE             0.1ms  ECONNREFUSED, 2 retransmits
23:21:42.123    4321 nginx           reset-sent        10.0.0.1:443 → 192.0.2.7:51000                ESTABLISHED                    -  TCP_ABORT_ON_CLOSE
23:21:42.123    4321 nginx           reset-received    10.0.0.1:443 → 192.0.2.7:51000                ESTABLISHED                    -  IN_ESTABLISHED
23:21:42.123    4321 nginx           time-wait         10.0.0.1:443 → 192.0.2.7:51000                ESTABLISHED                    -  1 retransmit, mptcp
23:21:42.123    4321 nginx           setsockopt-failed 10.0.0.1:443 → 192.0.2.7:51000                -                              -  inet tcp SOL_TCP TCP_CONGESTION: ENOENT
23:21:42.123    4321 nginx           fd-exhausted      -                                             -                              -  EMFILE
23:21:42.123    4321 nginx           bind-failed       0.0.0.0:443                                   -                              -  bind() to 0.0.0.0:443 failed: EADDRINUSE
23:21:42.123    4321 nginx           state             10.0.0.1:443 → 192.0.2.7:51000                ESTABLISHED→CLOSE_WAIT         -"
    );
}

#[test]
fn close_says_what_it_died_of() {
    let died = Record {
        errno: 104,
        flags: CONN_RESET_RECEIVED | CONN_SEEDED,
        age_ns: 0,
        ..closed()
    };
    let line = shown(&died);
    let why = "LAST_ACK 0.1ms, ended with ECONNRESET, reset received, start not seen";
    assert!(line.ends_with(why), "{line}");
}

#[test]
fn close_says_what_it_waited_for() {
    let waited = |waited_for: u8, waited_ms| {
        let record = Record {
            waited_for: waited_for.into(),
            waited_ms,
            ..closed()
        };
        let line = shown(&record);
        line.split_once("0.1ms, ").unwrap().1.to_owned()
    };
    let gave_up = "gave up after 30.0s, waiting for the peer";
    assert_eq!(waited(ENDED_TIMEOUT, 30_020), gave_up);
    let unread = "closed with data unread for 2.5m";
    assert_eq!(waited(ENDED_UNREAD, 150_000), unread);
    assert!(shown(&closed()).ends_with("LAST_ACK 0.1ms"));
}

#[test]
fn ipv6_stands_in_brackets_and_unknown_ends_are_left_out() {
    let v6 = Record {
        family: AF_INET6,
        local: "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets(),
        remote: "::1".parse::<Ipv6Addr>().unwrap().octets(),
        ..closed()
    };
    assert!(shown(&v6).contains(" [2001:db8::1]:443 → [::1]:51000 "));
    assert_eq!(
        address(AF_INET6, &v6.local),
        Some("2001:db8::1".parse().unwrap())
    );
    assert_eq!(address(1, &v6.local), None);
    let unbound = Record {
        local: [0; 16],
        local_port: 0,
        remote: [0; 16],
        remote_port: 0,
        ..closed()
    };
    assert!(shown(&unbound).contains("close             -          "));
    let listener = Record {
        local: [0; 16],
        remote: [0; 16],
        remote_port: 0,
        ..closed()
    };
    assert!(shown(&listener).contains("close             0.0.0.0:443   "));
}

#[test]
fn unknown_owner_is_a_dash() {
    let nobody = Record {
        tgid: 0,
        ..closed()
    };
    let text = line(&nobody, &Identity::default(), &no_reasons(), CLOCK);
    assert!(
        text.starts_with("23:21:42.123       - -               close "),
        "{text}"
    );
    let value: serde_json::Value =
        serde_json::from_str(&json(&nobody, &Identity::default(), &no_reasons(), CLOCK)).unwrap();
    assert!(value["pid"].is_null() && value["comm"].is_null() && value["unit"].is_null());
    let by_record = line(&closed(), &Identity::default(), &no_reasons(), CLOCK);
    assert!(
        by_record.starts_with("23:21:42.123    4321 - "),
        "{by_record}"
    );
}

#[test]
fn json_of_a_close() {
    assert_eq!(
        json(&closed(), &NGINX, &no_reasons(), CLOCK),
        r#"{"time":"2026-11-21T23:21:42.123456Z","monotonic_seconds":0.123456789,"event":"close","pid":4321,"comm":"nginx","unit":"web.service","slot":3,"generation":1,"netns":4026531840,"family":"inet","protocol":"tcp","mptcp":false,"local_address":"10.0.0.1","local_port":443,"remote_address":"192.0.2.7","remote_port":51000,"state_from":"LAST_ACK","state_to":"CLOSE","age_seconds":33.2,"states":{"ESTABLISHED":2.0,"CLOSE_WAIT":31.2,"LAST_ACK":0.000099328},"flags":["passive","established"],"errno":null,"call":null,"reason":null,"level":null,"option":null,"retransmits":0,"waited_for":null,"waited_seconds":null}"#
    );
    let gave_up = Record {
        waited_for: ENDED_TIMEOUT.into(),
        waited_ms: 30_020,
        ..closed()
    };
    let text = json(&gave_up, &NGINX, &no_reasons(), CLOCK);
    let expected = r#""waited_for":"timeout","waited_seconds":30.02}"#;
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn json_of_a_failed_setsockopt() {
    let record = Record {
        level: 6,
        option: 13,
        errno: 2,
        ..record(RECORD_SETSOCKOPT_FAILED)
    };
    let value: serde_json::Value =
        serde_json::from_str(&json(&record, &NGINX, &no_reasons(), CLOCK)).unwrap();
    assert_eq!(value["level"], "SOL_TCP");
    assert_eq!(value["option"], "TCP_CONGESTION");
    assert_eq!(value["errno"], "ENOENT");
    assert!(value["reason"].is_null() && value["age_seconds"].is_null());
}

#[test]
fn a_failed_bind_names_the_address_asked_for() {
    let why = |record: &Record| {
        let line = shown(record);
        line[line.rfind("-  ").unwrap() + 3..].to_owned()
    };
    let v6 = Record {
        family: AF_INET6,
        local: [0; 16],
        ..bind_failed(CALL_BIND)
    };
    assert_eq!(why(&v6), "bind() to [::]:443 failed: EACCES");
    let any = Record {
        local_port: 0,
        ..bind_failed(CALL_BIND)
    };
    assert_eq!(why(&any), "bind() to any port of 10.0.0.1 failed: EACCES");
    let listen = bind_failed(CALL_LISTEN);
    assert_eq!(why(&listen), "listen() at 10.0.0.1:443 failed: EACCES");
    // An address that could not be read, or of another family.
    let unknown = Record {
        family: 0,
        local_port: 0,
        ..bind_failed(CALL_BIND)
    };
    assert_eq!(why(&unknown), "bind() failed: EACCES");
    let value = |record: &Record| -> serde_json::Value {
        serde_json::from_str(&json(record, &NGINX, &no_reasons(), CLOCK)).unwrap()
    };
    let found = value(&listen);
    assert_eq!(found["event"], "bind_failed");
    assert_eq!(found["call"], "listen");
    assert_eq!(found["errno"], "EACCES");
    assert_eq!(found["local_address"], "10.0.0.1");
    assert_eq!(found["local_port"], 443);
    assert!(found["reason"].is_null() && found["state_from"].is_null());
    assert!(value(&unknown)["local_port"].is_null());
    assert!(is_failure(&listen), "it is logged");
}

/// Tries to retitle the window, recolour the text, forge a line and reverse it; U+009B is
/// an escape sequence's start in one character.
const HOSTILE: &str = "\x1b]0;pwned\x07\n\u{9b}31m\u{202e}\u{2028}\\\x7f";

#[test]
fn a_hostile_comm_stays_text() {
    let identity = Identity {
        comm: HOSTILE,
        ..NGINX
    };
    let text = line(&closed(), &identity, &no_reasons(), CLOCK);
    let plain = shown(&closed()).replace("nginx          ", r"\x1b]0;pwned\x…");
    assert_eq!(text, plain, "and the columns after it do not move");
    assert_eq!(
        observer_core::text::sanitize(HOSTILE),
        r"\x1b]0;pwned\x07\x0a\u{9b}31m\u{202e}\u{2028}\\\x7f"
    );
    let line = json(&closed(), &identity, &no_reasons(), CLOCK);
    assert!(line.chars().all(|c| matches!(c, ' '..='~')), "{line}");
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["comm"], HOSTILE, "JSON loses nothing");
}

#[test]
fn durations_are_short() {
    let texts = [
        0,
        49_999,
        999_900_000,
        999_960_000,
        119_900_000_000,
        119_960_000_000,
    ]
    .map(lines::short);
    assert_eq!(
        texts,
        ["0.0ms", "0.0ms", "999.9ms", "1.0s", "119.9s", "2.0m"]
    );
    let hour = 3_600_000_000_000;
    assert_eq!(
        [hour, 26 * hour, 24 * 73 * hour].map(lines::short),
        ["60.0m", "26.0h", "73.0d"]
    );
}

proptest! {
    /// The kernel side may be newer, or wrong: whatever the bytes, each format gives one
    /// harmless line with the same keys.
    #[test]
    fn every_record_renders(
        bytes in proptest::collection::vec(any::<u8>(), size_of::<Record>()),
        kind in 0_u8..10,
        comm in ".{0,16}",
        offset: i64,
    ) {
        let record = Record { kind, ..Record::read_from(&bytes).unwrap() };
        let clock = Clock { realtime_offset_ns: offset, utc_offset_s: 3600 };
        let identity = Identity { pid: 1, comm: &comm, unit: &comm };
        let harmless = |c: char| matches!(c, ' '..='~' | '→' | '…') || c.is_alphanumeric();
        let text = line(&record, &identity, &no_reasons(), clock);
        prop_assert!(text.chars().all(harmless), "{}", text);
        let text = json(&record, &identity, &no_reasons(), clock);
        prop_assert!(text.chars().all(harmless), "{}", text);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let keys = |value: &serde_json::Value| {
            value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>()
        };
        let example = json(&closed(), &NGINX, &no_reasons(), CLOCK);
        prop_assert_eq!(keys(&value), keys(&serde_json::from_str(&example).unwrap()));
        if !comm.is_empty() {
            prop_assert_eq!(value["comm"].as_str(), Some(comm.as_str()));
        }
    }

    #[test]
    fn cells_keep_their_width(text in any::<String>(), width in 1_usize..40) {
        prop_assert_eq!(observer_core::text::cell(&text, width).chars().count(), width);
    }
}

#[test]
fn a_terminal_splits_no_word() {
    let shown = |width| lines(&closed(), &NGINX, &no_reasons(), CLOCK, Some(width));
    assert_eq!(shown(400), line(&closed(), &NGINX, &no_reasons(), CLOCK));
    for width in [60, 80, 120, 160, 180] {
        let text = shown(width);
        assert!(text.lines().count() > 1, "{width}\n{text}");
        for line in text.lines().chain(header(Some(width)).lines()) {
            assert!(line.chars().count() <= width.max(63), "{width}\n{text}");
        }
        let words = |text: &str| {
            let all = text.split_whitespace().filter(|it| *it != "|");
            let mut all: Vec<_> = all.map(str::to_owned).collect();
            all.sort();
            all
        };
        assert_eq!(words(&text), words(&shown(400)));
    }
}
