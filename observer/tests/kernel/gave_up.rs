//! Attempts that the program ends itself, on the real kernel: those with a retransmitted SYN, separate from those without.

use std::collections::BTreeMap;

use observer_test_support::{Daemon, Netns};

const CONNECTS: &str = "socket_connects_total";

fn named<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.map(|(name, n)| (name.to_owned(), n)).into()
}

/// The first SYN is sent again after a second.
const GIVEN_UP: &str = r"
unspec = struct.pack('H14x', socket.AF_UNSPEC)
def start(family, target):
    client = socket.socket(family)
    client.setblocking(False)
    assert client.connect_ex(target) == errno.EINPROGRESS
    return client
def retransmits(sock):
    return tcp_info(sock)[2]
kept, patient, hasty, threads = [], [], 0, []
for family, address in FAMILIES:
    listener, fillers = deaf(family, address)
    target = listener.getsockname()
    kept += [listener, *fillers]
    # Closed at once.
    for _ in range(10):
        client = start(family, target)
        again = retransmits(client)
        client.close()
        assert not again
        hasty += 1
    patient += [start(family, target) for _ in range(5)]
    # A blocking connect() with a send timeout, which is a second and a half here.
    def timed(family=family, target=target):
        client = socket.socket(family)
        timeout = struct.pack('ll', 1, 500_000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        assert client.connect_ex(target) in (errno.EINPROGRESS, errno.EAGAIN)
        assert retransmits(client)
        client.close()
    threads.append(threading.Thread(target=timed))
    threads[-1].start()
    # Given up by connect(AF_UNSPEC), and then of use.
    patient.append(start(family, target))
for client in patient:
    wait(lambda: retransmits(client))
for client in (patient.pop(5), patient.pop()):
    assert LIBC.connect(client.fileno(), unspec, len(unspec)) == 0
    listener = listen(client.family, FAMILIES[client.family != socket.AF_INET][1])
    client.setblocking(True)
    client.connect(listener.getsockname())
    kept += [client, listener]
for client in patient:
    client.close()
for thread in threads:
    thread.join()
print(hasty)
input()
";

pub fn closed_after_a_retransmitted_syn_counts_as_gave_up(daemon: &Daemon) {
    let netns = Netns::new();
    let mut program = netns.script(GIVEN_UP, &[]);
    program.expect("20");
    let expected = named([("ok", 6), ("ECANCELED", 20), ("gave_up", 14)]);
    let metrics = daemon.scrape();
    let found = metrics.counted(program.pid(), CONNECTS, |labels| labels["result"].clone());
    assert_eq!(found, expected, "{}", metrics.shown());
    metrics.assert_complete();
    program.end();
}

/// The whole program is ended while connect() waits.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn connects_of_a_killed_program_count_as_gave_up() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut server = netns.script("deaf_servers()", &[]);
    let ports = server.line();
    let mut client = netns.script(
        r"
clients = []
for (family, address), port in zip(FAMILIES, sys.argv[1].split()):
    for _ in range(3):
        client = socket.socket(family)
        clients.append(client)
        threading.Thread(target=client.connect, args=((address, int(port)),)).start()
for client in clients:
    wait(lambda: tcp_info(client)[2])
print('waiting')
",
        &[&ports],
    );
    let comm = client.comm();
    client.expect("waiting");
    client.kill();
    let metrics = daemon.until("outcomes", |metrics| {
        metrics.by(&comm, CONNECTS, &[]) >= 6.0
    });
    let gave_up = metrics.by(&comm, CONNECTS, &[("result", "gave_up")]);
    let all = metrics.by(&comm, CONNECTS, &[]);
    assert_eq!((all, gave_up), (6.0, 6.0), "{}", metrics.shown());
    metrics.assert_complete();
    server.end();
}
