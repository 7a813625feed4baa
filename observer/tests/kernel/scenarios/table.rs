//! The scenarios. Each has a network namespace and programs of its own.

use std::{path::Path, process::Command};

use observer_test_support::{Netns, Program, python, quic, run};

/// What the finding is about. Who is to blame is the process `NAME-ROLE`.
#[derive(Clone, Copy, Debug)]
pub enum Of {
    /// The process with this role.
    Process(&'static str),
    /// All processes with this role together.
    Name(&'static str),
    /// The ports that it has for a destination.
    Destination(&'static str),
    /// The ports of a network namespace that it took by bind().
    Bound(&'static str),
    /// The network namespace; nobody is to blame.
    Namespace,
    /// The address that it listens at.
    Listener(&'static str),
    /// This address; nobody is to blame.
    Source(&'static str),
}

/// What is known of the first failure that the finding is to prevent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstError {
    /// It fails from the start, or not at all.
    None,
    /// It comes after the finding.
    Later,
    /// The finding says when.
    Foretold,
}

/// What must be found.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub anomaly: &'static str,
    pub of: Of,
    /// The cause that explains most.
    pub cause: &'static str,
    /// The first of its hints.
    pub hint: &'static str,
    pub first_error: FirstError,
    /// Maximum number of seconds from the start of the misbehaviour to the finding.
    pub within: f64,
    /// All peers that it names, as `ADDRESS:PORT`, or `client ADDRESS of PORT`.
    pub peers: &'static [&'static str],
    /// Findings that may be there as well: anomaly, role and cause.
    pub also: &'static [(&'static str, &'static str, &'static str)],
}

/// The file of scenarios with QUIC, whose first argument is a version of quic-go.
const EARLY: &str = "early.py";

#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// At most eight characters, so that a role has room in a comm.
    pub name: &'static str,
    /// For docs/detectors.md.
    pub what: &'static str,
    /// A file of tests/scenarios, and its arguments.
    pub program: &'static [&'static str],
    /// Shell commands that prepare the network namespace.
    pub prepare: &'static str,
    /// The signal without which nothing of it is seen; empty if it is seen everywhere.
    pub needs: &'static str,
    /// `None`: nothing may be found until the program says `end`.
    pub expected: Option<Expected>,
    /// Takes minutes: left out where only scenarios of seconds run.
    pub is_slow: bool,
}

impl Scenario {
    /// Why it cannot be run with a daemon that observes these signals.
    pub fn obstacle(&self, observes: impl Fn(&str) -> bool) -> Option<String> {
        if !self.needs.is_empty() && !observes(self.needs) {
            return Some(format!("nothing observes {}", self.needs));
        }
        let version = self.quic_go()?;
        let missing = quic::program(version).err()?;
        Some(format!("quic-go {version}: {missing}"))
    }

    /// Whether early data of QUIC is rejected and nothing is wrong.
    pub fn is_coped_with(&self) -> bool {
        self.quic_go().is_some() && self.expected.is_none()
    }

    /// Whether the finding must say when the first error comes.
    pub fn is_foretold(&self) -> bool {
        let first_error = self.expected.map(|it| it.first_error);
        first_error == Some(FirstError::Foretold)
    }

    /// The version of quic-go that its program is built against.
    fn quic_go(&self) -> Option<&'static str> {
        match self.program {
            [EARLY, version, ..] => Some(version),
            _ => None,
        }
    }

    /// Starts its program in a network namespace of its own. Files that it makes go to `directory`.
    pub fn start(&self, directory: &Path) -> (Netns, Program) {
        let netns = Netns::set_up(self.prepare).expect("a network namespace");
        let [file, arguments @ ..] = self.program else {
            panic!("{} has no program", self.name);
        };
        let mut command = command(&netns, file, self.name, directory);
        command
            .arg(self.name)
            .args(arguments)
            .env("TMPDIR", directory);
        if let Some(version) = self.quic_go() {
            let program = quic::program(version).expect("it has no obstacle");
            command.env("OBSERVER_TEST_QUIC", program);
        }
        let program = Program::spawn(&mut command);
        (netns, program)
    }
}

