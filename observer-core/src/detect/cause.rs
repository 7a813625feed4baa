//! The causes of findings, derived from the evidence. docs/detectors.md lists them.

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::anomaly::Anomaly;
use crate::hints::{Advice, HINTS, Hint, Known};

/// A cause.
#[derive(Debug, PartialEq)]
pub struct Cause {
    /// Stable id.
    pub id: &'static str,
    /// Of what.
    pub anomaly: Anomaly,
    /// The evidence for it.
    pub evidence: &'static str,
    /// The problem, for readers who do not know TCP.
    pub text: &'static str,
    /// Ids of [`crate::hints::HINTS`].
    pub hints: &'static [&'static str],
}

impl Cause {
    /// Its hints, whether or not they apply to this host.
    fn hints(&self) -> impl Iterator<Item = &'static Hint> {
        let hint = |id: &&str| HINTS.iter().find(|hint| hint.id == *id);
        self.hints.iter().filter_map(hint)
    }
}

/// A cause and how much it explains.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// Which.
    pub cause: &'static Cause,
    /// Fraction of the events.
    pub share: f64,
    /// The hints of the cause that apply to this host, from [`Self::advise`] on.
    pub hints: Vec<Advice>,
}

impl Explanation {
    /// One without hints.
    #[must_use]
    pub const fn new(cause: &'static Cause, share: f64) -> Self {
        Self {
            cause,
            share,
            hints: Vec::new(),
        }
    }

    /// Adds the hints. What is known of the host may make the cause more exact.
    pub(super) fn advise(&mut self, known: &Known<'_>) {
        let resets = known
            .sysctl("net.ipv4.tcp_abort_on_overflow")
            .unwrap_or_default()
            != 0;
        if self.cause == &LISTENER_RESETS && known.queues_overflow && resets {
            self.cause = &QUEUE_RESETS;
        }
        let hints = self.cause.hints();
        self.hints = hints.filter_map(|it| Advice::new(it, known)).collect();
    }
}

impl Serialize for Explanation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("id", self.cause.id)?;
        map.serialize_entry("text", self.cause.text)?;
        map.serialize_entry("share", &self.share)?;
        map.serialize_entry("hints", &self.hints)?;
        map.end()
    }
}

/// The fraction of the events from which a cause is shown alone.
const MOST: f64 = 0.6;
/// The number of causes if none does.
const TOP: usize = 3;

