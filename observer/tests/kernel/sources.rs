//! Sources of segments for closed ports, on the real kernel.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use observer::kernel::{Attached, Kernel, LoadOptions, Stream};
use observer_common::SLOT_NO_SOCKET;
use observer_core::{
    btf::VMLINUX,
    contract::{Hooks, KernelSource as _, ObserveTls, Status, SyscallTracepoints},
    detect::Source,
};
use observer_test_support::{Netns, kernel_at_least, scaled};

/// Small maps, and hooks of these types.
fn attach(hooks: Hooks) -> (Attached, Stream) {
    let options = LoadOptions {
        ring_bytes: 1 << 16,
        max_connections: 1024,
        slots: 64,
        max_sockopt_failures: 64,
        hooks,
        syscall_tracepoints: SyscallTracepoints::Auto,
        tls: ObserveTls::Never,
        self_test: false,
        record_mask: 0,
        btf: VMLINUX.into(),
        log: false,
    };
    let kernel = Kernel::examine(&options.btf).unwrap();
    Attached::new(kernel.load(&options).unwrap(), &options).unwrap()
}

/// Whether a program sees RSTs without a socket, by the verdicts.
fn sees_stray_resets(attached: &Attached) -> bool {
    let mut verdicts = attached.verdicts().iter();
    verdicts.any(|it| it.signal == "reset_sent_no_socket" && it.status == Status::Attached)
}

/// The sources in a namespace.
fn sources(attached: &Attached, netns: &Netns) -> Vec<Source> {
    let netns: u32 = netns.inode().parse().unwrap();
    let mut sources = attached.scan_sources().unwrap();
    sources.retain(|source| source.netns == netns);
    sources
}

fn of<'a>(sources: &'a [Source], address: &str) -> Option<&'a Source> {
    let address: IpAddr = address.parse().unwrap();
    sources.iter().find(|source| source.address == address)
}

fn ports(source: &Source) -> Vec<u8> {
    let bit = |port: &u8| source.ports[usize::from(*port) / 64] & 1 << (port % 64) != 0;
    (0..=u8::MAX).filter(bit).collect()
}

/// Sends segments by raw sockets, without waiting for answers.
const RAW: &str = r"
V4 = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
V6 = {}

def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff

def tcp(port, flags, sum=0):
    return struct.pack('!HHIIBBHHH', 50000, port, 7, 9, 5 << 4, flags, 1024, sum, 0)

def send(source, port, flags=2):
    if ':' in source:
        if source not in V6:
            V6[source] = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_TCP)
            V6[source].setsockopt(socket.IPPROTO_IPV6, 7, 16)  # IPV6_CHECKSUM
            V6[source].bind((source, 0))
        V6[source].sendto(tcp(port, flags), ('::1', 0))
        return
    ends = socket.inet_aton(source) + socket.inet_aton('127.0.0.1')
    sum = checksum(ends + struct.pack('!HH', 6, 20) + tcp(port, flags))
    header = struct.pack('!BBHHHBBH', 0x45, 0, 40, 0, 0, 64, 6, 0) + ends
    V4.sendto(header + tcp(port, flags, sum), ('127.0.0.1', 0))
";

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn scans_are_told_from_stray_clients() {
    let netns = Netns::new();
    let (attached, _stream) = attach(Hooks::Any);
    let started = monotonic();
    // A slow scan of 20 ports, fast ones of 256 by SYN and of 20 by FIN, a client that tries three
    // ports repeatedly, segments that a connection might have sent, and connects. The segments of a
    // source count for a minute, so they are read after each.
    let mut program = netns.script(
        &[
            RAW,
            r"
def done():
    print('done')
    input()
for port in range(20):
    send('127.0.0.2', 1000 + port)
    time.sleep(0.2)
done()
count = int(sys.argv[1])
for source in ('127.0.0.3', '::1'):
    for n in range(count):
        send(source, 256 + n % 256)
    done()
for port in range(512, 532):
    send('127.0.0.4', port, 1)
done()
for n in range(count):
    send('127.0.0.5', 768 + n % 3)
done()
for _ in range(10):
    assert outcome(lambda: connect(socket.AF_INET, ('127.0.0.1', 99))) == 'ECONNREFUSED'
done()
for n in range(count):
    send('127.0.0.6', 256 + n % 256, 0x10)
    send('127.0.0.7', 256 + n % 256, 0x12)
print('done')
input()
",
        ]
        .concat(),
        &[&scaled(10_000, 512).to_string()],
    );
    let count = scaled(10_000, 512);
    let all: Vec<u8> = (0..=u8::MAX).collect();
    let expected: [(&str, Vec<u8>, u64); 6] = [
        ("127.0.0.2", (232..252).collect(), 20),
        ("127.0.0.3", all.clone(), count),
        ("::1", all, count),
        ("127.0.0.4", (0..20).collect(), 20),
        ("127.0.0.5", vec![0, 1, 2], count),
        ("127.0.0.1", vec![99], 10),
    ];
    for (address, expected, segments) in &expected {
        program.expect("done");
        let found = sources(&attached, &netns);
        let source = of(&found, address).unwrap_or_else(|| panic!("{address}: {found:?}"));
        assert_eq!(&ports(source), expected, "{address}");
        assert_eq!(source.segments, *segments, "{address}");
        assert!((started..monotonic()).contains(&source.last_at));
        program.go();
    }
    program.expect("done");
    assert!(sees_stray_resets(&attached));
    let known = |it: &Source| {
        expected
            .iter()
            .any(|(address, ..)| it.address.to_string() == *address)
    };
    let found = sources(&attached, &netns);
    assert!(found.iter().all(known), "{found:?}");
    // The segments of no source were answered, too.
    let sent = netns.snmp()["OutRsts"] as u64;
    assert_eq!(sent, 5 * count + 50);
    program.end();
}