/// Runs a file of tests/scenarios. Programs that are compiled go to `directory`.
fn command(netns: &Netns, file: &str, scenario: &str, directory: &Path) -> Command {
    let file = Path::new("scenarios").join(file);
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(&file);
    match file.extension().and_then(|it| it.to_str()) {
        Some("js") => {
            let mut node = netns.command("node");
            node.arg(path);
            node
        }
        Some("go") => {
            // A process is named after its file.
            let program = directory.join(format!("{scenario}-client"));
            let [source, output] = [&path, &program].map(|it| it.to_str().expect("UTF-8"));
            run("gccgo", &["-O", "-o", output, source]);
            netns.command(program)
        }
        _ => {
            let mut command = netns.command("python3");
            python(&mut command, &file);
            command
        }
    }
}

const fn resets(role: &'static str, cause: &'static str, hint: &'static str) -> Expected {
    Expected {
        anomaly: "rst_storm",
        of: Of::Process(role),
        cause,
        hint,
        first_error: FirstError::None,
        within: 15.0,
        peers: &["127.0.0.1:80"],
        // Its other end, where it is raised before a record says whose that is.
        also: &[("rst_storm", "server", "peer_left")],
    }
}

const REFUSED: Expected = Expected {
    anomaly: "connect_failures",
    of: Of::Process("client"),
    cause: "nothing_listens",
    hint: "nothing-listens",
    first_error: FirstError::None,
    within: 12.0,
    peers: &["127.0.0.1:81"],
    also: &[],
};

const REFUSED_HANDSHAKES: Expected = Expected {
    anomaly: "tls_failures",
    of: Of::Process("client"),
    cause: "handshakes_refused",
    hint: "tls-fails",
    first_error: FirstError::None,
    within: 15.0,
    peers: &["127.0.0.1:443"],
    also: &[],
};

/// The surge comes first, and is part of the same incident later on.
const PORTS: Expected = Expected {
    anomaly: "port_exhaustion",
    of: Of::Destination("client"),
    cause: "short_connections",
    hint: "time-wait",
    first_error: FirstError::Foretold,
    within: 35.0,
    peers: &[],
    also: &[("time_wait_surge", "client", "short_connections")],
};

const fn leak(
    role: &'static str,
    cause: &'static str,
    hint: &'static str,
    within: f64,
) -> Expected {
    Expected {
        anomaly: "fd_leak",
        of: Of::Process(role),
        cause,
        hint,
        first_error: FirstError::Later,
        within,
        peers: &[],
        also: &[
            // Afterwards.
            ("fd_exhaustion", "server", "fd_limit"),
            ("fd_exhaustion", "server", "fd_close_wait"),
            ("fd_exhaustion", "client", "fd_limit"),
            ("fd_exhaustion", "server", "full_of_accepted"),
            ("fd_exhaustion", "client", "full_of_connections"),
            ("fd_exhaustion", "server", "full_of_files"),
            ("fd_exhaustion", "server", "full_of_pipes"),
            ("fd_exhaustion", "server", "full_of_events"),
            ("fd_exhaustion", "server", "full_of_sockets"),
            ("fd_exhaustion", "server", "full_of_other_sockets"),
            ("close_wait_leak", "server", "server_keeps_closed"),
            // It keeps what its client does not close.
            ("fd_leak", "server", "fd_accepted"),
        ],
    }
}

/// The clients that closed connections which their server keeps.
const KEPT: &[&str] = &["client 127.0.0.1 of 80"];

const fn queue(role: &'static str, cause: &'static str, hint: &'static str) -> Expected {
    Expected {
        anomaly: "listen_overflow",
        of: Of::Listener(role),
        cause,
        hint,
        first_error: FirstError::None,
        within: 20.0,
        peers: &[],
        // The same connections, as their other end sees them.
        also: &[("connect_failures", "client", "syn_dropped")],
    }
}