/// The first cause that explains most of the events, or else the three that explain the most.
#[must_use]
pub fn explain(causes: &[(&'static Cause, u64)]) -> Vec<Explanation> {
    let sum: u64 = causes.iter().map(|(_, count)| count).sum();
    let present = causes.iter().filter(|(_, count)| *count > 0);
    let mut explanations: Vec<_> = present
        .map(|(cause, count)| Explanation::new(cause, *count as f64 / sum as f64))
        .collect();
    if let Some(index) = explanations.iter().position(|it| it.share >= MOST) {
        return vec![explanations.swap_remove(index)];
    }
    explanations.sort_by(|a, b| b.share.total_cmp(&a.share));
    explanations.truncate(TOP);
    explanations
}

macro_rules! causes {
    ($($anomaly:ident { $($name:ident $id:literal: $evidence:literal => $text:literal $hints:expr;)+ })+) => {
        $($(
            #[doc = $text]
            pub static $name: Cause = Cause {
                id: $id,
                anomaly: Anomaly::$anomaly,
                evidence: $evidence,
                text: $text,
                hints: &$hints,
            };
        )+)+

        /// All causes, by anomaly.
        pub static CAUSES: &[&Cause] = &[$($(&$name),+),+];
    };
}

causes! {
    RstStorm {
        HANDSHAKES_FAIL "handshakes_fail": "TLS handshakes of the process that failed in the same seconds, at least half as many as RSTs"
            => "TLS handshakes fail, and the connections are closed after that: a certificate that is not trusted, has expired or is for another name, or an end that does not speak TLS on that port"
            ["tls-fails"];
        HALF_CLOSE "half_close": "sent TCP_ABORT_ON_DATA, TCP_TIMEWAIT_SOCKET or UNREAD_AFTER_SHUTDOWN, not to clients"
            => "closes its connections before it has read the answer: shutdown() or close() too early, or a timeout that is \
                shorter than the answer takes"
            ["half-close"];
        CLOSES_FIRST "closes_first": "sent TCP_ABORT_ON_DATA or TCP_TIMEWAIT_SOCKET by a process that accepts connections and opens none, or nine tenths to clients"
            => "closes connections on which its clients still send: its idle timeout is shorter than that of their pools, it \
                limits connections, or it answers before it has read the request"
            ["closes-first", "refuses"];
        UNREAD "unread": "sent TCP_ABORT_ON_CLOSE"
            => "closes connections with unread data"
            ["half-close"];
        CLOSES_UNREAD "closes_unread": "sent TCP_ABORT_ON_CLOSE or UNREAD_AFTER_SHUTDOWN by a process that accepts connections and opens none, or nine tenths to clients"
            => "closes connections of clients before it has read what they sent: it refuses them, as at its own limit of \
                connections, or answers before it has read the request"
            ["refuses", "half-close"];
        LINGER_ZERO "linger_zero": "sent LINGER_ZERO"
            => "sets SO_LINGER with a timeout of 0, which makes close() reset the connection" ["linger"];
        GIVES_UP "gives_up": "sent LINGER_ZERO of connections on which it had waited for an answer for 1.5 s or longer"
            => "gives up waiting for answers, and resets the connections: the server that it asks hangs or is slow"
            ["no-answer"];
        DISCONNECT "disconnect": "sent DISCONNECT"
            => "ends connections by connect(AF_UNSPEC), which resets them" ["disconnect"];
        UNACCEPTED "unaccepted": "sent UNACCEPTED_CHILD"
            => "closed a listening socket on which connections waited to be accepted" ["listener-closed"];
        ABORTED "aborted": "sent ABORTED_BY_ADMIN"
            => "another process aborts its connections (`ss -K`, or a load balancer in the kernel)" ["abort-from-outside"];
        PEERS_SILENT "peers_silent": "sent TCP_KEEPALIVE_TIMEOUT"
            => "its peers vanished without a FIN or RST: the idle timeout of a NAT or load balancer, or dead hosts"
            ["keepalive"];
        ORPHANS "orphans": "sent TCP_ABORT_ON_MEMORY or TCP_ABORT_ON_LINGER"
            => "closed connections are dropped early: tcp_max_orphans, tcp_mem or TCP_LINGER2" ["orphans"];
        LISTENER_RESETS "listener_resets": "sent INVALID_SYN (since 6.10) or REFUSED_BY_LISTENER"
            => "its listening sockets answer segments that begin no connection: late ones of connections from before a \
                restart, or a scan"
            ["listener-stray", "abort-on-overflow"];
        QUEUE_RESETS "queue_resets": "the same, while its accept queues overflow and net.ipv4.tcp_abort_on_overflow is not 0"
            => "its accept queue is full, and with tcp_abort_on_overflow=1 the kernel resets the clients that wait for a place"
            ["abort-on-overflow", "backlog"];
        OLD_CONNECTION "old_connection": "sent TCP_INVALID_ACK_SEQUENCE"
            => "a peer or a NAT still has an older connection with the same ports" ["old-connection"];
        PEER_LEFT "peer_left": "received IN_CLOSE_WAIT"
            => "continues writing after the peer has closed: the peer closed early, or misuses half-close" ["peer-left"];
        PEER_ABORTS "peer_aborts": "received IN_ESTABLISHED"
            => "peers abort established connections: they cancel requests or restart, or a device between the hosts times out"
            ["reset-at-close"];
        BOTH_CLOSING "both_closing": "received IN_LAST_ACK, IN_CLOSING or IN_FIN_WAIT*"
            => "peers reset connections that both sides were closing: harmless by itself" ["reset-at-close"];
        OTHER_RESETS "other_resets": "any other reason"
            => "other reasons; see socket_resets_total" ["reset-reason"];
    }
    ConnectFailures {
        LISTENS_ELSEWHERE "listens_elsewhere": "ECONNREFUSED from an address of this host, where programs listen on the port at \
            other addresses"
            => "a program of this host listens on that port, but not at the address that is connected to" ["listen-address"];
        SCANS "scans": "ECONNREFUSED of at least 15 ports of one address, to which most failures are"
            => "tries many ports of one address, like a port scanner" ["scans"];
        NOTHING_LISTENS "nothing_listens": "ECONNREFUSED"
            => "no program listens at the destination, or a firewall rejects" ["nothing-listens"];
        REFUSED_BY_ICMP "refused_by_icmp": "ECONNREFUSED without an RST"
            => "a firewall rejects with an ICMP message (port unreachable)" ["icmp-refused"];
        SYN_DROPPED "syn_dropped": "ETIMEDOUT, or sockets that stay in SYN_SENT"
            => "the destination does not answer: its packets are dropped, or its accept queue is full"
            ["syn-timeout", "conntrack", "snat-full"];
        OWN_TIMEOUT "own_timeout": "gave_up"
            => "its own timeout ends the attempts: the destination does not answer in time" ["no-syn-answer", "snat-full"];
        CANCELLED "cancelled": "ECANCELED without a retransmitted SYN"
            => "it cancels its own attempts before they are answered" ["cancelled"];
        NO_NEIGHBOUR "no_neighbour": "EHOSTUNREACH"
            => "the destination's host is not there, or a router says so" ["no-neighbour"];
        NO_ROUTE "no_route": "ENETUNREACH and no success"
            => "there is no route to the destination" ["no-route"];
        FIREWALL_ICMP "firewall_icmp": "ENOPROTOOPT, EHOSTDOWN or ENONET"
            => "a firewall or router rejects with an ICMP message" ["icmp"];
        DENIED "denied": "EACCES or EPERM"
            => "a security module, a BPF program or a route of this host forbids it" ["denied"];
        NO_LOCAL_PORT "no_local_port": "EADDRNOTAVAIL, and searches for a port that failed"
            => "no local port is free" ["ports"];
        LOCAL_ADDRESS "local_address": "EADDRNOTAVAIL without such a search"
            => "the local address that it has chosen cannot be used: the port has a connection to the destination, or the \
                address is not one of this host"
            ["local-address"];
        NO_FAMILY "no_family": "EAFNOSUPPORT and no success"
            => "the address is of another family than the socket" ["family"];
        NO_WAY "no_way": "EINVAL"
            => "the kernel has no way from the socket's local address to the destination: a blackhole route, a socket bound to a \
                loopback address, or an IPv6 link-local destination without an interface"
            ["connect-invalid"];
        OTHER_ERRNO "other_errno": "any other errno"
            => "other errors; see socket_connects_total" ["connect-errno"];
    }
    SilentPeers {
        NOT_ACKNOWLEDGED "not_acknowledged": "ETIMEDOUT or EHOSTUNREACH of established connections, without keepalive"
            => "what it sends is not acknowledged: a NAT or firewall dropped the connections, or the peers have vanished"
            ["keepalive"];
    }
    PortExhaustion {
        SHORT_CONNECTIONS "short_connections": "TIME_WAIT"
            => "opens a connection for each request; each closed one keeps its port for 60 seconds"
            ["time-wait", "ports", "tw-reuse", "tw-timestamps"];
        IDLE_CONNECTIONS "idle_connections": "ESTABLISHED, idle for over 5 minutes"
            => "keeps connections that it does not use: leaked, or a pool that is too large" ["ports"];
        BUSY_CONNECTIONS "busy_connections": "ESTABLISHED, in use"
            => "uses so many connections at once that it needs more addresses" ["ports"];
        SILENT_DESTINATION "silent_destination": "SYN_SENT"
            => "the destination does not answer, and each attempt holds a port for up to 131 seconds" ["syn-timeout"];
        NOT_CLOSED "not_closed": "CLOSE_WAIT, FIN_WAIT1 or FIN_WAIT2, timewait sockets in that substate included"
            => "connections that one side has closed wait for the other to close them" ["close-wait"];
        SMALL_RANGE "small_range": "fewer than 10,000 ports available"
            => "few local ports are available: a small ip_local_port_range, reserved or bound ports" ["ports"];
        BIND_FIRST "bind_first": "ports bound in at least half of the range"
            => "calls bind() before connect(), which takes the port for all destinations" ["bind-first"];
    }
    TimeWaitOverflow {
        TOO_FEW_BUCKETS "too_few_buckets": "TcpExtTCPTimeWaitOverflow"
            => "more closed connections would wait in TIME_WAIT than net.ipv4.tcp_max_tw_buckets allows, so late segments can disturb new ones" ["tw-buckets", "time-wait"];
    }
    FdLeak {
        FD_CLOSE_WAIT "fd_close_wait": "newest descriptors: TCP sockets in CLOSE_WAIT"
            => "does not close connections that its peers have closed" ["close-wait"];
        FD_CONNECTIONS "fd_connections": "newest descriptors: TCP sockets in other states"
            => "opens connections that it does not close" ["close-opened", "nofile"];
        FD_ACCEPTED "fd_accepted": "the same, whose local port is a listener's"
            => "accepts connections that it does not close" ["close-accepted", "nofile"];
        FD_IDLE_SOCKETS "fd_idle_sockets": "newest descriptors: sockets without a connection"
            => "keeps sockets that have no connection: never connected, or closed by the peer" ["nofile"];
        FD_OTHER_SOCKETS "fd_other_sockets": "newest descriptors: sockets that are not TCP (UDP, Unix, netlink)"
            => "opens UDP, Unix, netlink or other sockets that it does not close" ["nofile"];
        FD_DUPLICATES "fd_duplicates": "newest descriptors: several of the same sockets"
            => "duplicates descriptors of sockets (dup(), or received several times) that it does not close" ["nofile"];
        FD_PIPES "fd_pipes": "newest descriptors: pipes"
            => "opens pipes that it does not close, for example to child processes that have ended" ["nofile"];
        FD_FILES "fd_files": "newest descriptors: files"
            => "opens files that it does not close" ["nofile"];
        FD_EVENTS "fd_events": "newest descriptors: eventpoll, eventfd, timerfd, signalfd, inotify or fanotify"
            => "makes event loops, timers, signalfds or watches that it does not close" ["nofile"];
        FD_UNKNOWN "fd_unknown": "other descriptors"
            => "opens descriptors that it does not close" ["nofile"];
    }
    FdExhaustion {
        FD_LIMIT "fd_limit": "EMFILE, descriptors of other or unknown kinds"
            => "has as many descriptors open as its limit allows" ["nofile"];
        FULL_OF_CONNECTIONS "full_of_connections": "EMFILE, newest descriptors: TCP sockets not in CLOSE_WAIT"
            => "the connections that it opened take up its limit of descriptors: it keeps those that it does not need, or \
                has more than the limit allows"
            ["close-opened", "nofile"];
        FULL_OF_ACCEPTED "full_of_accepted": "the same, whose local port is a listener's"
            => "the connections of its clients take up its limit of descriptors: it keeps those that it does not need, or \
                has more than the limit allows"
            ["close-accepted", "nofile"];
        FULL_OF_SOCKETS "full_of_sockets": "EMFILE, newest descriptors: sockets without a connection"
            => "sockets without a connection take up its limit of descriptors" ["nofile"];
        FULL_OF_OTHER_SOCKETS "full_of_other_sockets": "EMFILE, newest descriptors: sockets that are not TCP (UDP, Unix, netlink)"
            => "UDP, Unix or other sockets take up its limit of descriptors" ["nofile"];
        FULL_OF_DUPLICATES "full_of_duplicates": "EMFILE, newest descriptors: several of the same sockets"
            => "duplicated descriptors of sockets (dup(), or received several times) take up its limit" ["nofile"];
        FULL_OF_PIPES "full_of_pipes": "EMFILE, newest descriptors: pipes"
            => "pipes take up its limit of descriptors" ["nofile"];
        FULL_OF_FILES "full_of_files": "EMFILE, newest descriptors: files"
            => "open files take up its limit of descriptors" ["nofile"];
        FULL_OF_EVENTS "full_of_events": "EMFILE, newest descriptors: eventpoll, eventfd, timerfd, signalfd, inotify or fanotify"
            => "event loops, timers or watches take up its limit of descriptors" ["nofile"];
        FILE_TABLE "file_table": "ENFILE"
            => "the host has as many files open as fs.file-max allows" ["file-max"];
    }
    CloseWaitLeak {
        SERVER_KEEPS_CLOSED "server_keeps_closed": "the local port is a listener's"
            => "the server does not close connections that its clients have closed" ["close-wait"];
        CLIENT_KEEPS_CLOSED "client_keeps_closed": "the local port is no listener's"
            => "a client or its pool keeps connections that the servers have closed" ["close-wait"];
        CLIENTS_UNANSWERED "clients_unanswered": "the process was sent something on most of them, which came from its listeners, and has sent nothing at all"
            => "its clients have gone without an answer: the server hangs, or is slower than their timeouts; or its protocol has no answers, and it does not close" ["hung-server", "close-wait"];
        PROXY_HALF_CLOSED "proxy_half_closed": "as many owned sockets in FIN_WAIT2"
            => "a proxy forwards the end of one direction and waits for the end of the other without a timeout" ["close-wait"];
    }
    ReadStall {
        NO_FIRST_BYTE "no_first_byte": "connections that sent data and have received nothing at all (peer_first_byte)"
            => "its peers complete the TCP handshake and have not answered yet: they hang, do not accept connections from their accept queues, take long to answer (long polls), or their protocol has no answers"
            ["no-answer", "no-accept"];
        NO_ANSWER "no_answer": "requests on connections that worked before, unanswered for 60 s"
            => "its peers have stopped answering: they hang, or their answers take longer than a minute" ["no-answer"];
        GAVE_UP "gave_up": "connections that the program closed while it waited for an answer, or had neither sent nor received anything, after 1.5 s or longer"
            => "its peers complete the TCP handshake and do not answer before its timeout: they hang or are overloaded, or the timeout is too short"
            ["no-answer"];
        PEER_NOT_READING "peer_not_reading": "data that a closed receive window holds back (peer_window)"
            => "its peers do not read what it sends" ["peer-window"];
        NOT_RECEIVED "not_received": "retransmitted data that is not acknowledged (peer_ack)"
            => "what it sends does not arrive: packets are lost, or the peers have vanished" ["lost-data"];
    }
    ProgramNotReading {
        SERVER_DOES_NOT_READ "server_does_not_read": "unread data of connections from its listeners"
            => "the server does not read what its clients send: it hangs, was stopped, or all its workers are busy"
            ["not-reading"];
        CLIENT_DOES_NOT_READ "client_does_not_read": "4 KiB or more unread of connections that it opened"
            => "does not read the answers it gets: it hangs, was stopped, is slower than its peers, or reads only \
                the headers"
            ["not-reading"];
    }
    TlsFailures {
        HANDSHAKES_GIVEN_UP "handshakes_given_up": "connections that the program opened and closed before it had read anything, in less than 1.5 s"
            => "its peers take the ClientHello and do not answer before its timeout: they hang or are overloaded, or the \
                timeout is too short"
            ["tls-client"];
        HANDSHAKES_RESET "handshakes_reset": "RSTs received in ESTABLISHED in the same seconds"
            => "its peers reset the connections during the TLS handshake: a proxy without a backend, a server at its limit or \
                one that crashes, a firewall that forbids the name, or a server that rejects the client's certificate"
            ["tls-reset"];
        HANDSHAKES_REFUSED "handshakes_refused": "any other failure"
            => "one end refuses the TLS handshake: the server's certificate has expired, is not trusted or is for another \
                name, the port does not speak TLS, or both have no version or cipher in common"
            ["tls-fails"];
    }
    TlsStall {
        HANDSHAKES_UNANSWERED "handshakes_unanswered": "slow handshakes as a client"
            => "its peers accept connections and do not continue the TLS handshake: they hang, have too few workers, or do not \
                speak TLS on that port"
            ["tls-client"];
        HANDSHAKES_NOT_FINISHED "handshakes_not_finished": "slow handshakes as a server"
            => "its clients connect and do not continue the TLS handshake: they hang, are very slow, or attack the server"
            ["tls-server"];
        HANDSHAKES_HELD_UP "handshakes_held_up": "slow handshakes as a server, as many as clients to which it owes the first answer; without those of silent clients"
            => "it has what its clients sent and does not go on with their TLS handshakes: it hangs, or waits for something itself"
            ["tls-held-up"];
        HANDSHAKES_STUCK "handshakes_stuck": "slow handshakes of a library whose role (client or server) is unknown (GnuTLS, BoringSSL)"
            => "its peers do not continue the TLS handshake: they hang, or do not speak TLS"
            ["tls-client", "tls-server"];
    }
    Quic0RttLost {
        CANCELLED_EARLY_STREAMS "cancelled_early_streams": "rejections that are `cancelled`, with RESET_STREAM or STOP_SENDING sent within 10 s"
            => "cancels streams after the server has rejected its early data and before it calls NextConnection: quic-go \
                before 0.48.0 then resets the new streams, too, and their requests fail"
            ["quic-cancel"];
        NEVER_RESUMED "never_resumed": "rejections that are `abandoned`"
            => "closes connections on which the server has rejected its early data instead of going on with NextConnection: \
                the requests are lost, unless the program sends them again on another connection"
            ["quic-next"];
        EARLY_DATA_UNANSWERED "early_data_unanswered": "early data that has `failed`"
            => "its connections end before the handshake is complete: the server is down, UDP to it is dropped, it does not \
                accept the handshake, or the program gives up before it answers"
            ["quic-unanswered"];
    }
    IdlePoolLeak {
        UNUSED_CONNECTIONS "unused_connections": "most of them were opened here"
            => "opens connections that it uses rarely or never again: they are not closed, or its pool has no limit"
            ["idle-pool"];
        CLIENTS_STAY "clients_stay": "most of them came from its listeners"
            => "its clients keep connections that carry nothing, and it has no idle timeout" ["idle-timeout"];
    }
    ListenOverflow {
        ACCEPT_WITHOUT_DESCRIPTORS "accept_without_descriptors": "EMFILE or ENFILE of its processes"
            => "accept() finds no free descriptor, so the queue stays full" ["nofile"];
        WORKERS_WAIT "workers_wait": "none is accepted, or more slowly than they arrive, and half of its processes wait for servers (`--stall-after`, 60 s on a connection that has received data), or a single one for as long as connections wait for it"
            => "its processes wait for servers that do not answer, and accept nothing meanwhile" ["no-answer"];
        NO_ACCEPTS "no_accepts": "no accepted connection in 10 s"
            => "the server does not accept at all: it is stuck, or at its own limit of connections" ["no-accept"];
        ONE_WORKER_STUCK "one_worker_stuck": "a process with one of several sockets of the address has a full queue for 2 s and accepts nothing, and others accept; or one of several sockets of a process is nearly full for 2 s and the others are nearly empty"
            => "one of several workers with listening sockets of their own (SO_REUSEPORT) is stuck" ["stuck-worker"];
        FLOOD "flood": "SYN cookies sent"
            => "more connections are started than established: a SYN flood, or clients with a long round-trip time" ["syn-queue"];
        SLOW_ACCEPT "slow_accept": "connections are accepted, and the queue is nearly full for 2 s, unless it is a small one from which 20 times its connections are accepted in 10 s and more are accepted than dropped; or connections wait in it for `--stall-after`"
            => "the server accepts connections more slowly than they arrive" ["slow-accept"];
        SMALL_BACKLOG "small_backlog": "a maximum of 128 or less"
            => "the accept queue is small: a small argument of listen(), or net.core.somaxconn" ["backlog"];
        BURST "burst": "connections are accepted"
            => "more connections arrive at once than the accept queue holds" ["backlog"];
    }
    SynScan {
        SCAN "scan": "at least 15 closed ports of one source"
            => "a port scan: one source tries many ports to find open ones; the source address may be forged" ["scan"];
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_hints_exist() {
        let ids: BTreeSet<_> = CAUSES.iter().map(|cause| cause.id).collect();
        assert_eq!(ids.len(), CAUSES.len());
        for cause in CAUSES {
            assert!(!cause.hints.is_empty(), "{} has no fix", cause.id);
            for id in cause.hints {
                let found = HINTS.iter().any(|hint| hint.id == *id);
                assert!(found, "{} names {id}", cause.id);
            }
        }
    }

    /// A listener answers stray segments with RSTs as well.
    #[test]
    fn a_full_queue_is_the_cause_of_resets_where_the_sysctl_says_so() {
        use crate::net::sysctls::Sysctls;

        let of = |abort: Option<u64>, queues_overflow| {
            let values = abort.map(|it| ("net.ipv4.tcp_abort_on_overflow", it));
            let sysctls = Sysctls {
                host: [].into(),
                namespaces: [(1, values.into_iter().collect())].into(),
            };
            let mut explanation = Explanation::new(&LISTENER_RESETS, 1.0);
            explanation.advise(&Known {
                kernel: None,
                sysctls: &sysctls,
                netns: Some(1),
                queues_overflow,
            });
            let hints = explanation.hints.iter();
            let hints = hints.map(|it| (it.hint.id, it.unknown.len())).collect();
            (explanation.cause.id, hints)
        };
        let stray: Vec<_> = vec![("listener-stray", 0)];
        let full = vec![("abort-on-overflow", 0), ("backlog", 0)];
        assert_eq!(of(Some(1), true), ("queue_resets", full));
        assert_eq!(of(Some(1), false), ("listener_resets", stray.clone()));
        assert_eq!(of(Some(0), true), ("listener_resets", stray));
        let perhaps = vec![("listener-stray", 0), ("abort-on-overflow", 1)];
        assert_eq!(of(None, true), ("listener_resets", perhaps));
    }

    #[test]
    fn the_first_that_explains_most_stands_alone() {
        let ids = |causes: &[(&'static Cause, u64)]| {
            let explanations = explain(causes);
            explanations
                .iter()
                .map(|it| it.cause.id)
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(&[(&UNREAD, 2), (&LINGER_ZERO, 3)]), ["linger_zero"]);
        assert_eq!(
            ids(&[
                (&UNREAD, 2),
                (&LINGER_ZERO, 3),
                (&ABORTED, 1),
                (&ORPHANS, 4),
                (&DISCONNECT, 0)
            ]),
            ["orphans", "linger_zero", "unread"]
        );
        assert_eq!(ids(&[(&UNREAD, 0)]), [""; 0]);
    }
}
