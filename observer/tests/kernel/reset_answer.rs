//! RSTs that answer an unexpected segment, on the real kernel.

use observer_test_support::{Daemon, Metrics, Netns, kernel_at_least};

use crate::reset::{all, received, sent};

const STRAY: &str = "socket_stray_resets_total";

/// A refused connection: the RST belongs to no socket, so to no process.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn refused_connection_sends_rst_of_no_process() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let before = netns.snmp();
    let mut program = netns.script(
        r"
for family, address in FAMILIES:
    closed = closed_port(family, address)
    for _ in range(10):
        assert outcome(lambda: connect(family, closed.getsockname())) == 'ECONNREFUSED'
print('done')
input()
",
        &[],
    );
    program.expect("done");
    let pid = program.pid();
    let metrics = daemon.scrape();
    assert_eq!(netns.snmp()["OutRsts"] - before["OutRsts"], 20);
    assert_eq!(
        received(&metrics, pid, "REFUSED"),
        20.0,
        "{}",
        metrics.shown()
    );
    assert_eq!(all(&metrics, pid, "received"), 20.0);
    assert_eq!(all(&metrics, pid, "sent"), 0.0);
    let no_socket = |metrics: &Metrics| metrics.sum(STRAY, &[("reason", "NO_SOCKET")]);
    if kernel_at_least(6, 10) {
        // Others on this host may be refused at the same time.
        assert!(
            no_socket(&metrics) - no_socket(&daemon.before) >= 20.0,
            "{}",
            metrics.shown()
        );
    } else {
        left_out!("tcp_send_reset does not show RSTs without a socket before 6.10");
    }
    metrics.assert_complete();
    program.end();
}

/// The server closes, the client continues sending: the server's kernel answers with an RST.
/// Normally a timewait socket in substate FIN_WAIT2 does; with `tcp_fin_timeout` above 60 seconds
/// it is the orphaned socket itself, which goes through `tcp_reset` as if the peer had sent one.
fn data_after_close(fin_timeout: &str) {
    let netns = Netns::new();
    netns.sysctl("net.ipv4.tcp_fin_timeout", fin_timeout);
    let daemon = Daemon::shared();
    let before = netns.snmp();
    let mut server = netns.script(
        r"
listeners = [listen(family, address) for family, address in FAMILIES]
print(*[listener.getsockname()[1] for listener in listeners])
for listener in listeners:
    for _ in range(10):
        listener.accept()[0].close()
print('done')
input()
",
        &[],
    );
    let ports = server.line();
    let mut client = netns.script(
        r"
for (family, address), port in zip(FAMILIES, sys.argv[1].split()):
    for _ in range(10):
        client = connect(family, (address, int(port)))
        assert client.recv(1) == b''
        # The ACK of the server's FIN has come: a timewait socket has that state here too.
        wait(lambda: 5 in states_of(int(port)))
        client.sendall(b'more')
        wait(lambda: state(client) == 7)
        client.close()
print('done')
input()
",
        &[&ports],
    );
    server.expect("done");
    client.expect("done");
    crate::wait_until_resets_are_certain();
    let metrics = daemon.scrape();
    let (server_pid, client_pid) = (server.pid(), client.pid());
    // On a slow machine, the client sends its data once more before the RST comes, and gets
    // another, from the listener when the socket is gone by then.
    let resets = (netns.snmp()["OutRsts"] - before["OutRsts"]) as f64;
    assert!(resets >= 20.0, "{resets}");
    assert_eq!(
        received(&metrics, client_pid, "IN_CLOSE_WAIT"),
        20.0,
        "{}",
        metrics.shown()
    );
    assert_eq!(all(&metrics, client_pid, "sent"), 0.0);
    assert_eq!(
        all(&metrics, server_pid, "received"),
        0.0,
        "{}",
        metrics.shown()
    );
    let full = fin_timeout == "120";
    if full || kernel_at_least(6, 10) {
        let total = |reasons: &[&str]| -> f64 {
            let of_reason = |reason: &&str| sent(&metrics, server_pid, reason);
            reasons.iter().map(of_reason).sum()
        };
        let answers = total(&["TCP_ABORT_ON_DATA", "TCP_TIMEWAIT_SOCKET"]);
        let again = total(&["TCP_FLAGS", "REFUSED_BY_LISTENER"]);
        let sent = all(&metrics, server_pid, "sent");
        assert!(answers >= 20.0, "{}", metrics.shown());
        assert!((20.0..=resets).contains(&sent), "{}", metrics.shown());
        assert_eq!(answers + again, sent, "{}", metrics.shown());
    } else {
        left_out!("tcp_send_reset does not show RSTs of timewait sockets before 6.10");
    }
    metrics.assert_complete();
    server.end();
    client.end();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn data_after_close_answered_by_a_timewait_socket() {
    data_after_close("60");
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn data_after_close_answered_by_an_orphan() {
    data_after_close("120");
}
