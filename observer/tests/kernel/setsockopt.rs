//! Failed setsockopt calls, on the real kernel: by option, errno and kind of socket.
//!
//! Kernels differ in the calls that fail; the program prints its results, and the counts must match.

use std::collections::BTreeMap;

use observer_test_support::{Daemon, Metrics, Netns};

const FAILURES: &str = "socket_setsockopt_failures_total";

/// `family/protocol/level/option/errno`, and how often, as observer counted it.
fn failures(metrics: &Metrics, pid: u32) -> BTreeMap<String, u64> {
    metrics.counted(pid, FAILURES, |labels| {
        let parts = ["family", "protocol", "level", "option", "errno"];
        parts.map(|label| labels[label].as_str()).join("/")
    })
}

fn compare(source: &str) -> Option<BTreeMap<String, u64>> {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = netns.script(source, &[]);
    let reported = program.tally();
    let metrics = daemon.scrape();
    println!("the program reported {reported:?}");
    needs_signal!(metrics, "setsockopt");
    assert_eq!(
        failures(&metrics, program.pid()),
        reported,
        "{}",
        metrics.shown()
    );
    metrics.assert_complete();
    program.end();
    Some(reported)
}

const ATTEMPT: &str = r"
tally = Tally()
# Some socket, so that there is a process to look at even if nothing fails.
base = listen(*FAMILIES[0])
def attempt(number, level, option, name, value=1, size=4):
    value = ctypes.c_int(value)
    if LIBC.setsockopt(number, level, option, ctypes.byref(value), size) < 0:
        code = errno.errorcode[ctypes.get_errno()]
        tally.add(name + '/' + {'ENOTSUP': 'EOPNOTSUPP'}.get(code, code))
";

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn tcp_and_udp_options() {
    let source = [
        ATTEMPT,
        r"
for family, name in ((socket.AF_INET, 'inet'), (socket.AF_INET6, 'inet6')):
    tcp = socket.socket(family, socket.SOCK_STREAM)
    udp = socket.socket(family, socket.SOCK_DGRAM)
    for _ in range(3):
        attempt(tcp.fileno(), 6, 9999, name + '/tcp/SOL_TCP/9999')
        attempt(tcp.fileno(), 1, 9999, name + '/tcp/SOL_SOCKET/9999')
        attempt(tcp.fileno(), 9999, 1, name + '/tcp/9999/1')
        attempt(tcp.fileno(), 6, 1, name + '/tcp/SOL_TCP/TCP_NODELAY', size=1)
        attempt(tcp.fileno(), 6, 4, name + '/tcp/SOL_TCP/TCP_KEEPIDLE', -1)
        attempt(udp.fileno(), 6, 1, name + '/udp/SOL_TCP/TCP_NODELAY')
        # These succeed.
        attempt(tcp.fileno(), 6, 1, 'never')
        attempt(tcp.fileno(), 1, 2, 'never')
print(tally)
input()
",
    ]
    .concat();
    if let Some(reported) = compare(&source) {
        assert_eq!(reported["inet/tcp/SOL_TCP/9999/ENOPROTOOPT"], 3);
        assert_eq!(reported["inet6/tcp/SOL_TCP/TCP_NODELAY/EINVAL"], 3);
        assert_eq!(reported.len(), 12, "{reported:?}");
    }
}