const SCAN: Expected = Expected {
    anomaly: "syn_scan",
    of: Of::Source("10.9.0.2"),
    cause: "scan",
    hint: "scan",
    first_error: FirstError::None,
    within: 30.0,
    peers: &[],
    also: &[],
};

/// Those who wait for a program that hangs, and that program.
const fn stall(
    anomaly: &'static str,
    role: &'static str,
    cause: &'static str,
    hint: &'static str,
) -> Expected {
    Expected {
        anomaly,
        of: Of::Process(role),
        cause,
        hint,
        first_error: FirstError::None,
        within: 25.0,
        peers: &[],
        also: &[
            ("read_stall", "client", "no_answer"),
            ("read_stall", "client", "peer_not_reading"),
            ("program_not_reading", "server", "server_does_not_read"),
        ],
    }
}

/// A client of QUIC that loses what it sent early.
const fn early(cause: &'static str, hint: &'static str) -> Expected {
    Expected {
        anomaly: "quic_0rtt_lost",
        of: Of::Process("client"),
        cause,
        hint,
        first_error: FirstError::None,
        // Its programs may do it several times before they are observed.
        within: 40.0,
        peers: &[],
        also: &[],
    }
}

macro_rules! is_slow {
    () => {
        false
    };
    (slow) => {
        true
    };
}

macro_rules! scenarios {
    ($($name:literal: $what:literal; [$($argument:expr),+] $(after $prepare:literal)? $(needs $signal:literal)?
        => $expected:expr $(, $slow:ident)?;)+) => {
        pub const SCENARIOS: &[Scenario] = &[$(Scenario {
            name: $name,
            what: $what,
            program: &[$($argument),+],
            prepare: concat!("ip addr add 10.9.0.1/32 dev lo\n" $(, $prepare)?),
            needs: concat!("" $(, $signal)?),
            expected: $expected,
            is_slow: is_slow!($($slow)?),
        },)+];
    };
}