/// A client forgets its connections, as one that was restarted, and their server sends: it is answered
/// with RSTs from as many ports, and is no scan.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn late_segments_of_closed_connections_are_no_scan() {
    let netns = Netns::new();
    let (attached, _stream) = attach(Hooks::Any);
    let before = stray(&attached);
    let mut program = netns.script(
        r"
listener = listen(socket.AF_INET, '127.0.0.1')
pairs = []
for _ in range(40):
    client = connect(socket.AF_INET, listener.getsockname())
    pairs.append((client, listener.accept()[0]))
for client, server in pairs:
    client.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR: close() sends nothing
    client.close()
    server.sendall(b'more')
    wait(lambda: state(server) == 7)
print('done')
input()
",
        &[],
    );
    assert_eq!(program.line_within(Duration::from_secs(120)), "done");
    let answered = stray(&attached) - before;
    assert!(answered >= 40, "{answered}");
    assert!(sources(&attached, &netns).is_empty());
    program.end();
}

/// RSTs without a socket that were counted.
fn stray(attached: &Attached) -> u64 {
    let mut slot = observer_common::Slot::zeroed();
    attached.read_slot(SLOT_NO_SOCKET, &mut slot);
    slot.reset.sent.iter().sum()
}

/// Forged sources evict silent ones, but not one that continues.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn forged_sources_only_evict() {
    const MOST: usize = 4096;
    let netns = Netns::new();
    let (attached, _stream) = attach(Hooks::Any);
    let mut program = netns.script(
        &[
            RAW,
            r"
for n in range(20000):
    if n % 100 == 0:
        send('127.0.0.2', 256 + n // 100)
    send('127.1.%d.%d' % (n >> 8, n & 255), 80)
print('done')
input()
",
        ]
        .concat(),
        &[],
    );
    let sent = Instant::now();
    assert_eq!(program.line_within(Duration::from_secs(300)), "done");
    let sent = sent.elapsed();
    let read = Instant::now();
    let found = sources(&attached, &netns);
    println!("{} sources in {:?}", found.len(), read.elapsed());
    assert!((MOST / 4..=MOST).contains(&found.len()), "{}", found.len());
    let scan = of(&found, "127.0.0.2").expect("the scan");
    // Ports are those of a minute.
    if sent < Duration::from_secs(50) {
        assert_eq!(ports(scan).len(), 200);
    }
    program.end();
}

/// Without hooks on functions, RSTs without a socket are not seen before 6.10, and the verdict says so.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn tracepoints_show_sources_since_6_10() {
    let netns = Netns::new();
    let (attached, _stream) = attach(Hooks::Tracepoint);
    let source = "for _ in range(5):\n    outcome(lambda: connect(socket.AF_INET, ('127.0.0.1', 9)))\n\
                  print('done')\ninput()";
    let mut program = netns.script(source, &[]);
    program.expect("done");
    let shows = kernel_at_least(6, 10);
    assert_eq!(sees_stray_resets(&attached), shows);
    let found = sources(&attached, &netns);
    assert_eq!(found.len(), usize::from(shows), "{found:?}");
    program.end();
}

fn monotonic() -> Duration {
    Duration::from_nanos(observer::kernel::monotonic_ns())
}
