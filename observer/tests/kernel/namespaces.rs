//! Values read from each network namespace, on the real kernel.

use std::{collections::BTreeMap, time::Instant};

use observer_core::{
    net::{counters::NamespaceCounters, netns::Representatives},
    process::ProcRoot,
};
use observer_test_support::{Daemon, Netns, Program, kernel_at_least};

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn overflows_of_time_wait_and_syn_cookies_are_read() {
    let netns = Netns::new();
    netns.keep_time_wait();
    netns.sysctl("net.ipv4.tcp_max_tw_buckets", "5");
    netns.sysctl("net.ipv4.tcp_syncookies", "2");
    let mut program = netns.script(
        r"
listener = short(*FAMILIES[0], 20)
print('done')
input()
",
        &[],
    );
    program.expect("done");
    let mut processes = Representatives::new(ProcRoot::default());
    let inode = netns.inode().parse().unwrap();
    let mut read = || NamespaceCounters::read(inode, &mut processes, Instant::now()).unwrap();
    let counters = read().expect("the program is in it");
    let kernel = netns.netstat();
    assert_eq!(counters.netns, inode);
    assert_eq!(
        counters.time_wait_overflows as i64,
        kernel["TCPTimeWaitOverflow"]
    );
    assert_eq!(counters.syncookies_sent as i64, kernel["SyncookiesSent"]);
    assert!(counters.time_wait_overflows >= 10, "{counters:?}");
    assert!(counters.syncookies_sent >= 20, "{counters:?}");
    program.end();
    assert_eq!(read(), None);
}

/// Sysctls that a test sets in a namespace, and values other than the kernel's own.
const SET: [(&str, &str); 17] = [
    ("net.core.somaxconn", "1234"),
    ("net.ipv4.tcp_abort_on_overflow", "1"),
    ("net.ipv4.tcp_fastopen", "3"),
    ("net.ipv4.tcp_fin_timeout", "77"),
    ("net.ipv4.tcp_keepalive_intvl", "11"),
    ("net.ipv4.tcp_keepalive_probes", "4"),
    ("net.ipv4.tcp_keepalive_time", "601"),
    ("net.ipv4.tcp_max_syn_backlog", "4321"),
    ("net.ipv4.tcp_max_tw_buckets", "70000"),
    ("net.ipv4.tcp_retries2", "9"),
    ("net.ipv4.tcp_rfc1337", "1"),
    ("net.ipv4.tcp_syn_retries", "3"),
    ("net.ipv4.tcp_synack_retries", "2"),
    ("net.ipv4.tcp_syncookies", "2"),
    ("net.ipv4.tcp_timestamps", "2"),
    ("net.ipv4.tcp_tw_reuse", "1"),
    ("net.ipv4.ip_local_port_range", "40000 40099"),
];

/// Of which kernels have not all.
const NEWER: [(&str, &str, (u32, u32)); 2] = [
    ("net.ipv4.tcp_syn_linear_timeouts", "6", (6, 5)),
    ("net.ipv4.tcp_tw_reuse_delay", "500", (6, 14)),
];

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn sysctls_are_those_of_the_namespace() {
    let (tuned, plain) = (Netns::new(), Netns::new());
    let newer = NEWER
        .iter()
        .filter(|(_, _, since)| kernel_at_least(since.0, since.1));
    let newer = newer.map(|(name, value, _)| (*name, *value));
    let set: Vec<_> = SET.into_iter().chain(newer).collect();
    for (name, value) in &set {
        tuned.sysctl(name, value);
    }
    // An older one may still show a namespace that had the same number.
    let daemon = Daemon::shared_anew(&[]);
    let source = "listener = listen(socket.AF_INET, '127.0.0.1')\nprint('done')\ninput()";
    let mut programs = [&tuned, &plain].map(|netns| netns.script(source, &[]));
    programs
        .iter_mut()
        .for_each(|program| program.expect("done"));
    for netns in [&tuned, &plain] {
        let inode = netns.inode();
        let labels = [("netns", inode.as_str())];
        let metrics = daemon.until("the sysctls", |metrics| {
            metrics.sum("socket_sysctl", &labels) > 0.0
        });
        let expected: BTreeMap<String, f64> = set
            .iter()
            .flat_map(|(name, _)| {
                let path = format!("/proc/sys/{}", name.replace('.', "/"));
                let text = netns.run("cat", &[&path]);
                let values: Vec<f64> = text
                    .split_whitespace()
                    .map(|it| it.parse().unwrap())
                    .collect();
                match values[..] {
                    [value] => vec![((*name).to_owned(), value)],
                    [low, high] => {
                        vec![(format!("{name}_low"), low), (format!("{name}_high"), high)]
                    }
                    _ => panic!("{name}: {text}"),
                }
            })
            .collect();
        for (name, value) in &expected {
            let labels = [("netns", inode.as_str()), ("name", name.as_str())];
            assert_eq!(metrics.sum("socket_sysctl", &labels), *value, "{name}");
        }
    }
    let inode = tuned.inode();
    let metrics = daemon.scrape();
    for (name, value) in &set {
        if let Ok(value) = value.parse::<f64>() {
            let labels = [("netns", inode.as_str()), ("name", name)];
            assert_eq!(metrics.sum("socket_sysctl", &labels), value, "{name}");
        }
    }
    for name in ["fs.file-max", "fs.nr_open", "net.ipv4.tcp_max_orphans"] {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let value: f64 = std::fs::read_to_string(path)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        assert_eq!(
            metrics.sum("socket_sysctl", &[("netns", ""), ("name", name)]),
            value
        );
    }
    programs.into_iter().for_each(Program::end);
    daemon.until("the end of both namespaces", |metrics| {
        let gone =
            |netns: &Netns| metrics.sum("socket_sysctl", &[("netns", &netns.inode())]) == 0.0;
        gone(&tuned) && gone(&plain)
    });
}
