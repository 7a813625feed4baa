//! Connections and limits.

use super::hint::{Hint, Shown};

macro_rules! connections {
    ($($id:literal: fact $fact:literal; kernels $kernels:literal; fix $fix:literal; check $check:literal;)+) => {
        /// In the order of the document.
        pub const CONNECTIONS: &[Hint] = &[$(Hint {
            id: $id,
            shown: Shown::ByCause,
            fact: $fact,
            kernels: $kernels,
            fix: $fix,
            check: $check,
        },)+];
    };
}

connections! {
    "half-close":
        fact "This side's RST comes from its own unread data, or from data that comes after it has closed.";
        kernels "all";
        fix "After shutdown(SHUT_WR), read to the end, then close.";
        check "socket_resets_total{direction=\"sent\",reason=~\"TCP_ABORT_ON_CLOSE|TCP_ABORT_ON_DATA\"} stops growing; so does IN_CLOSE_WAIT at the peer";
    "linger":
        fact "By default close() sends a FIN and goes on in the background. SO_LINGER {1,0}: an RST, unsent data is lost, no TIME_WAIT. {1,n}: close() waits up to n seconds, also with O_NONBLOCK, then goes on sending, without an RST. Unread data takes precedence over SO_LINGER.";
        kernels "all";
        fix "Do not set SO_LINGER.";
        check "reason=\"LINGER_ZERO\" stops growing; TIME_WAIT appears instead, as it should";
    "peer-left":
        fact "The peer sent a FIN and then an RST, because it had left when more data came: it closed early, or misused half-close. The next write gives EPIPE.";
        kernels "all";
        fix "Once read() has returned 0, write no more, and close; take EPIPE and ECONNRESET as the end of the connection.";
        check "socket_resets_total{direction=\"received\",reason=\"IN_CLOSE_WAIT\"} stops growing";
    "reset-at-close":
        fact "An RST that arrives while this side closes was sent by the peer or by something in between. SO_REUSEADDR and TIME_WAIT have no part in it.";
        kernels "all";
        fix "Find who sent it.";
        check "at the sender: the reason; here: socket_resets_total{direction=\"received\"} by state";
    "time-wait":
        fact "It lasts 60 s, which is compiled in. tcp_fin_timeout is for orphans in FIN_WAIT2. tcp_tw_recycle is gone since 4.12. A SYN that meets TIME_WAIT is accepted or answered by an ACK, never reset.";
        kernels "all";
        fix "Keep-alive and pools; then tcp_tw_reuse=1, for clients with timestamps. Its limit is all ports per second.";
        check "blocked / available < 0.5; socket_time_wait_entered_total falls (pools), or `nstat TcpExtTWRecycled` grows (reuse)";
    "tw-reuse":
        fact "net.ipv4.tcp_tw_reuse is 2 by default since 4.19: for loopback alone. It acts on connect() only.";
        kernels "4.19 and later";
        fix "";
        check "`nstat TcpExtTWRecycled` grows; socket_connect_seconds is back below 1 ms on a LAN";
    "ports":
        fact "By default there are 28,232 local ports for each source, destination and destination port; 470 connections a second use them up in a minute.";
        kernels "all";
        fix "Pools, more destination or source addresses, a wider ip_local_port_range with ip_local_reserved_ports.";
        check "blocked / available < 0.5; socket_connect_seconds is back below 1 ms on a LAN";
    "bind-first":
        fact "A port that bind() chose is taken for every destination, in TIME_WAIT, too.";
        kernels "all";
        fix "IP_BIND_ADDRESS_NO_PORT (4.2); IP_LOCAL_PORT_RANGE (6.3).";
        check "socket_ephemeral_ports_available is the size of the range again; socket_ephemeral_ports_exhausted_total{call=\"bind\"} stops growing";
    "close-wait":
        fact "CLOSE_WAIT has no timeout: only close() ends it.";
        kernels "all";
        fix "Close after read() has returned 0; end idle connections of pools.";
        check "socket_connections{state=\"CLOSE_WAIT\"} falls to what a pool keeps; socket_process_open_fds with it";
    "nofile":
        fact "EMFILE: the soft limit RLIMIT_NOFILE. ENFILE: fs.file-max. No limit is above fs.nr_open. Go from 1.19 on and the JVM raise the soft limit to the hard one.";
        kernels "all";
        fix "Fix the leak; LimitNOFILE= of the unit.";
        check "socket_fd_exhausted_total stops growing; socket_process_max_fds shows the new limit (`/proc/PID/limits`)";
    "slow-accept":
        fact "A program that does other work between two accept() calls takes one connection per round; the others wait, and are dropped once the queue is full. A longer queue fills as well, a little later.";
        kernels "all";
        fix "Accept in a loop or thread that does nothing else, or in more processes.";
        check "socket_listen_backlog stays near 0; overflows stop growing";
    "backlog":
        fact "The queue's maximum is the minimum of listen()'s argument and net.core.somaxconn at the time of listen(); n lets n + 1 wait. somaxconn is 4096 since 5.4, and was 128.";
        kernels "all";
        fix "Raise both, and listen again.";
        check "socket_listen_backlog_max is the new number; overflows stop growing";
    "syn-queue":
        fact "The limit of unfinished handshakes is the backlog of the listener. tcp_max_syn_backlog counts with tcp_syncookies=0 only.";
        kernels "5.10 and later";
        fix "Raise the backlog.";
        check "socket_listen_backlog_max is the new number; overflows stop growing";
    "abort-on-overflow":
        fact "tcp_abort_on_overflow=1 makes an RST of what a client would have tried again.";
        kernels "all";
        fix "Set it to 0.";
        check "resets stop; overflows go on until their cause is fixed";
    "tw-buckets":
        fact "tcp_max_tw_buckets is per network namespace. Past it, connections are closed without TIME_WAIT and without an error.";
        kernels "all";
        fix "Fewer short connections; a higher tcp_max_tw_buckets. Do not lower it.";
        check "`nstat TcpExtTCPTimeWaitOverflow` stops growing";
    "orphans":
        fact "Past tcp_max_orphans, close() resets.";
        kernels "all";
        fix "";
        check "`nstat TcpExtTCPAbortOnMemory` stops growing";
    "syn-timeout":
        fact "connect() gives up after 127 s up to 6.4, and after 131 s from 6.5 on (tcp_syn_linear_timeouts=4: four more SYNs, 1 s apart).";
        kernels "all";
        fix "A timeout of the program's own; tcp_syn_retries.";
        check "socket_connects_total{result=\"ETIMEDOUT\"} turns into the program's own, earlier result";
    "keepalive":
        fact "Without SO_KEEPALIVE a silent peer is not noticed; with it after 2 h + 9 x 75 s by default. Unacknowledged data is given up after 924 s, without an RST.";
        kernels "all";
        fix "TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT; TCP_USER_TIMEOUT.";
        check "`ss -to` shows timer:(keepalive,...); when the peer vanishes, TCP_KEEPALIVE_TIMEOUT within idle + count x interval";
    "conntrack":
        fact "When the table of connection tracking is full, new connections are dropped: they time out.";
        kernels "all";
        fix "nf_conntrack_max.";
        check "drop of `conntrack -S` and \"table full\" in the kernel log stop growing";
}
