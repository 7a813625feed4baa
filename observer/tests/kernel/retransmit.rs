//! Retransmitted segments, on the real kernel, against `RetransSegs` of `/proc/net/snmp`.

use observer_test_support::{Daemon, Netns};

const RETRANSMITS: &str = "socket_retransmits_total";

/// SYNs without an answer.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn unanswered_syns() {
    let netns = Netns::new();
    netns.sysctl("net.ipv4.tcp_syn_retries", "2");
    let daemon = Daemon::shared();
    let before = netns.snmp();
    let mut program = netns.script(
        r"
keep, pending = [], []
for family, address in FAMILIES:
    keep.append(deaf(family, address))
    for _ in range(3):
        client = socket.socket(family)
        client.setblocking(False)
        assert client.connect_ex(keep[-1][0].getsockname()) == errno.EINPROGRESS
        pending.append(client)
wait(lambda: all(state(client) != 2 for client in pending))
print('given up')
input()
",
        &[],
    );
    program.expect("given up");
    let metrics = daemon.scrape();
    let kernel = netns.snmp()["RetransSegs"] - before["RetransSegs"];
    println!("RetransSegs {kernel}");
    assert!(kernel >= 12);
    metrics.assert_of(program.pid(), RETRANSMITS, &[], kernel as f64);
    metrics.assert_complete();
    program.end();
}

/// Data through a lossy link, both ways. The connections are made before anything is lost:
/// `RetransSegs` has SYN-ACKs too that are sent again, and `tcp_retransmit_skb` does not.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn data_lost_by_netem() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let before = netns.snmp();
    let mut program = netns.script(
        r"
pairs = [pair(family, address) for family, address in FAMILIES]
print('connected')
input()
for client, server in pairs:
    block = b'x' * 1400
    def answer():
        got = 0
        while got < 100 * len(block):
            got += len(server.recv(65536))
        server.sendall(b'y' * 50000)
    thread = threading.Thread(target=answer)
    thread.start()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(100):
        client.sendall(block)
    got = 0
    while got < 50000:
        got += len(client.recv(65536))
    thread.join()
print('sent')
input()
",
        &[],
    );
    program.expect("connected");
    let netem = [
        "qdisc", "add", "dev", "lo", "root", "netem", "loss", "10%", "limit", "10000",
    ];
    let added = netns.command("tc").args(netem).output();
    match added {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr).into_owned();
            skip!("no netem on this kernel: {reason}");
        }
        Err(error) => {
            skip!("no tc: {error}");
        }
    }
    program.go();
    program.expect("sent");
    // Unacknowledged data may still be retransmitted.
    netns.run("tc", &["qdisc", "del", "dev", "lo", "root"]);
    let pid = program.pid();
    daemon.until("the kernel's number", |metrics| {
        let kernel = netns.snmp()["RetransSegs"] - before["RetransSegs"];
        kernel > 0 && metrics.of(pid, RETRANSMITS, &[]) == kernel as f64
    });
    daemon.scrape().assert_complete();
    program.end();
}

/// Without netem: two namespaces and a neighbour entry with a wrong address for a while. Segments
/// sent meanwhile are retransmitted.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn data_to_a_wrong_link_layer_address() {
    let (near, far) = (Netns::new(), Netns::new());
    // `ip` names a namespace by a process in it.
    let mut inhabitant = far.python("print('here')\ninput()", &[]);
    inhabitant.expect("here");
    let link = "link add v0 type veth peer name v1 netns";
    let pid = inhabitant.pid().to_string();
    let link: Vec<&str> = link.split(' ').chain([pid.as_str()]).collect();
    let added = near.command("ip").args(link).output().unwrap();
    if !added.status.success() {
        let reason = String::from_utf8_lossy(&added.stderr).into_owned();
        skip!("no veth on this kernel: {reason}");
    }
    for (netns, device, v4, v6) in [
        (&near, "v0", "192.0.2.1/24", "2001:db8::1/64"),
        (&far, "v1", "192.0.2.2/24", "2001:db8::2/64"),
    ] {
        netns.run("ip", &["link", "set", device, "up"]);
        netns.run("ip", &["addr", "add", v4, "dev", device]);
        netns.run("ip", &["addr", "add", v6, "dev", device, "nodad"]);
    }
    let link = far.run("ip", &["-br", "link", "show", "dev", "v1"]);
    let right = link.split_whitespace().nth(2).expect("an address");
    let neighbour = |address: &str| {
        for far in ["192.0.2.2", "2001:db8::2"] {
            near.run(
                "ip",
                &[
                    "neigh",
                    "replace",
                    far,
                    "lladdr",
                    address,
                    "nud",
                    "permanent",
                    "dev",
                    "v0",
                ],
            );
        }
    };
    neighbour(right);

    let daemon = Daemon::shared();
    let mut server = far.script(
        r"
TARGETS = ((socket.AF_INET, '192.0.2.2'), (socket.AF_INET6, '2001:db8::2'))
listeners = [listen(family, address, port=7000) for family, address in TARGETS]
print('listening')
conns = [listener.accept()[0] for listener in listeners]
for conn in conns:
    assert conn.recv(100) == b'lost at first'
print('received')
input()
",
        &[],
    );
    server.expect("listening");
    let before = near.snmp();
    let mut client = near.script(
        r"
TARGETS = ((socket.AF_INET, '192.0.2.2'), (socket.AF_INET6, '2001:db8::2'))
conns = [connect(family, (address, 7000)) for family, address in TARGETS]
print('connected')
input()
for conn in conns:
    conn.sendall(b'lost at first')
print('sent')
input()
",
        &[],
    );
    client.expect("connected");
    let pid = client.pid();
    neighbour("02:00:00:00:00:99");
    client.go();
    client.expect("sent");
    daemon.until("retransmissions", |metrics| {
        metrics.of(pid, RETRANSMITS, &[]) >= 6.0
    });
    neighbour(right);
    server.expect("received");
    let metrics = daemon.until("the kernel's number", |metrics| {
        let kernel = near.snmp()["RetransSegs"] - before["RetransSegs"];
        metrics.of(pid, RETRANSMITS, &[]) == kernel as f64
    });
    println!("{} retransmissions", metrics.of(pid, RETRANSMITS, &[]));
    assert_eq!(metrics.of(server.pid(), RETRANSMITS, &[]), 0.0);
    metrics.assert_complete();
    client.end();
    server.end();
}
