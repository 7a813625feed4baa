//! Early data of QUIC, with several versions of quic-go on the real kernel.

use std::{
    collections::BTreeSet, fs, os::unix::fs::MetadataExt as _, path::PathBuf, process::Command,
};

use observer_test_support::{
    Daemon, Metrics, Netns, Program, new_comm,
    quic::{VERSIONS, program},
};
use serde_json::Value;

const ADDRESS: &str = "127.0.0.1:4433";
const RESULTS: [&str; 3] = ["accepted", "rejected", "failed"];
const REJECTIONS: [&str; 3] = ["resumed", "cancelled", "abandoned"];

/// One program under two names, so that client and server are told apart.
struct Programs {
    folder: tempfile::TempDir,
    name: String,
    inode: u64,
}

impl Programs {
    fn of(version: &str) -> Result<Self, String> {
        let built = program(version)?;
        let folder = tempfile::tempdir().expect("a folder");
        let name = new_comm();
        let of = |suffix: char| folder.path().join(format!("{name}{suffix}"));
        fs::copy(built, of('s')).expect("the folder can be written to");
        fs::hard_link(of('s'), of('c')).expect("a file can have two names");
        let inode = of('s').metadata().expect("it is there").ino();
        Ok(Self {
            folder,
            name,
            inode,
        })
    }

    /// The same, with the client in a file of its own.
    fn apart(version: &str) -> Result<Self, String> {
        let mut this = Self::of(version)?;
        fs::remove_file(this.path('c')).expect("it is there");
        fs::copy(this.path('s'), this.path('c')).expect("the folder can be written to");
        this.inode = this.path('c').metadata().expect("it is there").ino();
        Ok(this)
    }

    /// Waits until the client's program is probed.
    fn probed(&self, daemon: &Daemon) {
        let inode = format!("inode={}", self.inode);
        daemon.wait("the program is probed", |daemon| {
            let log = daemon.log();
            let mut lines = log
                .lines()
                .filter(|line| line.contains("observing quic-go"));
            lines.any(|line| line.split_ascii_whitespace().any(|it| it == inode))
        });
    }

    fn comm(&self, suffix: char) -> String {
        format!("{}{suffix}", self.name)
    }

    fn path(&self, suffix: char) -> PathBuf {
        self.folder.path().join(self.comm(suffix))
    }

    fn start(&self, netns: &Netns, suffix: char, arguments: &[&str]) -> Program {
        let command: &mut Command = &mut netns.command(self.path(suffix));
        Program::spawn_as(&self.comm(suffix), command.args(arguments))
    }

    fn serve(&self, netns: &Netns) -> Program {
        let mut server = self.start(netns, 's', &["server", ADDRESS]);
        server.expect(&format!("listening {ADDRESS}"));
        server
    }

    /// What was counted for the clients: attempts by result, and rejections by what came of them.
    fn counts(&self, metrics: &Metrics) -> ([f64; 3], [f64; 3]) {
        let client = self.comm('c');
        let of = |name, results: [&str; 3]| {
            results.map(|result| metrics.by(&client, name, &[("result", result)]))
        };
        (
            of("socket_quic_0rtt_total", RESULTS),
            of("socket_quic_0rtt_rejections_total", REJECTIONS),
        )
    }

    /// Streams of clients that a server stopped.
    fn stops(&self, metrics: &Metrics) -> f64 {
        let labels = [("direction", "received"), ("frame", "STOP_SENDING")];
        metrics.by(&self.comm('c'), "socket_quic_stream_resets_total", &labels)
    }

    /// Frames of client or server in a direction.
    fn resets(&self, metrics: &Metrics, suffix: char, direction: &str) -> f64 {
        let labels = [("direction", direction)];
        metrics.by(
            &self.comm(suffix),
            "socket_quic_stream_resets_total",
            &labels,
        )
    }
}

