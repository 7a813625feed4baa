//! The bodies of the fuzz targets: each passes external input to one parser and checks its
//! invariants. `fuzz_targets` runs them under libFuzzer, and observer-core/tests/fuzz_seeds.rs
//! includes this file to run them on the seeds.

use observer_common::{Pod as _, Record};
use observer_core::{
    binaries::{self, Function, Tls},
    config::{self, Settings},
    names::{ResetReasons, errno_name},
    net::{
        snmp::{TcpCounters, TcpExtCounters},
        sockstat::SockStat,
    },
    process::{
        cgroup::unit_from_bytes, cgroup_id::cgroup2_mount, fds::parse_max_open_files,
        identity::Stat, unit::MAX_UNIT_LEN,
    },
    record::{Clock, Filter, Identity, json, line},
};

/// A target's name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 6] = [
    ("binaries", binaries),
    ("cgroup", cgroup),
    ("config", config),
    ("netstat", netstat),
    ("process", process),
    ("records", records),
];

/// An executable or a library.
pub fn binaries(bytes: &[u8]) {
    let inside = |at: u64| assert!(at < bytes.len() as u64, "{at:#x}");
    let function = |it: &Function| {
        inside(it.entry);
        it.returns.iter().copied().for_each(inside);
        assert!(it.returns.is_sorted());
        assert!(it.returns.first().is_none_or(|first| *first >= it.entry));
    };
    match binaries::tls(&bytes) {
        Ok(None) => {}
        Ok(Some(Tls::OpenSsl {
            connect,
            accept,
            free,
            resets,
            rwstate: _,
        })) => {
            [connect, accept, free]
                .into_iter()
                .chain(resets)
                .for_each(inside);
            assert_ne!(connect, accept);
        }
        Ok(Some(Tls::DoHandshake { handshake, free })) => {
            [handshake, free].into_iter().for_each(inside);
        }
        Ok(Some(Tls::GnuTls { handshake, deinit })) => {
            [handshake, deinit].into_iter().for_each(inside);
        }
        Ok(Some(Tls::Go { client, server })) => {
            let functions: Vec<_> = client.iter().chain(&server).collect();
            assert!(!functions.is_empty());
            for it in functions {
                function(it);
                assert!(!it.returns.is_empty());
            }
        }
        Err(misfit) => assert!(!misfit.to_string().is_empty()),
    }
    let names = ["main.main", "", "crypto/tls.(*Conn).clientHandshake"];
    if let Ok(Some(functions)) = binaries::go_functions(&bytes, &names) {
        assert_eq!(functions.len(), names.len());
        functions.iter().flatten().for_each(function);
    }
}

/// The text of /proc/PID/cgroup and of /proc/PID/mountinfo.
pub fn cgroup(bytes: &[u8]) {
    let unit = unit_from_bytes(bytes);
    for text in [&unit.name, &unit.container_id, &unit.pod_uid] {
        assert!(text.len() <= MAX_UNIT_LEN, "{unit:?}");
        assert!(!text.chars().any(char::is_control), "{unit:?}");
    }
    let _ = cgroup2_mount(bytes);
}

/// The configuration file.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match config::parse(text) {
        Ok(options) => {
            let settings = Settings::new(options);
            let diff = Settings::default().reload_diff(&settings);
            let _ = settings.selection().selects("comm", "some.service");
            // The live settings and those that need a restart are all differences.
            let same = settings == Settings::default();
            assert_eq!(same, diff.live.is_empty() && diff.needs_restart.is_empty());
        }
        Err(message) => assert!(!message.is_empty()),
    }
}

/// The texts of /proc/PID/net/sockstat, sockstat6, snmp and netstat.
pub fn netstat(bytes: &[u8]) {
    let _ = SockStat::parse(bytes, Some(bytes));
    let _ = SockStat::parse(bytes, None);
    let _ = TcpCounters::parse(bytes);
    if let Ok(counters) = TcpExtCounters::parse(bytes) {
        for (name, value) in counters.iter() {
            assert_eq!(counters.get(name), Some(value));
        }
    }
}

/// The texts of /proc/PID/stat and limits.
pub fn process(bytes: &[u8]) {
    if let Ok(stat) = Stat::parse(bytes) {
        let _ = stat.has_exited();
    }
    let _ = parse_max_open_files(bytes);
    // A process chooses its comm, and must not change the rest by it.
    let rest = b") S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 77 0 0\n";
    let stat = Stat::parse(&[b"7 (", bytes, rest].concat()).expect("a stat line");
    assert_eq!((stat.state, stat.threads, stat.start_ticks), (b'S', 3, 77));
}

/// A record of the ring, followed by the comm of its owner, a NUL and its unit.
pub fn records(bytes: &[u8]) {
    let Some(record) = Record::read_from(bytes) else {
        assert!(bytes.len() < size_of::<Record>());
        return;
    };
    let text = String::from_utf8_lossy(&bytes[size_of::<Record>()..]);
    let (comm, unit) = text.split_once('\0').unwrap_or((&text, ""));
    let identity = Identity { pid: 0, comm, unit };
    let reasons = ResetReasons::default();
    let clock = Clock {
        realtime_offset_ns: record.age_ns.cast_signed(),
        utc_offset_s: record.option,
    };
    let filter = Filter::new(Vec::new(), Vec::new(), vec![443], &[], true);
    let _ = filter.matches(&record, &identity);

    let line = line(&record, &identity, &reasons, clock);
    let harmless = |c: char| matches!(c, ' '..='~' | '→' | '…') || !c.is_ascii();
    assert!(line.chars().all(harmless), "{line:?}");
    assert!(!line.chars().any(char::is_control), "{line:?}");

    let json = json(&record, &identity, &reasons, clock);
    assert!(!json.chars().any(char::is_control), "{json:?}");
    let object: serde_json::Value = serde_json::from_str(&json).expect("valid JSON");
    assert_eq!(object["comm"].as_str().unwrap_or_default(), comm);
    assert_eq!(object["unit"].as_str().unwrap_or_default(), unit);
    assert_eq!(object["slot"], record.slot);
    let errno = (record.errno != 0).then(|| errno_name(record.errno));
    assert_eq!(object["errno"].as_str(), errno.as_deref());
}
