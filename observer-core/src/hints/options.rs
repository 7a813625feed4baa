//! Failed setsockopt() calls.

use super::{
    hint::{Hint, Shown, Sockets},
    need::{
        Kernel,
        Need::{Before, From, Lacks},
    },
};

/// How to verify any of these fixes.
const CHECK: &str =
    "socket_setsockopt_failures_total of the option stops growing after the restart";

macro_rules! options {
    ($($id:literal: [$($option:literal),*] [$($prefix:literal),*] [$($errno:literal),*] $sockets:expr;
        $(needs [$($need:expr),+];)? fact $fact:literal; kernels $kernels:literal; fix $fix:literal; check $check:expr;)+) => {
        /// In the order of the document.
        pub const OPTIONS: &[Hint] = &[$(Hint {
            id: $id,
            shown: Shown::BySetsockopt {
                options: &[$($option),*],
                prefixes: &[$($prefix),*],
                errnos: &[$($errno),*],
                sockets: $sockets,
            },
            needs: &[$($($need),+)?],
            fact: $fact,
            kernels: $kernels,
            fix: $fix,
            check: $check,
        },)+];
    };
}

const MPTCP: Sockets = Sockets::Protocol("mptcp");

options! {
    "fastopen-mptcp": ["TCP_FASTOPEN", "TCP_FASTOPEN_NO_COOKIE", "TCP_FASTOPEN_KEY"] [] ["ENOPROTOOPT"] MPTCP;
        needs [Before(Kernel(6, 2))];
        fact "MPTCP listeners take the Fast Open options since 6.2 (4ffb0a02346c). Go, which makes listeners MPTCP from 1.24 on, makes a TCP one instead if ListenConfig.Control returns this error; if it does not, the listener has no Fast Open.";
        kernels "fails up to 6.1 (checked on 5.15 and 6.1)";
        fix "Use plain TCP, or 6.2. In Go: GODEBUG=multipathtcp=0 or ListenConfig.SetMultipathTCP(false).";
        check "`ss -M -l` no longer lists the listener; with Fast Open, `nstat -az TcpExtTCPFastOpenPassive` grows";
    "fastopen-connect-mptcp": ["TCP_FASTOPEN_CONNECT"] [] ["ENOPROTOOPT"] MPTCP;
        needs [Before(Kernel(6, 1))];
        fact "MPTCP sockets take TCP_FASTOPEN_CONNECT since 6.1 (54635bd04701).";
        kernels "fails up to 6.0";
        fix "Use plain TCP, or 6.1.";
        check CHECK;
    "tcp-options-mptcp-5.10": [] ["TCP_"] ["EOPNOTSUPP"] MPTCP;
        needs [Before(Kernel(5, 11))];
        fact "MPTCP sockets take no option of the level SOL_TCP.";
        kernels "5.10";
        fix "Use plain TCP, or a newer kernel.";
        check CHECK;
    "tcp-options-mptcp": ["TCP_USER_TIMEOUT", "TCP_QUICKACK", "TCP_LINGER2", "TCP_SYNCNT", "TCP_WINDOW_CLAMP"] []
        ["ENOPROTOOPT"] MPTCP;
        fact "Not implemented for MPTCP sockets until the connection falls back to TCP.";
        kernels "all up to 7.3";
        fix "Use plain TCP.";
        check CHECK;
    "md5sig-mptcp": ["TCP_MD5SIG", "TCP_MD5SIG_EXT"] [] ["ENOPROTOOPT"] MPTCP;
        fact "MPTCP sockets never take TCP_MD5SIG (golang/go#74643).";
        kernels "all";
        fix "Use plain TCP.";
        check CHECK;
    "md5sig": ["TCP_MD5SIG", "TCP_MD5SIG_EXT"] [] ["ENOPROTOOPT"] Sockets::Protocol("tcp");
        fact "The kernel is built without CONFIG_TCP_MD5SIG.";
        kernels "all";
        fix "Use a kernel with it.";
        check CHECK;
    "bind-address-no-port-mptcp": ["IP_BIND_ADDRESS_NO_PORT"] [] ["EOPNOTSUPP"] MPTCP;
        needs [Before(Kernel(6, 12))];
        fact "MPTCP sockets do not take it in 6.1; in 6.12 they do.";
        kernels "fails in 6.1, not in 6.12";
        fix "Use plain TCP, or a newer kernel.";
        check CHECK;
    "options-mptcp": ["SO_ZEROCOPY", "SO_MAX_PACING_RATE", "TCP_ULP"] ["SO_ATTACH_", "IP_"] ["EOPNOTSUPP"] MPTCP;
        fact "Not supported by MPTCP sockets.";
        kernels "all up to 7.3";
        fix "Use plain TCP.";
        check CHECK;
    "reuseport-not-internet": ["SO_REUSEPORT"] [] ["EOPNOTSUPP"] Sockets::NotInternet;
        needs [From(Kernel(5, 15))];
        fact "The value 1 is refused for sockets that are not inet or inet6 (5b0af621c3f6).";
        kernels "6.13, 6.12.9, 6.1.124, later 6.6.y (seen on 6.6.74) and 5.15.y; not 5.10";
        fix "Do not set it on Unix sockets. janet: `no-reuse`; CPython: fixed (python/cpython#128933).";
        check CHECK;
    "tcp-options-unix": [] ["TCP_"] ["EOPNOTSUPP"] Sockets::Family("unix");
        fact "Unix sockets have no TCP options.";
        kernels "all";
        fix "Do not set them there.";
        check CHECK;
    "mark-priority": ["SO_MARK", "SO_PRIORITY"] [] ["EPERM"] Sockets::All;
        fact "SO_MARK, and SO_PRIORITY above 6, take CAP_NET_ADMIN; since 5.17 CAP_NET_RAW is enough (079925cce1d0).";
        kernels "all";
        fix "Give the program the capability.";
        check CHECK;
    "buffer-force": ["SO_RCVBUFFORCE", "SO_SNDBUFFORCE"] [] ["EPERM"] Sockets::All;
        fact "They take CAP_NET_ADMIN in the initial user namespace.";
        kernels "all";
        fix "Raise net.core.rmem_max or wmem_max and use SO_RCVBUF or SO_SNDBUF.";
        check CHECK;
    "bind-to-device": ["SO_BINDTODEVICE"] [] ["EPERM"] Sockets::All;
        fact "Only changing an existing binding takes CAP_NET_RAW.";
        kernels "5.10 and later";
        fix "Bind the socket once, or give the program CAP_NET_RAW.";
        check CHECK;
    "transparent": ["IP_TRANSPARENT", "IPV6_TRANSPARENT"] [] ["EPERM"] Sockets::All;
        fact "It takes CAP_NET_RAW or CAP_NET_ADMIN.";
        kernels "all";
        fix "Give the program the capability.";
        check CHECK;
    "busy-poll": ["SO_BUSY_POLL"] [] ["EPERM"] Sockets::All;
        needs [Before(Kernel(6, 4))];
        fact "Raising it took CAP_NET_ADMIN before 6.4 (48b7ea1d22dd).";
        kernels "fails up to 6.3";
        fix "Use 6.4, or give the program the capability.";
        check CHECK;
    "zerocopy": ["SO_ZEROCOPY"] [] ["ENOTSUPP", "EOPNOTSUPP"] Sockets::All;
        fact "Only TCP, UDP and RDS have it. 5.10 returns 524 (ENOTSUPP), later kernels EOPNOTSUPP.";
        kernels "all";
        fix "Set it on TCP, UDP and RDS sockets only.";
        check CHECK;
    "ulp": ["TCP_ULP"] [] ["ENOENT", "ENOTCONN", "EEXIST"] Sockets::Protocol("tcp");
        fact "ENOENT: the module is not loaded, and the caller may not load it. ENOTCONN: the connection is not established. EEXIST: set twice.";
        kernels "all";
        fix "`modprobe tls`, for TLS.";
        check CHECK;
    "congestion": ["TCP_CONGESTION"] [] ["ENOENT", "EPERM"] Sockets::All;
        fact "ENOENT: no such algorithm, or the caller may not load it. EPERM: not in net.ipv4.tcp_allowed_congestion_control, or fixed by the route.";
        kernels "all";
        fix "`modprobe tcp_NAME`; add the algorithm to net.ipv4.tcp_allowed_congestion_control.";
        check CHECK;
    "v6only": ["IPV6_V6ONLY"] [] ["EINVAL"] Sockets::All;
        fact "It cannot be set after bind().";
        kernels "all";
        fix "Set it before.";
        check CHECK;
    "out-of-range": ["IP_TTL", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_SYNCNT", "TCP_USER_TIMEOUT", "TCP_MAXSEG", "SO_LINGER"]
        [] ["EINVAL"] Sockets::All;
        fact "The value is out of range, or its length is too small: IP_TTL takes 1 to 255 or -1, TCP_KEEPIDLE and TCP_KEEPINTVL 1 to 32,767 seconds, TCP_KEEPCNT and TCP_SYNCNT 1 to 127, TCP_USER_TIMEOUT 0 or more milliseconds, TCP_MAXSEG 0 or 88 to 32,767, SO_LINGER a struct of two ints.";
        kernels "all";
        fix "Correct the value; a common mistake is milliseconds where seconds are expected. `strace -e setsockopt -p PID` shows it.";
        check CHECK;
    "fastopen-connect": ["TCP_FASTOPEN_CONNECT"] [] ["EOPNOTSUPP"] Sockets::Protocol("tcp");
        needs [Lacks("net.ipv4.tcp_fastopen", 1)];
        fact "It takes bit 1 of net.ipv4.tcp_fastopen.";
        kernels "all";
        fix "net.ipv4.tcp_fastopen=1, or 3 for servers, too.";
        check CHECK;
}
