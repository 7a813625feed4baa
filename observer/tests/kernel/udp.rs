//! Datagrams that UDP sockets dropped, on the real kernel, against `UdpRcvbufErrors` of
//! `/proc/net/snmp` and the sockets' own counts.

use observer_test_support::{Daemon, Metrics, Netns, Program};

const DROPS: &str = "socket_udp_receive_drops_total";

/// Sockets that are not read, and a flood for each.
const FLOOD: &str = r"
def deaf(family, address):
    receiver = socket.socket(family, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    receiver.bind((address, 0))
    return receiver

def flood(receiver, count):
    with socket.socket(receiver.family, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(b'x' * 1000, receiver.getsockname())
";

fn script(netns: &Netns, source: &str) -> Program {
    netns.script(&[FLOOD, source].concat(), &[])
}

/// Datagrams over both families that found a full buffer.
fn overflows(netns: &Netns) -> i64 {
    let v4 = netns.udp()["RcvbufErrors"];
    let v6 = netns.run("cat", &["/proc/net/snmp6"]);
    let v6 = v6
        .lines()
        .find_map(|line| line.strip_prefix("Udp6RcvbufErrors"));
    v4 + v6.map_or(0, |number| number.trim().parse::<i64>().unwrap())
}

/// The sum of the sockets' own counts, the last column of `/proc/net/udp`. `ss -uam` shows the same, but
/// takes the module udp_diag, which guests do not have.
fn dropped(netns: &Netns) -> u64 {
    drops(netns, &["/proc/net/udp", "/proc/net/udp6"])
}

fn drops(netns: &Netns, tables: &[&str]) -> u64 {
    let tables = netns.run("cat", tables);
    let last = tables.lines().filter(|line| !line.contains("drops"));
    last.map(|line| {
        let drops = line.split_whitespace().next_back().expect("columns");
        drops.parse::<u64>().unwrap()
    })
    .sum()
}

/// Waits for this number of complete walks.
fn walks(daemon: &Daemon, count: u32) -> Metrics {
    let finished = |it: &Metrics| it.sum("observer_job_runs_total", &[("task", "resync")]);
    // One may be under way.
    let enough = finished(&daemon.scrape()) + f64::from(count + 1);
    daemon.until("walks", |it| finished(it) >= enough)
}

/// IPv4 and IPv6, after one walk and after more, and after the sockets are closed.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn counts_what_the_kernel_counts_and_keeps_it() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    assert!(daemon.scrape().has_signal("udp_receive_drops"));
    let mut program = script(
        &netns,
        r"
receivers = [deaf(family, address) for family, address in FAMILIES]
for count in (300, 200):
    for receiver in receivers:
        flood(receiver, count)
    print('flooded')
    input()
for receiver in receivers:
    receiver.close()
print('closed')
input()
# The new sockets may get the addresses of the old ones.
receivers = [deaf(family, address) for family, address in FAMILIES]
for receiver in receivers:
    flood(receiver, 50)
print('again')
input()
",
    );
    let pid = program.pid();
    let mut all = 0.0;
    for _ in 0..2 {
        program.expect("flooded");
        all = overflows(&netns) as f64;
        println!("RcvbufErrors {all}");
        assert_eq!(dropped(&netns) as f64, all);
        let metrics = daemon.until("the kernel's number", |it| it.of(pid, DROPS, &[]) >= all);
        metrics.assert_of(pid, DROPS, &[], all);
        metrics.assert_complete();
        program.go();
    }
    assert!(all >= 900.0, "{all}");
    program.expect("closed");
    // After four walks without them, they are removed.
    let metrics = walks(&daemon, 4);
    metrics.assert_of(pid, DROPS, &[], all);
    program.go();
    program.expect("again");
    let all = overflows(&netns) as f64;
    let metrics = daemon.until("the kernel's number", |it| it.of(pid, DROPS, &[]) >= all);
    metrics.assert_of(pid, DROPS, &[], all);
    metrics.assert_complete();
    program.end();
}

/// Drops before the start of the daemon are old, for any socket.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn earlier_drops_are_not_counted() {
    let netns = Netns::new();
    let mut program = script(
        &netns,
        r"
receiver = deaf(*FAMILIES[0])
flood(receiver, 300)
print('before')
input()
flood(receiver, 100)
print('after')
input()
",
    );
    program.expect("before");
    let before = overflows(&netns);
    let daemon = Daemon::shared_anew(&[]);
    let pid = program.pid();
    assert_eq!(daemon.scrape().of(pid, DROPS, &[]), 0.0);
    program.go();
    program.expect("after");
    let new = (overflows(&netns) - before) as f64;
    assert_eq!(new, 100.0);
    let metrics = daemon.until("the new ones", |it| it.of(pid, DROPS, &[]) >= new);
    metrics.assert_of(pid, DROPS, &[], new);
    program.end();
}