/// A client whose early data is accepted, or rejected by a server that was restarted.
fn client(programs: &Programs, netns: &Netns, server: &mut Option<Program>, way: &str) -> Program {
    let mut client = programs.start(netns, 'c', &["client", ADDRESS, way]);
    client.expect("restart");
    if way == "accepted" {
        client.go();
        client.expect("sent");
        client.expect("accepted \"early\"");
        return client;
    }
    if let Some(old) = server.take() {
        old.kill();
    }
    client.go();
    client.expect("sent");
    *server = Some(programs.serve(netns));
    client.expect("rejected");
    client
}

/// The six ways that early data goes, with each version.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn early_data_accepted_resumed_cancelled_and_abandoned() {
    let daemon = Daemon::start(&["--resync-interval", "1s"]);
    needs_signal!(daemon.scrape(), "quic");
    for version in VERSIONS {
        match Programs::of(version) {
            Ok(programs) => six_ways(&daemon, &programs, version),
            Err(why) => left_out!("quic-go {version}: {why}"),
        }
    }
    daemon.scrape().assert_complete();
}

fn six_ways(daemon: &Daemon, programs: &Programs, version: &str) {
    println!("quic-go {version}");
    let netns = Netns::new();
    let mut server = Some(programs.serve(&netns));
    programs.probed(daemon);
    let expect = |what: &str, expected: ([u32; 3], [u32; 3])| {
        let expected = (expected.0.map(f64::from), expected.1.map(f64::from));
        daemon.until(&format!("{version}, {what}: {expected:?}"), |metrics| {
            programs.counts(metrics) == expected
        })
    };

    client(programs, &netns, &mut server, "accepted").end_after("done");
    expect("accepted", ([1, 0, 0], [0, 0, 0]));

    client(programs, &netns, &mut server, "resume").end_after("resumed: <nil>");
    let metrics = expect("resumed", ([1, 1, 0], [1, 0, 0]));
    for suffix in ['c', 's'] {
        for direction in ["sent", "received"] {
            assert_eq!(programs.resets(&metrics, suffix, direction), 0.0);
        }
    }

    client(programs, &netns, &mut server, "ahead").end_after("resumed: <nil>");
    expect("resumed beforehand", ([1, 2, 0], [2, 0, 0]));

    let mut abandoning = client(programs, &netns, &mut server, "forget");
    abandoning.expect("done");
    // It waits for nothing, with the connection open.
    expect("never resumed", ([1, 3, 0], [2, 0, 0]));
    abandoning.go();
    abandoning.expect("closed");
    expect("abandoned", ([1, 3, 0], [2, 0, 1]));
    abandoning.end();

    let mut cancelling = client(programs, &netns, &mut server, "cancel");
    let resumed = cancelling.line();
    cancelling.end_after("done");
    expect("cancelled", ([1, 4, 0], [2, 1, 1]));
    // Fixed in 0.48: before, the frames of the old stream reset the new one of the same number.
    let is_fixed = version >= "0.48";
    assert_eq!(resumed == "resumed: <nil>", is_fixed, "{resumed}");
    if is_fixed {
        let metrics = daemon.scrape();
        assert_eq!(programs.resets(&metrics, 'c', "sent"), 0.0);
        assert_eq!(programs.resets(&metrics, 's', "received"), 0.0);
    } else {
        daemon.until("the resets of the old stream", |metrics| {
            programs.resets(metrics, 'c', "sent") >= 2.0
                && programs.resets(metrics, 's', "received") >= 2.0
        });
    }

    let before = programs.stops(&daemon.scrape());
    client(programs, &netns, &mut server, "stopped").end_after("resumed: <nil>");
    let metrics = expect("stopped by the peer", ([1, 5, 0], [3, 1, 1]));
    assert!(programs.stops(&metrics) > before);
}

/// Becomes a program that has a UDP socket all the time, as those with a `quic.Transport`.
const WITH_UDP: &str = r"
import os, socket, sys
held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
os.set_inheritable(held.fileno(), True)
os.execv(sys.argv[1], sys.argv[1:])
";

