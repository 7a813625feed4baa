//! The label `unit`, with real cgroups of the names that systemd and container engines give.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use observer_test_support::{Daemon, Metrics, Netns, Program};

use crate::cgroups::Cgroups;

/// Takes the name that it is given, waits to be moved to its cgroup, connects, stays and ends.
const PROBE: &str = r#"
import socket, sys
with open('/proc/self/comm', 'w') as name:
    name.write(sys.argv[1])
print('here')
sys.stdin.readline()
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen()
client = socket.create_connection(listener.getsockname())
print('ready')
sys.stdin.readline()
"#;

/// The cgroups to create, and the label of a process in each.
fn cases() -> Vec<(String, String)> {
    // Digits that no container of the host has.
    let id = format!("{:016x}", std::process::id()).repeat(4);
    let short = &id[..12];
    let user = "user.slice/user-4242.slice/user@4242.service";
    let pod = "kubepods-burstable-pod3716cd27_4591_40fc_9dae_3851142b1d51.slice";
    [
        (
            "system.slice/observer-probe.service".to_owned(),
            "observer-probe.service".to_owned(),
        ),
        (
            "system.slice/observer-probe.service/sub/nginx.service".to_owned(),
            "observer-probe.service".to_owned(),
        ),
        (
            format!("{user}/app.slice/nginx.service"),
            "user@4242.service/nginx.service".to_owned(),
        ),
        (
            format!("{user}/docker-{id}.scope"),
            format!("user@4242.service/docker:{short}"),
        ),
        (
            format!("system.slice/docker-{id}.scope/system.slice/nginx.service"),
            format!("docker:{short}"),
        ),
        (
            format!("kubepods.slice/kubepods-burstable.slice/{pod}/cri-containerd-{id}.scope"),
            format!("containerd:{short}"),
        ),
        (
            format!("kubepods.slice/kubepods-burstable.slice/{pod}/crio-{id}.scope/container"),
            format!("crio:{short}"),
        ),
        (
            format!("machine.slice/libpod-{id}.scope/container"),
            format!("podman:{short}"),
        ),
        (
            "lxc/4242/ns/system.slice/nginx.service".to_owned(),
            "lxc:4242".to_owned(),
        ),
        (
            "lxc.payload.observer-probe/system.slice/nginx.service".to_owned(),
            "lxc:observer-probe".to_owned(),
        ),
        (
            "machine.slice/machine-observer\\x2dprobe.scope/payload/system.slice/nginx.service"
                .to_owned(),
            "nspawn:observer-probe".to_owned(),
        ),
    ]
    .into()
}

/// A probe that has connected in `cgroup`.
fn probe(netns: &Netns, cgroup: &Path, comm: &str) -> Program {
    let mut program = netns.python(PROBE, &[comm]);
    program.expect("here");
    fs::write(cgroup.join("cgroup.procs"), program.pid().to_string()).unwrap();
    program.go();
    program.expect("ready");
    program
}

/// The units of all series of a comm.
fn units(metrics: &Metrics, comm: &str) -> BTreeSet<String> {
    metrics
        .samples
        .iter()
        .filter(|sample| sample.labels.get("comm").is_some_and(|it| it == comm))
        .map(|sample| sample.labels.get("unit").cloned().unwrap_or_default())
        .collect()
}

/// Asserts that the probes, `PREFIX-NUMBER`, have their units. Checks all of them in one scrape,
/// because each scrape waits for a tick.
fn assert_named(daemon: &Daemon, prefix: &str) {
    let comms: Vec<_> = (0..cases().len())
        .map(|number| format!("{prefix}-{number}"))
        .collect();
    let metrics = daemon.until("the probes", |metrics| {
        comms.iter().all(|comm| !units(metrics, comm).is_empty())
    });
    for (comm, (path, unit)) in comms.iter().zip(cases()) {
        let found = units(&metrics, comm);
        println!("{path}: {found:?}");
        assert_eq!(found, BTreeSet::from([unit]), "{path}");
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn units_and_containers_are_named() {
    let Some(mut cgroups) = Cgroups::new() else {
        skip!("no cgroup2 file system is mounted");
    };
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut programs = Vec::new();
    for (number, (path, _)) in cases().iter().enumerate() {
        let cgroup = cgroups.make(path);
        let comm = format!("unit-probe-{number}");
        programs.push(probe(&netns, &cgroup, &comm));
    }
    assert_named(&daemon, "unit-probe");
    for program in programs {
        program.finish();
    }
}

/// By the cgroup that the kernel programs recorded: at the tick, nothing is left in /proc.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn units_of_processes_that_are_gone_are_named() {
    let Some(mut cgroups) = Cgroups::new() else {
        skip!("no cgroup2 file system is mounted");
    };
    let netns = Netns::new();
    // Known from the walk at the start.
    let paths: Vec<PathBuf> = cases().iter().map(|(path, _)| cgroups.make(path)).collect();
    let daemon = Daemon::start(&["--tick-interval=5s"]);
    for (number, cgroup) in paths.iter().enumerate() {
        let comm = format!("gone-probe-{number}");
        probe(&netns, cgroup, &comm).finish();
    }
    assert_named(&daemon, "gone-probe");
}