/// SO_REUSEPORT on a Unix socket fails since 6.13 and stable releases of early 2025.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn reuseport_on_unix_sockets() {
    let source = [
        ATTEMPT,
        r"
stream = socket.socket(socket.AF_UNIX)
packet = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
for _ in range(4):
    attempt(stream.fileno(), 1, 15, 'unix/stream/SOL_SOCKET/SO_REUSEPORT')
    attempt(packet.fileno(), 1, 15, 'unix/seqpacket/SOL_SOCKET/SO_REUSEPORT')
    attempt(stream.fileno(), 6, 1, 'unix/stream/SOL_TCP/TCP_NODELAY')
print(tally)
input()
",
    ]
    .concat();
    if let Some(reported) = compare(&source) {
        assert_eq!(reported["unix/stream/SOL_TCP/TCP_NODELAY/EOPNOTSUPP"], 4);
        match reported.get("unix/stream/SOL_SOCKET/SO_REUSEPORT/EOPNOTSUPP") {
            Some(count) => assert_eq!(*count, 4),
            None => {
                // 6.12.9 has it; Debian's 6.12 is later than that.
                assert!(!observer_test_support::kernel_at_least(6, 12));
                println!("this kernel accepts SO_REUSEPORT on Unix sockets");
            }
        }
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn options_of_mptcp_sockets() {
    let source = [
        ATTEMPT,
        r"
for family, name in ((socket.AF_INET, 'inet'), (socket.AF_INET6, 'inet6')):
    try:
        mptcp = socket.socket(family, socket.SOCK_STREAM, 262)
    except OSError:
        continue
    attempt(mptcp.fileno(), 6, 18, name + '/mptcp/SOL_TCP/TCP_USER_TIMEOUT', 1000)
    attempt(mptcp.fileno(), 6, 23, name + '/mptcp/SOL_TCP/TCP_FASTOPEN')
    attempt(mptcp.fileno(), 6, 8, name + '/mptcp/SOL_TCP/TCP_LINGER2')
    attempt(mptcp.fileno(), 6, 9999, name + '/mptcp/SOL_TCP/9999')
print(tally)
input()
",
    ]
    .concat();
    if let Some(reported) = compare(&source) {
        if reported.is_empty() {
            skip!("this kernel has no MPTCP");
        } else {
            let fastopen = reported.get("inet/mptcp/SOL_TCP/TCP_FASTOPEN/ENOPROTOOPT");
            // Reproduces Go 1.24 on Debian 12.
            let expected = (!observer_test_support::kernel_at_least(6, 2)).then_some(&1);
            assert_eq!(fastopen, expected, "{reported:?}");
            // Holds up to 7.3.
            let timeout = "inet/mptcp/SOL_TCP/TCP_USER_TIMEOUT";
            for errno in ["ENOPROTOOPT", "EOPNOTSUPP"] {
                println!(
                    "{timeout}/{errno}: {:?}",
                    reported.get(&format!("{timeout}/{errno}"))
                );
            }
            assert!(
                reported.keys().any(|key| key.starts_with(timeout)),
                "{reported:?}"
            );
        }
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn setsockopt_on_descriptors_that_are_no_sockets() {
    let source = [
        ATTEMPT,
        r"
file = open('/dev/null')
for _ in range(2):
    attempt(-1, 6, 1, 'none/none/SOL_TCP/TCP_NODELAY')
    attempt(9999, 1, 2, 'none/none/SOL_SOCKET/SO_REUSEADDR')
    attempt(file.fileno(), 1, 15, 'none/none/SOL_SOCKET/SO_REUSEPORT')
print(tally)
input()
",
    ]
    .concat();
    if let Some(reported) = compare(&source) {
        assert_eq!(reported["none/none/SOL_TCP/TCP_NODELAY/EBADF"], 2);
        assert_eq!(reported["none/none/SOL_SOCKET/SO_REUSEADDR/EBADF"], 2);
        assert_eq!(reported["none/none/SOL_SOCKET/SO_REUSEPORT/ENOTSOCK"], 2);
    }
}

/// A seccomp filter returns EPERM for setsockopt for any descriptor, before the kernel checks it.
/// The counter of an eventfd is at the offset of a socket's address family and protocol.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn setsockopt_refused_by_seccomp_reads_only_sockets() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = netns.script(
        r"
tcp = socket.socket()
base = listen(*FAMILIES[0])
others = [os.eventfd(4660), os.eventfd(2), os.pipe()[0], os.open('/dev/null', os.O_RDONLY), 9999]
refuse('setsockopt', errno.EPERM)
one = ctypes.c_int(1)
for number in [tcp.fileno()] + others:
    assert LIBC.setsockopt(number, 6, 1, ctypes.byref(one), 4) == -1
    assert ctypes.get_errno() == errno.EPERM
print('refused')
input()
",
        &[],
    );
    program.expect("refused");
    let metrics = daemon.scrape();
    needs_signal!(metrics, "setsockopt");
    let expected: &[(&str, u64)] = if metrics.by_function("setsockopt") {
        // The call did not come that far.
        &[]
    } else {
        &[
            ("inet/tcp/SOL_TCP/TCP_NODELAY/EPERM", 1),
            ("none/none/SOL_TCP/TCP_NODELAY/EPERM", 5),
        ]
    };
    let expected = expected
        .iter()
        .map(|&(kind, count)| (kind.to_owned(), count));
    assert_eq!(failures(&metrics, program.pid()), expected.collect());
    metrics.assert_complete();
    program.end();
}

/// From four threads at once: none is lost, and all count for one process.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn failures_of_four_threads_are_all_counted() {
    let source = [
        ATTEMPT,
        r"
def fail():
    for _ in range(250):
        try:
            base.setsockopt(6, 9999, 1)
        except OSError:
            pass
threads = [threading.Thread(target=fail) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
tally.add('inet/tcp/SOL_TCP/9999/ENOPROTOOPT', 1000)
print(tally)
input()
",
    ]
    .concat();
    compare(&source);
}

/// The 32-bit entry to the kernel, called from a 64-bit program: `int 0x80`.
pub fn the_call_by_int_0x80_is_counted(daemon: &Daemon) {
    if !cfg!(target_arch = "x86_64") {
        skip!("int 0x80 is an instruction of x86");
    }
    let netns = Netns::new();
    let mut program = netns.script(
        r"
import mmap
# push rbx; mov eax, 366 (setsockopt); mov ebx, edi; mov ecx, esi; xor esi, esi; xor edi, edi;
# int 0x80; pop rbx; ret
code = bytes.fromhex('53 b8 6e010000 89fb 89f1 31f6 31ff cd80 5b c3')
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(code)
call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)(
    ctypes.addressof(ctypes.c_char.from_buffer(page)))
sock = socket.socket()
print(call(sock.fileno(), socket.IPPROTO_TCP, 4242))
input()
",
        &[],
    );
    // Without the 32-bit entry, the program is killed.
    let answer = program.line();
    assert_eq!(answer, (-libc::EINVAL).to_string());
    let metrics = daemon.scrape();
    let failures = "socket_setsockopt_failures_total";
    let seen = metrics.of(program.pid(), failures, &[("errno", "EINVAL")]);
    let expected = if metrics.by_function("setsockopt") {
        1.0
    } else {
        println!("32-bit calls are not seen with these hooks, as `observer check` says");
        0.0
    };
    assert_eq!(seen, expected, "{}", metrics.shown());
    metrics.assert_complete();
    program.end();
}