/// A socket of a parent and its child counts once, for the parent, and for the child when only that has
/// it. A descriptor more makes no difference.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_shared_socket_counts_once() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = script(
        &netns,
        r"
receiver = deaf(*FAMILIES[0])
again = receiver.dup()
child = os.fork()
if child == 0:
    name(COMM + 'c')
    while True:
        time.sleep(1)
print(child)
flood(receiver, 200)
print('shared')
input()
address = receiver.getsockname()
receiver.close()
again.close()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    for _ in range(100):
        sender.sendto(b'x' * 1000, address)
print('inherited')
input()
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
",
    );
    let parent = program.pid();
    let child: u32 = program.line().parse().unwrap();
    program.expect("shared");
    let first = overflows(&netns) as f64;
    // Pids that wrapped around between the two would turn it round.
    let (owner, other) = (parent.min(child), parent.max(child));
    let metrics = daemon.until("the shared socket", |it| it.of(owner, DROPS, &[]) >= first);
    metrics.assert_of(owner, DROPS, &[], first);
    assert_eq!(metrics.of(other, DROPS, &[]), 0.0);
    program.go();
    program.expect("inherited");
    let second = overflows(&netns) as f64 - first;
    assert_eq!(second, 100.0);
    let expected = second + if owner == child { first } else { 0.0 };
    let metrics = daemon.until("the child's socket", |it| {
        it.of(child, DROPS, &[]) >= expected
    });
    metrics.assert_of(child, DROPS, &[], expected);
    assert_eq!(metrics.of(parent, DROPS, &[]), first + second - expected);
    metrics.assert_complete();
    program.end();
}

/// The raw socket drops its copy of each datagram, too.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_raw_socket_does_not_count() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = script(
        &netns,
        r"
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
receiver = deaf(*FAMILIES[0])
flood(receiver, 200)
print('flooded')
input()
",
    );
    program.expect("flooded");
    let udp = overflows(&netns) as f64;
    assert!(drops(&netns, &["/proc/net/raw"]) > 0);
    let pid = program.pid();
    let metrics = daemon.until("the UDP socket", |it| it.of(pid, DROPS, &[]) >= udp);
    metrics.assert_of(pid, DROPS, &[], udp);
    program.end();
}

/// Sockets that did not fit into the map: their earlier drops do not count once they do.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn drops_of_refused_sockets_are_not_counted_later() {
    let netns = Netns::new();
    // As many UDP sockets as connections.
    let daemon = Daemon::start(&["--max-connections", "16"]);
    let mut program = script(
        &netns,
        r"
receivers = [deaf(*FAMILIES[0]) for _ in range(20)]
for receiver in receivers:
    flood(receiver, 50)
print('flooded')
input()
for receiver in receivers[:16]:
    receiver.close()
print('closed')
input()
for receiver in receivers[16:]:
    flood(receiver, 30)
print('again')
input()
",
    );
    program.expect("flooded");
    let first = overflows(&netns) as f64;
    let pid = program.pid();
    let metrics = walks(&daemon, 1);
    let full = [("map", "udp_sockets")];
    assert!(metrics.sum("observer_map_full_total", &full) >= 4.0);
    let counted = metrics.of(pid, DROPS, &[]);
    assert!(0.0 < counted && counted < first, "{counted} of {first}");
    program.go();
    program.expect("closed");
    // One walk that removes these, and one in which the others fit.
    let metrics = walks(&daemon, 2);
    metrics.assert_of(pid, DROPS, &[], counted);
    program.go();
    program.expect("again");
    let new = overflows(&netns) as f64 - first;
    assert_eq!(new, 120.0);
    let metrics = daemon.until("the new ones", |it| it.of(pid, DROPS, &[]) >= counted + new);
    metrics.assert_of(pid, DROPS, &[], counted + new);
    program.end();
}
