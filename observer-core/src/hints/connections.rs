//! Connections and limits.

use super::{
    hint::{Hint, Shown},
    need::Need::{ConntrackFull, Is, IsNot, Lacks, QueuesOverflow},
};

macro_rules! connections {
    ($($id:literal: $(needs [$($need:expr),+];)? fact $fact:literal; kernels $kernels:literal; fix $fix:literal; check $check:literal;)+) => {
        /// In the order of the document.
        pub const CONNECTIONS: &[Hint] = &[$(Hint {
            id: $id,
            shown: Shown::ByCause,
            needs: &[$($($need),+)?],
            fact: $fact,
            kernels: $kernels,
            fix: $fix,
            check: $check,
        },)+];
    };
}

const REUSE: &str = "net.ipv4.tcp_tw_reuse";
const TIMESTAMPS: &str = "net.ipv4.tcp_timestamps";

connections! {
    "half-close":
        fact "This side's RST comes from its own unread data, or from data that comes after it has closed.";
        kernels "all";
        fix "After shutdown(SHUT_WR), read to the end, then close. If a timeout ends the connection, make it longer than the answer takes.";
        check "socket_resets_total{direction=\"sent\",reason=~\"TCP_ABORT_ON_CLOSE|TCP_ABORT_ON_DATA|UNREAD_AFTER_SHUTDOWN\"} stops growing; so does IN_CLOSE_WAIT at the peer";
    "closes-first":
        fact "Data that arrives after close() is answered with an RST. The client's request is lost, and its next read() or write() fails with ECONNRESET or EPIPE.";
        kernels "all";
        fix "Make the idle timeout of the clients' pools shorter than that of the server, or let clients check a connection before they use it again (an idle connection that can be read has ended). A server that answers early reads the rest of the request before it closes.";
        check "socket_resets_total{direction=\"sent\",reason=~\"TCP_ABORT_ON_DATA|TCP_TIMEWAIT_SOCKET\"} stops growing";
    "refuses":
        fact "A server at its own limit of clients (maxclients, max_connections, worker_connections) accepts a connection, says so or not, and closes it. If the client has already sent its request, close() answers with an RST, which may also discard the server's last message.";
        kernels "all";
        fix "Look for the limit in the server's log and configuration; raise it, or make the clients' pools smaller. A server that answers early reads the rest of the request before it closes.";
        check "socket_resets_total{direction=\"sent\",reason=\"TCP_ABORT_ON_CLOSE\"} stops growing";
    "linger":
        fact "By default close() sends a FIN, and the kernel continues sending in the background. With SO_LINGER {1,0}, close() sends an RST, unsent data is lost, and there is no TIME_WAIT. With {1,n}, close() waits up to n seconds, even with O_NONBLOCK; then the kernel continues sending, without an RST. Unread data takes precedence over SO_LINGER.";
        kernels "all";
        fix "Do not set SO_LINGER. HAProxy (mode http) sets it on purpose on connections to servers once it has the whole answer; nothing is lost there, and fewer RSTs come from `http-reuse` and keep-alive to the servers.";
        check "reason=\"LINGER_ZERO\" stops growing; TIME_WAIT appears instead, which is normal";
    "disconnect":
        fact "connect() with the family AF_UNSPEC ends the connection of the socket at once: the peer gets an RST, and data that was not sent yet is lost (tcp_disconnect).";
        kernels "all";
        fix "End a connection by shutdown(SHUT_WR), reading to the end, and close(). Make a new socket for the next one.";
        check "socket_resets_total{reason=\"DISCONNECT\"} stops growing";
    "listener-closed":
        fact "When the last descriptor of a listening socket is closed, each connection that waited for accept() is reset (inet_csk_listen_stop). A restart does that to all clients in the queue.";
        kernels "all";
        fix "Pass the listening socket on to the next process (socket activation), or stop new connections at the load balancer and empty the queue before closing. With SO_REUSEPORT, net.ipv4.tcp_migrate_req=1 (since 5.14) moves them to another socket of the address.";
        check "socket_resets_total{reason=\"UNACCEPTED_CHILD\"} stops growing";
    "abort-from-outside":
        fact "`ss -K`, or a program that sends the same request (SOCK_DESTROY), ends sockets of other processes. The program that owns the socket gets ECONNABORTED.";
        kernels "all with CONFIG_INET_DIAG_DESTROY";
        fix "Find what does it: a script with `ss -K`, or a network agent that ends connections to backends that were removed.";
        check "socket_resets_total{reason=\"ABORTED_BY_ADMIN\"} stops growing";
    "old-connection":
        fact "The answer to a SYN belonged to an older connection with the same addresses and ports, which the peer still has. This side resets that one and sends its SYN again after a second, so the connection comes late.";
        kernels "all";
        fix "Have the peer close its old connections (keepalive there). Behind a NAT, use more source ports or addresses, so that ports are not used again so soon.";
        check "socket_resets_total{reason=\"TCP_INVALID_ACK_SEQUENCE\"} stops growing";
    "reset-reason":
        fact "socket_resets_total has the reason of each RST as the kernel names it, and the state in which one was received.";
        kernels "all";
        fix "Look the most frequent reason up in docs/metrics.md; `observer tail` shows each RST with both addresses.";
        check "socket_resets_total of that reason stops growing";
    "peer-left":
        fact "The peer sent a FIN and then an RST, because it had left when more data came: it closed early, or misused half-close. The next write gives EPIPE.";
        kernels "all";
        fix "Once read() has returned 0, write no more, and close; take EPIPE and ECONNRESET as the end of the connection.";
        check "socket_resets_total{direction=\"received\",reason=\"IN_CLOSE_WAIT\"} stops growing";
    "reset-at-close":
        fact "An RST that arrives while this side closes was sent by the peer or by something in between. SO_REUSEADDR and TIME_WAIT do not cause it.";
        kernels "all";
        fix "Find out why the other side, or a device between, aborts: the finding names the peers, and `observer tail` shows each RST.";
        check "at the sender: the reason; here: socket_resets_total{direction=\"received\"} by state";
    "time-wait":
        fact "TIME_WAIT lasts 60 s, a constant of the kernel. tcp_fin_timeout applies to orphans in FIN_WAIT2. tcp_tw_recycle was removed in 4.12. The kernel accepts a SYN for a socket in TIME_WAIT or answers it with an ACK, never with an RST.";
        kernels "all";
        fix "Keep connections open and reuse them (keep-alive, a pool).";
        check "blocked / available < 0.5; socket_time_wait_entered_total falls";
    "tw-reuse":
        needs [IsNot(REUSE, 1), IsNot(TIMESTAMPS, 0)];
        fact "With net.ipv4.tcp_tw_reuse=1, connect() may use a port in TIME_WAIT again after a second. By default it is 2, which allows that for loopback only. It affects connect() only, not ports that bind() chose.";
        kernels "4.19 and later";
        fix "net.ipv4.tcp_tw_reuse=1 on the client.";
        check "`nstat TcpExtTWRecycled` grows; socket_connect_seconds is back below 1 ms on a LAN";
    "tw-timestamps":
        needs [Is(TIMESTAMPS, 0)];
        fact "Without timestamps, net.ipv4.tcp_tw_reuse has no effect: connect() cannot use a port in TIME_WAIT again.";
        kernels "all";
        fix "net.ipv4.tcp_timestamps=1 and net.ipv4.tcp_tw_reuse=1 on the client.";
        check "`nstat TcpExtTWRecycled` grows";
    "ports":
        fact "By default there are 28,232 local ports for each source, destination and destination port; 470 connections a second use them up in a minute.";
        kernels "all";
        fix "Use a pool of connections, more destination or source addresses, or a wider net.ipv4.ip_local_port_range (ip_local_reserved_ports keeps those of servers free).";
        check "blocked / available < 0.5; socket_connect_seconds is back below 1 ms on a LAN";
    "bind-first":
        fact "A port that bind() chose is in use for every destination, also while its socket is in TIME_WAIT.";
        kernels "all";
        fix "Do not call bind() before connect(), or set IP_BIND_ADDRESS_NO_PORT (since 4.2) or IP_LOCAL_PORT_RANGE (since 6.3) first.";
        check "socket_ephemeral_ports_available is the size of the range again; socket_ephemeral_ports_exhausted_total{call=\"bind\"} stops growing";
    "close-wait":
        fact "CLOSE_WAIT has no timeout: only close() ends it.";
        kernels "all";
        fix "Close after read() has returned 0; end idle connections of pools. A process that leaves a connection to another one (fork(), SCM_RIGHTS) closes its own descriptor.";
        check "socket_connections{state=\"CLOSE_WAIT\"} falls to what a pool keeps; socket_process_open_fds with it";
    "hung-server":
        fact "If a client gives up while it waits for an answer, its connection is in CLOSE_WAIT at the server until the program gets to it. A program that hangs never does.";
        kernels "all";
        fix "See whether the program runs (`ps -o pid,stat`: T is stopped, D waits for a disk) and what it waits for (`cat /proc/PID/task/*/stack`, a debugger): often all threads wait for one lock, or for another service. Restart it if it hangs.";
        check "socket_connections{state=\"CLOSE_WAIT\"} falls; Recv-Q of `ss -tnp` is 0";
    "nofile":
        fact "EMFILE: the soft limit RLIMIT_NOFILE is reached. ENFILE: fs.file-max is reached. RLIMIT_NOFILE cannot be above fs.nr_open. Go from 1.19 on and the JVM raise the soft limit to the hard limit.";
        kernels "all";
        fix "Close what is no longer needed; until then raise the limit (LimitNOFILE= of the unit, ulimit -n).";
        check "socket_fd_exhausted_total stops growing; socket_process_max_fds shows the new limit (`/proc/PID/limits`)";
    "close-opened":
        fact "An open connection is a descriptor until close(). A program that makes a new connection where it could use an old one keeps both, and one that returns early on an error often forgets to close.";
        kernels "all";
        fix "Close connections and answers on errors, too (with, defer, finally, Go: resp.Body.Close), use one client object or pool for the whole program, and give the pool a limit and an idle timeout.";
        check "socket_process_open_fds and socket_connections{state=\"ESTABLISHED\"} stop growing";
    "close-accepted":
        fact "A connection that was accepted is a descriptor until close(). A server without timeouts keeps those of clients that send nothing, or a byte at a time, or have vanished.";
        kernels "all";
        fix "Set timeouts for reading a request and for idle connections (Go http.Server ReadHeaderTimeout and IdleTimeout, nginx client_header_timeout and keepalive_timeout, gunicorn --timeout), and SO_KEEPALIVE for clients that vanish. If few addresses have most connections, limit them there.";
        check "socket_process_open_fds and socket_connections{state=\"ESTABLISHED\"} stop growing";
    "file-max":
        fact "ENFILE: all programs of the host together have as many files open as fs.file-max allows. Programs with CAP_SYS_ADMIN may still open some.";
        kernels "all";
        fix "Find the program with the most descriptors (socket_process_open_fds) and end its leak; until then raise fs.file-max.";
        check "socket_fd_exhausted_total stops growing; the first number of /proc/sys/fs/file-nr stays below the third";
    "listener-stray":
        fact "A listening socket answers an ACK that belongs to no connection with an RST: a late segment of a connection from before a restart of the server, or a scan with ACKs.";
        kernels "all";
        fix "After a restart no action is required: such RSTs end by themselves. Otherwise `observer tail` shows the addresses of the peers.";
        check "socket_resets_total of that reason stops growing";
    "slow-accept":
        fact "A program that does other work between two accept() calls takes one connection per round; the others wait, and are dropped once the queue is full. A longer queue fills as well, a little later.";
        kernels "all";
        fix "If all workers are busy with slow requests, make the requests faster or have more workers (gunicorn --workers, uWSGI processes, Apache MaxRequestWorkers, php-fpm pm.max_children). If the program does other work between accept() calls, accept in a loop or thread that does nothing else.";
        check "socket_listen_backlog stays near 0; overflows stop growing";
    "no-answer":
        fact "The kernel of the peer finishes handshakes, takes data in and acknowledges it even when the program there hangs or is stopped. So a request without an answer says nothing about the network: only the program can answer.";
        kernels "all";
        fix "At the peer, see whether the program runs and what it waits for (`ss -tnp` shows Recv-Q, `cat /proc/PID/task/*/stack`), and restart it if it hangs. In a database look for locks and slow queries first (PostgreSQL pg_stat_activity, MySQL SHOW PROCESSLIST). Give the client a timeout for reading, so that it fails instead of hanging.";
        check "socket_stalled_connections{reason=\"peer_first_byte\"} and socket_quiet_connections{turn=\"peer\"} fall";
    "peer-window":
        fact "A closed receive window means that the program at the peer does not read. Its kernel keeps answering window probes, so the connection never ends by itself.";
        kernels "all";
        fix "Find what the program at the peer waits for. Here give the program a deadline for writing.";
        check "socket_stalled_connections{reason=\"peer_window\"} falls; `ss -tio` shows no timer:(persist,...)";
    "not-reading":
        fact "Data that arrived waits in the kernel until the program reads it. Once the receive buffer is full, the window closes, and the peer stalls as well.";
        kernels "all";
        fix "A client reads each answer to its end and closes it (Go: resp.Body). Otherwise see whether the program runs (`ps -o pid,stat`: T is stopped, D waits for a disk) and what it waits for (`cat /proc/PID/task/*/stack`, a debugger). Often all threads wait for one lock, or for another service: that one is the cause. Message brokers stop reading from publishers when memory or disk runs low, or queues are too long (RabbitMQ: `rabbitmqctl status`).";
        check "socket_stalled_connections{reason=\"program_read\"} falls; Recv-Q of `ss -tnp` is 0";
    "tls-client":
        fact "The peer's kernel takes the connection and the ClientHello, and only the program there can answer. A handshake has no timeout of its own: libraries wait for as long as the program lets them, and a pool counts the connection as taken.";
        kernels "5.15 and later";
        fix "At the peer, see what the program waits for (`cat /proc/PID/task/*/stack`): workers that are all busy, an OCSP or key service that does not answer, a proxy that waits for its own server. Here give the handshake a timeout of its own (5 s, as for connect()).";
        check "socket_tls_handshakes_in_progress{role=\"client\"} and socket_tls_handshake_oldest_seconds fall; `openssl s_client -connect HOST:PORT` answers at once";
    "tls-reset":
        fact "An RST before the handshake is complete is rarely about the server's certificate: then the client's library sends an alert and closes. It comes from a program that closes the connection without reading the ClientHello, from a kernel whose program is gone, or from a device between the hosts. A server that requires a client certificate (mTLS) and closes with data unread when it gets none, or a wrong one, sends an RST, too, which can discard its alert.";
        kernels "all";
        fix "See whether the server gets the connection (its log, `observer doctor` there). If it does not, a firewall or proxy between resets it: compare `openssl s_client -connect HOST:PORT` with and without `-servername NAME`, and from another host. If its output has \"Acceptable client certificate CA names\", the server asks for a client certificate: try with `-cert FILE -key FILE`, and look for the reason in the server's log.";
        check "socket_tls_handshakes_total{role=\"client\",result=\"ok\"} grows, and socket_resets_total{direction=\"received\",reason=\"IN_ESTABLISHED\"} does not";
    "tls-fails":
        fact "A handshake ends with an error if one end does not trust the other's certificate, it has expired or is for another name, if both have no version or cipher in common, or if the port does not speak TLS. With TLS 1.3 a client has succeeded before the server looks at its certificate.";
        kernels "all";
        fix "The program's log has the reason. `openssl s_client -connect HOST:PORT -servername NAME </dev/null | openssl x509 -noout -subject -issuer -dates` shows the server's certificate; without the second command, `Verify return code` says why it is not trusted. Many servers read a renewed certificate only when they are reloaded.";
        check "socket_tls_handshakes_total{result=\"ok\"} grows";
    "tls-server":
        fact "A client that connects and sends nothing holds a worker or a descriptor until the server gives up. Many servers have a timeout for requests that begins only after the handshake.";
        kernels "5.15 and later";
        fix "Set a timeout for the handshake (nginx client_header_timeout, HAProxy timeout client and tune.ssl options, Go Server.ReadTimeout or ReadHeaderTimeout), and limit connections per address if they come from few.";
        check "socket_tls_handshakes_in_progress{role=\"server\"} falls; `ss -tn state established sport = :443` lists the clients";
    "tls-held-up":
        fact "In a TLS handshake a server may wait for something itself: an OCSP responder, a key or certificate from another service, a lock, a busy disk. In a program with an event loop, one long task holds all handshakes up.";
        kernels "5.15 and later";
        fix "See what the program waits for (`cat /proc/PID/task/*/stack`, a debugger; `ss -tnp` shows its own connections), and restart it if it hangs. Load certificates and OCSP answers in advance and not within the handshake.";
        check "socket_tls_handshake_oldest_seconds{role=\"server\"} falls";
    "quic-cancel":
        fact "A server that was restarted or has new ticket keys rejects early data, which is normal: the client goes on with NextConnection, on which streams begin anew. quic-go before 0.48.0 still sends RESET_STREAM and STOP_SENDING for old streams that are cancelled before that, and they hit the new streams with the same numbers (quic-go issue 4706).";
        kernels "5.15 and later";
        fix "Build the program with quic-go 0.48.0 or later (`grep -aom1 'quic-go.v[0-9][0-9.]*' /proc/PID/exe` shows its version). Until then do not call CancelRead or CancelWrite, which is often deferred, on a stream that has returned quic.Err0RTTRejected before NextConnection has returned.";
        check "at the next restart of the server, socket_quic_0rtt_total{result=\"rejected\"} grows, socket_quic_stream_resets_total{direction=\"sent\"} does not jump with it, and the requests succeed";
    "quic-next":
        fact "After a rejection nothing that was sent as early data has reached the server's program, and all calls on the old streams return quic.Err0RTTRejected. The connection itself is good: NextConnection returns when its handshake is complete.";
        kernels "5.15 and later";
        fix "On quic.Err0RTTRejected call NextConnection and send the requests again on new streams of what it returns. A program that sends them again on another connection loses only time; one that cannot repeat them should dial without early data (DialAddr instead of DialAddrEarly; with http3, without MethodGet0RTT).";
        check "at the next restart of the server, socket_quic_0rtt_rejections_total{result=\"resumed\"} grows and {result=\"abandoned\"} does not";
    "quic-unanswered":
        fact "A client sends early data before it knows whether anybody is there. quic-go's sockets are not connected, so the kernel tells it nothing of ICMP messages: a server that is down is a timeout (HandshakeIdleTimeout, 5 s by default).";
        kernels "5.15 and later";
        fix "See whether the server listens (`ss -ulnp` there) and whether UDP reaches it (`tcpdump -n udp port 443` at both ends): firewalls often let TCP pass alone. If packets go both ways, the program's error says why the handshake fails.";
        check "socket_quic_0rtt_total{result=\"failed\"} stops growing";
    "idle-pool":
        fact "An idle connection has no timeout: without keepalive it stays open indefinitely and uses memory and a descriptor at both ends. A pool that opens new connections instead of reusing idle ones never closes them.";
        kernels "all";
        fix "Give connections back to the pool (read answers to their end and close the body), make one client object for the whole program instead of one per request, and set the pool's limit and its idle timeout.";
        check "socket_process_open_fds and socket_quiet_connections{turn=\"nobody\",quiet=\"600\"} stop growing";
    "idle-timeout":
        fact "A server without an idle timeout keeps connections of clients that no longer use them or that vanished without a FIN.";
        kernels "all";
        fix "Set the server's idle timeout (keepalive_timeout, IdleTimeout, tcp_keepalives_idle...), below that of the load balancer before it, and SO_KEEPALIVE for clients that are gone.";
        check "socket_quiet_connections{turn=\"nobody\",quiet=\"600\"} falls";
    "no-accept":
        fact "Finished connections wait in the queue until the program calls accept(). Nothing else takes them out, and a longer queue only fills later.";
        kernels "all";
        fix "Find what the program waits for (`cat /proc/PID/task/*/stack`, a debugger), or computes (`top -H -p PID`: an endless loop, a regular expression, garbage collection), and restart it. If it only inherited the listening socket from the program that started it, close it there (SOCK_CLOEXEC).";
        check "socket_accepts_total grows, and socket_listen_backlog falls";
    "stuck-worker":
        fact "With SO_REUSEPORT each worker has a queue of its own, and the kernel chooses by a hash of the addresses, not by which worker is idle. Connections for a worker that does not accept wait there.";
        kernels "all";
        fix "Restart the worker whose queue is full (`ss -ltnp`; where a master owns all sockets, the one whose accepts on /api/v1/processes stay the same). From one listening socket that all workers share, any idle worker accepts.";
        check "socket_listen_backlog_fullest_ratio falls";
    "backlog":
        fact "The queue's maximum is the minimum of listen()'s argument and net.core.somaxconn at the time of listen(); n lets n + 1 wait. somaxconn is 4096 since 5.4, and was 128.";
        kernels "all";
        fix "Raise the argument of listen() and net.core.somaxconn, then restart the server.";
        check "socket_listen_backlog_max is the new number; overflows stop growing";
    "syn-queue":
        fact "The limit of unfinished handshakes is the backlog of the listener. tcp_max_syn_backlog applies with tcp_syncookies=0 only.";
        kernels "5.10 and later";
        fix "Raise the argument of listen() and net.core.somaxconn, then restart the server.";
        check "socket_listen_backlog_max is the new number; overflows stop growing";
    "abort-on-overflow":
        needs [IsNot("net.ipv4.tcp_abort_on_overflow", 0), QueuesOverflow];
        fact "With tcp_abort_on_overflow=1 the kernel answers with an RST where the client would otherwise retry.";
        kernels "all";
        fix "net.ipv4.tcp_abort_on_overflow=0.";
        check "resets stop; overflows go on until their cause is fixed";
    "tw-buckets":
        fact "tcp_max_tw_buckets is per network namespace. Beyond it, connections are closed without TIME_WAIT and without an error.";
        kernels "all";
        fix "Raise net.ipv4.tcp_max_tw_buckets, or open fewer short connections.";
        check "`nstat TcpExtTCPTimeWaitOverflow` stops growing";
    "orphans":
        fact "A closed socket that still has data to send, or waits for the peer's FIN, is an orphan. Beyond net.ipv4.tcp_max_orphans, or when net.ipv4.tcp_mem is used up, close() sends an RST instead; with TCP_LINGER2 below 0 always.";
        kernels "all";
        fix "Raise tcp_max_orphans if there is memory for it; find the peers that do not acknowledge the last data (`ss -tn state fin-wait-1`). Do not set TCP_LINGER2.";
        check "`nstat TcpExtTCPAbortOnMemory TcpExtTCPAbortOnLinger` stops growing";
    "syn-timeout":
        fact "connect() fails after 127 s up to Linux 6.4, and after 131 s from 6.5 on (tcp_syn_linear_timeouts=4: four more SYNs, 1 s apart).";
        kernels "all";
        fix "Find out why the destination does not answer: it is down, a firewall drops, or its accept queue is full (`ss -ltn` there: Recv-Q above Send-Q). Give the program a timeout of its own.";
        check "socket_connects_total{result=\"ETIMEDOUT\"} is replaced by the result of the program's own, shorter timeout";
    "no-syn-answer":
        fact "The kernel sends a SYN again for two minutes; the program gives up before that. Nothing answers at all: a closed port would be refused at once.";
        kernels "all";
        fix "Find out why the destination does not answer: it is down, a firewall drops, or its accept queue is full (`ss -ltn` there: Recv-Q above Send-Q).";
        check "socket_connects_total{result=\"gave_up\"} stops growing";
    "keepalive":
        fact "Without SO_KEEPALIVE a vanished peer is not noticed on an idle connection; with it, after 2 h + 9 x 75 s by default. If data is not acknowledged, the kernel ends the connection after 924 s, without an RST.";
        kernels "all";
        fix "Set SO_KEEPALIVE, and TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_KEEPCNT so that probes are sent before the idle timeout of the devices between; and TCP_USER_TIMEOUT for data that is not acknowledged.";
        check "`ss -to` shows timer:(keepalive,...); when the peer vanishes, TCP_KEEPALIVE_TIMEOUT within idle + count x interval";
    "lost-data":
        fact "While data is not acknowledged, the kernel sends it again and no keepalive probes; it ends the connection after net.ipv4.tcp_retries2 attempts (by default after 924 s), without an RST.";
        kernels "all";
        fix "Do new connections to the same peer work? Then a NAT or firewall has forgotten idle ones: set SO_KEEPALIVE with a TCP_KEEPIDLE below its idle timeout, or let the program send heartbeats. If only large requests stall, a device drops packets above its MTU and the ICMP messages about it: try `ping -M do -s 1472 PEER`, let ICMP fragmentation needed pass, or set net.ipv4.tcp_mtu_probing=1. Otherwise the peer or the path is down: TCP_USER_TIMEOUT ends such connections sooner.";
        check "socket_stalled_connections{reason=\"peer_ack\"} falls; `ss -ti` shows no growing backoff";
    "conntrack":
        needs [ConntrackFull];
        fact "When the connection tracking table is full, the kernel drops packets of new connections, so they time out.";
        kernels "all";
        fix "Raise net.netfilter.nf_conntrack_max.";
        check "`drop` in `conntrack -S` and \"table full\" in the kernel log stop growing";
    "snat-full":
        fact "A gateway that translates source addresses (NAT, a cloud NAT, a Kubernetes node) drops a SYN if no source port is left for the destination or if its connection tracking table is full. It sends no answer, so its clients see timeouts, often to busy destinations only, while other connections go on.";
        kernels "all";
        fix "On a Linux gateway `insert_failed` and `drop` in `conntrack -S` grow, and the kernel log has \"nf_conntrack: table full\" if it is the table; a cloud NAT has a metric for allocation errors. Use fewer and longer connections, give the gateway more addresses, raise net.netfilter.nf_conntrack_max, or add `--random-fully` to the rule (MASQUERADE, SNAT) if two connections race for a port.";
        check "`insert_failed` and `drop` in `conntrack -S` on the gateway stop growing; socket_connects_total{result=\"ETIMEDOUT\"} stops growing";
    "nothing-listens":
        fact "ECONNREFUSED: the other host answered with an RST or an ICMP message. No program listens at this address and port there, or a firewall rejects (REJECT).";
        kernels "all";
        fix "Start the server, or correct the address and port that the client uses. At the destination `ss -ltn` shows what listens, `nft list ruleset` what is rejected. A server that listens at 127.0.0.1 in a container takes connections from that container only: let it listen at 0.0.0.0 there. If the server is restarted again and again, see why it ends (`journalctl -u UNIT`, the container's log).";
        check "socket_connects_total{result=\"ECONNREFUSED\"} stops growing";
    "listen-address":
        fact "A listening socket takes connections to the address that bind() chose: at 127.0.0.1 or ::1 only those from the same host (the same container) to that address, at 0.0.0.0 those to all IPv4 addresses, at :: all, without IPv4 if IPV6_V6ONLY is set.";
        kernels "all";
        fix "Let the server listen at the address that clients use, at 0.0.0.0 or at :: (a setting such as bind, listen or host); or let the client connect to the address at which it listens. A name such as localhost may stand for 127.0.0.1 and ::1.";
        check "`ss -ltn` shows the address; socket_connects_total{result=\"ECONNREFUSED\"} stops growing";
    "port-taken":
        fact "EADDRINUSE from bind() or listen(): another socket of the network namespace has the port, or connections on it are in TIME_WAIT. With SO_REUSEADDR, which servers set before bind(), a port whose connections are in TIME_WAIT can be taken, but not one on which another socket listens. A socket at 0.0.0.0 is in the way of any IPv4 address, one at :: of all.";
        kernels "all";
        fix "`ss -tanp sport = :PORT` shows the process that listens, and the connections that have the port: end that process, or choose another port. If only connections in TIME_WAIT have it, let the server set that option. With Restart=, systemd gives up after five starts within ten seconds (StartLimitBurst=): start the service again then. A client needs no bind() unless its source port matters.";
        check "socket_binds_failed_total stops growing";
    "port-privileged":
        fact "EACCES from bind(): the port is below net.ipv4.ip_unprivileged_port_start (1024 by default), which takes CAP_NET_BIND_SERVICE, or a security module such as SELinux forbids it.";
        kernels "all";
        fix "Give the program CAP_NET_BIND_SERVICE (AmbientCapabilities= of the unit), let systemd open the socket, or choose another port. `ausearch -m avc` shows what SELinux refused.";
        check "socket_binds_failed_total stops growing";
    "bind-address":
        fact "EADDRNOTAVAIL from bind(): no interface of the network namespace has the address. At boot, a service may start before the address is there.";
        kernels "all";
        fix "Correct the address (`ip address` shows those of the host), or start the service after network-online.target. With IP_FREEBIND or net.ipv4.ip_nonlocal_bind=1 the address need not be there yet.";
        check "socket_binds_failed_total stops growing";
    "icmp-refused":
        fact "A host on which no program listens refuses with an RST. ECONNREFUSED without one comes from an ICMP message (port unreachable), which firewalls send: it is the default of REJECT.";
        kernels "all";
        fix "Allow the connection in the firewall, at the destination or on the path (`nft list ruleset`, `iptables -S`). `tcpdump icmp` shows the address that rejects it.";
        check "socket_connects_total{result=\"ECONNREFUSED\"} stops growing";
    "local-address":
        fact "EADDRNOTAVAIL from connect() while ports are free: bind() has chosen a port that has a connection to the same destination, also one in TIME_WAIT; or the source address is not one of this host. Where connect() is observed by tracepoints, searches for a port by io_uring and by 32-bit programs are not counted, so ports may be lacking there.";
        kernels "all";
        fix "Let connect() choose the port, without bind(). `ip address` shows the addresses of the host.";
        check "socket_connects_total{result=\"EADDRNOTAVAIL\"} stops growing";
    "cancelled":
        fact "ECANCELED: the program closed the socket before an answer arrived and before the SYN was retransmitted, that is within a second.";
        kernels "all";
        fix "Wait longer for an answer, or start fewer attempts at once.";
        check "socket_connects_total{result=\"ECANCELED\"} stops growing";
    "no-neighbour":
        fact "EHOSTUNREACH: the destination, or the next router, does not answer ARP or neighbour discovery; or a router sent an ICMP host unreachable message.";
        kernels "all";
        fix "Start the host, or correct the address or the route. `ip route get ADDRESS` shows the route, `ip neigh` the neighbours that do not answer (FAILED).";
        check "socket_connects_total{result=\"EHOSTUNREACH\"} stops growing";
    "no-route":
        fact "ENETUNREACH: no route of this network namespace leads to the address, or a router sent an ICMP network unreachable message.";
        kernels "all";
        fix "Add a route (`ip route get ADDRESS` fails without one), or do not use the address: often it is an IPv6 address on a host without IPv6.";
        check "socket_connects_total{result=\"ENETUNREACH\"} stops growing";
    "icmp":
        fact "ENOPROTOOPT, EHOSTDOWN and ENONET come from ICMP messages: protocol unreachable, host unknown, host isolated (icmp_err_convert).";
        kernels "all";
        fix "Let the firewall or router on the path pass the connection. `tcpdump icmp` shows the address that rejects it.";
        check "socket_connects_total of that result stops growing";
    "denied":
        fact "EPERM: a BPF program of the cgroup forbids the address. EACCES: a security module does, or a route of the type prohibit.";
        kernels "all";
        fix "Allow the address there: `bpftool cgroup tree`, the log of SELinux or AppArmor, `ip route get ADDRESS`.";
        check "socket_connects_total of that result stops growing";
    "family":
        fact "EAFNOSUPPORT: the address has another family than the socket, for example an IPv6 address with an IPv4 socket.";
        kernels "all";
        fix "Make the socket with the family of the address; getaddrinfo() gives both.";
        check "socket_connects_total{result=\"EAFNOSUPPORT\"} stops growing";
    "connect-invalid":
        fact "EINVAL from connect(): the route to the destination is of the type blackhole (fib_props, ip6_rt_type_to_error); the socket is bound to a loopback address and the destination is not on this host (__mkroute_output); an IPv6 link-local destination has no interface, in the address or by SO_BINDTODEVICE (tcp_v6_connect); or the length of the address is too small.";
        kernels "all";
        fix "`ip route get ADDRESS from SOURCE` fails in the same way for a route or a source address: `ip route show table all type blackhole` lists such routes, which Kubernetes, BGP and VPN daemons add. Do not bind clients to 127.0.0.1. Give link-local addresses an interface (fe80::1%eth0, sin6_scope_id).";
        check "socket_connects_total{result=\"EINVAL\"} stops growing";
    "connect-errno":
        fact "socket_connects_total has the errno that connect() returned.";
        kernels "all";
        fix "Look the errno up in connect(2) and in docs/metrics.md; `observer tail` shows each failure with its destination.";
        check "socket_connects_total of that result stops growing";
    "closed-ports":
        fact "For each segment to a port without a socket the kernel answers with an RST. A client that goes on trying a few such ports looks for a server that has ended or moved.";
        kernels "all";
        fix "Start the server, or correct the address and port of the client. `tcpdump -ni any 'tcp[tcpflags] & tcp-rst != 0'` shows the port.";
        check "socket_stray_resets_total stops growing";
    "fastopen-listener":
        needs [Lacks("net.ipv4.tcp_fastopen", 2)];
        fact "TCP_FASTOPEN of a listening socket has no effect without bit 2 of net.ipv4.tcp_fastopen, which is off by default: setsockopt() succeeds, and clients get no cookie.";
        kernels "all";
        fix "net.ipv4.tcp_fastopen=3 for clients and servers, or no TCP_FASTOPEN.";
        check "`nstat -az TcpExtTCPFastOpenPassive` grows";
    "scans":
        fact "A client knows its port. A program that tries many ports of an address, most of them closed, looks for those on which something listens.";
        kernels "all";
        fix "Find out who runs it (`ps -o user,ppid,lstart,args -p PID`, the unit), and stop it if nobody knows it.";
        check "socket_connects_total{result=\"ECONNREFUSED\"} stops growing";
    "scan":
        fact "One source tries many ports to find those on which a program listens. For each closed port the kernel answers with an RST. Nothing is wrong with any program here, and the source address may be forged.";
        kernels "all";
        fix "No action is required. If the source is this host (a loopback address) or another of your own, find the scanning program there: its connects are refused (socket_connects_total{result=\"ECONNREFUSED\"}). Else block it in the firewall.";
        check "socket_stray_resets_total stops growing";
}