/// The sockets that a process has open, of those in a table of /proc/PID/net.
fn sockets(pid: u32, table: &str) -> usize {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let open = open.filter_map(|it| fs::read_link(it.ok()?.path()).ok());
    let open = open.filter_map(|it| {
        let inode = it.to_str()?.strip_prefix("socket:[")?;
        Some(inode.strip_suffix(']')?.to_owned())
    });
    let open: BTreeSet<String> = open.collect();
    let tables = ["", "6"].map(|of| {
        // Without IPv6 there is no such file.
        let table = format!("/proc/{pid}/net/{table}{of}");
        fs::read_to_string(table).unwrap_or_default()
    });
    let lines = tables.iter().flat_map(|it| it.lines());
    let inodes = lines.filter_map(|line| line.split_ascii_whitespace().nth(9));
    inodes.filter(|it| open.contains(*it)).count()
}

/// No event of TCP shows a process that has UDP sockets alone, and no other process has its program mapped.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_client_that_has_no_tcp_socket_is_found_and_named() {
    const CONNECTIONS: usize = 3;
    let daemon = Daemon::start(&["--resync-interval", "1s"]);
    needs_signal!(daemon.scrape(), "quic");
    let programs = match Programs::apart("0.50") {
        Ok(programs) => programs,
        Err(why) => skip!("{why}"),
    };
    let netns = Netns::new();
    let server = programs.serve(&netns);
    let mut command = netns.command("python3");
    command.args(["-c", WITH_UDP]).arg(programs.path('c'));
    command.args(["client", ADDRESS, "forget", &CONNECTIONS.to_string()]);
    let mut client = Program::spawn_as(&programs.comm('c'), &mut command);
    let pid = client.pid();
    let each = |client: &mut Program, step: &str| {
        // Those of one connection may come before those of another.
        for _ in 0..CONNECTIONS {
            while client.line() != step {}
        }
        // Unbound sockets are in no table.
        assert_eq!(sockets(pid, "tcp"), 0, "{step}");
    };
    each(&mut client, "restart");
    programs.probed(&daemon);
    server.kill();
    (0..CONNECTIONS).for_each(|_| client.go());
    each(&mut client, "sent");
    assert!(sockets(pid, "udp") > 0, "quic-go has bound sockets");
    let server = programs.serve(&netns);
    each(&mut client, "done");
    (0..CONNECTIONS).for_each(|_| client.go());
    each(&mut client, "closed");
    let is_abandoned = format!("{CONNECTIONS} rejections are abandoned");
    daemon.until(&is_abandoned, |metrics| {
        let abandoned = [("result", "abandoned")];
        metrics.by(
            &programs.comm('c'),
            "socket_quic_0rtt_rejections_total",
            &abandoned,
        ) == CONNECTIONS as f64
    });
    let finding = || {
        let (_, body) = daemon.get("/api/v1/anomalies");
        let all: Value = serde_json::from_str(&body).expect("JSON");
        let findings = all["findings"].as_array().expect("findings");
        let of_client = |it: &&Value| it["anomaly"] == "quic_0rtt_lost" && it["pid"] == pid;
        findings.iter().find(of_client).cloned()
    };
    daemon.wait("the finding", |_| finding().is_some());
    let finding = finding().expect("it stays for minutes");
    assert_eq!(finding["subject"]["kind"], "process", "{finding}");
    assert_eq!(finding["comm"], programs.comm('c'), "{finding}");
    assert_eq!(finding["causes"][0]["id"], "never_resumed", "{finding}");
    println!("{}", finding["summary"]);
    client.end();
    server.kill();
}

trait EndAfter {
    /// Expects a line, and that the program then waits to end.
    fn end_after(self, line: &str);
}

impl EndAfter for Program {
    fn end_after(mut self, line: &str) {
        self.expect(line);
        if line != "done" {
            self.expect("done");
        }
        self.end();
    }
}