scenarios! {
    "halfcls": "a client closes before it has read the answer, more and more often";
        ["resets.py", "half-close"]
        => Some(resets("client", "half_close", "half-close"));
    "nodehalf": "the same in Node.js: destroy() as soon as end() is done";
        ["half_close.js"]
        => Some(resets("client", "half_close", "half-close"));
    "gohalf": "the same in Go: CloseWrite(), then a deferred Close()";
        ["half_close.go"]
        => Some(resets("client", "half_close", "half-close"));
    "halfread": "a client ends its side, waits for the answer and does not read it";
        ["resets.py", "half-read"]
        => Some(resets("client", "half_close", "half-close"));
    "linger": "a server closes 100 connections/s with SO_LINGER {1, 0}";
        ["resets.py", "linger"]
        => Some(Expected {
            peers: &["client 127.0.0.1 of 80"],
            ..resets("server", "linger_zero", "linger")
        });
    "acks": "a listener gets 100 ACKs/s of connections that it does not know, tcp_abort_on_overflow=1";
        ["resets.py", "acks"]
        after "echo 1 > /proc/sys/net/ipv4/tcp_abort_on_overflow"
        => Some(Expected {
            peers: &["client 127.0.0.2 of 80"],
            ..resets("server", "listener_resets", "listener-stray")
        });
    "abort": "bursts of connections that the accept queue does not hold, tcp_abort_on_overflow=1";
        ["queues.py", "abort"]
        after "echo 1 > /proc/sys/net/ipv4/tcp_abort_on_overflow"
        => Some(Expected {
            also: &[
                ("rst_storm", "client", "peer_aborts"),
                ("listen_overflow", "server", "small_backlog"),
                ("listen_overflow", "server", "slow_accept"),
            ],
            peers: &["client 127.0.0.1 of 80"],
            ..resets("server", "queue_resets", "abort-on-overflow")
        });
    "dead": "nothing listens at the only backend";
        ["connects.py", "dead"]
        => Some(REFUSED);
    "dead2of3": "nothing listens at 2 of 3 backends";
        ["connects.py", "two-of-three"]
        => Some(Expected {
            peers: &["127.0.0.1:81", "127.0.0.1:82"],
            ..REFUSED
        });
    "loopback": "curl connects to an address of the host, and its http.server listens at 127.0.0.1 only";
        ["connects.py", "elsewhere"]
        => Some(Expected {
            of: Of::Name("client"),
            cause: "listens_elsewhere",
            hint: "listen-address",
            peers: &["10.9.0.1:80"],
            ..REFUSED
        });
    "forks": "nothing listens at the only backend of a program that has a process for each connection";
        ["connects.py", "forks"]
        => Some(Expected {
            of: Of::Name("client"),
            ..REFUSED
        });
    "reject": "a firewall rejects the connections of a client with ICMP";
        ["connects.py", "reject"]
        after "ip link add v0 type veth peer name v1
            ip link set v0 up
            ip link set v1 up
            ip route add 10.9.0.0/24 dev v0
            ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:99 dev v0"
        => Some(Expected {
            cause: "refused_by_icmp",
            hint: "icmp-refused",
            peers: &["10.9.0.2:80"],
            ..REFUSED
        });
    "blackhol": "SYNs are dropped; the first connect() fails after 31 s";
        ["connects.py", "black-hole"]
        after "ip link add v0 type veth peer name v1
            ip link set v0 up
            ip link set v1 up
            ip route add 10.9.0.0/24 dev v0
            ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:99 dev v0
            echo 4 > /proc/sys/net/ipv4/tcp_syn_retries"
        => Some(Expected {
            cause: "syn_dropped",
            hint: "syn-timeout",
            first_error: FirstError::Later,
            peers: &["10.9.0.2:80"],
            ..REFUSED
        });
    "ports20": "20 requests/s without keep-alive, 1,000 ports";
        ["ports.py", "20", "connect", "100"]
        after "echo 20000 20999 > /proc/sys/net/ipv4/ip_local_port_range"
        => Some(PORTS);
    "ports400": "400 requests/s without keep-alive, 6,000 ports";
        ["ports.py", "400", "connect", "100"]
        after "echo 20000 25999 > /proc/sys/net/ipv4/ip_local_port_range"
        => Some(Expected { within: 12.0, ..PORTS });
    "bind": "50 requests/s without keep-alive, with bind() before connect(), 1,500 ports";
        ["ports.py", "50", "bind", "100"]
        after "echo 20000 21499 > /proc/sys/net/ipv4/ip_local_port_range"
        => Some(Expected {
            of: Of::Bound("client"),
            cause: "bind_first",
            hint: "bind-first",
            within: 22.0,
            ..PORTS
        });
    "twreuse": "100 requests/s without keep-alive, 1,000 ports, tcp_tw_reuse=1: nothing is wrong";
        ["ports.py", "100", "connect", "60"]
        after "echo 20000 20999 > /proc/sys/net/ipv4/ip_local_port_range
            echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse"
        => None;
    "twfull": "100 requests/s without keep-alive, tcp_max_tw_buckets=200";
        ["ports.py", "100", "connect", "100"]
        after "echo 200 > /proc/sys/net/ipv4/tcp_max_tw_buckets"
        // After two seconds there are as many.
        => Some(Expected {
            anomaly: "time_wait_overflow",
            of: Of::Namespace,
            cause: "too_few_buckets",
            hint: "tw-buckets",
            first_error: FirstError::None,
            within: 15.0,
            peers: &[],
            also: &[],
        });
    "cwait64": "a server does not close, 2 connections/s, 64 descriptors";
        ["descriptors.py", "close-wait", "64", "2"]
        => Some(Expected {
            peers: KEPT,
            ..leak("server", "fd_close_wait", "close-wait", 28.0)
        });
    "cwait1k": "a server does not close, 12 connections/s, 1,024 descriptors";
        ["descriptors.py", "close-wait", "1024", "12"]
        => Some(Expected {
            peers: KEPT,
            ..leak("server", "fd_close_wait", "close-wait", 80.0)
        });
    "conn64": "a client does not close, 2 connections/s, 64 descriptors";
        ["descriptors.py", "connections", "64", "2"]
        => Some(leak("client", "fd_connections", "close-opened", 28.0));
    "conn1k": "a client does not close, 12 connections/s, 1,024 descriptors";
        ["descriptors.py", "connections", "1024", "12"]
        => Some(leak("client", "fd_connections", "close-opened", 80.0));
    "conn8k": "a client does not close, 80 connections/s, 8,192 descriptors";
        ["descriptors.py", "connections", "8192", "80"]
        => Some(leak("client", "fd_connections", "close-opened", 95.0));
    "files": "a server opens 6 files/s, 256 descriptors";
        ["descriptors.py", "files", "256", "6"]
        => Some(leak("server", "fd_files", "nofile", 40.0));
    "pipes": "a server opens 3 pipes/s, 256 descriptors";
        ["descriptors.py", "pipes", "256", "3"]
        => Some(leak("server", "fd_pipes", "nofile", 40.0));
    "events": "a server makes 6 eventfds/s, 256 descriptors";
        ["descriptors.py", "events", "256", "6"]
        => Some(leak("server", "fd_events", "nofile", 40.0));
    "sockets": "a server makes 6 sockets/s that it does not connect, 256 descriptors";
        ["descriptors.py", "sockets", "256", "6"]
        => Some(leak("server", "fd_idle_sockets", "nofile", 40.0));
    "udpsocks": "a server asks 6 questions/s by UDP on sockets of their own, 256 descriptors";
        ["descriptors.py", "udp", "256", "6"]
        => Some(leak("server", "fd_other_sockets", "nofile", 40.0));
    "slow": "a server accepts 2 of 40 connections/s";
        ["queues.py", "slow"]
        => Some(queue("server", "slow_accept", "slow-accept"));
    "stuck": "one of eight workers with SO_REUSEPORT does not accept";
        ["queues.py", "stuck"]
        => Some(queue("server", "one_worker_stuck", "stuck-worker"));
    "master": "the same where a master made all sockets";
        ["queues.py", "master"]
        => Some(queue("server", "one_worker_stuck", "stuck-worker"));
    "inherit": "a program that inherited a listener does not accept";
        ["queues.py", "inherited"]
        => Some(queue("helper", "no_accepts", "no-accept"));
    "hung": "a server accepts nothing any more, and its queue has room for the 2 connections/s; clients give up after 5 s";
        ["queues.py", "hung"]
        => Some(queue("server", "no_accepts", "no-accept"));
    "fastscan": "nmap -sS, 5,000 ports/s";
        ["scan.py", "fast"]
        after "ip addr add 10.9.0.2/32 dev lo"
        => Some(Expected { within: 10.0, ..SCAN });
    "slowscan": "nmap -sS, a port a second";
        ["scan.py", "slow"]
        after "ip addr add 10.9.0.2/32 dev lo"
        => Some(SCAN);
    "silence": "peers fall silent, and keepalive ends 100 connections/s";
        ["silence.py", "keepalive"]
        => Some(Expected {
            peers: &["10.8.0.2:80"],
            ..resets("client", "peers_silent", "keepalive")
        });
    "nat": "peers fall silent, and 10 connections/s are used again; the first send() fails after 3 s";
        ["silence.py", "data"]
        after "echo 3 > /proc/sys/net/ipv4/tcp_retries2"
        => Some(Expected {
            anomaly: "silent_peers",
            cause: "not_acknowledged",
            peers: &["10.8.0.2:80"],
            also: &[],
            ..resets("client", "", "keepalive")
        });
    "firstbyt": "5 of 10 connections never get an answer";
        ["stalls.py", "no-tls"]
        => Some(Expected {
            peers: &["127.0.0.1:444"],
            ..stall("read_stall", "client", "no_first_byte", "no-answer")
        });
    "handshak": "5 of 10 connections hang in a TLS handshake";
        ["stalls.py", "handshakes"]
        needs "tls"
        => Some(Expected {
            within: 15.0,
            peers: &["127.0.0.1:444"],
            also: &[("program_not_reading", "server", "server_does_not_read")],
            ..stall("tls_stall", "client", "handshakes_unanswered", "tls-client")
        });
    "silentcl": "5 of 10 clients of a TLS server say nothing";
        ["stalls.py", "silent"]
        needs "tls"
        => Some(Expected {
            within: 15.0,
            peers: &["client 127.0.0.2 of 443"],
            also: &[],
            ..stall("tls_stall", "server", "handshakes_not_finished", "tls-server")
        });
    "heldup": "a TLS server hangs while it looks for the certificates of 5 clients";
        ["stalls.py", "held-up"]
        needs "tls"
        => Some(Expected {
            within: 25.0,
            peers: &[],
            also: &[("tls_stall", "client", "handshakes_unanswered")],
            ..stall("tls_stall", "server", "handshakes_held_up", "tls-held-up")
        });
    "expired": "a client makes 3 TLS handshakes/s with a server whose certificate has expired";
        ["handshakes.py", "expired"]
        needs "tls"
        => Some(REFUSED_HANDSHAKES);
    "expirycl": "the same with curl, a process for each";
        ["handshakes.py", "curl"]
        needs "tls"
        => Some(Expected {
            of: Of::Name("client"),
            ..REFUSED_HANDSHAKES
        });
    "plaintls": "80 TLS handshakes/s with a port that does not speak TLS: each ends by RST, and the storm is no finding";
        ["handshakes.py", "plain"]
        needs "tls"
        => Some(REFUSED_HANDSHAKES);
    "tlsreset": "3 TLS handshakes/s are reset, as by a proxy whose backend is gone";
        ["handshakes.py", "reset"]
        needs "tls"
        => Some(Expected {
            cause: "handshakes_reset",
            hint: "tls-reset",
            ..REFUSED_HANDSHAKES
        });
    "hastytls": "a TLS server hangs, and a client gives up its handshakes after 0.3 s";
        ["handshakes.py", "hasty"]
        needs "tls"
        => Some(Expected {
            cause: "handshakes_given_up",
            hint: "tls-client",
            ..REFUSED_HANDSHAKES
        });
    "early46": "QUIC early data of 5 connections is rejected, and their streams cancelled before NextConnection (quic-go 0.46)";
        [EARLY, "0.46", "cancel", "5"]
        needs "quic"
        => Some(early("cancelled_early_streams", "quic-cancel"));
    "early50": "the same with quic-go 0.50: nothing is wrong";
        [EARLY, "0.50", "cancel", "5"]
        needs "quic"
        => None;
    "resumed": "QUIC early data of 5 connections is rejected, and they go on (quic-go 0.50): nothing is wrong";
        [EARLY, "0.50", "resume", "5"]
        needs "quic"
        => None;
    "forget": "QUIC early data of 5 connections is rejected, and they are closed (quic-go 0.50)";
        [EARLY, "0.50", "forget", "5"]
        needs "quic"
        => Some(early("never_resumed", "quic-next"));
    "quicdown": "a QUIC server is gone, and 12 connections with early data are given up (quic-go 0.50)";
        [EARLY, "0.50", "give-up", "12"]
        needs "quic"
        => Some(early("early_data_unanswered", "quic-unanswered"));
    "stopped": "a server is stopped, and its 10 clients wait";
        ["stalls.py", "hangs"]
        => Some(Expected {
            peers: &["client 127.0.0.1 of 80"],
            ..stall("program_not_reading", "server", "server_does_not_read", "not-reading")
        });
    "hangs": "the same as the pool of 10 connections sees it";
        ["stalls.py", "hangs"]
        => Some(Expected {
            within: 80.0,
            peers: &["127.0.0.1:80"],
            ..stall("read_stall", "client", "no_answer", "no-answer")
        });
    "impatnt": "a server takes requests and does nothing, and its 10 clients give up after 2 s each";
        ["stalls.py", "impatient"]
        => Some(Expected {
            peers: &["127.0.0.1:80"],
            also: &[("close_wait_leak", "server", "clients_unanswered")],
            ..stall("read_stall", "client", "gave_up", "no-answer")
        });
    "gateway": "the same through a proxy that resets the connections that it gives up, as HAProxy does";
        ["stalls.py", "gateway"]
        => Some(Expected {
            peers: &["127.0.0.1:80"],
            ..stall("read_stall", "client", "gave_up", "no-answer")
        });
    "greeting": "10 clients wait 2 s each for the greeting of a server that hangs";
        ["stalls.py", "greeting"]
        => Some(Expected {
            peers: &["127.0.0.1:80"],
            ..stall("read_stall", "client", "gave_up", "no-answer")
        });
    "locked": "10 clients of a database log in, send a query, and give up after 2 s each";
        ["stalls.py", "locked"]
        => Some(Expected {
            peers: &["127.0.0.1:80"],
            ..stall("read_stall", "client", "gave_up", "no-answer")
        });
    "workers": "8 workers of a server, with a client each, wait for another server that hangs";
        ["stalls.py", "workers"]
        => Some(Expected {
            of: Of::Name("front"),
            peers: &["127.0.0.1:80"],
            also: &[
                ("read_stall", "client", "no_first_byte"),
                ("program_not_reading", "server", "server_does_not_read"),
            ],
            ..stall("read_stall", "front", "no_first_byte", "no-answer")
        });
    "busy": "all 4 workers of a server wait for another that hangs, and 12 connections wait for them";
        ["stalls.py", "busy"]
        => Some(Expected {
            of: Of::Listener("front"),
            also: &[("program_not_reading", "server", "server_does_not_read")],
            ..stall("listen_overflow", "front", "workers_wait", "no-answer")
        });
    "reader": "a server stops reading what 6 connections stream to it";
        ["stalls.py", "reader"]
        => Some(Expected {
            peers: &["127.0.0.1:80"],
            ..stall("read_stall", "client", "peer_not_reading", "peer-window")
        });
    "slowcli": "6 clients of a server without deadlines do not read";
        ["stalls.py", "clients"]
        => Some(Expected {
            peers: &["client 127.0.0.1 of 80"],
            also: &[("program_not_reading", "client", "client_does_not_read")],
            ..stall("read_stall", "server", "peer_not_reading", "peer-window")
        });
    "idlepool": "a client forgets 2 idle connections/s, 1,048,576 descriptors";
        ["stalls.py", "leak"]
        => Some(Expected {
            within: 280.0,
            also: &[("idle_pool_leak", "server", "clients_stay")],
            ..stall("idle_pool_leak", "client", "unused_connections", "idle-pool")
        }), slow;
    "ports1k": "1,000 requests/s without keep-alive, 15,000 ports; above half of them the client slows down";
        ["ports.py", "1000", "connect", "100"]
        after "echo 20000 34999 > /proc/sys/net/ipv4/ip_local_port_range"
        => Some(Expected { within: 15.0, ..PORTS }), slow;
    "conn1k6": "a client does not close, 6 connections/s, 1,024 descriptors";
        ["descriptors.py", "connections", "1024", "6"]
        // Descriptors are counted each second from 30 % of the limit on, after 51 s here; then 70 s are looked at.
        => Some(leak("client", "fd_connections", "close-opened", 125.0)), slow;
    "cwaitbig": "a server does not close, 2 connections/s, 20,000 descriptors";
        ["descriptors.py", "close-wait", "20000", "2"]
        => Some(Expected {
            anomaly: "close_wait_leak",
            cause: "server_keeps_closed",
            peers: KEPT,
            first_error: FirstError::None,
            ..leak("server", "", "close-wait", 300.0)
        }), slow;
}
